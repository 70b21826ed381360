"""What holds clusters back: freezes, windows, limits, dependencies, and clusters that vanish together (rule 14)."""

from dataclasses import replace

import pytest

from hub.model import Cluster, Finding, Fleet, Freeze, Selector
from hub.repo import windows
from hub.rollout import held, rollouts
from hub.rollout.held import Around
from hub.state import Hold, MemberPhase, Phase, State, Target
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from tests.rollout_hub import NEW, OLD, Hub, rollout, wave

C1, C2 = ClusterName("c1"), ClusterName("c2")
DB = BundleName("db")
CLUSTERS = {C1: Cluster(name=C1, labels={"tier": "prod"}), C2: Cluster(name=C2, labels={})}
SHOP = rollout(wave("one", "c1", "c2"), depends_on=(DB,))


def of_db(phase: MemberPhase = MemberPhase.PENDING, *, number: int = 0, revision: str = "c" * 40) -> State:
    target = Target(before={DB: OLD}, after={DB: NEW})
    made = rollout(
        wave("one", "c1"),
        id=RolloutId("db-0"),
        number=number,
        revision=Oid(revision),
        bundles=(DB,),
        targets={C1: target},
    )
    state = rollouts.start(made, 0.0)
    return replace(state, members={C1: replace(state.members[C1], phase=phase)})


def completed(phase: MemberPhase) -> State:
    """It lives on, since somebody in it has to catch up."""
    state = replace(of_db(phase), phase=Phase.COMPLETED)
    assert rollouts.alive(state)
    return state


@pytest.mark.parametrize(
    ("now", "told"),
    [
        pytest.param(99.0, "", id="before"),
        pytest.param(100.0, "frozen by xmas: the till is full", id="as it begins"),
        pytest.param(200.0, "", id="as it ends"),
    ],
)
def test_a_freeze_holds_all_clusters_or_those_that_it_selects(now: float, told: str) -> None:
    freeze = Freeze(name="xmas", start_s=100.0, end_s=200.0, reason="the till is full")
    everywhere = Fleet(clusters=CLUSTERS, freezes=(freeze,))
    assert held.frozen(everywhere, now) == told
    prod = Fleet(clusters=CLUSTERS, freezes=(replace(freeze, select=Selector(match_labels={"tier": "prod"})),))
    assert held.frozen(prod, now) == ""
    around = Around(fleet=prod, now=now)
    assert (around.why(SHOP, C1), around.why(SHOP, C2)) == (told, "")


def test_nothing_starts_while_nobody_knows_what_is_frozen_or_shut() -> None:
    unread = Fleet(clusters=CLUSTERS, lost_freezes=True)
    assert held.frozen(unread, 0.0) == "fleet.yaml is not valid: what it freezes is not known"
    findings = tuple(Finding(where=where, message="x") for where in ("clusters/a.yaml:1", "fleet.yaml:7", "fleet.yaml"))
    told = held.frozen(replace(unread, findings=findings), 0.0)
    assert told == "fleet.yaml:7 is not valid: what it freezes is not known", "where to look"
    around = Around(fleet=Fleet(clusters={C1: CLUSTERS[C1]}, broken_clusters=frozenset({"c2"})), now=0.0)
    assert (around.why(SHOP, C1), around.why(SHOP, C2)) == ("", "its Cluster file is gone, or not valid")


def test_a_cluster_may_have_windows_of_its_own() -> None:
    night = windows.parse("22:00-06:00 UTC", deny=False)
    fleet = Fleet(clusters={C1: replace(CLUSTERS[C1], windows=(night,)), C2: CLUSTERS[C2]})
    around = Around(fleet=fleet, now=12 * 3600.0)
    assert (around.why(SHOP, C1), around.why(SHOP, C2)) == ("moves only 22:00-06:00 UTC", "")
    assert Around(fleet=fleet, now=23 * 3600.0).why(SHOP, C1) == ""


def test_a_cluster_takes_no_more_changes_at_once_than_its_limit_and_those_of_this_turn_count() -> None:
    hub = Hub(rollout(wave("one", "c1"), depends_on=()))
    fleet = Fleet(clusters=CLUSTERS, max_changes=2)
    around = Around(fleet=fleet, now=0.0, states=(hub.state,))
    assert around.why(SHOP, C1) == ""
    effects = hub.tick()
    around.decided(effects)
    assert around.busy(C1)
    assert around.why(SHOP, C1) == ""
    around.decided(effects)
    assert around.why(SHOP, C1) == "2 of 2 changes at a time are under way there"
    own = replace(fleet, clusters={C1: replace(CLUSTERS[C1], max_changes=5)})
    assert Around(fleet=own, now=0.0, states=(hub.state, hub.state)).why(SHOP, C1) == ""
    assert held.in_flight([hub.state, hub.state]) == {C1: 2}


def test_moves_count_also_when_nobody_had_asked_who_is_in_flight_before_them() -> None:
    hub = Hub(rollout(wave("one", "c1"), depends_on=()))
    around = Around(fleet=Fleet(clusters=CLUSTERS, max_changes=1), now=0.0, states=(hub.state,))
    around.decided(hub.tick())
    assert around.busy(C1)
    assert around.why(SHOP, C1) == "1 of 1 changes at a time are under way there"


@pytest.mark.parametrize(
    ("db", "told"),
    [
        pytest.param(of_db(), "blocked: bundle db goes first there (db-0: pending)", id="pending"),
        pytest.param(of_db(MemberPhase.SOAKING), "blocked: bundle db goes first there (db-0: soaking)", id="soaking"),
        pytest.param(of_db(MemberPhase.FAILED), "blocked: bundle db goes first there (db-0: failed)", id="failed"),
        pytest.param(of_db(MemberPhase.PROVEN), "", id="proven"),
        pytest.param(of_db(MemberPhase.LEFT), "", id="left"),
        pytest.param(replace(of_db(), phase=Phase.ABORTED), "", id="over"),
        pytest.param(completed(MemberPhase.FAILED), "", id="failed for good, while another catches up"),
        pytest.param(completed(MemberPhase.OFFLINE), "blocked: bundle db goes first there (db-0: offline)", id="late"),
        pytest.param(of_db(number=9, revision="d" * 40), "", id="younger and of another commit"),
        pytest.param(of_db(number=9), "blocked: bundle db goes first there (db-0: pending)", id="of the same commit"),
    ],
)
def test_a_bundle_moves_on_a_cluster_after_the_proof_of_what_it_depends_on(db: State, told: str) -> None:
    around = Around(fleet=Fleet(clusters=CLUSTERS), now=0.0, states=(db,))
    assert around.why(SHOP, C1) == told
    assert around.why(SHOP, C2) == "", "db does not change there"
    assert around.why(replace(SHOP, depends_on=()), C1) == ""


def test_a_dependency_that_was_rolled_back_blocks_what_the_same_commit_brings_and_no_other() -> None:
    fleet = Fleet(clusters=CLUSTERS)
    same = Around(fleet=fleet, now=0.0, on_hold={DB: [Oid("e" * 40), SHOP.revision]})
    assert same.why(SHOP, C1) == "blocked: bundle db of the same commit is on hold"
    assert Around(fleet=fleet, now=0.0, on_hold={DB: [Oid("e" * 40)]}).why(SHOP, C1) == ""


def test_a_dependency_that_is_put_on_hold_in_this_very_turn_blocks_where_its_rollout_skipped_the_cluster_too() -> None:
    db = of_db(MemberPhase.LEFT)
    around = Around(fleet=Fleet(clusters=CLUSTERS), now=0.0, states=(db,))
    assert around.why(SHOP, C1) == ""
    around.decided([Hold(bundle=DB, rollout=db.rollout.id, reason="c2 failed")])
    assert around.why(SHOP, C1) == "blocked: bundle db of the same commit is on hold"


@pytest.mark.parametrize(
    ("silent", "heard", "stops"),
    [
        pytest.param(5, 15, True, id="a quarter"),
        pytest.param(5, 20, False, id="a fifth is not over a fifth"),
        pytest.param(4, 0, False, id="too few to be a pattern"),
        pytest.param(5, 0, True, id="all"),
        pytest.param(0, 50, False, id="none"),
    ],
)
def test_clusters_that_fall_silent_together_stop_everything(silent: int, heard: int, stops: bool) -> None:
    now, heartbeat_s = 10_000.0, 10.0
    seen = [now - 31.0] * silent + [now - 29.0] * heard
    told = held.vanished(seen, now, heartbeat_s=heartbeat_s)
    assert told == (f"{silent} of {silent + heard} clusters fell silent within 120 s" if stops else "")


def test_who_was_silent_for_long_or_never_spoke_did_not_vanish() -> None:
    now = 10_000.0
    assert held.vanished([now - 151.0] * 50 + [0.0] * 50 + [now] * 3, now, heartbeat_s=10.0) == ""


def test_a_rollout_that_took_the_place_of_one_of_the_same_commit_goes_first_as_that_did() -> None:
    newer = of_db(number=9, revision="d" * 40)
    assert Around(fleet=Fleet(clusters=CLUSTERS), now=0.0, states=(newer,)).why(SHOP, C1) == ""
    heir = replace(newer, rollout=replace(newer.rollout, stands_for=(SHOP.revision,)))
    told = Around(fleet=Fleet(clusters=CLUSTERS), now=0.0, states=(heir,)).why(SHOP, C1)
    assert told == "blocked: bundle db goes first there (db-0: pending)"
