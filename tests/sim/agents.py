"""The clusters of the simulated fleet: what each runs, how it does, and what it tells the hub, sooner or later.

An agent knows no time but its own, which is wrong by `skew_s`; it puts that into every report. Next: `hub` hears them.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from proto.ids import BundleName, ClusterName, Oid
from proto.messages import BundleReport, Health

Composition = Mapping[BundleName, Oid]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    seq: int = 0
    bundles: Composition = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One report on its way; `number` orders those of one agent."""

    cluster: ClusterName
    number: int
    seq: int
    words: Mapping[BundleName, BundleReport]
    arrives_at: float


@dataclass(slots=True, kw_only=True)
class Agent:
    """One cluster. `away_until` cuts both directions, `mute_until` what it says, `deaf_until` what it should hear."""

    name: ClusterName
    skew_s: float = 0.0
    runs: dict[BundleName, Oid] = field(default_factory=dict)
    seq: int = 0
    taken_at: float = 0.0
    slow_s: float = 0.0
    away_until: float = 0.0
    mute_until: float = 0.0
    deaf_until: float = 0.0
    flaps_until: float = 0.0
    suspended_until: dict[BundleName, float] = field(default_factory=dict)
    """In the cluster itself: its reports say so."""
    was_current: set[tuple[BundleName, Oid]] = field(default_factory=set)
    reports: int = 0

    def calm(self) -> None:
        """All that went wrong is over."""
        self.away_until = self.mute_until = self.deaf_until = self.flaps_until = self.slow_s = 0.0
        self.suspended_until = {}

    def suspended(self, now: float) -> dict[BundleName, str]:
        return {bundle: "ann" for bundle, until in self.suspended_until.items() if now < until}

    def take(self, due: Slice, now: float, told: Mapping[BundleName, str]) -> bool:
        """Take up the slice, but for bundles that are suspended, here or as the hub `told`; True when that changed
        something."""
        kept = self.suspended(now).keys() | told.keys()
        runs = {bundle: subtree for bundle, subtree in self.runs.items() if bundle in kept}
        runs |= {bundle: subtree for bundle, subtree in due.bundles.items() if bundle not in kept}
        if due.seq <= self.seq and runs == self.runs:
            return False
        self.seq, self.runs, self.taken_at = due.seq, runs, now
        return True

    def words(self, kinds: Mapping[Oid, str], now: float, pick: random.Random) -> dict[BundleName, BundleReport]:
        """What it says of its bundles. `kinds`: how each subtree behaves."""
        found, suspended = {}, self.suspended(now)
        for bundle, subtree in self.runs.items():
            health = self._health(kinds[subtree], now, pick)
            if health is Health.CURRENT:
                self.was_current.add((bundle, subtree))
            found[bundle] = BundleReport(
                subtree=subtree,
                health=health,
                converged=health is Health.CURRENT,
                since=str(now + self.skew_s),
                suspended=suspended.get(bundle, ""),
            )
        return found

    def _health(self, kind: str, now: float, pick: random.Random) -> Health:
        if now - self.taken_at < self.slow_s or kind in ("hangs", "cuts"):
            return Health.IN_PROGRESS
        if kind == "failed":
            return Health.FAILED
        if now < self.flaps_until and pick.random() < 0.5:
            return Health.IN_PROGRESS
        return Health.CURRENT
