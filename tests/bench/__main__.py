"""`make bench`: the agent against a real API server, and a whole simulated fleet, as a table and as bench.json.

Machines are noisy, so throughput is a ratio of two loops that take turns in one run, latencies are medians with p95,
and requests are counted by the API server's own audit log. Nothing here passes or fails.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests import real
from tests.bench import charts, decisions, fleet, hub, large, processes, reverts, simulate, throughput
from tests.e2e.world import World

CLUSTER = "bench"


@dataclass(slots=True, kw_only=True)
class Row:
    """One line of the table. `goal` is the project's own, "" where there is none."""

    what: str
    value: float
    unit: str
    goal: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """The single numbers of `detail`; its lists are in the JSON file only."""
        return ", ".join(f"{key} {value}" for key, value in self.detail.items() if not isinstance(value, list))


def rows_of(measure: Callable[[], list[dict[str, Any]]]) -> list[Row]:
    return [Row(**row) for row in measure()]


FLEET = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Fleet
    metadata: {name: bench}
    """
CLUSTERS = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: bench, labels: {tier: prod}}
    spec: {kubernetes: "1.36"}
    """
BUNDLE = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Bundle
    metadata: {name: load}
    spec: {targets: {matchLabels: {tier: prod}}, namespace: load}
    """


def manifest(number: int, text: str = "one") -> str:
    """Every tenth object is a Deployment (watched whole), the others are of kinds that are watched by metadata."""
    match number % 10:
        case 0:
            return (
                f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web-{number}}}\n"
                f"spec:\n  replicas: 0\n  selector: {{matchLabels: {{app: web-{number}}}}}\n  template:\n"
                f"    metadata: {{labels: {{app: web-{number}}}, annotations: {{text: {text}}}}}\n"
                f"    spec: {{containers: [{{name: web, image: 'registry.example.org/web:v1'}}]}}\n"
            )
        case 1 | 2:
            return (
                f"apiVersion: v1\nkind: Service\nmetadata: {{name: svc-{number}, annotations: {{text: {text}}}}}\n"
                f"spec: {{selector: {{app: web-{number}}}, ports: [{{port: 80}}]}}\n"
            )
        case _:
            body = "".join(f"  key-{key}: {text} value {key} of {number}\n" for key in range(8))
            return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: conf-{number}}}\ndata:\n{body}"


def files(count: int) -> dict[str, str | None]:
    made: dict[str, str | None] = {f"bundles/load/objects/{n:05d}.yaml": manifest(n) for n in range(count - 1)}
    return {**made, "bundles/load/objects/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: load}\n"}


def applied(world: World, revision: str) -> bool:
    row = world.rollout("load", revision)
    return row is not None and row["phase"] == "completed"


def memory(world: World, count: int) -> Row:
    """Resident memory of the agent process after `count` objects were applied and it became quiet."""
    revision = world.repo.commit(f"{count} objects", files(count))
    started = time.monotonic()
    world.wait("everything applied", lambda: applied(world, revision), timeout_s=300)
    took = time.monotonic() - started
    time.sleep(3)
    return Row(
        what=f"agent memory, {count} objects",
        value=round(processes.memory_mb(world.agents[CLUSTER].pid)[0], 1),
        unit="MB resident",
        goal="≤ 94 for 500" if count == 500 else "",
        detail={"commit_to_healthy_s": round(took, 2)},
    )


def one_of_many(world: World, kube: real.ApiServer, repeats: int) -> list[Row]:
    """A commit that changes one object of 500: requests sent, and time from commit to the object in the cluster."""
    done = [one_change(world, kube, f"changed-{repeat}") for repeat in range(repeats)]
    times, requests = [took for took, _ in done], [sent for _, sent in done]
    return [
        Row(
            what="1 of 500 changed, requests of the agent",
            value=max(requests),
            unit="requests, most",
            goal="≤ 3",
            detail={"all": requests},
        ),
        Row(
            what="1 of 500 changed, git commit to cluster",
            value=round(statistics.median(times), 3),
            unit="s, median",
            detail={"p95": round(processes.percentile(times, 0.95), 3), "upstream_poll_s": 0.3, "repeats": repeats},
        ),
    ]


def one_change(world: World, kube: real.ApiServer, text: str) -> tuple[float, int]:
    """(seconds from before the commit to the object in the cluster, requests of the agent, its Lease aside)."""

    def changed() -> bool:
        found = kube.must("GET", "/api/v1/namespaces/load/configmaps/conf-3")
        return bool(found["data"]["key-0"].startswith(f"{text} "))

    before = len(kube.requests(processes.USER_AGENT))
    started = time.monotonic()
    revision = world.repo.commit(text, {"bundles/load/objects/00003.yaml": manifest(3, text)})
    world.wait("the change", changed)
    took = time.monotonic() - started
    world.wait("its proof", lambda: applied(world, revision))
    return took, sum("/leases/" not in uri for _, uri in kube.requests(processes.USER_AGENT)[before:])


def hand_edits(kube: real.ApiServer, repeats: int) -> Row:
    # Each object once: whoever edits the same one again and again is in a fight, and fights are slowed down on purpose.
    paths = [f"/api/v1/namespaces/load/configmaps/conf-{n}" for n in range(3, 200) if n % 10 > 2]
    assert repeats <= len(paths)
    took = reverts.measure(kube, paths, repeats=repeats)
    return Row(
        what="hand edit to revert",
        value=round(statistics.median(took) * 1000, 1),
        unit="ms, median",
        goal="tens of ms",
        detail={"p95_ms": round(processes.percentile(took, 0.95) * 1000, 1), "repeats": repeats},
    )


def idle(kube: real.ApiServer, seconds: float) -> Row:
    before = len(kube.requests(processes.USER_AGENT))
    time.sleep(seconds)
    sent = kube.requests(processes.USER_AGENT)[before:]
    kinds: dict[str, int] = {}
    for verb, uri in sent:
        name = f"{verb} {uri.split('?')[0].rsplit('/', 2)[-2]}"
        kinds[name] = kinds.get(name, 0) + 1
    return Row(
        what="idle agent, 1,000 objects",
        value=round(len(sent) * 60 / seconds, 1),
        unit="requests/min",
        detail={"seconds": seconds, "by_kind": kinds},
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", default="bench.json", help="where to write the numbers (default: bench.json)")
    parser.add_argument("--full", action="store_true", help="turns of the loop with 10,000 clusters too: minutes")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, to see that it works")
    options = parser.parse_args()
    logging.basicConfig(level="ERROR")  # a hub whose clock is moved on by the bench says so each time
    console = Console()
    rounds, repeats, idle_s = (3, 10, 20.0) if options.quick else (9, 60, 120.0)
    fleets, commits = ((20,), 1) if options.quick else ((50, 200), 3)
    most, edits, rest_s = (1_000, 20, 20.0) if options.quick else (10_000, 100, 60.0)
    rows: list[Row] = []

    failed: list[str] = []

    def step(name: str, work: Callable[[], list[Row]]) -> None:
        """What is measured already is not lost when something after it fails."""
        began = time.monotonic()
        with console.status(name):
            try:
                rows.extend(work())
            except Exception:
                failed.append(name)
                console.print_exception()
        if not console.is_terminal:
            console.print(f"{time.monotonic() - began:4.0f} s  {name}")

    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as temporary:
        folder = Path(temporary)
        with real.Etcd(folder / "etcd") as etcd, real.ApiServer(etcd, folder / "a", workloads=True) as plain:
            step("apply throughput", lambda: [Row(**throughput.measure(plain, rounds=rounds))])
            beside = partial(fleet.simulated_speed, plain, folder / "simulated", rounds=rounds)
            step("the simulated API server beside a real one", partial(rows_of, beside))
        turns = hub.SIZES if options.full else hub.QUICK_TURNS
        largest = 1 if options.quick else None
        alone = partial(hub.measure, hub.SIZES[:largest], turns_of=turns[:largest])
        step("the hub alone, up to 10,000 clusters", partial(rows_of, alone))
        step("decisions", partial(rows_of, decisions.measure))
        step("Helm", partial(rows_of, charts.measure))
        step(
            "a simulated week", partial(rows_of, partial(simulate.measure, clusters=1_000 if options.quick else 10_000))
        )
        for count in fleets:
            many = partial(fleet.measure, folder / f"fleet-{count}", clusters=count, commits=commits)
            step(f"a commit to {count} clusters", partial(rows_of, many))
        with (
            real.Etcd(folder / "etcd2") as etcd,
            real.ApiServer(etcd, folder / "b", workloads=True, audit=True) as kube,
        ):
            world = World(folder / "world", {CLUSTER: kube})
            try:
                world.repo.commit("empty", {"fleet.yaml": FLEET, "clusters/bench.yaml": CLUSTERS})
                world.repo.commit("bundle", {"bundles/load/bundle.yaml": BUNDLE})
                world.start_hub(heartbeat_s=30.0)
                world.start_agent(CLUSTER)
                step("memory, 500 objects", lambda: [memory(world, 500)])
                step("one object of 500", lambda: one_of_many(world, kube, repeats // 3))
                step("reverts", lambda: [hand_edits(kube, repeats)])
                step("memory, 1,000 objects", lambda: [memory(world, 1000)])
                step("idle requests", lambda: [idle(kube, idle_s)])
            finally:
                world.stop()
        one = partial(large.measure, folder / "large", objects=most, commits=commits, edits=edits, idle_s=rest_s)
        step(f"{most:,} objects in one cluster", partial(rows_of, one))

    table = Table(
        "what",
        "value",
        "unit",
        "goal",
        "more",
        title="Flotilla; where no simulated cluster is named, with a real kube-apiserver 1.36",
    )
    for row in rows:
        table.add_row(row.what, f"{row.value:g}", row.unit, row.goal, row.note)
    Console(width=None if console.is_terminal else 160).print(table)
    Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    console.print(f"written to {options.json}")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
