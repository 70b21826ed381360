"""Tables of `flotilla` on terminals of any width: columns where they fit, the rest below each row, nothing cut off."""

import socket

import click
import pytest

from hub.cli import asking

COLUMNS = ("ROLLOUT", "PHASE", "CLUSTERS", "REASON")
WHY = "canary failed in wave canary: container web: ImagePullBackOff"
ROWS = [("shop-2", "rolled-back", "1 pending, 1 reverted", WHY), ("shop-1", "completed", "2 proven", "")]


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    """The lines of the table on a terminal of that width."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    asking.print_table(COLUMNS, ROWS, empty="none")
    return [line.rstrip() for line in click.unstyle(capsys.readouterr().out).splitlines()]


def test_a_wide_terminal_has_a_line_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, 120) == [
        "ROLLOUT  PHASE        CLUSTERS               REASON",
        f"shop-2   rolled-back  1 pending, 1 reverted  {WHY}",
        "shop-1   completed    2 proven",
    ]


def test_the_last_column_is_folded_where_it_has_room_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, 80) == [
        "ROLLOUT  PHASE        CLUSTERS               REASON",
        "shop-2   rolled-back  1 pending, 1 reverted  canary failed in wave canary:",
        "                                             container web: ImagePullBackOff",
        "shop-1   completed    2 proven",
    ]


def test_what_has_no_room_beside_goes_below_with_its_name_and_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, 40) == [
        "ROLLOUT  PHASE",
        "shop-2   rolled-back",
        "  CLUSTERS 1 pending, 1 reverted  REASON",
        "  canary failed in wave canary:",
        "  container web: ImagePullBackOff",
        "shop-1   completed",
        "  CLUSTERS 2 proven",
    ]


def test_one_column_stays_beside_however_narrow_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(shown(monkeypatch, capsys, 5)).split()
    assert words[:2] == ["ROLLOUT", "shop-2"]
    assert "".join(words).count("ImagePullBackOff") == 1


def test_a_file_has_a_line_for_each_row_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    asking.print_table(COLUMNS, ROWS, empty="none")
    assert capsys.readouterr().out.splitlines()[1] == f"shop-2   rolled-back  1 pending, 1 reverted  {WHY}"


def test_a_hub_that_takes_the_connection_and_says_nothing_hangs_and_is_not_to_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        hub = asking.HubApi(f"http://127.0.0.1:{server.getsockname()[1]}", None)
        with pytest.raises(click.ClickException, match="does not answer within") as caught:
            hub.get("fleet")
    assert "hangs" in caught.value.message
