"""One call of `rollouts.decide`: a working copy of the state, what is known, and the effects so far.

It makes transitions by the tables and decides nothing. `rollouts` moves it forward, `rollback` back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hub.model import ClusterView, Effect, Member, MemberPhase, Notice, Phase, Rollout, State, Wave
from hub.rollout.transitions import MEMBER, PHASE, BrokenInvariant, IllegalEvent
from proto.ids import ClusterName


@dataclass(slots=True, kw_only=True)
class Turn:
    """`state` is what the turn began with; `phase` and what follows are what becomes of it. `view` holds every member
    that has not left."""

    state: State
    view: Mapping[ClusterName, ClusterView]
    now: float
    heartbeat_s: float
    settle_until: float
    phase: Phase
    wave: int
    wave_opened_at: float
    reason: str
    members: dict[ClusterName, Member]
    effects: list[Effect] = field(default_factory=list)
    has_room: bool = False
    """A report came that others may have waited for."""
    _waves: dict[ClusterName, Wave] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        state: State,
        *,
        view: Mapping[ClusterName, ClusterView],
        now: float,
        heartbeat_s: float = 0.0,
        settle_until: float = 0.0,
    ) -> "Turn":
        return cls(
            state=state,
            view=view,
            now=now,
            heartbeat_s=heartbeat_s,
            settle_until=settle_until,
            phase=state.phase,
            wave=state.wave,
            wave_opened_at=state.wave_opened_at,
            reason=state.reason,
            members=dict(state.members),
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
        made = replace(
            self.state,
            phase=self.phase,
            wave=self.wave,
            wave_opened_at=self.wave_opened_at,
            reason=self.reason,
            members=self.members,
        )
        return self.state if made == self.state else replace(made, updated_at=self.now)

    def put(self, cluster: ClusterName, phase: MemberPhase, **changes: Any) -> None:
        """Put one member into `phase`, which the table has to allow; staying in a phase is no transition."""
        member = self.members[cluster]
        if phase is not member.phase:
            if phase not in MEMBER[member.phase]:
                cause = f"{cluster} cannot go from {member.phase} to {phase}"
                raise BrokenInvariant(f"rollout {self.rollout.id}", cause)
            changes.setdefault("suspended", False)
        self.members[cluster] = replace(member, phase=phase, **changes)

    def enter(self, phase: Phase, reason: str) -> None:
        """Put the rollout into `phase`, which the table has to allow."""
        if phase not in PHASE[self.phase]:
            raise IllegalEvent(f"rollout {self.rollout.id}", f"is {self.phase} and cannot become {phase}")
        self.phase, self.reason = phase, reason

    def note(self, kind: str, text: str, *, cluster: str = "", wave: str = "") -> None:
        """Tell people; the text begins with what it is about."""
        bundle = self.rollout.bundles[0] if len(self.rollout.bundles) == 1 else ""
        self.effects.append(
            Notice(kind=kind, text=text, cluster=cluster, bundle=bundle, rollout=self.rollout.id, wave=wave)
        )

    def wave_of(self, cluster: ClusterName) -> Wave:
        if not self._waves:
            self._waves.update((name, wave) for wave in self.rollout.waves for name in wave.clusters)
        return self._waves[cluster]

    def suspended(self, cluster: ClusterName) -> str:
        """Who suspended a bundle of the rollout on the cluster, and why; "" when none is."""
        told = self.view[cluster].suspended
        return next((told[bundle] for bundle in self.rollout.targets[cluster].after if told.get(bundle)), "")

    def heard(self, cluster: ClusterName) -> bool:
        """Was the cluster seen lately enough to be given a move?"""
        last_seen = self.view[cluster].last_seen
        return last_seen > 0 and self.now - last_seen <= self.rollout.offline_after_s

    def silent(self, cluster: ClusterName) -> bool:
        """Was it silent for so long, while the hub was listening, that it is offline?"""
        since = max(self.view[cluster].last_seen, self.settle_until)
        return self.settled and self.now - since > self.rollout.offline_after_s
