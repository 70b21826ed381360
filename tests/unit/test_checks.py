"""What is said of rendered objects: Secrets with plain data."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.render import build, checks
from proto.errors import InvalidInput

VALUE = "hunter2-of-the-database"
SECRET = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: db}}\nstringData: {{password: {VALUE}}}\n"


def render(folder: Path, files: Mapping[str, str], **words: str) -> build.Rendered:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    inputs = {"path": "", "namespace": "shop", "variables": {}, "policy": {"name": "shop"}, "checks": words}
    return build.render(folder, inputs, bundle="shop", at="bundles/shop")


def shows_it(text: str) -> bool:
    return VALUE in text or base64.b64encode(VALUE.encode()).decode() in text


# --- secrets ------------------------------------------------------------------------------------------------------


def test_a_plain_secret_is_told_with_its_file_and_never_its_value(tmp_path: Path) -> None:
    rendered = render(tmp_path, {"db.yaml": SECRET})
    (warning,) = rendered.warnings
    assert warning.startswith("bundles/shop/db.yaml:1: Secret/shop/db: has its values in plain text")
    assert "spec.secrets: allow" in warning
    assert not shows_it(warning)


def test_a_plain_secret_is_refused_where_the_fleet_says_so(tmp_path: Path) -> None:
    files = {"a.yaml": SECRET, "b.yaml": SECRET.replace("name: db", "name: other")}
    with pytest.raises(InvalidInput) as raised:
        render(tmp_path, files, secrets="refuse")
    assert raised.value.thing == "bundle shop: bundles/shop/a.yaml:1: Secret/shop/db"
    assert "bundles/shop/b.yaml:1: Secret/shop/other" in raised.value.cause
    assert not shows_it(str(raised.value))


def test_a_fleet_may_allow_plain_secrets(tmp_path: Path) -> None:
    assert render(tmp_path, {"db.yaml": SECRET}, secrets="allow").warnings == ()


def test_a_secret_that_a_chart_makes_is_plain_too(tmp_path: Path) -> None:
    chart = {"Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.2.3\n", "templates/db.yaml": SECRET}
    with pytest.raises(InvalidInput, match=r"bundles/shop/templates/db\.yaml: Secret/shop/db: has its values in plain"):
        render(tmp_path, chart, secrets="refuse")


def test_many_plain_secrets_are_told_in_bounded_length(tmp_path: Path) -> None:
    text = "---\n".join(SECRET.replace("name: db", f"name: db-{number}") for number in range(30))
    assert render(tmp_path, {"db.yaml": text}).warnings[-1] == "and 10 more like it"
    with pytest.raises(InvalidInput, match=r"; and 10 more \("):
        render(tmp_path, {"db.yaml": text}, secrets="refuse")


@pytest.mark.parametrize(
    ("obj", "plain"),
    [
        pytest.param({"apiVersion": "v1", "kind": "Secret", "data": {"a": "eA=="}}, True, id="data"),
        pytest.param({"apiVersion": "v1", "kind": "Secret", "data": {"a": "", "b": "eA=="}}, True, id="one of two"),
        pytest.param({"apiVersion": "v1", "kind": "Secret", "data": {"a": ""}}, False, id="empty values"),
        pytest.param({"apiVersion": "v1", "kind": "Secret"}, False, id="no data"),
        pytest.param(
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token"}, False, id="a token"
        ),
        pytest.param(
            {"apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret", "spec": {"encryptedData": {"a": "x"}}},
            False,
            id="a SealedSecret",
        ),
        pytest.param(
            {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "data": {"a": "x"}},
            False,
            id="an ExternalSecret",
        ),
        pytest.param({"apiVersion": "example.org/v1", "kind": "Secret", "data": {"a": "x"}}, False, id="another group"),
        pytest.param({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "x"}}, False, id="a ConfigMap"),
    ],
)
def test_a_secret_is_plain_when_a_value_is_in_it(obj: Mapping[str, Any], plain: bool) -> None:
    assert checks.is_plain_secret(obj) is plain
