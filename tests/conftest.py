"""Shared by all lanes: asyncio as anyio's backend, the profiles of property tests, and the API server of the contract
tests, simulated or real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import real, simulated
from tests.kube import Kube

# How long an example takes, on a machine with other work, says nothing about what is tested.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in each run: new ones are for whoever can look into what they find.
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run against the real kube-apiserver ('make e2e')")
    parser.addoption("--fuzz-edits", type=int, default=0, help="how many random edits the fuzz tests make")
    parser.addoption("--fuzz-seed", type=int, default=1, help="which random edits they make")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unsimulated(reason): beyond the simulated API server: a strict xfail there")


def pytest_report_header(config: pytest.Config) -> str | None:
    real_too = config.getoption("--real")
    return None if real_too else "tests that need a real kube-apiserver are left to 'make e2e' (deselected here)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--real"):
        return
    for item in items:
        for mark in item.iter_markers("unsimulated"):
            item.add_marker(pytest.mark.xfail(strict=True, reason=f"not simulated: {mark.args[0]}"))
    left = [item for item in items if "real" in item.keywords]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if "real" not in item.keywords]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Etcd]:
    with real.Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """One API server shared by all contract tests of a run: the simulated one, or with `--real` a real one with
    controllers, a scheduler and a fake node."""
    folder = tmp_path_factory.mktemp("kube")
    server: Kube
    if request.config.getoption("--real"):
        server = real.ApiServer(request.getfixturevalue("etcd"), folder, workloads=True)
    else:
        server = simulated.Simulated(folder, workloads=True)
    with server:
        yield server


@pytest.fixture(scope="session")
def kubeconfig(kube: Kube) -> Path:
    """An administrator's kubeconfig for `kube`."""
    return kube.kubeconfig
