"""Every metric of the hub: its name, unit, and what to do when it moves. Values are read from the loop at each scrape.

Clusters are never a label: a fleet of thousands would drown the metrics store; `/api/v1/clusters` has them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from hub.api import status, waiting
from hub.journal import DirectiveKind
from hub.loop import Loop
from hub.rollout import held
from hub.state import FINAL, Phase
from proto.errors import FlotillaError
from proto.ids import RolloutId

Family = GaugeMetricFamily | CounterMetricFamily


class HubMetrics(Collector):
    """`flotilla_*` metrics."""

    def __init__(
        self,
        loop: Loop,
        *,
        denied: Callable[[], Counter[str]],
        unpublished: Callable[[], int],
        receivers: Callable[[], Iterable[Mapping[str, Any]]],
        clock: Callable[[], float],
        heartbeat_s: float,
    ) -> None:
        self._loop = loop
        self._denied = denied
        self._unpublished = unpublished
        self._receivers = receivers
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._phases: dict[RolloutId, str] = {}
        """Of rollouts that are over, for which bundles are on hold."""

    def collect(self) -> Iterator[Family]:
        """One family after the other, in the order in which one looks at them at night."""
        loop, now = self._loop, self._clock()
        desired = loop.desired
        clusters = desired.fleet.clusters if desired else {}
        live = loop.live.clusters

        health = Counter(
            status.cluster(
                name,
                desired=desired,
                row=loop.slices.get(name),
                live=live.get(name),
                now=now,
                heartbeat_s=self._heartbeat_s,
            )["health"]
            for name in clusters
        )
        family: Family = GaugeMetricFamily(
            "flotilla_clusters",
            "Clusters of the fleet repo by health. Unknown grows: agents went silent.",
            labels=["health"],
        )
        for word, number in sorted(health.items()):
            family.add_metric([word], number)
        yield family
        yield GaugeMetricFamily(
            "flotilla_agents_connected",
            "Agents with an open stream. Falls: look at the network or at flotilla_denied_total.",
            value=sum(item.connected_since is not None for item in live.values()),
        )
        yield from self._rollouts(now)
        yield GaugeMetricFamily(
            "flotilla_bundles_on_hold", "Bundles that were rolled back and wait for a fix.", value=len(loop.holds)
        )
        kinds = Counter(kind for kind, _, _ in loop.directives)
        yield GaugeMetricFamily(
            "flotilla_suspended",
            "Bundles that people suspended from here, counted by cluster. Stays: is it still meant?",
            value=kinds[DirectiveKind.SUSPEND],
        )
        yield GaugeMetricFamily(
            "flotilla_clusters_paused",
            "Clusters whose drift is told and not undone until their pause ends.",
            value=kinds[DirectiveKind.PAUSE],
        )
        yield GaugeMetricFamily(
            "flotilla_findings",
            "Errors in the fleet repo's newest commit. Not 0: run 'flotilla status'.",
            value=sum(item.severity == "error" for item in desired.findings) if desired else 0,
        )
        yield GaugeMetricFamily(
            "flotilla_deciding",
            "1 while decisions can be stored, 0 while they cannot (disk?).",
            value=int(not loop.problem),
        )
        yield GaugeMetricFamily(
            "flotilla_unpublished",
            "Clusters whose newest slice is not at the mirror. Stays above 0: 'flotilla status' says why.",
            value=self._unpublished(),
        )
        yield from self._messages()
        yield CounterMetricFamily(
            "flotilla_drift", "Drifts reported since the start.", value=sum(item.drift_total for item in live.values())
        )
        family = CounterMetricFamily("flotilla_denied", "Agents turned away, by reason.", labels=["reason"])
        for reason, number in sorted(self._denied().items()):
            family.add_metric([reason], number)
        yield family

    def _messages(self) -> Iterator[Family]:
        pending = GaugeMetricFamily(
            "flotilla_messages_pending",
            "Messages that a receiver has not got yet. Stays above 0: 'flotilla notify list' says why.",
            labels=["receiver"],
        )
        lost = GaugeMetricFamily(
            "flotilla_messages_lost",
            "Messages that a receiver will never get, since it last got one: it rejected them, or they were too many.",
            labels=["receiver"],
        )
        failing = GaugeMetricFamily(
            "flotilla_receiver_failing", "1 while a receiver takes no messages.", labels=["receiver"]
        )
        try:
            rows = list(self._receivers())
        except FlotillaError:  # the journal cannot be read: all else matters the more
            return
        for row in rows:
            pending.add_metric([row["name"]], row["pending"])
            lost.add_metric([row["name"]], row["lost"])
            failing.add_metric([row["name"]], int(bool(row["failing_since"])))
        yield from (pending, lost, failing)

    def _rollouts(self, now: float) -> Iterator[Family]:
        states = self._loop.states.values()
        phases = Counter(str(state.phase) for state in states)
        phases.update({Phase.ROLLBACK_FAILED.value: n} if (n := self._rollbacks_failed()) else {})
        family = GaugeMetricFamily(
            "flotilla_rollouts",
            "Living rollouts by phase. Paused or rolling-back: somebody has to look. Rollback-failed, counted while "
            "the bundle is on hold: clusters run what nobody wants, look at once.",
            labels=["phase"],
        )
        for phase, number in sorted(phases.items()):
            family.add_metric([phase], number)
        yield family
        shut = bool(self._loop.desired and held.frozen(self._loop.desired.fleet, now))
        causes: Counter[str] = Counter()
        longest: dict[str, float] = {}
        for state in states:
            causes += waiting.causes(state, now)
            causes["freeze"] += shut and state.phase is Phase.RUNNING
            for check, since in waiting.shut_since(state, now):
                longest[check] = max(longest.get(check, 0.0), now - since)
        family = GaugeMetricFamily(
            "flotilla_rollouts_waiting",
            "Running rollouts by what keeps them: gate, window, freeze, or clusters that are held one by one.",
            labels=["for"],
        )
        for cause, number in sorted(causes.items()):
            if number:
                family.add_metric([cause], number)
        yield family
        family = GaugeMetricFamily(
            "flotilla_gate_waiting_seconds",
            "How long the gate waits that waits longest, by its check. An approval: somebody is to be asked. Others: "
            "'flotilla rollouts' says what was found.",
            labels=["check"],
        )
        for check, seconds in sorted(longest.items()):
            family.add_metric([check], seconds)
        yield family
        family = GaugeMetricFamily(
            "flotilla_gates_erring",
            "Gates that keep a wave because they cannot be asked, by their check: the server that they ask, or the way "
            "there, is to be mended. 'flotilla rollouts' says which, and why.",
            labels=["check"],
        )
        for check, number in sorted(Counter(check for state in states for check in waiting.erring(state)).items()):
            family.add_metric([check], number)
        yield family
        family = GaugeMetricFamily(
            "flotilla_rollout_age_seconds",
            "How long ago the oldest rollout that is in each phase began. Days: newer commits of its bundle wait.",
            labels=["phase"],
        )
        under_way = [state for state in states if state.phase not in FINAL]
        for phase in sorted({str(state.phase) for state in under_way}):
            began = min(state.rollout.made_at for state in under_way if state.phase == phase)
            family.add_metric([phase], now - began)
        yield family

    def _rollbacks_failed(self) -> int:
        """Rollouts that could not be taken back whole, until their bundles' holds end."""
        ids = {hold.rollout for hold in self._loop.holds.values()}
        self._phases = {id_: phase for id_, phase in self._phases.items() if id_ in ids}
        for id_ in ids - self._phases.keys():
            row = self._loop.journal.rollout(id_)
            if row is not None and row.phase in FINAL:
                self._phases[id_] = row.phase
        return sum(phase == Phase.ROLLBACK_FAILED for phase in self._phases.values())
