"""Only one of us writes an object at a time, and its events are judged once that is answered. Next: `observe`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from agent.drift.observe import Observer
from agent.inventory import Inventory
from proto.objects import ObjectKey


class Writing:
    """Call it with an object's key for the context in which nobody else of us writes that object."""

    def __init__(self, observer: Observer, inventory: Inventory) -> None:
        self._observer = observer
        self._inventory = inventory
        self._locks: dict[ObjectKey, anyio.Lock] = {}

    @asynccontextmanager
    async def __call__(self, key: ObjectKey) -> AsyncIterator[None]:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = anyio.Lock(fast_acquire=True)
        async with lock:
            self._observer.flight.begin(key)
            try:
                yield
            finally:
                entry = self._inventory.entries.get(key)
                event = self._observer.flight.end(key, entry.baseline if entry is not None else None)
                if not lock.statistics().tasks_waiting:
                    self._locks.pop(key, None)
                if event is not None:
                    self._observer.judge(key, event)
