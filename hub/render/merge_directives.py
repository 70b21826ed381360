"""Directives of a strategic merge patch that Kustomize leaves in the object, carried out there.

| directive                                  | what it does                                                            |
|--------------------------------------------|-------------------------------------------------------------------------|
| `$retainKeys: [a, b]`                      | the mapping keeps these fields alone                                    |
| `$deleteFromPrimitiveList/field: [a]`      | takes the values out of the list beside it                              |
| `$setElementOrder/field: [a, b]`           | the list beside it has these in this order; others keep their places    |

Elements of `$setElementOrder` are values, or mappings with the merge key alone. Source: Kubernetes' strategic merge
patch. Pure. Next: `patches`.
"""

from collections.abc import Mapping
from typing import Any

_RETAIN = "$retainKeys"
_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def used(value: Any) -> bool:
    """Pure: whether one of the directives is anywhere in the patch."""
    if isinstance(value, Mapping):
        return any(_is_directive(name) or used(child) for name, child in value.items())
    return isinstance(value, list) and any(used(child) for child in value)


def carried_out(value: Any) -> Any:
    """Pure: the object with the directives done and gone."""
    if isinstance(value, list):
        return [carried_out(child) for child in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: carried_out(child) for name, child in value.items() if not _is_directive(name)}
    if isinstance(kept := value.get(_RETAIN), list):
        found = {name: child for name, child in found.items() if name in kept}
    for name, wanted in value.items():
        if not isinstance(wanted, list):
            continue
        field = name.partition("/")[2]
        if name.startswith(_DELETE) and isinstance(found.get(field), list):
            found[field] = [item for item in found[field] if item not in wanted]
        elif name.startswith(_ORDER) and isinstance(found.get(field), list):
            found[field] = _ordered(found[field], wanted)
    return found


def _is_directive(name: str) -> bool:
    return name == _RETAIN or name.startswith((_DELETE, _ORDER))


def _ordered(items: list[Any], wanted: list[Any]) -> list[Any]:
    """Those that `wanted` names change places among themselves."""
    places = {index: place for index, item in enumerate(items) if (place := _place(item, wanted)) is not None}
    named = iter(sorted(places, key=lambda index: places[index]))
    return [items[next(named)] if index in places else item for index, item in enumerate(items)]


def _place(item: Any, wanted: list[Any]) -> int | None:
    for place, one in enumerate(wanted):
        if item == one or (
            isinstance(item, Mapping) and isinstance(one, Mapping) and one and one.items() <= item.items()
        ):
            return place
    return None
