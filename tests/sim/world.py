"""A fleet on virtual time with seeded faults: the hub's rules drive it, and it watches whether they keep their word.

No sockets, no threads, no clock: one step is `STEP_S` seconds. Faults: agents that are away, reports that are lost or
told twice, health that flaps, commits that fail, hang or cut the connection, commits in the middle of a rollout,
clusters that join and leave, bundles that somebody suspends on a cluster, at the hub or there, and a hub that dies
between a decision and its journal (everything of that turn is lost) or after it (memory is lost). What is asserted uses
what agents really run and the effects that the hub carried out, not the engine's own `check`.
"""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hub.model import (
    Amount,
    Bundle,
    Cluster,
    ClusterView,
    Command,
    Effect,
    Event,
    FailurePolicy,
    Fleet,
    Hold,
    Left,
    MarkGood,
    MemberPhase,
    Move,
    Notice,
    Phase,
    Reported,
    RolloutPolicy,
    Selector,
    State,
    Tick,
    Wave,
    WavePolicy,
)
from hub.rollout import rollouts, rollouts_json, waves
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Health
from proto.slices import BundlePolicy

STEP_S = 10.0
HEARTBEAT_S = 10.0
FAULTY_STEPS = 180
QUIET_STEPS = 400
"""With all faults over, everything has to be done within this many steps."""
BUNDLES = (BundleName("shop"), BundleName("till"))

Composition = Mapping[BundleName, Oid]


@dataclass(slots=True, kw_only=True)
class Agent:
    """One cluster: what it runs, since when, and what it has to say. `away_until` cuts both directions."""

    runs: dict[BundleName, Oid] = field(default_factory=dict)
    seq: int = 0
    taken_at: float = 0.0
    slow_s: float = 0.0
    away_until: float = 0.0
    flaps_until: float = 0.0
    suspended_until: dict[BundleName, float] = field(default_factory=dict)
    told_hub: bool = False
    """Was it suspended at the hub? Else in the cluster, and its reports say so."""
    was_current: set[tuple[BundleName, Oid]] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    seq: int = 0
    bundles: Composition = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Stored:
    """The journal: what a hub that died finds again. States go through their bytes."""

    states: dict[RolloutId, bytes] = field(default_factory=dict)
    slices: dict[ClusterName, Slice] = field(default_factory=dict)
    last_good: dict[tuple[ClusterName, BundleName], Oid] = field(default_factory=dict)
    completed: dict[BundleName, dict[ClusterName, Oid]] = field(default_factory=dict)
    holds: dict[BundleName, dict[ClusterName, Oid]] = field(default_factory=dict)
    number: int = 1

    def copy(self) -> "Stored":
        return Stored(
            states=dict(self.states),
            slices=dict(self.slices),
            last_good=dict(self.last_good),
            completed={bundle: dict(subtrees) for bundle, subtrees in self.completed.items()},
            holds=dict(self.holds),
            number=self.number,
        )


class World:
    """The fleet, the hub and the faults of one seed. `run` raises AssertionError when a rule is broken."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 100_000.0
        self.faults = True
        self.agents: dict[ClusterName, Agent] = {}
        self.fleet = self._first_fleet()
        self.kinds: dict[Oid, str] = {}
        """How each subtree behaves: good, failed, hangs, or cuts the cluster off."""
        self.versions = dict.fromkeys(BUNDLES, 0)
        self.desired: dict[BundleName, dict[ClusterName, Oid]] = {}
        self.stored = Stored()
        self.views: dict[ClusterName, ClusterView] = {}
        self.settle_until = 0.0
        self.hub_away_until = 0.0
        self.to_plan = True
        self.inbox: list[tuple[ClusterName, int, dict[BundleName, BundleReport]]] = []
        self.moves: dict[tuple[RolloutId, ClusterName, bool], int] = defaultdict(int)
        self.flying: dict[RolloutId, set[ClusterName]] = defaultdict(set)
        self.seen: set[str] = set()
        """What happened at all, so that a test can tell that the faults really bite."""
        self._commit(everything=True)

    # --- the fleet repo ---

    def _first_fleet(self) -> Fleet:
        pick = self.random
        waves_of = [
            WavePolicy(
                name="canary",
                select=Selector(match_labels={"canary": "true"}),
                soak_s=pick.choice([0.0, 20.0, 50.0]),
                max_concurrent=Amount(value=1),
                allow_empty=True,
            ),
            WavePolicy(
                name="eu",
                select=Selector(match_labels={"region": "eu"}),
                soak_s=pick.choice([0.0, 20.0]),
                max_concurrent=pick.choice([Amount(value=1), Amount(value=50, percent=True)]),
                offline_budget=pick.choice([None, Amount(value=1)]),
                allow_empty=True,
            ),
        ]
        policy = RolloutPolicy(
            name="careful",
            waves=tuple(waves_of),
            failure=FailurePolicy(
                budget=Amount(value=pick.choice([0, 0, 1])),
                deadline_s=pick.choice([120.0, 240.0]),
                action=pick.choice(["rollback", "rollback", "rollback", "pause", "continue"]),
            ),
            offline_after_s=60.0,
            supersede=pick.choice(["queue", "replace"]),
        )
        clusters: dict[ClusterName, Cluster] = {}
        for n in range(pick.randint(2, 7)):
            clusters.update([self._cluster(f"c{n}", canary=n == 0)])
        bundles = {
            name: Bundle(name=name, folder=name, targets=Selector(), rollout="careful", policy=BundlePolicy(name=name))
            for name in BUNDLES
        }
        return Fleet(clusters=clusters, bundles=bundles, policies={"careful": policy})

    def _cluster(self, name: str, *, canary: bool = False) -> tuple[ClusterName, Cluster]:
        self.agents[ClusterName(name)] = Agent()
        labels = {"canary": str(canary).lower(), "region": self.random.choice(["eu", "us"])}
        return ClusterName(name), Cluster(name=ClusterName(name), labels=labels)

    def _commit(self, *, everything: bool = False) -> None:
        for bundle in BUNDLES:
            if everything or self.random.random() < 0.6:
                self.versions[bundle] += 1
                subtree = Oid(f"{bundle}@{self.versions[bundle]}")
                weights = [6, 2, 1, 1] if self.faults and not everything else [1, 0, 0, 0]
                self.kinds[subtree] = self.random.choices(["good", "failed", "hangs", "cuts"], weights)[0]
        self._wish()

    def _wish(self) -> None:
        self.desired = {
            bundle: {name: Oid(f"{bundle}@{version}") for name in self.fleet.clusters}
            for bundle, version in self.versions.items()
        }
        self.to_plan = True

    # --- time ---

    def run(self) -> None:
        for _ in range(FAULTY_STEPS):
            self._misfortune()
            self._step()
        self.faults = False
        for agent in self.agents.values():
            agent.away_until = agent.flaps_until = agent.slow_s = 0.0
            agent.suspended_until = {}
        self._commit(everything=True)
        for _ in range(QUIET_STEPS):
            self._nobody_stays_paused()
            self._step()
            if not self.to_plan and not self._alive():
                break
        self._all_is_well()

    def _misfortune(self) -> None:
        chance = self.random.random
        for agent in self.agents.values():
            if chance() < 0.012:
                agent.away_until = self.now + self.random.choice([30.0, 100.0, 500.0])
            if chance() < 0.008:
                agent.flaps_until = self.now + self.random.choice([50.0, 200.0])
            if chance() < 0.02:
                agent.slow_s = self.random.choice([0.0, 20.0, 90.0])
            if chance() < 0.01:
                agent.suspended_until = {self.random.choice(BUNDLES): self.now + self.random.choice([40.0, 400.0])}
                agent.told_hub = chance() < 0.5
        if chance() < 0.02:
            self._commit()
        if chance() < 0.01:
            self.hub_away_until = self.now + self.random.choice([0.0, 40.0, 300.0])
            self._restart()
        if chance() < 0.006 and len(self.fleet.clusters) < 9:
            clusters = {**self.fleet.clusters, **dict([self._cluster(f"j{len(self.agents)}")])}
            self.fleet = replace(self.fleet, clusters=clusters)
            self._wish()
        if chance() < 0.004 and len(self.fleet.clusters) > 2:
            gone = self.random.choice(sorted(self.fleet.clusters))
            self.fleet = replace(
                self.fleet, clusters={name: c for name, c in self.fleet.clusters.items() if name != gone}
            )
            self.seen.add("left")
            self._wish()

    def _step(self) -> None:
        self.now += STEP_S
        for name, agent in self.agents.items():
            self._live(name, agent)
        if self.now < self.hub_away_until:
            self.inbox.clear()
        else:
            self._turn()

    # --- agents ---

    def _health(self, agent: Agent, subtree: Oid) -> Health:
        kind = self.kinds[subtree]
        if self.now - agent.taken_at < agent.slow_s or kind in ("hangs", "cuts"):
            return Health.IN_PROGRESS
        if kind == "failed":
            return Health.FAILED
        if self.now < agent.flaps_until and self.random.random() < 0.5:
            return Health.IN_PROGRESS
        return Health.CURRENT

    def _live(self, name: ClusterName, agent: Agent) -> None:
        if self.now < agent.away_until:
            return
        due = self.stored.slices.get(name)
        frozen = self._suspended(agent)
        runs = {bundle: subtree for bundle, subtree in agent.runs.items() if bundle in frozen}
        runs |= {bundle: subtree for bundle, subtree in (due.bundles if due else {}).items() if bundle not in frozen}
        if due and (due.seq > agent.seq or runs != agent.runs):
            agent.seq, agent.runs, agent.taken_at = due.seq, runs, self.now
            if self.faults and any(self.kinds[subtree] == "cuts" for subtree in agent.runs.values()):
                # Until somebody repairs the network by hand; nothing that the hub does can reach it.
                agent.away_until = self.now + 600.0
                self.seen.add("cut")
                return
        words = {}
        for bundle, subtree in agent.runs.items():
            health = self._health(agent, subtree)
            words[bundle] = BundleReport(
                subtree=subtree,
                health=health,
                converged=health is Health.CURRENT,
                suspended="" if agent.told_hub else frozen.get(bundle, ""),
            )
            if health is Health.CURRENT:
                agent.was_current.add((bundle, subtree))
        if self.faults and self.random.random() < 0.08:
            self.seen.add("lost")
            return
        for _ in range(2 if self.faults and self.random.random() < 0.08 else 1):
            self.inbox.append((name, agent.seq, words))

    def _suspended(self, agent: Agent) -> dict[BundleName, str]:
        return {bundle: "ann" for bundle, until in agent.suspended_until.items() if self.now < until}

    # --- the hub ---

    def _restart(self) -> None:
        """Memory is gone; the journal is not."""
        self.seen.add("restart")
        self.views.clear()
        self.inbox.clear()
        self.to_plan = True
        self.settle_until = max(self.now, self.hub_away_until) + 2 * HEARTBEAT_S

    def _alive(self) -> dict[RolloutId, State]:
        states = {name: rollouts_json.from_json(data) for name, data in self.stored.states.items()}
        return {name: state for name, state in states.items() if rollouts.alive(state)}

    def _view(self, states: Mapping[RolloutId, State]) -> dict[ClusterName, ClusterView]:
        names = {name for state in states.values() for name in state.members} | self.fleet.clusters.keys()
        found = {}
        for name in names:
            seen, agent = self.views.get(name, ClusterView(next_seq=0)), self.agents[name]
            there = {bundle: word.suspended for bundle, word in seen.bundles.items() if word.suspended}
            found[name] = replace(
                seen,
                next_seq=self.stored.slices.get(name, Slice()).seq + 1,
                suspended={**there, **(self._suspended(agent) if agent.told_hub else {})},
            )
        return found

    def _turn(self) -> None:
        told, self.inbox = self.inbox, []
        for name, seq, words in told:
            self.views[name] = ClusterView(next_seq=0, last_seen=self.now, seq=seq, bundles=words)
        after, planned = self.stored.copy(), self.to_plan
        states = self._alive()
        effects: list[Effect] = []
        view = self._view(states)
        order = sorted(states.values(), key=lambda s: (s.phase is not Phase.ROLLING_BACK, s.rollout.number))
        for state in order:
            began = state
            events: list[Event] = [Reported(cluster=name) for name, _, _ in told if name in state.members]
            state, made = rollouts.decide(
                state, (*events, Tick()), view, self.now, heartbeat_s=HEARTBEAT_S, settle_until=self.settle_until
            )
            effects += made
            states[state.rollout.id] = state
            self.to_plan |= rollouts.frees(began, state)
        if self.to_plan:
            self.to_plan = self._plan(after, states, effects, view)
        self._carry_out(after, states, effects)
        if self.faults and (fate := self.random.random()) < 0.02:
            self._restart()
            if fate < 0.01:
                self.seen.add("decision lost")
                self.to_plan |= planned
                return
        self._watch(states, effects)
        self.stored = after

    def _plan(
        self,
        after: Stored,
        states: dict[RolloutId, State],
        effects: list[Effect],
        view: Mapping[ClusterName, ClusterView],
    ) -> bool:
        """Start what is to be started; True when it has to be planned once more."""
        composed = {name: dict(row.bundles) for name, row in after.slices.items()}
        for effect in effects:
            if isinstance(effect, Move):
                composed.setdefault(effect.cluster, {}).update(effect.subtrees)
        holds = dict(after.holds)
        for effect in effects:
            if isinstance(effect, Hold):
                holds[effect.bundle] = waves.refused(states[effect.rollout].rollout)[effect.bundle]
        planned = waves.plan_rollouts(
            fleet=self.fleet,
            desired=self.desired,
            failed=frozenset(),
            current=composed,
            last_good=after.last_good,
            completed=after.completed,
            holds=holds,
            active=[state for state in states.values() if rollouts.alive(state)],
            keys=lambda subtree: frozenset(),
            remembered={},
            revision=Oid("r" * 40),
            number=after.number,
            now=self.now,
        )
        ended = False
        for name, cluster in planned.left:
            was = states[name]
            states[name], made = rollouts.decide(
                states[name], [Left(cluster=cluster)], view, self.now, heartbeat_s=HEARTBEAT_S
            )
            effects += made
            ended |= rollouts.frees(was, states[name])
        for older, newer in planned.replaced.items():
            self.seen.add("replaced")
            states[older], made = rollouts.supersede(states[older], self.now, by=newer)
            effects += made
        for rollout in planned.rollouts:
            states[rollout.id] = rollouts.start(rollout, self.now)
        after.number += len(planned.rollouts)
        for bundle in planned.released:
            after.holds.pop(bundle, None)
        return ended

    def _carry_out(self, after: Stored, states: Mapping[RolloutId, State], effects: list[Effect]) -> None:
        """The one transaction: slices, last good, holds, completed subtrees, states."""
        due: dict[ClusterName, dict[BundleName, Oid]] = {}
        for effect in effects:
            match effect:
                case Move(cluster=cluster, subtrees=subtrees):
                    for bundle, subtree in subtrees.items():
                        assert due.setdefault(cluster, {}).setdefault(bundle, subtree) == subtree, "two moves disagree"
                case MarkGood(cluster=cluster, subtrees=subtrees):
                    after.last_good.update({(cluster, bundle): subtree for bundle, subtree in subtrees.items()})
                case Hold(bundle=bundle, rollout=name):
                    after.holds[bundle] = waves.refused(states[name].rollout)[bundle]
        for cluster, subtrees in due.items():
            row = after.slices.get(cluster, Slice())
            bundles = {name: subtree for name, subtree in {**row.bundles, **subtrees}.items() if subtree}
            after.slices[cluster] = Slice(seq=row.seq + 1, bundles=bundles)
        for name, state in states.items():
            done = name not in after.states or rollouts_json.from_json(after.states[name]).phase is not state.phase
            if done and state.phase is Phase.COMPLETED:
                for cluster, target in state.rollout.targets.items():
                    for bundle, subtree in target.after.items():
                        after.completed.setdefault(bundle, {})[cluster] = subtree
            if rollouts.alive(state):
                after.states[name] = rollouts_json.to_json(state)
            else:
                after.states.pop(name, None)

    def _nobody_stays_paused(self) -> None:
        """With the faults over a person aborts what was paused; its bundles go on hold until the next commit."""
        for name, state in self._alive().items():
            if state.phase is Phase.PAUSED:
                command = Command(verb="abort", actor="ann", reason="faults are over")
                ended, _ = rollouts.decide(
                    state, [command], self._view({name: state}), self.now, heartbeat_s=HEARTBEAT_S
                )
                self.stored.states[name] = rollouts_json.to_json(ended)
                self.to_plan = True

    # --- what has to be true ---

    def _watch(self, states: Mapping[RolloutId, State], effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Move():
                    self._watch_move(states[effect.rollout], effect)
                case MarkGood(cluster=cluster, subtrees=subtrees):
                    for name, members in self.flying.items():
                        if (
                            name in states
                            and cluster in members
                            and subtrees == states[name].rollout.targets[cluster].after
                        ):
                            self.seen.add("proven")
                            self._watch_suspended(states[name], cluster, "proven")
                            members.discard(cluster)
                            was = self.agents[cluster].was_current
                            assert set(subtrees.items()) <= was, f"{cluster} was called proven and never was Current"
                case Notice(kind="cluster-failed" | "cluster-left", cluster=name, rollout=rollout):
                    if effect.kind == "cluster-failed":
                        self._watch_suspended(states[RolloutId(rollout)], ClusterName(name), "failed")
                    self.flying[RolloutId(rollout)].discard(ClusterName(name))
                    self.seen.add("failed")
        for name, state in states.items():
            if name in self.flying and (state.phase is not Phase.RUNNING and state.phase is not Phase.PAUSED):
                self.flying[name] &= {c for c, m in state.members.items() if m.phase is MemberPhase.MOVING}
            if state.phase is Phase.ROLLED_BACK:
                self._watch_rolled_back(state)
            if any(member.suspended for member in state.members.values()):
                self.seen.add("suspended")
            if state.phase is Phase.COMPLETED and any(m.phase is MemberPhase.OFFLINE for m in state.members.values()):
                self.seen.add("completed without the offline")

    def _watch_move(self, state: State, move: Move) -> None:
        name, cluster = move.rollout, move.cluster
        self.moves[name, cluster, move.back] += 1
        assert self.moves[name, cluster, move.back] == 1, f"{name} moved {cluster} twice"
        if move.back:
            self.flying[name].discard(cluster)
            assert move.subtrees == state.rollout.targets[cluster].before
            assert self.moves[name, cluster, False] == 1, f"{name} took {cluster} back from where it never was"
            return
        self._watch_suspended(state, cluster, "moved")
        self.flying[name].add(cluster)
        index = next(i for i, wave in enumerate(state.rollout.waves) if cluster in wave.clusters)
        wave = state.rollout.waves[index]
        flying = sum(other in self.flying[name] for other in wave.clusters)
        assert flying <= wave.max_concurrent, f"{flying} of {name} in flight in wave {wave.name}"
        for earlier in state.rollout.waves[:index]:
            self._watch_done(state, earlier, cluster)

    def _watch_suspended(self, state: State, cluster: ClusterName, what: str) -> None:
        agent = self.agents[cluster]
        if agent.told_hub:
            frozen = self._suspended(agent).keys() & state.rollout.targets[cluster].after.keys()
            assert not frozen, f"{cluster} was {what} in {state.rollout.id} while {frozen} was suspended there"

    def _watch_done(self, state: State, wave: Wave, cluster: ClusterName) -> None:
        """A cluster of a later wave is moved: `wave` must really be done, by what its agents really did."""
        name, careful = state.rollout.id, state.rollout.action != "continue"
        stay = [c for c in wave.clusters if state.members[c].phase is not MemberPhase.LEFT]
        good = [
            c
            for c in stay
            if self.moves[name, c, False] and set(state.rollout.targets[c].after.items()) <= self.agents[c].was_current
        ]
        if careful and stay:
            assert len(good) >= min(wave.min_proof, len(stay)), f"{name} went on to {cluster} without proof"
        bad = {self.kinds[s] for c in stay for s in state.rollout.targets[c].after.values() if s} - {"good"}
        assert not (bad and careful and stay), f"{name} took a commit that {bad} beyond wave {wave.name} to {cluster}"

    def _watch_rolled_back(self, state: State) -> None:
        self.seen.add("rolled back")
        for cluster, member in state.members.items():
            moved = self.moves[state.rollout.id, cluster, False]
            assert member.phase in (
                {MemberPhase.REVERTED, MemberPhase.LEFT}
                if moved
                else {MemberPhase.PENDING, MemberPhase.OFFLINE, MemberPhase.LEFT}
            ), f"{cluster} is {member.phase} after the rollback of {state.rollout.id}"

    def _all_is_well(self) -> None:
        left = {name: (s.phase, s.reason) for name, s in self._alive().items()}
        assert not left, f"rollouts that never end: {left}"
        for name in self.fleet.clusters:
            wanted = {bundle: subtrees[name] for bundle, subtrees in self.desired.items()}
            assert self.agents[name].runs == wanted, f"{name} runs {self.agents[name].runs}, not {wanted}"
