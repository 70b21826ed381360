"""Drift under a whole agent: what Git changes, what others scale and own, and what an object says for itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agent.kube.cluster import Cluster
from proto.messages import WakeUp
from proto.slices import DriftPolicy, IgnoreRule
from tests.agents import Agent, agent, until
from tests.kube import Kube
from tests.slices import SliceMaker

OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: NAME}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAME, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: "example.org/app:1"}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: told, namespace: NAME, annotations: {flotilla.dev/drift: report}}
data: {color: red}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: mended, namespace: NAME}
data: {color: red}
"""


class World:
    """An agent, the namespace of its one bundle, and an administrator's hands."""

    def __init__(self, kube: Kube, one: Agent, name: str, policy: DriftPolicy) -> None:
        self.kube = kube
        self.agent = one
        self.told = one.told.drift
        self.name = name
        self._maker = SliceMaker()
        self._policy = policy

    async def deliver(self, image: str = "example.org/app:1") -> WakeUp:
        """The slice with this image; returns once it is applied."""
        objects = OBJECTS.replace("NAME", self.name).replace("example.org/app:1", image)
        wake = self._maker.next({self.name: objects}, **{self.name.replace("-", "_"): {"drift": self._policy}})
        self.agent.deliver(wake)
        await until(lambda: self._has_applied(wake), what="the slice", timeout_s=30)
        return wake

    def _has_applied(self, wake: WakeUp) -> bool:
        report = self.agent.told.bundles.get(self.name)
        taken = self.agent.receiver.desired().commit == wake.commit
        return taken and report is not None and report.converged and report.subtree == self._maker.subtrees[self.name]

    def path(self, kind: str, name: str) -> str:
        base = "/apis/apps/v1" if kind == "deployments" else "/api/v1"
        return f"{base}/namespaces/{self.name}/{kind}/{name}"

    def get(self, kind: str, name: str) -> Any:
        return self.kube.must("GET", self.path(kind, name))

    def is_gone(self, kind: str, name: str) -> bool:
        return self.kube.call("GET", self.path(kind, name))[0] == 404

    @property
    def spec(self) -> tuple[int, str]:
        """Replicas and image as they are."""
        spec = self.get("deployments", "web")["spec"]
        return spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]

    def judged(self) -> bool:
        """Whether the agent has taken in the Deployment as it is now, and nothing waits."""
        live = self.get("deployments", "web")["metadata"]["resourceVersion"]
        key = next(key for key in self.agent.inventory.entries if key.name == "web")
        known = self.agent.inventory.entries[key].baseline
        return known is not None and known.resource_version == live


Make = Callable[[DriftPolicy], Any]


@pytest.fixture
def world(kube: Kube, tmp_path: Path) -> Make:
    @asynccontextmanager
    async def make(policy: DriftPolicy) -> AsyncIterator[World]:
        async with Cluster.connect(kube.kubeconfig) as api, agent(api, tmp_path) as one:
            made = World(kube, one, f"drift-{uuid4().hex[:8]}", policy)
            await made.deliver()
            yield made

    return make


async def test_an_autoscaled_deployment_is_neither_touched_nor_told_whatever_git_changes_beside_it(world: Make) -> None:
    policy = DriftPolicy(ignore=(IgnoreRule(kind="Deployment", paths=("/spec/replicas",)),))
    async with world(policy) as here:
        web = here.path("deployments", "web")
        for replicas, image in ((5, "example.org/app:2"), (3, "example.org/app:3"), (6, "example.org/app:4")):
            here.kube.edit(f"{web}/scale", {"spec": {"replicas": replicas}}, manager="kube-controller-manager")
            await until(here.judged, what="the scaled state")
            assert here.spec[0] == replicas
            await here.deliver(image)
            assert here.spec == (replicas, image)
        here.kube.must(
            "PATCH",
            f"{web}?fieldManager=keda&force=true",
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 8}},
            content_type="application/apply-patch+yaml",
        )
        await until(here.judged, what="the applied replicas")
        await here.deliver("example.org/app:5")
        assert here.spec == (8, "example.org/app:5")
        assert [(told.fields, told.manager) for told in here.told] == []
        # All of that was no blindness.
        here.kube.edit(web, {"spec": {"paused": True, "replicas": 9}, "metadata": {"labels": {"app": "x"}}})
        await until(lambda: any(told.action == "reverted" for told in here.told))
        assert here.get("deployments", "web")["metadata"]["labels"]["app"] == "web"
        assert here.spec[0] == 9


async def test_an_object_that_says_report_is_left_as_it_is_by_guard_and_pass(world: Make) -> None:
    async with world(DriftPolicy()) as here:
        told, mended = here.path("configmaps", "told"), here.path("configmaps", "mended")
        here.kube.edit(told, {"data": {"color": "blue"}})
        here.kube.edit(mended, {"data": {"color": "blue"}})
        await until(lambda: len(here.told) == 2)
        assert {(one.object.rpartition("/")[2], one.action) for one in here.told} == {
            ("told", "reported"),
            ("mended", "reverted"),
        }
        here.kube.must("DELETE", told)
        here.kube.must("DELETE", mended)
        await until(lambda: len(here.told) == 4)
        await until(lambda: not here.is_gone("configmaps", "mended"))
        assert here.is_gone("configmaps", "told")
        assert {(one.object.rpartition("/")[2], one.what, one.action) for one in here.told[2:]} == {
            ("told", "deleted", "reported"),
            ("mended", "deleted", "reverted"),
        }
        # The next commit makes it anew only if Git changed it.
        await here.deliver("example.org/app:2")
        assert here.is_gone("configmaps", "told")


async def test_a_storm_of_a_rival_does_not_become_ours(world: Make) -> None:
    async with world(DriftPolicy()) as here:
        mended = here.path("configmaps", "mended")
        for number in range(60):
            here.kube.edit(mended, {"data": {"color": f"blue-{number}"}}, manager="rival")
        await until(lambda: here.get("configmaps", "mended")["data"]["color"] == "red", timeout_s=60)
        assert len(here.told) <= 30
        assert all(told.manager == "rival" for told in here.told)


async def test_what_was_deleted_and_only_told_is_missing_after_a_restart_too_until_somebody_makes_it(
    kube: Kube, tmp_path: Path
) -> None:
    name = f"drift-{uuid4().hex[:8]}"
    async with Cluster.connect(kube.kubeconfig) as api:
        async with agent(api, tmp_path) as one:
            here = World(kube, one, name, DriftPolicy(mode="report"))
            await here.deliver()
            lost = here.get("configmaps", "mended")
            kube.must("DELETE", here.path("configmaps", "mended"))
            await until(lambda: one.told.bundles[name].health == "NotFound")
        async with agent(api, tmp_path) as again:
            await until(lambda: name in again.told.bundles and again.told.bundles[name].health == "NotFound")
            del lost["metadata"]["resourceVersion"], lost["metadata"]["uid"], lost["metadata"]["managedFields"]
            kube.must("POST", here.path("configmaps", "mended").rpartition("/")[0], lost)
            await until(lambda: again.told.bundles[name].health == "Current", timeout_s=40)
        assert [told.what for told in one.told.drift] == ["deleted"]


async def test_a_namespaces_pause_holds_reverts_back_over_a_restart_too(kube: Kube, tmp_path: Path) -> None:
    name = f"drift-{uuid4().hex[:8]}"
    namespace = f"/api/v1/namespaces/{name}"
    async with Cluster.connect(kube.kubeconfig) as api:
        async with agent(api, tmp_path) as one:
            here = World(kube, one, name, DriftPolicy(additions="tolerate"))
            await here.deliver()
            kube.edit(namespace, {"metadata": {"annotations": {"flotilla.dev/pause-until": "2999-01-01T00:00:00Z"}}})
            for seen in ("mended", "told"):
                kube.edit(here.path("configmaps", seen), {"data": {"color": "blue"}})
            await until(lambda: len(one.told.drift) >= 2)
        kube.edit(here.path("configmaps", "mended"), {"data": {"color": "green"}})
        kube.must("DELETE", here.path("deployments", "web"))
        async with agent(api, tmp_path) as again:
            await until(lambda: len({told.object for told in again.told.drift}) == 2)
            assert {(told.object.partition("/")[0], told.action) for told in again.told.drift} == {
                ("ConfigMap", "paused"),
                ("Deployment", "paused"),
            }
            assert here.is_gone("deployments", "web")
            assert here.get("configmaps", "mended")["data"]["color"] == "green"
            kube.edit(namespace, {"metadata": {"annotations": {"flotilla.dev/pause-until": None}}})
            await until(lambda: here.get("configmaps", "mended")["data"]["color"] == "red")
            await until(lambda: not here.is_gone("deployments", "web"))
