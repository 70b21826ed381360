"""The mirror: a bare repository with the one branch or tag of the upstream fleet repo that the hub follows.

    refs/flotilla/fetched              what upstream had last, whatever it is
    refs/heads/<branch>, tags/<tag>    the last commit of it that was taken; moves forward only

| followed     | is taken                                                                                       |
|--------------|------------------------------------------------------------------------------------------------|
| a branch     | its tip                                                                                        |
| a tag        | the commit that it names                                                                       |
| a commit     | itself, once the branch has it: a host may serve commits that nobody of the project ever saw   |

A tip that does not descend from the last one is a rewritten history: it is refused until a person accepts it, at each
fetch again. Of the history before the first tip nothing is fetched, where the host can leave it out: what came since
tells a rewrite, and whose word the commits are. Who follows a commit gets all of it, to know that the branch has it.

`fetch` blocks and runs in a worker process (`hub.worker`); every part of it can be repeated. `upkeep` keeps the mirror
small. Next: `sources` reads the commit.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pygit2
from pygit2.enums import ObjectType

from hub.repo import remote, upkeep, verification
from hub.repo.remote import Remote, Ssh
from hub.repo.verification import NOBODY_LOOKS, Verification
from proto.errors import InvalidInput, Permanent, Refused, Transient
from proto.ids import Oid

_FETCHED = "refs/flotilla/fetched"
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
    shown = remote.shown(upstream)
    told = "check the token in its address, or the SSH key"
    there = Remote(thing=f"fleet repo {shown}", url=_url(upstream, ssh), ssh=ssh, credentials=told)
    ref = followed(branch, revision)
    if not pygit2.reference_is_valid_name(ref) or ref.split("/", 2)[2].startswith("-"):
        kind = "tag" if ref.startswith("refs/tags/") else "branch"
        name = f"{kind} {ref.split('/', 2)[2][:100]!r}"
        raise InvalidInput(name, f"is not the name of a {kind}", f"name the fleet repo's {kind}")
    pinned = revision if _COMMIT.fullmatch(revision) else ""
    remote.set_up()
    try:
        repo = _open(mirror, ref)
        upkeep.tidy(repo)
        _delete(repo, _FETCHED)
        with remote.trusting(ssh):
            _fetch(repo, there, ref, shown=shown, pinned=pinned)
        return _take(repo, ref, shown=shown, pinned=pinned, trust=trust, accept_rewrite=accept_rewrite)
    except (pygit2.GitError, OSError, KeyError) as error:
        raise Transient(
            f"mirror {mirror}",
            f"cannot be used: {error}",
            "check the hub's disk; the mirror is a copy and may be removed",
        ) from error


def taken(mirror: Path, branch: str, *, revision: str = "", trust: Verification = NOBODY_LOOKS) -> Oid | None:
    """The commit that was taken last and may be taken still, for a hub that starts while upstream cannot be read."""
    remote.set_up()
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
    if mirror.exists():
        shutil.rmtree(mirror)
    mirror.parent.mkdir(parents=True, exist_ok=True)
    return pygit2.init_repository(str(mirror), bare=True)


def _fetch(repo: pygit2.Repository, there: Remote, ref: str, *, shown: str, pinned: str) -> None:
    remote.ask(there)
    try:
        _check_whole(there)
        upstream = repo.remotes.create_anonymous(there.url)
        depth = 0
        if pinned:
            depth = remote.WHOLE if repo.is_shallow and pinned not in repo else 0
        elif repo.references.get(ref) is None:
            depth = 1
        remote.fetch(upstream, there, f"+{ref}:{_FETCHED}", depth=depth)
        if repo.references.get(_FETCHED) is None:
            raise _missing(repo, upstream, ref, shown=shown)
    except (pygit2.GitError, OSError, KeyError, ValueError) as error:
        raise remote.failed(error, there) from error


def _check_whole(there: Remote) -> None:
    """Raises Permanent for a folder with a shallow clone, of which the first fetch alone would succeed."""
    place = there.url.removeprefix("file://")
    if not place.startswith("/"):
        return
    if pygit2.Repository(place, pygit2.enums.RepositoryOpenFlag.NO_SEARCH).is_shallow:
        cause = "is a shallow clone, of which nobody can tell whether its history was rewritten"
        raise Permanent(there.thing, cause, "run 'git fetch --unshallow' there, or name what it was cloned from")


def _missing(repo: pygit2.Repository, upstream: pygit2.Remote, ref: str, *, shown: str) -> Permanent:
    thing, word = f"fleet repo {shown}", _words(ref)
    kind, name = word.split(" ", 1)
    heads = [head.name or "" for head in upstream.list_heads(connect=False)]  # still known from the fetch
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
    scp = remote.SCP.fullmatch(upstream)
    if scheme == "ssh" or (scp and "::" not in upstream and "://" not in upstream and not Path(upstream).exists()):
        if ssh is None:
            cause = "is reached by SSH, and the hub has no key for it"
            raise InvalidInput(
                f"fleet repo {remote.shown(upstream)}", cause, "set --ssh-key-file and --ssh-known-hosts-file"
            )
        if scheme == "ssh" or scp is None:
            return upstream if "@" in urlsplit(upstream).netloc else upstream.replace("://", "://git@", 1)
        return upstream if scp["user"] else f"git@{upstream}"
    if "://" in upstream or (":" in upstream and not Path(upstream).exists()):
        raise InvalidInput(
            f"fleet repo {remote.shown(upstream)}",
            "is not an address that the hub can read",
            "use a path, file://, https:// or ssh://",
        )
    path = Path(upstream).absolute()
    if not path.exists():  # libgit2 would call it an unsupported protocol
        raise Transient(
            f"fleet repo {upstream}", "cannot be read: there is no such folder", "check the path and that it is mounted"
        )
    return str(path)
