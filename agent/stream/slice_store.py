"""The repository that holds the agent's slice: opened, mended, packed anew, replaced as a whole.

It is bare and lives in `slices/<n>.git` of the state folder; the link `slices/current` names the one in use and is
replaced in one step when the objects are packed anew or cloned anew. A kill at any point leaves the old one or the new
one. Assumes one process per state folder, and that `receive` says which commit counts.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pygit2
from pygit2.enums import ConfigLevel

from agent.stream import git_host, slice_reader
from proto import packfile
from proto.errors import Transient
from proto.ids import Oid, slice_ref

REPACK_FROM: Final = 50
"""Packs, or wake-ups' loose objects divided by `LOOSE_PER_PACK`, that make a repack worth its while."""
LOOSE_PER_PACK: Final = 20

log = logging.getLogger(__name__)


def configure_libgit2() -> None:
    """Process-wide settings of libgit2: small caches and maps, timeouts (the default is none), durable writes.

    A slice of 500 objects needs none of the 256 MB of cache and 8 GB of maps that libgit2 would take.
    """
    settings = pygit2.settings
    settings.mwindow_size = 1 << 20
    settings.mwindow_mapped_limit = 16 << 20
    settings.cache_max_size(4 << 20)
    settings.server_connect_timeout = git_host.CONNECT_TIMEOUT_S * 1000
    settings.server_timeout = git_host.SERVER_TIMEOUT_S * 1000
    settings.enable_fsync_gitdir(True)
    # The state folder is a volume whose owner is not the agent's user, and a user's Git configuration is not ours.
    settings.owner_validation = False
    for level in (ConfigLevel.SYSTEM, ConfigLevel.GLOBAL, ConfigLevel.XDG):
        settings.search_path[level] = ""


class SliceStore:
    """The slice of `cluster` in `folder`. Opening it puts right what a kill left. Everything blocks and may raise what
    the disk raises: use it within `disk`."""

    def __init__(self, folder: Path, cluster: str) -> None:
        configure_libgit2()
        self.ref = slice_ref(cluster)
        self._cluster = cluster
        self._folder = folder
        with self.disk():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.repo = self._open()

    @property
    def commit(self) -> Oid | None:
        """The commit that counted last, as the disk has it."""
        if self.ref not in self.repo.references:
            return None
        return Oid(str(self.repo.references[self.ref].target))

    @contextmanager
    def disk(self) -> Iterator[None]:
        """Raises what the disk does not do as Transient."""
        try:
            yield
        except (pygit2.GitError, OSError) as error:
            thing = f"slice store {self._folder}"
            raise Transient(thing, f"cannot be read or written: {error}", "give it space and write access") from error

    def advance(self, commit: Oid) -> None:
        """Have `commit`, whose objects are here, count from now on."""
        self.repo.references.create(self.ref, commit, force=True)

    def create(self) -> pygit2.Repository:
        """An empty repository beside the one in use: to be given to `use`, or to `discard`."""
        numbers = [int(path.stem) for path in self._folder.iterdir() if path.suffix == ".git" and path.stem.isdigit()]
        path = self._folder / f"{max(numbers, default=0) + 1}.git"
        try:
            return pygit2.init_repository(str(path), bare=True)
        except pygit2.GitError:
            _remove(path)  # on a full disk each try would leave one behind
            raise

    def use(self, repo: pygit2.Repository) -> None:
        """Make `repo` the one that counts, in one step, and remove the one before."""
        path = Path(repo.path)
        link = self._folder / "next"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        current = self._folder / "current"
        before = current.resolve()
        os.replace(link, current)
        self.repo = repo
        if before not in (current, path):
            _remove(before)

    def discard(self, repo: pygit2.Repository) -> None:
        """Remove what `create` gave, unless it is in use."""
        if repo is not self.repo:
            _remove(Path(repo.path))

    def reset(self) -> None:
        """Begin anew with an empty repository."""
        self.use(self.create())

    def tidy(self, commit: Oid) -> None:
        """Pack the slice at `commit` anew when many packs or loose objects have piled up. Keeps the history's commits,
        which fetches need, but none of the old trees and blobs. Raises Incomplete when some object is not here."""
        objects = Path(self.repo.path) / "objects"
        packs = sum(1 for _ in objects.glob("pack/*.pack"))
        loose = sum(1 for _ in objects.glob("??/*"))
        if packs + loose // LOOSE_PER_PACK <= REPACK_FROM:
            return
        before, fresh = self.repo, self.create()
        try:

            def choose(pack: pygit2.PackBuilder) -> None:
                pack.add_recur(slice_reader.commit_of(before, commit).tree_id)
                pack.add(pygit2.Oid(hex=commit))
                for parent, _ in slice_reader.ancestry(before, commit):
                    if parent:
                        pack.add(pygit2.Oid(hex=parent))

            before.pack(str(Path(fresh.path) / "objects" / "pack"), pack_delegate=choose, n_threads=1)
            slice_reader.read_slice(fresh, commit, self._cluster, known=slice_reader.NOTHING)
            fresh.references.create(self.ref, commit)
            self.use(fresh)
            log.info("slice store of cluster %s was packed anew", self._cluster)
        finally:
            self.discard(fresh)

    def _open(self) -> pygit2.Repository:
        current = self._folder / "current"
        target = current.resolve()
        for path in self._folder.iterdir():
            if path not in (current, target):
                _remove(path)
        if target != current and target.is_dir():
            for lock in target.rglob("*.lock"):
                # We are the only process here, so a lock is what a killed one left.
                lock.unlink()
            if (packs := target / "objects/pack").is_dir():
                packfile.sweep(packs)
            try:
                return pygit2.Repository(str(target))
            except pygit2.GitError as error:
                log.error("slice store %s is broken and made anew: %s", target, error)
        self.reset()
        return self.repo


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
