"""A rollout's record in words, in the order of time: what happened, to whom, and why just then.

Reads what `steps` kept and decides nothing. Clusters that did the same in one turn share a line; in a large rollout
those within `TOGETHER_S` do. Of one cluster there is what happened to it, and what opened or shut its way. Next: the
API shows it, `flotilla why` prints it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hub.rollout import gates, steps
from hub.rollout.steps import Cause, Step
from hub.rollout.story import members, waiting
from hub.rollout.story import now as at_present
from hub.rollout.story.words import Line, counted, many
from hub.rollout.transitions import some
from hub.state import FINAL, ClusterView, GateState, Phase, Rollout, State
from proto.ids import ClusterName

P = Phase

LARGE = 50
"""Members of a rollout in which lines are gathered."""
TOGETHER_S = 60.0
_SLICE = re.compile(r"(,? (to|as) slice \d+)$")
"""Those of many clusters have numbers of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """`now` says why it does not move on, what each in flight said last, and what would help; `waited` what was waited
    for, in seconds, the longest first."""

    now: tuple[str, ...]
    lines: tuple[Line, ...]
    waited: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class _Told:
    """One reading of a record, up to `state`."""

    cluster: ClusterName
    state: State
    lines: list[Line] = field(default_factory=list)
    times: list[tuple[float, str]] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    """The last answer to each gate's check: the same again is no news."""


def tell(
    begins: State,
    made: Sequence[Step],
    *,
    now: float,
    cluster: str = "",
    view: Mapping[ClusterName, ClusterView] | None = None,
) -> Why:
    """Pure: the story of a rollout from its record, or that of one cluster in it; `view` is what clusters say now."""
    told = _Told(cluster=ClusterName(cluster), state=begins)
    told.lines.append(_begins(begins, whole=not _is_blank(begins)))
    if begins.updated_at or not made:
        told.times.append((begins.updated_at or begins.rollout.made_at, _awaits(told)))
    for step in made:
        before, told.state = told.state, steps.apply(told.state, step)
        told.lines += _lines(told, before, step)
        told.times.append((step.at, _awaits(told)))
    until = told.state.updated_at if told.state.phase in FINAL and not cluster else now
    lines = _of(told, told.cluster) if cluster else told.lines
    if len(begins.members) > LARGE and not cluster:
        lines = list(_gathered(lines))
    return Why(
        now=tuple(_now(told, now=now, view=view or {})),
        lines=tuple(lines),
        waited=waiting.waited(told.times, until),
    )


def _awaits(told: _Told) -> str:
    if told.cluster:
        return waiting.of_cluster(told.state, told.cluster)
    return waiting.of_rollout(told.state)


def _now(told: _Told, *, now: float, view: Mapping[ClusterName, ClusterView]) -> Iterable[str]:
    if told.cluster:
        return at_present.of_cluster(told.state, told.cluster, told.times, now=now, view=view)
    return at_present.of_rollout(told.state, told.times, now=now, view=view)


def _is_blank(state: State) -> bool:
    return not state.updated_at


def _begins(state: State, *, whole: bool) -> Line:
    rollout = state.rollout
    waves = ", then ".join(f"{wave.name} ({len(wave.clusters)})" for wave in rollout.waves)
    told = ": ".join(filter(None, (rollout.author, rollout.subject)))
    changes = f"changes {', '.join(rollout.bundles)} on {many(len(rollout.targets))}"
    what = f"commit {rollout.revision[:12]}{f' ({told})' if told else ''} {changes}: {waves}"
    if whole:
        return Line(at=state.updated_at, kind="begins", what=f"{what}; what was before is not recorded")
    return Line(at=rollout.made_at, kind="begins", what=what)


# --- what one step tells ------------------------------------------------------------------------------------------


def _lines(told: _Told, before: State, step: Step) -> Iterator[Line]:
    after = told.state
    for cause in step.causes:
        yield from _caused(told, cause, step.at)
    became = list(_became(before, after, step))
    yield from (line for line in became if line.kind not in _SENT)
    yield from _closed(before, after, step)
    yield from _gates(before, after, step)
    yield from _opened(before, after, step)
    yield from _whole(before, after, step)
    yield from (line for line in became if line.kind in _SENT)


_SENT = ("sent", "sent-back")
"""What follows from all the rest of a turn."""


def _became(before: State, after: State, step: Step) -> Iterator[Line]:
    """What became of clusters, a line for those alike."""
    groups: dict[tuple[str, str, str], list[ClusterName]] = {}
    said = {cluster: cause for cause in step.causes if cause.kind == "report" for cluster in cause.clusters}
    for change in step.changes:
        for cluster in change.clusters:
            for told in members.became(before, after, cluster, said.get(cluster), step.at):
                groups.setdefault(told, []).append(cluster)
    for (kind, what, why), clusters in groups.items():
        yield Line(at=step.at, kind=kind, what=what, why=why, clusters=tuple(clusters))


def _caused(told: _Told, cause: Cause, at: float) -> Iterator[Line]:
    if cause.kind == "command":
        whom = f" {some(cause.clusters)}" if cause.clusters else f" {cause.gate}" if cause.gate else ""
        yield Line(at=at, kind="person", what=f"{cause.who}: {cause.what}{whom}", why=cause.text)
    elif cause.kind == "evidence" and told.verdicts.get(cause.gate) != cause.what:
        told.verdicts[cause.gate] = cause.what
        yield Line(at=at, kind="gate", what=f"gate {cause.gate} {_VERDICTS[cause.what]}", why=cause.text)


_VERDICTS = {"good": "is good", "bad": "is not good", "error": "cannot be asked"}


def _gates(before: State, after: State, step: Step) -> Iterator[Line]:
    for key, gate in step.gates.items():
        old = before.gates.get(key)
        if gate is None:
            yield Line(at=step.at, kind="gate", what=f"gate {key} begins anew")
        elif old is None and not (gate.waived or gate.failed):
            yield Line(at=step.at, kind="gate", what=f"waits at gate {key}", why=_wanted(after.rollout, key))
        elif gate.failed and not (old and old.failed):
            yield Line(at=step.at, kind="failed", what=f"gate {key} has failed", why=gate.text)
        elif gate.waived and not (old and old.waived):
            yield Line(at=step.at, kind="gate", what=f"gate {key} is opened", why=gate.text)
        elif old is not None:
            yield from _voted(key, old, gate, step.at)


def _voted(key: str, old: GateState, gate: GateState, at: float) -> Iterator[Line]:
    for vote in gate.votes[len(old.votes) :]:
        yield Line(at=at, kind="gate", what=f"{vote.actor} agrees at gate {key}", why=vote.reason)


def _wanted(rollout: Rollout, key: str) -> str:
    """What the gate of that name asks for."""
    return next(gates.wanted(gate) for wave in rollout.waves for gate in wave.gates if gates.key(wave, gate) == key)


def _closed(before: State, after: State, step: Step) -> Iterator[Line]:
    """Waves that are done."""
    waves = after.rollout.waves
    for index in range(before.wave, min(after.wave, len(waves))):
        if before.wave_opened_at or index > before.wave:
            what = f"wave {waves[index].name} is done"
            yield Line(at=step.at, kind="wave", what=what, why=counted(after, index))


def _opened(before: State, after: State, step: Step) -> Iterator[Line]:
    """The wave that opens."""
    waves = after.rollout.waves
    was, is_ = (before.wave, before.wave_opened_at), (after.wave, after.wave_opened_at)
    if is_ != was and after.wave < len(waves) and after.wave_opened_at:
        wave = waves[after.wave]
        waited = _passed(before, after) if wave.gates else ""
        limit = f", {wave.max_concurrent} at a time" if wave.max_concurrent < len(wave.clusters) else ""
        what = f"wave {wave.name} opens for {many(len(wave.clusters))}{limit}"
        yield Line(at=step.at, kind="wave", what=what, why=waited)


def _passed(before: State, after: State) -> str:
    """Which gates kept the wave until now, and how they opened."""
    wave = after.rollout.waves[after.wave]
    told = []
    for gate in wave.gates:
        found = after.gates.get(f"{wave.name}/{gate.name}")
        if gate.when == "before" and found is not None:
            how = f"the word of {', '.join(vote.actor for vote in found.votes)}" if found.votes else found.text
            told.append(f"gate {gate.name} is open{f' ({how})' if how else ''}")
    return ", ".join(told)


def _whole(before: State, after: State, step: Step) -> Iterator[Line]:
    """What became of the rollout itself."""
    if after.emergency and not before.emergency:
        yield Line(at=step.at, kind="phase", what="goes straight to all clusters", why=after.emergency)
    if after.phase is not before.phase:
        counts = ", ".join(filter(None, (counted(after, index) for index in range(len(after.rollout.waves)))))
        why = after.reason or (counts if after.phase in FINAL else "")
        kind = "failed" if after.phase in _BAD else "phase"
        yield Line(at=step.at, kind=kind, what=_PHASES[after.phase], why=why)
    held, still = waiting.hold(before), waiting.hold(after)
    if still and still != held:
        yield Line(at=step.at, kind="held", what="nothing more is sent", why=still)
    elif waiting.of_rollout(after) == waiting.OFFLINE != waiting.of_rollout(before):
        yield Line(at=step.at, kind="held", what=f"waits for {waiting.OFFLINE}", why=after.reason)


_BAD = frozenset({P.ROLLING_BACK, P.ROLLED_BACK, P.ROLLBACK_FAILED})
_PHASES = {
    P.RUNNING: "goes on",
    P.PAUSED: "is paused",
    P.ROLLING_BACK: "is rolled back",
    P.COMPLETED: "is completed",
    P.ROLLED_BACK: "is rolled back everywhere, its bundles are on hold",
    P.ROLLBACK_FAILED: "could not be rolled back everywhere: look at those clusters now",
    P.REPLACED: "ends",
    P.ABORTED: "ends where it is, its bundles are on hold",
}


# --- one cluster, many clusters -----------------------------------------------------------------------------------


def _of(told: _Told, cluster: ClusterName) -> list[Line]:
    """The lines that are about one cluster, and those about the whole."""
    return [
        replace(line, clusters=(cluster,)) if line.clusters else line
        for line in told.lines
        if not line.clusters or cluster in line.clusters
    ]


def _gathered(lines: Iterable[Line]) -> Iterator[Line]:
    """Lines of a large rollout: what many clusters did within a minute is one, at the time of the first."""
    together: dict[tuple[str, str], Line] = {}
    for line in lines:
        first = next(iter(together.values()), line)
        if not line.clusters or line.at - first.at > TOGETHER_S:
            yield from together.values()
            together.clear()
        if not line.clusters:
            yield line
            continue
        key = (line.kind, _SLICE.sub("", line.what))
        known = together.get(key)
        if known is None:
            together[key] = line
            continue
        together[key] = replace(
            known,
            clusters=known.clusters + line.clusters,
            what=known.what if known.what == line.what else key[1],
            why=known.why if known.why == line.why else "",
        )
    yield from together.values()
