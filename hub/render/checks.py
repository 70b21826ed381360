"""What is said of a bundle's objects before any of them moves, as warnings or as one error, by the fleet's policy.

| policy of `fleet.yaml` | word            | an object that it finds        |
|------------------------|-----------------|--------------------------------|
| `secrets`              | `refuse`        | stops the bundle               |
|                        | `warn`          | is told                        |
|                        | `allow`         | is passed over                 |
| `validation`           | `error`         | stops the bundle               |
|                        | `warn`          | is told                        |
|                        | `off`           | is passed over                 |

A Secret is plain when any value in it is not empty: whoever reads the repo, the slices or the agent's clone reads it.
SealedSecret, ExternalSecret and SopsSecret are kinds of their own; a service account's token is filled in by the
cluster. Names of files, objects and fields are told, values never. What does not fit its kind's schema is found by
`validate`. Warnings are found whether the policy tells them or not: it may change while what was rendered stays.
Next: `build`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub.render import validate
from hub.render.plain import Manifest
from proto.errors import InvalidInput
from proto.ids import Oid
from proto.objects import ObjectKey

HIDDEN = "(hidden)"
_OPEN_FIELDS = frozenset({"apiVersion", "kind", "metadata", "type", "immutable"})
"""Of a Secret. All others are hidden: its data, and what somebody wrote who meant that (`stringdata`)."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation that holds a whole object as text, values of a Secret too."""
MAX_TOLD = 20
"""Of one bundle and kind of finding: a thousand like ones would hide the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One object as it goes into the slice, the path of its file, the bytes and their blob id, and the manifest that it
    was made of; `notes` are what is to be said of how that was written."""

    manifest: Manifest
    key: ObjectKey
    path: str
    obj: Mapping[str, Any]
    data: bytes
    oid: Oid
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    made: Made
    cause: str
    remedy: str
    path: validate.Path = ()

    @property
    def thing(self) -> str:
        """Looks the line up, so ask only for what is told."""
        return f"{self.made.manifest.at(*self.path)}: {self.made.key}"


def check(
    made: Sequence[Made], words: Mapping[str, str], *, custom: validate.Types, kubernetes: str = ""
) -> Mapping[str, tuple[str, ...]]:
    """The warnings by policy. `words` are the policies by name, `warn` where one is missing; `custom` are the types of
    custom kinds; `kubernetes` is the version of the cluster that the objects are for, "" if it is not known.

    Raises InvalidInput for what a policy refuses.
    """
    secrets = [_plain_secret(one) for one in made if one.key.kind == "Secret" and is_plain_secret(one.obj)]
    found = {
        "secrets": _told(secrets, refuse=words.get("secrets") == "refuse"),
        "validation": _told(_unfit(made, custom, kubernetes), refuse=words.get("validation") == "error"),
    }
    return {policy: tuple(texts) for policy, texts in found.items() if texts}


def _unfit(made: Iterable[Made], custom: validate.Types, kubernetes: str) -> list[_Found]:
    return [
        _Found(made=one, cause=str(problem), remedy=problem.remedy, path=problem.path)
        for one in made
        for problem in validate.problems(one.obj, one.oid, custom=custom, kubernetes=kubernetes)
    ]


def is_plain_secret(obj: Mapping[str, Any]) -> bool:
    """Pure: is it a Secret with a value in it that whoever reads it has?"""
    if not is_secret(obj):
        return False
    hidden = (value for field, value in obj.items() if hides(field))
    return any(any(value.values()) if isinstance(value, Mapping) else value for value in hidden)


def is_secret(obj: Mapping[str, Any]) -> bool:
    """Pure: has it values that nobody may see? So has one that is misspelt (`secret`, `core/v1`)."""
    return str(obj.get("kind")).casefold() == "secret" and "." not in str(obj.get("apiVersion"))


def hides(field: str) -> bool:
    """Pure: are the values in this field of a Secret (its first, where it is a path) not to be seen?"""
    return field not in _OPEN_FIELDS


def without_values(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Pure: the object for people to see: a Secret's values stand as a word that no API server takes for one."""
    if not is_secret(obj):
        return obj
    hidden: dict[str, Any] = {
        field: dict.fromkeys(value, HIDDEN) if isinstance(value, Mapping) else HIDDEN
        for field, value in obj.items()
        if hides(field)
    }
    annotations = obj["metadata"].get("annotations")
    if annotations and LAST_APPLIED in annotations:
        hidden["metadata"] = {**obj["metadata"], "annotations": {**annotations, LAST_APPLIED: HIDDEN}}
    return {**obj, **hidden}


def _plain_secret(one: Made) -> _Found:
    return _Found(
        made=one,
        cause="has its values in plain text, for all who read the repo or the slice",
        remedy="keep them out of Git (SealedSecret, ExternalSecret), or set spec.secrets: allow in fleet.yaml",
    )


def _told(found: list[_Found], *, refuse: bool) -> list[str]:
    try:
        if found and refuse:
            first, *others = found
            also = "".join(
                f"; {other.thing}: {other.cause}"
                + (f" ({other.remedy})" if other.remedy not in ("", first.remedy) else "")
                for other in others[: MAX_TOLD - 1]
            )
            more = f"; and {len(others) - MAX_TOLD + 1} more" if len(others) >= MAX_TOLD else ""
            raise InvalidInput(first.thing, first.cause + also + more, first.remedy)
        told = [f"{one.thing}: {one.cause}" + (f" ({one.remedy})" if one.remedy else "") for one in found[:MAX_TOLD]]
    finally:
        for one in found[:MAX_TOLD]:
            one.made.manifest.forget()
    return told + ([f"and {len(found) - MAX_TOLD} more like it"] if len(found) > MAX_TOLD else [])
