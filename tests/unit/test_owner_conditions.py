"""The status of an AppliedBundle, from what is reported of the bundle."""

from typing import Any

import pytest

from agent.owner.conditions import MAX_MESSAGE, Facts, status
from proto.messages import BundleReport, Health, ObjectProblem

NOW = "2026-01-01T10:00:00.123456Z"


def report(**changes: Any) -> BundleReport:
    fields: dict[str, Any] = {
        "subtree": "t",
        "health": Health.CURRENT,
        "converged": True,
        "counts": {"Current": 3},
    }
    return BundleReport(**(fields | changes))


def problem(health: Health, name: str = "web", message: str = "why") -> ObjectProblem:
    return ObjectProblem(object=f"Deployment/shop/{name}", health=health, reason="Because", message=message)


def made(of: BundleReport, before: dict[str, Any] | None = None, now: str = NOW) -> dict[str, Any]:
    return status(Facts(report=of, revision="abcdef0123456789", rollout="r1"), generation=2, before=before, now=now)


def words(of: BundleReport) -> dict[str, str]:
    return {one["type"]: f"{one['status']} {one['reason']}" for one in made(of)["conditions"]}


IN_PROGRESS = {"health": Health.IN_PROGRESS, "problems": (problem(Health.IN_PROGRESS),)}
FAILED = {"health": Health.FAILED, "problems": (problem(Health.FAILED),)}


@pytest.mark.parametrize(
    ("of", "ready", "reconciling", "stalled"),
    [
        pytest.param(report(), "True Current", "False Done", "False NotStalled", id="done"),
        pytest.param(report(counts={}), "True Current", "False Done", "False NotStalled", id="empty, and meant so"),
        pytest.param(report(converged=False), "False Pruning", "True Pruning", "False NotStalled", id="prune left"),
        pytest.param(
            report(converged=False, **IN_PROGRESS),
            "False Progressing",
            "True Progressing",
            "False NotStalled",
            id="under way",
        ),
        pytest.param(
            report(**IN_PROGRESS),
            "False Progressing",
            "True Progressing",
            "False NotStalled",
            id="applied, not Current",
        ),
        pytest.param(report(**FAILED), "False Failed", "False Stalled", "True Because", id="failed"),
        pytest.param(
            report(suspended="ada: why"), "True Current", "False Suspended", "False NotStalled", id="suspended and done"
        ),
        pytest.param(
            report(suspended="ada: why", converged=False, **IN_PROGRESS),
            "False Suspended",
            "False Suspended",
            "False NotStalled",
            id="suspended on its way",
        ),
        pytest.param(
            report(suspended="ada: why", **FAILED), "False Failed", "False Suspended", "True Because", id="and failed"
        ),
        pytest.param(
            report(subtree="", converged=False, health=Health.TERMINATING),
            "False Removing",
            "True Removing",
            "False NotStalled",
            id="left the slice",
        ),
    ],
)
def test_three_conditions_say_how_a_bundle_is(of: BundleReport, ready: str, reconciling: str, stalled: str) -> None:
    assert words(of) == {"Ready": ready, "Reconciling": reconciling, "Stalled": stalled}


def test_the_worst_object_is_named_and_the_others_counted() -> None:
    of = report(
        health=Health.FAILED,
        problems=(problem(Health.FAILED, "a"), problem(Health.FAILED, "b"), problem(Health.IN_PROGRESS, "c")),
    )
    assert made(of)["conditions"][0]["message"] == "Deployment/shop/a: why (and 1 more)"


def test_a_message_that_names_its_object_does_not_do_so_twice_and_none_is_long() -> None:
    of = report(**(FAILED | {"problems": (problem(Health.FAILED, message="Deployment/shop/web: " + "x" * 5000),)}))
    message = made(of)["conditions"][0]["message"]
    assert message.count("Deployment") == 1
    assert len(message) == MAX_MESSAGE


def test_counts_and_revision_are_there_and_no_object_list() -> None:
    found = made(report(counts={"Current": 2, "Failed": 1}))
    assert found["current"] == "2/3"
    assert found["counts"] == {
        "objects": 3,
        "current": 2,
        "inProgress": 0,
        "failed": 1,
        "terminating": 0,
        "notFound": 0,
        "unknown": 0,
    }
    assert (found["revision"], found["shortRevision"]) == ("abcdef0123456789", "abcdef012345")
    assert found["observedGeneration"] == 2


def test_the_time_of_a_transition_stays_while_the_status_does() -> None:
    first = made(report())
    assert {one["lastTransitionTime"] for one in first["conditions"]} == {"2026-01-01T10:00:00Z"}
    assert made(report(), before=first, now="2027-01-01T00:00:00Z") == first
    later = made(report(converged=False), before=first, now="2027-01-01T00:00:00Z")
    assert {one["type"]: one["lastTransitionTime"][:4] for one in later["conditions"]} == {
        "Ready": "2027",
        "Reconciling": "2027",
        "Stalled": "2026",
    }


@pytest.mark.parametrize(
    "before", [{}, {"conditions": None}, {"conditions": [{}]}, {"conditions": [{"type": "Ready"}]}]
)
def test_a_status_that_others_broke_is_written_anew(before: dict[str, Any]) -> None:
    assert made(report(), before=before) == made(report())
