"""The tables of a rollout: which phase may follow which, who counts as what, and what is true of every state.

`rollouts` makes its transitions through `MEMBER` and `PHASE` only and runs `check` on each state that it makes. Numbers
of rules are those of `rollouts`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

from hub.state import FINAL, ClusterView, Member, MemberPhase, Phase, State, Tally, Wave
from proto.errors import InvalidInput, Permanent
from proto.ids import ClusterName

P, M = Phase, MemberPhase

MEMBER: Mapping[MemberPhase, frozenset[MemberPhase]] = {
    M.PENDING: frozenset({M.OFFLINE, M.MOVING, M.LEFT}),
    M.OFFLINE: frozenset({M.PENDING, M.LEFT}),
    M.MOVING: frozenset({M.SOAKING, M.PROVEN, M.FAILED, M.REVERTING, M.REVERTED, M.LEFT}),
    M.SOAKING: frozenset({M.PROVEN, M.FAILED, M.REVERTING, M.REVERTED, M.LEFT}),
    M.PROVEN: frozenset({M.REVERTING, M.REVERTED, M.LEFT}),
    M.FAILED: frozenset({M.MOVING, M.SOAKING, M.PROVEN, M.REVERTING, M.REVERTED, M.LEFT}),
    M.REVERTING: frozenset({M.REVERTED, M.REVERT_FAILED, M.LEFT}),
    M.REVERTED: frozenset({M.LEFT}),
    M.REVERT_FAILED: frozenset({M.REVERTED, M.LEFT}),
    M.LEFT: frozenset(),
}
"""Which phase of a member may follow which."""

PHASE: Mapping[Phase, frozenset[Phase]] = {
    P.RUNNING: frozenset({P.PAUSED, P.ROLLING_BACK, P.COMPLETED, P.REPLACED, P.ABORTED}),
    P.PAUSED: frozenset({P.RUNNING, P.ROLLING_BACK, P.REPLACED, P.ABORTED}),
    P.ROLLING_BACK: frozenset({P.ROLLED_BACK, P.ROLLBACK_FAILED}),
    **{final: frozenset() for final in FINAL},
}
"""Which phase of a rollout may follow which."""

IN_FLIGHT = frozenset({M.MOVING, M.SOAKING})
"""What `max_concurrent` bounds. Soaking counts: a cluster is at risk until it is proven."""

MOVED = frozenset({M.MOVING, M.SOAKING, M.PROVEN, M.FAILED})
"""Runs the after-subtrees, or may: what a rollback has to bring back."""

UNMOVED = frozenset({M.PENDING, M.OFFLINE})

BACK = frozenset({M.REVERTING, M.REVERTED, M.REVERT_FAILED})


class IllegalEvent(InvalidInput):
    """The event does not fit the state. Nothing was changed."""


class BrokenInvariant(Permanent):
    """A decision would have broken a rule of rollouts: a bug of ours. Nothing was changed."""


NAMED = 100
"""A wave of more clusters is told of in numbers: to find names costs its whole size, at each event."""


def flying(tally: Tally) -> int:
    """Pure: how many are in flight and count against `max_concurrent`."""
    return tally.phases.get(M.MOVING, 0) + tally.phases.get(M.SOAKING, 0) - tally.beyond


def those(
    members: Mapping[ClusterName, Member], wave: Wave, tally: Tally, phases: Collection[MemberPhase]
) -> list[ClusterName]:
    """Pure: the members of a wave in one of `phases`, in its order. They are sought from the first that may be pending
    backwards, where those in flight are as a rule, and no further than to the last of them."""
    left = sum(tally.phases.get(phase, 0) for phase in phases)
    clusters, found = wave.clusters, list[int]()
    for place in chain(range(tally.first - 1, -1, -1), range(tally.first, len(clusters))) if left else ():
        if members[clusters[place]].phase in phases:
            found.append(place)
            if len(found) == left:
                break
    return [clusters[place] for place in sorted(found)]


def waits_for(members: Mapping[ClusterName, Member], wave: Wave, tally: Tally) -> str:
    """Pure: what keeps `wave` from being done (rules 1, 6), for people; "" when it is done."""
    unfinished = {phase: n for phase in (M.MOVING, M.SOAKING, M.PENDING) if (n := tally.phases.get(phase, 0))}
    if unfinished:
        if len(wave.clusters) > NAMED:
            return f"wave {wave.name} waits for {', '.join(f'{n} {phase}' for phase, n in unfinished.items())}"
        named: dict[str, list[ClusterName]] = {phase: [] for phase in unfinished}
        for cluster in wave.clusters:
            member = members[cluster]
            if member.phase in unfinished:
                named.setdefault(_words(member), []).append(cluster)
        told = ", ".join(f"{some(clusters)} ({what})" for what, clusters in named.items() if clusters)
        return f"wave {wave.name} waits for {told}"
    if tally.phases.get(M.OFFLINE, 0) > wave.offline_budget:
        offline = [cluster for cluster in wave.clusters if members[cluster].phase is M.OFFLINE]
        if all(members[cluster].reason.startswith(CORDONED) for cluster in offline):
            return f"wave {wave.name} waits for {some(offline)}: cordoned, the budget is {wave.offline_budget}"
        return f"wave {wave.name} waits for {some(offline)}: offline, the budget is {wave.offline_budget}"
    proven = tally.phases.get(M.PROVEN, 0)
    if proven < (needed := proof_needed(wave, tally)):
        return f"wave {wave.name} has proof from {proven} of the {needed} clusters it needs"
    return ""


CORDONED = "cordoned: "
"""How the reason of a member begins that a person took out of all rollouts."""


def _words(member: Member) -> str:
    return member.reason if member.reason and (member.suspended or member.phase is M.PENDING) else member.phase


def proof_needed(wave: Wave, tally: Tally) -> int:
    """Pure: how many have to prove: `min_proof`, but no more than stay when leavers and failures are taken off."""
    return min(wave.min_proof, len(wave.clusters) - tally.phases.get(M.LEFT, 0) - failures(tally))


def failures(tally: Tally) -> int:
    """Pure: the failures of a wave that count against its budget (rule 5)."""
    return tally.phases.get(M.FAILED, 0) - tally.excused


def excused(member: Member) -> bool:
    """Pure: was it sick before its move, and never Current since (rule 5)? Then its failure counts for nothing."""
    return member.sick_before and not member.last_current_at


def some(names: Sequence[str]) -> str:
    """Pure: names for a message, the first five of many."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def rollback_limit(waves: Iterable[Wave]) -> int:
    """Pure: how many clusters may be on their way back at once: as many as the widest wave moves forward."""
    return max((wave.max_concurrent for wave in waves), default=1)


def check(state: State, view: Mapping[ClusterName, ClusterView], changed: Iterable[ClusterName] | None = None) -> None:
    """Pure: raises BrokenInvariant unless all of this holds. Only the members `changed` are looked at one by one, the
    others by the tallies; None looks at everybody, and counts anew.

    a. Each cluster of the rollout is a member and in exactly one wave, and the tallies are right.
    b. No wave has more than `max_concurrent` in flight, but for who may pass it; no more go back at once than
       `rollback_limit`.
    c. No cluster of a wave after the open one was moved, or called offline, but in an emergency.
    d. Who was moved has the seq of its move; who was not has none; none is beyond the cluster's next.
    e. Clusters go back in a rollback only; after it none that was moved is left.
    f. A completed rollout has no wave left.
    g. Only who is pending or in flight is called suspended.
    """
    rollout, members = state.rollout, state.members
    if changed is None:
        _check_all(state)
    if not 0 <= state.wave <= len(rollout.waves):
        raise _broken(state, "f", f"there is no wave {state.wave}")
    if state.phase is P.COMPLETED and state.wave != len(rollout.waves):
        raise _broken(state, "f", f"is completed with wave {state.wave} open")
    for index, (wave, tally) in enumerate(zip(rollout.waves, state.tallies, strict=True)):
        if (many := flying(tally)) > wave.max_concurrent:
            raise _broken(state, "b", f"wave {wave.name} has {many} in flight, the limit is {wave.max_concurrent}")
        if index > state.wave and not state.emergency:
            waiting = tally.phases.get(M.PENDING, 0) + tally.phases.get(M.LEFT, 0)
            if waiting != len(wave.clusters):
                phases = ", ".join(f"{n} {phase}" for phase, n in tally.phases.items())
                raise _broken(state, "c", f"wave {wave.name} has {phases} before its turn")
    for cluster in members if changed is None else changed:
        _check_member(state, cluster, view)
    _check_way_back(state)


def _check_all(state: State) -> None:
    rollout, members = state.rollout, state.members
    ordered = [cluster for wave in rollout.waves for cluster in wave.clusters]
    if len(ordered) != len(members) or members.keys() != rollout.targets.keys() or members.keys() != set(ordered):
        raise _broken(state, "a", "members, targets and waves do not name the same clusters once each")
    for index, wave in enumerate(rollout.waves):
        those = [members[cluster] for cluster in wave.clusters]
        counted = {phase: n for phase in M if (n := sum(member.phase is phase for member in those))}
        tally = state.tallies[index]
        if (counted, sum(member.suspended for member in those)) != (tally.phases, tally.suspended) or any(
            member.wave != index for member in those
        ):
            raise _broken(state, "a", f"wave {wave.name} is miscounted")


def _check_member(state: State, cluster: ClusterName, view: Mapping[ClusterName, ClusterView]) -> None:
    member = state.members[cluster]
    if member.phase in UNMOVED:
        if member.seq:
            raise _broken(state, "d", f"{cluster} is {member.phase} and has seq {member.seq}")
    elif member.phase is not M.LEFT:
        if member.seq < 1:
            raise _broken(state, "d", f"{cluster} is {member.phase} without a move")
        if cluster in view and member.seq > view[cluster].next_seq:
            raise _broken(state, "d", f"{cluster} has seq {member.seq}, its next is {view[cluster].next_seq}")
    if member.suspended and member.phase is not M.PENDING and member.phase not in IN_FLIGHT:
        raise _broken(state, "g", f"{cluster} is {member.phase} and called suspended")


def _check_way_back(state: State) -> None:
    found: Counter[MemberPhase] = Counter()
    for tally in state.tallies:
        found.update(tally.phases)
    back = sum(found[phase] for phase in BACK)
    if back and state.phase not in (P.ROLLING_BACK, P.ROLLED_BACK, P.ROLLBACK_FAILED):
        raise _broken(state, "e", f"{back} clusters go back while the rollout is {state.phase}")
    if state.phase in (P.ROLLED_BACK, P.ROLLBACK_FAILED) and (
        left := sum(found[phase] for phase in MOVED) + found[M.REVERTING]
    ):
        raise _broken(state, "e", f"{left} clusters are left after the rollback")
    if state.phase is P.ROLLED_BACK and found[M.REVERT_FAILED]:
        raise _broken(state, "e", f"{found[M.REVERT_FAILED]} did not go back, and the rollback is not called failed")
    if found[M.REVERTING] > rollback_limit(state.rollout.waves):
        raise _broken(state, "b", f"{found[M.REVERTING]} clusters go back at once")


def _broken(state: State, rule: str, text: str) -> BrokenInvariant:
    return BrokenInvariant(f"rollout {state.rollout.id}", f"{text} (invariant {rule})", "report this as a bug")
