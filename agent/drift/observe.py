"""Takes in what the watches say: keeps the health and baselines of our objects, and tells what may be drift.

    event                                                       what is done
    of an object with a write of ours under way                 kept until that is answered (`flight`)
    older than what our last write was answered                 nothing, unless the watch began anew since
    of an object we never wrote                                 nothing; but see below
    harmless, or of a write of ours                             new baseline, new health
    not harmless (`drift.suspicion`), or it was gone            new health; a suspicion
    DELETED                                                     a suspicion; not wanted: its prune is looked at
    DELETED, after it had run to its end (`ENDED`)              it is finished, nothing is missing (a Job's TTL, a hook)
    … a Job that failed and has no TTL                          a suspicion: a person wants it tried again
    SYNCED                                                      what was ours and did not come is DELETED

An object among the initial events that carries our labels and our Apply entry and is not in the inventory enters it:
the inventory was lost, and the object is known again. Does no IO. Next: `suspects` and `plan`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.drift import drift
from agent.drift.flight import Flight
from agent.fields import ownership
from agent.inventory import Inventory
from agent.model import Entry, WatchEvent
from proto.health import NO_STATUS, Verdict, health, needs_status
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import BUNDLE_LABEL

NO_STATUS_GRACE_S: Final = 10.0
"""How long a custom resource without any status is not taken for Current: its controller may not have seen it yet."""

ENDED: Final = frozenset({("Job.batch", "JobComplete"), ("Job.batch", "JobFailed"), ("Pod", "PodSucceeded")})
"""(Kind.group, reason of its health) of what ran to its end: nothing more comes of it, and it may go."""

Gk = tuple[str, str]


class Observer:
    """`wanted` says whether Git has an object. `suspect` gets each suspicion, `unwanted_gone` each deleted object that
    Git does not have; `changed` is called when a health or the inventory changed; `clock` is monotonic."""

    def __init__(
        self,
        inventory: Inventory,
        *,
        wanted: Callable[[ObjectKey], bool],
        suspect: Callable[[ObjectKey, WatchEvent], None],
        unwanted_gone: Callable[[ObjectKey], None],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.flight = Flight()
        self._inventory = inventory
        self._wanted = wanted
        self._suspect = suspect
        self._unwanted_gone = unwanted_gone
        self._changed = changed
        self._clock = clock
        self._expected: dict[Gk, set[ObjectKey]] = {}
        """Per watch that is not yet synced: what has to be among its initial events."""
        self._grace_ends: dict[ObjectKey, float] = {}

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
        elif event.kind == "SYNCED":
            for key in self._expected.pop(gk, ()):
                self._missed(key, event)
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
            return
        if entry.baseline is None:
            if entry.blob and self._wanted(key):
                self._suspect(key, event)
            return
        if self._wanted(key) and drift.suspicion(entry.baseline, event.object) is not None:
            self._suspect(key, event)
        else:
            entry.baseline = drift.baseline(event.object)
            self._inventory.put(entry)
        self.take_health(entry, verdict(event, applied_generation=entry.baseline.generation))

    def take_health(self, entry: Entry, found: Verdict) -> None:
        """Give an entry its health; without any status it is not Current before a grace period is over. What ran to its
        end is finished, and stays so while it goes."""
        finished = (entry.key.gk, found[1]) in ENDED
        if entry.finished and found[0] is Health.TERMINATING:
            return
        if finished is not entry.finished:
            entry.finished = finished
            self._inventory.put(entry)
            self._changed()
        if found[0] is Health.CURRENT and found[1] == NO_STATUS:
            ends = self._grace_ends.setdefault(entry.key, self._clock() + NO_STATUS_GRACE_S)
            if self._clock() < ends:
                found = (Health.IN_PROGRESS, NO_STATUS, found[2])
        else:
            self._grace_ends.pop(entry.key, None)
        if (entry.health, entry.reason, entry.message) != found:
            entry.health, entry.reason, entry.message = found
            self._changed()

    def _was_over(self, entry: Entry, event: WatchEvent) -> bool:
        """Whether an object that was deleted had run to its end; its last state may be the first that says so."""
        last = {name: value for name, value in event.object["metadata"].items() if name != "deletionTimestamp"}
        if entry.baseline is not None and last.get("uid") == entry.baseline.uid:
            whole = WatchEvent(kind="MODIFIED", resource=event.resource, object={**event.object, "metadata": last})
            found = verdict(whole, applied_generation=entry.baseline.generation)
            if (entry.key.gk, found[1]) in ENDED:
                self.take_health(entry, found)
        expires = "ttlSecondsAfterFinished" in (event.object.get("spec") or {})
        return entry.finished and (entry.health is Health.CURRENT or expires)

    def applied(self, entry: Entry, found: Verdict) -> None:
        """An apply of this object was answered: a grace period begins anew, and what it finished before is nothing."""
        self._grace_ends.pop(entry.key, None)
        entry.finished = False
        self.take_health(entry, found)

    def end_graces(self) -> float:
        """Make Current what has waited long enough; the monotonic time at which the next one has (infinite: none)."""
        now = self._clock()
        for key in [key for key, ends in self._grace_ends.items() if ends <= now]:
            entry = self._inventory.entries.get(key)
            if entry is None:
                del self._grace_ends[key]
            elif entry.reason == NO_STATUS and entry.health is Health.IN_PROGRESS:
                entry.health = Health.CURRENT
        return min((ends for ends in self._grace_ends.values() if ends > now), default=float("inf"))

    def _missed(self, key: ObjectKey, event: WatchEvent) -> None:
        """Not among the initial events: deleted, or without our labels. Its confirmation looks."""
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
        if not self.flight.keeps(key, deleted):
            self.judge(key, deleted)

    def _find_again(self, key: ObjectKey, event: WatchEvent) -> None:
        live = event.object
        owners = live["metadata"].get("ownerReferences") or ()
        if not ownership.is_ours(live) or any(owner.get("controller") for owner in owners):
            return
        resource = event.resource
        api_version = f"{resource.group}/{resource.version}" if resource.group else resource.version
        bundle = live["metadata"]["labels"][BUNDLE_LABEL]
        self._inventory.put(Entry(key=key, bundle=bundle, api_version=api_version))
        self._changed()


def verdict(event: WatchEvent, *, applied_generation: int) -> Verdict:
    """Pure: the health that an event shows. Metadata alone is enough for kinds whose status says nothing."""
    resource = event.resource
    api_version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    live: Mapping[str, Any] = {**event.object, "apiVersion": api_version, "kind": resource.kind}
    if not needs_status(resource.group, resource.kind) and not live["metadata"].get("deletionTimestamp"):
        return Health.CURRENT, "", ""
    return health(live, applied_generation=applied_generation)


def _key(event: WatchEvent) -> ObjectKey:
    metadata = event.object["metadata"]
    return ObjectKey(
        group=event.resource.group,
        kind=event.resource.kind,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
    )
