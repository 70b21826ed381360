"""Fields that cannot be changed: what the API server says, and who is deleted and created anew because of it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.apply.apply import Applied, apply_object
from agent.drift.drift import baseline
from agent.kube.api_status import Invalid
from agent.kube.cluster import Cluster
from agent.model import Entry, Result
from proto.errors import Transient
from proto.objects import blob_id, canonical, key_of
from proto.slices import BundlePolicy, with_membership
from tests.kube import Kube
from tests.real import wait_until

POLICY = BundlePolicy(name="shop", destructive_prune=True)
ANEW = {"flotilla.dev/recreate": "true"}
APPLY = "application/apply-patch+yaml"
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.anew.example.org"},
    "spec": {
        "group": "anew.example.org",
        "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {
                                        "type": "integer",
                                        "maximum": 10,
                                        "x-kubernetes-validations": [{"rule": "self == oldSelf"}],
                                    },
                                    "place": {
                                        "type": "string",
                                        "x-kubernetes-validations": [
                                            {"rule": "self == oldSelf", "message": "stays where it is"}
                                        ],
                                    },
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture(autouse=True)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"r-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")
    kube.call("DELETE", f"/apis/storage.k8s.io/v1/storageclasses/{name}")


@pytest.fixture
async def cluster(kube: Kube, kubeconfig: Path) -> AsyncIterator[Cluster]:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.anew.example.org"
    kube.must("PATCH", f"{path}?fieldManager=tests&force=true", DEFINITION, content_type=APPLY)
    wait_until("things", lambda: kube.call("GET", "/apis/anew.example.org/v1/things")[0] == 200)
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


def obj(api_version: str, kind: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "annotations": ANEW}, **rest}


TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {"containers": [{"name": "x", "image": "example.org/x:1"}]},
}
ONCE: dict[str, Any] = {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
SELECTED = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}
RBAC = "rbac.authorization.k8s.io/v1"
VIEW = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def _relabel(new: dict[str, Any]) -> None:
    new["spec"]["selector"]["matchLabels"]["app"] = new["spec"]["template"]["metadata"]["labels"]["app"] = "y"


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(new: dict[str, Any]) -> None:
        for name in path[:-1]:
            new = new[name]
        new[path[-1]] = to

    return change


RULES = pytest.mark.unsimulated("transition rules of definitions")
JOB = obj("batch/v1", "Job", spec={"template": ONCE})
IMAGE = _set("spec", "template", "spec", "containers", to=[{"name": "x", "image": "example.org/x:2"}])
SERVICE = obj("v1", "Service", spec={"clusterIP": "10.0.0.201", "ports": [{"port": 80}]})
CHANGES = [
    pytest.param(JOB, IMAGE, id="Job template"),
    pytest.param(SERVICE, _set("spec", "clusterIP", to="10.0.0.202"), id="Service clusterIP"),
    pytest.param(
        obj("apps/v1", "StatefulSet", spec={**SELECTED, "serviceName": "x"}),
        _set("spec", "serviceName", to="y"),
        id="StatefulSet spec",
    ),
    pytest.param(obj("apps/v1", "Deployment", spec=SELECTED), _relabel, id="Deployment selector"),
    pytest.param(obj("apps/v1", "DaemonSet", spec=SELECTED), _relabel, id="DaemonSet selector"),
    pytest.param(
        obj(RBAC, "RoleBinding", roleRef=VIEW), _set("roleRef", to={**VIEW, "name": "edit"}), id="RoleBinding roleRef"
    ),
    pytest.param(
        obj("v1", "PersistentVolumeClaim", spec=CLAIM), _set("spec", "accessModes", to=["ReadOnlyMany"]), id="claim"
    ),
    pytest.param(
        obj("v1", "ConfigMap", immutable=True, data={"a": "1"}), _set("data", "a", to="2"), id="immutable ConfigMap"
    ),
    pytest.param(
        obj("v1", "Secret", immutable=True, data={"a": "YQ=="}), _set("data", "a", to="Yg=="), id="immutable Secret"
    ),
    pytest.param(
        obj("v1", "Secret", type="Opaque", data={"a": "YQ=="}), _set("type", to="example.org/x"), id="Secret type"
    ),
    pytest.param(
        obj("storage.k8s.io/v1", "StorageClass", provisioner="example.org/a", parameters={"a": "1"}),
        _set("parameters", "a", to="2"),
        id="StorageClass parameters",
    ),
    pytest.param(
        obj("anew.example.org/v1", "Thing", spec={"size": 1}),
        _set("spec", "size", to=2),
        id="a transition rule",
        marks=RULES,
    ),
    pytest.param(
        obj("anew.example.org/v1", "Thing", spec={"place": "here"}),
        _set("spec", "place", to="there"),
        id="a transition rule with words of its own",
        marks=RULES,
    ),
]


class Place:
    """One object in the cluster, applied again and again."""

    def __init__(self, cluster: Cluster, kube: Kube, namespace: str) -> None:
        self.cluster, self.kube, self.namespace = cluster, kube, namespace
        self.entry: Entry | None = None

    def there(self, manifest: dict[str, Any]) -> dict[str, Any]:
        placed = deepcopy(manifest)
        if placed["kind"] == "StorageClass":
            placed["metadata"]["name"] = self.namespace
        else:
            placed["metadata"]["namespace"] = self.namespace
        return placed

    async def apply(self, manifest: dict[str, Any], *, policy: BundlePolicy = POLICY) -> Applied:
        placed = self.there(manifest)
        data = canonical(with_membership(placed, "shop"))
        entry = self.entry or Entry(key=key_of(placed), bundle="shop", api_version=placed["apiVersion"])
        done = await apply_object(self.cluster, entry, data, policy=policy)
        entry.baseline, entry.blob, self.entry = baseline(done.live), blob_id(data), entry
        return done

    async def live(self) -> dict[str, Any]:
        assert self.entry is not None
        resource = await self.cluster.resource(self.entry.api_version, self.entry.key.kind)
        return await self.cluster.get(resource, self.entry.key)


@pytest.fixture
def place(cluster: Cluster, kube: Kube, namespace: str) -> Place:
    return Place(cluster, kube, namespace)


def changed(manifest: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    new = deepcopy(manifest)
    change(new)
    return new


async def settle(place: Place, manifest: dict[str, Any]) -> Applied:
    """Apply until what is being deleted is gone."""
    while True:
        with suppress(Transient):
            return await place.apply(manifest)
        await anyio.sleep(0.05)


@pytest.mark.parametrize(("manifest", "change"), CHANGES)
async def test_what_cannot_be_changed_is_deleted_and_created_anew_where_that_is_wanted(
    place: Place, manifest: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    first = await place.apply(manifest)
    new = changed(manifest, change)
    bare = {**new, "metadata": {"name": "x"}}
    with pytest.raises(Invalid) as refused:
        await place.apply(bare)
    if refused.value.immutable:
        assert 'flotilla.dev/recreate: "true"' in refused.value.remedy
    assert (await place.live())["metadata"]["uid"] == first.live["metadata"]["uid"]
    done = await settle(place, new)
    assert done.result in (Result.RECREATED, Result.CREATED)
    assert done.live["metadata"]["uid"] != first.live["metadata"]["uid"]
    assert (await place.apply(new)).result in (Result.UNCHANGED, Result.CONFIGURED)


INVALID = [
    pytest.param(JOB, _set("spec", "template", "spec", "restartPolicy", to="Often"), id="no such value"),
    pytest.param(
        obj("anew.example.org/v1", "Thing", spec={"size": 1}), _set("spec", "size", to=11), id="not valid anyway"
    ),
    pytest.param(
        obj("apps/v1", "StatefulSet", spec={**SELECTED, "serviceName": "x"}),
        lambda new: new["spec"].update(serviceName="y", selector={"matchLabels": {"app": "other"}}),
        id="cannot be changed so, nor made so",
    ),
]


@pytest.mark.parametrize(("manifest", "change"), INVALID)
async def test_what_is_not_valid_anyway_never_costs_the_old_object(
    place: Place, manifest: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    first = await place.apply(manifest)
    with pytest.raises(Invalid):
        await place.apply(changed(manifest, change))
    live = await place.live()
    assert live["metadata"]["uid"] == first.live["metadata"]["uid"]
    assert "deletionTimestamp" not in live["metadata"]


async def test_a_finalizer_holds_a_recreation_up_and_is_named(place: Place) -> None:
    manifest = obj("v1", "ConfigMap", immutable=True, data={"a": "1"})
    manifest["metadata"]["finalizers"] = ["example.org/keep"]
    await place.apply(manifest)
    new = changed(manifest, _set("data", "a", to="2"))
    for _ in range(2):
        with pytest.raises(Transient, match=r"is being deleted.* example\.org/keep; it is made anew once it is gone"):
            await place.apply(new)
    path = f"/api/v1/namespaces/{place.namespace}/configmaps/x"
    place.kube.edit(path, {"metadata": {"finalizers": None}})
    assert (await place.apply(new)).live["data"] == {"a": "2"}
    place.kube.edit(path, {"metadata": {"finalizers": None}})  # or the namespace would stay, and what is in it


async def test_a_claim_is_not_deleted_without_destructive_prune(place: Place) -> None:
    claim = obj("v1", "PersistentVolumeClaim", spec=CLAIM)
    careful = BundlePolicy(name="shop")
    await place.apply(claim)
    with pytest.raises(Invalid, match="set destructivePrune on bundle shop"):
        await place.apply(changed(claim, _set("spec", "accessModes", to=["ReadOnlyMany"])), policy=careful)
    assert "deletionTimestamp" not in (await place.live())["metadata"]


async def test_a_hook_runs_again_with_new_content_and_not_without(place: Place) -> None:
    job = deepcopy(JOB)
    job["metadata"]["annotations"] = {"helm.sh/hook": "pre-upgrade"}
    first = await place.apply(job)
    assert (await place.apply(job)).live["metadata"]["uid"] == first.live["metadata"]["uid"]
    done = await settle(place, changed(job, _set("metadata", "labels", to={"chart": "2"})))
    assert done.live["metadata"]["uid"] != first.live["metadata"]["uid"]
