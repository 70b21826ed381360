"""One call of `rollouts.decide`: a working copy of the state, what is known, and the effects so far.

It makes transitions by the tables and decides nothing. Nothing is copied before it changes, and each wave is counted as
it changes, so that an event costs what it touches and not the size of the fleet. `forward` moves it forward, `rollback`
back.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hub.rollout.transitions import IN_FLIGHT, MEMBER, PHASE, BrokenInvariant, IllegalEvent, excused
from hub.state import (
    ClusterView,
    Effect,
    GateState,
    Member,
    MemberPhase,
    Notice,
    Phase,
    Rollout,
    Roster,
    State,
    Tally,
    Wave,
)
from proto.ids import ClusterName

HEARTBEATS_APART = 2
"""One report may be lost before a soak counts as interrupted, or a cluster as offline."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """`state` is what the turn began with; `phase` and what follows are what becomes of it. `view` holds every member
    that has not left; `frozen` is why no move may start anywhere now, `held` why none may on one cluster, or "", `busy`
    whether a cluster is in flight in any rollout; `everybody` gives all members, and perhaps others, at a glance."""

    state: State
    view: Mapping[ClusterName, ClusterView]
    now: float
    heartbeat_s: float
    settle_until: float
    frozen: str
    held: Callable[[ClusterName], str]
    busy: Callable[[ClusterName], bool]
    everybody: Callable[[], Roster] | None
    phase: Phase
    wave: int
    wave_opened_at: float
    emergency: str
    reason: str
    paused_by: str
    members: Mapping[ClusterName, Member]
    tallies: list[Tally]
    gates: Mapping[str, GateState]
    changed: dict[ClusterName, Member] = field(default_factory=dict)
    """Who was changed, and what it was before."""
    made: dict[tuple[object, ...], Member] = field(default_factory=dict)
    """What `put` made of a member, by its identity: clusters alike share one value, before and after."""
    wake_at: float = math.inf
    has_room: bool = False
    """A report came that others may have waited for, or somebody left."""
    effects: list[Effect] = field(default_factory=list)
    known: Roster | None = None
    """`roster`, once somebody asked."""

    @classmethod
    def of(
        cls,
        state: State,
        *,
        view: Mapping[ClusterName, ClusterView],
        now: float,
        heartbeat_s: float = 0.0,
        settle_until: float = 0.0,
        frozen: str = "",
        held: Callable[[ClusterName], str] = lambda cluster: "",
        busy: Callable[[ClusterName], bool] = lambda cluster: False,
        everybody: Callable[[], Roster] | None = None,
    ) -> "Turn":
        return cls(
            state=state,
            view=view,
            now=now,
            heartbeat_s=heartbeat_s,
            settle_until=settle_until,
            frozen=frozen,
            held=held,
            busy=busy,
            everybody=everybody,
            phase=state.phase,
            wave=state.wave,
            wave_opened_at=state.wave_opened_at,
            emergency=state.emergency,
            reason=state.reason,
            paused_by=state.paused_by,
            members=state.members,
            tallies=list(state.tallies),
            gates=state.gates,
        )

    @property
    def rollout(self) -> Rollout:
        return self.state.rollout

    @property
    def settled(self) -> bool:
        """Did agents have the time to be heard since the hub started?"""
        return self.now >= self.settle_until

    def result(self) -> State:
        """The new state, or the old one itself when nothing changed."""
        old = self.state
        changed = (
            self.changed
            or self.phase is not old.phase
            or self.wave != old.wave
            or self.wave_opened_at != old.wave_opened_at
            or self.emergency != old.emergency
            or self.reason != old.reason
            or self.paused_by != old.paused_by
            or self.gates is not old.gates
        )
        if not changed:
            return old
        return replace(
            old,
            phase=self.phase,
            wave=self.wave,
            wave_opened_at=self.wave_opened_at,
            emergency=self.emergency,
            reason=self.reason,
            paused_by=self.paused_by,
            members=self.members,
            tallies=tuple(self.tallies),
            gates=self.gates,
            updated_at=self.now,
        )

    def put(self, cluster: ClusterName, phase: MemberPhase, **changes: Any) -> None:
        """Put one member into `phase`, which the table has to allow; staying in a phase is no transition."""
        member = self.members[cluster]
        if phase is not member.phase:
            if phase not in MEMBER[member.phase]:
                cause = f"{cluster} cannot go from {member.phase} to {phase}"
                raise BrokenInvariant(f"rollout {self.rollout.id}", cause)
            changes.setdefault("suspended", False)
        key = (id(member), phase, *changes.items())
        if (made := self.made.get(key)) is None:
            made = replace(member, phase=phase, **changes)
            made = self.made[key] = member if made == member else made
        if made is member:
            return
        if not self.changed:
            self.members = dict(self.members)
        assert isinstance(self.members, dict)
        self.changed.setdefault(cluster, member)
        self.members[cluster] = made
        self.tallies[member.wave] = counted(self.tallies[member.wave], member, made)

    def start_at(self, wave: int, first: int) -> None:
        """Nobody before this place of the wave is pending."""
        self.tallies[wave] = replace(self.tallies[wave], first=first)

    def put_gate(self, key: str, state: GateState | None) -> None:
        """What a gate came to; None forgets it."""
        if state is None:
            self.gates = {other: found for other, found in self.gates.items() if other != key}
        elif self.gates.get(key) != state:
            self.gates = {**self.gates, key: state}

    def wake(self, at: float) -> None:
        """Time alone may change something at `at`."""
        self.wake_at = min(self.wake_at, at)

    def wake_past(self, limit: float) -> None:
        """Time alone may change something once `limit` is passed, not yet when it is reached."""
        self.wake(limit + 0.001)

    def enter(self, phase: Phase, reason: str) -> None:
        """Put the rollout into `phase`, which the table has to allow."""
        if phase not in PHASE[self.phase]:
            raise IllegalEvent(f"rollout {self.rollout.id}", f"is {self.phase} and cannot become {phase}")
        self.phase, self.reason, self.paused_by = phase, reason, ""

    def note(self, kind: str, text: str, *, cluster: str = "", wave: str = "") -> None:
        """Tell people; the text begins with what it is about."""
        bundle = self.rollout.bundles[0] if len(self.rollout.bundles) == 1 else ""
        self.effects.append(
            Notice(kind=kind, text=text, cluster=cluster, bundle=bundle, rollout=self.rollout.id, wave=wave)
        )

    def wave_of(self, cluster: ClusterName) -> Wave:
        return self.rollout.waves[self.members[cluster].wave]

    def count(self, wave: int, *phases: MemberPhase) -> int:
        """How many members of the wave are in one of `phases`."""
        found = self.tallies[wave].phases
        return sum(found.get(phase, 0) for phase in phases)

    def count_all(self, *phases: MemberPhase) -> int:
        return sum(self.count(index, *phases) for index in range(len(self.tallies)))

    @property
    def roster(self) -> Roster:
        """All members that have not left at a glance, and perhaps others."""
        if self.known is None:
            there = (cluster for cluster, member in self.members.items() if member.phase is not MemberPhase.LEFT)
            self.known = self.everybody() if self.everybody else roster({name: self.view[name] for name in there})
        return self.known

    def suspended(self, cluster: ClusterName) -> str:
        """Who suspended a bundle of the rollout on the cluster, and why; "" when none is."""
        told = self.view[cluster].suspended
        if not told:
            return ""
        return next((told[bundle] for bundle in self.rollout.targets[cluster].after if told.get(bundle)), "")

    @property
    def offline_after_s(self) -> float:
        """A policy may ask for less than what clusters need to be heard again. Where no heartbeats are told (infinitely
        far apart, in `flotilla simulate`), it cannot."""
        least_s = HEARTBEATS_APART * self.heartbeat_s if self.heartbeat_s < math.inf else 0.0
        return max(self.rollout.offline_after_s, least_s)

    def heard(self, cluster: ClusterName) -> bool:
        """Was the cluster seen lately enough to be given a move?"""
        last_seen = self.view[cluster].last_seen
        return last_seen > 0 and self.now - last_seen <= self.offline_after_s

    def silent(self, cluster: ClusterName) -> bool:
        """Was it silent for so long, while the hub was listening, that it is offline?"""
        return self.settled and self.now - self.silent_since(cluster) > self.offline_after_s

    def silent_since(self, cluster: ClusterName) -> float:
        return max(self.view[cluster].last_seen, self.settle_until)


def roster(views: Mapping[ClusterName, ClusterView]) -> Roster:
    """Pure: all of `views` at a glance."""
    return Roster(
        seen=tuple(sorted((seen.last_seen, cluster) for cluster, seen in views.items())),
        cordoned=tuple(sorted(cluster for cluster, seen in views.items() if seen.cordoned)),
        suspended=tuple(sorted(cluster for cluster, seen in views.items() if any(seen.suspended.values()))),
    )


@cache
def waiting(wave: int) -> Member:
    """Pure: a member of whom nothing is known yet; all clusters of a wave share it."""
    return Member(wave=wave)


def everybody_waiting(rollout: Rollout) -> dict[ClusterName, Member]:
    """Pure: the members of a rollout that has not begun."""
    return {cluster: waiting(index) for index, wave in enumerate(rollout.waves) for cluster in wave.clusters}


def tallies(rollout: Rollout, members: Mapping[ClusterName, Member]) -> tuple[Tally, ...]:
    """Pure: every wave counted from its members."""
    found = []
    for wave in rollout.waves:
        those = [members[cluster] for cluster in wave.clusters]
        found.append(
            Tally(
                phases=dict(Counter(member.phase for member in those)),
                excused=sum(_is_excused(member) for member in those),
                beyond=sum(_is_beyond(member) for member in those),
                suspended=sum(member.suspended for member in those),
            )
        )
    return tuple(found)


def counted(tally: Tally, before: Member, after: Member) -> Tally:
    """Pure: the tally of a wave after one of its members changed."""
    phases = dict(tally.phases)
    phases[after.phase] = phases.get(after.phase, 0) + 1
    phases[before.phase] -= 1
    if not phases[before.phase]:
        del phases[before.phase]
    return Tally(
        phases=phases,
        excused=tally.excused + _is_excused(after) - _is_excused(before),
        beyond=tally.beyond + _is_beyond(after) - _is_beyond(before),
        suspended=tally.suspended + after.suspended - before.suspended,
        first=0 if after.phase is MemberPhase.PENDING and before.phase is not MemberPhase.PENDING else tally.first,
    )


def _is_excused(member: Member) -> bool:
    return member.phase is MemberPhase.FAILED and excused(member)


def _is_beyond(member: Member) -> bool:
    return member.beyond and member.phase in IN_FLIGHT
