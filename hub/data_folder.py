"""The hub's data folder: one process at a time has it."""

import fcntl
from pathlib import Path
from typing import IO

from proto.errors import Permanent


def only_one(data: Path) -> IO[str]:
    """Hold the folder's lock, which the kernel lets go with its process. Raises Permanent when a hub has it."""
    lock = (data / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Permanent(
            f"data folder {data}", "is in use by another hub", "stop that one, or use another --data"
        ) from error
    return lock
