"""What everything else relies on in an API server, the same on the simulated and on a real one."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from tests.kube import Kube, unverified
from tests.real import wait_until

APPLY = "application/apply-patch+yaml"


@pytest.fixture
def namespace(kube: Kube) -> str:
    name = f"api-{uuid4().hex[:8]}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def config(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def managed(obj: dict[str, Any]) -> list[tuple[str, str, str, Any]]:
    return [
        (entry["manager"], entry["operation"], entry.get("subresource", ""), entry["fieldsV1"])
        for entry in obj["metadata"]["managedFields"]
        if not entry["manager"].startswith("kube-controller")
    ]


@contextmanager
def watching(kube: Kube, path: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Events of a watch, which times out by itself."""
    request = urllib.request.Request(
        f"{kube.url}{path}{'&' if '?' in path else '?'}watch=true&timeoutSeconds=20",
        headers={"Authorization": f"Bearer {kube.token}"},
    )
    with urllib.request.urlopen(request, timeout=30, context=unverified()) as response:
        yield ((event["type"], event["object"]) for event in map(json.loads, response))


def test_what_a_creator_owns_has_the_defaults_and_not_the_structs(kube: Kube, namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }
    live = kube.must("POST", f"/api/v1/namespaces/{namespace}/services?fieldManager=c", service)
    port: dict[str, Any] = {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}
    assert managed(live) == [
        (
            "c",
            "Update",
            "",
            {
                "f:spec": {
                    "f:internalTrafficPolicy": {},
                    "f:ports": {".": {}, 'k:{"port":80,"protocol":"TCP"}': port},
                    "f:selector": {},
                    "f:sessionAffinity": {},
                    "f:type": {},
                }
            },
        )
    ]
    assert "generation" not in live["metadata"]


def test_quantities_conflict_raw_and_are_stored_in_their_canonical_form(kube: Kube, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"requests.cpu": "1000m"}},
    }
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    assert kube.must("POST", f"{path}?fieldManager=c", claim)["spec"]["hard"] == {"requests.cpu": "1"}
    status, answer = kube.call("PATCH", f"{path}/q?fieldManager=f", claim, content_type=APPLY)
    assert status == 409
    assert answer["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "c" using v1', "field": ".spec.hard.requests.cpu"}
    ]


def test_an_edit_that_changes_nothing_moves_nothing(kube: Kube, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    before = kube.must("POST", f"{path}?fieldManager=c", config(k="v"))
    assert kube.edit(f"{path}/a", {"data": {"k": "v"}}, manager="another") == before


def test_status_has_its_own_entry_and_moves_no_generation(kube: Kube, namespace: str) -> None:
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1},
    }
    kube.must("PATCH", f"{path}/b?fieldManager=f", budget, content_type=APPLY)
    live = kube.edit(f"{path}/b/status", {"status": {"desiredHealthy": 7}, "spec": {"minAvailable": 2}}, manager="s")
    assert live["spec"] == {"minAvailable": 1}
    assert live["metadata"]["generation"] == 1
    assert ("s", "Update", "status") in [entry[:3] for entry in managed(live)]
    live = kube.edit(f"{path}/b", {"spec": {"minAvailable": 2}}, manager="e")
    assert live["metadata"]["generation"] == 2


def test_an_object_with_a_finalizer_stays_until_it_is_gone(kube: Kube, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    kube.must("POST", path, config())
    kube.edit(f"{path}/a", {"metadata": {"finalizers": ["example.org/keep"]}})
    assert kube.must("DELETE", f"{path}/a")["metadata"]["deletionTimestamp"]
    assert kube.must("GET", f"{path}/a")["metadata"]["deletionGracePeriodSeconds"] == 0
    kube.edit(f"{path}/a", {"metadata": {"finalizers": None}})
    assert kube.call("GET", f"{path}/a")[0] == 404


def test_a_namespace_that_ends_takes_nothing_new_and_goes_when_it_is_empty(kube: Kube, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    kube.must("POST", path, config("kept"))
    kube.edit(f"{path}/kept", {"metadata": {"finalizers": ["example.org/keep"]}})
    assert kube.must("DELETE", f"/api/v1/namespaces/{namespace}")["status"]["phase"] == "Terminating"
    status, answer = kube.call("POST", path, config("new"))
    assert status == 403
    assert answer["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    kube.edit(f"{path}/kept", {"metadata": {"finalizers": None}})
    wait_until("the end", lambda: kube.call("GET", f"/api/v1/namespaces/{namespace}")[0] == 404)


def test_a_watch_goes_on_from_a_version_and_a_selector_makes_objects_come_and_go(kube: Kube, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    version = kube.must("POST", path, config("x"))["metadata"]["resourceVersion"]
    kube.edit(f"{path}/x", {"metadata": {"labels": {"team": "a"}}})
    kube.edit(f"{path}/x", {"data": {"k": "v"}})
    kube.edit(f"{path}/x", {"metadata": {"labels": {"team": "b"}}})
    kube.must("DELETE", f"{path}/x")
    with watching(kube, f"{path}?labelSelector=team%3Da&resourceVersion={version}") as events:
        seen = [next(events) for _ in range(3)]
    assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in seen]
    assert versions == sorted(versions)
    with watching(kube, f"{path}?fieldSelector=metadata.name%3Dx&resourceVersion={version}") as events:
        assert [next(events)[0] for _ in range(4)] == ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]


def test_a_watch_from_a_version_that_nobody_remembers_is_expired(kube: Kube, namespace: str) -> None:
    kube.must("POST", f"/api/v1/namespaces/{namespace}/configmaps", config())
    kube.restart()
    with watching(kube, f"/api/v1/namespaces/{namespace}/configmaps?resourceVersion=1") as events:
        kind, status = next(events)
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


DEFINITION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "color": {"type": "string", "default": "red"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        },
        "status": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
    },
}


def test_custom_resources_are_pruned_defaulted_and_checked(kube: Kube, namespace: str) -> None:
    group = f"g{uuid4().hex[:8]}.example.org"
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": DEFINITION}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"shops.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "shops", "singular": "shop", "kind": "Shop", "listKind": "ShopList"},
            "versions": [{**version, "subresources": {"status": {}}}],
        },
    }
    kube.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    path = f"/apis/{group}/v1/namespaces/{namespace}/shops"
    wait_until("the kind", lambda: kube.call("GET", path)[0] == 200)
    shop = {"apiVersion": f"{group}/v1", "kind": "Shop", "metadata": {"name": "s"}, "status": {"ok": True}}
    spec = {"size": 1, "free": {"a": [1]}, "unknown": True}
    live = wait_until("the first", lambda: kube.call("POST", path, {**shop, "spec": spec})[1])
    assert live["spec"] == {"size": 1, "color": "red", "free": {"a": [1]}}
    assert "status" not in live
    assert live["metadata"]["generation"] == 1
    status, answer = kube.call("POST", path, {**shop, "metadata": {"name": "t"}, "spec": {"size": 0}})
    assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.size")
    status, answer = kube.call("PATCH", f"{path}/s?fieldManager=f", {**shop, "spec": spec}, content_type=APPLY)
    assert status == 500
    assert ".spec.unknown: field not declared in schema" in answer["message"]
    kube.must("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/shops.{group}")
    wait_until("its end", lambda: kube.call("GET", path)[0] == 404)


def test_a_token_that_nobody_has_is_refused(kube: Kube) -> None:
    status, answer = kube.call("GET", "/api/v1/namespaces", token="nobody")
    assert (status, answer["reason"]) == (401, "Unauthorized")
