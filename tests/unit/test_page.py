"""The status page and its stream over a real listener: what a browser may do, what it is told, and for how many."""

import base64
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from hub.api import page, snapshot, stream
from hub.api.stream import Stream
from hub.inputs import FromAgent
from hub.journal import EventRow
from hub.state import Member as RolloutMember
from hub.state import MemberPhase, Phase, Rollout, State, Target, Wave
from hub.wiring import Hub
from proto.errors import Transient
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, DriftReport, Health, Report
from tests.unit.test_api import fleet_repo

HOSTILE = "<img src=x onerror=alert(1)></script>\ndata: forged\n\nevent: fleet"


class Reader:
    """Reads server-sent events from one response."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def event(self, wanted: str) -> dict[str, Any]:
        """The next event of that name, its data parsed."""
        kind, data = "", ""
        while True:
            line = (await self.response.content.readline()).decode()
            assert line, "the stream ended"
            if line == "\n":
                if kind == wanted:
                    found: dict[str, Any] = json.loads(data)
                    return found
                kind, data = "", ""
            elif line.startswith("event: "):
                kind = line.removeprefix("event: ").strip()
            elif line.startswith("data: "):
                data += line.removeprefix("data: ")


async def until(done: Callable[[], bool]) -> None:
    """Look until it is so."""
    for _ in range(3000):
        if done():
            return
        await anyio.sleep(0.02)
    raise AssertionError("it never came")


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Hub, aiohttp.ClientSession]]:
    """A hub that has read its fleet repo (cluster eu-1, bundle shop, a broken bundle)."""
    hub = Hub(fleet=str(fleet_repo(folder / "fleet")), branch="main", data=folder / "hub", poll_s=0.2, heartbeat_s=1.0)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", read_bufsize=1 << 22) as session:
            await until(lambda: hub.loop.desired is not None)
            yield hub, session
        tasks.cancel_scope.cancel()


def a_report(number: int = 1, **changes: Any) -> FromAgent:
    return FromAgent(
        cluster=ClusterName("eu-1"),
        report=Report(**{"number": number, "boot_id": "b", "seq": 1, "commit": "c", "full": True, **changes}),
    )


# --- the page -----------------------------------------------------------------------------------------------------


async def test_the_page_is_served_with_a_policy_that_runs_nothing_but_its_own_parts(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, session), session.get("/") as response:
        html = await response.text()
    assert response.status == 200
    assert response.content_type == "text/html"
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        [part] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_asks_nobody_but_its_hub_and_never_writes_html() -> None:
    html = page.FILE.read_text()
    assert set(re.findall(r"https?://[^'\"\s]+", html)) == {"http://www.w3.org/2000/svg"}
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " onclick=", " style="):
        assert way not in html


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_stream_begins_with_the_whole_fleet_whatever_id_was_last(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (_, session),
        session.get("/api/v1/stream", headers={"Last-Event-ID": "no such id"}) as response,
    ):
        assert response.content_type == "text/event-stream"
        fleet = await Reader(response).event("fleet")
    assert [row["name"] for row in fleet["clusters"]["rows"]] == ["eu-1"]
    assert fleet["clusters"]["health"] == {"Unknown": 1}
    assert fleet["findings"]["rows"][0]["where"] == "bundles/broken/bundle.yaml:5"
    [rollout] = fleet["rollouts"]
    assert rollout["bundles"] == ["shop"]
    assert [wave["clusters"] for wave in rollout["waves"]] == [1]


async def test_what_an_agent_says_arrives_without_being_asked_and_hostile_texts_stay_one_line(tmp_path: Path) -> None:
    drift = DriftReport(
        id="1", bundle="shop", object=HOSTILE, what="changed", fields=(".spec.replicas",), manager=HOSTILE
    )
    async with running(tmp_path) as (hub, session), session.get("/api/v1/stream") as response:
        reader = Reader(response)
        await reader.event("fleet")
        await hub.loop.tell(a_report(drift=(drift,), problems=(HOSTILE,)))
        fleet = await reader.event("fleet")
        while not fleet["drift"]:
            fleet = await reader.event("fleet")
    assert (fleet["drift"][0]["object"], fleet["drift"][0]["manager"]) == (HOSTILE, HOSTILE)
    assert fleet["clusters"]["rows"][0]["problems"] == [HOSTILE]


async def test_a_cluster_that_falls_silent_is_told_although_nothing_happened(tmp_path: Path) -> None:
    current = {"shop": BundleReport(subtree="t", health=Health.CURRENT, converged=True)}
    async with running(tmp_path) as (hub, session), session.get("/api/v1/stream") as response:
        reader = Reader(response)
        await hub.loop.tell(a_report(bundles=current, seq=9))
        seen = []
        while "Silent" not in seen:
            seen.append((await reader.event("fleet"))["clusters"]["rows"][0]["health"])
        while "Unknown" not in seen[seen.index("Silent") :]:
            seen.append((await reader.event("fleet"))["clusters"]["rows"][0]["health"])
    assert "Current" not in seen  # it has no connection


class Looking:
    """A stream of its own on a listener, with a fleet that the test sets."""

    def __init__(self) -> None:
        self.made = 0
        self.text = "first"
        self.fail: Transient | None = None
        self.changed = anyio.Event()
        self.stream = Stream(self._make, changed=lambda: self.changed)

    def _make(self) -> dict[str, Any]:
        if self.fail is not None:
            raise self.fail
        self.made += 1
        return {"time": str(self.made), "upstream": {}, "clusters": {"rows": []}, "text": self.text}

    def change(self, text: str) -> None:
        self.text = text
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


@asynccontextmanager
async def looking() -> AsyncIterator[tuple[Looking, aiohttp.ClientSession, int]]:
    made = Looking()
    application = web.Application()
    application.router.add_get("/stream", made.stream.handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = int(runner.addresses[0][1])
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield made, session, port
    finally:
        made.stream.close()
        await runner.cleanup()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PACE_S": 0.02, "LOOK_S": 0.04, "HEARTBEAT_S": 0.1, "SEND_S": 0.2, "SHARE": 1.0}.items():
        monkeypatch.setattr(stream, name, value)


@pytest.mark.usefixtures("fast")
async def test_a_calm_fleet_is_sent_again_only_with_the_heartbeat() -> None:
    async with looking() as (made, session, _), session.get("/stream") as response:
        reader = Reader(response)
        assert (await reader.event("fleet"))["text"] == "first"
        await reader.event("heartbeat")
        await reader.event("heartbeat")
        made.change("second")
        fleet = await reader.event("fleet")
        while fleet["text"] == "first":
            fleet = await reader.event("fleet")
        assert fleet["text"] == "second"


def test_a_snapshot_that_takes_long_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = 100.0, []

    def make() -> dict[str, Any]:
        nonlocal now
        made.append(now)
        now += 2.0
        return {"upstream": {}, "clusters": {"rows": []}}

    monkeypatch.setattr(anyio, "current_time", lambda: now)
    shared = stream.Stream(make, changed=anyio.Event)
    for seconds in (0.0, 10.0, 10.0):  # a tenth of the time: one in twenty seconds
        now += seconds
        shared._snapshot()
    assert made == [100.0, 122.0]


@pytest.mark.usefixtures("fast")
async def test_many_changes_at_once_become_one_and_all_clients_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PACE_S", 60.0)
    async with looking() as (made, session, _), session.get("/stream") as one, session.get("/stream") as two:
        await Reader(one).event("fleet")
        for number in range(100):
            made.change(str(number))
        await Reader(two).event("fleet")
        assert made.made == 1


@pytest.mark.usefixtures("fast")
async def test_the_client_over_the_limit_is_told_to_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_CLIENTS", 1)
    async with looking() as (made, session, _):
        async with session.get("/stream") as first:
            await Reader(first).event("fleet")
            async with session.get("/stream") as second:
                assert second.status == 503
                assert second.headers["Retry-After"] == "60"
        await until(lambda: made.stream.clients == 0)
        async with session.get("/stream") as third:
            assert third.status == 200


@pytest.mark.usefixtures("fast")
async def test_a_client_that_takes_nothing_is_dropped_and_another_goes_on() -> None:
    async with looking() as (made, session, port):
        made.text = "x" * (8 << 20)  # more than the socket's buffers
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(b"GET /stream HTTP/1.1\r\nHost: hub\r\n\r\n")
            await until(lambda: made.stream.clients == 1)
            await until(lambda: made.stream.clients == 0)
            made.change("small")
            async with session.get("/stream") as response:
                assert (await Reader(response).event("fleet"))["text"] == "small"


async def test_a_stream_that_nothing_can_be_told_ends_and_the_next_one_begins_anew() -> None:
    async with looking() as (made, session, _):
        made.fail = Transient("journal.db", "disk I/O error")
        async with session.get("/stream") as response:
            assert b"event:" not in await response.read()
        made.fail = None
        async with session.get("/stream") as response:
            assert (await Reader(response).event("fleet"))["text"] == "first"


async def test_nobody_asks_for_the_head_of_a_stream_without_end(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, session), session.head("/api/v1/stream") as response:
        assert response.status == 405


async def test_a_page_that_looks_on_does_not_delay_the_end_of_the_hub() -> None:
    async with looking() as (made, session, _), session.get("/stream") as response:
        await Reader(response).event("fleet")
        made.stream.close()
        while await response.content.readline():
            pass
        assert made.stream.clients == 0


# --- the snapshot -------------------------------------------------------------------------------------------------


def a_row(name: str, health: str, *, connection: str = "connected", problems: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "name": name,
        "labels": {},
        "in_fleet_repo": True,
        "health": health,
        "connection": connection,
        "last_seen": "2026-01-01T00:00:00Z",
        "decided": {"seq": 2, "commit": "d"},
        "applied": {"seq": 1, "commit": "a"},
        "bundles": 1,
        "drift_total": 0,
        "paused": None,
        "cordoned": None,
        "problems": list(problems),
    }


@pytest.mark.parametrize(
    ("health", "connection", "expected"),
    [
        pytest.param("Current", "connected", "Current", id="heard and connected"),
        pytest.param("Current", "away", "Silent", id="its stream is gone, the last word was good"),
        pytest.param("Failed", "away", "Failed", id="its stream is gone, the last word was bad"),
        pytest.param("Unknown", "connected", "Unknown", id="connected and says nothing"),
    ],
)
def test_a_silent_cluster_never_looks_green(health: str, connection: str, expected: str) -> None:
    assert snapshot.shown(a_row("eu-1", health, connection=connection)) == expected


def test_problems_come_first_and_counts_are_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_CLUSTERS", 4)
    rows = [
        a_row("a", "Current"),
        a_row("b", "InProgress"),
        a_row("c", "Unknown"),
        a_row("d", "Current", connection="away"),
        a_row("e", "Current", problems=("disk full",)),
        a_row("f", "Failed"),
    ]
    found = snapshot.clusters(rows)
    assert [row["name"] for row in found["rows"]] == ["f", "e", "d", "c"]
    assert (found["total"], found["connected"]) == (6, 5)
    assert found["health"] == {"Failed": 1, "Current": 2, "Silent": 1, "Unknown": 1, "InProgress": 1}


def test_a_rollout_names_who_is_asked_about_and_counts_the_others() -> None:
    names = [ClusterName(f"c-{number:02}") for number in range(30)]
    members = {name: RolloutMember(phase=MemberPhase.MOVING) for name in names}
    members[names[29]] = RolloutMember(phase=MemberPhase.FAILED, reason="r" * 1000)
    members[names[0]] = RolloutMember(phase=MemberPhase.PROVEN)
    members[names[1]] = RolloutMember(suspended=True, reason="suspended: ann")
    record = Rollout(
        id=RolloutId("shop-1"),
        number=1,
        bundles=(BundleName("shop"),),
        revision=Oid("a" * 40),
        made_at=1.0,
        targets={name: Target(before={}, after={}) for name in names},
        waves=(
            Wave(
                name="all",
                clusters=tuple(names),
                max_concurrent=30,
                soak_s=0,
                min_proof=1,
                offline_budget=0,
                failure_budget=0,
            ),
        ),
        deadline_s=60,
        action="rollback",
        offline_after_s=60,
    )
    found = snapshot.rollout(State(rollout=record, phase=Phase.RUNNING, members=members))
    assert (found["members"][0]["cluster"], len(found["members"][0]["reason"])) == ("c-29", snapshot.MAX_TEXT)
    assert (len(found["members"]), found["members_total"]) == (snapshot.MAX_MEMBERS, 29)
    assert found["members"][1] == {"cluster": "c-01", "phase": "suspended", "reason": "suspended: ann"}
    assert found["waves"][0]["phases"] == {"proven": 1, "suspended": 1, "moving": 27, "failed": 1}


def test_drift_is_newest_first_with_what_was_left_out_counted() -> None:
    fields = [f".spec.f{number}" for number in range(20)]
    rows = [
        EventRow(id=1, time_s=1.0, kind="drift", text="", data={"object": "old"}),
        EventRow(id=2, time_s=2.0, kind="drift", text="", data={"object": "new", "fields": fields}),
    ]
    found = snapshot.drift(rows)
    assert [row["object"] for row in found] == ["new", "old"]
    assert (len(found[0]["fields"]), found[0]["fields_total"]) == (snapshot.MAX_FIELDS, 20)


def test_drift_says_who_contests_it_and_when_it_was_seen_first() -> None:
    data = {"object": "a", "contested": True, "first_seen": "2026-01-01T00:00:00Z", "action": "paused"}
    rows = [EventRow(id=1, time_s=1.0, kind="drift", text="", data=told) for told in ({}, data)]
    told, plain = snapshot.drift(rows)
    assert (told["contested"], told["first_seen"], told["action"]) == (True, "2026-01-01T00:00:00Z", "paused")
    assert (plain["contested"], plain["first_seen"]) == (False, "")


def test_what_people_asked_is_bounded_with_its_number_told() -> None:
    rows = [{"kind": "suspend", "cluster": f"c-{n}", "bundle": "shop", "why": "x" * 1000} for n in range(30)]
    found = snapshot.directives(rows)
    assert (len(found["rows"]), found["total"]) == (snapshot.MAX_DIRECTIVES, 30)
    assert len(found["rows"][0]["why"]) == snapshot.MAX_TEXT


def test_a_problem_of_the_fleet_repo_and_one_of_the_journal_mean_different_things() -> None:
    assert snapshot.problems(upstream="", loop="", publish="") == []
    disk, repo = snapshot.problems(upstream="fleet repo: no route to host", loop="journal.db: disk is full", publish="")
    assert (disk["what"], "nothing can be decided" in disk["remedy"]) == ("journal.db: disk is full", True)
    assert (repo["what"], "no commit can be read" in repo["remedy"]) == ("fleet repo: no route to host", True)


def test_the_passing_of_time_alone_is_no_change() -> None:
    first = {
        "time": "1",
        "upstream": {"url": "u", "synced_at": "1"},
        "clusters": snapshot.clusters([a_row("a", "Current")]),
    }
    later_row = {**a_row("a", "Current"), "last_seen": "2026-01-01T00:01:00Z"}
    later = {"time": "2", "upstream": {"url": "u", "synced_at": "2"}, "clusters": snapshot.clusters([later_row])}
    worse = {**later, "clusters": snapshot.clusters([{**later_row, "health": "Failed"}])}
    assert snapshot.steady(first) == snapshot.steady(later)
    assert snapshot.steady(first) != snapshot.steady(worse)
