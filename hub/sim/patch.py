"""Patches of three kinds, applied to plain JSON: JSON patch, merge patch, strategic merge patch. All of it is pure.

A strategic patch merges lists by the keys of the kind's schema, and knows `$patch: delete | replace | merge`,
`$retainKeys`, `$deleteFromPrimitiveList/…` and `$setElementOrder/…`. What cannot be applied raises Unpatchable.
Sources: RFC 6902, RFC 7386, k8s.io/apimachinery strategicpatch. Next: `api` validates and stores what comes out.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hub.openapi.schema import Node
from hub.sim import merge

_MISSING: Final[Any] = object()


class Unpatchable(ValueError):
    """A patch that makes no sense for this object; `malformed` when it makes none for any."""

    def __init__(self, message: str, *, malformed: bool = False) -> None:
        super().__init__(message)
        self.malformed = malformed


# --- JSON patch -------------------------------------------------------------------------------------------------------


def json_patch(obj: Mapping[str, Any], operations: Any) -> dict[str, Any]:
    """Pure: a JSON patch's result. A `test` that does not hold raises Unpatchable, as all else that fails."""
    if not isinstance(operations, list):
        raise Unpatchable("a JSON patch is a list of operations", malformed=True)
    out: Any = copy.deepcopy(dict(obj))
    for number, operation in enumerate(operations):
        if not isinstance(operation, Mapping) or not isinstance(operation.get("path"), str):
            raise Unpatchable(f"operation {number} has no path", malformed=True)
        out = _operate(out, operation)
    if not isinstance(out, dict):
        raise Unpatchable("the document is no object any more")
    return out


def _operate(doc: Any, operation: Mapping[str, Any]) -> Any:
    path: str = operation["path"]
    match operation.get("op"):
        case "add":
            return _add(doc, path, _value(operation))
        case "remove":
            return _drop(doc, path)
        case "replace":
            if not path:
                return _value(operation)
            _get(doc, path)
            return _add(_drop(doc, path), path, _value(operation))
        case "test":
            if not merge.same(_get(doc, path, missing=None), _value(operation)):
                raise Unpatchable(f"testing path {path} value failed: test failed")
            return doc
        case "move":
            value = _get(doc, str(operation.get("from", "")))
            return _add(_drop(doc, str(operation.get("from", ""))), path, value)
        case "copy":
            return _add(doc, path, copy.deepcopy(_get(doc, str(operation.get("from", "")))))
        case other:
            raise Unpatchable(f"Unexpected kind: {other}", malformed=True)


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise Unpatchable(f"operation {operation.get('op')} has no value", malformed=True)
    return copy.deepcopy(operation["value"])


def _steps(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise Unpatchable(f"path {path!r} does not begin with a slash", malformed=True)
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _get(doc: Any, path: str, *, missing: Any = _MISSING) -> Any:
    node = doc
    for step in _steps(path):
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        elif missing is not _MISSING:
            return missing
        else:
            raise Unpatchable(f"missing path: {path}: missing value")
    return node


def _add(doc: Any, path: str, value: Any) -> Any:
    if not path:
        return value
    *above, last = _steps(path)
    node = _get(doc, "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in above))
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and (last == "-" or (last.isdigit() and int(last) <= len(node))):
        node.insert(len(node) if last == "-" else int(last), value)
    else:
        raise Unpatchable(f"add operation does not apply: doc is missing path: {path}")
    return doc


def _drop(doc: Any, path: str) -> Any:
    *above, last = _steps(path) or [""]
    _get(doc, path)
    node = _get(doc, "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in above))
    if isinstance(node, dict):
        del node[last]
    else:
        del node[int(last)]
    return doc


# --- merge patch ------------------------------------------------------------------------------------------------------


def merge_patch(obj: Mapping[str, Any], patch: Any) -> dict[str, Any]:
    """Pure: a merge patch's result: maps merge, null removes, anything else replaces."""
    if not isinstance(patch, Mapping):
        raise Unpatchable("a merge patch is an object", malformed=True)
    merged: dict[str, Any] = _merged(obj, patch)
    return merged


def _merged(value: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    out = dict(value) if isinstance(value, Mapping) else {}
    for name, part in patch.items():
        if part is None:
            out.pop(name, None)
        else:
            out[name] = _merged(out.get(name), part)
    return out


# --- strategic merge patch --------------------------------------------------------------------------------------------

_ORDER: Final = "$setElementOrder/"
_DELETE: Final = "$deleteFromPrimitiveList/"


def strategic_patch(obj: Mapping[str, Any], patch: Any, node: Node | None) -> dict[str, Any]:
    """Pure: a strategic merge patch's result."""
    if not isinstance(patch, Mapping):
        raise Unpatchable("a strategic merge patch is an object", malformed=True)
    return _merge_map(obj, patch, node)


def _merge_map(value: Mapping[str, Any], patch: Mapping[str, Any], node: Node | None) -> dict[str, Any]:
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: part for name, part in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise Unpatchable(f"Unknown patch type found: {directive}", malformed=True)
    out = dict(value)
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        out = {name: part for name, part in out.items() if name in retained}
    for name, part in patch.items():
        if name.startswith(_DELETE) and isinstance(out.get(name[len(_DELETE) :]), list):
            field = name[len(_DELETE) :]
            out[field] = [item for item in out[field] if item not in part]
    for name, part in patch.items():
        if not name.startswith("$"):
            below = node.field(name) if node is not None else None
            _merge_field(out, name, part, below, order=patch.get(_ORDER + name))
    for name, part in patch.items():
        field = name[len(_ORDER) :]
        below = node.field(field) if node is not None else None
        if name.startswith(_ORDER) and field not in patch and isinstance(out.get(field), list) and _is_merged(below):
            assert below is not None
            out[field] = _ordered(out[field], part, out[field], below)
    return out


def _merge_field(out: dict[str, Any], name: str, part: Any, node: Node | None, *, order: Any) -> None:
    if part is None:
        out.pop(name, None)
    elif isinstance(part, Mapping):
        before = out.get(name)
        out[name] = _merge_map(before if isinstance(before, Mapping) else {}, part, node)
    elif isinstance(part, list) and _is_merged(node):
        assert node is not None
        before = out.get(name)
        original = before if isinstance(before, list) else []
        wanted = [item for item in part if not _is_directive(item)]
        merged = _merge_list(original, part, node)
        out[name] = _ordered(merged, order if isinstance(order, list) else wanted, original, node)
    else:
        out[name] = _without_directives(part)


def _is_merged(node: Node | None) -> bool:
    return node is not None and node.kind == "list" and "merge" in node.patch_strategy.split(",")


def _without_directives(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_directives(item) for item in value if not _is_directive(item)]
    return value


def _is_directive(item: Any) -> bool:
    return isinstance(item, Mapping) and "$patch" in item


def _merge_list(value: list[Any], patch: Sequence[Any], node: Node) -> list[Any]:
    if any(isinstance(item, Mapping) and item.keys() == {"$patch"} and item["$patch"] == "replace" for item in patch):
        return [item for item in patch if not (_is_directive(item) and len(item) == 1)]
    if not node.merge_key:
        return value + [item for item in patch if item not in value]
    out = list(value)
    for item in patch:
        if not isinstance(item, Mapping):
            raise Unpatchable("an item of a list with keys is no object", malformed=True)
        at = _find(out, item, node)
        if item.get("$patch") == "delete":
            if at is not None:
                del out[at]
        elif at is None:
            out.append(_merge_map({}, item, node.items))
        else:
            out[at] = _merge_map(out[at], item, node.items)
    return out


def _find(items: Sequence[Any], wanted: Any, node: Node) -> int | None:
    """By the patch merge key alone, even where several keys name an item."""
    key = node.merge_key
    if not isinstance(wanted, Mapping):
        return next((at for at, item in enumerate(items) if item == wanted), None)
    if key not in wanted:
        raise Unpatchable(f"map: {dict(wanted)} does not contain declared merge key: {key}")
    return next(
        (at for at, item in enumerate(items) if isinstance(item, Mapping) and item.get(key) == wanted[key]), None
    )


def _ordered(merged: list[Any], order: Sequence[Any], original: Sequence[Any], node: Node) -> list[Any]:
    """Items that `order` names in its order, the others in the original one; of two that both were in the original the
    earlier comes first, and what is new comes before what `order` does not name."""
    rank = {at: place for place, wanted in enumerate(order) if (at := _find(merged, wanted, node)) is not None}
    named = [merged[at] for at in sorted(rank, key=lambda at: rank[at])]
    others = [item for at, item in enumerate(merged) if at not in rank]
    out: list[Any] = []
    while named and others:
        left, right = _find(original, others[0], node), _find(original, named[0], node)
        earlier = left is not None and right is not None and left < right
        out.append((others if earlier else named).pop(0))
    return out + named + others
