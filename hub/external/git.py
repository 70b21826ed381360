"""A folder of another Git repository at a branch, a tag or a commit: resolved, and its files fetched.

| source says | is fetched                                                                                        |
|-------------|---------------------------------------------------------------------------------------------------|
| `branch`    | its tip                                                                                           |
| `tag`       | the commit that it names; of a range (`~1.4`) the newest tag in it, with or without a leading `v` |
| `commit`    | that commit; from all branches and tags where the host gives none by its id                       |

One commit deep where the host can do that. A commit's id is a hash of all its files: the same digest is the same tree,
wherever it came from. Blocks; runs in a worker process, or in one of its own when other certificates are to be
believed. Next: `fetch`.
"""

from dataclasses import replace
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from hub.external import believing, narrow
from hub.external.credentials import Login
from hub.model import GitSource, Pin
from hub.repo import remote, versions
from hub.repo.remote import Remote, Ssh
from proto.errors import InvalidInput, Permanent, Transient

MAX_BYTES = 1 << 30
"""Of one fetch, as it is received."""
_FETCHED = "refs/flotilla/fetched"
_SOME = 10


def fetch(source: GitSource, repo: pygit2.Repository, *, login: Login | None = None, known: Pin | None = None) -> Pin:
    """Resolve `source` and bring its tree into `repo`; `known` itself, without a fetch, when it is that still.

    Raises Transient when the repository cannot be read, Refused when it wants other credentials, Permanent when it has
    no such ref, commit or folder.
    """
    if login is not None and login.ca is not None:
        usual, thing = replace(login, ca=None), f"Git repository {source.url}"
        return believing.run(login.ca, _by_path, source, Path(repo.path), usual, known, thing=thing)
    there = _remote(source, login)
    remote.set_up()
    try:
        with remote.trusting(there.ssh):
            remote.ask(there)
            upstream = repo.remotes.create_anonymous(there.url)
            heads = _heads(upstream, there)
            ref, revision = _chosen(source, heads, there)
            if known is not None and (source.commit or heads[ref]) == known.digest:
                return known
            if source.commit:
                commit = _by_id(repo, upstream, there, source.commit)
            else:
                remote.fetch(upstream, there, f"+{ref}:{_FETCHED}", depth=1, most_bytes=MAX_BYTES)
                commit = repo.references[_FETCHED].peel(pygit2.Commit)
            tree = narrow.narrowed(repo, commit.tree, source.path)
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise remote.failed(error, there) from error
    if tree is None:
        folders = sorted(str(entry.name) for entry in commit.tree if entry.type == ObjectType.TREE)
        remedy = f"at its top it has {', '.join(folders[:_SOME])}" if folders else "leave out 'path'"
        raise Permanent(there.thing, f"has no folder {source.path!r} at {revision}", remedy)
    return Pin(revision=revision, digest=str(commit.id), tree=tree)


def _remote(source: GitSource, login: Login | None) -> Remote:
    thing, scheme = f"Git repository {source.url}", source.url.partition("://")[0]
    ssh = None
    if login is not None and login.ssh_key is not None and login.known_hosts is not None:
        ssh = Ssh(key=login.ssh_key, known_hosts=login.known_hosts)
    if scheme == "ssh" and ssh is None:
        cause = "is reached by SSH, and no key is named for it"
        raise InvalidInput(thing, cause, "name credentials with sshKeyFile and knownHostsFile")
    if scheme == "file" and not Path(source.url.removeprefix("file://")).is_dir():
        raise Transient(thing, "cannot be read: there is no such folder", "check the path and that it is mounted")
    remedy = f"check the credentials {source.credentials!r}" if source.credentials else "name credentials for it"
    username = password = ""
    if login is not None and scheme in ("https", "http"):
        # Hosts take a token as the password of any user.
        username, password = (login.username, login.password) if login.password else ("git", login.token)
    return Remote(
        thing=thing,
        url=source.url,
        ssh=ssh,
        username=username if password else "",
        password=password,
        credentials=remedy,
    )


def _heads(upstream: pygit2.Remote, there: Remote) -> dict[str, str]:
    """Each ref to the commit that it names, a tag's too."""
    found = upstream.list_heads(callbacks=remote.Callbacks(there), proxy=True)
    heads = {head.name or "": str(head.oid) for head in found}
    return {name: heads.get(f"{name}^{{}}", oid) for name, oid in heads.items() if not name.endswith("^{}")}


def _chosen(source: GitSource, heads: dict[str, str], there: Remote) -> tuple[str, str]:
    """The ref to fetch and what people call it; no ref for a commit."""
    if source.commit:
        return "", source.commit
    kind, prefix, name = "branch", "refs/heads/", source.branch
    known = {ref.removeprefix("refs/heads/") for ref in heads if ref.startswith("refs/heads/")}
    if source.tag:
        kind, prefix, name = "tag", "refs/tags/", source.tag
        known = {ref.removeprefix("refs/tags/") for ref in heads if ref.startswith("refs/tags/")}
        if name not in known and versions.is_range(name):
            newest = versions.newest(name, known)
            if newest is None:
                raise Permanent(there.thing, f"has no tag in {name!r}", _has(kind, known))
            name = newest
    if name not in known:
        raise Permanent(there.thing, f"has no {kind} {name!r}", _has(kind, known))
    return prefix + name, name


def _has(kind: str, known: set[str]) -> str:
    more = f" and {len(known) - _SOME} more" if len(known) > _SOME else ""
    return f"it has {', '.join(sorted(known)[:_SOME])}{more}" if known else f"it has no {kind}"


def _by_id(repo: pygit2.Repository, upstream: pygit2.Remote, there: Remote, commit: str) -> pygit2.Commit:
    if not there.url.startswith("file://"):  # the local way cannot, and says so in an odd way
        try:
            remote.fetch(upstream, there, f"+{commit}:{_FETCHED}", depth=1, most_bytes=MAX_BYTES)
        except (pygit2.GitError, KeyError, ValueError) as error:
            if not isinstance(remote.failed(error, there), Transient):
                raise  # it has nothing to do with how it was asked for
    if repo.get(commit) is None:
        every = ("+refs/heads/*:refs/flotilla/heads/*", "+refs/tags/*:refs/flotilla/tags/*")
        remote.fetch(upstream, there, *every, most_bytes=MAX_BYTES)
    try:
        return repo[commit].peel(pygit2.Commit)
    except (KeyError, pygit2.GitError) as error:
        raise Permanent(there.thing, f"has no commit {commit}", "push it, or name another one") from error


def _by_path(source: GitSource, repo: Path, login: Login, known: Pin | None) -> Pin:
    return fetch(source, pygit2.Repository(str(repo)), login=login, known=known)
