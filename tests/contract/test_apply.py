"""Apply, prune, adoption, ApplySet parents, the lease and the whole loop, on a real API server."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.apply.apply import apply_object
from agent.apply.parents import KINDS_ANNOTATION, NAMESPACES_ANNOTATION
from agent.apply.prune import Fate, prune_object
from agent.drift.drift import baseline
from agent.fields.ownership import own_entry
from agent.kube.cluster import Cluster
from agent.kube.lease import Lease
from agent.model import Entry, Result
from proto.objects import canonical, key_of
from proto.slices import (
    BUNDLE_LABEL,
    PART_OF_LABEL,
    BundlePolicy,
    DriftPolicy,
    IgnoreRule,
    applyset_id,
    with_membership,
)
from tests.agents import agent, until
from tests.kube import Kube
from tests.slices import SliceMaker

POLICY = BundlePolicy(name="shop")


@pytest.fixture(autouse=True)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"t-{abs(hash(request.node.name)) % 10**8}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig) as cluster:
        yield cluster


def config(namespace: str, name: str = "settings", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def entry_of(obj: dict[str, Any], live: dict[str, Any] | None = None) -> Entry:
    known = baseline(live) if live is not None else None
    return Entry(key=key_of(obj), bundle="shop", api_version=obj["apiVersion"], baseline=known)


def body(obj: dict[str, Any], bundle: str = "shop") -> bytes:
    return canonical(with_membership(obj, bundle))


def path(namespace: str, name: str = "settings") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


async def test_an_object_is_created_then_configured_then_unchanged(cluster: Cluster, namespace: str) -> None:
    first, second = config(namespace, color="red"), config(namespace, color="blue")
    done = await apply_object(cluster, entry_of(first), body(first), policy=POLICY)
    assert done.result is Result.CREATED
    done = await apply_object(cluster, entry_of(second, done.live), body(second), policy=POLICY)
    assert done.result is Result.CONFIGURED
    assert done.live["data"] == {"color": "blue"}
    done = await apply_object(cluster, entry_of(second, done.live), body(second), policy=POLICY)
    assert done.result is Result.UNCHANGED


async def test_after_a_lost_inventory_our_own_object_is_taken_back_by_force(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    wanted = config(namespace, color="red")
    await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
    kube.edit(path(namespace), {"data": {"color": "green"}})
    live = (await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)).live
    assert live["data"] == {"color": "red"}


async def test_an_object_is_deleted_only_while_it_is_ours(cluster: Cluster, kube: Kube, namespace: str) -> None:
    wanted = config(namespace, color="red")
    entry = entry_of(wanted)
    await apply_object(cluster, entry, body(wanted), policy=POLICY)
    kube.edit(path(namespace), {"metadata": {"labels": {PART_OF_LABEL: "applyset-other-v1"}}})
    fate, why = await prune_object(cluster, entry, release=False)
    assert fate is Fate.FOREIGN
    assert "no longer carries the labels of a bundle" in why
    kube.edit(path(namespace), {"metadata": {"labels": {PART_OF_LABEL: applyset_id("shop")}}})
    assert (await prune_object(cluster, entry, release=False))[0] is Fate.DELETING
    assert (await prune_object(cluster, entry, release=False))[0] is Fate.GONE
    assert kube.call("GET", path(namespace))[0] == 404


async def test_a_finalizer_is_named_while_it_holds_a_deletion_up(cluster: Cluster, kube: Kube, namespace: str) -> None:
    wanted = config(namespace, color="red")
    entry = entry_of(wanted)
    await apply_object(cluster, entry, body(wanted), policy=POLICY)
    kube.edit(path(namespace), {"metadata": {"finalizers": ["example.org/keep"]}})
    await prune_object(cluster, entry, release=False)
    fate, why = await prune_object(cluster, entry, release=False)
    assert fate is Fate.DELETING
    assert "example.org/keep" in why
    kube.edit(path(namespace), {"metadata": {"finalizers": None}})
    assert (await prune_object(cluster, entry, release=False))[0] is Fate.GONE


async def test_letting_go_takes_our_labels_and_entry_and_nothing_else(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    wanted = config(namespace, color="red")
    entry = entry_of(wanted)
    await apply_object(cluster, entry, body(wanted), policy=POLICY)
    kube.edit(path(namespace), {"metadata": {"labels": {"theirs": "yes"}}})
    assert (await prune_object(cluster, entry, release=True))[0] is Fate.RELEASED
    live = kube.must("GET", path(namespace))
    assert live["metadata"]["labels"] == {"theirs": "yes"}
    assert live["data"] == {"color": "red"}
    assert own_entry(live) is None


async def test_letting_go_of_an_object_that_only_we_wrote_empties_its_managed_fields(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    wanted = config(namespace, color="red")
    entry = entry_of(wanted)
    await apply_object(cluster, entry, body(wanted), policy=POLICY)
    assert (await prune_object(cluster, entry, release=True))[0] is Fate.RELEASED
    live = kube.must("GET", path(namespace))
    assert own_entry(live) is None
    assert BUNDLE_LABEL not in (live["metadata"].get("labels") or {})


SCALED = BundlePolicy(
    name="shop", drift=DriftPolicy(ignore=(IgnoreRule(kind="Deployment", paths=("/spec/replicas",)),))
)


def web(namespace: str, image: str = "example.org/web:1", replicas: int = 3) -> dict[str, Any]:
    container = {"name": "web", "image": image}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }


def _scale(kube: Kube, where: str) -> None:
    """As an autoscaler does."""
    kube.edit(f"{where}/scale", {"spec": {"replicas": 8}}, manager="kube-controller-manager")


def _apply_replicas(kube: Kube, where: str) -> None:
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 8}}
    kube.must("PATCH", f"{where}?fieldManager=keda&force=true", body, content_type="application/apply-patch+yaml")


@pytest.mark.parametrize("scale", [_scale, _apply_replicas])
async def test_a_scaled_deployment_stays_scaled_when_git_changes_its_image(
    cluster: Cluster, kube: Kube, namespace: str, scale: Callable[[Kube, str], None]
) -> None:
    where = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    first, second = web(namespace), web(namespace, "example.org/web:2")
    live = (await apply_object(cluster, entry_of(first), body(first), policy=SCALED)).live
    assert live["spec"]["replicas"] == 3
    scale(kube, where)
    live = (await apply_object(cluster, entry_of(second, live), body(second), policy=SCALED)).live
    assert live["spec"]["replicas"] == 8
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/web:2"
    own = own_entry(live)
    assert own is not None
    assert "f:replicas" not in own["fieldsV1"]["f:spec"]
    live = (await apply_object(cluster, entry_of(first, live), body(first), policy=SCALED)).live
    assert live["spec"]["replicas"] == 8


async def test_replicas_that_only_git_ever_set_stay_when_git_changes_or_drops_them(
    cluster: Cluster, namespace: str
) -> None:
    first, second = web(namespace), web(namespace, replicas=5)
    live = (await apply_object(cluster, entry_of(first), body(first), policy=SCALED)).live
    live = (await apply_object(cluster, entry_of(second, live), body(second), policy=SCALED)).live
    assert live["spec"]["replicas"] == 3
    del second["spec"]["replicas"]
    live = (await apply_object(cluster, entry_of(second, live), body(second), policy=SCALED)).live
    assert live["spec"]["replicas"] == 3


async def test_a_deployment_that_kubectl_made_and_scaled_stays_scaled_when_it_is_adopted(
    cluster: Cluster, kube: Kube, namespace: str
) -> None:
    theirs = web(namespace, replicas=8)
    theirs["metadata"]["annotations"] = {"old": "yes"}
    kube.must("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments?fieldManager=kubectl-create", theirs)
    wanted = web(namespace, "example.org/web:2")
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=SCALED)
    assert (done.result, done.live["spec"]["replicas"]) == (Result.ADOPTED, 8)
    assert "old" not in done.live["metadata"].get("annotations", {})
    live = (await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=SCALED)).live
    assert live["spec"]["replicas"] == 8


async def test_two_agents_one_lease(cluster: Cluster) -> None:
    def timestamp() -> str:
        return "2026-01-01T00:00:00.000000Z"

    first = Lease(cluster, holder="agent-1", timestamp=timestamp)
    second = Lease(cluster, holder="agent-2", timestamp=timestamp)
    assert await first.once()
    assert not await second.once()
    assert "agent-1" in second.problem
    assert await first.once()
    await first.release()
    assert await second.once()
    assert not await first.once()
    await second.release()


DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
"""


def whole(namespace: str) -> str:
    return (
        DEFINITION
        + f"""
apiVersion: example.org/v1
kind: Widget
metadata: {{name: w, namespace: {namespace}}}
spec: {{size: 1}}
status: {{conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, namespace: {namespace}}}
data: {{color: red}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, image: "example.org/web:1"}}]}}
"""
    )


async def test_the_whole_agent_from_a_slice_to_health_drift_and_prune(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    maker = SliceMaker()
    config_path = path(namespace)
    web_path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    first = maker.next({"whole": whole(namespace)}, whole={"destructive_prune": True})
    changed = whole(namespace).replace("red", "blue")
    second = maker.next({"whole": changed}, whole={"destructive_prune": True})
    third = maker.next({})
    async with agent(cluster, tmp_path) as one:
        one.deliver(first)
        await until(lambda: one.converged(first, "whole"), what="health", timeout_s=60)
        parent = kube.must("GET", "/apis/flotilla.dev/v1alpha1/appliedbundles/whole")["metadata"]
        assert parent["labels"] == {"applyset.kubernetes.io/id": applyset_id("whole")}
        assert parent["annotations"][KINDS_ANNOTATION] == (
            "ConfigMap,CustomResourceDefinition.apiextensions.k8s.io,Deployment.apps,Widget.example.org"
        )
        assert parent["annotations"][NAMESPACES_ANNOTATION] == namespace

        kube.edit(web_path, {"spec": {"replicas": 5}})
        await until(lambda: any(told.fields == (".spec.replicas",) for told in one.told.drift), what="a told scale")
        kube.must("DELETE", config_path)
        await until(lambda: any(told.what == "deleted" for told in one.told.drift), what="a told deletion")
        assert kube.must("GET", config_path)["data"] == {"color": "red"}
        assert kube.must("GET", web_path)["spec"]["replicas"] == 2
        await until(lambda: one.converged(first, "whole"), what="health again", timeout_s=60)

        sent = cluster.requests["apply"]
        one.deliver(second)
        await until(lambda: one.converged(second, "whole"), what="the change")
        assert cluster.requests["apply"] == sent + 1
        assert kube.must("GET", config_path)["data"] == {"color": "blue"}

    # Killed; drift while it is away; started again.
    kube.edit(config_path, {"data": {"color": "green"}})
    writes = cluster.requests["apply"]
    async with agent(cluster, tmp_path) as again:
        await until(lambda: len(again.told.drift) == 1 and again.converged(second, "whole"), what="the restart")
        assert kube.must("GET", config_path)["data"] == {"color": "blue"}
        assert cluster.requests["apply"] == writes + 1
        again.deliver(third)
        await until(lambda: again.converged(third, "whole"), what="the prune", timeout_s=60)
        assert kube.call("GET", config_path)[0] == 404
        assert kube.call("GET", web_path)[0] == 404
        assert kube.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org")[0] == 404
        await until(
            lambda: kube.call("GET", "/apis/flotilla.dev/v1alpha1/appliedbundles/whole")[0] == 404, what="no parent"
        )
