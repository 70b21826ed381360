"""A real SSH server on this machine, for Git over SSH."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hub.repo import remote
from tests import real


class Sshd:
    """A real SSH server that lets one key in."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        for name in ("host", "key", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, capture_output=True)
        self.port = real.free_port()
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
            "StrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\n"
        )
        self.folder = folder
        self.user = getpass.getuser()

    def trust(self, key: str = "host", *, host: str = "") -> remote.Ssh:
        """What the hub is given, with the `host`'s own key believed or another."""
        known = self.folder / f"known-{key}"
        known.write_text(f"{host or f'[127.0.0.1]:{self.port}'} {(self.folder / f'{key}.pub').read_text()}")
        return remote.Ssh(key=self.folder / "key", known_hosts=known)


@contextmanager
def serving(folder: Path) -> Iterator[Sshd]:
    """The server, with its files in `folder`; skips the test where there can be none."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
    if program is None or shutil.which("ssh-keygen") is None or os.getuid() != 0:
        pytest.skip("needs sshd and ssh-keygen, as root")
    Path("/run/sshd").mkdir(exist_ok=True)
    made = Sshd(folder)
    command = [program, "-D", "-e", "-f", str(made.folder / "config")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"listening" in process.stderr.readline()
        try:
            yield made
        finally:
            process.terminate()
