"""The hub's own keys: what it signs with, what it keys its five-minute tokens with, and the join tokens it makes.

The signing key is what every agent pins at its join, so it is made once and must be in the backups; the token key only
has to outlive the tokens. Assumes a folder that no other hub uses. `sessions` is the module that needs them.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nacl.signing import SigningKey

from proto import identity, keyfile
from proto.errors import InvalidInput
from proto.identity import JoinToken
from proto.ids import check_name

SIGNING_KEY_FILE = "hub-signing.key"
TOKEN_KEY_FILE = "hub-token.key"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HubKeys:
    """`signing` proves the hub to agents; `token_key` (32 bytes) keys the tokens that open Git."""

    signing: SigningKey
    token_key: bytes

    @classmethod
    def load_or_create(cls, folder: Path) -> Self:
        """The keys in `folder`, made when there are none yet.

        Raises InvalidInput when a key is corrupt, open to other users, or gone while the other is there; Transient
        when a new key cannot be kept.
        """
        signing, token = folder / SIGNING_KEY_FILE, folder / TOKEN_KEY_FILE
        if token.exists() and not signing.exists():
            # The signing key is always made first, so this one was lost: a new one would be refused by every agent.
            raise InvalidInput(
                f"key file {signing}",
                f"is gone, while {token.name} is still there",
                f"restore it from a backup, or remove {token.name} too and join every cluster again",
            )
        return cls(
            signing=SigningKey(keyfile.load_or_create(signing, lambda: bytes(SigningKey.generate()))),
            token_key=keyfile.load_or_create(token, lambda: secrets.token_bytes(identity.KEY_BYTES)),
        )

    @property
    def public_key(self) -> str:
        """Base64 of the public half of the signing key."""
        return identity.b64(bytes(self.signing.verify_key))

    @property
    def key_hash(self) -> str:
        """What join tokens carry, so that an agent knows its hub at the first contact."""
        return identity.key_hash(bytes(self.signing.verify_key))

    def sign(self, transcript: bytes) -> str:
        return identity.sign(self.signing, transcript)

    def join_token(self, cluster: str, join_id: str) -> tuple[JoinToken, bytes]:
        """A new join token and the MAC key that the hub keeps of it (the token itself is kept nowhere).

        Raises InvalidInput for a name that no cluster can have.
        """
        token = JoinToken(
            join_id=join_id,
            cluster=check_name("cluster", cluster),
            hub_key_hash=self.key_hash,
            secret=identity.b64(secrets.token_bytes(identity.KEY_BYTES)),
        )
        return token, token.mac_key

    def issue_token(self, cluster: str, *, now_s: float, ttl_s: float) -> str:
        return identity.issue_token(self.token_key, cluster=cluster, now_s=now_s, ttl_s=ttl_s)

    def check_token(self, token: str, *, now_s: float) -> str:
        """The cluster that a bearer token is for. Raises Refused."""
        return identity.check_token(self.token_key, token, now_s=now_s)
