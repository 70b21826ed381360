"""The agent's one loop: wires the steps together, and holds what they share.

    slice:   intake → take up (order) → plan → reconcile → plan → … until nothing is left to do
    events:  watches → observe → health, suspicions → plan, guard
    all:     → status → report

A plan is made anew, whatever happened; each bundle's plan runs as a task of its own, so that a slow bundle holds up no
other, and drift is undone beside them all. A new slice supersedes what runs at the next object. Nothing is planned
before the parents are known, nothing is written without the lease, and the hub is never waited for. Assumes one event
loop, and one agent per state folder. `main` makes the parts.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Final

import anyio
from anyio.abc import TaskGroup

from agent import status
from agent.apply import plan as planning
from agent.apply.manifests import Manifests
from agent.apply.milestones import Milestones
from agent.apply.parents import Parents
from agent.apply.plan import BundlePlan, Plan
from agent.apply.reconcile import Reconciler
from agent.drift.guard import Guard
from agent.drift.kinds import Checks, KindWatches
from agent.drift.observe import Observer
from agent.drift.writing import Writing
from agent.explainer import Explainer
from agent.fields.ownership import CONTROLLERS
from agent.inventory import Inventory
from agent.kube.cluster import backoff
from agent.kube.lease import Fence, Lease
from agent.model import ClusterApi, Desired
from agent.owner.directives import DirectiveStore
from agent.owner.owner import Owner
from agent.stream.intake import Intake
from agent.stream.problems import Problems
from agent.stream.receive import Receiver
from agent.stream.report import Reporter
from agent.tracing import Tracing
from proto.errors import FlotillaError
from proto.ids import Oid
from proto.messages import BundleReport, Directives, DriftDetail, DriftQuery, DriftReport, Health, WakeUp
from proto.objects import ObjectKey, group_of
from proto.slices import BundlePolicy

COALESCE_S: Final = 0.02
"""Events come in bursts; one plan for all that came in this time costs less than one each."""
REST: Final = 5.0
"""A plan costs time by the number of objects, so after each this many times its own duration passes before the next:
however many events come, planning takes a sixth of the time."""
BURST_S: Final = 1.0
"""Of rests that may be left out at first: who had nothing to do for a while does not have to wait."""
SAVE_S: Final = 5.0
DRAIN_S: Final = 10.0
"""For what is under way to finish; with `FAREWELL_S` well within the 30 s that a pod is given."""
FAREWELL_S: Final = 5.0
"""To save the inventory and give the lease back."""
LEASE_LOOK_S: Final = 1.0

log = logging.getLogger(__name__)


class Loop:
    """`fetch` gets the slice from the hub (True: it moved) and is None without a hub; `timestamp` gives the wall time
    as RFC 3339, `wall_ns` as Unix nanoseconds; `directives` keeps what the hub asks beside the slice; `cluster` is our
    cluster's name; `delays` are backoffs in seconds; `controllers` are field managers whose additions are no drift,
    beside the known ones."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        lease: Lease,
        inventory: Inventory,
        receiver: Receiver,
        reporter: Reporter,
        tracing: Tracing,
        directives: DirectiveStore,
        cluster: str,
        fetch: Callable[[], Awaitable[bool]] | None,
        timestamp: Callable[[], str],
        wall_ns: Callable[[], int],
        delays: Callable[[], Iterator[float]] = backoff,
        controllers: Collection[str] = (),
    ) -> None:
        self._lease = lease
        self._api: ClusterApi = Fence(api, lease)
        self._inventory = inventory
        self._reporter = reporter
        self._timestamp = timestamp
        self._delays = delays
        self._desired = Desired(commit=Oid(""), seq=0, bundles={})
        self._manifests = Manifests(receiver.blob)
        self._milestones = Milestones(inventory, tracing, wall_ns=wall_ns)
        self._running: set[str] = set()
        self._reports: dict[str, BundleReport] = {}
        self._problem = Problems(reporter)
        self._intake = Intake(
            receiver, fetch=fetch, take_up=self._take_up, problem=self._problem, wall_ns=wall_ns, delays=delays
        )
        self._changed = anyio.Event()
        self._finished = anyio.Event()
        self._stopping = anyio.Event()
        self._parents = Parents(self._api, cluster=cluster)
        self._owner = Owner(
            self._api,
            store=directives,
            inventory=inventory,
            asked=self._parents.asked,
            live=self._parents.live,
            foreign=self._parents.foreign,
            wrote=self._parents.note,
            may_write=lambda: lease.held,
            changed=self._owner_spoke,
            problem=self._problem,
            timestamp=timestamp,
            instance=lease.holder,
            delays=delays,
        )
        self._observer = Observer(
            inventory,
            wanted=lambda key: key in self._manifests.wanted,
            suspect=lambda key, event: self._guard.suspect(key, event),
            unwanted_gone=self._unwanted_gone,
            changed=self._wake,
            clock=anyio.current_time,
            policy=self._policy,
            expires=self._manifests.expires,
        )
        writing = Writing(self._observer, inventory)
        self._kinds = KindWatches(
            self._api,
            self._observer,
            wanted=lambda: self._manifests.kinds(inventory.entries),
            checks=self._checks,
            problem=self._problem,
            delays=delays,
        )
        self._reconciler = Reconciler(
            self._api,
            inventory,
            self._parents,
            read=receiver.blob,
            writing=writing,
            applied=self._observer.applied,
            tracing=tracing,
            noted=self._owner.noted,
        )
        self._explainer = Explainer(
            self._api,
            troubled=lambda after_s: self._observer.troubled(after_s=after_s) if lease.held else (),
            told=self._observer.explain,
        )
        self._guard = Guard(
            self._api,
            inventory,
            desired=lambda: self._desired,
            read=receiver.blob,
            writing=writing,
            may_write=lambda: lease.held,
            take_health=self._observer.take_health,
            told=self._drifted,
            tracing=tracing,
            timestamp=timestamp,
            wall_ns=wall_ns,
            refuses=self._owner.refuses,
            suspended=self._owner.suspended,
            pause_until=self._owner.pause_until,
            controllers=CONTROLLERS | frozenset(controllers),
        )

    # --- from outside ---------------------------------------------------------------------------------------------

    def on_wake(self, wake: WakeUp) -> None:
        """The hub says where the slice is."""
        self._intake.wake(wake)

    def on_directives(self, directives: Directives) -> None:
        """What people at the hub ask beside Git."""
        self._owner.directed(directives)

    def on_query(self, query: DriftQuery) -> DriftDetail:
        """Somebody at the hub wants to see the values of a drift."""
        return self._guard.detail(query)

    def problem(self, source: str, text: str) -> None:
        """Something is wrong with one of the agent's own parts: a whole sentence, "" once it is over."""
        self._problem(source, text)

    def stop(self) -> None:
        """Finish what is under way, and end."""
        self._stopping.set()
        self._wake()

    @property
    def idle(self) -> bool:
        """Whether everything that the slice says is done and healthy."""
        return not self._running and all(
            report.converged and report.health is Health.CURRENT for report in self._reports.values()
        )

    async def run(self) -> None:
        """Enforce the slice until `stop`, or until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._lease.run, name="lease")
                await self._intake.resume()
                group.start_soon(self._intake.run, name="intake")
                group.start_soon(self._owner.run, name="owner")
                group.start_soon(self._keep_parents, name="parents")
                group.start_soon(self._kinds.run, name="watches")
                group.start_soon(self._confirm_drift, name="guard")
                group.start_soon(self._explainer.run, name="explainer")
                group.start_soon(self._guard.look_at_all, name="resync")
                group.start_soon(self._save, name="save")
                group.start_soon(self._steer, group, name="steer")
                await self._stopping.wait()
                with anyio.move_on_after(DRAIN_S):
                    while self._running:
                        await self._finished.wait()
                group.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(FAREWELL_S, shield=True):
                await self._inventory.save()
                try:
                    await self._lease.release()
                except FlotillaError as error:
                    log.warning("the lease was not given back, the next agent waits for its end: %s", error)

    # --- the slice ------------------------------------------------------------------------------------------------

    async def _take_up(self, desired: Desired, since_ns: int) -> None:
        """Make a slice the one that is enforced, if it is not."""
        before = self._desired
        if desired.commit == before.commit:
            return
        await self._manifests.take_up(desired, before=before)
        self._desired = desired
        for name in self._reports.keys() - desired.bundles.keys() - before.bundles.keys():
            del self._reports[name]
            self._reporter.remove_bundle(name)
            self._owner.forget(name)
        self._reporter.set_slice(desired.seq, desired.commit)
        self._inventory.slice_taken_up(desired.commit, desired.seq)
        self._milestones.taken_up(desired, before, since_ns=since_ns)
        log.info("slice %d (%s) with %d bundles is taken up", desired.seq, desired.commit, len(desired.bundles))
        self._kinds.look()
        self._wake()

    # --- plan and execute -----------------------------------------------------------------------------------------

    async def _steer(self, group: TaskGroup) -> None:
        await self._parents.known.wait()
        await self._owner.wait_known()
        rested = -math.inf
        while True:
            self._changed = anyio.Event()
            began = anyio.current_time()
            self._begin_syncs()
            wait_ends = self._observer.end_waits(seeing=self._lease.held)
            plan = planning.plan(
                self._desired,
                self._inventory.entries,
                order=self._manifests.order,
                failures=self._reconciler.failures,
                parents=self._parents.named,
                now=anyio.current_time(),
                limits=self._owner.limits,
                suspended=self._owner.suspensions,
            )
            self._tell(plan)
            due_at = min(plan.due_at, wait_ends)
            if not self._lease.held:
                due_at = min(due_at, anyio.current_time() + LEASE_LOOK_S)
            elif not self._stopping.is_set():
                for name, one in plan.bundles.items():
                    if not one.idle and name not in self._running:
                        self._running.add(name)
                        group.start_soon(self._execute, one, name=f"bundle {name}")
            ended = anyio.current_time()
            rested = max(rested, ended - BURST_S) + REST * (ended - began)
            with anyio.move_on_after(due_at - anyio.current_time() if due_at < math.inf else None):
                await self._changed.wait()
            await anyio.sleep(max(COALESCE_S, rested - anyio.current_time()))

    async def _execute(self, plan: BundlePlan) -> None:
        desired, limits = self._desired, self._owner.limits

        def superseded() -> bool:
            stopped = self._stopping.is_set() or not self._lease.held or bool(self._owner.suspended(plan.bundle))
            return stopped or self._desired is not desired or self._owner.limits != limits

        try:
            done = await self._reconciler.run(
                plan,
                desired.bundles.get(plan.bundle),
                traits=self._manifests.traits,
                superseded=superseded,
            )
            if done.counts:
                log.info("bundle %s: %s", plan.bundle, done)
                self._owner.passed(plan.bundle, done.counts, desired.bundles.get(plan.bundle))
        finally:
            self._running.discard(plan.bundle)
            self._finished.set()
            self._finished = anyio.Event()
            self._kinds.look()
            self._wake()

    def _tell(self, plan: Plan) -> None:
        """Report what is so now."""
        self._problem("inventory", self._inventory.problem)
        self._problem("lease", self._lease.problem)
        if not self._desired.commit:  # what is no longer wanted cannot be known
            return
        now = self._timestamp()
        entries, failures = self._inventory.entries, self._reconciler.failures
        gone = (self._inventory.applied.keys() | self._reports.keys()) - plan.bundles.keys()
        for name in (*plan.bundles, *gone):
            bundle = self._desired.bundles.get(name)
            one = plan.bundles.get(name) or BundlePlan(bundle=name, complete=True, converged=True)
            before = self._reports.get(name)
            report = status.bundle_report(one, bundle, entries, failures=failures, before=before, now=now)
            if report != before:
                self._reports[name] = report
                self._reporter.set_bundle(name, report)
            self._milestones.reported(name, one, report, self._desired)
            self._owner.tell(name, report, bundle)
        if failures:
            self._reconciler.forget_failures(
                entries.keys() | self._manifests.wanted | {planning.parent_key(name) for name in plan.bundles}
            )

    # --- the cluster's owner ------------------------------------------------------------------------------------------

    async def _keep_parents(self) -> None:
        await self._parents.run(
            ready=self._lease.wait_held,
            changed=self._owner.parent_changed,
            problem=self._problem,
            delays=self._delays,
        )

    def _owner_spoke(self) -> None:
        self._guard.pauses_changed()
        self._wake()

    def _begin_syncs(self) -> None:
        """Have all of a bundle confirmed, and what failed tried again at once, where that is asked for."""
        for name in self._owner.begin_syncs(self._desired.bundles):
            log.info("bundle %s: a full pass is asked for", name)
            keys = self._desired.bundles[name].objects
            for key in (*keys, planning.parent_key(name)):
                self._reconciler.failures.pop(key, None)
            self._guard.resync(keys)

    def _drifted(self, key: ObjectKey, report: DriftReport) -> None:
        self._reporter.add_drift(report)
        self._owner.drifted(key, report)

    # --- watches --------------------------------------------------------------------------------------------------

    def _policy(self, bundle: str) -> BundlePolicy | None:
        found = self._desired.bundles.get(bundle)
        return found.policy if found is not None else None

    def _checks(self, gk: tuple[str, str]) -> Checks:
        return tuple(
            (name, check)
            for name, bundle in sorted(self._desired.bundles.items())
            for check in bundle.policy.health_checks
            if (group_of(check.api_version), check.kind) == gk
        )

    def _unwanted_gone(self, key: ObjectKey) -> None:
        """An object that Git does not have was deleted, or lost our labels: look at its prune now."""
        self._reconciler.failures.pop(key, None)
        self._wake()

    async def _confirm_drift(self) -> None:
        """Undo drift, not before it is known whether anybody wants us not to."""
        await self._parents.known.wait()
        await self._owner.wait_known()
        await self._guard.run()

    async def _save(self) -> None:
        while True:
            await anyio.sleep(SAVE_S)
            await self._inventory.save()
            self._problem("inventory", self._inventory.problem)

    def _wake(self) -> None:
        self._changed.set()
