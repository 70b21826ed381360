"""Defaults of Pods and of the templates that make them, filled in place; part of `defaults`.

Source: k8s.io/kubernetes/pkg/apis/core/v1/defaults.go, and for a Pod itself the admission plugins ServiceAccount
(without the token's volume, whose name is random), Priority and DefaultTolerationSeconds.
"""

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

TEMPLATES = {
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): ("spec", "template"),
    ("apps", "Deployment"): ("spec", "template"),
    ("apps", "ReplicaSet"): ("spec", "template"),
    ("apps", "StatefulSet"): ("spec", "template"),
    ("apps", "DaemonSet"): ("spec", "template"),
    ("batch", "Job"): ("spec", "template"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where a kind keeps the template of its Pods."""


def put(at: Json, **values: Any) -> None:
    """Set each field that is absent, null or ""."""
    for name, value in values.items():
        if at.get(name) in (None, ""):
            at[name] = value


def maps(at: Json, name: str) -> Iterable[Json]:
    """The structs in a list field, none when it is something else."""
    found = at.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def below(at: Any, *path: str) -> Json:
    """The struct at a path, an empty one that nobody keeps when there is none."""
    for name in path:
        at = at.get(name) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else {}


def spec_of(obj: Json) -> Json:
    """The object's spec, made if there is none."""
    spec = obj.setdefault("spec", {})
    return spec if isinstance(spec, dict) else {}


def pod(obj: Json) -> None:
    """A Pod itself."""
    spec = spec_of(obj)
    put(spec, enableServiceLinks=True)
    for container in (*maps(spec, "containers"), *maps(spec, "initContainers")):
        resources = container.setdefault("resources", {})
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    pod_spec(spec)
    for container in maps(spec, "containers") if spec.get("hostNetwork") else ():
        for port in maps(container, "ports"):
            if "containerPort" in port:
                put(port, hostPort=port["containerPort"])


def admitted(obj: Json) -> None:
    """A new Pod, after the admission plugins."""
    spec = spec_of(obj)
    put(spec, serviceAccountName="default", priority=0, preemptionPolicy="PreemptLowerPriority")
    spec["serviceAccount"] = spec["serviceAccountName"]


def tolerating(obj: Json) -> None:
    """A Pod after the admission plugin that adds tolerations, at each write."""
    spec = spec_of(obj)
    tolerated = {entry.get("key") for entry in maps(spec, "tolerations")}
    if None not in tolerated:
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if key not in tolerated:
                spec.setdefault("tolerations", []).append(
                    {"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300}
                )


def pod_spec(spec: Json) -> None:
    """A Pod's spec, in a Pod or in a template."""
    put(
        spec,
        dnsPolicy="ClusterFirst",
        restartPolicy="Always",
        schedulerName="default-scheduler",
        securityContext={},
        terminationGracePeriodSeconds=30,
    )
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account  # the old name of the field is kept in step
    for name in ("containers", "initContainers", "ephemeralContainers"):
        for container in maps(spec, name):
            _container(container)
    for volume in maps(spec, "volumes"):
        _volume(volume)


def _container(container: Json) -> None:
    put(
        container,
        imagePullPolicy=_pull_policy(str(container.get("image", ""))),
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in maps(container, "ports"):
        put(port, protocol="TCP")
    for variable in maps(container, "env"):
        source = below(variable, "valueFrom")
        if "fieldRef" in source:
            put(below(source, "fieldRef"), apiVersion="v1")
        if "resourceFieldRef" in source:
            put(below(source, "resourceFieldRef"), divisor="0")
        if "fileKeyRef" in source:
            put(below(source, "fileKeyRef"), optional=False)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(name), dict):
            put(container[name], timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            _handler(container[name])
    for name in ("postStart", "preStop"):
        _handler(below(container, "lifecycle", name))


def _handler(handler: Json) -> None:
    if isinstance(handler.get("httpGet"), dict):
        put(handler["httpGet"], path="/", scheme="HTTP")
    if isinstance(handler.get("grpc"), dict):
        handler["grpc"].setdefault("service", "")


def _pull_policy(image: str) -> str:
    name = image.rpartition("/")[2]
    tag = name.partition(":")[2] if "@" not in name else "digest"
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _volume(volume: Json) -> None:
    if not any(isinstance(value, dict) for value in volume.values()):
        volume["emptyDir"] = {}
    for name in ("configMap", "secret", "downwardAPI", "projected"):
        if isinstance(volume.get(name), dict):
            put(volume[name], defaultMode=420)
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")
    for item in maps(below(volume, "downwardAPI"), "items"):
        _downward(item)
    for source in maps(below(volume, "projected"), "sources"):
        for item in maps(below(source, "downwardAPI"), "items"):
            _downward(item)
        if isinstance(source.get("serviceAccountToken"), dict):
            put(source["serviceAccountToken"], expirationSeconds=3600)
    claim = below(volume, "ephemeral", "volumeClaimTemplate", "spec")
    if claim:
        put(claim, volumeMode="Filesystem")


def _downward(item: Json) -> None:
    if isinstance(item.get("fieldRef"), dict):
        put(item["fieldRef"], apiVersion="v1")
    if isinstance(item.get("resourceFieldRef"), dict):
        put(item["resourceFieldRef"], divisor="0")


def qos_class(obj: Json) -> str:
    """Pure: Guaranteed when every container's cpu and memory is limited to what it requests."""
    wanted = [below(container, "resources") for container in maps(below(obj, "spec"), "containers")]
    if not any(resources.get("requests") or resources.get("limits") for resources in wanted):
        return "BestEffort"
    same = all(
        {"cpu", "memory"} <= below(resources, "limits").keys() and resources.get("limits") == resources.get("requests")
        for resources in wanted
    )
    return "Guaranteed" if same else "Burstable"
