"""Does a manifest fit its schema: what server-side apply refuses as an internal error, and what JSON cannot be read.

Next: `decode` refuses with these words. All of it is pure.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hub.openapi.schema import Node
from hub.sim import fieldset, merge
from hub.sim.fieldset import Path


def misfits(obj: Mapping[str, Any], node: Node) -> list[str]:
    """Pure: what server-side apply says of fields that the schema does not have and of values of the wrong type."""
    return list(_misfits(obj, node, ()))


def _misfits(value: Any, node: Node, path: Path) -> Iterator[str]:
    if value is None or (node.scalar == "any" and not node.fields):
        return
    if node.kind == "map":
        if not isinstance(value, Mapping):
            yield f"{fieldset.show(path)}: expected map, got {_shown(value)}"
            return
        for name, child in value.items():
            below = node.field(name)
            if below is None:
                yield f"{fieldset.show((*path, f'f:{name}'))}: field not declared in schema"
            else:
                yield from _misfits(child, below, (*path, f"f:{name}"))
    elif node.kind == "list":
        if not isinstance(value, list):
            yield f"{fieldset.show(path)}: expected list, got {_shown(value)}"
            return
        for place, item in enumerate(value):
            yield from _misfits(item, node.element, (*path, _element(item, node, place)))
    elif not _scalar_fits(value, node):
        wanted = {"integer": "numeric (int or float)", "number": "numeric (int or float)"}.get(node.scalar, node.scalar)
        yield f"{fieldset.show(path)}: expected {wanted}, got &value.valueUnstructured{{Value:{value}}}"


def _element(item: Any, node: Node, place: int) -> str:
    if merge.shape(node, [item]) == "list":
        try:
            return merge.element_of(item, node)
        except merge.Malformed:
            pass
    return f"i:{place}"


def _scalar_fits(value: Any, node: Node) -> bool:
    if isinstance(value, (dict, list)):
        return False
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match node.scalar:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer" | "number":
            return number
        case _:
            return True


def _shown(value: Any) -> str:
    return f"&{{{value}}}"


def unreadable(obj: Mapping[str, Any], node: Node) -> list[str]:
    """Pure: values that the server cannot read into the kind's type, as it says in a 400."""
    return list(_unreadable(obj, node, str(obj.get("kind", ""))))


def _unreadable(value: Any, node: Node, path: str) -> Iterator[str]:
    if value is None or (node.scalar == "any" and not node.fields):
        return
    if node.kind == "map" and isinstance(value, Mapping):
        for name, child in value.items():
            below = node.field(name)
            if below is not None:
                yield from _unreadable(child, below, f"{path}.{name}" if name in node.fields else path)
    elif node.kind == "list" and isinstance(value, list):
        for item in value:
            yield from _unreadable(item, node.element, path)
    elif node.kind != "scalar" or not _scalar_fits(value, node):
        wanted = node.scalar or {"map": "object", "list": "array"}[node.kind]
        yield f"json: cannot unmarshal {_json_type(value)} into Go struct field {path} of type {wanted}"


def _json_type(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def without_nulls(value: Any) -> Any:
    """Pure: a copy without null fields, which is how the server reads them."""
    if isinstance(value, dict):
        return {name: without_nulls(child) for name, child in value.items() if child is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
