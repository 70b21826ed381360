"""What the files of a slice say about their objects, read once per changed file, and the order that follows from it.

Assumes that the blobs of the slice are here (`receive`). A file that cannot be read stops its own object only. Next:
`plan` and `reconcile`.
"""

from collections.abc import Callable, Mapping

import anyio.to_thread
import orjson

from agent.apply import order as ordering
from agent.apply.order import Order, Traits
from agent.model import Desired, Entry
from proto.errors import FlotillaError
from proto.ids import Oid
from proto.objects import ObjectKey, key_of


class Manifests:
    """`traits` is of every object of the slice, `wanted` their keys, `order` the order; `read` gives a file by its
    blob id."""

    def __init__(self, read: Callable[[Oid], bytes]) -> None:
        self._read = read
        self._bundles: dict[str, dict[ObjectKey, Traits]] = {}
        self.traits: Mapping[ObjectKey, Traits] = {}
        self.order = Order()
        self.wanted: frozenset[ObjectKey] = frozenset()

    async def take_up(self, desired: Desired, *, before: Desired) -> None:
        """Read what `desired` has and `before`, which was taken up last, has not."""
        # With thousands of objects it takes longer than the event loop may stand still.
        self._bundles, self.order = await anyio.to_thread.run_sync(self._look_through, desired, before)
        self.traits = {key: own for objects in self._bundles.values() for key, own in objects.items()}
        self.wanted = frozenset(self.traits)

    def expires(self, key: ObjectKey) -> bool:
        """Whether an object goes by itself once it has run to its end."""
        return key in self.traits and self.traits[key].expires

    def kinds(self, entries: Mapping[ObjectKey, Entry]) -> dict[tuple[str, str], str]:
        """The apiVersion to watch each (group, kind) of the slice and of the inventory by. A kind whose definition is
        still to be applied cannot be watched, and asking for it early would only delay it."""
        coming = {own.defines for key, own in self.traits.items() if own.defines and key not in entries}
        kinds: dict[tuple[str, str], str] = {}
        for key, own in self.traits.items():
            if own.api_version and key.gk not in coming:
                kinds.setdefault((key.group, key.kind), own.api_version)
        for key, entry in entries.items():
            kinds.setdefault((key.group, key.kind), entry.api_version)
        return kinds

    def _look_through(self, desired: Desired, before: Desired) -> tuple[dict[str, dict[ObjectKey, Traits]], Order]:
        traits = {}
        one_of: dict[Traits, Traits] = {}
        for name, bundle in desired.bundles.items():
            last = before.bundles.get(name)
            known = self._bundles.get(name, {})
            if last is not None and last.subtree == bundle.subtree:
                traits[name] = known
                continue
            old = last.objects if last is not None else {}
            traits[name] = {}
            for key, blob in bundle.objects.items():
                found = known[key] if old.get(key) == blob else self._read_one(key, blob)
                traits[name][key] = one_of.setdefault(found, found)  # most objects have the same few
        return traits, ordering.order(traits)

    def _read_one(self, key: ObjectKey, blob: Oid) -> Traits:
        try:
            manifest = orjson.loads(self._read(blob))
            if key_of(manifest) == key:
                return ordering.traits(manifest)
            problem = f"its file holds {key_of(manifest)}"
        except (FlotillaError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            problem = f"its file in the slice cannot be read: {error}"
        return Traits(api_version="", problem=problem)
