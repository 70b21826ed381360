"""How the commands that work on a checkout tell what they found: findings, names, counts, names that are near. Pure."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import click

from hub.model import Finding

_MOST_NAMED = 5


def shown(finding: Finding) -> str:
    """As `str`, in colours where there are any, and with nothing that a terminal or a log would obey."""
    where, message, remedy = (printable(text) for text in (finding.where, finding.message, finding.remedy))
    severity = click.style(f"{finding.severity}:", fg="red" if finding.severity == "error" else "yellow", bold=True)
    remedy = click.style(f" ({remedy})", dim=True) if remedy else ""
    return f"{where}: {severity} {message}{remedy}"


def in_order(finding: Finding) -> tuple[str, int, str]:
    """The key that sorts findings by file and line."""
    file, _, line = finding.where.rpartition(":")
    return (file, int(line), finding.message) if line.isdecimal() else (finding.where, 0, finding.message)


def told_of(finding: Finding, clusters: Iterable[str]) -> Finding:
    """The finding, with the clusters that it is about."""
    return dataclasses.replace(finding, message=f"{finding.message} [{some(clusters)}]")


def some(clusters: Iterable[str], *, most: int = 3) -> str:
    """`cluster a`, or `clusters a, b, c and 9 more`."""
    names = sorted(set(clusters))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"cluster{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"


def counted(number: int, what: str) -> str:
    """`1 bundle`, `2 bundles`; `what` is the plural."""
    return f"{number} {what.removesuffix('s') if number == 1 else what}"


def moment(text: str, option: str) -> float:
    """Unix seconds of `2026-12-24` or `2026-12-24T18:00`, UTC where it names no offset. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise click.UsageError(f"{option} {text[:60]!r}: write such as 2026-12-24 or 2026-12-24T18:00") from error


def near(name: str, names: Iterable[str], *, shown_as: Mapping[str, str] | None = None) -> str:
    """` (did you mean x?)`, else some of those that there are, or nothing; `shown_as` gives the word for a name."""
    names = list(names)
    matches = difflib.get_close_matches(name, names, n=3)
    found = dict.fromkeys(shown_as[each] if shown_as else each for each in matches)
    if found or not names or shown_as:
        return f" (did you mean {' or '.join(found)}?)" if found else ""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f" (there is {', '.join(sorted(names)[:_MOST_NAMED])}{more})"


def printable(text: str) -> str:
    """Nobody who can commit may write to the terminal of who looks, or begin a line there: CI obeys some."""
    lines = (
        "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in line) for line in text.split("\n")
    )
    return "\n  ".join(lines)
