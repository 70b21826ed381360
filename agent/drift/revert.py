"""Confirms a suspicion of drift against the API server, and undoes the drift in the same request.

    mode      what is sent                                          when nothing had changed
    revert    one forced apply of the desired bytes                 resourceVersion unmoved: a new baseline
    report    one dry run of it                                     the same
    ignore    nothing

Beyond that one request: the object is looked at first, unless the event shows it whole in our version (2 ms of 9 on a
real API server, measured: what was there cannot be asked afterwards), and the apply names the resourceVersion that was
looked at, so that every value that differs after it is one that it changed: that, not who owns what, is drift. Of a
Secret only the metadata is looked at, and ownership has to tell. When others wrote since, both are done again. Fields
that stand in the place of ours are taken over before the apply, and after a refusal (`steal`). `additions: revert` then
takes what others added over and applies once more; when that is refused, it is theirs again.

What one repair undid is told as one drift for each writer. Drift that stays is told with the same id each time.
Assumes that the caller has judged the event with `drift.suspicion`, limits how often this runs, and marks the object as
having a write under way (`flight`). Longer than other modules: its branches are one table of what an object may be.
Next: `guard`.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import orjson

from agent.drift import drift, values
from agent.drift.drift import Attribution, Mode
from agent.fields import ignored, ownership, steal
from agent.fields.ownership import FieldPath, Paths
from agent.kube import races
from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import Baseline, ClusterApi, Entry, Resource, WatchEvent
from proto import objects
from proto.errors import FlotillaError, Permanent, Transient
from proto.messages import DriftReport, FieldValue
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL, DriftPolicy

_NOBODY = Attribution(fields=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """What came of it: the object's new baseline (None: it is gone), what is to be told, and the values of the fields
    by a report's id. `stands`: there is drift that was not undone."""

    baseline: Baseline | None
    reports: tuple[DriftReport, ...] = ()
    values: Mapping[str, tuple[FieldValue, ...]] = field(default_factory=dict)
    stands: bool = False


async def look(api: ClusterApi, entry: Entry) -> WatchEvent:
    """The event that an object as it is now would be; for `confirm`, when none came. Of a Secret its metadata only."""
    resource = await api.resource(entry.api_version, entry.key.kind)
    try:
        live: Mapping[str, Any] = await api.get(resource, entry.key, metadata_only=entry.key.gk == "Secret")
    except NotFound:
        known = {"uid": entry.baseline.uid} if entry.baseline is not None else {}
        gone = {"metadata": {"name": entry.key.name, "namespace": entry.key.namespace, **known}}
        return WatchEvent(kind="DELETED", resource=resource, object=gone)
    return WatchEvent(kind="MODIFIED", resource=resource, object=live)


async def confirm(
    api: ClusterApi,
    entry: Entry,
    event: WatchEvent,
    *,
    desired: bytes,
    policy: DriftPolicy,
    observed: str,
    seen_at: float,
    mode: Mode | None = None,
    stays_as: str = "reported",
    why: str = "",
    controllers: Collection[str] = ownership.CONTROLLERS,
) -> Confirmed:
    """Whether a suspicious event is drift, undone or only told as `mode` says.

    `desired` is the canonical JSON that was applied last; `mode` that of the object unless given; `observed` the wall
    time (RFC 3339) and `seen_at` the event loop's time at which the event came. Drift that is not undone is told as
    `stays_as`, with `why` it is not. Raises Transient when the API server could not be asked: nothing is known then,
    and the same call can be repeated.
    """
    wanted = orjson.loads(desired)
    case = _Case(
        api=api,
        entry=entry,
        desired=desired,
        wanted=wanted,
        pointers=ignored.pointers(policy.ignore, wanted),
        policy=policy,
        mode=mode or drift.mode_of(policy, wanted),
        observed=observed,
        seen_at=seen_at,
        stays_as=stays_as,
        why=why,
        controllers=controllers,
        resource=await api.resource(entry.api_version, entry.key.kind),
    )
    before = event.object
    if event.kind == "DELETED" or case.is_worth_a_look(before):
        now = await case.look()
        if now is None:
            return await case.deleted(before)
        before = now
        if case.is_known(before):
            # An event from before our last write: somebody wrote while we undid something else.
            return Confirmed(baseline=entry.baseline)
    if before["metadata"].get("deletionTimestamp"):
        # Nothing brings it back before it is gone, and then a DELETED event comes.
        return Confirmed(baseline=drift.baseline(before))
    for tries_left in reversed(range(races.TRIES)):
        try:
            match case.mode:
                case "revert":
                    return await case.revert(before, pinned=tries_left > 0)
                case "report":
                    return await case.report(before, pinned=tries_left > 0)
                case _:
                    return Confirmed(baseline=drift.baseline(before))
        except Conflict:
            if not tries_left:
                raise
        # Others wrote since this was looked at: what our apply changes is told by comparison, so look again.
        await races.pause(races.TRIES - tries_left)
        now = await case.look()
        if now is None:
            return await case.deleted(before)
        before = now
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One confirmation under way; the arguments of `confirm`."""

    api: ClusterApi
    entry: Entry
    desired: bytes
    wanted: Mapping[str, Any]
    pointers: tuple[str, ...]
    policy: DriftPolicy
    mode: Mode
    observed: str
    seen_at: float
    stays_as: str
    why: str
    controllers: Collection[str]
    resource: Resource

    # --- looking --------------------------------------------------------------------------------------------------

    def is_worth_a_look(self, before: Mapping[str, Any]) -> bool:
        """Whether the event shows less than is needed: values that may have been changed, or are ignored."""
        if self.mode == "ignore" or self._is_whole(before):
            return False
        return bool(self.pointers) or self.entry.key.gk != "Secret" or self._is_from_before(before)

    def _is_from_before(self, seen: Mapping[str, Any]) -> bool:
        known = self.entry.baseline
        return known is not None and drift.is_older(seen, known)

    def _is_whole(self, obj: Mapping[str, Any]) -> bool:
        """Not its metadata alone, and in the version that is applied: values in others may be written otherwise."""
        said = obj.get("apiVersion")
        return said == self.entry.api_version or (said is None and not obj.keys() <= {"kind", "metadata"})

    def is_known(self, before: Mapping[str, Any]) -> bool:
        """Whether this is the very state of the baseline."""
        known = self.entry.baseline
        return known is not None and known == drift.baseline(before)

    async def look(self) -> Mapping[str, Any] | None:
        """The object as it is now, None when it is gone; of a Secret only what is not secret, if that is enough."""
        try:
            return await self._now(metadata_only=self.entry.key.gk == "Secret" and not self.pointers)
        except NotFound:
            return None

    async def _now(self, *, metadata_only: bool = False) -> Mapping[str, Any]:
        return await self.api.get(self.resource, self.entry.key, metadata_only=metadata_only)

    # --- what is done ---------------------------------------------------------------------------------------------

    async def deleted(self, last: Mapping[str, Any]) -> Confirmed:
        """It is gone. What ran to its end may go."""
        if self.mode == "ignore" or self.entry.finished:
            return Confirmed(baseline=None)
        if self.mode == "report":
            return self._gone(last, action=self.stays_as, error=self.why)
        try:
            _, after = await self.api.apply(self.resource, self.entry.key, self._body(None), force=True)
        except Permanent as error:
            return self._gone(last, action="failed", error=str(error))
        told = self._report(last, "deleted", action="reverted")
        return Confirmed(baseline=drift.baseline(after), reports=(told,))

    async def revert(self, before: Mapping[str, Any], *, pinned: bool) -> Confirmed:
        """`pinned`: only if nobody wrote since; else Conflict is raised, and nothing was done."""
        try:
            taken = self._lost_ownership(before) and await self._take(before, wide=False)
            try:
                created, after = await self._apply(before, pinned=pinned and not taken)
            except Invalid:
                now = await self._now()
                taken = taken or await self._take(now, wide=True)
                if not taken and await self._rewrite(now, lambda seen: steal.disown(seen, self.wanted)) is None:
                    raise
                created, after = await self._apply(before)
        except Permanent as error:
            if pinned and isinstance(error, Conflict):
                raise
            refused = self._refused(before, action="failed", error=str(error))
            # Another object in its place, that ours cannot be made of: the pass knows what to do.
            replaced = isinstance(error, Invalid) and self._what(before) == "deleted"
            return replace(refused, baseline=None) if replaced else refused
        if created:
            told = self._report(before, "deleted", action="reverted")
            return Confirmed(baseline=drift.baseline(after), reports=(told,))
        drifted = taken or self._is_repair(before, after)
        found = self._drift(before, after, action="reverted") if drifted else {}
        with suppress(FlotillaError):  # What was reverted is told in any case; the next confirmation heals the rest.
            after = await self._sole_owner(after)
        stands = False
        if self.policy.additions == "revert":
            try:
                after, more, stands = await self._remove_additions(before, after)
            except FlotillaError:  # What was reverted is told in any case; the rest is tried again.
                more, stands = {}, True
            found |= more
        elif self.policy.additions == "report":
            found |= self._additions(before, after, action="reported")
        return self._confirmed(after, found, stands=stands)

    async def report(self, before: Mapping[str, Any], *, pinned: bool) -> Confirmed:
        try:
            created, after = await self._apply(before, dry_run=True, pinned=pinned)
        except Invalid:
            # What we want cannot even be merged with what is there: it was changed.
            return self._refused(before, action=self.stays_as, error=self.why)
        except Permanent as error:
            if pinned and isinstance(error, Conflict):
                raise
            return self._refused(before, action="failed", error=str(error))
        if created:
            return self._gone(before, action=self.stays_as, error=self.why)
        drifted = self._is_repair(before, after, dry_run=True)
        found = self._drift(before, after, action=self.stays_as) if drifted else {}
        if self.policy.additions != "tolerate":
            removable = self.policy.additions == "revert"
            added = self._additions(before, after, action=self.stays_as if removable else "reported")
            drifted = drifted or bool(added and removable)
            found |= added
        return self._confirmed(before, found, stands=drifted)

    # --- requests -------------------------------------------------------------------------------------------------

    def _body(self, live: Mapping[str, Any] | None) -> bytes:
        """What is applied to the object as it is."""
        if not self.pointers:
            return self.desired
        return objects.canonical(ignored.body_for(self.wanted, live, self.pointers))

    async def _apply(
        self, before: Mapping[str, Any], *, dry_run: bool = False, pinned: bool = False
    ) -> tuple[bool, Mapping[str, Any]]:
        """Apply, with what is live at ignored paths: others may write in between, then look again; `pinned`: then
        Conflict is raised."""
        if pinned:
            body = orjson.loads(self._body(before))
            body["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            return await self.api.apply(
                self.resource, self.entry.key, objects.canonical(body), force=True, dry_run=dry_run, conditional=True
            )
        live: Mapping[str, Any] | None = before if self.pointers else None
        for tries_left in reversed(range(races.TRIES)):
            try:
                return await self.api.apply(
                    self.resource,
                    self.entry.key,
                    self._body(live),
                    force=True,
                    dry_run=dry_run,
                    conditional=live is not None,
                )
            except Conflict as error:
                if not self.pointers:
                    raise
                if not tries_left:
                    cause = f"was written by others {races.TRIES} times in a row"
                    raise Transient(str(self.entry.key), cause) from error
                await races.pause(races.TRIES - tries_left)
                live = await self.look()
        raise AssertionError("the last try returns or raises")

    def _lost_ownership(self, before: Mapping[str, Any]) -> bool:
        known = self.entry.baseline
        return known is None or known.own != drift.baseline(before).own

    def _instead(self, before: Mapping[str, Any], *, wide: bool = False) -> Paths:
        return steal.siblings(before, self.wanted, controllers=self.controllers, wide=wide)

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

    async def _remove_additions(
        self, before: Mapping[str, Any], live: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], "_Found", bool]:
        """Take over what others added, and apply, which removes it. What cannot be removed is given back to them, and
        told. Returns the object after, what was found, and whether anything of it stands."""
        patched = None
        stolen_from = live

        def steal_all(seen: Mapping[str, Any]) -> steal.JsonPatch | None:
            nonlocal stolen_from
            stolen_from = seen
            return steal.steal_additions(seen, controllers=self.controllers, kept=self._is_ignored)

        try:
            patched = await self._rewrite(live, steal_all)
            if patched is None:
                return live, self._additions(live, live, action="reported"), False
            _, after = await self._apply(patched)
        except Permanent as error:
            after = live
            if patched is not None:
                # Ours in name, they would make every later apply fail, too.
                after = await self._rewrite(await self._now(), lambda seen: steal.give_back(seen, stolen_from)) or live
            return after, self._additions(before, stolen_from, action="failed", error=str(error)), True
        left = self._additions(stolen_from, after, action="reported")
        there = frozenset[FieldPath]().union(*(paths for _, paths in steal.additions(after, controllers=())))
        return after, {**self._additions(stolen_from, stolen_from, action="reverted", still=there), **left}, False

    async def _rewrite(
        self, seen: Mapping[str, Any], patch_of: Callable[[Mapping[str, Any]], steal.JsonPatch | None]
    ) -> Mapping[str, Any] | None:
        """Send the patch for an object as it is; None when there was nothing to patch."""
        for lost in range(races.TRIES):
            patch = patch_of(seen)
            if patch is None:
                return None
            try:
                return await self.api.json_patch(self.resource, self.entry.key, patch)
            except Conflict as error:
                await races.pause(lost + 1)
                tested, seen = seen["metadata"]["resourceVersion"], await self._now()
                if seen["metadata"]["resourceVersion"] == tested:
                    # The test held: admission refuses the patch, with the same code.
                    raise Invalid(error.thing, error.cause) from error
        cause = f"were written by others {races.TRIES} times in a row meanwhile"
        raise Transient(f"{self.entry.key} managedFields", cause)

    # --- what is told ---------------------------------------------------------------------------------------------

    def _is_repair(self, before: Mapping[str, Any], after: Mapping[str, Any], *, dry_run: bool = False) -> bool:
        """Whether our apply changed values, or would: by the values where they are known, else by what moved."""
        if not self._is_whole(before):
            moved = drift.repaired(before, after, dry_run=dry_run) and drift.is_drift(before, after)
            return moved or bool(self._relabelled(before, after))
        if before["metadata"].get("uid") != after["metadata"].get("uid"):
            return True
        return bool(values.difference(before, after, self.wanted))

    def _relabelled(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Paths:
        """The changed values among those that metadata shows, where it is all that we look at."""
        if before["metadata"].get("uid") != after["metadata"].get("uid"):
            return frozenset()
        shown = ({"metadata": before["metadata"]}, {"metadata": after["metadata"]})
        return values.difference(*shown, self.wanted)

    def _what(self, before: Mapping[str, Any], paths: Paths = frozenset(), *, several: bool = False) -> str:
        """`paths` is one of several parts of what was changed: a part is relabelled if a label of ours is in it."""
        known = self.entry.baseline
        if known is not None and known.uid != before["metadata"].get("uid"):
            return "deleted"
        wanted = self.wanted["metadata"].get("labels") or {}
        labels = before["metadata"].get("labels") or {}
        lost = [name for name in (BUNDLE_LABEL, PART_OF_LABEL) if labels.get(name) != wanted.get(name)]
        if several:
            lost = [name for name in lost if ("f:metadata", "f:labels", f"f:{name}") in paths]
        return "relabelled" if lost else "changed"

    def _drift(self, before: Mapping[str, Any], after: Mapping[str, Any], *, action: str) -> "_Found":
        """What a repair undid, or would: one drift for each writer; one for all if the object is another."""
        if self._is_whole(before):
            moved = drift.gained(before, after) | drift.gained(after, before)
            changed = values.really_changed(moved, before, after)
        else:
            changed = drift.changed(before, after) or self._relabelled(before, after)
        parts = drift.attribute(before, changed, instead=self._instead(before))
        if not changed and self._is_whole(before):
            # Where ownership tells nothing, only the values do, and not whose they are.
            changed = values.difference(before, after, self.wanted)
        if len(parts) == 1 or self._what(before) == "deleted":
            parts = [(changed, replace(parts[0][1], fields=ownership.render(changed)))]
        found: _Found = {}
        for paths, who in parts:
            what = self._what(before, paths, several=len(parts) > 1)
            told = self._report(before, what, who, action=action, error="" if action == "reverted" else self.why)
            found[told.id] = told, self._values(before, paths)
        return found

    def _additions(
        self,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        *,
        action: str,
        error: str = "",
        still: Paths = frozenset(),
    ) -> "_Found":
        """What others have in `after` beside us, but for what is there `still`, with its values; `before` names the
        object."""
        found: _Found = {}
        added = drift.additions(
            after, controllers=self.controllers, kept=lambda path: path in still or self._is_ignored(path)
        )
        for paths, who in added:
            told = self._report(before, "added", who, action=action, error=error)
            found[told.id] = told, self._values(after, paths)
        return found

    def _is_ignored(self, path: FieldPath) -> bool:
        return any(ignored.covers(pointer, path) for pointer in self.pointers)

    def _values(self, live: Mapping[str, Any], paths: Paths) -> tuple[FieldValue, ...]:
        return values.of_fields(self.entry.key, paths, wanted=self.wanted, live=live)

    def _gone(self, last: Mapping[str, Any], *, action: str, error: str = "") -> Confirmed:
        told = self._report(last, "deleted", action=action, error=error)
        return Confirmed(baseline=None, reports=(told,), stands=True)

    def _refused(self, before: Mapping[str, Any], *, action: str, error: str) -> Confirmed:
        """The API server does not take what we want; whoever put something in the place of it is known."""
        ((_, who),) = drift.attribute(before, frozenset(), instead=self._instead(before, wide=True))
        told = self._report(before, self._what(before), who, action=action, error=error)
        return Confirmed(baseline=drift.baseline(before), reports=(told,), stands=True)

    def _confirmed(self, after: Mapping[str, Any], found: "_Found", *, stands: bool) -> Confirmed:
        return Confirmed(
            baseline=drift.baseline(after),
            reports=tuple(told for told, _ in found.values()),
            values={told.id: seen for told, seen in found.values()},
            stands=stands,
        )

    def _report(
        self, before: Mapping[str, Any], what: str, who: Attribution = _NOBODY, *, action: str, error: str = ""
    ) -> DriftReport:
        metadata = before.get("metadata") or {}
        # What stays is met again whenever something else happens to the object: then it has the same id.
        state = (metadata.get("resourceVersion"),) if action == "reverted" else (who.time,)
        uid = metadata.get("uid") or (self.entry.baseline.uid if self.entry.baseline is not None else "")
        seed = repr((str(self.entry.key), uid, what, who.fields, who.manager, who.operation, *state))
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
            first_seen=self.observed,
            action=action,
            error=error,
            revert_ms=(anyio.current_time() - self.seen_at) * 1000 if action == "reverted" else 0.0,
        )


_Found = dict[str, tuple[DriftReport, tuple[FieldValue, ...]]]
"""Reports and their values, by the reports' ids."""
