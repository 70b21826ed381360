"""The tables of a rollout: which phase may follow which, who counts as what, and what is true of every state.

`rollouts` makes its transitions through `MEMBER` and `PHASE` only and runs `check` on each state that it makes. Numbers
of rules are those of `rollouts`.
"""

from collections.abc import Iterable, Mapping, Sequence

from hub.model import FINAL, ClusterView, Member, MemberPhase, Phase, State, Wave
from proto.errors import InvalidInput, Permanent
from proto.ids import ClusterName

P, M = Phase, MemberPhase

MEMBER: Mapping[MemberPhase, frozenset[MemberPhase]] = {
    M.PENDING: frozenset({M.OFFLINE, M.MOVING, M.LEFT}),
    M.OFFLINE: frozenset({M.PENDING, M.LEFT}),
    M.MOVING: frozenset({M.SOAKING, M.PROVEN, M.FAILED, M.REVERTING, M.REVERTED, M.LEFT}),
    M.SOAKING: frozenset({M.PROVEN, M.FAILED, M.REVERTING, M.REVERTED, M.LEFT}),
    M.PROVEN: frozenset({M.REVERTING, M.REVERTED, M.LEFT}),
    M.FAILED: frozenset({M.SOAKING, M.PROVEN, M.REVERTING, M.REVERTED, M.LEFT}),
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


def count(state: State, clusters: Iterable[ClusterName], phases: frozenset[MemberPhase]) -> int:
    """Pure: how many of `clusters` are in one of `phases`."""
    return sum(state.members[cluster].phase in phases for cluster in clusters)


def waits_for(members: Mapping[ClusterName, Member], wave: Wave) -> str:
    """Pure: what keeps `wave` from being done (rules 1, 6), for people; "" when it is done."""
    phases = [members[cluster].phase for cluster in wave.clusters]
    unfinished: dict[str, list[ClusterName]] = {phase: [] for phase in (M.MOVING, M.SOAKING, M.PENDING)}
    for cluster in wave.clusters:
        member = members[cluster]
        if member.phase in unfinished:
            unfinished.setdefault(member.reason if member.suspended else member.phase, []).append(cluster)
    if any(unfinished.values()):
        told = ", ".join(f"{some(clusters)} ({what})" for what, clusters in unfinished.items() if clusters)
        return f"wave {wave.name} waits for {told}"
    offline = [c for c, p in zip(wave.clusters, phases, strict=True) if p is M.OFFLINE]
    if len(offline) > wave.offline_budget:
        return f"wave {wave.name} waits for {some(offline)}: offline, the budget is {wave.offline_budget}"
    if phases.count(M.PROVEN) < (needed := proof_needed(members, wave)):
        return f"wave {wave.name} has proof from {phases.count(M.PROVEN)} of the {needed} clusters it needs"
    return ""


def proof_needed(members: Mapping[ClusterName, Member], wave: Wave) -> int:
    """Pure: how many have to prove: `min_proof`, but no more than stay when leavers and failures are taken off."""
    phases = [members[cluster].phase for cluster in wave.clusters]
    return min(wave.min_proof, len(phases) - phases.count(M.LEFT) - failures(members, wave))


def failures(members: Mapping[ClusterName, Member], wave: Wave) -> int:
    """Pure: the failures of `wave` that count against its budget (rule 5)."""
    return sum(members[cluster].phase is M.FAILED and not excused(members[cluster]) for cluster in wave.clusters)


def excused(member: Member) -> bool:
    """Pure: was it sick before its move, and never Current since (rule 5)? Then its failure counts for nothing."""
    return member.sick_before and not member.last_current_at


def some(names: Sequence[str]) -> str:
    """Pure: names for a message, the first five of many."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def rollback_limit(waves: Iterable[Wave]) -> int:
    """Pure: how many clusters may be on their way back at once: as many as the widest wave moves forward."""
    return max((wave.max_concurrent for wave in waves), default=1)


def check(state: State, view: Mapping[ClusterName, ClusterView]) -> None:
    """Pure: raises BrokenInvariant unless all of this holds.

    a. Each cluster of the rollout is a member and in exactly one wave.
    b. No wave has more than `max_concurrent` in flight; no more go back at once than `rollback_limit`.
    c. No cluster of a wave after the open one was moved, or called offline.
    d. Who was moved has the seq of its move; who was not has none; none is beyond the cluster's next.
    e. Clusters go back in a rollback only; after it none that was moved is left.
    f. A completed rollout has no wave left.
    g. Only who is pending or in flight is called suspended.
    """
    rollout, members = state.rollout, state.members

    def broken(rule: str, text: str) -> BrokenInvariant:
        return BrokenInvariant(f"rollout {rollout.id}", f"{text} (invariant {rule})", "report this as a bug")

    ordered = [cluster for wave in rollout.waves for cluster in wave.clusters]
    if len(ordered) != len(members) or members.keys() != rollout.targets.keys() or members.keys() != set(ordered):
        raise broken("a", "members, targets and waves do not name the same clusters once each")
    if not 0 <= state.wave <= len(rollout.waves):
        raise broken("f", f"there is no wave {state.wave}")
    for index, wave in enumerate(rollout.waves):
        if (flying := count(state, wave.clusters, IN_FLIGHT)) > wave.max_concurrent:
            raise broken("b", f"wave {wave.name} has {flying} in flight, the limit is {wave.max_concurrent}")
        if index > state.wave:
            for cluster in wave.clusters:
                if members[cluster].phase not in (M.PENDING, M.LEFT):
                    raise broken("c", f"{cluster} of wave {wave.name} is {members[cluster].phase} before its turn")
    backward = state.phase in (P.ROLLING_BACK, P.ROLLED_BACK, P.ROLLBACK_FAILED)
    going_back = 0
    for cluster, member in members.items():
        going_back += member.phase is M.REVERTING
        if member.phase in UNMOVED:
            if member.seq:
                raise broken("d", f"{cluster} is {member.phase} and has seq {member.seq}")
        elif member.phase is not M.LEFT:
            if member.seq < 1:
                raise broken("d", f"{cluster} is {member.phase} without a move")
            if cluster in view and member.seq > view[cluster].next_seq:
                raise broken("d", f"{cluster} has seq {member.seq}, its next is {view[cluster].next_seq}")
        if member.suspended and member.phase is not M.PENDING and member.phase not in IN_FLIGHT:
            raise broken("g", f"{cluster} is {member.phase} and called suspended")
        if member.phase in BACK and not backward:
            raise broken("e", f"{cluster} is {member.phase} while the rollout is {state.phase}")
        if state.phase in (P.ROLLED_BACK, P.ROLLBACK_FAILED) and (member.phase in MOVED or member.phase is M.REVERTING):
            raise broken("e", f"{cluster} is {member.phase} after the rollback")
        if state.phase is P.ROLLED_BACK and member.phase is M.REVERT_FAILED:
            raise broken("e", f"{cluster} did not go back, and the rollback is not called failed")
    if going_back > rollback_limit(rollout.waves):
        raise broken("b", f"{going_back} clusters go back at once")
    if state.phase is P.COMPLETED and state.wave != len(rollout.waves):
        raise broken("f", f"is completed with wave {state.wave} open")
