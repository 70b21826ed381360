"""One agent acts on a cluster at a time: a Lease, and a fence around everything that writes.

    the Lease                                                     we
    is not there, has no holder, or is ours                       take it, renew it every `RENEW_S`
    another's, seen to change less than its duration ago          wait
    another's, not changed for its duration on our own clock      take it
    ours, and no renewal answered for its duration                stop writing at once, and go on trying

Only the agent's monotonic clock counts, never the times that are written in the Lease. Every write to it tests the
resourceVersion, so of two agents one wins. `Fence` refuses each write while the Lease is not held; reads and watches go
on, so that an agent that waits knows everything when its turn comes. Next: `loop`.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import anyio

from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import ClusterApi, Resource, WatchEvent
from proto.errors import FlotillaError, Transient
from proto.objects import ObjectKey, canonical

NAMESPACE = "flotilla-system"
NAME = "flotilla-agent"
DURATION_S = 60
RENEW_S = 20.0
RETRY_S = 2.0

_KEY = ObjectKey(group="coordination.k8s.io", kind="Lease", namespace=NAMESPACE, name=NAME)
_NAMESPACE_KEY = ObjectKey(group="", kind="Namespace", namespace="", name=NAMESPACE)

log = logging.getLogger(__name__)


class Lease:
    """`holder` names this agent and stays the same over its restarts; `timestamp` gives the wall time as RFC 3339 with
    microseconds, for people who read the Lease; `clock` is monotonic."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        holder: str,
        timestamp: Callable[[], str],
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._api = api
        self.holder = holder
        self._timestamp = timestamp
        self._clock = clock
        self._until = float("-inf")
        self._version = ""
        """resourceVersion of the Lease as we wrote it last; "" when it has to be read first."""
        self._seen: tuple[str, float] = ("", float("-inf"))
        """The other holder's resourceVersion, and when we first saw it."""
        self._taken = anyio.Event()
        self._elsewhere: bool | None = None
        """Whether another agent has it, by the last look that was answered; None before the first."""
        self._turned = anyio.Event()
        self.problem = ""
        """Why it is not held, "" while it is."""

    @property
    def held(self) -> bool:
        return self._clock() < self._until

    async def wait_held(self) -> None:
        while not self.held:
            await self._taken.wait()

    async def wait_elsewhere(self, elsewhere: bool) -> None:
        """Until another agent is known to have it (True), or nobody else is (False): also when the API server cannot
        say, because an agent that was alone goes on telling the hub what is wrong."""
        while self._elsewhere is not elsewhere:
            await self._turned.wait()

    async def run(self) -> None:
        """Acquire and renew until cancelled; never raises for what the API server does."""
        while True:
            delay = RENEW_S if await self.once() else RETRY_S
            await anyio.sleep(delay)

    async def once(self) -> bool:
        """One try; True when the Lease is held after it."""
        try:
            self.problem = await self._once()
        except FlotillaError as error:
            self._version = ""
            self.problem = f"lease {NAMESPACE}/{NAME} is not held: {error}"
            log.warning("%s", self.problem)
            self._turn(bool(self._elsewhere))
        return not self.problem

    async def release(self) -> None:
        """Let the next agent begin at once. Nothing is written through the fence afterwards."""
        if not self.held:
            return
        self._until = float("-inf")
        await self._write(self._version, {"leaseDurationSeconds": 1, "renewTime": self._timestamp()})

    async def _once(self) -> str:
        began = self._clock()
        if self._version and self.held:
            try:
                return await self._take(self._version, began)
            except Conflict:
                self._version = ""
        live = await self._look()
        spec, version = live.get("spec") or {}, live["metadata"]["resourceVersion"]
        other = spec.get("holderIdentity") or ""
        if other not in ("", self.holder):
            if self._until > began:
                log.error("agent %s took the lease %s/%s from this one", other, NAMESPACE, NAME)
            self._until = float("-inf")
            if self._seen[0] != version:
                self._seen = (version, began)
            if began - self._seen[1] < spec.get("leaseDurationSeconds", DURATION_S):
                problem = f"lease {NAMESPACE}/{NAME} is held by agent {other}: this agent changes nothing meanwhile"
                if not self._elsewhere:
                    log.info("%s", problem)
                self._turn(True)
                return problem
        return await self._take(version, began)

    async def _take(self, version: str, began: float) -> str:
        now = self._timestamp()
        self._version = await self._write(
            version, {"holderIdentity": self.holder, "leaseDurationSeconds": DURATION_S, "renewTime": now}
        )
        if not self.held:
            log.info("agent %s holds the lease %s/%s", self.holder, NAMESPACE, NAME)
        self._until = began + DURATION_S
        self._turn(False)
        self._taken.set()
        self._taken = anyio.Event()
        return ""

    def _turn(self, elsewhere: bool) -> None:
        self._elsewhere = elsewhere
        self._turned.set()
        self._turned = anyio.Event()

    async def _write(self, version: str, spec: Mapping[str, Any]) -> str:
        resource = await self._api.resource("coordination.k8s.io/v1", "Lease")
        try:
            written = await self._api.json_patch(
                resource,
                _KEY,
                [
                    {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                    {"op": "add", "path": "/spec", "value": spec},
                ],
            )
        except Invalid as error:
            raise Conflict(str(_KEY), "was changed by another agent") from error
        return str(written["metadata"]["resourceVersion"])

    async def _look(self) -> dict[str, Any]:
        resource = await self._api.resource("coordination.k8s.io/v1", "Lease")
        try:
            return await self._api.get(resource, _KEY)
        except NotFound:
            pass
        body = canonical(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NAME, "namespace": NAMESPACE},
            }
        )
        try:
            return (await self._api.apply(resource, _KEY, body, force=False))[1]
        except NotFound:
            namespace = canonical({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
            await self._api.apply(await self._api.resource("v1", "Namespace"), _NAMESPACE_KEY, namespace, force=False)
            return (await self._api.apply(resource, _KEY, body, force=False))[1]


class Fence:
    """A ClusterApi that writes only while the Lease is held; else it raises Transient before anything is sent."""

    def __init__(self, api: ClusterApi, lease: Lease) -> None:
        self._api = api
        self._lease = lease

    def _check(self, key: ObjectKey) -> None:
        if not self._lease.held:
            raise Transient(str(key), "is not written, because this agent does not hold the lease")

    def acting_as(self, account: str) -> "Fence":
        return Fence(self._api.acting_as(account), self._lease) if account else self

    async def resource(self, api_version: str, kind: str) -> Resource:
        return await self._api.resource(api_version, kind)

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
        if not dry_run:
            self._check(key)
        return await self._api.apply(
            resource, key, body, force=force, dry_run=dry_run, conditional=conditional, subresource=subresource
        )

    async def create(self, resource: Resource, key: ObjectKey, body: bytes) -> dict[str, Any]:
        self._check(key)
        return await self._api.create(resource, key, body)

    async def get(self, resource: Resource, key: ObjectKey, *, metadata_only: bool = False) -> dict[str, Any]:
        return await self._api.get(resource, key, metadata_only=metadata_only)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> tuple[dict[str, Any], ...]:
        return await self._api.list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector, limit=limit
        )

    async def json_patch(
        self, resource: Resource, key: ObjectKey, operations: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        self._check(key)
        return await self._api.json_patch(resource, key, operations)

    async def delete(self, resource: Resource, key: ObjectKey, *, uid: str, resource_version: str = "") -> None:
        self._check(key)
        await self._api.delete(resource, key, uid=uid, resource_version=resource_version)

    def watch(
        self, resource: Resource, *, selector: str, metadata_only: bool, namespace: str = "", name: str = ""
    ) -> AsyncIterator[WatchEvent]:
        return self._api.watch(resource, selector=selector, metadata_only=metadata_only, namespace=namespace, name=name)
