"""Subtrees as values: the Git tree of a set of files, and which Kubernetes objects a subtree has.

Ten thousand clusters with their own variables have two hundred thousand subtrees, and those of one bundle nearly always
have the same objects: `KeySets` keeps equal sets once, so that a subtree costs one entry and comparing two sets is a
look at their identity. Next: `gitstore` reads and writes trees.
"""

import re
import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hub.slices.lru import Lru
from proto.errors import Permanent
from proto.ids import Oid
from proto.objects import ObjectKey, git_id, tree_bytes

_CACHED = 1_000_000
"""Entries, and keys of sets that no other entry had before: 20 bundles on 10,000 clusters are 200,000, some 50 MB."""


_ENTRY = re.compile(rb"([0-7]+) ([^\0]+)\0(.{20})", re.DOTALL)
_FOLDER = b"40000"


class TreeEntry(NamedTuple):
    name: str
    is_tree: bool
    oid: Oid


def entries(tree: bytes) -> list[tuple[bool, bytes, bytes]]:
    """Pure: (is it a tree, name, raw id) of each entry of a tree object."""
    return [(mode == _FOLDER, name, oid) for mode, name, oid in _ENTRY.findall(tree)]


def subtree(files: Mapping[str, bytes]) -> tuple[Oid, tuple[tuple[str, bytes], ...]]:
    """Pure: the Git tree of `files` (path → content): its id, and all its blobs and trees as (kind, data).

    Raises Permanent for a path that no Git tree can hold.
    """
    oid, objects = subtree_objects(files)
    return oid, tuple(objects.values())


def subtree_objects(files: Mapping[str, bytes]) -> tuple[Oid, dict[Oid, tuple[str, bytes]]]:
    """Pure: as `subtree`, with each object by its id."""
    objects: dict[Oid, tuple[str, bytes]] = {}

    def put(kind: str, data: bytes) -> Oid:
        oid = git_id(kind, data)
        objects[oid] = (kind, data)
        return oid

    def tree(level: Mapping[str, bytes]) -> Oid:
        folders: dict[str, dict[str, bytes]] = {}
        entries: dict[str, tuple[bool, Oid]] = {}
        for path, data in level.items():
            name, slash, rest = path.partition("/")
            if name in ("", ".", "..", ".git") or "\0" in name:
                raise Permanent(f"path {path[:200]!r}", "cannot be a name in a Git tree")
            if slash:
                folders.setdefault(name, {})[rest] = data
            else:
                entries[name] = (False, put("blob", data))
        for name, inside in folders.items():
            if name in entries:
                raise Permanent(f"path {name[:200]!r}", "is a file and a folder at once")
            entries[name] = (True, tree(inside))
        return put("tree", tree_bytes(entries))

    return tree(files), objects


class KeySets:
    """The objects of the subtrees that were asked for lately. Thread-safe."""

    def __init__(self) -> None:
        self._of: Lru[Oid, frozenset[ObjectKey]] = Lru(_CACHED, self._weigh)
        self._one: weakref.WeakKeyDictionary[frozenset[ObjectKey], weakref.ref[frozenset[ObjectKey]]]
        self._one = weakref.WeakKeyDictionary()

    def get(self, subtree: Oid, read: Callable[[Oid], frozenset[ObjectKey]]) -> frozenset[ObjectKey]:
        """The objects of `subtree`, from `read` when they are not known; equal sets are the same set."""
        return self._of.get(subtree, lambda oid: self._shared(read(oid)))

    def _shared(self, keys: frozenset[ObjectKey]) -> frozenset[ObjectKey]:
        known = self._one.get(keys)
        return (known() if known else None) or keys

    def _weigh(self, keys: frozenset[ObjectKey]) -> int:
        if keys in self._one:
            return 1
        self._one[keys] = weakref.ref(keys)
        return 1 + len(keys)
