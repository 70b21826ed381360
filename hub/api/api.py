"""The hub's HTTP API for people and tools: what is, as JSON, and commands to the hub itself.

Reads are open to whoever reaches the listener; commands need a token of the hub's data folder (`http` says which may
what) as `Authorization: Bearer …`. Values come from `status`; commands go to the loop as values: those to rollouts are
in `commands`, those that ask something of agents in `directing`. Errors are JSON with `error` and `remedy`.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from hub import directives, record
from hub.agents.keys import HubKeys
from hub.api import http, named, snapshot, status, waiting
from hub.api.metrics import HubMetrics
from hub.api.page import Page
from hub.api.stream import Stream
from hub.inputs import Happened
from hub.journal import DirectiveKind, DirectiveRow, EventRow, Journal, StoredRollout, Word
from hub.loop import Loop
from hub.notifier import Notifier
from hub.pins import ALL, Pins
from hub.publish import Publisher
from hub.repo.schema import nearest
from hub.state import FINAL, State
from hub.upstream import Upstream
from proto.errors import InvalidInput
from proto.ids import ClusterName, check_name

MAX_BODY_BYTES = 64 << 10
JOIN_TOKEN_TTL_S = 24 * 3600.0
SHOWN_ROLLOUTS = 8
SHOWN_DRIFT = 50
"""How much of what is over the status page shows; the lists have the rest."""


class Api:
    """The handlers; `routes` adds them to an application."""

    def __init__(
        self,
        loop: Loop,
        upstream: Upstream,
        publisher: Publisher,
        notifier: Notifier,
        *,
        journal: Journal,
        pins: Pins,
        keys: HubKeys,
        metrics: HubMetrics,
        exposed: Callable[[], Sequence[str]],
        unasked: Callable[[], Sequence[str]],
        gate: http.Gate,
        clock: Callable[[], float],
        heartbeat_s: float,
    ) -> None:
        self._loop = loop
        self._upstream = upstream
        self._publisher = publisher
        self._notifier = notifier
        self._pins = pins
        self._journal = journal
        self._keys = keys
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        self._exposed = exposed
        self._unasked = unasked
        self._gate = gate
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self.stream = Stream(self.snapshot, changed=lambda: loop.changed)
        self._past: tuple[object, status.Json] = (None, {})

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", Page().handler),
            web.get("/api/v1/stream", self.stream.handler, allow_head=False),  # it has no end
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/api/v1/fleet", self.fleet),
            web.get("/api/v1/clusters", self.clusters),
            web.get("/api/v1/clusters/{name}", self.cluster),
            web.get("/api/v1/bundles", self.bundles),
            web.get("/api/v1/rollouts", self.rollouts),
            web.get("/api/v1/rollouts/{id}", self.rollout),
            web.get("/api/v1/drift", self.drift),
            web.get("/api/v1/events", self.events),
            web.post("/api/v1/join-tokens", self.join_token),
            web.post("/api/v1/sync", self.sync),
        ]

    async def stop(self, application: web.Application) -> None:
        """Let the streams end: the hub is going."""
        self.stream.close()

    # --- probes ---------------------------------------------------------------------------------------------------

    async def healthz(self, request: web.Request) -> web.Response:
        """The process answers."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """The fleet repo was read once and decisions can be stored."""
        if self._loop.problem:
            return web.Response(status=503, text=f"{self._loop.problem}\n")
        if self._loop.desired is None:
            return web.Response(status=503, text=f"{self._upstream.problem or 'the fleet repo was not read yet'}\n")
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # --- what is --------------------------------------------------------------------------------------------------

    async def fleet(self, request: web.Request) -> web.Response:
        """The whole fleet in one object."""
        loop, desired, now = self._loop, self._loop.desired, self._clock()
        rows = self._cluster_rows(now)
        return http.answer(
            {
                "upstream": self._upstream_row(),
                "revision": desired.commit if desired else "",
                "clusters": {
                    "total": len(rows),
                    "connected": sum(row["connection"] == "connected" for row in rows),
                    "health": status.count(row["health"] for row in rows),
                },
                "bundles": len(desired.fleet.bundles) if desired else 0,
                "rollouts": [_shown(state, now) for state in self._under_way()],
                "holds": sorted(loop.holds),
                "freezes": waiting.freezes(desired.fleet, now) if desired else [],
                "on_hold": [{"bundle": name, **status.hold(row)} for name, row in sorted(loop.holds.items())],
                "joining": waiting.joining(loop.memory.joining),
                "directives": status.directives(loop.directives.values(), loop.live.clusters),
                "findings": [status.finding(item) for item in desired.findings] if desired else [],
                "problems": [
                    text
                    for text in (
                        *(*self._exposed(), self._upstream.problem, loop.problem, self._publisher.problem),
                        *(*self._notifier.problems(), *self._unasked()),
                    )
                    if text
                ],
            }
        )

    def snapshot(self) -> status.Json:
        """What the status page shows."""
        loop, desired, now = self._loop, self._loop.desired, self._clock()
        under_way = sorted(self._under_way(), key=lambda state: -state.rollout.number)
        return {
            "time": status.rfc3339(now),
            "upstream": self._upstream_row(),
            "revision": desired.commit if desired else "",
            "clusters": snapshot.clusters(self._cluster_rows(now)),
            "bundles": len(desired.fleet.bundles) if desired else 0,
            "rollouts": [
                {**snapshot.rollout(state), **waiting.of_rollout(state, now)}
                for state in under_way[: snapshot.MAX_ROLLOUTS]
            ],
            "rollouts_total": len(under_way),
            "holds": snapshot.holds(loop.holds),
            "freezes": waiting.freezes(desired.fleet, now) if desired else [],
            "directives": snapshot.directives(status.directives(loop.directives.values(), loop.live.clusters)),
            "findings": snapshot.findings([status.finding(item) for item in desired.findings] if desired else []),
            "problems": snapshot.problems(
                exposed=self._exposed(),
                upstream=self._upstream.problem,
                loop=loop.problem,
                publish=self._publisher.problem,
                unheard=self._notifier.problems(),
                unasked=self._unasked(),
            ),
            **self._over(),
        }

    def _over(self) -> status.Json:
        """What is over, from the journal: read again only after a turn stored something."""
        if self._past[0] is not self._loop.changed:
            changed = self._loop.changed
            rows = self._journal.rollouts(alive=False, limit=SHOWN_ROLLOUTS)
            drift = self._journal.events(kind="drift", limit=SHOWN_DRIFT)
            past = [snapshot.rollout(record.restored(row)) for row in rows]
            self._past = changed, {"past_rollouts": past, "drift": snapshot.drift(drift)}
        return self._past[1]

    async def clusters(self, request: web.Request) -> web.Response:
        return http.answer({"clusters": self._cluster_rows(self._clock())})

    async def cluster(self, request: web.Request) -> web.Response:
        loop = self._loop
        name = named.cluster(loop, request.match_info["name"])
        row, live = loop.slices.get(name), loop.live.clusters.get(name)
        suspended = directives.suspended(loop.directives)
        return http.answer(
            {
                **self._cluster_row(name, directives.pauses(loop.directives), self._clock()),
                "bundle_list": status.cluster_bundles(row, live, suspended=suspended.get(name, {})),
                "moves": [
                    {**move, "time": status.rfc3339(float(str(move["time_s"])))}
                    for move in self._journal.moves(name, limit=20)
                ],
            }
        )

    async def bundles(self, request: web.Request) -> web.Response:
        loop = self._loop
        return http.answer(
            {
                "bundles": status.bundles(
                    desired=loop.desired,
                    slices=loop.slices,
                    live=loop.live.clusters,
                    states=loop.states.values(),
                    holds=loop.holds,
                    suspended=directives.suspended(loop.directives),
                    now=self._clock(),
                    heartbeat_s=self._heartbeat_s,
                )
            }
        )

    async def rollouts(self, request: web.Request) -> web.Response:
        """Newest first; `?limit=` up to 1,000."""
        rows = self._journal.rollouts(limit=http.number(request, "limit", 50))
        shown = [_shown(self._state(row), self._clock()) for row in rows]
        return http.answer({"rollouts": shown, "joining": waiting.joining(self._loop.memory.joining)})

    async def rollout(self, request: web.Request) -> web.Response:
        row = named.rollout(self._loop, request.match_info["id"])
        return http.answer(_shown(self._state(row), self._clock(), members=True))

    async def drift(self, request: web.Request) -> web.Response:
        """Reported drift, oldest first; `?since=ID&limit=N&cluster=C&bundle=B`."""
        return self._event_list(request, "drift", kind="drift")

    async def events(self, request: web.Request) -> web.Response:
        """Everything that happened, oldest first; `?since=ID&limit=N&kind=K&cluster=C&bundle=B`."""
        return self._event_list(request, "events", kind=request.query.get("kind", ""))

    def _event_list(self, request: web.Request, name: str, *, kind: str) -> web.Response:
        rows = self._journal.events(
            since=http.number(request, "since", 0, most=2**62),
            limit=http.number(request, "limit", 200),
            kind=kind,
            cluster=request.query.get("cluster", ""),
            bundle=request.query.get("bundle", ""),
        )
        if not rows:
            named.asked_for(self._loop, request)
        return http.answer({name: [status.event(row) for row in rows]})

    # --- commands -------------------------------------------------------------------------------------------------

    async def join_token(self, request: web.Request) -> web.Response:
        """`{"cluster": NAME}` → `{"token": …}`; used once, good for a day (`ttl_s` changes that)."""
        body = await self._gate.body(request)
        cluster = check_name("cluster", str(body.get("cluster", "")))
        if cluster not in (known := named.clusters(self._loop)):
            named.read_once(self._loop, f"cluster {cluster}")
            file, meant = f"commit a Cluster file for it first (clusters/{cluster}.yaml)", nearest(cluster, known)
            remedy = f"{meant} Otherwise {file}" if meant else file
            raise InvalidInput(f"cluster {cluster}", "is not in the fleet repo", remedy)
        ttl_s = body.get("ttl_s", JOIN_TOKEN_TTL_S)
        if not isinstance(ttl_s, int | float) or not 60 <= ttl_s <= 30 * 24 * 3600:
            raise InvalidInput("ttl_s", f"is {str(ttl_s)[:40]}", "use 60 (a minute) to 2592000 (30 days)")
        token, mac_key = self._keys.join_token(cluster, secrets.token_hex(8))
        now = self._clock()
        text, word = f"a join token for cluster {cluster} was made", http.word(body, "join-token")
        told = EventRow(time_s=now, kind="join-token", text=text, cluster=cluster, word=word)
        until = now + ttl_s
        self._journal.add_join_token(token.join_id, cluster=cluster, mac_key=mac_key, expires_at=until, told=told)
        return http.answer({"cluster": cluster, "token": token.encode(), "expires_at": status.rfc3339(until)})

    async def sync(self, request: web.Request) -> web.Response:
        """Read the fleet repo now; `{"accept_rewrite": true, "reason": …}` takes a rewritten history too, and
        `{"refresh": [bundle, …]}` (`*`: all) resolves sources outside of it anew."""
        body = await self._gate.body(request, operator=True)
        accept = body.get("accept_rewrite") is True
        if accept:
            http.admin_only(body["role"])
        refresh = self._outside(body.get("refresh"))
        if accept:
            text = f"{http.actor(body)}: accept the fleet repo's rewritten history: {http.reason(body)}"
            await self._audit(text, http.word(body, "accept-rewrite"))
        if refresh:
            text = f"{http.actor(body)}: resolve the source anew of {', '.join(sorted(refresh))}"
            await self._audit(text, http.word(body, "refresh", bundles=tuple(sorted(refresh))))
            self._pins.refresh(refresh)
        self._upstream.poke(accept_rewrite=accept)
        return http.answer({"upstream": self._upstream_row()})

    def _outside(self, stated: object) -> frozenset[str]:
        """Bundles with sources outside the fleet repo, as they were asked for; all for `*`."""
        now = self._loop.desired
        known: set[str] = set()
        if now is not None:
            known = {
                name for name, bundle in now.fleet.bundles.items() if bundle.external is not None
            } | now.pins.keys()
        names = [] if stated is None else stated
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidInput("refresh", "is not a list of bundles", "write for example [shop], or [*]")
        if ALL in names:
            return frozenset(known)
        for name in names:
            if name not in known:
                remedy = nearest(name, known, else_=f"those are: {', '.join(sorted(known)) or 'none'}")
                raise InvalidInput(f"bundle {name[:80]!r}", "has no source outside the fleet repo", remedy)
        return frozenset(names)

    async def _audit(self, text: str, word: Word) -> None:
        await self._loop.tell(Happened(event=EventRow(time_s=self._clock(), kind="command", text=text, word=word)))

    # --- shared ---------------------------------------------------------------------------------------------------

    def _cluster_rows(self, now: float) -> list[status.Json]:
        pauses = directives.pauses(self._loop.directives)
        return [self._cluster_row(name, pauses, now) for name in sorted(named.clusters(self._loop))]

    def _cluster_row(self, name: ClusterName, pauses: Mapping[ClusterName, DirectiveRow], now: float) -> status.Json:
        loop = self._loop
        return status.cluster(
            name,
            desired=loop.desired,
            row=loop.slices.get(name),
            live=loop.live.clusters.get(name),
            pause=pauses.get(name),
            cordon=loop.directives.get((DirectiveKind.CORDON, name, "")),
            now=now,
            heartbeat_s=self._heartbeat_s,
        )

    def _upstream_row(self) -> status.Json:
        upstream = self._upstream
        return {
            "url": upstream.url,
            "branch": upstream.branch,
            "commit": upstream.tip or "",
            "synced_at": status.rfc3339(upstream.synced_s),
            "problem": upstream.problem,
        }

    def _under_way(self) -> list[State]:
        return [state for state in self._loop.states.values() if state.phase not in FINAL]

    def _state(self, row: StoredRollout) -> State:
        return self._loop.states.get(row.id) or record.restored(row)


def _shown(state: State, now: float, *, members: bool = False) -> status.Json:
    return {**status.rollout(state, members=members), **waiting.of_rollout(state, now)}
