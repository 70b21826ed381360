"""What one render may take of the machine, beside what `worker` limits: set for the time of the render, in its worker
process and for the programs that it starts.

| limit                              | what happens beyond it                                                   |
|------------------------------------|--------------------------------------------------------------------------|
| `MEMORY_BYTES` more than before    | MemoryError; Helm's Go runtime and Kustomize end, and so does the worker |
| `CPU_S` of processor time          | the worker is ended by the kernel; a chart in an endless loop cannot be asked |
Next: `build`.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_BYTES = 2 << 30
CPU_S = 120
_SIZES = Path("/proc/self/statm")
_DATA = 5
"""Which of them is that of data and stack, in pages. A file that takes a hundredth of a render's time to read."""


@contextmanager
def bounded() -> Iterator[None]:
    """Within it this process is bound; only for a process that does nothing else. Memory is bound on Linux alone."""
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CPU)}
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + CPU_S, before)
        if (data := _data_bytes()) is not None:
            _set(resource.RLIMIT_DATA, data + MEMORY_BYTES, before)
        yield
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)


def _set(kind: int, value: int, before: dict[int, tuple[int, int]]) -> None:
    """Never more than was allowed before."""
    soft, hard = before[kind]
    resource.setrlimit(kind, (value if soft == resource.RLIM_INFINITY else min(value, soft), hard))


def _data_bytes() -> int | None:
    """Of this process: what counts against the limit of data, and its stack, so that it is a little more. None where
    nothing tells."""
    try:
        with open(_SIZES, "rb", buffering=0) as file:
            return int(file.read().split()[_DATA]) * resource.getpagesize()
    except OSError:
        return None
