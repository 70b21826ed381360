"""Pure: from what a turn of the loop decided to the messages that people get of it, for each receiver that wants it.

A message is a JSON object in the form that Standard Webhooks recommends (`type`, `timestamp`, `data`), and has all that
somebody needs who is woken by it: what happened and why, where the rollout is, whose commit it brings, and the commands
that come next. It is made of the event and the state at the end of the turn, and stored with the decision. What happens
to many clusters in one turn, and what is found wrong with one commit, is one message. Next: `notifier` sends it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from hub.journal import EventRow, MessageRow
from hub.model import Fleet
from hub.noteworthy import KINDS, SEVERITIES, Receiver, Severity
from hub.rollout import gates
from hub.state import FINAL, Phase, State
from proto.ids import RolloutId
from proto.objects import blob_id

GATHERED = frozenset({"cluster-failed", "cluster-revert-failed", "finding"})
"""Kinds of which one turn may bring thousands."""
MAX_NAMED = 50
MAX_TEXT = 2000
"""Characters of what an agent, a renderer or a person wrote."""
_WHY = "--reason '...'"


def receivers(fleet: Fleet, before: tuple[Receiver, ...]) -> tuple[Receiver, ...]:
    """Pure: whom the fleet repo wants told; those of before while that cannot be known."""
    if any(item.severity == "error" and item.where.startswith("fleet.") for item in fleet.findings):
        return before
    return fleet.notify


def messages(
    events: Iterable[EventRow], *, states: Mapping[RolloutId, State], to: Sequence[Receiver]
) -> list[MessageRow]:
    """Pure: a row for each receiver of `to` that wants to be told of one of `events`, in their order. `states` are
    those at the end of the turn."""
    found: list[MessageRow] = []
    for alike in _gathered(events) if to else ():
        first = alike[0]
        state = states.get(RolloutId(first.rollout))
        severity = _severity(alike, state)
        named = dict.fromkeys(event.bundle for event in alike if event.bundle)
        bundles = tuple(state.rollout.bundles) if state else tuple(named)
        body = b""
        for receiver in to:
            if receiver.wants(first.kind, severity, bundles):
                body = body or orjson.dumps(_body(alike, severity, bundles, state))
                found.append(
                    MessageRow(
                        receiver=receiver.name,
                        id=f"msg_{blob_id(body)}",
                        gravity=SEVERITIES.index(severity),
                        time_s=first.time_s,
                        body=body,
                        dedups=tuple(event.dedup for event in alike if event.dedup),
                    )
                )
    return found


def test_message(receiver: Receiver, *, id_: str, actor: str, now: float) -> MessageRow:
    """Pure: a message that tells of nothing."""
    text = f"this is a test of receiver {receiver.name}, by {actor}"
    event = EventRow(time_s=now, kind="test", text=text)
    body = orjson.dumps(_body([event], "info", (), None))
    return MessageRow(receiver=receiver.name, id=id_, gravity=0, time_s=now, body=body)


def sent(message: MessageRow, *, public_url: str) -> bytes:
    """Pure: the bytes that go to the receiver: what was stored, and what is known only then."""
    made: dict[str, Any] = orjson.loads(message.body)
    data, rollout = made["data"], made["data"]["rollout"]
    links = {}
    if public_url:
        links["status"] = f"{public_url}/"
        if rollout is not None:
            links["rollout"] = f"{public_url}/api/v1/rollouts/{rollout['id']}"
    data |= {"id": message.id, "sequence": message.sequence, "lost": message.lost, "links": links}
    return orjson.dumps(made)


def rfc3339(time_s: float) -> str:
    """Pure: a time of the wall clock as text, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _gathered(events: Iterable[EventRow]) -> list[list[EventRow]]:
    """Those of kinds that are told, alike ones together."""
    found: dict[object, list[EventRow]] = {}
    for number, event in enumerate(events):
        if event.kind in KINDS:
            key = (event.kind, event.rollout) if event.kind in GATHERED else number
            found.setdefault(key, []).append(event)
    return list(found.values())


def _severity(alike: Sequence[EventRow], state: State | None) -> Severity:
    if alike[0].kind == "gate-waits" and state is not None and gates.awaits_people(state):
        return "warning"
    found = [next((word for word in SEVERITIES if word == one.data.get("severity")), KINDS[one.kind]) for one in alike]
    return max(found, key=SEVERITIES.index)


def _body(
    alike: Sequence[EventRow], severity: Severity, bundles: Sequence[str], state: State | None
) -> dict[str, object]:
    first = alike[0]
    more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
    return {
        "type": first.kind,
        "timestamp": rfc3339(first.time_s),
        "data": {
            "severity": severity,
            "text": first.text[:MAX_TEXT] + more,
            "bundles": list(bundles)[:MAX_NAMED],
            "clusters": [event.cluster for event in alike if event.cluster][:MAX_NAMED],
            "rollout": _rollout(state) if state is not None else None,
            "next": _next(first, state),
        },
    }


def _rollout(state: State) -> dict[str, object]:
    made = state.rollout
    counts: Counter[str] = Counter()
    for tally in state.tallies:
        counts.update({str(phase): many for phase, many in tally.phases.items()})
    return {
        "id": made.id,
        "phase": state.phase,
        "reason": state.reason[:MAX_TEXT],
        "revision": made.revision,
        "author": made.author,
        "subject": made.subject,
        "wave": made.waves[state.wave].name if state.wave < len(made.waves) else "",
        "waves": [wave.name for wave in made.waves],
        "clusters": {"total": len(state.members), **dict(sorted(counts.items()))},
    }


def _next(event: EventRow, state: State | None) -> list[str]:
    """The commands of which the reader may need one now, the likeliest first."""
    if event.kind == "finding":
        return ["flotilla check"]
    if event.kind in ("upstream", "publish"):
        return ["flotilla status"]
    if event.kind == "held":
        return [f"flotilla release {event.bundle} {_WHY}"]
    if state is None:
        return []
    rollout, bundles = state.rollout.id, state.rollout.bundles
    if state.phase is Phase.PAUSED:
        return [f"flotilla {verb} {rollout} {_WHY}" for verb in ("resume", "rollback", "abort")]
    if state.phase in (Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED):
        return [f"flotilla rollouts {rollout}"]
    if state.phase in (Phase.ROLLED_BACK, Phase.ABORTED):
        return [f"flotilla rollouts {rollout}", *(f"flotilla release {bundle} {_WHY}" for bundle in bundles)]
    if state.phase in FINAL:
        return []
    waiting = [f"flotilla approve {rollout} --gate {gate} {_WHY}" for gate in gates.awaits_people(state)]
    return waiting or ([f"flotilla rollouts {rollout}"] if KINDS[event.kind] != "info" else [])
