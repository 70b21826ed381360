"""Whatever strangers send to the webhooks, nothing fails and nobody wakes; a holder of the secret gets an answer."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.api import http
from hub.api.webhooks import PROVIDERS, Webhooks

SECRET = b"nobody can guess this"
WORDS = ["ref", "push", "changes", "new", "old", "type", "name", "id"]
NAMES = [
    *sorted({name for made in PROVIDERS.values() for name, _ in made.signatures}),
    *("X-Gitlab-Token", "webhook-id", "webhook-timestamp", "webhook-signature", "Content-Encoding", "Content-Type"),
    *("X-GitHub-Event", "X-Gitlab-Event", "X-Gitea-Event", "X-Event-Key", "X-GitHub-Delivery", "Idempotency-Key"),
]
VALUES = st.one_of(
    st.sampled_from(["push", "Push Hook", "repo:push", "gzip", "deflate", "br", "sha256=", "v1,", "1700000000"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x7E), max_size=80),
    st.text(st.characters(min_codepoint=0xA0, max_codepoint=0x2FF), max_size=20),
)
HEADERS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(), inner, max_size=4),
    max_leaves=12,
)
PUSHES: Mapping[str, Mapping[str, str]] = {
    "github": {"X-GitHub-Event": "push"},
    "gitlab": {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": SECRET.decode()},
    "gitea": {"X-Gitea-Event": "push"},
    "bitbucket": {"X-Event-Key": "repo:push"},
}
HERE = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Woken:
    times = 0

    def wake(self) -> None:
        self.times += 1


@pytest.fixture
def woken() -> Woken:
    return Woken()


@pytest.fixture
async def client(woken: Woken) -> AsyncIterator[TestClient[Any, Any]]:
    application = web.Application(middlewares=[http.errors])
    receiver = Webhooks((SECRET,), ref="refs/heads/main", wake=woken.wake, clock=lambda: 1_700_000_000.0)
    application.add_routes(receiver.routes())
    async with TestClient(TestServer(application)) as made:
        yield made


@HERE
@given(
    provider=st.sampled_from([*PROVIDERS, "other", "%2e%2e", "GITHUB"]),
    body=st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()),
    sent=HEADERS,
)
async def test_strangers_neither_wake_the_hub_nor_make_it_fail(
    client: TestClient[Any, Any], woken: Woken, provider: str, body: bytes, sent: dict[str, str]
) -> None:
    async with client.post(f"/webhooks/{provider}", data=body, headers=sent) as response:
        assert 400 <= response.status < 500
        assert SECRET not in await response.read()
    assert woken.times == 0


@HERE
@given(provider=st.sampled_from(sorted(PROVIDERS)), payload=JSON | st.dictionaries(st.sampled_from(WORDS), JSON))
async def test_any_payload_of_a_holder_of_the_secret_has_an_answer(
    client: TestClient[Any, Any], provider: str, payload: object
) -> None:
    body = json.dumps(payload).encode()
    mac = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    signatures = {name: prefix + mac for name, prefix in PROVIDERS[provider].signatures}
    async with client.post(f"/webhooks/{provider}", data=body, headers={**PUSHES[provider], **signatures}) as response:
        assert response.status == (200 if isinstance(payload, dict) else 400)
        answer = await response.json()
    assert answer.get("reason") or answer.get("remedy")
