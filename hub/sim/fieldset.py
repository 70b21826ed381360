"""`fieldsV1` of `managedFields` as sets of paths: read, written and shown as a real API server does. All of it is pure.

A path is a tuple of raw elements: `f:spec` (a field), `k:{"name":"app"}` (an item of a list by its keys), `v:"x"` (an
item of a set), `i:0` (an item by its place). A set holds a path itself or what is below it, each by its own: `.` says
that a path with others below it is in the set, too. Unions and differences are those of frozensets.
Source: sigs.k8s.io/structured-merge-diff, package fieldpath. Next: `merge` computes such sets, `managers` keeps them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

Path = tuple[str, ...]
Paths = frozenset[Path]

EMPTY: Final[Paths] = frozenset()

_KINDS: Final = {"f": 0, "k": 1, "v": 2, "i": 3}


def parse(fields: Mapping[str, Any] | None) -> Paths:
    """Pure: the paths of a `fieldsV1`. Raises ValueError for what is none."""
    return frozenset(_walk(fields, ())) if fields else EMPTY


def _walk(fields: Mapping[str, Any], above: Path) -> Iterator[Path]:
    for element, below in fields.items():
        if not isinstance(below, Mapping) or (element != "." and element[:1] not in _KINDS):
            raise ValueError(f"{element!r} is no element of fieldsV1")
        if element == ".":
            yield above
        elif below:
            yield from _walk(below, (*above, element))
        else:
            yield (*above, element)


def dump(paths: Iterable[Path]) -> dict[str, Any]:
    """Pure: the `fieldsV1` of paths, in the order in which a real server writes it."""
    root: dict[str, Any] = {}
    for path in sorted(paths, key=_order):
        node = root
        for element in path:
            # Whoever comes first is either a member (`path` ends here, and stays {}), or leads to one.
            node = node.setdefault(element, {})
        node["."] = {}
    return _without_lone_dots(root)


def _without_lone_dots(node: dict[str, Any]) -> dict[str, Any]:
    for element, below in node.items():
        if element != ".":
            node[element] = {} if below.keys() == {"."} else _without_lone_dots(below)
    return node


def _order(path: Path) -> list[tuple[int, str]]:
    return [(_KINDS[element[0]], element) for element in path]


def with_named_fields(paths: Paths) -> Paths:
    """Pure: the set together with every field on the way to one of its paths."""
    above = {path[:depth] for path in paths for depth in range(1, len(path)) if path[depth - 1].startswith("f:")}
    return paths | above


def without_below(paths: Paths, roots: Paths) -> Paths:
    """Pure: the set without `roots` and all that is below them."""
    if not roots:
        return paths
    return frozenset(path for path in paths if not any(path[: len(root)] == root for root in roots))


def key_element(keys: Mapping[str, Any]) -> str:
    """Pure: the element of a list's item that has these keys."""
    return "k:" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()


def value_element(value: Any) -> str:
    """Pure: the element of a set's item."""
    return "v:" + orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def show(path: Path) -> str:
    """Pure: a path as the API server's messages write it: `.spec.containers[name="app"].image`."""
    return "".join(_show(element) for element in path)


def _show(element: str) -> str:
    kind, _, value = element.partition(":")
    if kind == "f":
        return f".{value}"
    if kind == "k":
        keys = orjson.loads(value)
        return "[" + ",".join(f"{key}={orjson.dumps(keys[key]).decode()}" for key in sorted(keys)) + "]"
    return f"[={value}]" if kind == "v" else f"[{value}]"
