"""`flotilla-agent`: makes the parts that its `options` ask for, and runs the loop until it is told to end.

The state folder belongs to one process: it is locked, and a kill frees the lock. SIGTERM and SIGINT let what is under
way finish, save the inventory and give the lease back. `loop` does the work.
"""

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
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import anyio
import anyio.to_thread
from anyio.abc import SocketAttribute, SocketStream

from agent.inventory import Inventory
from agent.kube.cluster import Cluster, backoff
from agent.kube.lease import Lease
from agent.loop import Loop
from agent.options import VERSION, Options, parse
from agent.owner.directives import DirectiveStore
from agent.stream.bundle_folder import BundleFolder
from agent.stream.git_host import Login
from agent.stream.hub_client import HubClient
from agent.stream.identity import Identity
from agent.stream.mirror import Mirror
from agent.stream.receive import Receiver
from agent.stream.report import Reporter
from agent.stream.report_file import ReportFile
from agent.stream.signed import SliceSigners
from agent.tracing import Tracing
from proto import telemetry
from proto.errors import FlotillaError, InvalidInput
from proto.messages import WakeUp

END_S: Final = 25
"""From the signal to the end of the process, whatever hangs: a pod is killed after 30 s without a word."""
LARGE_BYTES: Final = 128 << 10
_M_MMAP_THRESHOLD: Final = -3
"""glibc's number for mallopt."""

log = logging.getLogger("flotilla.agent")


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
    tracing = _tracing(options)
    async with Cluster.connect(options.kubeconfig, options.context) as cluster:
        with Inventory(options.state_dir / "inventory.db") as inventory:
            await _Agent(options, cluster, inventory=inventory, tracing=tracing, holder=holder).run()
    await anyio.to_thread.run_sync(tracing.close)


class _Agent:
    """The parts that the options ask for, and the few things that they do for each other."""

    def __init__(
        self, options: Options, cluster: Cluster, *, inventory: Inventory, tracing: Tracing, holder: str
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._reporter = Reporter(options.state_dir, boot_id=secrets.token_hex(8), agent_version=VERSION)
        signers = SliceSigners(options.slice_signers) if options.slice_signers is not None else None
        self._receiver = Receiver(options.state_dir, options.cluster, signers=signers)
        self._bundles = BundleFolder(options.slice_bundles, self._receiver) if options.slice_bundles else None
        self._mirror = self._mirror_at(options.slices) if options.slices else None
        take = self._fetch if options.hub else None
        if self._bundles is not None:
            take = self._bundles.take
        elif self._mirror is not None:
            take = self._mirror.take
        self._lease = Lease(cluster, holder=holder, timestamp=_timestamp)
        self._loop = Loop(
            cluster,
            lease=self._lease,
            inventory=inventory,
            receiver=self._receiver,
            reporter=self._reporter,
            tracing=tracing,
            directives=DirectiveStore(options.state_dir),
            cluster=options.cluster,
            fetch=take,
            timestamp=_timestamp,
            wall_ns=time.time_ns,
            controllers=options.controllers,
        )
        self._hub = self._hub_client(options.hub) if options.hub else None

    def _mirror_at(self, url: str) -> Mirror:
        return Mirror(
            url,
            self._receiver,
            login_file=self._options.slices_login_file,
            hub=self._fetch if self._options.hub else None,
            connected=lambda: self._hub is not None and not self._hub.problem,
            problem=lambda text: self._loop.problem("mirror", text),
            poll_s=self._options.slices_poll_s,
        )

    def _hub_client(self, url: str) -> HubClient:
        options = self._options
        return HubClient(
            url,
            Identity.load_or_create(options.state_dir, options.cluster, join_token=options.join_token),
            reporter=self._reporter,
            on_wake=self._on_wake,
            on_query=self._loop.on_query,
            on_directives=self._loop.on_directives,
        )

    async def _fetch(self) -> bool:
        """Get the slice from the hub."""
        url = f"{self._options.hub.rstrip('/')}/git/{self._options.cluster}.git"
        token = self._hub.token if self._hub is not None else ""
        login = Login(user=self._options.cluster, password=token) if token else None
        return await self._receiver.fetch(url, login)

    def _on_wake(self, wake: WakeUp) -> None:
        if self._mirror is not None:
            self._mirror.hub_says(wake)
        self._loop.on_wake(wake)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        options, loop = self._options, self._loop
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_on_signal, loop, name="signals")
            group.start_soon(_tell_version, self._cluster, self._reporter, name="version")
            if self._hub is not None:
                group.start_soon(in_turn, self._lease, self._hub.run, name="hub")
            if self._bundles is not None:
                group.start_soon(self._bundles.watch, loop.on_wake, name="bundles")
            if options.report_file is not None:
                file = ReportFile(options.report_file, self._reporter, cluster=options.cluster, timestamp=_timestamp)
                group.start_soon(file.run, name="report file")
            if self._mirror is not None:
                group.start_soon(in_turn, self._lease, partial(self._mirror.poll, loop.on_wake), name="mirror")
            if options.health_listen:
                group.start_soon(_serve_health, options.health_listen, name="health")
            await loop.run()
            group.cancel_scope.cancel()


def _tracing(options: Options) -> Tracing:
    provider = None
    if options.otlp_endpoint:
        provider = telemetry.provider(
            "flotilla-agent", options.otlp_endpoint, exporter=None, **{telemetry.ATTR_CLUSTER: options.cluster}
        )
    return Tracing(options.cluster, provider)


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
