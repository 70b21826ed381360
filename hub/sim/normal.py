"""What is left of an object after a real server has read it into Go structs and written it out again.

| written                        | stored                                                                     |
|--------------------------------|----------------------------------------------------------------------------|
| a null field                   | no field                                                                   |
| an empty list or map           | no field; an empty struct stays, it may be a choice (`emptyDir: {}`)       |
| "" in an optional field        | no field; a field that is always written has "" as its default in OpenAPI  |
| 0 or false, where Go has no    | no field (`PLAIN`): OpenAPI does not tell a pointer from a plain value     |
| pointer                        |                                                                            |
| a quantity                     | its canonical form: 0.5 is "500m", "1024Mi" is "1Gi"                       |

Only for built-in kinds: custom resources are stored as they are written. `defaults` goes on from here.
"""

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from hub.openapi.schema import UNTYPED, Node

PLAIN = frozenset(
    {
        "failureThreshold",
        "generation",
        "globalDefault",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostPort",
        "initialDelaySeconds",
        "minReadySeconds",
        "nodePort",
        "paused",
        "periodSeconds",
        "publishNotReadyAddresses",
        "readOnly",
        "stdin",
        "stdinOnce",
        "successThreshold",
        "timeoutSeconds",
        "tty",
        "unschedulable",
    }
)
"""Fields that Go holds by value and leaves out when they are zero."""
ALWAYS = frozenset({"rules", "currentMetrics", "endpoints"})
"""Fields that are written even when they are empty."""

_BINARY = {"": 0, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_PARTS = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,2})?")


def normal(value: Any, node: Node) -> Any:
    """Pure: the value as a built-in kind stores it, in a copy that shares no list or map with it."""
    if isinstance(value, list):
        element = node.element if node.kind == "list" else UNTYPED
        return [normal(entry, element) for entry in value]
    if not isinstance(value, Mapping):
        if node.scalar == "quantity":
            return quantity(value)
        whole = node.scalar == "integer" and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value
    if node.kind != "map" or (node.scalar == "any" and not node.fields):
        return {name: normal(entry, UNTYPED) for name, entry in value.items()}
    kept: dict[str, Any] = {}
    for name, entry in value.items():
        inner = node.field(name)
        if inner is None:
            continue
        entry = normal(entry, inner)
        if name in node.fields:
            if not _left_out(name, entry, inner):
                kept[name] = entry
        elif entry is not None:
            kept[name] = entry
        elif inner.scalar == "string":
            kept[name] = ""  # a null in a map of strings
    return kept


def _left_out(name: str, value: Any, node: Node) -> bool:
    if value is None:
        return name not in ALWAYS
    if isinstance(value, list | Mapping) and not value:
        struct = bool(node.fields) or node.scalar == "any"
        return not struct and name not in ALWAYS
    if value == "" and isinstance(value, str):
        return node.default is None and node.scalar == "string"
    return name in PLAIN and not value and isinstance(value, int)


def quantity(value: Any) -> Any:
    """Pure: the canonical form of a quantity; what is none comes back as it is.

    Source: k8s.io/apimachinery/pkg/api/resource: no fraction, the largest unit that leaves none, never below nano.
    """
    parts = _PARTS.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if parts is None:
        return value
    number, unit = amount(value), parts[2] or ""
    if unit and unit in _BINARY and (abs(number) >= 1024 or not number):
        return _binary(number)
    if unit not in _BINARY and unit not in _DECIMAL:
        return _exponent(number)
    return _decimal(number)  # also what is too small for a binary unit


def amount(value: Any) -> Decimal:
    """Pure: a quantity as a number; 0 for what is none."""
    parts = _PARTS.fullmatch(str(value).strip())
    if parts is None:
        return Decimal(0)
    number, unit = Decimal(parts[1]), parts[2] or ""
    if unit in _BINARY:
        return number * Decimal(1024) ** _BINARY[unit]
    return number.scaleb(_DECIMAL[unit] if unit in _DECIMAL else int(unit[1:]))


def _binary(amount: Decimal) -> str:
    if amount != amount.to_integral_value():
        return _decimal(amount)
    whole, unit = int(amount), ""
    for suffix in list(_BINARY)[1:]:
        if not whole or whole % 1024:
            break
        whole, unit = whole // 1024, suffix
    return f"{whole}{unit}"


def _decimal(amount: Decimal) -> str:
    nano = int((amount * 10**9).to_integral_value(rounding=ROUND_CEILING))
    unit = "n"
    for suffix in list(_DECIMAL)[1:]:
        if not nano or nano % 1000:
            break
        nano, unit = nano // 1000, suffix
    return f"{nano}{unit}" if nano else "0"


def _exponent(amount: Decimal) -> str:
    whole, exponent = int((amount * 10**9).to_integral_value(rounding=ROUND_CEILING)), -9
    while whole and whole % 1000 == 0:
        whole, exponent = whole // 1000, exponent + 3
    return f"{whole}e{exponent}" if whole and exponent else str(whole)
