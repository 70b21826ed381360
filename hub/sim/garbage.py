"""The garbage collector of a simulated cluster, and the protection of volumes: what goes because something else went.

    an object                                          then
    has owners, and none of them is there              it is deleted
    goes in the foreground                             once its dependents are gone, which are deleted so too
    goes and orphans its dependents                    once they no longer name it as their owner
    is a volume or claim that goes                     once no Pod uses it

Next: `controllers` asks here first for whatever is due.
"""

from collections.abc import Mapping
from typing import Final

from hub.sim.client import Client
from hub.sim.owners import Item, Owners
from hub.sim.store import Table
from hub.sim.workloads import Json

FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
PROTECTION: Final[Mapping[Table, str]] = {
    ("", "persistentvolumeclaims"): "kubernetes.io/pvc-protection",
    ("", "persistentvolumes"): "kubernetes.io/pv-protection",
}
"""The finalizer of a kind that is taken off when nothing is in the way."""


class Garbage:
    """Of the objects whose `owners` are known."""

    def __init__(self, client: Client, owners: Owners) -> None:
        self._client = client
        self._owners = owners

    def collect(self, item: Item, obj: Json) -> bool:
        """Do what the module's table says of an object; whether it is going, so that nobody else need look at it."""
        if obj["metadata"].get("deletionTimestamp"):
            if not self._release_dependents(item, obj):
                self._unprotect(item, obj)
            return True
        if self._owners.abandoned(obj):
            self._client.delete(item)
            return True
        return False

    def _release_dependents(self, item: Item, obj: Json) -> bool:
        """Whether the deletion waits for dependents, or did until now."""
        metadata = obj["metadata"]
        finalizers = metadata.get("finalizers") or ()
        if not {FOREGROUND, ORPHAN} & set(finalizers):
            return False
        dependents = self._owners.dependents(obj)
        if ORPHAN in finalizers:
            for dependent in dependents:
                self._disown(dependent, str(metadata["uid"]))
        elif dependents:
            for dependent in dependents:
                self._client.delete(dependent, propagation="Foreground")
            if self._owners.dependents(obj):
                return True
        left = [name for name in finalizers if name not in (FOREGROUND, ORPHAN)]
        self._client.put(item, {**obj, "metadata": {**metadata, "finalizers": left}})
        return True

    def _disown(self, item: Item, uid: str) -> None:
        obj = self._client.read(item)
        if obj is not None:
            left = [owner for owner in obj["metadata"].get("ownerReferences") or () if owner.get("uid") != uid]
            self._client.put(item, {**obj, "metadata": {**obj["metadata"], "ownerReferences": left}})

    def _unprotect(self, item: Item, obj: Json) -> None:
        (table, (namespace, name)), metadata = item, obj["metadata"]
        finalizers = metadata.get("finalizers") or ()
        if PROTECTION.get(table) not in finalizers:
            return
        pods = self._client.api.store.items(("", "pods"), namespace) if namespace else ()
        volumes = (volume for _, pod in pods for volume in pod.read()["spec"].get("volumes") or ())
        if all((volume.get("persistentVolumeClaim") or {}).get("claimName") != name for volume in volumes):
            left = [one for one in finalizers if one != PROTECTION[table]]
            self._client.put(item, {**obj, "metadata": {**metadata, "finalizers": left}})
