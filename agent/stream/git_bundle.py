"""Takes a slice out of a `git bundle` file, as an air-gapped cluster gets it; no git is needed.

The objects go into the store's repository as one pack of whole objects, which is there entirely or not at all, so that
a file that is cut off, a full disk and a kill change nothing. What the file says of itself is not believed: objects are
hashed here, and `receive` checks the slice that they make up as it checks every other. Everything here blocks.
"""

import stat
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Final

import pygit2

from agent.stream.slice_reader import KINDS, MAX_OBJECT_BYTES
from proto import git_bundle, packfile, packs
from proto.errors import ProtocolError, TooLarge, Transient
from proto.git_bundle import MAX_HEADER_BYTES
from proto.ids import Oid

MAX_FILE_BYTES: Final = 128 << 20
"""Read into memory, for a file on a medium that is pulled out would take a mapping, and the process, with it."""
MAX_UNPACKED_BYTES: Final = 2 << 30

_KIND_NAMES: Final = {number: name for name, number in KINDS.items()}


def bring(repo: pygit2.Repository, *, path: Path, ref: str, had: Container[str], remedy: str) -> Oid:
    """The commit of `ref` in the bundle at `path`, with what comes with it put into `repo`, unless it is in `had`.

    `remedy` says how a bundle is made that fits. Raises Transient when the file or the disk cannot be read or is not
    whole, ProtocolError or TooLarge when it is no bundle, has no such ref, or needs commits that are not in `repo`.
    """
    thing = f"bundle file {path}"
    data = _read(path, thing, at_most=MAX_HEADER_BYTES)
    try:
        header = git_bundle.read_header(data)
    except packs.Broken as error:
        raise _cut_off(thing) from error
    commit = header.refs.get(ref)
    if commit is None:
        others = ", ".join(sorted(header.refs)[:5]) or "nothing"
        raise ProtocolError(thing, f"has no {ref}, but {others}: it is not for this cluster", remedy)
    if commit in had:
        return commit
    for needed in header.prerequisites:
        if needed not in repo:
            raise _needs(thing, f"commit {needed}", remedy)
    pack = memoryview(_read(path, thing, at_most=MAX_FILE_BYTES))[header.pack_at :]
    packfile.sweep(_pack_folder(repo))
    try:
        entries = packs.unpacked_entries(
            pack, bases=partial(_base, repo), max_object_bytes=MAX_OBJECT_BYTES, max_bytes=MAX_UNPACKED_BYTES
        )
        packfile.write(_pack_folder(repo), entries, count=packs.count(pack))
    except packs.Broken as error:
        raise _cut_off(thing) from error
    except packs.MissingBase as error:
        raise _needs(thing, f"object {error.oid}", remedy) from error
    return commit


def _base(repo: pygit2.Repository, oid: Oid) -> tuple[str, bytes] | None:
    """What a delta is on, if it is here."""
    try:
        kind, size = repo.odb.read_header(oid)
    except KeyError:
        return None
    if size > MAX_OBJECT_BYTES:
        raise TooLarge(f"object {oid}", f"has {size} bytes, the limit is {MAX_OBJECT_BYTES}")
    return _KIND_NAMES[kind], repo.odb.read(oid)[1]


def _read(path: Path, thing: str, *, at_most: int) -> bytes:
    """The file's first `at_most` bytes."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise ProtocolError(thing, "is not a plain file")
        if found.st_size > MAX_FILE_BYTES:
            raise TooLarge(thing, f"has {found.st_size} bytes, the limit is {MAX_FILE_BYTES}")
        with path.open("rb") as file:
            return file.read(at_most)
    except OSError as error:
        raise Transient(thing, f"cannot be read: {error.strerror}") from error


def _pack_folder(repo: pygit2.Repository) -> Path:
    return Path(repo.path) / "objects" / "pack"


def _cut_off(thing: str) -> Transient:
    return Transient(thing, "is not whole: cut off, changed on the way, or still being copied", "copy it again")


def _needs(thing: str, what: str, remedy: str) -> ProtocolError:
    return ProtocolError(thing, f"needs {what} with all that belongs to it, which this agent does not have", remedy)
