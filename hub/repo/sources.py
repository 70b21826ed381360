"""The files of a fleet repo, from a commit of a bare Git repository or from a checked-out folder.

Both give the same Git tree ids, so what is rendered from a checkout and from its commit has the same key. All of it may
be somebody hostile's: `listing` says what a file may be, `unpack` writes a bundle's folder out. Next: `fleet` reads the
fleet's own files from here, `render.build` a bundle's folder.
"""

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import pygit2

from hub.repo import listing, unpack
from hub.repo.listing import File
from proto.errors import InvalidInput, Permanent
from proto.ids import Oid
from proto.objects import git_id

MAX_REPO_FILES = 1_000_000
"""Listed for a whole repo: a tree that holds one tree many times over has no end otherwise."""

T = TypeVar("T", bound=pygit2.Object)


class Tree(Protocol):
    """A fleet repo at one moment. Paths have `/` between their parts, relative to the repo; "" is the whole repo."""

    def files(
        self, prefix: str = "", *, wanted: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, bytes | InvalidInput]]:
        """Path and content of the files below the folder `prefix` for whose path `wanted` is true, sorted by path.

        Others are not even read. What cannot be read (a link, a file beyond the limit) comes as the error that says so:
        to pass over it in silence could take a cluster out of the fleet, to raise it would stop all others. So does
        what stands in a folder's place and cannot be looked into; `wanted` is asked about it with a `/` at the end too.
        """

    def tree_id(self, folder: str) -> Oid:
        """The Git tree id of a folder. Raises InvalidInput when there is none."""

    def materialise(self, folder: str, destination: Path) -> None:
        """Write a folder's files below `destination`, which is made. Raises InvalidInput (see `unpack`)."""


class CommitTree:
    """A commit in a bare (or any) Git repository."""

    def __init__(self, repo: Path | pygit2.Repository, commit: str) -> None:
        """Raises Permanent when the commit is not there."""
        try:
            self._repo = repo if isinstance(repo, pygit2.Repository) else pygit2.Repository(str(repo))
            found = self._repo.get(commit)
            self._root = found.peel(pygit2.Tree) if found is not None else None
        except (pygit2.GitError, ValueError, KeyError) as error:
            raise Permanent(f"commit {commit}", f"cannot be read: {error}", "fetch the fleet repo again") from error
        if self._root is None:
            raise Permanent(f"commit {commit}", "is not in the mirror", "fetch the fleet repo again")

    def files(
        self, prefix: str = "", *, wanted: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, bytes | InvalidInput]]:
        return _wanted_files(_listed(self._entries(self._folder(prefix)), prefix), prefix, wanted)

    def tree_id(self, folder: str) -> Oid:
        return Oid(str(self._folder(folder).id))

    def materialise(self, folder: str, destination: Path) -> None:
        unpack.write(_listed(self._entries(self._folder(folder)), folder, limit=listing.MAX_FILES), folder, destination)

    def root(self, name: str) -> tuple[int, Oid] | None:
        """Mode and id of what the root has under a name, None when it has nothing there."""
        assert self._root is not None
        try:
            return int(self._root[name].filemode), Oid(str(self._root[name].id))
        except KeyError:
            return None

    def _folder(self, folder: str) -> pygit2.Tree:
        found: object = self._root
        for part in _parts(folder):
            try:
                found = found[part] if isinstance(found, pygit2.Tree) else None
            except KeyError:
                found = None
        if not isinstance(found, pygit2.Tree):
            raise _no_folder(folder)
        return found

    def _entries(self, tree: pygit2.Tree, *, at: str = "") -> Iterator[File]:
        for entry in tree:
            # A raw tree may hold a name with a slash; as a NUL it cannot pass for a path, and `listing` refuses it.
            path = at + (entry.raw_name or b"").replace(b"/", b"\0").decode("utf-8", "surrogateescape")
            mode, oid = int(entry.filemode), entry.id
            if mode == listing.FOLDER:
                if path.count("/") < listing.MAX_DEPTH:
                    yield from self._entries(self._object(oid, pygit2.Tree), at=f"{path}/")
                else:
                    yield File(path=path, mode=listing.TOO_DEEP)
            elif mode == listing.SUBMODULE:
                yield File(path=path, mode=listing.SUBMODULE)
            else:
                yield File(path=path, mode=mode, size=partial(self._size, oid), read=partial(self._blob, oid))

    def _size(self, oid: pygit2.Oid) -> int:
        """Read before the object is, so that a large one never is."""
        try:
            return self._repo.odb.read_header(oid)[1]
        except (KeyError, pygit2.GitError) as error:
            raise self._incomplete(oid) from error

    def _blob(self, oid: pygit2.Oid) -> bytes:
        return self._object(oid, pygit2.Blob).data

    def _object(self, oid: pygit2.Oid, kind: type[T]) -> T:
        try:
            found = self._repo[oid]
        except (KeyError, pygit2.GitError) as error:
            raise self._incomplete(oid) from error
        if not isinstance(found, kind):
            raise self._incomplete(oid)
        return found

    def _incomplete(self, oid: pygit2.Oid) -> Permanent:
        return Permanent(
            f"mirror {self._repo.path}",
            f"lacks the Git object {oid}",
            "remove the mirror, it is a copy and is fetched again",
        )


class FolderTree:
    """A checked-out folder as it is on disk, committed or not. `.git` at its root is left out, nothing else is."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(
        self, prefix: str = "", *, wanted: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, bytes | InvalidInput]]:
        return _wanted_files(_listed(self._entries(self._folder(prefix)), prefix), prefix, wanted)

    def tree_id(self, folder: str) -> Oid:
        """As `git write-tree` gives it after `git add --all --force`. Raises InvalidInput for what Git cannot hold."""
        root: dict[str, object] = {}
        for entry in _listed(self._entries(self._folder(folder)), folder):
            if not entry.is_file or ".git" in entry.path.split("/"):
                raise listing.refusal(entry, listing.below(folder, entry.path))
            *parents, name = entry.path.split("/")
            node = root
            for parent in parents:
                node = node.setdefault(parent, {})  # type: ignore[assignment]
            node[name] = entry
        return _tree_id(root)

    def materialise(self, folder: str, destination: Path) -> None:
        unpack.write(_listed(self._entries(self._folder(folder)), folder, limit=listing.MAX_FILES), folder, destination)

    def _folder(self, folder: str) -> Path:
        path = self._root
        for part in _parts(folder):
            path = path / part
            if path.is_symlink():
                raise InvalidInput(
                    listing.shown(folder), "goes through a symbolic link", "use the folder that it links to"
                )
        if not path.is_dir():
            raise _no_folder(folder)
        return path

    def _entries(self, folder: Path, *, at: str = "") -> Iterator[File]:
        with os.scandir(folder) as scan:
            items = list(scan)
        for item in items:
            path, place = at + item.name, Path(item.path)
            if path == ".git" and folder == self._root:
                continue
            info = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                if (place / ".git").exists():  # Git commits no file of it
                    yield File(path=path, mode=listing.SUBMODULE)
                elif path.count("/") < listing.MAX_DEPTH:
                    yield from self._entries(place, at=f"{path}/")
                else:
                    yield File(path=path, mode=listing.TOO_DEEP)
            elif stat.S_ISLNK(info.st_mode):
                target = os.fsencode(os.readlink(place))
                yield File(path=path, mode=listing.LINK, size=partial(len, target), read=partial(bytes, target))
            elif stat.S_ISREG(info.st_mode):
                mode = listing.EXECUTABLE if info.st_mode & stat.S_IXUSR else listing.FILE
                yield File(path=path, mode=mode, size=partial(int, info.st_size), read=place.read_bytes)
            else:
                yield File(path=path, mode=listing.SPECIAL)


def _parts(folder: str) -> tuple[str, ...]:
    parts = tuple(part for part in folder.split("/") if part not in ("", "."))
    if folder.startswith("/") or ".." in parts:
        raise InvalidInput(
            listing.shown(folder), "is not a path inside the fleet repo", "use a relative path without '..'"
        )
    return parts


def _no_folder(folder: str) -> InvalidInput:
    return InvalidInput(listing.shown(folder), "is not a folder of the fleet repo", "check the path")


def _listed(entries: Iterator[File], folder: str, *, limit: int = MAX_REPO_FILES) -> list[File]:
    """All entries in order. Raises InvalidInput beyond `limit`, without listing the rest."""
    found = list(islice(entries, limit + 1))
    if len(found) > limit:
        raise InvalidInput(listing.shown(folder), f"has more than {limit} files, the limit", "split the bundle")
    return sorted(found, key=lambda entry: entry.path)


def _wanted_files(
    entries: list[File], prefix: str, wanted: Callable[[str], bool] | None
) -> Iterator[tuple[str, bytes | InvalidInput]]:
    base = "/".join(_parts(prefix))
    for entry in entries:
        path = listing.below(base, entry.path)
        if wanted is None or wanted(path) or (not stat.S_ISREG(entry.mode) and wanted(f"{path}/")):
            yield listing.shown(path), _content(entry, path)


def _content(entry: File, path: str) -> bytes | InvalidInput:
    """What is in the file, or why it cannot be read."""
    if entry.mode == listing.LINK:
        return InvalidInput(listing.shown(path), "is a symbolic link", "replace it by what it links to")
    if not entry.is_file or not listing.is_safe(path):
        return listing.refusal(entry, path)
    if entry.size() > listing.MAX_FILE_BYTES:
        return listing.too_large(path, entry.size())
    try:
        return entry.read()
    except OSError as error:  # of a checkout
        return InvalidInput(listing.shown(path), f"cannot be read: {error.strerror}", "check its permissions")


def _tree_id(node: dict[str, object]) -> Oid:
    """Git's id of a tree; a folder sorts as if its name ended in `/`."""
    rows: list[tuple[bytes, bytes]] = []
    for name, child in node.items():
        raw = os.fsencode(name)
        if isinstance(child, File):
            rows.append((raw, b"%o %s\0" % (child.mode, raw) + bytes.fromhex(git_id("blob", child.read()))))
        elif isinstance(child, dict):
            rows.append((raw + b"/", b"40000 %s\0" % raw + bytes.fromhex(_tree_id(child))))
    return git_id("tree", b"".join(row for _, row in sorted(rows)))
