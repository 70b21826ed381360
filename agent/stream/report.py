"""What the agent tells the hub: deltas against what the hub has acknowledged, one report on its way at a time.

The pure part, `compose`, makes the next report from what was acknowledged and what is now. `Reporter` keeps both and
says when a report is due:

    first of a session, or asked for            a full report
    a bundle's subtree, health or proof, drift  at once
    anything else that changed                  `MIN_INTERVAL_S` after the last report, so that a pass is one delta
    nothing                                     an empty delta each heartbeat

A report counts as told once it was acknowledged; what was on its way when a stream broke is told again by the next full
report (drift by its id, so that the hub counts it once). Drift waits in `spool`; the rest is soft, the newest state is
enough. `hub_client` sends what this makes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import anyio
import msgspec

from agent.stream.spool import Spool
from proto import wire
from proto.messages import BundleReport, DriftReport, ObjectProblem, Report

MIN_INTERVAL_S: Final = 0.2
MAX_PROBLEMS: Final = 50
"""Objects named per bundle, and agent problems per report; the rest is counted."""
MAX_DRIFT: Final = 100
"""Per report; more wait for the next one."""
MAX_FIELDS: Final = 50
MAX_TEXT: Final = 500
"""Characters of one message."""
MAX_REPORT_BYTES: Final = wire.MAX_MESSAGE_BYTES - 1024


@dataclass(frozen=True, slots=True)
class Known:
    """What a report can say beside drift: the slice that was taken up, the bundles, and the agent's own problems."""

    seq: int = 0
    commit: str = ""
    bundles: Mapping[str, BundleReport] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    kubernetes_version: str = ""


def compose(
    told: Known | None,
    now: Known,
    *,
    number: int,
    boot_id: str,
    agent_version: str,
    drift: Collection[DriftReport],
    cut: int,
) -> Report:
    """Pure: the report that takes the hub from `told` (None: nothing, so a full report) to `now`, within the limits.

    `cut` says how many drift reports were dropped; what is left out here is added to the report's `cut`.
    """
    before = told.bundles if told is not None else {}
    report = Report(
        number=number,
        boot_id=boot_id,
        seq=now.seq,
        commit=now.commit,
        full=told is None,
        bundles={name: bundle for name, bundle in now.bundles.items() if before.get(name) != bundle},
        removed=tuple(sorted(name for name in before if name not in now.bundles)),
        drift=tuple(drift)[:MAX_DRIFT],
        problems=tuple(_short(problem) for problem in now.problems[:MAX_PROBLEMS]),
        kubernetes_version=now.kubernetes_version,
        agent_version=agent_version,
        cut={"drift": cut} if cut else {},
    )
    for limit in (MAX_PROBLEMS, 10, 1, 0):
        fitted = _with_problems(report, limit, unsaid=len(now.problems) - len(report.problems))
        if len(msgspec.json.encode(fitted)) <= MAX_REPORT_BYTES:
            break
    return fitted


def _with_problems(report: Report, limit: int, *, unsaid: int) -> Report:
    bundles = {
        name: msgspec.structs.replace(bundle, problems=bundle.problems[:limit])
        if len(bundle.problems) > limit
        else bundle
        for name, bundle in report.bundles.items()
    }
    objects = sum(len(bundle.problems) - len(bundles[name].problems) for name, bundle in report.bundles.items())
    cut = {**report.cut, "objects": objects, "problems": unsaid}
    return msgspec.structs.replace(report, bundles=bundles, cut={what: count for what, count in cut.items() if count})


def urgent(told: Known, now: Known) -> bool:
    """Pure: whether `now` says something that a rollout waits for: a new slice, a subtree, a health or a proof."""
    if (told.seq, told.commit) != (now.seq, now.commit) or told.bundles.keys() != now.bundles.keys():
        return True
    return any(_proof(told.bundles[name]) != _proof(bundle) for name, bundle in now.bundles.items())


def _proof(bundle: BundleReport) -> tuple[str, str, bool]:
    return bundle.subtree, bundle.health, bundle.converged


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _short_bundle(bundle: BundleReport) -> BundleReport:
    problems = tuple(
        ObjectProblem(
            object=_short(problem.object),
            health=problem.health,
            reason=_short(problem.reason),
            message=_short(problem.message),
        )
        for problem in bundle.problems
    )
    return msgspec.structs.replace(bundle, problems=problems)


def _short_drift(drift: DriftReport) -> DriftReport:
    fields = tuple(_short(path) for path in drift.fields[:MAX_FIELDS])
    if len(drift.fields) > MAX_FIELDS:
        fields = (*fields, f"… and {len(drift.fields) - MAX_FIELDS} more")
    return msgspec.structs.replace(drift, fields=fields, manager=_short(drift.manager), error=_short(drift.error))


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnItsWay:
    """A report that was sent and not yet acknowledged, and what the hub will then know."""

    number: int
    known: Known
    drift: frozenset[str]
    cut: int


class Reporter:
    """Keeps what is now and what the hub has acknowledged. One event loop; the setters return at once.

    `boot_id` is new at each start of the agent; `state_dir` holds the spool.
    """

    def __init__(
        self, state_dir: Path, *, boot_id: str, agent_version: str, min_interval_s: float = MIN_INTERVAL_S
    ) -> None:
        self.boot_id = boot_id
        self.agent_version = agent_version
        self._min_interval_s = min_interval_s
        self._spool = Spool(state_dir / "spool")
        self._now = Known()
        self._told: Known | None = None
        self._on_its_way: _OnItsWay | None = None
        self._number = 0
        self._sent_at = float("-inf")
        self._changed = anyio.Event()

    def set_bundle(self, name: str, bundle: BundleReport) -> None:
        self._set(replace(self._now, bundles={**self._now.bundles, name: _short_bundle(bundle)}))

    def remove_bundle(self, name: str) -> None:
        self._set(replace(self._now, bundles={other: b for other, b in self._now.bundles.items() if other != name}))

    def set_slice(self, seq: int, commit: str) -> None:
        """The slice that the agent has taken up."""
        self._set(replace(self._now, seq=seq, commit=commit))

    def set_problems(self, problems: Collection[str]) -> None:
        """The agent's own problems as of now, whole sentences; an empty collection when there are none any more."""
        self._set(replace(self._now, problems=tuple(problems)))

    def set_kubernetes_version(self, version: str) -> None:
        self._set(replace(self._now, kubernetes_version=version))

    def add_drift(self, drift: DriftReport) -> None:
        """Tell of one drift, now or whenever the hub is there. Appends one line to the spool's file."""
        self._spool.add(_short_drift(drift))
        self._wake()

    def full_needed(self) -> None:
        """The hub knows nothing (a new session, or it asked): the next report is a full one."""
        self._told = None
        self._on_its_way = None
        self._wake()

    def acked(self, number: int) -> None:
        """The hub has made report `number` safe. An ack for another report than the one on its way changes nothing."""
        sent = self._on_its_way
        if sent is None or sent.number != number:
            return
        self._told = sent.known
        self._on_its_way = None
        self._spool.drop(sent.drift, cut=sent.cut)
        self._wake()

    def due_in(self, now: float, *, heartbeat_s: float) -> float:
        """Seconds from `now` (monotonic) until a report is due: 0 or less if it is, infinite while one is under way."""
        if self._on_its_way is not None:
            return float("inf")
        if self._told is None or self._spool.waiting or urgent(self._told, self._now):
            return 0.0
        interval = self._min_interval_s if self._told != self._now else max(heartbeat_s, self._min_interval_s)
        return self._sent_at + interval - now

    def next(self, now: float, *, heartbeat_s: float) -> Report | None:
        """The report that is due at `now` (monotonic), which is then on its way; None when none is."""
        if self.due_in(now, heartbeat_s=heartbeat_s) > 0:
            return None
        self._number += 1
        report = compose(
            self._told,
            self._now,
            number=self._number,
            boot_id=self.boot_id,
            agent_version=self.agent_version,
            drift=self._spool.waiting,
            cut=self._spool.cut,
        )
        self._on_its_way = _OnItsWay(
            number=report.number,
            known=self._now,
            drift=frozenset(drift.id for drift in report.drift),
            cut=report.cut.get("drift", 0),
        )
        self._sent_at = now
        return report

    def whole(self) -> Report:
        """All that is now, with the newest drift, for whoever never acknowledges anything."""
        drift = list(self._spool.waiting)
        unsaid = max(0, len(drift) - MAX_DRIFT)
        return compose(
            None,
            self._now,
            number=0,
            boot_id=self.boot_id,
            agent_version=self.agent_version,
            drift=drift[unsaid:],
            cut=self._spool.cut + unsaid,
        )

    @property
    def changed(self) -> anyio.Event:
        """Set once something is new, counted from now."""
        return self._changed

    async def wait_due(self, *, heartbeat_s: float) -> None:
        """Returns once `next` has a report."""
        while (delay := self.due_in(anyio.current_time(), heartbeat_s=heartbeat_s)) > 0:
            with anyio.move_on_after(delay):
                await self._changed.wait()

    async def wait_answered(self) -> None:
        """Returns once no report is on its way: it was acknowledged, or a full one is needed."""
        while self._on_its_way is not None:
            await self._changed.wait()

    def _set(self, now: Known) -> None:
        self._now = now
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
