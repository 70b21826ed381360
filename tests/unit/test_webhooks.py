"""Webhooks of Git hosts: which deliveries wake the hub, and how each other one is answered."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from hub.api import http, webhooks
from hub.api.webhooks import Webhooks

SECRET = b"a secret of both"
NOW = 1_700_000_000.0
MAIN = {"ref": "refs/heads/main", "after": "1" * 40}
SIGNING = b"whsec_" + base64.b64encode(b"k" * 32)


def mac(body: bytes, secret: bytes = SECRET) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def standard(body: bytes, *, time_s: float = NOW, id_: str = "msg-1", key: bytes = b"k" * 32) -> dict[str, str]:
    signed = f"{id_}.{time_s:.0f}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "X-Gitlab-Event": "Push Hook",
        "webhook-id": id_,
        "webhook-timestamp": f"{time_s:.0f}",
        "webhook-signature": f"v1,{base64.b64encode(b'another').decode()} v1,{signature}",
    }


def headers(provider: str, body: bytes, *, id_: str = "1", event: str = "push") -> dict[str, str]:
    """As the provider sends them."""
    match provider:
        case "github":
            return {"X-GitHub-Event": event, "X-GitHub-Delivery": id_, "X-Hub-Signature-256": f"sha256={mac(body)}"}
        case "gitea":
            return {"X-Gitea-Event": event, "X-Gitea-Delivery": id_, "X-Gitea-Signature": mac(body)}
        case "bitbucket":
            return {"X-Event-Key": f"repo:{event}", "X-Request-UUID": id_, "X-Hub-Signature": f"sha256={mac(body)}"}
        case _:
            return {"X-Gitlab-Event": "Push Hook", "Idempotency-Key": id_, "X-Gitlab-Token": SECRET.decode()}


class Hub:
    """What the receiver is given: a clock, and how often it woke."""

    def __init__(self) -> None:
        self.now = NOW
        self.woken = 0
        self.webhooks = Webhooks((SIGNING, SECRET), ref="refs/heads/main", wake=self.wake, clock=lambda: self.now)

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
async def client(hub: Hub) -> AsyncIterator[TestClient[Any, Any]]:
    application = web.Application(middlewares=[http.errors])
    application.add_routes(hub.webhooks.routes())
    async with TestClient(TestServer(application)) as made:
        yield made


async def post(
    client: TestClient[Any, Any], provider: str, body: object, sent: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client.post(
        f"/webhooks/{provider}", data=data, headers=headers(provider, data) if sent is None else sent
    ) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("provider", "payload"),
    [
        pytest.param("github", MAIN, id="GitHub"),
        pytest.param("github", {**MAIN, "deleted": True}, id="GitHub, deleted"),
        pytest.param("gitlab", MAIN, id="GitLab"),
        pytest.param("gitea", MAIN, id="Gitea"),
        pytest.param(
            "bitbucket",
            {"push": {"changes": [{"new": {"type": "branch", "name": "main"}, "old": None}]}},
            id="Bitbucket",
        ),
        pytest.param(
            "bitbucket",
            {"push": {"changes": [{"new": None, "old": {"type": "branch", "name": "main"}}]}},
            id="Bitbucket, deleted",
        ),
        pytest.param(
            "bitbucket", {"changes": [{"ref": {"id": "refs/heads/main", "type": "BRANCH"}}]}, id="Bitbucket Data Center"
        ),
    ],
)
async def test_a_push_of_the_followed_branch_wakes_once(
    client: TestClient[Any, Any], hub: Hub, provider: str, payload: object
) -> None:
    assert await post(client, provider, payload) == (200, {"result": "woken", "reason": "refs/heads/main was pushed"})
    again = await post(client, provider, payload)
    assert again == (200, {"result": "ignored", "reason": "this delivery was received before"})
    assert hub.woken == 1


@pytest.mark.parametrize("name", ["X-Forgejo-Signature", "X-Gitea-Signature"])
async def test_forgejo_and_gitea_sign_alike(client: TestClient[Any, Any], hub: Hub, name: str) -> None:
    body = json.dumps(MAIN).encode()
    sent = {"X-Forgejo-Event": "push", "X-Forgejo-Delivery": "1", name: mac(body)}
    assert (await post(client, "gitea", body, sent))[1]["result"] == "woken"


async def test_gitea_may_sign_like_github(client: TestClient[Any, Any], hub: Hub) -> None:
    body = json.dumps(MAIN).encode()
    sent = {"X-Gitea-Event": "push", "X-Hub-Signature-256": f"sha256={mac(body)}"}
    assert (await post(client, "gitea", body, sent))[1]["result"] == "woken"


@pytest.mark.parametrize(
    ("provider", "payload", "event", "reason"),
    [
        pytest.param("github", {"ref": "refs/heads/other"}, "push", "not about refs/heads/main", id="another branch"),
        pytest.param("github", {"ref": "refs/tags/main"}, "push", "not about", id="a tag of the branch's name"),
        pytest.param("github", {"ref": "main"}, "create", "it tells of create, not of a push", id="another event"),
        pytest.param("github", {"zen": "x"}, "ping", "it tells of ping", id="a ping"),
        pytest.param("github", {}, "push", "not about", id="no ref"),
        pytest.param("github", {"ref": ["refs/heads/main"]}, "push", "not about", id="a ref that is a list"),
        pytest.param("bitbucket", {"push": {"changes": [None, {"new": 1}, 7]}}, "push", "not about", id="odd changes"),
        pytest.param("bitbucket", {"push": [], "changes": {}}, "push", "not about", id="odd shapes"),
        pytest.param(
            "bitbucket",
            {"push": {"changes": [{"new": {"type": "tag", "name": "main"}}]}},
            "push",
            "not about",
            id="a Bitbucket tag",
        ),
    ],
)
async def test_a_verified_delivery_about_something_else_is_ignored_with_the_reason(
    client: TestClient[Any, Any], hub: Hub, provider: str, payload: object, event: str, reason: str
) -> None:
    body = json.dumps(payload).encode()
    status, answer = await post(client, provider, body, headers(provider, body, event=event))
    assert (status, answer["result"]) == (200, "ignored")
    assert reason in answer["reason"]
    assert hub.woken == 0


BODY = json.dumps(MAIN).encode()


@pytest.mark.parametrize(
    ("provider", "sent"),
    [
        pytest.param("github", {"X-GitHub-Event": "push"}, id="unsigned"),
        pytest.param("github", {**headers("github", BODY), "X-Hub-Signature-256": mac(BODY)}, id="without its prefix"),
        pytest.param("github", {"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256="}, id="an empty signature"),
        pytest.param("github", {"X-GitHub-Event": "push", "X-Hub-Signature": f"sha1={'0' * 40}"}, id="SHA-1"),
        pytest.param("github", headers("github", BODY + b" "), id="of another body"),
        pytest.param("github", headers("gitea", BODY), id="of another provider"),
        pytest.param(
            "github",
            {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={mac(BODY, b'other')}"},
            id="of another secret",
        ),
        pytest.param("gitlab", {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "guess"}, id="a guessed token"),
        pytest.param("gitlab", {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "gu\xe9ss"}, id="not ASCII"),
        pytest.param("gitlab", headers("github", BODY), id="a signature where a token belongs"),
        pytest.param("gitlab", standard(BODY, time_s=NOW - 301), id="too old"),
        pytest.param("gitlab", standard(BODY, time_s=NOW + 301), id="from the future"),
        pytest.param("gitlab", {**standard(BODY), "webhook-timestamp": "\u0661"}, id="a time of other digits"),
        pytest.param("gitlab", {**standard(BODY), "webhook-id": "msg-2"}, id="under another id"),
        pytest.param("gitlab", {**standard(BODY), "webhook-timestamp": f"{NOW + 1:.0f}"}, id="at another time"),
        pytest.param(
            "gitlab",
            {**standard(BODY + b" "), "X-Gitlab-Token": SECRET.decode()},
            id="a token does not excuse a signature",
        ),
    ],
)
async def test_a_delivery_that_is_not_of_the_secrets_holder_is_refused(
    client: TestClient[Any, Any], hub: Hub, provider: str, sent: Mapping[str, str]
) -> None:
    status, answer = await post(client, provider, BODY, sent)
    assert status == 401
    assert SECRET.decode() not in json.dumps(answer)
    assert hub.woken == 0


async def test_what_was_refused_is_not_remembered(client: TestClient[Any, Any], hub: Hub) -> None:
    await post(client, "github", BODY, {**headers("github", BODY), "X-Hub-Signature-256": f"sha256={'0' * 64}"})
    assert (await post(client, "github", BODY))[1]["result"] == "woken"


async def test_gitlab_signs_id_and_time_too(client: TestClient[Any, Any], hub: Hub) -> None:
    assert (await post(client, "gitlab", BODY, standard(BODY)))[1]["result"] == "woken"
    hub.now += 200
    assert (await post(client, "gitlab", BODY, standard(BODY)))[1]["result"] == "ignored"
    raw = standard(b"{}", key=SECRET, id_="msg-2")
    assert (await post(client, "gitlab", b"{}", raw))[0] == 200
    assert hub.woken == 1


@pytest.mark.parametrize("changed", ["id", "body"])
async def test_a_replay_is_seen_by_its_id_and_by_its_body(client: TestClient[Any, Any], hub: Hub, changed: str) -> None:
    await post(client, "github", BODY, headers("github", BODY, id_="1"))
    body = BODY if changed == "id" else BODY + b" "
    again = headers("github", body, id_="2" if changed == "id" else "1")
    assert (await post(client, "github", body, again))[1]["result"] == "ignored"
    assert hub.woken == 1


async def test_what_was_seen_is_forgotten_after_an_hour_and_never_grows_beyond_its_limit(
    client: TestClient[Any, Any], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_REMEMBERED", 10)
    for number in range(20):
        body = json.dumps({**MAIN, "after": number}).encode()
        await post(client, "github", body, headers("github", body, id_=str(number)))
    assert hub.woken == 20
    assert len(hub.webhooks._seen) <= 11
    assert (await post(client, "github", body, headers("github", body, id_="19")))[1]["result"] == "ignored"
    hub.now += webhooks.REMEMBERED_S
    assert (await post(client, "github", body, headers("github", body, id_="19")))[1]["result"] == "woken"


async def test_deliveries_without_an_id_are_told_apart_by_their_bodies(client: TestClient[Any, Any], hub: Hub) -> None:
    for number in range(2):
        body = json.dumps({**MAIN, "after": number}).encode()
        await post(client, "gitea", body, {"X-Gitea-Event": "push", "X-Gitea-Signature": mac(body)})
    assert hub.woken == 2


@pytest.mark.parametrize("body", [b"", b"[]", b"payload=%7B%7D", b"{", b"[" * 100_000, b"\xff"])
async def test_a_verified_body_that_is_no_object_is_told_as_such(
    client: TestClient[Any, Any], hub: Hub, body: bytes
) -> None:
    status, answer = await post(client, "github", body)
    assert status == 400
    assert "application/json" in answer["remedy"]


async def test_a_body_beyond_the_limit_is_not_read(
    client: TestClient[Any, Any], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_BODY_BYTES", 10)
    assert (await post(client, "github", BODY))[0] == 413

    async def chunks() -> AsyncIterator[bytes]:
        yield BODY[:5]
        yield BODY[5:]

    async with client.post("/webhooks/github", data=chunks(), headers=headers("github", BODY)) as response:
        assert response.status == 413
    assert hub.woken == 0


async def test_an_encoded_body_is_refused_before_it_is_unpacked(client: TestClient[Any, Any], hub: Hub) -> None:
    status, _ = await post(client, "github", BODY, {**headers("github", BODY), "Content-Encoding": "gzip"})
    assert status in (400, 415)
    assert hub.woken == 0


async def test_an_unknown_provider_is_not_found(client: TestClient[Any, Any]) -> None:
    status, answer = await post(client, "gitbucket", BODY, headers("github", BODY))
    assert status == 404
    assert "github|gitlab|gitea|bitbucket" in answer["remedy"]


async def test_without_a_secret_everything_is_refused_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    hub.webhooks = Webhooks((), ref="refs/heads/main", wake=hub.wake, clock=lambda: hub.now)
    application = web.Application(middlewares=[http.errors])
    application.add_routes(hub.webhooks.routes())
    async with TestClient(TestServer(application)) as client:
        for sent in (headers("github", BODY), {"X-Hub-Signature-256": f"sha256={mac(BODY, b'')}"}):
            assert (await post(client, "github", BODY, sent))[0] == 403
    assert hub.woken == 0
    assert [record.getMessage() for record in caplog.records] == [
        "webhook of github refused: the hub has no webhook secret (start it with --webhook-secret-file)"
    ]


async def test_a_body_that_never_ends_is_given_up(
    client: TestClient[Any, Any], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "BODY_TIMEOUT_S", 0.05)
    done = anyio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield BODY
        await done.wait()

    async with client.post("/webhooks/github", data=chunks(), headers=headers("github", BODY)) as response:
        assert response.status == 408
        done.set()
    assert hub.woken == 0
