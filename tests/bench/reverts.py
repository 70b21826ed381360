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

NAMESPACE = "load"


def measure(kube: real.ApiServer, names: Sequence[str], *, repeats: int) -> list[float]:
    """Seconds of each of `repeats` edits of `data.key-1` of the ConfigMaps `names`, one after the other."""
    return anyio.run(partial(_measure, kube, names, repeats=repeats))


async def _measure(kube: real.ApiServer, names: Sequence[str], *, repeats: int) -> list[float]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession(
        kube.url,
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {kube.token}"},
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        return [await _one(session, names[n % len(names)], f"edited-{n}") for n in range(repeats)]


async def _one(session: aiohttp.ClientSession, name: str, text: str) -> float:
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    async with session.get(f"{path}/{name}") as response:
        before = await response.json()
    query = {
        "watch": "1",
        "fieldSelector": f"metadata.name={name}",
        "resourceVersion": before["metadata"]["resourceVersion"],
    }
    async with session.get(path, params=query) as watch:
        async with session.patch(
            f"{path}/{name}?fieldManager=bench",
            data=json.dumps({"data": {"key-1": text}}),
            headers={"Content-Type": "application/merge-patch+json"},
        ) as response:
            edited = await response.json()
            started = time.perf_counter()
        assert edited["data"]["key-1"] == text
        with anyio.fail_after(30):
            async for line in watch.content:
                event = json.loads(line)["object"]
                newer = int(event["metadata"]["resourceVersion"]) > int(edited["metadata"]["resourceVersion"])
                if newer and event["data"]["key-1"] == before["data"]["key-1"]:
                    return time.perf_counter() - started
    raise AssertionError(f"the watch of {name} ended before the revert")
