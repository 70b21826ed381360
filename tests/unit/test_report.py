"""What the agent tells the hub, and what it keeps until the hub has it."""

from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from agent.stream import report as reporting
from agent.stream.report import Known, Reporter, compose, urgent
from agent.stream.spool import FILE, Spool
from proto import wire
from proto.messages import BundleReport, DriftReport, Health, ObjectProblem, Report

GOOD = BundleReport(subtree="t1", health=Health.CURRENT, converged=True, counts={"Current": 3})
BUSY = BundleReport(subtree="t2", health=Health.IN_PROGRESS, converged=False, counts={"InProgress": 3})


def problem(number: int = 0, message: str = "no image") -> ObjectProblem:
    return ObjectProblem(object=f"Pod/shop/web-{number}", health=Health.FAILED, reason="Pull", message=message)


def drift(drift_id: str) -> DriftReport:
    return DriftReport(id=drift_id, bundle="shop", object="Deployment/shop/web", what="changed")


def composed(told: Known | None, now: Known, *, spooled: tuple[DriftReport, ...] = (), cut: int = 0) -> Report:
    return compose(told, now, number=7, boot_id="b", agent_version="1", drift=spooled, cut=cut)


# --- what a report says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "now", "bundles", "removed", "full"),
    [
        pytest.param(None, Known(bundles={"a": GOOD}), {"a"}, (), True, id="first: everything"),
        pytest.param(Known(bundles={"a": GOOD}), Known(bundles={"a": GOOD}), set(), (), False, id="nothing changed"),
        pytest.param(Known(), Known(bundles={"a": GOOD}), {"a"}, (), False, id="a new bundle"),
        pytest.param(
            Known(bundles={"a": GOOD, "b": GOOD}),
            Known(bundles={"a": BUSY, "b": GOOD}),
            {"a"},
            (),
            False,
            id="one of two changed",
        ),
        pytest.param(
            Known(bundles={"a": GOOD, "b": GOOD}), Known(bundles={"b": GOOD}), set(), ("a",), False, id="one is gone"
        ),
        pytest.param(None, Known(), set(), (), True, id="first, with nothing"),
    ],
)
def test_a_report_is_the_difference(
    told: Known | None, now: Known, bundles: set[str], removed: tuple[str, ...], full: bool
) -> None:
    report = composed(told, now)

    assert report.bundles.keys() == bundles
    assert (report.removed, report.full, report.number, report.boot_id) == (removed, full, 7, "b")


def test_deltas_replayed_at_the_hub_give_what_a_full_report_gives() -> None:
    states = [
        Known(bundles={"a": BUSY}),
        Known(bundles={"a": GOOD, "b": BUSY}),
        Known(bundles={"b": GOOD}),
        Known(bundles={"a": BUSY, "b": GOOD}),
    ]
    at_hub: dict[str, BundleReport] = {}
    told = None
    for state in states:
        delta = composed(told, state)
        at_hub = {name: bundle for name, bundle in at_hub.items() if name not in delta.removed} | delta.bundles
        told = state
        assert at_hub == state.bundles


def test_every_limit_counts_what_it_leaves_out() -> None:
    sick = msgspec.structs.replace(GOOD, problems=tuple(problem(number) for number in range(70)))
    now = Known(bundles={"a": sick, "b": sick}, problems=tuple(f"problem {number}" for number in range(53)))

    report = composed(None, now, spooled=tuple(drift(str(number)) for number in range(130)), cut=4)

    assert [len(bundle.problems) for bundle in report.bundles.values()] == [50, 50]
    assert (len(report.problems), len(report.drift)) == (50, 100)
    assert report.cut == {"objects": 40, "problems": 3, "drift": 4}


def test_a_report_of_any_size_fits_into_a_message() -> None:
    wide = problem(message="\x01" * 500)
    sick = msgspec.structs.replace(GOOD, problems=tuple(msgspec.structs.replace(wide) for _ in range(50)))
    now = Known(bundles={f"bundle-{number}": sick for number in range(400)})

    report = composed(None, now)

    assert wire.decode(wire.encode(report)) == report
    assert report.bundles.keys() == now.bundles.keys()
    assert report.cut["objects"] == 400 * 50 - sum(len(bundle.problems) for bundle in report.bundles.values())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(Known(bundles={"a": BUSY}), Known(bundles={"a": GOOD}), True, id="proof"),
        pytest.param(Known(bundles={"a": GOOD}), Known(bundles={}), True, id="gone"),
        pytest.param(Known(seq=1), Known(seq=2), True, id="slice"),
        pytest.param(
            Known(bundles={"a": BUSY}),
            Known(bundles={"a": msgspec.structs.replace(BUSY, counts={"Current": 1})}),
            False,
            id="counts",
        ),
        pytest.param(Known(), Known(problems=("disk is full",)), False, id="agent's problem"),
    ],
)
def test_what_a_rollout_waits_for_is_told_at_once(before: Known, after: Known, expected: bool) -> None:
    assert urgent(before, after) is expected


# --- when, and again ----------------------------------------------------------------------------------------------


@pytest.fixture
def reporter(tmp_path: Path) -> Reporter:
    return Reporter(tmp_path, boot_id="b", agent_version="1", min_interval_s=0.2)


def sent(reporter: Reporter, now: float) -> Report:
    report = reporter.next(now, heartbeat_s=30.0)
    assert report is not None
    return report


def told(reporter: Reporter, now: float) -> Report:
    report = sent(reporter, now)
    reporter.acked(report.number)
    return report


def test_a_session_begins_with_a_full_report_and_goes_on_with_deltas(reporter: Reporter) -> None:
    reporter.set_bundle("a", GOOD)
    reporter.set_slice(3, "c" * 40)
    reporter.set_kubernetes_version("v1.36.3")

    first = told(reporter, 0.0)
    reporter.set_bundle("b", BUSY)
    second = told(reporter, 0.1)

    assert (first.number, first.full, first.seq, first.kubernetes_version) == (1, True, 3, "v1.36.3")
    assert (second.number, second.full, set(second.bundles)) == (2, False, {"b"})


def test_an_idle_agent_sends_empty_deltas_as_heartbeats(reporter: Reporter) -> None:
    told(reporter, 100.0)

    assert reporter.next(129.9, heartbeat_s=30.0) is None
    beat = told(reporter, 130.0)
    assert (beat.bundles, beat.removed, beat.full) == ({}, (), False)
    assert reporter.due_in(131.0, heartbeat_s=30.0) == 29.0
    assert reporter.due_in(130.0, heartbeat_s=-5.0) > 0, "a hub cannot make an agent send without end"


def test_small_changes_wait_for_each_other_and_a_proof_does_not(reporter: Reporter) -> None:
    reporter.set_bundle("a", BUSY)
    told(reporter, 10.0)
    for count in range(5):
        reporter.set_bundle("a", msgspec.structs.replace(BUSY, counts={"Current": count}))
    assert reporter.next(10.1, heartbeat_s=30.0) is None
    assert told(reporter, 10.2).bundles["a"].counts == {"Current": 4}

    reporter.set_bundle("a", GOOD)
    assert told(reporter, 10.21).bundles["a"].converged


def test_one_report_is_on_its_way_at_a_time_and_changes_meanwhile_come_with_the_next(reporter: Reporter) -> None:
    reporter.set_bundle("a", BUSY)
    first = sent(reporter, 0.0)
    reporter.set_bundle("a", GOOD)

    assert reporter.next(60.0, heartbeat_s=30.0) is None
    reporter.acked(first.number + 1)
    reporter.acked(first.number - 1)
    assert reporter.next(60.0, heartbeat_s=30.0) is None, "acknowledgements of other reports are none"
    reporter.acked(first.number)
    assert told(reporter, 60.0).bundles == {"a": GOOD}


def test_a_lost_report_is_told_again_in_full(reporter: Reporter) -> None:
    told(reporter, 0.0)
    reporter.set_bundle("a", GOOD)
    reporter.add_drift(drift("d1"))
    lost = sent(reporter, 1.0)

    reporter.full_needed()
    again = told(reporter, 1.0)

    assert (again.full, again.bundles, again.drift) == (True, lost.bundles, lost.drift)
    assert again.number > lost.number
    reporter.acked(lost.number)  # late
    assert reporter.next(1.1, heartbeat_s=30.0) is None


def test_a_bundle_that_comes_back_after_its_removal_was_lost_is_right_at_the_hub(reporter: Reporter) -> None:
    reporter.set_bundle("a", GOOD)
    told(reporter, 0.0)
    reporter.remove_bundle("a")
    removal = sent(reporter, 1.0)
    reporter.set_bundle("a", GOOD)

    assert removal.removed == ("a",)
    reporter.acked(removal.number)
    assert told(reporter, 1.0).bundles == {"a": GOOD}


def test_texts_are_shortened_where_they_come_in(reporter: Reporter) -> None:
    reporter.set_bundle("a", msgspec.structs.replace(GOOD, problems=(problem(message="x" * 9000),)))
    reporter.set_problems(["y" * 9000])
    reporter.add_drift(msgspec.structs.replace(drift("d"), fields=tuple(f".spec.f{n}" for n in range(80))))

    report = told(reporter, 0.0)

    assert len(report.bundles["a"].problems[0].message) == reporting.MAX_TEXT
    assert len(report.problems[0]) == reporting.MAX_TEXT
    assert report.drift[0].fields[-1] == "… and 30 more"


async def test_waiting_ends_with_a_change_and_with_an_answer(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, boot_id="b", agent_version="1")
    with anyio.fail_after(10):
        await reporter.wait_due(heartbeat_s=1000.0)
        report = sent(reporter, anyio.current_time())
        async with anyio.create_task_group() as group:
            group.start_soon(reporter.wait_answered)
            await anyio.wait_all_tasks_blocked()
            reporter.acked(report.number)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: reporter.wait_due(heartbeat_s=1000.0))
            await anyio.wait_all_tasks_blocked()
            reporter.add_drift(drift("d"))


# --- the spool ----------------------------------------------------------------------------------------------------


def ids(report: Report) -> list[str]:
    return [one.id for one in report.drift]


def test_drift_outlives_a_restart_until_the_hub_has_it(tmp_path: Path) -> None:
    first = Reporter(tmp_path, boot_id="b1", agent_version="1")
    first.add_drift(drift("d0"))

    first = Reporter(tmp_path, boot_id="b2", agent_version="1")
    first.add_drift(drift("d1"))
    assert ids(told(first, 0.0)) == ["d0", "d1"]
    first.add_drift(drift("d3"))
    sent(first, 1.0)  # never acknowledged

    second = Reporter(tmp_path, boot_id="b3", agent_version="1")
    assert ids(told(second, 0.0)) == ["d3"]
    assert ids(told(Reporter(tmp_path, boot_id="b4", agent_version="1"), 0.0)) == []


def test_more_drift_than_fits_one_report_comes_with_the_next_ones(reporter: Reporter) -> None:
    for number in range(250):
        reporter.add_drift(drift(f"d{number}"))

    reports = [told(reporter, 0.0) for _ in range(3)]

    assert [one for report in reports for one in ids(report)] == [f"d{number}" for number in range(250)]
    assert reporter.next(0.1, heartbeat_s=30.0) is None


def test_a_full_spool_drops_the_oldest_and_says_how_many(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit=10)
    for number in range(35):
        spool.add(drift(f"d{number}"))

    assert [one.id for one in spool.waiting] == [f"d{number}" for number in range(25, 35)]
    again = Spool(tmp_path, limit=10)
    assert ([one.id for one in again.waiting], again.cut) == ([one.id for one in spool.waiting], 25)
    assert len((tmp_path / FILE).read_bytes().splitlines()) <= 20
    again.drop({"d25"}, cut=25)
    assert (len(Spool(tmp_path, limit=10).waiting), Spool(tmp_path, limit=10).cut) == (9, 0)


def test_the_count_of_dropped_drift_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = Reporter(tmp_path, boot_id="b", agent_version="1")
    for number in range(1005):
        reporter.add_drift(drift(f"d{number}"))

    assert sent(reporter, 0.0).cut == {"drift": 5}
    reporter.full_needed()
    assert told(reporter, 0.0).cut == {"drift": 5}, "the first telling was lost"
    assert told(reporter, 0.0).cut == {}


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(b'{"id":"d2","bun', id="torn last line"),
        pytest.param(b"\x00\xff\n[]\n{}\n", id="garbage"),
    ],
)
def test_a_torn_spool_keeps_its_whole_lines(tmp_path: Path, kept: bytes) -> None:
    Spool(tmp_path).add(drift("d1"))
    with (tmp_path / FILE).open("ab") as file:
        file.write(kept)

    spool = Spool(tmp_path)
    spool.add(drift("d3"))

    assert [one.id for one in Spool(tmp_path).waiting] == ["d1", "d3"]


def test_an_id_told_twice_is_spooled_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add(drift("d1"))
    spool.add(msgspec.structs.replace(drift("d1"), action="failed"))

    for one in (spool, Spool(tmp_path)):
        assert [(kept.id, kept.action) for kept in one.waiting] == [("d1", "failed")]


def test_a_disk_that_takes_nothing_costs_the_durability_not_the_reports(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    reporter = Reporter(tmp_path, boot_id="b", agent_version="1")

    reporter.add_drift(drift("d1"))

    assert ids(told(reporter, 0.0)) == ["d1"]


def test_the_slice_that_was_taken_up_is_told_at_once() -> None:
    before = Known(seq=1, commit="a")
    assert composed(before, replace(before, seq=2, commit="b")).seq == 2
