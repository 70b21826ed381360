"""What is said of rendered objects: Secrets with plain data."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hub.cli import main
from hub.render import build, checks, validate
from proto.errors import InvalidInput

ROOT = Path(__file__).parents[2]
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


# --- schemas ------------------------------------------------------------------------------------------------------

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: nginx
          ports: [{containerPort: 80}]
          resources: {limits: {cpu: 500m, memory: 1Gi}, requests: {cpu: 1}}
"""
DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rooms.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Room, plural: rooms}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [size, view]
              properties:
                size: {type: integer, minimum: 1, maximum: 9}
                view: {type: string, default: none}
                kind: {type: string, enum: [Single, Double]}
                extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
                port: {x-kubernetes-int-or-string: true}
                beds: {type: array, maxItems: 2, items: {type: string}}
"""
ROOM = "apiVersion: example.org/v1\nkind: Room\nmetadata: {name: a}\nspec: {size: 3, port: 80, extra: {any: [1]}}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "image: nginx",
            "imagee: nginx",
            "bundles/shop/web.yaml:13: Deployment/shop/web: spec.template.spec.containers[0].imagee is not a known"
            " field (did you mean 'image'?)",
            id="an unknown field",
        ),
        pytest.param(
            "  replicas: 2",
            "  replicas: two",
            "bundles/shop/web.yaml:6: Deployment/shop/web: spec.replicas is text, not a whole number",
            id="a word for a number",
        ),
        pytest.param(
            "  replicas: 2",
            "  replicas: '2'",
            "spec.replicas is text, not a whole number (take its quotes off)",
            id="a number in quotes",
        ),
        pytest.param(
            "name: web\n          image",
            "name: 7\n          image",
            "web.yaml:12: Deployment/shop/web: spec.template.spec.containers[0].name is a number, not text"
            " (put it in quotes)",
            id="a number for a word",
        ),
        pytest.param("replicas: 2", "replicas: -1", "spec.replicas has to be at least 0", id="a number out of range"),
        pytest.param(
            "{containerPort: 80}",
            "{containerPort: 80000}",
            "ports[0].containerPort has to be at least 1 and at most 65535",
            id="no port",
        ),
        pytest.param(
            "[{containerPort: 80}]",
            "{containerPort: 80}",
            "ports is a mapping, not a list (write a list)",
            id="no list",
        ),
        pytest.param(
            "  selector: {matchLabels: {app: web}}\n",
            "",
            "web.yaml:5: Deployment/shop/web: spec.selector is missing",
            id="a missing field",
        ),
        pytest.param(
            "- name: web\n          image",
            "- image",
            "spec.template.spec.containers[0].name is missing",
            id="a missing name",
        ),
        pytest.param(
            "        - name: web\n          image: nginx\n          ports: [{containerPort: 80}]\n"
            "          resources: {limits: {cpu: 500m, memory: 1Gi}, requests: {cpu: 1}}\n",
            "        []\n",
            "spec.template.spec.containers has to have at least 1 items",
            id="no container",
        ),
        pytest.param(
            "[{containerPort: 80}]",
            "[{containerPort: 80}, {containerPort: 80, protocol: TCP}]",
            "ports[1] is the same item as [0], by its containerPort and protocol (remove one of the two)",
            id="an item twice",
        ),
        pytest.param("memory: 1Gi", "memory: lots", "limits.memory is text, not a quantity", id="no quantity"),
        pytest.param(
            "kind: Deployment",
            "kind: Deploymnt",
            "web.yaml:3: Deploymnt.apps/shop/web: kind is Deploymnt, which Kubernetes 1.36 does not have in apps/v1"
            " (did you mean 'Deployment'?)",
            id="an unknown kind",
        ),
        pytest.param(
            "apps/v1",
            "apps/v1beta1",
            "web.yaml:2: Deployment/shop/web: apiVersion is not one that Kubernetes 1.36 has of Deployment"
            " (write apps/v1)",
            id="an old version",
        ),
        pytest.param(
            "apps/v1",
            "app/v1",
            "web.yaml:2: Deployment/shop/web: apiVersion has the group 'app', which Kubernetes 1.36 does not have"
            " (did you mean 'apps/v1'?)",
            id="a group that cannot be a custom one",
        ),
        pytest.param(
            "apiVersion: apps/v1\nkind: Deployment",
            "apiVersion: networking.k8s.oi/v1\nkind: Ingress",
            "apiVersion has the group 'networking.k8s.oi', which Kubernetes 1.36 does not have"
            " (did you mean 'networking.k8s.io/v1'?)",
            id="a misspelt group",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DEPLOYMENT
    (warning,) = render(tmp_path, {"web.yaml": DEPLOYMENT.replace(old, new)}).warnings
    assert message.replace("Deploymnt.apps/", "Deploymnt/") in warning


def test_what_does_not_fit_stops_the_bundle_where_the_fleet_says_so(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace("image:", "imagee:").replace("replicas", "replics")
    with pytest.raises(InvalidInput) as raised:
        render(tmp_path, {"web.yaml": text}, validation="error")
    assert raised.value.thing == "bundle shop: bundles/shop/web.yaml:6: Deployment/shop/web"
    assert raised.value.cause.startswith("spec.replics is not a known field; bundles/shop/web.yaml:13: Deployment")
    assert raised.value.cause.endswith("imagee is not a known field (did you mean 'image'?)")
    assert raised.value.remedy == "did you mean 'replicas'?"
    assert render(tmp_path, {"web.yaml": text}, validation="off").warnings == ()


def test_an_item_of_a_list_has_its_own_line(tmp_path: Path) -> None:
    head = "apiVersion: v1\nkind: List\nitems:\n"
    text = f"{head}- apiVersion: v1\n  kind: Service\n  metadata: {{name: a}}\n  spec:\n    porst: []\n"
    (warning,) = render(tmp_path, {"all.yaml": text}).warnings
    assert warning.startswith("bundles/shop/all.yaml:8: Service/shop/a: spec.porst is not a known field")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("{size: 3, sise: 4}", "spec.sise is not a known field (did you mean 'size'?)", id="a field"),
        pytest.param("{size: 12}", "spec.size has to be at least 1 and at most 9", id="a range"),
        pytest.param("{size: 1.5}", "spec.size is a number, not a whole number", id="a fraction"),
        pytest.param("{view: sea}", "spec.size is missing", id="a missing field"),
        pytest.param("{size: 1, kind: double}", "spec.kind is 'double' (did you mean 'Double'?)", id="a word"),
        pytest.param("{size: 1, beds: [a, b, c]}", "spec.beds has 3 items, at most 2 are allowed", id="too many"),
        pytest.param("{size: 1, port: {a: b}}", "spec.port is a mapping, not a whole number or text", id="a port"),
    ],
)
def test_a_custom_kind_is_judged_by_the_definition_beside_it(tmp_path: Path, spec: str, message: str) -> None:
    files = {"crd.yaml": DEFINITION, "room.yaml": ROOM.replace("{size: 3, port: 80, extra: {any: [1]}}", spec)}
    (warning,) = render(tmp_path, files).warnings
    assert f"bundles/shop/room.yaml:4: Room/shop/a: {message}" in warning


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a.yaml": DEPLOYMENT}, id="a Deployment"),
        pytest.param({"a.yaml": DEFINITION, "b.yaml": ROOM}, id="a custom kind"),
        pytest.param({"a.yaml": ROOM.replace("size", "anything")}, id="a custom kind without definition"),
        pytest.param(
            {"a.yaml": "apiVersion: apps/v1alpha7\nkind: Sandwich\nmetadata: {name: x}"}, id="a kind of another version"
        ),
        pytest.param(
            {
                "a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n"
                "spec: {selector: null, ports: [{port: 80, targetPort: http}]}"
            },
            id="a null",
        ),
        pytest.param(
            {"a.yaml": DEFINITION.replace("type: object\n          required", "required"), "b.yaml": ROOM}, id="odd"
        ),
    ],
)
def test_what_fits_is_not_told(tmp_path: Path, files: Mapping[str, str]) -> None:
    assert render(tmp_path, files).warnings == ()


def test_a_definition_that_is_itself_wrong_is_told_and_judges_nothing(tmp_path: Path) -> None:
    files = {
        "crd.yaml": DEFINITION.replace("properties:\n            spec", "properties: 3\n          x:\n            spec")
    }
    warnings = render(tmp_path, {**files, "room.yaml": ROOM}).warnings
    assert warnings
    assert all(warning.startswith("bundles/shop/crd.yaml:") for warning in warnings)


def test_clusters_of_another_version_are_not_judged_by_what_changed(tmp_path: Path) -> None:
    def told(folder: str, text: str, kubernetes: str) -> tuple[str, ...]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "web.yaml").write_text(text)
        inputs = {"namespace": "shop", "variables": {}, "policy": {"name": "shop"}, "kubernetes": kubernetes}
        return build.render(tmp_path / folder, inputs, bundle="shop").warnings

    old = DEPLOYMENT.replace("apps/v1", "apps/v1beta1")
    new = DEPLOYMENT.replace("replicas: 2", "replicas: 2\n  novelty: 1")
    assert told("a", old, "1.15") == ()
    assert told("b", new, "1.99") == ()
    assert len(told("c", new, "1.30")) == 1
    assert len(told("d", old, "v1.36.7")) == 1


def test_many_problems_are_told_in_bounded_length(tmp_path: Path) -> None:
    fields = "".join(f"  x{number}: 1\n" for number in range(100))
    assert len(render(tmp_path, {"web.yaml": DEPLOYMENT + fields}).warnings) == validate.MAX_PROBLEMS


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        pytest.param(ROOT.parent / "shared/data/real/podinfo", "overlays/dev", id="podinfo"),
        pytest.param(ROOT.parent / "shared/data/real/podinfo", "overlays/production", id="podinfo in production"),
        pytest.param(ROOT.parent / "shared/data/real/boutique", "base", id="boutique"),
        pytest.param(ROOT.parent / "shared/data/real/boutique", "components/network-policies", id="its policies"),
        pytest.param(ROOT / "deploy", "agent", id="our agent"),
        pytest.param(ROOT / "deploy", "hub", id="our hub"),
    ],
)
def test_real_manifests_fit(folder: Path, path: str) -> None:
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not beside the checkout")
    inputs = {"path": path, "namespace": "shop", "variables": {}, "policy": {"name": "x"}}
    assert build.render(folder, inputs, bundle="x").warnings == ()


@pytest.mark.parametrize("fleet", ["example-fleet", "demo"])
def test_our_own_fleets_have_nothing_to_tell(fleet: str) -> None:
    result = CliRunner().invoke(main, ["check", "--fleet", str(ROOT / "deploy" / fleet)])
    assert result.exit_code == 0
    assert "warning" not in result.output


def test_what_kubectl_noted_of_a_secret_is_hidden_with_its_values_and_other_objects_are_left_as_they_are() -> None:
    noted = {"metadata": {"name": "s", "annotations": {checks.LAST_APPLIED: '{"data":{"a":"eA=="}}', "b": "c"}}}
    secret = {"apiVersion": "v1", "kind": "Secret", **noted, "data": {"a": "eA=="}}
    shown = checks.without_values(secret)
    assert "eA==" not in repr(shown)
    assert shown["metadata"]["annotations"]["b"] == "c"
    config = {"apiVersion": "v1", "kind": "ConfigMap", **noted, "data": {"a": "eA=="}}
    assert checks.without_values(config) == config


@pytest.mark.parametrize(
    "misspelt",
    [
        pytest.param({"apiVersion": "v1", "kind": "Secret", "stringdata": {"a": "hunter2"}}, id="a field"),
        pytest.param({"apiVersion": "v1", "kind": "Secret", "dta": "hunter2"}, id="a field that is no mapping"),
        pytest.param({"apiVersion": "v1", "kind": "secret", "data": {"a": "hunter2"}}, id="the kind"),
        pytest.param({"apiVersion": "core/v1", "kind": "Secret", "data": {"a": "hunter2"}}, id="the version"),
    ],
)
def test_values_of_a_secret_that_is_misspelt_are_hidden_and_told(misspelt: dict[str, Any]) -> None:
    assert "hunter2" not in repr(checks.without_values({**misspelt, "metadata": {"name": "s"}}))
    assert checks.is_plain_secret(misspelt)
