"""A rollout's record: each turn that changed it as a small step, with why, in place of the whole state.

`step` is the difference of two states, `apply` makes the second of the first, so that all steps one after another, from
`blank` or from any state of the way, give what was decided; nothing that did not change is in one, and a turn costs
what it touched. What the turn was told goes with it, as short as people need it. A step `since` blank is a whole state.
Nothing here decides anything. Made by `record`, told in words by `why`.

| event            | is kept as                                                                                        |
|------------------|---------------------------------------------------------------------------------------------------|
| Reported         | what the cluster said of the rollout's bundles, if more came of it than that it is still Current  |
| Evidence         | the gate, the verdict and its text                                                                |
| Command          | who, what and the reason                                                                          |
| Left             | the cluster                                                                                       |
| Tick             | that time passed                                                                                  |
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Literal

import msgspec

from hub.rollout import turn
from hub.rollout.proof import why_failed
from hub.state import (
    ClusterView,
    Command,
    Event,
    Evidence,
    GateState,
    Left,
    Member,
    Phase,
    Reported,
    Rollout,
    State,
    Tick,
)
from proto.errors import Permanent, UnsupportedVersion
from proto.ids import ClusterName

FORMAT = 1
"""Raised when an older hub would misread what a newer one wrote; a field with a default does not raise it."""
TEXT_CHARS = 300
"""What one cluster says can be long, and a thousand may say it."""


class _Head(msgspec.Struct, frozen=True):
    """The fields of a state that a step may have, with their types."""

    phase: Phase = Phase.RUNNING
    wave: int = 0
    wave_opened_at: float = 0.0
    emergency: str = ""
    reason: str = ""
    paused_by: str = ""


_HEAD = _Head.__struct_fields__
_MEMBER = tuple(field.name for field in fields(Member))
_head_of = attrgetter(*_HEAD)
_member_of = attrgetter(*_MEMBER)
_QUIET = frozenset({"last_current_at"})
"""What changes while a cluster soaks, with each report."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The same fields of some members, as they are now."""

    to: Mapping[str, Any]
    clusters: tuple[ClusterName, ...]

    @property
    def quiet(self) -> bool:
        """Did they only say once more that they are well?"""
        return self.to.keys() <= _QUIET


class Cause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a turn was told. `who` is a person, `what` their verb, the verdict of a gate's check, or the seq that
    clusters run."""

    kind: Literal["report", "tick", "left", "evidence", "command"]
    what: str = ""
    text: str = ""
    who: str = ""
    gate: str = ""
    clusters: tuple[ClusterName, ...] = ()


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one turn changed, at `at` (Unix seconds): fields of the state, gates (None: forgotten), members, and where
    in each wave somebody may be pending, if that changed."""

    at: float
    head: Mapping[str, Any] = {}
    gates: Mapping[str, GateState | None] = {}
    changes: tuple[Change, ...] = ()
    firsts: tuple[int, ...] = ()
    causes: tuple[Cause, ...] = ()


def blank(rollout: Rollout) -> State:
    """Pure: what every rollout is a difference to: nobody was moved, nothing is open."""
    members = turn.everybody_waiting(rollout)
    return State(rollout=rollout, members=members, tallies=turn.tallies(rollout, members))


def step(
    before: State | None,
    after: State,
    *,
    events: Sequence[Event] = (),
    view: Mapping[ClusterName, ClusterView] | None = None,
) -> Step:
    """Pure: what changed between two states of one rollout (None: `blank`), and the `events` that brought it about;
    `view` is what clusters had said then."""
    old = before or blank(after.rollout)
    groups: dict[tuple[tuple[str, Any], ...], list[ClusterName]] = {}
    alike: dict[tuple[int, int], list[ClusterName]] = {}
    for cluster, member in after.members.items():
        known = old.members[cluster]
        if known is member:
            continue
        if (group := alike.get((id(known), id(member)))) is None:  # clusters alike share their members
            changed = _changed(_MEMBER, _member_of(known), _member_of(member))
            group = alike[id(known), id(member)] = groups.setdefault(changed, [])
        group.append(cluster)
    changes = tuple(Change(to=dict(to), clusters=tuple(clusters)) for to, clusters in groups.items() if to)
    loud = {cluster for change in changes if not change.quiet for cluster in change.clusters}
    firsts = tuple(tally.first for tally in after.tallies)
    return Step(
        at=after.updated_at,
        head=dict(_changed(_HEAD, _head_of(old), _head_of(after))),
        gates={
            key: after.gates.get(key)
            for key in {**old.gates, **after.gates}
            if old.gates.get(key) != after.gates.get(key)
        },
        changes=changes,
        firsts=firsts if firsts != tuple(tally.first for tally in old.tallies) else (),
        causes=tuple(_causes(after.rollout, events, view or {}, loud)),
    )


def apply(state: State, made: Step) -> State:
    """Pure: the state after a step."""
    members, tallies = dict(state.members), list(state.tallies)
    for change in made.changes:
        alike: dict[int, Member] = {}
        for cluster in change.clusters:
            before = members[cluster]
            if (after := alike.get(id(before))) is None:
                after = alike[id(before)] = replace(before, **change.to)
            members[cluster] = after
            tallies[after.wave] = turn.counted(tallies[after.wave], before, after)
    firsts = made.firsts or tuple(tally.first for tally in state.tallies)
    gates = {**state.gates, **made.gates}
    return replace(
        state,
        **made.head,
        members=members,
        tallies=tuple(replace(tally, first=first) for tally, first in zip(tallies, firsts, strict=True)),
        gates={key: gate for key, gate in gates.items() if gate is not None},
        updated_at=made.at,
    )


def _changed(names: Sequence[str], old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, b) for name, a, b in zip(names, old, new, strict=True) if a != b)


# --- why ----------------------------------------------------------------------------------------------------------


def _causes(
    rollout: Rollout, events: Iterable[Event], view: Mapping[ClusterName, ClusterView], loud: set[ClusterName]
) -> Iterable[Cause]:
    said: dict[tuple[str, str], list[ClusterName]] = {}
    ticked = False
    for event in events:
        match event:
            case Reported(cluster=cluster) if cluster in loud:
                said.setdefault(said_of(rollout, cluster, view[cluster]), []).append(cluster)
            case Evidence(gate=gate, verdict=verdict, text=text):
                yield Cause(kind="evidence", what=verdict, gate=gate, text=text[:TEXT_CHARS])
            case Command(verb=verb, actor=actor, reason=reason, cluster=name, gate=gate):
                whom = (ClusterName(name),) if name else ()
                yield Cause(kind="command", what=verb, who=actor, text=reason, gate=gate, clusters=whom)
            case Left(cluster=cluster):
                yield Cause(kind="left", clusters=(cluster,))
            case Tick() if not ticked:
                ticked = True
                yield Cause(kind="tick")
    for (seq, text), clusters in said.items():
        yield Cause(kind="report", what=seq, text=text, clusters=tuple(clusters))


def said_of(rollout: Rollout, cluster: ClusterName, seen: ClusterView) -> tuple[str, str]:
    """Pure: the seq that the cluster says it runs, and how the rollout's bundles are there."""
    wanted = rollout.targets[cluster].after
    told = []
    for bundle in wanted:
        word = seen.bundles.get(bundle)
        name = f"{bundle} " if len(wanted) > 1 else ""
        told.append(f"{name}{word.health}{'' if word.converged else ', not all applied'}" if word else f"{name}absent")
    bad = why_failed(wanted, seen)
    return str(seen.seq), (", ".join(told) + (f": {bad}" if bad else ""))[:TEXT_CHARS]


# --- bytes --------------------------------------------------------------------------------------------------------


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    step: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(type=_Envelope).decode
_decode_step = msgspec.json.Decoder(type=Step).decode
_decode_head = msgspec.json.Decoder(type=_Head).decode
_decode_member = msgspec.json.Decoder(type=Member).decode


def to_json(made: Step) -> bytes:
    """Pure: the journal's bytes of a step."""
    return msgspec.json.encode(_Envelope(format=FORMAT, step=msgspec.Raw(msgspec.json.encode(made))))


def from_json(data: bytes) -> Step:
    """Pure: the step in `data`. Raises UnsupportedVersion for a newer format, Permanent for what is none."""
    try:
        envelope = _decode_envelope(data)
        if envelope.format > FORMAT:
            cause = f"has format {envelope.format}, this hub knows up to {FORMAT}"
            raise UnsupportedVersion("stored step of a rollout", cause, "upgrade the hub")
        read = _decode_step(envelope.step)
        return msgspec.structs.replace(
            read,
            head=_typed(read.head, _decode_head),
            changes=tuple(Change(to=_typed(each.to, _decode_member), clusters=each.clusters) for each in read.changes),
        )
    except (msgspec.DecodeError, AttributeError) as error:
        cause = f"cannot be read: {error}"
        raise Permanent("stored step of a rollout", cause, "restore the hub's data folder from a backup") from error


def _typed(read: Mapping[str, Any], decode: Callable[[bytes], Any]) -> Mapping[str, Any]:
    """Fields as they are in the type that `decode` gives, whose fields all have defaults."""
    whole = decode(msgspec.json.encode(read))
    return {name: getattr(whole, name) for name in read}
