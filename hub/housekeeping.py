"""Keeps the slice repository small by itself: merges packs, and collects garbage, while the hub goes on.

The heavy part runs in a worker process, which only adds packs, so that an orphan of a killed hub does no harm. Nothing
is removed that anybody still counts on, because what is removed is decided while nobody stores:

    1  gather what the roots of this moment need              minutes, for a large fleet; nothing waits
    2  wait until no rendering and no turn is under way, and hold up the next
    3  gather what the roots of now need beyond that          short: what was stored meanwhile
    4  remove every other pack, and from the journal the renders that were in them; let go

Roots come from the journal and from what the fleet repo wants (`garbage` has the table). Until the first commit of the
fleet repo is rendered after a start it is not known what is wanted, so nothing is collected.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from hub import worker
from hub.desired import Desired
from hub.journal import Journal
from hub.loop import Loop
from hub.slices import garbage
from hub.slices.compose import HISTORY_S
from hub.slices.gitstore import MAX_PACKS, GitStore
from hub.state import Base
from proto.errors import FlotillaError
from proto.ids import BundleName, Oid

log = logging.getLogger("flotilla.hub")

LOOK_EVERY_S = 60.0
GROWN = 1.25
"""How much larger the packs have to be than after the last look for garbage, before the next one."""
LEAST_GARBAGE = 0.2
"""The share of objects that makes a collection worth it: what is needed is written anew."""
TIME_LIMIT_S = 3600.0

_OID = re.compile(rb'"([0-9a-f]{40})"')


class Housekeeping:
    """Of one hub's slice repository. `rendered` has to be around everything that stores subtrees."""

    def __init__(
        self, loop: Loop, *, store: GitStore, journal: Journal, clock: Callable[[], float] = time.time
    ) -> None:
        self._loop = loop
        self._store = store
        self._journal = journal
        self._clock = clock
        self._rendering = anyio.Lock()
        self._rendered: Desired | None = None
        """What the loop has, or gets next."""
        self._bases: Mapping[BundleName, Base] = {}
        """The same of what last completed, for clusters that joined."""
        self._looked_at_bytes = 0

    async def rendered(self, render: Callable[[], Awaitable[Desired]]) -> Desired:
        """What `render` gives; nothing that it stored or found in the store is removed until the next one is given."""
        async with self._rendering:
            self._rendered = await render()
            return self._rendered

    async def joined(self, find: Callable[[], Awaitable[Mapping[BundleName, Base]]]) -> Mapping[BundleName, Base]:
        """The same for what clusters that joined shall have."""
        async with self._rendering:
            self._bases = await find()
            return self._bases

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except FlotillaError as error:
                log.error("slice repository is not tidied: %s", error)
            except Exception:
                log.exception("slice repository is not tidied, for a reason we did not expect")

    async def look(self) -> None:
        """Do what is due. Raises what kept it from being done; the repository is whole all the same."""
        sizes = await anyio.to_thread.run_sync(lambda: self._store.pack_sizes)
        if len(sizes) > MAX_PACKS:
            await worker.run(_repack, self._store.path, what="slice repository", time_limit_s=TIME_LIMIT_S)
            await anyio.to_thread.run_sync(self._store.reopen)
        if sum(sizes) > GROWN * self._looked_at_bytes and await self.collect():
            sizes = await anyio.to_thread.run_sync(lambda: self._store.pack_sizes)
        self._looked_at_bytes = max(sum(sizes), self._looked_at_bytes)

    async def collect(self, *, least: float = LEAST_GARBAGE) -> bool:
        """Collect garbage if it is at least the share `least` of all objects; says whether it did."""
        if self._rendered is None:
            return False
        since_s = self._clock() - HISTORY_S
        first = await self._gather((), since_s, least)
        if not first:
            return False
        async with self._rendering, self._loop.turning:
            second = await self._gather((first,), since_s)
            await anyio.to_thread.run_sync(self._store.keep, {first, second})
            await anyio.to_thread.run_sync(self._forget)
        log.info("slice repository: garbage is collected")
        return True

    def _forget(self) -> None:
        """Renders whose subtrees are gone would have to be made again: no row says so as well."""
        self._journal.forget_renders([oid for oid in self._journal.rendered() if not self._store.has(oid)])

    async def _gather(self, gathered: tuple[str, ...], since_s: float, least: float = 0.0) -> str:
        wanted = [found.subtrees for found in (self._rendered, self._loop.desired) if found is not None]
        roots = {Oid(row.commit) for row in self._loop.slices.values()}
        bases = (*self._bases.values(), *self._loop.bases.values())
        roots |= {oid for base in bases for oid in base.subtrees.values()}
        roots |= {oid for subtrees in wanted for by_cluster in subtrees.values() for oid in by_cluster.values()}
        roots |= await anyio.to_thread.run_sync(partial(_roots, self._journal))
        gather = partial(garbage.gather, self._store.path, roots, gathered, since_s, least)
        return await worker.run(gather, what="slice repository", time_limit_s=TIME_LIMIT_S)


def _roots(journal: Journal) -> set[Oid]:
    """The ids in the journal's rows; some are the fleet repo's, which the slice repository does not have."""
    roots = {oid for by_cluster in journal.completed().values() for oid in by_cluster.values()}
    roots |= set(journal.last_good().values())
    roots |= {oid for hold in journal.holds().values() if hold.keep for oid in hold.keep.subtrees.values()}
    for row in journal.rollouts(alive=True, limit=100_000):
        roots.update(Oid(found.decode()) for found in _OID.findall(row.begins))
    return {oid for oid in roots if oid}


def _repack(path: Path) -> None:
    """In a worker process."""
    GitStore(path).repack()
