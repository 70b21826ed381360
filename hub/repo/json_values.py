"""JSON values, one after the other in a file, as kubectl reads what begins with `{`.

Some JSON is no YAML: surrogate pairs, keys beyond 1024 characters, values with no `---` between them. Numbers are what
they are in YAML. Next: `yaml_reader`, which asks when a text is no YAML.
"""

import json
import re
from typing import Any, cast

from hub.repo import yaml_scalars


def read(text: bytes, *, depth: int, nodes: int) -> list[tuple[Any, int]] | None:
    """Pure: the values and the lines where they begin; None if `text` is no JSON, sets a key twice, or has values that
    are nested deeper than `depth` or more than `nodes` in all."""
    found: list[tuple[Any, int]] = []
    end, line = 0, 1
    try:
        whole = text.decode()
        while (gap := _JSON_GAP.match(whole, end)) is not None and (start := gap.end()) < len(whole):
            line += whole.count("\n", end, start)
            value, end = _JSON.raw_decode(whole, start)
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair
            deep, many = measure(value)
            nodes -= many
            if deep > depth or nodes < 0:
                return None
            if value is not None:
                found.append((value, line))
            line += whole.count("\n", start, end)
    except (ValueError, RecursionError):
        return None
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is set twice")
    return found


def _number(digits: str) -> int | float:
    """A number of a JSON text. Raises ValueError for NaN, infinity and what is beyond a float's range."""
    number = yaml_scalars.resolve(digits)
    if isinstance(number, str):
        raise ValueError(f"{digits} is not a JSON number")
    return cast(int | float, yaml_scalars.json_number(number))


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_number, parse_int=_number, parse_constant=_number)
_JSON_GAP = re.compile(r"(?:\s|^---(?!\S))*", re.ASCII | re.MULTILINE)
"""Always matches: between two values may be nothing."""


def measure(value: Any) -> tuple[int, int]:
    """Pure: how many containers deep `value` is nested, and how many values it has."""
    depth, nodes, level = 0, 1, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)]
        depth, nodes = depth + 1, nodes + len(level)
    return depth, nodes
