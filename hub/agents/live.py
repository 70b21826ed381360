"""What agents said lately: soft state in memory, rebuilt from their reports after a restart (design, decision 8).

`Live` takes reports in and answers what the loop and the API ask. It holds no history and writes nothing; bounded by
clusters × bundles, each bundle's problem objects by the agent's own limit. Times are the hub's wall clock. Next: `loop`
(decides with it) and `api` (shows it).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hub.model import ClusterView
from proto.ids import BundleName, ClusterName
from proto.messages import BundleReport, Report


@dataclass(slots=True, kw_only=True)
class LiveCluster:
    """One cluster's latest word. `last_seen` is 0 before its first report since the hub started."""

    last_seen: float = 0.0
    connected_since: float | None = None
    seq: int = 0
    commit: str = ""
    boot_id: str = ""
    bundles: dict[BundleName, BundleReport] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    kubernetes_version: str = ""
    agent_version: str = ""
    drift_total: int = 0
    last_drift: float = 0.0


class Live:
    """The latest word of every cluster that spoke since the hub started."""

    def __init__(self) -> None:
        self.clusters: dict[ClusterName, LiveCluster] = {}

    def of(self, cluster: ClusterName) -> LiveCluster:
        return self.clusters.setdefault(cluster, LiveCluster())

    def report(self, cluster: ClusterName, report: Report, now: float) -> None:
        """Take in one report: a delta changes what it names, a full one replaces everything."""
        live = self.of(cluster)
        live.last_seen = now
        live.seq, live.commit, live.boot_id = report.seq, report.commit, report.boot_id
        if report.full:
            live.bundles = {}
        for name in report.removed:
            live.bundles.pop(BundleName(name), None)
        for name, bundle in report.bundles.items():
            live.bundles[BundleName(name)] = bundle
        live.problems = report.problems
        live.kubernetes_version = report.kubernetes_version or live.kubernetes_version
        live.agent_version = report.agent_version or live.agent_version
        if report.drift:
            live.drift_total += len(report.drift)
            live.last_drift = now

    def not_after(self, now: float) -> None:
        """The clock was set back: nobody was seen in the future."""
        for live in self.clusters.values():
            live.last_seen = min(live.last_seen, now)

    def views(
        self,
        clusters: Iterable[ClusterName],
        next_seq: Mapping[ClusterName, int],
        suspended: Mapping[ClusterName, Mapping[BundleName, str]],
    ) -> dict[ClusterName, ClusterView]:
        """What `rollouts.decide` may know of `clusters`; `next_seq` defaults to 1 for a cluster without a slice.
        `suspended` is what people here suspended; what is suspended in a cluster its agent says."""
        found = {}
        for cluster in clusters:
            live, here = self.clusters.get(cluster), suspended.get(cluster, {})
            if live is None:
                found[cluster] = ClusterView(next_seq=next_seq.get(cluster, 1), suspended=here)
            else:
                there = {bundle: word.suspended for bundle, word in live.bundles.items() if word.suspended}
                found[cluster] = ClusterView(
                    next_seq=next_seq.get(cluster, 1),
                    last_seen=live.last_seen,
                    seq=live.seq,
                    bundles=dict(live.bundles),
                    suspended={**there, **here},
                )
        return found
