"""Fetching one ref from a Git host (the hub, or a mirror of its slices), which may be away, slow, full of lies or a
web page.

Nothing here is believed but what the host answers to our question: `receive` checks what came. Every error names the
slice, and a login never shows in one. Assumes the settings of libgit2 that `slice_store` makes.
"""

import base64
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import pygit2
from pygit2.enums import CredentialType

from proto.errors import ProtocolError, Refused, TooLarge, Transient
from proto.ids import Oid

MAX_FETCH_BYTES: Final = 256 << 20
MAX_ANSWER_BYTES: Final = 64 << 10
"""Looked at of an answer that only says what there is."""
CONNECT_TIMEOUT_S: Final = 10
SERVER_TIMEOUT_S: Final = 30
FETCHED_REF: Final = "refs/flotilla/fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How we say who we are, as HTTP's basic authentication has it."""

    user: str
    password: str = field(repr=False)


async def ask(url: str, login: Login | None, *, thing: str) -> None:
    """The first request of a fetch, made before libgit2 makes it. Raises Refused or Transient about `thing`.

    libgit2 1.9 follows a redirect of it whatever it is told, crashes the process when the redirect leads nowhere, and
    tells an HTTP status only in words.
    """
    async with _session(url, login, thing=thing) as http:
        await _get(http, url, thing=thing)


async def tip(url: str, ref: str, login: Login | None, *, thing: str) -> Oid | None:
    """Where `ref` of the host is, in two small answers however many refs it has; None when that has to be found out by
    a fetch. Does what `ask` does. Raises Refused, Transient, or ProtocolError when there is no such ref.

    Source: gitprotocol-v2(5), ls-refs, which libgit2 1.9 does not speak: it has all refs listed.
    """
    async with _session(url, login, thing=thing) as http:
        if b"version 2\n" not in await _get(http, url, thing=thing):
            return None
        lines = ("command=ls-refs\n", "", f"ref-prefix {ref}\n")
        asked = "".join(f"{len(line) + 4:04x}{line}" if line else "0001" for line in lines) + "0000"
        headers = {"Content-Type": "application/x-git-upload-pack-request"}
        async with http.post(
            f"{url.rstrip('/')}/git-upload-pack", data=asked.encode(), headers=headers, allow_redirects=False
        ) as answer:
            _check_status(answer.status, url, thing=thing)
            said = await _start_of(answer)
    found = re.search(rb"([0-9a-f]{40}) " + re.escape(ref).encode() + rb"(?![^ \n])", said)
    if found is not None:
        return Oid(found[1].decode())
    if said.endswith(b"0000") and len(said) < MAX_ANSWER_BYTES:
        raise _no_ref(thing, url, ref)
    return None


@asynccontextmanager
async def _session(url: str, login: Login | None, *, thing: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Git-Protocol": "version=2"}
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
    timeout = aiohttp.ClientTimeout(total=SERVER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout, headers=headers) as http:
            yield http
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _away(thing, url, error) from error


async def _get(http: aiohttp.ClientSession, url: str, *, thing: str) -> bytes:
    """How the answer to the first request begins."""
    at = f"{url.rstrip('/')}/info/refs"
    async with http.get(at, params={"service": "git-upload-pack"}, allow_redirects=False) as answer:
        _check_status(answer.status, url, thing=thing)
        return await _start_of(answer)


async def _start_of(answer: aiohttp.ClientResponse) -> bytes:
    said = b""
    async for piece in answer.content.iter_chunked(MAX_ANSWER_BYTES):
        said += piece
        if len(said) >= MAX_ANSWER_BYTES:
            break
    return said


def _check_status(status: int, url: str, *, thing: str) -> None:
    if status in (401, 403, 404) or 300 <= status < 400:
        raise _refused(thing, url, status)
    if status != 200:
        raise _away(thing, url, f"it answers with status {status}")


def fetch(
    repo: pygit2.Repository, url: str, ref: str, *, login: Login | None, abort: threading.Event, thing: str
) -> Oid:
    """Bring `ref` of `url` into `repo`, as FETCHED_REF: the commit that it names. Blocks until `abort` is set.

    Raises Transient (no answer, given up), Refused, TooLarge, or ProtocolError when there is no such ref.
    """
    if FETCHED_REF in repo.references:
        repo.references.delete(FETCHED_REF)
    with _git_host(thing, url):
        remote = repo.remotes.create_anonymous(url)
        callbacks = _Callbacks(login, abort, thing=thing)
        remote.fetch([f"+{ref}:{FETCHED_REF}"], callbacks=callbacks, proxy=True)
    if FETCHED_REF not in repo.references:
        raise _no_ref(thing, url, ref)
    if abort.is_set():
        raise _given_up(thing)
    return Oid(str(repo.references[FETCHED_REF].target))


class _Callbacks(pygit2.RemoteCallbacks):
    def __init__(self, login: Login | None, abort: threading.Event, *, thing: str) -> None:
        super().__init__()
        self._login = login
        self._abort = abort
        self._thing = thing
        self._asked = False

    def credentials(self, url: str, username_from_url: str | None, allowed_types: CredentialType) -> pygit2.UserPass:
        # libgit2 asks again for ever when the host refuses what it got.
        if self._asked or self._login is None:
            raise _refused(self._thing, "the Git host", 401)
        self._asked = True
        return pygit2.UserPass(self._login.user, self._login.password)

    def transfer_progress(self, stats: pygit2.remotes.TransferProgress) -> None:
        if self._abort.is_set():
            raise _given_up(self._thing)
        if stats.received_bytes > MAX_FETCH_BYTES:
            raise TooLarge(self._thing, f"has more than {MAX_FETCH_BYTES} bytes to fetch")


def _no_ref(thing: str, url: str, ref: str) -> ProtocolError:
    remedy = "the hub makes it when the cluster gets its first bundle"
    return ProtocolError(thing, f"is not at {url}: there is no ref {ref}", remedy)


def _given_up(thing: str) -> Transient:
    return Transient(thing, "was not fetched: the agent gave up waiting")


def _refused(thing: str, host: str, status: int) -> Refused:
    remedy = {
        401: "the agent gets a token when it is connected to the hub; for a mirror, give --slices-login-file",
        403: "check the address, and that it is this cluster's",
        404: "check the address of the slices",
    }.get(status, "redirects are not followed: give the agent the address that the host redirects to")
    return Refused(thing, f"is not given out by {host} (status {status})", remedy)


def _away(thing: str, url: str, error: object) -> Transient:
    return Transient(thing, f"cannot be fetched from {url}: {error}")


@contextmanager
def _git_host(thing: str, url: str) -> Iterator[None]:
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise _away(thing, url, error) from error
