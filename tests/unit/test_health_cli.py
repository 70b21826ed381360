"""`flotilla health` on files as `kubectl get` writes them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli import main

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, generation: 2}
spec: {replicas: 2}
status: {observedGeneration: 1}
"""
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\n"
DATABASE = """
apiVersion: example.org/v1
kind: Database
metadata: {name: db, namespace: shop}
status: {phase: PHASE}
"""
BUNDLE = """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  targets: {}
  dependsOn: [elsewhere]
  healthChecks:
  - {apiVersion: example.org/v1, kind: Database, current: "status.phase == 'Up'", failed: "status.phase == 'Down'"}
"""


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["health", *map(str, arguments)], input=stdin)


def write(folder: Path, text: str, name: str = "live.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_every_object_gets_its_word_and_reason(tmp_path: Path) -> None:
    result = run(write(tmp_path, f"{WEB}---\n{CONFIG}"))
    assert result.exit_code == 1
    why = "its controller has seen generation 1, not yet 2"
    assert result.stdout.splitlines() == [
        "OBJECT                   HEALTH      REASON                       WHY",
        f"Deployment/shop/web      InProgress  LatestGenerationNotObserved  {why}",
        "ConfigMap/shop/settings  Current",
        "",
        "1 Current, 1 InProgress",
    ]


def test_all_current_is_success() -> None:
    result = run("-", stdin=CONFIG)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"apiVersion": "v1", "kind": "List", "items": [ITEM, ITEM]}', id="a List as JSON"),
        pytest.param("apiVersion: v1\nkind: PodList\nitems:\n- POD\n- POD\n", id="a list whose items have no kind"),
    ],
)
def test_lists_are_read_item_by_item(text: str) -> None:
    pod = '{"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}}'
    item = '{"apiVersion": "v1", "kind": "Pod", ' + pod[1:]
    result = run("-", "--output", "json", stdin=text.replace("ITEM", item).replace("POD", pod))
    rows = json.loads(result.stdout)["objects"]
    assert [(row["object"], row["health"], row["reason"]) for row in rows] == [("Pod/p", "Current", "PodSucceeded")] * 2
    assert result.exit_code == 0


def test_an_empty_list_is_no_error() -> None:
    result = run("-", stdin='{"apiVersion": "v1", "kind": "List", "items": []}')
    assert (result.exit_code, result.stdout) == (0, "no objects\n")


def test_what_cannot_be_read_is_told_with_its_line_and_stops_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, f"{CONFIG}---\na: [\n---\njust: text\n---\n- 5\n---{WEB}")
    result = run(path, tmp_path / "nothing.yaml", write(tmp_path, "", "empty.yaml"))
    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == [
        "ConfigMap/shop/settings",
        "Deployment/shop/web",
    ]
    told = result.stderr.splitlines()
    assert [line.split(": ", 2)[1] for line in told] == [
        f"{path}:6",
        f"{path}:7",
        f"{path}:9",
        str(tmp_path / "nothing.yaml"),
        str(tmp_path / "empty.yaml"),
    ]
    assert "is not valid YAML" in told[0]
    assert "is not a Kubernetes object" in told[1]


def test_problems_are_in_the_json_too() -> None:
    result = run("-", "-o", "json", stdin="a: 1\n")
    assert result.exit_code == 2
    said = json.loads(result.stdout)
    assert said["objects"] == []
    assert said["problems"] == [
        "standard input:1: is not a Kubernetes object (it has apiVersion, kind and metadata.name)"
    ]


@pytest.mark.parametrize(
    ("phase", "word", "code"), [("Up", "Current", 0), ("Down", "Failed", 1), ("Starting", "InProgress", 1)]
)
def test_a_bundles_health_checks_judge_their_kinds(tmp_path: Path, phase: str, word: str, code: int) -> None:
    result = run("-", "--bundle", write(tmp_path, BUNDLE, "bundle.yaml"), stdin=DATABASE.replace("PHASE", phase))
    assert result.exit_code == code
    assert result.stdout.splitlines()[1].split()[1] == word


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        pytest.param(BUNDLE.replace("status.phase == 'Up'", "phase == 'Up'"), "undeclared reference", id="expression"),
        pytest.param(BUNDLE.replace("current:", "curent:"), "curent is not a known field", id="field"),
        pytest.param(CONFIG, "has no Bundle", id="no bundle"),
        pytest.param("spec: [", "is not valid YAML", id="no YAML"),
    ],
)
def test_a_bundle_that_is_wrong_is_told(tmp_path: Path, bundle: str, says: str) -> None:
    path = write(tmp_path, bundle, "bundle.yaml")
    result = run("-", "--bundle", path, stdin=CONFIG)
    assert result.exit_code == 2
    assert "ConfigMap/shop/settings" in result.stdout
    assert says in result.stderr
    assert str(path) in result.stderr


def test_no_files_is_a_usage_error() -> None:
    assert run().exit_code == 2


def test_help_shows_examples() -> None:
    assert "kubectl get" in run("--help").stdout
