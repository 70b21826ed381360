"""The slice repository: a bare Git repository whose objects are written by us and read through pygit2.

It holds every subtree that was rendered and every slice commit; `refs/heads/clusters/<name>` are copies of the
journal's pointers (design, decision 8). What it promises:

    write      all objects of one call are durable and visible, or none is; repeating it is harmless
    repack     objects are in the merged pack before the packs they came from go
    keep       every other pack goes, even if a kill comes between two of them
    set_refs   only forward along first parents and checkpoints, unless forced

Everything here blocks: call it from a worker thread or process. A lock file keeps writers of several processes apart;
readers need none. Assumes that nothing but this module and `garbage` writes to the repository. Composition is in
`compose`, serving in `git_http`, what wake-ups carry in `carrier`.
"""

import fcntl
import itertools
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import pygit2
from pygit2.enums import ObjectType

from hub import packs
from hub.slices import refs, trees
from hub.slices.lru import Lru
from hub.slices.packed import Found, Packed
from hub.slices.trees import KeySets, TreeEntry
from proto.errors import FlotillaError, Permanent
from proto.ids import ClusterName, Oid, check_name, slice_ref
from proto.objects import ObjectKey, git_id
from proto.slices import SLICE_FILE, SliceManifest, predecessor, read_manifest

MAX_PACKS = 50
"""From here on `repack` merges: every lookup that fails asks each pack."""
_TREE_ENTRIES_CACHED = 100_000
"""Some 15 MB, two hundred subtrees of 500 objects."""
_ENTRY_BYTES_CACHED = 64 << 20
"""Of compressed pack entries, a few hundred bytes each: the subtrees that a wave is fetching right now."""
_GIT_BYTES_CACHED = 16 << 20
"""Of objects that libgit2 keeps, by default 256 MB."""

_KINDS = {ObjectType.BLOB: "blob", ObjectType.TREE: "tree", ObjectType.COMMIT: "commit"}

V = TypeVar("V")


class GitStore:
    """One bare repository. Every method blocks; all but `create` and `open` may be called from several threads."""

    def __init__(self, path: Path) -> None:
        """Use `create` or `open`."""
        pygit2.settings.cache_max_size(_GIT_BYTES_CACHED)
        self.path = path
        self._packs = path / "objects" / "pack"
        self._writing = threading.RLock()
        self._keys = KeySets()
        self._entries: Lru[Oid, tuple[TreeEntry, ...]] = Lru(_TREE_ENTRIES_CACHED, lambda entries: len(entries) + 1)
        self._compressed: Lru[Oid, bytes] = Lru(_ENTRY_BYTES_CACHED, len)
        self._repo = self._opened()

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open the repository at `path`, made first if it is not there. Safe to repeat after a kill."""
        with packs.disk(path):
            for name in ("HEAD", "config"):  # libgit2 writes them under a lock, which stays when it is killed
                (path / f"{name}.lock").unlink(missing_ok=True)
            repo = pygit2.init_repository(str(path), bare=True)
            repo.config["gc.auto"] = 0  # git's own clean-up would drop subtrees that no commit names yet
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing repository and remove what a killed writer left. Raises Permanent, Transient."""
        store = cls(path)
        with store._exclusive():
            packs.sweep(store._packs)
            packs.sweep(store.path)
            folder = (store.path / slice_ref("any")).parent
            folder.mkdir(exist_ok=True)
            packs.sync_folder(folder.parent)
        return store

    def _opened(self) -> pygit2.Repository:
        self._packed = Packed(self._packs)
        try:
            return pygit2.Repository(str(self.path), pygit2.enums.RepositoryOpenFlag.BARE)
        except (pygit2.GitError, OSError) as error:
            raise Permanent(
                f"slice repository {self.path}", f"cannot be opened: {error}", "see that the folder is there and ours"
            ) from error

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One writer among all threads and processes. The kernel releases the lock of a killed process."""
        with self._writing, packs.disk(self.path), (self.path / "flotilla.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # --- objects ------------------------------------------------------------------------------------------------------

    def write(self, objects: Sequence[tuple[str, bytes]]) -> tuple[Oid, ...]:
        """Store (kind, data) pairs as one pack; gives their ids in order. Durable and readable on return.

        What exists already is skipped, also when it was given twice. Raises Transient when the disk refuses.
        """
        ids = tuple(git_id(kind, data) for kind, data in objects)
        with self._exclusive():
            # The repository itself looks into the folder once more for each object that is nowhere, as most are here.
            there = pygit2.OdbBackendPack(str(self._packs.parent))
            new = {oid: pair for oid, pair in zip(ids, objects, strict=True) if not there.exists(oid)}
            if new:
                entries = ((oid, packs.entry(kind, data)) for oid, (kind, data) in new.items())
                packs.write(self._packs, entries, count=len(new))
        return ids

    def repack(self) -> bool:
        """Merge small packs when there are more than MAX_PACKS; says whether it did.

        Each merge reads every object through pygit2, which checks its hash. Raises Permanent for a broken object, and
        then every pack stays.
        """
        with self._exclusive():
            found = packs.packs(self._packs)
            if len(found) <= MAX_PACKS:
                return False
            old = found[: packs.to_merge([pack.stat().st_size for pack in found])]
            oids = sorted({oid for pack in old for oid in packs.oids(pack)})
            merged = packs.write(self._packs, ((oid, packs.entry(*self.object(oid))) for oid in oids), count=len(oids))
            for pack in old:
                # After a kill in this loop the next merge may give the very pack that one of the old ones is.
                if pack != merged:
                    packs.remove(pack)
            self._repo = self._opened()
        return True

    def keep(self, names: Collection[str]) -> None:
        """Remove all packs but those of these file names, which hold everything that is still needed."""
        with self._exclusive():
            packs.remove_all(self._packs, [pack for pack in packs.packs(self._packs) if pack.name not in names])
            self._repo = self._opened()

    def reopen(self) -> None:
        """After another process merged packs."""
        self._repo = self._opened()

    @property
    def pack_sizes(self) -> list[int]:
        """Bytes of each pack, smallest first."""
        return [pack.stat().st_size for pack in packs.packs(self._packs)]

    def has(self, oid: Oid) -> bool:
        return bool(self._repo.odb.exists(oid))

    def read(self, oid: Oid) -> bytes:
        """The content of an object of any kind. Raises Permanent when it is missing or broken."""
        return self.object(oid)[1]

    def object(self, oid: Oid) -> tuple[str, bytes]:
        """Its kind, and its content. Raises Permanent when it is missing or broken."""
        try:
            kind, data = self._repo.odb.read(oid)
            return _KINDS[kind], data
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise _unreadable(oid) from error

    def size(self, oid: Oid) -> int:
        """How many bytes its content has. Raises Permanent when it is missing or broken."""
        try:
            return int(self._repo.odb.read_header(oid)[1])
        except (KeyError, pygit2.GitError) as error:
            raise _unreadable(oid) from error

    def _found(self, oid: Oid) -> Found:
        found = self._packed.find(oid)
        if found is None:
            kind, data = self.object(oid)
            found = Found(kind, data, packs.entry(kind, data))
        return found

    def entry(self, oid: Oid) -> bytes:
        """The object as an entry of a pack. Raises Permanent when it is missing or broken."""
        return self._compressed.get(oid, lambda oid: self._found(oid).entry)

    # --- trees --------------------------------------------------------------------------------------------------------

    def tree(self, oid: Oid) -> tuple[TreeEntry, ...]:
        """What is in a tree, kept for the next who asks. Raises Permanent."""
        return self._entries.get(oid, self._parse_tree)

    def _parse_tree(self, oid: Oid) -> tuple[TreeEntry, ...]:
        kind, data, entry = self._found(oid)
        if kind != "tree":
            raise Permanent(f"Git object {oid}", "is not a tree")
        self._compressed.get(oid, lambda _: entry)  # who asks what is in a tree mostly sends it
        return tuple([(_text(name), is_tree, Oid(raw.hex())) for is_tree, name, raw in trees.entries(data)])

    def _peeled(self, oid: Oid, kind: type[V]) -> V:
        try:
            found = self._repo[oid]
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise _unreadable(oid) from error
        if not isinstance(found, kind):
            raise Permanent(f"Git object {oid}", f"is not a {kind.__name__.lower()}")
        return found

    def files(self, tree: Oid) -> Mapping[str, Oid]:
        """Path → blob id of all files under a tree. Raises Permanent."""
        return dict(self._files(tree))

    def keys(self, subtree: Oid) -> frozenset[ObjectKey]:
        """The Kubernetes objects of a bundle's subtree. Raises Permanent, ProtocolError for a path that is none."""
        return self._keys.get(subtree, self._parse_keys)

    def _parse_keys(self, subtree: Oid) -> frozenset[ObjectKey]:
        return trees.keys_of(tuple(path for path, _ in self._files(subtree)))

    def _files(self, tree: Oid, prefix: str = "") -> Iterator[tuple[str, Oid]]:
        """Without the cache: very many trees are looked at once."""
        for is_tree, name, raw in trees.entries(self._peeled(tree, pygit2.Tree).read_raw()):
            path, oid = prefix + _text(name), Oid(raw.hex())
            if is_tree:
                yield from self._files(oid, f"{path}/")
            else:
                yield path, oid

    # --- commits ------------------------------------------------------------------------------------------------------

    def manifest(self, commit: Oid) -> SliceManifest:
        """What a slice commit says of itself. Raises Permanent, ProtocolError."""
        for name, is_tree, oid in self.tree(self._tree_of(commit)):
            if name == SLICE_FILE and not is_tree:
                return read_manifest(self.read(oid))
        raise Permanent(f"commit {commit}", f"is not a slice: it has no {SLICE_FILE}")

    def _tree_of(self, commit: Oid) -> Oid:
        return Oid(str(self._peeled(commit, pygit2.Commit).tree_id))

    def history(self, commit: Oid) -> Iterator[Oid]:
        """`commit` and its ancestors along first parents, newest first. Raises Permanent."""
        at: Oid | None = commit
        while at is not None:
            yield at
            parents = self._peeled(at, pygit2.Commit).parent_ids
            at = Oid(str(parents[0])) if parents else None

    def whole_history(self, commit: Oid) -> Iterator[Oid]:
        """As `history`, and on across checkpoints, as far as what they cut off is kept."""
        before: Oid | None = commit
        while before is not None and self.has(before):
            for at in self.history(before):
                yield at
            cut = predecessor(self._peeled(at, pygit2.Commit).message)
            before = None if cut is None else Oid(cut)

    def time_s(self, commit: Oid) -> int:
        """When a commit was made, by its committer; Unix seconds. Raises Permanent."""
        return int(self._peeled(commit, pygit2.Commit).commit_time)

    def missing(self, wants: Iterable[Oid], haves: Iterable[Oid]) -> Iterator[Oid]:
        """The commits, then the trees, then the blobs that are reachable from the commits `wants` and not from `haves`.

        As in git, an object that is in neither a wanted commit's own history down to the nearest `have` nor in a `have`
        itself, but only in an older ancestor of one, is named although the other side has it: a rollback sends its
        trees again. Raises Permanent.
        """
        haves = tuple(haves)
        return self.objects_of(self._missing_commits(wants, haves), haves)

    def objects_of(self, commits: Iterable[Oid], haves: Iterable[Oid]) -> Iterator[Oid]:
        """`commits`, then the trees, then the blobs that are in one of them and not in one of `haves`."""
        commits = tuple(commits)
        known: set[Oid] = set()
        for _ in self._walk(map(self._tree_of, haves), known):
            pass
        yield from commits
        blobs: list[Oid] = []
        for is_tree, oid in self._walk(map(self._tree_of, commits), known):
            if is_tree:
                yield oid
            else:
                blobs.append(oid)
        yield from blobs

    def _missing_commits(self, wants: Iterable[Oid], haves: Sequence[Oid]) -> Iterable[Oid]:
        stop = set(haves)
        behind: set[Oid] = set()
        found: dict[Oid, None] = {}
        for want in wants:
            way: list[Oid] = []
            for commit in self.history(want):
                if commit in stop or commit in behind or commit in found:
                    break
                way.append(commit)
            else:
                # It met no `have`, so it may lie behind one: someone wants an older slice than they have.
                for have in haves:
                    behind.update(itertools.takewhile(lambda commit: commit not in behind, self.history(have)))
                way = [commit for commit in way if commit not in behind]
            found.update(dict.fromkeys(way))
        return found

    def _walk(self, trees: Iterable[Oid], seen: set[Oid]) -> Iterator[tuple[bool, Oid]]:
        """(is it a tree, id) of all trees and blobs under `trees` that are not in `seen`, which grows by them."""
        todo = [(True, tree) for tree in trees]
        for at in todo:
            is_tree, oid = at
            if oid in seen:
                continue
            seen.add(oid)
            yield at
            if is_tree:
                todo.extend([(is_tree, oid) for _, is_tree, oid in self.tree(oid) if oid not in seen])

    # --- refs ---------------------------------------------------------------------------------------------------------

    def ref(self, cluster: str) -> Oid | None:
        """Where the cluster's ref is, or None. Raises Permanent when it cannot be read."""
        try:
            return Oid(str(self._repo.references[slice_ref(check_name("cluster", cluster))].target))
        except KeyError:
            return None
        except (ValueError, pygit2.GitError) as error:
            raise Permanent(
                f"ref of cluster {cluster}",
                f"cannot be read: {error}",
                "restore slices.git and journal.db from one moment",
            ) from error

    def clusters(self) -> list[ClusterName]:
        """The clusters that have a ref."""
        prefix = slice_ref("")
        names = (str(name) for name in self._repo.references)
        return sorted(ClusterName(name.removeprefix(prefix)) for name in names if name.startswith(prefix))

    def set_ref(self, cluster: str, commit: Oid, *, force: bool = False) -> None:
        """As `set_refs`, for one cluster. Raises what keeps its ref where it is."""
        for error in self.set_refs({cluster: commit}, force=force).values():
            raise error

    def set_refs(self, commits: Mapping[str, Oid], *, force: bool = False) -> dict[str, FlotillaError]:
        """Move each cluster's ref to its commit, durably; gives why others stay where they are. A repetition changes
        nothing. A ref stays, unless forced, when it is not on the way that leads to the commit.

        Raises Transient when the disk refuses; some may be moved then.
        """
        refused: dict[str, FlotillaError] = {}
        moved: dict[str, Oid] = {}
        with self._exclusive():
            for cluster, commit in commits.items():
                try:
                    if self._moves(cluster, commit, force=force):
                        moved[slice_ref(cluster)] = commit
                except FlotillaError as error:
                    refused[cluster] = error
            refs.write(self.path, moved)
        return refused

    def _moves(self, cluster: str, commit: Oid, *, force: bool) -> bool:
        """Whether the ref has to be written. Raises Permanent when it may not."""
        check_name("cluster", cluster)
        self._tree_of(commit)
        old = None if force else self.ref(cluster)
        if old is not None and old not in self.whole_history(commit):
            raise Permanent(
                f"ref of cluster {cluster}",
                f"is at {old}, which is no ancestor of {commit}",
                "the database is older than the agents: restore journal.db and slices.git from one moment, "
                "or run 'flotilla hub recover'",
            )
        return old != commit


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _unreadable(oid: Oid) -> Permanent:
    return Permanent(f"Git object {oid}", "is missing or broken in the slice repository", "run 'git fsck' there")
