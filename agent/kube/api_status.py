"""What a Kubernetes API server's refusal means: its `Status` becomes one of our errors.

    409 with field managers in its causes             Conflict, with (manager, field) pairs
    409 otherwise                                     Conflict when the request had a precondition, else Transient
    404                                               NotFound, of the object, its namespace, or its kind
    400, 405, 406, 413, 415, 422                      Invalid, with the server's causes
    401, 403                                          Refused; Transient while a namespace is terminating
    410                                               Expired
    429, 503, 504                                     Busy, which is Transient
    5xx                                               Transient
    500 that says a manifest does not fit its schema  Invalid: it never gets better

What is said of a Secret never quotes the server where it may quote the Secret. All of it is pure. Next: `cluster`.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from proto.errors import FlotillaError, Permanent, Refused, Transient


class Conflict(Permanent):
    """Someone else holds fields that we would apply (`fields`: manager and path), or the object was written since."""

    def __init__(self, thing: str, cause: str, remedy: str = "", *, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(thing, cause, remedy)
        self.fields = fields


class NotFound(Permanent):
    """`what` does not exist: the object, its namespace, or its kind (which is then not served)."""

    def __init__(
        self, thing: str, cause: str, remedy: str = "", *, what: Literal["object", "namespace", "kind"] = "object"
    ) -> None:
        super().__init__(thing, cause, remedy)
        self.what = what


class Invalid(Permanent):
    """The API server can make nothing of what we sent; `fields` are those it named. `immutable`: all that is wrong with
    it is that the object cannot be changed so, only made so."""

    def __init__(
        self, thing: str, cause: str, remedy: str = "", *, fields: tuple[str, ...] = (), immutable: bool = False
    ) -> None:
        super().__init__(thing, cause, remedy)
        self.fields = fields
        self.immutable = immutable


class Busy(Transient):
    """The API server has too much to do, or did not answer in time: whoever sends is to send less."""


class Expired(Transient):
    """A resourceVersion is too old to go on from."""


_MALFORMED = ("failed to create typed patch object", "failed to convert new object", "field not declared in schema")
"""What server-side apply says, as an internal error, of manifests that do not fit their schema."""

_IMMUTABLE = re.compile(
    r"immutable|(?:may not|cannot|can not|must not) (?:be )?(?:changed?|modified|updated)|self == oldSelf"
    r"|for fields other than|may not change fields other than"
)
"""How a 1.36 server says that an update cannot do: Job template, Service clusterIP, StatefulSet spec, selectors,
roleRef, claims and volumes, types, immutable data, StorageClass, PriorityClass, Pods, transition rules of CRDs."""

_HARMLESS = re.compile(r"illegal base64 data at input byte \d+|\.(?:stringD|d)ata\.[-._a-zA-Z0-9]+: expected string")
"""What may be quoted of a refused Secret: where it is wrong."""


def error_of(
    status: int,
    body: bytes,
    *,
    about: str,
    action: str,
    secret: bool = False,
    precondition: bool = False,
    retry_after: str | None = None,
) -> FlotillaError:
    """Pure: the error for a response that is not 2xx. `about` names the object or kind, `action` what we asked for;
    `secret` withholds what may quote data; `retry_after` is the header's value."""
    answer = _parse(body)
    reason = str(answer.get("reason") or _REASONS.get(status) or f"HTTP {status}")
    message = str(answer.get("message") or "").strip() or f"the API server answered {status}"
    details = answer.get("details") or {}
    causes = [cause for cause in details.get("causes") or () if isinstance(cause, Mapping)]
    # A conversion webhook that is down is the one passing reason for these words.
    malformed = status == 500 and any(text in message for text in _MALFORMED) and "webhook" not in message
    if malformed:
        reason = "Invalid"
    thing = f"{about} {action} failed ({reason})"
    fields = tuple(dict.fromkeys(str(cause["field"]) for cause in causes if cause.get("field")))
    told = [str(cause.get("message", "")) for cause in causes if cause.get("message")] or [message]
    immutable = all(_IMMUTABLE.search(text) for text in told)
    if secret:
        message = _without_data(status, message, fields)
    if status == 409:
        held = tuple(
            (_manager(str(cause.get("message", ""))), str(cause.get("field", "")))
            for cause in causes
            if cause.get("reason") == "FieldManagerConflict"
        )
        if held or precondition:
            return Conflict(thing, message, fields=held)
        return Transient(thing, message)
    if status == 404:
        return NotFound(thing, message, what=_missing(message, details))
    if status in (401, 403):
        if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            return Transient(thing, message)
        return Refused(thing, message, "check the agent's credentials" if status == 401 else "")
    if status == 410:
        return Expired(thing, message)
    if malformed:
        return Invalid(thing, message, fields=fields)
    if status in (429, 503, 504):
        return Busy(thing, message, retry_after_s=_seconds(retry_after, details))
    if status >= 500:
        return Transient(thing, message, retry_after_s=_seconds(retry_after, details))
    return Invalid(thing, message, fields=fields, immutable=immutable)


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:500].decode(errors="replace")}
    return answer if isinstance(answer, Mapping) else {}


def _without_data(status: int, message: str, fields: tuple[str, ...]) -> str:
    """Missing things and conflicts name objects and fields only; admission and validation may quote values."""
    if status in (401, 404, 409):
        return message
    if status == 403:
        # What comes after is an admission policy's own text.
        for end in ("denied the request", "denied request"):
            message = message.partition(end)[0] + end if end in message else message
        return message
    found = [*fields, *_HARMLESS.findall(message)]
    where = f" ({', '.join(found)})" if found else ""
    return f"the API server refused it{where}; its words are withheld, they may quote the Secret"


def _manager(message: str) -> str:
    """`conflict with "kubectl-edit" using apps/v1` names the manager in quotes."""
    return message.partition('"')[2].partition('"')[0] or message


def _missing(message: str, details: Mapping[str, Any]) -> Literal["object", "namespace", "kind"]:
    if not details.get("name"):
        return "kind"
    return "namespace" if details.get("kind") == "namespaces" and "namespaces " in message else "object"


def _seconds(retry_after: str | None, details: Mapping[str, Any]) -> float | None:
    try:
        return float(retry_after or details.get("retryAfterSeconds") or 0) or None
    except (TypeError, ValueError):
        return None
