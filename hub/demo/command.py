"""`flotilla demo`: the options, and whether there is room for it. Next: `run`."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from proto.errors import FlotillaError, InvalidInput

LEAST_CLUSTERS = 5
"""A canary and two in each region: one of them can be offline."""
CLUSTER_MB = 120
"""An agent (63 MB) and a simulated API server (44 MB), measured."""
HUB_MB = 400


@click.command()
@click.option("--once", is_flag=True, help="Play the whole story by itself; exit 0 only if each step was seen.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="With --once: a summary.")
@click.option("--clusters", default=6, show_default=True, type=click.IntRange(LEAST_CLUSTERS, 1000), help="How many.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Keep everything there.")
def demo(once: bool, json_file: Path | None, clusters: int, folder: Path | None) -> None:
    """A hub and six agents, each with its own simulated cluster, on this machine: watch them, and play along.

    \b
    Examples:
      flotilla demo                        # press c, b, e, o, h; q or Ctrl-C ends it
      flotilla demo --once --json out.json
      flotilla demo --clusters 20 --dir /tmp/fleet
    """
    if json_file is not None and not once:
        raise click.UsageError("--json goes with --once")
    try:
        check_memory(clusters, free_mb=_free_mb())
        with _folder(folder) as where:
            # Here, since every other command would wait for these imports, too.
            from hub.demo import run

            code = run.run(where, clusters=clusters, once=once, json_file=json_file)
    except FlotillaError as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(code)


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    """The folder for everything: a temporary one that goes with the demo, or the one asked for, which stays."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="flotilla-demo-") as made:
            yield Path(made)
        return
    if wanted.exists() and any(wanted.iterdir()):
        raise InvalidInput(f"--dir {wanted}", "is not empty", "name a new folder")
    wanted.mkdir(parents=True, exist_ok=True)
    yield wanted.resolve()


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
