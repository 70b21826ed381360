"""Killed after any request, on either side of it, and started again: the agent always comes to the same end.

A run plays a history of slices against an API server in memory. Before each request, or after the server did it and
before the answer, the agent may be killed: everything in memory is lost, the inventory's file stays. Then it goes on.
"""

import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.apply import order as ordering
from agent.apply.parents import KINDS_ANNOTATION, Parents
from agent.apply.plan import plan
from agent.apply.reconcile import Reconciler
from agent.inventory import Inventory
from agent.model import Desired, DesiredBundle, Entry
from agent.tracing import Tracing
from proto.health import Verdict
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey, blob_id, canonical, key_of
from proto.slices import BUNDLE_LABEL, BundlePolicy, with_membership
from tests.fakes import FakeCluster, Killed

NAMES = ("a", "b", "c", "d")
BUNDLES = ("left", "right")

History = list[dict[str, tuple[str, int]]]
"""Slices in order; each maps an object's name to its bundle and a value."""

Kill = tuple[float, bool]
"""After how many steps of a life, and whether a newer slice is there afterwards."""

slices = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(BUNDLES), st.integers(0, 2)), max_size=4)
histories = st.lists(slices, min_size=1, max_size=4)


def manifest(name: str, value: int) -> dict[str, Any]:
    """Two of the names are workloads, so that kinds come and go and there is something to wait for."""
    api_version, kind = ("apps/v1", "Deployment") if name in "cd" else ("v1", "ConfigMap")
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec" if kind == "Deployment" else "data": {"value": str(value)},
    }


def slice_of(wanted: dict[str, tuple[str, int]], seq: int) -> tuple[Desired, dict[Oid, bytes]]:
    files: dict[Oid, bytes] = {}
    used = {bundle for bundle, _ in wanted.values()}
    bundles: dict[str, dict[ObjectKey, Oid]] = {name: {} for name in BUNDLES if name in used}
    for name, (bundle, value) in wanted.items():
        data = canonical(with_membership(manifest(name, value), bundle))
        files[blob_id(data)] = data
        bundles[bundle][key_of(manifest(name, value))] = blob_id(data)
    desired = Desired(
        commit=Oid(f"{seq:040x}"),
        seq=seq,
        bundles={
            name: DesiredBundle(
                name=name,
                subtree=Oid(name),
                rollout="",
                revision="",
                policy=BundlePolicy(name=name),
                objects=objects,
            )
            for name, objects in bundles.items()
        },
    )
    return desired, files


class World:
    """An API server, an inventory file, and a budget of steps after which the agent dies."""

    def __init__(self, folder: Path) -> None:
        self.cluster = FakeCluster()
        self.cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        self.cluster.kinds["flotilla.dev/v1alpha1/AppliedBundle"] = False
        self.path = folder / "inventory.db"
        self.steps_left: float = float("inf")
        self.cluster.before = self.cluster.after = self.step
        self.deleted: list[ObjectKey] = []

    def step(self, method: str, key: ObjectKey) -> None:
        if method == "delete" and key.kind != "AppliedBundle":
            self.deleted.append(key)
        if self.steps_left <= 0:
            raise Killed
        self.steps_left -= 1

    async def enforce(self, desired: Desired, files: dict[Oid, bytes]) -> None:
        """One life of the agent: until nothing is left to do, or killed."""
        with Inventory(self.path) as inventory:
            parents = await self._known_parents()
            reconciler = Reconciler(
                self.cluster,
                inventory,
                parents,
                read=files.__getitem__,
                writing=_writing,
                applied=_take,
                tracing=Tracing("eu-1", None),
                concurrency=2,
                jitter=lambda: 0.0,
            )
            traits = {
                key: ordering.Traits(api_version="apps/v1" if key.group else "v1")
                for bundle in desired.bundles.values()
                for key in bundle.objects
            }
            order = ordering.order(
                {name: {key: traits[key] for key in one.objects} for name, one in desired.bundles.items()}
            )
            for entry in inventory.entries.values():  # what the watches' initial events say
                entry.health = _current(self.cluster, entry)
            for now in itertools.count(0.0, 1e6):
                made = plan(
                    desired,
                    inventory.entries,
                    order=order,
                    failures=reconciler.failures,
                    parents=parents.named,
                    now=now,
                )
                if made.idle:
                    return
                assert now < 30e6, f"does not come to an end: {made}"
                for one in made.bundles.values():
                    await reconciler.run(one, desired.bundles.get(one.bundle), traits=traits, superseded=lambda: False)

    async def _known_parents(self) -> Parents:
        parents = Parents(self.cluster)
        resource = await self.cluster.resource("flotilla.dev/v1alpha1", "AppliedBundle")
        async for event in self.cluster.watch(resource, selector="applyset.kubernetes.io/id", metadata_only=True):
            parents.seen(event)
            if event.kind == "SYNCED":
                break
        return parents

    def state(self) -> dict[str, tuple[str, Any]]:
        return {
            str(key): (live["metadata"].get("labels", {}).get(BUNDLE_LABEL, ""), live.get("data") or live.get("spec"))
            for key, live in self.cluster.objects.items()
            if key in self.workloads()
        }

    def workloads(self) -> set[ObjectKey]:
        return {key for key in self.cluster.objects if key.kind in ("ConfigMap", "Deployment")}

    def parents(self) -> dict[str, set[str]]:
        return {
            key.name: set(live["metadata"]["annotations"][KINDS_ANNOTATION].split(","))
            for key, live in self.cluster.objects.items()
            if key.kind == "AppliedBundle"
        }


@asynccontextmanager
async def _writing(key: ObjectKey) -> AsyncIterator[None]:
    yield


def _take(entry: Entry, found: Verdict) -> None:
    entry.health, entry.reason, entry.message = found


def _current(cluster: FakeCluster, entry: Entry) -> Health:
    return Health.CURRENT if entry.key in cluster.objects else Health.NOT_FOUND


async def play(folder: Path, history: History, kills: list[Kill]) -> World:
    """Each slice until it is done, or until the agent dies and a newer one is there when it starts again."""
    world = World(folder)
    deaths = iter(kills)
    for seq, wanted in enumerate(history, start=1):
        desired, files = slice_of(wanted, seq)
        keep = {key for bundle in desired.bundles.values() for key in bundle.objects}
        world.deleted.clear()
        finished = False
        while not finished:
            world.steps_left, superseded = next(deaths, (float("inf"), False))
            try:
                await world.enforce(desired, files)
                finished = True
            except* Killed:
                finished = superseded and seq < len(history)
        assert not keep & set(world.deleted), "an object that the slice wants was deleted"
    return world


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories, kills=st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=6))
def test_every_interrupted_history_comes_to_the_same_end(history: History, kills: list[Kill]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as smooth, tempfile.TemporaryDirectory() as rough:
            expected = await play(Path(smooth), history, [])
            killed = await play(Path(rough), history, kills)
            assert killed.state() == expected.state()
            wanted, _ = slice_of(history[-1], 1)
            keys = {key for bundle in wanted.bundles.values() for key in bundle.objects}
            assert killed.workloads() == keys
            assert killed.parents() == {name: {key.gk for key in one.objects} for name, one in wanted.bundles.items()}
            with Inventory(killed.path) as inventory:
                assert inventory.entries.keys() == keys

    anyio.run(run)


def test_an_object_that_was_changing_bundles_at_the_kill_is_pruned_all_the_same(tmp_path: Path) -> None:
    history: History = [{"a": ("right", 0), "b": ("left", 0)}, {"a": ("left", 0)}, {}]

    async def run() -> None:
        for step in range(30):
            (tmp_path / str(step)).mkdir()
            world = await play(tmp_path / str(step), history, [(float("inf"), False), (step, True)])
            assert world.workloads() == set(), f"killed at step {step} of the second slice"

    anyio.run(run)


@settings(max_examples=30, deadline=None)
@given(history=histories)
def test_a_restart_after_the_end_writes_nothing(history: History) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = await play(Path(folder), history, [])
            world.cluster.requests.clear()
            await world.enforce(*slice_of(history[-1], len(history)))
            assert world.cluster.requests == []

    anyio.run(run)


def test_a_kill_at_each_single_step_of_a_long_history(tmp_path: Path) -> None:
    history: History = [
        {"a": ("left", 0), "b": ("left", 0), "c": ("right", 0)},
        {"a": ("right", 1), "c": ("right", 0), "d": ("left", 2)},
        {"a": ("right", 1)},
    ]

    async def run() -> None:
        (tmp_path / "smooth").mkdir()
        expected = await play(tmp_path / "smooth", history, [])
        steps = 2 * len(expected.cluster.requests)
        for step in range(steps):
            folder = tmp_path / str(step)
            folder.mkdir()
            world = World(folder)
            world.steps_left = step
            for seq, wanted in enumerate(history, start=1):
                desired, files = slice_of(wanted, seq)
                try:
                    await world.enforce(desired, files)
                except* Killed:
                    world.steps_left = float("inf")
                    await world.enforce(desired, files)
            assert world.state() == expected.state(), f"killed at step {step}"

    anyio.run(run)
