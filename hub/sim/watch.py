"""Watches: the events of one kind from its log, selected and shaped, as lines; bookmarks between them.

    resourceVersion given            what happened since; an ERROR with 410 when that is gone
    none, or sendInitialEvents       what is there as ADDED, then (sendInitialEvents) a bookmark that says so
    stops or begins to match         told as DELETED or ADDED
    nothing for `bookmark_s`         a bookmark, so that the client knows that the stream lives

A watcher keeps a position in the log and no queue: one that is too slow finds its events gone, and ends.
Next: `server` opens these for requests with `watch=true`.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import orjson

from hub.sim import forms, status
from hub.sim.kinds import Kind
from hub.sim.selectors import Selector
from hub.sim.store import Event, Log, Store

BOOKMARK_S: Final = 60.0
INITIAL_END: Final = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a watch asks for."""

    kind: Kind
    namespace: str
    selector: Selector
    metadata_only: bool
    revision: str
    initial_events: bool
    bookmarks: bool
    timeout_s: float


async def lines(store: Store, asked: Asked, *, bookmark_s: float = BOOKMARK_S) -> AsyncGenerator[bytes, None]:
    """Whole lines, several at once where there are several; ends when its time is up."""
    log = store.log(asked.kind.table)
    # A restart leaves no log of before: the client finds out by asking anew.
    shape: Callable[[dict[str, Any]], dict[str, Any]] = (
        forms.metadata_only if asked.metadata_only else lambda obj: forms.as_version(obj, asked.kind)
    )
    fresh = asked.initial_events or asked.revision in ("", "0")
    if fresh:
        position: int | None = log.end
        start = b"".join(_line("ADDED", obj) for obj in _present(store, asked, shape))
        if asked.initial_events and asked.bookmarks:
            start += _bookmark(asked, store.revision, {INITIAL_END: "true"})
        if start:
            yield start
    else:
        revision = int(asked.revision)
        position = log.position(revision)
        if position is None:
            yield _gone(revision, log)
            return
    with anyio.move_on_after(asked.timeout_s):
        while True:
            events = log.since(position) if position is not None else None
            if events is None:
                yield _gone(0, log)
                return
            position = log.end
            told = b"".join(line for event in events for line in _told(event, asked, shape))
            if told:
                yield told
            if position != log.end:
                continue
            with anyio.move_on_after(bookmark_s):
                await log.changed.wait()
                continue
            if asked.bookmarks:
                yield _bookmark(asked, store.revision, {})


def _present(store: Store, asked: Asked, shape: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for key, record in store.items(asked.kind.table, asked.namespace):
        if asked.selector.matches(key, record.labels, record.fields):
            yield shape(record.read())


def _told(event: Event, asked: Asked, shape: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[bytes]:
    if asked.namespace and event.key[0] != asked.namespace:
        return
    before, now = event.before, event.record
    was = before is not None and asked.selector.matches(event.key, before.labels, before.fields)
    is_now = event.type != "DELETED" and asked.selector.matches(event.key, now.labels, now.fields)
    if is_now:
        yield _line("MODIFIED" if was else "ADDED", shape(event.record.read()))
    elif was:
        yield _line("DELETED", shape(event.record.read()))


def _line(type_: str, obj: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"type": type_, "object": obj}, option=orjson.OPT_APPEND_NEWLINE)


def _bookmark(asked: Asked, revision: int, annotations: Mapping[str, str]) -> bytes:
    info = asked.kind.info
    kind, version = (
        ("PartialObjectMetadata", "meta.k8s.io/v1") if asked.metadata_only else (info.kind, info.api_version)
    )
    metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return _line("BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": metadata})


def _gone(revision: int, log: Log) -> bytes:
    return _line("ERROR", status.expired(revision, log.floor).body())
