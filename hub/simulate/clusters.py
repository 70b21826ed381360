"""The clusters of a simulation: what each runs, what the hub has heard of it, and who is silent.

A cluster takes its slice when it is heard, applies what is new in it, and says so when it is done. Who is silent goes
on with what it has, and says later how that went. Next: `world` asks the rules what to do about it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.state import ABSENT, ClusterView
from proto.ids import BundleName, ClusterName, Oid
from proto.messages import BundleReport, Health

Words = Mapping[BundleName, BundleReport]


@dataclass(slots=True, kw_only=True)
class Agent:
    """One cluster. `decided` is the seq of its slice at the hub, `seq` of the one it has; `due` is what it has not
    taken yet. `silent_since` is 0 while it is heard. `turns` counts the changes of each bundle, so that what was begun
    before the last one is not finished after it."""

    name: ClusterName
    decided: int = 1
    seq: int = 1
    due: dict[BundleName, Oid] = field(default_factory=dict)
    words: Words = field(default_factory=dict)
    told: Words = field(default_factory=dict)
    told_seq: int = 1
    silent_since: float = 0.0
    turns: dict[BundleName, int] = field(default_factory=dict)
    good: dict[BundleName, Oid] = field(default_factory=dict)
    """What was Current here last: who goes back to it does not fail."""

    def take(self) -> dict[BundleName, Oid]:
        """Take the slice; gives what is new in it, which is applied from now on."""
        taken, self.due = self.due, {}
        words = dict(self.words)
        for bundle, subtree in taken.items():
            self.turns[bundle] = self.turns.get(bundle, 0) + 1
            if subtree == ABSENT:
                words.pop(bundle, None)
            else:
                words[bundle] = BundleReport(subtree=subtree, health=Health.IN_PROGRESS, converged=False)
        self.words, self.seq = words, self.decided
        return taken

    def become(self, bundle: BundleName, health: Health) -> None:
        """From now on the bundle is like that."""
        subtree = Oid(self.words[bundle].subtree)
        self.words = {**self.words, bundle: BundleReport(subtree=subtree, health=health, converged=True)}
        if health is Health.CURRENT:
            self.good[bundle] = subtree

    def view(self) -> ClusterView:
        """What the hub knows of it. Who is heard was heard at whatever moment the hub asks for."""
        if not self.silent_since:
            self.told, self.told_seq = self.words, self.seq
        return ClusterView(
            next_seq=self.decided + 1,
            last_seen=self.silent_since or math.inf,
            seq=self.told_seq,
            bundles=self.told,
        )
