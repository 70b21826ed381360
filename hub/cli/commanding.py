"""`flotilla` commands to the hub itself: join tokens, a look at the fleet repo, and a word to rollouts, holds, cordons.

Each needs a token, and keeps the reason; join tokens, emergencies and rewritten histories need the administrator's.
"""

import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hub.cli.asking import HubApi, hub_options, print_json


@click.command("join-token")
@click.argument("cluster")
@hub_options
def join_token(cluster: str, hub: str, token_file: Path | None, output: str) -> None:
    """Make a join token for a cluster's agent.

    It is used once, within a day, by the agent that shall run there.

    \b
    Examples:
      flotilla join-token eu-1 --token-file hub-data/admin.token
      flotilla join-token eu-1 > eu-1.token && flotilla-agent --hub URL --join-token-file eu-1.token
    """
    made = HubApi(hub, token_file).post("join-tokens", {"cluster": cluster})
    if not print_json(made, output):
        click.echo(made["token"])


def _verb(verb: str, help_: str, *, at_gate: bool = False) -> click.Command:
    gate = " --gate eu/approval" if at_gate else ""

    @click.command(verb, help=f"{help_}\n\n\b\nExample:\n  flotilla {verb} shop-7{gate} --reason 'ticket 42'")
    @click.argument("rollout")
    @click.option("--reason", required=True, help="Why; kept with the command.")
    @hub_options
    def command(
        rollout: str, reason: str, hub: str, token_file: Path | None, output: str, gate: str = "", sure: bool = True
    ) -> None:
        if not sure:
            click.confirm(f"{rollout} goes to all clusters at once, past every wave and gate. Go on?", abort=True)
        body: dict[str, object] = {"reason": reason, "actor": os.environ.get("USER", "")}
        if gate:
            body["gate"] = gate
        made = HubApi(hub, token_file).post(f"rollouts/{urllib.parse.quote(rollout)}/{verb}", body)
        if not print_json(made, output):
            waits = f": {made['reason']}" if made["phase"] == "running" and made.get("reason") else ""
            click.echo(f"{made['id']} is {made['phase']}{waits}")

    if at_gate:
        click.option("--gate", default="", help="Which, when several wait: 'flotilla rollouts' names them.")(command)
    if verb == "emergency":
        click.option("--yes", "sure", is_flag=True, help="Do not ask.")(command)
    return command


@click.command()
@click.argument("rollout")
@click.argument("cluster")
@click.option("--reason", required=True, help="Why; kept with the command.")
@hub_options
def skip(rollout: str, cluster: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Let a rollout go on without one of its clusters.

    The cluster drops out of its counts; when the rollout is over, one of its own brings the change there.

    \b
    Example:
      flotilla skip shop-7 eu-3 --reason 'suspended by its owner until Monday'
    """
    body: dict[str, object] = {"reason": reason, "actor": os.environ.get("USER", ""), "cluster": cluster}
    made = HubApi(hub, token_file).post(f"rollouts/{urllib.parse.quote(rollout)}/skip", body)
    if not print_json(made, output):
        click.echo(f"{made['id']} is {made['phase']}, without {cluster}")


@click.command()
@click.argument("bundle")
@click.option("--now", is_flag=True, help="End a rollout of it that is under way, where it is.")
@click.option("--reason", required=True, help="Why; kept with the command.")
@hub_options
def hold(bundle: str, now: bool, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Keep a bundle as it is until somebody releases it.

    Nothing of it moves, whatever is committed, not even to a cluster that is new or comes back.

    \b
    Example:
      flotilla hold shop --reason 'nothing moves before the fair'
    """
    made = _to_bundle(HubApi(hub, token_file), bundle, "hold", {"abort": now}, reason)
    if not print_json(made, output):
        click.echo(f"{bundle} is on hold until 'flotilla release {bundle}'")


@click.command()
@click.argument("name", metavar="ROLLOUT|BUNDLE")
@click.option("--to", default="", metavar="REV", help="To what this commit of the fleet repo made of it.")
@click.option("--now", is_flag=True, help="Everywhere at once, past waves; ends a rollout that is under way.")
@click.option("--reason", required=True, help="Why; kept with the command.")
@hub_options
def rollback(name: str, to: str, now: bool, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Bring a rollout back, or a bundle to an earlier revision.

    A rollout goes back to what its clusters ran before. A bundle goes, long after its rollout is over too, to the
    revision --to, or to what it was before: by its waves, the other bundles untouched. Either way it is then on hold,
    until its sources change or it is released. A bundle's name counts before a rollout's.

    \b
    Examples:
      flotilla rollback shop-7 --reason 'the new image leaks'
      flotilla rollback shop --reason 'the new image leaks'
      flotilla rollback shop --to 4f2a91c --reason 'as it was before the summer' --now
    """
    api = HubApi(hub, token_file)
    bundles, under_way = [name], False
    if name not in {row["name"] for row in api.get("bundles")["bundles"]}:
        rollout = api.get(f"rollouts/{urllib.parse.quote(name)}")
        bundles, under_way = rollout["bundles"], not rollout["final"]
        if not to:
            body: dict[str, object] = {"reason": reason, "actor": os.environ.get("USER", "")}
            made = api.post(f"rollouts/{urllib.parse.quote(name)}/rollback", body)
            if not print_json(made, output):
                click.echo(f"{made['id']} is {made['phase']}")
            return
    body = {"to": to, "at_once": now, "abort": now or under_way}
    answers = [_to_bundle(api, bundle, "rollback", body, reason) for bundle in bundles]
    if not print_json(answers[0] if len(answers) == 1 else answers, output):
        for made in answers:
            way = f"by rollout {made['rollout']}" if made["rollout"] else "where it is already"
            where = made["hold"]["revision"][:12]
            click.echo(f"{made['bundle']} goes back to revision {where}, {way}; then it is on hold")


def _to_bundle(api: HubApi, bundle: str, verb: str, more: Mapping[str, object], reason: str) -> Any:
    body = {**more, "reason": reason, "actor": os.environ.get("USER", "")}
    return api.post(f"bundles/{urllib.parse.quote(bundle, safe='')}/{verb}", body)


@click.command()
@click.argument("bundle")
@click.option("--reason", required=True, help="Why; kept with the command.")
@hub_options
def release(bundle: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Let a bundle on hold go on with the fleet repo.

    \b
    Example:
      flotilla release shop --reason 'the registry is back'
    """
    made = _to_bundle(HubApi(hub, token_file), bundle, "release", {}, reason)
    if not print_json(made, output):
        click.echo(f"{bundle} is no longer on hold")


@click.command()
@click.option("--accept-rewrite", is_flag=True, help="Take a history that does not go on from the last commit taken.")
@click.option(
    "--refresh",
    multiple=True,
    is_flag=False,
    flag_value="*",
    metavar="[BUNDLE]",
    help="Resolve the source of a bundle outside the fleet repo anew; without a name those of all.",
)
@click.option("--reason", default="", help="Why; needed for --accept-rewrite, and kept.")
@hub_options
def sync(
    accept_rewrite: bool, refresh: tuple[str, ...], reason: str, hub: str, token_file: Path | None, output: str
) -> None:
    """Make the hub look at the fleet repo now.

    What did not render is tried again, without a new commit too.

    \b
    Examples:
      flotilla sync
      flotilla sync --refresh shop
      flotilla sync --accept-rewrite --reason 'a secret was removed from the history'
    """
    if accept_rewrite and not reason:
        raise click.UsageError("--accept-rewrite needs a --reason: it is kept")
    body: dict[str, object] = {"accept_rewrite": accept_rewrite, "reason": reason, "actor": os.environ.get("USER", "")}
    if refresh:
        body["refresh"] = list(refresh)
    made = HubApi(hub, token_file).post("sync", body)
    if not print_json(made, output):
        click.echo(f"looking at {made['upstream']['url']}")


def _at_cluster(verb: str, help_: str, done: str) -> click.Command:
    @click.command(verb, help=f"{help_}\n\n\b\nExample:\n  flotilla {verb} eu-1 --reason 'ticket 42'")
    @click.argument("cluster")
    @click.option("--reason", required=True, help="Why; kept with the command.")
    @hub_options
    def command(cluster: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
        body: dict[str, object] = {"reason": reason, "actor": os.environ.get("USER", "")}
        made = HubApi(hub, token_file).post(f"clusters/{urllib.parse.quote(cluster)}/{verb}", body)
        if not print_json(made, output):
            click.echo(f"{cluster}: {done}")

    return command


commands: tuple[click.Command, ...] = (
    join_token,
    sync,
    _verb("pause", "Stop a rollout where it is; clusters keep what they run."),
    _verb("resume", "Let a paused rollout go on."),
    _verb("abort", "End a rollout where it is, without a rollback."),
    rollback,
    _verb("approve", "Agree that a rollout passes the gate at which it waits.", at_gate=True),
    _verb("reject", "Fail the gate at which a rollout waits, by saying no.", at_gate=True),
    _verb("promote", "End the soaks and open the gates that a rollout waits for."),
    _verb("skip-wave", "Go on without those of the open wave that are not proven."),
    _verb("retry", "Give failed clusters and gates of a rollout another try."),
    _verb("emergency", "Send a rollout to all clusters at once, past every limit."),
    skip,
    hold,
    release,
    _at_cluster(
        "cordon",
        "Keep rollouts away from a cluster; what runs there stays.",
        "cordoned, no rollout goes there",
    ),
    _at_cluster("uncordon", "Let rollouts go to a cluster again; it catches up.", "rollouts go there again"),
)
