"""The rules of a rollout against seeded faults on virtual time; `tests/sim/world.py` says which and what must hold."""

import os

import pytest

from tests.sim.world import World

SEEDS = int(os.environ.get("FLOTILLA_SIM_SEEDS", "150"))


@pytest.mark.parametrize("seed", [pytest.param(n, id=f"seed-{n}") for n in range(SEEDS)])
def test_rollouts_keep_their_rules_whatever_fails(seed: int) -> None:
    World(seed).run()


def test_the_faults_really_happen() -> None:
    seen: set[str] = set()
    for seed in range(60):
        world = World(seed)
        world.run()
        seen |= world.seen
    assert seen == {
        "cut",
        "lost",
        "left",
        "restart",
        "decision lost",
        "replaced",
        "proven",
        "failed",
        "rolled back",
        "suspended",
        "completed without the offline",
    }
