"""What a process that handles strangers' files may still do: no network, and no file but those that it is given.

Charts, kustomizations and YAML come from many hands, and the code that reads them (Helm's, Kustomize's, libyaml's) is
not ours. So the worker that runs it gives up its rights first, for good, and for every program that it starts:

| by                    | what it gives up                                                                            |
|-----------------------|---------------------------------------------------------------------------------------------|
| Landlock (Linux 5.13) | all files but those of a `Room`; from ABI 4 on TCP, from 6 on signals to others             |
| a seccomp filter      | `socket`, and what gets around it: io_uring, other processes' memory and descriptors, the   |
|                       | system calls of another architecture                                                        |

Both work without privileges and in a container under `restricted` pod security, where namespaces of one's own usually
do not. Where the kernel has one of them only, that one is used; `lacks` tries what should be impossible, and says in
words what is not. Knows nothing of rendering. Next: `worker_child`, which enters the room before its first call.
"""

import ctypes
import os
import platform
import shutil
import socket
import ssl
import struct
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hub
import proto

_libc = ctypes.CDLL(None, use_errno=True)

# --- Landlock: linux/landlock.h ---------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls, the same on every architecture."""
_ABI_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15
"""Those that a rule about a file, not a folder, may give."""
_FS_RIGHTS: Mapping[int, int] = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
"""By the ABI that brought them: reading and writing, moving between folders, truncating, ioctl of devices."""
_TCP_ABI, _TCP = 4, 0b11
_SCOPE_ABI, _SCOPE = 6, 0b11
"""Abstract UNIX sockets and signals."""

# --- seccomp: linux/seccomp.h, linux/filter.h, linux/audit.h ----------------------------------------------------------

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 13  # the latter with EACCES
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32 = 0x40000000
"""Numbers from here on are x86-64's second set of system calls."""
_BOTH = (425, 438)
"""io_uring_setup, pidfd_getfd"""
_ARCHITECTURES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, (41, 101, 310, 311, *_BOTH)),
    "aarch64": (0xC00000B7, (198, 117, 270, 271, *_BOTH)),
}
"""The architecture's number in audit; then socket, ptrace, process_vm_readv, process_vm_writev, and `_BOTH`."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/gnu/store", "/etc/ld.so.cache")
_SETTINGS = ("/etc/gitconfig", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/localtime")
"""Programs and their libraries; files of settings that those take amiss when they are there and not readable."""
_PROGRAMS = ("helm", "kustomize", "kubectl")
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The files that are left: read with all that is below, listed without being read, or written."""

    reads: tuple[Path, ...]
    lists: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()


def room(reads: Iterable[Path], *, writes: Iterable[Path]) -> Room:
    """What this interpreter and its programs need, and beside it `reads` and `writes`.

    Of a folder on `sys.path` that is not Python's own only the packages of Flotilla are read: it may be a checkout,
    with anything beside them.
    """
    found = [Path(sys.prefix), Path(sys.base_prefix), *map(Path, sysconfig.get_paths().values())]
    found += [Path(folder) for package in (hub, proto) for folder in package.__path__]
    found += [Path(where).resolve() for name in _PROGRAMS if (where := shutil.which(name))]
    trusted = ssl.get_default_verify_paths()
    found += [Path(where) for where in (trusted.cafile, trusted.capath) if where]
    found += [*map(Path, (*_SYSTEM, *_SETTINGS)), Path("/proc/self")]
    return Room(
        reads=(*dict.fromkeys(found), *reads),
        lists=tuple(Path(entry) for entry in sys.path if entry),
        writes=(*map(Path, _DEVICES), *writes),
    )


def environment(whole: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """Pure: what of an environment is left: what a program needs to run, and no token that it was given."""
    kept = {name: value for name, value in whole.items() if name in _ENVIRONMENT}
    return {**kept, "HOME": str(home), "TMPDIR": str(home)}


def enter(room: Room) -> None:
    """Give up everything but `room`, as far as this kernel can; for good. Only with a single thread."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _enter_landlock(room)
    _enter_seccomp()


def lacks(hidden: Sequence[Path]) -> tuple[str, ...]:
    """In a process that has entered a room: what it can do all the same, in words; () when it is closed.

    `hidden` are files that it must not be able to read.
    """
    found = []
    for path in hidden:
        try:
            path.open("rb").close()
        except OSError:
            continue
        what = "the kernel lacks Landlock" if _landlock_abi() < 1 else "it lies beside Flotilla's own code"
        found.append(f"renders can read {path}: {what}")
        break
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError:
        pass
    else:
        found.append("renders have network: the kernel lacks seccomp filters")
    return tuple(found)


def _landlock_abi() -> int:
    return int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ABI_VERSION)))


def _enter_landlock(room: Room) -> None:
    abi = _landlock_abi()
    if abi < 1:
        return
    handled = sum(rights for since, rights in _FS_RIGHTS.items() if since <= abi)
    attributes = struct.pack("Q", handled)
    if abi >= _TCP_ABI:
        attributes += struct.pack("Q", _TCP)
    if abi >= _SCOPE_ABI:
        attributes += struct.pack("Q", _SCOPE)
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return
    for paths, rights in ((room.reads, _READ), (room.lists, _READ_DIR), (room.writes, handled)):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    _libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """A path that is not there needs no rule."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not path.is_dir():
        rights &= _FILE_RIGHTS
    _libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), struct.pack("=Qi", rights, fd), 0)
    if not path.is_relative_to("/proc"):
        os.close(fd)  # procfs forgets a folder that nobody holds, and the rule with it


def _enter_seccomp() -> None:
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.maxsize < 1 << 32:
        return
    architecture, refused = _ARCHITECTURES[machine]
    filter_ = _filter(architecture, refused)
    buffer = ctypes.create_string_buffer(filter_, len(filter_))
    program = struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)


def _filter(architecture: int, refused: Sequence[int]) -> bytes:
    """Pure: the filter as BPF: (code, jump if true, jump if false, value); a struct seccomp_data is number,
    architecture, …"""
    last = len(refused) + 5  # the index of the refusal
    rows = [(_LOAD, 0, 0, 4), (_EQUAL, 0, last - 2, architecture), (_LOAD, 0, 0, 0), (_AT_LEAST, last - 4, 0, _X32)]
    rows += [(_EQUAL, last - 1 - at, 0, number) for at, number in enumerate(refused, start=4)]
    rows += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("HBBI", *row) for row in rows)
