"""How many writes may be under way at once: as many as the API server takes without growing slower.

    what is seen                                            the limit
    answers as fast as ever, while the limit was used       grows by its square root a round
    answers that took longer than ever before               shrinks with them, at most by half a round
    429, 503, 504, no answer                                is halved, once a round; with Retry-After nobody sends
                                                            before that time is over
    the limit was not used                                  stays

A round is as many answers as may be under way. Kinds are compared with themselves: one that is slow because of its
admission webhook is not a server that grows slower. How fast a kind can be is the least time of the last one to two
minutes, so that a server that changed for good is learned anew. Pure: times are given, in seconds.
Source: the gradient of Netflix' concurrency-limits, and TCP Vegas before it. Next: `slots` lets writes wait for it.
"""

import math
from typing import Final

START: Final = 8.0
LEAST: Final = 2.0
MOST: Final = 32.0
TOLERATED: Final = 3.0
"""How much slower than ever is still as fast as ever: answers are never equally fast."""
_SLOWEST: Final = 10.0
"""One answer counts as no more than this many times slower: an adoption takes several requests."""
_LEARNED_S: Final = 60.0
_SMOOTHING: Final = 0.5


class Pace:
    """The limit, and the time before which nobody sends."""

    def __init__(self, *, start: float = START, least: float = LEAST, most: float = MOST) -> None:
        self.limit = start
        self.not_before = -math.inf
        self._least = least
        self._most = most
        self._fastest: dict[str, float] = {}
        self._fastest_before: dict[str, float] = {}
        self._learned_since = -math.inf
        self._slowness: list[float] = []
        self._used = 0
        """The most that was under way at once in this round."""
        self._halved_at = -math.inf

    def wait_s(self, under_way: int, now: float) -> float:
        """Pure of effects: how long the next write has to wait; infinite until another one is answered."""
        if under_way >= int(self.limit):
            return math.inf
        return max(self.not_before - now, 0.0)

    def answered(self, kind: str, took_s: float, *, under_way: int, now: float) -> None:
        """A write of a kind was answered; `under_way` counts it."""
        fastest = self._learn(kind, took_s, now)
        self._slowness.append(min(took_s / fastest, _SLOWEST) if fastest > 0 else 1.0)
        self._used = max(self._used, under_way)
        if len(self._slowness) >= int(self.limit):
            self._end_round()

    def refused(self, *, began: float, now: float, retry_after_s: float | None = None) -> None:
        """A write that began then was refused because the server is busy, or never answered."""
        self.not_before = max(self.not_before, now + (retry_after_s or 0.0))
        if began >= self._halved_at:
            # Those that were under way together are refused together: that is one sign.
            self.limit = max(self.limit / 2, self._least)
            self._halved_at = now
        self._slowness.clear()
        self._used = 0

    def _learn(self, kind: str, took_s: float, now: float) -> float:
        if now - self._learned_since >= _LEARNED_S:
            self._fastest_before, self._fastest, self._learned_since = self._fastest, {}, now
        self._fastest[kind] = min(self._fastest.get(kind, took_s), took_s)
        return min(self._fastest[kind], self._fastest_before.get(kind, took_s))

    def _end_round(self) -> None:
        slowness = sum(self._slowness) / len(self._slowness)
        grown = self.limit * min(max(TOLERATED / slowness, 0.5), 1.0) + math.sqrt(self.limit)
        if grown <= self.limit or self._used >= int(self.limit):
            self.limit += (grown - self.limit) * _SMOOTHING
            self.limit = min(max(self.limit, self._least), self._most)
        self._slowness.clear()
        self._used = 0
