"""The agent's store: which objects are ours, what each was after our last write, and which slice was taken up.

Kept in memory and written behind to SQLite, in one transaction for each `save`. What enters and what leaves:

    what happens                                       entry                                        saved
    an object is about to be applied the first time    enters, without blob and baseline            before the apply
    … to be applied again, deleted or let go           is marked unsettled                          before the request
    its apply was answered                             gets blob and baseline, is settled           after the pass
    its apply was refused                              stays as it was, is settled                  after the pass
    nobody knows what came of its apply                stays as it was, unsettled                   after the pass
    an event without suspicion, a confirmed drift      gets a baseline                              after the pass
    it moved to another bundle                         gets the other bundle                        after the pass
    it was deleted by somebody else                    stays, without baseline                      after the pass
    it was pruned and is gone                          leaves                                       after the pass
    it was let go (prune: false, not ours any more)    leaves                                       after the pass

So after a crash at any point every object that we may have made is known. The store is a cache of what the cluster can
tell: when the file is missing, corrupt, of another format, not writable or the disk is full, the agent goes on from
memory, `problem` says so, and the next `save` tries again with everything. Health is not stored, the watches tell it:
only of what finished, and may be gone, is its last word kept. Assumes one process per file. Next: `plan` reads it,
`apply` and `revert` change it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from sys import intern
from typing import Any, Final, Self

import anyio
import anyio.to_thread
import msgspec

from agent.model import Baseline, Entry
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey

FORMAT: Final = 2
"""Of the file, in SQLite's user_version; a file of another one is put aside."""

_TABLES = """
CREATE TABLE object (
    "group" TEXT, kind TEXT, namespace TEXT, name TEXT,
    bundle TEXT NOT NULL, api_version TEXT NOT NULL, blob TEXT NOT NULL,
    unsettled INTEGER NOT NULL, finished TEXT NOT NULL, baseline BLOB,
    PRIMARY KEY ("group", kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE bundle (name TEXT PRIMARY KEY, "commit" TEXT NOT NULL, subtree TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE slice (id INTEGER PRIMARY KEY CHECK (id = 0), "commit" TEXT NOT NULL, seq INTEGER NOT NULL);
"""

_ObjectRow = tuple[str, str, str, str, str, str, str, bool, str, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What of a bundle was applied last, completely: its subtree, and the slice commit that it came with."""

    commit: Oid
    subtree: Oid


class Inventory:
    """`entries`, `applied`, `commit` and `seq` are for reading; change them by the methods, then `save`."""

    def __init__(self, path: Path | None) -> None:
        """With the contents of the file at `path`; None keeps everything in memory only. Blocks for milliseconds."""
        self.problem = ""
        self.commit = Oid("")
        self.seq = 0
        self._path = path
        self._entries: dict[ObjectKey, Entry] = {}
        self._applied: dict[str, Applied] = {}
        self._changed: set[ObjectKey] = set()
        self._changed_bundles: set[str] = set()
        self._slice_changed = False
        self._saving = anyio.Lock()
        self._db: sqlite3.Connection | None = None
        if path is not None:
            self._load(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Without a save; once is enough."""
        if self._db is not None:
            self._db.close()
            self._db = None

    # --- objects and bundles --------------------------------------------------------------------------------------

    @property
    def entries(self) -> Mapping[ObjectKey, Entry]:
        return self._entries

    @property
    def applied(self) -> Mapping[str, Applied]:
        return self._applied

    def put(self, entry: Entry) -> None:
        """Add an entry, or say that this one was changed."""
        self._entries[entry.key] = entry
        self._changed.add(entry.key)

    def drop(self, key: ObjectKey) -> None:
        """The object is gone, or was let go."""
        if self._entries.pop(key, None) is not None:
            self._changed.add(key)

    def bundle_applied(self, bundle: str, applied: Applied | None) -> None:
        """None: nothing of the bundle is left."""
        if applied is None:
            self._applied.pop(bundle, None)
        else:
            self._applied[bundle] = applied
        self._changed_bundles.add(bundle)

    def slice_taken_up(self, commit: Oid, seq: int) -> None:
        self.commit, self.seq = commit, seq
        self._slice_changed = True

    # --- the file -------------------------------------------------------------------------------------------------

    async def save(self) -> bool:
        """Write what changed, in one transaction; False when that failed (`problem` says why, nothing is lost).

        What is changed while this runs belongs to the next save.
        """
        if self._path is None:
            return True
        async with self._saving:
            if self._db is None:
                # A new file, or one that gave an error: it gets everything.
                self._changed |= self._entries.keys()
                self._changed_bundles |= self._applied.keys()
                self._slice_changed = True
            if self._db is not None and not (self._changed or self._changed_bundles or self._slice_changed):
                return True
            changed, self._changed = self._changed, set()
            bundles, self._changed_bundles = self._changed_bundles, set()
            slices, self._slice_changed = self._slice_changed, False
            rows = [_row(self._entries[key]) for key in changed if key in self._entries]
            gone = [_identity(key) for key in changed if key not in self._entries]
            applied = [(name, *astuple(self._applied[name])) for name in bundles if name in self._applied]
            removed = [(name,) for name in bundles if name not in self._applied]
            position = (self.commit, self.seq) if slices else None
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._write, rows, gone, applied, removed, position)
            except (sqlite3.Error, OSError) as error:
                self._changed |= changed
                self._changed_bundles |= bundles
                self._slice_changed |= slices
                self._broken(error)
                return False
            self.problem = ""
            return True

    def _write(
        self,
        rows: list[_ObjectRow],
        gone: Iterable[tuple[str, ...]],
        applied: Iterable[tuple[str, ...]],
        removed: Iterable[tuple[str]],
        position: tuple[str, int] | None,
    ) -> None:
        if self._db is None:
            assert self._path is not None
            self._db = _create(self._path)
        with self._db as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            db.executemany(
                'DELETE FROM object WHERE "group" = ? AND kind = ? AND namespace = ? AND name = ?', list(gone)
            )
            db.executemany("INSERT OR REPLACE INTO bundle VALUES (?, ?, ?)", list(applied))
            db.executemany("DELETE FROM bundle WHERE name = ?", list(removed))
            if position is not None:
                db.execute("INSERT OR REPLACE INTO slice VALUES (0, ?, ?)", position)

    def _broken(self, error: Exception) -> None:
        self.problem = (
            f"inventory {self._path}: cannot be written: {error} (the agent goes on from memory; check the volume)"
        )
        # A full disk heals in place; a file that is damaged is put aside, and written anew by the next save.
        code = getattr(error, "sqlite_errorcode", None)
        if self._db is not None and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY):
            self.close()

    def _load(self, path: Path) -> None:
        try:
            if not path.exists() or not path.stat().st_size:
                self._db = _create(path)
                return
            self._db = _open(path)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version != FORMAT:
                raise sqlite3.DatabaseError(f"has format {version}, this agent knows {FORMAT}")
            self._entries = dict(_entries(self._db.execute("SELECT * FROM object")))
            for name, commit, subtree in self._db.execute("SELECT * FROM bundle"):
                self._applied[name] = Applied(commit=Oid(commit), subtree=Oid(subtree))
            for _, commit, seq in self._db.execute("SELECT * FROM slice"):
                self.commit, self.seq = Oid(commit), seq
        except (sqlite3.Error, OSError, msgspec.DecodeError, ValueError, TypeError) as error:
            self.close()
            self._entries, self._applied, self.commit, self.seq = {}, {}, Oid(""), 0
            self.problem = (
                f"inventory {path}: cannot be read: {error} (the agent begins anew and looks at every object once)"
            )


def _open(path: Path) -> sqlite3.Connection:
    # Saves run in a worker thread, one at a time.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # FULL: an object that we are about to make must be known after a power cut.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -256")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _create(path: Path) -> sqlite3.Connection:
    """A new, empty file; one that stands in its place is put aside, for a person to look at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(path.with_name(path.name + suffix + ".bad"))
    db = _open(path)
    try:
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _identity(key: ObjectKey) -> tuple[str, str, str, str]:
    return key.group, key.kind, key.namespace, key.name


def _row(entry: Entry) -> _ObjectRow:
    known = None if entry.baseline is None else msgspec.msgpack.encode(astuple(entry.baseline))
    finished = str(entry.health) if entry.finished else ""
    return (*_identity(entry.key), entry.bundle, entry.api_version, entry.blob, entry.unsettled, finished, known)


_BaselineRow = tuple[str, str, int, int, int | None, int]
_decode_baseline = msgspec.msgpack.Decoder(type=_BaselineRow).decode


def _entries(rows: Iterable[Any]) -> Iterator[tuple[ObjectKey, Entry]]:
    for group, kind, namespace, name, bundle, api_version, blob, unsettled, finished, known in rows:
        # Thousands of rows have these few words: interned, each is in memory once.
        key = ObjectKey(intern(group), intern(kind), intern(namespace), name)
        yield (
            key,
            Entry(
                key=key,
                bundle=intern(bundle),
                api_version=intern(api_version),
                blob=blob,
                unsettled=bool(unsettled),
                finished=bool(finished),
                baseline=_baseline(known),
                health=Health(finished) if finished else Health.UNKNOWN,
                reason="Finished" if finished else "",
            ),
        )


def _baseline(data: bytes | None) -> Baseline | None:
    if data is None:
        return None
    uid, resource_version, generation, managed, own, status = _decode_baseline(data)
    return Baseline(
        uid=uid, resource_version=resource_version, generation=generation, managed=managed, own=own, status=status
    )
