"""Packs of any make: whole ones are read back, and whatever the bytes, only our own errors come out."""

import zlib
from contextlib import suppress
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from proto import packs
from proto.errors import FlotillaError
from proto.ids import Oid
from proto.objects import git_id
from tests.unit.test_packs import adds, number, on_offset, on_oid, pack_of, sized, unpack

KINDS = st.sampled_from(["blob", "tree", "commit"])
DATA = st.binary(max_size=200)
OBJECTS = st.lists(st.tuples(KINDS, DATA), max_size=12, unique=True)


@given(OBJECTS)
def test_what_is_written_is_read(objects: list[tuple[str, bytes]]) -> None:
    assert unpack(pack_of(*(packs.entry(kind, data) for kind, data in objects))) == objects


@given(DATA, st.lists(st.tuples(st.integers(0, 30), st.binary(min_size=1, max_size=20)), max_size=30), st.randoms())
def test_deltas_give_the_same_objects_in_any_order(base: bytes, steps: list[tuple[int, bytes]], random: Random) -> None:
    """Each step adds to some object before it; its entry names that by id."""
    made = [base]
    entries = [packs.entry("blob", base)]
    for of, text in steps:
        below = made[of % len(made)]
        if (after := below + text) not in made:
            entries.append(on_oid(git_id("blob", below), adds(below, text)))
            made.append(after)
    random.shuffle(entries)
    assert sorted(data for _, data in unpack(pack_of(*entries))) == sorted(made)


def entries() -> st.SearchStrategy[bytes]:
    """Pieces of packs that are nearly right: lying sizes, odd types, deltas on anything, broken streams."""
    size, stream = st.integers(0, 300), st.one_of(DATA, DATA.map(zlib.compress))
    delta = st.builds(lambda a, b, ops: number(a) + number(b) + ops, size, size, DATA)
    base = st.one_of(DATA.map(lambda data: git_id("blob", data)), st.binary(min_size=20, max_size=20).map(bytes.hex))
    return st.one_of(
        st.builds(lambda kind, length, data: sized(kind, length) + data, st.integers(0, 7), size, stream),
        st.builds(packs.entry, KINDS, DATA),
        st.builds(lambda oid, ops: on_oid(Oid(oid), ops), base, delta),
        st.builds(on_offset, st.integers(0, 400), delta),
        st.binary(max_size=60),
    )


@given(st.lists(entries(), max_size=8), st.integers(0, 10))
@settings(max_examples=300)
def test_nearly_a_pack_gives_objects_or_our_errors(pieces: list[bytes], more: int) -> None:
    with suppress(FlotillaError):
        unpack(pack_of(*pieces, count=max(0, len(pieces) + more - 5)), max_bytes=100_000)


@given(OBJECTS, st.data())
def test_a_pack_cut_anywhere_or_with_a_changed_byte_is_broken(
    objects: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    pack = bytearray(pack_of(*(packs.entry(kind, content) for kind, content in objects)))
    at = data.draw(st.integers(0, len(pack) - 1))
    for spoiled in (bytes(pack[:at]), bytes(pack[:at]) + bytes([pack[at] ^ 1]) + bytes(pack[at + 1 :])):
        try:
            unpack(spoiled)
        except FlotillaError:
            continue
        raise AssertionError(f"taken for whole, though changed at {at}")


@given(DATA, st.binary(max_size=300))
def test_any_delta_gives_an_object_of_its_size_or_our_errors(base: bytes, ops: bytes) -> None:
    with suppress(FlotillaError):
        assert len(packs.apply_delta(base, number(len(base)) + ops, max_bytes=1000)) <= 1000
