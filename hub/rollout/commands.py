"""What people may ask of a rollout, each with a reason (rules 12, 14 to 18 of `rollouts`).

| verb             | does (while running; but for pause and words at gates, while paused too)                    |
|------------------|---------------------------------------------------------------------------------------------|
| pause            | nothing moves forward; proof still counts                                                   |
| resume           | (paused) goes on; failures are taken as they are, gates that failed are asked anew          |
| approve, reject  | a word at the gate that waits for one                                                       |
| promote          | soaks of the open wave end for who is Current, and the gates at which it waits open         |
| skip             | one cluster drops out                                                                       |
| skip-wave        | so does everybody of the open wave who is not proven, and its gates open                    |
| retry            | failed clusters get their deadline anew, as far as there is room; failed gates are asked    |
| abort            | everybody stays where he is; the bundles are on hold                                        |
| rollback         | back to what ran before; then the bundles are on hold                                       |
| emergency        | straight to all: no wave, gate, window, soak or limit; only cordons are respected           |

What is asked of bundles and clusters (hold, release, cordon) is not for one rollout: `directives` and `waves`. No word
to a bootstrap ends it, since it would begin again at once.
"""

from hub.rollout import forward, gates, presence, reports, rollback
from hub.rollout.transitions import IN_FLIGHT, UNMOVED, IllegalEvent
from hub.rollout.turn import Turn
from hub.state import FINAL, Command, Member, MemberPhase, Phase, Wave
from proto.ids import ClusterName

P, M = Phase, MemberPhase

_ALLOWED = {"pause": (P.RUNNING,), "resume": (P.PAUSED,), "approve": (P.RUNNING,), "reject": (P.RUNNING,)}
"""Others are allowed while running and while paused."""
_ENDS = ("abort", "rollback", "skip", "skip-wave")
"""For whole rollouts, or for a cluster in one."""


def carry_out(turn: Turn, command: Command) -> None:
    """Pure: do what a person asks. Raises IllegalEvent when it does not fit."""
    if not command.reason:
        raise IllegalEvent(f"rollout {turn.rollout.id}", f"{command.verb} needs a reason", "say why with --reason")
    allowed = _ALLOWED.get(command.verb, (P.RUNNING, P.PAUSED))
    if turn.phase not in allowed:
        cause = f"is {turn.phase}: cannot {command.verb}"
        raise IllegalEvent(f"rollout {turn.rollout.id}", cause, f"it must be {' or '.join(allowed)}")
    by = f"{command.actor}: {command.reason}"
    if turn.rollout.base and command.verb in _ENDS:
        remedy = (
            f"'flotilla cordon' keeps a cluster out, 'flotilla hold {turn.rollout.bundles[0]}' the bundle from new ones"
        )
        raise IllegalEvent(
            f"rollout {turn.rollout.id}", f"is a bootstrap, and would begin again: no {command.verb}", remedy
        )
    match command.verb:
        case "pause":
            turn.enter(P.PAUSED, by)
            turn.paused_by = command.actor
            turn.note("paused", f"rollout {turn.rollout.id} is paused by {by}")
        case "resume":
            _resume(turn, by)
        case "approve":
            gates.approve(turn, command)
            forward.advance(turn)
        case "reject":
            gates.reject(turn, command)
            forward.advance(turn)
        case "promote":
            _promote(turn, by)
        case "skip":
            _skip(turn, ClusterName(command.cluster), by)
        case "skip-wave":
            _skip_wave(turn, by)
        case "retry":
            _retry(turn, by)
        case "abort":
            turn.enter(P.ABORTED, by)
            turn.note("aborted", f"rollout {turn.rollout.id} is aborted by {by}: every cluster stays where it is")
            rollback.hold(turn, f"aborted by {by}")
        case "rollback":
            rollback.begin(turn, by)
        case "emergency":
            _emergency(turn, by)


def leave(turn: Turn, cluster: ClusterName, reason: str, *, skipped: bool = False) -> None:
    """Pure: drop a member out of every count (rule 12). What room that makes is used when all who leave have left."""
    turn.put(cluster, M.LEFT, reason=reason, skipped=skipped)
    turn.has_room = True
    if turn.phase is P.ROLLING_BACK:
        return
    index = turn.members[cluster].wave
    if turn.phase in FINAL or index < turn.wave:
        return
    wave = turn.rollout.waves[index]
    if _lost_everybody(turn, wave, index):
        why = f"wave {wave.name} lost its last cluster before it was done"
        if turn.phase is P.RUNNING:
            turn.enter(P.PAUSED, why)
        else:
            turn.reason = f"{turn.reason}; {why}"  # who resumes it has to know
        turn.note("paused", f"rollout {turn.rollout.id}: {turn.reason}", wave=wave.name)
    # Without the leaver, failures that the budget allowed may be all that is known of the wave.
    if turn.count(index, M.FAILED):
        reports.act(turn, [other for other in wave.clusters if turn.members[other].phase is M.FAILED])


def _lost_everybody(turn: Turn, wave: Wave, index: int) -> bool:
    last = index == len(turn.rollout.waves) - 1
    return turn.count(index, M.LEFT) == len(wave.clusters) and not last and not wave.allow_empty


def _resume(turn: Turn, by: str) -> None:
    turn.enter(P.RUNNING, "")
    turn.note("resumed", f"rollout {turn.rollout.id} is resumed by {by}")
    for wave in turn.rollout.waves[turn.wave : turn.wave + 1]:
        gates.go_on(turn, wave)
    forward.advance(turn)


def _promote(turn: Turn, by: str) -> None:
    wave = turn.rollout.waves[turn.wave]
    side = "after" if turn.wave_opened_at else "before"
    soaking = [
        cluster
        for cluster in wave.clusters
        if turn.wave_opened_at and turn.members[cluster].phase is M.SOAKING and turn.members[cluster].soak_from
    ]
    opened = gates.waive(turn, wave, side, by)
    if not opened and not soaking:
        cause = f"waits for no gate and no soak: {turn.reason or 'it has not begun'}"
        raise IllegalEvent(f"rollout {turn.rollout.id}", cause, "use skip or skip-wave to leave clusters out")
    turn.note("promoted", f"wave {wave.name} of rollout {turn.rollout.id} is promoted by {by}", wave=wave.name)
    for cluster in soaking:
        reports.prove(turn, cluster)
    if opened:
        gates.waive(turn, wave, side, by)  # a proof lets the gates behind it begin anew, and these were promoted too
    if turn.phase is P.PAUSED:
        turn.enter(P.RUNNING, "")
    forward.advance(turn)


def _skip(turn: Turn, cluster: ClusterName, by: str) -> None:
    member = turn.members.get(cluster)
    if member is None or not _is_open(member):
        cause = f"is {member.phase if member else 'not'} in rollout {turn.rollout.id}"
        raise IllegalEvent(f"cluster {cluster}", cause, "skip who is pending, offline or in flight")
    turn.note("cluster-skipped", f"{cluster} is skipped by {by}", cluster=cluster)
    leave(turn, cluster, f"skipped by {by}", skipped=True)


def _skip_wave(turn: Turn, by: str) -> None:
    wave = turn.rollout.waves[turn.wave]
    turn.note("wave-skipped", f"wave {wave.name} of rollout {turn.rollout.id} is skipped by {by}", wave=wave.name)
    for cluster in wave.clusters:
        if _is_open(turn.members[cluster]):
            turn.put(cluster, M.LEFT, reason=f"skipped by {by}", skipped=True)
    for side in ("before", "after"):
        gates.waive(turn, wave, side, by)
    if turn.phase is P.PAUSED:
        turn.enter(P.RUNNING, "")
    turn.wave, turn.wave_opened_at = turn.wave + 1, 0.0
    forward.advance(turn)


def _retry(turn: Turn, by: str) -> None:
    failed = [cluster for cluster, member in turn.members.items() if member.phase is M.FAILED]
    stuck = any(found.failed for found in turn.gates.values())
    if not failed and not stuck:
        cause = "has no failed cluster and no failed gate"
        raise IllegalEvent(f"rollout {turn.rollout.id}", cause, "see 'flotilla rollouts'")
    turn.note("retried", f"rollout {turn.rollout.id} is tried again by {by}")
    for cluster in failed:
        if reports.room(turn, turn.members[cluster].wave) > 0:
            turn.put(cluster, M.MOVING, moved_at=turn.now, soak_from=0.0, last_current_at=0.0, resets=0, reason="")
            turn.wake_past(turn.now + turn.rollout.deadline_s)
    for wave in turn.rollout.waves[turn.wave : turn.wave + 1]:
        gates.go_on(turn, wave)
    if turn.phase is P.PAUSED:
        turn.enter(P.RUNNING, "")
    forward.advance(turn)


def _emergency(turn: Turn, by: str) -> None:
    turn.emergency = by
    if turn.phase is P.PAUSED:
        turn.enter(P.RUNNING, "")
    turn.wave_opened_at = turn.wave_opened_at or turn.now
    turn.note("emergency", f"rollout {turn.rollout.id} goes straight to all clusters, by {by}")
    for cluster, member in list(turn.members.items()):
        if member.phase is M.OFFLINE:
            presence.look(turn, cluster)
    forward.advance(turn)


def _is_open(member: Member) -> bool:
    """Has it still to prove?"""
    return member.phase in UNMOVED or member.phase in IN_FLIGHT
