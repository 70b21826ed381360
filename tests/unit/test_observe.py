"""What the agent makes of what the watches say."""

from typing import Any, Literal

import pytest

from agent.drift import drift
from agent.drift.observe import NO_STATUS_GRACE_S, Observer
from agent.inventory import Inventory
from agent.model import Entry, Resource, WatchEvent
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import membership_labels

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
        self.inventory = Inventory(None)
        self.observer = Observer(
            self.inventory,
            wanted=self.wanted.__contains__,
            suspect=lambda key, event: self.suspects.append((key, event)),
            unwanted_gone=self.gone.append,
            changed=self._changed,
            clock=lambda: self.now,
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
    assert world.observer.end_graces() == 100.0 + NO_STATUS_GRACE_S
    world.now += NO_STATUS_GRACE_S
    world.observer.end_graces()
    assert str(entry.health) == "Current"
    assert world.observer.end_graces() == float("inf")


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


GOING = {"deletionTimestamp": "2026-01-01T00:00:09Z", "finalizers": ["foregroundDeletion"]}


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
    world.observer.applied(entry, (Health.TERMINATING, "Deleting", ""))
    assert not entry.finished


def test_what_only_calls_itself_complete_is_still_missing_when_it_is_deleted(world: World) -> None:
    entry = world.have(WIDGET, live(5))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "JobComplete"}]}}
    world.see("MODIFIED", live(6) | ready, WIDGETS)
    world.see("DELETED", live(7) | ready, WIDGETS)
    assert not entry.finished
    assert world.suspects[-1][1].kind == "DELETED"
