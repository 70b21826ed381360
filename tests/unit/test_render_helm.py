"""Helm charts, rendered in process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.render import build, helm
from proto.errors import InvalidInput, Permanent

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.2.3\n",
    "values.yaml": "replicas: 1\nimage: {repository: nginx, tag: '1.0'}\nlabels: {a: x}\n",
    "templates/_helpers.tpl": '{{ define "web.name" }}{{ .Release.Name }}-web{{ end }}',
    "templates/NOTES.txt": "Thank you for installing.",
    "templates/deployment.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "web.name" . }}
  labels: {{- toYaml .Values.labels | nindent 4 }}
spec:
  replicas: {{ .Values.replicas }}
  template:
    spec:
      containers:
      - name: web
        image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
        args: ["--kubernetes={{ .Capabilities.KubeVersion.Version }}", "--ns={{ .Release.Namespace }}", "${SHELL_ONE}"]
""",
    "templates/nothing.yaml": "{{ if .Values.missing }}\na: b\n{{ end }}",
}
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.org}
spec: {group: example.org, scope: Cluster, names: {kind: Thing, plural: things}}
"""


def hook(name: str, events: str) -> str:
    return f"apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {name}\n  annotations: {{helm.sh/hook: '{events}'}}\n"


def render(folder: Path, files: Mapping[str, str], *, options: Any = None, **changes: Any) -> build.Rendered:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    inputs = {"path": "", "namespace": "shop", "variables": {}, "kubernetes": "", "policy": {"name": "shop"}}
    inputs["checks"] = {"validation": "off"}  # the manifests here are no longer than need be
    return build.render(folder, {**inputs, "helm": options, **changes}, bundle="shop", at="bundles/shop")


def deployment(rendered: build.Rendered) -> Any:
    (path,) = [path for path in rendered.files if "Deployment" in path]
    return json.loads(rendered.files[path])


def test_a_chart_is_recognised_and_rendered(tmp_path: Path) -> None:
    rendered = render(tmp_path, CHART)
    assert set(rendered.files) == {"bundle.json", "shop/Deployment.apps/shop-web.json"}
    assert rendered.warnings == ()
    found = deployment(rendered)
    assert found["spec"]["replicas"] == 1
    container = found["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "nginx:1.0"
    assert container["args"] == ["--kubernetes=v1.36.0", "--ns=shop", "${SHELL_ONE}"]


@pytest.mark.parametrize(("given", "seen"), [("1.33", "v1.33.0"), ("v1.34.2", "v1.34.2"), ("", "v1.36.0")])
def test_the_clusters_kubernetes_version_decides(tmp_path: Path, given: str, seen: str) -> None:
    found = deployment(render(tmp_path, CHART, kubernetes=given))
    assert found["spec"]["template"]["spec"]["containers"][0]["args"][0] == f"--kubernetes={seen}"


def test_values_files_come_in_order_then_values_and_variables_fill_both(tmp_path: Path) -> None:
    files = {
        **CHART,
        "envs/one.yaml": "replicas: 2\nimage: {tag: '2.0'}\nlabels: {b: one}\n",
        "envs/two.yaml": "image: {repository: '${registry}/nginx'}\nlabels: {a: null, b: two}\n",
    }
    options = {
        "values": {"replicas": "${count}", "labels": {"c": "v-${count}"}},
        "valuesFiles": ["envs/one.yaml", "./envs/two.yaml"],
        "release": "front",
    }
    rendered = render(tmp_path, files, options=options, variables={"count": 3, "registry": "eu.example.org"})
    found = deployment(rendered)
    assert found["metadata"]["name"] == "front-web"
    assert found["spec"]["replicas"] == 3
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "eu.example.org/nginx:2.0"
    assert {k: v for k, v in found["metadata"]["labels"].items() if len(k) == 1} == {"b": "two", "c": "v-3"}


def test_definitions_come_as_objects_and_tell_scopes(tmp_path: Path) -> None:
    thing = "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: x}\n"
    rendered = render(tmp_path, {**CHART, "crds/things.yaml": CRD, "templates/thing.yaml": thing})
    assert "_cluster/CustomResourceDefinition.apiextensions.k8s.io/things.example.org.json" in rendered.files
    assert "_cluster/Thing.example.org/x.json" in rendered.files


@pytest.mark.parametrize(
    ("events", "kept", "warned"),
    [
        pytest.param("test", False, "", id="a test"),
        pytest.param("test-success, test-failure", False, "", id="old tests"),
        pytest.param("pre-install,pre-upgrade", True, "", id="before an install"),
        pytest.param("post-install,test", True, "", id="after an install, and a test"),
        pytest.param("Post-Upgrade", True, "", id="capitals, as Helm reads them"),
        pytest.param(
            "pre-delete", False, "is left out: hooks of deletion and rollback never run", id="before deletion"
        ),
        pytest.param("post-delete,pre-rollback", False, "is left out: hooks of deletion", id="after a deletion"),
        pytest.param("pre-delete,post-install", True, "", id="deletion and install"),
        pytest.param("pre-delete,test", False, "is left out: hooks of deletion", id="deletion and test"),
        pytest.param("post-instal", False, "is left out, as Helm does: it knows no hook 'post-instal'", id="a typo"),
        pytest.param(
            "pre-install,",
            False,
            "is left out, as Helm does: it knows no hook ''",
            id="a comma too many, as Helm reads it",
        ),
        pytest.param(
            "post-install,test-failure", False, "as Helm does: it knows no hook 'test-failure'", id="Helm 2's"
        ),
        pytest.param(
            "crd-install",
            False,
            "is left out, as Helm does: it knows no hook 'crd-install'",
            id="Helm 2's, of definitions",
        ),
        pytest.param(" ", False, "is left out, as Helm does: it knows no hook ''", id="nothing"),
    ],
)
def test_hooks(tmp_path: Path, events: str, kept: bool, warned: str) -> None:
    rendered = render(tmp_path, {**CHART, "templates/hook.yaml": hook("h", events)})
    assert ("shop/Job.batch/h.json" in rendered.files) is kept
    assert len(rendered.warnings) == bool(warned)
    assert all("templates/hook.yaml: the hook Job/h (" in text and warned in text for text in rendered.warnings)


def test_a_hook_keeps_its_annotations_for_the_agent(tmp_path: Path) -> None:
    annotations = {
        "helm.sh/hook": "pre-install, pre-upgrade",
        "helm.sh/hook-weight": "-5",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        "helm.sh/resource-policy": "keep",
    }
    job = f"apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: migrate\n  annotations: {json.dumps(annotations)}\n"
    rendered = render(tmp_path, {**CHART, "templates/hook.yaml": job})
    assert json.loads(rendered.files["shop/Job.batch/migrate.json"])["metadata"]["annotations"] == annotations
    assert rendered.warnings == ()


def test_a_chart_of_tests_alone_renders_to_no_object(tmp_path: Path) -> None:
    files = {"Chart.yaml": CHART["Chart.yaml"], "templates/test.yaml": hook("t", "test")}
    with pytest.raises(InvalidInput, match=r"^bundle shop: bundles/shop: renders to no object"):
        render(tmp_path, files)


SECRET = (
    "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {user: me, p: {{ randAlphaNum 30 | quote }} }\n"
)
"""A chart's usual way to a password."""


@pytest.mark.parametrize(
    ("files", "values", "thing", "paths"),
    [
        pytest.param(
            {"templates/s.yaml": SECRET}, {}, "templates/s.yaml: Secret/s", "stringData.p", id="a random password"
        ),
        pytest.param(
            {
                "templates/_p.tpl": '{{ define "p" }}{{ uuidv4 }}{{ end }}',
                "templates/s.yaml": SECRET.replace("randAlphaNum 30", 'include "p" .'),
            },
            {},
            "Secret/s",
            "stringData.p",
            id="in a helper",
        ),
        pytest.param(
            {"templates/s.yaml": SECRET.replace("randAlphaNum 30", "tpl .Values.p .")},
            {"p": "{{ randAlpha 20 }}"},
            "Secret/s",
            "stringData.p",
            id="in a value",
        ),
        pytest.param(
            {
                "templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
                "data: {at: '{{ now | unixEpoch }}'}\n"
            },
            {},
            "ConfigMap/c",
            "data.at",
            id="a time in seconds",
        ),
        pytest.param(
            {
                "templates/s.yaml": '{{ $ca := genCA "x" 365 }}apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n'
                "data: {ca: {{ $ca.Cert | b64enc }}, key: {{ $ca.Key | b64enc }} }\n"
            },
            {},
            "Secret/s",
            "data.ca, data.key",
            id="a certificate",
        ),
        pytest.param(
            {"templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'c-{{ randNumeric 9 }}'}\n"},
            {},
            "ConfigMap/c-",
            "metadata.name",
            id="a random name",
        ),
    ],
)
def test_a_chart_that_renders_differently_each_time_is_refused(
    tmp_path: Path, files: dict[str, str], values: Any, thing: str, paths: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        render(tmp_path, {**CHART, **files}, options={"values": values})
    assert thing in raised.value.thing
    assert raised.value.cause == f"the chart renders it differently each time: {paths}"
    assert "spec.pinFirstRender: true" in raised.value.remedy


def test_what_helm_writes_by_itself_nobody_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = "replicas: 1\nimage: secret-value\nlabels: {a: x}\n"
    template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Values.image.tag }}'}\n"
    files = {**CHART, "values.yaml": values, "templates/deployment.yaml": template}
    rendered = render(tmp_path, files, options={"values": {"image": {"tag": "a"}}})
    assert "shop/ConfigMap/a.json" in rendered.files
    assert capfd.readouterr() == ("", "")
    os.write(2, b"again")
    assert capfd.readouterr().err == "again"


def test_a_chart_whose_first_result_is_kept_may_differ(tmp_path: Path) -> None:
    rendered = render(tmp_path, {**CHART, "templates/s.yaml": SECRET}, pinFirstRender=True)
    assert "shop/Secret/s.json" in rendered.files


def test_a_chart_that_cannot_differ_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    in_process = helm._in_process

    def counted(*args: Any, times: int, **options: Any) -> Any:
        asked.append(times)
        return in_process(*args, times=times, **options)

    monkeypatch.setattr(helm, "_in_process", counted)
    render(tmp_path / "a", CHART)
    render(tmp_path / "b", {**CHART, "templates/_now.tpl": "{{/* as of now */}}"})
    assert asked == [1, 2]


BAD = [
    pytest.param({"templates/x.yaml": "{{ fail \"no domain\" }}"}, {}, "no domain", id="a template that fails"),
    pytest.param({"templates/x.yaml": "{{ .Values.a.b.c }}"}, {}, "does not render.*x.yaml", id="a nil pointer"),
    pytest.param({"templates/x.yaml": "{{ if }}"}, {}, "does not render.*x.yaml", id="a syntax error"),
    pytest.param({"templates/x.yaml": "a: [b"}, {}, "/templates/x.yaml:2: is not valid YAML", id="no YAML"),
    pytest.param({"Chart.yaml": "apiVersion: v2"}, {}, "does not render", id="a chart without a name"),
    pytest.param(
        {"values.schema.json": '{"properties": {"replicas": {"type": "integer"}}}'},
        {"values": {"replicas": "x"}},
        "got string, want integer",
        id="values against the schema",
    ),
    pytest.param(
        {"Chart.yaml": CHART["Chart.yaml"] + "dependencies: [{name: redis, version: 1.0.0, repository: 'https://x.org'}]\n"},
        {},
        "/Chart.yaml: needs the chart 'redis'",
        id="a dependency that is not there",
    ),
    pytest.param({"Chart.yaml": CHART["Chart.yaml"] + "kubeVersion: '>=1.99'\n"}, {},
        r"/Chart\.yaml: is for Kubernetes '>=1\.99', and the cluster has v1\.36\.0", id="another Kubernetes"),
    pytest.param({"Chart.yaml": CHART["Chart.yaml"] + "kubeVersion: soon\n"}, {},
        "is for Kubernetes 'soon'", id="no range"),
    pytest.param({"Chart.yaml": CHART["Chart.yaml"] + "type: library\n"}, {}, "is of type library", id="a library"),
    pytest.param({"Chart.yaml": CHART["Chart.yaml"].replace("v2", "v3")}, {},
        "has the apiVersion 'v3'", id="of tomorrow"),
    pytest.param({}, {"valuesFiles": ["none.yaml"]}, "values file 'none.yaml' is not a file", id="a values file"),
    pytest.param({}, {"valuesFiles": ["../secret.yaml"]}, "'../secret.yaml' is not a file", id="a values file outside"),
    pytest.param({}, {"valuesFiles": ["/etc/hosts"]}, "'/etc/hosts' is not a file", id="an absolute values file"),
    pytest.param({"list.yaml": "- a"}, {"valuesFiles": ["list.yaml"]}, "list.yaml:1: are not Helm values", id="a list"),
    pytest.param({}, {"values": {"a": "${nope}"}}, "uses the variable 'nope'", id="an undefined variable"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "options", "message"), BAD)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], options: Any, message: str) -> None:
    (tmp_path / "secret.yaml").write_text("a: b")
    with pytest.raises(InvalidInput, match=f"^bundle shop: bundles/shop(?s:.*){message}") as caught:
        render(tmp_path / "shop", {**CHART, **files}, options=options)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "place", "told"),
    [
        pytest.param("a: b\n{{ .Values.a.b.c }}", "templates/x.yaml:2", "nil pointer", id="a template"),
        pytest.param('{{ include "no" . }}', "templates/x.yaml:1", "no template", id="what it includes is not there"),
        pytest.param('{{ include "bad" . }}', "templates/_bad.tpl:2", "nil pointer", id="of two the one that failed"),
        pytest.param('{{ include "redis" . }}', "charts/redis/templates/_h.tpl:1", "nil pointer", id="of a subchart"),
        pytest.param('{{ fail "/etc/passwd:1 x/../y:2" }}', "templates/x.yaml:1", "passwd", id="no file of the chart"),
    ],
)
def test_a_chart_that_does_not_render_is_told_at_its_templates_line(
    tmp_path: Path, template: str, place: str, told: str
) -> None:
    files = {
        **CHART,
        "templates/x.yaml": template,
        "templates/_bad.tpl": '{{ define "bad" }}\n{{ .Values.a.b.c }}{{ end }}',
        "charts/redis/Chart.yaml": "apiVersion: v2\nname: redis\nversion: 1.0.0\n",
        "charts/redis/templates/_h.tpl": '{{ define "redis" }}{{ .Values.a.b.c }}{{ end }}',
    }
    with pytest.raises(InvalidInput) as caught:
        render(tmp_path / "shop", files)
    assert caught.value.thing == f"bundle shop: bundles/shop/{place}"
    assert told in caught.value.cause


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{{ tpl (print .Values.password `{{`) . }}", id="half a template"),
        pytest.param("{{ tpl (print .Values.password `{{ .a.b.c }}`) . }}", id="a template that fails"),
        pytest.param("{{ range .Values.password }}{{ end }}", id="no list"),
        pytest.param('{{ semverCompare .Values.password "1.0" }}', id="no range of versions"),
        pytest.param('{{ mustToDate "2006-01-02" .Values.password }}', id="no date"),
        pytest.param("{{ mustDateModify .Values.password now }}", id="no duration"),
        pytest.param('{{ mustRegexMatch (print "[" .Values.password) "x" }}', id="no pattern"),
        pytest.param('{{ urlParse (print ":" .Values.password "%zz") }}', id="no address"),
        pytest.param(None, id="against the schema"),
    ],
)
def test_no_value_of_a_chart_is_in_an_error(tmp_path: Path, template: str | None) -> None:
    files = {**CHART, "templates/x.yaml": template or "a: b"}
    if template is None:
        files["values.schema.json"] = '{"properties": {"password": {"pattern": "^[0-9]+$"}}}'
    with pytest.raises(InvalidInput, match="the chart does not render") as caught:
        render(tmp_path / "shop", files, options={"values": {"password": 'hunter2 it\'s "mine"'}})
    assert "hunter2" not in str(caught.value)
    assert "mine" not in str(caught.value)


def test_a_subchart_in_the_folder_is_used_with_its_definitions(tmp_path: Path) -> None:
    files = {
        **CHART,
        "Chart.yaml": CHART["Chart.yaml"] + "dependencies: [{name: redis, version: 1.0.0, condition: redis.enabled}]\n",
        "charts/redis/Chart.yaml": "apiVersion: v2\nname: redis\nversion: 1.0.0\n",
        "charts/redis/templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: redis}\n",
        "charts/redis/crds/things.yaml": CRD,
    }
    assert "shop/ConfigMap/redis.json" in render(tmp_path, files).files
    off = render(tmp_path, files, options={"values": {"redis": {"enabled": False}}})
    assert off.files.keys() == {"bundle.json", "shop/Deployment.apps/shop-web.json"}


def test_a_subchart_under_two_names_brings_its_definitions_once(tmp_path: Path) -> None:
    both = "".join(f"\n- {{name: redis, version: 1.0.0, alias: {alias}}}" for alias in ("one", "two"))
    files = {
        **CHART,
        "Chart.yaml": f"{CHART['Chart.yaml']}dependencies:{both}\n",
        "charts/redis/Chart.yaml": "apiVersion: v2\nname: redis\nversion: 1.0.0\n",
        "charts/redis/templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Chart.Name }}'}\n",
        "charts/redis/crds/things.yaml": CRD,
    }
    rendered = render(tmp_path, files)
    assert {"shop/ConfigMap/one.json", "shop/ConfigMap/two.json"} < rendered.files.keys()
    assert "_cluster/CustomResourceDefinition.apiextensions.k8s.io/things.example.org.json" in rendered.files


@pytest.mark.parametrize("events", ["test", "crd-install"])
def test_a_definition_is_no_hook_whatever_it_says(tmp_path: Path, events: str) -> None:
    """Charts for Helm 2 and 3 have it in their templates too, as a hook that Helm 3 does not know."""
    crd = CRD.replace("{name: things", f"{{annotations: {{helm.sh/hook: {events}}}, name: things")
    rendered = render(tmp_path, {**CHART, "crds/things.yaml": crd, "templates/things.yaml": crd})
    assert "_cluster/CustomResourceDefinition.apiextensions.k8s.io/things.example.org.json" in rendered.files


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("---apiVersion: v1\n{}---apiVersion: v1\n{}", id="no end of the line"),
        pytest.param("--- # one\napiVersion: v1\n{}--- # two\napiVersion: v1\n{}---\n", id="comments"),
        pytest.param(" \n  apiVersion: v1\n{}---\n\n   apiVersion: v1\n{}", id="the first line indented"),
    ],
)
def test_manifests_are_cut_as_helm_cuts_them(tmp_path: Path, text: str) -> None:
    manifests = text.format(*(f"kind: ConfigMap\nmetadata:\n  name: {name}\n" for name in "ab"))
    rendered = render(tmp_path, {**CHART, "templates/x.yaml": manifests})
    assert {"shop/ConfigMap/a.json", "shop/ConfigMap/b.json"} < rendered.files.keys()


def test_the_hub_never_imports_the_go_runtime() -> None:
    code = "import sys, hub.main; sys.exit('helm_python' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_helm_on_path_is_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "helm_python", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Permanent, match="pip install helm-python-sdk"):
        render(tmp_path / "shop", CHART)
    program = tmp_path / "helm"
    program.write_text(
        '#!/bin/sh\nprintf "apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: args}\\ndata: {args: \'%s\'}\\n" "$*"\n'
    )
    program.chmod(0o755)
    rendered = render(tmp_path / "shop", CHART, kubernetes="1.33")
    args = json.loads(rendered.files["shop/ConfigMap/args.json"])["data"]["args"]
    assert args.startswith(
        f"template shop {tmp_path}/shop --namespace shop --kube-version v1.33.0 --include-crds --values"
    )
    program.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    with pytest.raises(InvalidInput, match="the chart does not render: broken"):
        render(tmp_path / "shop", CHART)


def test_a_definition_is_no_hook_with_a_helm_on_path_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "helm_python", None)
    crd = CRD.replace("{name: things", "{annotations: {helm.sh/hook: test}, name: things")
    texts = {"web/charts/redis/crds/a.yaml": crd, "web/templates/crds/b.yaml": hook("b", "test")}
    (tmp_path / "printed").write_text("".join(f"---\n# Source: {path}\n{text}\n" for path, text in texts.items()))
    program = tmp_path / "helm"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/printed\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    rendered = render(tmp_path / "shop", CHART)
    assert rendered.files.keys() == {
        "bundle.json",
        "_cluster/CustomResourceDefinition.apiextensions.k8s.io/things.example.org.json",
    }


def test_values_merge_maps_and_replace_the_rest() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    above = {"a": {"c": [3]}, "d": 5, "f": {"g": None}}
    assert helm._merged(below, above) == {"a": {"b": 1, "c": [3]}, "d": 5, "f": {"g": None}}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
