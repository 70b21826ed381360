"""What each rollout waited for, second by second, so that all parts add up to the whole.

| the rollout is, or its open wave has                   | it waits for                                             |
|--------------------------------------------------------|----------------------------------------------------------|
| not begun: an earlier one of its bundle is under way   | `queue`                                                  |
| paused; rolling back                                   | `paused`; `rollback`                                     |
| a gate that is shut (of several, the first)            | `gate NAME`                                              |
| clusters in flight, none waits for room                | `apply` while one is applying, else `soak`               |
| clusters in flight, and others wait for their room     | `maxConcurrent`                                          |
| clusters that wait, none in flight                     | `freeze`, `window`, `maxUnavailable`, `maxChanges`,      |
|                                                        | `dependency`, or `offline` when they are just not heard  |
| clusters that are offline, more than the budget        | `offline`; so it is while all in flight are not heard    |
| too few that can prove                                 | `proof`                                                  |

Pure. Next: `figures`, `picture`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hub.repo import windows
from hub.rollout import gates, transitions
from hub.state import FINAL, MemberPhase, Phase, State
from proto.ids import BundleName, ClusterName, Oid, RolloutId

P, M = Phase, MemberPhase
QUEUE, PAUSED, ROLLBACK, APPLY, SOAK = "queue", "paused", "rollback", "apply", "soak"
MAX_CONCURRENT, MAX_UNAVAILABLE, MAX_CHANGES = "maxConcurrent", "maxUnavailable", "maxChanges"
WINDOW, FREEZE, OFFLINE, DEPENDENCY, PROOF, GATE = "window", "freeze", "offline", "dependency", "proof", "gate "
SHARES = (50, 95, 100)
_LOOKED_AT = 10
"""Of more clusters in flight nobody asks whether all of them are silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Somebody changed a bundle, at `at`; a `bad` one fails on clusters `shows_s` after they have it, more or less."""

    number: int
    bundle: BundleName
    at: float
    bad: bool
    shows_s: float
    subtree: Oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """From `start` to `end` a rollout waited for `kind`; `wave` is "" where it is no wave's."""

    start: float
    end: float
    wave: str
    kind: str


@dataclass(slots=True, kw_only=True)
class Entry:
    """One rollout. `parts` go from its commit to its end without a gap. `reached`: share of the clusters → when so many
    were proven. `exposed`: how many clusters took a bad commit. `end` is infinite while it is under way."""

    rollout: RolloutId
    bundle: BundleName
    commit: Commit | None
    waves: tuple[str, ...]
    clusters: int
    commits: tuple[Oid, ...]
    made_at: float
    phase: Phase = Phase.RUNNING
    reason: str = ""
    end: float = math.inf
    parts: list[Part] = field(default_factory=list)
    reached: dict[int, float] = field(default_factory=dict)
    exposed: int = 0
    paused: int = 0
    rolled_back_at: float = 0.0
    since: float = 0.0
    waits: tuple[str, str] = ("", "")

    @property
    def committed_at(self) -> float:
        return self.commit.at if self.commit is not None else self.made_at


def opened(state: State, commit: Commit | None, now: float) -> Entry:
    """Pure: the entry of a rollout that begins; what it waited until now was its queue."""
    rollout = state.rollout
    made = Entry(
        rollout=rollout.id,
        bundle=rollout.bundles[0],
        commit=commit,
        waves=tuple(wave.name for wave in rollout.waves),
        clusters=len(rollout.targets),
        commits=rollout.commits,
        made_at=now,
        since=now,
    )
    if now > made.committed_at:
        made.parts.append(Part(start=made.committed_at, end=now, wave="", kind=QUEUE))
    return made


def record(entry: Entry, state: State, now: float, *, frozen: str, silent: Callable[[ClusterName], bool]) -> None:
    """Keep what the rollout waits for from `now` on. `silent`: is the cluster not heard?"""
    if entry.end < math.inf:
        _reach(entry, state, now)
        return
    waits = ("", "") if state.phase in FINAL else waits_for(state, now, frozen=frozen, silent=silent)
    entry.paused += state.phase is P.PAUSED and entry.phase is not P.PAUSED
    if state.phase is P.ROLLING_BACK and not entry.rolled_back_at:
        entry.rolled_back_at = now
    entry.phase, entry.reason = state.phase, state.reason
    if waits != entry.waits:
        close(entry, now)
        entry.waits = waits
    _reach(entry, state, now)
    if state.phase in FINAL:
        close(entry, now)
        entry.end = now


def close(entry: Entry, now: float) -> None:
    """Keep the part that ends now."""
    if now > entry.since and entry.waits[1]:
        entry.parts.append(Part(start=entry.since, end=now, wave=entry.waits[0], kind=entry.waits[1]))
    entry.since = now


def _reach(entry: Entry, state: State, now: float) -> None:
    # Who is replaced may have come so far in the very turn.
    if state.phase in (P.RUNNING, P.PAUSED, P.COMPLETED, P.REPLACED) and len(entry.reached) < len(SHARES):
        proven = sum(tally.phases.get(M.PROVEN, 0) for tally in state.tallies)
        for share in SHARES:
            if proven * 100 >= share * entry.clusters and share not in entry.reached:
                entry.reached[share] = now


def waits_for(state: State, now: float, *, frozen: str, silent: Callable[[ClusterName], bool]) -> tuple[str, str]:
    """Pure: (wave, what for), of a rollout that is not over."""
    rollout = state.rollout
    if state.phase is P.ROLLING_BACK:
        return "", ROLLBACK
    wave, tally = rollout.waves[state.wave], state.tallies[state.wave]
    if state.phase is P.PAUSED:
        return wave.name, PAUSED
    if not state.wave_opened_at:
        return wave.name, _gate(state, "before", now)
    pending, moving, soaking = (tally.phases.get(phase, 0) for phase in (M.PENDING, M.MOVING, M.SOAKING))
    if moving + soaking:
        if pending and transitions.flying(tally) >= wave.max_concurrent:
            return wave.name, MAX_CONCURRENT
        if moving and not soaking and moving <= _LOOKED_AT and _all_silent(state, silent):
            return wave.name, OFFLINE
        return wave.name, APPLY if moving else SOAK
    if pending:
        return wave.name, _held(state, now, frozen)
    if tally.phases.get(M.OFFLINE, 0) > wave.offline_budget:
        return wave.name, OFFLINE
    if tally.phases.get(M.PROVEN, 0) < transitions.proof_needed(wave, tally):
        return wave.name, PROOF
    return wave.name, _gate(state, "after", now)


def _gate(state: State, side: str, now: float) -> str:
    """The first gate that is shut on this side of the open wave."""
    wave = state.rollout.waves[state.wave]
    here = [(gate.name, gate, state.gates.get(gates.key(wave, gate))) for gate in wave.gates if gate.when == side]
    shut = (name for name, gate, found in here if found is None or not gates.passed(gate, found, now))
    return GATE + next(shut, here[-1][0] if here else "")


def _all_silent(state: State, silent: Callable[[ClusterName], bool]) -> bool:
    wave = state.rollout.waves[state.wave]
    return all(silent(name) for name in wave.clusters if state.members[name].phase is M.MOVING)


def _held(state: State, now: float, frozen: str) -> str:
    """Why nobody of those who wait moves, though nobody is in flight."""
    wave, tally = state.rollout.waves[state.wave], state.tallies[state.wave]
    if frozen:
        return FREEZE
    if windows.shut((*state.rollout.windows, *wave.windows), now) is not None:
        return WINDOW
    for cluster in wave.clusters[tally.first :]:
        member = state.members[cluster]
        if member.phase is not M.PENDING or not member.reason:
            continue
        if member.reason.startswith("frozen by"):
            return FREEZE
        if member.reason.startswith("blocked"):
            return DEPENDENCY
        return MAX_CHANGES if "at a time are under way" in member.reason else WINDOW
    return MAX_UNAVAILABLE if wave.max_unavailable is not None else OFFLINE
