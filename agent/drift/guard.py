"""Confirms suspicions of drift, and has drift undone or told; beside all passes, at `suspects`' rate.

    what may be done                              drift is                      and then
    all (`revert`)                                undone, told                  the next revert of it may have to wait
    … and it cannot be undone                     told as failed, held          tried again, ever later
    paused (an annotation, or the hub)            told as paused, held          undone when the pause ends
    the bundle is suspended                       told with who and why, held   undone once it is resumed
    the cluster's owner forbids it (`Limits`)     told with the reason, held    undone once it is allowed
    nothing is to be undone (`report`)            told once                     this is the new baseline
    nothing is to be told (`ignore`)              nothing                       this is the new baseline

What is held keeps its old baseline, so that a restart finds it again; without a change it is told once. A contested
field is told when that begins, and again each `CONTEST_TOLD_S` while it lasts. What could not be asked is asked again.
Without the lease nothing is written, and nothing told: that is for its holder. An object that is in no bundle of the
slice, or that is to be applied anyway, is left to the pass. Next: `report`.
"""

import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

import anyio
import msgspec
import orjson

from agent.drift import drift, revert
from agent.drift.resync import Resync
from agent.drift.revert import Confirmed, Stance
from agent.drift.suspects import Held, Suspect, Suspects
from agent.drift.values import Memory
from agent.fields.ownership import CONTROLLERS
from agent.inventory import Inventory
from agent.model import Baseline, ClusterApi, Desired, DesiredBundle, Entry, WatchEvent
from agent.tracing import Tracing
from proto import telemetry
from proto.errors import FlotillaError, Transient
from proto.health import Verdict
from proto.ids import Oid
from proto.messages import DriftDetail, DriftQuery, DriftReport, Health
from proto.objects import ObjectKey

CONCURRENCY: Final = 8
AGAIN_S: Final = 1.0
FAILED_AGAIN_S: Final = 60.0
FAILED_LONGEST_S: Final = 900.0
CONTEST_TOLD_S: Final = 300.0
LOOK_AT_PAUSE_S: Final = 300.0
"""A pause ends by the wall clock, which may jump: it is looked at again at least so often."""
RESYNC_LOOK_S: Final = 60.0
"""Bundles that came or left are seen by the slow full pass this late."""

log = logging.getLogger(__name__)


class Guard:
    """`desired` gives the slice as it is now; `may_write` whether we hold the lease; `timestamp` and `wall_ns` the wall
    time. `refuses` says why the cluster's owner forbids an object, `suspended` who suspended a bundle and why ("":
    nobody), `pause_until` until when drift of an object (with its metadata, if known) is not undone (Unix seconds).
    What managers among the `controllers` put beside ours is no addition."""

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
        told: Callable[[ObjectKey, DriftReport], None],
        tracing: Tracing,
        timestamp: Callable[[], str],
        wall_ns: Callable[[], int],
        refuses: Callable[[ObjectKey], str] = lambda key: "",
        suspended: Callable[[str], str] = lambda bundle: "",
        pause_until: Callable[[ObjectKey, Mapping[str, Any] | None], float | None] = lambda key, live: None,
        controllers: Collection[str] = CONTROLLERS,
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
        self._refuses = refuses
        self._suspended = suspended
        self._pause_until = pause_until
        self._controllers = controllers
        self._suspects = Suspects()
        self._memory = Memory()
        self._contests_told: dict[str, float] = {}
        self._added = anyio.Event()
        self._slots = anyio.Semaphore(CONCURRENCY)

    # --- from outside ---------------------------------------------------------------------------------------------

    def suspect(self, key: ObjectKey, event: WatchEvent) -> None:
        """This event may be drift."""
        if not self._is_told(key, event):
            self._suspects.add(key, event, observed=self._timestamp(), now=anyio.current_time())
            self._added.set()

    def resync(self, keys: Iterable[ObjectKey]) -> None:
        """Confirm all of these when there is time, though nothing was seen."""
        self._suspects.full_pass(keys, observed=self._timestamp(), now=anyio.current_time())
        self._added.set()

    def pauses_changed(self) -> None:
        """Pauses, suspensions or the owner's limits are others now: what may be undone now is."""
        for key, held in tuple(self._suspects.held.items()):
            entry = self._inventory.entries.get(key)
            if entry is None:
                self._suspects.forget(key)
            elif not held.failed and self._stance(entry, held.suspect.event, "revert").mode == "revert":
                self._suspects.let_go(key, now=anyio.current_time())
        self._added.set()

    def detail(self, query: DriftQuery) -> DriftDetail:
        """What Git wants and what was there, of one drift that was told."""
        return self._memory.detail(query.query, query.id)

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

    async def look_at_all(self) -> None:
        """Have every object confirmed, slowly, for what no event tells; until cancelled."""
        resync = Resync(jitter=random.random)
        while True:
            bundles = {name: bundle.objects for name, bundle in self._desired().bundles.items()}
            key, wait_s = resync.next(bundles, now=anyio.current_time())
            if key is not None:
                self.resync([key])
            await anyio.sleep(min(wait_s, RESYNC_LOOK_S))

    # --- one suspicion --------------------------------------------------------------------------------------------

    async def _one(self, suspect: Suspect) -> None:
        ok = True
        began = anyio.current_time()
        try:
            async with self._writing(suspect.key):
                began = anyio.current_time()
                ok = await self._confirm(suspect)
        finally:
            now = anyio.current_time()
            self._suspects.answered(suspect, now=now, took_s=now - began, ok=ok)
            self._slots.release()
            self._added.set()

    async def _confirm(self, suspect: Suspect) -> bool:
        """Returns whether the API server had an answer."""
        key, event = suspect.key, suspect.event
        entry = self._inventory.entries.get(key)
        bundle = self._desired().bundles.get(entry.bundle) if entry is not None else None
        if entry is None or bundle is None or key not in bundle.objects or not entry.blob or entry.unsettled:
            self._suspects.forget(key)
            return True
        began_ns = self._wall_ns()
        try:
            desired = self._read(Oid(entry.blob))
            mode = drift.mode_of(bundle.policy.drift, orjson.loads(desired))
            if self._is_settled(entry, suspect, mode=mode) or self._is_put_off(entry, suspect, mode=mode):
                return True
            api = self._api.acting_as(bundle.policy.service_account)
            if event is None:
                seen_at = suspect.seen_at if suspect.insist else anyio.current_time()
                suspect = replace(suspect, event=await revert.look(api, entry), seen_at=seen_at)
            stance = self._stance(entry, suspect.event, mode)
            assert suspect.event is not None
            confirmed = await revert.confirm(
                api,
                entry,
                suspect.event,
                desired=desired,
                policy=bundle.policy.drift,
                stance=stance,
                observed=self._timestamp() if event is None else suspect.observed,
                seen_at=suspect.seen_at,
                controllers=self._controllers,
            )
        except FlotillaError as error:
            least_s = error.retry_after_s if isinstance(error, Transient) else FAILED_AGAIN_S
            log.warning("drift of %s cannot be looked at: %s", key, error)
            self._again(suspect, least_s or AGAIN_S)
            return not isinstance(error, Transient)
        known = entry.baseline
        self._keep(entry, suspect, confirmed, stance, mode=mode)
        self._tell(entry, suspect, confirmed, bundle, known=known, began_ns=began_ns)
        return True

    def _is_settled(self, entry: Entry, suspect: Suspect, *, mode: drift.Mode) -> bool:
        """Whether there is nothing to find out: it is known already, or the pass makes the object anew."""
        if (entry.finished and entry.baseline is None) or not _still_suspicious(entry, suspect):
            return True
        return (entry.baseline is None and mode == "revert") or (suspect.event is None and mode == "ignore")

    def _is_put_off(self, entry: Entry, suspect: Suspect, *, mode: drift.Mode) -> bool:
        """Whether it has to wait: for the lease, or, in a full pass, until what is held may be undone."""
        if mode != "ignore" and not self._may_write():
            if not suspect.full_pass:
                self._again(suspect, AGAIN_S)
            return True
        held = self._suspects.held.get(suspect.key)
        if suspect.event is None and held is not None:
            stance = self._stance(entry, held.suspect.event, mode)
            if stance.mode != mode:
                self._suspects.hold(held, now=anyio.current_time(), wait_s=stance.wait_s)
                return True
        return False

    def _stance(self, entry: Entry, event: WatchEvent | None, mode: drift.Mode) -> Stance:
        if mode != "revert":
            return Stance(mode=mode)
        if why := self._refuses(entry.key):
            return Stance(mode="report", why=f"{entry.key}: {why}")
        if why := self._suspended(entry.bundle):
            return Stance(mode="report", why=f"{entry.key}: bundle {entry.bundle} is suspended: {why}")
        until = self._pause_until(entry.key, event.object if event is not None else None)
        left_s = until - self._wall_ns() / 1e9 if until is not None else 0.0
        if left_s > 0:
            return Stance(mode="report", stays_as="paused", wait_s=min(left_s, LOOK_AT_PAUSE_S))
        return Stance(mode="revert")

    def _keep(self, entry: Entry, suspect: Suspect, confirmed: Confirmed, stance: Stance, *, mode: drift.Mode) -> None:
        """The new baseline; or drift is held until it may be undone. What a pass makes anew is left to it."""
        key = entry.key
        tried = stance.mode == "revert"
        if confirmed.stands and mode == "revert" and not (tried and confirmed.baseline is None):
            wait_s = min(FAILED_AGAIN_S * 2.0 ** min(suspect.tries, 10), FAILED_LONGEST_S) if tried else stance.wait_s
            again = replace(suspect, tries=suspect.tries + tried)
            held = Held(suspect=again, known=entry.baseline, seen=confirmed.baseline, failed=tried)
            self._suspects.hold(held, now=anyio.current_time(), wait_s=wait_s)
        else:
            self._suspects.forget(key)
            entry.baseline = confirmed.baseline
            self._inventory.put(entry)
        if confirmed.baseline is None and not entry.finished:
            self._take_health(entry, (Health.NOT_FOUND, "Deleted", "was deleted by somebody else"))

    def _tell(
        self,
        entry: Entry,
        suspect: Suspect,
        confirmed: Confirmed,
        bundle: DesiredBundle,
        *,
        known: Baseline | None,
        began_ns: int,
    ) -> None:
        now = anyio.current_time()
        undone = [report for report in confirmed.reports if report.action == "reverted"]
        stays = [report for report in confirmed.reports if report.action != "reverted"]
        told = self._memory.stands(entry.key, stays, now=now, known=known, left=entry.baseline)
        for report in undone:
            contested = self._contested(entry.key, report, now=now)
            if contested is not None:
                told.append(contested)
        for report in told:
            if report.action == "reverted" and not report.contested:
                report = msgspec.structs.replace(report, first_seen=suspect.observed)
            self._told(entry.key, report)
            self._tracing.mark(
                telemetry.SPAN_DRIFT,
                rollout=bundle.rollout,
                bundle=bundle.name,
                since_ns=began_ns,
                result=report.action,
            )
            log.info(
                "drift of %s (%s by %s) was %s%s",
                entry.key,
                report.what,
                report.manager or "unknown",
                report.action,
                ", contested" if report.contested else "",
            )
        for report in confirmed.reports:
            if report.id in confirmed.values:
                self._memory.keep(report.id, confirmed.values[report.id])

    def _contested(self, key: ObjectKey, report: DriftReport, *, now: float) -> DriftReport | None:
        """The report as it is to be told: as it is, or as that of a contested field; None when that was told lately."""
        contest = self._suspects.undone(
            key,
            manager=report.manager,
            fields=report.fields or (report.what,),
            observed=report.observed,
            now=now,
        )
        if contest is None:
            return report
        seed = repr((str(key), report.manager, contest.field, contest.since))
        contest_id = hashlib.sha256(seed.encode()).hexdigest()[:16]
        self._contests_told = {one: at for one, at in self._contests_told.items() if now - at < CONTEST_TOLD_S}
        if contest_id in self._contests_told:
            return None
        self._contests_told[contest_id] = now
        return msgspec.structs.replace(report, id=contest_id, contested=True, first_seen=contest.since)

    def _is_told(self, key: ObjectKey, event: WatchEvent) -> bool:
        """Whether an event shows no more than the drift that is held already."""
        held = self._suspects.held.get(key)
        if held is None:
            return False
        entry = self._inventory.entries.get(key)
        if entry is None or entry.baseline != held.known:
            self._suspects.forget(key)
            return False
        if held.seen is None or event.kind == "DELETED":
            return held.seen is None and event.kind == "DELETED"
        return drift.suspicion(held.seen, event.object) is None

    def _again(self, suspect: Suspect, wait_s: float) -> None:
        self._suspects.again(suspect, now=anyio.current_time(), wait_s=wait_s)
        self._added.set()


def _still_suspicious(entry: Entry, suspect: Suspect) -> bool:
    """Pure: whether what was suspicious when it came still is, after all that was written since."""
    if suspect.insist or suspect.event is None or entry.baseline is None or suspect.event.kind == "DELETED":
        return True
    return drift.suspicion(entry.baseline, suspect.event.object) is not None
