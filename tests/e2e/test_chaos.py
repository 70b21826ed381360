"""Everything is killed at random while people commit and edit by hand; afterwards all is as Git says, moved once each.

The seed is in the test's id; `FLOTILLA_CHAOS_SEED` and `FLOTILLA_CHAOS_ROUNDS` choose another story.
"""

import itertools
import os
import random
import time
from typing import Any

import pytest

from tests.e2e.story import bundle, config, namespace
from tests.e2e.world import World

SEED = int(os.environ.get("FLOTILLA_CHAOS_SEED", "20"))
ROUNDS = int(os.environ.get("FLOTILLA_CHAOS_ROUNDS", "25"))
NAMES = ("red", "green", "blue")


def path(bundle_name: str, name: str) -> str:
    return f"/api/v1/namespaces/{bundle_name}/configmaps/{name}"


class Chaos:
    """One round is one thing that happens; `texts` is what Git says in the end."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.texts = dict.fromkeys(NAMES, "start")
        self.number = 0

    def commit(self) -> None:
        name = self.random.choice(NAMES)
        self.number += 1
        self.texts[name] = f"text {self.number}"
        self.world.repo.commit(
            f"{name} {self.number}", {f"bundles/{name}/config.yaml": config(name, text=self.texts[name])}
        )

    def edit(self) -> None:
        """Edit, delete or strip an object of a random cluster, if it is there."""
        kube = self.world.kubes[self.random.choice(list(self.world.kubes))]
        name = self.random.choice(NAMES)
        change = self.random.choice(["data", "label", "delete"])
        if kube.call("GET", path(name, name))[0] != 200:
            return
        if change == "delete":
            kube.call("DELETE", path(name, name))
        else:
            patch: dict[str, Any] = (
                {"data": {"text": "by hand", "more": "by hand"}}
                if change == "data"
                else {"metadata": {"labels": {"flotilla.dev/bundle": None}}}
            )
            kube.call("PATCH", path(name, name), patch, content_type="application/merge-patch+json")

    def kill_hub(self) -> None:
        assert self.world.hub is not None
        self.world.hub.kill()
        time.sleep(self.random.uniform(0, 1))
        self.world.start_hub()

    def kill_agent(self) -> None:
        cluster = self.random.choice(list(self.world.kubes))
        self.world.agents[cluster].kill()
        time.sleep(self.random.uniform(0, 1))
        self.world.start_agent(cluster)

    def restart_api_server(self) -> None:
        self.world.kubes[self.random.choice(list(self.world.kubes))].restart()

    def round(self) -> None:
        happening = self.random.choices(
            [self.commit, self.edit, self.kill_hub, self.kill_agent, self.restart_api_server], [8, 8, 2, 4, 1]
        )[0]
        happening()
        time.sleep(self.random.uniform(0, 1.5))


@pytest.mark.timeout(500)
@pytest.mark.parametrize("seed", [SEED])
def test_after_any_story_all_clusters_are_what_git_says_and_every_move_is_one(started: World, seed: int) -> None:
    chaos = Chaos(started, seed)
    for name in NAMES:
        started.repo.write(
            {
                f"bundles/{name}/bundle.yaml": bundle(name),
                f"bundles/{name}/namespace.yaml": namespace(name),
                f"bundles/{name}/config.yaml": config(name, text="start"),
            }
        )
    started.repo.commit("Three bundles")
    for _ in range(ROUNDS):
        chaos.round()

    def everywhere() -> bool:
        for kube in started.kubes.values():
            for name in NAMES:
                status, found = kube.call("GET", path(name, name))
                wanted = {"text": chaos.texts[name]}
                if status != 200 or {**found.get("data", {}), "more": ""} != {**wanted, "more": ""}:
                    return False
                if found["metadata"]["labels"].get("flotilla.dev/bundle") != name:
                    return False
        return True

    started.wait("Git's word everywhere", everywhere, timeout_s=180)
    started.wait(
        "every cluster to say so",
        lambda: all(
            row["applied"] == row["decided"] and row["health"] == "Current" and not row["problems"]
            for row in started.api("clusters")["clusters"]
        ),
        timeout_s=60,
    )
    for cluster in started.kubes:
        moves = started.api(f"clusters/{cluster}")["moves"]
        for newer, older in itertools.pairwise(moves):
            assert newer["seq"] == older["seq"] + 1
            assert newer["old"] == older["new"]
    started.wait("no rollout under way", lambda: started.api("fleet")["rollouts"] == [])
