"""Which older rollout a newer one replaces, which it waits for, and who waits with it (the table is in `waves`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from hub.rollout import rollouts, transitions
from hub.rollout.transitions import IN_FLIGHT, UNMOVED
from hub.state import MemberPhase, Phase, Rollout, State
from proto.ids import BundleName, ClusterName, Oid

P, M = Phase, MemberPhase


def waits_for(older: State, wants: Mapping[BundleName, Mapping[ClusterName, Oid]]) -> str:
    """Pure: why a new rollout has to wait for `older`; "" when it takes its place."""
    name, targets = older.rollout.id, older.rollout.targets
    if older.phase is P.ROLLING_BACK:
        return f"rollout {name} is being rolled back"
    flying = {cluster: member.phase for cluster, member in older.members.items() if member.phase in IN_FLIGHT}
    wanted = any(not _outdated(older, cluster, wants) for cluster in flying)
    soaks = M.SOAKING in flying.values()
    begun = any(phase not in UNMOVED and phase is not M.LEFT for tally in older.tallies for phase in tally.phases)
    # Clusters that joined are no reason: a rollout of them and the rest would not ask at the gates it has come to.
    newer = any(_outdated(older, cluster, wants) for cluster in targets)
    sick = any(transitions.failures(tally) for tally in older.tallies)
    jumps = newer and sick and older.rollout.fixes == "jump" and not wanted and not older.paused_by
    everybody_left = all(member.phase is M.LEFT for member in older.members.values())
    if everybody_left or held_empty(older) or rollouts.stalled(older) or jumps:
        return ""
    if older.phase is P.PAUSED:
        return f"rollout {name} is paused: {older.reason}"
    if (older.rollout.supersede == "replace" and newer and not wanted and not soaks) or not begun:
        return ""
    return f"rollout {name} is under way"


def _outdated(older: State, cluster: ClusterName, wants: Mapping[BundleName, Mapping[ClusterName, Oid]]) -> bool:
    """Is something that it brings to the cluster wanted differently now?"""
    after = older.rollout.targets[cluster].after
    return any(wants.get(bundle, {}).get(cluster, subtree) != subtree for bundle, subtree in after.items())


def held_empty(state: State) -> bool:
    """Pure: is it paused since its start for a wave without clusters, and by nobody's word?"""
    reason = rollouts.empty_wave_reason(state.rollout)
    return state.phase is P.PAUSED and reason != "" and state.reason == reason and not state.wave_opened_at


def same(older: Rollout, newer: Rollout) -> bool:
    """Pure: would the newer one do just what the older does?"""
    incidental = ("id", "number", "revision", "author", "subject", "made_at", "stands_for")
    return replace(newer, **{field: getattr(older, field) for field in incidental}) == older


def goes_first(rollout: Rollout, other: Rollout) -> bool:
    """Pure: does `rollout` go before `other`, which depends on a bundle of it? It is older or of the same commit, or
    stands for one that was."""
    return rollout.number < other.number or other.revision in rollout.commits


def stands_for(
    bundles: Collection[BundleName], older: Sequence[State], active: Collection[State], *, given_up: Collection[Oid]
) -> tuple[Oid, ...]:
    """Pure: the commits of the active rollouts that wait for one of `older`, or for the end of a hold after commits
    that were `given_up`: they wait for the rollout of `bundles` that takes the place of these."""
    waiting = {
        state.rollout.revision
        for state in active
        if not set(bundles).isdisjoint(state.rollout.depends_on)
        if state.rollout.revision in given_up or any(goes_first(each.rollout, state.rollout) for each in older)
    }
    return tuple(sorted(waiting))


def behind(found: Sequence[Rollout], late: Collection[BundleName]) -> dict[BundleName, str]:
    """Pure: bundle → why it waits though nothing of its own is in the way: one that it depends on is `late`, or waits
    for such a one. It would not be there yet when the dependent moves."""
    waiting: dict[BundleName, str] = {}
    while True:
        those = {*late, *waiting}
        more = [(r, d) for r in found for d in r.depends_on if d in those and waiting.keys().isdisjoint(r.bundles)]
        if not more:
            return waiting
        for rollout, dependency in more:
            waiting |= dict.fromkeys(rollout.bundles, f"bundle {dependency}, on which it depends, waits")
