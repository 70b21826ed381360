"""HTTP for Helm repositories and OCI registries, which may be slow, endless, hostile, or not what they seem.

| rule                                                                                | because                        |
|-------------------------------------------------------------------------------------|--------------------------------|
| every request has a limit of bytes, one conversation a limit of time                | a server may never end         |
| redirects are followed by us, a few, never from https to http                       | they choose where we go        |
| without TLS nobody leads to another host, but this machine to itself, and to what   | a cloud's metadata and this    |
| credentials are for                                                                 | machine's ports speak http     |
| each address is asked anew which headers it may get, redirects' too                 | a login is for some hosts only |
| only `http` and `https`; the system's proxy settings count                          | urllib would read files too    |
| a body that ends too early is an error; nothing is uncompressed on the way          | http.client takes it for whole |

Statuses become our errors (`failed`): 401, 403 Refused; 408, 425, 429, 5xx Transient, with the wait that the server
asks for; the rest Permanent. No message has a query, a user or a header in it. Blocks: for a worker process. Next:
`helm_repo`, `oci`.
"""

import base64
import hashlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

from hub import scratch
from hub.external.credentials import Login
from hub.repo import addresses
from proto.errors import FlotillaError, Permanent, Refused, TooLarge, Transient

SOCKET_TIMEOUT_S = 20.0
TIME_LIMIT_S = 240.0
"""Of all that one source needs: below the limit of a worker's call, so that the message says what was slow."""
MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 3600.0
_CHUNK_BYTES = 256 << 10
_MAX_STATE_CHARACTERS = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429})

Headers = Callable[[str], Mapping[str, str]]
"""What to send to an address beside what every request has: credentials, if they are for it."""


def no_headers(url: str) -> Mapping[str, str]:
    return {}


def headers_of(login: Login | None) -> Headers:
    """The login, for the addresses that it is for."""

    def headers(url: str) -> Mapping[str, str]:
        if login is None or not (login.username or login.token) or not login.is_for(url.partition("?")[0]):
            return {}
        return {"Authorization": f"Bearer {login.token}" if login.token else basic(login)}

    return headers


def basic(login: Login) -> str:
    """HTTP's Basic authorization."""
    return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`url` is where it came from in the end; names of headers are in lower case."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


class Web:
    """A conversation about one `thing`, which its errors name. `login` says whose certificates are believed instead of
    the system's, and which addresses may be asked without TLS; `remedy` where in messages it is to be looked at."""

    def __init__(
        self, *, thing: str, login: Login | None = None, remedy: str = "", time_limit_s: float = TIME_LIMIT_S
    ) -> None:
        self.thing, self._login, self._remedy = thing, login, remedy or "name credentials for it"
        ca = login.ca if login is not None else None
        self._ends_at, self._limit_s = time.monotonic() + time_limit_s, time_limit_s
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as error:
            cause = f"the certificates in {ca} cannot be used: {_words(error)}"
            raise Permanent(thing, cause, "check its caFile: PEM certificates") from error
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def ask(self, url: str, *, headers: Headers = no_headers, max_bytes: int) -> Answer:
        """The answer to a GET, whatever its status; the body of a 200 only.

        Raises Transient, Permanent, or TooLarge beyond `max_bytes`.
        """
        with self._open(url, headers) as (response, answer):
            if answer.status != 200:
                return answer
            return replace(answer, body=b"".join(self._chunks(response, answer.url, max_bytes)))

    def get(self, url: str, *, headers: Headers = no_headers, max_bytes: int) -> Answer:
        """As `ask`, and a status other than 200 is raised too."""
        answer = self.ask(url, headers=headers, max_bytes=max_bytes)
        if answer.status != 200:
            raise self.failed(answer)
        return answer

    @contextmanager
    def saved(self, url: str, *, headers: Headers = no_headers, max_bytes: int) -> Iterator[tuple[Path, str]]:
        """A body in a temporary file, and its `sha256:…`. Raises as `get`; Transient too when the disk fails."""
        with scratch.folder("download") as place, (place / "body").open("wb") as file:
            digest = hashlib.sha256()
            with self._open(url, headers) as (response, answer):
                if answer.status != 200:
                    raise self.failed(answer)
                try:
                    for chunk in self._chunks(response, answer.url, max_bytes):
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise Transient(self.thing, f"cannot be kept: {_words(error)}", "check the hub's disk") from error
            yield Path(file.name), f"sha256:{digest.hexdigest()}"

    def leads(self, url: str, there: str) -> bool:
        """Whether what was read at `url` may name `there` as what is asked next."""
        before, after = urlsplit(url), urlsplit(there)
        if after.scheme != "http":
            return after.scheme == "https"
        if self._login is not None and self._login.is_for(there.partition("?")[0]):
            return True
        here = addresses.local(url) and addresses.local(there)
        return before.scheme == "http" and (here or before.hostname == after.hostname)

    def failed(self, answer: Answer) -> FlotillaError:
        """What a status means."""
        cause = f"{shown(answer.url)} answers with status {answer.status}"
        if answer.status in (401, 403):
            return Refused(self.thing, f"cannot be read without other credentials: {cause}", self._remedy)
        if answer.status in _LATER or answer.status >= 500:
            wait = _retry_after_s(answer.headers.get("retry-after", ""))
            return Transient(self.thing, f"cannot be read now: {cause}", retry_after_s=wait)
        if answer.status in (404, 410):
            return Permanent(self.thing, f"is not there: {cause}", "check its name, and that the hub may see it")
        return Permanent(self.thing, f"cannot be read: {cause}", "check its address")

    @contextmanager
    def _open(self, url: str, headers: Headers) -> Iterator[tuple[http.client.HTTPResponse, Answer]]:
        for _ in range(MAX_REDIRECTS + 1):
            with closing(self._sent(url, headers)) as response:
                found: dict[str, str] = {}
                for name, value in response.headers.items():
                    found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
                if response.status not in _REDIRECTS:
                    yield response, Answer(status=response.status, url=url, headers=found)
                    return
            url = self._next(url, found.get("location", ""))
        raise Permanent(self.thing, f"redirects more than {MAX_REDIRECTS} times", "use the address that it ends at")

    def _sent(self, url: str, headers: Headers) -> http.client.HTTPResponse:
        self._left_s()
        try:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError("it is not an http or https address")
            request = urllib.request.Request(url, headers={"User-Agent": "flotilla", **headers(url)})
            response = self._opener.open(request, timeout=min(SOCKET_TIMEOUT_S, self._left_s()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._lost(error, url) from error
        assert isinstance(response, http.client.HTTPResponse)
        return response

    def _chunks(self, response: http.client.HTTPResponse, url: str, max_bytes: int) -> Iterator[bytes]:
        size = 0
        while True:
            self._left_s()
            try:
                chunk = response.read1(_CHUNK_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._lost(error, url) from error
            if not chunk:
                break
            size += len(chunk)
            if size > max_bytes:
                cause = f"{shown(url)} has more than {max_bytes} bytes, the limit"
                raise TooLarge(self.thing, cause, "check its address, or publish less there")
            yield chunk
        if response.length:  # what is missing of what was announced
            raise Transient(self.thing, f"{shown(url)} ended too early", "see whether its server is well")

    def _left_s(self) -> float:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise Transient(self.thing, f"took longer than {self._limit_s:g} s", "see whether its server is well")
        return left

    def _next(self, url: str, location: str) -> str:
        there = joined(url, location)
        steps = urlsplit(url).scheme, urlsplit(there).scheme
        if not location or steps not in _STEPS or not self.leads(url, there):
            cause = f"{shown(url)} redirects to {shown(there)}" if location else f"{shown(url)} redirects nowhere"
            raise Permanent(self.thing, cause, "if that is right, use it as the address")
        return there

    def _lost(self, error: Exception, url: str) -> FlotillaError:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            cause = f"the certificate of {shown(url)} is not believed: {reason.verify_message}"
            return Permanent(self.thing, cause, "if it is the right server, name credentials with its caFile")
        if isinstance(error, (ValueError, http.client.InvalidURL)):
            return Permanent(self.thing, f"{shown(url)} cannot be asked", "check its address")
        words = "it did not answer in time" if isinstance(reason, TimeoutError) else _words(reason)
        return Transient(self.thing, f"{shown(url)} cannot be read: {words}", "check that the hub can reach it")


_STEPS = frozenset({("http", "http"), ("http", "https"), ("https", "https")})


def unless(answer: Answer) -> str:
    """Pure: the header that asks for the same only if it is another by then; "" when its server names no state."""
    for name, header in (("etag", "If-None-Match"), ("last-modified", "If-Modified-Since")):
        said = answer.headers.get(name, "")
        if said and said.isascii() and said.isprintable() and len(said) <= _MAX_STATE_CHARACTERS:
            return f"{header}: {said}"
    return ""


def joined(base: str, reference: str) -> str:
    """Pure: where `reference` leads from `base`; "" when it is no address."""
    try:
        return urljoin(base, reference)
    except ValueError:
        return ""


def shown(url: str) -> str:
    """Pure: an address as a message may have it: no user, no query, which may hold a key, nothing that is not text."""
    try:
        parts = urlsplit(url)
        text = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
    except ValueError:
        return "an address that is none"
    return "".join(c if c.isprintable() else "?" for c in text[:300])


def _words(reason: object) -> str:
    """Never what a server wrote: a line of it may repeat what was sent."""
    if isinstance(reason, socket.gaierror):
        return "its host has no address"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__


def _retry_after_s(text: str) -> float | None:
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() and len(text) < 10 else None
