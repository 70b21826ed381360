"""Tables checked against sigs.k8s.io/yaml v1.6, which kubectl 1.36 reads its files with."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub.repo import yaml_reader
from proto.errors import InvalidInput

SHARED_CASES = Path(__file__).parents[3] / "shared/data/cases/yaml-as-kubectl-reads-it.json"


def read(text: str | bytes, *, strict: bool = True) -> Any:
    data = text.encode() if isinstance(text, str) else text
    (document,) = yaml_reader.documents(data, where="f.yaml", strict=strict)
    return document.value


def refusal(text: str | bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        yaml_reader.documents(text.encode() if isinstance(text, str) else text, where="f.yaml")
    return caught.value


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types: 1, 1.0 and True are three values."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@pytest.mark.skipif(not SHARED_CASES.exists(), reason="the shared cases are not beside the checkout")
def test_the_shared_cases_read_as_kubectl_reads_them() -> None:
    for case in json.loads(SHARED_CASES.read_text()):
        if "err" in case:
            refusal(case["yaml"])
            continue
        assert same(read(case["yaml"], strict=False), case["json"]), case["yaml"]
        if "strictErr" in case:
            refusal(case["yaml"])
        else:
            assert same(read(case["yaml"]), case["json"]), case["yaml"]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        *[(word, True) for word in ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE")],
        *[(word, False) for word in ("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE")],
        *[(word, word) for word in ("yEs", "oN", "tRue", "nULL", "nan", "inf", "Infinity", "=", "<<", "١")],
        *[(word, None) for word in ("~", "null", "Null", "NULL", "")],
        *[
            ("0777", 511),
            ("0o777", 511),
            ("0O17", 15),
            ("-07", -7),
            ("08", 8),
            ("0888", 888),
            ("00", 0),
            ("0o8", "0o8"),
        ],
        *[("0x1F", 31), ("-0x10", -16), ("0b101", 5), ("0b12", "0b12"), ("0b-1", -1), ("0x", "0x"), ("0x_F", 15)],
        *[("1_000", 1000), ("1_", 1), ("_1", "_1"), ("+1", 1), ("-0", 0), ("-0.0", 0), ("+", "+"), ("+.", "+.")],
        *[("1e3", 1000), ("1.0", 1), ("1.", 1), (".5", 0.5), ("-.5", -0.5), (".1_0", 0.1), (".1_", ".1_"), (".", ".")],
        *[("1e", "1e"), ("1e400", "1e400"), ("1e-400", 0), ("1e-7", 1e-7), ("1e21", 1e21), ("0x1p-2", "0x1p-2")],
        *[("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)), ("18446744073709551615", 2**64 - 1)],
        *[("18446744073709551616", 2.0**64), ("+18446744073709551615", 2.0**64)],
        *[("-9223372036854775809", -(2.0**63)), ("1e19", 10**19), ("1e20", 1e20), ("0xFFFFFFFFFFFFFFFF", 2**64 - 1)],
        *[("0x1FFFFFFFFFFFFFFFF", "0x1FFFFFFFFFFFFFFFF"), ("0" * 100 + "1", 1)],
        *[(text, text) for text in ("12:30:45", "2001-12-14", "2001-12-14T21:59:43.10-05:00", "1.2.3", "1,000")],
        *[("'yes'", "yes"), ('"0777"', "0777"), ("''", ""), ("! '3'", "3"), ("!foo 3", "3")],
        *[
            ("!!str 3", "3"),
            ("!!str", ""),
            ("!!int '3'", 3),
            ("!!float 3", 3),
            ("!!bool on", True),
            ("!!null ''", None),
        ],
        *[("!!timestamp 2001-1-1", "2001-1-1"), ("!!timestamp 2001-1-1 1:2:3.5", "2001-1-1 1:2:3.5")],
        *[("!!binary aGVsbG8=", "hello"), ("!!binary /w==", "\ufffd"), ("!!binary 4oI=", "\ufffd\ufffd")],
        *[("!!set {a, b}", {"a": None, "b": None}), ("!!map [1]", [1]), ("!foo {a: 1}", {"a": 1})],
    ],
)
def test_a_scalar_is_what_go_yaml_makes_of_it(scalar: str, value: object) -> None:
    assert same(read(f"t: {scalar}\n"), {"t": value})


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *[("1", "1"), ("0x10", "16"), ("-5", "-5"), ("true", "true"), ("yes", "true"), ("Off", "false"), ("'1'", "1")],
        *[
            ("1.1", "1.1"),
            ("1.0", "1"),
            ("0.5", "0.5"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("123456.0", "123456"),
        ],
        *[("1e5", "100000"), ("1e6", "1e+06"), ("1234567.0", "1.234567e+06"), ("16777217.0", "1.6777216e+07")],
        *[("1e39", ".inf"), ("-1e39", "-.inf"), (".inf", ".inf"), (".nan", ".nan"), ("0.30000001192092896", "0.3")],
        *[("2001-01-01", "2001-01-01"), ("!!binary aGVsbG8=", "hello"), ("!!str 3", "3"), ("12:30", "12:30")],
    ],
)
def test_a_key_becomes_the_string_that_sigs_yaml_makes_of_it(key: str, name: str) -> None:
    assert read(f"{key}: v\n") == {name: "v"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a:\tb\n", {"a": "b"}, id="a tab after a colon"),
        pytest.param("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}, id="CRLF"),
        pytest.param(b"\xef\xbb\xbfa: 1\n", {"a": 1}, id="UTF-8 byte order mark"),
        pytest.param("a: é\n".encode("utf-16"), {"a": "é"}, id="UTF-16"),
        pytest.param(
            b"\xfe\xff" + "a: \U0001f600\n".encode("utf-16-be"), {"a": "\U0001f600"}, id="UTF-16, big end first"
        ),
        pytest.param("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}, id="alias"),
        pytest.param("- &a b\n- &a c\n- *a\n", ["b", "c", "c"], id="an anchor set again"),
        pytest.param("x: &x 1e3\n*x : a\n", {"x": 1000, "1000": "a"}, id="an alias as a key"),
        pytest.param("x: &x {a: 1}\nm: {<<: *x, b: 2}\n", {"x": {"a": 1}, "m": {"a": 1, "b": 2}}, id="merge"),
        pytest.param("m: {<<: [{a: 1}, {b: 2}]}\n", {"m": {"a": 1, "b": 2}}, id="merge of a list"),
        pytest.param(
            "x: &x {a: 1, b: 1}\nm: {<<: *x, a: 3}\n", {"x": {"a": 1, "b": 1}, "m": {"a": 3, "b": 1}}, id="a key after"
        ),
        pytest.param("m: {<<: [{a: 1}, {a: 2}]}\n", {"m": {"a": 1}}, id="the first of a list of merges"),
        pytest.param("m: {'<<': 1}\n", {"m": {"<<": 1}}, id="a quoted merge key is a key"),
        pytest.param('{"a":1,"b":[true,null]}', {"a": 1, "b": [True, None]}, id="JSON"),
        pytest.param('{\n\t"a": "\\/"\n}\n', {"a": "/"}, id="JSON indented with tabs"),
        pytest.param('{"a": "\\ud83d\\ude00", "b": 1.0}', {"a": "\U0001f600", "b": 1}, id="JSON with a surrogate pair"),
        pytest.param('{"' + "k" * 2000 + '": 1}', {"k" * 2000: 1}, id="JSON with a key too long for YAML"),
        pytest.param("a: |\n  on\nb: >-\n  x\n  y\n", {"a": "on\n", "b": "x y"}, id="block scalars"),
        pytest.param("just text\n", "just text", id="a document that is a scalar"),
    ],
)
def test_structure_reads_as_kubectl_reads_it(text: str | bytes, value: object) -> None:
    assert same(read(text), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a: 1\na: 2\n", {"a": 2}, id="the last of two equal keys"),
        pytest.param("x: &x {a: 1}\nm: {a: 3, <<: *x}\n", {"x": {"a": 1}, "m": {"a": 1}}, id="a merge after the key"),
        pytest.param("m: {<<: {a: 1}, <<: {a: 2}}\n", {"m": {"a": 2}}, id="two merges"),
        pytest.param("m: {<<: {a: 1}, a: 2, a: 3}\n", {"m": {"a": 3}}, id="two keys after a merge"),
        pytest.param("m: {<<: {a: 1}, a: 2, <<: {a: 3}}\n", {"m": {"a": 3}}, id="a merge after a key after a merge"),
    ],
)
def test_a_key_set_twice_is_refused_and_without_strict_the_last_one_wins(text: str, value: object) -> None:
    assert "is set twice" in refusal(text).cause
    assert read(text, strict=False) == value


@pytest.mark.parametrize(
    ("text", "thing", "cause"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", "f.yaml:3", "key 'a' is set twice (first on line 1)", id="a key twice"),
        pytest.param("yes: 1\non: 2\n", "f.yaml:2", "key 'true' is set twice", id="two spellings of one key"),
        pytest.param("1: a\n'1': b\n", "f.yaml:2", "key '1' is set twice", id="two types of one key"),
        pytest.param('{"a": 1,\n "a": 2}', "f.yaml:2", "key 'a' is set twice", id="a key twice in JSON"),
        pytest.param("a: b\nnull: a\n", "f.yaml:2", "null cannot be a key", id="null as a key"),
        pytest.param("? [a]\n: b\n", "f.yaml:1", "a list cannot be a key", id="a list as a key"),
        pytest.param("? {a: b}\n: b\n", "f.yaml:1", "a mapping cannot be a key", id="a mapping as a key"),
        pytest.param("9223372036854775808: a\n", "f.yaml:1", "cannot be a key", id="a huge integer as a key"),
        pytest.param("a: 1\nb: .inf\n", "f.yaml:2", "not JSON values", id="infinity"),
        pytest.param("- .NaN\n", "f.yaml:1", "not JSON values", id="not a number"),
        pytest.param('{"a": "\\ud83d\\ude00", "b": NaN}', "f.yaml:1", "not valid YAML", id="not a number in JSON"),
        pytest.param('{"a": "\\ud83d"}', "f.yaml:1", "not valid YAML", id="half a surrogate pair in JSON"),
        pytest.param("a:\n\tb: 1\n", "f.yaml:2", "cannot start any token", id="indented with a tab"),
        pytest.param("a: [b\nc: d\n", "f.yaml:2", "not valid YAML", id="a list that never ends"),
        pytest.param("a: *x\n", "f.yaml:1", "unknown anchor", id="unknown anchor"),
        pytest.param("a: &x 1\n---\nb: *x\n", "f.yaml:3", "unknown anchor", id="an anchor of another document"),
        pytest.param("a: &x\n  b: *x\n", "f.yaml:2", "contains itself", id="a cycle"),
        pytest.param("m: {<<: 3}\n", "f.yaml:1", "merge key", id="merge of a number"),
        pytest.param("s: &s [{a: 1}]\nm: {<<: *s}\n", "f.yaml:2", "merge key", id="merge of a list's alias"),
        pytest.param("a: !!int x\n", "f.yaml:1", "!!str, not the !!int", id="a tag that lies"),
        pytest.param("a: !!int 1.5\n", "f.yaml:1", "!!float, not the !!int", id="a fraction tagged as an integer"),
        pytest.param("a: !!timestamp 2001-02-30\n", "f.yaml:1", "not the !!timestamp", id="no such day"),
        pytest.param("a: !!binary a\n", "f.yaml:1", "base64", id="no base64"),
        pytest.param("a: 1\nb: \x01\n", "f.yaml:2", "not text that YAML allows", id="a control character"),
        pytest.param(b"a: 1\nb: \xff\n", "f.yaml:2", "not text that YAML allows", id="neither UTF-8 nor UTF-16"),
        pytest.param("%YAML 1.2\n---\na: 1\n", "f.yaml:1", "another YAML than 1.1", id="another version of YAML"),
        pytest.param(
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "f.yaml:1",
            "is a pointer of Git LFS",
            id="a pointer of Git LFS",
        ),
        pytest.param("'a': 1\n}\n", "f.yaml:2", "not valid YAML", id="something left over"),
    ],
)
def test_an_error_names_line_and_cause(text: str | bytes, thing: str, cause: str) -> None:
    error = refusal(text)
    assert error.thing == thing
    assert cause in error.cause


def test_a_tab_is_named_as_the_likely_cause() -> None:
    assert refusal("a:\n\tb: 1\n").remedy == "indent with spaces, not tabs"


def aliases(layers: int) -> str:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    return text + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, layers))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param(aliases(30), "aliases repeat too much", id="aliases of aliases"),
        pytest.param(
            f"a: &a [{'x, ' * 1000}]\nb: [{'*a, ' * 450}]\n", "aliases repeat too much", id="one layer of aliases"
        ),
        pytest.param(
            "a: &a {"
            + "".join(f"k{n}: 1, " for n in range(1000))
            + "}\n"
            + "".join(f"b{n}: {{<<: *a}}\n" for n in range(400)),
            "aliases",
            id="merges",
        ),
        pytest.param("[" * 100_000, "levels deep", id="deep lists"),
        pytest.param('{"a":' * 100_000, "levels deep", id="deep JSON"),
        pytest.param("- " * 100_000, "levels deep", id="deep block lists"),
        pytest.param("".join(" " * n + "a:\n" for n in range(1000)), "levels deep", id="deep block mappings"),
        pytest.param(
            '["\\ud83d\\ude00", ' + "[" * 300 + "]" * 301, "not valid YAML", id="deep JSON that YAML cannot read"
        ),
        pytest.param(
            f"a: &a {'[' * 150}{']' * 150}\nb: &b {'[' * 150}*a{']' * 150}\n", "levels deep", id="deep by aliases"
        ),
    ],
)
def test_a_bomb_is_refused(text: str, cause: str) -> None:
    assert cause in refusal(text).cause


def test_a_file_beyond_its_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reader, "MAX_NODES", 100)
    assert "more than 100 values" in refusal("- a\n" * 100).cause
    assert "more than 100 values" in refusal("--- a\n" * 101).cause
    assert "not valid YAML" in refusal('["\\ud83d\\ude00"' + ", 1" * 100 + "]").cause
    monkeypatch.setattr(yaml_reader, "MAX_BYTES", 10)
    error = refusal("a: 34567890")
    assert (error.thing, error.remedy) == ("f.yaml", "split the file")


def test_moderate_aliases_are_read() -> None:
    assert len(read(aliases(3))["a2"][8]) == 9


def test_aliases_do_not_share_their_values() -> None:
    value = read("a: &a {b: [1]}\nc: *a\n")
    value["c"]["b"].append(2)
    assert value["a"] == {"b": [1]}


def test_documents_come_in_order_with_their_lines_and_without_the_empty_ones() -> None:
    text = b"# head\n---\n# nothing\n---\na: 1\n---\n~\n--- # x\nb: 2\n...\n"
    found = yaml_reader.documents(text, where="f.yaml")
    assert [(document.value, document.line, document.where) for document in found] == [
        ({"a": 1}, 5, "f.yaml"),
        ({"b": 2}, 9, "f.yaml"),
    ]
    assert yaml_reader.documents(b"", where="f.yaml") == ()


def test_lines_are_those_of_the_key_or_of_the_nearest_ancestor() -> None:
    text = b"---\n---\nkind: X\nspec:\n  list:\n    - a\n    - b: 1\n      c: 2\n  <<: {d: 1}\n"
    (document,) = yaml_reader.documents(text, where="f.yaml")
    lines = document.lines
    assert [lines.at(*path) for path in [(), ("kind",), ("spec", "list", 1), ("spec", "list", 1, "c")]] == [3, 3, 7, 8]
    assert [lines.at(*path) for path in [("none",), ("spec", "d"), ("spec", "list", 9), ("kind", "x")]] == [3, 4, 5, 3]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_document_may_have_a_byte_order_mark(end: str) -> None:
    text = f"\ufeffa: 1{end}---{end}\ufeffb: 2{end}---{end}c: |{end}  x\ufeff{end}"
    found = yaml_reader.documents(text.encode(), where="f.yaml")
    assert [(one.value, one.line) for one in found] == [({"a": 1}, 1), ({"b": 2}, 3), ({"c": "x\ufeff\n"}, 5)]
    assert found[1].lines.at("b") == 3


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param('{"a": 1}\n{"b": 2}\n', [({"a": 1}, 1), ({"b": 2}, 2)], id="one a line"),
        pytest.param('{\n  "a": 1\n} {"b": 2}', [({"a": 1}, 1), ({"b": 2}, 3)], id="one after the other"),
        pytest.param('{"a": "\\ud83d\\ude00"}\n---\n{"b": 2}', [({"a": "\U0001f600"}, 1), ({"b": 2}, 3)], id="no YAML"),
        pytest.param('{"a": 1}\nnull\n{"b": 2}', [({"a": 1}, 1), ({"b": 2}, 3)], id="a null between"),
    ],
)
def test_json_values_one_after_the_other_are_documents_as_with_kubectl(text: str, values: object) -> None:
    found = yaml_reader.documents(text.encode(), where="f.json")
    assert [(document.value, document.line) for document in found] == values


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('{"a": 1}\n{"b": 2', 2, id="one that does not end"),
        pytest.param('{"a": 1}\nb: 2', 2, id="YAML after it"),
        pytest.param('{"a": 1}\n{"b": 1, "b": 2}', 2, id="a key that is set twice"),
        pytest.param('{"a": 1}\n' + "[" * 300 + "]" * 300, 2, id="one too deep"),
    ],
)
def test_json_values_one_after_the_other_are_bounded_too(text: str, line: int) -> None:
    with pytest.raises(InvalidInput, match=rf"^f\.json:{line}\b"):
        yaml_reader.documents(text.encode(), where="f.json")


def test_lines_of_json_that_is_no_yaml_are_the_first() -> None:
    (document,) = yaml_reader.documents(b'{"a": "\\ud83d\\ude00",\n "b": 1}', where="f.json")
    assert document.lines.at("b") == 1
