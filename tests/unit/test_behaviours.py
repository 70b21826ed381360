"""The table of behaviours: what counts as seen."""

from pathlib import Path

from tests.tools import behaviours

RESULTS = """<testsuites><testsuite name="pytest">
<testcase classname="tests.contract.test_apply" name="test_an_object_is_created[a-b]" time="0.1" />
<testcase classname="tests.contract.test_apply" name="test_an_object_is_created[c]" time="0.1" />
<testcase classname="tests.contract.test_apply" name="test_a_prune_waits"><skipped type="pytest.xfail" /></testcase>
<testcase classname="tests.contract.test_drift" name="test_an_edit_is_undone" time="0.1"><failure /></testcase>
</testsuite></testsuites>
"""


def seen(tmp_path: Path) -> behaviours.Seen:
    results = tmp_path / "results.xml"
    results.write_text(RESULTS)
    return behaviours.read(results)


def test_cases_of_one_behaviour_are_counted_in_one_row(tmp_path: Path) -> None:
    lines = list(behaviours.table({"simulated": seen(tmp_path), "real": {}}))
    assert "| an object is created | 2 | not run |" in lines
    assert "### test_apply" in lines


def test_what_failed_was_skipped_or_did_not_run_is_not_seen(tmp_path: Path) -> None:
    found = seen(tmp_path)
    assert behaviours.missing({"simulated": found, "real": found}) == [
        "test_apply: a prune waits: simulated: skipped",
        "test_apply: a prune waits: real: skipped",
        "test_drift: an edit is undone: simulated: failure",
        "test_drift: an edit is undone: real: failure",
    ]
    assert "test_apply: an object is created: real: not run" in behaviours.missing({"simulated": found, "real": {}})
