"""Sources from outside of the fleet repo, for commands that work on a checkout and ask no hub.

They resolve for themselves, and say on standard error what to: a hub may have pinned something else, which no checkout
tells. What was fetched stays in a cache of the user (`$XDG_CACHE_HOME/flotilla`, or `~/.cache/flotilla`).

| the source                              | is                                                                         |
|-----------------------------------------|----------------------------------------------------------------------------|
| names its content (a commit, a digest)  | what the cache has; nobody is asked                                        |
| was resolved less than `FRESH_S` ago    | what it was: `render`, then `diff`, show the same                          |
| cannot be reached, and was at some time | what it was, with a warning                                                |
| with `--offline`                        | what it was, however long ago                                              |

Within one command equal sources are one: both sides of a `diff` have the same. Next: `mounts` puts them in their place.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from hub import requests
from hub.cli import progress
from hub.external import fetch, store
from hub.external.fetch import Access
from hub.model import Finding, Fleet, Pin
from hub.pins import Wanted
from hub.repo import addresses, sources
from hub.repo import fleet as fleet_loader
from hub.repo.mounts import Mounted
from proto.errors import FlotillaError, InvalidInput, Transient
from proto.ids import BundleName, Oid

FRESH_S = 600.0
_META = "flotilla.outside"
F = TypeVar("F", bound=Callable[..., Any])


def options(command: F) -> F:
    """The options of every command that renders a checkout."""
    command = click.option(
        "--source-credentials",
        envvar="FLOTILLA_SOURCE_CREDENTIALS",
        type=click.Path(path_type=Path, exists=True),
        expose_value=False,
        callback=_remember,
        help="File or folder of the credentials that bundles name for sources outside the fleet repo.",
    )(command)
    return click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Fetch nothing: sources outside the fleet repo are what the cache has.",
    )(command)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    context.find_root().meta[f"{_META}.{parameter.name}"] = value


class Outside:
    """A fleet repo with its sources from outside in their places. `fleet` lacks the bundles whose source cannot be had;
    its findings say why."""

    def __init__(self, tree: sources.Tree, fleet: Fleet, trees: Mapping[str, Oid]) -> None:
        self.pins: dict[BundleName, Pin] = {}
        failed: dict[BundleName, Finding] = {}
        late: list[Finding] = []
        asked = requests.wanted(tree, fleet, trees)
        for name, wanted in asked.items():
            bundle = fleet.bundles[name]
            try:
                self.pins[name], trouble = _cache().pin(wanted, tree)
            except FlotillaError as error:
                failed[name] = replace(requests.unfetched(bundle, error), remedy=error.remedy)
                continue
            if trouble is not None:
                late.append(
                    replace(requests.unfetched(bundle, trouble), message=f"what the cache has is used: {trouble}")
                )
        places = {
            fleet.bundles[name].folder: store.mount(_cache().folder, pin.tree, whole=asked[name].whole)
            for name, pin in self.pins.items()
        }
        self.tree = Mounted(tree, places)
        self.trees = {**trees, **{folder: self.tree.tree_id(folder) for folder in places}}
        whole = fleet_loader.without(fleet, failed)
        warnings = tuple(replace(finding, severity="warning", remedy="") for finding in late)
        self.fleet = replace(whole, findings=(*whole.findings, *warnings))


class _Cache:
    """What sources are, for the time of one command."""

    def __init__(self, folder: Path, *, secrets: Path | None, offline: bool) -> None:
        self.folder = folder / "sources"
        self._index = folder / "sources.json"
        self._secrets, self._offline = secrets, offline
        self._now: dict[tuple[str, str], tuple[Pin, FlotillaError | None] | FlotillaError] = {}

    def pin(self, wanted: Wanted, fleet: sources.Tree) -> tuple[Pin, FlotillaError | None]:
        """What a source is, and why that is not sure, if so. Raises what kept it from being known at all."""
        key = wanted.text, wanted.tenant
        if key not in self._now:
            try:
                self._now[key] = found = self._pin(wanted, fleet)
                pin, address = found[0], addresses.of(wanted.source)
                click.echo(f"bundle {wanted.bundle}: {address} is {pin.revision}@{pin.digest}", err=True)
            except FlotillaError as error:
                self._now[key] = error
        answer = self._now[key]
        if isinstance(answer, FlotillaError):
            raise answer
        return answer

    def _pin(self, wanted: Wanted, fleet: sources.Tree) -> tuple[Pin, FlotillaError | None]:
        known, when_s = self._known(wanted.text)
        fresh = known is not None and (addresses.fixed(wanted.source) or time.time() - when_s < FRESH_S)
        if known is not None and (fresh or self._offline):
            return known, None
        if self._offline:
            cause = "is not in the cache, and --offline forbids to fetch it"
            raise InvalidInput(f"source {addresses.of(wanted.source)}", cause, "run the command once without --offline")
        try:
            with progress.noted(f"fetching {addresses.of(wanted.source)}"):
                access = Access(secrets=self._secrets, tenant=wanted.tenant, allowed=wanted.allowed)
                pin = fetch.fetch(wanted.source, self.folder, access=access, known=known, fleet=fleet)
        except Transient as error:
            if known is None:
                raise
            return known, error
        self._remember(wanted.text, pin)
        return pin, None

    def _known(self, text: str) -> tuple[Pin | None, float]:
        """The last pin of a source whose tree is still there, and when it was resolved."""
        try:
            row = self._read()[text]
            pin, when_s = Pin(**row["pin"]), float(row["time_s"])
        except (TypeError, KeyError, ValueError):
            return None, 0.0
        return (pin, when_s) if store.has(self.folder, pin.tree) else (None, 0.0)

    def _remember(self, text: str, pin: Pin) -> None:
        rows = {**self._read(), text: {"pin": asdict(pin), "time_s": time.time()}}
        made = self._index.with_name(f".{self._index.name}.{os.getpid()}")
        made.write_text(json.dumps(rows))
        made.rename(self._index)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._index.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _cache() -> _Cache:
    """One for the whole command."""
    context = click.get_current_context(silent=True)
    told: dict[str, Any] = context.find_root().meta if context is not None else {}
    if _META not in told:
        try:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError as error:  # a container's user may have none
            raise InvalidInput("cache of sources", "has no place: there is no home", "set XDG_CACHE_HOME") from error
        secrets, offline = told.get(f"{_META}.source_credentials"), bool(told.get(f"{_META}.offline"))
        told[_META] = _Cache(home / "flotilla", secrets=secrets, offline=offline)
    found: _Cache = told[_META]
    return found
