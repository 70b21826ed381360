"""What the cluster's owner says and sees with kubectl alone, with a whole agent on an API server: the guard ConfigMap,
suspend, sync and pause, the status of AppliedBundles, Events.
"""

import datetime
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.apply.parents import CLUSTER_ANNOTATION
from agent.kube.cluster import Cluster
from agent.owner import events, limits, statuses
from agent.owner.directives import SUSPEND, SYNC
from agent.owner.pauses import PAUSE
from proto.messages import Directives
from tests.agents import Agent, agent
from tests.kube import Kube
from tests.slices import SliceMaker

PARENT = "/apis/flotilla.dev/v1alpha1/appliedbundles/shop"
GUARD = f"/api/v1/namespaces/{limits.NAMESPACE}/configmaps/{limits.NAME}"


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"o-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.call("DELETE", GUARD)
    kube.call("DELETE", PARENT)
    kube.remove(name)


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


def config(namespace: str, name: str = "settings", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def secret(namespace: str) -> dict[str, Any]:
    metadata = {"name": "key", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": "czNjcjN0"}}


def path(namespace: str, name: str = "settings") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def data(kube: Kube, namespace: str, name: str = "settings") -> Any:
    status, found = kube.call("GET", path(namespace, name))
    return found.get("data") if status == 200 else None


def settings(kube: Kube, namespace: str) -> list[Any]:
    """The data of all ConfigMaps of ours in the namespace, in one request."""
    items = kube.must("GET", path(namespace, "").rstrip("/") + "?labelSelector=flotilla.dev/bundle")["items"]
    return [item.get("data") for item in items]


def guard(kube: Kube, **values: str) -> None:
    """The owner writes the guard ConfigMap, whole."""
    kube.call("DELETE", GUARD)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": limits.NAMESPACE}}
    kube.call("POST", "/api/v1/namespaces", body)
    kube.must("POST", GUARD.rpartition("/")[0], config(limits.NAMESPACE, limits.NAME, **values))


def annotate(kube: Kube, where: str, **annotations: str | None) -> None:
    kube.edit(where, {"metadata": {"annotations": annotations}}, manager="kubectl-annotate")


def conditions(kube: Kube) -> dict[str, tuple[str, str]]:
    """(status, reason) of each condition of the bundle's parent."""
    status, parent = kube.call("GET", PARENT)
    found = (parent.get("status") or {}).get("conditions") or () if status == 200 else ()
    return {one["type"]: (one["status"], one["reason"]) for one in found}


def written(kube: Kube) -> dict[str, dict[str, Any]]:
    """The Events by our agent, by uid."""
    items = kube.must("GET", "/apis/events.k8s.io/v1/events")["items"]
    return {item["metadata"]["uid"]: item for item in items if item.get("reportingController") == events.CONTROLLER}


def told(kube: Kube, reason: str) -> list[dict[str, Any]]:
    """The Events of this reason, by our agent."""
    return [item for item in written(kube).values() if item["reason"] == reason]


async def until(check: Callable[[], object], *, what: str = "the condition", timeout_s: float = 60.0) -> None:
    """Returns once `check` is true. It may ask the API server, which blocks the agent: so seldom."""
    with anyio.move_on_after(timeout_s):
        while not check():  # noqa: ASYNC110
            await anyio.sleep(0.05)
        return
    raise AssertionError(f"{what} did not come about within {timeout_s:.0f} s")


def in_an_hour() -> str:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat(timespec="seconds")


async def settled(one: Agent) -> None:
    """Whatever was on its way when this is called was seen by the agent: a full pass over everything is done."""
    done = sum(1 for _ in one.told.drift)
    with anyio.move_on_after(1.0):
        await until(lambda: len(one.told.drift) != done)


# --- conditions ------------------------------------------------------------------------------------------------------


async def test_a_bundle_becomes_ready_and_kubectl_shows_what_runs(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = SliceMaker()
    wake = maker.next({"shop": [config(namespace, color="red"), config(namespace, "more", size="1")]})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        status = kube.must("GET", PARENT)["status"]
        assert conditions(kube)["Reconciling"][0] == "False"
        assert conditions(kube)["Stalled"][0] == "False"
        assert status["current"] == "2/2"
        assert status["counts"] | {"objects": 2, "current": 2, "failed": 0} == status["counts"]
        assert (status["revision"], status["shortRevision"]) == ("r" * 40, "r" * 12)
        assert status["subtree"] == maker.subtrees["shop"]
        assert status["observedGeneration"] == kube.must("GET", PARENT)["metadata"]["generation"]
        writes = cluster.requests["status"]
        version = kube.must("GET", PARENT)["metadata"]["resourceVersion"]
    monkeypatch.setattr(statuses, "SETTLE_S", 2.0)  # for a machine that is slow to open its watches
    async with agent(cluster, tmp_path) as again:
        await until(lambda: again.converged(wake, "shop"))
        kube.edit(path(namespace), {"data": {"color": "blue"}})
        await until(lambda: data(kube, namespace) == {"color": "red"}, what="the revert")
        await until(lambda: not again.loop._owner._statuses._due, what="a look at the status")
        assert cluster.requests["status"] == writes, "a restart and a revert say nothing new"
        assert kube.must("GET", PARENT)["metadata"]["resourceVersion"] == version


async def test_kubectl_get_shows_columns(cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path) -> None:
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
    definition = kube.must("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/appliedbundles.flotilla.dev")
    [version] = definition["spec"]["versions"]
    assert [column["name"] for column in version["additionalPrinterColumns"]][:4] == [
        "Ready",
        "Reason",
        "Objects",
        "Revision",
    ]
    assert version["subresources"] == {"status": {}}


async def test_a_refused_object_stalls_the_bundle_and_is_named(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    bad = config(namespace, "bad", owner="somebody else")
    kube.must("POST", path(namespace, "").rstrip("/"), bad)
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red"), bad]}, shop={"adopt": "never"}))
        await until(lambda: conditions(kube).get("Stalled", ("",))[0] == "True", what="Stalled")
        assert conditions(kube)["Ready"] == ("False", "Failed")
        assert conditions(kube)["Reconciling"][0] == "False"
        [stalled] = [one for one in kube.must("GET", PARENT)["status"]["conditions"] if one["type"] == "Stalled"]
        assert f"ConfigMap/{namespace}/bad" in stalled["message"]
        named = f"ConfigMap/{namespace}/bad"  # the events of other tests on this server are there, too
        await until(lambda: any(named in event["note"] for event in told(kube, "Failed")), what="an event")
        good = maker.next({"shop": [config(namespace, color="red")]})
        one.deliver(good)
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready again")


async def test_many_changes_of_health_are_few_writes(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    before, began = cluster.requests["status"], anyio.current_time()
    async with agent(cluster, tmp_path) as one:
        wake = SliceMaker().next({"shop": [config(namespace, f"c{number}", n="1") for number in range(150)]})
        one.deliver(wake)
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready", timeout_s=60)
    assert cluster.requests["status"] - before <= 1 + (anyio.current_time() - began) / statuses.LEAST_S


async def test_a_parent_that_somebody_deletes_comes_back_with_its_status(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        uid = kube.must("GET", PARENT)["metadata"]["uid"]
        kube.must("DELETE", PARENT)
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready again")
        assert kube.must("GET", PARENT)["metadata"]["uid"] != uid


async def test_the_parent_of_another_installation_is_left_alone(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        annotate(kube, PARENT, **{CLUSTER_ANNOTATION: "us-9"})
        await until(lambda: "us-9" in one.told.bundles["shop"].suspended, what="suspension")
        assert "remove the annotation" in one.told.bundles["shop"].suspended
        version = kube.must("GET", PARENT)["metadata"]["resourceVersion"]
        one.deliver(maker.next({"shop": [config(namespace, color="blue")]}))
        await until(lambda: one.told.bundles["shop"].subtree == maker.subtrees["shop"], what="the slice")
        assert data(kube, namespace) == {"color": "red"}
        assert kube.must("GET", PARENT)["metadata"]["resourceVersion"] == version
        annotate(kube, PARENT, **{CLUSTER_ANNOTATION: None})
        await until(lambda: data(kube, namespace) == {"color": "blue"}, what="the take over")


# --- Events ----------------------------------------------------------------------------------------------------------


async def test_events_say_what_was_applied_and_reverted_where_kubectl_looks(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        kube.edit(path(namespace), {"data": {"color": "blue"}}, manager="kubectl-edit")
        object_uid = kube.must("GET", path(namespace))["metadata"]["uid"]
        parent_uid = kube.must("GET", PARENT)["metadata"]["uid"]

        def regarding(uid: str, reason: str) -> list[dict[str, Any]]:
            return [event for event in told(kube, reason) if event["regarding"].get("uid") == uid]

        await until(lambda: regarding(object_uid, "Reverted"), what="an event on the object")
        [on_object] = regarding(object_uid, "Reverted")
        assert on_object["metadata"]["namespace"] == namespace
        assert on_object["note"].startswith(f"ConfigMap/{namespace}/settings was changed by kubectl-edit (.data.color)")
        await until(lambda: regarding(parent_uid, "Reverted") and regarding(parent_uid, "Applied"), what="the others")
        [on_parent] = regarding(parent_uid, "Applied")
        assert on_parent["metadata"]["namespace"] == "default"
        assert on_parent["note"] == "bundle shop: 1 created at revision rrrrrrrrrrrr"


async def test_two_hundred_hand_edits_are_few_events_and_hold_no_secret(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    before, began = written(kube).keys(), anyio.current_time()
    names = [f"c{number}" for number in range(40)]
    async with agent(cluster, tmp_path) as one:
        wake = SliceMaker().next({"shop": [*(config(namespace, name, n="1") for name in names), secret(namespace)]})
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"), timeout_s=60)
        for round_ in range(5):
            for name in names:
                kube.edit(path(namespace, name), {"data": {"n": f"edit {round_}"}})
            kube.edit(f"/api/v1/namespaces/{namespace}/secrets/key", {"data": {"key": "aGlkZGVu"}})
            await until(lambda: settings(kube, namespace) == [{"n": "1"}] * len(names), what="reverts", timeout_s=60)
    mine = [item for uid, item in written(kube).items() if uid not in before]
    assert 5 <= len(mine) <= events.BURST + 1 + (anyio.current_time() - began) / events.EVERY_S
    assert not any("aGlkZGVu" in str(item) or "czNjcjN0" in str(item) for item in mine)
    assert all(len(item["note"].encode()) <= 1024 for item in mine)


# --- suspend and sync ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        pytest.param(SUSPEND, "true", id="ours"),
        pytest.param(SUSPEND, "the database moves", id="ours, with a reason"),
        pytest.param("kustomize.toolkit.fluxcd.io/reconcile", "disabled", id="Flux's"),
    ],
)
async def test_a_suspended_bundle_is_not_written_until_it_is_resumed(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, annotation: str, value: str
) -> None:
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red"), config(namespace, "old", a="b")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        annotate(kube, PARENT, **{annotation: value})
        await until(lambda: annotation in one.told.bundles["shop"].suspended, what="suspension")
        assert value in one.told.bundles["shop"].suspended or value == "true"
        second = maker.next({"shop": [config(namespace, color="blue")]})
        kube.edit(path(namespace), {"data": {"color": "green"}})
        one.deliver(second)
        await until(lambda: any(drift.action == "reported" for drift in one.told.drift), what="reported drift")
        await until(lambda: one.told.bundles["shop"].subtree == maker.subtrees["shop"], what="the slice")
        await until(lambda: conditions(kube).get("Reconciling") == ("False", "Suspended"), what="a condition")
        assert data(kube, namespace) == {"color": "green"}
        assert data(kube, namespace, "old") == {"a": "b"}
        assert kube.must("GET", PARENT)["metadata"]["annotations"][annotation] == value
    async with agent(cluster, tmp_path) as again:
        await until(lambda: again.told.bundles.get("shop") and again.told.bundles["shop"].suspended, what="suspension")
        assert data(kube, namespace) == {"color": "green"}
        annotate(kube, PARENT, **{annotation: None})
        await until(lambda: again.converged(second, "shop"), what="the resume")
        assert data(kube, namespace) == {"color": "blue"}
        assert data(kube, namespace, "old") is None


async def test_our_own_writes_of_the_parent_leave_the_owners_annotations_alone(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        annotate(kube, PARENT, **{SYNC: "1", "note": "mine"})
        wider = maker.next({"shop": [config(namespace, color="red"), secret(namespace)]})
        one.deliver(wider)
        await until(lambda: one.converged(wider, "shop"))
        annotations = kube.must("GET", PARENT)["metadata"]["annotations"]
        assert "Secret" in annotations["applyset.kubernetes.io/contains-group-kinds"]
        assert (annotations[SYNC], annotations["note"]) == ("1", "mine")


@pytest.mark.parametrize("annotation", [SYNC, "reconcile.fluxcd.io/requestedAt"])
async def test_a_sync_restores_what_a_blind_spot_missed_and_is_acted_on_once(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, annotation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        monkeypatch.setattr(one.loop._observer, "see", lambda event: None)
        kube.edit(path(namespace), {"data": {"color": "blue"}})
        annotate(kube, PARENT, **{annotation: "now"})
        await until(lambda: data(kube, namespace) == {"color": "red"}, what="the full pass")
        await until(lambda: kube.must("GET", PARENT)["status"].get("lastSync") == "now", what="lastSync")
    sent = cluster.requests["apply"]
    async with agent(cluster, tmp_path) as again:
        await until(lambda: again.told.bundles.get("shop") and again.loop.idle)
        await settled(again)
        assert cluster.requests["apply"] == sent, "the same value asks for nothing after a restart"


async def test_directives_of_the_hub_hold_over_a_restart_without_the_hub(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        one.loop.on_directives(Directives(suspended={"shop": "ada: an incident"}))
        await until(lambda: one.told.bundles["shop"].suspended == "ada: an incident", what="suspension")
    async with agent(cluster, tmp_path) as again:
        wake = maker.next({"shop": [config(namespace, color="blue")]})
        again.deliver(wake)
        await until(
            lambda: again.told.bundles.get("shop") and again.told.bundles["shop"].subtree == maker.subtrees["shop"]
        )
        assert again.told.bundles["shop"].suspended == "ada: an incident"
        assert data(kube, namespace) == {"color": "red"}
        again.loop.on_directives(Directives())
        await until(lambda: again.converged(wake, "shop"), what="the resume")
        assert data(kube, namespace) == {"color": "blue"}


async def test_a_sync_of_the_hub_is_acted_on_once_per_number(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        monkeypatch.setattr(one.loop._observer, "see", lambda event: None)
        for number in (1, 2):
            kube.edit(path(namespace), {"data": {"color": "blue"}})
            one.loop.on_directives(Directives(sync={"*": number}))
            await until(lambda: data(kube, namespace) == {"color": "red"}, what="the full pass")
        kube.edit(path(namespace), {"data": {"color": "blue"}})
        one.loop.on_directives(Directives(sync={"*": 2}))
        await settled(one)
        assert data(kube, namespace) == {"color": "blue"}


# --- pauses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["object", "namespace", "cluster"])
async def test_drift_during_a_pause_is_told_once_and_reverted_when_it_ends(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, on: str
) -> None:
    where = path(namespace) if on == "object" else f"/api/v1/namespaces/{namespace}"
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        if on == "cluster":
            one.loop.on_directives(Directives(paused_until=in_an_hour()))
        else:
            annotate(kube, where, **{PAUSE: in_an_hour()})
        if on == "namespace":
            await until(lambda: one.loop._owner._pauses._namespaces, what="the pause")
        kube.edit(path(namespace), {"data": {"color": "blue"}})
        await until(lambda: [drift for drift in one.told.drift if drift.what == "changed"], what="told drift")
        assert [drift.action for drift in one.told.drift if drift.what == "changed"] == ["paused"]
        assert data(kube, namespace) == {"color": "blue"}
    async with agent(cluster, tmp_path) as one:
        await until(lambda: any(drift.action == "paused" for drift in one.told.drift), what="told again after a start")
        assert not [drift for drift in one.told.drift if drift.action == "reverted"]
        if on == "cluster":
            one.loop.on_directives(Directives())
        else:
            annotate(kube, where, **{PAUSE: None})
        await until(lambda: data(kube, namespace) == {"color": "red"}, what="the revert")


async def test_a_time_that_cannot_be_read_pauses_nothing_and_is_told(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    async with agent(cluster, tmp_path) as one:
        one.deliver(SliceMaker().next({"shop": [config(namespace, color="red")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        annotate(kube, f"/api/v1/namespaces/{namespace}", **{PAUSE: "tomorrow"})
        await until(lambda: any("'tomorrow'" in problem for problem in one.told.problems), what="a problem")
        assert any(f"Namespace/{namespace}" in problem for problem in one.told.problems)
        kube.edit(path(namespace), {"data": {"color": "blue"}})
        await until(lambda: data(kube, namespace) == {"color": "red"}, what="the revert")
        annotate(kube, f"/api/v1/namespaces/{namespace}", **{PAUSE: None})
        await until(lambda: not one.told.problems, what="no problem")


# --- the guard ConfigMap ---------------------------------------------------------------------------------------------


async def test_the_guard_forbids_a_kind_from_the_start_and_until_it_says_otherwise(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    guard(kube, forbiddenKinds="Secret\n*.rbac.authorization.k8s.io")
    secret_path = f"/api/v1/namespaces/{namespace}/secrets/key"
    async with agent(cluster, tmp_path) as one:
        wake = SliceMaker().next({"shop": [config(namespace, color="red"), secret(namespace)]})
        one.deliver(wake)
        await until(lambda: data(kube, namespace) == {"color": "red"}, what="its sibling")
        await until(lambda: conditions(kube).get("Stalled", ("",))[0] == "True", what="Stalled")
        assert kube.call("GET", secret_path)[0] == 404
        await until(lambda: len(one.told.bundles["shop"].problems) == 1, what="a refusal alone")
        [problem] = one.told.bundles["shop"].problems
        assert problem.object == f"Secret/{namespace}/key"
        assert "the guard ConfigMap of this cluster forbids Secret" in problem.message
        guard(kube, forbiddenKinds="*.rbac.authorization.k8s.io")
        await until(lambda: one.converged(wake, "shop"), what="the allowed object")
        assert kube.call("GET", secret_path)[0] == 200


async def test_a_guard_that_appears_protects_a_namespace_from_applies_reverts_and_prunes(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red"), config(namespace, "old", a="b")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        guard(kube, protectedNamespaces=f"kube-*, {namespace}")
        await until(lambda: one.loop._owner.limits.protected_namespaces, what="the guard")
        kube.edit(path(namespace), {"data": {"color": "green"}})
        await until(lambda: one.told.drift, what="told drift")
        assert [drift.action for drift in one.told.drift] == ["reported"]
        last = maker.next({"shop": [config(namespace, color="blue")]})
        one.deliver(last)
        await until(lambda: len(one.told.bundles["shop"].problems) == 2, what="two refusals")
        assert data(kube, namespace) == {"color": "green"}
        assert data(kube, namespace, "old") == {"a": "b"}
        kube.must("DELETE", GUARD)
        await until(lambda: one.converged(last, "shop"), what="freedom")
        assert data(kube, namespace) == {"color": "blue"}
        assert data(kube, namespace, "old") is None


async def test_the_guard_caps_how_much_is_pruned_at_once(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    guard(kube, maxPrunedShare="30%")
    maker = SliceMaker()
    all_ = [config(namespace, f"c{number}", n="1") for number in range(10)]
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": all_}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        too_many = maker.next({"shop": all_[:6]})
        one.deliver(too_many)
        await until(
            lambda: any(problem.reason == "PruneLimit" for problem in one.told.bundles["shop"].problems), what="a cap"
        )
        assert data(kube, namespace, "c9") == {"n": "1"}
        few = maker.next({"shop": all_[:7]})
        one.deliver(few)
        await until(lambda: one.converged(few, "shop"), what="a smaller prune")
        assert data(kube, namespace, "c9") is None


@pytest.mark.parametrize(
    ("values", "applies", "prunes"),
    [
        pytest.param({"forbiddenKind": "Secret"}, False, False, id="a mistyped key closes all"),
        pytest.param({"protectedNamespaces": "Kube System"}, False, False, id="an unreadable pattern closes all"),
        pytest.param({"maxPrunedShare": "a third"}, True, False, id="an unreadable share stops prunes only"),
        pytest.param({"prune": "false"}, True, False, id="prune: false stops prunes only"),
        pytest.param({}, True, True, id="empty allows all"),
    ],
)
async def test_a_guard_that_cannot_be_read_closes_what_it_guards(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, values: dict[str, str], applies: bool, prunes: bool
) -> None:
    maker = SliceMaker()
    async with agent(cluster, tmp_path) as one:
        one.deliver(maker.next({"shop": [config(namespace, color="red"), config(namespace, "old", a="b")]}))
        await until(lambda: conditions(kube).get("Ready") == ("True", "Current"), what="Ready")
        guard(kube, **values)
        await until(lambda: one.loop._owner._map._seen, what="the guard")
        if not prunes and values.get("prune") is None:
            [key] = values
            await until(lambda: any(key in problem for problem in one.told.problems), what="a problem")
        last = maker.next({"shop": [config(namespace, color="blue")]})
        one.deliver(last)
        if prunes:
            await until(lambda: one.converged(last, "shop"))
        else:
            await until(
                lambda: (
                    one.told.bundles["shop"].problems and one.told.bundles["shop"].subtree == maker.subtrees["shop"]
                ),
                what="a refusal",
            )
        if applies:
            await until(lambda: data(kube, namespace) == {"color": "blue"}, what="the apply")
        else:
            assert data(kube, namespace) == {"color": "red"}
        assert (data(kube, namespace, "old") is None) is prunes


async def test_no_slice_touches_the_guard_itself(cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path) -> None:
    guard(kube, protectedNamespaces="payments")
    async with agent(cluster, tmp_path) as one:
        one.deliver(
            SliceMaker().next(
                {
                    "shop": [
                        config(namespace, color="red"),
                        config(limits.NAMESPACE, limits.NAME, protectedNamespaces="none"),
                    ]
                },
                shop={"adopt": "always"},
            )
        )
        await until(lambda: data(kube, namespace) == {"color": "red"}, what="its sibling")
        await until(lambda: len(one.told.bundles["shop"].problems) == 1, what="a refusal")
        [problem] = one.told.bundles["shop"].problems
        assert problem.health == "Failed"
        assert "the cluster owner's" in problem.message
    found = kube.must("GET", GUARD)
    assert found["data"] == {"protectedNamespaces": "payments"}
    assert "labels" not in found["metadata"]


# --- watches of one name ---------------------------------------------------------------------------------------------


async def test_a_watch_of_one_name_sees_nothing_else(cluster: Cluster, kube: Kube, namespace: str) -> None:
    kube.must("POST", f"/api/v1/namespaces/{namespace}/configmaps", config(namespace, "other"))
    kube.must("POST", f"/api/v1/namespaces/{namespace}/configmaps", config(namespace, "mine"))
    resource = await cluster.resource("v1", "ConfigMap")
    seen = []
    watch = cluster.watch(resource, selector="", metadata_only=True, namespace=namespace, name="mine")
    with anyio.fail_after(20):
        async with aclosing(watch) as watching:  # type: ignore[type-var]
            async for event in watching:
                seen.append((event.kind, (event.object.get("metadata") or {}).get("name")))
                if event.kind == "SYNCED":
                    kube.edit(path(namespace, "other"), {"data": {"a": "b"}})
                    kube.must("DELETE", path(namespace, "mine"))
                if event.kind == "DELETED":
                    break
    assert seen == [("ADDED", "mine"), ("SYNCED", None), ("DELETED", "mine")]
