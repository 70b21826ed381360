"""What the hub is told of a bundle.

Pure. The health of a bundle is the worst of its objects:

    object                                              health
    applied as the slice has it                         what its own state says (`health`)
    failed, and only a change can help; never its turn  Failed
    failed otherwise, waiting, not applied yet          InProgress
    no longer in the slice, being pruned                Terminating, if something holds that up

`converged` is the plan's. Next: `report` sends what changed.
"""

from collections.abc import Iterator, Mapping

from agent.apply.plan import BundlePlan, Failure, is_applied
from agent.model import DesiredBundle, Entry
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
    subtree = bundle.subtree if bundle is not None else ""
    same = before is not None and (before.subtree, before.health, before.converged) == (subtree, health, plan.converged)
    return BundleReport(
        subtree=subtree,
        health=health,
        converged=plan.converged,
        counts=counts,
        problems=tuple(problems),
        since=before.since if before is not None and same else now,
    )


def _objects(
    plan: BundlePlan,
    bundle: DesiredBundle | None,
    entries: Mapping[ObjectKey, Entry],
    failures: Mapping[ObjectKey, Failure],
) -> Iterator[tuple[ObjectKey, Health, str, str]]:
    wanted = bundle.objects if bundle is not None else {}
    for key, blob in wanted.items():
        failure = failures.get(key)
        entry = entries.get(key)
        if bundle is not None and entry is not None and is_applied(blob, entry, bundle.policy):
            yield key, entry.health, entry.reason, entry.message
        elif key in plan.stopped:
            yield key, Health.FAILED, "Stopped", plan.stopped[key]
        elif failure is not None and failure.blob == blob:
            yield key, Health.FAILED if failure.permanent else Health.IN_PROGRESS, "ApplyFailed", failure.error
        elif plan.blocked or key in plan.waiting:
            yield key, Health.IN_PROGRESS, "Waiting", plan.blocked or plan.waiting[key]
        else:
            yield key, Health.IN_PROGRESS, "NotApplied", ""
    for key in plan.surplus:
        failure = failures.get(key)
        if failure is not None and failure.blob == "":
            yield key, Health.TERMINATING, "Pruning", failure.error or "is being deleted"
