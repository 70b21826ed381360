"""Executes what `plan` decided for one bundle, and adds no decision of its own.

    parent widened → applied, phase by phase → finished hooks deleted → let go → deleted, phase by phase

Objects of a phase go at the same time, within one limit for all bundles (`slots`). What is learned is put into the
inventory as each answer arrives; an object that failed gets a `Failure` and stops nothing else. When `superseded`
becomes true no further object is begun; what is under way is finished. Before an object is applied for the first time
the inventory knows it durably, so that none is ever forgotten. A bundle with an account is read and written as that
account, also when it is pruned after it left the slice: what the account may not do is a failure, and stays in the
inventory.

    error                                          tried again                                 permanent
    the object is being deleted                    each few seconds                            no
    Transient, conflict of versions                after its own wait or backoff               no
    object or namespace not found                  backoff                                     no
    kind not served                                backoff: its definition may be coming       from the sixth time
    anything else                                  each few minutes, or with its next blob     yes

`loop` makes the next plan.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import anyio

from agent.apply import apply, prune
from agent.apply.order import Traits
from agent.apply.parents import Parents
from agent.apply.plan import BundlePlan, Failure, parent_key
from agent.apply.prune import Fate
from agent.drift import drift
from agent.inventory import Inventory
from agent.kube.api_status import Conflict, NotFound
from agent.kube.pace import MOST, Pace
from agent.kube.slots import Slots
from agent.model import ClusterApi, DesiredBundle, Entry, Result
from agent.tracing import Tracing
from proto import telemetry
from proto.errors import FlotillaError, Refused, Transient
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey

WORKERS: Final = int(MOST)
"""Objects of one phase that are begun at once; how many writes are under way for all bundles together, `slots` says."""
FIRST_RETRY_S: Final = 0.5
LONGEST_RETRY_S: Final = 60.0
UNSERVED_TRIES: Final = 6
"""A kind is served up to some seconds after its definition is Established; these tries take about fifteen."""
DELETING_LOOK_S: Final = 2.0
PERMANENT_RETRY_S: Final = 300.0
"""What only a change can help is tried again nevertheless: the change may be in the cluster (rights, admission)."""

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Done:
    """What one run did: how many objects were created, configured, unchanged, pruned, released, skipped or failed."""

    counts: dict[Result, int]

    def add(self, result: Result) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1

    def __str__(self) -> str:
        return ", ".join(f"{count} {result}" for result, count in sorted(self.counts.items())) or "nothing"


class Reconciler:
    """`read` gives the file of an object; `writing` is a context in which nobody else writes one object; `applied`
    gets each object as its apply was answered, to keep the health; `noted` gets all that became of an object, unless it
    is unchanged, with words for people."""

    def __init__(
        self,
        api: ClusterApi,
        inventory: Inventory,
        parents: Parents,
        *,
        read: Callable[[Oid], bytes],
        writing: Callable[[ObjectKey], AbstractAsyncContextManager[None]],
        applied: Callable[[Entry, Mapping[str, Any]], None],
        tracing: Tracing,
        noted: Callable[[Entry, Result, str], None] = lambda entry, result, message: None,
        pace: Pace | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.failures: dict[ObjectKey, Failure] = {}
        """What did not succeed, until it does or is not wanted any more."""
        self._api = api
        self._inventory = inventory
        self._parents = parents
        self._read = read
        self._writing = writing
        self._applied = applied
        self._tracing = tracing
        self._noted = noted
        self._slots = Slots(pace)
        self._jitter = jitter

    async def run(
        self,
        plan: BundlePlan,
        bundle: DesiredBundle | None,
        *,
        traits: Mapping[ObjectKey, Traits],
        superseded: Callable[[], bool],
    ) -> Done:
        """Do all of `plan`; `bundle` is what it was made for (None: it left the slice)."""
        done = Done(counts={})
        rollout, subtree = (bundle.rollout, bundle.subtree) if bundle is not None else ("", "")
        api = self._api_of(plan, bundle)
        if plan.parent_stale:
            await self._write_parent(plan)
        if plan.apply and bundle is not None:
            count = sum(map(len, plan.apply))
            with self._tracing.span(
                telemetry.SPAN_APPLY, rollout=rollout, bundle=plan.bundle, subtree=subtree, objects=count
            ) as span:
                await self._claim(plan, bundle, traits)
                for phase in plan.apply:
                    await self._each(phase, lambda key: self._apply(api, key, bundle, done), superseded)
                span.set_attribute(telemetry.ATTR_RESULT, str(done))
            await self._inventory.save()
        if plan.finish:
            await self._inventory.save()  # that they finished: else a kill would leave them missing, and run them again
            await self._each(plan.finish, lambda key: self._finish(api, key, done), superseded)
            await self._inventory.save()
        if plan.release or plan.prune:
            count = len(plan.release) + sum(map(len, plan.prune))
            with self._tracing.span(
                telemetry.SPAN_PRUNE, rollout=rollout, bundle=plan.bundle, subtree=subtree, objects=count
            ) as span:
                await self._disown(plan)
                await self._each(plan.release, lambda key: self._prune(api, key, done, release=True), superseded)
                for phase in plan.prune:
                    await self._each(phase, lambda key: self._prune(api, key, done, release=False), superseded)
                span.set_attribute(telemetry.ATTR_RESULT, str(done))
            await self._inventory.save()
        return done

    def forget_failures(self, wanted: Collection[ObjectKey]) -> None:
        """Drop the failures of objects that are neither in the slice nor in the inventory any more."""
        for key in [key for key in self.failures if key not in wanted]:
            del self.failures[key]

    def _api_of(self, plan: BundlePlan, bundle: DesiredBundle | None) -> ClusterApi:
        """The API server as this bundle's account sees it; of a bundle that left the slice its parent names it."""
        if bundle is not None:
            account = bundle.policy.service_account
        else:
            account = plan.members.service_account if plan.members is not None else ""
        return self._api.acting_as(account)

    # --- one object: each returns the error that the API server answered with, None without ------------------------

    async def _claim(self, plan: BundlePlan, bundle: DesiredBundle, traits: Mapping[ObjectKey, Traits]) -> None:
        """Let the inventory know, durably, what is about to be made or changed."""
        for key in chain.from_iterable(plan.apply):
            entry = self._inventory.entries.get(key)
            if entry is None:
                entry = Entry(key=key, bundle=bundle.name, api_version=traits[key].api_version)
            entry.bundle, entry.api_version, entry.unsettled = bundle.name, traits[key].api_version, True
            self._inventory.put(entry)
        await self._inventory.save()

    async def _disown(self, plan: BundlePlan) -> None:
        """Let the inventory know, durably, what is about to go: should Git want it back before that is known to be
        done, it is applied anew, and its deletion is nobody's drift."""
        entries = self._inventory.entries
        for key in (*plan.release, *chain.from_iterable(plan.prune)):
            if key in entries and not entries[key].unsettled:
                entries[key].unsettled = True
                self._inventory.put(entries[key])
        await self._inventory.save()

    async def _apply(self, api: ClusterApi, key: ObjectKey, bundle: DesiredBundle, done: Done) -> FlotillaError | None:
        blob = bundle.objects[key]
        entry = self._inventory.entries.get(key)
        if entry is None:  # deleted and forgotten since the plan was made
            return None
        try:
            applied = await apply.apply_object(
                api,
                entry,
                self._read(blob),
                policy=bundle.policy,
                installation=lambda name: self._parents.foreign.get(name, ""),
            )
        except FlotillaError as error:
            if not isinstance(error, Transient):  # refused: the object is what it was
                entry.unsettled = False
                self._inventory.put(entry)
            self._failed(entry, blob, error, "apply")
            done.add(Result.FAILED)
            return error
        entry.finished = entry.finished and entry.blob == blob
        entry.blob, entry.unsettled = blob, False
        entry.baseline = drift.baseline(applied.live)
        self._inventory.put(entry)
        self._applied(entry, applied.live)
        self.failures.pop(key, None)
        done.add(applied.result)
        if applied.result is not Result.UNCHANGED:
            self._noted(entry, applied.result, applied.note)
        return None

    async def _finish(self, api: ClusterApi, key: ObjectKey, done: Done) -> FlotillaError | None:
        """Delete a hook that succeeded. It stays in the inventory, finished: it is not missing, and not run again."""
        entry = self._inventory.entries.get(key)
        if entry is None or not entry.finished:
            return None
        try:
            fate, why = await self._remove(api, entry, release=False)
        except FlotillaError as error:
            self._failed(entry, "", error, "delete")
            done.add(Result.FAILED)
            return error
        if fate is Fate.DELETING:
            self._retry(key, "", why, least_s=DELETING_LOOK_S)
        else:
            entry.baseline = None
            self._inventory.put(entry)
            self.failures.pop(key, None)
        done.add(_RESULTS[fate])
        return None

    async def _prune(self, api: ClusterApi, key: ObjectKey, done: Done, *, release: bool) -> FlotillaError | None:
        entry = self._inventory.entries.get(key)
        if entry is None:
            return None
        try:
            fate, why = await self._remove(api, entry, release=release)
        except FlotillaError as error:
            self._failed(entry, "", error, "release" if release else "prune")
            done.add(Result.FAILED)
            return error
        if fate is Fate.DELETING:
            # Its DELETED event makes it due at once; the time counts only if that never comes.
            entry.health, entry.reason, entry.message = Health.TERMINATING, "Pruning", why
            self._retry(key, "", why, least_s=DELETING_LOOK_S)
        else:
            self._inventory.drop(key)
            self.failures.pop(key, None)
            self._noted(entry, _RESULTS[fate], why)
        if why:
            log.info("%s", why)
        done.add(_RESULTS[fate])
        return None

    async def _remove(self, api: ClusterApi, entry: Entry, *, release: bool) -> tuple[Fate, str]:
        try:
            return await prune.prune_object(api, entry, release=release)
        except Refused:
            # To an account that may not look, what is gone (with its namespace, say) is forbidden, too.
            if api is not self._api and await prune.is_gone(self._api, entry):
                return Fate.GONE, ""
            raise

    async def _write_parent(self, plan: BundlePlan) -> None:
        key = parent_key(plan.bundle)
        try:
            await self._parents.write(plan.bundle, plan.members)
            self.failures.pop(key, None)
        except FlotillaError as error:
            self._wait(key, "", error, "apply")

    # --- how ------------------------------------------------------------------------------------------------------

    async def _each(
        self,
        keys: Collection[ObjectKey],
        do: Callable[[ObjectKey], Awaitable[FlotillaError | None]],
        superseded: Callable[[], bool],
    ) -> None:
        """Do all of `keys` at the same time, as fast as the API server takes them."""
        waiting = iter(keys)

        async def work() -> None:
            for key in waiting:
                async with self._writing(key), self._slots.one() as answered:
                    if superseded():
                        return
                    answered(key.gk, await do(key))

        async with anyio.create_task_group() as group:
            for number in range(min(WORKERS, len(keys))):
                group.start_soon(work, name=f"worker {number}")

    def _failed(self, entry: Entry, blob: str, error: FlotillaError, what: str) -> None:
        self._wait(entry.key, blob, error, what)
        self._noted(entry, Result.FAILED, str(error))

    def _wait(self, key: ObjectKey, blob: str, error: FlotillaError, what: str) -> None:
        if isinstance(error, apply.Deleting):
            self._retry(key, blob, str(error), most_s=DELETING_LOOK_S)
        elif isinstance(error, Transient):
            self._retry(key, blob, str(error), least_s=error.retry_after_s or 0.0)
        elif isinstance(error, NotFound) and error.what == "kind":
            self._retry(key, blob, str(error), permanent_from=UNSERVED_TRIES)
        elif isinstance(error, Conflict | NotFound):
            self._retry(key, blob, str(error))
        else:
            self._retry(key, blob, str(error), least_s=PERMANENT_RETRY_S, permanent_from=1)
        wait_s = self.failures[key].not_before - anyio.current_time()
        log.warning("%s of %s failed, next try in %.1f s: %s", what, key, wait_s, error)

    def _retry(
        self,
        key: ObjectKey,
        blob: str,
        error: str,
        *,
        least_s: float = 0.0,
        most_s: float = LONGEST_RETRY_S,
        permanent_from: float = math.inf,
    ) -> None:
        before = self.failures.get(key)
        tries = before.tries + 1 if before is not None and before.blob == blob else 1
        delay = max(min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 10), most_s), least_s)
        self.failures[key] = Failure(
            blob=blob,
            error=error,
            not_before=anyio.current_time() + delay * (1.0 + self._jitter() / 2),
            tries=tries,
            permanent=tries >= permanent_from,
        )


_RESULTS: Mapping[Fate, Result] = {
    Fate.GONE: Result.PRUNED,
    Fate.DELETING: Result.PRUNED,
    Fate.RELEASED: Result.RELEASED,
    Fate.FOREIGN: Result.SKIPPED,
}
