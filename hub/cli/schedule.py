"""What the waves of a planned rollout will wait for, and when each can begin at the earliest.

The earliest moment is a lower bound: every cluster is done at once, every check is good, people agree when they are
asked. What counts is time alone: soaks, how long checks have to be good, windows and freezes. Which clusters are
cordoned or silent only the hub knows. Pure. Next: `planning` prints it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hub.model import Fleet, Gate, Window
from hub.repo import targets, windows
from hub.rollout import gates, held
from hub.rollout.held import Around
from hub.rollout.transitions import some
from hub.state import Rollout, Wave
from proto.ids import ClusterName

Spells = tuple[tuple[float, float], ...]
"""(start, end) of freezes, in Unix seconds."""
_MOST_SPELLS = 200
"""So many windows and freezes in a row are looked at: those that leave no gap end never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """One wave. `after_s`: seconds until its first move at the earliest, infinite when windows leave no moment. `waits`
    are sentences for people, before the wave and in it; `then` are those for what comes after it. `held`: cluster → why
    a freeze or a window of its own holds it at the moment that is asked about."""

    wave: Wave
    after_s: float
    waits: tuple[str, ...]
    then: tuple[str, ...]
    held: dict[ClusterName, str]


def prospects(rollout: Rollout, fleet: Fleet, *, at: float) -> tuple[Prospect, ...]:
    """Pure: the waves of the rollout, if it is made at `at` (Unix seconds) and nothing else is under way."""
    found: list[Prospect] = []
    around = Around(fleet=fleet, now=at)
    everywhere = held.frozen(fleet, at)
    opens = at
    for wave in rollout.waves:
        before = [gate for gate in wave.gates if gate.when == "before"]
        opens += max((_asks_s(gate) for gate in before), default=0.0)
        free = _free(rollout, wave, fleet, opens)
        waits = [_gate(gate) for gate in before]
        if everywhere and not found:
            waits.append(everywhere)
        waits += _windows((*rollout.windows, *wave.windows))
        now_held = {} if everywhere else {c: why for c in wave.clusters if (why := around.why(rollout, c))}
        if now_held:
            one = next(iter(now_held.values()))
            waits.append(f"{len(now_held)} held now: {some(list(now_held))} ({one})")
        after = [gate for gate in wave.gates if gate.when == "after"]
        found.append(
            Prospect(
                wave=wave,
                after_s=min(free, default=opens) - at,
                waits=tuple(waits),
                then=tuple(_gate(gate) for gate in after),
                held=now_held,
            )
        )
        turns = -(-len(wave.clusters) // wave.max_concurrent)
        done = max(max(free, default=opens) + wave.soak_s, min(free, default=opens) + turns * wave.soak_s)
        opens = done + max((_asks_s(gate) for gate in after), default=0.0)
    return tuple(found)


def limits(wave: Wave) -> str:
    """Pure: how a wave goes: how many at a time, the soak, and what may go wrong in it."""
    size, parts = len(wave.clusters), []
    if wave.max_concurrent < size:
        parts.append(f"{wave.max_concurrent} at a time")
    if wave.max_unavailable is not None:
        parts.append(f"at most {wave.max_unavailable} unavailable")
    if wave.soak_s:
        parts.append(f"soak {lasting(wave.soak_s)}")
    if wave.failure_budget:
        parts.append(f"{wave.failure_budget} may fail")
    if wave.offline_budget:
        parts.append(f"{wave.offline_budget} may be offline")
    return ", ".join(parts) or "all at once"


def lasting(seconds: float) -> str:
    """Pure: a duration in its two largest units."""
    if math.isinf(seconds):
        return "never"
    parts: list[str] = []
    left = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def _gate(gate: Gate) -> str:
    late = f", within {lasting(gate.timeout_s)}" if gate.timeout_s else ""
    return f"gate {gate.name}: {gates.wanted(gate)}{late}"


def _windows(found: Sequence[Window]) -> Iterator[str]:
    for window in dict.fromkeys(found):
        yield f"{'no moves' if window.deny else 'moves only'} {window.text}"


def _asks_s(gate: Gate) -> float:
    """How long a gate is shut at the least."""
    check = gate.metric or gate.http
    return check.for_s if check is not None else 0.0


def _free(rollout: Rollout, wave: Wave, fleet: Fleet, at: float) -> list[float]:
    """From when on clusters of the wave may be moved; those that are alike are one."""
    kinds: dict[tuple[tuple[Window, ...], Spells], None] = {}
    for name in wave.clusters:
        cluster = fleet.clusters[name]
        frozen = [each for each in fleet.freezes if targets.matches(each.select, cluster.labels)]
        kinds[cluster.windows, tuple((each.start_s, each.end_s) for each in frozen)] = None
    shared = (*rollout.windows, *wave.windows)
    return [_free_at(shared, own, frozen, at) for own, frozen in kinds]


def _free_at(shared: Sequence[Window], own: Sequence[Window], frozen: Spells, at: float) -> float:
    for _ in range(_MOST_SPELLS if at < math.inf else 0):
        ends = [end for start, end in frozen if start <= at < end]
        ends += [shut.until for some_ in (shared, own) if (shut := windows.shut(some_, at)) is not None]
        if not ends:
            return at
        at = max(ends)
    return math.inf
