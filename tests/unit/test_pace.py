"""How many writes may be under way: decided from how long answers take, and simulated against servers."""

import heapq
import math
from collections.abc import Callable

import anyio
import pytest

from agent.kube.api_status import Busy
from agent.kube.pace import LEAST, MOST, START, Pace
from agent.kube.slots import Slots


def rounds(pace: Pace, count: int, took_s: float, *, kind: str = "ConfigMap", now: float = 0.0) -> None:
    """So many rounds in which every slot is used and every answer takes as long."""
    for _ in range(count):
        limit = int(pace.limit)
        for _ in range(limit):
            pace.answered(kind, took_s, under_way=limit, now=now)


def test_it_begins_in_the_middle() -> None:
    assert Pace().limit == START
    assert Pace().wait_s(int(START) - 1, 0.0) == 0.0
    assert Pace().wait_s(int(START), 0.0) == math.inf


def test_as_fast_as_ever_it_grows_to_the_most() -> None:
    pace = Pace()
    rounds(pace, 30, 0.01)
    assert pace.limit == MOST


def test_slower_than_ever_it_shrinks_and_stays_above_the_least() -> None:
    pace = Pace()
    rounds(pace, 1, 0.01)
    rounds(pace, 30, 0.1)
    assert LEAST <= pace.limit <= 6


def test_what_is_not_used_does_not_grow() -> None:
    pace = Pace()
    for _ in range(100):
        pace.answered("ConfigMap", 0.01, under_way=1, now=0.0)
    assert pace.limit == START


def test_a_kind_that_is_always_slow_is_no_sign_of_a_slow_server() -> None:
    pace = Pace()
    for _ in range(400):
        pace.answered("ConfigMap", 0.01, under_way=int(pace.limit), now=0.0)
        pace.answered("Deployment", 1.0, under_way=int(pace.limit), now=0.0)
    assert pace.limit == MOST


def test_a_server_that_became_slower_for_good_is_learned_anew() -> None:
    pace = Pace()
    rounds(pace, 5, 0.01, now=0.0)
    rounds(pace, 20, 0.2, now=50.0)
    assert pace.limit < START
    rounds(pace, 5, 0.2, now=120.0)
    rounds(pace, 30, 0.2, now=181.0)
    assert pace.limit == MOST


def test_busy_halves_once_for_all_that_were_under_way_together() -> None:
    pace = Pace()
    for _ in range(8):
        pace.refused(began=0.0, now=1.0)
    assert pace.limit == START / 2
    pace.refused(began=1.5, now=2.0)
    assert pace.limit == START / 4
    pace.refused(began=2.5, now=3.0)
    pace.refused(began=3.5, now=4.0)
    assert pace.limit == LEAST


def test_nobody_sends_before_retry_after_is_over() -> None:
    pace = Pace()
    pace.refused(began=0.0, now=1.0, retry_after_s=5.0)
    pace.refused(began=0.0, now=2.0, retry_after_s=1.0)
    assert pace.wait_s(0, 2.0) == pytest.approx(4.0)
    assert pace.wait_s(0, 6.0) == 0.0


# --- simulated ------------------------------------------------------------------------------------------------------


def simulate(pace: Pace, server_s: Callable[[int, float], float], *, writes: int = 4000) -> tuple[float, list[int]]:
    """Writes a second, and how many were under way at each; `server_s` is how long an answer takes, by how many are
    under way and when."""
    now, begun, under_way, seen = 0.0, 0, 0, []
    ends: list[tuple[float, float]] = []
    while begun < writes or ends:
        while begun < writes and pace.wait_s(under_way, now) <= 0:
            under_way += 1
            begun += 1
            seen.append(under_way)
            heapq.heappush(ends, (now + server_s(under_way, now), now))
        if not ends:
            now = max(now, pace.not_before)
            continue
        now, began = heapq.heappop(ends)
        pace.answered("ConfigMap", now - began, under_way=under_way, now=now)
        under_way -= 1
    return writes / now, seen


def serial(at_once: int, work_s: float = 0.002) -> Callable[[int, float], float]:
    """A server that does so many writes at once, each in its time; more wait in line."""
    return lambda under_way, now: work_s * max(1.0, under_way / at_once)


@pytest.mark.parametrize("at_once", [2, 4, 8, 16])
def test_throughput_is_about_what_the_server_can_do_and_the_line_stays_short(at_once: int) -> None:
    rate, seen = simulate(Pace(), serial(at_once))
    assert rate > 0.85 * at_once / 0.002
    assert max(seen[1000:]) <= 4 * at_once + 4


def test_a_server_that_gets_busy_for_a_while_is_left_alone_and_then_used_again() -> None:
    def server(under_way: int, now: float) -> float:
        return 0.002 * (20 if 1.0 < now < 2.0 else 1)

    _, seen = simulate(Pace(), server, writes=40_000)
    assert max(seen) == MOST
    assert seen[-100] == MOST


# --- slots ------------------------------------------------------------------------------------------------------------


async def _all(slots: Slots, count: int, took_s: float) -> int:
    """So many writes at once; the most that were under way together."""
    now = most = 0

    async def write() -> None:
        nonlocal now, most
        async with slots.one() as answered:
            now += 1
            most = max(most, now)
            await anyio.sleep(took_s)
            now -= 1
            answered("ConfigMap", None)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(write)
    return most


async def test_no_more_than_the_limit_are_under_way_and_all_get_their_turn() -> None:
    assert await _all(Slots(Pace(start=5, least=5, most=5)), 60, 0.0) == 5


async def test_first_come_first_served() -> None:
    slots, order = Slots(Pace(start=1, least=1, most=1)), []

    async def write(number: int) -> None:
        async with slots.one() as answered:
            order.append(number)
            await anyio.lowlevel.checkpoint()
            answered("ConfigMap", None)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(write, number)
    assert order == list(range(20))


async def test_a_slot_is_given_back_after_an_error_and_after_a_cancelled_wait() -> None:
    slots = Slots(Pace(start=1, least=1, most=1))
    with pytest.raises(RuntimeError):
        async with slots.one():
            raise RuntimeError
    async with slots.one():
        with anyio.move_on_after(0):
            async with slots.one():
                raise AssertionError("two at once")
    assert await _all(slots, 3, 0.0) == 1


async def test_retry_after_holds_everybody() -> None:
    clock, pace = [0.0], Pace()
    slots = Slots(pace, clock=lambda: clock[0])
    async with slots.one() as answered:
        answered("ConfigMap", Busy("x", "too many requests", retry_after_s=30.0))
    assert pace.not_before == 30.0
    with anyio.move_on_after(0.01) as late:
        async with slots.one():
            raise AssertionError("sent too early")
    assert late.cancelled_caught
    clock[0] = 30.0
    async with slots.one():
        pass
