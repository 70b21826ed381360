"""The way forward of a rollout: which wave is open, who moves now, and whom time makes offline or late.

Numbers of rules are those of `rollouts`. What clusters say is in `reports`, gates are in `gates`, the way back is in
`rollback`.
"""

import math

from hub.repo import windows
from hub.rollout import gates, presence, reports, suspension, transitions
from hub.rollout.proof import sick, why_unproven
from hub.rollout.transitions import CORDONED, IN_FLIGHT
from hub.rollout.turn import Turn
from hub.state import MemberPhase, Move, Phase
from proto.ids import ClusterName
from proto.messages import Health

P, M = Phase, MemberPhase

HELD_S = 5.0
"""How often who is held (rule 14) is looked at."""


# --- who moves ----------------------------------------------------------------------------------------------------


def advance(turn: Turn) -> None:
    """Pure: open what may open, move what there is room for, and end when nothing is left (rules 1, 2, 8)."""
    waves = turn.rollout.waves
    if turn.phase is P.COMPLETED:
        for index in range(len(waves)):
            _fill(turn, index)
    while turn.phase is P.RUNNING and turn.wave < len(waves):
        wave = waves[turn.wave]
        if not turn.wave_opened_at:
            if _stays_shut(turn, "before"):
                return
            asked = any(gate.when == "before" for gate in wave.gates)
            if asked and turn.count(turn.wave, M.PENDING) and (why := _no_moves(turn, turn.wave)):
                # What its gates find now is old when it may begin.
                turn.reason = f"wave {wave.name} waits to open; {why}"
                return
            turn.wave_opened_at = turn.now
            if turn.wave == 0:
                turn.note("rollout-started", f"rollout {turn.rollout.id} goes to {len(turn.members)} clusters")
            turn.note("wave-opened", f"wave {wave.name} of rollout {turn.rollout.id} is open", wave=wave.name)
        told = [_fill(turn, index) for index in range(_opened(turn))]
        turn.reason = _waits(turn, told[-1])
        if turn.reason:
            return
        if _stays_shut(turn, "after"):
            return
        turn.wave, turn.wave_opened_at = turn.wave + 1, 0.0
    if turn.phase is P.RUNNING:
        turn.enter(P.COMPLETED, "")
        told_of = (M.PROVEN, M.FAILED, M.OFFLINE, M.LEFT)
        told = [f"{n} {phase}" for phase in told_of if (n := turn.count_all(phase))]
        turn.note("rollout-completed", f"rollout {turn.rollout.id} is completed: {', '.join(told) or 'no cluster'}")


def _opened(turn: Turn) -> int:
    return len(turn.rollout.waves) if turn.emergency else turn.wave + 1


def _waits(turn: Turn, held: str) -> str:
    """What keeps the open wave from being done; in an emergency only who is under way does."""
    if turn.emergency:
        left = turn.count_all(M.PENDING, M.MOVING, M.SOAKING)
        turn.wave = len(turn.rollout.waves) - 1
        return f"emergency ({turn.emergency}): waits for {left} clusters" if left else ""
    told = transitions.waits_for(turn.members, turn.rollout.waves[turn.wave], turn.tallies[turn.wave])
    return f"{told}; {held}" if told and held else told


def _stays_shut(turn: Turn, side: str) -> bool:
    """Do gates keep the wave on this side? One that failed acts (rule 16)."""
    wave = turn.rollout.waves[turn.wave]
    if not wave.gates or turn.emergency:
        return False
    why = gates.shut(turn, wave, side)
    gates.wake(turn, wave, side)
    if not why:
        return False
    turn.reason = f"wave {wave.name} {'waits' if side == 'before' else 'is done and waits'} at {why}"
    if failed := gates.overdue(turn, wave, side):
        turn.note("gate-failed", f"rollout {turn.rollout.id}: {failed}", wave=wave.name)
        if turn.rollout.action == "continue":
            gates.waive(turn, wave, side, "failures are taken as they are")
            return False
        reports.give_up(turn, f"{failed} (wave {wave.name})", wave.name)
    return True


def _fill(turn: Turn, index: int) -> str:
    """Move who may move. Returns why nobody may now, for people, or ""."""
    wave, tally = turn.rollout.waves[index], turn.tallies[index]
    if not turn.count(index, M.PENDING):
        return ""
    if why := _no_moves(turn, index):
        return why
    left = reports.room(turn, index)
    if left <= 0 and turn.rollout.fixes != "jump" and not turn.emergency:
        return ""
    spare, stay, full = _spare(turn, index), len(wave.clusters), ""
    for place in range(tally.first, len(wave.clusters)):
        cluster = wave.clusters[place]
        if turn.members[cluster].phase is not M.PENDING:
            continue
        costs = spare < math.inf and not _unwell(turn, cluster)
        if costs and spare <= 0:
            stay, full = min(stay, place), f"its limit of {wave.max_unavailable} unavailable clusters is reached"
            turn.wake(turn.now + HELD_S)
            continue
        passes = left <= 0 and _may_pass(turn, cluster)
        if (left <= 0 and not passes) or not _may_move(turn, cluster):
            stay = min(stay, place)
            if left <= 0 and turn.rollout.fixes != "jump":
                break
            continue
        _move(turn, cluster, index, beyond=passes)
        left -= not passes
        spare -= costs and not turn.busy(cluster)  # who is in flight elsewhere was counted as gone already
    turn.start_at(index, stay)
    return full


def _no_moves(turn: Turn, index: int) -> str:
    """Why no move of the wave may start anywhere now (rule 14)."""
    if turn.emergency:
        return ""
    if turn.frozen:
        turn.wake(turn.now + HELD_S)
        return turn.frozen
    found = windows.shut((*turn.rollout.windows, *turn.rollout.waves[index].windows), turn.now)
    if found is None:
        return ""
    turn.wake(found.until)
    return found.text


def _may_move(turn: Turn, cluster: ClusterName) -> bool:
    """May this cluster be moved? Who may not is said to be offline, held or suspended, or is just not heard yet."""
    seen = turn.view[cluster]
    if seen.cordoned:
        presence.offline(turn, cluster, f"{CORDONED}{seen.cordoned}")
        return False
    if not turn.heard(cluster):
        presence.look(turn, cluster)
        return False
    if turn.suspended(cluster):
        suspension.heed(turn, [cluster])
        return False
    held = "" if turn.emergency else turn.held(cluster)
    if not turn.members[cluster].suspended:
        turn.put(cluster, M.PENDING, reason=held)
    if held:
        turn.wake(turn.now + HELD_S)
    return not held


def _may_pass(turn: Turn, cluster: ClusterName) -> bool:
    """May its move pass `max_concurrent` (rules 2, 18)?"""
    if turn.emergency:
        return True
    return turn.rollout.fixes == "jump" and sick(turn.rollout.targets[cluster], turn.view[cluster])


def _spare(turn: Turn, index: int) -> float:
    """How many clusters of the wave may become unavailable still. Who is offline within the budget for that keeps
    nobody waiting."""
    wave = turn.rollout.waves[index]
    if wave.max_unavailable is None or turn.emergency:
        return math.inf
    gone = [
        cluster
        for cluster in wave.clusters
        if turn.members[cluster].phase is not M.LEFT
        and (turn.members[cluster].phase in IN_FLIGHT or _unavailable(turn, cluster))
    ]
    silent = sum(_is_silent(turn, cluster) for cluster in gone)
    return wave.max_unavailable - len(gone) + min(silent, wave.offline_budget)


def _is_silent(turn: Turn, cluster: ClusterName) -> bool:
    """Is it offline for its silence? Who is cordoned may be well heard, only not yet since the hub started."""
    if turn.members[cluster].phase is not M.OFFLINE or turn.heard(cluster):
        return False
    return not turn.view[cluster].cordoned or turn.silent(cluster)


def _unavailable(turn: Turn, cluster: ClusterName) -> bool:
    """Is it in flight in some rollout, silent, or unwell (rule 2)?"""
    return turn.busy(cluster) or not turn.heard(cluster) or _unwell(turn, cluster)


def _unwell(turn: Turn, cluster: ClusterName) -> bool:
    """Is something on it not Current? Then a move there makes nobody unavailable who was not before."""
    return any(word.health is not Health.CURRENT for word in turn.view[cluster].bundles.values())


def _move(turn: Turn, cluster: ClusterName, index: int, *, beyond: bool) -> None:
    target, seen = turn.rollout.targets[cluster], turn.view[cluster]
    was_sick = sick(target, seen)
    turn.put(cluster, M.MOVING, seq=seen.next_seq, moved_at=turn.now, sick_before=was_sick, beyond=beyond, reason="")
    turn.wake_past(turn.now + turn.rollout.deadline_s)
    name = turn.rollout.waves[index].name
    turn.effects.append(Move(cluster=cluster, rollout=turn.rollout.id, wave=name, subtrees=target.after))


# --- what time brings ---------------------------------------------------------------------------------------------


def overdue(turn: Turn) -> None:
    """Pure: who is past its deadline fails, all others say when they would (rules 4, 13)."""
    deadline_s, late, first = turn.rollout.deadline_s, [], math.inf
    for index in range(len(turn.rollout.waves) if turn.phase is P.COMPLETED else min(_opened(turn), len(turn.tallies))):
        for cluster in transitions.those(turn.members, turn.rollout.waves[index], turn.tallies[index], IN_FLIGHT):
            member = turn.members[cluster]
            if member.suspended:
                continue
            since = max(member.last_current_at or member.moved_at, member.resumed_at, turn.settle_until)
            if turn.now - since <= deadline_s:
                first = min(first, since)
                continue
            late.append(cluster)
            reports.fail(turn, cluster, f"no proof within {deadline_s:.0f} s{_last_word(turn, cluster, since)}")
    turn.wake_past(first + deadline_s)
    reports.act(turn, late)


def _last_word(turn: Turn, cluster: ClusterName, since: float) -> str:
    """Who asks why it failed asks when the cluster is back at something else, and says nothing of it any more."""
    seen = turn.view[cluster]
    if seen.last_seen <= since:
        return ", silent all the time"
    why = why_unproven(turn.rollout.targets[cluster].after, seen) if seen.seq >= turn.members[cluster].seq else ""
    return f": {why}" if why else ""


def look_around(turn: Turn) -> bool:
    """Pure: look at everybody whose turn has come and who was not moved; True if somebody's state changed by it."""
    before = len(turn.changed), turn.count_all(M.PENDING), turn.count_all(M.OFFLINE)
    opened = range(_opened(turn) if turn.wave < len(turn.tallies) else len(turn.tallies))
    presence.look_all(turn, [index for index in opened if index < turn.wave or turn.wave_opened_at])
    return before != (len(turn.changed), turn.count_all(M.PENDING), turn.count_all(M.OFFLINE))
