"""The hub's end of the stream, with the real agent's end on a real socket."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from nacl.signing import SigningKey

from agent.stream.hub_client import HubClient
from agent.stream.identity import Identity
from agent.stream.report import Reporter
from hub.agents import sessions
from hub.agents.admission import HandshakeLimit
from hub.agents.keys import HubKeys
from hub.agents.session import Base, place
from hub.agents.sessions import Sessions
from proto import identity, wire
from proto.errors import InvalidInput, Refused, Transient
from proto.identity import JoinToken
from proto.messages import (
    Answer,
    AnyMessage,
    BundleReport,
    Challenge,
    Denied,
    Directives,
    DriftDetail,
    DriftQuery,
    FieldValue,
    Health,
    Hello,
    Message,
    Report,
    ReportAck,
    ReportRequest,
    Token,
    WakeUp,
    Welcome,
)

NOW = 1_800_000_000.0


@dataclass(frozen=True, kw_only=True)
class Record:
    cluster: str
    mac_key: bytes
    expires_at: float = NOW + 3600
    used_at: float | None = None


class MemoryIdentities:
    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.keys: dict[str, str] = {}

    def join_record(self, join_id: str) -> Record | None:
        return self.records.get(join_id)

    def enroll(self, join_id: str, cluster: str, public_key: str, now: float) -> None:
        if self.records[join_id].used_at is not None:
            raise Refused(f"join token {join_id}", "has been used")
        self.records[join_id] = replace(self.records[join_id], used_at=now)
        self.keys[cluster] = public_key

    def public_key(self, cluster: str) -> str | None:
        return self.keys.get(cluster)


@dataclass(kw_only=True)
class Hub:
    """A hub on a socket, and all that it saw."""

    url: str
    keys: HubKeys
    identities: MemoryIdentities
    sessions: Sessions
    members: set[str]
    slices: dict[str, tuple[int, str]]
    directives: dict[str, Directives]
    log: list[str]
    reports: list[Report]
    fail_next: list[Exception] = field(default_factory=list)
    changed: list[anyio.Event] = field(default_factory=lambda: [anyio.Event()])

    def token(self, cluster: str = "eu-1", join_id: str = "j1") -> JoinToken:
        token, mac_key = self.keys.join_token(cluster, join_id)
        self.identities.records[join_id] = Record(cluster=cluster, mac_key=mac_key)
        return token

    def note(self, line: str) -> None:
        self.log.append(line)
        event, self.changed[0] = self.changed[0], anyio.Event()
        event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not condition():
                await self.changed[0].wait()


@asynccontextmanager
async def hub_on(
    folder: Path,
    *,
    limit: HandshakeLimit | None = None,
    token_ttl_s: float = 300.0,
    handshake_s: float = 10.0,
    answer_s: float = 10.0,
) -> AsyncIterator[Hub]:
    identities, members, slices = MemoryIdentities(), {"eu-1", "eu-2"}, {"eu-1": (7, "c" * 40)}
    directives: dict[str, Directives] = {}
    reports: list[Report] = []

    async def on_report(cluster: str, report: Report) -> None:
        if hub.fail_next:
            raise hub.fail_next.pop()
        reports.append(report)
        hub.note(f"report {cluster} {report.number}{' full' if report.full else ''}")

    made = Sessions(
        keys := HubKeys.load_or_create(folder / "hub"),
        identities,
        slice_of=lambda cluster: slices.get(cluster, (0, "")),
        directives_of=lambda cluster: directives.get(cluster, Directives()),
        is_member=members.__contains__,
        on_report=on_report,
        on_connect=lambda cluster: hub.note(f"connect {cluster}"),
        on_disconnect=lambda cluster: hub.note(f"disconnect {cluster}"),
        on_denied=lambda cluster, cause: hub.note(f"denied {cluster}: {cause}"),
        clock=lambda: NOW,
        token_ttl_s=token_ttl_s,
        handshake_s=handshake_s,
        answer_s=answer_s,
        limit=limit,
    )
    app = web.Application()
    app.router.add_get(sessions.PATH, made.handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hub = Hub(
        url=f"http://127.0.0.1:{runner.addresses[0][1]}",
        keys=keys,
        identities=identities,
        sessions=made,
        members=members,
        slices=slices,
        directives=directives,
        log=[],
        reports=reports,
    )
    try:
        yield hub
    finally:
        made.stop()
        await runner.cleanup()


@pytest.fixture(name="hub")
async def hub_fixture(tmp_path: Path) -> AsyncIterator[Hub]:
    async with hub_on(tmp_path) as running:
        yield running


class Agent:
    """The real client with a real reporter; notes every wake-up and every delay it slept."""

    def __init__(self, hub: Hub, folder: Path, *, token: JoinToken | None, cluster: str = "eu-1") -> None:
        self.hub = hub
        self.wakes: list[WakeUp] = []
        self.slept: list[float] = []
        self.reporter = Reporter(folder, boot_id=folder.name, agent_version="1", min_interval_s=0.0)
        self.identity = Identity.load_or_create(folder, cluster, join_token=token)
        self.client = HubClient(
            hub.url,
            self.identity,
            reporter=self.reporter,
            on_wake=self._woken,
            delays=lambda: iter([0.01] * 1000),
            sleep=self._sleep,
        )

    def _woken(self, wake: WakeUp) -> None:
        self.wakes.append(wake)
        self.hub.note(f"woken {wake.seq}")

    async def _sleep(self, delay: float) -> None:
        self.slept.append(delay)
        self.hub.note(f"agent sleeps: {self.client.problem}")
        if len(self.slept) > 3:
            await anyio.sleep_forever()


class Raw:
    """An agent made by hand, that can say anything."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, hub: Hub, key: SigningKey) -> None:
        self.ws = ws
        self.hub = hub
        self.key = key
        self.public_key = identity.b64(bytes(key.verify_key))

    async def send(self, message: Message) -> None:
        await self.ws.send_bytes(wire.encode(message))

    async def receive(self) -> AnyMessage:
        return wire.decode(await self.ws.receive_bytes(timeout=20))

    def hello(self, **changes: Any) -> Hello:
        said = {"cluster": "eu-1", "public_key": self.public_key, "nonce": identity.new_nonce()}
        return Hello(**{**said, "boot_id": "b", "agent_version": "1", **changes})

    async def shake(self, token: JoinToken | None = None, *, secret: str = "", **changes: Any) -> AnyMessage:
        hello = self.hello(**({"join_id": token.join_id} if token else {}), **changes)
        await self.send(hello)
        challenge = await self.receive()
        if not isinstance(challenge, Challenge):
            return challenge
        transcript = identity.agent_transcript(
            cluster=hello.cluster,
            hub_key=challenge.hub_public_key,
            agent_nonce=hello.nonce,
            hub_nonce=challenge.nonce,
        )
        mac = ""
        if token is not None:
            mac_key = identity.mac_key(secret) if secret else token.mac_key
            mac = identity.join_mac(mac_key, agent_key=self.public_key, transcript=transcript)
        await self.send(Answer(signature=identity.sign(self.key, transcript), join_mac=mac))
        return await self.receive()

    async def told(self, number: int, *, full: bool = False, boot_id: str = "b") -> AnyMessage:
        await self.send(Report(number=number, boot_id=boot_id, seq=0, commit="", full=full))
        return await self.receive()


RawAgent = Callable[..., Awaitable[Raw]]


@asynccontextmanager
async def raw_agents(hub: Hub) -> AsyncIterator[RawAgent]:
    kept: list[aiohttp.ClientWebSocketResponse] = []
    async with aiohttp.ClientSession() as http:

        async def connect(key: bytes = b"a" * 32) -> Raw:
            kept.append(await http.ws_connect(hub.url + sessions.PATH, compress=0, autoclose=False))
            return Raw(kept[-1], hub, SigningKey(key))

        try:
            yield connect
        finally:
            for ws in kept:
                await ws.close()


@pytest.fixture
async def raw(hub: Hub) -> AsyncIterator[RawAgent]:
    async with raw_agents(hub) as connect:
        yield connect


# --- the whole line, with the real agent --------------------------------------------------------------------------


async def test_agent_joins_reports_and_is_woken(hub: Hub, tmp_path: Path) -> None:
    agent = Agent(hub, tmp_path / "a", token=hub.token())
    agent.reporter.set_slice(6, "b" * 40)
    async with anyio.create_task_group() as group:
        await group.start(agent.client.run)
        await hub.until(lambda: "report eu-1 1 full" in hub.log)

        assert agent.wakes == [WakeUp(seq=7, commit="c" * 40)]
        assert hub.keys.check_token(agent.client.token, now_s=NOW) == "eu-1"
        assert hub.sessions.connected() == {"eu-1": NOW}
        assert agent.client.problem == ""
        assert (hub.reports[0].seq, hub.reports[0].commit) == (6, "b" * 40)

        agent.reporter.set_bundle("shop", BundleReport(subtree="t", health=Health.CURRENT, converged=True))
        await hub.until(lambda: "report eu-1 2" in hub.log)
        assert hub.reports[1].bundles.keys() == {"shop"}

        hub.sessions.wake("eu-1", WakeUp(seq=8, commit="d" * 40))
        await hub.until(lambda: "woken 8" in hub.log)
        hub.sessions.request_full("eu-1", "the hub was restarted")
        await hub.until(lambda: "report eu-1 3 full" in hub.log)
        group.cancel_scope.cancel()
    await hub.until(lambda: "disconnect eu-1" in hub.log)
    assert hub.sessions.connected() == {}
    assert hub.sessions.denied == {}


async def test_agent_reconnects_with_its_pinned_hub_and_no_token(hub: Hub, tmp_path: Path) -> None:
    for token in (hub.token(), None):
        hub.log.clear()
        agent = Agent(hub, tmp_path / "a", token=token)
        async with anyio.create_task_group() as group:
            group.start_soon(agent.client.run)
            await hub.until(lambda: "report eu-1 1 full" in hub.log)
            group.cancel_scope.cancel()
        await hub.until(lambda: "disconnect eu-1" in hub.log)


async def test_agent_whose_first_welcome_got_lost_joins_with_the_same_token(hub: Hub, tmp_path: Path) -> None:
    token = hub.token()
    lost = Agent(hub, tmp_path / "a", token=token)
    hub.identities.enroll("j1", "eu-1", lost.identity.public_key, NOW)

    again = Agent(hub, tmp_path / "a", token=token)
    async with anyio.create_task_group() as group:
        group.start_soon(again.client.run)
        await hub.until(lambda: "report eu-1 1 full" in hub.log)
        group.cancel_scope.cancel()
    assert hub.sessions.denied == {}


async def test_agent_outlives_a_hub_that_stops(tmp_path: Path) -> None:
    async with hub_on(tmp_path) as hub, anyio.create_task_group() as group:
        agent = Agent(hub, tmp_path / "a", token=hub.token())
        group.start_soon(agent.client.run)
        await hub.until(lambda: "report eu-1 1 full" in hub.log)
        hub.sessions.stop()
        await hub.until(lambda: hub.log.count("report eu-1 2 full") == 1)
        assert agent.slept == [1.0]
        group.cancel_scope.cancel()


async def test_agent_that_a_person_has_to_help_tries_slowly_and_says_why(hub: Hub, tmp_path: Path) -> None:
    hub.token()
    forged = replace(hub.token(), secret="x" * 43)
    agent = Agent(hub, tmp_path / "a", token=forged)
    async with anyio.create_task_group() as group:
        group.start_soon(agent.client.run)
        await hub.until(lambda: len(agent.slept) == 1)
        assert agent.slept == [300.0]
        assert "has another secret" in agent.client.problem
        assert "flotilla join-token eu-1" in agent.client.problem
        group.cancel_scope.cancel()
    assert hub.identities.keys == {}


# --- who may connect ----------------------------------------------------------------------------------------------


async def test_a_used_token_lets_no_other_key_in(hub: Hub, raw: RawAgent) -> None:
    token = hub.token()
    assert isinstance(await (await raw(b"a" * 32)).shake(token), Welcome)

    denied = await (await raw(b"b" * 32)).shake(token)

    assert isinstance(denied, Denied)
    assert denied.retry_after_s is None
    assert hub.sessions.denied == {"token-used": 1}
    assert "eu-1" in hub.sessions.connected(), "the session of the right key goes on"


async def test_a_new_token_replaces_the_key_of_a_cluster_that_was_built_anew(hub: Hub, raw: RawAgent) -> None:
    await (await raw(b"a" * 32)).shake(hub.token())

    assert isinstance(await (await raw(b"b" * 32)).shake(hub.token(join_id="j2")), Welcome)
    old = await (await raw(b"a" * 32)).shake()

    assert isinstance(old, Denied)
    assert hub.sessions.denied["key"] == 1


@pytest.mark.parametrize(
    ("record", "reason", "said"),
    [
        pytest.param(None, "token-unknown", "is not known to this hub", id="unknown"),
        pytest.param({"cluster": "eu-2"}, "token-cluster", "was made for another cluster", id="other cluster"),
        pytest.param({"expires_at": NOW}, "token-expired", "has expired", id="expired"),
        pytest.param({"used_at": NOW - 1}, "token-used", "has been used", id="used"),
        pytest.param({"mac_key": b"x" * 32}, "token-mac", "has another secret", id="wrong secret"),
    ],
)
async def test_a_bad_join_token_is_denied_with_the_remedy(
    hub: Hub, raw: RawAgent, record: dict[str, object] | None, reason: str, said: str
) -> None:
    token = hub.token()
    good = hub.identities.records.pop("j1")
    if record is not None:
        hub.identities.records["j1"] = replace(good, **record)  # type: ignore[arg-type]

    denied = await (await raw()).shake(token)

    assert isinstance(denied, Denied)
    assert "eu-1" in denied.cause
    assert said in denied.cause
    assert "flotilla join-token eu-1" in denied.remedy
    assert denied.retry_after_s is None
    await hub.until(lambda: any(line.startswith("denied eu-1: ") and said in line for line in hub.log))
    assert hub.sessions.denied == {reason: 1}
    assert hub.identities.keys == {}


async def test_enroll_that_lost_a_race_is_denied(hub: Hub, raw: RawAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    token = hub.token()

    def used_meanwhile(*_: object) -> None:
        raise Refused("join token j1", "has been used")

    monkeypatch.setattr(hub.identities, "enroll", used_meanwhile)
    assert isinstance(await (await raw()).shake(token), Denied)
    assert hub.sessions.denied == {"token-used": 1}


async def test_a_cluster_that_never_joined_and_a_wrong_key_are_denied(hub: Hub, raw: RawAgent) -> None:
    hub.identities.keys["eu-2"] = "another"

    first = await (await raw()).shake()
    second = await (await raw()).shake(cluster="eu-2")

    assert isinstance(first, Denied)
    assert isinstance(second, Denied)
    assert "has not joined" in first.cause
    assert "is not the one that joined" in second.cause
    assert hub.sessions.denied == {"unknown": 1, "key": 1}


async def test_a_cluster_outside_the_fleet_waits_and_keeps_its_token(hub: Hub, raw: RawAgent) -> None:
    token = hub.token()
    hub.members.clear()

    denied = await (await raw()).shake(token)

    assert isinstance(denied, Denied)
    assert "is not in the fleet repo" in denied.cause
    assert denied.retry_after_s is not None
    hub.members.add("eu-1")
    assert isinstance(await (await raw()).shake(token), Welcome)


async def test_a_report_from_a_cluster_that_left_the_fleet_is_denied(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    await agent.shake(hub.token())
    hub.members.clear()

    denied = await agent.told(1, full=True)

    assert isinstance(denied, Denied)
    assert "add a Cluster named eu-1" in denied.remedy
    assert hub.reports == []
    await hub.until(lambda: "disconnect eu-1" in hub.log)
    assert hub.sessions.denied == {"not-member": 1}


async def test_a_signature_of_another_key_or_for_another_nonce_is_denied(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    hub.identities.keys["eu-1"] = agent.public_key
    await agent.send(agent.hello())
    assert isinstance(await agent.receive(), Challenge)
    replayed = identity.agent_transcript(
        cluster="eu-1", hub_key=hub.keys.public_key, agent_nonce="old", hub_nonce="old"
    )
    await agent.send(Answer(signature=identity.sign(agent.key, replayed)))

    assert isinstance(await agent.receive(), Denied)
    assert hub.sessions.denied == {"signature": 1}


async def test_the_hub_proves_itself_for_this_agent_and_this_nonce(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    hello = agent.hello()
    await agent.send(hello)
    challenge = await agent.receive()

    assert isinstance(challenge, Challenge)
    transcript = identity.hub_transcript(
        cluster="eu-1", agent_key=agent.public_key, agent_nonce=hello.nonce, hub_nonce=challenge.nonce
    )
    identity.verify(hub.keys.public_key, transcript, challenge.signature, who="hub")


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([b""], id="empty"),
        pytest.param([b"\x00\xff garbage"], id="garbage"),
        pytest.param([b"z" + b"\x00" * 50], id="not a zlib stream"),
        pytest.param([b'{"v":99,"type":"hello"}'], id="newer version"),
        pytest.param([wire.encode(ReportAck(number=1))], id="another message"),
        pytest.param(
            [wire.encode(Hello(cluster="../x", public_key="A" * 43, nonce="A" * 43, boot_id="", agent_version=""))],
            id="impossible cluster name",
        ),
        pytest.param(
            [wire.encode(Hello(cluster="eu-1", public_key="AAAA", nonce="A" * 43, boot_id="", agent_version=""))],
            id="short key",
        ),
        pytest.param(
            [
                wire.encode(Hello(cluster="eu-1", public_key="A" * 43, nonce="A" * 43, boot_id="", agent_version="")),
                wire.encode(Report(number=1, boot_id="", seq=0, commit="")),
            ],
            id="a report before the answer",
        ),
    ],
)
async def test_garbage_ends_the_session_with_a_reason_and_nothing_else(
    hub: Hub, raw: RawAgent, frames: list[bytes]
) -> None:
    agent = await raw()
    for frame in frames:
        await agent.ws.send_bytes(frame)

    said = await agent.receive()
    while isinstance(said, Challenge):
        said = await agent.receive()

    assert isinstance(said, Denied)
    assert hub.sessions.denied == {"protocol": 1}
    assert isinstance(await (await raw()).shake(hub.token()), Welcome)


async def test_a_text_frame_and_a_huge_frame_end_the_session(hub: Hub, raw: RawAgent) -> None:
    text, huge = await raw(), await raw()
    await text.ws.send_str("{}")
    assert isinstance(await text.receive(), Denied)
    with suppress(ConnectionError):  # the hub hangs up while it is still being sent
        await huge.ws.send_bytes(b"x" * (wire.MAX_MESSAGE_BYTES + 1))

    await hub.until(lambda: hub.sessions.denied == {"protocol": 2})


async def test_a_peer_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async with hub_on(tmp_path, handshake_s=0.05) as hub, raw_agents(hub) as raw:
        said = await (await raw()).receive()

        assert isinstance(said, Denied)
        assert said.retry_after_s is not None
        assert hub.sessions.denied == {"timeout": 1}


async def test_an_agent_that_hammers_is_told_to_wait_and_others_are_not(tmp_path: Path) -> None:
    limit = HandshakeLimit(burst=2, interval_s=1000)
    async with hub_on(tmp_path, limit=limit) as hub, raw_agents(hub) as raw:
        said = [await (await raw()).shake() for _ in range(3)]
        other = await (await raw()).shake(cluster="eu-2")

    causes = [message.cause for message in (*said, other) if isinstance(message, Denied)]
    assert [("connects too often" in cause) for cause in causes] == [False, False, True, False]


async def test_more_handshakes_than_the_hub_holds_are_put_off(
    hub: Hub, raw: RawAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_PENDING", 0)
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await raw()
    assert error.value.status == 503


# --- reports ------------------------------------------------------------------------------------------------------


async def test_reports_are_acknowledged_after_they_are_safe_and_in_order(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    await agent.shake(hub.token())

    assert await agent.told(1, full=True) == ReportAck(number=1)
    assert await agent.told(2) == ReportAck(number=2)
    assert await agent.told(2) == ReportAck(number=2), "told twice"
    assert isinstance(await agent.told(4), ReportRequest)
    await agent.send(Report(number=5, boot_id="b", seq=0, commit=""))
    assert await agent.told(6, full=True) == ReportAck(number=6), "one request for one gap"
    assert await agent.told(7) == ReportAck(number=7), "and no other after it"
    assert isinstance(await agent.told(8, boot_id="other"), ReportRequest)

    assert [report.number for report in hub.reports] == [1, 2, 6, 7]


@pytest.mark.parametrize(
    ("error", "retry_after_s"),
    [
        pytest.param(Transient("database", "is busy", retry_after_s=3.0), 3.0, id="known"),
        pytest.param(RuntimeError("a bug"), 10.0, id="bug"),
        pytest.param(TimeoutError(), 10.0, id="timeout"),
    ],
)
async def test_a_report_that_the_hub_cannot_keep_is_not_acknowledged(
    hub: Hub, raw: RawAgent, error: Exception, retry_after_s: float
) -> None:
    agent = await raw()
    await agent.shake(hub.token())
    hub.fail_next.append(error)

    said = await agent.told(1, full=True)

    assert isinstance(said, Denied)
    assert said.retry_after_s == retry_after_s
    assert "bug" not in said.cause
    again = await raw()
    await again.shake()
    assert await again.told(1, full=True) == ReportAck(number=1)


def report(number: int, *, boot_id: str = "b", full: bool = False) -> Report:
    return Report(number=number, boot_id=boot_id, seq=0, commit="", full=full)


@pytest.mark.parametrize(
    ("base", "told", "expected"),
    [
        pytest.param(None, report(1), "gap", id="delta without base"),
        pytest.param(None, report(9, full=True), "next", id="full without base"),
        pytest.param(Base("b", 3), report(4), "next", id="the next"),
        pytest.param(Base("b", 3), report(3), "known", id="again"),
        pytest.param(Base("b", 3), report(3, full=True), "known", id="full again"),
        pytest.param(Base("b", 3), report(2), "known", id="older"),
        pytest.param(Base("b", 3), report(2, full=True), "next", id="full with an older number"),
        pytest.param(Base("b", 3), report(5), "gap", id="one missing"),
        pytest.param(Base("b", 3), report(4, boot_id="c"), "gap", id="another boot"),
        pytest.param(Base("b", 3), report(1, boot_id="c", full=True), "next", id="full of another boot"),
    ],
)
def test_where_a_report_belongs(base: Base | None, told: Report, expected: str) -> None:
    assert place(base, told) == expected


# --- sessions -----------------------------------------------------------------------------------------------------


async def test_a_second_session_of_the_same_key_replaces_the_first(hub: Hub, raw: RawAgent) -> None:
    first, second = await raw(), await raw()
    await first.shake(hub.token())
    assert isinstance(await second.shake(), Welcome)

    denied = await first.receive()
    assert isinstance(denied, Denied)
    assert "was replaced" in denied.cause
    assert denied.retry_after_s is not None
    assert await second.told(1, full=True) == ReportAck(number=1)
    assert "disconnect eu-1" not in hub.log, "the cluster was connected all the time"
    assert hub.sessions.connected().keys() == {"eu-1"}


async def test_only_the_newest_wake_up_waits(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    await agent.shake(hub.token())
    for seq in (8, 10, 9):
        hub.sessions.wake("eu-1", WakeUp(seq=seq, commit=f"{seq:040}"))
    hub.sessions.wake("eu-2", WakeUp(seq=1, commit="0" * 40))
    hub.sessions.request_full("eu-2", "nobody is there")

    assert await agent.receive() == WakeUp(seq=10, commit=f"{10:040}")
    assert await agent.told(1, full=True) == ReportAck(number=1)


async def test_a_fresh_token_comes_at_half_life(tmp_path: Path) -> None:
    async with hub_on(tmp_path, token_ttl_s=0.1) as hub, raw_agents(hub) as raw:
        agent = await raw()
        await agent.shake(hub.token())
        for _ in range(2):
            token = await agent.receive()
            assert isinstance(token, Token)
            assert hub.keys.check_token(token.token, now_s=NOW - 1) == "eu-1"


NEW = ("directives", "drift-query")
"""What an agent of this build understands beyond the first messages."""
SUSPENDED = Directives(suspended={"shop": "ann: a migration runs"})


async def test_directives_come_after_the_welcome_and_at_each_change_always_whole(hub: Hub, raw: RawAgent) -> None:
    hub.directives["eu-1"] = SUSPENDED
    agent = await raw()
    assert isinstance(await agent.shake(hub.token(), understands=NEW), Welcome)
    assert await agent.receive() == SUSPENDED
    hub.sessions.direct("eu-1", Directives(sync={"*": 1}))
    hub.sessions.direct("eu-1", Directives(sync={"*": 2}))
    assert await agent.receive() == Directives(sync={"*": 2}), "only the newest waits"
    assert hub.sessions.deaf("eu-1") == ""


async def test_an_agent_is_told_that_nothing_is_asked_of_it_any_more(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    await agent.shake(hub.token(), understands=NEW)
    assert await agent.receive() == Directives()


async def test_an_older_agent_is_never_sent_what_it_does_not_understand(hub: Hub, raw: RawAgent) -> None:
    hub.directives["eu-1"] = SUSPENDED
    agent = await raw()
    assert isinstance(await agent.shake(hub.token()), Welcome)
    hub.sessions.direct("eu-1", SUSPENDED)
    assert isinstance(await agent.told(1, full=True), ReportAck), "the next message is the answer to ours"
    assert "too old" in hub.sessions.deaf("eu-1")
    with pytest.raises(InvalidInput, match="agent of cluster eu-1: is too old"):
        await hub.sessions.drift_detail("eu-1", "d1")


async def test_a_question_is_answered_by_its_own_answer_while_reports_go_on(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    await agent.shake(hub.token(), understands=NEW)
    assert await agent.receive() == Directives()
    value = FieldValue(path=".spec.replicas", wanted="3", live="5")
    async with anyio.create_task_group() as tasks:
        answers: list[DriftDetail] = []

        async def ask(drift: str) -> None:
            answers.append(await hub.sessions.drift_detail("eu-1", drift))

        for drift in ("d1", "d2"):
            tasks.start_soon(ask, drift)
        queries = {}
        for _ in range(2):
            query = await agent.receive()
            assert isinstance(query, DriftQuery)
            queries[query.id] = query.query
        await agent.send(DriftDetail(query="of nobody", id="d1"))
        await agent.send(DriftDetail(query=queries["d2"], id="d2", problem="too long ago"))
        assert isinstance(await agent.told(1, full=True), ReportAck)
        await agent.send(DriftDetail(query=queries["d1"], id="d1", values=(value,)))
    assert {answer.id: (answer.values, answer.problem) for answer in answers} == {
        "d1": ((value,), ""),
        "d2": ((), "too long ago"),
    }


async def test_a_question_to_an_agent_that_is_away_silent_or_goes_away_fails_with_the_reason(tmp_path: Path) -> None:
    async with hub_on(tmp_path, answer_s=0.1) as hub, raw_agents(hub) as raw:
        with pytest.raises(Transient, match="agent of cluster eu-1: is not connected"):
            await hub.sessions.drift_detail("eu-1", "d1")
        agent = await raw()
        await agent.shake(hub.token(), understands=NEW)
        with pytest.raises(Transient, match=r"did not answer within 0\.1 s"):
            await hub.sessions.drift_detail("eu-1", "d1")
    async with hub_on(tmp_path / "patient") as hub, raw_agents(hub) as raw:
        agent = await raw()
        await agent.shake(hub.token(), understands=NEW)
        assert await agent.receive() == Directives()

        async def ask() -> None:
            with pytest.raises(Transient, match="went away"):
                await hub.sessions.drift_detail("eu-1", "d1")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            assert isinstance(await agent.receive(), DriftQuery)
            await agent.ws.close()


async def test_an_agent_is_asked_only_so_much_at_a_time(hub: Hub, raw: RawAgent) -> None:
    agent = await raw()
    await agent.shake(hub.token(), understands=NEW)
    async with anyio.create_task_group() as tasks:
        for number in range(sessions.MAX_QUESTIONS):
            tasks.start_soon(hub.sessions.drift_detail, "eu-1", f"d{number}")
        assert await agent.receive() == Directives()
        assert isinstance(await agent.receive(), DriftQuery)
        with pytest.raises(Transient, match="is asked 16 questions already"):
            await hub.sessions.drift_detail("eu-1", "one more")
        tasks.cancel_scope.cancel()


def test_the_handshake_limit_is_a_bounded_bucket() -> None:
    limit = HandshakeLimit(burst=2, interval_s=10.0, size=2)

    assert [limit.wait_s("a", "x", now=0.0) for _ in range(4)] == [0.0, 0.0, 10.0, 10.0]
    assert limit.wait_s("a", "x", now=10.0) == 0.0
    assert limit.wait_s("a", "x", now=10.0) == 10.0
    for number in range(50):
        limit.wait_s("b", str(number), now=10.0)
    remembered: OrderedDict[tuple[str, str], float] = limit._full_at
    assert len(remembered) == 2
