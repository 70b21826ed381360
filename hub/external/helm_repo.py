"""Charts of Helm repositories: a web server with an `index.yaml` that names versions, addresses and digests.

| of the index | what happens                                                                                         |
|--------------|------------------------------------------------------------------------------------------------------|
| unchanged    | not sent again: it is asked for with the state (`ETag`, `Last-Modified`) that it had                 |
| its form     | YAML or JSON; of YAML as Helm writes it, only the one version is parsed: an index may have 30 MB    |
| `version`    | one that is written just like the source's comes first, else the newest in its range                 |
| `urls`       | tried in order; relative ones lie below the repository, `oci://` ones are asked of their registry    |
| `digest`     | the archive has to have it; where there is none, it is of what was fetched                           |

A login goes to the addresses that it is for and to no other, whatever an index or a redirect says, as with Helm without
`--pass-credentials`; who wants that adds the other address to `for`. A chart's tree is its own folder: `Chart.yaml` is
at its top. Next: `dependencies` completes it.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson
import pygit2
import yaml

from hub.external import archive, oci
from hub.external.credentials import Login
from hub.external.web import Web, headers_of, joined, shown, unless
from hub.model import HelmSource, Pin
from hub.repo import versions
from hub.repo.schema import nearest
from proto.errors import FlotillaError, InvalidInput, Permanent, ProtocolError, Transient
from proto.ids import Oid

MAX_INDEX_BYTES = 64 << 20
MAX_CHART_BYTES = 64 << 20
_MAX_YAML_BYTES = 256 << 10
"""Of what is parsed as YAML, about a second: a small index, or of a larger one the one version."""
_MAX_URLS = 5
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_ENTRIES = re.compile(rb"^entries:[ \t]*\r?\n", re.MULTILINE)
_KEY = rb"([^\s\-#'\"][^\s:]*|'[^'\s]*'|\"[^\"\s\\]*\"):[ \t]*\r?$"
_FIRST = re.compile(rb"(?:[ \t]*(?:#.*)?\r?\n)*( +)" + _KEY, re.MULTILINE)
_LATER = re.compile(rb"^[^\s#-]", re.MULTILINE)
_ITEM = re.compile(rb"^( *)- +(?=\S)", re.MULTILINE)
_Loader: type[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Everything stays text: `version: 1.10` is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One version of the chart, and how to read what the index says of it."""

    version: str
    read: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Release:
    """One version of the chart; `digest` is `sha256:…`, or "" when the index has none."""

    version: str
    urls: tuple[str, ...]
    digest: str


def fetch(source: HelmSource, repo: pygit2.Repository, *, login: Login | None = None, known: Pin | None = None) -> Pin:
    """Resolve `source` and bring the chart's tree into `repo`; `known` itself, when the index names it still.

    Raises Transient when the repository cannot be read, Refused when it wants other credentials, Permanent when it has
    no such chart or version, or the archive is another than the index says, InvalidInput for a range or an archive
    that is none.
    """
    thing = f"chart {source.chart} of {source.repository}"
    remedy = f"check the credentials {source.credentials!r}" if source.credentials else ""
    web = Web(thing=thing, login=login, remedy=remedy)
    base = source.repository.rstrip("/") + "/"
    name, _, state = known.unless.partition(": ") if known is not None else ("", "", "")
    condition = {name: state} if state else {}
    index = web.ask(
        joined(base, "index.yaml"),
        headers=lambda there: {**condition, **headers_of(login)(there)},
        max_bytes=MAX_INDEX_BYTES,
    )
    if index.status == 304 and known is not None and condition:
        return known
    if index.status != 200:
        raise web.failed(index)
    release = _chosen(source, _entries(_unzipped(index.body, thing), source.chart, thing), thing)
    if known is not None and known.digest == release.digest and known.revision == release.version:
        return replace(known, unless=unless(index))
    failures: list[FlotillaError] = []
    for url in release.urls[:_MAX_URLS]:
        try:
            there = joined(base, url)
            if there.startswith("http://") and not web.leads(base, there):
                remedy = "publish it with https, or name credentials whose 'for' has the address"
                raise Permanent(thing, f"its index leads to {shown(there)}, without TLS", remedy)
            digest, tree = _fetched(there, release, repo, web, login)
            return Pin(revision=release.version, digest=digest, tree=tree, unless=unless(index))
        except FlotillaError as error:
            failures.append(error)
    if not failures:
        raise Permanent(thing, f"has no address of version {release.version}", "make the index again: helm repo index")
    raise next((error for error in failures if isinstance(error, Transient)), failures[0])


def _fetched(url: str, release: _Release, repo: pygit2.Repository, web: Web, login: Login | None) -> tuple[str, Oid]:
    """The digest of the archive at `url`, and the chart's tree."""
    if url.startswith("oci://"):
        digest, tree = oci.chart(
            url, release.version, repo, login=login if login is not None and login.is_for(url) else None
        )
        _check(digest, release, url, web.thing)
    else:
        with web.saved(url, headers=headers_of(login), max_bytes=MAX_CHART_BYTES) as (path, digest):
            _check(digest, release, url, web.thing)
            tree = archive.unpack(path, repo, what=web.thing, strip=1)
    if "Chart.yaml" not in repo[str(tree)].peel(pygit2.Tree):
        raise InvalidInput(web.thing, f"{shown(url)} has no Chart.yaml", "pack it again with 'helm package'")
    return digest, tree


def _check(digest: str, release: _Release, url: str, thing: str) -> None:
    if release.digest and digest != release.digest:
        cause = f"{shown(url)} has the digest {digest}, but its index says {release.digest}"
        raise ProtocolError(thing, cause, "make the index again; if that is not it, somebody changed the archive")


def _chosen(source: HelmSource, entries: list[_Entry], thing: str) -> _Release:
    """The release of the source's version. Of a version that is there twice, the first one; what cannot be read is
    passed over. Both as Helm does."""
    left = list(entries)
    while (version := _newest(source.version, left, thing)) is not None:
        for entry in left:
            if entry.version == version and (release := _release(version, entry.read())) is not None:
                return release
        left = [entry for entry in left if entry.version != version]
    some = ", ".join(entry.version for entry in entries[:10])
    raise Permanent(thing, f"has no version in {source.version!r}", f"it has {some}" if some else "publish one")


def _newest(range: str, entries: list[_Entry], thing: str) -> str | None:
    try:
        return versions.newest(range, [entry.version for entry in entries])
    except InvalidInput as error:
        raise InvalidInput(thing, f"its {error.thing} {error.cause}", error.remedy) from error


def _release(version: str, entry: Any) -> _Release | None:
    """Pure: what an entry of the index says; None when that is no release."""
    if not isinstance(entry, Mapping):
        return None
    urls, digest = entry.get("urls"), entry.get("digest") or ""
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if not isinstance(urls, list) or (digest and found is None):
        return None
    texts = tuple(url for url in urls if isinstance(url, str) and url)
    return _Release(version=version, urls=texts, digest=f"sha256:{found[1]}" if found else "")


def _entries(index: bytes, chart: str, thing: str) -> list[_Entry]:
    """The versions of the chart in an index. Raises Permanent when it has none, ProtocolError for what is no index."""
    if index.lstrip()[:1] != b"{" and len(index) > _MAX_YAML_BYTES:
        part, names = _part(index, chart)
        if part is not None:
            return _items(part)
    else:
        found = _read(index)
        entries = found.get("entries") if isinstance(found, Mapping) else None
        names = [str(name) for name in entries] if isinstance(entries, Mapping) else []
        if isinstance(entries, Mapping) and isinstance(entries.get(chart), list):
            stated = [entry for entry in entries[chart] if isinstance(entry, Mapping)]
            whole = [entry for entry in stated if isinstance(entry.get("version"), str)]
            return [_Entry(version=entry["version"], read=partial(dict, entry)) for entry in whole]
    if not names:
        remedy = "check that its address is that of a Helm repository: the part before /index.yaml"
        raise ProtocolError(thing, "its index.yaml is not one of charts", remedy)
    raise Permanent(thing, "is not in its index", nearest(chart, names, else_="check the name of the chart"))


def _unzipped(index: bytes, thing: str) -> bytes:
    """Some file servers keep it compressed, and send it so whatever was asked for."""
    if not index.startswith(b"\x1f\x8b"):
        return index
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(index, MAX_INDEX_BYTES)
    except zlib.error as error:
        raise ProtocolError(thing, "its index.yaml is compressed, and broken", "publish it again") from error
    if unzip.unconsumed_tail or not unzip.eof:
        cause = f"its index.yaml is not whole, or has more than {MAX_INDEX_BYTES} bytes"
        raise ProtocolError(thing, cause, "publish it again, or split the repository")
    return plain


def _read(index: bytes) -> Any:
    """None for what cannot be read."""
    if index.lstrip()[:1] == b"{":
        try:
            return orjson.loads(index)
        except orjson.JSONDecodeError:
            if len(index) > _MAX_YAML_BYTES:
                return None
    return _yaml(index)


def _part(index: bytes, chart: str) -> tuple[bytes | None, list[str]]:
    """Pure: the lines about `chart` of an index as Helm writes it, where each chart is a line of its own below
    `entries:`; and the names of all charts. None when it is not written so, or has no such line, or two."""
    start = _ENTRIES.search(index)
    first = _FIRST.match(index, start.end()) if start is not None else None
    if start is None or first is None:
        return None, []
    later = _LATER.search(index, start.end())
    end = later.start() if later is not None else len(index)
    keys = re.compile(rb"^ {%d}" % len(first[1]) + _KEY, re.MULTILINE).finditer(index, start.end(), end)
    found = [(key.start(), key[1].strip(b"'\"").decode("utf-8", "replace")) for key in keys]
    names = [name for _, name in found]
    if names.count(chart) != 1:
        return None, names
    at = names.index(chart)
    return index[found[at][0] : found[at + 1][0] if at + 1 < len(found) else end], names


def _items(part: bytes) -> list[_Entry]:
    """Pure: the versions in the lines about a chart, where each is an item of a list with a line for its version."""
    first = _ITEM.search(part)
    if first is None:
        return []
    starts = [found.start() for found in re.finditer(rb"^ {%d}- " % len(first[1]), part, re.MULTILINE)]
    line = re.compile(rb"^ {%d}version: +(['\"]?)([^\s'\"#&*!|>]+)\1 *\r?$" % len(first[0]), re.MULTILINE)
    entries: list[_Entry] = []
    for start, end in zip(starts, [*starts[1:], len(part)], strict=True):
        item = part[start:end].replace(b"-", b" ", 1)
        version = line.search(item)
        if version is not None and len(item) <= _MAX_YAML_BYTES:
            entries.append(_Entry(version=version[2].decode("utf-8", "replace"), read=partial(_yaml, item)))
    return entries


def _yaml(text: bytes) -> Any:
    """None for what cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
