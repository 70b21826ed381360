"""Pure: the fleet as one bounded JSON value, as the status page shows it. Next: `stream` sends it.

`shown` decides what a cluster looks like:

    health reported and connected          that health
    Current, but its stream is gone        Silent: its last word is never shown as green
    not heard for three heartbeats         Unknown (`status` says so already)

What troubles somebody comes first, so that a cut list has lost the calm part; every list carries its total.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hub.api import status
from hub.api.status import Json
from hub.journal import EventRow, HoldRow
from hub.state import MemberPhase, State
from proto.ids import BundleName
from proto.messages import Health

SILENT = "Silent"

MAX_CLUSTERS = 5000
MAX_ROLLOUTS = 50
MAX_MEMBERS = 20
MAX_FINDINGS = 100
MAX_PROBLEMS = 3
MAX_DIRECTIVES = 20
MAX_FIELDS = 8
MAX_TEXT = 400
"""Characters of one text that an agent or a renderer wrote."""

_RANK = {
    Health.FAILED: 0,
    Health.NOT_FOUND: 2,
    Health.TERMINATING: 2,
    SILENT: 3,
    Health.UNKNOWN: 4,
    Health.IN_PROGRESS: 5,
    Health.CURRENT: 6,
}
_WITH_PROBLEMS = 1
_NAMED = {
    MemberPhase.FAILED: 0,
    MemberPhase.REVERT_FAILED: 0,
    MemberPhase.REVERTING: 1,
    MemberPhase.MOVING: 2,
    MemberPhase.SOAKING: 3,
    MemberPhase.OFFLINE: 4,
}
"""The members that a page names, in this order; the others are only counted."""
_SUSPENDED = 1


def shown(row: Mapping[str, Any]) -> str:
    """Pure: the word that a page colours a cluster by; `row` is one of `status.cluster`."""
    if row["health"] == Health.CURRENT and row["connection"] != "connected":
        return SILENT
    return str(row["health"])


def clusters(rows: Iterable[Mapping[str, Any]]) -> Json:
    """Pure: counts over all clusters, and the rows, problems first."""
    made = [
        {
            "name": row["name"],
            "labels": row["labels"],
            "in_fleet_repo": row["in_fleet_repo"],
            "health": shown(row),
            "connection": row["connection"],
            "last_seen": row["last_seen"],
            "decided": row["decided"]["seq"],
            "applied": row["applied"]["seq"],
            "bundles": row["bundles"],
            "drift_total": row["drift_total"],
            "paused": row["paused"],
            "cordoned": row["cordoned"],
            "problems": [text[:MAX_TEXT] for text in row["problems"][:MAX_PROBLEMS]],
        }
        for row in rows
    ]
    made.sort(key=lambda row: (_rank(row), row["name"]))
    return {
        "total": len(made),
        "connected": sum(row["connection"] == "connected" for row in made),
        "health": status.count(row["health"] for row in made),
        "rows": made[:MAX_CLUSTERS],
    }


def _rank(row: Mapping[str, Any]) -> int:
    rank = _RANK.get(row["health"], 2)
    return min(rank, _WITH_PROBLEMS) if row["problems"] else rank


def rollout(state: State) -> Json:
    """Pure: one rollout with its waves, and by name only the members that somebody may ask about."""
    named = sorted(
        (_SUSPENDED if member.suspended else _NAMED[member.phase], name, member)
        for name, member in state.members.items()
        if member.suspended or member.phase in _NAMED
    )
    return {
        **status.rollout(state),
        "members": [
            {"cluster": name, "phase": status.word(member), "reason": member.reason[:MAX_TEXT]}
            for _, name, member in named[:MAX_MEMBERS]
        ],
        "members_total": len(named),
    }


def holds(rows: Mapping[BundleName, HoldRow]) -> list[Json]:
    """Pure: the bundles that are kept where they are."""
    return [{"bundle": name, **status.hold(row), "reason": row.reason[:MAX_TEXT]} for name, row in sorted(rows.items())]


def directives(rows: Sequence[Json]) -> Json:
    """Pure: what people suspended, paused and cordoned."""
    return {"total": len(rows), "rows": [{**row, "why": row["why"][:MAX_TEXT]} for row in rows[:MAX_DIRECTIVES]]}


def problems(
    *,
    exposed: Sequence[str] = (),
    upstream: str,
    loop: str,
    publish: str,
    unheard: Sequence[str] = (),
    unasked: Sequence[str] = (),
) -> list[Json]:
    """Pure: what keeps the hub from its work, with what goes on meanwhile."""
    told = (
        (loop, "nothing can be decided until this is over; agents go on with what they have"),
        (upstream, "no commit can be read until this is over; what was read last goes on"),
        (publish, "the mirror of the slices is behind until this is over; agents that reach the hub get theirs here"),
        *((text, "its messages are kept for a day, and sent in order when it is well") for text in unheard),
        *((text, "such a gate stays shut: give the hub that server, or correct the policy") for text in unasked),
        *(
            (text, "run the hub on Linux 5.13 or newer, and let its container use Landlock and seccomp")
            for text in exposed
        ),
    )
    return [{"what": text[:MAX_TEXT], "remedy": remedy} for text, remedy in told if text]


def findings(rows: Sequence[Json]) -> Json:
    """Pure: errors before warnings."""
    ordered = sorted(rows, key=lambda row: (row["severity"] != "error", row["where"]))
    return {
        "total": len(rows),
        "rows": [
            {**row, "message": row["message"][:MAX_TEXT], "remedy": row["remedy"][:MAX_TEXT]}
            for row in ordered[:MAX_FINDINGS]
        ],
    }


def drift(rows: Iterable[EventRow]) -> list[Json]:
    """Pure: the newest first; `rows` are the oldest first, as the journal has them."""
    return [_drift(row, dict(row.data)) for row in reversed(list(rows))]


def _drift(row: EventRow, told: Json) -> Json:
    fields = [str(field)[:MAX_TEXT] for field in told.get("fields", ())]
    return {
        "id": row.id,
        "time": status.rfc3339(row.time_s),
        "cluster": row.cluster,
        "bundle": row.bundle,
        "fields": fields[:MAX_FIELDS],
        "fields_total": len(fields),
        "when": str(told.get("time", ""))[:MAX_TEXT],
        "contested": told.get("contested") is True,
        **{
            key: str(told.get(key, ""))[:MAX_TEXT]
            for key in ("object", "what", "manager", "action", "error", "first_seen")
        },
    }


def steady(snapshot: Mapping[str, Any]) -> Json:
    """Pure: a snapshot without what moves although nothing happens; equal ones need not be sent again."""
    found = snapshot["clusters"]
    return {
        **{key: value for key, value in snapshot.items() if key != "time"},
        "upstream": {key: value for key, value in snapshot["upstream"].items() if key != "synced_at"},
        "clusters": {**found, "rows": [{**row, "last_seen": bool(row["last_seen"])} for row in found["rows"]]},
    }
