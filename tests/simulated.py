"""The simulated API server for the tests, used like the real one: in a thread with its own event loop."""

from pathlib import Path

from anyio.from_thread import start_blocking_portal

from hub.sim.server import SimServer
from tests.kube import Kube


class Simulated(Kube):
    """One simulated cluster that answers until `stop`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._portal_of = start_blocking_portal()
        self._portal = self._portal_of.__enter__()
        self.server = SimServer()
        self._start()
        self.url, self.token = self.server.url, self.server.token
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(self.server.kubeconfig())

    def _start(self) -> None:
        self._serving = self._portal.wrap_async_context_manager(self.server.serving())
        self._serving.__enter__()

    def restart(self) -> None:
        """Cut all connections, forget the events, answer again on the same port with the same objects."""
        self._serving.__exit__(None, None, None)
        self._start()

    def stop(self) -> None:
        self._serving.__exit__(None, None, None)
        self._portal_of.__exit__(None, None, None)
