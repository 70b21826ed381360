"""Receivers of messages (`spec.notify` of fleet.yaml) over HTTP: how each is, and a test that tells at once.

| path below /api/v1/  | body | asks                                                                            |
|----------------------|------|---------------------------------------------------------------------------------|
| receivers            |      | what waits for each, since when it fails, and why                               |
| receivers/NAME/test  |      | send it a message that tells of nothing, past those that wait; says if it came  |
"""

from aiohttp import web

from hub.api import http
from hub.notifier import Notifier
from hub.repo.schema import nearest
from proto.errors import FlotillaError


class Receivers:
    """The handlers; `routes` adds them to an application."""

    def __init__(self, notifier: Notifier, *, gate: http.Gate) -> None:
        self._notifier = notifier
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/receivers", self.receivers),
            web.post("/api/v1/receivers/{name}/test", self.test),
        ]

    async def receivers(self, request: web.Request) -> web.Response:
        return http.answer({"receivers": self._notifier.rows()})

    async def test(self, request: web.Request) -> web.Response:
        body = await self._gate.body(request, operator=True)
        name = request.match_info["name"]
        receiver = self._notifier.named(name)
        if receiver is None:
            known = [str(row["name"]) for row in self._notifier.rows()]
            remedy = nearest(name, known, else_="see 'flotilla notify list'")
            raise http.NotFound(f"receiver {name[:80]}", "is not in spec.notify of fleet.yaml", remedy)
        try:
            await self._notifier.test(receiver, actor=http.actor(body))
        except FlotillaError as error:
            return http.answer({"receiver": name, "delivered": False, "error": str(error)})
        return http.answer({"receiver": name, "delivered": True, "error": ""})
