"""Fleet: variables, checks, tenants, signers, the slices' mirror, whom to tell. Pure. Next: `fleet` reads everything
else by them."""

import re
from typing import Literal

from hub.model import Checks, Fleet, Publish, Rights, Selector, Tenant
from hub.noteworthy import KINDS, SEVERITIES, Receiver
from hub.repo import addresses, signers, tenants
from hub.repo.kinds import gates
from hub.repo.kinds.common import ACCOUNT, METADATA
from hub.repo.schema import Section, nearest
from proto.errors import InvalidInput

_SECRETS: tuple[Literal["refuse", "warn", "allow"], ...] = ("refuse", "warn", "allow")
_BUNDLES = re.compile(r"[-a-z0-9*]{1,63}", re.ASCII)
_VALIDATION: tuple[Literal["off", "warn", "error"], ...] = ("off", "warn", "error")


def fleet(root: Section) -> Fleet:
    """What a Fleet says itself."""
    root.section("metadata", METADATA).name(what="fleet", required=False)
    checks = ("variables", "secrets", "validation", "tenants", "requireTenant", "signers")
    fields = (*checks, "publish", "notify", "freezes", "maxChanges")
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
        freezes=gates.freezes(spec),
        max_changes=spec.whole("maxChanges", default=0, least=1),
        publish=_publish(spec),
        notify=_notify(spec),
    )


def _publish(spec: Section) -> Publish | None:
    section = spec.section("publish", ("url", "credentials"))
    if not spec.states("publish"):
        return None
    url = section.text("url")
    if not section.has("url"):
        section.problem("is missing", "url", remedy="write the address of the repository that mirrors the slices")
        return None
    try:
        addresses.normal(url.replace("${cluster}", "cluster"), schemes=("https", "http", "ssh", "file"))
    except InvalidInput as error:
        section.problem(error.cause, "url", remedy=error.remedy)
        return None
    return Publish(url=url, credentials=section.text("credentials"))


def _notify(spec: Section) -> tuple[Receiver, ...]:
    found: list[Receiver] = []
    words = (*SEVERITIES, *KINDS)
    for section in spec.sections("notify", ("name", "url", "credentials", "events", "bundles")):
        name, url, credentials = section.name(what="receiver"), section.text("url"), section.text("credentials")
        if name and any(name == other.name for other in found):
            section.problem(f"{name!r} is that of an earlier receiver", "name", remedy="give it another one")
        if not section.has("url"):
            section.problem("is missing", "url", remedy="write the https:// address that takes the messages")
        elif url:
            try:
                addresses.normal(url, schemes=("https", "http"))
            except InvalidInput as error:
                section.problem(error.cause, "url", remedy=error.remedy)
        if not credentials:
            remedy = "name credentials of the hub that have a webhookSecret and are for this address"
            section.problem("is missing", "credentials", remedy=remedy)
        events, bundles = section.texts("events"), section.texts("bundles")
        for index, word in enumerate(events):
            if word not in words:
                remedy = nearest(word, words, else_=f"write one of {', '.join(words)}")
                section.problem(f"is {word[:80]!r}", "events", index, remedy=remedy)
        for index, pattern in enumerate(bundles):
            if _BUNDLES.fullmatch(pattern) is None:
                remedy = "write a bundle's name, or a pattern such as shop-*"
                section.problem(f"is {pattern[:80]!r}", "bundles", index, remedy=remedy)
        if name and url and credentials:
            found.append(Receiver(name=name, url=url, credentials=credentials, events=events, bundles=bundles))
    return tuple(found)


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
    fields = ("name", "folder", "kinds", "namespaces", "clusters", "serviceAccount", "rollouts", "secrets", "sources")
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
            sources=_prefixes(section),
        )
        for index, pattern in enumerate(tenant.rights.namespaces or ()):
            if tenants.NAMESPACE_PATTERN.fullmatch(pattern) is None:
                remedy = "write a namespace, or a pattern such as team-a-*"
                section.problem(f"is {pattern[:80]!r}", "namespaces", index, remedy=remedy)
        if section.states("serviceAccount") and not all(ACCOUNT.fullmatch(part) for part in account.split("/", 1)):
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


def _prefixes(section: Section) -> tuple[str, ...] | None:
    """The addresses below which a tenant may fetch."""
    stated, found = _rule(section, "sources"), list[str]()
    for index, text in enumerate(stated or ()):
        try:
            found.append(addresses.normal(text, schemes=addresses.SCHEMES))
        except InvalidInput as error:
            section.problem(error.cause, "sources", index, remedy=error.remedy)
    return None if stated is None else tuple(found)


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
