"""Runs the demo: sets the world up, shows it in the way that fits, and says how it went. Next: `live`, `story`."""

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import anyio
from rich.console import Console
from rich.text import Text

from hub.demo import fleet, live, story, world
from hub.demo.kubectl import Target
from hub.demo.view import Line
from proto.errors import FlotillaError

PAUSE_S = 2.0
"""On a screen, between two steps."""


def run(folder: Path, *, clusters: int, real: Sequence[Target] = (), once: bool, json_file: Path | None) -> int:
    """Set up, show, clean up; the exit code. `real` clusters take the place of simulated ones.

    Raises FlotillaError when the set-up fails.
    """
    return anyio.run(_run, folder, clusters, real, once, json_file)


async def _run(folder: Path, count: int, real: Sequence[Target], once: bool, json_file: Path | None) -> int:
    """The exit code: 0 when all went as it should, 1 for a step that was not seen or a story that was broken off."""
    names = [] if real else fleet.cluster_names(count)
    code = 1 if once else 0
    failed: FlotillaError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_signal, tasks.cancel_scope, name="signals")
        try:
            async with world.open_world(folder, names, real=real) as made:
                code = await _show(made, once, json_file, real=bool(real))
        except FlotillaError as error:
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return code


async def _show(made: world.World, once: bool, json_file: Path | None, *, real: bool) -> int:
    console = Console(highlight=False)
    screen = console.is_terminal and sys.stdin.isatty()
    began = anyio.current_time()
    with console.status("a hub, agents and clusters") if screen else nullcontext():
        names = list(made.clusters)
        files = fleet.real_cluster_files(names) if real else fleet.cluster_files(names)
        await made.set_up(files, lambda text: _print(console, Line(clock="", mark="·", style="", text=text)))
    took = anyio.current_time() - began
    console.print(f"{len(made.clusters)} clusters are up after {took:.0f} s; status page {made.url}", soft_wrap=True)

    show = live.Show(made, told=None if screen else lambda line: _print(console, line))
    await show.begin()
    outcomes: list[story.Outcome] = []
    began = anyio.current_time()

    async def work() -> None:
        outcomes.extend(await show.play(pause_s=PAUSE_S if screen else 0.0))

    if not once:
        show.playing_along()
    if screen:
        await live.on_screen(show, console, work if once else None)
    else:
        await live.in_lines(show, work if once else None)
    if not once:
        return 0
    return await _end(console, made, outcomes, seconds=anyio.current_time() - began, json_file=json_file)


async def _end(
    console: Console, made: world.World, outcomes: list[story.Outcome], *, seconds: float, json_file: Path | None
) -> int:
    if json_file is not None:
        written = json.dumps(story.summary(outcomes, seconds=seconds), indent=2, ensure_ascii=False)
        await anyio.Path(json_file).write_text(written + "\n")
    console.print()
    for step, outcome in zip(story.STEPS, outcomes, strict=False):
        mark, style = ("✔", "green") if outcome.ok else ("✘", "bold red")
        console.print(Text(f"{mark} {step.title}  ({outcome.seconds:.1f} s)", style=style), soft_wrap=True)
        console.print(Text(f"      {outcome.detail}", style="bright_black"), soft_wrap=True)
    seen = len(outcomes) == len(story.STEPS) and all(outcome.ok for outcome in outcomes)
    console.print(Text(f"everything was seen, in {seconds:.0f} s" if seen else "not everything was seen", style="bold"))
    if not seen:
        console.print(Text(made.logs(), style="bright_black"))
    return 0 if seen else 1


def _print(console: Console, line: Line) -> None:
    console.print(Text(f"{line.clock:8} {line.mark or ' '} {line.text}", style=line.style), soft_wrap=True)


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return
