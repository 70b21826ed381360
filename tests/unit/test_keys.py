"""The hub's keys and the key files that both halves keep."""

import stat
from pathlib import Path

import pytest

from hub.agents import keys
from hub.agents.keys import HubKeys
from proto import keyfile
from proto.errors import FlotillaError, InvalidInput, Refused, Transient
from proto.identity import JoinToken


def test_keys_are_made_once_and_come_back_the_same(tmp_path: Path) -> None:
    made = HubKeys.load_or_create(tmp_path / "keys")
    again = HubKeys.load_or_create(tmp_path / "keys")

    assert (again.public_key, again.token_key) == (made.public_key, made.token_key)
    assert HubKeys.load_or_create(tmp_path / "other").public_key != made.public_key


def test_key_files_are_for_their_owner_alone_and_leave_nothing_beside(tmp_path: Path) -> None:
    HubKeys.load_or_create(tmp_path)

    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert files == {keys.SIGNING_KEY_FILE: 0o600, keys.TOKEN_KEY_FILE: 0o600}


@pytest.mark.parametrize("file", [keys.SIGNING_KEY_FILE, keys.TOKEN_KEY_FILE])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"AAAA\n", id="too short"),
        pytest.param(b"\xff" * 43, id="not text"),
        pytest.param(b"A" * 5000, id="too long"),
    ],
)
def test_a_corrupt_key_is_an_error_and_stays_as_it_is(tmp_path: Path, file: str, content: bytes) -> None:
    HubKeys.load_or_create(tmp_path)
    (tmp_path / file).write_bytes(content)

    with pytest.raises(InvalidInput, match=rf"{file}: is corrupt.*restore it from a backup"):
        HubKeys.load_or_create(tmp_path)
    assert (tmp_path / file).read_bytes() == content


def test_a_key_open_to_every_user_is_refused_with_the_remedy(tmp_path: Path) -> None:
    HubKeys.load_or_create(tmp_path)
    (tmp_path / keys.SIGNING_KEY_FILE).chmod(0o644)

    with pytest.raises(InvalidInput, match=r"mode 0644.*chmod 600"):
        HubKeys.load_or_create(tmp_path)


def test_a_key_that_a_volume_opened_to_its_group_is_closed_again(tmp_path: Path) -> None:
    made = HubKeys.load_or_create(tmp_path)
    (tmp_path / keys.SIGNING_KEY_FILE).chmod(0o660)

    assert HubKeys.load_or_create(tmp_path).public_key == made.public_key
    assert stat.S_IMODE((tmp_path / keys.SIGNING_KEY_FILE).stat().st_mode) == 0o600


def test_a_lost_signing_key_is_never_made_anew_silently(tmp_path: Path) -> None:
    HubKeys.load_or_create(tmp_path)
    (tmp_path / keys.SIGNING_KEY_FILE).unlink()

    with pytest.raises(InvalidInput, match=r"is gone.*backup"):
        HubKeys.load_or_create(tmp_path)
    assert not (tmp_path / keys.SIGNING_KEY_FILE).exists()


def test_a_kill_between_the_two_keys_is_made_good_at_the_next_start(tmp_path: Path) -> None:
    made = HubKeys.load_or_create(tmp_path)
    (tmp_path / keys.TOKEN_KEY_FILE).unlink()

    assert HubKeys.load_or_create(tmp_path).public_key == made.public_key


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"A" * 43)
    (tmp_path / keys.SIGNING_KEY_FILE).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(InvalidInput, match="cannot be read"):
        HubKeys.load_or_create(tmp_path)


def test_two_processes_that_make_a_key_at_one_moment_end_with_the_same(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def make_while_another_does() -> bytes:
        keyfile.write_once(path, b"B" * 43)
        return b"x" * 32

    assert keyfile.load_or_create(path, make_while_another_does) == keyfile.load(path)
    assert path.read_bytes() == b"B" * 43


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FlotillaError, match=r"file/hub-signing\.key"):
        HubKeys.load_or_create(tmp_path / "file")
    with pytest.raises(Transient, match="cannot be written"):
        keyfile.replace(tmp_path / "file" / "x", b"")


def test_a_join_token_names_cluster_and_hub_and_shows_its_secret_to_nobody(tmp_path: Path) -> None:
    hub = HubKeys.load_or_create(tmp_path)

    token, mac_key = hub.join_token("eu-1", "j1")

    assert (token.cluster, token.join_id, token.hub_key_hash) == ("eu-1", "j1", hub.key_hash)
    assert JoinToken.decode(token.encode()).mac_key == mac_key
    assert token.secret not in repr(token)
    assert "token_key" not in repr(hub)
    with pytest.raises(InvalidInput):
        hub.join_token("EU 1", "j2")


def test_a_git_token_is_good_for_its_cluster_until_it_ends(tmp_path: Path) -> None:
    hub = HubKeys.load_or_create(tmp_path / "a")
    token = hub.issue_token("eu-1", now_s=1000.0, ttl_s=300.0)

    assert hub.check_token(token, now_s=1299.0) == "eu-1"
    with pytest.raises(Refused, match="has ended"):
        hub.check_token(token, now_s=1301.0)
    with pytest.raises(Refused, match="not issued by this hub"):
        HubKeys.load_or_create(tmp_path / "b").check_token(token, now_s=1000.0)
    with pytest.raises(Refused, match="not issued by this hub"):
        hub.check_token(token.replace("eu-1", "eu-2"), now_s=1000.0)
