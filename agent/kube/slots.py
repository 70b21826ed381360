"""Lets writes wait for their turn: first come, first served, as many at once as `pace` allows.

Assumes one event loop. Next: `reconcile` takes a slot for each object.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from agent.kube.api_status import Busy
from agent.kube.pace import Pace
from proto.errors import FlotillaError


class Slots:
    """The slots of one API server; `clock` is monotonic."""

    def __init__(self, pace: Pace | None = None, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._pace = pace or Pace()
        self._clock = clock
        self._under_way = 0
        self._turn = anyio.Lock(fast_acquire=True)
        """Whoever holds it is the next; the others wait behind, in order."""
        self._freed = anyio.Event()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Callable[[str, FlotillaError | None], None]]:
        """Waits for a slot, and gives it back at the end of the block. What it yields is called with the kind of the
        object when the API server answered, with an error or without."""
        async with self._turn:
            while (wait_s := self._pace.wait_s(self._under_way, self._clock())) > 0:
                self._freed = anyio.Event()
                with anyio.move_on_after(wait_s):
                    await self._freed.wait()
            self._under_way += 1
        began = self._clock()

        def answered(kind: str, error: FlotillaError | None) -> None:
            now = self._clock()
            if isinstance(error, Busy):
                self._pace.refused(began=began, now=now, retry_after_s=error.retry_after_s)
            else:
                self._pace.answered(kind, now - began, under_way=self._under_way, now=now)

        try:
            yield answered
        finally:
            self._under_way -= 1
            self._freed.set()
