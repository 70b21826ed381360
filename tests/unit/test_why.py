"""The story of a rollout, as its record tells it."""

from typing import Any

import pytest

from hub.model import Approval, Gate, MetricCheck
from hub.rollout import steps
from hub.rollout.story import waiting, why
from hub.rollout.story.words import duration
from hub.state import Effect, Event, State, Tick
from proto.ids import ClusterName
from proto.messages import Health
from tests.rollout_hub import NEW, OLD, Hub, rollout, wave, word

WORD = Gate(name="word", approval=Approval())
ERRORS = Gate(name="errors", when="after", metric=MetricCheck(query="rate(errors)", below=1.0))


class Recorded(Hub):
    """A rollout whose turns are kept as steps."""

    def __init__(self, *waves: Any, **changes: Any) -> None:
        super().__init__(rollout(*waves, **changes))
        self.steps: list[steps.Step] = []
        self._kept: State | None = None

    def tell(self, *events: Event, after_s: float = 0.0) -> list[Effect]:
        made = super().tell(*events, after_s=after_s)
        if self.state is not self._kept:
            self.steps.append(steps.step(self._kept, self.state, events=events, view=self.view))
            self._kept = self.state
        return made

    def why(self, cluster: str = "") -> why.Why:
        begins = steps.blank(self.state.rollout)
        return why.tell(begins, self.steps, now=self.now, cluster=cluster, view=self.view)

    def lines(self, cluster: str = "") -> list[str]:
        """Each with the seconds since the rollout was made."""
        return [f"{line.at - 1000:g} {line.text}" for line in self.why(cluster).lines]


def careful() -> Recorded:
    return Recorded(
        wave("canary", "c1", soak_s=30.0),
        wave("eu", "e1", "e2", "e3", max_concurrent=2, gates=(WORD, ERRORS)),
        wave("us", "u1", "u2"),
    )


def past_the_canary(hub: Recorded) -> Recorded:
    hub.tick(after_s=1.0)
    hub.report("c1", after_s=9.0)
    hub.report("c1", after_s=15.0)
    hub.report("c1", after_s=15.0)
    return hub


def test_a_wave_opens_soaks_and_waits_at_a_gate() -> None:
    hub = past_the_canary(careful())
    assert hub.lines() == [
        "0 commit cccccccccccc changes shop on 6 clusters: canary (1), then eu (3), then us (2)",
        "1 wave canary opens for 1 cluster",
        "1 c1 sent to slice 8: wave canary opened, 1 of 1 in flight",
        "10 c1 applied, soaking for 30 s: said Current at slice 8",
        "40 c1 proven: said Current at slice 8",
        "40 wave canary is done: 1 proven",
        "40 waits at gate eu/word: needs the word of a person",
    ]


def test_what_it_waits_for_now_comes_with_what_helps() -> None:
    hub = past_the_canary(careful())
    hub.tick(after_s=300.0)
    assert hub.why().now == (
        "running, for 5 min: wave eu waits at gate eu/word: needs the word of a person",
        "a person can open it: flotilla approve shop-1 --gate eu/word --reason WHY",
    )
    assert hub.why("e1").now == ("e1 is pending and waits for gate eu/word, for 5 min",)


def test_who_is_in_flight_is_told_with_what_it_said_last_and_when_it_fails() -> None:
    hub = careful()
    hub.tick(after_s=1.0)
    hub.report("c1", health=Health.IN_PROGRESS, converged=False, after_s=60.0)
    hub.now += 5.0
    [_, told] = hub.why().now
    assert (
        told == "c1 is moving for 1 min 5 s, says InProgress, not all applied, 5 s ago; its deadline is in 8 min 55 s"
    )


def test_a_person_opens_a_gate_and_a_freeze_holds_the_wave_then() -> None:
    hub = past_the_canary(careful())
    hub.say_to("approve", actor="dana", reason="looks fine")
    hub.frozen = "frozen by sale: black friday"
    hub.report("e1", after_s=10.0)
    hub.frozen = ""
    hub.tick(after_s=500.0)
    assert hub.lines()[7:] == [
        "40 dana: approve: looks fine",
        "40 dana agrees at gate eu/word: looks fine",
        "40 wave eu opens for 3 clusters, 2 at a time: gate word is open (the word of dana)",
        "40 e1, e2 sent to slice 8: wave eu opened, 2 of 2 in flight",
        "50 e1 proven: said Current at slice 8",
        "50 nothing more is sent: frozen by sale: black friday",
        "550 e3 sent to slice 8: no longer held (frozen by sale: black friday)",
    ]
    assert hub.why("e3").waited["frozen by sale: black friday"] == 500.0


def test_a_gate_that_answers_the_same_is_told_once() -> None:
    hub = past_the_canary(careful())
    hub.say_to("approve", actor="dana", reason="looks fine")
    hub.together(e1=word(NEW), e2=word(NEW))
    hub.report("e3")
    for verdict in ("bad", "bad", "error", "good"):
        hub.find("eu/errors", verdict, after_s=30.0)
    gates = [line.text for line in hub.why().lines if line.kind == "gate" and "errors" in line.text]
    assert gates == [
        "waits at gate eu/errors: rate(errors) has to be below 1",
        "gate eu/errors is not good: it is bad",
        "gate eu/errors cannot be asked: it is error",
        "gate eu/errors is good: it is good",
    ]


def test_a_failure_turns_it_round_and_each_way_back_is_told() -> None:
    hub = careful()
    hub.tick(after_s=1.0)
    hub.report("c1", health=Health.FAILED, after_s=9.0)
    hub.report("c1", OLD, after_s=5.0)
    assert hub.lines()[3:] == [
        "10 is rolled back: c1 failed in wave canary: Failed",
        "10 c1 sent back, as slice 9: said Failed at slice 8",
        "15 c1 back at what ran there before: said Current at slice 9",
        "15 is rolled back everywhere, its bundles are on hold: c1 failed in wave canary: Failed",
    ]
    assert hub.why().now == ()
    assert hub.why("c1").now == ("c1 is reverted",)


def test_silence_and_return_are_told_and_what_they_cost() -> None:
    hub = Recorded(wave("all", "a", "b", max_concurrent=1))
    hub.tick(after_s=1.0)
    hub.now += 100.0
    hub.see("a")
    hub.tell(Tick())
    hub.report("a")
    hub.report("b", OLD, seq=7, after_s=50.0)
    assert hub.lines("b")[2:] == [
        "101 b not there, sent later: silent for more than 60 s",
        "101 waits for clusters that are offline: wave all waits for b: offline, the budget is 0",
        "151 b sent to slice 8: back again, 1 of 1 in flight",
    ]
    assert hub.why("b").waited["it to come back"] == 50.0
    assert hub.why().waited["clusters that are offline"] == 50.0


def test_in_a_large_rollout_those_who_do_the_same_within_a_minute_share_a_line() -> None:
    names = [f"c{n:03d}" for n in range(60)]
    hub = Recorded(wave("all", *names, max_concurrent=10))
    hub.tick(after_s=1.0)
    for name in names:
        hub.report(name, after_s=0.5)
    told = hub.lines()
    assert len(told) < 10
    assert "1 c000, c001, c002, c003, c004 and 55 more sent to slice 8" in told
    assert told[-1].endswith("is completed: 60 proven")
    assert [line for line in hub.lines("c033") if "c033" in line] == [
        "13 c033 sent to slice 8: others made room, 10 of 10 in flight",
        "18 c033 proven: said Current at slice 8",
    ]


def test_what_an_older_hub_began_is_told_from_then_on() -> None:
    hub = past_the_canary(careful())
    begins = hub.state
    seen = len(hub.steps)
    hub.say_to("approve", actor="dana", reason="looks fine")
    told = why.tell(begins, hub.steps[seen:], now=hub.now)
    assert told.lines[0].text.endswith("what was before is not recorded")
    assert [line.text for line in told.lines[1:3]] == [
        "dana: approve: looks fine",
        "dana agrees at gate eu/word: looks fine",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        pytest.param(0.4, "0 s", id="nothing"),
        pytest.param(59.9, "59 s", id="seconds"),
        pytest.param(300.0, "5 min", id="whole minutes"),
        pytest.param(3725.0, "1 h 2 min", id="hours"),
        pytest.param(3 * 86400.0 + 60.0, "3 d", id="days"),
        pytest.param(-5.0, "0 s", id="a clock that was set back"),
    ],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_waits_add_up_over_their_intervals() -> None:
    times = [(0.0, "a"), (10.0, "b"), (15.0, "a"), (16.0, ""), (90.0, "b")]
    assert waiting.waited(times, 100.0) == {"b": 15.0, "a": 11.0}
    assert waiting.of_cluster(careful().state, ClusterName("u1")).startswith("an earlier wave: ")
