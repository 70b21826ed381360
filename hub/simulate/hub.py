"""The hub of a simulation: the very rounds of the hub's loop, with what is around them in memory.

Two things are left out that cost time and tell nothing: looks at who is held while nothing happens, and planning while
what a bundle waits for is as it was. Nothing fails here: what the rules raise is a bug of theirs. Next: `ledger` keeps
what happens.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from hub.journal import HoldRow
from hub.model import Fleet
from hub.repo import windows
from hub.rollout import results, rollouts, transitions, waves
from hub.rollout.forward import HELD_S
from hub.rollout.rounds import Memory, Round, Said
from hub.rollout.turn import roster
from hub.simulate import ledger
from hub.simulate.clock import Clock, Turn
from hub.simulate.ledger import Commit, Entry
from hub.simulate.setting import HEARTBEAT_S, HOUR_S
from hub.state import ABSENT, FINAL, ClusterView, MarkGood, MemberPhase, Move, Reported, Rollout, Roster, State, Tick
from proto.ids import BundleName, ClusterName, Oid, RolloutId

M = MemberPhase
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
        self.entries: dict[RolloutId, Entry] = {}
        self.holds: dict[BundleName, HoldRow] = {}
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
        self._memory = Memory()
        self._wakes: dict[RolloutId, float] = {}
        self._idle: dict[RolloutId, None] = {}
        """Those that are held, whom another look helps only when something happened."""
        self._moves: dict[ClusterName, dict[BundleName, Oid]] = {}

    @property
    def states(self) -> Mapping[RolloutId, State]:
        return self._memory.states

    def turn(self, turn: Turn) -> Mapping[ClusterName, Bundles]:
        """Everything that is told in one second; gives what comes into whose slice."""
        self._moves, self.met = {}, {}
        before = self.states
        if turn.returned:  # they missed heartbeats, which nobody else did
            back = self._round(replace(self._memory, wakes=dict.fromkeys(before, math.inf)), heartbeat_s=HEARTBEAT_S)
            back.decide(heard=turn.returned, evidence=(), said=(), look=False)
            self._keep(back)
        made = self._round(replace(self._memory, wakes=self._wakes), heartbeat_s=math.inf)
        heard = [cluster for cluster in turn.heard if cluster not in turn.returned]
        said = [Said(rollout=id_, command=command) for id_, command in turn.commands]
        made.decide(heard=heard, evidence=turn.evidence, said=said, look=False)
        changed = any(state is not before.get(id_) for id_, state in made.states.items())
        planned = None
        if turn.commits or (changed and self._may_begin(made.states.values())):
            planned = self._planned(made)
            made.begin(planned)
        self._keep(made)
        if planned is not None:
            self._waiting = {bundle: _obstacles(bundle, made.states.values()) for bundle in planned.waiting}
        return self._moves

    def is_silent(self, cluster: ClusterName) -> bool:
        """Is it silent right now?"""
        return self._views[cluster].last_seen < math.inf

    def commit_of(self, rollout: Rollout) -> Commit | None:
        """The commit that the rollout brings."""
        subtrees = (subtree for target in rollout.targets.values() for subtree in target.after.values())
        return self.commits.get(next(subtrees, ABSENT))

    # --- decisions ------------------------------------------------------------------------------------------------

    def _round(self, before: Memory, *, heartbeat_s: float) -> Round:
        """Between two reports that are told all heartbeats were heard, unless `heartbeat_s` says how far apart they
        are."""
        return Round(
            now=self._clock.now,
            before=before,
            fleet=self._fleet,
            view=self._views,
            holds=self.holds,
            commits_of=lambda rollout: self.entries[rollout].commits,
            heartbeat_s=heartbeat_s,
            roster=self._silent,
        )

    def _silent(self, _: Iterable[State]) -> Roster:
        """Those of whom a tick may bring news: here nobody is cordoned or suspended."""
        return roster({name: seen for name, seen in self._views.items() if seen.last_seen < math.inf})

    def _keep(self, made: Round) -> None:
        """What the journal would hold."""
        for stuck in made.news:
            raise stuck.error
        now, before = self._clock.now, made.before.states
        self._memory = made.after()
        moves = made.all_of(Move)
        self._current |= results.running({move.cluster: self._current[move.cluster] for move in moves}, moves)
        self._last_good |= results.last_good({}, made.all_of(MarkGood))
        for bundle, cluster, subtree in made.completed():
            self._completed.setdefault(bundle, {})[cluster] = subtree
        for bundle in made.released:
            self.holds.pop(bundle, None)
        self.holds.update(made.put_on_hold())
        for move in moves:
            self._moves.setdefault(move.cluster, {}).update(move.subtrees)
        for id_, state in made.states.items():
            if id_ not in self.entries:
                self.entries[id_] = ledger.opened(state, self.commit_of(state.rollout), now)
            if id_ in made.told or state is not before.get(id_):
                ledger.record(self.entries[id_], state, now, frozen=made.frozen, silent=self.is_silent)
        for id_, events in made.told.items():
            self.met.setdefault(id_, {}).update(
                (event.cluster, None) for event in events if isinstance(event, Reported)
            )
            self._look_again(made, id_)
        self._check(made)

    def _check(self, made: Round) -> None:
        """Look at all invariants anew, after so many decisions."""
        before, self.decisions = self.decisions, self.decisions + made.decisions
        if self._check_each and (due := self.decisions // self._check_each - before // self._check_each):
            for id_ in made.told:
                transitions.check(made.states[id_], self._views)
            self.checked += due

    # --- when to look again ---------------------------------------------------------------------------------------

    def _look_again(self, made: Round, id_: RolloutId) -> None:
        now, after = self._clock.now, made.states[id_]
        ticked, same = Tick() in made.told[id_], after is made.before.states.get(id_)
        at = made.wakes[id_] if ticked else min(made.wakes[id_], self._wakes.get(id_, math.inf))
        if ticked and same and at <= now + HELD_S + 1:
            at = self._next_look(after)
            self._idle[id_] = None
        elif not same:
            self._idle.pop(id_, None)
            for other in self._idle:
                self._wake_at(other, min(self._wakes[other], now + HELD_S))
            self._idle.clear()
        self._wake_at(id_, at)

    def _wake_at(self, id_: RolloutId, at: float) -> None:
        def ticks(turn: Turn) -> None:
            if self._wakes.get(id_) == second and id_ in self.states:
                turn.ticks.add(id_)

        if at != self._wakes.get(id_):
            second = self._wakes[id_] = self._clock.at(at, ticks) if at < math.inf else at

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

    def _may_begin(self, states: Collection[State]) -> bool:
        """Has anything changed that a bundle which waits may have waited for?"""
        return any(_obstacles(bundle, states) != was for bundle, was in self._waiting.items())

    def _planned(self, made: Round) -> waves.Planned:
        planned = waves.plan_rollouts(
            fleet=self._fleet,
            desired=self._desired,
            failed=frozenset(),
            current=results.running(self._current, made.all_of(Move)),
            last_good=results.last_good(self._last_good, made.all_of(MarkGood)),
            completed=results.completed(self._completed, made.completed()),
            holds={bundle: hold.refused for bundle, hold in made.on_hold().items()},
            given_up=made.given_up(),
            active=made.alive(),
            keys=lambda subtree: frozenset(),
            remembered={},
            revision=Oid(f"{made.now:.0f}"),
            number=self._number,
            now=made.now,
        )
        self._number += len(planned.rollouts)
        return planned


def _obstacles(bundle: BundleName, states: Iterable[State]) -> tuple[object, ...]:
    """Pure: all that `waves` asks of the older rollouts of a bundle when it lets a newer one wait; who stands still is
    looked at when nobody is in flight."""
    found: list[object] = []
    for state in states:
        if bundle not in state.rollout.bundles or state.phase in FINAL:
            continue
        phases = {phase for tally in state.tallies for phase in tally.phases}
        flying = sorted(phases & transitions.IN_FLIGHT)
        sick = state.rollout.fixes == "jump" and M.FAILED in phases
        begun = not phases <= {M.PENDING, M.OFFLINE, M.LEFT}
        replaces = flying if sick or state.rollout.supersede == "replace" else []
        found.append((state.rollout.id, state.phase, replaces, sick, begun, not flying and rollouts.stalled(state)))
    return tuple(found)
