"""Confined workers, tried from inside: what a chart could do if it got to run a program of its own."""

import errno
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pygit2
import pytest

from hub import isolation, worker
from proto.errors import Permanent

needs_landlock = pytest.mark.skipif(isolation._landlock_abi() < 1, reason="the kernel lacks Landlock")
needs_scopes = pytest.mark.skipif(isolation._landlock_abi() < 6, reason="the kernel's Landlock has no scopes")
needs_seccomp = pytest.mark.skipif(
    not (Path("/proc/sys/kernel/seccomp").exists() and platform.machine() in isolation._ARCHITECTURES),
    reason="the kernel lacks seccomp filters, or nobody wrote one for its architecture",
)
OUT_OF_REACH = ("PermissionError", "FileNotFoundError")


def read(path: str) -> str:
    return Path(path).read_text(errors="replace")


def attempt(what: str, *args: Any) -> str:
    """Do something that should be impossible; the name of the error, or what it gave."""
    try:
        return f"done: {ATTEMPTS[what](*args)}"
    except OSError as error:
        return type(error).__name__


def by_a_program(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Permission denied" in done.stderr:
        raise PermissionError(errno.EACCES, done.stderr)
    return done.stdout


def by_a_link(path: str) -> str:
    link = Path(tempfile.mkdtemp(), "link")
    link.symlink_to(path)
    return link.read_text()


def by_a_hard_link(path: str) -> str:
    link = Path(tempfile.mkdtemp(), "link")
    os.link(path, link)
    return link.read_text()


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(100).decode()


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)


def datagram(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"secret", ("127.0.0.1", port))


def listen() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        pass


ATTEMPTS: dict[str, Callable[..., Any]] = {
    "read": read,
    "list": os.listdir,
    "write": lambda path: Path(path, "new").write_text("x"),
    "append": lambda path: Path(path).open("a").close(),
    "remove": os.unlink,
    "program": lambda path: by_a_program("cat", path),
    "link": by_a_link,
    "hard link": by_a_hard_link,
    "connect": connect,
    "connect by a program": lambda port: by_a_program(
        sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    ),
    "connect to a UNIX socket": connect_unix,
    "datagram": datagram,
    "listen": listen,
    "signal": lambda pid: os.kill(pid, 0),
    "signal to the group": lambda pid: os.killpg(os.getpgid(pid), signal.SIGCONT),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A hub's data folder."""
    made = tmp_path / "data"
    (made / "keys").mkdir(parents=True)
    (made / "keys/hub.key").write_text("the hub's key")
    (made / "journal.db").write_text("the journal")
    (made / "admin.token").write_text("the token")
    (made / "slices.git").mkdir()
    pygit2.init_repository(str(made / "fleet.git"), bare=True)
    return made


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Answers whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.sendall(b"hello")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


async def confined(data: Path, what: str, *args: Any) -> str:
    return await worker.run(attempt, what, *args, sees=(data / "fleet.git",))


@needs_landlock
@pytest.mark.parametrize("what", ["read", "append", "remove", "program", "link", "hard link"])
@pytest.mark.parametrize("name", ["keys/hub.key", "journal.db", "admin.token"])
async def test_the_hubs_files_are_out_of_reach(data: Path, what: str, name: str) -> None:
    before = (data / name).read_text()
    assert (await confined(data, what, str(data / name))) in ("PermissionError", "OSError")
    assert (data / name).read_text() == before


@needs_landlock
@pytest.mark.parametrize("what", ["list", "write"])
@pytest.mark.parametrize("name", ["", "keys", "slices.git"])
async def test_the_hubs_folders_are_out_of_reach(data: Path, what: str, name: str) -> None:
    assert await confined(data, what, str(data / name)) == "PermissionError"


@needs_landlock
async def test_the_mirror_is_read_and_not_written(data: Path) -> None:
    assert (await confined(data, "read", str(data / "fleet.git/HEAD"))).startswith("done: ref:")
    assert await confined(data, "write", str(data / "fleet.git")) == "PermissionError"


@needs_landlock
async def test_other_processes_tell_nothing(data: Path) -> None:
    for file in ("environ", "maps", "cmdline", "status", "root/etc/passwd", "cwd/pyproject.toml", "fd/0"):
        assert await confined(data, "read", f"/proc/{os.getpid()}/{file}") == "PermissionError", file


@needs_scopes
async def test_other_processes_get_no_signal(data: Path) -> None:
    assert await confined(data, "signal", os.getpid()) == "PermissionError"
    assert await confined(data, "signal to the group", os.getpid()) == "PermissionError"


@needs_landlock
@pytest.mark.parametrize("path", ["/etc/passwd", "/etc", "/root", "/home", "/var/run", "/proc", "/sys", "/tmp"])
async def test_files_of_the_machine_are_out_of_reach(data: Path, path: str) -> None:
    assert await confined(data, "read" if path == "/etc/passwd" else "list", path) in OUT_OF_REACH


@needs_seccomp
async def test_there_is_no_network(data: Path, server: socket.socket, tmp_path: Path) -> None:
    port = server.getsockname()[1]
    assert attempt("connect", port) == "done: hello"
    for what in ("connect", "connect by a program", "datagram"):
        assert await confined(data, what, port) == "PermissionError"
    assert await confined(data, "listen") == "PermissionError"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        assert await confined(data, "connect to a UNIX socket", str(tmp_path / "socket")) == "PermissionError"


def environment() -> dict[str, str]:
    told = Path("/proc/self/environ").read_text()
    return {name: value for name, _, value in (entry.partition("=") for entry in told.split("\0") if entry)}


async def test_variables_that_could_hold_a_token_stay_with_the_hub(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_HUB_FLEET", "https://token@git.example.org/fleet.git")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    worker.stop()
    assert (
        not {"FLOTILLA_HUB_FLEET", "AWS_SECRET_ACCESS_KEY"}
        & (await worker.run(environment, sees=(data / "fleet.git",))).keys()
    )
    trusted = await worker.run(environment)
    assert "FLOTILLA_HUB_FLEET" not in trusted
    assert "AWS_SECRET_ACCESS_KEY" in trusted  # a fetch may need it, as it needs a proxy's address


def work() -> tuple[str, str]:
    """What a render does: temporary files, programs, its own limits."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a").write_text("written")
        Path(folder, "a").rename(Path(folder, "b"))
        done = subprocess.run(["cat", f"{folder}/b"], capture_output=True, text=True, check=True)
        return done.stdout, Path("/proc/self/status").read_text().splitlines()[0]


async def test_what_a_render_needs_is_left(data: Path) -> None:
    written, status = await worker.run(work, sees=(data / "fleet.git",))
    assert (written, status.split(":")[0]) == ("written", "Name")


class Evil:
    """An answer that calls a function in whoever believes it."""

    def __reduce__(self) -> Any:
        return believed.append, ("the answer",)


believed: list[str] = []


def evil() -> object:
    return Evil()


def evil_by_name() -> object:
    return worker.stop


@pytest.mark.parametrize("function", [evil, evil_by_name])
async def test_an_answer_that_is_no_value_is_not_believed(data: Path, function: Any) -> None:
    with pytest.raises(Permanent, match="render of shop: its worker process gave no answer that can be read"):
        await worker.run(function, what="render of shop", sees=(data / "fleet.git",))
    assert not believed


@needs_landlock
async def test_a_trusted_worker_is_never_a_confined_one_nor_the_other_way_round(data: Path) -> None:
    for _ in range(3):
        assert await confined(data, "read", str(data / "admin.token")) == "PermissionError"
        assert await worker.run(attempt, "read", str(data / "admin.token")) == "done: the token"


@needs_landlock
@needs_seccomp
async def test_what_is_not_closed_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = (data / "admin.token", data / "journal.db")
    assert await worker.run(isolation.lacks, hidden, sees=()) == ()
    told = isolation.lacks(hidden)  # here nothing is closed
    assert told[0].startswith(f"renders can read {hidden[0]}: ")
    assert told[1:] == ("renders have network: the kernel lacks seccomp filters",)
    beside = await worker.run(isolation.lacks, hidden, sees=(data,))
    assert beside == (f"renders can read {hidden[0]}: it lies beside Flotilla's own code",)
    monkeypatch.setattr(isolation, "_landlock_abi", lambda: -1)
    assert isolation.lacks(hidden)[0].endswith("the kernel lacks Landlock")


def without(part: str, hidden: tuple[Path, ...]) -> tuple[str, ...]:
    """`lacks` on a kernel that lacks a part, in a child: what is given up is gone for good."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if part == "landlock":
            isolation._landlock_abi = lambda: -1
        else:
            isolation._ARCHITECTURES = {}
        isolation.enter(isolation.room((), writes=()))
        os.write(writer, "\n".join(isolation.lacks(hidden)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        found = tuple(told.read().splitlines())
    os.waitpid(child, 0)
    return found


@needs_landlock
@needs_seccomp
@pytest.mark.parametrize(
    ("part", "told"),
    [
        pytest.param("landlock", "renders can read {}: the kernel lacks Landlock", id="no Landlock"),
        pytest.param("seccomp", "renders have network: the kernel lacks seccomp filters", id="no seccomp"),
    ],
)
async def test_a_kernel_that_has_one_of_the_two_closes_what_that_one_can(data: Path, part: str, told: str) -> None:
    hidden = (data / "admin.token",)
    assert await worker.run(without, part, hidden) == (told.format(hidden[0]),)


def test_the_filter_refuses_its_calls_those_of_other_architectures_and_nothing_else() -> None:
    def answer(number: int, architecture: int) -> int:
        rows = [struct.unpack("HBBI", code[at : at + 8]) for at in range(0, len(code), 8)]
        at = held = 0
        while True:
            kind, if_true, if_false, value = rows[at]
            at += 1
            if kind == isolation._LOAD:
                held = architecture if value == 4 else number
            elif kind == isolation._RETURN:
                return int(value)
            else:
                at += if_true if (held == value if kind == isolation._EQUAL else held >= value) else if_false

    for architecture, refused in isolation._ARCHITECTURES.values():
        code = isolation._filter(architecture, refused)
        for number in range(500):
            expected = isolation._REFUSE if number in refused else isolation._ALLOW
            assert answer(number, architecture) == expected, number
            assert answer(number, architecture + 1) == isolation._REFUSE
            assert answer(number | isolation._X32, architecture) == isolation._REFUSE
