"""`flotilla bootstrap` on a real API server: what it applied is enough for an agent to join, and it waited for that."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import real
from tests.e2e.world import BIN, World

NAMESPACE = "/api/v1/namespaces/flotilla-system"
CLUSTER = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: eu-1}
    spec: {}
    """


@pytest.fixture
def world(etcd: real.Etcd, tmp_path: Path) -> Iterator[World]:
    """A hub, and a cluster in which no pod ever runs."""
    kube = real.ApiServer(etcd, tmp_path / "kube", name="bootstrap")
    made = World(tmp_path, {"eu-1": kube})
    try:
        made.repo.commit("A cluster", {"clusters/eu-1.yaml": CLUSTER})
        made.start_hub()
        yield made
    finally:
        made.stop()
        kube.stop()


def test_the_token_that_bootstrap_left_in_the_cluster_lets_the_agent_in_and_that_ends_the_waiting(world: World) -> None:
    kube = world.kubes["eu-1"]
    command = [str(BIN / "flotilla"), "bootstrap", "eu-1", "--yes", f"--kubeconfig={kube.kubeconfig}"]
    command += [f"--hub={world.url}", f"--token-file={world.folder / 'hub/admin.token'}"]
    command += ["--agent-hub=https://hub.example.org:8470", "--timeout=100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as bootstrap:
        try:
            secret = world.wait(
                "the Secret", lambda: bootstrap.poll() is not None or _found(kube, "secrets/flotilla-agent-join")
            )
            assert isinstance(secret, dict), bootstrap.communicate()[0]
            token = world.folder / "eu-1.token"
            token.write_bytes(base64.b64decode(secret["data"]["join-token"]))
            world.start_agent("eu-1")  # as its pod would, with that token
            said, _ = bootstrap.communicate(timeout=120)
        finally:
            bootstrap.kill()
    assert bootstrap.returncode == 0, said
    assert said.endswith("eu-1 is connected\n")
    assert token.read_text() not in said
    assert _found(kube, "serviceaccounts/flotilla-agent")
    [settings] = [
        item
        for item in kube.call("GET", f"{NAMESPACE}/configmaps")[1]["items"]
        if item["metadata"]["name"].startswith("flotilla-agent-settings")
    ]
    assert settings["data"]["FLOTILLA_HUB"] == "https://hub.example.org:8470"


def _found(kube: real.ApiServer, path: str) -> object:
    code, body = kube.call("GET", f"{NAMESPACE}/{path}")
    return body if code == 200 else None
