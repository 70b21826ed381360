"""Maintenance pauses: whose counts, what a time is, and what the watch of Namespaces tells."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent.owner.pauses import MOST_UNREADABLE, Pauses, parse
from proto.objects import ObjectKey
from tests.agents import until
from tests.fakes import FakeCluster

KEY = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="settings")
NINE, TEN = 1_767_258_000.0, 1_767_261_600.0
"""2026-01-01, 9:00 and 10:00 UTC."""


def paused(until: str | None) -> dict[str, Any]:
    annotations = {"flotilla.dev/pause-until": until} if until is not None else {}
    return {"metadata": {"name": "settings", "annotations": annotations}}


def namespace(until: str, name: str = "shop") -> dict[str, Any]:
    metadata = {"name": name, "annotations": {"flotilla.dev/pause-until": until}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


class Rig:
    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.hub = ""
        self.changes = 0
        self.problems: dict[str, str] = {}
        self.pauses = Pauses(
            self.cluster,
            cluster_until=lambda: self.hub,
            changed=self._changed,
            problem=self.problems.__setitem__,
            delays=lambda: itertools.repeat(0.01),
        )

    def _changed(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.pauses.run)
            await until(lambda: "pauses" in self.problems)
            yield
            group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("2026-01-01T09:00:00Z", NINE, id="UTC"),
        pytest.param(" 2026-01-01T10:00:00+01:00\n", NINE, id="an offset, and space around it"),
        pytest.param("2026-01-01T09:00:00.5Z", NINE + 0.5, id="fractions"),
        pytest.param("2026-01-01T09:00:00", None, id="without an offset"),
        pytest.param("2026-01-01", None, id="a day"),
        pytest.param("in 2 hours", None, id="words"),
        pytest.param("1767258000", None, id="seconds"),
    ],
)
def test_a_time_names_its_offset(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError):  # noqa: PT011
            parse(text)
    else:
        assert parse(text) == seconds


def test_the_latest_of_object_and_hub_counts() -> None:
    rig = Rig()
    assert rig.pauses.until(KEY, None) is None
    assert rig.pauses.until(KEY, paused("2026-01-01T09:00:00Z")) == NINE
    rig.hub = "2026-01-01T10:00:00Z"
    assert rig.pauses.until(KEY, paused("2026-01-01T09:00:00Z")) == TEN
    assert rig.pauses.until(KEY, None) == TEN


async def test_a_namespace_pauses_itself_and_what_is_in_it() -> None:
    rig = Rig()
    rig.cluster.put(namespace("2026-01-01T09:00:00Z"))
    async with rig.running():
        assert rig.pauses.until(KEY, paused(None)) == NINE
        own = ObjectKey(group="", kind="Namespace", namespace="", name="shop")
        assert rig.pauses.until(own, None) == NINE
        assert rig.pauses.until(KEY._replace(namespace="other"), None) is None
        assert rig.pauses.until(KEY._replace(namespace="", name="shop"), None) is None
        rig.cluster.put(namespace("2026-01-01T10:00:00Z"))
        await until(lambda: rig.pauses.until(KEY, None) == TEN)
        rig.cluster.remove(own)
        await until(lambda: rig.pauses.until(KEY, None) is None)
        assert rig.changes == 3


async def test_a_pause_that_ended_while_nobody_watched_is_forgotten() -> None:
    rig = Rig()
    rig.cluster.put(namespace("2026-01-01T09:00:00Z"))
    async with rig.running():
        assert rig.pauses.until(KEY, None) == NINE
    rig.cluster.remove(ObjectKey(group="", kind="Namespace", namespace="", name="shop"))
    async with rig.running():
        await until(lambda: rig.pauses.until(KEY, None) is None)


async def test_unreadable_times_pause_nothing_and_name_whose_they_are_until_they_are_mended() -> None:
    rig = Rig()
    rig.cluster.put(namespace("tomorrow"))
    async with rig.running():
        assert rig.pauses.until(KEY, paused("soon")) is None
        assert "Namespace/shop" in rig.problems["pause times"]
        assert "'tomorrow'" in rig.problems["pause times"]
        assert "ConfigMap/shop/settings" in rig.problems["pause times"]
        assert rig.pauses.until(KEY, paused(None)) is None
        assert "ConfigMap/shop/settings" not in rig.problems["pause times"]
        rig.cluster.put(namespace("2026-01-01T09:00:00Z"))
        await until(lambda: rig.problems["pause times"] == "")


def test_few_unreadable_times_are_named() -> None:
    rig = Rig()
    for number in range(MOST_UNREADABLE + 3):
        rig.pauses.until(KEY._replace(name=f"c{number}"), paused("soon"))
    assert rig.problems["pause times"].count("'soon'") == MOST_UNREADABLE
