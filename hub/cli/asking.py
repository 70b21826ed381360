"""How `flotilla` asks a running hub, and prints what it said: shared by `online`, `commanding` and `directing`.

An error names the hub, the cause and the next step, and exits with 1. What the hub says may come from anybody who can
commit: it is shown as it is, never read as markup.
"""

import http.client
import itertools
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hub.cli import progress

TIMEOUT_S = 20.0
DEFAULT_HUB = "http://127.0.0.1:8470"

_LEAST_FOLDED = 30
"""A last column that is wider than the terminal leaves is folded there if it has so much room, else it goes below."""
_STYLES = {
    "Current": "green",
    "completed": "green",
    "connected": "green",
    "reverted": "green",
    "running": "cyan",
    "InProgress": "yellow",
    "paused": "yellow",
    "suspended": "yellow",
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
        if not _is_address(hub):
            raise click.UsageError(f"--hub {hub!r} is no address of a hub: write such as {DEFAULT_HUB}")
        self.hub = hub.rstrip("/")
        self._token_file = token_file

    def get(self, path: str, **query: object) -> Any:
        given = {key: value for key, value in query.items() if value not in (None, "")}
        return self._call("GET", path + (f"?{urllib.parse.urlencode(given)}" if given else ""), None)

    def post(self, path: str, body: dict[str, object]) -> Any:
        return self._call("POST", path, body)

    def download(self, path: str, body: dict[str, object]) -> bytes:
        """What the hub answers a POST with, when that is a file. Raises as all calls do when it does not come whole."""
        with self._opened("POST", path, body) as response:
            found: bytes = response.read()
            return found

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
        with self._opened(method, path, body) as response:
            return json.load(response)

    @contextmanager
    def _opened(self, method: str, path: str, body: dict[str, object] | None) -> Iterator[Any]:
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
            with progress.noted(f"waiting for {self.hub} ..."):
                response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
            with response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                raise click.ClickException(_told(error)) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            if isinstance(why, TimeoutError):
                raise click.ClickException(
                    f"the hub at {self.hub} does not answer within {TIMEOUT_S:.0f} s\n"
                    "Something listens there: the hub hangs, or the network loses what is sent. Agents go on meanwhile."
                ) from error
            raise click.ClickException(
                f"no hub answers at {self.hub}: {why}\n"
                "Start one with 'flotilla-hub --fleet PATH', or name yours with --hub or FLOTILLA_HUB."
            ) from error


def _is_address(text: str) -> bool:
    try:
        found = urllib.parse.urlsplit(text)
        return found.scheme in ("http", "https") and bool(found.hostname) and (found.port is None or found.port > 0)
    except ValueError:  # a port that is none, half an IPv6 address
        return False


def _told(error: urllib.error.HTTPError) -> str:
    try:
        said = json.load(error)
        return f"{said['error']}\n{said['remedy']}".strip()
    except (ValueError, KeyError, TypeError):
        return f"the hub answered {error.code} {error.reason}"


def secret_options(command: Any) -> Any:
    """What every command takes that may ask a hub for what has Secrets in it."""
    for option in (
        click.option("--hub", default=DEFAULT_HUB, envvar="FLOTILLA_HUB", show_default=True, help="The hub's URL."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            envvar="FLOTILLA_TOKEN_FILE",
            help="File with the administrator's token (or FLOTILLA_TOKEN): the slice has Secrets in it.",
        ),
    ):
        command = option(command)
    return command


def hub_options(command: Any) -> Any:
    """What every online command takes."""
    for option in (
        click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", help="How to print it."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            envvar="FLOTILLA_TOKEN_FILE",
            help="File with the operator's or the administrator's token (or FLOTILLA_TOKEN), for commands.",
        ),
        click.option("--hub", default=DEFAULT_HUB, envvar="FLOTILLA_HUB", show_default=True, help="The hub's URL."),
    ):
        command = option(command)
    return command


def print_json(value: Any, output: str) -> bool:
    """Print JSON when asked for; returns whether that was done."""
    if output == "json":
        click.echo(json.dumps(value, indent=2))
    return output == "json"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table; a terminal that is too narrow has what does not fit below each row, for nothing is ever cut off."""
    cells = [[str(cell) for cell in row] for row in rows]
    console = Console()
    if not cells:
        click.secho(empty, dim=True)
        return
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    if not console.is_terminal:
        for line in (columns, *cells):
            click.echo("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    ends = [end - 2 for end in itertools.accumulate(width + 2 for width in widths)]
    fit = sum(end <= console.width for end in ends) or 1
    if fit >= len(columns) - 1 and console.width - ends[-1] + widths[-1] >= min(_LEAST_FOLDED, widths[-1]):
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for column in columns:
            table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        console.print(table)
        return
    _print_line(console, [Text(column, style="bold") for column in columns[:fit]], widths)
    for row in cells:
        _print_line(console, [Text(cell, style=_STYLES.get(cell, "")) for cell in row[:fit]], widths)
        below = [
            Text.assemble((f"{column} ", "dim"), (cell, _STYLES.get(cell, "")))
            for column, cell in zip(columns[fit:], row[fit:], strict=True)
            if cell
        ]
        if below:
            console.print(Padding(Text("  ").join(below), (0, 0, 0, 2), expand=False))


def _print_line(console: Console, cells: Sequence[Text], widths: Sequence[int]) -> None:
    for cell, width in zip(cells, widths, strict=False):
        cell.pad_right(width - cell.cell_len)
    line = Text("  ").join(cells)
    line.rstrip()
    console.print(line, soft_wrap=True)


def ago(time: str) -> str:
    """How long ago an RFC 3339 time was, in the largest unit that says something."""
    if not time:
        return "never"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return f"{int(seconds)}s ago"


def words(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "none"
