"""Worker processes: results and errors come back, and nothing that happens in one reaches the hub."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import anyio
import pytest

from hub import worker
from proto.errors import InvalidInput, Permanent, Transient


def identity(value: object) -> object:
    return value


def whoami() -> int:
    return os.getpid()


def refuse() -> None:
    raise InvalidInput("bundle shop", "is not valid", "fix it")


def retry() -> None:
    raise Transient("upstream", "is away", retry_after_s=2.5)


def broken() -> None:
    secret = {"password": "hunter2"}
    raise KeyError(secret["password"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(marker: Path) -> None:
    Path(tempfile.mkdtemp(), "left").write_text("behind")
    marker.write_text(tempfile.gettempdir())
    signal.pause()


def leave_a_file() -> str:
    path = Path(tempfile.mkdtemp(), "left")
    path.write_text("behind")
    return str(path)


def fill(megabytes: int, marker: Path) -> None:
    Path(tempfile.mkdtemp(), "large").write_bytes(bytes(megabytes << 20))
    marker.write_text("full")
    while not (marker.parent / "enough").exists():
        time.sleep(0.01)


def exists(path: str) -> bool:
    return Path(path).exists()


async def test_the_result_comes_from_another_process() -> None:
    assert await worker.run(identity, {"a": b"\x00"}) == {"a": b"\x00"}
    assert await worker.run(whoami) != os.getpid()


async def test_our_errors_come_back_whole() -> None:
    with pytest.raises(InvalidInput) as caught:
        await worker.run(refuse)
    assert (caught.value.thing, caught.value.cause, caught.value.remedy) == ("bundle shop", "is not valid", "fix it")
    with pytest.raises(Transient, match="upstream: is away") as away:
        await worker.run(retry)
    assert away.value.retry_after_s == 2.5


async def test_other_errors_become_ours_without_their_values() -> None:
    with pytest.raises(Permanent, match=r"render of shop: .*KeyError at test_worker.py:\d+") as caught:
        await worker.run(broken, what="render of shop")
    assert "hunter2" not in str(caught.value)


async def test_a_worker_that_dies_is_named_and_the_next_call_works() -> None:
    with pytest.raises(Permanent, match="render of shop: its worker process died"):
        await worker.run(die, what="render of shop")
    assert await worker.run(identity, 1) == 1


async def test_a_worker_that_does_not_start_may_start_later(monkeypatch: pytest.MonkeyPatch) -> None:
    worker.stop()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Transient, match="render of shop: no worker process could be started"):
        await worker.run(identity, 1, what="render of shop")
    monkeypatch.undo()
    assert await worker.run(identity, 1) == 1


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), ProcessLookupError()])
async def test_a_machine_without_room_for_a_worker_may_have_it_later(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    worker.stop()
    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(Transient, match="render of shop: no worker process could be started"):
        await worker.run(identity, 1, what="render of shop")


async def test_a_full_disk_is_the_hubs_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker.stop()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    with pytest.raises(Transient, match="render of shop: has no temporary folder"):
        await worker.run(identity, 1, what="render of shop")


async def test_a_call_that_hangs_is_killed_and_its_files_removed(tmp_path: Path) -> None:
    await worker.run(identity, 0)  # a warm worker, so that the limit is not spent on its start
    marker = tmp_path / "marker"
    with pytest.raises(Permanent, match="took longer than 2 s"):
        await worker.run(hang, marker, time_limit_s=2.0)
    assert not exists(marker.read_text())
    assert await worker.run(identity, 1) == 1


async def test_what_a_call_leaves_in_its_temporary_folder_is_removed() -> None:
    assert not exists(await worker.run(leave_a_file))


async def test_of_calls_that_fill_the_disk_together_the_one_that_took_most_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SCRATCH_BYTES", 24 << 20)
    limiter = anyio.CapacityLimiter(2)
    small, large = tmp_path / "small", tmp_path / "large"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(worker.run, fill, 8, small, what="bundle small", limiter=limiter))
        while not small.exists():  # noqa: ASYNC110
            await anyio.sleep(0.01)
        with pytest.raises(Permanent, match=r"bundle large: takes 20 MiB of temporary space.* may take 24 MiB"):
            await worker.run(fill, 20, large, what="bundle large", limiter=limiter)
        (tmp_path / "enough").touch()
    assert await worker.run(identity, 1) == 1


async def test_waiting_for_a_core_does_not_count_as_time() -> None:
    async def one() -> None:
        results.append(await worker.run(identity, 1, time_limit_s=30.0))

    results: list[object] = []
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(one, name=f"call {number}")
    assert len(results) == 12


async def test_a_cancelled_call_leaves_a_hub_that_works(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, hang, marker)
        while not marker.exists() or not marker.read_text():  # noqa: ASYNC110
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert not exists(marker.read_text())
    assert await worker.run(identity, 1) == 1


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(pickle.dumps(None), id="before its first call"),
        pytest.param(
            pickle.dumps(None) + pickle.dumps(("folder", "thing", b"x" * 1000))[:500], id="in the middle of one"
        ),
        pytest.param(b"", id="before anything"),
    ],
)
def test_a_worker_whose_hub_was_killed_ends_without_a_word(told: bytes) -> None:
    done = subprocess.run([sys.executable, "-m", "hub.worker_child"], input=told, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_worker_whose_answer_nobody_takes_ends_without_a_word(tmp_path: Path) -> None:
    call = pickle.dumps((identity, ("x" * 1_000_000,)))
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "hub.worker_child"], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE
    ) as child:
        os.close(writer)
        _, errors = child.communicate(pickle.dumps(None) + pickle.dumps((str(tmp_path), "thing", call)))
    assert (child.returncode, errors) == (0, b"")
