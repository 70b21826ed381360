"""A worker process from inside: calls come on standard input, answers go to standard output, until there are no more.

The first thing that comes is None, or a module to load and the room to enter then (`isolation`): code is trusted, what
it reads is not. Then, for each call, its temporary folder, its name in messages, the function and the arguments.
Whatever goes wrong in a function becomes one of our errors, without the values that it was about. What the function
itself prints goes nowhere. Told by `worker`.
"""

import importlib
import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

from hub import collector, isolation, scratch
from proto.errors import FlotillaError, Permanent


def main() -> None:
    """Serve calls until the hub is gone."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    confined = pickle.load(calls)
    if confined is not None:
        module, room = confined
        importlib.import_module(module)
        isolation.enter(room)
    collector.seldom()
    pickle.dump(True, answers)
    answers.flush()
    while calls.peek(1):
        answers.write(_answer(*pickle.load(calls)))
        answers.flush()


def _answer(folder: str, thing: str, call: bytes) -> bytes:
    """Whether the function came to its end, and what it gave or raised; pickled."""
    scratch.enter(folder)
    try:
        function: Callable[..., Any]
        function, args = pickle.loads(call)
        return pickle.dumps((True, function(*args)), protocol=pickle.HIGHEST_PROTOCOL)
    except FlotillaError as error:
        return pickle.dumps((False, error))
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(at.filename)}:{at.lineno}"
        return pickle.dumps(
            (False, Permanent(thing, f"failed in a way we did not expect: {type(error).__name__} at {place}"))
        )


if __name__ == "__main__":
    try:
        main()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the hub was killed: nobody is there to be told, and what is not written yet goes nowhere
