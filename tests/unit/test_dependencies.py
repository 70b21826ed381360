"""What a chart depends on is put into its charts folder, so that Helm renders it as after 'helm dependency update'."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pygit2
import pytest

from hub.external import dependencies, helm_repo
from hub.model import HelmSource, OciSource
from hub.render import build
from proto.errors import InvalidInput
from proto.ids import Oid
from tests import charts
from tests.site import Site

HELM = "https://charts.example.org"


@pytest.fixture
def repo(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "git"), bare=True)


def chart(*entries: str, name: str = "web", version: str = "1.0.0", api: str = "v2") -> str:
    listed = "dependencies:\n" + "".join(f"- {{{entry}}}\n" for entry in entries) if entries else ""
    return f"apiVersion: {api}\nname: {name}\nversion: {version}\n{listed}"


def found(repo: pygit2.Repository, files: Mapping[str, str], *, path: str = "") -> tuple[dependencies.Chart, ...]:
    return dependencies.dependencies(repo, charts.store(repo, files), path=path, at="bundles/web")


REDIS = f"name: redis, version: ^17.0, repository: {HELM}/"


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        pytest.param(REDIS, HelmSource(repository=HELM, chart="redis", version="^17.0"), id="a Helm repository"),
        pytest.param(
            "name: redis, version: 17.0.0, repository: 'oci://Registry.example.org/team/charts'",
            OciSource(url="oci://registry.example.org/team/charts/redis", tag="17.0.0"),
            id="a registry",
        ),
        pytest.param(
            f"name: redis, version: 1.10, repository: {HELM}",
            HelmSource(repository=HELM, chart="redis", version="1.1"),
            id="a version that YAML takes for a number, as Helm does",
        ),
    ],
)
def test_what_is_not_in_the_charts_folder_is_to_be_fetched(
    repo: pygit2.Repository, entry: str, source: dependencies.Chart
) -> None:
    assert found(repo, {"Chart.yaml": chart(entry)}) == (source,)
    assert found(repo, {"deploy/web/Chart.yaml": chart(entry)}, path="./deploy/web/") == (source,)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"Chart.yaml": chart()}, id="none are named"),
        pytest.param({"app.yaml": "a: 1"}, id="no chart"),
        pytest.param(
            {"Chart.yaml": chart(REDIS), "charts/cache/Chart.yaml": chart(name="redis")}, id="a folder has it"
        ),
        pytest.param({"Chart.yaml": chart(REDIS), "charts/redis-17.1.0.tgz": "x"}, id="it is packed there"),
        pytest.param({"Chart.yaml": chart(REDIS), "charts/redis-17.1.0-rc.1+b.tgz": "x"}, id="a packed pre-release"),
        pytest.param({"Chart.yaml": chart("name: redis, version: 1")}, id="without a repository"),
        pytest.param({"Chart.yaml": "dependencies: null"}, id="null"),
    ],
)
def test_what_is_there_is_used_as_it_is(repo: pygit2.Repository, files: Mapping[str, str]) -> None:
    tree = charts.store(repo, files)
    assert dependencies.dependencies(repo, tree) == ()
    assert dependencies.complete(repo, tree, {}) == tree


def test_another_chart_with_the_same_beginning_is_not_it(repo: pygit2.Repository) -> None:
    files = {
        "Chart.yaml": chart(REDIS),
        "charts/redis-cluster-1.0.0.tgz": "x",
        "charts/x/Chart.yaml": chart(name="red"),
    }
    assert len(found(repo, files)) == 1


def test_old_charts_name_them_in_a_file_of_its_own(repo: pygit2.Repository) -> None:
    files = {
        "Chart.yaml": chart(api="v1"),
        "requirements.yaml": f"dependencies:\n- {{{REDIS}}}\n",
        "requirements.lock": lock(redis="17.3.1"),
    }
    assert found(repo, files) == (HelmSource(repository=HELM, chart="redis", version="17.3.1"),)


def lock(**exact: str) -> str:
    return json.dumps(
        {
            "dependencies": [{"name": n, "version": v, "repository": HELM} for n, v in exact.items()],
            "digest": "sha256:x",
        }
    )


def test_the_lock_names_the_version(repo: pygit2.Repository) -> None:
    files = {"Chart.yaml": chart(REDIS), "Chart.lock": lock(other="1.0.0", redis="17.3.1")}
    assert found(repo, files) == (HelmSource(repository=HELM, chart="redis", version="17.3.1"),)


@pytest.mark.parametrize("text", [lock(redis="16.0.0"), lock(other="17.0.0"), "{}", ""])
def test_a_lock_that_does_not_fit_is_refused(repo: pygit2.Repository, text: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"Chart.yaml: dependency redis: \^17.0 of .* is not what .*lock has .*update"
    ):
        found(repo, {"Chart.yaml": chart(REDIS), "Chart.lock": text})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("name: redis, version: ^1, repository: '@stable'", "which only your own Helm knows"),
        ("name: redis, version: ^1, repository: 'alias:stable'", "which only your own Helm knows"),
        ("name: redis, version: ^1, repository: 'ftp://example.org'", "is not an address that can be fetched from"),
        ("name: redis, version: ^1, repository: 'https://me:secret@x.org'", "has a user or password"),
        (f"name: redis, repository: '{HELM}'", "is not a version or a range"),
        (f"name: redis, version: newest, repository: '{HELM}'", "is not a version or a range"),
        (f"name: ../../x, version: ^1, repository: '{HELM}'", "is no name of a chart"),
        (f"version: ^1, repository: '{HELM}'", "is no name of a chart"),
        ("name: redis, version: ^1, repository: 'file://../redis'", "is not a chart of the bundle's files"),
        ("name: redis, version: ^1, repository: 'file:///etc'", "is not a chart of the bundle's files"),
        ("name: redis, version: ^1, repository: 'file://templates'", "is not a chart of the bundle's files"),
    ],
)
def test_what_cannot_be_fetched_is_refused_by_name(repo: pygit2.Repository, entry: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        found(repo, {"Chart.yaml": chart(entry), "templates/a.yaml": "a: 1"})
    assert refused.value.thing.startswith("bundles/web/Chart.yaml")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["dependencies: 1", "dependencies: [1]", "dependencies: {a: b}"])
def test_a_list_that_is_none_is_refused(repo: pygit2.Repository, text: str) -> None:
    with pytest.raises(InvalidInput, match="are not a list"):
        found(repo, {"Chart.yaml": text})


def test_more_than_a_chart_may_have_are_refused(repo: pygit2.Repository) -> None:
    with pytest.raises(InvalidInput, match="more than 100 dependencies"):
        found(repo, {"Chart.yaml": chart(*(f"name: c{n}, version: 1.0.0, repository: '{HELM}'" for n in range(101)))})


@pytest.mark.parametrize("repository", ["file://.", "file://../b"])
def test_charts_that_depend_on_each_other_in_a_circle_are_refused(repo: pygit2.Repository, repository: str) -> None:
    files = {
        "a/Chart.yaml": chart(f"name: b, version: 1.0.0, repository: '{repository}'", name="a"),
        "b/Chart.yaml": chart("name: a, version: 1.0.0, repository: 'file://../a'", name="b"),
    }
    with pytest.raises(InvalidInput, match="depend on each other in a circle"):
        found(repo, files, path="a")
    with pytest.raises(InvalidInput, match="depend on each other in a circle"):
        dependencies.complete(repo, charts.store(repo, files), {}, path="a")


def test_charts_from_outside_that_depend_on_each_other_in_a_circle_are_refused(repo: pygit2.Repository) -> None:
    tree = charts.store(repo, {"Chart.yaml": chart(REDIS)})
    with pytest.raises(InvalidInput, match="depend on each other in a circle"):
        dependencies.completed(repo, tree, lambda source: tree, at="bundles/web")


def rendered(repo: pygit2.Repository, tree: Oid, folder: Path, values: Any = None, *, path: str = "") -> dict[str, Any]:
    """Name to data of the ConfigMaps that Helm makes of it."""
    for name, data in charts.listed(repo, tree).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    inputs = {"path": path, "namespace": "shop", "variables": {}, "kubernetes": "", "policy": {"name": "shop"}}
    done = build.render(folder, {**inputs, "helm": {"values": values or {}}}, bundle="shop", at="bundles/shop")
    objects = [json.loads(data) for name, data in done.files.items() if name != "bundle.json"]
    return {obj["metadata"]["name"].removeprefix("shop-"): obj["data"] for obj in objects}


def test_helm_works_with_what_was_put_there(repo: pygit2.Repository, tmp_path: Path) -> None:
    """Conditions, tags, aliases and imported values, of a chart from outside and of one beside."""
    entries = (
        f"name: redis, version: ^17.0, repository: {HELM}, condition: redis.enabled",
        f"name: redis, version: ^17.0, repository: {HELM}, alias: cache, tags: [fast]",
        f"name: redis, version: ^16.0, repository: {HELM}, alias: old",
        f"name: common, version: '*', repository: 'file://../common', import-values: [{IMPORT}]",
    )
    charts.write(tmp_path / "in", "web", files={"Chart.yaml": chart(*entries), "templates/config.yaml": IMPORTED})
    charts.write(tmp_path / "in", "common", files={"values.yaml": "value: shared\nexported: {word: hello}\n"})
    tree = charts.store_folder(repo, tmp_path / "in")
    new, old = (
        charts.store_folder(repo, charts.write(tmp_path / version, "redis", version=version))
        for version in ("17.2.0", "16.9.9")
    )
    wanted = dependencies.dependencies(repo, tree, path="web")
    assert [str(getattr(one, "version", "")) for one in wanted] == ["^17.0", "^16.0"]
    made = dependencies.complete(repo, tree, dict(zip(wanted, (new, old), strict=True)), path="web")
    assert {name for name in charts.listed(repo, made) if name.endswith("Chart.yaml")} == {
        "web/Chart.yaml",
        "common/Chart.yaml",
        "web/charts/common/Chart.yaml",
        "web/charts/redis/Chart.yaml",
        "web/charts/redis-2/Chart.yaml",
    }
    default = rendered(repo, made, tmp_path / "out", path="web")
    assert default == {
        "web": {"word": "hello"},
        "common": {"value": "shared", "version": "1.0.0"},
        "redis": {"value": "redis as it is", "version": "17.2.0"},
        "cache": {"value": "redis as it is", "version": "17.2.0"},
        "old": {"value": "redis as it is", "version": "16.9.9"},
    }
    values = {"redis": {"enabled": False}, "tags": {"fast": False}, "old": {"value": "mine"}}
    chosen = rendered(repo, made, tmp_path / "again", values, path="web")
    assert set(chosen) == {"web", "common", "old"}
    assert chosen["old"] == {"value": "mine", "version": "16.9.9"}


IMPORT = "{child: exported, parent: imported}"
IMPORTED = """
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-{{ .Chart.Name }}"}
data: {word: "{{ .Values.imported.word }}"}
"""


def test_dependencies_of_dependencies_are_brought_too(repo: pygit2.Repository, tmp_path: Path) -> None:
    inner = charts.store_folder(repo, charts.write(tmp_path, "inner"))
    needs = f"dependencies: [{{name: inner, version: ^1, repository: '{HELM}'}}]\n"
    middle = charts.store_folder(repo, charts.write(tmp_path, "middle", more=needs))
    outer = charts.store_folder(repo, charts.write(tmp_path, "outer", more=needs.replace("inner", "middle")))
    trees = {"inner": inner, "middle": middle}
    asked: list[str] = []

    def bring(source: dependencies.Chart) -> Oid:
        assert isinstance(source, HelmSource)
        asked.append(source.chart)
        return trees[source.chart]

    made = dependencies.completed(repo, outer, bring, at="bundles/outer")
    assert asked == ["middle", "inner"]
    assert set(rendered(repo, made, tmp_path / "out")) == {"outer", "middle", "inner"}


def test_it_is_what_helm_itself_makes_of_the_chart(repo: pygit2.Repository, tmp_path: Path) -> None:
    """`helm dependency update` of the same chart, from the same repository, renders the same objects; and its lock is
    one that we take."""
    from helm_python import registry

    with Site() as site:
        for version in ("1.0.0", "1.4.0", "2.0.0"):
            charts.pack(tmp_path / "sources", "redis", version=version, into=tmp_path / "packed")
        charts.index(tmp_path / "packed")
        site.routes.update({f"/{file.name}": file.read_bytes() for file in (tmp_path / "packed").iterdir()})
        needs = f"dependencies: [{{name: redis, version: '>=1.0 <2', repository: '{site.url}', alias: cache}}]\n"
        folder = charts.write(tmp_path / "theirs", "web", more=needs)
        ours = charts.store_folder(repo, folder)
        registry.dependency_update(folder)
        locked = charts.store(
            repo, {name: (folder / name).read_text() for name in ("Chart.yaml", "Chart.lock", "templates/config.yaml")}
        )
        (source,) = dependencies.dependencies(repo, ours)
        assert source == HelmSource(repository=site.url, chart="redis", version=">=1.0 <2")
        assert dependencies.dependencies(repo, locked) == (
            HelmSource(repository=site.url, chart="redis", version="1.4.0"),
        )
        made = dependencies.completed(repo, ours, lambda one: fetched(one, repo))
        shown = rendered(repo, made, tmp_path / "out")
        assert shown["cache"]["version"] == "1.4.0"
        inputs = {"path": "", "namespace": "shop", "variables": {}, "kubernetes": "", "policy": {"name": "shop"}}
        done = build.render(folder, {**inputs, "helm": None}, bundle="shop", at="bundles/shop")
        assert {json.loads(data)["metadata"]["name"] for name, data in done.files.items() if name != "bundle.json"} == {
            f"shop-{name}" for name in shown
        }


def fetched(source: dependencies.Chart, repo: pygit2.Repository) -> Oid:
    assert isinstance(source, HelmSource)
    return helm_repo.fetch(source, repo).tree
