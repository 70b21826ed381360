"""Gates, windows and freezes as a hub lives through them: its loop with journal and store, its gatekeeper, servers that
answer over HTTP, and a clock that the test moves. Nothing tells the loop the time: each wave opens by its own look."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest
from aiohttp import web

from hub import gatekeeper
from hub import loop as hubs_loop
from hub.api import waiting
from hub.desired import Desired
from hub.gatekeeper import Gatekeeper, Server
from hub.inputs import ToRollout
from hub.model import (
    Amount,
    Approval,
    BundleDone,
    Cluster,
    FailurePolicy,
    Freeze,
    Gate,
    HttpCheck,
    MetricCheck,
    RolloutPolicy,
    Selector,
    WavePolicy,
    Window,
)
from hub.repo import windows
from hub.state import Command, State, Verb
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName, RolloutId
from proto.messages import Health
from tests.agents import until
from tests.unit.test_loop import CANARY, CLUSTERS, EU, EU2, NOTES, SHOP, Hub, running

STEP_S = 10.0
"""Of the clock: less than what the loop takes for a jump, and often enough for heartbeats."""
ROLLOUT = RolloutId("shop-1")
ASK_S = 20.0
METRIC = MetricCheck(query="errors", below=5.0, interval_s=ASK_S)


class Answers:
    """What is asked over HTTP answers what the test says: `value` is the query's, None for no data; `status` the
    page's. `silent` takes questions and never answers."""

    def __init__(self) -> None:
        self.value: str | None = None
        self.status = 503
        self.silent = False
        self.asked = 0

    async def prometheus(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.silent:
            await anyio.sleep_forever()
        found = [] if self.value is None else [{"metric": {}, "value": [0, self.value]}]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": found}})

    async def page(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=self.status)


class Operating:
    """A hub whose loop and gatekeeper run, over a folder that outlives it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.loop = hub.loop
        self.well = True

    @property
    def now(self) -> float:
        return self.hub.clock.now

    def state(self, rollout: RolloutId = ROLLOUT) -> State:
        return self.loop.states[rollout]

    def reason(self, bundle: BundleName = SHOP) -> str:
        """Why the bundle's rollout waits, "" when it is over."""
        return next((state.reason for state in self.loop.states.values() if bundle in state.rollout.bundles), "")

    def moved(self, bundle: BundleName = SHOP) -> set[ClusterName]:
        return {cluster for cluster, row in self.loop.slices.items() if bundle in row.manifest.bundles}

    async def heard(self, *clusters: ClusterName) -> None:
        """Clusters (all, without names) say that they run their slices, and are well."""
        known = self.loop.desired.fleet.clusters if self.loop.desired else CLUSTERS
        for cluster in clusters or known:
            await self.loop.tell(self.hub.says(cluster, Health.CURRENT if self.well else Health.IN_PROGRESS))

    async def looked(self) -> None:
        """The loop has had a turn with the time that it is, and each check that was due is answered."""
        await until(lambda: self.loop._turned_at == self.now)
        await self.loop.turning.acquire()
        self.loop.turning.release()

    async def passes(self, seconds: float, *, heard: bool = True) -> None:
        """So much time goes by; clusters send heartbeats meanwhile."""
        end = self.now + seconds
        while self.now < end:
            self.hub.clock.now = min(end, self.now + STEP_S)
            await self.looked()
            if heard:
                await self.heard()

    async def asks(self, verb: Verb, *, actor: str = "ann", gate: str = "") -> None:
        command = Command(verb=verb, actor=actor, reason="it is right", gate=gate)
        await self.loop.tell(ToRollout(rollout=ROLLOUT, command=command))

    async def commits(self, desired: Desired) -> None:
        """A commit arrives, and its canary proves it."""
        await self.heard()
        await self.loop.tell(desired)
        await self.heard(CANARY)


@asynccontextmanager
async def operating(
    folder: Path, *, servers: dict[str, Server] | None = None, now: float = 0.0
) -> AsyncIterator[Operating]:
    async with running(folder) as hub:
        if now:
            hub.clock.now = now
        keeper = Gatekeeper(hub.loop, servers=servers or {}, clock=hub.clock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.loop.run)
            tasks.start_soon(keeper.run)
            yield Operating(hub)
            tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come often, and a rollout is looked at in its own time alone: without the belt beside the braces."""
    monkeypatch.setattr(hubs_loop, "TICK_S", 0.002)
    monkeypatch.setattr(hubs_loop, "LOOK_S", math.inf)
    monkeypatch.setattr(gatekeeper, "LOOK_S", 0.002)


@pytest.fixture
async def answers() -> AsyncIterator[tuple[Answers, str]]:
    made = Answers()
    application = web.Application()
    application.router.add_post("/api/v1/query", made.prometheus)
    application.router.add_get("/healthy", made.page)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def behind(hub: Hub, *gates: Gate, policy: dict[str, Any] | None = None, **of_fleet: Any) -> Desired:
    """A fleet in which the shop goes to a canary, and then to the rest behind these gates."""
    made = hub.desired("a", {SHOP: hub.subtree("shop", "one")})
    careful = RolloutPolicy(
        name="careful",
        waves=(
            WavePolicy(name="canary", select=Selector(match_labels={"canary": "true"})),
            WavePolicy(
                name="eu",
                select=Selector(match_labels={"region": "eu"}),
                gates=gates,
                max_concurrent=Amount(value=1),
            ),
        ),
        failure=FailurePolicy(deadline_s=600.0),
        offline_after_s=100_000.0,
    )
    fleet = replace(made.fleet, policies={"careful": replace(careful, **(policy or {}))}, **of_fleet)
    return replace(made, fleet=fleet, subtrees={SHOP: dict.fromkeys(fleet.clusters, made.subtrees[SHOP][EU])})


def kinds(hub: Hub) -> list[str]:
    return [event.kind for event in hub.journal.events()]


# --- people -------------------------------------------------------------------------------------------------------


async def test_two_people_open_a_gate_unless_one_word_grew_old_meanwhile(tmp_path: Path) -> None:
    gate = Gate(name="word", approval=Approval(approvers=2, by=("ann", "bob", "cleo"), expires_s=3600.0))
    async with operating(tmp_path) as fleet:
        await fleet.commits(behind(fleet.hub, gate))
        assert "gate eu/word: needs the word of 2 people" in fleet.reason()
        await fleet.asks("approve")
        await fleet.asks("approve")
        assert "approved by ann, 1 of 2" in fleet.reason()
        with pytest.raises(InvalidInput, match="mallory is not among those who may approve"):
            await fleet.asks("approve", actor="mallory")
        await fleet.passes(3610.0)
        await fleet.asks("approve", actor="bob")
        assert "1 of 2" in fleet.reason()
        assert fleet.moved() == {CANARY}
        [told] = waiting.at_gates(fleet.state(), fleet.now)
        assert [vote["actor"] for vote in told["votes"]] == ["bob"]
        await fleet.asks("approve", actor="cleo")
        assert fleet.moved() == {CANARY, EU}
        await fleet.heard()
        assert fleet.hub.phases() == {"shop-1": "completed"}


async def test_a_gate_that_nobody_speaks_at_fails_by_itself_when_its_time_is_over(tmp_path: Path) -> None:
    gate = Gate(name="word", approval=Approval(), timeout_s=600.0)
    async with operating(tmp_path) as fleet:
        await fleet.commits(behind(fleet.hub, gate))
        await fleet.passes(600.0, heard=False)
        assert fleet.state().phase == "running"
        fleet.hub.clock.now += 1.0
        await until(lambda: fleet.state().phase == "rolling-back")
        assert "gate eu/word: not passed within 600 s" in fleet.reason()
        await fleet.heard()
        assert fleet.hub.phases() == {"shop-1": "rolled-back"}
        assert fleet.moved() == set()


# --- checks -------------------------------------------------------------------------------------------------------


async def test_a_metric_opens_its_gate_when_it_was_good_for_so_long_and_no_data_is_not(
    tmp_path: Path, answers: tuple[Answers, str]
) -> None:
    said, url = answers
    gate = Gate(name="errors", metric=replace(METRIC, for_s=60.0))
    async with operating(tmp_path, servers={"default": Server(url=url)}) as fleet:
        await fleet.commits(behind(fleet.hub, gate))
        await until(lambda: "no data" in fleet.reason())
        await fleet.passes(120.0)
        assert fleet.moved() == {CANARY}
        said.value = "2"
        await asked_again(fleet, said, lambda: "it is 2" in fleet.reason())
        began = fleet.now
        for value in ("2", "7"):  # good for a while is not good on end
            said.value = value
            await asked_again(fleet, said, lambda: f"it is {said.value}" in fleet.reason())
        assert fleet.now - began < 60.0
        said.value = "3"
        await asked_again(fleet, said, lambda: "it is 3" in fleet.reason())
        good_since = fleet.now
        while fleet.moved() == {CANARY}:
            assert fleet.now - good_since <= 60.0 + ASK_S, fleet.reason()
            await asked_again(fleet, said, lambda: fleet.reason() == "" or "it is 3" in fleet.reason())
        assert fleet.now - good_since >= 60.0


async def asked_again(fleet: Operating, said: Answers, taken: Callable[[], bool]) -> None:
    """Its interval goes by, the gate is asked, and the loop has taken the answer."""
    before = said.asked
    await fleet.passes(ASK_S)
    await until(lambda: said.asked > before and taken(), what="an answer")


async def test_a_page_opens_its_gate_once_it_answers_as_wanted(tmp_path: Path, answers: tuple[Answers, str]) -> None:
    said, url = answers
    gate = Gate(name="page", http=HttpCheck(url=f"{url}/healthy", interval_s=ASK_S))
    async with operating(tmp_path) as fleet:
        await fleet.commits(behind(fleet.hub, gate))
        await until(lambda: "answers 503" in fleet.reason())
        said.status = 200
        await fleet.passes(ASK_S)
        await until(lambda: fleet.moved() == {CANARY, EU})


async def test_a_server_that_is_gone_holds_the_wave_for_as_long_as_it_is_and_fails_nothing(
    tmp_path: Path,
) -> None:
    gate = Gate(name="page", http=HttpCheck(url="http://127.0.0.1:1/", interval_s=ASK_S), timeout_s=60.0)
    async with operating(tmp_path) as fleet:
        await fleet.commits(behind(fleet.hub, gate))
        came_at = fleet.now
        for _ in range(12):
            before = fleet.state().gates["eu/page"].last_at
            await fleet.passes(ASK_S)
            await until(lambda: fleet.state().gates["eu/page"].last_at > before)  # noqa: B023 - before the next round
        assert "gate eu/page: cannot be asked: no answer: Cannot connect" in fleet.reason()
        assert fleet.state().phase == "running"
        assert fleet.moved() == {CANARY}
        assert kinds(fleet.hub).count("gate-error") == 1
        assert waiting.shut_since(fleet.state(), fleet.now) == [("http", came_at)]
        await fleet.asks("promote")
        assert fleet.moved() == {CANARY, EU}


async def test_a_server_that_never_answers_is_said_to_and_keeps_no_other_rollout(
    tmp_path: Path, answers: tuple[Answers, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatekeeper, "TIME_LIMIT_S", 0.1)
    said, url = answers
    said.silent = True
    async with operating(tmp_path, servers={"default": Server(url=url)}) as fleet:
        hub = fleet.hub
        made = behind(hub, Gate(name="errors", metric=METRIC, timeout_s=60.0))
        notes = hub.desired("a", {NOTES: hub.subtree("notes", "one", name="notes")})
        free = replace(notes.fleet.bundles[NOTES], rollout="")
        fleet_ = replace(made.fleet, bundles={**made.fleet.bundles, NOTES: free})
        await fleet.commits(replace(made, fleet=fleet_, subtrees={**made.subtrees, **notes.subtrees}))
        await until(lambda: "cannot be asked: no answer within" in fleet.reason())
        await fleet.passes(200.0)
        await until(lambda: fleet.moved(NOTES) == {CANARY, EU})
        assert fleet.moved() == {CANARY}
        assert "gate eu/errors: cannot be asked" in fleet.reason()


async def test_a_wave_waits_until_another_bundle_has_finished_and_while_that_is_on_hold(tmp_path: Path) -> None:
    gate = Gate(name="notes", done=BundleDone(bundle=NOTES))
    async with operating(tmp_path) as fleet:
        hub = fleet.hub
        made = behind(hub, gate)
        notes = hub.desired("a", {NOTES: hub.subtree("notes", "one", name="notes")})
        word = Gate(name="word", approval=Approval())
        slow = replace(
            made.fleet.policies["careful"],
            name="slow",
            waves=(WavePolicy(name="all", select=Selector(), gates=(word,)),),
        )
        fleet_ = replace(
            made.fleet,
            bundles={**made.fleet.bundles, NOTES: replace(notes.fleet.bundles[NOTES], rollout="slow")},
            policies={**made.fleet.policies, "slow": slow},
        )
        await fleet.commits(replace(made, fleet=fleet_, subtrees={**made.subtrees, **notes.subtrees}))
        other = next(state.rollout.id for state in fleet.loop.states.values() if NOTES in state.rollout.bundles)
        await until(lambda: f"{other} is running" in fleet.reason())
        await fleet.passes(60.0)
        assert fleet.moved() == {CANARY}
        yes = Command(verb="approve", actor="ann", reason="it is right")
        await fleet.loop.tell(ToRollout(rollout=other, command=yes))
        await until(lambda: fleet.moved(NOTES) == {CANARY, EU})
        assert fleet.moved() == {CANARY}, "the notes have still to prove themselves"
        await fleet.passes(30.0)
        await until(lambda: fleet.moved() == {CANARY, EU})


# --- the clock ----------------------------------------------------------------------------------------------------


def wall(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def denies(text: str) -> Window:
    found = windows.parse(text, deny=True)
    assert isinstance(found, Window)
    return found


@pytest.mark.parametrize(
    ("window", "shut", "opens"),
    [
        pytest.param("Mon-Fri 09:00-17:00 Europe/Berlin", "2026-07-07T16:55", "2026-07-07T17:00", id="an evening"),
        pytest.param("01:00-02:30 Europe/Berlin", "2026-03-29T01:55", "2026-03-29T03:00", id="an hour left out"),
        pytest.param("01:00-03:30 Europe/Berlin", "2026-03-29T03:25", "2026-03-29T03:30", id="after the hour left out"),
        pytest.param("01:00-03:30 Europe/Berlin", "2026-10-25T03:25", "2026-10-25T03:30", id="after the hour twice"),
    ],
)
async def test_a_window_opens_by_the_clock_on_the_wall_not_a_second_sooner_and_by_itself(
    tmp_path: Path, window: str, shut: str, opens: str
) -> None:
    async with operating(tmp_path, now=wall(shut)) as fleet:
        made = behind(fleet.hub, policy={"windows": (denies(window),)})
        await fleet.heard()
        await fleet.loop.tell(made)
        assert f"no moves {window}" in fleet.reason()
        await fleet.passes(wall(opens) - 1.0 - fleet.now, heard=False)
        assert fleet.moved() == set()
        fleet.hub.clock.now += 1.0
        await until(lambda: fleet.moved() == {CANARY})


async def test_a_freeze_that_begins_in_the_middle_of_a_wave_lets_who_moved_prove_and_nobody_begin_until_it_ends(
    tmp_path: Path,
) -> None:
    three = {**CLUSTERS, EU2: Cluster(name=EU2, labels={"region": "eu"})}
    async with operating(tmp_path) as fleet:
        freeze = Freeze(name="sale", start_s=fleet.now + 60.0, end_s=fleet.now + 3600.0, reason="the big sale")
        await fleet.commits(behind(fleet.hub, clusters=three, freezes=(freeze,)))
        assert fleet.moved() == {CANARY, EU}, "one at a time"
        fleet.well = False
        await fleet.passes(61.0)
        fleet.well = True
        await fleet.heard(EU)
        assert "frozen by sale: the big sale" in fleet.reason()
        assert str(fleet.state().members[EU].phase) == "proven", "what is under way goes on"
        await fleet.passes(freeze.end_s - 1.0 - fleet.now, heard=False)
        assert fleet.moved() == {CANARY, EU}
        await fleet.passes(1.0 + 5.0, heard=False)  # freezes are looked at each five seconds
        await until(lambda: fleet.moved() == {CANARY, EU, EU2})
        await fleet.heard()
        assert fleet.hub.phases() == {"shop-1": "completed"}


# --- the hub is away ----------------------------------------------------------------------------------------------


async def test_a_hub_that_is_started_again_at_a_gate_keeps_words_and_fails_nothing_for_the_time_it_was_away(
    tmp_path: Path, answers: tuple[Answers, str]
) -> None:
    said, url = answers
    servers = {"default": Server(url=url)}
    said.value = "2"
    gates = (
        Gate(name="word", approval=Approval(approvers=2), timeout_s=900.0),
        Gate(name="errors", metric=replace(METRIC, for_s=60.0), timeout_s=900.0),
    )
    async with operating(tmp_path, servers=servers) as fleet:
        await fleet.commits(behind(fleet.hub, *gates))
        await fleet.asks("approve")
        await until(lambda: fleet.state().gates["eu/errors"].true_since > 0)
        away_at = fleet.now
    async with operating(tmp_path, servers=servers, now=away_at + 7200.0) as again:
        hub = again.hub
        await again.looked()
        assert again.state().phase == "running"
        assert "approved by ann, 1 of 2" in again.reason()
        [word, errors] = waiting.at_gates(again.state(), again.now)
        assert (word["state"], errors["state"]) == ("waits", "waits"), "what was measured two hours ago is nothing now"
        await again.loop.tell(behind(hub, *gates))
        await again.heard()
        await again.passes(100.0)
        await until(lambda: again.state().gates["eu/errors"].text == "it is 2")
        assert again.moved() == {CANARY}
        await again.asks("approve", actor="bob")
        await until(lambda: again.moved() == {CANARY, EU})
        await again.heard()
        assert hub.phases() == {"shop-1": "completed"}
        assert hub.journal.slices()[EU].seq == 1
