"""The whole line, on three real API servers with fake nodes: from a commit to pods, and back when it is bad.

The tests of this file are the steps of one story and run in order: each begins where the one before ended.
"""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import real
from tests.e2e.story import BASE, CAREFUL, WEB, WEB_THAT_NO_NODE_TAKES, bundle, config, namespace
from tests.e2e.world import HEARTBEAT_S, REAL_FLEETS, World

pytestmark = [pytest.mark.timeout(400)]


def get(world: World, cluster: str, path: str) -> Any:
    status, found = world.kubes[cluster].call("GET", path)
    return found if status == 200 else None


DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
WEB_PATH = "/apis/apps/v1/namespaces/shop/deployments/web"
SETTINGS_PATH = "/api/v1/namespaces/shop/configmaps/settings"


def applied(world: World) -> dict[str, int]:
    return {row["name"]: row["applied"]["seq"] for row in world.api("clusters")["clusters"]}


def bundles_of(world: World, cluster: str) -> dict[str, Any]:
    return {row["name"]: row for row in world.api(f"clusters/{cluster}")["bundle_list"]}


def test_a_first_commit_and_three_agents_join(world: World) -> None:
    world.repo.commit("An empty fleet", BASE)
    world.start_hub()
    for cluster in world.kubes:
        world.start_agent(cluster)
    world.wait(
        "three connected agents",
        lambda: [row["connection"] for row in world.api("clusters")["clusters"]] == ["connected"] * 3,
    )
    assert world.api("rollouts")["rollouts"] == []


def test_a_commit_reaches_three_clusters_in_two_waves_in_order(world: World) -> None:
    revision = world.repo.commit(
        "The shop",
        {
            "bundles/shop/bundle.yaml": bundle("shop"),
            "bundles/shop/namespace.yaml": namespace("shop"),
            "bundles/shop/web.yaml": WEB,
            "bundles/shop/settings.yaml": config("settings", domain="${domain}", greeting="${greeting:-hi}"),
        },
    )
    rollout = world.wait_rollout("shop", revision)
    assert [wave["name"] for wave in rollout["waves"]] == ["canary", "eu"]

    proven = {e["cluster"]: e["id"] for e in world.events(kind="cluster-proven") if e["rollout"] == rollout["id"]}
    opened = {e["data"]["wave"]: e["id"] for e in world.events(kind="wave-opened") if e["rollout"] == rollout["id"]}
    assert opened["canary"] < proven["canary"] < opened["eu"] < min(proven["eu-1"], proven["eu-2"])

    for cluster, replicas in (("canary", 2), ("eu-1", 3), ("eu-2", 3)):
        settings = get(world, cluster, SETTINGS_PATH)
        assert settings["data"] == {"domain": f"{cluster}.example.org", "greeting": "hello"}
        web = get(world, cluster, WEB_PATH)
        assert web["spec"]["replicas"] == web["status"]["readyReplicas"] == replicas
        assert web["metadata"]["labels"]["flotilla.dev/bundle"] == "shop"


@pytest.mark.skipif(not REAL_FLEETS.is_dir(), reason="the real fleets' manifests are not beside the checkout")
def test_podinfo_and_boutique_become_healthy_everywhere(world: World) -> None:
    for name in ("podinfo", "boutique"):
        shutil.copytree(REAL_FLEETS / name, world.repo.path / "bundles" / name)
    revision = world.repo.commit(
        "podinfo and boutique",
        {
            "bundles/podinfo/bundle.yaml": bundle("podinfo", source={"path": "overlays/dev"}),
            "bundles/boutique/bundle.yaml": bundle("boutique", source={"path": "base"}),
            "bundles/boutique/base/namespace.yaml": namespace("boutique"),
            "bundles/boutique/base/kustomization.yaml": (
                (REAL_FLEETS / "boutique/base/kustomization.yaml").read_text() + "- namespace.yaml\n"
            ),
        },
    )
    for name in ("podinfo", "boutique"):
        world.wait_rollout(name, revision, timeout_s=240)
    for cluster in world.kubes:
        running = bundles_of(world, cluster)
        assert {running[name]["health"] for name in ("podinfo", "boutique")} == {"Current"}
        assert running["podinfo"]["counts"] == {"Current": 25}
        assert running["boutique"]["counts"] == {"Current": 36}
        for where in ("dev", "boutique"):
            deployments = get(world, cluster, DEPLOYMENTS.format(where))["items"]
            assert deployments
            assert all(d["status"].get("readyReplicas") == d["spec"]["replicas"] for d in deployments)


def test_a_hand_edit_is_reported_with_field_manager_and_time_and_reverted(world: World) -> None:
    kube = world.kubes["eu-1"]
    edited = kube.edit(
        WEB_PATH,
        [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:latest"}],
        kind="json",
    )
    told = world.wait("the drift report", lambda: world.drift("eu-1", "Deployment/shop/web", manager="kubectl-edit"))
    assert told["what"] == "changed"
    assert told["fields"] == ['.spec.template.spec.containers[name="web"].image']
    assert (told["operation"], told["action"]) == ("Update", "reverted")
    edit = next(m for m in edited["metadata"]["managedFields"] if m["manager"] == "kubectl-edit")
    assert told["time"] == edit["time"]
    web = get(world, "eu-1", WEB_PATH)
    assert web["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example.org/web:v1"


def test_a_scale_by_hand_is_reported_and_reverted(world: World) -> None:
    kube = world.kubes["eu-2"]
    kube.edit(f"{WEB_PATH}/scale", {"spec": {"replicas": 1}}, manager="kubectl")
    told = world.wait("the drift report", lambda: world.drift("eu-2", "Deployment/shop/web", manager="kubectl"))
    assert told["fields"] == [".spec.replicas"]
    assert told["action"] == "reverted"
    assert get(world, "eu-2", WEB_PATH)["spec"]["replicas"] == 3


def test_a_deletion_is_reported_and_undone(world: World) -> None:
    before = get(world, "eu-1", SETTINGS_PATH)
    world.kubes["eu-1"].must("DELETE", SETTINGS_PATH)
    told = world.wait("the drift report", lambda: world.drift("eu-1", "ConfigMap/shop/settings", what="deleted"))
    assert told["action"] == "reverted"
    assert told["manager"] == "unknown (removal)"
    after = get(world, "eu-1", SETTINGS_PATH)
    assert after["data"] == before["data"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


def test_a_removed_label_is_reported_and_comes_back(world: World) -> None:
    uid = get(world, "eu-2", SETTINGS_PATH)["metadata"]["uid"]
    world.kubes["eu-2"].edit(SETTINGS_PATH, {"metadata": {"labels": {"flotilla.dev/bundle": None}}})
    told = world.wait("the drift report", lambda: world.drift("eu-2", "ConfigMap/shop/settings", what="relabelled"))
    assert told["action"] == "reverted"
    assert told["fields"] == [".metadata.labels.flotilla.dev/bundle"]
    after = get(world, "eu-2", SETTINGS_PATH)
    assert after["metadata"]["uid"] == uid
    assert after["metadata"]["labels"]["flotilla.dev/bundle"] == "shop"


def test_a_bad_commit_fails_in_the_canary_wave_and_is_rolled_back_beside_its_neighbour(world: World) -> None:
    world.repo.commit("Notes", {"bundles/notes/bundle.yaml": bundle("notes", namespace="shop")})
    good = world.repo.commit("Notes, first", {"bundles/notes/notes.yaml": config("notes", text="one")})
    world.wait_rollout("notes", good)
    seq = {name: world.api(f"clusters/{name}")["decided"]["seq"] for name in world.kubes}
    others = {name: get(world, name, WEB_PATH)["metadata"]["generation"] for name in ("eu-1", "eu-2")}

    bad = world.repo.commit(
        "A shop that no node takes, and good notes",
        {"bundles/shop/web.yaml": WEB_THAT_NO_NODE_TAKES, "bundles/notes/notes.yaml": config("notes", text="two")},
    )
    rolled_back = world.wait_rollout("shop", bad, "rolled-back")
    world.wait_rollout("notes", bad)

    phases = {member["cluster"]: member["phase"] for member in rolled_back["members"]}
    assert phases == {"canary": "reverted", "eu-1": "pending", "eu-2": "pending"}
    web = get(world, "canary", WEB_PATH)
    assert "nodeSelector" not in web["spec"]["template"]["spec"]
    assert {n: get(world, n, WEB_PATH)["metadata"]["generation"] for n in others} == others
    for cluster in world.kubes:
        assert get(world, cluster, "/api/v1/namespaces/shop/configmaps/notes")["data"] == {"text": "two"}
    assert bundles_of(world, "canary")["notes"]["revision"] == bad
    assert bundles_of(world, "canary")["shop"]["revision"] != bad
    assert world.api("clusters/canary")["decided"]["seq"] > seq["canary"] + 1
    assert world.api("fleet")["holds"] == ["shop"]
    assert "on hold" in world.cli("status")


def test_a_fix_ends_the_hold(world: World) -> None:
    fix = world.repo.commit("Back to nodes that exist", {"bundles/shop/web.yaml": WEB.replace("web:v1", "web:v2")})
    world.wait_rollout("shop", fix)
    assert world.api("fleet")["holds"] == []
    for cluster in world.kubes:
        image = get(world, cluster, WEB_PATH)["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == "registry.example.org/web:v2"


def test_a_hub_killed_in_the_middle_loses_no_move_and_doubles_none(world: World) -> None:
    before = {name: world.api(f"clusters/{name}")["decided"]["seq"] for name in world.kubes}
    revision = world.repo.commit("v3", {"bundles/shop/web.yaml": WEB.replace("web:v1", "web:v3")})
    assert world.hub is not None
    world.wait("the first move", lambda: world.rollout("shop", revision))
    world.hub.kill()
    world.start_hub()
    world.wait_rollout("shop", revision)
    for cluster, seq in before.items():
        found = world.api(f"clusters/{cluster}")
        assert found["decided"]["seq"] == seq + 1
        moved = [m for m in found["moves"] if m["seq"] > seq]
        assert [[cause[0] for cause in m["causes"]] for m in moved] == [["shop"]]
        assert moved[0]["old"] == next(m["new"] for m in found["moves"] if m["seq"] == seq)
    world.wait("all to say so", lambda: applied(world) == {cluster: seq + 1 for cluster, seq in before.items()})


def test_without_the_hub_an_agent_goes_on_reverting_and_reports_later(world: World) -> None:
    assert world.hub is not None
    world.hub.kill()
    world.kubes["eu-1"].edit(WEB_PATH, {"spec": {"replicas": 7}}, manager="night-shift")
    world.wait("the revert", lambda: get(world, "eu-1", WEB_PATH)["spec"]["replicas"] == 3)
    world.start_hub()
    told = world.wait("the late report", lambda: world.drift("eu-1", "Deployment/shop/web", manager="night-shift"))
    assert (told["fields"], told["action"]) == ([".spec.replicas"], "reverted")


def test_a_cluster_that_was_offline_catches_up(world: World) -> None:
    world.wait("all connected", lambda: world.api("fleet")["clusters"]["connected"] == 3)
    world.agents["eu-2"].stop()
    world.wait("eu-2 away", lambda: world.api("clusters/eu-2")["connection"] == "away")
    time.sleep(15 + 2 * HEARTBEAT_S)  # the policy's `offline.after`: nothing shows it before the next rollout
    revision = world.repo.commit("v4", {"bundles/shop/web.yaml": WEB.replace("web:v1", "web:v4")})
    rollout = world.wait_rollout("shop", revision)
    assert {m["cluster"]: m["phase"] for m in rollout["members"]} == {
        "canary": "proven",
        "eu-1": "proven",
        "eu-2": "offline",
    }
    assert world.api("clusters/eu-2")["health"] == "Unknown"
    world.start_agent("eu-2")

    def caught_up() -> bool:
        image = get(world, "eu-2", WEB_PATH)["spec"]["template"]["spec"]["containers"][0]["image"]
        return bool(image == "registry.example.org/web:v4")

    world.wait("eu-2 to catch up", caught_up)
    world.wait(
        "eu-2 proven",
        lambda: "proven" in [m["phase"] for m in world.rollout("shop", revision)["members"] if m["cluster"] == "eu-2"],  # type: ignore[index]
    )


def test_an_object_that_moves_to_another_bundle_is_never_deleted(world: World) -> None:
    uids = {name: get(world, name, SETTINGS_PATH)["metadata"]["uid"] for name in world.kubes}
    revision = world.repo.commit(
        "Settings belong to the notes now",
        {
            "bundles/shop/settings.yaml": None,
            "bundles/notes/settings.yaml": config("settings", domain="${domain}", greeting="moved"),
        },
    )
    rollout = world.wait_rollout("notes", revision)
    assert sorted(rollout["bundles"]) == ["notes", "shop"]
    for cluster, uid in uids.items():
        found = get(world, cluster, SETTINGS_PATH)
        assert found["metadata"]["uid"] == uid
        assert found["data"]["greeting"] == "moved"
        assert found["metadata"]["labels"]["flotilla.dev/bundle"] == "notes"


def test_a_bundle_removed_from_git_is_pruned(world: World) -> None:
    revision = world.repo.commit("No more notes", {"bundles/notes": None})
    world.wait_rollout("notes", revision)
    for cluster in world.kubes:
        assert get(world, cluster, SETTINGS_PATH) is None
        assert get(world, cluster, "/api/v1/namespaces/shop/configmaps/notes") is None
        assert get(world, cluster, WEB_PATH) is not None
        assert "notes" not in bundles_of(world, cluster)


# --- bad input ----------------------------------------------------------------------------------------------------


def findings(world: World) -> list[str]:
    return [f"{f['where']}: {f['message']} -> {f['remedy']}" for f in world.api("fleet")["findings"]]


def test_a_broken_file_and_an_unknown_field_stop_only_their_own_bundle(world: World) -> None:
    revision = world.repo.commit(
        "One broken, one misspelt, one good",
        {
            "bundles/broken/bundle.yaml": bundle("broken", namespace="shop"),
            "bundles/broken/config.yaml": "apiVersion: v1\nkind: [ConfigMap\n",
            "bundles/misspelt/bundle.yaml": bundle("misspelt", namespce="shop"),
            "bundles/shop/web.yaml": WEB.replace("web:v1", "web:v5"),
        },
    )
    world.wait_rollout("shop", revision)
    told = "\n".join(findings(world))
    assert "bundles/broken/config.yaml:" in told
    assert "namespce" in told
    assert "namespace" in told
    printed = world.cli("status")
    assert "bundles/broken/config.yaml:" in printed
    assert world.cli("check", check=False).count("error") >= 2
    world.repo.commit("Without them", {"bundles/broken": None, "bundles/misspelt": None})
    world.wait("no findings", lambda: not findings(world))


def test_two_bundles_that_own_one_object_are_refused_by_name(world: World) -> None:
    world.repo.commit(
        "A thief",
        {
            "bundles/thief/bundle.yaml": bundle("thief", namespace="shop"),
            "bundles/thief/web.yaml": WEB.replace("web:v1", "stolen:v1"),
        },
    )
    world.wait("the finding", lambda: any("Deployment/shop/web" in f and "thief" in f for f in findings(world)))
    assert "shop" in "\n".join(findings(world))
    assert get(world, "canary", WEB_PATH)["metadata"]["labels"]["flotilla.dev/bundle"] == "shop"
    world.repo.commit("Caught", {"bundles/thief": None})
    world.wait("no findings", lambda: not findings(world))


def test_an_unknown_kind_and_a_refused_object_are_named_and_stop_nothing_beside_them(world: World) -> None:
    revision = world.repo.commit(
        "Something no server knows, that goes on whatever happens",
        {
            "rollouts/stubborn.yaml": CAREFUL.replace("careful", "stubborn").replace("rollback", "continue"),
            "bundles/odd/bundle.yaml": bundle("odd", namespace="shop", rollout="stubborn"),
            "bundles/odd/good.yaml": config("good", text="fine"),
            "bundles/odd/unknown.yaml": """
                apiVersion: example.org/v1
                kind: Widget
                metadata: {name: w}
                """,
            "bundles/odd/refused.yaml": """
                apiVersion: v1
                kind: Service
                metadata: {name: refused}
                spec: {ports: [{port: 99999}]}
                """,
        },
    )

    def told() -> str:
        printed = world.cli("clusters", "canary")
        return printed if all(word in printed for word in ("Widget", "Service/shop/refused", "99999")) else ""

    world.wait("both problems, with the cause", told)
    world.wait("the good one", lambda: get(world, "canary", "/api/v1/namespaces/shop/configmaps/good"))
    world.wait("the failure", lambda: "refused" in world.cli("rollouts", (world.rollout("odd", revision) or {})["id"]))
    gone = world.repo.commit("Without it", {"bundles/odd": None})
    world.wait_rollout("odd", gone)
    assert get(world, "canary", "/api/v1/namespaces/shop/configmaps/good") is None


def test_a_refused_object_fails_the_canary_at_once_and_is_rolled_back(world: World) -> None:
    revision = world.repo.commit(
        "A port that does not exist",
        {
            "bundles/odd/bundle.yaml": bundle("odd", namespace="shop"),
            "bundles/odd/refused.yaml": """
                apiVersion: v1
                kind: Service
                metadata: {name: refused}
                spec: {ports: [{port: 99999}]}
                """,
        },
    )
    rollout = world.wait_rollout("odd", revision, "rolled-back")
    assert "Service/shop/refused" in world.cli("rollouts", rollout["id"])
    without = world.repo.commit("Without it", {"bundles/odd": None})
    world.wait("no hold", lambda: world.api("fleet")["holds"] == [])
    assert world.rollout("odd", without) is None


def test_an_unreachable_upstream_is_named_and_nothing_stops(world: World) -> None:
    hidden = world.repo.path.with_name("hidden")
    world.repo.path.rename(hidden)
    try:
        problems = world.wait("the problem", lambda: world.api("fleet")["problems"])
        assert str(world.repo.path) in problems[0]
        world.kubes["canary"].edit(WEB_PATH, {"spec": {"replicas": 9}}, manager="sneak")
        world.wait("the revert", lambda: world.drift("canary", "Deployment/shop/web", manager="sneak"))
    finally:
        hidden.rename(world.repo.path)
    world.wait("no problem", lambda: not world.api("fleet")["problems"])


@contextmanager
def stranger(world: World, name: str, token: str) -> Iterator[real.Process]:
    """An agent that should not be let in, on eu-2's API server (whose own agent gives its Lease back meanwhile)."""
    (world.folder / f"{name}.token").write_text(token)
    world.agents["eu-2"].stop()
    world.kubes[name] = world.kubes["eu-2"]
    agent = world.start_agent(name)
    try:
        yield agent
    finally:
        agent.stop()
        del world.kubes[name]
        del world.agents[name]
        world.start_agent("eu-2")
        world.wait("eu-2 again", lambda: world.api("clusters/eu-2")["connection"] == "connected")


def test_a_used_join_token_is_refused_with_the_remedy_and_the_rightful_agent_stays(world: World) -> None:
    with stranger(world, "thief", (world.folder / "eu-1.token").read_text()) as thief:
        world.wait(
            "the refusal", lambda: [e for e in world.events(kind="denied", cluster="eu-1") if "used" in e["text"]]
        )
        world.wait("the agent to say why", lambda: "flotilla join-token eu-1" in thief.tail(50))
        assert world.api("clusters/eu-1")["connection"] == "connected"


def test_a_wrong_join_token_is_refused(world: World) -> None:
    token = (world.folder / "eu-1.token").read_text().strip()
    with stranger(world, "guesser", token[:-8] + "AAAAAAAA"):
        world.wait(
            "the refusal",
            lambda: [e for e in world.events(kind="denied", cluster="eu-1") if "used" not in e["text"]],
        )
    assert world.api("clusters/eu-1")["connection"] == "connected"


def test_an_agent_of_a_cluster_that_nobody_knows_is_named_and_refused(world: World) -> None:
    with stranger(world, "ghost", (world.folder / "eu-1.token").read_text().replace(".eu-1.", ".ghost.")):
        denied = world.wait("the refusal", lambda: [e for e in world.events(kind="denied") if e["cluster"] == "ghost"])
        assert all("not in the fleet repo" in each["text"] for each in denied)
        assert "ghost" not in [row["name"] for row in world.api("clusters")["clusters"]]


def test_commands_need_the_token_and_name_what_is_missing(world: World) -> None:
    request = urllib.request.Request(f"{world.url}/api/v1/join-tokens", method="POST", data=b'{"cluster": "eu-1"}')
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value as answer:
        assert answer.code == 401
        assert "admin.token" in json.load(answer)["remedy"]
    said = world.cli("join-token", "nowhere", check=False)
    assert "nowhere" in said
    assert "clusters/nowhere.yaml" in said


def test_at_the_end_every_cluster_is_current_and_nothing_is_open(world: World) -> None:
    def quiet() -> bool:
        fleet = world.api("fleet")
        return bool(
            fleet["clusters"]["health"] == {"Current": 3}
            and not fleet["rollouts"]
            and not fleet["holds"]
            and not fleet["problems"]
        )

    world.wait("a fleet that is all well", quiet)
