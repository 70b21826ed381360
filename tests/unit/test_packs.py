"""Packs as bytes: those of stock git are read, deltas and all, and hostile ones are refused."""

import hashlib
import os
import resource
import struct
import zlib
from pathlib import Path

import pytest

from proto import packfile, packs
from proto.errors import FlotillaError, ProtocolError, TooLarge
from proto.ids import Oid
from proto.objects import blob_id, git_id
from tests.signing import needs, run

LIMIT = 1 << 20
TEXT = "".join(f"line {n} of a file that is long enough for a delta\n" for n in range(200))


def unpack(
    pack: bytes, bases: dict[Oid, tuple[str, bytes]] | None = None, *, max_bytes: int = LIMIT
) -> list[tuple[str, bytes]]:
    found = packs.unpack(memoryview(pack), bases=(bases or {}).get, max_object_bytes=LIMIT, max_bytes=max_bytes)
    return list(found)


def pack_of(*entries: bytes, count: int | None = None) -> bytes:
    return b"".join(packs.stream(entries, count=len(entries) if count is None else count))


def sized(number: int, size: int) -> bytes:
    """The header of an entry."""
    byte, size = number << 4 | size & 15, size >> 4
    out = bytearray()
    while size:
        out.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    return bytes([*out, byte])


def on_oid(base: Oid, delta: bytes) -> bytes:
    return sized(7, len(delta)) + bytes.fromhex(base) + zlib.compress(delta)


def back(distance: int) -> bytes:
    out = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        out.insert(0, 0x80 | distance & 0x7F)
    return bytes(out)


def on_offset(distance: int, delta: bytes) -> bytes:
    return sized(6, len(delta)) + back(distance) + zlib.compress(delta)


def number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def adds(base: bytes, text: bytes) -> bytes:
    """A delta: all of `base`, then `text`."""
    copy = b"\xb0" + struct.pack("<H", len(base)) if base else b""
    return number(len(base)) + number(len(base) + len(text)) + copy + bytes([len(text)]) + text


BLOB = b"some blob\n"
BLOB_ID = git_id("blob", BLOB)


# --- what stock git writes ------------------------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository of forty commits, each of which changes a line of a long file."""
    needs("git")
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    for n in range(40):
        (repo / "file").write_text(TEXT.replace(f"line {n} ", f"LINE {n} "))
        git(repo, "add", "file")
        git(repo, "commit", "-q", "-m", f"change {n}")
    return repo


def git(repo: Path, *arguments: str) -> str:
    return run("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments, cwd=repo)


def objects_of(repo: Path, *revisions: str) -> set[str]:
    listed = git(repo, "rev-list", "--objects", *revisions)
    return {line.split()[0] for line in listed.splitlines()}


def packed(repo: Path, *options: str, revisions: str) -> bytes:
    (repo / "revisions").write_text(revisions)
    run("sh", "-c", f"git pack-objects --revs --stdout -q {' '.join(options)} < revisions > made.pack", cwd=repo)
    return (repo / "made.pack").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--delta-base-offset",), id="deltas by offset"),
        pytest.param((), id="deltas by id"),
        pytest.param(("--depth=4000", "--window=50", "--no-reuse-delta"), id="long chains"),
        pytest.param(("--window=0",), id="no deltas"),
    ],
)
def test_a_pack_of_stock_git_gives_every_object_once(history: Path, options: tuple[str, ...]) -> None:
    pack = packed(history, *options, revisions="HEAD\n")
    found = [git_id(kind, data) for kind, data in unpack(pack, max_bytes=64 << 20)]
    assert len(found) == len(set(found)) == packs.count(memoryview(pack))
    assert set(found) == objects_of(history, "HEAD")


def test_a_thin_pack_is_read_with_what_the_reader_has(history: Path) -> None:
    pack = packed(history, "--thin", revisions="HEAD\n^HEAD~3\n")
    assert packs.count(memoryview(pack)) == len(objects_of(history, "HEAD", "^HEAD~3"))
    with pytest.raises(packs.MissingBase) as missing:
        unpack(pack)

    whole = packed(history, "--window=0", revisions="HEAD~3\n")
    have = {git_id(kind, data): (kind, data) for kind, data in unpack(whole, max_bytes=64 << 20)}
    assert missing.value.oid in have
    assert {git_id(*made) for made in unpack(pack, have)} == objects_of(history, "HEAD", "^HEAD~3")


# --- what we write ------------------------------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    given = [("blob", b""), ("blob", b"x" * 5000), ("commit", b"tree 0\n"), ("tree", b"")]
    assert unpack(pack_of(*(packs.entry(kind, data) for kind, data in given))) == given


# --- deltas -------------------------------------------------------------------------------------------------------


def test_deltas_on_deltas_in_any_order_are_made_from_the_base_up() -> None:
    one = BLOB + b"one"
    two = one + b"two"
    chain = [on_oid(git_id("blob", one), adds(one, b"two")), on_oid(BLOB_ID, adds(BLOB, b"one"))]
    whole = packs.entry("blob", BLOB)
    for entries in ([*chain, whole], [whole, *chain], [chain[0], whole, chain[1]]):
        assert {data for _, data in unpack(pack_of(*entries))} == {BLOB, one, two}


def test_one_base_may_have_many_deltas_and_a_delta_may_be_on_one_by_offset() -> None:
    first = packs.entry("blob", BLOB)
    second = on_offset(len(first), adds(BLOB, b"2"))
    third = on_offset(len(first) + len(second), adds(BLOB, b"3"))
    fourth = on_offset(len(third), adds(BLOB + b"3", b"4"))
    assert {data for _, data in unpack(pack_of(first, second, third, fourth))} == {
        BLOB,
        BLOB + b"2",
        BLOB + b"3",
        BLOB + b"34",
    }


def test_a_chain_of_ten_thousand_deltas_needs_no_recursion() -> None:
    entries, at = [packs.entry("blob", b"")], b""
    for n in range(10_000):
        delta = adds(at[-1:], b"x") if n else adds(b"", b"x")
        # Each makes the one-byte object that the next is on; only its place in the pack tells them apart.
        entries.append(on_offset(len(entries[-1]), delta if n == 0 else number(1) + number(1) + b"\x01x"))
        at = b"x"
    assert len(unpack(pack_of(*entries))) == 10_001


# --- hostile ------------------------------------------------------------------------------------------------------


def cycle() -> bytes:
    """Two deltas, each on the object that the other claims to make."""
    return pack_of(on_oid(Oid("1" * 40), adds(BLOB, b"1")), on_oid(Oid("2" * 40), adds(BLOB, b"2")))


WHOLE = packs.entry("blob", BLOB)


@pytest.mark.parametrize(
    ("pack", "kind", "says"),
    [
        pytest.param(b"", packs.Broken, "cut off", id="empty"),
        pytest.param(b"PACK" + b"\0" * 30, ProtocolError, "version 0", id="version"),
        pytest.param(b"KCAP" + pack_of(WHOLE)[4:], packs.Broken, "is none", id="no pack"),
        pytest.param(pack_of(WHOLE)[:-1], packs.Broken, "checksum", id="cut off"),
        pytest.param(pack_of(WHOLE)[:20] + b"\0" + pack_of(WHOLE)[21:], packs.Broken, "checksum", id="a flipped byte"),
        pytest.param(pack_of(WHOLE, count=2), ProtocolError, "in the middle", id="counts too many"),
        pytest.param(pack_of(WHOLE, WHOLE, count=1), ProtocolError, "more in it", id="counts too few"),
        pytest.param(pack_of(count=4_000_000_000), TooLarge, "4000000000 objects", id="counts without end"),
        pytest.param(pack_of(sized(3, 9) + WHOLE[1:]), ProtocolError, "size it says", id="larger than it says"),
        pytest.param(pack_of(sized(3, 11) + WHOLE[1:]), ProtocolError, "size it says", id="smaller than it says"),
        pytest.param(
            pack_of(sized(3, 10) + zlib.compress(b"\0" * (64 << 20))[:4096]), ProtocolError, "size", id="bomb"
        ),
        pytest.param(pack_of(sized(3, LIMIT + 1) + zlib.compress(b"")), TooLarge, "limit", id="too large an object"),
        pytest.param(pack_of(b"\xff" * 20), ProtocolError, "no number", id="endless size"),
        pytest.param(pack_of(sized(3, 4) + b"nope"), ProtocolError, "no zlib stream", id="no zlib"),
        pytest.param(pack_of(sized(5, 0) + zlib.compress(b"")), ProtocolError, "type 5", id="unknown type"),
        pytest.param(cycle(), packs.MissingBase, "not here", id="cycle"),
        pytest.param(pack_of(WHOLE, on_offset(7, adds(BLOB, b"1"))), ProtocolError, "no entry", id="into an entry"),
        pytest.param(pack_of(WHOLE, on_offset(500, adds(BLOB, b"1"))), ProtocolError, "before", id="before the pack"),
        pytest.param(pack_of(on_offset(0, adds(BLOB, b"1"))), ProtocolError, "no entry", id="on itself"),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, adds(b"other", b"1"))), ProtocolError, "not on one of 10", id="other base"
        ),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, number(10) + number(LIMIT + 1) + b"\x01x")), TooLarge, "limit", id="huge"
        ),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, number(10) + number(20) + b"\x80" * 3)), ProtocolError, "copies", id="beyond"
        ),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, number(10) + number(5) + b"\x90\x0a")), ProtocolError, "copies", id="more"
        ),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, number(10) + number(5) + b"\x01x")), ProtocolError, "size", id="less"
        ),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, number(10) + number(5) + b"\xff\x01")), ProtocolError, "middle", id="cut op"
        ),
        pytest.param(
            pack_of(WHOLE, on_oid(BLOB_ID, number(10) + number(1) + b"\0")), ProtocolError, "copies", id="reserved op"
        ),
    ],
)
def test_a_hostile_pack_is_refused(pack: bytes, kind: type[FlotillaError], says: str) -> None:
    with pytest.raises(kind, match=says):
        unpack(pack)


def test_what_all_objects_come_to_is_bounded() -> None:
    base = b"x" * 60_000
    doubles = number(len(base)) + number(2 * len(base)) + (b"\xb0" + struct.pack("<H", len(base))) * 2
    entries = [packs.entry("blob", base)] + [on_oid(git_id("blob", base), doubles)] * 20
    assert len(pack_of(*entries)) < 2000
    with pytest.raises(TooLarge, match="unpacks to more"):
        unpack(pack_of(*entries), max_bytes=1 << 20)


def test_what_is_held_for_deltas_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_HELD_BYTES", 100)
    data, entries = BLOB, [packs.entry("blob", BLOB)]
    for n in range(20):
        after = data + b"%d" % n
        # Two deltas on each, so that it is held while the first is made into more.
        entries += [on_oid(git_id("blob", data), adds(data, more)) for more in (b"!", b"%d" % n)]
        data = after
    with pytest.raises(TooLarge, match="do not fit into memory"):
        unpack(pack_of(*entries))


def test_the_checksum_is_that_of_the_whole_pack() -> None:
    pack = pack_of(WHOLE)
    assert pack[-20:] == hashlib.sha1(pack[:-20], usedforsecurity=False).digest()


@pytest.mark.parametrize("room_bytes", [0, 100, 10_000, 300_000])
def test_a_pack_for_which_the_disk_has_no_room_leaves_nothing_behind(tmp_path: Path, room_bytes: int) -> None:
    # Incompressible: what is less than a buffer fails when it is flushed, and once more when it is closed.
    data = [os.urandom(max(2 * room_bytes, 50) // 4) for _ in range(4)]
    entries = [(blob_id(one), packs.entry("blob", one)) for one in data]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            packfile.write(tmp_path, entries, count=len(entries))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
