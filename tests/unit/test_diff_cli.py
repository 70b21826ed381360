"""`flotilla diff` between revisions of a Git repository, as a person and as a build runs it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pygit2
import pytest
from click.testing import CliRunner, Result

from hub.cli import diffing, main

FLEET = {
    "clusters/all.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {tier: prod}}
spec: {variables: {domain: eu.example.org}}
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
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {host: "shop.${domain}"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - {name: web, image: "web:1", env: [{name: A, value: "1"}, {name: B, value: "2"}]}
""",
    "bundles/shop/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {key: hunter2}\n",
    "bundles/shop/motd.yaml": 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: motd}\ndata: {motd: "a\\nb\\nc\\n"}\n',
    "bundles/base/bundle.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: base}
spec: {targets: {}}
""",
    "bundles/base/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
}
WEB, SECRET = "bundles/shop/web.yaml", "bundles/shop/secret.yaml"


def commit(root: Path, files: Mapping[str, str | None], *, subject: str = "Change") -> str:
    """Write files (None removes one) and commit everything; gives the commit's id."""
    write(root, files)
    repo = pygit2.init_repository(str(root))
    repo.index.add_all()
    repo.index.write()
    person = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 0)
    parents = [] if repo.head_is_unborn else [repo.head.target]
    return str(repo.create_commit("HEAD", person, person, subject, repo.index.write_tree(), parents))


def write(root: Path, files: Mapping[str, str | None]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            (root / path).unlink()
        else:
            (root / path).write_text(text)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    commit(tmp_path, FLEET, subject="A fleet")
    return tmp_path


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def diff(fleet: Path, *args: str) -> Result:
    return run("diff", *args, "--fleet", fleet)


def test_nothing_changed_is_told_and_exits_with_zero(fleet: Path) -> None:
    result = diff(fleet)
    assert (result.exit_code, result.stdout) == (0, f"nothing differs: HEAD ({_head(fleet)}) → the working tree\n")


def _head(fleet: Path) -> str:
    return str(pygit2.Repository(str(fleet)).head.target)[:12]


def test_a_change_on_many_clusters_is_told_once_by_its_field(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    result = diff(fleet)
    assert result.exit_code == 1
    assert result.stdout == (
        "bundle shop\n"
        "~ Deployment/shop/web  on clusters eu-1, us-1\n"
        '    spec.template.spec.containers[web].image: "web:1" → "web:2"\n'
        "2 clusters, 1 bundle; objects: 0 created, 1 changed, 0 removed\n"
    )


def test_two_commits_are_compared_without_the_working_tree(fleet: Path) -> None:
    commit(fleet, {WEB: FLEET[WEB].replace("replicas: 2", "replicas: 3")})
    write(fleet, {WEB: "not: [yaml"})
    result = diff(fleet, "HEAD~1..HEAD")
    assert result.exit_code == 1
    assert "spec.replicas: 2 → 3" in result.stdout
    assert diff(fleet, "HEAD..HEAD").exit_code == 0
    assert "spec.replicas: 3 → 2" in diff(fleet, "HEAD..HEAD~1").stdout


def test_three_dots_compare_from_where_both_parted(fleet: Path) -> None:
    repo = pygit2.Repository(str(fleet))
    repo.branches.local.create("old", repo[repo.head.target].peel(pygit2.Commit))
    commit(fleet, {WEB: FLEET[WEB].replace("replicas: 2", "replicas: 3")})
    assert diff(fleet, "HEAD..old").exit_code == 1
    assert diff(fleet, "HEAD...old").exit_code == 0


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_values_of_secrets_are_never_shown(fleet: Path, form: str) -> None:
    annotated = (
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: key\n  annotations:\n"
        '    kubectl.kubernetes.io/last-applied-configuration: "hunter4"\nstringData: {key: hunter3, more: hunter5}\n'
    )
    write(fleet, {SECRET: annotated, "bundles/shop/new.yaml": annotated.replace("name: key", "name: new")})
    result = diff(fleet, "--format", form)
    assert result.exit_code == 1
    assert "Secret/shop/new" in result.stdout
    assert "data.key" in result.stdout
    for hidden in ("hunter", "aHVudGVy"):
        assert hidden not in result.output


def test_a_secret_whose_key_changed_says_so(fleet: Path) -> None:
    write(fleet, {SECRET: FLEET[SECRET].replace("hunter2", "hunter3")})
    assert 'data.key: "(hidden)" another value' in diff(fleet).stdout


def test_objects_that_come_and_go_are_shown_whole(fleet: Path) -> None:
    write(fleet, {"bundles/shop/motd.yaml": None, "bundles/base/more.yaml": FLEET["bundles/shop/motd.yaml"]})
    lines = diff(fleet).stdout.splitlines()
    assert "+ ConfigMap/default/motd  on clusters eu-1, lab, us-1" in lines
    assert "- ConfigMap/shop/motd  on clusters eu-1, us-1" in lines
    assert "    + kind: ConfigMap" in lines
    assert "    - kind: ConfigMap" in lines


def test_a_text_of_many_lines_is_compared_by_line(fleet: Path) -> None:
    write(fleet, {"bundles/shop/motd.yaml": FLEET["bundles/shop/motd.yaml"].replace("\\nb\\n", "\\nB\\n")})
    lines = diff(fleet).stdout.splitlines()
    assert "    -b" in lines
    assert "    +B" in lines


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(
            '{name: A, value: "1"}, {name: B, value: "2"}',
            '{name: B, value: "2"}, {name: A, value: "1"}',
            "env (order):",
            id="only the order of a list",
        ),
        pytest.param('value: "2"', 'value: "3"', 'containers[web].env[B].value: "2" → "3"', id="an item by its name"),
        pytest.param(
            "spec: {targets: {matchLabels", "spec: {prune: false, targets: {matchLabels", "policy", id="policy"
        ),
    ],
)
def test_what_differs_is_told(fleet: Path, before: str, after: str, told: str) -> None:
    write(fleet, {path: text.replace(before, after) for path, text in FLEET.items()})
    result = diff(fleet)
    assert result.exit_code == 1
    assert told in result.stdout


def test_a_file_that_changes_no_object_is_no_difference(fleet: Path) -> None:
    write(fleet, {"bundles/shop/README.md": "read me", WEB: f"# a comment\n{FLEET[WEB]}"})
    assert diff(fleet).exit_code == 0


def test_one_cluster_or_one_bundle_can_be_asked_for(fleet: Path) -> None:
    write(fleet, {"clusters/all.yaml": FLEET["clusters/all.yaml"].replace("eu.example.org", "eu.example.com")})
    assert diff(fleet).exit_code == 1
    assert diff(fleet, "--cluster", "us-1").exit_code == 0
    assert diff(fleet, "--bundle", "base").exit_code == 0
    asked = diff(fleet, "--cluster", "eu-1", "--bundle", "shop")
    assert asked.exit_code == 1
    assert '"shop.eu.example.org" → "shop.eu.example.com"' in asked.stdout


def test_clusters_that_come_and_go_are_named(fleet: Path) -> None:
    write(fleet, {"clusters/all.yaml": FLEET["clusters/all.yaml"].replace("name: lab", "name: den")})
    result = diff(fleet)
    assert result.exit_code == 1
    assert "+ Namespace/shop  on cluster den" in result.stdout
    assert "new in the fleet: cluster den" in result.stdout
    assert "no longer in the fleet: cluster lab; what they run stays" in result.stdout
    assert "- Namespace/shop" not in result.stdout


def test_what_does_not_render_exits_with_two_and_the_rest_is_compared(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("${domain}", "${domian}"), "bundles/base/namespace.yaml": "a: 1\n"})
    write(fleet, {"bundles/base/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: den}\n"})
    result = diff(fleet)
    assert result.exit_code == 2
    assert "+ Namespace/den" in result.stdout
    assert "Deployment" not in result.stdout
    assert (
        "the working tree: bundles/shop/web.yaml:2: error: Deployment/web: uses the variable 'domian'" in result.stderr
    )
    assert diff(fleet, "--bundle", "base").exit_code == 1


def test_a_bundle_that_is_not_valid_is_not_taken_for_removed(fleet: Path) -> None:
    write(fleet, {"bundles/shop/bundle.yaml": FLEET["bundles/shop/bundle.yaml"].replace("targets", "tragets")})
    result = diff(fleet)
    assert result.exit_code == 2
    assert "Deployment" not in result.stdout
    assert "did you mean" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["nope"], "revision 'nope' is not in the repository", id="revision"),
        pytest.param(["HEAD..nope"], "revision 'nope' is not in the repository", id="second revision"),
        pytest.param(["mastr"], "did you mean ma", id="a branch that is near"),
        pytest.param(["--cluster", "eu-2"], "cluster 'eu-2' is not in the fleet (did you mean eu-1?)", id="cluster"),
        pytest.param(["--bundle", "shpo"], "bundle 'shpo' is not in the fleet (did you mean shop?)", id="bundle"),
    ],
)
def test_what_is_not_there_exits_with_two(fleet: Path, args: list[str], message: str) -> None:
    result = diff(fleet, *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_folder_without_git_exits_with_two(tmp_path: Path) -> None:
    write(tmp_path, FLEET)
    result = diff(tmp_path)
    assert result.exit_code == 2
    assert "is not in a Git repository" in result.stderr


def test_a_fleet_in_a_folder_of_a_larger_repository_is_compared(tmp_path: Path) -> None:
    commit(tmp_path, {f"deploy/fleet/{path}": text for path, text in FLEET.items()})
    write(tmp_path / "deploy/fleet", {WEB: FLEET[WEB].replace("web:1", "web:2")})
    result = diff(tmp_path / "deploy/fleet")
    assert result.exit_code == 1
    assert '"web:1" → "web:2"' in result.stdout


def test_json_says_all_of_it(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    answer = json.loads(diff(fleet, "-o", "json").stdout)
    assert answer["equal"] is False
    assert answer["from"]["commit"].startswith(_head(fleet))
    assert answer["to"] == {"revision": "the working tree", "commit": ""}
    (change,) = answer["changes"]
    assert change["object"] == "Deployment/shop/web"
    assert change["clusters"] == ["eu-1", "us-1"]
    assert change["fields"] == [
        {"path": "spec.template.spec.containers[web].image", "before": "web:1", "after": "web:2"}
    ]


def test_markdown_has_a_table_and_folded_objects(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    result = diff(fleet, "--format", "markdown")
    assert result.exit_code == 1
    assert "| shop | 2: eu-1, us-1 | 0 | 1 | 0 |" in result.stdout
    assert "<summary>~ Deployment/shop/web on clusters eu-1, us-1</summary>" in result.stdout
    assert "```diff\nspec.template" in result.stdout


def test_markdown_stays_within_a_comment_and_counts_what_was_cut(fleet: Path) -> None:
    big = "\n---\n".join(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big-{n}}}\ndata: {{text: '{'é' * 5000}'}}"
        for n in range(30)
    )
    write(fleet, {"bundles/shop/big.yaml": big})
    result = diff(fleet, "--format", "markdown")
    assert len(result.stdout.encode()) <= 60_000
    shown = result.stdout.count("<details>")
    assert 0 < shown < 30
    assert f"**{30 - shown} of 30 changes are not shown**" in result.stdout


def test_markdown_of_hostile_text_stays_in_its_place(fleet: Path) -> None:
    write(
        fleet, {"bundles/shop/motd.yaml": FLEET["bundles/shop/motd.yaml"].replace('"a\\nb', '"```\\n</details>\\e[2J')}
    )
    result = diff(fleet, "--format", "markdown")
    assert "````diff" in result.stdout
    assert "\x1b" not in result.stdout


def test_an_object_that_differs_on_every_cluster_is_shown_a_few_times(fleet: Path) -> None:
    clusters = "\n---\n".join(
        f"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: c-{n}, labels: {{tier: prod}}}}\n"
        f"spec: {{variables: {{domain: c-{n}.example.org}}}}"
        for n in range(9)
    )
    commit(fleet, {"clusters/all.yaml": clusters})
    write(fleet, {WEB: FLEET[WEB].replace("shop.${domain}", "www.${domain}")})
    result = diff(fleet)
    assert result.stdout.count("~ Deployment/shop/web") == 3
    assert "… and 6 other changes of it on 6 clusters: see --cluster" in result.stdout
    assert diff(fleet, "--cluster", "c-8").stdout.count("c-8") == 3


def test_a_revision_is_rendered_whatever_lies_on_disk(fleet: Path) -> None:
    commit(fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    write(fleet, {WEB: "not: [yaml"})
    for revision, image in (("HEAD", "web:2"), ("HEAD~1", "web:1")):
        result = run("render", "--cluster", "eu-1", "--at", revision, "--fleet", fleet)
        assert result.exit_code == 0
        assert f"image: {image}" in result.stdout
    missing = run("render", "--cluster", "eu-1", "--at", "nope", "--fleet", fleet)
    assert missing.exit_code == 2
    assert "revision 'nope' is not in the repository" in missing.stderr


def test_help_shows_examples() -> None:
    assert "Examples:\n    flotilla diff" in run("diff", "--help").output


def test_commands_are_listed() -> None:
    assert "diff " in run("--help").output


def definition(scope: str, **properties: Mapping[str, str]) -> str:
    return f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: rooms.example.org}}
spec:
  group: example.org
  scope: {scope}
  names: {{kind: Room, plural: rooms}}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {properties}}}}}}}}}
"""


HOTEL = {
    "bundles/crds/bundle.yaml": FLEET["bundles/base/bundle.yaml"].replace("name: base", "name: crds"),
    "bundles/crds/crd.yaml": definition("Namespaced", size={"type": "integer"}),
    "bundles/shop/room.yaml": "apiVersion: example.org/v1\nkind: Room\nmetadata: {name: blue}\nspec: {size: 12}\n",
}


def test_what_another_bundles_definition_makes_of_an_object_is_compared(fleet: Path) -> None:
    commit(fleet, HOTEL)
    write(fleet, {"bundles/crds/crd.yaml": definition("Cluster", size={"type": "integer"})})
    found = json.loads(diff(fleet, "-o", "json").stdout)["changes"]
    rooms = [(one["object"], one["change"]) for one in found if one["bundle"] == "shop"]
    assert rooms == [("Room/blue", "created"), ("Room/shop/blue", "removed")]
    explained = run("explain", "Room/blue", "--cluster", "eu-1", "--fleet", fleet)
    assert (explained.exit_code, "bundles/shop/room.yaml:1" in explained.output) == (0, True)


def test_another_schema_of_a_definition_changes_nobody_elses_objects(fleet: Path) -> None:
    commit(fleet, HOTEL)
    write(fleet, {"bundles/crds/crd.yaml": definition("Namespaced", size={"type": "string"})})
    found = json.loads(diff(fleet, "-o", "json").stdout)["changes"]
    assert {one["bundle"] for one in found} == {"crds"}
    write(fleet, {"fleet.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {validation: error}\n"})
    refused = diff(fleet)
    assert refused.exit_code == 2
    assert "bundles/shop/room.yaml:4: error: Room/shop/blue: spec.size is a number, not text" in refused.stderr


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        pytest.param("HEAD~7", "revision 'HEAD~7' is not in the repository (no commit goes so far back)", id="too far"),
        pytest.param("mian", "revision 'mian' is not in the repository (did you mean main?)", id="a mistyped branch"),
        pytest.param("v1.0", "revision 'v1.0' is not in the repository (there is main)", id="nothing like it"),
    ],
)
def test_a_revision_that_is_not_there_is_told_with_what_is(fleet: Path, revision: str, message: str) -> None:
    repo = pygit2.Repository(str(fleet))
    repo.references.create("refs/heads/main", repo.head.target, force=True)
    repo.set_head("refs/heads/main")
    for name in [name for name in repo.branches.local if name != "main"]:
        repo.branches.delete(name)
    result = diff(fleet, revision)
    assert (result.exit_code, result.stderr) == (2, f"Error: {message}\n")


def test_a_repository_without_commits_says_so(tmp_path: Path) -> None:
    pygit2.init_repository(str(tmp_path))
    write(tmp_path, FLEET)
    result = diff(tmp_path)
    assert (result.exit_code, "the repository has no commit yet" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        pytest.param("a | b", "a \\| b", id="the end of a cell"),
        pytest.param("`a` <b>", "\\`a\\` &lt;b&gt;", id="code and HTML"),
        pytest.param("no\n# a heading", "no<br># a heading", id="a line of its own"),
    ],
)
def test_a_cell_of_markdown_stays_one(text: str, cell: str) -> None:
    assert diffing.escaped(text) == cell
