"""When each object is confirmed though nothing was seen: slowly, one after the other, for all that events cannot tell.

    a bundle                            has its turn about every `EVERY_S`, each time at another moment (`SPREAD`)
    one that is new, after a start too  at a random moment of its first round
    the objects of those whose turn is  one each `STEP_S`: two requests each, so at most two a second

Pure but for what it remembers; times are monotonic seconds. The watches' initial events are the full pass of a start.
Next: `guard` confirms.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Final

from proto.objects import ObjectKey

EVERY_S: Final = 6 * 3600.0
"""What a watch cannot tell is rare (a lost event, a bug of ours): this is a net, and it costs the API server."""
SPREAD: Final = 0.2
STEP_S: Final = 1.0


class Resync:
    """`jitter` gives numbers from 0 to 1."""

    def __init__(self, *, jitter: Callable[[], float], every_s: float = EVERY_S) -> None:
        self._jitter = jitter
        self._every_s = every_s
        self._due: dict[str, float] = {}
        self._queue: deque[tuple[str, ObjectKey]] = deque()

    def next(self, bundles: Mapping[str, Collection[ObjectKey]], *, now: float) -> tuple[ObjectKey | None, float]:
        """The object to confirm now, if there is one, and in how many seconds to ask again."""
        for name in self._due.keys() - bundles.keys():
            del self._due[name]
        for name in bundles:
            if name not in self._due:
                self._due[name] = now + self._every_s * self._jitter()
        waiting = {name for name, _ in self._queue}
        for name, due_at in self._due.items():
            if due_at <= now and name not in waiting:
                self._due[name] = now + self._every_s * (1.0 + SPREAD * (2.0 * self._jitter() - 1.0))
                self._queue.extend((name, key) for key in bundles[name])
        while self._queue:
            name, key = self._queue.popleft()
            if key in bundles.get(name, ()):
                return key, STEP_S
        return None, max(min(self._due.values(), default=math.inf) - now, 0.0)
