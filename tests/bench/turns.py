"""The hub's loop alone: what its turns cost while rollouts go through many clusters, and when nothing happens.

A rollout of each of 20 bundles goes to every cluster at once (the default policy), agents are told in memory, and
report: first that they are there, then proof of all bundles. Then one bundle changes everywhere. `python -m
tests.bench.turns 1000` measures one fleet.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import anyio

from hub.api import snapshot, status
from hub.desired import Desired
from hub.inputs import FromAgent, Input
from hub.journal import Journal
from hub.loop import Loop
from hub.model import Bundle, Cluster, Fleet, Selector
from hub.slices import trees
from hub.slices.gitstore import GitStore
from hub.tracing import Tracing
from proto import telemetry
from proto.ids import BundleName, ClusterName, Oid
from proto.messages import BundleReport, Health, Report, WakeUp
from proto.slices import BundlePolicy
from tests.bench import processes

BUNDLES: Final = 20
OBJECTS: Final = 30
AT_ONCE: Final = 1_000
"""Reports that one turn takes at most."""
HEARTBEAT_S: Final = 30.0

Subtrees = Mapping[BundleName, Mapping[ClusterName, Oid]]


class Fleeting:
    """A loop and the agents that it thinks it has."""

    def __init__(self, folder: Path, count: int, sets: int) -> None:
        self.now = 1_700_000_000.0
        self.store = GitStore.create(folder / "slices.git")
        self.journal = Journal(folder / "journal.db")
        self.journal._db.execute("PRAGMA wal_autocheckpoint=0")  # so that the log grows by all that is written
        self._log = folder / "journal.db-wal"
        self.tracing = Tracing(telemetry.provider("bench", ""), silent=True)
        self.loop = Loop(
            journal=self.journal,
            store=self.store,
            wake=self._woken,
            direct=lambda cluster, told: None,
            tracing=self.tracing,
            heartbeat_s=HEARTBEAT_S,
            clock=lambda: self.now,
        )
        self.names = [ClusterName(f"c-{number}") for number in range(count)]
        self.sets = min(sets, count)
        self.carried = 0
        self.cpu_s = 0.0
        """Processor time of all turns."""
        self._numbers = dict.fromkeys(self.names, 0)
        bundles = [BundleName(f"b-{number}") for number in range(BUNDLES)]
        self._fleet = Fleet(
            clusters={name: Cluster(name=name, labels={"tier": "prod"}) for name in self.names},
            bundles={
                name: Bundle(name=name, folder=f"bundles/{name}", targets=Selector(), policy=BundlePolicy(name=name))
                for name in bundles
            },
        )
        self._subtrees: Subtrees = {name: self._rendered(name, "one") for name in bundles}

    def close(self) -> None:
        self.loop.close()
        self.journal.close()
        self.tracing.close()

    def _woken(self, cluster: ClusterName, wake: WakeUp) -> None:
        self.carried += bool(wake.objects)

    def _rendered(self, bundle: BundleName, text: str) -> dict[ClusterName, Oid]:
        made: list[Oid] = []
        objects: dict[Oid, tuple[str, bytes]] = {}
        for number in range(self.sets):
            whose = [f"{n} of {bundle} on {'all' if n % 10 else number}" for n in range(OBJECTS)]
            files = {f"{bundle}/ConfigMap/conf-{n:02d}.json": f"{text} {whose[n]}".encode() for n in range(OBJECTS)}
            oid, new = trees.subtree_objects({"bundle.json": b"{}", **files})
            made.append(oid)
            objects |= new
        self.store.write(tuple(objects.values()))
        return {name: made[number % self.sets] for number, name in enumerate(self.names)}

    def desired(self, revision: str, changed: Mapping[BundleName, str] | None = None) -> Desired:
        fresh = {name: self._rendered(name, text) for name, text in (changed or {}).items()}
        self._subtrees = {**self._subtrees, **fresh}
        return Desired(
            commit=Oid(revision * 40), fleet=self._fleet, subtrees=self._subtrees, failed=frozenset(), findings=()
        )

    def report(self, name: ClusterName, *, full: bool) -> Input:
        self._numbers[name] += 1
        row = self.loop.slices.get(name)
        running = row.manifest.bundles if row and full else {}
        bundles = {
            bundle: BundleReport(
                subtree=entry.subtree, converged=True, health=Health.CURRENT, counts={"Current": OBJECTS}
            )
            for bundle, entry in running.items()
        }
        report = Report(
            number=self._numbers[name],
            boot_id="b",
            seq=row.seq if row else 0,
            commit=row.commit if row else "",
            bundles=bundles,
            full=full,
        )
        return Input(what=FromAgent(cluster=name, report=report))

    async def turns(self, inputs: Iterable[Input]) -> list[float]:
        """Seconds of each of the turns that take the inputs."""
        took = []
        for batch in _batches(inputs, AT_ONCE):
            self.now += 1.0
            took.append(await self.turn(batch))
        return took

    async def turn(self, batch: list[Input]) -> float:
        before = time.monotonic(), time.process_time()
        problem = await self.loop.turn(batch)
        assert not problem, problem
        self.cpu_s += time.process_time() - before[1]
        return time.monotonic() - before[0]

    def written_mb(self) -> float:
        """To the journal, since it was opened."""
        return self._log.stat().st_size / 1e6

    def under_way(self) -> int:
        return len(self.loop.states)

    def seen(self) -> float:
        """What a look at the whole fleet costs."""
        started = time.monotonic()
        rows = [
            status.cluster(
                name,
                desired=self.loop.desired,
                row=self.loop.slices.get(name),
                live=self.loop.live.clusters.get(name),
                now=self.now,
                heartbeat_s=HEARTBEAT_S,
            )
            for name in self.names
        ]
        snapshot.clusters(rows)
        return time.monotonic() - started


def _batches(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    todo = iter(inputs)
    while batch := list(islice(todo, size)):
        yield batch


async def measured(folder: Path, count: int, sets: int) -> dict[str, Any]:
    """The numbers of one fleet; times in seconds."""
    hub = Fleeting(folder, count, sets)
    found: dict[str, Any] = {}
    hub.now += 3 * HEARTBEAT_S
    found["hello_turn"] = max(await hub.turns(hub.report(name, full=True) for name in hub.names))
    cpu_s = [hub.cpu_s]
    found["start"] = await hub.turn([Input(what=hub.desired("1"))])
    cpu_s.append(hub.cpu_s)
    found["proof"] = sum(await hub.turns(hub.report(name, full=True) for name in hub.names))
    cpu_s.append(hub.cpu_s)
    assert not hub.under_way()
    before = hub.written_mb()
    found["one_bundle_start"] = await hub.turn([Input(what=hub.desired("2", {BundleName("b-0"): "two"}))])
    cpu_s.append(hub.cpu_s)
    found["one_bundle_proof"] = sum(await hub.turns(hub.report(name, full=True) for name in hub.names))
    cpu_s.append(hub.cpu_s)
    steps = ("start", "proof", "one_bundle_start", "one_bundle_proof")
    found |= {f"{step}_cpu": after - before for step, (before, after) in zip(steps, pairwise(cpu_s), strict=True)}
    assert not hub.under_way()
    found["written_mb"] = hub.written_mb() - before
    found["wakes_that_carry_all"] = hub.carried
    found["idle_turn"] = sum(await hub.turns(hub.report(name, full=False) for name in hub.names))
    found["nothing_turn"] = await hub.turn([])
    found["fleet_view"] = hub.seen()
    found["hub_mb"] = processes.memory_mb(os.getpid())[0]
    hub.close()
    return {key: round(value, 4) for key, value in found.items()}


def main() -> None:
    count = int(sys.argv[1])
    sets = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        print(json.dumps(anyio.run(measured, Path(folder), count, sets)))


if __name__ == "__main__":
    main()
