"""What is simulated: a fleet, how its clusters behave, how often somebody commits, and how fast people answer.

What is simplified, so that a week of ten thousand clusters takes seconds:

| in a real fleet                                 | here                                                             |
|-------------------------------------------------|------------------------------------------------------------------|
| heartbeats each `HEARTBEAT_S`                   | those of soaking clusters alone, and of these one per deadline;  |
|                                                 | the one that ends a soak, and those around a silence, are exact  |
| ticks of who is held, each five seconds         | one, then only when a freeze or window ends, or others moved     |
| a turn gathers what came in a moment            | what came in one second, of more than `MANY` clusters in five    |
| the hub dies, its network breaks                | never; so "a fifth of the clusters vanished" pauses nobody       |
| a bad commit may break the connection           | it fails on each cluster that has it, after a while              |
| metrics and HTTP addresses say many things      | they are good, but while a bad commit shows itself somewhere     |

Pure. Next: `world` runs it.
"""

from dataclasses import dataclass, field

from hub.model import Fleet, Window

HEARTBEAT_S = 30.0
HOUR_S = 3600.0
MANY, MANY_S = 2_000, 5
"""Of more clusters reports come so close that a turn of each second's would cost most of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From `least_s` to `most_s` seconds, each as likely."""

    least_s: float
    most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Shares are 0..1. `fail`: of the moves, for a reason of the cluster's own; `bad`: of the commits, which fail on
    every cluster after `shows`; `offline`: of the clusters at any moment, for `away` on end; `flap`: of the clusters,
    whose health comes and goes. People take `answer` of their working `hours` (none: day and night) for a word."""

    fleet: Fleet
    policy: str
    """What the fleet rolls out by, for people."""
    start_s: float
    days: float = 7.0
    commits_per_hour: float = 0.1
    apply: Span = Span(least_s=30.0, most_s=300.0)
    fail: float = 0.0
    bad: float = 0.0
    shows: Span = Span(least_s=0.0, most_s=600.0)
    offline: float = 0.0
    away: Span = Span(least_s=600.0, most_s=12 * HOUR_S)
    flap: float = 0.0
    answer: Span = Span(least_s=0.0, most_s=0.0)
    hours: tuple[Window, ...] = field(default=())

    @property
    def end_s(self) -> float:
        return self.start_s + self.days * 24 * HOUR_S
