"""Kubernetes Events: few, in series, never too long, and never in the way."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent.owner.events import BURST, EVERY_S, MAX_NOTE_BYTES, QUEUE, SERIES_S, Event, Events, Regarding
from proto.errors import Permanent
from proto.objects import ObjectKey
from tests.agents import until
from tests.fakes import FakeCluster

WEB = Regarding(
    key=ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web"), api_version="apps/v1", uid="u1"
)
SHOP = Regarding(
    key=ObjectKey(group="flotilla.dev", kind="AppliedBundle", namespace="", name="shop"),
    api_version="flotilla.dev/v1alpha1",
    uid="u2",
)


class Rig:
    def __init__(self) -> None:
        self.cluster = FakeCluster()
        for name in ("shop", "default"):
            self.cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.now = 0.0
        self.held = True
        ticks = itertools.count()
        self.events = Events(
            self.cluster,
            instance="agent-1",
            may_write=lambda: self.held,
            timestamp=lambda: f"2026-01-01T00:00:00.{next(ticks):06d}Z",
            clock=lambda: self.now,
        )

    def note(self, note: str, about: Regarding | None = WEB, *, warning: bool = False) -> None:
        self.events.note(Event(reason="Failed", action="Failed", note=note, about=lambda: about, warning=warning))

    @property
    def written(self) -> list[dict[str, Any]]:
        return [obj for key, obj in self.cluster.objects.items() if key.kind == "Event"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.events.run)
            yield
            group.cancel_scope.cancel()

    async def done(self) -> None:
        await until(lambda: not self.events._queue and self.events._added.statistics().tasks_waiting)


async def test_an_event_is_where_kubectl_describe_looks() -> None:
    rig = Rig()
    async with rig.running():
        rig.note("Deployment/shop/web: no", warning=True)
        rig.note("bundle shop: no", SHOP)
        await rig.done()
    of_object, of_bundle = rig.written
    assert of_object["regarding"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "namespace": "shop",
        "name": "web",
        "uid": "u1",
    }
    assert (of_object["metadata"]["namespace"], of_object["type"]) == ("shop", "Warning")
    assert (of_bundle["metadata"]["namespace"], of_bundle["type"]) == ("default", "Normal")
    assert (of_bundle["reportingController"], of_bundle["reportingInstance"]) == ("flotilla.dev/agent", "agent-1")
    assert "namespace" not in of_bundle["regarding"]


async def test_a_burst_is_written_then_one_each_so_many_seconds_and_what_was_left_out_is_counted() -> None:
    rig = Rig()
    async with rig.running():
        for number in range(BURST + 7):
            rig.note(f"no {number}")
        await rig.done()
        assert len(rig.written) == BURST
        rig.now += EVERY_S
        rig.note("later")
        await rig.done()
        assert len(rig.written) == BURST + 1
        assert rig.written[-1]["note"] == "later (7 more events were left out before this one)"
        rig.now += EVERY_S
        rig.note("last")
        await rig.done()
        assert rig.written[-1]["note"] == "last"


async def test_the_same_again_is_one_more_of_a_series_that_ends() -> None:
    rig = Rig()
    async with rig.running():
        for _ in range(5):
            rig.note("no")
        await rig.done()
        assert len(rig.written) == 1
        assert "series" not in rig.written[0]
        rig.now += EVERY_S
        rig.note("no")
        await rig.done()
        [event] = rig.written
        assert event["series"]["count"] == 6
        rig.now += SERIES_S + 1
        rig.note("no")
        await rig.done()
        assert len(rig.written) == 2


async def test_a_full_queue_drops_and_says_so() -> None:
    rig = Rig()
    for number in range(QUEUE + 3):
        rig.note(f"no {number % 2}")
    async with rig.running():
        await rig.done()
    assert rig.written[0]["note"] == "no 0 (3 more events were left out before this one)"


@pytest.mark.parametrize("letter", ["x", "é", "🚢"])
async def test_no_note_is_longer_than_the_server_takes(letter: str) -> None:
    rig = Rig()
    async with rig.running():
        rig.note(letter * 2000)
        await rig.done()
    [event] = rig.written
    assert MAX_NOTE_BYTES - 4 <= len(event["note"].encode()) <= MAX_NOTE_BYTES
    assert event["note"].endswith("…")


async def test_a_refusal_is_logged_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()

    def refuse(method: str, key: ObjectKey) -> None:
        if method == "create":
            raise Permanent(str(key), "is forbidden")

    rig.cluster.before = refuse
    async with rig.running():
        rig.note("one")
        rig.note("two")
        await rig.done()
        assert [record.message for record in caplog.records if "is forbidden" in record.message] == [
            caplog.records[0].message
        ]
        rig.cluster.before = lambda method, key: None
        rig.note("three")
        await rig.done()
    assert [event["note"] for event in rig.written] == ["three"]


async def test_without_the_lease_or_an_object_nothing_is_written() -> None:
    rig = Rig()
    async with rig.running():
        rig.note("gone", None)
        rig.held = False
        rig.note("not ours to say")
        await rig.done()
    assert rig.cluster.count("create") == 0
