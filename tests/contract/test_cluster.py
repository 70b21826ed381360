"""What a real API server answers is what `cluster` makes of it: errors, preconditions, discovery, watches."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import anyio
import pytest
import yaml

from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.kube.cluster import Cluster
from agent.model import Resource, WatchEvent
from proto import objects
from proto.errors import Permanent
from proto.objects import ObjectKey
from tests.kube import Kube


@pytest.fixture
async def api(kube: Kube) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kube.kubeconfig) as cluster:
        yield cluster


@pytest.fixture
def namespace(kube: Kube) -> str:
    name = f"cluster-{uuid4().hex[:8]}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


class Sender:
    """Applies manifests in one namespace."""

    def __init__(self, api: Cluster, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def __call__(
        self, manifest: str, *, force: bool = False, dry_run: bool = False
    ) -> tuple[bool, dict[str, Any]]:
        obj = yaml.safe_load(manifest)
        obj["metadata"].setdefault("namespace", self.namespace)
        resource = await self.api.resource(obj["apiVersion"], obj["kind"])
        key, body = objects.key_of(obj), objects.canonical(obj)
        return await self.api.apply(resource, key, body, force=force, dry_run=dry_run)

    async def config_maps(self) -> Resource:
        return await self.api.resource("v1", "ConfigMap")

    def key(self, name: str) -> ObjectKey:
        return ObjectKey(group="", kind="ConfigMap", namespace=self.namespace, name=name)


@pytest.fixture
def send(api: Cluster, namespace: str) -> Sender:
    return Sender(api, namespace)


CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {team: "%s"}}
data: {mode: prod}
"""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: %s}}
  template:
    metadata: {labels: {app: %s}}
    spec: {containers: [{name: app, image: example.org/app:1%s}]}
"""


async def test_the_version_and_every_kind_in_three_requests(api: Cluster) -> None:
    assert (await api.version()).startswith("v1.36")
    deployments = await api.resource("apps/v1", "Deployment")
    assert (deployments.plural, deployments.namespaced) == ("deployments", True)
    assert "patch" in deployments.verbs
    assert not (await api.resource("v1", "Namespace")).namespaced
    assert (await api.resource("rbac.authorization.k8s.io/v1", "ClusterRole")).base == (
        "/apis/rbac.authorization.k8s.io/v1"
    )
    assert sum(api.requests.values()) == 3


async def test_a_kind_is_found_as_soon_as_its_definition_is_established(api: Cluster, kube: Kube) -> None:
    await api.resource("v1", "Pod")
    group = f"g{uuid4().hex[:8]}.example.org"
    kube.must(
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"shops.{group}"},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"plural": "shops", "singular": "shop", "kind": "Shop", "listKind": "ShopList"},
                "versions": [
                    {
                        "name": "v1",
                        "served": True,
                        "storage": True,
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                ],
            },
        },
    )
    found = None
    with anyio.fail_after(30):
        while found is None:
            try:
                found = await api.resource(f"{group}/v1", "Shop")
            except NotFound:
                await anyio.sleep(0.1)
    assert found.plural == "shops"


async def test_an_apply_that_changes_nothing_moves_nothing(send: Sender) -> None:
    created, first = await send(CONFIG % "a")
    again, second = await send(CONFIG % "a", force=True)
    assert (created, again) == (True, False)
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_a_dry_run_answers_and_changes_nothing(send: Sender) -> None:
    _, first = await send(CONFIG % "a")
    _, dry = await send(CONFIG % "b", dry_run=True)
    assert dry["metadata"]["labels"] == {"team": "b"}
    live = await send.api.get(await send.config_maps(), send.key("settings"))
    assert live == first


async def test_a_conflict_names_the_manager_and_the_field(send: Sender, kube: Kube) -> None:
    await send(CONFIG % "a")
    path = f"/api/v1/namespaces/{send.namespace}/configmaps/settings"
    kube.edit(path, {"data": {"mode": "test"}}, manager="kubectl-edit")
    with pytest.raises(Conflict, match=r"ConfigMap/.*/settings apply failed \(Conflict\)") as caught:
        await send(CONFIG % "a")
    assert caught.value.fields == (("kubectl-edit", ".data.mode"),)
    _, live = await send(CONFIG % "a", force=True)
    assert live["data"] == {"mode": "prod"}


@pytest.mark.parametrize(
    ("manifest", "error", "words"),
    [
        pytest.param(
            DEPLOYMENT % ("web", "web", ", nonsense: 1"), Invalid, "nonsense", id="a field that does not exist"
        ),
        pytest.param(DEPLOYMENT % ("web", "other", ""), Invalid, "selector", id="a selector that misses its template"),
        pytest.param(DEPLOYMENT % ("web", "web", ", env: x"), Invalid, "env", id="a value of the wrong type"),
        pytest.param(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}",
            NotFound,
            'namespaces "nowhere" not found',
            id="a namespace that does not exist",
        ),
        pytest.param(
            "{apiVersion: example.org/v1, kind: Nothing, metadata: {name: x}}",
            NotFound,
            "Nothing of example.org/v1",
            id="a kind that does not exist",
        ),
    ],
)
async def test_what_is_refused_for_good_is_permanent_and_says_why(
    send: Sender, manifest: str, error: type[Permanent], words: str
) -> None:
    with pytest.raises(error) as caught:
        await send(manifest)
    assert type(caught.value) is error
    assert words in str(caught.value)


async def test_what_is_missing_is_told_apart(send: Sender) -> None:
    maps = await send.config_maps()
    with pytest.raises(NotFound) as caught:
        await send.api.get(maps, send.key("nothing"))
    assert caught.value.what == "object"
    with pytest.raises(NotFound) as caught:
        await send("{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}")
    assert caught.value.what == "namespace"
    gone = Resource(group="example.org", version="v1", kind="Shop", plural="shops", namespaced=True)
    with pytest.raises(NotFound) as caught:
        await send.api.get(gone, send.key("x"))
    assert caught.value.what == "kind"


async def test_an_immutable_field_is_invalid(send: Sender) -> None:
    await send(DEPLOYMENT % ("web", "web", ""))
    with pytest.raises(Invalid, match="immutable") as caught:
        await send(DEPLOYMENT % ("other", "other", ""))
    assert caught.value.fields == ("spec.selector",)


async def test_an_invalid_secret_is_told_without_its_data(send: Sender) -> None:
    for value in ('"hunter2!"', "12345678"):
        with pytest.raises(Invalid, match=r"Secret/.* apply failed \(Invalid\)") as caught:
            await send(f"{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, data: {{password: {value}}}}}")
        assert "illegal base64" in str(caught.value) or ".data.password: expected string" in str(caught.value)
        assert value.strip('"') not in f"{caught.value!s} {caught.value!r}"


async def test_a_patch_whose_version_has_passed_is_a_conflict(send: Sender) -> None:
    await send(CONFIG % "a")
    _, live = await send(CONFIG % "b")
    maps, key = await send.config_maps(), send.key("settings")
    add = {"op": "add", "path": "/data/x", "value": "y"}
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": "1"}
    with pytest.raises(Conflict):
        await send.api.json_patch(maps, key, [test, add])
    test["value"] = live["metadata"]["resourceVersion"]
    assert (await send.api.json_patch(maps, key, [test, add]))["data"]["x"] == "y"


async def test_a_delete_hits_only_the_very_object(send: Sender) -> None:
    _, first = await send(CONFIG % "a")
    _, live = await send(CONFIG % "b")
    maps, key, uid = await send.config_maps(), send.key("settings"), live["metadata"]["uid"]
    with pytest.raises(Conflict):
        await send.api.delete(maps, key, uid="another")
    with pytest.raises(Conflict):
        await send.api.delete(maps, key, uid=uid, resource_version=first["metadata"]["resourceVersion"])
    await send.api.delete(maps, key, uid=uid, resource_version=live["metadata"]["resourceVersion"])
    with pytest.raises(NotFound):
        await send.api.delete(maps, key, uid=uid)


# --- watches ------------------------------------------------------------------------------------------------------


class Reader:
    """Reads a watch, one event at a time, as (kind, name)."""

    def __init__(self, events: AsyncIterator[WatchEvent]) -> None:
        self.events = events
        self.last: WatchEvent | None = None

    async def next(self) -> tuple[str, str]:
        with anyio.fail_after(60):
            self.last = await anext(self.events)
        return self.last.kind, self.last.object["metadata"]["name"] if self.last.object else ""


@pytest.mark.parametrize("metadata_only", [pytest.param(True, id="metadata"), pytest.param(False, id="whole")])
async def test_a_watch_streams_what_is_there_then_what_changes(send: Sender, metadata_only: bool) -> None:
    team = uuid4().hex[:8]
    await send(CONFIG % team)
    maps = await send.config_maps()
    async with aclosing(send.api.watch(maps, selector=f"team={team}", metadata_only=metadata_only)) as events:  # type: ignore[type-var]
        reader = Reader(events)
        assert await reader.next() == ("ADDED", "settings")
        assert reader.last is not None
        assert reader.last.object["metadata"]["managedFields"]
        assert ("data" in reader.last.object) is not metadata_only
        assert await reader.next() == ("SYNCED", "")
        await send((CONFIG % team).replace("prod", "test"))
        assert await reader.next() == ("MODIFIED", "settings")
        await send(CONFIG % "another")
        assert await reader.next() == ("DELETED", "settings")
    assert (send.api.requests["watch"], send.api.requests["list"]) == (1, 0)


async def test_a_list_in_pages_has_what_a_watch_needs(send: Sender) -> None:
    team = uuid4().hex[:8]
    for name in ("one", "two"):
        await send((CONFIG % team).replace("settings", name))
    query = {"labelSelector": f"team={team}", "limit": "1"}
    first = await send.api.page(await send.config_maps(), query, metadata_only=True)
    query["continue"] = first["metadata"]["continue"]
    second = await send.api.page(await send.config_maps(), query, metadata_only=True)
    names = [item["metadata"]["name"] for page in (first, second) for item in page["items"]]
    assert names == ["one", "two"]
    assert first["items"][0]["metadata"]["managedFields"]
    assert second["metadata"]["resourceVersion"]


async def test_a_watch_outlives_the_api_server(send: Sender, kube: Kube) -> None:
    team = uuid4().hex[:8]
    maps = await send.config_maps()
    await send(CONFIG % team)
    async with aclosing(send.api.watch(maps, selector=f"team={team}", metadata_only=True)) as events:  # type: ignore[type-var]
        reader = Reader(events)
        assert await reader.next() == ("ADDED", "settings")
        assert await reader.next() == ("SYNCED", "")
        await anyio.to_thread.run_sync(kube.restart)
        await send((CONFIG % team).replace("settings", "later"))
        # Whether it goes on or begins anew is the server's choice; what happened meanwhile comes either way.
        seen = [await reader.next()]
        while seen[-1] != ("ADDED", "later"):
            seen.append(await reader.next())
        assert seen == [("ADDED", "later")] or seen[0] == ("RESTARTED", "")
