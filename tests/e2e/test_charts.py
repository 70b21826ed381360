"""Charts render to what `helm template` prints, object by object: charts written for it, values made by chance, and the
charts that Helm is tested with itself.

Helm prints what we leave out: hooks of tests, and those that only run at a deletion or a rollback. What Helm refuses is
refused here too.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.render import helm, plain
from proto.errors import InvalidInput
from tests import real

NOT_IN_SLICES = {"test", "test-success", "pre-delete", "post-delete", "pre-rollback", "post-rollback"}
HEAD = "apiVersion: v2\nname: web\nversion: 1.2.3\nappVersion: '7.1'\n"
"""The beginning of a Chart.yaml."""
VALUES = "v: {{ toJson .Values | quote }}"


def config(name: str, *lines: str) -> str:
    data = "".join(f"  {line}\n" for line in lines) or "  a: b\n"
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n{data}"


def hook(events: str) -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: hook, annotations: {{helm.sh/hook: '{events}'}}}}\n"


RED = {
    "charts/red/Chart.yaml": "apiVersion: v2\nname: red\nversion: 1.0.0\n",
    "charts/red/values.yaml": "exports: {data: {size: 5, list: [1]}}\ninner: {a: 1, b: null}\nk: 1\nz: {a: 2, b: 3}\n",
    "charts/red/templates/red.yaml": config("'red-{{ .Chart.Name }}'", VALUES),
    "charts/red/crds/red.yaml": "apiVersion: v1\nkind: Foo\nmetadata: {name: red}\n",
}
"""A chart for others to depend on."""


def needs(*dependencies: str) -> str:
    return HEAD + "dependencies:\n" + "".join(f"- {{name: red, version: 1.0.0, {one}}}\n" for one in dependencies)


CASES = [
    pytest.param(
        {"values.yaml": "i: 12345678\nf: 1.50\nbig: 9007199254740993\ne: 1e3\no: 0777\nb: yes\nn: ~\n"},
        {},
        id="numbers of the chart's own values",
    ),
    pytest.param(
        {},
        {"i": 12345678, "f": 1.5, "big": 9007199254740993, "m": -5, "e": 1e21, "long": 10**18},
        id="numbers that are given",
    ),
    pytest.param(
        {"templates/t.yaml": config("t", "i: '{{ .Values.i }} {{ typeOf .Values.i }} {{ int64 .Values.i }}'")},
        {"i": 12345678},
        id="how templates print them",
    ),
    pytest.param(
        {"values.yaml": "a: {b: 1, c: 2}\nd: {e: 1}\nf: [1]\n"},
        {"a": {"b": None}, "d": None, "f": None, "new": None, "n": {"x": None}},
        id="nulls take defaults away",
    ),
    pytest.param({"values.yaml": "a: {b: 1}\nc: 3\n"}, {"a": 3, "c": {"x": 1}}, id="mappings over scalars"),
    pytest.param({"values.yaml": "a: 1\na: 2\n"}, {}, id="a key twice"),
    pytest.param({"values.yaml": "a: .inf\n"}, {}, id="a value that is no JSON"),
    pytest.param(
        {**RED, "Chart.yaml": needs("condition: red.on")},
        {"red": {"on": False}},
        id="a chart that is off, with its definitions",
    ),
    pytest.param({**RED, "Chart.yaml": needs("tags: [back]")}, {"tags": {"back": False}}, id="off by a tag"),
    pytest.param(
        {**RED, "Chart.yaml": needs("tags: [back], condition: 'no.such,red.on'")},
        {"tags": {"back": False}, "red": {"on": True}},
        id="a condition goes before a tag",
    ),
    pytest.param(
        {**RED, "Chart.yaml": needs("alias: blue, condition: blue.on", "alias: green")},
        {"blue": {"on": False}, "green": {"k": 7}},
        id="aliases, one of them off",
    ),
    pytest.param(
        {**RED, "Chart.yaml": needs("alias: blue", "alias: green")},
        {"global": {"g": 1}},
        id="aliases, whose definitions are the same",
    ),
    pytest.param(
        {**RED, "Chart.yaml": needs("alias: blue"), "templates/k.yaml": config("k", "k: '{{ keys .Values }}'")},
        {},
        id="rendered twice, for the order of a map might be another",
    ),
    pytest.param(
        {
            **RED,
            "Chart.yaml": needs("import-values: [{child: inner, parent: outer.x}, data]"),
            "values.yaml": "size: 3\nouter: {x: {a: 9}}\n",
        },
        {"list": [3]},
        id="values of a child",
    ),
    pytest.param(
        {**RED, "values.yaml": "red: {k: null, z: {a: 1}}\n"}, {"red": {"z": {"b": None}}}, id="nulls for a child"
    ),
    pytest.param(RED, {"red": None}, id="nothing for a child"),
    pytest.param(
        {
            **RED,
            "values.yaml": "global: {a: 1, b: {c: 2}}\nred: {global: {a: 5}}\n",
            "charts/red/values.yaml": "global: {b: {c: 3, d: 4}}\n",
        },
        {"global": {"b": {"e": None}}},
        id="globals",
    ),
    pytest.param(
        {
            **RED,
            "charts/red/charts/pink/Chart.yaml": "apiVersion: v2\nname: pink\nversion: 1.0.0\n",
            "charts/red/charts/pink/templates/p.yaml": config("p", VALUES),
        },
        {"red": {"pink": {"p": 2}}, "global": {"x": 1}},
        id="a child of a child",
    ),
    pytest.param(
        {
            **RED,
            "charts/red/templates/_h.tpl": '{{ define "n" }}sub{{ end }}',
            "templates/_h.tpl": '{{ define "n" }}top{{ end }}',
            "charts/red/templates/n.yaml": config("n", 'v: {{ include "n" . }}'),
        },
        {},
        id="a name defined twice",
    ),
    pytest.param(
        {
            **RED,
            "charts/red/Chart.yaml": "apiVersion: v2\nname: red\nversion: 1.0.0\ntype: library\n",
            "charts/red/templates/_x.tpl": '{{ define "red.x" }}lib{{ end }}',
            "templates/l.yaml": config("l", 'v: {{ include "red.x" . }}'),
        },
        {},
        id="a library beneath",
    ),
    pytest.param(
        {**RED, "Chart.yaml": HEAD + "dependencies: [{name: red, version: 2.0.0}]\n"}, {}, id="another version"
    ),
    pytest.param(
        {
            "Chart.yaml": "apiVersion: v1\nname: web\nversion: 1.2.3\n",
            **RED,
            "requirements.yaml": "dependencies: [{name: red, version: 1.0.0, condition: red.on}]\n",
        },
        {"red": {"on": False}},
        id="an old chart",
    ),
    pytest.param(
        {"Chart.yaml": HEAD + "dependencies: [{name: red, version: 1.0.0}]\n"}, {}, id="a child that is missing"
    ),
    pytest.param({"Chart.yaml": HEAD + "type: library\n"}, {}, id="a library"),
    pytest.param({"Chart.yaml": "apiVersion: v3\nname: web\nversion: 1.2.3\n"}, {}, id="a chart of tomorrow"),
    pytest.param({"Chart.yaml": "name: web\nversion: 1.2.3\n"}, {}, id="a chart that says no version of charts"),
    *(
        pytest.param({"Chart.yaml": f"{HEAD}kubeVersion: '{wanted}'\n"}, {}, id=f"for Kubernetes {wanted}")
        for wanted in (">=1.99.0", ">=1.36", ">=1.20.0-0 <2", "~1.36.0 || 9", "1.35.x", "^1.35-0", "soon")
    ),
    pytest.param(
        {**RED, "charts/red/Chart.yaml": "apiVersion: v2\nname: red\nversion: 1.0.0\nkubeVersion: '>=9'\n"},
        {},
        id="a child for another Kubernetes",
    ),
    pytest.param(
        {"values.yaml": "a: 3\n", "values.schema.json": '{"properties": {"a": {"type": "integer"}}}'},
        {},
        id="values as the schema wants them",
    ),
    pytest.param(
        {"values.yaml": "a: 3\n", "values.schema.json": '{"properties": {"a": {"type": "integer"}}}'},
        {"a": "x"},
        id="values that the schema refuses",
    ),
    pytest.param(
        {**RED, "charts/red/values.schema.json": '{"properties": {"k": {"type": "string"}}}'}, {}, id="a child's schema"
    ),
    pytest.param(
        {
            "templates/t.yaml": "---apiVersion: v1\nkind: Foo\nmetadata: {name: a}\n"
            "---apiVersion: v1\nkind: Foo\nmetadata: {name: b}\n"
        },
        {},
        id="no end of the line",
    ),
    pytest.param(
        {
            "templates/t.yaml": "--- # first\napiVersion: v1\nkind: Foo\nmetadata: {name: a}\n--- # second\n"
            f"# nothing\n---\n\n---   \n{config('b')}---\n"
        },
        {},
        id="documents of comments",
    ),
    pytest.param(
        {
            "templates/t.yaml": "\n  apiVersion: v1\nkind: Foo\nmetadata: {name: a}\n---  \n"
            "\n   apiVersion: v1\nkind: Foo\nmetadata: {name: b}\n"
        },
        {},
        id="first lines indented",
    ),
    pytest.param({"templates/t.yaml": config("t", "x: |", "  a", "  ---", "  b")}, {}, id="dashes in a text"),
    pytest.param({"templates/t.yaml": "null\n---\n~\n---\n" + config("t")}, {}, id="documents that are null"),
    pytest.param({"templates/t.yaml": config("t", "x: '1'", "x: '2'")}, {}, id="a key twice in a manifest"),
    pytest.param(
        {
            "templates/t.yaml": "apiVersion: v1\nkind: Foo\nmetadata: {name: a}\nspec: {a: yes, b: 0x1F, c: 0777, "
            "d: 1_000, e: 12:30, f: 2020-01-01, h: 1e3, i: 0o17, j: '1e3', k: ~, l: 1e20}\n"
        },
        {},
        id="scalars of YAML 1.1",
    ),
    pytest.param(
        {"templates/t.yaml": "apiVersion: v1\nkind: Foo\nmetadata: &m {name: a}\nspec: {<<: *m, x: *m}\n"},
        {},
        id="anchors",
    ),
    pytest.param(
        {"templates/t.yaml": "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Foo, metadata: {name: a}}]\n"},
        {},
        id="a List",
    ),
    pytest.param({"templates/t.yaml": "hello\n"}, {}, id="a text"),
    pytest.param({"templates/README.md": "hello\n"}, {}, id="a text that is no YAML file"),
    pytest.param(
        {"templates/NOTES.txt": "a: [", "templates/deep/NOTES.txt": "a: [", "templates/MY-NOTES.txt": "a: ["},
        {},
        id="notes",
    ),
    pytest.param(
        {
            "Chart.yaml": HEAD.replace("\n", "\r\n"),
            "values.yaml": "a: |\r\n  x\r\n  y\r\n",
            "templates/t.yaml": config("t", "x: {{ .Values.a | quote }}").replace("\n", "\r\n")
            + "---\r\n"
            + config("u").replace("\n", "\r\n"),
        },
        {},
        id="CRLF",
    ),
    pytest.param(
        {
            "Chart.yaml": "\ufeff" + HEAD,
            "values.yaml": "\ufeffa: 1\n",
            "f.txt": "\ufeffhi",
            "templates/t.yaml": "\ufeff" + config("t", 'f: {{ .Files.Get "f.txt" | quote }}'),
            "crds/c.yaml": "\ufeffapiVersion: v1\nkind: Foo\nmetadata: {name: f}\n",
        },
        {},
        id="byte order marks",
    ),
    pytest.param(
        {".helmignore": "templates/skip*\n*.md\n", "templates/skip.yaml": "a: [", "templates/x.md": "a: ["},
        {},
        id="what is ignored",
    ),
    pytest.param(
        {
            "crds/a.yaml": "apiVersion: v1\nkind: Foo\nmetadata: {name: '{{ x }}'}\n---\n" + config("b"),
            "crds/b.json": '{"apiVersion": "v1", "kind": "Foo", "metadata": {"name": "j"}}',
            "crds/c.txt": "a",
            "crds/d/e.yml": "apiVersion: v1\nkind: Foo\nmetadata: {name: e}\n",
        },
        {},
        id="files of crds",
    ),
    *(
        pytest.param({"templates/h.yaml": hook(events)}, {}, id=f"the hook '{events}'")
        for events in (
            "pre-install",
            "pre-install,",
            "post-install,test-failure",
            "testing,post-install",
            "test",
            "test-failure",
            "pre-delete",
            " Post-Install , pre-upgrade",
            "",
            "pre-install,foo",
            "post-delete,test",
            "post-delete,pre-upgrade",
        )
    ),
    pytest.param(
        {
            "templates/t.yaml": config(
                "t",
                "v: {{ .Capabilities.KubeVersion | toJson | quote }}",
                "a: {{ .Capabilities.APIVersions | toJson | quote }}",
                'h: {{ .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" | quote }}',
                'n: {{ semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version | quote }}',
                "r: {{ .Release | toJson | quote }}",
                "c: {{ .Chart | toJson | quote }}",
                "p: {{ .Template | toJson | quote }}",
                "s: {{ .Subcharts | toJson | quote }}",
                'l: {{ lookup "v1" "Secret" "ns" "x" | toJson | quote }}',
            )
        },
        {},
        id="what templates are told",
    ),
    pytest.param(
        {
            "f/a.txt": "one\ntwo\n",
            "f/b/c.txt": "deep",
            "templates/t.yaml": config(
                "t",
                'a: {{ .Files.Get "f/a.txt" | quote }}',
                'b: {{ (.Files.Glob "f/*").AsConfig | quote }}',
                'c: {{ (.Files.Glob "f/**").AsSecrets | quote }}',
                'd: {{ .Files.Lines "f/a.txt" | toJson | quote }}',
                "e: '{{ range $k, $v := .Files }}{{ $k }} {{ end }}'",
                'f: {{ .Files.Get "templates/t.yaml" | quote }}',
                'g: {{ .Files.Get "../secret" | quote }}',
            ),
        },
        {},
        id="files",
    ),
    pytest.param(
        {
            "templates/t.yaml": config(
                "t",
                'a: {{ tpl "{{ .Values.a }}-{{ .Release.Name }}" . | quote }}',
                'b: {{ "a: [1, 2.5]" | fromYaml | toJson | quote }}',
                'c: {{ "[1, 2" | fromYamlArray | toJson | quote }}',
                r'd: {{ fromJson "{\"a\": 12345678901}" | toYaml | quote }}',
                'e: {{ regexReplaceAll "a(b+)c" "xabbc" "${1}" | quote }}',
                'f: {{ date "2006-01-02" (toDate "2006-01-02" "2020-05-06") }}',
                'g: {{ sha256sum "x" }}',
                "h: {{ default 5 .Values.zero | quote }}",
                'i: {{ coalesce .Values.none 0 "" "z" }}',
                "j: {{ ternary 1 2 (empty .Values.zero) | quote }}",
                'k: {{ list 1 2.0 "a" nil true | toJson | quote }}',
                'l: {{ dict "a" 1 "b" (dict "c" 9999999) | toYaml | quote }}',
                'm: {{ toToml (dict "a" 1) | quote }}',
                'n: {{ printf "%d %v" (int .Values.a) .Values.a | quote }}',
                'o: {{ add 1 2.7 "3" | quote }}',
                'p: {{ mergeOverwrite (dict "a" 1) (dict "a" 2) | toJson | quote }}',
                "q: {{ (.Values.none).deeper | quote }}",
                'r: {{ derivePassword 1 "long" "p" "u" "s" | quote }}',
                's: {{ getHostByName "localhost" | quote }}',
                "t: {{ .Values.nowhere }}",
                "u: '{{ range $i, $x := until 3 }}{{- $x }}{{ else }}none{{ end }}'",
            )
        },
        {"a": 7, "zero": 0},
        id="functions",
    ),
]


def printed(chart: Path, *values: Path) -> list[plain.Manifest] | str:
    """What Helm prints, or its error."""
    tools = real.tools()
    assert tools is not None, "helm is not built: run 'make e2e', or tests/tools/build.sh"
    more = [text for file in values for text in ("--values", str(file))]
    command = [str(tools / "helm"), "template", "shop", str(chart), "--namespace", "ns", "--kube-version", "v1.36.0"]
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [*command, "--include-crds", *more], capture_output=True, check=False, env={"HOME": home, "PATH": ""}
        )
    if done.returncode:
        return done.stderr.decode()
    found = plain.read(done.stdout, where="helm", strict=False, lines=False)
    return [one for one in found if not left_out(one.value)]


def left_out(value: Mapping[str, Any]) -> bool:
    events = (value.get("metadata", {}).get("annotations") or {}).get("helm.sh/hook")
    return events is not None and {event.strip().lower() for event in events.split(",")} <= NOT_IN_SLICES


def rendered(root: Path, path: str, values: Mapping[str, Any]) -> list[plain.Manifest] | str:
    """What we make of it, or our error."""
    try:
        return helm.load(root, path, at="b", release="shop", namespace="ns", values=values, kubernetes="1.36")[0]
    except InvalidInput as error:
        return str(error)


def differences(ours: Sequence[plain.Manifest] | str, theirs: Sequence[plain.Manifest] | str) -> str:
    """What only one of the two has, or "". Helm prints the definitions of a chart twice that is there twice."""
    if isinstance(ours, str) or isinstance(theirs, str):
        refused = isinstance(ours, str) and isinstance(theirs, str)
        return "" if refused else f"ours: {ours}\nHelm's: {theirs}"
    one, other = ({json.dumps(manifest.value, sort_keys=True) for manifest in each} for each in (ours, theirs))
    return "" if one == other else f"only ours: {sorted(one - other)}\nonly Helm's: {sorted(other - one)}"


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())


@pytest.mark.parametrize(("files", "values"), CASES)
def test_a_chart_renders_to_what_helm_prints(
    tmp_path: Path, files: Mapping[str, str], values: Mapping[str, Any]
) -> None:
    write(tmp_path / "web", {"Chart.yaml": HEAD, "templates/values.yaml": config("values", VALUES), **files})
    (tmp_path / "values.json").write_text(json.dumps(values))
    ours = rendered(tmp_path, "web", values)
    assert differences(ours, printed(tmp_path / "web", tmp_path / "values.json")) == ""
    if not isinstance(ours, str):
        assert ours


KEYS = st.sampled_from(["a", "b", "global", "red", "k", "y"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False).filter(bool),
    st.sampled_from(["", "yes", "1e3", "0777", "~", " x: y", "# no", "1_000", "é\n"]),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=4)


@settings(max_examples=60, deadline=None)
@given(default=MAPPINGS, child=MAPPINGS, files=st.lists(MAPPINGS, max_size=2), own=MAPPINGS)
def test_values_are_merged_as_helm_merges_them(
    default: dict[str, Any], child: dict[str, Any], files: list[dict[str, Any]], own: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        values = {f"{index}.yaml": json.dumps(each) for index, each in enumerate(files)}
        chart = {
            **RED,
            "Chart.yaml": needs("condition: red.k"),
            "values.yaml": json.dumps(default),
            "charts/red/values.yaml": json.dumps(child),
            "templates/values.yaml": config("values", VALUES),
        }
        write(root, values | {"own.yaml": json.dumps(own)})
        write(root / "web", chart)
        given_to_us = helm.values_of(root, {"values": own, "valuesFiles": list(values)}, {}, at="b")
        theirs = printed(root / "web", *(root / file for file in values), root / "own.yaml")
        assert differences(rendered(root, "web", given_to_us), theirs) == ""


def test_helms_own_test_charts_render_alike() -> None:
    """But for those that differ with each render, which are refused."""
    module = Path(__file__).parents[1] / "tools/helm"
    listed = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", "helm.sh/helm/v4"],
        cwd=module,
        capture_output=True,
        check=True,
        text=True,
    )
    if not listed.stdout.strip():
        pytest.skip("the source of Helm is not on this machine: its tool was built elsewhere")
    charts = [file.parent for file in sorted(Path(listed.stdout.strip(), "pkg").rglob("testdata/**/Chart.yaml"))]
    compared, found = 0, {}
    for chart in charts:
        ours = rendered(chart, "", {})
        if "renders it differently each time" in ours:
            continue
        if why := differences(ours, printed(chart)):
            found[str(chart)] = why
        compared += not isinstance(ours, str)
    assert found == {}
    assert compared > 50
