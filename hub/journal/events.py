"""What happened, for people and tools: the newest events, each told once."""

import sqlite3
from collections.abc import Iterable

import orjson

from hub.journal.audit import Audit
from hub.journal.rows import EventRow

EVENTS_KEPT = 20_000
"""About a week of a busy fleet, 10 MB; older ones are dropped."""


class Events(Audit):
    """The table `events`."""

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

    def _events(self, db: sqlite3.Connection, events: Iterable[EventRow]) -> None:
        events = list(events)
        self._words(db, events)
        db.executemany(
            "INSERT OR IGNORE INTO events(time_s,kind,cluster,bundle,rollout,text,data,dedup) VALUES(?,?,?,?,?,?,?,?)",
            [
                (e.time_s, e.kind, e.cluster, e.bundle, e.rollout, e.text, orjson.dumps(e.data), e.dedup or None)
                for e in events
            ],
        )
        db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (EVENTS_KEPT,))
