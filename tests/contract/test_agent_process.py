"""The agent as a process, on a real API server and without a hub: killed, started again, told to end."""

import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.stream.receive import Receiver
from tests.agent_process import AgentProcess
from tests.kube import Kube
from tests.real import Process, wait_until
from tests.slices import CLUSTER, SliceMaker

NAMESPACE = "process"
COUNT = 60


def whole(color: str) -> str:
    namespace = f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"
    metadata = f"namespace: {NAMESPACE}"
    configs = (
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n}, {metadata}}}, data: {{color: {color}}}}}"
        for n in range(COUNT)
    )
    return "\n---\n".join([namespace, *configs])


class Machine(AgentProcess):
    """A state folder with a slice in it, and the agent's process on it."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        super().__init__(kube.kubeconfig, folder)
        self.kube = kube

    def has(self, count: int) -> bool:
        return len(self.versions()) >= count

    def versions(self) -> set[str]:
        """Of the slice's ConfigMaps that are there; Kubernetes puts one of its own beside them, whenever it likes."""
        items = self.kube.must("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps")["items"]
        return {item["metadata"]["resourceVersion"] for item in items if "color" in item["data"]}


@pytest.fixture
def machine(kube: Kube, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(kube, tmp_path)
    yield made
    made.end()


async def test_killed_in_the_middle_it_goes_on_and_then_writes_nothing_more(machine: Machine) -> None:
    receiver = Receiver(machine.folder / "state", CLUSTER)
    maker = SliceMaker()
    assert await receiver.offer(maker.next({"many": whole("red")}))
    for done in (1, COUNT // 2, COUNT):
        process = machine.start()
        wait_until(f"{done} objects", partial(machine.has, done), process=process)
        process.kill()
    versions = machine.versions()
    assert await receiver.offer(maker.next({"many": whole("red"), "empty": ""}))
    process = machine.start()
    machine.kube.must("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/c7")
    wait_until("the deletion undone", partial(machine.has, COUNT), process=process)
    assert len(machine.versions() - versions) == 1, "only the deleted object was written"
    process.stop(signal.SIGTERM)
    assert process.child.returncode == 0
    lease = machine.kube.must("GET", "/apis/coordination.k8s.io/v1/namespaces/flotilla-system/leases/flotilla-agent")
    assert "holderIdentity" not in lease["spec"]


def test_what_is_missing_is_said_in_one_line(machine: Machine) -> None:
    process = Process("agent", [sys.executable, "-m", "agent.main", f"--state-dir={machine.folder}"], machine.folder)
    assert process.child.wait(30) == 1
    assert process.tail() == (
        "flotilla-agent: cluster: has no name (give --cluster, or the join token of the first start)"
    )
