"""Agents of a hub in this process, by what they would tell it: none of them is real."""

import anyio

from hub.inputs import FromAgent
from hub.wiring import Hub
from proto.ids import ClusterName
from proto.messages import BundleReport, DriftReport, Health, Report

HEARTBEAT_S = 2.0


class Crowd:
    """One agent for each cluster of the fleet repo. Each runs its newest slice at once, unless it is named otherwise:
    those that fail or are slow do so with `shop` from its second slice on."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._numbers: dict[str, int] = {}
        self.failing: set[str] = set()
        self.slow: set[str] = set()
        self.silent: set[str] = set()

    async def run(self) -> None:
        while True:
            for name in self._hub.loop.desired.fleet.clusters if self._hub.loop.desired else ():
                if name not in self.silent:
                    self._hub.loop.live.of(name).connected_since = 1.0
                    await self.tell(name)
            await anyio.sleep(HEARTBEAT_S / 4)

    async def tell(self, name: str, *, drift: tuple[DriftReport, ...] = ()) -> None:
        row = self._hub.loop.slices.get(ClusterName(name))
        wanted = row.manifest.bundles if row else {}
        told = {}
        for bundle, entry in wanted.items():
            moved = bundle == "shop" and row is not None and row.seq > 1
            sick, busy = moved and name in self.failing, moved and name in self.slow
            health = Health.FAILED if sick else Health.IN_PROGRESS if busy else Health.CURRENT
            told[bundle] = BundleReport(subtree=entry.subtree, health=health, converged=not busy)
        self._numbers[name] = self._numbers.get(name, 0) + 1
        problems = ("Deployment/shop/web: container web: ImagePullBackOff",) if name in self.failing else ()
        report = Report(
            number=self._numbers[name],
            boot_id="boot",
            seq=row.seq if row else 0,
            commit=row.commit if row else "",
            full=True,
            bundles=told,
            drift=drift,
            problems=problems,
        )
        await self._hub.loop.tell(FromAgent(cluster=ClusterName(name), report=report))

    async def settled(self, *, rollouts: int) -> None:
        """Until only so many rollouts are under way."""
        for _ in range(1200):
            if self._hub.loop.desired and self._hub.loop.slices and len(self._hub.loop.states) <= rollouts:
                return
            await anyio.sleep(0.05)
        raise AssertionError(f"still under way: {list(self._hub.loop.states)}")
