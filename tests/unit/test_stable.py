"""Which charts can render differently each time, and where two renders differ."""

import pytest

from hub.render import plain, stable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"{{ randAlphaNum 5 }}", (True, False), id="chance"),
        pytest.param(b"{{- $x := (randAlphaNum 5) | quote -}}", (True, False), id="in brackets"),
        pytest.param(b'{{ printf "%s"\n (genCA "x" 1).Cert }}', (True, False), id="over two lines"),
        pytest.param(b'{{ now | date "2006" }}', (True, True), id="the clock"),
        pytest.param(b"{{ range values .Values.map }}{{ end }}", (True, False), id="the order of a map"),
        pytest.param(b"{{ .Values.now }}{{ $now }}{{ .Values.keys }}", (False, False), id="names of values"),
        pytest.param(b'{{ include "a.values" . }}{{ include "now" . }}', (False, False), id="names of helpers"),
        pytest.param(b"now: randAlphaNum {{ .x }} uuidv4", (False, False), id="outside of templates"),
        pytest.param(b"{{ nowhere }}{{ randomly }}", (False, False), id="longer words"),
    ],
)
def test_functions_that_differ_are_found_in_templates(text: bytes, expected: tuple[bool, bool]) -> None:
    assert stable.may_differ([b"", text]) == expected


def manifests(text: str) -> list[plain.Manifest]:
    return plain.read(text.encode(), where="x.yaml")


ONE = "kind: A\nspec: {a: [1, {b: 2}], c: {x.y: 3}}\n---\nkind: B\n"


def test_a_file_full_of_beginnings_is_looked_through_once() -> None:
    assert stable.may_differ([b"{{" * 1_000_000]) == (False, False)
    assert stable.may_differ([b"{{" * 1_000_000 + b" now }}"]) == (True, True)


@pytest.mark.parametrize(
    ("other", "paths"),
    [
        pytest.param(ONE, [], id="nothing"),
        pytest.param("kind: B\n---\n" + ONE.split("---")[0], [], id="another order"),
        pytest.param(ONE.replace("b: 2", "b: 7"), ["spec.a[1].b"], id="a value"),
        pytest.param(ONE.replace("x.y: 3", "x.y: 4, z: 1"), ['spec.c["x.y"], spec.c.z'], id="a field more"),
        pytest.param(ONE.replace("[1, ", "["), ["spec.a"], id="a shorter list"),
        pytest.param(ONE.split("---")[0], ["the whole object"], id="an object less"),
        pytest.param(ONE + "---\nkind: C\n", ["the whole object"], id="an object more"),
    ],
)
def test_differences_name_paths(other: str, paths: list[str]) -> None:
    assert [path for _, path in stable.differences(manifests(ONE), manifests(other))] == paths
