"""The slices of one cluster, read for people: from a repository, or from a running hub.

Only reads, by Git itself. A slice commit is named by its number (`12`), by how far it is behind the newest (`~1`), or
by the beginning of its id; another cluster's commits are refused. Nothing of it is believed: what is no slice is an
error. Next: `slices` shows them.
"""

import itertools
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import click
import pygit2

from hub import scratch
from hub.cli import telling
from hub.cli.asking import HubApi
from hub.cli.revisions import Failed
from proto import git_bundle, packfile, packs
from proto.errors import FlotillaError
from proto.ids import slice_ref
from proto.slices import SLICE_FILE, SliceManifest, predecessor, read_manifest

_FILE, _FOLDER = 0o100644, 0o040000
_MAX_DEPTH = 8
"""A slice's files lie five folders deep."""
_MAX_OBJECT_BYTES: Final = 8 << 20
_MAX_BYTES: Final = 4 << 30
"""Of all objects of a history, inflated."""


class History:
    """The slices of one cluster. Everything raises Failed."""

    def __init__(self, repo: pygit2.Repository, cluster: str, tip: str) -> None:
        """Use `in_repository` or `at_hub`."""
        self._repo = repo
        self._cluster = cluster
        self._tip = self._commit(tip)

    @classmethod
    def in_repository(cls, path: Path, cluster: str) -> Self:
        """As the hub's slice repository, or a clone or mirror of it, has it."""
        pygit2.settings.owner_validation = False  # as in `revisions`
        try:
            repo = pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
        except (pygit2.GitError, OSError) as error:
            raise Failed(f"{path} is not a Git repository (use --repo, slices.git of the hub's data folder)") from error
        refs = list(repo.references)
        ref = slice_ref(cluster)
        found = [name for name in (ref, ref.replace("refs/heads/", "refs/remotes/origin/")) if name in refs]
        if not found:
            known = [name.rpartition("clusters/")[2] for name in refs if "clusters/" in name]
            raise Failed(f"{path} has no slice of cluster {cluster!r}{telling.near(cluster, known)}")
        return cls(repo, cluster, str(repo.references[found[0]].target))

    @classmethod
    @contextmanager
    def at_hub(cls, api: HubApi, cluster: str) -> Iterator[Self]:
        """As a running hub has it: all of it is fetched, as a bundle, and is gone again afterwards."""
        try:
            data = api.download(f"clusters/{urllib.parse.quote(cluster, safe='')}/bundle", {"history": True})
        except click.ClickException as error:
            raise Failed(error.message) from error
        with scratch.folder("slice") as folder:
            try:
                header = git_bundle.read_header(data)
                repo = pygit2.init_repository(str(folder), bare=True)
                pack = memoryview(data)[header.pack_at :]
                entries = packs.unpacked_entries(
                    pack, bases=lambda _: None, max_object_bytes=_MAX_OBJECT_BYTES, max_bytes=_MAX_BYTES
                )
                packfile.write(folder / "objects/pack", entries, count=packs.count(pack))
                tip = header.refs[slice_ref(cluster)]
            except (FlotillaError, KeyError) as error:
                raise Failed(f"what the hub answers is no slice of {cluster}: {error}") from error
            yield cls(repo, cluster, tip)

    def commits(self) -> Iterator[pygit2.Commit]:
        """Newest first, on across checkpoints as far as what they cut off is kept."""
        at: pygit2.Commit | None = self._tip
        while at is not None:
            yield at
            before = str(at.parent_ids[0]) if at.parent_ids else predecessor(at.message)
            at = self._commit(before) if before is not None and before in self._repo else None

    def named(self, name: str) -> pygit2.Commit:
        """The commit of that name, the newest for "". Raises Failed for one that is not this cluster's."""
        if not name:
            return self._tip
        if name.startswith("~") and name[1:].isdecimal():
            found = next(itertools.islice(self.commits(), int(name[1:]), None), None)
        else:
            number = int(name.removeprefix("#")) if name.removeprefix("#").isdecimal() and len(name) < 10 else -1
            found = next(
                (
                    commit
                    for commit in self.commits()
                    if (number >= 0 and self.manifest(commit).seq == number)
                    or (len(name) > 3 and str(commit.id).startswith(name.lower()))
                ),
                None,
            )
        if found is None:
            newest = self.manifest(self._tip).seq
            raise Failed(
                f"cluster {self._cluster} has no slice {name!r}: name its number (the newest is {newest}), ~N or id"
            )
        return found

    def manifest(self, commit: pygit2.Commit) -> SliceManifest:
        try:
            return read_manifest(self._blob(commit.tree[SLICE_FILE]))
        except (KeyError, FlotillaError) as error:
            raise Failed(f"commit {commit.id} is not a slice: {error}") from error

    def files(self, commit: pygit2.Commit) -> Mapping[str, bytes]:
        """Path → content."""
        return dict(self._files(commit.tree, ""))

    def _files(self, tree: pygit2.Tree, at: str) -> Iterator[tuple[str, bytes]]:
        for entry in tree:
            name = entry.name or ""
            path = f"{at}{name}"
            if name in ("", ".", "..") or name.lower() == ".git" or "/" in name or path.count("/") > _MAX_DEPTH:
                raise Failed(f"the slice holds the name {telling.printable(path[:200])!r}, which no slice has")
            if int(entry.filemode) == _FOLDER and isinstance(entry, pygit2.Tree):
                yield from self._files(entry, f"{path}/")
            elif int(entry.filemode) == _FILE:
                yield path, self._blob(entry)
            else:
                raise Failed(f"the slice's {telling.printable(path[:200])} is neither a file nor a folder")

    def _blob(self, found: pygit2.Object) -> bytes:
        if not isinstance(found, pygit2.Blob):
            raise Failed(f"Git object {found.id} is not a file")
        return found.data

    def _commit(self, oid: str) -> pygit2.Commit:
        try:
            return self._repo[oid].peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise Failed(f"Git object {oid} is missing or broken (run 'git fsck' there)") from error
