"""The one transaction of a decision, and what the loop reads when it starts: slices, moves, holds."""

import sqlite3
from collections.abc import Callable

import msgspec
import orjson

from hub.journal.database import ours
from hub.journal.identities import Identities
from hub.journal.moves import Moves
from hub.journal.outbox import Outbox
from hub.journal.renders import Renders
from hub.journal.rollouts import Rollouts
from hub.journal.rows import (
    Decision,
    DirectiveKey,
    DirectiveKind,
    DirectiveRow,
    HoldRow,
    MoveRow,
    SliceRow,
)
from hub.state import Keep
from proto.errors import Refused
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import SliceManifest

NUMBERS = "rollout-numbers"
"""The word of `meta` for the highest number of a rollout that was given and has no row: `recovery` sets it."""


_decode_manifest = msgspec.json.Decoder(type=SliceManifest).decode
_decode_keep: Callable[[str], Keep | None] = msgspec.json.Decoder(type=Keep | None).decode


class Journal(Renders, Rollouts, Identities, Outbox, Moves):
    """All tables of one file, which only the newest process that opened it may write."""

    # --- the decision ---------------------------------------------------------------------------------------------

    def commit(self, decision: Decision) -> None:
        """Store a decision in one transaction.

        Raises Refused when another process took the journal over or a slice or a rollout is not where the decision
        thought it was (nothing is stored then), Transient when the disk is full or busy.
        """
        with ours(self._path), self._transaction() as db:
            self._check_epoch(db)
            for move in decision.moves:
                self._move(db, move)
            self._record(db, decision.rollouts)
            db.executemany("INSERT OR REPLACE INTO last_good VALUES(?,?,?)", decision.good)
            db.executemany("INSERT OR REPLACE INTO completed VALUES(?,?,?)", decision.completed)
            db.executemany("DELETE FROM holds WHERE bundle=?", [(bundle,) for bundle in decision.released])
            db.executemany(
                "INSERT OR REPLACE INTO holds VALUES(?,?,?,?,?,?)",
                [
                    (h.bundle, h.rollout, h.reason, h.time_s, orjson.dumps(h.refused), msgspec.json.encode(h.keep))
                    for h in decision.holds
                ],
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
            self._post(db, decision.messages)
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
                    manifest=_decode_manifest(manifest),
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
            bundle: HoldRow(
                bundle=bundle,
                rollout=rollout,
                reason=reason,
                time_s=time_s,
                refused=orjson.loads(refused),
                keep=_decode_keep(keep),
            )
            for bundle, rollout, reason, time_s, refused, keep in self._read("SELECT * FROM holds")
        }

    def directives(self) -> dict[DirectiveKey, DirectiveRow]:
        rows = (
            DirectiveRow(
                kind=DirectiveKind(kind), cluster=ClusterName(cluster), bundle=bundle, why=why, time_s=at, value=value
            )
            for kind, cluster, bundle, why, at, value in self._read("SELECT * FROM directives ORDER BY cluster, bundle")
        )
        return {row.key: row for row in rows}

    def meta(self, key: str, default: str = "") -> str:
        rows = self._read("SELECT value FROM meta WHERE key=?", key)
        return str(rows[0][0]) if rows else default
