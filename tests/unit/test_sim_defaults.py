"""Defaults of the simulated server over several writes; each for itself is compared with the real server."""

from typing import Any

import pytest
import yaml

from hub.sim import defaults, normal


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        (0.5, "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("0.5Gi", "512Mi"),
        ("100", "100"),
        (2, "2"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("1500e3", "1500e3"),
        ("1000Ki", "1000Ki"),
        ("0.1m", "100u"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("0", "0"),
        ("5000M", "5G"),
        ("-1.50", "-1500m"),
        ("1.5Ki", "1536"),
        ("0.5Ki", "512"),
        ("nonsense", "nonsense"),
    ],
)
def test_quantities_are_stored_in_their_canonical_form(written: Any, stored: str) -> None:
    assert normal.quantity(written) == stored


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
"""


GIVEN: dict[str, Any] = {"ip": "10.0.0.9", "port": 30001}


def service(text: str = SERVICE, old: dict[str, Any] | None = None) -> dict[str, Any]:
    given = dict(GIVEN) if old is None else {}
    return defaults.defaulted(yaml.safe_load(text), old=old, allocate=lambda what: given.pop(what))


def test_a_service_keeps_what_was_allocated_to_it() -> None:
    first = service()
    assert first["spec"]["clusterIP"] == "10.0.0.9"
    assert first["spec"]["clusterIPs"] == ["10.0.0.9"]
    assert first["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30001}]
    assert service(old=first)["spec"] == first["spec"]


def test_a_service_gives_back_what_its_new_type_has_not() -> None:
    inside = {**service(), "spec": {**service()["spec"], "type": "ClusterIP"}}
    assert "nodePort" not in service(yaml.safe_dump(inside), old=service())["spec"]["ports"][0]


def test_only_what_decoding_fills_in_is_there_to_be_owned() -> None:
    spec = defaults.defaulted(yaml.safe_load(SERVICE))["spec"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec.keys().isdisjoint({"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"})
    assert "nodePort" not in spec["ports"][0]
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "a"}, "spec": {}}
    assert "finalizers" not in defaults.defaulted(claim)["metadata"]
    made = defaults.defaulted(claim, allocate=str)
    assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    assert "finalizers" not in defaults.defaulted(claim, old=made, allocate=str)["metadata"]


def test_defaulting_twice_is_defaulting_once() -> None:
    once = service()
    assert defaults.defaulted(once) == once


def test_what_is_not_built_in_comes_back_as_it_is() -> None:
    thing = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"a": None, "b": []}}
    assert defaults.defaulted(thing) == thing


@pytest.mark.parametrize("wrong", [None, 1, "text", [], [None], {"containers": {}}, {"containers": [1, {"ports": 2}]}])
@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"])
def test_nonsense_in_a_template_is_left_for_validation(kind: str, wrong: Any) -> None:
    obj = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a"}, "spec": {"template": {"spec": wrong}}}
    assert defaults.defaulted(obj)["kind"] == kind


@pytest.mark.parametrize("spec", [None, 1, "text", [], {"ports": 1}, {"ports": [1]}, {"type": 3}])
@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("v1", "Service"),
        ("v1", "Pod"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Namespace"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ],
)
def test_nonsense_in_a_spec_is_left_for_validation(version: str, kind: str, spec: Any) -> None:
    obj = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    assert defaults.defaulted(obj)["kind"] == kind


def test_a_daemon_set_counts_its_templates() -> None:
    text = """
    apiVersion: apps/v1
    kind: DaemonSet
    metadata: {name: a}
    spec:
      selector: {matchLabels: {a: b}}
      template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
    """
    name = "deprecated.daemonset.template.generation"
    first = defaults.defaulted(yaml.safe_load(text))
    again = defaults.defaulted(yaml.safe_load(text), old=first)
    other = defaults.defaulted(yaml.safe_load(text.replace("image: a", "image: c")), old=first)
    assert [obj["metadata"]["annotations"][name] for obj in (first, again, other)] == ["1", "1", "2"]
