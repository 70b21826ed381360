"""The demo's story: its steps, and how one is played; whatever is not seen fails its step, with why.

    waves     a commit reaches all clusters, each wave after the proof of the one before, past a person's gate
    drift     what somebody edits, scales and deletes in two clusters is reported and reverted
    bad       a bad commit fails in the canary wave, the others never get it, it is rolled back
    rollback  a commit that fails in the last wave only is rolled back everywhere, the last wave first
    freeze    while fleet.yaml has a freeze nothing starts; the fix waits, and goes on when it is over
    hub       the hub is stopped; an agent goes on reverting, its report arrives later
    offline   a cluster that was offline catches up

Steps look from outside only (`seen`). Next: `live` shows them.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import anyio

from hub.demo import commits, hands
from hub.demo.seen import Say, World
from proto.errors import FlotillaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: what it is called, what it shows, and how it is played; that gives what was seen."""

    name: str
    title: str
    play: Callable[[World, Say], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step went; `detail` is what was seen, or what was not."""

    name: str
    ok: bool
    seconds: float
    detail: str


def summary(outcomes: Sequence[Outcome], *, seconds: float) -> dict[str, Any]:
    """Pure: what `--json` writes."""
    return {"steps": [asdict(outcome) for outcome in outcomes], "seconds": round(seconds, 2)}


async def play(step: Step, world: World, say: Say) -> Outcome:
    """Play one step; a failure is an outcome, too."""
    began = anyio.current_time()
    try:
        detail, ok = await step.play(world, say), True
    except FlotillaError as error:
        detail, ok = str(error), False
    return Outcome(name=step.name, ok=ok, seconds=round(anyio.current_time() - began, 2), detail=detail)


STEPS = (
    Step(name="waves", title="① a commit travels in waves, past a gate", play=commits.waves),
    Step(name="drift", title="② hand edits are reverted", play=hands.drift),
    Step(name="bad", title="③ a bad commit ends at the canary", play=commits.bad),
    Step(name="rollback", title="④ what fails late goes back everywhere", play=commits.rollback),
    Step(name="freeze", title="⑤ a freeze holds a commit back", play=commits.freeze),
    Step(name="hub", title="⑥ agents go on without the hub", play=hands.hub),
    Step(name="offline", title="⑦ an offline cluster catches up", play=commits.offline),
)
