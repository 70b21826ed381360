"""`flotilla`: the command for people. `offline` commands work on a checkout, `online` ones ask a running hub.

A module is imported when one of its commands is asked for: what renders a fleet is much to import, and few need it.
"""

import importlib
import os
from collections import UserDict
from typing import Any

import click

COMMANDS = {
    "hub.demo.command": ("demo",),
    "hub.cli.init": ("init",),
    "hub.cli.offline": ("render", "check"),
    "hub.cli.diffing": ("diff",),
    "hub.cli.planning": ("plan",),
    "hub.cli.simulating": ("simulate",),
    "hub.cli.explaining": ("explain",),
    "hub.cli.slices": ("slice",),
    "hub.cli.health": ("health",),
    "hub.cli.online": ("status", "clusters", "bundles", "rollouts", "drift", "events"),
    "hub.cli.why": ("why",),
    "hub.cli.past": ("audit", "history"),
    "hub.cli.commanding": (
        *("join-token", "sync", "pause", "resume", "abort", "rollback", "approve", "reject", "promote", "skip-wave"),
        *("retry", "emergency", "skip", "hold", "release", "cordon", "uncordon"),
    ),
    "hub.cli.bundles": ("bundle",),
    "hub.cli.directing": ("cluster",),
    "hub.cli.notifying": ("notify",),
    "hub.cli.bootstrap": ("bootstrap",),
    "hub.cli.recovering": ("hub",),
}
"""Module → its commands, in the order of the help: what needs no hub, then what looks, then what changes something."""


class _OnDemand(UserDict[str, Any]):
    """Name → command, or until somebody asks for it the name of its module."""

    def __getitem__(self, name: str) -> click.Command:
        found: click.Command | str = super().__getitem__(name)
        if isinstance(found, str):
            self.update({command.name: command for command in importlib.import_module(found).commands})
            return self[name]
        return found


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    commands=_OnDemand({name: module for module, names in COMMANDS.items() for name in names}),
    context_settings={"max_content_width": 110},
    epilog="""\b
Examples:
  flotilla demo                        # a whole fleet on this machine, to watch and to play with
  flotilla init fleet                  # a first fleet repo
  flotilla check                       # is this fleet repo valid?
  flotilla render --cluster eu-1       # what would eu-1 run?
  flotilla diff main                   # what differs from main, object by object?
  flotilla plan main                   # ... and what would roll out, in which waves?
  flotilla simulate --bad 10%          # ... and is my rollout policy slow, or unsafe?
  flotilla status                      # how is the fleet?
  flotilla why shop-7                  # why does this rollout stand still?

\b
Exit codes: 0 it went well; 1 what was asked went wrong, or what was looked at is (diff: something differs);
2 it cannot be done or told: a wrong option, a revision that is not there. NO_COLOR=1 turns colours off.""",
)
@click.version_option(package_name="flotilla", prog_name="flotilla")
@click.pass_context
def main(context: click.Context) -> None:
    """GitOps for a fleet of Kubernetes clusters."""
    if os.environ.get("NO_COLOR"):
        context.color = False
