"""Temporary folders: they go with their work, with their process, and with the next process when theirs was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_WAITS = """
import signal, sys
from hub import scratch
with scratch.folder("render") as made:
    (made / "left").write_text("behind")
    print(made, flush=True)
    signal.pause()
"""


def child(code: str, temporary: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def made_by(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def ended(code: str, temporary: Path) -> str:
    process = child(f"from hub import scratch\n{code}", temporary)
    told = process.communicate()[0].strip()
    assert process.returncode == 0
    return told


def test_a_folder_goes_with_its_work_and_all_of_them_with_their_process(tmp_path: Path) -> None:
    code = """
with scratch.folder("render") as made:
    (made / "a").write_text("")
print(made.exists())
(scratch.new("worker") / "left").write_text("behind")
"""
    assert ended(code, tmp_path) == "False"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_one_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    with child(_WAITS, tmp_path) as alive, child(_WAITS, tmp_path) as killed:
        kept, left = made_by(alive), made_by(killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "left").exists()
        ended("scratch.new('worker')", tmp_path)
        assert not left.parent.exists()
        assert (kept / "left").exists()
        alive.terminate()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("flotilla-scratch-of-mine", id="a name that a person gave"),
        pytest.param("flotilla-data", id="another folder"),
        pytest.param("tmpabcdefgh", id="a folder of another program"),
    ],
)
def test_what_others_made_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    ended("scratch.new('worker')", tmp_path)
    assert (tmp_path / name).exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").mkdir()
    (precious / "file").write_text("kept")
    (tmp_path / "flotilla-scratch-abcdefgh").symlink_to(precious)
    ended("scratch.new('worker')", tmp_path)
    assert (precious / "file").read_text() == "kept"


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of others")
def test_folders_of_another_user_stay(tmp_path: Path) -> None:
    (theirs := tmp_path / "flotilla-scratch-abcdefgh").mkdir()
    os.chown(theirs, 12345, 12345)
    ended("scratch.new('worker')", tmp_path)
    assert theirs.exists()


def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    code = "import shutil; shutil.rmtree(scratch.new('a').parent); print(scratch.new('b').is_dir())"
    assert ended(code, tmp_path) == "True"


def test_a_disk_without_locks_serves_all_the_same_and_nobody_is_robbed(tmp_path: Path) -> None:
    refuses = "import fcntl\ndef refuse(*_): raise OSError(95, 'Operation not supported')\nfcntl.flock = refuse\n"
    with child(refuses + _WAITS, tmp_path) as alive:
        kept = made_by(alive)
        ended(f"{refuses}scratch.new('worker')", tmp_path)
        assert (kept / "left").exists()
        alive.terminate()


def test_processes_that_start_at_once_keep_theirs(tmp_path: Path) -> None:
    children = [child(_WAITS, tmp_path) for _ in range(8)]
    try:
        assert all((made_by(one) / "left").exists() for one in children)
        assert len(list(tmp_path.iterdir())) == 8
    finally:
        for one in children:
            with one:
                one.terminate()
