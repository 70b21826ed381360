"""Who may sign commits of the fleet repo, as people write it down.

Signers are text: lines of OpenSSH's `allowed_signers` (`ada@example.org ssh-ed25519 AAAA…`) and armored GPG public
keys, mixed at will. Next: `signatures` holds a commit against them.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from proto.errors import InvalidInput

MAX_SIGNERS_BYTES = 4 << 20

_PGP = re.compile(
    r"^-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*$(.*?)^-----END PGP PUBLIC KEY BLOCK-----[ \t\r]*$",
    re.DOTALL | re.MULTILINE,
)
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
    keyring = b"".join(_dearmored(block[1], what) for block in _PGP.finditer(text))
    lines: list[str] = []
    for line in _PGP.sub("", text).splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped) if len(stripped) <= _MAX_LINE else None
        if found is None or not _is_base64(found["key"]):
            raise InvalidInput(
                what,
                f"{stripped[:60]!r} is not a signer",
                "write 'NAME KEYTYPE KEY' as in allowed_signers of ssh-keygen, or a whole armored GPG public key",
            )
        lines.append(stripped)
    return Signers(ssh=tuple(lines), gpg=keyring)


def _dearmored(block: str, what: str) -> bytes:
    """What is between the lines of an armored block: headers, a blank line, base64, a checksum."""
    _, _, body = block.replace("\r", "").partition("\n\n")
    text = "".join(line.strip() for line in body.splitlines() if not line.startswith("="))
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        found = b""
    if not found:
        raise InvalidInput(what, "has a GPG public key that cannot be read", "export it with gpg --armor --export")
    return found


def _is_base64(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) > 16
    except binascii.Error:
        return False
