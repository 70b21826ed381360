"""What people ask of agents, over HTTP: suspend and resume bundles, full passes, maintenance pauses, values of a drift.

Every handler is good for the operator's token. Rows are made by `directives` and stored by the loop together with the
event that says who asked and why; the answer says of each cluster whether its agent heard it already.

| path below /api/v1/  | body                         | asks                                                 |
|----------------------|------------------------------|------------------------------------------------------|
| bundles/NAME/suspend | clusters or labels; reason   | write nothing of this bundle there                   |
| bundles/NAME/resume  | clusters or labels; reason   | go on                                                |
| bundles/NAME/sync    | clusters or labels           | look at every object of it now                       |
| clusters/NAME/pause  | until or for_s; reason       | tell drift until then, and undo it when that is over |
| clusters/NAME/resume | reason                       | undo drift again                                     |
| clusters/NAME/sync   |                              | look at every object now                             |
| drift/ID/values      |                              | what Git wants and what was there, field by field    |

Without clusters and labels a bundle's command is for each cluster where it runs or should.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from hub import directives
from hub.api import http, named, status
from hub.inputs import Direct
from hub.journal import DirectiveKey, DirectiveKind, DirectiveRow, EventRow
from hub.loop import Loop
from hub.model import Selector
from hub.repo import targets
from hub.repo.schema import nearest
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName
from proto.messages import DriftDetail

LONGEST_PAUSE_S = 30 * 86400.0
"""Longer is a typing mistake, or belongs into Git: drift mode `report`."""


class Directing:
    """The handlers. `deaf` says why a cluster's agent does not hear us, `drift_detail` asks it for values."""

    def __init__(
        self,
        loop: Loop,
        *,
        gate: http.Gate,
        deaf: Callable[[str], str],
        drift_detail: Callable[[str, str], Awaitable[DriftDetail]],
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._gate = gate
        self._deaf = deaf
        self._drift_detail = drift_detail
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/v1/bundles/{name}/suspend", self.suspend),
            web.post("/api/v1/bundles/{name}/resume", self.resume),
            web.post("/api/v1/bundles/{name}/sync", self.sync_bundle),
            web.post("/api/v1/clusters/{name}/pause", self.pause),
            web.post("/api/v1/clusters/{name}/resume", self.end_pause),
            web.post("/api/v1/clusters/{name}/sync", self.sync_cluster),
            web.post("/api/v1/drift/{id}/values", self.values),
        ]

    async def suspend(self, request: web.Request) -> web.Response:
        body, bundle = await self._gate.body(request, operator=True), request.match_info["name"]
        clusters, now = self._chosen(bundle, body), self._clock()
        why = f"{http.actor(body)}: {http.reason(body)}"
        rows = directives.suspend(bundle, clusters, why=why, now=now)
        return await self._ask({row.key: row for row in rows}, "suspend", body, bundle=bundle)

    async def resume(self, request: web.Request) -> web.Response:
        body, bundle = await self._gate.body(request, operator=True), request.match_info["name"]
        http.reason(body)
        clusters, rows = self._chosen(bundle, body), self._loop.directives
        keys = [key for cluster in clusters if (key := (DirectiveKind.SUSPEND, cluster, bundle)) in rows]
        if not keys:
            there = sorted(name for name in clusters if self._suspended_there(bundle, name))
            what = f"bundle {bundle}"
            if there:
                cause = f"is suspended in {', '.join(there[:5])} itself, not from here"
                raise InvalidInput(what, cause, f"see 'flotilla clusters {there[0]}', and take it back in the cluster")
            raise InvalidInput(what, "is not suspended there", "see 'flotilla bundles'")
        return await self._ask(dict.fromkeys(keys), "resume", body, bundle=bundle)

    async def sync_bundle(self, request: web.Request) -> web.Response:
        body, bundle = await self._gate.body(request, operator=True), request.match_info["name"]
        return await self._sync(bundle, self._chosen(bundle, body), body)

    async def sync_cluster(self, request: web.Request) -> web.Response:
        body = await self._gate.body(request, operator=True)
        return await self._sync(directives.EVERY_BUNDLE, [named.cluster(self._loop, request.match_info["name"])], body)

    async def _sync(self, bundle: str, clusters: Iterable[ClusterName], body: Mapping[str, Any]) -> web.Response:
        why = f"{http.actor(body)}: {body.get('reason') or 'sync now'}"
        rows = directives.sync(self._loop.directives, bundle, clusters, why=why[:500], now=self._clock())
        return await self._ask({row.key: row for row in rows}, "sync", body, bundle=bundle)

    async def pause(self, request: web.Request) -> web.Response:
        body, cluster, now = (
            await self._gate.body(request, operator=True),
            named.cluster(self._loop, request.match_info["name"]),
            self._clock(),
        )
        until_s = _until(body, now)
        why = f"{http.actor(body)}: {http.reason(body)}"
        row = directives.pause(cluster, until_s=until_s, why=why, now=now)
        what = f"pause until {status.rfc3339(until_s)}"
        return await self._ask({row.key: row}, what, body, until=status.rfc3339(until_s))

    async def end_pause(self, request: web.Request) -> web.Response:
        body = await self._gate.body(request, operator=True)
        cluster = named.cluster(self._loop, request.match_info["name"])
        http.reason(body)
        key = (DirectiveKind.PAUSE, cluster, "")
        if key not in self._loop.directives:
            raise InvalidInput(f"cluster {cluster}", "is not paused", "see 'flotilla status'")
        return await self._ask({key: None}, "resume", body)

    async def values(self, request: web.Request) -> web.Response:
        await self._gate.body(request, operator=True)
        id_ = request.match_info["id"]
        row = self._loop.journal.event(int(id_)) if id_.isascii() and id_.isdigit() and len(id_) < 19 else None
        if row is None or row.kind != "drift":
            raise http.NotFound(f"drift {id_[:40]}", "is not known", "see 'flotilla drift' for their ids")
        detail = await self._drift_detail(row.cluster, str(row.data.get("id", "")))
        values = [msgspec.to_builtins(value) for value in detail.values]
        return http.answer({**status.event(row), "values": values, "problem": detail.problem})

    # --- shared ---------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        rows: Mapping[DirectiveKey, DirectiveRow | None],
        verb: str,
        body: Mapping[str, Any],
        *,
        bundle: str = "",
        **more: object,
    ) -> web.Response:
        clusters = sorted(cluster for _, cluster, _ in rows)
        what = f"bundle {bundle} on " if bundle not in ("", directives.EVERY_BUNDLE) else ""
        names = ", ".join(clusters[:5]) + (f" and {len(clusters) - 5} more" if len(clusters) > 5 else "")
        given = str(body.get("reason") or "").strip()[:500]
        event = EventRow(
            time_s=self._clock(),
            kind="command",
            cluster=clusters[0] if len(clusters) == 1 else "",
            bundle=bundle if what else "",
            text=f"{http.actor(body)}: {verb} {what}{names}" + (f": {given}" if given else ""),
            word=http.word(body, verb.partition(" ")[0], clusters=tuple(clusters)),
        )
        await self._loop.tell(Direct(rows=rows, event=event))
        told = [{"cluster": cluster, "not_yet": self._deaf(cluster)} for cluster in clusters]
        return http.answer({"bundle": bundle, "clusters": told, **more})

    def _chosen(self, bundle: str, body: Mapping[str, Any]) -> list[ClusterName]:
        """The clusters that a bundle's command is for. Raises InvalidInput when there are none."""
        name, desired = BundleName(bundle), self._loop.desired
        has = {cluster for cluster, row in self._loop.slices.items() if bundle in row.manifest.bundles}
        has |= {
            cluster for _, cluster, about in self._loop.directives if about == bundle
        }  # to be taken back at any time
        if desired is not None:
            has |= desired.subtrees.get(name, {}).keys()
        given, labels = body.get("clusters") or [], body.get("labels") or {}
        if not isinstance(given, list) or not isinstance(labels, dict):
            raise InvalidInput("clusters and labels", "are a list of names and a mapping", "give one of the two")
        if not has:
            named.bundle(self._loop, bundle)
            raise http.NotFound(f"bundle {bundle}", "runs nowhere and is wanted nowhere", "see 'flotilla bundles'")
        if given:
            if other := sorted({str(cluster) for cluster in given} - has):
                cause = f"neither runs nor should run on {', '.join(other[:5])}"
                remedy = nearest(other[0], has, else_="see 'flotilla clusters' for their names")
                raise InvalidInput(f"bundle {bundle}", cause, remedy)
            return sorted({ClusterName(str(cluster)) for cluster in given})
        selector = Selector(match_labels={str(key): str(value) for key, value in labels.items()})
        specs = desired.fleet.clusters if desired else {}
        found = [
            name
            for name in sorted(has)
            if not labels or (name in specs and targets.matches(selector, specs[name].labels))
        ]
        if not found:
            raise InvalidInput(f"bundle {bundle}", "runs on no cluster with these labels", "see 'flotilla clusters'")
        return found

    def _suspended_there(self, bundle: str, cluster: ClusterName) -> bool:
        live = self._loop.live.clusters.get(cluster)
        word = live.bundles.get(BundleName(bundle)) if live else None
        return bool(word and word.suspended)


def _until(body: Mapping[str, Any], now: float) -> float:
    """Pure: the end of a pause from `until` (RFC 3339) or `for_s`. Raises InvalidInput."""
    remedy = "write for example --for 2h, or --until 2030-01-31T06:00:00Z"
    try:
        given = body.get("until")
        if given:
            at = datetime.fromisoformat(str(given))
            if at.tzinfo is None:
                raise InvalidInput("the end of the pause", "has no time zone", remedy)
            until_s = at.timestamp()
        else:
            until_s = now + float(body.get("for_s") or 0.0)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput("the end of the pause", f"is not a time: {error}", remedy) from error
    if not now < until_s <= now + LONGEST_PAUSE_S:
        raise InvalidInput("the end of the pause", "is not within the next 30 days", remedy)
    return until_s
