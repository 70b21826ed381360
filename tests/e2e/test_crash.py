"""A hub that is killed, or whose disk is full, at every fifth of its durable steps; the unit tests take fewer."""

import os
from pathlib import Path

import pytest

from tests.unit.test_crash import HOW, check

EVERY = int(os.environ.get("FLOTILLA_CRASH_EVERY", "5"))


@pytest.mark.timeout(7200)
@HOW
def test_a_hub_that_is_cut_short_anywhere_ends_as_one_that_was_not(tmp_path: Path, how: str, code: int) -> None:
    check(tmp_path, how, code, every=EVERY)
