"""Whatever comes in, the wire gives a message back or one of its own errors."""

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import wire
from proto.errors import ProtocolError
from proto.messages import (
    AnyMessage,
    BundleReport,
    Challenge,
    Denied,
    DriftReport,
    GitObject,
    Health,
    Hello,
    ObjectProblem,
    Report,
    ReportAck,
    Token,
    WakeUp,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
number = st.integers(min_value=-(2**63), max_value=2**63 - 1)
seconds = st.floats(allow_nan=False, allow_infinity=False)
problems = st.builds(ObjectProblem, object=text, health=st.sampled_from(Health), reason=text, message=text)
bundles = st.builds(
    BundleReport,
    subtree=text,
    health=st.sampled_from(Health),
    converged=st.booleans(),
    counts=st.dictionaries(text, number, max_size=3),
    problems=st.lists(problems, max_size=3).map(tuple),
    since=text,
)
drift = st.builds(
    DriftReport, id=text, bundle=text, object=text, what=text, fields=st.lists(text, max_size=3).map(tuple)
)
messages: st.SearchStrategy[AnyMessage] = st.one_of(
    st.builds(Hello, cluster=text, public_key=text, nonce=text, boot_id=text, agent_version=text, join_id=text),
    st.builds(Challenge, hub_public_key=text, nonce=text, signature=text),
    st.builds(Denied, cause=text, remedy=text, retry_after_s=st.none() | seconds),
    st.builds(Token, token=text, token_ttl_s=seconds),
    st.builds(ReportAck, number=number),
    st.builds(
        WakeUp,
        seq=number,
        commit=text,
        parent=text,
        objects=st.lists(st.builds(GitObject, kind=text, data=st.binary(max_size=3000)), max_size=3).map(tuple),
    ),
    st.builds(
        Report,
        number=number,
        boot_id=text,
        seq=number,
        commit=text,
        full=st.booleans(),
        bundles=st.dictionaries(text, bundles, max_size=3),
        removed=st.lists(text, max_size=3).map(tuple),
        drift=st.lists(drift, max_size=3).map(tuple),
        cut=st.dictionaries(text, number, max_size=3),
    ),
)


@given(messages)
def test_every_message_comes_back(message: AnyMessage) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(messages, st.dictionaries(st.from_regex(r"x[a-z]{1,8}", fullmatch=True), st.none() | number | text, max_size=3))
def test_fields_of_a_later_build_change_nothing(message: AnyMessage, later: dict[str, object]) -> None:
    fields = {**msgspec.to_builtins(message), "v": wire.SCHEMA_VERSION, **later}
    assert wire.decode(msgspec.json.encode(fields)) == message


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: b"z" + zlib.compress(data)))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | number | seconds | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@given(
    st.sampled_from(["hello", "challenge", "answer", "welcome", "denied", "token", "wakeup", "report", "report-ack"]),
    st.dictionaries(
        st.sampled_from(["cluster", "number", "boot_id", "seq", "commit", "bundles", "objects", "cut", "v", "nonce"]),
        json_values,
    ),
)
def test_a_message_with_any_values_is_read_or_refused(kind: str, fields: dict[str, object]) -> None:
    data = msgspec.json.encode({"v": 1, "type": kind, **fields})
    try:
        message = wire.decode(data)
    except ProtocolError:
        return
    assert wire.decode(wire.encode(message)) == message


@given(messages, st.data())
def test_a_damaged_message_is_read_or_refused(message: AnyMessage, data: st.DataObject) -> None:
    whole = bytearray(wire.encode(message))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            wire.decode(damaged)
        except ProtocolError:
            continue
