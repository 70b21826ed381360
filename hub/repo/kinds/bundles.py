"""Bundle: what is rendered for which clusters, and the agent's policy for it. Pure. Next: `fleet`."""

import re
from typing import Literal

from hub.model import Bundle, HelmOptions, Variant
from hub.repo.kinds import external, patches
from hub.repo.kinds.common import ACCOUNT, METADATA
from hub.repo.schema import Section
from proto import health_checks as cel
from proto.ids import BundleName
from proto.slices import BundlePolicy, DriftPolicy, HealthCheck, IgnoreRule

_HELM = ("values", "valuesFiles", "releaseName")
_MAX_RELEASE_NAME = 53
"""Helm's own limit."""
_MODES: tuple[Literal["revert", "report", "ignore"], ...] = ("revert", "report", "ignore")
_ADDITIONS: tuple[Literal["tolerate", "report", "revert"], ...] = ("tolerate", "report", "revert")
_ADOPT: tuple[Literal["ifUnowned", "always", "never"], ...] = ("ifUnowned", "always", "never")
_POINTER = re.compile(r"(/([^~/]|~[01])*)+")
_API_VERSION = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?v[0-9][a-z0-9]{0,20}", re.ASCII)


def bundle(root: Section, where: str, *, folder: str) -> Bundle:
    """`folder` is where the bundle's file and sources are in the fleet repo."""
    metadata = root.section("metadata", METADATA)
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
            *("pinFirstRender", "kustomize", "patches"),
            "renamedFrom",
        ),
        not_yet=("signature", "tenant", "windows"),
    )
    source = external.source(spec, folder=folder)
    depends_on = spec.names("dependsOn", what="bundle")
    namespace = spec.name("namespace", what="namespace", required=False)
    return Bundle(
        name=name,
        folder=folder,
        targets=spec.selector("targets", why="which clusters get the bundle"),
        source=source.path,
        external=source.external,
        interval_s=source.interval_s,
        chart_credentials=source.credentials,
        namespace=namespace,
        variants=tuple(
            _variant(section, folder)
            for section in spec.sections("variants", ("when", "kustomize", "helm", "patches", "variables"))
        ),
        kustomize=_kustomize(spec, folder),
        helm=_helm(spec, folder),
        patches=patches.patches(spec, folder=folder),
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
            health_checks=health_checks(spec),
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
    elif not all(ACCOUNT.fullmatch(part) and len(part) <= 253 for part in (stated if slash else namespace, name)):
        spec.problem(f"{spec.text('serviceAccount')[:80]!r} is not an account", "serviceAccount", remedy=remedy)
    return f"{stated or namespace}/{name}"


def health_checks(spec: Section) -> tuple[HealthCheck, ...]:
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
        name, _, cause = cel.problem(check).partition(" ") if check.current else ("", "", "")
        if name:
            section.problem(cause, name, remedy="correct the expression; see docs/fleet-repo.md for its variables")
        if any((other.api_version, other.kind) == (check.api_version, check.kind) for other in found):
            section.problem(f"is a second check of {check.kind}", remedy="write its expressions into the first one")
        found.append(check)
    return tuple(found)


def _variant(section: Section, folder: str) -> Variant:
    return Variant(
        when=section.selector("when", why="for which clusters the variant is"),
        kustomize=_kustomize(section, folder),
        helm=_helm(section, folder),
        patches=patches.patches(section, folder=folder),
        variables=section.variables(),
    )


def _kustomize(section: Section, folder: str) -> str | None:
    kustomize = section.section("kustomize", ("path",))
    if section.has("kustomize") and not kustomize.has("path"):
        kustomize.problem("is missing", "path", remedy="write the overlay's path inside the bundle's folder")
    return kustomize.path("path", folder=folder) if kustomize.has("path") else None


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
