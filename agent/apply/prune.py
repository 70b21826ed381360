"""Removes one object that Git no longer has, or lets it go; looks at it first, always.

    the live object                                        deleted                    let go
    is gone, or its kind is                                gone                       gone
    is being deleted                                       deleting                   gone
    lacks our Apply entry or our labels                    foreign, left alone        foreign, left alone
    has a controller as its owner                          foreign, left alone        foreign, left alone
    says that it must not be pruned (annotations)          let go                     let go
    anything else                                          deleted                    let go

Deleting has uid and resourceVersion as preconditions; when they fail, the object is looked at again. Letting go takes
our labels and our entry of `managedFields` off in one patch and changes nothing else. An object that is being deleted
may take as long as its finalizers want: it is looked at again later, and they are named. Which bundle's labels it
carries does not count: an agent that was killed while the object changed bundle may know the other. Next: `reconcile`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from agent.apply.body import SYNC_OPTIONS, listed
from agent.fields import ownership
from agent.kube import races
from agent.kube.api_status import Conflict, NotFound
from agent.model import ClusterApi, Entry
from proto.errors import Transient
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL

OPT_OUTS: Final[Mapping[str, str]] = {
    "flotilla.dev/prune": "disabled",
    "kustomize.toolkit.fluxcd.io/prune": "disabled",
    "client.lifecycle.config.k8s.io/deletion": "detach",
    "cli-utils.sigs.k8s.io/on-remove": "keep",
    "helm.sh/resource-policy": "keep",
    SYNC_OPTIONS: "Prune=false",
}
"""Annotations of an object, and the values, alone or in a list with commas, that keep it from being deleted."""


class Fate(StrEnum):
    """What became of an object that Git no longer has. All but `deleting` are final: it leaves the inventory."""

    GONE = "gone"
    DELETING = "deleting"
    RELEASED = "released"
    FOREIGN = "foreign"


async def prune_object(api: ClusterApi, entry: Entry, *, release: bool) -> tuple[Fate, str]:
    """Delete the object of `entry`, or let it go when `release`. Returns its fate and, if there is one, a whole
    sentence that explains it. Raises what the API server said."""
    key = entry.key
    try:
        resource = await api.resource(entry.api_version, key.kind)
        for lost in range(races.TRIES):
            await races.pause(lost)
            live = await api.get(resource, key, metadata_only=True)
            metadata = live["metadata"]
            if metadata.get("deletionTimestamp"):
                return (Fate.GONE, "") if release else (Fate.DELETING, _waits_for(entry, metadata))
            if why := not_ours(live):
                return Fate.FOREIGN, f"{key}: is left alone, because {why}"
            try:
                if release or opted_out(metadata):
                    await api.json_patch(resource, key, release_patch(live))
                    return Fate.RELEASED, ""
                await api.delete(resource, key, uid=metadata["uid"], resource_version=metadata["resourceVersion"])
                return Fate.DELETING, ""
            except Conflict:
                continue
    except NotFound:
        return Fate.GONE, ""
    raise Transient(str(key), "changes faster than it can be pruned")


async def is_gone(api: ClusterApi, entry: Entry) -> bool:
    """Whether the object of `entry` does not exist (any more)."""
    try:
        await api.get(await api.resource(entry.api_version, entry.key.kind), entry.key, metadata_only=True)
    except NotFound:
        return True
    return False


def not_ours(live: Mapping[str, Any]) -> str:
    """Pure: why an object of the inventory must not be touched any more, or ""."""
    if ownership.own_entry(live) is None:
        return "it is no longer applied by this agent"
    if not ownership.is_ours(live):
        return "it no longer carries the labels of a bundle"
    controller = ownership.controller(live)
    return f"it belongs to {controller}" if controller else ""


def opted_out(metadata: Mapping[str, Any]) -> bool:
    """Pure: whether the object itself says that it must not be deleted."""
    annotations = metadata.get("annotations") or {}
    return any(value in listed(annotations.get(name, "")) for name, value in OPT_OUTS.items())


def release_patch(live: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pure: a JSON patch that takes our labels and our entry off, if nobody has written the object since."""
    metadata = live["metadata"]
    others = [entry for entry in metadata["managedFields"] if not ownership.is_own(entry)]
    left = {name: value for name, value in metadata["labels"].items() if name not in (BUNDLE_LABEL, PART_OF_LABEL)}
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "replace", "path": "/metadata/labels", "value": left},
        # An empty list would leave managedFields as they are; a list of one empty entry is how they are emptied.
        {"op": "replace", "path": "/metadata/managedFields", "value": others or [{}]},
    ]


def _waits_for(entry: Entry, metadata: Mapping[str, Any]) -> str:
    finalizers = metadata.get("finalizers") or ()
    what = f"finalizers {', '.join(finalizers)}" if finalizers else "its grace period"
    return f"{entry.key}: is being deleted since {metadata['deletionTimestamp']} and waits for {what}"
