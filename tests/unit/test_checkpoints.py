"""A checkpoint cuts a cluster's history: the hub that makes it, its Git serving, and agents that were there or not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from anyio import to_thread

from agent.stream.git_host import Login
from agent.stream.receive import Receiver
from hub.slices import compose, git_http
from hub.wiring import Chain
from proto.ids import ClusterName
from tests.git_host import git
from tests.unit.test_loop import CANARY, EU, SHOP, Hub, rolled_out, running

TOKEN = "t0ken"
AGE_S = 3600
LOGIN = Login(user=CANARY, password=TOKEN)


@asynccontextmanager
async def serving(hub: Hub) -> AsyncIterator[str]:
    """The address of the canary's slice."""
    app = web.Application()
    app.add_routes(
        git_http.routes(
            hub.store,
            cluster_of=lambda token: CANARY if token == TOKEN else EU,
            chain=lambda cluster: Chain(hub.loop, hub.journal, ClusterName(cluster)),
        )
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/git/{CANARY}.git"
    finally:
        await runner.cleanup()


async def test_agents_follow_a_cut_history_whether_they_saw_the_cut_missed_it_or_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "HISTORY_S", AGE_S)
    online, offline = (Receiver(tmp_path / name, CANARY) for name in ("online", "offline"))

    async def wake() -> None:
        """What the online agent does with the newest wake-up."""
        told = [wake for cluster, wake in hub.woken if cluster == CANARY][-1]
        if not await online.offer(told):
            await online.fetch(url, LOGIN)
        assert online.desired().commit == told.commit

    async with running(tmp_path / "hub") as hub, serving(hub) as url:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        await wake()
        assert await offline.fetch(url, LOGIN)
        clone = partial(git, "-C", str(tmp_path / "clone"))
        address = url.replace("://", f"://{CANARY}:{TOKEN}@")
        cloning = partial(git, "clone", "--quiet", "--branch", f"clusters/{CANARY}", address)
        await to_thread.run_sync(cloning, str(tmp_path / "clone"))

        hub.clock.now += AGE_S + 1
        await rolled_out(hub, "b", {SHOP: hub.subtree("shop", "two")})
        cut = hub.loop.slices[CANARY].commit
        assert list(hub.store.history(cut)) == [cut], "it has no parent"
        await wake()
        await rolled_out(hub, "c", {SHOP: hub.subtree("shop", "three")})
        await wake()

        fresh = Receiver(tmp_path / "fresh", CANARY)
        for agent in (offline, fresh):
            assert await agent.fetch(url, LOGIN)
        newest = hub.loop.slices[CANARY]
        for agent in (online, offline, fresh):
            assert (agent.desired().seq, agent.desired().commit) == (newest.seq, newest.commit)
            assert all(agent.blob(oid) for oid in agent.desired().bundles["shop"].objects.values())
            assert not await agent.fetch(url, LOGIN)

        # Stock git: a new clone has what follows the cut, an old one is told that its branch was begun anew.
        await to_thread.run_sync(cloning, str(tmp_path / "new"))
        log = git("-C", str(tmp_path / "new"), "log", "--format=%H").split()
        assert log == [newest.commit, cut]
        git("-C", str(tmp_path / "new"), "fsck", "--strict")
        await to_thread.run_sync(clone, "fetch", "--quiet")
        assert clone("rev-parse", f"origin/clusters/{CANARY}").strip() == newest.commit
        clone("fsck", "--strict")

        # A restart of each has it still.
        for name in ("online", "offline", "fresh"):
            assert Receiver(tmp_path / name, CANARY).desired().commit == newest.commit
