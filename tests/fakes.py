"""A small API server in memory for the agent's unit and property tests.

It knows what the agent's decisions hang on: server-side apply with owners, conflicts and removals, resourceVersion,
uid and generation, preconditions, finalizers, definitions that serve new kinds, and watches. Lists are owned whole.
What it does not know (defaults, admission, list merging) is tested on the real server.
"""

import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import anyio
import orjson
from anyio.streams.memory import MemoryObjectSendStream

from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import Resource, WatchEvent
from proto.errors import Permanent
from proto.objects import ObjectKey, group_of, key_of
from proto.slices import FIELD_MANAGER

KINDS = {
    "v1/Namespace": False,
    "v1/ConfigMap": True,
    "v1/Secret": True,
    "v1/Service": True,
    "v1/PersistentVolumeClaim": True,
    "apps/v1/Deployment": True,
    "batch/v1/Job": True,
    "apiextensions.k8s.io/v1/CustomResourceDefinition": False,
    "coordination.k8s.io/v1/Lease": True,
    "events.k8s.io/v1/Event": True,
}
"""What is served, and whether it is namespaced."""

WITHOUT_GENERATION = frozenset({"Namespace", "ConfigMap", "Secret", "Service", "PersistentVolumeClaim", "Lease"})

Path = tuple[str, ...]


class Killed(BaseException):
    """The agent was killed: nothing may catch it."""


class FakeCluster:
    """`before` is called with (method, key) ahead of every request and may raise; `after` once the server has done it,
    so that what it raises is an answer that never arrived. `requests` lists them all."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, dict[str, Any]] = {}
        self.kinds = dict(KINDS)
        self.requests: list[tuple[str, ObjectKey]] = []
        self.accounts: list[str] = []
        self.before: Callable[[str, ObjectKey], None] = lambda method, key: None
        self.after: Callable[[str, ObjectKey], None] = lambda method, key: None
        self.settles = True
        """Workloads and definitions become ready by themselves, as with controllers that run."""
        self._versions = itertools.count(1)
        self._watches: list[tuple[_Where, MemoryObjectSendStream[WatchEvent]]] = []

    # --- what the agent calls ---

    def acting_as(self, account: str) -> "FakeCluster":
        """The same objects; `accounts` keeps who was asked for."""
        if account:
            self.accounts.append(account)
        return self

    async def resource(self, api_version: str, kind: str) -> Resource:
        namespaced = self.kinds.get(f"{api_version}/{kind}")
        if namespaced is None:
            raise Permanent(
                f"{kind}.{group_of(api_version)}", f"is not served as {api_version}", "install its definition"
            )
        return Resource(
            group=group_of(api_version),
            version=api_version.rpartition("/")[2],
            kind=kind,
            plural=kind.lower() + "s",
            namespaced=namespaced,
            verbs=frozenset({"get", "list", "watch", "patch", "delete"}),
        )

    async def apply(
        self,
        resource: Resource,
        key: ObjectKey,
        body: bytes,
        *,
        force: bool,
        dry_run: bool = False,
        conditional: bool = False,
        subresource: str = "",
    ) -> tuple[bool, dict[str, Any]]:
        await self._request("dry-run" if dry_run else subresource or "apply", key)
        if (
            key.namespace
            and ObjectKey(group="", kind="Namespace", namespace="", name=key.namespace) not in self.objects
        ):
            raise NotFound(str(key), f"namespaces {key.namespace!r} not found")
        desired = orjson.loads(body)
        live = self.objects.get(key)
        _check_conditions(key, desired["metadata"], live["metadata"] if live else None)
        if subresource:
            if live is None:
                raise NotFound(str(key), "does not exist")
            self._store(key, {**live, subresource: desired[subresource]})
            return False, deepcopy(self.objects[key])
        made = self._merged(key, live, desired, FIELD_MANAGER, "Apply", force=force)
        if dry_run:
            return live is None, made
        self._store(key, made)
        self.after("apply", key)
        return live is None, deepcopy(self.objects[key])

    async def create(self, resource: Resource, key: ObjectKey, body: bytes) -> dict[str, Any]:
        await self._request("create", key)
        if key in self.objects:
            raise Conflict(str(key), "already exists")
        self._store(key, orjson.loads(body))
        self.after("create", key)
        return deepcopy(self.objects[key])

    async def get(self, resource: Resource, key: ObjectKey, *, metadata_only: bool = False) -> dict[str, Any]:
        await self._request("get", key)
        if key not in self.objects:
            raise NotFound(str(key), "does not exist")
        return deepcopy(self.objects[key])

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> tuple[dict[str, Any], ...]:
        """Selectors are pairs of `name=value`, with commas between."""
        await self._request("list", ObjectKey(group=resource.group, kind=resource.kind, namespace=namespace, name=""))
        labels = dict(pair.split("=") for pair in label_selector.split(",") if pair)
        fields = [pair.split("=") for pair in field_selector.split(",") if pair]
        found = [
            deepcopy(live)
            for key, live in self.objects.items()
            if (key.group, key.kind) == (resource.group, resource.kind) and namespace in ("", key.namespace)
            if labels.items() <= (live["metadata"].get("labels") or {}).items()
            if all(_at(live, path.split(".")) == value for path, value in fields)
        ]
        return tuple(found[:limit])

    async def json_patch(
        self, resource: Resource, key: ObjectKey, operations: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        await self._request("patch", key)
        if key not in self.objects:
            raise NotFound(str(key), "does not exist")
        made = deepcopy(self.objects[key])
        for operation in operations:
            _patch(made, operation, key)
        self._store(key, made)
        self.after("patch", key)
        return deepcopy(self.objects[key])

    async def delete(self, resource: Resource, key: ObjectKey, *, uid: str, resource_version: str = "") -> None:
        await self._request("delete", key)
        live = self.objects.get(key)
        if live is None:
            raise NotFound(str(key), "does not exist")
        metadata = live["metadata"]
        if metadata["uid"] != uid or resource_version not in ("", metadata["resourceVersion"]):
            raise Conflict(str(key), "the preconditions do not match")
        self.remove(key)
        self.after("delete", key)

    async def watch(
        self, resource: Resource, *, selector: str, metadata_only: bool, namespace: str = "", name: str = ""
    ) -> AsyncIterator[WatchEvent]:
        where = _Where(resource=resource, selector=selector, namespace=namespace, name=name)
        send, receive = anyio.create_memory_object_stream[WatchEvent](math.inf)
        with send, receive:
            for key, live in self.objects.items():
                if where.selects(key, live):
                    send.send_nowait(WatchEvent(kind="ADDED", resource=resource, object=deepcopy(live)))
            send.send_nowait(WatchEvent(kind="SYNCED", resource=resource))
            watch = (where, send)
            self._watches.append(watch)
            try:
                async for event in receive:
                    yield event
            finally:
                self._watches.remove(watch)

    # --- what a test does ---

    def put(
        self, obj: Mapping[str, Any], *, manager: str = "kubectl-edit", operation: str = "Update"
    ) -> dict[str, Any]:
        """Somebody else creates or changes an object: the fields of `obj` are merged in, and are theirs."""
        key = key_of(obj)
        live = self.objects.get(key)
        self._store(key, self._merged(key, live, deepcopy(dict(obj)), manager, operation, force=True))
        return self.objects[key]

    def unset(self, key: ObjectKey, path: Sequence[str]) -> None:
        """Somebody else removes a field."""
        made = deepcopy(self.objects[key])
        _unset(made, path)
        gone = tuple(path)
        entries = [
            (entry, {own: None for own in _owned(entry["fieldsV1"]) if own[: len(gone)] != gone})
            for entry in made["metadata"]["managedFields"]
        ]
        made["metadata"]["managedFields"] = [{**entry, "fieldsV1": _fields(left)} for entry, left in entries if left]
        self._store(key, made)

    def remove(self, key: ObjectKey) -> None:
        """Delete, as far as finalizers let it."""
        live = self.objects[key]
        if live["metadata"].get("finalizers"):
            if "deletionTimestamp" not in live["metadata"]:
                made = deepcopy(live)
                made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                self._store(key, made)
            return
        del self.objects[key]
        live["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell("DELETED", key, live, live)

    def finish(self, key: ObjectKey) -> None:
        """A controller takes its finalizers off, or writes the status of a ready object."""
        made = deepcopy(self.objects[key])
        if made["metadata"].pop("finalizers", None) and "deletionTimestamp" in made["metadata"]:
            self.objects[key] = made
            self.remove(key)
        else:
            _become_ready(made)
            self._store(key, made)

    def count(self, *methods: str) -> int:
        return sum(1 for method, _ in self.requests if method in methods)

    # --- how it works ---

    async def _request(self, method: str, key: ObjectKey) -> None:
        self.requests.append((method, key))
        self.before(method, key)
        await anyio.lowlevel.checkpoint()

    def _merged(
        self,
        key: ObjectKey,
        live: dict[str, Any] | None,
        desired: dict[str, Any],
        manager: str,
        operation: str,
        *,
        force: bool,
    ) -> dict[str, Any]:
        made = deepcopy(live) if live else {"metadata": {}}
        entries: list[dict[str, Any]] = made["metadata"].get("managedFields", [])
        wanted = dict(_leaves(_configuration(desired)))
        mine = next((e for e in entries if (e["manager"], e["operation"]) == (manager, operation)), None)
        before = _owned(mine["fieldsV1"]) if mine else set()
        others = [entry for entry in entries if entry is not mine]
        current = dict(_leaves(_configuration(made)))
        taken = {
            path: entry["manager"]
            for entry in others
            for path in _owned(entry["fieldsV1"])
            if path in wanted and current.get(path) != wanted[path]
        }
        if taken and not force:
            what = ", ".join(f'"{who}": .{".".join(path)}' for path, who in sorted(taken.items()))
            raise Conflict(str(key), f"Apply failed with {len(taken)} conflicts: conflict with {what}")
        if operation == "Apply":
            theirs = set().union(*(_owned(entry["fieldsV1"]) for entry in others)) if others else set()
            for path in before - wanted.keys() - theirs:
                _unset(made, path)
        else:
            wanted = {path: value for path, value in wanted.items() if current.get(path) != value or path in before}
        for path, value in wanted.items():
            _set(made, path, value)
        kept = [{**e, "fieldsV1": _fields(_owned(e["fieldsV1"]) - taken.keys())} for e in others]
        owned = wanted.keys() if operation == "Apply" else before | wanted.keys()
        entry = {
            "manager": manager,
            "operation": operation,
            "apiVersion": desired["apiVersion"],
            "time": mine["time"] if mine and _owned(mine["fieldsV1"]) == set(owned) else "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": _fields(owned),
        }
        made["metadata"]["managedFields"] = [e for e in kept if e["fieldsV1"]] + ([entry] if owned else [])
        made.update(apiVersion=desired["apiVersion"], kind=key.kind)
        made["metadata"].update(name=key.name)
        if key.namespace:
            made["metadata"]["namespace"] = key.namespace
        return made

    def _store(self, key: ObjectKey, made: dict[str, Any]) -> None:
        live = self.objects.get(key)
        if live == made:
            return
        if not made["metadata"].get("labels", True):
            del made["metadata"]["labels"]
        if live is None:
            made["metadata"]["uid"] = f"uid-{next(self._versions)}"
        if key.kind not in WITHOUT_GENERATION:
            bare = [{k: v for k, v in (o or {}).items() if k not in ("metadata", "status")} for o in (live, made)]
            made["metadata"]["generation"] = (live or made)["metadata"].get("generation", 0) + (bare[0] != bare[1])
        if self.settles:
            _become_ready(made)
        made["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[key] = made
        if key.kind == "CustomResourceDefinition":
            spec = made["spec"]
            for version in spec["versions"]:
                kind = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
                self.kinds[kind] = spec["scope"] == "Namespaced"
        self._tell("ADDED" if live is None else "MODIFIED", key, live, made)

    def _tell(self, kind: str, key: ObjectKey, old: dict[str, Any] | None, new: dict[str, Any]) -> None:
        for where, send in self._watches:
            was = old is not None and where.selects(key, old)
            now = where.selects(key, new)
            told = kind if was and now else "ADDED" if now else "DELETED" if was else ""
            if told in ("ADDED", "MODIFIED", "DELETED"):
                event = WatchEvent(kind=told, resource=where.resource, object=deepcopy(new))  # type: ignore[arg-type]
                send.send_nowait(event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """What one watch asks for; the selector is one label that has to be there, or "" for none."""

    resource: Resource
    selector: str
    namespace: str
    name: str

    def selects(self, key: ObjectKey, live: Mapping[str, Any]) -> bool:
        return (
            (self.resource.group, self.resource.kind) == (key.group, key.kind)
            and (not self.selector or self.selector in live["metadata"].get("labels", {}))
            and self.namespace in ("", key.namespace)
            and self.name in ("", key.name)
        )


def _check_conditions(key: ObjectKey, wanted: Mapping[str, Any], there: Mapping[str, Any] | None) -> None:
    """A resourceVersion that does not fit is no matter for an object that is not there; a uid is."""
    if there is None:
        if "uid" in wanted:
            raise Conflict(str(key), "uid mismatch: no existing object was found")
    elif any(wanted.get(name, there[name]) != there[name] for name in ("uid", "resourceVersion")):
        raise Conflict(str(key), "the object has been modified")


def _configuration(obj: Mapping[str, Any]) -> dict[str, Any]:
    """What can be owned: all but identity and what the server writes."""
    metadata = {
        k: v for k, v in obj["metadata"].items() if k in ("labels", "annotations", "finalizers", "ownerReferences")
    }
    rest = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata", "status")}
    return {"metadata": metadata, **rest} if metadata else rest


def _leaves(value: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, below in value.items():
        if isinstance(below, Mapping) and below:
            yield from _leaves(below, (*above, key))
        else:
            yield (*above, key), below


def _owned(fields: Mapping[str, Any], above: Path = ()) -> set[Path]:
    found: set[Path] = set()
    for element, below in fields.items():
        path = (*above, element.removeprefix("f:"))
        found |= _owned(below, path) if below else {path}
    return found


def _fields(paths: Any) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for element in path:
            node = node.setdefault(f"f:{element}", {})
    return root


def _at(obj: Any, path: Sequence[str]) -> Any:
    for name in path:
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj


def _set(obj: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for element in path[:-1]:
        obj = obj.setdefault(element, {})
    obj[path[-1]] = value


def _unset(obj: dict[str, Any], path: Sequence[str]) -> None:
    chain = [obj]
    for element in path[:-1]:
        if not isinstance(chain[-1].get(element), dict):
            return
        chain.append(chain[-1][element])
    chain[-1].pop(path[-1], None)
    for parent, element in zip(reversed(chain[:-1]), reversed(path[:-1]), strict=True):
        if parent[element] == {} and parent is not obj:
            del parent[element]


def _patch(obj: dict[str, Any], operation: Mapping[str, Any], key: ObjectKey) -> None:
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    node = obj
    for element in way:
        node = node.get(element, {})
    match operation["op"]:
        case "test" if node.get(last) != operation["value"]:
            raise Conflict(str(key), f"test of {operation['path']} failed")
        case "remove" if last not in node:
            raise Invalid(str(key), f"{operation['path']} is not there")
        case "remove":
            del node[last]
        case "add" | "replace":
            node[last] = deepcopy(operation["value"])
            if operation["path"] == "/metadata/managedFields" and operation["value"] == [{}]:
                node[last] = []


def _become_ready(obj: dict[str, Any]) -> None:
    generation = obj["metadata"].get("generation", 0)
    if obj["kind"] == "Deployment":
        replicas = obj.get("spec", {}).get("replicas", 1)
        obj["status"] = {
            "observedGeneration": generation,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas,
            "availableReplicas": replicas,
            "conditions": [{"type": "Available", "status": "True"}],
        }
    elif obj["kind"] == "CustomResourceDefinition":
        obj["status"] = {
            "conditions": [{"type": "Established", "status": "True"}, {"type": "NamesAccepted", "status": "True"}]
        }
    elif obj["kind"] == "Namespace":
        obj["status"] = {"phase": "Active"}
    elif obj["kind"] == "Job":
        obj["status"] = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}
