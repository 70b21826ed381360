"""The mirror: a bare repository with the one branch or tag of the upstream fleet repo that the hub follows.

    refs/flotilla/fetched              what upstream had last, whatever it is
    refs/heads/<branch>, tags/<tag>    the last commit of it that was taken; moves forward only

| followed     | is taken                                                                                       |
|--------------|------------------------------------------------------------------------------------------------|
| a branch     | its tip                                                                                        |
| a tag        | the commit that it names                                                                       |
| a commit     | itself, once the branch has it: a host may serve commits that nobody of the project ever saw   |

A tip that does not descend from the last one is a rewritten history: it is refused until a person accepts it, at each
fetch again. `fetch` blocks and runs in a worker process (`hub.worker`); every part of it can be repeated. Next:
`sources` reads the commit.
"""

import base64
import http.client
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import pygit2
from pygit2.enums import CredentialType, ObjectType

from hub.repo import verification
from hub.repo.verification import NOBODY_LOOKS, Verification
from proto.errors import FlotillaError, InvalidInput, Permanent, Refused, Transient
from proto.ids import Oid

CONNECT_TIMEOUT_S = 10.0
SERVER_TIMEOUT_S = 30.0
"""Of one read or write: libgit2 itself would wait for ever."""

_FETCHED = "refs/flotilla/fetched"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SCP = re.compile(r"(?:(?P<user>[^@:/]+)@)?(?P<host>[^@:/]+):(?P<path>[^:].*)")
"""`git@host:path`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """How an upstream is reached by SSH: files with a private key that needs no passphrase, and with the keys of the
    hosts that are believed (`known_hosts`); the files of whoever runs the hub are not looked at."""

    key: Path
    known_hosts: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A tip of the fleet repo. `time_s` is the author's time in Unix seconds; `previous` is the tip taken before, "" at
    first; `unverified` is what is wrong with the signatures up to it and was let pass, or ""."""

    commit: Oid
    author: str
    time_s: int
    subject: str
    previous: str
    rewritten: bool = False
    unverified: str = ""


def fetch(
    mirror: Path,
    upstream: str,
    branch: str,
    *,
    revision: str = "",
    ssh: Ssh | None = None,
    trust: Verification = NOBODY_LOOKS,
    accept_rewrite: bool = False,
) -> Revision:
    """Bring `branch` of `upstream` (a path, `file://`, `http(s)://` or SSH) into `mirror`, which is made when need be;
    or `revision`, a tag or the whole id of a commit of the branch.

    Raises Transient when upstream cannot be read, Permanent when it has no such branch, tag or commit, Refused when it
    wants credentials, its history was rewritten, unless `accept_rewrite` (then the revision says `rewritten`), or a
    commit is not signed as `trust` enforces it.
    """
    shown, url = _shown(upstream), _url(upstream, ssh)
    ref = followed(branch, revision)
    if not pygit2.reference_is_valid_name(ref) or ref.split("/", 2)[2].startswith("-"):
        kind = "tag" if ref.startswith("refs/tags/") else "branch"
        name = f"{kind} {ref.split('/', 2)[2][:100]!r}"
        raise InvalidInput(name, f"is not the name of a {kind}", f"name the fleet repo's {kind}")
    _set_up_libgit2()
    try:
        repo = _open(mirror, ref)
        _delete(repo, _FETCHED)
        with _trusting(ssh):
            _fetch(repo, url, ref, shown=shown, ssh=ssh)
        pinned = revision if _COMMIT.fullmatch(revision) else ""
        return _take(repo, ref, shown=shown, pinned=pinned, trust=trust, accept_rewrite=accept_rewrite)
    except (pygit2.GitError, OSError, KeyError) as error:
        raise Transient(
            f"mirror {mirror}",
            f"cannot be used: {error}",
            "check the hub's disk; the mirror is a copy and may be removed",
        ) from error


def taken(mirror: Path, branch: str, *, revision: str = "", trust: Verification = NOBODY_LOOKS) -> Oid | None:
    """The commit that was taken last and may be taken still, for a hub that starts while upstream cannot be read."""
    _set_up_libgit2()
    try:
        repo = pygit2.Repository(str(mirror), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
        commit = repo.references[followed(branch, revision)].peel(pygit2.Commit)
        unverified = verification.check(repo, commit, trust)
    except (pygit2.GitError, OSError, KeyError, ValueError):
        return None
    if (unverified is not None and trust.mode == "enforce") or (
        _COMMIT.fullmatch(revision) and str(commit.id) != revision
    ):
        return None
    return Oid(str(commit.id))


def followed(branch: str, revision: str) -> str:
    """Pure: the full name of what is fetched for `revision`, a tag, or "" or a commit of the `branch`."""
    if not revision or _COMMIT.fullmatch(revision):
        return f"refs/heads/{branch}"
    return f"refs/tags/{revision.removeprefix('refs/tags/')}"


def _take(
    repo: pygit2.Repository, taken: str, *, shown: str, pinned: str, trust: Verification, accept_rewrite: bool
) -> Revision:
    """Move the mirror's own ref to what was fetched, unless that would rewrite it or its signatures forbid it. Who pins
    a commit may go back."""
    before = repo.references.get(taken)
    previous = str(before.target) if before is not None else ""
    tip = _tip(repo, taken, shown=shown)
    commit = _pinned(repo, tip, pinned, shown=shown, branch=_words(taken)) if pinned else tip
    rewritten = (
        bool(previous) and not pinned and previous != str(commit.id) and not repo.descendant_of(commit.id, previous)
    )
    if rewritten and not accept_rewrite:
        raise Refused(
            f"fleet repo {shown}",
            f"the history of {_words(taken)} was rewritten: {commit.id} does not descend from {previous}",
            "push a commit on top of the old tip, or run 'flotilla sync --accept-rewrite'",
        )
    unverified = verification.check(repo, commit, trust, head_only=rewritten)
    if unverified is not None and trust.mode == "enforce":
        remedy = "take it off the branch, or sign it anew with a trusted key"
        raise Refused(
            f"fleet repo {shown}", str(unverified), f"what runs stays at {previous}; {remedy}" if previous else remedy
        )
    repo.references.create(taken, commit.id, force=True)
    return Revision(
        commit=Oid(str(commit.id)),
        author=_text(commit.author.raw_name),
        time_s=commit.author.time,
        subject=_text(commit.raw_message).strip().partition("\n")[0][:200],
        previous=previous,
        rewritten=rewritten,
        unverified=f"fleet repo {shown}: {unverified}" if unverified is not None else "",
    )


def _pinned(repo: pygit2.Repository, tip: pygit2.Commit, pinned: str, *, shown: str, branch: str) -> pygit2.Commit:
    found = repo.get(pinned)
    if (
        found is None
        or found.type != ObjectType.COMMIT
        or (found.id != tip.id and not repo.descendant_of(tip.id, found.id))
    ):
        raise Permanent(f"fleet repo {shown}", f"its {branch} has no commit {pinned}", "push it, or name another one")
    return cast(pygit2.Commit, found)


def _words(ref: str) -> str:
    """`branch main`, `tag v1`"""
    _, kind, name = ref.split("/", 2)
    return f"{'tag' if kind == 'tags' else 'branch'} {name}"


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

    A second guard behind `_ask`, for an upstream that answers libgit2 otherwise: it shows each TLS certificate. An SSH
    host is `valid` if the known hosts have its key.
    """

    def __init__(self, host: str, ssh: Ssh | None = None) -> None:
        super().__init__()
        self._host = host
        self._ssh, self._offered = ssh, False

    def credentials(
        self, url: str, username_from_url: str | None, allowed_types: CredentialType
    ) -> pygit2.Username | pygit2.UserPass | pygit2.Keypair:
        if self._ssh is None or not allowed_types & CredentialType.SSH_KEY:
            raise pygit2.Passthrough
        if self._offered:  # libgit2 would ask for ever
            raise ValueError("authentication failed: the key was not accepted")
        self._offered = True
        return pygit2.Keypair(username_from_url or "git", None, self._ssh.key, "")

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


@contextmanager
def _trusting(ssh: Ssh | None) -> Iterator[None]:
    """libgit2 reads the known hosts in the home folder only, so that it gets one of its own."""
    if ssh is None:
        yield
        return
    before = pygit2.settings.homedir or ""
    with tempfile.TemporaryDirectory(prefix="flotilla-ssh-") as home:
        (Path(home) / ".ssh").mkdir()
        try:
            shutil.copyfile(ssh.known_hosts, Path(home) / ".ssh/known_hosts")
        except OSError as error:
            thing, cause = f"known hosts {ssh.known_hosts}", f"cannot be read: {error.strerror}"
            raise InvalidInput(thing, cause, "check --ssh-known-hosts-file") from error
        pygit2.settings.homedir = home
        try:
            yield
        finally:
            pygit2.settings.homedir = before


def _open(mirror: Path, taken: str) -> pygit2.Repository:
    """The mirror; one that cannot be opened, or has lost its tip, is only a copy and is made anew."""
    if (mirror / "HEAD").exists():
        try:
            repo = pygit2.Repository(str(mirror), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
            tip = repo.references.get(taken)
            if tip is None or tip.target in repo:
                return repo
        except pygit2.GitError:
            pass
        shutil.rmtree(mirror)
    mirror.parent.mkdir(parents=True, exist_ok=True)
    return pygit2.init_repository(str(mirror), bare=True)


def _fetch(repo: pygit2.Repository, url: str, ref: str, *, shown: str, ssh: Ssh | None) -> None:
    if urlsplit(url).scheme in ("http", "https"):
        _ask(url, shown=shown)
    try:
        remote = repo.remotes.create_anonymous(url)
        scp = _SCP.fullmatch(url) if ssh is not None and "://" not in url else None
        callbacks = _Callbacks(scp["host"].lower() if scp else urlsplit(url).hostname or "", ssh)
        remote.fetch([f"+{ref}:{_FETCHED}"], callbacks=callbacks, proxy=True)
        if repo.references.get(_FETCHED) is None:
            raise _missing(repo, remote, ref, shown=shown)
    except (pygit2.GitError, OSError, KeyError, ValueError) as error:
        raise _failed(error, shown=shown) from error


def _missing(repo: pygit2.Repository, remote: pygit2.Remote, ref: str, *, shown: str) -> Permanent:
    thing, word = f"fleet repo {shown}", _words(ref)
    kind, name = word.split(" ", 1)
    heads = [head.name or "" for head in remote.list_heads(connect=False)]  # still known from the fetch
    prefix = "refs/tags/" if kind == "tag" else "refs/heads/"
    names = sorted(head.removeprefix(prefix) for head in heads if head.startswith(prefix) and not head.endswith("^{}"))
    if (taken := repo.references.get(ref)) is not None:
        remedy = f"what runs stays at {taken.target}; push the {kind} again, or follow another one"
        return Permanent(thing, f"has no {kind} {name!r} any more: it was deleted", remedy)
    if not any(head.startswith("refs/heads/") for head in heads):
        return Permanent(thing, "has no commits yet", f"push the {word}")
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    known = f"it has {', '.join(names[:20])}{more}: name one of them" if names else f"it has no {kind}s: push it"
    return Permanent(thing, f"has no {kind} {name!r}", known)


def _failed(error: Exception, *, shown: str) -> FlotillaError:
    """libgit2 tells its failures apart by text only."""
    thing, text = f"fleet repo {shown}", str(error)
    if any(word in text for word in ("authentication", "status code: 401", "status code: 403", "credentials")):
        return Refused(
            thing, f"cannot be read without other credentials: {text}", "check the token in its address, or the SSH key"
        )
    if "ssh hostkey" in text:
        cause = "its host key is not one of the known hosts: it may be somebody else"
        return Refused(thing, cause, "compare the key with the one that the host publishes, then add it there")
    if "redirect" in text or "status code: 30" in text:
        return Permanent(thing, f"redirects elsewhere: {text}", "use the address that it redirects to")
    return Transient(thing, f"cannot be read: {text}", "check the address and that the hub can reach it")


def _tip(repo: pygit2.Repository, ref: str, *, shown: str) -> pygit2.Commit:
    found = repo.references[_FETCHED].peel()
    if found.type != ObjectType.COMMIT or not isinstance(found, pygit2.Commit):
        raise Permanent(f"fleet repo {shown}", f"its {_words(ref)} is not a commit", "push a commit")
    return found


def _delete(repo: pygit2.Repository, name: str) -> None:
    if repo.references.get(name) is not None:
        repo.references.delete(name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _url(upstream: str, ssh: Ssh | None) -> str:
    scheme = urlsplit(upstream).scheme
    if scheme in ("http", "https", "file"):
        return upstream
    scp = _SCP.fullmatch(upstream)
    if scheme == "ssh" or (scp and "::" not in upstream and "://" not in upstream and not Path(upstream).exists()):
        if ssh is None:
            cause = "is reached by SSH, and the hub has no key for it"
            raise InvalidInput(f"fleet repo {_shown(upstream)}", cause, "set --ssh-key-file and --ssh-known-hosts-file")
        if scheme == "ssh" or scp is None:
            return upstream if "@" in urlsplit(upstream).netloc else upstream.replace("://", "://git@", 1)
        return upstream if scp["user"] else f"git@{upstream}"
    if "://" in upstream or (":" in upstream and not Path(upstream).exists()):
        raise InvalidInput(
            f"fleet repo {_shown(upstream)}",
            "is not an address that the hub can read",
            "use a path, file://, https:// or ssh://",
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
