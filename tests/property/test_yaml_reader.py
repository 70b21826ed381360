"""Whatever text comes in, a value that JSON can hold or InvalidInput comes out, and what was written is read again."""

import decimal
import json
import math
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hub.repo import yaml_reader
from proto.errors import InvalidInput

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)
SIGNS = st.sampled_from(
    [": ", "- ", "? ", "\n", "\n  ", "[", "]", "{", "}", ", ", "|\n ", "> ", "# ", "---\n", "...\n", "\r\n"]
)
WORDS = st.sampled_from(
    ["a", "1", "0x1", "y", "~", "''", "&x ", "*x", "<<: ", "!!int ", "!", "\t", "%", "@", "'", '"', "\\"]
)
PIECES = SIGNS | WORDS | st.sampled_from(["\ufeff", "\x00"])


def read(text: bytes) -> tuple[Any, ...]:
    return tuple(document.value for document in yaml_reader.documents(text, where="f.yaml"))


def as_json(value: Any) -> Any:
    """`value` as Go's JSON writes it and Kubernetes reads it: what has no fraction is an integer, in 64 bits."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        whole = int(decimal.Decimal(repr(value)))
        return whole if -(2**63) <= whole < 2**64 else value
    return value


@given(VALUES)
@example(1.8446744073709552e19)
def test_json_is_read_as_json(value: Any) -> None:
    assert read(json.dumps({"v": value}).encode()) == ({"v": as_json(value)},)


@given(VALUES)
@example(1.8446744073709552e19)
def test_yaml_that_was_written_with_every_string_quoted_is_read_again(value: Any) -> None:
    text = yaml.safe_dump({"v": value}, default_style='"', allow_unicode=True)
    assert read(text.encode()) == ({"v": as_json(value)},)


def outcome(data: bytes) -> tuple[tuple[Any, ...], str]:
    """The values, or what the refusal names."""
    try:
        return read(data), ""
    except InvalidInput as error:
        return (), error.thing


@given(st.lists(PIECES, max_size=30).map("".join).map(str.encode) | st.binary(max_size=60))
def test_any_bytes_give_json_values_or_are_refused_by_line(data: bytes) -> None:
    found, refused = outcome(data)
    assert json.loads(json.dumps(found, allow_nan=False)) == list(found)
    if refused:
        assert 1 <= int(refused.removeprefix("f.yaml:")) <= len(data) + 1


@given(st.from_regex(r"[+.0-9_][-+.0-9_eExXoObBaf]{0,12}", fullmatch=True))
def test_what_looks_like_a_number_is_a_finite_one_or_the_string_as_it_stands(text: str) -> None:
    ((value,),) = read(f"[{text}]".encode())
    assert value == text if isinstance(value, str) else math.isfinite(value)
