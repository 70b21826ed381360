"""Blocking work in worker processes, so that the hub's event loop only ever waits (design, decision 12).

A worker is told a function of a module and arguments that can be pickled, and is a bulkhead: whatever goes wrong in it
comes back as one of our errors. It gets a temporary folder that is removed whatever becomes of it, since a call that
takes too long is killed with all that it started, not asked. There are two sorts, which never become each other:

| sort                     | may                                                      | its answer is              |
|--------------------------|----------------------------------------------------------|----------------------------|
| trusted (`sees` is None) | what the hub may, but for the hub's own settings in the  | believed                   |
|                          | environment                                              |                            |
| confined                 | read `sees` and write its temporary folder; no network   | values only: a pickle that |
|                          | (`isolation`), no variable that could hold a token       | names anything else is not |

Processes are kept for the next call of their sort; a confined one, which loads its code before it is, for functions of
one module and one `sees`. Next: `worker_child`, their other end.
"""

import atexit
import dataclasses
import enum
import importlib
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, TypeVarTuple, Unpack, cast

import anyio
import msgspec
from anyio import lowlevel, to_thread

from hub import isolation, scratch
from proto.errors import FlotillaError, Permanent, Transient

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

TIME_LIMIT_S = 300.0
"""Of one call: above every limit inside it (a build has 60 s), so that those can say what took so long."""
IDLE_S = 300.0
"""A process that nobody needed for so long ends."""
SCRATCH_BYTES = 1536 << 20
"""What all calls that are under way may have in their temporary folders, looked at each second: more than any honest
one takes (`external.git` fetches at most 1 GiB), less than a pod is given for it. The call that has most is stopped."""
_LOOK_S = 1.0
MAX_IDLE = 2 * (os.cpu_count() or 2)
"""Of both sorts; when there are more, the one that waits for longest ends."""
_SETTINGS = "FLOTILLA_"
"""How the hub's own variables begin; an address of the fleet repo may have a token in it."""

_Confined = tuple[tuple[Path, ...], str]
"""What a process sees, and the module that it loads before it sees no more than that."""

_limiter: lowlevel.RunVar[anyio.CapacityLimiter] = lowlevel.RunVar("flotilla_workers")


async def run(
    function: Callable[[Unpack[Ts]], T],
    *args: *Ts,
    what: str = "",
    time_limit_s: float = TIME_LIMIT_S,
    sees: tuple[Path, ...] | None = None,
    limiter: anyio.CapacityLimiter | None = None,
) -> T:
    """`function(*args)` in a worker process, as many at once as there are cores; the wait for a core has no limit.
    What mostly waits for others brings a `limiter` of its own, so that it takes no core from those that work.

    With `sees` the process is confined to those files and folders. Raises the FlotillaError that `function` raises;
    Permanent about `what` (by default the function) when it fails otherwise, dies or takes longer than `time_limit_s`:
    the same call would do so again. Transient when no worker could start.
    """
    thing = what or f"{function.__module__}.{function.__qualname__}"
    call = pickle.dumps((function, args), protocol=pickle.HIGHEST_PROTOCOL)
    async with limiter or _cores():
        own = anyio.CapacityLimiter(1)  # a thread only waits for its process, and those are bounded already
        process: _Process | None = None
        confined = None if sees is None else (sees, function.__module__)
        try:
            process = await to_thread.run_sync(partial(_pool.take, confined, thing), limiter=own)
            with anyio.move_on_after(time_limit_s):
                done, made = await to_thread.run_sync(
                    partial(process.call, thing, call), abandon_on_cancel=True, limiter=own
                )
                if done:
                    return cast(T, made)
                raise made
            raise Permanent(thing, f"took longer than {time_limit_s:g} s and was stopped")
        finally:
            if process is not None:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(_pool.give_back, process)


def stop() -> None:
    """End all processes that do nothing at the moment."""
    _pool.stop()


def _cores() -> anyio.CapacityLimiter:
    """One limiter per event loop."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(anyio.CapacityLimiter(os.cpu_count() or 2))
        return _limiter.get()


class _Process:
    """One worker process. Every method blocks; `end` may be called while another thread is in `call`."""

    def __init__(self, confined: _Confined | None, thing: str) -> None:
        """Raises Transient when it cannot start."""
        self.confined = confined
        self.idle_since_s = 0.0
        self.scratch_bytes = 0
        """What its temporary folder took when it was looked at last."""
        self.answered = False
        """All that it was asked: one that died, or may still be at it, is none for the next call."""
        try:
            self._folder = scratch.new("worker")
        except OSError as error:
            raise Transient(thing, f"has no temporary folder: {error}", "look at the hub's disk") from error
        path = [str(Path(entry).absolute()) for entry in sys.path]  # "" is where the hub was started
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "hub.worker_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**self._environment(), "PYTHONPATH": os.pathsep.join(path)},
                start_new_session=True,
            )
        except OSError as error:  # no memory, no processes, no file descriptors
            shutil.rmtree(self._folder, ignore_errors=True)
            raise Transient(thing, f"no worker process could be started: {error}", "look at the hub's load") from error
        self._calls, self._answers = cast(IO[bytes], self._popen.stdin), cast(IO[bytes], self._popen.stdout)
        try:
            if confined is None:
                self._tell(None)
            else:
                sees, module = confined
                self._tell((module, isolation.room(sees, writes=(self._folder,))))
            pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.end()
            raise Transient(thing, "no worker process could be started", "look at the hub's load") from error

    def _environment(self) -> dict[str, str]:
        if self.confined is not None:
            return isolation.environment(os.environ, home=self._folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        return {**kept, "TMPDIR": str(self._folder)}

    def _tell(self, message: object) -> None:
        pickle.dump(message, self._calls, protocol=pickle.HIGHEST_PROTOCOL)
        self._calls.flush()

    def call(self, thing: str, call: bytes) -> tuple[bool, Any]:
        """(True, its result) or (False, its error), which is always one of ours."""
        try:
            folder = tempfile.mkdtemp(dir=self._folder)
        except OSError as error:
            return False, Transient(thing, f"has no temporary folder: {error}", "look at the hub's disk")
        try:
            self._tell((folder, thing, call))
            if not self._waited():
                cause = f"takes {self.scratch_bytes >> 20} MiB of temporary space, and all work at once may take "
                remedy = "make it smaller, or split it"
                return False, Permanent(thing, f"{cause}{SCRATCH_BYTES >> 20} MiB", remedy)
            answer = pickle.load(self._answers) if self.confined is None else _Values(self._answers).load()
        except (OSError, EOFError, ValueError):
            remedy = "it may have taken too much memory or processor time; else look for a lack of memory on the hub"
            return False, Permanent(thing, "its worker process died", remedy)
        except Exception as error:  # whatever an unpickler raises for bytes that are no honest answer
            return False, Permanent(thing, f"its worker process gave no answer that can be read: {error}")
        shutil.rmtree(folder, ignore_errors=True)
        self.answered = True
        done, made = answer
        if done is False and not isinstance(made, FlotillaError):
            return False, Permanent(thing, "its worker process gave no answer that can be read")
        return done, made

    def _waited(self) -> bool:
        """Wait for an answer, or the end of the process; False when it takes more of the disk than it may."""
        answers = select.poll()
        answers.register(self._answers, select.POLLIN)
        while not answers.poll(_LOOK_S * 1000):
            self.scratch_bytes = scratch.size(self._folder)
            if _pool.is_full_of(self):
                return False
        return True

    def end(self) -> None:
        """Kill it and what it started, and remove its folder. May be called twice."""
        if self._popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for pipe in (self._calls, self._answers):
            with suppress(OSError):  # what it was never told
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Values(pickle.Unpickler):
    """Reads values and our errors, and calls nothing: a worker that a stranger's file took over must not take over
    the hub by its answer."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("msgspec._utils", "rebuild"):  # makes a Struct of a class, which was found here too
            return super().find_class(module, name)
        found: Any = None
        if module.split(".")[0] in ("hub", "proto"):
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        ours = isinstance(found, type) and found.__module__.split(".")[0] in ("hub", "proto")
        if ours and (
            dataclasses.is_dataclass(found) or issubclass(found, (FlotillaError, enum.Enum, msgspec.Struct, tuple))
        ):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no value")


class _Pool:
    """Processes that wait for a call. For all event loops of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: deque[_Process] = deque()
        """Longest idle first."""
        self._busy: set[_Process] = set()

    def take(self, confined: _Confined | None, thing: str) -> _Process:
        """One that nobody else has, started if need be. Raises Transient."""
        with self._lock:
            now = time.monotonic()
            old = [self._idle.popleft() for process in tuple(self._idle) if now - process.idle_since_s > IDLE_S]
            found = next((process for process in reversed(self._idle) if process.confined == confined), None)
            if found is not None:
                self._idle.remove(found)
                found.answered = False
        for process in old:
            process.end()
        if found is None:
            found = _Process(confined, thing)
        with self._lock:
            self._busy.add(found)
        return found

    def is_full_of(self, process: _Process) -> bool:
        """Whether the calls that are under way take more of the disk than they may, and this one most."""
        with self._lock:
            taken = [other.scratch_bytes for other in self._busy]
        return sum(taken) > SCRATCH_BYTES and process.scratch_bytes == max(taken)

    def give_back(self, process: _Process) -> None:
        with self._lock:
            self._busy.discard(process)
        process.scratch_bytes = 0
        if not process.answered:
            process.end()
            return
        process.idle_since_s = time.monotonic()
        with self._lock:
            self._idle.append(process)
            over = self._idle.popleft() if len(self._idle) > MAX_IDLE else None
        if over is not None:
            over.end()

    def stop(self) -> None:
        with self._lock:
            idle, self._idle = tuple(self._idle), deque()
        for process in idle:
            process.end()


_pool = _Pool()
atexit.register(stop)
