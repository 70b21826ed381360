"""Whose slices are taken in: the signers in a file of the cluster's own, beside whatever a hub says.

The file is read anew for each slice, so that a key is changed without a restart: list both while it changes. A file
that cannot be read any more trusts nobody. Only the commit that is taken in has to be signed: its tree is all that is
applied. What was taken in before stays. `receive` asks for each commit, whichever way it came.
"""

from pathlib import Path

from proto import sshsig
from proto.errors import InvalidInput
from proto.sshsig import Signers, Unsigned


class SliceSigners:
    """The file at `path`, lines of OpenSSH's `allowed_signers`. Raises InvalidInput when it is not right."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read()

    def check(self, raw: bytes, *, thing: str) -> None:
        """Raises Unsigned about `thing` unless the raw commit is signed by a signer, InvalidInput for a broken file."""
        try:
            sshsig.check_commit(raw, self._read())
        except Unsigned as error:
            remedy = f"the hub signs with --slice-signing-key, and {self._path} lists that key"
            raise Unsigned(thing, error.cause, remedy) from error

    def _read(self) -> Signers:
        what = f"slice signers {self._path}"
        try:
            text = self._path.read_text("utf-8", "replace")
        except OSError as error:
            raise InvalidInput(what, f"cannot be read: {error.strerror}") from error
        return sshsig.read_signers(text, what=what)
