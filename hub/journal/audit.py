"""Who did what, when, why, to what: every person's word that the hub carried out, kept for ever.

A row is written with the event that tells of it, in the transaction of the decision itself: what is not in the list was
not done. Nothing ever removes one. Next: `events`, which are dropped when they are old.
"""

import math
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson

from hub.journal.database import Database
from hub.journal.rows import AuditRow, EventRow, Word

_SELECT = "SELECT id, time_s, actor, role, verb, reason, clusters, bundles, rollout, text FROM audit"


class Audit(Database):
    """The table `audit`."""

    def audit(
        self,
        *,
        since_s: float = 0.0,
        until_s: float = math.inf,
        before: int = 2**62,
        limit: int = 200,
        actor: str = "",
        cluster: str = "",
        bundle: str = "",
        rollout: str = "",
    ) -> list[AuditRow]:
        """The newest `limit` words from `since_s` on, before `until_s` (Unix seconds) and before id `before`, oldest
        first; "" matches everything."""
        return _rows(
            self._read(
                f"{_SELECT} WHERE id < ?2 AND time_s >= ?1 AND time_s < ?8"
                " AND (?4 = '' OR actor = ?4) AND (?7 = '' OR rollout = ?7)"
                " AND (?5 = '' OR EXISTS (SELECT 1 FROM json_each(clusters) WHERE value = ?5))"
                " AND (?6 = '' OR EXISTS (SELECT 1 FROM json_each(bundles) WHERE value = ?6))"
                " ORDER BY id DESC LIMIT ?3",
                since_s,
                before,
                limit,
                actor,
                cluster,
                bundle,
                rollout,
                until_s,
            )
        )

    def words_to(self, rollouts: Collection[str], *, bundles: Collection[str]) -> list[AuditRow]:
        """Every word to these rollouts, and every one that took one of these bundles back, oldest first. For a
        thread."""
        return _rows(
            self._read_aside(
                f"{_SELECT} WHERE rollout IN (SELECT value FROM json_each(?1)) OR rollout = '' AND verb = 'rollback'"
                " AND EXISTS (SELECT 1 FROM json_each(bundles) WHERE value IN (SELECT value FROM json_each(?2)))"
                " ORDER BY id DESC",
                orjson.dumps(list(rollouts)).decode(),
                orjson.dumps(list(bundles)).decode(),
            )
        )

    def _words(self, db: sqlite3.Connection, events: Iterable[EventRow]) -> None:
        db.executemany(
            "INSERT INTO audit(time_s,actor,role,verb,reason,clusters,bundles,rollout,text) VALUES(?,?,?,?,?,?,?,?,?)",
            [
                (
                    event.time_s,
                    word.actor,
                    word.role,
                    word.verb,
                    word.reason,
                    orjson.dumps(word.clusters or [name for name in (event.cluster,) if name]).decode(),
                    orjson.dumps(word.bundles or [name for name in (event.bundle,) if name]).decode(),
                    event.rollout,
                    event.text,
                )
                for event in events
                if (word := event.word) is not None
            ],
        )


def _rows(found: Sequence[tuple[Any, ...]]) -> list[AuditRow]:
    """The oldest first; they were read with the newest first."""
    return [
        AuditRow(
            id=id_,
            time_s=at,
            word=Word(
                actor=who,
                role=role,
                verb=verb,
                reason=why,
                clusters=tuple(orjson.loads(clusters)),
                bundles=tuple(orjson.loads(bundles)),
            ),
            rollout=of,
            text=text,
        )
        for id_, at, who, role, verb, why, clusters, bundles, of, text in reversed(found)
    ]
