"""Steal, then apply: rewrites who owns which fields, so that the next apply removes what stands in the place of ours.

A forced apply brings back what we own, and leaves what others put beside it: a port beside the port that is gone,
`valueFrom` beside `value`. Only fields that we own can an apply remove, so they are made ours first, by a JSON patch of
`managedFields` that tests the resourceVersion. All of it is pure. Next: `revert` sends the patch and applies.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agent.fields import ownership
from agent.fields.ownership import CONTROLLERS, MAPS, FieldPath, Paths

ABSENT: Any = object()
"""What `child` leads to where there is nothing."""

JsonPatch = list[dict[str, Any]]


def siblings(
    obj: Mapping[str, Any],
    desired: Mapping[str, Any],
    *,
    controllers: Collection[str] = CONTROLLERS,
    wide: bool = False,
) -> Paths:
    """Pure: the fields of others, controllers not counted, that stand in the place of lost ones.

    Such a field shares a list or struct with a lost one: a port beside the port that is gone, `valueFrom` beside the
    `value` that is gone. Lost is what `desired` has there and neither we nor others own: a field that others own was
    changed in place, and a forced apply alone takes it back; what is there (where `obj` is whole) only lost its owner.
    After a refusal (`wide`) those count as lost, too.
    """
    own = ownership.own_entry(obj)
    if own is None:
        return frozenset()
    ours = ownership.owned(own)
    theirs = _union(_others(obj, own, controllers))
    held = ours if wide else ours | _union(_others(obj, own, ()))
    live = {} if wide else obj
    return frozenset(path for path in theirs - ours if _replaces_lost(path, desired, held, live))


def steal(obj: Mapping[str, Any], stolen: Paths, *, controllers: Collection[str] = CONTROLLERS) -> JsonPatch | None:
    """Pure: a JSON patch that makes `stolen` (see `siblings`) ours; None when there is nothing to steal."""
    own = ownership.own_entry(obj)
    return _take(obj, own, _others(obj, own, controllers), stolen) if own and stolen else None


def unshare(obj: Mapping[str, Any], managers: Collection[str]) -> JsonPatch | None:
    """Pure: a JSON patch that takes from entries of `managers` what we own too; None when they own none of it."""
    own = ownership.own_entry(obj)
    others = [entry for entry in ownership.foreign(obj) if entry.get("manager") in managers]
    shared = ownership.owned(own) & _union(others)
    return _take(obj, own, others, shared) if own and shared else None


def additions(
    obj: Mapping[str, Any], *, controllers: Collection[str] = CONTROLLERS
) -> list[tuple[Mapping[str, Any], Paths]]:
    """Pure: the entries of others, controllers not counted, with what each has beyond ours.

    Status, finalizers and owners are controllers' by right, whoever they are; who inherits all fields after somebody
    emptied `managedFields` added none of them; and a map or item that ours lie in is no addition.
    """
    ours = ownership.owned(ownership.own_entry(obj))
    ours |= {path[:size] for path in ours for size in range(1, len(path))}
    found = (
        (entry, frozenset(path for path in ownership.owned(entry) - ours if not _is_controllers(path)))
        for entry in ownership.foreign(obj)
        if entry.get("manager") not in controllers and entry.get("manager") != ownership.WIPED
    )
    return [(entry, paths) for entry, paths in found if paths]


def steal_additions(
    obj: Mapping[str, Any],
    *,
    controllers: Collection[str] = CONTROLLERS,
    kept: Callable[[FieldPath], bool] = lambda path: False,
) -> JsonPatch | None:
    """Pure: a JSON patch that makes additions ours, all but the `kept`, so that the next apply removes them; None when
    there are none. Of entries of another version of the API only metadata can be told to mean what it means in ours."""
    own = ownership.own_entry(obj)
    if own is None:
        return None
    taken = {
        id(entry): frozenset(path for path in paths if not kept(path) and _means_the_same(path, entry, own))
        for entry, paths in additions(obj, controllers=controllers)
    }
    everything = frozenset[FieldPath]().union(*taken.values())
    if not everything:
        return None
    others = []
    for entry in ownership.entries(obj):
        left = ownership.owned(entry) - taken.get(id(entry), frozenset())
        if left and not ownership.is_own(entry):
            others.append(_with(entry, left) if taken.get(id(entry)) else entry)
    return _replace(obj, [_with(own, ownership.owned(own) | everything), *others])


def give_back(obj: Mapping[str, Any], before: Mapping[str, Any]) -> JsonPatch:
    """Pure: a JSON patch that undoes `steal_additions` of `before`, whatever others wrote since."""
    left = {_writer(entry): entry for entry in ownership.entries(obj) if not ownership.is_own(entry)}
    for entry in ownership.foreign(before):
        seen = left.get(_writer(entry))
        left[_writer(entry)] = _with(seen or entry, ownership.owned(entry) | ownership.owned(seen))
    own = ownership.own_entry(before)
    return _replace(obj, [*([own] if own else []), *left.values()])


def disown(obj: Mapping[str, Any], desired: Mapping[str, Any]) -> JsonPatch | None:
    """Pure: a JSON patch after which we own no more than we want; None when that is so.

    For what was stolen to be removed, could not be, and was not given back, because we were killed in between.
    """
    own = ownership.own_entry(obj)
    ours = ownership.owned(own)
    kept = frozenset(path for path in ours if _is_in(desired, path))
    if own is None or kept == ours:
        return None
    others = [entry for entry in ownership.entries(obj) if not ownership.is_own(entry)]
    return _replace(obj, [_with(own, kept), *others])


def _is_in(node: Any, path: FieldPath) -> bool:
    for element in path:
        node = child(node, element)
        if node is ABSENT:
            return False
    return True


def _writer(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes an entry of `managedFields` one of its own."""
    return tuple(entry.get(name) for name in ("manager", "operation", "apiVersion", "subresource"))


def _is_controllers(path: FieldPath) -> bool:
    return path[0] == "f:status" or path[:2] in (("f:metadata", "f:finalizers"), ("f:metadata", "f:ownerReferences"))


def _means_the_same(path: FieldPath, entry: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return path[0] == "f:metadata" or entry.get("apiVersion") == own.get("apiVersion")


def _with(entry: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    return {**entry, "fieldsV1": ownership.to_fields(paths)}


def _replace(obj: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> JsonPatch:
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": obj["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/metadata/managedFields", "value": list(entries)},
    ]


def _others(obj: Mapping[str, Any], own: Mapping[str, Any], controllers: Collection[str]) -> list[Mapping[str, Any]]:
    """Entries whose paths mean what ours mean: of the same version of the API."""
    return [
        entry
        for entry in ownership.foreign(obj)
        if entry.get("manager") not in controllers and entry.get("apiVersion") == own.get("apiVersion")
    ]


def _union(entries: Iterable[Mapping[str, Any]]) -> Paths:
    return frozenset[FieldPath]().union(*(ownership.owned(entry) for entry in entries))


def _take(
    obj: Mapping[str, Any], own: Mapping[str, Any], others: Sequence[Mapping[str, Any]], taken: Paths
) -> JsonPatch:
    mine: list[Mapping[str, Any]] = [_with(own, ownership.owned(own) | taken)]
    for entry in ownership.entries(obj):
        if ownership.is_own(entry):
            continue
        left = ownership.owned(entry) - taken if entry in others else ownership.owned(entry)
        if left:
            mine.append(_with(entry, left) if entry in others else entry)
    return _replace(obj, mine)


def _replaces_lost(path: FieldPath, desired: Mapping[str, Any], held: Paths, live: Mapping[str, Any]) -> bool:
    """Whether `path` leaves `desired` at a list or struct of which `desired` has a part that is neither in `held` nor,
    as far as it is known, in `live`."""
    node: Any = desired
    there: Any = live
    for depth, element in enumerate(path):
        below = child(node, element)
        if below is ABSENT:
            above = path[:depth]
            return above not in MAPS and any(
                not _is_held(part, held) and not _is_there(part, there) for part in _children(node, above, element)
            )
        node, there = below, child(there, element)
    return False


def _is_there(part: "_Part", live: Any) -> bool:
    """Whether a list or struct has this part: only who owns it has changed."""
    if part.keys is None:
        return child(live, part.path[-1]) is not ABSENT
    names = {name for keys in (part.keys, *part.taken) for name in keys}
    return isinstance(live, list) and any(
        _matches(item, part.keys) and {name: item[name] for name in names if name in item} not in part.taken
        for item in live
    )


def child(node: Any, element: str) -> Any:
    """Pure: what an element of a path leads to in a plain JSON value, or ABSENT."""
    kind, _, text = element.partition(":")
    if kind == "f":
        found = node.get(text) if isinstance(node, Mapping) else None
        return ABSENT if found is None else found
    if not isinstance(node, list):
        return ABSENT
    wanted = orjson.loads(text)
    if kind == "k":
        found = [item for item in node if _matches(item, wanted)]
        return next((item for item in found if wanted.keys() <= item.keys()), found[0] if found else ABSENT)
    if kind == "v":
        return next((item for item in node if item == wanted), ABSENT)
    return node[wanted] if wanted < len(node) else ABSENT


def _matches(item: Any, keys: Mapping[str, Any]) -> bool:
    """Whether a list's item has these keys; one that the item does not say is a default, which fits anything."""
    return (
        isinstance(item, Mapping)
        and any(key in item for key in keys)
        and all(item.get(key, value) == value for key, value in keys.items())
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a desired list or struct: the field at `path`; with `keys`, the item of the list there that has them.
    `taken`: the keys of other items there, which one that does not say all its keys cannot have."""

    path: FieldPath
    keys: Mapping[str, Any] | None = None
    taken: Sequence[Mapping[str, Any]] = ()


def _children(node: Any, above: FieldPath, element: str) -> Iterator[_Part]:
    """The parts of a desired list or struct beside `element`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if value is not None:
                yield _Part((*above, f"f:{key}"))
    elif isinstance(node, list) and element.startswith("k:"):
        names = orjson.loads(element[2:]).keys()
        items = [item for item in node if isinstance(item, Mapping) and not names.isdisjoint(item)]
        all_keys = [{name: item[name] for name in names if name in item} for item in items]
        for keys in all_keys:
            yield _Part(above, keys, [other for other in all_keys if other is not keys and len(other) == len(names)])
    elif isinstance(node, list):
        for item in node:
            yield _Part((*above, f"v:{orjson.dumps(item).decode()}"))


def _is_held(part: _Part, held: Paths) -> bool:
    size = len(part.path)
    if part.keys is None:
        return any(other[:size] == part.path for other in held)
    for other in held:
        if len(other) > size and other[:size] == part.path and other[size].startswith("k:"):
            keys = orjson.loads(other[size][2:])
            if _matches(keys, part.keys) and keys not in part.taken:
                return True
    return False
