"""What a report of one cluster means to its rollout, and what failures lead to (rules 3 to 8 of `rollouts`).

Who waits for the room that a report gives is not seen to here: `turn.has_room` says that there may be some.
"""

from collections.abc import Sequence

from hub.rollout import gates, presence, rollback, transitions
from hub.rollout.proof import Verdict, judge, why_failed
from hub.rollout.transitions import BACK, IN_FLIGHT, UNMOVED
from hub.rollout.turn import HEARTBEATS_APART, Turn
from hub.state import FINAL, MarkGood, MemberPhase, Phase
from proto.ids import ClusterName

P, M = Phase, MemberPhase

MAX_RESETS = 3
"""A soak that starts for the fourth time is a cluster that flaps."""


def heard(turn: Turn, cluster: ClusterName) -> None:
    """Pure: a report of the cluster arrived, and the turn's view has it."""
    phase = turn.members[cluster].phase
    if phase in IN_FLIGHT:
        if turn.phase is not P.ROLLING_BACK and not turn.members[cluster].suspended:
            _hear(turn, cluster)
    elif phase is M.FAILED:
        if turn.phase in (P.RUNNING, P.PAUSED) and not turn.suspended(cluster):
            _hear_failed(turn, cluster)
    elif phase in UNMOVED:
        if turn.phase in (P.RUNNING, P.COMPLETED):
            presence.look(turn, cluster)
            turn.has_room = True
    elif phase in BACK:
        rollback.reported(turn, cluster)


def room(turn: Turn, index: int) -> int:
    """Pure: how many more may be in flight in the wave (rule 2)."""
    return turn.rollout.waves[index].max_concurrent - transitions.flying(turn.tallies[index])


def _hear(turn: Turn, cluster: ClusterName) -> None:
    """A report of a cluster in flight (rules 3, 4, 5)."""
    member = turn.members[cluster]
    soaking = member.phase is M.SOAKING
    verdict = judge(turn.rollout.targets[cluster].after, turn.view[cluster], seq=member.seq)
    if verdict is Verdict.PROOF:
        _hear_proof(turn, cluster)
    elif verdict is Verdict.BAD and turn.settled and not transitions.excused(member):
        why = why_failed(turn.rollout.targets[cluster].after, turn.view[cluster])
        fail(turn, cluster, ("Failed while it soaked" if soaking else "Failed") + (f": {why}" if why else ""))
    elif soaking and member.soak_from:
        _reset(turn, cluster, soak_from=0.0)
    if turn.members[cluster].phase is M.FAILED:
        act(turn, [cluster])
    if turn.members[cluster].phase is not member.phase:
        turn.has_room = True


def _hear_failed(turn: Turn, cluster: ClusterName) -> None:
    """A report of a cluster that failed before: it may prove after all (rule 7)."""
    member = turn.members[cluster]
    if member.resets >= MAX_RESETS or room(turn, member.wave) < 1:
        return
    if judge(turn.rollout.targets[cluster].after, turn.view[cluster], seq=member.seq) is Verdict.PROOF:
        _hear_proof(turn, cluster)
        turn.has_room = True


def _hear_proof(turn: Turn, cluster: ClusterName) -> None:
    member, now = turn.members[cluster], turn.now
    soak_s = 0.0 if turn.emergency else turn.wave_of(cluster).soak_s
    if member.phase is not M.SOAKING:
        turn.put(cluster, M.SOAKING, soak_from=now, last_current_at=now, reason="")
        turn.wake_past(now + turn.rollout.deadline_s)
        if not soak_s:
            prove(turn, cluster)
    elif not member.soak_from:
        turn.put(cluster, M.SOAKING, soak_from=now, last_current_at=now)
    elif now - member.last_current_at > HEARTBEATS_APART * turn.heartbeat_s:
        _reset(turn, cluster, soak_from=now)
    elif now >= member.soak_from + soak_s and turn.settled:
        prove(turn, cluster)
    else:
        turn.put(cluster, M.SOAKING, last_current_at=now)


def _reset(turn: Turn, cluster: ClusterName, *, soak_from: float) -> None:
    """Start a soak again. What the hub's own absence cut is not the cluster's fault (rule 11)."""
    member = turn.members[cluster]
    ours = member.last_current_at < turn.settle_until
    resets = member.resets if ours else member.resets + 1
    last = soak_from or member.last_current_at
    turn.put(cluster, M.SOAKING, soak_from=soak_from, last_current_at=last, resets=resets)
    if resets >= MAX_RESETS and not ours:
        fail(turn, cluster, f"its soak was interrupted {resets} times")


def prove(turn: Turn, cluster: ClusterName) -> None:
    """Pure: the cluster's subtrees are good there."""
    turn.put(cluster, M.PROVEN, reason="")
    turn.effects.append(MarkGood(cluster=cluster, subtrees=turn.rollout.targets[cluster].after))
    turn.note("cluster-proven", f"{cluster} is proven in rollout {turn.rollout.id}", cluster=cluster)
    if turn.members[cluster].wave == turn.wave:
        # Evidence starts after the last proof: what was found before this one is old (rule 15).
        gates.forget(turn, turn.wave_of(cluster), "after")


def fail(turn: Turn, cluster: ClusterName, reason: str) -> None:
    """Pure: put the cluster to those that failed, and say why."""
    turn.put(cluster, M.FAILED, reason=reason)
    turn.note("cluster-failed", f"{cluster} failed in rollout {turn.rollout.id}: {reason}", cluster=cluster)


def act(turn: Turn, failed: Sequence[ClusterName]) -> None:
    """Pure: what new failures lead to (rule 6). Those after the rollout's end lead to nothing (rule 8)."""
    for cluster in failed:
        member = turn.members[cluster]
        if turn.phase in FINAL or transitions.excused(member) or _within_budget(turn, member.wave):
            continue
        wave = turn.wave_of(cluster).name
        give_up(turn, f"{cluster} failed in wave {wave}: {member.reason}", wave)
        return


def give_up(turn: Turn, why: str, wave: str) -> None:
    """Pure: what the rollout does when it may not go on. An emergency goes on whatever happens (rule 18)."""
    if turn.emergency:
        return
    if turn.rollout.action == "rollback":
        rollback.begin(turn, why)
    elif turn.rollout.action == "pause" and turn.phase is P.RUNNING:
        turn.enter(P.PAUSED, why)
        turn.note("paused", f"rollout {turn.rollout.id} is paused: {why}", wave=wave)


def _within_budget(turn: Turn, index: int) -> bool:
    wave, tally = turn.rollout.waves[index], turn.tallies[index]
    failed = transitions.failures(tally)
    present = len(wave.clusters) - turn.count(index, M.LEFT)
    total = turn.rollout.failure_total
    if total is not None and sum(transitions.failures(each) for each in turn.tallies) > total:
        return False
    return failed <= wave.failure_budget and present - failed >= min(wave.min_proof, present)
