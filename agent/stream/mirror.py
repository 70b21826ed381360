"""Slices from a Git host that mirrors the hub's, with the hub itself behind it.

| the mirror                    | the hub                      | then                                                  |
|-------------------------------|------------------------------|-------------------------------------------------------|
| has a newer slice             | says so, nothing, or is away | it is taken                                           |
| has nothing newer             | says nothing newer, or away  | nothing: that is how it mostly is                     |
| has not yet what the hub says | says so                      | the mirror is asked again, after PATIENCE_S the hub   |
| is away, refuses us, or lies  | says there is a newer one    | the hub is asked at once                              |
| is away, refuses us, or lies  | says nothing newer, or away  | nothing but a problem that is told                    |

What a mirror says passes the same gate as the hub's word (`Receiver`), so an old slice, another cluster's, another
history, or none at all never moves ours. It is looked at whenever the hub wakes us, and by itself each `poll_s`: less
often while the hub is there to say when. `git_host` fetches; `loop` asks `take`.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio

from agent.stream.git_host import Login
from agent.stream.receive import LOOK, Receiver, Rewound
from proto.errors import FlotillaError, InvalidInput, Transient
from proto.messages import WakeUp

POLL_S: Final = 60.0
RELAXED: Final = 10
"""Polls that are left out while the hub is there."""
PATIENCE_S: Final = 60.0
"""The hub pushes to the mirror after it woke us; a wave of thousands takes it a while."""
CLUSTER: Final = "${cluster}"


class Mirror:
    """`url` is where the mirror is, with `${cluster}` for our name; `login_file` holds `user:password`, read anew for
    each fetch. `hub` fetches from the hub and is None without one; `connected` says whether it is there; `problem`
    takes what is wrong with the mirror, "" once it is over."""

    def __init__(
        self,
        url: str,
        receiver: Receiver,
        *,
        login_file: Path | None = None,
        hub: Callable[[], Awaitable[bool]] | None,
        connected: Callable[[], bool],
        problem: Callable[[str], None],
        poll_s: float = POLL_S,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._url = check_address(url, login=login_file is not None).replace(CLUSTER, receiver.cluster)
        self._receiver = receiver
        self._login_file = login_file
        self._hub = hub
        self._connected = connected
        self._problem = problem
        self._poll_s = poll_s
        self._patience_s = patience_s
        self._sleep = sleep
        self._told = 0
        """The newest sequence number that the hub spoke of."""
        self._waits: tuple[int, float] | None = None
        """Which number the mirror does not have yet, and since when."""

    def hub_says(self, wake: WakeUp) -> None:
        """What the hub says of our slice, before the loop takes it in."""
        self._told = max(self._told, wake.seq)

    async def take(self) -> bool:
        """Take in what is newer; True when the slice moved. Raises what kept the hub from giving a slice that it says
        is there; what the mirror does is only told."""
        moved, failure = False, ""
        try:
            moved = await self._receiver.fetch(self._url, await anyio.to_thread.run_sync(self._login), look_first=True)
        except Rewound:
            pass  # it is late, which the hub's word shows if it matters
        except FlotillaError as error:
            failure = str(error)
        if self._told <= self._receiver.desired().seq:
            self._waits = None
            self._problem(failure and f"the mirror of slices gives nothing: {failure}")
            return moved
        if not failure:
            now = anyio.current_time()
            if self._waits is None or self._waits[0] != self._told:
                self._waits = (self._told, now)
            if now - self._waits[1] < self._patience_s:
                return moved
            failure = f"{self._url} has no slice {self._told} yet, of which the hub told"
        self._problem(f"the mirror of slices is late: {failure}")
        return await self._hub() if self._hub is not None and self._connected() else moved

    async def poll(self, wake: Callable[[WakeUp], None]) -> None:
        """Call `wake` whenever `take` is to be asked, for ever."""
        left_out = RELAXED
        while True:
            left_out += 1
            if left_out >= RELAXED or not self._connected():
                wake(LOOK)
                left_out = 0
            await self._sleep(self._poll_s * random.uniform(0.5, 1.5))

    def _login(self) -> Login | None:
        if self._login_file is None:
            return None
        thing = f"login file {self._login_file}"
        try:
            user, colon, password = self._login_file.read_text().strip().partition(":")
        except (OSError, UnicodeDecodeError) as error:
            raise Transient(thing, "cannot be read", "check what is mounted there") from error
        if not (user and colon and password):
            raise Transient(thing, "does not hold user:password", "write both, with a colon between them")
        return Login(user=user, password=password)


def check_address(url: str, *, login: bool) -> str:
    """`url`, if slices may be fetched from there. Raises InvalidInput."""
    scheme, separator, rest = url.partition("://")
    host = rest.partition("/")[0]
    if not separator or scheme not in ("https", "http") or not host:
        raise InvalidInput(
            "--slices", "is not an address that begins with https:// or http://", "give the repository's"
        )
    if "@" in host:
        raise InvalidInput("--slices", "has a user or password in it", "give them with --slices-login-file")
    if login and scheme == "http" and host.rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]"):
        raise InvalidInput("--slices", "would send the password readable for everybody", "use https://")
    return url
