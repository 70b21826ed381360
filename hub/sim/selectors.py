"""Label and field selectors, read and matched. All of it is pure. Next: `api` and `watch` select with them.

Every kind can be selected by namespace and name, Events and Pods by some fields more, as on a real server.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_COMMA = re.compile(r",(?![^(]*\))")
_SET = re.compile(r"([\w./-]+)\s+(in|notin)\s*\(([^)]*)\)")
_EQUAL = re.compile(r"([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)")
_EXISTS = re.compile(r"(!?)\s*([\w./-]+)")


_EVERY: Final = ("metadata.name", "metadata.namespace")
SELECTABLE: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "events"): (
        *(f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")),
        *("reason", "type"),
    ),
    ("", "pods"): ("spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase", "status.podIP"),
}
"""By group and plural, beside namespace and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """What an object must be: requirements on labels, and on fields."""

    labels: tuple[tuple[str, str, frozenset[str]], ...] = ()
    """(label, `in`, `notin`, `exists` or `absent`, values)."""
    fields: tuple[tuple[str, bool, str], ...] = ()
    """(path, whether it must be equal, value)."""

    def matches(self, key: tuple[str, str], labels: Mapping[str, str], fields: Mapping[str, str] | None = None) -> bool:
        """Pure: whether an object of this namespace and name, with these labels and `fields_of` it, is selected."""
        for label, operator, values in self.labels:
            value = labels.get(label)
            match operator:
                case "in":
                    if value is None or value not in values:
                        return False
                case "notin":
                    if value is not None and value in values:
                        return False
                case "exists":
                    if value is None:
                        return False
                case _:
                    if value is not None:
                        return False
        known = {"metadata.namespace": key[0], "metadata.name": key[1], **(fields or {})}
        return all((known.get(path, "") == value) is equal for path, equal, value in self.fields)


def fields_of(table: tuple[str, str], obj: Mapping[str, Any]) -> dict[str, str]:
    """Pure: what the objects of a kind can be selected by, beside namespace and name."""
    return {path: _at(obj, path) for path in SELECTABLE.get(table, ())}


def _at(obj: Any, path: str) -> str:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj if isinstance(obj, str) else ""


def parse(labels: str, fields: str = "", *, table: tuple[str, str] = ("", "")) -> Selector:
    """Pure: the selectors of a query for objects of a kind. Raises ValueError for what cannot be read, or a field that
    is no selector's."""
    known = (*_EVERY, *SELECTABLE.get(table, ()))
    return Selector(labels=tuple(_labels(labels)), fields=tuple(_fields(fields, known)))


def _labels(text: str) -> list[tuple[str, str, frozenset[str]]]:
    return [_requirement(part.strip()) for part in _COMMA.split(text)] if text.strip() else []


def _requirement(text: str) -> tuple[str, str, frozenset[str]]:
    if among := _SET.fullmatch(text):
        return among[1], among[2], frozenset(one.strip() for one in among[3].split(","))
    if equal := _EQUAL.fullmatch(text):
        return equal[1], "notin" if equal[2] == "!=" else "in", frozenset({equal[3]})
    if exists := _EXISTS.fullmatch(text):
        return exists[2], "absent" if exists[1] else "exists", frozenset()
    raise ValueError(f"unable to parse requirement: {text!r}")


def _fields(text: str, known: tuple[str, ...]) -> list[tuple[str, bool, str]]:
    found = []
    for part in filter(None, text.split(",")):
        path, equals, value = re.split(r"(!=|==|=)", part, maxsplit=1) if "=" in part else (part, "", "")
        if path not in known or not equals:
            only = ", ".join(f'"{each}"' for each in known)
            raise ValueError(f'"{path}" is not a known field selector: only {only}')
        found.append((path, equals != "!=", value))
    return found
