"""Who this agent is and which hub it belongs to: its key, made before it joins, and the hub's key, pinned once joined.

    agent.key    private key, 0600                made at the first start, never again
    hub.json     cluster and the hub's public key written after each Welcome of a hub that is not the pinned one

A lost `hub.json` costs nothing while the join token is at hand: the hub knows the key already. `hub_client` is next.
"""

from pathlib import Path
from typing import Self

import msgspec
from nacl.signing import SigningKey

from proto import identity, keyfile
from proto.errors import InvalidInput, Refused
from proto.identity import JoinToken
from proto.ids import check_name

KEY_FILE = "agent.key"
PIN_FILE = "hub.json"


class _Pin(msgspec.Struct, frozen=True, kw_only=True):
    cluster: str
    hub_public_key: str


class Identity:
    """One agent's key and trust. `join_token` is what a person brought, or None once the cluster has joined."""

    def __init__(
        self, folder: Path, cluster: str, *, key: SigningKey, hub_public_key: str, join_token: JoinToken | None
    ) -> None:
        self.cluster = cluster
        self.join_token = join_token
        self._folder = folder
        self._key = key
        self._hub_public_key = hub_public_key

    @classmethod
    def load_or_create(cls, folder: Path, cluster: str, *, join_token: JoinToken | None = None) -> Self:
        """The identity kept in `folder`; the key is made (and kept) when there is none.

        Raises InvalidInput when the files are corrupt or another cluster's, when the token is for another cluster, or
        when the agent has neither joined nor a token; Transient when the key cannot be kept.
        """
        check_name("cluster", cluster)
        if join_token is not None and join_token.cluster != cluster:
            raise InvalidInput(
                "join token",
                f"is for cluster {join_token.cluster}, this agent is cluster {cluster}",
                f"make one with 'flotilla join-token {cluster}'",
            )
        pin = _read_pin(folder / PIN_FILE)
        if pin is not None and pin.cluster != cluster:
            raise InvalidInput(
                f"state folder {folder}",
                f"belongs to cluster {pin.cluster}, this agent is cluster {cluster}",
                "give each cluster's agent its own state folder",
            )
        if pin is None and join_token is None:
            raise InvalidInput(
                f"cluster {cluster}",
                "has not joined a hub and has no join token",
                f"make one with 'flotilla join-token {cluster}'",
            )
        key = SigningKey(keyfile.load_or_create(folder / KEY_FILE, lambda: bytes(SigningKey.generate())))
        hub_public_key = pin.hub_public_key if pin is not None else ""
        return cls(folder, cluster, key=key, hub_public_key=hub_public_key, join_token=join_token)

    @property
    def public_key(self) -> str:
        return identity.b64(bytes(self._key.verify_key))

    @property
    def hub_public_key(self) -> str:
        """The pinned key of the hub, or "" before the first Welcome."""
        return self._hub_public_key

    def sign(self, transcript: bytes) -> str:
        return identity.sign(self._key, transcript)

    def check_hub(self, public_key: str) -> None:
        """Raises Refused unless `public_key` is the pinned hub's, or the one that the join token names."""
        if self._hub_public_key and public_key == self._hub_public_key:
            return
        try:
            found = identity.key_hash(identity.unb64(public_key))
        except InvalidInput as error:
            raise Refused("hub", "sent a public key that is not valid") from error
        if self.join_token is not None and found == self.join_token.hub_key_hash:
            return
        trusted = "the hub this cluster joined" if self._hub_public_key else "the hub that made the join token"
        raise Refused(
            "hub",
            f"has the key {found}, which is not the key of {trusted}",
            f"check the hub's address; if the hub was set up anew, join with 'flotilla join-token {self.cluster}'",
        )

    def pin(self, hub_public_key: str) -> None:
        """Trust this hub from now on, durably. Raises Transient when that cannot be kept."""
        if hub_public_key == self._hub_public_key:
            return
        pin = _Pin(cluster=self.cluster, hub_public_key=hub_public_key)
        keyfile.replace(self._folder / PIN_FILE, msgspec.json.encode(pin) + b"\n")
        self._hub_public_key = hub_public_key


_decode_pin = msgspec.json.Decoder(type=_Pin).decode


def _read_pin(path: Path) -> _Pin | None:
    try:
        pin = _decode_pin(path.read_bytes())
        if len(identity.unb64(pin.hub_public_key)) != identity.KEY_BYTES:
            raise InvalidInput(f"file {path}", "does not hold a public key")
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, InvalidInput) as error:
        raise InvalidInput(
            f"file {path}", f"is not usable: {error}", "remove it and give the agent its join token again"
        ) from error
    return pin
