"""A whole hub with a source from outside of the fleet repo: real worker processes, restarts, and a person's refresh."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pygit2
import pytest

from hub.wiring import Hub
from proto.ids import BundleName, ClusterName
from tests.served import WHO, Repo, Served, basic, serving

SHOP, EU = BundleName("shop"), ClusterName("eu-1")
CLUSTER = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: eu-1}\nspec: {}\n"


def config(text: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{text: '{text}'}}\n"


class World:
    """One hub's fleet repo and data, and the server that its bundle comes from."""

    def __init__(self, folder: Path, served: Served) -> None:
        self.folder, self.served = folder, served
        self.credentials = folder / "credentials.yaml"
        self.credentials.write_text(f"team-a: {{for: ['{served.url}'], username: bot, password: hunter2}}\n")
        served.wants = basic("bot", "hunter2")
        repo = pygit2.init_repository(str(folder / "fleet"), initial_head="main")
        bundle = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop}\nspec:\n  targets: {}\n"
        bundle += f"  source: {{git: {{url: '{served.url}/app.git', branch: main, credentials: team-a}}}}\n"
        for path, text in {"clusters/eu.yaml": CLUSTER, "bundles/shop/bundle.yaml": bundle}.items():
            place = folder / "fleet" / path
            place.parent.mkdir(parents=True)
            place.write_text(text)
        repo.index.add_all()
        repo.create_commit("refs/heads/main", WHO, WHO, "First", repo.index.write_tree(), [])

    @asynccontextmanager
    async def hub(self) -> AsyncIterator[tuple[Hub, Callable[[str, Any], Awaitable[tuple[int, Any]]]]]:
        """The hub, and a way to post to its API."""
        hub = Hub(
            fleet=str(self.folder / "fleet"),
            branch="main",
            data=self.folder / "hub",
            poll_s=0.2,
            heartbeat_s=1.0,
            source_credentials=self.credentials,
        )
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

                async def post(path: str, body: Any) -> tuple[int, Any]:
                    headers = {"Authorization": f"Bearer {hub.admin_token}"}
                    async with session.post(path, json=body, headers=headers) as response:
                        return response.status, await response.json()

                yield hub, post
            tasks.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.02)


@pytest.fixture
def world(tmp_path: Path, repo: Repo) -> Iterator[World]:
    with serving(tmp_path / "served") as served:
        yield World(tmp_path, served)


async def test_a_hub_fetches_pins_restarts_and_refreshes(world: World, repo: Repo) -> None:
    first = repo.commit({"a.yaml": config("one")})
    async with world.hub() as (hub, _):
        await until(lambda: hub.loop.desired is not None)
        assert hub.loop.desired is not None
        assert hub.loop.desired.findings == ()
        assert hub.loop.desired.pins[SHOP].digest == first
        before = hub.loop.desired.subtrees[SHOP][EU]
    second = repo.commit({"a.yaml": config("two")})
    world.served.down = True
    async with world.hub() as (hub, post):
        await until(lambda: hub.loop.desired is not None)
        assert hub.loop.desired is not None
        assert (hub.loop.desired.subtrees[SHOP][EU], hub.loop.desired.findings) == (before, ())
        world.served.down = False
        status, answer = await post("/api/v1/sync", {"refresh": ["shpo"], "actor": "ada"})
        assert (status, "did you mean 'shop'?" in str(answer)) == (400, True)
        for wrong in ("shop", [1], {"a": 1}):
            assert (await post("/api/v1/sync", {"refresh": wrong}))[0] == 400
        assert (await post("/api/v1/sync", {"refresh": ["shop"], "actor": "ada"}))[0] == 200
        await until(lambda: hub.loop.desired is not None and hub.loop.desired.pins[SHOP].digest == second)
        assert hub.loop.desired.subtrees[SHOP][EU] != before
        texts = [event.text for event in hub.journal.events(limit=1000)]
        assert "ada: resolve the source anew of shop" in texts
        assert f"bundle shop: its source is main ({second})" in texts
        assert not any("hunter2" in text for text in texts)
    assert {header for _, header in world.served.heard} <= {"", basic("bot", "hunter2")}


async def test_a_source_that_is_away_when_the_hub_starts_is_taken_once_it_is_there(
    world: World, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.pins.RETRY_S", 0.1)
    monkeypatch.setattr("hub.pins.MOST_RETRY_S", 0.1)
    monkeypatch.setattr("hub.pins.LOOK_EVERY_S", 0.05)
    first = repo.commit({"a.yaml": config("one")})
    world.served.down = True
    async with world.hub() as (hub, _):
        await until(lambda: hub.loop.desired is not None)
        assert hub.loop.desired is not None
        assert hub.loop.desired.failed == {SHOP}
        world.served.down = False
        await until(lambda: hub.loop.desired is not None and not hub.loop.desired.failed)
        assert hub.loop.desired.pins[SHOP].digest == first
