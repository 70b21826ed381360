"""What the simulated server knows of kinds is the real one's OpenAPI; what it refuses is what that server refuses."""

from typing import Any

import pytest
import yaml

from hub.openapi.schema import ANY, UNTYPED, Node, schemas
from hub.sim import validation


def node(path: str) -> Node:
    """`apps/v1/Deployment:spec.template`; `[]` is a list's items."""
    kind, _, fields = path.partition(":")
    group, version, name = ("", *kind.split("/"))[-3:]
    found: Node | None = schemas().of(group, version, name)
    for field in filter(None, fields.split(".")):
        assert found is not None
        found = found.element if field == "[]" else found.field(field)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "list_type", "keys"),
    [
        pytest.param("apps/v1/Deployment:spec.template.spec.containers", "map", ("name",), id="containers"),
        pytest.param(
            "apps/v1/Deployment:spec.template.spec.containers.[].ports",
            "map",
            ("containerPort", "protocol"),
            id="container ports",
        ),
        pytest.param("v1/Service:spec.ports", "map", ("port", "protocol"), id="service ports"),
        pytest.param("v1/Pod:metadata.finalizers", "set", (), id="finalizers"),
        pytest.param("v1/Pod:metadata.ownerReferences", "map", ("uid",), id="owners"),
        pytest.param("v1/Pod:spec.containers.[].command", "atomic", (), id="command"),
        pytest.param("networking.k8s.io/v1/Ingress:spec.rules", "atomic", (), id="rules"),
        pytest.param("v1/Pod:spec.tolerations", "atomic", (), id="tolerations"),
    ],
)
def test_lists_merge_as_the_real_server_says(path: str, list_type: str, keys: tuple[str, ...]) -> None:
    found = node(path)
    assert (found.kind, found.list_type, found.keys) == ("list", list_type, keys)
    assert found.atomic == (list_type == "atomic")


def test_defaulted_keys_strategies_and_atomic_maps_are_known() -> None:
    assert node("apps/v1/Deployment:spec.template.spec.containers.[].ports.[].protocol").default == "TCP"
    assert node("v1/Service:spec.selector").atomic
    assert not node("v1/ConfigMap:data").atomic
    assert node("apps/v1/Deployment:spec.selector").atomic
    assert node("apps/v1/Deployment:spec.strategy").patch_strategy == "retainKeys"
    assert node("v1/Pod:spec.volumes").patch_strategy == "merge,retainKeys"
    ports = node("v1/Pod:spec.containers.[].ports")
    assert (ports.patch_strategy, ports.merge_key) == ("merge", "containerPort")


def test_scalars_say_what_they_take() -> None:
    assert node("v1/Service:spec.ports.[].targetPort").scalar == "int-or-string"
    assert node("v1/Pod:spec.containers.[].resources.limits.cpu").scalar == "quantity"
    assert node("apps/v1/Deployment:spec.replicas").scalar == "integer"


def test_a_type_that_contains_itself_can_be_followed_for_ever() -> None:
    schema = node("apiextensions.k8s.io/v1/CustomResourceDefinition:spec.versions.[].schema.openAPIV3Schema")
    deep = schema
    for _ in range(5):
        below = deep.field("properties")
        assert below is not None
        inner = below.field("any")
        assert inner is not None
        deep = inner
    assert deep.field("x-kubernetes-list-type") is not None
    assert deep.field("default") == ANY


def test_every_kind_in_discovery_has_a_type() -> None:
    for resource in schemas().resources():
        assert schemas().of(resource.group, resource.version, resource.kind).field("metadata") is not None


@pytest.mark.parametrize(
    ("kind", "has_generation"),
    [
        ("Deployment", True),
        ("Pod", True),
        ("Ingress", True),
        ("NetworkPolicy", True),
        ("Service", False),
        ("ConfigMap", False),
        ("Secret", False),
        ("HorizontalPodAutoscaler", False),
        ("Role", False),
        ("PersistentVolumeClaim", False),
    ],
)
def test_generation_is_known_by_kind(kind: str, has_generation: bool) -> None:
    found = {resource.has_generation for resource in schemas().resources() if resource.kind == kind}
    assert found == {has_generation}


def test_discovery_names_scale_and_status() -> None:
    deployments = next(r for r in schemas().resources() if r.plural == "deployments")
    assert deployments.short_names == ("deploy",)
    assert deployments.api_version == "apps/v1"
    scale = deployments.subresource("scale")
    assert scale is not None
    assert (scale.group, scale.version, scale.kind) == ("autoscaling", "v1", "Scale")
    assert deployments.subresource("status") is not None
    assert deployments.subresource("log") is None


WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: web, resources: {limits: {cpu: 100m}}, ports: [{containerPort: 80}]}
"""


def web(path: str = "", value: Any = None) -> dict[str, Any]:
    obj: dict[str, Any] = yaml.safe_load(WEB)
    at: Any = obj
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        at = at[step]
    if path:
        at[last] = value
    return obj


def test_a_good_object_has_nothing_unknown_or_invalid() -> None:
    assert validation.unknown_fields(web(), node("apps/v1/Deployment")) == []
    assert validation.invalid(web(), node("apps/v1/Deployment")) == []


def test_unknown_fields_are_named_by_path_and_pruned() -> None:
    container = "spec.template.spec.containers.0"
    obj = web(f"{container}.imagee", "web")
    assert validation.unknown_fields(obj, node("apps/v1/Deployment")) == ["spec.template.spec.containers[0].imagee"]
    assert validation.pruned(obj, node("apps/v1/Deployment")) == web()
    assert validation.unknown_fields(web("metadata.annotations", {"a/b": "c"}), node("apps/v1/Deployment")) == []


CONTAINER = "spec.template.spec.containers.0"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("spec.replicas", "2", "must be of type integer", id="type"),
        pytest.param("spec.replicas", True, "must be of type integer", id="a boolean is no integer"),
        pytest.param("spec.replicas", -1, "greater than or equal to 0", id="negative"),
        pytest.param(f"{CONTAINER}.ports.0.containerPort", 70000, "between 1 and 65535", id="port"),
        pytest.param(f"{CONTAINER}.ports.0.protocol", "tcp", 'supported values: "SCTP", "TCP", "UDP"', id="enum"),
        pytest.param(f"{CONTAINER}.resources.limits.cpu", "much", "must be of type quantity", id="quantity"),
        pytest.param(f"{CONTAINER}.name", None, "Required value", id="required"),
        pytest.param(
            f"{CONTAINER}.ports",
            [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}],
            "Duplicate value",
            id="twice, once by its default",
        ),
        pytest.param("spec.template.spec.containers", [], "at least 1", id="no container"),
        pytest.param("metadata.name", "Web", "RFC 1123 subdomain", id="name"),
    ],
)
def test_what_the_real_server_refuses_is_refused(path: str, value: Any, message: str) -> None:
    [(where, why)] = validation.invalid(web(path, value), node("apps/v1/Deployment"))
    assert where.replace("[", ".").replace("]", "").startswith(path)
    assert message in why


def test_names_follow_the_rule_of_their_kind() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a.b"}}
    assert validation.invalid(service, node("v1/Service"))
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:a.B"}}
    assert validation.invalid(role, node("rbac.authorization.k8s.io/v1/ClusterRole")) == []


def test_immutable_fields_are_named_when_they_change() -> None:
    moved = web("spec.selector", {"matchLabels": {"app": "other"}})
    told = 'Invalid value: {"matchLabels":{"app":"other"}}: field is immutable'
    assert validation.changed_immutables(web(), moved) == [("spec.selector", told)]
    assert validation.changed_immutables(web(), web("spec.replicas", 5)) == []
    before = {"apiVersion": "v1", "kind": "Service", "spec": {"type": "ExternalName"}}
    after = {"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "10.0.0.1"}}
    assert validation.changed_immutables(before, after) == []
    given = {"apiVersion": "v1", "kind": "Service", "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"}}
    assert validation.changed_immutables(given, before) == []
    [(path, _)] = validation.changed_immutables(given, {**given, "spec": {"clusterIP": "10.0.0.2"}})
    assert path == "spec.clusterIPs[0]"
    state = {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"serviceName": "a", "podManagementPolicy": "b"}}
    [(path, words)] = validation.changed_immutables(state, {**state, "spec": {}})
    assert (path, words[:10]) == ("spec", "Forbidden:")
    sealed = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": True, "data": {"a": "YQ=="}}
    assert validation.changed_immutables(sealed, {**sealed, "data": {}}) == [
        ("data", "Forbidden: field is immutable when `immutable` is set")
    ]


CRD = """
type: object
required: [spec]
properties:
  spec:
    type: object
    required: [size]
    properties:
      size: {type: integer, minimum: 1, maximum: 9}
      mode: {type: string, enum: [fast, slow], default: slow}
      tls: {type: object, default: {}, properties: {enabled: {type: boolean, default: true}}}
      port: {x-kubernetes-int-or-string: true}
      labels: {type: object, additionalProperties: {type: string}}
      routes:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [host]
        items:
          type: object
          properties: {host: {type: string, pattern: '^[a-z]+$'}, weight: {type: integer, default: 1}}
      free: {type: object, x-kubernetes-preserve-unknown-fields: true}
      pod: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
"""


@pytest.fixture
def custom() -> Node:
    return schemas().from_crd(yaml.safe_load(CRD))


def thing(spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "example.org/v1",
        "kind": "Thing",
        "metadata": {"name": "a", "labels": {"b": "c"}},
        "spec": spec,
    }


def test_a_custom_resource_is_pruned_and_defaulted_by_its_schema(custom: Node) -> None:
    obj = thing({"size": 2, "no": 1, "routes": [{"host": "a", "x": 1}], "free": {"any": [{"thing": 1}]}})
    kept = validation.pruned(obj, custom)
    assert kept["metadata"] == obj["metadata"]
    assert kept["spec"] == {"size": 2, "routes": [{"host": "a"}], "free": {"any": [{"thing": 1}]}}
    assert validation.unknown_fields(obj, custom) == ["spec.no", "spec.routes[0].x"]
    assert validation.with_defaults(kept, custom)["spec"] == {
        "size": 2,
        "mode": "slow",
        "tls": {"enabled": True},
        "routes": [{"host": "a", "weight": 1}],
        "free": {"any": [{"thing": 1}]},
    }


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        pytest.param({"size": 0}, "spec.size", id="minimum"),
        pytest.param({"size": 1.5}, "spec.size", id="fraction"),
        pytest.param({}, "spec.size", id="required"),
        pytest.param({"size": 1, "mode": "other"}, "spec.mode", id="enum"),
        pytest.param({"size": 1, "port": []}, "spec.port", id="int or string"),
        pytest.param({"size": 1, "labels": {"a": 1}}, "spec.labels.a", id="map of strings"),
        pytest.param({"size": 1, "routes": [{"host": "A"}]}, "spec.routes[0].host", id="pattern"),
        pytest.param({"size": 1, "routes": [{"host": "a"}, {"host": "a"}]}, "spec.routes[1]", id="duplicate"),
    ],
)
def test_a_custom_resource_is_checked_by_its_schema(custom: Node, spec: Any, path: str) -> None:
    assert [where for where, _ in validation.invalid(thing(spec), custom)] == [path]


def test_what_has_no_schema_is_untyped(custom: Node) -> None:
    spec = custom.field("spec")
    assert spec is not None
    free = spec.field("free")
    assert free is not None
    assert free.field("anything") == UNTYPED
    assert spec.field("nothing") is None
