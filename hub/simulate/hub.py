"""The hub of a simulation: the engine with what the loop and the journal are around it, in memory.

A turn goes as in `hub.loop`: rollbacks first, then the oldest; then commands; then what may begin. Two things are left
out that cost time and tell nothing: looks at who is held while nothing happens, and planning while what a bundle waits
for is as it was. Nothing else fails here: what the rules raise is a bug of theirs. Next: `ledger` keeps what happens.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from hub.model import Fleet
from hub.repo import windows
from hub.rollout import held, rollouts, transitions, waves
from hub.rollout.forward import HELD_S
from hub.rollout.held import Around
from hub.rollout.turn import roster
from hub.simulate import ledger
from hub.simulate.clock import Clock, Turn
from hub.simulate.ledger import Commit, Entry
from hub.simulate.setting import HEARTBEAT_S, HOUR_S
from hub.state import (
    ABSENT,
    FINAL,
    ClusterView,
    Effect,
    Event,
    Hold,
    Left,
    MarkGood,
    MemberPhase,
    Move,
    Phase,
    Reported,
    Rollout,
    Roster,
    State,
    Tick,
    WakeAt,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId

P, M = Phase, MemberPhase
Bundles = Mapping[BundleName, Oid]
_LOOKS_S = 60.0
"""How often who is held is looked at while somebody is in flight, whose deadline may pass."""


class Hub:
    """`desired`: bundle → cluster → subtree, which commits change; everybody runs it at the start. `views` is what
    clusters said last. `decisions` is how often the rules were asked, `checked` how often all invariants were."""

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        *,
        desired: dict[BundleName, dict[ClusterName, Oid]],
        views: Mapping[ClusterName, ClusterView],
        check_each: int,
    ) -> None:
        self.states: dict[RolloutId, State] = {}
        self.entries: dict[RolloutId, Entry] = {}
        self.holds: dict[BundleName, tuple[RolloutId, dict[ClusterName, Oid]]] = {}
        """Bundle → the rollout that was rolled back, and what it must not be tried as again."""
        self.commits: dict[Oid, Commit] = {}
        self.met: dict[RolloutId, dict[ClusterName, None]] = {}
        """The rollouts that the last turn asked, and whose reports they heard."""
        self.decisions = self.checked = 0
        self._fleet, self._clock, self._desired, self._views, self._check_each = (
            fleet,
            clock,
            desired,
            views,
            check_each,
        )
        self._current: dict[ClusterName, Bundles] = {name: {} for name in fleet.clusters}
        for bundle, subtrees in desired.items():
            for name, subtree in subtrees.items():
                self._current[name] = {**self._current[name], bundle: subtree}
        self._last_good = {(name, b): s for name, running in self._current.items() for b, s in running.items()}
        self._completed = {bundle: dict(subtrees) for bundle, subtrees in desired.items()}
        self._number = 1
        self._waiting: dict[BundleName, tuple[object, ...]] = {}
        """Bundle that waits for older rollouts → what they were like when it was asked last."""
        self._wakes: dict[RolloutId, float] = {}
        self._idle: dict[RolloutId, None] = {}
        """Those that are held, whom another look helps only when something happened."""
        self._moves: dict[ClusterName, dict[BundleName, Oid]] = {}
        self._changed: dict[RolloutId, None] = {}
        self._around: Around | None = None

    def turn(self, turn: Turn) -> Mapping[ClusterName, Bundles]:
        """Everything that is told in one second; gives what comes into whose slice."""
        self._around, self._changed, self._moves, self.met = None, {}, {}, {}
        order = sorted(self.states.values(), key=lambda s: (s.phase is not P.ROLLING_BACK, s.rollout.number))
        for state in order:
            id_ = state.rollout.id
            if back := [Reported(cluster=c) for c in turn.returned if rollouts.concerns(state, c)]:
                self._meet(id_, back, heartbeat_s=HEARTBEAT_S)
            heard = [c for c in turn.heard if c not in turn.returned and rollouts.concerns(state, c)]
            events: list[Event] = [Reported(cluster=c) for c in heard]
            events += [evidence for rollout, evidence in turn.evidence if rollout == id_]
            if id_ in turn.ticks:
                events.append(Tick())
            if events:
                self._meet(id_, events)
        for id_, command in turn.commands:
            with suppress(transitions.IllegalEvent):  # it came too late by a moment, which people are told
                self._meet(id_, [command])
        if turn.commits or (self._changed and self._may_begin()):
            self._plan()
        for cluster, subtrees in self._moves.items():
            self._current[cluster] = _composed(self._current[cluster], subtrees)
        for id_ in self._changed:
            if self.states[id_].phase in FINAL and not rollouts.alive(self.states[id_]):
                del self.states[id_]
        return self._moves

    def is_silent(self, cluster: ClusterName) -> bool:
        """Is it silent right now?"""
        return self._views[cluster].last_seen < math.inf

    def commit_of(self, rollout: Rollout) -> Commit | None:
        """The commit that the rollout brings."""
        subtrees = (subtree for target in rollout.targets.values() for subtree in target.after.values())
        return self.commits.get(next(subtrees, ABSENT))

    # --- decisions ------------------------------------------------------------------------------------------------

    def _meet(self, id_: RolloutId, events: Sequence[Event], *, heartbeat_s: float = math.inf) -> None:
        """Between two reports that are told all heartbeats were heard, unless `heartbeat_s` says how far apart they
        are: who was silent missed some."""
        state, now = self.states[id_], self._clock.now
        if self._around is None:
            self._around = Around(
                fleet=self._fleet,
                now=now,
                states=tuple(self.states.values()),
                on_hold=self._given_up(),
            )
        after, effects = rollouts.decide(
            state,
            events,
            self._views,
            now,
            heartbeat_s=heartbeat_s,
            frozen=held.frozen(self._fleet, now),
            held=partial(self._around.why, state.rollout),
            busy=self._around.busy,
            everybody=self._silent,
        )
        self._around.decided(effects)
        self.decisions += 1
        if self._check_each and self.decisions % self._check_each == 0:
            transitions.check(after, self._views)
            self.checked += 1
        self.met.setdefault(id_, {}).update((event.cluster, None) for event in events if isinstance(event, Reported))
        self._keep(after, effects, before=state)
        self._wake(state, after, effects, ticked=any(isinstance(event, Tick) for event in events))

    def _silent(self) -> Roster:
        """Those of whom a tick may bring news: here nobody is cordoned or suspended."""
        return roster({name: seen for name, seen in self._views.items() if seen.last_seen < math.inf})

    def _keep(self, after: State, effects: Sequence[Effect], *, before: State | None) -> None:
        """What the journal would hold."""
        id_, rollout, now = after.rollout.id, after.rollout, self._clock.now
        self.states[id_] = after
        if after is not before:
            self._changed[id_] = None
        for effect in effects:
            match effect:
                case Move(cluster=cluster, subtrees=subtrees):
                    self._moves.setdefault(cluster, {}).update(subtrees)
                case MarkGood(cluster=cluster, subtrees=subtrees):
                    self._last_good.update({(cluster, bundle): subtree for bundle, subtree in subtrees.items()})
                case Hold(bundle=bundle):
                    self.holds[bundle] = (id_, waves.refused(rollout)[bundle])
        for bundle, cluster, subtree in rollouts.completed(before, after):
            self._completed.setdefault(bundle, {})[cluster] = subtree
        frozen = held.frozen(self._fleet, now)
        ledger.record(self.entries[id_], after, now, frozen=frozen, silent=self.is_silent)

    # --- when to look again ---------------------------------------------------------------------------------------

    def _wake(self, before: State, after: State, effects: Sequence[Effect], *, ticked: bool) -> None:
        id_, now = after.rollout.id, self._clock.now
        at = min((effect.at for effect in effects if isinstance(effect, WakeAt)), default=math.inf)
        if ticked and after is before and at <= now + HELD_S + 1:
            at = self._next_look(after)
            self._idle[id_] = None
        elif after is not before:
            self._idle.pop(id_, None)
            for other in self._idle:
                self._wake_at(other, now + HELD_S)
            self._idle.clear()
        if not ticked:
            at = min(at, self._wakes.get(id_, math.inf))
        self._wakes[id_] = math.inf
        self._wake_at(id_, at)

    def _wake_at(self, id_: RolloutId, at: float) -> None:
        if at >= self._wakes.get(id_, math.inf):
            return

        def ticks(turn: Turn) -> None:
            if self._wakes.get(id_) == second and id_ in self.states:
                turn.ticks.add(id_)

        second = self._wakes[id_] = self._clock.at(at, ticks)

    def _next_look(self, state: State) -> float:
        """When a look at who is held can tell something new, if nothing happens before."""
        now = self._clock.now
        flying = any(tally.phases.get(phase) for tally in state.tallies for phase in transitions.IN_FLIGHT)
        moments = [now + (_LOOKS_S if flying else HOUR_S)]
        moments += [at for freeze in self._fleet.freezes for at in (freeze.start_s, freeze.end_s) if at > now]
        for own in dict.fromkeys(cluster.windows for cluster in self._fleet.clusters.values() if cluster.windows):
            shut = windows.shut(own, now)
            moments += [shut.until] if shut else []
        return min(moments)

    # --- new rollouts ---------------------------------------------------------------------------------------------

    def _may_begin(self) -> bool:
        """Has anything changed that a bundle which waits may have waited for?"""
        return any(self._obstacles(bundle) != was for bundle, was in self._waiting.items())

    def _obstacles(self, bundle: BundleName) -> tuple[object, ...]:
        """All that `waves` asks of the older rollouts of a bundle when it lets a newer one wait; who stands still is
        looked at when nobody is in flight."""
        found: list[object] = []
        for state in self.states.values():
            if bundle not in state.rollout.bundles or state.phase is P.COMPLETED:
                continue
            phases = {phase for tally in state.tallies for phase in tally.phases}
            flying = sorted(phases & transitions.IN_FLIGHT)
            sick = state.rollout.fixes == "jump" and M.FAILED in phases
            begun = not phases <= {M.PENDING, M.OFFLINE, M.LEFT}
            replaces = flying if sick or state.rollout.supersede == "replace" else []
            found.append((state.rollout.id, state.phase, replaces, sick, begun, not flying and rollouts.stalled(state)))
        return tuple(found)

    def _given_up(self) -> dict[BundleName, tuple[Oid, ...]]:
        """Each bundle on hold, with the commit that it was taken back from."""
        return {bundle: (self.entries[rollout].revision,) for bundle, (rollout, _) in self.holds.items()}

    def _plan(self) -> None:
        current: Mapping[ClusterName, Bundles] = self._current
        if self._moves:
            current = {**current, **{c: _composed(current[c], moved) for c, moved in self._moves.items()}}
        now = self._clock.now
        planned = waves.plan_rollouts(
            fleet=self._fleet,
            desired=self._desired,
            failed=frozenset(),
            current=current,
            last_good=self._last_good,
            completed=self._completed,
            holds={bundle: refused for bundle, (_, refused) in self.holds.items()},
            given_up=self._given_up(),
            active=[state for state in self.states.values() if rollouts.alive(state)],
            keys=lambda subtree: frozenset(),
            remembered={},
            revision=Oid(f"{now:.0f}"),
            number=self._number,
            now=now,
        )
        self._number += len(planned.rollouts)
        for id_, cluster in planned.left:
            self._meet(id_, [Left(cluster=cluster)])
        for older, newer in planned.replaced.items():
            state = self.states[older]
            if state.phase not in FINAL:
                after, effects = rollouts.supersede(state, now, by=newer)
                self._keep(after, effects, before=state)
        for bundle in planned.released:
            self.holds.pop(bundle, None)
        for rollout in planned.rollouts:
            state = rollouts.start(rollout, now)
            self.entries[rollout.id] = ledger.opened(state, self.commit_of(rollout), now)
            self._keep(state, (), before=None)
        self._around = None  # those that depend on each other have to know of each other
        for rollout in planned.rollouts:
            self._meet(rollout.id, [Tick()])
        self._waiting = {bundle: self._obstacles(bundle) for bundle in planned.waiting}


def _composed(running: Bundles, subtrees: Bundles) -> Bundles:
    return {bundle: subtree for bundle, subtree in {**running, **subtrees}.items() if subtree != ABSENT}
