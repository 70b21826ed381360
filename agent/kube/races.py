"""How often, and after what pauses, a write that names a resourceVersion is tried while others write in between.

    races lost in a row     then
    1                       at once: most are lost to one writer, once
    2 and more              after a pause that doubles, from half of it to all of it at random
    TRIES                   never: it is a fight, or a controller that never rests, and the caller says so

A Deployment that was just made has its status written some ten times within its first second, more slowly on a busy
API server: whoever looks and writes at once loses several times, whoever waits a little does not.
"""

from random import uniform
from typing import Final

import anyio

TRIES: Final = 8
_FIRST_PAUSE_S: Final = 0.02


async def pause(lost: int) -> None:
    """Wait, after `lost` races in a row, for the next try: 1.3 s for all of TRIES at most."""
    if lost > 1:
        longest = _FIRST_PAUSE_S * 2.0 ** (lost - 2)
        await anyio.sleep(uniform(longest / 2, longest))
