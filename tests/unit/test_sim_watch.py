"""Watches of the simulated server: what is there, what changes, bookmarks, and the order of events and answers."""

from contextlib import aclosing
from typing import Any

import aiohttp
import anyio
import orjson
import pytest

from hub.sim import discovery, selectors, watch
from hub.sim.access import User
from hub.sim.api import Api
from hub.sim.server import SimServer
from hub.sim.store import Store
from hub.sim.writes import Options


def config(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"k": "v"}}


def asked(api: Api, **changes: Any) -> watch.Asked:
    kind = api.kinds.find("", "v1", "configmaps")
    assert kind is not None
    defaults = {
        "kind": kind,
        "namespace": "default",
        "selector": selectors.parse(""),
        "metadata_only": False,
        "revision": "",
        "initial_events": False,
        "bookmarks": True,
        "timeout_s": 60.0,
    }
    return watch.Asked(**{**defaults, **changes})


def events(chunk: bytes) -> list[tuple[str, dict[str, Any]]]:
    return [(event["type"], event["object"]) for event in map(orjson.loads, chunk.splitlines())]


def create(api: Api, name: str, **labels: str) -> None:
    api.create(asked(api).kind, ("default", ""), config(name, **labels), Options())


async def test_initial_events_end_with_a_bookmark_that_says_so() -> None:
    api = Api(Store())
    create(api, "a")
    wanted = asked(api, initial_events=True, metadata_only=True)
    async with aclosing(watch.lines(api.store, wanted)) as lines:
        (first, obj), (second, mark) = events(await anext(lines))
    assert (first, obj["kind"], "data" in obj) == ("ADDED", "PartialObjectMetadata", False)
    assert (second, mark["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})
    assert mark["metadata"]["resourceVersion"] == str(api.store.revision)


async def test_a_quiet_watch_sends_bookmarks_and_ends_when_its_time_is_up() -> None:
    api = Api(Store())
    wanted = asked(api, revision=str(api.store.revision), timeout_s=0.5)
    async with aclosing(watch.lines(api.store, wanted, bookmark_s=0.01)) as lines:
        kinds = {kind for chunk in [chunk async for chunk in lines] for kind, _ in events(chunk)}
    assert kinds == {"BOOKMARK"}


async def test_a_watcher_that_is_too_slow_is_told_that_its_events_are_gone() -> None:
    api = Api(Store(window=2))
    wanted = asked(api, revision=str(api.store.revision))
    async with aclosing(watch.lines(api.store, wanted)) as lines:
        create(api, "a")
        assert [kind for kind, _ in events(await anext(lines))] == ["ADDED"]
        for number in range(8):
            create(api, f"b{number}")
        ((kind, status),) = events(await anext(lines))
        assert (kind, status["code"]) == ("ERROR", 410)
        with pytest.raises(StopAsyncIteration):
            await anext(lines)


async def test_an_event_comes_before_the_answer_of_its_own_write() -> None:
    order: list[str] = []
    async with SimServer().serving() as server, aiohttp.ClientSession() as client:
        headers = {"Authorization": f"Bearer {server.token}"}
        path = f"{server.url}/api/v1/namespaces/default/configmaps"
        seen = anyio.Event()

        async def follow() -> None:
            query = f"{path}?watch=true&resourceVersion={server.store.revision}"
            async with client.get(query, headers=headers) as response:
                opened.set()
                await response.content.readline()
                order.append("event")
                seen.set()

        opened = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, name="watch")
            await opened.wait()
            async with client.post(path, json=config("a"), headers=headers) as response:
                order.append("answer")
                assert response.status == 201
            await seen.wait()
    assert order == ["event", "answer"]


async def test_aggregated_discovery_names_itself_and_protobuf_is_refused() -> None:
    """kubectl tells the forms of discovery apart by the content type, and speaks JSON where it must."""
    everybody = User(name="anyone")
    async with SimServer(anonymous=everybody).serving() as server, aiohttp.ClientSession() as client:
        accept = {"Accept": f"{discovery.AGGREGATED},application/json"}
        async with client.get(f"{server.url}/apis", headers=accept) as response:
            assert response.headers["Content-Type"] == discovery.AGGREGATED
        async with client.get(f"{server.url}/apis") as response:
            assert (await response.json())["kind"] == "APIGroupList"
        protobuf = {"Content-Type": "application/vnd.kubernetes.protobuf"}
        async with client.post(f"{server.url}/api/v1/namespaces", data=b"k8s\0", headers=protobuf) as response:
            assert response.status == 415
        async with client.get(f"{server.url}/api/v1/pods?limit=many") as response:
            assert response.status == 400
        wrong = {"Authorization": "Bearer nobody"}
        async with client.get(f"{server.url}/api/v1/pods", headers=wrong) as response:
            assert response.status == 401
