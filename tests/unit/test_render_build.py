"""A bundle's folder and its inputs to the files of a subtree: plain YAML, and what is done to every object."""

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.render import build, plain
from hub.render.objects import complete
from hub.repo import sources
from proto.errors import InvalidInput
from proto.slices import membership_labels

POLICY = {"name": "shop", "prune": True}


def inputs(**changes: Any) -> dict[str, Any]:
    return {
        "path": "",
        "namespace": "",
        "helm": None,
        "variables": {},
        "kubernetes": "",
        "policy": POLICY,
        **changes,
    }


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def render(folder: Path, files: Mapping[str, str], **changes: Any) -> build.Rendered:
    return build.render(written(folder, files), inputs(**changes), bundle="shop", at="bundles/shop")


def objects(rendered: build.Rendered) -> dict[str, Any]:
    return {path: json.loads(data) for path, data in rendered.files.items() if path != "bundle.json"}


def only(rendered: build.Rendered) -> Any:
    (found,) = objects(rendered).values()
    return found


HEAD = "apiVersion: v1\nkind: ConfigMap\n"
CONFIG = HEAD + "metadata: {name: a}\ndata: {k: v}\n"


def test_an_object_is_canonical_json_with_membership_labels_at_its_key(tmp_path: Path) -> None:
    rendered = render(tmp_path, {"web.yaml": CONFIG}, namespace="shop")
    assert rendered.files["shop/ConfigMap/a.json"] == (
        b'{\n  "apiVersion": "v1",\n  "data": {\n    "k": "v"\n  },\n  "kind": "ConfigMap",\n  "metadata": {\n'
        b'    "labels": {\n      "applyset.kubernetes.io/part-of": "'
        + membership_labels("shop")["applyset.kubernetes.io/part-of"].encode()
        + b'",\n      "flotilla.dev/bundle": "shop"\n    },\n    "name": "a",\n    "namespace": "shop"\n  }\n}\n'
    )
    assert rendered.files["bundle.json"] == b'{\n  "name": "shop",\n  "prune": true\n}\n'
    assert rendered.warnings == ()


def test_a_folder_is_read_whole_with_every_form_of_manifest(tmp_path: Path) -> None:
    item = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "%s"}}'
    rendered = render(
        tmp_path,
        {
            "bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop}\n",
            "many.yaml": f"---\n# nothing\n---\n{item % 'a'}\n---\n\n---\n{item % 'b'}\n",
            "deep/er/one.yml": item % "c",
            "one.json": item % "d",
            "list.yaml": f"apiVersion: v1\nkind: List\nitems:\n- {item % 'e'}\n- {item % 'f'}\n",
            "maps.json": f'{{"apiVersion": "v1", "kind": "ConfigMapList", "items": [{item % "g"}]}}',
            "README.md": "not: read",
            "empty.yaml": "",
        },
    )
    assert [path.split("/")[-1] for path in objects(rendered)] == [f"{name}.json" for name in "abcdefg"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(
            "kind: ConfigMapList\nitems: [{metadata: {name: a}}]", ["a"], id="items that do not say their kind"
        ),
        pytest.param("kind: List\nitems:", [], id="a list of nothing"),
        pytest.param(
            "kind: List\nitems: [{apiVersion: v1, kind: ConfigMapList, items: [{metadata: {name: a}}]},"
            " {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]",
            ["a", "b"],
            id="a list in a list",
        ),
    ],
)
def test_lists_are_flattened_as_kubectl_does_it(tmp_path: Path, text: str, names: list[str]) -> None:
    rendered = render(
        tmp_path, {"list.yaml": f"apiVersion: v1\n{text}\n", "one.yaml": CONFIG.replace("name: a", "name: z")}
    )
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in objects(rendered).values()] == [
        ("ConfigMap", name) for name in [*names, "z"]
    ]


def test_an_item_of_a_list_of_any_kinds_has_to_say_its_own(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no apiVersion or no kind"):
        render(tmp_path, {"list.yaml": "apiVersion: v1\nkind: List\nitems: [{metadata: {name: a}}]\n"})


@pytest.mark.parametrize(
    ("manifest", "path"),
    [
        pytest.param(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}", "_cluster/Namespace/x.json", id="Namespace"
        ),
        pytest.param(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'system:x'}",
            "_cluster/ClusterRole.rbac.authorization.k8s.io/system:x.json",
            id="ClusterRole",
        ),
        pytest.param("apiVersion: v1\nkind: Service\nmetadata: {name: x}", "shop/Service/x.json", id="filled in"),
        pytest.param(
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: other}", "other/Service/x.json", id="kept"
        ),
        pytest.param(
            "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: x}",
            "shop/Thing.example.org/x.json",
            id="unknown kind",
        ),
    ],
)
def test_a_namespace_is_filled_in_by_scope(tmp_path: Path, manifest: str, path: str) -> None:
    assert path in render(tmp_path, {"a.yaml": manifest}, namespace="shop").files


def test_without_a_namespace_it_is_default(tmp_path: Path) -> None:
    assert "default/ConfigMap/a.json" in render(tmp_path, {"a.yaml": CONFIG}).files


def test_a_namespace_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"bundle shop: namespace '\.\./x': is not a valid name"):
        render(tmp_path, {"a.yaml": CONFIG}, namespace="../x")


def test_a_definition_in_the_bundle_tells_the_scope_of_its_kind(tmp_path: Path) -> None:
    crd = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.org}
spec: {group: example.org, scope: Cluster, names: {kind: Thing, plural: things}}
"""
    thing = "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: x, namespace: stray}\n"
    rendered = render(tmp_path, {"a.yaml": thing, "b.yaml": crd}, namespace="shop", checks={"validation": "off"})
    assert "_cluster/Thing.example.org/x.json" in rendered.files
    assert rendered.warnings == ("bundles/shop/a.yaml:1: Thing/stray/x: its namespace is left out: Thing has none",)


def test_nulls_status_and_server_fields_are_left_out(tmp_path: Path) -> None:
    rendered = render(
        tmp_path,
        {
            "a.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, creationTimestamp: null, uid: "1", annotations: null, resourceVersion: "7"}
spec: {replicas: null, template: {spec: {volumes: [{name: v, emptyDir: {}}, null]}}}
status: {replicas: 3}
"""
        },
        checks={"validation": "off"},
    )
    found = only(rendered)
    assert "status" not in found
    assert set(found["metadata"]) == {"name", "namespace", "labels"}
    assert found["spec"] == {"template": {"spec": {"volumes": [{"name": "v", "emptyDir": {}}, None]}}}
    (warning,) = rendered.warnings
    assert warning.startswith("bundles/shop/a.yaml:2: Deployment/a: metadata.resourceVersion, metadata.uid left out")


def test_string_data_of_a_secret_is_folded_into_data(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: QQ==, b: Qg==}\nstringData: {b: ü, c: ''}\n"
    found = only(render(tmp_path, {"s.yaml": text}))
    assert "stringData" not in found
    assert {key: base64.b64decode(value).decode() for key, value in found["data"].items()} == {
        "a": "A",
        "b": "ü",
        "c": "",
    }


def test_a_number_beyond_64_bits_is_the_float_that_kubernetes_reads(tmp_path: Path) -> None:
    head = "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: a}\n"
    found = only(render(tmp_path, {"a.yaml": head + "spec: {most: 1e20, uint: 18446744073709551615}\n"}))
    assert found["spec"] == {"most": 1e20, "uint": 2**64 - 1}
    text = '{"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"least": -9223372036854775809}}'
    assert only(render(tmp_path / "json", {"a.json": text}))["spec"] == {"least": -(2.0**63)}


def test_variables_are_filled_in_and_names_too(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'a-${n}', namespace: '${ns}'}\ndata: {count: '${n}'}\n"
    rendered = render(tmp_path, {"a.yaml": text}, variables={"n": 3, "ns": "eu"})
    assert objects(rendered)["eu/ConfigMap/a-3.json"]["data"] == {"count": "3"}


BAD = [
    pytest.param(
        {"a.yaml": "kind: ConfigMap\nmetadata: {name: a}"},
        "a.yaml:1: ConfigMap/a: has no apiVersion",
        id="no apiVersion",
    ),
    pytest.param(
        {"values.yaml": "\n\nreplicas: 3"}, "values.yaml:3: object: has no apiVersion or no kind", id="no manifest"
    ),
    pytest.param({"a.yaml": "apiVersion: v1\nkind: ConfigMap"}, "ConfigMap: has no metadata", id="no metadata"),
    pytest.param({"a.yaml": HEAD + "metadata: {}"}, "ConfigMap: has no metadata.name", id="no name"),
    pytest.param({"a.yaml": HEAD + "metadata: {name: 3}"}, "metadata.name that is not text", id="a number as name"),
    pytest.param(
        {"a.yaml": "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: j-}"},
        "Job/j-: has a generateName",
        id="generateName",
    ),
    pytest.param(
        {"a.yaml": HEAD + "metadata: {name: ../x}"}, "which Kubernetes does not take", id="a name that climbs"
    ),
    pytest.param(
        {"a.yaml": HEAD + "metadata: {name: a/b}"}, "which Kubernetes does not take", id="a name with a slash"
    ),
    pytest.param(
        {"a.yaml": HEAD + "metadata: {name: x, namespace: ../..}"}, "which is not a name", id="a namespace that climbs"
    ),
    pytest.param(
        {"a.yaml": "apiVersion: v1\nkind: ../x\nmetadata: {name: x}"}, "and kind '../x'", id="a kind that climbs"
    ),
    pytest.param(
        {"a.yaml": "apiVersion: ../v1\nkind: X\nmetadata: {name: x}"}, "apiVersion '../v1'", id="a group that climbs"
    ),
    pytest.param(
        {"a.yaml": HEAD + "metadata: {name: x, labels: {a: true}}"},
        "metadata.labels.a is not text",
        id="a boolean label",
    ),
    pytest.param(
        {"a.yaml": HEAD + "metadata: {name: x}\ndata: {a: 1}"}, "data.a is not text", id="a number in a ConfigMap"
    ),
    pytest.param(
        {"a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: 1}"},
        "stringData.a is not text",
        id="a number in a Secret",
    ),
    pytest.param({"a.yaml": "- a\n- b"}, "a.yaml:1: is not a Kubernetes object", id="a list"),
    pytest.param(
        {"a.yaml": "apiVersion: v1\nkind: List\nitems: [3]"}, "item 0 of a List is not", id="a list of numbers"
    ),
    pytest.param({"a.yaml": "a: [b"}, "a.yaml", id="broken YAML"),
    pytest.param(
        {"a.yaml": "apiVersion: v1\nkind: List\nmetadata: {name: x}\nitems: {a: b}"},
        "a.yaml:1: is a List whose items are no list",
        id="a list that is none",
    ),
    pytest.param(
        {"a.yaml": "{apiVersion: v1, kind: List, metadata: {name: x}, items: [" * 9 + "]}" * 9},
        "a.yaml:1: is a List in too many others",
        id="lists without end",
    ),
    pytest.param({"a.yaml": CONFIG + "data: {}\n"}, "a.yaml:5", id="a key twice"),
    pytest.param(
        {"a.yaml": CONFIG, "b/c.yaml": "\n" + CONFIG},
        r"b/c.yaml:2: ConfigMap/default/a: is also in bundles/shop/a.yaml:1",
        id="an object twice",
    ),
    pytest.param(
        {"a.yaml": CONFIG, "x/kustomization.yaml": "resources: []"},
        "makes x a Kustomize folder inside",
        id="an inner Kustomize folder",
    ),
    pytest.param({"a.yaml": CONFIG, "x/y/Chart.yaml": "name: y"}, "makes x/y a Helm chart inside", id="an inner chart"),
    pytest.param(
        {"a.yaml": HEAD + "metadata: {name: x}\ndata: {a: '${nope}'}"},
        "a.yaml:1: ConfigMap/x: uses the variable 'nope'",
        id="an undefined variable",
    ),
]


@pytest.mark.parametrize(("files", "message"), BAD)
def test_what_is_wrong_names_bundle_file_and_object(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        render(tmp_path, files)
    assert caught.value.thing.startswith("bundle shop: bundles/shop/")


LABEL_63, LABEL_64 = "a" * 63, "a" * 64


@pytest.mark.parametrize(
    ("kind", "metadata", "message"),
    [
        pytest.param("v1 ConfigMap", "name: Web", "the name 'Web', which Kubernetes does not take", id="a capital"),
        pytest.param("v1 ConfigMap", "name: web-", "the name 'web-'", id="a dash at the end"),
        pytest.param("v1 Service", "name: a.b", "the name 'a.b'", id="a Service with a dot"),
        pytest.param("v1 Service", f"name: {LABEL_64}", "at most 63", id="a Service with a long name"),
        pytest.param("v1 Namespace", "name: a_b", "the name 'a_b'", id="a Namespace with an underscore"),
        pytest.param("batch/v1 CronJob", f"name: {'a' * 53}", "at most 52", id="a CronJob with a long name"),
        pytest.param("v1 ConfigMap", "name: a, labels: {-x: a}", "labels has the key '-x'", id="a label's name"),
        pytest.param("v1 ConfigMap", "name: a, labels: {Ex.org/x: a}", "the key 'Ex.org/x'", id="a label's prefix"),
        pytest.param("v1 ConfigMap", f"name: a, labels: {{{LABEL_64}: a}}", "at most 63", id="a long label's name"),
        pytest.param("v1 ConfigMap", f"name: a, labels: {{x: {LABEL_64}}}", "labels.x has a value", id="a long label"),
        pytest.param("v1 ConfigMap", "name: a, labels: {x: a b}", "labels.x has a value", id="a space in a label"),
        pytest.param(
            "v1 ConfigMap", "name: a, annotations: {a b: x}", "annotations has the key 'a b'", id="annotation"
        ),
        pytest.param(
            "v1 ConfigMap",
            f"name: a, annotations: {{a: {'x' * (256 << 10)}}}",
            "annotations: 262145 bytes, Kubernetes takes at most 262144",
            id="large annotations",
        ),
    ],
)
def test_names_and_labels_that_kubernetes_does_not_take(tmp_path: Path, kind: str, metadata: str, message: str) -> None:
    version, name = kind.split()
    with pytest.raises(InvalidInput, match=re.escape(message)) as raised:
        render(tmp_path, {"a.yaml": f"apiVersion: {version}\nkind: {name}\nmetadata: {{{metadata}}}"})
    assert raised.value.thing.startswith(f"bundle shop: bundles/shop/a.yaml:1: {name}/")


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        pytest.param("v1 ConfigMap", f"name: {'a.' * 126}a", id="253 characters"),
        pytest.param("v1 Service", f"name: {LABEL_63}", id="63 characters"),
        pytest.param("batch/v1 CronJob", f"name: {'a' * 52}", id="a CronJob"),
        pytest.param("rbac.authorization.k8s.io/v1 ClusterRole", "name: 'system:Me'", id="a role"),
        pytest.param("example.org/v1 Thing", "name: Any:Thing", id="a kind that nobody knows"),
        pytest.param("v1 ConfigMap", f"name: a, labels: {{ex.org/{LABEL_63}: {LABEL_63}, b: ''}}", id="labels"),
        pytest.param("v1 ConfigMap", "name: a, annotations: {Ex.org/X_y: any thing}", id="annotations"),
    ],
)
def test_names_and_labels_that_kubernetes_takes(tmp_path: Path, kind: str, metadata: str) -> None:
    version, name = kind.split()
    render(tmp_path, {"a.yaml": f"apiVersion: {version}\nkind: {name}\nmetadata: {{{metadata}}}"})


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        pytest.param("a", True, id="a letter"),
        pytest.param(".env", True, id="a hidden file"),
        pytest.param("A_b-1.yaml", True, id="a file"),
        pytest.param("k" * 253, True, id="the longest"),
        pytest.param("k" * 254, False, id="one longer"),
        pytest.param("1bad key", False, id="a space"),
        pytest.param("a/b", False, id="a path"),
        pytest.param("..data", False, id="what kubelet calls its own"),
        pytest.param(".", False, id="a dot"),
        pytest.param("", False, id="nothing"),
    ],
)
@pytest.mark.parametrize("field", ["ConfigMap data", "ConfigMap binaryData", "Secret data", "Secret stringData"])
def test_keys_of_data_are_what_kubernetes_takes(tmp_path: Path, field: str, key: str, taken: bool) -> None:
    kind, name = field.split()
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, name: {key: "aHVudGVyMg=="}}
    if taken:
        assert only(render(tmp_path, {"a.yaml": json.dumps(made)}))
        return
    with pytest.raises(InvalidInput, match=f"{name} has the key '.*', which Kubernetes does not take"):
        render(tmp_path, {"a.yaml": json.dumps(made)})


@pytest.mark.parametrize(
    ("kind", "field", "text", "message"),
    [
        pytest.param("ConfigMap", "data", "x" * (1 << 20), "", id="a ConfigMap at the limit"),
        pytest.param("ConfigMap", "data", "x" * ((1 << 20) + 1), "data: 1048577 bytes", id="one beyond it"),
        pytest.param("Secret", "stringData", "x" * (1 << 20), "", id="a Secret at the limit"),
        pytest.param("Secret", "stringData", "x" * ((1 << 20) + 1), "data: 1048577 bytes", id="a Secret beyond it"),
        pytest.param("Secret", "data", base64.b64encode(b"\0" * (1 << 20)).decode(), "", id="base64 at the limit"),
        pytest.param(
            "Secret", "data", base64.b64encode(b"\0" * ((1 << 20) + 1)).decode(), "1048577 bytes", id="base64 beyond it"
        ),
        pytest.param("Thing", "text", "x" * (3 << 19), "the whole object: 15", id="any object"),
    ],
)
def test_what_is_too_large_for_the_api_server_is_refused(
    tmp_path: Path, kind: str, field: str, text: str, message: str
) -> None:
    files = {"a.yaml": f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n{field}: {{k: {text}}}"}
    if not message:
        render(tmp_path, files)
        return
    with pytest.raises(InvalidInput, match=message) as raised:
        render(tmp_path, files)
    assert "xxx" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param("data: {password: hunter2!}", "data.password is not base64", id="no base64"),
        pytest.param("stringData: {password: *hunter2}", "a.yaml:4: unknown anchor", id="a star without quotes"),
        pytest.param("stringData: {password: !!int hunter2}", "is a !!str, not the !!int", id="a tag"),
        pytest.param(
            "stringData: {password: '${x%%hunter2}'}", r"has \$\{x%…\} in stringData.pass", id="a shell's form"
        ),
        pytest.param("stringData: {password: '${x:?hunter2}'}", r"has \$\{x:\?…\} in stringData.pass", id="a message"),
    ],
)
def test_a_secrets_value_is_never_shown(tmp_path: Path, data: str, message: str) -> None:
    text = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n"
    with pytest.raises(InvalidInput, match=message) as caught:
        render(tmp_path, {"a.yaml": text})
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.__cause__)


@pytest.mark.parametrize("path", ["none", "../other", "a.yaml", "/etc"])
def test_a_path_that_is_not_in_the_bundle_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="is not a folder of the bundle") as caught:
        render(tmp_path / "shop", {"a.yaml": CONFIG, "base/b.yaml": CONFIG, "../other/c.yaml": CONFIG}, path=path)
    assert "the bundle has base" in caught.value.remedy


def test_helm_options_without_a_chart_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has Helm options, but no Chart"):
        render(tmp_path, {"a.yaml": CONFIG}, helm={"values": {}, "valuesFiles": [], "release": "x"})


def test_a_bundle_without_objects_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^bundle shop: bundles/shop/base: renders to no object") as caught:
        render(tmp_path, {"base/README.md": "nothing"}, path="base")
    assert "spec.allowEmpty: true in its bundle.yaml" in caught.value.remedy


def test_a_bundle_may_be_empty_when_it_says_so(tmp_path: Path) -> None:
    rendered = render(tmp_path, {"README.md": "nothing"}, policy={"name": "shop", "allowEmpty": True})
    assert list(rendered.files) == ["bundle.json"]
    assert rendered.warnings == ()


def test_people_see_no_membership_labels_and_namespaces_first(tmp_path: Path) -> None:
    rendered = render(
        tmp_path,
        {
            "a.yaml": CONFIG.replace("name: a", "name: a, labels: {app: web}"),
            "n.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: zzz}\n",
        },
    )
    namespace, config = build.readable(rendered)
    assert namespace == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "zzz"}}
    assert config["metadata"]["labels"] == {"app": "web"}


def test_a_checkout_and_its_clusters_share_builds_but_not_variables(tmp_path: Path) -> None:
    root = written(tmp_path, {"bundles/shop/a.yaml": CONFIG.replace("k: v", "k: '${v}'")})
    tree = sources.FolderTree(root)
    values = [
        only(build.render_tree(tree, "bundles/shop", inputs(variables={"v": text}), "shop"))["data"]["k"]
        for text in ("one", "two", "one")
    ]
    assert values == ["one", "two", "one"]
    (root / "bundles/shop/a.yaml").write_text(CONFIG)
    assert only(build.render_tree(sources.FolderTree(root), "bundles/shop", inputs(), "shop"))["data"]["k"] == "v"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="other variables"),
        pytest.param({"namespace": "elsewhere"}, id="another namespace"),
        pytest.param({"kubernetes": "1.36"}, id="another version"),
        pytest.param({"policy": {**POLICY, "prune": False}}, id="another policy"),
        pytest.param({"bundle": "cart"}, id="another bundle"),
    ],
)
def test_what_a_shared_build_gives_is_what_a_build_of_its_own_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Objects without variables are made whole once, so nothing that counts for them may be forgotten."""
    files = {
        "bundles/shop/a.yaml": CONFIG,
        "bundles/shop/b.yaml": HEAD + "metadata: {name: b, uid: x}\ndata: {k: '${v}'}\n",
        "bundles/shop/c.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: c}\nspec: {replica: 1}\n",
        "bundles/shop/d.yaml": "apiVersion: example.org/v1\nkind: ${kind:-Thing}\nmetadata: {name: d}\n",
    }
    tree = sources.FolderTree(written(tmp_path, files))
    bundle = changes.pop("bundle", "shop")

    def rendered(number: int, **more: Any) -> build.Rendered:
        return build.render_tree(tree, "bundles/shop", inputs(variables={"v": f"{number}"}, **more), bundle)

    made: list[str] = []

    def counted(manifest: plain.Manifest, **more: Any) -> Any:
        made.append(manifest.value["metadata"]["name"])
        return complete(manifest, **more)

    monkeypatch.setattr(build, "_kept", OrderedDict())
    monkeypatch.setattr("hub.render.objects.complete", counted)
    build.render_tree(tree, "bundles/shop", inputs(variables={"v": "0"}), "shop")
    shared = [rendered(number, **changes) for number in (1, 2)]
    assert (made.count("a"), made.count("b")) == (2 if bundle == "cart" or "namespace" in changes else 1, 3)
    for number, one in enumerate(shared, start=1):
        monkeypatch.setattr(build, "_kept", OrderedDict())
        assert one == rendered(number, **changes)


def test_what_is_ignored_is_no_manifest_of_a_folder(tmp_path: Path) -> None:
    files = {
        "a.yaml": CONFIG,
        "ci/pipeline.yaml": "steps: []",
        "x/Chart.yaml": "name: x",
        ".flotillaignore": "ci/\nx\n",
    }
    written(tmp_path / "bundles/shop", files)
    assert len(objects(build.render_tree(sources.FolderTree(tmp_path), "bundles/shop", inputs(), "shop"))) == 1


def test_the_temporary_folder_is_removed_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    root = written(tmp_path / "fleet", {"bundles/good/a.yaml": CONFIG, "bundles/bad/a.yaml": "a: [b"})
    (root / "bundles/evil").mkdir()
    (root / "bundles/evil/l").symlink_to("/etc/passwd")
    build.render_tree(sources.FolderTree(root), "bundles/good", inputs(), "good")
    for name in ("bad", "evil", "none"):
        with pytest.raises(InvalidInput, match=f"^bundle {name}: bundles/{name}"):
            build.render_tree(sources.FolderTree(root), f"bundles/{name}", inputs(), name)
    assert list(scratch.glob("*/*")) == []


def test_a_commit_renders_like_its_checkout(tmp_path: Path) -> None:
    import pygit2

    repo = pygit2.init_repository(str(tmp_path / "fleet"))
    root = written(tmp_path / "fleet", {"bundles/shop/a.yaml": CONFIG})
    repo.index.add_all()
    who = pygit2.Signature("A", "a@x", 0, 0)
    commit = repo.create_commit("HEAD", who, who, "all", repo.index.write_tree(), [])
    there = build.render_request(sources.CommitTree(root / ".git", str(commit)), "bundles/shop", inputs(), "shop")
    assert there == build.render_tree(sources.FolderTree(root), "bundles/shop", inputs(), "shop")
    assert sources.CommitTree(repo, str(commit)).tree_id("bundles/shop") == sources.FolderTree(root).tree_id(
        "bundles/shop"
    )


def test_a_file_that_did_not_change_is_parsed_once_and_each_cluster_gets_its_own_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain._kept.cache_clear()
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: '${x}'}\n")
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: one}\n")
    parsed: list[str] = []
    read = plain.read

    def counted(text: bytes, *, where: str) -> list[plain.Manifest]:
        parsed.append(where)
        return read(text, where=where)

    monkeypatch.setattr(plain, "read", counted)
    given = {"path": "", "namespace": "shop", "variables": {"x": "eu"}, "policy": {"name": "shop"}}
    first = build.render(tmp_path, given, bundle="shop", at="bundles/shop")
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: two}\n")
    other = build.render(tmp_path, {**given, "variables": {"x": "us"}}, bundle="shop", at="bundles/shop")
    again = build.render(tmp_path, given, bundle="shop", at="bundles/shop")
    assert parsed == ["bundles/shop/a.yaml", "bundles/shop/b.yaml", "bundles/shop/b.yaml"]
    a = "shop/ConfigMap/a.json"
    assert again.files[a] == first.files[a] != other.files[a]
    assert b"two" in again.files["shop/ConfigMap/b.json"]
