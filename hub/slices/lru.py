"""A bounded cache for what is dear to make and never changes: parsed trees, compressed entries. Next: `gitstore`."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """A cache that forgets what was used least recently once the sum of `weigh`, asked once for each value that is
    kept, exceeds `limit`. Thread-safe."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        self._limit = limit
        self._weigh = weigh
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """The value of `key`, made by `make` (outside of the lock, so perhaps twice) when it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make(key)
        with self._lock:
            if key not in self._kept:
                weight = self._weigh(value)
                self._kept[key] = value, weight
                self._weight += weight
            while self._weight > self._limit:
                _, (_, weight) = self._kept.popitem(last=False)
                self._weight -= weight
        return value
