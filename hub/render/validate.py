"""Where an object does not fit the schema of its kind, as its API server would say when it is applied.

Schemas are known of Kubernetes' own kinds, and of custom kinds whose CustomResourceDefinition is in the same bundle or
in another one of the same clusters.

| what is told                                          | remedy                        |
|-------------------------------------------------------|-------------------------------|
| a field that the kind does not have                   | the nearest one               |
| a value of another type, none of those allowed        | the nearest one, or the type  |
| a required field that is missing, a list too short    |                               |
| the same item twice in a list that is a map or a set  |                               |
| a kind or version that Kubernetes does not have, or a | the nearest one               |
| group that looks like one of its own, or              |                               |
| a version that a kind's definition does not serve     |                               |

Not told: other custom kinds; patterns and CEL rules of definitions (they are in Go's words, and the API server of the
first wave says them); fields on clusters newer, versions on clusters older than the schemas. Objects are finished
(`objects.complete`): nulls, status and what only a server sets are gone. A value is shown only where the schema lists
the values. Pure, but that results are kept. Next: `checks` makes findings of it.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from hub.openapi.schema import Node, Schemas, fits, schemas
from hub.repo.schema import nearest
from proto.ids import Oid
from proto.objects import group_of

MAX_PROBLEMS = 20
"""Of one object."""
_MAX_KEPT = 50_000
"""Results kept by the blob id of an object: most objects are the same on every cluster, and mostly nothing is wrong."""
_MAX_KEPT_DEFINITIONS = 100
_DEFINITION = ("apiextensions.k8s.io", "CustomResourceDefinition")
_VERSION = re.compile(r"v?1\.(\d{1,3})(?:[.+-].*)?", re.ASCII)

_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_UNQUOTED = {"integer": _NUMBER, "number": _NUMBER, "boolean": re.compile("true|false")}
"""Texts that are of these types without their quotes."""

Path = tuple[str | int, ...]
Types = Mapping[tuple[str, str, str], Node]
"""By group, version and kind."""
_kept: dict[tuple[Oid, str], tuple["Problem", ...]] = {}
_definitions: dict[Oid, Types] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`path` leads to the field, `cause` begins after its name."""

    path: Path
    cause: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{dotted(self.path)} {self.cause}".lstrip()


def dotted(path: Path) -> str:
    """Pure: `spec.containers[0].image`; a key that has dots itself in brackets, as kubectl writes it."""
    parts = (
        f"[{step}]" if isinstance(step, int) else f'["{step}"]' if "." in step or "/" in step else f".{step}"
        for step in path
    )
    return "".join(parts).lstrip(".")


def problems(obj: Mapping[str, Any], oid: Oid, *, custom: Types, kubernetes: str = "") -> tuple[Problem, ...]:
    """What does not fit in `obj`, whose blob id is `oid`. `custom` is what `defined` found; `kubernetes` the version of
    the cluster that the object is for, "" if it is not known."""
    if custom:
        group, version, kind = group_of(obj["apiVersion"]), obj["apiVersion"].rpartition("/")[2], obj["kind"]
        if (node := custom.get((group, version, kind))) is not None:
            return tuple(islice(_walk(obj, node, (), defaulted=True), MAX_PROBLEMS))
        if served := sorted(v for g, v, k in custom if (g, k) == (group, kind)):
            remedy = f"write {' or '.join(f'{group}/{each}' for each in served)}"
            cause = f"is not one that the definition of {kind} serves"
            return (Problem(path=("apiVersion",), cause=cause, remedy=remedy),)
    key = oid, kubernetes
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= _MAX_KEPT:
            _kept.clear()
        found = _kept[key] = tuple(islice(_builtin(obj, kubernetes), MAX_PROBLEMS))
    return found


def defined(objects: Iterable[tuple[Mapping[str, Any], Oid]]) -> Types:
    """The type of each (group, version, kind) that a CustomResourceDefinition among `objects`, which come with their
    blob ids, defines."""
    found: dict[tuple[str, str, str], Node] = {}
    for obj, oid in objects:
        if (group_of(obj["apiVersion"]), obj["kind"]) == _DEFINITION:
            if oid not in _definitions:
                if len(_definitions) >= _MAX_KEPT_DEFINITIONS:
                    _definitions.clear()
                _definitions[oid] = _defined(obj)
            found |= _definitions[oid]
    return found


def is_builtin(group: str, kind: str) -> bool:
    """Pure: is it one of Kubernetes' own kinds?"""
    return (group, kind) in _kinds()


def _defined(definition: Mapping[str, Any]) -> Types:
    """Of a definition that is itself wrong, which is told, nothing."""
    try:
        spec = definition["spec"]
        return {
            (spec["group"], version["name"], spec["names"]["kind"]): schemas().from_crd(
                version["schema"]["openAPIV3Schema"]
            )
            for version in spec["versions"]
            if version.get("served") is not False
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _builtin(obj: Mapping[str, Any], kubernetes: str) -> Iterator[Problem]:
    known = schemas()
    newer = _minor(kubernetes or known.version) - _minor(known.version)
    group, version, kind = group_of(obj["apiVersion"]), obj["apiVersion"].rpartition("/")[2], obj["kind"]
    try:
        node = known.of(group, version, kind)
    except KeyError:
        if newer == 0:
            yield from _unknown_kind(group, version, kind, known)
        return
    for problem in _walk(obj, node, (), defaulted=False):
        if newer <= 0 or problem.cause != _UNKNOWN:
            yield problem


def _minor(version: str) -> int:
    """36 of `v1.36.2`; of what is no such version that of the schemas, so that it counts as equal."""
    found = _VERSION.fullmatch(version)
    return int(found[1]) if found else _minor(schemas().version)


@cache
def _names() -> frozenset[tuple[str, str, str]]:
    return schemas().kinds()


@cache
def _kinds() -> frozenset[tuple[str, str]]:
    return frozenset((group, kind) for group, _, kind in _names())


def _unknown_kind(group: str, version: str, kind: str, known: Schemas) -> Iterator[Problem]:
    """Silent about other groups than its own, unless they have no dot, as no custom one, or look like one of its own
    that has the kind; and about kinds beside its own in versions that it does not have."""
    of_group = {(v, k) for g, v, k in _names() if g == group}
    name = f"Kubernetes {known.version.removeprefix('v').rpartition('.')[0]}"
    if not of_group:
        having = sorted({g for g, _, k in _names() if k == kind})
        near = difflib.get_close_matches(group, having, n=1, cutoff=_LIKE_OURS)
        if near or "." not in group:
            meant = near or having[-1:]
            there = [f"{g}/{v}".lstrip("/") for g, v, k in sorted(_names()) if k == kind and g in meant]
            remedy = f"did you mean {there[-1]!r}?" if there else "correct it"
            cause = f"has the group {group!r}, which {name} does not have"
            yield Problem(path=("apiVersion",), cause=cause, remedy=remedy)
        return
    if versions := sorted(v for v, k in of_group if k == kind):
        wanted = f"{group}/{versions[-1]}" if group else versions[-1]
        yield Problem(path=("apiVersion",), cause=f"is not one that {name} has of {kind}", remedy=f"write {wanted}")
    elif version in {v for v, _ in of_group}:
        remedy = nearest(kind, {k for v, k in of_group if v == version}, else_="correct apiVersion or kind")
        yield Problem(
            path=("kind",),
            cause=f"is {kind}, which {name} does not have in {group or 'the core group'}/{version}",
            remedy=remedy,
        )


_LIKE_OURS = 0.9
"""How alike groups are when one is the other misspelt: `networking.gke.io`, which is another's, is at 0.88."""
_UNKNOWN = "is not a known field"


def _walk(value: Any, node: Node, path: Path, *, defaulted: bool) -> Iterator[Problem]:
    """`defaulted`: the API server fills in defaults before it looks, as it does for custom kinds. Those that OpenAPI
    tells of its own kinds are only what Go has in an empty field."""
    if value is None or (node.scalar == "any" and not node.fields):
        return
    if not fits(value, node):
        yield Problem(path=path, cause=f"is {_said(value)}, not {_wanted(node)}", remedy=_quoted(value, node))
        return
    if node.checks:
        yield from _checked(value, node, path)
    if isinstance(value, Mapping):
        for name in node.checks.get("required", ()):
            if value.get(name) is None and not (
                defaulted and (inner := node.field(name)) and inner.default is not None
            ):
                yield Problem(path=(*path, name), cause="is missing")
        for name, child in value.items():
            inner = node.field(name)
            if inner is None:
                remedy = nearest(name, node.fields, else_="remove it")
                yield Problem(path=(*path, name), cause=_UNKNOWN, remedy=remedy)
            elif not _is_text(child, inner):
                yield from _walk(child, inner, (*path, name), defaulted=defaulted)
    elif isinstance(value, list):
        if len(value) > 1 and node.list_type in ("map", "set"):
            yield from _repeated(value, node, path)
        for index, child in enumerate(value):
            if not _is_text(child, node.element):
                yield from _walk(child, node.element, (*path, index), defaulted=defaulted)


def _is_text(value: Any, node: Node) -> bool:
    """Text where any text will do: most of all values, so they are seen to first."""
    return type(value) is str and node.scalar == "string" and not node.checks


def _repeated(value: list[Any], node: Node, path: Path) -> Iterator[Problem]:
    """Items that are one to server-side apply. A key that is left out has its default: `port: 53` is also TCP's."""
    first: dict[str, int] = {}
    for index, item in enumerate(value):
        if node.list_type == "map":
            if not isinstance(item, Mapping):
                continue
            identity = repr([_key(item, name, node.element) for name in node.keys])
        else:
            identity = repr(item)
        if (earlier := first.setdefault(identity, index)) != index:
            cause = f"is the same item as [{earlier}]" + (f", by its {' and '.join(node.keys)}" if node.keys else "")
            yield Problem(path=(*path, index), cause=cause, remedy="remove one of the two")


def _key(item: Mapping[str, Any], name: str, node: Node) -> Any:
    inner = node.fields.get(name)
    return item.get(name, inner.default if inner else None)


def _checked(value: Any, node: Node, path: Path) -> Iterator[Problem]:
    checks = node.checks
    if "enum" in checks and value not in checks["enum"] and isinstance(value, str):
        words = [str(word) for word in checks["enum"] if word != ""]
        remedy = nearest(value, words, else_=f"known are: {', '.join(sorted(words))}")
        yield Problem(path=path, cause=f"is {value[:80]!r}", remedy=remedy)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = checks.get("range", (checks.get("minimum"), checks.get("maximum")))
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
            yield Problem(path=path, cause=f"has to be {' and '.join(bound for bound in bounds if bound)}")
    if isinstance(value, str | list | Mapping):
        word = "characters" if isinstance(value, str) else "items" if isinstance(value, list) else "entries"
        least, most = _sizes(value, checks)
        if least is not None and len(value) < least:
            yield Problem(path=path, cause=f"has to have at least {least} {word}")
        if most is not None and len(value) > most:
            yield Problem(path=path, cause=f"has {len(value)} {word}, at most {most} are allowed")


def _sizes(value: Any, checks: Mapping[str, Any]) -> tuple[Any, Any]:
    word = "Length" if isinstance(value, str) else "Items" if isinstance(value, list) else "Properties"
    return checks.get(f"min{word}"), checks.get(f"max{word}")


def _wanted(node: Node) -> str:
    words = {"int-or-string": "a whole number or text", "integer": "a whole number", "number": "a number"}
    words |= {"boolean": "true or false", "quantity": "a quantity such as 500m or 1Gi"}
    return {"map": "a mapping", "list": "a list"}.get(node.kind) or words.get(node.scalar, "text")


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a mapping"


def _quoted(value: Any, node: Node) -> str:
    if isinstance(value, bool | int | float) and node.kind == "scalar" and _wanted(node) == "text":
        return "put it in quotes"
    if isinstance(value, str) and node.scalar in _UNQUOTED and _UNQUOTED[node.scalar].fullmatch(value):
        return "take its quotes off"
    return f"write {_wanted(node)}" if node.kind != "scalar" else ""
