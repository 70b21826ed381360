"""Rollout states as bytes for the journal, with a format number. Nothing is lost on the way back."""

from dataclasses import replace

import msgspec

from hub.rollout import turn
from hub.state import Member, State
from proto.errors import Permanent, UnsupportedVersion
from proto.ids import ClusterName

FORMAT = 1
"""Raised when an older hub would misread what a newer one wrote; a field with a default does not raise it."""


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    value: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(type=_Envelope).decode
_decode_state = msgspec.json.Decoder(type=State).decode


def to_json(state: State) -> bytes:
    """Pure: the journal's bytes of a state with its rollout. Members of whom nothing is known yet are left out: their
    wave says all of it."""
    known = {
        cluster: member
        for cluster, member in state.members.items()
        if member is not (fresh := turn.waiting(member.wave)) and member != fresh
    }
    value = msgspec.Raw(msgspec.json.encode(replace(state, members=known)))
    return msgspec.json.encode(_Envelope(format=FORMAT, value=value))


def from_json(data: bytes) -> State:
    """Pure: the state in `data`. Raises UnsupportedVersion for a newer format, Permanent for what is none."""
    state = _read(data)
    members: dict[ClusterName, Member] = {}
    for index, wave in enumerate(state.rollout.waves):
        for cluster in wave.clusters:
            known = state.members.get(cluster)
            # A state from before waves were counted has members that do not know theirs.
            members[cluster] = replace(known, wave=index) if known else turn.waiting(index)
    tallies = turn.tallies(state.rollout, members)
    if len(state.tallies) == len(tallies):  # how far a wave has come is all that its members do not tell
        pairs = zip(tallies, state.tallies, strict=True)
        tallies = tuple(replace(tally, first=was.first) for tally, was in pairs)
    return replace(state, members=members, tallies=tallies)


def _read(data: bytes) -> State:
    what = "stored state"
    try:
        envelope = _decode_envelope(data)
        if envelope.format > FORMAT:
            cause = f"has format {envelope.format}, this hub knows up to {FORMAT}"
            raise UnsupportedVersion(what, cause, "upgrade the hub")
        return _decode_state(envelope.value)
    except msgspec.DecodeError as error:
        raise Permanent(what, f"cannot be read: {error}", "restore the hub's data folder from a backup") from error
