"""The agent's end of the stream against hubs that lie, break or say nothing. The true hub is in test_sessions."""

import itertools
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from nacl.signing import SigningKey

from agent.stream import hub_client
from agent.stream.hub_client import HubClient, reconnect_delays
from agent.stream.identity import Identity
from agent.stream.report import Reporter
from proto import identity, wire
from proto.errors import InvalidInput
from proto.identity import JoinToken
from proto.messages import (
    Answer,
    AnyMessage,
    Challenge,
    Denied,
    Directives,
    DriftDetail,
    DriftQuery,
    Hello,
    Message,
    Report,
    ReportAck,
    ReportRequest,
    Token,
    WakeUp,
    Welcome,
)

KEY = SigningKey(b"h" * 32)
OTHER = SigningKey(b"o" * 32)
WELCOME = Welcome(token="t1", token_ttl_s=300.0, heartbeat_s=30.0, seq=0, commit="")


def public(key: SigningKey) -> str:
    return identity.b64(bytes(key.verify_key))


class Peer:
    """A hub's end of one connection, in the test's hands."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws = ws

    async def send(self, message: Message) -> None:
        await self.ws.send_bytes(wire.encode(message))

    async def receive(self) -> AnyMessage:
        return wire.decode(await self.ws.receive_bytes())

    async def challenge(self, *, key: SigningKey = KEY, signed_by: SigningKey = KEY, nonce: str = "") -> Hello:
        """Takes the Hello and sends a Challenge; `nonce` makes the signature one over another agent's nonce."""
        hello = await self.receive()
        assert isinstance(hello, Hello)
        hub_nonce = identity.new_nonce()
        transcript = identity.hub_transcript(
            cluster=hello.cluster,
            agent_key=hello.public_key,
            agent_nonce=nonce or hello.nonce,
            hub_nonce=hub_nonce,
        )
        await self.send(
            Challenge(hub_public_key=public(key), nonce=hub_nonce, signature=identity.sign(signed_by, transcript))
        )
        return hello

    async def welcome(self, welcome: Welcome = WELCOME) -> Hello:
        hello = await self.challenge()
        assert isinstance(await self.receive(), Answer)
        await self.send(welcome)
        return hello


Act = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def hub_that(*acts: Act) -> AsyncIterator[str]:
    """A hub that does the first act at its first connection, and so on; the last one at all further ones."""
    waiting = list(acts)

    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, timeout=0.1)
        await ws.prepare(request)
        act = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        with suppress(ConnectionError, TypeError, RuntimeError):  # the agent hung up
            await act(Peer(ws))
        return ws

    app = web.Application()
    app.router.add_get(hub_client.PATH, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Agent:
    """The client; `slept` are the delays that it wanted to wait, `problems` why."""

    def __init__(self, url: str, folder: Path, *, naps: int = 1, **options: Any) -> None:
        token = JoinToken(
            join_id="j1", cluster="eu-1", hub_key_hash=identity.key_hash(bytes(KEY.verify_key)), secret="s"
        )
        self.identity = Identity.load_or_create(folder, "eu-1", join_token=token)
        self.reporter = Reporter(folder, boot_id="b", agent_version="1", min_interval_s=0.0)
        self.wakes: list[WakeUp] = []
        self.slept: list[float] = []
        self.problems: list[str] = []
        self.done = anyio.Event()
        self._naps = naps
        self.client = HubClient(
            url,
            self.identity,
            reporter=self.reporter,
            on_wake=self.wakes.append,
            delays=lambda: itertools.count(1.0),
            sleep=self._sleep,
            **options,
        )

    async def _sleep(self, delay: float) -> None:
        self.slept.append(delay)
        self.problems.append(self.client.problem)
        if len(self.slept) >= self._naps:
            self.done.set()
            await anyio.sleep_forever()

    async def until_it_sleeps(self) -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                await group.start(self.client.run)
                await self.done.wait()
                group.cancel_scope.cancel()


async def silent(peer: Peer) -> None:
    await peer.ws.receive()
    await anyio.sleep_forever()


async def wrong_key(peer: Peer) -> None:
    await peer.challenge(key=OTHER, signed_by=OTHER)


async def right_key_without_its_private_half(peer: Peer) -> None:
    await peer.challenge(key=KEY, signed_by=OTHER)


async def replayed_challenge(peer: Peer) -> None:
    await peer.challenge(nonce=identity.b64(b"x" * 32))


async def welcome_without_challenge(peer: Peer) -> None:
    await peer.receive()
    await peer.send(WELCOME)


async def garbage(peer: Peer) -> None:
    await peer.ws.send_bytes(b"\x00garbage")


async def text(peer: Peer) -> None:
    await peer.ws.send_str("hello")


async def huge(peer: Peer) -> None:
    await peer.ws.send_bytes(b"x" * (wire.MAX_MESSAGE_BYTES + 1))


async def bomb(peer: Peer) -> None:
    await peer.ws.send_bytes(b"z" + zlib.compress(b" " * (64 << 20)))


async def newer(peer: Peer) -> None:
    await peer.ws.send_bytes(b'{"v":2,"type":"challenge"}')


async def hang_up(peer: Peer) -> None:
    await peer.ws.close()


async def garbage_after_the_welcome(peer: Peer) -> None:
    await peer.welcome()
    await garbage(peer)


async def hello_after_the_welcome(peer: Peer) -> None:
    hello = await peer.welcome()
    await peer.send(hello)


@pytest.mark.parametrize(
    ("act", "delay", "said"),
    [
        pytest.param(wrong_key, 300.0, "not the key of the hub that made the join token", id="wrong key"),
        pytest.param(right_key_without_its_private_half, 300.0, "signature that does not match", id="stolen name"),
        pytest.param(replayed_challenge, 300.0, "signature that does not match", id="replayed challenge"),
        pytest.param(welcome_without_challenge, 1.0, "sent a Welcome where Challenge is due", id="no challenge"),
        pytest.param(garbage, 1.0, "is not valid", id="garbage"),
        pytest.param(text, 1.0, "is text, not binary", id="text"),
        pytest.param(huge, 1.0, "exceeds limit", id="huge frame"),
        pytest.param(bomb, 1.0, f"has more than {wire.MAX_MESSAGE_BYTES} bytes", id="zip bomb"),
        pytest.param(newer, 1.0, "upgrade the older of hub and agent", id="newer schema"),
        pytest.param(hang_up, 1.0, "ended the stream", id="hangs up"),
        pytest.param(garbage_after_the_welcome, 1.0, "is not valid", id="garbage later"),
        pytest.param(hello_after_the_welcome, 1.0, "sent a Hello in the middle", id="out of turn"),
    ],
)
async def test_a_hub_that_lies_or_breaks_is_left_and_tried_again(
    tmp_path: Path, act: Act, delay: float, said: str
) -> None:
    async with hub_that(act) as url:
        agent = Agent(url, tmp_path)
        await agent.until_it_sleeps()

    assert agent.slept == [delay]
    assert said in agent.problems[0]


@pytest.mark.parametrize("act", [wrong_key, right_key_without_its_private_half, replayed_challenge])
async def test_a_hub_that_is_not_ours_gets_no_answer_and_is_not_pinned(tmp_path: Path, act: Act) -> None:
    got: list[aiohttp.WSMsgType] = []

    async def then_listen(peer: Peer) -> None:
        await act(peer)
        got.append((await peer.ws.receive()).type)

    async with hub_that(then_listen) as url:
        agent = Agent(url, tmp_path)
        await agent.until_it_sleeps()

    assert got in ([], [aiohttp.WSMsgType.CLOSE])
    assert agent.identity.hub_public_key == ""


async def test_a_question_about_a_drift_is_answered(tmp_path: Path) -> None:
    said: list[AnyMessage] = []

    async def ask(peer: Peer) -> None:
        said.append(await peer.welcome())
        await peer.send(DriftQuery(query="q1", id="d1"))
        while not isinstance(said[-1], DriftDetail):
            said.append(await peer.receive())

    async with hub_that(ask) as url:
        agent = Agent(url, tmp_path, on_query=lambda query: DriftDetail(query=query.query, id=query.id, problem="gone"))
        await agent.until_it_sleeps()
    assert isinstance(said[0], Hello)
    assert said[0].understands == ("drift-query",)
    assert said[-1] == DriftDetail(query="q1", id="d1", problem="gone")


async def test_directives_are_asked_for_and_taken_in(tmp_path: Path) -> None:
    hellos: list[tuple[str, ...]] = []
    said = Directives(suspended={"shop": "ada: why"})

    async def direct(peer: Peer) -> None:
        hellos.append((await peer.welcome()).understands)
        await peer.send(said)
        await peer.receive()

    taken: list[Directives] = []
    async with hub_that(direct) as url:
        await Agent(url, tmp_path, on_directives=taken.append).until_it_sleeps()
    assert taken == [said]
    assert hellos == [("directives",)]


async def test_silence_ends_the_handshake(tmp_path: Path) -> None:
    async with hub_that(silent) as url:
        agent = Agent(url, tmp_path, handshake_s=0.05)
        await agent.until_it_sleeps()
    assert "did not answer" in agent.problems[0]


async def test_a_hub_that_answers_no_ping_is_gone(tmp_path: Path) -> None:
    async def dead(peer: Peer) -> None:
        await peer.welcome()
        await anyio.sleep_forever()  # nothing reads, so nothing answers pings

    async with hub_that(dead) as url:
        agent = Agent(url, tmp_path, ping_s=0.05)
        await agent.until_it_sleeps()
    assert "ended the stream" in agent.problems[0]


async def test_a_hub_that_never_acknowledges_is_stuck(tmp_path: Path) -> None:
    async def stuck(peer: Peer) -> None:
        await peer.welcome()
        while True:
            await peer.receive()

    async with hub_that(stuck) as url:
        agent = Agent(url, tmp_path, ack_s=0.05)
        await agent.until_it_sleeps()
    assert "did not acknowledge" in agent.problems[0]


async def test_a_hub_that_is_away_is_tried_with_growing_delays(tmp_path: Path) -> None:
    agent = Agent("http://127.0.0.1:9", tmp_path, naps=4)
    await agent.until_it_sleeps()
    assert agent.slept == [1.0, 2.0, 3.0, 4.0]
    assert "cannot be reached" in agent.problems[0]


async def test_delays_begin_anew_once_the_hub_acknowledged_something(tmp_path: Path) -> None:
    async def good(peer: Peer) -> None:
        await peer.welcome()
        report = await peer.receive()
        assert isinstance(report, Report)
        await peer.send(ReportAck(number=report.number))

    async def welcome_only(peer: Peer) -> None:
        await peer.welcome()

    async with hub_that(hang_up, welcome_only, good, hang_up) as url:
        agent = Agent(url, tmp_path, naps=4)
        await agent.until_it_sleeps()
    assert agent.slept == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("denied", "delay"),
    [
        pytest.param(Denied(cause="c", remedy="r"), 300.0, id="a person has to act"),
        pytest.param(Denied(cause="c", remedy="r", retry_after_s=17.0), 17.0, id="as long as the hub says"),
        pytest.param(Denied(cause="c", remedy="r", retry_after_s=-4.0), 1.0, id="not at once"),
        pytest.param(Denied(cause="c", remedy="r", retry_after_s=1e12), 300.0, id="not for ever"),
    ],
)
@pytest.mark.parametrize("when", ["at the hello", "after the welcome"])
async def test_a_denial_is_obeyed_and_its_remedy_shown(tmp_path: Path, denied: Denied, delay: float, when: str) -> None:
    async def deny(peer: Peer) -> None:
        if when == "at the hello":
            await peer.receive()
        else:
            await peer.welcome()
        await peer.send(denied)

    async with hub_that(deny) as url:
        agent = Agent(url, tmp_path)
        await agent.until_it_sleeps()
    assert agent.slept == [delay]
    assert agent.problems[0].endswith("c (r)")


async def test_what_the_hub_says_reaches_loop_reporter_and_git(tmp_path: Path) -> None:
    wake = WakeUp(seq=9, commit="9" * 40)
    numbers: list[tuple[int, bool]] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(Welcome(token="t1", token_ttl_s=300.0, heartbeat_s=30.0, seq=8, commit="8" * 40))
        for message in (None, Token(token="t2", token_ttl_s=300.0), ReportRequest(reason="gap"), wake):
            report = await peer.receive() if not isinstance(message, WakeUp) else None
            if isinstance(report, Report):
                numbers.append((report.number, report.full))
            if message is None:
                agent.reporter.set_problems(["one"])
                await peer.send(ReportAck(number=1))
            elif isinstance(message, Token):
                await peer.send(message)
                await peer.send(ReportRequest(reason="the hub was restarted"))
            elif isinstance(message, ReportRequest):
                await peer.send(ReportAck(number=3))
            else:
                await peer.send(message)

    async with hub_that(talk) as url:
        agent = Agent(url, tmp_path)
        await agent.until_it_sleeps()

    assert agent.wakes == [WakeUp(seq=8, commit="8" * 40), wake]
    assert agent.client.token == "t2"
    assert numbers == [(1, True), (2, False), (3, True)]
    assert agent.identity.hub_public_key == public(KEY)


async def test_a_token_that_has_ended_is_not_shown_to_git(tmp_path: Path) -> None:
    async def stale(peer: Peer) -> None:
        await peer.welcome(Welcome(token="t1", token_ttl_s=0.0, heartbeat_s=30.0, seq=0, commit=""))

    async with hub_that(stale) as url:
        agent = Agent(url, tmp_path)
        assert agent.client.token == ""
        await agent.until_it_sleeps()
    assert agent.client.token == ""
    assert agent.wakes == [], "there is no slice yet"


def test_reconnect_delays_grow_to_a_bound_and_are_spread() -> None:
    delays = list(itertools.islice(reconnect_delays(), 200))

    assert all(0 < delay <= hub_client.LONGEST_DELAY_S for delay in delays)
    assert delays[0] <= hub_client.FIRST_DELAY_S
    assert max(delays[100:]) - min(delays[100:]) > hub_client.LONGEST_DELAY_S / 3


@pytest.mark.parametrize("url", ["hub.example.org", "ws://hub", "file:///etc", ""])
def test_an_address_that_is_none_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match="https://"):
        Agent(url, tmp_path)
