"""The engine of rollouts: `decide(state, events, …) -> (state, effects)`, pure. The loop journals both together.

Rules, by the numbers the code refers to (the design's rules of a rollout say why):

 1. A wave opens when each wave before it is done. Done: nobody pending or in flight, no more offline than its budget,
    and proof from `min_proof`. Once done it stays done.
 2. In flight is MOVING or SOAKING; a move starts only while fewer than `max_concurrent` of its wave are in flight.
 3. Proof is what `proof.judge` calls so. A cluster then soaks: Current reports at most two heartbeats apart in the
    hub's time. A longer gap or any other word starts the soak again, the third time is a failure, and only a report
    that arrives after the soak's end ends it. Without soak the proof is enough.
 4. Failures: Failed at the after-subtree, Failed or three resets while soaking, no proof by the deadline (which counts
    from the last Current report once there was one).
 5. Who was sick before its move fails by no report, only by the deadline, and is then not held against the budget; nor
    is it proof. Once it was Current it counts like any other.
 6. More failures in a wave than its budget, or so many that `min_proof` can no longer be reached, act: rollback, pause
    or continue. Resuming after a pause, like `continue`, lowers what rule 1 needs by those that failed.
 7. Who proves after it failed is soaked and counted again when there is room (not in the fleet-wide rollback).
 8. Offline is who was silent for `offline_after_s` when its turn came. Back again it is pending, in its wave's room
    even when later waves are open. After completion too: then it fails alone, with a notice.
 9. Rollback: the failed first, then the others from the last wave to the first, at most `rollback_limit` at once, to
    the before-subtrees; nobody waits for a soak. Who was not moved never gets the commit. A cluster not back by
    the deadline is REVERT_FAILED; the others are finished, and the whole is ROLLBACK_FAILED, which says so.
10. A rollback, whole or failed, and an abort put the bundles on hold: planning again would start the same anew.
11. Until `settle_until` nothing is called failed, offline or soaked, silence before it does not count, and a soak that
    was cut by it starts again without counting as a reset. Proof without a soak guesses nothing and counts at once.
12. A leaver drops out of every count, and so does who is skipped by a person. A wave that loses its last member before
    it was done is as good as an empty one: the rollout pauses, unless the wave may be empty or is the last.
13. Where a bundle of it is suspended, from here or in the cluster, nothing counts: no move, proof, failure or deadline;
    the wave waits and says so. Once resumed its deadline counts from then, and its soak starts again, not as a reset.
    A rollback waits for nobody: a suspended cluster is sent back, and fails to be back by the deadline.

A decision depends on its arguments alone, so one that was lost before it was journaled is made again, and none moves
a cluster that the journal calls moved: only PENDING members are moved. Left out here: the pause of all rollouts when
a fifth of the clusters vanish, gates, windows, `blocked`.
"""

from collections.abc import Mapping, Sequence

from hub.model import (
    FINAL,
    ClusterView,
    Command,
    Effect,
    Event,
    Left,
    Member,
    MemberPhase,
    Move,
    Phase,
    Reported,
    Rollout,
    State,
    Tick,
    Wave,
)
from hub.rollout import reports, rollback, suspension, transitions
from hub.rollout.proof import sick
from hub.rollout.transitions import IN_FLIGHT, UNMOVED, IllegalEvent
from hub.rollout.turn import Turn
from proto.ids import ClusterName, RolloutId

P, M = Phase, MemberPhase


# --- the engine's doors -------------------------------------------------------------------------------------------


def start(rollout: Rollout, now: float) -> State:
    """Pure: the first state of a rollout. It is paused when a wave is empty that must not be."""
    reason = empty_wave_reason(rollout)
    return State(
        rollout=rollout,
        phase=P.PAUSED if reason else P.RUNNING,
        members={cluster: Member() for cluster in rollout.targets},
        reason=reason,
        updated_at=now,
    )


def decide(
    state: State,
    events: Sequence[Event],
    view: Mapping[ClusterName, ClusterView],
    now: float,
    *,
    heartbeat_s: float,
    settle_until: float = 0.0,
) -> tuple[State, tuple[Effect, ...]]:
    """Pure: what `events`, in their order, make of `state`. When nothing changes, the very same `state` comes back.

    Room that reports give is filled once, after all of them: a thousand together cost one look at the waves.
    `view` holds every member that has not left; `settle_until` is two heartbeats after the hub's start. Reports, ticks
    and leavers change nothing in a rollout that is not `alive`. Raises IllegalEvent for a command that does not fit
    the phase and for a cluster that is no member, BrokenInvariant for a bug; nothing was changed then.
    """
    turn = Turn.of(state, view=view, now=now, heartbeat_s=heartbeat_s, settle_until=settle_until)
    for event in events:
        if isinstance(event, Reported | Left) and event.cluster not in state.members:
            raise IllegalEvent(f"rollout {state.rollout.id}", f"has no member {event.cluster}")
    lives = alive(state)
    for event in events:
        if not isinstance(event, Reported):
            _use_room(turn)
        over = turn.phase in FINAL and turn.phase is not P.COMPLETED
        if isinstance(event, Command) or (lives and not over):
            _meet(turn, event)
    _use_room(turn)
    return _finish(turn)


def _meet(turn: Turn, event: Event) -> None:
    match event:
        case Reported(cluster=cluster):
            suspension.heed(turn, [cluster])
            reports.heard(turn, cluster)
        case Tick():
            suspension.heed(turn, turn.members)
            _tick(turn)
        case Left(cluster=cluster):
            _left(turn, cluster)
        case Command():
            _commanded(turn, event)


def _use_room(turn: Turn) -> None:
    """What reports made possible: the next clusters forward, or back."""
    if turn.has_room:
        turn.has_room = False
        if turn.phase is P.ROLLING_BACK:
            rollback.proceed(turn)
        else:
            _advance(turn)


def supersede(state: State, now: float, *, by: RolloutId) -> tuple[State, tuple[Effect, ...]]:
    """Pure: the end of a rollout that a newer one replaces. Raises IllegalEvent when it is over or rolling back."""
    turn = Turn.of(state, view={}, now=now)
    turn.enter(P.REPLACED, f"replaced by {by}")
    turn.note("replaced", f"rollout {state.rollout.id} is replaced by {by}")
    return _finish(turn)


def alive(state: State) -> bool:
    """Pure: can an event still change it? A completed rollout lives on while clusters of it have to catch up."""
    if state.phase is P.COMPLETED:
        return any(member.phase in UNMOVED or member.phase in IN_FLIGHT for member in state.members.values())
    return state.phase not in FINAL


def stalled(state: State) -> bool:
    """Pure: does it wait for clusters that are offline or suspended, or for proof that none can give? Then a newer
    rollout loses nothing by taking its place, and everybody else would lose by waiting."""
    if state.phase is not P.RUNNING or state.wave == len(state.rollout.waves) or not state.wave_opened_at:
        return False
    return suspension.stands_still(state)


def frees(before: State, after: State) -> bool:
    """Pure: may something that waited for this rollout start now? Then it is time to plan again: the rollout ended or
    was paused or resumed, or came to a standstill, or nobody soaks in it any more."""
    return before is not after and (
        before.phase is not after.phase
        or stalled(after) is not stalled(before)
        or (_soaks(before) and not _soaks(after))
        or (alive(before) and not alive(after))
    )


def _soaks(state: State) -> bool:
    return any(member.phase is M.SOAKING for member in state.members.values())


def empty_wave_reason(rollout: Rollout) -> str:
    """Pure: why the rollout cannot start by itself: which wave selects no cluster. "" when it can."""
    names = [wave.name for wave in rollout.waves if not wave.clusters and not wave.allow_empty]
    return f"wave {', '.join(names)} selects no cluster: mend its labels, or set allowEmpty" if names else ""


# --- events -------------------------------------------------------------------------------------------------------


def _tick(turn: Turn) -> None:
    if turn.phase is P.ROLLING_BACK:
        rollback.tick(turn)
        return
    deadline_s, overdue = turn.rollout.deadline_s, []
    for cluster, member in turn.members.items():
        if member.phase not in IN_FLIGHT or member.suspended or not turn.settled:
            continue
        since = max(member.last_current_at or member.moved_at, member.resumed_at)
        if turn.now - since > deadline_s:
            overdue.append(cluster)
            silent = "" if turn.view[cluster].last_seen > since else ", silent all the time"
            reports.fail(turn, cluster, f"no proof within {deadline_s:.0f} s{silent}")
    reports.act(turn, overdue)
    _advance(turn)


def _left(turn: Turn, cluster: ClusterName) -> None:
    if turn.members[cluster].phase is M.LEFT:
        return
    turn.note("cluster-left", f"{cluster} left rollout {turn.rollout.id}", cluster=cluster)
    _leave(turn, cluster, "left")


def _leave(turn: Turn, cluster: ClusterName, reason: str, *, skipped: bool = False) -> None:
    """Drop a member out of every count (rule 12)."""
    turn.put(cluster, M.LEFT, reason=reason, skipped=skipped)
    if turn.phase is P.ROLLING_BACK:
        rollback.proceed(turn)
        return
    wave = turn.wave_of(cluster)
    if wave not in turn.rollout.waves[turn.wave :]:
        return
    stay = [other for other in wave.clusters if turn.members[other].phase is not M.LEFT]
    last = wave is turn.rollout.waves[-1]
    if not stay and not last and not wave.allow_empty and turn.phase is P.RUNNING:
        turn.enter(P.PAUSED, f"wave {wave.name} lost its last cluster before it was done")
        turn.note("paused", f"rollout {turn.rollout.id}: {turn.reason}", wave=wave.name)
    # Without the leaver, failures that the budget allowed may be all that is known of the wave.
    reports.act(turn, [other for other in stay if turn.members[other].phase is M.FAILED])
    _advance(turn)


def _commanded(turn: Turn, command: Command) -> None:
    if not command.reason:
        raise IllegalEvent(f"rollout {turn.rollout.id}", f"{command.verb} needs a reason")
    by = f"{command.actor}: {command.reason}"
    allowed = {"pause": (P.RUNNING,), "resume": (P.PAUSED,)}.get(command.verb, (P.RUNNING, P.PAUSED))
    if turn.phase not in allowed:
        cause = f"is {turn.phase}: cannot {command.verb}"
        raise IllegalEvent(f"rollout {turn.rollout.id}", cause, f"it must be {' or '.join(allowed)}")
    match command.verb:
        case "pause":
            turn.enter(P.PAUSED, by)
            turn.note("paused", f"rollout {turn.rollout.id} is paused by {by}")
        case "resume":
            turn.enter(P.RUNNING, "")
            turn.note("resumed", f"rollout {turn.rollout.id} is resumed by {by}")
            _advance(turn)
        case "abort":
            turn.enter(P.ABORTED, by)
            turn.note("aborted", f"rollout {turn.rollout.id} is aborted by {by}: every cluster stays where it is")
            rollback.hold(turn, f"aborted by {by}")
        case "rollback":
            rollback.begin(turn, by)
        case "skip":
            skipped = ClusterName(command.cluster)
            member = turn.members.get(skipped)
            if member is None or (member.phase not in UNMOVED and member.phase not in IN_FLIGHT):
                cause = f"is {member.phase if member else 'not'} in rollout {turn.rollout.id}"
                raise IllegalEvent(f"cluster {skipped}", cause, "skip who is pending, offline or in flight")
            turn.note("cluster-skipped", f"{skipped} is skipped by {by}", cluster=skipped)
            _leave(turn, skipped, f"skipped by {by}", skipped=True)


# --- forward ------------------------------------------------------------------------------------------------------


def _advance(turn: Turn) -> None:
    """Open what may open, move what there is room for, and end when nothing is left (rules 1, 2, 8)."""
    waves = turn.rollout.waves
    if turn.phase is P.COMPLETED:
        for wave in waves:
            _fill(turn, wave)
    while turn.phase is P.RUNNING and turn.wave < len(waves):
        wave = waves[turn.wave]
        if not turn.wave_opened_at:
            turn.wave_opened_at = turn.now
            if turn.wave == 0:
                turn.note("rollout-started", f"rollout {turn.rollout.id} goes to {len(turn.members)} clusters")
            turn.note("wave-opened", f"wave {wave.name} of rollout {turn.rollout.id} is open", wave=wave.name)
        for opened in waves[: turn.wave + 1]:
            _fill(turn, opened)
        turn.reason = transitions.waits_for(turn.members, wave)
        if turn.reason:
            return
        turn.wave, turn.wave_opened_at = turn.wave + 1, 0.0
    if turn.phase is P.RUNNING:
        turn.enter(P.COMPLETED, "")
        phases = [member.phase for member in turn.members.values()]
        told = ", ".join(f"{n} {p}" for p in (M.PROVEN, M.FAILED, M.OFFLINE, M.LEFT) if (n := phases.count(p)))
        turn.note("rollout-completed", f"rollout {turn.rollout.id} is completed: {told or 'no cluster'}")


def _fill(turn: Turn, wave: Wave) -> None:
    room = reports.room(turn, wave)
    for cluster in wave.clusters:
        phase = turn.members[cluster].phase
        if phase not in UNMOVED:
            continue
        if turn.heard(cluster):
            if phase is M.OFFLINE:
                turn.put(cluster, M.PENDING, reason="")
                suspension.heed(turn, [cluster])
            if room > 0 and not turn.suspended(cluster):
                _move(turn, cluster, wave)
                room -= 1
        elif phase is M.PENDING and turn.silent(cluster):
            turn.put(cluster, M.OFFLINE, reason=f"silent for more than {turn.rollout.offline_after_s:.0f} s")
            turn.note("cluster-offline", f"{cluster} is offline and gets its move later", cluster=cluster)


def _move(turn: Turn, cluster: ClusterName, wave: Wave) -> None:
    target, seen = turn.rollout.targets[cluster], turn.view[cluster]
    turn.put(cluster, M.MOVING, seq=seen.next_seq, moved_at=turn.now, sick_before=sick(target, seen), reason="")
    turn.effects.append(Move(cluster=cluster, rollout=turn.rollout.id, wave=wave.name, subtrees=target.after))


def _finish(turn: Turn) -> tuple[State, tuple[Effect, ...]]:
    state = turn.result()
    if state is not turn.state:
        transitions.check(state, turn.view)
    return state, tuple(turn.effects)
