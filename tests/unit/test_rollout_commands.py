"""What people may ask of a rollout beyond pause, resume, abort and skip: promote, skip-wave, retry, emergency; and what
holds clusters back (rules 2, 14, 17, 18)."""

from dataclasses import replace

import pytest

from hub.model import Approval, Gate
from hub.repo import windows
from hub.rollout.transitions import IllegalEvent
from hub.state import MarkGood, MemberPhase, Phase
from proto.ids import BundleName, ClusterName
from proto.messages import Health
from tests.rollout_hub import NEW, OLD, Hub, kinds, moves, of, rollout, wave, word

M = MemberPhase
SHUT = windows.parse("00:00-00:01 UTC", deny=False)
WORD = Gate(name="approval", approval=Approval())


# --- promote, skip-wave, retry ---


def test_promote_ends_the_soak_of_who_is_current_and_opens_the_gates_behind_it() -> None:
    hub = Hub(rollout(wave("canary", "c1", soak_s=3600.0, gates=(replace(WORD, when="after"),)), wave("eu", "c2")))
    hub.tick()
    hub.report("c1")
    effects = hub.say_to("promote")
    assert [good.cluster for good in of(MarkGood, effects)] == ["c1"]
    assert moves(effects) == ["c2"]
    assert hub.state.gates["canary/approval"].waived


def test_promote_opens_the_gates_before_a_wave() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("eu", "c2", gates=(WORD,))))
    hub.tick()
    hub.report("c1")
    assert moves(hub.say_to("promote")) == ["c2"]


def test_promote_takes_nobody_for_good_who_still_moves() -> None:
    hub = Hub(rollout(wave("canary", "c1", "c2", soak_s=60.0), wave("eu", "c3")))
    hub.tick()
    with pytest.raises(IllegalEvent, match="waits for no gate and no soak"):
        hub.say_to("promote")
    hub.report("c1")
    hub.say_to("promote")
    assert [hub.phase(name) for name in ("c1", "c2", "c3")] == [M.PROVEN, M.MOVING, M.PENDING]


def test_skip_wave_leaves_out_who_is_not_proven_and_goes_on() -> None:
    hub = Hub(rollout(wave("canary", "c1", "c2", gates=(replace(WORD, when="after"),)), wave("eu", "c3")))
    hub.tick()
    hub.report("c1")
    effects = hub.say_to("skip-wave", reason="the shop burnt down")
    assert [hub.phase(name) for name in ("c1", "c2", "c3")] == [M.PROVEN, M.LEFT, M.MOVING]
    assert hub.member("c2").skipped
    assert "wave-skipped" in kinds(effects)
    hub.report("c3")
    assert hub.whole() is Phase.COMPLETED


def test_retry_gives_the_failed_their_deadline_anew_as_far_as_there_is_room() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_concurrent=2), wave("two", "c4"), action="pause"))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    hub.report("c2", health=Health.FAILED)
    assert hub.whole() is Phase.PAUSED
    effects = hub.say_to("retry")
    assert moves(effects) == [], "they run it already"
    assert [hub.phase(name) for name in ("c1", "c2", "c3")] == [M.MOVING, M.MOVING, M.PENDING]
    assert hub.whole() is Phase.RUNNING
    assert moves(hub.report("c1")) == ["c3"]
    hub.tick(after_s=599.0)
    assert hub.phase("c2") is M.MOVING
    hub.tick(after_s=2.0)
    assert hub.phase("c2") is M.FAILED


def test_who_is_tried_again_has_its_whole_deadline_anew() -> None:
    hub = Hub(rollout(wave("one", "c1"), action="pause", deadline_s=600.0))
    hub.tick()
    hub.report("c1", NEW, Health.FAILED, after_s=500.0)
    assert hub.whole() is Phase.PAUSED
    hub.say_to("retry")
    hub.tick(after_s=590.0)
    assert hub.phase("c1") is M.MOVING
    hub.tick(after_s=20.0)
    assert hub.phase("c1") is M.FAILED


def test_retry_of_a_rollout_in_which_nothing_failed_is_refused() -> None:
    hub = Hub(rollout(wave("one", "c1")))
    hub.tick()
    with pytest.raises(IllegalEvent, match="has no failed cluster and no failed gate"):
        hub.say_to("retry")


# --- emergency ---


def test_an_emergency_goes_to_all_at_once_through_gates_windows_and_freezes() -> None:
    hub = Hub(
        rollout(
            wave("canary", "c1", soak_s=3600.0),
            wave("eu", "c2", "c3", max_concurrent=1, gates=(WORD,)),
            windows=(SHUT,),
        )
    )
    hub.frozen = "frozen by holidays"
    assert moves(hub.tick()) == []
    effects = hub.say_to("emergency", reason="the old one leaks keys")
    assert moves(effects) == ["c1", "c2", "c3"]
    assert "emergency" in kinds(effects)
    hub.report("c1")
    hub.report("c2", health=Health.FAILED)
    assert hub.whole() is Phase.RUNNING, "what leaks is not brought back by itself"
    hub.report("c3")
    assert hub.whole() is Phase.COMPLETED
    assert hub.phase("c1") is M.PROVEN


def test_an_emergency_respects_a_cordon_and_brings_who_comes_back() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3")))
    cordon(hub, "c2")
    hub.view[ClusterName("c3")] = replace(hub.view[ClusterName("c3")], last_seen=0.0)
    assert moves(hub.say_to("emergency")) == ["c1"]
    hub.see("c3")
    assert moves(hub.report("c3", OLD)) == ["c3"]
    assert hub.phase("c2") is M.OFFLINE


# --- what holds ---


def cordon(hub: Hub, name: str, why: str = "ann: disks") -> None:
    hub.view[ClusterName(name)] = replace(hub.view[ClusterName(name)], cordoned=why)


def test_a_cordoned_cluster_gets_nothing_until_it_is_let_back() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", offline_budget=1), wave("two", "c3")))
    cordon(hub, "c2")
    assert moves(hub.tick()) == ["c1"]
    assert (hub.phase("c2"), hub.member("c2").reason) == (M.OFFLINE, "cordoned: ann: disks")
    assert moves(hub.report("c1")) == ["c3"]
    hub.report("c2", OLD)
    assert hub.phase("c2") is M.OFFLINE
    cordon(hub, "c2", "")
    assert moves(hub.tick(after_s=1.0)) == ["c2"]


def test_a_cordoned_canary_is_no_proof() -> None:
    hub = Hub(rollout(wave("canary", "c1"), wave("eu", "c2")))
    cordon(hub, "c1")
    hub.tick()
    assert hub.phase("c2") is M.PENDING
    assert hub.state.reason == "wave canary waits for c1: cordoned, the budget is 0"


def test_in_a_freeze_nothing_starts_and_what_is_under_way_goes_on() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_concurrent=1), wave("two", "c3")))
    hub.tick()
    hub.frozen = "frozen by holidays"
    assert moves(hub.report("c1")) == []
    assert hub.phase("c1") is M.PROVEN
    assert "frozen by holidays" in hub.state.reason
    assert hub.wakes[-1] <= hub.now + 5.0
    hub.frozen = ""
    assert moves(hub.tick(after_s=1.0)) == ["c2"]


def test_a_rollback_waits_for_no_freeze_and_no_window() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2")))
    hub.tick()
    hub.frozen = "frozen by holidays"
    assert moves(hub.report("c1", health=Health.FAILED)) == ["c1", "c2"]


def test_outside_its_windows_nothing_starts_and_the_tick_is_asked_for_when_they_open() -> None:
    hub = Hub(rollout(wave("one", "c1"), windows=(SHUT,), offline_after_s=7 * 86400.0))
    assert moves(hub.tick()) == []
    assert hub.state.reason == "wave one waits for c1 (pending); moves only 00:00-00:01 UTC"
    opens = hub.wakes[-1]
    assert opens % 86400 == 0
    assert moves(hub.tick(after_s=opens - hub.now)) == ["c1"]


def test_who_is_held_waits_without_a_clock_and_the_others_go_on() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_concurrent=1)))
    hub.held = {"c1": "blocked: bundle db goes first there"}
    assert moves(hub.tick()) == ["c2"]
    assert "c1 (blocked: bundle db goes first there)" in hub.state.reason
    assert moves(hub.report("c2")) == ["c3"]
    assert moves(hub.report("c3", after_s=500.0)) == []
    hub.tick(after_s=10_000.0)
    assert (hub.phase("c1"), hub.whole()) == (M.PENDING, Phase.RUNNING)
    hub.held = {}
    assert moves(hub.tick(after_s=5.0)) == ["c1"]


@pytest.mark.parametrize(
    ("how", "moved"),
    [
        pytest.param("sick", ["c1", "c4"], id="where it is sick already nobody loses by a move, which may mend it"),
        pytest.param("busy", ["c1"], id="in flight in another rollout, perhaps only until this very turn"),
        pytest.param("silent", ["c1"], id="silent"),
    ],
)
def test_no_move_starts_while_too_many_of_the_wave_are_unavailable(how: str, moved: list[str]) -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", "c4", max_unavailable=2)))
    c4 = ClusterName("c4")
    if how == "sick":
        hub.view[c4] = replace(
            hub.view[c4], bundles={**hub.view[c4].bundles, BundleName("till"): word(OLD, Health.FAILED)}
        )
    elif how == "busy":
        hub.busy = {"c4"}
    else:
        hub.view[c4] = replace(hub.view[c4], last_seen=0.0)
    assert moves(hub.tick(seen=False)) == moved
    assert hub.phase("c2") is M.PENDING
    assert "its limit of 2 unavailable clusters is reached" in hub.state.reason
    assert moves(hub.report("c1"))[:1] == ["c2"]


def test_a_cluster_in_flight_elsewhere_needs_the_room_of_maxunavailable_like_any_other() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", max_unavailable=1)))
    hub.busy = {"c1"}
    assert moves(hub.tick()) == []
    hub.busy = set()
    assert moves(hub.tick()) == ["c1"]


def test_who_is_offline_within_the_budget_for_that_leaves_the_others_the_unavailability_they_may_cause() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_unavailable=1, offline_budget=1)))
    hub.view[ClusterName("c3")] = replace(hub.view[ClusterName("c3")], last_seen=0.0)
    assert moves(hub.tick(seen=False)) == ["c1"]
    assert hub.phase("c3") is M.OFFLINE
    hub.view[ClusterName("c2")] = replace(hub.view[ClusterName("c2")], last_seen=0.0)
    hub.report("c1")
    hub.tick(seen=False)
    assert "the budget is 1" in hub.state.reason


def test_who_is_cordoned_and_was_not_heard_yet_since_the_hub_started_is_not_taken_for_offline_by_silence() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_unavailable=1, offline_budget=1)))
    cordon(hub, "c3")
    hub.view[ClusterName("c3")] = replace(hub.view[ClusterName("c3")], last_seen=0.0)
    hub.settle_until = hub.now + 20
    assert moves(hub.tick(seen=False)) == []
    hub.settle_until = hub.now - 1000
    assert moves(hub.tick(seen=False)) == ["c1"]


def test_a_fix_passes_the_limit_where_the_bundle_is_sick_and_only_if_the_policy_says_so() -> None:
    for fixes, moved in (("wait", ["c1"]), ("jump", ["c1", "c3"])):
        hub = Hub(rollout(wave("one", "c1", "c2", "c3", max_concurrent=1), fixes=fixes))
        hub.say(ClusterName("c3"), word(OLD, Health.FAILED), seq=7)
        assert moves(hub.tick()) == moved
        assert hub.phase("c2") is M.PENDING


def test_failures_of_all_waves_together_have_a_budget_too() -> None:
    hub = Hub(
        rollout(
            wave("one", "c1", "c2", failure_budget=1, min_proof=1),
            wave("two", "c3", "c4", failure_budget=1, min_proof=1),
            failure_total=1,
        )
    )
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    hub.report("c2")
    assert hub.whole() is Phase.RUNNING
    hub.report("c3", NEW, Health.FAILED)
    assert hub.whole() is Phase.ROLLING_BACK
