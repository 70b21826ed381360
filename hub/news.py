"""Pure: what a turn of the loop is told, sorted by whom it concerns: rollouts, holds, directives, the event list.

`take` reads one input; `heed_directives` lets those end that mean nothing any more. Next: `rollout/rounds` decides with
it, `outcome` makes rows of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from hub import directives, notices
from hub.desired import Desired
from hub.inputs import Direct, FromAgent, FromGate, Happened, Input, LastCompleted, PutOnHold, Release, ToRollout
from hub.journal import DirectiveKey, DirectiveRow, EventRow, HoldRow, SliceRow, Word
from hub.noteworthy import Receiver
from hub.rollout import joiners, rounds
from hub.rollout.rounds import Said
from hub.state import Base, Command, Evidence, State
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Report
from proto.objects import blob_id


@dataclass(slots=True, kw_only=True)
class News:
    """`desired` is the newest that is known, `directed` are the directives as they are, `receivers` who is told of what
    happens, `bases` what last completed for clusters that joined: each that of before the turn, until something in it
    says otherwise."""

    now: float
    desired: Desired | None
    directed: Mapping[DirectiveKey, DirectiveRow] = field(default_factory=dict)
    receivers: tuple[Receiver, ...] = ()
    bases: Mapping[BundleName, Base] = field(default_factory=dict)
    heard: list[ClusterName] = field(default_factory=list)
    """Whose reports came."""
    said: list[Said] = field(default_factory=list)
    evidence: list[tuple[RolloutId, Evidence]] = field(default_factory=list)
    holds: list[tuple[Input, PutOnHold]] = field(default_factory=list)
    """What people want to keep somewhere."""
    released: set[BundleName] = field(default_factory=set)
    directives: dict[DirectiveKey, DirectiveRow | None] = field(default_factory=dict)
    """What people asked of agents, or took back (None), in this turn."""
    events: list[EventRow] = field(default_factory=list)

    def take(self, item: Input, *, states: Mapping[RolloutId, State], holds: Mapping[BundleName, HoldRow]) -> None:
        """One input: whom it is for. `states` and `holds` are those before the turn."""
        match item.what:
            case FromAgent(cluster=cluster, report=report):
                self.heard.append(cluster)
                self.events += drifted(cluster, report, self.now)
            case Desired() as desired:
                self.events += found(self.desired, desired, self.now)
                self.desired, self.receivers = desired, notices.receivers(desired.fleet, self.receivers)
            case ToRollout(rollout=rollout, command=Command(verb="retry")) if left := rounds.left_on_hold(
                rollout, states=states, holds=holds
            ):
                for bundle in left:
                    self._release(retried(item.what, bundle))
            case ToRollout(rollout=rollout, command=command, role=role):
                self.said.append(Said(rollout=rollout, command=command, role=role, refuse=item.refuse))
            case PutOnHold() as hold:
                self.holds.append((item, hold))
            case FromGate(rollout=rollout, evidence=evidence):
                self.evidence.append((rollout, evidence))
            case Release() as release:
                self._release(release)
            case LastCompleted(bases=bases):
                merged = {bundle: joiners.merged(self.bases.get(bundle), base) for bundle, base in bases.items()}
                self.bases = {**self.bases, **merged}
            case Direct(rows=rows, event=event):
                self.directives.update(rows)
                self.events.append(event)
            case Happened(event=event):
                self.events.append(event)
            case _:
                raise TypeError(f"the loop does not know {type(item.what).__name__}")

    def heed_directives(self, slices: Mapping[ClusterName, SliceRow]) -> None:
        """The directives as they are with this turn, without those that mean nothing any more."""
        self.directed = _without_none({**self.directed, **self.directives})
        if self.desired is None:
            return
        gone = directives.ended(self.directed, fleet=self.desired.fleet, slices=slices, now=self.now)
        for key, why in gone.items():
            self.directives[key] = None
            self.events.append(EventRow(time_s=self.now, kind="directive-ended", cluster=key[1], text=why))
        self.directed = _without_none({**self.directed, **self.directives})

    def keep(self, asked: PutOnHold, *, running: Mapping[ClusterName, Mapping[BundleName, Oid]]) -> HoldRow:
        """The hold that a person asks for; `running` is each cluster's composition. What is brought back waits for
        sources that give neither what the fleet repo wants now nor what runs; what is only held waits for a person."""
        refused: dict[ClusterName, Oid] = {}
        if asked.rollout:
            refused = {cluster: there[asked.bundle] for cluster, there in running.items() if asked.bundle in there}
            refused |= self.desired.subtrees.get(asked.bundle, {}) if self.desired else {}
        self.events.append(put_on_hold(asked, self.now))
        return HoldRow(
            bundle=asked.bundle,
            rollout=asked.rollout,
            reason=f"{asked.actor}: {asked.reason}",
            time_s=self.now,
            refused=refused,
            keep=asked.keep,
        )

    def _release(self, asked: Release) -> None:
        self.released.add(asked.bundle)
        self.events.append(released(asked, self.now))


def _without_none(rows: Mapping[DirectiveKey, DirectiveRow | None]) -> dict[DirectiveKey, DirectiveRow]:
    return {key: row for key, row in rows.items() if row is not None}


# --- events -------------------------------------------------------------------------------------------------------


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
