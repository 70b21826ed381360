"""Values of one kind, by its schema: what an object sets, what differs between two, two as one, one without some.

    field_set(applied)      the paths that a manifest sets: leaves, items of lists, keys of maps; not structs on the way
    compare(old, new)       added, modified and removed paths; a struct that is new counts itself
    merge(live, applied)    the applied value where there is one; lists by their keys, in the order of the applied one
    remove(value, paths)    without these paths and what is below them

A list is compared item by item when its schema names keys (`map`) or calls it a `set`; any other, and atomic maps, are
one value. What the schema does not know is a map by its keys or one value. Values compare raw: "1000m" is not "1".
A schema is a `Node` of `schema`, or None where anything goes. All of it is pure.
Source: sigs.k8s.io/structured-merge-diff, package typed. Next: `managers` decides with these who owns what.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from hub.openapi.schema import Node
from hub.sim import fieldset
from hub.sim.fieldset import Path, Paths

_ABSENT: Final[Any] = object()


class Malformed(ValueError):
    """A value does not fit its schema so badly that it cannot be merged; says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two values, as paths."""

    added: Paths
    modified: Paths
    removed: Paths

    def without(self, roots: Paths) -> "Comparison":
        """Pure: the same without what is at or below `roots`."""
        return Comparison(
            added=fieldset.without_below(self.added, roots),
            modified=fieldset.without_below(self.modified, roots),
            removed=fieldset.without_below(self.removed, roots),
        )


def shape(node: Node | None, value: Any) -> Literal["map", "list", "leaf"]:
    """Pure: whether a value is looked into, by field or by item, or is one value."""
    if node is None:
        return "map" if isinstance(value, dict) else "leaf"
    if node.kind == "map" and not node.atomic and isinstance(value, dict):
        return "map"
    if node.kind == "list" and not node.atomic and node.list_type in ("map", "set") and isinstance(value, list):
        return "list"
    return "leaf"


def element_of(item: Any, node: Node) -> str:
    """Pure: the path element of an item of an associative list. Raises Malformed."""
    if node.list_type == "set":
        return fieldset.value_element(item)
    if not isinstance(item, Mapping):
        raise Malformed("associative list with keys may not have non-map elements")
    keys: dict[str, Any] = {}
    for key in node.keys:
        if key in item:
            keys[key] = item[key]
            continue
        below = node.items.field(key) if node.items else None
        if below is None or below.default is None:
            raise Malformed(
                f"associative list with keys has an element that omits key field {_quoted(key)} "
                "(and doesn't have default value)"
            )
        keys[key] = below.default
    return fieldset.key_element(keys)


def _quoted(text: str) -> str:
    return '"' + text + '"'


# --- what a manifest sets ---------------------------------------------------------------------------------------------


def field_set(value: Mapping[str, Any], node: Node | None, *, strict: bool = False) -> Paths:
    """Pure: the paths that a value sets. `strict` raises Malformed for an item that is there twice."""
    out: set[Path] = set()
    _set_of(value, node, (), out, strict)
    return frozenset(out)


def _set_of(value: Any, node: Node | None, path: Path, out: set[Path], strict: bool) -> None:
    match shape(node, value):
        case "map":
            for name, child in value.items():
                below = (*path, f"f:{name}")
                known = node is not None and name in node.fields
                _set_of(child, _child(node, name), below, out, strict)
                if child is None or child == {} or not known:
                    out.add(below)
        case "list":
            assert node is not None
            seen: set[str] = set()
            for item in value:
                try:
                    element = element_of(item, node)
                except Malformed as error:
                    if strict:
                        raise Malformed(f"{fieldset.show(path)}: {error}") from error
                    continue
                if element in seen and strict:
                    raise Malformed(f"{fieldset.show(path)}: duplicate entries for key {_key_text(element)}")
                seen.add(element)
                _set_of(item, node.items, (*path, element), out, strict)
                out.add((*path, element))
        case _:
            # What should be a map or list and is none (null, say) sets nothing itself.
            if node is None or node.kind == "scalar" or node.atomic or node.scalar == "any":
                out.add(path)


def _key_text(element: str) -> str:
    return fieldset.show((element,))


def _child(node: Node | None, name: str) -> Node | None:
    return node.field(name) if node is not None else None


# --- what differs -----------------------------------------------------------------------------------------------------


def compare(old: Mapping[str, Any], new: Mapping[str, Any], node: Node | None) -> Comparison:
    """Pure: what differs from `old` to `new`."""
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()

    def leaf(left: Any, right: Any, path: Path) -> None:
        if left is _ABSENT:
            added.add(path)
        elif right is _ABSENT:
            removed.add(path)
        elif not same(left, right):
            modified.add(path)

    def walk(left: Any, right: Any, node: Node | None, path: Path) -> None:
        if left is right:
            return
        value = left if right is _ABSENT else right
        kind = shape(node, value)
        other = right if value is left else left
        if (
            kind == "leaf"
            or (other is not _ABSENT and shape(node, other) != kind)
            or (not value and (other is _ABSENT or not other))
        ):
            leaf(left, right, path)
            return
        if kind == "map":
            before = {} if left is _ABSENT else left
            after = {} if right is _ABSENT else right
            for name in before.keys() | after.keys():
                walk(before.get(name, _ABSENT), after.get(name, _ABSENT), _child(node, name), (*path, f"f:{name}"))
        else:
            assert node is not None
            before, after = _indexed(left, node), _indexed(right, node)
            for element in before.keys() | after.keys():
                walk(before.get(element, _ABSENT), after.get(element, _ABSENT), node.items, (*path, element))
        if left is _ABSENT:
            added.add(path)
        elif right is _ABSENT:
            removed.add(path)

    walk(old, new, node, ())
    return Comparison(
        added=frozenset(added - {()}), modified=frozenset(modified - {()}), removed=frozenset(removed - {()})
    )


def same(left: Any, right: Any) -> bool:
    """Pure: whether two JSON values are equal; true is not 1."""
    if left != right:
        return False
    # Python takes True for 1; their JSON does not.
    return orjson.dumps(left, option=orjson.OPT_SORT_KEYS) == orjson.dumps(right, option=orjson.OPT_SORT_KEYS)


def _indexed(value: Any, node: Node) -> dict[str, Any]:
    """The items of a list by element; an item without its keys is left out, of doubles the last counts."""
    found: dict[str, Any] = {}
    for item in () if value is _ABSENT else value:
        try:
            found[element_of(item, node)] = item
        except Malformed:
            continue
    return found


# --- two as one -------------------------------------------------------------------------------------------------------


def merge(live: Mapping[str, Any], applied: Mapping[str, Any], node: Node | None) -> dict[str, Any]:
    """Pure: `live` with what `applied` sets. Shares parts with both."""
    merged: dict[str, Any] = _merge(live, applied, node)
    return merged


def _merge(live: Any, applied: Any, node: Node | None) -> Any:
    if applied is _ABSENT:
        return live
    kind = shape(node, applied)
    if live is _ABSENT or kind == "leaf" or shape(node, live) != kind:
        return applied
    if kind == "map":
        out = dict(live)
        for name, value in applied.items():
            out[name] = _merge(live.get(name, _ABSENT), value, _child(node, name))
        return out
    assert node is not None
    return _merge_list(live, applied, node)


def _merge_list(live: list[Any], applied: list[Any], node: Node) -> list[Any]:
    """Items of both; the shared ones in the applied order, live ones between them where they stood."""
    left = [(element_of(item, node), item) for item in live]
    right = [(element_of(item, node), item) for item in applied]
    by_left, by_right = dict(left), dict(right)
    shared = [element for element, _ in right if element in by_left]
    turn = 0
    done: set[str] = set()
    out: list[Any] = []
    at = position = 0
    while at < len(left) or position < len(right):
        if at < len(left) and position < len(right):
            element = left[at][0]
            if element == right[position][0]:
                done.add(element)
                out.append(_merge(by_left[element], by_right[element], node.items))
                at, position, turn = at + 1, position + 1, turn + 1
                continue
            if element in by_right and turn < len(shared) and shared[turn] != element:
                at += 1
                continue
        if at < len(left):
            element, item = left[at]
            if element not in by_right:
                out.append(item)
                at += 1
                continue
            if element in done:
                at += 1
        if position < len(right):
            element = right[position][0]
            done.add(element)
            out.append(_merge(by_left.get(element, _ABSENT), by_right[element], node.items))
            position += 1
            if turn < len(shared) and shared[turn] == element:
                turn += 1
    return out


# --- one without some -------------------------------------------------------------------------------------------------


def remove(value: Mapping[str, Any], paths: Iterable[Path], node: Node | None) -> dict[str, Any]:
    """Pure: the value without these paths and what is below them; what becomes empty goes, too."""
    tree: dict[str, Any] = {}
    for path in paths:
        below = tree
        for element in path:
            below = below.setdefault(element, {})
        below["."] = {}
    left: dict[str, Any] = _removed(value, tree, node) or {}
    return left


def _removed(value: Any, tree: Mapping[str, Any], node: Node | None) -> Any:
    """None when nothing is left."""
    kind = shape(node, value)
    if kind == "map":
        out = {}
        for name, child in value.items():
            below = tree.get(f"f:{name}")
            if below is None:
                out[name] = child
            elif "." not in below:
                left = _removed(child, below, _child(node, name))
                if left is not None:
                    out[name] = left
        return out or None
    if kind == "list":
        assert node is not None
        kept = []
        for item in value:
            try:
                below = tree.get(element_of(item, node))
            except Malformed:
                below = None
            if below is None:
                kept.append(item)
            elif "." not in below:
                kept.append(_removed(item, below, node.items))
        return kept or None
    # Something below one value cannot be taken out of it: as on the real server, all of it goes.
    return None
