"""How long a hand edit lives: from the answer to the edit to the event that shows the wanted value again.

A watch of the benchmark's own sees both, so neither polling nor the agent's own clock is in the figure.
"""

import json
import ssl
import time
from collections.abc import Sequence
from functools import partial

import aiohttp
import anyio

from tests import real


def measure(kube: real.ApiServer, paths: Sequence[str], *, repeats: int) -> list[float]:
    """Seconds of each of `repeats` edits of `data.key-1` of the ConfigMaps at `paths`, one after the other."""
    return anyio.run(partial(_measure, kube, paths, repeats=repeats))


async def _measure(kube: real.ApiServer, paths: Sequence[str], *, repeats: int) -> list[float]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession(
        kube.url,
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {kube.token}"},
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        return [await _one(session, paths[n % len(paths)], f"edited-{n}") for n in range(repeats)]


async def _one(session: aiohttp.ClientSession, path: str, text: str) -> float:
    collection, _, name = path.rpartition("/")
    selector = {"fieldSelector": f"metadata.name={name}"}
    async with session.get(collection, params=selector) as response:
        listed = await response.json()
    before = listed["items"][0]
    # The list's version, not the object's: among thousands of objects the server has forgotten what came after it.
    query = {**selector, "watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
    async with session.get(collection, params=query) as watch:
        async with session.patch(
            f"{path}?fieldManager=bench",
            data=json.dumps({"data": {"key-1": text}}),
            headers={"Content-Type": "application/merge-patch+json"},
        ) as response:
            edited = await response.json()
            started = time.perf_counter()
        assert edited["data"]["key-1"] == text
        with anyio.fail_after(30):
            async for line in watch.content:
                told = json.loads(line)
                assert told["type"] != "ERROR", told
                event = told["object"]
                newer = int(event["metadata"]["resourceVersion"]) > int(edited["metadata"]["resourceVersion"])
                if newer and event["data"]["key-1"] == before["data"]["key-1"]:
                    return time.perf_counter() - started
    raise AssertionError(f"the watch of {name} ended before the revert")
