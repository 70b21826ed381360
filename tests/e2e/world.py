"""A whole fleet on one machine for the end-to-end story: a fleet repo, a hub process, agents, real API servers.

Everything runs as a user would run it: the console scripts of this checkout, as processes, configured by flags. The
tests look from outside only: the hub's API, the CLI, and the API servers.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import real

BIN = Path(sys.executable).parent
HEARTBEAT_S = 1.0
REAL_FLEETS = Path(__file__).parents[3] / "shared/data/real"


class Repo:
    """The fleet repo, edited with the stock git client."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=Dana", "-c", "user.email=dana@example.org", *arguments],
            cwd=self.path,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
        ).stdout.strip()

    def write(self, files: Mapping[str, str | None]) -> None:
        """Write files (None deletes one); texts are dedented."""
        for name, text in files.items():
            path = self.path / name
            if text is None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(text).lstrip("\n"))

    def commit(self, message: str, files: Mapping[str, str | None] | None = None) -> str:
        """Commit everything; returns the commit id."""
        self.write(files or {})
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


class World:
    """The fleet. `kubes` are the clusters' API servers by cluster name."""

    def __init__(self, folder: Path, kubes: Mapping[str, real.ApiServer]) -> None:
        self.folder = folder
        self.kubes = dict(kubes)
        self.repo = Repo(folder / "fleet")
        self.port = real.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.hub: real.Process | None = None
        self.agents: dict[str, real.Process] = {}
        self.environment: dict[str, str] = {}
        self.hub_options: tuple[str, ...] = ()

    # --- processes ------------------------------------------------------------------------------------------------

    def start_hub(self, heartbeat_s: float = HEARTBEAT_S) -> real.Process:
        self.hub = real.Process(
            "hub",
            [
                str(BIN / "flotilla-hub"),
                f"--fleet={self.repo.path}",
                f"--data={self.folder / 'hub'}",
                f"--listen=127.0.0.1:{self.port}",
                "--poll=0.3",
                f"--heartbeat={heartbeat_s}",
                *self.hub_options,
            ],
            self.folder,
            self.environment,
        )
        real.wait_until("the hub", self._hub_ready, process=self.hub, timeout_s=60)
        return self.hub

    def _hub_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
        return False

    def start_agent(self, cluster: str, *arguments: str) -> real.Process:
        """Start (or start again) the agent of a cluster; the first time with a join token from the CLI."""
        token = self.folder / f"{cluster}.token"
        if not token.exists():
            token.write_text(self.cli("join-token", cluster))
        agent = real.Process(
            f"agent-{cluster}",
            [
                str(BIN / "flotilla-agent"),
                f"--hub={self.url}",
                f"--join-token-file={token}",
                f"--state-dir={self.folder / f'agent-{cluster}'}",
                f"--kubeconfig={self.kubes[cluster].kubeconfig}",
                *arguments,
            ],
            self.folder,
            self.environment,
        )
        self.agents[cluster] = agent
        return agent

    def stop(self) -> None:
        for process in (*self.agents.values(), self.hub):
            if process is not None:
                process.stop()

    # --- looking from outside -------------------------------------------------------------------------------------

    def cli(self, *arguments: str, check: bool = True) -> str:
        """Run `flotilla`; returns what it printed (stderr too when it failed and `check` is off)."""
        done = subprocess.run(
            [str(BIN / "flotilla"), *arguments],
            capture_output=True,
            text=True,
            cwd=self.repo.path,
            env={
                **os.environ,
                "FLOTILLA_HUB": self.url,
                "FLOTILLA_TOKEN_FILE": str(self.folder / "hub/admin.token"),
            },
        )
        assert done.returncode == 0 or not check, f"flotilla {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout if check else done.stdout + done.stderr

    def api(self, path: str) -> Any:
        """GET from the hub's API."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=20) as response:
            return json.load(response)

    def wait(self, what: str, check: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
        """Wait for something; on failure show the ends of all logs."""
        try:
            return real.wait_until(what, check, timeout_s=timeout_s, each_s=0.1)
        except AssertionError as error:
            logs = "\n".join(f"--- {p.name}\n{p.tail(30)}" for p in (self.hub, *self.agents.values()) if p is not None)
            told = "\n".join(
                self.cli(*words, check=False) for words in (("status",), *(("clusters", c) for c in self.kubes))
            )
            raise AssertionError(f"{error}\n{logs}\n--- status\n{told}") from None

    def rollout(self, bundle: str, revision: str) -> dict[str, Any] | None:
        """The rollout of a bundle to a revision, with its members."""
        for row in self.api("rollouts")["rollouts"]:
            if bundle in row["bundles"] and row["revision"] == revision:
                found: dict[str, Any] = self.api(f"rollouts/{row['id']}")
                return found
        return None

    def wait_rollout(
        self, bundle: str, revision: str, phase: str = "completed", *, timeout_s: float = 90.0
    ) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            row = self.rollout(bundle, revision)
            return row if row and row["phase"] == phase else None

        found: dict[str, Any] = self.wait(f"{phase} rollout of {bundle}", reached, timeout_s=timeout_s)
        return found

    def drift(self, cluster: str, object_: str, **wanted: object) -> dict[str, Any] | None:
        """The newest drift report of an object that has all of `wanted`."""
        for row in reversed(self.api(f"drift?cluster={cluster}&limit=1000")["drift"]):
            data: dict[str, Any] = row["data"]
            if data["object"] == object_ and all(data.get(key) == value for key, value in wanted.items()):
                return data
        return None

    def events(self, **query: str) -> list[dict[str, Any]]:
        text = "&".join(f"{key}={value}" for key, value in query.items())
        found: list[dict[str, Any]] = self.api(f"events?limit=1000&{text}")["events"]
        return found
