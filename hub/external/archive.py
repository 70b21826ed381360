"""Archives (tar, tar.gz) into Git trees, without the file system: nothing in one becomes a path of this machine.

An archive is a stranger's. It is read once, from its start to its end, with one file in memory at a time:

| in the archive                                             | what happens                                          |
|------------------------------------------------------------|-------------------------------------------------------|
| file, executable file                                      | kept; owner, time and other rights make no difference |
| symbolic link                                              | kept, if it does not lead out of the archive          |
| folder                                                     | passed over: Git knows files only                     |
| hard link, device, pipe, sparse file                       | refused                                               |
| absolute name, `..`, `.git`, not UTF-8, control characters | refused                                               |
| a name twice, a file where a folder is                     | refused: readers differ in which one they take        |
| more or larger files than a bundle may have                | refused as soon as it is seen (a gzip bomb too)       |
| no end, something after the end, a wrong checksum          | refused: a part of it may be missing                  |

So one archive has one tree on every machine. Whether a link ends at a file is seen when a bundle is written out
(`repo.sources`). Of `tarfile` only the reader of headers is used: the rest takes for the end whatever it cannot read,
and holds what a header announces. Next: `helm_repo` and `oci` unpack what they fetched and checked.
"""

import gzip
import posixpath
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pygit2
from pygit2.enums import FileMode

from hub.repo import listing
from proto.errors import InvalidInput
from proto.ids import Oid

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES = 512
_MAX_NAME_BYTES = 64 << 10
"""Of a header that only holds names."""
_MAX_NAMES_BYTES = 32 << 20
_MAX_HEADERS = 4 * listing.MAX_FILES
"""Folders and headers of names count too: else an archive of nothing but them would never end."""
_MAX_PADDING_BYTES = 1 << 20
_PACK_AGAIN = "pack it again with tar or 'helm package'"
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_NAMES = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE})


class Files:
    """The files of one tree while they are gathered, from several archives if need be. `what` names it in messages."""

    def __init__(self, repo: pygit2.Repository, *, what: str) -> None:
        self._repo, self._what = repo, what
        self._index = pygit2.Index()
        self._names: set[str] = set()
        self._folders: set[str] = set()
        self._bytes = 0

    def add(self, path: str, data: bytes, *, mode: FileMode = FileMode.BLOB) -> None:
        """Raises InvalidInput for a name, or an amount, that no bundle may have."""
        self.expect(path, len(data))
        self.store(path, data, mode)

    def expect(self, path: str, size: int) -> None:
        """Take note of a file of `size` bytes before it is read. Raises as `add`."""
        parents = [path[:index] for index, character in enumerate(path) if character == "/"]
        if not listing.is_safe(path):
            raise self.refusal(path, "is not a name that a file of a bundle may have", _PACK_AGAIN)
        if len(parents) > listing.MAX_DEPTH:
            raise self.refusal(path, f"is more than {listing.MAX_DEPTH} folders deep", "move it up")
        if path in self._names or path in self._folders or any(parent in self._names for parent in parents):
            raise self.refusal(path, "is there twice", _PACK_AGAIN)
        self._names.add(path)
        self._folders.update(parents)
        self._bytes += size
        if size > listing.MAX_FILE_BYTES:
            raise self.refusal(path, f"has {size} bytes, the limit is {listing.MAX_FILE_BYTES}", "leave it out")
        if len(self._names) > listing.MAX_FILES:
            raise self.refusal("", f"has more than {listing.MAX_FILES} files, the limit", "split it")
        if self._bytes > listing.MAX_BUNDLE_BYTES:
            raise self.refusal("", f"has more than {listing.MAX_BUNDLE_BYTES} bytes, the limit", "split it")

    def unpack(self, path: Path, *, strip: int = 0) -> None:
        """All files of the archive at `path`, without the first `strip` folders of their names.

        Raises InvalidInput for an archive that is not whole, or holds what the module's table refuses.
        """
        try:
            with path.open("rb") as raw:
                start = raw.read(4)
                raw.seek(0)
                if start == _ZSTD:
                    raise self.refusal("", "is compressed with zstd, which is not read here", "publish it with gzip")
                if start.startswith(_GZIP):
                    with gzip.GzipFile(fileobj=raw) as unzipped:
                        self._take(cast(BinaryIO, unzipped), strip=strip)
                else:
                    self._take(raw, strip=strip)
        except (EOFError, zlib.error, gzip.BadGzipFile, _Broken) as error:
            raise self.refusal("", f"is not a whole archive: {error}", _PACK_AGAIN) from error

    def write(self) -> Oid:
        """The tree of what was added. Raises InvalidInput when that is nothing."""
        if not self._names:
            raise self.refusal("", "holds no file", "check how it was made")
        return Oid(str(self._index.write_tree(self._repo)))

    def refusal(self, path: str, cause: str, remedy: str) -> InvalidInput:
        return InvalidInput(f"{self._what}: {listing.shown(path)}" if path else self._what, cause, remedy)

    def store(self, path: str, data: bytes, mode: FileMode = FileMode.BLOB) -> None:
        """After `expect`."""
        self._index.add(pygit2.IndexEntry(path, self._repo.create_blob(data), mode))

    def _take(self, stream: BinaryIO, *, strip: int) -> None:
        for member in _members(stream):
            if member.type == tarfile.DIRTYPE:
                continue
            path = self._path(member.name, strip=strip)
            if member.type == tarfile.SYMTYPE:
                self.add(path, self._target(path, member.target), mode=FileMode.LINK)
            elif member.type in _FILES:
                self.expect(path, member.size)
                data = _exactly(stream, member.size)
                _exactly(stream, -member.size % _BLOCK_BYTES)
                self.store(path, data, FileMode.BLOB_EXECUTABLE if member.executable else FileMode.BLOB)
            else:
                raise self.refusal(path, "is neither a file nor a symbolic link", _PACK_AGAIN)

    def _path(self, name: str, *, strip: int) -> str:
        """`a/b` of `./chart/a/b`, with 1 to strip. Raises InvalidInput for what leaves, or lies above, the folder."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise self.refusal(name, "leads out of the archive", _PACK_AGAIN)
        if len(parts) <= strip:
            raise self.refusal(name, "is not inside the archive's one folder", _PACK_AGAIN)
        return "/".join(parts[strip:])

    def _target(self, path: str, target: str) -> bytes:
        end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not target or target.startswith("/") or end == ".." or end.startswith("../") or "\0" in target:
            raise self.refusal(path, f"links to {listing.shown(target)}, out of the archive", "put a copy in its place")
        return target.encode("utf-8", "surrogateescape")


def unpack(path: Path, repo: pygit2.Repository, *, what: str, strip: int = 0) -> Oid:
    """The tree in `repo` of the files of the archive at `path`, without the first `strip` folders of their names.
    Raises InvalidInput about `what` (see the module's table)."""
    files = Files(repo, what=what)
    files.unpack(path, strip=strip)
    return files.write()


def is_archive(path: Path) -> bool:
    """Whether it looks like one, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(_BLOCK_BYTES)
    return start.startswith((_GZIP, _ZSTD)) or start[257:262] == b"ustar"


class _Broken(Exception):
    """The archive is not one, or not all of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """One header; surrogates in names stand for bytes that are not UTF-8."""

    name: str
    type: bytes
    size: int
    target: str
    executable: bool


def _members(stream: BinaryIO) -> Iterator[_Member]:
    """The headers up to the archive's end, which is checked; whoever takes a file reads it before the next one."""
    stated: dict[str, str] = {}
    names_bytes = 0
    for _ in range(_MAX_HEADERS):
        block = _exactly(stream, _BLOCK_BYTES)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            _check_end(stream)
            return
        except tarfile.HeaderError as error:
            raise _Broken(str(error)) from error
        if header.type in _NAMES and (names_bytes := names_bytes + header.size) > _MAX_NAMES_BYTES:
            raise _Broken("it holds more names than files")
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            text = _names(stream, header.size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
            stated["path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"] = text
        elif header.type == tarfile.XHDTYPE:
            stated.update(_records(_names(stream, header.size)))
        elif header.type == tarfile.XGLTYPE:
            _names(stream, header.size)  # a comment, as of git archive
        else:
            if any(key.startswith("GNU.sparse") for key in stated):
                raise _Broken("it holds a sparse file")
            name = stated.get("path", header.name)
            kind = tarfile.DIRTYPE if header.type in _FILES and name.endswith("/") else header.type
            yield _Member(
                name=name,
                type=kind,
                size=_size(stated["size"]) if "size" in stated else header.size,
                target=stated.get("linkpath", header.linkname),
                executable=bool(header.mode & stat.S_IXUSR),
            )
            stated = {}
    raise _Broken(f"it has more than {_MAX_HEADERS} headers")


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """Of a PAX header: `LENGTH KEY=VALUE\\n`, where the length counts all of the record."""
    at = 0
    while at < len(data):
        digits = data[at : at + 10].partition(b" ")[0]
        end = at + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[at + len(digits) + 1 : max(end - 1, at)].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise _Broken("its header of long names cannot be read")
        yield key.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        at = end


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Broken("its header states a size that is none")
    return int(text)


def _names(stream: BinaryIO, size: int) -> bytes:
    if not 0 <= size <= _MAX_NAME_BYTES:
        raise _Broken("a name in it has no end")
    return _exactly(stream, size + -size % _BLOCK_BYTES)[:size]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """Only for a size that was checked: so much is held in memory."""
    if size < 0:
        raise _Broken("its header states a size that is none")
    data = stream.read(size)
    if len(data) < size:
        raise _Broken("it ends too early")
    return data


def _check_end(stream: BinaryIO) -> None:
    """After the end is nothing but zeros, to fill up a tape's block; reading them checks gzip's sum of all."""
    rest = stream.read(_MAX_PADDING_BYTES)
    if len(rest) == _MAX_PADDING_BYTES or rest.strip(b"\0"):
        raise _Broken("something stands after its end")
