"""Telling people, with a whole hub: from fleet.yaml and the credentials to a receiver, and `flotilla notify`."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result

from hub import isolation, notifier, worker
from hub.cli import main
from hub.wiring import Hub
from tests.agents import until
from tests.receiver import SECRET, Receiver, receiving
from tests.unit.test_online_cli import FILES
from tests.unit.test_online_cli import fleet_repo as committed

FLEET = """
apiVersion: flotilla.dev/v1alpha1
kind: Fleet
spec:
  notify:
    - {name: on-call, url: "URL", credentials: on-call}
"""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@asynccontextmanager
async def serving(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Hub, str]]:
    """A hub whose fleet repo names the receiver; workers are threads here: they start sooner."""

    async def in_a_thread(function: Callable[..., object], *arguments: object, **_: object) -> object:
        if function is isolation.lacks:
            return ()
        return await anyio.to_thread.run_sync(function, *arguments)

    monkeypatch.setattr(worker, "run", in_a_thread)
    monkeypatch.setitem(FILES, "fleet.yaml", FLEET.replace("URL", receiver.url))
    secrets = tmp_path / "credentials.yaml"
    secrets.write_text(f"on-call: {{for: ['{receiver.url}'], webhookSecret: {SECRET}}}")
    hub = Hub(
        fleet=str(committed(tmp_path / "fleet")),
        branch="main",
        data=tmp_path / "hub",
        poll_s=3600,
        heartbeat_s=60.0,
        source_credentials=secrets,
        public_url="https://flotilla.example.org/",
    )
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        yield hub, f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def flotilla(hub: Hub, address: str, *arguments: str) -> Result:
    environment = {"FLOTILLA_HUB": address, "FLOTILLA_TOKEN": hub.admin_token}
    return await anyio.to_thread.run_sync(partial(CliRunner().invoke, main, list(arguments), env=environment))


async def test_a_commit_is_told_with_whose_it_is_and_where_to_look(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, receiver, monkeypatch) as (hub, address):
        await until(lambda: "finding" in receiver.types)
        [rollout] = hub.loop.states
        await flotilla(hub, address, "abort", rollout, "--reason", "enough")
        await until(lambda: "aborted" in receiver.types)
        [data] = [body["data"] for body in receiver.taken if body["type"] == "aborted"]
        assert (data["rollout"]["author"], data["rollout"]["subject"]) == ("Dana", "First")
        assert data["rollout"]["id"] == rollout
        assert data["links"]["rollout"] == f"https://flotilla.example.org/api/v1/rollouts/{rollout}"
        assert "flotilla release shop --reason '...'" in data["next"]
        listed = await flotilla(hub, address, "notify", "list")
        assert "on-call" in listed.stdout
        assert json.loads((await flotilla(hub, address, "notify", "list", "-o", "json")).stdout)["receivers"][0] == {
            **hub.notifier.rows()[0],
            "name": "on-call",
            "host": receiver.url.removesuffix("/hook"),
            "pending": 0,
            "lost": 0,
            "error": "",
            "failing_since": "",
        }


async def test_a_test_message_says_what_became_of_it(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, receiver, monkeypatch) as (hub, address):
        await until(lambda: bool(hub.loop.receivers))
        good = await flotilla(hub, address, "notify", "test", "on-call")
        assert (good.exit_code, good.stdout) == (0, "on-call took the message\n")
        receiver.down = 404
        bad = await flotilla(hub, address, "notify", "test", "on-call")
        assert bad.exit_code == 1
        assert "receiver on-call: answers with status 404" in bad.stdout
        unknown = await flotilla(hub, address, "notify", "test", "oncall")
        assert unknown.exit_code == 1
        assert "receiver oncall: is not in spec.notify" in unknown.stderr


async def test_a_receiver_that_stays_away_is_a_problem_of_the_status_and_no_secret_is_shown(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifier, "TOLD_AFTER_S", 0.0)
    receiver.down = 503
    async with serving(tmp_path, receiver, monkeypatch) as (hub, address):
        await until(lambda: bool(hub.notifier.problems()))
        shown = await flotilla(hub, address, "status")
        assert "receiver on-call: answers with status 503" in shown.stdout + shown.stderr
        answers = [
            (await flotilla(hub, address, "status", "-o", "json")).stdout,
            (await flotilla(hub, address, "notify", "list", "-o", "json")).stdout,
        ]
        for text in (*answers, shown.stdout, caplog.text):
            assert SECRET[6:] not in text
            assert "/hook" not in text, "an address may be a secret in itself"
