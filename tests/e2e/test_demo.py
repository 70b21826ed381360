"""The README's first command: the demo plays its whole story, shows it, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests import real
from tests.e2e.world import BIN

STEPS = ("waves", "drift", "bad", "hub", "offline")

pytestmark = [pytest.mark.timeout(300)]


def of(folder: Path) -> list[int]:
    """The processes that have to do with a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in line:
                found.append(int(entry.name))
    return found


def test_the_demo_plays_its_story_and_sees_each_step(tmp_path: Path) -> None:
    summary, folder = tmp_path / "out.json", tmp_path / "demo"
    done = subprocess.run(
        [BIN / "flotilla", "demo", "--once", "--json", summary, "--dir", folder],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(summary.read_text())
    steps = {step["name"]: step for step in told["steps"]}
    assert tuple(steps) == STEPS
    assert all(step["ok"] for step in steps.values())
    assert told["seconds"] < 90
    assert "canary → eu → us" in steps["waves"]["detail"]
    assert "eu-1 and us-3" in steps["drift"]["detail"]
    assert "5 others never got it" in steps["bad"]["detail"]
    assert "its report came" in steps["hub"]["detail"]
    assert "us-3 came back" in steps["offline"]["detail"]
    for pattern in (
        r'eu-1: kubectl-edit changed Deployment/shop/web at [\d:]+, reverted: \.spec\.template.*\[name="web"\]\.image',
        r"us-3: kubectl-scale changed Deployment/shop/web at [\d:]+, reverted: \.spec\.replicas",
        r"us-3: somebody deleted Service/shop/web, reverted",
        r"eu-2: night-shift changed Deployment/shop/web at [\d:]+, reverted: \.spec\.replicas",
    ):
        assert re.search(pattern, done.stdout), pattern
    assert of(folder) == []


def test_an_interrupted_demo_ends_all_its_processes(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = real.Process("demo", [str(BIN / "flotilla"), "demo", "--clusters=5", f"--dir={folder}"], tmp_path)
    try:
        up = real.wait_until("the demo", lambda: "status page http" in demo.tail(200), timeout_s=120, process=demo)
        assert up
        address = demo.tail(200).partition("status page ")[2].split()[0]
        with urllib.request.urlopen(address, timeout=10) as page:
            assert b"<html" in page.read().lower()
        assert len(of(folder)) > 10
        demo.child.send_signal(signal.SIGINT)
        assert demo.child.wait(60) == 0
    finally:
        demo.stop()
    real.wait_until("nothing to be left", lambda: not of(folder), timeout_s=10)


def test_a_demo_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [BIN / "flotilla", "demo", "--once", "--clusters", "1000"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "try --clusters" in done.stderr
    assert time.monotonic() - began < 60
