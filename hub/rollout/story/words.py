"""Words that all parts of a rollout's story use."""

from dataclasses import dataclass

from hub.rollout.transitions import some
from hub.state import MemberPhase, State
from proto.ids import ClusterName

M = MemberPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something that happened at `at` (Unix seconds), to `clusters` or to the whole. The text is `what`, with the names
    of the clusters before it, and `why` after it."""

    at: float
    kind: str
    what: str
    why: str = ""
    clusters: tuple[ClusterName, ...] = ()

    @property
    def text(self) -> str:
        whom = f"{some(self.clusters)} " if self.clusters else ""
        return f"{whom}{self.what}{f': {self.why}' if self.why else ''}"


def counted(state: State, index: int) -> str:
    """Pure: how many of a wave came to what."""
    tally = state.tallies[index]
    shown = (M.PROVEN, M.FAILED, M.OFFLINE, M.LEFT, M.PENDING, M.REVERTED, M.REVERT_FAILED)
    return ", ".join(f"{n} {phase}" for phase in shown if (n := tally.phases.get(phase, 0)))


def many(clusters: int) -> str:
    """Pure: so many clusters."""
    return f"{clusters} cluster{'' if clusters == 1 else 's'}"


def duration(seconds: float) -> str:
    """Pure: a time span for people, in its two largest units."""
    left = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, left = divmod(left, size)
        if amount or parts:
            parts.append((amount, unit))
        if len(parts) == 2:
            break
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 s"
