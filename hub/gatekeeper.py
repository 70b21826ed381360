"""Asks what rollouts wait to know at their gates, and tells the loop: Prometheus, HTTP addresses, other bundles.

| check  | good                                       | bad                       | error                            |
|--------|--------------------------------------------|---------------------------|----------------------------------|
| metric | samples, every one within the limits       | none, NaN, or one beyond  | no answer, or a query it refuses |
| http   | one of the wanted status codes             | any other                 | no answer                        |
| bundle | its rollout has finished, or that wave has | it has not, or is on hold | its rollout has no such wave     |

Each gate is asked at its interval, all at the same time, so that a server that does not answer delays nobody else's.
A redirect is an answer like any other: nobody is sent elsewhere. Next: `loop` hands what was found to the rollout.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import anyio
from anyio.abc import TaskGroup

from hub.inputs import FromGate
from hub.journal import HoldRow
from hub.loop import Loop
from hub.model import BundleDone, Evidence, Gate, HttpCheck, MetricCheck, Phase, State
from hub.rollout import gates, rollouts
from proto.errors import FlotillaError, InvalidInput
from proto.ids import BundleName, RolloutId

log = logging.getLogger("flotilla.hub")

TIME_LIMIT_S = 10.0
"""Of one question, its answer included."""
MAX_BODY_BYTES = 4 << 20
LOOK_S = 1.0
"""How often it is looked for gates whose turn has come."""

Verdict = Literal["good", "bad", "error"]
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
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or name in found:
            cause = "is given twice" if name in found else f"has the address {parts._replace(netloc='…').geturl()!r}"
            raise InvalidInput(f"Prometheus {name}", cause, "write [NAME=]http(s)://host:port, tokens come from a file")
        found[name] = Server(url=url)
    for text in token_files:
        name, path = _named(text)
        if name not in found:
            raise InvalidInput(f"Prometheus {name}", "has a token and no address", "give it one with --prometheus")
        try:
            found[name] = Server(url=found[name].url, token=Path(path).read_text().strip())
        except (OSError, ValueError) as error:
            raise InvalidInput(f"token {path}", "cannot be read", "check --prometheus-token-file") from error
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return (name, value) if equals and "/" not in name else ("default", text)


class Gatekeeper:
    """Runs beside the loop. `servers` by name; a check that names none takes the only one, or `default`."""

    def __init__(self, loop: Loop, *, servers: Mapping[str, Server], clock: Callable[[], float] = time.time) -> None:
        self._loop = loop
        self._servers = servers
        self._clock = clock
        self._due: dict[Asked, float] = {}
        self._asking: set[Asked] = set()

    async def run(self) -> None:
        """Ask for ever."""
        limits = aiohttp.ClientTimeout(total=TIME_LIMIT_S)
        async with aiohttp.ClientSession(timeout=limits) as session, anyio.create_task_group() as tasks:
            while True:
                self._ask_who_is_due(session, tasks)
                await anyio.sleep(LOOK_S)

    def _ask_who_is_due(self, session: aiohttp.ClientSession, tasks: TaskGroup) -> None:
        states, now = self._loop.states, self._clock()
        asked = {(id_, key): gate for id_, state in states.items() for key, gate in gates.asked(state).items()}
        self._due = {which: at for which, at in self._due.items() if which in asked}
        for which, gate in asked.items():
            if which not in self._asking and now >= self._due.get(which, 0.0):
                self._due[which] = now + gates.interval_s(gate)
                self._asking.add(which)
                tasks.start_soon(self._ask, session, which, gate, name=f"gate {which[1]} of {which[0]}")

    async def _ask(self, session: aiohttp.ClientSession, which: Asked, gate: Gate) -> None:
        rollout, key = which
        asked_at = self._clock()
        try:
            verdict, text = await self._found(session, gate)
            evidence = Evidence(gate=key, verdict=verdict, text=text[:500], asked_at=asked_at)
            await self._loop.tell(FromGate(rollout=rollout, evidence=evidence))
        except FlotillaError as error:  # of the loop: it is asked again
            log.warning("gate %s of %s: what was found was not taken: %s", key, rollout, error)
        finally:
            self._asking.discard(which)

    async def _found(self, session: aiohttp.ClientSession, gate: Gate) -> tuple[Verdict, str]:
        if gate.done is not None:
            return done(gate.done, list(self._loop.states.values()), self._loop.holds)
        try:
            if gate.metric is not None:
                return await self._measured(session, gate.metric)
            assert gate.http is not None
            return await _answered(session, gate.http)
        except TimeoutError:
            return "error", f"no answer within {TIME_LIMIT_S:.0f} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return "error", f"no answer: {error or type(error).__name__}"

    async def _measured(self, session: aiohttp.ClientSession, check: MetricCheck) -> tuple[Verdict, str]:
        server = self._servers.get(check.server or "default")
        if server is None and not check.server and len(self._servers) == 1:
            server = next(iter(self._servers.values()))
        if server is None:
            known = f"it has {', '.join(sorted(self._servers))}" if self._servers else "give it one with --prometheus"
            return "error", f"the hub knows no Prometheus {check.server or 'default'}: {known}"
        headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
        url = f"{server.url.rstrip('/')}/api/v1/query"
        async with session.post(url, data={"query": check.query}, headers=headers, allow_redirects=False) as answer:
            body = await answer.content.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            return "error", f"an answer of more than {MAX_BODY_BYTES} bytes: aggregate in the query"
        try:
            made = json.loads(body)
        except ValueError:
            return "error", f"status {answer.status} and no JSON"
        return judge(check, made)


async def _answered(session: aiohttp.ClientSession, check: HttpCheck) -> tuple[Verdict, str]:
    async with session.get(check.url, allow_redirects=False) as answer:
        return ("good" if answer.status in check.status else "bad"), f"{check.url} answers {answer.status}"


def judge(check: MetricCheck, answer: Any) -> tuple[Verdict, str]:
    """Pure: what Prometheus's answer to an instant query means (its HTTP API, `/api/v1/query`)."""
    try:
        if answer["status"] != "success":
            return "error", f"Prometheus says {answer.get('errorType')}: {answer.get('error')}"
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            samples: list[tuple[Mapping[str, str], float]] = [({}, float(result[1]))]
        elif kind == "vector":
            samples = [(each["metric"], float(each["value"][1])) for each in result]
        else:
            return "error", f"the query gives a {kind}: it has to give a vector or a scalar"
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return "error", "Prometheus gives an answer that is none of its API"
    if not samples:
        return "bad", "no data"
    wrong = [(labels, value) for labels, value in samples if not _within(check, value)]
    labels, value = wrong[0] if wrong else samples[0]
    named = ", ".join(f'{name}="{text}"' for name, text in sorted(labels.items()))
    many = f", {len(wrong)} of {len(samples)} samples" if len(wrong) > 1 else ""
    return ("bad" if wrong else "good"), f"it is {value:g}" + (f" for {{{named}}}" if named else "") + many


def _within(check: MetricCheck, value: float) -> bool:
    above = -math.inf if check.above is None else check.above
    below = math.inf if check.below is None else check.below
    if math.isnan(value):
        return False
    return (check.above is None or value > above) and (check.below is None or value < below)


def done(check: BundleDone, states: list[State], holds: Mapping[BundleName, HoldRow]) -> tuple[Verdict, str]:
    """Pure: has the rollout of another bundle finished, or finished a wave?"""
    if check.bundle in holds:
        return "bad", f"bundle {check.bundle} is on hold: {holds[check.bundle].reason}"
    for state in states:
        made = state.rollout
        if check.bundle not in made.bundles or state.phase is Phase.COMPLETED or not rollouts.alive(state):
            continue
        names = [wave.name for wave in made.waves]
        if not check.wave:
            return "bad", f"{made.id} is {state.phase}"
        if check.wave not in names:
            return "error", f"{made.id} has no wave {check.wave}: it has {', '.join(names)}"
        if state.wave <= names.index(check.wave) or state.phase is Phase.ROLLING_BACK:
            return "bad", f"{made.id} is {state.phase} in wave {names[min(state.wave, len(names) - 1)]}"
    return "good", f"bundle {check.bundle} has finished"
