"""Takes in what the watches say: keeps the health and baselines of our objects, and tells what may be drift.

    event                                                       what is done
    of an object with a write of ours under way                 kept until that is answered (`flight`)
    older than what our last write was answered                 nothing, unless the watch began anew since
    of an object we never wrote                                 nothing; but see below
    harmless, or of a write of ours                             new baseline, new health
    not harmless (`drift.suspicion`), or it was gone            new health; a suspicion
    DELETED                                                     a suspicion; not wanted: its prune is looked at
    … of what could not be applied                              it is applied again, at once
    DELETED, after it had run to its end (`ENDED`)              it is finished, nothing is missing (a Job's TTL, a hook)
    … a Job that failed and has no TTL                          a suspicion: a person wants it tried again
    SYNCED, and an ordinary Job with a TTL did not come         it is finished: it ended unseen
    SYNCED                                                      what was ours and did not come is DELETED; what was
                                                                deleted before, and only told, still is

An object among the initial events that carries our labels and our Apply entry and is not in the inventory enters it:
the inventory was lost, and the object is known again. What time adds to a health is in `waits`. Does no IO. Next:
`suspects` and `plan`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.drift import drift, waits
from agent.drift.flight import Flight
from agent.drift.waits import NO_PACE, Pace, Waits
from agent.fields import ownership
from agent.inventory import Inventory
from agent.model import Entry, WatchEvent
from proto import health_checks
from proto.health import Check, Verdict, health, needs_status
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import BUNDLE_LABEL, BundlePolicy

ENDED: Final = frozenset({("Job.batch", "JobComplete"), ("Job.batch", "JobFailed"), ("Pod", "PodSucceeded")})
"""(Kind.group, reason of its health) of what ran to its end: nothing more comes of it, and it may go."""

Gk = tuple[str, str]


class Observer:
    """`wanted` says whether Git has an object. `suspect` gets each suspicion, `unwanted_gone` each deleted object that
    Git does not have; `changed` is called when a health or the inventory changed; `clock` is monotonic; `policy` gives
    the policy of a bundle, None for one that left the slice."""

    def __init__(
        self,
        inventory: Inventory,
        *,
        wanted: Callable[[ObjectKey], bool],
        suspect: Callable[[ObjectKey, WatchEvent], None],
        unwanted_gone: Callable[[ObjectKey], None],
        changed: Callable[[], None],
        clock: Callable[[], float],
        policy: Callable[[str], BundlePolicy | None] = lambda bundle: None,
        expires: Callable[[ObjectKey], bool] = lambda key: False,
    ) -> None:
        self.flight = Flight()
        self._inventory = inventory
        self._wanted = wanted
        self._suspect = suspect
        self._unwanted_gone = unwanted_gone
        self._changed = changed
        self._clock = clock
        self._policy = policy
        self._expires = expires
        self._expected: dict[Gk, set[ObjectKey]] = {}
        """Per watch that is not yet synced: what has to be among its initial events."""
        self._waits = Waits(self._timeout_s)

    def opening(self, gk: Gk) -> None:
        """A watch of this kind begins, and its initial events follow."""
        self._expected[gk] = {
            key
            for key, entry in self._inventory.entries.items()
            if (key.group, key.kind) == gk and entry.baseline is not None
        }

    def see(self, event: WatchEvent) -> None:
        """Take in one event of a watch over the objects of bundles."""
        gk = (event.resource.group, event.resource.kind)
        if event.kind == "RESTARTED":
            self.flight.restarted(*gk)
            self.opening(gk)
            self._waits.hold(self._is_unseen, now=self._clock())
        elif event.kind == "SYNCED":
            for key in self._expected.pop(gk, ()):
                self._missed(key, event)
            self._still_gone(gk)
        else:
            key = _key(event)
            if gk in self._expected:
                self._expected[gk].discard(key)
            if not self.flight.keeps(key, event):
                self.judge(key, event)

    def judge(self, key: ObjectKey, event: WatchEvent) -> None:
        """Decide what an event means, against the baseline as it is now."""
        entry = self._inventory.entries.get(key)
        if entry is None:
            if event.kind != "DELETED" and (key.group, key.kind) in self._expected:
                self._find_again(key, event)
            return
        if event.kind == "DELETED":
            if not self._wanted(key):
                self._unwanted_gone(key)
            elif entry.baseline is not None:
                entry.finished = self._was_over(entry, event)
                if entry.finished:
                    entry.baseline = None
                    self._changed()
                else:
                    self._suspect(key, event)
                self._inventory.put(entry)
            elif not entry.finished:
                # The pass could not apply it, maybe because of the very object that is gone now.
                self._unwanted_gone(key)
            return
        if entry.baseline is None:
            if entry.blob and self._wanted(key):
                self._suspect(key, event)
                # Its confirmation tells nothing of it, and there may be no other event.
                self._take_state(entry, event, generation=event.object["metadata"].get("generation", 0))
            return
        if self._wanted(key) and drift.suspicion(entry.baseline, event.object) is not None:
            self._suspect(key, event)
        else:
            entry.baseline = drift.baseline(event.object)
            self._inventory.put(entry)
        self._take_state(entry, event, generation=entry.baseline.generation)

    def _take_state(self, entry: Entry, event: WatchEvent, *, generation: int) -> None:
        found = verdict(event, applied_generation=generation, check=self._check(entry))
        self.take_health(entry, found, pace=waits.pace({**event.object, "kind": event.resource.kind}))

    def take_health(self, entry: Entry, found: Verdict, *, pace: Pace = NO_PACE) -> None:
        """Give an entry the health that its state shows, and what time makes of it. What ran to its end is finished,
        and stays so while it goes."""
        finished = (entry.key.gk, found[1]) in ENDED
        if entry.finished and found[0] is Health.TERMINATING:
            return
        if finished is not entry.finished:
            entry.finished = finished
            self._inventory.put(entry)
            self._changed()
        self._show(entry, self._waits.take(entry.key, found, now=self._clock(), pace=pace))

    def _show(self, entry: Entry, shown: Verdict) -> None:
        if (entry.health, entry.reason, entry.message) != shown:
            entry.health, entry.reason, entry.message = shown
            self._changed()

    def explain(self, key: ObjectKey, words: tuple[str, str] | None) -> None:
        """Why an object is not Current, as (reason, message), None when nothing is known; until its state changes."""
        entry = self._inventory.entries.get(key)
        shown = self._waits.explain(key, words, now=self._clock())
        if entry is not None and shown is not None:
            self._show(entry, shown)

    def troubled(self, *, after_s: float) -> list[ObjectKey]:
        """What failed, or has not been Current for so long."""
        return self._waits.troubled(self._clock(), after_s=after_s)

    def _check(self, entry: Entry) -> Check | None:
        policy = self._policy(entry.bundle)
        if policy is None or not policy.health_checks:
            return None
        return health_checks.check_for(policy.health_checks, entry.api_version, entry.key.kind)

    def _timeout_s(self, key: ObjectKey) -> float:
        entry = self._inventory.entries.get(key)
        policy = self._policy(entry.bundle) if entry is not None else None
        return policy.timeout_s if policy is not None else math.inf

    def _was_over(self, entry: Entry, event: WatchEvent) -> bool:
        """Whether an object that was deleted had run to its end; its last state may be the first that says so."""
        last = {name: value for name, value in event.object["metadata"].items() if name != "deletionTimestamp"}
        if entry.baseline is not None and last.get("uid") == entry.baseline.uid:
            whole = WatchEvent(kind="MODIFIED", resource=event.resource, object={**event.object, "metadata": last})
            found = verdict(whole, applied_generation=entry.baseline.generation, check=self._check(entry))
            if (entry.key.gk, found[1]) in ENDED:
                self.take_health(entry, found)
        expires = self._expires(entry.key) or "ttlSecondsAfterFinished" in (event.object.get("spec") or {})
        return entry.finished and (entry.health is Health.CURRENT or expires)

    def applied(self, entry: Entry, live: Mapping[str, Any]) -> None:
        """An apply of this object was answered with all of it: waiting begins anew, and what it finished before is
        nothing."""
        self._waits.begin(entry.key)
        entry.finished = False
        generation = entry.baseline.generation if entry.baseline is not None else 0
        found = health(live, applied_generation=generation, check=self._check(entry))
        self.take_health(entry, found, pace=waits.pace(live))

    def end_waits(self, *, seeing: bool) -> float:
        """Give what has been waited for long enough its health; the monotonic time at which the next one has (infinite:
        none). While the API server may not be `seeing`, that nothing moves says nothing."""
        now = self._clock()
        entries = self._inventory.entries
        self._waits.keep(lambda key: key in entries and self._wanted(key))
        if not seeing or self._expected:
            self._waits.hold(lambda key: not seeing or self._is_unseen(key), now=now)
        for key, shown in list(self._waits.due(now)):
            self._show(entries[key], shown)
        return self._waits.next_end(now)

    def _is_unseen(self, key: ObjectKey) -> bool:
        """Whether the watch of its kind has not told yet how things are."""
        return (key.group, key.kind) in self._expected

    def _missed(self, key: ObjectKey, event: WatchEvent) -> None:
        """Not among the initial events: deleted, or without our labels. Its confirmation looks; but a Job with a time
        to live has ended unseen."""
        entry = self._inventory.entries.get(key)
        if entry is None or entry.baseline is None:
            return
        metadata = {
            "name": key.name,
            "namespace": key.namespace,
            "uid": entry.baseline.uid,
            "resourceVersion": entry.baseline.resource_version,
        }
        deleted = WatchEvent(kind="DELETED", resource=event.resource, object={"metadata": metadata})
        if self.flight.keeps(key, deleted):
            return
        if self._expires(key) and not entry.finished:
            self.take_health(entry, (Health.CURRENT, "JobComplete", "has ended and is gone"))
        self.judge(key, deleted)

    def _still_gone(self, gk: Gk) -> None:
        """What was deleted, told, and not made anew is not there after a restart, either."""
        for key, entry in self._inventory.entries.items():
            gone = entry.blob and entry.baseline is None and not (entry.unsettled or entry.finished)
            if gone and entry.health is Health.UNKNOWN and (key.group, key.kind) == gk:
                self.take_health(entry, (Health.NOT_FOUND, "Deleted", "was deleted by somebody else"))

    def _find_again(self, key: ObjectKey, event: WatchEvent) -> None:
        live = event.object
        if not ownership.is_ours(live) or ownership.controller(live):
            return
        resource = event.resource
        api_version = f"{resource.group}/{resource.version}" if resource.group else resource.version
        bundle = live["metadata"]["labels"][BUNDLE_LABEL]
        self._inventory.put(Entry(key=key, bundle=bundle, api_version=api_version))
        self._changed()


def verdict(event: WatchEvent, *, applied_generation: int, check: Check | None = None) -> Verdict:
    """Pure: the health that an event shows. Metadata alone is enough for kinds whose status says nothing, unless there
    is a check."""
    resource = event.resource
    api_version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    live: Mapping[str, Any] = {**event.object, "apiVersion": api_version, "kind": resource.kind}
    by_status = check is not None or needs_status(resource.group, resource.kind)
    if not by_status and not live["metadata"].get("deletionTimestamp"):
        return Health.CURRENT, "", ""
    return health(live, applied_generation=applied_generation, check=check)


def _key(event: WatchEvent) -> ObjectKey:
    metadata = event.object["metadata"]
    return ObjectKey(
        group=event.resource.group,
        kind=event.resource.kind,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
    )
