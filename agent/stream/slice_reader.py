"""Reads a slice out of a Git repository, and believes none of it: what `receive` checks before it takes a commit up.

Objects of the cluster are not read, only looked for (is it there, is it a blob, how large), so a slice of any content
costs a walk over its trees. Sizes are looked at before contents. Assumes bare local repositories and writes nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pygit2
from pygit2.enums import FileMode, ObjectType

from agent.model import Desired, DesiredBundle
from proto import slices
from proto.errors import ProtocolError, TooLarge
from proto.ids import Oid
from proto.messages import WakeUp
from proto.objects import ObjectKey, git_id

MAX_OBJECT_BYTES: Final = 8 << 20
"""Of one blob or tree; etcd takes objects up to 1.5 MB."""
MAX_COMMITS: Final = 100_000
"""Looked through for a commit's descent; the hub cuts histories by checkpoints long before."""
KINDS: Final = {"blob": ObjectType.BLOB, "tree": ObjectType.TREE, "commit": ObjectType.COMMIT}
NOTHING: Final = Desired(commit=Oid(""), seq=0, bundles={})
"""Before the first slice."""

Entries = Mapping[str, tuple[int, Oid]]
"""Of a tree: name → (mode, id)."""


class Incomplete(Exception):
    """An object that a commit needs is not here: fetch it, or everything. Never leaves the package's own modules."""


def read_slice(repo: pygit2.Repository, commit: Oid, cluster: str, *, known: Desired) -> Desired:
    """The slice at `commit`, checked whole except for subtrees that `known` holds already.

    Raises Incomplete, UnsupportedVersion, TooLarge or ProtocolError.
    """
    root = _entries(repo, Oid(str(commit_of(repo, commit).tree_id)), "slice")
    if slices.SLICE_FILE not in root:
        raise ProtocolError(f"slice {commit}", f"has no {slices.SLICE_FILE}")
    manifest = slices.read_manifest(read(repo, _blob(root, slices.SLICE_FILE), ObjectType.BLOB))
    if manifest.cluster != cluster:
        raise ProtocolError(
            f"slice {commit}", f"is cluster {manifest.cluster}'s, this agent is cluster {cluster}", "check the hub"
        )
    subtrees = _entries(repo, _tree(root, slices.BUNDLES), slices.BUNDLES) if slices.BUNDLES in root else {}
    if subtrees.keys() != manifest.bundles.keys():
        raise ProtocolError(f"slice {commit}", f"has other bundles than its {slices.SLICE_FILE} names")
    bundles = {}
    for name, entry in manifest.bundles.items():
        subtree = _tree(subtrees, name)
        if entry.subtree != subtree:
            raise ProtocolError(
                f"bundle {name} of slice {commit}", f"is {subtree}, not {entry.subtree} as the slice says"
            )
        before = known.bundles.get(name)
        if before is not None and before.subtree == subtree:
            policy, objects = before.policy, before.objects
        else:
            policy, objects = _read_bundle(repo, name, subtree)
        bundles[name] = DesiredBundle(
            name=name, subtree=subtree, rollout=entry.rollout, revision=entry.revision, policy=policy, objects=objects
        )
    return Desired(commit=commit, seq=manifest.seq, bundles=bundles)


def _read_bundle(
    repo: pygit2.Repository, name: str, subtree: Oid
) -> tuple[slices.BundlePolicy, Mapping[ObjectKey, Oid]]:
    entries = _entries(repo, subtree, f"bundle {name}")
    if slices.POLICY_FILE not in entries:
        raise ProtocolError(f"bundle {name}", f"has no {slices.POLICY_FILE}")
    policy = slices.read_policy(read(repo, _blob(entries, slices.POLICY_FILE), ObjectType.BLOB))
    if policy.name != name:
        raise ProtocolError(f"bundle {name}", f"has a {slices.POLICY_FILE} that is bundle {policy.name[:80]!r}'s")
    objects = {}
    for namespace in entries.keys() - {slices.POLICY_FILE}:
        kinds = _entries(repo, _tree(entries, namespace), f"{name}/{namespace}")
        for kind in kinds:
            files = _entries(repo, _tree(kinds, kind), f"{name}/{namespace}/{kind}")
            for file in files:
                blob = _blob(files, file)
                _check_object(repo, blob, ObjectType.BLOB)
                objects[ObjectKey.from_path(f"{namespace}/{kind}/{file}")] = blob
    return policy, objects


def _entries(repo: pygit2.Repository, oid: Oid, where: str) -> Entries:
    _check_object(repo, oid, ObjectType.TREE)
    try:
        tree: Any = repo[oid]
        return {entry.name: (int(entry.filemode), Oid(str(entry.id))) for entry in tree}
    except (pygit2.GitError, ValueError) as error:
        raise ProtocolError(where, f"has a tree {oid} that cannot be read: {error}") from error


def _blob(entries: Entries, name: str) -> Oid:
    mode, oid = entries[name]
    if mode != FileMode.BLOB:
        raise ProtocolError(f"slice path {name!r}", f"is not a plain file (mode {mode:o})")
    return oid


def _tree(entries: Entries, name: str) -> Oid:
    mode, oid = entries[name]
    if mode != FileMode.TREE:
        raise ProtocolError(f"slice path {name!r}", f"is not a folder (mode {mode:o})")
    return oid


def _check_object(repo: pygit2.Repository, oid: Oid, kind: ObjectType) -> None:
    """That an object is here, of a kind, and not too large to be read. Raises Incomplete, ProtocolError, TooLarge."""
    try:
        found, size = repo.odb.read_header(oid)
    except KeyError:
        raise Incomplete(oid) from None
    if found != kind:
        raise ProtocolError(f"object {oid}", f"is not a {kind.name.lower()}")
    if size > MAX_OBJECT_BYTES:
        raise TooLarge(f"object {oid}", f"has {size} bytes, the limit is {MAX_OBJECT_BYTES}")


def read(repo: pygit2.Repository, oid: Oid, kind: ObjectType) -> bytes:
    _check_object(repo, oid, kind)
    return repo.odb.read(oid)[1]


def commit_of(repo: pygit2.Repository, oid: Oid) -> pygit2.Commit:
    _check_object(repo, oid, ObjectType.COMMIT)
    try:
        found: Any = repo[oid]
    except (pygit2.GitError, ValueError) as error:
        raise ProtocolError(f"commit {oid}", f"cannot be read: {error}") from error
    commit: pygit2.Commit = found
    return commit


def ancestry(repo: pygit2.Repository, commit: Oid) -> Iterator[tuple[Oid, str]]:
    """(first parent or "", message) of `commit` and of each of its ancestors. Raises Incomplete."""
    for _ in range(MAX_COMMITS):
        found = commit_of(repo, commit)
        commit = Oid(str(found.parent_ids[0])) if found.parent_ids else Oid("")
        yield commit, found.raw_message.decode(errors="replace")
        if not commit:
            return


def check_carried(wake: WakeUp) -> Oid:
    """That a wake-up carries the commit it names, and only what may be carried. Raises ProtocolError or TooLarge."""
    carried = {}
    for item in wake.objects:
        if item.kind not in KINDS:
            raise ProtocolError("wake-up", f"carries a {item.kind[:20]!r}, which is no kind of object of a slice")
        if len(item.data) > MAX_OBJECT_BYTES:
            raise TooLarge("wake-up", f"carries an object of {len(item.data)} bytes, the limit is {MAX_OBJECT_BYTES}")
        carried[git_id(item.kind, item.data)] = item.kind
    commit = Oid(wake.commit)
    if carried.get(commit) != "commit":
        raise ProtocolError("wake-up", f"carries objects, but not the commit {wake.commit[:80]!r} that it names")
    return commit
