"""One run: what people commit, what clusters make of it, and the hub that decides about it, over virtual time.

`setting` says what is simplified. No clock, no IO; what is random is drawn by `chance`. Next: `figures`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hub.repo import targets
from hub.rollout.transitions import IN_FLIGHT
from hub.simulate import ledger
from hub.simulate.answers import Answers
from hub.simulate.chance import Chance
from hub.simulate.clock import Clock, Turn
from hub.simulate.clusters import Agent
from hub.simulate.hub import Hub
from hub.simulate.ledger import Commit, Entry
from hub.simulate.setting import HEARTBEAT_S, MANY, MANY_S, Setting, Span
from hub.state import ClusterView, MemberPhase, State
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Health

FLAPS_EACH_S = 600.0
"""How often, on the average, the health of a cluster that flaps goes for a moment."""
_HEARTBEAT = Span(least_s=0.0, most_s=HEARTBEAT_S)
_BEATS = 0.8
"""Of a deadline: how often a soaking cluster is heard, so that it does not pass."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What a run came to. `decisions`: how often the rules were asked, `checked`: after how many of these every
    invariant was looked at anew."""

    setting: Setting
    commits: list[Commit]
    entries: list[Entry]
    decisions: int
    checked: int


class World:
    """`run` it once. Raises what the rules raise, which is a bug of theirs."""

    def __init__(self, setting: Setting, chance: Chance, *, check_each: int = 0) -> None:
        """`check_each`: look at all invariants anew after so many decisions (0: never; what changed is always)."""
        self._setting, self._chance = setting, chance
        self.clock = Clock(setting.start_s, step_s=MANY_S if len(setting.fleet.clusters) > MANY else 1)
        fleet = setting.fleet
        self._desired = {
            bundle: dict.fromkeys(names, _subtree(bundle, 0)) for bundle, names in targets.wanted(fleet).items()
        }
        self._agents = {name: Agent(name=name) for name in fleet.clusters}
        for bundle, subtrees in self._desired.items():
            for name, subtree in subtrees.items():
                self._agents[name].due[bundle] = subtree
        for agent in self._agents.values():
            for bundle in agent.take():
                agent.become(bundle, Health.CURRENT)
        self._views: dict[ClusterName, ClusterView] = {name: agent.view() for name, agent in self._agents.items()}
        self._flapping = chance.flapping(setting, list(fleet.clusters))
        self._shows: set[Oid] = set()
        self._exposed: set[tuple[Oid, ClusterName]] = set()
        """Who took a bad commit at least once: a rollback may go to one that looked good."""
        self._beats: dict[tuple[RolloutId, ClusterName], float] = {}
        """When a cluster that soaks is heard next."""
        self._hub = Hub(fleet, self.clock, desired=self._desired, views=self._views, check_each=check_each)
        self._answers = Answers(setting, chance, self.clock, self._hub, shows=self._shows)

    def run(self) -> Record:
        """From the start to the end."""
        setting, hub = self._setting, self._hub
        for name in self._agents:
            self._silences(name, self._chance.silences(setting, name))
        bundles = [bundle for bundle, subtrees in self._desired.items() if subtrees]
        for number, (at, bundle, bad, shows_s) in enumerate(self._chance.commits(setting, bundles), 1):
            subtree = _subtree(bundle, number)
            seen_at = max(self.clock.ends(at), self.clock.ends(self.clock.now + 1))
            made = Commit(number=number, bundle=bundle, at=seen_at, bad=bad, shows_s=shows_s, subtree=subtree)
            hub.commits[subtree] = made
            self.clock.at(at, partial(self._commit, made))
        for turn in self.clock.turns(setting.end_s):
            if turn:
                self._turn(turn)
        for entry in hub.entries.values():
            if entry.end == math.inf:
                ledger.close(entry, setting.end_s)
        return Record(
            setting=setting,
            commits=list(hub.commits.values()),
            entries=list(hub.entries.values()),
            decisions=hub.decisions,
            checked=hub.checked,
        )

    def _turn(self, turn: Turn) -> None:
        for cluster, subtrees in self._hub.turn(turn).items():
            agent = self._agents[cluster]
            agent.decided += 1
            agent.due.update(subtrees)
            if agent.silent_since:
                self._views[cluster] = agent.view()
            else:
                self._take(agent)
        for id_, heard in self._hub.met.items():
            if (state := self._hub.states.get(id_)) is not None:
                for cluster in heard:
                    self._soak(state, cluster)
                self._answers.attend(state)

    def _commit(self, made: Commit, turn: Turn) -> None:
        self._desired[made.bundle] = dict.fromkeys(self._desired[made.bundle], made.subtree)
        turn.commits = True

    # --- clusters -------------------------------------------------------------------------------------------------

    def _silences(self, name: ClusterName, coming: Iterator[tuple[float, float]]) -> None:
        spell, agent = next(coming, None), self._agents[name]
        if spell is None:
            return
        start, end = spell

        def is_heard_last(turn: Turn) -> None:
            self.clock.at(self.clock.now, falls_silent)
            self.clock.at(end, returns)
            if self._any_member(name, lambda phase: phase is MemberPhase.SOAKING):
                turn.heard[name] = None

        def falls_silent(turn: Turn) -> None:
            agent.silent_since = self.clock.now
            self._views[name] = agent.view()

        def returns(turn: Turn) -> None:
            agent.silent_since = 0.0
            if agent.due:
                self._take(agent)
            self._views[name] = agent.view()
            turn.heard[name] = turn.returned[name] = None
            self._silences(name, coming)

        self.clock.at(start, is_heard_last)

    def _take(self, agent: Agent) -> None:
        """The cluster has its slice, and begins to apply it."""
        for bundle, subtree in agent.take().items():
            made = self._hub.commits.get(subtree)
            if made is not None and made.bad and (subtree, agent.name) not in self._exposed:
                self._exposed.add((subtree, agent.name))
                for entry in self._hub.entries.values():
                    entry.exposed += entry.commit is made
            takes_s = self._chance.within(self._setting.apply)
            self.clock.at(self.clock.now + takes_s, partial(self._applied, agent, bundle, agent.turns[bundle]))
        self._views[agent.name] = agent.view()

    def _applied(self, agent: Agent, bundle: BundleName, nth: int, turn: Turn) -> None:
        """Done with the `nth` change of the bundle, if no later one came meanwhile."""
        if agent.turns[bundle] != nth:
            return
        if bundle in agent.words:
            subtree, now = Oid(agent.words[bundle].subtree), self.clock.now
            made = self._hub.commits.get(subtree)
            fails = agent.good.get(bundle) != subtree and self._chance.happens(self._setting.fail)
            agent.become(bundle, Health.FAILED if fails else Health.CURRENT)
            if made is not None and made.bad and not fails:
                self.clock.at(now + made.shows_s * self._chance.about_one(), partial(self._breaks, agent, bundle, nth))
            if agent.name in self._flapping:
                self.clock.at(now + self._chance.after(FLAPS_EACH_S), partial(self._flaps, agent, bundle, nth))
        self._say(agent, turn)

    def _breaks(self, agent: Agent, bundle: BundleName, nth: int, turn: Turn) -> None:
        """A bad commit shows itself."""
        if agent.turns[bundle] == nth:
            self._shows.add(Oid(agent.words[bundle].subtree))
            agent.become(bundle, Health.FAILED)
            self._say(agent, turn)

    def _flaps(self, agent: Agent, bundle: BundleName, nth: int, turn: Turn) -> None:
        """Health goes for a heartbeat, and again and again as long as anybody waits for it."""
        if agent.turns[bundle] != nth or agent.words[bundle].health is Health.FAILED:
            return
        flaps = partial(self._flaps, agent, bundle, nth)
        if agent.words[bundle].health is Health.CURRENT:
            agent.become(bundle, Health.IN_PROGRESS)
            self.clock.at(self.clock.now + HEARTBEAT_S, flaps)
        else:
            agent.become(bundle, Health.CURRENT)
            if self._any_member(agent.name, IN_FLIGHT.__contains__):
                self.clock.at(self.clock.now + self._chance.after(FLAPS_EACH_S), flaps)
        self._say(agent, turn)

    def _say(self, agent: Agent, turn: Turn) -> None:
        if not agent.silent_since:
            self._views[agent.name] = agent.view()
            turn.heard[agent.name] = None

    def _any_member(self, cluster: ClusterName, is_so: Callable[[MemberPhase], bool]) -> bool:
        states = self._hub.states.values()
        return any(cluster in state.members and is_so(state.members[cluster].phase) for state in states)

    def _soak(self, state: State, cluster: ClusterName) -> None:
        """Let a cluster that soaks be heard again: with the heartbeat after its end, or before its deadline."""
        member, key, now = state.members[cluster], (state.rollout.id, cluster), self.clock.now
        if member.phase is not MemberPhase.SOAKING or not member.soak_from:
            self._beats.pop(key, None)
            return
        # All at the same moments, so that they share a turn.
        each_s = max(1.0, _BEATS * state.rollout.deadline_s)
        ends = max(now, member.soak_from + state.rollout.waves[member.wave].soak_s)
        at = min((now // each_s + 1) * each_s, ends + self._chance.within(_HEARTBEAT))

        def beats(turn: Turn) -> None:
            if self._beats.get(key) == second:
                del self._beats[key]
                if not self._agents[cluster].silent_since:
                    turn.heard[cluster] = None

        second = self._beats[key] = self.clock.at(at, beats)


def _subtree(bundle: BundleName, number: int) -> Oid:
    return Oid(f"{bundle}@{number}")
