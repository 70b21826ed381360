"""Gates of a wave: what opens them, what does not, and what a gate that fails does (rules 15 to 17)."""

from dataclasses import replace
from typing import Any

import pytest

from hub.model import Approval, BundleDone, Gate, HttpCheck, MetricCheck
from hub.rollout import gates
from hub.rollout.transitions import IllegalEvent
from hub.state import Evidence, MemberPhase, Phase
from proto.ids import BundleName
from proto.messages import Health
from tests.rollout_hub import HEARTBEAT_S, Hub, kinds, moves, rollout, wave

M = MemberPhase
ERRORS = "rate(errors[5m])"


def word_gate(**changes: Any) -> Gate:
    return Gate(name="approval", approval=Approval(**changes))


def word_gate_in(timeout_s: float) -> Gate:
    return Gate(name="approval", approval=Approval(), timeout_s=timeout_s)


def metric_gate(*, for_s: float = 0.0, when: Any = "before", timeout_s: float = 0.0) -> Gate:
    check = MetricCheck(query=ERRORS, below=0.01, for_s=for_s, interval_s=30.0)
    return Gate(name="metric", metric=check, when=when, timeout_s=timeout_s)


def guarded(*found: Gate, **changes: Any) -> Hub:
    """A canary, then a wave behind (or before) these gates."""
    return Hub(rollout(wave("canary", "c1"), wave("eu", "c2", gates=found), **changes))


def at_the_gate(*found: Gate, **changes: Any) -> Hub:
    hub = guarded(*found, **changes)
    hub.tick()
    hub.report("c1")
    assert hub.phase("c2") is M.PENDING
    return hub


# --- approval ---


def test_a_wave_waits_for_a_persons_word_and_says_so() -> None:
    hub = guarded(word_gate())
    hub.tick()
    effects = hub.report("c1")
    assert "gate-waits" in kinds(effects)
    assert moves(effects) == []
    assert hub.state.reason == "wave eu waits at gate eu/approval: needs the word of a person"
    assert list(gates.awaits_people(hub.state)) == ["eu/approval"]
    effects = hub.say_to("approve")
    assert kinds(effects) == ["approved", "wave-opened"]
    assert moves(effects) == ["c2"]
    assert hub.state.gates["eu/approval"].votes[0].actor == "ann"


def test_two_words_of_one_person_are_one_and_of_two_people_two() -> None:
    hub = at_the_gate(word_gate(approvers=2))
    hub.say_to("approve", actor="ann")
    hub.say_to("approve", actor="ann")
    assert hub.phase("c2") is M.PENDING
    assert "approved by ann, 1 of 2" in hub.state.reason
    assert moves(hub.say_to("approve", actor="bob")) == ["c2"]


def test_a_word_expires_while_the_gate_is_shut_and_not_once_it_is_open() -> None:
    hub = at_the_gate(word_gate(approvers=2, expires_s=3600.0))
    hub.say_to("approve", actor="ann")
    assert 3600.0 < hub.wakes[-1] - hub.now < 3601.0
    hub.tick(after_s=3601.0)
    hub.say_to("approve", actor="bob")
    assert hub.phase("c2") is M.PENDING
    hub.say_to("approve", actor="ann")
    assert hub.phase("c2") is M.MOVING
    hub.tick(after_s=5.0)
    assert hub.state.wave_opened_at


def test_only_who_is_named_may_approve() -> None:
    hub = at_the_gate(word_gate(by=("bob",)))
    with pytest.raises(IllegalEvent, match="ann is not among those who may approve: bob"):
        hub.say_to("approve")
    assert moves(hub.say_to("approve", actor="bob")) == ["c2"]


@pytest.mark.parametrize(
    ("gate", "cause"),
    [
        pytest.param("", "waits at no gate for a person's word", id="any"),
        pytest.param("eu/approval", "has no gate eu/approval that waits", id="by name"),
    ],
)
def test_a_word_before_the_gates_turn_is_refused(gate: str, cause: str) -> None:
    hub = guarded(word_gate())
    hub.tick()
    with pytest.raises(IllegalEvent, match=cause):
        hub.say_to("approve", gate=gate)


def test_of_two_gates_that_wait_one_has_to_be_named() -> None:
    hub = at_the_gate(word_gate(), replace(word_gate(), name="security"))
    with pytest.raises(IllegalEvent, match="waits at 2 gates"):
        hub.say_to("approve")
    hub.say_to("approve", gate="security")
    assert moves(hub.say_to("approve", gate="eu/approval")) == ["c2"]


# --- checks ---


def test_a_check_opens_the_gate_once_it_was_good_for_so_long() -> None:
    hub = at_the_gate(metric_gate(for_s=60.0))
    assert list(gates.asked(hub.state)) == ["eu/metric"]
    hub.find("eu/metric", after_s=1.0)
    hub.find("eu/metric", after_s=30.0)
    assert hub.phase("c2") is M.PENDING
    assert moves(hub.find("eu/metric", after_s=30.0)) == ["c2"]
    assert gates.asked(hub.state) == {}


@pytest.mark.parametrize("between", [pytest.param("bad", id="bad"), pytest.param("error", id="not to be asked")])
def test_anything_but_good_begins_anew(between: Any) -> None:
    hub = at_the_gate(metric_gate(for_s=60.0))
    hub.find("eu/metric")
    hub.find("eu/metric", between, after_s=30.0)
    hub.find("eu/metric", after_s=30.0)
    hub.find("eu/metric", after_s=30.0)
    assert hub.phase("c2") is M.PENDING
    print(hub.state.gates, hub.now)
    x = hub.find("eu/metric", after_s=30.0)
    print(x, hub.state.reason, hub.state.gates)
    assert moves(x) == ["c2"]


def test_answers_too_far_apart_begin_anew() -> None:
    hub = at_the_gate(metric_gate(for_s=60.0))
    hub.find("eu/metric")
    hub.find("eu/metric", after_s=61.0)
    assert hub.phase("c2") is M.PENDING
    hub.find("eu/metric", after_s=60.0)
    assert hub.phase("c2") is M.MOVING


def test_evidence_from_before_the_last_proof_does_not_count() -> None:
    hub = guarded(metric_gate())
    hub.tick()
    asked_at = hub.now
    hub.report("c1", after_s=10.0)
    early = Evidence(gate="eu/metric", verdict="good", text="0", asked_at=asked_at)
    assert hub.tell(early) == []
    assert hub.phase("c2") is M.PENDING
    assert hub.tell(replace(early, asked_at=hub.now + 1000.0)) == [], "from the future"


def test_good_evidence_grows_old_while_another_gate_is_shut() -> None:
    hub = at_the_gate(metric_gate(), word_gate())
    hub.find("eu/metric")
    hub.tick(after_s=61.0)
    assert moves(hub.say_to("approve")) == []
    assert "gate eu/metric" in hub.state.reason
    assert moves(hub.find("eu/metric")) == ["c2"]


def test_what_a_gate_found_in_a_freeze_opens_no_wave_when_the_freeze_is_over() -> None:
    hub = at_the_gate(metric_gate())
    hub.frozen = "frozen by xmas"
    assert kinds(hub.find("eu/metric")) == []
    assert hub.state.reason == "wave eu waits to open; frozen by xmas"
    hub.find("eu/metric", "bad", after_s=30.0)
    hub.frozen = ""
    assert moves(hub.tick()) == []
    assert "waits at gate eu/metric" in hub.state.reason
    assert moves(hub.find("eu/metric", after_s=30.0)) == ["c2"]


def test_a_persons_word_in_a_freeze_counts_when_it_is_over() -> None:
    hub = at_the_gate(word_gate())
    hub.frozen = "frozen by xmas"
    assert kinds(hub.say_to("approve")) == ["approved"]
    hub.frozen = ""
    assert moves(hub.tick()) == ["c2"]


def test_a_check_that_cannot_be_asked_holds_the_wave_and_never_fails_it() -> None:
    hub = at_the_gate(metric_gate(timeout_s=100.0))
    for _ in range(10):
        assert "gate-failed" not in kinds(hub.find("eu/metric", "error", after_s=50.0))
        hub.tick(after_s=40.0)
    assert hub.whole() is Phase.RUNNING
    assert hub.state.reason == "wave eu waits at gate eu/metric: cannot be asked: it is error"
    assert kinds(hub.effects).count("gate-error") == 1


def test_a_gate_waits_since_the_rollout_came_to_it_also_while_it_cannot_be_asked() -> None:
    hub = at_the_gate(metric_gate(timeout_s=100.0))
    came_at = hub.now
    hub.find("eu/metric", "error", after_s=50.0)
    assert hub.state.gates["eu/metric"].since == came_at
    hub.find("eu/metric", "bad", after_s=90.0)
    assert hub.whole() is Phase.RUNNING, "only 90 of its 100 s could be asked on end"
    hub.find("eu/metric", "bad", after_s=11.0)
    assert hub.whole() is Phase.ROLLING_BACK


@pytest.mark.parametrize("gate", [metric_gate(timeout_s=100.0), word_gate_in(100.0)], ids=["check", "people"])
def test_time_in_which_the_hub_did_not_run_fails_no_gate(gate: Gate) -> None:
    hub = at_the_gate(gate)
    hub.now += 1000.0
    hub.settle_until = hub.now + 2 * HEARTBEAT_S
    hub.tick()
    assert hub.whole() is Phase.RUNNING
    hub.find("eu/metric", "bad", after_s=2 * HEARTBEAT_S + 90.0)
    hub.tick(after_s=10.0)
    assert hub.whole() is Phase.RUNNING
    assert hub.now < hub.wakes[-1] < hub.now + 1.0
    hub.tick(after_s=1.0)
    assert hub.whole() is Phase.ROLLING_BACK


def test_a_gate_that_cannot_be_asked_does_not_fail_before_its_next_turn_to_be() -> None:
    hub = at_the_gate(metric_gate(timeout_s=10.0))
    for _ in range(3):
        hub.find("eu/metric", "error")
        hub.tick(after_s=30.0)
        assert hub.whole() is Phase.RUNNING
    hub.find("eu/metric", "bad", after_s=1.0)
    assert hub.whole() is Phase.ROLLING_BACK


def test_time_in_which_it_was_paused_fails_no_gate() -> None:
    hub = at_the_gate(metric_gate(timeout_s=100.0))
    hub.say_to("pause")
    hub.now += 1000.0
    hub.see("c1", "c2")
    hub.say_to("resume")
    hub.find("eu/metric", "bad", after_s=99.0)
    assert hub.whole() is Phase.RUNNING
    hub.tick(after_s=2.0)
    assert hub.whole() is Phase.ROLLING_BACK


@pytest.mark.parametrize("verdict", ["good", "bad"])
def test_a_clock_that_was_set_back_keeps_no_gate_shut(verdict: Any) -> None:
    hub = at_the_gate(metric_gate(for_s=60.0))
    hub.find("eu/metric", verdict, after_s=30.0)
    hub.set_clock(-900.0)
    found = [moves(hub.find("eu/metric", after_s=30.0)) for _ in range(4)]
    assert ["c2"] in found


def test_a_word_grows_old_from_when_the_clock_was_set_back() -> None:
    hub = at_the_gate(word_gate(approvers=2, expires_s=100.0))
    hub.say_to("approve", actor="ann")
    hub.set_clock(-900.0)
    hub.tick(after_s=101.0)
    assert moves(hub.say_to("approve", actor="bob")) == []


def test_a_gate_that_does_not_pass_in_its_time_fails_the_rollout() -> None:
    hub = at_the_gate(metric_gate(timeout_s=100.0))
    hub.find("eu/metric", "bad", after_s=60.0)
    assert hub.wakes[-1] > hub.now
    effects = hub.tick(after_s=41.0)
    assert "gate-failed" in kinds(effects)
    assert hub.whole() is Phase.ROLLING_BACK
    assert moves(effects) == ["c1"]
    assert "not passed within 100 s: it is bad" in hub.state.reason


@pytest.mark.parametrize(
    ("action", "phase"),
    [
        pytest.param("rollback", Phase.ROLLING_BACK, id="rollback"),
        pytest.param("pause", Phase.PAUSED, id="pause"),
        pytest.param("continue", Phase.RUNNING, id="continue"),
    ],
)
def test_a_word_against_it_does_what_a_failure_does(action: Any, phase: Phase) -> None:
    hub = at_the_gate(word_gate(), action=action)
    effects = hub.say_to("reject", reason="the shop is full")
    assert {"rejected", "gate-failed"} <= set(kinds(effects))
    assert hub.whole() is phase
    assert (hub.phase("c2") is M.MOVING) is (action == "continue")


def test_after_a_pause_for_a_gate_it_is_asked_anew() -> None:
    hub = at_the_gate(metric_gate(timeout_s=100.0), action="pause")
    hub.tick(after_s=101.0)
    assert hub.whole() is Phase.PAUSED
    hub.say_to("resume")
    assert hub.whole() is Phase.RUNNING
    assert moves(hub.find("eu/metric", after_s=10.0)) == ["c2"]


@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(Gate(name="web", http=HttpCheck(url="http://localhost/ok")), id="http"),
        pytest.param(Gate(name="db", done=BundleDone(bundle=BundleName("db"), wave="eu")), id="another bundle"),
    ],
)
def test_gates_of_every_kind_are_asked_and_opened_by_evidence(gate: Gate) -> None:
    hub = at_the_gate(gate)
    assert gates.asked(hub.state) == {f"eu/{gate.name}": gate}
    hub.find(f"eu/{gate.name}", "bad")
    assert hub.phase("c2") is M.PENDING
    assert moves(hub.find(f"eu/{gate.name}")) == ["c2"]


def test_a_gate_after_a_wave_begins_when_the_wave_is_done_and_keeps_the_next_from_opening() -> None:
    hub = Hub(rollout(wave("one", "c1", "c2", gates=(metric_gate(when="after"),)), wave("two", "c3")))
    hub.tick()
    hub.report("c1")
    assert gates.asked(hub.state) == {}
    hub.report("c2")
    assert hub.phase("c3") is M.PENDING
    assert "wave one is done and waits at gate one/metric" in hub.state.reason
    assert moves(hub.find("one/metric")) == ["c3"]


def test_a_late_proof_makes_the_evidence_after_a_wave_old() -> None:
    gate = metric_gate(when="after", for_s=60.0)
    hub = Hub(rollout(wave("one", "c1", "c2", gates=(gate,), failure_budget=1, min_proof=1), wave("two", "c3")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    hub.report("c2")
    hub.find("one/metric")
    hub.find("one/metric", after_s=30.0)
    hub.report("c1", after_s=1.0)
    assert hub.phase("c1") is M.PROVEN
    hub.find("one/metric", after_s=29.0)
    assert hub.phase("c3") is M.PENDING
    hub.find("one/metric", after_s=30.0)
    assert hub.phase("c3") is M.PENDING
    assert moves(hub.find("one/metric", after_s=31.0)) == ["c3"]


def test_a_proof_that_comes_while_paused_makes_the_evidence_old_too() -> None:
    found = (metric_gate(when="after"), Gate(name="word", when="after", approval=Approval()))
    hub = Hub(rollout(wave("one", "c1", "c2", gates=found, failure_budget=1, min_proof=1), wave("two", "c3")))
    hub.tick()
    hub.report("c1", health=Health.FAILED)
    hub.report("c2")
    hub.find("one/metric")
    hub.say_to("pause")
    hub.report("c1", after_s=1.0)
    assert hub.phase("c1") is M.PROVEN
    hub.say_to("resume")
    hub.say_to("approve")
    assert hub.phase("c3") is M.PENDING
    assert moves(hub.find("one/metric", after_s=1.0)) == ["c3"]


def test_an_answer_that_comes_later_than_a_newer_one_does_not_count() -> None:
    hub = at_the_gate(metric_gate())
    asked_at = hub.now
    hub.find("eu/metric", "bad", after_s=20.0)
    hub.tell(Evidence(gate="eu/metric", verdict="good", text="it is good", asked_at=asked_at))
    assert hub.phase("c2") is M.PENDING
    assert moves(hub.find("eu/metric", after_s=10.0)) == ["c2"]


def test_of_answers_that_come_together_the_bad_one_counts_before_a_good_one_opens_the_wave() -> None:
    page = Gate(name="page", http=HttpCheck(url="http://shop.test"))
    hub = at_the_gate(metric_gate(), page)
    hub.find("eu/page", after_s=1.0)
    good = Evidence(gate="eu/metric", verdict="good", text="it is good", asked_at=hub.now)
    assert moves(hub.tell(good, Evidence(gate="eu/page", verdict="bad", text="500", asked_at=hub.now))) == []
    assert hub.phase("c2") is M.PENDING


def test_the_last_wave_s_gate_keeps_the_rollout_from_completing() -> None:
    hub = Hub(rollout(wave("one", "c1", gates=(metric_gate(when="after"),))))
    hub.tick()
    hub.report("c1")
    assert hub.whole() is Phase.RUNNING
    hub.find("one/metric")
    assert hub.whole() is Phase.COMPLETED


def test_while_paused_no_check_is_asked_and_no_word_counts() -> None:
    hub = at_the_gate(metric_gate(), word_gate())
    hub.say_to("pause")
    assert gates.asked(hub.state) == {}
    before = hub.state
    assert hub.find("eu/metric") == []
    assert hub.state is before
    with pytest.raises(IllegalEvent, match="is paused: cannot approve"):
        hub.say_to("approve")
