"""What an HTTP request says, as values: its body, its options, what it selects and how it wants the answer.

What cannot be read is an `ApiError`. Knows nothing of objects. Next: `server` routes requests and answers them.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from hub.sim import selectors
from hub.sim.access import User
from hub.sim.api import PatchType
from hub.sim.kinds import Kind
from hub.sim.status import ApiError
from hub.sim.writes import Options

PATCHES: Final[Mapping[str, PatchType]] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
    "application/apply-patch+json": "apply",
}
_TRUE: Final = frozenset({"true", "1", "True"})
_MAX_BODY: Final = 3 * 1024 * 1024


def says(request: web.BaseRequest, name: str) -> bool:
    """Whether a flag of the query is set."""
    return request.query.get(name) in _TRUE


def number(request: web.BaseRequest, name: str, default: int) -> int:
    """A number of the query."""
    value = request.query.get(name) or str(default)
    if not value.isdigit():
        raise ApiError(400, f"Invalid value: {value!r}: {name} is no number")
    return int(value)


def selector(request: web.BaseRequest, kind: Kind) -> selectors.Selector:
    """Which objects of a kind are asked for."""
    query = request.query
    try:
        return selectors.parse(query.get("labelSelector", ""), query.get("fieldSelector", ""), table=kind.table)
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def wants_metadata(request: web.BaseRequest) -> bool:
    """Whether no more than the metadata is asked for."""
    return "as=PartialObjectMetadata" in request.headers.get("Accept", "")


def patch_type(request: web.BaseRequest) -> PatchType:
    """How the body of a PATCH is meant."""
    how = PATCHES.get(request.headers.get("Content-Type", "").partition(";")[0].strip())
    if how is None:
        accepted = ", ".join(PATCHES)
        raise ApiError(
            415, f"the body of the request was in an unknown format - accepted media types include: {accepted}"
        )
    return how


def options(request: web.BaseRequest, user: User) -> Options:
    """What a write says beside its object."""
    query = request.query
    agent = request.headers.get("User-Agent", "")
    return Options(
        manager=query.get("fieldManager") or agent.partition("/")[0] or "unknown",
        force=says(request, "force"),
        dry_run=query.get("dryRun") == "All",
        strict=query.get("fieldValidation") == "Strict",
        user=user.name,
    )


async def delete_options(request: web.BaseRequest, user: User) -> Options:
    """What a deletion says, in its query or its body."""
    raw = await _raw(request)
    sent = _parsed(raw) if raw else {}
    if not isinstance(sent, dict):
        raise ApiError(400, "DeleteOptions are an object")
    preconditions = sent.get("preconditions") or {}
    return Options(
        dry_run=request.query.get("dryRun") == "All" or sent.get("dryRun") == ["All"],
        user=user.name,
        uid=preconditions.get("uid", ""),
        resource_version=preconditions.get("resourceVersion", ""),
        propagation=request.query.get("propagationPolicy") or sent.get("propagationPolicy") or "Background",
    )


async def body(request: web.BaseRequest) -> Any:
    """JSON, which is what clients send even as apply-patch+yaml; protobuf is not spoken here."""
    if "protobuf" in request.headers.get("Content-Type", ""):
        message = "the body of the request was in an unknown format - accepted media types include: application/json"
        raise ApiError(415, message)
    return _parsed(await _raw(request))


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"the object provided is unrecognized (must be of type object): {error}"
        raise ApiError(400, message) from error


async def _raw(request: web.BaseRequest) -> bytes:
    raw = bytearray()
    async for chunk in request.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_BODY:
            raise ApiError(413, f"Request entity too large: limit is {_MAX_BODY}", reason="RequestEntityTooLarge")
    return bytes(raw)
