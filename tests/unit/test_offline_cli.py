"""`flotilla render` and `flotilla check` on a checkout, as a person runs them."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli import main, offline
from hub.repo import reading, sources, yaml_reader
from proto.ids import Oid

FLEET = {
    "clusters/all.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {tier: prod}}
spec: {kubernetes: "1.36", variables: {domain: eu.example.org}}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: us-1, labels: {tier: prod}}
spec: {variables: {domain: us.example.org}}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: lab, labels: {tier: lab}}
spec: {variables: {domain: lab.example.org}}
""",
    "bundles/shop/bundle.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {targets: {matchLabels: {tier: prod}}, namespace: shop}
""",
    "bundles/shop/web.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: web, labels: {app: web}}
data: {host: "shop.${domain}", answer: "yes"}
""",
    "bundles/base/bundle.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: base}
spec: {targets: {}}
""",
    "bundles/base/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
}
SECOND_OWNER = {
    "bundles/other/bundle.yaml": FLEET["bundles/shop/bundle.yaml"].replace("name: shop", "name: other"),
    "bundles/other/web.yaml": FLEET["bundles/shop/web.yaml"],
}
BROKEN = {"bundles/shop/web.yaml": FLEET["bundles/shop/web.yaml"].replace("${domain}", "${domian}")}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return written(tmp_path / "fleet", FLEET)


def written(root: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_check_passes_a_good_fleet_in_one_line(fleet: Path) -> None:
    result = run("check", "--fleet", fleet)
    assert (result.exit_code, result.stdout) == (0, "3 clusters, 2 bundles, 0 errors\n")


def test_check_names_file_line_object_remedy_and_clusters(fleet: Path) -> None:
    written(fleet, BROKEN)
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 1
    first, summary = result.stdout.splitlines()[0], result.stdout.splitlines()[-1]
    assert first.startswith(
        "bundles/shop/web.yaml:2: error: ConfigMap/web: uses the variable 'domian', which is not defined"
    )
    assert "did you mean domain" in first
    assert "[clusters eu-1, us-1]" in first
    assert summary == "3 clusters, 2 bundles, 1 error"


def test_what_is_found_writes_nothing_to_a_terminal_and_begins_no_line(fleet: Path) -> None:
    named = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a\x1b[31m\n::error::\u202eb"}})
    written(fleet, {"bundles/base/a.json": named})
    result = CliRunner().invoke(main, ["check", "--fleet", str(fleet)], color=True)
    assert result.exit_code == 1
    assert "ConfigMap/a\\x1b[31m\n  ::error::\\x202eb: has the name" in result.stdout


def test_check_finds_two_owners_of_one_object(fleet: Path) -> None:
    written(fleet, SECOND_OWNER)
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 1
    assert "error: ConfigMap/shop/web is in bundle other too, on clusters eu-1, us-1 (remove it" in result.stdout
    assert result.stdout.endswith("3 clusters, 3 bundles, 1 error\n")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"clusters/bad.yaml": "a: [b"}, "clusters/bad.yaml:", id="broken YAML"),
        pytest.param(
            {"clusters/bad.yaml": FLEET["clusters/all.yaml"].replace("eu-1", "x-1").replace("labels", "lables")},
            "clusters/bad.yaml:",
            id="an unknown field",
        ),
        pytest.param({"bundles/shop/kustomization.yaml": "resources: [none.yaml]"}, "none.yaml", id="a missing file"),
    ],
)
def test_check_finds_what_the_hub_would_refuse(fleet: Path, files: Mapping[str, str], message: str) -> None:
    result = run("check", "--fleet", written(fleet, files))
    assert result.exit_code == 1
    assert message in result.stdout


def test_check_says_all_of_it_as_json(fleet: Path) -> None:
    written(fleet, SECOND_OWNER)
    result = run("check", "--fleet", fleet, "-o", "json")
    assert run("check", "--fleet", fleet, "--json").stdout == result.stdout
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["clusters"], answer["bundles"], answer["errors"], answer["warnings"]) == (3, 3, 1, 0)
    (finding,) = answer["findings"]
    assert finding["severity"] == "error"
    assert finding["about"] == "bundle shop"
    assert finding["where"].startswith("bundles/shop/bundle.yaml")


def test_a_warning_is_no_error(fleet: Path) -> None:
    written(fleet, {"bundles/base/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, uid: '1'}\n"})
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 0
    assert "warning: " in result.stdout
    assert result.stdout.endswith("0 errors, 1 warning\n")


def test_a_link_out_of_a_bundle_stops_only_that_bundle(fleet: Path) -> None:
    (fleet / "bundles/shop/secret.yaml").symlink_to("/etc/passwd")
    result = run("render", "--cluster", "eu-1", "--fleet", fleet)
    assert result.exit_code == 1
    assert "bundles/shop/secret.yaml" in result.stderr
    assert "kind: Namespace" in result.stdout


def test_an_inner_git_repository_is_named_and_the_rest_is_checked(fleet: Path) -> None:
    written(fleet, {"bundles/shop/lib/.git/config": "[core]"})
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 1
    assert "bundles/shop/lib: error: is a Git submodule, or a repository of its own" in result.stdout


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_checked(fleet: Path) -> None:
    (fleet / "bundles/shop/bundle.yaml").unlink()
    (fleet / "bundles/shop/bundle.yaml").symlink_to("../base/bundle.yaml")
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 1
    assert result.stdout.startswith("bundles/shop/bundle.yaml: error: is a symbolic link (replace it by what it links")
    assert result.stdout.endswith("3 clusters, 2 bundles, 1 error\n")
    rest = run("render", "--cluster", "eu-1", "--bundle", "base", "--fleet", fleet)
    assert (rest.exit_code, "kind: Namespace" in rest.stdout) == (0, True)


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_checked(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree_id = sources.FolderTree.tree_id

    def refuse(tree: sources.FolderTree, folder: str) -> Oid:
        if folder == "bundles/shop":
            raise PermissionError(13, "Permission denied", folder)
        return tree_id(tree, folder)

    monkeypatch.setattr(sources.FolderTree, "tree_id", refuse)
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 1
    assert result.stdout.startswith("bundles/shop: error: cannot be read: [Errno 13]")


def test_render_prints_the_objects_of_one_cluster_for_people(fleet: Path) -> None:
    result = run("render", "--cluster", "eu-1", "--fleet", fleet)
    assert result.exit_code == 0
    assert result.stdout == (
        "# bundle base\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n"
        "# bundle shop\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\n  namespace: shop\n"
        '  labels:\n    app: web\ndata:\n  answer: "yes"\n  host: shop.eu.example.org\n'
    )
    assert len(yaml_reader.documents(result.stdout.encode(), where="shown")) == 2


def test_render_of_one_bundle_as_a_json_list(fleet: Path) -> None:
    result = run("render", "--cluster", "us-1", "--bundle", "shop", "--output", "json", "--fleet", fleet)
    answer = json.loads(result.stdout)
    assert answer["kind"] == "List"
    assert [item["data"]["host"] for item in answer["items"]] == ["shop.us.example.org"]


def test_a_chart_gets_what_the_cluster_is_called_and_labelled_as_values(fleet: Path) -> None:
    values = "{name: '${cluster.name}', tier: '${cluster.labels.tier}', host: '${domain}'}"
    written(
        fleet,
        {
            "bundles/chart/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: chart}\n"
            f"spec: {{targets: {{}}, helm: {{values: {values}}}}}\n",
            "bundles/chart/Chart.yaml": "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
            "bundles/chart/templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
            "data: {{- toYaml .Values | nindent 2 }}\n",
        },
    )
    result = run("render", "--cluster", "us-1", "--bundle", "chart", "--output", "json", "--fleet", fleet)
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["items"]
    assert found["data"] == {"name": "us-1", "tier": "prod", "host": "us.example.org"}


def test_render_shows_the_exact_slice(fleet: Path) -> None:
    result = run("render", "--cluster", "eu-1", "--bundle", "shop", "--slice", "--fleet", fleet)
    answer = json.loads(result.stdout)
    assert list(answer) == ["bundles/shop/bundle.json", "bundles/shop/shop/ConfigMap/web.json"]
    assert answer["bundles/shop/shop/ConfigMap/web.json"]["metadata"]["labels"]["flotilla.dev/bundle"] == "shop"
    assert answer["bundles/shop/bundle.json"]["name"] == "shop"


def test_render_writes_a_folder_once(fleet: Path, tmp_path: Path) -> None:
    arguments = ("render", "--cluster", "eu-1", "--fleet", fleet, "--output", f"{tmp_path}/out/")
    assert run(*arguments).exit_code == 0
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.yaml"))
    assert files == ["base/_cluster/Namespace/shop.yaml", "shop/shop/ConfigMap/web.yaml"]
    again = run(*arguments)
    assert again.exit_code == 2
    assert "new or empty folder" in again.stderr


def test_render_goes_on_with_the_bundles_that_are_good(fleet: Path) -> None:
    written(fleet, BROKEN)
    result = run("render", "--cluster", "eu-1", "--fleet", fleet)
    assert result.exit_code == 1
    assert "kind: Namespace" in result.stdout
    assert "bundles/shop/web.yaml:2: error: ConfigMap/web" in result.stderr
    assert run("render", "--cluster", "lab", "--fleet", fleet).exit_code == 0
    assert run("render", "--cluster", "eu-1", "--bundle", "base", "--fleet", fleet).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--cluster", "eu-2"], "cluster 'eu-2' is not in the fleet (did you mean eu-1?)", id="cluster"),
        pytest.param(
            ["--cluster", "eu-1", "--bundle", "shpo"],
            "bundle 'shpo' is not in the fleet (did you mean shop?)",
            id="bundle",
        ),
        pytest.param(["--cluster", "lab", "--bundle", "shop"], "bundle shop does not target cluster lab", id="target"),
        pytest.param(["--cluster", "lab", "--output", "xml"], "give yaml, json, or a new", id="output"),
    ],
)
def test_what_is_not_there_is_named(fleet: Path, arguments: list[str], message: str) -> None:
    result = run("render", "--fleet", fleet, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr
    assert result.stdout == ""


def test_a_broken_cluster_says_what_is_wrong_with_it(fleet: Path) -> None:
    written(
        fleet, {"clusters/bad.yaml": FLEET["clusters/all.yaml"].split("---")[0].replace("eu-1, labels", "bad, lables")}
    )
    result = run("render", "--cluster", "bad", "--fleet", fleet)
    assert result.exit_code == 1
    assert "clusters/bad.yaml:" in result.stderr
    assert run("render", "--cluster", "eu-1", "--fleet", fleet).exit_code == 0


def test_a_folder_that_is_no_fleet_repo_is_told(tmp_path: Path) -> None:
    for command in (["check"], ["render", "--cluster", "x"]):
        result = run(*command, "--fleet", tmp_path)
        assert result.exit_code == 1
        assert "is it a fleet repo?" in result.stderr


def test_a_folder_that_is_no_fleet_repo_is_told_before_all_that_is_below_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read", lambda tree: pytest.fail("somebody's home folder was read"))
    assert "is it a fleet repo?" in run("check", "--fleet", tmp_path).stderr


def test_findings_come_by_file_and_line(fleet: Path) -> None:
    (fleet / "clusters/wrong.yaml").write_text("kind: Clster" + "\n" * 8 + "---\nkind: Clster\n")
    found = run("check", "--fleet", fleet).stdout.splitlines()
    places = [line.partition(": ")[0] for line in found if line.startswith("clusters/wrong.yaml:")]
    assert list(dict.fromkeys(places)) == ["clusters/wrong.yaml:1", "clusters/wrong.yaml:10"]


@pytest.mark.parametrize("command", ["check", "render"])
def test_help_shows_examples(command: str) -> None:
    assert f"Examples:\n    flotilla {command}" in run(command, "--help").output


@pytest.mark.parametrize(
    "text",
    [
        "y",
        "No",
        "1e3",
        "0o17",
        "12:30",
        "~",
        "",
        " a",
        "a ",
        "a: b",
        "a #b",
        "- a",
        "{a}",
        "null",
        "2020-01-01",
        "é",
        "a\nb",
        "\n a",
    ],
)
def test_texts_are_printed_so_that_they_stay_texts(text: str) -> None:
    (document,) = yaml_reader.documents(offline.to_yaml({"kind": text, "data": {text: text}}).encode(), where="x")
    assert document.value == {"kind": text, "data": {text: text}}


def test_values_of_secrets_are_printed_only_when_asked_for(fleet: Path, tmp_path: Path) -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\ndata: {password: aHVudGVyMg==}\n"
    written(fleet, {"bundles/shop/db.yaml": secret})
    for form in (["--output", "yaml"], ["--output", "json"], ["--slice"]):
        result = run("render", "--fleet", fleet, "--cluster", "eu-1", *form)
        assert "(hidden)" in result.stdout
        assert "aHVudGVyMg" not in result.output
        assert "aHVudGVyMg==" in run("render", "--fleet", fleet, "--cluster", "eu-1", "--show-secrets", *form).stdout
    run("render", "--fleet", fleet, "--cluster", "eu-1", "--output", f"{tmp_path}/out/")
    assert "aHVudGVyMg==" in (tmp_path / "out/shop/shop/Secret/db.yaml").read_text()


HOTEL = {
    "bundles/crds/bundle.yaml": FLEET["bundles/base/bundle.yaml"].replace("name: base", "name: crds"),
    "bundles/crds/crd.yaml": """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rooms.example.org}
spec:
  group: example.org
  scope: Cluster
  names: {kind: Room, plural: rooms}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
""",
    "bundles/shop/room.yaml": "apiVersion: example.org/v1\nkind: Room\nmetadata: {name: blue}\nspec: {sise: 12}\n",
}


def test_a_custom_kind_is_told_by_the_definition_of_another_bundle(fleet: Path) -> None:
    written(fleet, HOTEL)
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 0
    assert "bundles/shop/room.yaml:4: warning: Room/blue: spec.sise is not a known field (did you" in result.output
    for options in ((), ("--bundle", "shop")):
        printed = run("render", "--cluster", "eu-1", "--output", "json", "--fleet", fleet, *options).stdout
        (room,) = [item for item in json.loads(printed)["items"] if item["kind"] == "Room"]
        assert room["metadata"] == {"name": "blue"}


def test_what_does_not_fit_the_definition_of_another_bundle_stops_the_bundle_where_the_fleet_says_so(
    fleet: Path,
) -> None:
    strict = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {validation: error}\n"
    written(fleet, {**HOTEL, "fleet.yaml": strict})
    result = run("check", "--fleet", fleet)
    assert result.exit_code == 1
    assert "bundles/shop/room.yaml:4: error: Room/blue: spec.sise is not a known field" in result.output
    made = run("render", "--cluster", "eu-1", "--fleet", fleet)
    assert (made.exit_code, "kind: Namespace" in made.stdout, "kind: ConfigMap" in made.stdout) == (1, True, False)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        pytest.param({}, True, id="a terminal"),
        pytest.param({"NO_COLOR": "1"}, False, id="NO_COLOR"),
        pytest.param({"NO_COLOR": ""}, True, id="an empty NO_COLOR"),
    ],
)
def test_colours_are_off_where_somebody_says_so(fleet: Path, environment: Mapping[str, str], coloured: bool) -> None:
    written(fleet, BROKEN)
    result = CliRunner(env={"NO_COLOR": None, **environment}).invoke(main, ["check", "--fleet", str(fleet)], color=True)
    assert (result.exit_code, "error:" in result.output, "\x1b[" in result.output) == (1, True, coloured)


KUSTOMIZED = {
    "bundles/shop/web.yaml": "# the shop\n"
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {porst: []}\n---\n"
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {host: '${host}'}\n",
    "bundles/shop/kustomization.yaml": "resources: [web.yaml]\nnamePrefix: a-\n"
    "secretGenerator: [{name: key, literals: [a=b]}]\n",
}


def test_an_object_that_kustomize_built_is_told_at_its_own_file_and_line(fleet: Path) -> None:
    result = run("check", "--fleet", written(fleet, KUSTOMIZED))
    assert result.exit_code == 1
    assert "bundles/shop/web.yaml:7: error: ConfigMap/a-web: uses the variable 'host'" in result.output
    whole = KUSTOMIZED["bundles/shop/web.yaml"].replace("${host}", "x")
    warned = run("check", "--fleet", written(fleet, {"bundles/shop/web.yaml": whole}))
    assert warned.exit_code == 0
    assert "bundles/shop/web.yaml:2: warning: Service/shop/a-web: spec.porst is not a known field" in warned.output
    assert "bundles/shop/kustomization.yaml: warning: Secret/shop/a-key-" in warned.output
