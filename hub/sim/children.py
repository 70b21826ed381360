"""Objects that the simulated controllers make for others: ReplicaSets, Pods, claims, Jobs, Endpoints. All is pure.

They carry labels and owners as the real controllers' do: a Service's labels are copied to its Endpoints and slices, so
what selects by label finds those, too. Next: `controllers` creates them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hub.sim.store import Table
from hub.sim.workloads import Json, finished

_REVISION = "deployment.kubernetes.io/revision"


def _owned(obj: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> Json:
    """Metadata of something that `obj` controls."""
    owner = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {"name": name, "namespace": obj["metadata"]["namespace"], "ownerReferences": [owner]}
    return {**metadata, "labels": dict(labels)} if labels else metadata


def replica_set(deployment: Mapping[str, Any], name: str, others: Iterable[Mapping[str, Any]]) -> Json:
    """Pure: the ReplicaSet of a Deployment's present template, whose hash is `name`: its revision is past those of
    `others`, the Deployment's ReplicaSets so far."""
    spec, template = deployment["spec"], deployment["spec"]["template"]
    whole = f"{deployment['metadata']['name']}-{name}"
    numbers = {
        one["metadata"]["name"]: int((one["metadata"].get("annotations") or {}).get(_REVISION, 0)) for one in others
    }
    past = max((number for other, number in numbers.items() if other != whole), default=0)
    annotations = {_REVISION: str(max(past + 1, numbers.get(whole, 0)))}
    labels = {**(template.get("metadata") or {}).get("labels", {}), "pod-template-hash": name}
    selector = spec["selector"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {**_owned(deployment, whole, labels), "annotations": annotations},
        "spec": {
            "replicas": spec.get("replicas", 1),
            "selector": {**selector, "matchLabels": {**selector.get("matchLabels", {}), "pod-template-hash": name}},
            "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": labels}},
        },
    }


def pods(obj: Mapping[str, Any], count: int, name: str) -> Iterator[Json]:
    """Pure: `count` Pods of an object's template; a StatefulSet's are numbered."""
    template = obj["spec"].get("template") or {}
    metadata = template.get("metadata") or {}
    for index in range(count):
        suffix = hashlib.sha256(f"{name}/{index}".encode()).hexdigest()[:5]
        ending = f"{index}" if obj["kind"] == "StatefulSet" else suffix
        if obj["kind"] == "DaemonSet":
            ending = f"{name[:5]}{suffix}"  # its template has no part in the name of an owner between
        made = _owned(obj, f"{obj['metadata']['name']}-{ending}", metadata.get("labels") or {})
        if metadata.get("annotations"):
            made["annotations"] = metadata["annotations"]
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": made,
            "spec": {**template.get("spec", {}), "nodeName": "node-1"},
        }


def claims(stateful_set: Mapping[str, Any]) -> Iterator[Json]:
    """Pure: the PersistentVolumeClaims of a StatefulSet; they outlive it, so it does not own them."""
    metadata, spec = stateful_set["metadata"], stateful_set["spec"]
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    for template in spec.get("volumeClaimTemplates") or ():
        for index in range(int(spec.get("replicas", 1))):
            name = f"{template['metadata']['name']}-{metadata['name']}-{index}"
            yield {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": metadata["namespace"], "labels": dict(labels)},
                "spec": template["spec"],
            }


def job(cron_job: Mapping[str, Any], minute: int) -> Json:
    """Pure: the Job that is due at a minute since 1970; a second one of that minute would have the same name."""
    template = cron_job["spec"]["jobTemplate"]
    metadata = template.get("metadata") or {}
    made = _owned(cron_job, f"{cron_job['metadata']['name']}-{minute}", metadata.get("labels") or {})
    if metadata.get("annotations"):
        made["annotations"] = metadata["annotations"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": made, "spec": template["spec"]}


def history(status: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> Json:
    """Pure: a CronJob's status, by its Jobs."""
    active = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "namespace": job["metadata"]["namespace"],
            "uid": job["metadata"]["uid"],
        }
        for job in jobs
        if not finished(job)
    ]
    ended = [job["status"]["completionTime"] for job in jobs if (job.get("status") or {}).get("completionTime")]
    told = {name: value for name, value in status.items() if name not in ("active", "lastSuccessfulTime")}
    last = max([*ended, *filter(None, [status.get("lastSuccessfulTime")])], default=None)
    return {**told, **({"active": active} if active else {}), **({"lastSuccessfulTime": last} if last else {})}


def surplus(spec: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Pure: finished Jobs beyond what a CronJob keeps, `jobs` being the oldest first."""
    succeeded = [job for job in jobs if (job.get("status") or {}).get("completionTime")]
    failed = [job for job in jobs if finished(job) and job not in succeeded]
    yield from succeeded[: max(0, len(succeeded) - int(spec.get("successfulJobsHistoryLimit", 3)))]
    yield from failed[: max(0, len(failed) - int(spec.get("failedJobsHistoryLimit", 1)))]


def endpoints(service: Mapping[str, Any], addresses: Sequence[str]) -> Json:
    """Pure: a Service's Endpoints, with its labels."""
    metadata = service["metadata"]
    labels = {**(metadata.get("labels") or {}), "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    made: Json = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "labels": labels},
    }
    if addresses:
        made["subsets"] = [{"addresses": [{"ip": ip} for ip in sorted(addresses)], "ports": _ports(service)}]
    return made


def endpoint_slice(service: Mapping[str, Any], addresses: Sequence[str]) -> Json:
    """Pure: the one EndpointSlice of a Service, with its labels."""
    metadata = service["metadata"]
    labels = {
        **(metadata.get("labels") or {}),
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": metadata["name"],
    }
    conditions = {"ready": True, "serving": True, "terminating": False}
    suffix = hashlib.sha256(metadata["uid"].encode()).hexdigest()[:5]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _owned(service, f"{metadata['name']}-{suffix}", labels),
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": conditions} for ip in sorted(addresses)] or None,
        "ports": _ports(service) or None,
    }


def _ports(service: Mapping[str, Any]) -> list[Json]:
    """A port that is named in the Pods counts as the Service's own number: no container listens anyway."""
    return [
        {
            "name": port.get("name", ""),
            "port": port["targetPort"] if isinstance(port.get("targetPort"), int) else port["port"],
            "protocol": port.get("protocol", "TCP"),
        }
        for port in service["spec"].get("ports") or ()
    ]


def of_namespace(namespace: Mapping[str, Any]) -> Iterator[tuple[Table, Json]]:
    """Pure: what every namespace has."""
    name = namespace["metadata"]["name"]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    yield ("", "serviceaccounts"), account
    text = "This ConfigMap contains the certificates of the API server; the simulated one speaks plain HTTP."
    certificates = {"name": "kube-root-ca.crt", "namespace": name, "annotations": {"kubernetes.io/description": text}}
    yield (
        ("", "configmaps"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": certificates, "data": {"ca.crt": "none"}},
    )
