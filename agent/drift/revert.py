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

What came of it is told as `findings` says. Assumes that the caller has judged the event with `drift.suspicion`, limits
how often this runs, and marks the object as having a write under way (`flight`). Next: `guard`.
"""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio
import orjson

from agent.drift import drift
from agent.drift.drift import Mode
from agent.drift.findings import Fate, Found, Subject
from agent.fields import ignored, ownership, steal
from agent.fields.ownership import FieldPath
from agent.kube import races
from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import Baseline, ClusterApi, Entry, Resource, WatchEvent
from proto import objects
from proto.errors import FlotillaError, Permanent, Transient
from proto.messages import DriftReport, FieldValue
from proto.objects import ObjectKey
from proto.slices import DriftPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Stance:
    """What may be done about drift of one object now. What is not undone is told as `stays_as`, with `why`; `wait_s`
    is how long that is so at least (infinite: until somebody says otherwise)."""

    mode: Mode
    stays_as: Literal["reported", "paused"] = "reported"
    why: str = ""
    wait_s: float = math.inf


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
    stance: Stance,
    observed: str,
    seen_at: float,
    controllers: Collection[str] = ownership.CONTROLLERS,
) -> Confirmed:
    """Whether a suspicious event is drift, undone or only told as `stance` says.

    `desired` is the canonical JSON that was applied last; `observed` the wall time (RFC 3339) and `seen_at` the event
    loop's time at which the event came. Raises Transient when the API server could not be asked: nothing is known
    then, and the same call can be repeated.
    """
    wanted = orjson.loads(desired)
    subject = Subject(
        entry=entry,
        wanted=wanted,
        pointers=ignored.pointers(policy.ignore, wanted),
        controllers=controllers,
        observed=observed,
    )
    resource = await api.resource(entry.api_version, entry.key.kind)
    case = _Case(
        api=api,
        resource=resource,
        subject=subject,
        desired=desired,
        additions=policy.additions,
        stance=stance,
        seen_at=seen_at,
    )
    return await case.confirm(event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One confirmation under way; the arguments of `confirm`."""

    api: ClusterApi
    resource: Resource
    subject: Subject
    desired: bytes
    additions: Literal["revert", "report", "tolerate"]
    stance: Stance
    seen_at: float

    @property
    def key(self) -> ObjectKey:
        return self.subject.entry.key

    async def confirm(self, event: WatchEvent) -> Confirmed:
        """See `revert.confirm`."""
        before = event.object
        if event.kind == "DELETED" or self._is_worth_a_look(before):
            now = await self._look()
            if now is None:
                return await self._deleted(before)
            before = now
            if self.subject.is_known(before):
                # An event from before our last write: somebody wrote while we undid something else.
                return Confirmed(baseline=self.subject.entry.baseline)
        if before["metadata"].get("deletionTimestamp"):
            # Nothing brings it back before it is gone, and then a DELETED event comes.
            return Confirmed(baseline=drift.baseline(before))
        for tries_left in reversed(range(races.TRIES)):
            try:
                return await self._at(before, pinned=tries_left > 0)
            except Conflict:
                if not tries_left:
                    raise
            # Others wrote since this was looked at: what our apply changes is told by comparison, so look again.
            await races.pause(races.TRIES - tries_left)
            now = await self._look()
            if now is None:
                return await self._deleted(before)
            before = now
        raise AssertionError("the last try returns or raises")

    async def _at(self, before: Mapping[str, Any], *, pinned: bool) -> Confirmed:
        """What comes of the object as it was looked at. `pinned`: only if nobody wrote since; else Conflict is raised,
        and nothing was done."""
        match self.stance.mode:
            case "revert":
                return await self._revert(before, pinned=pinned)
            case "report":
                return await self._report(before, pinned=pinned)
            case _:
                return Confirmed(baseline=drift.baseline(before))

    # --- looking --------------------------------------------------------------------------------------------------

    def _is_worth_a_look(self, before: Mapping[str, Any]) -> bool:
        """Whether the event shows less than is needed: values that may have been changed, or are ignored."""
        subject = self.subject
        if self.stance.mode == "ignore" or subject.is_whole(before):
            return False
        return bool(subject.pointers) or self.key.gk != "Secret" or subject.is_from_before(before)

    async def _look(self) -> Mapping[str, Any] | None:
        """The object as it is now, None when it is gone; of a Secret only what is not secret, if that is enough."""
        try:
            return await self._now(metadata_only=self.key.gk == "Secret" and not self.subject.pointers)
        except NotFound:
            return None

    async def _now(self, *, metadata_only: bool = False) -> Mapping[str, Any]:
        return await self.api.get(self.resource, self.key, metadata_only=metadata_only)

    # --- what is done ---------------------------------------------------------------------------------------------

    async def _deleted(self, last: Mapping[str, Any]) -> Confirmed:
        """It is gone. What ran to its end may go."""
        if self.stance.mode == "ignore" or self.subject.entry.finished:
            return Confirmed(baseline=None)
        if self.stance.mode == "report":
            return self._gone(last, self._stays())
        try:
            _, after = await self.api.apply(self.resource, self.key, self._body(None), force=True)
        except Permanent as error:
            return self._gone(last, _failed(error))
        return self._created(last, after)

    async def _revert(self, before: Mapping[str, Any], *, pinned: bool) -> Confirmed:
        subject = self.subject
        try:
            taken = subject.lost_ownership(before) and await self._take(before, wide=False)
            try:
                created, after = await self._apply(before, pinned=pinned and not taken)
            except Invalid:
                now = await self._now()
                taken = taken or await self._take(now, wide=True)
                if not taken and await self._rewrite(now, lambda seen: steal.disown(seen, subject.wanted)) is None:
                    raise
                created, after = await self._apply(before)
        except Permanent as error:
            if pinned and isinstance(error, Conflict):
                raise
            refused = self._refused(before, _failed(error))
            # Another object in its place, that ours cannot be made of: the pass knows what to do.
            replaced = isinstance(error, Invalid) and subject.what(before) == "deleted"
            return replace(refused, baseline=None) if replaced else refused
        if created:
            return self._created(before, after)
        drifted = taken or subject.is_repair(before, after)
        found = subject.changed(before, after, self._undone()) if drifted else {}
        with suppress(FlotillaError):  # What was reverted is told in any case; the next confirmation heals the rest.
            after = await self._sole_owner(after)
        stands = False
        if self.additions == "revert":
            try:
                after, more, stands = await self._remove_additions(before, after)
            except FlotillaError:  # What was reverted is told in any case; the rest is tried again.
                more, stands = {}, True
            found |= more
        elif self.additions == "report":
            found |= subject.additions(before, after, _TOLD)
        return _confirmed(after, found, stands=stands)

    async def _report(self, before: Mapping[str, Any], *, pinned: bool) -> Confirmed:
        """As `_revert`, and nothing is undone."""
        try:
            created, after = await self._apply(before, dry_run=True, pinned=pinned)
        except Invalid:
            # What we want cannot even be merged with what is there: it was changed.
            return self._refused(before, self._stays())
        except Permanent as error:
            if pinned and isinstance(error, Conflict):
                raise
            return self._refused(before, _failed(error))
        if created:
            return self._gone(before, self._stays())
        drifted = self.subject.is_repair(before, after, dry_run=True)
        found = self.subject.changed(before, after, self._stays()) if drifted else {}
        if self.additions != "tolerate":
            removable = self.additions == "revert"
            fate = self._stays() if removable else _TOLD
            added = self.subject.additions(before, after, fate)
            drifted = drifted or bool(added and removable)
            found |= added
        return _confirmed(before, found, stands=drifted)

    def _stays(self) -> Fate:
        return Fate(action=self.stance.stays_as, error=self.stance.why)

    def _undone(self) -> Fate:
        return Fate(action="reverted", revert_ms=(anyio.current_time() - self.seen_at) * 1000)

    def _created(self, last: Mapping[str, Any], after: Mapping[str, Any]) -> Confirmed:
        return Confirmed(baseline=drift.baseline(after), reports=(self.subject.gone(last, self._undone()),))

    def _gone(self, last: Mapping[str, Any], fate: Fate) -> Confirmed:
        return Confirmed(baseline=None, reports=(self.subject.gone(last, fate),), stands=True)

    def _refused(self, before: Mapping[str, Any], fate: Fate) -> Confirmed:
        return Confirmed(baseline=drift.baseline(before), reports=(self.subject.refused(before, fate),), stands=True)

    # --- requests -------------------------------------------------------------------------------------------------

    def _body(self, live: Mapping[str, Any] | None) -> bytes:
        """What is applied to the object as it is."""
        if not self.subject.pointers:
            return self.desired
        return objects.canonical(ignored.body_for(self.subject.wanted, live, self.subject.pointers))

    async def _apply(
        self, before: Mapping[str, Any], *, dry_run: bool = False, pinned: bool = False
    ) -> tuple[bool, Mapping[str, Any]]:
        """Apply, with what is live at ignored paths: others may write in between, then look again; `pinned`: then
        Conflict is raised."""
        if pinned:
            body = orjson.loads(self._body(before))
            body["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            return await self.api.apply(
                self.resource, self.key, objects.canonical(body), force=True, dry_run=dry_run, conditional=True
            )
        live: Mapping[str, Any] | None = before if self.subject.pointers else None
        for tries_left in reversed(range(races.TRIES)):
            try:
                return await self.api.apply(
                    self.resource,
                    self.key,
                    self._body(live),
                    force=True,
                    dry_run=dry_run,
                    conditional=live is not None,
                )
            except Conflict as error:
                if not self.subject.pointers:
                    raise
                if not tries_left:
                    cause = f"was written by others {races.TRIES} times in a row"
                    raise Transient(str(self.key), cause) from error
                await races.pause(races.TRIES - tries_left)
                live = await self._look()
        raise AssertionError("the last try returns or raises")

    async def _take(self, before: Mapping[str, Any], *, wide: bool) -> bool:
        """Make ours what stands in the place of lost fields; False when there is nothing of that kind."""
        patched = await self._rewrite(
            before,
            lambda seen: steal.steal(seen, self.subject.instead(seen, wide=wide), controllers=self.subject.controllers),
        )
        return patched is not None

    async def _sole_owner(self, after: Mapping[str, Any]) -> Mapping[str, Any]:
        """After someone emptied `managedFields`, the server names an owner of all fields beside us: take ours back, or
        what Git removes later would stay."""
        return await self._rewrite(after, lambda seen: steal.unshare(seen, {ownership.WIPED})) or after

    async def _remove_additions(
        self, before: Mapping[str, Any], live: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Found, bool]:
        """Take over what others added, and apply, which removes it. What cannot be removed is given back to them, and
        told. Returns the object after, what was found, and whether anything of it stands."""
        subject, stolen_from, patched = self.subject, live, None

        def steal_all(seen: Mapping[str, Any]) -> steal.JsonPatch | None:
            nonlocal stolen_from
            stolen_from = seen
            return steal.steal_additions(seen, controllers=subject.controllers, kept=subject.is_ignored)

        try:
            patched = await self._rewrite(live, steal_all)
            if patched is None:
                return live, subject.additions(live, live, _TOLD), False
            _, after = await self._apply(patched)
        except Permanent as error:
            after = live
            if patched is not None:
                # Ours in name, they would make every later apply fail, too.
                after = await self._rewrite(await self._now(), lambda seen: steal.give_back(seen, stolen_from)) or live
            return after, subject.additions(before, stolen_from, _failed(error)), True
        left = subject.additions(stolen_from, after, _TOLD)
        there = frozenset[FieldPath]().union(*(paths for _, paths in steal.additions(after, controllers=())))
        return after, {**subject.additions(stolen_from, stolen_from, self._undone(), still=there), **left}, False

    async def _rewrite(
        self, seen: Mapping[str, Any], patch_of: Callable[[Mapping[str, Any]], steal.JsonPatch | None]
    ) -> Mapping[str, Any] | None:
        """Send the patch for an object as it is; None when there was nothing to patch."""
        for lost in range(races.TRIES):
            patch = patch_of(seen)
            if patch is None:
                return None
            try:
                return await self.api.json_patch(self.resource, self.key, patch)
            except Conflict as error:
                await races.pause(lost + 1)
                tested, seen = seen["metadata"]["resourceVersion"], await self._now()
                if seen["metadata"]["resourceVersion"] == tested:
                    # The test held: admission refuses the patch, with the same code.
                    raise Invalid(error.thing, error.cause) from error
        cause = f"were written by others {races.TRIES} times in a row meanwhile"
        raise Transient(f"{self.key} managedFields", cause)


_TOLD = Fate(action="reported")


def _failed(error: Permanent) -> Fate:
    return Fate(action="failed", error=str(error))


def _confirmed(after: Mapping[str, Any], found: Found, *, stands: bool) -> Confirmed:
    return Confirmed(
        baseline=drift.baseline(after),
        reports=tuple(told for told, _ in found.values()),
        values={told.id: seen for told, seen in found.values()},
        stands=stands,
    )
