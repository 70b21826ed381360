"""One hub's life, cut short at each of its durable steps: `python -m tests.crash how folder every`.

The hub is the real one, wired by `hub.main`, without its listener; rendering and housekeeping run inside it, so that
their steps count too. Its life is four commits of a fleet repo, a hundred days apart (histories begin anew), and what
follows them: three rollouts, and one that fails and is rolled back; after each, packs merge and garbage goes. Agents
are whatever their slices say. The clock stands still within a stage, since the ids of commits have their time in them.

A step is a system call that makes something durable (or the moment before and after a transaction, a ref, a fetch or a
wake-up). `kill` ends the process at step N as SIGKILL does; `full` makes step N fail as a full disk does, once, and
the process goes on. Then the hub starts again and lives to the end; what is left must be what an undisturbed life
leaves, and whole to the stock git. Told as JSON lines: one for each N.
"""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pygit2

from hub import housekeeping, worker
from hub.inputs import FromAgent
from hub.slices import gitstore
from hub.state import FINAL
from hub.wiring import Hub
from proto.errors import FlotillaError
from proto.ids import ClusterName
from proto.messages import BundleReport, Health, Report

CLUSTERS = (ClusterName("canary"), ClusterName("eu-1"), ClusterName("us-1"))
STAGES = ("one", "two", "three", "bad")
DAY_S, HEARTBEAT_S, START_S = 86400.0, 1.0, 1_700_000_000.0
KILLED = 9
LIMIT_S = 100
"""Of one life, which takes a second or two: one that waits for ever is wrong too."""
_FULL = OSError(errno.ENOSPC, "No space left on device")

FILES = {
    "clusters/all.yaml": "".join(
        "---\napiVersion: flotilla.dev/v1alpha1\nkind: Cluster\n"
        f"metadata: {{name: {name}, labels: {{canary: '{str(name == CLUSTERS[0]).lower()}'}}}}\nspec: {{}}\n"
        for name in CLUSTERS
    ),
    "rollouts/careful.yaml": """apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  waves:
    - {name: canary, select: {matchLabels: {canary: "true"}}, soak: 0s}
""",
    "bundles/shop/bundle.yaml": """apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {targets: {}, namespace: shop, rollout: careful}
""",
    "bundles/shop/settings.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {text: TEXT}\n",
    "bundles/shop/more.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {same: everywhere}\n",
}


class Steps:
    """Counts the durable steps of this process, and lets `last` go wrong."""

    def __init__(self, last: int, *, full: bool) -> None:
        self.count = 0
        self._last = last
        self._full = full

    def step(self, error: Exception) -> None:
        if self.count == self._last:
            self.count += 1
            if not self._full:
                os._exit(KILLED)
            raise error
        self.count += 1

    def before(self, call: Callable[..., Any], error: Exception = _FULL) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.step(error)
            return call(*args, **kwargs)

        return wrapped

    def around(self, call: Callable[..., Any], error: Exception | None) -> Callable[..., Any]:
        """As `before`, and a kill after it too: what is done cannot fail any more, and what has no `error` never."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if error is not None or not self._full:
                self.step(error or _FULL)
            done = call(*args, **kwargs)
            if not self._full:
                self.step(_FULL)
            return done

        return wrapped

    def patch(self) -> None:
        for name in ("fsync", "rename", "unlink", "fchmod"):
            setattr(os, name, self.before(getattr(os, name)))
        git = pygit2.GitError("failed to write: No space left on device")
        pygit2.Remote.fetch = self.around(pygit2.Remote.fetch, git)  # type: ignore[method-assign]
        references: Any = pygit2.references.References
        references.create = self.around(references.create, git)
        references.delete = self.around(references.delete, git)
        steps, full = self, sqlite3.OperationalError("database or disk is full")

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                done: Callable[..., sqlite3.Cursor] = super().execute
                if sql == "COMMIT":
                    done = steps.around(done, full)
                elif sql.startswith("BEGIN"):
                    done = steps.before(done, full)
                return done(sql, *args)

        setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))  # noqa: B010


class Upstream:
    """The fleet repo: one commit for each stage, all made before."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fleet"
        if not self.path.exists():
            repo = pygit2.init_repository(str(self.path), bare=True, initial_head="main")
            who = pygit2.Signature("Ada", "ada@example.org", int(START_S), 0)
            parents: list[str | pygit2.Oid] = []
            for stage in STAGES:
                index = pygit2.Index()
                for path, text in FILES.items():
                    blob = repo.create_blob(text.replace("TEXT", stage).encode())
                    index.add(pygit2.IndexEntry(path, blob, pygit2.enums.FileMode.BLOB))
                parents = [repo.create_commit(f"refs/stages/{stage}", who, who, stage, index.write_tree(repo), parents)]

    def at(self, stage: str) -> str:
        """Where the branch is from now on."""
        repo = pygit2.Repository(str(self.path))
        tip = str(repo.references[f"refs/stages/{stage}"].target)
        (self.path / "refs/heads/main").write_text(f"{tip}\n")
        return tip


async def live(folder: Path, steps: Steps) -> None:
    """Go on from wherever the last life ended, to the end of all stages."""
    upstream = Upstream(folder)
    gitstore.MAX_PACKS = 2

    async def inside(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *args)

    worker.run = inside  # type: ignore[assignment]
    done = folder / "done"
    done.mkdir(exist_ok=True)
    left = [stage for stage in STAGES if not (done / stage).exists()]
    upstream.at(left[0])
    now = [_begin_s(left[0])]
    steps.patch()
    hub = await _started(folder, upstream, now, steps)
    try:
        for stage in left:
            tip = upstream.at(stage)
            await _stage(hub, now, begin_s=_begin_s(stage), bad=tip if stage == "bad" else "")
            (done / stage).touch()
    finally:
        hub.loop.close()


def _begin_s(stage: str) -> float:
    return START_S + 100 * DAY_S * STAGES.index(stage)


async def _started(folder: Path, upstream: Upstream, now: list[float], steps: Steps) -> Hub:
    for attempt in range(3):
        try:
            hub = Hub(
                fleet=str(upstream.path),
                branch="main",
                data=folder / "hub",
                poll_s=3600.0,
                heartbeat_s=HEARTBEAT_S,
                clock=lambda: now[0],
            )
            break
        except (FlotillaError, OSError):
            if attempt == 2:
                raise
    copies = hub.loop._copies
    copies._wake = steps.around(copies._wake, None)
    await _again(hub.loop.publish_all)
    return hub


async def _again(work: Callable[..., Any]) -> None:
    """What fails for want of room is tried again, as the hub's loops do."""
    for _ in range(3):
        try:
            await work()
            return
        except FlotillaError:
            pass
    await work()


async def _stage(hub: Hub, now: list[float], *, begin_s: float, bad: str) -> None:
    number = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.loop.run, name="loop")
        now[0] = begin_s
        await _again(partial(hub.loop.tell, FromAgent(cluster=CLUSTERS[0], report=_report(hub, CLUSTERS[0], 0, bad))))
        now[0] = begin_s + 3 * HEARTBEAT_S  # agents had their time to be heard after so long
        await _again(hub.upstream.sync)
        while True:
            for cluster in CLUSTERS:
                number += 1
                await _again(
                    partial(hub.loop.tell, FromAgent(cluster=cluster, report=_report(hub, cluster, number, bad)))
                )
            states = hub.loop.states.values()
            if not hub.loop.problem and all(state.phase in FINAL for state in states) and _told(hub):
                break
        keeper: housekeeping.Housekeeping = hub.housekeeping
        await _again(keeper.look)
        await _again(partial(keeper.collect, least=0.0))
        await _again(hub.loop.publish_all)
        tasks.cancel_scope.cancel()


def _told(hub: Hub) -> bool:
    """Is the newest commit everywhere, or refused after it failed?"""
    tip = hub.upstream.tip
    rows = hub.loop.slices
    return len(rows) == len(CLUSTERS) and (
        bool(hub.loop.holds) or all(row.manifest.bundles["shop"].revision == tip for row in rows.values())
    )


def _report(hub: Hub, cluster: ClusterName, number: int, bad: str) -> Report:
    row = hub.loop.slices.get(cluster)
    bundles = {
        name: BundleReport(
            subtree=entry.subtree,
            health=Health.FAILED if entry.revision == bad else Health.CURRENT,
            converged=entry.revision != bad,
        )
        for name, entry in (row.manifest.bundles if row else {}).items()
    }
    return Report(
        number=number,
        boot_id=str(os.getpid()),
        seq=row.seq if row else 0,
        commit=row.commit if row else "",
        full=True,
        bundles=bundles,
    )


def left_behind(folder: Path) -> dict[str, Any]:
    """Everything that a life decided and told, by the stock git and SQLite alone."""
    db = sqlite3.connect(folder / "hub/journal.db")
    asked = {
        "slices": "SELECT cluster, seq, commit_id FROM slices ORDER BY 1",
        "moves": "SELECT cluster, seq, old_commit, new_commit, time_s FROM moves ORDER BY 1, 2",
        "rollouts": "SELECT number, id, phase FROM rollouts ORDER BY 1",
        "holds": "SELECT bundle, rollout FROM holds ORDER BY 1",
        "good": "SELECT cluster, bundle, subtree FROM last_good ORDER BY 1, 2",
        "events": "SELECT kind, cluster, rollout, text FROM events WHERE rollout != '' ORDER BY 1, 2, 3, 4",
    }
    found: dict[str, Any] = {name: db.execute(query).fetchall() for name, query in asked.items()}
    db.close()
    slices = folder / "hub/slices.git"
    found["refs"] = _git(slices, "for-each-ref", "--format=%(refname) %(objectname)")
    found["logs"] = [_git(slices, "log", "--format=%H %s", commit) for _, _, commit in found["slices"]]
    found["files"] = [
        _git(slices, "ls-tree", "-r", "--format=%(objectname) %(path)", row[2]) for row in found["slices"]
    ]
    found["fsck"] = [_fsck(slices), _fsck(folder / "hub/fleet.git")]
    found["rubbish"] = sorted(str(path.relative_to(folder)) for path in slices.rglob("tmp_*"))
    return found


def _git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, text=True, check=False)
    return done.stdout + (done.stderr if done.returncode else "")


def _fsck(repo: Path) -> str:
    """Everything that git has to say but what nobody refers to."""
    said = _git(repo, "fsck", "--strict", "--full", "--no-dangling", "--no-progress")
    return "\n".join(line for line in said.splitlines() if not line.startswith(("dangling", "notice")))


def _life(folder: Path, last: int, *, full: bool = False) -> tuple[int, int]:
    """One life in a child process: its exit code, and how many steps it took."""
    folder.mkdir(exist_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(LIMIT_S)
        try:
            steps = Steps(last, full=full)
            anyio.run(live, folder, steps)
            os.write(writer, str(steps.count).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told:
        count = int(told.read() or "0")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), count


def main(how: str, base: str, every: str) -> None:
    folder = Path(base)
    folder.mkdir(parents=True, exist_ok=True)
    code, count = _life(folder / "undisturbed", -1, full=how == "full")
    assert code == 0, "an undisturbed life fails"
    expected = left_behind(folder / "undisturbed")
    print(json.dumps({"steps": count, "left": expected}), flush=True)
    for last in range(0, count, int(every)):
        place = folder / str(last)
        code, _ = _life(place, last, full=how == "full")
        again = 0 if code == 0 else _life(place, -1)[0]
        found = left_behind(place)
        wrong = {name: (expected[name], found[name]) for name in expected if expected[name] != found[name]}
        print(json.dumps({"step": last, "code": code, "again": again, "wrong": wrong}), flush=True)
        shutil.rmtree(place)


if __name__ == "__main__":
    main(*sys.argv[1:])
