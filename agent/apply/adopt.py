"""Whose an object is that exists already, and how it becomes ours.

    marker of an object                                                         its owner
    label app.kubernetes.io/managed-by=Helm, annotation meta.helm.sh/…          a Helm release
    label kustomize.toolkit.fluxcd.io/name, helm.toolkit.fluxcd.io/name         a Flux Kustomization, HelmRelease
    annotation argocd.argoproj.io/tracking-id, label argocd.argoproj.io/instance    an Argo CD application
    label applyset.kubernetes.io/part-of that is not of one of our bundles      another ApplySet
    annotation configmanagement.gke.io/managed=enabled                          Config Sync
    annotation config.k8s.io/owning-inventory                                   another inventory (kpt, cli-utils)
    label or annotation objectset.rio.cattle.io/…                               an object set (Rancher Fleet, k3s)
    label kapp.k14s.io/app                                                      a kapp application
    an owner reference that is a controller's                                   that controller
    our labels, of a bundle whose parent another cluster's agent wrote          that agent (see `apply`)

Nothing else is an owner: that kubectl or a person wrote an object does not make it somebody's. What the tools in
`PREDECESSORS` own of an object that is adopted is merged into our entry of `managedFields`, or what they once set and
Git does not say would stay for ever; so is what the API server makes of emptied `managedFields`. Field paths mean
something in one version of an API only, so entries of another version are taken over in a step of their own: our entry
says for a moment that it is of that version, and the server converts it when we apply. All of it is pure. Next:
`apply`.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from agent.fields import ownership
from agent.fields.ownership import FieldPath, Paths
from proto.slices import BUNDLE_LABEL, FIELD_MANAGER, PART_OF_LABEL, applyset_id

PREDECESSORS: Final = frozenset(
    {
        "kubectl",
        "kubectl-client-side-apply",
        "kubectl-create",
        "kubectl-replace",
        "kubectl-last-applied",
        ownership.WIPED,
        "helm",
        "flux",
        "kustomize-controller",
        "helm-controller",
        "argocd-controller",
        "argocd-application-controller",
        "Terraform",
        "HashiCorp",
    }
)
"""Managers whose word Git replaces when an object is adopted. Hand edits are not among them: they are additions."""

_RANCHER: Final = "objectset.rio.cattle.io/"
_LABEL_MARKERS: Final[Mapping[str, str]] = {
    "kustomize.toolkit.fluxcd.io/name": "Flux Kustomization",
    "helm.toolkit.fluxcd.io/name": "Flux HelmRelease",
    "argocd.argoproj.io/instance": "Argo CD application",
    "kapp.k14s.io/app": "kapp application",
}


def owner(live: Mapping[str, Any]) -> str:
    """Pure: who an object belongs to, in words for `belongs to …`; "" when it is free to be adopted."""
    metadata = live["metadata"]
    labels: Mapping[str, str] = metadata.get("labels") or {}
    notes: Mapping[str, str] = metadata.get("annotations") or {}
    release = notes.get("meta.helm.sh/release-name")
    if release and labels.get("app.kubernetes.io/managed-by") == "Helm":
        return f"Helm release {_named(notes.get('meta.helm.sh/release-namespace'), release)}"
    for marker, what in _LABEL_MARKERS.items():
        if name := labels.get(marker):
            return f"{what} {_named(labels.get(marker.removesuffix('name') + 'namespace'), name)}"
    if tracking := notes.get("argocd.argoproj.io/tracking-id"):
        return f"Argo CD application {tracking.partition(':')[0]}"
    part_of = labels.get(PART_OF_LABEL)
    if part_of and part_of != applyset_id(labels.get(BUNDLE_LABEL, "")):
        return f"ApplySet {part_of}"
    if notes.get("configmanagement.gke.io/managed") == "enabled":
        return "Config Sync"
    if inventory := notes.get("config.k8s.io/owning-inventory"):
        return f"inventory {inventory}"
    if any(name.startswith(_RANCHER) for name in (*labels, *notes)):
        return f"object set {_named(notes.get(_RANCHER + 'owner-namespace'), _rancher_name(labels, notes))}"
    return ownership.controller(live)


def _named(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _rancher_name(labels: Mapping[str, str], notes: Mapping[str, str]) -> str:
    return notes.get(_RANCHER + "owner-name") or notes.get(_RANCHER + "id") or labels.get(_RANCHER + "hash", "")


def managers(live: Mapping[str, Any]) -> tuple[str, ...]:
    """Pure: who wrote an object so far, for people; status not counted."""
    return tuple(sorted({str(entry.get("manager", "")) for entry in ownership.foreign(live)}))


def takeover(
    live: Mapping[str, Any],
    api_version: str,
    *,
    predecessors: Collection[str] = PREDECESSORS,
    leave: Collection[FieldPath] = (),
) -> list[dict[str, Any]] | None:
    """Pure: a JSON patch after which our next apply removes what predecessors set and Git does not say; None when there
    is nothing (more) to take. Apply after each, and ask again: entries of another version come one version at a time.

    `api_version` is what we apply with; fields at and below `leave` stay whose they are.
    """
    own = ownership.own_entry(live) or {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": api_version,
        "fieldsType": "FieldsV1",
    }
    taken = {
        place: paths
        for place, entry in enumerate(ownership.entries(live))
        if entry.get("manager") in predecessors
        and not ownership.is_own(entry)
        and not ownership.is_status(entry)
        and not entry.get("subresource")
        and (paths := _without(ownership.owned(entry), leave))
    }
    patch = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        *_merged(live, own, taken),
    ]
    noted = ownership.LAST_APPLIED in (live["metadata"].get("annotations") or {})
    if noted and "kubectl-client-side-apply" in predecessors and _ANNOTATION not in ownership.owned(own):
        patch.append({"op": "remove", "path": "/metadata/annotations/" + ownership.LAST_APPLIED.replace("/", "~1")})
    return patch if len(patch) > 1 else None


_ANNOTATION: Final[FieldPath] = ("f:metadata", "f:annotations", f"f:{ownership.LAST_APPLIED}")


def _merged(live: Mapping[str, Any], own: Mapping[str, Any], taken: Mapping[int, Paths]) -> list[dict[str, Any]]:
    """The operation that makes ours what is taken: all of our own version, else all of one other."""
    if not taken:
        return []
    entries = ownership.entries(live)
    versions = [str(entries[place].get("apiVersion", "")) for place in taken]
    version = own["apiVersion"] if own["apiVersion"] in versions else versions[0]
    # What we applied in our version is in Git or goes with the next apply; in another version its paths say nothing.
    ours = ownership.owned(own) if version == own["apiVersion"] else frozenset()
    mine: list[Mapping[str, Any]] = []
    for place, entry in enumerate(entries):
        if ownership.is_own(entry):
            continue
        if place not in taken or entry.get("apiVersion", "") != version:
            mine.append(entry)
            continue
        ours |= taken[place]
        if left := ownership.owned(entry) - taken[place]:
            mine.append({**entry, "fieldsV1": ownership.to_fields(left)})
    mine.insert(0, {**own, "apiVersion": version, "fieldsV1": ownership.to_fields(ours)})
    return [{"op": "replace", "path": "/metadata/managedFields", "value": mine}]


def _without(paths: Paths, leave: Collection[FieldPath]) -> Paths:
    return frozenset(path for path in paths if not any(path[: len(above)] == above for above in leave))
