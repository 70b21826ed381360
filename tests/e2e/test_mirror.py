"""Slices by way of a Git host between hub and agent, with real processes and clusters: pushed there, pulled from there.

The tests are the steps of one story and run in order.
"""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.story import FLEET, bundle, config, namespace
from tests.e2e.world import World
from tests.git_host import PASSWORD, USER, GitHost, git_host

pytestmark = [pytest.mark.timeout(300)]

MAPS = "/api/v1/namespaces/atlas/configmaps/maps"
TOO_MUCH_FOR_A_WAKE_UP = 100_000


@pytest.fixture(scope="module")
def host(started: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    """A Git host for the slices; the hub has its password, and eu-2's agent pulls from it."""
    world, folder = started, tmp_path_factory.mktemp("mirror")
    assert world.hub is not None
    with git_host(folder / "host") as made:
        made.create()
        address = f"{made.url}/slices.git"
        keys = folder / "credentials.yaml"
        keys.write_text(json.dumps({"slices": {"for": [address], "username": USER, "password": PASSWORD}}))
        (folder / "login").write_text(f"{USER}:{PASSWORD}\n")
        world.hub.stop()
        world.hub_options = (f"--source-credentials={keys}",)
        world.start_hub()
        world.agents["eu-2"].stop()
        world.start_agent("eu-2", f"--slices={address}", f"--slices-login-file={folder / 'login'}", "--slices-poll=0.5")
        yield made
        world.repo.commit("No mirror, no atlas", {"fleet.yaml": FLEET, "bundles/atlas": None})
        world.wait("the atlas to go", lambda: all(kube.call("GET", MAPS)[0] == 404 for kube in world.kubes.values()))
        world.agents["eu-2"].stop()
        world.start_agent("eu-2")
        world.hub.stop()
        world.hub_options = ()
        world.start_hub()


def decided(world: World) -> dict[str, str]:
    """Cluster → the slice commit that it should run."""
    return {row["name"]: row["decided"]["commit"] for row in world.api("clusters")["clusters"]}


def atlas(letter: str) -> dict[str, str | None]:
    return {"bundles/atlas/maps.yaml": config("maps", text=letter * TOO_MUCH_FOR_A_WAKE_UP)}


def letters(world: World) -> dict[str, str]:
    return {name: kube.must("GET", MAPS)["data"]["text"][0] for name, kube in world.kubes.items()}


def test_what_is_too_much_for_a_wake_up_is_pulled_from_the_mirror(started: World, host: GitHost) -> None:
    world = started
    revision = world.repo.commit(
        "An atlas, and a mirror",
        {
            "fleet.yaml": f"{FLEET.rstrip()}\n      publish: {{url: {host.url}/slices.git, credentials: slices}}\n",
            "bundles/atlas/bundle.yaml": bundle("atlas"),
            "bundles/atlas/namespace.yaml": namespace("atlas"),
            **atlas("a"),
        },
    )
    world.wait_rollout("atlas", revision)
    world.wait("all slices in the mirror", lambda: host.refs() == decided(world))
    assert any(path.endswith("/git-upload-pack") for path in host.asked), "nobody pulled"
    assert letters(world) == dict.fromkeys(world.kubes, "a")


def test_a_mirror_that_is_away_holds_up_no_rollout_and_has_everything_once_it_is_back(
    started: World, host: GitHost
) -> None:
    world = started
    host.before = lambda _: 503
    revision = world.repo.commit("The next edition", atlas("b"))
    world.wait_rollout("atlas", revision)
    assert letters(world) == dict.fromkeys(world.kubes, "b")
    assert set(host.refs().items()).isdisjoint(decided(world).items())
    world.wait("the hub to say so", lambda: world.events(kind="publish"))
    host.before = lambda _: None
    world.wait("all slices in the mirror", lambda: host.refs() == decided(world))
