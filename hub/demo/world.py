"""The demo's fleet as processes: a hub, and per cluster an agent and a simulated API server.

Everything lives in one folder and on loopback, and is used as a person uses it: commits with git (`fleet`), the hub
through its API and `flotilla`, clusters through theirs, as somebody with kubectl does. Next: `story` plays with it,
`view` looks at it.
"""

import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
import anyio

from hub.demo.fleet import SAMPLE, Repo
from hub.demo.kubectl import RealCluster, Target
from hub.demo.processes import Process
from proto.errors import Permanent, Transient

T = TypeVar("T")

SIMULATED = ("-m", "hub.sim")
HEARTBEAT_S = 1.0
POLL_S = 0.25
START_S = 60.0
STARTED_AT_ONCE = 4
"""Python programs that start at one moment: more of them only wait for each other."""


class Cluster(Protocol):
    """What the world needs of a cluster, besides what somebody with kubectl does there."""

    @property
    def agent_arguments(self) -> Sequence[str]:
        """How its agent reaches it."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def get(self, path: str) -> Any: ...
    async def patch(self, path: str, patch: object, *, manager: str) -> Any: ...
    async def delete(self, path: str) -> None: ...


class SimulatedCluster:
    """One simulated cluster: its API server's process, and what somebody with kubectl does there."""

    def __init__(self, name: str, folder: Path, session: aiohttp.ClientSession) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self.kubeconfig = folder / "kubeconfig"
        self.agent_arguments = (f"--kubeconfig={self.kubeconfig}",)
        self._session = session
        self._process = Process(
            [sys.executable, *SIMULATED, "--port=0", f"--kubeconfig={self.kubeconfig}"],
            log=folder / "api-server.log",
        )
        self._url = self._token = ""

    async def start(self) -> None:
        await self._process.start()
        await wait_for(f"cluster {self.name}", self._ready, timeout_s=START_S, process=self._process)

    async def stop(self) -> None:
        await self._process.stop()

    async def _ready(self) -> bool:
        try:
            config = json.loads(self.kubeconfig.read_bytes())
            self._url = config["clusters"][0]["cluster"]["server"]
            self._token = config["users"][0]["user"]["token"]
            return await self.get("/version") is not None
        except (OSError, ValueError, aiohttp.ClientError):
            return False

    async def get(self, path: str) -> Any:
        """The object at a path; None when there is none."""
        return await self._call("GET", path)

    async def patch(self, path: str, patch: object, *, manager: str) -> Any:
        """Merge something into an object, as `kubectl edit` does."""
        kind = "application/merge-patch+json" if isinstance(patch, dict) else "application/json-patch+json"
        return await self._call("PATCH", f"{path}?fieldManager={manager}", patch, content_type=kind)

    async def delete(self, path: str) -> None:
        await self._call("DELETE", path)

    async def _call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        async with self._session.request(
            method,
            self._url + path,
            data=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": content_type},
        ) as response:
            if response.status == 404:
                return None
            answer = await response.json(content_type=None)
            if response.status >= 300:
                raise Permanent(f"{method} {self.name}{path}", f"was answered {response.status}: {answer}")
            return answer


class World:
    """The fleet. `open_world` makes one and cleans it up; `set_up` starts everything."""

    def __init__(
        self, folder: Path, clusters: Mapping[str, Cluster], session: aiohttp.ClientSession, *, real: bool = False
    ) -> None:
        self.folder = folder
        self.repo = Repo(folder / "fleet", real=real)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.clusters = clusters
        self.offline: set[str] = set()
        self._session = session
        self._hub = Process(
            [
                sys.executable,
                "-m",
                "hub.main",
                f"--fleet={self.repo.path}",
                f"--data={folder / 'hub'}",
                f"--listen={self.url.removeprefix('http://')}",
                f"--poll={POLL_S}",
                f"--heartbeat={HEARTBEAT_S}",
            ],
            log=folder / "hub.log",
        )
        self._agents = {
            name: Process(
                [
                    sys.executable,
                    "-m",
                    "agent.main",
                    f"--hub={self.url}",
                    f"--join-token-file={folder / 'clusters' / name / 'join-token'}",
                    f"--state-dir={folder / 'clusters' / name / 'agent'}",
                    *cluster.agent_arguments,
                ],
                log=folder / "clusters" / name / "agent.log",
            )
            for name, cluster in self.clusters.items()
        }

    @property
    def hub_runs(self) -> bool:
        return self._hub.alive

    async def set_up(self, clusters: str | None, say: Callable[[str], None]) -> None:
        """Start everything and wait until every cluster runs the first commit."""
        await self.repo.create(SAMPLE, clusters)
        say("starting the hub; reaching the clusters")
        await _together([self.start_hub, *(cluster.start for cluster in self.clusters.values())])
        say("starting the agents; each joins with a token of its own")
        await _together([partial(self.join, name) for name in self.clusters])
        say("the first commit goes out; the shop waits behind its canary until somebody approves")
        waiting = await wait_for("a gate", self.at_gate, timeout_s=START_S)
        await self.flotilla("approve", waiting[0], "--reason", "it begins")
        await wait_for("a fleet that runs the first commit", self._settled, timeout_s=START_S + len(self.clusters))

    async def _settled(self) -> bool:
        fleet = await self.api("fleet")
        health = fleet["clusters"]["health"]
        return not fleet["rollouts"] and health == {"Current": len(self.clusters)} and fleet["bundles"] > 0

    async def at_gate(self) -> list[str]:
        """The rollouts that wait for a person's word."""
        rows = (await self.api("rollouts?limit=20"))["rollouts"]
        return [row["id"] for row in rows if row["phase"] == "running" and " waits at gate " in row["reason"]]

    async def tear_down(self) -> None:
        """End every process: agents first, so that they can still say goodbye."""
        with anyio.CancelScope(shield=True):
            for group in (self._agents.values(), [self._hub], self.clusters.values()):
                async with anyio.create_task_group() as tasks:
                    for process in group:
                        tasks.start_soon(process.stop, name="stop")

    # --- what happens to it ---------------------------------------------------------------------------------------

    async def start_hub(self) -> None:
        await self._hub.start()
        await wait_for("the hub", self._hub_ready, timeout_s=START_S, process=self._hub)

    async def stop_hub(self) -> None:
        await self._hub.stop()

    async def _hub_ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def join(self, name: str) -> None:
        """Start a cluster's agent for the first time, with a join token."""
        token = (self.folder / "hub/admin.token").read_text().strip()
        async with self._session.post(
            f"{self.url}/api/v1/join-tokens", json={"cluster": name}, headers={"Authorization": f"Bearer {token}"}
        ) as response:
            made = await response.json()
        if "token" not in made:
            raise Permanent(f"join token of {name}", f"was refused: {made.get('error', made)}")
        file = self.folder / "clusters" / name / "join-token"
        file.touch(mode=0o600)
        file.write_text(made["token"])
        await self.connect(name)

    async def connect(self, name: str) -> None:
        """Bring a cluster back: its agent starts and knows where it was."""
        await self._agents[name].start()
        self.offline.discard(name)

    async def cut(self, name: str) -> None:
        """Take a cluster offline: nobody speaks for it any more."""
        self.offline.add(name)
        await self._agents[name].stop()

    # --- how it is ------------------------------------------------------------------------------------------------

    async def api(self, path: str) -> Any:
        """GET from the hub's API. Raises Transient when it does not answer."""
        try:
            async with self._session.get(f"{self.url}/api/v1/{path}") as response:
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Transient(f"hub {self.url}", f"does not answer: {error}") from error

    async def flotilla(self, *words: str) -> str:
        """What Dana's command says. Raises Permanent when it does not do as it was told."""
        done = await anyio.run_process(
            [sys.executable, "-c", "from hub.cli import main; main()", *words, f"--hub={self.url}"],
            env={**os.environ, "FLOTILLA_TOKEN_FILE": str(self.folder / "hub/admin.token"), "USER": "dana"},
            check=False,
        )
        if done.returncode != 0:
            raise Permanent(f"flotilla {words[0]}", done.stderr.decode().strip())
        return done.stdout.decode()

    def logs(self) -> str:
        """The ends of all logs that say something, for whoever looks for what went wrong."""
        named = {"hub": self._hub, **{f"agent {name}": agent for name, agent in self._agents.items()}}
        return "\n".join(f"--- {name}\n{tail}" for name, process in named.items() if (tail := process.tail()))


@asynccontextmanager
async def open_world(folder: Path, names: Sequence[str] = (), *, real: Sequence[Target] = ()) -> AsyncIterator[World]:
    """A world that ends with the block, with all its processes: of simulated clusters, or of `real` ones."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        clusters: dict[str, Cluster] = {
            name: SimulatedCluster(name, folder / "clusters" / name, session) for name in names
        }
        for target in real:
            clusters[target.cluster] = RealCluster(target, folder / "clusters" / target.cluster)
        world = World(folder, clusters, session, real=bool(real))
        try:
            yield world
        finally:
            await world.tear_down()


async def wait_for(
    what: str, check: Callable[[], Awaitable[T]], *, timeout_s: float, process: Process | None = None
) -> T:
    """The first true result of `check`; a hub that is away for a moment is none. Raises Permanent about `what`."""
    with anyio.move_on_after(timeout_s):
        while process is None or process.alive:
            try:
                if found := await check():
                    return found
            except Transient:
                pass
            await anyio.sleep(0.1)
        raise Permanent(what, f"ended while it started:\n{process.tail()}")
    raise Permanent(what, f"was not seen within {timeout_s:.0f} s")


async def _together(todo: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run all, a few at once."""
    limiter = anyio.CapacityLimiter(STARTED_AT_ONCE)

    async def one(function: Callable[[], Awaitable[None]]) -> None:
        async with limiter:
            await function()

    try:
        async with anyio.create_task_group() as tasks:
            for function in todo:
                tasks.start_soon(one, function, name="start")
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
