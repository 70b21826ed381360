"""What the agent would tell a hub, as a file, where there is none: a person reads it, or carries it home.

    {"cluster": …, "time": RFC 3339, "report": proto.messages.Report, full, with the newest drift}

Written anew when something changed, at most each MIN_INTERVAL_S, and each HEARTBEAT_S, so that its time says that the
agent lives. Whoever reads it finds the old file or the new one. A disk that does not take it costs the file alone.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread

from agent.stream.report import Reporter
from proto.objects import canonical

MIN_INTERVAL_S: Final = 1.0
HEARTBEAT_S: Final = 60.0

log = logging.getLogger(__name__)


class ReportFile:
    """The file at `path`; `timestamp` gives the wall time as RFC 3339."""

    def __init__(self, path: Path, reporter: Reporter, *, cluster: str, timestamp: Callable[[], str]) -> None:
        self._path = path
        self._reporter = reporter
        self._cluster = cluster
        self._timestamp = timestamp
        self._problem = ""

    async def run(self) -> None:
        """Keep the file up to date, for ever."""
        while True:
            changed = self._reporter.changed
            report = msgspec.to_builtins(self._reporter.whole())
            said = {"cluster": self._cluster, "time": self._timestamp(), "report": report}
            await to_thread.run_sync(self._write, canonical(said))
            await anyio.sleep(MIN_INTERVAL_S)
            with anyio.move_on_after(HEARTBEAT_S):
                await changed.wait()

    def _write(self, data: bytes) -> None:
        temporary = self._path.with_name(f".{self._path.name}.new")
        problem = ""
        try:
            temporary.write_bytes(data)
            os.replace(temporary, self._path)
        except OSError as error:
            problem = f"report file {self._path} cannot be written: {error.strerror}"
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
