"""What time makes of a state: grace without a status, a timeout without a move, reasons that were found out."""

import math
from typing import Any

import pytest

from agent.drift import waits
from agent.drift.waits import NO_STATUS_GRACE_S, Pace, Waits
from proto.health import NO_STATUS, Verdict
from proto.messages import Health
from proto.objects import ObjectKey

KEY = ObjectKey(group="apps", kind="StatefulSet", namespace="shop", name="db")
OTHER = ObjectKey(group="apps", kind="StatefulSet", namespace="shop", name="web")
ONE: Verdict = (Health.IN_PROGRESS, "LessReady", "1 of 3 replicas are ready")
TWO: Verdict = (Health.IN_PROGRESS, "LessReady", "2 of 3 replicas are ready")
CURRENT: Verdict = (Health.CURRENT, "", "")
NOTHING: Verdict = (Health.CURRENT, NO_STATUS, "has no status yet")
WHY = ("ImagePullBackOff", "3 of 3 Pods: image x is not there")


def patient(timeout_s: float = 600.0) -> Waits:
    return Waits(lambda key: timeout_s)


def over(kept: Waits, now: float) -> dict[ObjectKey, Verdict]:
    return dict(kept.due(now))


def test_what_does_not_move_for_its_timeout_failed() -> None:
    kept = patient()
    assert kept.take(KEY, ONE, now=0.0) == ONE
    assert kept.next_end(10.0) == 600.0
    assert not over(kept, 599.9)
    failed = (Health.FAILED, "Timeout", "has not moved for 10m: 1 of 3 replicas are ready")
    assert over(kept, 600.0) == {KEY: failed}
    assert kept.take(KEY, ONE, now=700.0) == failed
    assert kept.next_end(700.0) == math.inf


def test_each_move_gives_a_whole_timeout() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    kept.take(KEY, TWO, now=500.0)
    kept.take(KEY, TWO, now=900.0)
    assert kept.next_end(900.0) == 1100.0
    assert over(kept, 1100.0)[KEY][0] is Health.FAILED
    assert kept.take(KEY, ONE, now=1200.0) == ONE


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(CURRENT, id="current"),
        pytest.param((Health.TERMINATING, "Deleting", ""), id="terminating"),
        pytest.param((Health.NOT_FOUND, "Deleted", ""), id="deleted"),
        pytest.param((Health.UNKNOWN, "HealthCheck", "cannot be used"), id="unknown"),
    ],
)
def test_other_words_are_waited_for_without_end(found: Verdict) -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    assert kept.take(KEY, found, now=1.0) == found
    assert kept.next_end(1.0) == math.inf
    assert not over(kept, 1e9)
    assert kept.take(KEY, ONE, now=2000.0) == ONE


def test_what_failed_says_so_itself() -> None:
    kept = patient()
    failed: Verdict = (Health.FAILED, "JobFailed", "1 Pods failed")
    assert kept.take(KEY, failed, now=0.0) == failed
    assert not over(kept, 1e9)


def test_without_any_status_it_is_current_after_a_grace_period_that_events_do_not_prolong() -> None:
    kept = patient()
    assert kept.take(KEY, NOTHING, now=0.0)[0] is Health.IN_PROGRESS
    assert kept.take(KEY, NOTHING, now=8.0)[0] is Health.IN_PROGRESS
    assert kept.next_end(8.0) == NO_STATUS_GRACE_S
    assert over(kept, NO_STATUS_GRACE_S) == {KEY: NOTHING}
    assert kept.take(KEY, NOTHING, now=20.0) == NOTHING
    kept.begin(KEY)
    assert kept.take(KEY, NOTHING, now=30.0)[0] is Health.IN_PROGRESS


def test_an_apply_begins_all_waiting_anew() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    kept.begin(KEY)
    kept.take(KEY, ONE, now=400.0)
    assert kept.next_end(400.0) == 1000.0


def test_the_objects_own_deadline_comes_first() -> None:
    kept = patient(60.0)
    kept.take(KEY, ONE, now=0.0, pace=Pace(own_s=300.0))
    assert kept.next_end(0.0) == 300.0
    kept = patient(600.0)
    kept.take(KEY, ONE, now=0.0, pace=Pace(own_s=300.0))
    assert kept.next_end(0.0) == 600.0


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        pytest.param({"spec": {"progressDeadlineSeconds": 60}}, 90.0, id="a Deployment's"),
        pytest.param({"spec": {"progressDeadlineSeconds": 2**31 - 1}}, 0.0, id="one that means none"),
        pytest.param({"spec": {"progressDeadlineSeconds": "x"}}, 0.0, id="nonsense"),
        pytest.param({"spec": {}}, 0.0, id="none"),
        pytest.param({"spec": None}, 0.0, id="no spec"),
        pytest.param({}, 0.0, id="metadata alone"),
    ],
)
def test_own_deadlines(live: dict[str, Any], expected: float) -> None:
    assert waits.pace(live).own_s == expected


def test_time_in_which_nothing_is_seen_does_not_count() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    kept.take(OTHER, ONE, now=0.0)
    kept.hold(lambda key: key == KEY, now=500.0)
    assert over(kept, 700.0).keys() == {OTHER}
    kept.hold(lambda key: True, now=700.0)
    assert not over(kept, 1200.0)


def test_a_timeout_may_change_while_it_runs() -> None:
    timeout_s = {"is": 600.0}
    kept = Waits(lambda key: timeout_s["is"])
    kept.take(KEY, ONE, now=0.0)
    timeout_s["is"] = 30.0
    assert over(kept, 30.0)[KEY][0] is Health.FAILED


def test_reasons_stay_until_the_state_changes() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    assert kept.explain(KEY, WHY, now=40.0) == (Health.IN_PROGRESS, *WHY)
    assert kept.take(KEY, TWO, now=50.0) == (Health.IN_PROGRESS, *WHY)
    other: Verdict = (Health.FAILED, "ProgressDeadlineExceeded", "")
    assert kept.take(KEY, other, now=60.0) == other
    kept.explain(KEY, WHY, now=61.0)
    assert kept.take(KEY, other, now=62.0) == (Health.FAILED, *WHY)
    assert kept.explain(KEY, None, now=63.0) == other
    assert kept.take(KEY, CURRENT, now=64.0) == CURRENT
    assert kept.take(KEY, ONE, now=65.0) == ONE


def test_a_timeout_names_the_reason_that_was_found() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    kept.explain(KEY, WHY, now=40.0)
    assert over(kept, 600.0)[KEY] == (Health.FAILED, "Timeout", f"has not moved for 10m: {WHY[1]}")


def test_nothing_is_explained_that_is_not_waited_for() -> None:
    kept = patient()
    assert kept.explain(KEY, WHY, now=0.0) is None
    kept.take(KEY, NOTHING, now=0.0)
    assert kept.explain(KEY, WHY, now=1.0) is None


def test_troubled_is_what_failed_or_waits_for_long() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    kept.take(KEY, TWO, now=29.0)
    kept.take(OTHER, (Health.FAILED, "JobFailed", ""), now=29.0)
    assert kept.troubled(29.0, after_s=30.0) == [OTHER]
    assert kept.troubled(30.0, after_s=30.0) == [KEY, OTHER]


def test_what_is_not_wanted_any_more_is_forgotten() -> None:
    kept = patient()
    kept.take(KEY, ONE, now=0.0)
    kept.keep(lambda key: key == OTHER)
    assert kept.next_end(0.0) == math.inf


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "0.2s"), (1.0, "1s"), (90.0, "1m30s"), (600.0, "10m"), (3600.0, "1h"), (3661.0, "1h1m")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert waits.duration(seconds) == expected


def test_a_pod_that_fits_on_no_node_gets_time_to_be_scheduled() -> None:
    kept = patient()
    unschedulable: Verdict = (Health.FAILED, "PodUnschedulable", "0/3 nodes are available")
    early: Verdict = (Health.IN_PROGRESS, "PodNotScheduled", "0/3 nodes are available")
    assert kept.take(KEY, (Health.IN_PROGRESS, "PodPending", ""), now=0.0)[0] is Health.IN_PROGRESS
    assert kept.take(KEY, unschedulable, now=1.0) == early
    assert kept.next_end(1.0) == 15.0
    assert over(kept, 15.0) == {KEY: unschedulable}
    kept.explain(KEY, WHY, now=16.0)
    assert kept.take(KEY, unschedulable, now=17.0) == (Health.FAILED, *WHY)


@pytest.mark.parametrize(
    ("status", "stuck"),
    [
        pytest.param({"active": 2, "ready": 0}, True, id="no Pod comes up"),
        pytest.param({"active": 2, "ready": 1}, False, id="one runs"),
        pytest.param({"active": 2}, False, id="nothing is known of its Pods"),
        pytest.param({"succeeded": 1, "ready": 0}, False, id="complete"),
        pytest.param({}, False, id="new"),
    ],
)
def test_a_job_of_which_no_pod_comes_up_is_stuck(status: dict[str, Any], stuck: bool) -> None:
    assert waits.pace({"kind": "Job", "spec": {}, "status": status}).stuck is stuck
    assert not waits.pace({"kind": "Widget", "spec": {}, "status": status}).stuck


def test_a_job_that_is_stuck_stays_current_and_says_why() -> None:
    kept = patient()
    running: Verdict = (Health.CURRENT, "JobRunning", "is running: 1 active")
    assert kept.take(KEY, running, now=0.0, pace=Pace(stuck=True)) == running
    assert kept.troubled(29.0, after_s=30.0) == []
    assert kept.troubled(30.0, after_s=30.0) == [KEY]
    assert kept.explain(KEY, WHY, now=30.0) == (Health.CURRENT, "JobRunning", f"is running: 1 active; {WHY[1]}")
    assert kept.next_end(30.0) == math.inf
    assert not over(kept, 1e9)
    assert kept.take(KEY, running, now=40.0) == running
    assert kept.troubled(1e9, after_s=30.0) == []
