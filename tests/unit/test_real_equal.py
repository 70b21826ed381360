"""Every folder of real manifests, rendered as a person does it, equals object by object what kubectl makes of it.

Kustomize folders are compared with `kubectl kustomize`, components by a generated overlay of the base that they are
for, plain folders with what kubectl itself reads. Before that only what a slice does to every object is done to them:
nulls and `status` go, `stringData` becomes `data`, and what has a namespace and says none is in `default`.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hub import kubectl
from hub.cli import main
from hub.render import plain
from hub.repo import yaml_reader
from proto.objects import ObjectKey, key_of

REAL = Path(__file__).parents[3] / "shared/data/real"
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "ClusterIssuer", "CustomResourceDefinition"}
MARK = "compared"


def folders() -> list[Any]:
    """(project, folder, how) of every folder that is a source by itself."""
    found: list[Any] = []
    kustomized = {path.parent for name in plain.KUSTOMIZATION_FILES for path in REAL.rglob(name)}
    for folder in sorted(path for path in REAL.rglob("*") if path.is_dir()):
        project, _, inside = folder.relative_to(REAL).as_posix().partition("/")
        if folder in kustomized:
            text = next(folder / name for name in plain.KUSTOMIZATION_FILES if (folder / name).is_file()).read_text()
            how = "component" if "kind: Component" in text else "kustomize"
        elif inside and not any(one.is_relative_to(folder) or folder.is_relative_to(one) for one in kustomized):
            how = "plain"
        else:
            continue
        found.append(pytest.param(project, inside, how, id=f"{project}/{inside} ({how})"))
    return found


FOLDERS = folders()


def run(*args: str) -> bytes:
    return subprocess.run([kubectl.executable(), *args], check=True, capture_output=True, env={"KUBECONFIG": ""}).stdout


def canonical(value: Mapping[str, Any]) -> dict[str, Any]:
    obj: dict[str, Any] = without_nulls({name: child for name, child in value.items() if name != "status"})
    if obj["kind"] not in CLUSTER_SCOPED:
        obj["metadata"].setdefault("namespace", "default")
    if obj["kind"] == "Secret" and "stringData" in obj:
        texts = obj.pop("stringData")
        obj["data"] = obj.get("data", {}) | {k: base64.b64encode(text.encode()).decode() for k, text in texts.items()}
    return obj


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(child) for name, child in value.items() if child is not None}
    return [without_nulls(child) for child in value] if isinstance(value, list) else value


def unmarked(value: dict[str, Any]) -> dict[str, Any]:
    """Without the label that kubectl was made to set: it prints what it read only with a change."""
    labels = value["metadata"]["labels"]
    del labels[MARK]
    if not labels:
        del value["metadata"]["labels"]
    return value


def read_by_kubectl(folder: Path, how: str) -> dict[ObjectKey, dict[str, Any]]:
    if how == "plain":
        output = run("label", "--local", "--recursive", "-f", str(folder), f"{MARK}=yes", "-o", "json")
        # One JSON object after the other, or one List.
        decoder, text = json.JSONDecoder(), output.decode().strip()
        values: list[dict[str, Any]] = []
        while text:
            value, end = decoder.raw_decode(text)
            values += value["items"] if value["kind"] == "List" else [value]
            text = text[end:].strip()
        values = [unmarked(value) for value in values]
    else:
        documents = yaml_reader.documents(run("kustomize", str(folder)), where="kubectl")
        values = [dict(document.value) for document in documents]
    return {key_of(obj): obj for obj in map(canonical, values)}


@pytest.mark.skipif(not FOLDERS, reason="the real manifests are not beside the checkout")
@pytest.mark.parametrize(("project", "inside", "how"), FOLDERS)
def test_a_real_folder_renders_to_what_kubectl_makes_of_it(tmp_path: Path, project: str, inside: str, how: str) -> None:
    bundle = tmp_path / "bundles/real"
    shutil.copytree(REAL / project, bundle)
    source = inside
    if how == "component":
        source = "compared"
        (bundle / source).mkdir()
        (bundle / source / "kustomization.yaml").write_text(f"resources: [../base]\ncomponents: [../{inside}]\n")
    (tmp_path / "clusters").mkdir()
    head = "apiVersion: flotilla.dev/v1alpha1\n"
    (tmp_path / "clusters/one.yaml").write_text(f"{head}kind: Cluster\nmetadata: {{name: one}}\n")
    spec = f"{{targets: {{}}, source: {{path: {source}}}}}"
    (bundle / "bundle.yaml").write_text(f"{head}kind: Bundle\nmetadata: {{name: real}}\nspec: {spec}\n")
    shown = CliRunner().invoke(
        main, ["render", "--cluster", "one", "--output", "json", "--show-secrets", "--fleet", str(tmp_path)]
    )
    assert shown.exit_code == 0, shown.output
    found = {key_of(obj): obj for obj in json.loads(shown.stdout)["items"]}
    expected = read_by_kubectl(bundle / source, how)
    assert expected
    assert found.keys() == expected.keys()
    for key, obj in expected.items():
        assert found[key] == obj, str(key)


@pytest.mark.skipif(not FOLDERS, reason="the real manifests are not beside the checkout")
def test_every_kind_of_folder_is_compared() -> None:
    compared = {param.values[:2]: param.values[2] for param in FOLDERS}
    assert set(compared.values()) == {"kustomize", "component", "plain"}
    assert {("podinfo", f"overlays/{name}") for name in ("dev", "staging", "production")} < compared.keys()
    assert ("boutique", "base") in compared
    assert len([how for how in compared.values() if how == "component"]) >= 4
