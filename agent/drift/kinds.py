"""Keeps one watch open for each kind that the slice or the inventory has, and gives what they say to `observe`.

Metadata only, but for kinds whose status says how healthy an object is. A kind that is not served yet, or that we may
not watch, is a problem that is told; it is tried again after a while, and whenever something was applied. Assumes that
a watch reopens by itself (`watch`) and ends only when the API server refuses it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing

import anyio

from agent.drift.observe import Gk, Observer
from agent.model import ClusterApi
from proto.errors import FlotillaError
from proto.health import needs_status
from proto.slices import BUNDLE_LABEL

log = logging.getLogger(__name__)


class KindWatches:
    """`wanted` gives the apiVersion to watch each (group, kind) by; `problem` takes (source, text), "" once over."""

    def __init__(
        self,
        api: ClusterApi,
        observer: Observer,
        *,
        wanted: Callable[[], Mapping[Gk, str]],
        problem: Callable[[str, str], None],
        delays: Callable[[], Iterator[float]],
    ) -> None:
        self._api = api
        self._observer = observer
        self._wanted = wanted
        self._problem = problem
        self._delays = delays
        self._open: dict[Gk, anyio.CancelScope] = {}
        self._looked = anyio.Event()

    def look(self) -> None:
        """The wanted kinds may have changed, or a kind may be served now."""
        self._looked.set()
        self._looked = anyio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                again = self._looked
                wanted = self._wanted()
                for gk in self._open.keys() - wanted.keys():
                    self._open.pop(gk).cancel()
                for gk in wanted.keys() - self._open.keys():
                    self._open[gk] = anyio.CancelScope()
                    group.start_soon(self._follow, gk, wanted[gk], self._open[gk], name=f"watch {gk[1]}")
                await again.wait()

    async def _follow(self, gk: Gk, api_version: str, scope: anyio.CancelScope) -> None:
        source = f"watch {api_version} {gk[1]}"
        with scope:
            for delay in self._delays():
                again = self._looked
                try:
                    await self._once(gk, api_version, source)
                except FlotillaError as error:
                    self._problem(source, f"drift and health of {gk[1]} are not seen: {error}")
                with anyio.move_on_after(delay):
                    await again.wait()
        self._problem(source, "")

    async def _once(self, gk: Gk, api_version: str, source: str) -> None:
        resource = await self._api.resource(api_version, gk[1])
        if "watch" not in resource.verbs:
            log.info("%s cannot be watched: its drift and health are not seen", gk[1])
            await anyio.sleep_forever()
        self._observer.opening(gk)
        events = self._api.watch(resource, selector=BUNDLE_LABEL, metadata_only=not needs_status(*gk))
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if event.kind == "SYNCED":
                    self._problem(source, "")
                self._observer.see(event)
