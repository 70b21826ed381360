"""Writes the status of AppliedBundles: only when it says something new, and seldom.

    something changed                                        written `SETTLE_S` later, as it is then
    … of a bundle that was written less than `LEAST_S` ago   once that time is over
    nothing changed, also after a restart                    not written: what it says is known from the watch
    the parent is not there, or is not ours                  not written
    refused                                                  told, and tried again as the next change comes, or later

So a pass over a thousand objects is a few writes. Nothing waits for this. Next: `conditions` says what is written.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio

from agent.model import ClusterApi
from agent.owner import conditions
from agent.owner.conditions import Facts
from proto.errors import FlotillaError
from proto.objects import ObjectKey, canonical
from proto.slices import PARENT_API_VERSION, PARENT_GROUP, PARENT_KIND

SETTLE_S: Final = 0.5
"""A pass that takes less shows as its end only; a restart, which learns the health from its watches, as nothing."""
LEAST_S: Final = 3.0
AGAIN_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What is known of an AppliedBundle in the cluster, beside its members."""

    uid: str
    generation: int
    status: Mapping[str, Any] | None = None


class Statuses:
    """`live` gives what is known of a bundle's parent; `wrote` gets the whole object after a write; `may_write` says
    whether we hold the lease; `timestamp` gives the wall time as RFC 3339."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        live: Callable[[str], Live | None],
        wrote: Callable[[Mapping[str, Any]], object],
        may_write: Callable[[], bool],
        problem: Callable[[str, str], None],
        timestamp: Callable[[], str],
    ) -> None:
        self._api = api
        self._live = live
        self._wrote = wrote
        self._may_write = may_write
        self._problem = problem
        self._timestamp = timestamp
        self._facts: dict[str, Facts] = {}
        self._due: dict[str, float] = {}
        """Monotonic times at which the status of a bundle may be looked at."""
        self._written: dict[str, float] = {}
        self._changed = anyio.Event()

    def want(self, bundle: str, facts: Facts | None) -> None:
        """The status is to say this; None: the bundle is gone."""
        if facts is None:
            self._facts.pop(bundle, None)
            self._due.pop(bundle, None)
            self._written.pop(bundle, None)
        elif self._facts.get(bundle) != facts:
            self._facts[bundle] = facts
            self.look(bundle)

    def look(self, bundle: str) -> None:
        """What the parent says, or is to say, may be another."""
        if bundle in self._facts and bundle not in self._due:
            now = anyio.current_time()
            self._due[bundle] = max(now + SETTLE_S, self._written.get(bundle, -math.inf) + LEAST_S)
            self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._changed = anyio.Event()
            now = anyio.current_time()
            for bundle in [bundle for bundle, at in self._due.items() if at <= now]:
                await self._one(bundle)
            wait_s = min(self._due.values(), default=math.inf) - anyio.current_time()
            with anyio.move_on_after(wait_s if wait_s < math.inf else None):
                await self._changed.wait()

    async def _one(self, bundle: str) -> None:
        self._due.pop(bundle, None)
        facts, live = self._facts.get(bundle), self._live(bundle)
        if facts is None or live is None:  # its parent calls `look` when it is there
            return
        if not self._may_write():
            self._due[bundle] = anyio.current_time() + LEAST_S
            return
        wanted = conditions.status(facts, generation=live.generation, before=live.status, now=self._timestamp())
        if wanted == live.status:
            return
        key = ObjectKey(group=PARENT_GROUP, kind=PARENT_KIND, namespace="", name=bundle)
        body = {"apiVersion": PARENT_API_VERSION, "kind": PARENT_KIND, "metadata": {"name": bundle}, "status": wanted}
        self._written[bundle] = anyio.current_time()
        try:
            resource = await self._api.resource(PARENT_API_VERSION, PARENT_KIND)
            _, after = await self._api.apply(resource, key, canonical(body), force=True, subresource="status")
        except FlotillaError as error:
            self._problem("statuses", f"the status of {key} is not written: {error}")
            self._due[bundle] = anyio.current_time() + AGAIN_S
            return
        self._problem("statuses", "")
        self._wrote(after)
