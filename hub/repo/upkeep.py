"""The mirror's packs stay few, and what a killed fetch left behind goes.

Each fetch that brings something adds a pack, and libgit2 never merges them: with a thousand a fetch took a second, and
a process may have few more files open. So before a fetch, when there are many, the smaller ones become one
(`packs.to_merge`); objects stay deltas, and none is dropped. Whoever reads meanwhile looks again where they are now.
Assumes that nobody else fetches into the mirror. Next: `sync`.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pygit2

from hub import packs
from proto import packfile
from proto.errors import Permanent

log = logging.getLogger("flotilla.hub")

MAX_PACKS = 50


def tidy(repo: pygit2.Repository) -> None:
    """Do what is due. What keeps it from being done is no reason not to fetch, so nothing is raised."""
    folder = Path(repo.path, "objects/pack")
    try:
        packfile.sweep(folder)
        for lock in Path(repo.path).rglob("*.lock"):
            lock.unlink()  # nobody lets go a lock of a killed process, and no ref would ever move again
        found = packs.packs(folder)
        if len(found) > MAX_PACKS:
            _merge(repo, folder, found[: packs.to_merge([pack.stat().st_size for pack in found])])
    except (OSError, pygit2.GitError, Permanent) as error:
        log.warning("mirror %s is not tidied: %s", repo.path, error)


def _merge(repo: pygit2.Repository, folder: Path, old: Sequence[Path]) -> None:
    """The new pack is there and durable before the old ones go; a kill between leaves both."""
    builder = pygit2.PackBuilder(repo)
    for oid in {oid for pack in old for oid in packs.oids(pack)}:
        builder.add(pygit2.Oid(hex=oid))
    with tempfile.TemporaryDirectory(prefix=packs.UNFINISHED, dir=folder) as made:
        builder.write(made)
        for suffix in ("pack", "idx"):  # readers look for the latter
            (file,) = Path(made).glob(f"*.{suffix}")
            file.rename(folder / file.name)
        packs.sync_folder(folder)
    for pack in old:
        if pack.stem != file.stem:
            packs.remove(pack)
