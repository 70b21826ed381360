"""`flotilla` commands that ask a running hub: status, clusters, bundles, rollouts, drift, events, and the verbs.

Each command is one request and one table; `--output json` prints what the API said, for scripts. An error names the
hub, the cause and the next step, and exits with 1. What the hub says may come from anybody who can commit: it is shown
as it is, never read as markup.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

TIMEOUT_S = 20.0
DEFAULT_HUB = "http://127.0.0.1:8470"

_STYLES = {
    "Current": "green",
    "completed": "green",
    "connected": "green",
    "reverted": "green",
    "running": "cyan",
    "InProgress": "yellow",
    "paused": "yellow",
    "away": "yellow",
    "rolling-back": "yellow",
    "rolled-back": "red",
    "Failed": "red",
    "rollback-failed": "bold red",
    "failed": "red",
    "error": "red",
    "Terminating": "yellow",
    "NotFound": "red",
    "Unknown": "magenta",
}


class HubApi:
    """One hub's API, from the options that every online command has."""

    def __init__(self, hub: str, token_file: Path | None) -> None:
        self.hub = hub.rstrip("/")
        self._token_file = token_file

    def get(self, path: str, **query: object) -> Any:
        given = {key: value for key, value in query.items() if value not in (None, "")}
        return self._call("GET", path + (f"?{urllib.parse.urlencode(given)}" if given else ""), None)

    def post(self, path: str, body: dict[str, object]) -> Any:
        return self._call("POST", path, body)

    def _token(self) -> str:
        if self._token_file is not None:
            try:
                return self._token_file.read_text().strip()
            except OSError as error:
                raise click.ClickException(
                    f"cannot read the token file {self._token_file}: {error.strerror}"
                ) from error
        return os.environ.get("FLOTILLA_TOKEN", "")

    def _call(self, method: str, path: str, body: dict[str, object] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if body is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        request = urllib.request.Request(
            f"{self.hub}/api/v1/{path}",
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise click.ClickException(_told(error)) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise click.ClickException(
                f"no hub answers at {self.hub}: {why}\n"
                "Start one with 'flotilla-hub --fleet PATH', or name yours with --hub or FLOTILLA_HUB."
            ) from error


def _told(error: urllib.error.HTTPError) -> str:
    try:
        said = json.load(error)
        return f"{said['error']}\n{said['remedy']}".strip()
    except (ValueError, KeyError, TypeError):
        return f"the hub answered {error.code} {error.reason}"


def _hub_options(command: Any) -> Any:
    """What every online command takes."""
    for option in (
        click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", help="How to print it."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            envvar="FLOTILLA_TOKEN_FILE",
            help="File with the administrator's token (or FLOTILLA_TOKEN), for commands that change something.",
        ),
        click.option("--hub", default=DEFAULT_HUB, envvar="FLOTILLA_HUB", show_default=True, help="The hub's URL."),
    ):
        command = option(command)
    return command


def _print(value: Any, output: str) -> bool:
    """Print JSON when asked for; returns whether that was done."""
    if output == "json":
        click.echo(json.dumps(value, indent=2))
    return output == "json"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    cells = [[str(cell) for cell in row] for row in rows]
    console = Console()
    if not cells:
        click.secho(empty, dim=True)
        return
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for line in (columns, *cells):
            click.echo("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in ("WHAT", "WHY", "REASON"), overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def _ago(time: str) -> str:
    """How long ago an RFC 3339 time was, in the largest unit that says something."""
    if not time:
        return "never"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return f"{int(seconds)}s ago"


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "none"


@click.command()
@_hub_options
def status(hub: str, token_file: Path | None, output: str) -> None:
    """The fleet at a glance, and what is wrong.

    \b
    Examples:
      flotilla status
      flotilla status --hub https://hub.example.org:8470 -o json
    """
    fleet = HubApi(hub, token_file).get("fleet")
    if _print(fleet, output):
        return
    console = Console(soft_wrap=True, highlight=False)
    clusters, upstream = fleet["clusters"], fleet["upstream"]
    where = f"at {fleet['revision'][:12]}" if fleet["revision"] else "not taken yet"
    looked = f"read {_ago(upstream['synced_at'])}" if upstream["synced_at"] else "never read"
    console.print(f"[bold]fleet repo[/]  {escape(upstream['url'])} ({escape(upstream['branch'])}) {where}, {looked}")
    console.print(
        f"[bold]clusters[/]    {clusters['total']} ({clusters['connected']} connected): {_words(clusters['health'])}"
    )
    console.print(f"[bold]bundles[/]     {fleet['bundles']}")
    for rollout in fleet["rollouts"]:
        console.print(
            f"[bold]rollout[/]     {rollout['id']} {rollout['phase']}, {_wave(rollout)}: {_words(rollout['phases'])}"
            + (escape(f" ({rollout['reason']})") if rollout["reason"] else "")
        )
    for hold in fleet["holds"]:
        console.print(f"[bold yellow]on hold[/]     {hold} (commit a fix, or 'flotilla release {hold} --reason …')")
    for text in fleet["problems"]:
        console.print(f"[bold red]problem[/]     {escape(text)}")
    for item in fleet["findings"]:
        colour = "red" if item["severity"] == "error" else "yellow"
        console.print(
            Text.assemble((item["severity"].ljust(12), f"bold {colour}"), f"{item['where']}: {item['message']}")
        )
        if item["remedy"]:
            console.print(Text(f"            → {item['remedy']}", style="dim"))


def _wave(rollout: dict[str, Any]) -> str:
    waves = rollout["waves"]
    if rollout["wave"] >= len(waves):
        return f"all {len(waves)} waves done"
    return f"wave {rollout['wave'] + 1}/{len(waves)} {waves[rollout['wave']]['name']}"


@click.command()
@click.argument("name", required=False)
@_hub_options
def clusters(name: str | None, hub: str, token_file: Path | None, output: str) -> None:
    """All clusters, or everything about one.

    \b
    Examples:
      flotilla clusters
      flotilla clusters eu-1
    """
    api = HubApi(hub, token_file)
    if name:
        found = api.get(f"clusters/{urllib.parse.quote(name)}")
        if not _print(found, output):
            _show_cluster(found)
        return
    found = api.get("clusters")
    if _print(found, output):
        return
    _table(
        ("CLUSTER", "HEALTH", "CONNECTION", "LAST SEEN", "DECIDED", "APPLIED", "BUNDLES", "DRIFT", "WHAT"),
        [
            (
                row["name"],
                row["health"],
                row["connection"],
                _ago(row["last_seen"]),
                f"#{row['decided']['seq']}",
                f"#{row['applied']['seq']}",
                row["bundles"],
                row["drift_total"],
                "; ".join(row["problems"]),
            )
            for row in found["clusters"]
        ],
        empty="no clusters yet: commit a Cluster file to the fleet repo",
    )


def _show_cluster(found: dict[str, Any]) -> None:
    labels = ",".join(f"{key}={value}" for key, value in sorted(found["labels"].items()))
    click.echo(f"{found['name']}  {labels}")
    click.echo(f"health {found['health']}, {found['connection']}, last seen {_ago(found['last_seen'])}")
    click.echo(f"decided #{found['decided']['seq']}, applied #{found['applied']['seq']}")
    for problem in found["problems"]:
        click.secho(f"problem: {problem}", fg="red")
    click.echo()
    _table(
        ("BUNDLE", "HEALTH", "REVISION", "ROLLOUT", "OBJECTS"),
        [
            (row["name"], row["health"], row["revision"][:12], row["rollout"], _words(row["counts"]))
            for row in found["bundle_list"]
        ],
        empty="no bundles",
    )
    for row in found["bundle_list"]:
        for problem in row["problems"]:
            told = problem["message"] or problem["reason"]
            told = told if problem["object"] in told else f"{problem['object']}: {told}"
            click.secho(
                f"  {row['name']}: {problem['health']}: {told}", fg="red" if problem["health"] == "Failed" else None
            )
    click.echo()
    _table(
        ("SEQ", "WHEN", "COMMIT", "WHAT"),
        [
            (
                f"#{move['seq']}",
                _ago(move["time"]),
                move["new"][:12],
                ", ".join(f"{c[0]} ({c[2]})" for c in move["causes"]),
            )
            for move in found["moves"]
        ],
        empty="no moves yet",
    )


def _about_bundle(row: dict[str, Any]) -> list[str]:
    hold = row["hold"]
    held = [f"on hold since {hold['rollout']}: {hold['reason']}"] if hold else []
    return held + [f"{item['where']}: {item['message']}" for item in row["findings"]]


@click.command()
@_hub_options
def bundles(hub: str, token_file: Path | None, output: str) -> None:
    """All bundles: where they run, and how they are.

    \b
    Example:
      flotilla bundles
    """
    found = HubApi(hub, token_file).get("bundles")
    if _print(found, output):
        return
    _table(
        ("BUNDLE", "HEALTH", "WANTED ON", "RUNS ON", "ROLLOUT", "WHAT"),
        [
            (
                row["name"],
                row["health"] if row["runs_on"] else "",
                row["wanted_on"],
                row["runs_on"],
                row["rollout"],
                "; ".join(_about_bundle(row)),
            )
            for row in found["bundles"]
        ],
        empty="no bundles yet: commit a folder with a bundle.yaml to bundles/",
    )


@click.command()
@click.argument("rollout", required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many, newest first.")
@_hub_options
def rollouts(rollout: str | None, limit: int, hub: str, token_file: Path | None, output: str) -> None:
    """Rollouts, newest first, or everything about one.

    \b
    Examples:
      flotilla rollouts
      flotilla rollouts shop-7
    """
    api = HubApi(hub, token_file)
    if rollout:
        found = api.get(f"rollouts/{urllib.parse.quote(rollout)}")
        if _print(found, output):
            return
        click.echo(f"{found['id']}  {found['phase']}  {found['reason']}".rstrip())
        _table(
            ("WAVE", "CLUSTERS", "WHAT"),
            [(f"{w['name']} ({w['state']})", w["clusters"], _words(w["phases"])) for w in found["waves"]],
            empty="no waves",
        )
        click.echo()
        _table(
            ("CLUSTER", "PHASE", "SEQ", "MOVED"),
            [(m["cluster"], m["phase"], f"#{m['seq']}", _ago(m["moved_at"])) for m in found["members"]],
            empty="no members",
        )
        for member in found["members"]:
            if member["reason"]:
                click.echo(f"  {member['cluster']}: {member['reason']}")
        return
    found = api.get("rollouts", limit=limit)
    if _print(found, output):
        return
    _table(
        ("ROLLOUT", "PHASE", "WAVE", "REVISION", "STARTED", "CLUSTERS", "REASON"),
        [
            (r["id"], r["phase"], _wave(r), r["revision"][:12], _ago(r["made_at"]), _words(r["phases"]), r["reason"])
            for r in found["rollouts"]
        ],
        empty="no rollouts yet: commit something",
    )


@click.command()
@click.option("--cluster", default="", help="Only of this cluster.")
@click.option("--bundle", default="", help="Only of this bundle.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="How many, the newest last.")
@_hub_options
def drift(cluster: str, bundle: str, limit: int, hub: str, token_file: Path | None, output: str) -> None:
    """What others changed in the clusters, and what was done.

    \b
    Examples:
      flotilla drift
      flotilla drift --cluster eu-1 --bundle shop
    """
    found = HubApi(hub, token_file).get("drift", cluster=cluster, bundle=bundle, limit=limit)
    if _print(found, output):
        return
    _table(
        ("WHEN", "CLUSTER", "BUNDLE", "OBJECT", "CHANGE", "FIELDS", "WHO", "DONE"),
        [
            (
                _ago(row["time"]),
                row["cluster"],
                row["bundle"],
                row["data"].get("object", ""),
                row["data"].get("what", ""),
                ", ".join(row["data"].get("fields", ())) or "unknown",
                " ".join(filter(None, (row["data"].get("manager"), row["data"].get("time")))),
                row["data"].get("action", ""),
            )
            for row in found["drift"]
        ],
        empty="no drift reported",
    )


@click.command()
@click.option("--kind", default="", help="Only of this kind (drift, denied, rolled-back, …).")
@click.option("--cluster", default="", help="Only of this cluster.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="How many, the newest last.")
@_hub_options
def events(kind: str, cluster: str, limit: int, hub: str, token_file: Path | None, output: str) -> None:
    """Everything that happened, the newest last.

    \b
    Examples:
      flotilla events
      flotilla events --kind denied
    """
    found = HubApi(hub, token_file).get("events", kind=kind, cluster=cluster, limit=limit)
    if _print(found, output):
        return
    _table(
        ("WHEN", "KIND", "CLUSTER", "WHAT"),
        [(_ago(row["time"]), row["kind"], row["cluster"], row["text"]) for row in found["events"]],
        empty="nothing happened yet",
    )


@click.command("join-token")
@click.argument("cluster")
@_hub_options
def join_token(cluster: str, hub: str, token_file: Path | None, output: str) -> None:
    """Make a join token for a cluster's agent.

    It is used once, within a day, by the agent that shall run there.

    \b
    Examples:
      flotilla join-token eu-1 --token-file hub-data/admin.token
      flotilla join-token eu-1 > eu-1.token && flotilla-agent --hub URL --join-token-file eu-1.token
    """
    made = HubApi(hub, token_file).post("join-tokens", {"cluster": cluster})
    if not _print(made, output):
        click.echo(made["token"])


def _verb(verb: str, help_: str) -> click.Command:
    @click.command(verb, help=f"{help_}\n\n\b\nExample:\n  flotilla {verb} shop-7 --reason 'ticket 42'")
    @click.argument("rollout")
    @click.option("--reason", required=True, help="Why; kept with the command.")
    @_hub_options
    def command(rollout: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
        body: dict[str, object] = {"reason": reason, "actor": os.environ.get("USER", "")}
        made = HubApi(hub, token_file).post(f"rollouts/{urllib.parse.quote(rollout)}/{verb}", body)
        if not _print(made, output):
            click.echo(f"{made['id']} is {made['phase']}")

    return command


@click.command()
@click.argument("bundle")
@click.option("--reason", required=True, help="Why; kept with the command.")
@_hub_options
def release(bundle: str, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Let a bundle on hold go on with the fleet repo.

    \b
    Example:
      flotilla release shop --reason 'the registry is back'
    """
    body: dict[str, object] = {"reason": reason, "actor": os.environ.get("USER", "")}
    made = HubApi(hub, token_file).post(f"bundles/{urllib.parse.quote(bundle)}/release", body)
    if not _print(made, output):
        click.echo(f"{bundle} is no longer on hold")


@click.command()
@click.option("--accept-rewrite", is_flag=True, help="Take a history that does not go on from the last commit taken.")
@click.option("--reason", default="", help="Why; needed for --accept-rewrite, and kept.")
@_hub_options
def sync(accept_rewrite: bool, reason: str, hub: str, token_file: Path | None, output: str) -> None:
    """Make the hub look at the fleet repo now.

    What did not render is tried again, without a new commit too.

    \b
    Examples:
      flotilla sync
      flotilla sync --accept-rewrite --reason 'a secret was removed from the history'
    """
    if accept_rewrite and not reason:
        raise click.UsageError("--accept-rewrite needs a --reason: it is kept")
    body: dict[str, object] = {"accept_rewrite": accept_rewrite, "reason": reason, "actor": os.environ.get("USER", "")}
    made = HubApi(hub, token_file).post("sync", body)
    if not _print(made, output):
        click.echo(f"looking at {made['upstream']['url']}")


commands: tuple[click.Command, ...] = (
    status,
    clusters,
    bundles,
    rollouts,
    drift,
    events,
    join_token,
    sync,
    _verb("pause", "Stop a rollout where it is; clusters keep what they run."),
    _verb("resume", "Let a paused rollout go on."),
    _verb("abort", "End a rollout where it is, without a rollback."),
    _verb("rollback", "Bring every cluster of a rollout back to what it ran before."),
    release,
)
