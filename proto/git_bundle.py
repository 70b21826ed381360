"""The header of a `git bundle` file: which refs its pack brings, and which commits its reader must have already.

    # v2 git bundle
    -<commit> [subject]        prerequisites, none in a bundle that stands alone
    <commit> <ref>             what it brings
                               an empty line, then the pack

Format: gitformat-bundle(5). Version 3 is read as far as it says the same; we write version 2, which every git reads.
Pure. `packs` reads what follows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proto.errors import ProtocolError, UnsupportedVersion
from proto.ids import Oid, is_oid
from proto.packs import Broken

MAX_HEADER_BYTES: Final = 1 << 20
"""Ten thousand refs of a hundred bytes each."""

_V2: Final = b"# v2 git bundle\n"
_V3: Final = b"# v3 git bundle\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`refs` maps names to commits; the pack begins at `pack_at`."""

    refs: dict[str, Oid]
    prerequisites: tuple[Oid, ...]
    pack_at: int


def write_header(*, ref: str, commit: Oid, prerequisites: Iterable[Oid]) -> bytes:
    """Pure: the header of a bundle of one ref, which is its HEAD too: without one `git clone` checks nothing out."""
    needed = "".join(f"-{oid}\n" for oid in prerequisites)
    return _V2 + f"{needed}{commit} {ref}\n{commit} HEAD\n\n".encode()


def read_header(data: bytes) -> Header:
    """Pure: the header of a bundle that begins with `data`. Raises Broken, UnsupportedVersion or ProtocolError."""
    head = data[:MAX_HEADER_BYTES]
    if not head.startswith((_V2, _V3)):
        if _V2.startswith(head) or _V3.startswith(head):
            raise Broken("git bundle", "is cut off")
        raise ProtocolError("file", "is no git bundle", "make one with 'flotilla bundle export' or 'git bundle create'")
    end = head.find(b"\n\n")
    if end < 0:
        if len(data) < MAX_HEADER_BYTES:
            raise Broken("git bundle", "is cut off")
        raise ProtocolError("git bundle", f"has a header of over {MAX_HEADER_BYTES} bytes")
    refs: dict[str, Oid] = {}
    needed: list[Oid] = []
    for line in head[len(_V2) : end + 1].decode("utf-8", "replace").splitlines():
        if line.startswith("@"):
            if not head.startswith(_V3) or line != "@object-format=sha1":
                raise UnsupportedVersion("git bundle", f"asks for {line[:60]!r}", "make it without that option")
            continue
        needs = line.startswith("-")
        oid, _, name = line.removeprefix("-").partition(" ")
        if not is_oid(oid) or not (needs or name):
            raise ProtocolError("git bundle", f"has {line[:60]!r} in its header")
        if needs:
            needed.append(Oid(oid))
        else:
            refs[name] = Oid(oid)
    return Header(refs=refs, prerequisites=tuple(needed), pack_at=end + 2)
