"""The simulated hub: the loop's order of steps around the very engine, with a journal that a death leaves as it was.

As in `hub.loop`: reports only to rollouts that they concern, ticks only when the engine asked for one (and without the
loop's belt), rollbacks decided first, what holds single clusters by `held.Around`, one transaction a turn. Unlike it:
no disk, no Git, no clock. `Hub.turn` returns what was decided; whether it was stored, or lost, is for `faults` to say.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from hub.journal import HoldRow
from hub.model import Fleet
from hub.rollout import gates, held, rollouts, rollouts_json, transitions, waves
from hub.rollout.held import Around
from hub.rollout.transitions import IllegalEvent
from hub.state import (
    FINAL,
    ClusterView,
    Command,
    Effect,
    Event,
    Evidence,
    Hold,
    Left,
    MarkGood,
    MemberPhase,
    Move,
    Phase,
    Reported,
    State,
    Tick,
    WakeAt,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from tests.sim.agents import Letter, Slice

HEARTBEAT_S = 10.0
WAITING_S = 5.0
Said = tuple[RolloutId, Command]
Found = tuple[RolloutId, Evidence]


@dataclass(slots=True, kw_only=True)
class Stored:
    """The journal: what a hub that died finds again. States go through their bytes."""

    states: dict[RolloutId, bytes] = field(default_factory=dict)
    slices: dict[ClusterName, Slice] = field(default_factory=dict)
    last_good: dict[tuple[ClusterName, BundleName], Oid] = field(default_factory=dict)
    completed: dict[BundleName, dict[ClusterName, Oid]] = field(default_factory=dict)
    holds: dict[BundleName, HoldRow] = field(default_factory=dict)
    revisions: dict[BundleName, Oid] = field(default_factory=dict)
    """Of the commit that each bundle on hold was rolled back from."""
    number: int = 1

    def copy(self) -> "Stored":
        return Stored(
            states=dict(self.states),
            slices=dict(self.slices),
            last_good=dict(self.last_good),
            completed={bundle: dict(subtrees) for bundle, subtrees in self.completed.items()},
            holds=dict(self.holds),
            revisions=dict(self.revisions),
            number=self.number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the fleet repo says at `revision`."""

    fleet: Fleet
    subtrees: Mapping[BundleName, Mapping[ClusterName, Oid]]
    revision: Oid


@dataclass(slots=True, kw_only=True)
class Turn:
    """What one turn was told, and what came of it: `effects` in their order, each with the state that it led to."""

    letters: Sequence[Letter]
    evidence: Sequence[Found]
    states: dict[RolloutId, State]
    view: Mapping[ClusterName, ClusterView]
    frozen: str
    obeyed: list[Said] = field(default_factory=list)
    effects: list[tuple[RolloutId, Effect]] = field(default_factory=list)
    wakes: dict[RolloutId, float] = field(default_factory=dict)
    plan_at: float = math.inf
    planned: bool = False
    after: Stored = field(default_factory=Stored)


class Hub:
    """`stored` outlives it, everything else is memory."""

    def __init__(self, stored: Stored, desired: Desired, *, now: float, settles: bool = True) -> None:
        self.stored = stored
        self.desired = desired
        self.states = {name: rollouts_json.from_json(data) for name, data in stored.states.items()}
        self.views: dict[ClusterName, ClusterView] = {}
        self.newest: dict[ClusterName, int] = {}
        self.settle_until = now + 2 * HEARTBEAT_S if settles else 0.0
        self.wakes: dict[RolloutId, float] = {}
        self.asked_at: dict[tuple[RolloutId, str], float] = {}
        self.plan_at = 0.0
        self.frozen = ""
        self.directives: object = None
        self.vanished = False

    def commit_seen(self, desired: Desired) -> None:
        self.desired, self.plan_at = desired, 0.0

    def release(self, bundle: BundleName) -> None:
        """A person lets a bundle on hold go on."""
        self.stored.holds.pop(bundle, None)
        self.stored.revisions.pop(bundle, None)
        self.plan_at = 0.0

    def questions(self, now: float) -> Iterable[tuple[RolloutId, str, str, str]]:
        """Gates of which a check is due: (rollout, gate, its name, verdict if another rollout tells it)."""
        for name, state in self.states.items():
            for key, gate in gates.asked(state).items():
                if now >= self.asked_at.get((name, key), 0.0):
                    self.asked_at[name, key] = now + gates.interval_s(gate)
                    on_hold = {bundle: row.reason for bundle, row in self.stored.holds.items()}
                    known = gates.done(gate.done, self.states.values(), on_hold)[0] if gate.done else ""
                    yield name, key, gate.name, known

    # --- one turn ---

    def turn(
        self,
        now: float,
        *,
        letters: Sequence[Letter],
        evidence: Sequence[Found],
        commands: Sequence[Said],
        suspended: Mapping[ClusterName, Mapping[BundleName, str]],
        cordoned: Mapping[ClusterName, str],
    ) -> Turn:
        """One turn; memory is that of before it until `keep`. Raises whatever the engine raises but IllegalEvent."""
        for letter in letters:
            self.newest[letter.cluster] = letter.number
            self.views[letter.cluster] = ClusterView(
                next_seq=0, last_seen=now, seq=letter.seq, bundles=dict(letter.words)
            )
        gone = self._gone(now)
        turn = Turn(
            letters=letters,
            evidence=evidence,
            states=dict(self.states),
            view=self._view(suspended, cordoned),
            frozen=held.frozen(self.desired.fleet, now) or gone,
            plan_at=self.plan_at,
            after=self.stored.copy(),
        )
        if gone and not self.vanished:
            pause = Command(verb="pause", actor="flotilla", reason=gone)
            commands = [*commands, *((n, pause) for n, s in turn.states.items() if s.phase is Phase.RUNNING)]
        self.vanished = bool(gone)
        around = self._around(turn, now)
        changed = self.directives != (suspended, cordoned) or turn.frozen != self.frozen
        self.directives = ({**suspended}, {**cordoned})
        told = {letter.cluster: Reported(cluster=letter.cluster) for letter in letters}
        for state in sorted(turn.states.values(), key=lambda s: (s.phase is not Phase.ROLLING_BACK, s.rollout.number)):
            name = state.rollout.id
            events: list[Event] = [event for cluster, event in told.items() if rollouts.concerns(state, cluster)]
            events += [found for rollout, found in evidence if rollout == name]
            if changed or now >= self.wakes.get(name, 0.0):
                events.append(Tick())
            if events:
                self._meet(turn, around, now, name, *events)
        for name, command in commands:
            try:
                self._meet(turn, around, now, name, command)
            except IllegalEvent:
                continue
            turn.obeyed.append((name, command))
        freed = any(rollouts.frees(self.states[name], state) for name, state in turn.states.items())
        if freed or now >= self.plan_at:
            self._plan(turn, now)
        self._carry_out(turn, now)
        return turn

    def keep(self, turn: Turn) -> None:
        """The turn is stored: memory follows."""
        self.stored = turn.after
        self.states = {name: state for name, state in turn.states.items() if rollouts.alive(state)}
        self.wakes = {name: at for name, at in {**self.wakes, **turn.wakes}.items() if name in self.states}
        self.frozen, self.plan_at = turn.frozen, turn.plan_at

    def _gone(self, now: float) -> str:
        if now < self.settle_until:
            return ""
        return held.vanished((view.last_seen for view in self.views.values()), now, heartbeat_s=HEARTBEAT_S)

    def _view(
        self, suspended: Mapping[ClusterName, Mapping[BundleName, str]], cordoned: Mapping[ClusterName, str]
    ) -> dict[ClusterName, ClusterView]:
        names = {name for state in self.states.values() for name in state.members} | self.desired.fleet.clusters.keys()
        found = {}
        for name in names:
            seen = self.views.get(name, ClusterView(next_seq=0))
            there = {bundle: word.suspended for bundle, word in seen.bundles.items() if word.suspended}
            found[name] = replace(
                seen,
                next_seq=self.stored.slices.get(name, Slice()).seq + 1,
                suspended={**there, **suspended.get(name, {})},
                cordoned=cordoned.get(name, ""),
            )
        return found

    def _around(self, turn: Turn, now: float) -> Around:
        states = tuple(turn.states.values())
        held_now = {
            effect.bundle: turn.states[name].rollout.revision
            for name, effect in turn.effects
            if isinstance(effect, Hold)
        }
        on_hold = {**self.stored.revisions, **held_now}
        return Around(fleet=self.desired.fleet, now=now, states=states, on_hold=on_hold)

    def _meet(self, turn: Turn, around: Around, now: float, name: RolloutId, *events: Event) -> None:
        state = turn.states.get(name)
        if state is None or not rollouts.alive(state):
            return
        turn.states[name], effects = rollouts.decide(
            state,
            events,
            turn.view,
            now,
            heartbeat_s=HEARTBEAT_S,
            settle_until=self.settle_until,
            frozen=turn.frozen,
            held=partial(around.why, state.rollout),
            busy=around.busy,
        )
        transitions.check(turn.states[name], turn.view)
        around.decided(effects)
        turn.effects += [(name, effect) for effect in effects if not isinstance(effect, WakeAt)]
        ticked = any(isinstance(event, Tick) for event in events)
        since = math.inf if ticked else turn.wakes.get(name, self.wakes.get(name, 0.0))
        turn.wakes[name] = min([since, *(effect.at for effect in effects if isinstance(effect, WakeAt))])

    # --- new rollouts ---

    def _plan(self, turn: Turn, now: float) -> None:
        turn.planned = True
        composed = {name: dict(row.bundles) for name, row in turn.after.slices.items()}
        holds = {bundle: row.refused for bundle, row in turn.after.holds.items()}
        for name, effect in turn.effects:
            if isinstance(effect, Move):
                composed.setdefault(effect.cluster, {}).update(effect.subtrees)
            elif isinstance(effect, Hold):
                holds[effect.bundle] = waves.refused(turn.states[name].rollout)[effect.bundle]
        planned = waves.plan_rollouts(
            fleet=self.desired.fleet,
            desired=self.desired.subtrees,
            failed=frozenset(),
            current={name: {b: s for b, s in row.items() if s} for name, row in composed.items()},
            last_good=turn.after.last_good,
            completed=turn.after.completed,
            holds=holds,
            active=[state for state in turn.states.values() if rollouts.alive(state)],
            keys=lambda subtree: frozenset(),
            remembered={},
            revision=self.desired.revision,
            number=turn.after.number,
            now=now,
        )
        before = dict(turn.states)
        around = self._around(turn, now)
        for rollout, cluster in planned.left:
            self._meet(turn, around, now, rollout, Left(cluster=cluster))
        for older, newer in planned.replaced.items():
            if turn.states[older].phase not in FINAL:
                turn.states[older], effects = rollouts.supersede(turn.states[older], now, by=newer)
                turn.effects += [(older, effect) for effect in effects]
        turn.states |= {made.id: rollouts.start(made, now) for made in planned.rollouts}
        around = self._around(turn, now)
        for made in planned.rollouts:
            self._meet(turn, around, now, made.id, Tick())
        turn.after.number += len(planned.rollouts)
        for bundle in planned.released:
            turn.after.holds.pop(bundle, None)
            turn.after.revisions.pop(bundle, None)
        freed = any(rollouts.frees(before[name], turn.states[name]) for name in before)
        turn.plan_at = 0.0 if freed else now + WAITING_S if planned.waiting else math.inf

    def _carry_out(self, turn: Turn, now: float) -> None:
        """The one transaction: slices, last good, holds, completed subtrees, states."""
        after = turn.after
        due: dict[ClusterName, dict[BundleName, Oid]] = {}
        by: dict[tuple[ClusterName, BundleName], RolloutId] = {}
        for name, effect in turn.effects:
            match effect:
                case Move(cluster=cluster, subtrees=subtrees):
                    for bundle, subtree in subtrees.items():
                        other = by.setdefault((cluster, bundle), name)
                        over = not rollouts.alive(turn.states[other])
                        gone = turn.states[other].members[cluster].phase is MemberPhase.LEFT
                        assert other == name or over or gone, f"{other} and {name} both move {cluster}"
                        due.setdefault(cluster, {})[bundle] = subtree
                case MarkGood(cluster=cluster, subtrees=subtrees):
                    after.last_good.update({(cluster, bundle): subtree for bundle, subtree in subtrees.items()})
                case Hold(bundle=bundle, reason=reason):
                    made = turn.states[name].rollout
                    refused = waves.refused(made)[bundle]
                    after.holds[bundle] = HoldRow(
                        bundle=bundle, rollout=name, reason=reason, time_s=now, refused=refused
                    )
                    after.revisions[bundle] = made.revision
        for cluster, subtrees in due.items():
            row = after.slices.get(cluster, Slice())
            bundles = {name: subtree for name, subtree in {**row.bundles, **subtrees}.items() if subtree}
            after.slices[cluster] = Slice(seq=row.seq + 1, bundles=bundles)
        for name, state in turn.states.items():
            before = self.states.get(name)
            if state is before:
                continue
            if state.phase is Phase.COMPLETED and (before is None or before.phase is not Phase.COMPLETED):
                for cluster, target in state.rollout.targets.items():
                    for bundle, subtree in target.after.items():
                        after.completed.setdefault(bundle, {})[cluster] = subtree
            if rollouts.alive(state):
                after.states[name] = rollouts_json.to_json(state)
            else:
                after.states.pop(name, None)
