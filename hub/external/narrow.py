"""Which part of another repository a bundle's folder needs: the folder itself, and what its files name outside of it.

An overlay in `deploy/prod` says `resources: [../base]`, so the folder alone does not build; and a whole repository may
be a thousand times its size, and change when nothing of this changed. So what is taken keeps its place in the
repository, and everything that nobody names is left out. Looked at are kustomizations, in all their fields, and the
`file://` dependencies of charts. A name that leads nowhere is left for the build to complain about. Next: `git`.
"""

import posixpath
from collections.abc import Iterator
from typing import Any

import pygit2
from pygit2.enums import FileMode

from hub.repo import listing, yaml_reader
from proto.errors import FlotillaError
from proto.ids import Oid

_READ = frozenset({"kustomization.yaml", "kustomization.yml", "Kustomization", "Chart.yaml", "requirements.yaml"})
_MAX_NAME = 1000


def narrowed(repo: pygit2.Repository, root: pygit2.Tree, path: str) -> Oid | None:
    """The id of a tree, written to `repo`, with the folder `path` of `root` and what it needs, each in its place; None
    when there is no such folder."""
    if not path:
        return Oid(str(root.id))
    if not isinstance(_at(root, path), pygit2.Tree):
        return None
    taken: set[str] = set()
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if not _has(taken, one):
            taken.add(one)
            waiting += [name for name in _named(repo, root, one) if not _has(taken, name)]
    return Oid(str(_only(repo, root, "", frozenset(taken))))


def _has(taken: set[str], path: str) -> bool:
    return path in taken or any(path.startswith(f"{one}/") for one in taken)


def _named(repo: pygit2.Repository, root: pygit2.Tree, path: str) -> Iterator[str]:
    """What the files of the folder `path` name, wherever in the repository."""
    found = _at(root, path)
    for file, blob in _files(repo, found, path) if isinstance(found, pygit2.Tree) else ():
        try:
            documents = yaml_reader.documents(blob.data, where=file, strict=False)
        except FlotillaError:
            continue
        for text in (text for document in documents for text in _texts(document.value)):
            name = text.removeprefix("file://").rpartition("=")[2]  # `key=../file` of a generator
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(file), name))
            if "../" in f"{name}/" and not inside.startswith((".", "/")) and _at(root, inside) is not None:
                yield inside


def _files(repo: pygit2.Repository, tree: pygit2.Tree, path: str) -> Iterator[tuple[str, pygit2.Blob]]:
    waiting, left = [(path, tree)], listing.MAX_FILES  # of more the build will not be
    while waiting and left > 0:
        at, folder = waiting.pop()
        for entry in folder:
            left -= 1
            inside = f"{at}/{entry.name}"
            if isinstance(entry, pygit2.Tree) and inside.count("/") < listing.MAX_DEPTH:
                waiting.append((inside, entry))
            elif isinstance(entry, pygit2.Blob) and entry.name in _READ and _small(repo, entry):
                yield inside, entry


def _small(repo: pygit2.Repository, blob: pygit2.Blob) -> bool:
    """Asked before the blob is read, which may have any size."""
    return repo.odb.read_header(blob.id)[1] <= listing.MAX_FILE_BYTES


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) <= _MAX_NAME:
            yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _at(root: pygit2.Tree, path: str) -> pygit2.Object | None:
    found: Any = root
    for part in path.split("/"):
        try:
            found = found[part] if isinstance(found, pygit2.Tree) else None
        except KeyError:
            found = None
    return found if isinstance(found, pygit2.Object) else None


def _only(repo: pygit2.Repository, tree: pygit2.Tree, at: str, taken: frozenset[str]) -> pygit2.Oid:
    made = repo.TreeBuilder()
    for entry in tree:
        path = f"{at}{entry.name}"
        if path in taken:
            made.insert(entry.name or "", entry.id, entry.filemode)
        elif isinstance(entry, pygit2.Tree) and any(one.startswith(f"{path}/") for one in taken):
            made.insert(entry.name or "", _only(repo, entry, f"{path}/", taken), FileMode.TREE)
    return made.write()
