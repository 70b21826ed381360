"""Git packs as files: which there are, which to merge, and how one goes. `proto.packs` has the bytes.

A pack exists for its readers from the moment its `.idx` has its name: `proto.packfile` writes that last, and here it is
unlinked first, so a pack appears whole and goes whole,

    unlink .idx → unlink .pack

and a kill at any point leaves at most files that no reader looks at, which `sweep` removes. Assumes one writer at a
time. Next: `slices.gitstore`, which holds the lock; `repo.upkeep` of the mirror.
"""

import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pygit2

from proto import packfile
from proto.errors import FlotillaError, Permanent, Transient
from proto.ids import Oid
from proto.packfile import UNFINISHED as UNFINISHED
from proto.packfile import Unfinished as Unfinished
from proto.packfile import sync_folder as sync_folder
from proto.packfile import write as write
from proto.packs import INDEX_MAGIC, INDEX_OIDS_AT
from proto.packs import Placed as Placed
from proto.packs import entry as entry
from proto.packs import index as index
from proto.packs import stream as stream

_DOOMED = "flotilla.doomed"
"""The names of packs that are on their way out, together."""


def to_merge(sizes: Sequence[int]) -> int:
    """Pure: how many of the smallest packs to merge into one; `sizes` ascend.

    Afterwards each pack is at least twice as large as the one before it, so that few remain and a large pack is
    rewritten only when as much has come since. The rule is that of `git repack --geometric=2`.
    """
    split = next((i + 1 for i in range(len(sizes) - 1, 0, -1) if sizes[i] < 2 * sizes[i - 1]), 0)
    merged = sum(sizes[:split])
    while 0 < split < len(sizes) and sizes[split] < 2 * merged:
        merged += sizes[split]
        split += 1
    return split


def packs(folder: Path) -> list[Path]:
    """The paths of all `.pack` files that readers see, smallest first."""
    found = [idx.with_suffix(".pack") for idx in folder.glob("pack-*.idx")]
    return sorted((pack for pack in found if pack.exists()), key=lambda pack: (pack.stat().st_size, pack.name))


def oids(pack: Path) -> Iterator[Oid]:
    """The ids of all objects in a pack, from its index. Raises Permanent when that is not one."""
    data = pack.with_suffix(".idx").read_bytes()
    if not data.startswith(INDEX_MAGIC) or len(data) < INDEX_OIDS_AT:
        raise Permanent(f"pack index {pack.stem}", "is not a version 2 index", "run 'git fsck' on its repository")
    (count,) = struct.unpack_from(">I", data, INDEX_OIDS_AT - 4)
    for at in range(INDEX_OIDS_AT, INDEX_OIDS_AT + 20 * count, 20):
        yield Oid(data[at : at + 20].hex())


def remove(pack: Path) -> None:
    """Take a pack away, first from its readers' sight. Its objects have to be in another pack that is durable."""
    pack.with_suffix(".idx").unlink(missing_ok=True)
    for file in pack.parent.glob(f"{pack.stem}.*"):
        file.unlink(missing_ok=True)


def remove_all(folder: Path, doomed: Collection[Path]) -> None:
    """Take packs away together, though some of their objects are in no other: none is left once the first is gone.

    A tree that stays while the files below it go would be taken for a whole subtree; so the list of names is durable
    first, and `sweep` goes on with it after a kill.
    """
    if doomed:
        with Unfinished(folder) as file:
            file.write("".join(f"{pack.name}\n" for pack in doomed).encode())
            file.publish(folder / _DOOMED)
        _remove_doomed(folder)


def _remove_doomed(folder: Path) -> None:
    listed = folder / _DOOMED
    if listed.exists():
        for name in listed.read_text().splitlines():
            remove(folder / name)
        sync_folder(folder)
        listed.unlink()


def sweep(folder: Path) -> None:
    """Remove what a killed writer left behind, and make sure that what is there will still be after a power cut."""
    _remove_doomed(folder)
    packfile.sweep(folder)
    for pack in folder.glob("pack-*.pack"):
        if not pack.with_suffix(".idx").exists():
            pack.unlink(missing_ok=True)
    sync_folder(folder)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Maps what the disk of the repository at `path` says: full or failing may pass, so it is Transient."""
    try:
        yield
    except FlotillaError:
        raise
    except (OSError, pygit2.GitError) as error:
        raise Transient(
            f"slice repository {path}", f"cannot be written: {error}", "see that its disk has room"
        ) from error
