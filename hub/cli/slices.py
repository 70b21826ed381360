"""`flotilla slice`: what a cluster's agents were told, from the hub's slice repository or a clone or mirror of it.

Only reads, by Git itself: it needs no hub and does not disturb one. A slice commit is named by its number (`12`), by
how far it is behind the newest (`~1`), or by the beginning of its id; another cluster's commits are refused. Values of
Secrets are never shown; `checkout` writes the files as they are.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
import pygit2

from hub.cli import asking, changes, diffing, offline, telling
from hub.cli.revisions import Failed
from proto.errors import FlotillaError
from proto.ids import slice_ref
from proto.objects import ObjectKey
from proto.slices import BUNDLES, POLICY_FILE, SLICE_FILE, SliceManifest, predecessor, read_manifest

_FILE, _FOLDER = 0o100644, 0o040000
_MAX_DEPTH = 8
"""A slice's files lie five folders deep."""


@click.group(
    "slice",
    epilog="""\b
Examples:
  flotilla slice log eu-1
  flotilla slice diff eu-1 ~1..~0
  flotilla slice show eu-1 12 --repo /var/lib/flotilla/slices.git""",
)
def slice_() -> None:
    """Look at what a cluster was told: its slices, from the hub's slice repository."""


def _repo_option(command: Any) -> Any:
    return click.option(
        "--repo",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default="flotilla-hub/slices.git",
        show_default=True,
        help="slices.git in the hub's data folder, or a clone or mirror of it.",
    )(command)


@slice_.command(
    epilog="""\b
Examples:
  flotilla slice log eu-1
  flotilla slice log eu-1 --number 5 --output json""",
)
@click.argument("cluster")
@click.option("--number", "-n", default=20, show_default=True, type=click.IntRange(1), help="At most so many.")
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", help="How to print it.")
@_repo_option
def log(cluster: str, number: int, output: str, repo: Path) -> None:
    """The slices of a cluster, the newest first, with what each one changed."""
    history = _History(repo, cluster)
    entries = [_entry(history, commit) for commit in itertools.islice(history.commits(), number)]
    if asking.print_json([{**entry, "trailers": dict(entry["trailers"])} for entry in entries], output):
        return
    rows = [
        (
            entry["seq"],
            entry["commit"][:12],
            entry["time"],
            telling.printable(entry["change"]),
            *(", ".join(entry["trailers"].get(name, ())) for name in ("Wave", "Rollout")),
            ", ".join(value[:12] for value in entry["trailers"].get("Source-Revision", ())),
        )
        for entry in entries
    ]
    asking.print_table(("SEQ", "COMMIT", "TIME", "WHAT", "WAVE", "ROLLOUT", "REVISION"), rows, empty="no slice")


@slice_.command(
    epilog="""\b
Examples:
  flotilla slice show eu-1
  flotilla slice show eu-1 12 --output yaml""",
)
@click.argument("cluster")
@click.argument("commit", default="", metavar="[COMMIT]")
@click.option("--output", "-o", type=click.Choice(["table", "yaml", "json"]), default="table", help="How to print it.")
@_repo_option
def show(cluster: str, commit: str, output: str, repo: Path) -> None:
    """What one slice says of itself, and its objects; with yaml or json the objects in full."""
    history = _History(repo, cluster)
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
  flotilla slice diff eu-1 12 --format json""",
)
@click.argument("cluster")
@click.argument("range_", default="~1", metavar="[A | A..B]")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@_repo_option
def diff(cluster: str, range_: str, form: str, repo: Path) -> None:
    """Compare the objects of two slices of a cluster; one alone with the newest.

    Exits with 0 when nothing differs, 1 when something does, 2 when that cannot be told.
    """
    history = _History(repo, cluster)
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
@_repo_option
def checkout(cluster: str, commit: str, folder: Path, repo: Path) -> None:
    """Write the files of one slice, values of Secrets included, to a new or empty folder."""
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"--to {folder}: give a new or empty folder")
    history = _History(repo, cluster)
    files = history.files(history.named(commit))
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.write_bytes(data)
    click.echo(f"{telling.counted(len(files), 'files')} of {cluster} in {folder}")


commands: tuple[click.Command, ...] = (slice_,)


class _History:
    """The slices of one cluster. Everything raises Failed."""

    def __init__(self, path: Path, cluster: str) -> None:
        pygit2.settings.owner_validation = False  # as in `revisions`
        self._cluster = cluster
        try:
            self._repo = pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
        except (pygit2.GitError, OSError) as error:
            raise Failed(f"{path} is not a Git repository (use --repo, slices.git of the hub's data folder)") from error
        refs = list(self._repo.references)
        ref = slice_ref(cluster)
        found = [name for name in (ref, ref.replace("refs/heads/", "refs/remotes/origin/")) if name in refs]
        if not found:
            known = [name.rpartition("clusters/")[2] for name in refs if "clusters/" in name]
            raise Failed(f"{path} has no slice of cluster {cluster!r}{telling.near(cluster, known)}")
        self._tip = self._commit(str(self._repo.references[found[0]].target))

    def commits(self) -> Iterator[pygit2.Commit]:
        """Newest first, on across checkpoints as far as what they cut off is kept."""
        at: pygit2.Commit | None = self._tip
        while at is not None:
            yield at
            before = str(at.parent_ids[0]) if at.parent_ids else predecessor(at.message)
            at = self._commit(before) if before is not None and before in self._repo else None

    def named(self, name: str) -> pygit2.Commit:
        """The commit of that name, the newest for "". Raises Failed for one that is not this cluster's."""
        if not name:
            return self._tip
        if name.startswith("~") and name[1:].isdecimal():
            found = next(itertools.islice(self.commits(), int(name[1:]), None), None)
        else:
            number = int(name.removeprefix("#")) if name.removeprefix("#").isdecimal() and len(name) < 10 else -1
            found = next(
                (
                    commit
                    for commit in self.commits()
                    if (number >= 0 and self.manifest(commit).seq == number)
                    or (len(name) > 3 and str(commit.id).startswith(name.lower()))
                ),
                None,
            )
        if found is None:
            newest = self.manifest(self._tip).seq
            raise Failed(
                f"cluster {self._cluster} has no slice {name!r}: name its number (the newest is {newest}), ~N or id"
            )
        return found

    def manifest(self, commit: pygit2.Commit) -> SliceManifest:
        try:
            return read_manifest(self._blob(commit.tree[SLICE_FILE]))
        except (KeyError, FlotillaError) as error:
            raise Failed(f"commit {commit.id} is not a slice: {error}") from error

    def files(self, commit: pygit2.Commit) -> Mapping[str, bytes]:
        """Path → content."""
        return dict(self._files(commit.tree, ""))

    def _files(self, tree: pygit2.Tree, at: str) -> Iterator[tuple[str, bytes]]:
        for entry in tree:
            name = entry.name or ""
            path = f"{at}{name}"
            if name in ("", ".", "..") or name.lower() == ".git" or "/" in name or path.count("/") > _MAX_DEPTH:
                raise Failed(f"the slice holds the name {telling.printable(path[:200])!r}, which no slice has")
            if int(entry.filemode) == _FOLDER and isinstance(entry, pygit2.Tree):
                yield from self._files(entry, f"{path}/")
            elif int(entry.filemode) == _FILE:
                yield path, self._blob(entry)
            else:
                raise Failed(f"the slice's {telling.printable(path[:200])} is neither a file nor a folder")

    def _blob(self, found: pygit2.Object) -> bytes:
        if not isinstance(found, pygit2.Blob):
            raise Failed(f"Git object {found.id} is not a file")
        return found.data

    def _commit(self, oid: str) -> pygit2.Commit:
        try:
            return self._repo[oid].peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise Failed(f"Git object {oid} is missing or broken (run 'git fsck' there)") from error


def _entry(history: _History, commit: pygit2.Commit) -> dict[str, Any]:
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
