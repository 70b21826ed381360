"""The agent as a process of its own, for tests that kill it, cut it off or look at what it needs."""

import sys
from pathlib import Path

from tests.real import Process
from tests.slices import CLUSTER


class AgentProcess:
    """An agent that knows where its cluster is, and keeps what it knows in `state`."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self.state = folder / "state"
        self.process: Process | None = None

    def start(self, *options: str) -> Process:
        command = [sys.executable, "-m", "agent.main", f"--cluster={CLUSTER}", f"--state-dir={self.state}"]
        self.process = Process("agent", [*command, f"--kubeconfig={self.kubeconfig}", *options], self.folder)
        return self.process

    def end(self) -> None:
        """Let it give its Lease back: killed it would keep that from the agents of the tests behind this one."""
        if self.process is not None:
            self.process.stop()
