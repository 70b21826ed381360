"""Whose an object is, and what of it becomes ours when it is adopted."""

from typing import Any

import pytest

from agent.apply import adopt
from agent.fields import ownership
from proto.slices import membership_labels

UPDATE = {"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}


def obj(*entries: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x", "resourceVersion": "7", "managedFields": list(entries), **metadata}}


def entry(manager: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"manager": manager, **UPDATE, "fieldsV1": fields, **more}


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        pytest.param({}, "", id="nobody"),
        pytest.param({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "", id="a chart that Helm did not install"),
        pytest.param({"annotations": {"meta.helm.sh/release-name": "web"}}, "", id="half of Helm's marker"),
        pytest.param({"labels": membership_labels("shop")}, "", id="one of our bundles"),
        pytest.param({"labels": {**membership_labels("shop"), "flotilla.dev/bundle": "b"}}, "ApplySet", id="a mix"),
        pytest.param({"ownerReferences": [{"kind": "Pod", "name": "p"}]}, "", id="an owner that is no controller"),
        pytest.param({"annotations": {"configmanagement.gke.io/managed": "disabled"}}, "", id="Config Sync let it go"),
        pytest.param({"labels": {"app.kubernetes.io/instance": "shop"}}, "", id="a common label"),
        pytest.param(
            {"labels": {"objectset.rio.cattle.io/hash": "h"}}, "object set h", id="Rancher, by the label alone"
        ),
    ],
)
def test_owners_are_told_by_their_markers(metadata: dict[str, Any], owner: str) -> None:
    found = adopt.owner(obj(entry("kubectl", {"f:data": {}}), **metadata))
    assert found.startswith(owner) if owner else not found


def test_what_predecessors_own_is_merged_into_one_entry_of_ours() -> None:
    live = obj(
        entry("kubectl-create", {"f:data": {"f:a": {}}}),
        entry("helm", {"f:data": {"f:b": {}}}, operation="Apply"),
        entry("kubectl-edit", {"f:data": {"f:c": {}}}),
        entry("kubectl", {"f:spec": {"f:replicas": {}}}, subresource="scale"),
        entry("kubectl", {"f:status": {"f:phase": {}}}),
    )
    patch = adopt.takeover(live, "v1")
    assert patch is not None
    test, merged = patch
    assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    ours, *others = merged["value"]
    assert (ours["manager"], ours["operation"], ours["apiVersion"]) == ("flotilla", "Apply", "v1")
    assert ours["fieldsV1"] == {"f:data": {"f:a": {}, "f:b": {}}}
    assert others == live["metadata"]["managedFields"][2:]


def test_another_version_comes_in_a_step_of_its_own_after_ours() -> None:
    own = {"manager": "flotilla", **UPDATE, "operation": "Apply", "fieldsV1": {"f:spec": {"f:x": {}}}}
    same, other = entry("helm", {"f:spec": {"f:y": {}}}), entry("helm", {"f:spec": {"f:old": {}}}, apiVersion="v1beta1")
    patch = adopt.takeover(obj(own, other, same), "v1")
    assert patch is not None
    assert [(one["apiVersion"], one["fieldsV1"]) for one in patch[1]["value"]] == [
        ("v1", {"f:spec": {"f:x": {}, "f:y": {}}}),
        ("v1beta1", {"f:spec": {"f:old": {}}}),
    ]
    patch = adopt.takeover(obj(own, other), "v1")
    assert patch is not None
    assert [(one["apiVersion"], one["fieldsV1"]) for one in patch[1]["value"]] == [
        ("v1beta1", {"f:spec": {"f:old": {}}})
    ]


def test_what_is_to_be_left_stays_with_whoever_has_it() -> None:
    live = obj(entry("kubectl", {"f:rules": {}, "f:aggregationRule": {}}))
    patch = adopt.takeover(live, "v1", leave=[("f:rules",)])
    assert patch is not None
    assert [one["fieldsV1"] for one in patch[1]["value"]] == [{"f:aggregationRule": {}}, {"f:rules": {}}]
    rest = obj(entry("kubectl", {"f:rules": {}}))
    assert adopt.takeover(rest, "v1", leave=[("f:rules",)]) is None


def test_what_kubectl_noted_goes_unless_git_says_it_itself() -> None:
    noted = {"annotations": {ownership.LAST_APPLIED: "{}"}}
    patch = adopt.takeover(obj(**noted), "v1")
    assert patch is not None
    assert patch[1:] == [
        {"op": "remove", "path": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration"}
    ]
    fields: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{ownership.LAST_APPLIED}": {}}}}
    own = {"manager": "flotilla", **UPDATE, "operation": "Apply", "fieldsV1": fields}
    assert adopt.takeover(obj(own, **noted), "v1") is None


def test_nothing_to_take_is_no_patch() -> None:
    assert adopt.takeover(obj(entry("kubectl-edit", {"f:data": {}})), "v1") is None
