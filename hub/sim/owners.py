"""Who owns whom among the objects of a simulated cluster, by uid. Next: `garbage` collects what nobody owns."""

from collections.abc import Mapping
from typing import Any

from hub.sim.store import Key, Table

Item = tuple[Table, Key]


class Owners:
    """Learns of each object as it is written or deleted."""

    def __init__(self) -> None:
        self._dependents: dict[str, set[Item]] = {}
        self._live: dict[str, Item] = {}
        self._named: dict[Item, list[str]] = {}
        """The owners that each dependent named last."""

    def learn(self, item: Item, obj: Mapping[str, Any], *, gone: bool) -> set[Item]:
        """Whom the write concerns: the object's owners, and its dependents when it is gone."""
        uid = str(obj["metadata"].get("uid", ""))
        concerned: set[Item] = set()
        if gone:
            self._live.pop(uid, None)
            concerned |= self._dependents.get(uid, set())
        else:
            self._live[uid] = item
        before, now = self._named.pop(item, []), [] if gone else uids_of_owners(obj)
        for owner in before:
            self._dependents[owner].discard(item)
            if not self._dependents[owner]:
                del self._dependents[owner]
        for owner in now:
            self._dependents.setdefault(owner, set()).add(item)
        if now:
            self._named[item] = now
        concerned |= {self._live[owner] for owner in (*before, *now) if owner in self._live}
        return concerned

    def dependents(self, obj: Mapping[str, Any]) -> list[Item]:
        """What an object owns, in order."""
        return sorted(self._dependents.get(str(obj["metadata"]["uid"]), ()))

    def abandoned(self, obj: Mapping[str, Any]) -> bool:
        """Whether an object has owners, and none of them is there."""
        owners = uids_of_owners(obj)
        return bool(owners) and not any(owner in self._live for owner in owners)


def uids_of_owners(obj: Mapping[str, Any]) -> list[str]:
    """Pure: the uids in an object's ownerReferences."""
    return list({str(owner.get("uid")): None for owner in obj["metadata"].get("ownerReferences") or ()})
