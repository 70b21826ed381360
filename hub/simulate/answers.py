"""Who answers what rollouts wait for: checks of gates, and people who approve, reject, resume and roll back.

| asked                          | answers                                                                          |
|--------------------------------|----------------------------------------------------------------------------------|
| a metric, an HTTP address      | bad once the commit has shown somewhere that it is bad, else good                |
| another bundle                 | as the hub's gatekeeper; one that nothing rolls out is done                      |
| people at an approval          | as many as it needs, each in his time: no to a commit that is known to be bad    |
| people at a paused rollout, or | one, in his time: rolls back what is known to be bad, else resumes what is       |
| at a gate that stays bad       | paused                                                                           |

Next: `hub` takes the answers.
"""

from functools import partial

from hub.model import Gate
from hub.rollout import gates
from hub.simulate import people
from hub.simulate.chance import Chance
from hub.simulate.clock import Clock, Turn
from hub.simulate.hub import Hub
from hub.simulate.setting import Setting
from hub.state import Command, Evidence, Phase, State, Verb, Verdict
from proto.ids import Oid, RolloutId

P = Phase
_REASON = "simulated"


class Answers:
    """`shows` are the bad subtrees that were seen to be bad."""

    def __init__(self, setting: Setting, chance: Chance, clock: Clock, hub: Hub, *, shows: set[Oid]) -> None:
        self._setting, self._chance, self._clock, self._hub, self._shows = setting, chance, clock, hub, shows
        self._busy: set[tuple[RolloutId, str]] = set()
        """Gates that somebody is asked for, by key, and rollouts ("") that somebody is to look at."""

    def attend(self, state: State) -> None:
        """Let everything be asked that the rollout waits for now."""
        id_ = state.rollout.id
        for key, gate in gates.asked(state).items():
            if self._begins(id_, key):
                self._clock.at(self._clock.now + 1, partial(self._check, id_, key, gate))
        for key, gate in gates.awaits_people(state).items():
            if self._begins(id_, key):
                self._call(id_, key, gate)
        if state.phase is P.PAUSED:
            self._call_for_help(id_)

    def _begins(self, id_: RolloutId, key: str) -> bool:
        if (id_, key) in self._busy:
            return False
        self._busy.add((id_, key))
        return True

    # --- checks ---------------------------------------------------------------------------------------------------

    def _check(self, id_: RolloutId, key: str, gate: Gate, turn: Turn) -> None:
        state, now = self._hub.states.get(id_), self._clock.now
        if state is None or key not in gates.asked(state):
            self._busy.discard((id_, key))
            return
        verdict = self._finds(state, gate)
        turn.evidence.append((id_, Evidence(gate=key, verdict=verdict, text=_REASON, asked_at=now)))
        if verdict == "bad" and gate.done is None and not gate.timeout_s:
            self._call_for_help(id_)
        self._clock.at(now + gates.interval_s(gate), partial(self._check, id_, key, gate))

    def _finds(self, state: State, gate: Gate) -> Verdict:
        if gate.done is None:
            return "bad" if self._is_known_bad(state) else "good"
        verdict, _ = gates.done(gate.done, self._hub.states.values(), dict.fromkeys(self._hub.holds, ""))
        return verdict

    def _is_known_bad(self, state: State) -> bool:
        commit = self._hub.entries[state.rollout.id].commit
        return commit is not None and commit.subtree in self._shows

    # --- people ---------------------------------------------------------------------------------------------------

    def _call(self, id_: RolloutId, key: str, gate: Gate) -> None:
        """Ask as many people as the gate needs."""
        assert gate.approval is not None
        needed = gate.approval.approvers
        actors = (gate.approval.by or tuple(f"person-{n + 1}" for n in range(needed)))[:needed]
        words = sorted((self._answered_at(), actor) for actor in actors)
        for place, (at, actor) in enumerate(words, 1):
            self._clock.at(at, partial(self._vote, id_, key, actor, is_last=place == len(words)))

    def _vote(self, id_: RolloutId, key: str, actor: str, turn: Turn, *, is_last: bool) -> None:
        if is_last:  # if words grew old meanwhile, all are asked again
            self._busy.discard((id_, key))
        state = self._hub.states.get(id_)
        if state is not None and key in gates.awaits_people(state):
            verb: Verb = "reject" if self._is_known_bad(state) else "approve"
            turn.commands.append((id_, Command(verb=verb, actor=actor, reason=_REASON, gate=key)))

    def _call_for_help(self, id_: RolloutId) -> None:
        """Somebody is to look at a rollout that cannot go on by itself."""
        if self._begins(id_, ""):
            self._clock.at(self._answered_at(), partial(self._help, id_))

    def _help(self, id_: RolloutId, turn: Turn) -> None:
        self._busy.discard((id_, ""))
        state = self._hub.states.get(id_)
        if state is None or state.phase not in (P.RUNNING, P.PAUSED):
            return
        if self._is_known_bad(state):
            turn.commands.append((id_, Command(verb="rollback", actor="person-1", reason=_REASON)))
        elif state.phase is P.PAUSED:
            turn.commands.append((id_, Command(verb="resume", actor="person-1", reason=_REASON)))

    def _answered_at(self) -> float:
        return people.answered_at(self._clock.now, self._chance.answer(self._setting.answer), self._setting.hours)
