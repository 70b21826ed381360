"""What the API server fills in on every write of a built-in kind: defaults, and what it allocates to Services.

`defaulted` goes through what `normal` leaves. It assumes nothing of the object: people send any JSON, and what has the
wrong type is left for `validation`. Compared with the real server by `tests/contract/test_sim_defaults.py`.
Source: k8s.io/kubernetes/pkg/apis/*/v1/defaults.go and pkg/registry/*/*/strategy.go. Next: `validation`.
"""

import base64
import copy
from collections.abc import Callable, Mapping
from typing import Any

from hub.openapi import schema
from hub.sim import normal
from hub.sim.pods import TEMPLATES, Json, admitted, below, maps, pod, pod_spec, put, qos_class, spec_of, tolerating

Allocate = Callable[[str], Any]
"""Called with "ip" or "port": a free cluster IP or node port."""


def defaulted(
    obj: Mapping[str, Any], *, old: Mapping[str, Any] | None = None, allocate: Allocate | None = None
) -> Json:
    """Pure but for `allocate`: the object with the defaults of its kind; `old` is what an update replaces.

    Without `allocate` that is what decoding fills in, of which the writer becomes the owner. With it, also what comes
    later and is nobody's: addresses, the status of a new object, what admission plugins add.
    A kind that is not built in comes back as it is.
    """
    group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
    kind = str(obj.get("kind", ""))
    try:
        node = schema.schemas().of(group, version, kind)
    except KeyError:
        return dict(copy.deepcopy(obj))
    out: Json = normal.normal(obj, node)
    if allocate is not None:
        _prepare(out, (group, kind), old, allocate)
    if (group, kind) in TEMPLATES:
        _template(out, TEMPLATES[group, kind])
    special = KINDS.get((group, kind))
    if special is not None:
        special(out)
    if (group, kind) == ("apps", "DaemonSet"):
        _template_generation(out, old)
    return out


def _prepare(obj: Json, kind: tuple[str, str], old: Mapping[str, Any] | None, allocate: Allocate) -> None:
    """What is added after decoding."""
    if kind == ("", "Service"):
        _service(obj)
        _allocated(obj, old or {}, allocate)
    if kind == ("", "Pod"):
        tolerating(obj)
    if old is not None:
        return
    match kind:
        case "", "PersistentVolumeClaim":
            _finalizer(obj, "kubernetes.io/pvc-protection")
        case "", "PersistentVolume":
            _finalizer(obj, "kubernetes.io/pv-protection")
        case "", "Namespace":
            put(spec_of(obj), finalizers=["kubernetes"])
        case "", "Pod":
            admitted(obj)
        case "batch", "Job":
            _job_labels(obj)
    if kind in STATUS:
        obj["status"] = copy.deepcopy(STATUS[kind])
        if kind == ("", "Pod"):
            pod(obj)
            obj["status"]["qosClass"] = qos_class(obj)


def _template(obj: Json, path: tuple[str, ...]) -> None:
    template = below(obj, *path)
    if template:
        template.setdefault("metadata", {})
        if isinstance(template.setdefault("spec", {}), dict):
            pod_spec(template["spec"])


def _deployment(obj: Json) -> None:
    spec = spec_of(obj)
    put(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    strategy = below(spec, "strategy")
    put(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        put(strategy, rollingUpdate={})
        put(below(strategy, "rollingUpdate"), maxUnavailable="25%", maxSurge="25%")


def _replica_set(obj: Json) -> None:
    put(spec_of(obj), replicas=1)


def _stateful_set(obj: Json) -> None:
    spec = spec_of(obj)
    put(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady", updateStrategy={})
    spec.setdefault("serviceName", "")
    put(spec, persistentVolumeClaimRetentionPolicy={})
    put(below(spec, "persistentVolumeClaimRetentionPolicy"), whenDeleted="Retain", whenScaled="Retain")
    strategy = below(spec, "updateStrategy")
    put(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        put(strategy, rollingUpdate={})
        put(below(strategy, "rollingUpdate"), partition=0)
    for claim in maps(spec, "volumeClaimTemplates"):
        claim.update(apiVersion="v1", kind="PersistentVolumeClaim", status={"phase": "Pending"})
        put(spec_of(claim), volumeMode="Filesystem", resources={})


def _daemon_set(obj: Json) -> None:
    spec = spec_of(obj)
    put(spec, revisionHistoryLimit=10, updateStrategy={})
    strategy = below(spec, "updateStrategy")
    put(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        put(strategy, rollingUpdate={})
        put(below(strategy, "rollingUpdate"), maxUnavailable=1, maxSurge=0)


def _template_generation(obj: Json, old: Mapping[str, Any] | None) -> None:
    """The counter of a DaemonSet's templates, kept as an annotation since v1 has no field for it."""
    name, count = "deprecated.daemonset.template.generation", "1"
    if old is not None:
        count = below(old, "metadata", "annotations").get(name, "1")
        if below(old, "spec").get("template") != below(obj, "spec").get("template") and str(count).isdigit():
            count = str(int(count) + 1)
    metadata = obj.setdefault("metadata", {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), name: count}


def _job(obj: Json) -> None:
    spec = spec_of(obj)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    replaced = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    put(
        spec,
        parallelism=1,
        backoffLimit=6,
        completionMode="NonIndexed",
        suspend=False,
        podReplacementPolicy=replaced,
    )
    spec.setdefault("manualSelector", False)
    labels = below(spec, "template", "metadata").get("labels")
    if labels and not below(obj, "metadata").get("labels"):
        obj.setdefault("metadata", {})["labels"] = dict(labels)


def _job_labels(obj: Json) -> None:
    """A Job without a selector of its own is found by its uid, once it has one."""
    metadata, spec = below(obj, "metadata"), spec_of(obj)
    if spec.get("manualSelector") or spec.get("selector") or not metadata.get("uid"):
        return
    names = {"batch.kubernetes.io/job-name": metadata.get("name", ""), "job-name": metadata.get("name", "")}
    uids = {"batch.kubernetes.io/controller-uid": metadata["uid"], "controller-uid": metadata["uid"]}
    template = below(spec, "template")
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    labels |= names | uids
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": metadata["uid"]}}


def _cron_job(obj: Json) -> None:
    spec = spec_of(obj)
    put(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    below(spec, "jobTemplate").setdefault("metadata", {})


def _service(obj: Json) -> None:
    spec = spec_of(obj)
    put(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "ClientIP":
        put(spec, sessionAffinityConfig={})
        put(below(spec, "sessionAffinityConfig"), clientIP={})
        put(below(spec, "sessionAffinityConfig", "clientIP"), timeoutSeconds=10800)
    for port in maps(spec, "ports"):
        put(port, protocol="TCP")
        if port.get("targetPort") in (None, "", 0) and "port" in port:
            port["targetPort"] = port["port"]
    if spec["type"] != "ExternalName":
        put(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in REACHED_FROM_OUTSIDE:
        put(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        put(spec, allocateLoadBalancerNodePorts=True)


def _allocated(obj: Json, old: Mapping[str, Any], allocate: Allocate) -> None:
    """Addresses and ports: as written, else as they were, else free ones; gone when the type has none any more."""
    spec, was = spec_of(obj), below(old, "spec")
    if spec["type"] == "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(name) == was.get(name):
                spec.pop(name, None)
        return
    ports = {(port.get("port"), port.get("protocol")): port.get("nodePort") for port in maps(was, "ports")}
    for port in maps(spec, "ports"):
        kept = ports.get((port.get("port"), port["protocol"]))
        if spec["type"] in REACHED_FROM_OUTSIDE and not port.get("nodePort"):
            port["nodePort"] = kept or allocate("port")
        elif spec["type"] not in REACHED_FROM_OUTSIDE and kept and port.get("nodePort") == kept:
            del port["nodePort"]
    if not spec.get("clusterIP"):
        spec["clusterIP"] = was.get("clusterIP") or allocate("ip")
    put(spec, clusterIPs=[spec["clusterIP"]])
    headless = spec["clusterIP"] == "None" and not spec.get("selector")
    put(spec, ipFamilies=["IPv4", "IPv6"] if headless else ["IPv4"])
    put(spec, ipFamilyPolicy="RequireDualStack" if headless else "SingleStack")


def _secret(obj: Json) -> None:
    put(obj, type="Opaque")
    plain = obj.pop("stringData", None)
    if isinstance(plain, dict):
        folded = {name: base64.b64encode(str(value).encode()).decode() for name, value in plain.items()}
        obj["data"] = {**(obj.get("data") or {}), **folded}


def _autoscaler(obj: Json) -> None:
    spec = spec_of(obj)
    put(spec, minReplicas=1)
    if obj["apiVersion"] == "autoscaling/v1":
        put(spec, targetCPUUtilizationPercentage=80)
        return
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if isinstance(behavior, dict):
        percent = {"type": "Percent", "value": 100, "periodSeconds": 15}
        put(behavior, scaleUp={}, scaleDown={})
        put(
            below(behavior, "scaleUp"),
            stabilizationWindowSeconds=0,
            selectPolicy="Max",
            policies=[{"type": "Pods", "value": 4, "periodSeconds": 15}, percent],
        )
        put(below(behavior, "scaleDown"), selectPolicy="Max", policies=[percent])


def _claim(obj: Json) -> None:
    put(spec_of(obj), volumeMode="Filesystem", resources={})


def _volume(obj: Json) -> None:
    put(spec_of(obj), volumeMode="Filesystem", persistentVolumeReclaimPolicy="Retain")
    host_path = below(obj, "spec", "hostPath")
    if host_path:
        host_path.setdefault("type", "")


def _finalizer(obj: Json, name: str) -> None:
    metadata = obj.setdefault("metadata", {})
    if name not in (metadata.get("finalizers") or []):
        metadata["finalizers"] = [*(metadata.get("finalizers") or []), name]


def _namespace(obj: Json) -> None:
    metadata = obj.setdefault("metadata", {})
    labels = metadata.get("labels") or {}
    metadata["labels"] = {**labels, "kubernetes.io/metadata.name": metadata.get("name", "")}


def _network_policy(obj: Json) -> None:
    spec = spec_of(obj)
    spec.setdefault("podSelector", {})
    put(spec, policyTypes=["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    for rule in (*maps(spec, "ingress"), *maps(spec, "egress")):
        for port in maps(rule, "ports"):
            put(port, protocol="TCP")


REACHED_FROM_OUTSIDE = ("NodePort", "LoadBalancer")
RBAC = "rbac.authorization.k8s.io"


def _role(obj: Json) -> None:
    if not obj.get("rules"):
        obj["rules"] = None


def _binding(obj: Json) -> None:
    if isinstance(obj.get("roleRef"), dict):
        put(obj["roleRef"], apiGroup=RBAC)
    for subject in maps(obj, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            put(subject, apiGroup=RBAC)


def _definition(obj: Json) -> None:
    spec = spec_of(obj)
    names = below(spec, "names")
    if isinstance(names.get("kind"), str):
        put(names, singular=names["kind"].lower(), listKind=f"{names['kind']}List")
    put(spec, conversion={"strategy": "None"})


def _storage_class(obj: Json) -> None:
    put(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _priority_class(obj: Json) -> None:
    put(obj, preemptionPolicy="PreemptLowerPriority")


def _webhooks(obj: Json) -> None:
    for webhook in maps(obj, "webhooks"):
        put(
            webhook,
            failurePolicy="Fail",
            matchPolicy="Equivalent",
            namespaceSelector={},
            objectSelector={},
            timeoutSeconds=10,
        )
        if obj["kind"] == "MutatingWebhookConfiguration":
            put(webhook, reinvocationPolicy="Never")
        if below(webhook, "clientConfig", "service"):
            put(below(webhook, "clientConfig", "service"), port=443)
        for rule in maps(webhook, "rules"):
            put(rule, scope="*")


def _endpoints(obj: Json) -> None:
    for subset in maps(obj, "subsets"):
        for port in maps(subset, "ports"):
            put(port, protocol="TCP")


def _slice(obj: Json) -> None:
    if "endpoints" not in obj:
        obj["endpoints"] = None
    for endpoint in maps(obj, "endpoints"):
        endpoint.setdefault("conditions", {})
    for port in maps(obj, "ports"):
        port.setdefault("name", "")
        put(port, protocol="TCP")


KINDS: Mapping[tuple[str, str], Callable[[Json], None]] = {
    ("", "Pod"): pod,
    ("", "Service"): _service,
    ("", "Secret"): _secret,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "PersistentVolume"): _volume,
    ("", "Namespace"): _namespace,
    ("", "Endpoints"): _endpoints,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("batch", "Job"): _job,
    ("batch", "CronJob"): _cron_job,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("discovery.k8s.io", "EndpointSlice"): _slice,
    (RBAC, "Role"): _role,
    (RBAC, "ClusterRole"): _role,
    (RBAC, "RoleBinding"): _binding,
    (RBAC, "ClusterRoleBinding"): _binding,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("storage.k8s.io", "StorageClass"): _storage_class,
    ("scheduling.k8s.io", "PriorityClass"): _priority_class,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _webhooks,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
}
STATUS: Mapping[tuple[str, str], Json] = {
    ("", "Pod"): {"phase": "Pending"},
    ("", "Namespace"): {"phase": "Active"},
    ("", "Service"): {"loadBalancer": {}},
    ("", "PersistentVolumeClaim"): {"phase": "Pending"},
    ("", "PersistentVolume"): {"phase": "Pending"},
    ("apps", "Deployment"): {},
    ("apps", "ReplicaSet"): {"replicas": 0},
    ("apps", "StatefulSet"): {"replicas": 0, "availableReplicas": 0},
    ("apps", "DaemonSet"): {
        "currentNumberScheduled": 0,
        "desiredNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
    },
    ("batch", "Job"): {},
    ("batch", "CronJob"): {},
    ("autoscaling", "HorizontalPodAutoscaler"): {"currentMetrics": None, "desiredReplicas": 0},
    ("networking.k8s.io", "Ingress"): {"loadBalancer": {}},
    ("policy", "PodDisruptionBudget"): {
        "disruptionsAllowed": 0,
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
    },
    ("", "ResourceQuota"): {},
}
"""The status of a new object: the server forgets what its writer says of it."""
