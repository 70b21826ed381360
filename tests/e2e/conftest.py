"""Three real clusters with workloads, a hub and three agents, for the story."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import real
from tests.e2e.world import World

CLUSTERS = ("canary", "eu-1", "eu-2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def world(etcd: real.Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The fleet of the story: API servers run, nothing is committed, neither hub nor agents were started."""
    folder = tmp_path_factory.mktemp("world")
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(real.ApiServer, etcd, folder / name, name=name, workloads=True) for name in CLUSTERS]
        kubes = dict(zip(CLUSTERS, (each.result() for each in started), strict=True))
    made = World(folder, kubes)
    try:
        yield made
    finally:
        made.stop()
        for kube in kubes.values():
            kube.stop()
