"""What rollouts wait for, as the API tells it and the command line shows it."""

from dataclasses import replace
from typing import Any

import pytest

from hub.api import waiting
from hub.cli import waiting as shown
from hub.model import Approval, BundleDone, Cluster, Fleet, Freeze, Gate, HttpCheck, MetricCheck, Selector
from hub.repo import windows
from proto.ids import BundleName, ClusterName
from tests.rollout_hub import Hub, rollout, wave

APPROVAL = Gate(name="approval", approval=Approval(approvers=2, expires_s=3600.0), timeout_s=7200.0)
METRIC = Gate(name="errors", metric=MetricCheck(query="rate(errors[5m])", below=0.01))
NOBODY = {"clusters": [], "total": 0, "command": ""}
MONDAY_9 = 1_764_579_600.0 - 86400.0
"""2025-11-30 was a Sunday: this is Sunday 09:00 UTC."""


def at_the_gates(*gates: Gate, **changes: Any) -> Hub:
    hub = Hub(rollout(wave("canary", "c1"), wave("eu", "c2", "c3", gates=gates), **changes))
    hub.tick()
    hub.report("c1")
    return hub


def told(hub: Hub) -> dict[str, Any]:
    return waiting.of_rollout(hub.state, hub.now)


def test_a_gate_says_what_it_wants_since_when_who_agreed_and_what_to_do() -> None:
    hub = at_the_gates(APPROVAL, METRIC)
    hub.say_to("approve", reason="looked at it", gate="approval")
    hub.find("eu/errors")
    [approval, errors] = told(hub)["gates"]
    assert approval == {
        "gate": "eu/approval",
        "wave": "eu",
        "when": "before",
        "check": "approval",
        "state": "waits",
        "since": "1970-01-01T00:16:40.000Z",
        "until": "1970-01-01T02:16:40.000Z",
        "wants": "needs the word of 2 people",
        "found": "approved by ann, 1 of 2",
        "votes": [
            {
                "actor": "ann",
                "reason": "looked at it",
                "at": "1970-01-01T00:16:40.000Z",
                "expires": "1970-01-01T01:16:40.000Z",
            }
        ],
        "needs": 2,
        "command": "flotilla approve shop-1 --gate eu/approval --reason …",
    }
    assert (errors["check"], errors["state"], errors["found"], errors["command"]) == (
        "metric",
        "open",
        "it is good",
        "",
    )


def test_a_word_that_is_too_old_is_not_shown_as_if_it_counted() -> None:
    hub = at_the_gates(APPROVAL)
    hub.say_to("approve")
    hub.tick(after_s=3601.0)
    assert told(hub)["gates"][0]["votes"] == []


@pytest.mark.parametrize(
    ("act", "word"),
    [
        pytest.param(lambda hub: hub.say_to("reject", reason="no"), "failed", id="rejected"),
        pytest.param(lambda hub: hub.say_to("pause"), "waits", id="paused"),
    ],
)
def test_a_gate_of_a_rollout_that_does_not_run_asks_for_nothing(act: Any, word: str) -> None:
    hub = at_the_gates(APPROVAL, action="pause")
    act(hub)
    [gate] = told(hub)["gates"]
    assert (gate["state"], gate["command"]) == (word, "")


def test_gates_behind_and_ahead_are_not_told_and_neither_are_those_of_a_rollout_that_is_over() -> None:
    hub = Hub(
        rollout(wave("canary", "c1", gates=(replace(METRIC, when="after"),)), wave("eu", "c2", gates=(APPROVAL,)))
    )
    assert told(hub)["gates"] == []
    hub.tick()
    hub.report("c1")
    assert [gate["gate"] for gate in told(hub)["gates"]] == ["canary/errors"]
    hub.find("canary/errors")
    assert [gate["gate"] for gate in told(hub)["gates"]] == ["eu/approval"]
    hub.say_to("abort")
    assert told(hub) == {"gates": [], "window": None, "held": [], "offline": NOBODY, "emergency": ""}


@pytest.mark.parametrize(
    ("gate", "word"),
    [
        pytest.param(APPROVAL, "approval", id="approval"),
        pytest.param(METRIC, "metric", id="metric"),
        pytest.param(Gate(name="g", http=HttpCheck(url="http://shop/ok")), "http", id="http"),
        pytest.param(Gate(name="g", done=BundleDone(bundle=BundleName("db"))), "bundle", id="bundle"),
    ],
)
def test_a_gate_is_called_by_the_word_of_its_policy(gate: Gate, word: str) -> None:
    assert told(at_the_gates(gate))["gates"][0]["check"] == word


def test_a_window_says_when_it_opens_on_its_own_wall_and_in_utc() -> None:
    hub = at_the_gates(windows=(windows.parse("Fri 16:00-Mon 08:00 Europe/Berlin", deny=True),))
    hub.now = MONDAY_9
    assert told(hub)["window"] == {
        "text": "no moves Fri 16:00-Mon 08:00 Europe/Berlin",
        "opens": "2025-12-01T07:00:00.000Z",
        "opens_local": "Mon 2025-12-01 08:00 Europe/Berlin",
    }
    hub.say_to("emergency")
    assert told(hub)["window"] is None
    assert told(hub)["emergency"] == "ann: it is right"


def test_windows_that_never_open_say_so() -> None:
    never = (windows.parse("Mon 09:00-10:00 UTC", deny=False), windows.parse("Mon 09:00-10:00 UTC", deny=True))
    hub = at_the_gates(windows=never)
    assert told(hub)["window"]["opens"] == ""
    assert told(hub)["window"]["opens_local"] == ""


def test_why_clusters_are_held_is_told_once_with_their_number() -> None:
    hub = Hub(rollout(wave("all", "a", "b", "c")))
    hub.held = {"a": "frozen by holidays", "b": "frozen by holidays"}
    hub.view[ClusterName("c")] = replace(hub.view[ClusterName("c")], cordoned="bob: new disks")
    hub.tick()
    assert told(hub)["held"] == [
        {"why": "frozen by holidays", "clusters": ["a", "b"], "total": 2},
        {"why": "cordoned: bob: new disks", "clusters": ["c"], "total": 1},
    ]
    assert waiting.causes(hub.state, hub.now) == {"clusters": 1}


def test_clusters_that_are_offline_are_told_when_nothing_else_keeps_the_wave_with_the_command_that_leaves_one_out() -> (
    None
):
    hub = Hub(rollout(wave("all", "a", "b", max_concurrent=1)))
    hub.tick()
    hub.now += 100.0
    hub.see("a")
    hub.tick(seen=False)
    assert told(hub)["offline"] == NOBODY, "a is on its way yet"
    hub.report("a")
    assert [line.plain for line in shown.of_rollout(told(hub))] == [
        "offline     b: the wave waits for what is offline",
        "→           flotilla skip shop-1 b --reason …",
    ]
    assert (told(hub)["offline"]["clusters"], told(hub)["offline"]["total"]) == (["b"], 1)
    hub.say_to("pause")
    assert told(hub)["offline"] == NOBODY


def test_freezes_that_run_and_those_to_come_are_told_in_their_order_with_whom_they_freeze() -> None:
    eu = Selector(match_labels={"region": "eu"})
    fleet = Fleet(
        clusters={
            ClusterName(name): Cluster(name=ClusterName(name), labels={"region": region})
            for name, region in (("eu-1", "eu"), ("us-1", "us"))
        },
        freezes=(
            Freeze(name="later", start_s=3000.0, end_s=4000.0, reason="audit", select=eu),
            Freeze(name="now", start_s=1000.0, end_s=2000.0),
            Freeze(name="over", start_s=500.0, end_s=1000.0),
        ),
    )
    found = waiting.freezes(fleet, 1000.0)
    assert [(row["name"], row["now"], row["everywhere"], row["clusters"]) for row in found] == [
        ("now", True, True, 2),
        ("later", False, False, 1),
    ]
    assert [shown.freeze(row).plain for row in found] == [
        "frozen      now: all clusters until 1970-01-01T00:33:20.000Z",
        "freeze      later: 1 cluster from 1970-01-01T00:50:00.000Z to 1970-01-01T01:06:40.000Z (audit)",
    ]


def test_the_command_line_ends_with_what_a_person_can_do() -> None:
    hub = at_the_gates(APPROVAL)
    hub.say_to("approve", reason="[bold]looked at it")
    lines = [line.plain for line in shown.of_rollout(told(hub))]
    assert lines[0].startswith("gate        eu/approval waits since ")
    assert lines[0].endswith(": needs the word of 2 people; approved by ann, 1 of 2")
    assert lines[1].endswith("[bold]looked at it")
    assert lines[-1] == "→           flotilla approve shop-1 --gate eu/approval --reason …"
