"""The agent's options, its lock, and its answers to what is missing."""

from pathlib import Path

import pytest

from agent import main
from proto.errors import InvalidInput
from proto.identity import JoinToken

TOKEN = JoinToken(join_id="j1", cluster="eu-1", hub_key_hash="h" * 22, secret="s" * 43).encode()


def test_the_cluster_is_named_by_the_join_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    options = main.parse(["--hub", "https://hub", "--join-token-file", str(file)], {})
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
    }
    options = main.parse([], environment)
    assert (options.hub, options.cluster, options.state_dir) == ("https://hub", "eu-1", tmp_path)
    assert (options.kubeconfig, options.context, options.otlp_endpoint) == (Path("/k"), "c", "http://otlp")
    assert (options.log_level, options.health_listen) == ("debug", ":8081")
    assert options.controllers == ("keda-operator", "istiod")
    assert (options.report_file, options.slice_bundles) == (Path("/r"), None)


def test_slices_come_from_a_hub_or_from_files() -> None:
    environment = {"FLOTILLA_CLUSTER": "eu-1", "FLOTILLA_HUB": "", "FLOTILLA_SLICE_BUNDLES": "/slices"}
    assert main.parse([], environment).slice_bundles == Path("/slices")
    with pytest.raises(InvalidInput, match="give --hub or --slice-bundles"):
        main.parse(["--hub", "https://hub"], environment)


def test_the_command_line_wins_over_the_environment() -> None:
    assert main.parse(["--cluster", "us-1"], {"FLOTILLA_CLUSTER": "eu-1"}).cluster == "us-1"


def test_without_a_name_the_error_says_how_to_give_one() -> None:
    with pytest.raises(InvalidInput, match="give --cluster"):
        main.parse([], {})


@pytest.mark.parametrize("text", [pytest.param("nonsense", id="no token"), pytest.param(TOKEN[:-44], id="cut off")])
def test_a_bad_join_token_is_never_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(InvalidInput) as error:
        main.parse(["--join-token-file", str(file)], {})
    assert text not in str(error.value)


def test_a_join_token_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        main.parse(["--join-token-file", str(tmp_path / "nowhere")], {})


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parse(["--help"], {})
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
