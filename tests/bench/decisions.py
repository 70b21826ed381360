"""What decisions cost while many rollouts are in flight: the loop's turns with its real journal, and what it writes.

A hundred rollouts are in flight on 10,000 clusters, each half through the second of three waves, and every cluster is a
member of each (the most that can be), or a tenth of them, or a hundredth. Then three waves go through 100 agents that
prove in the very next turn, so that all that passes is the hub's own. `python -m tests.bench.decisions` prints rows.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from hub import collector, record
from hub.desired import Desired
from hub.inputs import FromAgent, Input
from hub.journal import Decision, Journal, SliceRow
from hub.loop import Loop
from hub.model import Amount, Fleet, RolloutPolicy, WavePolicy
from hub.rollout import rollouts
from hub.slices.gitstore import GitStore
from hub.state import ClusterView, MemberPhase, Reported, Rollout, State, Target, Tick, Wave
from hub.tracing import Tracing
from proto import telemetry
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Health, Report
from proto.slices import BundleEntry, SliceManifest
from tests.bench import turns

CLUSTERS: Final = 10_000
ROLLOUTS: Final = 100
MEMBERS: Final = (100, 1_000, 10_000)
AGENTS: Final = 100
REPEATS: Final = 15
NOW: Final = 1_700_000_000.0
SOAK_S: Final = 3600.0
OLD, NEW = Oid("a" * 40), Oid("b" * 40)
WORD: Final = BundleReport(subtree=NEW, health=Health.CURRENT, converged=True, counts={"Current": 30})


def rollout(number: int, members: tuple[ClusterName, ...]) -> Rollout:
    bundle, half = BundleName(f"b-{number}"), len(members) // 2
    waves = {"canary": members[:1], "half": members[1:half], "rest": members[half:]}
    return Rollout(
        id=RolloutId(f"{bundle}-{number}"),
        number=number,
        bundles=(bundle,),
        revision=Oid("c" * 40),
        made_at=NOW,
        targets=dict.fromkeys(members, Target(before={bundle: OLD}, after={bundle: NEW})),
        waves=tuple(
            Wave(
                name=name,
                clusters=clusters,
                max_concurrent=min(100, len(members) // 10),
                soak_s=SOAK_S,
                min_proof=1,
                offline_budget=len(clusters),
                failure_budget=0,
            )
            for name, clusters in waves.items()
        ),
        deadline_s=86400.0,
        action="rollback",
        offline_after_s=86400.0,
    )


def under_way(made: Rollout) -> tuple[State, dict[ClusterName, ClusterView]]:
    """Half of its second wave is proven, and as many as may be soak; and what its clusters said."""
    seen = ClusterView(next_seq=2, last_seen=math.inf, seq=9, bundles={made.bundles[0]: WORD})
    views, at = dict.fromkeys(made.targets, seen), NOW
    state, _ = rollouts.decide(rollouts.start(made, at), [Tick()], views, at, heartbeat_s=1e9)
    while state.tallies[1].phases.get(MemberPhase.PROVEN, 0) < len(made.waves[1].clusters) // 2:
        for after_s in (0.0, SOAK_S + 1.0):
            at += after_s
            told = [Reported(cluster=name) for name in state.members if rollouts.concerns(state, name)]
            state, _ = rollouts.decide(state, told, views, at, heartbeat_s=1e9)
    told = [Reported(cluster=name) for name, member in state.members.items() if member.phase is MemberPhase.MOVING]
    return rollouts.decide(state, told, views, at, heartbeat_s=1e9)[0], views


def shifted(state: State, number: int, members: tuple[ClusterName, ...]) -> State:
    """As `state`, with another rollout's members in the places of its own."""
    return replace(
        state, rollout=rollout(number, members), members=dict(zip(members, state.members.values(), strict=True))
    )


class Took(NamedTuple):
    wall_ms: float
    cpu_ms: float

    @classmethod
    def median(cls, each: Sequence["Took"]) -> "Took":
        """Of the two by themselves. Beside other work the processor's is what the turn needs."""
        return cls(statistics.median(one.wall_ms for one in each), statistics.median(one.cpu_ms for one in each))


class Busy:
    """A loop with rollouts in flight, which it read from its journal."""

    def __init__(self, folder: Path, members: int) -> None:
        names = tuple(ClusterName(f"c-{n:05d}") for n in range(CLUSTERS))
        first, _ = under_way(rollout(1, names[:members]))
        moved = (((n * 97) % CLUSTERS, n) for n in range(1, ROLLOUTS + 1))
        states = [shifted(first, n, (*names[by:], *names[:by])[:members]) for by, n in moved]
        self.names, self.now = names, first.updated_at
        self.flying = sum(tally.phases.get(MemberPhase.SOAKING, 0) for state in states for tally in state.tallies)
        self.tracing = Tracing(telemetry.provider("bench", ""), silent=True)
        self.journal = Journal(folder / "journal.db")
        self.journal.commit(Decision(rollouts=[record.row(None, state, tail=record.Tail()) for state in states]))
        self.loop = Loop(
            journal=self.journal,
            store=GitStore.create(folder / "slices.git"),
            wake=lambda cluster, wake: None,
            direct=lambda cluster, told: None,
            tracing=self.tracing,
            heartbeat_s=1e6,
            clock=lambda: self.now,
        )
        self.loop._settle_until = 0.0
        bundles = [f"b-{n}" for n in range(1, ROLLOUTS + 1)]
        entries = {name: BundleEntry(subtree=NEW, revision="c" * 40, rollout="x") for name in bundles}
        row = SliceRow(
            cluster=names[0], seq=9, commit=NEW, time_s=0, manifest=SliceManifest(cluster="c", seq=9, bundles=entries)
        )
        self.loop.slices = {name: replace(row, cluster=name) for name in names}
        self.loop.desired = Desired(commit=NEW, fleet=Fleet(), subtrees={}, failed=frozenset(), findings=())
        self._numbers = dict.fromkeys(names, 0)
        for name in names:
            self.loop.live.report(name, self._report(name, dict.fromkeys(bundles, WORD)), self.now)

    def _report(self, name: ClusterName, words: Mapping[str, BundleReport]) -> Report:
        self._numbers[name] += 1
        number = self._numbers[name]
        return Report(number=number, boot_id="b", seq=9, commit=NEW, bundles=dict(words), full=bool(words))

    def close(self) -> None:
        self.loop.close()
        self.journal.close()
        self.tracing.close()

    async def turn(self, names: Iterable[ClusterName] = (), *, due: bool = False) -> Took:
        """A turn in which these clusters report; `due`: each rollout is looked at."""
        self.now += 1.0
        batch = [Input(what=FromAgent(cluster=name, report=self._report(name, {}))) for name in names]
        if due:
            self.loop.memory = replace(self.loop.memory, wakes={})
        before = time.perf_counter(), time.process_time()
        problem = await self.loop.turn(batch)
        assert not problem, problem
        return Took(wall_ms=(time.perf_counter() - before[0]) * 1e3, cpu_ms=(time.process_time() - before[1]) * 1e3)


async def busy(members: int) -> dict[str, Took]:
    """What turns take, medians."""
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        hub = Busy(Path(folder), members)
        many = CLUSTERS // 100
        await hub.turn(due=True)
        chosen = [hub.names[n::many][:many] for n in range(REPEATS)]
        found = {
            "all_due": Took.median([await hub.turn(due=True) for _ in range(REPEATS)]),
            "reports": Took.median([await hub.turn(names) for names in chosen]),
            "nothing": Took.median([await hub.turn() for _ in range(REPEATS)]),
        }
        assert hub.flying == sum(
            member.phase is MemberPhase.SOAKING
            for state in hub.loop.states.values()
            for member in state.members.values()
        )
        hub.close()
        return found


def decisions_per_s(members: int, *, times: int = 3000) -> float:
    """Each takes the report of one cluster that soaks."""
    state, views = under_way(rollout(1, tuple(ClusterName(f"c-{n:05d}") for n in range(members))))
    flying = [name for name, member in state.members.items() if member.phase is MemberPhase.SOAKING]
    started = time.perf_counter()
    for n in range(times):
        told = [Reported(cluster=flying[n % len(flying)])]
        state, _ = rollouts.decide(state, told, views, state.updated_at + 1.0, heartbeat_s=1e9)
    return times / (time.perf_counter() - started)


async def waves() -> dict[str, float]:
    """Three waves of agents that have applied and say so in the very next turn, for one bundle of 30 objects."""
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        hub = turns.Fleeting(Path(folder), AGENTS, 1)
        hub.now += 3 * turns.HEARTBEAT_S
        await hub.turns(hub.report(name, full=True) for name in hub.names)
        desired, bundle = hub.desired("1"), BundleName("b-0")
        third = WavePolicy(name="first", share=Amount(value=AGENTS // 3))
        policy = RolloutPolicy(name="three", waves=(third, replace(third, name="second")))
        one = replace(desired.fleet.bundles[bundle], rollout=policy.name)
        fleet = replace(desired.fleet, bundles={bundle: one}, policies={policy.name: policy})
        before = hub.written_mb()
        subtrees = {bundle: desired.subtrees[bundle]}
        took = [await hub.turn([Input(what=replace(desired, fleet=fleet, subtrees=subtrees))])]
        while hub.under_way():
            hub.now += 1.0
            took.append(await hub.turn([hub.report(name, full=True) for name in hub.names]))
        [(transactions, record_bytes)] = hub.journal._db.execute(
            "SELECT count(*), sum(length(step)) FROM steps"
        ).fetchall()
        written = hub.written_mb() - before
        hub.close()
    return {
        "s": sum(took),
        "turns": len(took),
        "written_kb": written * 1e3,
        "transactions": transactions,
        "record_kb": record_bytes / 1e3,
    }


def measured() -> list[dict[str, Any]]:
    """The rows of the table, measured in this process."""
    own = anyio.run(waves)
    per_s = {f"{members:,} members": round(decisions_per_s(members)) for members in MEMBERS}
    found = {f"{members:,} members": anyio.run(busy, members) for members in MEMBERS}
    fleet = f"{CLUSTERS:,} clusters, {ROLLOUTS} rollouts in flight"

    def row(what: str, key: str, **more: str) -> dict[str, Any]:
        detail = {size: round(one[key].wall_ms, 1) for size, one in found.items()}
        cpu = {f"{size}, processor time": round(one[key].cpu_ms, 1) for size, one in found.items()}
        return {
            "what": f"{fleet}: {what}",
            "value": [*detail.values()][-1],
            "unit": "ms, median",
            "detail": {**detail, **cpu},
            **more,
        }

    return [
        {
            "what": "decisions of the engine, a report each",
            "value": [*per_s.values()][-1],
            "unit": "per second",
            "detail": per_s,
        },
        row("a tick in which all are due", "all_due", goal="< 50"),
        row("a turn in which 1 % report", "reports"),
        row("a turn with nothing to do", "nothing"),
        {
            "what": f"3 waves over {AGENTS} agents, beyond the applying itself",
            "value": round(own["s"], 3),
            "unit": "s",
            "goal": "< 2",
            "detail": {"turns": own["turns"]},
        },
        {
            "what": f"written to the journal for that rollout of {AGENTS} clusters",
            "value": round(own["written_kb"]),
            "unit": "kB",
            "detail": {"transactions": own["transactions"], "its_record_kb": round(own["record_kb"], 1)},
        },
    ]


def measure() -> list[dict[str, Any]]:
    """The rows of the table, from a process of their own."""
    command = [sys.executable, "-m", "tests.bench.decisions"]
    rows: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return rows


if __name__ == "__main__":
    collector.seldom()  # as a hub does
    print(json.dumps(measured(), indent=2))
