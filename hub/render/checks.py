"""What is said of a bundle's objects before any of them moves, as warnings or as one error, by the fleet's policy.

| policy of `fleet.yaml` | word            | an object that it finds        |
|------------------------|-----------------|--------------------------------|
| `secrets`              | `refuse`        | stops the bundle               |
|                        | `warn`          | is told                        |
|                        | `allow`         | is passed over                 |

A Secret is plain when any value in it is not empty: whoever reads the repo, the slices or the agent's clone reads it.
SealedSecret, ExternalSecret and SopsSecret are kinds of their own; a service account's token is filled in by the
cluster. Names of files, objects and fields are told, values never. Pure. Next: `build`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hub.render.plain import Manifest
from proto.errors import InvalidInput
from proto.objects import ObjectKey

HIDDEN = "(hidden)"
_MAX_TOLD = 20
"""Of one bundle and kind of finding: a thousand like ones would hide the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One object as it goes into the slice, and the manifest that it was made of."""

    manifest: Manifest
    key: ObjectKey
    obj: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    thing: str
    cause: str
    remedy: str


def check(made: Iterable[Made], words: Mapping[str, str]) -> tuple[str, ...]:
    """Pure: the warnings. `words` are the policies by name, `warn` where one is missing.

    Raises InvalidInput for what a policy refuses.
    """
    made = list(made)
    warnings: list[str] = []
    word = words.get("secrets", "warn")
    if word != "allow":
        warnings += _told([_plain_secret(one) for one in made if is_plain_secret(one.obj)], refuse=word == "refuse")
    return tuple(warnings)


def is_plain_secret(obj: Mapping[str, Any]) -> bool:
    """Pure: is it a Secret with a value in it that whoever reads it has?"""
    if (obj.get("apiVersion"), obj.get("kind")) != ("v1", "Secret"):
        return False
    return any(value for field in ("data", "stringData") for value in (obj.get(field) or {}).values())


def without_values(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Pure: the object for people to see: a Secret's values stand as a word that no API server takes for one."""
    if (obj.get("apiVersion"), obj.get("kind")) != ("v1", "Secret"):
        return obj
    hidden = {field: dict.fromkeys(obj[field], HIDDEN) for field in ("data", "stringData") if obj.get(field)}
    return {**obj, **hidden}


def _plain_secret(one: Made) -> _Problem:
    return _Problem(
        thing=f"{one.manifest.where}: {one.key}",
        cause="has its values in plain text, for all who read the repo or the slice",
        remedy="keep them out of Git (SealedSecret, ExternalSecret), or set spec.secrets: allow in fleet.yaml",
    )


def _told(problems: list[_Problem], *, refuse: bool) -> list[str]:
    if problems and refuse:
        first, *others = problems
        also = "".join(f"; {other.thing}: {other.cause}" for other in others[: _MAX_TOLD - 1])
        more = f"; and {len(others) - _MAX_TOLD + 1} more" if len(others) >= _MAX_TOLD else ""
        raise InvalidInput(first.thing, first.cause + also + more, first.remedy)
    told = [f"{one.thing}: {one.cause} ({one.remedy})" for one in problems[:_MAX_TOLD]]
    return told + ([f"and {len(problems) - _MAX_TOLD} more like it"] if len(problems) > _MAX_TOLD else [])
