"""Pure: clusters that join while a bundle rolls out, or is on hold: they get what last completed, by a *bootstrap*, a
rollout of their own beside the ordinary one (rule 8 of the design).

A joiner of a bundle is a cluster that shall have it, has nothing of it, and is in no rollout of it that lives, while
the bundle's ordinary rollout has to wait.

| a joiner                                                        | then                                          |
|-----------------------------------------------------------------|-----------------------------------------------|
| nobody knows yet what last completed would be on it             | it is asked for (`Base`)                      |
| nothing completed yet, or that was not for such a cluster, or   | it waits for the ordinary rollout             |
| cannot be rendered                                              |                                               |
| a person keeps the bundle as it is, or goes back to a revision  | it waits                                      |
| that has not completed yet                                      |                                               |
| a dependency is not there nor on its way, or its rollout that   | it waits                                      |
| went before what completed is still under way                   |                                               |
| an object of it belongs to another bundle there, now or soon    | it waits                                      |
| else                                                            | a bootstrap                                   |

| a bootstrap             | is                                                                                    |
|-------------------------|---------------------------------------------------------------------------------------|
| its waves               | one, of those of the policy: its limits and windows hold, its gates and soaks do not  |
| a failure in it         | one cluster's: it goes on, and puts nothing on hold                                   |
| beside ordinary ones    | in nobody's way: those leave out who is in flight in it, and take who has not moved   |
| left by                 | who is not in flight when something newer completed, when the ordinary rollout may    |
|                         | have it, or when the fleet repo says something else of it; who shall not have it      |

Next: `waves`, which plans with these.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from hub.model import Fleet, RolloutPolicy
from hub.rollout.resolve import resolve
from hub.rollout.transitions import IN_FLIGHT, UNMOVED, some
from hub.state import ABSENT, FINAL, Base, Keep, MemberPhase, Rollout, State, Target, Wave
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.objects import ObjectKey

Subtrees = Mapping[BundleName, Mapping[ClusterName, Oid]]
Pair = tuple[BundleName, ClusterName]
M = MemberPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """`rollouts` are bootstraps without id and number; `asked`: bundle → of whom nobody knows what last completed would
    be there; `waiting`: bundle → cluster → why it waits; `stay`: who is in a bootstrap, has not moved, and may stay."""

    rollouts: tuple[Rollout, ...] = ()
    asked: Mapping[BundleName, tuple[ClusterName, ...]] = field(default_factory=dict)
    waiting: Mapping[BundleName, Mapping[ClusterName, str]] = field(default_factory=dict)
    stay: frozenset[Pair] = frozenset()

    @property
    def bundles(self) -> set[BundleName]:
        """Those of which it has to be known what last completed."""
        moving = {bundle for rollout in self.rollouts for bundle in rollout.bundles}
        return {*self.asked, *self.waiting, *(bundle for bundle, _ in self.stay), *moving}


def plan(
    *,
    fleet: Fleet,
    wants: Subtrees,
    held_up: Mapping[BundleName, str],
    kept: Mapping[BundleName, Keep],
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    before: Callable[[ClusterName, BundleName], Oid],
    active: Collection[State],
    made: Collection[Rollout],
    bases: Mapping[BundleName, Base],
    last: Mapping[BundleName, RolloutId],
    keys: Callable[[Oid], frozenset[ObjectKey]],
    policies: Mapping[BundleName, RolloutPolicy],
    now: float,
) -> Joining:
    """Pure: who is a joiner, and the bootstraps that may begin.

    `wants` is what the fleet repo wants, whatever people keep; `held_up`: why the ordinary rollout of a bundle does not
    begin; `kept`: where people keep bundles; `before`: what a cluster would go back to; `made`: the ordinary rollouts
    that begin now; `bases`: what is known of what last completed; `last`: the rollout of each bundle that did;
    `policies`: those of the bundles that are held up or kept.
    """
    reasons = {**{bundle: f"bundle {bundle} is on hold" for bundle in kept}, **held_up}
    if not (lacking := list(_lacking(wants, reasons, current))):
        return Joining()
    clusters = {cluster for _, cluster in lacking}
    engaged = _engaged(active, clusters)
    under_way = [*(state.rollout for state in active if state.phase not in FINAL), *made]
    begins = {(bundle, c) for new in made for c in clusters & new.targets.keys() for bundle in new.targets[c].after}
    asked: dict[BundleName, list[ClusterName]] = {}
    waiting: dict[BundleName, dict[ClusterName, str]] = {}
    ready: dict[Pair, Oid] = {}
    stay: set[Pair] = set()
    for bundle, cluster in lacking:
        pair, keep, base = (bundle, cluster), kept.get(bundle), bases.get(bundle)
        state = engaged.get(pair)
        if pair in begins or (state and not (state.rollout.base and state.members[cluster].phase in UNMOVED)):
            continue
        known = base is not None and base.rollout == last.get(bundle, "") and answers(base, cluster, fleet)
        if keep is not None and not keep.revision:
            waiting.setdefault(bundle, {})[cluster] = "a person keeps it as it is"
        elif bundle not in policies:
            waiting.setdefault(bundle, {})[cluster] = reasons[bundle]
        elif base is None or not known:
            asked.setdefault(bundle, []).append(cluster)
            if state and state.rollout.base == last.get(bundle, "") and (base is None or cluster not in base.clusters):
                stay.add(pair)
        elif keep is not None and keep.revision != base.revision:
            waiting.setdefault(bundle, {})[cluster] = f"it goes back to revision {keep.revision:.12} first"
        elif cluster in base.refused:
            waiting.setdefault(bundle, {})[cluster] = base.refused[cluster]
        elif other := _ahead(base, cluster, fleet.bundles[bundle].depends_on, under_way):
            waiting.setdefault(bundle, {})[cluster] = f"{other} goes first, with a bundle on which it depends"
        elif state is None:
            ready[pair] = base.subtrees[cluster]
        elif (state.rollout.base, state.rollout.targets[cluster].after[bundle]) == (
            base.rollout,
            base.subtrees[cluster],
        ):
            stay.add(pair)
    for (bundle, cluster), why in _clashing(ready, wants=wants, current=current, engaged=engaged, keys=keys):
        del ready[bundle, cluster]
        waiting.setdefault(bundle, {})[cluster] = why
    moving = {*engaged, *begins}
    for (bundle, cluster), why in _not_yet(ready, fleet=fleet, wants=wants, current=current, moving=moving):
        del ready[bundle, cluster]
        waiting.setdefault(bundle, {})[cluster] = why
    rollouts: list[Rollout] = []
    for bundle in sorted({bundle for bundle, _ in ready}):
        subtrees = {cluster: subtree for (of, cluster), subtree in ready.items() if of == bundle}
        targets = {c: Target(before={bundle: before(c, bundle)}, after={bundle: s}) for c, s in subtrees.items()}
        rollouts += _bootstraps(
            bundle, targets, policies[bundle], fleet=fleet, base=bases[bundle], why=reasons[bundle], now=now
        )
    return Joining(
        rollouts=tuple(rollouts),
        asked={bundle: tuple(clusters) for bundle, clusters in asked.items()},
        waiting=waiting,
        stay=frozenset(stay),
    )


def merged(before: Base | None, found: Base) -> Base:
    """Pure: what is known of what last completed, with what was found out now."""
    if before is None or (before.rollout, before.tenants) != (found.rollout, found.tenants):
        return found
    clusters = {**before.clusters, **found.clusters}
    old = {c: s for c, s in before.subtrees.items() if c not in found.clusters}
    refused = {c: why for c, why in before.refused.items() if c not in found.clusters}
    return replace(found, clusters=clusters, subtrees={**old, **found.subtrees}, refused={**refused, **found.refused})


def answers(base: Base, cluster: ClusterName, fleet: Fleet) -> bool:
    """Pure: does it say what the bundle is on the cluster, as the fleet repo describes that now?"""
    return base.clusters.get(cluster) == fleet.clusters[cluster] and base.tenants == fleet.tenants


def away(
    bundles: Iterable[BundleName],
    *,
    wants: Subtrees,
    active: Iterable[State],
    depends_on: Callable[[BundleName], Iterable[BundleName]],
) -> set[ClusterName]:
    """Pure: where a bootstrap is bringing one of the bundles at the moment, or one on which they depend, which is to
    stay there: an ordinary rollout of them begins without these clusters, or the one would move before the other."""
    needed, ahead = set[BundleName](), [*bundles]
    while ahead:
        if (bundle := ahead.pop()) not in needed:
            needed.add(bundle)
            ahead += depends_on(bundle)
    return {
        cluster
        for state in active
        if state.rollout.base and not needed.isdisjoint(state.rollout.bundles)
        for cluster, member in state.members.items()
        if member.phase in IN_FLIGHT and any(wants.get(b, {}).get(cluster, ABSENT) for b in state.rollout.bundles)
    }


def leaves(state: State, cluster: ClusterName, *, wants: Subtrees, stay: Collection[Pair], made: set[Pair]) -> bool:
    """Pure: does a cluster of the fleet leave a bootstrap of a bundle that the fleet repo can tell of? `made` are whom
    ordinary rollouts take now."""
    phase, (bundle,) = state.members[cluster].phase, state.rollout.bundles
    pair = bundle, cluster
    if wants.get(bundle, {}).get(cluster, ABSENT) == ABSENT:
        return True
    return (phase in UNMOVED and pair not in stay) or (phase is not M.PROVEN and pair in made)


def _lacking(
    wants: Subtrees, bundles: Iterable[BundleName], current: Mapping[ClusterName, Mapping[BundleName, Oid]]
) -> Iterator[Pair]:
    """Who shall have one of the bundles and has nothing of it."""
    for bundle in sorted(bundles):
        for cluster, subtree in wants.get(bundle, {}).items():
            if subtree != ABSENT and bundle not in current.get(cluster, {}):
                yield bundle, cluster


def _engaged(active: Iterable[State], clusters: AbstractSet[ClusterName]) -> dict[Pair, State]:
    """Which of `clusters` are in a rollout that lives. Who was skipped by a person is, until it is over."""
    found: dict[Pair, State] = {}
    for state in active:
        for cluster in clusters & state.members.keys():
            member = state.members[cluster]
            if member.phase is not M.LEFT or (member.skipped and state.phase not in FINAL):
                found.update(
                    dict.fromkeys(((bundle, cluster) for bundle in state.rollout.targets[cluster].after), state)
                )
    return found


def _ahead(base: Base, cluster: ClusterName, dependencies: Collection[BundleName], others: Iterable[Rollout]) -> str:
    """The rollout of a dependency that is still under way, and that went before the one whose work `base` is: what
    completed was never proven without it. Where it brings it to the cluster itself, that is waited for there."""
    for other in others:
        if not other.base and not {*dependencies}.isdisjoint(other.bundles):
            beside = cluster not in other.targets and base.revision in other.commits
            if other.number < base.number or beside:
                return other.id
    return ""


def _not_yet(
    ready: Mapping[Pair, Oid],
    *,
    fleet: Fleet,
    wants: Subtrees,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    moving: Collection[Pair],
) -> list[tuple[Pair, str]]:
    """Who waits for a dependency that is neither there nor on its way, and for who waits for one."""
    late: dict[Pair, str] = {}
    while True:
        more = {
            (bundle, cluster): f"bundle {other}, on which it depends, is not there yet"
            for bundle, cluster in ready.keys() - late.keys()
            for other in fleet.bundles[bundle].depends_on
            if wants.get(other, {}).get(cluster, ABSENT) != ABSENT and other not in current.get(cluster, {})
            if (other, cluster) not in moving and (other, cluster) not in ready.keys() - late.keys()
        }
        if not more:
            return sorted(late.items())
        late |= more


def _clashing(
    ready: Mapping[Pair, Oid],
    *,
    wants: Subtrees,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    engaged: Mapping[Pair, State],
    keys: Callable[[Oid], frozenset[ObjectKey]],
) -> list[tuple[Pair, str]]:
    """Whose objects would have another owner there, or come to have one: a slice has one for each."""
    owned: dict[ClusterName, dict[BundleName, set[ObjectKey]]] = {}
    for cluster in {cluster for _, cluster in ready}:
        every = [*current.get(cluster, {}).items()]
        every += [(bundle, there[cluster]) for bundle, there in wants.items() if there.get(cluster)]
        every += [(b, state.rollout.targets[c].after[b]) for (b, c), state in engaged.items() if c == cluster]
        for bundle, subtree in every:
            owned.setdefault(cluster, {}).setdefault(bundle, set()).update(keys(subtree) if subtree else ())
    found = []
    for (bundle, cluster), subtree in sorted(ready.items()):
        mine, others = keys(subtree), owned[cluster]
        if clash := [other for other, theirs in others.items() if other != bundle and mine & theirs]:
            found.append(((bundle, cluster), f"an object of it belongs to bundle {min(clash)} there"))
        else:
            others.setdefault(bundle, set()).update(mine)
    return found


def _bootstraps(
    bundle: BundleName,
    targets: Mapping[ClusterName, Target],
    policy: RolloutPolicy,
    *,
    fleet: Fleet,
    base: Base,
    why: str,
    now: float,
) -> Iterator[Rollout]:
    """One for each wave of the policy that has some of them: none waits for another."""
    for wave in resolve(policy, members=targets.keys(), clusters=fleet.clusters):
        if not wave.clusters:
            continue
        whom = f"bootstrap of {some(wave.clusters)}: bundle {bundle} as of revision {base.revision:.12}"
        yield Rollout(
            id=RolloutId(bundle),
            number=0,
            bundles=(bundle,),
            revision=base.revision,
            made_at=now,
            targets={cluster: targets[cluster] for cluster in wave.clusters},
            waves=(_alone(wave),),
            deadline_s=policy.failure.deadline_s,
            action="continue",
            offline_after_s=policy.offline_after_s,
            depends_on=tuple(sorted(fleet.bundles[bundle].depends_on)),
            windows=policy.windows,
            author="flotilla",
            subject=f"{whom}, since {why}",
            base=base.rollout,
        )


def _alone(wave: Wave) -> Wave:
    """A wave with its limits and windows, and without all that is proven elsewhere already."""
    size = len(wave.clusters)
    return replace(wave, soak_s=0.0, min_proof=0, offline_budget=size, failure_budget=size, gates=())
