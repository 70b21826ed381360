"""Refs on disk: a file each, or many at once in `packed-refs`, as git-pack-refs(1) has it.

A ref that is a file of its own costs two fsyncs, for ten thousand slices that move at once half a minute; the file that
names them all costs two together. A ref in both is what its own file says, so the order is

    packed-refs: written under a temporary name, fsync, rename → the refs' own files go

and a kill in between leaves a ref where it was, as one before both does. Assumes one writer at a time (`gitstore` holds
the lock). Next module: `gitstore`.
"""

from collections.abc import Mapping
from pathlib import Path

from hub import packs
from proto.ids import Oid

MANY = 50
"""From so many on `packed-refs` is written anew, with every ref that is in it already."""
_PACKED = "packed-refs"
_HEADER = "# pack-refs with: peeled fully-peeled sorted \n"


def write(repository: Path, refs: Mapping[str, Oid]) -> None:
    """Set `refs` (full name → commit). Durable on return."""
    if len(refs) >= MANY:
        _write_packed(repository, refs)
        return
    for name, commit in refs.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)  # git takes empty folders away when it packs refs
        # Not beside the ref: git would take the leftover of a kill for a broken ref.
        with packs.Unfinished(repository) as file:
            file.write(f"{commit}\n".encode())
            file.publish(repository / name)


def _write_packed(repository: Path, refs: Mapping[str, Oid]) -> None:
    every = {**_packed(repository), **refs}
    with packs.Unfinished(repository) as file:
        file.write(_HEADER.encode())
        file.write("".join(f"{commit} {name}\n" for name, commit in sorted(every.items())).encode())
        file.publish(repository / _PACKED)
    for name in refs:
        (repository / name).unlink(missing_ok=True)


def _packed(repository: Path) -> dict[str, Oid]:
    """What `packed-refs` has. Lines that begin with `#` or `^` tell of refs that are none of ours: tags."""
    try:
        lines = (repository / _PACKED).read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split(" ", 1) for line in lines if line and line[0] not in "#^")
    return {name: Oid(commit) for commit, name in pairs}
