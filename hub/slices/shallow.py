"""Pure: shallow fetches: which commits a client gets that wants only the newest of a history, or has only those.

A *shallow* commit is one whose parents the client does not have. Slices have one parent at most, so a history is a
line, and with `depth` the client gets its first `depth` commits. Source: gitprotocol-pack(5). Next: `git_http`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from proto.ids import Oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The commits to send, and which commits become shallow for the client or are so no longer."""

    commits: tuple[Oid, ...] = ()
    shallow: tuple[Oid, ...] = ()
    unshallow: tuple[Oid, ...] = ()


def cut(
    wants: Iterable[Oid],
    haves: Iterable[Oid],
    *,
    depth: int,
    relative: bool = False,
    shallow: Collection[Oid],
    history: Callable[[Oid], Iterator[Oid]],
) -> Cut:
    """Pure: what a client gets whose commits `shallow` lack their parents; `depth` 0 leaves those as they are. A
    `relative` depth begins behind them.

    `history` gives a commit and its ancestors, newest first.
    """
    had = {commit for have in haves for commit in _until(history(have), shallow)}
    window: dict[Oid, None] = {}
    edges: dict[Oid, None] = {}
    for want in wants:
        if not depth:
            window.update(dict.fromkeys(_until(history(want), shallow)))
            continue
        line = history(want)
        seen = list(_until(line, shallow)) if relative else []
        kept = len(seen) + depth
        seen.extend(islice(line, depth + 1))
        window.update(dict.fromkeys(seen[:kept]))
        if len(seen) > kept:
            edges[seen[kept - 1]] = None
    return Cut(
        commits=tuple(commit for commit in window if commit not in had),
        shallow=tuple(commit for commit in edges if commit not in shallow),
        unshallow=tuple(commit for commit in shallow if depth and commit in window and commit not in edges),
    )


def _until(line: Iterator[Oid], last: Collection[Oid]) -> Iterator[Oid]:
    for commit in line:
        yield commit
        if commit in last:
            return
