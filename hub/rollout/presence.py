"""Who is there: whom rule 8 of `rollouts` calls offline or back, and whom a person took out (rule 14)."""

from hub.rollout import suspension
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
        offline(turn, cluster, f"silent for more than {turn.rollout.offline_after_s:.0f} s")
    else:
        turn.wake_past(turn.silent_since(cluster) + turn.rollout.offline_after_s)


def offline(turn: Turn, cluster: ClusterName, reason: str) -> None:
    """Pure: the cluster gets its move later."""
    turn.put(cluster, M.OFFLINE, reason=reason)
    what = reason if reason.startswith(CORDONED) else "offline"
    turn.note("cluster-offline", f"{cluster} is {what} and gets its move later", cluster=cluster)
