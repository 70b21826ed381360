"""`flotilla-hub`: starts the hub's parts and keeps them until SIGTERM. Longer than other modules by its options.

data folder:  journal.db   hard state            slices.git   what agents pull
              fleet.git    mirror of upstream    keys/        hub's own keys      admin.token   for commands
              sources/     bundles' sources from outside              operator.token for most of them
"""

import logging
import secrets
import signal
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.to_thread
import click
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
from hub.journal import EventRow, Journal
from hub.loop import Loop
from hub.notifier import Notifier
from hub.pins import Pins
from hub.publish import Publisher
from hub.repo import signers
from hub.repo.remote import Ssh
from hub.repo.verification import NOBODY_LOOKS, Mode, Verification
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
                )
            ),
            take=self.loop.tell,
            note=self.loop.note,
            clock=clock,
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
        made.add_routes(past.Past(self.journal).routes())
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
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=2.0)
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
        return _Chain(self.loop, self.journal, ClusterName(cluster))


class _Chain:
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


def _webhook_secrets(path: Path | None) -> tuple[bytes, ...]:
    """The secrets of a file, one a line. Raises InvalidInput when there is none: everybody's webhooks would be ours."""
    if path is None:
        return ()
    found = tuple(line.strip() for line in path.read_bytes().splitlines() if line.strip())
    if not found:
        raise InvalidInput(f"secret file {path}", "is empty", "write the secret that the Git host signs with")
    return found


def _pinned(files: tuple[Path, ...]) -> signers.Signers:
    """The signers of files. Raises InvalidInput for a file that is wrong, or names nobody: nobody's would be pinned."""
    found = signers.NOBODY
    for path in files:
        made = signers.read(path.read_text("utf-8", "replace"), what=f"signers file {path}")
        if not made:
            raise InvalidInput(f"signers file {path}", "names nobody", "write who may sign, or leave the option out")
        found = signers.Signers(ssh=found.ssh + made.ssh, gpg=found.gpg + made.gpg)
    return found


@click.command(
    context_settings={"show_default": True, "max_content_width": 110, "auto_envvar_prefix": "FLOTILLA_HUB"},
    epilog="""\b
Examples:
  flotilla-hub --fleet ./my-fleet --data ./hub-data
  flotilla-hub --fleet https://git.example.org/fleet.git --branch main --listen 0.0.0.0:8470 \\
      --tls-cert hub.crt --tls-key hub.key
  flotilla-hub --fleet git@git.example.org:fleet.git --revision v1.4 \\
      --ssh-key-file deploy.key --ssh-known-hosts-file known_hosts
  flotilla-hub --fleet ./my-fleet --verify-commits enforce --trusted-signers allowed_signers
  flotilla-hub --fleet https://git.example.org/fleet.git --poll 300 --webhook-secret-file webhook.secret

Every option can be set in the environment, as FLOTILLA_HUB_FLEET and so on.""",
)
@click.option("--fleet", required=True, metavar="PATH|URL", help="The fleet repo: a path, an http(s) or SSH address.")
@click.option("--branch", default="main", help="Its branch.")
@click.option("--revision", default="", metavar="TAG|COMMIT", help="Follow a tag, or stay at a commit of the branch.")
@click.option(
    "--ssh-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Private key without a passphrase, for a fleet repo reached by SSH.",
)
@click.option(
    "--ssh-known-hosts-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The host's key, as ssh-keyscan prints it; no other host is believed.",
)
@click.option(
    "--verify-commits",
    default="off",
    type=click.Choice(["off", "warn", "enforce"]),
    help="Whether each commit of the fleet repo has to be signed by a trusted signer.",
)
@click.option(
    "--trusted-signers",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of OpenSSH allowed_signers or armored GPG public keys; it wins over spec.signers of fleet.yaml.",
)
@click.option(
    "--source-credentials",
    type=click.Path(path_type=Path, exists=True),
    help="File or folder of the credentials that the fleet repo names, each bound to its addresses.",
)
@click.option(
    "--slice-signing-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Ed25519 SSH key without a passphrase; slices are signed with it from their next move on.",
)
@click.option(
    "--prometheus",
    multiple=True,
    metavar="[NAME=]URL",
    help="A Prometheus that metric gates ask, by the name that they give ('default' without one).",
)
@click.option(
    "--prometheus-token-file",
    multiple=True,
    metavar="[NAME=]FILE",
    help="The bearer token for it.",
)
@click.option(
    "--data",
    default="flotilla-hub",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for everything the hub keeps.",
)
@click.option(
    "--listen", default="127.0.0.1:8470", metavar="HOST:PORT", help="Address for agents, the API and metrics."
)
@click.option(
    "--public-url", default="", metavar="URL", help="Where people reach the hub: messages to receivers link there."
)
@click.option("--tls-cert", type=click.Path(path_type=Path, exists=True), help="Certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path, exists=True), help="Its key (PEM).")
@click.option(
    "--poll", "poll_s", default=15.0, type=click.FloatRange(0.2), help="Seconds between looks at the fleet repo."
)
@click.option(
    "--webhook-secret-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Secret of the Git host's webhooks to /webhooks/{github|gitlab|gitea|bitbucket}; several, one a line.",
)
@click.option(
    "--heartbeat", "heartbeat_s", default=30.0, type=click.FloatRange(0.2), help="Seconds between an agent's reports."
)
@click.option(
    "--otlp-endpoint",
    envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
    default="",
    metavar="URL",
    help="Send traces there (OTLP over HTTP).",
)
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]))
def main(
    fleet: str,
    branch: str,
    revision: str,
    ssh_key_file: Path | None,
    ssh_known_hosts_file: Path | None,
    verify_commits: Mode,
    trusted_signers: tuple[Path, ...],
    source_credentials: Path | None,
    slice_signing_key: Path | None,
    prometheus: tuple[str, ...],
    prometheus_token_file: tuple[str, ...],
    data: Path,
    listen: str,
    public_url: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    poll_s: float,
    webhook_secret_file: Path | None,
    heartbeat_s: float,
    otlp_endpoint: str,
    log_level: str,
) -> None:
    """Flotilla's hub: renders a fleet repo into one slice per cluster and moves the slices forward in waves."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    if public_url and not public_url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{public_url!r} is not an http(s) address", param_hint="--public-url")
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if bool(ssh_key_file) != bool(ssh_known_hosts_file):
        raise click.UsageError("--ssh-key-file and --ssh-known-hosts-file go together")
    ssh = None
    if ssh_key_file and ssh_known_hosts_file:
        ssh = Ssh(key=ssh_key_file, known_hosts=ssh_known_hosts_file)
    if trusted_signers and verify_commits == "off":
        raise click.UsageError("--trusted-signers needs --verify-commits warn or enforce")
    tls = None
    if tls_cert and tls_key:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(tls_cert, tls_key)
    try:
        hub = Hub(
            fleet=fleet,
            branch=branch,
            data=data,
            poll_s=poll_s,
            heartbeat_s=heartbeat_s,
            otlp=otlp_endpoint,
            webhook_secrets=_webhook_secrets(webhook_secret_file),
            revision=revision,
            ssh=ssh,
            trust=Verification(mode=verify_commits, pinned=_pinned(trusted_signers)),
            source_credentials=source_credentials,
            slice_key=slice_signing_key,
            prometheus=gatekeeper.servers(prometheus, prometheus_token_file),
            public_url=public_url,
        )
        anyio.run(partial(_serve, hub, host or "127.0.0.1", int(port), tls), backend_options=_backend())
    except FlotillaError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error.strerror or error}") from error


async def _serve(hub: Hub, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    async with anyio.create_task_group() as tasks:
        actual = await tasks.start(partial(hub.run, tls=tls), host, port, name="hub")
        log.info("listening on %s://%s:%d", "https" if tls else "http", host, actual)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping on %s", number.name)
                break
        tasks.cancel_scope.cancel()


def _backend() -> dict[str, bool]:
    """uvloop where it is installed: a TLS connection costs an eighth of the memory there."""
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return {}
    return {"use_uvloop": True}


if __name__ == "__main__":
    main()
