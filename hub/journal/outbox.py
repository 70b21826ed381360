"""Messages on their way to receivers: stored with the decision that they tell of, removed when they were delivered.

A receiver that takes none costs `KEPT` messages: beyond that the mildest go first, of those the oldest, and how many
went is counted until one arrives that says so. Next: `notifier` sends them.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable

from hub.journal.database import Database, ours
from hub.journal.rows import MessageRow, Waiting

KEPT = 1000
"""Of one receiver: a busy day's, 1 MB."""


class Outbox(Database):
    """The tables `outbox` and `outbox_lost`."""

    def next_message(self, receiver: str) -> MessageRow | None:
        """The oldest that waits for the receiver, with how many were lost since it last got one."""
        rows = self._read(
            "SELECT o.id, o.message, o.gravity, o.time_s, o.body, coalesce(l.many, 0) FROM outbox o"
            " LEFT JOIN outbox_lost l USING(receiver) WHERE o.receiver = ? ORDER BY o.id LIMIT 1",
            receiver,
        )
        for sequence, message, gravity, time_s, body, lost in rows:
            return MessageRow(
                receiver=receiver,
                id=message,
                gravity=gravity,
                time_s=time_s,
                body=body,
                sequence=sequence,
                lost=lost,
            )
        return None

    def delivered(self, message: MessageRow) -> None:
        """It arrived, and with it how many were lost."""
        with ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            db.execute("DELETE FROM outbox WHERE id=?", (message.sequence,))
            db.execute("UPDATE outbox_lost SET many = many - ? WHERE receiver=?", (message.lost, message.receiver))
            db.execute("DELETE FROM outbox_lost WHERE many <= 0")

    def given_up(self, message: MessageRow) -> None:
        """It will not arrive: one more is lost."""
        with ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            if db.execute("DELETE FROM outbox WHERE id=?", (message.sequence,)).rowcount:
                _lose(db, message.receiver, 1)

    def forget_receivers(self, but: Collection[str]) -> None:
        """Forget what waits for others than these."""
        gone = {name for (name,) in self._read("SELECT DISTINCT receiver FROM outbox")} - set(but)
        gone |= {name for (name,) in self._read("SELECT receiver FROM outbox_lost")} - set(but)
        if gone:
            with ours(self._path), self._transaction() as db:
                self._check_epoch(db)
                for table in ("outbox", "outbox_lost"):
                    db.executemany(f"DELETE FROM {table} WHERE receiver=?", [(name,) for name in gone])

    def waiting(self) -> dict[str, Waiting]:
        """How much waits for each receiver; who has nothing is not in it."""
        found = {
            name: Waiting(pending=many, since_s=since_s)
            for name, many, since_s in self._read(
                "SELECT receiver, count(*), min(time_s) FROM outbox GROUP BY receiver ORDER BY receiver"
            )
        }
        for name, lost in self._read("SELECT receiver, many FROM outbox_lost"):
            before = found.get(name, Waiting())
            found[name] = Waiting(pending=before.pending, since_s=before.since_s, lost=lost)
        return found

    def _post(self, db: sqlite3.Connection, messages: Iterable[MessageRow]) -> None:
        """Store messages with a decision, before its events: what tells of nothing that was not told before is not told
        again."""
        posted: Counter[str] = Counter()
        for message in messages:
            if message.dedups and all(
                db.execute("SELECT 1 FROM events WHERE dedup=?", (dedup,)).fetchone() for dedup in message.dedups
            ):
                continue
            db.execute(
                "INSERT INTO outbox(receiver,message,gravity,time_s,body) VALUES(?,?,?,?,?)",
                (message.receiver, message.id, message.gravity, message.time_s, message.body),
            )
            posted[message.receiver] += 1
        for receiver in posted:
            over = db.execute("SELECT count(*) FROM outbox WHERE receiver=?", (receiver,)).fetchone()[0] - KEPT
            if over > 0:
                db.execute(
                    "DELETE FROM outbox WHERE id IN"
                    " (SELECT id FROM outbox WHERE receiver=? ORDER BY gravity, id LIMIT ?)",
                    (receiver, over),
                )
                _lose(db, receiver, over)


def _lose(db: sqlite3.Connection, receiver: str, many: int) -> None:
    db.execute(
        "INSERT INTO outbox_lost VALUES(?,?) ON CONFLICT(receiver) DO UPDATE SET many = many + excluded.many",
        (receiver, many),
    )
