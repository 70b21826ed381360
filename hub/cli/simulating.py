"""`flotilla simulate`: what a rollout policy costs and saves, tried on a virtual clock by the hub's own rules.

The fleet is the recorded one of a checkout, or made up with the labels that the policy's waves select by. The same seed
prints the same, byte by byte. `hub.simulate` does it; `setting` there says what is simplified. Next: `simulated` shows
what came of it.
"""

import gc
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hub.cli import progress, simulated, telling
from hub.model import DEFAULT_POLICY, Fleet, RolloutPolicy, Selector
from hub.repo import fleet as fleet_loader
from hub.repo import places, schema, sources, windows
from hub.rollout import waves
from hub.simulate import chance, figures, fleets
from hub.simulate.setting import Setting, Span
from hub.simulate.world import Record, World
from proto.errors import FlotillaError, InvalidInput

MADE_UP = 100
"""So many clusters has a fleet of which nothing is known."""
MOST_CLUSTERS = 100_000
_LATEST_S = 221_845_392_000.0
"""The year 9000: soon after it Python knows no dates."""
_PLACES = ("fleet.yaml", "clusters", "bundles", "rollouts")
"""A folder without any of these is no fleet repo, and may be somebody's whole disk."""


def _share(text: str) -> float:
    """`2%` as 0.02. Without the sign it might be meant as either."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1 or (share and not text.endswith("%")):
        raise click.BadParameter(f"{text!r} is not a share: write such as 2%, from 0% to 100%")
    return share


def _number(_: click.Context, __: click.Parameter, value: float) -> float:
    """A range of click's lets through what is no number."""
    if math.isnan(value):
        raise click.BadParameter("write a number")
    return value


def _span(text: str) -> Span:
    """`30s..5m`, or `5m` for just that."""
    first, _, last = text.partition("..")
    least, most = schema.duration_s(first), schema.duration_s(last or first)
    if least is None or most is None or most < least:
        raise click.BadParameter(f"{text!r} is not a time: write such as 5m, or 30s..5m")
    return Span(least_s=least, most_s=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checkout:
    """What is in the folder; `fleet` has no cluster when that is no fleet repo. `bundles` are its files but
    for those of clusters and policies."""

    fleet: Fleet
    bundles: Mapping[str, bytes | InvalidInput] = field(default_factory=dict)


@click.command(
    epilog="""\b
Examples:
  flotilla simulate                                    # this fleet, each bundle by its own policy
  flotilla simulate --policy careful --clusters 1000 --bad 10% --offline 5%
  flotilla simulate --policy careful --compare rollouts/bold.yaml --approval 30m..8h
  flotilla simulate --policy careful --days 30 --seed 7 -o json""",
)
@click.option("--policy", default="", metavar="NAME|FILE", help="One bundle on every cluster, that rolls out by this.")
@click.option("--compare", default="", metavar="NAME|FILE", help="The same by another policy, side by side.")
@click.option("--clusters", type=click.IntRange(1, MOST_CLUSTERS), help="So many made-up ones, not those of the fleet.")
@click.option(
    "--days", type=click.FloatRange(0.01, 366), callback=_number, default=7.0, show_default=True, help="How long."
)
@click.option(
    "--commits-per-hour",
    type=click.FloatRange(0, 60),
    callback=_number,
    default=0.1,
    show_default=True,
    help="Day and night.",
)
@click.option(
    "--apply",
    type=_span,
    metavar="TIME",
    default="30s..5m",
    show_default=True,
    help="How long a cluster takes to be done.",
)
@click.option(
    "--fail",
    type=_share,
    metavar="SHARE",
    default="0%",
    show_default=True,
    help="Moves that fail, for a cluster's reasons.",
)
@click.option(
    "--bad", type=_share, metavar="SHARE", default="0%", show_default=True, help="Commits that fail wherever they come."
)
@click.option(
    "--shows", type=_span, metavar="TIME", default="0s..10m", show_default=True, help="How long a bad one looks good."
)
@click.option(
    "--offline",
    type=_share,
    metavar="SHARE",
    default="0%",
    show_default=True,
    help="Clusters that are silent at a time.",
)
@click.option("--away", type=_span, metavar="TIME", default="10m..12h", show_default=True, help="How long they are.")
@click.option(
    "--flap",
    type=_share,
    metavar="SHARE",
    default="0%",
    show_default=True,
    help="Clusters whose health comes and goes.",
)
@click.option(
    "--approval",
    type=_span,
    metavar="TIME",
    default="0s",
    show_default=True,
    help="Working time that people take to answer.",
)
@click.option(
    "--hours", default="", metavar="WINDOW", help="When they work, such as 'Mon-Fri 09:00-17:00 Europe/Paris'."
)
@click.option("--start", default="2026-01-05", show_default=True, metavar="DATE", help="When it begins, in UTC.")
@click.option("--seed", type=int, default=1, show_default=True, help="What chance is drawn from.")
@click.option("--all", "everything", is_flag=True, help="Draw every rollout, and tell every wait.")
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.option(
    "--fleet",
    "root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default="this folder",
    help="A checkout of the fleet repo, if there is one.",
)
def simulate(
    root: Path,
    policy: str,
    compare: str,
    clusters: int | None,
    seed: int,
    output: str,
    everything: bool,
    start: str,
    hours: str,
    approval: Span,
    **odds: Any,
) -> None:
    """Try a rollout policy on a virtual clock.

    It tells how long rollouts take, how safe they are, and what they wait for. Commits, clusters and people are made
    up by chance; what is decided about them is decided by the hub's own rules. Freezes and windows of the fleet repo
    count.
    """
    checkout, start_s = _read(root), telling.moment(start, "--start")
    if not 0 < start_s < _LATEST_S:
        raise click.UsageError(f"--start {start!r}: write a date between 1970 and 9000")
    made = []
    for name in (policy, compare) if compare else (policy,):
        fleet, title = _fleet(checkout, name, clusters)
        setting = Setting(
            fleet=fleet,
            policy=title,
            start_s=start_s,
            answer=approval,
            hours=_hours(hours),
            **odds,
        )
        made.append(_run(setting, seed))
    if output == "json":
        found = [{"seed": seed, **figures.as_json(record)} for record in made]
        click.echo(json.dumps(found if compare else found[0], indent=2))
        return
    for record in made:
        simulated.draw(record, seed=seed, everything=everything)
    if compare:
        simulated.side_by_side(made[0], made[1])


commands: tuple[click.Command, ...] = (simulate,)


# --- what is simulated --------------------------------------------------------------------------------------------


def _read(root: Path) -> _Checkout:
    if not any((root / name).exists() for name in _PLACES):
        return _Checkout(fleet=Fleet())
    try:
        with progress.noted(f"reading {root}"):
            files = dict(sources.FolderTree(root).files(wanted=places.is_fleet_file))
            fleet = fleet_loader.load(files)
    except (FlotillaError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for finding in fleet.findings:
        click.echo(telling.shown(finding), err=True)
    bundles = {path: data for path, data in files.items() if places.kind_at(path) in ("Fleet", "Bundle")}
    return _Checkout(fleet=fleet, bundles=bundles)


def _fleet(checkout: _Checkout, name: str, count: int | None) -> tuple[Fleet, str]:
    """The fleet that is simulated, and what it rolls out by."""
    fleet = checkout.fleet
    if name:
        policy = _policy(checkout, name)
        return fleets.of_policy(policy, _populated(fleet, [policy], count)), f"policy {policy.name}"
    if not fleet.bundles:
        return fleets.of_policy(DEFAULT_POLICY, _populated(fleet, [DEFAULT_POLICY], count)), "policy default"
    policies = [found for bundle in fleet.bundles if (found := waves.policy_of(fleet, bundle)) is not None]
    populated = _populated(fleet, policies, count)
    if populated.clusters is not fleet.clusters:
        everywhere = {name: replace(bundle, targets=Selector()) for name, bundle in fleet.bundles.items()}
        populated = replace(populated, bundles=everywhere)
    return populated, "every bundle by its own policy"


def _populated(fleet: Fleet, policies: list[RolloutPolicy], count: int | None) -> Fleet:
    if count is None and fleet.clusters:
        return fleet
    return replace(fleet, clusters=fleets.made_up(policies, count or MADE_UP))


def _policy(checkout: _Checkout, name: str) -> RolloutPolicy:
    """The policy of that name in the fleet repo, or in a file."""
    policies = checkout.fleet.policies
    if name in policies:
        return policies[name]
    path = Path(name)
    if not path.is_file():
        if name == DEFAULT_POLICY.name:
            return DEFAULT_POLICY
        raise click.ClickException(f"policy {name!r} is neither in the fleet nor a file{telling.near(name, policies)}")
    place = f"rollouts/{path.stem}.yaml"
    try:
        loaded = fleet_loader.load({**checkout.bundles, place: path.read_bytes()})
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error
    theirs = [finding for finding in loaded.findings if finding.where.partition(":")[0] == place]
    if wrong := [str(finding) for finding in theirs if finding.severity == "error"]:
        raise click.ClickException("\n".join(f"{path}{text.removeprefix(place)}" for text in wrong))
    if len(loaded.policies) != 1:
        found = ", ".join(sorted(loaded.policies)) or "none"
        raise click.ClickException(f"{path} has to hold one RolloutPolicy, it holds {found}")
    return next(iter(loaded.policies.values()))


def _hours(text: str) -> tuple[Any, ...]:
    try:
        return (windows.parse(text, deny=False),) if text else ()
    except ValueError as error:
        raise click.UsageError(f"--hours: {error}") from error


def _run(setting: Setting, seed: int) -> Record:
    world = World(setting, chance.Chance(seed))
    gc.disable()  # nothing here is a circle, and to look for one takes a quarter of the time
    try:
        with progress.noted(f"simulating {len(setting.fleet.clusters)} clusters"):
            return world.run()
    except Exception as error:
        at = datetime.fromtimestamp(world.clock.now, UTC)
        raise click.ClickException(
            f"{setting.policy}: at {at:%a %Y-%m-%d %H:%M:%S} the rules broke: {type(error).__name__}: {error}\n"
            f"This is a bug of Flotilla's: report it with the policy, the options and --seed {seed}, which repeat it."
        ) from error
    finally:
        gc.enable()
