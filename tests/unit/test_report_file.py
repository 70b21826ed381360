"""The file in which an agent without a hub says how it is."""

import itertools
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.stream import report_file
from agent.stream.report import MAX_DRIFT, Reporter
from agent.stream.report_file import ReportFile
from proto.messages import BundleReport, DriftReport, Health
from tests.agents import until


@pytest.fixture
def reporter(tmp_path: Path) -> Reporter:
    return Reporter(tmp_path, boot_id="boot", agent_version="1")


def said(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def drift(n: int) -> DriftReport:
    return DriftReport(
        id=f"d{n}", bundle="shop", object="ConfigMap/shop/web", what="changed", time="", action="reverted"
    )


async def test_it_follows_what_the_agent_would_tell(
    reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_file, "MIN_INTERVAL_S", 0.001)
    path, clock = tmp_path / "eu-1.json", itertools.count()
    file = ReportFile(path, reporter, cluster="eu-1", timestamp=lambda: f"at {next(clock)}")
    async with anyio.create_task_group() as group:
        group.start_soon(file.run)
        await until(lambda: said(path).get("cluster") == "eu-1")
        assert said(path)["time"] == "at 0"
        reporter.set_slice(7, "c" * 40)
        reporter.set_bundle("shop", BundleReport(subtree="s" * 40, health=Health.CURRENT, converged=True))
        reporter.add_drift(drift(1))
        await until(lambda: said(path)["report"]["drift"])
        group.cancel_scope.cancel()
    report = said(path)["report"]
    assert (report["seq"], report["full"], report["bundles"]["shop"]["health"]) == (7, True, "Current")
    assert not path.with_name(".eu-1.json.new").exists()


def test_of_much_drift_the_newest_is_told_and_nothing_counts_as_told(reporter: Reporter) -> None:
    for n in range(MAX_DRIFT + 20):
        reporter.add_drift(drift(n))
    for _ in range(2):
        report = reporter.whole()
        assert [report.drift[0].id, report.drift[-1].id] == ["d20", f"d{MAX_DRIFT + 19}"]
        assert report.cut["drift"] == 20


async def test_a_folder_that_takes_no_file_costs_the_file_alone(
    reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(report_file, "MIN_INTERVAL_S", 0.001)
    path = tmp_path / "not-there-yet" / "eu-1.json"
    async with anyio.create_task_group() as group:
        group.start_soon(ReportFile(path, reporter, cluster="eu-1", timestamp=lambda: "").run)
        await until(lambda: "cannot be written" in caplog.text)
        path.parent.mkdir()
        reporter.set_slice(1, "c" * 40)
        await until(lambda: said(path).get("report", {}).get("seq") == 1)
        group.cancel_scope.cancel()
