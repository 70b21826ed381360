"""Slices from files: looks for `git bundle` files where a person or a volume puts them, and has them taken in.

    a new or changed file     taken in once it did not change between two looks, so that a copy can end
    several                   each in turn, until none moves the slice: a chain of incremental ones needs no order
    one that failed           again when anything in the folder changes, and each RETRY_S
    older than the slice      left alone; a problem only if the bundle of the current slice is not there as well

The folder may be read-only (a ConfigMap, a volume, a mounted stick) and may come and go. Nothing is removed from it.
`git_bundle` reads a file, `receive` checks what it brings; `loop` asks `take`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from agent.stream.receive import LOOK, Receiver, Rewound
from proto.errors import FlotillaError, ProtocolError, Transient
from proto.messages import WakeUp

SUFFIX: Final = ".bundle"
LOOK_S: Final = 2.0
RETRY_S: Final = 60.0

Seen = tuple[tuple[object, ...], ...]


class BundleFolder:
    """`path` is a bundle file, or a folder of files that end with SUFFIX."""

    def __init__(self, path: Path, receiver: Receiver, *, look_s: float = LOOK_S, retry_s: float = RETRY_S) -> None:
        self._path = path
        self._receiver = receiver
        self._look_s = look_s
        self._retry_s = retry_s
        self._failed = False

    async def take(self) -> bool:
        """Take in every bundle that moves the slice forward; True when one did.

        Raises Transient or ProtocolError naming the first file that cannot be taken in, after all others were.
        """
        self._failed = True
        moved = False
        while True:
            problems: list[FlotillaError] = []
            behind: list[FlotillaError] = []
            current = again = False
            for file in await to_thread.run_sync(self._files):
                try:
                    if await self._receiver.unbundle(file):
                        moved = again = True
                    else:
                        current = True
                except Rewound as error:
                    remedy = "a slice only moves forward: have the fleet repo say again what it said then"
                    behind.append(Rewound(f"bundle file {file}", error.cause, remedy))
                except FlotillaError as error:
                    problems.append(_of(file, error))
            if not again:
                break
        if not current:
            problems += behind
        if problems:
            raise problems[0]
        self._failed = False
        return moved

    async def watch(self, wake: Callable[[WakeUp], None]) -> None:
        """Call `wake` whenever `take` is to be asked, for ever."""
        tried: Seen | None = None
        before: Seen | None = None
        tried_at = 0.0
        while True:
            seen = await to_thread.run_sync(self._seen)
            settled = seen == before or before is None
            retry = self._failed and anyio.current_time() - tried_at >= self._retry_s
            if settled and (seen != tried or retry):
                tried, tried_at = seen, anyio.current_time()
                wake(LOOK)
            before = seen
            await anyio.sleep(self._look_s)

    def _files(self) -> list[Path]:
        thing = f"bundles {self._path}"
        try:
            if not self._path.is_dir():
                self._path.stat()
                return [self._path]
            files = sorted(file for file in self._path.iterdir() if file.name.endswith(SUFFIX) and _visible(file))
        except OSError as error:
            raise Transient(thing, f"cannot be read: {error.strerror}", "put the cluster's bundle there") from error
        if not files:
            raise Transient(thing, f"has no file whose name ends with {SUFFIX}", "put the cluster's bundle there")
        return files

    def _seen(self) -> Seen:
        """What tells that files changed."""
        try:
            found = [(file.name, file.stat()) for file in self._files()]
        except (FlotillaError, OSError) as error:
            return ((str(error),),)
        return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _visible(file: Path) -> bool:
    return not file.name.startswith(".")


def _of(file: Path, error: FlotillaError) -> FlotillaError:
    """The error, naming the file it came from."""
    if str(file) in error.thing:
        return error
    kind = Transient if isinstance(error, Transient) else ProtocolError
    return kind(f"bundle file {file}: {error.thing}", error.cause, error.remedy)
