"""The agent's copy of its slice: takes new commits in, from a wake-up or by a fetch, and reads what they want.

Everything is checked before the current commit moves, so that the agent goes on with its old slice whatever it is sent:

    objects         hashed here; an id that somebody claims is never believed
    commit          descends from the current one, or (by fetch only) from a checkpoint that names its predecessor
    slice.json      this cluster's, of a format that this build knows, with a greater sequence number
    subtrees        as slice.json names them; every path an object's; every blob there, and none too large

The repository is bare and lives in `slices/<n>.git` of the state folder; the link `slices/current` names the one in
use and is replaced in one step when the objects are packed anew or cloned anew. A kill at any point leaves the old
commit or the new one. Nothing here prunes or applies: a missing ref, a 401, 403 or 404 is an error and changes nothing.
`slice_reader` does the reading and its checks; `plan` is next.
"""

import base64
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import anyio
import pygit2
from anyio import to_thread
from pygit2.enums import ConfigLevel, CredentialType, ObjectType

from agent.model import Desired
from agent.stream import slice_reader
from agent.stream.slice_reader import Incomplete
from proto import slices
from proto.errors import FlotillaError, ProtocolError, Refused, TooLarge, Transient, UnsupportedVersion
from proto.ids import Oid, check_name, slice_ref
from proto.messages import WakeUp

MAX_FETCH_BYTES: Final = 256 << 20
CONNECT_TIMEOUT_S: Final = 10
SERVER_TIMEOUT_S: Final = 30
REPACK_FROM: Final = 50
"""Packs, or wake-ups' loose objects divided by `LOOSE_PER_PACK`, that make a repack worth its while."""
LOOSE_PER_PACK: Final = 20
FETCHED_REF: Final = "refs/flotilla/fetched"

_FORWARD: Final = "a slice only moves forward; restore the hub's journal.db and slices.git from one moment"

log = logging.getLogger(__name__)


def configure_libgit2() -> None:
    """Process-wide settings of libgit2: small caches and maps, timeouts (the default is none), durable writes.

    A slice of 500 objects needs none of the 256 MB of cache and 8 GB of maps that libgit2 would take.
    """
    settings = pygit2.settings
    settings.mwindow_size = 1 << 20
    settings.mwindow_mapped_limit = 16 << 20
    settings.cache_max_size(4 << 20)
    settings.server_connect_timeout = CONNECT_TIMEOUT_S * 1000
    settings.server_timeout = SERVER_TIMEOUT_S * 1000
    settings.enable_fsync_gitdir(True)
    # The state folder is a volume whose owner is not the agent's user, and a user's Git configuration is not ours.
    settings.owner_validation = False
    for level in (ConfigLevel.SYSTEM, ConfigLevel.GLOBAL, ConfigLevel.XDG):
        settings.search_path[level] = ""


class Receiver:
    """The slice of `cluster` below `state_dir`. `desired` and `blob` may be called at any time, also during a fetch.

    Opening it puts right what a kill left, and raises Transient when the folder cannot be used.
    """

    def __init__(self, state_dir: Path, cluster: str) -> None:
        configure_libgit2()
        self.cluster = check_name("cluster", cluster)
        self._ref = slice_ref(cluster)
        self._folder = state_dir / "slices"
        self._limiter = anyio.CapacityLimiter(1)
        self._writing = threading.Lock()
        with _disk(f"slice store {self._folder}"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._repo = self._open()
            self._desired = self._reread()

    def desired(self) -> Desired:
        """What the current slice wants; seq 0 and no bundles before the first."""
        return self._desired

    def blob(self, oid: Oid) -> bytes:
        """The file of one object. Raises ProtocolError when it is not there or not a blob."""
        repo = self._repo
        try:
            return slice_reader.read(repo, oid, ObjectType.BLOB)
        except Incomplete as error:
            if repo is not self._repo:  # packed anew meanwhile
                return self.blob(oid)
            raise ProtocolError(f"object {oid}", "is not in the slice store", "restart the agent") from error

    async def offer(self, wake: WakeUp) -> bool:
        """Take in the commit of a wake-up from the objects it carries; False when a fetch is needed for it.

        True also when the commit is the current one already. Raises ProtocolError, UnsupportedVersion or TooLarge when
        the wake-up lies, Transient when the disk does not take it; the old slice stays in each case.
        """
        return await to_thread.run_sync(self._offer, wake, limiter=self._limiter)

    async def fetch(self, url: str, token: str = "") -> bool:
        """Fetch the slice's ref from the Git host at `url`; True when the slice moved.

        Raises Transient (no answer, no space), Refused (401, 403, 404), or ProtocolError (no such ref, a rewind, a
        slice that is not valid); the old slice stays in each case.
        """
        if url.startswith(("http://", "https://")):
            await _ask(self.cluster, url, token)
        abort = threading.Event()
        try:
            work = partial(self._fetch, url, token, abort)
            return await to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            abort.set()

    # --- taking in: in a worker thread, one at a time ---

    def _offer(self, wake: WakeUp) -> bool:
        with self._writing, _disk(f"slice store {self._folder}"):
            if wake.commit == self._desired.commit:
                return True
            if not wake.objects:
                return False
            commit = slice_reader.check_carried(wake)
            for item in wake.objects:
                self._repo.odb.write(slice_reader.KINDS[item.kind], item.data)
            try:
                if not self._descends(self._repo, commit, fetched=False):
                    return False
                desired = self._check(self._repo, commit)
            except Incomplete:
                return False
            self._advance(desired)
            return True

    def _fetch(self, url: str, token: str, abort: threading.Event) -> bool:
        with self._writing, _disk(f"slice store {self._folder}"):
            try:
                desired = self._fetch_into(self._repo, url, token, abort)
                if desired is not None:
                    self._advance(desired)
                return desired is not None
            except Incomplete:
                # The host took us for having all of our history, of which a repack keeps only the commits.
                log.info("slice of cluster %s is fetched from scratch", self.cluster)
            fresh = self._create()
            try:
                desired = self._fetch_into(fresh, url, token, abort)
                if desired is not None:
                    fresh.references.create(self._ref, desired.commit)
                    self._use(fresh)
                    self._desired = desired
                return desired is not None
            except Incomplete as error:
                raise ProtocolError(
                    f"slice of cluster {self.cluster}", f"is not complete at {url}: object {error} is missing"
                ) from error
            finally:
                if self._repo is not fresh:
                    _remove(Path(fresh.path))

    def _fetch_into(self, repo: pygit2.Repository, url: str, token: str, abort: threading.Event) -> Desired | None:
        """The new tip, fetched and checked; None when it is the current commit. Raises Incomplete."""
        if FETCHED_REF in repo.references:
            repo.references.delete(FETCHED_REF)
        with _git_host(self.cluster, url):
            remote = repo.remotes.create_anonymous(url)
            remote.fetch([f"+{self._ref}:{FETCHED_REF}"], callbacks=_Callbacks(self.cluster, token, abort), proxy=True)
        if FETCHED_REF not in repo.references:
            raise ProtocolError(
                f"slice of cluster {self.cluster}",
                f"is not at {url}: there is no ref {self._ref}",
                "the hub makes it when the cluster gets its first bundle",
            )
        commit = Oid(str(repo.references[FETCHED_REF].target))
        if abort.is_set() or commit == self._desired.commit:
            return None
        if not self._descends(repo, commit, fetched=True):
            raise ProtocolError(
                f"slice of cluster {self.cluster}",
                f"was rewound: {commit} does not descend from {self._desired.commit}, which this agent has",
                _FORWARD,
            )
        return self._check(repo, commit)

    def _descends(self, repo: pygit2.Repository, commit: Oid, *, fetched: bool) -> bool:
        """Whether `commit` follows on the current one, which nothing that is `fetched` has to before the first slice.

        Follows first parents; a slice has no merges. In a fetched history a parentless commit that names its
        predecessor will do in the current one's stead: what is before it cannot be seen any more, but the sequence
        number has to grow.
        """
        if fetched and not self._desired.commit:
            return True
        for parent, message in slice_reader.ancestry(repo, commit):
            if parent == self._desired.commit:  # "" for both: a first commit, before the first slice
                return True
            if not parent:
                return fetched and slices.predecessor(message) is not None
        return False

    def _check(self, repo: pygit2.Repository, commit: Oid) -> Desired:
        """The slice at `commit`, if it is whole and valid. Raises Incomplete or ProtocolError."""
        desired = slice_reader.read_slice(repo, commit, self.cluster, known=self._desired)
        if desired.seq <= self._desired.seq:
            raise ProtocolError(
                f"slice of cluster {self.cluster}",
                f"has sequence number {desired.seq} at {commit}, which does not follow on {self._desired.seq}",
                _FORWARD,
            )
        return desired

    def _advance(self, desired: Desired) -> None:
        self._repo.references.create(self._ref, desired.commit, force=True)
        self._desired = desired
        try:
            with _disk(f"slice store {self._folder}"):
                self._tidy()
        except (FlotillaError, Incomplete) as error:
            log.warning("slice store of cluster %s could not be packed anew: %s", self.cluster, error)

    # --- the repository ---

    def _open(self) -> pygit2.Repository:
        current = self._folder / "current"
        target = current.resolve()
        for path in self._folder.iterdir():
            if path not in (current, target):
                _remove(path)
        if target == current or not target.is_dir():
            return self._use(self._create())
        for lock in target.rglob("*.lock"):
            # We are the only process here, so a lock is what a killed one left.
            lock.unlink()
        try:
            return pygit2.Repository(str(target))
        except pygit2.GitError as error:
            log.error("slice store %s is broken and made anew: %s", target, error)
            return self._use(self._create())

    def _reread(self) -> Desired:
        """The slice that was current when the agent ended. Raises UnsupportedVersion after a downgrade."""
        if self._ref not in self._repo.references:
            return slice_reader.NOTHING
        commit = Oid(str(self._repo.references[self._ref].target))
        try:
            return slice_reader.read_slice(self._repo, commit, self.cluster, known=slice_reader.NOTHING)
        except UnsupportedVersion:
            raise
        except (Incomplete, ProtocolError) as error:
            # Only a broken disk does this: everything was checked and synced before the ref moved.
            log.error("slice store of cluster %s is broken and made anew: %s", self.cluster, error)
            self._use(self._create())
            return slice_reader.NOTHING

    def _create(self) -> pygit2.Repository:
        numbers = [int(path.stem) for path in self._folder.iterdir() if path.suffix == ".git" and path.stem.isdigit()]
        return pygit2.init_repository(str(self._folder / f"{max(numbers, default=0) + 1}.git"), bare=True)

    def _use(self, repo: pygit2.Repository) -> pygit2.Repository:
        """Make `repo` the one that counts, in one step, and remove the one before."""
        path = Path(repo.path)
        link = self._folder / "next"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        current = self._folder / "current"
        before = current.resolve()
        os.replace(link, current)
        self._repo = repo
        if before not in (current, path):
            _remove(before)
        return repo

    def _tidy(self) -> None:
        """Pack the current slice anew when many packs or loose objects have piled up. Keeps the history's commits,
        which fetches need, but none of the old trees and blobs."""
        objects = Path(self._repo.path) / "objects"
        packs = sum(1 for _ in objects.glob("pack/*.pack"))
        loose = sum(1 for _ in objects.glob("??/*"))
        if packs + loose // LOOSE_PER_PACK <= REPACK_FROM:
            return
        fresh = self._create()
        try:
            current = self._desired.commit

            def choose(pack: pygit2.PackBuilder) -> None:
                pack.add_recur(slice_reader.commit_of(self._repo, current).tree_id)
                pack.add(pygit2.Oid(hex=current))
                for parent, _ in slice_reader.ancestry(self._repo, current):
                    if parent:
                        pack.add(pygit2.Oid(hex=parent))

            self._repo.pack(str(Path(fresh.path) / "objects" / "pack"), pack_delegate=choose, n_threads=1)
            slice_reader.read_slice(fresh, current, self.cluster, known=slice_reader.NOTHING)
            fresh.references.create(self._ref, current)
            self._use(fresh)
            log.info("slice store of cluster %s was packed anew", self.cluster)
        finally:
            if self._repo is not fresh:
                _remove(Path(fresh.path))


# --- the outside: disk and Git host -------------------------------------------------------------------------------


class _Callbacks(pygit2.RemoteCallbacks):
    def __init__(self, cluster: str, token: str, abort: threading.Event) -> None:
        super().__init__()
        self._cluster = cluster
        self._token = token
        self._abort = abort
        self._asked = False

    def credentials(self, url: str, username_from_url: str | None, allowed_types: CredentialType) -> pygit2.UserPass:
        # libgit2 asks again for ever when the host refuses what it got.
        if self._asked or not self._token:
            raise _refused(self._cluster, "the Git host", 401)
        self._asked = True
        return pygit2.UserPass(self._cluster, self._token)

    def transfer_progress(self, stats: pygit2.remotes.TransferProgress) -> None:
        if self._abort.is_set():
            raise Transient(f"slice of cluster {self._cluster}", "was not fetched: the agent gave up waiting")
        if stats.received_bytes > MAX_FETCH_BYTES:
            raise TooLarge(f"slice of cluster {self._cluster}", f"has more than {MAX_FETCH_BYTES} bytes to fetch")


async def _ask(cluster: str, url: str, token: str) -> None:
    """The first request of a fetch, made before libgit2 makes it. Raises Refused, Transient or ProtocolError.

    libgit2 1.9 follows a redirect of it whatever it is told, crashes the process when the redirect leads nowhere, and
    tells an HTTP status only in words.
    """
    basic = base64.b64encode(f"{cluster}:{token}".encode()).decode()
    try:
        async with (
            aiohttp.ClientSession(
                trust_env=True, timeout=aiohttp.ClientTimeout(total=SERVER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
            ) as http,
            http.get(
                f"{url.rstrip('/')}/info/refs",
                params={"service": "git-upload-pack"},
                headers={"Authorization": f"Basic {basic}"} if token else {},
                allow_redirects=False,
            ) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _away(cluster, url, error) from error
    if status in (401, 403, 404) or 300 <= status < 400:
        raise _refused(cluster, url, status)
    if status != 200:
        raise _away(cluster, url, f"it answers with status {status}")


def _refused(cluster: str, host: str, status: int) -> Refused:
    remedy = {
        401: "the agent gets a token when it is connected to the hub",
        403: f"check that the hub's address is right and that the token is cluster {cluster}'s",
        404: "check the address of the slices",
    }.get(status, "redirects are not followed: give the agent the address that the host redirects to")
    return Refused(f"slice of cluster {cluster}", f"is not given out by {host} (status {status})", remedy)


def _away(cluster: str, url: str, error: object) -> Transient:
    return Transient(f"slice of cluster {cluster}", f"cannot be fetched from {url}: {error}")


@contextmanager
def _git_host(cluster: str, url: str) -> Iterator[None]:
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise _away(cluster, url, error) from error


@contextmanager
def _disk(thing: str) -> Iterator[None]:
    try:
        yield
    except (pygit2.GitError, OSError) as error:
        raise Transient(thing, f"cannot be read or written: {error}", "give it space and write access") from error


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
