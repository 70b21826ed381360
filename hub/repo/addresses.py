"""Addresses of sources outside the fleet repo, in one spelling, so that "is below" can be asked of them safely.

    https://host/path   http://host/path   oci://host/repository   ssh://user@host/path   git@host:path   file:///path

A credential, or a tenant's right, is for all that is below a prefix: the same scheme and host with its port, and whole
segments of the path. So an address that could mean two things (`..`, `%2e`, a backslash, a user and password) is
refused before anybody compares it. Next: `kinds` reads addresses, `tenants` and `external.credentials` compare them.
"""

import re
from urllib.parse import urlsplit

from hub.model import External, GitSource, HelmSource, OciSource, OwnChart
from proto.errors import InvalidInput

SCHEMES = ("https", "http", "oci", "ssh", "file")
_SCP = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^:/].*)")
_AUTHORITY = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")
_DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22, "oci": 443}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_REMEDY = "write for example https://git.example.org/team/app.git"


def normal(text: str, *, schemes: tuple[str, ...]) -> str:
    """Pure: `text` in the one spelling, which every function here expects. Raises InvalidInput about the address.

    Host and scheme in lower case, no default port, no slash at the end; `git@host:path` is `ssh://git@host/path`.
    """
    scp = _SCP.fullmatch(text) if "ssh" in schemes and "://" not in text else None
    if scp:
        text = f"ssh://{scp['user'] or 'git'}@{scp['host']}/{scp['path']}"
    shown = f"address {_without_user(text)[:200]!r}"
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise InvalidInput(shown, "is not an address that can be fetched from", f"begin it with one of {known}")
    authority, slash, path = rest.partition("/")
    path = (slash + path).rstrip("/")
    found = _AUTHORITY.fullmatch(authority)
    if scheme == "file":
        if authority or not path:
            raise InvalidInput(shown, "does not name a folder of this machine", "write file:///folder")
    elif found is None and "@" in authority and scheme != "ssh":
        raise InvalidInput(shown, "has a user or password in it", "put them in the hub's credentials and name those")
    elif found is None:
        raise InvalidInput(shown, "has no host, or one that is none", _REMEDY)
    elif found["user"] and scheme != "ssh":
        raise InvalidInput(shown, "has a user in it", "put it in the hub's credentials and name those")
    segments = path[1:].split("/") if path else []
    if _PATH.fullmatch(path) is None or any(segment in (".", "..") for segment in segments):
        raise InvalidInput(shown, "has a path that could mean something else", _REMEDY)
    if any(escape in path.lower() for escape in ("%2e", "%2f", "%5c")):
        raise InvalidInput(shown, "has an escaped dot or slash in its path", _REMEDY)
    try:
        port = urlsplit(f"{scheme}://{authority}").port
    except ValueError as error:
        raise InvalidInput(shown, "has a port that is none", _REMEDY) from error
    host = authority.lower() if scheme != "ssh" else _lower_host(authority)
    if port == _DEFAULT_PORTS.get(scheme):
        host = host.removesuffix(f":{port}")
    if scheme == "ssh" and "@" not in host:
        host = f"git@{host}"
    return f"{scheme}://{host}{path}"


def of(source: External | OwnChart) -> str:
    """Pure: where a source is fetched from; of a chart in the fleet repo, where it is."""
    if isinstance(source, OwnChart):
        return f"{source.folder}/{source.path}".rstrip("/")
    return source.repository if isinstance(source, HelmSource) else source.url


def fixed(source: External | OwnChart) -> bool:
    """Pure: whether a source names its very content, so that it can be but one thing for ever."""
    match source:
        case GitSource():
            return bool(source.commit)
        case OciSource():
            return bool(source.digest)
        case HelmSource() | OwnChart():
            return False


def within(address: str, prefix: str) -> bool:
    """Pure: whether `address` is `prefix` or below it; both in the one spelling. A user is part of neither."""
    scheme, _, rest = _without_user(address).partition("://")
    wanted, _, above = _without_user(prefix).partition("://")
    return scheme == wanted and (rest == above or rest.startswith(f"{above}/"))


def local(address: str) -> bool:
    """Pure: whether the address is of this machine by name: nothing that is sent there can be read on the way."""
    parts = _without_user(address).partition("://")[2].partition("/")[0]
    host = parts if parts.endswith("]") else parts.rpartition(":")[0] or parts
    return host in _LOOPBACK


def _without_user(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def _lower_host(authority: str) -> str:
    user, at, host = authority.rpartition("@")
    return f"{user}{at}{host.lower()}"
