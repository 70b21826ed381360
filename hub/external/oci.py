"""Artifacts of OCI registries: Helm charts, Flux's artifacts, and what `oras push` makes of folders and files.

| the manifest's layers                     | become                                                                 |
|-------------------------------------------|------------------------------------------------------------------------|
| a Helm chart                              | the chart's own folder; its provenance is passed over                  |
| archives (`…tar`, `…tar+gzip`, Flux's)    | what is in them, together                                              |
| others with an `…image.title`             | a file of that name                                                    |
| anything else, the same file twice        | refused                                                                |

What is fetched is named by the sha256 of the manifest, which names the layers by theirs: a tag is asked for once, and
may move as it likes. An index of manifests is followed where it has one only.

The password goes to the registry, by HTTPS (or to this machine), as Basic or to the token server that it names, if that
is the registry's own host or an address that the login is for: else a registry could send it anywhere. Neither password
nor token goes where a blob is redirected to. Next: `narrow` for a folder of it, `dependencies` for a chart's.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
import pygit2

from hub.external import archive, narrow
from hub.external.credentials import Login
from hub.external.web import Answer, Web, basic, joined, shown
from hub.model import OciSource, Pin
from hub.repo import addresses, listing, versions
from proto.errors import InvalidInput, Permanent, ProtocolError, Refused, TooLarge
from proto.ids import Oid

MAX_BLOB_BYTES = 128 << 20
MAX_LAYERS = 100
MAX_PAGES = 100
_MAX_JSON_BYTES = 4 << 20
_TOKEN_AGE_S = 30.0
"""A token is good for 60 s at least; a new one is asked for before that."""

_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_EMPTY = "application/vnd.oci.empty.v1+json"
_TITLE = "org.opencontainers.image.title"
_ATTESTATION = "vnd.docker.reference.type"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_URL = re.compile(r"oci://(?P<host>[^/@]+)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)")
_LINK = re.compile(r"<([^>]*)>\s*;[^,]*\brel=\"?next\"?")
_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


def fetch(source: OciSource, repo: pygit2.Repository, *, login: Login | None = None, known: Pin | None = None) -> Pin:
    """Resolve `source` and bring its tree into `repo`; `known` itself, when it is that still.

    A folder `path` keeps its place in the tree. Raises Transient when the registry cannot be read, Refused when it
    wants other credentials, Permanent for what is not there or is not what its digest says, InvalidInput for what no
    bundle may be.
    """
    registry = _Registry(source, login)
    tag = "" if source.digest else registry.tag(source.tag)
    digest, manifest = registry.manifest(source.digest or tag)
    if known is not None and known.digest == digest:
        return known
    tree = registry.tree(repo, manifest)
    if source.path:
        found = narrow.narrowed(repo, repo[str(tree)].peel(pygit2.Tree), source.path)
        if found is None:
            raise Permanent(registry.web.thing, f"has no folder {source.path!r}", "check spec.source.oci.path")
        tree = found
    return Pin(revision=tag or digest, digest=digest, tree=tree)


def chart(url: str, version: str, repo: pygit2.Repository, *, login: Login | None = None) -> tuple[str, Oid]:
    """The chart that a Helm index names as `oci://host/repository`, with `:tag` or `@digest`, or else the tag of its
    `version`: the sha256 of its archive, and its tree. Raises as `fetch`."""
    folder, _, last = url.rpartition("/")
    name, at, digest = last.partition("@")
    name, _, tag = name.partition(":")
    registry = _Registry(OciSource(url=f"{folder}/{name}"), login)
    _, manifest = registry.manifest(digest if at else registry.tag(tag or version))
    layers = [layer for layer in _layers(manifest, registry.web.thing) if layer["mediaType"] == _CHART]
    if not layers:
        raise Permanent(registry.web.thing, "is not a Helm chart", "check its address")
    return layers[0]["digest"], registry.tree(repo, manifest)


class _Registry:
    """One repository of a registry, for the time of one fetch."""

    def __init__(self, source: OciSource, login: Login | None) -> None:
        thing = f"OCI artifact {source.url}"
        parts = _URL.fullmatch(source.url)
        if parts is None:
            raise InvalidInput(thing, "is not an address of an artifact", "write oci://host/repository, in lower case")
        host = _DOCKER_HUB.get(parts["host"], parts["host"])
        plain = login.plain_http if login is not None else False
        plain = plain or (addresses.local(source.url) and (login is None or login.ca is None))
        self.web = Web(
            thing=thing,
            login=login,
            remedy=f"check the credentials {source.credentials!r}" if source.credentials else "",
        )
        self._name, self._login = parts["name"], login
        self._base = f"{'http' if plain else 'https'}://{host}"
        self._challenge, self._authorization, self._since = "", "", 0.0
        if login is not None and login.token:
            self._authorization = f"Bearer {login.token}"

    def tag(self, asked: str) -> str:
        """The tag for a name, a version or a range. A `+` of a version is `_` in a tag, as with Helm."""
        if versions.is_range(asked):
            tags = {tag.replace("_", "+"): tag for tag in self._tags()}
            newest = versions.newest(asked, tags)
            if newest is None:
                some = ", ".join(sorted(tags.values())[-10:])
                raise Permanent(self.web.thing, f"has no tag in {asked!r}", f"it has {some}" if some else "push one")
            return tags[newest]
        tag = asked.replace("+", "_")
        if _TAG.fullmatch(tag) is None:
            raise InvalidInput(self.web.thing, f"{listing.shown(asked)!r} is not a tag", "write a name, or a range")
        return tag

    def manifest(self, reference: str, *, within: bool = False) -> tuple[str, Mapping[str, Any]]:
        """The digest of what `reference` (a tag or a digest) names, and the manifest of layers that it is, or has."""
        if _TAG.fullmatch(reference) is None and _DIGEST.fullmatch(reference) is None:
            raise InvalidInput(self.web.thing, f"{listing.shown(reference)!r} is no digest", "write sha256:…")
        answer = self._get(f"manifests/{reference}", accept=", ".join((*_MANIFESTS, *_INDEXES)), found=False)
        if answer.status == 404:
            what = reference if _DIGEST.fullmatch(reference) else f"tag {reference!r}"
            raise Permanent(self.web.thing, f"has no {what}", "check its name, and that the hub may see it")
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        stated = answer.headers.get("docker-content-digest", digest)
        if digest != (reference if _DIGEST.fullmatch(reference) else stated if _DIGEST.fullmatch(stated) else digest):
            raise ProtocolError(self.web.thing, f"its manifest {reference} is not what its digest says", _DAMAGED)
        found = _json(answer, self.web.thing)
        kind = found.get("mediaType") or answer.headers.get("content-type", "").partition(";")[0].strip()
        if kind in _INDEXES and not within:
            return digest, self.manifest(self._only(found), within=True)[1]
        if kind not in _MANIFESTS or not isinstance(found.get("layers"), list):
            raise Permanent(self.web.thing, "is not an artifact with layers", "push it with helm, flux or oras")
        return digest, found

    def tree(self, repo: pygit2.Repository, manifest: Mapping[str, Any]) -> Oid:
        """What the layers hold. Raises InvalidInput for what is no bundle, ProtocolError for a wrong digest."""
        layers = _layers(manifest, self.web.thing)
        charts = [layer for layer in layers if layer["mediaType"] == _CHART]
        files = archive.Files(repo, what=self.web.thing)
        for layer in charts[:1] or layers:
            kind, title = layer["mediaType"], (layer.get("annotations") or {}).get(_TITLE)
            with self._blob(layer["digest"]) as path:
                if charts:
                    files.unpack(path, strip=1)
                elif kind.endswith(("tar", "tar+gzip", "tar.gzip", "tar+zstd")) and (
                    title is None or archive.is_archive(path)
                ):
                    files.unpack(path)
                elif isinstance(title, str):
                    files.expect(title, path.stat().st_size)
                    files.store(title, path.read_bytes())
                else:
                    cause = f"has a layer of the type {listing.shown(kind)}, which is no archive and has no title"
                    raise InvalidInput(self.web.thing, cause, "push it with helm, flux or oras")
        return files.write()

    def _tags(self) -> Iterator[str]:
        path = "tags/list?n=1000"
        for _ in range(MAX_PAGES):
            answer = self._get(path, accept="application/json")
            for tag in _json(answer, self.web.thing).get("tags") or ():
                if isinstance(tag, str) and _TAG.fullmatch(tag):
                    yield tag
            found = _LINK.search(answer.headers.get("link", ""))
            if found is None:
                return
            there = joined(self._url(path), found[1])
            if not self._own(there):
                raise ProtocolError(self.web.thing, f"its next tags are at {shown(there)}", "check the registry")
            path = there
        raise TooLarge(self.web.thing, f"has more than {MAX_PAGES} pages of tags", "name a tag, or remove old ones")

    def _only(self, index: Mapping[str, Any]) -> str:
        """The digest of an index's one manifest, beside attestations of how it was made."""
        entries = [entry for entry in index.get("manifests") or () if isinstance(entry, dict)]
        entries = [entry for entry in entries if _ATTESTATION not in (entry.get("annotations") or {})]
        digest = entries[0].get("digest") if len(entries) == 1 else None
        if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
            cause = f"is an index of {len(entries)} manifests, and a bundle is one"
            raise Permanent(self.web.thing, cause, "name the digest of one of them")
        return digest

    @contextmanager
    def _blob(self, digest: str) -> Iterator[Path]:
        if self._challenge and time.monotonic() - self._since > _TOKEN_AGE_S:
            self._authorise(self._challenge)
        url = self._url(f"blobs/{digest}")
        with self.web.saved(url, headers=self._headers, max_bytes=MAX_BLOB_BYTES) as (path, found):
            if found != digest:
                raise ProtocolError(self.web.thing, f"its layer {digest} is not what its digest says", _DAMAGED)
            yield path

    def _get(self, path: str, *, accept: str, found: bool = True) -> Answer:
        """With `found` off, a 404 is for the caller to explain."""

        def headers(url: str) -> Mapping[str, str]:
            return {"Accept": accept, **self._headers(url)}

        url = self._url(path)
        answer = self.web.ask(url, headers=headers, max_bytes=_MAX_JSON_BYTES)
        if (
            answer.status == 401
            and self._own(answer.url)
            and self._authorise(answer.headers.get("www-authenticate", ""))
        ):
            answer = self.web.ask(url, headers=headers, max_bytes=_MAX_JSON_BYTES)
        if answer.status != 200 and (found or answer.status != 404):
            raise self.web.failed(answer)
        return answer

    def _headers(self, url: str) -> Mapping[str, str]:
        return {"Authorization": self._authorization} if self._authorization and self._own(url) else {}

    def _own(self, url: str) -> bool:
        base, other = urlsplit(self._base), urlsplit(url)
        return (base.scheme, base.netloc) == (other.scheme, other.netloc)

    def _url(self, path: str) -> str:
        return joined(f"{self._base}/v2/{self._name}/", path)

    def _authorise(self, challenge: str) -> bool:
        """Do as a 401 asks; False when there is nothing more that could be sent."""
        login = self._login if self._login is not None and self._login.username else None
        bearer = re.search(r"\bBearer\s+(.*)", challenge, re.IGNORECASE)
        if bearer is None:
            if login is None or self._authorization or not re.search(r"\bBasic\b", challenge, re.IGNORECASE):
                return False
            self._authorization = basic(login)
            return True
        if self._login is not None and self._login.token:
            return False
        stated = dict(reversed(re.findall(r'(\w+)\s*=\s*"([^"]*)"', bearer[1])))
        realm = joined(self._base, stated.get("realm", ""))
        asked = {"service": stated.get("service", ""), "scope": stated.get("scope") or f"repository:{self._name}:pull"}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode({key: value for key, value in asked.items() if value})}"
        plain = realm.startswith("http://") and self._base.startswith("http://") and addresses.local(realm)
        if not realm.startswith("https://") and not plain:
            raise Refused(self.web.thing, f"its token server is {shown(realm)}, without TLS", "check the registry")
        if login is not None and not (self._own(realm) or login.is_for(realm.partition("?")[0])):
            cause = f"its token server {shown(realm)} is none of the addresses that the credentials are for"
            raise Refused(self.web.thing, cause, "if it is the right one, add it to their 'for'")
        answer = self.web.get(
            url,
            headers=lambda there: {"Authorization": basic(login)} if login and _same(there, realm) else {},
            max_bytes=_MAX_JSON_BYTES,
        )
        found = _json(answer, self.web.thing)
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token.isprintable() or not token.isascii():
            raise ProtocolError(self.web.thing, f"its token server {shown(realm)} gives no token", "check the registry")
        self._authorization, self._challenge, self._since = f"Bearer {token}", challenge, time.monotonic()
        return True


_DAMAGED = "push it again; if it comes back, look who stands between the hub and the registry"


def _same(url: str, other: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(other)[:2]


def _json(answer: Answer, thing: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(thing, f"{shown(answer.url)} is not JSON", "check that it is a registry") from error
    if not isinstance(found, dict):
        raise ProtocolError(thing, f"{shown(answer.url)} is not as the protocol has it", "check that it is a registry")
    return found


def _layers(manifest: Mapping[str, Any], thing: str) -> list[Mapping[str, Any]]:
    """Pure: the layers that hold something, checked."""
    layers = manifest["layers"]
    if len(layers) > MAX_LAYERS:
        raise TooLarge(thing, f"has more than {MAX_LAYERS} layers, the limit", "push fewer files, or one archive")
    for layer in layers:
        kind, digest = (layer.get("mediaType"), layer.get("digest")) if isinstance(layer, dict) else (None, None)
        annotations = layer.get("annotations") if isinstance(layer, dict) else None
        if not isinstance(kind, str) or not isinstance(digest, str) or not isinstance(annotations, dict | None):
            raise ProtocolError(thing, "its manifest is not as the protocol has it", "push it again")
        if _DIGEST.fullmatch(digest) is None:
            raise ProtocolError(thing, f"its layer {listing.shown(digest)} is not named by sha256", "push it again")
    return [layer for layer in layers if layer["mediaType"] != _EMPTY]
