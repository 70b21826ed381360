"""`flotilla notify`: the receivers of messages (`spec.notify` of fleet.yaml), how each is, and a test message."""

import os
import urllib.parse
from pathlib import Path

import click

from hub.cli.asking import HubApi, ago, hub_options, print_json, print_table


@click.group()
def notify() -> None:
    """Say who is told what rollouts do, and try it.

    \b
    Examples:
      flotilla notify list
      flotilla notify test on-call
    """


@notify.command("list")
@hub_options
def list_(hub: str, token_file: Path | None, output: str) -> None:
    """Say whether each receiver hears what it is told.

    \b
    Example:
      flotilla notify list
    """
    found = HubApi(hub, token_file).get("receivers")
    if print_json(found, output):
        return
    print_table(
        ("NAME", "HOST", "DELIVERED", "PENDING", "LOST", "FAILING", "WHY"),
        [
            (
                row["name"],
                row["host"],
                ago(row["delivered_at"]),
                row["pending"],
                row["lost"],
                ago(row["failing_since"]) if row["failing_since"] else "",
                row["error"],
            )
            for row in found["receivers"]
        ],
        empty="nobody is told: add receivers as spec.notify of fleet.yaml",
    )


@notify.command("test")
@click.argument("name")
@hub_options
def test(name: str, hub: str, token_file: Path | None, output: str) -> None:
    """Send a receiver a message that tells of nothing, and say whether it took it.

    \b
    Example:
      flotilla notify test on-call
    """
    body: dict[str, object] = {"actor": os.environ.get("USER", "")}
    made = HubApi(hub, token_file).post(f"receivers/{urllib.parse.quote(name)}/test", body)
    if not print_json(made, output):
        click.echo(f"{name} took the message" if made["delivered"] else made["error"])
    if not made["delivered"]:
        raise SystemExit(1)


commands: tuple[click.Command, ...] = (notify,)
