"""What the agent makes of what the watches say."""

from typing import Any, Literal

import pytest

from agent.drift import drift
from agent.drift.observe import Observer
from agent.drift.waits import NO_STATUS_GRACE_S
from agent.inventory import Inventory
from agent.model import Entry, Resource, WatchEvent
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import BundlePolicy, HealthCheck, membership_labels

CONFIGS = Resource(group="", version="v1", kind="ConfigMap", plural="configmaps", namespaced=True)
WIDGETS = Resource(group="example.org", version="v1", kind="Widget", plural="widgets", namespaced=True)
KEY = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="a")
WIDGET = ObjectKey(group="example.org", kind="Widget", namespace="shop", name="a")
OURS = {"manager": "flotilla", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:x": {}}}}
THEIRS = {"manager": "kubectl-edit", "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:y": {}}}}


def live(version: int, *entries: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "a",
            "namespace": "shop",
            "uid": "u",
            "resourceVersion": str(version),
            "labels": membership_labels("shop"),
            "managedFields": list(entries) or [OURS],
            **metadata,
        }
    }


class World:
    """An observer and what it was told to tell."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wanted = {KEY, WIDGET}
        self.suspects: list[tuple[ObjectKey, WatchEvent]] = []
        self.gone: list[ObjectKey] = []
        self.changes = 0
        self.policy: BundlePolicy | None = None
        self.inventory = Inventory(None)
        self.observer = Observer(
            self.inventory,
            wanted=self.wanted.__contains__,
            suspect=lambda key, event: self.suspects.append((key, event)),
            unwanted_gone=self.gone.append,
            changed=self._changed,
            clock=lambda: self.now,
            policy=lambda bundle: self.policy,
        )

    def _changed(self) -> None:
        self.changes += 1

    def have(self, key: ObjectKey, obj: dict[str, Any]) -> Entry:
        entry = Entry(key=key, bundle="shop", api_version="v1", blob="1", baseline=drift.baseline(obj))
        self.inventory.put(entry)
        return entry

    def see(
        self,
        kind: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED", "RESTARTED"],
        obj: dict[str, Any] | None = None,
        resource: Resource = CONFIGS,
    ) -> None:
        self.observer.see(WatchEvent(kind=kind, resource=resource, object=obj or {}))


@pytest.fixture
def world() -> World:
    return World()


def test_an_event_of_our_own_write_gives_health_and_no_suspicion(world: World) -> None:
    entry = world.have(KEY, live(5))
    world.see("MODIFIED", live(5))
    assert entry.health is Health.CURRENT
    assert not world.suspects
    assert world.changes == 1


def test_a_change_of_another_is_a_suspicion_and_no_new_baseline(world: World) -> None:
    entry = world.have(KEY, live(5))
    world.see("MODIFIED", live(6, OURS, THEIRS))
    assert [key for key, _ in world.suspects] == [KEY]
    assert entry.baseline == drift.baseline(live(5))


def test_an_event_from_before_our_write_is_nothing(world: World) -> None:
    entry = world.have(KEY, live(5))
    world.observer.flight.begin(KEY)
    world.observer.flight.end(KEY, entry.baseline)
    world.see("MODIFIED", live(4, OURS, THEIRS))
    assert not world.suspects
    assert entry.baseline == drift.baseline(live(5))


def test_after_a_restored_etcd_lower_versions_are_looked_at(world: World) -> None:
    entry = world.have(KEY, live(5))
    world.observer.flight.begin(KEY)
    world.observer.flight.end(KEY, entry.baseline)
    world.see("RESTARTED")
    world.see("ADDED", live(4, OURS, THEIRS))
    assert [key for key, _ in world.suspects] == [KEY]


def test_events_wait_while_a_write_is_under_way(world: World) -> None:
    world.have(KEY, live(5))
    world.observer.flight.begin(KEY)
    world.see("MODIFIED", live(6, OURS, THEIRS))
    assert not world.suspects
    kept = world.observer.flight.end(KEY)
    assert kept is not None
    world.observer.judge(KEY, kept)
    assert len(world.suspects) == 1


def test_a_deletion_is_a_suspicion_if_git_wants_the_object(world: World) -> None:
    world.have(KEY, live(5))
    world.see("DELETED", live(6))
    assert world.suspects[0][1].kind == "DELETED"
    assert not world.gone


def test_a_deletion_of_what_git_does_not_want_is_looked_at_by_its_prune(world: World) -> None:
    world.have(KEY, live(5))
    world.wanted.discard(KEY)
    world.see("DELETED", live(6))
    assert world.gone == [KEY]
    assert not world.suspects


def test_what_could_not_be_applied_is_applied_again_once_it_is_gone(world: World) -> None:
    entry = world.have(KEY, live(5))
    entry.baseline = None
    world.see("DELETED", live(6))
    assert world.gone == [KEY]
    assert not world.suspects


def test_drift_of_what_is_to_be_pruned_is_no_suspicion(world: World) -> None:
    world.have(KEY, live(5))
    world.wanted.discard(KEY)
    world.see("MODIFIED", live(6, OURS, THEIRS))
    assert not world.suspects


def test_what_is_missing_from_the_initial_events_was_deleted_meanwhile(world: World) -> None:
    world.have(KEY, live(5))
    world.observer.opening(("", "ConfigMap"))
    world.see("SYNCED")
    ((key, event),) = world.suspects
    assert (key, event.kind) == (KEY, "DELETED")


@pytest.mark.parametrize("begin", ["opening", "RESTARTED"])
def test_what_is_among_the_initial_events_was_not(world: World, begin: str) -> None:
    world.have(KEY, live(5))
    if begin == "opening":
        world.observer.opening(("", "ConfigMap"))
    else:
        world.see("RESTARTED")
    world.see("ADDED", live(5))
    world.see("SYNCED")
    assert not world.suspects


def test_an_object_that_is_made_while_a_watch_opens_is_not_called_deleted(world: World) -> None:
    world.observer.opening(("", "ConfigMap"))
    world.have(KEY, live(5))
    world.see("SYNCED")
    assert not world.suspects


def test_an_object_of_ours_that_the_inventory_lost_is_found_again(world: World) -> None:
    world.observer.opening(("", "ConfigMap"))
    world.see("ADDED", live(5))
    assert world.inventory.entries[KEY].bundle == "shop"
    assert world.inventory.entries[KEY].baseline is None


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param(live(5, THEIRS), id="without our entry"),
        pytest.param(live(5, labels={"flotilla.dev/bundle": "shop"}), id="without our part-of label"),
        pytest.param(live(5, ownerReferences=[{"controller": True}]), id="a controller's"),
    ],
)
def test_what_is_not_surely_ours_is_not_found(world: World, obj: dict[str, Any]) -> None:
    world.observer.opening(("", "ConfigMap"))
    world.see("ADDED", obj)
    assert not world.inventory.entries


def test_after_the_initial_events_nothing_is_found_any_more(world: World) -> None:
    world.observer.opening(("", "ConfigMap"))
    world.see("SYNCED")
    world.see("ADDED", live(5))
    assert not world.inventory.entries


def test_a_custom_resource_without_status_is_current_only_after_a_grace_period(world: World) -> None:
    entry = world.have(WIDGET, live(5))
    world.see("MODIFIED", live(5), WIDGETS)
    assert str(entry.health) == "InProgress"
    assert world.observer.end_waits(seeing=True) == 100.0 + NO_STATUS_GRACE_S
    world.now += NO_STATUS_GRACE_S
    world.observer.end_waits(seeing=True)
    assert str(entry.health) == "Current"
    assert world.observer.end_waits(seeing=True) == float("inf")


def test_a_deleted_object_that_comes_back_where_drift_is_only_told_is_looked_at(world: World) -> None:
    entry = world.have(KEY, live(5))
    entry.baseline = None
    world.see("ADDED", live(9, THEIRS))
    assert [key for key, _ in world.suspects] == [KEY]


JOBS = Resource(group="batch", version="v1", kind="Job", plural="jobs", namespaced=True)
JOB = ObjectKey(group="batch", kind="Job", namespace="shop", name="a")


def job(version: int, *conditions: str, spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    status = {
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": one, "status": "True"} for one in conditions],
    }
    return {**live(version, generation=1, **metadata), "spec": spec or {}, "status": status}


GOING: dict[str, Any] = {"deletionTimestamp": "2026-01-01T00:00:09Z", "finalizers": ["foregroundDeletion"]}


@pytest.mark.parametrize(
    ("before", "last", "finished", "health"),
    [
        pytest.param([job(6, "Complete")], job(8, "Complete"), True, "Current", id="complete"),
        pytest.param(
            [job(6, "Complete"), job(7, "Complete", **GOING)], job(8, "Complete", **GOING), True, "Current", id="by TTL"
        ),
        pytest.param([], job(8, "Complete", **GOING), True, "Current", id="complete, and its last event says so"),
        pytest.param(
            [job(6, "Failed")],
            job(8, "Failed", spec={"ttlSecondsAfterFinished": 5}),
            True,
            "Failed",
            id="failed, by TTL",
        ),
        pytest.param([job(6, "Failed")], job(8, "Failed"), False, "Failed", id="failed, by a person who tries again"),
        pytest.param([job(6)], job(8), False, "Current", id="running"),
        pytest.param([], job(8, "Complete", uid="other"), False, "Unknown", id="somebody else's of the same name"),
    ],
)
def test_a_job_that_ran_to_its_end_may_go(
    world: World, before: list[dict[str, Any]], last: dict[str, Any], finished: bool, health: str
) -> None:
    world.wanted.add(JOB)
    entry = world.have(JOB, job(5))
    for obj in before:
        world.see("MODIFIED", obj, JOBS)
    world.see("DELETED", last, JOBS)
    assert (entry.finished, str(entry.health)) == (finished, health)
    assert (entry.baseline is None) is finished
    assert [key for key, _ in world.suspects] == ([] if finished else [JOB])


def test_another_apply_begins_a_job_anew(world: World) -> None:
    entry = world.have(JOB, job(5))
    world.see("MODIFIED", job(6, "Complete"), JOBS)
    assert entry.finished
    world.observer.applied(entry, {"apiVersion": "batch/v1", "kind": "Job", **job(7)})
    assert not entry.finished


def test_what_only_calls_itself_complete_is_still_missing_when_it_is_deleted(world: World) -> None:
    entry = world.have(WIDGET, live(5))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "JobComplete"}]}}
    world.see("MODIFIED", live(6) | ready, WIDGETS)
    world.see("DELETED", live(7) | ready, WIDGETS)
    assert not entry.finished
    assert world.suspects[-1][1].kind == "DELETED"


def started(version: int, **status: Any) -> dict[str, Any]:
    return live(version, generation=1) | {"spec": {}, "status": {"observedGeneration": 1, **status}}


NOT_READY = {"conditions": [{"type": "Ready", "status": "False", "message": "waits"}]}


def test_what_does_not_move_fails_after_the_bundles_timeout(world: World) -> None:
    world.policy = BundlePolicy(name="shop", timeout_s=60.0)
    entry = world.have(WIDGET, started(5))
    world.see("MODIFIED", started(6, **NOT_READY), WIDGETS)
    assert world.observer.end_waits(seeing=True) == 160.0
    world.now = 160.0
    changes = world.changes
    world.observer.end_waits(seeing=True)
    assert (str(entry.health), entry.reason, entry.message) == ("Failed", "Timeout", "has not moved for 1m: waits")
    assert world.changes == changes + 1
    world.see("MODIFIED", started(7, conditions=[{"type": "Ready", "status": "True"}]), WIDGETS)
    assert str(entry.health) == "Current"


def test_while_the_api_server_is_not_seen_nothing_times_out(world: World) -> None:
    world.policy = BundlePolicy(name="shop", timeout_s=60.0)
    entry = world.have(WIDGET, started(5))
    world.see("MODIFIED", started(6, **NOT_READY), WIDGETS)
    world.now = 170.0
    world.observer.end_waits(seeing=False)
    assert str(entry.health) == "InProgress"
    world.now = 220.0
    world.see("RESTARTED", None, WIDGETS)
    assert world.observer.end_waits(seeing=True) == 280.0


CHECK = HealthCheck(api_version="example.org/v1", kind="Widget", current="status.phase == 'Up'")


def test_a_bundles_health_check_judges_its_kind(world: World) -> None:
    world.policy = BundlePolicy(name="shop", health_checks=(CHECK,))
    entry = world.have(WIDGET, started(5))
    entry.api_version = "example.org/v1"
    world.see("MODIFIED", started(6, phase="Starting"), WIDGETS)
    assert (str(entry.health), entry.reason) == ("InProgress", "HealthCheck")
    world.see("MODIFIED", started(7, phase="Up"), WIDGETS)
    assert str(entry.health) == "Current"
    world.observer.applied(entry, {"apiVersion": "example.org/v1", "kind": "Widget", **started(8, phase="Down")})
    assert str(entry.health) == "InProgress"


def test_a_health_check_of_a_kind_without_status_is_asked_too(world: World) -> None:
    check = HealthCheck(api_version="v1", kind="ConfigMap", current="data.ready == 'yes'")
    world.policy = BundlePolicy(name="shop", health_checks=(check,))
    entry = world.have(KEY, live(5))
    world.see("MODIFIED", live(6) | {"data": {"ready": "no"}})
    assert str(entry.health) == "InProgress"
    world.see("MODIFIED", live(7) | {"data": {"ready": "yes"}})
    assert str(entry.health) == "Current"


def test_why_it_is_not_current_is_told_until_that_changes(world: World) -> None:
    entry = world.have(WIDGET, started(5))
    world.see("MODIFIED", started(6, **NOT_READY), WIDGETS)
    assert world.observer.troubled(after_s=30.0) == []
    world.now += 30.0
    assert world.observer.troubled(after_s=30.0) == [WIDGET]
    world.observer.explain(WIDGET, ("CrashLoopBackOff", "container app crashes"))
    assert (str(entry.health), entry.reason, entry.message) == (
        "InProgress",
        "CrashLoopBackOff",
        "container app crashes",
    )
    world.see("MODIFIED", started(7, conditions=[{"type": "Ready", "status": "True"}]), WIDGETS)
    assert (str(entry.health), entry.reason, entry.message) == ("Current", "", "")
    world.observer.explain(WIDGET, ("Late", "word"))
    assert str(entry.health) == "Current"


def test_a_deleted_object_that_comes_back_where_drift_is_only_told_has_its_health_again(world: World) -> None:
    entry = world.have(KEY, live(5))
    entry.baseline, entry.health = None, Health.NOT_FOUND
    world.see("ADDED", live(9, THEIRS))
    assert str(entry.health) == "Current"


def test_what_was_deleted_and_only_told_is_not_found_after_a_restart_either(world: World) -> None:
    entry = world.have(KEY, live(5))
    entry.baseline = None
    world.observer.opening(("", "ConfigMap"))
    world.see("SYNCED")
    assert (entry.health, entry.reason) == (Health.NOT_FOUND, "Deleted")
    assert not world.suspects


def test_what_is_being_pruned_does_not_time_out(world: World) -> None:
    world.policy = BundlePolicy(name="shop", timeout_s=60.0)
    entry = world.have(WIDGET, started(5))
    world.see("MODIFIED", started(6, **NOT_READY), WIDGETS)
    world.wanted.discard(WIDGET)
    entry.health, entry.reason = Health.TERMINATING, "Pruning"
    world.now += 100.0
    assert world.observer.end_waits(seeing=True) == float("inf")
    assert entry.health is Health.TERMINATING


def test_a_kind_whose_watch_does_not_begin_does_not_time_out(world: World) -> None:
    world.policy = BundlePolicy(name="shop", timeout_s=60.0)
    entry = world.have(WIDGET, started(5))
    world.observer.applied(entry, {"apiVersion": "example.org/v1", "kind": "Widget", **started(5, **NOT_READY)})
    world.observer.opening(("example.org", "Widget"))
    world.now += 100.0
    world.observer.end_waits(seeing=True)
    assert str(entry.health) == "InProgress"
    world.see("ADDED", started(5, **NOT_READY), WIDGETS)
    world.see("SYNCED", None, WIDGETS)
    world.now += 60.0
    world.observer.end_waits(seeing=True)
    assert entry.reason == "Timeout"
