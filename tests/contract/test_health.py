"""The health of what runs, with the whole agent: why workloads fail, checks of a bundle's own, what does not move.

Pods that fail are made by their image's name on the simulated server. On the real one nothing takes them, and the test
writes what a kubelet would.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from agent import explainer
from agent.kube.cluster import Cluster
from proto.messages import BundleReport, ObjectProblem
from proto.slices import HealthCheck
from tests.agents import Agent, agent, until
from tests.kube import Kube
from tests.slices import SliceMaker

DONE_S = 60.0
SOON_S = 8.0
"""For what cannot come about on the simulated server."""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAME}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: SELECTOR
      schedulerName: SCHEDULER
      containers: [{name: app, image: "IMAGE"}]
"""
DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: PLURAL.health.example.org}
spec:
  group: health.example.org
  scope: Namespaced
  names: {plural: PLURAL, kind: KIND}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
RESOURCE = """
apiVersion: health.example.org/v1
kind: KIND
metadata: {name: one, namespace: NAME}
spec: {size: 1}
"""
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NAME}
spec: {accessModes: [ReadWriteOnce], storageClassName: nobody, resources: {requests: {storage: 1Gi}}}
"""


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


@pytest.fixture
async def one(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    monkeypatch.setattr(explainer, "TROUBLED_S", 0.0)
    monkeypatch.setattr(explainer, "AGAIN_S", 0.2)
    monkeypatch.setattr(explainer, "LOOK_S", 0.05)
    async with agent(cluster, tmp_path) as running:
        yield running


class World:
    """One bundle in a namespace of its own, both of one name."""

    def __init__(self, kube: Kube, one: Agent) -> None:
        self.kube = kube
        self.agent = one
        self.name = f"health-{uuid4().hex[:8]}"
        self.kind = "Kind" + self.name[-8:]
        self.plural = self.kind.lower() + "s"
        self._maker = SliceMaker()

    async def deliver(self, text: str, **policy: Any) -> None:
        namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: NAME}\n---\n"
        objects = (
            (namespace + text).replace("NAME", self.name).replace("KIND", self.kind).replace("PLURAL", self.plural)
        )
        wake = self._maker.next({self.name: objects}, **{self.name.replace("-", "_"): policy})
        self.agent.deliver(wake)
        await until(lambda: self.agent.receiver.desired().commit == wake.commit, what="the slice")

    @property
    def report(self) -> BundleReport | None:
        return self.agent.told.bundles.get(self.name)

    def problem(self, name: str) -> ObjectProblem | None:
        problems = self.report.problems if self.report is not None else ()
        return next((problem for problem in problems if problem.object == name.replace("NAME", self.name)), None)

    async def says(
        self, name: str, matches: Callable[[ObjectProblem], object], *, timeout_s: float = DONE_S
    ) -> ObjectProblem:
        """The problem with an object, once it matches."""

        def found() -> bool:
            problem = self.problem(name)
            return problem is not None and bool(matches(problem))

        try:
            await until(found, timeout_s=timeout_s)
        except AssertionError:
            raise AssertionError(f"{name}: {self.problem(name)}; {self.agent.told.problems}") from None
        told = self.problem(name)
        assert told is not None
        return told

    async def current(self) -> None:
        await until(
            lambda: self.report is not None and self.report.converged and self.report.health == "Current",
            what=f"Current ({self.report})",
            timeout_s=DONE_S,
        )

    async def pod(self) -> dict[str, Any]:
        pods: list[dict[str, Any]] = []

        async def look() -> None:
            while not pods:
                pods.extend(self.kube.must("GET", f"/api/v1/namespaces/{self.name}/pods")["items"])
                await anyio.sleep(0.05)

        with anyio.fail_after(DONE_S):
            await look()
        return pods[0]

    async def kubelet_writes(self, container: dict[str, Any], *, phase: str = "Pending") -> None:
        """The status of the one Pod and its one container, as a kubelet would write it."""
        name = (await self.pod())["metadata"]["name"]
        status = {
            "phase": phase,
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
            ],
            "containerStatuses": [
                {"name": "app", "image": "x", "imageID": "", "ready": False, "restartCount": 0, **container}
            ],
        }
        self.kube.edit(f"/api/v1/namespaces/{self.name}/pods/{name}/status", {"status": status}, kind="strategic-merge")

    def status(self, status: dict[str, Any], *, path: str = "") -> None:
        path = path or f"/apis/health.example.org/v1/namespaces/{self.name}/{self.plural}/one"
        self.kube.edit(f"{path}/status", {"status": status}, manager="controller")


@pytest.fixture
def world(kube: Kube, one: Agent) -> World:
    return World(kube, one)


def deployment(image: str = "example.org/app:1", *, selector: str = "{}", scheduler: str = "default-scheduler") -> str:
    return DEPLOYMENT.replace("IMAGE", image).replace("SELECTOR", selector).replace("SCHEDULER", scheduler)


# --- why a workload fails -------------------------------------------------------------------------------------------


async def test_an_image_that_cannot_be_pulled_is_named(world: World) -> None:
    await world.deliver(deployment("example.org/broken:1", scheduler="nobody"))
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "example.org/broken:1"'}
    await world.kubelet_writes({"image": "example.org/broken:1", "state": {"waiting": waiting}})
    told = await world.says("Deployment/NAME/web", lambda told: told.reason == "ImagePullBackOff")
    assert told.health == "InProgress"
    assert "container app: image example.org/broken:1 cannot be pulled" in told.message


async def test_a_crash_loop_is_told_and_over_once_it_runs(world: World) -> None:
    await world.deliver(deployment("example.org/failing:1", scheduler="nobody"))
    await world.kubelet_writes(
        {
            "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "containerID": "c"}},
        },
        phase="Running",
    )
    told = await world.says("Deployment/NAME/web", lambda told: told.reason == "CrashLoopBackOff")
    assert "container app ends again and again" in told.message
    await world.deliver(deployment())
    await world.current()


async def test_what_fits_on_no_node_has_the_schedulers_message(world: World) -> None:
    await world.deliver(deployment(selector="{kubernetes.io/hostname: nowhere}"))
    told = await world.says("Deployment/NAME/web", lambda told: told.reason == "Unschedulable")
    assert "no node takes it: 0/1 nodes are available" in told.message


@pytest.mark.unsimulated("its Pods are ready, or not, by their image's name alone")
async def test_a_probe_that_fails_is_told_from_the_pods_events(world: World) -> None:
    await world.deliver(deployment(scheduler="nobody"))
    pod = await world.pod()
    await world.kubelet_writes({"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}, phase="Running")
    _tell(world, pod, "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
    told = await world.says("Deployment/NAME/web", lambda told: told.reason == "ProbeFailed", timeout_s=SOON_S)
    assert told.message.endswith("container app: Readiness probe failed: HTTP probe failed with statuscode: 503")


@pytest.mark.unsimulated("no quotas")
async def test_pods_that_a_quota_forbids_are_told_with_the_quota(world: World) -> None:
    quota = "kind: ResourceQuota\nmetadata: {name: none, namespace: NAME}\nspec: {hard: {pods: '0'}}\n"
    await world.deliver(f"{deployment()}---\napiVersion: v1\n{quota}")
    told = await world.says("Deployment/NAME/web", lambda told: told.reason == "QuotaExceeded", timeout_s=SOON_S)
    assert told.message.startswith("1 of 1 Pods cannot be created: ")
    assert "exceeded quota: none" in told.message


def _tell(world: World, about: dict[str, Any], reason: str, message: str) -> None:
    metadata = about["metadata"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{uuid4().hex[:6]}", "namespace": world.name},
        "involvedObject": {
            "apiVersion": about.get("apiVersion", "v1"),
            "kind": about.get("kind", "Pod"),
            "namespace": world.name,
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    world.kube.must("POST", f"/api/v1/namespaces/{world.name}/events", event)


# --- checks of a bundle's own ---------------------------------------------------------------------------------------


def check(world: World, current: str = "status.phase == 'Up'", failed: str = "status.phase == 'Down'") -> Any:
    return (HealthCheck(api_version="health.example.org/v1", kind=world.kind, current=current, failed=failed),)


CUSTOM = f"{DEFINITION}---{RESOURCE}"
ONE = "KIND/NAME/one"


async def test_a_health_check_decides_for_its_kind(world: World) -> None:
    one = ONE.replace("KIND", world.kind)
    await world.deliver(CUSTOM, health_checks=check(world))
    await world.says(one, lambda told: (told.health, told.reason) == ("InProgress", "HealthCheck"))
    world.status({"phase": "Down", "conditions": [{"type": "Ready", "status": "False", "message": "the disk is full"}]})
    told = await world.says(one, lambda told: told.health == "Failed")
    assert told.message == "its health check's failed is true; Ready is False: the disk is full"
    world.status({"phase": "Up"})
    await world.current()


async def test_a_new_check_judges_what_is_there_already(world: World) -> None:
    one = ONE.replace("KIND", world.kind)
    await world.deliver(CUSTOM, health_checks=check(world))
    await world.says(one, lambda told: told.reason == "HealthCheck")
    world.status({"phase": "Up"})
    await world.current()
    await world.deliver(CUSTOM, health_checks=check(world, current="status.phase == 'Ready'"))
    await world.says(one, lambda told: told.reason == "HealthCheck")
    await world.deliver(CUSTOM)
    await world.current()


async def test_a_check_that_can_never_work_is_unknown_with_what_is_wrong(world: World) -> None:
    await world.deliver(CUSTOM, health_checks=check(world, current="phase == 'Up'"))
    told = await world.says(ONE.replace("KIND", world.kind), lambda told: told.health == "Unknown")
    assert "undeclared reference to 'phase'" in told.message


async def test_a_check_counts_for_a_kind_whose_status_says_nothing(world: World) -> None:
    metadata = "{name: flag, namespace: NAME, annotations: {flotilla.dev/drift: ignore}}"
    config = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {metadata}\n"
    ready = HealthCheck(api_version="v1", kind="ConfigMap", current="data.ready == 'yes'")
    await world.deliver(config, health_checks=(ready,))
    await world.says("ConfigMap/NAME/flag", lambda told: told.reason == "HealthCheck")
    world.kube.edit(f"/api/v1/namespaces/{world.name}/configmaps/flag", {"data": {"ready": "yes"}})
    await world.current()


async def test_a_status_from_before_the_last_change_never_counts(world: World) -> None:
    one = ONE.replace("KIND", world.kind)
    await world.deliver(CUSTOM, health_checks=check(world))
    await world.says(one, lambda told: told.reason == "HealthCheck")
    world.status({"phase": "Up", "observedGeneration": 1})
    await world.current()
    await world.deliver(CUSTOM.replace("size: 1", "size: 2"), health_checks=check(world))
    await world.says(one, lambda told: told.reason == "LatestGenerationNotObserved")
    world.status({"phase": "Up", "observedGeneration": 2})
    await world.current()


async def test_a_ready_condition_of_an_older_generation_never_counts(world: World) -> None:
    ready = {"type": "Ready", "status": "True", "observedGeneration": 1}
    await world.deliver(CUSTOM)
    await world.says(ONE.replace("KIND", world.kind), lambda told: told.reason == "NoStatus")
    world.status({"conditions": [ready]})
    await world.current()
    await world.deliver(CUSTOM.replace("size: 1", "size: 2"))
    await world.says(ONE.replace("KIND", world.kind), lambda told: told.reason == "LatestGenerationNotObserved")
    world.status({"conditions": [{**ready, "observedGeneration": 2}]})
    await world.current()


# --- what does not move ---------------------------------------------------------------------------------------------


async def test_what_does_not_move_fails_after_the_bundles_timeout_and_recovers(world: World) -> None:
    one = ONE.replace("KIND", world.kind)
    waits = [{"type": "Ready", "status": "False", "reason": "Waits", "message": "for its license"}]
    await world.deliver(CUSTOM, timeout_s=0.3)
    await world.says(one, lambda told: told.reason == "NoStatus")
    world.status({"conditions": waits})
    told = await world.says(one, lambda told: told.health == "Failed")
    assert (told.reason, told.message) == ("Timeout", "has not moved for 0.3s: for its license")
    world.status({"conditions": [{"type": "Ready", "status": "True"}]})
    await world.current()


async def test_a_workload_that_does_not_move_fails_and_says_why(world: World) -> None:
    stateful = deployment(selector="{kubernetes.io/hostname: nowhere}").replace("kind: Deployment", "kind: StatefulSet")
    await world.deliver(stateful, timeout_s=1.0)
    told = await world.says(
        "StatefulSet/NAME/web", lambda told: told.reason == "Timeout" and "no node takes it" in told.message
    )
    assert told.health == "Failed"


async def test_a_rollout_that_stalls_is_found_by_its_own_deadline(world: World) -> None:
    text = deployment(selector="{kubernetes.io/hostname: nowhere}").replace(
        "replicas:", "progressDeadlineSeconds: 1\n  replicas:"
    )
    await world.deliver(text, timeout_s=0.2)
    told = await world.says("Deployment/NAME/web", lambda told: told.health == "Failed")
    assert told.reason in ("ProgressDeadlineExceeded", "Unschedulable")


# --- jobs -----------------------------------------------------------------------------------------------------------


async def test_a_job_is_complete_when_it_says_so(world: World) -> None:
    job = (
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once, namespace: NAME}\n"
        "spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: 'example.org/app:1'}]}}}\n"
    )
    await world.deliver(job)
    await world.current()
    key = next(key for key in world.agent.inventory.entries if key.kind == "Job" and key.namespace == world.name)
    await until(lambda: world.agent.inventory.entries[key].reason == "JobComplete", timeout_s=DONE_S)


async def test_a_hook_that_never_comes_up_says_why(world: World) -> None:
    hook = (
        "apiVersion: batch/v1\nkind: Job\n"
        "metadata: {name: migrate, namespace: NAME, annotations: {helm.sh/hook: pre-install}}\n"
        "spec: {template: {spec: {restartPolicy: Never, schedulerName: nobody, "
        "containers: [{name: app, image: 'example.org/broken:1'}]}}}\n"
    )
    await world.deliver(hook)
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "example.org/broken:1"'}
    await world.kubelet_writes({"image": "example.org/broken:1", "state": {"waiting": waiting}})
    told = await world.says("Job/NAME/migrate", lambda told: "cannot be pulled" in told.message)
    assert (told.health, told.reason) == ("InProgress", "JobRunning")
    assert "container app: image example.org/broken:1 cannot be pulled" in told.message
