"""Where a bundle's sources are: its own folder, or a place outside the fleet repo. Pure. Next: `bundles`."""

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hub.model import External, GitSource, HelmSource, OciSource
from hub.repo import addresses, mounts
from hub.repo.schema import Section
from proto.errors import InvalidInput

LEAST_INTERVAL_S = 60.0
_KINDS = {
    "git": ("url", "branch", "tag", "commit", "path", "credentials", "interval"),
    "helm": ("repository", "chart", "version", "credentials", "interval"),
    "oci": ("url", "tag", "digest", "path", "credentials", "interval"),
}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,249}")
_VERSION = re.compile(r"[A-Za-z0-9_.+<>=!~^*|, -]{1,250}")
"""A tag, a version, or a range of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`path` is where to build, from the bundle's folder; `interval_s` how often to look for something new, 0: never
    without a change of the bundle; `credentials` those for what a chart in the bundle's folder depends on."""

    path: str = ""
    credentials: str = ""
    external: External | None = None
    interval_s: float = 0.0


def source(spec: Section, *, folder: str) -> Source:
    """The `source` of a Bundle's spec."""
    section = spec.section("source", ("path", "credentials", *_KINDS))
    stated = [name for name in ("path", *_KINDS) if section.has(name)]
    if len(stated) > 1:
        section.problem(f"stands beside {stated[0]}", stated[1], remedy="a bundle has one source: keep one of the two")
        return Source()
    if not stated or stated == ["path"]:
        return Source(path=section.path("path", folder=folder), credentials=_credentials(section))
    kind = stated[0]
    if section.has("credentials"):
        section.problem(f"stands beside {kind}", "credentials", remedy=f"write it into {kind}")
    inner = section.section(kind, _KINDS[kind])
    readers: Mapping[str, Callable[[Section], External]] = {"git": _git, "helm": _helm, "oci": _oci}
    external = readers[kind](inner)
    interval_s = inner.duration("interval", default=0.0, least=LEAST_INTERVAL_S)
    if interval_s and addresses.fixed(external):
        inner.problem("means nothing for what never changes", "interval", remedy="remove it")
    path = "" if isinstance(external, HelmSource) else external.path
    return Source(path=f"{mounts.PLACE}/{path}".rstrip("/"), external=external, interval_s=interval_s)


def _git(section: Section) -> GitSource:
    url = _address(section, "url", ("https", "ssh", "http", "file"), "https://git.example.org/team/app.git")
    stated = _one_of(section, ("branch", "tag", "commit"))
    _matching(section, "commit", _COMMIT, "write all 40 hex digits of a commit's id")
    for name in ("branch", "tag"):
        if len(section.text(name)) > 250 or not section.text(name).isprintable():
            section.problem("is no name of a branch or tag", name, remedy="write for example main, v1.4.0 or ~1.4")
    return GitSource(
        url=url,
        branch=section.text("branch") if stated == "branch" else "",
        tag=section.text("tag") if stated == "tag" else "",
        commit=section.text("commit") if stated == "commit" else "",
        path=_path(section),
        credentials=_credentials(section),
    )


def _helm(section: Section) -> HelmSource:
    if section.text("repository").startswith("oci://"):
        remedy = f"write oci: {{url: {section.text('repository')[:200]}/…, tag: …}} instead of helm:"
        section.problem("is an OCI registry", "repository", remedy=remedy)
        repository = ""
    else:
        repository = _address(section, "repository", ("https", "http"), "https://charts.example.org")
    for name, example in (("chart", "ingress-nginx"), ("version", '"4.11.3" or ^4.11')):
        if not section.text(name):
            section.problem("is missing", name, remedy=f"write for example {example}")
    _matching(section, "chart", _CHART, "write the chart's name as the repository has it")
    _matching(section, "version", _VERSION, 'write for example "4.11.3" or ^4.11')
    return HelmSource(
        repository=repository,
        chart=section.text("chart"),
        version=section.text("version"),
        credentials=_credentials(section),
    )


def _oci(section: Section) -> OciSource:
    url = _address(section, "url", ("oci",), "oci://registry.example.org/team/app")
    if url and url.count("/") < 3:
        section.problem("has no repository", "url", remedy="write for example oci://registry.example.org/team/app")
    stated = _one_of(section, ("tag", "digest"))
    _matching(section, "tag", _VERSION, "write for example 1.4.0 or ~1.4")
    _matching(section, "digest", _DIGEST, "write sha256: and 64 hex digits")
    return OciSource(
        url=url,
        tag=section.text("tag") if stated == "tag" else "",
        digest=section.text("digest") if stated == "digest" else "",
        path=_path(section),
        credentials=_credentials(section),
    )


def _address(section: Section, name: str, schemes: tuple[str, ...], example: str) -> str:
    if not section.text(name):
        section.problem("is missing", name, remedy=f"write for example {example}")
        return ""
    try:
        return addresses.normal(section.text(name), schemes=schemes)
    except InvalidInput as error:
        section.problem(error.cause, name, remedy=error.remedy)
        return ""


def _one_of(section: Section, names: tuple[str, ...]) -> str:
    """Which one is stated; a finding when that is not exactly one."""
    stated = [name for name in names if section.text(name)]
    if not stated:
        section.problem(f"needs one of {', '.join(names)}", remedy="say which state of the source is meant")
    elif len(stated) > 1:
        section.problem(f"stands beside {stated[0]}", stated[1], remedy="keep one of the two")
    return stated[0] if stated else ""


def _matching(section: Section, name: str, pattern: re.Pattern[str], remedy: str) -> None:
    if section.text(name) and pattern.fullmatch(section.text(name)) is None:
        section.problem(f"is {section.text(name)[:80]!r}", name, remedy=remedy)


def _path(section: Section) -> str:
    path = posixpath.normpath(section.text("path") or ".")
    if path == ".." or path.startswith(("../", "/")):
        section.problem(f"is {path[:200]!r}", "path", remedy="write a folder of the source, from its top")
        return ""
    return "" if path == "." else path


def _credentials(section: Section) -> str:
    return section.name("credentials", what="credentials", required=False)
