"""The Kubernetes API server, as the agent sees it: raw JSON over kubernetes_asyncio's connections and credentials.

Bytes are sent as they were given and answers parsed by orjson: the library's own request path costs three times the CPU
per object. Assumes a server of Kubernetes 1.30 or newer (1.32 for streamed initial events; older ones get lists).
Errors come from `api_status`, watches from `watch`, paths from `kinds`; next: `revert` and the apply step call this.
"""

import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import uniform
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import orjson

from agent.kube import api_status, kubeclient, watch
from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.kube.connection import NETWORK, Connection, unreachable
from agent.kube.kinds import Kinds
from agent.model import Resource, WatchEvent
from proto.errors import Transient
from proto.objects import ObjectKey
from proto.slices import FIELD_MANAGER

logger = logging.getLogger("flotilla.agent.cluster")

REQUEST_S: Final = 70.0
"""The API server gives up on a request, admission webhooks included, after 60 s."""
CONNECT_S: Final = 10.0

_JSON: Final = "application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def backoff(first_s: float = 0.2, most_s: float = 30.0) -> Iterator[float]:
    """Seconds to wait between tries: doubling, each spread by half around it."""
    wait = first_s
    while True:
        yield wait * uniform(0.5, 1.5)
        wait = min(wait * 2, most_s)


class Cluster:
    """The `ClusterApi` of a real API server. `requests` counts what was sent, by verb, in whoever's name."""

    def __init__(
        self,
        connection: Connection,
        *,
        delays: Callable[[], Iterator[float]] = backoff,
        silence_s: float = watch.SILENCE_S,
    ) -> None:
        self.requests = connection.requests
        self._connection = connection
        self._delays = delays
        self._silence_s = silence_s
        self._account: Mapping[str, str] = {}
        self._kinds = Kinds(self._discovery)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        kubeconfig: Path | None,
        context: str | None = None,
        *,
        delays: Callable[[], Iterator[float]] = backoff,
        silence_s: float = watch.SILENCE_S,
    ) -> AsyncIterator[Self]:
        """With a kubeconfig's credentials, or those of the pod when it is None; sends nothing yet.

        `delays` is the backoff of watches, `silence_s` how long one may be silent. Raises InvalidInput.
        """
        connection = Connection(await kubeclient.load(kubeconfig, context))
        try:
            yield cls(connection, delays=delays, silence_s=silence_s)
        finally:
            await connection.close()

    def acting_as(self, account: str) -> Self:
        """The same API server, asked as the ServiceAccount `namespace/name` ("": as the agent itself); connections,
        discovery and credentials are shared. The API server adds the groups of the account by itself when none are
        named."""
        if not account:
            return self
        namespace, _, name = account.partition("/")
        acting = copy.copy(self)
        acting._account = {"Impersonate-User": f"system:serviceaccount:{namespace}:{name}"}
        return acting

    # --- objects --------------------------------------------------------------------------------------------------

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
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        try:
            status, answer = await self._send(
                "dry-run" if dry_run else subresource or "apply",
                "PATCH",
                _path(resource, key) + (f"/{subresource}" if subresource else ""),
                query=query,
                body=body,
                content_type="application/apply-patch+yaml",
                about=str(key),
                resource=resource,
                precondition=conditional,
            )
        except Invalid as error:
            # So the server words that another object has this name by now.
            if conditional and "metadata.uid" in error.fields:
                raise Conflict(error.thing, error.cause) from error
            raise
        return status == 201, answer

    async def create(self, resource: Resource, key: ObjectKey, body: bytes) -> dict[str, Any]:
        """Makes an object that is not there yet, else Conflict; returns it."""
        _, answer = await self._send(
            "create",
            "POST",
            _collection(resource, key.namespace),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            content_type=_JSON,
            about=str(key),
            resource=resource,
            precondition=True,
        )
        return answer

    async def get(self, resource: Resource, key: ObjectKey, *, metadata_only: bool = False) -> dict[str, Any]:
        """The object, or its PartialObjectMetadata. Raises NotFound."""
        accept = _METADATA if metadata_only else _JSON
        _, answer = await self._send(
            "get", "GET", _path(resource, key), accept=accept, about=str(key), resource=resource
        )
        return answer

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
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": str(limit)}
        query = {name: value for name, value in query.items() if value}
        page = await self.page(resource, query, metadata_only=False, namespace=namespace)
        return tuple(page.get("items") or ())

    async def json_patch(
        self, resource: Resource, key: ObjectKey, operations: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Returns the object after. Raises Conflict when a `test` among the operations did not hold."""
        try:
            _, answer = await self._send(
                "patch",
                "PATCH",
                _path(resource, key),
                query={"fieldManager": FIELD_MANAGER},
                body=orjson.dumps(operations),
                content_type="application/json-patch+json",
                about=str(key),
                resource=resource,
                precondition=True,
            )
        except Invalid as error:
            # The server says no more than 422 of a test that did not hold, and checks it before anything else.
            if any(operation["op"] == "test" for operation in operations) and not error.fields:
                raise Conflict(error.thing, error.cause) from error
            raise
        return answer

    async def delete(self, resource: Resource, key: ObjectKey, *, uid: str, resource_version: str = "") -> None:
        """Deletes in the background, only if uid (and resourceVersion, when given) still match (else Conflict)."""
        preconditions = {"uid": uid, **({"resourceVersion": resource_version} if resource_version else {})}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        await self._send(
            "delete",
            "DELETE",
            _path(resource, key),
            body=orjson.dumps(options),
            content_type=_JSON,
            about=str(key),
            resource=resource,
            precondition=True,
        )

    def watch(
        self, resource: Resource, *, selector: str, metadata_only: bool, namespace: str = "", name: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """Watches for ever: initial events, SYNCED, then changes; reopens by itself with RESTARTED. All namespaces and
        names, unless one is given.

        Raises Refused or NotFound (kind) when the server will not have it. Close it with `contextlib.aclosing`.
        """
        where = watch.Where(selector=selector, namespace=namespace, name=name)
        return watch.follow(self, resource, where, metadata_only=metadata_only, delays=self._delays)

    async def version(self) -> str:
        """The server's version, such as `v1.36.3`."""
        _, answer = await self._send("version", "GET", "/version", about="API server")
        return str(answer.get("gitVersion", ""))

    # --- watch.Source ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lines(
        self, resource: Resource, query: Mapping[str, str], *, metadata_only: bool, namespace: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        about = resource.kind
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=self._silence_s)
        headers = {**self._account, "Accept": _METADATA if metadata_only else _JSON}
        target = f"{_collection(resource, namespace)}?{urlencode(query)}"
        response = await self._connection.open("watch", "GET", target, headers=headers, timeout=timeout, about=about)
        async with response:
            if response.status != 200:
                raise await self._refusal(response, about=about, action="watch", resource=resource)
            try:
                async with aclosing(_lines(response, about)) as lines:
                    yield lines
            finally:
                _abort(response)

    async def page(
        self, resource: Resource, query: Mapping[str, str], *, metadata_only: bool, namespace: str = ""
    ) -> dict[str, Any]:
        _, answer = await self._send(
            "list",
            "GET",
            _collection(resource, namespace),
            query=query,
            accept=_METADATA_LIST if metadata_only else _JSON,
            about=resource.kind,
            resource=resource,
        )
        return answer

    # --- discovery ------------------------------------------------------------------------------------------------

    async def resource(self, api_version: str, kind: str) -> Resource:
        """How a kind is served, asked for if need be. Raises NotFound (kind)."""
        return await self._kinds.resource(api_version, kind)

    async def _discovery(self, path: str, accept: str) -> dict[str, Any]:
        _, answer = await self._send("discovery", "GET", path, accept=accept, about="discovery")
        return answer

    # --- requests -------------------------------------------------------------------------------------------------

    async def _send(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        about: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
        accept: str = _JSON,
        resource: Resource | None = None,
        precondition: bool = False,
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Accept": accept, "Content-Type": content_type} if content_type else {"Accept": accept}
        if resource is not None:  # what is served is the same for all
            headers |= self._account
        target = f"{path}?{urlencode(query)}" if query else path
        timeout = aiohttp.ClientTimeout(total=REQUEST_S, sock_connect=CONNECT_S)
        response = await self._connection.open(
            verb, method, target, body=body, headers=headers, timeout=timeout, about=about
        )
        try:
            async with response:
                if response.status >= 300:
                    raise await self._refusal(
                        response, about=about, action=verb, resource=resource, precondition=precondition
                    )
                answer = orjson.loads(await response.read())
        except NETWORK as error:
            raise unreachable(about, verb, error) from error
        except orjson.JSONDecodeError as error:
            raise Transient(f"{about} {verb} failed", "the answer is not JSON") from error
        return response.status, answer

    async def _refusal(
        self,
        response: aiohttp.ClientResponse,
        *,
        about: str,
        action: str,
        resource: Resource | None,
        precondition: bool = False,
    ) -> Exception:
        error = api_status.error_of(
            response.status,
            await response.read(),
            about=about,
            action=action,
            secret=resource is not None and resource.kind == "Secret" and not resource.group,
            precondition=precondition,
            retry_after=response.headers.get("Retry-After"),
        )
        if isinstance(error, NotFound) and error.what == "kind" and resource is not None:
            self._kinds.forget(resource)
        return error


async def _lines(response: aiohttp.ClientResponse, about: str) -> AsyncGenerator[bytes, None]:
    """Lines of any length: aiohttp's own reader refuses those above its buffer."""
    parts: list[bytes] = []
    try:
        async for chunk in response.content.iter_any():
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                yield b"".join((*parts, line))
                parts.clear()
            if rest:
                parts.append(rest)
    except TimeoutError as error:
        raise watch.Silent(f"{about} watch", "was silent for too long") from error
    except NETWORK as error:
        raise unreachable(about, "watch", error) from error


def _abort(response: aiohttp.ClientResponse) -> None:
    """Closing a stream before its end the polite way would leave a TLS farewell behind that nobody waits for."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()


def _collection(resource: Resource, namespace: str) -> str:
    """The path of all objects of a kind, or of those in one namespace."""
    within = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{resource.base}{within}/{resource.plural}"


def _path(resource: Resource, key: ObjectKey) -> str:
    name = quote(key.name, safe=":")
    if not resource.namespaced:
        return f"{resource.base}/{resource.plural}/{name}"
    if not key.namespace:
        raise Invalid(
            str(key),
            "is of a namespaced kind and names no namespace",
            "set metadata.namespace or the bundle's namespace",
        )
    return f"{_collection(resource, key.namespace)}/{name}"
