"""A whole fleet on one machine: a commit to the last of many simulated clusters, and how fast a simulated server is.

The hub is a process as a user starts it. Agents by the process would need 64 MB each, so all of them share one process
and its event loop, and all simulated clusters another: `python -m tests.bench.fleet agents|clusters …` is those two.
Everything shares the machine's cores and all agents one of them, so the seconds are an upper bound for this machine;
the hub's CPU time is the hub's alone.
"""

import argparse
import json
import logging
import resource
import statistics
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from sys import executable
from typing import Any

import aiohttp
import anyio

from agent import main as agent
from agent import options as agent_options
from hub.sim.controllers import Controllers
from hub.sim.server import SimServer
from hub.sim.workloads import Behaviour
from tests import real
from tests.bench import processes, throughput
from tests.e2e.world import World

REQUESTS_AT_ONCE = 16
CONFIG_MAPS = 4
HEARTBEAT_S = 30.0
START_S = 180.0
REST_S = 2.0
REST_SHARE = 0.5
"""Of one core."""
FILES_PER_AGENT = 64
"""Open files: the inventory, the lock, packs, and one connection per watch, with room to spare."""

FLEET = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Fleet
    metadata: {name: bench}
    """
BUNDLE = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Bundle
    metadata: {name: shop}
    spec: {targets: {matchLabels: {tier: prod}}, namespace: shop}
    """
NAMESPACE = """
    apiVersion: v1
    kind: Namespace
    metadata: {name: shop}
    """


def names(count: int) -> list[str]:
    return [f"cluster-{number:03d}" for number in range(count)]


def cluster_files(count: int) -> str:
    return "---\n".join(
        f"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {name}, labels: {{tier: prod}}}}\n"
        for name in names(count)
    )


def deployment(version: int) -> str:
    return (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        "spec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n"
        "    metadata: {labels: {app: web}}\n"
        f"    spec: {{containers: [{{name: web, image: 'registry.example.org/web:v{version}'}}]}}\n"
    )


def config_map(number: int) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: conf-{number}}}\ndata: {{number: '{number}'}}\n"


# --- a commit to the last cluster -------------------------------------------------------------------------------------


def measure(folder: Path, *, clusters: int, commits: int) -> list[dict[str, Any]]:
    """Two rows of the table: seconds from git commit to the last cluster's proof, and the hub's CPU for it."""
    folder.mkdir(parents=True)
    world = World(folder, {})
    helpers: list[real.Process] = []
    try:
        world.repo.commit("empty", {"fleet.yaml": FLEET, "clusters/clusters.yaml": cluster_files(clusters)})
        helpers.append(_helper("clusters", folder, f"--count={clusters}"))
        hub = world.start_hub(heartbeat_s=HEARTBEAT_S)
        for name in names(clusters):
            (folder / f"{name}.token").write_text(_join_token(world, name))
        started = folder / "clusters.started"
        real.wait_until("the simulated clusters", started.exists, process=helpers[0], timeout_s=START_S)
        helpers.append(_helper("agents", folder, f"--count={clusters}", f"--hub={world.url}"))
        warm_s = _commit(
            world,
            helpers[1],
            {
                "bundles/shop/bundle.yaml": BUNDLE,
                "bundles/shop/objects/namespace.yaml": NAMESPACE,
                "bundles/shop/objects/web.yaml": deployment(0),
                **{f"bundles/shop/objects/conf-{n}.yaml": config_map(n) for n in range(CONFIG_MAPS)},
            },
        )
        took, cpu = [], []
        for version in range(1, commits + 1):
            _rest(helpers[1])
            before = processes.cpu_s(hub.pid)
            seconds = _commit(world, helpers[1], {"bundles/shop/objects/web.yaml": deployment(version)})
            took.append(round(seconds, 2))
            cpu.append(round((processes.cpu_s(hub.pid) - before) * 1000 / clusters, 2))
    finally:
        for process in helpers:
            process.kill()
        world.stop()
    return [
        {
            "what": f"git commit to the last of {clusters} simulated clusters healthy, one wave",
            "value": round(statistics.median(took), 2),
            "unit": "s, median",
            "detail": {"commits": commits, "upstream_poll_s": 0.3, "from_nothing_s": round(warm_s, 1), "all": took},
        },
        {
            "what": f"hub CPU for it, {clusters} clusters",
            "value": round(statistics.median(cpu), 2),
            "unit": "ms/cluster, median",
            "detail": {"all": cpu},
        },
    ]


def _helper(what: str, folder: Path, *arguments: str) -> real.Process:
    """This module as a process; where it is started from is where `tests` is."""
    root = str(Path(__file__).parents[2])
    return real.Process(
        what,
        [executable, "-m", "tests.bench.fleet", what, f"--folder={folder}", *arguments],
        folder,
        {"PYTHONPATH": root},
    )


def _join_token(world: World, cluster: str) -> str:
    admin = (world.folder / "hub/admin.token").read_text().strip()
    request = urllib.request.Request(
        f"{world.url}/api/v1/join-tokens",
        data=json.dumps({"cluster": cluster}).encode(),
        headers={"Authorization": f"Bearer {admin}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(json.load(response)["token"])


def _commit(world: World, agents: real.Process, files: dict[str, str | None]) -> float:
    """Seconds from before the commit until its rollout, of one wave, is completed: proven in every cluster."""

    def completed() -> int:
        # Asked for again and again, so it has to be cheap: the answer costs some of the CPU time that is measured.
        return len(world.api("events?kind=rollout-completed&limit=1000")["events"])

    before = completed()
    started = time.monotonic()
    revision = world.repo.commit("a change", files)
    everywhere = "the commit in every cluster"
    real.wait_until(everywhere, lambda: completed() > before, process=agents, timeout_s=START_S)
    took = time.monotonic() - started
    newest = world.api("rollouts?limit=1")["rollouts"][0]
    assert (newest["revision"], newest["phase"], len(newest["waves"])) == (revision, "completed", 1), newest
    return took


def _rest(agents: real.Process) -> None:
    """Wait until the agents do no more than renew leases and the like: each commit finds a fleet at rest."""

    def quiet() -> bool:
        before = processes.cpu_s(agents.pid)
        time.sleep(REST_S)
        return processes.cpu_s(agents.pid) - before < REST_S * REST_SHARE

    real.wait_until("a fleet at rest", quiet, process=agents, timeout_s=START_S)


# --- a simulated server beside a real one -----------------------------------------------------------------------------


def simulated_speed(kube: real.ApiServer, folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Two rows: requests a second of a simulated API server, as a multiple of a real one's, writing and reading."""
    folder.mkdir(parents=True)
    kubeconfig = folder / "kubeconfig"
    process = real.Process("simulated", [executable, "-m", "hub.sim", f"--kubeconfig={kubeconfig}"], folder)
    try:
        real.wait_until("the simulated server", lambda: "http://" in process.tail(), process=process)
        config = json.loads(kubeconfig.read_bytes())
        url, token = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]["token"]
        pairs = anyio.run(partial(_rounds, (url, token), (kube.url, kube.token), rounds=rounds))
    finally:
        process.stop()
    rows = []
    for index, verb in enumerate(("server-side apply", "GET")):
        ours, theirs = ([pair[side][index] for pair in pairs] for side in (0, 1))
        rows.append(
            {
                "what": f"simulated / real API server, {verb}",
                "value": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
                "unit": "times, median",
                "goal": "> 1",
                "detail": {
                    "simulated_per_s": round(statistics.median(ours)),
                    "real_per_s": round(statistics.median(theirs)),
                },
            }
        )
    return rows


async def _rounds(
    simulated: tuple[str, str], kube: tuple[str, str], *, rounds: int
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """((applies, reads) a second of the simulated, of the real server), per round."""
    await _round(*simulated, "speed-warm")
    await _round(*kube, "speed-warm")
    pairs = []
    for number in range(rounds):
        # Who goes first changes, so that a drifting machine favours neither.
        name = f"speed-{number}"
        if number % 2:
            theirs = await _round(*kube, name)
            pairs.append((await _round(*simulated, name), theirs))
        else:
            ours = await _round(*simulated, name)
            pairs.append((ours, await _round(*kube, name)))
    return pairs


async def _round(url: str, token: str, namespace: str) -> tuple[float, float]:
    """Apply ConfigMaps of about 1 kB to a namespace of their own, then read each: (applies, reads) a second."""
    files = throughput.objects(namespace)
    paths = {f"/api/v1/namespaces/{namespace}/configmaps/{key.name}": body for key, body in files.items()}
    connector = aiohttp.TCPConnector(limit=REQUESTS_AT_ONCE, ssl=False)
    async with aiohttp.ClientSession(url, connector=connector, headers={"Authorization": f"Bearer {token}"}) as session:
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        async with session.post("/api/v1/namespaces", json=made) as response:
            assert response.status == 201, await response.text()
        apply = await _timed(
            session,
            "PATCH",
            [(f"{path}?fieldManager=bare", body) for path, body in paths.items()],
            {"Content-Type": "application/apply-patch+yaml"},
        )
        return apply, await _timed(session, "GET", [(path, None) for path in paths], {})


async def _timed(
    session: aiohttp.ClientSession, method: str, requests: Sequence[tuple[str, bytes | None]], headers: dict[str, str]
) -> float:
    """Requests a second."""
    waiting = iter(requests)

    async def work() -> None:
        for path, body in waiting:
            async with session.request(method, path, data=body, headers=headers) as response:
                await response.read()
                assert response.status in (200, 201), response.status

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(REQUESTS_AT_ONCE):
            tasks.start_soon(work, name=method)
    return len(requests) / (time.perf_counter() - started)


# --- the two processes ------------------------------------------------------------------------------------------------


async def run_clusters(folder: Path, count: int) -> None:
    """`count` simulated API servers with the controllers' statuses but no Pods, until killed."""
    async with AsyncExitStack() as servers, anyio.create_task_group() as tasks:
        for name in names(count):
            server = await servers.enter_async_context(SimServer().serving())
            tasks.start_soon(Controllers(server.api, Behaviour(pods=False)).run, name=f"controllers of {name}")
            await anyio.Path(folder / f"{name}.kubeconfig").write_text(server.kubeconfig())
        await anyio.Path(folder / "clusters.started").touch()
        await anyio.sleep_forever()


async def run_agents(folder: Path, count: int, hub: str) -> None:
    """`count` agents as the console script runs them, each with a state folder of its own, until killed."""
    with ExitStack() as locks:
        async with anyio.create_task_group() as tasks:
            for name in names(count):
                arguments = [
                    f"--hub={hub}",
                    f"--join-token-file={folder / f'{name}.token'}",
                    f"--state-dir={folder / 'agents' / name}",
                    f"--kubeconfig={folder / f'{name}.kubeconfig'}",
                ]
                options = agent_options.parse(arguments, {})
                tasks.start_soon(agent.run, options, locks.enter_context(agent.locked(options.state_dir)), name=name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description="The bench's many in one process.")
    parser.add_argument("what", choices=("clusters", "agents"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--hub", default="")
    options = parser.parse_args()
    logging.basicConfig(level="WARNING")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1024 + FILES_PER_AGENT * options.count
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most < 0 else min(wanted, most), most))
    if options.what == "clusters":
        anyio.run(run_clusters, options.folder, options.count)
    else:
        anyio.run(run_agents, options.folder, options.count, options.hub, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
