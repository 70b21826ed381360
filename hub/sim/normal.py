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

from hub.sim.schema import Node

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
_PARTS = re.compile(r"([+-]?[0-9.]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")


def normal(value: Any, node: Node) -> Any:
    """Pure: the value as a built-in kind stores it."""
    if node.scalar == "quantity":
        return quantity(value)
    if node.scalar == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and node.kind == "list":
        return [normal(entry, node.element) for entry in value]
    if not isinstance(value, Mapping) or node.kind != "map" or (node.scalar == "any" and not node.fields):
        return value
    kept: dict[str, Any] = {}
    for name, entry in value.items():
        inner = node.field(name)
        if inner is None:
            continue
        entry = normal(entry, inner)
        if not (name in node.fields and _left_out(name, entry, inner)) and not (entry is None and node.fields):
            kept[name] = "" if entry is None and inner.scalar == "string" else entry
    return kept


def _left_out(name: str, value: Any, node: Node) -> bool:
    if value is None:
        return True
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
    number, unit = parts[1], parts[2] or ""
    try:
        amount = Decimal(number)
    except ArithmeticError:
        return value
    if unit in _BINARY and unit:
        amount *= 1024 ** _BINARY[unit]
        if abs(amount) >= 1024 or amount == 0:
            return _binary(amount)
        unit = ""  # too small for a binary unit: written in decimals
    elif unit[:1] in ("e", "E") and len(unit) > 1:
        return _exponent(amount * Decimal(10) ** int(unit[1:]))
    return _decimal(amount * Decimal(10) ** _DECIMAL[unit])


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
