"""A run as a picture for the terminal: rollouts as bars over days, and the waves of one of them over its own time.

A cell shows what took most of its time. Pure. The command prints it, in colours where there are any.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hub.simulate import ledger
from hub.simulate.ledger import Entry, Part
from hub.state import Phase

MARKS: dict[str, tuple[str, str]] = {
    ledger.APPLY: ("█", "green"),
    ledger.MAX_CONCURRENT: ("▓", "cyan"),
    ledger.SOAK: ("▒", "blue"),
    "gate": ("?", "yellow"),
    ledger.WINDOW: ("|", "magenta"),
    ledger.FREEZE: ("*", "magenta"),
    ledger.OFFLINE: ("o", "white"),
    ledger.PROOF: ("o", "white"),
    ledger.DEPENDENCY: (":", "white"),
    ledger.MAX_CHANGES: (":", "white"),
    ledger.MAX_UNAVAILABLE: (":", "white"),
    ledger.QUEUE: ("~", "white"),
    ledger.PAUSED: ("!", "red"),
    ledger.ROLLBACK: ("<", "red"),
}
"""What is waited for → its character, and its colour."""
_STEPS_S = (60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800)
_TICK_CELLS = 8
"""A tick and its words need so much room."""
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: what it is, and its cells as (character, colour or "")."""

    label: str
    cells: tuple[tuple[str, str], ...]
    note: str = ""


def overview(entries: Sequence[Entry], *, start: float, end: float, width: int) -> list[Line]:
    """Pure: a line for each rollout, below the days. `width` is in characters, labels included."""
    lines = [(entry.rollout, entry.parts, _ended(entry)) for entry in entries]
    return _drawn(lines, start=start, end=end, width=width)


def waves(entry: Entry, *, width: int) -> list[Line]:
    """Pure: a line for each wave of one rollout, over its own time."""
    names = {part.wave for part in entry.parts}
    ordered = [name for name in (*entry.waves, "") if name in names]
    lines = [(name or "(whole)", [part for part in entry.parts if part.wave == name], "") for name in ordered]
    if not entry.parts:
        return []
    return _drawn(lines, start=entry.parts[0].start, end=entry.parts[-1].end, width=width)


def legend(entries: Iterable[Entry]) -> list[tuple[str, str, str]]:
    """Pure: (character, colour, what it means) of all that is in the picture, in the table's order."""
    kinds = {_kind(part.kind) for entry in entries for part in entry.parts}
    found: dict[tuple[str, str], list[str]] = {}
    for kind, mark in MARKS.items():
        if kind in kinds:
            found.setdefault(mark, []).append(kind)
    return [(character, colour, "/".join(names)) for (character, colour), names in found.items()]


def _kind(kind: str) -> str:
    return "gate" if kind.startswith(ledger.GATE) else kind


def _drawn(lines: Sequence[tuple[str, Sequence[Part], str]], *, start: float, end: float, width: int) -> list[Line]:
    margin = max((len(label) for label, _, _ in lines), default=0)
    noted = max((len(note) for _, _, note in lines), default=0)
    cells = max(10, width - margin - noted - 4)
    step_s = max(1.0, (end - start) / cells)
    axis = Line(label="".ljust(margin), cells=_axis(start, cells, step_s))
    return [
        axis,
        *(
            Line(label=label.ljust(margin), cells=_bar(parts, start, cells, step_s), note=note)
            for label, parts, note in lines
        ),
    ]


def _bar(parts: Sequence[Part], start: float, cells: int, step_s: float) -> tuple[tuple[str, str], ...]:
    spent: list[dict[str, float]] = [{} for _ in range(cells)]
    for part in parts:
        first, last = int((part.start - start) // step_s), int((part.end - start) // step_s)
        for cell in range(max(0, first), min(cells - 1, last) + 1):
            begins = start + cell * step_s
            seconds = min(part.end, begins + step_s) - max(part.start, begins)
            kind = _kind(part.kind)
            spent[cell][kind] = spent[cell].get(kind, 0.0) + max(0.0, seconds)
    return tuple(MARKS[max(each, key=lambda kind: each[kind])] if each else (" ", "") for each in spent)


def _axis(start: float, cells: int, step_s: float) -> tuple[tuple[str, str], ...]:
    """Ticks at round times of UTC: days, or hours where there is room for them."""
    tick_s = next((step for step in _STEPS_S if step >= step_s * _TICK_CELLS), _STEPS_S[-1])
    row = [" "] * cells
    at = math.ceil(start / tick_s) * tick_s
    while (cell := int((at - start) // step_s)) < cells:
        moment = datetime.fromtimestamp(at, UTC)
        midnight = moment.hour == 0 and moment.minute == 0
        text = f"{_WEEKDAYS[moment.weekday()]} {moment.day}" if midnight else f"{moment:%H:%M}"
        if cell + len(text) < cells:
            row[cell : cell + len(text) + 1] = f"'{text}"
        at += tick_s
    return tuple((character, "") for character in row)


def _ended(entry: Entry) -> str:
    if entry.phase is Phase.RUNNING:
        return "under way"
    return entry.phase.value + (" (bad)" if entry.commit is not None and entry.commit.bad else "")
