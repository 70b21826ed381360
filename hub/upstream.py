"""Keeps the mirror of the fleet repo fresh and hands each new commit to the loop, rendered.

Polls with jitter, or at once when poked. A rewritten history is refused until a person accepts it: the hub stays at the
last commit it took and says so; so it does when it starts. Whatever fails here, what runs keeps running, and the next
look tries again. Next:
`desired`, then `loop`.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio

from hub import worker
from hub.desired import Desired
from hub.journal import EventRow
from hub.repo import sync
from hub.repo.remote import Ssh
from hub.repo.verification import NOBODY_LOOKS, Verification
from proto.errors import FlotillaError, Transient
from proto.ids import Oid

log = logging.getLogger("flotilla.hub")

TOLD_AFTER_S = 300.0
"""A Git host that is away for less is nobody's business."""
FETCH_LIMIT_S = 3600.0
"""Of one fetch, which begins anew when it is stopped, and may bring a whole history. The first of a start has less:
should it fail, the hub goes on with what it took last."""
WAKE_GAP_S = 1.0
"""From a wake-up to the look: a burst of them is one fetch, and upstream's replicas have time to agree."""


class Upstream:
    """The upstream fleet repo: its `branch`, or `revision`, a tag or a commit of the branch. `problem` is why it could
    not be read lately, or what is wrong with its signatures, or ""."""

    def __init__(
        self,
        url: str,
        branch: str,
        *,
        mirror: Path,
        poll_s: float,
        revision: str = "",
        ssh: Ssh | None = None,
        trust: Verification = NOBODY_LOOKS,
        render: Callable[[Oid], Awaitable[Desired]],
        take: Callable[[Desired], Awaitable[None]],
        note: Callable[[EventRow], None] = lambda event: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url, self.branch, self.revision = url, branch, revision
        self.problem = ""
        self._mirror = mirror
        self._ssh = ssh
        self._trust = trust
        self._unverified = ""
        """What is wrong with the signatures up to the tip, which was taken all the same."""
        self._poll_s = poll_s
        self._render = render
        self._take = take
        self._note = note
        self._clock = clock
        self._poked = anyio.Event()
        self._render_again = self._accept_rewrite = self._unfinished = self._looked = False
        self._fails_since: float | None = None
        self._told = ""
        """The problem that is on the event list, until it is over."""
        self.tip: Oid | None = None
        """The newest commit that was taken."""
        self.synced_s = 0.0
        """When upstream was last read, Unix seconds; 0: never."""

    @property
    def ref(self) -> str:
        """The full name of the branch or tag that is followed."""
        return sync.followed(self.branch, self.revision)

    def poke(self, *, accept_rewrite: bool = False) -> None:
        """Look now, once taking whatever history is there if `accept_rewrite`. What did not render for a reason of the
        hub's own may do so now, so it is tried again without a new commit too."""
        self._render_again = True
        self._accept_rewrite |= accept_rewrite
        self._poked.set()

    def wake(self) -> None:
        """Look soon: upstream is said to have something new. However often this is told, it is one look a second."""
        self._poked.set()

    async def run(self) -> None:
        """Sync for ever."""
        while True:
            await self._guarded()
            with anyio.move_on_after(self._poll_s * random.uniform(0.8, 1.2)):
                await self._poked.wait()
            if self._poked.is_set() and not self._render_again:
                await anyio.sleep(WAKE_GAP_S)
            self._poked = anyio.Event()

    async def _guarded(self) -> None:
        try:
            await self.sync()
        except FlotillaError as error:
            if str(error) != self.problem:
                log.error("fleet repo: %s", error)
            self.problem = str(error)
            self._failed(passes=isinstance(error, Transient))
        except Exception as error:
            problem = f"fleet repo: was not taken in, in a way we did not expect: {type(error).__name__}"
            if problem != self.problem:
                log.exception("%s", problem)
            self.problem = problem
            self._failed(passes=False)
        else:
            self.problem = self._unverified
            self._fails_since = None
            if self._told:
                self._told = ""
                self._tell("fleet repo: it is read again, nothing is in the way any more", severity="info")

    def _failed(self, *, passes: bool) -> None:
        """Put a problem on the event list: one that may pass by itself once it lasts; each until it is over."""
        now = self._clock()
        self._fails_since = now if self._fails_since is None else min(self._fails_since, now)
        lasts = now - self._fails_since >= TOLD_AFTER_S
        if (not passes and self._told != self.problem) or (lasts and not self._told):
            self._told = self.problem
            self._tell(self.problem, severity="warning")

    def _tell(self, text: str, *, severity: str) -> None:
        self._note(EventRow(time_s=self._clock(), kind="upstream", text=text, data={"severity": severity}))

    async def sync(self) -> None:
        """Fetch; when the tip is new, render it and hand it to the loop. Raises what kept it from doing so."""
        again, self._render_again = self._render_again or self._unfinished, False
        accept, self._accept_rewrite = self._accept_rewrite, False
        fetch = partial(sync.fetch, revision=self.revision, ssh=self._ssh, trust=self._trust, accept_rewrite=accept)
        try:
            limit_s = FETCH_LIMIT_S if self._looked else worker.TIME_LIMIT_S
            self._looked = True
            revision = await worker.run(
                fetch, self._mirror, self.url, self.branch, what="fleet repo", time_limit_s=limit_s
            )
        except FlotillaError:
            self._render_again |= again
            if self.tip is None:
                await self._resume()
            raise
        if revision.unverified and revision.unverified != self._unverified:
            log.warning("%s; it was taken, since signatures are not enforced", revision.unverified)
        self._unverified = revision.unverified
        if revision.rewritten:
            log.warning("fleet repo: its rewritten history was accepted, from %s", revision.previous)
        if revision.commit != self.tip or again:
            log.info("fleet repo is at %.12s: %s", revision.commit, revision.subject)
            desired = await self._render(revision.commit)
            await self._take(replace(desired, author=revision.author[:200], subject=revision.subject))
            self.tip, self._unfinished = revision.commit, desired.unfinished
        self.synced_s = self._clock()

    async def _resume(self) -> None:
        """Go on with what was taken last: a hub that starts while upstream is away, or is refused, knows its fleet."""
        taken = partial(sync.taken, revision=self.revision, trust=self._trust)
        try:
            commit = await worker.run(taken, self._mirror, self.branch, what="fleet repo")
            if commit is not None:
                await self._take(await self._render(commit))
                self.tip = commit
                log.info("fleet repo: goes on with %.12s, which was taken last", commit)
        except FlotillaError as error:
            log.error("fleet repo: what was taken last cannot be used: %s", error)
