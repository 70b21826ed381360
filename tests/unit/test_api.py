"""The hub's HTTP API over a real listener: what is, commands with a token, errors that name the remedy."""

import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pygit2
import pytest

from hub import isolation, worker
from hub.wiring import Hub
from proto.errors import Transient

FLEET = """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {tier: prod}}
spec: {}
"""
BUNDLE = """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {targets: {matchLabels: {tier: prod}}, namespace: shop}
"""
BROKEN = BUNDLE.replace("shop", "broken").replace("namespace", "namespce")
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n"


def fleet_repo(path: Path) -> Path:
    repo = pygit2.init_repository(str(path), initial_head="main")
    for name, text in {
        "clusters/eu-1.yaml": FLEET,
        "bundles/shop/bundle.yaml": BUNDLE,
        "bundles/shop/settings.yaml": CONFIG,
        "bundles/broken/bundle.yaml": BROKEN,
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    repo.index.add_all()
    repo.index.write()
    who = pygit2.Signature("Dana", "dana@example.org", 1_700_000_000, 0)
    repo.create_commit("refs/heads/main", who, who, "First", repo.index.write_tree(), [])
    return path


class Client:
    """Speaks to one hub."""

    def __init__(self, session: aiohttp.ClientSession, token: str) -> None:
        self._session, self._token = session, token

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(path) as response:
            body = await (response.json() if "json" in response.content_type else response.text())
            return response.status, body

    async def post(self, path: str, body: object, *, token: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._token if token is None else token}"}
        async with self._session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json()


@asynccontextmanager
async def serving(folder: Path, fleet: Path) -> AsyncIterator[Client]:
    hub = Hub(fleet=str(fleet), branch="main", data=folder / "hub", poll_s=0.2, heartbeat_s=1.0)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Client(session, hub.admin_token)
        tasks.cancel_scope.cancel()


async def says(client: Client, path: str, text: str) -> None:
    """Ask until the answer has `text`."""
    for _ in range(1000):
        if text in (await client.get(path))[1]:
            return
        await anyio.sleep(0.05)
    raise AssertionError(f"{path} never said {text!r}")


async def ready(client: Client) -> None:
    await says(client, "/readyz", "ok")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(tmp_path, fleet_repo(tmp_path / "fleet")) as made:
        await ready(made)
        yield made


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("join-tokens", {"cluster": "eu-1"}),
        ("clusters/eu-1/cordon", {"reason": "x"}),
        ("bundles/shop/hold", {"reason": "x"}),
    ],
    ids=lambda value: str(value),
)
async def test_nothing_is_missing_in_a_fleet_repo_that_was_not_read_yet(
    tmp_path: Path, path: str, body: dict[str, str]
) -> None:
    async with serving(tmp_path, tmp_path / "not there") as client:
        status, said = await client.post(f"/api/v1/{path}", body)
    assert (status, said["error"].partition(": ")[2]) == (503, "is not known: the fleet repo was not read yet")


async def test_the_fleet_says_what_is_and_what_is_wrong_with_file_line_and_remedy(client: Client) -> None:
    status, fleet = await client.get("/api/v1/fleet")
    assert status == 200
    assert fleet["clusters"] == {"total": 1, "connected": 0, "health": {"Unknown": 1}}
    assert len(fleet["revision"]) == 40
    [finding] = fleet["findings"]
    assert finding["where"] == "bundles/broken/bundle.yaml:5"
    assert "namespce" in finding["message"]
    assert "namespace" in finding["message"] + finding["remedy"]
    assert [rollout["bundles"] for rollout in fleet["rollouts"]] == [["shop"]]


async def test_a_cluster_that_never_spoke_is_unknown_and_not_green(client: Client) -> None:
    _, body = await client.get("/api/v1/clusters")
    [cluster] = body["clusters"]
    assert (cluster["health"], cluster["connection"], cluster["last_seen"]) == ("Unknown", "never-seen", "")
    _, one = await client.get("/api/v1/clusters/eu-1")
    assert one["bundle_list"] == []
    assert one["labels"] == {"tier": "prod"}


async def test_bundles_and_rollouts_are_listed(client: Client) -> None:
    _, body = await client.get("/api/v1/bundles")
    shop = next(row for row in body["bundles"] if row["name"] == "shop")
    assert (shop["wanted_on"], shop["runs_on"], shop["hold"]) == (1, 0, None)
    assert next(row for row in body["bundles"] if row["name"] == "broken")["failed"]
    _, body = await client.get("/api/v1/rollouts")
    [rollout] = body["rollouts"]
    _, one = await client.get(f"/api/v1/rollouts/{rollout['id']}")
    assert [member["cluster"] for member in one["members"]] == ["eu-1"]


@pytest.mark.parametrize(
    ("path", "code", "told"),
    [
        pytest.param("/api/v1/clusters/nowhere", 404, "cluster nowhere", id="no such cluster"),
        pytest.param("/api/v1/rollouts/shop-99", 404, "rollout shop-99", id="no such rollout"),
        pytest.param("/api/v1/events?limit=many", 400, "?limit=many", id="limit is no number"),
        pytest.param("/api/v1/events?limit=1001", 400, "?limit=1001", id="limit is too large"),
        pytest.param("/api/v1/drift?since=-1", 400, "?since=-1", id="since is negative"),
    ],
)
async def test_what_cannot_be_answered_names_the_thing_and_the_remedy(
    client: Client, path: str, code: int, told: str
) -> None:
    status, body = await client.get(path)
    assert status == code
    assert told in body["error"]
    assert body["remedy"]


@pytest.mark.parametrize("token", [pytest.param("", id="none"), pytest.param("wrong", id="wrong")])
async def test_a_command_without_the_token_changes_nothing(client: Client, token: str) -> None:
    _, body = await client.get("/api/v1/rollouts")
    rollout = body["rollouts"][0]["id"]
    status, said = await client.post(f"/api/v1/rollouts/{rollout}/pause", {"reason": "lunch"}, token=token)
    assert status == 401
    assert "admin.token" in said["remedy"]
    assert (await client.get(f"/api/v1/rollouts/{rollout}"))[1]["phase"] == "running"


POSTS = {
    "join-tokens",
    "sync",
    "rollouts/shop-1/pause",
    "rollouts/shop-1/skip",
    "bundles/shop/release",
    "bundles/shop/hold",
    "bundles/shop/rollback",
    "bundles/shop/suspend",
    "bundles/shop/resume",
    "bundles/shop/sync",
    "clusters/eu-1/pause",
    "clusters/eu-1/resume",
    "clusters/eu-1/sync",
    "clusters/eu-1/bundle",
    "clusters/eu-1/cordon",
    "clusters/eu-1/uncordon",
    "drift/1/values",
    "receivers/shop/test",
}


async def test_every_command_needs_the_token(client: Client) -> None:
    for path in sorted(POSTS):
        status, body = await client.post(f"/api/v1/{path}", {"reason": "x", "for_s": 60}, token="guess")
        assert (path, status, body["error"]) == (path, 401, "command: needs the administrator's token")
    _, fleet = await client.get("/api/v1/fleet")
    assert fleet["directives"] == []


async def test_every_path_that_takes_a_post_is_in_that_list(tmp_path: Path) -> None:
    hub = Hub(fleet=str(fleet_repo(tmp_path / "fleet")), branch="main", data=tmp_path / "hub", poll_s=9, heartbeat_s=1)
    routes = [route for route in hub.application().router.routes() if route.method == "POST" and route.resource]
    paths = {str(route.resource.canonical).removeprefix("/api/v1/") for route in routes if route.resource}
    given = {re.sub(r"shop-1/.*", "{id}/{verb}", path) for path in POSTS}
    given = {path.replace("shop", "{name}").replace("eu-1", "{name}").replace("/1/", "/{id}/") for path in given}
    assert {path for path in paths if not path.startswith(("/git/", "/webhooks/"))} == given
    hub.loop.close()
    hub._opened.close()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param({"for_s": "x"}, "the end of the pause: is not a time", id="no number"),
        pytest.param({"for_s": 1e300}, "is not within the next 30 days", id="a number that is no time"),
        pytest.param({"until": [1]}, "is not a time", id="no text"),
        pytest.param({}, "is not within the next 30 days", id="nothing"),
        pytest.param({"until": "9999-12-31T23:59:59-23:59"}, "the end of the pause", id="the end of time"),
    ],
)
async def test_a_pause_without_a_sane_end_is_refused(client: Client, body: dict[str, Any], error: str) -> None:
    status, said = await client.post("/api/v1/clusters/eu-1/pause", {"reason": "x", **body})
    assert status == 400
    assert error in said["error"]


@pytest.mark.parametrize("body", [{"clusters": "eu-1"}, {"clusters": {"a": 1}}, {"labels": ["a"]}])
async def test_clusters_are_a_list_and_labels_a_mapping(client: Client, body: dict[str, Any]) -> None:
    status, said = await client.post("/api/v1/bundles/shop/suspend", {"reason": "x", **body})
    assert (status, said["error"]) == (400, "clusters and labels: are a list of names and a mapping")


async def test_a_command_needs_a_reason_and_keeps_it(client: Client) -> None:
    _, body = await client.get("/api/v1/rollouts")
    rollout = body["rollouts"][0]["id"]
    status, said = await client.post(f"/api/v1/rollouts/{rollout}/pause", {})
    assert (status, said["error"]) == (400, "reason: is missing")
    status, said = await client.post(f"/api/v1/rollouts/{rollout}/pause", {"reason": "lunch", "actor": "dana"})
    assert (status, said["phase"]) == (200, "paused")
    _, events = await client.get("/api/v1/events?kind=command")
    assert [event["text"] for event in events["events"]] == [f"dana: pause {rollout}: lunch"]


async def test_a_join_token_is_for_a_cluster_of_the_fleet_only(client: Client) -> None:
    status, said = await client.post("/api/v1/join-tokens", {"cluster": "eu-1"})
    assert status == 200
    assert said["token"].startswith("flotilla-join.v1.")
    status, said = await client.post("/api/v1/join-tokens", {"cluster": "nowhere"})
    assert status == 400
    assert "clusters/nowhere.yaml" in said["remedy"]
    status, _ = await client.post("/api/v1/join-tokens", {"cluster": "eu-1", "ttl_s": 1})
    assert status == 400


async def test_releasing_a_bundle_that_is_not_on_hold_says_so(client: Client) -> None:
    status, said = await client.post("/api/v1/bundles/shop/release", {"reason": "why not"})
    assert status == 400
    assert "not on hold" in said["error"]


async def test_metrics_are_in_the_form_of_prometheus(client: Client) -> None:
    status, text = await client.get("/metrics")
    assert status == 200
    assert 'flotilla_clusters{health="Unknown"} 1.0' in text
    assert "flotilla_findings 1.0" in text


async def test_a_hub_without_its_fleet_repo_is_alive_not_ready_and_says_why(tmp_path: Path) -> None:
    async with serving(tmp_path, tmp_path / "nothing") as client:
        assert (await client.get("/healthz"))[0] == 200
        await says(client, "/readyz", "nothing")
        status, fleet = await client.get("/api/v1/fleet")
        assert status == 200
        assert str(tmp_path / "nothing") in fleet["problems"][0]


async def test_a_second_hub_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    fleet = fleet_repo(tmp_path / "fleet")
    async with serving(tmp_path, fleet):
        with pytest.raises(Exception, match="in use by another hub"):
            Hub(fleet=str(fleet), branch="main", data=tmp_path / "hub", poll_s=1, heartbeat_s=1)


async def test_a_signed_webhook_makes_the_hub_look_long_before_the_next_poll(tmp_path: Path) -> None:
    fleet = fleet_repo(tmp_path / "fleet")
    hub = Hub(
        fleet=str(fleet),
        branch="main",
        data=tmp_path / "hub",
        poll_s=3600.0,
        heartbeat_s=1.0,
        webhook_secrets=(b"shared with the host",),
    )
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            client = Client(session, hub.admin_token)
            await ready(client)
            repo = pygit2.Repository(str(fleet))
            who = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 0)
            tree, parent = repo.head.peel(pygit2.Commit).tree_id, repo.head.target
            tip = str(repo.create_commit("refs/heads/main", who, who, "pushed", tree, [parent]))
            body = b'{"ref": "refs/heads/main"}'
            signature = hmac.new(b"shared with the host", body, "sha256").hexdigest()
            sent = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={signature}"}
            async with session.post("/webhooks/github", data=body, headers=sent) as response:
                assert (await response.json())["result"] == "woken"
            with anyio.fail_after(60):
                while (await client.get("/api/v1/fleet"))[1]["revision"] != tip:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()


async def test_a_kernel_that_cannot_confine_renders_is_told_in_log_and_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, told = worker.run, "renders have network: the kernel lacks seccomp filters"

    async def on_an_old_kernel(function: Any, *args: Any, **options: Any) -> Any:
        return (told,) if function is isolation.lacks else await run(function, *args, **options)

    monkeypatch.setattr(worker, "run", on_an_old_kernel)
    async with serving(tmp_path, fleet_repo(tmp_path / "fleet")) as client:
        await ready(client)
        assert told in (await client.get("/api/v1/fleet"))[1]["problems"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [told]


async def test_a_hub_that_cannot_try_its_kernel_starts_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worker.run

    async def busy(function: Any, *args: Any, **options: Any) -> Any:
        if function is isolation.lacks:
            raise Transient("a confined process", "no worker process could be started")
        return await run(function, *args, **options)

    monkeypatch.setattr(worker, "run", busy)
    async with serving(tmp_path, fleet_repo(tmp_path / "fleet")) as client:
        await ready(client)
        [problem] = (await client.get("/api/v1/fleet"))[1]["problems"]
    assert problem.startswith("renders may see too much, it could not be tried: a confined process")


async def test_a_hub_here_has_nothing_to_say_of_its_kernel(client: Client) -> None:
    if isolation._landlock_abi() >= 1:
        assert (await client.get("/api/v1/fleet"))[1]["problems"] == []
