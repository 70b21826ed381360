"""Which rollouts a revision starts: fleets and subtrees in, rollouts with their waves out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from hub.model import Amount, Bundle, Cluster, FailurePolicy, Fleet, RolloutPolicy, Selector, WavePolicy
from hub.rollout import held, resolve, rollouts, waves
from hub.rollout.turn import tallies
from hub.rollout.waves import Planned
from hub.state import ABSENT, ClusterView, Keep, Member, MemberPhase, Move, Phase, State, Target, Tick
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.objects import ObjectKey
from proto.slices import BundlePolicy

OLD, NEW, NEWER = Oid("a" * 40), Oid("b" * 40), Oid("d" * 40)
SHOP, TILL = BundleName("shop"), BundleName("till")
PERCENT = 100


def cluster(name: str, **labels: str) -> tuple[ClusterName, Cluster]:
    return ClusterName(name), Cluster(name=ClusterName(name), labels=labels)


def bundle(name: str, rollout: str = "", **changes: Any) -> tuple[BundleName, Bundle]:
    plain = Bundle(
        name=BundleName(name), folder=name, targets=Selector(), rollout=rollout, policy=BundlePolicy(name=name)
    )
    return plain.name, replace(plain, **changes)


def selects(**labels: str) -> Selector:
    return Selector(match_labels=labels)


CANARY = WavePolicy(name="canary", select=selects(canary="true"))
CAREFUL = RolloutPolicy(name="careful", waves=(CANARY, WavePolicy(name="eu", select=selects(region="eu"))))
FLEET = Fleet(
    clusters=dict(
        [
            cluster("c1", canary="true", region="eu"),
            cluster("c2", region="eu"),
            cluster("c3", region="us"),
        ]
    ),
    bundles=dict([bundle("shop", "careful"), bundle("till")]),
    policies={"careful": CAREFUL},
)


def everywhere(subtree: Oid, *names: str) -> dict[ClusterName, Oid]:
    return {ClusterName(name): subtree for name in names or ("c1", "c2", "c3")}


def running(**subtrees: Oid) -> dict[ClusterName, dict[BundleName, Oid]]:
    return {name: {BundleName(b): s for b, s in subtrees.items() if s} for name in FLEET.clusters}


def plan(**changes: Any) -> Planned:
    """A plan for the fleet above: shop goes from OLD to NEW everywhere unless `changes` say otherwise."""
    plain: dict[str, Any] = {
        "fleet": FLEET,
        "desired": {SHOP: everywhere(NEW), TILL: {}},
        "failed": frozenset(),
        "current": running(shop=OLD),
        "last_good": {},
        "completed": {},
        "holds": {},
        "active": (),
        "keys": lambda subtree: frozenset(),
        "remembered": {},
        "revision": Oid("c" * 40),
        "number": 7,
        "now": 1000.0,
    }
    return waves.plan_rollouts(**{**plain, **changes})


def shape(planned: Planned) -> list[tuple[str, list[str]]]:
    """The waves of the only rollout."""
    (rollout,) = planned.rollouts
    return [(wave.name, list(wave.clusters)) for wave in rollout.waves]


def under_way(phase: Phase = Phase.RUNNING, planned: Planned | None = None, **members: Member) -> State:
    """The rollout of `plan()`, or of another plan, with its canary moving and the others waiting."""
    (rollout,) = (planned or plan()).rollouts
    state = rollouts.start(rollout, 1000.0)
    moving = {ClusterName("c1"): Member(phase=MemberPhase.MOVING, seq=4, moved_at=1000.0)}
    named = {ClusterName(name): member for name, member in members.items()}
    every = {c: replace(m, wave=state.members[c].wave) for c, m in {**state.members, **moving, **named}.items()}
    return replace(state, phase=phase, members=every, tallies=tallies(rollout, every), wave_opened_at=1000.0)


# --- members, targets, waves ---


def test_clusters_go_to_the_first_wave_that_selects_them_and_the_others_to_rest() -> None:
    planned = plan()
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"]), ("rest", ["c3"])]
    (rollout,) = planned.rollouts
    assert (rollout.id, rollout.number, rollout.bundles, rollout.made_at) == ("shop-7", 7, (SHOP,), 1000.0)


def test_clusters_that_change_alike_share_one_target() -> None:
    last_good = {(ClusterName("c1"), SHOP): OLD, (ClusterName("c2"), SHOP): OLD}
    (rollout,) = plan(last_good=last_good).rollouts
    alike, other = rollout.targets[ClusterName("c1")], rollout.targets[ClusterName("c3")]
    assert rollout.targets[ClusterName("c2")] is alike
    assert (alike.before, other.before) == ({SHOP: OLD}, {SHOP: ABSENT})


def test_nothing_to_change_is_no_rollout() -> None:
    planned = plan(current=running(shop=NEW))
    assert planned == Planned(rollouts=(), replaced={}, left=(), released=frozenset(), waiting={}, notices=())


def test_members_are_the_clusters_whose_subtree_changes_and_waves_without_them_are_skipped() -> None:
    planned = plan(desired={SHOP: {**everywhere(OLD), **everywhere(NEW, "c3")}, TILL: {}})
    assert shape(planned) == [("rest", ["c3"])]
    assert rollouts.start(planned.rollouts[0], 1.0).phase is Phase.RUNNING


def test_a_wave_that_selects_no_cluster_of_the_fleet_holds_the_rollout_unless_it_may_be_empty() -> None:
    typo = WavePolicy(name="canary", select=selects(canray="true"))
    held = plan(fleet=replace(FLEET, policies={"careful": RolloutPolicy(name="careful", waves=(typo,))}))
    assert shape(held) == [("canary", []), ("rest", ["c1", "c2", "c3"])]
    state = rollouts.start(held.rollouts[0], 1.0)
    assert state.phase is Phase.PAUSED
    assert "wave canary" in state.reason
    assert [notice.kind for notice in held.notices] == ["paused"]
    may_be = replace(typo, allow_empty=True)
    free = plan(fleet=replace(FLEET, policies={"careful": RolloutPolicy(name="careful", waves=(may_be,))}))
    assert shape(free) == [("rest", ["c1", "c2", "c3"])]


def test_a_wave_whose_clusters_an_earlier_wave_took_is_not_mistyped() -> None:
    again = RolloutPolicy(name="careful", waves=(CANARY, replace(CANARY, name="again")))
    assert shape(plan(fleet=replace(FLEET, policies={"careful": again}))) == [
        ("canary", ["c1"]),
        ("rest", ["c2", "c3"]),
    ]


def test_a_bundle_without_a_policy_goes_everywhere_at_once() -> None:
    planned = plan(desired={SHOP: everywhere(OLD), TILL: everywhere(NEW)})
    assert shape(planned) == [("rest", ["c1", "c2", "c3"])]
    assert planned.rollouts[0].waves[0].max_concurrent == 3


def test_the_way_back_is_last_good_else_last_completed_else_absent() -> None:
    planned = plan(
        last_good={(ClusterName("c1"), SHOP): Oid("1" * 40)},
        completed={SHOP: everywhere(Oid("2" * 40), "c1", "c2")},
    )
    targets = planned.rollouts[0].targets
    assert [targets[ClusterName(c)].before[SHOP] for c in ("c1", "c2", "c3")] == ["1" * 40, "2" * 40, ABSENT]
    assert targets[ClusterName("c3")].after == {SHOP: NEW}


def test_last_good_absent_is_an_answer_and_not_a_gap() -> None:
    planned = plan(last_good={(ClusterName("c1"), SHOP): ABSENT}, completed={SHOP: everywhere(OLD)})
    assert planned.rollouts[0].targets[ClusterName("c1")].before[SHOP] == ABSENT


@pytest.mark.parametrize(
    ("amount", "size", "expected"),
    [
        pytest.param(Amount(value=25, percent=True), 10, 2, id="percentages round down"),
        pytest.param(Amount(value=10, percent=True), 3, 1, id="at least one"),
        pytest.param(Amount(value=100, percent=True), 3, 3, id="all"),
        pytest.param(Amount(value=2), 10, 2, id="a number"),
    ],
)
def test_max_concurrent_of_a_wave(amount: Amount, size: int, expected: int) -> None:
    assert resolved(WavePolicy(name="w", select=Selector(), max_concurrent=amount), size).max_concurrent == expected


@pytest.mark.parametrize(
    ("amount", "size", "expected"),
    [
        pytest.param(Amount(value=50, percent=True), 3, 2, id="half rounds up"),
        pytest.param(Amount(value=0, percent=True), 3, 1, id="at least one"),
        pytest.param(Amount(value=0), 3, 1, id="at least one of a number"),
        pytest.param(Amount(value=9), 3, 3, id="no more than there are"),
        pytest.param(Amount(value=34, percent=True), 3, 2, id="34 % of 3 is more than one"),
    ],
)
def test_proof_that_a_wave_needs(amount: Amount, size: int, expected: int) -> None:
    assert resolved(WavePolicy(name="w", select=Selector(), min_proof=amount), size).min_proof == expected


def resolved(policy: WavePolicy, size: int) -> Any:
    """The only wave of a policy in a fleet of `size` clusters."""
    clusters = dict(cluster(f"c{n}") for n in range(size))
    (wave,) = resolve.resolve(RolloutPolicy(name="p", waves=(policy,)), members=clusters.keys(), clusters=clusters)
    return wave


def budgets(policy: RolloutPolicy) -> list[tuple[int, int]]:
    """(offline, failure) of each wave, in a fleet of a wave with 20 clusters and a rest with 29."""
    clusters = dict(cluster(f"c{n:02}", first=str(n < 20)) for n in range(49))
    first = WavePolicy(name="first", select=selects(first="True"))
    made = resolve.resolve(replace(policy, waves=(first,)), members=clusters.keys(), clusters=clusters)
    return [(wave.offline_budget, wave.failure_budget) for wave in made]


def test_offline_budgets_are_none_in_the_first_wave_and_a_tenth_later_unless_the_policy_says_so() -> None:
    assert budgets(RolloutPolicy(name="p")) == [(0, 0), (2, 0)]
    assert budgets(RolloutPolicy(name="p", offline_budget=Amount(value=50, percent=True))) == [(10, 0), (14, 0)]


def test_failure_budgets_round_down() -> None:
    policy = RolloutPolicy(name="p", failure=FailurePolicy(budget=Amount(value=10, percent=True)))
    assert [failure for _, failure in budgets(policy)] == [2, 2]


def test_a_wave_of_its_own_budget_keeps_it() -> None:
    own = WavePolicy(name="w", select=Selector(), offline_budget=Amount(value=3))
    assert resolved(own, 10).offline_budget == 3


# --- what does not change ---


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"failed": frozenset({SHOP}), "desired": {TILL: {}}}, id="it did not render"),
        pytest.param({"desired": {TILL: {}}}, id="nobody says why it is missing"),
        pytest.param(
            {"fleet": replace(FLEET, broken_bundles=frozenset({"shop"}), bundles=dict([bundle("till")]))},
            id="its file is broken",
        ),
        pytest.param({"fleet": replace(FLEET, clusters={})}, id="no Cluster file is left"),
        pytest.param(
            {"fleet": replace(FLEET, bundles={}, lost_bundles=True), "desired": {}}, id="no bundle can be read at all"
        ),
    ],
)
def test_a_bundle_keeps_what_it_runs_when(changes: Mapping[str, Any]) -> None:
    assert plan(**changes).rollouts == ()


def test_a_broken_or_detached_cluster_keeps_what_it_runs() -> None:
    detached = {**FLEET.clusters, ClusterName("c2"): replace(FLEET.clusters[ClusterName("c2")], decommission="detach")}
    del detached[ClusterName("c3")]
    planned = plan(fleet=replace(FLEET, clusters=detached, broken_clusters=frozenset({"c3"})))
    assert shape(planned) == [("canary", ["c1"])]


def test_a_policy_that_is_not_there_keeps_the_bundle_waiting() -> None:
    planned = plan(fleet=replace(FLEET, policies={}))
    assert planned.rollouts == ()
    assert "policy" in planned.waiting[SHOP]


# --- removal ---


def test_a_removed_bundle_goes_in_the_waves_it_had() -> None:
    gone = replace(FLEET, bundles=dict([bundle("till")]))
    planned = plan(fleet=gone, desired={TILL: {}}, remembered={SHOP: CAREFUL})
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"]), ("rest", ["c3"])]
    assert {target.after[SHOP] for target in planned.rollouts[0].targets.values()} == {ABSENT}


def test_a_removed_target_is_a_rollout_to_absent_there() -> None:
    planned = plan(desired={SHOP: everywhere(OLD, "c1", "c2"), TILL: {}})
    assert shape(planned) == [("rest", ["c3"])]
    assert planned.rollouts[0].targets[ClusterName("c3")].after == {SHOP: ABSENT}


def test_a_cluster_that_is_pruned_loses_every_bundle() -> None:
    pruned = {**FLEET.clusters, ClusterName("c3"): replace(FLEET.clusters[ClusterName("c3")], decommission="prune")}
    planned = plan(
        fleet=replace(FLEET, clusters=pruned),
        desired={SHOP: everywhere(OLD), TILL: everywhere(OLD)},
        current=running(shop=OLD, till=OLD),
    )
    assert [(list(r.bundles), sorted(r.targets)) for r in planned.rollouts] == [(["shop"], ["c3"]), (["till"], ["c3"])]
    assert {s for r in planned.rollouts for t in r.targets.values() for s in t.after.values()} == {ABSENT}


# --- groups ---


def test_bundles_that_exchange_an_object_roll_as_one_under_the_policy_of_the_one_that_gains() -> None:
    key = ObjectKey(group="", kind="ConfigMap", namespace="default", name="prices")
    owned = {Oid("1" * 40): {key}, Oid("2" * 40): set(), Oid("3" * 40): set(), Oid("4" * 40): {key}}
    planned = plan(
        current=running(till=Oid("1" * 40), shop=Oid("3" * 40)),
        desired={TILL: everywhere(Oid("2" * 40)), SHOP: everywhere(Oid("4" * 40))},
        keys=lambda subtree: frozenset(owned[subtree]),
    )
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"]), ("rest", ["c3"])]
    (rollout,) = planned.rollouts
    assert (rollout.id, rollout.bundles) == ("shop-7", (SHOP, TILL))
    assert rollout.targets[ClusterName("c1")] == Target(
        before={SHOP: ABSENT, TILL: ABSENT}, after={SHOP: Oid("4" * 40), TILL: Oid("2" * 40)}
    )


STORE = BundleName("store")
RENAMED = replace(FLEET, renamed={STORE: SHOP})


def test_a_renamed_bundle_goes_with_its_old_name_in_its_own_waves_and_back_to_it() -> None:
    planned = plan(
        fleet=RENAMED,
        current=running(store=OLD),
        last_good={(ClusterName("c1"), STORE): OLD},
        remembered={STORE: RolloutPolicy(name="other", waves=(CANARY, CANARY, CANARY))},
    )
    (rollout,) = planned.rollouts
    assert (rollout.id, rollout.bundles) == ("shop-7", (SHOP, STORE))
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"]), ("rest", ["c3"])]
    assert rollout.targets[ClusterName("c1")] == Target(
        before={SHOP: ABSENT, STORE: OLD}, after={SHOP: NEW, STORE: ABSENT}
    )


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"failed": {SHOP}, "desired": {TILL: {}}}, id="does not render"),
        pytest.param(
            {
                "fleet": replace(RENAMED, bundles=dict([bundle("till")]), broken_bundles=frozenset({"shop"})),
                "desired": {TILL: {}},
            },
            id="is not valid",
        ),
    ],
)
def test_the_old_name_keeps_what_it_runs_while_the_new_one_cannot_have_it(broken: Mapping[str, Any]) -> None:
    assert plan(**{"fleet": RENAMED, "current": running(store=OLD), **broken}).rollouts == ()


def test_after_a_rollback_a_fix_of_the_new_name_takes_the_old_one_along() -> None:
    failed = {SHOP: everywhere(NEW), STORE: everywhere(ABSENT)}
    again = plan(fleet=RENAMED, current=running(store=OLD), holds=failed)
    assert (again.rollouts, again.released) == ((), frozenset())
    fixed = plan(fleet=RENAMED, current=running(store=OLD), holds=failed, desired={SHOP: everywhere(NEWER), TILL: {}})
    assert [rollout.bundles for rollout in fixed.rollouts] == [(SHOP, STORE)]
    assert fixed.released == {SHOP, STORE}


def test_an_old_name_that_nobody_runs_any_more_means_nothing() -> None:
    (rollout,) = plan(fleet=RENAMED).rollouts
    assert rollout.bundles == (SHOP,)


def test_groups_are_transitive_and_the_rest_rolls_by_itself() -> None:
    keys = {name: ObjectKey(group="", kind="ConfigMap", namespace="n", name=name) for name in "xy"}
    a, b, c, d = (BundleName(name) for name in "abcd")
    old = {a: Oid("1" * 40), b: Oid("2" * 40), c: Oid("3" * 40), d: Oid("4" * 40)}
    new = {a: Oid("5" * 40), b: Oid("6" * 40), c: Oid("7" * 40), d: Oid("8" * 40)}
    owned = {old[a]: {keys["x"]}, old[b]: {keys["y"]}, new[b]: {keys["x"]}, new[c]: {keys["y"]}}
    planned = plan(
        fleet=replace(FLEET, bundles=dict(bundle(name) for name in "abcd")),
        current={ClusterName("c1"): old},
        desired={name: everywhere(subtree, "c1") for name, subtree in new.items()},
        keys=lambda subtree: frozenset(owned.get(subtree, set())),
    )
    assert [(r.id, r.bundles) for r in planned.rollouts] == [("b-7", (a, b, c)), ("d-8", (d,))]


def test_a_bundle_between_two_that_exchange_an_object_rolls_with_them_or_each_would_wait_for_the_other() -> None:
    key = ObjectKey(group="", kind="ConfigMap", namespace="n", name="x")
    app, base, db, other = (BundleName(name) for name in ("app", "base", "db", "other"))
    bundles = [bundle("app", depends_on=(db,)), bundle("db", depends_on=(base,)), bundle("base")]
    fleet = replace(FLEET, bundles=dict([*bundles, bundle("other", depends_on=(app,))]))
    owned = {Oid("1" * 40): {key}, Oid("6" * 40): {key}}
    planned = plan(
        fleet=fleet,
        current=running(app=Oid("1" * 40), base=Oid("2" * 40), db=Oid("3" * 40), other=Oid("4" * 40)),
        desired={
            app: everywhere(Oid("5" * 40)),
            base: everywhere(Oid("6" * 40)),
            db: everywhere(Oid("7" * 40)),
            other: everywhere(Oid("8" * 40)),
        },
        keys=lambda subtree: frozenset(owned.get(subtree, set())),
    )
    assert [(r.id, r.bundles, r.depends_on) for r in planned.rollouts] == [
        ("base-7", (app, base, db), ()),
        ("other-8", (other,), (app,)),
    ]


def test_a_group_waits_when_one_of_it_is_on_hold() -> None:
    key = ObjectKey(group="", kind="ConfigMap", namespace="default", name="prices")
    planned = plan(
        current=running(till=OLD, shop=OLD),
        desired={TILL: everywhere(NEWER), SHOP: everywhere(NEW)},
        keys=lambda subtree: frozenset({key} if subtree in (OLD, NEW) else set()),
        holds={TILL: everywhere(NEWER)},
        fleet=replace(FLEET, bundles=dict([bundle("shop"), bundle("till")])),
    )
    assert [r.bundles for r in planned.rollouts] == [(SHOP,)], "both had it before: nothing is exchanged"
    planned = plan(
        current=running(till=OLD),
        desired={TILL: everywhere(NEWER), SHOP: everywhere(NEW)},
        keys=lambda subtree: frozenset({key} if subtree in (OLD, NEW) else set()),
        holds={TILL: everywhere(NEWER)},
    )
    assert planned.rollouts == ()
    assert planned.waiting == {SHOP: "bundle till is on hold", TILL: "bundle till is on hold"}


def test_dependencies_of_a_group_are_those_outside_it() -> None:
    fleet = replace(FLEET, bundles=dict([bundle("shop", "careful", depends_on=(BundleName("db"),)), bundle("till")]))
    assert plan(fleet=fleet).rollouts[0].depends_on == ("db",)


# --- holds ---


def test_a_bundle_on_hold_waits_while_it_is_wanted_as_it_failed() -> None:
    planned = plan(holds={SHOP: everywhere(NEW)})
    assert (planned.rollouts, planned.released) == ((), frozenset())
    assert planned.waiting == {SHOP: "bundle shop is on hold"}


@pytest.mark.parametrize(
    ("refused", "desired", "released"),
    [
        pytest.param(everywhere(NEW), everywhere(NEWER), True, id="its sources changed"),
        pytest.param(everywhere(NEW), {**everywhere(NEW), **everywhere(NEWER, "c2")}, True, id="on one cluster"),
        pytest.param(everywhere(NEW), everywhere(OLD), True, id="the commit was reverted"),
        pytest.param(everywhere(NEW), {}, True, id="it is wanted nowhere any more"),
        pytest.param(everywhere(NEW, "c1"), everywhere(NEW), False, id="a cluster joined"),
        pytest.param(everywhere(NEW), everywhere(NEW, "c1", "c2"), False, id="a cluster is no target any more"),
        pytest.param(everywhere(ABSENT), {}, False, id="its removal failed"),
        pytest.param(everywhere(ABSENT), everywhere(NEW), True, id="its removal failed and it is back"),
    ],
)
def test_a_hold_ends_when(refused: Any, desired: Any, released: bool) -> None:
    planned = plan(holds={SHOP: refused}, desired={SHOP: desired, TILL: {}})
    assert (SHOP in planned.released) is released
    assert (SHOP in planned.waiting) is not released


def test_a_failed_newcomer_does_not_keep_the_others_from_the_next_commit() -> None:
    """The hold came from a rollout to c3 alone, and c3 is gone since."""
    (failed,) = plan(current={**running(shop=NEW), ClusterName("c3"): {}}).rollouts
    assert failed.targets.keys() == {"c3"}
    assert waves.refused(failed) == {SHOP: everywhere(NEW)}
    fleet = replace(FLEET, clusters={n: c for n, c in FLEET.clusters.items() if n != "c3"})
    current, holds = running(shop=NEW), waves.refused(failed)
    assert plan(fleet=fleet, current=current, holds=holds).released == frozenset()
    changed = plan(fleet=fleet, current=current, holds=holds, desired={SHOP: everywhere(NEWER, "c1", "c2"), TILL: {}})
    assert changed.released == {SHOP}
    assert shape(changed) == [("canary", ["c1"]), ("eu", ["c2"])]


def test_a_hold_stays_while_the_bundle_does_not_render() -> None:
    assert plan(holds={SHOP: everywhere(NEW)}, failed={SHOP}).released == frozenset()


# --- older rollouts ---


def test_planning_again_while_the_rollout_runs_starts_nothing() -> None:
    current = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}
    planned = plan(active=[under_way()], current=current, number=8)
    assert (planned.rollouts, planned.replaced, planned.waiting) == ((), {}, {})


@pytest.mark.parametrize("phase", [pytest.param(p, id=p) for p in (Phase.RUNNING, Phase.PAUSED, Phase.ROLLING_BACK)])
def test_under_queue_a_newer_revision_waits(phase: Phase) -> None:
    state = under_way(phase)
    if phase is Phase.ROLLING_BACK:
        state = under_way(phase, c1=Member(phase=MemberPhase.REVERTING, seq=5))
    planned = plan(desired={SHOP: everywhere(NEWER), TILL: {}}, active=[state], number=8)
    assert planned.rollouts == ()
    assert "shop-7" in planned.waiting[SHOP]


REPLACING = replace(FLEET, policies={"careful": replace(CAREFUL, supersede="replace")})


def test_under_replace_the_newer_one_takes_its_place_with_the_clusters_not_moved_yet() -> None:
    state = under_way(planned=plan(fleet=REPLACING))
    current = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}
    planned = plan(
        fleet=REPLACING, desired={SHOP: everywhere(NEWER), TILL: {}}, active=[state], current=current, number=8
    )
    assert planned.replaced == {"shop-7": "shop-8"}
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"]), ("rest", ["c3"])]
    again = plan(fleet=REPLACING, active=[state], current=current, number=8)
    assert again.rollouts == (), "the same revision does not replace itself"


@pytest.mark.parametrize(
    ("phase", "member"),
    [
        pytest.param(Phase.RUNNING, Member(phase=MemberPhase.SOAKING, seq=4, soak_from=1001.0), id="soaks"),
        pytest.param(Phase.PAUSED, Member(phase=MemberPhase.MOVING, seq=4), id="is paused"),
        pytest.param(Phase.ROLLING_BACK, Member(phase=MemberPhase.REVERTING, seq=4), id="is rolling back"),
    ],
)
def test_under_replace_a_rollout_is_not_replaced_that(phase: Phase, member: Member) -> None:
    state = under_way(phase, planned=plan(fleet=REPLACING), c1=member)
    planned = plan(fleet=REPLACING, desired={SHOP: everywhere(NEWER), TILL: {}}, active=[state], number=8)
    assert planned.rollouts == ()


def test_a_newcomer_does_not_cut_short_what_is_in_flight_and_still_wanted() -> None:
    state = under_way(planned=plan(fleet=REPLACING))
    joined = replace(REPLACING, clusters={**FLEET.clusters, **dict([cluster("c4")])})
    current = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}
    desired = {SHOP: everywhere(NEW, "c1", "c2", "c3", "c4"), TILL: {}}
    planned = plan(fleet=joined, desired=desired, active=[state], current=current, number=8)
    assert (planned.rollouts, planned.replaced) == ((), {})
    assert "shop-7 is under way" in planned.waiting[SHOP]


@pytest.mark.parametrize(
    ("phase", "by", "fixes", "wanted", "replaced"),
    [
        pytest.param(Phase.RUNNING, "", "jump", NEWER, True, id="a fix of what runs"),
        pytest.param(Phase.PAUSED, "", "jump", NEWER, True, id="a fix of what was paused for its failure"),
        pytest.param(Phase.PAUSED, "ada", "jump", NEWER, False, id="a person paused it"),
        pytest.param(Phase.RUNNING, "", "wait", NEWER, False, id="the policy lets it wait"),
        pytest.param(Phase.RUNNING, "", "jump", NEW, False, id="c2 is in flight, and its proof would be nobody's"),
    ],
)
def test_a_fix_jumps_the_queue_where_it_may(phase: Phase, by: str, fixes: Any, wanted: Oid, replaced: bool) -> None:
    fleet = replace(FLEET, policies={"careful": replace(CAREFUL, fixes=fixes)})
    failed, moving = Member(phase=MemberPhase.FAILED, seq=4), Member(phase=MemberPhase.MOVING, seq=4)
    state = replace(under_way(phase, planned=plan(fleet=fleet), c1=failed, c2=moving), wave=1, paused_by=by)
    there = {SHOP: NEW}
    current = {**running(shop=OLD), ClusterName("c1"): there, ClusterName("c2"): there}
    desired = {SHOP: {**everywhere(NEWER), ClusterName("c2"): wanted}, TILL: {}}
    planned = plan(fleet=fleet, desired=desired, active=[state], current=current, number=8)
    assert (planned.replaced == {"shop-7": "shop-8"}) is replaced
    assert bool(planned.rollouts) is replaced


def test_a_rollout_that_only_waits_for_offline_clusters_starves_nobody() -> None:
    state = under_way(c1=Member(phase=MemberPhase.OFFLINE))
    assert rollouts.stalled(state)
    planned = plan(desired={SHOP: everywhere(NEWER), TILL: {}}, active=[state], number=8)
    assert planned.replaced == {"shop-7": "shop-8"}


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        pytest.param(NEW, (), id="still what it was moved to"),
        pytest.param(NEWER, (("shop-7", "c1"),), id="something newer"),
    ],
)
def test_who_is_suspended_in_flight_leaves_the_rollout_that_is_replaced_when_the_newer_one_has_it(
    wanted: Oid, left: tuple[tuple[str, str], ...]
) -> None:
    moved = Member(phase=MemberPhase.MOVING, seq=4, moved_at=1000.0, suspended=True, reason="suspended: ann")
    state = replace(under_way(c1=moved), wave=0)
    assert rollouts.stalled(state)
    current = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}
    desired = {SHOP: {**everywhere(NEWER), ClusterName("c1"): wanted}, TILL: {}}
    planned = plan(desired=desired, active=[state], current=current, number=8)
    assert (planned.replaced, planned.left) == ({"shop-7": "shop-8"}, left)
    older, _ = rollouts.supersede(state, 1000.0, by=RolloutId("shop-8"), left={cluster for _, cluster in planned.left})
    alive = [older] if rollouts.alive(older) else []
    assert bool(alive) is not bool(left)
    newest = plan(desired={SHOP: everywhere(NEWER), TILL: {}}, active=alive, current=current, number=9)
    assert [sorted(made.targets) for made in newest.rollouts] == [["c1", "c2", "c3"]], "it keeps no newer one waiting"
    assert newest.left == (() if left else (("shop-7", "c1"),))


def test_a_rollout_that_everybody_left_keeps_nobody_waiting() -> None:
    gone = Member(phase=MemberPhase.LEFT)
    planned = plan(active=[under_way(Phase.PAUSED, c1=gone, c2=gone, c3=gone)], number=8)
    assert planned.replaced == {"shop-7": "shop-8"}


SUSPENDED = Member(suspended=True, reason="suspended: ann")
SKIPPED = Member(phase=MemberPhase.LEFT, skipped=True)


def test_who_was_skipped_is_not_planned_again_while_the_rollout_waits_for_another() -> None:
    state = replace(under_way(c1=SUSPENDED, c2=SKIPPED), wave=0)
    assert rollouts.stalled(state)
    assert plan(active=[state], number=8).rollouts == ()
    newer = plan(desired={SHOP: everywhere(NEWER), TILL: {}}, active=[state], number=8)
    assert newer.replaced == {"shop-7": "shop-8"}, "a newer commit does concern it"
    assert sorted(newer.rollouts[0].targets) == ["c1", "c2", "c3"]


def test_under_replace_a_cluster_that_joins_waits_like_in_a_queue_and_opens_no_gate_by_it() -> None:
    older = under_way(planned=plan(fleet=REPLACING), c1=Member(phase=MemberPhase.PROVEN, seq=4))
    joined = replace(REPLACING, clusters={**REPLACING.clusters, **dict([cluster("c4", region="us")])})
    desired = {SHOP: everywhere(NEW, "c1", "c2", "c3", "c4"), TILL: {}}
    current = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}
    planned = plan(fleet=joined, desired=desired, current=current, active=[older], number=8)
    assert (planned.rollouts, planned.waiting) == ((), {SHOP: "rollout shop-7 is under way"})


NEEDY = replace(FLEET, bundles=dict([bundle("shop", "careful", depends_on=(TILL,)), bundle("till", "careful")]))


def test_who_depends_on_a_bundle_that_waits_for_its_older_rollout_waits_with_it() -> None:
    (rollout,) = plan(desired={SHOP: everywhere(OLD), TILL: everywhere(NEW)}, fleet=NEEDY).rollouts
    older = under_way(planned=plan(desired={SHOP: everywhere(OLD), TILL: everywhere(NEW)}, fleet=NEEDY))
    assert rollout.bundles == (TILL,)
    desired = {SHOP: everywhere(NEW), TILL: everywhere(NEWER)}
    planned = plan(fleet=NEEDY, desired=desired, active=[older], number=8)
    assert planned.rollouts == ()
    assert planned.waiting == {
        TILL: "rollout till-7 is under way",
        SHOP: "bundle till, on which it depends, waits",
    }


def test_a_rollout_says_which_commits_it_stands_for_as_long_as_somebody_may_wait_for_them() -> None:
    replacing = replace(NEEDY, policies={"careful": replace(CAREFUL, supersede="replace")})
    both = plan(fleet=replacing, desired={SHOP: everywhere(NEW), TILL: everywhere(NEW)})
    shop, till = (rollouts.start(made, 1000.0) for made in both.rollouts)
    desired = {SHOP: everywhere(NEW), TILL: everywhere(NEWER)}
    newer = plan(fleet=replacing, desired=desired, active=[shop, till], revision=Oid("e" * 40), number=9)
    assert [(made.bundles, made.stands_for) for made in newer.rollouts] == [((TILL,), (Oid("c" * 40),))]


def test_what_replaces_a_rollout_goes_first_where_that_did_for_its_age_alone() -> None:
    replacing = replace(NEEDY, policies={"careful": replace(CAREFUL, supersede="replace")})
    (made,) = plan(fleet=replacing, desired={SHOP: everywhere(OLD), TILL: everywhere(NEW)}).rollouts
    older = rollouts.start(made, 1000.0)
    desired = {SHOP: everywhere(NEW), TILL: everywhere(NEW)}
    (made,) = plan(fleet=replacing, desired=desired, active=[older], revision=Oid("d" * 40), number=8).rollouts
    shop = rollouts.start(made, 1000.0)
    assert held.Around(fleet=replacing, now=1000.0, states=(older, shop)).why(made, ClusterName("c1"))
    desired = {SHOP: everywhere(NEW), TILL: everywhere(NEWER)}
    newer = plan(fleet=replacing, desired=desired, active=[older, shop], revision=Oid("e" * 40), number=9)
    heir = rollouts.start(newer.rollouts[0], 1000.0)
    told = held.Around(fleet=replacing, now=1000.0, states=(heir, shop)).why(made, ClusterName("c1"))
    assert (newer.replaced, told) == ({"till-7": "till-9"}, "blocked: bundle till goes first there (till-9: pending)")


@pytest.mark.parametrize(
    ("given_up", "waits"),
    [
        pytest.param(["c"], True, id="of the same commit"),
        pytest.param(["d", "c"], True, id="of a commit that had taken its place"),
        pytest.param(["d"], False, id="of another"),
    ],
)
def test_what_waits_for_a_bundle_on_hold_waits_for_the_fix_of_it_too(given_up: list[str], waits: bool) -> None:
    current = running(shop=OLD, till=OLD)
    (made,) = plan(fleet=NEEDY, desired={SHOP: everywhere(NEW), TILL: everywhere(OLD)}, current=current).rollouts
    shop = rollouts.start(made, 1000.0)
    commits = [Oid(letter * 40) for letter in given_up]
    c1 = ClusterName("c1")
    assert bool(held.Around(fleet=NEEDY, now=1000.0, states=(shop,), on_hold={TILL: commits}).why(made, c1)) is waits
    fixed = plan(
        fleet=NEEDY,
        desired={SHOP: everywhere(NEW), TILL: everywhere(NEWER)},
        current=current,
        active=[shop],
        holds={TILL: everywhere(NEW)},
        given_up={TILL: commits},
        revision=Oid("e" * 40),
        number=9,
    )
    assert fixed.released == {TILL}
    fix = rollouts.start(fixed.rollouts[0], 1000.0)
    told = held.Around(fleet=NEEDY, now=1000.0, states=(shop, fix)).why(made, c1)
    assert told == ("blocked: bundle till goes first there (till-9: pending)" if waits else "")


def test_a_rollout_held_for_an_empty_wave_is_replaced_when_the_label_is_mended_and_only_then() -> None:
    typo = replace(
        FLEET, policies={"careful": RolloutPolicy(name="careful", waves=(replace(CANARY, select=selects(x="y")),))}
    )
    held = rollouts.start(plan(fleet=typo).rollouts[0], 1000.0)
    assert held.phase is Phase.PAUSED
    assert plan(fleet=typo, active=[held], number=8).rollouts == ()
    assert plan(active=[held], number=8).replaced == {"shop-7": "shop-8"}
    by_hand = replace(held, reason="ann: not today")
    assert plan(active=[by_hand], number=8).rollouts == ()


def catching_up() -> State:
    """A completed rollout whose cluster c3 is offline still."""
    done = Member(phase=MemberPhase.PROVEN, seq=4)
    state = under_way(c1=done, c2=done, c3=Member(phase=MemberPhase.OFFLINE))
    return replace(state, phase=Phase.COMPLETED, wave=3)


MOSTLY = {**running(shop=NEW), ClusterName("c3"): {SHOP: OLD}}


def test_who_catches_up_with_a_completed_rollout_needs_no_new_one() -> None:
    planned = plan(active=[catching_up()], current=MOSTLY, number=8)
    assert (planned.rollouts, planned.left) == ((), ())


def test_a_newer_rollout_takes_over_who_was_still_to_catch_up() -> None:
    planned = plan(active=[catching_up()], current=MOSTLY, number=8, desired={SHOP: everywhere(NEWER), TILL: {}})
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"]), ("rest", ["c3"])]
    assert planned.left == (("shop-7", "c3"),)
    assert planned.replaced == {}


def test_who_catches_up_stays_when_only_others_change() -> None:
    desired = {SHOP: {**everywhere(NEW), **everywhere(NEWER, "c2")}, TILL: {}}
    planned = plan(active=[catching_up()], current=MOSTLY, number=8, desired=desired)
    assert shape(planned) == [("eu", ["c2"])]
    assert planned.left == ()


def test_a_reverted_commit_calls_off_the_catching_up() -> None:
    desired = {SHOP: everywhere(OLD), TILL: {}}
    planned = plan(active=[catching_up()], current=MOSTLY, number=8, desired=desired)
    assert planned.left == (("shop-7", "c3"),)
    assert shape(planned) == [("canary", ["c1"]), ("eu", ["c2"])]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        pytest.param(
            {"fleet": replace(FLEET, clusters={n: c for n, c in FLEET.clusters.items() if n != "c3"})},
            ["c3"],
            id="its Cluster file is gone",
        ),
        pytest.param(
            {
                "fleet": replace(
                    FLEET,
                    clusters={n: c for n, c in FLEET.clusters.items() if n != "c3"},
                    broken_clusters=frozenset({"c3"}),
                )
            },
            [],
            id="not when its Cluster file is broken",
        ),
        pytest.param(
            {
                "fleet": replace(
                    FLEET, clusters={n: c for n, c in FLEET.clusters.items() if n != "c3"}, lost_clusters=True
                )
            },
            [],
            id="not when a file of clusters cannot be read",
        ),
        pytest.param({"desired": {SHOP: everywhere(NEW, "c1", "c2"), TILL: {}}}, ["c3"], id="it is no target any more"),
        pytest.param({"failed": {SHOP}, "desired": {TILL: {}}}, [], id="not when the bundle does not render"),
        pytest.param(
            {"fleet": replace(FLEET, bundles=dict([bundle("till")])), "desired": {TILL: {}}, "current": {}},
            ["c1", "c2", "c3"],
            id="the bundle is gone",
        ),
        pytest.param(
            {"fleet": replace(FLEET, bundles={}, lost_bundles=True), "desired": {}, "current": {}},
            [],
            id="not when no bundle can be read at all",
        ),
    ],
)
def test_a_member_leaves_a_rollout_under_way_when(changes: Mapping[str, Any], left: list[str]) -> None:
    current = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}
    planned = plan(**{"active": [under_way()], "current": current, "number": 8, **changes})
    assert [name for _, name in planned.left] == left


def test_a_rollback_reaches_clusters_whose_file_cannot_be_read_at_the_moment() -> None:
    lost = replace(FLEET, clusters={n: c for n, c in FLEET.clusters.items() if n == "c3"}, lost_clusters=True)
    state = under_way(Phase.ROLLING_BACK)
    assert plan(active=[state], fleet=lost, number=8).left == ()
    assert plan(active=[state], fleet=replace(lost, lost_clusters=False), number=8).left != ()


def test_new_clusters_of_a_bundle_that_runs_elsewhere_put_nothing_on_hold() -> None:
    planned = plan(current={**running(shop=NEW), ClusterName("c3"): {}}, completed={SHOP: everywhere(NEW, "c1", "c2")})
    assert planned.rollouts[0].action == "continue"
    assert plan().rollouts[0].action == "rollback"


def test_a_plan_feeds_the_engine() -> None:
    state = rollouts.start(plan().rollouts[0], 1000.0)
    view = {name: ClusterView(next_seq=2, last_seen=1000.0) for name in FLEET.clusters}
    state, effects = rollouts.decide(state, [Tick()], view, 1000.0, heartbeat_s=10.0)
    assert [effect.cluster for effect in effects if isinstance(effect, Move)] == ["c1"]


def test_a_bundle_waits_for_objects_of_one_that_a_person_keeps() -> None:
    settings, secret = (ObjectKey(group="", kind=kind, namespace="n", name="x") for kind in ("ConfigMap", "Secret"))
    has = {OLD: frozenset({settings}), NEW: frozenset({secret}), NEWER: frozenset({settings})}
    planned = plan(
        current=running(shop=OLD),
        desired={SHOP: everywhere(NEW), TILL: everywhere(NEWER)},
        holds={SHOP: {}},
        keeps={SHOP: Keep()},
        keys=has.__getitem__,
    )
    assert planned.rollouts == ()
    assert planned.waiting == {TILL: "bundle shop is on hold, and has objects of it"}


@pytest.mark.parametrize(("at_once", "names"), [(False, ["canary", "eu", "rest"]), (True, ["rest"])])
def test_a_way_back_takes_the_policys_waves_or_none_of_them(at_once: bool, names: list[str]) -> None:
    keep = Keep(subtrees=everywhere(NEWER), revision=Oid("9" * 40), at_once=at_once)
    planned = plan(holds={SHOP: everywhere(NEW)}, keeps={SHOP: keep})
    [made] = planned.rollouts
    assert [wave.name for wave in made.waves] == names
    assert (made.revision, {target.after[SHOP] for target in made.targets.values()}) == (keep.revision, {NEWER})
