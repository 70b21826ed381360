"""Confirms suspicions of drift, and has drift undone or told; beside all passes, at `suspects`' rate.

    what came of it                          what follows
    nothing had changed, or undone           the new baseline
    undone                                   the next revert of this object may have to wait (`suspects`)
    told, not undone                         the new baseline: told once
    it failed for good                       told, and tried again in `FAILED_AGAIN_S`
    the API server could not be asked        tried again
    we do not hold the lease                 tried again

An object that is in no bundle of the slice, or that is to be applied anyway, is left to the pass. Next: `report`.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio

from agent.drift import drift, revert
from agent.drift.suspects import Suspect, Suspects
from agent.inventory import Inventory
from agent.model import ClusterApi, Desired, Entry, WatchEvent
from agent.tracing import Tracing
from proto import telemetry
from proto.errors import FlotillaError, Transient
from proto.health import Verdict
from proto.ids import Oid
from proto.messages import DriftReport, Health
from proto.objects import ObjectKey

CONCURRENCY: Final = 8
AGAIN_S: Final = 1.0
FAILED_AGAIN_S: Final = 60.0

log = logging.getLogger(__name__)


class Guard:
    """`desired` gives the slice as it is now; `may_write` whether we hold the lease; `timestamp` and `wall_ns` the wall
    time; `gone` is called when an object was found to be gone and was not made anew."""

    def __init__(
        self,
        api: ClusterApi,
        inventory: Inventory,
        *,
        desired: Callable[[], Desired],
        read: Callable[[Oid], bytes],
        writing: Callable[[ObjectKey], AbstractAsyncContextManager[None]],
        may_write: Callable[[], bool],
        take_health: Callable[[Entry, Verdict], None],
        told: Callable[[DriftReport], None],
        tracing: Tracing,
        timestamp: Callable[[], str],
        wall_ns: Callable[[], int],
    ) -> None:
        self._api = api
        self._inventory = inventory
        self._desired = desired
        self._read = read
        self._writing = writing
        self._may_write = may_write
        self._take_health = take_health
        self._told = told
        self._tracing = tracing
        self._timestamp = timestamp
        self._wall_ns = wall_ns
        self._suspects = Suspects()
        self._added = anyio.Event()
        self._slots = anyio.Semaphore(CONCURRENCY)

    def suspect(self, key: ObjectKey, event: WatchEvent) -> None:
        """This event may be drift."""
        self._suspects.add(key, event, observed=self._timestamp(), now=anyio.current_time())
        self._added.set()

    async def run(self) -> None:
        """Confirm until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                now = anyio.current_time()
                found = self._suspects.next(now)
                if found is not None:
                    await self._slots.acquire()
                    group.start_soon(self._one, found, name=f"confirm {found.key}")
                    continue
                self._added = anyio.Event()
                with anyio.move_on_after(self._suspects.due_in(now)):
                    await self._added.wait()

    async def _one(self, suspect: Suspect) -> None:
        try:
            async with self._writing(suspect.key):
                await self._confirm(suspect)
        finally:
            self._slots.release()

    async def _confirm(self, suspect: Suspect) -> None:
        key, event = suspect.key, suspect.event
        entry = self._inventory.entries.get(key)
        bundle = self._desired().bundles.get(entry.bundle) if entry is not None else None
        if entry is None or bundle is None or key not in bundle.objects or not entry.blob or entry.unsettled:
            return
        mode = bundle.policy.drift.mode
        if entry.baseline is None and mode == "revert":
            return
        if not suspect.insist and not _still_suspicious(entry, event):
            return
        if mode == "revert" and not self._may_write():
            self._again(suspect, AGAIN_S)
            return
        began_ns = self._wall_ns()
        try:
            entry.baseline, told = await revert.confirm(
                self._api,
                entry,
                event,
                desired=self._read(Oid(entry.blob)),
                policy=bundle.policy.drift,
                observed=suspect.observed,
                seen_at=suspect.seen_at,
            )
        except FlotillaError as error:
            least_s = error.retry_after_s if isinstance(error, Transient) else FAILED_AGAIN_S
            log.warning("drift of %s cannot be looked at: %s", key, error)
            self._again(suspect, least_s or AGAIN_S)
            return
        self._inventory.put(entry)
        if entry.baseline is None:
            self._take_health(entry, (Health.NOT_FOUND, "Deleted", "was deleted by somebody else"))
        if told is None:
            return
        self._told(told)
        self._tracing.mark(
            telemetry.SPAN_DRIFT, rollout=bundle.rollout, bundle=bundle.name, since_ns=began_ns, result=told.action
        )
        log.info("drift of %s (%s by %s) was %s", key, told.what, told.manager or "unknown", told.action)
        if told.action == "reverted":
            self._suspects.reverted(key, now=anyio.current_time())
        elif told.action == "failed" and entry.baseline is not None:
            self._again(suspect, FAILED_AGAIN_S, insist=True)

    def _again(self, suspect: Suspect, wait_s: float, *, insist: bool = False) -> None:
        self._suspects.again(suspect, now=anyio.current_time(), wait_s=wait_s, insist=insist)
        self._added.set()


def _still_suspicious(entry: Entry, event: WatchEvent) -> bool:
    """Pure: whether what was suspicious when it came still is, after all that was written since."""
    if entry.baseline is None or event.kind == "DELETED":
        return True
    return drift.suspicion(entry.baseline, event.object) is not None
