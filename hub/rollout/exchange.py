"""Which bundles have to roll together, because one takes over objects of another in the same commit.

An object that leaves bundle A and arrives in bundle B must not be away in between, nor owned twice: A and B move in one
slice commit on each cluster, so they are one rollout; and so is a bundle between them, on which one depends and which
depends on the other: as two rollouts they would wait for each other for ever. Bundles that would both keep one object
were refused before (`desired.clashes`). Next: `waves` makes the rollouts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hub.state import ABSENT
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`gainers` are the bundles that take objects over; none when the group is a single bundle."""

    bundles: tuple[BundleName, ...]
    gainers: frozenset[BundleName] = frozenset()


def groups(
    changes: Mapping[BundleName, Mapping[ClusterName, Oid]],
    *,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    keys: Callable[[Oid], frozenset[ObjectKey]],
    renamed: Mapping[BundleName, BundleName],
    depends_on: Callable[[BundleName], Iterable[BundleName]] = lambda bundle: (),
) -> tuple[Group, ...]:
    """Pure: `changes` (bundle → cluster → its new subtree) as groups, in order of their first bundle's name.

    An object that one bundle has on a cluster now, and that is new in another, links the two, and so do a new name
    (`renamed`: old → new) and a circle of groups that depend on each other; links are transitive.
    """
    leader = {bundle: bundle for bundle in changes}

    def find(bundle: BundleName) -> BundleName:
        while leader[bundle] != bundle:
            bundle = leader[bundle]
        return bundle

    def link(one: BundleName, other: BundleName) -> None:
        first, second = sorted((find(one), find(other)))
        leader[second] = first

    def owned(subtree: Oid) -> frozenset[ObjectKey]:
        return frozenset() if subtree == ABSENT else keys(subtree)

    gainers: set[BundleName] = set()
    for old, new in renamed.items():
        if old in changes and new in changes:
            gainers.add(new)
            link(old, new)
    seen: set[tuple[BundleName, Oid, frozenset[tuple[BundleName, Oid]]]] = set()
    for bundle in sorted(changes):
        for cluster, subtree in changes[bundle].items():
            now = current.get(cluster, {})
            situation = (bundle, subtree, frozenset(now.items()))
            if situation in seen:  # clusters alike need one look
                continue
            seen.add(situation)
            gained = owned(subtree) - owned(now.get(bundle, ABSENT))
            for other in sorted(now) if gained else ():
                if other != bundle and other in changes and gained & owned(now[other]):
                    gainers.add(bundle)
                    link(bundle, other)
    if gainers:
        needs: dict[BundleName, set[BundleName]] = {}
        for bundle in sorted(changes):
            needs.setdefault(find(bundle), set()).update(
                find(other) for other in depends_on(bundle) if other in changes
            )
        reached = {bundle: _reached(bundle, needs) for bundle in needs}
        for bundle in needs:
            for other in reached[bundle]:
                if bundle in reached[other]:
                    link(bundle, other)
    found: dict[BundleName, list[BundleName]] = {}
    for bundle in sorted(changes):
        found.setdefault(find(bundle), []).append(bundle)
    return tuple(Group(bundles=tuple(some), gainers=frozenset(gainers.intersection(some))) for some in found.values())


def _reached(bundle: BundleName, needs: Mapping[BundleName, Iterable[BundleName]]) -> set[BundleName]:
    """On which others it depends, however far away."""
    found: set[BundleName] = set()
    ahead = [*needs[bundle]]
    while ahead:
        other = ahead.pop()
        if other not in found:
            found.add(other)
            ahead += needs[other]
    return found - {bundle}
