"""The simulated hub: the very rounds of the hub's loop, with a journal that a death leaves as it was.

What last completed for clusters that joined is asked for as in `hub.joining`, and told by `faults`, later. As in
`hub.loop` a turn is a `rounds.Round` of what is known, stored in one transaction; ticks come only when the engine
asked for one, without the loop's belt. Unlike it: no disk, no Git, no clock, and nothing that the rules raise is
forgiven. `Hub.turn` returns what was decided; whether it was stored, or lost, is for `faults` to say.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hub.journal import HoldRow, RevisionRow
from hub.model import Fleet
from hub.rollout import gates, joiners, results, rollouts, rollouts_json, transitions, waves
from hub.rollout.rounds import AT_ONCE, Memory, Round, Said
from hub.state import Base, ClusterView, Evidence, Hold, MarkGood, MemberPhase, Move, Phase, State
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from tests.sim.agents import Letter, Slice

HEARTBEAT_S = 10.0
Found = tuple[RolloutId, Evidence]


@dataclass(slots=True, kw_only=True)
class Stored:
    """The journal: what a hub that died finds again. States go through their bytes."""

    states: dict[RolloutId, bytes] = field(default_factory=dict)
    slices: dict[ClusterName, Slice] = field(default_factory=dict)
    last_good: dict[tuple[ClusterName, BundleName], Oid] = field(default_factory=dict)
    completed: Mapping[BundleName, Mapping[ClusterName, Oid]] = field(default_factory=dict)
    last: dict[BundleName, RevisionRow] = field(default_factory=dict)
    """The newest rollout of each bundle that completed."""
    holds: dict[BundleName, HoldRow] = field(default_factory=dict)
    commits: dict[BundleName, tuple[Oid, ...]] = field(default_factory=dict)
    """Those that each bundle on hold was taken back from."""
    number: int = 1

    def copy(self) -> "Stored":
        return Stored(
            states=dict(self.states),
            slices=dict(self.slices),
            last_good=self.last_good,
            completed=self.completed,
            last=dict(self.last),
            holds=dict(self.holds),
            commits=dict(self.commits),
            number=self.number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the fleet repo says at `revision`."""

    fleet: Fleet
    subtrees: Mapping[BundleName, Mapping[ClusterName, Oid]]
    revision: Oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn was told, what came of it, and the journal as it will be."""

    letters: Sequence[Letter]
    evidence: Sequence[Found]
    made: Round
    after: Stored


class Hub:
    """`stored` outlives it, everything else is memory."""

    def __init__(self, stored: Stored, desired: Desired, *, now: float, settles: bool = True) -> None:
        self.stored = stored
        self.desired = desired
        states = {name: rollouts_json.from_json(data) for name, data in stored.states.items()}
        self.memory = Memory(states=states, plan_at=AT_ONCE)
        self.views: dict[ClusterName, ClusterView] = {}
        self.newest: dict[ClusterName, int] = {}
        self.settle_until = now + 2 * HEARTBEAT_S if settles else 0.0
        self.asked_at: dict[tuple[RolloutId, str], float] = {}
        self.directives: object = None
        self.news = False
        """Has the fleet repo changed since it was planned from?"""
        self.released: set[BundleName] = set()
        self.bases: dict[BundleName, Base] = {}

    @property
    def states(self) -> Mapping[RolloutId, State]:
        return self.memory.states

    @property
    def waits(self) -> bool:
        """Is there something that may begin later?"""
        return self.news or bool(self.released) or self.memory.plan_at < math.inf

    def commit_seen(self, desired: Desired) -> None:
        self.desired, self.news = desired, True

    def last_completed(self, bundle: BundleName, base: Base) -> None:
        """What clusters that joined shall have of a bundle is known now."""
        self.bases[bundle] = joiners.merged(self.bases.get(bundle), base)
        self.news = True

    def release(self, bundle: BundleName) -> None:
        """A person lets a bundle on hold go on."""
        self.released.add(bundle)

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
        said: Sequence[Said],
        suspended: Mapping[ClusterName, Mapping[BundleName, str]],
        cordoned: Mapping[ClusterName, str],
    ) -> Turn:
        """One turn; memory is that of before it until `keep`. Raises whatever the engine raises but IllegalEvent."""
        for letter in letters:
            self.newest[letter.cluster] = letter.number
            self.views[letter.cluster] = ClusterView(
                next_seq=0, last_seen=now, seq=letter.seq, bundles=dict(letter.words)
            )
        commits = {hold.rollout: self.stored.commits[bundle] for bundle, hold in self.stored.holds.items()}
        made = Round(
            now=now,
            before=self.memory,
            fleet=self.desired.fleet,
            view=self._view(suspended, cordoned),
            holds=self.stored.holds,
            released=self.released & self.stored.holds.keys(),
            commits_of=commits.__getitem__,
            heartbeat_s=HEARTBEAT_S,
            settle_until=self.settle_until,
            last_seen=[view.last_seen for view in self.views.values()],
        )
        changed = self.directives != (suspended, cordoned)
        self.directives = ({**suspended}, {**cordoned})
        made.decide(heard=[letter.cluster for letter in letters], evidence=evidence, said=said, look=changed)
        if made.plan_is_due(news=self.news or bool(made.released)):
            made.begin(self._planned(made))
        for stuck in made.news:
            raise stuck.error
        for name, state in made.states.items():
            if state is not self.states.get(name):
                transitions.check(state, made.view)
        return Turn(letters=letters, evidence=evidence, made=made, after=self._carried_out(made))

    def keep(self, turn: Turn) -> None:
        """The turn is stored: memory follows."""
        self.stored, self.memory = turn.after, turn.made.after()
        self.news = self.news and not turn.made.planned
        self.released.clear()

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

    def _planned(self, made: Round) -> waves.Planned:
        running = {name: {b: s for b, s in row.bundles.items() if s} for name, row in self.stored.slices.items()}
        return waves.plan_rollouts(
            fleet=self.desired.fleet,
            desired=self.desired.subtrees,
            failed=frozenset(),
            current=results.running(running, made.all_of(Move)),
            last_good=results.last_good(self.stored.last_good, made.all_of(MarkGood)),
            completed=results.completed(self.stored.completed, made.completed()),
            holds={bundle: row.refused for bundle, row in made.on_hold().items()},
            given_up=made.given_up(),
            active=made.alive(),
            bases=self.bases,
            last=results.last_completed(self.stored.last, made.states.values()),
            keys=lambda subtree: frozenset(),
            remembered={},
            revision=self.desired.revision,
            number=self.stored.number,
            now=made.now,
        )

    def _carried_out(self, made: Round) -> Stored:
        """The one transaction: slices, last good, holds, completed subtrees, states."""
        after = self.stored.copy()
        after.last_good = results.last_good(after.last_good, made.all_of(MarkGood))
        after.completed = results.completed(after.completed, made.completed())
        due: dict[ClusterName, dict[BundleName, Oid]] = {}
        by: dict[tuple[ClusterName, BundleName], RolloutId] = {}
        for name, effect in made.effects:
            match effect:
                case Move(cluster=cluster, subtrees=subtrees):
                    for bundle, subtree in subtrees.items():
                        other = by.setdefault((cluster, bundle), name)
                        over = not rollouts.alive(made.states[other])
                        gone = made.states[other].members[cluster].phase is MemberPhase.LEFT
                        assert other == name or over or gone, f"{other} and {name} both move {cluster}"
                        due.setdefault(cluster, {})[bundle] = subtree
                case Hold(bundle=bundle):
                    after.commits[bundle] = made.states[name].rollout.commits
        for bundle in made.released:
            after.holds.pop(bundle, None)
        after.holds.update(made.put_on_hold())
        after.commits = {bundle: those for bundle, those in after.commits.items() if bundle in after.holds}
        for cluster, subtrees in due.items():
            row = after.slices.get(cluster, Slice())
            bundles = {name: subtree for name, subtree in {**row.bundles, **subtrees}.items() if subtree}
            after.slices[cluster] = Slice(seq=row.seq + 1, bundles=bundles)
        for name, state in made.states.items():
            if state is self.states.get(name):
                continue
            after.number = max(after.number, state.rollout.number + 1)
            if state.phase is Phase.COMPLETED and not state.rollout.base:
                for bundle in state.rollout.bundles:
                    after.last[bundle] = _newest(after.last.get(bundle), state)
            if rollouts.alive(state):
                after.states[name] = rollouts_json.to_json(state)
            else:
                after.states.pop(name, None)
        return after


def _newest(row: RevisionRow | None, state: State) -> RevisionRow:
    made = state.rollout
    if row is not None and row.number >= made.number:
        return row
    return RevisionRow(
        number=made.number, rollout=made.id, phase=state.phase, revision=made.revision, made_s=made.made_at
    )
