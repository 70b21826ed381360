"""The record of rollouts: what each began as, the steps since, and the newest whole state, all as bytes of `record`.

What is large is written once or seldom; a turn adds one small row to `steps`, and touches `rollouts`, which has no
large column, only when phase or life changed. Next: `journal`.
"""

import sqlite3
from collections.abc import Iterable

from hub.journal import schema
from hub.journal.database import Database
from hub.journal.rows import RevisionRow, RolloutRow, StoredRollout
from hub.state import Phase
from proto.errors import Refused
from proto.ids import BundleName, Oid, RolloutId

STEPS_KEPT = 1000
"""Rollouts whose steps are kept when they are over, the newest: what they were and how they ended stays for ever."""

_READ = """
SELECT number, id, phase, alive, begins.state, coalesce(wholes.n, 0), coalesce(wholes.state, x'')
FROM rollouts JOIN begins ON begins.rollout = number LEFT JOIN wholes ON wholes.rollout = number
"""

_LAST_IN_PHASE = """
WITH RECURSIVE bundles(name) AS (
    SELECT min(bundle) FROM revisions
    UNION ALL SELECT (SELECT min(bundle) FROM revisions WHERE bundle > name) FROM bundles WHERE name IS NOT NULL
)
SELECT name, number, id, phase, revision, made_s
FROM bundles JOIN revisions ON bundle = name AND number = (
    SELECT number FROM revisions JOIN rollouts USING(number)
    WHERE bundle = name AND phase = ? ORDER BY number DESC LIMIT 1
) JOIN rollouts USING(number)
"""
"""From bundle to bundle, and in each from its newest rollout on: planning asks, and history has no end."""


def _revision(number: int, id_: str, phase: str, revision: str, made_s: float) -> RevisionRow:
    return RevisionRow(number=number, rollout=RolloutId(id_), phase=phase, revision=Oid(revision), made_s=made_s)


class Rollouts(Database):
    """The tables `rollouts`, `begins`, `wholes`, `steps` and `revisions`."""

    def rollouts(self, *, alive: bool | None = None, limit: int = 200) -> list[StoredRollout]:
        """Newest first; with `alive` only those (or only the others)."""
        where = "" if alive is None else f"WHERE alive={int(alive)}"
        return self._stored(f"{_READ} {where} ORDER BY number DESC LIMIT ?", limit)

    def rollout(self, id_: str) -> StoredRollout | None:
        found = self._stored(f"{_READ} WHERE id=?", id_)
        return found[0] if found else None

    def rollout_ids(self, *, limit: int = 1000) -> list[RolloutId]:
        """Newest first."""
        return [RolloutId(id_) for (id_,) in self._read("SELECT id FROM rollouts ORDER BY number DESC LIMIT ?", limit)]

    def revisions(self, bundle: str) -> list[RevisionRow]:
        """The rollouts that a bundle had, newest first, but for bootstraps."""
        rows = self._read(
            "SELECT number, id, phase, revision, made_s FROM revisions JOIN rollouts USING(number)"
            " WHERE bundle=? ORDER BY number DESC",
            bundle,
        )
        return [_revision(*row) for row in rows]

    def last_completed(self) -> dict[BundleName, RevisionRow]:
        """The newest rollout of each bundle that completed, but for bootstraps."""
        rows = self._read(
            _LAST_IN_PHASE,
            Phase.COMPLETED,
        )
        return {bundle: _revision(*row) for bundle, *row in rows}

    def newest_of(self, revision: str) -> int:
        """The number of the newest rollout, of any bundle, that brought a revision (or a beginning of its id), 0 for
        none."""
        rows = self._read(
            "SELECT coalesce(max(number), 0) FROM revisions WHERE substr(revision, 1, ?)=?", len(revision), revision
        )
        return int(rows[0][0])

    def _stored(self, query: str, *arguments: object) -> list[StoredRollout]:
        return [
            StoredRollout(
                number=number,
                id=RolloutId(id_),
                phase=phase,
                alive=bool(alive),
                begins=begins,
                whole=whole,
                steps=(later := tuple(step for _, step in self.steps(number, since=n))),
                n=n + len(later),
            )
            for number, id_, phase, alive, begins, n, whole in self._read(query, *arguments)
        ]

    def steps(self, number: int, *, since: int = 0, until: int = 2**62) -> list[tuple[int, bytes]]:
        """The steps of a rollout after the step `since` and up to `until`, each with its place; those of an old one are
        gone."""
        query = "SELECT n, step FROM steps WHERE rollout=? AND n>? AND n<=? ORDER BY n"
        rows = self._read(query, number, since, until)
        return [(n, step) for n, step in rows]

    def _record(self, db: sqlite3.Connection, rows: Iterable[RolloutRow]) -> None:
        for row in rows:
            if row.begins:
                db.execute("INSERT OR IGNORE INTO begins VALUES(?,?)", (row.number, row.begins))
                if not row.bootstrap:
                    db.execute(schema.revision_rows("WHERE rollout=?"), (row.number,))
            done = db.execute(
                "INSERT OR IGNORE INTO steps SELECT ?1, ?2, ?3 WHERE ?2 = 1 OR"
                " EXISTS (SELECT 1 FROM steps WHERE rollout=?1 AND n=?2 - 1)",
                (row.number, row.n, row.step),
            )
            if done.rowcount != 1:
                raise Refused(f"rollout {row.id}", f"is no longer at step {row.n - 1}", "decide again")
            db.execute(
                "INSERT INTO rollouts VALUES(?1,?2,?3,?4) ON CONFLICT(number) DO UPDATE SET phase=?3, alive=?4"
                " WHERE phase != ?3 OR alive != ?4",
                (row.number, row.id, row.phase, int(row.alive)),
            )
            if row.whole:
                db.execute("INSERT OR REPLACE INTO wholes VALUES(?,?,?)", (row.number, row.n, row.whole))
            if not row.alive:
                db.execute(
                    "DELETE FROM steps WHERE rollout IN"
                    " (SELECT number FROM rollouts WHERE alive=0 ORDER BY number DESC LIMIT -1 OFFSET ?)",
                    (STEPS_KEPT,),
                )
