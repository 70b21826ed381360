"""One file of a fleet repo, or of a bundle's source, as it is listed: what it may be, and what else is said of it.

    a link, a submodule, a special file, one too deep    refused by its mode alone
    a name that leaves the folder, means Git's own       refused, and shown so that a terminal can bear it
    files or cannot be shown
    more bytes than the limit                            refused before it is read

Everything here may have been written by somebody hostile. Next: `sources` lists them, `unpack` writes a bundle's.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from proto.errors import InvalidInput

MAX_FILE_BYTES = 4 << 20
MAX_FILES = 20_000
MAX_BUNDLE_BYTES = 256 << 20
"""Of all files of one bundle: what a worker may write to its temporary folder."""
MAX_DEPTH = 64

FILE, EXECUTABLE, LINK, SUBMODULE, FOLDER = 0o100644, 0o100755, 0o120000, 0o160000, 0o040000
"""Git's modes."""
SPECIAL = 0
"""A socket, pipe or device: cannot be in Git, but in a checkout."""
TOO_DEEP = 1
"""A folder that lies too deep to be looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file as it was listed; `path` is relative to the folder, surrogates stand for bytes that are not UTF-8.
    Nothing of it is read before `size` (in bytes) or `read` is called."""

    path: str
    mode: int
    size: Callable[[], int] = int
    read: Callable[[], bytes] = bytes

    @property
    def is_file(self) -> bool:
        """Whether it is a file, or a link."""
        return self.mode not in (SUBMODULE, SPECIAL, TOO_DEEP)


def is_safe(path: str) -> bool:
    """Pure: whether a file of a bundle may be called so: nothing that leaves its folder, means Git's own files, or
    cannot be shown."""
    parts = path.split("/")
    return (
        all(part not in ("", ".", "..") and part.lower() != ".git" for part in parts)
        and path.isprintable()
        and "\\" not in path
    )


def shown(path: str) -> str:
    """Pure: `path` as a message may hold it: bytes that are not UTF-8 and control characters as `\\x..`."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:300] or "fleet repo"


def below(folder: str, path: str) -> str:
    """Pure: a path in a folder, "" being the fleet repo itself."""
    return f"{folder}/{path}" if folder else path


def too_large(path: str, size: int) -> InvalidInput:
    """Pure: what to say of a file beyond the limit."""
    return InvalidInput(
        shown(path), f"has {size} bytes, the limit is {MAX_FILE_BYTES}", "keep large files outside the fleet repo"
    )


def refusal(file: File, path: str) -> InvalidInput:
    """Pure: what to say of a file that no bundle may hold, and that cannot be a fleet file."""
    path = shown(path)
    if file.mode == SUBMODULE:
        remedy = "copy its files, without .git, into its place"
        return InvalidInput(path, "is a Git submodule, or a repository of its own", remedy)
    if file.mode == SPECIAL:
        return InvalidInput(path, "is neither a file nor a folder", "remove it")
    if file.mode == TOO_DEEP:
        return InvalidInput(path, f"is more than {MAX_DEPTH} folders deep", "move it up")
    if ".git" in file.path.lower().split("/"):
        return InvalidInput(path, "is part of a Git repository inside the bundle's folder", "remove the inner .git")
    return InvalidInput(path, "is not a valid name of a file", "rename it: UTF-8, no '..', no control characters")
