"""Where the simulated cluster's objects are: JSON bytes by kind, namespace and name, versions, event logs.

Every write takes the next resourceVersion and becomes one event of its kind's log. A log keeps the last events only:
who asks for older ones is told that they are gone (410), as after `forget`, which is what a restart does to a cache.
Assumes one event loop: nothing here awaits. Next: `writes` decides what is stored, `watch` reads the logs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
import orjson

from hub.sim import selectors

Table = tuple[str, str]
"""Group and plural of a kind; all its versions are one table."""
Key = tuple[str, str]
"""Namespace ("" for kinds without) and name."""

WINDOW: Final = 1000
"""Events that a log keeps at least; a real server's watch cache begins with 100 and grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A stored object. What selectors look at stands beside its bytes, so that they need not be read."""

    raw: bytes
    revision: int
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    def read(self) -> dict[str, Any]:
        obj: dict[str, Any] = orjson.loads(self.raw)
        return obj


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One write. `before` is the object until then, None for a new one."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    key: Key
    record: Record
    before: Record | None


@dataclass(slots=True)
class Log:
    """A kind's last events. `changed` is set, and replaced, whenever one is added."""

    floor: int = 0
    """Events up to this resourceVersion are gone."""
    trimmed: int = 0
    events: list[Event] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def end(self) -> int:
        """The position after the last event; positions count all events that ever were."""
        return self.trimmed + len(self.events)

    def position(self, revision: int) -> int | None:
        """Where the events after a resourceVersion begin; None when some of them are gone."""
        if revision < self.floor:
            return None
        at = len(self.events)
        while at and self.events[at - 1].record.revision > revision:
            at -= 1
        return self.trimmed + at

    def since(self, position: int) -> list[Event] | None:
        """The events from a position on; None when some of them are gone."""
        return None if position < self.trimmed else self.events[position - self.trimmed :]


class Store:
    """See the module. `revision` is the last resourceVersion given."""

    def __init__(self, *, window: int = WINDOW) -> None:
        self.revision = 1
        self._window = window
        self._tables: dict[Table, dict[Key, Record]] = {}
        self._logs: dict[Table, Log] = {}
        self._floor = 0
        self.listeners: list[Callable[[Table, Event], None]] = []
        """Called with each write, once it is stored."""

    def get(self, table: Table, key: Key) -> Record | None:
        return self._tables.get(table, {}).get(key)

    def items(self, table: Table, namespace: str = "") -> Iterator[tuple[Key, Record]]:
        """The objects of a kind, of all namespaces for "", ordered by namespace and name."""
        rows = self._tables.get(table, {})
        for key in sorted(rows):
            if not namespace or key[0] == namespace:
                yield key, rows[key]

    def tables(self) -> tuple[Table, ...]:
        return tuple(self._tables)

    def count(self, table: Table) -> int:
        return len(self._tables.get(table, ()))

    def put(self, table: Table, key: Key, obj: dict[str, Any]) -> Record:
        """Store an object, whose `metadata.resourceVersion` is set here."""
        rows = self._tables.setdefault(table, {})
        before = rows.get(key)
        record = rows[key] = self._record(table, obj)
        self._add(table, Event(type="MODIFIED" if before else "ADDED", key=key, record=record, before=before))
        return record

    def delete(self, table: Table, key: Key, obj: dict[str, Any]) -> Record:
        """Remove an object; the event tells it as `obj`, with the version of its deletion."""
        before = self._tables[table].pop(key)
        record = self._record(table, obj)
        self._add(table, Event(type="DELETED", key=key, record=record, before=before))
        return record

    def log(self, table: Table) -> Log:
        if table not in self._logs:
            self._logs[table] = Log(floor=self._floor)
        return self._logs[table]

    def forget(self) -> None:
        """Lose all events, as a restarted server loses its watch cache."""
        self._floor = self.revision
        self._logs.clear()

    def _record(self, table: Table, obj: dict[str, Any]) -> Record:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        labels, fields = obj["metadata"].get("labels") or _NONE, selectors.fields_of(table, obj) or _NONE
        return Record(raw=orjson.dumps(obj), revision=self.revision, labels=labels, fields=fields)

    def _add(self, table: Table, event: Event) -> None:
        log = self.log(table)
        log.events.append(event)
        if len(log.events) > 2 * self._window:
            log.floor = log.events[self._window - 1].record.revision
            log.trimmed += self._window
            del log.events[: self._window]
        changed, log.changed = log.changed, anyio.Event()
        changed.set()
        for listener in self.listeners:
            listener(table, event)


_NONE: Final[Mapping[str, str]] = {}
