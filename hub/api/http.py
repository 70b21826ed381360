"""What every handler of the HTTP API shares: answers as JSON, errors with their status, the administrator's token."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from proto.errors import FlotillaError, InvalidInput, Refused, Transient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NotFound(InvalidInput):
    """Answered with 404."""


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Our errors as JSON with the right status."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        # Of aiohttp's own words only: unknown paths and methods, bodies that are too large. Git's clients show text.
        if error.status < 400 or error.text != f"{error.status}: {error.reason}" or request.path.startswith("/git/"):
            raise
        kept = {name: value for name, value in error.headers.items() if name == "Allow"}
        told = {"error": f"{request.method} {request.path}: {error.reason}", "remedy": "see /openapi.json"}
        return answer(told, error.status, kept)
    except FlotillaError as error:
        code = 404 if isinstance(error, NotFound) else 401 if isinstance(error, Refused) else 400
        code = 503 if isinstance(error, Transient) else code
        return answer({"error": f"{error.thing}: {error.cause}", "remedy": error.remedy}, code)


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


class Gate:
    """Lets commands in that carry the administrator's token."""

    def __init__(self, admin_token: str) -> None:
        self._admin_token = admin_token.encode()

    async def body(self, request: web.Request) -> Mapping[str, Any]:
        """The body of an authorised command. Raises Refused, InvalidInput."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(
            token.strip().encode("utf-8", "surrogateescape"), self._admin_token
        ):
            raise Refused(
                "command", "needs the administrator's token", "pass --token-file DATA/admin.token to flotilla"
            )
        try:
            body = orjson.loads(await request.read() or b"{}")
        except orjson.JSONDecodeError as error:
            raise InvalidInput("body", f"is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise InvalidInput("body", "is not a JSON object")
        return body


def actor(body: Mapping[str, Any]) -> str:
    """Pure: who gives a command, as they call themselves."""
    return str(body.get("actor") or "admin")


def reason(body: Mapping[str, Any]) -> str:
    """Pure: why, which every command that holds something up or lets it go needs. Raises InvalidInput."""
    text = str(body.get("reason") or "").strip()
    if not text:
        raise InvalidInput("reason", "is missing", "say why: it is kept with the command")
    return text[:500]
