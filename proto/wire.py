"""Messages to bytes and back: compressed JSON with a schema version, bounded in size before anything is parsed.

    { ... }            plain JSON
    z<zlib stream>     the same, compressed; chosen from `COMPRESS_FROM_BYTES` on

A message of a newer schema version is refused with an error that says so; unknown fields of the same version are
ignored.
"""

import zlib

import msgspec

from proto.errors import ProtocolError, TooLarge, UnsupportedVersion
from proto.messages import AnyMessage, Message

SCHEMA_VERSION = 1
MAX_MESSAGE_BYTES = 4 << 20
"""Of the JSON text, compressed or not: a full report of 50 bundles with 50 problems each is below 1 MB."""
MAX_CARRIED_BYTES = 64 << 10
"""Git objects up to this sum travel inside a wake-up (design, decision 1)."""
COMPRESS_FROM_BYTES = 1024
"""Below this zlib saves less than a packet."""

_encoder = msgspec.json.Encoder()
_version = msgspec.json.Decoder(type=dict[str, msgspec.Raw])
_number = msgspec.json.Decoder(type=int)
_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(type=AnyMessage)


def encode(message: Message) -> bytes:
    """The bytes of one message. Raises TooLarge."""
    text = _encoder.encode(message)
    text = b'{"v":%d,' % SCHEMA_VERSION + text[1:]
    if len(text) > MAX_MESSAGE_BYTES:
        raise TooLarge(type(message).__name__, f"has {len(text)} bytes, the limit is {MAX_MESSAGE_BYTES}")
    return b"z" + zlib.compress(text, 1) if len(text) >= COMPRESS_FROM_BYTES else text


def decode(data: bytes) -> AnyMessage:
    """The message in `data`. Raises TooLarge, UnsupportedVersion or ProtocolError; never reads past the limits."""
    text = _inflate(data) if data[:1] == b"z" else data
    if len(text) > MAX_MESSAGE_BYTES:
        raise TooLarge("message", f"has more than {MAX_MESSAGE_BYTES} bytes")
    try:
        envelope = _version.decode(text)
        version = _number.decode(envelope.get("v", b"0"))
        if version > SCHEMA_VERSION:
            raise UnsupportedVersion(
                "message",
                f"has schema version {version}, this build knows up to {SCHEMA_VERSION}",
                "upgrade the older of hub and agent",
            )
        if version < 1:
            raise ProtocolError("message", "has no schema version")
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("message", f"is not valid: {error}") from error


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data[1:], MAX_MESSAGE_BYTES + 1)
    except zlib.error as error:
        raise ProtocolError("message", f"is not a zlib stream: {error}") from error
    if len(text) <= MAX_MESSAGE_BYTES and not stream.eof:
        raise ProtocolError("message", "ends in the middle of its zlib stream")
    return text
