"""Who owns what, for random fleets: the short way that asks whole sets once gives what asking each object gives."""

import itertools
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from hub.desired import clashes
from hub.slices import compose
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey

bundles = st.sampled_from("abcd").map(BundleName)
clusters = st.sampled_from(["c-1", "c-2", "c-3"]).map(ClusterName)
subtrees = st.frozensets(st.sampled_from("uvwxyz"), max_size=2).map(lambda names: Oid(" ".join(sorted(names)) or "-"))
owned = st.lists(st.frozensets(st.integers(0, 9), max_size=4), max_size=4).map(tuple)


def keys(subtree: Oid) -> frozenset[ObjectKey]:
    """The subtree `x y` has the objects x and y."""
    return frozenset(ObjectKey("", "ConfigMap", "shop", name) for name in subtree.split() if name != "-")


@given(
    wanted=st.dictionaries(bundles, st.dictionaries(clusters, subtrees), max_size=4),
    running=st.dictionaries(clusters, st.dictionaries(bundles, subtrees, max_size=4)),
    gone=st.frozensets(bundles, max_size=1),
)
def test_the_short_way_refuses_what_the_long_one_refuses(
    wanted: dict[BundleName, dict[ClusterName, Oid]],
    running: dict[ClusterName, dict[BundleName, Oid]],
    gone: frozenset[BundleName],
) -> None:
    def found() -> object:
        return clashes(wanted, current=running, gone=gone - wanted.keys(), keys=keys, where="{}.yaml".format)

    with mock.patch.object(compose, "disjoint", return_value=False):
        long_way = found()
    assert found() == long_way


@given(owned)
def test_sets_are_disjoint_when_no_two_share_anything(owned: tuple[frozenset[ObjectKey], ...]) -> None:
    pairs = itertools.combinations(owned, 2)
    assert compose.disjoint(owned) == all(one.isdisjoint(other) for one, other in pairs)
