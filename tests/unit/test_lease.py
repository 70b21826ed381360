"""Of two agents one acts, and one that lost its lease stops writing."""

import itertools

import anyio
import pytest

from agent.kube.lease import DURATION_S, Fence, Lease
from agent.main import in_turn
from proto.errors import Transient
from proto.objects import ObjectKey
from tests.fakes import FakeCluster

KEY = ObjectKey(group="coordination.k8s.io", kind="Lease", namespace="flotilla-system", name="flotilla-agent")


class Clock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _after(clock: Clock, seconds: float) -> bool:
    clock.now += seconds
    return True


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def lease(cluster: FakeCluster, holder: str, clock: Clock) -> Lease:
    times = itertools.count()
    return Lease(cluster, holder=holder, timestamp=lambda: f"2026-01-01T00:00:00.{next(times):06d}Z", clock=clock)


async def test_the_first_agent_makes_namespace_and_lease(cluster: FakeCluster, clock: Clock) -> None:
    one = lease(cluster, "agent-1", clock)
    assert await one.once()
    assert one.held
    assert cluster.objects[KEY]["spec"]["holderIdentity"] == "agent-1"


async def test_a_renewal_is_one_request(cluster: FakeCluster, clock: Clock) -> None:
    one = lease(cluster, "agent-1", clock)
    await one.once()
    cluster.requests.clear()
    clock.now += 20
    assert await one.once()
    assert cluster.requests == [("patch", KEY)]


async def test_the_second_agent_waits_until_the_first_was_silent_for_the_duration(
    cluster: FakeCluster, clock: Clock
) -> None:
    one, two = lease(cluster, "agent-1", clock), lease(cluster, "agent-2", clock)
    await one.once()
    assert not await two.once()
    assert "is held by agent agent-1" in two.problem
    clock.now += DURATION_S - 1
    await one.once()
    clock.now += 2
    assert not await two.once()
    clock.now += DURATION_S
    assert await two.once()
    assert not one.held


async def test_an_agent_that_lost_its_lease_stops_at_once_and_says_so(cluster: FakeCluster, clock: Clock) -> None:
    one, two = lease(cluster, "agent-1", clock), lease(cluster, "agent-2", clock)
    await one.once()
    await two.once()
    clock.now += DURATION_S
    assert await two.once()
    assert not await one.once()
    assert not one.held
    assert "agent-2" in one.problem


async def test_a_silent_api_server_ends_the_lease(cluster: FakeCluster, clock: Clock) -> None:
    one = lease(cluster, "agent-1", clock)
    await one.once()

    def away(method: str, key: ObjectKey) -> None:
        raise Transient("API server", "cannot be reached")

    cluster.before = away
    clock.now += 30
    assert not await one.once()
    assert [one.held, _after(clock, 30) and one.held] == [True, False]
    cluster.before = lambda method, key: None
    assert await one.once()


async def test_the_same_agent_takes_its_own_lease_back_after_a_kill(cluster: FakeCluster, clock: Clock) -> None:
    await lease(cluster, "agent-1", clock).once()
    assert await lease(cluster, "agent-1", clock).once()


async def test_released_the_next_agent_begins_at_once(cluster: FakeCluster, clock: Clock) -> None:
    one = lease(cluster, "agent-1", clock)
    await one.once()
    await one.release()
    assert not one.held
    assert await lease(cluster, "agent-2", clock).once()


async def test_of_two_that_take_it_at_once_one_wins(cluster: FakeCluster, clock: Clock) -> None:
    both = [lease(cluster, "agent-1", clock), lease(cluster, "agent-2", clock)]
    async with anyio.create_task_group() as group:
        for one in both:
            group.start_soon(one.once)
    assert [one.held for one in both].count(True) == 1


async def test_nothing_is_written_through_the_fence_without_the_lease(cluster: FakeCluster, clock: Clock) -> None:
    one = lease(cluster, "agent-1", clock)
    fence = Fence(cluster, one)
    resource = await fence.resource("v1", "Namespace")
    key = ObjectKey(group="", kind="Namespace", namespace="", name="shop")
    body = b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}'
    with pytest.raises(Transient, match="does not hold the lease"):
        await fence.apply(resource, key, body, force=True)
    with pytest.raises(Transient):
        await fence.json_patch(resource, key, [])
    with pytest.raises(Transient):
        await fence.delete(resource, key, uid="u")
    assert cluster.requests == []
    await fence.apply(resource, key, body, force=True, dry_run=True)
    await one.once()
    assert (await fence.apply(resource, key, body, force=True))[0]
    clock.now += DURATION_S
    with pytest.raises(Transient):
        await fence.apply(resource, key, body, force=True)


async def test_only_the_agent_that_has_the_lease_speaks_to_the_hub(cluster: FakeCluster, clock: Clock) -> None:
    one, two = lease(cluster, "agent-1", clock), lease(cluster, "agent-2", clock)
    speaking: list[str] = []

    async def agent(name: str, its: Lease) -> None:
        async def speak() -> None:
            speaking.append(name)
            try:
                await anyio.sleep_forever()
            finally:
                speaking.remove(name)

        await in_turn(its, speak)

    async with anyio.create_task_group() as group:
        group.start_soon(agent, "agent-1", one)
        group.start_soon(agent, "agent-2", two)
        await anyio.wait_all_tasks_blocked()
        assert speaking == []  # neither has looked yet
        await one.once()
        await two.once()
        await anyio.wait_all_tasks_blocked()
        assert speaking == ["agent-1"]
        await one.release()
        await two.once()
        await one.once()
        await anyio.wait_all_tasks_blocked()
        assert speaking == ["agent-2"]
        group.cancel_scope.cancel()


async def test_an_agent_that_is_alone_speaks_to_the_hub_while_the_api_server_is_away(
    cluster: FakeCluster, clock: Clock
) -> None:
    one = lease(cluster, "agent-1", clock)

    def away(method: str, key: ObjectKey) -> None:
        raise Transient("API server", "cannot be reached")

    cluster.before = away
    assert not await one.once()
    with anyio.fail_after(5):
        await one.wait_elsewhere(False)
