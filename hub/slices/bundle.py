"""A cluster's slice as a `git bundle` file, for a cluster without a network.

A bundle stands alone, with the history since the last checkpoint, or goes on from a slice that the other side has. Its
objects are whole, as `git_http` sends them. Everything blocks. `proto.git_bundle` has the format; `cli.bundles` and
`api.bundles` are next.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hub import packs
from hub.slices.gitstore import GitStore
from proto import git_bundle
from proto.errors import InvalidInput
from proto.ids import Oid, slice_ref

_SHORTEST_ID: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What goes into a bundle of the slice `seq`; `since_seq` is 0 when it stands alone."""

    seq: int
    since_seq: int
    head: bytes
    oids: tuple[Oid, ...]

    def pieces(self, store: GitStore) -> Iterator[bytes]:
        """The bytes of the file. Raises Permanent when an object is missing or broken."""
        yield self.head
        yield from packs.stream((store.entry(oid) for oid in self.oids), count=len(self.oids))


def export(store: GitStore, cluster: str, *, tip: Oid, since: str = "", history: bool = False) -> Export:
    """The slice of `cluster` at `tip`; `since` names a slice that the other side has: its number or commit. With
    `history`, and without `since`, what checkpoints cut off comes along as far as it is kept.

    Raises InvalidInput when there is no such slice, or nothing after it.
    """
    seq = store.manifest(tip).seq
    base = _named(store, cluster, tip, since) if since else None
    if base == tip:
        raise InvalidInput(f"slice of cluster {cluster}", f"has nothing after #{seq}, which is its newest")
    bases = () if base is None else (base,)
    everything = history and base is None
    return Export(
        seq=seq,
        since_seq=0 if base is None else store.manifest(base).seq,
        head=git_bundle.write_header(ref=slice_ref(cluster), commit=tip, prerequisites=bases),
        oids=tuple(store.objects_of(store.whole_history(tip), ()) if everything else store.missing((tip,), bases)),
    )


def _named(store: GitStore, cluster: str, tip: Oid, name: str) -> Oid:
    """The slice of that number or commit, from `tip` back to the last checkpoint."""
    number = name.removeprefix("#")
    for commit in store.history(tip):
        if number.isdecimal() and len(number) < 10 and store.manifest(commit).seq == int(number):
            return commit
        if len(name) >= _SHORTEST_ID and commit.startswith(name.lower()):
            return commit
    raise InvalidInput(
        f"slice of cluster {cluster}",
        f"has no {name[:50]!r} between its newest, #{store.manifest(tip).seq}, and its last checkpoint",
        "see 'flotilla slice log', or export the whole slice without --since",
    )
