"""How far a long command is, on standard error: nothing for its first two seconds, then one line that is written over
on a terminal, or a plain line now and then elsewhere (a build's log)."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

T = TypeVar("T")

QUIET_S = 2.0
TERMINAL_EVERY_S = 0.2
PLAIN_EVERY_S = 5.0


def tracked(
    items: Iterable[T],
    label: str,
    *,
    total: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """The items, one by one; how many of `total` are done is told meanwhile."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    every_s = TERMINAL_EVERY_S if terminal else PLAIN_EVERY_S
    started = clock()
    due = started + QUIET_S
    told = False
    try:
        for done, item in enumerate(items):
            now = clock()
            if now >= due:
                due, told = now + every_s, True
                left = (now - started) / done * (total - done) if done else 0
                text = f"{label}: {done} of {total}, {_duration(left)} left"
                stream.write(f"\r\x1b[K{text}" if terminal else f"{text}\n")
                stream.flush()
            yield item
    finally:
        if told and terminal:
            stream.write("\r\x1b[K")
            stream.flush()


@contextmanager
def noted(label: str, *, stream: TextIO | None = None, quiet_s: float = QUIET_S) -> Iterator[None]:
    """Tell what is being done when it takes longer than that and has no parts to be counted."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    told = threading.Event()

    def tell() -> None:
        told.set()
        stream.write(label if terminal else f"{label}\n")
        stream.flush()

    timer = threading.Timer(quiet_s, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if told.is_set() and terminal:
            stream.write("\r\x1b[K")
            stream.flush()


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
