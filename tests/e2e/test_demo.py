"""The README's first command: the demo plays its whole story, shows it, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import yaml

from hub import kubectl
from tests import real
from tests.e2e.world import BIN

STEPS = ("waves", "drift", "bad", "rollback", "freeze", "hub", "offline")

pytestmark = [pytest.mark.timeout(600)]


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
    assert told["seconds"] > 0
    assert "canary → eu → us" in steps["waves"]["detail"]
    assert "eu-1 and us-3" in steps["drift"]["detail"]
    assert "5 others never got it" in steps["bad"]["detail"]
    assert "us → eu → canary" in steps["rollback"]["detail"]
    assert "waited in words" in steps["freeze"]["detail"]
    assert "its report came" in steps["hub"]["detail"]
    assert "us-3 came back" in steps["offline"]["detail"]
    for pattern in (
        r'eu-1: kubectl-edit changed Deployment/shop/web at [\d:]+, reverted: \.spec\.template.*\[name="web"\]\.image',
        r"us-3: kubectl-scale changed Deployment/shop/web at [\d:]+, reverted: \.spec\.replicas",
        r"Dana: flotilla approve shop-4 --reason 'the canary is well'",
        r"gate eu/approval of rollout shop-4 is approved by dana: the canary is well",
        r"shop-7 waits: .*stocktaking",
        r"us-3: somebody deleted Service/shop/web, reverted",
        r"eu-2: night-shift changed Deployment/shop/web at [\d:]+, reverted: \.spec\.replicas",
    ):
        assert re.search(pattern, done.stdout), pattern
    real.wait_until("nothing to be left", lambda: not of(folder), timeout_s=10)


def test_the_demo_plays_the_same_story_in_real_clusters_and_says_how_to_undo_it(
    etcd: real.Etcd, tmp_path: Path
) -> None:
    contexts = ("kind-one", "arn:aws:eks:two")
    kubes: list[real.ApiServer] = []
    try:
        kubes += [real.ApiServer(etcd, tmp_path / f"kube-{n}", name=f"demo-{n}", workloads=True) for n in range(2)]
        configs = [yaml.safe_load(kube.kubeconfig.read_text()) for kube in kubes]
        merged: dict[str, object] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
        for context, config in zip(contexts, configs, strict=True):
            for what in ("clusters", "users", "contexts"):
                config[what][0]["name"] = context
            config["contexts"][0]["context"] = {"cluster": context, "user": context}
        for what in ("clusters", "users", "contexts"):
            merged[what] = [row for config in configs for row in config[what]]
        kubeconfig, summary, folder = tmp_path / "kubeconfig", tmp_path / "out.json", tmp_path / "demo"
        kubeconfig.write_text(yaml.safe_dump(merged))
        command = [str(BIN / "flotilla"), "demo", "--once", f"--kubeconfig={kubeconfig}", f"--dir={folder}"]
        command += [f"--context={context}" for context in contexts]

        asked = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path)
        assert asked.returncode == 1
        assert "give --yes" in asked.stderr
        assert kubes[0].call("GET", "/api/v1/namespaces/flotilla-system")[0] == 404

        command += ["--yes"]
        done = subprocess.run(
            [*command, f"--json={summary}"], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
        steps = {step["name"]: step for step in json.loads(summary.read_text())["steps"]}
        assert tuple(steps) == STEPS
        assert all(step["ok"] for step in steps.values())
        assert "canary → eu" in steps["waves"]["detail"]
        assert "1 others never got it" in steps["bad"]["detail"]
        assert "failed in eu; 2 clusters went back, eu → canary" in steps["rollback"]["detail"]
        assert "arn-aws-eks-two came back" in steps["offline"]["detail"]
        assert all(kube.url in done.stdout for kube in kubes)
        real.wait_until("nothing to be left", lambda: not of(folder), timeout_s=10)

        again = subprocess.run([*command, f"--dir={tmp_path / 'again'}"], capture_output=True, text=True, cwd=tmp_path)
        assert again.returncode == 1
        assert "has namespace/shop and namespace/hello" in again.stderr
        told = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("kubectl ")]
        assert len(told) == 2 * len(kubes)
        for line in told:
            subprocess.run(f"{line} --wait=false", shell=True, check=True, env=_with_kubectl())
        for kube in kubes:
            real.wait_until("the shop to go", partial(_gone, kube, "shop"))
    finally:
        for kube in kubes:
            kube.stop()


def _gone(kube: real.ApiServer, namespace: str) -> bool:
    return kube.call("GET", f"/api/v1/namespaces/{namespace}")[0] == 404


def _with_kubectl() -> dict[str, str]:
    """The environment with the kubectl that is installed with the hub."""
    return {**os.environ, "PATH": f"{Path(kubectl.executable()).parent}:{os.environ['PATH']}"}


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
