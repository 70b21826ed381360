"""Whether an agent may connect: how often, with which key, with which join token.

    key known for the cluster             accepted; a join token that comes with it is not looked at, so an agent
                                          whose first Welcome got lost joins again with the token it used up
    key unknown, good token, right MAC    enrolled: the token is used up, an older key of the cluster replaced
    anything else                         a Denial that names the thing and the remedy

Assumes that the agent has proved that it holds its key. `sessions` is the module that asks.
"""

import hmac
import logging
from collections import OrderedDict
from typing import Final, Protocol

from proto import identity
from proto.errors import Refused
from proto.messages import Denied, Hello

NOT_MEMBER_RETRY_S: Final = 60.0

log = logging.getLogger(__name__)


class JoinRecord(Protocol):
    """What the hub keeps of a join token; times are Unix seconds of its wall clock."""

    @property
    def cluster(self) -> str: ...
    @property
    def mac_key(self) -> bytes: ...
    @property
    def expires_at(self) -> float: ...
    @property
    def used_at(self) -> float | None: ...


class Identities(Protocol):
    """Where join tokens and agents' keys are kept, durably."""

    def join_record(self, join_id: str) -> JoinRecord | None: ...

    def enroll(self, join_id: str, cluster: str, public_key: str, now: float) -> None:
        """Use up the token and make `public_key` the cluster's key, as one step. Raises Refused when it is used."""
        ...

    def public_key(self, cluster: str) -> str | None: ...


class Denial(Refused):
    """Why a session ends: `reason` is the counter's word, `retry_after_s` None when a person has to act."""

    def __init__(
        self, reason: str, *, thing: str, cause: str, remedy: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(thing, cause, remedy)
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> Denied:
        return Denied(cause=f"{self.thing}: {self.cause}", remedy=self.remedy, retry_after_s=self.retry_after_s)


class HandshakeLimit:
    """A bucket of handshakes for each (source, cluster): `burst` at once, then one each `interval_s`.

    Clusters behind one proxy share a source, so the cluster's name is part of the key. Remembers the newest `size`.
    """

    def __init__(self, *, burst: int = 10, interval_s: float = 6.0, size: int = 20_000) -> None:
        self._burst_s = burst * interval_s
        self._interval_s = interval_s
        self._size = size
        self._full_at: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait_s(self, source: str, cluster: str, *, now: float) -> float:
        """Count one handshake at `now` (monotonic); 0 if it may go on, else after how long to try again."""
        full_at = max(now, self._full_at.pop((source, cluster), now))
        wait = full_at + self._interval_s - now - self._burst_s
        self._full_at[source, cluster] = full_at if wait > 0 else full_at + self._interval_s
        if len(self._full_at) > self._size:
            self._full_at.popitem(last=False)
        return max(0.0, wait)


def admit(identities: Identities, hello: Hello, *, mac: str, transcript: bytes, now: float) -> None:
    """Let a key that was proven speak for its cluster; a good join token is used up here. Raises Denial.

    `mac` is the agent's over `transcript`, `now` the hub's wall clock.
    """
    cluster = hello.cluster
    known = identities.public_key(cluster)
    if known == hello.public_key:
        return
    remedy = f"make a new token with 'flotilla join-token {cluster}' and give it to the agent"
    if not hello.join_id:
        if known is None:
            raise Denial("unknown", thing=f"cluster {cluster}", cause="has not joined this hub", remedy=remedy)
        raise Denial(
            "key", thing=f"cluster {cluster}", cause="its agent's key is not the one that joined", remedy=remedy
        )
    thing = f"join token of cluster {cluster}"
    record = identities.join_record(hello.join_id)
    if record is None:
        raise Denial("token-unknown", thing=thing, cause="is not known to this hub", remedy=remedy)
    if record.cluster != cluster:
        raise Denial("token-cluster", thing=thing, cause="was made for another cluster", remedy=remedy)
    expected = identity.join_mac(record.mac_key, agent_key=hello.public_key, transcript=transcript)
    if not hmac.compare_digest(expected.encode(), mac.encode()):
        raise Denial("token-mac", thing=thing, cause="has another secret than the one that was made", remedy=remedy)
    if record.used_at is not None:
        raise Denial("token-used", thing=thing, cause="has been used by another key", remedy=remedy)
    if now >= record.expires_at:
        raise Denial("token-expired", thing=thing, cause="has expired", remedy=remedy)
    try:
        identities.enroll(hello.join_id, cluster, hello.public_key, now)
    except Refused as error:
        raise Denial("token-used", thing=error.thing, cause=error.cause, remedy=error.remedy or remedy) from error
    log.info("cluster %s joined with key %s", cluster, identity.key_hash(identity.unb64(hello.public_key)))


def not_member(cluster: str) -> Denial:
    """The fleet repo has no such cluster, perhaps not yet."""
    return Denial(
        "not-member",
        thing=f"cluster {cluster}",
        cause="is not in the fleet repo",
        remedy=f"add a Cluster named {cluster} to the fleet repo, or stop its agent",
        retry_after_s=NOT_MEMBER_RETRY_S,
    )
