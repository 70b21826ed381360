"""The agent's options, its lock, and its answers to what is missing."""

from pathlib import Path

import pytest

from agent import main
from agent.options import parse
from proto.errors import InvalidInput
from proto.identity import JoinToken

TOKEN = JoinToken(join_id="j1", cluster="eu-1", hub_key_hash="h" * 22, secret="s" * 43).encode()


def test_the_cluster_is_named_by_the_join_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    options = parse(["--hub", "https://hub", "--join-token-file", str(file)], {})
    assert options.cluster == "eu-1"
    assert options.join_token is not None
    assert options.join_token.join_id == "j1"


def test_every_option_can_come_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "FLOTILLA_HUB": "https://hub",
        "FLOTILLA_JOIN_TOKEN": TOKEN,
        "FLOTILLA_STATE_DIR": str(tmp_path),
        "FLOTILLA_KUBECONFIG": "/k",
        "FLOTILLA_CONTEXT": "c",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otlp",
        "FLOTILLA_LOG_LEVEL": "debug",
        "FLOTILLA_HEALTH_LISTEN": ":8081",
        "FLOTILLA_CONTROLLERS": "keda-operator, istiod,",
        "FLOTILLA_REPORT_FILE": "/r",
        "FLOTILLA_SLICE_SIGNERS": "/s",
    }
    options = parse([], environment)
    assert (options.hub, options.cluster, options.state_dir) == ("https://hub", "eu-1", tmp_path)
    assert (options.kubeconfig, options.context, options.otlp_endpoint) == (Path("/k"), "c", "http://otlp")
    assert (options.log_level, options.health_listen) == ("debug", ":8081")
    assert options.controllers == ("keda-operator", "istiod")
    assert (options.report_file, options.slice_bundles) == (Path("/r"), None)
    assert options.slice_signers == Path("/s")


def test_slices_come_from_a_hub_or_from_files() -> None:
    environment = {"FLOTILLA_CLUSTER": "eu-1", "FLOTILLA_HUB": "", "FLOTILLA_SLICE_BUNDLES": "/slices"}
    assert parse([], environment).slice_bundles == Path("/slices")
    for more in (["--hub", "https://hub"], ["--slices", "https://git/slices.git"]):
        with pytest.raises(InvalidInput, match="give --slice-bundles alone"):
            parse(more, environment)


def test_slices_may_come_from_a_mirror_with_a_hub_or_without() -> None:
    environment = {
        "FLOTILLA_CLUSTER": "eu-1",
        "FLOTILLA_SLICES": "https://git.example.org/${cluster}.git",
        "FLOTILLA_SLICES_LOGIN_FILE": "/login",
        "FLOTILLA_SLICES_POLL": "5",
    }
    for more in ([], ["--hub", "https://hub"]):
        options = parse(more, environment)
        assert (options.slices, options.slices_poll_s) == ("https://git.example.org/${cluster}.git", 5.0)
        assert options.slices_login_file == Path("/login")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--slices-login-file", "/login"], "give --slices too", id="a login for nothing"),
        pytest.param(["--slices", "git.example.org"], "begins with https://", id="no address"),
        pytest.param(["--slices", "https://git/x", "--slices-poll", "0"], "is less than 0.2 s", id="a flood"),
        pytest.param(["--slices", "https://git/x", "--slices-poll", "nan"], "is less than 0.2 s", id="no number"),
    ],
)
def test_a_mirror_that_cannot_be_is_refused(more: list[str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(["--cluster", "eu-1", *more], {})


def test_the_command_line_wins_over_the_environment() -> None:
    assert parse(["--cluster", "us-1"], {"FLOTILLA_CLUSTER": "eu-1"}).cluster == "us-1"


def test_without_a_name_the_error_says_how_to_give_one() -> None:
    with pytest.raises(InvalidInput, match="give --cluster"):
        parse([], {})


@pytest.mark.parametrize("text", [pytest.param("nonsense", id="no token"), pytest.param(TOKEN[:-44], id="cut off")])
def test_a_bad_join_token_is_never_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(InvalidInput) as error:
        parse(["--join-token-file", str(file)], {})
    assert text not in str(error.value)


def test_a_join_token_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        parse(["--join-token-file", str(tmp_path / "nowhere")], {})


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {})
    assert ended.value.code == 0
    assert "--join-token-file /run/secrets/join-token" in capsys.readouterr().out


def test_a_state_folder_has_one_agent_whose_name_stays(tmp_path: Path) -> None:
    with main.locked(tmp_path) as holder:
        with pytest.raises(InvalidInput, match="is in use by another agent"), main.locked(tmp_path):
            pass
        assert holder.startswith("flotilla-agent-")
    with main.locked(tmp_path) as again:
        assert again == holder


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="give a writable --state-dir"), main.locked(tmp_path / "file"):
        pass
