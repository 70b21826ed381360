"""Pure: a rollout's state as rows of the journal, and back: where it began once, then a step for each turn.

When the steps since it was last written whole outweigh it, the state is written whole again, as one step from nothing:
so a change costs the same in a fleet of any size, and a hub that starts reads no more than twice what there is. Over, a
rollout is written whole, and its steps are for people (`rollout.why`). Next: `journal`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hub.journal import RolloutRow, StoredRollout
from hub.rollout import rollouts, rollouts_json, steps
from hub.state import ClusterView, Event, State
from proto.ids import ClusterName

LEAST_BYTES = 16 << 10
"""Below this reading steps costs nothing worth a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Where a rollout's record ends: how many steps it has, how many bytes those are since it was last written whole,
    and how many it was then."""

    n: int = 0
    since: int = 0
    whole: int = 0


def row(
    before: State | None,
    after: State,
    *,
    tail: Tail,
    events: Sequence[Event] = (),
    view: Mapping[ClusterName, ClusterView] | None = None,
) -> RolloutRow:
    """Pure: what one turn adds to the record of a rollout, which ends at `tail`; `before` None is its first."""
    step = steps.to_json(steps.step(before, after, events=events, view=view))
    alive = rollouts.alive(after)
    heavy = tail.since + len(step) > max(tail.whole, LEAST_BYTES)
    return RolloutRow(
        number=after.rollout.number,
        id=after.rollout.id,
        phase=after.phase,
        alive=alive,
        n=tail.n + 1,
        step=step,
        bootstrap=bool(after.rollout.base),
        begins=rollouts_json.to_json(steps.blank(after.rollout)) if before is None else b"",
        whole=steps.to_json(steps.step(None, after)) if before is not None and (heavy or not alive) else b"",
    )


def after(tail: Tail, row: RolloutRow) -> Tail:
    """Pure: where the record ends once `row` is stored."""
    since = 0 if row.whole else tail.since + len(row.step)
    return Tail(n=row.n, since=since, whole=len(row.whole) or len(row.begins) or tail.whole)


def restored(stored: StoredRollout) -> State:
    """Pure: the state that the journal has. Raises Permanent or UnsupportedVersion for what cannot be read."""
    state = rollouts_json.from_json(stored.begins)
    if stored.whole:
        state = steps.apply(steps.blank(state.rollout), steps.from_json(stored.whole))
    for data in stored.steps:
        state = steps.apply(state, steps.from_json(data))
    return state


def tail(stored: StoredRollout) -> Tail:
    """Pure: where the record ends that the journal has."""
    return Tail(n=stored.n, since=sum(map(len, stored.steps)), whole=len(stored.whole) or len(stored.begins))
