"""A hub that is killed, or whose disk is full, at some of its durable steps (`tests.crash` says which and how).

`make e2e` takes every fifth step (`tests/e2e/test_crash.py`), `FLOTILLA_CRASH_EVERY=1` all of them: half an hour.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EVERY = int(os.environ.get("FLOTILLA_CRASH_EVERY", "53"))
LEAST_STEPS = 400
"""A life that has become shorter tests less than it says."""


def lives(how: str, folder: Path, *, every: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an undisturbed life leaves, and what became of each that was cut short."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", how, str(folder), str(every)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    first, *rest = map(json.loads, done.stdout.splitlines())
    return first, rest


HOW = pytest.mark.parametrize(
    ("how", "code"), [pytest.param("kill", 9, id="SIGKILL"), pytest.param("full", 0, id="a full disk")]
)


def check(folder: Path, how: str, code: int, *, every: int) -> None:
    """Whatever step is the last of a life, the next one ends as if nothing had been."""
    undisturbed, cut = lives(how, folder, every=every)
    assert undisturbed["steps"] >= LEAST_STEPS
    left = undisturbed["left"]
    assert [phase for _, _, phase in left["rollouts"]] == ["completed"] * 3 + ["rolled-back"]
    assert [seq for _, seq, _ in left["slices"]] == [5, 3, 3]
    assert (left["fsck"], left["rubbish"]) == (["", ""], [])
    assert [life for life in cut if life["again"] or life["wrong"]] == []
    assert {life["code"] for life in cut} == {code}
    assert len(cut) >= LEAST_STEPS // every


@pytest.mark.timeout(600)
@HOW
def test_a_hub_that_is_cut_short_anywhere_ends_as_one_that_was_not(tmp_path: Path, how: str, code: int) -> None:
    check(tmp_path, how, code, every=EVERY)
