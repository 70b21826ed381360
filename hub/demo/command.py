"""`flotilla demo`: the options, and whether there is room for it. Next: `run`."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from click.core import ParameterSource

from hub import scratch
from proto.errors import FlotillaError, InvalidInput

LEAST_CLUSTERS = 5
"""A canary and two in each region: one of them can be offline."""
LEAST_REAL = 2
CLUSTER_MB = 120
"""An agent (63 MB) and a simulated API server (44 MB), measured."""
HUB_MB = 400


@click.command()
@click.option("--once", is_flag=True, help="Play the whole story by itself; exit 0 only if each step was seen.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="With --once: a summary.")
@click.option("--clusters", default=6, show_default=True, type=click.IntRange(LEAST_CLUSTERS, 1000), help="How many.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Keep everything there.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="Use real clusters, the --context ones of this file.",
)
@click.option("--context", "contexts", multiple=True, metavar="NAME", help="A real cluster; the first is the canary.")
@click.option("--yes", is_flag=True, help="With --kubeconfig: do not ask before writing to the clusters.")
@click.pass_context
def demo(
    invoked: click.Context,
    once: bool,
    json_file: Path | None,
    clusters: int,
    folder: Path | None,
    kubeconfig: Path | None,
    contexts: tuple[str, ...],
    yes: bool,
) -> None:
    """Play with a hub and six simulated clusters on this machine.

    \b
    Examples:
      flotilla demo                        # press c, b, e, o, h; q or Ctrl-C ends it
      flotilla demo --once --json out.json
      flotilla demo --clusters 20 --dir /tmp/fleet
      flotilla demo --kubeconfig ~/.kube/config --context kind-a --context kind-b
    """
    if json_file is not None and not once:
        raise click.UsageError("--json goes with --once")
    counted = invoked.get_parameter_source("clusters") is not ParameterSource.DEFAULT
    check_real(kubeconfig, contexts, counted=counted, yes=yes)
    try:
        if kubeconfig is None:
            check_memory(clusters, free_mb=_free_mb())
        with _folder(folder) as where:
            # Here, since every other command would wait for these imports, too.
            from hub.demo import kubectl, run

            if kubeconfig is None:
                raise SystemExit(run.run(where, clusters=clusters, once=once, json_file=json_file))
            real = kubectl.read(kubeconfig, contexts)
            _ask(kubectl.plan(real), yes=yes)
            kubectl.check_untouched(real)
            try:
                raise SystemExit(run.run(where, clusters=0, real=real, once=once, json_file=json_file))
            finally:
                click.echo("\n" + kubectl.remains(real))
    except FlotillaError as error:
        raise click.ClickException(str(error)) from error


def check_real(kubeconfig: Path | None, contexts: Sequence[str], *, counted: bool, yes: bool) -> None:
    """Pure: real clusters are named in full, or not at all. Raises UsageError."""
    if kubeconfig is None and not contexts:
        if yes:
            raise click.UsageError("--yes goes with --kubeconfig")
        return
    if kubeconfig is None or not contexts:
        raise click.UsageError("--kubeconfig and --context go together")
    if counted:
        raise click.UsageError("--clusters is about simulated clusters; leave it away with --kubeconfig")
    if len(set(contexts)) < LEAST_REAL:
        raise click.UsageError(f"give --context {LEAST_REAL} times or more: a canary, and one that comes after it")


def _ask(plan: str, *, yes: bool) -> None:
    """Say what will be done, and go on only when somebody agrees."""
    click.echo(plan)
    if yes:
        return
    if not _terminal():
        raise InvalidInput("flotilla demo", "has no terminal to ask on", "give --yes when all this may be done")
    click.confirm("Go on?", default=False, abort=True)


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    """The folder for everything: a temporary one that goes with the demo, or the one asked for, which stays."""
    if wanted is None:
        with scratch.folder("demo") as made:
            yield made
        return
    if wanted.exists() and any(wanted.iterdir()):
        raise InvalidInput(f"--dir {wanted}", "is not empty", "name a new folder")
    wanted.mkdir(parents=True, exist_ok=True)
    yield wanted.resolve()


def _terminal() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()


def check_memory(clusters: int, *, free_mb: int | None) -> None:
    """Pure: refuse more clusters than there is memory for. Raises InvalidInput, saying how many would do."""
    if free_mb is None or HUB_MB + clusters * CLUSTER_MB <= free_mb:
        return
    most = (free_mb - HUB_MB) // CLUSTER_MB
    raise InvalidInput(
        f"--clusters {clusters}",
        f"takes about {(HUB_MB + clusters * CLUSTER_MB) / 1000:.1f} GB of memory, and {free_mb / 1000:.1f} GB are free",
        f"try --clusters {most}" if most >= LEAST_CLUSTERS else "end something else first",
    )


def _free_mb() -> int | None:
    """Memory that programs may have now, where the system says so."""
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        return int(found[1]) // 1024 if found else None
    return None


commands: tuple[click.Command, ...] = (demo,)
