"""What a round makes of what was stored before it: compositions, last good, completed subtrees, holds. Pure.

Planning in the same round has to know all of it: what a cluster proved a moment ago is where the next rollout goes
back to. Made by `rounds` and by what plans; stored by the loop's journal.
"""

from collections.abc import Iterable, Mapping

from hub.journal import HoldRow, RevisionRow
from hub.rollout import waves
from hub.state import ABSENT, Hold, MarkGood, Move, Phase, State
from proto.ids import BundleName, ClusterName, Oid, RolloutId

Bundles = Mapping[BundleName, Oid]


def running(current: Mapping[ClusterName, Bundles], moves: Iterable[Move]) -> dict[ClusterName, Bundles]:
    """Pure: each cluster's composition, which was `current` before `moves`."""
    found = dict(current)
    for move in moves:
        bundles = {**found.get(move.cluster, {}), **move.subtrees}
        found[move.cluster] = {bundle: subtree for bundle, subtree in bundles.items() if subtree != ABSENT}
    return found


def last_good(
    before: Mapping[tuple[ClusterName, BundleName], Oid], marks: Iterable[MarkGood]
) -> dict[tuple[ClusterName, BundleName], Oid]:
    """Pure: the last subtree of each bundle that finished its soak on each cluster."""
    return {
        **before,
        **{(mark.cluster, bundle): subtree for mark in marks for bundle, subtree in mark.subtrees.items()},
    }


def completed(
    before: Mapping[BundleName, Mapping[ClusterName, Oid]], newly: Iterable[tuple[BundleName, ClusterName, Oid]]
) -> dict[BundleName, Mapping[ClusterName, Oid]]:
    """Pure: what the last completed rollout of each bundle brought to each cluster."""
    new: dict[BundleName, dict[ClusterName, Oid]] = {}
    for bundle, cluster, subtree in newly:
        new.setdefault(bundle, {})[cluster] = subtree
    return {**before, **{bundle: {**before.get(bundle, {}), **subtrees} for bundle, subtrees in new.items()}}


def last_completed(before: Mapping[BundleName, RevisionRow], states: Iterable[State]) -> dict[BundleName, RolloutId]:
    """Pure: the newest rollout of each bundle that completed, but for bootstraps."""
    newest = {bundle: (row.number, row.rollout) for bundle, row in before.items()}
    for state in states:
        if state.phase is Phase.COMPLETED and not state.rollout.base:
            for bundle in state.rollout.bundles:
                this = state.rollout.number, state.rollout.id
                newest[bundle] = max(newest.get(bundle, this), this)
    return {bundle: rollout for bundle, (_, rollout) in newest.items()}


def put_on_hold(
    before: Mapping[BundleName, HoldRow], holds: Iterable[Hold], states: Mapping[RolloutId, State], now: float
) -> dict[BundleName, HoldRow]:
    """Pure: what `holds` put on hold, with the subtrees that must not be tried again. What a person brought back, and
    what then failed, stays on hold as it was: the newer revision must not come by itself."""
    return {
        hold.bundle: HoldRow(
            bundle=hold.bundle,
            rollout=hold.rollout,
            reason=hold.reason,
            time_s=now,
            refused=was.refused
            if (was := before.get(hold.bundle)) is not None and was.keep is not None
            else waves.refused(states[hold.rollout].rollout)[hold.bundle],
        )
        for hold in holds
    }
