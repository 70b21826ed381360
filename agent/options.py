"""The agent's options: the command line, the environment behind it, and what may not go together. Next: `main`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from agent.stream import mirror
from proto.errors import InvalidInput
from proto.identity import JoinToken

VERSION: Final = version("flotilla")
LEAST_POLL_S: Final = 0.2
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

  from a mirror of the slices, with reports to the hub (which may be away, or left out):
    flotilla-agent --hub https://hub.example.org --slices https://git.example.org/fleet/slices.git \
      --slices-login-file /run/secrets/slices

Every option can be given in the environment: --hub is FLOTILLA_HUB, --state-dir FLOTILLA_STATE_DIR, and so on.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and the environment say, checked."""

    hub: str
    slices: str
    slices_login_file: Path | None
    slices_poll_s: float
    slice_bundles: Path | None
    report_file: Path | None
    slice_signers: Path | None
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
    found = _parser(environment).parse_args(arguments)
    token = _join_token(found.join_token, found.join_token_file)
    cluster = found.cluster or (token.cluster if token is not None else "")
    if not cluster:
        raise InvalidInput("cluster", "has no name", "give --cluster, or the join token of the first start")
    _check_ways(found)
    return Options(
        hub=found.hub,
        slices=found.slices,
        slices_login_file=Path(found.slices_login_file) if found.slices_login_file else None,
        slices_poll_s=found.slices_poll,
        slice_bundles=Path(found.slice_bundles) if found.slice_bundles else None,
        report_file=Path(found.report_file) if found.report_file else None,
        slice_signers=Path(found.slice_signers) if found.slice_signers else None,
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


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """What may be given; `environment` says what is so where it is not."""

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
    add(
        "--slices",
        metavar="URL",
        default=default("SLICES"),
        help="a Git repository that mirrors the slices, to pull from; ${cluster} is this cluster's name",
    )
    add(
        "--slices-login-file",
        metavar="FILE",
        default=default("SLICES_LOGIN_FILE"),
        help="a file with user:password for --slices, read anew for each fetch",
    )
    add(
        "--slices-poll",
        metavar="SECONDS",
        type=float,
        default=default("SLICES_POLL", f"{mirror.POLL_S:g}"),
        help="between looks at --slices, ten times that while the hub is there to say when (%(default)s)",
    )
    add(
        "--slice-signers",
        metavar="FILE",
        default=default("SLICE_SIGNERS"),
        help="take in only slices that are signed by a key of this file, lines of OpenSSH's allowed_signers (all)",
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
    return parser


def _check_ways(found: argparse.Namespace) -> None:
    """Refuse ways for slices to come that do not go together."""
    if found.slice_bundles and (found.hub or found.slices):
        remedy = "give --slice-bundles alone, or --hub, --slices or both"
        raise InvalidInput("--slice-bundles", "is for an agent without a hub and a mirror", remedy)
    if found.slices:
        mirror.check_address(found.slices, login=bool(found.slices_login_file))
    elif found.slices_login_file:
        raise InvalidInput("--slices-login-file", "is for --slices", "give --slices too")
    if not found.slices_poll >= LEAST_POLL_S:
        raise InvalidInput(f"--slices-poll {found.slices_poll:g}", f"is less than {LEAST_POLL_S:g} s", "give more")


def _join_token(text: str, file: str) -> JoinToken | None:
    if file:
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"join token file {file}", f"cannot be read: {error}") from error
    return JoinToken.decode(text) if text.strip() else None
