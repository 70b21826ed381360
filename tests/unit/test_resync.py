"""Which object is confirmed when, though nothing was seen."""

import itertools
import math
from collections.abc import Mapping

import pytest

from agent.drift.resync import EVERY_S, SPREAD, STEP_S, Resync
from proto.objects import ObjectKey

Bundles = Mapping[str, list[ObjectKey]]


def keys(prefix: str, count: int) -> list[ObjectKey]:
    return [ObjectKey(group="", kind="ConfigMap", namespace="shop", name=f"{prefix}{n}") for n in range(count)]


def run(resync: Resync, bundles: Bundles, *, now: float, until: float) -> list[tuple[float, ObjectKey]]:
    """Everything that is to be confirmed from `now` on, and when."""
    found = []
    while now < until:
        key, wait = resync.next(bundles, now=now)
        if key is not None:
            found.append((now, key))
        now += wait
    return found


def test_each_object_has_its_turn_once_a_round() -> None:
    bundles = {"a": keys("a", 3), "b": keys("b", 2)}
    found = run(Resync(jitter=lambda: 0.5), bundles, now=100.0, until=100.0 + EVERY_S * 1.4)
    assert sorted(key.name for _, key in found) == ["a0", "a1", "a2", "b0", "b1"]


def test_nothing_is_due_right_after_a_start_but_at_a_moment_of_its_own() -> None:
    jitter = iter([0.25, 0.75]).__next__
    resync = Resync(jitter=jitter)
    key, wait_s = resync.next({"a": keys("a", 1), "b": keys("b", 1)}, now=0.0)
    assert key is None
    assert wait_s == pytest.approx(EVERY_S / 4)


def test_ten_thousand_objects_are_one_a_second() -> None:
    found = run(Resync(jitter=lambda: 0.0), {"a": keys("a", 10_000)}, now=0.0, until=EVERY_S * (1 - SPREAD))
    assert len(found) == 10_000
    assert all(later - earlier >= STEP_S for (earlier, _), (later, _) in itertools.pairwise(found))


def test_a_round_that_takes_longer_than_its_time_is_not_begun_again_before_it_ends() -> None:
    bundles = {"a": keys("a", 50)}
    resync = Resync(jitter=lambda: 0.0, every_s=10.0)
    found = [key.name for _, key in run(resync, bundles, now=0.0, until=50.0)]
    assert len(set(found)) == len(found) == 50


def test_what_left_the_slice_has_no_turn_any_more() -> None:
    resync = Resync(jitter=lambda: 0.0)
    assert resync.next({"a": keys("a", 3), "b": keys("b", 1)}, now=0.0)[0] is not None
    left = run(resync, {"a": keys("a", 1), "b": keys("b", 1)}, now=STEP_S, until=EVERY_S / 2)
    assert [key.name for _, key in left] == ["b0"]
    assert resync.next({}, now=EVERY_S) == (None, math.inf)
