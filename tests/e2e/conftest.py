"""Three real clusters with workloads, a hub and three agents, for the story."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import real
from tests.e2e import story
from tests.e2e.collector import Collector
from tests.e2e.world import World

CLUSTERS = ("canary", "eu-1", "eu-2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name == "test_story.py", reverse=True)  # the story begins with nothing
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="session")
def world(etcd: real.Etcd, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The fleet of the story: API servers run, nothing is committed, neither hub nor agents were started."""
    folder = tmp_path_factory.mktemp("world")
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(real.ApiServer, etcd, folder / name, name=name, workloads=True) for name in CLUSTERS]
        kubes = dict(zip(CLUSTERS, (each.result() for each in started), strict=True))
    made = World(folder, kubes)
    made.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
    try:
        yield made
    finally:
        made.stop()
        for kube in kubes.values():
            kube.stop()


@pytest.fixture(scope="session")
def started(world: World) -> World:
    """The fleet with a hub and an agent in each cluster, whether or not the story ran before."""
    if world.hub is None:
        world.repo.commit("An empty fleet", story.BASE)
        world.start_hub()
        for cluster in world.kubes:
            world.start_agent(cluster)
    return world
