"""What the hub is told of a bundle."""

from dataclasses import replace

import pytest

from agent.apply.plan import BundlePlan, Failure
from agent.apply.removal import Problem
from agent.model import Baseline, DesiredBundle, Entry
from agent.status import bundle_report
from proto.ids import Oid
from proto.messages import BundleReport, Health
from proto.objects import ObjectKey
from proto.slices import BundlePolicy

WRITTEN = Baseline(uid="u", resource_version="1", generation=1, managed=1, own=1, status=1)
A = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="a")
B = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="b")
OLD = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="old")
BUNDLE = DesiredBundle(
    name="shop",
    subtree=Oid("s"),
    rollout="shop-1",
    revision="r",
    policy=BundlePolicy(name="shop"),
    objects={A: Oid("1"), B: Oid("1")},
)


def entry(key: ObjectKey, health: Health = Health.CURRENT, *, blob: str = "1") -> Entry:
    return Entry(key=key, bundle="shop", api_version="v1", blob=blob, baseline=WRITTEN, health=health, reason="Why")


def report(
    plan: BundlePlan,
    *entries: Entry,
    bundle: DesiredBundle | None = BUNDLE,
    failures: dict[ObjectKey, Failure] | None = None,
    before: BundleReport | None = None,
) -> BundleReport:
    return bundle_report(
        plan, bundle, {one.key: one for one in entries}, failures=failures or {}, before=before, now="now"
    )


DONE = BundlePlan(bundle="shop", complete=True, converged=True)


def test_a_bundle_that_is_done_and_healthy_is_a_proof() -> None:
    found = report(DONE, entry(A), entry(B))
    assert (found.subtree, found.health, found.converged) == ("s", "Current", True)
    assert found.counts == {"Current": 2}
    assert found.problems == ()


@pytest.mark.parametrize("health", [Health.FAILED, Health.IN_PROGRESS, Health.TERMINATING, Health.NOT_FOUND])
def test_the_worst_object_is_the_health_and_is_named(health: Health) -> None:
    found = report(DONE, entry(A), entry(B, health))
    assert found.health is health
    assert [(problem.object, problem.health, problem.reason) for problem in found.problems] == [
        ("Deployment/shop/b", health, "Why")
    ]


@pytest.mark.parametrize(
    ("plan", "failure", "health", "reason", "message"),
    [
        pytest.param(
            BundlePlan(bundle="shop", stopped={B: "a circle"}), None, "Failed", "Stopped", "a circle", id="stopped"
        ),
        pytest.param(
            BundlePlan(bundle="shop"),
            Failure(blob="1", error="forbidden", not_before=0.0, permanent=True),
            "Failed",
            "ApplyFailed",
            "forbidden",
            id="refused",
        ),
        pytest.param(
            BundlePlan(bundle="shop"),
            Failure(blob="1", error="busy", not_before=0.0),
            "InProgress",
            "ApplyFailed",
            "busy",
            id="not yet accepted",
        ),
        pytest.param(
            BundlePlan(bundle="shop"),
            Failure(blob="0", error="forbidden", not_before=0.0, permanent=True),
            "InProgress",
            "NotApplied",
            "",
            id="what was refused is not wanted any more",
        ),
        pytest.param(
            BundlePlan(bundle="shop", waiting={B: "waits for a"}),
            None,
            "InProgress",
            "Waiting",
            "waits for a",
            id="waiting",
        ),
        pytest.param(
            BundlePlan(bundle="shop", blocked="waits for bundle base"),
            None,
            "InProgress",
            "Waiting",
            "waits for bundle base",
            id="blocked",
        ),
    ],
)
def test_an_object_that_is_not_applied_says_why(
    plan: BundlePlan, failure: Failure | None, health: str, reason: str, message: str
) -> None:
    plan = replace(plan, unapplied=frozenset({B}))
    found = report(plan, entry(A), entry(B, blob="0"), failures={B: failure} if failure else None)
    (problem,) = found.problems
    assert (problem.object, problem.health, problem.reason, problem.message) == (
        "Deployment/shop/b",
        health,
        reason,
        message,
    )
    assert found.health == health
    assert not found.converged


def test_a_bundle_that_left_is_reported_as_absent() -> None:
    found = report(DONE, bundle=None)
    assert (found.subtree, found.health, found.converged) == ("", "Current", True)


def test_what_holds_a_prune_up_is_named() -> None:
    failures = {OLD: Failure(blob="", error="waits for finalizers x", not_before=0.0)}
    plan = BundlePlan(bundle="shop", complete=True, surplus=(OLD,))
    found = report(plan, entry(A), entry(B), entry(OLD), failures=failures)
    assert [(problem.object, problem.health, problem.message) for problem in found.problems] == [
        ("ConfigMap/shop/old", "Terminating", "waits for finalizers x")
    ]


def test_since_is_kept_until_health_subtree_or_convergence_change() -> None:
    first = report(DONE, entry(A), entry(B))
    assert first.since == "now"
    kept = BundleReport(subtree="s", health=Health.CURRENT, converged=True, since="then")
    assert report(DONE, entry(A), entry(B), before=kept).since == "then"
    assert report(DONE, entry(A), entry(B, Health.FAILED), before=kept).since == "now"


def test_failed_objects_come_first_in_the_list() -> None:
    found = report(DONE, entry(A, Health.IN_PROGRESS), entry(B, Health.FAILED))
    assert [problem.health for problem in found.problems] == ["Failed", "InProgress"]


def test_something_that_keeps_the_bundle_from_being_pruned_is_a_failure() -> None:
    plan = BundlePlan(bundle="shop", complete=True, surplus=(OLD,), kept=Problem(reason="Empty", message="is empty"))
    found = report(plan, entry(A), entry(B), entry(OLD))
    assert (found.health, found.converged) == ("Failed", False)
    assert [(one.object, one.health, one.reason, one.message) for one in found.problems] == [
        ("AppliedBundle/shop", "Failed", "Empty", "is empty")
    ]


def test_what_must_not_be_pruned_is_named() -> None:
    plan = BundlePlan(bundle="shop", complete=True, surplus=(OLD,), stopped={OLD: "is forbidden"})
    (problem,) = report(plan, entry(A), entry(B), entry(OLD)).problems
    assert (problem.object, problem.health, problem.message) == ("ConfigMap/shop/old", "Failed", "is forbidden")


def test_a_suspended_bundle_says_so_and_what_is_not_applied_is_waiting() -> None:
    plan = BundlePlan(bundle="shop", unapplied=frozenset({B}), suspended="Ada: looks at it")
    found = report(plan, entry(A), entry(B, blob="0"))
    assert found.suspended == "Ada: looks at it"
    (problem,) = found.problems
    assert (problem.object, problem.health, problem.reason) == ("Deployment/shop/b", "InProgress", "Suspended")


JOB = ObjectKey(group="batch", kind="Job", namespace="shop", name="migrate")
WITH_HOOK = replace(BUNDLE, objects={JOB: Oid("1")})
UNFINISHED = BundlePlan(bundle="shop", complete=True, unfinished=frozenset({JOB}))


@pytest.mark.parametrize(
    ("reason", "finished", "health", "told"),
    [
        pytest.param("JobRunning", False, "InProgress", "has not succeeded yet", id="it runs"),
        pytest.param("", False, "InProgress", "has not succeeded yet", id="a Pod that is ready"),
        pytest.param("PodFailed", False, "Failed", "has not succeeded yet", id="a Pod that failed"),
        pytest.param("JobComplete", True, "InProgress", "has succeeded and is being deleted", id="it is to go"),
    ],
)
def test_a_hook_is_not_current_before_its_end(reason: str, finished: bool, health: str, told: str) -> None:
    hook = replace(entry(JOB), reason=reason, finished=finished)
    (problem,) = report(UNFINISHED, hook, bundle=WITH_HOOK).problems
    assert (problem.object, problem.health, problem.message) == ("Job/shop/migrate", health, told)


def test_what_holds_the_deletion_of_a_hook_up_is_named() -> None:
    failures = {JOB: Failure(blob="", error="forbidden", not_before=0.0)}
    hook = replace(entry(JOB), finished=True)
    (problem,) = report(UNFINISHED, hook, bundle=WITH_HOOK, failures=failures).problems
    assert problem.message == "forbidden"


def test_a_finished_hook_that_is_gone_is_current_and_one_that_is_left_out_does_not_count() -> None:
    hook = replace(entry(JOB), finished=True, baseline=None)
    assert report(DONE, hook, bundle=WITH_HOOK).counts == {"Current": 1}
    left_out = replace(DONE, left_out=frozenset({JOB}))
    assert report(left_out, bundle=WITH_HOOK).counts == {}
