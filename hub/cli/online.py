"""`flotilla` commands that ask a running hub what is: status, clusters, bundles, rollouts, drift, events.

Each is one request and one table; `--output json` prints what the API said, for scripts. `commanding` and `directing`
change something.
"""

import urllib.parse
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from hub.cli import telling, waiting
from hub.cli.asking import HubApi, ago, hub_options, print_json, print_table, words


@click.command()
@hub_options
def status(hub: str, token_file: Path | None, output: str) -> None:
    """The fleet at a glance, and what is wrong.

    \b
    Examples:
      flotilla status
      flotilla status --hub https://hub.example.org:8470 -o json
    """
    fleet = HubApi(hub, token_file).get("fleet")
    if print_json(fleet, output):
        return
    console = Console(soft_wrap=True, highlight=False)
    clusters, upstream = fleet["clusters"], fleet["upstream"]
    where = f"at {fleet['revision'][:12]}" if fleet["revision"] else "not taken yet"
    looked = f"read {ago(upstream['synced_at'])}" if upstream["synced_at"] else "never read"
    console.print(f"[bold]fleet repo[/]  {escape(upstream['url'])} ({escape(upstream['branch'])}) {where}, {looked}")
    console.print(
        f"[bold]clusters[/]    {clusters['total']} ({clusters['connected']} connected): {words(clusters['health'])}"
    )
    console.print(f"[bold]bundles[/]     {fleet['bundles']}")
    for rollout in fleet["rollouts"]:
        said_below = rollout["phase"] == "running" and (rollout["gates"] or rollout["offline"]["total"])
        console.print(
            f"[bold]rollout[/]     {rollout['id']} {rollout['phase']}, {_wave(rollout)}: {words(rollout['phases'])}"
            + (escape(f" ({rollout['reason']})") if rollout["reason"] and not said_below else "")
        )
        for line in waiting.of_rollout(rollout):
            console.print(line)
        if rollout["phase"] == "paused":
            console.print(waiting.paused(rollout))
    for row in fleet.get("joining", ()):
        console.print(waiting.joining(row))
    for row in fleet["freezes"]:
        console.print(waiting.freeze(row))
    for hold in fleet["on_hold"]:
        console.print(f"[bold yellow]on hold[/]     {hold['bundle']}{escape(_kept(hold))}")
        if hold["rollout"] and not hold["revision"]:
            console.print(waiting.why(hold["rollout"]))
    for line in _asked(fleet["directives"]):
        console.print(line)
    for text in fleet["problems"]:
        console.print(f"[bold red]problem[/]     {escape(text)}")
    for item in fleet["findings"]:
        colour = "red" if item["severity"] == "error" else "yellow"
        console.print(
            Text.assemble(
                (item["severity"].ljust(12), f"bold {colour}"), telling.printable(f"{item['where']}: {item['message']}")
            )
        )
        if item["remedy"]:
            console.print(Text(f"            → {telling.printable(item['remedy'])}", style="dim"))


def _kept(hold: dict[str, Any]) -> str:
    """Where a bundle on hold is, why, and what ends it."""
    at = f" at revision {hold['revision'][:12]}" if hold["revision"] else ""
    fix = "commit a change, or " if hold["until"] == "changed" else ""
    return f"{at}: {hold['reason']} ({fix}'flotilla release {hold['bundle']} --reason …')"


_ASKED = {"suspend": "suspended", "pause": "paused", "cordon": "cordoned"}


def _asked(directives: list[dict[str, Any]]) -> list[Text]:
    """What people suspended, paused and cordoned: one line for the clusters that share who, why and until when."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for item in directives:
        word = _ASKED[item["kind"]]
        bundle = f"{item['bundle']} on " if item["bundle"] else ""
        until = f" until {item['until']}" if item["until"] else ""
        why = item["why"] if item["here"] else f"{item['why']}, in the cluster"
        alike.setdefault((word, bundle, until, why), []).append(item["cluster"])
    lines = []
    for (word, bundle, until, why), clusters in alike.items():
        names = ", ".join(clusters[:3]) + (f" and {len(clusters) - 3} more" if len(clusters) > 3 else "")
        lines.append(Text.assemble((word.ljust(12), "bold yellow"), f"{bundle}{names}{until} ({why})"))
    return lines


def _wave(rollout: dict[str, Any]) -> str:
    waves = rollout["waves"]
    if rollout["wave"] >= len(waves):
        return f"all {len(waves)} waves done"
    return f"wave {rollout['wave'] + 1}/{len(waves)} {waves[rollout['wave']]['name']}"


@click.command()
@click.argument("name", required=False)
@hub_options
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
        if not print_json(found, output):
            _show_cluster(found)
        return
    found = api.get("clusters")
    if print_json(found, output):
        return
    print_table(
        ("CLUSTER", "HEALTH", "CONNECTION", "LAST SEEN", "DECIDED", "APPLIED", "BUNDLES", "DRIFT", "WHAT"),
        [
            (
                row["name"],
                row["health"],
                row["connection"],
                ago(row["last_seen"]),
                f"#{row['decided']['seq']}",
                f"#{row['applied']['seq']}",
                row["bundles"],
                row["drift_total"],
                "; ".join([*(["cordoned"] if row["cordoned"] else []), *row["problems"]]),
            )
            for row in found["clusters"]
        ],
        empty="no clusters yet: commit a Cluster file to the fleet repo",
    )


def _show_cluster(found: dict[str, Any]) -> None:
    labels = ",".join(f"{key}={value}" for key, value in sorted(found["labels"].items()))
    click.echo(f"{found['name']}  {labels}")
    click.echo(f"health {found['health']}, {found['connection']}, last seen {ago(found['last_seen'])}")
    click.echo(f"decided #{found['decided']['seq']}, applied #{found['applied']['seq']}")
    if pause := found["paused"]:
        click.secho(
            f"paused until {pause['until']} ({pause['why']}): drift is told, and undone when that is over", fg="yellow"
        )
    if cordon := found["cordoned"]:
        click.secho(f"cordoned since {ago(cordon['since'])} ({cordon['why']}): no rollout goes there", fg="yellow")
    for problem in found["problems"]:
        click.secho(f"problem: {problem}", fg="red")
    for row in found["bundle_list"]:
        if row["suspended"]:
            click.secho(f"{row['name']} is suspended ({row['suspended']})", fg="yellow")
    click.echo()
    print_table(
        ("BUNDLE", "HEALTH", "REVISION", "ROLLOUT", "OBJECTS"),
        [
            (row["name"], row["health"], row["revision"][:12], row["rollout"], words(row["counts"]))
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
    print_table(
        ("SEQ", "WHEN", "COMMIT", "WHAT"),
        [
            (
                f"#{move['seq']}",
                ago(move["time"]),
                move["new"][:12],
                ", ".join(f"{c[0]} ({c[2]})" for c in move["causes"]),
            )
            for move in found["moves"]
        ],
        empty="no moves yet",
    )


def _about_bundle(row: dict[str, Any]) -> list[str]:
    hold = row["hold"]
    since = f" since {hold['rollout']}" if hold and hold["rollout"] and not hold["revision"] else ""
    at = f" at revision {hold['revision'][:12]}" if hold and hold["revision"] else ""
    held = [f"on hold{since}{at}: {hold['reason']}"] if hold else []
    held += [f"a newer commit waits for {row['rollout']}"] if row["newer_waits"] else []
    held += [f"suspended on {item['cluster']} ({item['why']})" for item in row["suspended"][:3]]
    held += [f"and on {len(row['suspended']) - 3} more clusters"] if len(row["suspended"]) > 3 else []
    held += [f"{item['where']}: {item['message']}" for item in row["findings"]]
    source = row.get("source")
    return [*held, f"source {source['revision']} ({source['digest'][:19]})"] if source else held


@click.command()
@hub_options
def bundles(hub: str, token_file: Path | None, output: str) -> None:
    """All bundles: where they run, and how they are.

    \b
    Example:
      flotilla bundles
    """
    found = HubApi(hub, token_file).get("bundles")
    if print_json(found, output):
        return
    print_table(
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
@hub_options
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
        if print_json(found, output):
            return
        click.echo(f"{found['id']}  {found['phase']}  {found['reason']}".rstrip())
        console = Console(soft_wrap=True, highlight=False)
        for line in waiting.of_rollout(found):
            console.print(line)
        print_table(
            ("WAVE", "CLUSTERS", "WHAT"),
            [(f"{w['name']} ({w['state']})", w["clusters"], words(w["phases"])) for w in found["waves"]],
            empty="no waves",
        )
        click.echo()
        print_table(
            ("CLUSTER", "PHASE", "SEQ", "MOVED"),
            [(m["cluster"], m["phase"], f"#{m['seq']}", ago(m["moved_at"])) for m in found["members"]],
            empty="no members",
        )
        for member in found["members"]:
            if member["reason"]:
                click.echo(f"  {member['cluster']}: {member['reason']}")
        return
    found = api.get("rollouts", limit=limit)
    if print_json(found, output):
        return
    print_table(
        ("ROLLOUT", "PHASE", "WAVE", "REVISION", "STARTED", "CLUSTERS", "REASON"),
        [
            (r["id"], r["phase"], _wave(r), r["revision"][:12], ago(r["made_at"]), words(r["phases"]), r["reason"])
            for r in found["rollouts"]
        ],
        empty="no rollouts yet: commit something",
    )
    console = Console(soft_wrap=True, highlight=False)
    for row in found.get("joining", ()):
        console.print(waiting.joining(row))


@click.group(invoke_without_command=True)
@click.option("--cluster", default="", help="Only of this cluster.")
@click.option("--bundle", default="", help="Only of this bundle.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="How many, the newest last.")
@hub_options
@click.pass_context
def drift(
    context: click.Context, cluster: str, bundle: str, limit: int, hub: str, token_file: Path | None, output: str
) -> None:
    """What others changed in the clusters, and what was done.

    \b
    Examples:
      flotilla drift
      flotilla drift --cluster eu-1 --bundle shop
      flotilla drift show 1234              # what Git wants and what was there, by the ID of the list
    """
    if context.invoked_subcommand:
        return
    found = HubApi(hub, token_file).get("drift", cluster=cluster, bundle=bundle, limit=limit)
    if print_json(found, output):
        return
    print_table(
        ("ID", "WHEN", "FIRST SEEN", "CLUSTER", "BUNDLE", "OBJECT", "CHANGE", "FIELDS", "WHO", "DONE"),
        [
            (
                row["id"],
                ago(row["time"]),
                ago(row["data"]["first_seen"]) if row["data"].get("first_seen") else "",
                row["cluster"],
                row["bundle"],
                row["data"].get("object", ""),
                row["data"].get("what", ""),
                ", ".join(row["data"].get("fields", ())) or "unknown",
                " ".join(filter(None, (row["data"].get("manager"), row["data"].get("time")))),
                row["data"].get("action", "") + (", contested" if row["data"].get("contested") else ""),
            )
            for row in found["drift"]
        ],
        empty="no drift reported",
    )


@drift.command("show")
@click.argument("id")
@hub_options
def drift_show(id: str, hub: str, token_file: Path | None, output: str) -> None:
    """What Git wants and what was there, field by field; the cluster's agent is asked now.

    Values of Secrets and other sensitive fields are left out.

    \b
    Example:
      flotilla drift show 1234
    """
    found = HubApi(hub, token_file).post(f"drift/{urllib.parse.quote(id)}/values", {})
    if print_json(found, output):
        return
    click.echo(found["text"])
    for value in found["values"]:
        click.echo(f"\n{value['path']}")
        if value["redacted"]:
            click.secho("  (sensitive: the values are left out)", dim=True)
            continue
        click.secho(f"  - {value['live'] or '(absent)'}", fg="red")
        click.secho(f"  + {value['wanted'] or '(absent)'}", fg="green")
    if found["problem"]:
        click.secho(f"\n{found['problem']}", fg="yellow")
    elif found["values"]:
        click.secho("\n- was there   + Git wants", dim=True)


@click.command()
@click.option("--kind", default="", help="Only of this kind (drift, denied, rolled-back, …).")
@click.option("--cluster", default="", help="Only of this cluster.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="How many, the newest last.")
@hub_options
def events(kind: str, cluster: str, limit: int, hub: str, token_file: Path | None, output: str) -> None:
    """Everything that happened, the newest last.

    \b
    Examples:
      flotilla events
      flotilla events --kind denied
    """
    found = HubApi(hub, token_file).get("events", kind=kind, cluster=cluster, limit=limit)
    if print_json(found, output):
        return
    print_table(
        ("WHEN", "KIND", "CLUSTER", "WHAT"),
        [(ago(row["time"]), row["kind"], row["cluster"], row["text"]) for row in found["events"]],
        empty="nothing happened yet",
    )


commands: tuple[click.Command, ...] = (status, clusters, bundles, rollouts, drift, events)
