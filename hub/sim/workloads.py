"""What the simulated controllers say of workloads: a spec and how long it has run in, its status out. All is pure.

No container ever runs. Whether Pods of a template would start is decided by `Behaviour`: an image that matches
`broken_images` cannot be pulled, one that matches `failing_images` starts and ends with an error, a nodeSelector may
match no node; anything else is ready after `ready_s`. While new Pods are not ready, those of before go on.
Conditions have the types and reasons of the real controllers. Next: `controllers` writes these.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
State = Literal["starting", "ready", "unschedulable", "no image", "crashing"]

NODE: Mapping[str, str] = {
    "kubernetes.io/hostname": "node-1",
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": "amd64",
}
WAITING: Mapping[State, str] = {
    "starting": "ContainerCreating",
    "no image": "ImagePullBackOff",
    "crashing": "CrashLoopBackOff",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the simulated cluster behaves. Images are shell patterns."""

    ready_s: float = 0.0
    job_s: float = 0.0
    broken_images: Sequence[str] = ("*broken*",)
    failing_images: Sequence[str] = ("*failing*",)
    nodes: Sequence[Mapping[str, str]] = (NODE,)
    """The labels of each node."""
    pods: bool = True
    """Whether ReplicaSets, Pods and the claims of StatefulSets are made; statuses are told without them, too."""
    wanted_replicas: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """What a HorizontalPodAutoscaler, by namespace and name, would scale to."""


def pod_state(template: Mapping[str, Any], *, age_s: float, behaviour: Behaviour) -> State:
    """Pure: what the Pods of a template are after `age_s`."""
    spec = template.get("spec") or {}
    images = [str(c.get("image", "")) for name in ("initContainers", "containers") for c in spec.get(name) or ()]
    if not nodes_for(template, behaviour):
        return "unschedulable"
    if _any_match(images, behaviour.broken_images):
        return "no image"
    if _any_match(images, behaviour.failing_images):
        return "crashing"
    return "ready" if age_s >= behaviour.ready_s else "starting"


def nodes_for(template: Mapping[str, Any], behaviour: Behaviour) -> int:
    """Pure: how many nodes a template's nodeSelector selects."""
    wanted = (template.get("spec") or {}).get("nodeSelector") or {}
    return sum(wanted.items() <= dict(node).items() for node in behaviour.nodes)


def _any_match(images: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(image, pattern) for image in images for pattern in patterns)


def deployment(obj: Mapping[str, Any], state: State, *, age_s: float, now: str) -> Json:
    """Pure: a Deployment's status."""
    spec, was = obj["spec"], obj.get("status") or {}
    wanted, ready = int(spec.get("replicas", 1)), state == "ready"
    kept = min(wanted, int(was.get("availableReplicas", 0)))  # those of before, or those that were ready already
    counts = _counts(wanted, ready=wanted if ready else kept, updated=wanted if ready else min(wanted, 1))
    late = not ready and wanted > 0 and age_s >= float(spec.get("progressDeadlineSeconds", 600))
    if ready or not wanted:
        progressing = ("Progressing", "True", "NewReplicaSetAvailable", "ReplicaSet has successfully progressed.")
    elif late:
        progressing = ("Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet has timed out progressing.")
    else:
        progressing = ("Progressing", "True", "ReplicaSetUpdated", "ReplicaSet is progressing.")
    enough = counts.get("availableReplicas", 0) >= wanted or not wanted
    available = (
        ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    )
    return {
        **counts,
        "terminatingReplicas": 0,
        "observedGeneration": _generation(obj),
        "conditions": conditions(was, [available, progressing], now),
    }


def _counts(wanted: int, *, ready: int, updated: int) -> Json:
    """Zeros are left out, as Go does."""
    counts = {
        "replicas": wanted,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": wanted - ready,
    }
    return {name: count for name, count in counts.items() if count}


def replica_set(obj: Mapping[str, Any], state: State) -> Json:
    """Pure: a ReplicaSet's status."""
    wanted = int(obj["spec"].get("replicas", 1))
    counts = _counts(wanted, ready=wanted if state == "ready" else 0, updated=0)
    counts.pop("unavailableReplicas", None)
    labelled = {"fullyLabeledReplicas": wanted} if wanted else {}
    return {"replicas": 0, "terminatingReplicas": 0, **counts, **labelled, "observedGeneration": _generation(obj)}


def stateful_set(obj: Mapping[str, Any], state: State, *, revision: str) -> Json:
    """Pure: a StatefulSet's status; `revision` names its template."""
    spec, was = obj["spec"], obj.get("status") or {}
    wanted, ready = int(spec.get("replicas", 1)), state == "ready"
    before = min(wanted, int(was.get("readyReplicas", 0)))
    current = revision if ready or not was.get("currentRevision") else was["currentRevision"]
    counts = {"readyReplicas": wanted if ready else before, "updatedReplicas": wanted if ready else 0}
    counts["currentReplicas"] = wanted if ready else before
    return {
        **{name: count for name, count in counts.items() if count},
        "replicas": wanted,
        "availableReplicas": counts["readyReplicas"],
        "currentRevision": current,
        "updateRevision": revision,
        "collisionCount": 0,
        "observedGeneration": _generation(obj),
    }


def daemon_set(obj: Mapping[str, Any], state: State, *, nodes: int) -> Json:
    """Pure: a DaemonSet's status; one Pod on each of `nodes`."""
    ready = nodes if state == "ready" else min(nodes, int((obj.get("status") or {}).get("numberReady", 0)))
    counts = {"numberAvailable": ready, "numberUnavailable": nodes - ready}
    counts["updatedNumberScheduled"] = nodes if state == "ready" else 0
    return {
        **{name: count for name, count in counts.items() if count},
        "currentNumberScheduled": nodes,
        "desiredNumberScheduled": nodes,
        "numberMisscheduled": 0,
        "numberReady": ready,
        "observedGeneration": _generation(obj),
    }


def job(obj: Mapping[str, Any], *, age_s: float, now: str, behaviour: Behaviour) -> Json:
    """Pure: a Job's status: suspended, running for `job_s`, then complete, or failed; what is finished stays so."""
    spec, was = obj["spec"], obj.get("status") or {}
    if finished(obj):
        return dict(was)
    if spec.get("suspend"):
        return {"conditions": conditions(was, [("Suspended", "True", "JobSuspended", "Job suspended")], now)}
    started = was.get("startTime", now)
    count = int(spec.get("completions") or spec.get("parallelism", 1))
    state = pod_state(spec.get("template") or {}, age_s=age_s, behaviour=behaviour)
    running: Json = {"startTime": started, "active": min(count, int(spec.get("parallelism", 1)))}
    running["ready"] = running["active"] if state == "ready" else 0
    overdue = spec.get("activeDeadlineSeconds") is not None and age_s >= float(spec["activeDeadlineSeconds"])
    if overdue or (state == "crashing" and age_s >= behaviour.job_s):
        reason, text = (
            ("DeadlineExceeded", "Job was active longer than specified deadline")
            if overdue
            else ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        )
        failed = int(spec.get("backoffLimit", 6)) + 1
        told = [("FailureTarget", "True", reason, text), ("Failed", "True", reason, text)]
        return {"startTime": started, "failed": failed, "ready": 0, "conditions": conditions({}, told, now)}
    if state == "ready" and age_s >= behaviour.ready_s + behaviour.job_s:
        text = "Reached expected number of succeeded pods"
        told = [(kind, "True", "CompletionsReached", text) for kind in ("SuccessCriteriaMet", "Complete")]
        ended = {"startTime": started, "completionTime": now, "succeeded": count, "ready": 0}
        return {**ended, "terminating": 0, "uncountedTerminatedPods": {}, "conditions": conditions({}, told, now)}
    return {**running, "terminating": 0, "uncountedTerminatedPods": {}}


def finished(obj: Mapping[str, Any]) -> bool:
    """Pure: whether a Job is complete or failed."""
    told = (obj.get("status") or {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in told)


def pod(obj: Mapping[str, Any], state: State, *, now: str, node: str = "node-1", address: str = "") -> Json:
    """Pure: a Pod's status."""
    was, ready = obj.get("status") or {}, state == "ready"
    if state == "unschedulable":
        text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        told = [("PodScheduled", "False", "Unschedulable", text)]
        return {"phase": "Pending", "qosClass": was.get("qosClass"), "conditions": conditions(was, told, now)}
    flag, reason = ("True", "") if ready else ("False", "ContainersNotReady")
    told = [("PodScheduled", "True", "", ""), ("Initialized", "True", "", "")]
    told += [("ContainersReady", flag, reason, ""), ("Ready", flag, reason, "")]
    started = was.get("startTime", now)
    running: Json = {"running": {"startedAt": started}} if ready else {"waiting": {"reason": WAITING.get(state, "")}}
    return {
        "phase": "Running" if ready or state == "crashing" else "Pending",
        "qosClass": was.get("qosClass"),
        "startTime": started,
        **({"podIP": address, "podIPs": [{"ip": address}]} if ready and address else {}),
        "conditions": conditions(was, told, now),
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": "",
                "ready": ready,
                "started": ready,
                "restartCount": 3 if state == "crashing" else 0,
                "state": running,
                "lastState": {},
            }
            for container in obj["spec"].get("containers") or ()
        ],
    }


def autoscaler(
    obj: Mapping[str, Any], current: int, *, wanted: int | None
) -> tuple[int, list[tuple[str, str, str, str]]]:
    """Pure: the replicas that a HorizontalPodAutoscaler wants of a target with `current`, and its conditions."""
    spec = obj["spec"]
    low, high = int(spec.get("minReplicas", 1)), int(spec["maxReplicas"])
    if not current:
        return 0, [("ScalingActive", "False", "ScalingDisabled", "scaling is disabled since the replica count is zero")]
    desired = max(low, min(high, current if wanted is None else wanted))
    told = [("AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size")]
    return desired, [
        *told,
        ("ScalingActive", "True", "ValidMetricFound", "the HPA was able to calculate a replica count"),
    ]


def conditions(was: Mapping[str, Any], told: Sequence[tuple[str, str, str, str]], now: str) -> list[Json]:
    """Pure: conditions of (type, status, reason, message); one whose status stays keeps the time of its change."""
    return list(_conditions({c["type"]: c for c in was.get("conditions") or ()}, told, now))


def _conditions(before: Mapping[str, Json], told: Sequence[tuple[str, str, str, str]], now: str) -> Iterator[Json]:
    for kind, status, reason, message in told:
        old = before.get(kind, {})
        since = old.get("lastTransitionTime", now) if old.get("status") == status else now
        text = {"reason": reason, "message": message}
        told_text = {name: value for name, value in text.items() if value}
        yield {"type": kind, "status": status, **told_text, "lastTransitionTime": since}


def _generation(obj: Mapping[str, Any]) -> int:
    return int(obj["metadata"].get("generation", 1))
