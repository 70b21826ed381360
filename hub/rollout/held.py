"""Why nothing may start now: in the whole fleet, or of one rollout on one cluster (rule 14 of `rollouts`).

| held by              | until                                                                                         |
|----------------------|-----------------------------------------------------------------------------------------------|
| a freeze             | it ends, or leaves fleet.yaml; one that selects clusters holds these alone                    |
| windows of a cluster | they open                                                                                     |
| `maxChanges`         | fewer rollouts are in flight on the cluster                                                   |
| a dependency         | its own rollout is proven there, if that is older or of the same commit; when that was rolled |
|                      | back, until it is released or changed. For a bootstrap: something of it is proven there       |
| what cannot be read  | it can: fleet.yaml may freeze everything, a Cluster file may shut its cluster                 |
| clusters that vanish | fewer do: over a fifth of those that were there, and at least `VANISHED_LEAST`, within two    |
|                      | minutes may be the work of a commit, or of the hub's own network                              |

Next: `rollouts.decide` is told.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hub.model import Fleet, Freeze, Selector, Window
from hub.repo import targets, windows
from hub.rollout import queue, rollouts, transitions
from hub.rollout.transitions import IN_FLIGHT, UNMOVED
from hub.state import ABSENT, FINAL, Effect, Hold, MemberPhase, Move, Rollout, State
from proto.ids import BundleName, ClusterName, Oid

VANISH_S = 120.0
VANISHED_LEAST = 5
"""In a small fleet a fifth is one cluster, whose absence is bad luck and no pattern."""
_SILENT_HEARTBEATS = 3
"""Who missed so many is silent, not late."""
_BUSY = frozenset({*IN_FLIGHT, MemberPhase.REVERTING})
_DONE = frozenset({MemberPhase.PROVEN, MemberPhase.LEFT})
_DONE_WHEN_OVER = _DONE | {MemberPhase.FAILED}
"""Who failed may still prove, but not after the rollout's end: whoever waited for that would wait for others."""


@dataclass(slots=True, kw_only=True)
class Around:
    """What holds rollouts, at `now`. `on_hold`: bundle → the commits that it was taken back from."""

    fleet: Fleet
    now: float
    states: Collection[State] = ()
    on_hold: Mapping[BundleName, Collection[Oid]] = field(default_factory=dict)
    _in_flight: dict[ClusterName, int] | None = None
    _moved: Counter[ClusterName] = field(default_factory=Counter)
    _shut: dict[tuple[Window, ...], str] = field(default_factory=dict)

    def why(self, rollout: Rollout, cluster: ClusterName) -> str:
        """Why the rollout may not move the cluster now, or ""."""
        found = self.fleet.clusters.get(cluster)
        if found is None:
            return "its Cluster file is gone, or not valid"
        for freeze in self.fleet.freezes:
            if _runs(freeze, self.now) and targets.matches(freeze.select, found.labels):
                return _told(freeze)
        if found.windows and (shut := self._windows(found.windows)):
            return shut
        limit = found.max_changes or self.fleet.max_changes
        if limit and (flying := self._flying(cluster)) >= limit:
            return f"{flying} of {limit} changes at a time are under way there"
        return self._blocked(cluster, rollout) if rollout.depends_on else ""

    def busy(self, cluster: ClusterName) -> bool:
        """Is the cluster in flight in any rollout?"""
        return self._flying(cluster) > 0

    def decided(self, effects: Iterable[Effect]) -> None:
        """What was decided in this very turn holds those that are decided after it: clusters that were moved are in
        flight, bundles that were put on hold are not there."""
        for effect in effects:
            match effect:
                case Move(cluster=cluster):
                    self._moved[cluster] += 1
                case Hold(bundle=bundle, rollout=name):
                    given_up = next(state.rollout for state in self.states if state.rollout.id == name)
                    self.on_hold = {**self.on_hold, bundle: given_up.commits}

    def _flying(self, cluster: ClusterName) -> int:
        if self._in_flight is None:
            self._in_flight = in_flight(self.states)
        return self._in_flight.get(cluster, 0) + self._moved[cluster]

    def _windows(self, found: tuple[Window, ...]) -> str:
        if found not in self._shut:
            shut = windows.shut(found, self.now)
            self._shut[found] = shut.text if shut else ""
        return self._shut[found]

    def _blocked(self, cluster: ClusterName, rollout: Rollout) -> str:
        for bundle in rollout.depends_on:
            if rollout.revision in self.on_hold.get(bundle, ()):
                return f"blocked: bundle {bundle} of the same commit is on hold"
            for state in self.states:
                other, member = state.rollout, state.members.get(cluster)
                if member is None or bundle not in other.bundles or not rollouts.alive(state):
                    continue
                over = state.phase in FINAL or other.base
                if member.phase in (_DONE_WHEN_OVER if over else _DONE):
                    continue
                there = member.phase in UNMOVED and other.targets[cluster].before.get(bundle, ABSENT)
                if rollout.base and there and rollout.revision not in other.commits:
                    continue  # what runs there completed once, and is what the bootstrap was made beside
                if rollout.base or queue.goes_first(other, rollout):
                    return f"blocked: bundle {bundle} goes first there ({other.id}: {member.phase})"
        return ""


def frozen(fleet: Fleet, now: float) -> str:
    """Pure: the freeze that stops the whole fleet now, or ""."""
    if fleet.lost_freezes:
        wrong = (found.where for found in fleet.findings if found.severity == "error")
        place = next((where for where in wrong if where.startswith("fleet.yaml:")), "fleet.yaml")
        return f"{place} is not valid: what it freezes is not known"
    everywhere = Selector()
    return next((_told(each) for each in fleet.freezes if each.select == everywhere and _runs(each, now)), "")


def in_flight(states: Iterable[State]) -> dict[ClusterName, int]:
    """Pure: how many rollouts are in flight on each cluster."""
    found: dict[ClusterName, int] = {}
    for state in states:
        for wave, tally in zip(state.rollout.waves, state.tallies, strict=True):
            for cluster in transitions.those(state.members, wave, tally, _BUSY):
                found[cluster] = found.get(cluster, 0) + 1
    return found


def vanished(last_seen: Iterable[float], now: float, *, heartbeat_s: float) -> str:
    """Pure: have so many clusters fallen silent at a time that no rollout may go on? `last_seen` are Unix seconds; who
    was never seen does not count."""
    silent_s = _SILENT_HEARTBEATS * heartbeat_s
    lately = [at for at in last_seen if at and now - at <= VANISH_S + silent_s]
    gone = sum(now - at > silent_s for at in lately)
    if gone < VANISHED_LEAST or gone * 5 <= len(lately):
        return ""
    return f"{gone} of {len(lately)} clusters fell silent within {VANISH_S:.0f} s"


def _runs(freeze: Freeze, now: float) -> bool:
    return freeze.start_s <= now < freeze.end_s


def _told(freeze: Freeze) -> str:
    return f"frozen by {freeze.name}" + (f": {freeze.reason}" if freeze.reason else "")
