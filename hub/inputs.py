"""What reaches the hub's loop: reports, commands, things to note; a new `desired.Desired` is the fourth kind.

Made by `sessions`, `upstream` and `api`; read by `loop` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from hub.journal import DirectiveKey, DirectiveRow, EventRow
from hub.state import NO_ROLLOUT, Base, Command, Evidence, Keep
from proto.errors import FlotillaError
from proto.ids import BundleName, ClusterName, RolloutId
from proto.messages import Report


@dataclass(slots=True, kw_only=True)
class Input:
    """One thing that arrived; `done` is set when its turn is stored, or failed with `error`."""

    what: Any
    done: anyio.Event = field(default_factory=anyio.Event)
    error: FlotillaError | None = None

    def refuse(self, why: FlotillaError) -> None:
        """Nothing comes of it; the first reason counts."""
        self.error = self.error or why


@dataclass(frozen=True, slots=True, kw_only=True)
class FromAgent:
    """A report of one cluster."""

    cluster: ClusterName
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class ToRollout:
    """A person's command to one rollout; `role` is whose token they had."""

    rollout: RolloutId
    command: Command
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromGate:
    """What a gate's check found."""

    rollout: RolloutId
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A person lets a bundle that is on hold go on; `role` is whose token they had, `rollout` which one that is over
    they try again by it."""

    bundle: BundleName
    actor: str
    reason: str
    role: str = ""
    rollout: RolloutId = NO_ROLLOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOnHold:
    """A person keeps a bundle somewhere until it is released; `rollout` is whose work that is, if it is that of an
    earlier one. With `abort` rollouts of it that are under way end first; without, one that is refuses the word."""

    bundle: BundleName
    keep: Keep
    actor: str
    reason: str
    rollout: RolloutId = NO_ROLLOUT
    abort: bool = False
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """A person asks something of agents (`directives`): rows by key, None where something is taken back; `event` keeps
    who and why."""

    rows: Mapping[DirectiveKey, DirectiveRow | None]
    event: EventRow


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCompleted:
    """What last completed of bundles, for clusters that joined."""

    bases: Mapping[BundleName, Base]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Something for the event list only."""

    event: EventRow
