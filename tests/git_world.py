"""Git serving over a real socket, and the stock git client beside it."""

import io
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx
from multidict import CIMultiDictProxy

from hub.slices import compose, git_http
from hub.slices.gitstore import GitStore
from hub.slices.trees import subtree
from proto.errors import Refused
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import BundleEntry

VERSIONS = pytest.mark.parametrize("version", ["0", "1", "2"])
SOME = {f"ns/ConfigMap/{i}.json": b"%d" % i * 100 for i in range(30)}


class FakeChain:
    """A list of commits in the place of the journal's table."""

    def __init__(self, commits: list[Oid]) -> None:
        self._commits = commits

    @property
    def tip(self) -> Oid | None:
        return self._commits[-1] if self._commits else None

    def __contains__(self, commit: Oid) -> bool:
        return commit in self._commits


class WatchedStore(GitStore):
    """Counts how often the repository is asked for what a client wants."""

    looked = 0

    def missing(self, wants: Any, haves: Any) -> Any:
        self.looked += 1
        return super().missing(wants, haves)


@dataclass
class World:
    """One hub with its slice repository, served at `url`; `token-<cluster>` opens a cluster's slice."""

    store: WatchedStore
    home: Path
    url: str = ""
    chains: dict[str, list[Oid]] = field(default_factory=dict)
    broken: Exception | None = None
    connections: Callable[[], int] = lambda: 0
    """How many are open."""

    def chain(self, cluster: str) -> FakeChain:
        self.home.stat()  # blocks as the journal does: blockbuster fails whoever calls this on the event loop
        if self.broken:
            raise self.broken
        return FakeChain(self.chains.get(cluster, []))

    def cluster_of(self, token: str) -> str:
        if not token.startswith("token-"):
            raise Refused("token", "was not issued by this hub", "reconnect the agent")
        return token.removeprefix("token-")

    async def move(self, cluster: str, files: dict[str, bytes], *, bundle: str = "shop") -> Oid:
        """The cluster's next slice: `bundle` becomes `files`."""
        return await anyio.to_thread.run_sync(self._move, cluster, files, bundle)

    def _move(self, cluster: str, files: dict[str, bytes], bundle: str) -> Oid:
        chain = self.chains.setdefault(cluster, [])
        tree, objects = subtree({"bundle.json": b"{}\n", **files})
        self.store.write(objects)
        made = compose.compose(
            cluster=ClusterName(cluster),
            seq=len(chain) + 1,
            parent=chain[-1] if chain else None,
            parent_time_s=1_700_000_000 + len(chain),
            current=self.store.manifest(chain[-1]) if chain else None,
            changes={BundleName(bundle): BundleEntry(subtree=tree, revision="f" * 40, rollout=f"r-{len(chain)}")},
            keys=self.store.keys,
            time_s=1_700_000_001 + len(chain),
        )
        assert made is not None
        self.store.write(made.objects)
        chain.append(made.commit)
        return made.commit

    def address(self, cluster: str, *, token: str | None = None) -> str:
        host = self.url.removeprefix("http://")
        return f"http://agent:{token or 'token-' + cluster}@{host}/git/{cluster}.git"

    async def git(self, *arguments: str, fails: bool = False, **environment: str) -> str:
        """The stock git, knowing nothing of this machine; its output, or its complaints when it `fails`."""
        everything = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "NO_PROXY": "*",
            **environment,
        }

        def run() -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=False, env=everything, cwd=self.home
            )

        done = await anyio.to_thread.run_sync(run)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str = "token-eu-1",
        data: bytes | io.BytesIO | None = None,
        **headers: str,
    ) -> tuple[int, bytes, "CIMultiDictProxy[str]"]:
        """One plain HTTP request: status, body, headers."""
        sent = {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): text for name, text in headers.items()}}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(method, self.url + path, data=data, headers=sent) as answer,
        ):
            return answer.status, await answer.read(), answer.headers


@pytest.fixture(name="world")
async def served(tmp_path: Path) -> AsyncIterator[World]:
    home = tmp_path / "home"
    home.mkdir()
    store = await anyio.to_thread.run_sync(WatchedStore.create, tmp_path / "slices.git")
    made = World(store=store, home=home)
    app = web.Application()
    app.add_routes(git_http.routes(made.store, cluster_of=made.cluster_of, chain=made.chain))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = runner.server
    assert server is not None
    made.connections = lambda: len(server.connections)
    with blockbuster_ctx(scanned_modules="hub"):
        yield made
    await runner.cleanup()
