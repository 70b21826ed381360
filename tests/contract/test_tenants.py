"""A bundle with an account can do what the account may do, and no more; it is applied, reverted and pruned by it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.apply.parents import ACCOUNT_ANNOTATION
from agent.kube.api_status import NotFound
from agent.kube.cluster import Cluster
from agent.model import Resource
from proto.errors import Refused
from proto.objects import ObjectKey
from tests.agents import Agent, agent, until
from tests.kube import Kube
from tests.slices import SliceMaker

RBAC = "rbac.authorization.k8s.io"


@pytest.fixture(autouse=True)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"t-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    _allow(kube, name)
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


def _allow(kube: Kube, namespace: str) -> None:
    """The account `tenant` may do everything with ConfigMaps of its namespace, and nothing else."""
    role: dict[str, Any] = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": "tenant"}}
    role["rules"] = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch", "delete"]},
    ]
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "tenant"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}],
    }
    base = f"/apis/{RBAC}/v1/namespaces/{namespace}"
    kube.must("POST", f"{base}/roles", role)
    kube.must("POST", f"{base}/rolebindings", binding)


def _forbid(kube: Kube, namespace: str) -> None:
    for kind in ("roles", "rolebindings"):
        kube.must("DELETE", f"/apis/{RBAC}/v1/namespaces/{namespace}/{kind}/tenant")


async def in_force(cluster: Cluster, namespace: str, *, allowed: bool) -> None:
    """Returns once the authorizer, which hears of roles by a watch of its own, lets the account or refuses it."""
    acting = cluster.acting_as(f"{namespace}/tenant")
    maps = await acting.resource("v1", "ConfigMap")
    key = ObjectKey(group="", kind="ConfigMap", namespace=namespace, name="nothing")
    with anyio.fail_after(60):
        while await _is_allowed(acting, maps, key) is not allowed:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def _is_allowed(acting: Cluster, maps: Resource, key: ObjectKey) -> bool:
    try:
        await acting.get(maps, key)
    except NotFound:
        return True
    except Refused:
        return False
    raise AssertionError(f"{key} is there")


def text(namespace: str, *names: str) -> str:
    return "---\n".join(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{a: b}}\n"
        for name in names
    )


def as_tenant(namespace: str) -> dict[str, Any]:
    """The policy of the namespace's bundle, which has the same name."""
    return {namespace.replace("-", "_"): {"service_account": f"{namespace}/tenant"}}


def path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def problems(one: Agent, bundle: str) -> str:
    report = one.told.bundles.get(bundle)
    return " ".join(problem.message for problem in report.problems) if report else ""


async def test_the_account_is_asked_for_in_every_request_about_an_object(cluster: Cluster, namespace: str) -> None:
    acting = cluster.acting_as(f"{namespace}/tenant")
    secrets = await acting.resource("v1", "Secret")
    key = ObjectKey(group="", kind="Secret", namespace=namespace, name="s")
    with pytest.raises(Refused, match=f"system:serviceaccount:{namespace}:tenant"):
        await acting.get(secrets, key)
    with pytest.raises(Refused):
        await acting.apply(secrets, key, b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}', force=True)
    with pytest.raises(Refused):
        await acting.delete(secrets, key, uid="u")
    assert acting.requests is cluster.requests
    assert await cluster.resource("v1", "Secret") is secrets


async def test_a_tenant_cannot_reach_beyond_its_account(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    beyond = (
        text("default", f"beyond-{namespace}")
        + "---\n"
        + f"""
apiVersion: {RBAC}/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}}}
roleRef: {{apiGroup: {RBAC}, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: tenant, namespace: {namespace}}}]
"""
    )
    wake = maker.next({namespace: text(namespace, "mine") + "---\n" + beyond}, **as_tenant(namespace))
    await in_force(cluster, namespace, allowed=True)
    async with agent(cluster, tmp_path) as one:
        one.deliver(wake)
        await until(lambda: f"beyond-{namespace}" in problems(one, namespace), what="a told refusal")
        await until(lambda: f"ClusterRoleBinding/{namespace}" in problems(one, namespace), what="the other")
        await until(lambda: kube.call("GET", path(namespace, "mine"))[0] == 200, what="its own object")
        assert f"system:serviceaccount:{namespace}:tenant" in problems(one, namespace)
        assert kube.call("GET", path("default", f"beyond-{namespace}"))[0] == 404
        assert kube.call("GET", f"/apis/{RBAC}/v1/clusterrolebindings/{namespace}")[0] == 404


async def test_drift_and_prune_are_the_accounts_also_after_the_bundle_left_the_slice(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    other = text("default", f"o-{namespace}")
    first = maker.next({namespace: text(namespace, "a", "b"), "other": other}, **as_tenant(namespace))
    second = maker.next({namespace: text(namespace, "a"), "other": other}, **as_tenant(namespace))
    third = maker.next({"other": other})
    await in_force(cluster, namespace, allowed=True)
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, namespace, "other"), what="the first slice")
        parent = kube.must("GET", f"/apis/flotilla.dev/v1alpha1/appliedbundles/{namespace}")
        assert parent["metadata"]["annotations"][ACCOUNT_ANNOTATION] == f"{namespace}/tenant"

        kube.edit(path(namespace, "a"), {"data": {"a": "c"}})
        await until(lambda: any(told.action == "reverted" for told in one.told.drift), what="a revert")
        assert kube.must("GET", path(namespace, "a"))["data"] == {"a": "b"}
        one.deliver(second)
        await until(lambda: one.converged(second, namespace), what="the second slice")
        assert kube.call("GET", path(namespace, "b"))[0] == 404

        _forbid(kube, namespace)
        await in_force(cluster, namespace, allowed=False)
        one.deliver(third)
        await until(lambda: "cannot" in problems(one, namespace), what="a told refusal")
        assert kube.call("GET", path(namespace, "a"))[0] == 200
        assert ObjectKey(group="", kind="ConfigMap", namespace=namespace, name="a") in one.inventory.entries
    _allow(kube, namespace)
    await in_force(cluster, namespace, allowed=True)
    async with agent(cluster, tmp_path) as again:
        await until(lambda: kube.call("GET", path(namespace, "a"))[0] == 404, what="the prune", timeout_s=40)
        await until(
            lambda: kube.call("GET", f"/apis/flotilla.dev/v1alpha1/appliedbundles/{namespace}")[0] == 404,
            what="no parent",
        )
        assert not [key for key in again.inventory.entries if key.namespace == namespace]
    kube.must("DELETE", path("default", f"o-{namespace}"))


async def test_what_is_gone_with_the_tenants_namespace_is_not_kept_for_an_account_that_may_not_look(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    first = maker.next({namespace: text(namespace, "a")}, **as_tenant(namespace))
    second = maker.next({})
    await in_force(cluster, namespace, allowed=True)
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, namespace), what="the first slice")
        kube.must("DELETE", f"/api/v1/namespaces/{namespace}")
        await until(lambda: kube.call("GET", f"/api/v1/namespaces/{namespace}")[0] == 404, what="no namespace")
        one.deliver(second)
        await until(lambda: not one.inventory.entries, what="an empty inventory")
