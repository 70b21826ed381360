"""What one step made of one cluster, and why just then."""

from collections.abc import Callable, Iterator, Mapping

from hub.rollout import transitions
from hub.rollout.steps import Cause
from hub.rollout.story import waiting
from hub.rollout.story.words import duration
from hub.state import MemberPhase, State
from proto.ids import ClusterName

M = MemberPhase
Told = tuple[str, str, str]
"""Kind, what and why of a line."""


def became(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Iterator[Told]:
    """Pure: what became of one member in a step; `said` is what it said in that turn, if that was kept."""
    old, new = before.members[cluster], after.members[cluster]
    if new.phase is not old.phase:
        yield _MOVES[new.phase](before, after, cluster, said, at)
    elif new.resets > old.resets:
        yield "failed", f"soak begins anew, interruption {new.resets}", _quoted(said)
    elif new.suspended is not old.suspended:
        yield ("held", "held", new.reason) if new.suspended else ("held", "resumed", "")
    elif new.phase is M.PENDING and new.reason != old.reason and new.reason:
        if waiting.plain(new.reason) != waiting.plain(old.reason):
            yield "held", "held", new.reason
    elif new.phase is M.SOAKING and old.soak_from and not new.soak_from:
        yield "failed", "soak stopped", _quoted(said)


def _quoted(said: Cause | None) -> str:
    return f"said {said.text} at slice {said.what}" if said else ""


def _moves(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    old, new = before.members[cluster], after.members[cluster]
    wave, tally = after.rollout.waves[new.wave], after.tallies[new.wave]
    slice_ = f"sent to slice {new.seq}"
    if old.phase is M.FAILED:
        return "sent", slice_, "tried again"
    if after.emergency:
        return "sent", slice_, "an emergency waits for nobody"
    if new.beyond:
        return "sent", slice_, "the bundle is sick there, so the limit is passed"
    in_flight = f"{transitions.flying(tally)} of {wave.max_concurrent} in flight"
    opened_now = before.wave != after.wave or not before.wave_opened_at
    if old.phase is M.OFFLINE:
        return "sent", slice_, f"back again, {in_flight}"
    if old.reason:
        return "sent", slice_, f"no longer held ({waiting.plain(old.reason)})"
    if held := waiting.hold(before):
        return "sent", slice_, f"no longer held ({held})"
    if opened_now and new.wave == after.wave:
        return "sent", slice_, f"wave {wave.name} opened, {in_flight}"
    if transitions.flying(before.tallies[new.wave]) >= wave.max_concurrent:
        return "sent", slice_, f"others made room, {in_flight}"
    return "sent", slice_, f"heard from, {in_flight}"


def _soaks(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    new = after.members[cluster]
    soak_s = after.rollout.waves[new.wave].soak_s
    return "proof", f"applied, soaking for {duration(soak_s)}", _quoted(said)


def _proven(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    old = before.members[cluster]
    if old.phase is M.SOAKING and said is None:
        return "proof", "proven", "a person ended the soak"
    return "proof", "proven", _quoted(said)


def _failed(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    new = after.members[cluster]
    sick = "; sick before its move, so this counts against no budget" if transitions.excused(new) else ""
    return "failed", "failed", f"{new.reason}{sick}"


def _goes_back(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    failed = before.members[cluster].phase is M.FAILED
    return (
        "sent-back",
        f"sent back, as slice {after.members[cluster].seq}",
        "failed, so first" if failed else _quoted(said),
    )


def _back(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    return "back", "back at what ran there before", _quoted(said)


def _pending(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
    return "offline", "back", "sent when there is room"


def _plain(kind: str, what: str) -> "_Way":
    def made(before: State, after: State, cluster: ClusterName, said: Cause | None, at: float) -> Told:
        return kind, what, after.members[cluster].reason

    return made


_Way = Callable[[State, State, ClusterName, Cause | None, float], Told]
_MOVES: Mapping[MemberPhase, _Way] = {
    M.PENDING: _pending,
    M.OFFLINE: _plain("offline", "not there, sent later"),
    M.MOVING: _moves,
    M.SOAKING: _soaks,
    M.PROVEN: _proven,
    M.FAILED: _failed,
    M.REVERTING: _goes_back,
    M.REVERTED: _back,
    M.REVERT_FAILED: _plain("failed", "not back"),
    M.LEFT: _plain("left", "out of the rollout"),
}
