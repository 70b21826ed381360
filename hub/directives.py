"""Pure: what people ask beside Git: a bundle suspended on clusters, a maintenance pause, a full pass now, a cordon.

Rows of the journal, one for each (kind, cluster, bundle), so that a hub that was restarted still means them; an agent
is always sent all that concerns it (`message`), so that it misses nothing and keeps nothing that was taken back.

| kind    | bundle       | value                                       | ends                                      |
|---------|--------------|---------------------------------------------|-------------------------------------------|
| suspend | its name     | unused                                      | resumed, or the bundle is gone from there |
| pause   | ""           | until when (Unix seconds)                   | ended by a person, or then                |
| sync    | name, or `*` | a number that grows: each new one is a pass | the bundle is gone from there             |
| cordon  | ""           | unused                                      | ended by a person                         |

A cordon is no word to the agent: it keeps rollouts away from the cluster. All of a cluster end when it is gone. Next:
`loop` stores the rows, `sessions` sends the message.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from hub.journal import DirectiveKey, DirectiveKind, DirectiveRow, SliceRow
from hub.model import Fleet
from proto.ids import BundleName, ClusterName
from proto.messages import Directives

EVERY_BUNDLE = "*"

Rows = Mapping[DirectiveKey, DirectiveRow]


def message(rows: Rows, cluster: str) -> Directives:
    """Pure: all that concerns one cluster."""
    mine = [row for row in rows.values() if row.cluster == cluster]
    pause = next((row for row in mine if row.kind is DirectiveKind.PAUSE), None)
    return Directives(
        suspended={row.bundle: row.why for row in mine if row.kind is DirectiveKind.SUSPEND},
        paused_until=datetime.fromtimestamp(pause.value, UTC).isoformat().replace("+00:00", "Z") if pause else "",
        paused_why=pause.why if pause else "",
        sync={row.bundle: int(row.value) for row in mine if row.kind is DirectiveKind.SYNC},
    )


def suspended(rows: Rows) -> dict[ClusterName, dict[BundleName, str]]:
    """Pure: cluster → bundle → who suspended it there, and why."""
    found: dict[ClusterName, dict[BundleName, str]] = {}
    for row in rows.values():
        if row.kind is DirectiveKind.SUSPEND:
            found.setdefault(row.cluster, {})[BundleName(row.bundle)] = row.why
    return found


def cordoned(rows: Rows) -> dict[ClusterName, str]:
    """Pure: the clusters that rollouts keep away from, and why."""
    return {row.cluster: row.why for row in rows.values() if row.kind is DirectiveKind.CORDON}


def cordon(cluster: ClusterName, *, why: str, now: float) -> DirectiveRow:
    """Pure: keep all rollouts away from the cluster; what runs there stays, and the agent goes on enforcing it."""
    return _row(DirectiveKind.CORDON, cluster, "", why, now, 0.0)


def pauses(rows: Rows) -> dict[ClusterName, DirectiveRow]:
    """Pure: the maintenance pauses by cluster."""
    return {row.cluster: row for row in rows.values() if row.kind is DirectiveKind.PAUSE}


def suspend(bundle: str, clusters: Iterable[ClusterName], *, why: str, now: float) -> tuple[DirectiveRow, ...]:
    """Pure: keep the agents of `clusters` from writing `bundle`."""
    return tuple(_row(DirectiveKind.SUSPEND, cluster, bundle, why, now, 0.0) for cluster in clusters)


def pause(cluster: ClusterName, *, until_s: float, why: str, now: float) -> DirectiveRow:
    """Pure: until then drift in the cluster is told and not reverted."""
    return _row(DirectiveKind.PAUSE, cluster, "", why, now, until_s)


def sync(rows: Rows, bundle: str, clusters: Iterable[ClusterName], *, why: str, now: float) -> tuple[DirectiveRow, ...]:
    """Pure: ask for a full pass over `bundle` (`*`: all). The clock makes the number one that an agent has not acted on
    even when the row of its last one is gone."""
    made = []
    for cluster in clusters:
        last = rows.get((DirectiveKind.SYNC, cluster, bundle))
        number = max(int(now), int(last.value) + 1 if last else 0)
        made.append(_row(DirectiveKind.SYNC, cluster, bundle, why, now, number))
    return tuple(made)


def ended(rows: Rows, *, fleet: Fleet, slices: Mapping[ClusterName, SliceRow], now: float) -> dict[DirectiveKey, str]:
    """Pure: which rows mean nothing any more, and why. What may only be unreadable is still there."""
    found: dict[DirectiveKey, str] = {}
    for key, row in rows.items():
        running = slices[row.cluster].manifest.bundles if row.cluster in slices else {}
        known = fleet.lost_clusters or row.cluster in fleet.clusters or row.cluster in fleet.broken_clusters
        there = (
            fleet.lost_bundles
            or row.bundle in ("", EVERY_BUNDLE, *running)
            or row.bundle in fleet.bundles
            or row.bundle in fleet.broken_bundles
        )
        if row.kind is DirectiveKind.PAUSE and row.value <= now:
            found[key] = f"the maintenance pause of {row.cluster} is over"
        elif not known and not running:
            found[key] = f"{row.cluster} is gone: its {row.kind} of {row.bundle or 'everything'} is dropped"
        elif not there:
            found[key] = f"bundle {row.bundle} is gone from {row.cluster}: its {row.kind} is dropped"
    return found


def _row(kind: DirectiveKind, cluster: ClusterName, bundle: str, why: str, now: float, value: float) -> DirectiveRow:
    return DirectiveRow(kind=kind, cluster=cluster, bundle=bundle, why=why, time_s=now, value=value)
