"""Pure: how what a turn decided becomes slice commits and rows of the journal.

`compositions` makes the next commit of each cluster that moves (moves due on a cluster at one moment merge into one);
`decision` makes the one transaction. Nothing here reads or writes anything. Next: `loop` stores both.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from hub import notices, record
from hub.desired import Desired
from hub.journal import Decision, EventRow, MoveRow, SliceRow, Word
from hub.model import RolloutPolicy
from hub.news import News
from hub.noteworthy import Receiver
from hub.record import Tail
from hub.rollout import waves
from hub.rollout.rounds import Round, Said
from hub.slices import compose
from hub.state import ABSENT, MarkGood, Move, Notice
from proto.errors import Permanent
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.objects import ObjectKey
from proto.slices import BundleEntry

Policies = Mapping[BundleName, RolloutPolicy]

decode_policies = msgspec.json.Decoder(type=dict[BundleName, RolloutPolicy]).decode
decode_receivers = msgspec.json.Decoder(type=tuple[Receiver, ...]).decode
"""Of what `remembered` made."""


class Clash(Exception):
    """A rollout's move gives no slice, mostly because one object would have two owners."""

    def __init__(self, rollout: RolloutId, why: Permanent) -> None:
        super().__init__(rollout, why)
        self.rollout = rollout
        self.why = why


def compositions(
    decided: Round,
    slices: Mapping[ClusterName, SliceRow],
    *,
    keys: Callable[[Oid], frozenset[ObjectKey]],
    revision_of: Callable[[str], str],
    sign: Callable[[bytes], bytes] = bytes,
) -> dict[ClusterName, compose.Composed]:
    """Pure: the next slice commit of each cluster that moves. Raises Clash naming the rollout that has to wait."""
    made = {}
    for cluster, moved in sorted(_by_cluster(decided.all_of(Move)).items()):
        next_of = partial(_next, decided, cluster, slices.get(cluster), keys=keys, revision_of=revision_of, sign=sign)
        try:
            made[cluster] = next_of(moved)
        except Permanent as error:
            raise Clash(_guilty(moved, next_of), error) from error
    return made


def _by_cluster(moves: Iterable[Move]) -> dict[ClusterName, list[Move]]:
    """In the order of `moves`, of clusters too."""
    found: dict[ClusterName, list[Move]] = {}
    for move in moves:
        found.setdefault(move.cluster, []).append(move)
    return found


def _next(
    decided: Round,
    cluster: ClusterName,
    row: SliceRow | None,
    moved: Sequence[Move],
    *,
    keys: Callable[[Oid], frozenset[ObjectKey]],
    revision_of: Callable[[str], str],
    sign: Callable[[bytes], bytes],
) -> compose.Composed:
    """Raises Permanent when the moves give no slice."""
    composed = compose.compose(
        cluster=cluster,
        seq=row.seq + 1 if row else 1,
        parent=row.commit if row else None,
        parent_time_s=row.time_s if row else 0,
        current=row.manifest if row else None,
        changes={
            bundle: _entry(decided, move, subtree, revision_of)
            for move in moved
            for bundle, subtree in move.subtrees.items()
        },
        keys=keys,
        time_s=int(decided.now),
        trailers=sorted({("Wave", move.wave) for move in moved if move.wave}),
        sign=sign,
    )
    if composed is None:
        raise Permanent(f"cluster {cluster}", "was to be moved to what it runs already", "report this as a bug")
    return composed


def _guilty(moved: Sequence[Move], next_of: Callable[[Sequence[Move]], object]) -> RolloutId:
    """Whose move gives no slice by itself; when each would alone, the last has to wait for the others."""
    for move in moved:
        try:
            next_of([move])
        except Permanent:
            return move.rollout
    return moved[-1].rollout


def _entry(decided: Round, move: Move, subtree: Oid, revision_of: Callable[[str], str]) -> BundleEntry | None:
    if subtree == ABSENT:
        return None
    revision = revision_of(subtree) if move.back else decided.states[move.rollout].rollout.revision
    return BundleEntry(subtree=subtree, revision=revision, rollout=move.rollout)


def decision(
    news: News,
    decided: Round,
    composed: Mapping[ClusterName, compose.Composed],
    *,
    slices: Mapping[ClusterName, SliceRow],
    tails: Mapping[RolloutId, Tail],
    meta: Mapping[str, str],
) -> Decision:
    """Pure: all that the turn decided, as rows; `slices` and `tails` are those before it."""
    before = decided.before.states
    changed = [state for id_, state in decided.states.items() if state is not before.get(id_)]
    events = _events(news, decided)
    moves = _by_cluster(sorted(decided.all_of(Move), key=lambda move: move.rollout))
    return Decision(
        rollouts=[
            record.row(
                before.get(state.rollout.id),
                state,
                tail=tails.get(state.rollout.id, Tail()),
                events=decided.told.get(state.rollout.id, ()),
                view=decided.view,
            )
            for state in changed
        ],
        moves=[_move_row(made, cluster, slices.get(cluster), moves[cluster]) for cluster, made in composed.items()],
        good=[(good.cluster, name, oid) for good in decided.all_of(MarkGood) for name, oid in good.subtrees.items()],
        completed=decided.completed(),
        holds=list(decided.put_on_hold().values()),
        released=sorted(decided.released),
        events=events,
        messages=notices.messages(events, states=decided.states, to=news.receivers),
        meta=meta,
        directives=news.directives,
    )


def _events(news: News, decided: Round) -> list[EventRow]:
    now = decided.now
    return [
        *news.events,
        *(EventRow(time_s=now, kind="clash", rollout=stuck.rollout, text=stuck.text) for stuck in decided.news),
        *(noticed(notice, now) for notice in decided.notices),
        *(commanded(said, now, bundles=decided.states[said.rollout].rollout.bundles) for said in decided.obeyed),
        *(noticed(notice, now) for notice in decided.all_of(Notice)),
    ]


def policies(last: Policies, decided: Round) -> Policies:
    """Pure: each bundle's policy as it was planned last, `last` being those before the turn: a bundle that is gone from
    the fleet repo is removed by it."""
    fleet = decided.fleet
    if fleet is None or not decided.planned:
        return last
    found = {name: waves.policy_of(fleet, name) for name in fleet.bundles}
    return {**last, **{name: policy for name, policy in found.items() if policy is not None}}


def remembered(
    news: News,
    policies: Policies,
    *,
    desired: Desired | None,
    last_policies: Policies,
    receivers: tuple[Receiver, ...],
) -> dict[str, str]:
    """Pure: what a hub that starts has to know of the fleet repo before it has read it, as far as the turn changed it.
    The last three are those before it."""
    meta: dict[str, str] = {}
    if news.desired is not None and news.desired is not desired:
        meta["tip"] = news.desired.commit
    if policies != last_policies:
        meta["policies"] = msgspec.json.encode(policies).decode()
    if news.receivers != receivers:
        meta["receivers"] = msgspec.json.encode(news.receivers).decode()
    return meta


def _move_row(made: compose.Composed, cluster: ClusterName, before: SliceRow | None, moves: Iterable[Move]) -> MoveRow:
    return MoveRow(
        cluster=cluster,
        seq=made.seq,
        old=before.commit if before else None,
        new=made.commit,
        time_s=made.time_s,
        manifest=made.manifest,
        causes=tuple(
            (bundle, subtree, move.rollout, move.wave)
            for move in moves
            for bundle, subtree in sorted(move.subtrees.items())
        ),
    )


# --- events -------------------------------------------------------------------------------------------------------


def commanded(said: Said, now: float, *, bundles: tuple[BundleName, ...]) -> EventRow:
    """Pure: a person's command that was carried out, as an event; `bundles` are those of the rollout."""
    command = said.command
    whom = f"{command.cluster} in " if command.cluster else ""
    what = f"{command.verb} {command.gate} of" if command.gate else command.verb
    text = f"{command.actor}: {what} {whom}{said.rollout}: {command.reason}"
    word = Word(
        actor=command.actor,
        role=said.role,
        verb=command.verb,
        reason=command.reason,
        clusters=(command.cluster,) if command.cluster else (),
        bundles=bundles,
    )
    return EventRow(time_s=now, kind="command", rollout=said.rollout, text=text, word=word)


def noticed(notice: Notice, now: float) -> EventRow:
    """Pure: a rollout's notice as an event."""
    return EventRow(
        time_s=now,
        kind=notice.kind,
        text=notice.text,
        cluster=notice.cluster,
        bundle=notice.bundle,
        rollout=notice.rollout,
        data={"wave": notice.wave} if notice.wave else {},
    )
