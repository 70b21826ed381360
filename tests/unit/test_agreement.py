"""What the files of a fleet repo say of each other: names that stand for nothing, and circles of waiting."""

from textwrap import dedent

import pytest

from hub.model import Finding, Fleet
from hub.repo import fleet

CLUSTERS = """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: us-1}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-2, labels: {region: eu}}
"""


def policy(name: str, spec: str) -> str:
    head = f"apiVersion: flotilla.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {{name: {name}}}\nspec:\n"
    return head + "".join(f"  {line}\n" for line in dedent(spec).strip().splitlines())


def bundle(rollout: str = "", **more: str) -> str:
    said = "".join(f", {field}: {value}" for field, value in more.items())
    rolls = f", rollout: {rollout}" if rollout else ""
    return (
        "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: NAME}\n"
        f"spec: {{targets: {{matchLabels: {{}}}}{rolls}{said}}}\n"
    )


def load(bundles: dict[str, str], policies: dict[str, str], clusters: str = CLUSTERS) -> Fleet:
    files = {f"bundles/{name}/bundle.yaml": text.replace("NAME", name) for name, text in bundles.items()}
    files |= {f"rollouts/{name}.yaml": policy(name, spec) for name, spec in policies.items()}
    files["clusters/all.yaml"] = clusters
    return fleet.load({path: text.encode() for path, text in files.items()})


def of_policies(found: Fleet) -> list[Finding]:
    return [each for each in found.findings if each.about.startswith("rollout policy")]


WAVES = """
    waves:
      - {name: canary, clusters: [eu-1]}
      - {name: eu, select: {matchLabels: {region: eu}}}
    """


@pytest.mark.parametrize(
    ("spec", "where", "message", "remedy"),
    [
        pytest.param(
            "waves: [{name: eu, select: {}}]\nafter: {bundle: databse}",
            "rollouts/careful.yaml:6",
            "spec.after.bundle there is no bundle 'databse'",
            "did you mean 'database'?",
            id="after of the policy",
        ),
        pytest.param(
            "waves:\n  - name: eu\n    select: {}\n    after: {bundle: nothing}",
            "rollouts/careful.yaml:8",
            "spec.waves[0].after.bundle there is no bundle 'nothing'",
            "remove it, or add the bundle",
            id="after of a wave",
        ),
        pytest.param(
            "waves:\n  - name: eu\n    select: {}\n    gates:\n      - approval: {}\n      - bundle: {name: databse}",
            "rollouts/careful.yaml:10",
            "spec.waves[0].gates[1].bundle.name there is no bundle 'databse'",
            "did you mean 'database'?",
            id="gate of a wave",
        ),
        pytest.param(
            "waves: [{name: eu, select: {}}]\ngates: [{bundle: {name: database, wave: canry}}]",
            "rollouts/careful.yaml:6",
            "spec.gates[0].bundle.wave rollouts of bundle 'database' have no wave 'canry'",
            "did you mean 'canary'?",
            id="wave",
        ),
        pytest.param(
            "waves: [{name: eu, select: {}}]\nafter: {bundle: plain, wave: canary}",
            "rollouts/careful.yaml:6",
            "spec.after.wave rollouts of bundle 'plain' have no wave 'canary'",
            "it has rest",
            id="wave of a bundle without a policy",
        ),
        pytest.param(
            "waves: [{name: eu, select: {}}]\nafter: {bundle: db}",
            "rollouts/careful.yaml:6",
            "spec.after.bundle there is no bundle 'db'",
            "it is called 'database' now",
            id="renamed",
        ),
    ],
)
def test_a_gate_that_waits_for_nothing_that_exists_is_an_error_with_line_and_remedy(
    spec: str, where: str, message: str, remedy: str
) -> None:
    bundles = {"shop": bundle("careful"), "database": bundle("waves", renamedFrom="db"), "plain": bundle()}
    found = load(bundles, {"careful": spec, "waves": WAVES})
    [finding] = of_policies(found)
    assert (finding.where, finding.message, finding.remedy) == (where, message, remedy)
    assert (finding.severity, finding.about) == ("error", "rollout policy careful")
    assert "shop" in found.broken_bundles, "it keeps what it runs"
    assert "careful" not in found.policies
    assert {"database", "plain"} <= found.bundles.keys()


@pytest.mark.parametrize(
    "after",
    [
        pytest.param("{bundle: database}", id="a bundle"),
        pytest.param("{bundle: database, wave: canary}", id="a wave"),
        pytest.param("{bundle: database, wave: rest}", id="those that no wave selects"),
        pytest.param("{bundle: broken}", id="a bundle that is not valid"),
        pytest.param("{bundle: broken, wave: eu}", id="a wave of one that is not valid"),
    ],
)
def test_a_gate_may_wait_for_what_is_there(after: str) -> None:
    bundles = {"shop": bundle("careful"), "database": bundle("waves"), "broken": bundle("nowhere")}
    found = load(bundles, {"careful": f"waves: [{{name: eu, select: {{}}}}]\nafter: {after}", "waves": WAVES})
    assert of_policies(found) == []
    assert "shop" in found.bundles


def test_what_may_be_there_is_not_called_missing() -> None:
    spec = "waves: [{name: eu, clusters: [gone]}]\nafter: {bundle: gone}"
    found = load({"shop": bundle("careful")}, {"careful": spec}, clusters="kind: Cluster\nmetadata: {name: [}\n")
    assert [each.message for each in of_policies(found)] == ["spec.after.bundle there is no bundle 'gone'"]
    hidden = fleet.load({"fleet.yaml": b"[", "rollouts/careful.yaml": policy("careful", spec).encode()})
    assert [each.severity for each in of_policies(hidden)] == ["warning"]


def test_a_cluster_of_a_wave_that_does_not_exist_is_a_warning_and_stops_nothing() -> None:
    found = load(
        {"shop": bundle("careful")}, {"careful": "waves:\n  - name: canary\n    clusters:\n      - us-1\n      - eu1\n"}
    )
    [finding] = of_policies(found)
    assert (finding.where, finding.severity) == ("rollouts/careful.yaml:9", "warning")
    assert finding.message == "spec.waves[0].clusters[1] there is no cluster 'eu1'"
    assert finding.remedy == "did you mean 'eu-1'?"
    assert "shop" in found.bundles


# --- circles ------------------------------------------------------------------------------------------------------


def after(bundle_: str, wave: str = "", *, of: str = "eu", when: str = "before") -> str:
    """Three waves, of which one waits for another bundle."""
    named = f", wave: {wave}" if wave else ""
    lines = ["waves:"]
    for name in ("canary", "eu", "us"):
        lines.append(f"  - name: {name}\n    select: {{}}")
        if name == of:
            lines.append(f"    gates: [{{when: {when}, bundle: {{name: {bundle_}{named}}}}}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("shop", "db", "circles"),
    [
        pytest.param(
            after("db"),
            after("shop"),
            {"shop": "shop/eu → db/rest → db/us → db/eu → shop/rest → shop/us → shop/eu"},
            id="each for the whole of the other",
        ),
        pytest.param(after("db", "canary"), after("shop", "canary"), {}, id="each for the others wave before it"),
        pytest.param(
            after("db", "eu"),
            after("shop", "eu"),
            {"shop": "shop/eu → db/eu → shop/eu"},
            id="each for the others wave of that name",
        ),
        pytest.param(
            after("db", "eu"),
            after("shop", "eu", when="after"),
            {"shop": "shop/eu → db/eu → shop/eu"},
            id="one after its wave",
        ),
        pytest.param(
            after("db", "canary"),
            after("shop", "eu", when="after"),
            {},
            id="a wave that is done before",
        ),
        pytest.param(
            after("shop"), after("db", "canary"), {"shop": "shop/eu → shop/rest → shop/us → shop/eu"}, id="itself"
        ),
        pytest.param(after("shop", "canary"), after("shop"), {}, id="an earlier wave of its own"),
    ],
)
def test_bundles_that_would_wait_for_each_other_for_ever_are_refused_and_the_circle_is_named(
    shop: str, db: str, circles: dict[str, str]
) -> None:
    found = load({"shop": bundle("shop"), "db": bundle("db")}, {"shop": shop, "db": db})
    told = {each.about: each for each in found.findings if "for ever" in each.message}
    named = {about.removeprefix("bundle "): each.message.rpartition(": ")[2] for about, each in told.items()}
    assert named.items() >= circles.items()
    assert ("shop" in found.broken_bundles) is bool(circles)
    assert all(each.where.startswith("bundles/") and each.severity == "error" for each in told.values())
    assert found.broken_bundles == named.keys()


def test_a_policy_that_its_own_bundle_waits_for_is_named_and_others_may_use_it() -> None:
    spec = "waves: [{name: all, select: {}}]\nafter: {bundle: platform}"
    found = load({"platform": bundle("careful"), "shop": bundle("careful")}, {"careful": spec})
    assert found.broken_bundles == {"platform"}
    [finding] = [each for each in found.findings if each.severity == "error"]
    assert finding.message.endswith("for ever: platform/all → platform/rest → platform/all")
    assert "shop" in found.bundles


@pytest.mark.parametrize(
    ("waves", "empty"),
    [
        pytest.param("[{name: eu, select: {matchLabels: {region: eu}}}]", [], id="somebody"),
        pytest.param("[{name: eu, select: {matchLabels: {regoin: eu}}}]", ["eu"], id="a mistyped label"),
        pytest.param("[{name: eu, select: {matchLabels: {regoin: eu}}, allowEmpty: true}]", [], id="meant so"),
        pytest.param("[{name: all, select: {}}, {name: eu, select: {matchLabels: {region: eu}}}]", ["eu"], id="taken"),
        pytest.param("[{name: some, select: {}, share: 1}, {name: others, select: {}}]", [], id="a share leaves some"),
        pytest.param("[{name: eu, clusters: [eu-2]}, {name: others, share: 50%}]", [], id="by name and share"),
    ],
)
def test_a_wave_that_selects_nobody_is_worth_a_warning(waves: str, empty: list[str]) -> None:
    found = of_policies(load({}, {"careful": f"waves: {waves}"}))
    assert [(each.severity, each.message.split()[1]) for each in found] == [("warning", name) for name in empty]


def test_a_freeze_that_holds_nobody_is_worth_a_warning() -> None:
    stated = (
        "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n  freezes:\n"
        '    - {name: all, from: "2026-12-20T18:00", to: "2027-01-04T06:00"}\n'
        '    - {name: eu, from: "2026-12-20T18:00", to: "2027-01-04T06:00", clusters: {matchLabels: {region: ue}}}\n'
    )
    found = fleet.load({"fleet.yaml": stated.encode(), "clusters/all.yaml": CLUSTERS.encode()})
    assert [(each.severity, each.message) for each in found.findings] == [("warning", "freeze eu matches no cluster")]
