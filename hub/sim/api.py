"""The verbs of the simulated API server, on plain objects: what is read, what a write makes of the object there was.

A write goes, as on the real server, through: `decode` and defaults → ownership (`managers`) → admission, the kind's own
rules, validation, storage (`writes`). Everything here happens at once, without awaiting: two writes never mix. Refusals
are `ApiError`s. Next: `server` speaks HTTP.
"""

import base64
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from hub.sim import decode, forms, managers, merge, patch, rules, selectors, status
from hub.sim.fieldset import Paths
from hub.sim.kinds import Kind, Kinds
from hub.sim.managers import Claims, Writer
from hub.sim.status import ApiError
from hub.sim.store import Key, Record, Store
from hub.sim.writes import NAMESPACES, Options, Writes

PatchType = Literal["json", "merge", "strategic", "apply"]


def wall_clock() -> str:
    """The time as objects carry it, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Api:
    """One cluster's verbs. `now` gives the time of objects."""

    def __init__(self, store: Store, *, now: Callable[[], str] = wall_clock) -> None:
        self.store = store
        self.kinds = Kinds()
        self.now = now
        self.writes = Writes(store, self.kinds, now=now)
        self.admission = self.writes.admission
        namespaces = self.kinds.of_table(NAMESPACES)
        assert namespaces is not None
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.create(namespaces, ("", name), _namespace(name), Options(manager="kube-apiserver"))

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, key: Key) -> dict[str, Any]:
        return forms.as_version(self._record(kind, key).read(), kind)

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
        items = [forms.as_version(record.read(), kind) for _, record in rows]
        return {
            "kind": f"{kind.info.kind}List",
            "apiVersion": kind.info.api_version,
            "metadata": metadata,
            "items": items,
        }

    # --- writing ------------------------------------------------------------------------------------------------------

    def create(self, kind: Kind, key: Key, sent: Any, options: Options) -> dict[str, Any]:
        """A new object by POST, whose fields, defaults included, become the writer's."""
        new = decode.decoded(kind, key, sent, strict=options.strict, old=None)
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
        return self.writes.create(kind, key, new, entries=entries, options=options)

    def update(self, kind: Kind, key: Key, sent: Any, options: Options, *, subresource: str = "") -> dict[str, Any]:
        """A whole object by PUT."""
        if not subresource:
            decode.manifest(kind, key, sent)
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
        before = forms.scale_of(old) if subresource == "scale" else old
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
        new = decode.decoded(kind, key, sent, strict=options.strict, old=old)
        version = new["metadata"].get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise status.modified(*kind.table, key[1])
        if new["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            cause = _other_uid(new["metadata"]["uid"], old["metadata"]["uid"])
            raise status.conflict(*kind.table, key[1], cause)
        claims = managers.claims_for_update(old, new, subresource=subresource)
        if subresource:
            new = {**old, subresource: new.get(subresource, {})} if subresource in new else forms.less(old, subresource)
        new["metadata"] = forms.kept(new["metadata"], old["metadata"])
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
        return self.writes.update(kind, key, old, new, entries=entries, options=options, subresource=subresource)

    def _scaled(self, kind: Kind, key: Key, old: dict[str, Any], sent: Any, options: Options) -> dict[str, Any]:
        replicas = (sent.get("spec") or {}).get("replicas", 0) if isinstance(sent, Mapping) else None
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise ApiError(400, "Scale: spec.replicas is no number")
        version = (sent.get("metadata") or {}).get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise status.modified(*kind.table, key[1])
        new = {**old, "spec": {**(old.get("spec") or {}), "replicas": replicas}}
        claims = managers.claims_of(old)
        return forms.scale_of(self._owned_update(kind, key, old, new, options, claims=claims, subresource="scale"))

    def _apply(
        self, kind: Kind, key: Key, sent: Any, options: Options, subresource: str
    ) -> tuple[bool, dict[str, Any]]:
        applied = decode.manifest(kind, key, sent)
        about = decode.about(kind, key, sent)
        record = self.store.get(kind.table, key)
        old = forms.as_version(record.read(), kind) if record else None
        if old is None and subresource:
            raise status.not_found(*kind.table, key[1])
        if applied["metadata"].pop("managedFields", None):
            raise ApiError(400, "metadata.managedFields must be nil")
        _check_applied_to(kind, key, applied["metadata"], old)
        decode.check_applied(kind, applied, about)
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
            raise decode.untyped(about, error) from error
        owned = forms.with_entries(merged, entries)
        if old is not None and self.writes.admits_all and forms.same_but_times(old, owned):
            return False, old
        new = decode.merged(kind, merged, about, old=old)
        if old is None:
            return True, self.writes.create(kind, key, new, entries=entries, options=options)
        if subresource:
            new = {**old, subresource: new.get(subresource, {})}
        new["metadata"] = forms.kept(new["metadata"], old["metadata"])
        return False, self.writes.update(kind, key, old, new, entries=entries, options=options, subresource=subresource)

    def delete(self, kind: Kind, key: Key, options: Options) -> tuple[bool, dict[str, Any]]:
        """Whether the object is gone at once, and its last state."""
        return self.writes.delete(kind, key, self.get(kind, key), options)

    def delete_collection(
        self, kind: Kind, namespace: str, selector: selectors.Selector, options: Options
    ) -> dict[str, Any]:
        """Deletes all that is selected; returns it as a list."""
        answer = self.list_(kind, namespace, selector)
        for item in answer["items"]:
            self.delete(kind, (item["metadata"].get("namespace", ""), item["metadata"]["name"]), options)
        return answer


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _check_applied_to(kind: Kind, key: Key, sent: Mapping[str, Any], old: Mapping[str, Any] | None) -> None:
    """Refuse an apply whose metadata names another object, or another version of it, than is there."""
    uid, version = sent.get("uid"), sent.get("resourceVersion")
    if uid and old is None:
        cause = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise status.conflict(*kind.table, key[1], cause)
    if uid and old is not None and uid != old["metadata"]["uid"]:
        raise status.conflict(*kind.table, key[1], _other_uid(uid, old["metadata"]["uid"]))
    if version and old is not None and version != old["metadata"]["resourceVersion"]:
        raise status.modified(*kind.table, key[1])


def _other_uid(sent: str, uid: str) -> str:
    return f"Precondition failed: UID in precondition: {sent}, UID in object meta: {uid}"


def _new(kind: Kind) -> dict[str, Any]:
    return {} if kind.custom else managers.skeleton(kind.node)


def _status_field(kind: Kind) -> frozenset[tuple[str, ...]]:
    return frozenset({("f:status",)}) if kind.has_status else frozenset()


def _position(token: str) -> Key | None:
    if not token:
        return None
    try:
        namespace, name = orjson.loads(base64.urlsafe_b64decode(token))
    except ValueError as error:
        raise ApiError(400, "continue key is not valid") from error
    return str(namespace), str(name)
