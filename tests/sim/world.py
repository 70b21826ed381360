"""A fleet on virtual time with seeded faults: the hub's rules drive it, and it watches whether they keep their word.

No sockets, no threads, no clock: one step is `STEP_S` seconds. `agents` are the clusters, `hub` decides, `faults` says
what goes wrong and what people and gates say, `watch` what must hold. After the faults everything is well for a while,
and whatever was begun has to end. `FLOTILLA_SIM_SEED=7 pytest tests/property/test_rollouts_sim.py` plays one seed.
"""

import random
from collections import Counter
from dataclasses import replace

from hub.rollout.rounds import Said
from hub.state import Base
from proto.ids import BundleName, ClusterName, Oid
from tests.sim import fleets
from tests.sim.agents import Agent, Letter, Slice
from tests.sim.faults import Faults
from tests.sim.fleets import BUNDLES
from tests.sim.hub import Desired, Found, Hub, Stored, Turn
from tests.sim.watch import Watch

STEP_S = 10.0
FAULTY_STEPS = 150
QUIET_STEPS = 500
"""With all faults over, everything has to be done within this many steps."""


class World:
    """The fleet, the hub and the faults of one seed. `run` raises AssertionError when a rule is broken."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = self.began_at = self.random.choice(fleets.STARTS)
        self.faulty = True
        self.fleet = fleets.fleet(self.random)
        self.agents: dict[ClusterName, Agent] = {}
        for name in self.fleet.clusters:
            self._join(name)
        self.kinds: dict[Oid, str] = {}
        """How each subtree behaves: good, failed, hangs, or cuts the cluster off."""
        self.versions = dict.fromkeys(BUNDLES, 0)
        self.in_parts = seed % 4 == 3
        """Some commits change a bundle on a part of the fleet only, as a variable of those clusters does."""
        self.spared: dict[Oid, dict[ClusterName, Oid]] = {}
        """Clusters where a subtree is not wanted, and what is wanted there in its place."""
        self.commits: dict[Oid, int] = {}
        """Which commit brought each subtree."""
        self.history: dict[Oid, dict[BundleName, int]] = {}
        """The version of each bundle at each revision."""
        self.number = 0
        self.seen: Counter[str] = Counter()
        """What happened at all, so that a test can tell that the faults really bite."""
        self.suspended: dict[ClusterName, dict[BundleName, str]] = {}
        """By people at the hub; and so is who is cordoned."""
        self.cordoned: dict[ClusterName, str] = {}
        self.mail: list[Letter] = []
        self.answers: list[tuple[float, Found]] = []
        self.said: list[Said] = []
        self.found: list[tuple[float, BundleName, Base]] = []
        """What last completed for clusters that joined, and when the hub is told of it."""
        self.hub_away_until = 0.0
        self.desired = self.commit(everything=True)
        self.hub = Hub(Stored(), self.desired, now=self.now, settles=False)
        self.watch = Watch(self)
        self.faults = Faults(self)

    # --- the fleet repo ---

    def commit(self, *, everything: bool = False) -> Desired:
        """Some bundles are changed, for good or ill; with `everything` all are, and well."""
        self.number += 1
        for bundle in BUNDLES:
            if everything or self.random.random() < 0.6:
                before = self.desired.subtrees[bundle] if self.in_parts and not everything else {}
                self.versions[bundle] += 1
                subtree = Oid(f"{bundle}@{self.versions[bundle]}")
                if before and self.random.random() < 0.5:
                    self.spared[subtree] = {name: was for name, was in before.items() if self.random.random() < 0.5}
                weights = [1, 0, 0, 0] if everything else [6, 2, 1, 1]
                self.kinds[subtree] = self.random.choices(["good", "failed", "hangs", "cuts"], weights)[0]
                self.commits[subtree] = self.number
        return self.wish()

    def wish(self) -> Desired:
        """What the fleet repo says now."""
        subtrees = {}
        for bundle, version in self.versions.items():
            newest = Oid(f"{bundle}@{version}")
            subtrees[bundle] = {name: self.spared.get(newest, {}).get(name, newest) for name in self.fleet.clusters}
        self.desired = Desired(fleet=self.fleet, subtrees=subtrees, revision=Oid(f"commit-{self.number}"))
        self.history[self.desired.revision] = dict(self.versions)
        return self.desired

    def subtree(self, bundle: BundleName, revision: Oid) -> Oid:
        """What a revision makes of a bundle, on whatever cluster."""
        return Oid(f"{bundle}@{self.history[revision][bundle]}")

    def see_commit(self) -> None:
        self.hub.commit_seen(self.wish())

    def add(self, name: str) -> None:
        found, cluster = fleets.cluster(self.random, name)
        self._join(found)
        self.fleet = replace(self.fleet, clusters={**self.fleet.clusters, found: cluster})

    def _join(self, name: ClusterName) -> None:
        self.agents[name] = Agent(name=name, skew_s=self.random.choice([0.0, -9e6, 3600.0]))

    # --- time ---

    def run(self) -> None:
        for _ in range(FAULTY_STEPS):
            self.faults.strike()
            self._step()
        self._calm_down()
        for _ in range(QUIET_STEPS):
            self.faults.people_help()
            self._step()
            if self._is_done():
                break
        self._all_is_well()

    def _calm_down(self) -> None:
        """Faults end, gates open, nothing stays frozen, shut, suspended or cordoned."""
        self.faulty = False
        self.suspended, self.cordoned = {}, {}
        for agent in self.agents.values():
            agent.calm()
        clusters = {name: replace(cluster, windows=()) for name, cluster in self.fleet.clusters.items()}
        plain = {name: replace(policy, windows=()) for name, policy in fleets.policies(self.random).items()}
        self.fleet = replace(self.fleet, clusters=clusters, freezes=(), policies=plain)
        self.hub.commit_seen(self.commit(everything=True))

    def _step(self) -> None:
        self.now += STEP_S
        for name, agent in self.agents.items():
            self._live(name, agent)
        due = [letter for letter in self.mail if letter.arrives_at <= self.now]
        self.mail = [letter for letter in self.mail if letter.arrives_at > self.now]
        told = [found for at, found in self.answers if at <= self.now]
        self.answers = [(at, found) for at, found in self.answers if at > self.now]
        said, self.said = self.said, []
        if self.now < self.hub_away_until:
            return
        for _, bundle, base in [item for item in self.found if item[0] <= self.now]:
            self.hub.last_completed(bundle, base)
        self.found = [item for item in self.found if item[0] > self.now]
        heard = [letter for letter in due if letter.number >= self.hub.newest.get(letter.cluster, 0)]
        self.seen["overtaken"] += len(due) - len(heard)
        turn = self.hub.turn(
            self.now,
            letters=sorted(heard, key=lambda letter: letter.number),
            evidence=told,
            said=said,
            suspended={name: words for name, words in self.suspended.items() if words},
            cordoned=self.cordoned,
        )
        self._store(turn)
        self.faults.ask_gates()
        self.faults.find_what_completed()

    def _store(self, turn: Turn) -> None:
        """A hub may die before the journal has the turn, or right after; then memory is lost."""
        fate = self.random.random() if self.faulty else 1.0
        if fate < 0.01:
            self.seen["decision lost"] += 1
            self.faults.restart_hub()
            return
        self.watch.turn(turn)
        self.hub.keep(turn)
        if fate < 0.02:
            self.faults.restart_hub()

    def _live(self, name: ClusterName, agent: Agent) -> None:
        if self.now < agent.away_until:
            return
        if self.now >= agent.deaf_until:
            due = self.hub.stored.slices.get(name, Slice())
            changed = agent.take(due, self.now, self.suspended.get(name, {}))
            if changed and self.faulty and any(self.kinds[subtree] == "cuts" for subtree in agent.runs.values()):
                # Until somebody repairs the network by hand; nothing that the hub does can reach it.
                agent.away_until = self.now + 600.0
                self.seen["cut"] += 1
                return
        words = agent.words(self.kinds, self.now, self.random)
        agent.reports += 1
        for delay_s in self.faults.post() if self.now >= agent.mute_until else ():
            letter = Letter(
                cluster=name, number=agent.reports, seq=agent.seq, words=words, arrives_at=self.now + delay_s
            )
            self.mail.append(letter)

    # --- the end ---

    def _is_done(self) -> bool:
        return not self.hub.states and not self.hub.waits

    def _all_is_well(self) -> None:
        left = {name: (state.phase, state.reason) for name, state in self.hub.states.items()}
        assert not left, f"rollouts that never end: {left}"
        for name in self.fleet.clusters:
            wanted = {bundle: subtrees[name] for bundle, subtrees in self.desired.subtrees.items()}
            assert self.agents[name].runs == wanted, f"{name} runs {self.agents[name].runs}, not {wanted}"
        for rollout, track in self.watch.tracks.items():
            assert not track.flying, f"{rollout} moved {track.flying}, and nobody said what became of it"
