"""One simulated cluster as a process: `python -m hub.sim --port 6443 --kubeconfig FILE`; ends on SIGTERM or Ctrl-C."""

import argparse
import signal
from pathlib import Path

import anyio

from hub.sim.access import User
from hub.sim.controllers import Controllers
from hub.sim.server import SimServer
from hub.sim.workloads import Behaviour


async def _serve(server: SimServer, port: int, kubeconfig: Path | None, behaviour: Behaviour) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with server.serving(port), anyio.create_task_group() as tasks:
            tasks.start_soon(Controllers(server.api, behaviour).run, name="controllers")
            if kubeconfig is not None:
                file = anyio.Path(kubeconfig)
                await file.touch(mode=0o600)
                await file.write_text(server.kubeconfig())
            print(server.url, flush=True)
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hub.sim", description="A simulated Kubernetes API server.")
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    parser.add_argument("--kubeconfig", type=Path, help="where to write an administrator's kubeconfig")
    parser.add_argument("--ready-s", type=float, default=1.0, help="how long a Pod takes to become Ready")
    parser.add_argument("--open", action="store_true", help="no token needed: kubectl sends none over plain HTTP")
    options = parser.parse_args()
    server = SimServer(anonymous=User(name="admin", groups=("system:masters",)) if options.open else None)
    anyio.run(_serve, server, options.port, options.kubeconfig, Behaviour(ready_s=options.ready_s))


if __name__ == "__main__":
    main()
