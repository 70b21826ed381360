"""One source from outside of the fleet repo, resolved and fetched into the store: where each kind of it goes its way.

| address                        | is fetched                                                                          |
|--------------------------------|-------------------------------------------------------------------------------------|
| `https://`, `ssh://`, `oci://` | always                                                                              |
| `http://` on this machine      | always                                                                              |
| other `http://`, `file://`     | with named credentials that are for it: the owner's word, as anybody on the way     |
|                                | could change what comes, and the files of this machine are not a bundle's to see    |

Blocks, and runs in a worker process. Next: `hub.pins` keeps what a source was resolved to.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import pygit2

from hub.external import credentials, git, helm_repo, oci, store
from hub.external.credentials import Login
from hub.model import External, GitSource, HelmSource, OciSource, Pin
from hub.repo import addresses, remote
from proto.errors import InvalidInput, Permanent, Refused, Transient

TIME_LIMIT_S = 300.0


def fetch(source: External, folder: Path, *, secrets: Path | None, tenant: str, known: Pin | None = None) -> Pin:
    """Resolve `source`, and bring its tree into the store in `folder`; `known` is what it was the last time.

    Raises Transient when it cannot be reached, else what has to change first. No message has a secret in it.
    """
    address = addresses.of(source)
    login = credentials.load(secrets).login(source.credentials, address, tenant=tenant)
    _check_scheme(address, login)
    remote.set_up()
    try:
        with tempfile.TemporaryDirectory(prefix="flotilla-source-") as scratch:
            repo = pygit2.init_repository(scratch, bare=True)
            pin = _fetched(source, repo, login=login, known=known)
            if pin != known:
                store.keep(folder, repo, pin.tree)
            return pin
    except (OSError, pygit2.GitError) as error:
        raise Transient(f"store of sources {folder}", f"cannot be written: {error}", "check the disk") from error


def restore(source: External, pin: Pin, folder: Path, *, secrets: Path | None, tenant: str) -> None:
    """Bring the very tree of a pin into the store again. Raises as `fetch`; Permanent when it is not to be had."""
    gone = "what runs keeps running; 'flotilla sync --refresh' takes what is there now"
    thing = f"source {addresses.of(source)}"
    pinned = f"{pin.revision} as {pin.digest[:23]}, which is pinned"
    try:
        made = fetch(_exactly(source, pin), folder, secrets=secrets, tenant=tenant)
    except (Refused, InvalidInput):
        raise
    except Permanent as error:
        raise Permanent(thing, f"has no longer {pinned}: {error.cause}", gone) from error
    if made.tree != pin.tree:
        raise Permanent(thing, f"has no longer {pinned}: that is {made.digest[:23]} now", gone)


def _exactly(source: External, pin: Pin) -> External:
    """The same source, named by content as far as its kind can."""
    match source:
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
            return helm_repo.fetch(source, repo, login=login)
        case OciSource():
            return oci.fetch(source, repo, login=login)


def _check_scheme(address: str, login: Login | None) -> None:
    scheme = address.partition("://")[0]
    plain = scheme == "http" and not addresses.local(address)
    if login is None and (plain or scheme == "file"):
        cause = "is not encrypted" if plain else "is a folder of the machine that fetches"
        remedy = "use https, or name credentials whose 'for' has the address"
        raise InvalidInput(f"source {address}", f"{cause}, and nobody allowed it", remedy)
