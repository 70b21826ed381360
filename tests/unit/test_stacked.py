"""A chart whose objects are the base of a Kustomize overlay."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.render import build
from proto.errors import InvalidInput
from proto.ids import BundleName
from tests.unit.test_desired import Hub

FILES = {
    "chart/Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
    "chart/values.yaml": "size: 1\n",
    "chart/templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"
    "data: {size: '{{ .Values.size }}', run: 'echo ${HOME} $${size}'}\n",
    "chart/templates/hook.yaml": "apiVersion: batch/v1\nkind: Job\n"
    "metadata: {name: migrate, annotations: {helm.sh/hook: pre-upgrade, helm.sh/hook-weight: '2'}}\n",
    "chart/crds/thing.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
    "metadata: {name: things.example.org}\n",
    "base/kustomization.yaml": "resources: [rendered-chart.yaml, extra.yaml]\n",
    "base/extra.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\ndata: {size: '${size}'}\n",
    "overlays/eu/kustomization.yaml": """
resources: [../../base]
labels: [{pairs: {region: "${region}"}}]
patches:
  - target: {kind: ConfigMap, name: settings}
    patch: '[{"op": "add", "path": "/data/region", "value": "${region}"}]'
""",
}


def inputs(path: str, **changes: Any) -> dict[str, Any]:
    helm = {"values": {"size": "${size}"}, "valuesFiles": [], "release": ""}
    given = {
        "path": path,
        "chart": "chart",
        "namespace": "shop",
        "helm": helm,
        "variables": {"size": 3, "region": "eu"},
    }
    return {**given, "kubernetes": "", "policy": {"name": "shop"}, "checks": {"validation": "off"}, **changes}


def render(folder: Path, path: str, *, files: Mapping[str, str] = FILES, **changes: Any) -> build.Rendered:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return build.render(folder, inputs(path, **changes), bundle="shop", at="bundles/shop")


def objects(rendered: build.Rendered) -> dict[str, Any]:
    return {f"{obj['kind']}/{obj['metadata']['name']}": obj for obj in build.readable(rendered)}


def test_an_overlay_changes_what_a_chart_renders(tmp_path: Path) -> None:
    rendered = render(tmp_path, "overlays/eu")
    found = objects(rendered)
    assert found["ConfigMap/settings"]["data"] == {"size": "3", "run": "echo ${HOME} $${size}", "region": "eu"}
    assert found["ConfigMap/extra"]["data"] == {"size": "3"}
    assert {obj["metadata"]["labels"]["region"] for obj in found.values()} == {"eu"}
    assert found["Job/migrate"]["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-upgrade",
        "helm.sh/hook-weight": "2",
    }
    assert set(found) == {
        "ConfigMap/settings",
        "ConfigMap/extra",
        "Job/migrate",
        "CustomResourceDefinition/things.example.org",
    }
    origins = {key.name: where for key, where in rendered.origins.items()}
    assert origins["settings"] == "bundles/shop/chart/templates/config.yaml"
    assert origins["extra"] == "bundles/shop/overlays/eu (built)"


def test_the_base_alone_is_an_overlay_too(tmp_path: Path) -> None:
    assert "region" not in str(objects(render(tmp_path, "base")))


def test_patches_come_after_the_overlay(tmp_path: Path) -> None:
    patch = {"patch": {"data": {"run": None, "size": "${size}"}}, "where": "bundles/shop/bundle.yaml:9"}
    target = {"kind": "ConfigMap", "labelSelector": "region"}
    with pytest.raises(InvalidInput, match="matches no object"):
        render(tmp_path, "base", patches=[patch | {"target": target}])
    found = objects(render(tmp_path, "overlays/eu", patches=[patch | {"target": {"name": "settings"}}]))
    assert found["ConfigMap/settings"]["data"] == {"size": "3", "region": "eu"}


def test_over_a_source_that_is_no_chart_the_folder_takes_its_place(tmp_path: Path) -> None:
    files = {
        "base/a.yaml": "",
        "overlay/kustomization.yaml": "resources: [a.yaml]",
        "overlay/a.yaml": FILES["base/extra.yaml"],
    }
    found = objects(render(tmp_path, "overlay", files=files, chart="base", helm=None))
    assert set(found) == {"ConfigMap/extra"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(
            {"base/kustomization.yaml": "resources: [extra.yaml]\n"},
            r"bundles/shop/overlays/eu: is over a chart, and does not build on rendered-chart\.yaml",
            id="it is not listed",
        ),
        pytest.param(
            {"base/rendered-chart.yaml": "{}"},
            r"bundles/shop/base/rendered-chart\.yaml: is where the chart's objects go",
            id="it is in Git",
        ),
        pytest.param(
            {"base/kustomization.yaml": "resources: [rendered-chart.yaml, ../../x]\n"}, "not in the bundle", id="out"
        ),
        pytest.param(
            {"chart/templates/x.yaml": 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: "\\x7f"}\n'},
            r"templates/x\.yaml: ConfigMap/x: has a control character",
            id="a character that Kustomize breaks",
        ),
    ],
)
def test_what_cannot_be_stacked_is_told(tmp_path: Path, files: Mapping[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        render(tmp_path, "overlays/eu", files={**FILES, **files})


async def test_overlays_and_patches_are_made_in_the_confined_workers_of_the_hub(tmp_path: Path) -> None:
    head = "apiVersion: flotilla.dev/v1alpha1\n"
    patch = "{target: {name: settings}, patch: {data: {own: '${cluster.name}'}}}"
    helm = "helm: {values: {size: '${cluster.labels.size}'}}, variables: {size: '2', region: eu}"
    spec = f"{{targets: {{}}, source: {{path: chart}}, kustomize: {{path: overlays/eu}}, {helm}, patches: [{patch}]}}"
    files = {f"bundles/a/{path}": text for path, text in FILES.items()}
    files["bundles/a/bundle.yaml"] = f"{head}kind: Bundle\nmetadata: {{name: a}}\nspec: {spec}\n"
    files["clusters/all.yaml"] = "".join(
        f"---\n{head}kind: Cluster\nmetadata: {{name: {name}, labels: {{size: '{size}'}}}}\nspec: {{}}\n"
        for name, size in (("eu-1", "3"), ("us-1", "4"))
    )
    hub = Hub(tmp_path)
    try:
        found = await hub.wants(files)
    finally:
        hub.journal.close()
    assert [str(finding) for finding in found.findings if finding.severity == "error"] == []
    data = {
        cluster: json.loads(hub.store.read(hub.store.files(subtree)["default/ConfigMap/settings.json"]))["data"]
        for cluster, subtree in found.subtrees[BundleName("a")].items()
    }
    assert {cluster: (each["size"], each["own"], each["region"]) for cluster, each in data.items()} == {
        "eu-1": ("3", "eu-1", "eu"),
        "us-1": ("4", "us-1", "eu"),
    }
