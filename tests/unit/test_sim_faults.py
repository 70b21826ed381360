"""What a client of the simulated server meets when it has trouble, no rights or a quota, over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
import yaml

from hub.sim import faults
from hub.sim.access import User, service_account
from hub.sim.admission import Denial, Mutation, Quota, Scope
from hub.sim.faults import Faults
from hub.sim.rbac import Rbac
from hub.sim.server import SimServer

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class Client:
    """Requests of one user."""

    def __init__(self, server: SimServer, http: aiohttp.ClientSession) -> None:
        self.server, self.http = server, http
        self.token = server.token

    async def __call__(
        self, method: str, path: str, body: Any = None, *, token: str = "", **headers: str
    ) -> tuple[int, Any]:
        sent = {
            "Authorization": f"Bearer {token or self.token}",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        async with self.http.request(method, self.server.url + path, json=body, headers=sent) as answer:
            return answer.status, await answer.json()

    async def create(self, obj: dict[str, Any], path: str = CONFIG_MAPS) -> int:
        status, _ = await self("POST", path, obj)
        return status

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[aiohttp.StreamReader]:
        headers = {"Authorization": f"Bearer {self.token}"}
        revision = self.server.store.revision
        url = f"{self.server.url}{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}"
        async with self.http.get(url, headers=headers) as answer:
            yield answer.content


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with SimServer(bookmark_s=0.01).serving() as server, aiohttp.ClientSession() as http:
        yield Client(server, http)


@pytest.fixture
def trouble(client: Client) -> Faults:
    trouble = Faults()
    client.server.intercept = trouble
    return trouble


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_requests_are_refused_so_often_and_then_answered(client: Client, trouble: Faults) -> None:
    trouble.refuse(429, times=2, retry_after_s=7)
    url, headers = client.server.url + CONFIG_MAPS, {"Authorization": f"Bearer {client.token}"}
    for _ in range(2):
        async with client.http.get(url, headers=headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
            assert (await answer.json())["reason"] == "TooManyRequests"
    assert (await client("GET", CONFIG_MAPS))[0] == 200
    assert trouble.seen == 3


async def test_writes_alone_can_fail_until_it_is_over(client: Client, trouble: Faults) -> None:
    trouble.refuse(500, matches=faults.is_write)
    assert await client.create(config_map("a")) == 500
    assert (await client("GET", CONFIG_MAPS))[0] == 200
    trouble.clear()
    assert await client.create(config_map("a")) == 201


async def test_watches_that_are_dropped_end_without_an_end(client: Client, trouble: Faults) -> None:
    async with client.watch() as lines:
        await lines.readline()
        assert trouble.drop_watches() == 1
        with pytest.raises(aiohttp.ClientError):
            await lines.read()
    assert trouble.drop_watches() == 0


async def test_half_open_watches_are_silent_and_stay_so(client: Client, trouble: Faults) -> None:
    async with client.watch() as open_before:
        assert b"BOOKMARK" in await open_before.readline()
        client.server.half_open = True
        async with client.watch() as lines:
            assert await client.create(config_map("a")) == 201
            client.server.half_open = False
            with anyio.move_on_after(0.1) as silence:
                await lines.readline()
            assert silence.cancelled_caught
        assert trouble.drop_watches() == 2


async def test_a_restart_keeps_objects_and_loses_the_watch_cache(client: Client, trouble: Faults) -> None:
    await client.create(config_map("a"))
    await client.create(config_map("b"))
    async with client.watch() as lines:
        await lines.readline()
        assert trouble.restart(client.server.store) == 1
    assert len((await client("GET", CONFIG_MAPS))[1]["items"]) == 2
    url = f"{client.server.url}{CONFIG_MAPS}?watch=true&resourceVersion=1"
    async with client.http.get(url, headers={"Authorization": f"Bearer {client.token}"}) as answer:
        assert b'"code":410' in await answer.content.readline()


async def test_slowness_delays_every_answer(client: Client, trouble: Faults) -> None:
    trouble.delay_s = 60.0
    with anyio.move_on_after(0.05) as late:
        await client("GET", CONFIG_MAPS)
    assert late.cancelled_caught
    trouble.clear()
    assert (await client("GET", CONFIG_MAPS))[0] == 200


# --- permissions ------------------------------------------------------------------------------------------------------

ROLES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: robot, namespace: default}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, create]}
- {apiGroups: [""], resources: [secrets], verbs: [get], resourceNames: [mine]}
- {apiGroups: [apps], resources: ["*/scale"], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: robot}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: Group, name: readers, apiGroup: rbac.authorization.k8s.io}]
"""


@pytest.fixture
async def permissions(client: Client) -> Rbac:
    permissions = Rbac(client.server.api)
    permissions.install()
    permissions.install()
    client.server.authorize = permissions
    client.server.tokens["robot"] = service_account("default", "robot")
    client.server.tokens["reader"] = User(name="ann", groups=("readers",))
    for obj in yaml.safe_load_all(ROLES):
        plural = f"{obj['kind'].lower()}s"
        inside = f"/namespaces/{obj['metadata']['namespace']}" if "namespace" in obj["metadata"] else ""
        assert await client.create(obj, f"/apis/rbac.authorization.k8s.io/v1{inside}/{plural}") == 201
    return permissions


@pytest.mark.parametrize(
    ("token", "method", "path", "status"),
    [
        pytest.param("robot", "GET", CONFIG_MAPS, 200, id="what the role lists"),
        pytest.param("robot", "GET", "/api/v1/configmaps", 403, id="in all namespaces"),
        pytest.param("robot", "GET", "/api/v1/namespaces/kube-system/configmaps", 403, id="in another namespace"),
        pytest.param("robot", "DELETE", f"{CONFIG_MAPS}/a", 403, id="another verb"),
        pytest.param("robot", "GET", "/api/v1/namespaces/default/secrets/mine", 404, id="a named object"),
        pytest.param("robot", "GET", "/api/v1/namespaces/default/secrets/other", 403, id="another object"),
        pytest.param("robot", "GET", "/api/v1/namespaces/default/secrets", 403, id="a list of named objects"),
        pytest.param("reader", "GET", "/api/v1/configmaps", 200, id="a group, cluster-wide"),
        pytest.param("reader", "GET", "/api/v1/secrets", 403, id="what view leaves out"),
        pytest.param("nobody", "GET", CONFIG_MAPS, 401, id="no such token"),
    ],
)
@pytest.mark.usefixtures("permissions")
async def test_roles_decide_who_may_do_what(client: Client, token: str, method: str, path: str, status: int) -> None:
    assert (await client(method, path, token=token))[0] == status


@pytest.mark.usefixtures("permissions")
async def test_an_administrator_acts_as_somebody_else_and_others_may_not(client: Client) -> None:
    robot = "system:serviceaccount:default:robot"
    assert (await client("GET", CONFIG_MAPS, Impersonate_User=robot))[0] == 200
    assert (await client("DELETE", f"{CONFIG_MAPS}/a", Impersonate_User=robot))[0] == 403
    status, answer = await client("GET", CONFIG_MAPS, token="robot", Impersonate_User="admin")
    assert (status, answer["reason"]) == (403, "Forbidden")


IMPERSONATES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: agent, namespace: default}
rules:
- {apiGroups: [""], resources: [serviceaccounts], verbs: [impersonate], resourceNames: [robot]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: agent, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: agent}
subjects: [{kind: User, name: ann, apiGroup: rbac.authorization.k8s.io}]
"""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Impersonate_User": "system:serviceaccount:default:robot"}, 200, id="the account it may act as"),
        pytest.param({"Impersonate_User": "system:serviceaccount:default:other"}, 403, id="another account"),
        pytest.param({"Impersonate_User": "system:serviceaccount:kube-system:robot"}, 403, id="another namespace"),
        pytest.param({"Impersonate_User": "admin"}, 403, id="a user"),
        pytest.param(
            {"Impersonate_User": "system:serviceaccount:default:robot", "Impersonate_Group": "system:masters"},
            403,
            id="a group beside it",
        ),
    ],
)
@pytest.mark.usefixtures("permissions")
async def test_who_may_act_as_one_account_may_act_as_no_other(
    client: Client, headers: dict[str, str], status: int
) -> None:
    for obj in yaml.safe_load_all(IMPERSONATES):
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/default/{obj['kind'].lower()}s"
        assert await client.create(obj, path) == 201
    assert (await client("GET", CONFIG_MAPS, token="reader", **headers))[0] == status


@pytest.mark.usefixtures("permissions")
async def test_a_role_that_is_taken_away_counts_at_once(client: Client) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/robot"
    assert (await client("DELETE", path))[0] == 200
    assert (await client("GET", CONFIG_MAPS, token="robot"))[0] == 403


# --- admission --------------------------------------------------------------------------------------------------------


async def test_a_webhook_says_no_with_its_name(client: Client) -> None:
    client.server.api.admission.append(Denial(message="no b here", matches=Scope(kinds=["ConfigMap"], names=["b"])))
    assert await client.create(config_map("a")) == 201
    status, answer = await client("POST", CONFIG_MAPS, config_map("b"))
    assert status == 400
    assert answer["message"] == 'admission webhook "deny.example.org" denied the request: no b here'


async def test_what_a_webhook_adds_is_nobodys(client: Client) -> None:
    def mark(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "data": {**obj["data"], "added": "by admission"}}

    client.server.api.admission.append(Mutation(change=mark, matches=Scope(kinds=["ConfigMap"])))
    status, made = await client("POST", CONFIG_MAPS, config_map("a", mine="1"))
    assert (status, made["data"]) == (201, {"mine": "1", "added": "by admission"})
    [entry] = made["metadata"]["managedFields"]
    assert set(entry["fieldsV1"]["f:data"]) == {".", "f:mine"}


QUOTA = """
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {configmaps: 2, requests.cpu: "1", count/deployments.apps: 0}}
"""


async def test_a_quota_counts_what_is_there(client: Client) -> None:
    client.server.api.admission.append(Quota(client.server.api))
    assert await client.create(yaml.safe_load(QUOTA), "/api/v1/namespaces/default/resourcequotas") == 201
    assert [await client.create(config_map(name)) for name in ("a", "b")] == [201, 201]
    status, answer = await client("POST", CONFIG_MAPS, config_map("c"))
    assert status == 403
    assert answer["message"] == (
        'configmaps "c" is forbidden: exceeded quota: small, '
        "requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
    )
    assert (await client("DELETE", f"{CONFIG_MAPS}/a"))[0] == 200
    assert await client.create(config_map("c")) == 201
    assert await client.create(config_map("d"), "/api/v1/namespaces/kube-system/configmaps") == 201


async def test_a_quota_adds_up_what_pods_request(client: Client) -> None:
    client.server.api.admission.append(Quota(client.server.api))
    await client.create(yaml.safe_load(QUOTA), "/api/v1/namespaces/default/resourcequotas")

    def pod(name: str, cpu: str) -> dict[str, Any]:
        container = {"name": "a", "image": "a", "resources": {"requests": {"cpu": cpu}}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}

    pods = "/api/v1/namespaces/default/pods"
    assert await client.create(pod("a", "600m"), pods) == 201
    assert await client.create(pod("b", "0.5"), pods) == 403
    assert await client.create(pod("c", "400m"), pods) == 201
