"""Copies of what the journal holds: each cluster's ref, its wake-up, what its agent is asked beside Git.

Each can be made again, and a ref that could not be written is owed until it is: so nothing here undoes a turn. Next:
agents fetch what they are woken for.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from hub import directives
from hub.journal import Decision, SliceRow
from hub.slices.carrier import Carrier
from hub.slices.compose import Composed
from hub.slices.gitstore import GitStore
from proto.errors import FlotillaError, Permanent
from proto.ids import ClusterName, Oid
from proto.messages import Directives, GitObject, WakeUp

log = logging.getLogger("flotilla.hub")

TOLD_AT_ONCE = 200
"""Clusters whose wake-ups are made together; between them others have their turn on the event loop."""

T = TypeVar("T")
Slices = Mapping[ClusterName, SliceRow]


class InGit:
    """Runs work in a thread, one piece at a time: libgit2 repositories are not for two threads at once."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)

    async def __call__(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


class Copies:
    """`hears`: is the agent connected? Who is not need not be carried anything."""

    def __init__(
        self,
        store: GitStore,
        in_git: InGit,
        *,
        wake: Callable[[ClusterName, WakeUp], None],
        direct: Callable[[ClusterName, Directives], None],
        hears: Callable[[ClusterName], bool],
    ) -> None:
        self._store = store
        self._carrier = Carrier(store)
        self._in_git = in_git
        self._wake = wake
        self._direct = direct
        self._hears = hears
        self._owed: set[ClusterName] = set()

    def owe(self, clusters: Iterable[ClusterName]) -> None:
        """Their refs may be behind the journal."""
        self._owed.update(clusters)

    async def make_all(self, slices: Slices) -> None:
        """Make every ref what the journal says; the first thing after a start. Raises Permanent when a ref is ahead:
        then the journal was restored from a backup, and moving on would lose what agents have been told already."""
        for cluster in await self._in_git(self._store.clusters):
            if cluster not in slices:
                raise Permanent(
                    f"cluster {cluster}",
                    "has slices that the journal does not know: the journal is older than they are",
                    "restore journal.db and slices.git from one moment, or run 'flotilla hub recover'",
                )
        refused = await self._in_git(partial(self._store.set_refs, _tips(slices, slices)))
        for error in refused.values():
            raise error

    async def make(
        self,
        decision: Decision,
        composed: Mapping[ClusterName, Composed],
        *,
        slices: Slices,
        directed: directives.Rows,
    ) -> None:
        """Those of a decision that is stored, and those that are owed. `slices` and `directed` are what is now."""
        for cluster in sorted({cluster for _, cluster, _ in decision.directives}):
            self._direct(cluster, directives.message(directed, cluster))
        moved = {move.cluster: move for move in decision.moves}
        owed = sorted(self._owed)
        refused = await self._copied(_tips(slices, owed)) if owed else {}
        for name, error in refused.items():
            level = logging.ERROR if name in moved else logging.DEBUG
            log.log(level, "slice of %s is decided, and not published yet: %s", name, error)
        told = [cluster for cluster in owed if cluster in moved or cluster not in refused]
        for first in range(0, len(told), TOLD_AT_ONCE):
            some = told[first : first + TOLD_AT_ONCE]
            fresh = [c for c in some if c in composed and c not in refused and self._hears(c)]
            carried = await self._in_git(partial(self._carried, {c: composed[c] for c in fresh}))
            self._owed.difference_update(cluster for cluster in some if cluster not in refused)
            for cluster in some:
                row, move = slices[cluster], moved.get(cluster)
                parent = move.old or "" if move else ""
                objects = carried.get(cluster, ())
                self._wake(cluster, WakeUp(seq=row.seq, commit=row.commit, parent=parent, objects=objects))

    def _carried(self, composed: Mapping[ClusterName, Composed]) -> dict[ClusterName, tuple[GitObject, ...]]:
        """The objects that wake-ups carry; whose cannot be read is told of its slice alone."""
        found: dict[ClusterName, tuple[GitObject, ...]] = {}
        for cluster, made in composed.items():
            try:
                found[cluster] = self._carrier.carried(made)
            except FlotillaError as error:
                log.error("cluster %s has to fetch its slice: %s", cluster, error)
        return found

    async def _copied(self, tips: Mapping[str, Oid]) -> Mapping[str, FlotillaError]:
        """Copy slice pointers to refs; gives why some are not copied."""
        try:
            return await self._in_git(partial(self._store.set_refs, tips))
        except FlotillaError as error:  # the disk
            return dict.fromkeys(tips, error)


def _tips(slices: Slices, clusters: Iterable[ClusterName]) -> dict[str, Oid]:
    return {cluster: slices[cluster].commit for cluster in clusters}
