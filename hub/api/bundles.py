"""`POST /api/v1/clusters/NAME/bundle`: a cluster's slice as a `git bundle` file, for a cluster without a network.

`{"since": "12"}` in the body makes it go on from that slice, `{"history": true}` go back beyond checkpoints. It holds
the values of Secrets, so it needs the administrator's token, as commands do. It is read in threads, piece by piece.
"""

from collections.abc import Iterator

import anyio
import anyio.to_thread
from aiohttp import web

from hub.api import http, named
from hub.loop import Loop
from hub.slices import bundle
from hub.slices.gitstore import GitStore
from proto.errors import FlotillaError

PIECE_BYTES = 256 << 10
CONTENT_TYPE = "application/x-git-bundle"


class Bundles:
    """The handler; `routes` adds it to an application."""

    def __init__(self, loop: Loop, *, store: GitStore, gate: http.Gate) -> None:
        self._loop = loop
        self._store = store
        self._gate = gate
        self._thread = anyio.CapacityLimiter(1)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/v1/clusters/{name}/bundle", self.export)]

    async def export(self, request: web.Request) -> web.StreamResponse:
        body = await self._gate.body(request)
        cluster = named.cluster(self._loop, request.match_info["name"])
        row = self._loop.slices.get(cluster)
        if row is None:
            raise http.NotFound(f"cluster {cluster}", "has no slice yet", "see 'flotilla rollouts'")
        since, history = str(body.get("since") or ""), body.get("history") is True

        def begin() -> bundle.Export:
            return bundle.export(self._store, cluster, tip=row.commit, since=since, history=history)

        export = await anyio.to_thread.run_sync(begin, limiter=self._thread)
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
        await response.prepare(request)
        pieces = export.pieces(self._store)
        try:
            while piece := await anyio.to_thread.run_sync(_gathered, pieces, limiter=self._thread):
                await response.write(piece)
        except FlotillaError:
            # The file has begun: only a broken connection says that it has no end.
            if request.transport is not None:
                request.transport.close()
            raise
        await response.write_eof()
        return response


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """The next pieces as one; b"" at the end."""
    kept = bytearray()
    for piece in pieces:
        kept += piece
        if len(kept) >= PIECE_BYTES:
            break
    return bytes(kept)
