"""Confirms a suspicion of drift against the API server, and undoes the drift in the same request.

    mode      what is sent                                          when nothing had changed
    revert    one forced apply of the desired bytes                 resourceVersion unmoved: a new baseline
    report    one dry run of it                                     the same
    ignore    nothing

Beyond that one request: a DELETED event is looked at first (it may only mean a removed label); ignored paths need the
live values; fields that stand in the place of ours are taken over before the apply, and after a refusal (`steal`).
Assumes that the caller has judged the event with `drift.suspicion`, limits how often this runs, and marks the object as
having a write under way in a `Flight`. `additions: revert` is not done in this version: it reports. Next: `report`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import orjson

from agent.drift import drift
from agent.fields import ownership, steal
from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import Baseline, ClusterApi, Entry, Resource, WatchEvent
from proto import objects
from proto.errors import Permanent, Transient
from proto.messages import DriftReport
from proto.objects import ObjectKey
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL, DriftPolicy

_TRIES = 5
"""How often managedFields are rewritten when others (a busy rollout's status) write the object in between."""


_NOBODY = drift.Attribution(fields=())


class Flight:
    """Which objects have a write of ours under way, and what of their events is not to be judged.

    An event of our own write usually comes before its response: judged then, against the old baseline, it would be a
    suspicion. And what others did before our write was answered is undone by it, but its event may come after: judged
    then, it would be told twice. So: `begin`, write, take over the new baseline, `end`, and judge what `end` returns.
    """

    def __init__(self) -> None:
        self._writes: Counter[ObjectKey] = Counter()
        self._kept: dict[ObjectKey, WatchEvent] = {}
        self._answered: dict[ObjectKey, int] = {}

    def begin(self, key: ObjectKey) -> None:
        self._writes[key] += 1

    def keeps(self, key: ObjectKey, event: WatchEvent) -> bool:
        """Whether an event is not to be judged now: a write of its object is under way (the event is kept, in place of
        an earlier one), or it is older than the answer to the last one (it is dropped)."""
        if key in self._writes:
            self._kept[key] = event
            return True
        return self._is_old(key, event)

    def end(self, key: ObjectKey, answer: Baseline | None = None) -> WatchEvent | None:
        """The write was answered, or failed (`answer` None). Returns the event to judge once no other write of the
        object is under way."""
        if answer is not None and answer.resource_version.isdecimal():
            self._answered[key] = int(answer.resource_version)
        self._writes[key] -= 1
        if self._writes[key] > 0:
            return None
        del self._writes[key]
        event = self._kept.pop(key, None)
        return None if event is None or self._is_old(key, event) else event

    def restarted(self, group: str, kind: str) -> None:
        """A watch began anew: only now may resourceVersions be lower than before (a restored etcd), so none is old."""
        self._answered = {key: at for key, at in self._answered.items() if (key.group, key.kind) != (group, kind)}

    def _is_old(self, key: ObjectKey, event: WatchEvent) -> bool:
        answered = self._answered.get(key)
        version = str(event.object["metadata"].get("resourceVersion", ""))
        if answered is None or not version.isdecimal():
            return False
        if int(version) < answered:
            return True
        # The watch has caught up with our write; everything after this is news.
        del self._answered[key]
        return False


async def confirm(
    api: ClusterApi,
    entry: Entry,
    event: WatchEvent,
    *,
    desired: bytes,
    policy: DriftPolicy,
    observed: str,
    seen_at: float,
    controllers: Collection[str] = ownership.CONTROLLERS,
) -> tuple[Baseline | None, DriftReport | None]:
    """Whether a suspicious event is drift, undone or only told as `policy` says.

    `desired` is the canonical JSON that was applied last; `observed` the wall time (RFC 3339) and `seen_at` the event
    loop's time at which the event came. Returns the object's new baseline (None: it is gone) and what to report; drift
    that stays (`report`, additions) is told again, with the same id, whenever something else happens to the object.
    Raises Transient when the API server could not be asked: nothing is known then, and the same call can be repeated.
    """
    case = _Case(
        api=api,
        entry=entry,
        desired=desired,
        policy=policy,
        observed=observed,
        seen_at=seen_at,
        controllers=controllers,
        resource=await api.resource(entry.api_version, entry.key.kind),
    )
    before: Mapping[str, Any] | None = event.object
    if event.kind == "DELETED":
        before = await case.look()
    if policy.mode == "ignore":
        return (drift.baseline(before) if before else None), None
    if before is None:
        return await case.deleted(event.object)
    if before["metadata"].get("deletionTimestamp"):
        # Nothing brings it back before it is gone, and then a DELETED event comes.
        return drift.baseline(before), None
    return await (case.revert(before) if policy.mode == "revert" else case.report(before))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One confirmation under way; the arguments of `confirm`."""

    api: ClusterApi
    entry: Entry
    desired: bytes
    policy: DriftPolicy
    observed: str
    seen_at: float
    controllers: Collection[str]
    resource: Resource

    async def look(self) -> dict[str, Any] | None:
        """The object's metadata as it is now; None when it is gone."""
        try:
            return await self._now()
        except NotFound:
            return None

    async def _now(self) -> dict[str, Any]:
        return await self.api.get(self.resource, self.entry.key, metadata_only=True)

    async def deleted(self, last: Mapping[str, Any]) -> tuple[Baseline | None, DriftReport | None]:
        if self.policy.mode == "report":
            return None, self._report(last, "deleted", action="reported")
        try:
            _, after = await self.api.apply(self.resource, self.entry.key, self.desired, force=True)
        except Permanent as error:
            return None, self._report(last, "deleted", action="failed", error=str(error))
        return drift.baseline(after), self._report(last, "deleted", action="reverted")

    async def revert(self, before: Mapping[str, Any]) -> tuple[Baseline | None, DriftReport | None]:
        try:
            body = await self._body()
            taken = self._lost_ownership(before) and await self._take(before, wide=False)
            try:
                created, after = await self.api.apply(self.resource, self.entry.key, body, force=True)
            except Invalid:
                if not await self._take(await self._now(), wide=True):
                    raise
                taken = True
                created, after = await self.api.apply(self.resource, self.entry.key, body, force=True)
        except Permanent as error:
            what = self._what(before)
            return drift.baseline(before), self._report(before, what, action="failed", error=str(error))
        if created:
            return drift.baseline(after), self._report(before, "deleted", action="reverted")
        drifted = taken or (drift.repaired(before, after) and drift.is_drift(before, after))
        told = self._drift_or_addition(before, after, drifted=drifted, action="reverted")
        return drift.baseline(await self._sole_owner(after)), told

    async def report(self, before: Mapping[str, Any]) -> tuple[Baseline | None, DriftReport | None]:
        try:
            body = await self._body()
            created, after = await self.api.apply(self.resource, self.entry.key, body, force=True, dry_run=True)
        except Invalid:
            # What we want cannot even be merged with what is there: it was changed.
            who = drift.attribute(before, frozenset(), instead=self._instead(before, wide=True))
            return drift.baseline(before), self._report(before, self._what(before), who, action="reported")
        except Permanent as error:
            return drift.baseline(before), self._report(before, self._what(before), action="failed", error=str(error))
        if created:
            return None, self._report(before, "deleted", action="reported")
        drifted = drift.repaired(before, after, dry_run=True) and drift.is_drift(before, after)
        told = self._drift_or_addition(before, after, drifted=drifted, action="reported")
        return drift.baseline(before), told

    async def _body(self) -> bytes:
        """The desired bytes, with the live values at ignored paths."""
        pointers = drift.ignored(self.policy.ignore, self.entry.key)
        if not pointers:
            return self.desired
        try:
            live = await self.api.get(self.resource, self.entry.key)
        except NotFound:
            return self.desired
        return objects.canonical(drift.with_live(orjson.loads(self.desired), live, pointers))

    def _lost_ownership(self, before: Mapping[str, Any]) -> bool:
        known = self.entry.baseline
        return known is None or known.own != drift.baseline(before).own

    def _instead(self, before: Mapping[str, Any], *, wide: bool = False) -> ownership.Paths:
        return steal.siblings(before, orjson.loads(self.desired), controllers=self.controllers, wide=wide)

    async def _take(self, before: Mapping[str, Any], *, wide: bool) -> bool:
        """Make ours what stands in the place of lost fields; False when there is nothing of that kind."""
        patched = await self._rewrite(
            before,
            lambda seen: steal.steal(seen, self._instead(seen, wide=wide), controllers=self.controllers),
        )
        return patched is not None

    async def _sole_owner(self, after: Mapping[str, Any]) -> Mapping[str, Any]:
        """After someone emptied `managedFields`, the server names an owner of all fields beside us: take ours back, or
        what Git removes later would stay."""
        return await self._rewrite(after, lambda seen: steal.unshare(seen, {ownership.WIPED})) or after

    async def _rewrite(
        self, seen: Mapping[str, Any], patch_of: Callable[[Mapping[str, Any]], steal.JsonPatch | None]
    ) -> Mapping[str, Any] | None:
        """Send the patch for an object as it is; None when there was nothing to patch."""
        for _ in range(_TRIES):
            patch = patch_of(seen)
            if patch is None:
                return None
            try:
                return await self.api.json_patch(self.resource, self.entry.key, patch)
            except Conflict:
                seen = await self._now()
        raise Transient(f"{self.entry.key} managedFields", f"were written by others {_TRIES} times in a row meanwhile")

    def _what(self, before: Mapping[str, Any]) -> str:
        known = self.entry.baseline
        if known is not None and known.uid != before["metadata"].get("uid"):
            return "deleted"
        wanted = orjson.loads(self.desired)["metadata"].get("labels") or {}
        labels = before["metadata"].get("labels") or {}
        if any(labels.get(name) != wanted.get(name) for name in (BUNDLE_LABEL, PART_OF_LABEL)):
            return "relabelled"
        return "changed"

    def _drift_or_addition(
        self, before: Mapping[str, Any], after: Mapping[str, Any], *, drifted: bool, action: str
    ) -> DriftReport | None:
        if drifted:
            who = drift.attribute(before, drift.changed(before, after), instead=self._instead(before))
            return self._report(before, self._what(before), who, action=action)
        known = self.entry.baseline
        if self.policy.additions == "tolerate" or known is None or self._lost_ownership(before):
            return None
        if known.managed == drift.baseline(before).managed:
            return None
        added = drift.addition(before, controllers=self.controllers)
        return self._report(before, "added", added, action="reported") if added else None

    def _report(
        self,
        before: Mapping[str, Any],
        what: str,
        who: drift.Attribution = _NOBODY,
        *,
        action: str,
        error: str = "",
    ) -> DriftReport:
        metadata = before.get("metadata") or {}
        # What stays is met again whenever something else happens to the object: then it has the same id.
        stays = (who.fields, who.manager, who.operation, who.time)
        state = stays if action == "reported" else (metadata.get("resourceVersion"),)
        seed = repr((str(self.entry.key), metadata.get("uid"), what, *state))
        return DriftReport(
            id=hashlib.sha256(seed.encode()).hexdigest()[:16],
            bundle=self.entry.bundle,
            object=str(self.entry.key),
            what=what,
            fields=who.fields,
            manager=who.manager,
            operation=who.operation,
            time=who.time,
            observed=self.observed,
            action=action,
            error=error,
            revert_ms=(anyio.current_time() - self.seen_at) * 1000 if action == "reverted" else 0.0,
        )
