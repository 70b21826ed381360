"""How far a long command is: silent at first, then one line on a terminal, or plain lines elsewhere."""

import io
import threading

import pytest

from hub.cli.progress import noted, tracked


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def told(*, terminal: bool, step_s: float, total: int) -> str:
    screen, now = Screen(terminal=terminal), [0.0]
    for _ in tracked(range(total), "rendering", total=total, stream=screen, clock=lambda: now[0]):
        now[0] += step_s
    return screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_two_seconds_pass_in_silence(terminal: bool) -> None:
    assert told(terminal=terminal, step_s=0.01, total=100) == ""


def test_a_log_gets_a_plain_line_every_few_seconds() -> None:
    assert told(terminal=False, step_s=1.0, total=10).splitlines() == [
        "rendering: 2 of 10, 8 s left",
        "rendering: 7 of 10, 3 s left",
    ]


def test_a_terminal_has_one_line_that_is_gone_in_the_end() -> None:
    text = told(terminal=True, step_s=1.0, total=4)
    assert "\n" not in text
    assert text.startswith("\r\x1b[Krendering: 2 of 4, 2 s left\r")
    assert text.endswith("\r\x1b[K")


def test_hours_are_told_in_minutes() -> None:
    assert "1 of 100, 99 min left" in told(terminal=False, step_s=60.0, total=100)


def test_what_cannot_be_counted_is_named_once_it_takes_long() -> None:
    spoken = threading.Event()

    class Listening(Screen):
        def flush(self) -> None:
            spoken.set()

    log, terminal = Listening(terminal=False), Listening(terminal=True)
    for screen in (log, terminal):
        spoken.clear()
        with noted("reading fleet", stream=screen, quiet_s=0.0):
            assert spoken.wait(10)
    assert log.getvalue() == "reading fleet\n"
    assert terminal.getvalue() == "reading fleet\r\x1b[K"
    with noted("reading fleet", stream=log, quiet_s=1000.0):
        pass
    assert log.getvalue() == "reading fleet\n"
