"""Git packs: the bytes of their entries and indexes, and how a pack file gets onto the disk and off it again.

Every object is stored whole (no deltas): slices are small JSON files, and a whole entry can be sent to any agent as it
is. Formats: gitformat-pack(5), pack version 2 and index version 2. A pack exists for its readers from the moment its
`.idx` has its name, so the order on disk is

    write both under temporary names → .pack: fsync, rename, fsync the folder → the same for .idx   (appears whole)
    unlink .idx → unlink .pack                                                                     (goes whole)

and a kill at any point leaves at most files that no reader looks at, which `sweep` removes. Assumes one writer at a
time (`gitstore` holds the lock). Next module: `gitstore`.
"""

import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self

from proto.errors import Permanent
from proto.ids import Oid

_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_UNFINISHED = "tmp_"
"""Git's own prefix for unfinished packs: its tools also know these as rubbish."""
_DOOMED = "flotilla.doomed"
"""The names of packs that are on their way out, together."""
_INDEX_MAGIC = b"\xfftOc\0\0\0\2"
_OIDS_AT = len(_INDEX_MAGIC) + 256 * 4
_LARGE_OFFSET = 1 << 31


class Placed(NamedTuple):
    """Where one entry lies in its pack: what the index says of it."""

    oid: Oid
    crc32: int
    offset: int


def entry(kind: str, data: bytes) -> bytes:
    """Pure: the pack entry of one whole object: a header with its type and size, then its zlib stream.

    Raises Permanent for a kind that is not blob, tree or commit.
    """
    if kind not in _TYPES:
        raise Permanent(f"Git object of kind {kind[:20]!r}", "cannot be stored: it is not a blob, tree or commit")
    size = len(data)
    byte = _TYPES[kind] << 4 | size & 15
    size >>= 4
    header = bytearray()
    while size:
        header.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    header.append(byte)
    return bytes(header) + zlib.compress(data)


def stream(entries: Iterable[bytes], *, count: int) -> Iterator[bytes]:
    """Pure: a whole pack as pieces, one per entry between header and checksum. `count` is the number of entries."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in chain((_header(count),), entries):
        digest.update(piece)
        yield piece
    yield digest.digest()


def _header(count: int) -> bytes:
    return b"PACK" + struct.pack(">II", 2, count)


def index(placed: Iterable[Placed], *, pack_checksum: bytes) -> bytes:
    """Pure: the version 2 index of a pack."""
    rows = sorted(placed)
    fanout = [0] * 256
    for row in rows:
        fanout[int(row.oid[:2], 16)] += 1
    for i in range(1, 256):
        fanout[i] += fanout[i - 1]
    large = [row.offset for row in rows if row.offset >= _LARGE_OFFSET]
    next_large = iter(range(len(large)))
    offsets = [_LARGE_OFFSET | next(next_large) if row.offset >= _LARGE_OFFSET else row.offset for row in rows]
    body = b"".join(
        (
            _INDEX_MAGIC,
            struct.pack(">256I", *fanout),
            *(bytes.fromhex(row.oid) for row in rows),
            struct.pack(f">{len(rows)}I", *(row.crc32 for row in rows)),
            struct.pack(f">{len(rows)}I", *offsets),
            struct.pack(f">{len(large)}Q", *large),
            pack_checksum,
        )
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def to_merge(sizes: Sequence[int]) -> int:
    """Pure: how many of the smallest packs to merge into one; `sizes` ascend.

    Afterwards each pack is at least twice as large as the one before it, so that few remain and a large pack is
    rewritten only when as much has come since. The rule is that of `git repack --geometric=2`.
    """
    split = next((i + 1 for i in range(len(sizes) - 1, 0, -1) if sizes[i] < 2 * sizes[i - 1]), 0)
    merged = sum(sizes[:split])
    while 0 < split < len(sizes) and sizes[split] < 2 * merged:
        merged += sizes[split]
        split += 1
    return split


def write(folder: Path, entries: Iterable[tuple[Oid, bytes]], *, count: int) -> Path:
    """Write `count` entries of distinct objects as one pack with its index; gives the path of the `.pack`.

    Durable on return.
    """
    with Unfinished(folder) as pack, Unfinished(folder) as idx:
        pack.write(_header(count))
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


def packs(folder: Path) -> list[Path]:
    """The paths of all `.pack` files that readers see, smallest first."""
    found = [idx.with_suffix(".pack") for idx in folder.glob("pack-*.idx")]
    return sorted((pack for pack in found if pack.exists()), key=lambda pack: (pack.stat().st_size, pack.name))


def oids(pack: Path) -> Iterator[Oid]:
    """The ids of all objects in a pack, from its index. Raises Permanent when that is not one."""
    data = pack.with_suffix(".idx").read_bytes()
    if not data.startswith(_INDEX_MAGIC) or len(data) < _OIDS_AT:
        raise Permanent(f"pack index {pack.stem}", "is not a version 2 index", "run 'git fsck' on the slice repository")
    (count,) = struct.unpack_from(">I", data, _OIDS_AT - 4)
    for at in range(_OIDS_AT, _OIDS_AT + 20 * count, 20):
        yield Oid(data[at : at + 20].hex())


def remove(pack: Path) -> None:
    """Take a pack away, first from its readers' sight. Its objects have to be in another pack that is durable."""
    pack.with_suffix(".idx").unlink(missing_ok=True)
    for file in pack.parent.glob(f"{pack.stem}.*"):
        file.unlink(missing_ok=True)


def remove_all(folder: Path, doomed: Collection[Path]) -> None:
    """Take packs away together, though some of their objects are in no other: none is left once the first is gone.

    A tree that stays while the files below it go would be taken for a whole subtree; so the list of names is durable
    first, and `sweep` goes on with it after a kill.
    """
    if doomed:
        with Unfinished(folder) as file:
            file.write("".join(f"{pack.name}\n" for pack in doomed).encode())
            file.publish(folder / _DOOMED)
        _remove_doomed(folder)


def _remove_doomed(folder: Path) -> None:
    listed = folder / _DOOMED
    if listed.exists():
        for name in listed.read_text().splitlines():
            remove(folder / name)
        sync_folder(folder)
        listed.unlink()


def sweep(folder: Path) -> None:
    """Remove what a killed writer left behind, and make sure that what is there will still be after a power cut."""
    _remove_doomed(folder)
    for file in folder.glob(f"{_UNFINISHED}*"):
        file.unlink(missing_ok=True)
    for pack in folder.glob("pack-*.pack"):
        if not pack.with_suffix(".idx").exists():
            pack.unlink(missing_ok=True)
    sync_folder(folder)


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
        fd, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
        self._file = os.fdopen(fd, "wb")
        self._path = Path(name)
        self.size = 0
        self.digest = hashlib.sha1(usedforsecurity=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
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
