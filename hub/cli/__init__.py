"""`flotilla`: the command for people. `offline` commands work on a checkout, `online` ones ask a running hub."""

from importlib import metadata

import click

from hub.cli import offline, online


@click.group(
    context_settings={"max_content_width": 110},
    epilog="""\b
Examples:
  flotilla check                       # is this fleet repo valid?
  flotilla render --cluster eu-1       # what would eu-1 run?
  flotilla status                      # how is the fleet?""",
)
@click.version_option(metadata.version("flotilla"), prog_name="flotilla")
def main() -> None:
    """GitOps for a fleet of Kubernetes clusters."""


for command in (*offline.commands, *online.commands):
    main.add_command(command)
