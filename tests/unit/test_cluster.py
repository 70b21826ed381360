"""The API server as the agent sees it, against a server that misbehaves on request."""

import itertools
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.kube.api_status import Busy, Conflict, Invalid, NotFound
from agent.kube.cluster import Cluster, backoff
from agent.model import Resource, WatchEvent
from proto.errors import InvalidInput, Refused, Transient
from proto.objects import ObjectKey

PODS = Resource(group="", version="v1", kind="Pod", plural="pods", namespaced=True)
SECRETS = Resource(group="", version="v1", kind="Secret", plural="secrets", namespaced=True)
NODES = Resource(group="", version="v1", kind="Node", plural="nodes", namespaced=False)
POD = ObjectKey(group="", kind="Pod", namespace="shop", name="web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fake:
    """An API server that gives its `answers` in turn (the last one for ever), and keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Handler] = []
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)


def says(status: int, body: Any = None, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body or {}, status=status, headers=headers)

    return handler


def streams(*lines: Any, then: Callable[[web.StreamResponse], Awaitable[None]] | None = None) -> Handler:
    """Sends the lines, then closes the stream the polite way, or does something else."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        if then is not None:
            await then(response)
        return response

    return handler


async def silence(response: web.StreamResponse) -> None:
    await anyio.sleep(60)


async def reset(response: web.StreamResponse) -> None:
    transport = response._req.transport if response._req else None
    assert transport is not None
    transport.abort()


def pod(name: str, version: int, kind: str = "ADDED") -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}}


def bookmark(version: int, *, end: bool = False) -> dict[str, Any]:
    annotations = {"annotations": {"k8s.io/initial-events-end": "true"}} if end else {}
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version), **annotations}}}


ERROR = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    made = Fake()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(shutdown_timeout=0.01)
    made.url = f"http://127.0.0.1:{server.port}"
    yield made
    await server.close()


def kubeconfig(folder: Path, url: str, user: dict[str, Any]) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [
                    {"name": "x", "context": {"cluster": "c", "user": "u"}},
                    {"name": "nobody", "context": {"cluster": "c"}},
                ],
                "current-context": "x",
            }
        )
    )
    return path


@pytest.fixture
async def api(fake: Fake, tmp_path: Path) -> AsyncIterator[Cluster]:
    path = kubeconfig(tmp_path, fake.url, {"token": "t0"})
    async with Cluster.connect(path, delays=lambda: itertools.repeat(0.0), silence_s=0.3) as cluster:
        yield cluster


def status(code: int, reason: str = "", message: str = "", **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


# --- requests -----------------------------------------------------------------------------------------------------


async def test_apply_sends_the_very_bytes(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(201, {"kind": "Pod"}), says(200, {"kind": "Pod"})]
    body = b'{\n  "kind": "Pod"\n}\n'
    assert await api.apply(PODS, POD, body, force=False) == (True, {"kind": "Pod"})
    assert await api.apply(PODS, POD, body, force=True, dry_run=True) == (False, {"kind": "Pod"})
    first, second = fake.seen
    assert fake.bodies == [body, body]
    assert (first.method, first.path) == ("PATCH", "/api/v1/namespaces/shop/pods/web")
    assert dict(first.query) == {"fieldManager": "flotilla", "force": "false"}
    assert dict(second.query) == {"fieldManager": "flotilla", "force": "true", "dryRun": "All"}
    assert first.headers["Content-Type"] == "application/apply-patch+yaml"
    assert first.headers["Authorization"] == "Bearer t0"
    assert api.requests == {"apply": 1, "dry-run": 1}


async def test_names_are_quoted_in_paths(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(200)]
    await api.get(NODES, ObjectKey(group="", kind="Node", namespace="", name="system:a b"), metadata_only=True)
    assert fake.seen[0].raw_path == "/api/v1/nodes/system:a%20b"
    assert "PartialObjectMetadata" in fake.seen[0].headers["Accept"]


async def test_an_object_without_its_namespace_is_refused_before_it_is_sent(fake: Fake, api: Cluster) -> None:
    with pytest.raises(Invalid, match=r"Pod/web: .*namespace"):
        await api.get(PODS, ObjectKey(group="", kind="Pod", namespace="", name="web"))
    assert fake.seen == []


async def test_delete_carries_its_preconditions(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(200), says(409, status(409, "Conflict", "the UID in the precondition does not match"))]
    await api.delete(PODS, POD, uid="u", resource_version="7")
    sent = json.loads(fake.bodies[0])
    assert (sent["preconditions"], sent["propagationPolicy"]) == ({"uid": "u", "resourceVersion": "7"}, "Background")
    with pytest.raises(Conflict):
        await api.delete(PODS, POD, uid="u")


@pytest.mark.parametrize(
    ("code", "body", "error", "words"),
    [
        pytest.param(
            409,
            status(
                409,
                "Conflict",
                "Apply failed with 1 conflict",
                causes=[
                    {
                        "reason": "FieldManagerConflict",
                        "message": 'conflict with "kubectl-edit" using v1',
                        "field": ".spec.x",
                    }
                ],
            ),
            Conflict,
            "Pod/shop/web apply failed (Conflict): Apply failed with 1 conflict",
            id="a field conflict",
        ),
        pytest.param(409, status(409, "Conflict", "try again"), Transient, "try again", id="a lost race"),
        pytest.param(
            404, status(404, "NotFound", 'pods "web" not found', name="web", kind="pods"), NotFound, "web", id="gone"
        ),
        pytest.param(422, status(422, "Invalid", "bad"), Invalid, "Pod/shop/web apply failed (Invalid): bad", id="422"),
        pytest.param(400, status(400, "BadRequest", "bad"), Invalid, "BadRequest", id="400"),
        pytest.param(413, None, Invalid, "RequestEntityTooLarge", id="413"),
        pytest.param(403, status(403, "Forbidden", "no"), Refused, "(Forbidden): no", id="403"),
        pytest.param(
            403,
            status(403, "Forbidden", "no", causes=[{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]),
            Transient,
            "Forbidden",
            id="a namespace that is going away",
        ),
        pytest.param(429, None, Busy, "TooManyRequests", id="429"),
        pytest.param(503, None, Busy, "ServiceUnavailable", id="503"),
        pytest.param(500, status(500, "InternalError", "failed calling webhook"), Transient, "webhook", id="500"),
        pytest.param(
            500,
            status(500, "", ".spec.foo: field not declared in schema"),
            Invalid,
            "field not declared",
            id="a field that does not exist",
        ),
        pytest.param(
            500,
            status(500, "", "failed to convert new object (/s; /v1, Kind=ConfigMap) to proper version: error decoding"),
            Invalid,
            "(Invalid): failed to convert",
            id="a value that cannot be read",
        ),
        pytest.param(
            500,
            status(500, "", "failed to convert new object: conversion webhook for example.org/v1 failed: refused"),
            Transient,
            "conversion webhook",
            id="a conversion webhook that is down",
        ),
    ],
)
async def test_refusals_become_our_errors(
    fake: Fake, api: Cluster, code: int, body: Any, error: type[Exception], words: str
) -> None:
    fake.answers = [says(code, body)]
    with pytest.raises(error) as caught:
        await api.apply(PODS, POD, b"{}", force=False)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert str(caught.value).startswith("Pod/shop/web apply failed (")


async def test_a_conflict_names_fields_and_managers(fake: Fake, api: Cluster) -> None:
    cause = {"reason": "FieldManagerConflict", "message": 'conflict with "helm" using v1', "field": ".spec.x"}
    fake.answers = [says(409, status(409, "Conflict", "no", causes=[cause]))]
    with pytest.raises(Conflict) as caught:
        await api.apply(PODS, POD, b"{}", force=False)
    assert caught.value.fields == (("helm", ".spec.x"),)


STATEFUL = (
    "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit' and 'minReadySeconds' are forbidden"
)


@pytest.mark.parametrize(
    ("told", "immutable"),
    [
        pytest.param(["Invalid value: 3: field is immutable"], True, id="selector, Job, StorageClass, type, CRD"),
        pytest.param(['Invalid value: ["10.0.0.78"]: may not change once set'], True, id="clusterIP"),
        pytest.param([STATEFUL], True, id="StatefulSet"),
        pytest.param(['Invalid value: {"Name":"edit"}: cannot change roleRef'], True, id="roleRef"),
        pytest.param(["Forbidden: spec is immutable after creation except resources.requests"], True, id="claim"),
        pytest.param(["Forbidden: field is immutable when `immutable` is set"], True, id="immutable data"),
        pytest.param(["Forbidden: may not be changed in an update."], True, id="PriorityClass"),
        pytest.param(["Forbidden: pod updates may not change fields other than `image`"], True, id="Pod"),
        pytest.param(['Invalid value: "b": failed rule: self == oldSelf'], True, id="a transition rule"),
        pytest.param(["Required value"], False, id="something else"),
        pytest.param([STATEFUL, "Required value"], False, id="that and something else"),
    ],
)
async def test_a_refusal_says_whether_all_that_is_wrong_is_that_a_field_cannot_change(
    fake: Fake, api: Cluster, told: list[str], immutable: bool
) -> None:
    causes = [{"field": "spec", "message": text} for text in told]
    fake.answers = [says(422, {"reason": "Invalid", "message": "no", "details": {"causes": causes}})]
    with pytest.raises(Invalid) as caught:
        await api.apply(PODS, POD, b"{}", force=True)
    assert caught.value.immutable is immutable


async def test_a_precondition_in_the_body_that_does_not_hold_is_a_conflict(fake: Fake, api: Cluster) -> None:
    other = {"causes": [{"field": "metadata.uid", "message": "Invalid value: field is immutable"}]}
    fake.answers = [says(409, {"reason": "Conflict"}), says(422, {"reason": "Invalid", "details": other})]
    for _ in range(2):
        with pytest.raises(Conflict):
            await api.apply(PODS, POD, b"{}", force=True, conditional=True)
    fake.answers = [says(409, {"reason": "Conflict"})]
    with pytest.raises(Transient):
        await api.apply(PODS, POD, b"{}", force=True)


async def test_a_request_in_somebodys_name_says_so_and_discovery_does_not(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(200, {"metadata": {}})]
    await api.acting_as("shop/tenant").get(PODS, POD)
    await api.get(PODS, POD)
    with pytest.raises(NotFound):
        await api.acting_as("shop/tenant").resource("v1", "Nothing")
    named = [request.headers.get("Impersonate-User") for request in fake.seen]
    assert named == ["system:serviceaccount:shop:tenant", *[None] * (len(named) - 1)]


@pytest.mark.parametrize(
    ("message", "details", "what"),
    [
        pytest.param('pods "web" not found', {"name": "web", "kind": "pods"}, "object", id="the object"),
        pytest.param(
            'namespaces "shop" not found', {"name": "shop", "kind": "namespaces"}, "namespace", id="namespace"
        ),
        pytest.param("the server could not find the requested resource", {}, "kind", id="the kind"),
    ],
)
async def test_what_is_not_found_is_told(
    fake: Fake, api: Cluster, message: str, details: dict[str, Any], what: str
) -> None:
    fake.answers = [says(404, status(404, "NotFound", message, **details))]
    with pytest.raises(NotFound) as caught:
        await api.apply(PODS, POD, b"{}", force=False)
    assert caught.value.what == what


async def test_the_wait_that_the_server_asks_for_is_kept(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(429, None, **{"Retry-After": "7"})]
    with pytest.raises(Transient) as caught:
        await api.get(PODS, POD)
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("code", "message", "kept"),
    [
        pytest.param(422, 'data[k]: Invalid value: "aHVudGVyMg=="', "data[k]", id="validation"),
        pytest.param(400, "cannot decode aHVudGVyMg==", "", id="decoding"),
        pytest.param(
            403,
            'admission webhook "w" denied the request: hunter2 is weak',
            'admission webhook "w" denied',
            id="webhook",
        ),
        pytest.param(
            403,
            "ValidatingAdmissionPolicy 'p' denied request: hunter2 is weak",
            "ValidatingAdmissionPolicy",
            id="policy",
        ),
        pytest.param(500, "failed calling webhook: hunter2", "", id="internal"),
        pytest.param(
            500,
            "failed to create typed patch object (/s; /v1, Kind=Secret): .data.p: expected string, got Value:hunter2",
            ".data.p: expected string",
            id="a value of the wrong type",
        ),
    ],
)
async def test_what_the_server_says_of_a_secret_never_quotes_it(
    fake: Fake, api: Cluster, code: int, message: str, kept: str
) -> None:
    fake.answers = [says(code, status(code, "", message, causes=[{"field": "data[k]", "message": message}]))]
    with pytest.raises((Invalid, Refused, Transient)) as caught:
        await api.apply(SECRETS, ObjectKey(group="", kind="Secret", namespace="shop", name="s"), b"{}", force=True)
    told = f"{caught.value!s} {caught.value!r} {caught.value.__dict__}"
    assert "hunter2" not in told
    assert "aHVudGVyMg==" not in told
    assert kept in told


async def test_a_patch_whose_test_did_not_hold_is_a_conflict(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(422, status(422, "Invalid", "the server rejected our request"))]
    with pytest.raises(Conflict):
        await api.json_patch(PODS, POD, [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}])
    with pytest.raises(Invalid):
        await api.json_patch(PODS, POD, [{"op": "add", "path": "/x", "value": "1"}])


async def test_a_server_that_is_not_there_is_transient(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1", {})
    async with Cluster.connect(path) as api:
        with pytest.raises(Transient, match=r"API server version failed \(Unreachable\)"):
            await api.version()


async def test_an_answer_that_is_cut_off_is_transient(fake: Fake, api: Cluster) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        await reset(response)
        return response

    fake.answers = [cut]
    with pytest.raises(Transient, match="get failed"):
        await api.get(PODS, POD)


# --- credentials --------------------------------------------------------------------------------------------------


async def test_a_refused_token_is_read_anew_once(fake: Fake, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def check(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == "Bearer new"
        return web.json_response({"gitVersion": "v1.36.3"} if good else {}, status=200 if good else 401)

    fake.answers = [check]
    async with Cluster.connect(kubeconfig(tmp_path, fake.url, {"tokenFile": str(token)})) as api:
        token.write_text("new")
        assert await api.version() == "v1.36.3"
        assert [request.headers["Authorization"] for request in fake.seen] == ["Bearer old", "Bearer new"]
        assert await api.version() == "v1.36.3"
        assert len(fake.seen) == 3


async def test_a_token_that_stays_refused_is_told_and_not_asked_for_again_at_once(fake: Fake, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    plugin = tmp_path / "plugin"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "bad"}}
    plugin.write_text(f"#!/bin/sh\necho x >> {calls}\necho '{json.dumps(credential)}'\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    fake.answers = [says(401, status(401, "Unauthorized", "Unauthorized"))]
    async with Cluster.connect(kubeconfig(tmp_path, fake.url, user)) as api:
        for _ in range(3):
            with pytest.raises(Refused, match="credentials"):
                await api.version()
    assert fake.seen[0].headers["Authorization"] == "Bearer bad"
    assert calls.read_text().count("x") == 2


async def test_credentials_that_cannot_be_read_anew_are_asked_for_again_later(fake: Fake, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    fake.answers = [says(401)]
    async with Cluster.connect(kubeconfig(tmp_path, fake.url, {"tokenFile": str(token)})) as api:
        token.unlink()
        with pytest.raises(Transient, match="credentials: were refused and cannot be read anew"):
            await api.version()


async def test_a_token_about_to_end_is_renewed_before_it_is_used(fake: Fake, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "short", "expirationTimestamp": "2020-01-01T00:00:00Z"},
    }
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    fake.answers = [says(200, {"gitVersion": "v1"})]
    async with Cluster.connect(kubeconfig(tmp_path, fake.url, user)) as api:
        plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential).replace('short', 'next')}'\n")
        await api.version()
        assert fake.seen[-1].headers["Authorization"] == "Bearer next"
        plugin.write_text("#!/bin/sh\nexit 1\n")
        with pytest.raises(Transient, match="credentials: cannot be renewed"):
            await api.version()


@pytest.mark.parametrize(
    ("text", "context"),
    [
        pytest.param(None, None, id="no file"),
        pytest.param("{", None, id="no YAML"),
        pytest.param("[]", None, id="no mapping"),
        pytest.param("{clusters: [], contexts: [], users: []}", None, id="no context"),
        pytest.param("{clusters: [], contexts: [], users: [], current-context: x}", "other", id="another context"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, context: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=f"kubeconfig {path}: cannot be used"):
        async with Cluster.connect(path, context):
            pass


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", {"token": "t"})
    path.write_text(
        path.read_text().replace("cluster:\n", "cluster:\n    certificate-authority-data: bm90aGluZw==\n", 1)
    )
    with pytest.raises(InvalidInput, match=r"TLS settings for https://127\.0\.0\.1:1: cannot be used"):
        async with Cluster.connect(path):
            pass


async def test_without_a_kubeconfig_and_outside_of_a_pod_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidInput, match="--kubeconfig"):
        async with Cluster.connect(None):
            pass


# --- discovery ----------------------------------------------------------------------------------------------------


def discovered(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    served = {"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["get"]}
    metadata = {"name": group} if group else {}
    return {"items": [{"metadata": metadata, "versions": [{"version": version, "resources": [served]}]}]}


async def test_two_requests_tell_every_kind(fake: Fake, api: Cluster) -> None:
    fake.answers = [
        says(200, discovered("", "v1", "Pod", "pods")),
        says(200, discovered("apps", "v1", "Deployment", "deployments")),
    ]
    for _ in range(3):
        deployments = await api.resource("apps/v1", "Deployment")
        pods = await api.resource("v1", "Pod")
    assert (deployments.base, deployments.plural, deployments.namespaced) == ("/apis/apps/v1", "deployments", True)
    assert (pods.base, pods.plural) == ("/api/v1", "pods")
    assert api.requests == {"discovery": 2}


async def test_a_kind_that_came_later_is_asked_for_by_its_group_and_version(fake: Fake, api: Cluster) -> None:
    later = {
        "resources": [{"name": "shops", "kind": "Shop", "namespaced": True}, {"name": "shops/status", "kind": "Shop"}]
    }
    fake.answers = [says(200, discovered("", "v1", "Pod", "pods")), says(200, {"items": []}), says(200, later)]
    assert (await api.resource("example.org/v1", "Shop")).plural == "shops"
    assert fake.seen[-1].path == "/apis/example.org/v1"


async def test_a_kind_that_is_not_served_is_named_and_not_asked_for_in_a_row(fake: Fake, api: Cluster) -> None:
    fake.answers = [
        says(200, discovered("", "v1", "Pod", "pods")),
        says(200, {"items": []}),
        says(404, status(404, "NotFound", "the server could not find the requested resource")),
    ]
    for _ in range(3):
        with pytest.raises(NotFound, match=r"Shop of example\.org/v1: is not served") as caught:
            await api.resource("example.org/v1", "Shop")
        assert caught.value.what == "kind"
    assert api.requests == {"discovery": 3}


async def test_a_kind_whose_definition_went_away_is_looked_up_again(fake: Fake, api: Cluster) -> None:
    fake.answers = [says(200, discovered("", "v1", "Pod", "pods")), says(200, discovered("a", "v1", "Shop", "shops"))]
    shops = await api.resource("a/v1", "Shop")
    fake.answers = [
        says(404, status(404, "NotFound", "the server could not find the requested resource")),
        says(200, {"resources": [{"name": "stores", "kind": "Shop", "namespaced": True, "verbs": []}]}),
    ]
    with pytest.raises(NotFound):
        await api.get(shops, ObjectKey(group="a", kind="Shop", namespace="n", name="x"))
    assert (await api.resource("a/v1", "Shop")).plural == "stores"


# --- watches ------------------------------------------------------------------------------------------------------


def told(events: list[WatchEvent]) -> list[str]:
    return [f"{event.kind} {event.object['metadata']['name']}" if event.object else event.kind for event in events]


@asynccontextmanager
async def watching(api: Cluster) -> AsyncIterator[Callable[[int], Awaitable[list[str]]]]:
    async with aclosing(api.watch(PODS, selector="a=b", metadata_only=True)) as events:  # type: ignore[type-var]

        async def take(count: int) -> list[str]:
            with anyio.fail_after(10):
                return told([await anext(events) for _ in range(count)])

        yield take


async def test_initial_events_are_streamed_and_end_with_synced(fake: Fake, api: Cluster) -> None:
    fake.answers = [streams(pod("a", 1), bookmark(3, end=True), pod("b", 4, "MODIFIED"), then=silence)]
    async with watching(api) as take:
        assert await take(3) == ["ADDED a", "SYNCED", "MODIFIED b"]
    query = dict(fake.seen[0].query)
    assert 2880 <= int(query.pop("timeoutSeconds")) <= 4320
    assert query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "labelSelector": "a=b",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
    }
    assert fake.seen[0].headers["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@pytest.mark.parametrize(
    ("ending", "last"),
    [
        pytest.param(streams(pod("a", 1), bookmark(3, end=True)), "3", id="closed by the server"),
        pytest.param(streams(pod("a", 1), bookmark(3, end=True), bookmark(9)), "9", id="after a bookmark"),
        pytest.param(streams(pod("a", 1), bookmark(3, end=True), then=reset), "3", id="connection lost"),
        pytest.param(streams(pod("a", 1), bookmark(3, end=True), b'{"type"'), "3", id="cut off in a line"),
    ],
)
async def test_a_watch_goes_on_from_where_it_was(fake: Fake, api: Cluster, ending: Handler, last: str) -> None:
    fake.answers = [ending, says(503), streams(pod("b", 10), then=silence)]
    async with watching(api) as take:
        assert await take(3) == ["ADDED a", "SYNCED", "ADDED b"]
    again = fake.seen[-1].query
    assert again["resourceVersion"] == last
    assert "sendInitialEvents" not in again


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param([streams(pod("a", 1), bookmark(3, end=True)), says(410)], id="410"),
        pytest.param(
            [streams(pod("a", 1), bookmark(3, end=True), {"type": "ERROR", "object": {"code": 410}})],
            id="an ERROR event",
        ),
        pytest.param([streams(pod("a", 1), bookmark(3, end=True), then=silence)], id="silence"),
    ],
)
async def test_a_watch_that_cannot_go_on_begins_anew(fake: Fake, api: Cluster, ending: list[Handler]) -> None:
    fake.answers = [*ending, streams(pod("b", 10), bookmark(12, end=True), then=silence)]
    async with watching(api) as take:
        assert await take(5) == ["ADDED a", "SYNCED", "RESTARTED", "ADDED b", "SYNCED"]
    assert fake.seen[-1].query["sendInitialEvents"] == "true"


async def test_a_watch_that_broke_before_it_was_synced_begins_anew(fake: Fake, api: Cluster) -> None:
    fake.answers = [streams(pod("a", 1), then=reset), streams(pod("a", 1), bookmark(3, end=True), then=silence)]
    async with watching(api) as take:
        assert await take(4) == ["ADDED a", "RESTARTED", "ADDED a", "SYNCED"]


async def test_a_server_without_streamed_lists_is_listed_in_pages(fake: Fake, api: Cluster) -> None:
    refused = says(422, status(422, "Invalid", "sendInitialEvents is forbidden"))
    first = {"metadata": {"resourceVersion": "5", "continue": "more"}, "items": [pod("a", 1)["object"]]}
    second = {"metadata": {"resourceVersion": "5"}, "items": [pod("b", 2)["object"]]}
    fake.answers = [refused, says(200, first), says(200, second), streams(pod("c", 6)), says(410), says(200, second)]
    fake.answers.append(streams(then=silence))
    async with watching(api) as take:
        assert await take(4) == ["ADDED a", "ADDED b", "SYNCED", "ADDED c"]
        assert await take(3) == ["RESTARTED", "ADDED b", "SYNCED"]
    assert fake.seen[2].query["continue"] == "more"
    assert fake.seen[3].query["resourceVersion"] == "5"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(says(403, status(403, "Forbidden", "no")), Refused, id="no right to it"),
        pytest.param(says(404), NotFound, id="no such kind any more"),
    ],
)
async def test_a_watch_that_is_refused_says_so(
    fake: Fake, api: Cluster, answer: Handler, error: type[Exception]
) -> None:
    fake.answers = [answer]
    async with watching(api) as take:
        with pytest.raises(error, match="Pod watch failed"):
            await take(1)


async def test_a_line_may_be_longer_than_any_buffer(fake: Fake, api: Cluster) -> None:
    big = pod("a", 1)
    big["object"]["metadata"]["annotations"] = {"x": "y" * 5_000_000}
    fake.answers = [streams(big, bookmark(3, end=True), then=silence)]
    async with watching(api) as take:
        assert await take(2) == ["ADDED a", "SYNCED"]


def test_backoff_doubles_to_a_limit_and_is_spread() -> None:
    waits = list(itertools.islice(backoff(first_s=1.0, most_s=8.0), 8))
    for wait, middle in zip(waits, (1, 2, 4, 8, 8, 8, 8, 8), strict=True):
        assert middle * 0.5 <= wait <= middle * 1.5
