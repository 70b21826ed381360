"""`flotilla bundle …` and `flotilla cluster …`: what a person asks of agents, through the hub.

The hub keeps it with the reason and tells the agents, now or when they are back; the answer says who does not know yet.
Next: `bundles` adds its own to `flotilla bundle`.
"""

import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

import click

from hub.cli.asking import HubApi, hub_options, print_json

_DURATION = re.compile(r"(?=\d)(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?", re.ASCII)


def _which_clusters(command: Any) -> Any:
    """The options that say where a bundle's command is for."""
    for option in (
        click.option("--selector", "-l", default="", metavar="K=V,…", help="Only on clusters with these labels."),
        click.option("--cluster", "clusters", multiple=True, metavar="NAME", help="Only there; may be given again."),
    ):
        command = option(command)
    return command


def _reason(command: Any) -> Any:
    return click.option("--reason", required=True, help="Why; kept, and shown wherever somebody waits for it.")(command)


@click.group()
def bundle() -> None:
    """Suspend, resume or sync a bundle; carry a slice in a file.

    \b
    Examples:
      flotilla bundle suspend shop --cluster eu-1 --reason 'a migration runs'
      flotilla bundle resume shop --reason 'the migration is done'
      flotilla bundle sync shop
      flotilla bundle export eu-1 -o eu-1.bundle
    """


@bundle.command()
@click.argument("name")
@_which_clusters
@_reason
@hub_options
def suspend(
    name: str, clusters: tuple[str, ...], selector: str, reason: str, hub: str, token_file: Path | None, output: str
) -> None:
    """Keep agents from writing a bundle: no commit, no revert, no prune. Rollouts wait there, and say why.

    Without --cluster and --selector on every cluster where it runs or should.

    \b
    Examples:
      flotilla bundle suspend shop --cluster eu-1 --reason 'a migration runs'
      flotilla bundle suspend shop -l region=eu --reason 'ticket 42'
    """
    body = {**_where(clusters, selector), "reason": reason}
    _post(HubApi(hub, token_file), f"bundles/{_quoted(name)}/suspend", body, output, f"{name} is suspended")


@bundle.command()
@click.argument("name")
@_which_clusters
@_reason
@hub_options
def resume(
    name: str, clusters: tuple[str, ...], selector: str, reason: str, hub: str, token_file: Path | None, output: str
) -> None:
    """Let a suspended bundle go on.

    \b
    Example:
      flotilla bundle resume shop --cluster eu-1 --reason 'the migration is done'
    """
    body = {**_where(clusters, selector), "reason": reason}
    _post(HubApi(hub, token_file), f"bundles/{_quoted(name)}/resume", body, output, f"{name} is resumed")


@bundle.command("sync")
@click.argument("name")
@_which_clusters
@hub_options
def sync_bundle(
    name: str, clusters: tuple[str, ...], selector: str, hub: str, token_file: Path | None, output: str
) -> None:
    """Have agents look at every object of a bundle now, not only at what changed.

    \b
    Example:
      flotilla bundle sync shop --cluster eu-1
    """
    where = _where(clusters, selector)
    _post(HubApi(hub, token_file), f"bundles/{_quoted(name)}/sync", where, output, f"{name} is looked at")


@click.group()
def cluster() -> None:
    """Pause a cluster for maintenance, resume it, or sync it now.

    \b
    Examples:
      flotilla cluster pause eu-1 --for 2h --reason 'new nodes'
      flotilla cluster resume eu-1 --reason 'the nodes are there'
      flotilla cluster sync eu-1
    """


@cluster.command()
@click.argument("name")
@click.option("--for", "for_", default="", metavar="DURATION", help="How long, for example 90m, 2h or 1d12h.")
@click.option("--until", default="", metavar="TIME", help="Until when, for example 2030-01-31T06:00:00Z.")
@_reason
@hub_options
def pause(name: str, for_: str, until: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Let people change things in a cluster for a while: drift is told, and undone when the pause is over.

    Commits still go there.

    \b
    Example:
      flotilla cluster pause eu-1 --for 2h --reason 'new nodes'
    """
    if bool(for_) == bool(until):
        raise click.UsageError("say how long: --for or --until")
    body: dict[str, object] = {"until": until} if until else {"for_s": _seconds(for_)}
    _post(HubApi(hub, token_file), f"clusters/{_quoted(name)}/pause", {**body, "reason": reason}, output, "paused")


@cluster.command("resume")
@click.argument("name")
@_reason
@hub_options
def end_pause(name: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """End a cluster's maintenance pause now; what drifted meanwhile is undone.

    \b
    Example:
      flotilla cluster resume eu-1 --reason 'the nodes are there'
    """
    path = f"clusters/{_quoted(name)}/resume"
    _post(HubApi(hub, token_file), path, {"reason": reason}, output, "the pause is over")


@cluster.command("sync")
@click.argument("name")
@hub_options
def sync_cluster(name: str, hub: str, token_file: Path | None, output: str) -> None:
    """Have the agent look at every object now, not only at what changed.

    \b
    Example:
      flotilla cluster sync eu-1
    """
    _post(HubApi(hub, token_file), f"clusters/{_quoted(name)}/sync", {}, output, "everything is looked at")


commands: tuple[click.Command, ...] = (cluster,)


def _where(clusters: tuple[str, ...], selector: str) -> dict[str, object]:
    """The part of a body that says which clusters."""
    if clusters and selector:
        raise click.UsageError("give --cluster or --selector, not both")
    labels: dict[str, str] = {}
    for pair in filter(None, selector.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--selector {pair!r} is not KEY=VALUE")
        labels[key.strip()] = value.strip()
    return {"clusters": list(clusters), "labels": labels}


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.UsageError(f"--for {text!r} is not a duration: write for example 90m, 2h or 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 86400.0 + hours * 3600 + minutes * 60 + seconds


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _post(api: HubApi, path: str, body: dict[str, object], output: str, done: str) -> None:
    """Ask, and say on which clusters it is so, and who does not know of it yet."""
    made = api.post(path, {**body, "actor": os.environ.get("USER", "")})
    if print_json(made, output):
        return
    names = ", ".join(row["cluster"] for row in made["clusters"])
    click.echo(f"{names}: {done}" + (f" until {made['until']}" if made.get("until") else ""))
    for row in made["clusters"]:
        if row["not_yet"]:
            click.secho(f"  {row['cluster']}: {row['not_yet']}", fg="yellow")
