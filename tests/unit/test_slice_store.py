"""The agent's clone: bounded however often it fetches; its swap survives a kill at each step, and a full disk."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from agent.stream import slice_store
from agent.stream.git_host import Login
from agent.stream.receive import Receiver
from proto.errors import Transient
from proto.objects import canonical
from tests.unit.test_receive import Upstream, bundle, hub_with

LOGIN = Login(user="eu-1", password="good")


class AtHub(Upstream):
    """A history that is in a hub's store only."""

    def publish(self, commit: str) -> None:
        self.tip = commit


def packs(state: Path) -> int:
    return len(list((state / "slices/current/objects/pack").glob("*.pack")))


def check(receiver: Receiver, number: int) -> None:
    """The slice of `number` is there, whole."""
    desired = receiver.desired()
    assert desired.seq == number
    assert [receiver.blob(oid) for oid in desired.bundles["shop"].objects.values()] == [canonical(number)]


async def test_the_clone_stays_bounded_however_often_it_fetches(tmp_path: Path) -> None:
    upstream, state = AtHub(tmp_path / "upstream.git"), tmp_path / "state"
    receiver = Receiver(state, "eu-1")
    first = (state / "slices/current").resolve()
    most = 0
    async with hub_with(upstream, []) as (url, stock):
        for number in range(1, slice_store.REPACK_FROM + 12):
            upstream.move({"shop": bundle(a=number)})
            stock()
            assert await receiver.fetch(url, LOGIN)
            check(receiver, number)
            most = max(most, packs(state))
    assert most == slice_store.REPACK_FROM, "a pack for each fetch, until they are packed anew"
    assert packs(state) < 15
    assert (state / "slices/current").resolve() != first
    assert not first.exists()
    check(Receiver(state, "eu-1"), slice_store.REPACK_FROM + 11)


FETCH_AND_DIE = """
import os, sys
from pathlib import Path
import anyio, pygit2
from agent.stream import receive, slice_reader, slice_store

state, upstream, step, when = Path(sys.argv[1]), *sys.argv[2:]
slice_store.REPACK_FROM = 0
places = {
    "create": (slice_store.SliceStore, "create"),
    "pack": (pygit2.Repository, "pack"),
    "read": (slice_reader, "read_slice"),
    "link": (Path, "symlink_to"),
    "replace": (os, "replace"),
    "remove": (slice_store, "_remove"),
}
receiver = receive.Receiver(state, "eu-1")
where, name = places[step]
does = getattr(where, name)

def dies(*args, **kwargs):
    if step == "read" and kwargs["known"] is not slice_reader.NOTHING:
        return does(*args, **kwargs)
    if when == "before":
        os._exit(9)
    if when == "half":
        next(Path(args[0]).rglob("*.pack")).unlink()
        os._exit(9)
    does(*args, **kwargs)
    os._exit(9)

setattr(where, name, dies)
anyio.run(receiver.fetch, upstream)
"""


@pytest.mark.parametrize(
    ("step", "when"),
    [
        *((step, "before") for step in ("create", "pack", "read", "link", "replace", "remove")),
        *((step, "after") for step in ("create", "pack", "read", "link", "replace", "remove")),
        ("remove", "half"),
    ],
)
async def test_a_kill_at_each_step_of_the_swap_costs_nothing(tmp_path: Path, step: str, when: str) -> None:
    upstream, state = Upstream(tmp_path / "upstream.git"), tmp_path / "state"
    upstream.move({"shop": bundle(a=1)})
    assert await Receiver(state, "eu-1").fetch(upstream.url)
    upstream.move({"shop": bundle(a=2)})
    command = [sys.executable, "-c", FETCH_AND_DIE, str(state), upstream.url, step, when]
    done = await anyio.run_process(command, cwd=Path(slice_store.__file__).parents[2], check=False)
    assert done.returncode == 9, "it died where it should"

    again = Receiver(state, "eu-1")

    check(again, 2)
    assert len(list((state / "slices").iterdir())) == 2, "one repository, and the link to it"
    upstream.move({"shop": bundle(a=3)})
    assert await again.fetch(upstream.url)
    check(again, 3)


async def test_what_a_killed_fetch_left_goes_with_the_next_start(tmp_path: Path) -> None:
    upstream, state = Upstream(tmp_path / "upstream.git"), tmp_path / "state"
    upstream.move({"shop": bundle(a=1)})
    assert await Receiver(state, "eu-1").fetch(upstream.url)
    folder = (state / "slices/current").resolve() / "objects/pack"
    before = sorted(folder.iterdir())
    for name in ("pack_git2_a93e1df012b99d06", "tmp_x"):
        (folder / name).write_bytes(b"half a pack")
    check(Receiver(state, "eu-1"), 1)
    assert sorted(folder.iterdir()) == before


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file grows beyond `room_bytes`: as good as a full disk to whoever writes, libgit2 too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room_bytes", [0, 30, 400, 2000])
async def test_a_disk_that_is_full_in_the_middle_of_a_fetch_keeps_the_old_slice(
    tmp_path: Path, room_bytes: int
) -> None:
    upstream, state = Upstream(tmp_path / "upstream.git"), tmp_path / "state"
    receiver = Receiver(state, "eu-1")
    noise = os.urandom(4000).hex()
    async with hub_with(upstream, []) as (url, stock):
        upstream.move({"shop": bundle(a=1)})
        stock()
        assert await receiver.fetch(url, LOGIN)
        upstream.move({"shop": bundle(a=noise)})
        stock()
        with full_disk(room_bytes), pytest.raises(Transient):
            await receiver.fetch(url, LOGIN)
        check(receiver, 1)
        check(Receiver(state, "eu-1"), 1)
        assert await receiver.fetch(url, LOGIN)
        assert receiver.desired().seq == 2


@pytest.mark.parametrize("room_bytes", [50, 1000, 3000])
async def test_a_disk_that_is_full_in_the_middle_of_the_swap_keeps_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int
) -> None:
    """The commit counts, though its objects could not be packed anew; nothing half is left."""
    upstream, state = Upstream(tmp_path / "upstream.git"), tmp_path / "state"
    receiver = Receiver(state, "eu-1")
    upstream.move({"shop": bundle(a=1, **{f"c{n}": os.urandom(200).hex() for n in range(20)})})
    assert await receiver.fetch(upstream.url)
    monkeypatch.setattr(slice_store, "REPACK_FROM", 0)
    before = (state / "slices/current").resolve()
    with full_disk(room_bytes), pytest.raises((Transient, OSError)), receiver._store.disk():
        receiver._store.tidy(receiver.desired().commit)
    assert (state / "slices/current").resolve() == before
    assert len(list((state / "slices").iterdir())) == 2
    upstream.move({"shop": bundle(a=2)})
    assert await receiver.fetch(upstream.url)
    check(receiver, 2)
    assert (state / "slices/current").resolve() != before, "with room it is packed anew"
