"""A whole agent in a test: the real loop, receiver, inventory and reporter on a FakeCluster, without a hub."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agent.inventory import Inventory
from agent.kube.lease import Lease
from agent.loop import Loop
from agent.model import ClusterApi
from agent.owner.directives import DirectiveStore
from agent.stream.receive import Receiver
from agent.stream.report import Reporter
from agent.tracing import Tracing
from proto.messages import BundleReport, DriftReport, WakeUp
from tests.slices import CLUSTER


class Told(Reporter):
    """A reporter that keeps what it was told where a test can look."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir, boot_id="boot", agent_version="0")
        self.bundles: dict[str, BundleReport] = {}
        self.drift: list[DriftReport] = []
        self.problems: list[str] = []

    def set_bundle(self, name: str, bundle: BundleReport) -> None:
        self.bundles[name] = bundle
        super().set_bundle(name, bundle)

    def remove_bundle(self, name: str) -> None:
        del self.bundles[name]
        super().remove_bundle(name)

    def add_drift(self, drift: DriftReport) -> None:
        self.drift.append(drift)
        super().add_drift(drift)

    def set_problems(self, problems: object) -> None:
        self.problems = list(problems)  # type: ignore[call-overload]
        super().set_problems(self.problems)


class Agent:
    """One running agent; `deliver` gives it a slice."""

    def __init__(self, loop: Loop, told: Told, inventory: Inventory, receiver: Receiver, lease: Lease) -> None:
        self.loop = loop
        self.told = told
        self.inventory = inventory
        self.receiver = receiver
        self.lease = lease

    def deliver(self, wake: WakeUp) -> None:
        self.loop.on_wake(wake)

    def converged(self, wake: WakeUp, *bundles: str) -> bool:
        """The slice is taken up, and of these bundles everything is done and Current."""
        return self.receiver.desired().commit == wake.commit and all(
            name in self.told.bundles
            and self.told.bundles[name].converged
            and self.told.bundles[name].health == "Current"
            and self.told.bundles[name].subtree == getattr(self.receiver.desired().bundles.get(name), "subtree", "")
            for name in bundles
        )


@asynccontextmanager
async def agent(
    api: ClusterApi, state_dir: Path, *, holder: str = "agent-1", timestamp: Callable[[], str] | None = None
) -> AsyncIterator[Agent]:
    """Runs until the end of the block, which cancels it like a kill, only that memory is given back. `timestamp` is its
    wall clock; without one a microsecond passes at each look."""
    clock = itertools.count(1)
    timestamp = timestamp or (lambda: f"2026-01-01T00:00:00.{next(clock):06d}Z")
    told = Told(state_dir)
    receiver = Receiver(state_dir, CLUSTER)
    lease = Lease(api, holder=holder, timestamp=timestamp)
    with Inventory(state_dir / "inventory.db") as inventory:
        loop = Loop(
            api,
            lease=lease,
            inventory=inventory,
            receiver=receiver,
            reporter=told,
            tracing=Tracing(CLUSTER, None),
            directives=DirectiveStore(state_dir),
            cluster=CLUSTER,
            fetch=None,
            timestamp=timestamp,
            wall_ns=lambda: next(clock),
            delays=_delays,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(loop.run, name="agent")
            try:
                yield Agent(loop, told, inventory, receiver, lease)
            except AssertionError:
                # For whoever reads why the test failed.
                print(f"problems: {told.problems}\nbundles: {told.bundles}\nlease: {lease.problem or 'held'}")
                raise
            finally:
                group.cancel_scope.cancel()


def _delays() -> Iterator[float]:
    return itertools.repeat(0.01)


async def until(check: Callable[[], object], *, what: str = "the condition", timeout_s: float = 60.0) -> None:
    """Returns once `check` is true, which is looked at whenever the event loop has been everywhere once more."""
    with anyio.move_on_after(timeout_s):
        while not check():  # noqa: ASYNC110
            await anyio.sleep(0.001)
        return
    raise AssertionError(f"{what} did not come about within {timeout_s:.0f} s")
