"""Who is there: whom rule 8 of `rollouts` calls offline or back, and whom a person took out (rule 14)."""

from collections.abc import Collection

from hub.rollout import suspension, transitions
from hub.rollout.transitions import CORDONED
from hub.rollout.turn import Turn
from hub.state import MemberPhase
from proto.ids import ClusterName

M = MemberPhase


def look(turn: Turn, cluster: ClusterName) -> None:
    """Pure: is a pending cluster offline now, or one that was offline back (rule 8)?"""
    seen = turn.view[cluster]
    if turn.members[cluster].phase is M.OFFLINE and turn.heard(cluster) and not seen.cordoned:
        turn.put(cluster, M.PENDING, reason="")
        suspension.heed(turn, [cluster])
    if turn.members[cluster].phase is not M.PENDING:
        return
    if seen.cordoned:
        offline(turn, cluster, f"{CORDONED}{seen.cordoned}")
    elif turn.silent(cluster):
        offline(turn, cluster, f"silent for more than {turn.offline_after_s:.0f} s")
    else:
        turn.wake_past(turn.silent_since(cluster) + turn.offline_after_s)


def look_all(turn: Turn, waves: Collection[int]) -> None:
    """Pure: `look` at whom of these waves it may concern: the offline, the cordoned, and who is silent for too long.
    The others say together when the first of them would be."""
    for index in waves:
        for cluster in transitions.those(turn.members, turn.rollout.waves[index], turn.tallies[index], (M.OFFLINE,)):
            look(turn, cluster)
    if not any(turn.count(index, M.PENDING) for index in waves):
        return
    for cluster in turn.roster.cordoned:
        _look_at_pending(turn, cluster, waves)
    for last_seen, cluster in turn.roster.seen:
        silent_since = max(last_seen, turn.settle_until)
        if not turn.settled or turn.now - silent_since <= turn.offline_after_s:
            turn.wake_past(silent_since + turn.offline_after_s)
            return
        _look_at_pending(turn, cluster, waves)


def _look_at_pending(turn: Turn, cluster: ClusterName, waves: Collection[int]) -> None:
    member = turn.members.get(cluster)
    if member is not None and member.phase is M.PENDING and member.wave in waves:
        look(turn, cluster)


def offline(turn: Turn, cluster: ClusterName, reason: str) -> None:
    """Pure: the cluster gets its move later."""
    turn.put(cluster, M.OFFLINE, reason=reason)
    what = reason if reason.startswith(CORDONED) else "offline"
    turn.note("cluster-offline", f"{cluster} is {what} and gets its move later", cluster=cluster)
