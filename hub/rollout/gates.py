"""Gates of a wave: who agreed, what was measured, and whether that is enough (rules 14 to 16 of `rollouts`).

Nothing here asks anybody: people's words come as commands, what checks found comes as `Evidence`, told by whoever asks
for the gates that `asked` names. Evidence that was asked for before the gate's turn never counts, nor does any that has
grown old: a gate opens on what is so now, after the last proof before it.

| a check's answer | what follows                                                                                     |
|------------------|--------------------------------------------------------------------------------------------------|
| good             | passes once good answers reach over `for_s`, none more than two intervals after the one before  |
| bad              | begins again; past `timeout_s` the gate has failed                                               |
| error            | begins again, its time too: what cannot be asked holds the wave, and fails nothing               |
| none lately      | begins again                                                                                     |

Time in which nobody could ask or be heard, since the hub did not run or the rollout was paused, fails no gate either.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hub.model import BundleDone, Gate
from hub.rollout.transitions import IllegalEvent
from hub.rollout.turn import Turn
from hub.state import FINAL, Command, Evidence, GateState, Phase, State, Verdict, Vote, Wave
from proto.ids import BundleName

DONE_INTERVAL_S = 5.0
"""How often a gate that waits for another bundle's rollout is looked at."""
_APART = 2
"""One answer may be lost before those after it begin anew."""


def key(wave: Wave, gate: Gate) -> str:
    """Pure: the name of a gate in its rollout."""
    return f"{wave.name}/{gate.name}"


def asked(state: State) -> dict[str, Gate]:
    """Pure: the gates of which a check is to be asked now, by key. Those of people are not among them."""
    return {name: gate for name, gate in _waiting(state).items() if gate.approval is None}


def awaits_people(state: State) -> dict[str, Gate]:
    """Pure: the gates that wait for people's words, by key."""
    return {name: gate for name, gate in _waiting(state).items() if gate.approval is not None}


def _waiting(state: State) -> dict[str, Gate]:
    """Those at which the rollout is now and that are neither waived nor failed."""
    if state.phase is not Phase.RUNNING or state.wave == len(state.rollout.waves):
        return {}
    wave, side = state.rollout.waves[state.wave], "after" if state.wave_opened_at else "before"
    found = {key(wave, gate): gate for gate in wave.gates if gate.when == side}
    return {name: gate for name, gate in found.items() if _waits(state.gates.get(name))}


def interval_s(gate: Gate) -> float:
    """Pure: how often its check is to be asked."""
    check = gate.metric or gate.http
    return check.interval_s if check is not None else DONE_INTERVAL_S


def shut(turn: Turn, wave: Wave, side: str) -> str:
    """Pure: which gates on this side of the wave keep it, and why; "" when all are open. Those that nobody asked for
    before begin now."""
    told = []
    for gate in wave.gates:
        if gate.when != side:
            continue
        found = turn.gates.get(key(wave, gate))
        if found is None:
            found = GateState(since=turn.now)
            turn.put_gate(key(wave, gate), found)
            text = f"rollout {turn.rollout.id} waits at gate {key(wave, gate)}: {wanted(gate)}"
            turn.note("gate-waits", text, wave=wave.name)
        if not turn.settled and found.time_from != turn.settle_until:
            found = _not_after(found, turn.now, time_from=turn.settle_until)
            turn.put_gate(key(wave, gate), found)
        if not passed(gate, found, turn.now):
            told.append(f"gate {key(wave, gate)}: {found.text or wanted(gate)}")
            turn.wake_past(fails_at(gate, found))
    return "; ".join(told)


def _not_after(found: GateState, now: float, *, time_from: float) -> GateState:
    """The clock may have been set back: nothing that was kept is from later than now."""
    return replace(
        found,
        since=min(found.since, now),
        time_from=time_from,
        true_since=min(found.true_since, now),
        last_at=min(found.last_at, now),
        votes=tuple(replace(vote, at=min(vote.at, now)) for vote in found.votes),
    )


def fails_at(gate: Gate, found: GateState) -> float:
    """Pure: when the gate has failed, if it does not pass before; infinity when it may take for ever."""
    return max(found.since, found.time_from) + gate.timeout_s if gate.timeout_s and not found.erring else math.inf


def overdue(turn: Turn, wave: Wave, side: str) -> str:
    """Pure: which gate on this side has failed, and why; "" when none."""
    for gate in wave.gates:
        found = turn.gates.get(key(wave, gate))
        if gate.when != side or found is None or passed(gate, found, turn.now):
            continue
        if found.failed:
            return f"gate {key(wave, gate)}: {found.text}"
        if turn.now > fails_at(gate, found):
            why = f"not passed within {gate.timeout_s:.0f} s: {found.text or wanted(gate)}"
            turn.put_gate(key(wave, gate), replace(found, failed=True, text=why))
            return f"gate {key(wave, gate)}: {why}"
    return ""


def passed(gate: Gate, found: GateState, now: float) -> bool:
    """Pure: is the gate open as it stands?"""
    if found.waived or found.failed:
        return found.waived
    if gate.approval is not None:
        return len(_valid(gate, found.votes, now)) >= gate.approval.approvers
    if not found.true_since or now - found.last_at > _APART * interval_s(gate):
        return False
    check = gate.metric or gate.http
    return found.last_at - found.true_since >= (check.for_s if check is not None else 0.0)


def waive(turn: Turn, wave: Wave, side: str, why: str) -> bool:
    """Pure: open all gates on this side by a person's word, or by the rollout's own; False when none was shut."""
    any_shut = False
    for gate in wave.gates:
        if gate.when == side:
            found = turn.gates.get(key(wave, gate)) or GateState(since=turn.now)
            if not passed(gate, found, turn.now):
                any_shut = True
                turn.put_gate(key(wave, gate), replace(found, failed=False, waived=True, text=f"waived: {why}"))
    return any_shut


def forget(turn: Turn, wave: Wave, side: str) -> None:
    """Pure: let gates of this side begin anew when it is their turn."""
    for gate in wave.gates:
        found = turn.gates.get(key(wave, gate))
        if found is not None and gate.when == side and not found.waived:
            turn.put_gate(key(wave, gate), None)


def go_on(turn: Turn, wave: Wave) -> None:
    """Pure: after a pause, or a failure that is tried again, gates that failed begin anew, and all have their whole
    time."""
    for gate in wave.gates:
        found = turn.gates.get(key(wave, gate))
        if found is not None and not found.waived:
            turn.put_gate(key(wave, gate), None if found.failed else replace(found, time_from=turn.now))


def take(turn: Turn, evidence: Evidence) -> bool:
    """Pure: what a check found; False when it counts for nothing, since it is late, early or not asked for."""
    gate, found = asked(turn.state).get(evidence.gate), turn.gates.get(evidence.gate)
    if gate is None or found is None or not max(found.since, found.last_at) <= evidence.asked_at <= turn.now:
        return False
    text = evidence.text
    if evidence.verdict == "good":
        goes_on = found.true_since and evidence.asked_at - found.last_at <= _APART * interval_s(gate)
        since = found.true_since if goes_on else evidence.asked_at
        made = replace(found, erring=False, true_since=since, last_at=evidence.asked_at, text=text)
    elif evidence.verdict == "bad":
        made = replace(found, erring=False, true_since=0.0, last_at=evidence.asked_at, text=text)
    else:
        at, text = evidence.asked_at, f"cannot be asked: {text}"
        made = replace(found, erring=True, time_from=at, true_since=0.0, last_at=at, text=text)
        if found.text != made.text:
            turn.note("gate-error", f"gate {evidence.gate} of rollout {turn.rollout.id} {text}")
    turn.put_gate(evidence.gate, made)
    return True


def approve(turn: Turn, command: Command) -> None:
    """Pure: one more person agrees. Raises IllegalEvent when no gate waits for this one."""
    name, gate = _meant(turn, command)
    assert gate.approval is not None
    if gate.approval.by and command.actor not in gate.approval.by:
        cause = f"{command.actor} is not among those who may approve: {', '.join(gate.approval.by)}"
        raise IllegalEvent(f"gate {name}", cause, "ask one of them")
    found = turn.gates[name]
    votes = (
        *(vote for vote in found.votes if vote.actor != command.actor),
        Vote(actor=command.actor, reason=command.reason, at=turn.now),
    )
    have, need = len(_valid(gate, votes, turn.now)), gate.approval.approvers
    text = f"approved by {', '.join(vote.actor for vote in votes)}" + (f", {have} of {need}" if need > 1 else "")
    turn.put_gate(name, replace(found, votes=votes, text=text))
    turn.note("approved", f"gate {name} of rollout {turn.rollout.id} is {text}: {command.reason}")


def reject(turn: Turn, command: Command) -> None:
    """Pure: a person says no: the gate has failed. Raises IllegalEvent when no gate waits for this one."""
    name, _ = _meant(turn, command)
    text = f"rejected by {command.actor}: {command.reason}"
    turn.put_gate(name, replace(turn.gates[name], votes=(), failed=True, text=text))
    turn.note("rejected", f"gate {name} of rollout {turn.rollout.id} is {text}")


def done(check: BundleDone, states: Iterable[State], on_hold: Mapping[BundleName, str]) -> tuple[Verdict, str]:
    """Pure: has the rollout of another bundle finished, or finished a wave? `on_hold` are bundles, and why they are."""
    if check.bundle in on_hold:
        return "bad", f"bundle {check.bundle} is on hold: {on_hold[check.bundle]}"
    for state in states:
        made = state.rollout
        if check.bundle not in made.bundles or state.phase in FINAL or made.base:
            continue
        names = [wave.name for wave in made.waves]
        if not check.wave:
            return "bad", f"{made.id} is {state.phase}"
        if check.wave not in names:
            return "error", f"{made.id} has no wave {check.wave}: it has {', '.join(names)}"
        if state.wave <= names.index(check.wave) or state.phase is Phase.ROLLING_BACK:
            return "bad", f"{made.id} is {state.phase} in wave {names[min(state.wave, len(names) - 1)]}"
    return "good", f"bundle {check.bundle} has finished"


def wake(turn: Turn, wave: Wave, side: str) -> None:
    """Pure: when words that were given grow old."""
    for gate in wave.gates:
        found = turn.gates.get(key(wave, gate))
        if gate.when == side and found is not None and gate.approval is not None and gate.approval.expires_s:
            for vote in _valid(gate, found.votes, turn.now):
                turn.wake_past(vote.at + gate.approval.expires_s)


def _waits(found: GateState | None) -> bool:
    return found is not None and not found.waived and not found.failed


def _valid(gate: Gate, votes: tuple[Vote, ...], now: float) -> list[Vote]:
    assert gate.approval is not None
    expires_s = gate.approval.expires_s or math.inf
    return [vote for vote in votes if now - vote.at <= expires_s]


def _meant(turn: Turn, command: Command) -> tuple[str, Gate]:
    waiting = awaits_people(turn.state)
    chosen = {name: gate for name, gate in waiting.items() if command.gate in ("", name, gate.name)}
    thing = f"rollout {turn.rollout.id}"
    if not chosen:
        cause = f"has no gate {command.gate} that waits" if command.gate else "waits at no gate for a person's word"
        raise IllegalEvent(thing, cause, f"these wait: {', '.join(waiting)}" if waiting else "see 'flotilla rollouts'")
    if len(chosen) > 1:
        raise IllegalEvent(thing, f"waits at {len(chosen)} gates", f"name one of {', '.join(chosen)}")
    return next(iter(chosen.items()))


def wanted(gate: Gate) -> str:
    """Pure: what the gate asks for, for people."""
    if gate.approval is not None:
        many = gate.approval.approvers
        who = f" of {', '.join(gate.approval.by)}" if gate.approval.by else ""
        return f"needs the word of {'a person' if many == 1 else f'{many} people'}{who}"
    if gate.metric is not None:
        bounds = [f"above {gate.metric.above:g}"] if gate.metric.above is not None else []
        bounds += [f"below {gate.metric.below:g}"] if gate.metric.below is not None else []
        how = f" for {gate.metric.for_s:.0f} s" if gate.metric.for_s else ""
        return f"{gate.metric.query} has to be {' and '.join(bounds)}{how}"
    if gate.http is not None:
        return f"{gate.http.url} has to answer {' or '.join(map(str, gate.http.status))}"
    assert gate.done is not None
    return f"bundle {gate.done.bundle} has to finish" + (f" wave {gate.done.wave}" if gate.done.wave else "")
