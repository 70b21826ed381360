"""Generate `hub/openapi/data/schemas.json` from the real API server: `python -m tests.tools.generate_schemas`.

What the simulated API server knows about built-in kinds is the real server's own word: types, merge keys, list types
and defaults from its OpenAPI v3, resources from its discovery, and whether a kind has a generation from a dry-run
create of each. Descriptions go, which is nine tenths of it.
"""

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import kube, real

OUT = Path(__file__).parents[2] / "hub/openapi/data/schemas.json"
REF = "#/components/schemas/"
KEPT = {
    "type",
    "format",
    "items",
    "additionalProperties",
    "enum",
    "default",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-patch-merge-key",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-preserve-unknown-fields",
}
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
POD_SPEC = {"containers": [{"name": "c", "image": "c"}]}
SELECTED = {
    "selector": {"matchLabels": {"a": "b"}},
    "template": {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC},
}
WEBHOOK = {"name": "a.example.org", "clientConfig": {"url": "https://a.example.org"}, "sideEffects": "None"}
MATCHES = {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["*"]}]}
MINIMAL: dict[str, dict[str, Any]] = {
    "Pod": {"spec": POD_SPEC},
    "PodTemplate": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}},
    "ReplicationController": {"spec": {**SELECTED, "selector": {"a": "b"}}},
    "Deployment": {"spec": SELECTED},
    "ReplicaSet": {"spec": SELECTED},
    "DaemonSet": {"spec": SELECTED},
    "StatefulSet": {"spec": {**SELECTED, "serviceName": "a"}},
    "ControllerRevision": {"revision": 1, "data": {"a": "b"}},
    "Job": {"spec": {"template": {"spec": {**POD_SPEC, "restartPolicy": "Never"}}}},
    "CronJob": {
        "spec": {
            "schedule": "0 0 * * *",
            "jobTemplate": {"spec": {"template": {"spec": {**POD_SPEC, "restartPolicy": "Never"}}}},
        }
    },
    "Service": {"spec": {"ports": [{"port": 80}]}},
    "PersistentVolume": {
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}
    },
    "PersistentVolumeClaim": {
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    },
    "LimitRange": {"spec": {"limits": []}},
    "Event": {"involvedObject": {"namespace": "default"}},
    "events.k8s.io/Event": {
        "regarding": {"namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "a",
        "reportingInstance": "a",
        "action": "a",
        "reason": "a",
        "type": "Normal",
    },
    "APIService": {
        "name": "v1.a.example.org",
        "spec": {"group": "a.example.org", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1},
    },
    "HorizontalPodAutoscaler": {
        "spec": {"maxReplicas": 1, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}
    },
    "Ingress": {"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}},
    "IngressClass": {"spec": {"controller": "example.org/a"}},
    "NetworkPolicy": {"spec": {"podSelector": {}}},
    "IPAddress": {"name": "10.0.0.77", "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "a"}}},
    "ServiceCIDR": {"spec": {"cidrs": ["10.1.0.0/16"]}},
    "RoleBinding": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}},
    "ClusterRoleBinding": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}},
    "StorageClass": {"provisioner": "example.org/a"},
    "VolumeAttachment": {"spec": {"attacher": "a", "nodeName": "a", "source": {"persistentVolumeName": "a"}}},
    "CSINode": {"spec": {"drivers": []}},
    "CSIDriver": {"spec": {}},
    "CSIStorageCapacity": {"storageClassName": "a"},
    "VolumeAttributesClass": {"driverName": "a", "parameters": {"a": "b"}},
    "MutatingWebhookConfiguration": {"webhooks": [{**WEBHOOK, "admissionReviewVersions": ["v1"]}]},
    "ValidatingWebhookConfiguration": {"webhooks": [{**WEBHOOK, "admissionReviewVersions": ["v1"]}]},
    "ValidatingAdmissionPolicy": {"spec": {"matchConstraints": MATCHES, "validations": [{"expression": "true"}]}},
    "ValidatingAdmissionPolicyBinding": {"spec": {"policyName": "a", "validationActions": ["Deny"]}},
    "MutatingAdmissionPolicy": {
        "spec": {
            "matchConstraints": MATCHES,
            "reinvocationPolicy": "Never",
            "mutations": [
                {"patchType": "JSONPatch", "jsonPatch": {"expression": '[JSONPatch{op: "test", path: "/a", value: 1}]'}}
            ],
        }
    },
    "MutatingAdmissionPolicyBinding": {"spec": {"policyName": "a"}},
    "CustomResourceDefinition": {
        "name": "as.example.org",
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"kind": "A", "plural": "as"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ],
        },
    },
    "PriorityClass": {"value": 1},
    "RuntimeClass": {"handler": "a"},
    "EndpointSlice": {"addressType": "IPv4", "endpoints": []},
    "DeviceClass": {"spec": {}},
    "ResourceClaim": {"spec": {"devices": {}}},
    "ResourceClaimTemplate": {"spec": {"spec": {"devices": {}}}},
    "ResourceSlice": {
        "spec": {
            "driver": "a.example.org",
            "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1},
            "allNodes": True,
        }
    },
    "FlowSchema": {
        "spec": {"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1000},
    },
    "PriorityLevelConfiguration": {"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}},
}
"""The least that the real server accepts as a dry run, by kind; a kind not named here needs a name only."""


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        real.Etcd(Path(folder) / "etcd") as etcd,
        real.ApiServer(etcd, Path(folder) / "kube") as server,
    ):
        data = generate(server)
    definitions = [
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True)}"
        for name, value in sorted(data["definitions"].items())
    ]
    resources = [json.dumps(resource) for resource in data["resources"]]
    parts = [
        f'"kubernetes": {json.dumps(data["kubernetes"])}',
        f'"kinds": {json.dumps(data["kinds"], sort_keys=True)}',
        '"resources": [\n' + ",\n".join(resources) + "\n]",
        '"definitions": {\n' + ",\n".join(definitions) + "\n}",
    ]
    OUT.write_text("{" + ",\n".join(parts) + "}\n")
    print(f"{OUT}: {len(definitions)} types, {len(resources)} resources, {OUT.stat().st_size} bytes")
    return 0


def generate(server: real.ApiServer) -> dict[str, Any]:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    server.must("POST", "/api/v1/namespaces/default/serviceaccounts", account)  # Pods are refused without one
    definitions: dict[str, Any] = {}
    for path, entry in server.must("GET", "/openapi/v3")["paths"].items():
        if path.startswith(("api/", "apis/")):
            definitions |= server.must("GET", entry["serverRelativeURL"]).get("components", {}).get("schemas", {})
    kinds = {
        f"{gvk['group']}/{gvk['version']}/{gvk['kind']}": _short(name)
        for name, schema in definitions.items()
        if len(gvks := schema.get("x-kubernetes-group-version-kind", [])) == 1
        for gvk in gvks
        if not gvk["kind"].endswith("List")
    }
    reached: set[str] = set()
    pending = list(kinds.values())
    stripped = {_short(name): _stripped(schema) for name, schema in definitions.items()}
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += _references(stripped[name])
    return {
        "kubernetes": server.must("GET", "/version")["gitVersion"],
        "kinds": kinds,
        "resources": list(_resources(server)),
        "definitions": {name: stripped[name] for name in reached},
    }


def _short(name: str) -> str:
    return name.removeprefix("io.k8s.").removeprefix("api.")


def _stripped(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without descriptions; a reference wrapped in `allOf`, to carry a default, is unwrapped.

    The default {} adds no field: it says that a struct is no pointer in Go, see `managers.skeleton`.
    """
    kept = {key: value for key, value in schema.items() if key in KEPT}
    whole = schema.get("allOf", [schema])[0]
    if "$ref" in whole:
        kept["$ref"] = _short(whole["$ref"].removeprefix(REF))
    if "oneOf" in schema:
        kept["type"] = "quantity" if schema["oneOf"][-1] == {"type": "number"} else "int-or-string"
        kept.pop("format", None)
    if "properties" in schema:
        kept["properties"] = {name: _stripped(value) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = _stripped(kept[key])
    return kept


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"]
    for value in schema.get("properties", {}).values():
        yield from _references(value)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _references(schema[key])


def _resources(server: real.ApiServer) -> Iterator[dict[str, Any]]:
    for root in ("/api", "/apis"):
        request = urllib.request.Request(
            server.url + root, headers={"Authorization": f"Bearer {server.token}", "Accept": DISCOVERY}
        )
        with urllib.request.urlopen(request, context=kube.unverified()) as response:
            groups = json.loads(response.read())["items"]
        for group in groups:
            for version in group["versions"]:
                for resource in version["resources"]:
                    yield _resource(server, group["metadata"].get("name", ""), version["version"], resource)


def _resource(server: real.ApiServer, group: str, version: str, found: Mapping[str, Any]) -> dict[str, Any]:
    kind, plural, namespaced = found["responseKind"]["kind"], found["resource"], found["scope"] == "Namespaced"
    resource = {
        "group": group,
        "version": version,
        "kind": kind,
        "plural": plural,
        "singular": found["singularResource"],
        "namespaced": namespaced,
        "short_names": found.get("shortNames", []),
        "categories": found.get("categories", []),
        "verbs": found["verbs"],
        "subresources": [
            {
                "name": sub["subresource"],
                "kind": sub["responseKind"]["kind"],
                "group": sub["responseKind"]["group"] or group,
                "version": sub["responseKind"]["version"] or version,
                "verbs": sub["verbs"],
            }
            for sub in found.get("subresources", [])
        ],
    }
    resource["has_generation"] = "get" in found["verbs"] and _has_generation(server, resource)
    return resource


def _has_generation(server: real.ApiServer, resource: Mapping[str, Any]) -> bool:
    """Whether a new object of the kind starts with a generation; the real server is asked by a dry run."""
    group, kind = resource["group"], resource["kind"]
    if kind in ("ComponentStatus", "CertificateSigningRequest"):  # read-only; needs a signed request
        return False
    api_version = f"{group}/{resource['version']}".lstrip("/")
    body = dict(MINIMAL.get(f"{group}/{kind}") or MINIMAL.get(kind) or {})
    obj = {"apiVersion": api_version, "kind": kind, "metadata": {"name": body.pop("name", "a")}, **body}
    namespace = "/namespaces/default" if resource["namespaced"] else ""
    path = f"/{'apis' if group else 'api'}/{api_version}{namespace}/{resource['plural']}?dryRun=All"
    status, answer = server.call("POST", path, obj)
    if not 200 <= status < 300:
        raise AssertionError(f"{kind}: the least object is refused: {status} {answer.get('message')}")
    return "generation" in answer["metadata"]


if __name__ == "__main__":
    sys.exit(main())
