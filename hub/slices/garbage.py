"""Garbage collection: which objects of the slice repository are still needed, gathered into one pack.

Needed is what can be reached from the roots, which the hub takes from its journal:

    a slice commit   its tree, its parents, and what a checkpoint cut off while that is not older than `since_s`
    a subtree        running, last good, completed, or what a rollout under way or the fleet repo wants next

Everything else goes: subtrees that were rendered and never run, and those that only a history that was cut ran.
`gather` only ever adds a pack and may be killed at any time; `GitStore.keep` then removes the others. Objects that are
stored while it runs are gathered by a second, short run with the roots of that moment. Blocks for long: for a worker
process. Next: `housekeeping`, which knows the roots and when nothing is stored.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from hub import packs
from hub.slices import trees
from proto.errors import Permanent
from proto.ids import Oid
from proto.slices import predecessor

_KINDS = {ObjectType.BLOB: "blob", ObjectType.TREE: "tree", ObjectType.COMMIT: "commit"}


def gather(path: Path, roots: Collection[Oid], gathered: Collection[str], since_s: float, least: float = 0.0) -> str:
    """Write what `roots` need, beyond the packs named `gathered`, as one pack of the repository at `path`; gives its
    file name, or "" when there is nothing to write or when less than the share `least` of all objects is garbage.

    Objects that several packs hold count once for each. Roots that are not there are passed over. Raises Permanent
    when an object below one is missing or broken, Transient when the disk is full.
    """
    folder = path / "objects" / "pack"
    repo = pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.BARE)
    have = {bytes.fromhex(oid) for name in gathered for oid in packs.oids(folder / name)}
    needed = sorted(_needed(repo, roots, have, since_s))
    stored = sum(1 for pack in packs.packs(folder) for _ in packs.oids(pack))
    if not needed or stored - len(needed) < least * stored:
        return ""
    with packs.disk(path):
        return packs.write(folder, ((Oid(oid.hex()), _entry(repo, oid)) for oid in needed), count=len(needed)).name


def _needed(repo: pygit2.Repository, roots: Collection[Oid], have: Collection[bytes], since_s: float) -> set[bytes]:
    """The raw ids of all objects that the roots need, without those below one that `have` holds: it holds them too."""
    needed: set[bytes] = set()
    todo = [raw for raw in map(bytes.fromhex, roots) if pygit2.Oid(raw=raw) in repo]
    while todo:
        oid = todo.pop()
        if oid in needed or oid in have:
            continue
        needed.add(oid)
        kind, data = _read(repo, oid)
        if kind == ObjectType.COMMIT:
            todo += _of_commit(repo, oid, since_s)
        elif kind == ObjectType.TREE:
            for is_tree, _, child in trees.entries(data):
                if is_tree:
                    todo.append(child)
                elif child not in have:
                    needed.add(child)
    return needed


def _of_commit(repo: pygit2.Repository, oid: bytes, since_s: float) -> Iterator[bytes]:
    commit = repo[pygit2.Oid(raw=oid)].peel(pygit2.Commit)
    yield commit.tree_id.raw
    for parent in commit.parent_ids:
        yield parent.raw
    before = predecessor(commit.message)
    if before is not None and commit.commit_time >= since_s and before in repo:
        yield bytes.fromhex(before)


def _read(repo: pygit2.Repository, oid: bytes) -> tuple[int, bytes]:
    try:
        return repo.odb.read(pygit2.Oid(raw=oid))
    except (KeyError, ValueError, pygit2.GitError) as error:
        raise Permanent(
            f"Git object {oid.hex()}",
            "is needed and is missing or broken, so no garbage is collected",
            "run 'git fsck' on the slice repository",
        ) from error


def _entry(repo: pygit2.Repository, oid: bytes) -> bytes:
    kind, data = _read(repo, oid)
    return packs.entry(_KINDS[ObjectType(kind)], data)
