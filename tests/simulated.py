"""The simulated API server for the tests, used like the real one: in a thread with its own event loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.from_thread import start_blocking_portal

from hub.sim.controllers import Controllers
from hub.sim.rbac import Rbac
from hub.sim.server import SimServer
from tests.kube import Kube


class Simulated(Kube):
    """One simulated cluster that answers until `stop`; with `workloads`, its controllers run, too."""

    def __init__(self, folder: Path, *, workloads: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._portal_of = start_blocking_portal()
        self._portal = self._portal_of.__enter__()
        self.server = SimServer()
        permissions = Rbac(self.server.api)
        permissions.install()
        self.server.authorize = permissions
        self._workloads = workloads
        self._start()
        self.url, self.token = self.server.url, self.server.token
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(self.server.kubeconfig())

    def _start(self) -> None:
        self._running = self._portal.wrap_async_context_manager(self._run())
        self._running.__enter__()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with self.server.serving(), anyio.create_task_group() as tasks:
            if self._workloads:
                tasks.start_soon(Controllers(self.server.api).run, name="controllers")
            yield
            tasks.cancel_scope.cancel()

    def restart(self) -> None:
        """Cut all connections, forget the events, answer again on the same port with the same objects."""
        self._running.__exit__(None, None, None)
        self._start()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)
        self._portal_of.__exit__(None, None, None)
