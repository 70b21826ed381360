"""A rollout under test: its state, the clusters as the hub sees them, and a clock that stands until a test moves it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, TypeVar

from hub.rollout import rollouts
from hub.rollout.transitions import check
from hub.state import (
    ClusterView,
    Command,
    Effect,
    Event,
    Evidence,
    Member,
    MemberPhase,
    Move,
    Notice,
    Phase,
    Reported,
    Rollout,
    Target,
    Tick,
    Verb,
    WakeAt,
    Wave,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Health

SHOP = BundleName("shop")
OLD, NEW = Oid("a" * 40), Oid("b" * 40)
HEARTBEAT_S = 10.0
E = TypeVar("E", bound=Effect)


def wave(name: str, *clusters: str, **changes: Any) -> Wave:
    plain = Wave(
        name=name,
        clusters=tuple(ClusterName(c) for c in clusters),
        max_concurrent=max(1, len(clusters)),
        soak_s=0.0,
        min_proof=-(-len(clusters) // 2),
        offline_budget=0,
        failure_budget=0,
    )
    return replace(plain, **changes)


def rollout(*waves: Wave, before: Oid = OLD, after: Oid = NEW, **changes: Any) -> Rollout:
    target = Target(before={SHOP: before}, after={SHOP: after})
    plain = Rollout(
        id=RolloutId("shop-1"),
        number=1,
        bundles=(SHOP,),
        revision=Oid("c" * 40),
        made_at=1000.0,
        targets={cluster: target for each in waves for cluster in each.clusters},
        waves=waves,
        deadline_s=600.0,
        action="rollback",
        offline_after_s=60.0,
    )
    return replace(plain, **changes)


def word(subtree: Oid, health: Health = Health.CURRENT, *, converged: bool = True) -> BundleReport:
    return BundleReport(subtree=subtree, health=health, converged=converged)


class Hub:
    """A state under test, with the clusters as the hub sees them. Its clock stands until a test moves it."""

    def __init__(self, made: Rollout, *, runs: Oid = OLD, health: Health = Health.CURRENT) -> None:
        self.now = 1000.0
        self.settle_until = 0.0
        self.frozen = ""
        self.held: dict[str, str] = {}
        self.busy: set[str] = set()
        self.state = rollouts.start(made, self.now)
        self.effects: list[Effect] = []
        self.wakes: list[float] = []
        bundles = {SHOP: word(runs, health)} if runs else {}
        self.view = {c: ClusterView(next_seq=8, last_seen=self.now, seq=7, bundles=bundles) for c in made.targets}

    def tell(self, *events: Event, after_s: float = 0.0) -> list[Effect]:
        self.now += after_s
        self.state, made = rollouts.decide(
            self.state,
            events,
            self.view,
            self.now,
            heartbeat_s=HEARTBEAT_S,
            settle_until=self.settle_until,
            frozen=self.frozen,
            held=lambda cluster: self.held.get(cluster, ""),
            busy=self.busy.__contains__,
        )
        self.wakes += [effect.at for effect in made if isinstance(effect, WakeAt)]
        made = tuple(effect for effect in made if not isinstance(effect, WakeAt))
        check(self.state, self.view)
        for effect in made:
            if isinstance(effect, Move):
                view = self.view[effect.cluster]
                self.view[effect.cluster] = replace(view, next_seq=view.next_seq + 1)
        self.effects += made
        return list(made)

    def tick(self, *, after_s: float = 0.0, seen: bool = True) -> list[Effect]:
        """Time passes; with `seen` every cluster sends a heartbeat that the engine is not told of."""
        self.now += after_s
        if seen:
            self.see(*self.view)
        return self.tell(Tick())

    def set_clock(self, by_s: float) -> None:
        """As the loop does it: nobody was seen later than now, and agents get time to be heard."""
        self.now += by_s
        self.settle_until = self.now + 2 * HEARTBEAT_S
        for cluster, seen in self.view.items():
            self.view[cluster] = replace(seen, last_seen=min(seen.last_seen, self.now))
        self.tell(Tick())

    def see(self, *clusters: str) -> None:
        for name in clusters:
            cluster = ClusterName(name)
            self.view[cluster] = replace(self.view[cluster], last_seen=self.now)

    def report(
        self,
        name: str,
        subtree: Oid = NEW,
        health: Health = Health.CURRENT,
        *,
        seq: int | None = None,
        converged: bool = True,
        after_s: float = 0.0,
    ) -> list[Effect]:
        """A report of one cluster, of its newest move unless `seq` says otherwise."""
        self.now += after_s
        cluster = ClusterName(name)
        self.say(cluster, word(subtree, health, converged=converged) if subtree else None, seq=seq)
        return self.tell(Reported(cluster=cluster))

    def together(self, **said: BundleReport) -> list[Effect]:
        """Reports of several clusters, each of its newest move, that arrive in one breath."""
        for name, words in said.items():
            self.say(ClusterName(name), words)
        return self.tell(*(Reported(cluster=ClusterName(name)) for name in said))

    def say(self, cluster: ClusterName, said: BundleReport | None, *, seq: int | None = None) -> None:
        view = self.view[cluster]
        self.view[cluster] = replace(
            view,
            last_seen=self.now,
            seq=view.next_seq - 1 if seq is None else seq,
            bundles={SHOP: said} if said else {},
        )

    def suspend(self, name: str, why: str = "ann: a migration runs") -> None:
        """From the next event on the bundle is suspended on the cluster; "" resumes it."""
        cluster = ClusterName(name)
        self.view[cluster] = replace(self.view[cluster], suspended={SHOP: why} if why else {})

    def say_to(self, verb: Verb, *, actor: str = "ann", reason: str = "it is right", **more: str) -> list[Effect]:
        """A person's command."""
        return self.tell(Command(verb=verb, actor=actor, reason=reason, **more))

    def find(
        self, gate: str, verdict: Literal["good", "bad", "error"] = "good", *, after_s: float = 0.0
    ) -> list[Effect]:
        """A gate's check was asked just now; meanwhile every cluster sent heartbeats."""
        self.now += after_s
        self.see(*self.view)
        return self.tell(Evidence(gate=gate, verdict=verdict, text=f"it is {verdict}", asked_at=self.now))

    def phase(self, cluster: str) -> MemberPhase:
        return self.state.members[ClusterName(cluster)].phase

    def whole(self) -> Phase:
        """The phase of the rollout."""
        return self.state.phase

    def member(self, cluster: str) -> Member:
        return self.state.members[ClusterName(cluster)]


def moves(effects: Iterable[Effect]) -> list[str]:
    return [effect.cluster for effect in effects if isinstance(effect, Move)]


def of(kind: type[E], effects: Iterable[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def kinds(effects: Iterable[Effect]) -> list[str]:
    return [notice.kind for notice in of(Notice, effects)]
