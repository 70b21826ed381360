"""Shared by all lanes: asyncio as anyio's backend, and real API servers for the tests that were asked to use them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import real


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run against the real kube-apiserver ('make e2e')")


def pytest_report_header(config: pytest.Config) -> str | None:
    real_too = config.getoption("--real")
    return None if real_too else "tests that need a real kube-apiserver are left to 'make e2e' (deselected here)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--real"):
        return
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
def kube(etcd: real.Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.ApiServer]:
    """One API server with controllers, a scheduler and a fake node, shared by all contract tests of a run."""
    with real.ApiServer(etcd, tmp_path_factory.mktemp("kube"), workloads=True) as server:
        yield server


@pytest.fixture(scope="session")
def kubeconfig(kube: real.ApiServer) -> Path:
    """An administrator's kubeconfig for `kube`."""
    return kube.kubeconfig
