"""Objects read straight from packs: the very entries that were written, and never anything else."""

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hub.slices.gitstore import GitStore
from hub.slices.packed import Packed
from proto import packs
from proto.errors import Permanent
from proto.ids import Oid
from proto.objects import git_id

OBJECTS = [
    ("blob", b""),
    ("blob", b"fifteen bytes.."),
    ("blob", b"sixteen bytes..."),
    ("blob", b"x" * 100_000),
    ("blob", random.Random(1).randbytes(70_000)),
    ("tree", b"100644 a\0" + bytes(20)),
    *(("blob", b"%d" % number) for number in range(2_000)),
]


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore.create(tmp_path / "slices.git")


def packed(store: GitStore) -> Packed:
    return Packed(store.path / "objects/pack")


def test_every_object_is_found_as_it_was_written(store: GitStore) -> None:
    for at in range(0, len(OBJECTS), 700):
        store.write(OBJECTS[at : at + 700])
    read = packed(store)
    for kind, data in OBJECTS:
        assert read.find(git_id(kind, data)) == (kind, data, packs.entry(kind, data))
    assert read.find(Oid("0" * 40)) is None
    assert read.find(git_id("blob", b"never written")) is None


def test_a_pack_that_comes_later_is_seen_and_one_that_goes_is_let_go(store: GitStore) -> None:
    read = packed(store)
    assert read.find(git_id("blob", b"one")) is None
    (one,) = store.write([("blob", b"one")])
    assert read.find(one) is not None
    (two,) = store.write([("blob", b"two")])
    assert read.find(two) is not None
    store.keep([])
    assert read.find(git_id("blob", b"three")) is None
    assert read.find(one) is None


def test_a_delta_is_read_through_the_repository(store: GitStore) -> None:
    common = b"".join(b"line %d\n" % line for line in range(500))
    texts = [common + b"and number %d\n" % number for number in range(9)]
    ids = store.write([("blob", text) for text in texts])
    git = ["git", "-C", str(store.path)]
    names = subprocess.run(
        [*git, "pack-objects", "--window=50", "--no-reuse-object", "objects/pack/pack"],
        input="".join(f"{oid}\n" for oid in ids).encode(),
        capture_output=True,
        check=True,
    ).stdout.split()
    store.keep([f"pack-{names[0].decode()}.pack"])
    assert any(packed(store).find(oid) is None for oid in ids)
    assert [store.entry(oid) for oid in ids] == [packs.entry("blob", text) for text in texts]


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_broken_entry_is_never_given_out(store: GitStore, at: float) -> None:
    data = random.Random(2).randbytes(5_000)
    (oid,) = store.write([("blob", data)])
    (pack,) = (store.path / "objects/pack").glob("*.pack")
    broken = bytearray(pack.read_bytes())
    broken[int(len(broken) * at)] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(broken)
    assert packed(store).find(oid) is None
    with pytest.raises(Permanent, match="missing or broken"):
        GitStore.open(store.path).entry(oid)


def test_an_index_that_points_behind_its_pack_gives_nothing_out(store: GitStore) -> None:
    (oid,) = store.write([("blob", b"one")])
    (index,) = (store.path / "objects/pack").glob("*.idx")
    data = bytearray(index.read_bytes())
    data[8 + 1024 + 24 : 8 + 1024 + 28] = (1 << 30).to_bytes(4, "big")
    index.chmod(0o644)
    index.write_bytes(data)
    assert packed(store).find(oid) is None


def test_threads_read_from_several_packs_at_once(store: GitStore) -> None:
    for at in range(0, len(OBJECTS), 100):
        store.write(OBJECTS[at : at + 100])
    read = packed(store)
    with ThreadPoolExecutor(8) as threads:
        order = random.Random(3).sample(OBJECTS, len(OBJECTS))
        found = list(threads.map(lambda one: read.find(git_id(*one)), order))
    assert [(one.kind, one.data) for one in found if one] == order


def test_what_is_no_pack_is_passed_over(store: GitStore) -> None:
    folder = store.path / "objects/pack"
    (folder / "pack-1.idx").write_bytes(b"")
    (folder / "pack-2.idx").write_bytes(b"nothing")
    (folder / "pack-2.pack").write_bytes(b"nothing")
    (oid,) = store.write([("blob", b"one")])
    assert packed(store).find(oid) is not None
