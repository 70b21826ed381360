"""What one commit wants: bundles that render or keep what they run, and who owns an object that two bundles claim."""

import errno
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pygit2
import pytest

from hub import rendering, requests, worker
from hub.desired import Desired, clashes, desired
from hub.journal import Journal
from hub.model import Finding
from hub.pins import Pins
from hub.render import build
from hub.repo import sources, sync
from hub.slices.gitstore import GitStore
from proto.errors import Permanent, Transient
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey

EU, US = ClusterName("eu-1"), ClusterName("us-1")
A, B, C, D = (BundleName(name) for name in "abcd")


# --- who owns an object -------------------------------------------------------------------------------------------


def key(name: str) -> ObjectKey:
    return ObjectKey(group="", kind="ConfigMap", namespace="shop", name=name)


def keys(subtree: Oid) -> frozenset[ObjectKey]:
    """The subtree `x y` has the objects x and y."""
    return frozenset(key(name) for name in subtree.split())


def refused(
    wanted: Mapping[BundleName, str | Mapping[ClusterName, str]],
    *,
    gone: Collection[BundleName] = (),
    renamed: Mapping[BundleName, BundleName] = MappingProxyType({}),
    **running: str,
) -> Mapping[BundleName, Finding]:
    """`wanted`: bundle → its objects, on eu-1 or by cluster; `running`: what eu-1 has now."""
    subtrees = {
        name: {EU: Oid(objects)} if isinstance(objects, str) else {c: Oid(o) for c, o in objects.items()}
        for name, objects in wanted.items()
    }
    now = {EU: {BundleName(name): Oid(objects) for name, objects in running.items()}}
    where = "bundles/{}/bundle.yaml:2".format
    return clashes(subtrees, current=now, gone=gone, renamed=renamed, keys=keys, where=where)


def test_bundles_that_share_nothing_all_go() -> None:
    assert refused({A: "x", B: "y", C: "z"}) == {}


@pytest.mark.parametrize("loser", [A, B])
def test_the_bundle_that_has_the_object_now_keeps_it(loser: BundleName) -> None:
    wanted = {A: "x 1", B: "x 2"}
    found = refused(wanted, b="x") if loser == A else refused(wanted, a="x")
    assert set(found) == {loser}
    winner = A if loser == B else B
    assert found[loser].about == f"bundle {loser}"
    assert f"ConfigMap/shop/x belongs to bundle {winner} already (cluster eu-1)" in found[loser].message
    assert f"bundles/{winner}/bundle.yaml:2" in found[loser].remedy


def test_between_two_newcomers_the_first_name_wins() -> None:
    assert set(refused({B: "x", A: "x"})) == {B}


def test_of_three_that_claim_one_object_one_is_left() -> None:
    assert set(refused({A: "x", B: "x", C: "x"})) == {B, C}
    assert set(refused({A: "x", B: "x", C: "x"}, c="x")) == {A, B}


def test_an_object_that_changes_hands_in_one_commit_is_no_clash() -> None:
    assert refused({A: "y", B: "x"}, a="x", b="y") == {}


def test_what_a_refused_bundle_keeps_can_refuse_another() -> None:
    # b may not have x, so it keeps y, which c was to take over.
    assert set(refused({A: "x", B: "x", C: "y"}, a="x", b="y")) == {B, C}


def test_a_bundle_that_failed_keeps_what_it_runs_and_its_objects() -> None:
    assert set(refused({A: "x"}, b="x")) == {A}


def test_a_bundle_that_is_gone_gives_its_objects_to_others() -> None:
    assert refused({A: "x", B: "y"}, gone={C}, c="x y") == {}


def test_a_bundle_that_is_gone_keeps_its_objects_while_its_new_name_cannot_have_them() -> None:
    assert refused({A: "x"}, gone={B}, renamed={B: A}, b="x") == {}
    assert set(refused({A: "x"}, gone={B}, renamed={B: C}, b="x")) == {A}  # c has failed
    assert set(refused({A: "z", B: "x z", C: "y"}, gone={D}, renamed={D: B}, a="z", d="x y")) == {B, C}


def test_a_clash_on_one_cluster_refuses_the_bundle_everywhere() -> None:
    found = refused({A: {EU: "x", US: "y"}, B: {EU: "z", US: "y"}})
    assert set(found) == {B}
    assert "cluster us-1" in found[B].message


# --- a commit, with a real repository -----------------------------------------------------------------------------

CLUSTERS = "".join(
    f"---\napiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    for name in (EU, US)
)


def bundle(name: str) -> str:
    spec = "{targets: {}, namespace: shop}"
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def config(name: str, text: str = "one") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{text: {text}}}\n"


FILES = {
    "clusters/all.yaml": CLUSTERS,
    "bundles/a/bundle.yaml": bundle("a"),
    "bundles/a/config.yaml": config("a"),
    "bundles/b/bundle.yaml": bundle("b"),
    "bundles/b/config.yaml": config("b"),
}
WHO = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 0)


class Hub:
    """The parts that a commit is rendered with. `rendered` are the bundles that a worker was asked for."""

    def __init__(self, folder: Path) -> None:
        self.fleet = folder / "fleet"
        self.git = pygit2.init_repository(str(self.fleet), initial_head="main")
        self.mirror = folder / "mirror"
        self.store = GitStore.create(folder / "slices.git")
        self.journal = Journal(folder / "journal.db")
        self.pins = Pins(self.journal, folder / "sources")
        self.files: dict[str, str] = {}
        self.rendered: list[str] = []
        self.read: list[str] = []
        """The commits that a worker read whole."""
        self.last: Desired | None = None

    def works_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers run in this process: what they do counts, not where."""

        async def run(function: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
            if function is rendering._render:
                self.rendered.append(what)
            if function is requests._read:
                self.read.append(what)
            return function(*arguments)

        monkeypatch.setattr(worker, "run", run)

    def commit(self) -> Oid:
        index = pygit2.Index()
        for path, text in self.files.items():
            index.add(pygit2.IndexEntry(path, self.git.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
        tip = self.git.references.get("refs/heads/main")
        parents = [str(tip.target)] if tip is not None else []
        self.git.create_commit("refs/heads/main", WHO, WHO, "m", index.write_tree(self.git), parents)
        return sync.fetch(self.mirror, str(self.fleet), "main").commit

    async def wants(
        self, files: Mapping[str, str], *, current: Mapping[ClusterName, Mapping[BundleName, Oid]] | None = None
    ) -> Desired:
        self.files = dict(files)
        commit = self.commit()
        self.rendered.clear()
        self.read.clear()
        self.last = await desired(
            commit,
            mirror=self.mirror,
            store=self.store,
            journal=self.journal,
            pins=self.pins,
            current=current or {},
            last=self.last,
        )
        return self.last


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    made = Hub(tmp_path)
    made.works_here(monkeypatch)
    yield made
    made.journal.close()


async def test_what_a_commit_wants_is_in_the_store_when_it_is_told(hub: Hub) -> None:
    found = await hub.wants(FILES)
    assert (found.failed, found.findings) == (frozenset(), ())
    assert {name: set(wanted) for name, wanted in found.subtrees.items()} == {A: {EU, US}, B: {EU, US}}
    assert len(set(found.subtrees[A].values())) == 1  # clusters with the same inputs share a subtree
    assert hub.rendered == ["bundle a", "bundle b"]
    assert {k.name for k in hub.store.keys(found.subtrees[A][EU])} == {"a"}
    assert hub.journal.revision_of(found.subtrees[A][EU]) == found.commit


async def test_only_what_changed_is_rendered(hub: Hub) -> None:
    first = await hub.wants(FILES)
    second = await hub.wants({**FILES, "bundles/b/config.yaml": config("b", "two"), "README.md": "hello"})
    assert hub.rendered == ["bundle b"]
    assert second.subtrees[A] == first.subtrees[A]
    assert second.subtrees[B] != first.subtrees[B]
    again = await hub.wants(FILES)  # reverted: everything is known
    assert (hub.rendered, again.subtrees) == ([], first.subtrees)


@pytest.mark.parametrize(
    ("path", "text", "read"),
    [
        pytest.param("README.md", "hello", False, id="a file beside"),
        pytest.param("docs/bundles/a/bundle.yaml", "hello", False, id="a folder beside"),
        pytest.param("bundles/a/config.yaml", config("a", "two"), True, id="an object"),
        pytest.param("bundles/README.md", "hello", True, id="a file in a folder that counts"),
        pytest.param("fleet.yml", "{apiVersion: flotilla.dev/v1alpha1, kind: Fleet}", True, id="the fleet's own file"),
        pytest.param("clusters/more.yaml", CLUSTERS.replace("-1", "-2"), True, id="more clusters"),
        pytest.param("rollouts/a.yaml", "", True, id="a rollout policy"),
    ],
)
async def test_a_commit_beside_the_fleet_is_not_even_read(hub: Hub, path: str, text: str, read: bool) -> None:
    first = await hub.wants(FILES)
    second = await hub.wants({**FILES, path: text})
    assert bool(hub.read) is read
    assert second.commit != first.commit
    if not read:
        assert replace(second, commit=first.commit, rendered_s=first.rendered_s) == first


async def test_a_commit_beside_the_fleet_is_read_while_a_bundle_fails(hub: Hub) -> None:
    broken = {**FILES, "bundles/a/config.yaml": "kind: {"}
    assert (await hub.wants(broken)).failed == {A}
    assert (await hub.wants({**broken, "README.md": "hello"})).failed == {A}
    assert hub.read


async def test_a_commit_whose_forerunner_the_mirror_lost_is_read(hub: Hub) -> None:
    first = await hub.wants(FILES)
    hub.last = replace(first, commit=Oid("f" * 40))
    assert (await hub.wants(FILES)).subtrees == first.subtrees
    assert hub.read


async def test_what_the_store_lost_is_rendered_again(hub: Hub, tmp_path: Path) -> None:
    first = await hub.wants(FILES)
    hub.store = GitStore.create(tmp_path / "other.git")
    second = await hub.wants(FILES)
    assert hub.rendered == ["bundle a", "bundle b"]
    assert second.subtrees == first.subtrees


PINNED = {
    "clusters/all.yaml": CLUSTERS,
    "bundles/a/bundle.yaml": bundle("a").replace("{targets", "{pinFirstRender: true, targets"),
    "bundles/a/Chart.yaml": "apiVersion: v2\nname: a\nversion: 1.0.0\n",
    "bundles/a/templates/config.yaml": config("a", "{{ randAlphaNum 20 }}"),
}


async def test_the_first_result_of_a_pinned_chart_stays_until_its_inputs_change(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await hub.wants(PINNED)
    assert (first.failed, first.findings) == (frozenset(), ())
    monkeypatch.setattr("hub.render.build.RENDERER_VERSION", "another")
    assert (await hub.wants({**PINNED, "README.md": "hello"})).subtrees == first.subtrees
    changed = await hub.wants({**PINNED, "bundles/a/values.yaml": "b: c"})
    assert changed.subtrees != first.subtrees
    assert (await hub.wants(PINNED)).subtrees == first.subtrees


async def test_a_pinned_result_that_the_store_lost_is_made_anew_once(hub: Hub, tmp_path: Path) -> None:
    first = await hub.wants(PINNED)
    hub.store = GitStore.create(tmp_path / "other.git")
    second = await hub.wants(PINNED)
    assert second.subtrees != first.subtrees
    assert (await hub.wants({**PINNED, "README.md": "hello"})).subtrees == second.subtrees


async def test_a_chart_that_differs_and_is_not_pinned_keeps_what_it_runs(hub: Hub) -> None:
    found = await hub.wants({**PINNED, "bundles/a/bundle.yaml": bundle("a")})
    assert found.failed == {A}
    [finding] = found.findings
    assert finding.where == "bundles/a/templates/config.yaml"
    assert ": ConfigMap/a: the chart renders it differently" in finding.message


async def test_a_bundle_that_does_not_render_stops_only_itself(hub: Hub) -> None:
    found = await hub.wants({**FILES, "bundles/a/config.yaml": "kind: [ConfigMap\n"})
    assert found.failed == {A}
    assert set(found.subtrees) == {B}
    [finding] = found.findings
    assert finding.about == "bundle a"
    assert finding.where.startswith("bundles/a/config.yaml:")
    assert finding.message.startswith("bundle a does not render for eu-1, us-1: ")
    assert finding.remedy


MANY = {
    "clusters/all.yaml": "".join(
        f"---\napiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: c-{number}}}\n"
        f'spec: {{variables: {{{"other" if number == 7 else "word"}: "{number}"}}}}\n'
        for number in range(120)
    ),
    "bundles/a/bundle.yaml": bundle("a"),
    "bundles/a/config.yaml": config("a", "'${word:-none}'"),
}
UNDEFINED = {**MANY, "bundles/a/config.yaml": config("a", "'${word}'")}


async def test_what_many_clusters_warn_of_is_told_once(hub: Hub) -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {word: '${word:-none}'}\n"
    found = await hub.wants({**MANY, "bundles/a/secret.yaml": secret})
    assert len(set(found.subtrees[A].values())) == 120
    [finding] = found.findings
    assert finding.where == "bundles/a/secret.yaml:1"
    assert finding.message.startswith("Secret/shop/s: has its values in plain text")


async def test_many_clusters_of_one_bundle_are_stored_as_few_packs(hub: Hub) -> None:
    found = await hub.wants(MANY)
    assert (found.failed, len(set(found.subtrees[A].values()))) == (frozenset(), 120)
    assert hub.rendered == ["bundle a"] * 3
    assert len(hub.store.pack_sizes) == 1
    await hub.wants({**MANY, "README.md": "hello"})
    assert hub.rendered == []


async def test_of_many_clusters_only_those_that_do_not_render_are_named(hub: Hub) -> None:
    found = await hub.wants(UNDEFINED)
    assert found.failed == {A}
    assert [finding.message.split(":")[0] for finding in found.findings] == ["bundle a does not render for c-7"]
    again = await hub.wants(UNDEFINED)
    assert again.failed == {A}
    assert hub.rendered == ["bundle a"]  # the others are kept


async def test_a_request_that_kills_its_worker_does_not_take_the_others_with_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worker.run

    async def dying(function: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
        if function is rendering._render and any("c-7" in request.clusters for request in arguments[2]):
            raise Permanent(what, "its worker process died")
        return await run(function, *arguments, what=what, **options)

    monkeypatch.setattr(worker, "run", dying)
    found = await hub.wants(MANY)
    assert found.failed == {A}
    assert [finding.message.split(":")[0] for finding in found.findings] == ["bundle a does not render for c-7"]
    monkeypatch.setattr(worker, "run", run)
    assert (await hub.wants(MANY)).failed == frozenset()
    assert hub.rendered == ["bundle a"], "the one that was missing"


async def test_a_bundle_that_is_emptied_in_git_keeps_what_it_runs_until_it_says_that_it_is_meant(hub: Hub) -> None:
    await hub.wants(FILES)
    empty = {path: text for path, text in FILES.items() if path != "bundles/a/config.yaml"}
    found = await hub.wants(empty)
    assert (set(found.failed), set(found.subtrees)) == ({A}, {B})
    [finding] = found.findings
    assert finding.where == "bundles/a/bundle.yaml:1"
    assert finding.message == "bundle a does not render for eu-1, us-1: renders to no object"
    assert "allowEmpty: true" in finding.remedy
    meant = empty["bundles/a/bundle.yaml"].replace("targets", "allowEmpty: true, targets")
    found = await hub.wants({**empty, "bundles/a/bundle.yaml": meant})
    assert (found.failed, found.findings) == (frozenset(), ())
    assert hub.store.keys(found.subtrees[A][EU]) == frozenset()


async def test_a_bundle_without_a_readable_file_keeps_what_it_runs(hub: Hub) -> None:
    found = await hub.wants({**FILES, "bundles/a/bundle.yaml": "{"})
    assert found.failed == {A}
    assert set(found.subtrees) == {B}


async def test_a_bundle_that_is_gone_is_wanted_nowhere_and_has_not_failed(hub: Hub) -> None:
    await hub.wants(FILES)
    found = await hub.wants({path: text for path, text in FILES.items() if not path.startswith("bundles/a/")})
    assert (set(found.subtrees), found.failed) == ({B}, frozenset())


async def test_a_bundle_that_claims_an_object_of_another_is_refused(hub: Hub) -> None:
    first = await hub.wants(FILES)
    running = {EU: {name: wanted[EU] for name, wanted in first.subtrees.items()}}
    found = await hub.wants({**FILES, "bundles/a/more.yaml": config("b")}, current=running)
    assert found.failed == {A}
    assert [finding.about for finding in found.findings] == ["bundle a"]
    assert "ConfigMap/shop/b belongs to bundle b already" in found.findings[0].message


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(Transient("bundle a", "no worker process could be started"), True, id="the hub's trouble"),
        pytest.param(Permanent("bundle a", "took longer than 300 s"), False, id="the bundle's own"),
    ],
)
async def test_the_hubs_trouble_is_tried_again_and_fails_no_bundle(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: bool
) -> None:
    run = worker.run

    async def failing(function: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
        if what == "bundle a":
            raise error
        return await run(function, *arguments, what=what, **options)

    with monkeypatch.context() as broken:
        broken.setattr(worker, "run", failing)
        if raised:
            with pytest.raises(Transient):
                await hub.wants(FILES)
        else:
            assert (await hub.wants(FILES)).failed == {A}
    found = await hub.wants(FILES)
    assert found.failed == frozenset()
    assert hub.rendered == ["bundle a"]  # b was kept


async def test_a_bundle_that_fills_the_disk_is_named_and_tried_again_and_the_others_go_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def materialise(tree: sources.CommitTree, folder: str, destination: Path) -> None:
        if folder == "bundles/a" and not (tmp_path / "room").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        written(tree, folder, destination)

    async def here(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return function(*arguments)

    written = sources.CommitTree.materialise
    monkeypatch.setattr(worker, "run", here)
    monkeypatch.setattr(sources.CommitTree, "materialise", materialise)
    monkeypatch.setattr(build, "_kept", OrderedDict())
    found = await hub.wants(FILES)
    assert (set(found.subtrees), found.failed, found.unfinished) == ({B}, frozenset({A}), True)
    [finding] = found.findings
    assert "bundle a does not render for eu-1, us-1: cannot be rendered here" in finding.message
    assert "No space left on device" in finding.message
    (tmp_path / "room").touch()
    found = await hub.wants(FILES)
    assert (set(found.subtrees), found.failed, found.unfinished) == ({A, B}, frozenset(), False)


async def test_warnings_name_the_bundle_and_stop_nothing(hub: Hub) -> None:
    found = await hub.wants({**FILES, "bundles/a/config.yaml": config("a").replace("{name: a}", "{name: a, uid: x}")})
    assert [(finding.severity, finding.about) for finding in found.findings] == [("warning", "bundle a")]
    assert set(found.subtrees) == {A, B}


SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {word: x}\n"


async def test_a_warning_is_told_as_long_as_it_holds_rendered_or_not(hub: Hub, tmp_path: Path) -> None:
    first = await hub.wants({**FILES, "bundles/a/secret.yaml": SECRET})
    [warning] = first.findings
    assert warning.severity == "warning"
    unchanged = await hub.wants({**FILES, "bundles/a/secret.yaml": SECRET, "README.md": "hello"})
    assert (hub.rendered, unchanged.findings) == ([], (warning,))
    hub.journal.close()
    hub.journal = Journal(tmp_path / "journal.db")
    restarted = await hub.wants({**FILES, "bundles/a/secret.yaml": SECRET})
    assert (hub.rendered, restarted.findings) == ([], (warning,))
    assert (await hub.wants(FILES)).findings == ()


async def test_a_policy_for_warnings_counts_for_what_was_rendered_under_another(hub: Hub) -> None:
    def fleet(word: str) -> dict[str, str]:
        spec = f"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {{secrets: {word}}}\n"
        return {**FILES, "bundles/a/secret.yaml": SECRET, "fleet.yaml": spec}

    assert (await hub.wants(fleet("allow"))).findings == ()
    [warning] = (await hub.wants(fleet("warn"))).findings
    assert (hub.rendered, warning.severity) == ([], "warning")
    refused = await hub.wants(fleet("refuse"))
    assert refused.failed == {A}
    assert [finding.severity for finding in refused.findings] == ["error"]
    assert (await hub.wants(fleet("allow"))).findings == ()


# --- custom kinds whose definition is in another bundle -----------------------------------------------------------


def definition(scope: str = "Cluster", most: int = 9) -> str:
    return f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: rooms.example.org}}
spec:
  group: example.org
  scope: {scope}
  names: {{kind: Room, plural: rooms, singular: room, listKind: RoomList}}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties: {{spec: {{type: object, properties: {{size: {{type: integer, maximum: {most}}}}}}}}}
"""


ROOM = "apiVersion: example.org/v1\nkind: Room\nmetadata: {name: blue}\nspec: {size: 12}\n"
HOTEL = {
    "clusters/all.yaml": CLUSTERS.replace("{name: us-1}", "{name: us-1, labels: {crds: none}}"),
    "bundles/a/bundle.yaml": bundle("a"),
    "bundles/a/room.yaml": ROOM,
    "bundles/b/bundle.yaml": bundle("b").replace(
        "targets: {}", "targets: {matchExpressions: [{key: crds, operator: DoesNotExist}]}"
    ),
    "bundles/b/crd.yaml": definition(),
}


async def test_a_custom_kind_has_the_scope_that_another_bundle_of_its_cluster_defines(hub: Hub) -> None:
    found = await hub.wants(HOTEL)
    assert found.failed == frozenset()
    [here] = hub.store.keys(found.subtrees[A][EU])
    [there] = hub.store.keys(found.subtrees[A][US])
    assert (here.namespace, there.namespace) == ("", "shop")
    [warning] = found.findings
    assert (warning.where, warning.message) == ("bundles/a/room.yaml:4", "Room/blue: spec.size has to be at most 9")
    hub.rendered.clear()
    again = await hub.wants({**HOTEL, "README.md": "hello"})
    assert (hub.rendered, again.subtrees, again.findings) == ([], found.subtrees, found.findings)


async def test_another_version_of_a_definition_renders_only_who_uses_its_kind(hub: Hub) -> None:
    files = {**HOTEL, "bundles/c/bundle.yaml": bundle("c"), "bundles/c/config.yaml": config("c")}
    before = await hub.wants(files)
    after = await hub.wants({**files, "bundles/b/crd.yaml": definition(most=20)})
    assert sorted(hub.rendered) == ["bundle a", "bundle b"]
    assert after.subtrees[A] == before.subtrees[A]
    assert after.findings == ()


async def test_what_does_not_fit_a_definition_elsewhere_is_refused_where_the_fleet_says_so(hub: Hub) -> None:
    strict = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {validation: error}\n"
    found = await hub.wants({**HOTEL, "fleet.yaml": strict})
    assert (set(found.failed), set(found.subtrees)) == ({A}, {B})
    [finding] = found.findings
    assert finding.where == "bundles/a/room.yaml:4"
    assert finding.message == "bundle a does not render for eu-1: Room/blue: spec.size has to be at most 9"


async def test_a_definition_that_runs_counts_while_its_bundle_does_not_render(hub: Hub) -> None:
    before = await hub.wants(HOTEL)
    current = {EU: {name: oids[EU] for name, oids in before.subtrees.items()}}
    found = await hub.wants({**HOTEL, "bundles/b/crd.yaml": "kind: [x\n"}, current=current)
    assert found.failed == {B}
    assert found.subtrees[A] == before.subtrees[A]


async def test_what_a_pinned_chart_rendered_first_stays_whatever_is_defined_elsewhere(hub: Hub) -> None:
    chart = {
        "bundles/a/bundle.yaml": PINNED["bundles/a/bundle.yaml"],
        "bundles/a/Chart.yaml": PINNED["bundles/a/Chart.yaml"],
        "bundles/a/templates/room.yaml": ROOM.replace("12", "{{ randNumeric 5 }}"),
    }
    hotel = {path: text for path, text in HOTEL.items() if not path.startswith("bundles/a/")}
    first = await hub.wants({**hotel, **chart})
    second = await hub.wants({**hotel, **chart, "bundles/b/crd.yaml": definition(most=20)})
    assert second.subtrees[A] == first.subtrees[A]


async def test_rights_that_are_taken_away_stop_what_was_rendered_before(hub: Hub) -> None:
    def fleet(kinds: str) -> dict[str, str]:
        spec = f"{{tenants: [{{name: team, folder: bundles/a, kinds: {{allow: [{kinds}]}}}}]}}"
        return {**FILES, "fleet.yaml": f"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {spec}\n"}

    granted = await hub.wants(fleet("ConfigMap"))
    assert granted.failed == frozenset()
    taken = await hub.wants(fleet("Secret"))
    assert taken.failed == {"a"}
    (finding,) = taken.findings
    assert finding.about == "bundle a"
    assert finding.where == "bundles/a/config.yaml:1"
    assert "ConfigMap/shop/a: tenant team may not have ConfigMap" in finding.message
    assert taken.subtrees == {"b": granted.subtrees[BundleName("b")]}
    again = await hub.wants(fleet("ConfigMap"))
    assert hub.rendered == []
    assert again.subtrees == granted.subtrees


RENAMED = {path.replace("bundles/a/", "bundles/new/"): text for path, text in FILES.items()} | {
    "bundles/new/bundle.yaml": bundle("new").replace("{targets", "{renamedFrom: a, targets")
}


async def test_a_renamed_bundle_gets_the_objects_of_its_old_name(hub: Hub) -> None:
    before = await hub.wants(FILES)
    current = {cluster: {name: oids[cluster] for name, oids in before.subtrees.items()} for cluster in (EU, US)}
    found = await hub.wants(RENAMED, current=current)
    assert found.findings == ()
    assert found.fleet.renamed == {"a": "new"}
    assert found.subtrees.keys() == {"new", "b"}


async def test_a_bundle_takes_over_what_one_that_is_removed_in_the_same_commit_had(hub: Hub) -> None:
    before = await hub.wants(FILES)
    current = {cluster: {name: oids[cluster] for name, oids in before.subtrees.items()} for cluster in (EU, US)}
    files = {path: text for path, text in FILES.items() if not path.startswith("bundles/a/")}
    found = await hub.wants({**files, "bundles/b/more.yaml": config("a")}, current=current)
    assert (found.findings, found.failed) == ((), frozenset())
