"""What was, as far back as the hub has been there: who did what, when, why and to what (`GET /api/v1/audit`), and what
ran where, since when, until when and by whose word (`GET /api/v1/history`)."""

import math
from collections.abc import Mapping
from functools import partial

import anyio.to_thread
from aiohttp import web

from hub.api import http, named, status
from hub.journal import AuditRow, Journal, OriginRow, RanRow
from hub.loop import Loop
from proto.ids import RolloutId


class Past:
    """The handlers; `routes` adds them to an application."""

    def __init__(self, loop: Loop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/audit", self.audit), web.get("/api/v1/history", self.history)]

    async def audit(self, request: web.Request) -> web.Response:
        """Oldest first, the newest `limit`; `?since=TIME&until=TIME&actor=A&cluster=C&bundle=B&rollout=R&before=ID`
        and `&limit=N`."""
        asked = request.query
        rows = self._journal.audit(
            since_s=http.time_s(request, "since"),
            until_s=http.time_s(request, "until") or math.inf,
            before=http.number(request, "before", 2**62, most=2**62),
            limit=http.number(request, "limit", 200, most=http.MAX_LIST),
            actor=asked.get("actor", ""),
            cluster=asked.get("cluster", ""),
            bundle=asked.get("bundle", ""),
            rollout=asked.get("rollout", ""),
        )
        if not rows:
            named.asked_for(self._loop, request)
        return http.answer({"audit": [_shown(row) for row in rows]})

    async def history(self, request: web.Request) -> web.Response:
        """Oldest first, the newest `limit`; `?cluster=C&bundle=B&at=TIME&limit=N`, with `at` what ran then."""
        find = partial(
            self._journal.ran,
            cluster=request.query.get("cluster", ""),
            bundle=request.query.get("bundle", ""),
            at_s=http.time_s(request, "at") if request.query.get("at") else None,
            limit=http.number(request, "limit", 200, most=http.MAX_LIST),
        )
        rows = await anyio.to_thread.run_sync(find)
        if not rows:
            named.asked_for(self._loop, request)
        rollouts = {rollout for row in rows for rollout in (row.rollout, row.work_of)}
        origins = await anyio.to_thread.run_sync(self._journal.origins, rollouts)
        return http.answer(
            {
                "history": [_ran(row, origins) for row in rows],
                "rollouts": {id_: _origin(origin) for id_, origin in sorted(origins.items())},
            }
        )


def _ran(row: RanRow, origins: Mapping[RolloutId, OriginRow]) -> status.Json:
    return {
        "cluster": row.cluster,
        "bundle": row.bundle,
        "since": status.rfc3339(row.since_s),
        "until": status.rfc3339(row.until_s) if row.until_s else "",
        "seq": row.seq,
        "subtree": row.subtree,
        "revision": origins[row.work_of].revision if row.subtree and row.work_of in origins else "",
        "rollout": row.rollout,
        "wave": row.wave,
        "back": row.back,
    }


def _origin(origin: OriginRow) -> status.Json:
    words = [_shown(word) for word in origin.words]
    return {"revision": origin.revision, "author": origin.author, "subject": origin.subject, "words": words}


def _shown(row: AuditRow) -> status.Json:
    return {
        "id": row.id,
        "time": status.rfc3339(row.time_s),
        "actor": row.word.actor,
        "role": row.word.role,
        "verb": row.word.verb,
        "reason": row.word.reason,
        "clusters": list(row.word.clusters),
        "bundles": list(row.word.bundles),
        "rollout": row.rollout,
        "text": row.text,
    }
