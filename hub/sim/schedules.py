"""When a CronJob's schedule is due: five fields of numbers, ranges, lists, steps and names. All of it is pure.

As cron has it, a day counts when the day of the month or that of the week fits, if both are given. Times are UTC;
`@every` and time zones are not known, and a schedule that cannot be read is never due. Next: `controllers` asks.
"""

from collections.abc import Sequence
from datetime import datetime

SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
RANGES: Sequence[tuple[int, int, Sequence[str]]] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, MONTHS),
    (0, 7, DAYS),
)


def due(schedule: str, at: datetime) -> bool:
    """Pure: whether a schedule names this minute."""
    fields = SHORT.get(schedule.strip(), schedule).lower().split()
    if len(fields) != len(RANGES):
        return False
    try:
        sets = [_numbers(field, *range_) for field, range_ in zip(fields, RANGES, strict=True)]
    except ValueError:
        return False
    weekday = at.isoweekday() % 7
    in_month, in_week = at.day in sets[2], weekday in {day % 7 for day in sets[4]}
    free = fields[2].startswith(("*", "?")) or fields[4].startswith(("*", "?"))
    day = (in_month and in_week) if free else (in_month or in_week)
    return at.minute in sets[0] and at.hour in sets[1] and at.month in sets[3] and day


def _numbers(field: str, low: int, high: int, names: Sequence[str]) -> set[int]:
    """Raises ValueError for what is no field of a schedule."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span in ("*", "?"):
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, names)
            last = _number(end, names) if dash else (high if step else first)
        if not low <= first <= last <= high:
            raise ValueError(field)
        found.update(range(first, last + 1, int(step or 1)))
    return found


def _number(text: str, names: Sequence[str]) -> int:
    return names.index(text) if text in names and text else int(text)
