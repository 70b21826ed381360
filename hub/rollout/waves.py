"""Which rollouts a new revision starts, and in which waves.

`plan_rollouts` compares what the fleet repo wants with what was decided so far. It is called for each new revision,
when a hold is released, and when `rollouts.frees` says that a rollout stands in the way no more; with nothing to do it
returns nothing, so that calling it once more is harmless. Next: `rollouts` (moves them).

| a bundle is to change, and                       | then                                                        |
|--------------------------------------------------|-------------------------------------------------------------|
| did not render, or is broken, or has no policy   | it keeps what it runs                                       |
| is gone, and renamed to one of those             | it keeps what it runs                                       |
| an unended rollout goes there already            | nothing                                                     |
| is on hold, wanted as it failed                  | it waits; or goes where a person keeps it (`keeping`)       |
| is on hold, wanted differently                   | the hold is released, and that of its old name              |
| is rolling back, paused, or moving under `queue` | it waits; the newest revision is planned when that is over  |
| is moving under `replace`, nobody soaks, and no  | the older rollout is replaced                               |
| move in flight is still wanted                   |                                                             |
| is sick, and a fix may jump the queue, and no    | the older rollout is replaced                               |
| move in flight is still wanted                   |                                                             |
| has moved nobody yet, for a gate or a window     | the older rollout is replaced                               |
| its rollout can only wait (`rollouts.stalled`)   | the older rollout is replaced, under `queue` too            |
| its rollout waits since its start for an empty   | the older rollout is replaced, if only its waves differ too |
| wave                                             |                                                             |
| another of its group waits, or a bundle that it  | it waits                                                    |
| depends on, for an older rollout                 |                                                             |
| else                                             | a rollout                                                   |

Clusters that join while their bundle waits get what last completed of it, by a bootstrap (`joiners`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from hub.model import DEFAULT_POLICY, Approval, Fleet, Gate, RolloutPolicy
from hub.rollout import changing, exchange, joiners, keeping, queue, rollouts
from hub.rollout.joiners import Joining
from hub.rollout.resolve import resolve, share
from hub.state import ABSENT, FINAL, Base, Keep, MemberPhase, Notice, Phase, Rollout, State, Target, Wave
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.objects import ObjectKey

P, M = Phase, MemberPhase
Subtrees = Mapping[BundleName, Mapping[ClusterName, Oid]]

REMOVAL_LEAST = 5
"""In a smaller fleet every removal would be a large share, and need a word."""
REMOVAL_GATE = "removal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What to do, all in one transaction, in this order.

    `left`: members that no longer belong to an older rollout, each for `rollouts.decide` as `Left`. `replaced`: older →
    newer rollout, for `rollouts.supersede`, which takes their part of `left`. `rollouts`: for `rollouts.start`.
    `released`: bundles whose hold is over. `waiting`: bundle → why it does not start now, for people; nothing has to be
    kept of it. `joining`: the same of clusters that joined, and of whom it has to be found out what last completed
    would be there.
    """

    rollouts: tuple[Rollout, ...]
    replaced: Mapping[RolloutId, RolloutId]
    left: tuple[tuple[RolloutId, ClusterName], ...]
    released: frozenset[BundleName]
    waiting: Mapping[BundleName, str]
    notices: tuple[Notice, ...]
    joining: Joining = field(default_factory=Joining)


def plan_rollouts(
    *,
    fleet: Fleet,
    desired: Subtrees,
    failed: Collection[BundleName],
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    last_good: Mapping[tuple[ClusterName, BundleName], Oid],
    completed: Subtrees,
    holds: Subtrees,
    keeps: Mapping[BundleName, Keep] = MappingProxyType({}),
    given_up: Mapping[BundleName, Collection[Oid]] = MappingProxyType({}),
    active: Collection[State],
    bases: Mapping[BundleName, Base] = MappingProxyType({}),
    last: Mapping[BundleName, RolloutId] = MappingProxyType({}),
    keys: Callable[[Oid], frozenset[ObjectKey]],
    remembered: Mapping[BundleName, RolloutPolicy],
    revision: Oid,
    author: str = "",
    subject: str = "",
    number: int,
    now: float,
) -> Planned:
    """Pure: the rollouts to start for `revision`, in order of their bundles' names.

    `desired`: bundle → cluster → subtree as rendered; a bundle that no cluster should run has an empty map, and one
    that the fleet has but `desired` has not is treated like those in `failed`. `current`: each cluster's decided
    composition (its slice). `last_good`, then `completed`: where a rollback goes to. `holds`: for each bundle on hold
    the subtrees that must not be tried again (as `refused` gave them; none: nothing but a person releases it), and
    `keeps`, for some of them, what they are to be meanwhile; `given_up`: the commits that each was taken back from,
    which its next rollout stands for. `active`: every state that is `rollouts.alive`. `bases`: what is known of what
    last completed, `last`: the rollout of each bundle that did.
    `keys`: the objects of a subtree. `remembered`: the policy that each bundle was last planned with, for bundles that
    are gone from the fleet; without one they are removed under the default policy. `number`: of the first new rollout.
    """
    frozen = {*failed, *fleet.broken_bundles, *(fleet.bundles.keys() - desired.keys())}
    if fleet.lost_bundles:
        missing = {b for running in current.values() for b in running} | {b for s in active for b in s.rollout.bundles}
        frozen |= missing - desired.keys()
    frozen |= {old for old, new in fleet.renamed.items() if new in frozen}
    wants = changing.wants(fleet, desired, current, frozen)
    sure = {bundle: failed_as for bundle, failed_as in holds.items() if bundle not in frozen}
    released = {bundle for bundle, failed_as in sure.items() if changing.differs(failed_as, wants.get(bundle, {}))}
    released |= {old for old, new in fleet.renamed.items() if old in holds and new in released}
    kept = {bundle: keep for bundle, keep in keeps.items() if bundle not in released}
    stated = wants
    wants = {**wants, **keeping.wants(kept, current, changing.takes_part(fleet))}
    unread, frozen = frozen, frozen - kept.keys()
    ordinary = [state for state in active if not state.rollout.base]
    changes = changing.changes(wants, current)
    moving, catching_up = changing.under_way(wants, ordinary)
    found: list[tuple[Rollout, list[State]]] = []
    waiting: dict[BundleName, str] = {}
    late: set[BundleName] = set()
    grouped = exchange.groups(
        changes, current=current, keys=keys, renamed=fleet.renamed, depends_on=partial(_dependencies, fleet)
    )
    for group in grouped:
        alone = len(group.bundles) == 1
        away = joiners.away(group.bundles, wants=wants, active=active, depends_on=partial(_dependencies, fleet))
        todo = {
            bundle: {
                c: s for c, s in changes[bundle].items() if c not in away and not (alone and (bundle, c) in catching_up)
            }
            for bundle in group.bundles
        }
        older = [s for s in ordinary if s.phase not in FINAL and not set(group.bundles).isdisjoint(s.rollout.bundles)]
        news = any((bundle, c) not in moving for bundle in todo for c in todo[bundle])
        if away and not any(todo.values()):
            waiting |= dict.fromkeys(group.bundles, "bootstraps are under way where it changes")
        if not any(todo.values()) or not (news or any(queue.held_empty(state) for state in older)):
            continue
        policy = keeping.policy(_policy(fleet, group, remembered), group.bundles, kept)
        if policy is None:
            waiting |= dict.fromkeys(group.bundles, "its rollout policy does not exist or is not valid")
            continue
        back = keeping.revision(group.bundles, kept)
        rollout = replace(
            _rollout(fleet, todo, policy, current=current, last_good=last_good, completed=completed),
            id=RolloutId(min(group.gainers or group.bundles)),
            revision=back or revision,
            stands_for=queue.stands_for(
                group.bundles, older, ordinary, given_up={oid for b in group.bundles for oid in given_up.get(b, ())}
            ),
            author="" if back else author,
            subject="" if back else subject,
            made_at=now,
            elsewhere={b: {c: s for c, s in wants[b].items() if s and c not in todo[b]} for b in group.bundles},
        )
        if not news and any(queue.same(state.rollout, rollout) for state in older):
            continue
        reasons = [why for state in older if (why := queue.waits_for(state, wants))]
        late |= set(group.bundles) if reasons else set()
        stay = [f"bundle {b} is on hold" for b in group.bundles if b in holds.keys() - released - kept.keys()]
        stay += [f"bundle {b} is on hold, and has objects of it" for b in keeping.robbed(todo, kept, wants, keys)]
        reasons = stay + reasons
        if reasons:
            waiting |= dict.fromkeys(group.bundles, "; ".join(reasons))
        else:
            found.append((rollout, older))
    waiting |= queue.behind([rollout for rollout, _ in found], late)
    made: list[Rollout] = []
    replaced: dict[RolloutId, RolloutId] = {}
    for rollout, older in found:
        if waiting.keys().isdisjoint(rollout.bundles):
            made.append(_numbered(rollout, number + len(made)))
            replaced |= {state.rollout.id: made[-1].id for state in older}
    left = list(changing.leavers(fleet, wants, ordinary, made, frozen, replaced=replaced.keys()))
    joining = joiners.plan(
        fleet=fleet,
        wants=stated,
        held_up=waiting,
        kept=kept,
        current=current,
        before=partial(_before, last_good, completed),
        active=[state for state in active if state.rollout.id not in replaced],
        made=made,
        bases=bases,
        last=last,
        keys=keys,
        policies={b: policy for b in fleet.bundles if (policy := policy_of(fleet, b)) is not None},
        now=now,
    )
    left += changing.leaving_joiners(fleet, stated, [s for s in active if s.rollout.base], made, unread, joining)
    made += [_numbered(rollout, number) for number, rollout in enumerate(joining.rollouts, number + len(made))]
    return Planned(
        rollouts=tuple(made),
        replaced=replaced,
        left=tuple(left),
        released=frozenset(released - waiting.keys()),
        waiting=waiting,
        notices=tuple(
            Notice(kind="paused", text=f"rollout {r.id} is paused: {reason}", rollout=r.id)
            for r in made
            if (reason := rollouts.empty_wave_reason(r))
        )
        + tuple(Notice(kind="bootstrap", text=r.subject, bundle=r.bundles[0], rollout=r.id) for r in made if r.base),
        joining=joining,
    )


def _numbered(rollout: Rollout, number: int) -> Rollout:
    return replace(rollout, id=RolloutId(f"{rollout.id}-{number}"), number=number)


def refused(rollout: Rollout) -> dict[BundleName, dict[ClusterName, Oid]]:
    """Pure: what its bundles must not be tried as again when they are put on hold: all that was wanted of them."""
    return {
        bundle: {
            **rollout.elsewhere.get(bundle, {}),
            **{cluster: target.after[bundle] for cluster, target in rollout.targets.items() if bundle in target.after},
        }
        for bundle in rollout.bundles
    }


def policy_of(fleet: Fleet, bundle: BundleName) -> RolloutPolicy | None:
    """Pure: the rollout policy of a bundle of the fleet; None when it names one that is not there."""
    name = fleet.bundles[bundle].rollout
    return fleet.policies.get(name) if name else DEFAULT_POLICY


# --- one rollout --------------------------------------------------------------------------------------------------


def _policy(
    fleet: Fleet, group: exchange.Group, remembered: Mapping[BundleName, RolloutPolicy]
) -> RolloutPolicy | None:
    """The policy of a group: of those of the bundles that take objects over, the one with most waves."""
    found = []
    for bundle in sorted(group.gainers or group.bundles):
        policy = policy_of(fleet, bundle) if bundle in fleet.bundles else remembered.get(bundle, DEFAULT_POLICY)
        if policy is None:
            return None
        found.append(policy)
    return max(found, key=lambda policy: len(policy.waves))


def _dependencies(fleet: Fleet, bundle: BundleName) -> tuple[BundleName, ...]:
    return fleet.bundles[bundle].depends_on if bundle in fleet.bundles else ()


def _rollout(
    fleet: Fleet,
    todo: Subtrees,
    policy: RolloutPolicy,
    *,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    last_good: Mapping[tuple[ClusterName, BundleName], Oid],
    completed: Subtrees,
) -> Rollout:
    """The record, still without name, number and revision."""
    after: dict[ClusterName, dict[BundleName, Oid]] = {}
    for bundle in sorted(todo):
        for cluster, subtree in todo[bundle].items():
            after.setdefault(cluster, {})[bundle] = subtree
    targets: dict[ClusterName, Target] = {}
    alike: dict[tuple[tuple[BundleName, Oid], ...], Target] = {}
    for cluster in sorted(after):
        bundles = after[cluster]
        before = {b: _before(last_good, completed, cluster, b) for b in bundles}
        change = (*before.items(), *bundles.items())
        if change not in alike:
            alike[change] = Target(before=before, after=bundles)
        targets[cluster] = alike[change]
    # A bundle that runs elsewhere and only comes to new clusters: one of them must not put it on hold everywhere.
    joining = all(not current.get(cluster) for cluster in after) and all(
        any(completed.get(bundle, {}).values()) for bundle in todo
    )
    resolved = resolve(policy, members=after.keys(), clusters=changing.takes_part(fleet))
    depends_on = {other for bundle in todo for other in _dependencies(fleet, bundle)}
    return Rollout(
        id=RolloutId(""),
        number=0,
        bundles=tuple(sorted(todo)),
        revision=Oid(""),
        made_at=0.0,
        targets=targets,
        waves=_with_word(resolved, after, policy, fleet),
        deadline_s=policy.failure.deadline_s,
        action="continue" if joining else policy.failure.action,
        offline_after_s=policy.offline_after_s,
        depends_on=tuple(sorted(depends_on - todo.keys())),
        supersede=policy.supersede,
        failure_total=None if policy.failure.total is None else share(policy.failure.total, len(after)),
        fixes=policy.fixes,
        windows=policy.windows,
    )


def _before(
    last_good: Mapping[tuple[ClusterName, BundleName], Oid],
    completed: Subtrees,
    cluster: ClusterName,
    bundle: BundleName,
) -> Oid:
    """Where a rollback goes to."""
    return last_good.get((cluster, bundle), completed.get(bundle, {}).get(cluster, ABSENT))


def _with_word(
    waves: tuple[Wave, ...],
    after: Mapping[ClusterName, Mapping[BundleName, Oid]],
    policy: RolloutPolicy,
    fleet: Fleet,
) -> tuple[Wave, ...]:
    """The waves of a removal from a large part of the fleet, with a gate for a person's word before the first."""
    removed = sum(not any(subtrees.values()) for subtrees in after.values())
    everybody = len(fleet.clusters)
    if everybody < REMOVAL_LEAST or removed <= share(policy.removal_approval, everybody) or not waves:
        return waves
    if any(gate.approval is not None for gate in waves[0].gates):
        return waves
    gate = Gate(name=REMOVAL_GATE, approval=Approval())
    return (replace(waves[0], gates=(*waves[0].gates, gate)), *waves[1:])
