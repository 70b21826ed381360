"""Until when drift is told and not reverted: maintenance pauses of an object, a namespace or the whole cluster.

    flotilla.dev/pause-until: <RFC 3339 time with an offset>     of
    on an object (live, not in Git)                              that object
    on a Namespace                                               the Namespace and everything in it
    Directives.paused_until of the hub                           the cluster

The latest of the three counts. A pause holds back reverts alone: a new slice is applied, and a time that is over, or
that cannot be read (which is told), pauses nothing. Times are compared with the agent's wall clock whenever drift is
looked at, so a clock that jumps is believed again at the next look; how long a pause may be is the owner's affair, and
it always shows in the reports. Annotations cannot be selected, so the metadata of all Namespaces is watched and only
those of pauses are kept. Next: `drift.guard` asks.
"""

import datetime
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import anyio

from agent.model import ClusterApi, WatchEvent
from proto.errors import FlotillaError, Transient
from proto.objects import ObjectKey

PAUSE: Final = "flotilla.dev/pause-until"
MOST_UNREADABLE: Final = 5
"""Objects that are named as having a time that cannot be read."""


def parse(text: str) -> float:
    """Pure: Unix seconds of an RFC 3339 time. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        raise ValueError("has no offset from UTC")
    return moment.timestamp()


class Pauses:
    """`cluster_until` gives the hub's time for the whole cluster ("": none); `changed` is called when a namespace's
    pause is another; `problem` takes (source, text), "" once over."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        cluster_until: Callable[[], str],
        changed: Callable[[], None],
        problem: Callable[[str, str], None],
        delays: Callable[[], Iterator[float]],
    ) -> None:
        self.known = anyio.Event()
        """Set once all namespaces' pauses were heard of, or may not be."""
        self._api = api
        self._cluster_until = cluster_until
        self._changed = changed
        self._problem = problem
        self._delays = delays
        self._namespaces: dict[str, float] = {}
        self._missing: set[str] = set()
        """Since the watch began anew: known from before, and not among its initial events so far."""
        self._unreadable: OrderedDict[str, str] = OrderedDict()

    def until(self, key: ObjectKey, live: Mapping[str, Any] | None) -> float | None:
        """Until when (Unix seconds, perhaps over) drift of an object is not to be reverted; None: it may be at once.
        `live` is the object or its metadata as it was seen last, None when nothing is known of it."""
        namespace = key.name if key.gk == "Namespace" else key.namespace
        found = [self._namespaces.get(namespace), self._read("the hub", self._cluster_until())]
        if live is not None and key.gk != "Namespace":
            found.append(self._read(str(key), _annotation(live)))
        return max((until for until in found if until is not None), default=None)

    async def run(self) -> None:
        """Watch Namespaces until cancelled."""
        for delay in self._delays():
            try:
                resource = await self._api.resource("v1", "Namespace")
                self._missing = set(self._namespaces)
                events = self._api.watch(resource, selector="", metadata_only=True)
                async with aclosing(events):  # type: ignore[type-var]
                    async for event in events:
                        self._see(event)
            except Transient as error:
                self._problem("pauses", f"pauses of namespaces are not heard of, the last known stay: {error}")
            except FlotillaError as error:
                why = f"pauses of namespaces are not seen: {error} (give the agent the right to watch namespaces)"
                self._problem("pauses", why)
                self.known.set()
            await anyio.sleep(delay)

    def _see(self, event: WatchEvent) -> None:
        if event.kind == "RESTARTED":
            self._missing = set(self._namespaces)
        elif event.kind == "SYNCED":
            self._problem("pauses", "")
            for name in self._missing & self._namespaces.keys():
                self._put(name, None)
            self._missing.clear()
            self.known.set()
        else:
            name = event.object["metadata"]["name"]
            self._missing.discard(name)
            text = _annotation(event.object) if event.kind != "DELETED" else ""
            self._put(name, self._read(f"Namespace/{name}", text))

    def _put(self, namespace: str, until: float | None) -> None:
        if self._namespaces.get(namespace) == until:
            return
        if until is None:
            del self._namespaces[namespace]
        else:
            self._namespaces[namespace] = until
        self._changed()

    def _read(self, whose: str, text: str) -> float | None:
        """The time, or None and a problem that names whose it is and what it says."""
        before = len(self._unreadable), self._unreadable.get(whose)
        found = None
        self._unreadable.pop(whose, None)
        if text:
            try:
                found = parse(text)
            except (ValueError, OverflowError):
                self._unreadable[whose] = (
                    f"{whose}: {PAUSE} is {text[:100]!r}, which pauses nothing (give a time such as "
                    "2026-01-31T18:00:00Z)"
                )
                if len(self._unreadable) > MOST_UNREADABLE:
                    self._unreadable.popitem(last=False)
        if before != (len(self._unreadable), self._unreadable.get(whose)):
            self._problem("pause times", "; ".join(self._unreadable.values()))
        return found


def _annotation(live: Mapping[str, Any]) -> str:
    return str(((live.get("metadata") or {}).get("annotations") or {}).get(PAUSE) or "")
