"""The file of the journal: opened and brought up to date, read, and written in transactions; sqlite3's errors as ours.

Opening it takes the next epoch: an older process on the same file can no longer write. Next: the groups of tables.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hub.journal.schema import SCHEMA, SCHEMAS
from proto.errors import FlotillaError, Permanent, Refused, Transient


class Database:
    """One SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with ours(path):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._transaction() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version > SCHEMA:
                    raise Permanent(
                        str(path.name), f"has schema {version}, this hub knows up to {SCHEMA}", "upgrade the hub"
                    )
                for statement in "".join(SCHEMAS[version:]).split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA}")
                self._epoch = int(self._get(db, "epoch", "0")) + 1
                db.execute("INSERT OR REPLACE INTO meta VALUES('epoch', ?)", (str(self._epoch),))

    def close(self) -> None:
        self._db.close()

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
        with ours(self._path), self._lock:
            return self._db.execute(query, arguments).fetchall()

    def _read_aside(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """A read that may take long, for a thread: on a connection of its own, so that no decision waits for it."""
        with ours(self._path), closing(sqlite3.connect(self._path, isolation_level=None, timeout=10)) as db:
            db.execute("PRAGMA query_only=1")
            return db.execute(query, arguments).fetchall()

    def _get(self, db: sqlite3.Connection, key: str, default: str) -> str:
        row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else default

    def _check_epoch(self, db: sqlite3.Connection) -> None:
        if int(self._get(db, "epoch", "0")) != self._epoch:
            raise Refused(
                "journal", "another hub opened this data folder", "run one hub per data folder; this one stops deciding"
            )


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """Map sqlite3's errors to ours."""
    try:
        yield
    except FlotillaError:
        raise
    except sqlite3.OperationalError as error:
        raise Transient(path.name, str(error), f"free disk space or repair {path.parent}") from error
    except sqlite3.DatabaseError as error:
        raise Permanent(path.name, str(error), "restore the hub's data folder from a backup") from error
