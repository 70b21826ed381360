"""`flotilla-agent`: reads its options, makes the parts, and runs the loop until it is told to end.

The state folder belongs to one process: it is locked, and a kill frees the lock. SIGTERM and SIGINT let what is under
way finish, save the inventory and give the lease back. `loop` does the work.
"""

import argparse
import ctypes
import datetime
import faulthandler
import fcntl
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

import anyio
import anyio.to_thread
from anyio.abc import SocketAttribute, SocketStream

from agent.inventory import Inventory
from agent.kube.cluster import Cluster, backoff
from agent.kube.lease import Lease
from agent.loop import Loop
from agent.owner.directives import DirectiveStore
from agent.stream.bundle_folder import BundleFolder
from agent.stream.git_host import Login
from agent.stream.hub_client import HubClient
from agent.stream.identity import Identity
from agent.stream.receive import Receiver
from agent.stream.report import Reporter
from agent.stream.report_file import ReportFile
from agent.tracing import Tracing
from proto import telemetry
from proto.errors import FlotillaError, InvalidInput
from proto.identity import JoinToken

VERSION: Final = version("flotilla")
END_S: Final = 25
"""From the signal to the end of the process, whatever hangs: a pod is killed after 30 s without a word."""
LARGE_BYTES: Final = 128 << 10
_M_MMAP_THRESHOLD: Final = -3
"""glibc's number for mallopt."""
_EXAMPLES = """\
examples:
  in a cluster, the first time:
    flotilla-agent --hub https://hub.example.org --join-token-file /run/secrets/join-token
  afterwards, the state folder knows hub and key:
    flotilla-agent --hub https://hub.example.org --cluster eu-1
  on a workstation:
    flotilla-agent --hub http://127.0.0.1:8080 --kubeconfig ~/.kube/config --context kind-eu-1 \\
      --state-dir ./agent-eu-1 --join-token-file ./token
  without a hub, enforce the slice that is in the state folder:
    flotilla-agent --cluster eu-1
  without a hub, in an air-gapped cluster: enforce the newest of the git bundles that somebody puts there:
    flotilla-agent --cluster eu-1 --slice-bundles /media/slices --report-file /media/slices/eu-1.report.json

Every option can be given in the environment: --hub is FLOTILLA_HUB, --state-dir FLOTILLA_STATE_DIR, and so on.
"""

log = logging.getLogger("flotilla.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and the environment say, checked."""

    hub: str
    slice_bundles: Path | None
    report_file: Path | None
    cluster: str
    join_token: JoinToken | None
    state_dir: Path
    kubeconfig: Path | None
    context: str | None
    otlp_endpoint: str
    controllers: tuple[str, ...]
    log_level: str
    health_listen: str


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The options. Raises InvalidInput; argparse ends the process for what it cannot read."""

    def default(name: str, otherwise: str = "") -> str:
        return environment.get(f"FLOTILLA_{name}", otherwise)

    parser = argparse.ArgumentParser(
        prog="flotilla-agent",
        description="Keeps this Kubernetes cluster equal to its slice of the fleet repo.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hub", metavar="URL", default=default("HUB"), help="the hub's address; without it the last slice is enforced")
    add(
        "--cluster",
        metavar="NAME",
        default=default("CLUSTER"),
        help="this cluster's name (the join token names it, too)",
    )
    add("--join-token", metavar="TOKEN", default=default("JOIN_TOKEN"), help="the join token; a file is safer")
    add("--join-token-file", metavar="FILE", default=default("JOIN_TOKEN_FILE"), help="a file with the join token")
    add(
        "--state-dir",
        metavar="DIR",
        default=default("STATE_DIR", "/var/lib/flotilla-agent"),
        help="key, slice and inventory; one agent each (%(default)s)",
    )
    add(
        "--kubeconfig",
        metavar="FILE",
        default=default("KUBECONFIG"),
        help="how to reach the API server (the service account of the pod)",
    )
    add(
        "--slice-bundles",
        metavar="PATH",
        default=default("SLICE_BUNDLES"),
        help="without a hub: take slices from this git bundle, or from every *.bundle of this folder",
    )
    add(
        "--report-file",
        metavar="FILE",
        default=default("REPORT_FILE"),
        help="keep a file of what the agent would tell a hub (not kept)",
    )
    add("--context", metavar="NAME", default=default("CONTEXT"), help="the kubeconfig's context (its current one)")
    add(
        "--otlp-endpoint",
        metavar="URL",
        default=default("OTLP_ENDPOINT", environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")),
        help="where traces go, OTLP over HTTP (OTEL_EXPORTER_OTLP_ENDPOINT; none)",
    )
    add(
        "--controllers",
        metavar="NAMES",
        default=default("CONTROLLERS"),
        help="field managers, with commas, whose fields beside ours are no drift; Kubernetes' own are known",
    )
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default=default("LOG_LEVEL", "info"),
        help="(%(default)s)",
    )
    add(
        "--health-listen",
        metavar="HOST:PORT",
        default=default("HEALTH_LISTEN"),
        help="serve /healthz for probes (not served)",
    )
    add("--version", action="version", version=f"flotilla-agent {VERSION}")
    found = parser.parse_args(arguments)
    token = _join_token(found.join_token, found.join_token_file)
    cluster = found.cluster or (token.cluster if token is not None else "")
    if not cluster:
        raise InvalidInput("cluster", "has no name", "give --cluster, or the join token of the first start")
    if found.hub and found.slice_bundles:
        raise InvalidInput("--slice-bundles", "is for an agent without a hub", "give --hub or --slice-bundles")
    return Options(
        hub=found.hub,
        slice_bundles=Path(found.slice_bundles) if found.slice_bundles else None,
        report_file=Path(found.report_file) if found.report_file else None,
        cluster=cluster,
        join_token=token,
        state_dir=Path(found.state_dir),
        kubeconfig=Path(found.kubeconfig).expanduser() if found.kubeconfig else None,
        context=found.context or None,
        otlp_endpoint=found.otlp_endpoint,
        controllers=tuple(name for name in (part.strip() for part in found.controllers.split(",")) if name),
        log_level=found.log_level,
        health_listen=found.health_listen,
    )


def _join_token(text: str, file: str) -> JoinToken | None:
    if file:
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"join token file {file}", f"cannot be read: {error}") from error
    return JoinToken.decode(text) if text.strip() else None


def main() -> None:
    """The console script."""
    try:
        options = parse(sys.argv[1:], os.environ)
        logging.basicConfig(
            stream=sys.stderr,
            level=options.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        _give_large_buffers_back()
        with locked(options.state_dir) as holder:
            anyio.run(run, options, holder, backend_options={"use_uvloop": _has_uvloop()})
    except FlotillaError as error:
        sys.exit(f"flotilla-agent: {error}")


async def run(options: Options, holder: str) -> None:
    """Run the agent until SIGTERM or SIGINT. `holder` is its name in the lease."""
    provider = (
        telemetry.provider(
            "flotilla-agent", options.otlp_endpoint, exporter=None, **{telemetry.ATTR_CLUSTER: options.cluster}
        )
        if options.otlp_endpoint
        else None
    )
    tracing = Tracing(options.cluster, provider)
    reporter = Reporter(options.state_dir, boot_id=secrets.token_hex(8), agent_version=VERSION)
    receiver = Receiver(options.state_dir, options.cluster)
    async with Cluster.connect(options.kubeconfig, options.context) as cluster:
        with Inventory(options.state_dir / "inventory.db") as inventory:
            hub: HubClient | None = None

            async def fetch() -> bool:
                url = f"{options.hub.rstrip('/')}/git/{options.cluster}.git"
                token = hub.token if hub is not None else ""
                return await receiver.fetch(url, Login(user=options.cluster, password=token) if token else None)

            bundles = BundleFolder(options.slice_bundles, receiver) if options.slice_bundles is not None else None
            lease = Lease(cluster, holder=holder, timestamp=_timestamp)
            loop = Loop(
                cluster,
                lease=lease,
                inventory=inventory,
                receiver=receiver,
                reporter=reporter,
                tracing=tracing,
                directives=DirectiveStore(options.state_dir),
                cluster=options.cluster,
                fetch=bundles.take if bundles is not None else fetch if options.hub else None,
                timestamp=_timestamp,
                wall_ns=time.time_ns,
                controllers=options.controllers,
            )
            if options.hub:
                who = Identity.load_or_create(options.state_dir, options.cluster, join_token=options.join_token)
                hub = HubClient(
                    options.hub,
                    who,
                    reporter=reporter,
                    on_wake=loop.on_wake,
                    on_query=loop.on_query,
                    on_directives=loop.on_directives,
                )
            async with anyio.create_task_group() as group:
                group.start_soon(_stop_on_signal, loop, name="signals")
                group.start_soon(_tell_version, cluster, reporter, name="version")
                if hub is not None:
                    group.start_soon(in_turn, lease, hub.run, name="hub")
                if bundles is not None:
                    group.start_soon(bundles.watch, loop.on_wake, name="bundles")
                if options.report_file is not None:
                    file = ReportFile(options.report_file, reporter, cluster=options.cluster, timestamp=_timestamp)
                    group.start_soon(file.run, name="report file")
                if options.health_listen:
                    group.start_soon(_serve_health, options.health_listen, name="health")
                await loop.run()
                group.cancel_scope.cancel()
    await anyio.to_thread.run_sync(tracing.close)


async def in_turn(lease: Lease, speak: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `speak` for ever, but not while another agent has the lease.

    The agents of one cluster share its name, so the hub ends one's session when the other connects: only who acts may.
    """
    while True:
        await lease.wait_elsewhere(False)
        async with anyio.create_task_group() as group:
            group.start_soon(speak, name="stream")
            await lease.wait_elsewhere(True)
            group.cancel_scope.cancel()


async def _stop_on_signal(loop: Loop) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: finishing what is under way", number.name)
            # Tells what every thread was at, so that the one that hung is known.
            faulthandler.dump_traceback_later(END_S, exit=True)
            loop.stop()


async def _tell_version(cluster: Cluster, reporter: Reporter) -> None:
    for delay in backoff():
        try:
            reporter.set_kubernetes_version(await cluster.version())
            return
        except FlotillaError as error:
            log.info("the API server's version is not known yet: %s", error)
        await anyio.sleep(delay)


async def _serve_health(listen: str) -> None:
    """Answers `200 ok` to every request: the process runs and its event loop turns."""
    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        raise InvalidInput(f"--health-listen {listen}", "is not HOST:PORT")

    async def answer(stream: SocketStream) -> None:
        async with stream:
            with anyio.move_on_after(5):
                await stream.receive(4096)
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")

    listener = await anyio.create_tcp_listener(local_host=host or None, local_port=int(port))
    log.info("health is served at port %d", listener.extra(SocketAttribute.local_port))
    await listener.serve(answer)


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Have the state folder for ourselves; gives the name that this agent has in the lease, the same at every start."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock_file(folder / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidInput(
                    f"state folder {folder}", "is in use by another agent", "give each agent its own --state-dir"
                ) from error
            lock.seek(0)
            holder = lock.read().strip()
            if not holder:
                holder = f"flotilla-agent-{secrets.token_hex(4)}"
                lock.write(holder)
                lock.flush()
            yield holder
    except OSError as error:
        raise InvalidInput(
            f"state folder {folder}", f"cannot be used: {error}", "give a writable --state-dir"
        ) from error


def _lock_file(path: Path) -> IO[str]:
    try:
        return path.open("a+")
    except OSError:
        # On a disk that went read-only the agent still knows who it is, and goes on.
        return path.open("r")


def _give_large_buffers_back() -> None:
    """Have malloc return each large buffer when it is freed. By itself glibc takes the largest size it saw for the
    usual one and keeps such buffers, so that memory grows with the size of objects (50 of 900 kB: 93 MB; so 63 [m])."""
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def _timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    main()
