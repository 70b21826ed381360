"""The record of a rollout: its steps, from the start or from any state of the way, are what was decided."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from hub import record
from hub.journal import RolloutRow, StoredRollout
from hub.model import Approval, Gate, HttpCheck
from hub.rollout import rollouts, rollouts_json, steps
from hub.rollout.transitions import IllegalEvent, check
from hub.state import Command, Left, State
from proto.ids import ClusterName
from proto.messages import Health
from tests.rollout_hub import NEW, OLD, Hub, rollout, wave, word

APPROVAL = Gate(name="word", approval=Approval())
PAGE = Gate(name="page", when="after", http=HttpCheck(url="http://shop.test"))
NAMES = [f"c{n}" for n in range(7)]


def fresh(action: Any) -> Hub:
    made = rollout(
        wave("canary", *NAMES[:2], soak_s=20.0, failure_budget=1),
        wave("eu", *NAMES[2:], max_concurrent=2, min_proof=1, offline_budget=2, gates=(APPROVAL, PAGE)),
        action=action,
    )
    return Hub(made)


EVENTS = st.one_of(
    st.tuples(
        st.just("report"),
        st.sampled_from(NAMES),
        st.sampled_from([NEW, NEW, NEW, OLD]),
        st.sampled_from([Health.CURRENT, Health.CURRENT, Health.CURRENT, Health.IN_PROGRESS, Health.FAILED]),
    ),
    st.tuples(st.just("tick"), st.sampled_from([1.0, 10.0, 25.0, 700.0])),
    st.tuples(st.just("find"), st.sampled_from(["good", "bad", "error"])),
    st.tuples(st.just("left"), st.sampled_from(NAMES)),
    st.tuples(st.just("suspend"), st.sampled_from(NAMES), st.sampled_from(["", "ann: a migration"])),
    st.tuples(
        st.just("say"),
        st.sampled_from(
            ["pause", "resume", "approve", "promote", "skip-wave", "retry", "rollback", "emergency", "skip"]
        ),
    ),
)


def meet(hub: Hub, event: tuple[Any, ...]) -> None:
    try:
        match event:
            case ("report", name, subtree, health):
                hub.report(name, subtree, health, after_s=5.0)
            case ("tick", after_s):
                hub.tick(after_s=after_s, seen=after_s < 100)
            case ("find", verdict):
                hub.find("eu/page", verdict, after_s=30.0)
            case ("left", name):
                hub.tell(Left(cluster=ClusterName(name)))
            case ("suspend", name, why):
                hub.suspend(name, why)
            case ("say", verb):
                cluster = "c3" if verb == "skip" else ""
                hub.tell(Command(verb=verb, actor="ann", reason="because", cluster=cluster))
    except IllegalEvent:
        pass


def lived(action: Any, events: Sequence[tuple[Any, ...]]) -> list[State]:
    """Every state of a rollout's life, the first before anything happened."""
    hub = fresh(action)
    states = [hub.state]
    for event in (("tick", 1.0), *events):
        before = hub.state
        meet(hub, event)
        if hub.state is not before:
            states.append(hub.state)
    return states


LIVES = st.builds(lived, st.sampled_from(["rollback", "pause", "continue"]), st.lists(EVENTS, max_size=40))


@settings(max_examples=150, deadline=None)
@given(LIVES)
def test_steps_one_after_another_are_every_state_of_the_way(states: list[State]) -> None:
    made = steps.blank(states[0].rollout)
    known = None
    for after in states:
        made = steps.apply(made, steps.from_json(steps.to_json(steps.step(known, after))))
        assert made == after
        check(made, {})
        known = after


@settings(max_examples=100, deadline=None)
@given(LIVES, st.data())
def test_the_difference_of_any_two_states_leads_from_one_to_the_other(states: list[State], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(states) - 1))
    last = data.draw(st.integers(first, len(states) - 1))
    assert steps.apply(states[first], steps.step(states[first], states[last])) == states[last]
    assert rollouts_json.from_json(rollouts_json.to_json(states[last])) == states[last]


class Stored:
    """What a journal keeps of one rollout, killed and read again as often as a test wants."""

    def __init__(self) -> None:
        self.rows: list[RolloutRow] = []
        self.tail = record.Tail()

    def keep(self, before: State | None, after: State) -> None:
        row = record.row(before, after, tail=self.tail)
        self.rows.append(row)
        self.tail = record.after(self.tail, row)

    def read(self) -> StoredRollout:
        whole = max((row.n for row in self.rows if row.whole), default=0)
        last = self.rows[-1]
        return StoredRollout(
            number=last.number,
            id=last.id,
            phase=last.phase,
            alive=last.alive,
            begins=self.rows[0].begins,
            whole=self.rows[whole - 1].whole if whole else b"",
            steps=tuple(row.step for row in self.rows if row.n > whole),
            n=last.n,
        )


@settings(max_examples=100, deadline=None)
@given(LIVES, st.sets(st.integers(0, 40)))
def test_a_hub_killed_after_any_turn_reads_the_very_state_and_goes_on_from_it(
    states: list[State], killed: set[int]
) -> None:
    kept = Stored()
    before = None
    for index, after in enumerate(states):
        kept.keep(before, after)
        before = after
        if index in killed:
            found = kept.read()
            before, kept.tail = record.restored(found), record.tail(found)
            assert before == after
    assert record.restored(kept.read()) == states[-1]
    assert rollouts.alive(states[-1]) is kept.rows[-1].alive


def test_the_record_is_written_whole_again_when_its_steps_outweigh_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(record, "LEAST_BYTES", 0)
    hub, kept = Hub(rollout(wave("all", *NAMES, soak_s=10_000.0), deadline_s=1e6)), Stored()
    hub.tick(after_s=1.0)
    kept.keep(None, hub.state)
    for _ in range(120):
        before = hub.state
        hub.together(**dict.fromkeys(NAMES, word(NEW)))
        hub.now += 5.0
        if hub.state is not before:
            kept.keep(before, hub.state)
    wholes = [row.n for row in kept.rows if row.whole]
    assert len(wholes) > 2
    written = sum(len(row.whole) for row in kept.rows)
    assert written <= 2 * sum(len(row.step) for row in kept.rows)
    assert record.restored(kept.read()) == hub.state
    assert record.tail(kept.read()) == kept.tail
    assert kept.tail.since <= kept.tail.whole
