"""Refusals as the API server words them: a `Status` with code, reason, message, details. Next: `server` sends them."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub.sim.managers import Conflicts

REASONS: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


class ApiError(Exception):
    """A request that is refused: its HTTP status and what the `Status` says beyond it."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or REASONS.get(code, "")
        self.details = details

    def body(self) -> dict[str, Any]:
        """The `Status` object."""
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = dict(self.details)
        return {**status, "code": self.code}


def resource_name(group: str, plural: str) -> str:
    """`deployments.apps`, as messages name a resource."""
    return f"{plural}.{group}" if group else plural


def _about(group: str, plural: str, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    return {**details, "kind": plural}


def not_found(group: str, plural: str, name: str) -> ApiError:
    return ApiError(404, f'{resource_name(group, plural)} "{name}" not found', details=_about(group, plural, name))


def no_such_path() -> ApiError:
    """A group and version that is served has no such resource."""
    return ApiError(404, "the server could not find the requested resource", details={})


class NoSuchGroup(ApiError):
    """A path that nothing serves: the answer is plain text."""

    def __init__(self) -> None:
        super().__init__(404, "404 page not found\n")


def already_exists(group: str, plural: str, name: str) -> ApiError:
    return ApiError(
        409,
        f'{resource_name(group, plural)} "{name}" already exists',
        reason="AlreadyExists",
        details=_about(group, plural, name),
    )


def conflict(group: str, plural: str, name: str, cause: str) -> ApiError:
    return ApiError(
        409,
        f'Operation cannot be fulfilled on {resource_name(group, plural)} "{name}": {cause}',
        details=_about(group, plural, name),
    )


def modified(group: str, plural: str, name: str) -> ApiError:
    return conflict(
        group,
        plural,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )


def managers_conflict(conflicts: Conflicts) -> ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": message, "field": field} for message, field in conflicts.causes
    ]
    return ApiError(409, str(conflicts), details={"causes": causes})


def forbidden(group: str, plural: str, name: str, cause: str, *, causes: Sequence[Mapping[str, Any]] = ()) -> ApiError:
    """Also what admission says: `cause` after the resource and its name."""
    named = f' "{name}"' if name else ""
    details = {**_about(group, plural, name), **({"causes": list(causes)} if causes else {})}
    return ApiError(403, f"{resource_name(group, plural)}{named} is forbidden: {cause}", details=details)


def terminating(group: str, plural: str, name: str, namespace: str) -> ApiError:
    cause = f"namespace {namespace} is being terminated"
    causes = [{"reason": "NamespaceTerminating", "message": cause, "field": "metadata.namespace"}]
    return forbidden(
        group,
        plural,
        name,
        f"unable to create new content in namespace {namespace} because it is being terminated",
        causes=causes,
    )


def invalid(group: str, kind: str, name: str, problems: Sequence[tuple[str, str]]) -> ApiError:
    """`problems`: (field, message), where the message begins with what is wrong: `Required value`."""
    told = [f"{field}: {message}" for field, message in problems]
    text = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    causes = [{"reason": _cause(message), "message": message, "field": field} for field, message in problems]
    return ApiError(
        422,
        f'{resource_name(group, kind)} "{name}" is invalid: {text}',
        details={**_about(group, kind, name), "causes": causes},
    )


def _cause(message: str) -> str:
    head = message.partition(":")[0]
    known = {
        "Required value": "FieldValueRequired",
        "Unsupported value": "FieldValueNotSupported",
        "Duplicate value": "FieldValueDuplicate",
        "Forbidden": "FieldValueForbidden",
        "Too many": "FieldValueTooMany",
    }
    return known.get(head, "FieldValueInvalid")


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, f"too old resource version: {asked} ({oldest})")
