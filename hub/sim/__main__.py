"""One simulated cluster as a process: `python -m hub.sim --port 6443 --kubeconfig FILE`; ends on SIGTERM or Ctrl-C."""

import argparse
import signal
from pathlib import Path

import anyio

from hub.sim.server import SimServer


async def _serve(port: int, kubeconfig: Path | None) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with SimServer().serving(port) as server:
            if kubeconfig is not None:
                file = anyio.Path(kubeconfig)
                await file.touch(mode=0o600)
                await file.write_text(server.kubeconfig())
            print(server.url, flush=True)
            async for _ in signals:
                return


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hub.sim", description="A simulated Kubernetes API server.")
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    parser.add_argument("--kubeconfig", type=Path, help="where to write an administrator's kubeconfig")
    options = parser.parse_args()
    anyio.run(_serve, options.port, options.kubeconfig)


if __name__ == "__main__":
    main()
