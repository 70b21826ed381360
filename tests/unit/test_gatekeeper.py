"""What gates wait to know: the hub's settings, what an answer means, and servers that are slow, lie or are gone."""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from aiohttp import web

from hub import gatekeeper
from hub.desired import Desired
from hub.gatekeeper import Gatekeeper, Server
from hub.inputs import FromGate
from hub.journal import HoldRow
from hub.loop import Loop
from hub.model import Bundle, BundleDone, Fleet, Gate, HttpCheck, MetricCheck, RolloutPolicy, Selector, WavePolicy
from hub.rollout import gates
from hub.state import Evidence, GateState, Phase, State
from proto.errors import InvalidInput, Transient
from proto.ids import BundleName, Oid, RolloutId
from proto.slices import BundlePolicy
from tests.agents import until
from tests.rollout_hub import Hub, rollout, wave

SHOP, DB = BundleName("shop"), BundleName("db")
UP = MetricCheck(query="up", above=0.0, below=2.0)
TOKEN = "hidden-word"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# --- settings -----------------------------------------------------------------------------------------------------


def test_addresses_have_names_and_tokens_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    found = gatekeeper.servers(
        ("http://prometheus:9090/", "eu=https://prometheus.example.org/eu"), (f"eu={tmp_path / 'token'}",)
    )
    assert found == {
        "default": Server(url="http://prometheus:9090"),
        "eu": Server(url="https://prometheus.example.org/eu", token=TOKEN),
    }
    assert TOKEN not in repr(found)


@pytest.mark.parametrize(
    ("addresses", "cause"),
    [
        pytest.param(("prometheus:9090",), "Prometheus default: has an address that is none", id="no scheme"),
        pytest.param(("eu=",), "Prometheus eu: has an address that is none", id="empty"),
        pytest.param(("eu=http://",), "Prometheus eu: has an address", id="no host"),
        pytest.param(("eu=http://[::1",), "Prometheus eu: has an address", id="half an IPv6 address"),
        pytest.param(("eu=http://host:x",), "Prometheus eu: has an address", id="no port"),
        pytest.param(("eu=http://host:99999",), "Prometheus eu: has an address", id="no such port"),
        pytest.param(("eu=http://ann:hidden-word@host",), "or that holds a password", id="password"),
        pytest.param(("eu=http://host/?token=hidden-word",), "Prometheus eu: has an address", id="query"),
        pytest.param(("eu=ftp://host",), "Prometheus eu: has an address", id="other scheme"),
        pytest.param(("http://a", "default=http://b"), "Prometheus default: is given twice", id="twice"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secrets(addresses: tuple[str, ...], cause: str) -> None:
    with pytest.raises(InvalidInput, match=cause) as caught:
        gatekeeper.servers(addresses, ())
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "given", "cause"),
    [
        pytest.param(b"", "", "does not hold one token", id="empty"),
        pytest.param(b"hidden-word\nhidden-word", "", "does not hold one token", id="two lines"),
        pytest.param("hidden-wörd".encode(), "", "does not hold one token", id="no header could carry it"),
        pytest.param(b"\xff\xfe", "", "cannot be read", id="no text"),
        pytest.param(None, "", "cannot be read", id="no file"),
        pytest.param(b"hidden-word", "us=", "Prometheus us: has a token and no address", id="nobody's"),
    ],
)
def test_a_token_file_that_holds_none_is_refused(tmp_path: Path, content: bytes | None, given: str, cause: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=cause) as caught:
        gatekeeper.servers(("http://prometheus",), (f"{given}{file}",))
    assert "hidden" not in str(caught.value)


def test_two_tokens_of_one_server_are_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(InvalidInput, match="Prometheus default: has two tokens"):
        gatekeeper.servers(("http://prometheus",), (f"{tmp_path / 'token'}", f"{tmp_path / 'token'}"))


# --- what an answer means -----------------------------------------------------------------------------------------


def vector(*values: str, **labels: str) -> dict[str, Any]:
    samples = [{"metric": labels, "value": [1.5, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": samples}}


def scalar(value: str) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "scalar", "result": [1.5, value]}}


def above(limit: float) -> MetricCheck:
    return MetricCheck(query="up", above=limit)


def below(limit: float) -> MetricCheck:
    return MetricCheck(query="up", below=limit)


@pytest.mark.parametrize(
    ("check", "answer", "verdict", "text"),
    [
        pytest.param(UP, vector("1"), "good", "it is 1", id="within"),
        pytest.param(UP, vector("1", job="shop"), "good", 'it is 1 for {job="shop"}', id="labels"),
        pytest.param(UP, vector("0"), "bad", "it is 0", id="the lower limit itself"),
        pytest.param(UP, vector("2"), "bad", "it is 2", id="the upper limit itself"),
        pytest.param(UP, vector("1", "3", "1", "0"), "bad", "it is 3, 2 of 4 samples", id="some beyond"),
        pytest.param(UP, vector(), "bad", "no data", id="no sample"),
        pytest.param(UP, vector("NaN"), "bad", "it is nan", id="not a number"),
        pytest.param(above(0.0), vector("NaN"), "bad", "it is nan", id="not a number and one limit"),
        pytest.param(below(1.0), vector("NaN"), "bad", "it is nan", id="not a number and the other limit"),
        pytest.param(above(0.0), vector("+Inf"), "good", "it is inf", id="infinite is above"),
        pytest.param(below(0.0), vector("-Inf"), "good", "it is -inf", id="and below"),
        pytest.param(below(1.0), vector("+Inf"), "bad", "it is inf", id="infinite is not below"),
        pytest.param(UP, scalar("1"), "good", "it is 1", id="scalar"),
        pytest.param(UP, scalar("NaN"), "bad", "it is nan", id="scalar that is no number"),
        pytest.param(below(0.01), vector("1e-3"), "good", "it is 0.001", id="exponent"),
        pytest.param(
            UP,
            {"status": "success", "data": {"resultType": "matrix", "result": []}},
            "error",
            "the query gives a matrix: it has to give a vector or a scalar",
            id="matrix",
        ),
        pytest.param(
            UP,
            {"status": "success", "data": {"resultType": "string", "result": [1.5, "1"]}},
            "error",
            "the query gives a string: it has to give a vector or a scalar",
            id="string",
        ),
        pytest.param(
            UP,
            {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end of input"},
            "error",
            "Prometheus says bad_data: parse error: unexpected end of input",
            id="refused",
        ),
    ],
)
def test_what_prometheus_answers_is_good_bad_or_an_error(
    check: MetricCheck, answer: Any, verdict: str, text: str
) -> None:
    assert gatekeeper.judge(check, answer) == (verdict, text)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="list"),
        pytest.param("success", id="text"),
        pytest.param({}, id="empty"),
        pytest.param({"status": "success"}, id="no data"),
        pytest.param({"status": "success", "data": []}, id="data of another form"),
        pytest.param({"status": "success", "data": {"resultType": "vector", "result": [1]}}, id="odd sample"),
        pytest.param({"status": "success", "data": {"resultType": "vector", "result": 7}}, id="no list"),
        pytest.param({"status": "success", "data": {"resultType": "scalar", "result": [1.5]}}, id="no value"),
        pytest.param(vector("many"), id="no number"),
        pytest.param(
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": [], "value": [0, "1"]}]}},
            id="labels of another form",
        ),
        pytest.param({"status": "error"}, id="an error without words"),
    ],
)
def test_what_is_none_of_its_answers_is_an_error(answer: Any) -> None:
    assert gatekeeper.judge(UP, answer) == ("error", "Prometheus gives an answer that is none of its API")


# --- another bundle's rollout -------------------------------------------------------------------------------------


def of_db(*, wave_done: bool = False, **changes: Any) -> State:
    """A rollout of db, in its first wave, or with that behind it."""
    made = rollout(wave("canary", "c1"), wave("eu", "c2"))
    hub = Hub(replace(made, id=RolloutId("db-7"), bundles=(SHOP, DB)))
    hub.tick()
    if wave_done:
        hub.report("c1")
    return replace(hub.state, **changes)


@pytest.mark.parametrize(
    ("wave_", "states", "verdict", "text"),
    [
        pytest.param("", (), "good", "bundle db has finished", id="no rollout under way"),
        pytest.param("", (of_db(),), "bad", "db-7 is running", id="under way"),
        pytest.param("", (of_db(phase=Phase.PAUSED),), "bad", "db-7 is paused", id="paused"),
        pytest.param("", (of_db(phase=Phase.ROLLING_BACK),), "bad", "db-7 is rolling-back", id="going back"),
        pytest.param("", (of_db(phase=Phase.COMPLETED),), "good", "bundle db has finished", id="only late ones left"),
        pytest.param("canary", (of_db(),), "bad", "db-7 is running in wave canary", id="in that wave"),
        pytest.param("canary", (of_db(wave_done=True),), "good", "bundle db has finished", id="that wave is done"),
        pytest.param("eu", (of_db(wave_done=True),), "bad", "db-7 is running in wave eu", id="in the last wave"),
        pytest.param(
            "canary",
            (of_db(wave_done=True, phase=Phase.ROLLING_BACK),),
            "bad",
            "db-7 is rolling-back in wave eu",
            id="that wave was done and is taken back",
        ),
        pytest.param("us", (of_db(),), "error", "db-7 has no wave us: it has canary, eu", id="no such wave"),
    ],
)
def test_another_bundle_has_finished_or_not(wave_: str, states: Any, verdict: str, text: str) -> None:
    check = BundleDone(bundle=DB, wave=wave_)
    assert gates.done(check, states, {}) == (verdict, text)


def test_a_bundle_on_hold_has_not_finished() -> None:
    found = gates.done(BundleDone(bundle=DB), [], {DB: "ann: no"})
    assert found == ("bad", "bundle db is on hold: ann: no")


# --- asking -------------------------------------------------------------------------------------------------------


@dataclass
class Deciding:
    """The loop as the gatekeeper sees it; `told` is what it was told."""

    states: dict[RolloutId, State] = field(default_factory=dict)
    holds: dict[BundleName, HoldRow] = field(default_factory=dict)
    desired: Desired | None = None
    told: list[tuple[str, Evidence]] = field(default_factory=list)
    refusals: list[Exception] = field(default_factory=list)

    async def tell(self, what: FromGate) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self.told.append((what.rollout, what.evidence))

    def waits(self, number: int, *gates: Gate) -> RolloutId:
        """A rollout that has come to these gates."""
        hub = Hub(rollout(wave("canary", "c1"), wave("eu", "c2", gates=gates)))
        hub.tick()
        hub.report("c1")
        made = replace(hub.state.rollout, id=RolloutId(f"shop-{number}"))
        self.states[made.id] = replace(hub.state, rollout=made)
        return made.id

    def found(self, rollout_: str) -> list[tuple[str, str]]:
        return [(evidence.verdict, evidence.text) for told_of, evidence in self.told if told_of == rollout_]


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(**routes: Handler) -> AsyncIterator[str]:
    """A server of this process: `prometheus` answers queries, others are pages."""
    application = web.Application()
    for name, handler in routes.items():
        if name == "prometheus":
            application.router.add_post("/api/v1/query", handler)
        else:
            application.router.add_get(f"/{name}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asking(
    loop: Deciding, servers: dict[str, Server] | None = None, clock: Clock | None = None
) -> AsyncIterator[Gatekeeper]:
    keeper = Gatekeeper(cast(Loop, loop), servers=servers or {}, clock=clock or Clock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        yield keeper
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatekeeper, "LOOK_S", 0.01)


def says(made: object, *, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(made, status=status)

    return handler


async def hangs(request: web.Request) -> web.StreamResponse:
    await anyio.sleep_forever()
    raise AssertionError


def metric(name: str = "metric", **changes: Any) -> Gate:
    return Gate(name=name, metric=replace(UP, **changes))


async def asked(loop: Deciding, gate: Gate, servers: dict[str, Server]) -> tuple[str, str]:
    """What is found the first time that one gate is asked."""
    id_ = loop.waits(1, gate)
    async with asking(loop, servers):
        await until(lambda: loop.found(id_))
    return loop.found(id_)[0]


async def test_a_metric_is_asked_for_and_its_time_is_that_of_the_question() -> None:
    loop, queries = Deciding(), list[str]()

    async def prometheus(request: web.Request) -> web.StreamResponse:
        queries.append(str((await request.post())["query"]))
        return web.json_response(vector("1"))

    async with serving(prometheus=prometheus) as url:
        assert await asked(loop, metric(), {"default": Server(url=url)}) == ("good", "it is 1")
    assert queries == ["up"]
    assert loop.told[0][1] == Evidence(gate="eu/metric", verdict="good", text="it is 1", asked_at=5000.0)


async def test_a_gate_is_asked_again_after_its_interval_and_no_sooner_also_when_the_clock_is_set_back() -> None:
    loop, clock = Deciding(), Clock()
    id_ = loop.waits(1, metric(interval_s=30.0))
    async with serving(prometheus=says(vector("1"))) as url, asking(loop, {"default": Server(url=url)}, clock):
        await until(lambda: len(loop.told) == 1)
        clock.now += 29.0
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(0.05)  # several looks: nothing is to happen in them
        assert len(loop.told) == 1
        clock.now += 1.0
        await until(lambda: len(loop.told) == 2)
        clock.now -= 3600.0
        await until(lambda: len(loop.told) == 3)
    assert {text for _, text in loop.found(id_)} == {"it is 1"}


async def test_a_server_that_hangs_delays_nobody_else_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatekeeper, "TIME_LIMIT_S", 3.0)
    loop = Deciding()
    async with serving(prometheus=hangs) as slow, serving(prometheus=says(vector("1"))) as fast:
        stuck = [loop.waits(number, metric(server="slow")) for number in range(150)]
        free = loop.waits(1000, metric(server="fast"))
        async with asking(loop, {"slow": Server(url=slow), "fast": Server(url=fast)}):
            await until(lambda: loop.found(free))
            assert all(loop.found(id_) == [] for id_ in stuck)
            await until(lambda: all(loop.found(id_) for id_ in stuck))
    assert loop.found(stuck[0]) == [("error", "no answer within 3 s")]


async def test_nobody_is_sent_elsewhere() -> None:
    stolen = list[str]()

    async def thief(request: web.Request) -> web.StreamResponse:
        stolen.append(request.headers.get("Authorization", ""))
        return web.json_response(vector("1"))

    async with serving(prometheus=thief, page=thief) as elsewhere:

        async def sends_away(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{elsewhere}{request.path}"})

        async with serving(prometheus=sends_away, page=sends_away) as url:
            found = await asked(Deciding(), metric(), {"default": Server(url=url, token=TOKEN)})
            assert found == ("error", "status 307 and no JSON")
            page = Gate(name="page", http=HttpCheck(url=f"{url}/page"))
            assert await asked(Deciding(), page, {}) == ("bad", f"{url}/page answers 307")
    assert stolen == []


async def test_a_token_goes_to_its_own_server_and_into_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    shown: dict[str, str] = {}

    def noting(name: str) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            shown[name] = request.headers.get("Authorization", "")
            answer = {"status": "error", "errorType": "bad_data", "error": "no"}
            return web.json_response(answer, status=400, headers={"Set-Cookie": "session=1"})

        return handler

    loop = Deciding()
    async with serving(prometheus=noting("eu"), page=noting("page")) as eu, serving(prometheus=noting("us")) as us:
        loop.waits(1, metric("eu", server="eu"), metric("us", server="us"))
        loop.waits(2, Gate(name="page", http=HttpCheck(url=f"{eu}/page", status=(400,))))
        async with asking(loop, {"eu": Server(url=eu, token=TOKEN), "us": Server(url=us)}):
            await until(lambda: len(loop.told) == 3)
    assert shown == {"eu": f"Bearer {TOKEN}", "us": "", "page": ""}
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(loop.told)


async def a_page(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>log in")


async def nested(request: web.Request) -> web.StreamResponse:
    return web.Response(text="[" * 500_000)


async def in_pieces(request: web.Request) -> web.StreamResponse:
    """A good answer that arrives bit by bit."""
    response = web.StreamResponse()
    await response.prepare(request)
    for sign in json.dumps(vector(*["1"] * 40)):
        await response.write(sign.encode())
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"status": "success"')
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize(
    ("handler", "verdict", "text"),
    [
        pytest.param(in_pieces, "good", "it is 1", id="in pieces"),
        pytest.param(a_page, "error", "status 200 and no JSON", id="a page to log in"),
        pytest.param(nested, "error", "status 200 and no JSON", id="nested beyond measure"),
        pytest.param(endless, "error", "an answer of more than 1048576 bytes: aggregate in the query", id="endless"),
        pytest.param(cut_off, "error", "no answer:", id="cut off"),
        pytest.param(says(vector("1"), status=401), "error", "status 401", id="success with another status"),
        pytest.param(
            says({"status": "error", "errorType": "execution", "error": "a\x1b[31m\nb" + "c" * 1000}, status=422),
            "error",
            "Prometheus says execution: a [31m bccc",
            id="an error that is no line",
        ),
    ],
)
async def test_what_a_server_says_instead_of_an_answer_is_an_error(handler: Handler, verdict: str, text: str) -> None:
    async with serving(prometheus=handler) as url:
        found = await asked(Deciding(), metric(), {"default": Server(url=url)})
    assert found[0] == verdict
    assert found[1].startswith(text)
    assert len(found[1]) <= gatekeeper.MAX_TEXT


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with serving() as url:
        pass
    verdict, text = await asked(Deciding(), metric(), {"default": Server(url=url)})
    assert verdict == "error"
    assert text.startswith("no answer: Cannot connect to host 127.0.0.1")


@pytest.mark.parametrize(
    ("names", "server", "verdict", "text"),
    [
        pytest.param(("eu",), "", "good", "it is 1", id="the only one"),
        pytest.param(("eu", "default"), "", "good", "it is 1", id="the default"),
        pytest.param(
            ("eu", "us"), "", "error", "the hub knows no Prometheus 'default': it has eu, us", id="none of two is meant"
        ),
        pytest.param(
            ("prod", "test"), "prd", "error", "the hub knows no Prometheus 'prd': did you mean 'prod'?", id="a slip"
        ),
        pytest.param(
            (), "", "error", "the hub knows no Prometheus 'default': give it one with --prometheus", id="no server"
        ),
    ],
)
async def test_a_check_that_names_no_server_asks_the_only_one_or_the_default(
    names: tuple[str, ...], server: str, verdict: str, text: str
) -> None:
    async with serving(prometheus=says(vector("1"))) as url:
        found = await asked(Deciding(), metric(server=server), {name: Server(url=url) for name in names})
    assert found == (verdict, text)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        pytest.param(204, "good", id="wanted"),
        pytest.param(200, "bad", id="not wanted"),
        pytest.param(503, "bad", id="ill"),
    ],
)
async def test_a_page_answers_with_a_status_that_is_wanted_or_not(status: int, verdict: str) -> None:
    async with serving(page=says({}, status=status)) as url:
        gate = Gate(name="page", http=HttpCheck(url=f"{url}/page", status=(204, 301)))
        assert await asked(Deciding(), gate, {}) == (verdict, f"{url}/page answers {status}")


async def test_a_page_without_an_end_is_not_read() -> None:
    async with serving(page=endless) as url:
        gate = Gate(name="page", http=HttpCheck(url=f"{url}/page"))
        assert await asked(Deciding(), gate, {}) == ("good", f"{url}/page answers 200")


async def test_a_gate_that_is_passed_while_it_is_asked_is_forgotten() -> None:
    loop, come, go = Deciding(), anyio.Event(), anyio.Event()

    async def prometheus(request: web.Request) -> web.StreamResponse:
        come.set()
        await go.wait()
        return web.json_response(vector("1"))

    id_ = loop.waits(1, metric())
    async with serving(prometheus=prometheus) as url, asking(loop, {"default": Server(url=url)}) as keeper:
        await come.wait()
        before = loop.states.pop(id_)
        go.set()
        await until(lambda: loop.found(id_) and not keeper._asking and not keeper._asked_at)
        loop.states[id_] = replace(before, gates={"eu/metric": GateState(since=1.0, waived=True)})
        await anyio.sleep(0.05)  # several looks: nobody is to be asked in them
    assert len(loop.told) == 1, "the engine finds that it counts for nothing"


async def test_a_loop_that_takes_nothing_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    loop, clock = Deciding(), Clock()
    loop.refusals = [ZeroDivisionError(), Transient("journal.db", "database or disk is full")]
    id_ = loop.waits(1, metric(interval_s=5.0))
    async with serving(prometheus=says(vector("1"))) as url, asking(loop, {"default": Server(url=url)}, clock):
        for _ in range(2):
            left = len(loop.refusals)
            await until(lambda: len(loop.refusals) < left)  # noqa: B023 - it is called before the next round
            clock.now += 5.0
        await until(lambda: loop.found(id_))
    assert "disk is full" in caplog.text


def fleet(*bundles: str, **changes: Any) -> Desired:
    made = {
        BundleName(name): Bundle(name=BundleName(name), folder=name, targets=Selector(), policy=BundlePolicy(name=name))
        for name in bundles
    }
    return Desired(
        commit=Oid("a" * 40),
        fleet=Fleet(bundles=made, **changes),
        subtrees={},
        failed=frozenset({BundleName("sick")}),
        findings=(),
    )


@pytest.mark.parametrize(
    ("desired", "name", "found"),
    [
        pytest.param(fleet("db"), "db", ("good", "bundle db has finished"), id="there"),
        pytest.param(None, "db", ("error", "the fleet repo was not read yet"), id="nothing is known"),
        pytest.param(
            fleet("db"),
            "dbb",
            ("error", "there is no bundle dbb; if it was removed, promote goes on without it"),
            id="not there",
        ),
        pytest.param(fleet(lost_bundles=True), "db", ("good", "bundle db has finished"), id="may be there"),
        pytest.param(
            fleet("sick"),
            "sick",
            ("bad", "bundle sick is broken in the fleet repo, so that no rollout of it can begin"),
            id="does not render",
        ),
        pytest.param(
            fleet(broken_bundles=frozenset({"db"})),
            "db",
            ("bad", "bundle db is broken in the fleet repo, so that no rollout of it can begin"),
            id="is not valid",
        ),
    ],
)
async def test_a_bundle_that_nobody_knows_is_never_taken_for_finished(
    desired: Desired | None, name: str, found: tuple[str, str]
) -> None:
    loop = Deciding(desired=desired)
    gate = Gate(name="db", done=BundleDone(bundle=BundleName(name)))
    assert await asked(loop, gate, {}) == found


# --- what can be told at once -------------------------------------------------------------------------------------


def test_a_server_that_nobody_knows_is_told_before_the_gates_turn() -> None:
    waves = (WavePolicy(name="eu", gates=(metric(server="prd"), metric("fine", server="prod"))),)
    desired = replace(fleet(), fleet=Fleet(policies={"careful": RolloutPolicy(name="careful", waves=waves)}))
    loop = Deciding(desired=desired)
    loop.waits(1, metric(server="gone"))
    keeper = Gatekeeper(cast(Loop, loop), servers={"prod": Server(url="http://prometheus")})
    assert keeper.problems() == [
        "rollout policy careful, gate eu/metric: the hub knows no Prometheus 'prd': did you mean 'prod'?",
        "rollout shop-1, gate eu/metric: the hub knows no Prometheus 'gone': it has prod",
    ]
    assert Gatekeeper(cast(Loop, Deciding()), servers={}).problems() == []


def test_limits_are_exclusive_and_nothing_is_within_them_that_is_no_number() -> None:
    assert not gatekeeper._within(UP, math.nan)
    assert not gatekeeper._within(UP, 2.0)
    assert gatekeeper._within(UP, 1.999)
