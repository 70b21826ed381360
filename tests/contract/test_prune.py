"""What becomes of objects that Git no longer has: deleted, let go, left alone, or kept and told why."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.apply.prune import OPT_OUTS, Fate, not_ours, prune_object
from agent.fields.ownership import own_entry
from agent.kube.cluster import Cluster
from agent.model import Entry
from proto.objects import ObjectKey, canonical, key_of
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL, with_membership
from tests.agents import Agent, agent, until
from tests.kube import Kube
from tests.slices import SliceMaker


@pytest.fixture(autouse=True)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"p-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


def config(namespace: str, name: str = "settings", **annotations: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"color": "red"}}


def text(namespace: str, *names: str) -> str:
    return "---\n".join(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{a: b}}\n"
        for name in names
    )


def path(namespace: str, name: str = "settings") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


async def applied(cluster: Cluster, obj: dict[str, Any]) -> Entry:
    resource = await cluster.resource(obj["apiVersion"], obj["kind"])
    await cluster.apply(resource, key_of(obj), canonical(with_membership(obj, "shop")), force=True)
    return Entry(key=key_of(obj), bundle="shop", api_version=obj["apiVersion"])


@pytest.mark.parametrize(
    ("name", "value"), [*OPT_OUTS.items(), ("argocd.argoproj.io/sync-options", "A=b, Prune=false")]
)
async def test_what_says_that_it_must_stay_is_let_go_and_no_longer_labelled(
    cluster: Cluster, kube: Kube, namespace: str, name: str, value: str
) -> None:
    entry = await applied(cluster, config(namespace, **{name: value}))
    assert (await prune_object(cluster, entry, release=False))[0] is Fate.RELEASED
    live = kube.must("GET", path(namespace))
    assert not {BUNDLE_LABEL, PART_OF_LABEL} & (live["metadata"].get("labels") or {}).keys()
    assert own_entry(live) is None
    assert live["data"] == {"color": "red"}


@pytest.mark.parametrize("value", ["Prune=true", "PruneLast=true", "prune=false"])
async def test_other_options_keep_nothing(cluster: Cluster, kube: Kube, namespace: str, value: str) -> None:
    entry = await applied(cluster, config(namespace, **{"argocd.argoproj.io/sync-options": value}))
    assert (await prune_object(cluster, entry, release=False))[0] is Fate.DELETING
    assert kube.call("GET", path(namespace))[0] == 404


async def test_endpoints_that_inherited_our_labels_are_left_alone(cluster: Cluster, kube: Kube, namespace: str) -> None:
    """Kubernetes copies a Service's labels to its Endpoints; nothing of them was applied by us."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }
    await applied(cluster, service)
    endpoints = f"/api/v1/namespaces/{namespace}/endpoints/web"
    await until(lambda: kube.call("GET", endpoints)[0] == 200, what="endpoints")
    live = kube.must("GET", endpoints)
    assert live["metadata"]["labels"][PART_OF_LABEL]
    key = ObjectKey(group="", kind="Endpoints", namespace=namespace, name="web")
    fate, why = await prune_object(cluster, Entry(key=key, bundle="shop", api_version="v1"), release=False)
    assert fate is Fate.FOREIGN
    assert "no longer applied by this agent" in why
    assert kube.call("GET", endpoints)[0] == 200


async def test_what_a_controller_owns_is_left_alone(cluster: Cluster, kube: Kube, namespace: str) -> None:
    boss = kube.must("POST", f"/api/v1/namespaces/{namespace}/configmaps", config(namespace, "boss"))
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "boss",
        "uid": boss["metadata"]["uid"],
        "controller": True,
    }
    entry = await applied(cluster, config(namespace))
    kube.edit(path(namespace), {"metadata": {"ownerReferences": [reference]}}, manager="operator")
    fate, why = await prune_object(cluster, entry, release=False)
    assert (fate, "belongs to ConfigMap/boss" in why) == (Fate.FOREIGN, True)
    assert not_ours(kube.must("GET", path(namespace)))


POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDING = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"


def _deny_deletion(kube: Kube, namespace: str) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["configmaps"]}
    kube.must(
        "POST",
        POLICY,
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": namespace},
            "spec": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [
                    {
                        "expression": f"oldObject.metadata.namespace != '{namespace}' || !has(oldObject.data)",
                        "message": "nothing with data is deleted",
                    }
                ],
            },
        },
    )
    kube.must(
        "POST",
        BINDING,
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": namespace},
            "spec": {"policyName": namespace, "validationActions": ["Deny"]},
        },
    )


def _allow_deletion(kube: Kube, namespace: str) -> None:
    kube.call("DELETE", f"{BINDING}/{namespace}")
    kube.call("DELETE", f"{POLICY}/{namespace}")


@pytest.fixture
def undeletable(kube: Kube, namespace: str) -> Iterator[None]:
    """No ConfigMap with data can be deleted in the namespace."""
    probe = config(namespace, "probe")
    _deny_deletion(kube, namespace)
    for _ in range(2000):  # a policy takes a while to be in force
        kube.call("POST", f"/api/v1/namespaces/{namespace}/configmaps", probe)
        if kube.call("DELETE", path(namespace, "probe"))[0] == 422:
            break
    else:
        raise AssertionError("the policy is not in force")
    yield
    _allow_deletion(kube, namespace)


def _problem(one: Agent, bundle: str, name: str) -> str:
    """What the report of the bundle says about the object."""
    return " ".join(problem.message for problem in one.told.bundles[bundle].problems if name in problem.message)


async def test_a_refused_deletion_stays_in_the_inventory_is_told_and_goes_once_the_policy_is_lifted(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, undeletable: None
) -> None:
    maker = SliceMaker()
    first, second = maker.next({namespace: text(namespace, "a", "b")}), maker.next({namespace: text(namespace, "a")})
    key = ObjectKey(group="", kind="ConfigMap", namespace=namespace, name="b")
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, namespace), what="the first slice")
        one.deliver(second)
        await until(lambda: "nothing with data is deleted" in _problem(one, namespace, "/b"), what="a told refusal")
        assert not one.told.bundles[namespace].converged
        assert key in one.inventory.entries
        assert kube.call("GET", path(namespace, "b"))[0] == 200
    _allow_deletion(kube, namespace)
    await until(lambda: kube.call("DELETE", path(namespace, "probe"))[0] == 200, what="a policy out of force")
    async with agent(cluster, tmp_path) as again:
        await until(lambda: kube.call("GET", path(namespace, "b"))[0] == 404, what="the deletion", timeout_s=40)
        await until(lambda: again.converged(second, namespace), what="the second slice")
        assert key not in again.inventory.entries


async def test_a_deletion_that_hangs_on_a_finalizer_is_told_with_its_name_and_holds_up_nothing(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    first, second = (
        maker.next({namespace: text(namespace, "a", "b", "c")}),
        maker.next({namespace: text(namespace, "a")}),
    )
    third = maker.next({namespace: text(namespace, "a", "d")})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, namespace), what="the first slice")
        kube.edit(path(namespace, "b"), {"metadata": {"finalizers": ["example.org/keep"]}})
        one.deliver(second)
        await until(lambda: "example.org/keep" in _problem(one, namespace, "/b"), what="a told finalizer")
        await until(lambda: kube.call("GET", path(namespace, "c"))[0] == 404, what="the other deletion")
        one.deliver(third)
        await until(lambda: kube.call("GET", path(namespace, "d"))[0] == 200, what="the next slice")
        kube.edit(path(namespace, "b"), {"metadata": {"finalizers": None}})
        await until(lambda: one.converged(third, namespace), what="the end")


@pytest.mark.parametrize("destructive", [False, True])
async def test_what_takes_data_with_it_is_deleted_only_where_that_is_said(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, destructive: bool
) -> None:
    claim = (
        f"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data, namespace: {namespace}}}\n"
        "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n"
    )
    maker = SliceMaker()
    shop = {namespace.replace("-", "_"): {"destructive_prune": destructive}}
    first = maker.next({namespace: text(namespace, "a") + "---\n" + claim}, **shop)
    second = maker.next({namespace: text(namespace, "a")}, **shop)
    where = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/data"
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, namespace), what="the first slice", timeout_s=40)
        one.deliver(second)
        await until(lambda: one.converged(second, namespace), what="the second slice", timeout_s=40)
        if destructive:
            assert kube.call("GET", where)[0] == 404
        else:
            assert BUNDLE_LABEL not in (kube.must("GET", where)["metadata"].get("labels") or {})


async def test_an_aggregated_cluster_role_that_is_let_go_keeps_its_rules(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    base = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    where = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    part = {"metadata": {"name": f"part-{namespace}", "labels": {"prune.example.org/of": namespace}}, "rules": rules}
    kube.must("POST", where, {**base, **part})
    selects = {"clusterRoleSelectors": [{"matchLabels": {"prune.example.org/of": namespace}}]}
    whole = {**base, "metadata": {"name": namespace}, "aggregationRule": selects}
    entry = await applied(cluster, whole)
    kube.must(
        "PATCH",
        f"{where}/{namespace}?fieldManager=clusterrole-aggregation-controller&force=true",
        {**base, "metadata": {"name": namespace}, "rules": rules},
        content_type="application/apply-patch+yaml",
    )
    assert (await prune_object(cluster, entry, release=True))[0] is Fate.RELEASED
    assert kube.must("GET", f"{where}/{namespace}")["rules"] == rules
    for name in (namespace, f"part-{namespace}"):
        kube.must("DELETE", f"{where}/{name}")
