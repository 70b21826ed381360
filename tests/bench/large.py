"""One cluster with 10,000 objects: what the agent costs there, and how fast it is beside a bare loop.

Twenty bundles over fifty namespaces, with what a cluster usually has: ConfigMaps, Secrets, Services, Deployments,
ServiceAccounts, Roles and custom resources; the Services without selectors and the Deployments without replicas, so
that little of controllers' work is measured. The agent and the hub are processes as a user starts them; requests are
counted by the API server's audit log, CPU and memory by /proc. The bare loop sends the same objects to namespaces of
its own, half of them before the agent does and half after, so that a server that warms up or fills favours neither.
`python -m tests.bench.large` measures this alone.
"""

import argparse
import json
import statistics
import tempfile
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio
import yaml

from tests import real
from tests.bench import processes, reverts
from tests.e2e.world import World

CONCURRENCY = 16
"""Of the bare loop: about where a server on two cores gives no more."""
CLUSTER: Final = "large"
BUNDLES: Final = 20
NAMESPACES: Final = 50
REST_S: Final = 2.0
REST_SHARE: Final = 0.02
"""Of one core: below it the agent has nothing more to do."""
CONVERGE_S: Final = 300.0
UPSTREAM_POLL_S: Final = 0.3

FLEET = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Fleet
    metadata: {name: bench}
    """
CLUSTERS = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: large, labels: {tier: prod}}
    spec: {kubernetes: "1.36"}
    """
BUNDLE = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Bundle
    metadata: {name: %s}
    spec: {targets: {matchLabels: {tier: prod}}}
    """
DEFINITION = """
    apiVersion: apiextensions.k8s.io/v1
    kind: CustomResourceDefinition
    metadata: {name: widgets.bench.example.org}
    spec:
      group: bench.example.org
      scope: Namespaced
      names: {kind: Widget, plural: widgets}
      versions:
      - name: v1
        served: true
        storage: true
        schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    """
NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n"


# --- the objects ------------------------------------------------------------------------------------------------------


def manifest(number: int, namespace: str, text: str = "one") -> tuple[str, dict[str, Any]]:
    """(plural of its kind with the API's prefix, object)."""
    name = f"thing-{number}"
    metadata = {"name": name, "namespace": namespace, "annotations": {"text": text}}
    labels = {"app": name}
    match number % 10:
        case 0:
            container = {"name": "web", "image": "registry.example.org/web:v1", "ports": [{"containerPort": 8080}]}
            spec = {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            }
            return "apis/apps/v1/deployments", _object("apps/v1", "Deployment", metadata, spec=spec)
        case 1:
            spec = {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
            return "api/v1/services", _object("v1", "Service", metadata, spec=spec)
        case 2:
            return "api/v1/serviceaccounts", _object("v1", "ServiceAccount", metadata)
        case 3:
            rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]
            group = "rbac.authorization.k8s.io/v1"
            return f"apis/{group}/roles", _object(group, "Role", metadata, rules=rules)
        case 4:
            spec = {"size": number, "color": "blue", "parts": [{"name": f"part-{part}"} for part in range(4)]}
            return "apis/bench.example.org/v1/widgets", _object("bench.example.org/v1", "Widget", metadata, spec=spec)
        case 5 | 6:
            data = {"password": "b25lIHR3byB0aHJlZQ==", "user": "YWRtaW4="}
            return "api/v1/secrets", _object("v1", "Secret", metadata, type="Opaque", data=data)
        case _:
            data = {f"key-{key}": f"value {key} of {number}" for key in range(8)}
            return "api/v1/configmaps", _object("v1", "ConfigMap", metadata, data=data)


def _object(api_version: str, kind: str, metadata: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def namespace_of(number: int) -> str:
    return f"large-{number // 10 % NAMESPACES}"


def bundle_of(number: int) -> str:
    return f"bundle-{number // 10 % BUNDLES:02d}"


def path(number: int, namespace: str) -> str:
    prefix, _, plural = manifest(number, namespace)[0].rpartition("/")
    return f"/{prefix}/namespaces/{namespace}/{plural}/thing-{number}"


def files(count: int) -> dict[str, str | None]:
    """The fleet repo's: `count` objects, and before them their namespaces and the definition of Widget."""
    made: dict[str, str | None] = {
        "bundles/base/bundle.yaml": BUNDLE % "base",
        "bundles/base/objects/definition.yaml": DEFINITION,
        "bundles/base/objects/namespaces.yaml": "---\n".join(NAMESPACE % f"large-{n}" for n in range(NAMESPACES)),
    }
    for number in range(BUNDLES):
        made[f"bundles/bundle-{number:02d}/bundle.yaml"] = BUNDLE % f"bundle-{number:02d}"
    for number in range(count):
        made |= file(number)
    return made


def file(number: int, text: str = "one") -> dict[str, str | None]:
    obj = manifest(number, namespace_of(number), text)[1]
    return {f"bundles/{bundle_of(number)}/objects/thing-{number:05d}.yaml": json.dumps(obj) + "\n"}


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(folder: Path, *, objects: int, commits: int, edits: int, idle_s: float) -> list[dict[str, Any]]:
    """The rows of the table; starts and ends everything that it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        real.Etcd(folder / "etcd") as etcd,
        real.ApiServer(etcd, folder / "kube", workloads=True, audit=True) as kube,
    ):
        world = World(folder / "world", {CLUSTER: kube})
        try:
            world.repo.commit("empty", {"fleet.yaml": FLEET, "clusters/large.yaml": CLUSTERS})
            world.start_hub(heartbeat_s=30.0)
            return _rows(world, kube, objects=objects, commits=commits, edits=edits, idle_s=idle_s)
        finally:
            world.stop()


def _rows(
    world: World, kube: real.ApiServer, *, objects: int, commits: int, edits: int, idle_s: float
) -> list[dict[str, Any]]:
    half = objects // 2
    kube.must(
        "PATCH",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.bench.example.org?fieldManager=bare",
        yaml.safe_load(DEFINITION),
        content_type="application/apply-patch+yaml",
    )
    real.wait_until("Widgets", lambda: kube.call("GET", "/apis/bench.example.org/v1/widgets")[0] == 200)
    bare_s = bare(kube, "bare-a", range(half))
    agent = world.start_agent(CLUSTER)
    _rest(agent)
    before_cpu, (empty, _) = processes.cpu_s(agent.pid), processes.memory_mb(agent.pid)
    started = time.monotonic()
    revision = world.repo.commit(f"{objects} objects", files(objects))
    world.wait("everything healthy", lambda: _completed(world, revision), timeout_s=CONVERGE_S)
    healthy_s = time.monotonic() - started
    first, last, sent = _applies(kube)
    bare_s += bare(kube, "bare-b", range(half, objects))
    _rest(agent)
    cpu_s = processes.cpu_s(agent.pid) - before_cpu
    resident, peak = processes.memory_mb(agent.pid)
    assert sent >= objects, f"{sent} of {objects} objects were applied"
    changes = [_one_change(world, kube, 7 + 10 * number, f"changed-{number}") for number in range(commits)]
    targets = [path(n, namespace_of(n)) for n in range(objects) if n % 10 == 8][:edits]
    assert len(targets) == edits
    took = reverts.measure(kube, targets, repeats=edits)
    _rest(agent)
    idle = _idle(kube, agent, idle_s)
    name = f"{objects:,} objects in one cluster"
    return [
        {
            "what": f"{name}: resident memory",
            "value": round(resident, 1),
            "unit": "MB",
            "goal": "< 150",
            "detail": {
                "kB_per_object": round((resident - empty) * 1024 / objects, 1),
                "peak_mb": round(peak, 1),
                "after_all_mb": round(processes.memory_mb(agent.pid)[0], 1),
            },
        },
        {
            "what": f"{name}: first convergence, bare aiohttp loop / agent",
            "value": round(bare_s / (last - first), 3),
            "unit": "fraction",
            "detail": {
                "agent_s": round(last - first, 1),
                "bare_s": round(bare_s, 1),
                "commit_to_healthy_s": round(healthy_s, 1),
                "agent_cpu_ms_per_object": round(cpu_s * 1000 / objects, 2),
                "applies": sent,
            },
        },
        {
            "what": f"{name}: git commit of one change to cluster",
            "value": round(statistics.median(took_s for took_s, _, _ in changes), 2),
            "unit": "s, median",
            "detail": {
                "requests_most": max(requests for _, requests, _ in changes),
                "agent_cpu_ms": round(statistics.median(cpu for _, _, cpu in changes) * 1000),
                "upstream_poll_s": UPSTREAM_POLL_S,
            },
        },
        {
            "what": f"{name}: hand edit to revert",
            "value": round(processes.percentile(took, 0.95) * 1000, 1),
            "unit": f"ms, p95 of {edits}",
            "detail": {"median_ms": round(statistics.median(took) * 1000, 1)},
        },
        {"what": f"{name}: idle agent", **idle},
    ]


def _completed(world: World, revision: str) -> bool:
    """Every bundle's rollout to the revision is proven."""
    rows = [row for row in world.api("rollouts?limit=1000")["rollouts"] if row["revision"] == revision]
    done = {bundle for row in rows if row["phase"] == "completed" for bundle in row["bundles"]}
    return len(done) > BUNDLES


def _applies(kube: real.ApiServer) -> tuple[float, float, int]:
    """(when the agent's first apply of a namespace or an object arrived, when the last did, how many distinct ones)."""
    assert kube.audit is not None
    times: dict[str, float] = {}
    with kube.audit.open("rb") as lines:
        for line in lines:
            if b"flotilla-agent" not in line or b'"patch"' not in line or b"large-" not in line:
                continue
            event = json.loads(line)
            uri = event["requestURI"].partition("?")[0]
            times.setdefault(uri, datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp())
    things = sum("/thing-" in uri for uri in times)
    return min(times.values()), max(times.values()), things


def _one_change(world: World, kube: real.ApiServer, number: int, text: str) -> tuple[float, int, float]:
    """(seconds from before the commit to the object in the cluster, requests of the agent, its CPU seconds)."""
    where = path(number, namespace_of(number))
    agent = world.agents[CLUSTER]

    def changed() -> bool:
        return bool(kube.must("GET", where)["metadata"]["annotations"]["text"] == text)

    def proven() -> bool:
        row = world.rollout(bundle_of(number), revision)
        return row is not None and row["phase"] == "completed"

    _rest(agent)
    before, cpu = len(kube.requests(processes.USER_AGENT)), processes.cpu_s(agent.pid)
    started = time.monotonic()
    revision = world.repo.commit(text, file(number, text))
    world.wait("the change", changed)
    took = time.monotonic() - started
    world.wait("its proof", proven)
    spent = processes.cpu_s(agent.pid) - cpu
    sent = kube.requests(processes.USER_AGENT)[before:]
    return took, sum("/leases/" not in uri for _, uri in sent), spent


def _idle(kube: real.ApiServer, agent: real.Process, seconds: float) -> dict[str, Any]:
    before, cpu = len(kube.requests(processes.USER_AGENT)), processes.cpu_s(agent.pid)
    time.sleep(seconds)
    spent = processes.cpu_s(agent.pid) - cpu
    sent = kube.requests(processes.USER_AGENT)[before:]
    return {
        "value": round(len(sent) * 60 / seconds, 1),
        "unit": "requests/min",
        "detail": {
            "cpu_ms_per_min": round(spent * 60_000 / seconds),
            "beside_the_lease": sum("/leases/" not in uri for _, uri in sent),
            "seconds": seconds,
        },
    }


def _rest(agent: real.Process) -> None:
    def quiet() -> bool:
        before = processes.cpu_s(agent.pid)
        time.sleep(REST_S)
        return processes.cpu_s(agent.pid) - before < REST_S * REST_SHARE

    real.wait_until("an agent at rest", quiet, process=agent, timeout_s=CONVERGE_S)


# --- the bare loop ----------------------------------------------------------------------------------------------------


def bare(kube: real.ApiServer, prefix: str, numbers: range) -> float:
    """Seconds to apply these objects, in namespaces of their own."""
    options = {"use_uvloop": True}
    return anyio.run(partial(_bare, kube, prefix, numbers), backend_options=options)


async def _bare(kube: real.ApiServer, prefix: str, numbers: range) -> float:
    headers = {"Authorization": f"Bearer {kube.token}", "Content-Type": "application/apply-patch+yaml"}
    connector = aiohttp.TCPConnector(limit=CONCURRENCY, ssl=False)
    namespaces = [f"{prefix}-{n}" for n in range(NAMESPACES)]
    bodies = [
        (f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for name in namespaces
    ]
    for number in numbers:
        namespace = namespaces[number // 10 % NAMESPACES]
        bodies.append((path(number, namespace), manifest(number, namespace)[1]))
    requests = [(f"{kube.url}{where}?fieldManager=bare&force=true", json.dumps(body)) for where, body in bodies]

    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def work(waiting: Any) -> None:
            for url, body in waiting:
                async with session.patch(url, data=body) as response:
                    answer = await response.read()
                    assert response.status in (200, 201), answer

        started = time.perf_counter()
        for part in (requests[:NAMESPACES], requests[NAMESPACES:]):
            waiting = iter(part)
            async with anyio.create_task_group() as tasks:
                for _ in range(CONCURRENCY):
                    tasks.start_soon(work, waiting, name="bare")
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.large", description="The agent and 10,000 objects.")
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, help="keep logs and data here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as temporary:
        folder = options.folder or Path(temporary)
        rows = measure(folder, objects=options.objects, commits=3, edits=100, idle_s=options.idle)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
