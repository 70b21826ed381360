"""Gates that ask Debian's Prometheus: a hub in this process, a fleet repo, and numbers that the test serves."""

import shutil
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import pytest

from hub import gatekeeper
from hub.gatekeeper import Server
from hub.rollout import gates as gates_of_rollouts
from hub.state import State
from hub.wiring import Hub
from tests import real
from tests.e2e.crowd import HEARTBEAT_S, Crowd
from tests.e2e.test_page import bundle, cluster
from tests.e2e.world import Repo
from tests.site import Asked, Says, Site

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ["{host}"]}}]
"""


class Prometheus:
    """A real one that scrapes `host` each second; `numbers` is what it finds there by metric."""

    def __init__(self, folder: Path) -> None:
        self.numbers: dict[str, str] = {"shop_errors": "0"}
        self.site = Site({"/metrics": self._exposed})
        self._folder = folder
        self._port = real.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.process: real.Process | None = None

    def _exposed(self, asked: Asked) -> Says:
        text = "".join(f"{name} {value}\n" for name, value in self.numbers.items())
        return Says(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4"})

    def start(self) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.fail("no 'prometheus' on PATH: run tests/tools/prometheus.sh")
        config = self._folder / "prometheus.yml"
        config.write_text(CONFIG.format(host=self.site.host))
        self.process = real.Process(
            "prometheus",
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=warn",
            ],
            self._folder,
        )
        real.wait_until("Prometheus", self._ready, process=self.process, timeout_s=60)

    def _ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as response:
            return bool(response.status == 200)
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    made = Prometheus(folder)
    with made.site:
        made.start()
        try:
            yield made
        finally:
            made.kill()


def policy(gates: str) -> str:
    return f"""
        apiVersion: flotilla.dev/v1alpha1
        kind: RolloutPolicy
        metadata: {{name: careful}}
        spec:
          waves:
            - {{name: canary, select: {{matchLabels: {{canary: "true"}}}}}}
            - name: eu
              select: {{matchLabels: {{region: eu}}}}
              gates: [{gates}]
        """


class Watched:
    """A hub whose fleet has come to the gate between its two clusters."""

    def __init__(self, hub: Hub, repo: Repo) -> None:
        self.hub = hub
        self.repo = repo

    def state(self) -> State | None:
        return next(iter(self.hub.loop.states.values()), None)

    async def says(self, text: str) -> None:
        """Until the rollout gives that as the reason why it waits."""
        for _ in range(1200):
            state = self.state()
            if state is not None and text in state.reason:
                assert state.phase == "running"
                return
            await anyio.sleep(0.05)
        raise AssertionError(f"never said {text!r}, but {state.reason if state else 'nothing'}")

    async def completed(self) -> None:
        for _ in range(1200):
            rows = self.hub.journal.rollouts()
            if rows and rows[0].phase == "completed":
                return
            await anyio.sleep(0.05)
        raise AssertionError(f"{[(row.id, row.phase) for row in rows]}")

    def moved(self) -> list[str]:
        return sorted(self.hub.loop.slices)


@asynccontextmanager
async def at_the_gate(
    folder: Path, prometheus: Prometheus, gates: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    monkeypatch.setattr(gates_of_rollouts, "interval_s", lambda gate: 1.0)  # nobody wants to wait for five seconds
    monkeypatch.setattr(gatekeeper, "LOOK_S", 0.1)
    repo = Repo(folder / "fleet")
    repo.commit(
        "A fleet",
        {
            "rollouts/careful.yaml": policy(gates),
            "clusters/canary.yaml": cluster("canary", 'canary: "true"'),
            "clusters/eu.yaml": cluster("eu", "region: eu"),
            **bundle("shop"),
        },
    )
    hub = Hub(
        fleet=str(repo.path),
        branch="main",
        data=folder / "hub",
        poll_s=0.2,
        heartbeat_s=HEARTBEAT_S,
        prometheus={"default": Server(url=prometheus.url)},
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(hub.run, "127.0.0.1", 0))
        tasks.start_soon(Crowd(hub).run)
        yield Watched(hub, repo)
        tasks.cancel_scope.cancel()


async def test_a_wave_opens_once_the_errors_were_few_for_long_enough(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    prometheus.numbers["shop_errors"] = "7"
    async with at_the_gate(
        tmp_path, prometheus, "{metric: {query: shop_errors, below: 5, for: 1s}}", monkeypatch
    ) as fleet:
        await fleet.says('gate eu/metric: it is 7 for {__name__="shop_errors", instance=')
        assert fleet.moved() == ["canary"]
        prometheus.numbers["shop_errors"] = "2"
        await fleet.completed()
        assert fleet.moved() == ["canary", "eu"]
        gate = fleet.hub.journal.events(kind="wave-opened")
        assert [event.data["wave"] for event in gate] == ["canary", "eu"]


async def test_no_data_and_no_number_are_no_success(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "{metric: {query: sum(shop_failed) / sum(shop_asked), below: 0.1}}"
    async with at_the_gate(tmp_path, prometheus, query, monkeypatch) as fleet:
        await fleet.says("gate eu/metric: no data")
        prometheus.numbers |= {"shop_failed": "0", "shop_asked": "0"}
        await fleet.says("gate eu/metric: it is nan")
        prometheus.numbers["shop_asked"] = "100"
        await fleet.completed()


async def test_a_prometheus_that_is_down_holds_the_wave_says_so_and_fails_nothing(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_the_gate(tmp_path, prometheus, "{metric: {query: shop_errors, above: 1}}", monkeypatch) as fleet:
        await fleet.says("gate eu/metric: it is 0")
        await anyio.to_thread.run_sync(prometheus.kill)
        await fleet.says("gate eu/metric: cannot be asked: no answer: Cannot connect to host 127.0.0.1")
        assert fleet.hub.journal.events(kind="gate-error")
        assert fleet.moved() == ["canary"]
        prometheus.numbers["shop_errors"] = "2"
        await anyio.to_thread.run_sync(prometheus.start)
        await fleet.completed()


REFUSED = {
    "no-query": ("rate(shop_errors", "Prometheus says bad_data: invalid parameter"),
    "no-range": ("rate(shop_errors)", "Prometheus says bad_data: invalid parameter"),
    "a-range": ("shop_errors[1m]", "the query gives a matrix: it has to give a vector or a scalar"),
    "a-text": ("'text'", "the query gives a string: it has to give a vector or a scalar"),
    "fails": ("up * on(x) {job='shop'}", "Prometheus says execution: found duplicate series"),
}


async def test_a_query_that_prometheus_refuses_is_told_in_its_own_words(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.wait_until("numbers", lambda: _known(prometheus), timeout_s=30)
    gates = [f'{{name: {name}, metric: {{query: "{query}", below: 5}}}}' for name, (query, _) in REFUSED.items()]
    async with at_the_gate(tmp_path, prometheus, ", ".join(gates), monkeypatch) as fleet:
        for name, (_, told) in REFUSED.items():
            await fleet.says(f"gate eu/{name}: cannot be asked: {told}")
        assert fleet.moved() == ["canary"]


def _known(prometheus: Prometheus) -> bool:
    with urllib.request.urlopen(f"{prometheus.url}/api/v1/query?query=shop_errors", timeout=5) as response:
        return b'"value"' in response.read()


async def test_one_number_without_labels_will_do(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "{metric: {query: scalar(shop_errors), above: -1, below: 1}}"
    async with at_the_gate(tmp_path, prometheus, query, monkeypatch) as fleet:
        await fleet.completed()
