"""Sources from outside of the fleet repo, as a hub pins them and renders from them: with real Git repositories."""

import itertools
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import orjson
import pygit2
import pytest

from hub import pins as module
from hub import worker
from hub.desired import Desired, desired
from hub.journal import Journal
from hub.pins import ALL, Pins
from hub.render import build
from hub.repo import sync
from hub.slices.gitstore import GitStore
from proto.ids import BundleName, ClusterName, Oid
from tests import charts
from tests.served import WHO, Repo, Served, basic
from tests.site import Says, Site
from tests.unit.test_oci import FLUX, Registry, tar

SHOP, CART, OWN = BundleName("shop"), BundleName("cart"), BundleName("own")
EU = ClusterName("eu-1")
CLUSTER = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: eu-1, labels: {region: eu}}\nspec: {}\n"


def config(name: str, text: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{text: '{text}'}}\n"


class Hub:
    """What stands between a fleet repo and the rollouts. `asked` names the fetches that a worker did."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.git = pygit2.init_repository(str(folder / "fleet"), initial_head="main")
        self.store = GitStore.create(folder / "slices.git")
        self.asked: list[str] = []
        self.now_s = 1_000.0
        self.files: dict[str, str] = {"clusters/eu.yaml": CLUSTER}
        self.start()

    def start(self) -> None:
        """Also anew, on the same data folder."""
        self.journal = Journal(self.folder / "journal.db")
        self.secrets = self.folder / "credentials.yaml"
        secrets = self.secrets if self.secrets.exists() else None
        self.pins = Pins(self.journal, self.folder / "sources", secrets=secrets, clock=lambda: self.now_s)

    def stop(self) -> None:
        self.journal.close()

    def bundle(self, name: str, source: str, *, more: str = "", files: Mapping[str, str] | None = None) -> None:
        """`source` in YAML, where URL stands for the server's address."""
        text = f"apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {{name: {name}}}\nspec:\n  targets: {{}}\n"
        text += f"  source: {source.replace('URL', self.url)}\n{more}"
        self.files[f"bundles/{name}/bundle.yaml"] = text
        self.files |= {f"bundles/{name}/{path}": content for path, content in (files or {}).items()}

    async def wants(self) -> Desired:
        """What the fleet repo, as it is now, wants."""
        self.asked.clear()
        index = pygit2.Index()
        for path, text in self.files.items():
            index.add(pygit2.IndexEntry(path, self.git.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
        tip = self.git.references.get("refs/heads/main")
        parents = [str(tip.target)] if tip is not None else []
        self.git.create_commit("refs/heads/main", WHO, WHO, "m", index.write_tree(self.git), parents)
        mirror = self.folder / "mirror"
        commit = sync.fetch(mirror, str(self.folder / "fleet"), "main").commit
        return await desired(commit, mirror=mirror, store=self.store, journal=self.journal, pins=self.pins, current={})

    def texts(self, found: Desired, bundle: BundleName = SHOP) -> dict[str, str]:
        """The ConfigMaps of a bundle: name → text."""
        objects = (orjson.loads(data) for data in files_of(self.store, found.subtrees[bundle][EU]).values())
        return {obj["metadata"]["name"]: obj["data"]["text"] for obj in objects if obj.get("kind") == "ConfigMap"}


def files_of(store: GitStore, subtree: Oid) -> dict[str, bytes]:
    repo = pygit2.Repository(str(store.path))
    index = pygit2.Index()
    index.read_tree(repo[subtree].peel(pygit2.Tree))
    return {entry.path: repo[entry.id].peel(pygit2.Blob).data for entry in index}


@pytest.fixture
async def hub(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """Workers run in this process here: what they do counts, not where."""
    made = Hub(tmp_path, served.url)

    async def run(function: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
        if function in (module._fetch, module._restore):
            made.asked.append(what)
        return function(*arguments)

    monkeypatch.setattr(worker, "run", run)
    build._kept.clear()
    yield made
    made.stop()


BRANCH = "{git: {url: URL/app.git, branch: main}}"


async def test_a_source_stays_what_it_was_until_the_bundle_itself_changes(repo: Repo, hub: Hub) -> None:
    first = repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    found = await hub.wants()
    assert found.findings == ()
    assert (hub.texts(found), found.pins[SHOP].digest) == ({"a": "1"}, first)

    second = repo.commit({"a.yaml": config("a", "2")})
    hub.files["README.md"] = "another commit"
    hub.files["bundles/own/bundle.yaml"] = hub.files["bundles/shop/bundle.yaml"].replace("name: shop", "name: own")
    hub.files["bundles/own/bundle.yaml"] = hub.files["bundles/own/bundle.yaml"].split("  source:")[0]
    hub.files["bundles/own/b.yaml"] = config("b", "own")
    found = await hub.wants()
    assert (hub.texts(found), found.pins[SHOP].digest, hub.asked) == ({"a": "1"}, first, [])

    hub.bundle("shop", BRANCH, more="  namespace: shop\n")
    found = await hub.wants()
    assert (hub.texts(found), found.pins[SHOP].digest) == ({"a": "2"}, second)


async def test_a_hub_that_starts_again_while_the_source_is_away_runs_the_very_same(
    repo: Repo, hub: Hub, served: Served
) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    before = await hub.wants()
    repo.commit({"a.yaml": config("a", "2")})
    served.down = True
    hub.stop()
    hub.start()
    shutil.rmtree(hub.folder / "sources")
    found = await hub.wants()
    assert (found.subtrees, found.failed, found.findings) == (before.subtrees, frozenset(), ())


async def test_what_cannot_be_fetched_stops_its_own_bundle_alone_and_is_tried_again_by_itself(
    repo: Repo, hub: Hub, served: Served
) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    hub.bundle("own", "{path: .}", files={"b.yaml": config("b", "own")})
    served.down = True
    found = await hub.wants()
    assert (set(found.failed), hub.texts(found, OWN)) == ({SHOP}, {"b": "own"})
    [finding] = found.findings
    assert (finding.where, finding.about) == ("bundles/shop/bundle.yaml:1", "bundle shop")
    assert finding.message.startswith(f"bundle shop has no source: Git repository {served.url}/app.git: cannot be read")

    assert (await hub.wants()).failed == {SHOP}
    assert hub.asked == [], "it is not asked for with each commit"
    served.down = False
    assert await hub.pins.look() is False
    hub.now_s += 40
    assert await hub.pins.look() is True
    found = await hub.wants()
    assert (found.findings, hub.texts(found)) == ((), {"a": "1"})


async def test_a_source_that_takes_long_holds_up_nobody_else(
    repo: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    hub.bundle("own", "{path: .}", files={"b.yaml": config("b", "own")})
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    answers, run = anyio.Event(), worker.run

    async def slow(function: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
        if function is module._fetch:
            await answers.wait()
        return await run(function, *arguments, what=what, **options)

    monkeypatch.setattr(worker, "run", slow)
    found = await hub.wants()
    assert (set(found.failed), hub.texts(found, OWN)) == ({SHOP}, {"b": "own"})
    assert "was not fetched within" in found.findings[0].message
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.pins.look)
        await anyio.wait_all_tasks_blocked()
        hub.files["bundles/own/b.yaml"] = config("b", "changed")
        monkeypatch.setattr(module, "PATIENCE_S", 3600.0)  # nobody waits for what is being fetched already
        found = await hub.wants()
        assert (set(found.failed), hub.texts(found, OWN)) == ({SHOP}, {"b": "changed"})
        hub.pins.refresh(["shop"])
        await hub.wants()
        answers.set()
    repo.commit({"a.yaml": config("a", "2")})
    assert hub.texts(await hub.wants()) == {"a": "2"}, "what was asked for meanwhile is done after it"


async def test_a_tenant_does_not_get_by_name_what_another_fetched(repo: Repo, hub: Hub, served: Served) -> None:
    first = repo.commit({"a.yaml": config("a", "1")})
    served.wants = basic("bot", "hunter2")
    hub.secrets.write_text(f"team-a: {{for: ['{served.url}'], tenants: [team-a], username: bot, password: hunter2}}\n")
    hub.stop()
    hub.start()
    tenants = "[{name: team-a, folder: bundles/shop}, {name: team-b, folder: bundles/cart}]"
    head = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {tenants: "
    hub.files["fleet.yaml"] = f"{head}{tenants}}}\n"
    source = f"{{git: {{url: URL/app.git, commit: {first}, credentials: team-a}}}}"
    hub.bundle("shop", source)
    assert (await hub.wants()).findings == ()
    hub.bundle("cart", source, more="  namespace: cart\n")
    found = await hub.wants()
    assert set(found.failed) == {CART}
    assert "are not among those that may be used here" in found.findings[0].message


def values(store: GitStore, found: Desired) -> dict[str, str]:
    """The ConfigMaps that `tests.charts` writes: name → version of the chart."""
    objects = (orjson.loads(data) for data in files_of(store, found.subtrees[SHOP][EU]).values())
    return {obj["metadata"]["name"]: obj["data"]["version"] for obj in objects if obj.get("kind") == "ConfigMap"}


def packed(folder: Path, name: str, version: str, *, into: Path, more: str = "") -> None:
    """A chart without what it depends on, which `helm package` would not write."""
    into.mkdir(parents=True, exist_ok=True)
    chart = charts.write(folder, name, version=version, more=more)
    with tarfile.open(into / f"{name}-{version}.tgz", "w:gz") as archive:
        archive.add(chart, name)


async def test_a_chart_of_a_repository_is_pinned_with_what_it_depends_on(
    hub: Hub, served: Served, tmp_path: Path
) -> None:
    apps, libs = tmp_path / "served/apps", tmp_path / "served/libs"
    packed(tmp_path / "work", "lib", "2.0.0", into=libs)
    charts.index(libs)
    more = f"dependencies: [{{name: lib, version: ^2, repository: {served.url}/libs}}]\n"
    packed(tmp_path / "work", "app", "1.0.0", into=apps, more=more)
    charts.index(apps)
    chart = "{helm: {repository: URL/apps, chart: app, version: ^1}}"
    hub.bundle("shop", chart)
    found = await hub.wants()
    assert (found.findings, found.pins[SHOP].revision) == ((), "1.0.0")
    assert values(hub.store, found) == {"shop-app": "1.0.0", "shop-lib": "2.0.0"}

    packed(tmp_path / "work", "app", "1.1.0", into=apps, more=more)
    packed(tmp_path / "work", "lib", "2.1.0", into=libs)
    for folder in (apps, libs):
        charts.index(folder)
    hub.files["README.md"] = "another commit"
    assert (await hub.wants()).pins == found.pins
    shutil.rmtree(hub.folder / "sources")
    hub.files["clusters/us.yaml"] = CLUSTER.replace("eu-1", "us-1").replace("spec: {}", 'spec: {kubernetes: "1.31"}')
    [finding] = (await hub.wants()).findings
    assert "has no longer 1.0.0 as sha256:" in finding.message
    assert finding.message.endswith("charts that it depends on are others now")
    hub.pins.refresh([ALL])
    found = await hub.wants()
    assert (found.findings, found.pins[SHOP].revision) == ((), "1.1.0")
    assert values(hub.store, found) == {"shop-app": "1.1.0", "shop-lib": "2.1.0"}

    head = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {tenants: "
    hub.files["fleet.yaml"] = f"{head}[{{name: a, folder: bundles/cart, sources: ['{served.url}/apps']}}]}}\n"
    hub.bundle("cart", chart, more="  namespace: cart\n")
    [finding] = (await hub.wants()).findings
    assert f"{served.url}/libs: is not where its tenant may fetch from" in finding.message


async def test_a_repository_is_asked_only_for_what_changed(hub: Hub, tmp_path: Path) -> None:
    packed(tmp_path / "work", "app", "1.0.0", into=tmp_path / "apps")
    with Site({"/index.yaml": Says(body=charts.index(tmp_path / "apps"), headers={"ETag": '"a"'})}) as site:
        site.routes["/app-1.0.0.tgz"] = (tmp_path / "apps/app-1.0.0.tgz").read_bytes()
        hub.bundle("shop", f"{{helm: {{repository: '{site.url}', chart: app, version: ^1, interval: 10m}}}}")
        first = await hub.wants()
        assert (first.findings, first.pins[SHOP].revision) == ((), "1.0.0")
        site.routes["/index.yaml"] = lambda asked: Says(status=304 if asked.headers.get("if-none-match") else 500)
        for _ in range(2):
            hub.now_s += 601
            assert await hub.pins.look() is False
        assert [one.headers.get("if-none-match") for one in site.asked] == [None, None, '"a"', '"a"']
        assert (await hub.wants()).pins == first.pins

        packed(tmp_path / "work", "app", "1.1.0", into=tmp_path / "apps")
        site.routes["/app-1.1.0.tgz"] = (tmp_path / "apps/app-1.1.0.tgz").read_bytes()
        site.routes["/index.yaml"] = Says(body=charts.index(tmp_path / "apps"), headers={"ETag": '"b"'})
        hub.now_s += 601
        assert await hub.pins.look() is True
        assert (await hub.wants()).pins[SHOP].revision == "1.1.0"


async def test_an_artifact_is_pinned_by_digest_and_had_again_by_it(hub: Hub) -> None:
    with Registry() as registry:
        first = registry.push("v1", (FLUX, tar({"deploy/a.yaml": config("a", "1")}), None))
        hub.bundle("shop", f"{{oci: {{url: 'oci://{registry.host}/team/app', tag: v1, path: deploy}}}}")
        found = await hub.wants()
        assert (found.findings, hub.texts(found)) == ((), {"a": "1"})
        assert (found.pins[SHOP].revision, found.pins[SHOP].digest) == ("v1", first)

        second = registry.push("v1", (FLUX, tar({"deploy/a.yaml": config("a", "2")}), None))
        shutil.rmtree(hub.folder / "sources")
        hub.files["clusters/us.yaml"] = CLUSTER.replace("eu-1", "us-1").replace("spec: {}", "spec: {variables: {a: b}}")
        again = await hub.wants()
        assert (again.findings, again.pins) == ((), found.pins)
        assert set(again.subtrees[SHOP].values()) == set(found.subtrees[SHOP].values())
        hub.pins.refresh([ALL])
        found = await hub.wants()
        assert (hub.texts(found), found.pins[SHOP].digest) == ({"a": "2"}, second)


async def test_waits_between_attempts_grow(repo: Repo, hub: Hub, served: Served) -> None:
    served.down = True
    hub.bundle("shop", BRANCH)
    await hub.wants()
    at: list[float] = []
    for _ in range(2000):
        hub.now_s += 5
        hub.asked.clear()
        assert await hub.pins.look() is False, "the same trouble is told once"
        if hub.asked:
            at.append(hub.now_s)
    waits = [after - before for before, after in itertools.pairwise(at)]
    assert len(at) < 15
    assert waits == pytest.approx(sorted(waits), rel=0.6)
    assert max(waits) <= module.MOST_RETRY_S * 1.2 + 5


async def test_a_source_is_looked_at_again_after_its_interval(repo: Repo, hub: Hub, served: Served) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", "{git: {url: URL/app.git, branch: main, interval: 10m}}")
    await hub.wants()
    assert await hub.pins.look() is False
    hub.now_s += 601
    assert await hub.pins.look() is False, "nothing is new"
    second = repo.commit({"a.yaml": config("a", "2")})
    hub.now_s += 601
    assert await hub.pins.look() is True
    found = await hub.wants()
    assert (found.pins[SHOP].digest, hub.texts(found), hub.asked) == (second, {"a": "2"}, [])

    served.down = True
    hub.now_s += 601
    assert await hub.pins.look() is True, "the trouble is new"
    found = await hub.wants()
    assert (found.failed, hub.texts(found)) == (frozenset(), {"a": "2"})
    [finding] = found.findings
    assert (finding.severity, finding.message[:28]) == ("warning", "bundle shop stays at main (" + second[:1])


async def test_a_clock_that_was_set_back_keeps_no_source_waiting(repo: Repo, hub: Hub, served: Served) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", "{git: {url: URL/app.git, branch: main, interval: 10m}}")
    hub.now_s = 1_000_000.0
    await hub.wants()
    second = repo.commit({"a.yaml": config("a", "2")})
    hub.now_s -= 86_400
    assert await hub.pins.look() is True
    assert (await hub.wants()).pins[SHOP].digest == second

    served.down = True
    hub.now_s += 601
    await hub.pins.look()
    third = repo.commit({"a.yaml": config("a", "3")})
    served.down = False
    hub.now_s -= 86_400
    assert await hub.pins.look() is True
    assert (await hub.wants()).pins[SHOP].digest == third


async def test_a_refresh_takes_what_is_there_now(repo: Repo, hub: Hub) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    hub.bundle("cart", BRANCH, more="  namespace: cart\n", files={"x.yaml": config("x", "")})
    await hub.wants()
    repo.commit({"a.yaml": config("a", "2")})
    hub.pins.refresh(["shop"])
    found = await hub.wants()
    assert (hub.texts(found), hub.texts(found, CART)) == ({"a": "2"}, {"a": "1"})
    hub.pins.refresh([ALL])
    found = await hub.wants()
    assert (hub.texts(found), hub.texts(found, CART)) == ({"a": "2"}, {"a": "2"})
    events = [event.text for event in hub.journal.events(kind="source", bundle="shop")]
    assert len(events) == 2


async def test_equal_sources_are_fetched_once(repo: Repo, hub: Hub) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    for name in ("shop", "cart", "own"):
        hub.bundle(name, BRANCH, more=f"  namespace: {name}\n")
    found = await hub.wants()
    assert (found.findings, len(hub.asked)) == ((), 1)
    assert len({pin.digest for pin in found.pins.values()}) == 1


async def test_a_commit_needs_nobody_once_it_was_fetched(repo: Repo, hub: Hub, served: Served) -> None:
    first = repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", f"{{git: {{url: URL/app.git, commit: {first}}}}}")
    await hub.wants()
    served.down = True
    hub.bundle("shop", f"{{git: {{url: URL/app.git, commit: {first}}}}}", more="  namespace: other\n")
    found = await hub.wants()
    assert (found.findings, hub.texts(found)) == ((), {"a": "1"})


async def test_a_lost_store_is_filled_again_by_digest_and_a_tag_that_moved_changes_nothing(
    repo: Repo, hub: Hub
) -> None:
    repo.commit({"a.yaml": config("a", "1")}, tag="v1")
    hub.bundle("shop", "{git: {url: URL/app.git, tag: v1}}")
    before = await hub.wants()
    repo.commit({"a.yaml": config("a", "2")}, tag="v1")
    shutil.rmtree(hub.folder / "sources")
    hub.files["clusters/us.yaml"] = CLUSTER.replace("eu-1", "us-1").replace("spec: {}", "spec: {variables: {a: b}}")
    found = await hub.wants()
    assert found.findings == ()
    assert set(found.subtrees[SHOP].values()) == set(before.subtrees[SHOP].values())
    assert hub.asked == ["source of shop"]


async def test_a_lost_store_and_a_digest_that_upstream_lost_too_is_a_clear_error(
    repo: Repo, hub: Hub, tmp_path: Path
) -> None:
    first = repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    await hub.wants()
    shutil.rmtree(hub.folder / "sources")
    shutil.rmtree(repo.path)
    Repo(repo.path).commit({"a.yaml": config("a", "2")})
    hub.files["clusters/us.yaml"] = CLUSTER.replace("eu-1", "us-1").replace("spec: {}", "spec: {variables: {a: b}}")
    found = await hub.wants()
    assert found.failed == {SHOP}
    [finding] = found.findings
    assert f"has no longer main as {first[:23]}, which is pinned: has no commit {first}" in finding.message
    assert "flotilla sync --refresh" in finding.remedy
    hub.pins.refresh(["shop"])
    assert hub.texts(await hub.wants()) == {"a": "2"}


async def test_an_equal_journal_renders_equal_bytes(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    before = await hub.wants()
    repo.commit({"a.yaml": config("a", "2")})
    hub.stop()
    (tmp_path / "other").mkdir()
    shutil.copy(hub.folder / "journal.db", tmp_path / "other/journal.db")
    hub.start()
    other = Hub(tmp_path / "other", hub.url)
    other.journal._db.execute("DELETE FROM renders")
    other.files = hub.files
    found = await other.wants()
    other.stop()
    assert (found.subtrees, found.pins) == (before.subtrees, before.pins)


async def test_the_bundles_own_overlays_and_values_reach_the_source(repo: Repo, hub: Hub) -> None:
    repo.commit(
        {
            "deploy/base/kustomization.yaml": "resources: [a.yaml]",
            "deploy/base/a.yaml": config("a", "base"),
            "deploy/plain/b.yaml": config("b", "plain"),
            "chart/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\n",
            "chart/values.yaml": "text: default\n",
            "chart/values-eu.yaml": "other: from-the-source\n",
            "chart/templates/c.yaml": config("c", "{{ .Values.text }} {{ .Values.other }}"),
        }
    )
    overlay = "namePrefix: eu-\nresources: [../external/deploy/base]\n"
    hub.bundle(
        "shop",
        "{git: {url: URL/app.git, branch: main, path: deploy/base}}",
        more="  variants:\n  - {when: {matchLabels: {region: eu}}, kustomize: {path: overlay}}\n",
        files={"overlay/kustomization.yaml": overlay},
    )
    hub.bundle(
        "cart",
        "{git: {url: URL/app.git, branch: main, path: chart}}",
        more="  helm: {valuesFiles: [external/chart/values-eu.yaml, values.yaml]}\n",
        files={"values.yaml": "text: own\n"},
    )
    hub.bundle("own", "{git: {url: URL/app.git, branch: main, path: deploy/plain}}", files={"ignored.yaml": "a: b"})
    found = await hub.wants()
    assert found.findings == ()
    assert hub.texts(found) == {"eu-a": "base"}
    assert hub.texts(found, CART) == {"c": "own from-the-source"}
    assert hub.texts(found, OWN) == {"b": "plain"}


@pytest.mark.parametrize(
    ("files", "place", "why"),
    [
        pytest.param({"link": "-> /etc/passwd"}, "external/link", "links to /etc/passwd", id="link-out"),
        pytest.param({"sub/link": "-> ../../bundle.yaml"}, "external/sub/link", "links to", id="link-into-the-bundle"),
        pytest.param({"big.yaml": "x" * (5 << 20)}, "external/big.yaml", "has 5242880 bytes", id="large"),
        pytest.param(
            {"kustomization.yaml": "resources: [../../../bundles/cart]"},
            "external/kustomization.yaml:1",
            "not in the bundle's folder",
            id="kustomize-out",
        ),
        pytest.param(
            {"kustomization.yaml": "resources: [https://evil.example.net/x]"},
            "external/kustomization.yaml:1",
            "not in the bundle's folder",
            id="kustomize-remote",
        ),
    ],
)
async def test_a_hostile_source_stops_its_own_bundle_with_its_place(
    repo: Repo, hub: Hub, files: dict[str, str], place: str, why: str
) -> None:
    commit = repo.commit({path: text for path, text in files.items() if not text.startswith("->")})
    links = {path: text[3:] for path, text in files.items() if text.startswith("->")}
    if links:
        index = pygit2.Index()
        for path, target in links.items():
            index.add(pygit2.IndexEntry(path, repo.repo.create_blob(target.encode()), pygit2.enums.FileMode.LINK))
        made = repo.repo.create_commit(None, WHO, WHO, "m", index.write_tree(repo.repo), [commit])
        repo.repo.references.create("refs/heads/main", made, force=True)
    hub.bundle("shop", BRANCH)
    hub.bundle("own", "{path: .}", files={"b.yaml": config("b", "own")})
    found = await hub.wants()
    assert (set(found.failed), hub.texts(found, OWN)) == ({SHOP}, {"b": "own"})
    [finding] = found.findings
    assert (finding.where, why in finding.message) == (f"bundles/shop/{place}", True), finding.message


async def test_a_folder_of_the_bundle_where_the_source_goes_is_refused(repo: Repo, hub: Hub) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH, files={"external/b.yaml": config("b", "")})
    [finding] = (await hub.wants()).findings
    assert finding.where == "bundles/shop/external"
    assert "is where the source from outside goes" in finding.message


async def test_credentials_are_named_and_go_where_their_owner_says(repo: Repo, hub: Hub, served: Served) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    served.wants = basic("bot", "hunter2")
    hub.secrets.write_text(
        f"team-a: {{for: ['{served.url}/app.git'], username: bot, password: hunter2}}\n"
        f"team-b: {{for: ['https://git.example.org'], username: bot, password: hunter2}}\n"
    )
    hub.stop()
    hub.start()
    for source, why in (
        (BRANCH, "cannot be read without other credentials"),
        ("{git: {url: URL/app.git, branch: main, credentials: team-b}}", "are not for"),
        ("{git: {url: URL/app.git, branch: main, credentials: team-c}}", "may be used here"),
    ):
        hub.bundle("shop", source)
        [finding] = (await hub.wants()).findings
        assert why in finding.message
        assert "hunter2" not in str(finding)
    assert {header for _, header in served.heard} == {""}
    hub.bundle("shop", "{git: {url: URL/app.git, branch: main, credentials: team-a}}")
    assert hub.texts(await hub.wants()) == {"a": "1"}
    hub.secrets.write_text("a: {for: [https://example.org], token: renewed}\n")
    hub.pins.refresh([ALL])
    [finding] = (await hub.wants()).findings
    assert (finding.severity, "may be used here" in finding.message) == ("warning", True)


async def test_a_chart_of_the_fleet_repo_names_credentials_for_what_it_depends_on(
    hub: Hub, served: Served, tmp_path: Path
) -> None:
    packed(tmp_path / "work", "lib", "2.0.0", into=tmp_path / "served/libs")
    charts.index(tmp_path / "served/libs")
    served.wants = basic("bot", "hunter2")
    hub.secrets.write_text(
        f"team-a: {{for: ['{served.url}/libs'], username: bot, password: hunter2}}\n"
        "team-b: {for: ['https://charts.example.org'], username: bot, password: hunter2}\n"
    )
    hub.stop()
    hub.start()
    needs = f"dependencies: [{{name: lib, version: ^2, repository: {served.url}/libs}}]\n"
    files = {
        "chart/Chart.yaml": f"apiVersion: v2\nname: app\nversion: 1.0.0\n{needs}",
        "chart/templates/c.yaml": config("own", "chart"),
    }
    for named, why in (
        ("", "cannot be read without other credentials"),
        (", credentials: team-b", "cannot be read without other credentials"),
        (", credentials: team-c", "may be used here"),
    ):
        hub.bundle("shop", f"{{path: chart{named}}}", files=files)
        [finding] = (await hub.wants()).findings
        assert why in finding.message
        assert "hunter2" not in str(finding)
    assert {header for _, header in served.heard} == {""}
    hub.bundle("shop", "{path: chart, credentials: team-a}", files=files)
    found = await hub.wants()
    assert (found.findings, found.pins[SHOP].revision) == ((), "lib 2.0.0")


async def test_folders_of_this_machine_and_plain_http_are_for_the_owner_to_allow(
    repo: Repo, hub: Hub, tmp_path: Path
) -> None:
    repo.commit({"a.yaml": config("a", "1")})
    folder = f"file://{repo.path}"
    for source in (f"{{git: {{url: '{folder}', branch: main}}}}", "{git: {url: 'http://10.1.2.3/x', branch: main}}"):
        hub.bundle("shop", source)
        [finding] = (await hub.wants()).findings
        assert "nobody allowed it" in finding.message
    hub.secrets.write_text(f"here: {{for: ['{folder}']}}\n")
    hub.stop()
    hub.start()
    hub.bundle("shop", f"{{git: {{url: '{folder}', branch: main, credentials: here}}}}")
    assert hub.texts(await hub.wants()) == {"a": "1"}


async def test_trees_that_no_pin_names_go_and_so_do_pins_of_bundles_that_went(repo: Repo, hub: Hub) -> None:
    def kept() -> set[str]:
        return {folder.name for folder in (hub.folder / "sources").iterdir()}

    repo.commit({"a.yaml": config("a", "1")})
    hub.bundle("shop", BRANCH)
    found = await hub.wants()
    assert kept() == {found.pins[SHOP].tree}
    repo.commit({"a.yaml": config("a", "2")})
    (hub.folder / "sources/.new-killed").mkdir()
    hub.pins.refresh([ALL])
    found = await hub.wants()
    assert kept() == {found.pins[SHOP].tree}

    whole = hub.files["bundles/shop/bundle.yaml"]
    hub.files["bundles/shop/bundle.yaml"] = "{"
    await hub.wants()
    assert set(hub.journal.pins()) == {SHOP}, "it may be corrected"
    hub.files["bundles/shop/bundle.yaml"] = whole
    assert (await hub.wants()).pins == found.pins
    del hub.files["bundles/shop/bundle.yaml"]
    await hub.wants()
    assert (hub.journal.pins(), kept()) == ({}, set())
