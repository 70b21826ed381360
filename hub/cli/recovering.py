"""`flotilla hub recover`: for a hub that does not start, since its journal was restored from a backup."""

import os
import time
from pathlib import Path

import click

from hub import recovery
from hub.data_folder import only_one
from hub.journal import Journal
from hub.slices.gitstore import GitStore
from proto.errors import FlotillaError


@click.group()
def hub() -> None:
    """The hub's own data, on the hub's machine.

    \b
    Example:
      flotilla hub recover --data hub-data --dry-run --reason 'the disk was lost'
    """


@hub.command()
@click.option(
    "--data",
    required=True,
    envvar="FLOTILLA_HUB_DATA",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The hub's data folder; the hub must not run.",
)
@click.option("--reason", required=True, help="Why; kept with the command.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def recover(data: Path, reason: str, dry_run: bool) -> None:
    """Let a restored journal catch up with the slices that agents have.

    For a hub that says that a ref is ahead of its journal. What clusters were told since the backup counts as decided;
    rollouts that were under way are aborted and their bundles put on hold, so that nothing moves by itself: then
    'flotilla release'.

    \b
    Examples:
      flotilla hub recover --data hub-data --reason 'restored from Monday' --dry-run
      flotilla hub recover --data hub-data --reason 'restored from Monday'
    """
    try:
        with only_one(data):
            store, journal = GitStore.open(data / "slices.git"), Journal(data / "journal.db")
            actor = os.environ.get("USER") or "admin"
            try:
                found = recovery.recover(journal, store, actor=actor, reason=reason, now=time.time(), dry_run=dry_run)
            finally:
                journal.close()
    except FlotillaError as error:
        raise click.ClickException(str(error)) from error
    if not found:
        click.echo("nothing to recover: no slice is ahead of the journal")
        return
    for cluster, (old, new) in sorted(found.clusters.items()):
        click.echo(f"{cluster}: slice #{old} in the journal, #{new} at its agent")
    for rollout in found.ended:
        click.echo(f"rollout {rollout}: aborted")
    for bundle in found.held:
        click.echo(f"bundle {bundle}: on hold until it is released or changed")
    click.echo("nothing was changed (--dry-run)" if dry_run else "the journal has caught up: start the hub")


commands = (hub,)
