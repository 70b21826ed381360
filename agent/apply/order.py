"""In which order the objects of a slice are applied, and what each has to wait for.

Pure. The order is by four things, the first that differs decides:

    stage   Namespaces and CustomResourceDefinitions, then hooks that come before, then the rest, then hooks that come
            after
    wave    `flotilla.dev/phase`, else `argocd.argoproj.io/sync-wave`, else `helm.sh/hook-weight` of a hook (integers,
            0 if absent); Namespaces and CustomResourceDefinitions have none
    depth   how long the chain of `config.kubernetes.io/depends-on` is below the object, within its wave
    rank    by kind: what others need (accounts, rights, configuration) before workloads, before custom resources,
            before what can stand in everybody's way (webhooks, APIServices)

A dependency in a later wave lifts the object into that wave. Objects of equal position form a phase and are applied
at the same time; the phases of one wave of one stage form a step. An object waits for others to be done, and not just
for its turn, in these cases only: an earlier step of its bundle (that of the Namespaces and definitions excepted), what
its annotation names, its namespace and the definition of its kind, whichever bundle has them.

    `helm.sh/hook`                                       `argocd.argoproj.io/hook`, which wins      stage
    pre-install, pre-upgrade                             PreSync                                    before
    crd-install                                          Sync                                       the rest
    post-install, post-upgrade                           PostSync                                   after
    both before and after                                                                           after
    only test*, *-delete, *-rollback                     only SyncFail, Skip, *Delete               left out: not ours

Of an install and an upgrade that come to the same in Git, "before" would wait for ever for what the first install
makes: hence "after". A hook runs when its content is new, not with each revision. Jobs and Pods among the hooks (`hook`
below) are made anew then, are done once they succeeded, and with the deletion policy `hook-succeeded` (`HookSucceeded`)
are deleted after that. One that failed stays for people to look at, whatever its policy says. Other kinds are applied
as ever and stay: they do not run.

A cycle, or a dependency that is nowhere in the slice, stops the objects in it and what depends on them or comes in a
later step, and nothing else. Pruning goes through the ranks backwards. Next: `plan`.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby
from typing import Any, Literal, NamedTuple, cast, get_args

from agent.drift.drift import MODE_ANNOTATION, Mode
from proto.objects import ObjectKey, group_of

PHASE_ANNOTATION = "flotilla.dev/phase"
SYNC_WAVE_ANNOTATION = "argocd.argoproj.io/sync-wave"
DEPENDS_ON_ANNOTATION = "config.kubernetes.io/depends-on"
HELM_HOOK_ANNOTATION = "helm.sh/hook"
HELM_WEIGHT_ANNOTATION = "helm.sh/hook-weight"
HELM_DELETION_ANNOTATION = "helm.sh/hook-delete-policy"
ARGO_HOOK_ANNOTATION = "argocd.argoproj.io/hook"
ARGO_DELETION_ANNOTATION = "argocd.argoproj.io/hook-delete-policy"

NAMESPACE_GK = "Namespace"
CRD_GK = "CustomResourceDefinition.apiextensions.k8s.io"
RUNNING_GKS = frozenset({"Job.batch", "Pod"})
"""Kinds that run to an end, and whose content nobody can change."""


class Stage(IntEnum):
    """When in the life of its bundle an object is applied; the module's table."""

    FIRST = 0
    BEFORE = 1
    MAIN = 2
    AFTER = 3
    NEVER = 4


_WORDS: Mapping[Stage, str] = {
    Stage.BEFORE: "pre-install pre-upgrade presync",
    Stage.MAIN: "crd-install sync",
    Stage.AFTER: "post-install post-upgrade postsync",
    Stage.NEVER: "test test-success test-failure pre-delete post-delete pre-rollback post-rollback "
    "syncfail skip predelete postdelete",
}
"""Of both tools, in lower case: Helm does not mind, either."""
_STAGES = {word: stage for stage, words in _WORDS.items() for word in words.split()}

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
CUSTOM_RANK = _RANKS.index(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """All of a manifest that its order and its request need. `defines` is the `Kind.group` of a CRD; `hook`: a Job or
    Pod that a hook runs, `cleanup`: it is deleted once it succeeded; `expires`: an ordinary Job with a time to live;
    `mode` is its own drift mode ("": its bundle's); `problem` says why an annotation cannot be followed."""

    api_version: str
    stage: Stage = Stage.MAIN
    wave: int = 0
    depends_on: tuple[ObjectKey, ...] = ()
    defines: str = ""
    hook: bool = False
    cleanup: bool = False
    expires: bool = False
    mode: Mode | Literal[""] = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One wave of one stage of a bundle. `phases` are applied one after the other, once all of `after` is done, and
    what the steps before wait for."""

    phases: tuple[tuple[ObjectKey, ...], ...]
    after: frozenset[ObjectKey] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """By bundle: its `steps`, its `hooks` (Jobs and Pods that they run), what is `left_out` of it, and the `kinds` and
    `namespaces` that the rest is in. By object: `needs`, what has to be applied and done before it is applied (absent:
    nothing); `stopped`, in a whole sentence why it can never have its turn; `modes`, its own drift mode; `shared`, the
    bundle that has it when several name it. `cleanups` are the hooks that are deleted once they succeeded."""

    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    hooks: Mapping[str, frozenset[ObjectKey]] = field(default_factory=dict)
    left_out: Mapping[str, frozenset[ObjectKey]] = field(default_factory=dict)
    kinds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    namespaces: Mapping[str, frozenset[str]] = field(default_factory=dict)
    needs: Mapping[ObjectKey, frozenset[ObjectKey]] = field(default_factory=dict)
    stopped: Mapping[ObjectKey, str] = field(default_factory=dict)
    modes: Mapping[ObjectKey, Mode] = field(default_factory=dict)
    shared: Mapping[ObjectKey, str] = field(default_factory=dict)
    cleanups: frozenset[ObjectKey] = frozenset()


class _Position(NamedTuple):
    stage: Stage
    wave: int
    depth: int
    rank: int


def rank(key: ObjectKey) -> int:
    """Pure: the place of a kind in the order; pruning goes from the highest to the lowest."""
    return _RANK.get(key.gk, CUSTOM_RANK)


def traits(manifest: Mapping[str, Any]) -> Traits:
    """Pure: what the order needs to know of a manifest."""
    annotations = manifest["metadata"].get("annotations") or {}
    group, kind = group_of(manifest["apiVersion"]), manifest["kind"]
    stage, wave, problem = Stage.MAIN, 0, ""
    depends_on: tuple[ObjectKey, ...] = ()
    hooked = ARGO_HOOK_ANNOTATION in annotations or HELM_HOOK_ANNOTATION in annotations
    try:
        stage = _stage(annotations)
        wave = _wave(annotations)
        depends_on = tuple(_reference(text) for text in _list(annotations.get(DEPENDS_ON_ANNOTATION, "")))
    except ValueError as error:
        problem = str(error)
    spec = manifest.get("spec") or {}
    is_crd = kind == "CustomResourceDefinition"
    gk = f"{kind}.{group}" if group else kind
    hook = hooked and stage is not Stage.NEVER and gk in RUNNING_GKS
    mode = annotations.get(MODE_ANNOTATION)
    return Traits(
        api_version=manifest["apiVersion"],
        stage=stage,
        wave=wave,
        depends_on=depends_on,
        defines=f"{spec['names']['kind']}.{spec['group']}" if is_crd and "names" in spec and "group" in spec else "",
        hook=hook,
        cleanup=hook and _is_cleaned_up(annotations),
        expires=not hook and gk == "Job.batch" and "ttlSecondsAfterFinished" in spec,
        mode=cast(Mode, mode) if mode in get_args(Mode) else "",
        problem=problem,
    )


def _stage(annotations: Mapping[str, str]) -> Stage:
    for name in (ARGO_HOOK_ANNOTATION, HELM_HOOK_ANNOTATION):
        words = list(_list(annotations.get(name, "")))
        if unknown := [word for word in words if word.lower() not in _STAGES]:
            raise ValueError(f"annotation {name} has {unknown[0]!r}, which is no hook")
        if words:
            return max({_STAGES[word.lower()] for word in words} - {Stage.NEVER}, default=Stage.NEVER)
    return Stage.MAIN


def _is_cleaned_up(annotations: Mapping[str, str]) -> bool:
    policies = (annotations.get(name, "") for name in (HELM_DELETION_ANNOTATION, ARGO_DELETION_ANNOTATION))
    return any(word in ("hook-succeeded", "HookSucceeded") for policy in policies for word in _list(policy))


def _wave(annotations: Mapping[str, str]) -> int:
    weighed = (HELM_WEIGHT_ANNOTATION,) if HELM_HOOK_ANNOTATION in annotations else ()
    for name in (PHASE_ANNOTATION, SYNC_WAVE_ANNOTATION, *weighed):
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
    """Pure: the order of a whole slice. Of an object in two bundles the first one's traits count, by name."""
    left_out = {
        name: frozenset(key for key, own in objects.items() if own.stage is Stage.NEVER)
        for name, objects in bundles.items()
    }
    kept = {name: [key for key in objects if key not in left_out[name]] for name, objects in bundles.items()}
    owner: dict[ObjectKey, str] = {}
    shared: dict[ObjectKey, str] = {}
    for name in sorted(kept):
        for key in kept[name]:
            if owner.setdefault(key, name) != name:
                shared[key] = owner[key]
    every = {key: bundles[name][key] for key, name in owner.items()}
    waits = _waits(every)
    stopped = _unreadable(every, left_out=frozenset().union(*left_out.values()))
    turns = _turns(waits, stopped)
    positions = {key: _own_position(key, every[key]) for key in stopped}
    for key in turns:
        found = _own_position(key, every[key])
        for dependency in waits[key]:
            if owner[dependency] == owner[key]:
                below = positions[dependency]
                step = 1 if dependency in every[key].depends_on else 0
                found = max(found, _Position(below.stage, below.wave, below.depth + step, found.rank))
        positions[key] = found
    return Order(
        steps={name: _steps(keys, positions, stopped) for name, keys in kept.items()},
        hooks={name: frozenset(key for key in keys if every[key].hook) for name, keys in kept.items()},
        left_out=left_out,
        kinds={name: frozenset(key.gk for key in keys) for name, keys in kept.items()},
        namespaces={name: frozenset(key.namespace for key in keys if key.namespace) for name, keys in kept.items()},
        needs={key: waits[key] for key in turns if waits[key]},
        stopped=stopped,
        modes={key: own.mode for key, own in every.items() if own.mode},
        shared=shared,
        cleanups=frozenset(key for key, own in every.items() if own.cleanup),
    )


def _waits(every: Mapping[ObjectKey, Traits]) -> dict[ObjectKey, frozenset[ObjectKey]]:
    """Pure: what each object has to wait for beside the steps before its own; equal sets are one."""
    definitions = {own.defines: key for key, own in every.items() if own.defines}
    namespaces = {key.name: key for key in every if key.gk == NAMESPACE_GK}
    one_of: dict[frozenset[ObjectKey], frozenset[ObjectKey]] = {}
    waits = {}
    for key, own in every.items():
        found = frozenset(own.depends_on).union(
            other for other in (definitions.get(key.gk), namespaces.get(key.namespace)) if other is not None
        )
        waits[key] = one_of.setdefault(found, found)
    return waits


def _own_position(key: ObjectKey, own: Traits) -> _Position:
    if key.gk in (NAMESPACE_GK, CRD_GK):
        return _Position(Stage.FIRST, 0, 0, rank(key))
    return _Position(own.stage, own.wave, 0, rank(key))


def _steps(
    keys: Iterable[ObjectKey], positions: Mapping[ObjectKey, _Position], stopped: Mapping[ObjectKey, str]
) -> tuple[Step, ...]:
    steps: list[Step] = []
    after: frozenset[ObjectKey] = frozenset()
    for (stage, _), members in groupby(
        sorted(keys, key=lambda key: (positions[key], key)), key=lambda key: positions[key][:2]
    ):
        group = list(members)
        phases = groupby((key for key in group if key not in stopped), key=positions.__getitem__)
        steps.append(Step(phases=tuple(tuple(phase) for _, phase in phases), after=after))
        after = frozenset(group) if stage is not Stage.FIRST else frozenset()
    return tuple(steps)


def _unreadable(every: Mapping[ObjectKey, Traits], *, left_out: Set[ObjectKey]) -> dict[ObjectKey, str]:
    """Pure: the objects whose own annotations cannot be followed, and why."""
    stopped = {}
    for key, own in every.items():
        missing = [dependency for dependency in own.depends_on if dependency not in every]
        if own.problem:
            stopped[key] = f"{key}: {own.problem}"
        elif missing:
            lack = "is a hook that is left out" if left_out & set(missing) else "this cluster's slice does not have"
            stopped[key] = (
                f"{key}: depends on {', '.join(map(str, missing))}, which {lack} "
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
