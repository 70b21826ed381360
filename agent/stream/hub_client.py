"""The agent's one connection to the hub: out to it, for ever, without ever being a reason to stop enforcing the slice.

Proves the hub before anything else (the pinned key, or the one that the join token names), then itself; then reports go
up and wake-ups come down until the stream ends. Then again:

    stream lost, hub away, garbage, silence    the next of `delays`, which begin anew once the hub acknowledged a report
    Denied with retry_after                    after that long, at most `refused_s`
    Denied without, or another hub's key       after `refused_s`, loudly: a person has to act

The hub's word is only: your slice is at (seq, commit), here may be its objects. What that means is decided by the loop
behind `on_wake`; objects are checked by `receive`. A question about a drift is answered at once, from what is known.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import aiohttp
import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

from agent.stream.identity import Identity
from agent.stream.report import Reporter
from proto import identity, wire
from proto.errors import FlotillaError, InvalidInput, ProtocolError, Refused, Transient
from proto.messages import (
    Answer,
    AnyMessage,
    Challenge,
    Denied,
    Directives,
    DriftDetail,
    DriftQuery,
    Hello,
    ReportAck,
    ReportRequest,
    Token,
    WakeUp,
    Welcome,
)

PATH: Final = "/agent/v1/connect"
PING_S: Final = 20.0
"""A hub that answers no ping for half of this is gone."""
HANDSHAKE_S: Final = 20.0
ACK_S: Final = 60.0
"""A hub that takes longer to make one report safe is stuck, whatever its TCP stack answers."""
REFUSED_S: Final = 300.0
PARSE_IN_THREAD_BYTES: Final = 16 << 10
FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0

M = TypeVar("M")

log = logging.getLogger(__name__)


def reconnect_delays() -> Iterator[float]:
    """Doubling delays with full jitter, so that a hub that comes back is not met by its whole fleet at once."""
    ceiling = FIRST_DELAY_S
    while True:
        yield random.uniform(ceiling / 4, ceiling)
        ceiling = min(ceiling * 2, LONGEST_DELAY_S)


class HubClient:
    """The stream to one hub.

    `on_wake` gets every WakeUp and, as one without objects, where the slice is at each Welcome; `on_query` answers what
    the hub asks of a drift, `on_directives` takes what people ask there (None: the hub is told not to); none may block.
    `delays` makes a new endless iterator of seconds for each outage.
    """

    def __init__(
        self,
        url: str,
        who: Identity,
        *,
        reporter: Reporter,
        on_wake: Callable[[WakeUp], None],
        on_query: Callable[[DriftQuery], DriftDetail] | None = None,
        on_directives: Callable[[Directives], None] | None = None,
        delays: Callable[[], Iterator[float]] = reconnect_delays,
        refused_s: float = REFUSED_S,
        ping_s: float = PING_S,
        handshake_s: float = HANDSHAKE_S,
        ack_s: float = ACK_S,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        if not url.startswith(("https://", "http://")):
            raise InvalidInput(f"hub address {url!r}", "does not begin with https:// or http://")
        self.problem = "not connected yet"
        """Why there is no stream to the hub, "" while there is one."""
        self._url = url.rstrip("/") + PATH
        self._who = who
        self._reporter = reporter
        self._on_wake = on_wake
        self._on_query = on_query
        self._on_directives = on_directives
        self._delays = delays
        self._refused_s = refused_s
        self._ping_s = ping_s
        self._handshake_s = handshake_s
        self._ack_s = ack_s
        self._sleep = sleep
        self._token = ""
        self._token_ends = float("-inf")
        self._proved_good = False

    @property
    def token(self) -> str:
        """The bearer token for Git, or "" when there is none that still opens anything."""
        return self._token if anyio.current_time() < self._token_ends else ""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep a stream to the hub until cancelled. Nothing that the hub or the network does raises out of here."""
        task_status.started()
        delays = self._delays()
        while True:
            self._proved_good = False
            error = await self._session()
            self.problem = str(error)
            if self._proved_good:
                delays = self._delays()
            if isinstance(error, Refused):
                log.error("the hub and this agent do not agree; next try in %g s: %s", self._refused_s, error)
                await self._sleep(self._refused_s)
                continue
            delay = next(delays)
            if isinstance(error, Transient) and error.retry_after_s is not None:
                delay = min(max(delay, error.retry_after_s), self._refused_s)
            log.warning("no stream to the hub; next try in %.1f s: %s", delay, error)
            await self._sleep(delay)

    async def _session(self) -> FlotillaError:
        """One connection from its beginning to its end; returns why it ended."""
        try:
            # A connection for each session: the pool would keep nothing else, and the agent has one stream.
            async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=None)) as http:
                with anyio.fail_after(self._handshake_s):
                    ws = await http.ws_connect(
                        self._url,
                        heartbeat=self._ping_s,
                        compress=0,
                        max_msg_size=wire.MAX_MESSAGE_BYTES,
                        timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                    )
                async with ws:
                    with anyio.fail_after(self._handshake_s):
                        welcome = await self._shake_hands(ws)
                    return await self._pump(ws, welcome)
        except FlotillaError as error:
            return error
        except TimeoutError:
            return Transient(f"hub {self._url}", f"did not answer within {self._handshake_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Transient(f"hub {self._url}", f"cannot be reached: {error}")

    def _understands(self) -> tuple[str, ...]:
        known = {"directives": self._on_directives, "drift-query": self._on_query}
        return tuple(tag for tag, take in known.items() if take is not None)

    async def _shake_hands(self, ws: aiohttp.ClientWebSocketResponse) -> Welcome:
        who, nonce = self._who, identity.new_nonce()
        hello = Hello(
            cluster=who.cluster,
            public_key=who.public_key,
            nonce=nonce,
            boot_id=self._reporter.boot_id,
            agent_version=self._reporter.agent_version,
            join_id=who.join_token.join_id if who.join_token is not None else "",
            understands=self._understands(),
        )
        await ws.send_bytes(wire.encode(hello))
        challenge = _expect(Challenge, await _receive(ws))
        who.check_hub(challenge.hub_public_key)
        identity.verify(
            challenge.hub_public_key,
            identity.hub_transcript(
                cluster=who.cluster, agent_key=who.public_key, agent_nonce=nonce, hub_nonce=challenge.nonce
            ),
            challenge.signature,
            who="hub",
        )
        transcript = identity.agent_transcript(
            cluster=who.cluster, hub_key=challenge.hub_public_key, agent_nonce=nonce, hub_nonce=challenge.nonce
        )
        mac = ""
        if who.join_token is not None:
            mac = identity.join_mac(who.join_token.mac_key, agent_key=who.public_key, transcript=transcript)
        await ws.send_bytes(wire.encode(Answer(signature=who.sign(transcript), join_mac=mac)))
        welcome = _expect(Welcome, await _receive(ws))
        await to_thread.run_sync(who.pin, challenge.hub_public_key)
        return welcome

    async def _pump(self, ws: aiohttp.ClientWebSocketResponse, welcome: Welcome) -> FlotillaError:
        """Reports up, everything else down, until the stream ends; returns why it did."""
        ended: FlotillaError | None = None
        self._take_token(welcome.token, welcome.token_ttl_s)
        self._reporter.full_needed()
        self.problem = ""
        log.info("connected to hub %s", self._url)
        if welcome.commit:
            self._on_wake(WakeUp(seq=welcome.seq, commit=welcome.commit))

        async def tell() -> None:
            nonlocal ended
            try:
                await self._tell(ws, heartbeat_s=welcome.heartbeat_s)
            except FlotillaError as error:
                ended = error
            except TimeoutError:
                ended = Transient(f"hub {self._url}", f"did not acknowledge a report within {self._ack_s:g} s")
            except ConnectionError:
                return  # what the hub said last, perhaps why it hung up, is still to be heard
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(tell, name="tell hub")
            try:
                await self._listen(ws)
            except FlotillaError as error:
                ended = error
            group.cancel_scope.cancel()
        return ended if ended is not None else Transient(f"hub {self._url}", "ended the stream")

    async def _tell(self, ws: aiohttp.ClientWebSocketResponse, *, heartbeat_s: float) -> None:
        while True:
            await self._reporter.wait_due(heartbeat_s=heartbeat_s)
            report = self._reporter.next(anyio.current_time(), heartbeat_s=heartbeat_s)
            if report is not None:
                with anyio.fail_after(self._ack_s):
                    await ws.send_bytes(wire.encode(report))
                    await self._reporter.wait_answered()

    async def _listen(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            match await _receive(ws):
                case WakeUp() as wake:
                    self._on_wake(wake)
                case Token(token=token, token_ttl_s=ttl_s):
                    self._take_token(token, ttl_s)
                case ReportAck(number=number):
                    self._proved_good = True
                    self._reporter.acked(number)
                case ReportRequest(reason=reason):
                    log.info("the hub asks for a full report: %s", reason)
                    self._reporter.full_needed()
                case Directives() as directives if self._on_directives is not None:
                    self._on_directives(directives)
                case DriftQuery() as query if self._on_query is not None:
                    await ws.send_bytes(wire.encode(self._on_query(query)))
                case Denied() as denied:
                    raise _denied(denied)
                case other:
                    raise ProtocolError("hub", f"sent a {type(other).__name__} in the middle of a session")

    def _take_token(self, token: str, ttl_s: float) -> None:
        self._token = token
        self._token_ends = anyio.current_time() + ttl_s


async def _receive(ws: aiohttp.ClientWebSocketResponse) -> AnyMessage:
    """The next message. Raises Transient when the stream has ended, ProtocolError for what is no message."""
    frame = await ws.receive()
    if frame.type is aiohttp.WSMsgType.BINARY:
        if len(frame.data) > PARSE_IN_THREAD_BYTES:
            return await to_thread.run_sync(wire.decode, frame.data)
        return wire.decode(frame.data)
    if isinstance(frame.data, aiohttp.WebSocketError):
        raise ProtocolError("frame from the hub", f"is not valid: {frame.data}")
    if frame.type is aiohttp.WSMsgType.TEXT:
        raise ProtocolError("frame from the hub", "is text, not binary")
    raise Transient("hub", "ended the stream")


def _expect(kind: type[M], message: AnyMessage) -> M:
    if isinstance(message, Denied):
        raise _denied(message)
    if not isinstance(message, kind):
        raise ProtocolError("hub", f"sent a {type(message).__name__} where {kind.__name__} is due")
    return message


def _denied(denied: Denied) -> FlotillaError:
    if denied.retry_after_s is None:
        return Refused("hub", f"refused this agent: {denied.cause}", denied.remedy)
    return Transient("hub", f"ended the session: {denied.cause}", denied.remedy, retry_after_s=denied.retry_after_s)
