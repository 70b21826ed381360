"""`flotilla bundle export` and `import`: a cluster's slice as a file, for a cluster that no network leads to.

`export` asks a running hub, or reads a slice repository with `--repo`, and writes a `git bundle`; with `--fleet` too
`composing` moves the slice there first. `import` checks the file on the other side and puts it whole where an agent
looks. The file holds the values of Secrets, and so is readable by its owner only, unless a person says otherwise.
"""

import os
import secrets
import shutil
import sys
import urllib.parse
from pathlib import Path

import click
import pygit2

from hub.cli import asking, composing, outside, telling
from hub.cli.directing import bundle
from hub.slices import bundle as slice_bundle
from hub.slices import signing
from hub.slices.gitstore import GitStore
from proto import git_bundle, keyfile, packs
from proto.errors import FlotillaError
from proto.ids import slice_ref

SUFFIX = ".bundle"


@bundle.command(
    epilog="""\b
Examples:
  flotilla bundle export eu-1 -o eu-1.bundle                   # all that eu-1 has to know
  flotilla bundle export eu-1 --since 12 -o eu-1.bundle        # what came after its slice 12
  flotilla bundle export eu-1 -o eu-1.bundle --repo /var/lib/flotilla/slices.git
  flotilla bundle export eu-1 -o eu-1.bundle --fleet . --repo ../eu-1.git     # a cluster that no hub hears""",
)
@click.argument("cluster")
@click.option("--since", default="", metavar="SEQ|COMMIT", help="Go on from this slice, which the cluster has.")
@click.option(
    "--output", "-o", required=True, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="The file."
)
@click.option(
    "--repo",
    type=click.Path(file_okay=False, path_type=Path),
    help="Read slices.git of the hub's data folder, or a mirror of it, instead of asking a hub.",
)
@click.option(
    "--fleet",
    "root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For a cluster that no hub hears: make its next slice from this checkout, and keep it in --repo.",
)
@click.option("--revision", default="HEAD", show_default=True, metavar="REV", help="The commit of --fleet.")
@click.option(
    "--slice-signing-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign the slice made from --fleet with this Ed25519 SSH key.",
)
@outside.options
@asking.secret_options
def export(
    cluster: str,
    since: str,
    output: Path,
    repo: Path | None,
    root: Path | None,
    revision: str,
    slice_signing_key: Path | None,
    token_file: Path | None,
    hub: str,
) -> None:
    """Write the slice of CLUSTER to a git bundle, to carry it to where there is no network."""
    if root is not None and repo is None:
        raise click.UsageError("--fleet needs --repo: a repository that keeps the slices of this cluster")
    if slice_signing_key is not None and root is None:
        raise click.UsageError("--slice-signing-key is for --fleet: a hub signs with its own")
    try:
        if repo is not None and root is not None:
            sign = signing.load(slice_signing_key).sign if slice_signing_key is not None else bytes
            if not composing.compose_next(repo, cluster, root=root, revision=revision, sign=sign):
                click.echo(f"{revision} changes nothing on {cluster}", err=True)
        if repo is None:
            path = f"clusters/{urllib.parse.quote(cluster, safe='')}/bundle"
            data = asking.HubApi(hub, token_file).download(path, {"since": since})
        else:
            data = _from_repo(repo, cluster, since)
        told = _Checked(data)
        if str(output) == "-":
            sys.stdout.buffer.write(data)
        else:
            keyfile.replace(output, data)
    except FlotillaError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{told} in {output}", err=True)


@bundle.command(
    "import",
    epilog="""\b
Examples:
  flotilla bundle import eu-1.bundle                       # is it whole, and for which cluster?
  flotilla bundle import eu-1.bundle --to /srv/slices      # put it where the agent's --slice-bundles looks""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The folder of the agent."
)
def import_(file: Path, folder: Path | None) -> None:
    """Check the git bundle FILE, and put it whole into the folder from which an agent takes its slices."""
    try:
        told = _Checked(file.read_bytes())
        where = "" if folder is None else f" in {_put(file, folder)}"
    except (FlotillaError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    click.echo(f"{told}{where}")


commands: tuple[click.Command, ...] = (bundle,)
"""None of its own: they are `bundle`'s."""


class _Checked:
    """What a bundle says of itself, once its pack is whole. Raises FlotillaError."""

    def __init__(self, data: bytes) -> None:
        header = git_bundle.read_header(data)
        count = packs.check(memoryview(data)[header.pack_at :])
        prefix = slice_ref("")
        clusters = [name.removeprefix(prefix) for name in header.refs if name.startswith(prefix)]
        if not clusters:
            raise click.ClickException(f"it has no slice, but {', '.join(header.refs) or 'nothing'}")
        names = ", ".join(f"{name} at {header.refs[prefix + name][:12]}" for name in clusters)
        after = ", ".join(oid[:12] for oid in header.prerequisites)
        self._text = f"{names}, {telling.counted(count, 'objects')}, " + (f"after {after}" if after else "whole")

    def __str__(self) -> str:
        return self._text


def _from_repo(repo: Path, cluster: str, since: str) -> bytes:
    pygit2.settings.owner_validation = False  # as in `revisions`
    store = GitStore(repo)
    tip = store.ref(cluster)
    if tip is None:
        known = [name.rpartition("clusters/")[2] for name in pygit2.Repository(str(repo)).references]
        raise click.ClickException(f"{repo} has no slice of cluster {cluster!r}{telling.near(cluster, known)}")
    return b"".join(slice_bundle.export(store, cluster, tip=tip, since=since).pieces(store))


def _put(file: Path, folder: Path) -> Path:
    """A copy in `folder`, there as a whole or not at all, with the permissions of the file."""
    place = folder / (file.name if file.name.endswith(SUFFIX) else f"{file.name}{SUFFIX}")
    temporary = folder / f".{place.name}.{secrets.token_hex(4)}"
    try:
        shutil.copy(file, temporary)
        with temporary.open("rb") as made:
            os.fsync(made.fileno())
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    return place
