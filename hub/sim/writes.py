"""The second half of every write: from an object with its owners to the store, and to what follows from that.

    create, update    admission → the kind's own rules → validation → stored; not if only times would change
    delete            admission → gone, or marked until its finalizers are, or what it holds is
    a definition      its kind is served at once, and its status says so
    a namespace, or   what it holds is deleted first
    definition, goes

A dry run takes the same way and stores nothing. `api` is the first half, and who calls this.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from hub.sim import defaults, forms, kinds, managers, rules, status, validation
from hub.sim.kinds import Kind, Kinds
from hub.sim.managers import Writer
from hub.sim.policies import Policies
from hub.sim.review import Admission, Review
from hub.sim.store import Key, Store, Table

CRD: Final = ("apiextensions.k8s.io", "customresourcedefinitions")
NAMESPACES: Final = ("", "namespaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request says beside its object."""

    manager: str = "unknown"
    force: bool = False
    dry_run: bool = False
    strict: bool = False
    """Unknown fields are refused; otherwise they are dropped."""
    user: str = "admin"
    uid: str = ""
    resource_version: str = ""
    propagation: str = "Background"


class Writes:
    """`admission` is called in order at each write; `now` gives the time of objects."""

    def __init__(self, store: Store, served: Kinds, *, now: Callable[[], str]) -> None:
        self._store = store
        self._kinds = served
        self._now = now
        self.admission: list[Admission] = []
        self.policies = Policies(store)
        self.collects_garbage = False
        """Whether somebody finishes what a foreground deletion began."""
        self._allocated = 0

    @property
    def admits_all(self) -> bool:
        """Whether nobody may change or refuse a write."""
        return not self.admission and not self.policies

    # --- creating and updating ----------------------------------------------------------------------------------------

    def create(
        self, kind: Kind, key: Key, new: dict[str, Any], *, entries: list[dict[str, Any]], options: Options
    ) -> dict[str, Any]:
        """Store a new object that has these `managedFields`."""
        self._check_namespace(kind, key)
        new = forms.with_entries(new, entries)
        new = self._admit("CREATE", kind, key, new=new, old=None, options=options) or new
        if kind.has_status:
            new.pop("status", None)
        if kind.table == CRD:
            new["status"] = kinds.unestablished(new)
        metadata = new["metadata"]
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self._now()
        for given in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"):
            metadata.pop(given, None)
        if kind.info.has_generation:
            metadata["generation"] = 1
        if not kind.custom:
            new = defaults.defaulted(new, allocate=self._preview if options.dry_run else self._allocate)
        self._validate(kind, key, None, new)
        if options.dry_run:
            return new
        self._store.put(kind.table, key, new)
        if kind.table == CRD:
            self._establish(kind, key, new)
        return new

    def update(
        self,
        kind: Kind,
        key: Key,
        old: dict[str, Any],
        new: dict[str, Any],
        *,
        entries: list[dict[str, Any]],
        options: Options,
        subresource: str,
    ) -> dict[str, Any]:
        """Store what a write made of an object."""
        new = forms.with_entries(new, entries)
        new = self._admit("UPDATE", kind, key, new=new, old=old, options=options, subresource=subresource) or new
        group, name = kind.names
        if kind.has_status and subresource != "status":
            new = {**new, "status": old["status"]} if "status" in old else forms.less(new, "status")
        if kind.table == NAMESPACES:
            new["spec"] = old.get("spec", {})
        if not kind.custom:
            new = defaults.defaulted(new, old=old, allocate=self._preview if options.dry_run else self._allocate)
        metadata = new["metadata"]
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if kind.info.has_generation and subresource != "status":
            metadata["generation"] = rules.generation(old, new, group=group, kind=name, has_status=kind.has_status)
        self._validate(kind, key, old, new)
        if forms.same_but_times(old, new):
            return old
        if options.dry_run:
            return new
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and kind.table not in (NAMESPACES, CRD):
            self._remove(kind, key, {**new, "metadata": dict(metadata)})
            return new
        self._store.put(kind.table, key, new)
        if metadata.get("deletionTimestamp"):
            self._finish_deletion(kind, key)
        elif kind.table == CRD and not subresource:
            self._establish(kind, key, new)
        return new

    def _admit(
        self,
        operation: Literal["CREATE", "UPDATE", "DELETE"],
        kind: Kind,
        key: Key,
        *,
        new: dict[str, Any] | None,
        old: Mapping[str, Any] | None,
        options: Options,
        subresource: str = "",
    ) -> dict[str, Any] | None:
        def review() -> Review:
            return Review(
                operation=operation,
                kind=kind,
                key=key,
                object=new,
                old=old,
                subresource=subresource,
                user=options.user,
                dry_run=options.dry_run,
            )

        for admission in self.admission:
            new = admission(review()) or new
        if self.policies:
            self.policies.check(review())
        return new

    def _allocate(self, what: str) -> Any:
        """A free cluster IP or node port; they are never used again."""
        self._allocated += 1
        return self._preview(what)

    def _preview(self, what: str) -> Any:
        """What a write that is not dry would be given."""
        if what == "port":
            return 30000 + self._allocated % 2768
        return f"10.0.{self._allocated // 250 % 256}.{self._allocated % 250 + 1}"

    def _check_namespace(self, kind: Kind, key: Key) -> None:
        if not kind.info.namespaced:
            return
        namespace = self._store.get(NAMESPACES, ("", key[0]))
        if namespace is None:
            raise status.not_found(*NAMESPACES, key[0])
        if namespace.read()["metadata"].get("deletionTimestamp"):
            raise status.terminating(*kind.table, key[1], key[0])

    def _validate(self, kind: Kind, key: Key, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
        group, name = kind.names
        found = validation.invalid(new, kind.node) + rules.problems(new, group=group, kind=name)
        if old is not None:
            found += validation.changed_immutables(old, new)
        if found:
            raise status.invalid(group, name, key[1], found)

    # --- deletion -----------------------------------------------------------------------------------------------------

    def delete(self, kind: Kind, key: Key, old: dict[str, Any], options: Options) -> tuple[bool, dict[str, Any]]:
        """Whether the object is gone at once, and its last state."""
        metadata = old["metadata"]
        _check_preconditions(kind, key, metadata, options)
        self._admit("DELETE", kind, key, new=None, old=old, options=options)
        finalizers = list(metadata.get("finalizers") or ())
        if self.collects_garbage and options.propagation in ("Foreground", "Orphan"):
            added = "foregroundDeletion" if options.propagation == "Foreground" else "orphan"
            finalizers += [added] if added not in finalizers else []
        if not finalizers and kind.table not in (NAMESPACES, CRD):
            if not options.dry_run:
                self._remove(kind, key, old)
            return True, old
        if metadata.get("deletionTimestamp"):
            return False, old
        new = {**old, "metadata": {**metadata, "deletionTimestamp": self._now(), "deletionGracePeriodSeconds": 0}}
        if finalizers:
            new["metadata"]["finalizers"] = finalizers
        if metadata.get("generation"):
            new["metadata"]["generation"] = metadata["generation"] + 1
        if kind.table == NAMESPACES:
            new["status"] = {**(old.get("status") or {}), "phase": "Terminating"}
        if options.dry_run:
            return False, new
        self._store.put(kind.table, key, new)
        self._finish_deletion(kind, key)
        return False, new

    def _remove(self, kind: Kind, key: Key, obj: dict[str, Any]) -> None:
        self._store.delete(kind.table, key, obj)
        namespace = self._store.get(NAMESPACES, ("", key[0])) if key[0] else None
        if namespace is not None and namespace.read()["metadata"].get("deletionTimestamp"):
            found = self._kinds.of_table(NAMESPACES)
            assert found is not None
            self._finish_deletion(found, ("", key[0]))

    def _finish_deletion(self, kind: Kind, key: Key) -> None:
        """Delete what a namespace or definition that is being deleted holds, then itself once nothing is left."""
        if kind.table not in (NAMESPACES, CRD):
            return
        left = False
        for table, inner in self._held(kind, key):
            inner_kind, record = self._kinds.of_table(table), self._store.get(table, inner)
            if inner_kind is not None and record is not None:
                held = forms.as_version(record.read(), inner_kind)
                if not held["metadata"].get("deletionTimestamp"):
                    self.delete(inner_kind, inner, held, Options())
                left = left or self._store.get(table, inner) is not None
        record = self._store.get(kind.table, key)
        if left or record is None or record.read()["metadata"].get("finalizers"):
            return
        last = record.read()
        if kind.table == CRD:
            self._kinds.undefine(last)
        self._store.delete(kind.table, key, last)

    def _held(self, kind: Kind, key: Key) -> list[tuple[Table, Key]]:
        """The objects in a namespace, or of the kind of a definition."""
        if kind.table == NAMESPACES:
            tables, namespace = [table for table in self._store.tables() if table != NAMESPACES], key[1]
        else:
            record = self._store.get(kind.table, key)
            spec = record.read()["spec"] if record is not None else None
            tables, namespace = [(spec["group"], spec["names"]["plural"])] if spec else [], ""
        return [(table, inner) for table in tables for inner, _ in self._store.items(table, namespace)]

    # --- definitions --------------------------------------------------------------------------------------------------

    def _establish(self, kind: Kind, key: Key, definition: dict[str, Any]) -> None:
        """Serve a definition at once and say so in its status, as a write of the server's own."""
        self._kinds.define(definition)
        new = {**definition, "status": kinds.established(definition, now=self._now())}
        options = Options(manager="kube-apiserver")
        writer = Writer(
            operation="Update", manager=options.manager, api_version=kind.info.api_version, subresource="status"
        )
        entries = managers.update(
            definition,
            new,
            claims=managers.claims_of(definition),
            writer=writer,
            node=kind.node,
            now=self._now(),
            empty=managers.skeleton(kind.node),
        )
        self.update(kind, key, definition, new, entries=entries, options=options, subresource="status")


def _check_preconditions(kind: Kind, key: Key, metadata: Mapping[str, Any], options: Options) -> None:
    for name, wanted, there, happened in (
        ("UID", options.uid, metadata["uid"], "deleted and then recreated"),
        ("ResourceVersion", options.resource_version, metadata["resourceVersion"], "modified"),
    ):
        if wanted and wanted != there:
            cause = (
                f"the {name} in the precondition ({wanted}) does not match the {name} in record ({there}). "
                f"The object might have been {happened}"
            )
            raise status.conflict(*kind.names, key[1], cause)
