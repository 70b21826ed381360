"""The simulated API server on HTTP: paths, queries and headers in, JSON out; one `SimServer` is one cluster.

    /version /readyz /healthz /livez            the server itself
    /api /apis …                                discovery, aggregated when the client accepts it
    /api/v1/… /apis/{group}/{version}/…         objects, lists, watches, and the subresources status and scale

Everything but watches is answered at once by `api`. A write is told to watchers before it is answered, so an event may
come before the response of its own write, as on the real server. `authorize`, `intercept` and `api.admission` are where
permissions, faults and admission hook in. Next: `python -m hub.sim` runs one by itself.
Longer than other modules: all that is known of HTTP is here.
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
from hub.sim import discovery, forms, selectors, status, watch
from hub.sim.api import Api, PatchType
from hub.sim.kinds import Kind
from hub.sim.status import ApiError
from hub.sim.store import Key, Store
from hub.sim.writes import Options

_TRUE: Final = frozenset({"true", "1", "True"})
_PATCHES: Final[Mapping[str, PatchType]] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
    "application/apply-patch+json": "apply",
}
_TOLD_WHOLE: Final = frozenset(
    ("", kind)
    for kind in ("Service", "Pod", "PersistentVolumeClaim", "PersistentVolume", "ServiceAccount", "PodTemplate")
)
"""Kinds of which a deletion answers with the object that was."""
_MAX_BODY: Final = 3 * 1024 * 1024
_WATCH_S: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who sends a request."""

    name: str
    groups: tuple[str, ...] = ()


ACCOUNTS: Final = "system:serviceaccount:"


def service_account(namespace: str, name: str) -> User:
    """Pure: the user that a ServiceAccount's token stands for."""
    return User(
        name=f"{ACCOUNTS}{namespace}:{name}",
        groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request wants to do, as authorization sees it; `path` for what is no resource."""

    user: User
    verb: str
    group: str = ""
    plural: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


Authorize = Callable[[Access], str | None]
"""Why an access is refused; None when it is not."""
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
        user = self._user(request)
        if path == "/version":
            return _json(_version())
        parts = [unquote(part) for part in path.strip("/").split("/")]
        document = self._document(request, parts)
        if document is not None:
            # Clients tell the two forms of discovery apart by the content type alone.
            whole = document["kind"] == "APIGroupDiscoveryList"
            return _json(document, content_type=discovery.AGGREGATED if whole else "application/json")
        target = self._target(parts)
        if request.method == "GET" and not target.name and request.query.get("watch") in _TRUE:
            self._check(user, "watch", target)
            return await self._watch(request, target)
        return await self._object(request, target, user)

    def _user(self, request: web.BaseRequest) -> User:
        sent = request.headers.get("Authorization")
        scheme, _, token = (sent or "").partition(" ")
        user = self.tokens.get(token.strip()) if scheme.lower() == "bearer" else None
        user = self.anonymous if sent is None else user
        if user is None:
            raise ApiError(401, "Unauthorized")
        acts_as = request.headers.get("Impersonate-User")
        return user if acts_as is None else self._impersonated(user, acts_as, request)

    def _impersonated(self, user: User, name: str, request: web.BaseRequest) -> User:
        """Somebody else, if `user` may act as them; a service account has its groups when none are named."""
        groups = tuple(request.headers.getall("Impersonate-Group", ()))
        wanted = [Access(user=user, verb="impersonate", plural="groups", name=group) for group in groups]
        if name.startswith(ACCOUNTS) and name.count(":") == 3:
            namespace, account = name.removeprefix(ACCOUNTS).split(":")
            acting = service_account(namespace, account)
            wanted.append(
                Access(user=user, verb="impersonate", plural="serviceaccounts", namespace=namespace, name=account)
            )
        else:
            acting = User(name=name)
            wanted.append(Access(user=user, verb="impersonate", plural="users", name=name))
        if self.authorize is not None:
            for access in wanted:
                self._refuse(self.authorize(access), access)
        return User(name=name, groups=groups or acting.groups)

    def _check(self, user: User, verb: str, target: Target) -> None:
        if self.authorize is None:
            return
        info = target.kind.info
        access = Access(
            user=user,
            verb=verb,
            group=info.group,
            plural=info.plural,
            subresource=target.subresource,
            namespace=target.namespace,
            name=target.name,
        )
        self._refuse(self.authorize(access), access)

    def _refuse(self, why: str | None, access: Access) -> None:
        if why is None:
            return
        resource = f"{access.plural}/{access.subresource}" if access.subresource else access.plural
        where = f' in the namespace "{access.namespace}"' if access.namespace else " at the cluster scope"
        cause = (
            f'User "{access.user.name}" cannot {access.verb} resource "{resource}" in API group "{access.group}"{where}'
        )
        cause = f"{cause}: {why}" if why else cause
        raise status.forbidden(access.group, access.plural, access.name, cause)

    def _document(self, request: web.BaseRequest, parts: list[str]) -> Mapping[str, Any] | None:
        """The discovery document at a path; None when the path is none of one."""
        infos = tuple(self.api.kinds.infos())
        wants_all = "apidiscovery.k8s.io" in request.headers.get("Accept", "")
        match parts:
            case ["api"] if wants_all:
                return discovery.aggregated(info for info in infos if not info.group)
            case ["apis"] if wants_all:
                return discovery.aggregated(info for info in infos if info.group)
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return discovery.groups(infos)
            case ["api", version]:
                found: Mapping[str, Any] | None = discovery.resources(infos, "", version)
            case ["apis", group]:
                found = discovery.group(infos, group)
            case ["apis", group, version]:
                found = discovery.resources(infos, group, version)
            case _:
                return None
        if found is None:
            raise status.NoSuchGroup
        return found

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
                    _selector(request, kind),
                    limit=_number(request, "limit", 0),
                    after=request.query.get("continue", ""),
                )
            case "POST", False:
                self._check(user, "create", target)
                code, answer = 201, self.api.create(kind, key, await _body(request), _options(request, user))
            case "PUT", True:
                self._check(user, "update", target)
                sent, options = await _body(request), _options(request, user)
                answer = self.api.update(kind, key, sent, options, subresource=target.subresource)
            case "PATCH", True:
                self._check(user, "patch", target)
                code, answer = await self._patch(request, target, user)
            case "DELETE", True:
                self._check(user, "delete", target)
                gone, answer = self.api.delete(kind, key, await _delete_options(request, user))
                answer = _deleted(kind, answer) if gone and kind.names not in _TOLD_WHOLE else answer
            case "DELETE", False:
                self._check(user, "deletecollection", target)
                options = await _delete_options(request, user)
                answer = self.api.delete_collection(kind, target.namespace, _selector(request, kind), options)
            case _:
                raise ApiError(405, "the server does not allow this method on the requested resource", details={})
        if self.store.revision != before:
            # Watchers wake up before we answer.
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
        return _json(_shaped(answer, request), code)

    async def _patch(self, request: web.BaseRequest, target: Target, user: User) -> tuple[int, dict[str, Any]]:
        content_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        how = _PATCHES.get(content_type)
        if how is None:
            accepted = ", ".join(_PATCHES)
            raise ApiError(
                415, f"the body of the request was in an unknown format - accepted media types include: {accepted}"
            )
        if how == "apply" and not request.query.get("fieldManager"):
            problem = ("fieldManager", "Required value: is required for apply patch")
            raise status.invalid("meta.k8s.io", "PatchOptions", "", [problem])
        options = _options(request, user)
        sent = await _body(request)
        created, answer = self.api.patch(
            target.kind, target.key, sent, options, how=how, subresource=target.subresource
        )
        return 201 if created else 200, answer

    # --- watches ------------------------------------------------------------------------------------------------------

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query = request.query
        revision = query.get("resourceVersion", "")
        if revision and not revision.isdigit():
            raise ApiError(400, f"Invalid value: {revision!r}: resourceVersion")
        asked = watch.Asked(
            kind=target.kind,
            namespace=target.namespace,
            selector=_selector(request, target.kind),
            metadata_only=_wants_metadata(request),
            revision=revision,
            initial_events=query.get("sendInitialEvents") in _TRUE,
            bookmarks=query.get("allowWatchBookmarks") in _TRUE,
            timeout_s=_number(request, "timeoutSeconds", _WATCH_S),
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


async def _body(request: web.BaseRequest) -> Any:
    """JSON, which is what clients send even as apply-patch+yaml; protobuf is not spoken here."""
    if "protobuf" in request.headers.get("Content-Type", ""):
        message = "the body of the request was in an unknown format - accepted media types include: application/json"
        raise ApiError(415, message)
    return _parsed(await _raw(request))


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"the object provided is unrecognized (must be of type object): {error}"
        raise ApiError(400, message) from error


def _number(request: web.BaseRequest, name: str, default: int) -> int:
    value = request.query.get(name) or str(default)
    if not value.isdigit():
        raise ApiError(400, f"Invalid value: {value!r}: {name} is no number")
    return int(value)


async def _raw(request: web.BaseRequest) -> bytes:
    raw = bytearray()
    async for chunk in request.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_BODY:
            raise ApiError(413, f"Request entity too large: limit is {_MAX_BODY}", reason="RequestEntityTooLarge")
    return bytes(raw)


def _options(request: web.BaseRequest, user: User) -> Options:
    query = request.query
    agent = request.headers.get("User-Agent", "")
    return Options(
        manager=query.get("fieldManager") or agent.partition("/")[0] or "unknown",
        force=query.get("force") in _TRUE,
        dry_run=query.get("dryRun") == "All",
        strict=query.get("fieldValidation") == "Strict",
        user=user.name,
    )


async def _delete_options(request: web.BaseRequest, user: User) -> Options:
    raw = await _raw(request)
    sent = _parsed(raw) if raw else {}
    if not isinstance(sent, dict):
        raise ApiError(400, "DeleteOptions are an object")
    preconditions = sent.get("preconditions") or {}
    return Options(
        dry_run=request.query.get("dryRun") == "All" or sent.get("dryRun") == ["All"],
        user=user.name,
        uid=preconditions.get("uid", ""),
        resource_version=preconditions.get("resourceVersion", ""),
        propagation=request.query.get("propagationPolicy") or sent.get("propagationPolicy") or "Background",
    )


def _selector(request: web.BaseRequest, kind: Kind) -> selectors.Selector:
    query = request.query
    try:
        return selectors.parse(query.get("labelSelector", ""), query.get("fieldSelector", ""), table=kind.table)
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def _wants_metadata(request: web.BaseRequest) -> bool:
    return "as=PartialObjectMetadata" in request.headers.get("Accept", "")


def _shaped(answer: dict[str, Any], request: web.BaseRequest) -> dict[str, Any]:
    """As it is, or the metadata alone when that was asked for."""
    if not _wants_metadata(request) or answer.get("kind") == "Status":
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
