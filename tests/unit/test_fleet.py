import re
from pathlib import Path
from typing import Any

import pytest

from hub.model import Amount, Checks, FailurePolicy, Finding, Fleet, HelmOptions, Patch, Publish, Requirement, Selector
from hub.noteworthy import Receiver
from hub.repo import fleet, places
from proto.errors import InvalidInput
from proto.slices import BundlePolicy, DriftPolicy, HealthCheck, IgnoreRule

EU = """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {tier: prod, region: eu}}
spec: {kubernetes: "1.36", variables: {domain: eu.example.org, replicas: 3}}
"""
SHOP = """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  targets: {matchLabels: {tier: prod}}
"""
CAREFUL = """
apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec: {}
"""
FLEET = """
apiVersion: flotilla.dev/v1alpha1
kind: Fleet
spec: {variables: {domain: example.org}}
"""
PATHS = {"cluster": "clusters/eu.yaml", "bundle": "bundles/shop/bundle.yaml", "policy": "rollouts/careful.yaml"}


def load(**texts: str) -> Fleet:
    """Of `cluster`, `bundle`, `policy` and `fleet` texts in their places."""
    paths = {**PATHS, "fleet": "fleet.yaml"}
    return fleet.load({paths[name]: text.encode() for name, text in texts.items()})


def with_spec(text: str, spec: str) -> str:
    """`text` with another spec, given as lines of flow or block YAML."""
    return text[: text.index("spec:")] + "spec:\n" + "".join(f"  {line}\n" for line in spec.splitlines())


def bundle(name: str, *, depends_on: str = "[]", rollout: str = "") -> str:
    text = SHOP.replace("shop", name) + f"  dependsOn: {depends_on}\n"
    return text + (f"  rollout: {rollout}\n" if rollout else "")


def errors(found: Fleet) -> list[Finding]:
    return [finding for finding in found.findings if finding.severity == "error"]


def only_error(found: Fleet) -> Finding:
    assert len(errors(found)) == 1, [str(finding) for finding in found.findings]
    return errors(found)[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fleet.yaml", True),
        ("fleet.yml", True),
        ("clusters/eu.yaml", True),
        ("clusters/eu/one.yml", True),
        ("rollouts/careful.yaml", True),
        ("bundles/shop/bundle.yaml", True),
        ("bundles/shop/deploy.yaml", False),
        ("bundles/shop/base/bundle.yaml", True),
        ("bundles/bundle.yaml", True),
        ("bundles/shop/", True),
        ("bundles/shop/base/", True),  # it may be a tenant's bundle
        ("clusters/eu/west/", True),
        ("docs/", False),
        ("clusters/README.md", False),
        ("clusters/.yaml", False),
        ("other/fleet.yaml", False),
        ("README.md", False),
    ],
)
def test_fleet_files_are_known_by_their_path(path: str, expected: bool) -> None:
    assert places.is_fleet_file(path) is expected


def test_a_whole_fleet_repo_is_read() -> None:
    found = fleet.load(
        {
            "fleet.yaml": FLEET.encode(),
            "clusters/all.yaml": (
                EU + "---" + EU.replace("eu", "us").replace("spec: {", "spec: {decommission: detach, ")
            ).encode(),
            "bundles/shop/bundle.yaml": b"""
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  targets:
    matchLabels: {tier: prod}
    matchExpressions: [{key: region, operator: In, values: [eu, us]}, {key: old, operator: DoesNotExist}]
  source: {path: ./base/}
  namespace: shop
  variants:
    - when: {matchLabels: {region: eu}}
      kustomize: {path: overlays/eu}
      variables: {currency: EUR}
    - when: {}
      helm: {values: {a: 1}, valuesFiles: [values/eu.yaml], releaseName: shop-eu}
  variables: {debug: false}
  dependsOn: [cert-manager]
  rollout: careful
  drift:
    mode: report
    additions: revert
    ignore:
      - {kind: Deployment, paths: [/spec/replicas]}
      - {labels: {app.kubernetes.io/part-of: mesh}, paths: [/metadata/annotations/mesh.io~1hash]}
  serviceAccount: deployer
  allowEmpty: true
  healthChecks:
    - apiVersion: example.org/v1
      kind: Database
      current: object.status.phase == "Ready"
      inProgress: object.status.phase == "Creating"
      failed: object.status.phase == "Broken"
  prune: false
  destructivePrune: true
  adopt: always
  timeout: 1h30m
""",
            "bundles/cert-manager/bundle.yaml": bundle("cert-manager").encode(),
            "bundles/cert-manager/deploy.yaml": b"not: [read",
            "rollouts/all.yaml": b"""
apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  waves:
    - {name: canary, select: {matchLabels: {canary: "true"}}, maxConcurrent: 1, soak: 10m, allowEmpty: true,
       minProof: 1}
    - {name: eu, select: {matchLabels: {region: eu}}, maxConcurrent: 25%, offlineBudget: 5%}
  failure: {budget: 10%, deadline: 90s, action: pause}
  offline: {after: 5m, budget: 10%}
  supersede: replace
""",
        }
    )
    assert found.findings == ()
    assert found.variables == {"domain": "example.org"}
    eu = found.clusters[next(name for name in found.clusters if name == "eu-1")]
    assert (eu.labels, eu.kubernetes, eu.variables, eu.decommission, eu.where) == (
        {"tier": "prod", "region": "eu"},
        "1.36",
        {"domain": "eu.example.org", "replicas": 3},
        "",
        "clusters/all.yaml:2",
    )
    assert [(c.name, c.decommission, c.where) for c in found.clusters.values()][1:] == [
        ("us-1", "detach", "clusters/all.yaml:7")
    ]
    shop = next(b for b in found.bundles.values() if b.name == "shop")
    assert (shop.folder, shop.source, shop.namespace, shop.rollout) == ("bundles/shop", "base", "shop", "careful")
    assert shop.targets == Selector(
        match_labels={"tier": "prod"},
        match_expressions=(
            Requirement(key="region", operator="In", values=frozenset({"eu", "us"})),
            Requirement(key="old", operator="DoesNotExist"),
        ),
    )
    assert shop.variables == {"debug": False}
    assert [(v.when, v.kustomize, v.helm, v.variables) for v in shop.variants] == [
        (Selector(match_labels={"region": "eu"}), "overlays/eu", None, {"currency": "EUR"}),
        (Selector(), None, HelmOptions(values={"a": 1}, values_files=("values/eu.yaml",), release="shop-eu"), {}),
    ]
    assert shop.depends_on == ("cert-manager",)
    assert shop.policy == BundlePolicy(
        name="shop",
        drift=DriftPolicy(
            mode="report",
            additions="revert",
            ignore=(
                IgnoreRule(kind="Deployment", paths=("/spec/replicas",)),
                IgnoreRule(
                    labels={"app.kubernetes.io/part-of": "mesh"}, paths=("/metadata/annotations/mesh.io~1hash",)
                ),
            ),
        ),
        prune=False,
        destructive_prune=True,
        adopt="always",
        depends_on=("cert-manager",),
        service_account="shop/deployer",
        timeout_s=5400.0,
        allow_empty=True,
        health_checks=(
            HealthCheck(
                api_version="example.org/v1",
                kind="Database",
                current='object.status.phase == "Ready"',
                in_progress='object.status.phase == "Creating"',
                failed='object.status.phase == "Broken"',
            ),
        ),
    )
    policy = found.policies["careful"]
    assert [
        (w.name, w.max_concurrent, w.soak_s, w.allow_empty, w.min_proof, w.offline_budget) for w in policy.waves
    ] == [
        ("canary", Amount(value=1), 600.0, True, Amount(value=1), None),
        (
            "eu",
            Amount(value=25, percent=True),
            0.0,
            False,
            Amount(value=50, percent=True),
            Amount(value=5, percent=True),
        ),
    ]
    assert policy.failure == FailurePolicy(budget=Amount(value=10, percent=True), deadline_s=90.0, action="pause")
    assert (policy.offline_after_s, policy.offline_budget, policy.supersede) == (
        300.0,
        Amount(value=10, percent=True),
        "replace",
    )


def test_a_bundle_with_targets_only_has_the_defaults() -> None:
    found = load(cluster=EU, bundle=SHOP)
    (shop,) = found.bundles.values()
    assert found.findings == ()
    assert (shop.source, shop.namespace, shop.variants, shop.helm, shop.rollout) == ("", "", (), None, "")
    assert shop.policy == BundlePolicy(name="shop")


@pytest.mark.parametrize(
    ("spec", "account"),
    [
        pytest.param("namespace: shop\nserviceAccount: deployer", "shop/deployer", id="in the bundle's namespace"),
        pytest.param("serviceAccount: tenants/team-a.deployer", "tenants/team-a.deployer", id="in another"),
        pytest.param("namespace: shop\nserviceAccount: tenants/deployer", "tenants/deployer", id="another wins"),
    ],
)
def test_a_service_account_is_in_a_namespace(spec: str, account: str) -> None:
    found = load(bundle=with_spec(SHOP, f"targets: {{}}\n{spec}"))
    assert [str(finding) for finding in found.findings if finding.severity == "error"] == []
    assert [made.policy.service_account for made in found.bundles.values()] == [account]


def test_an_empty_repo_is_an_empty_fleet() -> None:
    assert fleet.load({"README.md": b"# hello"}) == Fleet()


UNKNOWN_FIELDS = [
    pytest.param("bundle", SHOP + "  namespce: shop\n", 7, "spec.namespce", "'namespace'", id="in a Bundle"),
    pytest.param("bundle", SHOP + "  drift:\n    Mode: report\n", 8, "spec.drift.Mode", "'mode'", id="deeper"),
    pytest.param(
        "bundle",
        SHOP.replace("matchLabels", "matchlabels"),
        6,
        "spec.targets.matchlabels",
        "'matchLabels'",
        id="in a selector",
    ),
    pytest.param("cluster", EU.replace("variables", "vars"), 5, "spec.vars", "'variables'", id="in a Cluster"),
    pytest.param("cluster", EU + "status: {}\n", 6, "status", "known are:", id="beside spec"),
    pytest.param(
        "policy",
        with_spec(CAREFUL, "waves:\n- name: a\n  select: {}\n- name: b\n  select: {}\n  maxConcurent: 1\n"),
        11,
        "spec.waves[1].maxConcurent",
        "'maxConcurrent'",
        id="in the second wave",
    ),
]


@pytest.mark.parametrize(("kind", "text", "line", "field", "remedy"), UNKNOWN_FIELDS)
def test_an_unknown_field_is_an_error_with_line_and_nearest_name(
    kind: str, text: str, line: int, field: str, remedy: str
) -> None:
    finding = only_error(load(**{kind: text}))
    assert finding.where == f"{PATHS[kind]}:{line}"
    assert finding.message == f"{field} is not a known field"
    assert remedy in finding.remedy


NOT_YET: list[Any] = [
    *[
        pytest.param("bundle", SHOP + f"  {text}\n", field, id=field)
        for text, field in [
            ("signature: x", "spec.signature"),
            ("tenant: x", "spec.tenant"),
        ]
    ],
    pytest.param("policy", with_spec(CAREFUL, "freezes: []"), "spec.freezes", id="freezes"),
    pytest.param("fleet", FLEET.replace("{var", "{defaults: {}, var"), "spec.defaults", id="defaults"),
]


@pytest.mark.parametrize(
    ("start", "end", "zone", "hours"),
    [
        pytest.param(
            "2026-10-25T01:30", "2026-10-25T02:30", "Europe/Berlin", 2, id="it ends in the hour that comes twice"
        ),
        pytest.param("2026-10-25T02:30", "2026-10-25T04:30", "Europe/Berlin", 3, id="it begins in it"),
        pytest.param("2026-03-29T01:30", "2026-03-29T02:30", "Europe/Berlin", 1, id="it ends in the hour left out"),
        pytest.param("2026-10-25T01:30Z", "2026-10-25T02:30Z", "Europe/Berlin", 1, id="in UTC"),
        pytest.param("2026-12-20T18:00", "2026-12-20T19:00", "America/St_Johns", 1, id="where half hours count"),
    ],
)
def test_a_freeze_in_local_time_lasts_as_long_as_anybody_may_mean(start: str, end: str, zone: str, hours: int) -> None:
    (made,) = load(
        fleet=with_spec(FLEET, f"freezes: [{{name: x, from: '{start}', to: '{end}', zone: {zone}}}]")
    ).freezes
    assert made.end_s - made.start_s == hours * 3600


@pytest.mark.parametrize(("kind", "text", "field"), NOT_YET)
def test_what_is_not_carried_out_yet_is_refused(kind: str, text: str, field: str) -> None:
    finding = only_error(load(**{kind: text}))
    assert finding.message == f"{field} is not carried out by this version of Flotilla"


WRONG_VALUES = [
    ("bundle", "targets: {matchLabels: {tier: true}}", "spec.targets.matchLabels.tier is true", "in quotes"),
    ("bundle", "targets: {matchLabels: {tier: a b}}", "'a b' is not a label's value", "at most 63"),
    ("bundle", "targets: {matchLabels: {a/b/c: x}}", "'a/b/c' is not a label's name", "example.org/tier"),
    ("bundle", "targets: {matchLabels: }", "spec.targets.matchLabels is empty", "{} for every cluster"),
    ("bundle", "targets:", "spec.targets is missing", "which clusters"),
    ("bundle", "namespace: x", "spec.targets is missing", "which clusters"),
    ("bundle", "targets: {matchExpressions: [{key: a, operator: in, values: [b]}]}", "operator is 'in'", "'In'"),
    ("bundle", "targets: {matchExpressions: [{key: a, operator: In}]}", "values have to be given for In", "list"),
    ("bundle", "targets: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}", "mean nothing", "remove"),
    ("bundle", "targets: {matchExpressions: [{key: a}]}", "operator is missing", "DoesNotExist"),
    ("bundle", "targets: {matchExpressions: [{operator: Exists}]}", "'' is not a label's name", "tier"),
    ("bundle", "targets: [a]", "spec.targets has to be a mapping", ""),
    ("bundle", "targets: {}\nnamespace: Shop_1", "spec.namespace 'Shop_1' is not a valid name", "lower-case"),
    ("bundle", "targets: {}\nsource: {path: ../other}", "which is outside of the bundle's folder", "bundles/shop/"),
    ("bundle", "targets: {}\nsource: {path: /etc}", "which is outside of the bundle's folder", "bundles/shop/"),
    ("bundle", "targets: {}\nsource: {path: a/../..}", "which is outside of the bundle's folder", "bundles/shop/"),
    ("bundle", "targets: {}\nhelm: {valuesFiles: [../x.yaml]}", "spec.helm.valuesFiles[0] is '../x.yaml'", "move it"),
    ("bundle", "targets: {}\nhelm: {releaseName: " + "x" * 54 + "}", "spec.helm.releaseName is too long", "53"),
    ("bundle", "targets: {}\nhelm: {values: [1]}", "spec.helm.values is a list, not a mapping", ""),
    ("bundle", "targets: {}\nvariants: [{kustomize: {path: x}}]", "spec.variants[0].when is missing", "for which"),
    ("bundle", "targets: {}\nvariants: [{when: {}, kustomize: {}}]", "variants[0].kustomize.path is missing", "over"),
    ("bundle", "targets: {}\nvariables: {a-b: 1}", "spec.variables.a-b is not a name for a variable", "letters"),
    ("bundle", "targets: {}\nvariables: {a: [1]}", "spec.variables.a is a list", "a string, a number"),
    ("bundle", "targets: {}\nvariables: {a: }", "spec.variables.a is empty", "a string, a number"),
    ("bundle", "targets: {}\ndependsOn: shop", "spec.dependsOn is a string, not a list", ""),
    ("bundle", "targets: {}\ndependsOn: [1]", "spec.dependsOn[0] is the number 1, not a string", "in quotes"),
    ("bundle", "targets: {}\nprune: 'yes'", "spec.prune is a string, not true or false", ""),
    ("bundle", "targets: {}\nadopt: allways", "spec.adopt is 'allways'", "'always'"),
    ("bundle", "targets: {}\ntimeout: 10", "spec.timeout is the number 10, not a duration", "1h30m"),
    ("bundle", "targets: {}\ntimeout: 10min", "spec.timeout is '10min', not a duration", "1h30m"),
    ("bundle", "targets: {}\ntimeout: 0s", "spec.timeout is '0s'", "at least 1s"),
    ("bundle", "targets: {}\ndrift: {mode: undo}", "spec.drift.mode is 'undo'", "known are: revert, report, ignore"),
    ("bundle", "targets: {}\ndrift: {ignore: [{kind: X}]}", "spec.drift.ignore[0].paths are missing", "/spec/replicas"),
    ("bundle", "targets: {}\ndrift: {ignore: [{paths: [spec.x]}]}", "not a JSON pointer", "/spec/replicas"),
    ("bundle", "targets: {}\ndrift: {ignore: [{labels: {a: 1}, paths: [/x]}]}", "ignore[0].labels.a is the", "quotes"),
    ("bundle", "targets: {}\nserviceAccount: deployer", "spec.serviceAccount has no namespace", "set spec.namespace"),
    ("bundle", "targets: {}\nserviceAccount: a/b/c", "spec.serviceAccount 'a/b/c' is not an account", "namespace/name"),
    ("bundle", "targets: {}\nserviceAccount: /b", "spec.serviceAccount '/b' is not an account", "namespace/name"),
    ("bundle", "targets: {}\nnamespace: shop\nserviceAccount: A_b", "'A_b' is not an account", "namespace/name"),
    ("bundle", "targets: {}\nnamespace: shop\nserviceAccount: ''", "'' is not an account", "namespace/name"),
    ("bundle", "targets: {}\nallowEmpty: 'yes'", "spec.allowEmpty is a string, not true or false", ""),
    ("bundle", "targets: {}\nallowempty: true", "spec.allowempty is not a known field", "'allowEmpty'"),
    ("bundle", "targets: {}\nhealth: []", "spec.health is not a known field", "'healthChecks'"),
    (
        "bundle",
        "targets: {}\nhealthChecks: [{kind: A, current: 'true'}]",
        "healthChecks[0].apiVersion is missing",
        "v1",
    ),
    (
        "bundle",
        "targets: {}\nhealthChecks: [{apiVersion: a.b, kind: A, current: 'true'}]",
        "'a.b' is not group/v",
        "apps",
    ),
    (
        "bundle",
        "targets: {}\nhealthChecks: [{apiVersion: a/v1, current: 'true'}]",
        "healthChecks[0].kind is missing",
        "Cert",
    ),
    ("bundle", "targets: {}\nhealthChecks: [{apiVersion: a/v1, kind: A}]", "[0].current is missing", "in CEL"),
    (
        "bundle",
        "targets: {}\nhealthChecks: [{apiVersion: a/v1, kind: A, current: object.status ==}]",
        "spec.healthChecks[0].current is no CEL expression: 1:17: Syntax error",
        "correct the expression",
    ),
    (
        "bundle",
        "targets: {}\nhealthChecks: [{apiVersion: a/v1, kind: A, current: 'true', inProgress: '1'}]",
        "spec.healthChecks[0].inProgress is of type INT, not BOOL",
        "correct the expression",
    ),
    (
        "bundle",
        "targets: {}\nhealthChecks: [{apiVersion: a/v1, kind: A, curent: b}]",
        "spec.healthChecks[0].curent is not a known field",
        "'current'",
    ),
    (
        "bundle",
        "targets: {}\nhealthChecks: [" + "{apiVersion: a/v1, kind: A, current: 'true'}," * 2 + "]",
        "spec.healthChecks[1] is a second check of A",
        "first one",
    ),
    ("cluster", "kubernetes: 1.36", "spec.kubernetes is the number 1.36, not a string", "in quotes"),
    ("cluster", "kubernetes: latest", "spec.kubernetes 'latest' is not a version", '"1.36"'),
    ("cluster", "decommission: now", "spec.decommission is 'now'", "prune, detach"),
    ("cluster", "- a", "spec has to be a mapping", ""),
    ("policy", "waves: [{select: {}}]", "spec.waves[0].name is missing", "give the wave a name"),
    (
        "policy",
        "waves: [{name: rest, select: {}}]",
        "'rest' is the wave of the clusters that no wave selects",
        "another",
    ),
    ("policy", "waves: [{name: a, select: {}}, {name: a, select: {}}]", "name of an earlier wave", "another"),
    ("policy", "waves: [{name: a}]", "spec.waves[0].select is missing", "which clusters are in the wave"),
    ("policy", "waves: [{name: a, select: {}, maxConcurrent: 0}]", "maxConcurrent is the number 0", "from 1"),
    ("policy", "waves: [{name: a, select: {}, maxConcurrent: 101%}]", "maxConcurrent is '101%'", "100%"),
    ("policy", "waves: [{name: a, select: {}, maxConcurrent: -1}]", "maxConcurrent is the number -1", "from 1"),
    ("policy", "waves: [{name: a, select: {}, minProof: 0%}]", "minProof is '0%'", "from 1%"),
    ("policy", "failure: {budget: -5%}", "spec.failure.budget is '-5%'", "25%"),
    ("policy", "failure: {budget: 1.5}", "spec.failure.budget is the number 1.5", "25%"),
    ("policy", "failure: {budget: true}", "spec.failure.budget is true", "25%"),
    ("policy", "failure: {action: rolback}", "spec.failure.action is 'rolback'", "'rollback'"),
    ("policy", "offline: {after: 5}", "spec.offline.after is the number 5, not a duration", "10m"),
    *[
        ("policy", f"waves: [{{name: a, select: {{}}, gates: [{gate}]}}]", f"gates[0]{message}", remedy)
        for gate, message, remedy in [
            ("{}", " has 0 checks", "one of approval, metric, http, bundle"),
            ("{approval: {}, bundle: {name: a}}", " has 2 checks", "one of approval"),
            ("{approval: {}, when: during}", ".when is 'during'", "before, after"),
            ("{approval: {approvers: 0}}", ".approval.approvers is the number 0", "from 1 on"),
            ("{approval: {approvers: 2, by: [ann, ann]}}", ".approval.approvers is 2, and 'by' names 1", "more people"),
            ("{metric: {above: 1}}", ".metric.query is missing", "PromQL"),
            ("{metric: {query: up}}", ".metric has no limit", "above: or below:"),
            ("{metric: {query: up, above: 2, below: 2}}", ".metric.above is 2, and 'below' is 2: nothing", "swap"),
            ("{metric: {query: up, above: 1, interval: 1s}}", ".metric.interval is '1s'", "at least 5s"),
            (
                "{metric: {query: up, above: 1, for: 1h}, timeout: 1h}",
                ".timeout is '1h', and the check takes 3600 s",
                "",
            ),
            ("{http: {url: 'http://a', for: 5m, interval: 10m}, timeout: 8m}", ".timeout is '8m'", "longer than 600 s"),
            ("{http: {url: 'ftp://a'}}", ".http.url is 'ftp://a'", "http or https address"),
            ("{http: {url: 'http://ann:secret@a'}}", ".http.url is", "without a password"),
            ("{http: {url: 'http://a', status: [999]}}", ".http.status[0] is the number 999", "100 to 599"),
        ]
    ],
    ("policy", "windows: [{deny: '09:00-17:00'}]", "spec.windows[0].deny '09:00-17:00' is not a time zone", ""),
    ("policy", "windows: [{}]", "spec.windows[0] is neither or both", "deny: or allow:"),
    ("fleet", "freezes: [{name: x, from: 2026-12-20, to: 2026-12-19}]", "to is not after 'from'", "when it ends"),
    ("fleet", "freezes: [{name: x, from: soon, to: 2026-12-19}]", "from is 'soon'", "2026-12-20T18:00"),
    ("fleet", "freezes: [{name: x, from: 2026-12-20, to: 2026-12-21, zone: Mars/X}]", "is not a time zone", "Berlin"),
    ("fleet", "variables: {a: {b: 1}}", "spec.variables.a is a mapping", "a string, a number"),
]


@pytest.mark.parametrize(("kind", "spec", "message", "remedy"), WRONG_VALUES)
def test_a_wrong_value_is_an_error_that_says_what_to_write(kind: str, spec: str, message: str, remedy: str) -> None:
    text = {"bundle": SHOP, "cluster": EU, "policy": CAREFUL, "fleet": FLEET}[kind]
    found = load(**{kind: with_spec(text, spec)})
    finding = errors(found)[0]
    assert message in finding.message
    assert remedy in finding.remedy
    assert not found.bundles
    assert not found.clusters
    assert not found.policies


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0.0), ("0s", 0.0), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("2h1s", 7201.0)]
)
def test_durations(text: str, expected: float) -> None:
    found = load(policy=with_spec(CAREFUL, f"waves: [{{name: a, select: {{}}, soak: {text}}}]"))
    assert found.policies["careful"].waves[0].soak_s == expected


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        pytest.param("v1alpha1", "v1", "apiVersion", "is 'flotilla.dev/v1'", id="another version"),
        pytest.param("apiVersion: flotilla.dev/v1alpha1\n", "", "apiVersion", "is missing", id="no version"),
        pytest.param("kind: Bundle\n", "", "kind", "is missing", id="no kind"),
        pytest.param("kind: Bundle", "kind: Bundel", "kind", "'Bundel' is not known", id="unknown kind"),
        pytest.param(
            "kind: Bundle", "kind: Cluster", "kind", "a Cluster does not belong here", id="in the wrong place"
        ),
    ],
)
def test_a_document_of_another_kind_is_an_error(old: str, new: str, field: str, message: str) -> None:
    found = load(bundle=SHOP.replace(old, new))
    finding = only_error(found)
    assert finding.message == f"{field} {message}"
    assert not found.bundles


def test_one_reading_finds_everything() -> None:
    found = load(bundle=with_spec(SHOP, "targets: {}\nfoo: 1\ntimeout: x\nprune: 1\nsource: {path: ../x, bar: 1}"))
    assert [finding.where.rpartition(":")[2] for finding in errors(found)] == ["7", "10", "10", "9", "8"]


def test_a_name_that_is_none_is_an_error() -> None:
    finding = only_error(load(cluster=EU.replace("eu-1", "EU_1")))
    assert (finding.where, finding.message) == ("clusters/eu.yaml:4", "metadata.name 'EU_1' is not a valid name")


# --- what is broken stops nothing else ----------------------------------------------------------------------------


def test_a_broken_document_stops_no_other_of_its_file_and_its_name_is_kept() -> None:
    text = EU + "---" + EU.replace("eu-1", "eu-2").replace("}}", "}") + "---" + EU.replace("eu-1", "eu-3")
    found = load(cluster=text)
    assert set(found.clusters) == {"eu-1", "eu-3"}
    assert found.broken_clusters == {"eu-2"}
    finding = only_error(found)
    assert finding.about == "cluster eu-2"
    assert "is not valid YAML" in finding.message
    assert [cluster.where for cluster in found.clusters.values()] == ["clusters/eu.yaml:2", "clusters/eu.yaml:12"]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("kind: Cluster\nmetadata: {name: eu-2}\n\tspec: {}\n", id="a tab"),
        pytest.param("kind: Cluster\nmetadata: {name: eu-2}\nspec: 'x\n", id="an open quote"),
        pytest.param("kind: Cluster\nmetadata: {name: eu-2}\nspec: [x\n", id="an open list"),
        pytest.param("kind: Cluster\nmetadata:\n  labels: {a: b}\n  name: eu-2\nspec: *x\n", id="an unknown anchor"),
        pytest.param("kind: Cluster\nmetadata: {name: eu-2}\nmetadata: {}\n", id="a key twice"),
        pytest.param("kind: Cluster\nmetadata: {name: eu-2}\nspec: \x01\n", id="a control character"),
    ],
)
def test_what_a_broken_document_takes_with_it_is_itself(broken: str) -> None:
    found = load(cluster=EU + "---\n" + broken + "---\n" + EU.replace("eu-1", "eu-3"))
    assert set(found.clusters) == {"eu-1", "eu-3"}
    assert found.broken_clusters == {"eu-2"}
    assert len(errors(found)) == 1


def test_a_file_with_too_much_broken_in_it_is_broken_as_a_whole() -> None:
    text = "---".join([EU, *[EU.replace("eu-1", f"bad-{n}") + "  [\n" for n in range(20)]])
    found = load(cluster=text)
    assert not found.clusters
    assert found.broken_clusters == {"eu-1", *(f"bad-{n}" for n in range(20))}


def test_a_broken_bundle_is_known_by_its_folder_and_what_it_calls_itself_is_kept_too() -> None:
    found = fleet.load(
        {
            "bundles/a/bundle.yaml": (SHOP + "  [").encode(),
            "bundles/b/bundle.yaml": b"[",
            "bundles/c/bundle.yaml": b"# nothing\n",
            "bundles/d/bundle.yaml": b"kind: Bundle\n",
            "bundles/e/bundle.yaml": b"kind: Cluster\nmetadata: {name: other}\n",
            "bundles/f/bundle.yaml": bundle("f").encode(),
        }
    )
    assert found.broken_bundles == {"a", "shop", "b", "c", "d", "e"}
    assert {finding.about for finding in errors(found)} == {f"bundle {name}" for name in "abcde"}
    assert set(found.bundles) == {"f"}


def test_a_bundle_has_the_name_of_its_folder() -> None:
    found = fleet.load(
        {"bundles/web/bundle.yaml": SHOP.encode(), "bundles/notes/bundle.yaml": bundle("notes").encode()}
    )
    finding = only_error(found)
    assert finding.where == "bundles/web/bundle.yaml:4"
    assert finding.message == "metadata.name 'shop' is not the name of the bundle's folder, 'web'"
    assert "rename one of the two" in finding.remedy
    assert finding.about == "bundle web"
    assert found.broken_bundles == {"web", "shop"}  # whichever of the two was meant, it keeps what it runs


def test_a_name_that_was_copied_with_its_file_does_not_stop_the_bundle_it_came_from() -> None:
    found = fleet.load({"bundles/shop/bundle.yaml": SHOP.encode(), "bundles/web/bundle.yaml": SHOP.encode()})
    assert found.broken_bundles == {"web"}
    assert set(found.bundles) == {"shop"}


@pytest.mark.parametrize("at", ["bundles/bundle.yaml", "bundles/team/shop/bundle.yaml", "bundles/a/b/c/bundle.yml"])
def test_a_bundle_at_another_depth_is_named_and_keeps_what_it_runs(at: str) -> None:
    found = fleet.load({at: SHOP.encode()})
    finding = only_error(found)
    assert (finding.where, finding.about) == (f"{at}:2", "bundle shop")
    assert finding.message == "a Bundle counts only as bundles/<name>/bundle.yaml: this one is not read"
    assert finding.remedy == "move its folder to bundles/shop, or remove the file"
    assert found.broken_bundles == {"shop"}


def test_a_bundle_at_another_depth_too_is_worth_a_warning() -> None:
    found = fleet.load({"bundles/shop/bundle.yaml": SHOP.encode(), "bundles/shop/old/bundle.yaml": SHOP.encode()})
    (finding,) = [finding for finding in found.findings if "matches no cluster" not in finding.message]
    assert (finding.severity, finding.where) == ("warning", "bundles/shop/old/bundle.yaml:2")
    assert set(found.bundles) == {"shop"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n", id="a manifest"),
        pytest.param("apiVersion: trust.cert-manager.io/v1alpha1\nkind: Bundle\nmetadata: {name: ca}\n", id="trust"),
        pytest.param("kind: {{ .Values.kind }}\nmetadata: {name: shop}\n", id="a template"),
        pytest.param("", id="empty"),
    ],
)
def test_a_file_inside_a_bundle_may_be_called_bundle_yaml(text: str) -> None:
    found = fleet.load({"bundles/shop/bundle.yaml": SHOP.encode(), "bundles/shop/base/bundle.yaml": text.encode()})
    assert errors(found) == []
    assert set(found.bundles) == {"shop"}


UNREADABLE = InvalidInput("x", "is a symbolic link", "replace it by what it links to")


def test_a_bundle_that_cannot_be_read_is_known_by_its_folder_and_stops_no_other() -> None:
    found = fleet.load(
        {
            "bundles/shop/bundle.yaml": UNREADABLE,
            "bundles/web": UNREADABLE,
            "bundles/notes/bundle.yaml": bundle("notes").encode(),
            "bundles/notes/base/bundle.yaml": UNREADABLE,
        }
    )
    assert found.broken_bundles == {"shop", "web"}
    assert [(f.where, f.about, f.message, f.remedy) for f in errors(found)] == [
        ("bundles/shop/bundle.yaml", "bundle shop", UNREADABLE.cause, UNREADABLE.remedy),
        ("bundles/web", "bundle web", UNREADABLE.cause, UNREADABLE.remedy),
    ]
    assert set(found.bundles) == {"notes"}
    assert not found.lost_bundles


@pytest.mark.parametrize(
    ("path", "bundles", "clusters"),
    [
        pytest.param("bundles", True, False, id="all bundles"),
        pytest.param("clusters", False, True, id="all clusters"),
        pytest.param("clusters/eu", False, True, id="a folder of clusters"),
        pytest.param("clusters/eu.yaml", False, True, id="a file of clusters"),
        pytest.param("rollouts", False, False, id="policies: bundles without theirs are broken themselves"),
    ],
)
def test_what_hides_bundles_or_clusters_is_said(path: str, bundles: bool, clusters: bool) -> None:
    found = fleet.load({path: UNREADABLE})
    assert (found.lost_bundles, found.lost_clusters) == (bundles, clusters)
    assert only_error(found).where == path


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        pytest.param(EU, False, id="valid"),
        pytest.param(EU.replace("kubernetes", "kubernets"), True, id="a mistyped field"),
        pytest.param(EU.replace("eu-1", "EU_1"), True, id="a name that is none"),
        pytest.param(EU.replace("metadata", "metdata"), True, id="no name"),
        pytest.param(EU + "  [", True, id="no YAML: it may hold more than shows"),
        pytest.param(EU.replace("Cluster", "Bundle"), True, id="another kind"),
        pytest.param("[]", True, id="no mapping"),
    ],
)
def test_a_broken_cluster_may_be_any_of_the_missing_ones(text: str, lost: bool) -> None:
    assert load(cluster=text).lost_clusters is lost


def test_an_unreadable_fleet_file_keeps_every_bundle_where_it_is() -> None:
    found = fleet.load({"fleet.yaml": UNREADABLE, "bundles/shop/bundle.yaml": SHOP.encode()})
    assert found.broken_bundles == {"shop"}


def test_a_bundle_in_the_wrong_place_breaks_no_cluster_of_its_name() -> None:
    found = fleet.load({"clusters/a.yaml": SHOP.encode(), "clusters/b.yaml": EU.replace("eu-1", "shop").encode()})
    assert set(found.clusters) == {"shop"}
    assert found.broken_bundles == {"shop"}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        pytest.param({"bundles/shop/bundle.yaml": SHOP, "bundles/shop/bundle.yml": SHOP}, "bundle shop", id="bundles"),
        pytest.param({"clusters/a.yaml": EU, "clusters/b/c.yaml": EU}, "cluster eu-1", id="clusters"),
        pytest.param({"clusters/a.yaml": EU + "---" + EU}, "cluster eu-1", id="in one file"),
        pytest.param({"rollouts/a.yaml": CAREFUL, "rollouts/b.yaml": CAREFUL}, "rollout policy careful", id="policies"),
    ],
)
def test_two_of_one_name_are_refused_each_naming_the_other(files: dict[str, str], kind: str) -> None:
    found = fleet.load({path: text.encode() for path, text in files.items()})
    first, second = errors(found)
    assert first.message.endswith(f"is also in {second.where}")
    assert second.message.endswith(f"is also in {first.where}")
    assert {first.about, second.about} == {kind}
    assert (found.bundles, found.clusters, found.policies) == ({}, {}, {})


def test_a_bundle_needs_a_rollout_policy_that_is_there() -> None:
    found = load(bundle=bundle("shop", rollout="carefull"), policy=CAREFUL)
    finding = only_error(found)
    assert finding.message == "spec.rollout: there is no rollout policy 'carefull'"
    assert finding.remedy == "did you mean 'careful'?"
    assert found.broken_bundles == {"shop"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("  rollout: carefull", "there is no rollout policy", id="policy"),
        pytest.param("  dependsOn: [tils]", "there is no bundle 'tils'", id="dependency"),
        pytest.param("  targets: {matchLabels: {tier: prd}}", "matches no cluster", id="targets"),
    ],
)
def test_what_a_bundle_names_and_is_not_there_is_told_at_its_own_line(line: str, message: str) -> None:
    stated = {"targets": "  targets: {}", **{line.partition(":")[0].strip(): line}}
    head = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop}\nspec:\n  namespace: shop\n"
    found = load(bundle=head + "\n".join(stated.values()), cluster=EU)
    [finding] = [each for each in found.findings if message in each.message]
    assert finding.where == f"bundles/shop/bundle.yaml:{5 + len(stated)}"


def test_a_bundle_whose_rollout_policy_is_broken_keeps_what_it_runs() -> None:
    found = load(bundle=bundle("shop", rollout="careful"), policy=CAREFUL.replace("{}", "{supersede: maybe}"))
    assert found.broken_bundles == {"shop"}
    assert [finding.about for finding in errors(found)] == ["rollout policy careful", "bundle shop"]


def test_a_bundle_cannot_depend_on_one_that_does_not_exist_but_on_a_broken_one() -> None:
    found = fleet.load(
        {
            "bundles/a/bundle.yaml": bundle("a", depends_on="[sohp]").encode(),
            "bundles/b/bundle.yaml": bundle("b", depends_on="[shop]").encode(),
            "bundles/shop/bundle.yaml": bundle("shop", depends_on="[3]").encode(),
        }
    )
    assert set(found.bundles) == {"b"}
    assert found.broken_bundles == {"a", "shop"}
    assert next(f.remedy for f in found.findings if f.about == "bundle a") == "did you mean 'shop'?"


def test_bundles_that_depend_on_each_other_are_refused_and_the_circle_is_named() -> None:
    edges = {
        "a": "[b]",
        "b": "[c]",
        "c": "[a]",
        "d": "[a, e]",
        "e": "[]",
        "f": "[f]",
        "g": "[c, a]",
        "h": "[g, i]",
        "i": "[h]",
    }
    found = fleet.load({f"bundles/{n}/bundle.yaml": bundle(n, depends_on=d).encode() for n, d in edges.items()})
    circles = {finding.about: finding.message.rpartition(": ")[2] for finding in errors(found)}
    assert circles == {
        "bundle a": "a → b → c → a",
        "bundle b": "b → c → a → b",
        "bundle c": "c → a → b → c",
        "bundle f": "f → f",
        "bundle h": "h → i → h",
        "bundle i": "i → h → i",
    }
    assert set(found.bundles) == {"d", "e", "g"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SHOP + "  renamedFrom: store\n", id="valid"),
        pytest.param(SHOP + "  renamedFrom: store\n  taregts: {}\n", id="a mistyped field"),
        pytest.param(SHOP.replace("name: shop", "name: till") + "  renamedFrom: store\n", id="another name"),
        pytest.param(SHOP + '  "renamedFrom": "store"  # was\n  [', id="no YAML"),
    ],
)
def test_the_old_name_of_a_bundle_is_known_whatever_is_wrong_with_it(text: str) -> None:
    assert load(bundle=text).renamed == {"store": "shop"}


def test_a_bundle_is_not_renamed_from_one_that_is_still_there() -> None:
    found = fleet.load(
        {
            "bundles/shop/bundle.yaml": (SHOP + "  renamedFrom: web\n").encode(),
            "bundles/web/bundle.yaml": bundle("web").encode(),
        }
    )
    finding = only_error(found)
    assert (finding.about, finding.message) == ("bundle shop", "spec.renamedFrom: there is still a bundle 'web'")
    assert set(found.bundles) == {"web"}
    assert found.renamed == {}  # or it would hold up the other


def test_one_bundle_is_not_renamed_to_two() -> None:
    found = fleet.load(
        {f"bundles/{name}/bundle.yaml": (bundle(name) + "  renamedFrom: store\n").encode() for name in ("shop", "web")}
    )
    assert {finding.message for finding in errors(found)} == {
        "spec.renamedFrom: shop and web are all renamed from 'store'"
    }
    assert found.broken_bundles == {"shop", "web"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FLEET.replace("variables", "variabels"), id="a mistyped field"),
        pytest.param(FLEET.replace("example.org", "[x]"), id="a variable that is none"),
        pytest.param(FLEET.replace("{var", "{secrets: refuze, var"), id="a word that is none"),
        pytest.param(FLEET + "  [", id="no YAML"),
        pytest.param(FLEET.replace("Fleet", "Flet"), id="another kind"),
        pytest.param(FLEET + "---" + FLEET, id="two of them"),
    ],
)
def test_without_the_fleets_variables_every_bundle_keeps_what_it_runs(text: str) -> None:
    found = load(fleet=text, bundle=SHOP, cluster=EU)
    assert found.broken_bundles == {"shop"}
    assert set(found.clusters) == {"eu-1"}
    assert found.findings[-1].message == "what it says for all bundles is not known, so every bundle keeps what it runs"
    assert found.lost_freezes


def test_another_error_in_the_fleet_stops_no_bundle_while_its_variables_can_be_told() -> None:
    found = load(fleet=FLEET.replace("{var", "{x: 1, var"), bundle=SHOP, cluster=EU)
    assert only_error(found).message == "spec.x is not a known field"
    assert not found.lost_freezes
    assert set(found.bundles) == {"shop"}
    assert found.variables == {"domain": "example.org"}


def test_targets_that_match_no_cluster_are_worth_a_warning() -> None:
    found = load(bundle=SHOP.replace("prod", "prd"), cluster=EU)
    (finding,) = found.findings
    assert (finding.severity, finding.about, finding.message) == (
        "warning",
        "bundle shop",
        "spec.targets matches no cluster",
    )
    assert set(found.bundles) == {"shop"}


def test_findings_are_bounded_and_their_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_FINDINGS", 3)
    found = load(bundle=SHOP + "".join(f"  x{n}: 1\n" for n in range(10)))
    assert len(found.findings) == 4
    assert found.findings[-1].message == "7 more findings are not shown"


def test_the_fleet_says_what_is_checked() -> None:
    assert load(fleet=FLEET).checks == Checks(secrets="warn")
    found = load(fleet=FLEET.replace("{var", "{secrets: refuse, var"))
    assert errors(found) == []
    assert found.checks == Checks(secrets="refuse")
    assert load(fleet=FLEET.replace("{var", "{validation: error, var")).checks == Checks(validation="error")
    wrong = [finding for finding in errors(load(fleet=FLEET.replace("{var", "{secrets: deny, var"))) if finding.remedy]
    assert "fleet.yaml:4: error: spec.secrets is 'deny' (known are: refuse, warn, allow)" in map(str, wrong)


def test_equal_files_give_equal_fleets_in_any_order() -> None:
    files = {PATHS["bundle"]: SHOP.encode(), PATHS["cluster"]: EU.encode(), PATHS["policy"]: CAREFUL.encode()}
    assert fleet.load(files) == fleet.load(dict(reversed(files.items())))


@pytest.mark.parametrize("name", ["n", "off", "Yes"])
def test_a_variable_whose_name_yaml_takes_for_a_boolean_is_told(name: str) -> None:
    finding = only_error(load(cluster=EU.replace("{domain:", f"{{{name}: 1, domain:")))
    assert finding.message.endswith("is a boolean as a name")
    assert "quotes" in finding.remedy
    assert errors(load(cluster=EU.replace("{domain:", f"{{'{name}': 1, domain:"))) == []


def test_patches_of_a_bundle_and_of_its_variants() -> None:
    text = """
kustomize: {path: overlays/all}
patches:
  - {target: {kind: Deployment, name: web.*}, patch: {spec: {replicas: null}}}
  - patch: |
      - {op: remove, path: /a}
    target: {labelSelector: app=web}
variants:
  - {when: {}, patches: [{path: ./patches/eu.yaml, options: {allowNameChange: true, allowKindChange: false}}]}
targets: {}"""
    found = load(bundle=with_spec(SHOP, text.strip()))
    assert errors(found) == []
    (shop,) = found.bundles.values()
    assert shop.kustomize == "overlays/all"
    assert shop.patches == (
        Patch(
            patch={"spec": {"replicas": None}},
            target={"kind": "Deployment", "name": "web.*"},
            where="bundles/shop/bundle.yaml:8",
        ),
        Patch(
            patch="- {op: remove, path: /a}\n",
            target={"labelSelector": "app=web"},
            where="bundles/shop/bundle.yaml:9",
        ),
    )
    assert shop.variants[0].patches == (
        Patch(path="patches/eu.yaml", options={"allowNameChange": True}, where="bundles/shop/bundle.yaml:13"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{target: {kind: A}}", "has to have one of patch and path", id="neither"),
        pytest.param("{target: {kind: A}, patch: {}, path: a}", "has to have one of patch and path", id="both"),
        pytest.param("{target: {}, patch: {a: 1}}", "selects every object", id="everything"),
        pytest.param("{target: {kind: A, name: '${x}'}, patch: {a: 1}}", "has a variable", id="a variable"),
        pytest.param("{target: {kinds: A}, patch: {a: 1}}", "is not a known field", id="mistyped"),
        pytest.param("{target: {kind: A}, path: ../x.yaml}", "outside of the bundle's folder", id="outside"),
        pytest.param("{target: {kind: A}, patch: 3}", "is the number 3", id="a number"),
        pytest.param("{target: {kind: A}, patch: {}, options: {allowNameChanges: true}}", "not a known", id="options"),
    ],
)
@pytest.mark.parametrize("place", ["patches: [PATCH]", "variants: [{when: {}, patches: [PATCH]}]"])
def test_a_patch_that_cannot_be_meant_is_told_at_its_line(place: str, text: str, message: str) -> None:
    found = errors(load(bundle=SHOP + f"  {place.replace('PATCH', text)}\n"))
    assert any(message in finding.message for finding in found), found
    assert {finding.where for finding in found} == {"bundles/shop/bundle.yaml:7"}


REFERENCE = (Path(__file__).parents[2] / "docs/fleet-repo.md").read_text()


def test_the_examples_of_the_reference_are_valid() -> None:
    table, tenants, ledger, outside, web, freezes = re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    [stores] = re.findall(r"((?:^    .*,.*\n)+)\n\| field of `spec` \| what", REFERENCE, re.MULTILINE)
    files = {
        "bundles/ledger/bundle.yaml": ledger,
        "bundles/web/bundle.yaml": web,
        "bundles/ingress/bundle.yaml": outside.partition("---\n")[0],
        "bundles/billing/bundle.yaml": outside.partition("---\n")[2],
        "fleet.yaml": tenants,
        "clusters/stores.yaml": table,
        "clusters/stores.csv": stores,
    }
    found = fleet.load({path: text.encode() for path, text in files.items()})
    assert errors(found) == []
    assert found.bundles.keys() == {"ledger", "web", "ingress", "billing"}
    assert found.clusters.keys() == {"store-1"}
    assert [tenant.name for tenant in found.tenants] == ["team-a"]
    found = fleet.load({"fleet.yaml": freezes.encode()})
    assert errors(found) == []
    assert [freeze.name for freeze in found.freezes] == ["holidays"]


def test_the_reference_has_every_field_of_a_bundle_and_a_policy() -> None:
    for spec, text in (("bundle", SHOP), ("policy", CAREFUL)):
        remedy = only_error(
            load(**{spec: with_spec(text, "targets: {}\nqqqqqq: 1" if spec == "bundle" else "qqqqqq: 1")})
        ).remedy
        for field in remedy.removeprefix("known are: ").split(", "):
            assert f"`{field}" in REFERENCE, f"{field} of a {spec}"


def test_a_fleet_says_who_is_told_of_what() -> None:
    found = load(
        fleet=with_spec(
            FLEET,
            """notify:
    - {name: on-call, url: "https://hooks.example.org/f", credentials: on-call, events: [critical, paused]}
    - {name: team-a, url: "http://127.0.0.1:9000/a", credentials: a, bundles: [shop, cart-*]}""",
        )
    )
    assert not found.findings
    assert found.notify == (
        Receiver(
            name="on-call", url="https://hooks.example.org/f", credentials="on-call", events=("critical", "paused")
        ),
        Receiver(name="team-a", url="http://127.0.0.1:9000/a", credentials="a", bundles=("shop", "cart-*")),
    )
    assert load(fleet=FLEET).notify == ()


@pytest.mark.parametrize(
    ("fields", "message", "remedy"),
    [
        pytest.param(
            "url: 'https://a.example.org', credentials: a", "name is missing", "receiver a name", id="no name"
        ),
        pytest.param("name: a, credentials: a", "url is missing", "https://", id="no address"),
        pytest.param("name: a, url: 'https://a.example.org'", "credentials is missing", "webhookSecret", id="unsigned"),
        pytest.param(
            "name: a, url: 'ftp://a.example.org', credentials: a", "is not an address", "https://", id="another scheme"
        ),
        pytest.param(
            "name: a, url: 'https://u:p@a.example.org', credentials: a", "user or password", "credentials", id="a login"
        ),
        pytest.param(
            "name: a, url: 'https://a.example.org', credentials: a, events: [pause]",
            "notify[0].events[0] is 'pause'",
            "did you mean 'paused'?",
            id="a mistyped kind",
        ),
        pytest.param(
            "name: a, url: 'https://a.example.org', credentials: a, bundles: [Shop]",
            "notify[0].bundles[0] is 'Shop'",
            "shop-*",
            id="no bundle",
        ),
        pytest.param(
            "name: a, url: 'https://a.example.org', credentials: a, event: [paused]",
            "event is not a known field",
            "did you mean 'events'?",
            id="a mistyped field",
        ),
    ],
)
def test_a_receiver_that_cannot_be_is_refused_at_its_line(fields: str, message: str, remedy: str) -> None:
    found = errors(load(fleet=with_spec(FLEET, f"notify: [{{{fields}}}]")))
    assert message in found[0].message
    assert remedy in found[0].remedy
    assert found[0].where.startswith("fleet.yaml:")


def test_two_receivers_do_not_share_a_name() -> None:
    one = "{name: a, url: 'https://a.example.org', credentials: a}"
    finding = errors(load(fleet=with_spec(FLEET, f"notify: [{one}, {one}]")))[0]
    assert finding.message == "spec.notify[1].name 'a' is that of an earlier receiver"


SIGNER = "ada@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZ6oLwL2vGmPlNrNWJNbBwyvlP1vUZy9aVPvFKuC8Yu"


def test_a_fleet_lists_the_signers_of_its_commits() -> None:
    found = load(fleet=with_spec(FLEET, f"signers: [{SIGNER!r}]"))
    assert found.signers == (SIGNER,)
    assert not found.findings


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        pytest.param("signers: [ada]", "spec.signers[0] 'ada' is not a signer", "NAME KEYTYPE KEY", id="no key"),
        pytest.param("signers: [1]", "spec.signers[0] is the number 1, not a string", "quotes", id="a number"),
        pytest.param("signer: []", "spec.signer is not a known field", "did you mean 'signers'?", id="mistyped"),
        pytest.param("trustedSigners: []", "spec.trustedSigners is not a known field", "'signers'", id="another name"),
    ],
)
def test_a_signer_that_cannot_be_read_is_told_at_its_line(spec: str, message: str, remedy: str) -> None:
    finding = errors(load(fleet=with_spec(FLEET, spec)))[0]
    assert finding.message == message
    assert remedy in finding.remedy
    assert finding.where.startswith("fleet.yaml:")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://git.example.org/slices.git", id="https"),
        pytest.param("https://git.example.org/slices/${cluster}.git", id="a repository for each cluster"),
        pytest.param("git@git.example.org:fleet/slices.git", id="ssh"),
    ],
)
def test_a_fleet_says_where_its_slices_are_mirrored(url: str) -> None:
    found = load(fleet=with_spec(FLEET, f"publish: {{url: '{url}', credentials: bot}}"))
    assert found.publish == Publish(url=url, credentials="bot")
    assert not found.findings
    assert load(fleet=FLEET).publish is None


@pytest.mark.parametrize(
    ("publish", "message", "remedy"),
    [
        pytest.param("{credentials: bot}", "spec.publish.url is missing", "write the address", id="no address"),
        pytest.param("{url: ''}", "spec.publish.url is not an address", "https://", id="an empty address"),
        pytest.param("{adress: x}", "adress is not a known field", "known are: url, credentials", id="mistyped"),
        pytest.param("https://git.example.org/x", "spec.publish has to be a mapping", "", id="no mapping"),
        pytest.param(
            "{url: 'https://me:pw@git.example.org/x'}", "has a user or password", "credentials", id="password"
        ),
        pytest.param("{url: 'ftp://git.example.org/x'}", "is not an address", "https://", id="no such way"),
    ],
)
def test_a_mirror_that_cannot_be_is_refused(publish: str, message: str, remedy: str) -> None:
    found = errors(load(fleet=with_spec(FLEET, f"publish: {publish}")))
    assert any(message in str(each) and remedy in each.remedy for each in found), found
    assert not any(":pw" in str(each) for each in found)
