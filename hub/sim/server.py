"""The simulated API server on HTTP: paths, queries and headers in, JSON out; one `SimServer` is one cluster.

    /version /readyz /healthz /livez            the server itself
    /api /apis …                                discovery, aggregated when the client accepts it
    /api/v1/… /apis/{group}/{version}/…         objects, lists, watches, and the subresources status and scale

Everything but watches is answered at once by `api`. A write is told to watchers before it is answered, so an event may
come before the response of its own write, as on the real server. `authorize`, `intercept` and `api.admission` are where
permissions (`access`), faults and admission hook in; `requests` reads what is asked. Next: `python -m hub.sim` runs one
by itself.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import orjson
from aiohttp import web

from hub.openapi import schema
from hub.sim import access, discovery, forms, requests, status, watch
from hub.sim.access import Access, Authorize, User
from hub.sim.api import Api
from hub.sim.kinds import Kind
from hub.sim.status import ApiError
from hub.sim.store import Key, Store

_TOLD_WHOLE: Final = frozenset(
    ("", kind)
    for kind in ("Service", "Pod", "PersistentVolumeClaim", "PersistentVolume", "ServiceAccount", "PodTemplate")
)
"""Kinds of which a deletion answers with the object that was."""
_WATCH_S: Final = 3600

Intercept = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]
"""An answer instead of the server's own, late or never if it likes; None to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path of an object or list names."""

    kind: Kind
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        return (self.namespace if self.kind.info.namespaced else "", self.name)


@dataclass(kw_only=True)
class SimServer:
    """One simulated cluster. `serving` makes it answer; the objects outlive that, as in etcd."""

    tokens: dict[str, User] = field(default_factory=dict)
    """Bearer tokens; an administrator's is made when there is none."""
    anonymous: User | None = None
    """Who a request without a token is by; refused when None. kubectl sends no token over plain HTTP."""
    store: Store = field(default_factory=Store)
    authorize: Authorize | None = None
    intercept: Intercept | None = None
    bookmark_s: float = watch.BOOKMARK_S
    half_open: bool = False
    """A fault: watches, new and open ones, tell nothing more, never again, and do not end."""
    api: Api = field(init=False)
    token: str = field(init=False)
    port: int = 0

    def __post_init__(self) -> None:
        self.api = Api(self.store)
        if not self.tokens:
            self.tokens[secrets.token_hex(16)] = User(name="admin", groups=("system:masters",))
        self.token = next(iter(self.tokens))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, name: str = "simulated") -> str:
        """A kubeconfig of the first token's user; it is JSON, which is YAML."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": self.url}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}],
            "current-context": name,
        }
        return orjson.dumps(config, option=orjson.OPT_INDENT_2).decode() + "\n"

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Self]:
        """Answers on loopback until the end of the block, which cuts all connections. A second time is a restart."""
        # What only connects and disconnects needs no logger, and a watch ends with its client.
        server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port or self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()
            self.store.forget()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if self.intercept is not None:
                instead = await self.intercept(request)
                if instead is not None:
                    return instead
            return await self._route(request)
        except status.NoSuchGroup as error:
            return web.Response(text=error.message, status=error.code)
        except ApiError as error:
            headers = {}
            if error.code == 429:
                headers["Retry-After"] = str((error.details or {}).get("retryAfterSeconds", 1))
            return _json(error.body(), error.code, headers=headers)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path in ("/readyz", "/healthz", "/livez"):
            return web.Response(text="ok")
        user = access.user_of(request, tokens=self.tokens, anonymous=self.anonymous, authorize=self.authorize)
        if path == "/version":
            return _json(_version())
        parts = [unquote(part) for part in path.strip("/").split("/")]
        wants_all = "apidiscovery.k8s.io" in request.headers.get("Accept", "")
        document = discovery.document(parts, tuple(self.api.kinds.infos()), wants_all=wants_all)
        if document is not None:
            # Clients tell the two forms of discovery apart by the content type alone.
            whole = document["kind"] == "APIGroupDiscoveryList"
            return _json(document, content_type=discovery.AGGREGATED if whole else "application/json")
        target = self._target(parts)
        if request.method == "GET" and not target.name and requests.says(request, "watch"):
            self._check(user, "watch", target)
            return await self._watch(request, target)
        return await self._object(request, target, user)

    def _check(self, user: User, verb: str, target: Target) -> None:
        info = target.kind.info
        wanted = Access(
            user=user,
            verb=verb,
            group=info.group,
            plural=info.plural,
            subresource=target.subresource,
            namespace=target.namespace,
            name=target.name,
        )
        access.check(self.authorize, wanted)

    def _target(self, parts: list[str]) -> Target:
        match parts:
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                raise status.NoSuchGroup
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        kind = self.api.kinds.find(group, version, rest[0]) if rest else None
        if kind is None or len(rest) > 3:
            known = any((info.group, info.version) == (group, version) for info in self.api.kinds.infos())
            raise status.no_such_path() if known else status.NoSuchGroup()
        name, subresource = (*rest[1:], "", "")[:2]
        if subresource and kind.info.subresource(subresource) is None:
            raise status.not_found(*kind.table, name) if kind.custom else status.no_such_path()
        if namespace and not kind.info.namespaced:
            raise status.no_such_path()
        return Target(kind=kind, namespace=namespace, name=name, subresource=subresource)

    # --- objects ------------------------------------------------------------------------------------------------------

    async def _object(self, request: web.BaseRequest, target: Target, user: User) -> web.Response:
        kind, key = target.kind, target.key
        if target.name and kind.info.namespaced and not target.namespace:
            raise status.no_such_path()
        before = self.store.revision
        code = 200
        match request.method, bool(target.name):
            case "GET", True:
                self._check(user, "get", target)
                answer = self.api.get(kind, key)
                answer = forms.scale_of(answer) if target.subresource == "scale" else answer
            case "GET", False:
                self._check(user, "list", target)
                answer = self.api.list_(
                    kind,
                    target.namespace,
                    requests.selector(request, kind),
                    limit=requests.number(request, "limit", 0),
                    after=request.query.get("continue", ""),
                )
            case "POST", False:
                self._check(user, "create", target)
                sent, options = await requests.body(request), requests.options(request, user)
                code, answer = 201, self.api.create(kind, key, sent, options)
            case "PUT", True:
                self._check(user, "update", target)
                sent, options = await requests.body(request), requests.options(request, user)
                answer = self.api.update(kind, key, sent, options, subresource=target.subresource)
            case "PATCH", True:
                self._check(user, "patch", target)
                code, answer = await self._patch(request, target, user)
            case "DELETE", True:
                self._check(user, "delete", target)
                gone, answer = self.api.delete(kind, key, await requests.delete_options(request, user))
                answer = _deleted(kind, answer) if gone and kind.names not in _TOLD_WHOLE else answer
            case "DELETE", False:
                self._check(user, "deletecollection", target)
                options = await requests.delete_options(request, user)
                answer = self.api.delete_collection(kind, target.namespace, requests.selector(request, kind), options)
            case _:
                raise ApiError(405, "the server does not allow this method on the requested resource", details={})
        if self.store.revision != before:
            # Watchers wake up before we answer.
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
        return _json(_shaped(answer, request), code)

    async def _patch(self, request: web.BaseRequest, target: Target, user: User) -> tuple[int, dict[str, Any]]:
        how = requests.patch_type(request)
        if how == "apply" and not request.query.get("fieldManager"):
            problem = ("fieldManager", "Required value: is required for apply patch")
            raise status.invalid("meta.k8s.io", "PatchOptions", "", [problem])
        options = requests.options(request, user)
        sent = await requests.body(request)
        created, answer = self.api.patch(
            target.kind, target.key, sent, options, how=how, subresource=target.subresource
        )
        return 201 if created else 200, answer

    # --- watches ------------------------------------------------------------------------------------------------------

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        revision = request.query.get("resourceVersion", "")
        if revision and not revision.isdigit():
            raise ApiError(400, f"Invalid value: {revision!r}: resourceVersion")
        asked = watch.Asked(
            kind=target.kind,
            namespace=target.namespace,
            selector=requests.selector(request, target.kind),
            metadata_only=requests.wants_metadata(request),
            revision=revision,
            initial_events=requests.says(request, "sendInitialEvents"),
            bookmarks=requests.says(request, "allowWatchBookmarks"),
            timeout_s=requests.number(request, "timeoutSeconds", _WATCH_S),
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        # The client may leave at any time.
        with suppress(ConnectionError):
            async with aclosing(watch.lines(self.store, asked, bookmark_s=self.bookmark_s)) as lines:
                async for line in lines:
                    if self.half_open:
                        await anyio.sleep_forever()
                    await response.write(line)
            await response.write_eof()
        return response


def _shaped(answer: dict[str, Any], request: web.BaseRequest) -> dict[str, Any]:
    """As it is, or the metadata alone when that was asked for."""
    if not requests.wants_metadata(request) or answer.get("kind") == "Status":
        return answer
    if "items" in answer and "metadata" in answer and request.method in ("GET", "DELETE"):
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": answer["metadata"],
            "items": [forms.metadata_only(item) for item in answer["items"]],
        }
    return forms.metadata_only(answer)


def _deleted(kind: Kind, obj: Mapping[str, Any]) -> dict[str, Any]:
    details = {"name": obj["metadata"]["name"], "kind": kind.info.plural, "uid": obj["metadata"]["uid"]}
    if kind.info.group:
        details["group"] = kind.info.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _version() -> dict[str, str]:
    version = schema.schemas().version
    major, minor = version.removeprefix("v").split(".")[:2]
    return {"major": major, "minor": minor, "gitVersion": f"{version}+simulated", "platform": "linux/amd64"}


def _json(
    body: Mapping[str, Any],
    code: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=code, headers={**(headers or {}), "Content-Type": content_type})
