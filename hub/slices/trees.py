"""Subtrees as values: the Git tree of a set of files, and which Kubernetes objects a subtree has.

Ten thousand clusters with their own variables have two hundred thousand subtrees, and those of one bundle nearly always
have the same objects: `KeySets` keeps equal sets once, so that a subtree costs one entry and comparing two sets is a
look at their identity. Next: `gitstore` reads and writes trees.
"""

import re
import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

from hub.slices.lru import Lru
from proto.errors import Permanent
from proto.ids import Oid
from proto.objects import ObjectKey, blob_id, git_id
from proto.slices import POLICY_FILE

_CACHED = 1_000_000
"""Entries, and keys of sets that no other entry had before: 20 bundles on 10,000 clusters are 200,000, some 50 MB."""


_ENTRY = re.compile(rb"([0-7]+) ([^\0]+)\0(.{20})", re.DOTALL)
_FOLDER = b"40000"
_NO_NAMES = frozenset({"", ".", "..", ".git"})
_FOLDERS_CACHED = 1024

_Folder: TypeAlias = tuple[tuple[bytes, "str | _Folder"], ...]
"""What is in a folder, in Git's order: how each entry begins, and the path of a file or another folder. The clusters of
a bundle have files of the same names."""


TreeEntry: TypeAlias = tuple[str, bool, Oid]
"""Name, whether it is a tree, and id. No NamedTuple: a fetch makes two thousand of them."""


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
    blobs = {path: blob_id(data) for path, data in files.items()}
    oid, made = tree_of(blobs)
    return oid, {**{oid: ("blob", files[path]) for path, oid in blobs.items()}, **made}


def tree_of(blobs: Mapping[str, Oid]) -> tuple[Oid, dict[Oid, tuple[str, bytes]]]:
    """Pure: the Git tree of files whose blob ids are known by path: its id, and all its trees, by id, as (kind, data).

    Raises as `subtree`.
    """
    trees: dict[Oid, tuple[str, bytes]] = {}

    def tree(folder: _Folder) -> Oid:
        data = b"".join(
            [
                entry + bytes.fromhex(blobs[inside] if isinstance(inside, str) else tree(inside))
                for entry, inside in folder
            ]
        )
        oid = git_id("tree", data)
        trees[oid] = ("tree", data)
        return oid

    return tree(_folder(tuple((path, path) for path in blobs))), trees


@lru_cache(maxsize=_FOLDERS_CACHED)
def _folder(paths: tuple[tuple[str, str], ...]) -> _Folder:
    """Pure: the folder of files, each given as its path inside the folder and its whole path. Raises Permanent."""
    folders: dict[str, list[tuple[str, str]]] = {}
    entries: dict[bytes, tuple[bytes, str | _Folder]] = {}
    for path, whole in paths:
        name, slash, rest = path.partition("/")
        if name in _NO_NAMES or "\0" in name:
            raise Permanent(f"path {path[:200]!r}", "cannot be a name in a Git tree")
        if slash:
            folders.setdefault(name, []).append((rest, whole))
        else:
            entries[name.encode()] = b"100644 %s\0" % name.encode(), whole
    for name, inside in folders.items():
        if name.encode() in entries:
            raise Permanent(f"path {name[:200]!r}", "is a file and a folder at once")
        entries[b"%s/" % name.encode()] = b"%s %s\0" % (_FOLDER, name.encode()), _folder(tuple(inside))
    return tuple(entry for _, entry in sorted(entries.items()))


@lru_cache(maxsize=_FOLDERS_CACHED)
def keys_of(paths: tuple[str, ...]) -> frozenset[ObjectKey]:
    """Pure: the objects of a bundle's subtree that has these files. Raises ProtocolError for a path that is none."""
    return frozenset(ObjectKey.from_path(path) for path in paths if path != POLICY_FILE)


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
