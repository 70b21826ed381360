"""Who is who: join tokens, what each side signs, and the five-minute tokens that open Git.

A join token is bound to one cluster name, is used once, and carries a hash of the hub's public key: the agent
accepts no other hub, so even a first contact over a hostile network gives nothing away. Its secret never travels: the
agent sends a MAC over the transcript. No agent clock is trusted anywhere.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Self

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from proto.errors import InvalidInput, Refused

KEY_BYTES = 32
_PREFIX = "flotilla-join.v1"


def b64(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The inverse of `b64`. Raises InvalidInput."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("base64 text", f"is not valid: {error}") from error


def new_nonce() -> str:
    return b64(secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What a person carries from the hub to a new cluster; `secret` never shows in a repr."""

    join_id: str
    cluster: str
    hub_key_hash: str
    secret: str

    def __repr__(self) -> str:
        return f"JoinToken(join_id={self.join_id!r}, cluster={self.cluster!r})"

    def encode(self) -> str:
        return f"{_PREFIX}.{self.join_id}.{self.cluster}.{self.hub_key_hash}.{self.secret}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises InvalidInput, never quoting the text."""
        parts = text.strip().split(".")
        if len(parts) != 6 or ".".join(parts[:2]) != _PREFIX or not all(parts):
            raise InvalidInput(
                "join token", "is not a Flotilla join token", "make one with 'flotilla join-token CLUSTER'"
            )
        return cls(join_id=parts[2], cluster=parts[3], hub_key_hash=parts[4], secret=parts[5])

    @property
    def mac_key(self) -> bytes:
        """What the hub keeps of the secret, and what the MAC is keyed with."""
        return mac_key(self.secret)


def mac_key(secret: str) -> bytes:
    return hashlib.sha256(b"flotilla join secret v1\0" + secret.encode()).digest()


def key_hash(public_key: bytes) -> str:
    """Short name of a public key, long enough that none can be made to match (128 bits)."""
    return b64(hashlib.sha256(b"flotilla key v1\0" + public_key).digest()[:16])


def hub_transcript(*, cluster: str, agent_key: str, agent_nonce: str, hub_nonce: str) -> bytes:
    """What the hub signs in a Challenge."""
    return _transcript(b"flotilla hub v1", cluster, agent_key, agent_nonce, hub_nonce)


def agent_transcript(*, cluster: str, hub_key: str, agent_nonce: str, hub_nonce: str) -> bytes:
    """What the agent signs in an Answer."""
    return _transcript(b"flotilla agent v1", cluster, hub_key, agent_nonce, hub_nonce)


def join_mac(key: bytes, *, agent_key: str, transcript: bytes) -> str:
    """Proof that the agent with `agent_key` holds the join token's secret."""
    return b64(hmac.digest(key, _transcript(b"flotilla join v1", agent_key) + transcript, "sha256"))


def _transcript(context: bytes, *parts: str) -> bytes:
    return b"".join(b"%d:%s," % (len(part), part) for part in (context, *(part.encode() for part in parts)))


def sign(key: SigningKey, transcript: bytes) -> str:
    return b64(key.sign(transcript).signature)


def verify(public_key: str, transcript: bytes, signature: str, *, who: str) -> None:
    """Raises Refused unless `signature` over `transcript` was made with the private half of `public_key`."""
    try:
        VerifyKey(unb64(public_key)).verify(transcript, unb64(signature))
    except (BadSignatureError, InvalidInput, ValueError, TypeError) as error:
        raise Refused(who, "sent a signature that does not match its key") from error


def issue_token(key: bytes, *, cluster: str, now_s: float, ttl_s: float) -> str:
    """A bearer token for one cluster, good until `now_s + ttl_s` on the hub's wall clock."""
    body = f"{cluster}.{int(now_s + ttl_s)}"
    return f"{body}.{b64(hmac.digest(key, b'flotilla token v1' + body.encode(), 'sha256'))}"


def check_token(key: bytes, token: str, *, now_s: float) -> str:
    """The cluster that a bearer token is for. Raises Refused."""
    if not token.isascii():
        raise Refused("token", "was not issued by this hub", "reconnect the agent")
    body, _, mac = token.rpartition(".")
    expected = b64(hmac.digest(key, b"flotilla token v1" + body.encode(), "sha256"))
    cluster, _, ends = body.rpartition(".")
    if not hmac.compare_digest(expected.encode(), mac.encode()):
        raise Refused("token", "was not issued by this hub", "reconnect the agent")
    if now_s > float(ends):
        raise Refused(f"token of cluster {cluster}", "has ended", "reconnect the agent")
    return cluster
