"""Objects out of our own packs, as the entries that they are stored and sent as.

A fetch sends thousands of objects. To inflate each through the repository and to deflate it again took most of a
fetch's time, though the very bytes are in a pack: our packs hold whole objects. So we look them up ourselves: the
index says where an entry begins, inflating it where it ends, and its hash that it is what it should be. What is not
found here, or is a delta, or is broken, is not said to be missing: `gitstore` asks the repository then.

Packs are mapped when they are first needed, and stay readable when they are removed. Format: gitformat-pack(5), index
version 2. Next module: `gitstore`.
"""

import mmap
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from proto.ids import Oid
from proto.objects import git_id
from proto.packs import INDEX_MAGIC, INDEX_OIDS_AT

_FANOUT_AT = len(INDEX_MAGIC)
_LARGE = 1 << 31
_KINDS = {1: "commit", 2: "tree", 3: "blob"}


class Found(NamedTuple):
    """`entry` is the object as a pack holds it."""

    kind: str
    data: bytes
    entry: bytes


class Packed:
    """The packs of a folder. Thread-safe: what a look-up needs is replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packs: dict[str, _Pack] = {}
        self._last: _Pack | None = None

    def find(self, oid: Oid) -> Found | None:
        """None when no pack of ours has it as a whole and sound object."""
        raw = bytes.fromhex(oid)
        found = self._place(raw)
        if found is None:
            self._look()
            found = self._place(raw)
        if found is None:
            return None
        pack, at = found
        self._last = pack
        made = pack.read(at)
        return made if made is not None and git_id(made.kind, made.data) == oid else None

    def _place(self, oid: bytes) -> "tuple[_Pack, int] | None":
        """The objects of a subtree lie together, so the last pack is asked first."""
        last = self._last
        if last is not None and (at := last.place(oid)) is not None:
            return last, at
        for pack in tuple(self._packs.values()):
            if pack is not last and (at := pack.place(oid)) is not None:
                return pack, at
        return None

    def _look(self) -> None:
        """For other packs than before."""
        names = {path.name for path in self._folder.glob("pack-*.idx")}
        if names == self._packs.keys():
            return
        packs = {name: pack for name, pack in self._packs.items() if name in names}
        for name in names - packs.keys():
            with suppress(OSError, ValueError):  # it went meanwhile, or is none
                packs[name] = _Pack(self._folder / name)
        self._packs = packs


class _Pack:
    def __init__(self, index: Path) -> None:
        """Raises OSError, ValueError for what is no pack."""
        self._index, self._pack = _mapped(index), _mapped(index.with_suffix(".pack"))
        if self._index[:_FANOUT_AT] != INDEX_MAGIC or len(self._index) < INDEX_OIDS_AT:
            raise ValueError(f"{index.name} is no index of version 2")
        self._fanout = (0, *struct.unpack_from(">256I", self._index, _FANOUT_AT))
        self._offsets_at = INDEX_OIDS_AT + 24 * self._fanout[-1]
        self._large_at = self._offsets_at + 4 * self._fanout[-1]

    def place(self, oid: bytes) -> int | None:
        """Where the object's entry begins."""
        first = self._fanout[oid[0]]
        some = self._index[INDEX_OIDS_AT + 20 * first : INDEX_OIDS_AT + 20 * self._fanout[oid[0] + 1]]
        at = some.find(oid[1:])  # all of them begin with the same byte
        while at >= 0 and at % 20 != 1:
            at = some.find(oid[1:], at + 1)
        if at < 0:
            return None
        number = first + at // 20
        (offset,) = struct.unpack_from(">I", self._index, self._offsets_at + 4 * number)
        if offset & _LARGE:
            (offset,) = struct.unpack_from(">Q", self._index, self._large_at + 8 * (offset & ~_LARGE))
        return int(offset)

    def read(self, offset: int) -> Found | None:
        """The entry at `offset`; None when it is a delta or broken."""
        head = self._pack[offset : offset + 10]
        if not head:
            return None
        size, shift, length = head[0] & 15, 4, 1
        while head[length - 1] & 0x80 and length < len(head):
            size |= (head[length] & 0x7F) << shift
            shift, length = shift + 7, length + 1
        kind = _KINDS.get(head[0] >> 4 & 7)
        if kind is None:
            return None
        most = length + size + (size >> 8) + 64  # what cannot be made smaller gets that much larger
        entry = self._pack[offset : offset + most]
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(entry[length:], size + 1)
        except zlib.error:
            return None
        rest = len(inflater.unused_data)
        return Found(kind, data, entry[: len(entry) - rest]) if inflater.eof and len(data) == size else None


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
