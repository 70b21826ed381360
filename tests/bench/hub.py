"""The hub alone, without agents: rendering, composing, storing and serving slices for many clusters.

Every cluster has 20 bundles of 30 objects (plain YAML, variables in one of ten), once with 100 sets of variables among
all clusters and once with variables of its own for each, at several sizes: what a cluster costs shall not depend on how
many there are. `turns` measures the loop for the same fleets, but for those of 10,000 clusters only with `--full`.
`python -m tests.bench.hub` measures this alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio
import anyio.to_thread
import pygit2
from aiohttp import web

from hub import collector, desired, housekeeping
from hub.journal import Journal
from hub.pins import Pins
from hub.slices import compose, garbage, git_http, trees
from hub.slices.git_protocol import FLUSH, packet
from hub.slices.gitstore import GitStore
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import BundleEntry
from tests.bench import processes

BUNDLES: Final = 20
OBJECTS: Final = 30
SETS: Final = 100
FETCHES: Final = 1_000
FETCHES_BY_GIT: Final = 200
AT_ONCE: Final = 16
NOW_S: Final = 1_700_000_000

FLEET = "{apiVersion: flotilla.dev/v1alpha1, kind: Fleet, metadata: {name: bench}}\n"
CLUSTER = """apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: c-%d, labels: {tier: prod}}
spec: {kubernetes: "1.36", variables: {region: "r-%d"}}
---
"""
BUNDLE = """apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: b-%d}
spec: {targets: {matchLabels: {tier: prod}}, namespace: b-%d}
"""
OBJECT = """apiVersion: v1
kind: ConfigMap
metadata: {name: conf-%d}
data:
  text: %s
  region: "%s"
"""

Running = dict[ClusterName, dict[BundleName, Oid]]


class Slices:
    """What a hub keeps, without the rollouts between a desired state and its slices."""

    def __init__(self, folder: Path) -> None:
        self.mirror = folder / "fleet.git"
        self.repo = pygit2.init_repository(str(self.mirror), bare=True)
        self.store = GitStore.create(folder / "slices.git")
        self.journal = Journal(folder / "journal.db")
        self.pins = Pins(self.journal, folder / "sources")
        self.wanted: desired.Desired | None = None
        self.running: Running = {}
        self.tips: dict[ClusterName, compose.Composed] = {}
        self._files: dict[str, str] = {}

    def commit(self, files: Mapping[str, str]) -> Oid:
        self._files |= files
        oid, objects = trees.subtree({path: text.encode() for path, text in self._files.items()})
        for kind, data in objects:
            self.repo.odb.write({"blob": 3, "tree": 2}[kind], data)
        who = pygit2.Signature("bench", "bench@example.org", NOW_S, 0)
        return Oid(str(self.repo.create_commit(None, who, who, "bench", pygit2.Oid(hex=oid), [])))

    async def take(self, commit: Oid) -> None:
        """Render, and move every cluster that would change to it."""
        wanted = await desired.desired(
            commit,
            mirror=self.mirror,
            store=self.store,
            journal=self.journal,
            pins=self.pins,
            current=self.running,
            last=self.wanted,
        )
        self.wanted = wanted
        assert not wanted.failed, wanted.findings
        changes: dict[ClusterName, dict[BundleName, Oid]] = {}
        for bundle, by_cluster in wanted.subtrees.items():
            for cluster, oid in by_cluster.items():
                if self.running.get(cluster, {}).get(bundle) != oid:
                    changes.setdefault(cluster, {})[bundle] = oid
        await anyio.to_thread.run_sync(self._move, commit, changes)

    def _move(self, commit: Oid, changes: Mapping[ClusterName, Mapping[BundleName, Oid]]) -> None:
        made = {cluster: self._composed(cluster, commit, moved) for cluster, moved in changes.items()}
        self.store.write([item for composed in made.values() for item in composed.objects])
        self.tips |= {cluster: replace(composed, objects=()) for cluster, composed in made.items()}
        for cluster, moved in changes.items():
            self.running.setdefault(cluster, {}).update(moved)

    def _composed(self, cluster: ClusterName, commit: Oid, moved: Mapping[BundleName, Oid]) -> compose.Composed:
        before = self.tips.get(cluster)
        made = compose.compose(
            cluster=cluster,
            seq=before.seq + 1 if before else 1,
            parent=before.commit if before else None,
            parent_time_s=before.time_s if before else 0,
            current=before.manifest if before else None,
            changes={name: BundleEntry(subtree=oid, revision=commit) for name, oid in moved.items()},
            keys=self.store.keys,
            time_s=NOW_S,
        )
        assert made is not None
        return made

    def megabytes(self) -> float:
        return round(sum(self.store.pack_sizes) / 1e6, 2)

    def journal_mb(self) -> float:
        return round(sum(file.stat().st_size for file in self.mirror.parent.glob("journal.db*")) / 1e6, 2)


def objects(bundle: int, text: str) -> dict[str, str]:
    return {
        f"bundles/b-{bundle}/{n:02d}.yaml": OBJECT % (n, text, "" if n % 10 else "${region}") for n in range(OBJECTS)
    }


def clusters(count: int, sets: int, *, first: str = "") -> dict[str, str]:
    text = "".join(CLUSTER % (n, n % sets) for n in range(count))
    return {"clusters/all.yaml": text.replace("r-0", first, 1) if first else text}


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    started = time.monotonic()
    await work()
    return round(time.monotonic() - started, 2)


async def measured(folder: Path, count: int, sets: int) -> dict[str, float]:
    """The numbers of one fleet."""
    hub = Slices(folder)
    empty_mb = processes.own_mb(os.getpid())
    files = {"fleet.yaml": FLEET, **clusters(count, sets)}
    for bundle in range(BUNDLES):
        files |= {f"bundles/b-{bundle}/bundle.yaml": BUNDLE % (bundle, bundle), **objects(bundle, "one")}
    first = hub.commit(files)
    found: dict[str, float] = {}

    async def take(what: str, commit: Oid) -> None:
        used = processes.cpu_s(os.getpid())
        found[f"{what}_s"] = await timed(partial(hub.take, commit))
        found[f"{what}_cpu_s"] = round(processes.cpu_s(os.getpid()) - used, 2)

    await take("first", first)
    disk = hub.megabytes()
    await take("one_bundle", hub.commit({"bundles/b-0/01.yaml": OBJECT % (1, "two", "")}))
    found["disk_mb"], found["disk_mb_for_one_bundle"] = disk, round(hub.megabytes() - disk, 2)
    await take("one_cluster", hub.commit(clusters(count, sets, first="r-changed")))
    await take("nothing", hub.commit({"README.md": "nothing"}))
    found["hub_mb"] = round(processes.own_mb(os.getpid()) - empty_mb, 1)
    found["journal_mb"] = hub.journal_mb()
    found["packs"] = len(hub.store.pack_sizes)
    await fetches(hub, found)
    roots = [made.commit for made in hub.tips.values()]
    found["needed_s"] = await timed(
        lambda: anyio.to_thread.run_sync(garbage.gather, hub.store.path, roots, (), 0.0, housekeeping.LEAST_GARBAGE)
    )
    hub.journal.close()
    return found


async def fetches(hub: Slices, found: dict[str, float]) -> None:
    """First fetches a second, over HTTP in this one process: clients' time is in it too."""

    class Chain:
        def __init__(self, cluster: str) -> None:
            self.tip = hub.tips[ClusterName(cluster)].commit

        def __contains__(self, commit: Oid) -> bool:
            return commit == self.tip

    application = web.Application()
    application.add_routes(git_http.routes(hub.store, cluster_of=str, chain=Chain))
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(application)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        names = list(hub.tips)
        for what, asked in (
            ("equal", [names[0]] * FETCHES),
            ("different", [names[number % len(names)] for number in range(FETCHES)]),
        ):
            took = await timed(partial(_fetch_all, asked, partial(_fetched, client, hub)))
            found[f"fetches_per_s_{what}"] = round(FETCHES / took, 1)
    some = [names[number % len(names)] for number in range(FETCHES_BY_GIT)]
    took = await timed(partial(_fetch_all, some, partial(_fetched_by_git, hub)))
    found["fetches_per_s_by_git"] = round(FETCHES_BY_GIT / took, 1)


def _want(hub: Slices, name: ClusterName) -> bytes:
    return packet("command=fetch") + b"0001" + packet(f"want {hub.tips[name].commit}") + packet("done") + FLUSH


async def _fetched(client: aiohttp.ClientSession, hub: Slices, name: ClusterName) -> bytes:
    headers = {"Authorization": f"Bearer {name}", "Git-Protocol": "version=2"}
    async with client.post(f"/git/{name}.git/git-upload-pack", data=_want(hub, name), headers=headers) as answer:
        return await answer.read()


async def _fetched_by_git(hub: Slices, name: ClusterName) -> bytes:
    """What a web server would start for each request: `git http-backend`, and that `git upload-pack`."""
    settings = {"uploadpack.allowAnySHA1InWant": "true", "safe.directory": "*"}
    env = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    want = _want(hub, name)
    env |= {"PATH": os.environ["PATH"], "GIT_PROTOCOL": "version=2", "GIT_HTTP_EXPORT_ALL": "1"}
    env |= {"GIT_PROJECT_ROOT": str(hub.store.path.parent), "PATH_INFO": f"/{hub.store.path.name}/git-upload-pack"}
    env |= {"REQUEST_METHOD": "POST", "QUERY_STRING": "", "CONTENT_LENGTH": str(len(want))}
    env |= {"CONTENT_TYPE": "application/x-git-upload-pack-request"}
    return (await anyio.run_process(["git", "http-backend"], input=want, env=env)).stdout


async def _fetch_all(names: Iterable[ClusterName], fetched: Callable[[ClusterName], Awaitable[bytes]]) -> None:
    todo = iter(names)

    async def some() -> None:
        for name in todo:
            assert b"PACK" in await fetched(name)

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(some)


PER_CLUSTER: Final = (
    ("first_s", "first render", "ms/cluster", 1e3),
    ("first_cpu_s", "first render, processor time of hub and workers", "ms/cluster", 1e3),
    ("one_bundle_s", "a commit that changes one bundle", "ms/cluster", 1e3),
    ("one_bundle_cpu_s", "a commit that changes one bundle, processor time", "ms/cluster", 1e3),
    ("one_cluster_s", "a commit that changes one cluster", "ms/cluster", 1e3),
    ("one_cluster_cpu_s", "a commit that changes one cluster, processor time", "ms/cluster", 1e3),
    ("nothing_s", "a commit that changes nothing", "ms/cluster", 1e3),
    ("hub_mb", "memory of the hub", "kB/cluster", 1e3),
    ("disk_mb", "slices on disk", "kB/cluster", 1e3),
    ("disk_mb_for_one_bundle", "growth on disk, a rollout of one bundle", "kB/cluster", 1e3),
    ("journal_mb", "journal on disk", "kB/cluster", 1e3),
    ("needed_s", "what is needed, looked up for a collection", "ms/cluster", 1e3),
)
TURNS: Final = (
    ("start", "the turn that starts 20 rollouts", "ms/cluster", 1e3),
    ("start_cpu", "the turn that starts 20 rollouts, processor time", "ms/cluster", 1e3),
    ("proof", "the turns that take the proof of 20 rollouts", "ms/cluster", 1e3),
    ("proof_cpu", "the turns that take the proof of 20 rollouts, processor time", "ms/cluster", 1e3),
    ("one_bundle_start", "the turn that starts one rollout", "ms/cluster", 1e3),
    ("one_bundle_start_cpu", "the turn that starts one rollout, processor time", "ms/cluster", 1e3),
    ("one_bundle_proof", "the turns that take its proof", "ms/cluster", 1e3),
    ("one_bundle_proof_cpu", "the turns that take its proof, processor time", "ms/cluster", 1e3),
    ("idle_turn", "turns that take a heartbeat each", "µs/cluster", 1e6),
    ("fleet_view", "a look at the whole fleet", "µs/cluster", 1e6),
    ("written_mb", "written to the journal for one rollout", "kB/cluster", 1e3),
)
WHOLE: Final = (
    ("fetches_per_s_equal", "first fetches of one slice", "fetches/s"),
    ("fetches_per_s_different", "first fetches of different slices", "fetches/s"),
    ("fetches_per_s_by_git", "the same by git http-backend, without a web server", "fetches/s"),
)


def measure(sizes: Sequence[int], *, turns_of: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of the table: what a cluster costs in the largest fleet of `sizes`, in turns in that of `turns_of`, and
    as detail in each."""
    rows: list[dict[str, Any]] = []
    for alike in (True, False):
        fleets = {count: min(SETS, count) if alike else count for count in {*sizes, *turns_of}}
        kind = f"hub, {SETS} sets of variables" if alike else "hub, each cluster its own variables"
        found = {count: _run("tests.bench.hub", "--one", str(count), str(fleets[count])) for count in sizes}
        rows += _per_cluster(kind, found, PER_CLUSTER)
        for key, what, unit in WHOLE:
            detail = {f"{count:,}": one[key] for count, one in found.items()}
            rows.append({"what": f"{kind}: {what}", "value": found[sizes[-1]][key], "unit": unit, "detail": detail})
        turns = {count: _run("tests.bench.turns", str(count), str(fleets[count])) for count in turns_of}
        rows += _per_cluster(kind, turns, TURNS)
    return rows


def _per_cluster(
    kind: str, found: Mapping[int, Mapping[str, float]], figures: Iterable[tuple[str, str, str, float]]
) -> list[dict[str, Any]]:
    rows = []
    for key, what, unit, factor in figures:
        detail = {f"{count:,}": float(f"{one[key] * factor / count:.3g}") for count, one in found.items()}
        rows.append({"what": f"{kind}: {what}", "value": [*detail.values()][-1], "unit": unit, "detail": detail})
    return rows


def _run(*arguments: str) -> dict[str, float]:
    """One fleet in a process of its own, so that its memory is its own."""
    print(f"measuring: python -m {' '.join(arguments)}", file=sys.stderr, flush=True)  # the largest take minutes
    done = subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


SIZES: Final = (100, 1_000, 10_000)
QUICK_TURNS: Final = SIZES[:2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hub", description=__doc__)
    parser.add_argument("--full", action="store_true", help="turns of the loop with 10,000 clusters too")
    parser.add_argument("--one", nargs=2, type=int, metavar=("CLUSTERS", "SETS"), help="one fleet, in this process")
    options = parser.parse_args()
    if options.one:
        collector.seldom()  # as a hub does
        with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
            print(json.dumps(anyio.run(measured, Path(folder), *options.one)))
        return
    for row in measure(SIZES, turns_of=SIZES if options.full else QUICK_TURNS):
        sizes = ", ".join(f"{count}: {value:g}" for count, value in row["detail"].items())
        print(f"{row['what']:<85} {row['value']:>8g} {row['unit']:<11} {sizes}")


if __name__ == "__main__":
    main()
