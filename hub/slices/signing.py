"""The key that slice commits are signed with, read once when the hub starts. `proto.sshsig` does the signing."""

import os
from pathlib import Path

from proto.errors import InvalidInput
from proto.sshsig import CommitSigner

MAX_KEY_BYTES = 16 << 10


def load(path: Path) -> CommitSigner:
    """The Ed25519 SSH key without a passphrase in `path`. Raises InvalidInput, never quoting the file."""
    thing = f"slice signing key {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            text = file.read(MAX_KEY_BYTES).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(thing, f"cannot be read: {getattr(error, 'strerror', 'it is no text')}") from error
    if mode & 0o007:
        raise InvalidInput(
            thing,
            f"is open to every user (mode {mode:04o}), so it may have been copied",
            f"run 'chmod 600 {path}', or give the Secret's volume defaultMode 0400",
        )
    return CommitSigner.read(text, what=thing)
