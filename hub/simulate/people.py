"""When people answer, who take some of their working hours for it. Pure. Next: `world`."""

from dataclasses import replace

from hub.model import Window
from hub.repo import windows

_MOST_SPELLS = 1000
"""Of working time that one answer may take: hours that never come must not be waited for for ever."""


def answered_at(now: float, takes_s: float, hours: tuple[Window, ...]) -> float:
    """Pure: when somebody who is asked at `now` has worked on it for `takes_s` within `hours` (none: day and night)."""
    at, left_s = now, takes_s
    closing = tuple(replace(window, deny=not window.deny) for window in hours)
    for _ in range(_MOST_SPELLS if hours else 0):
        if (shut := windows.shut(hours, at)) is not None:
            at = shut.until
            continue
        ends = windows.shut(closing, at)
        if ends is None or at + left_s <= ends.until:
            break
        at, left_s = ends.until, left_s - (ends.until - at)
    return at + left_s
