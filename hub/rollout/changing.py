"""Pure: what is to change where, as the fleet repo has it, and who no longer belongs to a rollout. Next: `waves`."""

from collections.abc import Collection, Iterable, Mapping

from hub.model import Cluster, Fleet
from hub.rollout import joiners
from hub.rollout.joiners import Joining
from hub.rollout.transitions import IN_FLIGHT, UNMOVED
from hub.state import ABSENT, FINAL, MemberPhase, Phase, Rollout, State
from proto.ids import BundleName, ClusterName, Oid, RolloutId

P, M = Phase, MemberPhase
Subtrees = Mapping[BundleName, Mapping[ClusterName, Oid]]


def takes_part(fleet: Fleet) -> dict[ClusterName, Cluster]:
    """Pure: the clusters that rollouts may touch. One that is not valid keeps what it runs; a detached one too."""
    return {
        name: cluster
        for name, cluster in fleet.clusters.items()
        if name not in fleet.broken_clusters and cluster.decommission != "detach"
    }


def wants(
    fleet: Fleet,
    desired: Subtrees,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    frozen: Collection[str],
) -> dict[BundleName, dict[ClusterName, Oid]]:
    """Pure: bundle → cluster → what it should be there, ABSENT where it runs and should not."""
    wants: dict[BundleName, dict[ClusterName, Oid]] = {}
    for name, cluster in takes_part(fleet).items():
        for bundle in current.get(name, {}):
            wants.setdefault(bundle, {})[name] = ABSENT
        if cluster.decommission == "prune":
            continue
        for bundle, subtrees in desired.items():
            if name in subtrees:
                wants.setdefault(bundle, {})[name] = subtrees[name]
    return {bundle: wants[bundle] for bundle in sorted(wants) if bundle not in frozen}


def changes(
    wants: Subtrees, current: Mapping[ClusterName, Mapping[BundleName, Oid]]
) -> dict[BundleName, dict[ClusterName, Oid]]:
    """Pure: what of that is not so yet."""
    changes = {
        bundle: {c: s for c, s in subtrees.items() if current.get(c, {}).get(bundle, ABSENT) != s}
        for bundle, subtrees in wants.items()
    }
    return {bundle: subtrees for bundle, subtrees in changes.items() if subtrees}


def under_way(
    wants: Subtrees, active: Collection[State]
) -> tuple[set[tuple[BundleName, ClusterName]], set[tuple[BundleName, ClusterName]]]:
    """Pure: what a rollout is going to do already: all of it, and of it what only catches up after completion. Who was
    skipped is done with until the rollout is over, or planning again would bring it back at once."""
    moving: set[tuple[BundleName, ClusterName]] = set()
    catching_up: set[tuple[BundleName, ClusterName]] = set()
    for state in active:
        if state.phase is P.ROLLING_BACK:
            continue
        for cluster, target in state.rollout.targets.items():
            member = state.members[cluster]
            if member.phase in UNMOVED or (member.skipped and state.phase not in FINAL):
                same = {(b, cluster) for b, s in target.after.items() if wants.get(b, {}).get(cluster, ABSENT) == s}
                moving |= same
                if state.phase is P.COMPLETED and len(same) == len(target.after):
                    catching_up |= same
    return moving, catching_up


def differs(failed_as: Mapping[ClusterName, Oid], want: Mapping[ClusterName, Oid]) -> bool:
    """Pure: is a bundle on hold wanted differently from how it failed? Joiners, leavers and clusters that just stopped
    being its targets are not a change of its sources; a bundle that is wanted nowhere any more is."""
    if not any(want.values()):
        return any(failed_as.values())
    return any(want[cluster] not in (ABSENT, subtree) for cluster, subtree in failed_as.items() if cluster in want)


def leavers(
    fleet: Fleet,
    wants: Subtrees,
    active: Iterable[State],
    made: Iterable[Rollout],
    frozen: Collection[str],
    *,
    replaced: Collection[RolloutId],
) -> Iterable[tuple[RolloutId, ClusterName]]:
    """Pure: who no longer belongs to a rollout: it left the fleet, or is wanted otherwise now, or a newer rollout has
    it. Of one that is `replaced` only those in flight are of interest: nobody else would be moved."""
    known = takes_part(fleet).keys()
    taken = {(bundle, cluster) for new in made for cluster, target in new.targets.items() for bundle in target.after}
    for state in active:
        over = state.phase in FINAL or state.rollout.id in replaced
        for cluster, target in state.rollout.targets.items():
            phase = state.members[cluster].phase
            if state.rollout.id in replaced and phase not in IN_FLIGHT:
                continue
            sure = {b: wants.get(b, {}).get(cluster, ABSENT) for b in target.after if b not in frozen}
            if phase is M.LEFT or _may_be_there(fleet, cluster):
                continue
            if cluster not in known:
                yield state.rollout.id, cluster
            elif state.phase is P.ROLLING_BACK:
                continue
            elif over:
                other = any(target.after[b] != s or (b, cluster) in taken for b, s in sure.items())
                if other and (phase in UNMOVED or phase in IN_FLIGHT):
                    yield state.rollout.id, cluster
            elif any(target.after.values()) and all(
                s == ABSENT or sure.get(b) == ABSENT for b, s in target.after.items()
            ):
                yield state.rollout.id, cluster


def leaving_joiners(
    fleet: Fleet,
    wants: Subtrees,
    bootstraps: Iterable[State],
    made: Iterable[Rollout],
    unread: Collection[str],
    joining: Joining,
) -> Iterable[tuple[RolloutId, ClusterName]]:
    """Pure: who no longer belongs to a bootstrap."""
    known = takes_part(fleet).keys()
    taken = {(bundle, cluster) for new in made for cluster, target in new.targets.items() for bundle in target.after}
    for state in bootstraps:
        for cluster, member in state.members.items():
            if member.phase is M.LEFT or _may_be_there(fleet, cluster):
                continue
            sure = not any(bundle in unread for bundle in state.rollout.bundles)
            if cluster not in known or (
                sure and joiners.leaves(state, cluster, wants=wants, stay=joining.stay, made=taken)
            ):
                yield state.rollout.id, cluster


def _may_be_there(fleet: Fleet, cluster: ClusterName) -> bool:
    """Is it not known whether it left the fleet?"""
    return cluster in fleet.broken_clusters or (fleet.lost_clusters and cluster not in fleet.clusters)
