"""Commits signed with SSH keys, as git writes and reads them: a `gpgsig` header with an SSHSIG of namespace `git`.

Only Ed25519: its signatures follow from key and text alone, so equal journals still give equal commit ids. Formats:
OpenSSH's PROTOCOL.sshsig and PROTOCOL.key, ssh-keygen(1) ALLOWED SIGNERS. Which signature counts:

    one `gpgsig` header with one armored SSHSIG, version 1, namespace git, sha512 or sha256      else: none, or broken
    made over all the rest of the commit, byte by byte                                           else: does not fit
    with a key that is listed, for a namespace that has `git` in it                              else: not a signer

Names of signers are for people; no clock is asked, so lists with times of validity are refused as a whole. Pure.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Self

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from proto.errors import InvalidInput, ProtocolError

MAX_SIGNATURE_BYTES: Final = 64 << 10
MAX_SIGNERS_BYTES: Final = 1 << 20

_ED25519: Final = b"ssh-ed25519"
_NAMESPACE: Final = b"git"
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_MAGIC: Final = b"SSHSIG"
_BEGIN: Final = b"-----BEGIN SSH SIGNATURE-----\n"
_END: Final = b"-----END SSH SIGNATURE-----\n"
_LINE_BYTES: Final = 70
_KEY_BEGIN: Final = "-----BEGIN OPENSSH PRIVATE KEY-----"
_KEY_END: Final = "-----END OPENSSH PRIVATE KEY-----"
_KEY_MAGIC: Final = b"openssh-key-v1\0"
_OPTION: Final = r'(?:[^\s,"]|"[^"]*")+'
_LISTED: Final = re.compile(
    rf'(?P<names>"[^"]*"|\S+)\s+(?:(?P<options>{_OPTION}(?:,{_OPTION})*)\s+)?'
    r"ssh-ed25519\s+(?P<key>[A-Za-z0-9+/]+={0,2})(?:\s.*)?"
)

Signers = Mapping[bytes, str]
"""Public key → its name, of those whose signatures count."""


class Unsigned(ProtocolError):
    """A commit has no signature that counts."""


# --- commits ------------------------------------------------------------------------------------------------------


def split(raw: bytes) -> tuple[bytes, bytes]:
    """Pure: the signature of a raw commit (b"" when it has none) and what it signs: all the rest, byte by byte.

    Raises InvalidInput for a commit of several signatures: nobody could say which one counts.
    """
    head, blank, message = raw.partition(b"\n\n")
    kept: list[bytes] = []
    found: list[list[bytes]] = []
    inside = False
    for line in head.split(b"\n"):
        if line.startswith(b"gpgsig "):
            inside = True
            found.append([line.removeprefix(b"gpgsig ")])
        elif inside and line.startswith(b" "):
            found[-1].append(line[1:])
        else:
            inside = False
            kept.append(line)
    if len(found) > 1:
        raise InvalidInput("commit", "has several signatures")
    return b"".join(line + b"\n" for line in found[0]) if found else b"", b"\n".join(kept) + blank + message


@dataclass(frozen=True, slots=True, repr=False)
class CommitSigner:
    """A key that commits are signed with."""

    key: SigningKey

    @classmethod
    def read(cls, text: str, *, what: str) -> Self:
        """Pure: the private key in `text`, as ssh-keygen writes it. Raises InvalidInput, never quoting the text."""
        try:
            seed = _seed(text)
        except (ValueError, IndexError, struct.error) as error:
            raise InvalidInput(
                what,
                "has no Ed25519 key without a passphrase",
                "make one with: ssh-keygen -t ed25519 -N '' -C flotilla-slices -f FILE",
            ) from error
        return cls(SigningKey(seed))

    @property
    def public_key(self) -> str:
        """As `.pub` files and lists of signers have it."""
        return f"ssh-ed25519 {base64.b64encode(_public_blob(bytes(self.key.verify_key))).decode()}"

    def sign(self, raw: bytes) -> bytes:
        """Pure: the raw commit with its signature, the same for the same commit."""
        head, blank, message = raw.partition(b"\n\n")
        lines = self._armored(raw).removesuffix(b"\n").replace(b"\n", b"\n ")
        return head + b"\ngpgsig " + lines + blank + message

    def _armored(self, payload: bytes) -> bytes:
        signature = self.key.sign(_signed(payload, b"", b"sha512")).signature
        blob = _MAGIC + struct.pack(">I", 1)
        for part in (
            _public_blob(bytes(self.key.verify_key)),
            _NAMESPACE,
            b"",
            b"sha512",
            _string(_ED25519) + _string(signature),
        ):
            blob += _string(part)
        text = base64.b64encode(blob)
        lines = [text[at : at + _LINE_BYTES] for at in range(0, len(text), _LINE_BYTES)]
        return _BEGIN + b"".join(line + b"\n" for line in lines) + _END


def check_commit(raw: bytes, signers: Signers) -> str:
    """Pure: the name of the signer of a raw commit. Raises Unsigned, whose cause ends a sentence about the commit."""
    try:
        signature, payload = split(raw)
    except InvalidInput as error:
        raise Unsigned("commit", error.cause) from error
    if not signature:
        raise Unsigned("commit", "is not signed")
    try:
        public, algorithm, reserved, made = _dearmored(signature)
    except (ValueError, IndexError, struct.error) as error:
        raise Unsigned("commit", "has a signature that is none of an SSH Ed25519 key for git") from error
    try:
        VerifyKey(public).verify(_signed(payload, reserved, algorithm), made)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise Unsigned("commit", f"does not fit its signature by {fingerprint(public)}: it was changed") from error
    if public not in signers:
        raise Unsigned("commit", f"is signed by {fingerprint(public)}, which is no trusted signer")
    return signers[public]


def fingerprint(public: bytes) -> str:
    """Pure: as `ssh-keygen -l` says it."""
    digest = hashlib.sha256(_public_blob(public)).digest()
    return f"SHA256:{base64.b64encode(digest).rstrip(b'=').decode()}"


# --- who counts ---------------------------------------------------------------------------------------------------


def read_signers(text: str, *, what: str) -> Signers:
    """Pure: the signers that an `allowed_signers` file lists. Raises InvalidInput for a line that is none that can be
    honoured, and when there is none."""
    if len(text) > MAX_SIGNERS_BYTES:
        raise InvalidInput(what, f"has over {MAX_SIGNERS_BYTES} bytes", "list the signers of slices only")
    found: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        listed = _LISTED.fullmatch(line) if len(line) < 10_000 else None
        where = f"{what}, line {number}"
        if listed is None:
            raise InvalidInput(where, "is no signer", "write 'NAME ssh-ed25519 KEY': slices are signed with such keys")
        try:
            public = _public(base64.b64decode(listed["key"], validate=True))
        except (ValueError, IndexError, struct.error) as error:
            raise InvalidInput(where, "has a key that is cut off or changed", "copy the .pub file anew") from error
        if _for_git(listed["options"] or "", where):
            found.setdefault(public, listed["names"].strip('"'))
    if not found:
        raise InvalidInput(what, "names nobody who may sign for git", "write 'NAME ssh-ed25519 KEY'")
    return found


def _for_git(options: str, where: str) -> bool:
    for option in re.findall(_OPTION, options):
        name, _, value = option.partition("=")
        if name.lower() != "namespaces":
            raise InvalidInput(where, f"has the option {name[:40]!r}, which cannot be honoured here", "leave it out")
        patterns = value.strip('"').split(",")
        wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
        refused = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
        if _matches(refused) or not _matches(wanted):
            return False
    return True


def _matches(patterns: list[str]) -> bool:
    return any(fnmatchcase(_NAMESPACE.decode(), pattern.strip()) for pattern in patterns)


# --- bytes: raise ValueError, IndexError or struct.error for what they are not ----------------------------------------


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes) -> Iterator[bytes]:
    """The strings that `data` is made of, to its very end."""
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        at += 4 + size
        if at > len(data):
            raise ValueError("ends in the middle")
        yield data[at - size : at]


def _public_blob(public: bytes) -> bytes:
    return _string(_ED25519) + _string(public)


def _public(blob: bytes) -> bytes:
    kind, public = _strings(blob)
    if kind != _ED25519 or len(public) != 32:
        raise ValueError("no Ed25519 key")
    return public


def _signed(payload: bytes, reserved: bytes, algorithm: bytes) -> bytes:
    """What the key signs: not the text, but its hash and what it is for."""
    digest = _HASHES[algorithm](payload).digest()
    return _MAGIC + _string(_NAMESPACE) + _string(reserved) + _string(algorithm) + _string(digest)


def _dearmored(armored: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """(public key, hash algorithm, reserved, signature) of an armored SSHSIG."""
    if len(armored) > MAX_SIGNATURE_BYTES or not (armored.startswith(_BEGIN) and armored.endswith(_END)):
        raise ValueError("no armor")
    blob = base64.b64decode(armored[len(_BEGIN) : -len(_END)].replace(b"\n", b""), validate=True)
    if not blob.startswith(_MAGIC + struct.pack(">I", 1)):
        raise ValueError("no SSHSIG of version 1")
    public, namespace, reserved, algorithm, signature = _strings(blob[len(_MAGIC) + 4 :])
    kind, made = _strings(signature)
    if namespace != _NAMESPACE or algorithm not in _HASHES or kind != _ED25519 or len(made) != 64:
        raise ValueError("not for git, or not of Ed25519")
    return _public(public), algorithm, reserved, made


def _seed(text: str) -> bytes:
    """The 32 bytes of a private key in OpenSSH's format, without a passphrase."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if lines[0] != _KEY_BEGIN or lines[-1] != _KEY_END:
        raise ValueError("no armor")
    blob = base64.b64decode("".join(lines[1:-1]), validate=True)
    if not blob.startswith(_KEY_MAGIC):
        raise ValueError("no key")
    rest = blob[len(_KEY_MAGIC) :]
    found: list[bytes] = []
    for _ in range(3):
        (size,) = struct.unpack_from(">I", rest)
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    (count,) = struct.unpack_from(">I", rest)
    if found != [b"none", b"none", b""] or count != 1:
        raise ValueError("a passphrase, or several keys")
    public, private = _strings(rest[4:])
    first, second = struct.unpack_from(">II", private)
    kind_size, key_size = struct.unpack_from(">I", private, 8)[0], 32
    at = 12 + kind_size + 4 + key_size + 4
    seed, doubled = private[at : at + 32], private[at + 32 : at + 64]
    if first != second or _public(public) != doubled or bytes(SigningKey(seed).verify_key) != doubled:
        raise ValueError("broken")
    return seed
