"""What was rendered before, and what sources from outside were resolved to: how a commit costs only what is new in it.

A render is forgotten when its subtree is gone from the slice repository (`housekeeping`), and its notes with the last
render that has them.
"""

from collections.abc import Iterable, Sequence

import msgspec
import orjson

from hub.journal.database import ours
from hub.journal.events import Events
from hub.journal.rows import EventRow, PinRow
from hub.model import Pin
from hub.renders import Notes
from proto.ids import BundleName, Oid

_SILENT = Notes()
_decode_notes = msgspec.json.Decoder(type=Notes).decode


class Renders(Events):
    """The tables `renders`, `notes` and `pins`."""

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
        notes = {id_: _decode_notes(text) for id_, text in texts}
        return {key: (Oid(subtree), notes.get(id_, _SILENT)) for key, subtree, id_ in rows}

    def remember_renders(self, rows: Sequence[tuple[str, str, str, str, Notes]]) -> None:
        """Rows of (key, bundle, subtree, revision, notes). Their objects are in the store already. A key that was
        rendered again, since the store had lost its subtree, takes the new one: a chart may render differently each
        time."""
        texts = {key: msgspec.json.encode(notes).decode() for key, *_, notes in rows if notes != _SILENT}
        with ours(self._path), self._transaction() as db:
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

    def rendered(self) -> set[Oid]:
        """Every subtree that a render gave."""
        return {Oid(subtree) for (subtree,) in self._read("SELECT DISTINCT subtree FROM renders")}

    def forget_renders(self, subtrees: Iterable[Oid]) -> None:
        """Forget the renders that gave these subtrees."""
        with ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            db.executemany("DELETE FROM renders WHERE subtree=?", [(subtree,) for subtree in subtrees])

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
        with ours(self._path), self._transaction() as db:
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
