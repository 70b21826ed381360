"""Slices out of git bundles: those of stock git, those of a hub, and the ways in which a file can be wrong."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from agent.stream import git_bundle
from agent.stream.bundle_folder import BundleFolder
from agent.stream.receive import Receiver, Rewound
from proto import packfile, packs
from proto.errors import FlotillaError, ProtocolError, TooLarge, Transient
from proto.ids import Oid, slice_ref
from proto.messages import WakeUp
from proto.objects import ObjectKey, blob_id
from tests.agents import until
from tests.signing import needs, run
from tests.unit.test_receive import Upstream, bundle

REF = slice_ref("eu-1")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    needs("git")
    return Upstream(tmp_path / "upstream.git")


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path / "state", "eu-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "stick"
    made.mkdir()
    return made


def text(n: int) -> dict[str, str]:
    """Long, and nearly the same each time, so that git makes deltas of it."""
    return {f"line-{i}": f"value {n if i == n else 0} of line {i}, and much more text than that" for i in range(100)}


def moves(upstream: Upstream, count: int) -> list[str]:
    return [upstream.move({"shop": bundle(web=text(upstream.seq), db=text(0))}).commit for _ in range(count)]


def made(upstream: Upstream, file: Path, *revisions: str, options: tuple[str, ...] = ()) -> Path:
    """A bundle as the stock client makes it."""
    run("git", *options, "bundle", "create", "-q", str(file), *(revisions or (REF,)), cwd=upstream.folder)
    return file


# --- bundles of stock git -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="as git makes them"),
        pytest.param(("-c", "repack.useDeltaBaseOffset=false", "-c", "pack.depth=50"), id="deltas by id"),
        pytest.param(("-c", "pack.window=0"), id="no deltas"),
        pytest.param(("-c", "pack.compression=0"), id="not compressed"),
    ],
)
async def test_a_bundle_brings_the_whole_slice(
    upstream: Upstream, receiver: Receiver, folder: Path, options: tuple[str, ...]
) -> None:
    tip = moves(upstream, 12)[-1]

    assert await receiver.unbundle(made(upstream, folder / "eu-1.bundle", options=options))

    desired = receiver.desired()
    assert (desired.commit, desired.seq) == (tip, 12)
    key = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="web")
    assert blob_id(receiver.blob(desired.bundles["shop"].objects[key])) == desired.bundles["shop"].objects[key]
    run("git", "fsck", "--strict", cwd=Path(receiver._store.repo.path))


async def test_the_slice_is_there_after_a_restart(upstream: Upstream, folder: Path, tmp_path: Path) -> None:
    tip = moves(upstream, 3)[-1]
    assert await Receiver(tmp_path / "state", "eu-1").unbundle(made(upstream, folder / "a.bundle"))
    assert Receiver(tmp_path / "state", "eu-1").desired().commit == tip


async def test_an_incremental_bundle_moves_the_slice_on(upstream: Upstream, receiver: Receiver, folder: Path) -> None:
    first = moves(upstream, 5)[-1]
    assert await receiver.unbundle(made(upstream, folder / "1.bundle"))
    last = moves(upstream, 5)[-1]
    thin = made(upstream, folder / "2.bundle", f"{first}..{REF}")
    data = thin.read_bytes()
    pack = memoryview(data)[data.index(b"\n\n") + 2 :]
    with pytest.raises(packs.MissingBase):  # this very pack does not stand alone
        list(packs.unpack(pack, bases=lambda oid: None, max_object_bytes=1 << 20, max_bytes=1 << 30))

    assert await receiver.unbundle(thin)

    assert (receiver.desired().commit, receiver.desired().seq) == (last, 10)


async def test_the_same_bundle_twice_changes_nothing(upstream: Upstream, receiver: Receiver, folder: Path) -> None:
    moves(upstream, 2)
    file = made(upstream, folder / "a.bundle")
    assert await receiver.unbundle(file)
    before = receiver.desired()
    assert not await receiver.unbundle(file)
    assert receiver.desired() is before


async def test_an_older_bundle_after_a_newer_one_is_refused(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    moves(upstream, 2)
    old = made(upstream, folder / "old.bundle")
    tip = moves(upstream, 2)[-1]
    assert await receiver.unbundle(made(upstream, folder / "new.bundle"))
    with pytest.raises(Rewound):
        await receiver.unbundle(old)
    assert receiver.desired().commit == tip


async def test_another_history_is_refused(upstream: Upstream, receiver: Receiver, folder: Path, tmp_path: Path) -> None:
    tip = moves(upstream, 2)[-1]
    assert await receiver.unbundle(made(upstream, folder / "a.bundle"))
    other = Upstream(tmp_path / "other.git")
    other.move({"blog": bundle("blog")})
    moves(other, 5)
    with pytest.raises(ProtocolError, match="does not descend"):
        await receiver.unbundle(made(other, folder / "b.bundle"))
    assert receiver.desired().commit == tip


async def test_missing_prerequisites_say_where_the_export_has_to_start(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    first = moves(upstream, 3)[-1]
    assert await receiver.unbundle(made(upstream, folder / "1.bundle"))
    middle = moves(upstream, 3)[-1]
    moves(upstream, 1)
    file = made(upstream, folder / "3.bundle", f"{middle}..{REF}")

    with pytest.raises(ProtocolError, match=f"needs commit {middle}") as missing:
        await receiver.unbundle(file)

    assert missing.value.remedy == "export it with 'flotilla bundle export eu-1 --since 3'"
    assert receiver.desired().commit == first


async def test_before_the_first_slice_the_whole_bundle_is_asked_for(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    first = moves(upstream, 1)[-1]
    moves(upstream, 1)
    with pytest.raises(ProtocolError) as missing:
        await receiver.unbundle(made(upstream, folder / "a.bundle", f"{first}..{REF}"))
    assert missing.value.remedy == "export it with 'flotilla bundle export eu-1'"


async def test_a_way_back_to_objects_that_a_repack_dropped_asks_for_a_bundle_from_here(
    upstream: Upstream, receiver: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle based on an older commit leaves out what that has; the agent keeps only the commit of it."""
    old = moves(upstream, 1)[-1]
    upstream.move({"shop": bundle(other={"a": "b"})})
    monkeypatch.setattr("agent.stream.slice_store.REPACK_FROM", 0)
    assert await receiver.unbundle(made(upstream, folder / "1.bundle"))
    back = upstream.move({"shop": bundle(web=text(0), db=text(0))}).commit
    with pytest.raises(ProtocolError, match=r"needs \w+ \w+ with all that belongs to it") as missing:
        await receiver.unbundle(made(upstream, folder / "2.bundle", f"{old}..{REF}"))
    assert "--since 2" in missing.value.remedy
    assert await receiver.unbundle(made(upstream, folder / "3.bundle", f"{REF}~1..{REF}"))
    assert receiver.desired().commit == back


async def test_a_bundle_of_several_clusters_gives_each_its_own(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    tip = moves(upstream, 1)[-1]
    upstream.repo.references.create(slice_ref("us-1"), upstream.move({"shop": bundle()}).commit)
    upstream.repo.references.create(REF, tip, force=True)
    assert await receiver.unbundle(made(upstream, folder / "all.bundle", "--all"))
    assert receiver.desired().commit == tip


# --- files that are wrong -------------------------------------------------------------------------------------------


def other_ref(upstream: Upstream, file: Path) -> None:
    upstream.repo.references.create(slice_ref("us-1"), upstream.tip)
    made(upstream, file, slice_ref("us-1"))


def other_slice(upstream: Upstream, file: Path) -> None:
    """Another cluster's slice under this one's name."""
    theirs = Upstream(file.parent / "theirs.git", cluster="us-1")
    theirs.repo.references.create(REF, theirs.move({"shop": bundle()}).commit)
    made(theirs, file)


def cut(at: int) -> Callable[[Upstream, Path], None]:
    def make(upstream: Upstream, file: Path) -> None:
        data = made(upstream, file).read_bytes()
        file.write_bytes(data[:at])

    return make


def flipped(upstream: Upstream, file: Path) -> None:
    data = bytearray(made(upstream, file).read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)


def is_text(upstream: Upstream, file: Path) -> None:
    file.write_text("not a bundle\n")


def is_folder(upstream: Upstream, file: Path) -> None:
    file.mkdir()


def is_absent(upstream: Upstream, file: Path) -> None:
    pass


def is_huge(upstream: Upstream, file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(git_bundle.MAX_FILE_BYTES + 1)


def is_filtered(upstream: Upstream, file: Path) -> None:
    file.write_bytes(b"# v3 git bundle\n@object-format=sha1\n@filter=blob:none\n\n")


def has_a_tag(upstream: Upstream, file: Path) -> None:
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "tag", "-a", "-m", "x", "v1", REF, cwd=upstream.folder)
    made(upstream, file, "--all")


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        pytest.param(other_ref, ProtocolError, "refs/heads/clusters/us-1: it is not for this cluster", id="other ref"),
        pytest.param(other_slice, ProtocolError, "does not descend", id="other slice"),
        pytest.param(cut(0), Transient, "not whole", id="empty"),
        pytest.param(cut(7), Transient, "not whole", id="cut in its first line"),
        pytest.param(cut(40), Transient, "not whole", id="cut in its header"),
        pytest.param(cut(400), Transient, "not whole", id="cut in its pack"),
        pytest.param(cut(-1), Transient, "not whole", id="cut at its end"),
        pytest.param(flipped, Transient, "not whole", id="a flipped bit"),
        pytest.param(is_text, ProtocolError, "no git bundle", id="no bundle"),
        pytest.param(is_folder, FlotillaError, "not a plain file|directory", id="a folder"),
        pytest.param(is_absent, Transient, "No such file", id="absent"),
        pytest.param(is_huge, TooLarge, "limit", id="huge"),
        pytest.param(is_filtered, ProtocolError, "filter", id="without blobs"),
        pytest.param(has_a_tag, ProtocolError, "holds a tag", id="a tag"),
    ],
)
async def test_a_wrong_file_is_refused_and_the_old_slice_stays(
    upstream: Upstream, receiver: Receiver, folder: Path, make: Callable[[Upstream, Path], None],
    kind: type[FlotillaError], says: str,
) -> None:  # fmt: skip
    before = moves(upstream, 1)[-1]
    assert await receiver.unbundle(made(upstream, folder / "good.bundle"))
    moves(upstream, 2)
    make(upstream, folder / "a.bundle")

    with pytest.raises(kind, match=says):
        await receiver.unbundle(folder / "a.bundle")

    assert receiver.desired().commit == before
    made(upstream, folder / "whole.bundle", REF)
    assert await receiver.unbundle(folder / "whole.bundle")


async def test_another_clusters_slice_is_refused_as_a_first_one_too(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    other_slice(upstream, folder / "a.bundle")
    with pytest.raises(ProtocolError, match="is cluster us-1's"):
        await receiver.unbundle(folder / "a.bundle")
    assert receiver.desired().seq == 0


async def test_a_pipe_does_not_hold_the_agent_up(receiver: Receiver, folder: Path) -> None:
    os.mkfifo(folder / "a.bundle")
    with pytest.raises(ProtocolError, match="not a plain file"):
        await receiver.unbundle(folder / "a.bundle")


def left_in(receiver: Receiver) -> list[str]:
    return [path.name for path in Path(receiver._store.repo.path).glob("objects/pack/*")]


async def test_a_full_disk_is_an_error_and_the_old_slice_stays(
    upstream: Upstream, receiver: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = moves(upstream, 2)[-1]
    file = made(upstream, folder / "a.bundle")

    def full(self: packfile.Unfinished, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packfile.Unfinished, "write", full)
        with pytest.raises(Transient, match="No space left"):
            await receiver.unbundle(file)
    assert receiver.desired().seq == 0
    assert not left_in(receiver)
    assert await receiver.unbundle(file)
    assert receiver.desired().commit == tip


@pytest.mark.parametrize("step", range(1, 4))
async def test_a_kill_at_any_step_leaves_the_old_slice_or_the_new_one(
    upstream: Upstream, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    tip = moves(upstream, 2)[-1]
    file = made(upstream, folder / "a.bundle")
    published: list[Path] = []
    publish = packfile.Unfinished.publish

    class Killed(BaseException):
        pass

    def die(self: packfile.Unfinished, path: Path) -> None:
        """A kill removes no temporary file either."""
        if len(published) + 1 == step:
            (path.parent / f"{packfile.UNFINISHED}left").write_bytes(b"half")
            raise Killed
        publish(self, path)
        published.append(path)

    def die_after(*_: object) -> None:
        raise Killed

    receiver = Receiver(tmp_path / "state", "eu-1")
    with monkeypatch.context() as patch:
        patch.setattr(packfile.Unfinished, "publish", die)
        patch.setattr(receiver._store, "advance", die_after)
        with pytest.raises(Killed):
            await receiver.unbundle(file)

    again = Receiver(tmp_path / "state", "eu-1")
    assert again.desired().seq == 0
    assert await again.unbundle(file)
    assert again.desired().commit == tip
    assert not [name for name in left_in(again) if name.startswith(packfile.UNFINISHED)]


# --- a folder of them -----------------------------------------------------------------------------------------------


async def test_a_chain_of_bundles_needs_no_order(upstream: Upstream, receiver: Receiver, folder: Path) -> None:
    first = moves(upstream, 2)[-1]
    made(upstream, folder / "z.bundle")
    second = moves(upstream, 2)[-1]
    made(upstream, folder / "y.bundle", f"{first}..{REF}")
    third = moves(upstream, 2)[-1]
    made(upstream, folder / "x.bundle", f"{second}..{REF}")
    (folder / "notes.txt").write_text("not for agents")
    (folder / "._x.bundle").write_text("what some systems leave beside a file")
    bundles = BundleFolder(folder, receiver)

    assert await bundles.take()

    assert receiver.desired().commit == third
    assert not await bundles.take(), "the older ones beside it are no problem"


async def test_only_an_older_bundle_is_a_problem_that_says_so(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    moves(upstream, 1)
    file = made(upstream, folder / "a.bundle")
    old = file.read_bytes()
    moves(upstream, 1)
    assert await BundleFolder(made(upstream, file), receiver).take()
    file.write_bytes(old)
    with pytest.raises(Rewound, match="only moves forward"):
        await BundleFolder(file, receiver).take()


async def test_a_file_that_is_wrong_is_named_and_holds_up_no_other(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    tip = moves(upstream, 1)[-1]
    (folder / "a.bundle").write_text("no bundle")
    made(upstream, folder / "b.bundle")
    with pytest.raises(ProtocolError, match=r"a\.bundle.*no git bundle"):
        await BundleFolder(folder, receiver).take()
    assert receiver.desired().commit == tip


@pytest.mark.parametrize(
    ("name", "says"), [pytest.param("", "no file whose name ends", id="empty"), pytest.param("x", "No such", id="gone")]
)
async def test_a_folder_without_a_bundle_says_what_to_do(
    receiver: Receiver, folder: Path, name: str, says: str
) -> None:
    with pytest.raises(Transient, match=says) as error:
        await BundleFolder(folder / name, receiver).take()
    assert error.value.remedy == "put the cluster's bundle there"


async def test_a_copy_that_grows_is_waited_for_and_a_change_is_looked_at_once(
    upstream: Upstream, receiver: Receiver, folder: Path
) -> None:
    moves(upstream, 1)
    data = made(upstream, folder / "whole").read_bytes()
    bundles = BundleFolder(folder, receiver, look_s=0.005)
    looks: list[WakeUp] = []

    async with anyio.create_task_group() as group:
        group.start_soon(bundles.watch, looks.append)
        await until(lambda: len(looks) == 1, what="the first look")
        (folder / "a.bundle").write_bytes(data[:100])
        await until(lambda: len(looks) == 2, what="a look at the file")
        (folder / "a.bundle").write_bytes(data)
        await until(lambda: len(looks) == 3, what="a look at the whole file")
        assert await bundles.take()
        await anyio.sleep(0.05)
        assert len(looks) == 3, "what did not change is not looked at again"
        group.cancel_scope.cancel()
    assert all(look.commit == Oid("0" * 40) and look.seq == 0 for look in looks)


async def test_what_failed_is_tried_again_though_nothing_changed(receiver: Receiver, folder: Path) -> None:
    (folder / "a.bundle").write_text("no bundle")
    bundles = BundleFolder(folder, receiver, look_s=0.005, retry_s=0.02)
    looks: list[WakeUp] = []
    with pytest.raises(ProtocolError):
        await bundles.take()
    async with anyio.create_task_group() as group:
        group.start_soon(bundles.watch, looks.append)
        await until(lambda: len(looks) >= 3, what="more looks")
        group.cancel_scope.cancel()
