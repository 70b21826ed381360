"""One message to an HTTP receiver, signed as Standard Webhooks 1.0 says, so that its stock libraries verify it.

| header              | holds                                                                                          |
|---------------------|------------------------------------------------------------------------------------------------|
| `webhook-id`        | the same however often a message is sent                                                       |
| `webhook-timestamp` | Unix seconds of this try                                                                       |
| `webhook-signature` | for each key `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, spaces between them |

| what the receiver does                    | what follows                                                             |
|-------------------------------------------|--------------------------------------------------------------------------|
| answers 2xx                               | it has the message                                                       |
| answers 408, 425, 429 or 5xx              | Transient, with the wait that it asks for                                |
| answers anything else, a redirect too     | Rejected: it would say the same again, and nobody is sent elsewhere      |
| does not answer, or is not who we believe | Transient                                                                |

Only an address that the named credentials are for is asked, so that who writes the fleet repo cannot make the hub speak
to what the hub's owner has not listed. The body of an answer is not read; the system's proxy settings count. Next:
`notifier` says when.
"""

import base64
import hmac
import ssl
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from hub.external import web
from hub.external.credentials import Login
from hub.repo import addresses
from proto.errors import Permanent, Transient

TIME_LIMIT_S = 15.0
"""Of one try, as Standard Webhooks advises; no receiver has to work in it."""
MAX_RETRY_AFTER_S = 3600.0
_LATER = frozenset({408, 425, 429})


class Rejected(Permanent):
    """The receiver answered that it does not take this message."""


def signature(keys: Iterable[bytes], *, id_: str, timestamp: int, body: bytes) -> str:
    """Pure: what `webhook-signature` holds."""
    content = b".".join((id_.encode(), str(timestamp).encode(), body))
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in keys)


async def post(url: str, body: bytes, *, login: Login, id_: str, thing: str, now: float) -> None:
    """Send a message; it is with the receiver when this returns. `thing` names the receiver in errors. Raises Rejected,
    Transient, and Permanent for credentials that cannot be used."""
    if not login.webhook_keys:
        raise Permanent(thing, "has credentials that do not sign", "give them a webhookSecret, in the hub's file")
    headers = {
        **web.headers_of(login)(url),
        "Content-Type": "application/json",
        "User-Agent": "flotilla",
        "webhook-id": id_,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": signature(login.webhook_keys, id_=id_, timestamp=int(now), body=body),
    }
    limits = aiohttp.ClientTimeout(total=TIME_LIMIT_S)
    try:
        believed = ssl.create_default_context(cafile=login.ca) if login.ca is not None else True
    except OSError as error:
        raise Permanent(thing, f"has a caFile that cannot be used: {login.ca}", "give it PEM certificates") from error
    try:
        async with (
            aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(
                url, data=body, headers=headers, ssl=believed, proxy=_proxy(url), allow_redirects=False
            ) as answer,
        ):
            status, told = answer.status, answer.headers
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Transient(thing, _words(error), "see whether it is well, and that the hub can reach it") from error
    if 200 <= status < 300:
        return
    cause = f"answers with status {status}"
    if status in _LATER or status >= 500:
        wait_s = retry_after_s(told, now)
        raise Transient(thing, cause, "see whether it is well", retry_after_s=wait_s)
    raise Rejected(thing, cause, "check its address and its credentials")


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Pure: how long the receiver wants to be left alone, of what is not absurd (RFC 9110, 10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _proxy(url: str) -> str | None:
    """The system's proxy for an address that is not of this machine."""
    parts = urlsplit(url)
    if addresses.local(url) or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _words(error: Exception) -> str:
    """Never what a server wrote: a line of it may repeat what was sent."""
    match error:
        case TimeoutError():
            return f"did not answer within {TIME_LIMIT_S:.0f} s"
        case aiohttp.ClientConnectorCertificateError():
            return "has a certificate that is not believed"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {error.os_error.strerror or 'its host has no address'}"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "ended the connection without an answer"
    return f"gave no answer: {type(error).__name__}"
