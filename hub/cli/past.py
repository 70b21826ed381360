"""`flotilla audit`: who did what, when, why and to what, as a running hub has kept it since its first start."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from hub.cli.asking import HubApi, ago, hub_options, print_json, print_table

_AGO = re.compile(r"([0-9]{1,4})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.command()
@click.option("--since", default="", metavar="AGO|TIME", help="Only from then on: 7d, 12h, 2030-01-31T06:00:00Z.")
@click.option("--actor", default="", help="Only of this person.")
@click.option("--bundle", default="", help="Only about this bundle.")
@click.option("--cluster", default="", help="Only about this cluster.")
@click.option("--rollout", default="", help="Only about this rollout.")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="How many, the newest last."
)
@hub_options
def audit(
    since: str,
    actor: str,
    bundle: str,
    cluster: str,
    rollout: str,
    limit: int,
    hub: str,
    token_file: Path | None,
    output: str,
) -> None:
    """Who did what, when, why and to what; kept for ever.

    TOKEN says whose token it was done with: names are what people call themselves.

    \b
    Examples:
      flotilla audit --since 7d
      flotilla audit --bundle shop
      flotilla audit --rollout shop-7 -o json
    """
    about = {"actor": actor, "bundle": bundle, "cluster": cluster, "rollout": rollout}
    found = HubApi(hub, token_file).get("audit", since=moment(since), limit=limit, **about)
    if print_json(found, output):
        return
    print_table(
        ("WHEN", "WHO", "TOKEN", "VERB", "TO", "WHY"),
        [
            (
                ago(row["time"]),
                row["actor"] or "?",
                row["role"],
                row["verb"],
                _some([row["rollout"] or ", ".join(row["bundles"]), *row["clusters"]]),
                row["reason"] or row["text"],
            )
            for row in found["audit"]
        ],
        empty="nobody did anything of the kind",
    )


def moment(text: str) -> str:
    """A moment as a person writes it, as RFC 3339 in UTC; "" stays. Raises UsageError."""
    if not text:
        return ""
    if (match := _AGO.fullmatch(text)) is not None:
        number, unit = match.groups()
        return _rfc3339(datetime.now(UTC) - timedelta(**{_UNITS[unit]: int(number)}))
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no moment: write 7d, 12h or 2030-01-31T06:00:00Z") from error
    return _rfc3339(at if at.tzinfo else at.astimezone())


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _some(names: list[str]) -> str:
    there = [name for name in names if name]
    return ", ".join(there[:4]) + (f" and {len(there) - 4} more" if len(there) > 4 else "")


commands: tuple[click.Command, ...] = (audit,)
