"""`GET /api/v1/stream`: the fleet as it is now, and again after each change, as server-sent events.

    event: fleet       the whole snapshot, at once and then when it changed, at most every `PACE_S`
    event: heartbeat   every `HEARTBEAT_S`: whoever has heard nothing for two of them looks at a dead stream

Nothing is replayed: each connection begins with everything, so that a `Last-Event-ID` may be anything. One snapshot
serves all clients, and none is made while nobody looks. A client that does not take what it is sent within `SEND_S` is
dropped; nobody else waits for it. Whoever comes after `MAX_CLIENTS` is told to come later. Next: `page` shows it.
"""

import hashlib
import logging
import math
from collections.abc import Callable
from typing import Any

import anyio
import orjson
from aiohttp import web

from hub.api import snapshot
from hub.api.status import Json
from proto.errors import FlotillaError

log = logging.getLogger("flotilla.hub")

PACE_S = 0.5
"""Twice a second is as fast as an eye follows."""
SHARE = 0.1
"""Of the loop's time, for snapshots: one of ten thousand clusters takes a quarter of a second."""
LOOK_S = 1.0
"""That a cluster fell silent is no event: somebody has to look."""
HEARTBEAT_S = 15.0
SEND_S = 10.0
MAX_CLIENTS = 64
RETRY_MS = 2000


class Stream:
    """The clients that look on, and the snapshot that they share."""

    def __init__(self, make: Callable[[], Json], *, changed: Callable[[], anyio.Event]) -> None:
        self._make = make
        self._changed = changed
        self._closed = False
        self._made_at = -math.inf
        self._took_s = 0.0
        self._latest: tuple[str, bytes] = ("", b"")
        self._clients = 0

    @property
    def clients(self) -> int:
        """How many look on."""
        return self._clients

    def close(self) -> None:
        """Every client is let go when it next looks: nobody delays the end of the hub."""
        self._closed = True

    async def handler(self, request: web.Request) -> web.StreamResponse:
        """One client, until either side goes."""
        if self._clients >= MAX_CLIENTS or self._closed:
            return web.json_response(
                {"error": f"stream: {self._clients} clients look on already", "remedy": "try again in a minute"},
                status=503,
                headers={"Retry-After": "60"},
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Content-Type-Options": "nosniff",
            }
        )
        self._clients += 1
        try:
            with anyio.fail_after(SEND_S):
                await response.prepare(request)
            await self._serve(request, response)
        except FlotillaError as error:
            log.warning("a stream ended: no snapshot can be made: %s", error)  # the page says that it is old
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._clients -= 1
        return response

    async def _serve(self, request: web.Request, response: web.StreamResponse) -> None:
        sent, beat_at = "", anyio.current_time() + HEARTBEAT_S
        await _send(response, f"retry: {RETRY_MS}\n\n".encode())
        while not self._closed and request.transport is not None and not request.transport.is_closing():
            changed = self._changed()
            key, event = self._snapshot()
            due = anyio.current_time() >= beat_at
            if key != sent or due:
                await _send(response, event)
                sent = key
            if due:
                await _send(response, b"event: heartbeat\ndata: {}\n\n")
                beat_at = anyio.current_time() + HEARTBEAT_S
            await anyio.sleep(PACE_S)
            with anyio.move_on_after(LOOK_S - PACE_S):
                await changed.wait()

    def _snapshot(self) -> tuple[str, bytes]:
        """The shared snapshot as an event, with a key that is equal while nothing happened."""
        now = anyio.current_time()
        if now - self._made_at >= max(PACE_S, self._took_s / SHARE):
            made: dict[str, Any] = self._make()
            key = hashlib.sha256(orjson.dumps(snapshot.steady(made))).hexdigest()[:16]
            self._latest = key, b"id: %s\nevent: fleet\ndata: %s\n\n" % (key.encode(), orjson.dumps(made))
            self._made_at = anyio.current_time()
            self._took_s = self._made_at - now
        return self._latest


async def _send(response: web.StreamResponse, data: bytes) -> None:
    with anyio.fail_after(SEND_S):
        await response.write(data)
