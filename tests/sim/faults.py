"""What goes wrong, and what people and the checks of gates say: all at random, by the seed of the world.

Agents that are away, mute or deaf, alone or half of the fleet at once; reports that are lost, late, overtaken or told
twice; health that flaps; commits in the middle of a rollout; clusters that join and leave, are suspended or cordoned;
freezes; a hub that dies; people who say anything to anything; checks that answer late, twice, wrongly or not at all.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from hub.rollout import gates
from hub.rollout.rounds import Said
from hub.state import ABSENT, NO_ROLLOUT, VERBS, Base, Command, Evidence, MemberPhase, Phase
from proto.ids import RolloutId
from tests.sim import fleets
from tests.sim.fleets import BUNDLES
from tests.sim.hub import Hub

if TYPE_CHECKING:
    from tests.sim.world import World

PEOPLE = ("ann", "bob", "eve")
_WEIGHTS = {"emergency": 1, "rollback": 1, "abort": 1, "reject": 1, "skip-wave": 1, "skip": 2, "approve": 12}
"""How often people say what; all else 3."""


class Faults:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.pick = world.random
        self.truth: dict[str, str] = {}
        """What each check finds at the moment."""

    def _happens(self, chance: float) -> bool:
        return self.pick.random() < chance

    def strike(self) -> None:
        """The misfortunes of one step."""
        self._agents()
        self._fleet()
        if self._happens(0.01):
            self.world.hub_away_until = self.world.now + self.pick.choice([0.0, 40.0, 300.0])
            self.restart_hub()
        if self._happens(0.1):
            self._somebody_speaks()
        if self._happens(0.1):
            self.truth[self.pick.choice(["page", "errors"])] = self.pick.choice(["good", "good", "bad", "error"])

    # --- agents and their network ---

    def _agents(self) -> None:
        now, pick = self.world.now, self.pick
        for name, agent in self.world.agents.items():
            if self._happens(0.01):
                agent.away_until = now + pick.choice([30.0, 100.0, 500.0])
            if self._happens(0.004):
                agent.mute_until = now + pick.choice([30.0, 100.0])
            if self._happens(0.004):
                agent.deaf_until = now + pick.choice([30.0, 100.0])
            if self._happens(0.008):
                agent.flaps_until = now + pick.choice([50.0, 200.0])
            if self._happens(0.02):
                agent.slow_s = pick.choice([0.0, 20.0, 90.0])
            if self._happens(0.006):
                agent.suspended_until = {pick.choice(BUNDLES): now + pick.choice([40.0, 400.0])}
            if self._happens(0.006):
                self.world.suspended[name] = pick.choice([{}, {pick.choice(BUNDLES): "ann"}])
            if self._happens(0.01 if name in self.world.cordoned else 0.004):
                self.world.seen["cordoned"] += 1
                if not self.world.cordoned.pop(name, ""):
                    self.world.cordoned[name] = "ann: repairs"
        if self._happens(0.004):
            self.world.seen["partition"] += 1
            for agent in pick.sample(sorted(self.world.agents.values(), key=lambda a: a.name), len(self.world.agents)):
                if self._happens(0.7):
                    agent.away_until = now + 60.0

    def post(self) -> list[float]:
        """How late each copy of a report arrives."""
        if not self.world.faulty:
            return [0.0]
        if self._happens(0.08):
            self.world.seen["lost"] += 1
            return []
        return [
            self.pick.choice([10.0, 20.0, 50.0]) if self._happens(0.06) else 0.0
            for _ in range(2 if self._happens(0.08) else 1)
        ]

    # --- the fleet repo and the hub ---

    def _fleet(self) -> None:
        world, clusters = self.world, self.world.fleet.clusters
        if self._happens(0.02):
            if self._happens(0.2):
                world.fleet = replace(world.fleet, policies=fleets.policies(self.pick))
            world.commit()
            world.see_commit()
        if self._happens(0.01):
            frozen = () if world.fleet.freezes else (fleets.freeze(self.pick, world.now),)
            world.fleet = replace(world.fleet, freezes=frozen)
            world.see_commit()
        if self._happens(0.006) and len(clusters) < 9:
            world.add(f"j{len(world.agents)}")
            world.see_commit()
        if self._happens(0.004) and len(clusters) > 2:
            gone = self.pick.choice(sorted(clusters))
            world.fleet = replace(world.fleet, clusters={name: c for name, c in clusters.items() if name != gone})
            world.seen["left"] += 1
            world.see_commit()

    def restart_hub(self) -> None:
        """Memory is gone; the journal is not."""
        self.world.seen["restart"] += 1
        self.world.mail.clear()
        self.world.found.clear()
        began = max(self.world.now, self.world.hub_away_until)
        self.world.hub = Hub(self.world.hub.stored, self.world.desired, now=began)

    def find_what_completed(self) -> None:
        """What clusters that joined shall have, late, or found to be nothing, while faults last."""
        world, faulty = self.world, self.world.faulty
        for bundle, clusters in world.hub.memory.joining.asked.items():
            if any(of == bundle for _, of, _ in world.found):
                continue
            row, fleet = world.hub.stored.last.get(bundle), world.hub.desired.fleet
            there = {name: fleet.clusters[name] for name in clusters if name in fleet.clusters}
            refuses = row is None or (faulty and self._happens(0.1))
            base = Base(
                rollout=row.rollout if row else NO_ROLLOUT,
                number=row.number if row else 0,
                revision=row.revision if row else ABSENT,
                clusters=there,
                subtrees={} if row is None or refuses else dict.fromkeys(there, world.subtree(bundle, row.revision)),
                refused=dict.fromkeys(there, "it does not render") if refuses else {},
            )
            late_s = self.pick.choice([0.0, 0.0, 30.0]) if faulty else 0.0
            world.found.append((world.now + late_s, bundle, base))

    # --- people ---

    def _somebody_speaks(self) -> None:
        states = self.world.hub.states
        if self._happens(0.1) and self.world.hub.stored.holds:
            self.world.hub.release(self.pick.choice(sorted(self.world.hub.stored.holds)))
        if not states:
            return
        name = self.pick.choice(sorted(states))
        verb = self.pick.choices(VERBS, [_WEIGHTS.get(verb, 3) for verb in VERBS])[0]
        cluster = self.pick.choice(sorted(states[name].members))
        command = Command(verb=verb, actor=self.pick.choice(PEOPLE), reason="it is right", cluster=cluster)
        self.world.said += [Said(rollout=name, command=command)] * self.pick.choice([1, 1, 1, 2])

    def people_help(self) -> None:
        """With the faults over they resume what is paused, or end what failed, release what is on hold, push what waits
        for tomorrow, or for clusters that only it could mend, and agree to everything."""
        self.truth.clear()
        for bundle in sorted(self.world.hub.stored.holds):
            self.world.hub.release(bundle)
        for name, state in self.world.hub.states.items():
            waiting = gates.awaits_people(state)
            words = [("approve", actor, gate) for gate in waiting for actor in ("ann", "bob")]
            failed = any(tally.phases.get(MemberPhase.FAILED) for tally in state.tallies)
            if state.phase is Phase.PAUSED:
                words = [("abort" if failed else "resume", "ann", "")]
            elif "unavailable" in state.reason or "moves only" in state.reason:
                words = [("abort" if failed else "emergency", "ann", "")]
            for verb, actor, gate in words:
                command = Command(verb=verb, actor=actor, reason="it is right", gate=gate)  # type: ignore[arg-type]
                self.world.said.append(Said(rollout=name, command=command))

    # --- checks ---

    def ask_gates(self) -> None:
        """The gatekeeper: answers to what is due, late, twice, or made up while faults last."""
        now, world = self.world.now, self.world
        for rollout, key, name, known in list(world.hub.questions(now)):
            self._answer(rollout, key, known or self.truth.get(name, "good"), now)
        if world.faulty and self._happens(0.05):
            for rollout, state in world.hub.states.items():
                keys = [gates.key(wave, gate) for wave in state.rollout.waves for gate in wave.gates]
                if keys:
                    asked_at = now + self.pick.choice([-200.0, -30.0, 30.0])
                    self._answer(rollout, self.pick.choice(keys), "good", asked_at)

    def _answer(self, rollout: RolloutId, key: str, verdict: str, asked_at: float) -> None:
        found = Evidence(gate=key, verdict=verdict, text=verdict, asked_at=asked_at)  # type: ignore[arg-type]
        late_s = self.pick.choice([15.0, 60.0]) if self.world.faulty and self._happens(0.15) else 0.0
        for _ in range(2 if self.world.faulty and self._happens(0.1) else 1):
            self.world.answers.append((self.world.now + late_s, (rollout, found)))
