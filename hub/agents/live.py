"""What agents said lately: soft state in memory, rebuilt from their reports after a restart (design, decision 8).

`Live` takes reports in and answers what the loop and the API ask. It holds no history and writes nothing; bounded by
clusters × bundles, each bundle's problem objects by the agent's own limit. Times are the hub's wall clock. Next: `loop`
(decides with it) and `api` (shows it).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hub.state import ClusterView, Roster, State
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
    suspended: Mapping[BundleName, str] = field(default_factory=dict)
    """The bundles that are suspended in the cluster itself, and why."""


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
        if report.full or report.removed or report.bundles:
            live.suspended = {name: word.suspended for name, word in live.bundles.items() if word.suspended}
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
        next_seq: Callable[[ClusterName], int],
        suspended: Mapping[ClusterName, Mapping[BundleName, str]],
        *,
        cordoned: Mapping[ClusterName, str] = MappingProxyType({}),
    ) -> "Views":
        """What `rollouts.decide` may know of the clusters at this moment. `suspended` is what people here suspended;
        what is suspended in a cluster its agent says."""
        return Views(self.clusters, next_seq, suspended, cordoned=cordoned)


class Views(dict[ClusterName, ClusterView]):
    """Of every cluster that is asked for, also one that never spoke, made when it is: most rollouts ask for few. Good
    until the next report is taken in."""

    def __init__(
        self,
        live: Mapping[ClusterName, LiveCluster],
        next_seq: Callable[[ClusterName], int],
        suspended: Mapping[ClusterName, Mapping[BundleName, str]],
        *,
        cordoned: Mapping[ClusterName, str],
    ) -> None:
        super().__init__()
        self._cordoned = cordoned
        self._live = live
        self._next_seq = next_seq
        self._suspended = suspended

    def __contains__(self, cluster: object) -> bool:
        return True

    def roster(self, states: Iterable[State]) -> Roster:
        """All members of `states` at a glance."""
        names = frozenset[ClusterName]().union(*(state.members for state in states))
        never = LiveCluster()
        seen, there = [], names & self._suspended.keys()
        for cluster in names:
            live = self._live.get(cluster, never)
            seen.append((live.last_seen, cluster))
            if live.suspended:
                there |= {cluster}
        seen.sort()
        return Roster(
            seen=tuple(seen), cordoned=tuple(sorted(names & self._cordoned.keys())), suspended=tuple(sorted(there))
        )

    def __missing__(self, cluster: ClusterName) -> ClusterView:
        live, here = self._live.get(cluster), self._suspended.get(cluster, {})
        next_seq = self._next_seq(cluster)
        cordoned = self._cordoned.get(cluster, "")
        if live is None:
            made = ClusterView(next_seq=next_seq, suspended=here, cordoned=cordoned)
        else:
            made = ClusterView(
                next_seq=next_seq,
                cordoned=cordoned,
                last_seen=live.last_seen,
                seq=live.seq,
                bundles=live.bundles,
                suspended={**live.suspended, **here},
            )
        self[cluster] = made
        return made
