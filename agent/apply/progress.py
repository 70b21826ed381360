"""How far each bundle is, and what still has to be waited for.

Pure. Of one object of the slice:

    applied     the API server answered our apply of its very blob, and drift is not to be undone by another apply
    done        applied and Current; a Job complete, too, and a hook succeeded (a suspended Job is done)

Whoever waits for an object waits until it is done. A bundle waits as a whole until all is done of those that it depends
on. It is settled, and may prune, with all applied and Current and its hooks done: an ordinary Job may run as long as it
likes. Next: `plan`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.apply.order import Order
from agent.drift.drift import Mode
from agent.model import DesiredBundle, Entry, Limits
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey

NOTHING: Final = frozenset[ObjectKey]()
_RUNNING: Final = "JobRunning"
_SUSPENDED: Final = "JobSuspended"
"""Two of kstatus's reasons for a Job that is Current."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Of one bundle: the objects that are not applied, `stopped` of them and why; those that are but not Current; Jobs
    that run; hooks that are Current and did not succeed yet; and hooks that succeeded and are to be deleted."""

    unapplied: frozenset[ObjectKey] = frozenset()
    stopped: Mapping[ObjectKey, str] = field(default_factory=dict)
    unhealthy: Mapping[ObjectKey, Health] = field(default_factory=dict)
    running: frozenset[ObjectKey] = frozenset()
    unfinished: frozenset[ObjectKey] = frozenset()
    ended: frozenset[ObjectKey] = frozenset()

    @property
    def done(self) -> bool:
        return not (self.unapplied or self.unhealthy or self.running or self.unfinished)

    @property
    def settled(self) -> bool:
        return not (self.unapplied or self.unhealthy or self.unfinished)


def is_applied(blob: Oid, entry: Entry | None, mode: Mode) -> bool:
    """Pure: the API server answered our apply of this very blob, and nothing of what happened since is to be undone by
    another one, which `mode` says. Without a baseline the object is gone; unsettled, nobody knows."""
    if entry is None or entry.unsettled or entry.blob != blob:
        return False
    return entry.baseline is not None or entry.finished or mode != "revert"


def state(
    bundle: DesiredBundle,
    wanted: Mapping[ObjectKey, Oid],
    entries: Mapping[ObjectKey, Entry],
    *,
    order: Order,
    limits: Limits,
) -> State:
    """Pure: of one bundle; `wanted` are those of its objects that are not left out."""
    unapplied, running = [], []
    unhealthy: dict[ObjectKey, Health] = {}
    modes, mode = order.modes, bundle.policy.drift.mode
    for key, blob in wanted.items():  # each object, for each plan: kept lean
        entry = entries.get(key)
        if entry is None or not is_applied(blob, entry, modes.get(key, mode) if modes else mode):
            unapplied.append(key)
        elif entry.health is not Health.CURRENT:
            unhealthy[key] = entry.health
        elif entry.reason == _RUNNING:
            running.append(key)
    missing = frozenset(unapplied)
    hooks = order.hooks.get(bundle.name, frozenset()) - missing
    return State(
        unapplied=missing,
        stopped=_stopped(bundle.name, missing, order=order, limits=limits),
        unhealthy=unhealthy,
        running=frozenset(running),
        unfinished=frozenset(key for key in hooks if not _has_succeeded(entries[key])),
        ended=frozenset(
            key
            for key in hooks & order.cleanups
            if entries[key].baseline is not None
            and entries[key].finished
            and entries[key].health is Health.CURRENT
            and not limits.refuses(key)
        ),
    )


def _has_succeeded(hook: Entry) -> bool:
    return hook.health is Health.CURRENT and (hook.finished or hook.reason == _SUSPENDED)


def _stopped(bundle: str, unapplied: frozenset[ObjectKey], *, order: Order, limits: Limits) -> dict[ObjectKey, str]:
    """Pure: the objects that can never be applied as things are, and why."""
    stopped = {}
    remedy = "" if limits.closed else " (change the guard ConfigMap, or take it out of the bundle)"
    for key in unapplied:
        if order.shared.get(key, bundle) != bundle:
            stopped[key] = f"{key}: bundle {order.shared[key]} has it too (remove it from one of the two bundles)"
        elif key in order.stopped:
            stopped[key] = order.stopped[key]
        elif why := limits.refuses(key):
            stopped[key] = f"{key}: {why}{remedy}"
    return stopped


def unmet(states: Mapping[str, State], order: Order) -> Callable[[frozenset[ObjectKey]], str]:
    """What of a set of objects is not done yet, in words; each distinct set is looked at once."""
    words = {
        key: word
        for name, state in states.items()
        for keys, word in (
            (state.unfinished, "not complete yet"),
            (state.running, "not complete yet"),
            (state.unhealthy, "not Current yet"),
            ((key for key, health in state.unhealthy.items() if health is Health.FAILED), "Failed"),
            (state.unapplied, "not applied yet"),
            (state.stopped, "stopped"),
        )
        for key in keys
        if order.shared.get(key, name) == name
    }
    undone = frozenset(words)
    known: dict[frozenset[ObjectKey], str] = {NOTHING: ""}

    def look(needs: frozenset[ObjectKey]) -> str:
        if needs not in known:
            missing = sorted(needs & undone)
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            known[needs] = f"{missing[0]}, which is {words[missing[0]]}{more}" if missing else ""
        return known[needs]

    return look


def blocked(bundles: Mapping[str, DesiredBundle], states: Mapping[str, State]) -> dict[str, str]:
    """Pure: the bundles that have to wait for others as a whole, and why. One with nothing to apply waits for none."""
    found = {}
    for name, bundle in bundles.items():
        on = bundle.policy.depends_on if states[name].unapplied else ()
        absent = [other for other in on if other not in states]
        circular = [other for other in on if name in _reach(other, bundles)]
        behind = [other for other in on if other in states and not states[other].done]
        if absent:
            found[name] = (
                f"bundle {name}: depends on bundle {', '.join(absent)}, which this cluster does not run "
                "(target it at this cluster, or correct dependsOn)"
            )
        elif circular:
            found[name] = f"bundle {name}: depends on itself through {', '.join(circular)} (correct dependsOn)"
        elif behind:
            found[name] = f"bundle {name}: waits for bundle {', '.join(behind)} to be applied and Current"
    return found


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
