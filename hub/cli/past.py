"""What was, as a running hub has kept it since its first start: `flotilla audit`, who did what, when, why and to what,
and `flotilla history`, what ran where, since when, until when and by whose word.

Times are exact and in UTC: people compare them with logs.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from hub.cli.asking import HubApi, hub_options, print_json, print_table

_AGO = re.compile(r"([0-9]{1,4})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_HISTORY = ("SINCE (UTC)", "UNTIL", "CLUSTER", "BUNDLE", "REVISION", "ROLLOUT", "WAVE", "WHY")


@click.command()
@click.option("--since", default="", metavar="AGO|TIME", help="Only from then on: 7d, 12h, 2030-01-31T06:00:00Z.")
@click.option("--until", default="", metavar="AGO|TIME", help="Only before then.")
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
    until: str,
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
      flotilla audit --since 2030-01-01 --until 2030-02-01 --limit 1000
      flotilla audit --bundle shop
      flotilla audit --rollout shop-7 -o json
    """
    about = {"actor": actor, "bundle": bundle, "cluster": cluster, "rollout": rollout}
    found = HubApi(hub, token_file).get("audit", since=moment(since), until=moment(until), limit=limit, **about)
    if print_json(found, output):
        return
    print_table(
        ("WHEN (UTC)", "WHO", "TOKEN", "VERB", "TO", "WHY"),
        [
            (
                _shown(row["time"]),
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
    _cut(len(found["audit"]), limit)


@click.command()
@click.option("--cluster", default="", help="Only on this cluster.")
@click.option("--bundle", default="", help="Only this bundle.")
@click.option("--at", default="", metavar="AGO|TIME", help="What ran then: 7d, 12h, 2030-01-31T06:00:00Z; 0s is now.")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="How many, the newest last."
)
@hub_options
def history(cluster: str, bundle: str, at: str, limit: int, hub: str, token_file: Path | None, output: str) -> None:
    """What ran where, since when, and by whose word.

    Kept for ever. Each row is what one slice commit brought of one bundle to one cluster. WHY is the commit of the
    fleet repo with its author, and the words that people gave to its rollout.

    \b
    Examples:
      flotilla history --cluster eu-1
      flotilla history --bundle shop --at 2030-01-31T06:00:00Z
      flotilla history --cluster eu-1 --at 7d -o json
    """
    found = HubApi(hub, token_file).get("history", cluster=cluster, bundle=bundle, at=moment(at), limit=limit)
    if print_json(found, output):
        return
    rows = [
        {
            "SINCE (UTC)": _shown(row["since"]),
            "UNTIL": _shown(row["until"]) or "now",
            "CLUSTER": row["cluster"],
            "BUNDLE": row["bundle"],
            "REVISION": row["revision"][:12] or "?" if row["subtree"] else "removed",
            "ROLLOUT": row["rollout"],
            "WAVE": row["wave"],
            "WHY": ("went back; " if row["back"] else "") + _whose(found["rollouts"].get(row["rollout"])),
        }
        for row in found["history"]
    ]
    asked_for = {"CLUSTER": cluster, "BUNDLE": bundle}  # one is the same in every row, and WHY needs the room
    columns = [name for name in _HISTORY if not asked_for.get(name)]
    empty = "nothing ran there" if at else "nothing ever ran there"
    print_table(columns, [[row[name] for name in columns] for row in rows], empty=empty)
    _cut(len(found["history"]), limit)


def _whose(origin: dict[str, Any] | None) -> str:
    """The commit that a rollout brought, and what people said to it."""
    if origin is None:
        return ""
    commit = ": ".join(filter(None, (origin["author"], origin["subject"])))
    return "; ".join(
        filter(None, (commit, *(f"{word['verb']} by {word['actor']}: {word['reason']}" for word in origin["words"])))
    )


def _cut(shown: int, limit: int) -> None:
    if shown == limit:
        click.secho(f"the newest {limit}; there may be more: raise --limit, or ask for less", dim=True, err=True)


def _shown(time: str) -> str:
    return time[:19].replace("T", " ")


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


commands: tuple[click.Command, ...] = (audit, history)
