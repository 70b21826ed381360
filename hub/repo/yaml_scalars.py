"""What a plain YAML scalar is, and how numbers become JSON values and keys: go-yaml v2's rules, and Go's.

Sources: go.yaml.in/yaml/v2 resolve.go, sigs.k8s.io/yaml, and Go's strconv and encoding/json. Next: `yaml_reader`.
"""

import datetime
import decimal
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

_WORDS: Mapping[str, bool | float | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_MAYBE_NUMBER = frozenset("+-.0123456789")
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))", re.ASCII)
_SIGNED_BINARY = re.compile(r"0b([-+][01]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_DOT_FLOAT = re.compile(r"\.[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+(?:_[0-9]+)*)?", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:(?:[Tt](?=.*(?:Z|[-+]..:..)$)| +(?!.*[-+Z]))"
    r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?:[.,]\d+)?(?:Z|[-+](\d\d):(\d\d))?)?",
    re.ASCII,
)
INT64 = range(-(2**63), 2**63)
_MAX_DIGITS = 64
"""Of a 64-bit integer in base 2, leading zeros aside; Python's own limit on longer texts is an error."""


def resolve(text: str) -> Any:
    """Pure: what a plain scalar is: None, bool, int, float or str. Source: go.yaml.in/yaml/v2 resolve.go."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _MAYBE_NUMBER:
        return text
    if text[0] == ".":
        return _float(text.replace("_", ""), text) if _DOT_FLOAT.fullmatch(text) else text
    plain = text.replace("_", "")
    if match := _INTEGER.fullmatch(plain):
        sign, *digits = match.groups()
        for found, base in zip(digits, (16, 2, 8, 10), strict=True):
            if found is None or len(found.lstrip("0")) > _MAX_DIGITS:
                continue
            number = -int(found, base) if sign == "-" else int(found, base)
            # An unsigned integer takes no sign, not even "+".
            if number in INT64 or (not sign and number < 2**64):
                return number
    elif (match := _SIGNED_BINARY.fullmatch(plain)) and len(plain) <= _MAX_DIGITS:
        return int(match[1], 2)
    return _float(plain, text)


def _float(plain: str, text: str) -> float | str:
    """`plain` as a float, or `text` where it is none or beyond the range of one."""
    if _FLOAT.fullmatch(plain) is None:
        return text
    number = float(plain)
    return number if math.isfinite(number) else text


def is_timestamp(text: str) -> bool:
    """Pure: is it one of the four forms that go-yaml v2 takes for a !!timestamp?"""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return False
    year, month, day, hour, minute, second, zone_hour, zone_minute = (int(part or 0) for part in match.groups())
    try:
        datetime.datetime(year or 2000, month, day, hour, minute, second)  # Go knows a year 0, a leap year like 2000
    except ValueError:
        return False
    return zone_hour <= 24 and zone_minute <= 60


def json_number(number: Any) -> Any:
    """Pure: a number as Go's JSON writes it and Kubernetes then reads it: without a fraction it is an integer, with
    Go's digits, which are the shortest; beyond 64 bits it stays a float."""
    if type(number) is not float or not number.is_integer():
        return number
    whole = int(decimal.Decimal(repr(number)))
    return whole if INT64.start <= whole < 2**64 else number


def float_key(number: float) -> str:
    """Pure: a float as a key: Go's `FormatFloat(number, 'g', -1, 32)`, with YAML's words for what is not finite."""
    if math.isnan(number):
        return ".nan"
    try:
        single = struct.pack("<f", number)
    except OverflowError:
        single = struct.pack("<f", math.copysign(math.inf, number))
    number = struct.unpack("<f", single)[0]
    if math.isinf(number):
        return ".inf" if number > 0 else "-.inf"
    shortest = next(text for digits in range(9) if struct.pack("<f", float(text := f"{number:.{digits}e}")) == single)
    mantissa, exponent = shortest.split("e")
    if not -4 <= int(exponent) < 6:
        return shortest
    fraction_digits = len(mantissa.lstrip("-").replace(".", "")) - 1 - int(exponent)
    return f"{float(shortest):.{max(fraction_digits, 0)}f}"
