"""What the hub is told of a bundle.

Pure. The health of a bundle is the worst of its objects, and Failed when something keeps it from being pruned at all:

    object                                              health
    applied as the slice has it                         what its own state says (`health`)
    … a hook that still runs, or is to be deleted       InProgress
    … a hook's Pod that failed                          Failed
    failed, and only a change can help; never its turn  Failed
    failed otherwise, waiting, suspended, not applied   InProgress
    no longer in the slice, must not be pruned          Failed
    no longer in the slice, being pruned                Terminating, if something holds that up

Hooks that are left out do not count. `converged` is the plan's. Next: `report` sends what changed.
"""

from collections.abc import Iterator, Mapping

from agent.apply.plan import BundlePlan, Failure, parent_key
from agent.model import DesiredBundle, Entry
from proto.health import Verdict
from proto.messages import BundleReport, Health, ObjectProblem, worst
from proto.objects import ObjectKey


def bundle_report(
    plan: BundlePlan,
    bundle: DesiredBundle | None,
    entries: Mapping[ObjectKey, Entry],
    *,
    failures: Mapping[ObjectKey, Failure],
    before: BundleReport | None,
    now: str,
) -> BundleReport:
    """Pure: the report on one bundle (None: it left the slice). `before` is the last one; `now` (RFC 3339) becomes
    `since` when the health, the subtree or the convergence changed."""
    counts: dict[str, int] = {}
    problems: list[ObjectProblem] = []
    for key, word, reason, message in _objects(plan, bundle, entries, failures):
        counts[word] = counts.get(word, 0) + 1
        if word is not Health.CURRENT:
            problems.append(ObjectProblem(object=str(key), health=word, reason=reason, message=message))
    problems.sort(key=lambda problem: (problem.health is not Health.FAILED, problem.object))
    health = worst(Health(word) for word in counts)
    if plan.kept is not None:
        health = Health.FAILED
        problem = ObjectProblem(
            object=str(parent_key(plan.bundle)), health=health, reason=plan.kept.reason, message=plan.kept.message
        )
        problems.insert(0, problem)
    subtree = bundle.subtree if bundle is not None else ""
    same = before is not None and (before.subtree, before.health, before.converged) == (subtree, health, plan.converged)
    return BundleReport(
        subtree=subtree,
        health=health,
        converged=plan.converged,
        counts=counts,
        problems=tuple(problems),
        since=before.since if before is not None and same else now,
        suspended=plan.suspended,
    )


def _objects(
    plan: BundlePlan,
    bundle: DesiredBundle | None,
    entries: Mapping[ObjectKey, Entry],
    failures: Mapping[ObjectKey, Failure],
) -> Iterator[tuple[ObjectKey, Health, str, str]]:
    for key, blob in bundle.objects.items() if bundle is not None else ():
        failure = failures.get(key)
        if key in plan.left_out:
            continue
        entry = entries.get(key)
        if entry is not None and key not in plan.unapplied:
            if key in plan.unfinished and entry.health is Health.CURRENT:
                yield key, *_hook(entry, failure)
            else:
                yield key, entry.health, entry.reason, entry.message
        elif key in plan.stopped:
            yield key, Health.FAILED, "Stopped", plan.stopped[key]
        elif plan.suspended:
            yield key, Health.IN_PROGRESS, "Suspended", plan.suspended
        elif failure is not None and failure.blob == blob:
            yield key, Health.FAILED if failure.permanent else Health.IN_PROGRESS, "ApplyFailed", failure.error
        elif plan.blocked or key in plan.waiting:
            yield key, Health.IN_PROGRESS, "Waiting", plan.blocked or plan.waiting[key]
        else:
            yield key, Health.IN_PROGRESS, "NotApplied", ""
    for key in plan.surplus:
        failure = failures.get(key)
        if key in plan.stopped:
            yield key, Health.FAILED, "Stopped", plan.stopped[key]
        elif failure is not None and failure.blob == "":
            message = failure.error or entries[key].message or "is being deleted"
            yield key, Health.TERMINATING, "Pruning", message


def _hook(entry: Entry, failure: Failure | None) -> Verdict:
    """Pure: of a hook that kstatus calls Current and that has not come to its end, or is still to be deleted."""
    if entry.finished:
        return Health.IN_PROGRESS, "HookDeletion", failure.error if failure else "has succeeded and is being deleted"
    health = Health.FAILED if entry.reason == "PodFailed" else Health.IN_PROGRESS
    return health, entry.reason or "HookRunning", entry.message or "has not succeeded yet"
