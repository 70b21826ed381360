"""What is to be done now: desired slice and inventory in, a plan out.

Pure. Made anew after everything that happens (a slice, an answer, a health change, a retry that is due), it holds only
what can be done at this moment; what has to wait is named with the reason. So there is no state between two plans but
the inventory, and a killed agent goes on where it was.

    object                                                             done with it
    in a bundle, blob is not the one applied, or never answered        applied, when its needs are Current
    in a bundle, blob is the one applied                               nothing
    in a bundle that reverts no drift, and somebody deleted it         nothing
    in two bundles                                                     the first by name has it; a problem of the other
    in no bundle, and was ours                                         pruned, once its bundle is applied and Current
      … of a bundle with `prune: false`, or whose policy is lost       released
      … Namespace, CRD, PersistentVolume(Claim)                        released, unless `destructivePrune`
    failed, and not yet due again                                      nothing; due at once when its blob changes

A bundle that left the slice has nothing to wait for: all of it is pruned. A bundle waits as a whole while one that it
depends on is not applied and Current. Without a slice (no commit) there is never anything to do. `reconcile` executes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypedDict

from agent.apply import order as ordering
from agent.apply.order import Order
from agent.model import Desired, DesiredBundle, Entry
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import PARENT_GROUP, PARENT_KIND, BundlePolicy

KEPT_KINDS = frozenset({"Namespace", ordering.CRD_GK, "PersistentVolume", "PersistentVolumeClaim"})
"""Deleting one of these takes data or other objects with it, so that needs `destructivePrune`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last try with an object, when it did not succeed. `blob` is what was tried to apply ("" for a prune);
    `not_before` is a monotonic time in seconds; `tries` counts in a row; `permanent`: only a change can help."""

    blob: str
    error: str
    not_before: float
    tries: int = 1
    permanent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What the ApplySet parent of a bundle has to say: every `Kind.group` and namespace that its objects are in, and
    how they are to be pruned once the slice does not have the bundle any more."""

    kinds: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    prune: bool = True
    destructive_prune: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlan:
    """`apply` and `prune` are phases, done one after the other. `waiting` says in a whole sentence why an object is not
    applied yet, `stopped` why one never can be, `blocked` why the whole bundle has to wait. `surplus` is what was ours
    and Git does not have. `complete`: every object is applied as the slice has it; `converged`: no surplus is left,
    either. `members` is what the ApplySet parent has to say before anything of this is done (None: it has to go);
    `parent_stale` that it does not yet."""

    bundle: str
    apply: tuple[tuple[ObjectKey, ...], ...] = ()
    prune: tuple[tuple[ObjectKey, ...], ...] = ()
    release: tuple[ObjectKey, ...] = ()
    waiting: Mapping[ObjectKey, str] = field(default_factory=dict)
    stopped: Mapping[ObjectKey, str] = field(default_factory=dict)
    blocked: str = ""
    surplus: tuple[ObjectKey, ...] = ()
    complete: bool = False
    converged: bool = False
    members: Membership | None = None
    parent_stale: bool = False

    @property
    def idle(self) -> bool:
        return not (self.apply or self.prune or self.release or self.parent_stale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`due_at` is the monotonic time at which a failed object is to be tried again (infinite: none)."""

    bundles: Mapping[str, BundlePlan] = field(default_factory=dict)
    due_at: float = math.inf

    @property
    def idle(self) -> bool:
        return all(bundle.idle for bundle in self.bundles.values())


def plan(
    desired: Desired,
    entries: Mapping[ObjectKey, Entry],
    *,
    order: Order,
    failures: Mapping[ObjectKey, Failure],
    parents: Mapping[str, Membership],
    now: float,
) -> Plan:
    """Pure: `order` is that of `desired`; `parents` is what the ApplySet parents in the cluster say."""
    if not desired.commit:
        return Plan()
    owner: dict[ObjectKey, str] = {}
    for name in sorted(desired.bundles):
        for key in desired.bundles[name].objects:
            owner.setdefault(key, name)
    leftovers: dict[str, list[ObjectKey]] = {}
    for key, entry in entries.items():
        if key not in owner:
            leftovers.setdefault(entry.bundle, []).append(key)
    due = _Due(failures, now)
    states = {name: _state(bundle, entries) for name, bundle in desired.bundles.items()}
    blocked = _blocked(desired.bundles, states)
    unmet = _unmet(states)
    made = {}
    for name, bundle in desired.bundles.items():
        surplus, state = leftovers.get(name, []), states[name]
        stopped = _stopped(bundle, state, owner=owner, order=order)
        phases, waiting = (
            _apply(bundle, state.unapplied - stopped.keys(), order=order, unmet=unmet, due=due)
            if name not in blocked
            else ((), {})
        )
        prune, release = _prune(surplus, bundle.policy, due) if state.settled else ((), ())
        made[name] = BundlePlan(
            bundle=name,
            apply=phases,
            prune=prune,
            release=release,
            waiting=waiting,
            stopped=stopped,
            blocked=blocked.get(name, ""),
            surplus=tuple(surplus),
            complete=not state.unapplied,
            converged=not state.unapplied and not surplus,
            **_parent(name, _membership(bundle.policy, [*bundle.objects, *surplus]), parents, due),
        )
    for name in (leftovers.keys() | parents.keys()) - desired.bundles.keys():
        surplus = leftovers.get(name, [])
        last = parents.get(name, Membership(prune=False))
        prune, release = _prune(surplus, last, due)
        made[name] = BundlePlan(
            bundle=name,
            prune=prune,
            release=release,
            surplus=tuple(surplus),
            complete=True,
            converged=not surplus,
            **_parent(name, parents.get(name) if surplus else None, parents, due),
        )
    return Plan(bundles=made, due_at=due.next_at)


def is_applied(blob: Oid, entry: Entry | None, policy: BundlePolicy) -> bool:
    """Pure: the API server answered our apply of this very blob, and nothing of what happened since is to be undone by
    another one. Without a baseline the object is gone; unsettled, nobody knows."""
    if entry is None or entry.unsettled or entry.blob != blob:
        return False
    return entry.baseline is not None or policy.drift.mode != "revert"


class _Due:
    """Which objects may be tried now; gathers when the others may."""

    def __init__(self, failures: Mapping[ObjectKey, Failure], now: float) -> None:
        self._failures = failures
        self._now = now
        self.next_at = math.inf

    def __call__(self, key: ObjectKey, blob: str) -> bool:
        failure = self._failures.get(key)
        if failure is None or failure.blob != blob or failure.not_before <= self._now:
            return True
        self.next_at = min(self.next_at, failure.not_before)
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Of one bundle: the objects that are not applied, and those that are but not Current."""

    unapplied: frozenset[ObjectKey]
    unhealthy: frozenset[ObjectKey]

    @property
    def settled(self) -> bool:
        return not self.unapplied and not self.unhealthy


def _state(bundle: DesiredBundle, entries: Mapping[ObjectKey, Entry]) -> _State:
    unapplied = frozenset(
        key for key, blob in bundle.objects.items() if not is_applied(blob, entries.get(key), bundle.policy)
    )
    return _State(
        unapplied=unapplied,
        unhealthy=frozenset(
            key for key in bundle.objects if key not in unapplied and entries[key].health is not Health.CURRENT
        ),
    )


def _stopped(
    bundle: DesiredBundle, state: _State, *, owner: Mapping[ObjectKey, str], order: Order
) -> dict[ObjectKey, str]:
    """Pure: the objects that can never be applied as the slice is, and why."""
    stopped = {key: order.stopped[key] for key in state.unapplied if key in order.stopped}
    for key in state.unapplied:
        if owner[key] != bundle.name:
            stopped[key] = f"{key}: bundle {owner[key]} has it too (remove it from one of the two bundles)"
    return stopped


def _apply(
    bundle: DesiredBundle,
    keys: frozenset[ObjectKey],
    *,
    order: Order,
    unmet: Callable[[frozenset[ObjectKey]], str],
    due: _Due,
) -> tuple[tuple[tuple[ObjectKey, ...], ...], dict[ObjectKey, str]]:
    """(phases that can be applied now, why others have to wait)."""
    waiting = {}
    phases: list[tuple[ObjectKey, ...]] = []
    for phase in order.phases.get(bundle.name, ()) if keys else ():
        ready = []
        for key in phase:
            if key not in keys:
                continue
            if missing := unmet(order.needs.get(key, frozenset())):
                waiting[key] = f"{key}: waits for {missing}"
            elif due(key, bundle.objects[key]):
                ready.append(key)
        if ready:
            phases.append(tuple(ready))
    return tuple(phases), waiting


def _membership(policy: BundlePolicy, keys: Sequence[ObjectKey]) -> Membership | None:
    """Pure: what a parent has to say about these objects; none is needed for no objects."""
    if not keys:
        return None
    return Membership(
        kinds=frozenset(key.gk for key in keys),
        namespaces=frozenset(key.namespace for key in keys if key.namespace),
        prune=policy.prune,
        destructive_prune=policy.destructive_prune,
    )


def _prune(
    surplus: Iterable[ObjectKey], policy: BundlePolicy | Membership, due: _Due
) -> tuple[tuple[tuple[ObjectKey, ...], ...], tuple[ObjectKey, ...]]:
    """Pure: (phases to delete, last rank first; what is let go)."""
    ready = sorted((key for key in surplus if due(key, "")), key=lambda key: (-ordering.rank(key), key))
    kept = {key for key in ready if not policy.prune or (key.gk in KEPT_KINDS and not policy.destructive_prune)}
    phases = groupby((key for key in ready if key not in kept), key=ordering.rank)
    return tuple(tuple(phase) for _, phase in phases), tuple(sorted(kept))


def _unmet(states: Mapping[str, _State]) -> Callable[[frozenset[ObjectKey]], str]:
    """What of a set of needs is not there yet, in words; each distinct set is looked at once."""
    open_keys = {key: "not applied yet" for state in states.values() for key in state.unapplied}
    open_keys |= {key: "not Current yet" for state in states.values() for key in state.unhealthy}
    known: dict[frozenset[ObjectKey], str] = {frozenset(): ""}

    def unmet(needs: frozenset[ObjectKey]) -> str:
        if needs not in known:
            missing = sorted(needs & open_keys.keys())
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            known[needs] = f"{missing[0]}, which is {open_keys[missing[0]]}{more}" if missing else ""
        return known[needs]

    return unmet


def _blocked(bundles: Mapping[str, DesiredBundle], states: Mapping[str, _State]) -> dict[str, str]:
    """Pure: the bundles that have to wait for others as a whole, and why. One with nothing to apply waits for none."""
    blocked = {}
    for name, bundle in bundles.items():
        on = bundle.policy.depends_on if states[name].unapplied else ()
        absent = [other for other in on if other not in states]
        circular = [other for other in on if name in _reach(other, bundles)]
        behind = [other for other in on if other in states and not states[other].settled]
        if absent:
            blocked[name] = (
                f"bundle {name}: depends on bundle {', '.join(absent)}, which this cluster does not run "
                "(target it at this cluster, or correct dependsOn)"
            )
        elif circular:
            blocked[name] = f"bundle {name}: depends on itself through {', '.join(circular)} (correct dependsOn)"
        elif behind:
            blocked[name] = f"bundle {name}: waits for bundle {', '.join(behind)} to be applied and Current"
    return blocked


def _reach(start: str, bundles: Mapping[str, DesiredBundle]) -> set[str]:
    """Pure: `start` and every bundle that it depends on, however far."""
    seen = {start}
    edge = [start]
    while edge:
        found = bundles.get(edge.pop())
        new = set(found.policy.depends_on if found else ()) - seen
        seen |= new
        edge += new
    return seen


class _Parent(TypedDict):
    members: Membership | None
    parent_stale: bool


def _parent(name: str, members: Membership | None, parents: Mapping[str, Membership], due: _Due) -> _Parent:
    """Pure: what the bundle's ApplySet parent has to say, and whether it is time to write it."""
    return {"members": members, "parent_stale": parents.get(name) != members and due(parent_key(name), "")}


def parent_key(bundle: str) -> ObjectKey:
    """Pure: the object that is a bundle's ApplySet parent."""
    return ObjectKey(group=PARENT_GROUP, kind=PARENT_KIND, namespace="", name=bundle)
