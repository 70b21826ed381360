"""The way back of a rollout (rule 9 of `rollouts`): who is next, who is back, and how it ends."""

from hub.rollout.proof import Verdict, judge
from hub.rollout.transitions import MOVED, rollback_limit, some
from hub.rollout.turn import Turn
from hub.state import Hold, MarkGood, MemberPhase, Move, Phase
from proto.ids import ClusterName

P, M = Phase, MemberPhase


def begin(turn: Turn, reason: str) -> None:
    """Pure: turn the rollout round, and send the first clusters back."""
    turn.enter(P.ROLLING_BACK, reason)
    turn.note("rolling-back", f"rollout {turn.rollout.id} is rolled back: {reason}")
    proceed(turn)


def proceed(turn: Turn) -> None:
    """Pure: send back as many as there is room for; when nobody is left, end."""
    room = rollback_limit(turn.rollout.waves) - turn.count_all(M.REVERTING)
    if room > 0 and turn.count_all(*MOVED):
        for cluster in _order(turn)[:room]:
            _send(turn, cluster)
    if not turn.count_all(*MOVED, M.REVERTING):
        _end(turn)


def reported(turn: Turn, cluster: ClusterName) -> None:
    """Pure: is the cluster back? Who was sick before need not be Current now."""
    member = turn.members[cluster]
    if member.phase is M.REVERTED:
        return
    before = turn.rollout.targets[cluster].before
    verdict = judge(before, turn.view[cluster], seq=member.seq, need_current=not member.sick_before)
    if verdict is Verdict.PROOF:
        turn.put(cluster, M.REVERTED, reason="")
        turn.note("cluster-reverted", f"{cluster} is back at what it ran before", cluster=cluster)
        turn.has_room = True


def tick(turn: Turn) -> None:
    """Pure: deadlines, then the next ones."""
    deadline_s = turn.rollout.deadline_s
    for cluster, member in list(turn.members.items()):
        if member.phase is not M.REVERTING:
            continue
        since = max(member.moved_at, turn.settle_until)
        if turn.now - since <= deadline_s:
            turn.wake_past(since + deadline_s)
        else:
            why = turn.suspended(cluster)
            reason = f"not back after {deadline_s:.0f} s" + (f", suspended: {why}" if why else "")
            turn.put(cluster, M.REVERT_FAILED, reason=reason)
            turn.note("cluster-revert-failed", f"{cluster} is {reason}", cluster=cluster)
    proceed(turn)


def _order(turn: Turn) -> list[ClusterName]:
    """Who still has to go back: the failed first, then from the last wave to the first. Whose move was decided a moment
    ago, by another event of the same turn, has no slice commit yet, and goes back when it has."""
    backwards = [cluster for wave in reversed(turn.rollout.waves) for cluster in wave.clusters]
    moved = [
        cluster
        for cluster in backwards
        if (member := turn.members[cluster]).phase in MOVED and member.seq < turn.view[cluster].next_seq
    ]
    return sorted(moved, key=lambda cluster: turn.members[cluster].phase is not M.FAILED)


def _send(turn: Turn, cluster: ClusterName) -> None:
    before = turn.rollout.targets[cluster].before
    if before == turn.rollout.targets[cluster].after:
        # A slice commit that changes nothing is never made, so there would be no seq to wait for.
        turn.put(cluster, M.REVERTED, reason="is where it would go back to")
        return
    was_good = turn.members[cluster].phase is M.PROVEN
    turn.put(cluster, M.REVERTING, seq=turn.view[cluster].next_seq, moved_at=turn.now, reason="")
    turn.wake_past(turn.now + turn.rollout.deadline_s)
    wave = turn.wave_of(cluster).name
    turn.effects.append(Move(cluster=cluster, rollout=turn.rollout.id, wave=wave, subtrees=before, back=True))
    if was_good:
        # Its proof made the after-subtrees last good: a later rollback must not go there.
        turn.effects.append(MarkGood(cluster=cluster, subtrees=before))


def _end(turn: Turn) -> None:
    stuck = sorted(cluster for cluster, member in turn.members.items() if member.phase is M.REVERT_FAILED)
    name, why = turn.rollout.id, turn.reason
    if stuck:
        turn.enter(P.ROLLBACK_FAILED, f"{some(stuck)} did not come back; rolled back because {why}")
        turn.note("rollback-failed", f"rollout {name} could not be rolled back on {some(stuck)}: look at them now")
    else:
        turn.enter(P.ROLLED_BACK, why)
        turn.note("rolled-back", f"rollout {name} is rolled back: {why}")
    hold(turn, turn.reason)


def hold(turn: Turn, reason: str) -> None:
    """Pure: nothing of these bundles starts until their sources change or a person releases them (rule 10)."""
    for bundle in turn.rollout.bundles:
        turn.effects.append(Hold(bundle=bundle, rollout=turn.rollout.id, reason=reason))
