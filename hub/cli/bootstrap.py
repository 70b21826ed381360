"""`flotilla bootstrap`: joins the cluster of the current kubeconfig context to a hub, in one command.

The manifests are those of `deploy/agent` (`--manifests` names others: an overlay of yours). Over them goes an overlay
with three things: the hub's address, the image, and a Secret with a new join token, which appears in no argument and in
nothing that is printed. It says what it is about to do and asks; then waits until the hub hears from the agent.
"""

import os
import subprocess
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from hub import scratch
from hub.cli.asking import DEFAULT_HUB, HubApi
from hub.kubectl import executable
from proto.errors import FlotillaError

MANIFESTS = Path(__file__).parents[2] / "deploy/agent"
"""There in a checkout; an installed package has none."""
NAMESPACE = "flotilla-system"
PLACEHOLDER = "(made when it is applied)"
KUBECTL_S = 120.0
LOOK_EACH_S = 1.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.command(
    epilog="""\b
Examples:
  flotilla bootstrap eu-1 --hub https://hub.example.org:8470 --token-file admin.token
  flotilla bootstrap eu-1 --context kind-eu-1 --image registry.example.org/flotilla-agent:0.1.0
  flotilla bootstrap eu-1 --dry-run | kubectl diff -f -""",
)
@click.argument("cluster")
@click.option("--context", default="", help="The kubeconfig's context; the current one unless given.")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="The kubeconfig; kubectl's own choice unless given."
)
@click.option(
    "--manifests",
    type=click.Path(file_okay=False, path_type=Path),
    default=MANIFESTS,
    show_default="deploy/agent of this checkout",
    help="A Kustomize folder that installs the agent.",
)
@click.option("--image", default="", metavar="NAME[:TAG]", help="The agent's image, where yours is.")
@click.option("--agent-hub", default="", metavar="URL", help="The hub as the cluster reaches it, when not --hub.")
@click.option("--dry-run", is_flag=True, help="Print the manifests, without a token, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--timeout", "timeout_s", default=180.0, show_default=True, help="Seconds to wait for the agent.")
@click.option("--token-file", type=click.Path(path_type=Path), envvar="FLOTILLA_TOKEN_FILE", help="As in join-token.")
@click.option("--hub", default=DEFAULT_HUB, envvar="FLOTILLA_HUB", show_default=True, help="The hub's URL.")
def bootstrap(
    cluster: str,
    context: str,
    kubeconfig: Path | None,
    manifests: Path,
    image: str,
    agent_hub: str,
    dry_run: bool,
    yes: bool,
    timeout_s: float,
    token_file: Path | None,
    hub: str,
) -> None:
    """Join the cluster of the current context to the hub."""
    api, address = HubApi(hub, token_file), (agent_hub or hub).rstrip("/")
    if urllib.parse.urlsplit(address).hostname in LOOPBACK:
        raise click.ClickException(
            f"{address} is this machine: an agent in the cluster cannot reach it\n"
            "Say how the cluster reaches the hub: --agent-hub https://…"
        )
    kubectl = _Kubectl(kubeconfig)
    rendered = _render(kubectl, manifests, address=address, image=image, token=PLACEHOLDER)
    if dry_run:
        click.echo(rendered.decode(), nl=False)
        return
    kubectl.pin(context)
    if _connection(api, cluster) == "connected":
        raise click.ClickException(
            f"cluster {cluster} is connected already\n"
            f"To join it anew, stop its agent first; see 'flotilla clusters {cluster}'."
        )
    _show(kubectl, rendered, cluster=cluster, address=address)
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    token = api.post("join-tokens", {"cluster": cluster})["token"]
    wanted = _render(kubectl, manifests, address=address, image=image, token=token)
    kubectl.run("apply", "--server-side", "--field-manager=flotilla-bootstrap", "-f", "-", given=wanted)
    click.echo(f"applied; waiting for the agent of {cluster} ...", err=True)
    _wait(api, kubectl, cluster, timeout_s=timeout_s)
    click.echo(f"{cluster} is connected")


class _Kubectl:
    """kubectl with the person's kubeconfig."""

    def __init__(self, kubeconfig: Path | None) -> None:
        try:
            program = executable()
        except FlotillaError as error:
            raise click.ClickException(str(error)) from error
        self.command = [program, *([f"--kubeconfig={kubeconfig}"] if kubeconfig else [])]
        self.context = ""

    def pin(self, context: str) -> None:
        """One context from here on, even when somebody makes another one the current one meanwhile."""
        self.context = context or self.run("config", "current-context").decode().strip()
        self.command.append(f"--context={self.context}")

    def run(self, *arguments: str, given: bytes = b"") -> bytes:
        """Standard output. Raises ClickException with what kubectl said."""
        try:
            done = subprocess.run([*self.command, *arguments], input=given, capture_output=True, timeout=KUBECTL_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise click.ClickException(f"kubectl {arguments[0]}: {error}") from error
        if done.returncode:
            raise click.ClickException(f"kubectl {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def server(self) -> str:
        """The address of the context's API server."""
        template = "{.clusters[0].cluster.server}"
        return self.run("config", "view", "--minify", "-o", f"jsonpath={template}").decode()


def _render(kubectl: _Kubectl, manifests: Path, *, address: str, image: str, token: str) -> bytes:
    """The agent's manifests with the hub's address, the image and the token in them."""
    if not (manifests / "kustomization.yaml").exists():
        raise click.ClickException(
            f"{manifests} has no kustomization.yaml\nGive --manifests: deploy/agent of a checkout, or an overlay of it."
        )
    name, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "")
    with scratch.folder("bootstrap") as folder:
        overlay: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(manifests.resolve(), folder)],
            "configMapGenerator": [
                {
                    "name": "flotilla-agent-settings",
                    "namespace": NAMESPACE,
                    "behavior": "merge",
                    "literals": [f"FLOTILLA_HUB={address}"],
                }
            ],
            "secretGenerator": [
                {
                    "name": "flotilla-agent-join",
                    "namespace": NAMESPACE,
                    "files": ["join-token"],
                    "options": {"disableNameSuffixHash": True},
                }
            ],
        }
        if image:
            overlay["images"] = [{"name": "flotilla-agent", "newName": name, **({"newTag": tag} if tag else {})}]
        (folder / "join-token").write_text(token)
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return kubectl.run("kustomize", str(folder))


def _connection(api: HubApi, cluster: str) -> str:
    """Raises ClickException when the fleet repo has no such cluster."""
    return str(api.get(f"clusters/{urllib.parse.quote(cluster, safe='')}")["connection"])


def _show(kubectl: _Kubectl, rendered: bytes, *, cluster: str, address: str) -> None:
    objects: Sequence[dict[str, Any]] = [found for found in yaml.safe_load_all(rendered) if found]
    click.echo(
        f"This joins {kubectl.context} ({kubectl.server()}) to {address} as cluster {cluster}, and applies:", err=True
    )
    for found in objects:
        click.echo(f"  {found['kind']} {found['metadata']['name']}", err=True)
    if any(found["kind"] == "ClusterRole" and "any" in found["metadata"]["name"] for found in objects):
        click.echo(
            "The agent may then apply anything in this cluster: so may whoever commits to the fleet repo.", err=True
        )


def _wait(api: HubApi, kubectl: _Kubectl, cluster: str, *, timeout_s: float) -> None:
    """Until the hub hears from the agent; a line every ten seconds says what its pods do."""
    until, told_at = time.monotonic() + timeout_s, time.monotonic()
    pods = ("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=flotilla-agent", "--no-headers")
    while _connection(api, cluster) != "connected":
        now = time.monotonic()
        if now >= until:
            raise click.ClickException(
                f"no word from the agent of {cluster} in {timeout_s:g} s\n"
                f"What its pods do:  kubectl --context {kubectl.context} -n {NAMESPACE} get pods,events\n"
                f"What it says:      kubectl --context {kubectl.context} -n {NAMESPACE} logs"
                " -l app.kubernetes.io/name=flotilla-agent\n"
                "Was it turned away?  flotilla events --kind denied"
            )
        if now - told_at >= 10:
            told_at = now
            click.echo(f"  {kubectl.run(*pods).decode().strip() or 'no pod yet'}", err=True)
        time.sleep(LOOK_EACH_S)


commands: tuple[click.Command, ...] = (bootstrap,)
