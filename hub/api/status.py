"""Pure: the hub's state as JSON values for the API, the CLI and pages.

A cluster that has not spoken lately is never shown by its last word: its health is Unknown, and `last_seen` says since
when. Nothing says "up to date": decided, applied and proven ids stand side by side. Next: `api`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from hub.agents.live import LiveCluster
from hub.desired import Desired
from hub.journal import DirectiveKind, DirectiveRow, EventRow, HoldRow, SliceRow
from hub.model import Finding
from hub.repo import addresses
from hub.state import ABSENT, FINAL, Member, Phase, State
from proto.ids import BundleName, ClusterName, Oid
from proto.messages import Health, worst

Json = dict[str, Any]


def rfc3339(seconds: float) -> str:
    """Pure: Unix seconds as RFC 3339 in UTC, "" for 0 (never)."""
    return (
        datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if seconds
        else ""
    )


def heard(live: LiveCluster | None, *, now: float, heartbeat_s: float) -> bool:
    """Pure: has the cluster spoken within three heartbeats?"""
    return live is not None and live.last_seen > 0 and now - live.last_seen <= 3 * heartbeat_s


def finding(item: Finding) -> Json:
    """Pure: one finding."""
    return {
        "where": item.where,
        "severity": item.severity,
        "message": item.message,
        "remedy": item.remedy,
        "about": item.about,
    }


def cluster(
    name: ClusterName,
    *,
    desired: Desired | None,
    row: SliceRow | None,
    live: LiveCluster | None,
    pause: DirectiveRow | None = None,
    cordon: DirectiveRow | None = None,
    now: float,
    heartbeat_s: float,
) -> Json:
    """Pure: one cluster in a list; `pause` is its maintenance pause, `cordon` what keeps rollouts away from it."""
    spec = desired.fleet.clusters.get(name) if desired else None
    alive = heard(live, now=now, heartbeat_s=heartbeat_s)
    problems = list(live.problems) if live else []
    return {
        "name": name,
        "labels": dict(spec.labels) if spec else {},
        "in_fleet_repo": spec is not None,
        "health": _health(live, row) if alive and live else Health.UNKNOWN,
        "connection": "connected"
        if live and live.connected_since
        else "away"
        if live and live.last_seen
        else "never-seen",
        "last_seen": rfc3339(live.last_seen) if live else "",
        "decided": {"seq": row.seq if row else 0, "commit": row.commit if row else ""},
        "applied": {"seq": live.seq if live else 0, "commit": live.commit if live else ""},
        "bundles": len(row.manifest.bundles) if row else 0,
        "drift_total": live.drift_total if live else 0,
        "last_drift": rfc3339(live.last_drift) if live else "",
        "kubernetes_version": live.kubernetes_version if live else "",
        "agent_version": live.agent_version if live else "",
        "paused": {"until": rfc3339(pause.value), "why": pause.why} if pause else None,
        "cordoned": {"why": cordon.why, "since": rfc3339(cordon.time_s)} if cordon else None,
        "problems": problems,
    }


def _health(live: LiveCluster, row: SliceRow | None) -> Health:
    if row is None:
        return Health.CURRENT
    if live.seq < row.seq:
        return worst([Health.IN_PROGRESS, *(b.health for b in live.bundles.values() if b.health is Health.FAILED)])
    return worst(bundle.health for bundle in live.bundles.values())


def cluster_bundles(
    row: SliceRow | None, live: LiveCluster | None, *, suspended: Mapping[BundleName, str]
) -> list[Json]:
    """Pure: what one cluster should run and what it said of it; `suspended` is what was suspended from here."""
    decided = row.manifest.bundles if row else {}
    reported = live.bundles if live else {}
    rows = []
    for name in sorted({*decided, *reported}):
        entry, report = decided.get(name), reported.get(BundleName(name))
        if entry is None and report is not None and report.subtree == "" and report.converged:
            continue  # gone, as decided
        rows.append(
            {
                "name": name,
                "decided_subtree": entry.subtree if entry else "",
                "applied_subtree": report.subtree if report else "",
                "revision": entry.revision if entry else "",
                "rollout": entry.rollout if entry else "",
                "health": report.health if report else Health.UNKNOWN,
                "converged": bool(report and report.converged),
                "suspended": suspended.get(BundleName(name)) or (report.suspended if report else ""),
                "counts": dict(report.counts) if report else {},
                "problems": [msgspec.to_builtins(problem) for problem in report.problems] if report else [],
            }
        )
    return rows


def rollout(state: State, *, members: bool = False) -> Json:
    """Pure: one rollout; with `members` what happened on each cluster."""
    record = state.rollout
    made: Json = {
        "id": record.id,
        "number": record.number,
        "bundles": list(record.bundles),
        "revision": record.revision,
        "phase": state.phase,
        "reason": state.reason,
        "made_at": rfc3339(record.made_at),
        "updated_at": rfc3339(state.updated_at),
        "final": state.phase in FINAL,
        "wave": state.wave,
        "waves": [
            {
                "name": wave.name,
                "state": "done" if index < state.wave else "open" if index == state.wave else "waiting",
                "clusters": len(wave.clusters),
                "phases": count(word(state.members[c]) for c in wave.clusters if c in state.members),
            }
            for index, wave in enumerate(record.waves)
        ],
        "phases": count(word(member) for member in state.members.values()),
    }
    if members:
        made["members"] = [
            {
                "cluster": name,
                "phase": member.phase,
                "suspended": member.suspended,
                "seq": member.seq,
                "moved_at": rfc3339(member.moved_at),
                "reason": member.reason,
                "before": dict(record.targets[name].before),
                "after": dict(record.targets[name].after),
            }
            for name, member in sorted(state.members.items())
        ]
    return made


def word(member: Member) -> str:
    """Pure: where a cluster is in a rollout, for people."""
    return "suspended" if member.suspended else member.phase


def directives(rows: Iterable[DirectiveRow], live: Mapping[ClusterName, LiveCluster]) -> list[Json]:
    """Pure: what is suspended, paused and cordoned, by cluster; `here`, or in the cluster itself, as its agent says.
    Asking for a pass is over when it was asked."""
    made = {
        (row.cluster, row.bundle, row.kind): {
            "kind": row.kind,
            "cluster": row.cluster,
            "bundle": row.bundle,
            "why": row.why,
            "since": rfc3339(row.time_s),
            "until": rfc3339(row.value) if row.kind is DirectiveKind.PAUSE else "",
            "here": True,
        }
        for row in rows
        if row.kind is not DirectiveKind.SYNC
    }
    for cluster, said in live.items():
        for bundle, report in said.bundles.items():
            if report.suspended and (cluster, bundle, DirectiveKind.SUSPEND) not in made:
                made[cluster, bundle, DirectiveKind.SUSPEND] = {
                    "kind": DirectiveKind.SUSPEND,
                    "cluster": cluster,
                    "bundle": bundle,
                    "why": report.suspended,
                    "since": "",
                    "until": "",
                    "here": False,
                }
    return [row for _, row in sorted(made.items())]


def count(words: Iterable[str]) -> dict[str, int]:
    """Pure: how often each word occurs."""
    found: dict[str, int] = {}
    for word in words:
        found[str(word)] = found.get(str(word), 0) + 1
    return found


def bundles(
    *,
    desired: Desired | None,
    slices: Mapping[ClusterName, SliceRow],
    live: Mapping[ClusterName, LiveCluster],
    states: Iterable[State],
    holds: Mapping[BundleName, HoldRow],
    suspended: Mapping[ClusterName, Mapping[BundleName, str]],
    now: float,
    heartbeat_s: float,
) -> list[Json]:
    """Pure: every bundle of the fleet repo or of any slice, with where it runs and how it is."""
    ordinary = [state for state in states if state.phase not in FINAL and not state.rollout.base]
    under_way = {name: state for state in ordinary for name in state.rollout.bundles}
    running: dict[BundleName, list[ClusterName]] = {}
    for name, row in slices.items():
        for bundle in row.manifest.bundles:
            running.setdefault(BundleName(bundle), []).append(name)
    specs = desired.fleet.bundles if desired else {}
    found = []
    for name in sorted({*specs, *running, *(desired.failed if desired else ())}):
        wanted = desired.subtrees.get(name, {}) if desired else {}
        now_goes = under_way.get(name)
        known = desired is not None and name not in desired.failed and name not in holds
        health, held = [], {where: told[name] for where, told in suspended.items() if name in told}
        for where in running.get(name, ()):
            said = live.get(where)
            there = said.bundles.get(name) if said else None
            if there and there.suspended:
                held.setdefault(where, there.suspended)
            report = said.bundles.get(name) if said and heard(said, now=now, heartbeat_s=heartbeat_s) else None
            health.append(report.health if report else Health.UNKNOWN)
        found.append(
            {
                "name": name,
                "wanted_on": len(wanted),
                "runs_on": len(running.get(name, ())),
                "health": worst(health),
                "counts": count(health),
                "rollout": now_goes.rollout.id if now_goes else "",
                "newer_waits": bool(now_goes and known and _is_newer(wanted, now_goes, name)),
                "hold": hold(holds[name]) if name in holds else None,
                "suspended": [{"cluster": where, "why": why} for where, why in sorted(held.items())],
                "source": _source(desired, name),
                "failed": bool(desired and name in desired.failed),
                "findings": [
                    finding(item) for item in (desired.findings if desired else ()) if item.about == f"bundle {name}"
                ],
            }
        )
    return found


def _is_newer(wanted: Mapping[ClusterName, Oid], state: State, name: BundleName) -> bool:
    """Pure: whether a commit after that of the rollout wants something else where the rollout goes."""
    if state.phase is Phase.ROLLING_BACK:
        return False  # what is wanted is still what failed
    targets = state.rollout.targets.items()
    return any(wanted.get(cluster, ABSENT) != target.after.get(name, ABSENT) for cluster, target in targets)


def hold(row: HoldRow) -> Json:
    """Pure: a bundle on hold. `until` is "released" when no commit ends it, `revision` where a person keeps it."""
    return {
        "rollout": row.rollout,
        "reason": row.reason,
        "since": rfc3339(row.time_s),
        "until": "changed" if row.refused else "released",
        "revision": row.keep.revision if row.keep else "",
    }


def _source(desired: Desired | None, name: BundleName) -> Json | None:
    """What a source outside the fleet repo is pinned at."""
    pin = desired.pins.get(name) if desired else None
    spec = desired.fleet.bundles.get(name) if desired else None
    if pin is None or spec is None or spec.external is None:
        return None
    return {"url": addresses.of(spec.external), "revision": pin.revision, "digest": pin.digest}


def event(row: EventRow) -> Json:
    """Pure: one event; `data` is what the event's kind carries (a drift's fields, a finding's place)."""
    return {
        "id": row.id,
        "time": rfc3339(row.time_s),
        "kind": row.kind,
        "cluster": row.cluster,
        "bundle": row.bundle,
        "rollout": row.rollout,
        "text": row.text,
        **({"data": dict(row.data)} if row.data else {}),
    }
