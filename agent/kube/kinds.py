"""Which kinds the API server serves: asked for once, and again where a kind is missing.

    a kind is asked for                       the API server is sent
    the first of all                          two requests, for all kinds
    … and is known                            nothing
    … and is not                              one, for its group and version; not again for `ASK_AGAIN_S`
    … and its definition went away            as for one that is not known

`discovery` reads the answers. Next: `cluster` uses it for paths.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio

from agent.kube import discovery
from agent.kube.api_status import NotFound
from agent.model import Resource

ASK_AGAIN_S: Final = 2.0

_JSON: Final = "application/json"


class Kinds:
    """`ask` sends a GET of a path with an `Accept` header, and gives the answer."""

    def __init__(self, ask: Callable[[str, str], Awaitable[Mapping[str, Any]]]) -> None:
        self._ask = ask
        self._known: dict[tuple[str, str], Resource] = {}
        self._missing: dict[tuple[str, str], float] = {}
        self._asking = anyio.Lock()

    async def resource(self, api_version: str, kind: str) -> Resource:
        """How a kind is served. Raises NotFound (kind)."""
        wanted = (api_version, kind)
        if wanted not in self._known:
            async with self._asking:
                await self._discover(wanted)
        found = self._known.get(wanted)
        if found is None:
            raise NotFound(
                f"{kind} of {api_version}",
                "is not served by this cluster",
                "install its CustomResourceDefinition, or use a version that the cluster serves",
                what="kind",
            )
        return found

    def forget(self, resource: Resource) -> None:
        """Its definition went away; when it comes back it may be served otherwise."""
        for gone in [key for key, known in self._known.items() if known == resource]:
            del self._known[gone]

    async def _discover(self, wanted: tuple[str, str]) -> None:
        if not self._known:
            for path in ("/api", "/apis"):
                self._known.update(discovery.aggregated(await self._ask(path, discovery.ACCEPT)))
        now = anyio.current_time()
        if wanted in self._known or now < self._missing.get(wanted, 0.0):
            return
        # An aggregated answer lags a new CustomResourceDefinition by a second or two; its own path does not.
        api_version = wanted[0]
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            answer = await self._ask(path, _JSON)
        except NotFound:
            answer = {}
        self._known.update(discovery.plain(api_version, answer))
        for missing in [key for key, until in self._missing.items() if until <= now]:
            del self._missing[missing]
        if wanted not in self._known:
            self._missing[wanted] = now + ASK_AGAIN_S
