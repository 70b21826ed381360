"""When moves may start: windows of the week, in the local time of a zone, so that a change of the clocks moves nothing.

| says                               | means                                           |
|------------------------------------|-------------------------------------------------|
| `Fri 16:00-Mon 08:00 Europe/Paris` | one span of each week                           |
| `Mon-Fri 09:00-17:00 UTC`          | on each of these days                           |
| `Sat,Sun 10:00-24:00 UTC`          | on each of these                                |
| `22:00-06:00 America/New_York`     | each night, until the day after it began        |

A moment is judged by what the clock on the wall shows then: an hour that the wall shows twice counts twice, one that it
leaves out never comes. Pure: zones come from Python's database of them. Next: `rollout.forward` starts nothing while
they are shut.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hub.model import Window

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 24 * 60
_WEEK = 7 * _DAY
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00"
_NAMED = "|".join(DAYS)
_SPAN = re.compile(rf"({_NAMED}) +({_TIME}) *- *({_NAMED}) +({_TIME})")
_RANGE = rf"(?:{_NAMED})(?:-(?:{_NAMED}))?"
_DAILY = re.compile(rf"(?:({_RANGE}(?:,{_RANGE})*) +)?({_TIME}) *- *({_TIME})")
_HOW = "write such as 'Fri 16:00-Mon 08:00 Europe/Berlin', 'Mon-Fri 09:00-17:00 UTC' or '22:00-06:00 UTC'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut:
    """Why no move may start, and until when (Unix seconds)."""

    text: str
    until: float


def parse(text: str, *, deny: bool) -> Window:
    """Pure: a window as people write it. Raises ValueError that says what is wrong and how to write it."""
    week, _, zone = text.strip().rpartition(" ")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{zone[:60]!r} is not a time zone; {_HOW}") from error
    spans = _spans(week.strip())
    if not spans:
        raise ValueError(f"{text[:80]!r} is not a window; {_HOW}")
    return Window(deny=deny, spans=spans, zone=zone, text=text.strip())


def shut(windows: Iterable[Window], now: float) -> Shut | None:
    """Pure: are moves forbidden at `now` (Unix seconds)? They are inside each window that denies, and, where there are
    any that allow, outside all of these."""
    ordered = tuple(windows)
    why = _why(ordered, now)
    if why is None:
        return None
    # At each of these moments a window may begin or end; at one of them moves may start, or they never may.
    for at in sorted(_edges(ordered, now)):
        if _why(ordered, at) is None:
            return Shut(text=why, until=at)
    return Shut(text=why, until=now + _WEEK * 60)


def _why(windows: Sequence[Window], now: float) -> str | None:
    inside = [window for window in windows if _inside(window, now)]
    denied = next((window for window in inside if window.deny), None)
    if denied is not None:
        return f"no moves {denied.text}"
    allowing = [window for window in windows if not window.deny]
    if allowing and not any(not window.deny for window in inside):
        return f"moves only {' or '.join(window.text for window in allowing)}"
    return None


def _inside(window: Window, now: float) -> bool:
    local = datetime.fromtimestamp(now, ZoneInfo(window.zone))
    minute = local.weekday() * _DAY + local.hour * 60 + local.minute
    return any(start <= minute < end if start < end else minute >= start or minute < end for start, end in window.spans)


def _edges(windows: Sequence[Window], now: float) -> set[float]:
    """The moments of at least the next week at which a window begins or ends."""
    found: set[float] = set()
    for window in windows:
        zone = ZoneInfo(window.zone)
        today = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        monday = today - timedelta(days=today.weekday())
        for week in (0, 1):
            for minute in {minute % _WEEK for span in window.spans for minute in span}:
                wall = monday + timedelta(weeks=week, minutes=minute)
                found |= _moments(wall, zone)
    return {at for at in found if at > now}


def _moments(wall: datetime, zone: ZoneInfo) -> set[float]:
    """When the clock on the wall shows that: once, twice in the hour that comes twice, and in the hour that is left out
    the moment at which it is."""
    early, late = sorted(wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if datetime.fromtimestamp(early, zone).replace(tzinfo=None, fold=0) == wall:
        return {early, late}
    before = datetime.fromtimestamp(early, zone).utcoffset()
    while late - early > 1.0:
        middle = (early + late) // 2
        early, late = (middle, late) if datetime.fromtimestamp(middle, zone).utcoffset() == before else (early, middle)
    return {late}


def _spans(text: str) -> tuple[tuple[int, int], ...]:
    if match := _SPAN.fullmatch(text):
        first, start, last, end = match.groups()
        begins = DAYS.index(first) * _DAY + _minutes(start)
        ends = (DAYS.index(last) * _DAY + _minutes(end)) % _WEEK
        return ((begins % _WEEK, ends),) if begins % _WEEK != ends else ((0, _WEEK),)
    if match := _DAILY.fullmatch(text):
        days, start, end = match.groups()
        begins, ends = _minutes(start), _minutes(end)
        length = ends - begins if ends > begins else ends - begins + _DAY
        chosen = sorted(_days(days) if days else range(7))
        starts = [(day * _DAY + begins) % _WEEK for day in chosen]
        if length == _DAY and len(chosen) == 7:
            return ((0, _WEEK),)
        return tuple((at, at + length if at + length <= _WEEK else (at + length) % _WEEK) for at in starts)
    return ()


def _days(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {(begin + n) % 7 for n in range((end - begin) % 7 + 1)}
    return found


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
