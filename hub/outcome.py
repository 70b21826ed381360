"""Pure: what a turn of the loop gathers, and how it becomes slice commits and rows of the journal.

`Outcome` is filled by `loop`; `compositions` makes the next commit of each cluster that moves (moves due on a cluster
at one moment merge into one); `decision` makes the one transaction. Nothing here reads or writes anything.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec

from hub import notices, record
from hub.agents.live import Views
from hub.desired import Desired
from hub.inputs import Input, PutOnHold, Release, ToRollout
from hub.journal import Decision, DirectiveKey, DirectiveRow, EventRow, HoldRow, MoveRow, SliceRow, Word
from hub.model import RolloutPolicy
from hub.noteworthy import Receiver
from hub.record import Tail
from hub.rollout import waves
from hub.rollout.held import Around
from hub.slices import compose
from hub.state import (
    ABSENT,
    Effect,
    Event,
    Evidence,
    Hold,
    MarkGood,
    Move,
    Notice,
    Phase,
    Reported,
    State,
)
from proto.errors import FlotillaError, Permanent
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Report
from proto.objects import ObjectKey, blob_id
from proto.slices import BundleEntry

E = TypeVar("E", bound=Effect)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one turn gathers before it is stored. `policies` is None when no rollouts were planned in it."""

    now: float
    states: dict[RolloutId, State]
    desired: Desired | None
    seen: list[Reported] = field(default_factory=list)
    commands: list[tuple[Input, ToRollout]] = field(default_factory=list)
    evidence: list[tuple[RolloutId, Evidence]] = field(default_factory=list)
    released: set[BundleName] = field(default_factory=set)
    on_hold: Mapping[BundleName, HoldRow] = field(default_factory=dict)
    """As it was before the turn."""
    holds: list[tuple[Input, PutOnHold]] = field(default_factory=list)
    """What people want to keep somewhere."""
    kept: dict[BundleName, HoldRow] = field(default_factory=dict)
    """What of it is so with this turn."""
    directives: dict[DirectiveKey, DirectiveRow | None] = field(default_factory=dict)
    """What people asked of agents, or took back (None), in this turn."""
    suspended: Mapping[ClusterName, Mapping[BundleName, str]] = field(default_factory=dict)
    cordoned: Mapping[ClusterName, str] = field(default_factory=dict)
    frozen: str = ""
    """Why nothing may start in the whole fleet."""
    around: Around | None = None
    """What holds single clusters, once somebody asked."""
    views: Views | None = None
    """What is known of each cluster, once somebody asked."""
    events: list[EventRow] = field(default_factory=list)
    effects: dict[RolloutId, list[Effect]] = field(default_factory=dict)
    told: dict[RolloutId, list[Event]] = field(default_factory=dict)
    """What each rollout met."""
    wakes: dict[RolloutId, float] = field(default_factory=dict)
    """When each rollout that was looked at has to be looked at again (Unix seconds)."""
    policies: dict[BundleName, RolloutPolicy] | None = None
    plan_at: float = math.inf
    plan_again: bool = False
    undone: set[RolloutId] = field(default_factory=set)
    problem: str = ""
    """What kept new rollouts from being planned."""
    receivers: tuple[Receiver, ...] = ()
    """Who is told of what happens in this turn."""

    def all_of(self, kind: type[E]) -> list[E]:
        return [effect for made in self.effects.values() for effect in made if isinstance(effect, kind)]

    def release(self, asked: Release, now: float) -> None:
        """A person lets a bundle go on."""
        self.released.add(asked.bundle)
        self.kept.pop(asked.bundle, None)
        self.events.append(released(asked, now))

    def keep(self, asked: PutOnHold, *, running: Mapping[ClusterName, Mapping[BundleName, Oid]]) -> None:
        """A person keeps a bundle somewhere. What was brought back waits for sources that give neither what the fleet
        repo wants now nor what runs; what was only held waits for a person."""
        refused: dict[ClusterName, Oid] = {}
        if asked.rollout:
            refused = {cluster: now[asked.bundle] for cluster, now in running.items() if asked.bundle in now}
            refused |= self.desired.subtrees.get(asked.bundle, {}) if self.desired else {}
        self.kept[asked.bundle] = HoldRow(
            bundle=asked.bundle,
            rollout=asked.rollout,
            reason=f"{asked.actor}: {asked.reason}",
            time_s=self.now,
            refused=refused,
            keep=asked.keep,
        )
        self.released.discard(asked.bundle)
        self.events.append(put_on_hold(asked, self.now))

    def undo(self, rollout: RolloutId, before: State | None, why: FlotillaError) -> None:
        """Take back what one rollout decided in this turn; one that began in it begins in a later one. Who gave it a
        command gets `why`."""
        self.undone.add(rollout)
        self.effects.pop(rollout, None)
        self.told.pop(rollout, None)
        for item, asked in self.commands:
            if asked.rollout == rollout:
                item.error = item.error or why
        if before is None:
            del self.states[rollout]
            self.plan_again = True
        else:
            self.states[rollout] = before


class Clash(Exception):
    """A rollout's move gives no slice, mostly because one object would have two owners."""

    def __init__(self, rollout: RolloutId, why: Permanent) -> None:
        super().__init__(rollout, why)
        self.rollout = rollout
        self.why = why


def compositions(
    outcome: Outcome,
    slices: Mapping[ClusterName, SliceRow],
    *,
    keys: Callable[[Oid], frozenset[ObjectKey]],
    revision_of: Callable[[str], str],
    sign: Callable[[bytes], bytes] = bytes,
) -> dict[ClusterName, compose.Composed]:
    """Pure: the next slice commit of each cluster that moves. Raises Clash naming the rollout that has to wait."""
    moves: dict[ClusterName, list[Move]] = {}
    for move in outcome.all_of(Move):
        moves.setdefault(move.cluster, []).append(move)
    made = {}
    for cluster, moved in sorted(moves.items()):
        next_of = partial(_next, outcome, cluster, slices.get(cluster), keys=keys, revision_of=revision_of, sign=sign)
        try:
            made[cluster] = next_of(moved)
        except Permanent as error:
            raise Clash(_guilty(moved, next_of), error) from error
    return made


def _next(
    outcome: Outcome,
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
            bundle: _entry(outcome, move, subtree, revision_of)
            for move in moved
            for bundle, subtree in move.subtrees.items()
        },
        keys=keys,
        time_s=int(outcome.now),
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


def _entry(outcome: Outcome, move: Move, subtree: Oid, revision_of: Callable[[str], str]) -> BundleEntry | None:
    if subtree == ABSENT:
        return None
    revision = revision_of(subtree) if move.back else outcome.states[move.rollout].rollout.revision
    return BundleEntry(subtree=subtree, revision=revision, rollout=move.rollout)


def decision(
    outcome: Outcome,
    composed: Mapping[ClusterName, compose.Composed],
    *,
    states: Mapping[RolloutId, State],
    slices: Mapping[ClusterName, SliceRow],
    tails: Mapping[RolloutId, Tail],
    meta: Mapping[str, str],
) -> Decision:
    """Pure: all that the turn decided, as rows; `states`, `slices` and `tails` are those before it."""
    changed = [state for id_, state in outcome.states.items() if state is not states.get(id_)]
    events = _events(outcome)
    moves: dict[ClusterName, list[Move]] = {}
    for move in sorted(outcome.all_of(Move), key=lambda move: move.rollout):
        moves.setdefault(move.cluster, []).append(move)
    return Decision(
        rollouts=[
            record.row(
                states.get(state.rollout.id),
                state,
                tail=tails.get(state.rollout.id, Tail()),
                events=outcome.told.get(state.rollout.id, ()),
                view=outcome.views,
            )
            for state in changed
        ],
        moves=[_move_row(made, cluster, slices.get(cluster), moves[cluster]) for cluster, made in composed.items()],
        good=[(good.cluster, name, oid) for good in outcome.all_of(MarkGood) for name, oid in good.subtrees.items()],
        completed=[
            (bundle, cluster, subtree)
            for state in changed
            if state.phase is Phase.COMPLETED and not _was_completed(states.get(state.rollout.id))
            for cluster, target in state.rollout.targets.items()
            for bundle, subtree in target.after.items()
        ],
        holds=hold_rows(outcome),
        released=sorted(outcome.released),
        events=events,
        messages=notices.messages(events, states=outcome.states, to=outcome.receivers),
        meta=meta,
        directives=outcome.directives,
    )


def _events(outcome: Outcome) -> list[EventRow]:
    return [
        *outcome.events,
        *(
            commanded(asked, outcome.now, bundles=outcome.states[asked.rollout].rollout.bundles)
            for item, asked in outcome.commands
            if item.error is None
        ),
        *(noticed(notice, outcome.now) for notice in outcome.all_of(Notice)),
    ]


def _was_completed(before: State | None) -> bool:
    return before is not None and before.phase is Phase.COMPLETED


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


def hold_rows(outcome: Outcome) -> list[HoldRow]:
    """Pure: the holds that this turn decided, with the subtrees that must not be tried again. What a person brought
    back, and what then failed, stays on hold as it was: the newer revision must not come by itself."""
    made = {
        hold.bundle: HoldRow(
            bundle=hold.bundle,
            rollout=hold.rollout,
            reason=hold.reason,
            time_s=outcome.now,
            refused=before.refused
            if (before := outcome.on_hold.get(hold.bundle)) is not None and before.keep is not None
            else waves.refused(outcome.states[hold.rollout].rollout)[hold.bundle],
        )
        for hold in outcome.all_of(Hold)
    }
    return list({**made, **outcome.kept}.values())


# --- events -------------------------------------------------------------------------------------------------------


def commanded(asked: ToRollout, now: float, *, bundles: tuple[BundleName, ...]) -> EventRow:
    """Pure: a person's command that was carried out, as an event; `bundles` are those of the rollout."""
    command = asked.command
    whom = f"{command.cluster} in " if command.cluster else ""
    what = f"{command.verb} {command.gate} of" if command.gate else command.verb
    text = f"{command.actor}: {what} {whom}{asked.rollout}: {command.reason}"
    word = Word(
        actor=command.actor,
        role=asked.role,
        verb=command.verb,
        reason=command.reason,
        clusters=(command.cluster,) if command.cluster else (),
        bundles=bundles,
    )
    return EventRow(time_s=now, kind="command", rollout=asked.rollout, text=text, word=word)


def retried(asked: ToRollout, bundle: BundleName) -> Release:
    """Pure: to try a rollout again that is over is to release what it left on hold."""
    command = asked.command
    return Release(bundle=bundle, actor=command.actor, reason=command.reason, role=asked.role, rollout=asked.rollout)


def put_on_hold(asked: PutOnHold, now: float) -> EventRow:
    """Pure: a person keeps a bundle somewhere, as an event."""
    where = f"back to revision {asked.keep.revision:.12} ({asked.rollout})" if asked.rollout else "on hold"
    verb = "rollback" if asked.rollout else "hold"
    word = Word(actor=asked.actor, role=asked.role, verb=verb, reason=asked.reason)
    text = f"{asked.actor} put bundle {asked.bundle} {where}: {asked.reason}"
    return EventRow(time_s=now, kind="held", bundle=asked.bundle, text=text, word=word)


def released(release: Release, now: float) -> EventRow:
    """Pure: a person let a bundle go on, as an event."""
    verb, again = ("retry", f", to try {release.rollout} again") if release.rollout else ("release", "")
    text = f"{release.actor} released bundle {release.bundle}{again}: {release.reason}"
    word = Word(actor=release.actor, role=release.role, verb=verb, reason=release.reason)
    return EventRow(time_s=now, kind="released", bundle=release.bundle, rollout=release.rollout, text=text, word=word)


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


def drifted(cluster: ClusterName, report: Report, now: float) -> list[EventRow]:
    """Pure: the drift of a report as events, each stored once however often it is told."""
    return [
        EventRow(
            time_s=now,
            kind="drift",
            cluster=cluster,
            bundle=drift.bundle,
            text=f"{drift.object} {drift.what} in {cluster} by {drift.manager or 'unknown'}: {drift.action}",
            data=msgspec.to_builtins(drift),
            dedup=f"{cluster}/{drift.id}",
        )
        for drift in report.drift
    ]


def found(before: Desired | None, after: Desired, now: float) -> list[EventRow]:
    """Pure: what is newly wrong in the fleet repo, as events; what a hub that starts finds again is no new one."""
    known = set(before.findings) if before else set()
    return [
        EventRow(
            time_s=now,
            kind="finding",
            text=str(finding),
            bundle=finding.about.removeprefix("bundle ") if finding.about.startswith("bundle ") else "",
            data={"severity": "info"} if finding.severity == "warning" else {},
            dedup=f"finding/{after.commit}/{blob_id(str(finding).encode())}",
        )
        for finding in after.findings
        if finding not in known
    ]
