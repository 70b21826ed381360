"""After a restored backup: the journal catches up with what agents were told since, and nothing moves by itself.

A hub does not start while a ref is ahead of its row in the journal (`loop.publish_all`): deciding from there would
give a cluster a second slice with a number that it has already. The slice commits themselves are whole, so the journal
learns from them, and forgets nothing that it still has:

| what                                | becomes                                                                       |
|-------------------------------------|-------------------------------------------------------------------------------|
| a ref ahead of its row              | its commits are moves of the journal, in their order; the row is where it is   |
| a rollout that was under way        | aborted, its bundles on hold: it may have ended long ago, one way or the other |
| what a cluster had since, and left  | on hold: it was rolled back there, or something newer followed                 |
| numbers of rollouts since           | are never given again                                                          |
| a ref that is behind                | nothing: the hub copies it when it starts                                      |

A hold is released when its bundle is wanted otherwise, or by a person. What only the journal knew is gone: approvals,
events, agents that joined since. One transaction; repeating it changes nothing. Blocks. Next: the hub's start.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hub import record
from hub.journal import (
    NUMBERS,
    Decision,
    EventRow,
    HoldRow,
    Journal,
    MoveRow,
    RolloutRow,
    SliceRow,
    StoredRollout,
    Word,
)
from hub.rollout import waves
from hub.slices.gitstore import GitStore
from hub.state import FINAL, Phase, State
from proto.errors import Permanent
from proto.ids import BundleName, ClusterName, Oid, RolloutId


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What was, or would be, taken over: per cluster the last slice that the journal knew and the one it knows now; the
    rollouts that ended, and the bundles on hold."""

    clusters: Mapping[ClusterName, tuple[int, int]]
    ended: tuple[RolloutId, ...]
    held: tuple[BundleName, ...]

    def __bool__(self) -> bool:
        return bool(self.clusters)


def recover(
    journal: Journal, store: GitStore, *, actor: str, reason: str, now: float, dry_run: bool = False
) -> Recovery:
    """Let the journal catch up with the refs of `store`; with `dry_run` only say what would be done.

    Raises Permanent when a ref and its row have gone separate ways: then a hub ran between backup and restore, and
    somebody has to choose which of the two is true.
    """
    rows = journal.slices()
    moves: dict[ClusterName, list[MoveRow]] = {}
    for cluster in store.clusters():
        if ahead := list(_ahead(store, cluster, rows.get(cluster))):
            moves[cluster] = ahead
    if not moves:
        return Recovery(clusters={}, ended=(), held=())
    stored = journal.rollouts(alive=True, limit=100_000)
    states = [record.restored(row) for row in stored]
    ended = [state for state in states if state.phase not in FINAL]
    why = f"recovered by {actor}: {reason}"
    holds = {**_left(rows, moves, why=why, now=now), **_interrupted(ended, why=why, now=now)}
    found = Recovery(
        clusters={
            cluster: (rows[cluster].seq if cluster in rows else 0, ahead[-1].seq) for cluster, ahead in moves.items()
        },
        ended=tuple(state.rollout.id for state in ended),
        held=tuple(sorted(holds)),
    )
    if not dry_run:
        journal.commit(
            Decision(
                moves=[move for ahead in moves.values() for move in ahead],
                rollouts=[_over(row, state, why=why, now=now) for row, state in zip(stored, states, strict=True)],
                holds=list(holds.values()),
                events=[_told(found, actor=actor, reason=reason, now=now)],
                meta={NUMBERS: str(max(_numbers(moves), journal.next_number() - 1))},
            )
        )
    return found


def _ahead(store: GitStore, cluster: ClusterName, row: SliceRow | None) -> Iterator[MoveRow]:
    """The commits that the journal lacks, oldest first."""
    ref = store.ref(cluster)
    if ref is None or (row is not None and (ref == row.commit or ref in store.whole_history(row.commit))):
        return
    found: list[Oid] = []
    for commit in store.whole_history(ref):
        if row is not None and commit == row.commit:
            break
        found.append(commit)
    else:
        if row is not None:
            raise Permanent(
                f"slice of cluster {cluster}",
                f"is at {row.commit} in the journal and at {ref} in slices.git, and neither led to the other",
                "restore journal.db and slices.git from one moment",
            )
    old, before = (row.commit, row.manifest) if row is not None else (None, None)
    for commit in reversed(found):
        manifest = store.manifest(commit)
        changed = {
            name: entry
            for name, entry in manifest.bundles.items()
            if before is None or before.bundles.get(name) != entry
        }
        yield MoveRow(
            cluster=cluster,
            seq=manifest.seq,
            old=old,
            new=commit,
            time_s=store.time_s(commit),
            manifest=manifest,
            causes=tuple((name, entry.subtree, entry.rollout, "") for name, entry in sorted(changed.items())),
        )
        old, before = commit, manifest


def _left(
    rows: Mapping[ClusterName, SliceRow], moves: Mapping[ClusterName, list[MoveRow]], *, why: str, now: float
) -> dict[BundleName, HoldRow]:
    """What ran somewhere since the backup and runs there no more must not come back by itself."""
    refused: dict[BundleName, dict[ClusterName, Oid]] = {}
    rollout: dict[BundleName, RolloutId] = {}
    for cluster, ahead in moves.items():
        runs = {name: entry.subtree for name, entry in ahead[-1].manifest.bundles.items()}
        for move in ahead:
            for name, entry in move.manifest.bundles.items():
                before = rows[cluster].manifest.bundles.get(name) if cluster in rows else None
                if entry.subtree != runs.get(name) and (before is None or before.subtree != entry.subtree):
                    refused.setdefault(BundleName(name), {})[cluster] = Oid(entry.subtree)
                    rollout[BundleName(name)] = RolloutId(entry.rollout)
    return {
        name: HoldRow(bundle=name, rollout=rollout[name], reason=why, time_s=now, refused=subtrees)
        for name, subtrees in refused.items()
    }


def _interrupted(states: list[State], *, why: str, now: float) -> dict[BundleName, HoldRow]:
    return {
        name: HoldRow(bundle=name, rollout=state.rollout.id, reason=why, time_s=now, refused=refused)
        for state in states
        for name, refused in waves.refused(state.rollout).items()
    }


def _over(stored: StoredRollout, state: State, *, why: str, now: float) -> RolloutRow:
    """A rollout that never takes a step again."""
    ended = state
    if state.phase not in FINAL:
        ended = replace(state, phase=Phase.ABORTED, reason=why, updated_at=now)
    return replace(record.row(state, ended, tail=record.tail(stored)), alive=False)


def _numbers(moves: Mapping[ClusterName, list[MoveRow]]) -> int:
    """The highest number in the ids (`shop-7`) of the rollouts that moved something."""
    ids = {rollout for ahead in moves.values() for move in ahead for _, _, rollout, _ in move.causes}
    return max((int(tail) for tail in (id_.rpartition("-")[2] for id_ in ids) if tail.isdecimal()), default=0)


def _told(found: Recovery, *, actor: str, reason: str, now: float) -> EventRow:
    about = tuple(sorted(found.clusters))
    word = Word(actor=actor, role="", verb="recover", reason=reason, clusters=about, bundles=found.held)
    return EventRow(time_s=now, kind="command", text=_text(found, actor=actor, reason=reason), word=word)


def _text(found: Recovery, *, actor: str, reason: str) -> str:
    slices = ", ".join(f"{cluster} #{old} to #{new}" for cluster, (old, new) in sorted(found.clusters.items())[:5])
    more = f" and {len(found.clusters) - 5} more" if len(found.clusters) > 5 else ""
    return f"{actor}: recover, the journal was older than the slices: {slices}{more}: {reason}"
