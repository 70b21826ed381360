"""Another machine's Git repository, spoken to with care: what the fleet repo's mirror and bundles from other
repositories have in common.

libgit2 has no timeouts, follows redirects with the credentials, crashes on some, and tells its failures apart by text
only. So the first request of an HTTP fetch is made here, without following anything; no host but the remote's own is
answered; and errors become ours. SSH reads the known hosts that it is told, not those of whoever runs the hub.

Everything here blocks, and sets libgit2 up for the whole process. Next: `sync`, `external.git`.
"""

import base64
import http.client
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import pygit2
from pygit2.enums import CredentialType

from hub import scratch
from proto.errors import FlotillaError, InvalidInput, Permanent, Refused, Transient

WHOLE = 2**31 - 1
"""As a depth: what libgit2, and Git, take for all of it."""
CONNECT_TIMEOUT_S = 10.0
SERVER_TIMEOUT_S = 30.0
"""Of one read or write: libgit2 itself would wait for ever."""

SCP = re.compile(r"(?:(?P<user>[^@:/]+)@)?(?P<host>[^@:/]+):(?P<path>[^:].*)")
"""`git@host:path`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """How an upstream is reached by SSH: files with a private key that needs no passphrase, and with the keys of the
    hosts that are believed (`known_hosts`); the files of whoever runs the hub are not looked at."""

    key: Path
    known_hosts: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """`thing` names it in messages, `credentials` says there where its credentials are to be looked at; `password` is
    for HTTP, beside what the address may hold itself."""

    thing: str
    url: str
    ssh: Ssh | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    credentials: str = "check the token in its address"

    @property
    def host(self) -> str:
        scp = SCP.fullmatch(self.url) if self.ssh is not None and "://" not in self.url else None
        return scp["host"].lower() if scp else urlsplit(self.url).hostname or ""


def set_up() -> None:
    """Settings of the whole process; the worker processes do nothing else with libgit2 that they could harm."""
    pygit2.settings.server_connect_timeout = int(CONNECT_TIMEOUT_S * 1000)
    pygit2.settings.server_timeout = int(SERVER_TIMEOUT_S * 1000)
    # A local upstream may belong to another user. libgit2 runs none of its hooks and programs, so that is no danger.
    pygit2.settings.owner_validation = False
    # A ref that outlives a power cut must not name objects that did not.
    pygit2.settings.enable_fsync_gitdir(True)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirect stays an error."""


def ask(remote: Remote, *, service: str = "git-upload-pack") -> None:
    """Make the first request of a fetch (of a push: `git-receive-pack`) over HTTP, and raise what its answer means;
    nothing for other addresses.

    libgit2 would follow a redirect, with the credentials and whatever it is told, and crashes when that leads nowhere.
    """
    thing, parts = remote.thing, urlsplit(remote.url)
    if parts.scheme not in ("http", "https"):
        return
    user, _, host = parts.netloc.rpartition("@")
    user = unquote(user) if user else f"{remote.username}:{remote.password}" if remote.username else ""
    suffix = f"/info/refs?service={service}"
    headers = {"User-Agent": "git/2.0 (flotilla)"}  # some hosts serve Git only to who sounds like it
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    address = urlunsplit(parts._replace(netloc=host, path=parts.path.rstrip("/") + suffix, query="", fragment=""))
    try:
        request = urllib.request.Request(address, headers=headers)
        urllib.request.build_opener(_NoRedirects).open(request, timeout=SERVER_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                cause = f"cannot be read without other credentials: status code: {error.code}"
                raise Refused(thing, cause, remote.credentials) from error
            if error.code == 404:
                remedy = "check its address, and that the credentials may see it"
                raise Permanent(thing, "is not there: status code: 404", remedy) from error
            if 300 <= error.code < 400:
                there = shown(urljoin(address, error.headers.get("Location", ""))).partition("/info/refs")[0]
                raise Permanent(thing, f"redirects to {there}", "if that is right, use it as the address") from error
            raise failed(error, remote) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise failed(error, remote) from error


class Callbacks(pygit2.RemoteCallbacks):
    """Refuses every host but the remote's own: whoever answers for it must not send the hub elsewhere.

    A second guard behind `ask`, for one that answers libgit2 otherwise: it shows each TLS certificate. An SSH host is
    `valid` if the known hosts have its key. More than `most_bytes` are not taken.
    """

    def __init__(self, remote: Remote, *, most_bytes: int | None = None) -> None:
        super().__init__()
        self._remote, self._most_bytes, self._offered = remote, most_bytes, False

    def credentials(
        self, url: str, username_from_url: str | None, allowed_types: CredentialType
    ) -> pygit2.Username | pygit2.UserPass | pygit2.Keypair:
        ssh, password = self._remote.ssh, self._remote.password
        by_key = ssh is not None and bool(allowed_types & CredentialType.SSH_KEY)
        by_password = bool(password) and bool(allowed_types & CredentialType.USERPASS_PLAINTEXT)
        if not (by_key or by_password):
            raise pygit2.Passthrough
        if self._offered:  # libgit2 would ask for ever
            raise ValueError(f"authentication failed: the {'key' if by_key else 'password'} was not accepted")
        self._offered = True
        if ssh is not None and by_key:
            return pygit2.Keypair(username_from_url or "git", None, ssh.key, "")
        if (urlsplit(url).hostname or "").lower() != self._remote.host.lower():
            raise ValueError("redirects to another host, which does not get the credentials")
        return pygit2.UserPass(self._remote.username, password)

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        if host.decode("ascii", "replace").lower() != self._remote.host:
            raise ValueError(f"redirects to {host.decode('ascii', 'replace')}")
        return valid

    def transfer_progress(self, stats: pygit2.remotes.TransferProgress) -> None:
        if self._most_bytes is not None and stats.received_bytes > self._most_bytes:
            raise ValueError(f"has more than {self._most_bytes >> 20} MiB, the limit")


@contextmanager
def trusting(ssh: Ssh | None) -> Iterator[None]:
    """libgit2 reads the known hosts in the home folder only, so that it gets one of its own."""
    if ssh is None:
        yield
        return
    before = pygit2.settings.homedir or ""
    with scratch.folder("ssh") as home:
        (home / ".ssh").mkdir()
        try:
            shutil.copyfile(ssh.known_hosts, home / ".ssh/known_hosts")
        except OSError as error:
            thing, cause = f"known hosts {ssh.known_hosts}", f"cannot be read: {error.strerror}"
            raise InvalidInput(thing, cause, "check its path and permissions") from error
        pygit2.settings.homedir = str(home)
        try:
            yield
        finally:
            pygit2.settings.homedir = before


def fetch(
    upstream: pygit2.Remote, remote: Remote, *refspecs: str, depth: int = 0, most_bytes: int | None = None
) -> None:
    """Bring refs, of each history only the last `depth` commits (0: all that is missing; `WHOLE`: also what was left
    out before). From a host that cannot shorten a history, and from a folder, of which libgit2 cannot, all comes.
    Raises as libgit2 does; see `failed`."""

    def get(depth: int) -> None:
        callbacks = Callbacks(remote, most_bytes=most_bytes)
        upstream.fetch(list(refspecs), callbacks=callbacks, proxy=True, depth=depth)

    folder = remote.url.startswith(("/", "file://"))
    try:
        get(0 if folder else depth)
    except (pygit2.GitError, ValueError) as error:
        if not depth or "support shallow" not in str(error):
            raise
        get(0)


def failed(error: Exception, remote: Remote) -> FlotillaError:
    """libgit2 tells its failures apart by text only."""
    thing, text = remote.thing, str(error)
    if any(word in text for word in ("authentication", "status code: 401", "status code: 403", "credentials")):
        return Refused(thing, f"cannot be read without other credentials: {text}", remote.credentials)
    if "ssh hostkey" in text:
        cause = "its host key is not one of the known hosts: it may be somebody else"
        return Refused(thing, cause, "compare the key with the one that the host publishes, then add it there")
    if "redirect" in text or "status code: 30" in text:
        return Permanent(thing, f"redirects elsewhere: {text}", "use the address that it redirects to")
    if "object format" in text:
        return Permanent(thing, f"cannot be read: {text}", "use a repository whose object ids are SHA-1, Git's default")
    if "MiB, the limit" in text:
        return Permanent(thing, text, "take a smaller repository")
    return Transient(thing, f"cannot be read: {text}", "check the address and that it can be reached from here")


def shown(upstream: str) -> str:
    """The address without the user and password that it may hold."""
    parts = urlsplit(upstream)
    if "@" not in parts.netloc:
        return upstream
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
