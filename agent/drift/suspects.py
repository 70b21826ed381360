"""Which suspicions of drift are to be confirmed now: one per object, at a bounded rate, ever slower in a fight.

Pure but for what it remembers; times are monotonic seconds given by the caller.

    all objects together                          a burst of `BURST`, then a rate that grows with each quick answer
                                                  (`RATE` to `FASTEST`) and halves when the API server has none
    one object, up to `LOOKS` times a minute      at once
    … and more often                              `BUSY_S` apart
    … a field of it is contested: one manager     1 s, 2 s, 4 s, … `LONGEST_S` apart, until that field was left alone
      and we changed it over `PATIENCE` times     for `FORGET_S`: somebody else wants it otherwise
      a minute
    drift that may not be undone now              held, until its time or until it is let go
    an object of a full pass                      from what the others leave of the rate, a few at a time

Only the latest event of an object counts; when the first came is kept, so that the time to the revert is honest.
Next: `guard` confirms.
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agent.model import Baseline, WatchEvent
from proto.objects import ObjectKey

RATE: Final = 50.0
FASTEST: Final = 200.0
"""A namespace of ten thousand objects that somebody emptied is back within two minutes; an API server that answers
each within `QUICK_S` has more to give, and one that does not is asked less."""
SLOWEST: Final = 2.0
QUICK_S: Final = 0.5
BURST: Final = 100.0
"""What somebody changes with one command is undone at once."""
RESERVE: Final = BURST / 2
"""Of the burst; a full pass never uses it, so a suspicion never waits for one."""
PASSES: Final = 4
"""Objects of a full pass that are looked at at the same time."""
LOOKS: Final = 20
BUSY_S: Final = 3.0
PATIENCE: Final = 5
MINUTE_S: Final = 60.0
LONGEST_S: Final = 60.0
FORGET_S: Final = 300.0
CROWD: Final = 256
"""Of what waits, only so many whole objects are kept; of more only the metadata."""
FIELDS: Final = 20
"""Of one drift that are counted in a fight: who changes more of them changes these, too."""
_ROUNDING: Final = 1e-6
"""Of a token: what `due_in` waited for is there then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An object that may have drifted. `observed` is the wall time (RFC 3339) of the first event, `seen_at` its
    monotonic time; `event` is None when nothing was seen: a full pass, or what was held; `insist`: there is drift for
    sure, it was not undone yet; `tries` counts how often that was tried."""

    key: ObjectKey
    event: WatchEvent | None
    observed: str
    seen_at: float
    due_at: float
    insist: bool = False
    tries: int = 0
    full_pass: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Drift that was told and stays for now: `known` is the baseline that it was judged by, `seen` the state that was
    told (None: gone). `failed`: undoing it was tried."""

    suspect: Suspect
    known: Baseline | None
    seen: Baseline | None
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A field is contested, and since when (wall time)."""

    field: str
    since: str


@dataclass(slots=True)
class _Fight:
    times: tuple[float, ...] = ()
    """Of the last reverts, one more than there is patience for."""
    reverts: int = 0
    """Since it is contested."""
    since: str = ""


@dataclass(slots=True)
class _Record:
    """What happened to one object lately."""

    looks: tuple[float, ...] = ()
    """When it was looked at, the last `LOOKS` times."""
    fights: dict[tuple[str, str], _Fight] = field(default_factory=dict)
    last_at: float = -math.inf


class Suspects:
    """`observed` and `now` are given with each call; what `next` returns has to be `answered`."""

    def __init__(self) -> None:
        self._waiting: dict[ObjectKey, Suspect] = {}
        self._due = _Timers()
        self._held: dict[ObjectKey, Held] = {}
        self._ends = _Timers()
        self._passes: dict[ObjectKey, Suspect] = {}
        self._passing = 0
        self._records: OrderedDict[ObjectKey, _Record] = OrderedDict()
        """The least lately touched first, so that forgetting costs nothing."""
        self._rate = RATE
        self._tokens = BURST
        self._counted_at = -math.inf

    # --- what comes in --------------------------------------------------------------------------------------------

    def add(self, key: ObjectKey, event: WatchEvent, *, observed: str, now: float) -> None:
        """Confirm this."""
        event = _light(event, crowded=len(self._waiting) >= CROWD)
        known = self._waiting.get(key)
        if known is not None:
            self._waiting[key] = replace(known, event=event)
            return
        due_at = now + max(self._pause_s(key, now), 0.0)
        self._wait(Suspect(key=key, event=event, observed=observed, seen_at=now, due_at=due_at))

    def again(self, suspect: Suspect, *, now: float, wait_s: float) -> None:
        """What was taken could not be confirmed; a newer event of the object replaces it."""
        if suspect.key not in self._waiting:
            self._wait(replace(suspect, due_at=now + wait_s, full_pass=False))

    def full_pass(self, keys: Iterable[ObjectKey], *, observed: str, now: float) -> None:
        """Look at all of these when there is time."""
        for key in keys:
            self._passes.setdefault(
                key, Suspect(key=key, event=None, observed=observed, seen_at=now, due_at=now, full_pass=True)
            )

    def drop(self, key: ObjectKey) -> None:
        self._waiting.pop(key, None)
        self._due.drop(key)

    # --- drift that stays for now ---------------------------------------------------------------------------------

    @property
    def held(self) -> Mapping[ObjectKey, Held]:
        return self._held

    def hold(self, held: Held, *, now: float, wait_s: float) -> None:
        """Keep it until `wait_s` are over (infinite: until it is let go); it replaces what was held of the object."""
        key, event = held.suspect.key, held.suspect.event
        if event is not None:
            held = replace(held, suspect=replace(held.suspect, event=_light(event, crowded=True, held=True)))
        self._held[key] = held
        self._ends.set(key, now + wait_s)

    def let_go(self, key: ObjectKey, *, now: float) -> None:
        """Confirm what is held of this object now; it stays held until that is done."""
        held = self._held.get(key)
        if held is None:
            return
        self._ends.drop(key)
        waiting = self._waiting.get(key)
        if waiting is not None:
            self._waiting[key] = replace(waiting, insist=True)
        else:
            self._wait(replace(held.suspect, event=None, seen_at=now, due_at=now, insist=True, full_pass=False))

    def forget(self, key: ObjectKey) -> None:
        """Nothing of this object is held any more."""
        self._ends.drop(key)
        self._held.pop(key, None)

    # --- what came of it ------------------------------------------------------------------------------------------

    def answered(self, suspect: Suspect, *, now: float, took_s: float, ok: bool) -> None:
        """The API server answered; `ok`: it was not overloaded or away."""
        self._passing -= suspect.full_pass
        if not ok:
            self._tokens = 0.0
            self._counted_at = now
            self._rate = max(self._rate / 2, SLOWEST)
        elif took_s <= QUICK_S:
            self._rate = min(self._rate + 1.0, FASTEST)
        if not suspect.full_pass:
            record = self._record(suspect.key, now)
            record.looks = (*record.looks, now)[-LOOKS:]

    def undone(
        self, key: ObjectKey, *, manager: str, fields: Sequence[str], observed: str, now: float
    ) -> Contest | None:
        """Drift of these fields by this manager was undone just now. Whether it is contested."""
        fights = self._record(key, now).fights
        found: Contest | None = None
        for name in fields[:FIELDS]:
            fight = fights.setdefault((manager, name), _Fight())
            if fight.times and now - fight.times[-1] >= FORGET_S:
                fight = fights[manager, name] = _Fight()
            fight.times = (*fight.times, now)[-PATIENCE - 1 :]
            often = len(fight.times) > PATIENCE and now - fight.times[0] <= MINUTE_S
            if often or fight.since:
                fight.since = fight.since or observed
                fight.reverts += 1
                found = found or Contest(field=name, since=fight.since)
        return found

    # --- what is due ----------------------------------------------------------------------------------------------

    def due_in(self, now: float) -> float:
        """Seconds until `next` has something; infinite when nothing waits."""
        waits = [max(self._due.first - now, self._until(1.0, now)), self._ends.first - now]
        if self._passes and self._passing < PASSES:
            waits.append(self._until(RESERVE + 1.0, now))
        return max(min(waits), 0.0)

    def next(self, now: float) -> Suspect | None:
        """Take the suspicion that waits longest, if one is due and the rate allows it."""
        while (ended := self._ends.take(now)) is not None:
            self.let_go(ended, now=now)
        found: Suspect | None = None
        budget = self._budget(now) + _ROUNDING
        if budget < 1.0:
            return None
        key = self._due.take(now)
        if key is not None:
            found = self._waiting.pop(key)
        elif self._passes and self._passing < PASSES and budget >= RESERVE + 1.0:
            key = next(iter(self._passes))
            found = self._passes.pop(key)
            self._passing += 1
        if found is not None:
            self._tokens, self._counted_at = max(budget - 1.0 - _ROUNDING, 0.0), now
        return found

    def _wait(self, suspect: Suspect) -> None:
        self._waiting[suspect.key] = suspect
        self._due.set(suspect.key, suspect.due_at)

    def _record(self, key: ObjectKey, now: float) -> _Record:
        """The object's record, touched; the ones that nothing was added to for long are forgotten."""
        while self._records:
            oldest, record = next(iter(self._records.items()))
            if now - record.last_at < FORGET_S:
                break
            del self._records[oldest]
        record = self._records.setdefault(key, _Record())
        record.last_at = now
        self._records.move_to_end(key)
        return record

    def _pause_s(self, key: ObjectKey, now: float) -> float:
        record = self._records.get(key)
        if record is None:
            return 0.0
        pauses = [
            fight.times[-1] + min(2.0 ** min(fight.reverts - 1, 10), LONGEST_S) - now
            for fight in record.fights.values()
            if fight.since and now - fight.times[-1] < FORGET_S
        ]
        if len(record.looks) == LOOKS and now - record.looks[0] < MINUTE_S:
            pauses.append(record.looks[-1] + BUSY_S - now)
        return max(pauses, default=0.0)

    def _budget(self, now: float) -> float:
        return min(BURST, self._tokens + (now - self._counted_at) * self._rate)

    def _until(self, tokens: float, now: float) -> float:
        """Seconds until there are so many tokens."""
        return max(tokens - self._budget(now), 0.0) / self._rate


def _light(event: WatchEvent, *, crowded: bool, held: bool = False) -> WatchEvent:
    """An event with no more of its object than will be looked at: memory is bounded by the number of objects, not by
    their size."""
    metadata = event.object["metadata"]
    if held or event.kind == "DELETED":
        return replace(
            event, object={"metadata": {name: metadata[name] for name in metadata if name != "managedFields"}}
        )
    return replace(event, object={"metadata": metadata}) if crowded else event


class _Timers:
    """Times by key, the first one found in no time; changing one leaves its old place in the heap behind."""

    def __init__(self) -> None:
        self._at: dict[ObjectKey, float] = {}
        self._heap: list[tuple[float, int, ObjectKey]] = []
        self._numbers = itertools.count()

    def set(self, key: ObjectKey, at: float) -> None:
        self._at[key] = at
        heapq.heappush(self._heap, (at, next(self._numbers), key))
        if len(self._heap) > 2 * len(self._at) + 64:
            self._heap = [(due, next(self._numbers), each) for each, due in self._at.items()]
            heapq.heapify(self._heap)

    def drop(self, key: ObjectKey) -> None:
        self._at.pop(key, None)

    @property
    def first(self) -> float:
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float) -> ObjectKey | None:
        """Remove and return the key of the first time that has come."""
        if self.first > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._at[key]
        return key
