"""The parts of one hub process, wired: who is told what by whom. Each part's own module says what it does.

data folder:  journal.db   hard state            slices.git   what agents pull
              fleet.git    mirror of upstream    keys/        hub's own keys      admin.token   for commands
              sources/     bundles' sources from outside              operator.token for most of them
"""

import logging
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.to_thread
from aiohttp import web
from anyio.abc import TaskStatus

from hub import desired, directives, gatekeeper, isolation, worker
from hub.agents import sessions
from hub.agents.keys import SIGNING_KEY_FILE, HubKeys
from hub.api import api, bundles, commands, http, openapi, past, why
from hub.api.directing import Directing
from hub.api.metrics import HubMetrics
from hub.api.receivers import Receivers
from hub.api.webhooks import Webhooks
from hub.data_folder import only_one
from hub.external import credentials
from hub.gatekeeper import Gatekeeper
from hub.housekeeping import Housekeeping
from hub.inputs import FromAgent
from hub.joining import Joining
from hub.journal import EventRow, Journal
from hub.loop import Loop
from hub.notifier import Notifier
from hub.pins import Pins
from hub.publish import Publisher
from hub.repo.remote import Ssh
from hub.repo.verification import NOBODY_LOOKS, Verification
from hub.slices import git_http, signing
from hub.slices.gitstore import GitStore
from hub.tracing import Tracing
from hub.upstream import Upstream
from proto import keyfile, telemetry
from proto.errors import FlotillaError, InvalidInput
from proto.ids import ClusterName, Oid
from proto.messages import Report

log = logging.getLogger("flotilla.hub")

DENIALS_KEPT_S = 60.0
"""The same agent is named in the event list at most once a minute, however often it knocks."""


SILENT_S = 75.0
"""A connection without a whole request for so long is closed: strangers could hold all that there are, for an hour by
default. More than the minute after which most balancers close theirs, so that none is closed under a request."""


class Hub:
    """The parts of one hub process, wired."""

    def __init__(
        self,
        *,
        fleet: str,
        branch: str,
        data: Path,
        poll_s: float,
        heartbeat_s: float,
        otlp: str = "",
        webhook_secrets: tuple[bytes, ...] = (),
        revision: str = "",
        ssh: Ssh | None = None,
        trust: Verification = NOBODY_LOOKS,
        source_credentials: Path | None = None,
        prometheus: Mapping[str, gatekeeper.Server] = MappingProxyType({}),
        slice_key: Path | None = None,
        public_url: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        data.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            opened.enter_context(only_one(data))
            self.journal = Journal(data / "journal.db")
            opened.callback(self.journal.close)
            self.store = GitStore.create(data / "slices.git")
            self.keys = HubKeys.load_or_create(data / "keys")
            self.admin_token = _token(data / "admin.token")
            self.operator_token = _token(data / "operator.token")
            self._opened = opened.pop_all()
        self._clock = clock
        self.tracing = Tracing(telemetry.provider("flotilla-hub", otlp), silent=not otlp)
        self.loop = Loop(
            journal=self.journal,
            store=self.store,
            wake=lambda cluster, wake: self.sessions.wake(cluster, wake),
            direct=lambda cluster, told: self.sessions.direct(cluster, told),
            hears=lambda cluster: self.sessions.hears(cluster),
            tracing=self.tracing,
            heartbeat_s=heartbeat_s,
            sign=signing.load(slice_key).sign if slice_key is not None else bytes,
            clock=clock,
        )
        self.sessions = sessions.Sessions(
            self.keys,
            self.journal,
            slice_of=self._slice_of,
            directives_of=lambda cluster: directives.message(self.loop.directives, cluster),
            is_member=self._is_member,
            on_report=self._on_report,
            on_connect=self._on_connect,
            on_disconnect=self._on_disconnect,
            on_denied=self._on_denied,
            clock=clock,
            heartbeat_s=heartbeat_s,
        )
        self.housekeeping = Housekeeping(self.loop, store=self.store, journal=self.journal, clock=clock)
        read_credentials = partial(credentials.load, source_credentials)
        read_credentials()  # what is wrong with them is told at the start
        self.publisher = Publisher(
            self.loop, journal=self.journal, path=self.store.path, credentials=read_credentials, clock=clock
        )
        self.notifier = Notifier(
            self.loop, journal=self.journal, credentials=read_credentials, public_url=public_url, clock=clock
        )
        self.gatekeeper = Gatekeeper(self.loop, servers=prometheus, clock=clock)
        mirror = data / "fleet.git"
        self.pins = Pins(self.journal, data / "sources", secrets=source_credentials, clock=clock)
        self.upstream = Upstream(
            fleet,
            branch,
            mirror=mirror,
            poll_s=poll_s,
            revision=revision,
            ssh=ssh,
            trust=trust,
            render=lambda commit: self.housekeeping.rendered(
                lambda: desired.desired(
                    commit,
                    mirror=mirror,
                    store=self.store,
                    journal=self.journal,
                    pins=self.pins,
                    current=self.loop.composition(),
                    last=self.loop.desired,
                )
            ),
            take=self.loop.tell,
            note=self.loop.note,
            clock=clock,
        )
        self.joining = Joining(
            self.loop,
            mirror=mirror,
            store=self.store,
            journal=self.journal,
            pins=self.pins,
            stored=self.housekeeping.joined,
        )
        self._heartbeat_s = heartbeat_s
        self._webhook_secrets = webhook_secrets
        self._denials: dict[tuple[str, str], float] = {}
        tokens = (data / "admin.token", data / "operator.token")
        self._hidden = (*tokens, data / "keys" / SIGNING_KEY_FILE, data / "journal.db")
        self.exposed: tuple[str, ...] = ()
        """What renders could do, though they should not, since this kernel cannot keep them from it."""

    def application(self) -> web.Application:
        """Everything that the hub serves, on one listener."""
        made = web.Application(middlewares=[http.errors], client_max_size=git_http.MAX_REQUEST_BYTES)
        made.router.add_get(sessions.PATH, self.sessions.handler)
        made.add_routes(
            git_http.routes(
                self.store,
                cluster_of=lambda token: self.keys.check_token(token, now_s=self._clock()),
                chain=self._chain,
            )
        )
        metrics = HubMetrics(
            self.loop,
            denied=lambda: self.sessions.denied,
            unpublished=lambda: self.publisher.behind,
            receivers=self.notifier.rows,
            clock=self._clock,
            heartbeat_s=self._heartbeat_s,
        )
        gate = http.Gate(self.admin_token, self.operator_token)
        for_people = api.Api(
            self.loop,
            self.upstream,
            self.publisher,
            self.notifier,
            pins=self.pins,
            journal=self.journal,
            keys=self.keys,
            metrics=metrics,
            exposed=lambda: self.exposed,
            unasked=self.gatekeeper.problems,
            gate=gate,
            clock=self._clock,
            heartbeat_s=self._heartbeat_s,
        )
        made.add_routes(for_people.routes())
        made.add_routes(commands.Commands(self.loop, journal=self.journal, gate=gate, clock=self._clock).routes())
        made.add_routes(past.Past(self.loop, self.journal).routes())
        made.add_routes(why.Whys(self.loop, self.journal, clock=self._clock).routes())
        self.directing = Directing(
            self.loop,
            gate=gate,
            deaf=self.sessions.deaf,
            drift_detail=self.sessions.drift_detail,
            clock=self._clock,
        )
        made.add_routes(self.directing.routes())
        made.add_routes(Receivers(self.notifier, gate=gate).routes())
        made.add_routes(bundles.Bundles(self.loop, store=self.store, gate=gate).routes())
        webhooks = Webhooks(self._webhook_secrets, ref=self.upstream.ref, wake=self.upstream.wake, clock=self._clock)
        made.add_routes(webhooks.routes())
        made.add_routes(openapi.routes())
        made.on_shutdown.append(for_people.stop)
        return made

    async def run(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; reports the port that it listens on."""
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=2.0, keepalive_timeout=SILENT_S)
        try:
            await self.loop.publish_all()
            try:
                self.exposed = await worker.run(isolation.lacks, self._hidden, what="a confined process", sees=())
            except FlotillaError as error:
                self.exposed = (f"renders may see too much, it could not be tried: {error}",)
            for text in self.exposed:
                log.warning("%s", text)
            await runner.setup()
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.loop.run, name="loop")
                tasks.start_soon(self.upstream.run, name="upstream")
                tasks.start_soon(self.joining.run, name="joining")
                tasks.start_soon(self.gatekeeper.run, name="gatekeeper")
                tasks.start_soon(self.pins.run, self.upstream.poke, name="pins")
                tasks.start_soon(self.housekeeping.run, name="housekeeping")
                tasks.start_soon(self.publisher.run, name="publisher")
                tasks.start_soon(self.notifier.run, name="notifier")
                task_status.started(int(runner.addresses[0][1]))
        finally:
            self.sessions.stop()
            with anyio.move_on_after(10, shield=True):
                await runner.cleanup()
                await anyio.to_thread.run_sync(self.tracing.close)
            self.loop.close()
            self._opened.close()

    # --- what the sessions ask ------------------------------------------------------------------------------------

    def _slice_of(self, cluster: str) -> tuple[int, str]:
        row = self.loop.slices.get(ClusterName(cluster))
        return (row.seq, row.commit) if row else (0, "")

    def _is_member(self, cluster: str) -> bool:
        name, now = ClusterName(cluster), self.loop.desired
        if name in self.loop.slices or (now and (name in now.fleet.clusters or name in now.fleet.broken_clusters)):
            return True
        return (now is None or now.fleet.lost_clusters) and self.journal.public_key(cluster) is not None

    async def _on_report(self, cluster: str, report: Report) -> None:
        await self.loop.tell(FromAgent(cluster=ClusterName(cluster), report=report))

    def _on_connect(self, cluster: str) -> None:
        self.loop.live.of(ClusterName(cluster)).connected_since = self._clock()

    def _on_disconnect(self, cluster: str) -> None:
        self.loop.live.of(ClusterName(cluster)).connected_since = None

    def _on_denied(self, cluster: str, cause: str) -> None:
        now = self._clock()
        if now - self._denials.get((cluster, cause), 0.0) < DENIALS_KEPT_S:
            return
        if len(self._denials) > 1000:
            self._denials.clear()
        self._denials[cluster, cause] = now
        self.loop.note(EventRow(time_s=now, kind="denied", text=cause, cluster=cluster))

    def _chain(self, cluster: str) -> git_http.Chain:
        return Chain(self.loop, self.journal, ClusterName(cluster))


class Chain:
    """One cluster's slices, for Git serving: from the journal, never from refs."""

    def __init__(self, loop: Loop, journal: Journal, cluster: ClusterName) -> None:
        self._loop, self._journal, self._cluster = loop, journal, cluster

    @property
    def tip(self) -> Oid | None:
        row = self._loop.slices.get(self._cluster)
        return row.commit if row else None

    def __contains__(self, commit: Oid) -> bool:
        return self._journal.in_chain(self._cluster, commit)


def _token(path: Path) -> str:
    """A token for commands, made at the first start, readable by the owner only."""
    if not path.exists():
        keyfile.write_once(path, secrets.token_urlsafe(24).encode() + b"\n")
    token = path.read_text().strip()
    if not token:  # it would let everybody in who sends none
        raise InvalidInput(f"token file {path}", "is empty", "remove it: the next start makes a new token")
    return token
