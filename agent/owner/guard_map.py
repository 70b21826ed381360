"""Follows the guard ConfigMap, and keeps what it says as `limits`. The rules are `limits`'s table.

Watched by its name, so the right to read that one ConfigMap is enough. Until its first word (`known`) the loop makes no
plan; the watch reopens by itself when the connection is lost, and what was known last stays. Next: `loop`.
"""

from collections.abc import Callable, Iterator
from contextlib import aclosing

import anyio

from agent.model import ClusterApi, Limits, WatchEvent
from agent.owner import limits
from proto.errors import FlotillaError, Transient


class GuardMap:
    """`changed` is called when the limits are others now; `problem` takes (source, text), "" once over."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        changed: Callable[[], None],
        problem: Callable[[str, str], None],
        delays: Callable[[], Iterator[float]],
    ) -> None:
        self.limits: Limits = limits.UNKNOWN
        self.known = anyio.Event()
        """Set with the first word of it: its contents, that there is none, or that it may not be read."""
        self._api = api
        self._changed = changed
        self._problem = problem
        self._delays = delays
        self._seen = False

    async def run(self) -> None:
        """Follow it until cancelled."""
        for delay in self._delays():
            try:
                await self._follow()
            except Transient as error:
                self._problem("guard", f"the guard ConfigMap is not heard of, the last known stays: {error}")
            except FlotillaError as error:
                why = (
                    f"the guard ConfigMap may not be read: {error} (give the agent the rights get, list and watch on "
                    f"configmap {limits.NAME} in namespace {limits.NAMESPACE})"
                )
                self._take(limits.closed(why), why)
            await anyio.sleep(delay)

    async def _follow(self) -> None:
        resource = await self._api.resource("v1", "ConfigMap")
        self._seen = False
        events = self._api.watch(
            resource, selector="", metadata_only=False, namespace=limits.NAMESPACE, name=limits.NAME
        )
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                self._see(event)

    def _see(self, event: WatchEvent) -> None:
        if event.kind == "RESTARTED":
            self._seen = False
        elif event.kind in ("ADDED", "MODIFIED"):
            self._seen = True
            found, problems = limits.read(event.object.get("data") or {})
            self._take(found, "; ".join(problems))
        elif event.kind == "DELETED" or not self._seen:
            self._take(limits.NONE, "")

    def _take(self, found: Limits, problem: str) -> None:
        self._problem("guard", problem)
        changed = found != self.limits
        self.limits = found
        self.known.set()
        if changed:
            self._changed()
