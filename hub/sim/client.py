"""Writes by kube-controller-manager: the few requests that all controllers of a simulated cluster are made of.

They go through `api`, so that they own fields and move versions as real ones do; what it refuses is an `ApiError`.
Next: `controllers` and `garbage` say what is written.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hub.sim.api import Api
from hub.sim.kinds import Kind
from hub.sim.owners import Item
from hub.sim.store import Table
from hub.sim.workloads import Json
from hub.sim.writes import Options

MANAGER: Final = "kube-controller-manager"
OPTIONS: Final = Options(manager=MANAGER, user="system:kube-controller-manager")


class Client:
    """Of one cluster's API server."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def read(self, item: Item) -> Json | None:
        """The object as it is; None when there is none."""
        record = self.api.store.get(*item)
        return record.read() if record is not None else None

    def put(self, item: Item, obj: Json, *, subresource: str = "") -> None:
        """Make it so."""
        self.api.update(self._kind(item[0]), item[1], obj, OPTIONS, subresource=subresource)

    def status(self, item: Item, obj: Json, status: Json) -> None:
        """Give an object, as it was read, its status, if that is another."""
        if obj.get("status") != status:
            self.put(item, {**obj, "status": status}, subresource="status")

    def delete(self, item: Item, *, propagation: str = "Background") -> None:
        """Delete it, unless it is gone or going."""
        there = self.read(item)
        if there is not None and not there["metadata"].get("deletionTimestamp"):
            self.api.delete(self._kind(item[0]), item[1], replace(OPTIONS, propagation=propagation))

    def create(self, table: Table, obj: Json) -> None:
        """Create it if there is none."""
        if self.read(place(table, obj)) is None:
            self._create(table, obj)

    def ensure(self, table: Table, obj: Json) -> None:
        """Create it, or make the fields given here so; others are let be."""
        item = place(table, obj)
        there = self.read(item)
        if there is None:
            self._create(table, obj)
            return
        wanted = {**there, **obj, "metadata": {**there["metadata"], **obj["metadata"]}}
        wanted["spec"] = {**there.get("spec", {}), **obj["spec"]} if "spec" in obj else there.get("spec")
        if wanted["spec"] is None:
            del wanted["spec"]
        if wanted != there:
            self.put(item, wanted)

    def _create(self, table: Table, obj: Json) -> None:
        self.api.create(self._kind(table), (obj["metadata"]["namespace"], ""), obj, OPTIONS)

    def _kind(self, table: Table) -> Kind:
        found = self.api.kinds.of_table(table)
        assert found is not None, f"{table} is served by nobody"
        return found


def place(table: Table, obj: Mapping[str, Any]) -> Item:
    """Pure: where an object of a kind is."""
    return table, (obj["metadata"]["namespace"], obj["metadata"]["name"])
