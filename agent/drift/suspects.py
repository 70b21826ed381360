"""Which suspicions of drift are to be confirmed now: one per object, at a bounded rate, ever slower in a fight.

Pure but for what it remembers; times are monotonic seconds given by the caller.

    all objects together                       `RATE` a second, after a burst of `BURST`
    an object reverted up to `PATIENCE` times  at once
    … and again and again                      1 s, 2 s, 4 s, … `LONGEST_S` apart: somebody else wants it otherwise
    … and left alone for `FORGET_S`            at once again

Only the latest event of an object counts; when the first came is kept, so that the time to the revert is honest.
Next: `guard` confirms.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from agent.model import WatchEvent
from proto.objects import ObjectKey

RATE: Final = 20.0
BURST: Final = 40.0
PATIENCE: Final = 5
LONGEST_S: Final = 60.0
FORGET_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An object that may have drifted. `observed` is the wall time (RFC 3339) of the first event, `seen_at` its
    monotonic time; `insist`: there is drift for sure, undoing it failed."""

    key: ObjectKey
    event: WatchEvent
    observed: str
    seen_at: float
    due_at: float
    insist: bool = False


@dataclass(frozen=True, slots=True)
class _Fight:
    reverts: int
    last_at: float


class Suspects:
    """Give it suspicions with `add`, take what is due with `next`, tell it of each revert."""

    def __init__(self) -> None:
        self._waiting: dict[ObjectKey, Suspect] = {}
        self._fights: dict[ObjectKey, _Fight] = {}
        self._tokens = BURST
        self._counted_at = -math.inf

    def add(self, key: ObjectKey, event: WatchEvent, *, observed: str, now: float, wait_s: float = 0.0) -> None:
        """Confirm this, in at least `wait_s` seconds."""
        known = self._waiting.get(key)
        if known is not None:
            self._waiting[key] = replace(known, event=event)
            return
        due_at = now + max(wait_s, self._pause_s(key, now))
        self._waiting[key] = Suspect(key=key, event=event, observed=observed, seen_at=now, due_at=due_at)

    def again(self, suspect: Suspect, *, now: float, wait_s: float, insist: bool = False) -> None:
        """What was taken could not be confirmed, or not undone (`insist`); a newer event of the object replaces it."""
        self._waiting.setdefault(suspect.key, replace(suspect, due_at=now + wait_s, insist=insist))

    def drop(self, key: ObjectKey) -> None:
        self._waiting.pop(key, None)

    def reverted(self, key: ObjectKey, *, now: float) -> None:
        """Drift of this object was undone just now."""
        fight = self._fights.get(key)
        reverts = fight.reverts if fight is not None and now - fight.last_at < FORGET_S else 0
        self._fights = {other: one for other, one in self._fights.items() if now - one.last_at < FORGET_S}
        self._fights[key] = _Fight(reverts + 1, now)

    def due_in(self, now: float) -> float:
        """Seconds until `next` has something; infinite when nothing waits."""
        if not self._waiting:
            return math.inf
        soonest = min(suspect.due_at for suspect in self._waiting.values()) - now
        missing = 1.0 - self._budget(now)
        return max(soonest, missing / RATE, 0.0)

    def next(self, now: float) -> Suspect | None:
        """Take the suspicion that waits longest, if one is due and the rate allows it."""
        if self._budget(now) < 1.0:
            return None
        due = [suspect for suspect in self._waiting.values() if suspect.due_at <= now]
        if not due:
            return None
        first = min(due, key=lambda suspect: suspect.due_at)
        del self._waiting[first.key]
        self._tokens = self._budget(now) - 1.0
        self._counted_at = now
        return first

    def _pause_s(self, key: ObjectKey, now: float) -> float:
        fight = self._fights.get(key)
        if fight is None or fight.reverts < PATIENCE or now - fight.last_at >= FORGET_S:
            return 0.0
        return max(fight.last_at + min(2.0 ** (fight.reverts - PATIENCE), LONGEST_S) - now, 0.0)

    def _budget(self, now: float) -> float:
        return min(BURST, self._tokens + (now - self._counted_at) * RATE)
