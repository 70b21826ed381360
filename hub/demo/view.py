"""Pure: what the demo shows, as values made of the hub's answers. Next: `screen` draws them, `live` prints the lines.

health reported and connected        that health
its agent was taken away             Offline
the hub is away                      the last word, and the screen says since when nothing is known
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_FIELDS = 2
"""Fields of a drift that a line names; the hub has all."""
UNKNOWN = "unknown"
"""How an agent says that the server kept no trace of who it was."""
_QUIET = frozenset({"command", "join-token", "joined", "connected"})
"""Kinds of events that the demo causes itself."""
_MARKS = {
    "rollout-started": ("▶", "cyan"),
    "wave-opened": ("▶", "cyan"),
    "cluster-proven": ("✔", "green"),
    "rollout-completed": ("✔", "bold green"),
    "cluster-failed": ("✘", "bold red"),
    "rolling-back": ("↺", "bold red"),
    "cluster-reverted": ("↺", "yellow"),
    "rolled-back": ("↺", "bold yellow"),
    "rollback-failed": ("✘", "bold red"),
    "cluster-offline": ("○", "bright_black"),
    "gate-waits": ("◇", "yellow"),
    "approved": ("◆", "green"),
    "drift": ("⚑", "magenta"),
    "finding": ("!", "red"),
    "denied": ("!", "red"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of what happens: its mark, when, and the text; `style` as rich knows it."""

    clock: str
    mark: str
    style: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """One cluster of the table; `wave` is where the last rollout had it."""

    name: str
    health: str
    decided: int
    applied: int
    drift: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One wave of a rollout: how many clusters are in which phase."""

    name: str
    state: str
    clusters: int
    phases: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One rollout: the newest, and those under way."""

    id: str
    phase: str
    reason: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One step of the story as the screen shows it; `state` is "", "now", "ok" or "failed"."""

    title: str
    state: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that is on the screen."""

    url: str
    hub: bool
    clusters: tuple[ClusterRow, ...] = ()
    rollouts: tuple[RolloutRow, ...] = ()
    holds: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    story: tuple[Told, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()


def clusters(rows: Iterable[Mapping[str, Any]], *, offline: Iterable[str]) -> tuple[ClusterRow, ...]:
    """Pure: the table's rows from `/api/v1/clusters`."""
    away = set(offline)
    return tuple(
        ClusterRow(
            name=row["name"],
            health="Offline" if row["name"] in away else row["health"],
            decided=row["decided"]["seq"],
            applied=row["applied"]["seq"],
            drift=row["drift_total"],
            problem=(row["problems"] or [""])[0],
        )
        for row in rows
    )


def rollouts(rows: Sequence[Mapping[str, Any]], *, most: int) -> tuple[RolloutRow, ...]:
    """Pure: those under way and then the newest, at most `most`, from `/api/v1/rollouts`."""
    ordered = sorted(rows, key=lambda row: (row["final"], -row["number"]))[:most]
    return tuple(
        RolloutRow(
            id=row["id"],
            phase=row["phase"],
            reason=row["reason"],
            bars=tuple(
                Bar(name=wave["name"], state=wave["state"], clusters=wave["clusters"], phases=dict(wave["phases"]))
                for wave in row["waves"]
            ),
        )
        for row in ordered
    )


def lines(events: Iterable[Mapping[str, Any]], *, one_by_one: bool) -> list[Line]:
    """Pure: events as lines; without `one_by_one` single clusters that succeed are left to the bars."""
    found = []
    for event in events:
        kind = event["kind"]
        if kind in _QUIET or (kind in ("cluster-proven", "cluster-reverted") and not one_by_one):
            continue
        mark, style = _MARKS.get(kind, ("·", ""))
        text = drifted(event["cluster"], event["data"]) if kind == "drift" else _said(kind, str(event["text"]))
        found.append(Line(clock=clock(event["time"]), mark=mark, style=style, text=text))
    return found


def _said(kind: str, text: str) -> str:
    """Why a rollout goes back is said when it begins to, and not again when it is over."""
    if kind == "rolling-back":
        return text.replace(" is rolled back: ", " goes back: ", 1)
    return text.partition(": ")[0] if kind == "rolled-back" else text


def drifted(cluster: str, drift: Mapping[str, Any]) -> str:
    """Pure: a drift report as one line: where, who, what, when, what was done, and which fields."""
    manager = str(drift.get("manager") or UNKNOWN)
    who = "somebody" if manager.startswith(UNKNOWN) else manager
    at = f" at {clock(str(drift['time']))}" if drift.get("time") else ""
    fields = [str(field) for field in drift.get("fields", ())]
    more = f" and {len(fields) - MAX_FIELDS} more" if len(fields) > MAX_FIELDS else ""
    named = f": {', '.join(fields[:MAX_FIELDS])}{more}" if fields else ""
    return f"{cluster}: {who} {drift.get('what')} {drift.get('object')}{at}, {drift.get('action')}{named}"


def clock(time: str) -> str:
    """Pure: hours, minutes and seconds of an RFC 3339 time in UTC, "" for none."""
    return time[11:19]
