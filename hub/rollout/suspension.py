"""Clusters where somebody suspended a bundle (rule 13 of `rollouts`): whose clocks stand, and which rollout does."""

from collections.abc import Iterable

from hub.rollout import transitions
from hub.rollout.transitions import IN_FLIGHT
from hub.rollout.turn import Turn
from hub.state import MemberPhase, State
from proto.ids import ClusterName

M = MemberPhase


def heed(turn: Turn, clusters: Iterable[ClusterName]) -> None:
    """Pure: stop the clocks of who is suspended, start those of who is not any more, and say so."""
    for cluster in clusters:
        member = turn.members[cluster]
        if member.phase is not M.PENDING and member.phase not in IN_FLIGHT:
            continue
        why = turn.suspended(cluster)
        if why and member.reason != (told := f"suspended: {why}"):
            turn.put(cluster, member.phase, suspended=True, soak_from=0.0, reason=told)
            turn.note("cluster-suspended", f"{cluster} in rollout {turn.rollout.id} is {told}", cluster=cluster)
        elif member.suspended and not why:
            turn.put(cluster, member.phase, suspended=False, resumed_at=turn.now, reason="")
            turn.note("cluster-resumed", f"{cluster} in rollout {turn.rollout.id} is resumed", cluster=cluster)


def heed_all(turn: Turn) -> None:
    """Pure: `heed` everybody whom it may concern: nobody, while nothing is suspended."""
    heed(turn, [cluster for cluster in turn.roster.suspended if cluster in turn.members])
    for wave, tally in zip(turn.rollout.waves, list(turn.tallies), strict=True):
        if tally.suspended:
            heed(turn, [cluster for cluster in wave.clusters if turn.members[cluster].suspended])


def stands_still(state: State) -> bool:
    """Pure: is every cluster of the open waves done, offline, suspended, or waiting for the room of one that is?"""
    for wave, tally in zip(state.rollout.waves[: state.wave + 1], state.tallies, strict=False):
        if not any(tally.phases.get(phase) for phase in (M.PENDING, *IN_FLIGHT)):
            continue
        if not tally.suspended:
            return False
        members = [state.members[cluster] for cluster in wave.clusters]
        flying = [member for member in members if member.phase in IN_FLIGHT]
        waiting = any(member.phase is M.PENDING and not member.suspended for member in members)
        if not all(member.suspended for member in flying) or (waiting and len(flying) < wave.max_concurrent):
            return False
    return transitions.waits_for(state.members, state.rollout.waves[state.wave], state.tallies[state.wave]) != ""
