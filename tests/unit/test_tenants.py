"""Tenants: where their bundles are, and what is said of one that wants more than its tenant may have."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli import main
from hub.model import Finding, Fleet, Rights
from hub.repo import fleet, places, targets, tenants
from proto.errors import InvalidInput
from proto.ids import BundleName, Oid
from proto.objects import ObjectKey

CLUSTERS = "".join(
    f"""---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {{name: {name}, labels: {{tier: {tier}}}}}
"""
    for name, tier in (("eu-1", "prod"), ("eu-2", "prod"), ("lab", "lab"))
)
CAREFUL = "apiVersion: flotilla.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {name: careful}\n"
WEB = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"


def stated(spec: str) -> str:
    """A Fleet."""
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {spec}\n"


def tenant(rules: str = "", *, name: str = "team-a", folder: str = "bundles/team-a") -> str:
    return f"{{name: {name}, folder: {folder}{', ' if rules else ''}{rules}}}"


def bundle(spec: str = "targets: {matchLabels: {tier: prod}}", *, name: str = "shop") -> str:
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def load(fleet_spec: str, files: Mapping[str, str]) -> Fleet:
    texts = {
        "fleet.yaml": stated(fleet_spec),
        "clusters/all.yaml": CLUSTERS,
        "rollouts/careful.yaml": CAREFUL,
        **files,
    }
    return fleet.load({path: text.encode() for path, text in texts.items()})


def one(rules: str, spec: str = "targets: {matchLabels: {tier: prod}}") -> Fleet:
    """One tenant and its bundle `shop`."""
    return load(f"{{tenants: [{tenant(rules)}]}}", {"bundles/team-a/shop/bundle.yaml": bundle(spec)})


def errors(found: Fleet) -> list[Finding]:
    return [finding for finding in found.findings if finding.severity == "error"]


# --- places -------------------------------------------------------------------------------------------------------


def test_a_tenants_folder_holds_its_bundles_and_the_longest_folder_counts() -> None:
    files = {
        f"bundles/{folder}/bundle.yaml": bundle(name=folder.rpartition("/")[2])
        for folder in ("team-a/shop", "team-a/deep/web", "team-b", "team-abc", "base")
    }
    spec = ", ".join(
        (
            tenant(),
            tenant(name="deep", folder="bundles/team-a/deep"),
            tenant(name="team-b", folder="bundles/team-b/"),
        )
    )
    found = load(f"{{tenants: [{spec}]}}", files)
    assert errors(found) == []
    assert {name: made.tenant.name if made.tenant else "" for name, made in found.bundles.items()} == {
        "shop": "team-a",
        "web": "deep",
        "team-b": "team-b",  # a tenant's folder may be a bundle itself
        "team-abc": "",
        "base": "",
    }
    assert found.bundles[BundleName("web")].folder == "bundles/team-a/deep/web"


def test_a_bundle_inside_a_tenants_bundle_is_none() -> None:
    found = load(
        f"{{tenants: [{tenant()}]}}",
        {"bundles/team-a/bundle.yaml": bundle(name="team-a"), "bundles/team-a/shop/bundle.yaml": bundle()},
    )
    (finding,) = errors(found)
    assert finding.where == "bundles/team-a/shop/bundle.yaml:1"
    assert "or <a tenant's folder>/<name>/bundle.yaml: this one is not read" in finding.message
    assert set(found.bundles) == {"team-a"}
    assert found.broken_bundles == {"shop"}


@pytest.mark.parametrize("folder", ["bundles/base/team-a", "bundles/base/team-a/shop"])
def test_a_tenants_folder_inside_a_bundle_holds_no_bundles(folder: str) -> None:
    # Its files are sources of the platform's bundle, which may do everything.
    found = load(
        f"{{tenants: [{tenant(folder=folder)}]}}",
        {"bundles/base/bundle.yaml": bundle(name="base"), "bundles/base/team-a/shop/bundle.yaml": bundle()},
    )
    (finding,) = errors(found)
    assert finding.where == "bundles/base/team-a/shop/bundle.yaml:1"
    assert set(found.bundles) == {"base"}
    assert found.broken_bundles == {"shop"}


def test_two_bundles_of_one_name_in_two_folders_are_refused() -> None:
    found = load(
        f"{{tenants: [{tenant()}]}}",
        {"bundles/shop/bundle.yaml": bundle(), "bundles/team-a/shop/bundle.yaml": bundle()},
    )
    assert {finding.where for finding in errors(found)} == {
        "bundles/shop/bundle.yaml:1",
        "bundles/team-a/shop/bundle.yaml:1",
    }
    assert found.broken_bundles == {"shop"}


@pytest.mark.parametrize(
    ("path", "lost", "broken"),
    [
        pytest.param("bundles/team-a", True, set(), id="the tenant's folder"),
        pytest.param("bundles/team-a/shop", False, {"shop"}, id="a bundle's folder"),
        pytest.param("bundles/team-a/shop/bundle.yaml", False, {"shop"}, id="a bundle's file"),
        pytest.param("bundles/team-a/shop/base", False, set(), id="something in a bundle"),
        pytest.param("bundles/team-a/shop/base/bundle.yaml", False, set(), id="a bundle.yaml in a bundle"),
    ],
)
def test_what_cannot_be_read_in_a_tenants_folder_takes_nothing_out_of_the_fleet(
    path: str, lost: bool, broken: set[str]
) -> None:
    text = stated(f"{{tenants: [{tenant()}]}}").encode()
    assert places.is_fleet_file(path) or places.is_fleet_file(f"{path}/")
    found = fleet.load({"fleet.yaml": text, path: InvalidInput("x", "is a symbolic link", "copy it")})
    assert found.lost_bundles is lost
    assert found.broken_bundles == broken


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("{tenants: [{name: team-a}]}", id="no folder"),
        pytest.param("{variables: {a: b}, tenats: []}", id="a mistyped field beside good ones"),
        pytest.param("{variables: {a: b}, requiretenant: true}", id="a mistyped flag"),
        pytest.param("{variables: {a: b}, tenants: {}}", id="no list"),
        pytest.param("[", id="no YAML"),
    ],
)
def test_when_the_tenants_are_not_known_every_bundle_keeps_what_it_runs(spec: str) -> None:
    found = load(spec, {"bundles/team-a/shop/bundle.yaml": bundle(), "bundles/base/bundle.yaml": bundle(name="base")})
    assert found.broken_bundles == {"shop", "base"}
    assert found.lost_bundles  # where tenants' bundles would be, nobody knows
    assert not any("counts only as" in finding.message for finding in found.findings)


# --- the fleet's own file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "message", "remedy"),
    [
        pytest.param("kinds: {allow: [Deployment]}", "'Deployment' has no group", "Deployment.apps", id="no group"),
        pytest.param("kinds: {deny: [secret]}", "'secret' has no group", "'Secret'", id="case"),
        pytest.param("kinds: {deny: ['apps/Deployment']}", "not a pattern of kinds", "Kind.group", id="apiVersion"),
        pytest.param("kinds: {denied: [Secret]}", "kinds.denied is not a known field", "'deny'", id="unknown field"),
        pytest.param("kinds: {allow: }", "kinds.allow is empty", "[] for nothing", id="a null rule"),
        pytest.param("clusters: ", "clusters is missing", "{} selects every cluster", id="a null selector"),
        pytest.param("namespaces: [Team_A]", "namespaces[0] is 'Team_A'", "team-a-*", id="namespace"),
        pytest.param("serviceAccount: a/b/c", "'a/b/c' is not an account", "namespace/name", id="account"),
        pytest.param("secrets: never", "secrets is 'never'", "refuse", id="secrets"),
    ],
)
def test_a_wrong_rule_is_an_error_at_its_line(rules: str, message: str, remedy: str) -> None:
    finding = errors(one(rules))[0]
    assert finding.where == "fleet.yaml:3"
    assert finding.message.startswith("spec.tenants[0].")
    assert message in finding.message
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("second", "message"),
    [
        pytest.param(tenant(name="b"), "spec.tenants[1].folder 'bundles/team-a' is that of", id="folder"),
        pytest.param(tenant(folder="bundles/b"), "spec.tenants[1].name 'team-a' is that of", id="name"),
        pytest.param(tenant(name="b", folder="teams/b"), "spec.tenants[1].folder is 'teams/b'", id="not in bundles"),
        pytest.param(tenant(name="b", folder="bundles/../b"), "folder is 'bundles/../b'", id="dots"),
    ],
)
def test_each_tenant_has_a_name_and_a_folder_of_its_own(second: str, message: str) -> None:
    (finding, _) = errors(load(f"{{tenants: [{tenant()}, {second}]}}", {}))
    assert message in finding.message


# --- what a bundle asks for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "spec", "message", "remedy"),
    [
        pytest.param(
            "clusters: {matchLabels: {tier: prod}}",
            "targets: {}",
            "spec.targets: tenant team-a may not have cluster lab",
            "narrow the targets",
            id="clusters",
        ),
        pytest.param(
            "rollouts: [slow]",
            "targets: {}, rollout: careful",
            "spec.rollout: tenant team-a may not use the rollout policy 'careful'",
            "use one of: slow",
            id="rollout",
        ),
        pytest.param(
            "rollouts: [careful]",
            "targets: {}",
            "spec.rollout: tenant team-a may not use the default rollout policy",
            "use one of: careful",
            id="all at once",
        ),
        pytest.param(
            "namespaces: [team-a, 'a-*']",
            "targets: {}, namespace: kube-system",
            "spec.namespace: tenant team-a may not use namespace kube-system",
            "use one of: team-a, a-*",
            id="namespace",
        ),
        pytest.param(
            "serviceAccount: deployer",
            "targets: {}, namespace: shop, serviceAccount: root",
            "spec.serviceAccount: tenant team-a runs as shop/deployer, not as shop/root",
            "remove it",
            id="account",
        ),
        pytest.param(
            "serviceAccount: deployer",
            "targets: {}",
            "spec.namespace is missing: tenant team-a runs as deployer in it",
            "set spec.namespace",
            id="account without a namespace",
        ),
    ],
)
def test_a_bundle_beyond_its_tenants_rights_stops_alone(rules: str, spec: str, message: str, remedy: str) -> None:
    files = {"bundles/team-a/shop/bundle.yaml": bundle(spec), "bundles/base/bundle.yaml": bundle(spec, name="base")}
    found = load(f"{{tenants: [{tenant(rules)}]}}", files)
    (finding,) = errors(found)
    assert (finding.where, finding.about) == ("bundles/team-a/shop/bundle.yaml:4", "bundle shop")
    assert finding.message == message
    assert remedy in finding.remedy
    assert found.broken_bundles == {"shop"}
    assert set(found.bundles) == {"base"}  # the platform's own may all that


def test_a_bundle_within_its_tenants_rights_is_good_and_runs_as_the_tenants_account() -> None:
    found = one(
        "clusters: {matchLabels: {tier: prod}}, rollouts: [careful], namespaces: ['a-*'], serviceAccount: deployer",
        "targets: {matchLabels: {tier: prod}}, rollout: careful, namespace: a-shop",
    )
    assert errors(found) == []
    assert found.bundles[BundleName("shop")].policy.service_account == "a-shop/deployer"
    found = one("serviceAccount: ops/deployer")
    assert found.bundles[BundleName("shop")].policy.service_account == "ops/deployer"


def test_bundles_may_have_to_be_a_tenants() -> None:
    spec = f"{{requireTenant: true, tenants: [{tenant()}]}}"
    files = {"bundles/team-a/shop/bundle.yaml": bundle(), "bundles/base/bundle.yaml": bundle(name="base")}
    (finding,) = errors(found := load(spec, files))
    assert finding.message == "bundles/base is in no tenant's folder, and fleet.yaml has requireTenant"
    assert set(found.bundles) == {"shop"}


def test_bundles_depend_on_those_of_other_tenants() -> None:
    spec = f"{{tenants: [{tenant()}, {tenant(name='team-b', folder='bundles/team-b')}]}}"
    files = {
        "bundles/team-a/shop/bundle.yaml": bundle("targets: {}, dependsOn: [base]"),
        "bundles/team-b/base/bundle.yaml": bundle(name="base"),
    }
    assert errors(load(spec, files)) == []


def test_the_key_of_a_render_changes_with_the_rights_and_with_nothing_else_of_a_tenant() -> None:
    def key(found: Fleet) -> str:
        (request,) = targets.render_requests(found, lambda _: Oid("0" * 40), renderer="1")
        return request.key

    free = key(one("kinds: {allow: ['*']}"))
    assert free != key(one("kinds: {allow: [ConfigMap]}"))
    assert free == key(one("kinds: {allow: ['*']}, clusters: {matchLabels: {tier: prod}}"))
    nobodys = load("{}", {"bundles/shop/bundle.yaml": bundle()})
    (request,) = targets.render_requests(nobodys, lambda _: Oid("0" * 40), renderer="1")
    assert "rights" not in request.inputs


def test_what_a_tenant_says_of_secrets_goes_before_the_fleets_word() -> None:
    spec = f"{{secrets: refuse, tenants: [{tenant('secrets: allow')}]}}"
    found = load(spec, {"bundles/team-a/shop/bundle.yaml": bundle(), "bundles/base/bundle.yaml": bundle(name="base")})
    assert targets.checks_for(found.bundles[BundleName("shop")], found).secrets == "allow"
    assert targets.checks_for(found.bundles[BundleName("base")], found).secrets == "refuse"


# --- rendered objects ---------------------------------------------------------------------------------------------

CONFIG = ObjectKey("", "ConfigMap", "a", "web")
DEPLOYMENT = ObjectKey("apps", "Deployment", "a", "web")
NAMESPACE = ObjectKey("", "Namespace", "", "a")
ROLE = ObjectKey("rbac.authorization.k8s.io", "ClusterRole", "", "web")
CUSTOM = ObjectKey("example.org", "Database", "a", "web")


@pytest.mark.parametrize(
    ("allow", "deny", "key", "scoped", "refused"),
    [
        pytest.param(None, (), CONFIG, False, "", id="everything with a namespace"),
        pytest.param(None, (), NAMESPACE, True, "it is cluster-scoped", id="but nothing without"),
        pytest.param(None, (), CUSTOM, None, "may be cluster-scoped", id="nor what may be without"),
        pytest.param(None, (), CUSTOM, False, "", id="unless it is known to have one"),
        pytest.param(("*",), (), ROLE, True, "it is cluster-scoped", id="a star names none"),
        pytest.param(("*.*",), (), ROLE, True, "it is cluster-scoped", id="two stars neither"),
        pytest.param(("*", "ClusterRole.*"), (), ROLE, True, "", id="a named kind"),
        pytest.param(("*.rbac.authorization.k8s.io",), (), ROLE, True, "", id="a named group"),
        pytest.param(("*.example.org",), (), CUSTOM, None, "", id="a named custom group"),
        pytest.param(("ConfigMap",), (), DEPLOYMENT, False, "kinds.allow does not have it", id="not in the list"),
        pytest.param((), (), CONFIG, False, "kinds.allow does not have it", id="an empty list is nothing"),
        pytest.param(("Deploy*.apps",), (), DEPLOYMENT, False, "", id="a pattern"),
        pytest.param(("Deployment.apps",), ("*.apps",), DEPLOYMENT, False, "kinds.deny has *.apps", id="deny wins"),
        pytest.param(None, ("ConfigMap",), DEPLOYMENT, False, "", id="another is denied"),
    ],
)
def test_kinds_that_a_tenant_may_have(
    allow: tuple[str, ...] | None, deny: tuple[str, ...], key: ObjectKey, scoped: bool | None, refused: str
) -> None:
    found = tenants.refusal(Rights(tenant="team-a", allow=allow, deny=deny), key, cluster_scoped=scoped)
    if not refused:
        assert found is None
        return
    assert found is not None
    assert found[0].startswith(f"tenant team-a may not have {key.gk}: ")
    assert refused in found[0]
    assert "remove the object" in found[1]


@pytest.mark.parametrize(
    ("key", "scoped", "fine"),
    [
        pytest.param(CONFIG, False, True, id="matches"),
        pytest.param(CONFIG._replace(namespace="kube-system"), False, False, id="does not match"),
        pytest.param(NAMESPACE, True, True, id="a namespace that matches"),
        pytest.param(NAMESPACE._replace(name="b"), True, False, id="a namespace that does not"),
        pytest.param(ROLE, True, True, id="nothing to match"),
    ],
)
def test_namespaces_that_a_tenant_may_use(key: ObjectKey, scoped: bool, fine: bool) -> None:
    rights = Rights(tenant="team-a", allow=("*", "Namespace", "ClusterRole.*"), namespaces=("a*",))
    assert (tenants.refusal(rights, key, cluster_scoped=scoped) is None) is fine


def check(root: Path, files: Mapping[str, str]) -> Result:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return CliRunner().invoke(main, ["check", "--fleet", str(root)])


CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: clusterroles.rbac.authorization.k8s.io}
spec: {group: rbac.authorization.k8s.io, scope: Namespaced, names: {kind: ClusterRole}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: root}
"""


@pytest.mark.parametrize(
    ("rules", "text", "message"),
    [
        pytest.param(
            "namespaces: [shop]",
            WEB.replace("web}", "web, namespace: kube-system}"),
            "web.yaml:1: error: ConfigMap/kube-system/web: tenant team-a may not use namespace kube-system",
            id="namespace",
        ),
        pytest.param(
            "kinds: {deny: [ConfigMap]}",
            WEB + "---\n" + WEB.replace("web", "b"),
            "ConfigMap/default/web: tenant team-a may not have ConfigMap: its kinds.deny has ConfigMap",
            id="kind",
        ),
        pytest.param(
            "kinds: {allow: ['*', 'CustomResourceDefinition.*']}",
            CRD,
            "tenant team-a may not have ClusterRole.rbac.authorization.k8s.io: it is cluster-scoped",
            id="a definition that lies",
        ),
        pytest.param(
            "clusters: {}",
            "apiVersion: example.org/v1\nkind: Database\nmetadata: {name: web}\n",
            "may not have Database.example.org: it is a custom kind that may be cluster-scoped",
            id="a custom kind",
        ),
        pytest.param(
            "clusters: {}",
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: web}\n",
            "ClusterNetworkPolicy.policy.networking.k8s.io: it is a custom kind that may be cluster-scoped",
            id="a custom kind of a group of Kubernetes' people",
        ),
    ],
)
def test_check_tells_file_line_tenant_and_rule_of_an_object(
    tmp_path: Path, rules: str, text: str, message: str
) -> None:
    result = check(
        tmp_path,
        {
            "fleet.yaml": stated(f"{{tenants: [{tenant(rules)}]}}"),
            "clusters/all.yaml": CLUSTERS,
            "bundles/team-a/shop/bundle.yaml": bundle(),
            "bundles/team-a/shop/web.yaml": text,
            "bundles/base/bundle.yaml": bundle(name="base"),
            "bundles/base/web.yaml": text.replace("name: web", "name: base"),
        },
    )
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if "error:" in line]
    assert line.startswith("bundles/team-a/shop/web.yaml:")
    assert message in line


DATABASES = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Database, plural: databases}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: example.org/v1
kind: Database
metadata: {name: web}
"""


def test_a_custom_kind_is_namespaced_when_its_definition_beside_it_says_so(tmp_path: Path) -> None:
    rules = "kinds: {allow: ['*', 'CustomResourceDefinition.*']}"
    result = check(
        tmp_path,
        {
            "fleet.yaml": stated(f"{{tenants: [{tenant(rules)}]}}"),
            "clusters/all.yaml": CLUSTERS,
            "bundles/team-a/shop/bundle.yaml": bundle(),
            "bundles/team-a/shop/web.yaml": DATABASES,
        },
    )
    assert result.exit_code == 0, result.output
