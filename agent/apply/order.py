"""In which order the objects of a slice are applied, and what each has to wait for.

Pure. The order is by three things, the first that differs decides:

    wave    `flotilla.dev/phase`, else `argocd.argoproj.io/sync-wave` (integers, 0 if absent). Namespaces and
            CustomResourceDefinitions come before every wave.
    depth   how long the chain of `config.kubernetes.io/depends-on` is below the object, within its wave
    rank    by kind: what others need (accounts, rights, configuration) before workloads, before custom resources,
            before what can stand in everybody's way (webhooks, APIServices)

A dependency in a later wave lifts the object into that wave. Objects of equal position form a phase and are applied
at the same time. An object waits for others to be Current, and not just for its turn, in these cases only: an earlier
wave of its bundle, what its annotation names, its namespace and the definition of its kind, whichever bundle has them.

A cycle, or a dependency that is nowhere in the slice, stops the objects in it and what depends on them, and nothing
else. Pruning goes through the ranks backwards. Next: `plan`.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from proto.objects import ObjectKey

PHASE_ANNOTATION = "flotilla.dev/phase"
SYNC_WAVE_ANNOTATION = "argocd.argoproj.io/sync-wave"
DEPENDS_ON_ANNOTATION = "config.kubernetes.io/depends-on"

NAMESPACE_GK = "Namespace"
CRD_GK = "CustomResourceDefinition.apiextensions.k8s.io"

_RANKS: Sequence[Sequence[str]] = (
    (NAMESPACE_GK,),
    (CRD_GK,),
    (
        "PriorityClass.scheduling.k8s.io",
        "RuntimeClass.node.k8s.io",
        "StorageClass.storage.k8s.io",
        "CSIDriver.storage.k8s.io",
        "VolumeAttributesClass.storage.k8s.io",
        "IngressClass.networking.k8s.io",
        "DeviceClass.resource.k8s.io",
        "ResourceQuota",
        "LimitRange",
        "NetworkPolicy.networking.k8s.io",
        "ServiceAccount",
        "ClusterRole.rbac.authorization.k8s.io",
        "Role.rbac.authorization.k8s.io",
        "Secret",
        "ConfigMap",
        "PersistentVolume",
    ),
    (
        "ClusterRoleBinding.rbac.authorization.k8s.io",
        "RoleBinding.rbac.authorization.k8s.io",
        "PersistentVolumeClaim",
        "Service",
        "PodDisruptionBudget.policy",
    ),
    (
        "Pod",
        "ReplicationController",
        "PodTemplate",
        "Deployment.apps",
        "ReplicaSet.apps",
        "StatefulSet.apps",
        "DaemonSet.apps",
        "ControllerRevision.apps",
        "Job.batch",
        "CronJob.batch",
    ),
    (
        "HorizontalPodAutoscaler.autoscaling",
        "Ingress.networking.k8s.io",
        "Endpoints",
        "EndpointSlice.discovery.k8s.io",
    ),
    (),  # every kind that is not named here: custom resources
    (
        "APIService.apiregistration.k8s.io",
        "ValidatingAdmissionPolicy.admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io",
        "MutatingAdmissionPolicy.admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding.admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration.admissionregistration.k8s.io",
        "MutatingWebhookConfiguration.admissionregistration.k8s.io",
    ),
)
_RANK = {gk: rank for rank, kinds in enumerate(_RANKS) for gk in kinds}
_CUSTOM_RANK = _RANKS.index(())
_FIRST_WAVE = -(1 << 63)
"""Before every wave that an annotation can name in practice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """All of a manifest that its order and its request need. `defines` is the `Kind.group` of a CRD; `problem` says
    why an annotation cannot be followed."""

    api_version: str
    wave: int = 0
    depends_on: tuple[ObjectKey, ...] = ()
    defines: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`phases` by bundle; `needs` are the objects that have to be applied and Current before one is applied (absent:
    none); `stopped` says in a whole sentence why an object can never have its turn."""

    phases: Mapping[str, tuple[tuple[ObjectKey, ...], ...]] = field(default_factory=dict)
    needs: Mapping[ObjectKey, frozenset[ObjectKey]] = field(default_factory=dict)
    stopped: Mapping[ObjectKey, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class _Position:
    wave: int
    depth: int
    rank: int


def rank(key: ObjectKey) -> int:
    """Pure: the place of a kind in the order; pruning goes from the highest to the lowest."""
    return _RANK.get(key.gk, _CUSTOM_RANK)


def traits(manifest: Mapping[str, Any]) -> Traits:
    """Pure: what the order needs to know of a manifest."""
    annotations = manifest["metadata"].get("annotations") or {}
    wave, problem = 0, ""
    depends_on: tuple[ObjectKey, ...] = ()
    try:
        wave = _wave(annotations)
        depends_on = tuple(_reference(text) for text in _list(annotations.get(DEPENDS_ON_ANNOTATION, "")))
    except ValueError as error:
        problem = str(error)
    spec = manifest.get("spec") or {}
    is_crd = manifest["kind"] == "CustomResourceDefinition"
    return Traits(
        api_version=manifest["apiVersion"],
        wave=wave,
        depends_on=depends_on,
        defines=f"{spec['names']['kind']}.{spec['group']}" if is_crd and "names" in spec and "group" in spec else "",
        problem=problem,
    )


def _wave(annotations: Mapping[str, str]) -> int:
    for name in (PHASE_ANNOTATION, SYNC_WAVE_ANNOTATION):
        if name in annotations:
            try:
                return int(annotations[name])
            except (ValueError, TypeError):
                raise ValueError(f"annotation {name} is {annotations[name]!r}, not an integer") from None
    return 0


def _list(text: str) -> Iterable[str]:
    return (part for part in (part.strip() for part in text.split(",")) if part)


def _reference(text: str) -> ObjectKey:
    """`<group>/<Kind>/<name>` or `<group>/namespaces/<namespace>/<Kind>/<name>`, as cli-utils writes them."""
    parts = text.split("/")
    if len(parts) == 3 and all(parts[1:]):
        return ObjectKey(group=parts[0], kind=parts[1], namespace="", name=parts[2])
    if len(parts) == 5 and parts[1] == "namespaces" and all(parts[2:]):
        return ObjectKey(group=parts[0], kind=parts[3], namespace=parts[2], name=parts[4])
    raise ValueError(
        f"annotation {DEPENDS_ON_ANNOTATION} has {text!r}, not <group>/namespaces/<namespace>/<Kind>/<name> "
        "or <group>/<Kind>/<name>"
    )


def order(bundles: Mapping[str, Mapping[ObjectKey, Traits]]) -> Order:
    """Pure: the order of a whole slice."""
    owner = {key: bundle for bundle, objects in bundles.items() for key in objects}
    every = {key: own for objects in bundles.values() for key, own in objects.items()}
    definitions = {own.defines: key for key, own in every.items() if own.defines}
    namespaces = {key.name: key for key in every if key.gk == NAMESPACE_GK}
    waits = {
        key: frozenset(own.depends_on).union(
            found for found in (definitions.get(key.gk), namespaces.get(key.namespace)) if found is not None
        )
        for key, own in every.items()
    }
    stopped = _unreadable(every)
    turns = _turns(waits, stopped)
    positions: dict[ObjectKey, _Position] = {}
    for key in turns:
        own = every[key]
        found = _Position(_FIRST_WAVE if key.gk in (NAMESPACE_GK, CRD_GK) else own.wave, 0, rank(key))
        for dependency in waits[key]:
            if owner[dependency] == owner[key]:
                below = positions[dependency]
                step = 1 if dependency in own.depends_on else 0
                found = max(found, _Position(below.wave, below.depth + step, found.rank))
        positions[key] = found

    phases: dict[str, tuple[tuple[ObjectKey, ...], ...]] = {}
    needs: dict[ObjectKey, frozenset[ObjectKey]] = {}
    for bundle, objects in bundles.items():
        ready = sorted((key for key in objects if key in positions), key=lambda key: (positions[key], key))
        phases[bundle] = tuple(tuple(group) for _, group in groupby(ready, key=lambda key: positions[key]))
        earlier: frozenset[ObjectKey] = frozenset()
        for wave, group in groupby(ready, key=lambda key: positions[key].wave):
            members = tuple(group)
            for key in members:
                if earlier or waits[key]:
                    needs[key] = earlier | waits[key] if waits[key] else earlier
            if wave != _FIRST_WAVE:
                earlier = earlier.union(members)
    return Order(phases=phases, needs=needs, stopped=stopped)


def _unreadable(every: Mapping[ObjectKey, Traits]) -> dict[ObjectKey, str]:
    """Pure: the objects whose own annotations cannot be followed, and why."""
    stopped = {}
    for key, own in every.items():
        missing = [str(dependency) for dependency in own.depends_on if dependency not in every]
        if own.problem:
            stopped[key] = f"{key}: {own.problem}"
        elif missing:
            stopped[key] = (
                f"{key}: depends on {', '.join(missing)}, which this cluster's slice does not have "
                f"(add it to Git, or correct {DEPENDS_ON_ANNOTATION})"
            )
    return stopped


def _turns(waits: Mapping[ObjectKey, frozenset[ObjectKey]], stopped: dict[ObjectKey, str]) -> list[ObjectKey]:
    """The objects, each after all that it waits for (Kahn's algorithm); adds to `stopped` those that have no turn."""
    left = {key: len(on) for key, on in waits.items()}
    followers: dict[ObjectKey, list[ObjectKey]] = {}
    for key, on in waits.items():
        for dependency in on:
            followers.setdefault(dependency, []).append(key)
    turns = [key for key, count in left.items() if not count and key not in stopped]
    for key in turns:  # grows while it is read
        for follower in followers.get(key, ()):
            left[follower] -= 1
            if not left[follower] and follower not in stopped:
                turns.append(follower)
    rest = waits.keys() - set(turns) - stopped.keys()
    for key in sorted(rest):
        circle = [on for on in sorted(waits[key] & rest) if on == key or key in _reach(on, waits, within=rest)]
        if circle:
            stopped[key] = (
                f"{key}: depends on itself through {', '.join(map(str, circle))} (correct {DEPENDS_ON_ANNOTATION})"
            )
    for key in sorted(rest - stopped.keys()):
        cause = min(_reach(key, waits, within=waits.keys()) & stopped.keys())
        stopped[key] = f"{key}: depends on {cause}, which cannot be applied"
    return turns


def _reach(
    start: ObjectKey, graph: Mapping[ObjectKey, frozenset[ObjectKey]], *, within: Set[ObjectKey]
) -> set[ObjectKey]:
    """Pure: every node of `within` that a path from `start` meets."""
    seen: set[ObjectKey] = set()
    edge = [start]
    while edge:
        new = (graph.get(edge.pop(), frozenset()) & within) - seen
        seen |= new
        edge += new
    return seen
