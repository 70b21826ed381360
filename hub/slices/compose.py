"""Composition: the next slice commit of one cluster, from its current slice and the bundles that change.

The only way a slice is ever written (design, decision 2). A bundle that is not in `changes` keeps its subtree bit for
bit, so bundles never overwrite each other. Equal arguments give equal bytes and so equal commit ids, on any replica:

    tree       slice.json, bundles/<name> for each bundle
    parent     the current slice commit, if any; none, but a trailer that names it, at a checkpoint
    identity   Flotilla <hub@flotilla.dev>, the journaled time in UTC, later than the parent's
    message    proto.slices.commit_message with the trailers Bundle, Source-Revision, Rollout, Wave, Predecessor
    signature  by the key that slices are signed with, if there is one: it follows from key and commit alone

A *checkpoint* cuts a cluster's history, or a first fetch would get longer for ever: the first move in each stretch of
HISTORY_S is one. Where the stretches begin depends on the cluster's name, so that a fleet is not cut on one day.

Assumes that the subtrees were rendered and stored before. `journal` makes the result durable, `gitstore` stores it.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proto.errors import InvalidInput, Permanent
from proto.ids import BundleName, ClusterName, Oid, check_name, is_oid
from proto.objects import ObjectKey, git_id, tree_bytes
from proto.slices import BUNDLES, PREDECESSOR_TRAILER, SLICE_FILE, BundleEntry, SliceManifest, commit_message, to_file

IDENTITY = "Flotilla <hub@flotilla.dev>"
HISTORY_S: Final = 90 * 24 * 3600
"""What `git log` shows at most; the history that a checkpoint cut off is kept for as long again."""


class Conflict(InvalidInput):
    """Two bundles of one slice would own one object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A slice commit that is not stored yet.

    `objects` are what is new beside the subtrees, as (kind, data), each after what it refers to: the commit is last.
    `moved` are the subtrees that the parent has not, each with the one in whose place it comes, if there is one.
    """

    commit: Oid
    seq: int
    time_s: int
    manifest: SliceManifest
    objects: tuple[tuple[str, bytes], ...]
    moved: tuple[tuple[Oid, Oid | None], ...]


def compose(
    *,
    cluster: ClusterName,
    seq: int,
    parent: Oid | None,
    parent_time_s: int,
    current: SliceManifest | None,
    changes: Mapping[BundleName, BundleEntry | None],
    keys: Callable[[Oid], frozenset[ObjectKey]],
    time_s: int,
    trailers: Sequence[tuple[str, str]] = (),
    sign: Callable[[bytes], bytes] = bytes,
) -> Composed | None:
    """Pure: the slice commit after `changes` (None removes a bundle), or None when they change nothing.

    `current` is the manifest of the commit `parent`, made at `parent_time_s`; both are None before the first commit.
    `keys` gives the objects of a subtree. `trailers` are added to those that the changes give (Bundle for each,
    Source-Revision and Rollout of its new entry). Times are Unix seconds. `sign` makes a raw commit a signed
    one, the same each time.

    Raises Conflict when two bundles would own one object; Permanent when the arguments do not fit together.
    """
    before: Mapping[str, BundleEntry] = {} if current is None else current.bundles
    changed: Mapping[str, BundleEntry | None] = {
        name: entry for name, entry in sorted(changes.items()) if before.get(name) != entry
    }
    if not changed:
        return None
    made_s = time_s if parent is None else max(time_s, parent_time_s + 1)
    checkpoint = parent is not None and _stretch(cluster, parent_time_s) < _stretch(cluster, made_s)
    cut = [(PREDECESSOR_TRAILER, parent)] if parent is not None and checkpoint else []
    every_trailer = [*_trailers(changed), *trailers, *cut]
    _check(cluster, seq=seq, parent=parent, current=current, changed=changed, trailers=every_trailer)
    after = {name: entry for name, entry in {**before, **changed}.items() if entry is not None}
    _check_owners(cluster, before=before, after=after, changed=changed, keys=keys)

    manifest = SliceManifest(cluster=cluster, seq=seq, bundles=dict(sorted(after.items())))
    objects: list[tuple[str, bytes]] = []

    def put(kind: str, data: bytes) -> Oid:
        objects.append((kind, data))
        return git_id(kind, data)

    root = {SLICE_FILE: (False, put("blob", to_file(manifest)))}
    if after:
        bundles = tree_bytes({name: (True, Oid(entry.subtree)) for name, entry in after.items()})
        root[BUNDLES] = (True, put("tree", bundles))
    tree = put("tree", tree_bytes(root))
    message = commit_message(cluster=cluster, seq=seq, bundles=_subjects(changed), trailers=every_trailer)
    unsigned = _commit_bytes(tree, None if checkpoint else parent, time_s=made_s, message=message)
    commit = put("commit", sign(unsigned))
    moved = tuple(
        (Oid(entry.subtree), Oid(before[name].subtree) if name in before else None)
        for name, entry in changed.items()
        if entry is not None and entry.subtree != _subtree(before, name)
    )
    return Composed(commit=commit, seq=seq, time_s=made_s, manifest=manifest, objects=tuple(objects), moved=moved)


@lru_cache(maxsize=1024)
def disjoint(owned: tuple[frozenset[ObjectKey], ...]) -> bool:
    """Pure: do no two of the sets share an object? Thousands of clusters ask it of the very same sets, and a frozenset
    computes its hash once."""
    return sum(map(len, owned)) == len(frozenset().union(*owned))


def _stretch(cluster: ClusterName, time_s: int) -> int:
    """Which of the stretches between checkpoints a moment lies in."""
    return (time_s + zlib.crc32(cluster.encode()) % HISTORY_S) // HISTORY_S


def _check(
    cluster: ClusterName,
    *,
    seq: int,
    parent: Oid | None,
    current: SliceManifest | None,
    changed: Mapping[str, BundleEntry | None],
    trailers: Sequence[tuple[str, str]],
) -> None:
    thing = f"slice of cluster {cluster}"
    if (parent is None) != (current is None):
        raise Permanent(thing, "cannot be composed: a parent commit and its manifest go together")
    if current is not None and (current.cluster != cluster or current.seq >= seq):
        raise Permanent(thing, f"cannot become #{seq}: its parent is {current.cluster} #{current.seq}")
    for name, entry in changed.items():
        check_name("bundle", name)
        if entry is not None and not is_oid(entry.subtree):
            raise Permanent(thing, f"cannot take bundle {name}: {entry.subtree!r} is not a Git tree id")
    for key, value in trailers:
        # A line break would forge a trailer, and NUL ends a commit message.
        if not f"{key}{value}".isprintable():
            raise Permanent(thing, f"cannot have the trailer {key[:80]!r}: it holds a line break or control character")


def _check_owners(
    cluster: ClusterName,
    *,
    before: Mapping[str, BundleEntry],
    after: Mapping[str, BundleEntry],
    changed: Mapping[str, BundleEntry | None],
    keys: Callable[[Oid], frozenset[ObjectKey]],
) -> None:
    """Only a bundle whose subtree changes can bring a conflict: `before` had none."""
    moved = [name for name in changed if name in after and _subtree(before, name) != after[name].subtree]
    if not moved or disjoint(tuple(keys(Oid(entry.subtree)) for entry in after.values())):
        return
    for name in moved:
        mine = keys(Oid(after[name].subtree))
        for other in sorted(after):
            if other == name or mine.isdisjoint(theirs := keys(Oid(after[other].subtree))):
                continue
            first, second = sorted((name, other))
            shared = sorted(mine & theirs)
            more = f", and {len(shared) - 1} more" if len(shared) > 1 else ""
            raise Conflict(
                f"{shared[0]} on cluster {cluster}",
                f"would belong to the bundles {first} and {second} at once{more}",
                f"leave it in one of {first} and {second}; to hand it over, change both in one commit",
            )


def _subtree(bundles: Mapping[str, BundleEntry], name: str) -> str:
    return bundles[name].subtree if name in bundles else ""


def _subjects(changed: Mapping[str, BundleEntry | None]) -> list[tuple[str, str]]:
    return [(name, "removed" if entry is None else f"at {entry.revision[:12]}") for name, entry in changed.items()]


def _trailers(changed: Mapping[str, BundleEntry | None]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, entry in changed.items():
        found.append(("Bundle", name))
        if entry is not None:
            found.append(("Source-Revision", entry.revision))
        if entry is not None and entry.rollout:
            found.append(("Rollout", entry.rollout))
    return found


def _commit_bytes(tree: Oid, parent: Oid | None, *, time_s: int, message: str) -> bytes:
    parents = "" if parent is None else f"parent {parent}\n"
    who = f"{IDENTITY} {time_s} +0000"
    return f"tree {tree}\n{parents}author {who}\ncommitter {who}\n\n{message}".encode()
