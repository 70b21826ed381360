"""Why a rollout, or one cluster in it, does not move on at this moment, and what would help."""

from collections.abc import Iterator, Mapping, Sequence

from hub.rollout import proof, steps
from hub.rollout.story import waiting
from hub.rollout.story.words import duration
from hub.rollout.transitions import IN_FLIGHT
from hub.state import FINAL, ClusterView, MemberPhase, Rollout, State
from proto.ids import ClusterName

M = MemberPhase
NAMED = 5
"""So many of those in flight are told one by one."""


Times = Sequence[tuple[float, str]]
"""From when on (Unix seconds) it waited for what, in order."""


def of_rollout(state: State, times: Times, *, now: float, view: Mapping[ClusterName, ClusterView]) -> Iterator[str]:
    """Pure: why it does not move on; nothing when it is over."""
    if state.phase in FINAL:
        return
    since = _since(times)
    yield f"{state.phase}, for {duration(now - since)}: {state.reason or waiting.of_rollout(state)}"
    flying = [cluster for cluster, member in state.members.items() if member.phase in (*IN_FLIGHT, M.REVERTING)]
    flying.sort(key=lambda cluster: (state.members[cluster].moved_at, cluster))
    for cluster in flying[:NAMED]:
        yield f"{cluster} {_flight(state, cluster, now=now, view=view)}"
    if len(flying) > NAMED:
        yield f"and {len(flying) - NAMED} more are in flight, none of them longer"
    if told_of := _helps(state):
        yield told_of


def of_cluster(
    state: State, cluster: ClusterName, times: Times, *, now: float, view: Mapping[ClusterName, ClusterView]
) -> Iterator[str]:
    """Pure: where the cluster is, and what it waits for."""
    member = state.members[cluster]
    if member.phase in (*IN_FLIGHT, M.REVERTING):
        yield f"{cluster} {_flight(state, cluster, now=now, view=view)}"
    elif awaited := waiting.of_cluster(state, cluster):
        yield f"{cluster} is {member.phase} and waits for {awaited}, for {duration(now - _since(times))}"
    else:
        yield f"{cluster} is {member.phase}{f': {member.reason}' if member.reason else ''}"


def _since(times: Times) -> float:
    """When the last wait began."""
    since, last = times[-1]
    for at, what in reversed(times):
        if what != last:
            break
        since = at
    return since


def _flight(state: State, cluster: ClusterName, *, now: float, view: Mapping[ClusterName, ClusterView]) -> str:
    member, rollout = state.members[cluster], state.rollout
    text = f"is {member.phase} for {duration(now - member.moved_at)}"
    if member.suspended:
        return f"{text}, {member.reason}"
    if member.phase is M.SOAKING and member.soak_from:
        left = member.soak_from + rollout.waves[member.wave].soak_s - now
        return f"{text}, its soak ends {f'in {duration(left)}' if left > 0 else 'with its next report'}"
    seen = view.get(cluster)
    if seen is None or not seen.last_seen:
        heard = "was not heard since the hub started"
    elif seen.seq < member.seq:
        heard = f"is at slice {seen.seq} yet, heard {duration(now - seen.last_seen)} ago"
    else:
        said, targets = steps.said_of(rollout, cluster, seen)[1], rollout.targets[cluster].after
        why = "" if proof.why_failed(targets, seen) else proof.why_unproven(targets, seen)
        heard = f"says {said}{f': {why}' if why else ''}, {duration(now - seen.last_seen)} ago"
    left = max(member.last_current_at or member.moved_at, member.resumed_at) + rollout.deadline_s - now
    return f"{text}, {heard}; its deadline {f'is in {duration(left)}' if left > 0 else 'is over'}"


def _helps(state: State) -> str:
    """The command that lets it go on, where a person can."""
    awaits, name = waiting.of_rollout(state), state.rollout.id
    if awaits == waiting.PAUSED:
        return f"a person lets it go on: flotilla resume {name} --reason WHY (or rollback, abort)"
    if awaits.startswith("gate "):
        gate = awaits.removeprefix("gate ").partition(", ")[0]
        word = "approve" if _is_approval(state.rollout, gate) else "promote"
        which = f" --gate {gate}" if word == "approve" else ""
        return f"a person can open it: flotilla {word} {name}{which} --reason WHY"
    if awaits == waiting.OFFLINE:
        return f"without them: flotilla skip {name} CLUSTER --reason WHY"
    return ""


def _is_approval(rollout: Rollout, key: str) -> bool:
    return any(
        gate.approval is not None and f"{wave.name}/{gate.name}" == key for wave in rollout.waves for gate in wave.gates
    )
