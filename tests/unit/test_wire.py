"""Messages to bytes and back, and what no message can do."""

import json
import zlib

import pytest

from proto import wire
from proto.errors import ProtocolError, TooLarge, UnsupportedVersion
from proto.messages import (
    AnyMessage,
    BundleReport,
    Denied,
    DriftReport,
    GitObject,
    Health,
    Hello,
    ObjectProblem,
    Report,
    ReportAck,
    WakeUp,
)

HELLO = Hello(cluster="eu-1", public_key="k", nonce="n", boot_id="b", agent_version="1")
FULL = Report(
    number=3,
    boot_id="b",
    seq=7,
    commit="c" * 40,
    full=True,
    bundles={
        "shop": BundleReport(
            subtree="t" * 40,
            health=Health.FAILED,
            converged=False,
            counts={"Failed": 1},
            problems=(ObjectProblem(object="Pod/shop/web", health=Health.FAILED, reason="Crash", message="ü\n"),),
        )
    },
    drift=(DriftReport(id="d", bundle="shop", object="Pod/shop/web", what="changed", fields=(".spec.replicas",)),),
    removed=("db",),
    cut={"drift": 2},
)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(HELLO, id="hello"),
        pytest.param(FULL, id="report"),
        pytest.param(Denied(cause="c", retry_after_s=1.5), id="denied"),
        pytest.param(
            WakeUp(seq=1, commit="c", objects=(GitObject(kind="blob", data=b"\x00\xff" * 9000),)),
            id="wake-up with bytes",
        ),
    ],
)
def test_a_message_comes_back_as_it_was(message: AnyMessage) -> None:
    assert wire.decode(wire.encode(message)) == message


def test_small_messages_are_plain_and_large_ones_compressed() -> None:
    large = WakeUp(seq=1, commit="c", objects=(GitObject(kind="blob", data=b"x" * 10_000),))

    assert json.loads(wire.encode(HELLO))["v"] == wire.SCHEMA_VERSION
    assert wire.encode(large)[:1] == b"z"
    assert len(wire.encode(large)) < 1000


def test_unknown_fields_of_the_same_version_are_ignored() -> None:
    assert wire.decode(b'{"v":1,"type":"report-ack","number":4,"later":[1]}') == ReportAck(number=4)


def test_fields_that_an_older_build_leaves_out_have_their_defaults() -> None:
    text = b'{"v":1,"type":"report","number":1,"boot_id":"b","seq":0,"commit":""}'
    assert wire.decode(text) == Report(number=1, boot_id="b", seq=0, commit="")


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        pytest.param(b'{"v":2,"type":"hello"}', UnsupportedVersion, "schema version 2.*upgrade", id="newer"),
        pytest.param(
            b'{"v":2,"type":"never-heard-of"}', UnsupportedVersion, "schema version 2", id="newer and unknown"
        ),
        pytest.param(b'{"type":"report-ack","number":1}', ProtocolError, "has no schema version", id="no version"),
        pytest.param(
            b'{"v":-1,"type":"report-ack","number":1}', ProtocolError, "no schema version", id="version below 1"
        ),
        pytest.param(
            b'{"v":"1","type":"report-ack","number":1}', ProtocolError, "is not valid", id="version no number"
        ),
        pytest.param(b'{"v":1,"type":"other"}', ProtocolError, "is not valid", id="unknown type"),
        pytest.param(b'{"v":1}', ProtocolError, "is not valid", id="no type"),
        pytest.param(b'{"v":1,"type":"report-ack"}', ProtocolError, "is not valid", id="field missing"),
        pytest.param(b'{"v":1,"type":"report-ack","number":"4"}', ProtocolError, "is not valid", id="wrong type"),
        pytest.param(
            b'{"v":1,"type":"wakeup","seq":1,"commit":"","objects":[{"kind":"blob","data":"%"}]}',
            ProtocolError,
            "is not valid",
            id="no base64",
        ),
        pytest.param(b"[]", ProtocolError, "is not valid", id="no object"),
        pytest.param(b"", ProtocolError, "is not valid", id="nothing"),
        pytest.param(b"\xff\xfe", ProtocolError, "is not valid", id="no text"),
        pytest.param(b"{" * 100_000, ProtocolError, "is not valid", id="not closed"),
        pytest.param(b'{"v":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ProtocolError, "is not valid", id="deep"),
        pytest.param(b"zzzz", ProtocolError, "is not a zlib stream", id="no zlib"),
        pytest.param(b"z", ProtocolError, "ends in the middle", id="empty zlib"),
        pytest.param(b"z" + zlib.compress(b"x" * 100)[:-5], ProtocolError, "ends in the middle", id="torn zlib"),
        pytest.param(b" " * (wire.MAX_MESSAGE_BYTES + 1), TooLarge, "more than", id="too large"),
        pytest.param(b"z" + zlib.compress(b" " * (wire.MAX_MESSAGE_BYTES + 1)), TooLarge, "more than", id="bomb"),
    ],
)
def test_what_is_no_message_is_refused_and_says_why(data: bytes, error: type[ProtocolError], said: str) -> None:
    with pytest.raises(error, match=said):
        wire.decode(data)


def test_a_bomb_is_inflated_no_further_than_the_limit() -> None:
    inflated = []
    original = zlib.decompressobj

    class Counting:
        def __init__(self) -> None:
            self._stream = original()

        def decompress(self, data: bytes, limit: int) -> bytes:
            inflated.append(self._stream.decompress(data, limit))
            return inflated[-1]

        @property
        def eof(self) -> bool:
            return self._stream.eof

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zlib, "decompressobj", Counting)
        with pytest.raises(TooLarge):
            wire.decode(b"z" + zlib.compress(b" " * (64 << 20)))
    assert [len(text) for text in inflated] == [wire.MAX_MESSAGE_BYTES + 1]


def test_a_message_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(TooLarge, match="WakeUp"):
        wire.encode(WakeUp(seq=1, commit="", objects=(GitObject(kind="blob", data=b"x" * wire.MAX_MESSAGE_BYTES),)))
