"""The example of a guard ConfigMap is one that the agent understands, and says what its comments say."""

from pathlib import Path

import yaml

from agent.owner import limits
from proto.objects import ObjectKey, key_of

EXAMPLE = Path(__file__).parents[2] / "deploy/agent/guard.example.yaml"


def test_the_example_of_a_guard_is_understood_and_obeyed() -> None:
    example = yaml.safe_load(EXAMPLE.read_text())
    assert key_of(example) == limits.KEY
    found, problems = limits.read(example["data"])
    assert problems == ()
    assert (found.closed, found.max_pruned_share) == ("", 0.3)
    allowed = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web")
    assert found.refuses(allowed) == ""
    for refused in (
        ObjectKey(group="rbac.authorization.k8s.io", kind="ClusterRoleBinding", namespace="", name="x"),
        ObjectKey(group="apps", kind="Deployment", namespace="kube-system", name="web"),
        ObjectKey(group="", kind="Namespace", namespace="", name="monitoring"),
    ):
        assert found.refuses(refused)


def test_no_installation_brings_a_guard_along() -> None:
    for kustomization in EXAMPLE.parent.rglob("kustomization.yaml"):
        assert "guard" not in kustomization.read_text()
