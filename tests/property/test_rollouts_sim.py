"""The rules of a rollout against seeded faults on virtual time; `tests/sim/world.py` says which and what must hold.

`FLOTILLA_SIM_SEEDS` says how many seeds are played, `FLOTILLA_SIM_SEED` plays a single one again.
"""

import os
from collections import Counter

import pytest

from tests.sim.world import World

ONE = os.environ.get("FLOTILLA_SIM_SEED", "")
BROKE = (5120, 6530, 6533, 7189, 7828, 7906, 7998, 12845, 12989, 13462, 52696)
"""Seeds that found something, each told by a unit test since."""
SEEDS = [int(ONE)] if ONE else [*range(int(os.environ.get("FLOTILLA_SIM_SEEDS", "400"))), *BROKE]
HAPPENS = {
    *("lost", "overtaken", "left", "restart", "decision lost", "partition", "cut", "suspended", "cordoned"),
    *("moved", "bootstrapped", "proven", "failed", "jumped", "completed without the offline"),
    *("replaced", "rolling-back", "rolled-back", "aborted"),
    *("gate word", "gate page", "gate errors", "gate till"),
    *("pause", "resume", "approve", "reject", "promote", "skip", "skip-wave", "retry", "abort", "rollback"),
    "emergency",
}
"""What the seeds bring about, so that what is watched is not watched in vain."""


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("seed", [pytest.param(n, id=f"seed-{n}") for n in SEEDS])
def test_rollouts_keep_their_rules_whatever_fails(seed: int, seen: Counter[str]) -> None:
    world = World(seed)
    world.run()
    seen += world.seen


@pytest.mark.skipif(len(SEEDS) < 400, reason="few seeds bring about little")
def test_all_faults_and_commands_really_happened(seen: Counter[str]) -> None:
    assert {what for what, times in seen.items() if times} == HAPPENS
