"""A cluster that joins while a commit soaks for an hour elsewhere: hub and agents as processes, one of them killed.

The clusters are simulated API servers: what is looked at is who gets which version when.
"""

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import real
from tests.e2e.story import bundle, config, namespace
from tests.e2e.world import World

pytestmark = [pytest.mark.timeout(300)]

PRICES = "/api/v1/namespaces/till/configmaps/prices"
SLOW = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: slow}
    spec:
      waves:
        - {name: canary, clusters: [one], soak: SOAK}
      offline: {after: 30s}
    """


class Kube:
    """A simulated cluster's API server, as a process."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.kubeconfig = folder / "kubeconfig"
        command = [sys.executable, "-m", "hub.sim", "--port=0", f"--kubeconfig={self.kubeconfig}"]
        self._process = real.Process(f"kube-{name}", command, folder)
        real.wait_until(f"cluster {name}", lambda: self.get("/version"), process=self._process, timeout_s=60)

    def get(self, path: str) -> Any:
        """The object at a path; None when there is none."""
        with suppress(OSError, ValueError):
            told = json.loads(self.kubeconfig.read_bytes())
            server, token = told["clusters"][0]["cluster"]["server"], told["users"][0]["user"]["token"]
            asked = urllib.request.Request(server + path, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(asked, timeout=10) as response:
                return json.load(response)
        return None

    def version(self) -> str:
        found = self.get(PRICES)
        return str(found["data"]["version"]) if found else ""

    def stop(self) -> None:
        self._process.stop()


def cluster(name: str) -> str:
    metadata = f"{{name: {name}, labels: {{tier: prod}}}}"
    return f"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {metadata}\nspec: {{}}\n"


def till(version: str) -> dict[str, str | None]:
    return {"bundles/till/prices.yaml": config("prices", version=version)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    kubes = {name: Kube(name, tmp_path / "kubes" / name) for name in ("one", "two", "three")}
    made = World(tmp_path, kubes)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.stop()
        for kube in kubes.values():
            kube.stop()


def versions(world: World) -> dict[str, str]:
    return {name: kube.version() for name, kube in world.kubes.items()}  # type: ignore[attr-defined]


def test_a_cluster_that_joins_while_a_commit_soaks_gets_what_completed_last_though_the_hub_is_killed(
    world: World,
) -> None:
    first = world.repo.commit(
        "Two clusters",
        {
            "clusters/one.yaml": cluster("one"),
            "clusters/two.yaml": cluster("two"),
            "rollouts/slow.yaml": SLOW.replace("SOAK", "0s"),
            "bundles/till/bundle.yaml": bundle("till", rollout="slow"),
            "bundles/till/namespace.yaml": namespace("till"),
            **till("1"),
        },
    )
    world.start_hub()
    for name in ("one", "two"):
        world.start_agent(name)
    world.wait_rollout("till", first)

    second = world.repo.commit("Version 2", {"rollouts/slow.yaml": SLOW.replace("SOAK", "1h"), **till("2")})
    world.wait("version 2 in its canary", lambda: versions(world) == {"one": "2", "two": "1", "three": ""})

    world.repo.commit("A third cluster", {"clusters/three.yaml": cluster("three")})
    world.wait("a bootstrap", lambda: world.events(kind="bootstrap"))
    assert world.hub is not None
    world.hub.kill()
    world.start_hub()
    world.start_agent("three")
    world.wait("version 1 in the third", lambda: versions(world) == {"one": "2", "two": "1", "three": "1"})
    (told,) = world.events(kind="bootstrap")
    assert told["text"].startswith(f"bootstrap of three: bundle till as of revision {first[:12]}, since rollout till-2")
    soaking = world.rollout("till", second)
    assert soaking is not None
    assert (soaking["phase"], [member["cluster"] for member in soaking["members"]]) == ("running", ["one", "two"])
    assert "bootstrap of three" in world.cli("why", told["rollout"])
    world.wait("an end of the bootstrap", lambda: world.api(f"rollouts/{told['rollout']}")["phase"] == "completed")

    world.cli("promote", soaking["id"], "--reason", "it is good")
    world.wait("version 2 everywhere", lambda: set(versions(world).values()) == {"2"}, timeout_s=90)
    assert [move["seq"] for move in world.api("clusters/three")["moves"]] == [2, 1]
