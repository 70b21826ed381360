"""Shows what happens while it happens: a screen with single keys on a terminal, plain lines elsewhere.

`Show` looks at the hub three times a second and keeps the lines; `on_screen` and `in_lines` show it.
Whatever a key starts runs beside the screen, one after the other. Next: `command` chooses.
"""

import os
import random
import re
import sys
import termios
import tty
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.live import Live

from hub.demo import screen, seen, story, view
from hub.demo.view import Line, Told, View
from hub.demo.world import World
from proto.errors import FlotillaError, Transient

LOOK_S = 0.3
DRAW_S = 0.12
KEPT_LINES = 500
SINGLE_CLUSTERS = 12
_FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""Rich's SVG names fonts on somebody's server; a picture of ours asks nobody, and any monospace font will do."""
"""Up to so many clusters each gets its own lines."""
PICTURE_WIDTH, PICTURE_HEIGHT = 108, 33
_KEYS = (
    ("c", "commit"),
    ("a", "approve"),
    ("b", "break"),
    ("l", "break late"),
    ("f", "freeze"),
    ("e", "edit"),
    ("o", "offline"),
    ("h", "hub"),
    ("s", "save"),
    ("q", "quit"),
)


class Show:
    """What is known of the world, and who wants every new line."""

    def __init__(self, world: World, *, told: Callable[[Line], None] | None = None) -> None:
        self._world = world
        self._told = told
        self._lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self._seen = 0
        self._acting = anyio.Lock()
        self._looking = anyio.Lock()
        self.view = View(url=world.url, hub=world.hub_runs)

    def say(self, text: str, mark: str = "★", style: str = "bold cyan") -> None:
        """A line about what the demo itself does."""
        self._add(Line(clock=datetime.now(UTC).strftime("%H:%M:%S"), mark=mark, style=style, text=text))

    async def tell(self, text: str) -> None:
        """The same, below what happened before it."""
        await self.look()
        self.say(text)

    def _add(self, line: Line) -> None:
        self._lines.append(line)
        if self._told is not None:
            self._told(line)
        self.view = replace(self.view, lines=tuple(self._lines))

    async def begin(self) -> None:
        """Look for the first time: lines begin now, what it took to get here is in the hub."""
        events = (await self._world.api("events?limit=1"))["events"]
        self._seen = events[-1]["id"] if events else 0
        self.say(f"{len(self._world.clusters)} clusters run the first commit", mark="✔", style="bold green")
        await self.look()

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await anyio.sleep(LOOK_S)

    async def look(self) -> None:
        """One look at the hub; while it is away the last word stays, marked as such."""
        async with self._looking:
            try:
                clusters = (await self._world.api("clusters"))["clusters"]
                rollouts = (await self._world.api("rollouts?limit=10"))["rollouts"]
                holds = (await self._world.api("fleet"))["holds"]
                events = (await self._world.api(f"events?since={self._seen}&limit=1000"))["events"]
            except Transient:
                self.view = replace(self.view, hub=False)
                return
            if events:
                self._seen = events[-1]["id"]
            for line in view.lines(events, one_by_one=len(clusters) <= SINGLE_CLUSTERS):
                self._add(line)
            self.view = replace(
                self.view,
                hub=True,
                clusters=view.clusters(clusters, offline=self._world.offline),
                rollouts=view.rollouts(rollouts, most=4),
                holds=tuple(holds),
            )

    # --- the story ------------------------------------------------------------------------------------------------

    async def play(self, steps: tuple[story.Step, ...] = story.STEPS, *, pause_s: float = 0.0) -> list[story.Outcome]:
        """Play all steps, the later ones also after a failure; `pause_s` after each is for the eye."""
        outcomes: list[story.Outcome] = []
        told = [Told(title=step.title) for step in steps]
        self.view = replace(self.view, keys=_KEYS[-1:])
        for index, step in enumerate(steps):
            told[index] = replace(told[index], state="now")
            self.view = replace(self.view, story=tuple(told))
            self.say(step.title, mark="", style="bold")
            outcome = await story.play(step, self._world, self.tell)
            outcomes.append(outcome)
            await self.look()
            told[index] = replace(told[index], state="ok" if outcome.ok else "failed", detail=outcome.detail)
            self.view = replace(self.view, story=tuple(told))
            mark, style = ("✔", "bold green") if outcome.ok else ("✘", "bold red")
            self.say(f"{outcome.detail} ({outcome.seconds:.1f} s)", mark=mark, style=style)
            await anyio.sleep(pause_s)
        return outcomes

    # --- keys -----------------------------------------------------------------------------------------------------

    def playing_along(self) -> None:
        """Say which keys there are."""
        self.view = replace(self.view, keys=_KEYS)
        self.say("press c to commit a new version of the shop, and watch it travel; a lets it pass its gate")

    async def press(self, key: str) -> None:
        """What a key does; what goes wrong is a line."""
        action: Mapping[str, Callable[[], Awaitable[None]]] = {
            "c": self._commit,
            "a": self._approve,
            "b": self._break,
            "l": self._break_late,
            "f": self._freeze,
            "e": self._edit,
            "o": self._offline,
            "h": self._hub,
            "s": self._save,
        }
        if key not in action:
            return
        async with self._acting:
            try:
                await action[key]()
            except FlotillaError as error:
                self.say(str(error), mark="!", style="red")

    async def _commit(self) -> None:
        _, version = await self._world.repo.release()
        self.say(f"you commit shop {version}")

    async def _break(self) -> None:
        await self._world.repo.break_()
        self.say("you commit a shop that cannot start")

    async def _break_late(self) -> None:
        region = (await seen.waves_of(self._world))[list(self._world.clusters)[-1]]
        _, version = await self._world.repo.unfit(region)
        self.say(f"you commit shop {version}, which can start in the canary, but not in {region}: approve it, and see")

    async def _approve(self) -> None:
        waiting = await self._world.at_gate()
        if not waiting:
            self.say("no rollout waits at a gate now")
        for rollout in waiting:
            self.say(f"you: flotilla approve {rollout} --reason 'looks good'")
            await self._world.flotilla("approve", rollout, "--reason", "looks good")

    async def _freeze(self) -> None:
        if await self._world.repo.thaw():
            self.say("you commit that the freeze is over")
        else:
            await self._world.repo.freeze()
            self.say("you commit a freeze: whatever you commit now waits, until you press f again")

    async def _edit(self) -> None:
        name = random.choice([name for name in self._world.clusters if name not in self._world.offline])
        cluster = self._world.clusters[name]
        match random.randrange(4):
            case 0:
                self.say(f"you scale the shop of {name} to 9")
                await cluster.patch(f"{seen.WEB}/scale", {"spec": {"replicas": 9}}, manager="kubectl-scale")
            case 1:
                self.say(f"you set another image in {name}")
                path = "/spec/template/spec/containers/0/image"
                value = "evil.example.org/shop"
                patch = [{"op": "replace", "path": path, "value": value}]
                await cluster.patch(seen.WEB, patch, manager="kubectl-edit")
            case 2:
                self.say(f"you change a setting in {name}")
                await cluster.patch(seen.SETTINGS, {"data": {"url": "http://elsewhere"}}, manager="kubectl-edit")
            case _:
                self.say(f"you delete the shop's Service in {name}")
                await cluster.delete(seen.SERVICE)

    async def _offline(self) -> None:
        if self._world.offline:
            for name in sorted(self._world.offline):
                await self._world.connect(name)
                self.say(f"{name} is on its way back")
            return
        name = list(self._world.clusters)[-1]
        await self._world.cut(name)
        if any(row.phase == "running" for row in self.view.rollouts):
            self.say(f"{name} goes offline in the middle of a rollout: if it got its move, that fails at the deadline")
        elif self._world.hub_runs:
            self.say(f"{name} falls silent ...")
            await seen.until_offline(self._world, name)
            self.say(f"{name} counts as offline: press c now, and o later")

    async def _hub(self) -> None:
        if self._world.hub_runs:
            self.say("the hub is going; edit something by hand now")
            await self._world.stop_hub()
        else:
            self.say("the hub is coming back")
            await self._world.start_hub()

    async def _save(self) -> None:
        file = Path.cwd() / "flotilla-demo.svg"
        await anyio.Path(file).write_text(picture(self.view))
        self.say(f"saved to {file}")


async def in_lines(show: Show, work: Callable[[], Awaitable[Any]] | None) -> None:
    """Lines as they happen, until `work` is done; for ever without it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(show.watch, name="watch")
        if work is None:
            await anyio.sleep_forever()
        else:
            await work()
        await show.look()
        tasks.cancel_scope.cancel()


async def on_screen(show: Show, console: Console, work: Callable[[], Awaitable[Any]] | None) -> None:
    """The screen, until `work` is done or somebody quits."""
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live, _single_keys():

        async def draw() -> None:
            while True:
                live.update(screen.draw(show.view, height=console.height, width=console.width), refresh=True)
                await anyio.sleep(DRAW_S)

        async def keys() -> None:
            async with anyio.create_task_group() as presses:
                while True:
                    await anyio.wait_readable(sys.stdin)
                    for key in os.read(sys.stdin.fileno(), 64).decode(errors="replace"):
                        if key in "qQ":
                            tasks.cancel_scope.cancel()
                            return
                        if work is None:
                            presses.start_soon(show.press, key.lower(), name=f"key {key}")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(show.watch, name="watch")
            tasks.start_soon(draw, name="draw")
            tasks.start_soon(keys, name="keys")
            if work is not None:
                await work()
                tasks.cancel_scope.cancel()


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come without Return and are not shown; Ctrl-C goes on being a signal."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def picture(shown: View, *, width: int = PICTURE_WIDTH, height: int = PICTURE_HEIGHT) -> str:
    """The screen as SVG."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=width, height=height, file=nowhere, force_terminal=True)
        console.print(screen.draw(shown, height=height, width=width))
        return _FONTS.sub("", console.export_svg(title="flotilla demo"))
