"""The engine of rollouts, rule by rule: states and events in, states and effects out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from hub.rollout import rollouts, rollouts_json
from hub.rollout.transitions import MEMBER, PHASE, BrokenInvariant, IllegalEvent, check
from hub.rollout.turn import tallies
from hub.state import (
    ABSENT,
    ClusterView,
    Command,
    Hold,
    Left,
    MarkGood,
    Member,
    MemberPhase,
    Move,
    Notice,
    Phase,
    Reported,
    State,
    Tally,
    Target,
    Tick,
)
from proto.errors import Permanent, UnsupportedVersion
from proto.ids import BundleName, ClusterName, RolloutId
from proto.messages import Health, ObjectProblem
from tests.rollout_hub import HEARTBEAT_S, NEW, OLD, SHOP, Hub, kinds, moves, of, rollout, wave, word

M = MemberPhase


# --- waves and proof (rules 1 to 3) ---


def test_the_first_tick_opens_the_first_wave_and_moves_only_its_clusters() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2", "c3")))
    effects = hub.tick()
    assert moves(effects) == ["c1"]
    assert kinds(effects) == ["rollout-started", "wave-opened"]
    assert of(Move, effects)[0] == Move(
        cluster=ClusterName("c1"), rollout=RolloutId("shop-1"), wave="canary", subtrees={SHOP: NEW}
    )
    assert hub.member("c1").seq == 8


def test_proof_opens_the_next_wave_and_the_last_proof_completes_the_rollout() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2", "c3")))
    hub.tick()
    effects = hub.report("c1")
    assert of(MarkGood, effects) == [MarkGood(cluster=ClusterName("c1"), subtrees={SHOP: NEW})]
    assert moves(effects) == ["c2", "c3"]
    hub.report("c2")
    assert hub.whole() is Phase.RUNNING
    assert kinds(hub.report("c3")) == ["cluster-proven", "rollout-completed"]
    assert hub.whole() is Phase.COMPLETED
    assert not rollouts.alive(hub.state)


@pytest.mark.parametrize(
    "report",
    [
        pytest.param({"seq": 7}, id="of an older slice"),
        pytest.param({"subtree": OLD}, id="that names another subtree"),
        pytest.param({"subtree": ABSENT}, id="without the bundle"),
        pytest.param({"converged": False}, id="before hooks and prune have finished"),
        pytest.param({"health": Health.IN_PROGRESS}, id="that still progresses"),
        pytest.param({"health": Health.UNKNOWN}, id="of unknown health"),
        pytest.param({"health": Health.FAILED, "seq": 7}, id="of a failure before the move"),
        pytest.param({"health": Health.FAILED, "subtree": OLD}, id="of a failure of the old subtree"),
    ],
)
def test_a_report_that_is_neither_proof_nor_failure_changes_nothing(report: Mapping[str, Any]) -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    hub.tick()
    before = hub.state
    assert hub.report("c1", **report) == []
    assert hub.state is before


def test_reports_that_arrive_together_all_count_and_their_room_is_used_once() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2", "c3", "c4", "c5", max_concurrent=2)))
    assert moves(hub.tick()) == ["c1", "c2"]
    effects = hub.together(c1=word(NEW), c2=word(NEW))
    assert [good.cluster for good in of(MarkGood, effects)] == ["c1", "c2"]
    assert moves(effects) == ["c3", "c4"]


@pytest.mark.parametrize("order", [("c1", "c2"), ("c2", "c1")])
def test_a_failure_told_in_one_breath_with_a_proof_moves_nobody_on(order: tuple[str, str]) -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2", "c3", max_concurrent=2)))
    hub.tick()
    said = {"c1": word(NEW), "c2": word(NEW, Health.FAILED)}
    effects = hub.together(**{name: said[name] for name in order})
    assert hub.whole() is Phase.ROLLING_BACK
    assert [(move.cluster, move.back) for move in of(Move, effects)] == [("c2", True), ("c1", True)]
    assert hub.phase("c3") is MemberPhase.PENDING


def test_the_last_two_that_come_back_in_one_breath_end_the_rollback_once() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2")))
    hub.tick()
    hub.report("c1", NEW, Health.FAILED)
    effects = hub.together(c1=word(OLD), c2=word(OLD))
    assert kinds(effects) == ["cluster-reverted", "cluster-reverted", "rolled-back"]
    assert hub.whole() is Phase.ROLLED_BACK
    assert hub.together(c1=word(OLD), c2=word(OLD)) == []


def test_a_removed_bundle_is_proven_by_its_absence() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2"), after=ABSENT))
    hub.tick()
    hub.report("c1", OLD, Health.TERMINATING)
    assert hub.phase("c1") is MemberPhase.MOVING
    hub.report("c1", ABSENT)
    assert hub.phase("c1") is MemberPhase.PROVEN
    view = hub.view[ClusterName("c2")]
    hub.view[ClusterName("c2")] = replace(view, seq=8, bundles={SHOP: word(ABSENT)})
    hub.tell(Reported(cluster=ClusterName("c2")))
    assert hub.phase("c2") is MemberPhase.PROVEN


def test_a_group_is_proven_when_all_its_bundles_are() -> None:
    other = BundleName("till")
    target = Target(before={SHOP: OLD, other: ABSENT}, after={SHOP: ABSENT, other: NEW})
    hub = Hub(rollout(wave("rest", "c1"), bundles=(SHOP, other), targets={ClusterName("c1"): target}))
    hub.tick()
    view = hub.view[ClusterName("c1")]
    hub.view[ClusterName("c1")] = replace(view, seq=8, bundles={SHOP: word(OLD), other: word(NEW)})
    hub.tell(Reported(cluster=ClusterName("c1")))
    assert hub.phase("c1") is MemberPhase.MOVING
    hub.view[ClusterName("c1")] = replace(view, seq=8, bundles={other: word(NEW)})
    hub.tell(Reported(cluster=ClusterName("c1")))
    assert hub.phase("c1") is MemberPhase.PROVEN


def test_a_newer_seq_is_proof_too_because_other_bundles_moved_meanwhile() -> None:
    hub = Hub(rollout(wave("rest", "c1")))
    hub.tick()
    hub.report("c1", seq=12)
    assert hub.phase("c1") is MemberPhase.PROVEN


def test_no_more_than_max_concurrent_are_in_flight_and_soaking_counts() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2", "c3", max_concurrent=2, soak_s=15.0)))
    assert moves(hub.tick()) == ["c1", "c2"]
    assert moves(hub.report("c1")) == []
    assert hub.phase("c1") is MemberPhase.SOAKING
    assert moves(hub.report("c1", after_s=10.0)) == []
    assert moves(hub.report("c1", after_s=10.0)) == ["c3"]


def test_a_report_told_twice_counts_once() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    hub.tick()
    hub.report("c1")
    before = hub.state
    assert hub.report("c1") == []
    assert hub.state is before


def test_a_lost_decision_is_made_again_just_so_and_a_kept_one_never_twice() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2", max_concurrent=1)))
    fresh, view, now = hub.state, dict(hub.view), hub.now
    first = rollouts.decide(fresh, [Tick()], view, now, heartbeat_s=HEARTBEAT_S)
    again = rollouts.decide(fresh, [Tick()], view, now, heartbeat_s=HEARTBEAT_S)
    assert first == again
    restored = rollouts_json.from_json(rollouts_json.to_json(first[0]))
    assert moves(rollouts.decide(restored, [Tick()], view, now, heartbeat_s=HEARTBEAT_S)[1]) == []


# --- soak (rule 3) ---


def test_clusters_alike_share_one_member_so_that_a_large_fleet_costs_little() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3")))
    assert len({id(member) for member in hub.state.members.values()}) == 1
    hub.view[ClusterName("c3")] = replace(hub.view[ClusterName("c3")], next_seq=20)
    hub.tick()
    one, two, three = hub.state.members.values()
    assert one is two
    assert (one.seq, three.seq) == (8, 20)


def test_who_is_in_flight_elsewhere_is_counted_once_as_unavailable_when_it_moves_here_too() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_unavailable=2)))
    hub.busy = {"c1"}
    assert moves(hub.tick()) == ["c1", "c2"]
    assert moves(hub.tick()) == []


def soaking(soak_s: float = 30.0, **changes: Any) -> Hub:
    hub = Hub(rollout(wave("canary", "c1", soak_s=soak_s, **changes), wave("rest", "c2")))
    hub.tick()
    hub.report("c1")
    assert hub.phase("c1") is MemberPhase.SOAKING
    return hub


def test_a_soak_ends_only_with_a_report_after_its_end() -> None:
    hub = soaking()
    for _ in range(2):
        hub.report("c1", after_s=10.0)
    hub.tick(after_s=10.0, seen=False)
    assert hub.phase("c1") is MemberPhase.SOAKING
    hub.report("c1", after_s=1.0)
    assert hub.phase("c1") is MemberPhase.PROVEN


def test_one_lost_report_does_not_reset_a_soak_and_two_do() -> None:
    hub = soaking()
    hub.report("c1", after_s=20.0)
    assert hub.member("c1").resets == 0
    hub.report("c1", after_s=20.1)
    assert (hub.member("c1").resets, hub.member("c1").soak_from) == (1, hub.now)
    assert hub.phase("c1") is MemberPhase.SOAKING


def test_health_that_falters_resets_a_soak_once_until_it_is_current_again() -> None:
    hub = soaking()
    for _ in range(4):
        hub.report("c1", health=Health.IN_PROGRESS, after_s=10.0)
    assert hub.member("c1").resets == 1
    hub.report("c1", after_s=10.0)
    hub.report("c1", after_s=20.0)
    assert hub.phase("c1") is MemberPhase.SOAKING
    hub.report("c1", after_s=10.0)
    assert hub.phase("c1") is MemberPhase.PROVEN


def test_the_third_reset_is_a_failure() -> None:
    hub = soaking()
    for _ in range(3):
        assert hub.whole() is Phase.RUNNING
        hub.report("c1", health=Health.IN_PROGRESS, after_s=5.0)
        hub.report("c1", after_s=5.0)
    assert hub.whole() is Phase.ROLLING_BACK
    assert "interrupted 3 times" in hub.state.reason


def test_a_failure_during_the_soak_is_a_failure_at_once() -> None:
    hub = soaking()
    assert "cluster-failed" in kinds(hub.report("c1", health=Health.FAILED, after_s=5.0))
    assert hub.whole() is Phase.ROLLING_BACK


def test_a_cluster_that_falls_silent_while_soaking_fails_at_the_deadline_after_its_last_report() -> None:
    hub = soaking()
    hub.tick(after_s=600.0, seen=False)
    assert hub.phase("c1") is MemberPhase.SOAKING
    hub.tick(after_s=1.0, seen=False)
    assert hub.whole() is Phase.ROLLING_BACK


# --- failures and budgets (rules 4 to 7) ---


def test_a_failed_canary_is_rolled_back_and_the_others_never_move() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    hub.tick()
    effects = hub.report("c1", health=Health.FAILED)
    assert of(Move, effects) == [
        Move(cluster=ClusterName("c1"), rollout=RolloutId("shop-1"), wave="canary", subtrees={SHOP: OLD}, back=True)
    ]
    assert hub.phase("c1") is MemberPhase.REVERTING
    effects = hub.report("c1", OLD)
    assert hub.whole() is Phase.ROLLED_BACK
    assert [hold.bundle for hold in of(Hold, effects)] == [SHOP]
    assert kinds(effects) == ["cluster-reverted", "rolled-back"]
    assert hub.phase("c2") is MemberPhase.PENDING
    assert moves(hub.effects) == ["c1", "c1"]


def test_who_has_no_proof_in_time_fails_with_what_it_said_last_since_back_at_the_old_it_says_so_no_more() -> None:
    why = ObjectProblem(
        object="Deployment/shop/web", reason="r", health=Health.IN_PROGRESS, message="web: ImagePullBackOff"
    )
    hub = Hub(rollout(wave("one", "c1"), deadline_s=100.0))
    hub.tick()
    hub.now += 60.0
    hub.together(c1=msgspec.structs.replace(word(NEW, Health.IN_PROGRESS), problems=(why,)))
    hub.tick(after_s=41.0, seen=False)
    told = "no proof within 100 s: Deployment/shop/web: web: ImagePullBackOff"
    assert hub.state.reason == f"c1 failed in wave one: {told}"


def test_what_a_cluster_said_of_an_older_slice_is_not_why_it_fails() -> None:
    why = ObjectProblem(object="Deployment/shop/web", reason="r", health=Health.FAILED, message="was broken before")
    hub = Hub(rollout(wave("one", "c1"), deadline_s=100.0))
    hub.tick()
    hub.now += 60.0
    hub.say(ClusterName("c1"), msgspec.structs.replace(word(OLD, Health.FAILED), problems=(why,)), seq=7)
    hub.tick(after_s=41.0, seen=False)
    assert hub.state.reason == "c1 failed in wave one: no proof within 100 s"


@pytest.mark.parametrize("seen", [pytest.param(True, id="heard"), pytest.param(False, id="lost")])
def test_a_cluster_without_proof_fails_at_the_deadline_heard_or_lost(seen: bool) -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    hub.tick()
    hub.tick(after_s=600.0, seen=seen)
    assert hub.phase("c1") is MemberPhase.MOVING
    hub.tick(after_s=0.5, seen=seen)
    assert hub.whole() is Phase.ROLLING_BACK
    assert ("silent" in hub.state.reason) is not seen


def test_failures_within_the_budget_go_on_and_one_more_rolls_back() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2", "c3", "c4", failure_budget=1)))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert hub.whole() is Phase.RUNNING
    hub.report("c2", health=Health.FAILED)
    assert hub.whole() is Phase.ROLLING_BACK


def test_a_generous_budget_does_not_open_a_wave_without_proof() -> None:
    hub = Hub(rollout(wave("canary", "c1", failure_budget=1), wave("rest", "c2")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert hub.whole() is Phase.ROLLING_BACK


def test_within_the_budget_a_failed_cluster_does_not_keep_the_wave_from_completing() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", failure_budget=1), wave("rest", "c3")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert moves(hub.report("c2")) == ["c3"]


def test_action_pause_stops_and_resume_takes_the_failure_as_it_is() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2"), action="pause"))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert hub.whole() is Phase.PAUSED
    assert "c1 failed in wave canary" in hub.state.reason
    assert moves(hub.tick(after_s=5.0)) == []
    assert moves(hub.tell(Command(verb="resume", actor="ann", reason="known"))) == ["c2"]


def test_action_continue_goes_on() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2"), action="continue"))
    hub.tick()
    assert moves(hub.report("c1", health=Health.FAILED)) == ["c2"]
    hub.report("c2")
    assert hub.whole() is Phase.COMPLETED


def test_a_failed_cluster_that_proves_after_all_counts_again() -> None:
    hub = Hub(rollout(wave("canary", "c1", soak_s=10.0), wave("rest", "c2"), action="pause"))
    hub.tick()
    hub.tick(after_s=700.0)
    assert hub.phase("c1") is MemberPhase.FAILED
    hub.report("c1")
    assert hub.phase("c1") is MemberPhase.SOAKING
    hub.report("c1", after_s=10.0)
    assert hub.phase("c1") is MemberPhase.PROVEN
    assert hub.whole() is Phase.PAUSED


def test_late_proof_waits_for_room() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2", max_concurrent=1, failure_budget=1)))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert hub.phase("c2") is MemberPhase.MOVING
    hub.report("c1")
    assert hub.phase("c1") is MemberPhase.FAILED
    hub.report("c2")
    assert hub.whole() is Phase.COMPLETED


def test_a_cluster_that_was_sick_before_neither_fails_nor_proves_until_it_is_current() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")), health=Health.FAILED)
    hub.tick()
    assert hub.member("c1").sick_before
    assert hub.report("c1", health=Health.FAILED) == []
    hub.tick(after_s=601.0)
    assert (hub.phase("c1"), hub.whole()) == (MemberPhase.FAILED, Phase.RUNNING)
    assert "has proof from 0 of the 1" in hub.state.reason
    assert moves(hub.effects) == ["c1"]
    assert moves(hub.report("c1")) == ["c2"]


def test_who_was_sick_counts_like_any_other_once_it_was_current() -> None:
    hub = Hub(rollout(wave("canary", "c1", soak_s=60.0)), health=Health.FAILED)
    hub.tick()
    hub.report("c1")
    hub.report("c1", health=Health.FAILED, after_s=1.0)
    assert hub.whole() is Phase.ROLLING_BACK
    hub.report("c1", OLD, Health.FAILED)
    assert hub.whole() is Phase.ROLLED_BACK


# --- offline (rule 8) ---


def test_an_offline_canary_holds_the_wave_and_the_reason_names_it() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    effects = hub.tick(after_s=61.0, seen=False)
    assert moves(effects) == []
    assert "cluster-offline" in kinds(effects)
    assert "c1" in hub.state.reason
    assert "offline" in hub.state.reason
    assert rollouts.stalled(hub.state)
    hub.now += 100
    effects = hub.report("c1", OLD)
    assert moves(effects) == ["c1"]


def test_who_is_heard_with_each_heartbeat_is_never_offline_whatever_the_policy_asks_for() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1), offline_after_s=1.0))
    assert moves(hub.tick(after_s=2 * HEARTBEAT_S, seen=False)) == ["c1"], "one report may be lost"
    hub.see("c1")
    hub.tick(after_s=1.0, seen=False)
    assert (hub.phase("c2"), hub.member("c2").reason) == (M.OFFLINE, "silent for more than 20 s")


def test_offline_within_the_budget_does_not_block_and_catches_up_while_later_waves_run() -> None:
    hub = Hub(
        rollout(
            wave("one", "c1", "c2", "c3", max_concurrent=1, offline_budget=1, min_proof=2),
            wave("rest", "c4"),
        )
    )
    hub.now += 61.0
    hub.see("c1", "c3", "c4")
    assert moves(hub.tell(Tick())) == ["c1"]
    assert hub.phase("c2") is MemberPhase.OFFLINE
    assert moves(hub.report("c1")) == ["c3"]
    assert moves(hub.report("c3")) == ["c4"]
    assert moves(hub.report("c2", OLD)) == ["c2"]
    hub.report("c4")
    assert hub.whole() is Phase.COMPLETED
    hub.report("c2")
    assert hub.phase("c2") is MemberPhase.PROVEN


def test_within_the_offline_budget_proof_from_min_proof_is_still_needed() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", offline_budget=2, min_proof=1), wave("rest", "c3")))
    hub.tick(after_s=61.0, seen=False)
    assert "has proof from 0 of the 1" in hub.state.reason
    hub.see("c3")
    assert moves(hub.tell(Tick())) == []


def test_a_cluster_not_heard_for_a_while_but_not_offline_yet_is_moved_and_one_never_heard_is_not() -> None:
    hub = Hub(rollout(wave("rest", "c1", "c2")))
    hub.view[ClusterName("c2")] = ClusterView(next_seq=1)
    hub.now += 59.0
    assert moves(hub.tell(Tick())) == ["c1"]
    assert hub.phase("c2") is MemberPhase.OFFLINE


def completed_without_c2(**changes: Any) -> Hub:
    hub = Hub(rollout(wave("one", "c1", "c2", offline_budget=1), **changes))
    hub.now += 61.0
    hub.see("c1")
    hub.tell(Tick())
    hub.report("c1")
    assert hub.whole() is Phase.COMPLETED
    assert rollouts.alive(hub.state)
    return hub


def test_a_completed_rollout_catches_up_who_was_offline_and_then_is_over() -> None:
    hub = completed_without_c2()
    assert moves(hub.report("c2", OLD, after_s=5000.0)) == ["c2"]
    assert of(MarkGood, hub.report("c2")) == [MarkGood(cluster=ClusterName("c2"), subtrees={SHOP: NEW})]
    assert not rollouts.alive(hub.state)


def test_a_failure_while_catching_up_is_a_notice_and_rolls_nothing_back() -> None:
    hub = completed_without_c2()
    hub.report("c2", OLD, after_s=5000.0)
    effects = hub.report("c2", health=Health.FAILED)
    assert kinds(effects) == ["cluster-failed"]
    assert moves(effects) == []
    assert hub.whole() is Phase.COMPLETED
    assert not rollouts.alive(hub.state)


# --- rollback (rules 9 and 10) ---


def test_rollback_takes_the_failed_first_then_the_waves_from_the_last_within_its_limit() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2"), wave("two", "c3", "c4", "c5", max_concurrent=2), wave("rest", "c6")))
    hub.tick()
    hub.report("c1")
    hub.report("c2")
    hub.report("c3")
    assert moves(hub.report("c4", health=Health.FAILED)) == ["c4", "c3"]
    assert moves(hub.report("c4", OLD)) == ["c5"]
    assert moves(hub.report("c3", OLD)) == ["c1"]
    assert moves(hub.report("c5", OLD)) == ["c2"]
    hub.report("c1", OLD)
    hub.report("c2", OLD)
    assert hub.whole() is Phase.ROLLED_BACK
    assert hub.phase("c6") is MemberPhase.PENDING


def test_rolling_a_proven_cluster_back_makes_the_old_subtree_last_good_again() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2")))
    hub.tick()
    hub.report("c1")
    effects = hub.report("c2", health=Health.FAILED)
    assert of(MarkGood, effects) == []
    effects = hub.report("c2", OLD)
    assert of(MarkGood, effects) == [MarkGood(cluster=ClusterName("c1"), subtrees={SHOP: OLD})]


def test_rollback_to_absent_is_proven_by_absence() -> None:
    hub = Hub(rollout(wave("one", "c1"), before=ABSENT), runs=ABSENT)
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    hub.report("c1", NEW, Health.TERMINATING)
    assert hub.whole() is Phase.ROLLING_BACK
    hub.report("c1", ABSENT)
    assert hub.whole() is Phase.ROLLED_BACK


def test_who_would_go_back_to_where_it_is_gets_no_move() -> None:
    hub = Hub(rollout(wave("one", "c1"), before=NEW))
    hub.tick()
    assert moves(hub.report("c1", health=Health.FAILED)) == []
    assert hub.whole() is Phase.ROLLED_BACK
    assert hub.phase("c1") is MemberPhase.REVERTED


def test_a_cluster_that_does_not_come_back_makes_the_rollback_fail_loudly_after_the_others() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1, failure_budget=1, min_proof=1), wave("two", "c3")))
    hub.tick()
    hub.report("c1")
    hub.report("c2")
    hub.report("c3", health=Health.FAILED)
    hub.tick(after_s=601.0)
    assert hub.phase("c3") is MemberPhase.REVERT_FAILED
    assert hub.phase("c1") is MemberPhase.REVERTING
    hub.report("c1", OLD)
    effects = hub.report("c2", OLD)
    assert hub.whole() is Phase.ROLLBACK_FAILED
    assert "rollback-failed" in kinds(effects)
    assert "c3" in of(Notice, effects)[-1].text
    assert [hold.reason for hold in of(Hold, effects)] == [
        "c3 did not come back; rolled back because c3 failed in wave two: Failed"
    ], "who looks at what is on hold must not take it for well"


def test_a_revert_that_is_proven_late_still_counts_while_the_rollback_goes_on() -> None:
    hub = Hub(rollout(wave("one", "c1", max_concurrent=1), wave("two", "c2")))
    hub.tick()
    hub.report("c1")
    hub.report("c2", health=Health.FAILED)
    hub.tick(after_s=601.0)
    hub.report("c2", OLD)
    assert hub.phase("c2") is MemberPhase.REVERTED
    hub.report("c1", OLD)
    assert hub.whole() is Phase.ROLLED_BACK


def test_who_is_back_is_told_once_however_often_it_says_so() -> None:
    hub = Hub(rollout(wave("one", "c1", max_concurrent=1), wave("two", "c2")))
    hub.tick()
    hub.report("c1")
    hub.report("c2", health=Health.FAILED)
    assert [notice.kind for notice in of(Notice, hub.report("c2", OLD))] == ["cluster-reverted"]
    assert hub.report("c2", OLD) == []
    assert hub.phase("c2") is MemberPhase.REVERTED


def test_an_offline_cluster_that_returns_during_a_rollback_does_not_get_the_commit() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", offline_budget=1)))
    hub.now += 61.0
    hub.see("c1", "c3")
    hub.tell(Tick())
    hub.report("c1", health=Health.FAILED)
    assert hub.whole() is Phase.ROLLING_BACK
    assert moves(hub.report("c2", OLD)) == []
    assert hub.phase("c2") is MemberPhase.OFFLINE


# --- restart (rule 11) ---


def test_until_agents_had_their_time_after_a_start_nothing_is_called_failed_or_offline() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2")))
    hub.tick()
    hub.now += 10_000.0
    hub.settle_until = hub.now + 2 * HEARTBEAT_S
    assert hub.tick(seen=False) == []
    assert hub.report("c1", health=Health.FAILED) == []
    assert hub.phase("c1") is MemberPhase.MOVING
    hub.report("c1", health=Health.FAILED, after_s=21.0)
    assert hub.whole() is Phase.ROLLING_BACK


def test_a_hub_that_was_away_for_a_day_gives_those_in_flight_their_whole_deadline() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2")))
    hub.tick()
    hub.now += 24 * 3600.0
    hub.settle_until = hub.now + 2 * HEARTBEAT_S
    hub.tick(after_s=2 * HEARTBEAT_S + 600.0)
    assert hub.phase("c1") is MemberPhase.MOVING
    hub.tick(after_s=1.0)
    assert hub.whole() is Phase.ROLLING_BACK
    assert hub.phase("c1") is MemberPhase.REVERTING
    hub.now += 24 * 3600.0
    hub.settle_until = hub.now + 2 * HEARTBEAT_S
    hub.tick(after_s=2 * HEARTBEAT_S + 600.0)
    assert hub.phase("c1") is MemberPhase.REVERTING
    hub.tick(after_s=1.0)
    assert hub.whole() is Phase.ROLLBACK_FAILED


def test_silence_while_the_hub_was_away_makes_nobody_offline() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    hub.now += 10_000.0
    hub.settle_until = hub.now + 2 * HEARTBEAT_S
    assert moves(hub.tick(after_s=30.0, seen=False)) == []
    assert hub.phase("c1") is MemberPhase.PENDING
    hub.tick(after_s=61.0, seen=False)
    assert hub.phase("c1") is MemberPhase.OFFLINE


def test_a_soak_that_the_hub_slept_through_starts_again_and_is_no_reset() -> None:
    hub = soaking(30.0)
    hub.now += 10_000.0
    hub.settle_until = hub.now + 2 * HEARTBEAT_S
    hub.report("c1")
    member = hub.member("c1")
    assert (member.phase, member.resets, member.soak_from) == (MemberPhase.SOAKING, 0, hub.now)
    for _ in range(2):
        hub.report("c1", after_s=10.0)
        assert hub.phase("c1") is MemberPhase.SOAKING
    hub.report("c1", after_s=10.0)
    assert hub.phase("c1") is MemberPhase.PROVEN


def test_a_clock_that_was_set_back_makes_no_soak_longer_and_no_deadline_later() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", soak_s=30.0, failure_budget=1, min_proof=1), deadline_s=100.0))
    hub.tick()
    hub.report("c1")
    hub.set_clock(-900.0)
    for _ in range(6):
        hub.report("c1", after_s=10.0)
    assert [hub.phase("c1"), hub.phase("c2")] == [M.PROVEN, M.MOVING]
    hub.tick(after_s=61.0)
    assert (hub.phase("c2"), hub.whole()) == (M.FAILED, Phase.COMPLETED)


def test_a_clock_that_was_set_back_lets_no_rollback_wait_longer() -> None:
    hub = Hub(rollout(wave("one", "c1"), deadline_s=100.0))
    hub.tick()
    hub.say_to("rollback")
    hub.set_clock(-900.0)
    hub.tick(after_s=120.0)
    assert hub.phase("c1") is M.REVERTING
    hub.tick(after_s=1.0)
    assert hub.whole() is Phase.ROLLBACK_FAILED


def test_proof_without_soak_counts_at_once_even_in_the_settling_time() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    hub.tick()
    hub.settle_until = hub.now + 15.0
    hub.report("c1")
    assert hub.phase("c1") is MemberPhase.PROVEN


# --- leavers (rule 12) ---


def test_a_leaver_frees_its_slot_and_drops_out_of_every_count() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1, min_proof=2)))
    hub.tick()
    assert moves(hub.tell(Left(cluster=ClusterName("c1")))) == ["c2"]
    hub.report("c2")
    assert hub.whole() is Phase.COMPLETED


def test_a_canary_wave_that_loses_its_last_cluster_pauses() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    hub.tick()
    effects = hub.tell(Left(cluster=ClusterName("c1")))
    assert moves(effects) == []
    assert hub.whole() is Phase.PAUSED
    assert "canary" in hub.state.reason
    assert moves(hub.tell(Command(verb="resume", actor="ann", reason="no canary needed"))) == ["c2"]


def test_who_resumes_a_rollout_is_told_that_its_canary_left_meanwhile() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("two", "c2")))
    hub.tick()
    hub.say_to("pause", reason="lunch")
    effects = hub.tell(Left(cluster=ClusterName("c1")))
    assert hub.whole() is Phase.PAUSED
    assert hub.state.reason == "ann: lunch; wave canary lost its last cluster before it was done"
    assert kinds(effects)[-1] == "paused"


def test_a_leaver_does_not_open_a_wave_of_which_only_a_failure_is_left() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", failure_budget=1), wave("two", "c3")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert hub.whole() is Phase.RUNNING
    assert moves(hub.tell(Left(cluster=ClusterName("c2")))) == ["c1"]
    assert hub.whole() is Phase.ROLLING_BACK


def test_a_leaver_of_a_wave_that_is_done_changes_nothing_else() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", failure_budget=1), wave("two", "c3")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    assert moves(hub.report("c2")) == ["c3"]
    assert moves(hub.tell(Left(cluster=ClusterName("c2")))) == []
    assert hub.whole() is Phase.RUNNING


def test_a_leaver_ends_a_rollback_that_waited_for_it() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    effects = hub.tell(Left(cluster=ClusterName("c1")))
    assert hub.whole() is Phase.ROLLED_BACK
    assert of(Hold, effects)


# --- commands, ends, illegal events ---


def test_while_paused_nothing_moves_and_proof_still_counts() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2")))
    hub.tick()
    hub.tell(Command(verb="pause", actor="ann", reason="lunch"))
    assert hub.state.reason == "ann: lunch"
    assert moves(hub.report("c1")) == []
    assert hub.phase("c1") is MemberPhase.PROVEN
    assert moves(hub.tell(Command(verb="resume", actor="ann", reason="back"))) == ["c2"]


def test_abort_leaves_everything_where_it_is_and_holds_the_bundle() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2")))
    hub.tick()
    effects = hub.tell(Command(verb="abort", actor="ann", reason="wrong commit"))
    assert moves(effects) == []
    assert [hold.bundle for hold in of(Hold, effects)] == [SHOP]
    assert hub.whole() is Phase.ABORTED
    assert hub.report("c1") == []


def test_a_person_can_roll_back_and_with_nothing_moved_it_is_over_at_once() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    effects = hub.tell(Command(verb="rollback", actor="ann", reason="no"))
    assert moves(effects) == []
    assert hub.whole() is Phase.ROLLED_BACK


def test_an_empty_wave_starts_paused_with_its_name_in_the_reason() -> None:
    hub = Hub(rollout(wave("canary"), wave("rest", "c1")))
    assert hub.whole() is Phase.PAUSED
    assert "canary" in hub.state.reason
    assert moves(hub.tick()) == []
    assert moves(hub.tell(Command(verb="resume", actor="ann", reason="no canary"))) == ["c1"]


@pytest.mark.parametrize(
    ("phase", "verb"),
    [
        pytest.param(Phase.RUNNING, "resume", id="resume what runs"),
        pytest.param(Phase.PAUSED, "pause", id="pause what is paused"),
        pytest.param(Phase.ROLLING_BACK, "pause", id="pause a rollback"),
        pytest.param(Phase.ROLLING_BACK, "abort", id="abort a rollback"),
        pytest.param(Phase.COMPLETED, "rollback", id="roll back what is completed"),
        pytest.param(Phase.ABORTED, "resume", id="resume what is aborted"),
    ],
)
def test_a_command_that_does_not_fit_the_phase_is_refused(phase: Phase, verb: Any) -> None:
    hub = Hub(rollout(wave("one", "c1")))
    state = replace(hub.state, phase=phase)
    with pytest.raises(IllegalEvent, match=f"is {phase}: cannot {verb}"):
        rollouts.decide(
            state, [Command(verb=verb, actor="ann", reason="x")], hub.view, hub.now, heartbeat_s=HEARTBEAT_S
        )


def test_a_command_without_a_reason_and_a_stranger_are_refused() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    with pytest.raises(IllegalEvent, match="needs a reason"):
        hub.tell(Command(verb="pause", actor="ann", reason=""))
    with pytest.raises(IllegalEvent, match="has no member c9"):
        hub.tell(Reported(cluster=ClusterName("c9")))


def test_what_waits_is_told_when_a_rollout_frees_it() -> None:
    hub = soaking(10.0)
    before = hub.state
    hub.report("c1", after_s=5.0)
    assert not rollouts.frees(before, hub.state)
    hub.report("c1", after_s=5.0)
    assert rollouts.frees(before, hub.state), "nobody soaks any more"
    moving = hub.state
    hub.report("c2")
    assert rollouts.frees(moving, hub.state), "it is completed"
    stuck = Hub(rollout(wave("one", "c1")))
    fresh = stuck.state
    stuck.tick(after_s=61.0, seen=False)
    assert rollouts.frees(fresh, stuck.state), "it only waits for who is offline"


def test_a_replaced_rollout_is_over_and_a_rollback_cannot_be_replaced() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    hub.tick()
    state, effects = rollouts.supersede(hub.state, hub.now, by=RolloutId("shop-2"))
    assert state.phase is Phase.REPLACED
    assert kinds(effects) == ["replaced"]
    hub.report("c1", health=Health.FAILED)
    with pytest.raises(IllegalEvent, match="rolling-back"):
        rollouts.supersede(hub.state, hub.now, by=RolloutId("shop-2"))


def test_a_move_that_is_decided_but_not_stored_yet_is_taken_back_in_the_next_turn() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_concurrent=2)))
    hub.tick()
    views = dict(hub.view)
    assert moves(hub.report("c1")) == ["c3"]
    # The other report of the same turn: the slices are still where they were when the turn began.
    c3 = ClusterName("c3")
    hub.view[c3] = views[c3]
    assert moves(hub.report("c2", health=Health.FAILED)) == ["c2", "c1"]
    assert (hub.phase("c3"), hub.whole()) == (M.MOVING, Phase.ROLLING_BACK)
    hub.view[c3] = replace(views[c3], next_seq=views[c3].next_seq + 1)
    hub.report("c1", OLD)
    assert hub.phase("c3") is M.REVERTING
    hub.report("c2", OLD)
    hub.report("c3", OLD)
    assert hub.whole() is Phase.ROLLED_BACK


# --- suspended bundles (rule 13) ---


def test_a_suspended_cluster_gets_no_move_and_the_wave_waits_in_words_until_it_is_resumed() -> None:
    hub = Hub(rollout(wave("canary", "c1", "c2", min_proof=1), wave("rest", "c3")))
    hub.suspend("c2")
    assert moves(hub.tick()) == ["c1"]
    hub.report("c1")
    assert hub.state.reason == "wave canary waits for c2 (suspended: ann: a migration runs)"
    assert hub.member("c2").suspended
    hub.tick(after_s=3600)
    assert (hub.phase("c2"), hub.phase("c3"), hub.whole()) == (M.PENDING, M.PENDING, Phase.RUNNING)
    hub.suspend("c2", "")
    assert moves(hub.tick(after_s=1)) == ["c2"]
    hub.report("c2")
    assert hub.phase("c3") is M.MOVING


def test_who_is_suspended_and_why_is_told_once_and_again_when_it_changes() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    hub.suspend("c1")
    assert kinds(hub.tick()) == ["cluster-suspended", "rollout-started", "wave-opened"]
    before = hub.state
    assert kinds(hub.tick(after_s=1)) == []
    assert hub.state is before
    hub.suspend("c1", "bob: another reason")
    assert kinds(hub.tick(after_s=1)) == ["cluster-suspended"]
    assert hub.member("c1").reason == "suspended: bob: another reason"


def test_nothing_that_a_suspended_cluster_says_counts_and_its_deadline_stands_still() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2"), deadline_s=100.0))
    hub.tick()
    hub.suspend("c1")
    hub.tick(after_s=90)
    assert of(MarkGood, hub.report("c1")) == []
    hub.report("c1", health=Health.FAILED)
    hub.tick(after_s=1000)
    assert (hub.phase("c1"), hub.member("c1").suspended, hub.whole()) == (M.MOVING, True, Phase.RUNNING)
    hub.suspend("c1", "")
    hub.tick(after_s=1)
    hub.tick(after_s=99)
    assert hub.phase("c1") is M.MOVING
    hub.tick(after_s=2)
    assert hub.phase("c1") in (M.FAILED, M.REVERTING)


def test_a_soak_that_was_suspended_starts_again_and_that_is_no_reset() -> None:
    hub = soaking()
    for _ in range(5):
        hub.suspend("c1")
        hub.report("c1", after_s=10)
        hub.tick(after_s=500)
        hub.suspend("c1", "")
        hub.report("c1", after_s=1)
    assert (hub.phase("c1"), hub.member("c1").resets) == (M.SOAKING, 0)
    hub.report("c1", after_s=20)
    assert hub.phase("c1") is M.SOAKING
    hub.report("c1", after_s=11)
    assert hub.phase("c1") is M.PROVEN


def test_a_failed_cluster_that_is_suspended_proves_nothing_until_it_is_resumed() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", failure_budget=1), action="pause"))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    hub.suspend("c1")
    hub.report("c1")
    assert hub.phase("c1") is M.FAILED
    hub.suspend("c1", "")
    hub.report("c1")
    assert hub.phase("c1") is M.PROVEN


def test_a_suspended_cluster_is_sent_back_with_the_others_and_is_told_of_when_it_does_not_come() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2"), deadline_s=100.0))
    hub.tick()
    hub.suspend("c1")
    hub.report("c2", health=Health.FAILED)
    assert [hub.phase("c1"), hub.phase("c2")] == [M.REVERTING, M.REVERTING]
    hub.report("c2", OLD)
    hub.tick(after_s=101)
    assert hub.whole() is Phase.ROLLBACK_FAILED
    assert hub.member("c1").reason == "not back after 100 s, suspended: ann: a migration runs"


def test_a_rollout_that_waits_for_the_suspended_alone_is_stalled() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_concurrent=1)))
    hub.tick()
    assert not rollouts.stalled(hub.state)
    hub.suspend("c1")
    before = hub.state
    hub.tick(after_s=1)
    assert rollouts.stalled(hub.state), "c2 and c3 wait for the room that c1 has"
    assert rollouts.frees(before, hub.state)


SHOP_2 = RolloutId("shop-2")


def replaced_while_suspended(*left: str, **changes: Any) -> Hub:
    """c1 is suspended after its move, c2 waits for its room, and a newer rollout takes the place."""
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1), **changes))
    hub.tick()
    hub.suspend("c1")
    hub.tick(after_s=1)
    hub.state, _ = rollouts.supersede(hub.state, hub.now, by=SHOP_2, left={ClusterName(name) for name in left})
    return hub


def test_who_is_suspended_in_a_rollout_that_is_replaced_is_followed_to_its_proof() -> None:
    hub = replaced_while_suspended()
    assert [hub.phase("c1"), hub.phase("c2")] == [M.MOVING, M.LEFT]
    assert hub.tick(after_s=5000) == []
    hub.suspend("c1", "")
    assert kinds(hub.tick(after_s=1)) == ["cluster-resumed"]
    assert [mark.cluster for mark in of(MarkGood, hub.report("c1"))] == ["c1"]
    assert (hub.whole(), rollouts.alive(hub.state)) == (Phase.REPLACED, False)


@pytest.mark.parametrize("late", [pytest.param(False, id="it says Failed"), pytest.param(True, id="it says nothing")])
def test_who_fails_after_its_rollout_was_replaced_fails_alone_and_people_are_told(late: bool) -> None:
    hub = replaced_while_suspended(deadline_s=100.0)
    hub.suspend("c1", "")
    hub.tick(after_s=1000)
    hub.tick(after_s=100)
    assert hub.phase("c1") is M.MOVING, "its deadline counts from when it was resumed"
    told = hub.tick(after_s=1) if late else hub.report("c1", health=Health.FAILED)
    assert kinds(told) == ["cluster-failed"]
    assert moves(told) == []
    assert (hub.whole(), rollouts.alive(hub.state)) == (Phase.REPLACED, False)


def test_who_has_something_newer_to_get_is_not_followed_in_the_rollout_that_was_replaced() -> None:
    hub = replaced_while_suspended("c1")
    assert hub.member("c1").reason == "replaced by shop-2"
    assert (hub.phase("c1"), rollouts.alive(hub.state)) == (M.LEFT, False)
    hub = replaced_while_suspended()
    assert kinds(hub.tell(Left(cluster=ClusterName("c1")))) == ["cluster-left"]
    assert (hub.whole(), rollouts.alive(hub.state)) == (Phase.REPLACED, False)


def test_another_bundle_that_is_suspended_there_concerns_nobody() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    cluster = ClusterName("c1")
    hub.view[cluster] = replace(hub.view[cluster], suspended={BundleName("notes"): "ann: other"})
    assert moves(hub.tick()) == ["c1"]


# --- skip (rule 12) ---


def skip(cluster: str) -> Command:
    return Command(verb="skip", actor="ann", reason="its owner is away", cluster=cluster)


def test_a_skipped_cluster_drops_out_and_the_rollout_goes_on() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2"), wave("two", "c3")))
    hub.suspend("c2")
    hub.tick()
    hub.report("c1")
    assert "cluster-skipped" in kinds(hub.tell(skip("c2")))
    assert (hub.phase("c2"), hub.member("c2").reason) == (M.LEFT, "skipped by ann: its owner is away")
    assert hub.phase("c3") is M.MOVING


def test_what_a_rollout_completed_is_told_once_and_not_of_who_was_skipped() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", min_proof=1)))
    hub.tick()
    hub.report("c1")
    hub.say_to("skip", cluster="c2")
    before = hub.state
    hub.report("c3")
    told = {(SHOP, ClusterName("c1"), NEW), (SHOP, ClusterName("c3"), NEW)}
    assert set(rollouts.completed(before, hub.state)) == told
    assert set(rollouts.completed(None, hub.state)) == told
    assert list(rollouts.completed(hub.state, hub.state)) == []
    assert list(rollouts.completed(None, before)) == []


def test_skipping_the_only_canary_pauses_instead_of_going_on_unproven() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("rest", "c2")))
    hub.tick()
    hub.tell(skip("c1"))
    assert hub.whole() is Phase.PAUSED
    assert hub.phase("c2") is M.PENDING


@pytest.mark.parametrize("cluster", [pytest.param("c1", id="proven"), pytest.param("c9", id="no member")])
def test_only_who_still_has_to_prove_can_be_skipped(cluster: str) -> None:
    hub = Hub(rollout(wave("one", "c1", "c2")))
    hub.tick()
    hub.report("c1")
    before = hub.state
    with pytest.raises(IllegalEvent, match=f"cluster {cluster}"):
        hub.tell(skip(cluster))
    assert hub.state is before


def test_every_phase_is_in_the_tables() -> None:
    assert MEMBER.keys() == set(MemberPhase)
    assert PHASE.keys() == set(Phase)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        pytest.param({"members": {}}, "a", id="a member is missing"),
        pytest.param({"wave": 3}, "f", id="there is no such wave"),
        pytest.param({"phase": Phase.COMPLETED}, "f", id="completed too early"),
        pytest.param({"c3": Member(phase=MemberPhase.MOVING, seq=1)}, "c", id="moved before its wave"),
        pytest.param(
            {
                "c1": Member(phase=MemberPhase.MOVING, seq=1),
                "c2": Member(phase=MemberPhase.SOAKING, seq=1),
            },
            "b",
            id="two in flight where one may be",
        ),
        pytest.param({"c1": Member(phase=MemberPhase.MOVING)}, "d", id="in flight without a move"),
        pytest.param({"c1": Member(phase=MemberPhase.MOVING, seq=99)}, "d", id="a seq from the future"),
        pytest.param({"c1": Member(seq=4)}, "d", id="pending with a move"),
        pytest.param(
            {"c1": Member(phase=MemberPhase.PROVEN, seq=4, suspended=True)}, "g", id="suspended after its proof"
        ),
        pytest.param({"c1": Member(phase=MemberPhase.REVERTING, seq=4)}, "e", id="going back in a forward rollout"),
        pytest.param(
            {"c1": Member(phase=MemberPhase.PROVEN, seq=4), "phase": Phase.ROLLED_BACK}, "e", id="left behind"
        ),
        pytest.param({"tallies": (Tally(phases={}), Tally(phases={}))}, "a", id="miscounted"),
        pytest.param(
            {"c1": Member(phase=MemberPhase.REVERT_FAILED, seq=4), "phase": Phase.ROLLED_BACK}, "e", id="hushed up"
        ),
    ],
)
def test_check_finds_a_broken_invariant(changes: dict[str, Any], rule: str) -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1), wave("two", "c3")))
    was = hub.state.members
    named = {ClusterName(name): value for name, value in changes.items() if isinstance(value, Member)}
    members = {**was, **{name: replace(member, wave=was[name].wave) for name, member in named.items()}}
    others = {name: value for name, value in changes.items() if not isinstance(value, Member)}
    counted = tallies(hub.state.rollout, members)
    state = replace(hub.state, **{"members": members, "tallies": counted, **others})
    with pytest.raises(BrokenInvariant, match=f"invariant {rule}"):
        check(state, hub.view)


# --- the journal's bytes ---


def test_a_state_comes_back_from_its_bytes_unchanged() -> None:
    hub = soaking()
    hub.report("c1", health=Health.FAILED, after_s=3.25)
    data = rollouts_json.to_json(hub.state)
    assert rollouts_json.from_json(data) == hub.state


def test_bytes_of_a_newer_format_and_rubbish_are_refused() -> None:
    with pytest.raises(UnsupportedVersion, match="format 2"):
        rollouts_json.from_json(b'{"format":2,"value":{}}')
    for rubbish in (b"", b"{}", b'{"format":1,"value":{"rollout":1}}'):
        with pytest.raises(Permanent, match="cannot be read"):
            rollouts_json.from_json(rubbish)
    assert isinstance(rollouts.start(rollout(wave("one", "c1")), 1.0), State)


def test_a_report_of_a_cluster_whose_wave_is_not_open_changes_nothing_cordoned_or_not() -> None:
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2")))
    hub.tick()
    hub.view[ClusterName("c2")] = replace(hub.view[ClusterName("c2")], cordoned="ann: repairs")
    before = hub.state
    assert not rollouts.concerns(before, ClusterName("c2"))
    assert hub.tell(Reported(cluster=ClusterName("c2"))) == []
    assert hub.state is before


def test_the_tick_is_asked_for_at_which_a_cluster_that_waits_for_room_is_offline() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1)))
    hub.tick()
    assert hub.wakes[-1] == pytest.approx(hub.now + 60.0, abs=0.01)
    hub.tick(after_s=hub.wakes[-1] - hub.now, seen=False)
    assert hub.phase("c2") is M.OFFLINE


def test_a_wave_that_a_report_opens_asks_for_a_tick_at_once() -> None:
    """Who is silent in it is looked at then."""
    hub = Hub(rollout(wave("one", "c1"), wave("two", "c2", "c3", max_concurrent=1)))
    hub.tick()
    hub.report("c1")
    assert hub.wakes[-1] == hub.now
