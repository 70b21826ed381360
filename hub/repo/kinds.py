"""The kinds of the fleet repo, each from a `Section` of its document to its value in `model`.

What is wrong becomes a finding of the section; the value that is returned then has defaults in those places and is
not to be used. Fields of the design that are not carried out yet are refused, never ignored. Next: `fleet`.
"""

import posixpath
import re
from typing import Literal

from hub.model import (
    Amount,
    Bundle,
    Checks,
    Cluster,
    FailurePolicy,
    Fleet,
    HelmOptions,
    Rights,
    RolloutPolicy,
    Selector,
    Tenant,
    Variant,
    WavePolicy,
)
from hub.repo import signers, tables, tenants
from hub.repo.schema import Section, nearest
from proto import health_checks
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName
from proto.slices import BundlePolicy, DriftPolicy, HealthCheck, IgnoreRule

REST = "rest"
"""The wave of the clusters that no wave selects."""

_METADATA = ("name", "labels", "annotations")
_HELM = ("values", "valuesFiles", "releaseName")
_MAX_RELEASE_NAME = 53
"""Helm's own limit."""
_DECOMMISSION: tuple[Literal["prune", "detach", ""], ...] = ("prune", "detach", "")
_MODES: tuple[Literal["revert", "report", "ignore"], ...] = ("revert", "report", "ignore")
_ADDITIONS: tuple[Literal["tolerate", "report", "revert"], ...] = ("tolerate", "report", "revert")
_ADOPT: tuple[Literal["ifUnowned", "always", "never"], ...] = ("ifUnowned", "always", "never")
_ACTIONS: tuple[Literal["rollback", "pause", "continue"], ...] = ("rollback", "pause", "continue")
_SECRETS: tuple[Literal["refuse", "warn", "allow"], ...] = ("refuse", "warn", "allow")
_VALIDATION: tuple[Literal["off", "warn", "error"], ...] = ("off", "warn", "error")
_SUPERSEDE: tuple[Literal["queue", "replace"], ...] = ("queue", "replace")
_KUBERNETES = re.compile(r"v?[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3}([-+][-+.0-9A-Za-z]{1,40})?)?", re.ASCII)
_POINTER = re.compile(r"(/([^~/]|~[01])*)+")
_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_API_VERSION = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?v[0-9][a-z0-9]{0,20}", re.ASCII)


def fleet(root: Section) -> Fleet:
    """What a Fleet says itself: variables, checks, tenants and signers."""
    root.section("metadata", _METADATA).name(what="fleet", required=False)
    fields = ("variables", "secrets", "validation", "tenants", "requireTenant", "signers")
    spec = root.section("spec", fields, not_yet=("defaults",))
    return Fleet(
        variables=spec.variables(),
        checks=Checks(
            secrets=spec.choice("secrets", _SECRETS, default="warn"),
            validation=spec.choice("validation", _VALIDATION, default="warn"),
        ),
        tenants=_tenants(spec),
        require_tenant=spec.flag("requireTenant", default=False),
        signers=_signers(spec),
    )


def _signers(spec: Section) -> tuple[str, ...]:
    found = spec.texts("signers")
    for index, text in enumerate(found):
        try:
            signers.read(text, what="signer")
        except InvalidInput as error:
            spec.problem(error.cause, "signers", index, remedy=error.remedy)
    return found


def _tenants(spec: Section) -> tuple[Tenant, ...]:
    found: list[Tenant] = []
    fields = ("name", "folder", "kinds", "namespaces", "clusters", "serviceAccount", "rollouts", "secrets")
    for section in spec.sections("tenants", fields):
        name, account = section.name(what="tenant"), section.text("serviceAccount")
        kind_rules = section.section("kinds", ("allow", "deny"))
        tenant = Tenant(
            name=name,
            folder=_tenant_folder(section),
            rights=Rights(
                tenant=name,
                allow=_kind_patterns(kind_rules, "allow"),
                deny=_kind_patterns(kind_rules, "deny") or (),
                namespaces=_rule(section, "namespaces"),
            ),
            clusters=(
                section.selector("clusters", why="which clusters the tenant may have")
                if section.states("clusters")
                else Selector()
            ),
            rollouts=_rule(section, "rollouts"),
            service_account=account,
            secrets=section.choice("secrets", _SECRETS, default="warn") if section.has("secrets") else "",
        )
        for index, pattern in enumerate(tenant.rights.namespaces or ()):
            if tenants.NAMESPACE_PATTERN.fullmatch(pattern) is None:
                remedy = "write a namespace, or a pattern such as team-a-*"
                section.problem(f"is {pattern[:80]!r}", "namespaces", index, remedy=remedy)
        if section.states("serviceAccount") and not all(_ACCOUNT.fullmatch(part) for part in account.split("/", 1)):
            remedy = "write the account's name, or namespace/name"
            section.problem(f"{account[:80]!r} is not an account", "serviceAccount", remedy=remedy)
        for field, value in (("name", name), ("folder", tenant.folder)):
            if value and any(value == getattr(other, field) for other in found):
                section.problem(f"{value!r} is that of an earlier tenant", field, remedy="give it another one")
        found.append(tenant)
    return tuple(found)


def _tenant_folder(section: Section) -> str:
    folder = section.text("folder").rstrip("/")
    parts = folder.split("/")
    if not section.has("folder"):
        section.problem("is missing", "folder", remedy="write where its bundles are, such as bundles/team-a")
    elif parts[0] != "bundles" or not all(part.strip(".") for part in parts):
        section.problem(f"is {folder[:200]!r}", "folder", remedy="write a folder in bundles/, such as bundles/team-a")
    return folder


def _rule(section: Section, name: str) -> tuple[str, ...] | None:
    """A list that restricts: None without it. A null would restrict nothing where somebody meant something."""
    if section.states(name) and not section.has(name):
        section.problem("is empty", name, remedy="list what is allowed, [] for nothing, or remove the field for all")
    return section.texts(name) if section.has(name) else None


def _kind_patterns(section: Section, name: str) -> tuple[str, ...] | None:
    patterns = _rule(section, name)
    for index, pattern in enumerate(patterns or ()):
        if tenants.KIND_PATTERN.fullmatch(pattern) is None:
            remedy = "write Kind.group, such as Deployment.apps or *.example.org; core kinds have no group"
            section.problem(f"{pattern[:80]!r} is not a pattern of kinds", name, index, remedy=remedy)
        elif not {".", "*"} & set(pattern) and pattern not in tenants.CORE_KINDS:
            near = nearest(pattern, tenants.CORE_KINDS)
            section.problem(
                f"{pattern[:80]!r} has no group and is no core kind",
                name,
                index,
                remedy=near or f"write {pattern[:80]}.group, such as Deployment.apps, or {pattern[:80]}.*",
            )
    return patterns


def cluster(root: Section, where: str) -> Cluster:
    metadata = root.section("metadata", _METADATA)
    spec = root.section("spec", ("kubernetes", "variables", "decommission"), not_yet=("signature", "tenant"))
    kubernetes = spec.text("kubernetes")
    if kubernetes and _KUBERNETES.fullmatch(kubernetes) is None:
        spec.problem(f"{kubernetes[:80]!r} is not a version", "kubernetes", remedy='write for example "1.36"')
    return Cluster(
        name=ClusterName(metadata.name(what="cluster")),
        labels=metadata.labels("labels"),
        kubernetes=kubernetes.removeprefix("v"),
        variables=spec.variables(),
        decommission=spec.choice("decommission", _DECOMMISSION, default=""),
        where=where,
    )


def cluster_table(root: Section, where: str, *, folder: str) -> tables.Table:
    """`folder` is that of its file in the fleet repo."""
    root.section("metadata", _METADATA).name(what="table", required=False)
    spec = root.section("spec", ("path", "columns"))
    path = posixpath.normpath(posixpath.join(folder, spec.text("path")))
    if not spec.has("path"):
        spec.problem("is missing", "path", remedy="write the table's path from here, such as stores.csv")
    elif not path.startswith("clusters/") or not path.endswith((".csv", ".json")):
        spec.problem(f"is {path[:200]!r}", "path", remedy="name a .csv or .json file in clusters/")
    columns = spec.mapping("columns")
    for field, column in columns.items():
        if problem := tables.field_problem(field, typed=path.endswith(".csv")):
            spec.problem(problem[0], "columns", field, remedy=problem[1])
        elif not isinstance(column, str):
            spec.problem("is not the name of a column", "columns", field, remedy="write it as a string")
    if columns and "name" not in columns:
        spec.problem("have no name", "columns", remedy="say which column has the clusters' names")
    return tables.Table(path=path, columns=columns, where=where)


def bundle(root: Section, where: str, *, folder: str) -> Bundle:
    """`folder` is where the bundle's file and sources are in the fleet repo."""
    metadata = root.section("metadata", _METADATA)
    metadata.labels("labels")
    name = BundleName(metadata.name(what="bundle"))
    if name and name != (place := folder.rpartition("/")[2]):
        remedy = "a bundle goes by its folder's name: rename one of the two"
        metadata.problem(f"{name!r} is not the name of the bundle's folder, {place[:80]!r}", "name", remedy=remedy)
    spec = root.section(
        "spec",
        (
            *("targets", "source", "namespace", "variants", "helm", "variables", "dependsOn", "rollout"),
            *("drift", "prune", "destructivePrune", "adopt", "timeout", "serviceAccount", "allowEmpty", "healthChecks"),
            "pinFirstRender",
            "renamedFrom",
        ),
        not_yet=("signature", "tenant", "windows", "patches"),
    )
    depends_on = spec.names("dependsOn", what="bundle")
    namespace = spec.name("namespace", what="namespace", required=False)
    return Bundle(
        name=name,
        folder=folder,
        targets=spec.selector("targets", why="which clusters get the bundle"),
        source=spec.section("source", ("path",), not_yet=("git", "helm", "oci")).path("path", folder=folder),
        namespace=namespace,
        variants=tuple(
            _variant(section, folder)
            for section in spec.sections("variants", ("when", "kustomize", "helm", "variables"), not_yet=("patches",))
        ),
        helm=_helm(spec, folder),
        variables=spec.variables(),
        depends_on=tuple(BundleName(other) for other in depends_on),
        pin_first_render=spec.flag("pinFirstRender", default=False),
        rollout=spec.name("rollout", what="rollout policy", required=False),
        policy=BundlePolicy(
            name=name,
            drift=_drift(spec.section("drift", ("mode", "additions", "ignore"))),
            prune=spec.flag("prune", default=True),
            destructive_prune=spec.flag("destructivePrune", default=False),
            adopt=spec.choice("adopt", _ADOPT, default="ifUnowned"),
            depends_on=depends_on,
            service_account=_service_account(spec, namespace),
            timeout_s=spec.duration("timeout", default=600.0, least=1.0),
            allow_empty=spec.flag("allowEmpty", default=False),
            health_checks=checks(spec),
        ),
        renamed_from=BundleName(spec.name("renamedFrom", what="bundle", required=False)),
        where=where,
    )


def _service_account(spec: Section, namespace: str) -> str:
    """Whom the agent acts as for the bundle, as `namespace/name`; "" is the agent itself."""
    if not spec.has("serviceAccount"):
        return ""
    stated, slash, name = spec.text("serviceAccount").rpartition("/")
    remedy = "write the account's name, or namespace/name"
    if not slash and not namespace:
        spec.problem("has no namespace", "serviceAccount", remedy="write namespace/name, or set spec.namespace")
    elif not all(_ACCOUNT.fullmatch(part) and len(part) <= 253 for part in (stated if slash else namespace, name)):
        spec.problem(f"{spec.text('serviceAccount')[:80]!r} is not an account", "serviceAccount", remedy=remedy)
    return f"{stated or namespace}/{name}"


def checks(spec: Section) -> tuple[HealthCheck, ...]:
    """The `healthChecks` of a Bundle's spec."""
    found: list[HealthCheck] = []
    for section in spec.sections("healthChecks", ("apiVersion", "kind", "current", "inProgress", "failed")):
        check = HealthCheck(
            api_version=section.text("apiVersion"),
            kind=section.text("kind"),
            current=section.text("current"),
            in_progress=section.text("inProgress"),
            failed=section.text("failed"),
        )
        for name, remedy in (
            ("apiVersion", "write for example cert-manager.io/v1"),
            ("kind", "write for example Certificate"),
            ("current", "write when the object is healthy, in CEL"),
        ):
            if not section.has(name):
                section.problem("is missing", name, remedy=remedy)
        if check.api_version and _API_VERSION.fullmatch(check.api_version) is None:
            section.problem(
                f"{check.api_version[:80]!r} is not group/version", "apiVersion", remedy="write for example apps/v1"
            )
        name, _, cause = health_checks.problem(check).partition(" ") if check.current else ("", "", "")
        if name:
            section.problem(cause, name, remedy="correct the expression; see docs/fleet-repo.md for its variables")
        if any((other.api_version, other.kind) == (check.api_version, check.kind) for other in found):
            section.problem(f"is a second check of {check.kind}", remedy="write its expressions into the first one")
        found.append(check)
    return tuple(found)


def _variant(section: Section, folder: str) -> Variant:
    kustomize = section.section("kustomize", ("path",))
    if section.has("kustomize") and not kustomize.has("path"):
        kustomize.problem("is missing", "path", remedy="write the overlay's path inside the bundle's folder")
    return Variant(
        when=section.selector("when", why="for which clusters the variant is"),
        kustomize=kustomize.path("path", folder=folder) if kustomize.has("path") else None,
        helm=_helm(section, folder),
        variables=section.variables(),
    )


def _helm(section: Section, folder: str) -> HelmOptions | None:
    if not section.has("helm"):
        return None
    helm = section.section("helm", _HELM)
    release = helm.name("releaseName", what="Helm release", required=False)
    if len(release) > _MAX_RELEASE_NAME:
        helm.problem("is too long", "releaseName", remedy=f"use at most {_MAX_RELEASE_NAME} characters")
    return HelmOptions(
        values=helm.mapping("values"), values_files=helm.paths("valuesFiles", folder=folder), release=release
    )


def _drift(section: Section) -> DriftPolicy:
    rules = section.sections("ignore", ("group", "kind", "namespace", "name", "labels", "paths"))
    return DriftPolicy(
        mode=section.choice("mode", _MODES, default="revert"),
        additions=section.choice("additions", _ADDITIONS, default="report"),
        ignore=tuple(_ignore_rule(rule) for rule in rules),
    )


def _ignore_rule(section: Section) -> IgnoreRule:
    paths = section.texts("paths")
    if not paths:
        section.problem("are missing", "paths", remedy="list what to leave alone, for example /spec/replicas")
    for index, path in enumerate(paths):
        if _POINTER.fullmatch(path) is None:
            section.problem(
                f"is {path[:80]!r}, not a JSON pointer", "paths", index, remedy="write for example /spec/replicas"
            )
    return IgnoreRule(
        group=section.text("group") if section.has("group") else None,
        kind=section.text("kind") if section.has("kind") else None,
        namespace=section.text("namespace") if section.has("namespace") else None,
        name=section.text("name") if section.has("name") else None,
        labels=dict(section.labels("labels")),
        paths=paths,
    )


def policy(root: Section, where: str) -> RolloutPolicy:
    name = root.section("metadata", _METADATA).name(what="rollout policy")
    spec = root.section("spec", ("waves", "failure", "offline", "supersede"), not_yet=("windows", "freezes", "gates"))
    failure = spec.section("failure", ("budget", "deadline", "action"))
    offline = spec.section("offline", ("after", "budget"))
    return RolloutPolicy(
        name=name,
        waves=_waves(spec),
        failure=FailurePolicy(
            budget=failure.amount("budget", default=Amount(value=0)),
            deadline_s=failure.duration("deadline", default=600.0, least=1.0),
            action=failure.choice("action", _ACTIONS, default="rollback"),
        ),
        offline_after_s=offline.duration("after", default=300.0, least=1.0),
        offline_budget=offline.amount("budget", default=Amount(value=0)) if offline.has("budget") else None,
        supersede=spec.choice("supersede", _SUPERSEDE, default="queue"),
        where=where,
    )


def _waves(spec: Section) -> tuple[WavePolicy, ...]:
    fields = ("name", "select", "maxConcurrent", "soak", "allowEmpty", "minProof", "offlineBudget")
    found: list[WavePolicy] = []
    for section in spec.sections("waves", fields, not_yet=("gates", "windows")):
        name = section.name(what="wave")
        if name == REST:
            section.problem(
                f"{REST!r} is the wave of the clusters that no wave selects", "name", remedy="give it another name"
            )
        elif name and any(wave.name == name for wave in found):
            section.problem(f"{name!r} is the name of an earlier wave", "name", remedy="give it another name")
        found.append(
            WavePolicy(
                name=name,
                select=section.selector("select", why="which clusters are in the wave"),
                max_concurrent=section.amount("maxConcurrent", default=Amount(value=100, percent=True), least=1),
                soak_s=section.duration("soak", default=0.0),
                allow_empty=section.flag("allowEmpty", default=False),
                min_proof=section.amount("minProof", default=Amount(value=50, percent=True), least=1),
                offline_budget=(
                    section.amount("offlineBudget", default=Amount(value=0)) if section.has("offlineBudget") else None
                ),
            )
        )
    return tuple(found)
