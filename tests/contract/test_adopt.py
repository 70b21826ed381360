"""Objects that exist already: whose they are, what becomes of what others set, and what stays as it is."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.apply.apply import Applied, apply_object
from agent.drift.drift import baseline
from agent.fields.ownership import own_entry
from agent.kube.api_status import Conflict
from agent.kube.cluster import Cluster
from agent.model import Entry, Result
from proto.errors import Refused
from proto.objects import canonical, key_of
from proto.slices import BundlePolicy, with_membership
from tests.fakes import Killed
from tests.kube import Kube
from tests.real import wait_until

POLICY = BundlePolicy(name="shop")
APPLY = "application/apply-patch+yaml"
WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.adopt.example.org"},
    "spec": {
        "group": "adopt.example.org",
        "scope": "Namespaced",
        "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList"},
        "versions": [
            {
                "name": version,
                "served": True,
                "storage": version == "v1",
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
            for version in ("v1", "v2")
        ],
    },
}


@pytest.fixture(autouse=True)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"a-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def cluster(kube: Kube, kubeconfig: Path) -> AsyncIterator[Cluster]:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.adopt.example.org"
    kube.must("PATCH", f"{path}?fieldManager=tests&force=true", WIDGETS, content_type=APPLY)
    wait_until("gadgets", lambda: kube.call("GET", "/apis/adopt.example.org/v2/gadgets")[0] == 200)
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


def config(namespace: str, name: str = "settings", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def gadget(namespace: str, version: str = "v1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"adopt.example.org/{version}",
        "kind": "Gadget",
        "metadata": {"name": "g", "namespace": namespace},
        "spec": spec,
    }


def role(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, **more}


def path_of(obj: Mapping[str, Any]) -> str:
    plural = {"ConfigMap": "configmaps", "Secret": "secrets", "Gadget": "gadgets", "ClusterRole": "clusterroles"}
    plural["PersistentVolumeClaim"] = "persistentvolumeclaims"
    group = obj["apiVersion"]
    base = f"/apis/{group}" if "/" in group else f"/api/{group}"
    inside = f"/namespaces/{obj['metadata']['namespace']}" if "namespace" in obj["metadata"] else ""
    return f"{base}{inside}/{plural[obj['kind']]}"


def made_by(kube: Kube, manager: str, obj: Mapping[str, Any], *, operation: str = "Update") -> Any:
    """Somebody else creates an object, or applies to it."""
    if operation == "Update":
        return kube.must("POST", f"{path_of(obj)}?fieldManager={manager}", obj)
    path = f"{path_of(obj)}/{obj['metadata']['name']}?fieldManager={manager}&force=true"
    return kube.must("PATCH", path, obj, content_type=APPLY)


def live(kube: Kube, obj: Mapping[str, Any]) -> Any:
    return kube.must("GET", f"{path_of(obj)}/{obj['metadata']['name']}")


async def adopt(cluster: Cluster, obj: dict[str, Any], policy: BundlePolicy = POLICY) -> Applied:
    """First contact: the inventory knows nothing of the object."""
    entry = Entry(key=key_of(obj), bundle="shop", api_version=obj["apiVersion"])
    return await apply_object(cluster, entry, canonical(with_membership(obj, "shop")), policy=policy)


OBJECTS = [
    pytest.param(lambda namespace: config(namespace, color="red"), id="built-in"),
    pytest.param(lambda namespace: gadget(namespace, color="red"), id="custom"),
    pytest.param(lambda namespace: role(f"r-{namespace}", rules=[]), id="cluster-scoped"),
]


@pytest.mark.parametrize("make", OBJECTS)
async def test_first_contact_creates_in_one_request(cluster: Cluster, namespace: str, make: Any) -> None:
    wanted = make(namespace)
    await cluster.resource(wanted["apiVersion"], wanted["kind"])
    before = sum(cluster.requests.values())
    assert (await adopt(cluster, wanted)).result is Result.CREATED
    assert sum(cluster.requests.values()) == before + 1
    assert (await adopt(cluster, wanted)).result is Result.UNCHANGED


@pytest.mark.parametrize("make", OBJECTS)
async def test_nothing_is_taken_silently_identical_content_included(
    cluster: Cluster, kube: Kube, namespace: str, make: Any
) -> None:
    wanted = make(namespace)
    before = made_by(kube, "somebody", with_membership(wanted, "shop"))
    with pytest.raises(Refused, match="exists already and bundle shop has adopt: never"):
        await adopt(cluster, wanted, BundlePolicy(name="shop", adopt="never"))
    assert live(kube, wanted) == before
    done = await adopt(cluster, wanted)
    assert (done.result, done.note) == (Result.ADOPTED, "adopted from somebody")


OWNED = [
    pytest.param(
        {
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"},
        },
        "Helm release shop/web",
        id="Helm",
    ),
    pytest.param(
        {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
        "Flux Kustomization flux/apps",
        id="Flux, Kustomization",
    ),
    pytest.param({"labels": {"helm.toolkit.fluxcd.io/name": "web"}}, "Flux HelmRelease web", id="Flux, HelmRelease"),
    pytest.param(
        {"annotations": {"argocd.argoproj.io/tracking-id": "shop:/ConfigMap:x/settings"}},
        "Argo CD application shop",
        id="Argo CD, annotation",
    ),
    pytest.param({"labels": {"argocd.argoproj.io/instance": "shop"}}, "Argo CD application shop", id="Argo CD, label"),
    pytest.param(
        {"labels": {"applyset.kubernetes.io/part-of": "applyset-other-v1"}},
        "ApplySet applyset-other-v1",
        id="another ApplySet",
    ),
    pytest.param({"annotations": {"configmanagement.gke.io/managed": "enabled"}}, "Config Sync", id="Config Sync"),
    pytest.param({"annotations": {"config.k8s.io/owning-inventory": "i-1"}}, "inventory i-1", id="kpt"),
    pytest.param({"annotations": {"objectset.rio.cattle.io/id": "shop"}}, "object set shop", id="Rancher Fleet"),
    pytest.param({"labels": {"kapp.k14s.io/app": "7"}}, "kapp application 7", id="kapp"),
    pytest.param(
        {
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": "u", "controller": True}
            ]
        },
        "ConfigMap/boss",
        id="a controller",
    ),
]


@pytest.mark.parametrize(("markers", "owner"), OWNED)
async def test_what_has_another_owner_is_refused_with_its_name_unless_always(
    cluster: Cluster, kube: Kube, namespace: str, markers: dict[str, Any], owner: str
) -> None:
    theirs = config(namespace, color="green")
    if "ownerReferences" in markers:
        boss = made_by(kube, "somebody", config(namespace, "boss"))
        markers = {"ownerReferences": [{**markers["ownerReferences"][0], "uid": boss["metadata"]["uid"]}]}
    theirs["metadata"] |= markers
    before = made_by(kube, "somebody", theirs)
    wanted = config(namespace, color="red")
    with pytest.raises(Refused, match=f"exists already and belongs to {owner} ") as refused:
        await adopt(cluster, wanted)
    assert "adopt: always" in refused.value.remedy
    assert live(kube, wanted) == before
    done = await adopt(cluster, wanted, BundlePolicy(name="shop", adopt="always"))
    assert (done.result, done.live["data"]) == (Result.ADOPTED, {"color": "red"})


@pytest.mark.parametrize("operation", ["Update", "Apply"])
@pytest.mark.parametrize(
    "manager", ["kubectl-client-side-apply", "kubectl", "helm", "kustomize-controller", "argocd-controller"]
)
async def test_what_another_tool_set_goes_away_when_git_does_not_say_it(
    cluster: Cluster, kube: Kube, namespace: str, manager: str, operation: str
) -> None:
    made_by(kube, manager, config(namespace, color="green", old="yes"), operation=operation)
    done = await adopt(cluster, config(namespace, color="red"))
    assert (done.result, done.note) == (Result.ADOPTED, f"adopted from {manager}")
    assert done.live["data"] == {"color": "red"}
    assert {entry["manager"] for entry in done.live["metadata"]["managedFields"]} == {"flotilla"}


async def test_what_a_person_added_by_hand_stays(cluster: Cluster, kube: Kube, namespace: str) -> None:
    made_by(kube, "kubectl-create", config(namespace, color="green", old="yes"))
    kube.edit(f"{path_of(config(namespace))}/settings", {"data": {"extra": "yes"}})
    done = await adopt(cluster, config(namespace, color="red"))
    assert done.live["data"] == {"color": "red", "extra": "yes"}
    assert done.note == "adopted from kubectl-create, kubectl-edit"


async def test_entries_of_two_versions_of_an_api_are_taken_over_each(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    made_by(kube, "kubectl-client-side-apply", gadget(namespace, "v2", color="green", old="yes"))
    made_by(kube, "helm", gadget(namespace, "v1", size=1, older="yes"), operation="Apply")
    done = await adopt(cluster, gadget(namespace, color="red"))
    assert done.live["spec"] == {"color": "red"}
    assert [entry["manager"] for entry in done.live["metadata"]["managedFields"]] == ["flotilla"]


async def test_what_kubectl_noted_is_stripped_of_a_secret_whoever_owns_it(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    noted = {"kubectl.kubernetes.io/last-applied-configuration": '{"data":{"password":"aHVudGVyMg=="}}', "mine": "yes"}
    wanted: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": namespace},
        "data": {"password": "aHVudGVyMg=="},
    }
    theirs = {**wanted, "metadata": {**wanted["metadata"], "annotations": noted}}
    made_by(kube, "somebody", theirs)
    done = await adopt(cluster, wanted)
    assert done.live["metadata"]["annotations"] == {"mine": "yes"}


async def test_after_emptied_managed_fields_all_that_git_does_not_say_goes_away(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    made_by(kube, "somebody", config(namespace, color="green", old="yes"))
    kube.edit(f"{path_of(config(namespace))}/settings", {"metadata": {"managedFields": [{}]}})
    done = await adopt(cluster, config(namespace, color="red"))
    assert done.live["data"] == {"color": "red"}
    assert done.note == "adopted from nobody known"
    assert [entry["manager"] for entry in done.live["metadata"]["managedFields"]] == ["flotilla"]


async def test_what_the_server_will_not_let_go_of_stays_after_emptied_managed_fields(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    """A claim that is bound has a volume that Git does not know, and that cannot be taken away."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": spec,
    }
    made_by(kube, "somebody", wanted)
    wait_until("a bound claim", lambda: live(kube, wanted).get("status", {}).get("phase") == "Bound")
    kube.edit(f"{path_of(wanted)}/data", {"metadata": {"managedFields": [{}]}})
    done = await adopt(cluster, wanted)
    assert done.result is Result.ADOPTED
    assert done.live["spec"]["volumeName"]
    again = await adopt(cluster, wanted)
    assert again.live["spec"]["volumeName"] == done.live["spec"]["volumeName"]
    own = own_entry(live(kube, wanted))
    assert own is not None
    assert "f:volumeName" not in own["fieldsV1"]["f:spec"]


async def test_killed_after_any_request_an_adoption_ends_the_same(
    cluster: Cluster, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(namespace, color="red")
    send = cluster._send
    for killed_after in range(1, 7):
        kube.call("DELETE", f"{path_of(wanted)}/settings")
        made_by(kube, "kubectl-client-side-apply", config(namespace, color="green", old="yes"))
        left = iter(range(killed_after))

        async def killed(*arguments: Any, left: Iterator[int] = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return await send(*arguments, **options)

        monkeypatch.setattr(cluster, "_send", killed)
        with suppress(Killed):
            await adopt(cluster, wanted)
        monkeypatch.setattr(cluster, "_send", send)
        done = await adopt(cluster, wanted)
        assert done.live["data"] == {"color": "red"}
        assert [entry["manager"] for entry in done.live["metadata"]["managedFields"]] == ["flotilla"]


async def test_our_own_object_whose_inventory_was_lost_is_simply_ours(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    wanted = config(namespace, color="red")
    await adopt(cluster, wanted)
    kube.edit(f"{path_of(wanted)}/settings", {"data": {"color": "green", "extra": "yes"}}, manager="kubectl")
    done = await adopt(cluster, wanted, BundlePolicy(name="shop", adopt="never"))
    assert (done.result, done.live["data"]) == (Result.CONFIGURED, {"color": "red", "extra": "yes"})


@pytest.mark.parametrize("make", OBJECTS[:2])
async def test_a_body_that_names_a_uid_is_a_conflict_for_another_object_and_for_none(
    cluster: Cluster, kube: Kube, namespace: str, make: Any
) -> None:
    wanted = make(namespace)
    resource = await cluster.resource(wanted["apiVersion"], wanted["kind"])
    data = canonical({**wanted, "metadata": {**wanted["metadata"], "uid": "11111111-1111-1111-1111-111111111111"}})
    with pytest.raises(Conflict):
        await cluster.apply(resource, key_of(wanted), data, force=True, conditional=True)
    made_by(kube, "somebody", wanted)
    with pytest.raises(Conflict):
        await cluster.apply(resource, key_of(wanted), data, force=True, conditional=True)


SELECTS = {"clusterRoleSelectors": [{"matchLabels": {"adopt.example.org/gathered": "yes"}}]}
RULES = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]


async def test_an_aggregated_cluster_role_is_never_emptied(cluster: Cluster, kube: Kube, namespace: str) -> None:
    wanted = role(f"all-{namespace}", aggregationRule=SELECTS, rules=[])
    part = role(f"part-{namespace}", rules=RULES)
    part["metadata"]["labels"] = {"adopt.example.org/gathered": "yes"}
    made_by(kube, "somebody", part)
    gathered = {key: value for key, value in wanted.items() if key != "aggregationRule"} | {"rules": RULES}
    made_by(kube, "kubectl-create", {**wanted, "rules": RULES})
    made_by(kube, "clusterrole-aggregation-controller", gathered, operation="Apply")
    done = await adopt(cluster, wanted)
    assert (done.result, done.live["rules"]) == (Result.ADOPTED, RULES)
    entry = Entry(
        key=key_of(wanted), bundle="shop", api_version=wanted["apiVersion"], baseline=baseline(done.live), blob="x"
    )
    changed = with_membership({**wanted, "metadata": {**wanted["metadata"], "annotations": {"a": "b"}}}, "shop")
    done = await apply_object(cluster, entry, canonical(changed), policy=POLICY)
    assert (done.live["metadata"]["annotations"]["a"], done.live["rules"]) == ("b", RULES)
    own = own_entry(done.live)
    assert own is not None
    assert "f:rules" not in own["fieldsV1"]
    for name in (part, wanted):
        kube.must("DELETE", f"{path_of(name)}/{name['metadata']['name']}")


async def test_a_plain_role_that_becomes_an_aggregated_one_keeps_its_rules_until_they_are_gathered(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    plain = role(f"grows-{namespace}", rules=RULES)
    done = await adopt(cluster, plain)
    entry = Entry(
        key=key_of(plain), bundle="shop", api_version=plain["apiVersion"], baseline=baseline(done.live), blob="x"
    )
    nothing = {"clusterRoleSelectors": [{"matchLabels": {"adopt.example.org/gathered": namespace}}]}
    aggregated = with_membership(role(f"grows-{namespace}", aggregationRule=nothing), "shop")
    done = await apply_object(cluster, entry, canonical(aggregated), policy=POLICY)
    assert done.live["rules"] == RULES
    kube.must("DELETE", f"{path_of(plain)}/{plain['metadata']['name']}")
