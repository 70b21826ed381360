"""`flotilla`: the command for people. `offline` commands work on a checkout, `online` ones ask a running hub."""

import os
from importlib import metadata

import click

from hub.cli import (
    bootstrap,
    bundles,
    commanding,
    diffing,
    directing,
    explaining,
    health,
    init,
    notifying,
    offline,
    online,
    past,
    planning,
    recovering,
    simulating,
    slices,
    why,
)
from hub.demo import command


class _InOrder(click.Group):
    """Lists its commands as they are added: first what needs no hub, then what looks, then what changes something."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
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

\b
Exit codes: 0 it went well; 1 what was asked went wrong, or what was looked at is (diff: something differs);
2 it cannot be done or told: a wrong option, a revision that is not there. NO_COLOR=1 turns colours off.""",
)
@click.version_option(metadata.version("flotilla"), prog_name="flotilla")
@click.pass_context
def main(context: click.Context) -> None:
    """GitOps for a fleet of Kubernetes clusters."""
    if os.environ.get("NO_COLOR"):
        context.color = False


_MODULES = (
    command,
    init,
    offline,
    diffing,
    planning,
    simulating,
    explaining,
    slices,
    health,
    online,
    why,
    past,
    commanding,
    directing,
    notifying,
    bundles,
    bootstrap,
    recovering,
)

for module in _MODULES:
    for each in module.commands:
        main.add_command(each)
