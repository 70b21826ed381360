"""Pure: what rollouts wait for, as JSON values: gates with the words given at them, windows, holds, freezes.

| field       | says                                                                                                 |
|-------------|------------------------------------------------------------------------------------------------------|
| `gates`     | those at which the rollout is, also those that are open meanwhile: who agreed, what was found last   |
| `window`    | which window keeps moves from starting, and when the next one may (UTC, and on the window's own wall) |
| `held`      | why clusters whose turn has come are not moved, and how many they are                                |
| `offline`   | those that its waves wait for, when nothing else keeps it: more than the budget, or too few proven   |
| `emergency` | who sent it past all of these, and why                                                               |
| `joining`   | (of the fleet) which clusters that joined wait for a bundle, and why                                 |

Next: `api` puts it beside what `status` says of a rollout; `flotilla rollouts` and the status page show it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from hub.api.status import Json, rfc3339
from hub.model import Fleet, Gate, Selector, Window
from hub.repo import targets, windows
from hub.rollout import gates
from hub.rollout.joiners import Joining
from hub.rollout.story import waiting as story
from hub.rollout.transitions import CORDONED
from hub.state import GateState, MemberPhase, Phase, State, Wave
from proto.ids import ClusterName

MAX_HELD = 5
"""Reasons; a fleet is held for few at a time."""
MAX_FREEZES = 20
MAX_TEXT = 400


def of_rollout(state: State, now: float) -> Json:
    """Pure: what one rollout waits for."""
    return {
        "gates": at_gates(state, now),
        "window": _window(state, now),
        "held": _held(state),
        "offline": _offline(state),
        "emergency": state.emergency,
    }


def at_gates(state: State, now: float) -> list[Json]:
    """Pure: the gates at which the rollout is, in the order of its policy."""
    return [_gate(state, wave, gate, found, now) for wave, gate, found in _begun(state)]


def _begun(state: State) -> list[tuple[Wave, Gate, GateState]]:
    if state.phase not in (Phase.RUNNING, Phase.PAUSED) or state.emergency or state.wave >= len(state.rollout.waves):
        return []
    wave, side = state.rollout.waves[state.wave], "after" if state.wave_opened_at else "before"
    begun = ((gate, state.gates.get(gates.key(wave, gate))) for gate in wave.gates if gate.when == side)
    return [(wave, gate, found) for gate, found in begun if found is not None]


def check_of(gate: Gate) -> str:
    """Pure: what kind of gate it is, in the word of its policy."""
    kinds = {"approval": gate.approval, "metric": gate.metric, "http": gate.http, "bundle": gate.done}
    return next(word for word, check in kinds.items() if check is not None)


def _gate(state: State, wave: Wave, gate: Gate, found: GateState, now: float) -> Json:
    key, word, until = gates.key(wave, gate), _state(gate, found, now), gates.fails_at(gate, found)
    told: Json = {
        "gate": key,
        "wave": wave.name,
        "when": gate.when,
        "check": check_of(gate),
        "state": word,
        "since": rfc3339(found.since),
        "until": rfc3339(until) if until < math.inf and word == "waits" else "",
        "wants": gates.wanted(gate)[:MAX_TEXT],
        "found": found.text[:MAX_TEXT],
        "votes": [],
        "needs": 0,
        "command": "",
    }
    if gate.approval is not None:
        told["needs"] = gate.approval.approvers
        told["votes"] = [
            {
                "actor": vote.actor,
                "reason": vote.reason[:MAX_TEXT],
                "at": rfc3339(vote.at),
                "expires": rfc3339(vote.at + gate.approval.expires_s) if gate.approval.expires_s else "",
            }
            for vote in found.votes
            if not gate.approval.expires_s or now - vote.at <= gate.approval.expires_s
        ]
        if word == "waits" and state.phase is Phase.RUNNING:
            told["command"] = f"flotilla approve {state.rollout.id} --gate {key} --reason …"
    return told


def _state(gate: Gate, found: GateState, now: float) -> str:
    if found.failed:
        return "failed"
    if found.waived:
        return "waived"
    return "open" if gates.passed(gate, found, now) else "waits"


def _window(state: State, now: float) -> Json | None:
    """Which window shuts the open wave; None when none does."""
    if state.phase is not Phase.RUNNING or state.emergency or state.wave >= len(state.rollout.waves):
        return None
    every = (*state.rollout.windows, *state.rollout.waves[state.wave].windows)
    shut = windows.shut(every, now)
    if shut is None:
        return None
    never = windows.shut(every, shut.until) is not None
    return {
        "text": shut.text,
        "opens": "" if never else rfc3339(shut.until),
        "opens_local": "" if never else _on_the_wall(shut.until, every, shut.text),
    }


def _on_the_wall(at: float, every: Sequence[Window], text: str) -> str:
    zone = next((window.zone for window in every if window.text in text), "UTC")
    return f"{datetime.fromtimestamp(at, ZoneInfo(zone)):%a %Y-%m-%d %H:%M} {zone}"


def _held(state: State) -> list[Json]:
    """Why clusters are not moved, the commonest reason first."""
    if state.phase is not Phase.RUNNING:
        return []
    reasons: dict[str, list[str]] = {}
    for name, member in state.members.items():
        waits = member.phase is MemberPhase.PENDING and member.reason
        if waits or (member.phase is MemberPhase.OFFLINE and member.reason.startswith(CORDONED)):
            reasons.setdefault(member.reason, []).append(name)
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"why": why[:MAX_TEXT], "clusters": sorted(names)[:MAX_HELD], "total": len(names)}
        for why, names in ordered[:MAX_HELD]
    ]


def _offline(state: State) -> Json:
    """Its waves up to the open one wait for these, and a person may leave them out."""
    names: list[ClusterName] = []
    if not state.emergency and story.of_rollout(state) == story.OFFLINE:
        waves = state.rollout.waves[: state.wave + 1]
        away = (name for wave in waves for name in wave.clusters if name in state.members)
        names = [name for name in away if state.members[name].phase is MemberPhase.OFFLINE]
    command = f"flotilla skip {state.rollout.id} {names[0]} --reason …" if names else ""
    return {"clusters": names[:MAX_HELD], "total": len(names), "command": command}


def freezes(fleet: Fleet, now: float) -> list[Json]:
    """Pure: the freezes that run or are to come, the next first."""
    everywhere = Selector()
    ahead = sorted((each for each in fleet.freezes if each.end_s > now), key=lambda each: (each.start_s, each.name))
    return [
        {
            "name": each.name,
            "reason": each.reason[:MAX_TEXT],
            "from": rfc3339(each.start_s),
            "to": rfc3339(each.end_s),
            "now": each.start_s <= now,
            "everywhere": each.select == everywhere,
            "clusters": sum(targets.matches(each.select, cluster.labels) for cluster in fleet.clusters.values()),
        }
        for each in ahead[:MAX_FREEZES]
    ]


def joining(found: Joining) -> list[Json]:
    """Pure: the clusters that joined and wait for what last completed of a bundle, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for bundle, asked in found.asked.items():
        reasons[bundle, "it is being found out what completed last"] = list(asked)
    for bundle, told in found.waiting.items():
        for cluster, why in told.items():
            reasons.setdefault((bundle, why), []).append(cluster)
    return [
        {"bundle": bundle, "why": why[:MAX_TEXT], "clusters": sorted(names)[:MAX_HELD], "total": len(names)}
        for (bundle, why), names in sorted(reasons.items())
    ]


def causes(state: State, now: float) -> Counter[str]:
    """Pure: what keeps a running rollout, each cause once: `gate`, `window`, `clusters` (frozen, blocked, cordoned)."""
    if state.phase is not Phase.RUNNING:
        return Counter()
    told = (("gate", shut_since(state, now)), ("window", _window(state, now)), ("clusters", _held(state)))
    return Counter(word for word, found in told if found)


def erring(state: State) -> list[str]:
    """Pure: the checks of the gates that keep the rollout because they cannot be asked."""
    if state.phase is not Phase.RUNNING:
        return []
    return [check_of(gate) for _, gate, found in _begun(state) if found.erring and not found.waived]


def shut_since(state: State, now: float) -> list[tuple[str, float]]:
    """Pure: the gates that keep the rollout, each by its check and since when (Unix seconds)."""
    return [
        (check_of(gate), found.since)
        for _, gate, found in _begun(state)
        if _state(gate, found, now) in ("waits", "failed")
    ]
