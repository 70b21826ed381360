"""What a run comes to, in numbers: how long commits took, what they waited for, how far the bad ones got.

Medians and p95 are over rollouts, by nearest rank. Pure. Next: `picture`, and the command that prints both.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hub.simulate import ledger
from hub.simulate.ledger import SHARES, Entry
from hub.simulate.world import Record
from hub.state import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of `many` rollouts, in seconds."""

    many: int
    median_s: float
    p95_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What rollouts waited for in one wave; `share` is of the time of all of them."""

    wave: str
    kind: str
    times: Times
    share: float

    @property
    def name(self) -> str:
        return f"{self.kind} ({self.wave})" if self.wave else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`commits` are those that were made; `overtaken` of them never rolled out, since a newer one came first. `phases`:
    what became of the rollouts; `queued` and `paused` how many were so at some time. `reached`: share of the clusters →
    times from the commit on. `exposed`: for each bad commit that rolled out, how many clusters took it; `stopped`:
    times until it was turned back; `missed`: how many bad ones were completed. `waits` come the longest first."""

    clusters: int
    commits: int
    bad: int
    overtaken: int
    rollouts: int
    phases: dict[str, int]
    queued: int
    paused: int
    reached: dict[int, Times]
    exposed: tuple[int, ...]
    stopped: Times
    missed: int
    waits: tuple[Wait, ...]
    decisions: int

    @property
    def costliest(self) -> Wait | None:
        """What idle time is spent on most: what is not the clusters' own work."""
        return next((wait for wait in self.waits if wait.kind not in (ledger.APPLY, ledger.ROLLBACK)), None)


def figures(record: Record) -> Figures:
    """Pure: the numbers of a run."""
    entries = record.entries
    rolled = {entry.commit.number for entry in entries if entry.commit is not None}
    bad = [entry for entry in entries if entry.commit is not None and entry.commit.bad]
    phases: dict[str, int] = {}
    for entry in entries:
        phases[entry.phase.value] = phases.get(entry.phase.value, 0) + 1
    last = {commit.bundle: commit.number for commit in record.commits}
    return Figures(
        clusters=len(record.setting.fleet.clusters),
        commits=len(record.commits),
        bad=sum(commit.bad for commit in record.commits),
        overtaken=sum(c.number not in rolled and c.number != last[c.bundle] for c in record.commits),
        rollouts=len(entries),
        phases=dict(sorted(phases.items())),
        queued=sum(any(part.kind == ledger.QUEUE for part in entry.parts) for entry in entries),
        paused=sum(entry.paused > 0 for entry in entries),
        reached={
            share: times(e.reached[share] - e.committed_at for e in entries if share in e.reached) for share in SHARES
        },
        exposed=tuple(entry.exposed for entry in bad),
        stopped=times(entry.rolled_back_at - entry.committed_at for entry in bad if entry.rolled_back_at),
        missed=sum(entry.phase is Phase.COMPLETED for entry in bad),
        waits=_waits(entries),
        decisions=record.decisions,
    )


def times(found: Iterable[float]) -> Times:
    """Pure: median and p95 by nearest rank; all 0 of nothing."""
    seconds = sorted(found)
    return Times(many=len(seconds), median_s=rank(seconds, 50), p95_s=rank(seconds, 95), total_s=math.fsum(seconds))


def rank(ordered: Sequence[float], percent: int) -> float:
    """Pure: the smallest of the numbers that so many percent do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0


def _waits(entries: Iterable[Entry]) -> tuple[Wait, ...]:
    found: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        own: dict[tuple[str, str], float] = {}
        for part in entry.parts:
            own[part.wave, part.kind] = own.get((part.wave, part.kind), 0.0) + part.end - part.start
        for key, seconds in own.items():
            found.setdefault(key, []).append(seconds)
    total = math.fsum(seconds for each in found.values() for seconds in each)
    made = [
        Wait(wave=wave, kind=kind, times=times(each), share=math.fsum(each) / total)
        for (wave, kind), each in found.items()
    ]
    return tuple(sorted(made, key=lambda wait: (-wait.times.total_s, wait.wave, wait.kind)))


def as_json(record: Record) -> dict[str, Any]:
    """Pure: all of it, as the JSON output has it. Times are Unix seconds, durations seconds."""
    made, setting = figures(record), record.setting
    return {
        "policy": setting.policy,
        "start": setting.start_s,
        "days": setting.days,
        "clusters": made.clusters,
        "commits": {"made": made.commits, "bad": made.bad, "overtaken": made.overtaken},
        "rollouts": {"made": made.rollouts, "queued": made.queued, "paused": made.paused, "phases": made.phases},
        "secondsToShareOfClusters": {str(share): _times_json(each) for share, each in made.reached.items()},
        "badCommits": {
            "exposedClusters": list(made.exposed),
            "secondsToRollback": _times_json(made.stopped),
            "completed": made.missed,
        },
        "waits": [
            {"wave": w.wave, "for": w.kind, "share": round(w.share, 4), **_times_json(w.times)} for w in made.waits
        ],
        "costliest": made.costliest.name if made.costliest else None,
        "decisions": made.decisions,
        "timeline": [_entry_json(entry) for entry in record.entries],
    }


def _times_json(found: Times) -> dict[str, Any]:
    return {"rollouts": found.many, "median": found.median_s, "p95": found.p95_s, "total": found.total_s}


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "rollout": entry.rollout,
        "commit": entry.commit.number if entry.commit else None,
        "bad": bool(entry.commit and entry.commit.bad),
        "committed": entry.committed_at,
        "ended": None if entry.end == math.inf else entry.end,
        "phase": entry.phase.value,
        "reason": entry.reason,
        "exposed": entry.exposed,
        "parts": [{"wave": p.wave, "for": p.kind, "start": p.start, "end": p.end} for p in entry.parts],
    }
