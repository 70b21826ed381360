"""Trouble on demand: what a busy, broken or restarting API server does to its clients.

Set `SimServer.intercept` to a `Faults` and change its fields at any time; they count from the next request on.

| field or call     | the client sees                                                                        |
|-------------------|----------------------------------------------------------------------------------------|
| `delay_s`         | every answer late                                                                      |
| `refuse(...)`     | 429 with Retry-After, 500 or any other status, for some requests and so often          |
| `drop_watches()`  | every open watch cut off without an end                                                |
| `restart(store)`  | the same, and 410 for whoever asks for what was before: the watch cache is lost        |

Watches that are open and tell nothing more are a setting of the server itself, `SimServer.half_open`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakSet

import anyio
import orjson
from aiohttp import web

from hub.sim.status import ApiError
from hub.sim.store import Store

Matches = Callable[[web.BaseRequest], bool]

MESSAGES = {429: "too many requests, please try again later", 500: "Internal error occurred: injected"}


@dataclass(kw_only=True)
class Refusal:
    """Requests that match get `code` instead of an answer; `times` is how many more, None for all."""

    code: int
    times: int | None = None
    retry_after_s: int = 1
    matches: Matches = field(default=lambda request: True)


@dataclass(kw_only=True)
class Faults:
    """An `Intercept` of `server`. `seen` counts the requests that came while it was there."""

    delay_s: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    seen: int = 0
    _watches: WeakSet[asyncio.Transport] = field(default_factory=WeakSet)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse | None:
        self.seen += 1
        if self.delay_s:
            await anyio.sleep(self.delay_s)
        refusal = next((refusal for refusal in self.refusals if refusal.matches(request)), None)
        if refusal is not None:
            return self._refused(refusal)
        if is_watch(request) and request.transport is not None:
            self._watches.add(request.transport)
        return None

    def refuse(
        self, code: int, *, times: int | None = None, retry_after_s: int = 1, matches: Matches | None = None
    ) -> None:
        """Refuse the next `times` requests that match, all for None; `clear` ends it."""
        matches = matches or (lambda request: True)
        self.refusals.append(Refusal(code=code, times=times, retry_after_s=retry_after_s, matches=matches))

    def clear(self) -> None:
        """No more faults."""
        self.delay_s = 0.0
        self.refusals.clear()

    def drop_watches(self) -> int:
        """How many watches were cut off."""
        cut = 0
        for transport in list(self._watches):
            if not transport.is_closing():
                transport.abort()
                cut += 1
        self._watches.clear()
        return cut

    def restart(self, store: Store) -> int:
        """As a server that was killed and started anew: its objects are as they were."""
        store.forget()
        return self.drop_watches()

    def _refused(self, refusal: Refusal) -> web.Response:
        if refusal.times is not None:
            refusal.times -= 1
            if refusal.times <= 0:
                self.refusals.remove(refusal)
        error = ApiError(refusal.code, MESSAGES.get(refusal.code, "injected"))
        headers = {"Retry-After": str(refusal.retry_after_s)} if refusal.code in (429, 503) else {}
        return web.Response(
            body=orjson.dumps(error.body()), status=refusal.code, content_type="application/json", headers=headers
        )


def is_watch(request: web.BaseRequest) -> bool:
    """Pure: whether a request opens a watch."""
    return request.query.get("watch") in ("true", "1")


def is_write(request: web.BaseRequest) -> bool:
    """Pure: whether a request would change something."""
    return request.method in ("POST", "PUT", "PATCH", "DELETE")
