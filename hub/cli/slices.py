"""`flotilla slice`: what a cluster's agents were told, from a running hub, or with `--repo` from its slice repository
or a clone or mirror of it, which needs no hub and does not disturb one.

Values of Secrets are never shown; `checkout` writes the files as they are. `slice_history` does the reading.
"""

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
import pygit2

from hub.cli import asking, changes, diffing, offline, telling
from hub.cli.slice_history import History
from proto.objects import ObjectKey
from proto.slices import BUNDLES, POLICY_FILE


@click.group(
    "slice",
    epilog="""\b
Examples:
  flotilla slice log eu-1
  flotilla slice diff eu-1 ~1..~0
  flotilla slice show eu-1 12 --repo /var/lib/flotilla/slices.git""",
)
def slice_() -> None:
    """Look at what a cluster was told: its slices.

    They come from a running hub, or with --repo from its slice repository.
    """


def _reads(command: Callable[..., None]) -> Any:
    """Options of where the slices are; the command gets them as `history`."""

    @click.option(
        "--repo",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Read slices.git of the hub's data folder, or a clone or mirror of it, instead of asking a hub.",
    )
    @asking.secret_options
    @functools.wraps(command)
    def wrapped(cluster: str, repo: Path | None, token_file: Path | None, hub: str, **options: Any) -> None:
        if repo is not None:
            history = History.in_repository(repo, cluster)
        else:
            there = History.at_hub(asking.HubApi(hub, token_file), cluster)
            history = click.get_current_context().with_resource(there)
        command(cluster=cluster, history=history, **options)

    return wrapped


@slice_.command(
    epilog="""\b
Examples:
  flotilla slice log eu-1
  flotilla slice log eu-1 --number 5 --output json""",
)
@click.argument("cluster")
@click.option("--number", "-n", default=20, show_default=True, type=click.IntRange(1), help="At most so many.")
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", help="How to print it.")
@_reads
def log(cluster: str, number: int, output: str, history: History) -> None:
    """The slices of a cluster, the newest first, with what each one changed."""
    entries = [_entry(history, commit) for commit in itertools.islice(history.commits(), number)]
    if asking.print_json([{**entry, "trailers": dict(entry["trailers"])} for entry in entries], output):
        return
    rows = [
        (
            entry["seq"],
            entry["commit"][:12],
            entry["time"],
            *(", ".join(entry["trailers"].get(name, ())) for name in ("Wave", "Rollout")),
            ", ".join(value[:12] for value in entry["trailers"].get("Source-Revision", ())),
            telling.printable(entry["change"]),
        )
        for entry in entries
    ]
    asking.print_table(("SEQ", "COMMIT", "TIME", "WAVE", "ROLLOUT", "REVISION", "WHAT"), rows, empty="no slice")


@slice_.command(
    epilog="""\b
Examples:
  flotilla slice show eu-1
  flotilla slice show eu-1 12 --output yaml""",
)
@click.argument("cluster")
@click.argument("commit", default="", metavar="[COMMIT]")
@click.option("--output", "-o", type=click.Choice(["table", "yaml", "json"]), default="table", help="How to print it.")
@_reads
def show(cluster: str, commit: str, output: str, history: History) -> None:
    """What one slice says of itself, and its objects; with yaml or json the objects in full."""
    found = history.named(commit)
    manifest, files = history.manifest(found), history.files(found)
    objects = [(bundle, key, changes.readable(orjson.loads(data))) for bundle, key, data in _objects(files)]
    if output == "json":
        value = {**msgspec.to_builtins(manifest), "commit": str(found.id), "objects": [obj for _, _, obj in objects]}
        click.echo(json.dumps(value, indent=2))
        return
    if output == "yaml":
        for _, _, obj in objects:
            click.echo(f"---\n{offline.to_yaml(obj)}", nl=False)
        return
    click.secho(f"{manifest.cluster} #{manifest.seq}  {found.id}  {_time(found)}", bold=True)
    bundles = [(name, e.subtree[:12], e.revision[:12], e.rollout) for name, e in sorted(manifest.bundles.items())]
    asking.print_table(("BUNDLE", "SUBTREE", "REVISION", "ROLLOUT"), bundles, empty="no bundle")
    click.echo()
    asking.print_table(("BUNDLE", "OBJECT"), [(bundle, key) for bundle, key, _ in objects], empty="no object")


@slice_.command(
    epilog="""\b
Examples:
  flotilla slice diff eu-1              # what did the newest slice change?
  flotilla slice diff eu-1 12..15
  flotilla slice diff eu-1 12 -o json""",
)
@click.argument("cluster")
@click.argument("range_", default="~1", metavar="[A | A..B]")
@offline.form_option("text", "markdown", "json")
@_reads
def diff(cluster: str, range_: str, form: str, history: History) -> None:
    """Compare the objects of two slices of a cluster; one alone with the newest.

    Exits with 0 when nothing differs, 1 when something does, 2 when that cannot be told.
    """
    first, _, second = range_.partition("..")
    before, after = history.named(first), history.named(second)
    was, now = (_bundles(history.files(commit)) for commit in (before, after))
    gathered = changes.Gathered()
    for bundle in sorted(was.keys() | now.keys()):
        gathered.add(changes.object_changes(bundle, was.get(bundle, {}), now.get(bundle, {})), [cluster])
    found = gathered.shared()
    names = [f"{cluster} #{history.manifest(commit).seq}" for commit in (before, after)]
    title = " → ".join(names)
    if form == "json":
        sides = [{"name": name, "commit": str(one.id)} for name, one in zip(names, (before, after), strict=True)]
        changed = [shared.change.to_json() for shared in found]
        click.echo(json.dumps({"from": sides[0], "to": sides[1], "equal": not found, "changes": changed}, indent=2))
    elif form == "markdown":
        click.echo(diffing.markdown(title, found, joined=(), left=()))
    else:
        for line in diffing.text(title, found, joined=(), left=()):
            click.echo(line)
    if found:
        raise SystemExit(1)


@slice_.command(
    epilog="""\b
Examples:
  flotilla slice checkout eu-1 --to out/
  flotilla slice checkout eu-1 12 --to out/""",
)
@click.argument("cluster")
@click.argument("commit", default="", metavar="[COMMIT]")
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder.")
@_reads
def checkout(cluster: str, commit: str, folder: Path, history: History) -> None:
    """Write the files of one slice, values of Secrets included, to a new or empty folder."""
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"--to {folder}: give a new or empty folder")
    files = history.files(history.named(commit))
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.write_bytes(data)
    click.echo(f"{telling.counted(len(files), 'files')} of {cluster} in {folder}")


commands: tuple[click.Command, ...] = (slice_,)


def _entry(history: History, commit: pygit2.Commit) -> dict[str, Any]:
    """One slice for people. A trailer may be there several times, once for each bundle."""
    subject, _, rest = commit.message.partition("\n")
    trailers: dict[str, list[str]] = {}
    for line in rest.splitlines():
        key, separator, value = line.partition(": ")
        if separator:
            trailers.setdefault(key, []).append(value)
    return {
        "seq": history.manifest(commit).seq,
        "commit": str(commit.id),
        "time": _time(commit),
        "change": subject.partition(": ")[2] or subject,
        "trailers": trailers,
    }


def _time(commit: pygit2.Commit) -> str:
    return datetime.fromtimestamp(commit.commit_time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bundles(files: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Bundle → path in its subtree → content."""
    found: dict[str, dict[str, bytes]] = {}
    for path, data in files.items():
        folder, _, rest = path.partition("/")
        bundle, _, inside = rest.partition("/")
        if folder == BUNDLES:
            found.setdefault(bundle, {})[inside] = data
    return found


def _objects(files: Mapping[str, bytes]) -> Sequence[tuple[str, ObjectKey, bytes]]:
    return [
        (bundle, ObjectKey.from_path(path), data)
        for bundle, subtree in sorted(_bundles(files).items())
        for path, data in sorted(subtree.items())
        if path != POLICY_FILE
    ]
