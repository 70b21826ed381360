"""Pure: bundles that a person keeps somewhere (`state.Keep`): what is wanted of them in place of the fleet repo's word.

| kept                     | wanted of it                                                                             |
|--------------------------|------------------------------------------------------------------------------------------|
| as it is                 | what runs on each cluster: nothing moves, whatever is committed, not even to a newcomer  |
| at an earlier revision   | what that made of it, where it knew the cluster, by a rollout of its own; then as it is, |
|                          | and who joins gets that revision too (`joiners`)                                         |

A bundle that wants objects of one that is kept waits for it. Next: `waves` plans with these.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hub.model import Cluster, RolloutPolicy
from hub.state import ABSENT, FINAL, Keep, Phase, State
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.objects import ObjectKey

Subtrees = Mapping[BundleName, Mapping[ClusterName, Oid]]


def wants(
    kept: Mapping[BundleName, Keep],
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    clusters: Mapping[ClusterName, Cluster],
) -> dict[BundleName, dict[ClusterName, Oid]]:
    """Pure: bundle → cluster → what it is to be there. `clusters` are those that rollouts may touch."""
    found: dict[BundleName, dict[ClusterName, Oid]] = {}
    for bundle, keep in kept.items():
        runs = {cluster: current.get(cluster, {}).get(bundle, ABSENT) for cluster in clusters}
        wanted = {cluster: keep.subtrees.get(cluster, here) for cluster, here in runs.items()}
        found[bundle] = {cluster: subtree for cluster, subtree in wanted.items() if subtree or runs[cluster]}
    return found


def robbed(
    todo: Subtrees,
    kept: Mapping[BundleName, Keep],
    wants: Subtrees,
    keys: Callable[[Oid], frozenset[ObjectKey]],
) -> list[BundleName]:
    """Pure: the kept bundles that have objects on a cluster where `todo` would give them to another."""
    found = []
    for other in sorted(kept.keys() - todo.keys()):
        pairs = {
            (subtree, has)
            for subtrees in todo.values()
            for cluster, subtree in subtrees.items()
            if subtree and (has := wants.get(other, {}).get(cluster, ABSENT))
        }
        if any(keys(subtree) & keys(has) for subtree, has in pairs):
            found.append(other)
    return found


def policy(
    usual: RolloutPolicy | None, bundles: Iterable[BundleName], kept: Mapping[BundleName, Keep]
) -> RolloutPolicy | None:
    """Pure: how a group of bundles moves: as usual, or all at once by a person's word."""
    if usual is None or not any(kept[bundle].at_once for bundle in bundles if bundle in kept):
        return usual
    return replace(usual, waves=(), windows=())


def revision(bundles: tuple[BundleName, ...], kept: Mapping[BundleName, Keep]) -> Oid:
    """Pure: whose work the group goes back to, "" when it is the fleet repo's newest as ever."""
    return kept[bundles[0]].revision if len(bundles) == 1 and bundles[0] in kept else Oid("")


def to_end(bundle: BundleName, states: Iterable[State], *, abort: bool) -> list[RolloutId]:
    """Pure: the rollouts of the bundle that have to end before it can be kept. Raises InvalidInput when one is under
    way that nobody said to `abort`, or that is on its way back. Of bootstraps leaves who has not moved."""
    found = []
    for state in states:
        name = state.rollout.id
        if bundle not in state.rollout.bundles or state.phase in FINAL or state.rollout.base:
            continue
        if state.phase is Phase.ROLLING_BACK:
            raise InvalidInput(
                f"bundle {bundle}", f"rollout {name} of it is being rolled back", "wait until that is over"
            )
        if not abort:
            remedy = f"wait for it, 'flotilla rollback {name}', or add --now, which ends it where it is"
            raise InvalidInput(f"bundle {bundle}", f"rollout {name} of it is {state.phase}", remedy)
        found.append(name)
    return found
