"""The health of one live object in kstatus's six words, with a reason and a sentence that a person can act on.

Source of the rules: kubernetes-sigs/cli-utils pkg/kstatus/status. In this order, the first that answers counts:

| what                                                       | health                                          |
|------------------------------------------------------------|-------------------------------------------------|
| metadata.deletionTimestamp                                 | Terminating                                     |
| generation below the one we applied, or not observed yet   | InProgress                                      |
| a check of the bundle's own (`health_checks`)              | its answer                                      |
| condition Reconciling / Stalled is True                    | InProgress / Failed                             |
| the kind's own rule (`_RULES`)                             | its answer                                      |
| condition Ready, of an older generation                    | InProgress                                      |
| condition Ready is True / False or Unknown                 | Current / InProgress                            |
| nothing of all this                                        | Current, with reason NO_STATUS where one is due |

As there, a Job that runs and a Pod that failed are Current: what they were to become has come about. Beyond it, a
ReplicationController is judged like a ReplicaSet, an APIService by its condition Available, and a condition that names
the generation that it is about counts only for that one (cert-manager has no other). NotFound comes from whoever looks
for objects; Unknown is a phase of a Pod that we do not know. Here, and not in the agent, because `flotilla health`
says the same words offline. Longer than other modules: it has one rule for each kind. Next: `health_checks` are a
bundle's own rules.
"""

import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any

from proto.messages import Health
from proto.objects import group_of

NO_STATUS = "NoStatus"
"""Reason of a Current object whose kind reports a status and that has none yet: no proof before a grace period."""
UNSCHEDULABLE, NOT_SCHEDULED = "PodUnschedulable", "PodNotScheduled"
"""Reasons of a Pod that fits on no node, after and before `UNSCHEDULABLE_AFTER_S`."""
UNSCHEDULABLE_AFTER_S = 15.0
"""kstatus's ScheduleWindow: how long a new Pod may look unschedulable before it is called so."""
_UNOBSERVED = "LatestGenerationNotObserved"
_NO_DEADLINE = 2**31 - 1
"""A Deployment with this progressDeadlineSeconds, or none, gets no Progressing condition."""

Verdict = tuple[Health, str, str]
"""Health, a reason in one CamelCase word, and a sentence."""

Check = Callable[[Mapping[str, Any]], Verdict]
"""A bundle's own rule for a kind: the health of a whole live object (`health_checks`)."""

_STATUSLESS: Mapping[str, frozenset[str]] = {
    "": frozenset(
        {
            *("ConfigMap", "Secret", "ServiceAccount", "Service", "Namespace", "Endpoints", "LimitRange"),
            *("ResourceQuota", "PodTemplate", "PersistentVolume", "Event"),
        }
    ),
    "apps": frozenset({"ControllerRevision"}),
    "autoscaling": frozenset({"HorizontalPodAutoscaler"}),
    "batch": frozenset({"CronJob"}),
    "networking.k8s.io": frozenset({"NetworkPolicy", "Ingress", "IngressClass", "IPAddress"}),
    "rbac.authorization.k8s.io": frozenset({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}),
    "scheduling.k8s.io": frozenset({"PriorityClass"}),
    "storage.k8s.io": frozenset(
        {"StorageClass", "CSIDriver", "CSINode", "CSIStorageCapacity", "VolumeAttributesClass"}
    ),
    "node.k8s.io": frozenset({"RuntimeClass"}),
    "resource.k8s.io": frozenset({"DeviceClass", "ResourceClaimTemplate", "ResourceSlice"}),
    "events.k8s.io": frozenset({"Event"}),
    "coordination.k8s.io": frozenset({"Lease"}),
    "discovery.k8s.io": frozenset({"EndpointSlice"}),
    "admissionregistration.k8s.io": frozenset(
        {
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        }
    ),
}
"""Kinds whose health is in their metadata alone. A Service's address is given by the API server in the write itself."""


def needs_status(group: str, kind: str) -> bool:
    """Pure: whether the kind's health can depend on its status, so that whole objects have to be watched."""
    return kind not in _STATUSLESS.get(group, frozenset())


def health(
    obj: Mapping[str, Any], *, applied_generation: int = 0, now_s: float = math.inf, check: Check | None = None
) -> Verdict:
    """Pure: the health of a live object, or of its metadata where `needs_status` is false.

    `applied_generation` is the generation that our last write gave it: a status from before says nothing. `now_s` is
    Unix seconds by the cluster's clock; without it a Pod has no time left to be scheduled. `check` is asked in place of
    all rules, once the status is one that counts.
    """
    metadata, status = _map(obj, "metadata"), _map(obj, "status")
    kind, group = str(obj.get("kind", "")), group_of(str(obj.get("apiVersion", "")))
    if metadata.get("deletionTimestamp"):
        waiting = ", ".join(str(name) for name in _list(metadata, "finalizers"))
        return Health.TERMINATING, "Deleting", "is being deleted" + (f", waits for {waiting}" if waiting else "")
    verdict = _unobserved(metadata, status, applied_generation)
    if verdict is None and check is not None:
        return check(obj)
    wanted = max(_int(metadata, "generation", 0), applied_generation)
    verdict = verdict or _standard_conditions(status, wanted)
    if verdict is not None:
        return verdict
    rule = _RULES.get((group, kind))
    if rule is not None:
        return rule(obj, status)
    if kind == "Pod" and not group:
        return _pod(obj, status, now_s)
    return _ready_condition(status, wanted) or (
        (Health.CURRENT, NO_STATUS, "has no status yet")
        if not status and needs_status(group, kind)
        else (Health.CURRENT, "", "")
    )


def _unobserved(metadata: Mapping[str, Any], status: Mapping[str, Any], applied: int) -> Verdict | None:
    generation = _int(metadata, "generation", 0)
    wanted = max(generation, applied)
    if 0 < generation < applied:
        return _progress(_UNOBSERVED, f"generation {applied} was applied, {generation} is shown")
    observed = status.get("observedGeneration")
    if wanted and _is_int(observed) and observed != wanted:
        return _progress(_UNOBSERVED, f"its controller has seen generation {observed}, not yet {wanted}")
    return None


def _standard_conditions(status: Mapping[str, Any], wanted: int) -> Verdict | None:
    for condition in _conditions(status):
        if condition["status"] != "True" or _is_stale(condition, status, wanted):
            continue
        if condition["type"] == "Reconciling":
            return _progress(condition["reason"] or "Reconciling", condition["message"])
        if condition["type"] == "Stalled":
            return Health.FAILED, condition["reason"] or "Stalled", condition["message"]
    return None


def _ready_condition(status: Mapping[str, Any], wanted: int) -> Verdict | None:
    for condition in _conditions(status):
        if condition["type"] != "Ready":
            continue
        if _is_stale(condition, status, wanted):
            seen = condition["observedGeneration"]
            return _progress(_UNOBSERVED, f"its condition Ready is of generation {seen}, not yet of {wanted}")
        if condition["status"] == "True":
            return Health.CURRENT, condition["reason"], condition["message"]
        if condition["status"] in ("False", "Unknown"):
            return _progress(condition["reason"] or "NotReady", condition["message"] or "is not Ready")
    return None


def _is_stale(condition: Mapping[str, str], status: Mapping[str, Any], wanted: int) -> bool:
    """Whether a condition is about an older generation; where the whole status names its generation, that counts."""
    seen = condition["observedGeneration"]
    return seen.isdecimal() and int(seen) < wanted and not _is_int(status.get("observedGeneration"))


def _always(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    return Health.CURRENT, "", ""


def _deployment(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    spec = _map(obj, "spec")
    progressing = _int(spec, "progressDeadlineSeconds", _NO_DEADLINE) == _NO_DEADLINE
    available = False
    for condition in _conditions(status):
        if condition["type"] == "Progressing":
            if condition["reason"] == "ProgressDeadlineExceeded":
                message = condition["message"] or "its Pods did not become ready in time"
                return Health.FAILED, "ProgressDeadlineExceeded", f"{message.rstrip('.')}; look at its Pods"
            progressing |= condition["status"] == "True" and condition["reason"] == "NewReplicaSetAvailable"
        elif condition["type"] == "Available":
            available |= condition["status"] == "True"
    wanted, total = _int(spec, "replicas", 1), _int(status, "replicas", 0)
    updated = _int(status, "updatedReplicas", 0)
    return (
        _less("LessReplicas", total, wanted, "exist")
        or _less("LessUpdated", updated, wanted, "are of the new version")
        or _extra(total, wanted)
        or _less("LessAvailable", _int(status, "availableReplicas", 0), updated, "are available")
        or _less("LessReady", _int(status, "readyReplicas", 0), wanted, "are ready")
        or (None if progressing else _progress("ReplicaSetNotAvailable", "the new ReplicaSet is not available yet"))
        or (None if available else _progress("DeploymentNotAvailable", "too few Pods have been ready for long enough"))
        or (Health.CURRENT, "", "")
    )


def _stateful_set(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    spec = _map(obj, "spec")
    strategy = _map(spec, "updateStrategy")
    if strategy.get("type") == "OnDelete":
        return Health.CURRENT, "OnDelete", "Pods are updated by whoever deletes them"
    wanted, total = _int(spec, "replicas", 1), _int(status, "replicas", 0)
    updated = _int(status, "updatedReplicas", 0)
    partition = _int(_map(strategy, "rollingUpdate"), "partition", -1)
    verdict = (
        _less("LessReplicas", total, wanted, "exist")
        or _less("LessReady", _int(status, "readyReplicas", 0), wanted, "are ready")
        or _extra(total, wanted)
    )
    if verdict is not None:
        return verdict
    if partition != -1:
        current = Health.CURRENT, "", ""
        return _less("PartitionRollout", updated, wanted - partition, "above the partition are updated") or current
    verdict = _less("LessCurrent", _int(status, "currentReplicas", 0), wanted, "are of the current revision")
    if verdict is None and status.get("currentRevision", "") != status.get("updateRevision", ""):
        verdict = _progress("RevisionMismatch", "not all Pods are of the new revision yet")
    return verdict or (Health.CURRENT, "", "")


def _replica_set(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    for condition in _conditions(status):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return _progress("ReplicaFailure", condition["message"] or "Pods cannot be made; look at its events")
    wanted = _int(_map(obj, "spec"), "replicas", 1)
    return (
        _less("LessLabelled", _int(status, "fullyLabeledReplicas", 0), wanted, "have all labels of the template")
        or _less("LessAvailable", _int(status, "availableReplicas", 0), wanted, "are available")
        or _less("LessReady", _int(status, "readyReplicas", 0), wanted, "are ready")
        or _extra(_int(status, "replicas", 0), wanted)
        or (Health.CURRENT, "", "")
    )


def _daemon_set(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    if not _is_int(_map(obj, "metadata").get("generation")):
        return _progress("NoGeneration", "has no generation yet")
    if not _is_int(status.get("observedGeneration")):
        return _progress("NoObservedGeneration", "its controller has not seen it yet")
    wanted = _int(status, "desiredNumberScheduled", -1)
    if wanted == -1:
        return _progress("NoDesiredNumber", "its controller has not counted the nodes yet")
    return (
        _less("LessCurrent", _int(status, "currentNumberScheduled", 0), wanted, "are scheduled")
        or _less("LessUpdated", _int(status, "updatedNumberScheduled", 0), wanted, "are of the new version")
        or _less("LessAvailable", _int(status, "numberAvailable", 0), wanted, "are available")
        or _less("LessReady", _int(status, "numberReady", 0), wanted, "are ready")
        or (Health.CURRENT, "", "")
    )


def _claim(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    phase = status.get("phase", "unknown")
    if phase == "Bound":
        return Health.CURRENT, "", ""
    return _progress("NotBound", f"is not bound to a volume (phase {phase}); look at its StorageClass and events")


def _pod(obj: Mapping[str, Any], status: Mapping[str, Any], now_s: float) -> Verdict:
    conditions = _conditions(status)
    match status.get("phase", ""):
        case "Succeeded":
            return Health.CURRENT, "PodSucceeded", "has completed"
        case "Failed":
            return Health.CURRENT, "PodFailed", "has completed, but not successfully"
        case "Running":
            if any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions):
                return Health.CURRENT, "", ""
            looping = ", ".join(_looping_containers(status))
            if looping:
                return Health.FAILED, "ContainerCrashLooping", f"crash over and over: {looping}; look at their logs"
            return _progress("PodRunningNotReady", "is running but not Ready")
        case "Pending":
            for condition in conditions:
                if condition["type"] == "PodScheduled" and condition["status"] == "False":
                    if condition["reason"] != "Unschedulable":
                        break
                    message = condition["message"] or "fits on no node"
                    if now_s - UNSCHEDULABLE_AFTER_S < _created_s(obj):
                        return _progress(NOT_SCHEDULED, message)
                    return Health.FAILED, UNSCHEDULABLE, message
            return _progress("PodPending", "its containers have not started yet")
        case "":
            return _progress("PodNotObserved", "no node has taken it yet")
        case phase:
            return Health.UNKNOWN, "UnknownPhase", f"is in a phase that we do not know: {phase}"


def _created_s(obj: Mapping[str, Any]) -> float:
    try:
        return datetime.datetime.fromisoformat(str(_map(obj, "metadata").get("creationTimestamp"))).timestamp()
    except ValueError:
        return 0.0


def _looping_containers(status: Mapping[str, Any]) -> list[str]:
    return [
        str(container.get("name", ""))
        for container in _list(status, "containerStatuses")
        if isinstance(container, Mapping)
        and _map(_map(container, "state"), "waiting").get("reason") == "CrashLoopBackOff"
    ]


def _job(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    spec = _map(obj, "spec")
    completions = _int(spec, "completions", _int(spec, "parallelism", 1))
    for condition in _conditions(status):
        if condition["status"] != "True":
            continue
        match condition["type"]:
            case "Complete":
                return Health.CURRENT, "JobComplete", f"{_int(status, 'succeeded', 0)} of {completions} have succeeded"
            case "Failed":
                why = ": ".join(part for part in (condition["reason"], condition["message"]) if part)
                message = f"{_int(status, 'failed', 0)} Pods failed" + (f" ({why})" if why else "")
                return Health.FAILED, "JobFailed", f"{message}; look at their logs"
            case "Suspended":
                return Health.CURRENT, "JobSuspended", "is suspended"
    if not status.get("startTime"):
        return _progress("JobNotStarted", "has not started yet")
    counts = ", ".join(f"{_int(status, name, 0)} {name}" for name in ("succeeded", "active", "failed"))
    return Health.CURRENT, "JobRunning", f"is running: {counts}"


def _api_service(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    for condition in _conditions(status):
        if condition["type"] == "Available":
            if condition["status"] == "True":
                return Health.CURRENT, "", ""
            return _progress(condition["reason"] or "NotAvailable", condition["message"] or "does not answer yet")
    return _progress("NotAvailable", "was not looked at by the API server yet")


def _service(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    spec = _map(obj, "spec")
    if spec.get("type") == "LoadBalancer" and not spec.get("clusterIP"):
        return _progress("NoIPAssigned", "has no cluster IP yet")
    return Health.CURRENT, "", ""


def _definition(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict:
    for condition in _conditions(status):
        if condition["type"] == "NamesAccepted" and condition["status"] == "False":
            return Health.FAILED, condition["reason"], condition["message"]
        if condition["type"] == "Established":
            if condition["status"] == "True":
                return Health.CURRENT, "", ""
            if condition["status"] == "False" and condition["reason"] != "Installing":
                return Health.FAILED, condition["reason"], condition["message"]
    return _progress("Installing", "is not established yet")


_RULES: Mapping[tuple[str, str], Callable[[Mapping[str, Any], Mapping[str, Any]], Verdict]] = {
    ("", "ConfigMap"): _always,
    ("", "Secret"): _always,
    ("batch", "CronJob"): _always,
    ("policy", "PodDisruptionBudget"): _always,  # its controller sets the observed generation, which was checked
    ("", "Service"): _service,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "ReplicationController"): _replica_set,
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "ReplicaSet"): _replica_set,
    ("extensions", "Deployment"): _deployment,
    ("extensions", "DaemonSet"): _daemon_set,
    ("extensions", "ReplicaSet"): _replica_set,
    ("batch", "Job"): _job,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("apiregistration.k8s.io", "APIService"): _api_service,
}


def _progress(reason: str, message: str) -> Verdict:
    return Health.IN_PROGRESS, reason, message


def _less(reason: str, have: int, want: int, what: str) -> Verdict | None:
    return _progress(reason, f"{have} of {want} replicas {what}") if want > have else None


def _extra(have: int, want: int) -> Verdict | None:
    return _progress("ExtraPods", f"{have - want} old replicas are still to go") if have > want else None


def _map(obj: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = obj.get(name)
    return found if isinstance(found, Mapping) else {}


def _list(obj: Mapping[str, Any], name: str) -> list[Any]:
    found = obj.get(name)
    return found if isinstance(found, list) else []


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _int(obj: Mapping[str, Any], name: str, default: int) -> int:
    found = obj.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else default


def _conditions(status: Mapping[str, Any]) -> list[dict[str, str]]:
    """The conditions as strings, "" for what is missing; what is no condition is left out."""
    return [
        {name: str(found.get(name) or "") for name in ("type", "status", "reason", "message", "observedGeneration")}
        for found in _list(status, "conditions")
        if isinstance(found, Mapping)
    ]
