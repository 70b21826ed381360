"""One source from outside of the fleet repo, resolved and fetched into the store: where each kind of it goes its way.

| address                        | is fetched                                                                          |
|--------------------------------|-------------------------------------------------------------------------------------|
| `https://`, `ssh://`, `oci://` | always                                                                              |
| `http://` on this machine      | always                                                                              |
| other `http://`, `file://`     | with named credentials that are for it: the owner's word, as anybody on the way     |
|                                | could change what comes, and the files of this machine are not a bundle's to see    |

A chart's tree has the charts that it depends on, fetched by the same rules, so that a pin has all that it renders from.
Blocks, and runs in a worker process. Next: `hub.pins` keeps what a source was resolved to.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pygit2

from hub import scratch
from hub.external import credentials, dependencies, git, helm_repo, oci, own, store
from hub.external.credentials import Login
from hub.model import External, GitSource, HelmSource, OciSource, OwnChart, Pin
from hub.repo import addresses, listing, remote, sources
from proto.errors import InvalidInput, Permanent, Refused, Transient
from proto.ids import Oid

Source = External | OwnChart


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """For whom a source is fetched: a tenant's name, or "", and the addresses below which it may fetch (None: all);
    `secrets` is the file or folder of all credentials."""

    secrets: Path | None = None
    tenant: str = ""
    allowed: tuple[str, ...] | None = None


def fetch(
    source: Source, folder: Path, *, access: Access, known: Pin | None = None, fleet: sources.Tree | None = None
) -> Pin:
    """Resolve `source`, and bring its tree into the store in `folder`; `known` is what it was the last time. A chart of
    the `fleet` repo is completed, and pinned as a whole.

    Raises Transient when it cannot be reached, else what has to change first. No message has a secret in it.
    """
    if isinstance(source, OwnChart):
        assert fleet is not None
        return _own(source, folder, fleet, access)
    address = addresses.of(source)
    login = credentials.load(access.secrets).login(source.credentials, address, tenant=access.tenant)
    _check(address, login, access)
    if known is not None and addresses.fixed(source):
        return known
    remote.set_up()
    try:
        with scratch.folder("source") as place:
            repo = pygit2.init_repository(str(place), bare=True)
            pin = _fetched(source, repo, login=login, known=known)
            if known is not None and pin.digest == known.digest:
                return replace(known, unless=pin.unless)
            tree = _completed(source, pin.tree, repo, login, access)
            _check_size(repo, tree, f"source {address}")
            store.keep(folder, repo, tree)
            return replace(pin, tree=tree)
    except (OSError, pygit2.GitError) as error:
        raise Transient(f"store of sources {folder}", f"cannot be written: {error}", "check the disk") from error


def restore(source: Source, pin: Pin, folder: Path, *, access: Access, fleet: sources.Tree | None = None) -> None:
    """Bring the very tree of a pin into the store again. Raises as `fetch`; Permanent when it is not to be had."""
    gone = "what runs keeps running; 'flotilla sync --refresh' takes what is there now"
    thing = f"source {addresses.of(source)}"
    pinned = f"{pin.revision} as {pin.digest[:23]}, which is pinned"
    try:
        made = fetch(_exactly(source, pin), folder, access=access, fleet=fleet)
    except (Refused, InvalidInput):
        raise
    except Permanent as error:
        raise Permanent(thing, f"has no longer {pinned}: {error.cause}", gone) from error
    if made.tree != pin.tree:
        now = "charts that it depends on are others now" if made.digest == pin.digest else f"it has {made.digest[:23]}"
        raise Permanent(thing, f"has no longer {pinned}: {now}", gone)


def _exactly(source: Source, pin: Pin) -> Source:
    """The same source, named by content as far as its kind can."""
    match source:
        case OwnChart():
            return source
        case GitSource():
            return replace(source, branch="", tag="", commit=pin.digest)
        case HelmSource():
            return replace(source, version=pin.revision)
        case OciSource():
            return replace(source, tag="", digest=pin.digest)


def _fetched(source: External, repo: pygit2.Repository, *, login: Login | None, known: Pin | None) -> Pin:
    match source:
        case GitSource():
            return git.fetch(source, repo, login=login, known=known)
        case HelmSource():
            return helm_repo.fetch(source, repo, login=login, known=known)
        case OciSource():
            return oci.fetch(source, repo, login=login, known=known)


def _own(source: OwnChart, folder: Path, fleet: sources.Tree, access: Access) -> Pin:
    """A chart of the fleet repo with the charts that it depends on."""
    revisions: list[str] = []
    login = credentials.load(access.secrets).named(source.credentials, tenant=access.tenant)

    def bring(chart: HelmSource | OciSource) -> Oid:
        pin = _brought(chart, repo, source.credentials, login, access)
        revisions.append(f"{dependencies.name_of(chart)} {pin.revision}")
        return pin.tree

    try:
        with scratch.folder("source") as place:
            repo = pygit2.init_repository(str(place), bare=True)
            copy = own.copied(fleet, source.folder, repo)
            tree = dependencies.completed(repo, copy, bring, path=source.path, at=source.folder)
            _check_size(repo, tree, source.folder)
            store.keep(folder, repo, tree)
            return Pin(revision=", ".join(revisions) or "charts beside it", digest=tree, tree=tree)
    except (OSError, pygit2.GitError) as error:
        raise Transient(f"store of sources {folder}", f"cannot be written: {error}", "check the disk") from error


def _completed(source: External, tree: Oid, repo: pygit2.Repository, login: Login | None, access: Access) -> Oid:
    """The tree with the charts that its chart depends on. The login goes to those that it is for."""

    def bring(chart: HelmSource | OciSource) -> Oid:
        return _brought(chart, repo, source.credentials, login, access).tree

    path = "" if isinstance(source, HelmSource) else source.path
    return dependencies.completed(repo, tree, bring, path=path, at=addresses.of(source))


def _brought(
    chart: HelmSource | OciSource, repo: pygit2.Repository, named: str, login: Login | None, access: Access
) -> Pin:
    """A chart that another depends on. The login goes there only if it is for its address."""
    address = addresses.of(chart)
    allowed = login if login is not None and login.is_for(address) else None
    _check(address, allowed, access)
    return _fetched(replace(chart, credentials=named), repo, login=allowed, known=None)


def _check_size(repo: pygit2.Repository, tree: Oid, thing: str) -> None:
    """Raises Permanent for what no render would take. Sizes are read before the objects are."""
    waiting, files, total = [repo[tree].peel(pygit2.Tree)], 0, 0
    while waiting:
        for entry in waiting.pop():
            if isinstance(entry, pygit2.Tree):
                waiting.append(entry)
            elif isinstance(entry, pygit2.Blob):
                files, total = files + 1, total + repo.odb.read_header(entry.id)[1]
            if files + len(waiting) > listing.MAX_FILES or total > listing.MAX_BUNDLE_BYTES:
                limits = f"{listing.MAX_FILES} files or {listing.MAX_BUNDLE_BYTES >> 20} MiB"
                raise Permanent(thing, f"has more than {limits}, the limits", "name a folder of it as its path")


def _check(address: str, login: Login | None, access: Access) -> None:
    """Raises InvalidInput for what may not be fetched."""
    if access.allowed is not None and not any(addresses.within(address, prefix) for prefix in access.allowed):
        remedy = f"have it added to the sources of tenant {access.tenant} in fleet.yaml"
        raise InvalidInput(f"source {address}", "is not where its tenant may fetch from", remedy)
    scheme = address.partition("://")[0]
    plain = scheme == "http" and not addresses.local(address)
    if login is None and (plain or scheme == "file"):
        cause = "is not encrypted" if plain else "is a folder of the machine that fetches"
        remedy = "use https, or name credentials whose 'for' has the address"
        raise InvalidInput(f"source {address}", f"{cause}, and nobody allowed it", remedy)
