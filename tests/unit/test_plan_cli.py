"""`flotilla plan`: rollouts, waves and risks between two revisions, as a person and as a build runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.unit.test_diff_cli import FLEET, SECRET, WEB, commit, run, write

POLICY = """
apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  waves:
    - {name: canary, select: {matchLabels: {canary: "true"}}, soak: 10m, maxConcurrent: 1}
"""
CAREFUL = {
    "rollouts/careful.yaml": POLICY,
    "clusters/all.yaml": FLEET["clusters/all.yaml"].replace(
        "name: us-1, labels: {tier: prod}", 'name: us-1, labels: {tier: prod, canary: "true"}'
    ),
    "bundles/shop/bundle.yaml": FLEET["bundles/shop/bundle.yaml"].replace("namespace: shop", "rollout: careful"),
}
OTHER = FLEET["bundles/shop/motd.yaml"].replace("name: motd", "name: other")
CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {}\n"
MOTD, NAMESPACE = "bundles/shop/motd.yaml", "bundles/base/namespace.yaml"
BUNDLE, BASE = "bundles/shop/bundle.yaml", "bundles/base/bundle.yaml"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    commit(tmp_path, {**FLEET, **CAREFUL}, subject="A fleet")
    return tmp_path


def plan(fleet: Path, *args: str) -> Result:
    return run("plan", *args, "--fleet", fleet)


def answer(fleet: Path, *args: str) -> dict[str, Any]:
    result = plan(fleet, *args, "--format", "json")
    made: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if made["findings"] else 0), result.output
    return made


def risks_of(made: dict[str, Any]) -> list[tuple[str, str]]:
    return [(risk["risk"], risk["object"]) for risk in made["risks"]]


def test_nothing_rolls_out_when_nothing_changes(fleet: Path) -> None:
    result = plan(fleet)
    assert result.exit_code == 0
    assert result.stdout.endswith("nothing rolls out\n")


def test_waves_are_those_of_the_hub_with_counts_of_objects(fleet: Path) -> None:
    write(fleet, {MOTD: None, WEB: FLEET[WEB].replace("web:1", "web:2"), "bundles/shop/a.yaml": FLEET[MOTD] + "\n"})
    write(fleet, {"bundles/shop/a.yaml": FLEET[MOTD].replace("name: motd", "name: more")})
    made = answer(fleet)
    (rollout,) = made["rollouts"]
    assert (rollout["bundles"], rollout["policy"]) == (["shop"], "careful")
    waves = [(wave["name"], wave["clusters"], wave["objects"]["shop"]) for wave in rollout["waves"]]
    counts = {"created": 1, "changed": 1, "pruned": 1, "letGo": 0}
    assert waves == [("canary", ["us-1"], counts), ("rest", ["eu-1"], counts)]
    assert rollout["waves"][0]["soakSeconds"] == 600
    assert made["changing"] == ["eu-1", "us-1"]
    text = plan(fleet).stdout
    assert "1 canary" in text
    assert text.endswith("1 rollout on 2 of 3 clusters\n")


def test_a_plan_between_two_commits_looks_at_nothing_else(fleet: Path) -> None:
    commit(fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    write(fleet, {WEB: "not: [yaml"})
    assert [rollout["bundles"] for rollout in answer(fleet, "HEAD~1..HEAD")["rollouts"]] == [["shop"]]
    assert answer(fleet, "HEAD..HEAD")["rollouts"] == []


@pytest.mark.parametrize(
    ("files", "risk"),
    [
        pytest.param(
            {WEB: FLEET[WEB].replace("{app: web}", "{app: www}")}, ("refused", "Deployment/default/web"), id="selector"
        ),
        pytest.param({MOTD: None}, ("pruned", "ConfigMap/default/motd"), id="prune"),
        pytest.param({NAMESPACE: OTHER}, ("let go", "Namespace/shop"), id="a namespace is let go"),
        pytest.param(
            {NAMESPACE: OTHER, BASE: FLEET[BASE].replace("targets", "destructivePrune: true, targets")},
            ("destroys", "Namespace/shop"),
            id="destructive prune",
        ),
        pytest.param(
            {MOTD: None, BUNDLE: CAREFUL[BUNDLE].replace("targets", "prune: false, targets")},
            ("let go", "ConfigMap/default/motd"),
            id="prune is off",
        ),
        pytest.param(
            {"bundles/base/claim.yaml": CLAIM},
            ("wide", "PersistentVolumeClaim/default/data"),
            id="a claim",
        ),
        pytest.param(
            {SECRET: FLEET[SECRET] + "type: example.org/other\n"},
            ("refused", "Secret/default/key"),
            id="a Secret's type",
        ),
    ],
)
def test_risks_are_told(fleet: Path, files: dict[str, str | None], risk: tuple[str, str]) -> None:
    write(fleet, files)
    assert risk in risks_of(answer(fleet))
    assert f"{risk[0]}  " in plan(fleet).stdout


def test_the_worst_comes_first(fleet: Path) -> None:
    write(fleet, {MOTD: None, WEB: FLEET[WEB].replace("{app: web}", "{app: www}"), NAMESPACE: OTHER})
    assert [kind for kind, _ in risks_of(answer(fleet))] == ["refused", "pruned", "let go"]


def test_a_removed_bundle_is_a_rollout_to_absent_with_a_warning(fleet: Path) -> None:
    write(fleet, {"bundles/base/bundle.yaml": None, NAMESPACE: None})
    (rollout,) = answer(fleet)["rollouts"]
    assert rollout["bundles"] == ["base"]
    assert rollout["waves"][0]["objects"]["base"] == {"created": 0, "changed": 0, "pruned": 0, "letGo": 3}
    assert rollout["warnings"] == ["removes bundle base from 3 of the 3 clusters that run it"]


def test_a_renamed_bundle_takes_its_objects_along_and_nothing_is_pruned(fleet: Path) -> None:
    files = {path: text for path, text in FLEET.items() if path.startswith("bundles/base/")}
    renamed = {path.replace("/base/", "/ground/"): text for path, text in files.items()}
    stated = files["bundles/base/bundle.yaml"].replace("name: base", "name: ground")
    renamed["bundles/ground/bundle.yaml"] = stated.replace("spec: {", "spec: {renamedFrom: base, ")
    write(fleet, {**dict.fromkeys(files), **renamed})
    made = answer(fleet)
    (rollout,) = made["rollouts"]
    assert rollout["bundles"] == ["base", "ground"]
    assert rollout["warnings"] == ["renames bundle base to ground"]
    assert not {kind for kind, _ in risks_of(made)} & {"pruned", "let go", "refused"}
    moved = {count for objects in rollout["waves"][0]["objects"].values() for count in objects.items() if count[1]}
    assert moved == {("changed", 3)}


def test_a_wave_without_clusters_is_warned_about(fleet: Path) -> None:
    write(fleet, {"rollouts/careful.yaml": POLICY.replace('canary: "true"', 'canray: "true"')})
    write(fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    assert "shop: wave canary selects no cluster: the rollout waits" in plan(fleet).stdout


def test_an_object_that_changes_its_bundle_is_not_pruned(fleet: Path) -> None:
    write(fleet, {MOTD: None, "bundles/base/motd.yaml": FLEET[MOTD]})
    made = answer(fleet)
    (rollout,) = made["rollouts"]
    assert rollout["bundles"] == ["base", "shop"]
    assert risks_of(made) == []
    objects = [(wave["clusters"], wave["objects"]["base"], wave["objects"]["shop"]) for wave in rollout["waves"]]
    nothing = {"created": 0, "changed": 0, "pruned": 0, "letGo": 0}
    assert rollout["policy"] == "default"  # of the bundle that takes the object over
    assert objects == [(["eu-1", "lab", "us-1"], {**nothing, "created": 1, "changed": 2}, nothing)]
    assert "exchange objects and roll as one" in plan(fleet).stdout


def test_a_bundle_that_would_own_what_another_owns_is_refused_as_by_the_hub(fleet: Path) -> None:
    write(fleet, {"bundles/shop/namespace.yaml": FLEET[NAMESPACE], WEB: FLEET[WEB].replace("web:1", "web:2")})
    made = answer(fleet)
    assert made["rollouts"] == []
    (finding,) = made["findings"]
    assert "bundle shop: Namespace/shop belongs to bundle base already" in finding["message"]


def test_what_does_not_render_is_told_and_the_rest_is_planned(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("${domain}", "${domian}"), NAMESPACE: FLEET[NAMESPACE] + "# more\n"})
    write(fleet, {NAMESPACE: FLEET[NAMESPACE].replace("name: shop", "name: den")})
    result = plan(fleet)
    assert result.exit_code == 1
    assert "1 rollout on 3 of 3 clusters" in result.stdout
    assert "bundles/shop/web.yaml:2: error: Deployment/web" in result.stderr


def test_a_plan_that_mends_what_did_not_render_is_no_failure(fleet: Path) -> None:
    commit(fleet, {WEB: FLEET[WEB].replace("${domain}", "${domian}")}, subject="A slip")
    write(fleet, {WEB: FLEET[WEB]})
    result = plan(fleet)
    assert (result.exit_code, "web.yaml:2: error: Deployment/web" in result.stderr) == (0, True), result.output


def test_a_cluster_that_is_decommissioned_loses_what_it_runs(fleet: Path) -> None:
    gone = CAREFUL["clusters/all.yaml"].replace(
        "spec: {variables: {domain: lab", "spec: {decommission: prune, variables: {domain: lab"
    )
    write(fleet, {"clusters/all.yaml": gone})
    made = answer(fleet)
    assert made["changing"] == ["lab"]
    assert risks_of(made) == [("let go", "Namespace/shop")]


def test_a_cluster_that_leaves_or_joins_is_named(fleet: Path) -> None:
    write(fleet, {"clusters/all.yaml": CAREFUL["clusters/all.yaml"].replace("name: lab", "name: den")})
    made = answer(fleet)
    assert (made["joined"], made["left"], made["changing"]) == (["den"], ["lab"], ["den"])
    assert "no longer in the fleet: cluster lab; what they run stays" in plan(fleet).stdout


def test_values_of_secrets_are_never_shown(fleet: Path) -> None:
    write(fleet, {SECRET: FLEET[SECRET].replace("hunter2", "hunter3") + "immutable: true\n"})
    for form in ("text", "json", "markdown"):
        assert "hunter" not in plan(fleet, "--format", form).output


def test_markdown_has_tables_of_risks_and_waves(fleet: Path) -> None:
    write(fleet, {WEB: FLEET[WEB].replace("{app: web}", "{app: www}")})
    result = plan(fleet, "--format", "markdown")
    assert (
        "| refused | Deployment/default/web | shop | canary, rest | 2 | spec.selector cannot be changed |"
        in result.stdout
    )
    assert "| shop | careful | 1 canary | 1 | 0 | 1 | 0 | 0 | us-1 |" in result.stdout


GATED = POLICY.replace(
    "soak: 10m, maxConcurrent: 1}",
    "soak: 10m, maxConcurrent: 1, gates: [{http: {url: 'http://web', for: 5m}, when: after}]}\n"
    "    - {name: eu, clusters: [eu-1], maxUnavailable: 1, gates: [{approval: {approvers: 2}, timeout: 1d}]}",
).replace("timeout: 1d", "timeout: 24h")


def waves_of(fleet: Path, *args: str) -> list[dict[str, Any]]:
    (rollout,) = answer(fleet, *args)["rollouts"]
    found: list[dict[str, Any]] = rollout["waves"]
    return found


def test_gates_soaks_and_limits_of_each_wave_are_told_with_the_earliest_moment(fleet: Path) -> None:
    write(fleet, {"rollouts/careful.yaml": GATED, WEB: FLEET[WEB].replace("web:1", "web:2")})
    canary, eu = waves_of(fleet)
    assert (canary["earliestSeconds"], eu["earliestSeconds"]) == (0, 900)
    assert canary["gates"] == [{"name": "http", "when": "after", "wants": "http://web has to answer 200"}]
    assert eu["waitsFor"] == ["gate approval: needs the word of 2 people, within 1d"]
    assert (eu["maxUnavailable"], canary["soakSeconds"]) == (1, 600)
    text = plan(fleet).stdout
    assert "shop     1 canary  at once    soak 10m" in text
    assert "then gate http: http://web has to answer 200" in text
    assert "shop     2 eu      after 15m  at most 1 unavailable  gate approval: needs the word of 2 people" in text
    assert "| shop | 2 eu | after 15m |" in plan(fleet, "--format", "markdown").stdout


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        pytest.param("2026-01-06T12:00", 0, id="open"),
        pytest.param("2026-01-09T22:00", 58 * 3600, id="shut over the weekend"),
        pytest.param("2026-01-12T07:55", 300, id="five minutes before"),
    ],
)
def test_a_window_that_is_shut_puts_the_first_wave_off(fleet: Path, at: str, seconds: float) -> None:
    policy = POLICY + '  windows: [{deny: "Fri 16:00-Mon 08:00 UTC"}]\n'
    write(fleet, {"rollouts/careful.yaml": policy, WEB: FLEET[WEB].replace("web:1", "web:2")})
    canary, rest = waves_of(fleet, "--at", at)
    assert (canary["earliestSeconds"], rest["earliestSeconds"]) == (seconds, seconds + 600)
    assert canary["waitsFor"] == ["no moves Fri 16:00-Mon 08:00 UTC"]


def test_a_window_that_never_opens_is_told(fleet: Path) -> None:
    policy = POLICY + '  windows: [{deny: "00:00-24:00 UTC"}]\n'
    write(fleet, {"rollouts/careful.yaml": policy, WEB: FLEET[WEB].replace("web:1", "web:2")})
    assert [wave["earliestSeconds"] for wave in waves_of(fleet)] == [None, None]
    assert "shop     1 canary  never" in plan(fleet).stdout


def test_freezes_and_held_clusters_are_told_at_their_time(fleet: Path) -> None:
    freeze = (
        "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nmetadata: {name: fleet}\nspec:\n  freezes:\n"
        "    - {name: sale, from: 2026-12-20T00:00, to: 2026-12-27T00:00, clusters: {matchLabels: {canary: 'true'}}}\n"
        "    - {name: gala, from: 2026-12-31T00:00, to: 2027-01-01T00:00}\n"
    )
    write(fleet, {"fleet.yaml": freeze, WEB: FLEET[WEB].replace("web:1", "web:2")})
    canary, _ = waves_of(fleet, "--at", "2026-12-26")
    assert canary["held"] == {"us-1": "frozen by sale"}
    assert canary["earliestSeconds"] == 24 * 3600
    assert canary["waitsFor"] == ["1 held now: us-1 (frozen by sale)"]
    canary, rest = waves_of(fleet, "--at", "2026-12-31T18:00+00:00")
    assert (canary["waitsFor"], canary["held"], canary["earliestSeconds"]) == (["frozen by gala"], {}, 6 * 3600)
    assert rest["earliestSeconds"] == 6 * 3600 + 600
    assert waves_of(fleet, "--at", "2026-12-01")[0]["waitsFor"] == []


def test_a_removal_from_much_of_the_fleet_shows_the_gate_that_it_gets(fleet: Path) -> None:
    more = "".join(
        f"---\napiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: x-{n}, labels: {{}}}}\n"
        for n in range(4)
    )
    commit(fleet, {"clusters/more.yaml": more})
    write(fleet, {"bundles/base/bundle.yaml": None, NAMESPACE: None})
    (wave,) = waves_of(fleet)
    assert wave["gates"] == [{"name": "removal", "when": "before", "wants": "needs the word of a person"}]


def test_verbose_names_every_cluster(fleet: Path) -> None:
    names = [f"x-{n}" for n in range(7)]
    more = "".join(
        f"---\napiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {name}}}\n"
        "spec: {variables: {domain: x}}\n"
        for name in names
    )
    commit(fleet, {"clusters/more.yaml": more})
    write(fleet, {NAMESPACE: FLEET[NAMESPACE].replace("name: shop", "name: den")})
    assert "eu-1, lab, us-1, x-0, x-1, … 5 more" in plan(fleet).stdout
    assert f"base, wave rest: eu-1, lab, us-1, {', '.join(names)}\n" in plan(fleet, "--verbose").stdout


def test_a_time_that_is_none_is_refused(fleet: Path) -> None:
    result = plan(fleet, "--at", "christmas")
    assert result.exit_code == 2
    assert "--at 'christmas': write such as" in result.stderr


def test_a_revision_that_is_not_there_is_named(fleet: Path) -> None:
    result = plan(fleet, "nope")
    assert result.exit_code == 2
    assert "revision 'nope' is not in the repository" in result.stderr


def test_help_shows_examples() -> None:
    assert "Examples:\n    flotilla plan" in run("plan", "--help").output
