"""Slices over Git's smart HTTP: each agent reads its own cluster's ref, and nothing else.

    GET  /git/<cluster>.git/info/refs?service=git-upload-pack     what there is
    POST /git/<cluster>.git/git-upload-pack                       ls-refs, or a pack

The rules, in the order in which they are applied (design, decision 11):

    no or a bad token                                   401, so that git asks for credentials
    a token of another cluster, or any push             403, whether or not there is such a cluster
    a body that is too large, or no Git request         413, 400 with the reason
    a want that was never this cluster's slice          an ERR packet, before the repository is looked at

Refs and membership come from the journal (`Chain`), never from the repository, which holds every cluster's objects.
Packs are put together from compressed entries that all clusters share; what an agent has is not sent again. Assumes
that `gitstore` holds what the journal names. `git_protocol` is the text of it.
"""

import base64
import binascii
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from aiohttp import web

from hub import packs
from hub.slices import git_protocol, shallow
from hub.slices.gitstore import GitStore
from hub.slices.shallow import Cut
from proto.errors import FlotillaError, InvalidInput, Permanent, ProtocolError, Refused, TooLarge, Transient
from proto.ids import Oid, check_name, slice_ref

MAX_REQUEST_BYTES = 1 << 20
"""Inflated or not: twenty thousand haves, where one negotiation of git gives up after a few hundred."""
_THREADS = 2
"""Walks and compression hold the interpreter for most of their time: more threads would only take it from the loop."""
_PIECE_BYTES = 256 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_NO_CACHE = {"Cache-Control": "no-cache, max-age=0, must-revalidate"}
_CHALLENGE: Final = 'Basic realm="flotilla", charset="UTF-8"'
_RETRY_AFTER_S = 5
BODY_S = 60.0
"""For the whole of a request, and"""
SEND_S = 120.0
"""for what a client did not take yet of its pack: whoever is slower is let go."""

_Negotiate = Callable[[git_protocol.Fetch, Sequence[Oid], Cut], git_protocol.Reply]
_Parse = Callable[[bytes], git_protocol.Fetch | git_protocol.ListRefs]
_V0: tuple[_Parse, _Negotiate] = (git_protocol.parse_v0, git_protocol.negotiate_v0)
_V2: tuple[_Parse, _Negotiate] = (git_protocol.parse_v2, git_protocol.negotiate_v2)

T = TypeVar("T")


class Chain(Protocol):
    """What the journal knows of one cluster's slices. Used in worker threads; may block."""

    @property
    def tip(self) -> Oid | None:
        """The cluster's current slice commit, None before its first."""

    def __contains__(self, commit: Oid) -> bool:
        """Was `commit` ever this cluster's slice?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pack:
    """What one client gets, once it is known that it may."""

    head: bytes
    oids: tuple[Oid, ...] | None
    """None: no pack follows yet."""


def routes(
    store: GitStore, *, cluster_of: Callable[[str], str], chain: Callable[[str], Chain]
) -> list[web.AbstractRouteDef]:
    """The routes of Git serving, for an aiohttp application.

    `cluster_of` gives the cluster of a bearer token, or raises Refused; it must not block. `chain` may block.
    """
    git = _GitHttp(store, cluster_of, chain)
    return [
        web.get("/git/{cluster}.git/info/refs", git.info_refs, allow_head=False),
        web.post("/git/{cluster}.git/git-upload-pack", git.upload_pack),
        web.post("/git/{cluster}.git/git-receive-pack", git.receive_pack),
    ]


class _GitHttp:
    def __init__(self, store: GitStore, cluster_of: Callable[[str], str], chain: Callable[[str], Chain]) -> None:
        self._store = store
        self._cluster_of = cluster_of
        self._chain = chain
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def info_refs(self, request: web.Request) -> web.Response:
        async with _answered():
            cluster = self._admit(request)
            service = request.query.get("service", "")
            if service == "git-receive-pack":
                raise _push(cluster)
            if service != "git-upload-pack":
                raise Refused(f"slice of cluster {cluster}", "is served over smart HTTP only", "use git 1.6.6 or newer")
            if _version(request) == 2:
                body = git_protocol.advertise_v2()
            else:
                tip = await self._in_thread(lambda: self._chain(cluster).tip)
                body = git_protocol.advertise_v0(slice_ref(cluster), tip)
            return _response(body, "advertisement")

    async def upload_pack(self, request: web.Request) -> web.StreamResponse:
        async with _answered():
            cluster = self._admit(request)
            body = await _body(request)
            parse, negotiate = _V2 if _version(request) == 2 else _V0
            try:
                asked = parse(body)
                if isinstance(asked, git_protocol.ListRefs):
                    tip = await self._in_thread(lambda: self._chain(cluster).tip)
                    return _response(git_protocol.list_refs(asked, slice_ref(cluster), tip), "result")
                pack = await self._in_thread(partial(self._decide, cluster, asked, negotiate))
            except Refused as error:
                return _response(git_protocol.error(str(error)), "result")
            if pack.oids is None:
                return _response(pack.head, "result")
            return await self._send(request, pack.head, pack.oids, side_band=asked.side_band)

    async def receive_pack(self, request: web.Request) -> web.Response:
        async with _answered():
            raise _push(self._admit(request))

    def _admit(self, request: web.Request) -> str:
        """The cluster that is asked for. Raises web.HTTPUnauthorized, HTTPForbidden, HTTPNotFound."""
        name = request.match_info["cluster"]
        try:
            check_name("cluster", name)
        except InvalidInput as error:
            raise web.HTTPNotFound(text=f"{error}\n") from error
        challenge = {"WWW-Authenticate": _CHALLENGE}
        token = _token(request)
        if token is None:
            raise web.HTTPUnauthorized(text="a token is needed\n", headers=challenge)
        try:
            owner = self._cluster_of(token)
        except Refused as error:
            raise web.HTTPUnauthorized(text=f"{error}\n", headers=challenge) from error
        if owner != name:
            raise web.HTTPForbidden(text=f"this token is for the slice of cluster {owner} only\n")
        return name

    def _decide(
        self,
        cluster: str,
        asked: git_protocol.Fetch,
        negotiate: _Negotiate,
    ) -> _Pack:
        """In a thread: membership first; the repository is looked at only for commits that are the cluster's own."""
        chain = self._chain(cluster)
        for want in asked.wants:
            if want not in chain:
                raise Refused(f"commit {want}", f"was never a slice of cluster {cluster}", "fetch its ref")
            if want != chain.tip and not self._store.has(want):
                raise Refused(f"commit {want}", "is too old and not kept any more", "fetch its ref")
        common = [have for have in asked.haves if have in chain and self._store.has(have)]
        edges = [commit for commit in asked.shallow if commit in chain]
        if not (asked.depth or edges):
            reply = negotiate(asked, common, Cut())
            return _Pack(head=reply.head, oids=tuple(self._store.missing(asked.wants, common)) if reply.pack else None)
        cut = shallow.cut(
            asked.wants,
            common,
            depth=asked.depth,
            relative=asked.relative,
            shallow=edges,
            history=self._store.history,
        )
        reply = negotiate(asked, common, cut)
        return _Pack(head=reply.head, oids=tuple(self._store.objects_of(cut.commits, common)) if reply.pack else None)

    async def _send(
        self, request: web.Request, head: bytes, oids: Sequence[Oid], *, side_band: bool
    ) -> web.StreamResponse:
        """The pack, as its entries are read. An error on the way reaches the client, or at least cuts it off."""
        response = web.StreamResponse(headers={**_NO_CACHE, "Content-Type": _type("result")})
        await response.prepare(request)
        await response.write(head)
        pieces = _gathered(packs.stream((self._store.entry(oid) for oid in oids), count=len(oids)))
        try:
            while piece := await self._in_thread(lambda: next(pieces, b"")):
                with anyio.fail_after(SEND_S):
                    await response.write(git_protocol.side_band(piece) if side_band else piece)
            await response.write(git_protocol.FLUSH if side_band else b"")
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            return response
        except FlotillaError as error:
            if side_band:
                await response.write(git_protocol.side_band(f"{error}\n".encode(), band=3))
            elif request.transport is not None:
                request.transport.close()  # without a band for errors only a broken connection says so
                return response
        await response.write_eof()
        return response

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small pieces, so that a thread is entered once for many."""
    kept = bytearray()
    for piece in pieces:
        kept += piece
        if len(kept) >= _PIECE_BYTES:
            yield bytes(kept)
            kept.clear()
    if kept:
        yield bytes(kept)


def _push(cluster: str) -> Refused:
    return Refused(
        f"push to the slice of cluster {cluster}", "is refused", "change the fleet repo: the hub writes slices"
    )


def _version(request: web.Request) -> int:
    """2 when the client offers it, else 0: version 1 is 0 with one more line, and a server may answer it with 0."""
    offered = request.headers.get("Git-Protocol", "").split(":")
    return 2 if "version=2" in offered else 0


def _token(request: web.Request) -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").strip().partition(" ")
    token = value.strip()
    if scheme.lower() == "basic":
        try:
            token = base64.b64decode(token, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    elif scheme.lower() != "bearer":
        return None
    return token if token and token.isascii() else None


async def _body(request: web.Request) -> bytes:
    """The request's body, inflated. Raises ProtocolError, TooLarge."""
    body = bytearray()
    try:
        with anyio.fail_after(BODY_S):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > MAX_REQUEST_BYTES:
                    raise _too_large()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the request took longer than {BODY_S:g} s\n") from error
    except web.RequestPayloadError as error:
        raise ProtocolError("Git request", "cannot be read to its end") from error
    # aiohttp inflates bodies unless it was told not to. Git requests start with hex digits, so this is no guess.
    return _inflate(bytes(body)) if body.startswith(_GZIP_MAGIC) else bytes(body)


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(data, MAX_REQUEST_BYTES + 1)
    except zlib.error as error:
        raise ProtocolError("Git request", f"is not valid gzip: {error}") from error
    if len(body) > MAX_REQUEST_BYTES:
        raise _too_large()
    if not inflater.eof:
        raise ProtocolError("Git request", "ends in the middle of its gzip stream")
    return body


def _too_large() -> TooLarge:
    return TooLarge("Git request", f"has more than {MAX_REQUEST_BYTES} bytes", "clone anew instead of fetching")


def _type(what: str) -> str:
    return f"application/x-git-upload-pack-{what}"


def _response(body: bytes, what: str) -> web.Response:
    return web.Response(body=body, headers={**_NO_CACHE, "Content-Type": _type(what)})


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    """Turns our errors into HTTP's. Clients show text/plain bodies to people."""
    try:
        yield
    except TooLarge as error:
        raise web.HTTPRequestEntityTooLarge(MAX_REQUEST_BYTES, text=f"{error}\n") from error
    except ProtocolError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error
    except Refused as error:
        raise web.HTTPForbidden(text=f"{error}\n") from error
    except Transient as error:
        headers = {"Retry-After": str(int(error.retry_after_s or _RETRY_AFTER_S))}
        raise web.HTTPServiceUnavailable(text=f"{error}\n", headers=headers) from error
    except Permanent as error:
        raise web.HTTPInternalServerError(text=f"{error}\n") from error
