"""Clusters that join while a bundle rolls out: who gets what last completed, who waits and why, who leaves again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.api import status, waiting
from hub.cli import waiting as cli_waiting
from hub.inputs import LastCompleted
from hub.model import Amount, Approval, BundleDone, Cluster, Gate, Rights, Tenant, WavePolicy
from hub.repo import windows
from hub.rollout import gates, held, joiners, keeping, results, rollouts
from hub.rollout.transitions import IllegalEvent
from hub.rollout.turn import tallies
from hub.rollout.waves import Planned
from hub.state import (
    ABSENT,
    VERBS,
    Base,
    ClusterView,
    Command,
    Hold,
    Keep,
    Left,
    Member,
    MemberPhase,
    Move,
    Phase,
    State,
    Tick,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Health
from proto.objects import ObjectKey
from tests.unit import test_loop
from tests.unit.test_waves import (
    CAREFUL,
    FLEET,
    NEW,
    NEWER,
    OLD,
    SHOP,
    TILL,
    bundle,
    cluster,
    everywhere,
    plan,
    running,
)

J1, J2 = ClusterName("j1"), ClusterName("j2")
PAY, TAKEN = BundleName("pay"), Oid("e" * 40)
JOINED = replace(FLEET, clusters={**FLEET.clusters, **dict([cluster("j1", region="eu"), cluster("j2", region="us")])})
ALL = ("c1", "c2", "c3", "j1", "j2")
LAST = {SHOP: RolloutId("shop-5")}
BASE = Base(
    rollout=RolloutId("shop-5"),
    number=5,
    revision=Oid("5" * 40),
    subtrees={J1: OLD, J2: OLD},
    clusters={name: JOINED.clusters[name] for name in (J1, J2)},
)
MOVED = dict([cluster("j1", region="fr"), cluster("j2", region="fr")])
TENANT = Tenant(name="t", folder="t", rights=Rights(tenant="t"))
CURRENT = {**running(shop=OLD), ClusterName("c1"): {SHOP: NEW}}


def soaking(phase: Phase = Phase.RUNNING, **changes: Any) -> State:
    """The ordinary rollout of shop to NEW: its canary soaks."""
    (made,) = plan(**changes).rollouts
    state = rollouts.start(made, 1000.0)
    members = {**state.members, ClusterName("c1"): Member(phase=MemberPhase.SOAKING, seq=4, soak_from=1000.0)}
    return replace(state, phase=phase, members=members, tallies=tallies(made, members), wave_opened_at=1000.0)


def joined(**changes: Any) -> Planned:
    """A plan with j1 and j2 in the fleet, while shop-7 soaks, unless `changes` say otherwise."""
    plain: dict[str, Any] = {
        "fleet": JOINED,
        "desired": {SHOP: everywhere(NEW, *ALL), TILL: {}},
        "current": CURRENT,
        "active": [soaking()],
        "bases": {SHOP: BASE},
        "last": LAST,
        "number": 8,
    }
    return plan(**{**plain, **changes})


def bootstraps(planned: Planned) -> list[tuple[str, list[str]]]:
    return [(made.id, sorted(made.targets)) for made in planned.rollouts if made.base]


def begun(planned: Planned, name: str = "shop-8", **members: Member) -> State:
    """A bootstrap of a plan, under way."""
    (made,) = (each for each in planned.rollouts if each.id == name)
    state = rollouts.start(made, 1000.0)
    every = {**state.members, **{ClusterName(name): member for name, member in members.items()}}
    return replace(state, members=every, tallies=tallies(made, every), wave_opened_at=1000.0)


MOVING = Member(phase=MemberPhase.MOVING, seq=1, moved_at=1000.0)
PROVEN = Member(phase=MemberPhase.PROVEN, seq=1)
FAILED = Member(phase=MemberPhase.FAILED, seq=1)
OFFLINE = Member(phase=MemberPhase.OFFLINE)


# --- who gets what ------------------------------------------------------------------------------------------------


def test_who_joins_while_a_rollout_soaks_gets_what_completed_last_beside_it() -> None:
    planned = joined()
    assert bootstraps(planned) == [("shop-8", ["j1"]), ("shop-9", ["j2"])]
    assert (planned.replaced, planned.left) == ({}, ())
    first = planned.rollouts[0]
    assert (first.targets[J1].after, first.targets[J1].before) == ({SHOP: OLD}, {SHOP: ABSENT})
    assert (first.revision, first.base, first.action) == (BASE.revision, "shop-5", "continue")
    told = "bootstrap of j1: bundle shop as of revision 555555555555, since rollout shop-7 is under way"
    assert (first.author, first.subject) == ("flotilla", told)
    assert (planned.notices[0].kind, planned.notices[0].text) == ("bootstrap", told)


def test_planning_again_while_a_bootstrap_runs_starts_no_other() -> None:
    planned = joined()
    active = [soaking(), begun(planned, "shop-8", j1=MOVING), begun(planned, "shop-9")]
    again = joined(active=active, current={**CURRENT, J1: {SHOP: OLD}}, number=10)
    assert (again.rollouts, again.left, again.joining.asked) == ((), (), {})


@pytest.mark.parametrize(
    "phase", [pytest.param(Phase.RUNNING, id="runs"), Phase.PAUSED, pytest.param(Phase.ROLLING_BACK, id="goes back")]
)
def test_it_does_so_whatever_the_ordinary_rollout_does(phase: Phase) -> None:
    assert bootstraps(joined(active=[soaking(phase)])) == [("shop-8", ["j1"]), ("shop-9", ["j2"])]


def test_a_bundle_on_hold_comes_to_newcomers_as_it_was_before_it_failed() -> None:
    planned = joined(active=[], current=running(shop=OLD), holds={SHOP: everywhere(NEW)})
    assert bootstraps(planned) == [("shop-8", ["j1"]), ("shop-9", ["j2"])]
    assert planned.rollouts[0].subject.endswith("since bundle shop is on hold")
    assert planned.released == frozenset()


@pytest.mark.parametrize(
    ("keep", "joins"),
    [
        pytest.param(Keep(), False, id="as it is: not even to newcomers"),
        pytest.param(Keep(subtrees=everywhere(OLD), revision=BASE.revision), True, id="at the revision that completed"),
        pytest.param(Keep(subtrees=everywhere(OLD), revision=Oid("4" * 40)), False, id="on its way to another one"),
    ],
)
def test_a_bundle_that_a_person_keeps(keep: Keep, joins: bool) -> None:
    planned = joined(active=[], current=running(shop=OLD), holds={SHOP: everywhere(NEW)}, keeps={SHOP: keep})
    assert bool(bootstraps(planned)) is joins
    assert bool(planned.joining.waiting.get(SHOP)) is not joins


def test_of_a_bundle_that_a_person_keeps_as_it_is_nothing_has_to_be_found_out() -> None:
    planned = joined(active=[], current=running(shop=OLD), holds={SHOP: {}}, keeps={SHOP: Keep()}, bases={})
    assert planned.joining.asked == {}
    assert planned.joining.waiting == {SHOP: dict.fromkeys((J1, J2), "a person keeps it as it is")}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"active": []}, id="nothing is in the way"),
        pytest.param({"current": {**CURRENT, J1: {SHOP: OLD}, J2: {SHOP: OLD}}}, id="they have it already"),
        pytest.param({"desired": {SHOP: everywhere(NEW), TILL: {}}}, id="they shall not have it"),
        pytest.param({"failed": {SHOP}}, id="nobody knows what it shall be"),
    ],
)
def test_nobody_is_bootstrapped_where(changes: Mapping[str, Any]) -> None:
    planned = joined(**changes)
    assert (bootstraps(planned), planned.joining.asked, planned.joining.waiting) == ([], {}, {})


def test_who_is_in_the_ordinary_rollout_waits_for_its_wave_there() -> None:
    fresh: dict[ClusterName, dict[BundleName, Oid]] = {name: {} for name in FLEET.clusters}
    older = soaking(current=fresh)
    planned = joined(active=[older], current={**fresh, ClusterName("c1"): {SHOP: NEW}})
    assert bootstraps(planned) == [("shop-8", ["j1"]), ("shop-9", ["j2"])]
    assert planned.joining.asked == {}, "nobody has to know what completed last would be on c2"


# --- what is known of what completed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bases",
    [
        pytest.param({}, id="nothing is known, after a restart too"),
        pytest.param({SHOP: replace(BASE, rollout=RolloutId("shop-3"))}, id="something newer completed since"),
        pytest.param({SHOP: replace(BASE, clusters={})}, id="it was found out for others"),
        pytest.param({SHOP: replace(BASE, tenants=(TENANT,))}, id="tenants changed"),
        pytest.param({SHOP: replace(BASE, clusters=MOVED)}, id="Cluster files changed"),
    ],
)
def test_what_is_not_known_of_a_newcomer_is_asked_for_and_nothing_begins(bases: Any) -> None:
    planned = joined(bases=bases)
    assert (bootstraps(planned), planned.joining.asked) == ([], {SHOP: (J1, J2)})


def test_what_cannot_be_had_is_said_and_the_others_go_on() -> None:
    refused = replace(BASE, subtrees={J2: OLD}, refused={J1: "bundle shop does not render: no domain"})
    planned = joined(bases={SHOP: refused})
    assert bootstraps(planned) == [("shop-8", ["j2"])]
    assert planned.joining.waiting == {SHOP: {J1: "bundle shop does not render: no domain"}}
    assert planned.joining.asked == {}, "it is not asked for again and again"


def test_what_is_found_out_for_more_clusters_is_added_and_what_is_outdated_forgotten() -> None:
    one = replace(BASE, subtrees={J1: OLD}, clusters={J1: JOINED.clusters[J1]})
    other = replace(BASE, subtrees={}, refused={J2: "no"}, clusters={J2: JOINED.clusters[J2]})
    both = joiners.merged(one, other)
    assert (both.subtrees, both.refused, set(both.clusters)) == ({J1: OLD}, {J2: "no"}, {J1, J2})
    assert joiners.merged(both, replace(other, refused={}, subtrees={J2: NEW})).subtrees == {J1: OLD, J2: NEW}
    newer = replace(other, rollout=RolloutId("shop-7"))
    assert joiners.merged(one, newer) == newer
    assert joiners.merged(None, one) == one


# --- its waves, limits and failures -------------------------------------------------------------------------------


def test_limits_and_windows_of_each_wave_hold_and_gates_soaks_and_budgets_do_not() -> None:
    night = windows.parse("22:00-06:00 UTC", deny=False)
    eu = WavePolicy(
        name="eu",
        select=CAREFUL.waves[1].select,
        soak_s=86400.0,
        max_concurrent=Amount(value=1),
        max_unavailable=Amount(value=2),
        gates=(Gate(name="word", approval=Approval()),),
        windows=(night,),
    )
    policy = replace(CAREFUL, waves=(CAREFUL.waves[0], eu), windows=(night,))
    made = joined(fleet=replace(JOINED, policies={"careful": policy})).rollouts[0]
    (wave,) = made.waves
    assert (wave.name, wave.max_concurrent, wave.max_unavailable, wave.windows) == ("eu", 1, 2, (night,))
    assert (wave.gates, wave.soak_s, wave.min_proof, wave.failure_budget, wave.offline_budget) == ((), 0.0, 0, 1, 1)
    assert (made.windows, made.failure_total) == ((night,), None)


def test_one_that_fails_is_over_and_puts_nothing_on_hold() -> None:
    state = begun(joined(), j1=MOVING)
    view = {J1: ClusterView(next_seq=2, last_seen=2000.0, seq=1)}
    after, effects = rollouts.decide(state, [Tick()], view, 2000.0 + state.rollout.deadline_s, heartbeat_s=10.0)
    assert (after.phase, after.members[J1].phase) == (Phase.COMPLETED, MemberPhase.FAILED)
    assert [effect for effect in effects if isinstance(effect, Hold)] == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_word_ends_it_since_it_would_begin_again(verb: Any) -> None:
    state = begun(joined(), j1=MOVING)
    view = {J1: ClusterView(next_seq=2, last_seen=1000.0)}
    command = Command(verb=verb, actor="ann", reason="why not", cluster="j1")
    try:
        after, effects = rollouts.decide(state, [command], view, 1001.0, heartbeat_s=10.0)
    except IllegalEvent:
        return
    assert (verb, after.phase, effects[:0]) in [
        ("pause", Phase.PAUSED, ()),
        ("emergency", Phase.RUNNING, ()),
    ]


def test_who_leaves_makes_no_room_for_who_leaves_with_it() -> None:
    clusters = {**FLEET.clusters, **dict([cluster("j1", region="eu"), cluster("j2", region="eu")])}
    one_by_one = replace(CAREFUL.waves[1], max_concurrent=Amount(value=1))
    fleet = replace(JOINED, clusters=clusters, policies={"careful": replace(CAREFUL, waves=(one_by_one,))})
    (made,) = joined(fleet=fleet, bases={SHOP: replace(BASE, clusters={J1: clusters[J1], J2: clusters[J2]})}).rollouts
    state = begun(replace(joined(), rollouts=(made,)), made.id, j1=MOVING)
    view = {name: ClusterView(next_seq=2, last_seen=1000.0, seq=0) for name in (J1, J2)}
    after, effects = rollouts.decide(state, [Left(cluster=J1), Left(cluster=J2)], view, 1000.0, heartbeat_s=10.0)
    assert [effect for effect in effects if isinstance(effect, Move)] == []
    assert after.phase is Phase.COMPLETED


def test_bootstraps_are_nothing_that_completed_last() -> None:
    done = replace(begun(joined(), j1=PROVEN), phase=Phase.COMPLETED)
    older = replace(soaking(), phase=Phase.COMPLETED)
    assert results.last_completed({}, [done]) == {}
    assert results.last_completed({}, [done, older]) == {SHOP: "shop-7"}


def test_a_gate_that_waits_for_the_bundle_does_not_wait_for_bootstraps_of_it() -> None:
    check = Gate(name="shop", done=BundleDone(bundle=SHOP)).done
    assert check is not None
    assert gates.done(check, [begun(joined(), j1=MOVING)], {})[0] == "good"


# --- dependencies and owners --------------------------------------------------------------------------------------

NEEDY = replace(JOINED, bundles=dict([bundle("shop", "careful", depends_on=(TILL,)), bundle("till", "careful")]))
TILL_BASE = replace(BASE, rollout=RolloutId("till-4"), number=4, revision=Oid("4" * 40))
BOTH = {"bases": {SHOP: BASE, TILL: TILL_BASE}, "last": {**LAST, TILL: RolloutId("till-4")}}


def needy(**changes: Any) -> Planned:
    """Till rolls out; shop does not, and depends on it."""
    both = running(shop=OLD, till=OLD)
    older = soaking(fleet=NEEDY, desired={SHOP: everywhere(OLD), TILL: everywhere(NEW)}, current=both)
    plain: dict[str, Any] = {
        "fleet": NEEDY,
        "desired": {SHOP: everywhere(OLD, *ALL), TILL: everywhere(NEW, *ALL)},
        "current": {**both, ClusterName("c1"): {SHOP: OLD, TILL: NEW}},
        "active": [older],
    }
    return joined(**{**plain, **BOTH, **changes})


def test_who_depends_on_a_bundle_that_rolls_is_bootstrapped_with_it_and_after_it() -> None:
    planned = needy()
    assert bootstraps(planned) == [("shop-8", ["j1"]), ("shop-9", ["j2"]), ("till-10", ["j1"]), ("till-11", ["j2"])]
    shop, till = begun(planned, "shop-8"), begun(planned, "till-10")
    around = held.Around(fleet=NEEDY, now=1000.0, states=(shop, till))
    assert around.why(shop.rollout, J1) == "blocked: bundle till goes first there (till-10: pending)"
    assert around.why(till.rollout, J1) == ""
    proven = held.Around(fleet=NEEDY, now=1000.0, states=(shop, begun(planned, "till-10", j1=PROVEN)))
    assert proven.why(shop.rollout, J1) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param(
            {"bases": {SHOP: BASE, TILL: replace(TILL_BASE, subtrees={}, refused={J1: "no", J2: "no"})}},
            "bundle till, on which it depends, is not there yet",
            id="the dependency has nothing for it",
        ),
        pytest.param({"bases": {SHOP: BASE}}, "bundle till, on which it depends, is not there yet", id="nor is asked"),
        pytest.param(
            {"bases": {SHOP: replace(BASE, number=9), TILL: TILL_BASE}},
            "till-7 goes first, with a bundle on which it depends",
            id="the dependency's rollout is older than what completed",
        ),
        pytest.param(
            {"bases": {SHOP: replace(BASE, revision=Oid("c" * 40)), TILL: TILL_BASE}},
            "till-7 goes first, with a bundle on which it depends",
            id="one commit changed both",
        ),
    ],
)
def test_who_depends_on_what_is_not_there_waits_with_it(changes: Mapping[str, Any], why: str) -> None:
    planned = needy(**changes)
    assert not any(name.startswith("shop") for name, _ in bootstraps(planned))
    assert planned.joining.waiting[SHOP] == {J1: why, J2: why}


def test_a_dependency_that_runs_there_keeps_no_newcomer_waiting_though_it_will_change() -> None:
    there = {name: {TILL: OLD} for name in JOINED.clusters}
    wanted = {SHOP: {}, TILL: everywhere(NEW, *ALL)}
    older = soaking(fleet=NEEDY, desired=wanted, current=there, completed={TILL: everywhere(OLD, *ALL)})
    shop = begun(needy(), "shop-8")
    assert held.Around(fleet=NEEDY, now=0.0, states=(older, shop)).why(shop.rollout, J1) == ""
    same = replace(shop, rollout=replace(shop.rollout, revision=older.rollout.revision))
    told = held.Around(fleet=NEEDY, now=0.0, states=(older, same)).why(same.rollout, J1)
    assert told == "blocked: bundle till goes first there (till-7: pending)", "one commit changed both"


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        pytest.param({J1: {TILL: NEWER}}, NEWER, id="runs there"),
        pytest.param({}, NEWER, id="comes there"),
    ],
)
def test_an_object_that_belongs_to_another_bundle_there_is_not_taken(current: Any, wanted: Oid) -> None:
    settings = frozenset({ObjectKey(group="", kind="ConfigMap", namespace="n", name="x")})
    has = {OLD: settings, NEW: frozenset[ObjectKey](), NEWER: settings}
    planned = joined(
        current={**CURRENT, **current},
        desired={SHOP: everywhere(NEW, *ALL), TILL: {J1: wanted}},
        keys=has.__getitem__,
    )
    assert bootstraps(planned) == [("shop-8", ["j2"])] or bootstraps(planned) == [("shop-9", ["j2"])]
    assert planned.joining.waiting[SHOP] == {J1: "an object of it belongs to bundle till there"}


def test_who_depends_on_what_would_take_an_object_of_another_waits_with_it() -> None:
    settings = frozenset({ObjectKey(group="", kind="ConfigMap", namespace="n", name="x")})
    has = {OLD: frozenset[ObjectKey](), NEW: frozenset[ObjectKey](), NEWER: settings, TAKEN: settings}
    more = replace(NEEDY, bundles={**NEEDY.bundles, **dict([bundle("pay")])})
    planned = needy(
        fleet=more,
        desired={SHOP: everywhere(OLD, *ALL), TILL: everywhere(NEW, *ALL), PAY: {J1: TAKEN}},
        bases={SHOP: BASE, TILL: replace(TILL_BASE, subtrees={J1: NEWER, J2: NEWER})},
        keys=has.__getitem__,
    )
    assert [names for name, names in bootstraps(planned) if not name.startswith("pay")] == [["j2"], ["j2"]]
    assert planned.joining.waiting == {
        TILL: {J1: "an object of it belongs to bundle pay there"},
        SHOP: {J1: "bundle till, on which it depends, is not there yet"},
    }


def test_without_a_policy_nobody_says_how_a_newcomer_moves() -> None:
    planned = joined(active=[], fleet=replace(JOINED, policies={}), current=running(shop=OLD))
    assert bootstraps(planned) == []
    assert set(planned.joining.waiting[SHOP]) == {J1, J2}


# --- beside ordinary rollouts -------------------------------------------------------------------------------------


def ordinary(planned: Planned) -> dict[str, list[str]]:
    return {made.id: sorted(made.targets) for made in planned.rollouts if not made.base}


def test_a_newer_commit_neither_ends_it_nor_waits_for_it() -> None:
    state = begun(joined(), j1=MOVING)
    current = {**running(shop=NEW), J1: {SHOP: OLD}}
    newer = joined(active=[state], current=current, desired={SHOP: everywhere(NEWER, *ALL), TILL: {}})
    assert ordinary(newer) == {"shop-8": ["c1", "c2", "c3", "j2"]}
    assert (newer.replaced, newer.left) == ({}, ())


@pytest.mark.parametrize(
    ("member", "leaves"),
    [
        pytest.param(Member(), True, id="pending"),
        pytest.param(OFFLINE, True, id="offline"),
        pytest.param(MOVING, False, id="in flight"),
        pytest.param(FAILED, True, id="failed"),
        pytest.param(PROVEN, False, id="proven: nothing of it is left to do"),
    ],
)
def test_the_ordinary_rollout_takes_who_is_not_in_flight(member: Member, leaves: bool) -> None:
    state = begun(joined(), j1=member)
    there = {J1: {SHOP: OLD}} if member.seq else {}
    planned = joined(active=[state], current={**running(shop=NEW), **there})
    assert ordinary(planned) == {"shop-8": ["j2"] if member == MOVING else ["j1", "j2"]}
    assert planned.left == ((("shop-8", J1),) if leaves else ())


def test_bootstrapped_clusters_get_the_newest_with_the_next_ordinary_rollout() -> None:
    planned = joined(active=[], current={**running(shop=NEW), J1: {SHOP: OLD}, J2: {SHOP: OLD}})
    assert ordinary(planned) == {"shop-8": ["j1", "j2"]}


@pytest.mark.parametrize(
    ("changes", "leaves"),
    [
        pytest.param({}, False, id="nothing changed"),
        pytest.param({"bases": {}}, False, id="a hub that starts knows nothing of it yet"),
        pytest.param({"desired": {SHOP: everywhere(NEW), TILL: {}}}, True, id="it shall not have the bundle"),
        pytest.param({"desired": {SHOP: everywhere(NEWER, *ALL), TILL: {}}}, False, id="a newer commit waits"),
        pytest.param({"fleet": FLEET, "desired": {SHOP: everywhere(NEW), TILL: {}}}, True, id="it left the fleet"),
        pytest.param({"failed": {SHOP}}, False, id="the bundle does not render now"),
        pytest.param({"last": {SHOP: RolloutId("shop-6")}, "bases": {}}, True, id="something newer completed"),
        pytest.param({"bases": {SHOP: replace(BASE, subtrees={J1: NEWER, J2: OLD})}}, True, id="it would be another"),
        pytest.param({"holds": {SHOP: {}}, "keeps": {SHOP: Keep()}, "active": None}, True, id="a person keeps it"),
    ],
)
def test_who_has_not_moved_leaves_a_bootstrap_when(changes: Mapping[str, Any], leaves: bool) -> None:
    state = begun(joined(), j1=OFFLINE)
    active = [state] if "active" in changes else [soaking(), state]
    planned = joined(**{**changes, "active": active, "number": 10})
    assert (("shop-8", J1) in planned.left) is leaves


@pytest.mark.parametrize(
    ("changes", "leaves"),
    [
        pytest.param({}, False, id="nothing changed"),
        pytest.param({"last": {SHOP: RolloutId("shop-6")}, "bases": {}}, False, id="something newer completed"),
        pytest.param({"desired": {SHOP: everywhere(NEW), TILL: {}}}, True, id="it shall not have the bundle"),
        pytest.param({"holds": {SHOP: {}}, "keeps": {SHOP: Keep()}}, False, id="a person keeps it as it is"),
    ],
)
def test_who_is_in_flight_leaves_a_bootstrap_when(changes: Mapping[str, Any], leaves: bool) -> None:
    state = begun(joined(), j1=MOVING)
    planned = joined(**{"active": [soaking(), state], "current": {**CURRENT, J1: {SHOP: OLD}}, "number": 10, **changes})
    assert (("shop-8", J1) in planned.left) is leaves


def test_a_dependent_does_not_go_ahead_where_its_dependency_is_being_bootstrapped() -> None:
    till = begun(needy(), "till-10", j1=MOVING)
    everything = {SHOP: everywhere(NEWER, *ALL), TILL: everywhere(NEWER, *ALL)}
    current = {**running(shop=OLD, till=OLD), J1: {TILL: OLD}, J2: {SHOP: OLD, TILL: OLD}}
    planned = needy(active=[till], desired=everything, current=current)
    assert ordinary(planned) == {"shop-8": ["c1", "c2", "c3", "j2"], "till-9": ["c1", "c2", "c3", "j2"]}


def test_a_hold_of_a_person_waits_for_no_bootstrap() -> None:
    assert keeping.to_end(SHOP, [begun(joined(), j1=MOVING)], abort=False) == []


# --- the hub's loop -----------------------------------------------------------------------------------------------

NEWCOMER = ClusterName("new-1")
WITH_NEWCOMER = {**test_loop.CLUSTERS, NEWCOMER: Cluster(name=NEWCOMER, labels={"region": "eu"})}


def known(hub: test_loop.Hub, subtree: Oid, rollout: str = "shop-1") -> LastCompleted:
    """What `hub.joining` finds out of the newcomer."""
    base = Base(
        rollout=RolloutId(rollout),
        number=int(rollout.rpartition("-")[2]),
        revision=Oid("a" * 40),
        subtrees={NEWCOMER: subtree},
        clusters={NEWCOMER: WITH_NEWCOMER[NEWCOMER]},
    )
    return LastCompleted(bases={SHOP: base})


async def rolling(hub: test_loop.Hub) -> tuple[Oid, Oid]:
    """Shop went everywhere once, and a new one is at the canary, when a cluster joins. Both of it."""
    one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
    await test_loop.rolled_out(hub, "a", {SHOP: one})
    await hub.turn(hub.desired("b", {SHOP: two}), hub.says(test_loop.CANARY), hub.says(test_loop.EU))
    await hub.turn(hub.desired("c", {SHOP: two}, clusters=WITH_NEWCOMER), hub.says(NEWCOMER))
    return one, two


def runs(hub: test_loop.Hub, cluster: ClusterName = NEWCOMER) -> dict[BundleName, Oid]:
    return hub.loop.composition().get(cluster, {})


async def test_the_loop_asks_for_a_newcomer_and_bootstraps_it_when_it_is_told(tmp_path: Path) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, two = await rolling(hub)
        assert hub.loop.memory.joining.asked == {SHOP: (NEWCOMER,)}
        assert runs(hub) == {}
        await hub.turn(known(hub, one))
        assert runs(hub) == {SHOP: one}
        assert hub.loop.memory.joining.asked == {}
        entry = hub.loop.slices[NEWCOMER].manifest.bundles["shop"]
        assert (entry.revision, entry.rollout) == ("a" * 40, "shop-3")
        (row,) = status.bundles(
            desired=hub.loop.desired,
            slices=hub.loop.slices,
            live=hub.loop.live.clusters,
            states=hub.loop.states.values(),
            holds=hub.loop.holds,
            suspended={},
            now=hub.clock.now,
            heartbeat_s=10.0,
        )
        assert row["rollout"] == "shop-2", "which is what the bundle waits for"
        await hub.turn(hub.says(NEWCOMER))
        assert hub.phases() == {"shop-1": "completed", "shop-2": "running", "shop-3": "completed"}
        assert hub.journal.last_good()[NEWCOMER, SHOP] == one
        (told,) = [event for event in hub.journal.events() if event.kind == "bootstrap"]
        assert told.text.startswith("bootstrap of new-1: bundle shop as of revision aaaaaaaaaaaa, since rollout shop-2")

        for _ in range(3):
            await hub.turn(hub.says(test_loop.CANARY), hub.says(test_loop.EU), hub.says(NEWCOMER))
        await hub.turn(hub.says(NEWCOMER))
        assert hub.phases()["shop-2"] == "completed"
        assert runs(hub) == {SHOP: two}, "the next ordinary rollout brings the newest"


async def test_who_waits_for_what_completed_and_why_is_told(tmp_path: Path) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, _ = await rolling(hub)
        (row,) = waiting.joining(hub.loop.memory.joining)
        assert row == {
            "bundle": "shop",
            "why": "it is being found out what completed last",
            "clusters": ["new-1"],
            "total": 1,
        }
        told = known(hub, one)
        refused = replace(told.bases[SHOP], subtrees={}, refused={NEWCOMER: "it does not render"})
        await hub.turn(LastCompleted(bases={SHOP: refused}))
        (row,) = waiting.joining(hub.loop.memory.joining)
        assert (row["clusters"], row["why"]) == (["new-1"], "it does not render")
        assert cli_waiting.joining(row).plain == "joined      new-1 waits for bundle shop: it does not render"


async def test_a_bootstrap_is_no_revision_that_anybody_goes_back_to_but_has_a_history(tmp_path: Path) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, _ = await rolling(hub)
        await hub.turn(known(hub, one))
        await hub.turn(hub.says(NEWCOMER))
        assert [row.rollout for row in hub.journal.revisions(SHOP)] == ["shop-2", "shop-1"]
        assert hub.journal.last_completed()[SHOP].rollout == "shop-1"
        origin = hub.journal.origins([RolloutId("shop-3")])[RolloutId("shop-3")]
        assert (origin.revision, origin.author) == ("a" * 40, "flotilla")
        assert origin.subject.startswith("bootstrap of new-1")


@pytest.mark.parametrize(
    "moved", [pytest.param(False, id="before it was told"), pytest.param(True, id="while it is in flight")]
)
async def test_a_hub_that_dies_asks_again_and_moves_nobody_twice(tmp_path: Path, moved: bool) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, _ = await rolling(hub)
        if moved:
            await hub.turn(known(hub, one))
        before, two = hub.clock.now, hub.subtree("shop", "two")
    async with test_loop.running(tmp_path) as hub:
        hub.clock.now = before + 100.0
        await hub.turn(hub.desired("c", {SHOP: two}, clusters=WITH_NEWCOMER))
        hub.clock.now += 30.0
        await hub.turn(*(hub.says(name) for name in WITH_NEWCOMER))
        assert hub.loop.memory.joining.asked == ({} if moved else {SHOP: (NEWCOMER,)})
        if not moved:
            await hub.turn(known(hub, one))
        await hub.turn(hub.says(NEWCOMER))
        assert (runs(hub), hub.seqs()[NEWCOMER]) == ({SHOP: one}, 1)
        assert hub.phases()["shop-3"] == "completed"


async def test_what_is_told_when_it_is_outdated_changes_nothing(tmp_path: Path) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, two = await rolling(hub)
        for _ in range(4):
            await hub.turn(hub.says(test_loop.CANARY), hub.says(test_loop.EU), hub.says(NEWCOMER))
        assert runs(hub) == {SHOP: two}
        three = hub.subtree("shop", "three")
        await hub.turn(hub.desired("d", {SHOP: three}, clusters=WITH_NEWCOMER))
        await hub.turn(known(hub, one))
        assert runs(hub) == {SHOP: two}
        assert not any(state.rollout.base for state in hub.loop.states.values())


async def test_what_completed_is_forgotten_when_nobody_joins_any_more(tmp_path: Path) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, two = await rolling(hub)
        await hub.turn(known(hub, one))
        await hub.turn(hub.says(NEWCOMER))
        await hub.turn(hub.desired("e", {SHOP: two}), hub.says(test_loop.EU))
        assert hub.loop.bases == {}


async def test_a_failed_rollout_is_never_what_a_newcomer_gets(tmp_path: Path) -> None:
    async with test_loop.running(tmp_path) as hub:
        one, two = await rolling(hub)
        await hub.turn(hub.says(test_loop.CANARY, Health.FAILED))
        await hub.turn(hub.says(test_loop.CANARY))
        assert hub.phases()["shop-2"] == "rolled-back"
        assert hub.loop.holds.keys() == {SHOP}
        hub.clock.now += 10.0
        await hub.turn(known(hub, one))
        assert runs(hub) == {SHOP: one}
        await hub.turn(hub.says(NEWCOMER, Health.FAILED))
        assert hub.loop.holds.keys() == {SHOP}, "and what fails there changes nothing of the hold"
        assert set(hub.loop.holds[SHOP].refused.values()) == {two}
