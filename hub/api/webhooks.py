"""Webhooks of Git hosts: a push to what the hub follows makes it look at once instead of with the next poll.

A delivery is believed only this far: nothing of its payload is used but the names of the refs, and the look that it
causes fetches from upstream's own address. So the worst that a stolen secret gives is one more fetch.

| what arrives                                       | answer                                            |
|----------------------------------------------------|---------------------------------------------------|
| no secret is set, an unknown provider              | 403, 404                                          |
| a body that is too large, too slow or encoded      | 413, 408, 415; nothing of it is kept              |
| no signature of ours, or one too old               | 401                                               |
| verified, but no JSON object                       | 400, so that the provider's page shows it red     |
| verified, seen before, or about something else     | 200, `ignored` and why                            |
| verified, a push of what is followed               | 200, `woken`: `Upstream.wake`, where many become one |

Providers sign the body, most of them neither a time nor the delivery's id: so besides ids the digests of bodies are
remembered, and a replay under a new id is seen too. Next: `upstream`.
"""

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from hub.api import http

log = logging.getLogger("flotilla.hub")

MAX_BODY_BYTES = 2 << 20
"""A push of two thousand commits has about one; what is larger is found by the next poll."""
BODY_TIMEOUT_S = 10.0
REMEMBERED_S = 3600.0
MAX_REMEMBERED = 10_000
"""Only verified deliveries are remembered, so that strangers cannot push out what was seen."""
CLOCK_TOLERANCE_S = 300.0
"""Of a signed time, as the Standard Webhooks specification has it."""
LOGGED_EACH_S = 60.0
"""The same refusal is logged at most this often, whoever knocks."""

_SIGNING_SECRET = b"whsec_"
"""How most secrets of Standard Webhooks begin; the rest is base64."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one kind of Git host sends a push. Of several headers the first that is there counts."""

    signatures: tuple[tuple[str, str], ...]
    """Headers with an HMAC-SHA256 of the body in hex, and what stands before it."""
    event: tuple[str, ...]
    pushes: frozenset[str]
    delivery: tuple[str, ...]
    refs: Callable[[Json], Iterator[object]]


def _ref(payload: Json) -> Iterator[object]:
    yield payload.get("ref")


def _bitbucket_refs(payload: Json) -> Iterator[object]:
    """Bitbucket Cloud tells changes as new and old tips (one is null when a branch comes or goes), the Data Center
    edition as refs."""
    push = payload.get("push")
    for changes in (payload.get("changes"), push.get("changes") if isinstance(push, dict) else None):
        for change in changes if isinstance(changes, list) else ():
            if not isinstance(change, dict):
                continue
            if isinstance(ref := change.get("ref"), dict):
                yield ref.get("id")
            for tip in (change.get("new"), change.get("old")):
                if isinstance(tip, dict):
                    yield f"refs/{'tags' if tip.get('type') == 'tag' else 'heads'}/{tip.get('name')}"


PROVIDERS: Mapping[str, Provider] = {
    "github": Provider(
        signatures=(("X-Hub-Signature-256", "sha256="),),
        event=("X-GitHub-Event",),
        pushes=frozenset({"push"}),
        delivery=("X-GitHub-Delivery",),
        refs=_ref,
    ),
    "gitlab": Provider(
        signatures=(),
        event=("X-Gitlab-Event",),
        pushes=frozenset({"Push Hook", "Tag Push Hook"}),
        delivery=("webhook-id", "Idempotency-Key", "X-Gitlab-Event-UUID"),
        refs=_ref,
    ),
    "gitea": Provider(
        signatures=(("X-Forgejo-Signature", ""), ("X-Gitea-Signature", ""), ("X-Hub-Signature-256", "sha256=")),
        event=("X-Forgejo-Event", "X-Gitea-Event"),
        pushes=frozenset({"push"}),
        delivery=("X-Forgejo-Delivery", "X-Gitea-Delivery"),
        refs=_ref,
    ),
    "bitbucket": Provider(
        signatures=(("X-Hub-Signature", "sha256="),),
        event=("X-Event-Key",),
        pushes=frozenset({"repo:push", "repo:refs_changed"}),
        delivery=("X-Request-UUID", "X-Request-Id"),
        refs=_bitbucket_refs,
    ),
}
"""By the last part of the path. Forgejo sends Gitea's headers as well as its own."""


class Webhooks:
    """The handler; `routes` adds it to an application.

    `secrets` are those that deliveries may be signed with, several while one is being replaced; `ref` is what the hub
    follows (`refs/heads/main`), and `wake` makes it look.
    """

    def __init__(
        self, secrets: Sequence[bytes], *, ref: str, wake: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._secrets = tuple(secrets)
        self._ref = ref
        self._wake = wake
        self._clock = clock
        self._seen: dict[str, float] = {}
        """When, oldest first: delivery ids and digests of bodies, each with its provider."""
        self._logged: dict[str, float] = {}

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/webhooks/{provider}", self.handler)]

    async def handler(self, request: web.Request) -> web.Response:
        """One delivery; the module's docstring has the answers."""
        name = request.match_info["provider"]
        provider = PROVIDERS.get(name)
        if provider is None:
            raise http.NotFound("webhook", "is of no known provider", f"use /webhooks/{'|'.join(PROVIDERS)}")
        if not self._secrets:
            return self._refused(name, 403, "the hub has no webhook secret", "start it with --webhook-secret-file")
        if not _signed(provider, request.headers):
            return self._refused(name, 401, "it is not signed", "set the secret at the Git host")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return self._refused(name, 415, "its body is encoded", "send it as it is")
        try:
            with anyio.fail_after(BODY_TIMEOUT_S):
                body = await _body(request)
        except TimeoutError:
            return self._refused(name, 408, f"its body took longer than {BODY_TIMEOUT_S:g} s", "try again")
        except (HttpProcessingError, aiohttp.ClientPayloadError, web.RequestPayloadError):
            return self._refused(name, 400, "its body is broken", "send it again")
        if body is None:
            return self._refused(name, 413, f"it is over {MAX_BODY_BYTES >> 20} MiB", "the next poll finds the push")
        now = self._clock()
        if not any(verified(provider, request.headers, body, secret=secret, now=now) for secret in self._secrets):
            return self._refused(name, 401, "its signature is wrong or too old", "compare the secrets and the clocks")
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError:
            payload = None
        if not isinstance(payload, dict):
            return self._refused(name, 400, "it is no JSON object", "choose the content type application/json there")
        ignored = self._why_ignored(name, provider, request.headers, payload, body, now)
        if ignored:
            log.debug("webhook of %s ignored: %s", name, ignored)
            return http.answer({"result": "ignored", "reason": ignored})
        log.info("webhook of %s: %s was pushed", name, self._ref)
        self._wake()
        return http.answer({"result": "woken", "reason": f"{self._ref} was pushed"})

    def _why_ignored(
        self, name: str, provider: Provider, headers: Mapping[str, str], payload: Json, body: bytes, now: float
    ) -> str:
        """Why a verified delivery wakes nobody, or ""; from now on it was seen."""
        digest = hashlib.sha256(body).hexdigest()
        if self._was_seen((f"{name} {digest}", f"{name} id {_first(headers, provider.delivery)[:200]}"), now):
            return "this delivery was received before"
        event = _first(headers, provider.event)
        if event not in provider.pushes:
            return f"it tells of {event[:80] or 'nothing'}, not of a push"
        if self._ref not in provider.refs(payload):
            return f"it is not about {self._ref}"
        return ""

    def _was_seen(self, marks: Sequence[str], now: float) -> bool:
        while self._seen:
            oldest = next(iter(self._seen))
            if len(self._seen) < MAX_REMEMBERED and now - self._seen[oldest] < REMEMBERED_S:
                break
            del self._seen[oldest]
        marks = [mark for mark in marks if not mark.endswith(" id ")]  # of one that tells no id, the body alone
        seen = any(mark in self._seen for mark in marks)
        for mark in marks:
            self._seen.setdefault(mark, now)
        return seen

    def _refused(self, name: str, status: int, cause: str, remedy: str) -> web.Response:
        now = self._clock()
        if abs(now - self._logged.get(f"{name} {cause}", -LOGGED_EACH_S)) >= LOGGED_EACH_S:
            self._logged[f"{name} {cause}"] = now
            log.warning("webhook of %s refused: %s (%s)", name, cause, remedy)
        return http.answer({"error": f"webhook: {cause}", "remedy": remedy}, status=status)


def verified(provider: Provider, headers: Mapping[str, str], body: bytes, *, secret: bytes, now: float) -> bool:
    """Pure: whether `body` was sent by who knows `secret`, in constant time for headers of one kind."""
    for header, prefix in provider.signatures:
        if header in headers:
            expected = prefix + hmac.new(secret, body, hashlib.sha256).hexdigest()
            return _same(headers[header].strip(), expected)
    if provider.signatures:
        return False
    if "webhook-signature" in headers:
        return _verified_standard(headers, body, secret=secret, now=now)
    return _same(headers.get("X-Gitlab-Token", ""), secret.decode("utf-8", "surrogateescape"))


def _verified_standard(headers: Mapping[str, str], body: bytes, *, secret: bytes, now: float) -> bool:
    """Standard Webhooks: HMAC-SHA256 of id, time and body; several signatures while the sender changes its secret."""
    key = secret
    if secret.startswith(_SIGNING_SECRET):
        try:
            key = base64.b64decode(secret.removeprefix(_SIGNING_SECRET), validate=True)
        except binascii.Error:
            return False
    stated = headers.get("webhook-timestamp", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 12):
        return False
    if abs(now - int(stated)) > CLOCK_TOLERANCE_S:
        return False
    signed = f"{headers.get('webhook-id', '')}.{stated}.".encode("utf-8", "surrogateescape") + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(_same(given, expected) for given in headers["webhook-signature"].split()[:10])


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape"))


def _signed(provider: Provider, headers: Mapping[str, str]) -> bool:
    """Whether there is anything to verify: a body without is not even read."""
    wanted = [header for header, _ in provider.signatures] or ["webhook-signature", "X-Gitlab-Token"]
    return bool(_first(headers, wanted))


def _first(headers: Mapping[str, str], names: Sequence[str]) -> str:
    return next((headers[name] for name in names if headers.get(name)), "")


async def _body(request: web.Request) -> bytes | None:
    """The body, or None when it is too large; no more than the limit is held."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)
