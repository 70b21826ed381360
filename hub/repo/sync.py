"""The mirror: a bare repository with the one branch of the upstream fleet repo that the hub follows.

    refs/flotilla/fetched    what upstream had last, whatever it is
    refs/heads/<branch>      the last tip that was taken; moves forward only

A tip that does not descend from the last one is a rewritten history: it is refused until a person accepts it, at each
fetch again. `fetch` blocks and runs in a worker process (`hub.worker`); every part of it can be repeated. Next:
`sources` reads the commit.
"""

import base64
import http.client
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import pygit2
from pygit2.enums import ObjectType

from proto.errors import FlotillaError, InvalidInput, Permanent, Refused, Transient
from proto.ids import Oid

CONNECT_TIMEOUT_S = 10.0
SERVER_TIMEOUT_S = 30.0
"""Of one read or write: libgit2 itself would wait for ever."""

_FETCHED = "refs/flotilla/fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A tip of the fleet repo. `time_s` is the author's time in Unix seconds; `previous` is the tip taken before, "" at
    first."""

    commit: Oid
    author: str
    time_s: int
    subject: str
    previous: str
    rewritten: bool = False


def fetch(mirror: Path, upstream: str, branch: str, *, accept_rewrite: bool = False) -> Revision:
    """Bring `branch` of `upstream` (a path, `file://` or `http(s)://`) into `mirror`, which is made when need be.

    Raises Transient when upstream cannot be read, Permanent when it has no such branch, Refused when it wants
    credentials or its history was rewritten, unless `accept_rewrite`: then the revision says `rewritten`.
    """
    shown, url = _shown(upstream), _url(upstream)
    if not pygit2.reference_is_valid_name(f"refs/heads/{branch}") or branch.startswith("-"):
        raise InvalidInput(f"branch {branch[:100]!r}", "is not the name of a branch", "name the fleet repo's branch")
    _set_up_libgit2()
    try:
        repo = _open(mirror, branch)
        _delete(repo, _FETCHED)
        _fetch(repo, url, branch, shown=shown)
        return _take(repo, branch, shown=shown, accept_rewrite=accept_rewrite)
    except (pygit2.GitError, OSError, KeyError) as error:
        raise Transient(
            f"mirror {mirror}",
            f"cannot be used: {error}",
            "check the hub's disk; the mirror is a copy and may be removed",
        ) from error


def _take(repo: pygit2.Repository, branch: str, *, shown: str, accept_rewrite: bool) -> Revision:
    """Move the mirror's branch to what was fetched, unless that would rewrite it."""
    taken = f"refs/heads/{branch}"
    before = repo.references.get(taken)
    previous = str(before.target) if before is not None else ""
    commit = _tip(repo, branch, shown=shown)
    rewritten = bool(previous) and previous != str(commit.id) and not repo.descendant_of(commit.id, previous)
    if rewritten and not accept_rewrite:
        raise Refused(
            f"fleet repo {shown}",
            f"the history of branch {branch} was rewritten: {commit.id} does not descend from {previous}",
            "push a commit on top of the old tip, or run 'flotilla sync --accept-rewrite'",
        )
    repo.references.create(taken, commit.id, force=True)
    return Revision(
        commit=Oid(str(commit.id)),
        author=_text(commit.author.raw_name),
        time_s=commit.author.time,
        subject=_text(commit.raw_message).strip().partition("\n")[0][:200],
        previous=previous,
        rewritten=rewritten,
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirect stays an error."""


def _ask(url: str, *, shown: str) -> None:
    """Make the first request of a fetch over HTTP, and raise what its answer means.

    libgit2 would follow a redirect, with the credentials and whatever it is told, and crashes when that leads nowhere.
    """
    thing, parts = f"fleet repo {shown}", urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    suffix = "/info/refs?service=git-upload-pack"
    headers = {"User-Agent": "git/2.0 (flotilla)"}  # some hosts serve Git only to who sounds like it
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(unquote(user).encode()).decode()
    address = urlunsplit(parts._replace(netloc=host, path=parts.path.rstrip("/") + suffix, query="", fragment=""))
    try:
        request = urllib.request.Request(address, headers=headers)
        urllib.request.build_opener(_NoRedirects).open(request, timeout=SERVER_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                cause = f"cannot be read without other credentials: status code: {error.code}"
                raise Refused(thing, cause, "check the token in its address") from error
            if error.code == 404:
                remedy = "check its address, and that the token in it may see it"
                raise Permanent(thing, "is not there: status code: 404", remedy) from error
            if 300 <= error.code < 400:
                there = _shown(urljoin(address, error.headers.get("Location", ""))).partition("/info/refs")[0]
                raise Permanent(thing, f"redirects to {there}", "if that is right, use it as the address") from error
            raise _failed(error, shown=shown) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(error, shown=shown) from error


class _Callbacks(pygit2.RemoteCallbacks):
    """Refuses every host but upstream's own: whoever answers for it must not send the hub elsewhere.

    A second guard behind `_ask`, for an upstream that answers libgit2 otherwise: it shows each TLS certificate.
    """

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        if host.decode("ascii", "replace").lower() != self._host:
            raise ValueError(f"redirects to {host.decode('ascii', 'replace')}")
        return valid


def _set_up_libgit2() -> None:
    """Settings of the whole process; the worker processes do nothing else with libgit2 that they could harm."""
    pygit2.settings.server_connect_timeout = int(CONNECT_TIMEOUT_S * 1000)
    pygit2.settings.server_timeout = int(SERVER_TIMEOUT_S * 1000)
    # A local upstream may belong to another user. libgit2 runs none of its hooks and programs, so that is no danger.
    pygit2.settings.owner_validation = False
    # A ref that outlives a power cut must not name objects that did not.
    pygit2.settings.enable_fsync_gitdir(True)


def _open(mirror: Path, branch: str) -> pygit2.Repository:
    """The mirror; one that cannot be opened, or has lost its tip, is only a copy and is made anew."""
    if (mirror / "HEAD").exists():
        try:
            repo = pygit2.Repository(str(mirror), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
            tip = repo.references.get(f"refs/heads/{branch}")
            if tip is None or tip.target in repo:
                return repo
        except pygit2.GitError:
            pass
        shutil.rmtree(mirror)
    mirror.parent.mkdir(parents=True, exist_ok=True)
    return pygit2.init_repository(str(mirror), bare=True)


def _fetch(repo: pygit2.Repository, url: str, branch: str, *, shown: str) -> None:
    if urlsplit(url).scheme in ("http", "https"):
        _ask(url, shown=shown)
    try:
        remote = repo.remotes.create_anonymous(url)
        remote.fetch(
            [f"+refs/heads/{branch}:{_FETCHED}"], callbacks=_Callbacks(urlsplit(url).hostname or ""), proxy=True
        )
        if repo.references.get(_FETCHED) is None:
            raise _no_branch(remote, branch, shown=shown)
    except (pygit2.GitError, OSError, KeyError, ValueError) as error:
        raise _failed(error, shown=shown) from error


def _no_branch(remote: pygit2.Remote, branch: str, *, shown: str) -> Permanent:
    heads = [head.name or "" for head in remote.list_heads(connect=False)]  # still known from the fetch
    branches = sorted(name.removeprefix("refs/heads/") for name in heads if name.startswith("refs/heads/"))
    if not branches:
        return Permanent(f"fleet repo {shown}", "has no commits yet", f"push the branch {branch}")
    more = f" and {len(branches) - 20} more" if len(branches) > 20 else ""
    return Permanent(
        f"fleet repo {shown}", f"has no branch {branch!r}", f"it has {', '.join(branches[:20])}{more}: name one of them"
    )


def _failed(error: Exception, *, shown: str) -> FlotillaError:
    """libgit2 tells its failures apart by text only."""
    thing, text = f"fleet repo {shown}", str(error)
    if any(word in text for word in ("authentication", "status code: 401", "status code: 403", "credentials")):
        return Refused(thing, f"cannot be read without other credentials: {text}", "check the token in its address")
    if "redirect" in text or "status code: 30" in text:
        return Permanent(thing, f"redirects elsewhere: {text}", "use the address that it redirects to")
    return Transient(thing, f"cannot be read: {text}", "check the address and that the hub can reach it")


def _tip(repo: pygit2.Repository, branch: str, *, shown: str) -> pygit2.Commit:
    found = repo.references[_FETCHED].peel()
    if found.type != ObjectType.COMMIT or not isinstance(found, pygit2.Commit):
        raise Permanent(f"fleet repo {shown}", f"its branch {branch} is not a commit", "push a commit")
    return found


def _delete(repo: pygit2.Repository, name: str) -> None:
    if repo.references.get(name) is not None:
        repo.references.delete(name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _url(upstream: str) -> str:
    scheme = urlsplit(upstream).scheme
    if scheme in ("http", "https", "file"):
        return upstream
    if "://" in upstream or (":" in upstream and not Path(upstream).exists()):
        raise InvalidInput(
            f"fleet repo {_shown(upstream)}",
            "is not an address that the hub can read",
            "use a path, file:// or https://",
        )
    path = Path(upstream).absolute()
    if not path.exists():  # libgit2 would call it an unsupported protocol
        raise Transient(
            f"fleet repo {upstream}", "cannot be read: there is no such folder", "check the path and that it is mounted"
        )
    return str(path)


def _shown(upstream: str) -> str:
    """The address without the user and password that it may hold."""
    parts = urlsplit(upstream)
    if "@" not in parts.netloc:
        return upstream
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
