"""What is to be done now: desired slice and inventory in, a plan out.

Pure. Made anew after everything that happens (a slice, an answer, a health change, a retry that is due), it holds only
what can be done at this moment; what has to wait is named with the reason. So there is no state between two plans but
the inventory, and a killed agent goes on where it was.

    object                                                             done with it
    in a bundle, blob is not the one applied, or never answered        applied, when what it needs is done
    in a bundle, blob is the one applied                               nothing
    in a bundle, ran to its end, and is gone                           nothing
    in a bundle that reverts no drift, and somebody deleted it         nothing
    in a bundle, a hook that succeeded and is to go then               deleted; it stays in the inventory
    in a bundle, a hook that is left out (`order`)                     as if the slice did not have it
    in two bundles                                                     the first by name has it; a problem of the other
    in no bundle, and was ours                                         pruned (`removal`), once its bundle is settled
    forbidden by the guard ConfigMap                                   nothing, and told
    of a suspended bundle                                              nothing, and told
    failed, and not yet due again                                      nothing; due at once when its blob changes

The parent of a bundle that left the slice stays as it is while the inventory names the bundle: it alone says how to
prune an object that another bundle was to take over, and did not before Git dropped it.

`progress` says what done and settled mean. A bundle that left the slice waits for nothing. Without a slice (no commit)
there is never anything to do. `reconcile` executes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.apply import order as ordering
from agent.apply import progress, removal
from agent.apply.order import Order
from agent.apply.progress import State
from agent.apply.removal import Problem, Removal, Surplus
from agent.model import Desired, DesiredBundle, Entry, Limits
from proto.ids import Oid
from proto.objects import ObjectKey
from proto.slices import PARENT_GROUP, PARENT_KIND

_NO_LIMITS: Final = Limits()
_NOBODY: Final[Mapping[str, str]] = {}


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
    how and as which account (`namespace/name`, "": as the agent itself) they are to be pruned once the slice does not
    have the bundle any more."""

    kinds: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    prune: bool = True
    destructive_prune: bool = False
    service_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlan:
    """`apply` and `prune` are phases, done one after the other; `finish` are hooks that succeeded and are deleted, but
    stay in the inventory. `unapplied` are the objects that are not as the slice has them: `waiting` says in a whole
    sentence why one is not applied yet, `stopped` why one never can be (or must not be pruned), `blocked` why the whole
    bundle has to wait, `suspended` why nothing of it is written at all. `left_out` are hooks that never run here,
    `unfinished` those that have not succeeded yet, or are still to be deleted. `surplus` is what was ours and Git does
    not have; `kept` is why nothing of that is pruned. `complete`: every object is applied as the slice has it;
    `converged`: nothing is surplus or unfinished, either. `members` is what the ApplySet parent has to say before
    anything of this is done (None: it has to go); `parent_stale` that it does not yet."""

    bundle: str
    apply: tuple[tuple[ObjectKey, ...], ...] = ()
    finish: tuple[ObjectKey, ...] = ()
    prune: tuple[tuple[ObjectKey, ...], ...] = ()
    release: tuple[ObjectKey, ...] = ()
    unapplied: frozenset[ObjectKey] = frozenset()
    waiting: Mapping[ObjectKey, str] = field(default_factory=dict)
    stopped: Mapping[ObjectKey, str] = field(default_factory=dict)
    blocked: str = ""
    suspended: str = ""
    left_out: frozenset[ObjectKey] = frozenset()
    unfinished: frozenset[ObjectKey] = frozenset()
    surplus: tuple[ObjectKey, ...] = ()
    kept: Problem | None = None
    complete: bool = False
    converged: bool = False
    members: Membership | None = None
    parent_stale: bool = False

    @property
    def idle(self) -> bool:
        return not (self.apply or self.finish or self.prune or self.release or self.parent_stale)


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
    limits: Limits = _NO_LIMITS,
    suspended: Mapping[str, str] = _NOBODY,
) -> Plan:
    """Pure: `order` is that of `desired`; `parents` is what the ApplySet parents in the cluster say; `suspended` maps a
    bundle to who suspended it and why."""
    if not desired.commit:
        return Plan()
    wanted = {name: _wanted(bundle, order) for name, bundle in desired.bundles.items()}
    surplus = _surplus(desired, wanted, entries, parents)
    known = sum(map(len, wanted.values())) + sum(len(found.keys) for found in surplus.values())
    removals = removal.removals(surplus, known=known, limits=limits, suspended=suspended)
    states = {
        name: progress.state(bundle, wanted[name], entries, order=order, limits=limits)
        for name, bundle in desired.bundles.items()
    }
    blocked = progress.blocked(desired.bundles, states)
    unmet = progress.unmet(states, order)
    due = _Due(failures, now)
    ready = {name: allowed.delete for name, allowed in removals.items() if states.get(name, _GONE).settled}
    patient = any(_is_awaited(key, failures.get(key)) for keys in ready.values() for key in keys)
    gone = (surplus.keys() | parents.keys()) - desired.bundles.keys()
    named = {entry.bundle for entry in entries.values()} if gone else _NOBODY.keys()
    made = {}
    for name in (*desired.bundles, *sorted(gone)):
        bundle = desired.bundles.get(name)
        state, of, allowed = states.get(name, _GONE), surplus.get(name), removals.get(name, _NO_REMOVAL)
        keys = of.keys if of is not None else ()
        free = name not in suspended
        phases, waiting = (
            _apply(bundle, state, order=order, unmet=unmet, due=due)
            if bundle is not None and free and name not in blocked
            else ((), {})
        )
        deleted = (key for key in ready.get(name, ()) if removal.is_first(key) or not patient)
        if bundle is not None:
            members = _members(bundle, keys, order=order)
        else:
            members = parents.get(name) if name in named else None
        parent = parent_key(name)
        made[name] = BundlePlan(
            bundle=name,
            apply=phases,
            finish=tuple(key for key in sorted(state.ended) if due(key, "")) if free else (),
            prune=removal.phases(key for key in deleted if due(key, "")),
            release=tuple(key for key in allowed.release if due(key, "")) if name in ready else (),
            unapplied=state.unapplied,
            waiting=waiting,
            stopped={**state.stopped, **allowed.refused},
            blocked=blocked.get(name, ""),
            suspended=suspended.get(name, ""),
            left_out=order.left_out.get(name, frozenset()),
            unfinished=state.unfinished | state.ended,
            surplus=tuple(keys),
            kept=allowed.problem,
            complete=not state.unapplied,
            converged=not (state.unapplied or state.unfinished or state.ended or keys),
            members=members,
            parent_stale=(free and parents.get(name) != members and not limits.refuses(parent) and due(parent, "")),
        )
    return Plan(bundles=made, due_at=due.next_at)


def _is_awaited(key: ObjectKey, failure: Failure | None) -> bool:
    """Pure: whether it is a custom resource that may still go soon."""
    if ordering.rank(key) != ordering.CUSTOM_RANK:
        return False
    if failure is None or failure.blob:
        return True
    return not failure.permanent and failure.tries < removal.PATIENCE_LOOKS


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


_GONE: Final = State()
_NO_REMOVAL: Final = Removal()


def _wanted(bundle: DesiredBundle, order: Order) -> Mapping[ObjectKey, Oid]:
    left_out = order.left_out.get(bundle.name)
    if not left_out:
        return bundle.objects
    return {key: blob for key, blob in bundle.objects.items() if key not in left_out}


def _surplus(
    desired: Desired,
    wanted: Mapping[str, Mapping[ObjectKey, Oid]],
    entries: Mapping[ObjectKey, Entry],
    parents: Mapping[str, Membership],
) -> dict[str, Surplus]:
    """Pure: by bundle, what was ours and is in no bundle of the slice."""
    keys: dict[str, list[ObjectKey]] = {}
    for key in sorted(set(entries).difference(*wanted.values())):
        keys.setdefault(entries[key].bundle, []).append(key)
    found = {}
    for name, own in keys.items():
        bundle = desired.bundles.get(name)
        if bundle is not None:
            empty = not wanted[name] and not bundle.policy.allow_empty
            found[name] = Surplus(keys=own, policy=bundle.policy, empty=empty)
        else:
            found[name] = Surplus(keys=own, policy=parents.get(name) or Membership(prune=False))
    return found


def _apply(
    bundle: DesiredBundle,
    state: State,
    *,
    order: Order,
    unmet: Callable[[frozenset[ObjectKey]], str],
    due: _Due,
) -> tuple[tuple[tuple[ObjectKey, ...], ...], dict[ObjectKey, str]]:
    """(phases that can be applied now, why others have to wait)."""
    keys = state.unapplied - state.stopped.keys()
    waiting = {}
    phases: list[tuple[ObjectKey, ...]] = []
    earlier = ""
    for step in order.steps.get(bundle.name, ()) if keys else ():
        earlier = earlier or unmet(step.after)
        for phase in step.phases:
            ready = []
            for key in phase:
                if key not in keys:
                    continue
                if missing := earlier or unmet(order.needs.get(key, progress.NOTHING)):
                    waiting[key] = f"{key}: waits for {missing}"
                elif due(key, bundle.objects[key]):
                    ready.append(key)
            if ready:
                phases.append(tuple(ready))
    return tuple(phases), waiting


def _members(bundle: DesiredBundle, surplus: Sequence[ObjectKey], *, order: Order) -> Membership | None:
    """Pure: what the parent of a bundle of the slice has to say; none is needed for no objects."""
    name = bundle.name
    kinds = order.kinds.get(name, frozenset()).union(key.gk for key in surplus)
    if not kinds:
        return None
    return Membership(
        kinds=kinds,
        namespaces=order.namespaces.get(name, frozenset()).union(key.namespace for key in surplus if key.namespace),
        prune=bundle.policy.prune,
        destructive_prune=bundle.policy.destructive_prune,
        service_account=bundle.policy.service_account,
    )


def parent_key(bundle: str) -> ObjectKey:
    """Pure: the object that is a bundle's ApplySet parent."""
    return ObjectKey(group=PARENT_GROUP, kind=PARENT_KIND, namespace="", name=bundle)
