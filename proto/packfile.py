"""How a pack gets onto the disk: under a temporary name until it is whole and durable.

A pack exists for its readers from the moment its `.idx` has its name, so the order is

    write both under temporary names → .pack: fsync, rename, fsync the folder → the same for .idx

and a kill at any point leaves at most files that no reader looks at, whose names begin with UNFINISHED. Everything
here blocks. `packs` has the bytes.
"""

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from proto.ids import Oid
from proto.packs import Placed, header, index

UNFINISHED: Final = "tmp_"
"""Git's own prefix for unfinished packs: its tools also know these as rubbish."""


def write(folder: Path, entries: Iterable[tuple[Oid, bytes]], *, count: int) -> Path:
    """Write `count` entries of distinct objects as one pack with its index; gives the path of the `.pack`.

    Durable on return. What iterating `entries` raises leaves nothing behind.
    """
    with Unfinished(folder) as pack, Unfinished(folder) as idx:
        pack.write(header(count))
        placed = []
        for oid, piece in entries:
            placed.append(Placed(oid, zlib.crc32(piece), pack.size))
            pack.write(piece)
        checksum = pack.digest.digest()
        pack.write(checksum)
        idx.write(index(placed, pack_checksum=checksum))
        path = folder / f"pack-{checksum.hex()}.pack"
        pack.publish(path)
        idx.publish(path.with_suffix(".idx"))
    return path


def sweep(folder: Path) -> None:
    """Remove what killed writers left there: ours and Git's, `tmp_…`, and libgit2's, `…_git2_…`."""
    for file in list(folder.iterdir()):
        if file.name.startswith(UNFINISHED) or "_git2_" in file.name:
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Unfinished:
    """A file under a temporary name, which `publish` makes durable under its final one; else it goes on exit."""

    def __init__(self, folder: Path) -> None:
        fd, name = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)
        self._file = os.fdopen(fd, "wb")
        self._path = Path(name)
        self.size = 0
        self.digest = hashlib.sha1(usedforsecurity=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:  # on a full disk it fails once more, with what was not written yet
            self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def publish(self, path: Path) -> None:
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        os.rename(self._path, path)
        sync_folder(path.parent)
