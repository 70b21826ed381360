"""The agent's copy of its slice: takes new commits in, from a wake-up, a Git host or a file, and reads what they want.

Everything is checked before the current commit moves, so that the agent goes on with its old slice whatever it is sent.
`Receiver._accept` is the one gate, whichever way a commit came:

    objects         hashed here; an id that somebody claims is never believed
    commit          descends from the current one, or (not by wake-up) from a checkpoint that names its predecessor
    signature       by one of the signers that this cluster lists, if it lists any
    slice.json      this cluster's, of a format that this build knows, with a greater sequence number
    subtrees        as slice.json names them; every path an object's; every blob there, and none too large

Nothing here prunes or applies: a missing ref, a 401, 403 or 404 is an error and changes nothing. `slice_store` keeps
the objects, `git_host` and `git_bundle` bring them, `slice_reader` does the reading and its checks; `plan` is next.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import pygit2
from anyio import to_thread
from pygit2.enums import ObjectType

from agent.model import Desired
from agent.stream import git_bundle, git_host, slice_reader
from agent.stream.git_host import Login
from agent.stream.signed import SliceSigners
from agent.stream.slice_reader import Incomplete
from agent.stream.slice_store import SliceStore
from proto import slices
from proto.errors import FlotillaError, ProtocolError, UnsupportedVersion
from proto.ids import NO_OID, Oid, check_name
from proto.messages import WakeUp

_FORWARD = "a slice only moves forward; restore the hub's journal.db and slices.git from one moment"

LOOK: Final = WakeUp(seq=0, commit=NO_OID)
"""Tells the loop to ask for the slice: it carries nothing and names none."""

log = logging.getLogger(__name__)


class Rewound(ProtocolError):
    """Somebody has a slice that this agent has left behind already: a mirror that is late, or a hub set back."""


class Receiver:
    """The slice of `cluster` below `state_dir`. `desired` and `blob` may be called at any time, also during a fetch.

    Opening it puts right what a kill left, and raises Transient when the folder cannot be used. With `signers` only
    slices that one of them signed are taken in.
    """

    def __init__(self, state_dir: Path, cluster: str, *, signers: SliceSigners | None = None) -> None:
        self.cluster = check_name("cluster", cluster)
        self._signers = signers
        self._thing = f"slice of cluster {cluster}"
        self._store = SliceStore(state_dir / "slices", cluster)
        self._limiter = anyio.CapacityLimiter(1)
        self._writing = threading.Lock()
        with self._store.disk():
            self._desired = self._reread()

    def desired(self) -> Desired:
        """What the current slice wants; seq 0 and no bundles before the first."""
        return self._desired

    def blob(self, oid: Oid) -> bytes:
        """The file of one object. Raises ProtocolError when it is not there or not a blob."""
        repo = self._store.repo
        try:
            return slice_reader.read(repo, oid, ObjectType.BLOB)
        except Incomplete as error:
            if repo is not self._store.repo:  # packed anew meanwhile
                return self.blob(oid)
            raise ProtocolError(f"object {oid}", "is not in the slice store", "restart the agent") from error

    async def offer(self, wake: WakeUp) -> bool:
        """Take in the commit of a wake-up from the objects it carries; False when a fetch is needed for it.

        True also when the commit is the current one already. Raises ProtocolError, UnsupportedVersion or TooLarge when
        the wake-up lies, Transient when the disk does not take it; the old slice stays in each case.
        """
        return await to_thread.run_sync(self._offer, wake, limiter=self._limiter)

    async def fetch(self, url: str, login: Login | None = None, *, look_first: bool = False) -> bool:
        """Fetch the slice's ref from the Git host at `url`; True when the slice moved. With `look_first` it is first
        asked where that ref is, which costs less than a fetch when it is where we are.

        Raises Transient (no answer, no space), Refused (401, 403, 404), Rewound, or ProtocolError (no such ref, another
        history, a slice that is not valid); the old slice stays in each case.
        """
        if look_first:
            if await git_host.tip(url, self._store.ref, login, thing=self._thing) == self._desired.commit:
                return False
        elif url.startswith(("http://", "https://")):
            await git_host.ask(url, login, thing=self._thing)
        abort = threading.Event()
        bring = partial(git_host.fetch, url=url, ref=self._store.ref, login=login, abort=abort, thing=self._thing)
        try:
            return await to_thread.run_sync(self._take, bring, url, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            abort.set()

    async def unbundle(self, path: Path) -> bool:
        """Take the slice in from the `git bundle` file at `path`; True when it moved.

        Raises Transient (unreadable, not whole, no space), Rewound, or ProtocolError (another cluster's, based on what
        is not here, another history, a slice that is not valid); the old slice stays in each case.
        """
        return await to_thread.run_sync(self._unbundle, path, limiter=self._limiter)

    # --- taking in: in a worker thread, one at a time ---

    def _unbundle(self, path: Path) -> bool:
        since = f" --since {self._desired.seq}" if self._desired.seq else ""
        remedy = f"export it with 'flotilla bundle export {self.cluster}{since}'"

        def bring(repo: pygit2.Repository) -> Oid:
            had = {self._desired.commit, *self._behind()}
            return git_bundle.bring(repo, path=path, ref=self._store.ref, had=had, remedy=remedy)

        return self._take(bring, str(path))

    def _offer(self, wake: WakeUp) -> bool:
        with self._writing, self._store.disk():
            if wake.commit == self._desired.commit:
                return True
            if not wake.objects:
                return False
            commit = slice_reader.check_carried(wake)
            repo = self._store.repo
            for item in wake.objects:
                repo.odb.write(slice_reader.KINDS[item.kind], item.data)
            try:
                self._advance(self._accept(repo, commit, carried=True))
            except Incomplete:
                return False
            return True

    def _take(self, bring: Callable[[pygit2.Repository], Oid], origin: str) -> bool:
        """Take in the commit that `bring` puts into a repository, with what it needs and that is not there yet; True
        when the slice moved. `origin` is for people."""
        with self._writing, self._store.disk():
            try:
                commit = bring(self._store.repo)
                if commit == self._desired.commit:
                    return False
                self._advance(self._accept(self._store.repo, commit))
                return True
            except Incomplete:
                # Whoever gave it took us for having all of our history, of which a repack keeps only the commits.
                log.info("%s is taken in from scratch", self._thing)
            fresh = self._store.create()
            try:
                desired = self._accept(fresh, bring(fresh))
                fresh.references.create(self._store.ref, desired.commit)
                self._store.use(fresh)
                self._desired = desired
                return True
            except Incomplete as error:
                raise ProtocolError(self._thing, f"is not complete at {origin}: object {error} is missing") from error
            finally:
                self._store.discard(fresh)

    def _accept(self, repo: pygit2.Repository, commit: Oid, *, carried: bool = False) -> Desired:
        """The slice at `commit` of `repo`, if it may follow on the current one. All that comes in passes here.

        `carried`: by a wake-up, so that what is missing can still be fetched. Raises Incomplete when an object is
        missing, Rewound, Unsigned, UnsupportedVersion, TooLarge or ProtocolError.
        """
        self._check_descent(repo, commit, carried=carried)
        if self._signers is not None:
            raw = slice_reader.read(repo, commit, ObjectType.COMMIT)
            self._signers.check(raw, thing=f"{self._thing} at {commit}")
        desired = slice_reader.read_slice(repo, commit, self.cluster, known=self._desired)
        if desired.seq <= self._desired.seq:
            raise ProtocolError(
                self._thing,
                f"has sequence number {desired.seq} at {commit}, which does not follow on {self._desired.seq}",
                _FORWARD,
            )
        return desired

    def _check_descent(self, repo: pygit2.Repository, commit: Oid, *, carried: bool) -> None:
        """That `commit` follows on the current one, which only what is carried has to before the first slice.

        Follows first parents; a slice has no merges. Where a whole history came, a checkpoint will do in the current
        commit's stead: what is before it cannot be seen any more, but the sequence number has to grow, and what it
        names as its predecessor may not be a commit that we have left behind.
        """
        current = self._desired.commit
        if not carried and not current:
            return
        before = ""
        for parent, message in slice_reader.ancestry(repo, commit):
            if parent == current:  # "" for both: a first commit, before the first slice
                return
            if not parent:
                before = slices.predecessor(message) or ""
        if carried:
            raise Incomplete(current)
        if commit in self._behind():
            raise Rewound(self._thing, f"was rewound: {commit} is older than {current}, which this agent has", _FORWARD)
        if not before or before in self._behind():
            raise ProtocolError(
                self._thing,
                f"was rewound: {commit} does not descend from {current}, which this agent has",
                _FORWARD,
            )

    def _behind(self) -> set[str]:
        """The commits that came before the current one, as far as they are known."""
        found: set[str] = set()
        if self._desired.commit:
            for parent, message in slice_reader.ancestry(self._store.repo, self._desired.commit):
                found.add(parent or slices.predecessor(message) or "")
        return found

    def _advance(self, desired: Desired) -> None:
        self._store.advance(desired.commit)
        self._desired = desired
        try:
            with self._store.disk():
                self._store.tidy(desired.commit)
        except (FlotillaError, Incomplete) as error:
            log.warning("slice store of cluster %s could not be packed anew: %s", self.cluster, error)

    def _reread(self) -> Desired:
        """The slice that was current when the agent ended. Raises UnsupportedVersion after a downgrade."""
        commit = self._store.commit
        if commit is None:
            return slice_reader.NOTHING
        try:
            return slice_reader.read_slice(self._store.repo, commit, self.cluster, known=slice_reader.NOTHING)
        except UnsupportedVersion:
            raise
        except (Incomplete, ProtocolError) as error:
            # Only a broken disk does this: everything was checked and synced before the ref moved.
            log.error("slice store of cluster %s is broken and made anew: %s", self.cluster, error)
            self._store.reset()
            return slice_reader.NOTHING
