"""`flotilla explain`: from which files and commits an object of a cluster comes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.unit.test_diff_cli import FLEET, WEB, commit, run, write

KUSTOMIZED = {
    "bundles/kust/bundle.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: kust}
spec:
  targets: {}
  source: {path: base}
  variants:
    - when: {matchLabels: {tier: lab}}
      kustomize: {path: overlays/lab}
    - when: {matchExpressions: [{key: tier, operator: In, values: [prod, lab]}]}
      variables: {colour: green}
""",
    "bundles/kust/base/kustomization.yaml": "resources: [settings.yaml]\n",
    "bundles/kust/base/settings.yaml": (
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: "${colour}"}\n'
    ),
    "bundles/kust/overlays/lab/kustomization.yaml": "namePrefix: lab-\nresources: [../../base, own.yaml]\n",
    "bundles/kust/overlays/lab/own.yaml": 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\ndata: {a: "b"}\n',
}
CHART = {
    "bundles/chart/bundle.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: chart}
spec:
  targets: {}
  helm: {valuesFiles: [values-all.yaml]}
""",
    "bundles/chart/Chart.yaml": "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
    "bundles/chart/values-all.yaml": "colour: red\n",
    "bundles/chart/templates/page.yaml": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: page}\ndata: {colour: {{ .Values.colour }}}\n"
    ),
}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    commit(tmp_path, FLEET, subject="A fleet")
    return tmp_path


def explain(fleet: Path, *args: str) -> Result:
    return run("explain", *args, "--fleet", fleet)


def parts(fleet: Path, *args: str) -> list[tuple[str, str, str]]:
    result = explain(fleet, *args, "-o", "json")
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)
    return [(part["what"], part["where"], (part["touch"] or {}).get("subject", "")) for part in one["parts"]]


def test_a_plain_object_has_its_file_line_and_last_commit(fleet: Path) -> None:
    web = commit(fleet, {WEB: f"# why\n{FLEET[WEB]}"}, subject="Web says why")
    commit(fleet, {"bundles/base/README.md": "unrelated"}, subject="Unrelated")
    assert parts(fleet, "Deployment/shop/web", "--cluster", "eu-1") == [
        ("bundle", "bundles/shop/bundle.yaml:2", "A fleet"),
        ("file", "bundles/shop/web.yaml:3", "Web says why"),
        ("cluster", "clusters/all.yaml:2", "A fleet"),
    ]
    text = explain(fleet, "Deployment/shop/web", "--cluster", "eu-1").stdout
    assert text.startswith("Deployment/shop/web on eu-1\n  bundle   bundles/shop/bundle.yaml:2  (shop)\n")
    assert f"{web[:12]} 2023-11-14 Ada: Web says why" in text


def test_a_change_that_is_not_committed_is_told(fleet: Path) -> None:
    write(fleet, {WEB: f"# why\n{FLEET[WEB]}", "bundles/shop/new.yaml": FLEET["bundles/base/namespace.yaml"]})
    assert "web.yaml:3\n" in explain(fleet, "Deployment/web", "--cluster", "eu-1").stdout
    assert "not committed as it is here" in explain(fleet, "Deployment/web", "--cluster", "eu-1").stdout
    assert "not committed" not in explain(fleet, "ConfigMap/motd", "--cluster", "eu-1").stdout


def test_the_commit_is_found_behind_a_merge_that_only_took_it_over(fleet: Path) -> None:
    import pygit2

    repo = pygit2.Repository(str(fleet))
    base = repo.head.target
    change = commit(fleet, {WEB: f"# why\n{FLEET[WEB]}"}, subject="On a branch")
    person = pygit2.Signature("Eve", "eve@example.org", 1_700_000_001, 0)
    tree = repo[change].peel(pygit2.Tree).id
    repo.set_head(
        repo.create_commit("refs/heads/merged", person, person, "Merge", tree, [base, change]) and "refs/heads/merged"
    )
    assert ("file", "bundles/shop/web.yaml:3", "On a branch") in parts(fleet, "Deployment/web", "--cluster", "eu-1")


@pytest.mark.parametrize(
    "thing",
    ["Deployment/shop/web", "deployment/shop/web", "Deployment/web", "Deployment.apps/shop/web", "Deployment.apps/web"],
)
def test_an_object_is_named_as_people_do(fleet: Path, thing: str) -> None:
    assert explain(fleet, thing, "--cluster", "eu-1").stdout.startswith("Deployment/shop/web on eu-1\n")


def test_patches_and_an_overlay_over_a_chart_are_told(fleet: Path) -> None:
    files = {path.replace("bundles/chart/", "bundles/chart/chart/"): text for path, text in CHART.items()}
    files["bundles/chart/bundle.yaml"] = """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: chart}
spec:
  targets: {}
  source: {path: chart}
  helm: {values: {colour: red}}
  kustomize: {path: overlay}
  patches:
    - {target: {name: page}, patch: {data: {own: x}}}
    - {target: {name: page2}, patch: {metadata: {name: page3}}, options: {allowNameChange: true}}
  variants:
    - {when: {}, patches: [{target: {kind: ConfigMap}, patch: {metadata: {labels: {a: b}}}}]}
"""
    page = files["bundles/chart/chart/templates/page.yaml"]
    files["bundles/chart/chart/templates/page2.yaml"] = page.replace("name: page", "name: page2")
    files["bundles/chart/overlay/kustomization.yaml"] = "resources: [rendered-chart.yaml]\n"
    commit(fleet, files, subject="Stacked")
    patches = [("patch", f"bundles/chart/bundle.yaml:{line}", "") for line in (11, 12, 14)]
    assert parts(fleet, "ConfigMap/page", "--cluster", "eu-1")[1:-2] == [
        ("file", "bundles/chart/chart/templates/page.yaml", "Stacked"),
        ("overlay", "bundles/chart/overlay", "Stacked"),
        *patches,
    ]
    assert parts(fleet, "ConfigMap/page3", "--cluster", "eu-1")[1:-2] == [("patched", "bundles/chart", ""), *patches]
    assert "every cluster: 1 patch" in explain(fleet, "ConfigMap/page", "--cluster", "eu-1").stdout


def test_kustomize_tells_overlay_base_and_variants(fleet: Path) -> None:
    commit(fleet, KUSTOMIZED, subject="Kustomized")
    found = parts(fleet, "ConfigMap/lab-settings", "--cluster", "lab")
    assert ("file", "bundles/kust/base/settings.yaml", "Kustomized") in found
    assert ("built", "bundles/kust/overlays/lab", "Kustomized") in found
    assert ("file", "bundles/kust/overlays/lab/own.yaml", "Kustomized") in parts(
        fleet, "ConfigMap/lab-own", "--cluster", "lab"
    )
    text = explain(fleet, "ConfigMap/lab-settings", "--cluster", "lab").stdout
    assert "(1 of 2, tier=lab: kustomize overlays/lab)" in text
    assert "(2 of 2, tier In lab or prod: variables colour)" in text
    other = explain(fleet, "ConfigMap/settings", "--cluster", "eu-1").stdout
    assert "1 of 2" not in other
    assert "bundles/kust/base  (by Kustomize)" in other


def test_helm_tells_template_and_values_files(fleet: Path) -> None:
    commit(fleet, CHART, subject="A chart")
    found = parts(fleet, "ConfigMap/page", "--cluster", "lab")
    assert ("file", "bundles/chart/templates/page.yaml", "A chart") in found
    assert ("values", "bundles/chart/values-all.yaml", "A chart") in found


def test_an_object_that_only_others_have_is_told_with_its_clusters(fleet: Path) -> None:
    result = explain(fleet, "Deployment/shop/web", "--cluster", "lab")
    assert result.exit_code == 1
    assert "Deployment/shop/web is not on cluster lab" in result.stderr
    assert "bundle shop makes Deployment/shop/web on clusters eu-1, us-1" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        pytest.param(["Deployment/shop/wbe", "--cluster", "eu-1"], 1, "did you mean Deployment/shop/web?", id="name"),
        pytest.param(["ConfigMap/mtod", "--cluster", "eu-1"], 1, "did you mean ConfigMap/shop/motd?", id="short name"),
        pytest.param(["Deployment/web", "--cluster", "eu-2"], 1, "did you mean eu-1?", id="cluster"),
        pytest.param(["web", "--cluster", "eu-1"], 2, "write Kind/namespace/name or Kind/name", id="form"),
        pytest.param(["a/b/c/d", "--cluster", "eu-1"], 2, "write Kind/namespace/name or Kind/name", id="too long"),
    ],
)
def test_what_is_not_there_is_told(fleet: Path, args: list[str], code: int, message: str) -> None:
    result = explain(fleet, *args)
    assert (result.exit_code, message in result.stderr) == (code, True), result.output


def test_a_bundle_that_does_not_render_is_named(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("${domain}", "${domian}")})
    result = explain(fleet, "Deployment/shop/web", "--cluster", "eu-1")
    assert result.exit_code == 1
    assert "bundles/shop/web.yaml:2: error: Deployment/web: uses the variable 'domian'" in result.stderr


def test_a_checkout_without_git_has_files_and_no_commits(tmp_path: Path) -> None:
    write(tmp_path, FLEET)
    found: list[Any] = parts(tmp_path, "Deployment/web", "--cluster", "eu-1")
    assert ("file", "bundles/shop/web.yaml:2", "") in found


def test_a_fleet_in_a_folder_of_a_larger_repository_has_its_commits(tmp_path: Path) -> None:
    commit(tmp_path, {f"deploy/fleet/{path}": text for path, text in FLEET.items()}, subject="All of it")
    found = parts(tmp_path / "deploy/fleet", "Deployment/web", "--cluster", "eu-1")
    assert ("file", "bundles/shop/web.yaml:2", "All of it") in found


def test_where_a_shallow_clone_ends_the_commit_may_be_an_earlier_one(
    fleet: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commit(fleet, {"README.md": "x"}, subject="Something else")
    clone = tmp_path_factory.mktemp("clone") / "fleet"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{fleet}", str(clone)], check=True)
    told = explain(clone, "Deployment/web", "--cluster", "eu-1").stdout
    assert "Something else  (or an earlier one: this clone is shallow)" in told
    assert "shallow" not in explain(fleet, "Deployment/web", "--cluster", "eu-1").stdout


def test_hostile_names_of_commits_do_not_reach_the_terminal(fleet: Path) -> None:
    commit(fleet, {WEB: f"# why\n{FLEET[WEB]}"}, subject="\x1b[2Jgone")
    assert "\x1b" not in explain(fleet, "Deployment/web", "--cluster", "eu-1").output


def test_help_shows_examples() -> None:
    assert "Examples:\n    flotilla explain" in run("explain", "--help").output
