"""What of the objects that Git no longer has may be deleted, and what is let go.

Pure. By bundle:

    the object, or its bundle                                                   done with it
    Namespace, CRD, PersistentVolume(Claim), without `destructivePrune`         let go
    of a bundle with `prune: false`, or that left with an unknown policy        let go
    that the guard ConfigMap forbids to touch                                   nothing; it is told
    of a bundle that is empty in the slice, without `allowEmpty`                nothing; it is told
    of a suspended bundle                                                       nothing
    anything else                                                               deleted, last rank first

The guard ConfigMap's largest share is taken of all objects that are ours or wanted, without those that are let go; what
counts against it is everything that would be deleted in the end, whether its turn has come or not, so that neither
waiting bundles nor slow deletions make many small steps of a large one. Above it nothing is deleted at all, and no
bundle that had deletions lets anything go.

Custom resources go before all else but webhooks, and the rest waits until they are gone: their finalizers may need a
controller that goes, too, in whichever bundle. It does not wait for ever (`PATIENCE_LOOKS`). Next: `plan`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Protocol

from agent.apply import order as ordering
from agent.model import Limits
from proto.objects import ObjectKey

KEPT_KINDS = frozenset({"Namespace", ordering.CRD_GK, "PersistentVolume", "PersistentVolumeClaim"})
"""Deleting one of these takes data or other objects with it, so that needs `destructivePrune`."""

PATIENCE_LOOKS: Final = 6
"""How often a custom resource that is being deleted is looked at before what else goes does not wait for it any more:
half a minute to a minute."""


class PrunePolicy(Protocol):
    """What a bundle, or the ApplySet parent of one that left the slice, says about pruning."""

    @property
    def prune(self) -> bool: ...
    @property
    def destructive_prune(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surplus:
    """What was ours of one bundle and Git does not have. `empty`: the bundle is in the slice, without any object, and
    does not say that this is meant."""

    keys: Sequence[ObjectKey]
    policy: PrunePolicy
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why nothing of a bundle is pruned: a reason in one word, and a whole sentence with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What may be done about the surplus of one bundle. `refused` says in a whole sentence why one object must stay."""

    delete: tuple[ObjectKey, ...] = ()
    release: tuple[ObjectKey, ...] = ()
    refused: Mapping[ObjectKey, str] = field(default_factory=dict)
    problem: Problem | None = None


def removals(
    surplus: Mapping[str, Surplus], *, known: int, limits: Limits, suspended: Mapping[str, str]
) -> dict[str, Removal]:
    """Pure: by bundle. `known` is how many objects are ours or wanted."""
    found = {name: _removal(name, of, limits) for name, of in surplus.items() if of.keys and name not in suspended}
    deleted = sum(len(removal.delete) for removal in found.values())
    rest = known - sum(len(removal.release) for removal in found.values())
    if deleted <= limits.max_pruned_share * rest:
        return found
    cause = (
        f"of {rest} objects {deleted} would be deleted, and the guard ConfigMap of this cluster allows "
        f"{limits.max_pruned_share:.0%} at once (take fewer out of Git at a time, or raise it there)"
    )
    return {
        name: Removal(
            refused=removal.refused,
            problem=removal.problem
            or Problem(reason="PruneLimit", message=f"bundle {name}: nothing is pruned: {cause}"),
        )
        if removal.delete
        else removal
        for name, removal in found.items()
    }


def is_first(key: ObjectKey) -> bool:
    """Pure: whether it goes before custom resources are gone."""
    return ordering.rank(key) >= ordering.CUSTOM_RANK


def phases(keys: Iterable[ObjectKey]) -> tuple[tuple[ObjectKey, ...], ...]:
    """Pure: in the order of deletion."""
    ordered = sorted(keys, key=lambda key: (-ordering.rank(key), key))
    return tuple(tuple(phase) for _, phase in groupby(ordered, key=ordering.rank))


def _removal(name: str, surplus: Surplus, limits: Limits) -> Removal:
    remedy = "" if limits.closed else " (change the guard ConfigMap, or remove the object yourself)"
    refused = {key: f"{key}: is not pruned: {why}{remedy}" for key in surplus.keys if (why := limits.refuses(key))}
    if surplus.empty:
        message = f"bundle {name} is empty in the slice; nothing is pruned unless the bundle says allowEmpty: true"
        return Removal(refused=refused, problem=Problem(reason="Empty", message=message))
    free = [key for key in surplus.keys if key not in refused]
    policy = surplus.policy
    kept = {key for key in free if not policy.prune or (key.gk in KEPT_KINDS and not policy.destructive_prune)}
    return Removal(delete=tuple(key for key in free if key not in kept), release=tuple(sorted(kept)), refused=refused)
