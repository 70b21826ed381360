"""The trees of sources from outside that are in use, each a bare Git repository of its own, named by its id.

    sources/<tree id>/       all objects of that tree, in one pack

A tree is complete from the moment its folder has its name, and goes as a whole, so nothing needs refs or a collection
of garbage; what two versions of a source share is there twice. The folder is a cache of what pins name by digest: a
lost one is fetched again. Next: `mounts` reads it.
"""

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import pygit2

from hub.repo.mounts import Mount
from proto.ids import Oid, is_oid


def has(store: Path, tree: Oid) -> bool:
    return (store / tree).is_dir()


def mount(store: Path, tree: Oid, *, whole: bool = False) -> Mount:
    return Mount(repo=store / tree, tree=tree, whole=whole)


def keep(store: Path, scratch: pygit2.Repository, tree: Oid) -> None:
    """Bring a tree from the repository it was fetched into, durably. May be done twice, by two at once too."""
    if has(store, tree):
        return
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=store, ignore_cleanup_errors=True) as made:
        repo = Path(made, "git")
        pygit2.init_repository(str(repo), bare=True)
        builder = pygit2.PackBuilder(scratch)
        builder.add_recur(pygit2.Oid(hex=tree))
        builder.write(repo / "objects/pack")
        _sync(repo / "objects/pack")
        try:
            repo.rename(store / tree)
        except OSError:
            if not has(store, tree):
                raise
    _sync(store)


def prune(store: Path, used: Collection[Oid]) -> None:
    """Remove every other tree, and what a killed fetch left behind; nobody may be fetching."""
    if not store.is_dir():
        return
    for folder in store.iterdir():
        if folder.name.startswith(".new-") or (is_oid(folder.name) and folder.name not in used):
            doomed = folder.rename(folder.with_name(f".new-{folder.name}")) if is_oid(folder.name) else folder
            shutil.rmtree(doomed, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
