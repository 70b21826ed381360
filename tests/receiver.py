"""A receiver of messages on loopback: it takes, rejects, stalls, and verifies signatures as the specification says."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from aiohttp import web

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass(slots=True)
class Receiver:
    """`taken` are the bodies that it answered with 2xx, `asked` the headers of every request. `answers` are the next
    statuses, 200 when they are used up; with `stalls` set it does not answer until that is set."""

    url: str = ""
    taken: list[dict[str, Any]] = field(default_factory=list)
    asked: list[Mapping[str, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    down: int = 0
    """The status of every answer, while it is not 0."""
    headers: Mapping[str, str] = field(default_factory=dict)
    stalls: anyio.Event | None = None
    followed: int = 0
    """Requests to where its redirects lead."""

    @property
    def ids(self) -> list[str]:
        return [body["data"]["id"] for body in self.taken]

    @property
    def types(self) -> list[str]:
        return [body["type"] for body in self.taken]

    async def hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append(dict(request.headers))
        assert verified(request.headers, body), "the signature is wrong"
        if self.stalls is not None:
            await self.stalls.wait()
        status = self.down or (self.answers.pop(0) if self.answers else 200)
        if status < 300:
            made = json.loads(body)
            assert made["data"]["id"] == request.headers["webhook-id"]
            self.taken.append(made)
        return web.Response(status=status, text="x" * 100_000, headers=self.headers)

    async def elsewhere(self, request: web.Request) -> web.Response:
        self.followed += 1
        return web.Response()


def verified(headers: Mapping[str, str], body: bytes, key: bytes = KEY) -> bool:
    """As a receiver does it: Standard Webhooks 1.0, "Verifying webhook authenticity"."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    given = [text.partition(",") for text in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(value, wanted) for version, _, value in given)


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver that runs until the block is left."""
    made = Receiver()
    application = web.Application()
    application.router.add_post("/hook", made.hook)
    application.router.add_route("*", "/elsewhere", made.elsewhere)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield made
    finally:
        if made.stalls is not None:
            made.stalls.set()
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
