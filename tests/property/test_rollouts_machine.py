"""The pure engine against random rollouts and random sequences of events, commands and silence.

At every step: the same arguments give the same decision, also for a state that went through the journal's bytes; an
illegal event raises and changes nothing; every invariant holds, counted anew; neither a report of a cluster that does
not concern the rollout nor what is known of other clusters changes anything; and no tick changes anything before the
time at which the engine asked for one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hub.model import Approval, Gate, HttpCheck
from hub.repo import windows
from hub.rollout import rollouts, rollouts_json, transitions, turn
from hub.rollout.transitions import IllegalEvent
from hub.state import (
    VERBS,
    ClusterView,
    Command,
    Effect,
    Event,
    Evidence,
    Left,
    MemberPhase,
    Move,
    Phase,
    Reported,
    Rollout,
    State,
    Target,
    Tick,
    WakeAt,
    Wave,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Health

HEARTBEAT_S = 10.0
SHOP = BundleName("shop")
OLD, NEW = Oid("a" * 40), Oid("b" * 40)
START = 1_774_746_000.0
"""2026-03-29 01:00 UTC, when clocks in Europe jump."""

STRANGERS = {
    ClusterName("d-silent"): ClusterView(next_seq=1),
    ClusterName("d-seen"): ClusterView(next_seq=1, last_seen=START),
    ClusterName("d-suspended"): ClusterView(next_seq=1, last_seen=START, suspended={SHOP: "ann: a migration"}),
    ClusterName("d-cordoned"): ClusterView(next_seq=1, last_seen=START, cordoned="ann: broken"),
}
"""Clusters of other rollouts."""

some_gates = st.lists(
    st.sampled_from(
        [
            Gate(name="word", approval=Approval()),
            Gate(name="two", when="after", approval=Approval(approvers=2, by=("ann", "bob", "cy"), expires_s=200.0)),
            Gate(name="page", http=HttpCheck(url="http://shop.test", for_s=60.0, interval_s=30.0), timeout_s=300.0),
            Gate(name="late", when="after", http=HttpCheck(url="http://shop.test", interval_s=10.0)),
        ]
    ),
    max_size=2,
    unique_by=lambda gate: gate.name,
)
some_windows = st.lists(
    st.sampled_from(
        [
            windows.parse("Sun 03:10-Sun 03:30 Europe/Berlin", deny=True),
            windows.parse("Mon-Sun 01:55-03:20 Europe/Berlin", deny=False),
        ]
    ),
    max_size=1,
)


@st.composite
def waves_of(draw: st.DrawFn, name: str, clusters: tuple[ClusterName, ...]) -> Wave:
    size = len(clusters)
    return Wave(
        name=name,
        clusters=clusters,
        max_concurrent=draw(st.integers(1, size)),
        soak_s=draw(st.sampled_from([0.0, 20.0, 60.0])),
        min_proof=draw(st.integers(1, size)),
        offline_budget=draw(st.integers(0, 1)),
        failure_budget=draw(st.integers(0, 1)),
        max_unavailable=draw(st.sampled_from([None, 1, 2])),
        allow_empty=draw(st.booleans()),
        gates=tuple(draw(some_gates)),
        windows=tuple(draw(some_windows)),
    )


@st.composite
def some_rollouts(draw: st.DrawFn) -> Rollout:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    named = [tuple(ClusterName(f"{'abc'[i]}{n}") for n in range(size)) for i, size in enumerate(sizes)]
    waves = tuple(draw(waves_of(name=f"wave-{i}", clusters=clusters)) for i, clusters in enumerate(named))
    return Rollout(
        id=RolloutId("shop-1"),
        number=1,
        bundles=(SHOP,),
        revision=Oid("c" * 40),
        made_at=START,
        targets={c: Target(before={SHOP: OLD}, after={SHOP: NEW}) for clusters in named for c in clusters},
        waves=waves,
        deadline_s=draw(st.sampled_from([60.0, 300.0])),
        action=draw(st.sampled_from(["rollback", "pause", "continue"])),
        offline_after_s=60.0,
        failure_total=draw(st.sampled_from([None, 0, 1])),
        fixes=draw(st.sampled_from(["wait", "jump"])),
        windows=tuple(draw(some_windows)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One call of `decide`, as it has to be made again for the same answer."""

    events: tuple[Event, ...]
    view: dict[ClusterName, ClusterView]
    now: float
    around: dict[str, Any]
    made: tuple[State, tuple[Effect, ...]]


class Rollouts(RuleBasedStateMachine):
    @initialize(made=some_rollouts(), settles=st.booleans(), health=st.sampled_from(list(Health)))
    def begin(self, made: Rollout, settles: bool, health: Health) -> None:
        self.now = START
        self.settle_until = START + 2 * HEARTBEAT_S if settles else 0.0
        self.frozen = ""
        self.held: dict[ClusterName, str] = {}
        self.busy: set[ClusterName] = set()
        word = BundleReport(subtree=OLD, health=health, converged=True)
        self.view = {c: ClusterView(next_seq=8, last_seen=START, seq=7, bundles={SHOP: word}) for c in made.targets}
        self.state = self.first = rollouts.start(made, self.now)
        self.wake = 0.0
        self.told: list[Told] = []
        self._tell(Tick())

    # --- what happens ---

    @rule(s=st.sampled_from([1.0, 7.0, 10.0, 25.0, 70.0, 130.0, 400.0]), seen=st.booleans())
    def time_passes(self, s: float, seen: bool) -> None:
        """The loop's clock; with `seen` every cluster sends a heartbeat just now."""
        self.now += s
        self._look_at_the_clock()
        if seen:
            for cluster, view in self.view.items():
                self.view[cluster] = replace(view, last_seen=self.now)
            self._tell(*(Reported(cluster=c) for c in self.view if rollouts.concerns(self.state, c)))
            self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        """Give a tick when the engine asked for one by now; else none may change anything."""
        if not rollouts.alive(self.state) or self.now >= self.wake:
            self._tell(Tick())
            return
        after, effects = self._ask((Tick(),))
        told = _difference(self.state, after)
        assert not told, f"a tick changes something {self.wake - self.now} s early: {told}"
        assert not any(not isinstance(effect, WakeAt) for effect in effects)

    @rule(
        pick=st.integers(0, 11),
        health=st.sampled_from([Health.CURRENT, Health.CURRENT, Health.CURRENT, Health.FAILED, Health.IN_PROGRESS]),
        new=st.booleans(),
        late=st.sampled_from([0, 0, 0, 1]),
        converged=st.sampled_from([True, True, False]),
    )
    def report(self, pick: int, health: Health, new: bool, late: int, converged: bool) -> None:
        cluster = self._cluster(pick)
        self._tell(Tick())
        view = self.view[cluster]
        moved_back = self.state.members[cluster].phase in transitions.BACK
        word = BundleReport(subtree=NEW if new is not moved_back else OLD, health=health, converged=converged)
        self.view[cluster] = replace(
            view, last_seen=self.now, seq=max(view.seq, view.next_seq - 1 - late), bundles={SHOP: word}
        )
        if rollouts.concerns(self.state, cluster):
            self._tell(Reported(cluster=cluster))
        else:
            after, _ = self._ask((Reported(cluster=cluster),))
            told = _difference(self.state, after)
            assert not told, f"{cluster} was called of no concern: {told}"

    @rule(picks=st.lists(st.integers(0, 11), min_size=1, max_size=12))
    def proofs(self, picks: list[int]) -> None:
        """Many clusters say in one breath that they are what they were moved to."""
        told: dict[ClusterName, Event] = {}
        for cluster in map(self._cluster, picks):
            subtree = OLD if self.state.members[cluster].phase in transitions.BACK else NEW
            view, word = self.view[cluster], BundleReport(subtree=subtree, health=Health.CURRENT, converged=True)
            self.view[cluster] = replace(view, last_seen=self.now, seq=view.next_seq - 1, bundles={SHOP: word})
            if rollouts.concerns(self.state, cluster):
                told[cluster] = Reported(cluster=cluster)
        self._tell(*told.values())

    @rule(
        verb=st.sampled_from(VERBS),
        actor=st.sampled_from(["ann", "bob", "eve"]),
        reason=st.sampled_from(["it is right", "it is right", ""]),
        pick=st.integers(0, 13),
        gate=st.sampled_from(["", "", "word", "two", "none"]),
    )
    def command(self, verb: str, actor: str, reason: str, pick: int, gate: str) -> None:
        cluster = self._cluster(pick) if pick < 12 else "stranger"
        self._tell(Command(verb=verb, actor=actor, reason=reason, cluster=cluster, gate=gate))  # type: ignore[arg-type]

    @precondition(lambda self: any(wave.gates for wave in self.state.rollout.waves))
    @rule(
        pick=st.integers(0, 5),
        verdict=st.sampled_from(["good", "good", "good", "bad", "error"]),
        old_s=st.sampled_from([0.0, 0.0, 5.0, 45.0, -5.0]),
    )
    def evidence(self, pick: int, verdict: str, old_s: float) -> None:
        keys = [f"{wave.name}/{gate.name}" for wave in self.state.rollout.waves for gate in wave.gates]
        found = Evidence(
            gate=keys[pick % len(keys)],
            verdict=verdict,  # type: ignore[arg-type]
            text=verdict,
            asked_at=self.now - old_s,
        )
        self._tell(found)

    @rule(by_s=st.sampled_from([15.0, 500.0]))
    def clock_is_set_back(self, by_s: float) -> None:
        """As the loop takes it: nobody was seen later than now, agents get time to be heard, everybody gets a tick."""
        self.now -= by_s
        self.settle_until = self.now + 2 * HEARTBEAT_S
        for cluster, view in self.view.items():
            self.view[cluster] = replace(view, last_seen=min(view.last_seen, self.now))
        self._tell(Tick())
        for cluster, member in self.state.members.items() if rollouts.alive(self.state) else ():
            times = (member.moved_at, member.soak_from, member.last_current_at, member.resumed_at)
            later = (*transitions.IN_FLIGHT, MemberPhase.FAILED, MemberPhase.REVERTING)
            assert member.phase not in later or max(times) <= self.now, (
                f"{cluster} is held until a time that is far away"
            )

    @precondition(lambda self: rollouts.stalled(self.state))
    @rule(picks=st.sets(st.integers(0, 11)))
    def is_replaced(self, picks: set[int]) -> None:
        """A newer rollout takes its place, and those clusters of it, whose story begins anew with that."""
        left = {self._cluster(pick) for pick in picks}
        self.state, _ = rollouts.supersede(self.state, self.now, by=RolloutId("shop-2"), left=left)
        self.first, self.told = self.state, []
        transitions.check(self.state, self.view)
        self._counted_right()
        flying = {c for c, member in self.state.members.items() if member.phase in transitions.IN_FLIGHT}
        assert rollouts.alive(self.state) is bool(flying)
        assert not flying & left

    @rule(pick=st.integers(0, 11))
    def leave(self, pick: int) -> None:
        self._tell(Left(cluster=self._cluster(pick)))

    @rule(pick=st.integers(0, 11), what=st.sampled_from(["", "suspended", "cordoned"]))
    def direct(self, pick: int, what: str) -> None:
        """What people ask beside Git; the loop gives every rollout a tick when that changes."""
        cluster = self._cluster(pick)
        self.view[cluster] = replace(
            self.view[cluster],
            suspended={SHOP: "ann: a migration"} if what == "suspended" else {},
            cordoned="ann: repairs" if what == "cordoned" else "",
        )
        self._tell(Tick())

    @rule(why=st.sampled_from(["", "frozen by christmas"]))
    def freeze(self, why: str) -> None:
        self.frozen = why
        self._tell(Tick())

    @rule(pick=st.integers(0, 11), why=st.sampled_from(["", "blocked"]), busy=st.booleans())
    def hold(self, pick: int, why: str, busy: bool) -> None:
        """Other rollouts come and go on a cluster; nobody tells this one."""
        cluster = self._cluster(pick)
        self.held[cluster] = why
        (self.busy.add if busy else self.busy.discard)(cluster)
        self.wake = min(self.wake, self.now + 5.0)

    # --- what has to be so ---

    def teardown(self) -> None:
        """The whole story again, from the journal's bytes of several moments of it, ends the same."""
        told = getattr(self, "told", [])
        for begin in {0, len(told) // 2, len(told) - 1} if told else ():
            state = told[begin - 1].made[0] if begin else self.first
            state = rollouts_json.from_json(rollouts_json.to_json(state))
            for each in told[begin:]:
                state, _ = _decide(state, each.events, each.view, each.now, each.around)
            assert state == self.state

    def _cluster(self, pick: int) -> ClusterName:
        names = sorted(self.state.members)
        return names[pick % len(names)]

    def _around(self) -> dict[str, Any]:
        held, busy = dict(self.held), set(self.busy)
        return {
            "settle_until": self.settle_until,
            "frozen": self.frozen,
            "held": lambda cluster: held.get(cluster, ""),
            "busy": busy.__contains__,
        }

    def _ask(self, events: tuple[Event, ...]) -> tuple[State, tuple[Effect, ...]]:
        return _decide(self.state, events, self.view, self.now, self._around())

    def _tell(self, *events: Event) -> None:
        before = rollouts_json.to_json(self.state)
        try:
            made = self._ask(events)
        except IllegalEvent:
            assert rollouts_json.to_json(self.state) == before
            return
        assert rollouts_json.to_json(self.state) == before, "the old state was changed"
        again = _decide(rollouts_json.from_json(before), events, self.view, self.now, self._around())
        assert again == made, "the journal's bytes have another future"
        crowd = turn.roster({**self.view, **STRANGERS})
        among = _decide(self.state, events, self.view, self.now, {**self._around(), "everybody": lambda: crowd})
        assert _lasting(among) == _lasting(made), "clusters that are no members changed the decision"
        self.told.append(Told(events=events, view=dict(self.view), now=self.now, around=self._around(), made=made))
        was, (self.state, effects) = self.state, made
        transitions.check(self.state, self.view)
        self._counted_right()
        self._moved_rightly(was, effects)
        emitted = [effect.at for effect in effects if isinstance(effect, WakeAt)]
        ticked = any(isinstance(event, Tick) for event in events)
        self.wake = min([math.inf if ticked else self.wake, *emitted])

    def _counted_right(self) -> None:
        counted = turn.tallies(self.state.rollout, self.state.members)
        assert counted == tuple(replace(tally, first=0) for tally in self.state.tallies)
        for wave, tally in zip(self.state.rollout.waves, self.state.tallies, strict=True):
            passed = wave.clusters[: tally.first]
            assert not any(self.state.members[cluster].phase is MemberPhase.PENDING for cluster in passed)

    def _moved_rightly(self, was: State, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Move):
                continue
            view = self.view[effect.cluster]
            self.view[effect.cluster] = replace(view, next_seq=view.next_seq + 1)
            if effect.back:
                continue
            member = self.state.members[effect.cluster]
            assert not view.cordoned
            assert was.phase is not Phase.PAUSED or self.state.phase is not Phase.PAUSED
            if not self.state.emergency:
                assert not self.frozen
                assert not self.held.get(effect.cluster)
                assert not view.suspended
                wave = self.state.rollout.waves[member.wave]
                assert windows.shut((*self.state.rollout.windows, *wave.windows), self.now) is None


def _decide(
    state: State,
    events: Sequence[Event],
    view: dict[ClusterName, ClusterView],
    now: float,
    around: dict[str, Any],
) -> tuple[State, tuple[Effect, ...]]:
    return rollouts.decide(state, events, dict(view), now, heartbeat_s=HEARTBEAT_S, **around)


def _lasting(made: tuple[State, tuple[Effect, ...]]) -> tuple[State, list[Effect]]:
    return made[0], [effect for effect in made[1] if not isinstance(effect, WakeAt)]


def _difference(before: State, after: State) -> list[str]:
    """What became otherwise, but for the texts for people and what only saves work."""
    told = [
        f"{cluster}: {member} → {after.members[cluster]}"
        for cluster, member in before.members.items()
        if replace(member, reason="") != replace(after.members[cluster], reason="")
    ]
    told += [
        f"{name}: {getattr(before, name)} → {getattr(after, name)}"
        for name in ("phase", "wave", "wave_opened_at", "emergency", "gates")
        if getattr(before, name) != getattr(after, name)
    ]
    return told


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Stage.explicit, Stage.reuse, Stage.generate),
)
