"""Sends the messages of the outbox to their receivers (`spec.notify` of fleet.yaml): at least once, and in order.

Each receiver has a task of its own, so that one that is away or slow keeps neither the loop nor another waiting. What
cannot be sent now is tried again with growing delays, and what comes after it waits for it; what a receiver rejects, or
did not take in a day, is given up and counted. A hub that dies between sending and forgetting sends again, with the
same id. What is wrong is a line of `flotilla status` once it lasts. Assumes that `loop.changed` is set after each turn.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from hub import backoff, notices
from hub.external import webhook
from hub.external.credentials import Credentials
from hub.external.webhook import Rejected
from hub.journal import Journal, MessageRow, Waiting
from hub.loop import Loop
from hub.noteworthy import Receiver
from proto.errors import FlotillaError, Transient

log = logging.getLogger("flotilla.hub")

DELAYS: Final = partial(backoff.delays, first_s=2.0, longest_s=300.0)
THREADS: Final = 4
"""Of our own, for the journal and the credentials: where those hang, the loop's commit finds a thread all the same."""
GIVE_UP_S: Final = 24 * 3600.0
"""A message that is older when its receiver fails tells nobody anything new."""
TOLD_AFTER_S: Final = 600.0
"""Trouble that is over sooner is nobody's business."""

T = TypeVar("T")


@dataclass(slots=True)
class Standing:
    """How it goes with one receiver since the hub's start; times in Unix seconds, 0: never."""

    delivered_at: float = 0.0
    failing_since: float = 0.0
    error: str = ""
    arrived: int = 0
    """The sequence of the message that it has, whether the journal knows that or not."""
    mended: anyio.Event = field(default_factory=anyio.Event)
    """Somebody found it well: the next try need not wait."""


class Notifier:
    """Of one hub. `credentials` reads what the hub's owner has; `public_url` is where people reach the hub."""

    def __init__(
        self,
        loop: Loop,
        *,
        journal: Journal,
        credentials: Callable[[], Credentials],
        clock: Callable[[], float],
        public_url: str = "",
        delays: Callable[[], Iterator[float]] = DELAYS,
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._credentials = credentials
        self._clock = clock
        self._public_url = public_url.rstrip("/")
        self._delays = delays
        self._standings: dict[Receiver, Standing] = {}
        self._threads = anyio.CapacityLimiter(THREADS)

    async def run(self) -> None:
        """Serve every receiver for ever."""
        serving: dict[Receiver, anyio.CancelScope] = {}
        tidy: tuple[Receiver, ...] | None = None
        async with anyio.create_task_group() as tasks:
            while True:
                changed, stated = self._loop.changed, self._loop.receivers
                for receiver in [one for one in serving if one not in stated]:
                    serving.pop(receiver).cancel()
                    self._standings.pop(receiver, None)
                for receiver in stated:
                    if receiver not in serving:
                        serving[receiver] = anyio.CancelScope()
                        tasks.start_soon(self._serve, receiver, serving[receiver], name=f"receiver {receiver.name}")
                if stated != tidy and await self._tidied():
                    tidy = stated
                await changed.wait()

    async def test(self, receiver: Receiver, *, actor: str) -> None:
        """Send a message that tells of nothing, now. Raises what kept it from arriving."""
        id_ = f"msg_test{secrets.token_hex(12)}"
        await self._send(receiver, notices.test_message(receiver, id_=id_, actor=actor, now=self._clock()))
        self._standing(receiver).mended.set()

    # --- what is known of them ------------------------------------------------------------------------------------

    def named(self, name: str) -> Receiver | None:
        return next((receiver for receiver in self._loop.receivers if receiver.name == name), None)

    def rows(self) -> list[dict[str, Any]]:
        """Every receiver, how it is and what it has not got, as JSON values."""
        waiting = self._journal.waiting()
        return [self._row(receiver, waiting.get(receiver.name, Waiting())) for receiver in self._loop.receivers]

    def problems(self) -> list[str]:
        """Which receivers take no messages for so long that somebody should know, and why."""
        now = self._clock()
        return [
            f"{standing.error}; so it is since {notices.rfc3339(standing.failing_since)}"
            for receiver in self._loop.receivers
            if (standing := self._standing(receiver)).failing_since and now - standing.failing_since >= TOLD_AFTER_S
        ]

    def _row(self, receiver: Receiver, waiting: Waiting) -> dict[str, Any]:
        standing, parts = self._standing(receiver), urlsplit(receiver.url)
        return {
            "name": receiver.name,
            "host": f"{parts.scheme}://{parts.netloc}",  # a path may be a secret in itself
            "pending": waiting.pending,
            "pending_since": _time(waiting.since_s),
            "lost": waiting.lost,
            "delivered_at": _time(standing.delivered_at),
            "failing_since": _time(standing.failing_since),
            "error": standing.error,
        }

    def _standing(self, receiver: Receiver) -> Standing:
        return self._standings.setdefault(receiver, Standing())

    # --- one receiver ---------------------------------------------------------------------------------------------

    async def _serve(self, receiver: Receiver, scope: anyio.CancelScope) -> None:
        """Send what waits, one after the other, until the scope is cancelled. Nothing else ends it."""
        delays = self._delays()
        with scope:
            while True:
                changed = self._loop.changed
                try:
                    message = await self._in_thread(partial(self._journal.next_message, receiver.name))
                    if message is None:
                        await changed.wait()
                        continue
                    await self._deliver(receiver, message)
                except Exception as error:
                    await self._wait(receiver, error, next(delays))
                else:
                    delays = self._delays()

    async def _deliver(self, receiver: Receiver, message: MessageRow) -> None:
        """Send a message and forget it. Raises what kept either from coming about: then it is to be done again."""
        standing = self._standing(receiver)
        if standing.arrived != message.sequence:
            try:
                await self._send(receiver, message)
            except FlotillaError as error:
                self._failed(receiver, error)
                rejected = isinstance(error, Rejected)
                if rejected or self._clock() - message.time_s > GIVE_UP_S:
                    log.warning("message %s is given up: %s", message.id, error)
                    await self._in_thread(partial(self._journal.given_up, message))
                if not rejected:
                    raise
                return
            standing.arrived = message.sequence
            standing.delivered_at, standing.failing_since, standing.error = self._clock(), 0.0, ""
        await self._in_thread(partial(self._journal.delivered, message))

    async def _send(self, receiver: Receiver, message: MessageRow) -> None:
        """Raises Rejected, Transient, and InvalidInput or Permanent for credentials that cannot be used."""
        found = await self._in_thread(self._credentials)
        login = found.login(receiver.credentials, receiver.url)
        assert login is not None, "a receiver without credentials is none"
        await webhook.post(
            receiver.url,
            notices.sent(message, public_url=self._public_url),
            login=login,
            id_=message.id,
            thing=f"receiver {receiver.name}",
            now=self._clock(),
        )

    def _failed(self, receiver: Receiver, error: FlotillaError) -> None:
        standing = self._standing(receiver)
        if str(error) != standing.error:
            log.warning("%s", error)
        standing.failing_since = standing.failing_since or self._clock()
        standing.error = str(error)

    async def _wait(self, receiver: Receiver, error: Exception, delay_s: float) -> None:
        if not isinstance(error, FlotillaError):
            log.error("receiver %s was not served, for a reason we did not expect", receiver.name, exc_info=error)
        asked_s = error.retry_after_s if isinstance(error, Transient) else None
        standing = self._standing(receiver)
        standing.mended = anyio.Event()
        with anyio.move_on_after(max(delay_s, asked_s or 0.0)):
            await standing.mended.wait()

    async def _tidied(self) -> bool:
        """Forget what waits for receivers that are gone; between two turns, so that none begins meanwhile."""
        try:
            async with self._loop.turning:
                names = {receiver.name for receiver in self._loop.receivers}
                await self._in_thread(partial(self._journal.forget_receivers, names))
        except FlotillaError as error:  # with the next change
            log.warning("messages to receivers that are gone are not removed yet: %s", error)
            return False
        return True

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _time(time_s: float) -> str:
    return notices.rfc3339(time_s) if time_s else ""
