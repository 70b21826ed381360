"""Blocking work in worker processes, so that the hub's event loop only ever waits (design, decision 12).

A worker is told a function of a module and arguments that can be pickled, and is a bulkhead: whatever goes wrong in it
comes back as one of our errors. It gets a temporary folder that is removed whatever becomes of it, since a call that
takes too long is killed, not asked.
"""

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import anyio
from anyio import lowlevel, to_process, to_thread

from proto.errors import FlotillaError, Permanent, Transient

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

TIME_LIMIT_S = 300.0
"""Of one call: above every limit inside it (a build has 60 s), so that those can say what took so long."""

_limiter: lowlevel.RunVar[anyio.CapacityLimiter] = lowlevel.RunVar("flotilla_workers")


async def run(function: Callable[[Unpack[Ts]], T], *args: *Ts, what: str = "", time_limit_s: float = TIME_LIMIT_S) -> T:
    """`function(*args)` in a worker process, as many at once as there are cores; the wait for a core has no limit.

    Raises the FlotillaError that it raises; Permanent about `what` (by default the function) when it fails otherwise,
    dies or takes longer than `time_limit_s`: the same call would do so again. Transient when no worker could start.
    """
    thing = what or f"{function.__module__}.{function.__qualname__}"
    async with _cores():
        try:
            scratch = await to_thread.run_sync(tempfile.mkdtemp, "", "flotilla-worker-")
        except OSError as error:
            raise Transient(thing, f"has no temporary folder: {error}", "look at the hub's disk") from error
        try:
            with anyio.move_on_after(time_limit_s):
                own = anyio.CapacityLimiter(1)  # anyio's default would bound us a second time
                return await to_process.run_sync(_call, scratch, thing, function, args, cancellable=True, limiter=own)
        except anyio.BrokenWorkerProcess as error:
            if error.args:  # anyio says something only when the process did not get ready
                raise Transient(thing, "no worker process could be started", "look at the hub's load") from error
            remedy = "it may have taken too much memory or processor time; else look for a lack of memory on the hub"
            raise Permanent(thing, "its worker process died", remedy) from error
        except OSError as error:  # no memory, no file descriptors; what `function` raises comes as one of ours
            raise Transient(thing, f"no worker process could be started: {error}", "look at the hub's load") from error
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(shutil.rmtree, scratch, True)
    raise Permanent(thing, f"took longer than {time_limit_s:g} s and was stopped")


def _cores() -> anyio.CapacityLimiter:
    """One limiter per event loop."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(anyio.CapacityLimiter(os.cpu_count() or 2))
        return _limiter.get()


def _call(scratch: str, thing: str, function: Callable[[Unpack[Ts]], T], args: tuple[*Ts]) -> T:
    """In the worker process."""
    tempfile.tempdir = scratch
    try:
        return function(*args)
    except FlotillaError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(at.filename)}:{at.lineno}"
        raise Permanent(thing, f"failed in a way we did not expect: {type(error).__name__} at {place}") from error
    finally:
        tempfile.tempdir = None
