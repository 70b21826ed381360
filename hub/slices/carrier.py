"""What a wake-up carries: the objects by which an agent goes from the slice before to a new one without a fetch.

    the slice's own commit, tree and slice.json            always
    of each subtree that is new in it                      what is not at the same place of the one before
    more than `wire.MAX_CARRIED_BYTES` together            nothing: the agent fetches

What is too large alone is not read, and what is carried to one cluster of a wave is at hand for the next. Everything
here blocks, as `gitstore` does; several threads may call it. Next: `copies` wakes agents up.
"""

from collections.abc import Iterator
from typing import Final

from hub.slices.compose import Composed
from hub.slices.gitstore import GitStore
from hub.slices.lru import Lru
from proto import wire
from proto.ids import Oid
from proto.messages import GitObject

_SMALL_BYTES_CACHED: Final = 16 << 20
"""Of objects that wake-ups carry, most to every cluster of a wave."""
_DIFFERENCES_BYTES_CACHED: Final = 16 << 20
"""Of what one subtree has and another has not, and what is around it: clusters alike are carried the same."""


class Carrier:
    """For the slices of one store."""

    def __init__(self, store: GitStore) -> None:
        self._store = store
        self._small: Lru[Oid, GitObject | None] = Lru(
            _SMALL_BYTES_CACHED, lambda found: len(found.data) if found else 0
        )
        self._differences: Lru[tuple[Oid, Oid | None], tuple[int, tuple[GitObject, ...]]] = Lru(
            _DIFFERENCES_BYTES_CACHED, lambda found: 200 + sum(100 + len(item.data) for item in found[1])
        )

    def carried(self, made: Composed) -> tuple[GitObject, ...]:
        """The module's table, for the slice `made`; empty when it is too much. Raises Permanent."""
        objects = [GitObject(kind=kind, data=data) for kind, data in made.objects]
        room = wire.MAX_CARRIED_BYTES - sum(len(item.data) for item in objects)
        for moved in made.moved:
            size, more = self._differences.get(moved, self._difference)
            room -= size
            if room < 0:
                return ()
            objects += more
        return tuple(objects)

    def _difference(self, moved: tuple[Oid, Oid | None]) -> tuple[int, tuple[GitObject, ...]]:
        """How many bytes the objects have, and they; none when that is more than a wake-up may carry."""
        objects, size = list[GitObject](), 0
        for oid in dict.fromkeys(self._differing(*moved)):
            found = self._small.get(oid, self._read_small)
            size += len(found.data) if found else wire.MAX_CARRIED_BYTES + 1
            if found is None or size > wire.MAX_CARRIED_BYTES:
                return size, ()
            objects.append(found)
        return size, tuple(objects)

    def _differing(self, tree: Oid, before: Oid | None) -> Iterator[Oid]:
        yield tree
        known = {(name, is_tree): oid for name, is_tree, oid in self._store.tree(before)} if before else {}
        for name, is_tree, oid in self._store.tree(tree):
            was = known.get((name, is_tree))
            if was != oid:
                yield from self._differing(oid, was) if is_tree else (oid,)

    def _read_small(self, oid: Oid) -> GitObject | None:
        """None when it is larger than all that a wake-up may carry."""
        if self._store.size(oid) > wire.MAX_CARRIED_BYTES:
            return None
        kind, data = self._store.object(oid)
        return GitObject(kind=kind, data=data)
