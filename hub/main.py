"""`flotilla-hub`: its options, and the process from the start to SIGTERM. `wiring` puts the parts together."""

import logging
import resource
import signal
import ssl
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import click

from hub import collector, gatekeeper
from hub.repo import signers
from hub.repo.remote import Ssh
from hub.repo.verification import Mode, Verification
from hub.wiring import Hub
from proto.errors import FlotillaError, InvalidInput

log = logging.getLogger("flotilla.hub")

MAX_FILES = 1 << 20
"""How many the hub has open at most, if it may."""


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
        collector.seldom()
        _open_many()
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


def _open_many() -> None:
    """Each agent's stream is an open file, of which many systems let a process have 1024 until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _backend() -> dict[str, bool]:
    """uvloop where it is installed: a TLS connection costs an eighth of the memory there."""
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return {}
    return {"use_uvloop": True}


if __name__ == "__main__":
    main()
