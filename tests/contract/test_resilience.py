"""What networks, disks, clocks and the API server do to a whole agent, and that it goes on: on both API servers."""

import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agent.kube import cluster as kube_cluster
from agent.kube.cluster import Cluster
from agent.stream.receive import Receiver
from proto.identity import JoinToken
from tests import real
from tests.agent_process import AgentProcess
from tests.agents import agent, until
from tests.kube import Kube
from tests.proxy import Proxy, proxied
from tests.slices import CLUSTER, SliceMaker

MANY = 150
TOKEN = JoinToken(join_id="j1", cluster=CLUSTER, hub_key_hash="h" * 22, secret="s" * 43).encode()
LEASE = "/apis/coordination.k8s.io/v1/namespaces/flotilla-system/leases/flotilla-agent"


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"r-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.remove(name)
    kube.call("DELETE", "/apis/flotilla.dev/v1alpha1/appliedbundles/shop")


def config(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def configs(namespace: str, count: int, **data: str) -> list[dict[str, Any]]:
    return [config(namespace, f"c{number}", **data) for number in range(count)]


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


def versions(kube: Kube, namespace: str) -> dict[str, str]:
    return {name: item["metadata"]["resourceVersion"] for name, item in present(kube, namespace).items()}


def present(kube: Kube, namespace: str) -> dict[str, Any]:
    """Our ConfigMaps in the namespace, by name."""
    items = kube.must("GET", f"{path(namespace)}?labelSelector=flotilla.dev/bundle")["items"]
    return {item["metadata"]["name"]: item for item in items}


def quickly() -> Iterator[float]:
    return itertools.repeat(0.05)


@asynccontextmanager
async def behind_a_proxy(kubeconfig: Path, folder: Path, silence_s: float) -> AsyncIterator[tuple[Proxy, Cluster]]:
    async with (
        proxied(kubeconfig, folder) as (proxy, through),
        Cluster.connect(through, delays=quickly, silence_s=silence_s) as cluster,
    ):
        yield proxy, cluster


# --- networks and API servers -----------------------------------------------------------------------------------------


async def test_an_api_server_that_restarts_in_the_middle_of_a_pass_gets_all_of_it(
    kube: Kube, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    async with Cluster.connect(kubeconfig, delays=quickly) as cluster, agent(cluster, tmp_path) as running:
        wake = SliceMaker().next({"shop": configs(namespace, MANY, color="red")})
        running.deliver(wake)
        await until(lambda: len(present(kube, namespace)) > MANY // 10, what="the first objects")
        before = len(present(kube, namespace))
        await anyio.to_thread.run_sync(kube.restart)
        await until(lambda: running.converged(wake, "shop"), what="the whole pass", timeout_s=60)
        assert before < MANY, "the restart came too late to be in the middle"
        assert len(present(kube, namespace)) == MANY
        assert not running.told.drift


async def test_after_cut_connections_what_changed_meanwhile_is_found_and_nothing_else_written(
    kube: Kube, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    async with (
        behind_a_proxy(kubeconfig, tmp_path, silence_s=60.0) as (proxy, cluster),
        agent(cluster, tmp_path) as running,
    ):
        wake = SliceMaker().next({"shop": configs(namespace, 10, color="red")})
        running.deliver(wake)
        await until(lambda: running.converged(wake, "shop"), what="the slice")
        before, lists = versions(kube, namespace), cluster.requests["list"]
        for number in range(3):
            assert proxy.cut() > 0
            kube.edit(path(namespace, f"c{number}"), {"data": {"color": "green"}})
        await until(lambda: len(running.told.drift) == 3, what="three reverts")
        assert {item["data"]["color"] for item in present(kube, namespace).values()} == {"red"}
        assert len(versions(kube, namespace).items() - before.items()) == 3
        assert cluster.requests["list"] == lists, "watches go on from where they were"


async def test_half_open_connections_are_noticed_and_nothing_is_missed(
    kube: Kube, kubeconfig: Path, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_cluster, "REQUEST_S", 5.0)
    async with (
        behind_a_proxy(kubeconfig, tmp_path, silence_s=5.0) as (proxy, cluster),
        agent(cluster, tmp_path) as running,
    ):
        wake = SliceMaker().next({"shop": configs(namespace, 10, color="red")})
        running.deliver(wake)
        await until(lambda: running.converged(wake, "shop"), what="the slice")
        assert proxy.swallow() > 0
        kube.edit(path(namespace, "c1"), {"data": {"color": "green"}})
        kube.must("DELETE", path(namespace, "c2"))
        await until(lambda: len(running.told.drift) == 2, what="both found on new connections")
        assert len(present(kube, namespace)) == 10
        assert {item["data"]["color"] for item in present(kube, namespace).values()} == {"red"}


async def test_clocks_that_jump_by_a_day_change_nothing(
    kube: Kube, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    days = itertools.cycle(("2026-03-01", "2026-03-02", "2026-02-28"))
    async with (
        Cluster.connect(kubeconfig) as cluster,
        agent(cluster, tmp_path, timestamp=lambda: f"{next(days)}T00:00:00.000000Z") as running,
    ):
        wake = SliceMaker().next({"shop": configs(namespace, 5, color="red")})
        running.deliver(wake)
        await until(lambda: running.converged(wake, "shop"), what="the slice")
        before = versions(kube, namespace)
        for number in range(3):
            assert await running.lease.once()
            kube.edit(path(namespace, f"c{number}"), {"data": {"color": "green"}})
            await until(lambda count=number + 1: len(running.told.drift) == count, what="a revert")  # type: ignore[misc]
        assert len(versions(kube, namespace).items() - before.items()) == 3
        assert not running.told.problems


# --- the lease --------------------------------------------------------------------------------------------------------


async def test_an_agent_whose_lease_was_taken_stops_in_the_middle_of_its_pass(
    kube: Kube, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    async with Cluster.connect(kubeconfig) as cluster, agent(cluster, tmp_path) as running:
        maker = SliceMaker()
        wake = maker.next({"shop": configs(namespace, 1, color="red")})
        running.deliver(wake)
        await until(lambda: running.converged(wake, "shop"), what="the first object")
        running.deliver(maker.next({"shop": configs(namespace, MANY * 4, color="red")}))
        await until(lambda: len(present(kube, namespace)) > 10, what="some of many")
        kube.edit(LEASE, {"spec": {"holderIdentity": "another", "leaseDurationSeconds": 3600}})
        assert not await running.lease.once()
        await until(lambda: not running.loop._running, what="the end of what was under way")
        done, writes = len(present(kube, namespace)), cluster.requests["apply"]
        assert done < MANY * 4
        kube.edit(path(namespace, "c0"), {"data": {"color": "green"}})
        for _ in range(3):
            assert not await running.lease.once()
        assert cluster.requests["apply"] == writes
        assert kube.must("GET", path(namespace, "c0"))["data"]["color"] == "green"
        await until(
            lambda: any("held by agent another" in problem for problem in running.told.problems), what="the problem"
        )

        kube.edit(LEASE, {"spec": {"holderIdentity": None}})
        await until(lambda: running.lease.held, what="the lease again")
        await until(lambda: len(present(kube, namespace)) == MANY * 4, what="the rest", timeout_s=120)
        await until(lambda: len(running.told.drift) == 1, what="what changed meanwhile")


# --- processes --------------------------------------------------------------------------------------------------------


class Machine(AgentProcess):
    """A state folder with a slice in it, and the agent's process on it."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        super().__init__(kubeconfig, folder)
        self.maker = SliceMaker()

    async def give(self, objects: list[dict[str, Any]]) -> None:
        """The next slice, taken in while no agent runs."""
        assert await Receiver(self.state, CLUSTER).offer(self.maker.next({"shop": objects}))


@pytest.fixture
def machine(kubeconfig: Path, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(kubeconfig, tmp_path)
    yield made
    made.end()


def tells(process: real.Process, text: str) -> bool:
    return text in process.log.read_text()


def resident_mb(process: real.Process) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def fits(process: real.Process, limit_mb: float) -> bool:
    return resident_mb(process) < limit_mb


async def test_memory_is_bounded_by_the_number_of_objects_and_not_by_their_size(
    kube: Kube, machine: Machine, namespace: str
) -> None:
    small = 0.0
    for text in ("small", "x" * 900_000):
        await machine.give(configs(namespace, 50, text=text))
        process = machine.start()

        def all_applied(text: str = text) -> bool:
            return [item["data"]["text"] for item in present(kube, namespace).values()] == [text] * 50

        real.wait_until("every object", all_applied, process=process)
        real.wait_until("what the agent logs at the end", partial(tells, process, "50 c"), process=process)
        small = small or resident_mb(process)
        # The connections that carried large objects keep buffers of their size until they are idle for a while.
        real.wait_until("44 MB to leave nothing behind", partial(fits, process, small + 10), process=process)
        process.stop()
        process.log.unlink()


async def test_told_to_end_in_the_middle_of_a_pass_it_ends_in_order_and_the_next_one_goes_on(
    kube: Kube, machine: Machine, namespace: str
) -> None:
    await machine.give(configs(namespace, MANY * 4, color="red"))
    process = machine.start()
    real.wait_until("some objects", lambda: len(present(kube, namespace)) > 20, process=process)
    process.stop()
    assert process.child.returncode == 0
    assert len(present(kube, namespace)) < MANY * 4, "the signal came too late to be in the middle"
    assert "holderIdentity" not in kube.must("GET", LEASE)["spec"]
    before = versions(kube, namespace)
    process = machine.start()
    real.wait_until("the rest", lambda: len(present(kube, namespace)) == MANY * 4, process=process)
    assert before.items() <= versions(kube, namespace).items(), "what was done is not done again"


def test_a_process_that_hangs_at_its_end_is_ended_within_the_grace_period_and_says_where(tmp_path: Path) -> None:
    script = """
import time, types
import anyio
from agent import main
main.END_S = 1

async def run():
    async with anyio.create_task_group() as group:
        group.start_soon(main._stop_on_signal, types.SimpleNamespace(stop=lambda: hangs_here()))
        await anyio.sleep(0.1)
        print("ready", flush=True)

def hangs_here():
    time.sleep(600)

anyio.run(run)
"""
    process = real.Process("agent", [sys.executable, "-c", script], tmp_path, {"PYTHONPATH": os.pathsep.join(sys.path)})
    real.wait_until("the handler of signals", partial(tells, process, "ready"), process=process)
    process.child.terminate()
    assert process.child.wait(60) == 1
    assert "hangs_here" in process.tail(30)


async def test_without_its_hub_it_goes_on_enforcing_and_spools_its_reports(
    kube: Kube, machine: Machine, namespace: str
) -> None:
    await machine.give(configs(namespace, 5, color="red"))
    (machine.folder / "token").write_text(TOKEN)
    process = machine.start(
        f"--hub=http://127.0.0.1:{real.free_port()}", f"--join-token-file={machine.folder / 'token'}"
    )
    real.wait_until("the objects", lambda: len(present(kube, namespace)) == 5, process=process)
    for number in range(3):
        kube.edit(path(namespace, f"c{number}"), {"data": {"color": "green"}})

    def reverted() -> bool:
        return {item["data"]["color"] for item in present(kube, namespace).values()} == {"red"}

    spool = machine.state / "spool" / "drift.jsonl"
    real.wait_until("three reverts", reverted, process=process)
    real.wait_until(
        "three reports", lambda: spool.exists() and len(spool.read_bytes().splitlines()) == 3, process=process
    )
    process.stop()
    assert process.child.returncode == 0


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, as the state folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "flotilla-test", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    yield
    ballast.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    remount(disk, "ro")
    yield
    remount(disk, "rw")


async def test_on_a_full_disk_it_goes_on_from_memory_and_says_so_until_there_is_room(
    kube: Kube, kubeconfig: Path, namespace: str, disk: Path
) -> None:
    maker = SliceMaker()
    async with Cluster.connect(kubeconfig) as cluster, agent(cluster, disk) as running:
        first = maker.next({"shop": configs(namespace, 20, color="red")})
        running.deliver(first)
        await until(lambda: running.converged(first, "shop"), what="the slice")
        second = maker.next({"shop": configs(namespace, 300, color="blue")})
        with full(disk):
            kube.edit(path(namespace, "c1"), {"data": {"color": "green"}})
            kube.must("DELETE", path(namespace, "c2"))
            await until(lambda: len(running.told.drift) == 2, what="both reverts")
            assert {item["data"]["color"] for item in present(kube, namespace).values()} == {"red"}
            running.deliver(second)
            await until(lambda: any("slice" in text for text in running.told.problems), what="told: the slice")
            await until(lambda: any("inventory" in text for text in running.told.problems), what="told: the inventory")
        assert len(running.told.drift) == 2
        running.deliver(second)
        await until(lambda: running.converged(second, "shop"), what="the next slice", timeout_s=60)
        await until(lambda: not running.told.problems, what="all is well")
        before = versions(kube, namespace)
    async with Cluster.connect(kubeconfig) as cluster, agent(cluster, disk) as again:
        await until(lambda: again.converged(second, "shop"), what="the restart")
        assert versions(kube, namespace) == before, "a restart writes nothing"


@pytest.mark.parametrize("trouble", [full, read_only])
async def test_an_agent_that_starts_without_a_disk_enforces_what_it_can_read(
    kube: Kube, machine: Machine, namespace: str, disk: Path, trouble: Callable[[Path], AbstractContextManager[None]]
) -> None:
    machine.state = disk
    await machine.give(configs(namespace, 10, color="red"))
    process = machine.start()
    real.wait_until("the slice", lambda: len(present(kube, namespace)) == 10, process=process)
    process.stop()
    kube.edit(path(namespace, "c1"), {"data": {"color": "green"}})
    kube.must("DELETE", path(namespace, "c2"))

    def enforced() -> bool:
        colors = [item["data"]["color"] for item in present(kube, namespace).values()]
        return colors == ["red"] * 10

    with trouble(disk):
        process = machine.start()
        real.wait_until("the slice again", enforced, process=process)
        kube.edit(path(namespace, "c3"), {"data": {"color": "green"}})
        real.wait_until("a revert", enforced, process=process)
        assert tells(process, "inventory")
        process.stop()
        assert process.child.returncode == 0
