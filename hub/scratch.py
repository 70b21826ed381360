"""Temporary folders of the hub and the commands: where they are, and that they go, also when a process was killed.

    <temporary folder>/flotilla-scratch-xxxxxxxx/      one process's, which holds its lock
        render-xxxxxxxx/, worker-xxxxxxxx/, …          one for each piece of work

| what                                 | is removed by                                                          |
|--------------------------------------|------------------------------------------------------------------------|
| the folder of a piece of work        | that work, when it ends                                                |
| a process's folder, with all in it   | the process, when it ends; of one that was killed the next of that     |
|                                      | user's that needs a folder, whichever it is                            |

The lock is the kernel's, on the folder itself: it goes with its process, and neither another container nor a number
that is used again takes one for alive. A worker process and what it starts are given a folder below the hub's. Blocks.
"""

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "flotilla-scratch-"
_OURS = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")
"""A prefix and what `tempfile` makes of it: no folder that a person named."""

_base: tuple[str, Path] | None = None
"""The folder that all else is made in, and the temporary folder that it was made in."""
_making = threading.Lock()


@contextmanager
def folder(what: str) -> Iterator[Path]:
    """A folder for one piece of work. Raises OSError when the disk has none to give."""
    made = new(what)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def new(what: str) -> Path:
    """A folder that whoever asks for it removes, or the end of this process. Raises OSError."""
    return Path(tempfile.mkdtemp(prefix=f"{what}-", dir=_own()))


def enter(place: str) -> None:
    """From now on everything temporary of this process is below `place`, which another one removes; also what other
    packages make."""
    global _base
    tempfile.tempdir = place
    _base = place, Path(place)


def size(place: Path) -> int:
    """Bytes on the disk that a folder takes with all that is in it, which may change meanwhile."""
    total, waiting = 0, [os.fspath(place)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


def _own() -> Path:
    """This process's folder, made at first, and when somebody else removed it."""
    global _base
    with _making:
        within = tempfile.gettempdir()
        if _base is None or _base[0] != within or not _base[1].is_dir():
            _sweep(Path(within))
            _base = within, _made(within)
        return _base[1]


def _made(within: str) -> Path:
    while True:
        made = tempfile.mkdtemp(prefix=_PREFIX, dir=within)
        handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY)  # open until this process ends, and with it the lock
        with suppress(OSError):  # a disk without locks, where nobody else gets one to remove it either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.isdir(made):  # else another process took it for left behind, before it had its lock
            atexit.register(shutil.rmtree, made, ignore_errors=True)
            return Path(made).resolve()
        os.close(handle)


def _sweep(within: Path) -> None:
    """Remove what processes of this user that live no more left in `within`."""
    with suppress(OSError):
        for entry in list(os.scandir(within)):
            with suppress(OSError):
                ours = _OURS.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
                if ours and entry.is_dir(follow_symlinks=False):
                    _remove_unlocked(entry.path)


def _remove_unlocked(place: str) -> None:
    """Raises OSError for a folder whose process is alive."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)
