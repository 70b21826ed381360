"""A child process with its log in a file, ended by its id whatever happens. Next: `world` starts them."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process as Child

STOP_S = 8.0
"""A hub or an agent finishes what is under way within two seconds; a busy machine takes longer."""


class Process:
    """One program; `start` and `stop` as often as wanted."""

    def __init__(self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._arguments = list(arguments)
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._child: Child | None = None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.returncode is None

    def tail(self, lines: int = 8) -> str:
        """The end of its log."""
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    async def start(self) -> None:
        """In a session of its own, so that Ctrl-C reaches the demo alone, which then ends everything in order."""
        if self.alive:
            return
        with self._log.open("ab") as log:
            self._child = await anyio.open_process(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                env=self._environment,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Ask it to end; after `STOP_S` end it and what it started."""
        child = self._child
        if child is None:
            return
        with anyio.CancelScope(shield=True):
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.terminate()
                with anyio.move_on_after(STOP_S):
                    await child.wait()
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
