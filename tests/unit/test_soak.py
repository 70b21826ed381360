"""The soak: what it says of seeds that break, and that none of them plays for ever."""

import itertools
import time

import pytest

from tests.sim.world import World
from tests.tools import soak


def test_a_seed_that_goes_round_for_ever_is_told_and_the_next_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = itertools.count()

    def run(world: World) -> None:
        world.now += 20.0
        world.seen["moved"] += 1
        if next(turns) == 0:
            for _ in itertools.count():
                pass

    monkeypatch.setattr(World, "run", run)
    played, seen, broken = soak.play(range(7, 9), cpu_s=0.1)
    assert broken == [(7, "Endless: no end after 0.1 s of the processor, 20 s into its story")]
    assert (played, seen) == (2, {"moved": 2})


def test_a_seed_that_breaks_a_rule_is_told_with_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(world: World) -> None:
        raise AssertionError("c1 moved twice")

    monkeypatch.setattr(World, "run", run)
    assert soak.play(range(3, 4))[2] == [(3, "AssertionError: c1 moved twice")]


def test_when_its_minutes_are_over_no_further_seeds_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "run", lambda world: world.seen.update(moved=1))
    assert soak.play(range(3, 9), until_s=time.monotonic() - 1.0) == (0, {}, [])
    assert soak.play(range(3, 9), until_s=time.monotonic() + 3600.0) == (6, {"moved": 6}, [])
