"""Applies one object: server-side, with the bytes of its file, under our one field manager.

    the object                                          what is done
    is known from an earlier answer                     applied, forced
    does not exist                                      created
    exists, ours (Apply entry and labels)               applied, forced: the inventory was lost
    exists, `adopt: never`                              refused
    exists, has another owner's marker (`adopt`)        refused; forced with `adopt: always`
    exists otherwise                                    adopted: applied, forced
    is being deleted                                    Deleting: it is made anew once it is gone

First contact is one request that creates or does nothing: an apply with a resourceVersion that no object has. So what
exists is never taken over unseen, not even when its content is identical. What predecessors own of an adopted object is
made ours before our own apply (`adopt`), once a dry run has shown that the API server would have it: a kill in between
leaves an object that is still to be adopted. Ignored paths need a look at the object before each apply (`ignored`).

    an update is refused, and the object could be created as it is now      then
    it may be deleted and created anew (see `body`)                         so it is
    … and is of a kind that takes data with it, without destructivePrune    refused
    it may not                                                              refused; the remedy is named

Whether it could be created is asked by a dry run under another name, so that what is invalid anyway, or what admission
denies, never costs the old object. Deleting has the uid as its precondition. Killed at any point, the same call goes on
where it was: what is gone is created. Next: `reconcile`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.apply import adopt
from agent.apply import body as bodies
from agent.apply.body import Manifest
from agent.apply.removal import KEPT_KINDS
from agent.fields import ignored, ownership, steal
from agent.kube import races
from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import ClusterApi, Entry, Resource, Result
from proto.errors import Refused, Transient
from proto.objects import ObjectKey, blob_id
from proto.slices import BUNDLE_LABEL, BundlePolicy

_ADOPTION_STEPS: Final = 8
"""More than the versions that any one object's managers ever wrote."""

log = logging.getLogger(__name__)


class Deleting(Transient):
    """The object is being deleted, and can only be made anew once it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of an object, what it is like after that, and what a person may want to know of it ("")."""

    result: Result
    live: dict[str, Any]
    note: str = ""


async def apply_object(
    api: ClusterApi,
    entry: Entry,
    data: bytes,
    *,
    policy: BundlePolicy,
    installation: Callable[[str], str] = lambda bundle: "",
) -> Applied:
    """Apply the manifest in `data` to the object of `entry` (as it was before). `installation` names the cluster whose
    agent another installation of ours runs, when a bundle of that name is its; "" for our own.

    Raises what the API server said, Refused when the object belongs to somebody else, and Deleting.
    """
    case = _Case(
        api=api,
        entry=entry,
        policy=policy,
        installation=installation,
        resource=await api.resource(entry.api_version, entry.key.kind),
        manifest=bodies.parsed(data, entry.key, rules=policy.drift.ignore),
    )
    for lost in range(races.TRIES):
        await races.pause(lost)
        try:
            return await (case.first_contact() if entry.baseline is None else case.again())
        except Conflict as conflict:
            log.debug("%s is looked at anew: %s", entry.key, conflict)
    raise Transient(str(entry.key), "changes faster than it can be applied")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One object on its way; the arguments of `apply_object`."""

    api: ClusterApi
    entry: Entry
    policy: BundlePolicy
    installation: Callable[[str], str]
    resource: Resource
    manifest: Manifest

    @property
    def key(self) -> ObjectKey:
        return self.entry.key

    # --- three ways to an applied object --------------------------------------------------------------------------

    async def first_contact(self) -> Applied:
        try:
            return Applied(result=Result.CREATED, live=await self._create())
        except Conflict:
            live = await self._look()
        if ownership.is_ours(live) and not self._other_installation(live):
            return await self._renewed(live)
        self._check_owner(live)
        try:
            return await self._adopted(live)
        except Invalid as error:
            return await self._recreated(live, error)

    async def again(self) -> Applied:
        known = self.entry.baseline
        assert known is not None
        live = None
        if self.manifest.pointers or self.manifest.runs_anew:
            try:
                live = await self._look()
            except Conflict:
                return Applied(result=Result.CREATED, live=await self._create())
            if self._is_old_hook(live):
                return await self._made_anew(live, "runs again with its new content")
        try:
            created, after = await self._apply(live)
        except Invalid as error:
            return await self._recreated(await self._look(), error)
        before = live["metadata"]["resourceVersion"] if live is not None else known.resource_version
        unmoved = after["metadata"].get("resourceVersion") == before
        return Applied(
            result=Result.CREATED if created else Result.UNCHANGED if unmoved else Result.CONFIGURED, live=after
        )

    async def _renewed(self, live: dict[str, Any]) -> Applied:
        """It is ours, and the inventory did not know. Whose fields the API server named after somebody emptied
        `managedFields` are ours, too; predecessors' were merged when it was adopted."""
        try:
            _, after = await self._apply(live)
        except Invalid as error:
            return await self._recreated(live, error)
        after = await self._take_over(after, {ownership.WIPED})
        unmoved = after["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
        return Applied(result=Result.UNCHANGED if unmoved else Result.CONFIGURED, live=after)

    async def _adopted(self, live: dict[str, Any]) -> Applied:
        managers = ", ".join(adopt.managers(live)) or "nobody known"
        if self._takeover(live, adopt.PREDECESSORS) is not None:
            # What follows is in two steps; refused, the first must not have been.
            await self._apply(live, dry_run=True)
            live = await self._take_over(live, adopt.PREDECESSORS)
        if not ownership.is_ours(live) or self._other_installation(live):
            _, live = await self._apply(live)
        live = await self._take_over(live, {ownership.WIPED})
        log.info("%s existed already and is adopted from %s", self.key, managers)
        return Applied(result=Result.ADOPTED, live=live, note=f"adopted from {managers}")

    # --- adoption -------------------------------------------------------------------------------------------------

    def _check_owner(self, live: dict[str, Any]) -> None:
        if self.policy.adopt == "never":
            remedy = "remove it, or set adopt in the bundle"
            raise Refused(str(self.key), f"exists already and bundle {self.policy.name} has adopt: never", remedy)
        owner = adopt.owner(live) or self._other_installation(live)
        if owner and self.policy.adopt != "always":
            raise Refused(
                str(self.key),
                f"exists already and belongs to {owner}",
                f"take it out there, or set adopt: always on bundle {self.policy.name}",
            )

    def _other_installation(self, live: dict[str, Any]) -> str:
        bundle = (live["metadata"].get("labels") or {}).get(BUNDLE_LABEL, "")
        cluster = self.installation(bundle) if bundle else ""
        return f"bundle {bundle} of the agent of cluster {cluster}" if cluster else ""

    def _takeover(self, live: dict[str, Any], predecessors: frozenset[str] | set[str]) -> list[dict[str, Any]] | None:
        leave = (("f:rules",),) if ignored.is_aggregated(self.manifest.object) else ()
        return adopt.takeover(live, self.entry.api_version, predecessors=predecessors, leave=leave)

    async def _take_over(self, live: dict[str, Any], predecessors: frozenset[str] | set[str]) -> dict[str, Any]:
        """Make ours what predecessors own, and apply, until nothing of that kind is left."""
        lost = 0
        for _ in range(_ADOPTION_STEPS + races.TRIES):
            patch = self._takeover(live, predecessors)
            if patch is None:
                return live
            before = ownership.entries(live)
            try:
                live = await self.api.json_patch(self.resource, self.key, patch)
            except Conflict:
                lost += 1
                if lost == races.TRIES:
                    break
                await races.pause(lost)
                live = await self._look()
                continue
            try:
                _, live = await self._apply(live)
            except Invalid as error:
                await self._give_back(live, before)
                if predecessors is adopt.PREDECESSORS:
                    raise
                log.info("%s keeps fields that Git does not have and that nobody is known to own: %s", self.key, error)
                return live
        raise Transient(str(self.key), "changes faster than it can be adopted")

    async def _give_back(self, live: dict[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
        """What the API server would not let go of stays with whoever had it, without what we own there, too."""
        before = {**live, "metadata": {**live["metadata"], "managedFields": list(entries)}}
        live = await self.api.json_patch(self.resource, self.key, steal.give_back(live, before))
        if shared := steal.unshare(live, {ownership.WIPED}):
            await self.api.json_patch(self.resource, self.key, shared)

    # --- deleting and creating ------------------------------------------------------------------------------------

    def _is_old_hook(self, live: dict[str, Any]) -> bool:
        """A hook with other content than that which is applied now. One with another uid than we know was made by this
        very call, which did not come to its end."""
        known = self.entry.baseline
        return (
            self.manifest.runs_anew
            and known is not None
            and live["metadata"]["uid"] == known.uid
            and self.entry.blob not in ("", blob_id(self.manifest.data))
        )

    async def _recreated(self, live: dict[str, Any], error: Invalid) -> Applied:
        """An update was refused: delete and create if that helps and is wanted, else raise `error`."""
        self._check_alive(live)
        if not self.manifest.may_be_recreated:
            if not error.immutable:
                raise error
            remedy = f'set annotation flotilla.dev/recreate: "true" on {self.key} to delete and create it anew'
            raise Invalid(error.thing, error.cause, remedy, fields=error.fields, immutable=True) from error
        if self.key.gk in KEPT_KINDS and not self.policy.destructive_prune:
            remedy = (
                f"set destructivePrune on bundle {self.policy.name}: what belongs to a {self.key.kind} goes with it"
            )
            raise Invalid(error.thing, error.cause, remedy, fields=error.fields, immutable=error.immutable) from error
        if not await self._could_be_created(error):
            raise error
        return await self._made_anew(live, f"could not be changed in place: {error.cause}")

    async def _could_be_created(self, error: Invalid) -> bool:
        """Whether an object like this would be accepted, were it not for the one that is there. What has no fields to
        name was denied by admission: only its words can say that the object must not change."""
        if not error.fields and not error.immutable:
            return False
        key, data = self.manifest.probe(self.key)
        try:
            await self.api.apply(self.resource, key, data, force=True, dry_run=True)
        except Invalid as refusal:
            return error.immutable and bodies.says_little(refusal.fields)
        except Refused as refusal:
            log.warning("%s is not deleted to create it anew, because it could not be created: %s", self.key, refusal)
            return False
        return True

    async def _made_anew(self, live: dict[str, Any], why: str) -> Applied:
        self._check_alive(live)
        try:
            await self.api.delete(self.resource, self.key, uid=live["metadata"]["uid"])
        except NotFound as error:
            if error.what != "object":
                raise
        log.info("%s is deleted and created anew: %s", self.key, why)
        try:
            created = await self._create()
        except Conflict:
            self._check_alive(await self._look())
            raise
        return Applied(result=Result.RECREATED, live=created, note=f"deleted and created anew: {why}")

    # --- requests -------------------------------------------------------------------------------------------------

    async def _create(self) -> dict[str, Any]:
        """Raises Conflict when it exists."""
        _, live = await self.api.apply(self.resource, self.key, self.manifest.only_new(), force=True, conditional=True)
        return live

    async def _apply(self, live: dict[str, Any] | None, *, dry_run: bool = False) -> tuple[bool, dict[str, Any]]:
        """Raises Conflict when the object is no longer as it was looked at, where that matters."""
        data = self.manifest.for_live(live if self.manifest.pointers else None)
        created, after = await self.api.apply(
            self.resource, self.key, data, force=True, dry_run=dry_run, conditional=data is not self.manifest.data
        )
        self._check_alive(after)
        return created, after

    async def _look(self) -> dict[str, Any]:
        """Raises Conflict when it is gone, Deleting when it is about to be."""
        try:
            live = await self.api.get(self.resource, self.key, metadata_only=not self.manifest.pointers)
        except NotFound as error:
            if error.what != "object":
                raise
            raise Conflict(str(self.key), "is gone meanwhile") from error
        self._check_alive(live)
        return live

    def _check_alive(self, live: dict[str, Any]) -> None:
        metadata = live["metadata"]
        if metadata.get("deletionTimestamp"):
            finalizers = ", ".join(metadata.get("finalizers") or ())
            waits = f", and waits for its finalizers {finalizers}" if finalizers else ""
            raise Deleting(str(self.key), f"is being deleted{waits}; it is made anew once it is gone")
