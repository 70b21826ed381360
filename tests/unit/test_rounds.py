"""A round of all rollouts: who meets what, in which order, who is paused, what stops alone, when planning is due."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hub.journal import HoldRow
from hub.model import Cluster, Fleet
from hub.rollout import results, rollouts, rounds
from hub.rollout.rounds import Memory, Round, Said
from hub.rollout.waves import Planned
from hub.state import (
    ClusterView,
    Command,
    Event,
    Evidence,
    Hold,
    Left,
    MarkGood,
    Move,
    Phase,
    Reported,
    Rollout,
    State,
    Target,
    Tick,
    Verb,
)
from proto.errors import FlotillaError, InvalidInput, Permanent
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Health
from tests.rollout_hub import HEARTBEAT_S, NEW, OLD, SHOP, rollout, wave

C1, C2 = ClusterName("c1"), ClusterName("c2")
NOTES = BundleName("notes")
NOW = 1000.0
SHOP_1, SHOP_2, NOTES_2 = RolloutId("shop-1"), RolloutId("shop-2"), RolloutId("notes-2")
shop = rollout(wave("canary", "c1"), wave("rest", "c2"))
newer_shop = rollout(wave("all", "c1", "c2"), id=SHOP_2, number=2)
notes = rollout(
    wave("all", "c1"),
    id=NOTES_2,
    number=2,
    bundles=(NOTES,),
    targets={C1: Target(before={NOTES: OLD}, after={NOTES: NEW})},
)


def a_round(before: Memory, **changes: Any) -> Round:
    plain: dict[str, Any] = {
        "now": NOW,
        "fleet": Fleet(clusters={name: Cluster(name=name, labels={}) for name in (C1, C2)}),
        "view": {name: ClusterView(next_seq=8, last_seen=NOW, seq=7) for name in (C1, C2)},
        "holds": {},
        "commits_of": lambda _: (Oid("d" * 40),),
        "heartbeat_s": HEARTBEAT_S,
    }
    return Round(before=before, **{**plain, **changes})


def memory(*made: Rollout | State, **changes: Any) -> Memory:
    """Rollouts that need no look, unless `changes` say otherwise."""
    states = [one if isinstance(one, State) else rollouts.start(one, NOW) for one in made]
    plain: dict[str, Any] = {"wakes": {state.rollout.id: NOW + 60 for state in states}}
    return Memory(states={state.rollout.id: state for state in states}, **{**plain, **changes})


def decide(made: Round, *said: Said, look: bool = False, **told: Any) -> Round:
    made.decide(said=said, look=look, **{"heard": (), "evidence": (), **told})
    return made


def planned(*made: Rollout, **changes: Any) -> Planned:
    plain: dict[str, Any] = {"replaced": {}, "left": (), "released": frozenset(), "waiting": {}, "notices": ()}
    return Planned(rollouts=made, **{**plain, **changes})


class Person:
    """Somebody who gives commands, and hears why nothing came of one."""

    def __init__(self) -> None:
        self.refusals: list[str] = []

    def says(self, verb: Verb, to: RolloutId) -> Said:
        return Said(
            rollout=to,
            command=Command(verb=verb, actor="ann", reason="it is right"),
            refuse=lambda why: self.refusals.append(str(why)),
        )


@pytest.fixture
def ann() -> Person:
    return Person()


@pytest.fixture
def shop_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules raise whatever the rollouts of shop meet but commands."""
    decides = rollouts.decide

    def broken(state: State, events: Sequence[Event], *arguments: Any, **more: Any) -> object:
        if SHOP in state.rollout.bundles and not all(isinstance(event, Command) for event in events):
            raise KeyError("secret")
        return decides(state, events, *arguments, **more)

    monkeypatch.setattr(rollouts, "decide", broken)


# --- who meets what -----------------------------------------------------------------------------------------------


def test_rollbacks_are_decided_first_and_then_the_oldest(ann: Person) -> None:
    third = replace(notes, id=RolloutId("notes-3"), number=3)
    moved = decide(a_round(memory(third)), look=True).after()
    back = decide(a_round(moved), ann.says("rollback", third.id)).states[third.id]
    assert back.phase is Phase.ROLLING_BACK
    assert list(decide(a_round(memory(notes, shop, back)), look=True).told) == [third.id, SHOP_1, NOTES_2]


def test_each_rollout_meets_reports_of_its_clusters_and_evidence_for_its_gates_in_one_go() -> None:
    evidence = Evidence(gate="canary/page", verdict="good", text="200", asked_at=NOW)
    made = decide(
        a_round(memory(shop, notes)), heard=[C1, C1], evidence=[(SHOP_1, evidence), (RolloutId("gone-9"), evidence)]
    )
    assert made.told == {SHOP_1: [Reported(cluster=C1), evidence], NOTES_2: [Reported(cluster=C1)]}


@pytest.mark.parametrize(
    ("changes", "look", "looked"),
    [
        pytest.param({}, False, set(), id="nothing"),
        pytest.param({}, True, {SHOP_1, NOTES_2}, id="something-all-may-have-waited-for"),
        pytest.param({"wakes": {SHOP_1: NOW, NOTES_2: NOW + 1}}, False, {SHOP_1}, id="its-time-has-come"),
        pytest.param({"wakes": {SHOP_1: NOW + 1}}, False, {NOTES_2}, id="nobody-knows-its-time"),
        pytest.param({"frozen": "frozen by holidays"}, False, {SHOP_1, NOTES_2}, id="a-freeze-is-over"),
    ],
)
def test_a_rollout_is_looked_at_when_time_may_change_it(
    changes: dict[str, Any], look: bool, looked: set[RolloutId]
) -> None:
    made = decide(a_round(memory(shop, notes, **changes)), look=look)
    assert {id_ for id_, events in made.told.items() if Tick() in events} == looked


def test_who_was_looked_at_is_looked_at_again_when_the_engine_says_or_the_belt() -> None:
    looked = decide(a_round(memory(shop, wakes={}))).after()
    assert looked.wakes[SHOP_1] == pytest.approx(NOW + shop.deadline_s, abs=1)  # of the canary, which was moved
    belted = decide(a_round(memory(shop, wakes={}), look_s=3.0)).after()
    assert belted.wakes[SHOP_1] == NOW + 3
    heard = decide(a_round(looked, now=NOW + 1), heard=[C1])
    assert heard.told[SHOP_1] == [Reported(cluster=C1)]
    assert heard.after().wakes == looked.wakes  # nobody looked


def test_nothing_moves_before_the_fleet_repo_was_read() -> None:
    made = decide(a_round(memory(shop), fleet=None), look=True)
    assert made.frozen == "the fleet repo was not read yet"
    assert made.all_of(Move) == []


def test_while_fleet_yaml_is_not_valid_nothing_starts_what_is_under_way_proves_and_a_rollback_goes_on(
    ann: Person,
) -> None:
    fleet = Fleet(clusters={name: Cluster(name=name, labels={}) for name in (C1, C2)}, lost_freezes=True)
    before = decide(a_round(memory(shop)), look=True).after()
    word = BundleReport(subtree=NEW, health=Health.CURRENT, converged=True)
    view = {C1: ClusterView(next_seq=9, last_seen=NOW, seq=8, bundles={SHOP: word})}
    view[C2] = ClusterView(next_seq=8, last_seen=NOW, seq=7)
    made = decide(a_round(before, fleet=fleet, view=view), heard=[C1], look=True)
    assert (made.all_of(Move), [mark.cluster for mark in made.all_of(MarkGood)]) == ([], [C1])
    assert "fleet.yaml is not valid" in made.states[SHOP_1].reason
    back = decide(a_round(made.after(), fleet=fleet, view=view), ann.says("rollback", SHOP_1))
    assert [(move.cluster, move.back) for move in back.all_of(Move)] == [(C1, True)]


def test_what_a_round_brings_about_is_known_to_what_is_planned_in_it() -> None:
    made = decide(a_round(memory(shop)), look=True)
    assert results.running({C1: {SHOP: OLD, NOTES: OLD}, C2: {SHOP: OLD}}, made.all_of(Move)) == {
        C1: {SHOP: NEW, NOTES: OLD},
        C2: {SHOP: OLD},
    }
    proven = BundleReport(subtree=NEW, health=Health.CURRENT, converged=True)
    view = {C1: ClusterView(next_seq=9, last_seen=NOW, seq=8, bundles={NOTES: proven})}
    made = decide(a_round(decide(a_round(memory(notes)), look=True).after(), view=view), heard=[C1])
    assert results.last_good({(C1, NOTES): OLD, (C1, SHOP): OLD}, made.all_of(MarkGood)) == {
        (C1, NOTES): NEW,
        (C1, SHOP): OLD,
    }
    assert results.completed({NOTES: {C1: OLD, C2: OLD}}, made.completed()) == {NOTES: {C1: NEW, C2: OLD}}
    assert made.after().states == {}


# --- commands, and clusters that vanish ---------------------------------------------------------------------------


def test_a_command_that_does_not_fit_is_refused_and_the_next_is_obeyed(ann: Person) -> None:
    made = decide(a_round(memory(shop)), ann.says("resume", SHOP_1), ann.says("pause", SHOP_1))
    assert [said.command.verb for said in made.obeyed] == ["pause"]
    assert len(ann.refusals) == 1
    assert made.states[SHOP_1].phase is Phase.PAUSED


@pytest.mark.parametrize(
    ("holds", "remedy"),
    [
        pytest.param({}, "see 'flotilla rollouts'", id="nothing-left"),
        pytest.param(
            {SHOP: HoldRow(bundle=SHOP, rollout=SHOP_1, reason="x", time_s=0.0, refused={})},
            "retry it, or 'flotilla release shop'",
            id="left-on-hold",
        ),
    ],
)
def test_a_command_to_a_rollout_that_is_over_is_refused_with_what_to_do(
    ann: Person, holds: dict[BundleName, HoldRow], remedy: str
) -> None:
    decide(a_round(memory(notes), holds=holds), ann.says("pause", SHOP_1))
    assert ann.refusals == [f"rollout shop-1: is not under way ({remedy})"]


def test_what_runs_is_paused_once_when_many_clusters_vanish_and_a_person_may_know_better(ann: Person) -> None:
    gone = [NOW - 60.0] * 5 + [NOW] * 5
    made = decide(a_round(memory(shop, notes), last_seen=gone), ann.says("pause", NOTES_2))
    assert [(said.command.actor, said.rollout) for said in made.obeyed] == [("ann", NOTES_2), ("flotilla", SHOP_1)]
    assert made.frozen == "5 of 10 clusters fell silent within 120 s"
    again = decide(a_round(made.after(), last_seen=gone), ann.says("resume", SHOP_1))
    assert again.states[SHOP_1].phase is Phase.RUNNING
    assert decide(a_round(again.after(), last_seen=gone)).obeyed == []


def test_a_pause_that_could_not_be_stored_is_made_again() -> None:
    gone, before = [NOW - 60.0] * 5, memory(shop)
    for _ in range(2):  # what the first one leaves is lost
        made = decide(a_round(before, last_seen=gone))
        assert made.states[SHOP_1].phase is Phase.PAUSED


def test_silence_counts_for_nothing_while_agents_come_back() -> None:
    made = decide(a_round(memory(shop), last_seen=[NOW - 60.0] * 5, settle_until=NOW + 1))
    assert (made.obeyed, made.frozen) == ([], "")


# --- what stops alone ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shop_is_broken")
def test_a_rollout_that_raises_stops_alone_and_people_are_told_once() -> None:
    made = decide(a_round(memory(shop, notes)), look=True)
    assert [move.rollout for move in made.all_of(Move)] == [NOTES_2]
    [told] = made.news
    assert (told.rollout, type(told.error)) == (SHOP_1, KeyError)
    assert told.text.startswith("rollout shop-1 waits: hub: failed in a way we did not expect: KeyError")
    after = made.after()
    assert SHOP_1 not in after.wakes  # it is tried again in the next round
    assert decide(a_round(after)).news == []


@pytest.mark.usefixtures("shop_is_broken")
def test_a_rollout_that_raises_can_still_be_ended_by_a_person(ann: Person) -> None:
    made = decide(a_round(memory(shop)), ann.says("abort", SHOP_1), look=True)
    assert made.states[SHOP_1].phase is Phase.ABORTED
    assert (ann.refusals, [said.command.verb for said in made.obeyed]) == ([], ["abort"])


def test_a_step_that_is_taken_back_leaves_nothing_and_its_commander_is_told(ann: Person) -> None:
    before = memory(shop, notes)
    made = decide(a_round(before), ann.says("pause", SHOP_1), ann.says("pause", NOTES_2), look=True)
    made.hold_up(SHOP_1, InvalidInput("slice", "would have two owners"))
    assert made.states[SHOP_1] is before.states[SHOP_1]
    assert {move.rollout for move in made.all_of(Move)} == {NOTES_2}
    assert ann.refusals == ["slice: would have two owners"]
    assert [said.rollout for said in made.obeyed] == [NOTES_2]
    assert list(made.told) == [NOTES_2]


def test_a_rollout_that_began_in_the_round_and_is_taken_back_begins_in_a_later_one() -> None:
    made = a_round(memory())
    made.begin(planned(shop))
    made.hold_up(SHOP_1, Permanent("x", "y"))
    assert (made.states, made.after().plan_at) == ({}, rounds.AT_ONCE)


def test_a_rollout_whose_end_is_taken_back_has_no_other_in_its_place() -> None:
    before = memory(shop)
    made = decide(a_round(before), look=True)
    made.begin(planned(newer_shop, replaced={SHOP_1: SHOP_2}))
    assert {id_: state.phase for id_, state in made.states.items()} == {SHOP_1: Phase.REPLACED, SHOP_2: Phase.RUNNING}
    made.hold_up(SHOP_1, Permanent("slice", "would have two owners"))
    assert made.states == dict(before.states)
    assert made.all_of(Move) == []
    assert made.after().plan_at == rounds.AT_ONCE


def test_who_is_in_flight_and_not_moved_again_is_followed_in_the_rollout_that_was_replaced() -> None:
    made = decide(a_round(memory(shop)), look=True)
    made.begin(planned(newer_shop, replaced={SHOP_1: SHOP_2}, left=((SHOP_1, C1),)))
    assert list(made.after().states) == [SHOP_2]
    made = decide(a_round(memory(shop)), look=True)
    made.begin(planned(rollout(wave("all", "c2"), id=SHOP_2, number=2), replaced={SHOP_1: SHOP_2}))
    after = made.after()
    assert sorted(after.states) == [SHOP_1, SHOP_2]
    assert after.wakes[SHOP_1] > NOW, "its deadline"


@pytest.mark.usefixtures("shop_is_broken")
def test_a_leaver_that_its_rollout_could_not_take_is_planned_anew_and_the_others_begin() -> None:
    made = a_round(memory(shop))
    made.begin(planned(notes, left=((SHOP_1, C2),)))
    assert [move.rollout for move in made.all_of(Move)] == [NOTES_2]
    assert made.after().plan_at == rounds.AT_ONCE


# --- planning -----------------------------------------------------------------------------------------------------


def test_planning_is_due_with_news_when_its_time_has_come_and_when_a_rollout_stands_in_the_way_no_more(
    ann: Person,
) -> None:
    assert not decide(a_round(memory(shop))).plan_is_due(news=False)
    assert decide(a_round(memory(shop))).plan_is_due(news=True)
    assert decide(a_round(memory(shop, plan_at=NOW))).plan_is_due(news=False)
    assert decide(a_round(memory(shop)), ann.says("abort", SHOP_1)).plan_is_due(news=False)


def test_what_waits_is_planned_again_in_a_while_and_what_planning_itself_freed_at_once() -> None:
    made = a_round(memory(shop, plan_at=NOW))
    made.begin(planned())
    assert made.after().plan_at == float("inf")
    made = a_round(memory(shop))
    made.begin(planned(waiting={SHOP: "rollout shop-1 is under way"}))
    assert made.after().plan_at == NOW + rounds.WAITING_S
    made = a_round(memory(shop))
    made.begin(planned(left=((SHOP_1, C1), (SHOP_1, C2))))
    assert made.told[SHOP_1] == [Left(cluster=C1), Left(cluster=C2)]
    assert made.after().plan_at == rounds.AT_ONCE


def test_what_is_planned_takes_its_first_step_with_the_others_in_view() -> None:
    made = a_round(memory(), fleet=Fleet(clusters={C1: Cluster(name=C1, labels={}, max_changes=1)}))
    made.begin(planned(rollout(wave("all", "c1")), notes))
    assert [move.rollout for move in made.all_of(Move)] == [SHOP_1]


def test_a_bundle_that_failed_in_the_very_round_in_which_a_fix_begins_is_not_on_hold(ann: Person) -> None:
    made = decide(a_round(memory(shop)), ann.says("abort", SHOP_1))
    assert [hold.bundle for hold in made.all_of(Hold)] == [SHOP]
    assert made.on_hold()[SHOP].refused == {C1: NEW, C2: NEW}
    made.begin(planned(newer_shop, released=frozenset({SHOP})))
    assert (made.put_on_hold(), made.on_hold()) == ({}, {})


def test_a_bundle_that_a_person_keeps_ends_its_rollouts_first(ann: Person) -> None:
    made = a_round(memory(shop, notes), released={SHOP})
    with pytest.raises(FlotillaError, match="rollout shop-1 of it is running"):
        made.end(SHOP, abort=False, actor="ann", reason="x")
    made.end(SHOP, abort=True, actor="ann", reason="x")
    row = HoldRow(bundle=SHOP, rollout=RolloutId(""), reason="ann: x", time_s=NOW, refused={})
    made.keep(row)
    decide(made, look=True)
    assert {move.rollout for move in made.all_of(Move)} == {NOTES_2}
    assert (made.put_on_hold(), made.released) == ({SHOP: row}, set())
