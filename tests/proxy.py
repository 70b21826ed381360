"""A TCP proxy between an agent and an API server, for what networks do: cut connections, and half-open ones.

Bytes go through unchanged, TLS and all. Runs in the event loop of the test.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import yaml
from anyio.abc import ByteStream, SocketAttribute, SocketStream

CHUNK = 1 << 16


class Proxy:
    """`opened` counts the connections that came; `port` is where it listens."""

    def __init__(self, host: str, server_port: int) -> None:
        self.opened = 0
        self.port = 0
        self._server = (host, server_port)
        self._open: dict[int, anyio.CancelScope] = {}
        self._silent: set[int] = set()

    def swallow(self) -> int:
        """From now on nothing comes through the connections that are open, and nobody is told; how many these are."""
        self._silent |= self._open.keys()
        return len(self._silent)

    def cut(self) -> int:
        """End the connections that are open; how many these were."""
        for scope in self._open.values():
            scope.cancel()
        return len(self._open)

    async def serve(self, client: SocketStream) -> None:
        number = self.opened
        self.opened += 1
        with anyio.CancelScope() as self._open[number]:
            async with client, await anyio.connect_tcp(*self._server) as server, anyio.create_task_group() as ways:
                ways.start_soon(self._pass_on, number, client, server, name="to the server")
                await self._pass_on(number, server, client)
                ways.cancel_scope.cancel()
        del self._open[number]

    async def _pass_on(self, number: int, source: ByteStream, target: ByteStream) -> None:
        try:
            while True:
                data = await source.receive(CHUNK)
                if number not in self._silent:
                    await target.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            if number in self._silent:
                await anyio.sleep_forever()
            self._open[number].cancel()


@asynccontextmanager
async def proxied(kubeconfig: Path, folder: Path) -> AsyncIterator[tuple[Proxy, Path]]:
    """(proxy, kubeconfig that leads through it) for the server of `kubeconfig`."""
    config = yaml.safe_load(await anyio.Path(kubeconfig).read_text())
    cluster = config["clusters"][0]["cluster"]
    url = urlsplit(cluster["server"])
    assert url.hostname is not None
    assert url.port is not None
    proxy = Proxy(url.hostname, url.port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        proxy.port = listener.extra(SocketAttribute.local_port)
        group.start_soon(listener.serve, proxy.serve, name="proxy")
        cluster["server"] = f"{url.scheme}://127.0.0.1:{proxy.port}"
        through = folder / "proxied"
        await anyio.Path(through).write_text(yaml.safe_dump(config))
        yield proxy, through
        group.cancel_scope.cancel()
