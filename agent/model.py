"""The agent's values: what a slice wants, what the agent knows of each live object, what it saw and did.

Nothing here decides anything and nothing does IO. Live objects stay raw JSON mappings.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol

from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import BundlePolicy

# --- desired ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredBundle:
    """One bundle of the slice. `objects` maps a key to the blob id of its file: the object's desired hash."""

    name: str
    subtree: Oid
    rollout: str
    revision: str
    policy: BundlePolicy
    objects: Mapping[ObjectKey, Oid]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """A whole slice, by bundle. `seq` is 0 and `commit` "" before the first slice."""

    commit: Oid
    seq: int
    bundles: Mapping[str, DesiredBundle]


# --- observed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind as the API server serves it; `plural` is its place in URLs."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: frozenset[str] = frozenset()

    @property
    def base(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What an object was right after our last write: all that is needed to tell a change that was not ours.

    `managed` is a hash of `managedFields` without status entries, and of the labels and annotations that are ours;
    `own` one of our Apply entry's fields (None when we have no entry), `status` one of the status entries. `generation`
    is 0 for kinds without one.
    """

    uid: str
    resource_version: str
    generation: int
    managed: int
    own: int | None
    status: int


@dataclass(slots=True, kw_only=True)
class Entry:
    """One object of the inventory. Stays until the object is gone or was let go.

    `baseline` is None before the first apply was answered; `blob` is the desired hash that was applied last ("" before
    the first); `unsettled` from before a pass writes the object until it is sure what came of it, so that a kill in
    between is known of. `finished`: what was applied ran to its end, so that the object may go and is not missing;
    `health` says how it ended.
    """

    key: ObjectKey
    bundle: str
    api_version: str
    blob: str = ""
    unsettled: bool = False
    finished: bool = False
    baseline: Baseline | None = None
    health: Health = Health.UNKNOWN
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One line of a watch. `object` is a whole object or PartialObjectMetadata; `kind` SYNCED marks the end of the
    initial events (then `object` is empty), RESTARTED that the watch begins anew and initial events follow."""

    kind: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED", "RESTARTED"]
    resource: Resource
    object: Mapping[str, Any] = field(default_factory=dict)


class Result(StrEnum):
    """What became of one object in a pass."""

    CREATED = "created"
    ADOPTED = "adopted"
    RECREATED = "recreated"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    PRUNED = "pruned"
    RELEASED = "released"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one object; `error` is a whole sentence that names it, "" unless failed or skipped."""

    key: ObjectKey
    result: Result
    error: str = ""
    retry: bool = False


# --- the cluster's owner --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the cluster's owner forbids the agent, whatever the slice says: the guard ConfigMap.

    `forbidden_kinds` and `protected_namespaces` are shell patterns, of `Kind.group` (`Kind` for the core group) and of
    namespaces; nothing of them is applied, reverted, deleted or let go. `max_pruned_share` (0 to 1) is the largest part
    of the inventory's objects that one plan may prune; above it nothing is pruned at all. `closed` is why nothing may
    be written at all, "" when something may; `untouched` objects are of no slice, whatever else is allowed.
    """

    forbidden_kinds: tuple[str, ...] = ()
    protected_namespaces: tuple[str, ...] = ()
    max_pruned_share: float = 1.0
    closed: str = ""
    untouched: frozenset[ObjectKey] = frozenset()

    def refuses(self, key: ObjectKey) -> str:
        """Pure: why this object must not be touched, as the end of a sentence that begins with it; "" if it may."""
        if self.closed:
            return self.closed
        if key in self.untouched:
            return "it is the cluster owner's, and of no bundle"
        if any(fnmatchcase(key.gk, pattern) for pattern in self.forbidden_kinds):
            return f"the guard ConfigMap of this cluster forbids {key.gk}"
        namespace = key.name if key.gk == "Namespace" else key.namespace
        if namespace and any(fnmatchcase(namespace, pattern) for pattern in self.protected_namespaces):
            return f"the guard ConfigMap of this cluster protects namespace {namespace}"
        return ""


# --- the cluster --------------------------------------------------------------------------------------------------


class ClusterApi(Protocol):
    """What the agent needs of a Kubernetes API server; `cluster.Cluster` is the real one.

    All methods raise Transient (with `retry_after_s` where the server said so), `cluster.Conflict`, `cluster.NotFound`,
    `cluster.Invalid`, or another Permanent. Objects come back as parsed JSON.
    """

    def acting_as(self, account: str) -> "ClusterApi":
        """The same API server, asked as the ServiceAccount `namespace/name` ("": as the agent itself); connections,
        discovery and credentials are shared."""
        ...

    async def resource(self, api_version: str, kind: str) -> Resource:
        """How a kind is served; looked up once and kept. Raises Permanent naming the kind when it is not served."""
        ...

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
        """Server-side apply of canonical JSON bytes, sent as they are; returns (created, the whole object after).
        `conditional`: the body names the uid or resourceVersion that the object must have, else Conflict."""
        ...

    async def create(self, resource: Resource, key: ObjectKey, body: bytes) -> dict[str, Any]:
        """Makes an object that is not there yet, else Conflict; returns it."""
        ...

    async def get(self, resource: Resource, key: ObjectKey, *, metadata_only: bool = False) -> dict[str, Any]: ...

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> tuple[dict[str, Any], ...]:
        """The first `limit` whole objects that are selected, without their apiVersion and kind."""
        ...

    async def json_patch(
        self, resource: Resource, key: ObjectKey, operations: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]: ...

    async def delete(self, resource: Resource, key: ObjectKey, *, uid: str, resource_version: str = "") -> None:
        """Deletes in the background, only if uid (and resourceVersion, when given) still match (else Conflict)."""
        ...

    def watch(
        self, resource: Resource, *, selector: str, metadata_only: bool, namespace: str = "", name: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """Watches for ever: initial events, SYNCED, then changes; reopens by itself with RESTARTED. All namespaces and
        names, unless one is given."""
        ...
