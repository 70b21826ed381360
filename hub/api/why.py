"""`GET /api/v1/rollouts/ID/why`: what a rollout did and why, from its record; `?cluster=` of one cluster in it.

The record is also replayed each time: `problem` tells when its steps, one after another, are not what the hub has.
"""

from collections.abc import Callable
from functools import partial

import anyio.to_thread
from aiohttp import web

from hub import record
from hub.api import http, named, status
from hub.journal import Journal, StoredRollout
from hub.loop import Loop
from hub.repo.schema import nearest
from hub.rollout import rollouts_json, steps
from hub.rollout.story import why
from hub.rollout.transitions import IN_FLIGHT
from hub.state import MemberPhase, State
from proto.errors import InvalidInput
from proto.ids import ClusterName

LINES = 1000
"""The newest; a story that is longer was read as it happened."""


class Whys:
    """The handlers; `routes` adds them to an application."""

    def __init__(self, loop: Loop, journal: Journal, *, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._journal = journal
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/rollouts/{id}/why", self.why)]

    async def why(self, request: web.Request) -> web.Response:
        """`?cluster=` is a member of the rollout."""
        id_, cluster = request.match_info["id"], request.query.get("cluster", "")
        async with self._loop.turning:  # memory and journal say the same while nobody turns
            row = await anyio.to_thread.run_sync(self._journal.rollout, id_)
            now = self._loop.states.get(row.id) if row else None
        if row is None:
            raise named.no_rollout(self._loop, id_)
        told = await anyio.to_thread.run_sync(partial(self._told, row, now, cluster, self._clock()))
        return http.answer(told)

    def _told(self, row: StoredRollout, now: State | None, cluster: str, at: float) -> status.Json:
        state = now or record.restored(row)
        if cluster and cluster not in state.members:
            remedy = nearest(cluster, state.members, else_=f"see 'flotilla rollouts {row.id}'")
            raise InvalidInput(f"cluster {cluster[:80]}", f"is not in rollout {row.id}", remedy)
        kept = self._journal.steps(row.number, until=row.n)
        begins, problem = rollouts_json.from_json(row.begins), ""
        if row.n and not kept:
            begins, problem = state, "its steps are kept no longer: it is not among the newest that are over"
        made = [steps.from_json(step) for _, step in kept]
        if not problem and (differs := _differs(begins, made, state)):
            problem = f"its record does not replay to what the hub has: {differs}; report this as a bug"
        seen = self._loop.live.views(lambda _: 0, {})
        flying = (name for name, member in state.members.items() if member.phase in (*IN_FLIGHT, MemberPhase.REVERTING))
        found = why.tell(begins, made, now=at, cluster=cluster, view={name: seen[name] for name in flying})
        return {
            "rollout": row.id,
            "phase": state.phase,
            "cluster": cluster,
            "problem": problem,
            "now": list(found.now),
            "waited": [{"for": what, "seconds": round(seconds, 3)} for what, seconds in found.waited.items()],
            "lines": [
                {"time": status.rfc3339(line.at), "kind": line.kind, "text": line.text} for line in found.lines[-LINES:]
            ],
            "left_out": max(0, len(found.lines) - LINES),
        }


def _differs(begins: State, made: list[steps.Step], state: State) -> str:
    """Where the replayed record is not `state`."""
    replayed = begins
    for step in made:
        replayed = steps.apply(replayed, step)
    if replayed == state:
        return ""
    wrong = [name for name, member in state.members.items() if replayed.members.get(name) != member]
    return f"of {len(wrong)} clusters, the first is {ClusterName(wrong[0])}" if wrong else "of the rollout as a whole"
