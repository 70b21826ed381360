"""Git packs as bytes: the entries and the index that we write, and the objects of any pack that somebody gives us.

We store objects whole (no deltas): slices are small JSON files, and a whole entry can be sent to any agent as it is.
Git itself makes packs of deltas, on objects of the same pack or, in a *thin* pack, on objects that the reader has;
`unpack` reads both and believes nothing:

    the whole pack      its checksum has to fit before anything is read
    sizes               inflating and copying stop at the size that was announced, and at the limits
    chains of deltas    made from the bases upwards, each object once: there is no cycle and no recursion
    what is held        the objects of one chain that are still bases of others, at most MAX_HELD_BYTES

Formats: gitformat-pack(5), pack version 2 and index version 2. Pure. Next: `packfile`.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from proto.errors import Permanent, ProtocolError, TooLarge
from proto.ids import Oid
from proto.objects import git_id

MAX_OBJECTS: Final = 500_000
"""In one pack that is read: 500 objects that changed a thousand times."""
MAX_HELD_BYTES: Final = 64 << 20

INDEX_MAGIC: Final = b"\xfftOc\0\0\0\2"
INDEX_OIDS_AT: Final = len(INDEX_MAGIC) + 256 * 4
"""Where the ids begin in an index: behind the table of how many begin with each byte or a lower one."""
_LARGE_OFFSET: Final = 1 << 31
_CHECKSUM: Final = 20
_TYPES: Final = {"commit": 1, "tree": 2, "blob": 3}
_KINDS: Final = {number: kind for kind, number in _TYPES.items()} | {4: "tag"}
_OFS_DELTA: Final = 6
_REF_DELTA: Final = 7
_PIECE: Final = 16 << 10

Bases = Callable[[Oid], tuple[str, bytes] | None]
"""(kind, data) of an object that the reader of a thin pack has, None when it has not."""


# --- written ------------------------------------------------------------------------------------------------------


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


def header(count: int) -> bytes:
    """Pure: how a pack of `count` entries begins."""
    return b"PACK" + struct.pack(">II", 2, count)


def stream(entries: Iterable[bytes], *, count: int) -> Iterator[bytes]:
    """Pure: a whole pack as pieces, one per entry between header and checksum. `count` is the number of entries."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in chain((header(count),), entries):
        digest.update(piece)
        yield piece
    yield digest.digest()


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
            INDEX_MAGIC,
            struct.pack(">256I", *fanout),
            *(bytes.fromhex(row.oid) for row in rows),
            struct.pack(f">{len(rows)}I", *(row.crc32 for row in rows)),
            struct.pack(f">{len(rows)}I", *offsets),
            struct.pack(f">{len(large)}Q", *large),
            pack_checksum,
        )
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


# --- read ---------------------------------------------------------------------------------------------------------


class MissingBase(ProtocolError):
    """A delta of a thin pack is on an object that the reader has not: `oid`."""

    def __init__(self, oid: Oid) -> None:
        super().__init__("pack", f"has deltas on object {oid}, which is not here")
        self.oid = oid


class Broken(ProtocolError):
    """The bytes are no whole pack: cut off, or changed on the way."""


class _Delta(NamedTuple):
    """An entry that is a delta: where its zlib stream begins, and the size of what comes out of that."""

    at: int
    size: int
    offset: int


def count(pack: memoryview) -> int:
    """Pure: how many objects a pack says that it has. Raises Broken, TooLarge or ProtocolError."""
    if len(pack) < 12 + _CHECKSUM or bytes(pack[:4]) != b"PACK":
        raise Broken("pack", "is cut off, or is none")
    version, found = struct.unpack(">II", pack[4:12])
    if version not in (2, 3):
        raise ProtocolError("pack", f"has version {version}, this build knows 2 and 3")
    if found > MAX_OBJECTS:
        raise TooLarge("pack", f"has {found} objects, the limit is {MAX_OBJECTS}")
    return int(found)


def check(pack: memoryview) -> int:
    """Pure: as `count`, once the whole pack fits its checksum."""
    found = count(pack)
    if hashlib.sha1(pack[:-_CHECKSUM], usedforsecurity=False).digest() != pack[-_CHECKSUM:]:
        raise Broken("pack", "is cut off, or was changed on the way: its checksum does not fit")
    return found


def unpack(pack: memoryview, *, bases: Bases, max_object_bytes: int, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Pure: all objects of a pack as (kind, data), each once, bases before what is made of them.

    `max_bytes` bounds all that is inflated and copied on the way, together. Raises Broken, MissingBase, TooLarge or
    ProtocolError, at the latest after the last object.
    """
    return _Reader(pack, bases=bases, max_object_bytes=max_object_bytes, max_bytes=max_bytes).objects()


def unpacked_entries(
    pack: memoryview, *, bases: Bases, max_object_bytes: int, max_bytes: int
) -> Iterator[tuple[Oid, bytes]]:
    """Pure: the objects of a pack as whole entries of another, by their ids, which are computed here.

    As many as `count` says. Raises as `unpack`, and ProtocolError for a kind of object that no slice has.
    """
    seen: set[Oid] = set()
    for kind, data in unpack(pack, bases=bases, max_object_bytes=max_object_bytes, max_bytes=max_bytes):
        if kind not in _TYPES:
            raise ProtocolError("pack", f"holds a {kind}, which is no kind of object of a slice")
        oid = git_id(kind, data)
        if oid in seen:
            raise ProtocolError("pack", f"holds object {oid} twice")
        seen.add(oid)
        yield oid, entry(kind, data)


class _Reader:
    def __init__(self, pack: memoryview, *, bases: Bases, max_object_bytes: int, max_bytes: int) -> None:
        self._pack = pack
        self._bases = bases
        self._max_object_bytes = max_object_bytes
        self._room = max_bytes
        self._by_offset: dict[int, list[_Delta]] = {}
        """Deltas that wait for the object at this offset of the pack."""
        self._by_oid: dict[Oid, list[_Delta]] = {}

    def objects(self) -> Iterator[tuple[str, bytes]]:
        whole: list[tuple[Oid, int, int, str, int]] = []
        for offset, at, kind, data in self._entries():
            yield kind, data
            whole.append((git_id(kind, data), offset, at, kind, len(data)))
        # Not before all entries were seen, so that each object's deltas are known.
        for oid, offset, at, kind, size in whole:
            if offset in self._by_offset or oid in self._by_oid:
                yield from self._made_of(kind, self._inflate(at, size)[0], self._waiting_at(offset))
        for oid in sorted(self._by_oid):
            if oid in self._by_oid and (found := self._bases(oid)) is not None:
                yield from self._made_of(*found, ())
        for oid in self._by_oid:
            raise MissingBase(oid)
        if self._by_offset:
            raise ProtocolError("pack", "has a delta on what is no entry of it")

    def _entries(self) -> Iterator[tuple[int, int, str, bytes]]:
        """(offset, where the zlib stream begins, kind, data) of each whole object; deltas are filed under what they
        wait for."""
        expected = check(self._pack)
        end = len(self._pack) - _CHECKSUM
        at = 12
        for _ in range(expected):
            offset = at
            number, size, at = self._entry_header(at)
            if size > self._max_object_bytes:
                raise TooLarge("pack", f"has an object of {size} bytes, the limit is {self._max_object_bytes}")
            if number == _OFS_DELTA:
                back, at = self._distance(at)
                self._by_offset.setdefault(offset - back, []).append(_Delta(at, size, offset))
            elif number == _REF_DELTA:
                base = Oid(bytes(self._pack[at : at + 20]).hex())
                at += 20
                self._by_oid.setdefault(base, []).append(_Delta(at, size, offset))
            elif number not in _KINDS:
                raise ProtocolError("pack", f"has an entry of type {number}")
            begins = at
            data, at = self._inflate(begins, size)
            if number in _KINDS:
                yield offset, begins, _KINDS[number], data
        if at != end:
            raise ProtocolError("pack", "has more in it than the entries that it counts")

    def _made_of(self, kind: str, data: bytes, waiting: Iterable[_Delta]) -> Iterator[tuple[str, bytes]]:
        """All that is made of one object, and of that, and so on. `data` was given already."""
        oid = git_id(kind, data)
        todo = [(data, [*waiting, *self._by_oid.pop(oid, ())])]
        held = len(data)
        while todo:
            below, deltas = todo[-1]
            if not deltas:
                todo.pop()
                held -= len(below)
                continue
            delta = deltas.pop()
            if not deltas:  # its last: in a long chain only the newest object is held
                todo.pop()
                held -= len(below)
            made = apply_delta(below, self._inflate(delta.at, delta.size)[0], max_bytes=self._max_object_bytes)
            self._take_room(len(made))
            yield kind, made
            more = [*self._waiting_at(delta.offset), *self._by_oid.pop(git_id(kind, made), ())]
            if more:
                todo.append((made, more))
                held += len(made)
                if held > MAX_HELD_BYTES:
                    raise TooLarge("pack", "has deltas on so many objects at once that they do not fit into memory")

    def _waiting_at(self, offset: int) -> list[_Delta]:
        return self._by_offset.pop(offset, [])

    def _take_room(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise TooLarge("pack", "unpacks to more than the limit")

    # --- bytes ---

    def _byte(self, at: int) -> int:
        if at >= len(self._pack) - _CHECKSUM:
            raise ProtocolError("pack", "ends in the middle of an entry")
        return self._pack[at]

    def _entry_header(self, at: int) -> tuple[int, int, int]:
        """(type, size, where it goes on)."""
        byte = self._byte(at)
        number, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 0x80:
            at += 1
            byte = self._byte(at)
            size |= (byte & 0x7F) << shift
            shift += 7
            if shift > 64:
                raise ProtocolError("pack", "has an entry whose size is no number")
        return number, size, at + 1

    def _distance(self, at: int) -> tuple[int, int]:
        """(how far back the base lies, where it goes on)."""
        byte = self._byte(at)
        found = byte & 0x7F
        while byte & 0x80:
            at += 1
            byte = self._byte(at)
            found = (found + 1) << 7 | byte & 0x7F
            if found > len(self._pack):
                raise ProtocolError("pack", "has a delta on what lies before the pack")
        return found, at + 1

    def _inflate(self, at: int, size: int) -> tuple[bytes, int]:
        """What a zlib stream holds, which is `size` bytes, and where it ends."""
        self._take_room(size)
        end = len(self._pack) - _CHECKSUM
        inflater = zlib.decompressobj()
        out = bytearray()
        room = size + 64
        """At first enough for most streams, and no more: what is left over gets copied."""
        try:
            while not inflater.eof and at < end:
                piece = self._pack[at : min(at + room, end)]
                at += len(piece)
                out += inflater.decompress(piece, size + 1 - len(out))
                while inflater.unconsumed_tail and len(out) <= size:
                    out += inflater.decompress(inflater.unconsumed_tail, size + 1 - len(out))
                if len(out) > size:
                    break
                room = _PIECE
        except zlib.error as error:
            raise ProtocolError("pack", f"has an entry that is no zlib stream: {error}") from error
        if len(out) != size or not inflater.eof:
            raise ProtocolError("pack", "has an entry that is not of the size it says")
        return bytes(out), at - len(inflater.unused_data)


def apply_delta(base: bytes, delta: bytes, *, max_bytes: int) -> bytes:
    """Pure: what `delta` makes of `base`. Raises ProtocolError, TooLarge."""
    try:
        source, at = _varint(delta, 0)
        target, at = _varint(delta, at)
        if source != len(base):
            raise ProtocolError("delta", f"is on an object of {source} bytes, not on one of {len(base)}")
        if target > max_bytes:
            raise TooLarge("delta", f"makes an object of {target} bytes, the limit is {max_bytes}")
        out = bytearray()
        while at < len(delta):
            op = delta[at]
            at += 1
            if op & 0x80:
                start = size = 0
                for bit in range(4):
                    if op >> bit & 1:
                        start |= delta[at] << 8 * bit
                        at += 1
                for bit in range(3):
                    if op >> bit & 0x10:
                        size |= delta[at] << 8 * bit
                        at += 1
                size = size or 0x10000
                piece = base[start : start + size]
            else:
                size = op
                piece = delta[at : at + size]
                at += size
            if not op or len(piece) != size or len(out) + size > target:
                raise ProtocolError("delta", "copies what is not there")
            out += piece
    except IndexError as error:
        raise ProtocolError("delta", "ends in the middle") from error
    if len(out) != target:
        raise ProtocolError("delta", "does not make an object of the size it says")
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = data[at]
        found |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if not byte & 0x80:
            return found, at
        if shift > 64:
            raise ProtocolError("delta", "has a size that is no number")
