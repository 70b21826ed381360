"""The hub's parts, wired: who may connect, and the administrator's token."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from hub import gatekeeper, main, wiring
from hub.desired import Desired
from hub.gatekeeper import Server
from hub.model import Cluster, Fleet
from hub.repo import signers
from hub.wiring import Hub
from proto.errors import InvalidInput
from proto.ids import ClusterName, Oid

EU = ClusterName("eu-1")


def made(folder: Path) -> Hub:
    return Hub(fleet=str(folder / "fleet"), branch="main", data=folder / "data", poll_s=1.0, heartbeat_s=1.0)


def closed(hub: Hub) -> None:
    hub.loop.close()
    hub.tracing.close()
    hub._opened.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    found = made(tmp_path)
    yield found
    closed(found)


def joined(hub: Hub, cluster: str) -> None:
    hub.journal.add_join_token("1", cluster=cluster, mac_key=b"k", expires_at=1.0)
    hub.journal.enroll("1", cluster, "key", 0.0)


def said(hub: Hub, fleet: Fleet) -> None:
    hub.loop.desired = Desired(commit=Oid("a" * 40), fleet=fleet, subtrees={}, failed=frozenset(), findings=())


def test_an_agent_that_joined_is_let_in_while_nobody_knows_its_cluster_is_gone(hub: Hub) -> None:
    assert not hub._is_member("eu-1")
    joined(hub, "eu-1")
    assert hub._is_member("eu-1")  # the fleet repo was not read yet
    said(hub, Fleet(lost_clusters=True))
    assert hub._is_member("eu-1")
    assert not hub._is_member("eu-2")
    said(hub, Fleet(broken_clusters=frozenset({"eu-1"})))
    assert hub._is_member("eu-1")
    said(hub, Fleet())
    assert not hub._is_member("eu-1")


@pytest.mark.parametrize(
    ("soft", "hard", "made"),
    [
        pytest.param(256, 4096, 4096, id="as many as it may"),
        pytest.param(4096, 4096, 4096, id="it has all already"),
    ],
)
def test_as_many_agents_may_connect_as_the_machine_lets_the_hub_have(soft: int, hard: int, made: int) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from hub import main
main._open_many()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(made), str(hard)]


@pytest.mark.parametrize(
    "told", [pytest.param(b"", id="nothing"), pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", id="half a request")]
)
async def test_who_connects_and_asks_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bytes
) -> None:
    monkeypatch.setattr(wiring, "SILENT_S", 0.1)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(made(tmp_path).run, "127.0.0.1", 0)
        async with await anyio.connect_tcp("127.0.0.1", port) as stranger:
            await stranger.send(told or b"\r\n")
            with anyio.fail_after(30), pytest.raises(anyio.EndOfStream):
                await stranger.receive()
        tasks.cancel_scope.cancel()


def test_a_cluster_of_the_fleet_may_join_also_while_others_cannot_be_read(hub: Hub) -> None:
    said(hub, Fleet(clusters={EU: Cluster(name=EU, labels={})}, lost_clusters=True))
    assert hub._is_member("eu-1")


def test_the_administrators_token_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    first = made(tmp_path)
    closed(first)
    second = made(tmp_path)
    closed(second)
    assert first.admin_token == second.admin_token
    assert len(first.admin_token) >= 32
    assert (tmp_path / "data/admin.token").stat().st_mode & 0o777 == 0o600


def test_an_empty_token_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/admin.token").write_text("\n")
    with pytest.raises(InvalidInput, match=r"admin\.token: is empty"):
        made(tmp_path)


def test_webhook_secrets_are_the_lines_of_their_file(tmp_path: Path) -> None:
    assert main._webhook_secrets(None) == ()
    (tmp_path / "secret").write_bytes(b"new one\r\n\n  old one\n")
    assert main._webhook_secrets(tmp_path / "secret") == (b"new one", b"old one")
    (tmp_path / "secret").write_bytes(b"\n \n")
    with pytest.raises(InvalidInput, match="is empty"):
        main._webhook_secrets(tmp_path / "secret")


@pytest.mark.parametrize("option", ["--ssh-key-file", "--ssh-known-hosts-file"])
def test_an_ssh_key_and_known_hosts_go_together(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("x")
    given = ["--fleet", "git@example.org:x", "--data", str(tmp_path / "data"), option, str(tmp_path / "file")]
    result = CliRunner().invoke(main.main, given)
    assert result.exit_code == 2
    assert "--ssh-key-file and --ssh-known-hosts-file go together" in result.output


def test_the_examples_of_the_help_are_lines_to_copy() -> None:
    shown = CliRunner().invoke(main.main, ["--help"]).output
    assert "--revision v1.4 \\\n" in shown
    assert "--webhook-secret-file webhook.secret" in shown


def test_several_servers_that_gates_ask_fit_one_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("hidden-word")
    monkeypatch.setenv("FLOTILLA_HUB_FLEET", str(tmp_path))
    monkeypatch.setenv("FLOTILLA_HUB_PROMETHEUS", "http://prometheus:9090 eu=https://prometheus.example.org/eu")
    monkeypatch.setenv("FLOTILLA_HUB_PROMETHEUS_TOKEN_FILE", f"eu={tmp_path / 'token'}")
    context = main.main.make_context("flotilla-hub", [], auto_envvar_prefix="FLOTILLA_HUB")
    given = gatekeeper.servers(context.params["prometheus"], context.params["prometheus_token_file"])
    assert given == {
        "default": Server(url="http://prometheus:9090"),
        "eu": Server(url="https://prometheus.example.org/eu", token="hidden-word"),
    }


SIGNER = "ada@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZ6oLwL2vGmPlNrNWJNbBwyvlP1vUZy9aVPvFKuC8Yu"


def test_pinned_signers_are_those_of_all_files_and_no_file_may_be_empty(tmp_path: Path) -> None:
    for name, text in (("one", SIGNER), ("two", f"# more\n{SIGNER} at work\n"), ("none", "# nobody\n"), ("bad", "ada")):
        (tmp_path / name).write_text(text)
    assert main._pinned(()) == signers.NOBODY
    assert main._pinned((tmp_path / "one", tmp_path / "two")).ssh == (SIGNER, f"{SIGNER} at work")
    for name, cause in (("none", "names nobody"), ("bad", "is not a signer")):
        with pytest.raises(InvalidInput, match=f"signers file .*/{name}: .*{cause}"):
            main._pinned((tmp_path / "one", tmp_path / name))


def test_pinned_signers_that_nobody_asks_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "signers").write_text(SIGNER)
    given = ["--fleet", "x", "--data", str(tmp_path / "data"), "--trusted-signers", str(tmp_path / "signers")]
    result = CliRunner().invoke(main.main, given)
    assert result.exit_code == 2
    assert "needs --verify-commits warn or enforce" in result.output
