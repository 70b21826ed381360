"""Virtual time: it jumps from one moment at which something happens to the next, in whole seconds.

All that happens within one step is one turn, as in the hub's loop, which gathers more the more it hears. Pure. Next:
`world`.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hub.state import Command, Evidence
from proto.ids import ClusterName, RolloutId


@dataclass(slots=True, kw_only=True)
class Turn:
    """What the hub is told at a time: `heard` are the clusters that report, `returned` those of them that were
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
    """`now` is in Unix seconds, a multiple of `step_s`."""

    def __init__(self, start_s: float, *, step_s: int) -> None:
        self._step_s = step_s
        self.now = self.ends(start_s)
        self._coming: list[tuple[float, int, Happens]] = []
        self._added = 0

    def at(self, moment: float, happens: Happens) -> float:
        """At the end of the step in which that moment is, or of the next one; gives when."""
        self._added += 1
        ends = max(self.ends(moment), self.now + self._step_s)
        heapq.heappush(self._coming, (ends, self._added, happens))
        return ends

    def ends(self, moment: float) -> float:
        """The end of the step in which that moment is."""
        return math.ceil(moment / self._step_s) * self._step_s

    def turns(self, until: float) -> Iterator[Turn]:
        """Each step before `until` in which something happens, in order."""
        while self._coming and self._coming[0][0] < until:
            self.now = self._coming[0][0]
            turn = Turn()
            while self._coming and self._coming[0][0] == self.now:
                heapq.heappop(self._coming)[2](turn)
            yield turn
        self.now = until
