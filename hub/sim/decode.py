"""What was sent becomes an object of its kind, or is refused in the real server's words. All of it is pure.

    sent by           must be                                          else
    any               an object of this kind, by this name             400
    POST, PUT         readable into the kind's type;                   400
                      if strict, without fields that it does not have
    apply             made of fields and types of the schema           500

Next: `api` gives the object its owners.
"""

from collections.abc import Mapping
from typing import Any

from hub.sim import defaults, fit, rules, validation
from hub.sim.kinds import Kind
from hub.sim.status import ApiError
from hub.sim.store import Key


def manifest(kind: Kind, key: Key, sent: Any) -> dict[str, Any]:
    """Pure: what was sent, checked as far as every request is."""
    if not isinstance(sent, dict) or not isinstance(sent.get("metadata", {}), dict):
        raise ApiError(400, "the object provided is unrecognized (must be of type object)")
    obj = {"apiVersion": kind.info.api_version, "kind": kind.info.kind, **sent}
    if (obj["apiVersion"], obj["kind"]) != (kind.info.api_version, kind.info.kind):
        raise ApiError(
            400,
            f"the API version in the data ({obj['apiVersion']}, Kind={obj['kind']}) does not match the expected "
            f"API version ({kind.info.api_version}, Kind={kind.info.kind})",
        )
    metadata = obj["metadata"] = dict(obj.get("metadata") or {})
    namespace, name = key
    if name and metadata.setdefault("name", name) != name:
        raise ApiError(400, f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
    if kind.info.namespaced and metadata.setdefault("namespace", namespace) != namespace:
        raise ApiError(400, "the namespace of the provided object does not match the namespace sent on the request")
    if not kind.info.namespaced:
        metadata.pop("namespace", None)
    return obj


def decoded(kind: Kind, key: Key, sent: Any, *, strict: bool, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """Pure: an object as it was sent by POST or PUT, or comes out of a patch, with defaults."""
    obj: dict[str, Any] = fit.without_nulls(manifest(kind, key, sent))
    unreadable = fit.unreadable(obj, kind.node)
    if unreadable and not kind.custom:
        told = f'{kind.info.kind} in version "{kind.info.version}" cannot be handled as a {kind.info.kind}'
        raise ApiError(400, f"{told}: {unreadable[0]}")
    unknown = validation.unknown_fields(obj, kind.node)
    if unknown and strict:
        told = ", ".join(f'unknown field "{path}"' for path in unknown)
        head = f'{kind.info.kind} in version "{kind.info.version}" cannot be handled as a {kind.info.kind}: '
        raise ApiError(400, f"{'' if kind.custom else head}strict decoding error: {told}")
    try:
        return _typed(kind, obj, old)
    except rules.Unreadable as error:
        message = f"{kind.info.kind} in version {kind.info.version!r} cannot be handled: {error}"
        raise ApiError(400, message) from error


def check_applied(kind: Kind, applied: Mapping[str, Any], about: str) -> None:
    """Pure: refuse an apply of fields or types that the schema does not have."""
    misfits = fit.misfits(applied, kind.node)
    if misfits:
        told = misfits[0] if len(misfits) == 1 else "errors:\n  " + "\n  ".join(sorted(misfits))
        raise untyped(about, told)


def untyped(about: str, told: object) -> ApiError:
    """Pure: what is said of an apply that the schema cannot merge."""
    return ApiError(500, f"failed to create typed patch object {about}: {told}")


def merged(kind: Kind, obj: Mapping[str, Any], about: str, *, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """Pure: the object that an apply made, with defaults."""
    try:
        return _typed(kind, obj, old)
    except rules.Unreadable as error:
        which = f"{kind.info.group}/{kind.info.version}, Kind={kind.info.kind}"
        cause = f"unable to convert unstructured object to {which}: error decoding from json: {error}"
        raise ApiError(500, f"failed to convert new object {about} to proper version: {cause}") from error


def about(kind: Kind, key: Key, sent: Mapping[str, Any]) -> str:
    """Pure: an applied object, as the server names it when it refuses it."""
    namespace = (sent.get("metadata") or {}).get("namespace", "")
    return f"({namespace}/{key[1]}; {kind.info.group}/{kind.info.version}, Kind={kind.info.kind})"


def _typed(kind: Kind, obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
    """Without what the schema does not know, with defaults. Raises rules.Unreadable."""
    known: dict[str, Any] = validation.pruned(fit.without_nulls(dict(obj)), kind.node)
    if kind.custom:
        filled: dict[str, Any] = validation.with_defaults(known, kind.node)
        return {**filled, "metadata": known["metadata"]}
    group, name = kind.names
    rules.check_readable(known, group=group, kind=name)
    return defaults.defaulted(known, old=old)
