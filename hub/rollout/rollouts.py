"""The engine of rollouts: `decide(state, events, …) -> (state, effects)`, pure. The loop journals both together.

Rules, by the numbers the code refers to (the design's rules of a rollout say why):

 1. A wave opens when each wave before it is done. Done: nobody pending or in flight, no more offline than its budget,
    and proof from `min_proof`. Once done it stays done.
 2. In flight is MOVING or SOAKING; a move starts only while fewer than `max_concurrent` of its wave are in flight, and
    while a limit of `max_unavailable` clusters of the wave, in flight anywhere, sick, or offline beyond its budget,
    leaves one to spare, or where something is sick already. Under `fixes: jump` a cluster on which the bundle is sick
    passes the first of these limits, and does not count in it.
 3. Proof is what `proof.judge` calls so. A cluster then soaks: Current reports at most two heartbeats apart in the
    hub's time. A longer gap or any other word starts the soak again, the third time is a failure, and only a report
    that arrives after the soak's end ends it. Without soak the proof is enough.
 4. Failures: Failed at the after-subtree, Failed or three resets while soaking, no proof by the deadline (which counts
    from the last Current report once there was one).
 5. Who was sick before its move fails by no report, only by the deadline, and is then not held against the budget; nor
    is it proof. Once it was Current it counts like any other.
 6. More failures in a wave than its budget, more in all than the whole's, or so many that `min_proof` can no longer be
    reached, act: rollback, pause or continue. Resuming after a pause, like `continue`, lowers what rule 1 needs by
    those that failed.
 7. Who proves after it failed is soaked and counted again when there is room (not in the fleet-wide rollback).
 8. Offline is who was silent for `offline_after_s`, and for two heartbeats, when its turn came. Back again it is
    pending, in its wave's room even when later waves are open. After completion too: then it fails alone, with a
    notice. So does who is in flight in a rollout that is replaced, while the newer one has nothing to change there.
 9. Rollback: the failed first, then the others from the last wave to the first, at most `rollback_limit` at once, to
    the before-subtrees; nobody waits for a soak. Who was not moved never gets the commit. A cluster not back by
    the deadline is REVERT_FAILED; the others are finished, and the whole is ROLLBACK_FAILED, which says so.
10. A rollback, whole or failed, and an abort put the bundles on hold: planning again would start the same anew.
11. Until `settle_until` nothing is called failed, offline or soaked, silence before it does not count, deadlines count
    from it (who was moved as the hub died may hear of it only now), and a soak that was cut by it starts again without
    counting as a reset. Proof without a soak guesses nothing and counts at once.
12. A leaver drops out of every count, and so does who is skipped by a person. A wave that loses its last member before
    it was done is as good as an empty one: the rollout pauses, unless the wave may be empty or is the last.
13. Where a bundle of it is suspended, from here or in the cluster, nothing counts: no move, proof, failure or deadline;
    the wave waits and says so. Once resumed its deadline counts from then, and its soak starts again, not as a reset.
    A rollback waits for nobody: a suspended cluster is sent back, and fails to be back by the deadline.
14. Nothing starts forward in a freeze or outside the rollout's windows; nor on a cluster that is held: by a freeze or
    window of its own, by a dependency that moves first, by too many changes at once. Who is held waits as PENDING,
    without a clock. Who is cordoned is OFFLINE until a person lets it back.
15. A wave opens when its gates before it are open, all at one moment and not in a freeze or outside its windows, and is
    done when those after it are. A gate begins when all before it is done, and evidence from before that, or grown old,
    does not count; nor does what was found before the wave's last proof.
16. A gate that fails (rejected, or not passed in its time) acts as a failure over the budget does. One that cannot be
    asked holds the wave, says so, and fails nothing; a pause and a hub that does not run take none of its time.
17. A person may open gates and end soaks (promote), leave a cluster or a wave out, and try what failed again.
18. An emergency goes to all clusters at once: no wave, gate, window, freeze, soak or limit, and no rollback by itself.

A decision depends on its arguments alone, so one that was lost before it was journaled is made again, and none moves
a cluster that the journal calls moved: only PENDING members are moved. An event costs what it touches, not the size of
the fleet: members are copied when they change, waves counted as they do, and `WakeAt` says when a tick is due.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from hub.rollout import commands, forward, gates, reports, rollback, suspension, transitions
from hub.rollout import turn as turns
from hub.rollout.transitions import IN_FLIGHT, UNMOVED, IllegalEvent
from hub.rollout.turn import Turn
from hub.state import (
    FINAL,
    FOLLOWED,
    ClusterView,
    Command,
    Effect,
    Event,
    Evidence,
    Left,
    MemberPhase,
    Phase,
    Reported,
    Rollout,
    Roster,
    State,
    Tick,
    WakeAt,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId

P, M = Phase, MemberPhase
_TIMES = ("moved_at", "soak_from", "last_current_at", "resumed_at")
"""Of a member."""

# --- the engine's doors -------------------------------------------------------------------------------------------


def start(rollout: Rollout, now: float) -> State:
    """Pure: the first state of a rollout. It is paused when a wave is empty that must not be."""
    reason = empty_wave_reason(rollout)
    members = turns.everybody_waiting(rollout)
    state = State(
        rollout=rollout,
        phase=P.PAUSED if reason else P.RUNNING,
        members=members,
        tallies=turns.tallies(rollout, members),
        reason=reason,
        updated_at=now,
    )
    transitions.check(state, {})
    return state


def decide(
    state: State,
    events: Sequence[Event],
    view: Mapping[ClusterName, ClusterView],
    now: float,
    *,
    heartbeat_s: float,
    settle_until: float = 0.0,
    frozen: str = "",
    held: Callable[[ClusterName], str] = lambda cluster: "",
    busy: Callable[[ClusterName], bool] = lambda cluster: False,
    everybody: Callable[[], Roster] | None = None,
) -> tuple[State, tuple[Effect, ...]]:
    """Pure: what `events`, in their order, make of `state`. When nothing changes, the very same `state` comes back.

    Room that reports give is filled once, after all of them: a thousand together cost one look at the waves, and of
    what checks found together the bad counts before the good opens anything. `view` holds every member that has not
    left; `settle_until` is two heartbeats after the hub's start; `frozen` is why nothing may start in the whole fleet,
    `held` why nothing may on one cluster, or "", and `busy` whether a cluster is in flight in any rollout; `everybody`
    gives `view` at a glance, for who decides for many rollouts at once. Reports, ticks, evidence and leavers change
    nothing in a rollout that is not `alive`.
    Raises IllegalEvent for a command that does not fit the phase and for a cluster that is no member, BrokenInvariant
    for a bug; nothing was changed then.
    """
    turn = Turn.of(
        state,
        view=view,
        now=now,
        heartbeat_s=heartbeat_s,
        settle_until=settle_until,
        frozen=frozen,
        held=held,
        busy=busy,
        everybody=everybody,
    )
    for event in events:
        if isinstance(event, Reported | Left) and event.cluster not in state.members:
            raise IllegalEvent(f"rollout {state.rollout.id}", f"has no member {event.cluster}")
    lives = alive(state)
    for event in events:
        if not isinstance(event, Reported | Evidence | Left):
            _use_room(turn)
        over = turn.phase in FINAL - FOLLOWED
        if isinstance(event, Command) or (lives and not over):
            _meet(turn, event)
    _use_room(turn)
    came_to = (turn.phase, turn.wave, turn.wave_opened_at) != (state.phase, state.wave, state.wave_opened_at)
    if came_to and not (events and isinstance(events[-1], Tick)):
        turn.wake(now)  # a tick looks at everybody whose turn has come now
    return _finish(turn)


def _meet(turn: Turn, event: Event) -> None:
    match event:
        case Reported(cluster=cluster):
            if concerns(turn, cluster):
                suspension.heed(turn, [cluster])
                reports.heard(turn, cluster)
        case Tick():
            _tick(turn)
        case Left(cluster=cluster):
            _left(turn, cluster)
        case Evidence():
            turn.has_room |= gates.take(turn, event)
        case Command():
            commands.carry_out(turn, event)


def _use_room(turn: Turn) -> None:
    """What reports and leavers made possible: the next clusters forward, or back."""
    if turn.has_room:
        turn.has_room = False
        if turn.phase is P.ROLLING_BACK:
            rollback.proceed(turn)
        else:
            forward.advance(turn)


def supersede(
    state: State, now: float, *, by: RolloutId, left: Collection[ClusterName] = ()
) -> tuple[State, tuple[Effect, ...]]:
    """Pure: the end of a rollout that a newer one replaces; of those in flight, who `left` is not followed any more.
    Raises IllegalEvent when it is over or rolling back."""
    turn = Turn.of(state, view={}, now=now)
    turn.enter(P.REPLACED, f"replaced by {by}")
    turn.note("replaced", f"rollout {state.rollout.id} is replaced by {by}")
    waves = zip(state.rollout.waves, state.tallies, strict=True)
    flying = [c for wave, tally in waves for c in transitions.those(state.members, wave, tally, IN_FLIGHT)]
    over = [cluster for cluster in flying if cluster in left]
    if len(over) < len(flying):  # it lives on, and must not seem to be about to move anybody
        over += [cluster for cluster, member in state.members.items() if member.phase in UNMOVED]
    for cluster in over:
        turn.put(cluster, M.LEFT, reason=turn.reason)
    return _finish(turn)


def alive(state: State) -> bool:
    """Pure: can an event still change it? A completed rollout lives on while clusters of it have to catch up, and one
    that was replaced while any is in flight."""
    if state.phase not in FOLLOWED:
        return state.phase not in FINAL
    phases = (*UNMOVED, *IN_FLIGHT) if state.phase is P.COMPLETED else IN_FLIGHT
    return any(tally.phases.get(phase) for tally in state.tallies for phase in phases)


def concerns(state: State | Turn, cluster: ClusterName) -> bool:
    """Pure: may a report of this cluster change the rollout? Most of what clusters say concerns none, and is left
    unheard: who waits for its wave, or for room in it, is looked at when there is some."""
    member = state.members.get(cluster)
    if member is None or member.phase in (M.PROVEN, M.LEFT):
        return False
    if member.phase is not M.PENDING:
        return True
    if state.phase is not P.COMPLETED and member.wave > state.wave and not state.emergency:
        return False
    wave, tally = state.rollout.waves[member.wave], state.tallies[member.wave]
    return transitions.flying(tally) < wave.max_concurrent or state.rollout.fixes == "jump" or bool(state.emergency)


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
    return any(tally.phases.get(M.SOAKING) for tally in state.tallies)


def completed(before: State | None, after: State) -> Iterator[tuple[BundleName, ClusterName, Oid]]:
    """Pure: what a rollout that is completed by this turn made of its bundles; nothing where a cluster left it, or was
    left out."""
    if after.phase is P.COMPLETED and (before is None or before.phase is not P.COMPLETED):
        for cluster, target in after.rollout.targets.items():
            if after.members[cluster].phase is not M.LEFT:
                for bundle, subtree in target.after.items():
                    yield bundle, cluster, subtree


def empty_wave_reason(rollout: Rollout) -> str:
    """Pure: why the rollout cannot start by itself: which wave selects no cluster. "" when it can."""
    names = [wave.name for wave in rollout.waves if not wave.clusters and not wave.allow_empty]
    return f"wave {', '.join(names)} selects no cluster: mend its labels, or set allowEmpty" if names else ""


# --- events -------------------------------------------------------------------------------------------------------


def _tick(turn: Turn) -> None:
    if not turn.settled:
        _not_after_now(turn)
    suspension.heed_all(turn)
    if turn.phase is P.ROLLING_BACK:
        rollback.tick(turn)
        return
    forward.overdue(turn)
    forward.advance(turn)
    if turn.phase in (P.RUNNING, P.COMPLETED) and forward.look_around(turn):
        forward.advance(turn)


def _not_after_now(turn: Turn) -> None:
    """The clock may have been set back: nothing that was kept of who is under way, or may be again, is from later than
    now."""
    for wave, tally in zip(turn.rollout.waves, list(turn.tallies), strict=True):
        for cluster in transitions.those(turn.members, wave, tally, (*IN_FLIGHT, M.FAILED, M.REVERTING)):
            member = turn.members[cluster]
            times = {name: min(getattr(member, name), turn.now) for name in _TIMES}
            turn.put(cluster, member.phase, **times)


def _left(turn: Turn, cluster: ClusterName) -> None:
    if turn.members[cluster].phase is M.LEFT:
        return
    turn.note("cluster-left", f"{cluster} left rollout {turn.rollout.id}", cluster=cluster)
    commands.leave(turn, cluster, "left")


def _finish(turn: Turn) -> tuple[State, tuple[Effect, ...]]:
    state = turn.result()
    if state is not turn.state:
        transitions.check(state, turn.view, turn.changed)
    if turn.wake_at < math.inf:
        turn.effects.append(WakeAt(at=turn.wake_at))
    return state, tuple(turn.effects)
