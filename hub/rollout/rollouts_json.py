"""Rollout states and policies as bytes for the journal, with a format number. Nothing is lost on the way back."""

from dataclasses import replace
from typing import TypeVar

import msgspec

from hub.model import RolloutPolicy
from hub.rollout import turn
from hub.state import Member, State
from proto.errors import Permanent, UnsupportedVersion
from proto.ids import ClusterName

FORMAT = 1
"""Raised when an older hub would misread what a newer one wrote; a field with a default does not raise it."""

T = TypeVar("T")


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    value: msgspec.Raw


def to_json(value: State | RolloutPolicy) -> bytes:
    """Pure: the journal's bytes of a state (with its rollout) or of a policy. Members of whom nothing is known yet are
    left out: their wave says all of it."""
    if isinstance(value, State):
        known = {cluster: member for cluster, member in value.members.items() if member != Member(wave=member.wave)}
        value = replace(value, members=known)
    return msgspec.json.encode(_Envelope(format=FORMAT, value=msgspec.Raw(msgspec.json.encode(value))))


def from_json(data: bytes) -> State:
    """Pure: the state in `data`. Raises UnsupportedVersion for a newer format, Permanent for what is none."""
    state = _read(data, State)
    members: dict[ClusterName, Member] = {}
    for index, wave in enumerate(state.rollout.waves):
        for cluster in wave.clusters:
            known = state.members.get(cluster)
            # A state from before waves were counted has members that do not know theirs.
            members[cluster] = replace(known, wave=index) if known else Member(wave=index)
    counted = len(state.tallies) == len(state.rollout.waves)
    return replace(state, members=members, tallies=state.tallies if counted else turn.tallies(state.rollout, members))


def policy_from_json(data: bytes) -> RolloutPolicy:
    """Pure: the policy in `data`. Raises as `from_json`."""
    return _read(data, RolloutPolicy)


def _read(data: bytes, kind: type[T]) -> T:
    what = f"stored {kind.__name__.lower()}"
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.format > FORMAT:
            cause = f"has format {envelope.format}, this hub knows up to {FORMAT}"
            raise UnsupportedVersion(what, cause, "upgrade the hub")
        return msgspec.json.decode(envelope.value, type=kind)
    except msgspec.DecodeError as error:
        raise Permanent(what, f"cannot be read: {error}", "restore the hub's data folder from a backup") from error
