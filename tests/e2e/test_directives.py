"""What people ask of agents beside Git, with real processes and clusters: suspend, resume, pause, skip, drift's values.

The tests are the steps of one story and run in order.
"""

from typing import Any

import pytest

from tests.e2e.story import bundle, config, namespace
from tests.e2e.world import World

pytestmark = [pytest.mark.timeout(300)]

ENTRIES = "/api/v1/namespaces/ledger/configmaps/entries"
PARENT = "/apis/flotilla.dev/v1alpha1/appliedbundles/ledger"
WHY = "a migration runs"


def text(world: World, cluster: str) -> str:
    found: str = world.kubes[cluster].must("GET", ENTRIES)["data"]["text"]
    return found


def commit(world: World, version: str) -> str:
    return world.repo.commit(f"Ledger {version}", {"bundles/ledger/entries.yaml": config("entries", text=version)})


def reason(world: World, revision: str) -> str:
    found = world.rollout("ledger", revision)
    return str(found["reason"]) if found else ""


def listed(world: World, cluster: str, **wanted: object) -> dict[str, Any] | None:
    """The newest drift event of the entries that has all of `wanted`."""
    for row in reversed(world.api(f"drift?cluster={cluster}&bundle=ledger&limit=1000")["drift"]):
        found: dict[str, Any] = row
        if all(found["data"].get(key) == value for key, value in wanted.items()):
            return found
    return None


def test_a_commit_does_not_reach_a_cluster_where_the_bundle_is_suspended_and_the_rollout_says_why(
    started: World,
) -> None:
    world = started
    first = world.repo.commit(
        "A ledger",
        {
            "bundles/ledger/bundle.yaml": bundle("ledger"),
            "bundles/ledger/namespace.yaml": namespace("ledger"),
            "bundles/ledger/entries.yaml": config("entries", text="one"),
        },
    )
    world.wait_rollout("ledger", first)
    told = world.cli("bundle", "suspend", "ledger", "--cluster", "eu-1", "--reason", WHY)
    assert told.splitlines() == ["eu-1: ledger is suspended"], "its agent heard it at once"
    second = commit(world, "two")
    world.wait(
        "the rollout to wait in words",
        lambda: (
            reason(world, second).startswith("wave eu waits for eu-1 (suspended: ") and WHY in reason(world, second)
        ),
    )
    world.wait(
        "the others to have it",
        lambda: [text(world, cluster) for cluster in ("canary", "eu-1", "eu-2")] == ["two", "one", "two"],
    )
    assert "suspended   ledger on eu-1 (" in world.cli("status")


def test_the_clusters_owner_sees_it_with_kubectl_and_what_is_edited_meanwhile_stays(started: World) -> None:
    world = started
    kube = started.kubes["eu-1"]
    world.wait("the status", lambda: WHY in kube.must("GET", PARENT).get("status", {}).get("suspended", ""))
    kube.edit(ENTRIES, {"data": {"text": "by hand"}}, manager="night-shift")
    world.wait("the report", lambda: listed(world, "eu-1", manager="night-shift"))
    assert text(world, "eu-1") == "by hand"


def test_a_hub_that_was_killed_still_means_it_and_resuming_brings_the_commit(started: World) -> None:
    world = started
    assert world.hub is not None
    world.hub.kill()
    world.start_hub()
    world.wait("all connected", lambda: world.api("fleet")["clusters"]["connected"] == 3)
    second = world.repo.git("rev-parse", "HEAD")
    world.wait("the rollout to wait again", lambda: WHY in reason(world, second))
    assert text(world, "eu-1") == "by hand"
    world.cli("bundle", "resume", "ledger", "--reason", "the migration is done")
    world.wait_rollout("ledger", second)
    assert text(world, "eu-1") == "two"
    assert world.api("fleet")["directives"] == []
    commands = [event["text"].partition(": ")[2] for event in world.events(kind="command")]
    assert f"suspend bundle ledger on eu-1: {WHY}" in commands
    assert "resume bundle ledger on eu-1: the migration is done" in commands


def test_drift_show_says_what_git_wants_and_what_was_there(started: World) -> None:
    world = started
    world.kubes["eu-2"].edit(ENTRIES, {"data": {"text": "forged"}}, manager="mallory")
    row = world.wait("the report", lambda: listed(world, "eu-2", manager="mallory", action="reverted"))
    shown = world.cli("drift", "show", str(row["id"]))
    assert ".data.text" in shown
    assert '- "forged"' in shown
    assert '+ "two"' in shown


def test_a_rollout_goes_on_without_a_cluster_that_its_owner_suspended_when_a_person_skips_it(started: World) -> None:
    world = started
    kube = world.kubes["eu-2"]
    kube.edit(PARENT, {"metadata": {"annotations": {"flotilla.dev/suspend": "quarter's end"}}}, manager="kubectl")
    world.wait(
        "the hub to know",
        lambda: [row["bundle"] for row in world.api("fleet")["directives"] if not row["here"]] == ["ledger"],
    )
    third = commit(world, "three")
    world.wait("the rollout to wait", lambda: "eu-2 (suspended" in reason(world, third))
    assert "quarter's end" in reason(world, third)
    found = world.rollout("ledger", third)
    assert found is not None
    world.cli("skip", found["id"], "eu-2", "--reason", "its owner is away")
    world.wait("its end", lambda: world.api(f"rollouts/{found['id']}")["phase"] == "completed")
    assert [text(world, cluster) for cluster in ("canary", "eu-1", "eu-2")] == ["three", "three", "two"]
    kube.edit(PARENT, {"metadata": {"annotations": {"flotilla.dev/suspend": None}}}, manager="kubectl")
    world.wait("a rollout of its own", lambda: text(world, "eu-2") == "three")


def test_while_a_cluster_is_paused_drift_is_told_and_undone_when_the_pause_ends(started: World) -> None:
    world = started
    world.cli("cluster", "pause", "eu-1", "--for", "1h", "--reason", "new nodes")
    assert "paused      eu-1 until " in world.cli("status")
    world.kubes["eu-1"].edit(ENTRIES, {"data": {"text": "at work"}}, manager="day-shift")
    world.wait("the report", lambda: listed(world, "eu-1", manager="day-shift", action="paused"))
    assert text(world, "eu-1") == "at work"
    world.cli("cluster", "resume", "eu-1", "--reason", "done")
    world.wait("the revert", lambda: text(world, "eu-1") == "three")
