"""What every handler of the HTTP API shares: answers as JSON, errors with their status, and who may give a command.

| token in the hub's data folder | may                                                                                |
|--------------------------------|------------------------------------------------------------------------------------|
| `operator.token`               | hold up what goes on, and let it go on, where a handler says so                    |
| `admin.token`                  | everything                                                                         |
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Literal

import orjson
from aiohttp import web

from hub.journal import Word
from proto.errors import FlotillaError, InvalidInput, Refused, Transient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Role = Literal["admin", "operator"]

MAX_LIST = 1000
_A_TIME = "write for example 2030-01-31T06:00:00Z"
_PASS_IT = "pass --token-file DATA/admin.token to flotilla"


class NotFound(InvalidInput):
    """Answered with 404."""


class Forbidden(Refused):
    """Answered with 403: the token is known, and not good for this."""


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
        return answer({"error": f"{error.thing}: {error.cause}", "remedy": error.remedy}, _status(error))


def _status(error: FlotillaError) -> int:
    kinds = ((NotFound, 404), (Forbidden, 403), (Refused, 401), (Transient, 503))
    return next((status for kind, status in kinds if isinstance(error, kind)), 400)


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


class Gate:
    """Lets commands in that carry a token which is good for them."""

    def __init__(self, admin_token: str, operator_token: str = "") -> None:
        tokens: dict[Role, str] = {"admin": admin_token, "operator": operator_token}
        self._tokens = {role: token.encode() for role, token in tokens.items() if token}

    async def body(self, request: web.Request, *, operator: bool = False) -> Mapping[str, Any]:
        """The body of an authorised command; its `role` is whose token came with it, whatever the caller wrote. With
        `operator` it is one that the operator's token is good for. Raises Refused, Forbidden, InvalidInput."""
        role = self._role(request)
        if role is None:
            less = "; DATA/operator.token will do" if operator else ""
            raise Refused("command", "needs the administrator's token", f"{_PASS_IT}{less}")
        if not operator:
            admin_only(role)
        return {**await self._read(request), "role": role}

    def _role(self, request: web.Request) -> Role | None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        good = [role for role, known in self._tokens.items() if hmac.compare_digest(given, known)]
        return good[0] if good and kind.lower() == "bearer" else None

    async def _read(self, request: web.Request) -> Mapping[str, Any]:
        try:
            body = orjson.loads(await request.read() or b"{}")
        except orjson.JSONDecodeError as error:
            raise InvalidInput("body", f"is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise InvalidInput("body", "is not a JSON object")
        return body


def admin_only(role: Role) -> None:
    """Pure: raises Forbidden for who is not the administrator."""
    if role != "admin":
        raise Forbidden("command", "needs the administrator's token, this is the operator's", _PASS_IT)


def number(request: web.Request, name: str, default: int, *, most: int = MAX_LIST) -> int:
    """Pure: a whole number of the query. Raises InvalidInput."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > most:
        raise InvalidInput(f"?{name}={text[:40]}", "is not valid", f"use a whole number from 0 to {most}")
    return int(text)


def time_s(request: web.Request, name: str) -> float:
    """Pure: a time of the query, as Unix seconds; 0 when it is not there. Raises InvalidInput."""
    text = request.query.get(name, "")
    if not text:
        return 0.0
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"?{name}={text[:40]}", f"is not a time: {error}", _A_TIME) from error
    if at.tzinfo is None:
        raise InvalidInput(f"?{name}={text[:40]}", "has no time zone", _A_TIME)
    return at.timestamp()


def actor(body: Mapping[str, Any]) -> str:
    """Pure: who gives a command, as they call themselves."""
    return str(body.get("actor") or body.get("role") or "admin")[:100]


def reason(body: Mapping[str, Any]) -> str:
    """Pure: why, which every command that holds something up or lets it go needs. Raises InvalidInput."""
    text = str(body.get("reason") or "").strip()
    if not text:
        raise InvalidInput("reason", "is missing", "say why: it is kept with the command")
    return text[:500]


def word(body: Mapping[str, Any], verb: str, **about: tuple[str, ...]) -> Word:
    """Pure: a command as the audit list keeps it; `about` names its `clusters` and `bundles`."""
    why = str(body.get("reason") or "").strip()[:500]
    return Word(actor=actor(body), role=str(body["role"]), verb=verb, reason=why, **about)
