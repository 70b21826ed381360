"""A rollout that nobody has to watch, on real API servers: three clusters in three waves, the third behind a gate.

What went back, and in which order, is asked of the API servers themselves: they share one etcd, so that the versions
of their objects tell which write came first. The tests are the steps of one story and run in order.
"""

from typing import Any

import pytest

from tests.e2e.story import FLEET, bundle, config, namespace, web
from tests.e2e.world import World

pytestmark = [pytest.mark.timeout(300)]

WAVES = {"canary": "canary", "eu-1": "eu", "eu-2": "others"}
GUARDED = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: guarded}
    spec:
      waves:
        - {name: canary, select: {matchLabels: {canary: "true"}}, soak: 1s}
        - {name: eu, clusters: [eu-1], soak: 1s}
        - {name: others, select: {}, gates: [{approval: {approvers: 1}}]}
      failure: {budget: 0, deadline: 1m, action: rollback}
      offline: {after: 15s, budget: 50%}
    """
TWO_PEOPLE = GUARDED.replace("approvers: 1", "approvers: 2")
FROZEN = f"""{FLEET.rstrip()}
      freezes:
        - {{name: stocktaking, from: "2020-01-01T00:00", to: "2120-01-01T00:00", zone: Europe/Berlin}}
    """
TILL = "/apis/apps/v1/namespaces/till/deployments/web"
PRICES = "/api/v1/namespaces/till/configmaps/prices"
STOCK = "/api/v1/namespaces/pantry/configmaps/stock"
PODS = "/api/v1/namespaces/till/pods"


def till(version: str, **node: str) -> dict[str, str | None]:
    """The files of a version of the till, for nodes with these labels."""
    return {
        "bundles/till/web.yaml": web(version, **node),
        "bundles/till/prices.yaml": config("prices", version=version),
    }


def prices(world: World) -> dict[str, str]:
    """The version of the till's prices in each cluster."""
    return {name: kube.must("GET", PRICES)["data"]["version"] for name, kube in world.kubes.items()}


def written(world: World, path: str) -> dict[str, int]:
    """When an object was last written in each cluster, in revisions of the etcd that all share."""
    return {name: int(kube.must("GET", path)["metadata"]["resourceVersion"]) for name, kube in world.kubes.items()}


def until_all_run(world: World, version: str) -> None:
    """Wait until every pod of the till, in all clusters, is of a version and runs where any node will do."""

    def pods() -> list[dict[str, Any]]:
        return [pod for kube in world.kubes.values() for pod in kube.must("GET", PODS)["items"]]

    def alike() -> bool:
        found = pods()
        return len(found) == 8 and all(
            pod["spec"]["containers"][0]["image"] == f"registry.example.org/web:{version}"
            and "nodeSelector" not in pod["spec"]
            and pod["status"]["phase"] == "Running"
            for pod in found
        )

    world.wait(f"eight pods of {version}, and no others", alike)


def waits(world: World, revision: str, why: str) -> dict[str, Any]:
    """The till's rollout once it waits for a reason that has these words."""

    def told() -> dict[str, Any] | None:
        found = world.rollout("till", revision)
        return found if found and found["phase"] == "running" and why in found["reason"] else None

    found: dict[str, Any] = world.wait(f"a rollout that waits: {why}", told)
    return found


def phases(rollout: dict[str, Any]) -> dict[str, str]:
    return {member["cluster"]: member["phase"] for member in rollout["members"]}


def of(world: World, revision: str) -> list[dict[str, Any]]:
    """The events of the till's rollout to a revision, the oldest first."""
    found = world.rollout("till", revision)
    return [event for event in world.events() if found and event["rollout"] == found["id"]]


def said_by(world: World, person: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setenv("USER", person)
    return world.cli(*words)


def test_a_good_commit_stops_at_the_gate_and_goes_on_when_a_person_approves(
    started: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = started
    revision = world.repo.commit(
        "A till, and a pantry beside it",
        {
            "rollouts/guarded.yaml": GUARDED,
            "bundles/till/bundle.yaml": bundle("till", rollout="guarded"),
            "bundles/till/namespace.yaml": namespace("till"),
            **till("v1"),
            "bundles/pantry/bundle.yaml": bundle("pantry"),
            "bundles/pantry/namespace.yaml": namespace("pantry"),
            "bundles/pantry/stock.yaml": config("stock", text="one"),
        },
    )
    waiting = waits(world, revision, "gate others/approval")
    assert [wave["name"] for wave in waiting["waves"]] == ["canary", "eu", "others"]
    assert phases(waiting) == {"canary": "proven", "eu-1": "proven", "eu-2": "pending"}
    assert world.kubes["eu-2"].call("GET", TILL)[0] == 404
    assert "others/approval" in world.cli("rollouts", waiting["id"])
    said_by(world, "ann", monkeypatch, "approve", waiting["id"], "--reason", "the figures are good")
    world.wait_rollout("till", revision)
    world.wait_rollout("pantry", revision)
    [approved] = [event for event in world.events(kind="approved") if event["rollout"] == waiting["id"]]
    assert "ann" in approved["text"]
    assert "the figures are good" in approved["text"]
    until_all_run(world, "v1")


def test_a_commit_that_fails_in_the_second_wave_goes_back_in_both_and_never_reaches_the_third(started: World) -> None:
    world = started
    for cluster in ("canary", "eu-2"):
        world.kubes[cluster].edit("/api/v1/nodes/fake", {"metadata": {"labels": {"disk": "fast"}}})
    before = {path: written(world, path) for path in (PRICES, STOCK)}
    bad = world.repo.commit("A till for fast disks, which eu-1 has not", till("v2", disk="fast"))
    rollout = world.wait_rollout("till", bad, "rolled-back")
    assert phases(rollout) == {"canary": "reverted", "eu-1": "reverted", "eu-2": "pending"}

    now = written(world, PRICES)
    assert prices(world) == dict.fromkeys(WAVES, "v1")
    assert before[PRICES]["eu-2"] == now["eu-2"], "the third wave was written to"
    assert before[PRICES]["canary"] < now["eu-1"] < now["canary"], "who failed goes back first"
    for cluster in WAVES:
        found = world.kubes[cluster].must("GET", TILL)
        assert found["status"]["readyReplicas"] == found["spec"]["replicas"]
        assert "nodeSelector" not in found["spec"]["template"]["spec"]
    until_all_run(world, "v1")
    assert written(world, STOCK) == before[STOCK], "a neighbour was touched"

    told = of(world, bad)
    assert [event["cluster"] for event in told if event["kind"] == "cluster-failed"] == ["eu-1"]
    assert [event["cluster"] for event in told if event["kind"] == "cluster-reverted"] == ["eu-1", "canary"]
    assert {event["data"]["wave"] for event in told if event["kind"] == "wave-opened"} == {"canary", "eu"}


def test_the_bundle_is_on_hold_and_the_next_good_commit_releases_it(
    started: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = started
    assert world.api("fleet")["holds"] == ["till"]
    [row] = [row for row in world.api("bundles")["bundles"] if row["name"] == "till"]
    assert "eu-1" in row["hold"]["reason"]
    assert "on hold" in world.cli("status")
    beside = world.repo.commit("The pantry goes on", {"bundles/pantry/stock.yaml": config("stock", text="two")})
    world.wait_rollout("pantry", beside)
    assert prices(world) == dict.fromkeys(WAVES, "v1")

    fix = world.repo.commit("A till for any disk", till("v3"))
    waiting = waits(world, fix, "gate others/approval")
    assert world.api("fleet")["holds"] == []
    said_by(world, "ann", monkeypatch, "approve", waiting["id"], "--reason", "eu-1 is well again")
    world.wait_rollout("till", fix)
    until_all_run(world, "v3")


def test_a_rollback_goes_on_when_the_hub_was_killed_in_the_middle_of_it(started: World) -> None:
    world = started
    before = written(world, PRICES)
    bad = world.repo.commit("Fast disks once more", till("v0", disk="fast"))
    assert world.hub is not None
    world.wait("the way back to begin", lambda: "rolling-back" in [event["kind"] for event in of(world, bad)])
    world.hub.kill()
    world.start_hub()
    rollout = world.wait_rollout("till", bad, "rolled-back")
    assert phases(rollout) == {"canary": "reverted", "eu-1": "reverted", "eu-2": "pending"}
    back = [event["cluster"] for event in of(world, bad) if event["kind"] == "cluster-reverted"]
    assert back == ["eu-1", "canary"], of(world, bad)
    assert prices(world) == dict.fromkeys(WAVES, "v3")
    assert written(world, PRICES)["eu-2"] == before["eu-2"]
    until_all_run(world, "v3")


def test_a_rollback_that_one_cluster_cannot_follow_brings_the_others_back_and_says_so(started: World) -> None:
    world = started
    hasty = GUARDED.replace("deadline: 1m", "deadline: 20s")
    bad = world.repo.commit("Fast disks, hastily", {"rollouts/guarded.yaml": hasty, **till("vx", disk="fast")})
    world.wait("eu-1 to have it", lambda: prices(world)["eu-1"] == "vx")
    world.agents["eu-1"].kill()
    rollout = world.wait_rollout("till", bad, "rollback-failed")
    assert phases(rollout) == {"canary": "reverted", "eu-1": "revert-failed", "eu-2": "pending"}
    assert prices(world) == {"canary": "v3", "eu-1": "vx", "eu-2": "v3"}
    [told] = [event for event in of(world, bad) if event["kind"] == "rollback-failed"]
    assert "eu-1" in told["text"]
    assert world.api("fleet")["holds"] == ["till"]

    world.start_agent("eu-1")
    world.wait("eu-1 to go back, late", lambda: prices(world) == dict.fromkeys(WAVES, "v3"))
    until_all_run(world, "v3")


def test_a_freeze_binds_a_rollout_that_is_under_way_until_it_is_removed(started: World) -> None:
    world = started
    slow = GUARDED.replace("soak: 1s", "soak: 12s", 1)
    revision = world.repo.commit("v4, slowly", {"rollouts/guarded.yaml": slow, **till("v4")})
    world.wait("the first wave to have it", lambda: prices(world)["canary"] == "v4")
    before = written(world, PRICES)
    world.repo.commit("Stocktaking", {"fleet.yaml": FROZEN, "rollouts/guarded.yaml": GUARDED})
    waiting = waits(world, revision, "stocktaking")
    world.wait("the first wave's proof", lambda: phases(waits(world, revision, "stocktaking"))["canary"] == "proven")
    assert phases(waiting)["eu-1"] == "pending"
    assert written(world, PRICES) == before
    assert "stocktaking" in world.cli("rollouts", waiting["id"])

    world.repo.commit("Stocktaking is over", {"fleet.yaml": FLEET})
    waits(world, revision, "gate others/approval")
    assert prices(world) == {"canary": "v4", "eu-1": "v4", "eu-2": "v3"}


def test_an_emergency_goes_past_a_gate(started: World) -> None:
    world = started
    [row] = [row for row in world.api("rollouts")["rollouts"] if row["phase"] == "running"]
    world.cli("emergency", row["id"], "--yes", "--reason", "the shops cannot sell")
    world.wait_rollout("till", row["revision"])
    assert prices(world) == dict.fromkeys(WAVES, "v4")
    [told] = [event for event in world.events(kind="emergency") if event["rollout"] == row["id"]]
    assert "the shops cannot sell" in told["text"]
    audited = world.cli("audit", "--rollout", row["id"])
    assert "emergency" in audited
    assert "the shops cannot sell" in audited


def test_a_vote_outlives_a_hub_that_was_killed_while_its_gate_waits(
    started: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = started
    revision = world.repo.commit("Two people from now on", {"rollouts/guarded.yaml": TWO_PEOPLE, **till("v5")})
    waiting = waits(world, revision, "gate others/approval")
    said_by(world, "ann", monkeypatch, "approve", waiting["id"], "--reason", "looks good")
    waits(world, revision, "1 of 2")
    assert world.hub is not None
    world.hub.kill()
    world.start_hub()
    again = waits(world, revision, "approved by ann, 1 of 2")
    assert phases(again) == {"canary": "proven", "eu-1": "proven", "eu-2": "pending"}
    said_by(world, "ann", monkeypatch, "approve", again["id"], "--reason", "still good")
    waits(world, revision, "1 of 2")
    assert prices(world)["eu-2"] == "v4"
    said_by(world, "bob", monkeypatch, "approve", again["id"], "--reason", "good")
    world.wait_rollout("till", revision)
    assert prices(world) == dict.fromkeys(WAVES, "v5")


def test_a_cordoned_cluster_is_left_out_and_catches_up_when_it_is_let_back(
    started: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = started
    world.cli("cordon", "eu-2", "--reason", "its disks are changed")
    assert "cordoned" in world.cli("clusters", "eu-2")
    all_offline = GUARDED.replace("budget: 50%}", "budget: 100%}")
    revision = world.repo.commit("One person again, v6", {"rollouts/guarded.yaml": all_offline, **till("v6")})
    waiting = waits(world, revision, "gate others/approval")
    said_by(world, "ann", monkeypatch, "approve", waiting["id"], "--reason", "good")
    world.wait("eu-2 to be left out", lambda: phases(world.rollout("till", revision) or {})["eu-2"] == "offline")
    assert prices(world) == {"canary": "v6", "eu-1": "v6", "eu-2": "v5"}
    world.cli("uncordon", "eu-2", "--reason", "they are changed")
    world.wait("eu-2 to catch up", lambda: prices(world) == dict.fromkeys(WAVES, "v6"))
    world.wait_rollout("till", revision)
    done = world.api("audit?cluster=eu-2&limit=2")["audit"]
    assert [(row["verb"], row["reason"]) for row in done] == [
        ("cordon", "its disks are changed"),
        ("uncordon", "they are changed"),
    ]


def test_what_the_story_brought_goes_again(started: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = started
    revision = world.repo.commit("No till any more", {"bundles/till": None, "bundles/pantry": None})
    waiting = waits(world, revision, "gate others/approval")
    said_by(world, "ann", monkeypatch, "approve", waiting["id"], "--reason", "closed")
    world.wait_rollout("till", revision)
    world.wait_rollout("pantry", revision)
    for kube in world.kubes.values():
        assert kube.call("GET", TILL)[0] == 404
        kube.edit("/api/v1/nodes/fake", {"metadata": {"labels": {"disk": None}}})
