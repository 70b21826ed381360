"""Which commits of the fleet repo have to be signed, and whose signature counts.

    refs/flotilla/verified    the last commit that was verified and whose fleet.yaml can be read

| mode     | a commit that is not signed by a trusted signer                     |
|----------|---------------------------------------------------------------------|
| off      | nobody looks                                                        |
| warn     | is taken, and told as a problem                                     |
| enforce  | is refused, and what runs stays at the last commit that was taken   |

1. Signers pinned in the hub's settings count alone. Without them those count that `fleet.yaml` lists
   (`spec.signers`) in the commit before: a commit never authorises itself, and who is added or removed is so from the
   next commit on.
2. Looked at are the head and each first-parent commit since the last verified one, oldest first; what a merge brings
   in is the word of who signed the merge. After a rewrite that a person accepted, and with pinned signers at first,
   the head alone.
3. The first commit has nobody before it: `warn` trusts it and the signers that it lists; `enforce` needs them pinned.
4. Pinned signers are asked about the head at each look: one that is taken out counts no more at once.

Next: `sync` takes the commit or refuses it.
"""

from dataclasses import dataclass
from typing import Literal, cast

import pygit2
from pygit2.enums import ObjectType, SortMode

from hub.repo import fleet, signatures, signers
from hub.repo.signers import NOBODY, Signers
from proto.errors import InvalidInput

VERIFIED = "refs/flotilla/verified"
Mode = Literal["off", "warn", "enforce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the hub is told: the mode, and the signers that it pins, if any."""

    mode: Mode = "off"
    pinned: Signers = NOBODY


NOBODY_LOOKS = Verification()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """The first commit that is not signed as it has to be, and why."""

    commit: str
    author: str
    why: str

    def __str__(self) -> str:
        return f"commit {self.commit} by {self.author} {self.why}"


def check(
    repo: pygit2.Repository, head: pygit2.Commit, told: Verification, *, head_only: bool = False
) -> Unverified | None:
    """The first commit up to `head` that must not be taken, or None. What was verified is remembered in `repo`."""
    if told.mode == "off":
        return None
    before = repo.references.get(VERIFIED)
    base = cast(pygit2.Commit, repo[before.target]) if before is not None and before.target in repo else None
    known = told.pinned or (_signers(repo, base) if base is not None else None) or NOBODY
    if not known and told.mode == "warn" and _signers(repo, head):  # rule 3
        _remember(repo, head)
        return None
    if not known:
        why = "is not looked at: neither the hub nor fleet.yaml of the commit before names a signer"
        return _unverified(head, f"{why} (set --trusted-signers)")
    if base is not None and base.id == head.id and not told.pinned:
        return None
    for commit in [head] if head_only or base is None else _since(repo, head, base):
        verdict = signatures.verify(_raw(repo, commit), known)
        if verdict.problem:
            return _unverified(commit, verdict.problem)
        stated = _signers(repo, commit)
        if stated is not None:
            _remember(repo, commit)
            known = told.pinned or stated
    return None


def _since(repo: pygit2.Repository, head: pygit2.Commit, base: pygit2.Commit) -> list[pygit2.Commit]:
    walk = repo.walk(head.id, SortMode.TOPOLOGICAL | SortMode.REVERSE)
    walk.simplify_first_parent()
    walk.hide(base.id)
    return list(walk) or [head]


def _signers(repo: pygit2.Repository, commit: pygit2.Commit) -> Signers | None:
    """Those that `fleet.yaml` lists, None when it cannot be read: then the ones before go on to count."""
    files: dict[str, bytes | InvalidInput] = {}
    for name in ("fleet.yaml", "fleet.yml"):
        if name in commit.tree and isinstance(blob := commit.tree[name], pygit2.Blob):
            files[name] = blob.data
    found = fleet.load(files)
    if any(finding.severity == "error" for finding in found.findings):
        return None
    try:
        return signers.read("\n".join(found.signers), what="fleet.yaml")
    except InvalidInput:
        return None


def _remember(repo: pygit2.Repository, commit: pygit2.Commit) -> None:
    repo.references.create(VERIFIED, commit.id, force=True)


def _raw(repo: pygit2.Repository, commit: pygit2.Commit) -> bytes:
    kind, raw = repo.read(commit.id)
    assert kind == ObjectType.COMMIT
    return raw


def _unverified(commit: pygit2.Commit, why: str) -> Unverified:
    name = commit.author.raw_name.decode("utf-8", "replace")[:80]
    author = "".join(letter if letter.isprintable() else "?" for letter in name)
    return Unverified(commit=str(commit.id), author=author, why=why)
