"""Which changes of objects are told as risky before they roll out."""

from typing import Any

import pytest

from hub.cli import risks
from hub.cli.risks import Risk
from hub.repo import yaml_reader
from proto.objects import key_of


def parsed(text: str) -> dict[str, Any]:
    (document,) = yaml_reader.documents(text.encode(), where="x")
    assert isinstance(document.value, dict)
    return document.value


def judged(before: str, after: str = "", *, prune: bool = True, destructive: bool = False) -> risks.Step:
    old, new = (parsed(text) if text else None for text in (before, after))
    return risks.judge(key_of(old or new or {}), old, new, prune=prune, destructive=destructive)


STATEFUL = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec: {replicas: 1, serviceName: db, minReadySeconds: 1}
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: ClusterIP}\n"
SETTINGS = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\nimmutable: true\ndata: {a: b}\n"
BINDING = """
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: a}
roleRef: {name: view}
subjects: []
"""
JOB = (
    'apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, annotations: {note: a}}\nspec: {template: {spec: {a: "1"}}}\n'
)
CLASS = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: fast}\nprovisioner: a\n"
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: a, resources: {requests: {storage: 1Gi}}}
"""
WIDE_CLAIM = Risk(kind="wide", why="a volume's claim")
DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: a.example.org}
spec: {versions: [{name: v1, served: true}, {name: v2, served: true}]}
"""


@pytest.mark.parametrize(
    ("before", "old", "new", "fields"),
    [
        pytest.param(STATEFUL, "serviceName: db", "serviceName: other", "spec.serviceName", id="StatefulSet"),
        pytest.param(STATEFUL, "minReadySeconds", "volumeClaimTemplates", "spec.volumeClaimTemplates", id="its claims"),
        pytest.param(SERVICE, "type: ClusterIP", "clusterIP: None", "spec.clusterIP", id="a Service made headless"),
        pytest.param(SETTINGS, "a: b", "a: c", "data", id="an immutable ConfigMap"),
        pytest.param(SETTINGS, "immutable: true", "immutable: false", "immutable", id="made mutable"),
        pytest.param(BINDING, "name: view", "name: edit", "roleRef", id="RoleBinding"),
        pytest.param(JOB, 'a: "1"', 'a: "2"', "spec.template", id="Job"),
        pytest.param(CLASS, "provisioner: a", "provisioner: b", "provisioner", id="StorageClass"),
    ],
)
def test_a_field_that_nobody_may_change_is_refused(before: str, old: str, new: str, fields: str) -> None:
    step = judged(before, before.replace(old, new))
    assert step.fate == "changed"
    assert any(risk.kind == "refused" and risk.why.startswith(fields) for risk in step.risks)


@pytest.mark.parametrize(
    ("before", "old", "new"),
    [
        pytest.param(STATEFUL, "replicas: 1", "replicas: 2", id="StatefulSet's replicas"),
        pytest.param(SERVICE, "type: ClusterIP", "type: ExternalName, clusterIP: ''", id="gives its address back"),
        pytest.param(SERVICE.replace("type", "clusterIP: 10.0.0.1, type"), "clusterIP: 10.0.0.1, ", "", id="left out"),
        pytest.param(SETTINGS.replace("immutable: true\n", ""), "a: b", "a: c", id="a mutable ConfigMap"),
        pytest.param(SETTINGS, "name: settings", "name: settings, labels: {a: b}", id="labels of an immutable one"),
        pytest.param(BINDING, "subjects: []", "subjects: [{name: a}]", id="RoleBinding's subjects"),
        pytest.param(
            JOB.replace("note: a", "helm.sh/hook: pre-upgrade"),
            'a: "1"',
            'a: "2"',
            id="a hook's Job",
        ),
    ],
)
def test_what_may_change_is_no_risk(before: str, old: str, new: str) -> None:
    assert judged(before, before.replace(old, new)).risks == ()


def test_an_object_that_may_be_made_anew_is_destroyed_instead() -> None:
    job = JOB.replace("note: a", 'flotilla.dev/recreate: "true"')
    (risk,) = judged(job, job.replace('a: "1"', 'a: "2"')).risks
    assert risk == Risk(kind="destroys", why="spec.template cannot be changed: deleted and created anew")


def test_a_larger_claim_is_only_wide_and_another_class_is_refused() -> None:
    assert judged(CLAIM, CLAIM.replace("1Gi", "2Gi")).risks == (WIDE_CLAIM,)
    refused = Risk(kind="refused", why="spec.storageClassName cannot be changed")
    assert judged(CLAIM, CLAIM.replace("storageClassName: a", "storageClassName: b")).risks == (refused, WIDE_CLAIM)


def test_a_version_that_a_definition_no_longer_serves_is_named() -> None:
    (risk,) = judged(DEFINITION, DEFINITION.replace("{name: v1, served: true}, ", "")).risks
    assert risk.kind == "wide"
    assert risk.why.startswith("no longer serves v1")


@pytest.mark.parametrize(
    ("text", "policy", "fate", "kind"),
    [
        pytest.param(SERVICE, {}, "pruned", "pruned", id="plain"),
        pytest.param(SERVICE, {"prune": False}, "let go", "let go", id="prune is off"),
        pytest.param(CLAIM, {}, "let go", "let go", id="a claim"),
        pytest.param(CLAIM, {"destructive": True}, "pruned", "destroys", id="a claim, destructively"),
        pytest.param(CLAIM, {"destructive": True, "prune": False}, "let go", "let go", id="prune off goes first"),
        pytest.param(DEFINITION, {"destructive": True}, "pruned", "destroys", id="a definition"),
    ],
)
def test_what_becomes_of_a_removed_object(text: str, policy: dict[str, bool], fate: str, kind: str) -> None:
    step = judged(text, prune=policy.get("prune", True), destructive=policy.get("destructive", False))
    assert (step.fate, [risk.kind for risk in step.risks]) == (fate, [kind])


def test_no_risk_tells_a_value() -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nimmutable: true\ndata: {k: aHVudGVy}\n"
    (risk,) = judged(secret, secret.replace("aHVudGVy", "aHVudGVyMg==")).risks
    assert risk == Risk(kind="refused", why="data cannot be changed")
