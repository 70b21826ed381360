"""Virtual time: it jumps from one moment at which something happens to the next, in whole seconds.

All that happens within one second is one turn, as in the hub's loop. Pure. Next: `world`.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hub.model import Command, Evidence
from proto.ids import ClusterName, RolloutId


@dataclass(slots=True, kw_only=True)
class Turn:
    """What the hub is told in one second: `heard` are the clusters that report, `returned` those of them that were
    silent until now, `ticks` the rollouts that time may have changed. `commits`: did anybody commit?"""

    heard: dict[ClusterName, None] = field(default_factory=dict)
    returned: dict[ClusterName, None] = field(default_factory=dict)
    ticks: set[RolloutId] = field(default_factory=set)
    evidence: list[tuple[RolloutId, Evidence]] = field(default_factory=list)
    commands: list[tuple[RolloutId, Command]] = field(default_factory=list)
    commits: bool = False

    def __bool__(self) -> bool:
        return bool(self.heard or self.ticks or self.evidence or self.commands or self.commits)


Happens = Callable[[Turn], None]


class Clock:
    """`now` is in Unix seconds."""

    def __init__(self, start_s: float) -> None:
        self.now = start_s
        self._coming: list[tuple[float, int, Happens]] = []
        self._added = 0

    def at(self, moment: float, happens: Happens) -> float:
        """In the second that ends then, or in the next one; gives which."""
        self._added += 1
        second = max(math.ceil(moment), self.now + 1)
        heapq.heappush(self._coming, (second, self._added, happens))
        return second

    def turns(self, until: float) -> Iterator[Turn]:
        """Each second before `until` in which something happens, in order."""
        while self._coming and self._coming[0][0] < until:
            self.now = self._coming[0][0]
            turn = Turn()
            while self._coming and self._coming[0][0] == self.now:
                heapq.heappop(self._coming)[2](turn)
            yield turn
        self.now = until
