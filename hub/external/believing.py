"""Runs a function in a process of its own that believes other certificates: libgit2 forgets none that it once believed.

For functions that talk to another machine's Git and block. What they take and give can be pickled.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from hub import scratch
from proto.errors import FlotillaError, Transient

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


def run(ca: Path, function: Callable[[Unpack[Ts]], T], *args: *Ts, thing: str) -> T:
    """`function(*args)` where only the certificates of the file `ca` are believed. Raises the FlotillaError that it
    raises; Transient about `thing` when it gives no answer."""
    with scratch.folder("ca") as nothing:
        environment = {
            **os.environ,
            "SSL_CERT_FILE": str(ca),
            "SSL_CERT_DIR": str(nothing),
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        }
        command = [sys.executable, "-m", "hub.external.believing"]
        asked = pickle.dumps((function, args))
        done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, env=environment, check=False)
    try:
        made: T | FlotillaError = pickle.loads(done.stdout)
    except (pickle.UnpicklingError, EOFError) as error:
        raise Transient(thing, "could not be reached in a process of its own") from error
    if isinstance(made, FlotillaError):
        raise made
    return made


def _asked() -> None:
    function, args = pickle.load(sys.stdin.buffer)
    try:
        answer = function(*args)
    except FlotillaError as error:
        answer = error
    pickle.dump(answer, sys.stdout.buffer)


if __name__ == "__main__":
    _asked()
