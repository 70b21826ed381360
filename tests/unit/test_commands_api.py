"""Who may give which command over HTTP, and what is kept of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_api import Client, fleet_repo, ready, serving


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(tmp_path, fleet_repo(tmp_path / "fleet")) as made:
        await ready(made)
        yield made


@pytest.fixture
def operator(tmp_path: Path, client: Client) -> str:
    return (tmp_path / "hub/operator.token").read_text().strip()


async def words(client: Client, query: str = "") -> list[dict[str, Any]]:
    status, said = await client.get(f"/api/v1/audit{query}")
    assert status == 200
    found: list[dict[str, Any]] = said["audit"]
    return found


@pytest.mark.parametrize(
    ("path", "more"),
    [
        pytest.param("rollouts/shop-1/emergency", {}, id="emergency"),
        pytest.param("join-tokens", {"cluster": "eu-1"}, id="join token"),
        pytest.param("sync", {"accept_rewrite": True}, id="a rewritten history"),
        pytest.param("clusters/eu-1/bundle", {}, id="a slice with its Secrets"),
    ],
)
async def test_some_commands_are_the_administrators_alone(
    client: Client, operator: str, path: str, more: dict[str, object]
) -> None:
    body = {"reason": "x", "actor": "ann", "role": "admin", **more}
    status, said = await client.post(f"/api/v1/{path}", body, token=operator)
    assert (status, said["error"]) == (403, "command: needs the administrator's token, this is the operator's")
    assert await words(client) == []


@pytest.mark.parametrize(
    ("path", "more", "verb"),
    [
        pytest.param("rollouts/shop-1/pause", {}, "pause", id="pause a rollout"),
        pytest.param("clusters/eu-1/cordon", {}, "cordon", id="cordon"),
        pytest.param("clusters/eu-1/pause", {"for_s": 60}, "pause", id="pause a cluster"),
        pytest.param("bundles/shop/suspend", {}, "suspend", id="suspend"),
    ],
)
async def test_the_operator_may_do_the_rest_and_the_list_says_whose_token_it_was(
    client: Client, operator: str, path: str, more: dict[str, object], verb: str
) -> None:
    body = {"reason": "ticket 42", "actor": "ann", "role": "admin", **more}
    status, _ = await client.post(f"/api/v1/{path}", body, token=operator)
    assert status == 200
    [word] = await words(client)
    assert [word[key] for key in ("actor", "role", "verb", "reason")] == ["ann", "operator", verb, "ticket 42"]
    assert [len(word["clusters"]) or len(word["bundles"])] == [1]


async def test_a_join_token_is_in_the_list_and_its_value_is_not(client: Client) -> None:
    status, made = await client.post("/api/v1/join-tokens", {"cluster": "eu-1"})
    assert status == 200
    [word] = await words(client)
    assert (word["actor"], word["role"], word["verb"], word["clusters"]) == ("admin", "admin", "join-token", ["eu-1"])
    assert made["token"] not in str(word)


async def test_a_command_that_was_refused_is_not_in_the_list(client: Client) -> None:
    for path, code in (("rollouts/shop-9/pause", 404), ("bundles/shop/release", 400), ("clusters/eu-1/uncordon", 400)):
        assert (await client.post(f"/api/v1/{path}", {"reason": "x"}))[0] == code
    assert await words(client) == []


async def test_a_word_to_a_rollout_is_found_by_its_bundle(client: Client) -> None:
    assert (await client.post("/api/v1/rollouts/shop-1/pause", {"reason": "x", "actor": "ann"}))[0] == 200
    assert [word["rollout"] for word in await words(client, "?bundle=shop&actor=ann")] == ["shop-1"]
    assert await words(client, "?bundle=shop&actor=bob") == []
    assert (await client.get("/api/v1/audit?bundle=till"))[0] == 404
    assert await words(client, "?since=2999-01-01T00:00:00Z") == []


@pytest.mark.parametrize("since", ["yesterday", "2030-01-31T06:00:00"])
async def test_a_time_that_is_none_is_refused(client: Client, since: str) -> None:
    status, said = await client.get(f"/api/v1/audit?since={since}")
    assert status == 400
    assert "2030-01-31T06:00:00Z" in said["remedy"]


async def test_a_cordon_is_shown_until_it_is_taken_back(client: Client) -> None:
    assert (await client.post("/api/v1/clusters/eu-9/cordon", {"reason": "x"}))[0] == 404
    assert (await client.post("/api/v1/clusters/eu-1/cordon", {"reason": " "}))[0] == 400
    status, said = await client.post("/api/v1/clusters/eu-1/cordon", {"reason": "new nodes", "actor": "ann"})
    assert (status, said["cordoned"]["why"]) == (200, "ann: new nodes")
    _, cluster = await client.get("/api/v1/clusters/eu-1")
    assert cluster["cordoned"]["why"] == "ann: new nodes"
    _, fleet = await client.get("/api/v1/fleet")
    assert [(row["kind"], row["cluster"]) for row in fleet["directives"]] == [("cordon", "eu-1")]
    status, said = await client.post("/api/v1/clusters/eu-1/uncordon", {"reason": "they are there"})
    assert (status, said["cordoned"]) == (200, None)
    assert (await client.get("/api/v1/clusters/eu-1"))[1]["cordoned"] is None


async def test_a_hold_says_what_ends_it_and_refuses_what_it_does_not_know(client: Client, operator: str) -> None:
    assert (await client.post("/api/v1/bundles/nothing/hold", {"reason": "x"}))[0] == 404
    status, said = await client.post("/api/v1/bundles/shop/hold", {"reason": "a fair"}, token=operator)
    assert (status, said["error"]) == (400, "bundle shop: rollout shop-1 of it is running")
    assert "'flotilla rollback shop-1'" in said["remedy"]
    body = {"reason": "a fair", "actor": "ann", "abort": True}
    status, said = await client.post("/api/v1/bundles/shop/hold", body, token=operator)
    assert (status, said["hold"]["until"], said["hold"]["reason"]) == (200, "released", "ann: a fair")
    assert (await client.get("/api/v1/rollouts/shop-1"))[1]["phase"] == "aborted"
    _, fleet = await client.get("/api/v1/fleet")
    assert (fleet["holds"], fleet["on_hold"][0]["bundle"]) == (["shop"], "shop")
    assert [word["verb"] for word in await words(client, "?bundle=shop")] == ["hold"]


async def test_a_rollback_to_what_never_was_says_what_was(client: Client) -> None:
    _, fleet = await client.get("/api/v1/fleet")
    body = {"reason": "x", "to": "d" * 40, "abort": True}
    status, said = await client.post("/api/v1/bundles/shop/rollback", body)
    assert (status, said["error"]) == (400, f"revision {'d' * 40}: rolled nothing of bundle shop out")
    assert said["remedy"].endswith(fleet["revision"][:12])
    assert (await client.post("/api/v1/bundles/shop/rollback", {"reason": "x", "to": ["a"]}))[0] == 400
    status, said = await client.post("/api/v1/bundles/shop/rollback", {"reason": "x"})
    assert (status, said["error"]) == (400, "bundle shop: has nothing before what it is")
    body = {"reason": "x", "actor": "ann", "to": fleet["revision"][:9], "abort": True}
    status, said = await client.post("/api/v1/bundles/shop/rollback", body)
    assert (status, said["hold"]["revision"], said["hold"]["until"]) == (200, fleet["revision"], "changed")
    [word] = await words(client, "?bundle=shop")
    assert (word["verb"], word["actor"]) == ("rollback", "ann")
