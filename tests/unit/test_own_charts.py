"""Charts in the fleet repo that depend on charts from outside, or from beside in the same bundle."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pygit2
import pytest
from click.testing import CliRunner

from hub import worker
from hub.cli import main
from hub.desired import Desired, desired
from hub.external import own
from hub.journal import Journal
from hub.pins import Pins
from hub.render import limits
from hub.repo import sources, sync
from hub.slices.gitstore import GitStore
from proto.ids import BundleName, ClusterName
from tests import charts
from tests.site import Site

REMOTE = "dependencies: [{name: redis, version: ^1, repository: 'https://charts.example.org'}]\n"
BESIDE = "dependencies: [{name: common, version: '*', repository: 'file://../common'}]\n"
CHART = "apiVersion: v2\nname: web\nversion: 1.0.0\n"


@pytest.mark.parametrize(
    ("files", "path", "needs"),
    [
        pytest.param({"Chart.yaml": CHART + REMOTE}, "", True, id="from outside"),
        pytest.param({"web/Chart.yaml": CHART + BESIDE, "common/Chart.yaml": CHART}, "web", True, id="from beside"),
        pytest.param({"Chart.yaml": CHART, "requirements.yaml": REMOTE}, "", True, id="in an old chart"),
        pytest.param({"Chart.yaml": CHART + BESIDE}, "", True, id="what is wrong is told by the fetch"),
        pytest.param({"Chart.yaml": "dependencies: [{repository: "}, "", True, id="what cannot be read too"),
        pytest.param({"Chart.yaml": CHART}, "", False, id="none"),
        pytest.param({"Chart.yaml": CHART + REMOTE, "charts/redis-1.0.0.tgz": "x"}, "", False, id="all are there"),
        pytest.param(
            {"Chart.yaml": CHART + REMOTE, "app/a.yaml": "a: 1"}, "app", False, id="another folder is rendered"
        ),
        pytest.param({"web/Chart.yaml": CHART + REMOTE}, "", False, id="a chart below"),
        pytest.param({"a.yaml": "a: 1"}, "", False, id="no chart"),
        pytest.param({"a.yaml": "a: 1"}, "none", False, id="no such folder"),
    ],
)
def test_a_chart_that_lacks_others_is_known(tmp_path: Path, files: Mapping[str, str], path: str, needs: bool) -> None:
    for name, text in files.items():
        (tmp_path / "bundles/web" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundles/web" / name).write_text(text)
    assert own.needs(sources.FolderTree(tmp_path), "bundles/web", path) == needs


def test_the_copy_is_the_folder_as_it_would_be_written_out(tmp_path: Path) -> None:
    repo = pygit2.init_repository(str(tmp_path / "git"), bare=True)
    folder = charts.write(tmp_path / "bundles", "web", files={".flotillaignore": "*.bak\n", "old.bak": "x"})
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "same.yaml").symlink_to("values.yaml")
    tree = own.copied(sources.FolderTree(tmp_path), "bundles/web", repo)
    assert {entry.name: int(entry.filemode) for entry in repo[tree].peel(pygit2.Tree)} == {
        "Chart.yaml": 0o100644,
        "run.sh": 0o100755,
        "same.yaml": 0o120000,
        "templates": 0o040000,
        "values.yaml": 0o100644,
    }


class Hub:
    """A fleet repo with one bundle, `web`, and what stands between it and the rollouts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git = pygit2.init_repository(str(folder / "fleet"), initial_head="main")
        self.store = GitStore.create(folder / "slices.git")
        self.journal = Journal(folder / "journal.db")
        self.pins = Pins(self.journal, folder / "sources")
        self.files = {"clusters/eu.yaml": CLUSTER, "bundles/web/bundle.yaml": BUNDLE}

    def chart(self, name: str, *, at: str = "", more: str = "") -> None:
        """A chart in the bundle's folder."""
        written = charts.write(self.folder / "charts", name, more=more)
        for file in written.rglob("*"):
            if file.is_file():
                self.files[f"bundles/web/{at}{file.relative_to(written)}"] = file.read_text()

    def checkout(self) -> Path:
        place = self.folder / "checkout"
        for path, text in self.files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        return place

    async def wants(self) -> Desired:
        """What the fleet repo, as it is now, wants."""
        tree = charts.store(self.git, self.files)
        tip = self.git.references.get("refs/heads/main")
        who = pygit2.Signature("a", "a@example.org", 1, 0)
        self.git.create_commit("refs/heads/main", who, who, "m", tree, [str(tip.target)] if tip is not None else [])
        mirror = self.folder / "mirror"
        commit = sync.fetch(mirror, str(self.folder / "fleet"), "main").commit
        return await desired(commit, mirror=mirror, store=self.store, journal=self.journal, pins=self.pins, current={})

    def versions(self, found: Desired) -> dict[str, str]:
        """Of the charts whose ConfigMaps are wanted on the cluster."""
        repo = pygit2.Repository(str(self.store.path))
        files = charts.listed(repo, found.subtrees[WEB][ClusterName("eu-1")])
        objects = [json.loads(data) for path, data in files.items() if "/ConfigMap/" in path]
        return {obj["metadata"]["name"]: obj["data"]["version"] for obj in objects}


WEB = BundleName("web")
CLUSTER = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: eu-1}\nspec: {}\n"
BUNDLE = (
    "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web}\nspec: {targets: {}, source: {path: .}}\n"
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Workers run in this process here: what they do counts, not where."""

    async def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(worker, "run", run)
    monkeypatch.setattr(limits, "bounded", nullcontext)
    made = Hub(tmp_path)
    yield made
    made.journal.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A Helm repository with two versions of `redis`."""
    with Site() as site:
        for version in ("1.0.0", "1.4.0"):
            publish(site, tmp_path, version)
        yield site


def publish(site: Site, folder: Path, version: str) -> None:
    charts.pack(folder / "redis", "redis", version=version, into=folder / "packed")
    charts.index(folder / "packed")
    site.routes.update({f"/{file.name}": file.read_bytes() for file in (folder / "packed").iterdir()})


def needing(site: Site, *, version: str = "^1") -> str:
    return f"dependencies: [{{name: redis, version: {version}, repository: '{site.url}'}}]\n"


async def test_a_chart_of_the_fleet_repo_is_rendered_with_what_it_depends_on(hub: Hub, site: Site) -> None:
    hub.chart("web", more=needing(site))
    found = await hub.wants()
    assert found.findings == ()
    assert hub.versions(found) == {"web-web": "1.0.0", "web-redis": "1.4.0"}
    assert found.pins[WEB].revision == "redis 1.4.0"


async def test_it_is_fetched_and_rendered_in_confined_worker_processes(tmp_path: Path, site: Site) -> None:
    hub = Hub(tmp_path)
    hub.chart("web", more=needing(site))
    found = await hub.wants()
    assert (found.findings, hub.versions(found)) == ((), {"web-web": "1.0.0", "web-redis": "1.4.0"})
    hub.journal.close()


async def test_a_range_stays_what_it_was_until_the_folder_changes(hub: Hub, site: Site, tmp_path: Path) -> None:
    hub.chart("web", more=needing(site))
    before = await hub.wants()
    publish(site, tmp_path, "1.5.0")
    hub.files["README.md"] = "another commit"
    site.asked.clear()
    after = await hub.wants()
    assert (after.subtrees, site.asked) == (before.subtrees, [])
    hub.files["bundles/web/README.md"] = "of the bundle"
    assert hub.versions(await hub.wants())["web-redis"] == "1.5.0"


async def test_charts_that_the_folder_has_need_no_network(hub: Hub, site: Site) -> None:
    hub.chart("web", more=needing(site))
    hub.chart("redis", at="charts/redis/")
    found = await hub.wants()
    assert hub.versions(found) == {"web-web": "1.0.0", "web-redis": "1.0.0"}
    assert (site.asked, found.pins) == ([], {})


async def test_a_chart_beside_it_in_the_bundle_is_put_in(hub: Hub) -> None:
    hub.files["bundles/web/bundle.yaml"] = BUNDLE.replace("path: .", "path: web")
    hub.chart("web", at="web/", more=BESIDE)
    hub.chart("common", at="common/")
    assert hub.versions(await hub.wants()) == {"web-web": "1.0.0", "web-common": "1.0.0"}


async def test_what_cannot_be_fetched_is_a_finding_of_that_bundle_alone(hub: Hub, site: Site) -> None:
    hub.chart("web", more=needing(site, version="^9"))
    hub.files["bundles/other/a.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    hub.files["bundles/other/bundle.yaml"] = BUNDLE.replace("web", "other")
    found = await hub.wants()
    assert found.failed == {"web"}
    assert set(found.subtrees) == {"other"}
    assert [f"{finding.about}: {finding.message}" for finding in found.findings] == [
        f"bundle web: bundle web has no source: chart redis of {site.url}: has no version in '^9'"
    ]


async def test_a_tenant_fetches_only_from_where_it_may(hub: Hub, site: Site) -> None:
    hub.files["fleet.yaml"] = (
        "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nmetadata: {name: f}\n"
        "spec: {tenants: [{name: team, folder: bundles, sources: ['https://charts.example.org']}]}\n"
    )
    hub.chart("web", more=needing(site))
    found = await hub.wants()
    assert found.failed == {"web"}
    assert "is not where its tenant may fetch from" in found.findings[0].message
    assert site.asked == []


async def test_a_lost_store_is_filled_again(hub: Hub, site: Site) -> None:
    hub.chart("web", more=needing(site))
    await hub.wants()
    shutil.rmtree(hub.folder / "sources")
    hub.files["clusters/eu.yaml"] = CLUSTER.replace("spec: {}", "spec: {kubernetes: '1.33'}")  # rendered anew
    assert hub.versions(await hub.wants())["web-redis"] == "1.4.0"


def test_a_checkout_renders_the_same(hub: Hub, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(hub.folder / "cache"))
    hub.chart("web", more=needing(site))
    done = CliRunner().invoke(main, ["render", "--fleet", str(hub.checkout()), "--cluster", "eu-1"])
    assert done.exit_code == 0, done.output
    assert "name: web-redis" in done.stdout
    assert "bundle web: bundles/web is redis 1.4.0@" in done.stderr
