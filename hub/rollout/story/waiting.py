"""What a rollout, or one cluster in it, waits for, and for how long it did (numbers of rules are those of `rollouts`).

| what is so                                                     | the rollout waits for, a cluster waits for |
|----------------------------------------------------------------|--------------------------------------------|
| paused; on its way back                                        | a person; the way back                     |
| gates of the wave are shut                                     | each gate by its name                      |
| somebody is moving, else soaks                                 | applying, else soaking                     |
| a freeze, a window, a limit, a dependency, a suspension        | that                                       |
| more are offline than the budget allows                        | offline clusters, or cordoned ones         |
| (one cluster) its wave is not open, or has no room             | what an earlier wave waits for, or room    |

Next: `why` tells it.
"""

from collections.abc import Iterable, Mapping

from hub.rollout import gates, transitions
from hub.rollout.transitions import CORDONED, IN_FLIGHT
from hub.state import FINAL, MemberPhase, Phase, State
from proto.ids import ClusterName

M = MemberPhase

APPLYING = "clusters that apply"
SOAKING = "soaks"
ROOM = "room in its wave"
OFFLINE = "clusters that are offline"
PAUSED = "a person, paused"
BACK = "clusters on their way back"


def of_rollout(state: State) -> str:
    """Pure: what the rollout as a whole waits for, in few words; "" when it is over."""
    if state.phase in FINAL:
        return ""
    if state.phase is Phase.PAUSED:
        return PAUSED
    if state.phase is Phase.ROLLING_BACK:
        return BACK
    if shut := _shut(state):
        return shut
    flying = [index for index in _open(state) if _counts(state, index, *IN_FLIGHT)]
    if flying:
        moving = any(_counts(state, index, M.MOVING) for index in flying)
        return APPLYING if moving else SOAKING
    if held := hold(state):
        return held
    if any(_counts(state, index, M.OFFLINE) for index in _open(state)):
        return OFFLINE
    return "word from clusters" if any(_counts(state, index, M.PENDING) for index in _open(state)) else "its next turn"


def of_cluster(state: State, cluster: ClusterName) -> str:
    """Pure: what one member waits for; "" when nothing more is to come to it."""
    member = state.members[cluster]
    if state.phase is Phase.ROLLING_BACK:
        return "" if member.phase in (M.PENDING, M.OFFLINE, M.LEFT, M.REVERTED, M.REVERT_FAILED) else "its way back"
    if member.suspended:
        return member.reason
    if member.phase is M.MOVING:
        return "it to apply"
    if member.phase is M.SOAKING:
        return "its soak"
    if member.phase is M.OFFLINE:
        return member.reason if member.reason.startswith(CORDONED) else "it to come back"
    if member.phase is not M.PENDING or (state.phase in FINAL and state.phase is not Phase.COMPLETED):
        return ""
    if state.phase is Phase.PAUSED:
        return PAUSED
    if member.wave not in _open(state) or (member.wave == state.wave and not state.wave_opened_at):
        ahead = of_rollout(state)
        return ahead if ahead.startswith("gate ") else f"an earlier wave: {ahead}"
    if member.reason:
        return plain(member.reason)
    wave, tally = state.rollout.waves[member.wave], state.tallies[member.wave]
    return ROOM if transitions.flying(tally) >= wave.max_concurrent else hold(state) or "it to be heard"


def plain(reason: str) -> str:
    """Pure: a reason without what changes while it lasts: which rollout, how many."""
    return reason.partition(" (")[0]


def waited(times: Iterable[tuple[float, str]], until: float) -> dict[str, float]:
    """Pure: how many seconds each wait lasted in all, the longest first; `times` says from when on (Unix seconds) which
    wait was, in order, "" none."""
    found: dict[str, float] = {}
    before: tuple[float, str] | None = None
    for at, what in (*times, (until, "")):
        if before is not None and before[1] and at > before[0]:
            found[before[1]] = found.get(before[1], 0.0) + at - before[0]
        before = at, what
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _open(state: State) -> range:
    """The waves whose members may move now."""
    return range(len(state.tallies)) if state.emergency else range(min(state.wave + 1, len(state.tallies)))


def _counts(state: State, index: int, *phases: MemberPhase) -> int:
    found: Mapping[MemberPhase, int] = state.tallies[index].phases
    return sum(found.get(phase, 0) for phase in phases)


def _shut(state: State) -> str:
    """The gates that keep the rollout where it is, as they stood then: before a wave, or after one that is done."""
    waiting = {} if state.emergency else {**gates.asked(state), **gates.awaits_people(state)}
    told = [key for key, gate in waiting.items() if not gates.passed(gate, state.gates[key], state.updated_at)]
    if not told:
        return ""
    wave, tally = state.rollout.waves[state.wave], state.tallies[state.wave]
    under_way = state.wave_opened_at and transitions.waits_for(state.members, wave, tally)
    return "" if under_way else f"gate {', '.join(told)}"


def hold(state: State) -> str:
    """Pure: what holds those that are pending in the open waves, all of them or the first; "" when nothing does."""
    if state.phase is not Phase.RUNNING:
        return ""
    _, _, wave_wide = state.reason.rpartition("; ")
    if wave_wide and wave_wide != state.reason:
        return plain(wave_wide)
    for index in _open(state):
        if not _counts(state, index, M.PENDING):
            continue
        for cluster in state.rollout.waves[index].clusters:
            member = state.members[cluster]
            if member.phase is M.PENDING and member.reason:
                return plain(member.reason)
    return ""
