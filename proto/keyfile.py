"""Where either half keeps a secret of its own: one file of 32 bytes in base64, made once, never silently made anew.

A key that comes back different locks agents out of their hub, so a file that is there but cannot be used is an error
for a person, never a reason for a new key. The file appears whole or not at all, and two processes that create it at
one moment end with the same key.
"""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proto.errors import InvalidInput, Transient
from proto.identity import KEY_BYTES, b64, unb64


def load_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """The key in `path`, made with `make` when there is none.

    Raises InvalidInput when the file cannot be used, Transient when a new one cannot be written.
    """
    try:
        return load(path)
    except FileNotFoundError:
        write_once(path, b64(make()).encode() + b"\n")
        return load(path)


def load(path: Path) -> bytes:
    """The key in `path`. Raises FileNotFoundError, or InvalidInput when it is open to others, corrupt or unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidInput(
            f"key file {path}", f"cannot be read: {error.strerror}", "it has to be a plain file of this user"
        ) from error
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode & 0o777
        if mode & 0o007:
            raise InvalidInput(
                f"key file {path}",
                f"is open to every user (mode {mode:04o}), so it may have been copied",
                f"run 'chmod 600 {path}', or restore the key from a backup if others use this machine",
            )
        if mode & 0o070 and os.fstat(descriptor).st_uid == os.geteuid():
            # A Kubernetes volume with an fsGroup opens every file to the group at each mount.
            os.fchmod(descriptor, 0o600)
        data = file.read(4096)
    try:
        key = unb64(data.decode("ascii").strip())
    except (InvalidInput, UnicodeDecodeError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput(
            f"key file {path}",
            f"is corrupt: it does not hold {KEY_BYTES} bytes in base64",
            "restore it from a backup; a new key would lock out whoever trusts the old one",
        )
    return key


def write_once(path: Path, data: bytes) -> None:
    """Create `path` (mode 0600) with `data`, durably; leave it as it is when it exists by then. Raises Transient."""
    temporary = _written_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise _not_kept(path, error) from error
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Put `data` into `path` (mode 0600), durably: after a crash it is the old content or the new. Raises Transient."""
    temporary = _written_beside(path, data)
    try:
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink()
        raise _not_kept(path, error) from error
    _sync_folder(path.parent)


def _written_beside(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _not_kept(path, error) from error
    return temporary


def _not_kept(path: Path, error: OSError) -> Transient:
    return Transient(f"file {path}", f"cannot be written: {error.strerror}", "give the folder space and write access")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
