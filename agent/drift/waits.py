"""How long an object that is not Current is waited for: what its state shows, and time, make its health.

Pure; times are monotonic seconds, given by the caller, and nothing is stored: after a restart all waits begin anew.

    the object's state shows                          its health
    Current, without any status yet                   InProgress, and Current after `NO_STATUS_GRACE_S`
    Failed, a Pod that fits on no node                InProgress, and Failed after kstatus's `UNSCHEDULABLE_AFTER_S`
    InProgress                                        InProgress, and Failed once nothing moved for its timeout
    … and why was found out (`explain`)               the same, with that reason and message, until the state changes
    Current, a Job of which no Pod comes up           Current; found out, its message says why
    anything else                                     what it shows

*Moved* means that the reason or message changed: a count went up, another generation was seen. A Deployment has its
own deadline, and is given a little more than that, so that its own word comes first. Next: `observe` keeps the health.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proto.health import NO_STATUS, NOT_SCHEDULED, UNSCHEDULABLE, UNSCHEDULABLE_AFTER_S, Verdict
from proto.messages import Health
from proto.objects import ObjectKey

NO_STATUS_GRACE_S: Final = 10.0
"""How long a custom resource without any status is not taken for Current: its controller may not have seen it yet."""
TIMEOUT: Final = "Timeout"
OWN_DEADLINE_S: Final = 30.0
"""For the word on an object's own deadline to be given and to come."""
_NO_DEADLINE: Final = 2**31 - 1

_WAITED_FOR: Final = frozenset({Health.IN_PROGRESS, Health.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a live object says of its own progress: `own_s` is how long its controller waits before it says that nothing
    moves (0: it never does); `stuck`, that it should run and does not."""

    own_s: float = 0.0
    stuck: bool = False


@dataclass(slots=True, kw_only=True)
class _Wait:
    found: Verdict
    began: float
    """Since when it is not Current."""
    moved: float
    """Since when nothing of it changed."""
    pace: Pace
    words: tuple[str, str] | None = None


NO_PACE: Final = Pace()


class Waits:
    """Of all objects that are not Current. `timeout_s` is how long an object may stay without a move, in seconds."""

    def __init__(self, timeout_s: Callable[[ObjectKey], float]) -> None:
        self._timeout_s = timeout_s
        self._waits: dict[ObjectKey, _Wait] = {}

    def take(self, key: ObjectKey, found: Verdict, *, now: float, pace: Pace = NO_PACE) -> Verdict:
        """What the object's state shows now; returns its health."""
        wait = self._waits.get(key)
        if found[0] not in _WAITED_FOR and found[:2] != (Health.CURRENT, NO_STATUS) and not pace.stuck:
            self._waits.pop(key, None)
            return found
        if wait is None:
            wait = self._waits[key] = _Wait(found=found, began=now, moved=now, pace=pace)
        elif wait.found != found:
            if wait.found[:2] != found[:2]:
                wait.words = None
            wait.found, wait.moved = found, now
        wait.pace = pace
        return self._shown(key, wait, now)

    def begin(self, key: ObjectKey) -> None:
        """The object was applied: all its waits begin anew."""
        self._waits.pop(key, None)

    def explain(self, key: ObjectKey, words: tuple[str, str] | None, *, now: float) -> Verdict | None:
        """Why the object is not Current, as (reason, message), None when that is not known; returns its health."""
        wait = self._waits.get(key)
        if wait is None or not (wait.found[0] in _WAITED_FOR or wait.pace.stuck):
            return None
        wait.words = words
        return self._shown(key, wait, now)

    def hold(self, unseen: Callable[[ObjectKey], bool], *, now: float) -> None:
        """Such objects were not seen for a while: that nothing moved until now says nothing."""
        for key, wait in self._waits.items():
            if unseen(key):
                wait.moved = now

    def keep(self, wanted: Callable[[ObjectKey], bool]) -> None:
        """Forget all other objects."""
        for key in [key for key in self._waits if not wanted(key)]:
            del self._waits[key]

    def due(self, now: float) -> Iterator[tuple[ObjectKey, Verdict]]:
        """The objects whose waiting is over by now, each time that it is asked, and their health."""
        for key, wait in self._waits.items():
            if self._ends(key, wait) <= now:
                yield key, self._shown(key, wait, now)

    def next_end(self, now: float) -> float:
        """When the next waiting will be over; infinite when none will."""
        return min((end for key, wait in self._waits.items() if (end := self._ends(key, wait)) > now), default=math.inf)

    def troubled(self, now: float, *, after_s: float) -> list[ObjectKey]:
        """What failed, or has not been Current for so long."""
        return [
            key
            for key, wait in self._waits.items()
            if wait.found[0] is Health.FAILED
            or ((wait.found[0] is Health.IN_PROGRESS or wait.pace.stuck) and now - wait.began >= after_s)
        ]

    def _ends(self, key: ObjectKey, wait: _Wait) -> float:
        match wait.found[0]:
            case Health.CURRENT if wait.pace.stuck:
                return math.inf
            case Health.CURRENT:
                return wait.began + NO_STATUS_GRACE_S
            case Health.IN_PROGRESS:
                return wait.moved + self._patience_s(key, wait)
            case Health.FAILED if wait.found[1] == UNSCHEDULABLE:
                return wait.began + UNSCHEDULABLE_AFTER_S
            case _:
                return math.inf

    def _patience_s(self, key: ObjectKey, wait: _Wait) -> float:
        return max(self._timeout_s(key), wait.pace.own_s)

    def _shown(self, key: ObjectKey, wait: _Wait, now: float) -> Verdict:
        health, reason, message = wait.found
        over = self._ends(key, wait) <= now
        if wait.pace.stuck and health is Health.CURRENT:
            return health, reason, f"{message}; {wait.words[1]}" if wait.words else message
        if health is Health.CURRENT:
            return health if over else Health.IN_PROGRESS, reason, message
        words, said = wait.words or (reason, message)
        if reason == UNSCHEDULABLE:
            return (health, words, said) if over else (Health.IN_PROGRESS, NOT_SCHEDULED, said)
        if over:
            waited = duration(self._patience_s(key, wait))
            return Health.FAILED, TIMEOUT, f"has not moved for {waited}: {said or words}"
        return health, words, said


def pace(live: Mapping[str, Any]) -> Pace:
    """Pure: the pace of a whole live object."""
    spec, status = live.get("spec"), live.get("status")
    if not isinstance(spec, Mapping):
        return NO_PACE
    own_s, seconds = 0.0, spec.get("progressDeadlineSeconds")
    if isinstance(seconds, int) and 0 < seconds < _NO_DEADLINE:
        own_s = seconds + OWN_DEADLINE_S
    runs = live.get("kind") == "Job" and isinstance(status, Mapping) and bool(status.get("active"))
    return Pace(own_s=own_s, stuck=runs and isinstance(status, Mapping) and status.get("ready") == 0)


def duration(seconds: float) -> str:
    """Pure: as people write it, in its two largest units."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s")]
    words = [f"{count}{unit}" for count, unit in parts if count]
    return "".join(words[:2]) or f"{seconds:.2g}s"
