"""Who may connect: join tokens, and the key of each cluster's agent."""

from hub.journal.database import ours
from hub.journal.events import Events
from hub.journal.rows import EventRow, JoinRecord
from proto.errors import Refused


class Identities(Events):
    """The tables `join_tokens` and `agents`."""

    def add_join_token(
        self, join_id: str, *, cluster: str, mac_key: bytes, expires_at: float, told: EventRow | None = None
    ) -> None:
        with ours(self._path), self._transaction() as db:
            db.execute("INSERT INTO join_tokens VALUES(?,?,?,?,NULL,NULL)", (join_id, cluster, mac_key, expires_at))
            self._events(db, [told] if told else [])

    def join_record(self, join_id: str) -> JoinRecord | None:
        rows = self._read("SELECT cluster, mac_key, expires_s, used_s, used_by FROM join_tokens WHERE id=?", join_id)
        if not rows:
            return None
        cluster, mac_key, expires, used, used_by = rows[0]
        return JoinRecord(cluster=cluster, mac_key=mac_key, expires_at=expires, used_at=used, used_by=used_by or "")

    def enroll(self, join_id: str, cluster: str, public_key: str, now: float) -> None:
        """Use up a join token for a key. The same key may use it again (its answer was lost); any other is Refused."""
        with ours(self._path), self._transaction() as db:
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
