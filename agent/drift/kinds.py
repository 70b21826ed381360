"""Keeps one watch open for each kind that the slice or the inventory has, and gives what they say to `observe`.

Metadata only, but for kinds whose status says how healthy an object is, or that a bundle has a health check for; when
those checks change the watch is opened anew, so that all objects are judged by them. A kind that is not served yet, or
that we may not watch, is a problem that is told; it is tried again after a while, and whenever something was applied.
Assumes that a watch reopens by itself (`watch`) and ends only when the API server refuses it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing

import anyio

from agent.drift.observe import Gk, Observer
from agent.model import ClusterApi
from proto.errors import FlotillaError
from proto.health import needs_status
from proto.slices import BUNDLE_LABEL, HealthCheck

log = logging.getLogger(__name__)


Checks = tuple[tuple[str, HealthCheck], ...]
"""Of one kind, with their bundles' names."""


class KindWatches:
    """`wanted` gives the apiVersion to watch each (group, kind) by, `checks` the health checks of a kind;
    `problem` takes (source, text), "" once over."""

    def __init__(
        self,
        api: ClusterApi,
        observer: Observer,
        *,
        wanted: Callable[[], Mapping[Gk, str]],
        problem: Callable[[str, str], None],
        delays: Callable[[], Iterator[float]],
        checks: Callable[[Gk], Checks] = lambda gk: (),
    ) -> None:
        self._api = api
        self._observer = observer
        self._wanted = wanted
        self._problem = problem
        self._delays = delays
        self._checks = checks
        self._open: dict[tuple[Gk, Checks], anyio.CancelScope] = {}
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
                wanted = {(gk, self._checks(gk)): version for gk, version in self._wanted().items()}
                for one in self._open.keys() - wanted.keys():
                    self._open.pop(one).cancel()
                for one in wanted.keys() - self._open.keys():
                    self._open[one] = anyio.CancelScope()
                    gk, checks = one
                    whole = needs_status(*gk) or bool(checks)
                    group.start_soon(self._follow, gk, wanted[one], whole, self._open[one], name=f"watch {gk[1]}")
                await again.wait()

    async def _follow(self, gk: Gk, api_version: str, whole: bool, scope: anyio.CancelScope) -> None:
        source = f"watch {api_version} {gk[1]}"
        with scope:
            for delay in self._delays():
                again = self._looked
                try:
                    await self._once(gk, api_version, source, whole=whole)
                except FlotillaError as error:
                    self._problem(source, f"drift and health of {gk[1]} are not seen: {error}")
                with anyio.move_on_after(delay):
                    await again.wait()
        self._problem(source, "")

    async def _once(self, gk: Gk, api_version: str, source: str, *, whole: bool) -> None:
        resource = await self._api.resource(api_version, gk[1])
        self._observer.opening(gk)
        if "watch" not in resource.verbs:
            log.info("%s cannot be watched: its drift and health are not seen", gk[1])
            await anyio.sleep_forever()
        events = self._api.watch(resource, selector=BUNDLE_LABEL, metadata_only=not whole)
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if event.kind == "SYNCED":
                    self._problem(source, "")
                self._observer.see(event)
