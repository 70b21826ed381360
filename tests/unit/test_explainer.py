"""When the Pods of a workload are read, how often, and what becomes of it; on a FakeCluster with virtual reasons."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent import explainer
from agent.explainer import Explainer, Words
from proto.errors import Refused
from proto.objects import ObjectKey, key_of
from tests.agents import until
from tests.fakes import FakeCluster

LABELS = {"app": "web"}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"replicas": 2, "selector": {"matchLabels": LABELS}},
}
WEB = key_of(DEPLOYMENT)


def replica_set(cluster: FakeCluster, name: str, *, revision: int) -> dict[str, Any]:
    uid = cluster.objects[WEB]["metadata"]["uid"]
    made = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": LABELS,
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [{"uid": uid, "controller": True}],
        },
    }
    return cluster.put(made)


def pod(cluster: FakeCluster, name: str, owner: dict[str, Any], *, waiting: str) -> dict[str, Any]:
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": LABELS,
            "ownerReferences": [{"uid": owner["metadata"]["uid"], "controller": True}],
        },
    }
    found = cluster.put(made)
    containers = [{"name": "app", "image": "x", "state": {"waiting": {"reason": waiting}}}]
    found["status"] = {"phase": "Pending", "containerStatuses": containers}
    return found


def event(cluster: FakeCluster, about: dict[str, Any], reason: str, message: str) -> None:
    cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{about['metadata']['name']}.{reason}", "namespace": "shop"},
            "involvedObject": {"uid": about["metadata"]["uid"]},
            "reason": reason,
            "message": message,
        }
    )


class World:
    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.troubled: dict[ObjectKey, float] = {}
        """What is in trouble, and for how many seconds."""
        self.told: list[tuple[ObjectKey, Words | None]] = []
        self.rounds = 0

    def in_trouble(self, after_s: float) -> list[ObjectKey]:
        self.rounds += 1
        return [key for key, for_s in self.troubled.items() if for_s >= after_s]

    async def rounds_pass(self) -> None:
        """Until it was seen at least once more what is in trouble."""
        after = self.rounds + 2
        await until(lambda: self.rounds >= after)

    def looks(self) -> int:
        return self.cluster.count("get")


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(explainer, "LOOK_S", 0.001)
    cluster = FakeCluster()
    cluster.settles = False
    for kind in ("v1/Pod", "v1/Event", "v1/PersistentVolumeClaim", "apps/v1/ReplicaSet", "apps/v1/Deployment"):
        cluster.kinds[kind] = True
    cluster.put(DEPLOYMENT)
    async with explaining(cluster) as made:
        yield made


@asynccontextmanager
async def explaining(cluster: FakeCluster) -> AsyncIterator[World]:
    world = World(cluster)
    running = Explainer(
        cluster,
        troubled=world.in_trouble,
        told=lambda key, words: world.told.append((key, words)),
    )
    async with anyio.create_task_group() as group:
        group.start_soon(running.run)
        yield world
        group.cancel_scope.cancel()


async def test_a_workload_says_why_from_the_pods_of_its_newest_replica_set(world: World) -> None:
    old = replica_set(world.cluster, "web-old", revision=9)
    new = replica_set(world.cluster, "web-new", revision=10)
    pod(world.cluster, "web-old-1", old, waiting="CrashLoopBackOff")
    failing = pod(world.cluster, "web-new-1", new, waiting="ImagePullBackOff")
    event(world.cluster, failing, "Failed", 'Failed to pull image "x": manifest unknown')
    event(world.cluster, new, "FailedCreate", 'Error creating: pods "web-new-x" is forbidden: exceeded quota: q')
    world.troubled[WEB] = 30.0
    await until(lambda: world.told)
    message = (
        "Pod web-new-1: container app: image x cannot be pulled: manifest unknown; "
        '1 of 2 Pods cannot be created: pods "web-new-x" is forbidden: exceeded quota: q'
    )
    assert world.told == [(WEB, ("ImagePullBackOff", message))]


async def test_it_is_looked_at_once_a_minute_and_not_before_it_is_in_trouble(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.troubled[WEB] = 29.0
    await world.rounds_pass()
    assert world.looks() == 0
    world.troubled[WEB] = 31.0
    await until(lambda: len(world.told) == 1)
    await world.rounds_pass()
    assert world.looks() == 1
    monkeypatch.setattr(explainer, "AGAIN_S", 0.0)
    await until(lambda: world.looks() > 2)


async def test_what_is_in_trouble_anew_is_looked_at_at_once(world: World) -> None:
    world.troubled[WEB] = 31.0
    await until(lambda: len(world.told) == 1)
    world.troubled.clear()
    await world.rounds_pass()
    world.troubled[WEB] = 31.0
    await until(lambda: len(world.told) == 2)


async def test_what_cannot_be_read_changes_nothing_and_stops_nothing(world: World) -> None:
    def refuse(method: str, key: ObjectKey) -> None:
        if method == "list" and key.kind == "ReplicaSet":
            raise Refused("ReplicaSet", "list is forbidden")

    world.cluster.before = refuse
    gone = WEB._replace(name="gone")
    claim = ObjectKey(group="", kind="PersistentVolumeClaim", namespace="shop", name="data")
    world.cluster.put(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "shop"}}
    )
    event(world.cluster, world.cluster.objects[claim], "ProvisioningFailed", 'storageclass "fast" not found')
    world.troubled.update({WEB: 31.0, gone: 31.0, claim: 31.0})
    await until(lambda: world.told)
    assert world.told == [(claim, ("ProvisioningFailed", 'is not bound: storageclass "fast" not found'))]


async def test_kinds_that_make_no_pods_are_never_looked_at(world: World) -> None:
    world.troubled[ObjectKey(group="example.org", kind="Widget", namespace="shop", name="a")] = 1e6
    await world.rounds_pass()
    assert not world.cluster.requests


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param({"matchLabels": {"a": "1", "b": "2"}}, "a=1,b=2", id="labels"),
        pytest.param({"a": "1"}, "a=1", id="of a ReplicationController"),
        pytest.param(
            {
                "matchLabels": {"a": "1"},
                "matchExpressions": [
                    {"key": "b", "operator": "In", "values": ["x", "y"]},
                    {"key": "c", "operator": "NotIn", "values": ["z"]},
                    {"key": "d", "operator": "Exists"},
                    {"key": "e", "operator": "DoesNotExist"},
                ],
            },
            "a=1,b in (x,y),c notin (z),d,!e",
            id="expressions",
        ),
        pytest.param({"matchExpressions": [{"key": "d", "operator": "Exists"}]}, "d", id="expressions alone"),
        pytest.param({}, "", id="nothing"),
    ],
)
def test_selectors(selector: dict[str, Any], expected: str) -> None:
    assert explainer._selector({"spec": {"selector": selector}}) == expected
