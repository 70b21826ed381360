"""Follows the objects of one kind, all or those of `Where`, for ever, through everything that ends a watch.

    what happens                                            what follows
    the server closes the stream (it does every few minutes) reopen from the last resourceVersion: no initial events
    connection lost, refused, 429, 5xx                       the same after a delay
    410, or an ERROR event that says so                      RESTARTED and initial events
    no line for `silence_s`                                  the same: bookmarks come each minute, the stream is dead
    the end before SYNCED                                    the same
    401, 403, 404, 400                                       raised: a person or the caller has to act

Initial events are streamed (WatchList) and so need no list in memory; where the server refuses that, pages of a list
take their place. Objects are parsed one at a time and dropped. Next: `drift` judges what comes.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import orjson

from agent.kube import api_status
from agent.kube.api_status import Expired, Invalid
from agent.model import Resource, WatchEvent
from proto.errors import FlotillaError, Transient

logger = logging.getLogger("flotilla.agent.watch")

SILENCE_S = 120.0
"""Twice the interval of bookmarks."""
_SESSION_S = 3600
"""How long we ask the server to keep a watch open: an idle agent's requests are these reopenings."""
_PAGE = 500
_INITIAL_END = "k8s.io/initial-events-end"


class Silent(Transient):
    """A stream from which nothing came for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which objects of a kind: a label selector, one namespace, one name; empty for all."""

    selector: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def query(self) -> dict[str, str]:
        found = {"labelSelector": self.selector, "fieldSelector": f"metadata.name={self.name}" if self.name else ""}
        return {name: value for name, value in found.items() if value}


class Source(Protocol):
    """Where lists and streams come from; `cluster.Cluster` is one."""

    def lines(
        self, resource: Resource, query: Mapping[str, str], *, metadata_only: bool, namespace: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The lines of a watch. Raises our errors while it opens, Silent or Transient while it is read."""
        ...

    async def page(
        self, resource: Resource, query: Mapping[str, str], *, metadata_only: bool, namespace: str = ""
    ) -> dict[str, Any]:
        """One page of a list."""
        ...


async def follow(
    source: Source,
    resource: Resource,
    where: Where,
    *,
    metadata_only: bool,
    delays: Callable[[], Iterator[float]],
) -> AsyncIterator[WatchEvent]:
    """See the module's table. `delays` gives the seconds to wait before each further try in a row without success.

    Close it (`contextlib.aclosing`) to give its connection back at once.
    """
    version, begun, streaming = "", False, True
    waits = delays()
    while True:
        if not version and begun:
            yield WatchEvent(kind="RESTARTED", resource=resource)
        begun = True
        heard = False
        problem: FlotillaError | None = None
        try:
            if not version and not streaming:
                listed = _listed(source, resource, where, metadata_only=metadata_only)
                async for event, listed_at in listed:
                    yield event
                    version = listed_at
            query = _query(where, version)
            opened = source.lines(resource, query, metadata_only=metadata_only, namespace=where.namespace)
            async with opened as lines:
                synced = bool(version)
                async for line in lines:
                    heard = True
                    kind, obj = _event(line, resource)
                    if kind != "BOOKMARK":
                        yield WatchEvent(kind=kind, resource=resource, object=obj)
                    elif not synced and _INITIAL_END in (obj["metadata"].get("annotations") or {}):
                        synced = True
                        yield WatchEvent(kind="SYNCED", resource=resource)
                    if synced:
                        version = str(obj["metadata"]["resourceVersion"])
        except (Expired, Silent) as error:
            version, problem = "", error
        except Invalid:
            if version or not streaming:
                raise
            streaming = begun = False
            continue
        except Transient as error:
            problem = error
        if problem is not None:
            logger.info("%s watch: %s", resource.kind, problem)
        if heard:
            waits = delays()
        if not heard or problem is not None:
            least = problem.retry_after_s if isinstance(problem, Transient) else None
            await anyio.sleep(max(next(waits), least or 0.0))


async def _listed(
    source: Source, resource: Resource, where: Where, *, metadata_only: bool
) -> AsyncIterator[tuple[WatchEvent, str]]:
    """The initial events from a list, and SYNCED with the resourceVersion to go on from; "" with the others."""
    query = {**where.query, "limit": str(_PAGE)}
    while True:
        page = await source.page(resource, query, metadata_only=metadata_only, namespace=where.namespace)
        for item in page.get("items") or ():
            yield WatchEvent(kind="ADDED", resource=resource, object=item), ""
        metadata = page["metadata"]
        if not metadata.get("continue"):
            yield WatchEvent(kind="SYNCED", resource=resource), str(metadata["resourceVersion"])
            return
        query["continue"] = metadata["continue"]


def _query(where: Where, version: str) -> dict[str, str]:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        **where.query,
        # Spread, so that watches opened together do not all reopen together.
        "timeoutSeconds": str(int(_SESSION_S * random.uniform(0.8, 1.2))),
    }
    if version:
        return {**query, "resourceVersion": version}
    return {**query, "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}


def _event(line: bytes, resource: Resource) -> tuple[Any, dict[str, Any]]:
    """The kind and the object of one line. Raises what an ERROR event says, Transient for a line that is cut off."""
    try:
        event = orjson.loads(line)
        kind, obj = event["type"], event["object"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Transient(f"{resource.kind} watch", f"sent a line that is no event: {error}") from error
    if kind == "ERROR":
        raise api_status.error_of(
            int(obj.get("code") or 500), orjson.dumps(obj), about=resource.kind, action="watch", secret=False
        )
    return kind, obj
