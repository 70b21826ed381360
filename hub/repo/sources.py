"""The files of a fleet repo, from a commit of a bare Git repository or from a checked-out folder.

Both give the same Git tree ids, so what is rendered from a checkout and from its commit has the same key. Everything
here may have been written by somebody hostile: `materialise` checks the whole folder before it writes the first byte,
and writes nothing outside its destination.

| in a bundle's folder                                 | what happens                                    |
|------------------------------------------------------|-------------------------------------------------|
| file, executable file                                | written                                         |
| link to a file in the folder                         | written as a link, after all files              |
| any other link (absolute, leaving, dangling, folder) | refused: InvalidInput                           |
| submodule, `.git`, `..`, a name that is not UTF-8    | refused: InvalidInput                           |
| more or larger files than the limits below           | refused: InvalidInput, before a file is read    |
| what `.flotillaignore` names, whatever it is         | left out, never looked at                       |

`.flotillaignore` stands in the bundle's folder and has the syntax of `.gitignore`. Next: `fleet` reads the fleet's own
files from here, `render.build` a bundle's folder. Longer than other modules: each row of the table is a check here.
"""

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import pathspec
import pygit2

from proto.errors import InvalidInput, Permanent
from proto.ids import Oid
from proto.objects import git_id

MAX_FILE_BYTES = 4 << 20
MAX_FILES = 20_000
MAX_BUNDLE_BYTES = 256 << 20
"""Of all files of one bundle: what a worker may write to its temporary folder."""
MAX_REPO_FILES = 1_000_000
"""Listed for a whole repo: a tree that holds one tree many times over has no end otherwise."""
MAX_DEPTH = 64
IGNORE_FILE = ".flotillaignore"
_MAX_IGNORE_BYTES = 64 << 10
_MAX_STARS = 3
"""Runs of `*` in one name, and folders `**` in one pattern: each more takes a hundred times as long to look for."""
_MAX_LINKS = 8
"""Links that lead to links, before we call it a loop."""

_FILE, _EXECUTABLE, _LINK, _SUBMODULE, _FOLDER = 0o100644, 0o100755, 0o120000, 0o160000, 0o040000
T = TypeVar("T", bound=pygit2.Object)

_SPECIAL = 0
"""A socket, pipe or device: cannot be in Git, but in a checkout."""
_TOO_DEEP = 1
"""A folder that lies too deep to be looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One file as it was listed; `path` is relative to the folder, surrogates stand for bytes that are not UTF-8.
    Nothing of it is read before `size` (in bytes) or `read` is called."""

    path: str
    mode: int
    size: Callable[[], int] = int
    read: Callable[[], bytes] = bytes


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
        """Write a folder's files below `destination`, which is made. Raises InvalidInput (see the module's table)."""


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
        _write(_listed(self._entries(self._folder(folder)), folder, limit=MAX_FILES), folder, destination)

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

    def _entries(self, tree: pygit2.Tree, *, at: str = "") -> Iterator[_Entry]:
        for entry in tree:
            # A raw tree may hold a name with a slash; as a NUL it cannot pass for a path, and `_check` refuses it.
            path = at + (entry.raw_name or b"").replace(b"/", b"\0").decode("utf-8", "surrogateescape")
            mode, oid = int(entry.filemode), entry.id
            if mode == _FOLDER:
                if path.count("/") < MAX_DEPTH:
                    yield from self._entries(self._object(oid, pygit2.Tree), at=f"{path}/")
                else:
                    yield _Entry(path=path, mode=_TOO_DEEP)
            elif mode == _SUBMODULE:
                yield _Entry(path=path, mode=_SUBMODULE)
            else:
                yield _Entry(path=path, mode=mode, size=partial(self._size, oid), read=partial(self._blob, oid))

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
            if entry.mode in (_SPECIAL, _TOO_DEEP, _SUBMODULE) or ".git" in entry.path.split("/"):
                raise _refusal(entry, _below(folder, entry.path))
            *parents, name = entry.path.split("/")
            node = root
            for parent in parents:
                node = node.setdefault(parent, {})  # type: ignore[assignment]
            node[name] = entry
        return _tree_id(root)

    def materialise(self, folder: str, destination: Path) -> None:
        _write(_listed(self._entries(self._folder(folder)), folder, limit=MAX_FILES), folder, destination)

    def _folder(self, folder: str) -> Path:
        path = self._root
        for part in _parts(folder):
            path = path / part
            if path.is_symlink():
                raise InvalidInput(shown(folder), "goes through a symbolic link", "use the folder that it links to")
        if not path.is_dir():
            raise _no_folder(folder)
        return path

    def _entries(self, folder: Path, *, at: str = "") -> Iterator[_Entry]:
        with os.scandir(folder) as listing:
            items = list(listing)
        for item in items:
            path, place = at + item.name, Path(item.path)
            if path == ".git" and folder == self._root:
                continue
            info = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                if (place / ".git").exists():  # Git commits no file of it
                    yield _Entry(path=path, mode=_SUBMODULE)
                elif path.count("/") < MAX_DEPTH:
                    yield from self._entries(place, at=f"{path}/")
                else:
                    yield _Entry(path=path, mode=_TOO_DEEP)
            elif stat.S_ISLNK(info.st_mode):
                target = os.fsencode(os.readlink(place))
                yield _Entry(path=path, mode=_LINK, size=partial(len, target), read=partial(bytes, target))
            elif stat.S_ISREG(info.st_mode):
                mode = _EXECUTABLE if info.st_mode & stat.S_IXUSR else _FILE
                yield _Entry(path=path, mode=mode, size=partial(int, info.st_size), read=place.read_bytes)
            else:
                yield _Entry(path=path, mode=_SPECIAL)


def _parts(folder: str) -> tuple[str, ...]:
    parts = tuple(part for part in folder.split("/") if part not in ("", "."))
    if folder.startswith("/") or ".." in parts:
        raise InvalidInput(shown(folder), "is not a path inside the fleet repo", "use a relative path without '..'")
    return parts


def _no_folder(folder: str) -> InvalidInput:
    return InvalidInput(shown(folder), "is not a folder of the fleet repo", "check the path")


def _listed(entries: Iterator[_Entry], folder: str, *, limit: int = MAX_REPO_FILES) -> list[_Entry]:
    """All entries in order. Raises InvalidInput beyond `limit`, without listing the rest."""
    found = list(islice(entries, limit + 1))
    if len(found) > limit:
        raise InvalidInput(shown(folder), f"has more than {limit} files, the limit", "split the bundle")
    return sorted(found, key=lambda entry: entry.path)


def shown(path: str) -> str:
    """`path` as a message may hold it: bytes that are not UTF-8 and control characters as `\\x..`."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:300] or "fleet repo"


def _wanted_files(
    entries: list[_Entry], prefix: str, wanted: Callable[[str], bool] | None
) -> Iterator[tuple[str, bytes | InvalidInput]]:
    base = "/".join(_parts(prefix))
    for entry in entries:
        path = _below(base, entry.path)
        if wanted is None or wanted(path) or (not stat.S_ISREG(entry.mode) and wanted(f"{path}/")):
            yield shown(path), _content(entry, path)


def _content(entry: _Entry, path: str) -> bytes | InvalidInput:
    """What is in the file, or why it cannot be read."""
    if entry.mode == _LINK:
        return InvalidInput(shown(path), "is a symbolic link", "replace it by what it links to")
    if entry.mode in (_SUBMODULE, _SPECIAL, _TOO_DEEP) or not is_safe(path):
        return _refusal(entry, path)
    if entry.size() > MAX_FILE_BYTES:
        return _too_large(path, entry.size())
    try:
        return entry.read()
    except OSError as error:  # of a checkout
        return InvalidInput(shown(path), f"cannot be read: {error.strerror}", "check its permissions")


def _too_large(path: str, size: int) -> InvalidInput:
    return InvalidInput(
        shown(path), f"has {size} bytes, the limit is {MAX_FILE_BYTES}", "keep large files outside the fleet repo"
    )


def _refusal(entry: _Entry, path: str) -> InvalidInput:
    """What to say of an entry that no bundle may hold, and that cannot be a fleet file."""
    path = shown(path)
    if entry.mode == _SUBMODULE:
        remedy = "copy its files, without .git, into its place"
        return InvalidInput(path, "is a Git submodule, or a repository of its own", remedy)
    if entry.mode == _SPECIAL:
        return InvalidInput(path, "is neither a file nor a folder", "remove it")
    if entry.mode == _TOO_DEEP:
        return InvalidInput(path, f"is more than {MAX_DEPTH} folders deep", "move it up")
    if ".git" in entry.path.lower().split("/"):
        return InvalidInput(path, "is part of a Git repository inside the bundle's folder", "remove the inner .git")
    return InvalidInput(path, "is not a valid name of a file", "rename it: UTF-8, no '..', no control characters")


def _write(entries: list[_Entry], folder: str, destination: Path) -> None:
    entries = _without_ignored(entries, folder)
    targets = _check(entries, folder)
    destination.mkdir(parents=True, exist_ok=True)
    for entry in sorted(entries, key=lambda entry: entry.mode == _LINK):
        place = destination / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode == _LINK:
            place.symlink_to(targets[entry.path])
        else:
            # O_EXCL: a name that appears twice (a hostile tree, a file system that folds case) never overwrites.
            mode = 0o755 if entry.mode & stat.S_IXUSR else 0o644
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
                file.write(entry.read())


def _without_ignored(entries: list[_Entry], folder: str) -> list[_Entry]:
    """Those that `.flotillaignore` leaves. Raises InvalidInput when it cannot be read: it may leave out anything."""
    file = next((entry for entry in entries if entry.path == IGNORE_FILE), None)
    if file is None:
        return entries
    where = shown(_below(folder, IGNORE_FILE))
    if not stat.S_ISREG(file.mode):
        raise InvalidInput(where, "is not a file", "write the patterns into it")
    if (size := file.size()) > _MAX_IGNORE_BYTES:
        raise InvalidInput(where, f"has {size} bytes, the limit is {_MAX_IGNORE_BYTES}", "ignore whole folders")
    try:
        lines = file.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(where, "is not UTF-8", "save it as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        try:
            pathspec.GitIgnoreSpec.from_lines([line])
        except ValueError as error:
            raise InvalidInput(f"{where}:{number}", "is not a pattern of .gitignore's syntax", "correct it") from error
        names = [] if line.startswith("#") else line.split("/")
        if names.count("**") > _MAX_STARS or any(len(re.findall(r"\*+", name)) > _MAX_STARS for name in names):
            raise InvalidInput(
                f"{where}:{number}",
                f"has more than {_MAX_STARS} '*' in one name, or '**' in one pattern",
                "write more patterns that have fewer",
            )
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    return [entry for entry in entries if entry is not file and not ignored.match_file(entry.path)]


def _check(entries: list[_Entry], folder: str) -> dict[str, str]:
    """The target of each link, after every entry was found harmless. Raises InvalidInput."""
    seen: dict[str, _Entry] = {}
    total = 0
    for entry in entries:
        path = _below(folder, entry.path)
        if entry.mode in (_SUBMODULE, _SPECIAL, _TOO_DEEP) or not is_safe(entry.path):
            raise _refusal(entry, path)
        if (size := entry.size()) > MAX_FILE_BYTES:
            raise _too_large(path, size)
        if entry.path in seen or any(parent in seen for parent in _parents(entry.path)):
            raise InvalidInput(shown(path), "is there twice", "write the commit with git")
        seen[entry.path] = entry
        total += size
    if total > MAX_BUNDLE_BYTES:
        raise InvalidInput(shown(folder), f"has {total} bytes, the limit is {MAX_BUNDLE_BYTES}", "split the bundle")
    links = {path: os.fsdecode(entry.read()) for path, entry in seen.items() if entry.mode == _LINK}
    for path in links:
        _check_link(path, links, seen, folder)
    return links


def _below(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def is_safe(path: str) -> bool:
    """Pure: whether a file of a bundle may be called so: nothing that leaves its folder, means Git's own files, or
    cannot be shown."""
    parts = path.split("/")
    return (
        all(part not in ("", ".", "..") and part.lower() != ".git" for part in parts)
        and path.isprintable()
        and "\\" not in path
    )


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _check_link(path: str, links: dict[str, str], seen: dict[str, _Entry], folder: str) -> None:
    """A link has to end at a file of the folder. Links to folders are refused, so no path leads through a link, and
    taking `..` off the text of the target is exact."""
    at, target = path, links[path]
    for _ in range(_MAX_LINKS):
        if target.startswith("/") or "\0" in target:
            break
        at = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
        if at not in seen:
            break
        if at not in links:
            return
        target = links[at]
    raise InvalidInput(
        shown(_below(folder, path)),
        f"links to {shown(links[path])}, which is not a file of the bundle",
        "replace the link by a copy of the file, or put the file into the bundle's folder",
    )


def _tree_id(node: dict[str, object]) -> Oid:
    """Git's id of a tree; a folder sorts as if its name ended in `/`."""
    rows: list[tuple[bytes, bytes]] = []
    for name, child in node.items():
        raw = os.fsencode(name)
        if isinstance(child, _Entry):
            rows.append((raw, b"%o %s\0" % (child.mode, raw) + bytes.fromhex(git_id("blob", child.read()))))
        elif isinstance(child, dict):
            rows.append((raw + b"/", b"40000 %s\0" % raw + bytes.fromhex(_tree_id(child))))
    return git_id("tree", b"".join(row for _, row in sorted(rows)))
