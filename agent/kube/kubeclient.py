"""kubernetes_asyncio without its models: credentials, their renewal, and the connection pool.

Importing kubernetes_asyncio whole costs 64 MB, 35 MB of it for generated models and APIs. The agent sends and reads raw
JSON and never uses them: `slim` lets the other modules be imported without them (docs/decisions/0002).
Assumes that nothing else in the process needs the generated parts; where they were imported already, they stay.
Next: `cluster` speaks to the API server with what this module gives.
"""

import importlib
import importlib.util
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio

from proto.errors import InvalidInput, Transient

_BARE = ("kubernetes_asyncio", "kubernetes_asyncio.client")


class _NoApiClient:
    """Stands where the generated client would be: `config.kube_config` names it in two functions that we never call."""


def slim() -> None:
    """Make `kubernetes_asyncio.config` and `.client.rest` importable without the generated models; once is enough."""
    if all(name in sys.modules for name in _BARE):
        return
    for name in _BARE:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
        # The package module, with its __path__, but without running its __init__.
        sys.modules[name] = importlib.util.module_from_spec(spec)
    client = sys.modules["kubernetes_asyncio.client"]
    configuration = importlib.import_module("kubernetes_asyncio.client.configuration")
    exports = {
        "Configuration": configuration.Configuration,
        "ApiClient": _NoApiClient,
        "exceptions": importlib.import_module("kubernetes_asyncio.client.exceptions"),
        "rest": importlib.import_module("kubernetes_asyncio.client.rest"),
    }
    vars(client).update(exports)
    vars(sys.modules["kubernetes_asyncio"])["client"] = client


@dataclass(slots=True, kw_only=True)
class Credentials:
    """Where the API server is and who we are to it. `configuration` is kubernetes_asyncio's."""

    configuration: Any
    reload: Callable[[], Awaitable[Any]]
    """Reads everything anew (token file, exec plugin, certificates); gives a fresh configuration."""

    @property
    def host(self) -> str:
        return str(self.configuration.host).rstrip("/")

    async def authorization(self) -> str | None:
        """The value of the Authorization header, renewed by the configuration's own hook when it is about to end.

        Raises Transient when that fails: a plugin or a token file may work again the next time.
        """
        try:
            value = await self.configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:
            # Whatever a plugin or its library raises.
            raise Transient("credentials", f"cannot be renewed: {error or type(error).__name__}") from error
        return str(value) if value else None


async def load(kubeconfig: Path | None, context: str | None) -> Credentials:
    """Credentials from a kubeconfig file, or the pod's service account when `kubeconfig` is None.

    Raises InvalidInput when neither is usable.
    """
    slim()

    async def read() -> Any:
        try:
            return await _from_file(kubeconfig, context) if kubeconfig else _in_cluster()
        except Exception as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "service account of this pod"
            remedy = "check the file and its context" if kubeconfig else "outside a cluster, give --kubeconfig"
            # The library raises its own errors, and AssertionError, KeyError or TypeError for malformed files.
            raise InvalidInput(where, f"cannot be used: {error or type(error).__name__}", remedy) from error

    return Credentials(configuration=await read(), reload=read)


def _in_cluster() -> Any:
    configuration = _new_configuration()
    importlib.import_module("kubernetes_asyncio.config.incluster_config").load_incluster_config(
        client_configuration=configuration
    )
    return configuration


async def _from_file(path: Path, context: str | None) -> Any:
    if not await anyio.Path(path).is_file():
        raise FileNotFoundError("no such file")
    configuration = _new_configuration()
    loader = await importlib.import_module("kubernetes_asyncio.config.kube_config").load_kube_config(
        config_file=str(path), context=context, client_configuration=configuration, persist_config=False
    )

    async def renew(current: Any) -> None:
        # A plugin that names no end of its token is asked again only after a 401; one that does is cheap to call here.
        if hasattr(loader, "exec_plugin_expiry"):
            await loader.load_from_exec_plugin()
            current.api_key["BearerToken"] = loader.token

    configuration.refresh_api_key_hook = renew
    return configuration


def _new_configuration() -> Any:
    configuration = importlib.import_module("kubernetes_asyncio.client.configuration").Configuration()
    # Each watch holds a connection of its own; what runs at once is bounded by who calls, not by the pool.
    configuration.connection_pool_maxsize = 0
    return configuration


def connect(credentials: Credentials) -> tuple[aiohttp.ClientSession, dict[str, Any]]:
    """A session on the library's connection pool, and the arguments each request needs for its proxy and TLS name.

    The library's own session asks the environment for a proxy and a netrc file in a thread at every request, which
    costs more than the request; the pool is what carries the TLS settings, so we take it over and ask once. Raises
    InvalidInput when certificates or a key cannot be used.
    """
    configuration = credentials.configuration
    rest = importlib.import_module("kubernetes_asyncio.client.rest")
    try:
        library = rest.RESTClientObject(configuration).pool_manager
    except (OSError, ValueError) as error:
        where = f"TLS settings for {credentials.host}"
        raise InvalidInput(where, f"cannot be used: {error}", "check the certificates and the key") from error
    session = aiohttp.ClientSession(
        connector=library.connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        # The API server is near, and inflating costs more than the bytes.
        headers={"Accept-Encoding": "identity", "User-Agent": "flotilla-agent"},
    )
    library.detach()
    options: dict[str, Any] = {}
    if proxy := configuration.proxy or _proxy_of_environment(credentials.host):
        options["proxy"] = proxy
    if configuration.tls_server_name:
        options["server_hostname"] = configuration.tls_server_name
    return session, options


def _proxy_of_environment(host: str) -> str | None:
    url = urlsplit(host)
    if url.hostname is None or urllib.request.proxy_bypass(url.hostname):
        return None
    return urllib.request.getproxies().get(url.scheme)
