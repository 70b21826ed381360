"""`GET /api/v1/audit`: who did what, when, why and to what, as far back as the hub has been there."""

from aiohttp import web

from hub.api import http, status
from hub.journal import AuditRow, Journal


class Past:
    """The handlers; `routes` adds them to an application."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/audit", self.audit)]

    async def audit(self, request: web.Request) -> web.Response:
        """Oldest first, the newest `limit`; `?since=TIME&actor=A&cluster=C&bundle=B&rollout=R&before=ID&limit=N`."""
        asked = request.query
        rows = self._journal.audit(
            since_s=http.time_s(request, "since"),
            before=http.number(request, "before", 2**62, most=2**62),
            limit=http.number(request, "limit", 200, most=http.MAX_LIST),
            actor=asked.get("actor", ""),
            cluster=asked.get("cluster", ""),
            bundle=asked.get("bundle", ""),
            rollout=asked.get("rollout", ""),
        )
        return http.answer({"audit": [_shown(row) for row in rows]})


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
