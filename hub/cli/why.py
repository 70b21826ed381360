"""`flotilla why`: what a rollout did and why, in the order of time, and before all why it does not move now."""

import urllib.parse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hub.cli.asking import HubApi, hub_options, print_json
from hub.cli.telling import printable
from hub.rollout.story.words import duration

GAP_S = 60.0
"""A longer time in which nothing happened is told."""
_COLOURS: Mapping[str, dict[str, Any]] = {
    "person": {"fg": "magenta", "bold": True},
    "wave": {"bold": True},
    "phase": {"bold": True},
    "failed": {"fg": "red", "bold": True},
    "back": {"fg": "yellow"},
    "sent-back": {"fg": "yellow"},
    "held": {"fg": "yellow"},
    "gate": {"fg": "cyan"},
    "offline": {"fg": "yellow"},
    "proof": {"fg": "green"},
}


@click.command()
@click.argument("rollout")
@click.option("--cluster", default="", help="What happened to this one, and what opened or shut its way.")
@hub_options
def why(rollout: str, cluster: str, hub: str, token_file: Path | None, output: str) -> None:
    """Tell what a rollout did, and why.

    First why it does not move on at this moment, when it is under way; then everything in the order of time: waves,
    gates, who was sent when and why then, what proved, what failed and why, what held it up; last how long it waited
    for what. Times are UTC.

    \b
    Examples:
      flotilla why shop-7
      flotilla why shop-7 --cluster eu-3
      flotilla why shop-7 -o json
    """
    found = HubApi(hub, token_file).get(f"rollouts/{urllib.parse.quote(rollout)}/why", cluster=cluster)
    if print_json(found, output):
        return
    about = f"{found['rollout']} is {found['phase']}"
    click.secho(f"{about}, and {cluster} in it" if cluster else about, bold=True)
    for text in found["now"]:
        click.echo(f"  {printable(text)}")
    if found["problem"]:
        click.secho(f"  {printable(found['problem'])}", fg="red", bold=True)
    click.echo()
    if found["left_out"]:
        click.secho(f"          {found['left_out']} earlier lines are left out", dim=True)
    _lines(found["lines"])
    if found["waited"]:
        click.echo()
        for each in found["waited"]:
            click.echo(f"{duration(each['seconds']):>12}  waiting for {printable(each['for'])}")


def _lines(lines: Sequence[Any]) -> None:
    before: datetime | None = None
    for line in lines:
        at = datetime.fromisoformat(line["time"]).astimezone(UTC)
        if before is None or at.date() != before.date():
            click.secho(f"{at:%a %d %B %Y}", dim=True)
        elif (quiet_s := (at - before).total_seconds()) >= GAP_S:
            click.secho(f"          {duration(quiet_s)} later", dim=True)
        text = click.style(printable(line["text"]), **_COLOURS.get(line["kind"], {}))
        click.echo(f"{at:%H:%M:%S}  {text}")
        before = at


commands: tuple[click.Command, ...] = (why,)
