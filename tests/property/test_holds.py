"""What a person keeps never moves, and what a person brings back moves alone: over random fleets, commits and holds."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.model import Bundle, Cluster, Fleet, Selector
from hub.rollout import waves
from hub.rollout.waves import Planned
from hub.state import ABSENT, Keep
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import BundlePolicy

CLUSTERS = [ClusterName(name) for name in ("c1", "c2", "c3")]
BUNDLES = [BundleName(name) for name in ("notes", "shop", "till")]
SHOP = BUNDLES[1]
SUBTREES = [Oid(letter * 40) for letter in "abcd"]

subtrees = st.sampled_from([ABSENT, *SUBTREES])
running = st.fixed_dictionaries({c: st.fixed_dictionaries(dict.fromkeys(BUNDLES, subtrees)) for c in CLUSTERS})
committed = st.dictionaries(
    st.sampled_from(BUNDLES), st.dictionaries(st.sampled_from(CLUSTERS), st.sampled_from(SUBTREES))
)
broken = st.frozensets(st.sampled_from(BUNDLES))
Composition = dict[ClusterName, dict[BundleName, Oid]]
Desired = dict[BundleName, dict[ClusterName, Oid]]


def plan(
    current: Composition,
    desired: Desired,
    failed: frozenset[BundleName],
    *,
    holds: Mapping[BundleName, Mapping[ClusterName, Oid]],
    keeps: Mapping[BundleName, Keep],
) -> Planned:
    bundles = {
        name: Bundle(name=name, folder=name, targets=Selector(), policy=BundlePolicy(name=name)) for name in desired
    }
    return waves.plan_rollouts(
        fleet=Fleet(clusters={name: Cluster(name=name, labels={}) for name in CLUSTERS}, bundles=bundles),
        desired={name: oids for name, oids in desired.items() if name not in failed},
        failed=failed,
        current={name: {b: oid for b, oid in has.items() if oid} for name, has in current.items()},
        last_good={},
        completed={},
        holds=holds,
        keeps=keeps,
        active=(),
        keys=lambda subtree: frozenset(),
        remembered={},
        revision=Oid("e" * 40),
        number=1,
        now=0.0,
    )


def moved(planned: Planned) -> set[tuple[ClusterName, BundleName, Oid]]:
    return {
        (cluster, bundle, subtree)
        for rollout in planned.rollouts
        for cluster, target in rollout.targets.items()
        for bundle, subtree in target.after.items()
    }


@settings(max_examples=200)
@given(running, committed, broken)
def test_a_bundle_on_hold_never_moves_and_the_others_move_as_if_it_were_not_there(
    current: Composition, desired: Desired, failed: frozenset[BundleName]
) -> None:
    free = plan(current, desired, failed, holds={}, keeps={})
    held = plan(current, desired, failed, holds={SHOP: {}}, keeps={SHOP: Keep()})
    assert held.released == frozenset()
    assert moved(held) == {move for move in moved(free) if move[1] != SHOP}


@settings(max_examples=200)
@given(running, committed, broken, st.dictionaries(st.sampled_from(CLUSTERS), subtrees))
def test_a_bundle_that_is_brought_back_goes_there_whatever_is_committed_and_the_others_as_ever(
    current: Composition, desired: Desired, failed: frozenset[BundleName], earlier: dict[ClusterName, Oid]
) -> None:
    free = plan(current, desired, failed, holds={}, keeps={})
    refused = {**{c: has[SHOP] for c, has in current.items() if has[SHOP]}, **desired.get(SHOP, {})}
    keep = Keep(subtrees=earlier, revision=Oid("f" * 40))
    back = plan(current, desired, failed, holds={SHOP: refused}, keeps={SHOP: keep})
    there = {(cluster, SHOP, oid) for cluster, oid in earlier.items() if current[cluster][SHOP] != oid}
    if SHOP in back.released:  # the fleet repo wants it nowhere any more: that is a change of its sources
        assert not any(desired.get(SHOP, {}).values())
        assert moved(back) == moved(free)
    else:
        assert moved(back) == {move for move in moved(free) if move[1] != SHOP} | there
        assert {made.revision for made in back.rollouts if SHOP in made.bundles} <= {keep.revision}
