"""The whole agent on a small API server in memory: slices in, objects and reports out."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from agent import loop
from agent.apply import plan as planning
from agent.apply.parents import KINDS_ANNOTATION, PRUNE_ANNOTATION
from proto.objects import ObjectKey
from proto.slices import BUNDLE_LABEL
from tests.agents import agent, until
from tests.fakes import FakeCluster
from tests.slices import SliceMaker

NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n"
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {replicas: 2, image: "web:1"}
---
"""
SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {color: red}
---
"""
WEB_KEY = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web")
SETTINGS_KEY = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="settings")
PARENT_KEY = ObjectKey(group="flotilla.dev", kind="AppliedBundle", namespace="", name="shop")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def maker() -> SliceMaker:
    return SliceMaker()


def data(cluster: FakeCluster) -> Any:
    return cluster.objects[SETTINGS_KEY]["data"]


async def test_a_slice_becomes_objects_and_a_proof(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + WEB + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        assert one.told.bundles["shop"].subtree == maker.subtrees["shop"]
        assert one.told.bundles["shop"].counts == {"Current": 3}
        assert not one.told.problems
    assert cluster.objects[WEB_KEY]["spec"] == {"replicas": 2, "image": "web:1"}
    assert cluster.objects[PARENT_KEY]["metadata"]["annotations"][KINDS_ANNOTATION] == (
        "ConfigMap,Deployment.apps,Namespace"
    )


async def test_one_changed_object_costs_one_request(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    first = maker.next({"shop": NAMESPACE + WEB + SETTINGS})
    second = maker.next({"shop": NAMESPACE + WEB + SETTINGS.replace("red", "blue")})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "shop"))
        cluster.requests.clear()
        one.deliver(second)
        await until(lambda: one.converged(second, "shop"))
    assert data(cluster) == {"color": "blue"}
    shown = ("status", "create")
    assert next(request for request in cluster.requests if request[0] not in shown) == ("apply", SETTINGS_KEY)
    assert cluster.count("apply", "delete", "get", "dry-run") == 1


async def test_a_restart_sends_nothing(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + WEB + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
    cluster.requests.clear()
    async with agent(cluster, tmp_path) as again:
        await until(lambda: again.converged(wake, "shop"))
    about = {key for method, key in cluster.requests if method != "get"}
    assert {key.kind for key in about} <= {"Lease"}


async def test_what_git_no_longer_has_is_pruned_and_the_parent_narrowed(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    first, second = maker.next({"shop": NAMESPACE + WEB + SETTINGS}), maker.next({"shop": NAMESPACE + WEB})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "shop"))
        one.deliver(second)
        await until(lambda: one.converged(second, "shop") and "ConfigMap" not in _kinds(cluster))
    assert SETTINGS_KEY not in cluster.objects
    assert WEB_KEY in cluster.objects


def _kinds(cluster: FakeCluster) -> str:
    return str(cluster.objects[PARENT_KEY]["metadata"]["annotations"][KINDS_ANNOTATION])


async def test_a_removed_bundle_is_pruned_with_its_parent_and_its_namespace_let_go(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    first, second = maker.next({"shop": NAMESPACE + WEB + SETTINGS}), maker.next({})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "shop"))
        one.deliver(second)
        await until(lambda: one.converged(second, "shop") and PARENT_KEY not in cluster.objects)
        assert one.told.bundles["shop"].subtree == ""
        assert not one.inventory.entries
        third = maker.next({})
        one.deliver(third)
        await until(lambda: "shop" not in one.told.bundles)
    assert {key.kind for key in cluster.objects} == {"Namespace", "Lease", "CustomResourceDefinition", "Event"}
    shop = cluster.objects[ObjectKey(group="", kind="Namespace", namespace="", name="shop")]
    assert BUNDLE_LABEL not in shop["metadata"].get("labels", {})


async def test_a_bundle_removed_while_the_agent_was_away_is_pruned_by_the_policy_it_had(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    first = maker.next({"shop": NAMESPACE + SETTINGS}, shop={"prune": False})
    second = maker.next({})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "shop"))
    assert cluster.objects[PARENT_KEY]["metadata"]["annotations"][PRUNE_ANNOTATION] == "disabled"
    async with agent(cluster, tmp_path) as again:
        again.deliver(second)
        await until(lambda: again.converged(second, "shop"))
    assert BUNDLE_LABEL not in cluster.objects[SETTINGS_KEY]["metadata"].get("labels", {})
    assert data(cluster) == {"color": "red"}


async def test_an_object_that_moves_to_another_bundle_keeps_its_uid(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    first = maker.next({"shop": NAMESPACE + SETTINGS, "base": WEB})
    second = maker.next({"shop": NAMESPACE, "base": WEB + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "shop", "base"))
        uid = cluster.objects[SETTINGS_KEY]["metadata"]["uid"]
        one.deliver(second)
        await until(lambda: one.converged(second, "shop", "base"))
    assert cluster.objects[SETTINGS_KEY]["metadata"]["uid"] == uid
    assert cluster.objects[SETTINGS_KEY]["metadata"]["labels"][BUNDLE_LABEL] == "base"
    assert cluster.count("delete") == 0


async def test_a_hand_edit_is_undone_and_told(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + WEB})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        cluster.put({"apiVersion": "apps/v1", "kind": "Deployment", **_named("web"), "spec": {"replicas": 5}})
        await until(lambda: cluster.objects[WEB_KEY]["spec"]["replicas"] == 2 and one.told.drift)
        told = one.told.drift[0]
    assert (told.what, told.fields, told.manager) == ("changed", (".spec.replicas",), "kubectl-edit")
    assert told.action == "reverted"


def _named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop"}}


async def test_a_deletion_is_undone(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + WEB})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        cluster.remove(WEB_KEY)
        await until(lambda: WEB_KEY in cluster.objects and one.told.drift)
        assert one.told.drift[0].what == "deleted"
        await until(lambda: one.converged(wake, "shop"))


async def test_a_removed_label_is_put_back(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        cluster.unset(SETTINGS_KEY, ["metadata", "labels", BUNDLE_LABEL])
        await until(lambda: BUNDLE_LABEL in cluster.objects[SETTINGS_KEY]["metadata"]["labels"] and one.told.drift)
        assert one.told.drift[0].what == "relabelled"


async def test_drift_and_deletions_made_while_the_agent_was_away_are_found(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    wake = maker.next({"shop": NAMESPACE + WEB + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", **_named("settings"), "data": {"color": "green"}})
    cluster.remove(WEB_KEY)
    async with agent(cluster, tmp_path) as again:
        await until(lambda: len(again.told.drift) == 2 and WEB_KEY in cluster.objects)
        assert {told.what for told in again.told.drift} == {"changed", "deleted"}
    assert data(cluster) == {"color": "red"}


async def test_drift_is_only_told_where_the_bundle_says_so(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    wake = maker.next({"shop": NAMESPACE + SETTINGS}, shop={"drift": _report_only()})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        cluster.put({"apiVersion": "v1", "kind": "ConfigMap", **_named("settings"), "data": {"color": "green"}})
        await until(lambda: one.told.drift)
        cluster.remove(SETTINGS_KEY)
        await until(lambda: len(one.told.drift) == 2)
        await until(lambda: one.told.bundles["shop"].health == "NotFound")
        assert [told.action for told in one.told.drift] == ["reported", "reported"]
    assert SETTINGS_KEY not in cluster.objects


def _report_only() -> Any:
    from proto.slices import DriftPolicy

    return DriftPolicy(mode="report")


async def test_one_refused_object_stops_nothing_else_and_is_named(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    unknown = "{apiVersion: example.org/v1, kind: Widget, metadata: {name: w, namespace: shop}}"
    wake = maker.next({"shop": NAMESPACE + SETTINGS + unknown, "base": WEB})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "base") and SETTINGS_KEY in cluster.objects)
        await until(lambda: one.told.bundles["shop"].problems[0].reason == "ApplyFailed")
        problem = one.told.bundles["shop"].problems[0]
    assert problem.object == "Widget/shop/w"
    assert "Widget" in problem.message
    assert not one.told.bundles["shop"].converged


async def test_a_definition_and_its_resource_come_in_one_slice(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    wake = maker.next(
        {
            "shop": NAMESPACE
            + """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions: [{name: v1, served: true, storage: true}]
---
apiVersion: example.org/v1
kind: Widget
metadata: {name: w, namespace: shop}
spec: {size: 1}
"""
        }
    )
    widget = ObjectKey(group="example.org", kind="Widget", namespace="shop", name="w")
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: widget in cluster.objects)
        assert cluster.count("apply") == len([one for one in cluster.requests if one[0] == "apply"])
        assert ("apply", widget) in cluster.requests


async def test_a_newer_slice_supersedes_a_pass_that_cannot_end(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    before = maker.next({"shop": NAMESPACE})
    first = maker.next({"shop": NAMESPACE + WEB})
    second = maker.next({"shop": NAMESPACE + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(before)
        await until(lambda: one.converged(before, "shop"))
        cluster.settles = False
        one.deliver(first)
        await until(lambda: WEB_KEY in cluster.objects)
        one.deliver(second)
        await until(lambda: one.converged(second, "shop"))
    assert WEB_KEY not in cluster.objects


async def test_without_the_lease_nothing_is_written(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + SETTINGS})
    async with agent(cluster, tmp_path / "a", holder="agent-1") as one:
        await until(lambda: one.lease.held)
        async with agent(cluster, tmp_path / "b", holder="agent-2") as other:
            other.deliver(wake)
            await until(lambda: other.receiver.desired().commit == wake.commit and other.lease.problem)
            assert "held by agent agent-1" in other.lease.problem
            assert SETTINGS_KEY not in cluster.objects
            assert not other.lease.held


async def test_a_lost_inventory_is_found_again_in_the_cluster(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path
) -> None:
    first = maker.next({"shop": NAMESPACE + WEB + SETTINGS})
    second = SliceMaker().next({"shop": NAMESPACE + WEB + SETTINGS.replace("settings", "other")})
    async with agent(cluster, tmp_path / "a") as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "shop"))
    async with agent(cluster, tmp_path / "b") as again:
        again.deliver(second)
        await until(lambda: again.converged(second, "shop") and SETTINGS_KEY not in cluster.objects)
    assert WEB_KEY in cluster.objects


async def test_stopping_gives_the_lease_back(cluster: FakeCluster, maker: SliceMaker, tmp_path: Path) -> None:
    wake = maker.next({"shop": NAMESPACE + SETTINGS})
    lease = ObjectKey(group="coordination.k8s.io", kind="Lease", namespace="flotilla-system", name="flotilla-agent")
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        assert cluster.objects[lease]["spec"]["holderIdentity"] == "agent-1"
        one.loop.stop()
        await until(lambda: "holderIdentity" not in cluster.objects[lease]["spec"])


async def test_an_inventory_that_cannot_be_written_is_told_until_it_can(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "SAVE_S", 0.01)
    wake = maker.next({"shop": NAMESPACE + SETTINGS})
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        with monkeypatch.context() as patch:
            patch.setattr(one.inventory, "_write", no_space)
            cluster.put({"apiVersion": "v1", "kind": "ConfigMap", **_named("settings"), "data": {"color": "green"}})
            await until(lambda: any("No space left" in problem for problem in one.told.problems))
            assert data(cluster) == {"color": "red"}
        await until(lambda: not one.told.problems)


async def test_however_many_events_come_planning_takes_a_bounded_share_of_the_time(
    cluster: FakeCluster, maker: SliceMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []
    plan = planning.plan

    def slow(*args: Any, **named: Any) -> Any:
        began = anyio.current_time()
        made = plan(*args, **named)
        while anyio.current_time() < began + 0.02:
            anyio.current_effective_deadline()  # stands for ten thousand objects
        spent.append(anyio.current_time() - began)
        return made

    monkeypatch.setattr(planning, "plan", slow)
    monkeypatch.setattr(loop, "BURST_S", 0.1)
    wake = maker.next({"shop": NAMESPACE + SETTINGS})
    began = anyio.current_time()
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: one.converged(wake, "shop"))
        while len(spent) < 12:
            one.loop._wake()
            await anyio.sleep(0.001)
    passed = anyio.current_time() - began
    assert sum(spent[:-1]) <= (passed + loop.BURST_S) / loop.REST, "all but the last plan were rested for"
