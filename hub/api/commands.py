"""What people ask of rollouts, bundles and clusters as the hub moves them, over HTTP: each with a reason that is kept.

| path below /api/v1/     | body                        | asks                                                       |
|-------------------------|-----------------------------|------------------------------------------------------------|
| rollouts/ID/VERB        | reason; cluster of `skip`,  | what `rollout.commands` says of the verb                   |
|                         | gate of `approve`, `reject` |                                                            |
| bundles/NAME/hold       | reason; abort               | the bundle stays as it is, whatever is committed           |
| bundles/NAME/rollback   | reason; to, at_once, abort  | the bundle goes back to a revision, and stays there        |
| bundles/NAME/release    | reason                      | a bundle on hold goes on                                   |
| clusters/NAME/cordon    | reason                      | no rollout touches the cluster; what runs there stays      |
| clusters/NAME/uncordon  | reason                      | rollouts may go there again; what it missed it catches up  |

Every handler is good for the operator's token, but for the verbs of `ADMIN_VERBS`. What people ask of agents is in
`directing`. Next: the loop, which stores each word with what it does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
from aiohttp import web

from hub import directives, earlier, record
from hub.api import http, named, status, waiting
from hub.inputs import Direct, PutOnHold, Release, ToRollout
from hub.journal import DirectiveKey, DirectiveKind, DirectiveRow, EventRow, Journal
from hub.loop import Loop
from hub.state import FINAL, NO_ROLLOUT, VERBS, Command, Keep
from proto.errors import InvalidInput
from proto.ids import BundleName, RolloutId

ADMIN_VERBS = frozenset({"emergency"})
"""It passes everything that protects the fleet."""


class Commands:
    """The handlers; `routes` adds them to an application."""

    def __init__(self, loop: Loop, *, journal: Journal, gate: http.Gate, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._journal = journal
        self._gate = gate
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(f"/api/v1/rollouts/{{id}}/{{verb:{'|'.join(VERBS)}}}", self.to_rollout),
            web.post("/api/v1/bundles/{name}/hold", self.hold),
            web.post("/api/v1/bundles/{name}/rollback", self.roll_back),
            web.post("/api/v1/bundles/{name}/release", self.release),
            web.post("/api/v1/clusters/{name}/cordon", self.cordon),
            web.post("/api/v1/clusters/{name}/uncordon", self.uncordon),
        ]

    async def to_rollout(self, request: web.Request) -> web.Response:
        """`{"reason": …, "actor": …}`, both kept for ever; `skip` has a `cluster`, `approve` and `reject` a `gate`."""
        body = await self._gate.body(request, operator=True)
        verb: Any = request.match_info["verb"]
        if verb in ADMIN_VERBS:
            http.admin_only(body["role"])
        command = Command(
            verb=verb,
            actor=http.actor(body),
            reason=http.reason(body),
            cluster=str(body.get("cluster") or ""),
            gate=str(body.get("gate") or ""),
        )
        rollout = RolloutId(request.match_info["id"])
        named.rollout(self._loop, rollout)
        await self._loop.tell(ToRollout(rollout=rollout, command=command, role=body["role"]))
        state = self._loop.states.get(rollout) or record.restored(named.rollout(self._loop, rollout))
        return http.answer({**status.rollout(state), **waiting.of_rollout(state, self._clock())})

    async def hold(self, request: web.Request) -> web.Response:
        """Keep a bundle as it is until it is released."""
        body = await self._gate.body(request, operator=True)
        return await self._keep(request, body, Keep())

    async def roll_back(self, request: web.Request) -> web.Response:
        """Bring a bundle back to the revision `to`, or to what it was before; it stays there."""
        body = await self._gate.body(request, operator=True)
        bundle = named.bundle(self._loop, request.match_info["name"])
        to, at_once = body.get("to") or "", body.get("at_once") is True
        http.reason(body)
        if not isinstance(to, str):
            raise InvalidInput("to", "is no revision", "write a commit of the fleet repo")
        if to:
            find = partial(earlier.at_revision, self._journal, bundle, to, at_once=at_once)
        else:
            find = partial(earlier.previous, self._journal, bundle, self._loop.holds.get(bundle), at_once=at_once)
        row, keep = await anyio.to_thread.run_sync(find)
        return await self._keep(request, body, keep, rollout=row.rollout)

    async def _keep(
        self, request: web.Request, body: Mapping[str, Any], keep: Keep, *, rollout: RolloutId = NO_ROLLOUT
    ) -> web.Response:
        bundle = named.bundle(self._loop, request.match_info["name"])
        asked = PutOnHold(
            bundle=bundle,
            keep=keep,
            actor=http.actor(body),
            reason=http.reason(body),
            rollout=rollout,
            abort=body.get("abort") is True,
            role=body["role"],
        )
        await self._loop.tell(asked)
        now = [state for state in self._loop.states.values() if bundle in state.rollout.bundles]
        way = next((state.rollout.id for state in now if state.phase not in FINAL and not state.rollout.base), "")
        hold = self._loop.holds.get(bundle)
        return http.answer({"bundle": bundle, "hold": status.hold(hold) if hold else None, "rollout": way})

    async def release(self, request: web.Request) -> web.Response:
        """Let a bundle that is on hold go on."""
        body = await self._gate.body(request, operator=True)
        bundle = BundleName(request.match_info["name"])
        why = http.reason(body)
        if bundle not in self._loop.holds:
            named.bundle(self._loop, bundle)
            raise InvalidInput(f"bundle {bundle}", "is not on hold", "see 'flotilla status'")
        await self._loop.tell(Release(bundle=bundle, actor=http.actor(body), reason=why, role=body["role"]))
        return http.answer({"bundle": bundle, "hold": None})

    async def cordon(self, request: web.Request) -> web.Response:
        """Keep rollouts away from a cluster."""
        body, now = await self._gate.body(request, operator=True), self._clock()
        cluster = named.cluster(self._loop, request.match_info["name"])
        row = directives.cordon(cluster, why=f"{http.actor(body)}: {http.reason(body)}", now=now)
        return await self._direct(row.key, row, "cordon", body)

    async def uncordon(self, request: web.Request) -> web.Response:
        """Let rollouts go there again."""
        body = await self._gate.body(request, operator=True)
        cluster = named.cluster(self._loop, request.match_info["name"])
        http.reason(body)
        key = (DirectiveKind.CORDON, cluster, "")
        if key not in self._loop.directives:
            raise InvalidInput(f"cluster {cluster}", "is not cordoned", "see 'flotilla status'")
        return await self._direct(key, None, "uncordon", body)

    async def _direct(self, key: DirectiveKey, row: DirectiveRow | None, verb: str, body: Any) -> web.Response:
        _, cluster, _ = key
        event = EventRow(
            time_s=self._clock(),
            kind="command",
            cluster=cluster,
            text=f"{http.actor(body)}: {verb} {cluster}: {http.reason(body)}",
            word=http.word(body, verb),
        )
        await self._loop.tell(Direct(rows={key: row}, event=event))
        cordoned = {"why": row.why, "since": status.rfc3339(row.time_s)} if row else None
        return http.answer({"cluster": cluster, "cordoned": cordoned})
