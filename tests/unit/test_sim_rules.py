"""What the simulated server refuses of kinds beyond their schema, and how it counts generations."""

from typing import Any

import pytest
import yaml

from hub.openapi.schema import schemas
from hub.sim import fit, rules

DEPLOYMENT = schemas().of("apps", "v1", "Deployment")


def deployment(container: str = "{}", volume: str = "{}") -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(
        f"""
        metadata: {{name: web, generation: 3}}
        spec:
          selector: {{matchLabels: {{app: web}}}}
          template:
            metadata: {{labels: {{app: web}}}}
            spec: {{volumes: [{volume}], containers: [{container}]}}
        """
    )
    return made


C = "spec.template.spec.containers[0]"


@pytest.mark.parametrize(
    ("obj", "fields"),
    [
        pytest.param(deployment(), [], id="nothing wrong"),
        pytest.param(
            deployment("{readinessProbe: {httpGet: {port: 1}, tcpSocket: {port: 1}}}"),
            [f"{C}.readinessProbe.tcpSocket"],
            id="a probe of two types",
        ),
        pytest.param(deployment("{livenessProbe: {periodSeconds: 1}}"), [f"{C}.livenessProbe"], id="a probe of none"),
        pytest.param(
            deployment("{env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: y}}}]}"),
            [f"{C}.env[0].valueFrom"],
            id="a value from two places",
        ),
        pytest.param(
            deployment(volume="{name: a, emptyDir: {}, secret: {secretName: s}}"),
            ["spec.template.spec.volumes[0].secret"],
            id="a volume of two types",
        ),
        pytest.param(
            deployment("{ports: [{name: a, containerPort: 1}, {name: a, containerPort: 2}]}"),
            [f"{C}.ports[1].name"],
            id="two ports of one name",
        ),
    ],
)
def test_unions_have_one_member(obj: dict[str, Any], fields: list[str]) -> None:
    assert [field for field, _ in rules.problems(obj, group="apps", kind="Deployment")] == fields


@pytest.mark.parametrize(
    ("ports", "fields"),
    [
        pytest.param("[{name: a, port: 1}, {name: a, port: 2}]", ["spec.ports[1].name"], id="one name twice"),
        pytest.param("[{port: 1}, {name: b, port: 2}]", ["spec.ports[0].name"], id="no name beside others"),
        pytest.param("[]", ["spec.ports"], id="none"),
        pytest.param("[{port: 1}]", [], id="one without a name"),
    ],
)
def test_ports_of_a_service_are_told_apart(ports: str, fields: list[str]) -> None:
    obj = {"spec": {"ports": yaml.safe_load(ports)}}
    assert [field for field, _ in rules.problems(obj, group="", kind="Service")] == fields


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        pytest.param({}, [], id="nothing wrong"),
        pytest.param({"versions": [{"name": "v1"}]}, ["spec.versions"], id="no version is stored"),
        pytest.param({"versions": [{"storage": True}, {"storage": True}]}, ["spec.versions"], id="two are"),
        pytest.param({"names": {"plural": "as"}}, ["spec.names.kind"], id="no kind"),
        pytest.param({"group": "other.org"}, ["metadata.name"], id="another group"),
    ],
)
def test_a_definition_stores_one_version_and_is_named_after_its_kind(change: dict[str, Any], fields: list[str]) -> None:
    spec = {
        "group": "example.org",
        "names": {"plural": "as", "kind": "A"},
        "versions": [{"name": "v1", "storage": True}],
    }
    obj = {"metadata": {"name": "as.example.org"}, "spec": {**spec, **change}}
    problems = rules.problems(obj, group="apiextensions.k8s.io", kind="CustomResourceDefinition")
    assert [field for field, _ in problems] == fields


@pytest.mark.parametrize(
    ("kind", "change", "generation"),
    [
        pytest.param("Deployment", {"spec": {"replicas": 2}}, 4, id="spec"),
        pytest.param("Deployment", {"status": {"replicas": 2}}, 3, id="status"),
        pytest.param("Deployment", {"metadata": {"generation": 3, "labels": {"a": "b"}}}, 3, id="labels"),
        pytest.param("Deployment", {"metadata": {"generation": 3, "annotations": {"a": "b"}}}, 4, id="annotations"),
        pytest.param("DaemonSet", {"metadata": {"generation": 3, "annotations": {"a": "b"}}}, 3, id="of another kind"),
    ],
)
def test_a_generation_counts_changes_of_what_is_wanted(kind: str, change: dict[str, Any], generation: int) -> None:
    old = deployment()
    counted = rules.generation(old, {**old, **change}, group="apps", kind=kind, has_status=True)
    assert counted == generation


def test_a_secret_that_is_not_base64_is_unreadable() -> None:
    rules.check_readable({"data": {"a": "aGk="}}, group="", kind="Secret")
    with pytest.raises(rules.Unreadable, match="illegal base64 data at input byte 7"):
        rules.check_readable({"data": {"a": "hunter2!"}}, group="", kind="Secret")


def test_a_manifest_that_does_not_fit_is_told_by_path() -> None:
    obj = yaml.safe_load("spec: {x: 1, template: {spec: {containers: [{name: a, env: x, image: 1}]}}}")
    assert fit.misfits(obj, DEPLOYMENT) == [
        ".spec.x: field not declared in schema",
        '.spec.template.spec.containers[name="a"].env: expected list, got &{x}',
        '.spec.template.spec.containers[name="a"].image: expected string, got &value.valueUnstructured{Value:1}',
    ]


def test_what_cannot_be_read_is_told_as_go_does() -> None:
    node = schemas().of("", "v1", "ConfigMap")
    assert fit.unreadable({"kind": "ConfigMap", "data": {"a": 1}, "unknown": 1}, node) == [
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
    ]
