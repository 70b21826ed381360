"""Keeps which subtrees of a bundle were applied completely, and marks when they became healthy. Next: `tracing`."""

from collections.abc import Callable

from agent.apply.plan import BundlePlan
from agent.inventory import Applied, Inventory
from agent.model import Desired
from agent.tracing import Tracing
from proto import telemetry
from proto.messages import BundleReport, Health


class Milestones:
    """`wall_ns` gives the wall time in Unix nanoseconds."""

    def __init__(self, inventory: Inventory, tracing: Tracing, *, wall_ns: Callable[[], int]) -> None:
        self._inventory = inventory
        self._tracing = tracing
        self._wall_ns = wall_ns
        self._complete_ns: dict[str, int] = {}
        """Bundles that are applied and not Current yet, and since when."""

    def taken_up(self, desired: Desired, before: Desired, *, since_ns: int) -> None:
        """A slice is enforced now, in place of `before`; it has been on its way since `since_ns`."""
        for name, bundle in desired.bundles.items():
            if name not in before.bundles or before.bundles[name].subtree != bundle.subtree:
                self._complete_ns.pop(name, None)
                self._tracing.mark(
                    telemetry.SPAN_RECEIVE,
                    rollout=bundle.rollout,
                    bundle=name,
                    since_ns=since_ns,
                    subtree=bundle.subtree,
                    seq=desired.seq,
                )

    def reported(self, name: str, plan: BundlePlan, report: BundleReport, desired: Desired) -> None:
        """A bundle is so now."""
        bundle = desired.bundles.get(name)
        applied = self._inventory.applied.get(name)
        if bundle is None:
            if applied is not None and plan.converged:
                self._inventory.bundle_applied(name, None)
            return
        first = plan.complete and (applied is None or applied.subtree != bundle.subtree)
        current = report.health is Health.CURRENT
        if first:
            self._inventory.bundle_applied(name, Applied(commit=desired.commit, subtree=bundle.subtree))
            self._complete_ns[name] = self._wall_ns()
        if name in self._complete_ns and (current or first):
            self._tracing.mark(
                telemetry.SPAN_HEALTHY,
                rollout=bundle.rollout,
                bundle=name,
                since_ns=self._complete_ns[name],
                subtree=bundle.subtree,
                result=str(report.health),
            )
            if current:
                del self._complete_ns[name]
