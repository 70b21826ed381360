"""Who may sign commits of the fleet repo, as people write it down.

Signers are text: lines of OpenSSH's `allowed_signers` (`ada@example.org ssh-ed25519 AAAA…`) and armored GPG public
keys, mixed at will. Next: `signatures` holds a commit against them.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

from proto.errors import InvalidInput

MAX_SIGNERS_BYTES = 4 << 20

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
_LINE = re.compile(r"\S+\s+(\S.*\s)?(sk-)?(ssh|ecdsa)-\S+\s+(?P<key>[A-Za-z0-9+/]+={0,2})(\s.*)?", re.ASCII)
"""Names, perhaps options, a key's type, the key, perhaps a comment."""
_MAX_LINE = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Whose signatures count: the lines of an `allowed_signers` file, and a binary GPG keyring."""

    ssh: tuple[str, ...] = ()
    gpg: bytes = b""

    def __bool__(self) -> bool:
        return bool(self.ssh or self.gpg)


NOBODY = Signers()


def read(text: str, *, what: str) -> Signers:
    """Pure: the signers that `text` lists. Raises InvalidInput about `what` for a line or a block that is none."""
    if len(text) > MAX_SIGNERS_BYTES:
        raise InvalidInput(what, f"is over {MAX_SIGNERS_BYTES >> 20} MiB", "list the signers of this fleet only")
    keyring: list[bytes] = []
    listed: list[str] = []
    lines = iter(text.splitlines())
    for line in map(str.strip, lines):
        if line == _BEGIN:
            keyring.append(_dearmored(lines, what))
        elif line and not line.startswith("#"):
            listed.append(_checked(line, what))
    return Signers(ssh=tuple(listed), gpg=b"".join(keyring))


def _checked(line: str, what: str) -> str:
    found = _LINE.fullmatch(line) if len(line) <= _MAX_LINE else None
    if found is None or not _is_base64(found["key"]):
        raise InvalidInput(
            what,
            f"{line[:60]!r} is not a signer",
            "write 'NAME KEYTYPE KEY' as in allowed_signers of ssh-keygen, or a whole armored GPG public key",
        )
    return line


def _dearmored(lines: Iterator[str], what: str) -> bytes:
    """The rest of an armored block, whose lines it takes: headers, a blank line, base64, a checksum, the end."""
    block: list[str] = []
    for line in map(str.strip, lines):
        if line == _END:
            break
        block.append(line)
    else:
        block = []  # half a key is none
    body = block[block.index("") + 1 :] if "" in block else []
    try:
        found = base64.b64decode("".join(line for line in body if not line.startswith("=")), validate=True)
    except ValueError:
        found = b""
    if not found:
        raise InvalidInput(what, "has a GPG public key that cannot be read", "export it with gpg --armor --export")
    return found


def _is_base64(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) > 16
    except ValueError:
        return False
