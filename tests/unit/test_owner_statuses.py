"""When the status of an AppliedBundle is written: seldom, and only when it says something new."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent.owner import statuses
from agent.owner.conditions import Facts
from agent.owner.statuses import Live, Statuses
from proto.errors import Permanent
from proto.messages import BundleReport, Health
from proto.objects import ObjectKey
from tests.agents import until
from tests.fakes import FakeCluster

KEY = ObjectKey(group="flotilla.dev", kind="AppliedBundle", namespace="", name="shop")


def facts(current: int) -> Facts:
    report = BundleReport(subtree="t", health=Health.CURRENT, converged=True, counts={"Current": current})
    return Facts(report=report)


class Rig:
    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.cluster.kinds["flotilla.dev/v1alpha1/AppliedBundle"] = False
        self.live: dict[str, Live] = {}
        self.held = True
        self.problems: dict[str, str] = {}
        self.statuses = Statuses(
            self.cluster,
            live=self.live.get,
            wrote=self._wrote,
            may_write=lambda: self.held,
            problem=self.problems.__setitem__,
            timestamp=lambda: "2026-01-01T00:00:00.000000Z",
        )

    def parent(self) -> None:
        self.cluster.put({"apiVersion": "flotilla.dev/v1alpha1", "kind": "AppliedBundle", "metadata": {"name": "shop"}})
        self.live["shop"] = Live(uid="u", generation=1)

    def _wrote(self, obj: Mapping[str, Any]) -> None:
        self.live["shop"] = Live(uid="u", generation=1, status=obj["status"])

    @property
    def written(self) -> str:
        return str(self.cluster.objects[KEY].get("status", {}).get("current", ""))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.statuses.run)
            yield
            group.cancel_scope.cancel()

    async def quiet(self) -> None:
        await until(lambda: not self.statuses._due)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "SETTLE_S", 0.02)
    monkeypatch.setattr(statuses, "LEAST_S", 0.1)
    monkeypatch.setattr(statuses, "AGAIN_S", 0.05)


async def test_a_burst_of_changes_is_one_write_and_the_last_word() -> None:
    rig = Rig()
    rig.parent()
    async with rig.running():
        for current in range(1000):
            rig.statuses.want("shop", facts(current))
        await until(lambda: rig.written == "999/999")
        await rig.quiet()
    assert rig.cluster.count("status") == 1


async def test_what_the_parent_says_already_is_not_written_again() -> None:
    rig = Rig()
    rig.parent()
    async with rig.running():
        rig.statuses.want("shop", facts(1))
        await until(lambda: rig.written == "1/1")
        rig.statuses.look("shop")
        rig.statuses.want("shop", facts(2))
        rig.statuses.want("shop", facts(1))
        await rig.quiet()
    assert rig.cluster.count("status") == 1


async def test_a_status_waits_for_its_parent_and_for_the_lease() -> None:
    rig = Rig()
    rig.held = False
    async with rig.running():
        rig.statuses.want("shop", facts(1))
        await rig.quiet()
        rig.parent()
        rig.statuses.look("shop")
        await until(lambda: rig.statuses._due.get("shop", 0) > 0)
        assert rig.cluster.count("status") == 0
        rig.held = True
        await until(lambda: rig.written == "1/1")


async def test_a_hand_edited_status_is_put_right() -> None:
    rig = Rig()
    rig.parent()
    async with rig.running():
        rig.statuses.want("shop", facts(1))
        await until(lambda: rig.live["shop"].status)
        rig.live["shop"] = Live(uid="u", generation=1, status={"current": "9/9"})
        rig.statuses.look("shop")
        await until(lambda: (rig.live["shop"].status or {}).get("current") == "1/1")
    assert rig.cluster.count("status") == 2


async def test_a_refusal_is_told_and_tried_again() -> None:
    rig = Rig()
    rig.parent()

    def refuse(method: str, key: ObjectKey) -> None:
        raise Permanent(str(key), "is forbidden")

    rig.cluster.before = refuse
    async with rig.running():
        rig.statuses.want("shop", facts(1))
        await until(lambda: "is forbidden" in rig.problems.get("statuses", ""))
        rig.cluster.before = lambda method, key: None
        await until(lambda: rig.written == "1/1")
        assert rig.problems["statuses"] == ""


async def test_a_bundle_that_is_gone_is_not_written() -> None:
    rig = Rig()
    rig.parent()
    async with rig.running():
        rig.statuses.want("shop", facts(1))
        rig.statuses.want("shop", None)
        rig.statuses.look("shop")
        await rig.quiet()
    assert rig.cluster.count("status") == 0
