"""Which changes of objects deserve a second look before they roll out, and why.

| risk       | what                                                                                                 |
|------------|------------------------------------------------------------------------------------------------------|
| `destroys` | deletes what takes data or other objects with it: Namespace, CRD, PV, PVC under `destructivePrune`;   |
|            | or deletes and creates anew what an annotation lets be recreated                                     |
| `refused`  | changes a field that the API server lets nobody change, so the rollout fails                         |
| `wide`     | touches what the whole cluster goes through: CRDs, webhooks, API services, namespaces, volumes        |
| `pruned`   | deletes an object                                                                                    |
| `let go`   | leaves an object in the cluster that Git no longer has                                               |

The fields are those of Kubernetes' own validation (`Validate…Update` of each API group). A default that the server
fills in is not known here, so an immutable field that is only named for the first time is told, too. Pure. Next:
`planning` prints them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hub.cli import changes
from proto.objects import ObjectKey

Kind = Literal["destroys", "refused", "wide", "pruned", "let go"]
ORDER: tuple[Kind, ...] = ("destroys", "refused", "wide", "pruned", "let go")
Fate = Literal["created", "changed", "pruned", "let go"]

_DESTRUCTIVE = {
    "Namespace": "with everything in it",
    "CustomResourceDefinition.apiextensions.k8s.io": "with every object of its kind",
    "PersistentVolume": "with its data, if its storage says so",
    "PersistentVolumeClaim": "with its data, if its storage says so",
}
_WIDE = {
    "CustomResourceDefinition.apiextensions.k8s.io": "a definition: every object of its kind depends on it",
    "MutatingWebhookConfiguration.admissionregistration.k8s.io": "a webhook: it can change or refuse every write",
    "ValidatingWebhookConfiguration.admissionregistration.k8s.io": "a webhook: it can refuse every write",
    "ValidatingAdmissionPolicy.admissionregistration.k8s.io": "an admission policy: it can refuse every write",
    "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io": "an admission policy: it can refuse every write",
    "MutatingAdmissionPolicy.admissionregistration.k8s.io": "an admission policy: it can change every write",
    "MutatingAdmissionPolicyBinding.admissionregistration.k8s.io": "an admission policy: it can change every write",
    "APIService.apiregistration.k8s.io": "an API service: discovery waits for it",
    "Namespace": "a namespace",
    "PersistentVolume": "a volume",
    "PersistentVolumeClaim": "a volume's claim",
}
_IMMUTABLE: Mapping[str, tuple[str, ...]] = {
    "Deployment.apps": ("spec.selector",),
    "ReplicaSet.apps": ("spec.selector",),
    "DaemonSet.apps": ("spec.selector",),
    "Job.batch": (
        "spec.selector",
        "spec.template",
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.backoffLimitPerIndex",
        "spec.managedBy",
    ),
    "Secret": ("type",),
    "RoleBinding.rbac.authorization.k8s.io": ("roleRef",),
    "ClusterRoleBinding.rbac.authorization.k8s.io": ("roleRef",),
    "StorageClass.storage.k8s.io": ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
    "IngressClass.networking.k8s.io": ("spec.controller",),
    "PriorityClass.scheduling.k8s.io": ("value", "preemptionPolicy"),
    "RuntimeClass.node.k8s.io": ("handler",),
    "CSIDriver.storage.k8s.io": ("spec.attachRequired", "spec.volumeLifecycleModes"),
    "CustomResourceDefinition.apiextensions.k8s.io": (
        "spec.group",
        "spec.scope",
        "spec.names.plural",
        "spec.names.kind",
    ),
}
_MUTABLE: Mapping[str, frozenset[str]] = {
    "StatefulSet.apps": frozenset(
        {
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        }
    ),
    "PersistentVolumeClaim": frozenset({"resources", "volumeAttributesClassName"}),
    "PersistentVolume": frozenset(
        {
            "accessModes",
            "capacity",
            "claimRef",
            "mountOptions",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "volumeAttributesClassName",
        }
    ),
}
"""Kinds whose spec is immutable but for these fields."""
_RECREATE = {"flotilla.dev/recreate": "true", "kustomize.toolkit.fluxcd.io/force": "enabled"}
_HOOKS = ("helm.sh/hook", "argocd.argoproj.io/hook")


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """Sorts by `rank`, the worst first."""

    kind: Kind
    why: str

    @property
    def rank(self) -> int:
        return ORDER.index(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of one object."""

    key: ObjectKey
    fate: Fate
    risks: tuple[Risk, ...] = ()


def judge(
    key: ObjectKey,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    *,
    prune: bool,
    destructive: bool,
) -> Step:
    """Pure: the fate of an object that differs; `prune` and `destructive` are its bundle's policy."""
    if after is None:
        return _removed(key, prune=prune, destructive=destructive)
    found: list[Risk] = []
    if before is not None and (fields := _changed_immutables(key, before, after)):
        shown = ", ".join(fields)
        if _recreated(after):
            found.append(Risk(kind="destroys", why=f"{shown} cannot be changed: deleted and created anew"))
        else:
            found.append(Risk(kind="refused", why=f"{shown} cannot be changed"))
    if key.gk in _WIDE:
        found.append(Risk(kind="wide", why=_wide(key, before, after)))
    return Step(key=key, fate="created" if before is None else "changed", risks=tuple(found))


def _removed(key: ObjectKey, *, prune: bool, destructive: bool) -> Step:
    if not prune:
        return Step(key=key, fate="let go", risks=(Risk(kind="let go", why="stays: prune is off"),))
    if key.gk in _DESTRUCTIVE and not destructive:
        why = "stays: only destructivePrune would delete it"
        return Step(key=key, fate="let go", risks=(Risk(kind="let go", why=why),))
    if key.gk in _DESTRUCTIVE:
        return Step(key=key, fate="pruned", risks=(Risk(kind="destroys", why=f"deleted {_DESTRUCTIVE[key.gk]}"),))
    return Step(key=key, fate="pruned", risks=(Risk(kind="pruned", why="deleted"),))


def _wide(key: ObjectKey, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    if key.kind == "CustomResourceDefinition" and before and (gone := sorted(_versions(before) - _versions(after))):
        return f"no longer serves {', '.join(gone)}: the API server refuses that while objects are stored so"
    return _WIDE[key.gk]


def _versions(definition: Mapping[str, Any]) -> set[str]:
    versions = _at(definition, "spec.versions")
    named = versions if isinstance(versions, list) else []
    return {
        str(version.get("name")) for version in named if isinstance(version, Mapping) and version.get("served", True)
    }


def _changed_immutables(key: ObjectKey, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The fields that differ and may not; paths, never values. What a hook runs is made anew each time."""
    if key.gk == "Job.batch" and any(name in _annotations(after) for name in _HOOKS):
        return []
    found = [path for path in _IMMUTABLE.get(key.gk, ()) if not changes.same(_at(before, path), _at(after, path))]
    if key.gk in _MUTABLE:
        was, now = (_mapping(obj.get("spec")) for obj in (before, after))
        fields = sorted((was.keys() | now.keys()) - _MUTABLE[key.gk])
        found += [f"spec.{field}" for field in fields if not changes.same(was.get(field), now.get(field))]
    if key.gk == "Service" and _at(after, "spec.type") != "ExternalName":
        addresses = _at(before, "spec.clusterIP"), _at(after, "spec.clusterIP")
        # An address that is only left out is kept by the server; from or to a service without one it never goes.
        if not changes.same(*addresses) and (addresses[1] is not None or addresses[0] == "None"):
            found.append("spec.clusterIP")
    if key.gk in ("ConfigMap", "Secret") and before.get("immutable") is True:
        found += [
            field
            for field in ("immutable", "data", "binaryData")
            if not changes.same(before.get(field), after.get(field))
        ]
    return found


def _recreated(obj: Mapping[str, Any]) -> bool:
    annotations = _annotations(obj)
    options = str(annotations.get("argocd.argoproj.io/sync-options", "")).replace(" ", "").split(",")
    return any(annotations.get(name) == value for name, value in _RECREATE.items()) or any(
        option in ("Replace=true", "Force=true") for option in options
    )


def _annotations(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_at(obj, "metadata.annotations"))


def _at(obj: Any, path: str) -> Any:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
