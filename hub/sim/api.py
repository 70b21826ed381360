"""The verbs of the simulated API server, on plain objects: what is read, what a write makes of the object there was.

A write goes, as on the real server, through: decode and defaults → ownership (`managers`) → admission → the kind's own
rules → validation → storage; one that changes nothing but times stores nothing. Everything here happens at once,
without awaiting: two writes never mix. Refusals are `ApiError`s. Next: `server` speaks HTTP.
Longer than other modules: every verb takes the same steps, which are methods here.
"""

import base64
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson

from hub.sim import defaults, fit, managers, merge, patch, rules, selectors, status, validation
from hub.sim.fieldset import Paths
from hub.sim.kinds import Kind, Kinds
from hub.sim.managers import Claims, Writer
from hub.sim.policies import Policies
from hub.sim.review import Admission, Review
from hub.sim.status import ApiError
from hub.sim.store import Key, Record, Store

PatchType = Literal["json", "merge", "strategic", "apply"]

CRD: Final = ("apiextensions.k8s.io", "customresourcedefinitions")
NAMESPACES: Final = ("", "namespaces")
_KEPT: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
"""Metadata that no request changes."""


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


def wall_clock() -> str:
    """The time as objects carry it, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Api:
    """One cluster's verbs. `admission` is called in order at each write; `now` gives the time of objects."""

    def __init__(self, store: Store, *, now: Callable[[], str] = wall_clock) -> None:
        self.store = store
        self.kinds = Kinds()
        self.now = now
        self.admission: list[Admission] = []
        self.policies = Policies(store)
        self.collects_garbage = False
        """Whether somebody finishes what a foreground deletion began."""
        self._allocated = 0
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.create(self._namespaces, ("", name), _namespace(name), Options(manager="kube-apiserver"))

    @property
    def _namespaces(self) -> Kind:
        return self._kind("", "v1", "namespaces")

    def _kind(self, group: str, version: str, plural: str) -> Kind:
        found = self.kinds.find(group, version, plural)
        if found is None:
            raise status.no_such_path()
        return found

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, key: Key) -> dict[str, Any]:
        return as_version(self._record(kind, key).read(), kind)

    def _record(self, kind: Kind, key: Key) -> Record:
        record = self.store.get(kind.table, key)
        if record is None:
            raise status.not_found(*kind.table, key[1])
        return record

    def list_(
        self, kind: Kind, namespace: str, selector: selectors.Selector, *, limit: int = 0, after: str = ""
    ) -> dict[str, Any]:
        """A list of all that is selected, `limit` at a time; `after` is the `continue` of the page before."""
        start = _position(after)
        rows = [
            (key, record)
            for key, record in self.store.items(kind.table, namespace)
            if selector.matches(key, record.labels, record.fields) and (start is None or key > start)
        ]
        metadata: dict[str, Any] = {"resourceVersion": str(self.store.revision)}
        if limit and len(rows) > limit:
            metadata["remainingItemCount"] = len(rows) - limit
            rows = rows[:limit]
            metadata["continue"] = base64.urlsafe_b64encode(orjson.dumps(rows[-1][0])).decode()
        items = [as_version(record.read(), kind) for _, record in rows]
        return {
            "kind": f"{kind.info.kind}List",
            "apiVersion": kind.info.api_version,
            "metadata": metadata,
            "items": items,
        }

    # --- writing ------------------------------------------------------------------------------------------------------

    def create(self, kind: Kind, key: Key, sent: Any, options: Options) -> dict[str, Any]:
        """A new object by POST, whose fields, defaults included, become the writer's."""
        new = self._decode(kind, key, sent, options, old=None)
        metadata = new["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        if not metadata.get("name"):
            message = "Required value: name or generateName is required"
            raise status.invalid(kind.info.group, kind.info.kind, "", [("metadata.name", message)])
        key = (key[0], metadata["name"])
        if self.store.get(kind.table, key) is not None:
            raise status.already_exists(*kind.table, key[1])
        if metadata.get("resourceVersion"):
            raise ApiError(400, "resourceVersion should not be set on objects to be created")
        claims = managers.claims_for_update(None, new, subresource="")
        writer = Writer(operation="Update", manager=options.manager, api_version=kind.info.api_version)
        reset = _status_field(kind) | rules.given(sent, group=kind.info.group, kind=kind.info.kind)
        entries = managers.update(
            None, new, claims=claims, writer=writer, node=kind.node, now=self.now(), reset=reset, empty=_new(kind)
        )
        return self._create(kind, key, new, entries, options)

    def update(self, kind: Kind, key: Key, sent: Any, options: Options, *, subresource: str = "") -> dict[str, Any]:
        """A whole object by PUT."""
        if not subresource:
            self._manifest(kind, key, sent)
        old = self.get(kind, key)
        if subresource == "scale":
            return self._scaled(kind, key, old, sent, options)
        return self._replace(kind, key, old, sent, options, subresource)

    def patch(
        self, kind: Kind, key: Key, sent: Any, options: Options, *, how: PatchType, subresource: str = ""
    ) -> tuple[bool, dict[str, Any]]:
        """Whether the object is new, and the object."""
        if how == "apply":
            return self._apply(kind, key, sent, options, subresource)
        old = self.get(kind, key)
        before = scale_of(old) if subresource == "scale" else old
        try:
            if how == "json":
                after = patch.json_patch(before, sent)
            elif how == "merge":
                after = patch.merge_patch(before, sent)
            elif kind.custom:
                raise ApiError(
                    415,
                    "the body of the request was in an unknown format - accepted media types include: "
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                )
            else:
                after = patch.strategic_patch(before, sent, None if subresource == "scale" else kind.node)
        except patch.Unpatchable as error:
            if error.malformed:
                raise ApiError(400, str(error)) from error
            message = "the server rejected our request due to an error in our request"
            raise ApiError(422, message, details={}) from error
        if subresource == "scale":
            return False, self._scaled(kind, key, old, after, options)
        return False, self._replace(kind, key, old, after, options, subresource)

    def _replace(
        self, kind: Kind, key: Key, old: dict[str, Any], sent: Any, options: Options, subresource: str
    ) -> dict[str, Any]:
        new = self._decode(kind, key, sent, options, old=old)
        version = new["metadata"].get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise status.modified(*kind.table, key[1])
        if new["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            cause = _other_uid(new["metadata"]["uid"], old["metadata"]["uid"])
            raise status.conflict(*kind.table, key[1], cause)
        claims = managers.claims_for_update(old, new, subresource=subresource)
        if subresource:
            new = {**old, subresource: new.get(subresource, {})} if subresource in new else _less(old, subresource)
        new["metadata"] = _kept(new["metadata"], old["metadata"])
        return self._owned_update(kind, key, old, new, options, claims=claims, subresource=subresource)

    def _owned_update(
        self,
        kind: Kind,
        key: Key,
        old: dict[str, Any],
        new: dict[str, Any],
        options: Options,
        *,
        claims: Claims,
        subresource: str,
    ) -> dict[str, Any]:
        writer = Writer(
            operation="Update", manager=options.manager, api_version=kind.info.api_version, subresource=subresource
        )
        reset = _status_field(kind) if not subresource else frozenset()
        entries = managers.update(
            old, new, claims=claims, writer=writer, node=kind.node, now=self.now(), reset=reset, empty=_new(kind)
        )
        return self._update(kind, key, old, new, entries, options, subresource)

    def _scaled(self, kind: Kind, key: Key, old: dict[str, Any], sent: Any, options: Options) -> dict[str, Any]:
        replicas = (sent.get("spec") or {}).get("replicas", 0) if isinstance(sent, Mapping) else None
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise ApiError(400, "Scale: spec.replicas is no number")
        version = (sent.get("metadata") or {}).get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise status.modified(*kind.table, key[1])
        new = {**old, "spec": {**(old.get("spec") or {}), "replicas": replicas}}
        claims = managers.claims_of(old)
        return scale_of(self._owned_update(kind, key, old, new, options, claims=claims, subresource="scale"))

    def _apply(
        self, kind: Kind, key: Key, sent: Any, options: Options, subresource: str
    ) -> tuple[bool, dict[str, Any]]:
        applied = self._manifest(kind, key, sent)
        applied_in = (sent.get("metadata") or {}).get("namespace", "")
        record = self.store.get(kind.table, key)
        old = as_version(record.read(), kind) if record else None
        if old is None and subresource:
            raise status.not_found(*kind.table, key[1])
        if applied["metadata"].pop("managedFields", None):
            raise ApiError(400, "metadata.managedFields must be nil")
        uid, version = applied["metadata"].get("uid"), applied["metadata"].get("resourceVersion")
        if uid and old is None:
            cause = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise status.conflict(*kind.table, key[1], cause)
        if uid and old is not None and uid != old["metadata"]["uid"]:
            raise status.conflict(*kind.table, key[1], _other_uid(uid, old["metadata"]["uid"]))
        if version and old is not None and version != old["metadata"]["resourceVersion"]:
            raise status.modified(*kind.table, key[1])
        misfits = fit.misfits(applied, kind.node)
        about = f"({applied_in}/{key[1]}; {kind.info.group}/{kind.info.version}, Kind={kind.info.kind})"
        if misfits:
            told = misfits[0] if len(misfits) == 1 else "errors:\n  " + "\n  ".join(sorted(misfits))
            raise ApiError(500, f"failed to create typed patch object {about}: {told}")
        writer = Writer(
            operation="Apply", manager=options.manager, api_version=kind.info.api_version, subresource=subresource
        )
        if subresource:
            reset: Paths = frozenset((f"f:{name}",) for name in applied if name != subresource)
        else:
            reset = _status_field(kind)
        try:
            merged, entries = managers.apply(
                old,
                applied,
                writer=writer,
                node=kind.node,
                force=options.force,
                now=self.now(),
                reset=reset,
                empty=_new(kind),
            )
        except managers.Conflicts as conflicts:
            raise status.managers_conflict(conflicts) from conflicts
        except merge.Malformed as error:
            raise ApiError(500, f"failed to create typed patch object {about}: {error}") from error
        if (
            old is not None
            and not self.admission
            and not self.policies
            and _same_but_times(old, self._with_entries(merged, entries))
        ):
            return False, old
        try:
            new = self._typed(kind, merged, old)
        except rules.Unreadable as error:
            which = f"{kind.info.group}/{kind.info.version}, Kind={kind.info.kind}"
            cause = f"unable to convert unstructured object to {which}: error decoding from json: {error}"
            raise ApiError(500, f"failed to convert new object {about} to proper version: {cause}") from error
        if old is None:
            return True, self._create(kind, key, new, entries, options)
        if subresource:
            new = {**old, subresource: new.get(subresource, {})}
        new["metadata"] = _kept(new["metadata"], old["metadata"])
        return False, self._update(kind, key, old, new, entries, options, subresource)

    def delete(self, kind: Kind, key: Key, options: Options) -> tuple[bool, dict[str, Any]]:
        """Whether the object is gone at once, and its last state."""
        old = self.get(kind, key)
        metadata = old["metadata"]
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
        self._admit("DELETE", kind, key, None, old, options)
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
        new = {**old, "metadata": {**metadata, "deletionTimestamp": self.now(), "deletionGracePeriodSeconds": 0}}
        if finalizers:
            new["metadata"]["finalizers"] = finalizers
        if metadata.get("generation"):
            new["metadata"]["generation"] = metadata["generation"] + 1
        if kind.table == NAMESPACES:
            new["status"] = {**(old.get("status") or {}), "phase": "Terminating"}
        if options.dry_run:
            return False, new
        self.store.put(kind.table, key, new)
        self._finish_deletion(kind, key)
        return False, new

    def delete_collection(
        self, kind: Kind, namespace: str, selector: selectors.Selector, options: Options
    ) -> dict[str, Any]:
        """Deletes all that is selected; returns it as a list."""
        answer = self.list_(kind, namespace, selector)
        for item in answer["items"]:
            self.delete(kind, (item["metadata"].get("namespace", ""), item["metadata"]["name"]), options)
        return answer

    # --- steps of a write ---------------------------------------------------------------------------------------------

    def _manifest(self, kind: Kind, key: Key, sent: Any) -> dict[str, Any]:
        """What was sent, checked as far as every request is."""
        if not isinstance(sent, dict) or not isinstance(sent.get("metadata", {}), dict):
            raise ApiError(400, "the object provided is unrecognized (must be of type object)")
        obj = {"apiVersion": kind.info.api_version, "kind": kind.info.kind, **sent}
        if (obj["apiVersion"], obj["kind"]) != (kind.info.api_version, kind.info.kind):
            raise ApiError(
                400,
                f"the API version in the data ({obj['apiVersion']}, Kind={obj['kind']}) does not match the expected "
                f"API version ({kind.info.api_version}, Kind={kind.info.kind})",
            )
        metadata = obj["metadata"] = dict(obj.get("metadata") or {})
        namespace, name = key
        if name and metadata.setdefault("name", name) != name:
            raise ApiError(
                400, f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        if kind.info.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise ApiError(400, "the namespace of the provided object does not match the namespace sent on the request")
        if not kind.info.namespaced:
            metadata.pop("namespace", None)
        return obj

    def _decode(
        self, kind: Kind, key: Key, sent: Any, options: Options, *, old: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """An object as it was sent by POST or PUT, or comes out of a patch, with defaults."""
        obj: dict[str, Any] = fit.without_nulls(self._manifest(kind, key, sent))
        unreadable = fit.unreadable(obj, kind.node)
        if unreadable and not kind.custom:
            told = f'{kind.info.kind} in version "{kind.info.version}" cannot be handled as a {kind.info.kind}'
            raise ApiError(400, f"{told}: {unreadable[0]}")
        unknown = validation.unknown_fields(obj, kind.node)
        if unknown and options.strict:
            told = ", ".join(f'unknown field "{path}"' for path in unknown)
            head = f'{kind.info.kind} in version "{kind.info.version}" cannot be handled as a {kind.info.kind}: '
            raise ApiError(400, f"{'' if kind.custom else head}strict decoding error: {told}")
        try:
            return self._typed(kind, obj, old)
        except rules.Unreadable as error:
            message = f"{kind.info.kind} in version {kind.info.version!r} cannot be handled: {error}"
            raise ApiError(400, message) from error

    def _typed(self, kind: Kind, obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
        """Without what the schema does not know, with defaults. Raises rules.Unreadable."""
        known: dict[str, Any] = validation.pruned(fit.without_nulls(dict(obj)), kind.node)
        if kind.custom:
            filled: dict[str, Any] = validation.with_defaults(known, kind.node)
            return {**filled, "metadata": known["metadata"]}
        group, name = kind.names
        rules.check_readable(known, group=group, kind=name)
        return defaults.defaulted(known, old=old)

    def _create(
        self, kind: Kind, key: Key, new: dict[str, Any], entries: list[dict[str, Any]], options: Options
    ) -> dict[str, Any]:
        self._check_namespace(kind, key)
        new = self._with_entries(new, entries)
        new = self._admit("CREATE", kind, key, new, None, options) or new
        if kind.has_status:
            new.pop("status", None)
        if kind.table == CRD:
            new["status"] = _unestablished(new)
        metadata = new["metadata"]
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self.now()
        for given in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"):
            metadata.pop(given, None)
        if kind.info.has_generation:
            metadata["generation"] = 1
        if not kind.custom:
            new = defaults.defaulted(new, allocate=self._preview if options.dry_run else self._allocate)
        self._validate(kind, key, None, new)
        if options.dry_run:
            return new
        self.store.put(kind.table, key, new)
        if kind.table == CRD:
            new = self._establish(kind, key, new)
        return new

    def _update(
        self,
        kind: Kind,
        key: Key,
        old: dict[str, Any],
        new: dict[str, Any],
        entries: list[dict[str, Any]],
        options: Options,
        subresource: str,
    ) -> dict[str, Any]:
        new = self._with_entries(new, entries)
        new = self._admit("UPDATE", kind, key, new, old, options, subresource) or new
        group, name = kind.names
        if kind.has_status and subresource != "status":
            new = {**new, "status": old["status"]} if "status" in old else _less(new, "status")
        if kind.table == NAMESPACES:
            new["spec"] = old.get("spec", {})
        if not kind.custom:
            new = defaults.defaulted(new, old=old, allocate=self._preview if options.dry_run else self._allocate)
        metadata = new["metadata"]
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if kind.info.has_generation and subresource != "status":
            metadata["generation"] = rules.generation(old, new, group=group, kind=name, has_status=kind.has_status)
        self._validate(kind, key, old, new)
        if _same_but_times(old, new):
            return old
        if options.dry_run:
            return new
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and kind.table not in (NAMESPACES, CRD):
            self._remove(kind, key, {**new, "metadata": dict(metadata)})
            return new
        self.store.put(kind.table, key, new)
        if metadata.get("deletionTimestamp"):
            self._finish_deletion(kind, key)
        elif kind.table == CRD and not subresource:
            return self._establish(kind, key, new)
        return new

    def _with_entries(self, new: Mapping[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
        metadata = {name: value for name, value in new["metadata"].items() if name != "managedFields"}
        if entries:
            metadata["managedFields"] = entries
        return {**new, "metadata": metadata}

    def _admit(
        self,
        operation: Literal["CREATE", "UPDATE", "DELETE"],
        kind: Kind,
        key: Key,
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
        namespace = self.store.get(NAMESPACES, ("", key[0]))
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

    # --- deletion and definitions -------------------------------------------------------------------------------------

    def _remove(self, kind: Kind, key: Key, obj: dict[str, Any]) -> None:
        self.store.delete(kind.table, key, obj)
        if key[0]:
            namespace = self.store.get(NAMESPACES, ("", key[0]))
            if namespace is not None and namespace.read()["metadata"].get("deletionTimestamp"):
                self._finish_deletion(self._namespaces, ("", key[0]))

    def _finish_deletion(self, kind: Kind, key: Key) -> None:
        """Delete what a namespace or definition that is being deleted holds, then itself once nothing is left."""
        if kind.table == NAMESPACES:
            held = [
                (self.kinds.of_table(table), inner)
                for table in self.store.tables()
                for inner, _ in list(self.store.items(table, key[1]))
                if table != NAMESPACES
            ]
        elif kind.table == CRD:
            spec = self.get(kind, key)["spec"]
            table = spec["group"], spec["names"]["plural"]
            held = [(self.kinds.of_table(table), inner) for inner, _ in list(self.store.items(table))]
        else:
            return
        left = False
        for inner_kind, inner in held:
            if inner_kind is not None and self.store.get(inner_kind.table, inner) is not None:
                if not self.get(inner_kind, inner)["metadata"].get("deletionTimestamp"):
                    self.delete(inner_kind, inner, Options())
                left = left or self.store.get(inner_kind.table, inner) is not None
        record = self.store.get(kind.table, key)
        if left or record is None or record.read()["metadata"].get("finalizers"):
            return
        last = record.read()
        if kind.table == CRD:
            self.kinds.undefine(last)
        self.store.delete(kind.table, key, last)

    def _establish(self, kind: Kind, key: Key, definition: dict[str, Any]) -> dict[str, Any]:
        """Serve a definition at once and say so in its status, as a write of the server's own."""
        self.kinds.define(definition)
        names = definition["spec"]["names"]
        stored = list((definition.get("status") or {}).get("storedVersions") or ())
        storage = next(version["name"] for version in definition["spec"]["versions"] if version.get("storage"))
        conditions = (definition.get("status") or {}).get("conditions") or [
            {
                "type": type_,
                "status": "True",
                "lastTransitionTime": self.now(),
                "reason": reason,
                "message": message,
            }
            for type_, reason, message in (
                ("NamesAccepted", "NoConflicts", "no conflicts found"),
                ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            )
        ]
        new = {
            **definition,
            "status": {
                "conditions": conditions,
                "acceptedNames": {"singular": names.get("singular") or names["kind"].lower(), **names},
                "storedVersions": stored if storage in stored else [*stored, storage],
            },
        }
        claims = managers.claims_of(definition)
        options = Options(manager="kube-apiserver")
        self._owned_update(kind, key, definition, new, options, claims=claims, subresource="status")
        return definition


def as_version(obj: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Pure: the object as this version of its kind serves it."""
    obj["apiVersion"] = kind.info.api_version
    return obj


def metadata_only(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: the object's PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def scale_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: the Scale of a workload."""
    metadata, spec, state = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    named = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = spec.get("selector") or {}
    labels = selector.get("matchLabels", selector if "matchExpressions" not in selector else {})
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in named if name in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": state.get("replicas", 0),
            "selector": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        },
    }


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _other_uid(sent: str, uid: str) -> str:
    return f"Precondition failed: UID in precondition: {sent}, UID in object meta: {uid}"


def _unestablished(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a definition that nobody looked at yet."""
    stored = [version["name"] for version in definition["spec"].get("versions") or () if version.get("storage")]
    return {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}


def _new(kind: Kind) -> dict[str, Any]:
    return {} if kind.custom else managers.skeleton(kind.node)


def _status_field(kind: Kind) -> frozenset[tuple[str, ...]]:
    return frozenset({("f:status",)}) if kind.has_status else frozenset()


def _less(obj: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in obj.items() if key != name}


def _kept(sent: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as sent, but for what no request changes."""
    changed = {name: value for name, value in sent.items() if name not in _KEPT}
    return {**changed, **{name: old[name] for name in _KEPT if name in old}, "name": old["name"]}


def _same_but_times(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a write changes nothing, or only the times of `managedFields`."""

    def bare(obj: Mapping[str, Any]) -> dict[str, Any]:
        metadata = dict(obj["metadata"])
        metadata["managedFields"] = [_less(entry, "time") for entry in metadata.get("managedFields") or ()]
        return {**obj, "metadata": metadata}

    return merge.same(bare(old), bare(new))


def _position(token: str) -> Key | None:
    if not token:
        return None
    try:
        namespace, name = orjson.loads(base64.urlsafe_b64decode(token))
    except ValueError as error:
        raise ApiError(400, "continue key is not valid") from error
    return str(namespace), str(name)
