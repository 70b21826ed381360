"""How `flotilla` shows what rollouts wait for: gates, the words given at them, windows, holds, freezes. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from hub.cli.asking import ago

_WIDTH = 12
"""Of the word at the beginning of a line, as in all of `flotilla status`."""
_STYLES = {"waits": "bold yellow", "failed": "bold red", "open": "green", "waived": "yellow"}


def of_rollout(rollout: Mapping[str, Any]) -> Iterator[Text]:
    """A line for each thing that the rollout waits for, and last what a person can do."""
    if rollout["emergency"]:
        yield _line("emergency", "bold red", f"straight to all clusters, by {rollout['emergency']}")
    for gate in rollout["gates"]:
        until = f", fails at {gate['until']}" if gate["until"] else ""
        what = gate["wants"] if gate["found"] in ("", gate["wants"]) else f"{gate['wants']}; {gate['found']}"
        told = f"{gate['state']} since {ago(gate['since'])}{until}: {what}"
        yield _line("gate", _STYLES[gate["state"]], f"{gate['gate']} {told}")
        for vote in gate["votes"]:
            expires = f", counts until {vote['expires']}" if vote["expires"] else ""
            yield _line("", "", f"{vote['actor']}, {ago(vote['at'])}{expires}: {vote['reason']}")
    if window := rollout["window"]:
        opens = f"next {window['opens_local']} ({window['opens']})" if window["opens"] else "never open"
        yield _line("window", "bold yellow", f"{window['text']}, {opens}")
    for held in rollout["held"]:
        yield _line("held", "bold yellow", f"{_some(held)}: {held['why']}")
    if rollout["offline"]["clusters"]:
        yield _line("offline", "bold yellow", f"{_some(rollout['offline'])}: the wave waits for what is offline")
        yield _line("→", "bold cyan", rollout["offline"]["command"])
    for gate in rollout["gates"]:
        if gate["command"]:
            yield _line("→", "bold cyan", gate["command"])


def paused(rollout: Mapping[str, Any]) -> Text:
    """How a rollout that is paused goes on."""
    return _line("→", "bold cyan", f"flotilla resume {rollout['id']} --reason … (or rollback, or abort)")


def why(rollout: str) -> Text:
    """Where the long answer is."""
    return _line("→", "bold cyan", f"flotilla why {rollout}")


def joining(row: Mapping[str, Any]) -> Text:
    """Clusters that joined and wait for a bundle."""
    waits = "wait" if row["total"] > 1 else "waits"
    return _line("joined", "bold yellow", f"{_some(row)} {waits} for bundle {row['bundle']}: {row['why']}")


def freeze(row: Mapping[str, Any]) -> Text:
    """One line."""
    when = f"until {row['to']}" if row["now"] else f"from {row['from']} to {row['to']}"
    whom = "all clusters" if row["everywhere"] else f"{row['clusters']} cluster{'s' if row['clusters'] != 1 else ''}"
    why = f" ({row['reason']})" if row["reason"] else ""
    return _line(
        "frozen" if row["now"] else "freeze",
        "bold yellow" if row["now"] else "bold",
        f"{row['name']}: {whom} {when}{why}",
    )


def _some(those: Mapping[str, Any]) -> str:
    """The first of `clusters`, and how many of the `total` are not named."""
    more = f" and {those['total'] - 3} more" if those["total"] > 3 else ""
    return f"{', '.join(those['clusters'][:3])}{more}"


def _line(word: str, style: str, text: str) -> Text:
    return Text.assemble((word.ljust(_WIDTH), style), text)
