"""Pure: draws a `View` for a terminal of any size. Next: `live` refreshes it."""

import textwrap

from rich import box
from rich.align import Align
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hub.demo.view import Bar, ClusterRow, RolloutRow, Told, View

LEAST_WIDTH = 80
BAR_CELLS, NARROW_BAR_CELLS = 18, 6
WIDE = 100
"""From so many columns on bars are long."""
CLUSTERS_WIDTH = 36
"""What the clusters' panel needs so that no word of it is cut."""
REASON_LINES = 2
"""Why a rollout waits, or goes back, is what one looks for; more is in the lines below."""
EVENT_LINES = 2
"""A sentence of the demo fits them in the least width."""
LEAST_ROWS = 9
"""Of the upper half: two rollouts with three waves each, and why one of them waits."""
_BORDER = "bright_black"
_HEALTH = {
    "Current": ("●", "green"),
    "InProgress": ("◐", "yellow"),
    "Failed": ("✘", "bold red"),
    "Offline": ("○", "bright_black"),
    "Unknown": ("?", "bright_black"),
}
_PHASES = (
    ("proven", "green"),
    ("soaking", "yellow"),
    ("moving", "cyan"),
    ("reverting", "magenta"),
    ("reverted", "yellow"),
    ("failed", "red"),
    ("revert-failed", "red"),
    ("offline", "grey50"),
)
"""Phases of a member with their colours, in the order in which a bar fills; the rest is still to come."""
_STYLES = {"completed": "green", "running": "cyan", "rolling-back": "bold red", "rolled-back": "bold yellow"}
_STATES = {"": (" ", "bright_black"), "now": ("▸", "bold cyan"), "ok": ("✔", "green"), "failed": ("✘", "bold red")}


def draw(view: View, *, height: int, width: int = LEAST_WIDTH) -> RenderableType:
    """Pure: the whole screen, of so many lines and columns."""
    keys = _keys(view, width)
    top_rows = min(max(len(view.clusters), LEAST_ROWS), max(6, height // 2 - 6))
    body = Layout()
    top = top_rows + 3
    parts = [Layout(_title(view), size=3), Layout(name="top", size=top)]
    if view.story:
        parts.append(Layout(_story(view.story), size=len(view.story) + 2))
    told_rows = height - 3 - top - (len(view.story) + 2 if view.story else 0) - len(keys) - 2
    parts.append(Layout(_events(view, rows=max(1, told_rows), width=width)))
    if keys:
        parts.append(Layout(Group(*keys), size=len(keys)))
    body.split_column(*parts)
    left = max(CLUSTERS_WIDTH, width * 4 // 10)
    body["top"].split_row(
        Layout(_clusters(view, rows=top_rows), size=min(left, width // 2)),
        Layout(_rollouts(view, rows=top_rows, width=width - min(left, width // 2) - 4)),
    )
    return body


def _title(view: View) -> RenderableType:
    left = Text.assemble(
        ("Flotilla", "bold cyan"), ("  one commit, a whole fleet of clusters, wave by wave", "bright_black")
    )
    right = (
        Text.assemble(("status page ", "bright_black"), (view.url, f"underline cyan link {view.url}"))
        if view.hub
        else Text("the hub is stopped · agents go on", "bold yellow")
    )
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_row(left, right)
    return Panel(grid, box=box.ROUNDED, border_style="cyan" if view.hub else "yellow")


def _clusters(view: View, *, rows: int) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False, header_style="bright_black", show_edge=False)
    table.add_column("CLUSTER", no_wrap=True)
    table.add_column("HEALTH", no_wrap=True, ratio=1, min_width=12)
    table.add_column("SLICE", justify="right", no_wrap=True)
    table.add_column("DRIFT", justify="right", no_wrap=True)
    # Whoever has trouble comes first when there is no room for all.
    shown = (
        sorted(view.clusters, key=lambda row: row.health == "Current") if len(view.clusters) > rows else view.clusters
    )
    for row in shown[:rows]:
        table.add_row(*_cluster(row), style="" if view.hub else "dim")
    left = len(view.clusters) - rows
    return Panel(
        table,
        title=f"clusters · {len(view.clusters)}" + (f", {left} calm ones not shown" if left > 0 else ""),
        title_align="left",
        border_style=_BORDER,
        box=box.ROUNDED,
    )


def _cluster(row: ClusterRow) -> tuple[RenderableType, ...]:
    mark, style = _HEALTH.get(row.health, ("·", ""))
    behind = row.decided > row.applied
    applied = f"#{row.applied}" if row.applied else "–"
    return (
        Text(row.name, style="bright_black" if row.health == "Offline" else "bold"),
        Text(f"{mark} {row.health}", style=style),
        Text(f"{applied}→{row.decided}" if behind else applied, style="yellow" if behind else ""),
        Text(f"⚑ {row.drift}" if row.drift else "–", style="magenta" if row.drift else "bright_black"),
    )


def _rollouts(view: View, *, rows: int, width: int) -> RenderableType:
    parts: list[RenderableType] = []
    room = rows
    for row in view.rollouts:
        reason = _reason(row, width)
        need = 1 + len(reason) + len(row.bars)
        if room < need and parts:
            break
        room -= need
        parts.append(_rollout(row, reason, cells=BAR_CELLS if width >= WIDE // 2 else NARROW_BAR_CELLS))
    if not parts:
        parts.append(Align.center(Text("no rollout yet", style="bright_black")))
    title = Text("rollouts")
    if view.holds:
        title.append(f" · on hold: {', '.join(view.holds)}", style="bold yellow")
    return Panel(Group(*parts), title=title, title_align="left", border_style=_BORDER, box=box.ROUNDED)


def _reason(row: RolloutRow, width: int) -> list[str]:
    """Why it waits or goes back, in as many lines as there are for it."""
    return _folded(row.reason, width - 2, REASON_LINES)


def _rollout(row: RolloutRow, reason: list[str], *, cells: int) -> RenderableType:
    head = Text.assemble((row.id, "bold"), " ", (row.phase, _STYLES.get(row.phase, "yellow")), no_wrap=True)
    told = [Text(f"  {line}", style="yellow", no_wrap=True, overflow="ellipsis") for line in reason]
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=8, no_wrap=True)
    table.add_column(min_width=cells, no_wrap=True)
    table.add_column(no_wrap=True)
    for bar in row.bars:
        table.add_row(
            Text(f"  {bar.name}", style="" if bar.state == "open" else "bright_black"), _bar(bar, cells), _counts(bar)
        )
    return Group(head, *told, table)


def _bar(bar: Bar, cells: int) -> Text:
    text = Text()
    total, filled, seen = max(1, bar.clusters), 0, 0
    for phase, style in _PHASES:
        seen += bar.phases.get(phase, 0)
        more = round(cells * seen / total) - filled
        text.append("━" * more, style=style)
        filled += more
    text.append("━" * (cells - filled), style="grey23")
    return text


def _counts(bar: Bar) -> Text:
    words = [(f"{bar.phases[phase]} {phase}", style) for phase, style in _PHASES if bar.phases.get(phase)]
    waiting = bar.phases.get("pending", 0)
    if waiting:
        words.append((f"{waiting} waiting", "bright_black"))
    return Text(", ").join(Text(word, style=style) for word, style in words)


def _story(steps: tuple[Told, ...]) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for step in steps:
        mark, style = _STATES[step.state]
        table.add_row(Text(mark, style=style), Text(step.title, style=style), Text(step.detail, style="bright_black"))
    return Panel(table, title="the story", title_align="left", border_style=_BORDER, box=box.ROUNDED)


def _events(view: View, *, rows: int, width: int) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, style="bright_black", min_width=8)
    table.add_column(no_wrap=True, min_width=1)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    told: list[tuple[str, Text, Text]] = []
    for line in reversed(view.lines):
        first, *more = _folded(line.text, width - 15, EVENT_LINES) or [""]
        lines = [(line.clock, Text(line.mark, style=line.style), Text(first, style=line.style))]
        lines += [("", Text(""), Text(text, style=line.style)) for text in more]
        if len(told) + len(lines) > rows and told:
            break
        told += reversed(lines)
    for cells in reversed(told[:rows]):
        table.add_row(*cells)
    return Panel(table, title="what happens (UTC)", title_align="left", border_style=_BORDER, box=box.ROUNDED)


def _folded(text: str, width: int, lines: int) -> list[str]:
    """The text in so many lines at most."""
    return textwrap.wrap(text, max(10, width), max_lines=lines, placeholder="…")


def _keys(view: View, width: int) -> list[Text]:
    """The keys, in as many lines as they need."""
    lines: list[Text] = []
    for key, what in view.keys:
        told = Text.assemble((f" {key} ", "bold black on cyan"), f" {what} ")
        if not lines or lines[-1].cell_len + told.cell_len > width:
            lines.append(Text("", no_wrap=True, overflow="ellipsis"))
        lines[-1].append_text(told)
    return lines
