"""Killed after any request, on either side of it, and started again: the agent always comes to the same end.

A run plays a history of slices against an API server in memory. Before each request, or after the server did it and
before the answer, the agent may be killed: everything in memory is lost, the inventory's file stays. Then it goes on.
The slices have workloads, configuration, a hook that runs before the rest and is deleted once it succeeded, and a Job
whose time to live ends when it does; on the way bundles are suspended and kinds forbidden.
"""

import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.apply import order as ordering
from agent.apply.parents import KINDS_ANNOTATION, Parents
from agent.apply.plan import plan
from agent.apply.reconcile import Reconciler
from agent.drift.observe import Observer
from agent.inventory import Inventory
from agent.kube.pace import Pace
from agent.model import Desired, DesiredBundle, Entry, Limits, Resource, WatchEvent
from agent.tracing import Tracing
from proto.ids import Oid
from proto.objects import ObjectKey, blob_id, canonical, key_of
from proto.slices import BUNDLE_LABEL, BundlePolicy, with_membership
from tests.fakes import FakeCluster, Killed

NAMES = ("a", "b", "c", "d", "hook", "job")
BUNDLES = ("left", "right")


@dataclass(frozen=True)
class Want:
    """One slice: each object's bundle and value; and what keeps the agent from doing it."""

    objects: dict[str, tuple[str, int]]
    suspended: frozenset[str] = frozenset()
    forbidden: tuple[str, ...] = ()


History = list[Want]
"""In the last one nothing is suspended or forbidden: only so is there one end to come to."""

Kill = tuple[float, bool]
"""After how many steps of a life, and whether a newer slice is there afterwards."""

objects = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(BUNDLES), st.integers(0, 2)), max_size=5)
hindered = st.builds(
    Want,
    objects=objects,
    suspended=st.frozensets(st.sampled_from(BUNDLES), max_size=1),
    forbidden=st.sampled_from([(), ("ConfigMap",), ("Job.batch",)]),
)
histories = st.tuples(st.lists(hindered, max_size=3), objects).map(lambda parts: [*parts[0], Want(objects=parts[1])])


def manifest(name: str, value: int) -> dict[str, Any]:
    """Kinds come and go, and there is something to wait for."""
    metadata: dict[str, Any] = {"name": name, "namespace": "shop"}
    match name:
        case "a" | "b":
            return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": str(value)}}
        case "hook":
            deletion = {"helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded"}
            metadata["annotations"] = {"helm.sh/hook": "pre-install,pre-upgrade", **deletion}
    api_version, kind = ("apps/v1", "Deployment") if name in "cd" else ("batch/v1", "Job")
    spec = {"value": str(value)} | ({"ttlSecondsAfterFinished": 0} if name == "job" else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def slice_of(want: Want, seq: int) -> tuple[Desired, dict[Oid, bytes]]:
    wanted = want.objects
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


KINDS = tuple(
    Resource(group=group, version="v1", kind=kind, plural=kind.lower() + "s", namespaced=True)
    for group, kind in (("", "ConfigMap"), ("apps", "Deployment"), ("batch", "Job"))
)


class World:
    """An API server, an inventory file, and a budget of steps after which the agent dies."""

    def __init__(self, folder: Path) -> None:
        self.cluster = FakeCluster()
        self.cluster.settles = False
        self.cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        self.cluster.kinds["flotilla.dev/v1alpha1/AppliedBundle"] = False
        self.path = folder / "inventory.db"
        self.last: dict[ObjectKey, dict[str, Any]] = {}
        self.steps_left: float = float("inf")
        self.cluster.before = self.cluster.after = self.step
        self.deleted: list[ObjectKey] = []

    def step(self, method: str, key: ObjectKey) -> None:
        if method == "delete" and key.kind != "AppliedBundle":
            self.deleted.append(key)
        if self.steps_left <= 0:
            raise Killed
        self.steps_left -= 1

    async def enforce(self, want: Want, seq: int) -> None:
        """One life of the agent: until nothing is left to do, or killed."""
        desired, files = slice_of(want, seq)
        with Inventory(self.path) as inventory:
            parents = await self._known_parents()
            keys = {key for bundle in desired.bundles.values() for key in bundle.objects}
            observer = Observer(
                inventory,
                wanted=keys.__contains__,
                suspect=lambda key, event: self._suspected(inventory.entries[key], event),
                unwanted_gone=lambda key: None,
                changed=lambda: None,
                clock=lambda: 0.0,
                expires=lambda key: key in traits and traits[key].expires,
            )
            reconciler = Reconciler(
                self.cluster,
                inventory,
                parents,
                read=files.__getitem__,
                writing=_writing,
                applied=observer.applied,
                tracing=Tracing("eu-1", None),
                pace=Pace(start=2, most=2),
                jitter=lambda: 0.0,
            )
            traits = {
                key: ordering.traits(orjson.loads(files[blob]))
                for bundle in desired.bundles.values()
                for key, blob in bundle.objects.items()
            }
            order = ordering.order(
                {name: {key: traits[key] for key in one.objects} for name, one in desired.bundles.items()}
            )
            self._open_watches(inventory, observer)
            for now in itertools.count(0.0, 1e6):
                moved = self._watch(inventory, observer)
                made = plan(
                    desired,
                    inventory.entries,
                    order=order,
                    failures=reconciler.failures,
                    parents=parents.named,
                    now=now,
                    limits=Limits(forbidden_kinds=want.forbidden),
                    suspended=dict.fromkeys(want.suspended, "somebody looks at it"),
                )
                if made.idle and not moved:
                    await inventory.save()
                    return
                assert now < 30e6, f"does not come to an end: {made}"
                for one in made.bundles.values():
                    await reconciler.run(one, desired.bundles.get(one.bundle), traits=traits, superseded=lambda: False)

    def _open_watches(self, inventory: Inventory, observer: Observer) -> None:
        """What is there when a life begins; what went while nobody looked is told by its absence alone."""
        self.last.clear()
        for resource in KINDS:
            observer.opening((resource.group, resource.kind))
            for key in inventory.entries.keys() & self.cluster.objects.keys():
                if (key.group, key.kind) == (resource.group, resource.kind):
                    observer.see(WatchEvent(kind="ADDED", resource=resource, object=self.cluster.objects[key]))
            observer.see(WatchEvent(kind="SYNCED", resource=resource))

    def _watch(self, inventory: Inventory, observer: Observer) -> bool:
        """What the watches tell of each object as it is now. Then the cluster goes on: workloads become ready, Jobs
        end, and those that finished before go when their time to live is over. Whether anything did."""
        moved = False
        for key in list(inventory.entries):
            (resource,) = (one for one in KINDS if one.kind == key.kind)
            live = self.cluster.objects.get(key)
            if live is not None:
                self.last[key] = live
                observer.judge(key, WatchEvent(kind="MODIFIED", resource=resource, object=live))
                if "ttlSecondsAfterFinished" in live.get("spec", {}) and "status" in live:
                    self.cluster.remove(key)
                elif key.group:
                    self.cluster.finish(key)
                moved |= self.cluster.objects.get(key) is not live
            elif key in self.last:
                observer.judge(key, WatchEvent(kind="DELETED", resource=resource, object=self.last.pop(key)))
        return moved

    def _suspected(self, entry: Entry, event: WatchEvent) -> None:
        """Nobody but us writes here, so nothing is drift; what a pass is at is not looked at."""
        assert entry.unsettled or entry.baseline is None, f"{event.kind} of {entry} is taken for drift"

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
        return {key for key in self.cluster.objects if key.kind in ("ConfigMap", "Deployment", "Job")}

    def parents(self) -> dict[str, set[str]]:
        return {
            key.name: set(live["metadata"]["annotations"][KINDS_ANNOTATION].split(","))
            for key, live in self.cluster.objects.items()
            if key.kind == "AppliedBundle"
        }


@asynccontextmanager
async def _writing(key: ObjectKey) -> AsyncIterator[None]:
    yield


def lasting(want: Want) -> set[ObjectKey]:
    """What is there in the end: Jobs are gone once they finished."""
    desired, _ = slice_of(want, 1)
    return {key for bundle in desired.bundles.values() for key in bundle.objects if key.kind != "Job"}


async def play(folder: Path, history: History, kills: list[Kill]) -> World:
    """Each slice until it is done, or until the agent dies and a newer one is there when it starts again."""
    world = World(folder)
    deaths = iter(kills)
    for seq, want in enumerate(history, start=1):
        keep = lasting(want)
        world.deleted.clear()
        finished = False
        while not finished:
            world.steps_left, superseded = next(deaths, (float("inf"), False))
            try:
                await world.enforce(want, seq)
                finished = True
            except* Killed:
                finished = superseded and seq < len(history)
        assert not keep & set(world.deleted), "an object that the slice wants was deleted"
    return world


@pytest.mark.timeout(300)  # thousands of saves, each of which waits for the disk
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
            assert killed.workloads() == lasting(history[-1])
            assert killed.parents() == {name: {key.gk for key in one.objects} for name, one in wanted.bundles.items()}
            with Inventory(killed.path) as inventory:
                assert inventory.entries.keys() == keys
                assert {key for key, entry in inventory.entries.items() if entry.finished} == {
                    key for key in keys if key.kind == "Job"
                }

    anyio.run(run)


def test_an_object_that_was_changing_bundles_at_the_kill_is_pruned_all_the_same(tmp_path: Path) -> None:
    history: History = [Want({"a": ("right", 0), "b": ("left", 0)}), Want({"a": ("left", 0)}), Want({})]

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
            await world.enforce(history[-1], len(history))
            assert world.cluster.requests == []

    anyio.run(run)


def test_a_kill_at_each_single_step_of_a_long_history(tmp_path: Path) -> None:
    history: History = [
        Want({"a": ("left", 0), "b": ("left", 0), "c": ("right", 0), "hook": ("left", 0), "job": ("right", 0)}),
        Want({"a": ("right", 1), "c": ("right", 0), "d": ("left", 2), "hook": ("left", 1)}, frozenset({"right"})),
        Want({"a": ("right", 1), "hook": ("left", 2), "job": ("right", 1)}),
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
            for seq, want in enumerate(history, start=1):
                try:
                    await world.enforce(want, seq)
                except* Killed:
                    world.steps_left = float("inf")
                    await world.enforce(want, seq)
            assert world.state() == expected.state(), f"killed at step {step}"

    anyio.run(run)
