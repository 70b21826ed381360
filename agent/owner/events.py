"""Kubernetes Events: what was applied, drifted, reverted, failed, adopted, pruned, suspended, for `kubectl describe`.

    an event                                             is written
    of something new                                     while the bucket has a token: `BURST`, then one each `EVERY_S`
    the same again within `SERIES_S`                     as one more in the series of the first, at most each `EVERY_S`
    for which there is no token, or no room in the queue not; how many were left out is said in the next one
    that the API server refuses                          not; told once in the log, until one succeeds

Passes never wait for this. Each is told on the bundle's AppliedBundle, and on the object where one is meant: `kubectl`
finds both by name and uid. One about something cluster-scoped lives in namespace `default`, as the API demands. Names
are made of what the event says and when, so that one that is sent twice is one. Messages hold what reports hold: no
values of Secrets. Next: nobody; people read them.
"""

import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

from agent.kube.api_status import Conflict
from agent.model import ClusterApi
from proto.errors import FlotillaError
from proto.objects import ObjectKey, canonical

BURST: Final = 25
EVERY_S: Final = 10.0
SERIES_S: Final = 360.0
"""As of Kubernetes' own recorders: after this a series is over."""
QUEUE: Final = 100
SERIES: Final = 100
MAX_NOTE_BYTES: Final = 1000
"""The API server takes 1024."""
CONTROLLER: Final = "flotilla.dev/agent"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """What an event is about; `uid` is "" when it is not known."""

    key: ObjectKey
    api_version: str
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`reason` and `action` are one CamelCase word each; `about` is looked up when the event is written."""

    reason: str
    action: str
    note: str
    about: Callable[[], Regarding | None]
    warning: bool = False
    identity: tuple[str, ...] = ()
    """What makes two events the same, beside reason and note."""


@dataclass(slots=True, kw_only=True)
class _Series:
    regarding: Regarding
    name: str
    first: str
    count: int
    last_at: float


class Events:
    """`may_write` says whether we hold the lease, `timestamp` gives the wall time as RFC 3339 with microseconds;
    `instance` names this agent; `clock` is monotonic."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        instance: str,
        may_write: Callable[[], bool],
        timestamp: Callable[[], str],
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._api = api
        self._instance = instance
        self._may_write = may_write
        self._timestamp = timestamp
        self._clock = clock
        self._queue: deque[Event] = deque()
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._tokens = float(BURST)
        self._filled_at: float | None = None
        self._left_out = 0
        self._refused = False
        self._added = anyio.Event()

    def note(self, event: Event) -> None:
        """Tell this, when there is time and room."""
        if len(self._queue) >= QUEUE:
            self._left_out += 1
            return
        self._queue.append(event)
        self._added.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._added = anyio.Event()
            while self._queue:
                await self._one(self._queue.popleft())
            await self._added.wait()

    async def _one(self, event: Event) -> None:
        if not self._may_write():
            return
        now = self._clock()
        for known in [known for known, one in self._series.items() if now - one.last_at > SERIES_S]:
            del self._series[known]
        same = (event.reason, event.note, *event.identity)
        series = self._series.get(same)
        if series is not None:
            series.count += 1
            if now - series.last_at >= EVERY_S and self._take(now):
                series.last_at = now
                await self._again(series)
            return
        if not self._take(now):
            self._left_out += 1
            return
        about = event.about()
        if about is None:
            return
        first = self._timestamp()
        digest = hashlib.sha256(repr((about, same, first)).encode()).hexdigest()[:16]
        series = _Series(regarding=about, name=f"{about.key.name[:200]}.{digest}", first=first, count=1, last_at=now)
        if await self._send(_body(event, series, instance=self._instance, left_out=self._left_out), series):
            self._left_out = 0
            self._series[same] = series
            if len(self._series) > SERIES:
                self._series.popitem(last=False)

    async def _send(self, body: dict[str, Any], series: _Series) -> bool:
        key = _event_key(series)
        try:
            resource = await self._api.resource("events.k8s.io/v1", "Event")
            await self._api.create(resource, key, canonical(body))
        except Conflict:
            log.debug("%s is there already: its answer was lost", key)
        except FlotillaError as error:
            self._failed(error)
            return False
        self._refused = False
        return True

    async def _again(self, series: _Series) -> None:
        said = {"count": series.count, "lastObservedTime": self._timestamp()}
        try:
            resource = await self._api.resource("events.k8s.io/v1", "Event")
            operation = {"op": "add", "path": "/series", "value": said}
            await self._api.json_patch(resource, _event_key(series), [operation])
        except FlotillaError as error:
            self._failed(error)

    def _failed(self, error: FlotillaError) -> None:
        if not self._refused:
            log.warning("Events are not written: %s", error)
        self._refused = True

    def _take(self, now: float) -> bool:
        """A token of the bucket, if there is one."""
        if self._filled_at is not None:
            self._tokens = min(float(BURST), self._tokens + (now - self._filled_at) / EVERY_S)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def _event_key(series: _Series) -> ObjectKey:
    about = series.regarding.key
    return ObjectKey(group="events.k8s.io", kind="Event", namespace=about.namespace or "default", name=series.name)


def _body(event: Event, series: _Series, *, instance: str, left_out: int) -> dict[str, Any]:
    about, key = series.regarding, _event_key(series)
    more = f" ({left_out} more events were left out before this one)" if left_out else ""
    regarding = {
        "apiVersion": about.api_version,
        "kind": about.key.kind,
        "name": about.key.name,
        **({"namespace": about.key.namespace} if about.key.namespace else {}),
        **({"uid": about.uid} if about.uid else {}),
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "eventTime": series.first,
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "action": event.action,
        "regarding": regarding,
        "note": _short(event.note, MAX_NOTE_BYTES - len(more)) + more,
    }


def _short(text: str, most: int) -> str:
    """Pure: at most this many bytes of UTF-8, cut between characters."""
    data = text.encode()
    return text if len(data) <= most else data[: most - 3].decode(errors="ignore") + "…"
