"""What is so about an edit, found without the agent's code: by a dry run of what Git has, and by comparing values.

    the object is gone                                         drift: deleted
    the dry run is refused                                     drift: what Git has cannot even be merged
    the dry run would change a value                           drift
    it is another object with the values that Git has          either: it was deleted, and is as it should be
    managedFields of a Secret with the values that Git has     either: a Secret's values are never read to compare them
    nothing of this                                            none

Values are all of an object but its status and what the server counts and dates. All of it is pure.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from agent.fields import ownership, steal
from agent.fields.ownership import FieldPath, Paths

_COUNTED = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
_CONTROLLERS_OWN = ("deployment.kubernetes.io/", "deprecated.daemonset.", "pv.kubernetes.io/", "volume.")
"""Annotations that controllers write by themselves, whenever they like."""


class Drift(Enum):
    """The truth about an edit, by the module's table."""

    NONE = "none"
    EITHER = "either"
    CHANGED = "changed"
    DELETED = "deleted"


def values(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: the object without status and what the server counts and dates."""
    kept = {key: value for key, value in obj.items() if key != "status"}
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _COUNTED}
    annotations = {
        key: value
        for key, value in (metadata.pop("annotations", None) or {}).items()
        if not key.startswith(_CONTROLLERS_OWN)
    }
    kept["metadata"] = {**metadata, "annotations": annotations} if annotations else metadata
    return kept


def drift(before: Mapping[str, Any], edited: Mapping[str, Any] | None, wished: Mapping[str, Any] | None) -> Drift:
    """Pure: `before` and `edited` are the object around an edit (None: gone), `wished` what the dry run answered (None:
    it was refused)."""
    if edited is None:
        return Drift.DELETED
    if wished is None or values(edited) != values(wished):
        return Drift.CHANGED
    if edited["metadata"]["uid"] != before["metadata"]["uid"]:
        return Drift.EITHER
    return Drift.EITHER if edited["kind"] == "Secret" and lost(before, edited) else Drift.NONE


def wanted(live: Any, desired: Any) -> Any:
    """Pure: what `live`, which is as Git has it, says where `desired` says something: with the server's own spelling of
    quantities; not what it added by itself, which comes last in a list."""
    if isinstance(live, Mapping) and isinstance(desired, Mapping):
        return {key: wanted(live[key], value) for key, value in desired.items() if key in live}
    if isinstance(live, list) and isinstance(desired, list):
        return [wanted(one, item) for one, item in zip(live, desired, strict=False)]
    return live


def covers(whole: Any, part: Any) -> bool:
    """Pure: whether `whole` has all of `part`: every key, and the items of a list in their order."""
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(
            key in whole and covers(whole[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        if not isinstance(whole, list):
            return False
        rest = iter(whole)
        return all(any(covers(one, item) for one in rest) for item in part)
    return bool(whole == part)


def within(part: Any, *wholes: Any) -> bool:
    """Pure: whether all that `part` has is in one of the `wholes`; lists in any order, as others' items may lie
    anywhere."""
    if isinstance(part, Mapping):
        maps = [one for one in wholes if isinstance(one, Mapping)]
        return all(within(value, *(one[key] for one in maps if key in one)) for key, value in part.items())
    if isinstance(part, list):
        items = [item for one in wholes if isinstance(one, list) for item in one]
        return all(_is_among(item, items) for item in part)
    return part in wholes


def _is_among(item: Any, items: list[Any]) -> bool:
    named = item.get("name") if isinstance(item, Mapping) else None
    if named is not None and within(item, *(one for one in items if one.get("name") == named)):
        return True
    return any(within(item, one) for one in items)


def lost(before: Mapping[str, Any], edited: Mapping[str, Any]) -> Paths:
    """Pure: the fields that the server took from our entry for an edit."""
    return ownership.owned(ownership.own_entry(before)) - ownership.owned(ownership.own_entry(edited))


def trace(
    before: Mapping[str, Any], edited: Mapping[str, Any], manager: str, *, instead: bool
) -> Mapping[str, Any] | None:
    """Pure: the entry that the server made for `manager`'s edit, if it holds what was ours, or what is in its place."""
    gone = lost(before, edited)
    known = list(ownership.entries(before))
    for entry in ownership.foreign(edited):
        if entry.get("manager") != manager or entry in known:
            continue
        theirs = ownership.owned(entry) - _held(known, manager)
        if any(_at(before, path) != _at(edited, path) for path in theirs & gone) or any(
            ownership.under(path, above) for path in theirs for above in gone
        ):
            return entry
        if instead and theirs and gone and not _has_twin(entry, edited):
            return entry
    return None


def _at(node: Any, path: FieldPath) -> Any:
    for element in path:
        node = steal.child(node, element)
    return node


def _has_twin(entry: Mapping[str, Any], edited: Mapping[str, Any]) -> bool:
    """Whether another wrote in the same second: which of two things in the same list came last cannot be known."""
    times = [one.get("time") for one in ownership.foreign(edited) if one is not entry]
    return entry.get("time") in times


def _held(entries: Iterable[Mapping[str, Any]], manager: str) -> Paths:
    found: Paths = frozenset()
    for entry in entries:
        if entry.get("manager") == manager and not ownership.is_own(entry):
            found |= ownership.owned(entry)
    return found


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Pure: where two values differ, for people."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += difference(old.get(key, "(absent)"), new.get(key, "(absent)"), f"{path}.{key}")
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in difference(a, b, f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {old!r} → {new!r}"]
