"""Connections to one API server, and the credentials that each request carries; both are renewed after a 401.

Knows nothing of Kubernetes' objects. Assumes that whoever opens a response closes it. Next: `cluster` says what to
send.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

import aiohttp
import anyio
import anyio.lowlevel
from yarl import URL

from agent.kube import kubeclient
from agent.kube.api_status import Busy
from proto.errors import InvalidInput, Transient

NETWORK = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request or a stream raises when the network is to blame."""
CLOSE_S: Final = 3.0
"""For open connections to end; one that does not must not keep a pod from ending."""
_RENEW_EVERY_S: Final = 5.0
"""A token that stays refused must not start an exec plugin for every request."""

logger = logging.getLogger("flotilla.agent.cluster")


class Connection:
    """`requests` counts what was sent, by verb."""

    def __init__(self, credentials: kubeclient.Credentials) -> None:
        self.requests: Counter[str] = Counter()
        self._credentials = credentials
        self._session, self._options = kubeclient.connect(credentials)
        self._renewals = 0
        self._renewed_at = float("-inf")
        self._renewing = anyio.Lock()

    async def open(
        self,
        verb: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        about: str,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """Sends a request; a 401 renews the credentials, once. Raises Transient when there is no answer."""
        url = URL(self._credentials.host + target, encoded=True)
        try:
            for last in (False, True):
                renewals = self._renewals
                authorization = await self._credentials.authorization()
                extra = {"Authorization": authorization} if authorization else {}
                self.requests[verb] += 1
                response = await self._session.request(
                    method, url, data=body, headers={**headers, **extra}, timeout=timeout, **self._options
                )
                if response.status != 401 or last:
                    break
                response.release()
                await self._renew(renewals)
        except NETWORK as error:
            raise unreachable(about, verb, error) from error
        return response

    async def close(self) -> None:
        """Ends within `CLOSE_S`, also when cancelled."""
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._session.close()
            # What was aborted is closed by the event loop's next turn.
            await anyio.lowlevel.checkpoint()

    async def _renew(self, seen: int) -> None:
        """Read the credentials anew, unless another request did since `seen` or it was done just now."""
        async with self._renewing:
            if seen != self._renewals or anyio.current_time() < self._renewed_at + _RENEW_EVERY_S:
                return
            self._renewed_at = anyio.current_time()
            self._renewals += 1
            try:
                self._credentials.configuration = await self._credentials.reload()
                if self._credentials.configuration.cert_file:
                    # A certificate is shown when a connection begins.
                    old, (self._session, self._options) = self._session, kubeclient.connect(self._credentials)
                    await old.close()
            except InvalidInput as error:
                # The file may be in the middle of being replaced; what we have stays.
                raise Transient("credentials", f"were refused and cannot be read anew: {error}") from error
            logger.info("credentials were refused, and read anew")


def unreachable(about: str, verb: str, error: Exception) -> Busy:
    """Pure: what to raise for an error of the network."""
    return Busy(f"{about} {verb} failed (Unreachable)", str(error) or type(error).__name__)
