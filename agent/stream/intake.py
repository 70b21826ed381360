"""From wake-ups to slices: each one is followed until its commit is here, or a newer wake-up has come.

    the wake-up                                   then
    carries all that is lacking                   its slice is taken up at once
    carries too little, or is refused             the slice is fetched
    … and still not here, or not to be had        fetched again after ever longer delays; told as a problem meanwhile
    … and there is nowhere to fetch from          left: the next one may carry it

Whatever goes wrong, the slice before stays. Assumes one caller of `run`. `receive` takes in and checks; next: `loop`
enforces what was taken up.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import anyio

from agent.model import Desired
from agent.stream.receive import Receiver
from proto.errors import FlotillaError
from proto.messages import WakeUp

WAKE_UPS: Final = 64
"""Kept while one is taken in; what is dropped is fetched."""


class Intake:
    """`fetch` gets the slice from wherever it is (True: it moved) and is None where there is no such place; `take_up`
    is given the slice that is here after each try, the same or a newer one, and when its wake-up came (Unix ns)."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        fetch: Callable[[], Awaitable[bool]] | None,
        take_up: Callable[[Desired, int], Awaitable[None]],
        problem: Callable[[str, str], None],
        wall_ns: Callable[[], int],
        delays: Callable[[], Iterator[float]],
    ) -> None:
        self._receiver = receiver
        self._fetch = fetch
        self._take_up = take_up
        self._problem = problem
        self._wall_ns = wall_ns
        self._delays = delays
        self._wake_ups: deque[WakeUp] = deque(maxlen=WAKE_UPS)
        self._woken = anyio.Event()

    def wake(self, wake: WakeUp) -> None:
        """The hub, or whoever looks after a mirror or a folder, says where the slice is."""
        self._wake_ups.append(wake)
        self._woken.set()

    async def resume(self) -> None:
        """Take up what was here at the start."""
        await self._take_up(self._receiver.desired(), self._wall_ns())

    async def run(self) -> None:
        """Take in every wake-up, until cancelled."""
        while True:
            self._woken = anyio.Event()
            while self._wake_ups:
                await self._take_in(self._wake_ups.popleft())
            await self._woken.wait()

    async def _take_in(self, wake: WakeUp) -> None:
        since_ns = self._wall_ns()
        for delay in self._delays():
            problem = ""
            try:
                taken = await self._receiver.offer(wake)
            except FlotillaError as error:
                taken, problem = False, str(error)
            if not taken and self._fetch is not None:
                try:
                    await self._fetch()
                    problem = ""
                except FlotillaError as error:
                    problem = str(error)
            self._problem("slice", f"the slice cannot be taken in, the one before stays: {problem}" if problem else "")
            desired = self._receiver.desired()
            await self._take_up(desired, since_ns)
            if desired.seq >= wake.seq or self._wake_ups or self._fetch is None:
                return
            wake = WakeUp(seq=wake.seq, commit=wake.commit)  # what it carried did not help
            with anyio.move_on_after(delay):
                await self._woken.wait()
