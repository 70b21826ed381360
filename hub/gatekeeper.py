"""Asks what rollouts wait to know at their gates, and tells the loop: Prometheus, HTTP addresses, other bundles.

| check  | good                                       | bad                       | error                            |
|--------|--------------------------------------------|---------------------------|----------------------------------|
| metric | samples, every one within the limits       | none, NaN, or one beyond  | no answer, or a query it refuses |
| http   | one of the wanted status codes             | any other                 | no answer                        |
| bundle | its rollout has finished, or that wave has | it has not, is on hold or | there is no such bundle, or its  |
|        |                                            | broken                    | rollout has no such wave         |

Each gate is asked at its interval, all at the same time, so that a server that does not answer delays nobody else's.
A redirect is an answer like any other: nobody is sent elsewhere, and a server's token goes to that server alone. Next:
`loop` hands what was found to the rollout.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
from anyio.abc import TaskGroup

from hub.inputs import FromGate
from hub.loop import Loop
from hub.model import BundleDone, Gate, HttpCheck, MetricCheck
from hub.repo.schema import nearest
from hub.rollout import gates
from hub.state import Evidence, Phase, Verdict
from proto.errors import FlotillaError, InvalidInput
from proto.ids import RolloutId

log = logging.getLogger("flotilla.hub")

TIME_LIMIT_S = 10.0
"""Of one question, its answer included."""
MAX_BODY_BYTES = 1 << 20
"""A gate asks for few samples; many more are parsed while nobody else is heard."""
MAX_TEXT = 500
"""Characters of what was found, as people read it."""
LOOK_S = 1.0
"""How often it is looked for gates whose turn has come."""

Asked = tuple[RolloutId, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Prometheus: the address above its `/api`, and the token that it may be shown ("": none)."""

    url: str
    token: str = field(default="", repr=False)


def servers(addresses: Iterable[str], token_files: Iterable[str]) -> dict[str, Server]:
    """Those of the hub's settings, each `[NAME=]URL` and `[NAME=]FILE`. Raises InvalidInput."""
    found: dict[str, Server] = {}
    for text in addresses:
        name, url = _named(text)
        if name in found or not _is_address(url):
            cause = "is given twice" if name in found else "has an address that is none, or that holds a password"
            raise InvalidInput(f"Prometheus {name}", cause, "write [NAME=]http(s)://host:port, tokens come from a file")
        found[name] = Server(url=url.rstrip("/"))
    for text in token_files:
        name, path = _named(text)
        if name not in found:
            raise InvalidInput(f"Prometheus {name}", "has a token and no address", "give it one with --prometheus")
        if found[name].token:
            raise InvalidInput(f"Prometheus {name}", "has two tokens", "give --prometheus-token-file once for it")
        found[name] = Server(url=found[name].url, token=_token(path))
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return (name, value) if equals and name and "/" not in name else ("default", text)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        given = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return given and plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _token(path: str) -> str:
    try:
        token = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"token file {path}", "cannot be read", "check --prometheus-token-file") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"token file {path}", "does not hold one token", "write the bearer token, and nothing else")
    return token


class Gatekeeper:
    """Runs beside the loop. `servers` by name; a check that names none takes the only one, or `default`."""

    def __init__(self, loop: Loop, *, servers: Mapping[str, Server], clock: Callable[[], float] = time.time) -> None:
        self._loop = loop
        self._servers = servers
        self._clock = clock
        self._asked_at: dict[Asked, float] = {}
        self._asking: set[Asked] = set()

    async def run(self) -> None:
        """Ask for ever."""
        limits = aiohttp.ClientTimeout(total=TIME_LIMIT_S)
        connector = aiohttp.TCPConnector(limit=0)  # a hundred servers that hang are no reason to wait with the next
        async with (
            aiohttp.ClientSession(timeout=limits, connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
            anyio.create_task_group() as tasks,
        ):
            while True:
                self._ask_who_is_due(session, tasks)
                await anyio.sleep(LOOK_S)

    def problems(self) -> list[str]:
        """What can be told before any gate's turn comes: which of them ask a Prometheus that the hub does not know."""
        told: dict[tuple[str, str], str] = {}
        for where, gate, check in self._metrics():
            found = self._server(check)
            if isinstance(found, str):
                told.setdefault((gate, found), f"{where}, gate {gate}: {found}")
        return list(told.values())

    def _metrics(self) -> Iterator[tuple[str, str, MetricCheck]]:
        """The metric gates of the fleet repo's policies, and those that rollouts under way still have before them."""
        now = self._loop.desired
        for policy in now.fleet.policies.values() if now else ():
            for planned in policy.waves:
                for gate in planned.gates:
                    if gate.metric is not None:
                        yield f"rollout policy {policy.name}", f"{planned.name}/{gate.name}", gate.metric
        for state in self._loop.states.values():
            for wave in state.rollout.waves[state.wave :] if state.phase in (Phase.RUNNING, Phase.PAUSED) else ():
                for gate in wave.gates:
                    if gate.metric is not None:
                        yield f"rollout {state.rollout.id}", gates.key(wave, gate), gate.metric

    def _server(self, check: MetricCheck) -> Server | str:
        """The Prometheus that is to be asked, or why there is none."""
        found = self._servers.get(check.server or "default")
        if found is None and not check.server and len(self._servers) == 1:
            found = next(iter(self._servers.values()))
        if found is not None:
            return found
        known = f"it has {', '.join(sorted(self._servers))}" if self._servers else "give it one with --prometheus"
        name = check.server or "default"
        return f"the hub knows no Prometheus {name!r}: {nearest(name, self._servers, else_=known)}"

    def _ask_who_is_due(self, session: aiohttp.ClientSession, tasks: TaskGroup) -> None:
        states, now = self._loop.states, self._clock()
        asked = {(id_, key): gate for id_, state in states.items() for key, gate in gates.asked(state).items()}
        self._asked_at = {which: at for which, at in self._asked_at.items() if which in asked}
        for which, gate in asked.items():
            # A clock that was set back makes nobody wait for the time at which it was asked last.
            waits = 0.0 <= now - self._asked_at.get(which, -math.inf) < gates.interval_s(gate)
            if which not in self._asking and not waits:
                self._asked_at[which] = now
                self._asking.add(which)
                tasks.start_soon(self._ask, session, which, gate, name=f"gate {which[1]} of {which[0]}")

    async def _ask(self, session: aiohttp.ClientSession, which: Asked, gate: Gate) -> None:
        rollout, key = which
        asked_at = self._clock()
        try:
            verdict, text = await self._found(session, gate)
            evidence = Evidence(gate=key, verdict=verdict, text=_line(text), asked_at=asked_at)
            await self._loop.tell(FromGate(rollout=rollout, evidence=evidence))
        except FlotillaError as error:  # of the loop: it is asked again
            log.warning("gate %s of %s: what was found was not taken: %s", key, rollout, error)
        except Exception:  # whatever one server makes of one gate, the others are asked
            log.exception("gate %s of %s: it was not asked", key, rollout)
        finally:
            self._asking.discard(which)

    async def _found(self, session: aiohttp.ClientSession, gate: Gate) -> tuple[Verdict, str]:
        if gate.done is not None:
            return self._done(gate.done)
        try:
            if gate.metric is not None:
                return await self._measured(session, gate.metric)
            assert gate.http is not None
            return await _answered(session, gate.http)
        except TimeoutError:
            return "error", f"no answer within {TIME_LIMIT_S:.0f} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return "error", f"no answer: {error or type(error).__name__}"

    def _done(self, check: BundleDone) -> tuple[Verdict, str]:
        now, states = self._loop.desired, list(self._loop.states.values())
        if now is None:
            return "error", "the fleet repo was not read yet"
        if check.bundle in now.fleet.broken_bundles or check.bundle in now.failed:
            return "bad", f"bundle {check.bundle} is broken in the fleet repo, so that no rollout of it can begin"
        there = check.bundle in now.fleet.bundles or now.fleet.lost_bundles
        if not there and not any(check.bundle in state.rollout.bundles for state in states):
            return "error", f"there is no bundle {check.bundle}; if it was removed, promote goes on without it"
        on_hold = {bundle: hold.reason for bundle, hold in self._loop.holds.items()}
        return gates.done(check, states, on_hold)

    async def _measured(self, session: aiohttp.ClientSession, check: MetricCheck) -> tuple[Verdict, str]:
        server = self._server(check)
        if isinstance(server, str):
            return "error", server
        headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
        asked = session.post(
            f"{server.url}/api/v1/query", data={"query": check.query}, headers=headers, allow_redirects=False
        )
        async with asked as answer:
            body = b""
            async for part in answer.content.iter_any():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    return "error", f"an answer of more than {MAX_BODY_BYTES} bytes: aggregate in the query"
        try:
            made = json.loads(body)
        except (ValueError, RecursionError):
            return "error", f"status {answer.status} and no JSON"
        verdict, text = judge(check, made)
        if answer.status != 200 and verdict != "error":
            return "error", f"status {answer.status}"
        return verdict, text


async def _answered(session: aiohttp.ClientSession, check: HttpCheck) -> tuple[Verdict, str]:
    async with session.get(check.url, allow_redirects=False) as answer:
        return ("good" if answer.status in check.status else "bad"), f"{check.url} answers {answer.status}"


def judge(check: MetricCheck, answer: Any) -> tuple[Verdict, str]:
    """Pure: what Prometheus's answer to an instant query means (its HTTP API, `/api/v1/query`)."""
    try:
        if answer["status"] != "success":
            return "error", f"Prometheus says {answer['errorType']}: {answer['error']}"
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            samples: list[tuple[str, float]] = [("", float(result[1]))]
        elif kind == "vector":
            samples = [(_labels(each["metric"]), float(each["value"][1])) for each in result]
        else:
            return "error", f"the query gives a {kind}: it has to give a vector or a scalar"
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return "error", "Prometheus gives an answer that is none of its API"
    if not samples:
        return "bad", "no data"
    wrong = [(labels, value) for labels, value in samples if not _within(check, value)]
    labels, value = wrong[0] if wrong else samples[0]
    many = f", {len(wrong)} of {len(samples)} samples" if len(wrong) > 1 else ""
    return ("bad" if wrong else "good"), f"it is {value:g}{labels}{many}"


def _labels(metric: Mapping[str, str]) -> str:
    named = ", ".join(f'{name}="{text}"' for name, text in sorted(metric.items()))
    return f" for {{{named}}}" if named else ""


def _within(check: MetricCheck, value: float) -> bool:
    """No limit is met by what is not a number."""
    if math.isnan(value):
        return False
    return (check.above is None or value > check.above) and (check.below is None or value < check.below)


def _line(text: str) -> str:
    """What strangers say, as one short line: it goes to terminals."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_TEXT]
