"""How fast the agent's apply step is: a fraction of a bare aiohttp loop that sends the same bytes to the same server.

Both do server-side apply of the same objects, sixteen at a time, read each answer to its end, and take turns round by
round, each in a namespace of its own. The agent's side is its own reconciler, with its inventory on disk.
"""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from agent.apply.order import traits
from agent.apply.parents import Parents
from agent.apply.plan import BundlePlan
from agent.apply.reconcile import Reconciler
from agent.inventory import Inventory
from agent.kube.cluster import Cluster
from agent.model import DesiredBundle
from agent.tracing import Tracing
from proto.ids import Oid
from proto.objects import ObjectKey, blob_id, canonical, key_of
from proto.slices import BundlePolicy, with_membership
from tests import real

CONCURRENCY = 16
"""Of the bare loop: about where a server on two cores gives no more."""
OBJECTS = 300


def measure(kube: real.ApiServer, *, rounds: int) -> dict[str, Any]:
    """A row of the table: the median over `rounds` of agent/bare, as objects a second."""
    return anyio.run(partial(_measure, kube, rounds=rounds))


async def _measure(kube: real.ApiServer, *, rounds: int) -> dict[str, Any]:
    agent: list[float] = []
    bare: list[float] = []
    async with Cluster.connect(kube.kubeconfig) as cluster:
        await _agent_round(cluster, kube, "warm-agent")
        await _bare_round(kube, "warm-bare")
        for number in range(rounds):
            # Who goes first changes, so that a drifting machine favours neither.
            if number % 2:
                bare.append(await _bare_round(kube, f"bare-{number}"))
                agent.append(await _agent_round(cluster, kube, f"agent-{number}"))
            else:
                agent.append(await _agent_round(cluster, kube, f"agent-{number}"))
                bare.append(await _bare_round(kube, f"bare-{number}"))
    ratios = [ours / theirs for ours, theirs in zip(agent, bare, strict=True)]
    return {
        "what": "apply throughput, agent / bare aiohttp loop",
        "value": round(statistics.median(ratios), 3),
        "unit": "fraction, median",
        "goal": "≥ 0.8",
        "detail": {
            "agent_objects_per_s": round(statistics.median(agent)),
            "bare_objects_per_s": round(statistics.median(bare)),
            "ratios": [round(ratio, 2) for ratio in ratios],
            "objects": OBJECTS,
        },
    }


def objects(namespace: str) -> dict[ObjectKey, bytes]:
    """ConfigMaps of about 1 kB, as the bytes of a slice."""
    made = {}
    for number in range(OBJECTS):
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"conf-{number}", "namespace": namespace},
            "data": {f"key-{key}": f"value {key} of {number} " * 4 for key in range(8)},
        }
        made[key_of(manifest)] = canonical(with_membership(manifest, namespace))
    return made


def _namespace(kube: real.ApiServer, name: str) -> None:
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


async def _agent_round(cluster: Cluster, kube: real.ApiServer, name: str) -> float:
    await anyio.to_thread.run_sync(_namespace, kube, name)
    files = objects(name)
    blobs = {blob_id(data): data for data in files.values()}
    bundle = DesiredBundle(
        name=name,
        subtree=Oid(""),
        rollout="",
        revision="",
        policy=BundlePolicy(name=name),
        objects={key: blob_id(data) for key, data in files.items()},
    )
    every = traits({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})
    with tempfile.TemporaryDirectory() as folder, Inventory(Path(folder) / "inventory.db") as inventory:
        reconciler = Reconciler(
            cluster,
            inventory,
            Parents(cluster),
            read=blobs.__getitem__,
            writing=_nobody_else,
            applied=lambda entry, verdict: None,
            tracing=Tracing("bench", None),
        )
        plan = BundlePlan(bundle=name, apply=(tuple(files),))
        started = time.perf_counter()
        await reconciler.run(plan, bundle, traits=dict.fromkeys(files, every), superseded=lambda: False)
        took = time.perf_counter() - started
        assert not reconciler.failures, next(iter(reconciler.failures.values()))
    return OBJECTS / took


@asynccontextmanager
async def _nobody_else(key: ObjectKey) -> AsyncIterator[None]:
    yield


async def _bare_round(kube: real.ApiServer, name: str) -> float:
    await anyio.to_thread.run_sync(_namespace, kube, name)
    waiting = iter(objects(name).items())
    headers = {"Authorization": f"Bearer {kube.token}", "Content-Type": "application/apply-patch+yaml"}
    connector = aiohttp.TCPConnector(limit=CONCURRENCY, ssl=False)

    async def work(session: aiohttp.ClientSession) -> None:
        for key, body in waiting:
            url = f"{kube.url}/api/v1/namespaces/{name}/configmaps/{key.name}?fieldManager=bare"
            async with session.patch(url, data=body) as response:
                await response.read()
                assert response.status == 201, response.status

    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(CONCURRENCY):
                tasks.start_soon(work, session)
        return OBJECTS / (time.perf_counter() - started)
