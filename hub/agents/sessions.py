"""The agents' streams: the handshake, what each of them told, and the way to wake one up.

One WebSocket per agent, binary frames of `proto.wire`. The order of a handshake is that of `proto.messages`; the hub
proves itself first, and nothing about join tokens or clusters is said to a peer that has not proved its key. Rules:

    accepted by `admission`               served; an older session of the cluster is closed
    anything else                         Denied with cause and remedy, counted, shown
    report: full                          handed on, becomes the base for deltas
            next number of the same boot  handed on
            a number already told         acknowledged again, not handed on
            anything else                 a full report is asked for

A report is acknowledged only after `on_report` returned: what the agent then drops is safe here. Per session only the
newest wake-up waits to be sent (the agent fetches what it skipped), and the newest directives, which are always all of
them. What an older agent does not understand it is not sent. Assumes one event loop, and quick synchronous
`identities`. What a report means is decided by the loop behind `on_report`.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
from aiohttp import WebSocketError, WSMsgType, web
from anyio import to_thread

from hub.agents import admission
from hub.agents.admission import Denial, HandshakeLimit, Identities
from hub.agents.keys import HubKeys
from hub.agents.session import Session, place, tag
from proto import identity, wire
from proto.errors import FlotillaError, InvalidInput, ProtocolError, Refused, Transient
from proto.ids import check_name
from proto.messages import (
    Answer,
    AnyMessage,
    Challenge,
    Directives,
    DriftDetail,
    DriftQuery,
    Hello,
    Report,
    ReportAck,
    Token,
    WakeUp,
    Welcome,
)

PATH: Final = "/agent/v1/connect"
TOKEN_TTL_S: Final = 300.0
HEARTBEAT_S: Final = 30.0
PING_S: Final = 20.0
"""A peer that answers no ping for half of this is gone: half-open connections end within 30 s."""
HANDSHAKE_S: Final = 15.0
CLOSE_S: Final = 2.0
MAX_PENDING: Final = 256
"""Handshakes at one time: bounds what peers that have proved nothing can make the hub hold."""
PARSE_IN_THREAD_BYTES: Final = 16 << 10
HUB_TROUBLE_RETRY_S: Final = 10.0
REPLACED_RETRY_S: Final = 30.0
ANSWER_S: Final = 10.0
"""How long a person who asked waits for an agent's answer."""
MAX_QUESTIONS: Final = 16
"""That wait for one agent at a time."""

log = logging.getLogger(__name__)


class Sessions:
    """All agents that are connected to this hub.

    `slice_of` gives (seq, commit) of a cluster's slice, (0, "") before the first; `directives_of` what people ask
    of its agent; `clock` is the wall clock.
    `on_denied(cluster, cause)` may get names that no cluster of the fleet has ("" when none was told): bound what you
    keep of them. `denied` counts by reason.
    """

    def __init__(
        self,
        keys: HubKeys,
        identities: Identities,
        *,
        slice_of: Callable[[str], tuple[int, str]],
        directives_of: Callable[[str], Directives],
        is_member: Callable[[str], bool],
        on_report: Callable[[str, Report], Awaitable[None]],
        on_connect: Callable[[str], None],
        on_disconnect: Callable[[str], None],
        on_denied: Callable[[str, str], None],
        clock: Callable[[], float],
        heartbeat_s: float = HEARTBEAT_S,
        token_ttl_s: float = TOKEN_TTL_S,
        ping_s: float = PING_S,
        handshake_s: float = HANDSHAKE_S,
        answer_s: float = ANSWER_S,
        limit: HandshakeLimit | None = None,
    ) -> None:
        self._keys = keys
        self._identities = identities
        self._slice_of = slice_of
        self._directives_of = directives_of
        self._is_member = is_member
        self._on_report = on_report
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_denied = on_denied
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._token_ttl_s = token_ttl_s
        self._ping_s = ping_s
        self._handshake_s = handshake_s
        self._answer_s = answer_s
        self._limit = limit if limit is not None else HandshakeLimit()
        self._pending = 0
        self._sessions: dict[str, Session] = {}
        self.denied: Counter[str] = Counter()

    def connected(self) -> Mapping[str, float]:
        """Cluster → since when (wall clock) its agent has been connected."""
        return {cluster: session.since for cluster, session in self._sessions.items()}

    def hears(self, cluster: str) -> bool:
        """Is the cluster's agent connected?"""
        return cluster in self._sessions

    def wake(self, cluster: str, wake: WakeUp) -> None:
        """Tell an agent that its slice moved; nothing when it is not connected (its Welcome will say so)."""
        if session := self._sessions.get(cluster):
            session.wake(wake)

    def direct(self, cluster: str, directives: Directives) -> None:
        """Tell an agent what people ask of it; nothing when it is not connected (it is told after its Welcome)."""
        if session := self._sessions.get(cluster):
            session.direct(directives)

    def deaf(self, cluster: str) -> str:
        """Why the agent does not hear directives at the moment, with what to do; "" when it does."""
        session = self._sessions.get(cluster)
        if session is None:
            return "its agent is not connected: it is told when it is back"
        return "" if tag(Directives) in session.understands else "its agent is too old to be told: upgrade it"

    async def drift_detail(self, cluster: str, drift: str) -> DriftDetail:
        """Ask an agent for the values of one drift. Raises Transient when it is away, does not answer or is asked too
        much, InvalidInput when it is too old."""
        what, session = f"agent of cluster {cluster}", self._sessions.get(cluster)
        if session is None:
            raise Transient(what, "is not connected", f"ask again when it is back; see 'flotilla clusters {cluster}'")
        if tag(DriftQuery) not in session.understands:
            raise InvalidInput(what, "is too old to be asked for values", "upgrade the agent")
        if len(session.questions) >= MAX_QUESTIONS:
            raise Transient(what, f"is asked {MAX_QUESTIONS} questions already", "ask again in a moment")
        query = DriftQuery(query=secrets.token_hex(8), id=drift)
        question = session.ask(query)
        try:
            with anyio.move_on_after(self._answer_s) as limit:
                await question.done.wait()
        finally:
            session.questions.pop(query.query, None)
        if question.detail is None:
            late = f"did not answer within {self._answer_s:g} s"
            raise Transient(what, late if limit.cancelled_caught else "went away", "see its log, and ask again")
        return question.detail

    def request_full(self, cluster: str, reason: str) -> None:
        """Ask an agent for a full report, once until one arrives."""
        if session := self._sessions.get(cluster):
            session.request_full(reason)

    async def handler(self, request: web.Request) -> web.StreamResponse:
        """The aiohttp handler of `PATH`; lives as long as the agent's session."""
        if self._pending >= MAX_PENDING:
            return web.Response(status=503, headers={"Retry-After": "5"}, text="too many handshakes at once\n")
        ws = web.WebSocketResponse(
            compress=False, heartbeat=self._ping_s, max_msg_size=wire.MAX_MESSAGE_BYTES, timeout=CLOSE_S
        )
        await ws.prepare(request)
        source = request.remote or ""
        cluster = ""
        denial: Denial | None
        try:
            self._pending += 1
            try:
                with anyio.move_on_after(self._handshake_s) as limit:
                    hello = await self._hello(ws, source)
                    cluster = hello.cluster
                    await self._prove(ws, hello)
                if limit.cancelled_caught:
                    raise Denial("timeout", thing="handshake", cause="was not finished in time", retry_after_s=5.0)
            finally:
                self._pending -= 1
            denial = await self._serve(ws, hello, source)
        except Exception as error:
            denial = _why(error, cluster)
        if denial is not None:
            self.denied[denial.reason] += 1
            self._on_denied(cluster, str(denial))
            log.warning("session of cluster %s from %s ended: %s", cluster or "(none)", source, denial)
        await _close(ws, denial)
        return ws

    def stop(self) -> None:
        """End every session, for a hub that shuts down; the agents come back to whoever is the hub then."""
        for session in self._sessions.values():
            session.end(Denial("stopping", thing="hub", cause="is shutting down", retry_after_s=1.0))

    async def _hello(self, ws: web.WebSocketResponse, source: str) -> Hello:
        hello = await _receive(ws)
        if not isinstance(hello, Hello):
            raise ProtocolError("handshake", f"begins with {type(hello).__name__}, not with Hello", "upgrade the agent")
        check_name("cluster", hello.cluster)
        for what, text in (("public key", hello.public_key), ("nonce", hello.nonce)):
            if len(identity.unb64(text)) != identity.KEY_BYTES:
                raise InvalidInput(f"{what} of cluster {hello.cluster}", f"is not {identity.KEY_BYTES} bytes long")
        wait = self._limit.wait_s(source, hello.cluster, now=anyio.current_time())
        if wait > 0:
            raise Denial(
                "rate",
                thing=f"cluster {hello.cluster}",
                cause="its agent connects too often",
                remedy="see the agent's log for why it reconnects, and whether two agents share one key",
                retry_after_s=wait,
            )
        return hello

    async def _prove(self, ws: web.WebSocketResponse, hello: Hello) -> None:
        """Both sides prove themselves. Raises Denial."""
        nonce = identity.new_nonce()
        signature = self._keys.sign(
            identity.hub_transcript(
                cluster=hello.cluster, agent_key=hello.public_key, agent_nonce=hello.nonce, hub_nonce=nonce
            )
        )
        challenge = Challenge(hub_public_key=self._keys.public_key, nonce=nonce, signature=signature)
        await ws.send_bytes(wire.encode(challenge))
        answer = await _receive(ws)
        if not isinstance(answer, Answer):
            raise ProtocolError("handshake", f"goes on with {type(answer).__name__}, not with Answer")
        transcript = identity.agent_transcript(
            cluster=hello.cluster, hub_key=self._keys.public_key, agent_nonce=hello.nonce, hub_nonce=nonce
        )
        try:
            identity.verify(hello.public_key, transcript, answer.signature, who=f"agent of cluster {hello.cluster}")
        except Refused as error:
            raise Denial("signature", thing=error.thing, cause=error.cause) from error
        if not self._is_member(hello.cluster):
            raise admission.not_member(hello.cluster)
        admission.admit(self._identities, hello, mac=answer.join_mac, transcript=transcript, now=self._clock())

    async def _serve(self, ws: web.WebSocketResponse, hello: Hello, source: str) -> Denial | None:
        """An accepted session until its end; returns why the hub ended it, None when the agent did."""
        cluster = hello.cluster
        session = Session(since=self._clock(), understands=hello.understands)
        if older := self._sessions.get(cluster):
            older.end(_replaced(cluster, source))
        self._sessions[cluster] = session
        self._on_connect(cluster)
        log.info("cluster %s connected from %s", cluster, source)
        try:
            with session.scope:
                seq, commit = self._slice_of(cluster)
                token = self._keys.issue_token(cluster, now_s=self._clock(), ttl_s=self._token_ttl_s)
                welcome = Welcome(
                    token=token, token_ttl_s=self._token_ttl_s, heartbeat_s=self._heartbeat_s, seq=seq, commit=commit
                )
                await ws.send_bytes(wire.encode(welcome))
                session.direct(self._directives_of(cluster))
                async with anyio.create_task_group() as group:
                    group.start_soon(self._tell, ws, session, cluster, name=f"tell {cluster}")
                    try:
                        await self._listen(ws, session, cluster)
                    except Exception as error:
                        session.denial = _why(error, cluster)
                    group.cancel_scope.cancel()
        finally:
            for question in session.questions.values():
                question.done.set()
            if self._sessions.get(cluster) is session:
                del self._sessions[cluster]
                self._on_disconnect(cluster)
                log.info("cluster %s disconnected", cluster)
        return session.denial

    async def _listen(self, ws: web.WebSocketResponse, session: Session, cluster: str) -> None:
        while True:
            report = await _receive(ws)
            if isinstance(report, DriftDetail):
                session.answered(report)
                continue
            if not isinstance(report, Report):
                raise ProtocolError(f"cluster {cluster}", f"sent a {type(report).__name__} where a report is due")
            if not self._is_member(cluster):
                raise admission.not_member(cluster)
            match place(session.base, report):
                case "gap":
                    session.request_full(f"report {report.number} does not follow on what the hub has")
                    continue
                case "next":
                    await self._on_report(cluster, report)
                    session.took(report)
            await ws.send_bytes(wire.encode(ReportAck(number=report.number)))

    async def _tell(self, ws: web.WebSocketResponse, session: Session, cluster: str) -> None:
        """Send what waits, and a fresh token at the last one's half-life."""
        renew_at = anyio.current_time() + self._token_ttl_s / 2
        try:
            while True:
                with anyio.move_on_after(renew_at - anyio.current_time()):
                    await session.changed.wait()
                for message in session.take():
                    await ws.send_bytes(wire.encode(message))
                if anyio.current_time() >= renew_at:
                    renew_at = anyio.current_time() + self._token_ttl_s / 2
                    token = self._keys.issue_token(cluster, now_s=self._clock(), ttl_s=self._token_ttl_s)
                    await ws.send_bytes(wire.encode(Token(token=token, token_ttl_s=self._token_ttl_s)))
        except ConnectionError:
            session.scope.cancel()


async def _receive(ws: web.WebSocketResponse) -> AnyMessage:
    """The next message. Raises ConnectionError when the stream has ended, ProtocolError for what is no message."""
    frame = await ws.receive()
    if frame.type is WSMsgType.BINARY:
        if len(frame.data) > PARSE_IN_THREAD_BYTES:
            return await to_thread.run_sync(wire.decode, frame.data)
        return wire.decode(frame.data)
    if isinstance(frame.data, WebSocketError):
        raise ProtocolError("frame", f"is not valid: {frame.data}")
    if frame.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        raise ConnectionResetError("the agent's stream ended")
    raise ProtocolError("frame", f"is {frame.type.name}, not binary")


async def _close(ws: web.WebSocketResponse, denial: Denial | None) -> None:
    """Say why, then close, within a deadline also when the session was cancelled."""
    with anyio.move_on_after(2 * CLOSE_S, shield=True):
        try:
            if denial is not None and not ws.closed:
                await ws.send_bytes(wire.encode(denial.message))
            await ws.close()
        except ConnectionError:
            pass  # the agent is gone, and learns it by itself


def _why(error: Exception, cluster: str) -> Denial | None:
    """What the agent is told when its session failed; None when the agent itself went away."""
    match error:
        case Denial():
            return error
        case ConnectionError():
            return None
        case Transient():
            log.warning("session of cluster %s: %s", cluster, error)
            return _trouble(error.retry_after_s)
        case FlotillaError():
            return Denial("protocol", thing=error.thing, cause=error.cause, remedy=error.remedy, retry_after_s=60.0)
        case _:
            # One agent's trouble must end neither the others' sessions nor this agent's chance to come back.
            log.error("session of cluster %s failed", cluster, exc_info=error)
            return _trouble(None)


def _trouble(retry_after_s: float | None) -> Denial:
    return Denial(
        "hub-trouble",
        thing="hub",
        cause="could not keep what the agent told",
        remedy="see the hub's log",
        retry_after_s=HUB_TROUBLE_RETRY_S if retry_after_s is None else retry_after_s,
    )


def _replaced(cluster: str, source: str) -> Denial:
    return Denial(
        "replaced",
        thing=f"session of cluster {cluster}",
        cause=f"was replaced by a newer one from {source}",
        remedy="nothing, if the agent reconnected; else look for a second agent with the same key",
        retry_after_s=REPLACED_RETRY_S,
    )
