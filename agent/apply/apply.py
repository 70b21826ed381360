"""Applies one object: server-side, with the bytes of its file, under our one field manager.

    first contact, no such object, or no conflict       created, or taken over as it is
    first contact, fields of others differ (409)        ours already (Apply entry and labels): forced
                                                        `adopt: always`: forced
                                                        else refused; fields, managers and remedy are named
    first contact, object exists, `adopt: never`        refused, unless ours already
    afterwards                                          forced

What kubectl, Helm, Flux or Argo own of an object that is taken over is merged into our entry of `managedFields`, and
the object is applied once more: else what they once set and Git does not say would stay for ever. Next: `reconcile`.
"""

from typing import Any

from agent.fields import ownership, steal
from agent.kube.cluster import Conflict, NotFound
from agent.model import ClusterApi, Entry, Resource, Result
from proto.errors import Refused
from proto.objects import ObjectKey
from proto.slices import BundlePolicy

PREDECESSORS = frozenset(
    {
        "kubectl",
        "kubectl-client-side-apply",
        "kubectl-create",
        "kubectl-last-applied",
        "before-first-apply",
        "helm",
        "kustomize-controller",
        "helm-controller",
        "argocd-controller",
        "argocd-application-controller",
    }
)
"""Managers whose word Git replaces when an object is taken over. Hand edits are not among them: they are drift."""

_TRIES = 3
"""How often `managedFields` are rewritten when others write the object in between; more is a fight."""


async def apply_object(
    api: ClusterApi, entry: Entry, body: bytes, *, policy: BundlePolicy
) -> tuple[Result, dict[str, Any]]:
    """Apply `body` to the object of `entry` (as it was before); returns what became of it and the object after.

    Raises what the API server said, or Refused when the object belongs to somebody else.
    """
    resource = await api.resource(entry.api_version, entry.key.kind)
    if entry.baseline is not None:
        created, live = await api.apply(resource, entry.key, body, force=True)
        unmoved = live["metadata"].get("resourceVersion") == entry.baseline.resource_version
        return (Result.CREATED if created else Result.UNCHANGED if unmoved else Result.CONFIGURED), live
    if policy.adopt == "never":
        await _only_ours(api, resource, entry.key)
    try:
        created, live = await api.apply(resource, entry.key, body, force=False)
    except Conflict as conflict:
        if policy.adopt != "always" and not ownership.is_ours(await api.get(resource, entry.key, metadata_only=True)):
            raise _owned_by_others(entry.key, policy, conflict) from conflict
        created, live = await api.apply(resource, entry.key, body, force=True)
    if not created:
        live = await _take_over(api, resource, entry.key, body, live)
    return (Result.CREATED if created else Result.CONFIGURED), live


async def _only_ours(api: ClusterApi, resource: Resource, key: ObjectKey) -> None:
    try:
        live = await api.get(resource, key, metadata_only=True)
    except NotFound as error:
        if error.what == "object":
            return
        raise
    if not ownership.is_ours(live):
        raise Refused(
            str(key), "exists already and the bundle has adopt: never", "remove it, or set adopt in the bundle"
        )


async def _take_over(
    api: ClusterApi, resource: Resource, key: ObjectKey, body: bytes, live: dict[str, Any]
) -> dict[str, Any]:
    for last in (False,) * (_TRIES - 1) + (True,):
        patch = steal.absorb(live, PREDECESSORS)
        if patch is None:
            return live
        try:
            await api.json_patch(resource, key, patch)
            return (await api.apply(resource, key, body, force=True))[1]
        except Conflict:
            if last:
                raise
            live = await api.get(resource, key, metadata_only=True)
    raise AssertionError("the last try returns or raises")


def _owned_by_others(key: ObjectKey, policy: BundlePolicy, conflict: Conflict) -> Refused:
    held = ", ".join(f"{path} by {manager}" for manager, path in conflict.fields) or conflict.cause
    return Refused(
        str(key),
        f"exists already and others own fields that differ: {held}",
        f"set adopt: always on bundle {policy.name} to take it over, or remove the object or the fields",
    )
