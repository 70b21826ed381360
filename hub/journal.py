"""The hub's database: hard state in SQLite, `synchronous=FULL` (design, decisions 8 and 9).

Owns the tables and nothing else: no rule of a rollout, no Git. The database is the truth; Git refs, wake-ups and what
people see are copies that can be made again. `commit` is the one transaction of a decision: rollout states, moves and
the clusters' slice pointers (compare-and-swap on the old commit), all or nothing, and only while this process still
holds the epoch that it took when it opened the journal.

All methods block for as long as a disk does; the loop calls `commit` in a thread, the short reads directly. Long, so
that one module knows every table. Next: `loop`.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import orjson

from hub.model import Notes, Pin
from proto.errors import FlotillaError, Permanent, Refused, Transient
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.slices import SliceManifest

NUMBERS = "rollout-numbers"
"""The word of `meta` for the highest number of a rollout that was given and has no row: `recovery` sets it."""

EVENTS_KEPT = 20_000
"""About a week of a busy fleet, 10 MB; older ones are dropped."""

_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE slices(
    cluster TEXT PRIMARY KEY, seq INTEGER NOT NULL, commit_id TEXT NOT NULL, time_s INTEGER NOT NULL,
    manifest BLOB NOT NULL
) STRICT;
CREATE TABLE moves(
    cluster TEXT NOT NULL, seq INTEGER NOT NULL, old_commit TEXT NOT NULL, new_commit TEXT NOT NULL,
    time_s INTEGER NOT NULL, causes BLOB NOT NULL, PRIMARY KEY(cluster, seq)
) STRICT;
CREATE INDEX moves_by_commit ON moves(new_commit);
CREATE TABLE rollouts(
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, alive INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE INDEX rollouts_alive ON rollouts(alive) WHERE alive = 1;
CREATE TABLE last_good(
    cluster TEXT NOT NULL, bundle TEXT NOT NULL, subtree TEXT NOT NULL, PRIMARY KEY(cluster, bundle)
) STRICT;
CREATE TABLE completed(
    bundle TEXT NOT NULL, cluster TEXT NOT NULL, subtree TEXT NOT NULL, PRIMARY KEY(bundle, cluster)
) STRICT;
CREATE TABLE holds(
    bundle TEXT PRIMARY KEY, rollout TEXT NOT NULL, reason TEXT NOT NULL, time_s REAL NOT NULL, refused BLOB NOT NULL
) STRICT;
CREATE TABLE renders(
    key TEXT PRIMARY KEY, bundle TEXT NOT NULL, subtree TEXT NOT NULL, revision TEXT NOT NULL
) STRICT;
CREATE INDEX renders_by_subtree ON renders(subtree);
CREATE TABLE join_tokens(
    id TEXT PRIMARY KEY, cluster TEXT NOT NULL, mac_key BLOB NOT NULL, expires_s REAL NOT NULL, used_s REAL,
    used_by TEXT
) STRICT;
CREATE TABLE agents(cluster TEXT PRIMARY KEY, public_key TEXT NOT NULL, enrolled_s REAL NOT NULL) STRICT;
CREATE TABLE events(
    id INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, kind TEXT NOT NULL, cluster TEXT NOT NULL,
    bundle TEXT NOT NULL, rollout TEXT NOT NULL, text TEXT NOT NULL, data BLOB NOT NULL, dedup TEXT UNIQUE
) STRICT;
"""
_DIRECTIVES = """
CREATE TABLE directives(
    kind TEXT NOT NULL, cluster TEXT NOT NULL, bundle TEXT NOT NULL, why TEXT NOT NULL, time_s REAL NOT NULL,
    value REAL NOT NULL, PRIMARY KEY(kind, cluster, bundle)
) STRICT;
"""
_NOTES = """
CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
ALTER TABLE renders ADD COLUMN notes INTEGER;
CREATE INDEX renders_by_notes ON renders(notes) WHERE notes IS NOT NULL;
CREATE TRIGGER notes_go_with_their_renders AFTER DELETE ON renders
WHEN old.notes IS NOT NULL AND NOT EXISTS (SELECT 1 FROM renders WHERE notes = old.notes)
BEGIN DELETE FROM notes WHERE id = old.notes; END;
"""
"""Many clusters' renders say the same, so each text is there once."""
_PINS = """
CREATE TABLE pins(
    bundle TEXT PRIMARY KEY, folder TEXT NOT NULL, source TEXT NOT NULL, revision TEXT NOT NULL, digest TEXT NOT NULL,
    tree TEXT NOT NULL, time_s REAL NOT NULL
) STRICT;
"""
_SCHEMAS = (_TABLES, _DIRECTIVES, _NOTES, _PINS)
"""What each schema version adds to the one before; a released one never changes."""
SCHEMA = len(_SCHEMAS)
_SILENT = Notes()


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """Where one cluster's slice is. `time_s` is the committer time of `commit`."""

    cluster: ClusterName
    seq: int
    commit: Oid
    time_s: int
    manifest: SliceManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRow:
    """One slice commit: `causes` are (bundle, subtree, rollout, wave) of what it changed."""

    cluster: ClusterName
    seq: int
    old: Oid | None
    new: Oid
    time_s: int
    manifest: SliceManifest
    causes: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """A rollout's state as bytes of `rollouts_json`; `alive` while `decide` may still change it."""

    number: int
    id: RolloutId
    phase: str
    alive: bool
    state: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something that happened. `dedup`, when not "", keeps an event told twice from being stored twice."""

    time_s: float
    kind: str
    text: str
    cluster: str = ""
    bundle: str = ""
    rollout: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    dedup: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """A bundle on hold; `refused` are the subtrees per cluster that failed and must not be tried again."""

    bundle: BundleName
    rollout: RolloutId
    reason: str
    time_s: float
    refused: Mapping[ClusterName, Oid]


class DirectiveKind(StrEnum):
    """What a person may ask beside Git, of an agent or of all rollouts (`directives`)."""

    SUSPEND = "suspend"
    PAUSE = "pause"
    SYNC = "sync"
    CORDON = "cordon"


DirectiveKey = tuple[DirectiveKind, ClusterName, str]
"""Kind, cluster, bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectiveRow:
    """One directive; `directives` says what `bundle` and `value` are for each kind. `why` is who asked, and for what
    reason."""

    kind: DirectiveKind
    cluster: ClusterName
    bundle: str
    why: str
    time_s: float
    value: float

    @property
    def key(self) -> DirectiveKey:
        return self.kind, self.cluster, self.bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRow:
    """What a bundle's source from outside was resolved to, while its own files were the tree `folder`; `source` is the
    source as text."""

    bundle: BundleName
    folder: Oid
    source: str
    pin: Pin
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRecord:
    """What the hub keeps of a join token; `used_by` is the public key that used it."""

    cluster: str
    mac_key: bytes
    expires_at: float
    used_at: float | None = None
    used_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that one turn of the loop decided; stored whole or not at all."""

    rollouts: Sequence[RolloutRow] = ()
    moves: Sequence[MoveRow] = ()
    good: Sequence[tuple[ClusterName, BundleName, Oid]] = ()
    completed: Sequence[tuple[BundleName, ClusterName, Oid]] = ()
    holds: Sequence[HoldRow] = ()
    released: Sequence[BundleName] = ()
    events: Sequence[EventRow] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    directives: Mapping[DirectiveKey, DirectiveRow | None] = field(default_factory=dict)
    """What changed; None is taken back."""

    def __bool__(self) -> bool:
        rows = (self.rollouts, self.moves, self.good, self.completed, self.holds, self.released, self.events, self.meta)
        return any((*rows, self.directives))


class Journal:
    """One SQLite file. Opening it takes the next epoch: an older process on the same file can no longer write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with _ours(path):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._transaction() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version > SCHEMA:
                    raise Permanent(
                        str(path.name), f"has schema {version}, this hub knows up to {SCHEMA}", "upgrade the hub"
                    )
                for statement in "".join(_SCHEMAS[version:]).split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA}")
                self._epoch = int(self._get(db, "epoch", "0")) + 1
                db.execute("INSERT OR REPLACE INTO meta VALUES('epoch', ?)", (str(self._epoch),))

    def close(self) -> None:
        self._db.close()

    # --- the decision ---------------------------------------------------------------------------------------------

    def commit(self, decision: Decision) -> None:
        """Store a decision in one transaction.

        Raises Refused when another process took the journal over or a slice is not where the decision thought it
        was (nothing is stored then), Transient when the disk is full or busy.
        """
        with _ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            for move in decision.moves:
                self._move(db, move)
            db.executemany(
                "INSERT INTO rollouts VALUES(?,?,?,?,?) ON CONFLICT(number) DO UPDATE SET "
                "phase=excluded.phase, alive=excluded.alive, state=excluded.state",
                [(row.number, row.id, row.phase, int(row.alive), row.state) for row in decision.rollouts],
            )
            db.executemany("INSERT OR REPLACE INTO last_good VALUES(?,?,?)", decision.good)
            db.executemany("INSERT OR REPLACE INTO completed VALUES(?,?,?)", decision.completed)
            db.executemany("DELETE FROM holds WHERE bundle=?", [(bundle,) for bundle in decision.released])
            db.executemany(
                "INSERT OR REPLACE INTO holds VALUES(?,?,?,?,?)",
                [(h.bundle, h.rollout, h.reason, h.time_s, orjson.dumps(h.refused)) for h in decision.holds],
            )
            db.executemany(
                "DELETE FROM directives WHERE kind=? AND cluster=? AND bundle=?",
                [key for key, row in decision.directives.items() if row is None],
            )
            db.executemany(
                "INSERT OR REPLACE INTO directives VALUES(?,?,?,?,?,?)",
                [
                    (row.kind, row.cluster, row.bundle, row.why, row.time_s, row.value)
                    for row in decision.directives.values()
                    if row is not None
                ],
            )
            self._events(db, decision.events)
            db.executemany("INSERT OR REPLACE INTO meta VALUES(?,?)", list(decision.meta.items()))

    def _move(self, db: sqlite3.Connection, move: MoveRow) -> None:
        manifest = msgspec.json.encode(move.manifest)
        if move.old is None:
            done = db.execute(
                "INSERT OR IGNORE INTO slices VALUES(?,?,?,?,?)",
                (move.cluster, move.seq, move.new, move.time_s, manifest),
            )
        else:
            done = db.execute(
                "UPDATE slices SET seq=?, commit_id=?, time_s=?, manifest=? WHERE cluster=? AND commit_id=? AND seq=?",
                (move.seq, move.new, move.time_s, manifest, move.cluster, move.old, move.seq - 1),
            )
        if done.rowcount != 1:
            raise Refused(f"move {move.cluster} #{move.seq}", f"slice is no longer at {move.old}", "decide again")
        db.execute(
            "INSERT INTO moves VALUES(?,?,?,?,?,?)",
            (move.cluster, move.seq, move.old or "", move.new, move.time_s, orjson.dumps(move.causes)),
        )

    def _events(self, db: sqlite3.Connection, events: Iterable[EventRow]) -> None:
        db.executemany(
            "INSERT OR IGNORE INTO events(time_s,kind,cluster,bundle,rollout,text,data,dedup) VALUES(?,?,?,?,?,?,?,?)",
            [
                (e.time_s, e.kind, e.cluster, e.bundle, e.rollout, e.text, orjson.dumps(e.data), e.dedup or None)
                for e in events
            ],
        )
        db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (EVENTS_KEPT,))

    # --- reads ----------------------------------------------------------------------------------------------------

    def slices(self) -> dict[ClusterName, SliceRow]:
        return {
            row.cluster: row
            for row in (
                SliceRow(
                    cluster=ClusterName(cluster),
                    seq=seq,
                    commit=Oid(commit),
                    time_s=time_s,
                    manifest=msgspec.json.decode(manifest, type=SliceManifest),
                )
                for cluster, seq, commit, time_s, manifest in self._read("SELECT * FROM slices")
            )
        }

    def in_chain(self, cluster: str, commit: str) -> bool:
        """Was `commit` ever this cluster's slice?"""
        return bool(self._read("SELECT 1 FROM moves WHERE new_commit=? AND cluster=?", commit, cluster))

    def moves(self, cluster: str, *, limit: int = 100) -> list[dict[str, object]]:
        """The newest moves of a cluster, newest first, as JSON values."""
        rows = self._read(
            "SELECT seq, old_commit, new_commit, time_s, causes FROM moves WHERE cluster=? ORDER BY seq DESC LIMIT ?",
            cluster,
            limit,
        )
        return [
            {"seq": seq, "old": old, "new": new, "time_s": time_s, "causes": orjson.loads(causes)}
            for seq, old, new, time_s, causes in rows
        ]

    def rollouts(self, *, alive: bool | None = None, limit: int = 200) -> list[RolloutRow]:
        """Newest first; with `alive` only those (or only the others)."""
        where = "" if alive is None else f"WHERE alive={int(alive)}"
        return [
            RolloutRow(number=number, id=RolloutId(id_), phase=phase, alive=bool(live), state=state)
            for number, id_, phase, live, state in self._read(
                f"SELECT number, id, phase, alive, state FROM rollouts {where} ORDER BY number DESC LIMIT ?", limit
            )
        ]

    def rollout(self, id_: str) -> RolloutRow | None:
        rows = self._read("SELECT number, id, phase, alive, state FROM rollouts WHERE id=?", id_)
        if not rows:
            return None
        number, name, phase, alive, state = rows[0]
        return RolloutRow(number=number, id=name, phase=phase, alive=bool(alive), state=state)

    def next_number(self) -> int:
        """Of the next rollout. Those that a restored journal forgot are not given again."""
        return max(int(self._read("SELECT coalesce(max(number), 0) FROM rollouts")[0][0]), self._forgotten()) + 1

    def _forgotten(self) -> int:
        return int(self.meta(NUMBERS, "0"))

    def last_good(self) -> dict[tuple[ClusterName, BundleName], Oid]:
        return {(c, b): Oid(s) for c, b, s in self._read("SELECT cluster, bundle, subtree FROM last_good")}

    def completed(self) -> dict[BundleName, dict[ClusterName, Oid]]:
        found: dict[BundleName, dict[ClusterName, Oid]] = {}
        for bundle, cluster, subtree in self._read("SELECT bundle, cluster, subtree FROM completed"):
            found.setdefault(bundle, {})[cluster] = Oid(subtree)
        return found

    def holds(self) -> dict[BundleName, HoldRow]:
        return {
            bundle: HoldRow(bundle=bundle, rollout=rollout, reason=reason, time_s=time_s, refused=orjson.loads(refused))
            for bundle, rollout, reason, time_s, refused in self._read("SELECT * FROM holds")
        }

    def directives(self) -> dict[DirectiveKey, DirectiveRow]:
        rows = (
            DirectiveRow(
                kind=DirectiveKind(kind), cluster=ClusterName(cluster), bundle=bundle, why=why, time_s=at, value=value
            )
            for kind, cluster, bundle, why, at, value in self._read("SELECT * FROM directives ORDER BY cluster, bundle")
        )
        return {row.key: row for row in rows}

    def event(self, id_: int) -> EventRow | None:
        """One event by its id, None when there is none or it was dropped."""
        rows = self.events(since=id_ - 1, until=id_)
        return rows[0] if rows else None

    def events(
        self,
        *,
        since: int = 0,
        until: int = 2**62,
        limit: int = 200,
        kind: str = "",
        cluster: str = "",
        bundle: str = "",
    ) -> list[EventRow]:
        """The newest `limit` events after id `since` and up to `until`, oldest first; "" matches everything."""
        rows = self._read(
            "SELECT id, time_s, kind, cluster, bundle, rollout, text, data FROM events WHERE id > ?1"
            " AND (?3 = '' OR kind = ?3) AND (?4 = '' OR cluster = ?4) AND (?5 = '' OR bundle = ?5) AND id <= ?6"
            " ORDER BY id DESC LIMIT ?2",
            since,
            limit,
            kind,
            cluster,
            bundle,
            until,
        )
        return [
            EventRow(id=i, time_s=t, kind=k, cluster=c, bundle=b, rollout=r, text=text, data=orjson.loads(data))
            for i, t, k, c, b, r, text, data in reversed(rows)
        ]

    def meta(self, key: str, default: str = "") -> str:
        rows = self._read("SELECT value FROM meta WHERE key=?", key)
        return str(rows[0][0]) if rows else default

    # --- rendered subtrees ----------------------------------------------------------------------------------------

    def renders(self, keys: Iterable[str]) -> dict[str, tuple[Oid, Notes]]:
        """Which of the render keys were rendered before, to what, and with what notes; those of a hub that kept none
        are empty."""
        return self._renders("key", keys)

    def notes_of(self, subtrees: Iterable[str]) -> dict[Oid, Notes]:
        """The notes of subtrees, as far as anybody rendered them; those of one of the renders that gave each."""
        return dict(self._renders("subtree", subtrees).values())

    def _renders(self, column: str, values: Iterable[str]) -> dict[str, tuple[Oid, Notes]]:
        asked = orjson.dumps(list(values)).decode()
        rows = self._read(
            f"SELECT key, subtree, notes FROM renders WHERE {column} IN (SELECT value FROM json_each(?))", asked
        )
        said = orjson.dumps(list({notes for _, _, notes in rows if notes is not None})).decode()
        texts = self._read("SELECT id, text FROM notes WHERE id IN (SELECT value FROM json_each(?))", said)
        notes = {id_: msgspec.json.decode(text, type=Notes) for id_, text in texts}
        return {key: (Oid(subtree), notes.get(id_, _SILENT)) for key, subtree, id_ in rows}

    def remember_renders(self, rows: Sequence[tuple[str, str, str, str, Notes]]) -> None:
        """Rows of (key, bundle, subtree, revision, notes). Their objects are in the store already. A key that was
        rendered again, since the store had lost its subtree, takes the new one: a chart may render differently each
        time."""
        texts = {key: msgspec.json.encode(notes).decode() for key, *_, notes in rows if notes != _SILENT}
        with _ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            db.executemany("INSERT OR IGNORE INTO notes(text) VALUES(?)", [(text,) for text in set(texts.values())])
            again = "subtree=excluded.subtree, revision=excluded.revision, notes=excluded.notes"
            db.executemany(
                "INSERT INTO renders VALUES(?,?,?,?,(SELECT id FROM notes WHERE text=?))"
                f" ON CONFLICT(key) DO UPDATE SET {again} WHERE subtree != excluded.subtree OR notes IS NULL",
                [(key, bundle, subtree, revision, texts.get(key)) for key, bundle, subtree, revision, _ in rows],
            )

    def revision_of(self, subtree: str) -> str:
        """The fleet repo revision that a subtree was first rendered from, or ""."""
        rows = self._read("SELECT revision FROM renders WHERE subtree=? ORDER BY rowid LIMIT 1", subtree)
        return str(rows[0][0]) if rows else ""

    # --- sources from outside ---------------------------------------------------------------------------------------

    def pins(self) -> dict[BundleName, PinRow]:
        return {
            name: PinRow(
                bundle=name,
                folder=Oid(folder),
                source=source,
                pin=Pin(revision=revision, digest=digest, tree=Oid(tree)),
                time_s=time_s,
            )
            for name, folder, source, revision, digest, tree, time_s in self._read("SELECT * FROM pins")
        }

    def remember_pins(self, rows: Iterable[PinRow], gone: Iterable[str], events: Iterable[EventRow]) -> None:
        with _ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            db.executemany("DELETE FROM pins WHERE bundle=?", [(bundle,) for bundle in gone])
            db.executemany(
                "INSERT OR REPLACE INTO pins VALUES(?,?,?,?,?,?,?)",
                [
                    (row.bundle, row.folder, row.source, row.pin.revision, row.pin.digest, row.pin.tree, row.time_s)
                    for row in rows
                ],
            )
            self._events(db, events)

    # --- identities -----------------------------------------------------------------------------------------------

    def add_join_token(self, join_id: str, *, cluster: str, mac_key: bytes, expires_at: float) -> None:
        with _ours(self._path), self._transaction() as db:
            db.execute("INSERT INTO join_tokens VALUES(?,?,?,?,NULL,NULL)", (join_id, cluster, mac_key, expires_at))

    def join_record(self, join_id: str) -> JoinRecord | None:
        rows = self._read("SELECT cluster, mac_key, expires_s, used_s, used_by FROM join_tokens WHERE id=?", join_id)
        if not rows:
            return None
        cluster, mac_key, expires, used, used_by = rows[0]
        return JoinRecord(cluster=cluster, mac_key=mac_key, expires_at=expires, used_at=used, used_by=used_by or "")

    def enroll(self, join_id: str, cluster: str, public_key: str, now: float) -> None:
        """Use up a join token for a key. The same key may use it again (its answer was lost); any other is Refused."""
        with _ours(self._path), self._transaction() as db:
            row = db.execute("SELECT used_by FROM join_tokens WHERE id=? AND cluster=?", (join_id, cluster)).fetchone()
            if row is None or row[0] not in (None, public_key):
                raise Refused(
                    f"join token {join_id} of cluster {cluster}",
                    "was used before, by another key",
                    f"make a new one with 'flotilla join-token {cluster}'",
                )
            db.execute("UPDATE join_tokens SET used_s=?, used_by=? WHERE id=?", (now, public_key, join_id))
            db.execute("INSERT OR REPLACE INTO agents VALUES(?,?,?)", (cluster, public_key, now))

    def public_key(self, cluster: str) -> str | None:
        rows = self._read("SELECT public_key FROM agents WHERE cluster=?", cluster)
        return str(rows[0][0]) if rows else None

    # --- plumbing -------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with _ours(self._path), self._lock:
            return self._db.execute(query, arguments).fetchall()

    def _get(self, db: sqlite3.Connection, key: str, default: str) -> str:
        row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else default

    def _check_epoch(self, db: sqlite3.Connection) -> None:
        if int(self._get(db, "epoch", "0")) != self._epoch:
            raise Refused(
                "journal", "another hub opened this data folder", "run one hub per data folder; this one stops deciding"
            )


@contextmanager
def _ours(path: Path) -> Iterator[None]:
    """Map sqlite3's errors to ours."""
    try:
        yield
    except FlotillaError:
        raise
    except sqlite3.OperationalError as error:
        raise Transient(path.name, str(error), f"free disk space or repair {path.parent}") from error
    except sqlite3.DatabaseError as error:
        raise Permanent(path.name, str(error), "restore the hub's data folder from a backup") from error
