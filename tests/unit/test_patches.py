"""Raw patches of a bundle: strategic, JSON merge and JSON 6902, inline and from files, for plain YAML and charts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hub.render import build
from hub.repo import sources
from proto.errors import InvalidInput

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}, finalizers: [a, b, c]}
spec:
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1}}
  template:
    spec:
      containers:
        - {name: app, image: app:1, env: [{name: A, value: "1"}, {name: B, value: "2"}]}
        - {name: proxy, image: proxy:1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-worker, annotations: {team: blue}}
spec: {template: {spec: {containers: [{name: app, image: app:1}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1", word: "no", octal: "012", big: "12345678901234567890"}
---
apiVersion: example.org/v1
kind: Thing
metadata: {name: thing}
spec: {big: 12345678901234567, list: [{name: a, v: 1}, {name: b, v: 2}], keep: true}
"""
WEB = {"kind": "Deployment", "name": "web"}


def patch(text: Any, *, target: Mapping[str, str] | None = None, path: str = "", **options: bool) -> dict[str, Any]:
    return {
        "patch": text,
        "path": path,
        "target": target or {},
        "options": options,
        "where": "bundles/shop/bundle.yaml:9",
    }


def inputs(patches: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    given = {"path": "", "namespace": "", "helm": None, "variables": {}, "kubernetes": "", "policy": {"name": "shop"}}
    return {**given, "checks": {"validation": "off"}, "patches": list(patches), **changes}


def render(
    folder: Path, *patches: Mapping[str, Any], files: Mapping[str, str] | None = None, **changes: Any
) -> build.Rendered:
    for path, text in (files or {"all.yaml": MANIFESTS}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return build.render(folder, inputs(patches, **changes), bundle="shop", at="bundles/shop")


def objects(rendered: build.Rendered) -> dict[str, Any]:
    return {f"{obj['kind']}/{obj['metadata']['name']}": obj for obj in build.readable(rendered)}


@pytest.mark.parametrize(
    ("given", "steps", "expected"),
    [
        pytest.param(
            patch({"spec": {"replicas": 3}}, target=WEB), ("Deployment/web", "spec", "replicas"), 3, id="a field"
        ),
        pytest.param(
            patch("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 3}"),
            ("Deployment/web", "spec", "replicas"),
            3,
            id="text that names its object, without a target",
        ),
        pytest.param(
            patch(
                {
                    "spec": {
                        "template": {"spec": {"containers": [{"name": "app", "env": [{"name": "B", "value": "3"}]}]}}
                    }
                },
                target=WEB,
            ),
            ("Deployment/web", "spec", "template", "spec", "containers"),
            [
                {
                    "name": "app",
                    "image": "app:1",
                    "env": [{"name": "B", "value": "3"}, {"name": "A", "value": "1"}],
                },
                {"name": "proxy", "image": "proxy:1"},
            ],
            id="lists merge by their merge key",
        ),
        pytest.param(
            patch(
                {"spec": {"template": {"spec": {"containers": [{"name": "proxy", "$patch": "delete"}]}}}}, target=WEB
            ),
            ("Deployment/web", "spec", "template", "spec", "containers", 0, "name"),
            "app",
            id="$patch: delete of an element",
        ),
        pytest.param(
            patch({"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}, target=WEB),
            ("Deployment/web", "spec", "strategy"),
            {"type": "Recreate"},
            id="$patch: replace of a mapping",
        ),
        pytest.param(
            patch({"spec": {"strategy": {"$patch": "merge", "type": "Recreate"}}}, target=WEB),
            ("Deployment/web", "spec", "strategy"),
            {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}},
            id="$patch: merge",
        ),
        pytest.param(
            patch({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, target=WEB),
            ("Deployment/web", "spec", "strategy"),
            {"type": "Recreate"},
            id="$retainKeys",
        ),
        pytest.param(
            patch({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}, target=WEB),
            ("Deployment/web", "metadata", "finalizers"),
            ["a", "c"],
            id="$deleteFromPrimitiveList",
        ),
        pytest.param(
            patch(
                {"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "proxy"}, {"name": "app"}]}}}},
                target=WEB,
            ),
            ("Deployment/web", "spec", "template", "spec", "containers", 0, "name"),
            "proxy",
            id="$setElementOrder",
        ),
        pytest.param(
            patch({"data": {"a": None, "b": "2"}}, target={"kind": "ConfigMap"}),
            ("ConfigMap/settings", "data"),
            {"b": "2", "word": "no", "octal": "012", "big": "12345678901234567890"},
            id="a null removes, and other texts stay texts",
        ),
        pytest.param(
            patch({"spec": {"list": [{"name": "c"}], "keep": None}}, target={"kind": "Thing"}),
            ("Thing/thing", "spec"),
            {"big": 12345678901234567, "list": [{"name": "c"}]},
            id="of a custom kind it is a JSON merge patch, and large numbers stay exact",
        ),
        pytest.param(
            patch([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "app:2"}], target=WEB),
            ("Deployment/web", "spec", "template", "spec", "containers", 0, "image"),
            "app:2",
            id="JSON 6902",
        ),
        pytest.param(
            patch(
                '[{"op": "add", "path": "/metadata/annotations", "value": {}},'
                ' {"op": "add", "path": "/metadata/annotations/a~1b", "value": "x"}]',
                target={"kind": "ConfigMap"},
            ),
            ("ConfigMap/settings", "metadata", "annotations", "a/b"),
            "x",
            id="JSON 6902 as text",
        ),
        pytest.param(
            patch("- op: move\n  from: /data/a\n  path: /data/z", target={"kind": "ConfigMap"}),
            ("ConfigMap/settings", "data", "z"),
            "1",
            id="JSON 6902 as YAML",
        ),
        pytest.param(
            patch({"metadata": {"annotations": {"n": "${n}"}}}, target={"kind": "ConfigMap"}),
            ("ConfigMap/settings", "metadata", "annotations", "n"),
            "3",
            id="with a variable, where Kubernetes takes text",
        ),
        pytest.param(
            patch({"spec": {"replicas": "${n}"}}, target=WEB),
            ("Deployment/web", "spec", "replicas"),
            3,
            id="with a variable, a number",
        ),
        pytest.param(
            patch(None, path="patches/web.yaml", target=WEB),
            ("Deployment/web", "spec", "replicas"),
            7,
            id="from a file",
        ),
        pytest.param(
            patch({"metadata": {"name": "other"}}, target=WEB, allowNameChange=True),
            ("Deployment/other", "spec", "strategy", "type"),
            "RollingUpdate",
            id="a new name, where options allow it",
        ),
        pytest.param(
            patch({"kind": "Other", "metadata": {"name": "other"}, "spec": {"replicas": 2}}, target=WEB),
            ("Deployment/web", "spec", "replicas"),
            2,
            id="with a target a patch's own name and kind do not count, as in Kustomize",
        ),
    ],
)
def test_a_patch_changes_its_objects(
    tmp_path: Path, given: Mapping[str, Any], steps: tuple[str | int, ...], expected: Any
) -> None:
    files = {"manifests/all.yaml": MANIFESTS, "patches/web.yaml": "spec: {replicas: 7}\n"}
    found: Any = objects(render(tmp_path, given, files=files, path="manifests", variables={"n": 3}))
    assert len(found) == 4
    for step in steps:
        found = found[step]
    assert found == expected
    assert "$" not in json.dumps(found)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param({"kind": "Deployment"}, {"web", "web-worker"}, id="a kind"),
        pytest.param({"name": "web"}, {"web"}, id="a name is matched whole"),
        pytest.param({"name": "web.*"}, {"web", "web-worker"}, id="as a pattern"),
        pytest.param({"group": "apps", "version": "v1"}, {"web", "web-worker"}, id="group and version"),
        pytest.param({"labelSelector": "app in (web)"}, {"web"}, id="labels"),
        pytest.param({"annotationSelector": "team=blue"}, {"web-worker"}, id="annotations"),
        pytest.param({"kind": "Deployment", "labelSelector": "!app"}, {"web-worker"}, id="both"),
        pytest.param({"name": "web|settings"}, {"web", "settings"}, id="an alternative is anchored as a whole"),
    ],
)
def test_a_target_selects_as_in_kustomize(tmp_path: Path, target: Mapping[str, str], expected: set[str]) -> None:
    rendered = render(tmp_path, patch({"metadata": {"labels": {"patched": "yes"}}}, target=target))
    found = {obj["metadata"]["name"] for obj in build.readable(rendered) if "patched" in str(obj)}
    assert found == expected


def test_a_target_that_is_deleted_is_gone_and_counts_as_matched(tmp_path: Path) -> None:
    found = objects(render(tmp_path, patch({"$patch": "delete"}, target={"name": "web.*"})))
    assert sorted(found) == ["ConfigMap/settings", "Thing/thing"]


def test_patches_come_one_after_the_other(tmp_path: Path) -> None:
    found = objects(
        render(
            tmp_path,
            patch({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, target=WEB),
            patch([{"op": "test", "path": "/spec/strategy", "value": {"type": "Recreate"}}], target=WEB),
            patch({"metadata": {"labels": {"step": "one"}}}, target=WEB),
            patch({"metadata": {"labels": {"step": "two"}}}, target={"labelSelector": "step=one"}),
        )
    )
    assert found["Deployment/web"]["metadata"]["labels"]["step"] == "two"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"one": True}, b'"one": true', id="the number 1 becomes true"),
        pytest.param({"no": 0}, b'"no": 0', id="false becomes the number 0"),
    ],
)
def test_a_patch_may_change_nothing_but_a_type(tmp_path: Path, given: Mapping[str, Any], expected: bytes) -> None:
    thing = "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: thing}\nspec: {one: 1, no: false}\n"
    rendered = render(tmp_path, patch({"spec": given}, target={"kind": "Thing"}), files={"all.yaml": thing})
    assert expected in rendered.files["default/Thing.example.org/thing.json"]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_large_integers_stay_exact_whatever_patch_comes(tmp_path: Path, number: int) -> None:
    thing = f"apiVersion: example.org/v1\nkind: Thing\nmetadata: {{name: thing}}\nspec: {{big: {number}, old: 1}}\n"
    operations = [
        {"op": "test", "path": "/spec/big", "value": number},
        {"op": "add", "path": "/spec/more", "value": [number, {"x": number}]},
        {"op": "replace", "path": "/spec/old", "value": number},
    ]
    rendered = render(tmp_path, patch(operations, target={"kind": "Thing"}), files={"all.yaml": thing})
    spec = objects(rendered)["Thing/thing"]["spec"]
    assert spec == {"big": number, "more": [number, {"x": number}], "old": number}


def test_what_no_patch_touches_keeps_its_bytes_and_its_place(tmp_path: Path) -> None:
    before = render(tmp_path / "a")
    after = render(tmp_path / "b", patch([{"op": "remove", "path": "/data/a"}], target={"kind": "ConfigMap"}))
    changed = {path for path in before.files if before.files[path] != after.files[path]}
    assert changed == {"default/ConfigMap/settings.json"}
    assert {str(key): where for key, where in after.origins.items()} == {
        str(key): where for key, where in before.origins.items()
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            patch({"spec": {}}, target={"kind": "Deploymnet"}),
            r"bundle\.yaml:9: the patch's target \(kind: Deploymnet\) matches no object",
            id="a target that matches nothing",
        ),
        pytest.param(
            patch({"$patch": "delete"}, target={"name": "we"}), "matches no object", id="one that would delete nothing"
        ),
        pytest.param(
            patch({"spec": {}}, target={"kind": "ConfigMap", "namespace": "shop"}),
            "those without a namespace get the bundle's later",
            id="a namespace that comes later",
        ),
        pytest.param(
            patch("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\ndata: {}"),
            r"bundle\.yaml:9: the patch cannot be applied: .*no resource matches",
            id="an object that is not there",
        ),
        pytest.param(
            patch([{"op": "remove", "path": "/spec/none"}], target=WEB),
            r"bundle\.yaml:9: the patch cannot be applied: .*/spec/none",
            id="a path that is not there",
        ),
        pytest.param(patch([{"op": "add", "path": "/a", "value": 1}]), "has no target", id="operations without target"),
        pytest.param(
            patch([{"op": "set", "path": "/a", "value": 1}], target=WEB), "item 0 .* no JSON 6902", id="an operation"
        ),
        pytest.param(patch([{"op": "add", "path": "/a"}], target=WEB), "item 0 .* has no value", id="no value"),
        pytest.param(patch([{"op": "copy", "path": "/a"}], target=WEB), "item 0 .* has no from", id="no from"),
        pytest.param(
            patch([{"op": "replace", "path": "", "value": {}}], target=WEB), "item 0 .* the path ''", id="the whole"
        ),
        pytest.param(patch("text", target=WEB), "neither a mapping nor a list", id="a text"),
        pytest.param(patch("", target=WEB), "is empty", id="nothing"),
        pytest.param(patch("a: [", target=WEB), r"bundle\.yaml:9", id="no YAML"),
        pytest.param(patch({"spec": {}}), "does not say which object", id="neither target nor name"),
        pytest.param(
            patch({"$patch": "replace", "spec": {}}, target=WEB), "replaces a whole object", id="a whole object"
        ),
        pytest.param(
            patch({"spec": {"$patch": "remove"}}, target=WEB), "unknown patch strategy", id="an unknown directive"
        ),
        pytest.param(patch({"spec": {}}, target={"name": "("}), "missing closing", id="a pattern"),
        pytest.param(patch({"spec": {}}, target={"labelSelector": "a=b=c"}), "found '='", id="a label selector"),
        pytest.param(patch(None, path="none.yaml", target=WEB), "'none.yaml' is not a file", id="a missing file"),
        pytest.param(
            patch(None, path="p/bad.yaml", target=WEB),
            r"bundles/shop/p/bad\.yaml:2: item 0",
            id="a file is named with its line",
        ),
    ],
)
def test_a_patch_that_cannot_be_applied_names_its_place(tmp_path: Path, given: Mapping[str, Any], message: str) -> None:
    good = patch({"metadata": {"labels": {"x": "y"}}}, target=WEB) | {"where": "bundles/shop/bundle.yaml:1"}
    files = {"manifests/all.yaml": MANIFESTS, "p/bad.yaml": "---\n[{op: nothing}]\n"}
    with pytest.raises(InvalidInput, match=f"(?s){message}"):
        render(tmp_path, good, given, good, files=files, path="manifests")


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(patch({"stringData": {"p": {"q": 1}}}, target={"kind": "Secret"}), id="strategic"),
        pytest.param(
            patch([{"op": "replace", "path": "/stringData/p/x", "value": 1}], target={"kind": "Secret"}), id="a path"
        ),
        pytest.param(
            patch([{"op": "test", "path": "/stringData/q", "value": 1}], target={"kind": "Secret"}), id="a test"
        ),
    ],
)
@pytest.mark.parametrize("value", [pytest.param("hunter2", id="text"), pytest.param("hunter2\\x7f", id="control")])
def test_values_of_a_secret_are_in_no_error(tmp_path: Path, given: Mapping[str, Any], value: str) -> None:
    secret = f'apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{p: "{value}", q: "{value}"}}\n'
    with pytest.raises(InvalidInput) as caught:
        render(tmp_path, given, files={"a.yaml": secret})
    assert "hunter2" not in str(caught.value)


def test_two_of_one_identity_are_told_with_both_places(tmp_path: Path) -> None:
    one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    with pytest.raises(InvalidInput, match=r"b\.yaml:1: ConfigMap/a: is also in bundles/shop/a\.yaml:1"):
        render(tmp_path, patch({"data": {}}, target={"name": "a"}), files={"a.yaml": one, "b.yaml": one})


def test_what_kustomize_would_leave_out_stays(tmp_path: Path) -> None:
    annotations = "annotations: {config.kubernetes.io/local-config: 'true'}"
    local = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: l, {annotations}}}\n"
    found = objects(
        render(tmp_path, patch({"spec": {"replicas": 2}}, target=WEB), files={"a.yaml": MANIFESTS, "l.yaml": local})
    )
    assert "ConfigMap/l" in found


def test_a_kustomize_folder_is_patched_after_its_build(tmp_path: Path) -> None:
    files = {"kustomization.yaml": "resources: [all.yaml]\nnamePrefix: eu-\n", "all.yaml": MANIFESTS}
    found = objects(render(tmp_path, patch({"spec": {"replicas": 2}}, target={"name": "eu-web"}), files=files))
    assert found["Deployment/eu-web"]["spec"]["replicas"] == 2


def test_a_chart_is_patched_and_keeps_what_its_scripts_say(tmp_path: Path) -> None:
    files = {
        "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
        "templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
        "data: {run: 'echo ${HOME} $${count}', own: '{{ .Values.own }}'}\n",
        "templates/hook.yaml": "apiVersion: batch/v1\nkind: Job\n"
        "metadata: {name: migrate, annotations: {helm.sh/hook: pre-upgrade}}\n",
        "crds/thing.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
        "metadata: {name: things.example.org}\n",
    }
    options = {"values": {"own": "${count}"}, "valuesFiles": [], "release": ""}
    given = patch({"data": {"here": "${count}", "kept": "$${count}"}}, target={"kind": "ConfigMap"})
    found = objects(render(tmp_path, given, files=files, helm=options, variables={"count": 3}))
    assert found["ConfigMap/a"]["data"] == {
        "run": "echo ${HOME} $${count}",
        "own": "3",
        "here": "3",
        "kept": "${count}",
    }
    assert found["Job/migrate"]["metadata"]["annotations"] == {"helm.sh/hook": "pre-upgrade"}
    assert "CustomResourceDefinition/things.example.org" in found


def test_other_patches_of_one_folder_are_other_builds(tmp_path: Path) -> None:
    folder = tmp_path / "bundles/shop"
    folder.mkdir(parents=True)
    (folder / "all.yaml").write_text(MANIFESTS)
    tree = sources.FolderTree(tmp_path)
    for count in (2, 3):
        given = inputs([patch({"spec": {"replicas": count}}, target=WEB)])
        found = objects(build.render_tree(tree, "bundles/shop", given, "shop"))
        assert found["Deployment/web"]["spec"]["replicas"] == count


def test_files_of_patches_are_no_manifests_even_of_variants_that_do_not_match(tmp_path: Path) -> None:
    files = {"all.yaml": MANIFESTS, "patches/a.yaml": "spec: {replicas: 7}\n", "patches/b.yaml": "[{op: x}]\n"}
    given = patch(None, path="patches/a.yaml", target=WEB)
    found = objects(render(tmp_path, given, files=files, patchFiles=["patches/a.yaml", "patches/b.yaml"]))
    assert found["Deployment/web"]["spec"]["replicas"] == 7


def test_a_key_that_kustomize_would_lose_is_told(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {'<<': x}\n"
    with pytest.raises(InvalidInput, match="ConfigMap/a: has a control character or a key '<<'"):
        render(tmp_path, patch({"data": {"b": "c"}}, target={"name": "a"}), files={"a.yaml": text})
    ok = text.replace("{'<<': x}", "{a: '\"<<\": x'}")
    found = objects(render(tmp_path, patch({"data": {"b": "c"}}, target={"name": "a"}), files={"a.yaml": ok}))
    assert found["ConfigMap/a"]["data"] == {"a": '"<<": x', "b": "c"}
