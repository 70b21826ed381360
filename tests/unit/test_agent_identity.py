"""Who the agent is: its key, its pinned hub, and what it refuses to start with."""

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from agent.stream import identity as agent_identity
from agent.stream.identity import Identity
from proto import identity
from proto.errors import InvalidInput, Refused
from proto.identity import JoinToken

HUB = SigningKey(b"h" * 32)
HUB_KEY = identity.b64(bytes(HUB.verify_key))
OTHER_KEY = identity.b64(bytes(SigningKey(b"o" * 32).verify_key))


def token(cluster: str = "eu-1", hub_key: str = HUB_KEY) -> JoinToken:
    return JoinToken(
        join_id="j1", cluster=cluster, hub_key_hash=identity.key_hash(identity.unb64(hub_key)), secret="s" * 43
    )


def test_the_key_is_made_before_the_first_contact_and_kept(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path, "eu-1", join_token=token())

    assert (tmp_path / agent_identity.KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert Identity.load_or_create(tmp_path, "eu-1", join_token=token()).public_key == made.public_key
    identity.verify(made.public_key, b"text", made.sign(b"text"), who="agent")


def test_the_first_contact_accepts_only_the_hub_that_the_token_names(tmp_path: Path) -> None:
    who = Identity.load_or_create(tmp_path, "eu-1", join_token=token())

    who.check_hub(HUB_KEY)
    with pytest.raises(Refused, match=r"not the key of the hub that made the join token.*flotilla join-token eu-1"):
        who.check_hub(OTHER_KEY)
    with pytest.raises(Refused, match="not valid"):
        who.check_hub("%%%")


def test_a_joined_agent_needs_no_token_and_accepts_only_its_hub(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "eu-1", join_token=token()).pin(HUB_KEY)

    who = Identity.load_or_create(tmp_path, "eu-1")

    assert who.hub_public_key == HUB_KEY
    who.check_hub(HUB_KEY)
    with pytest.raises(Refused, match="not the key of the hub this cluster joined"):
        who.check_hub(OTHER_KEY)


def test_a_new_token_moves_a_joined_agent_to_a_new_hub(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "eu-1", join_token=token()).pin(HUB_KEY)

    who = Identity.load_or_create(tmp_path, "eu-1", join_token=token(hub_key=OTHER_KEY))
    who.check_hub(OTHER_KEY)
    who.pin(OTHER_KEY)

    with pytest.raises(Refused):
        Identity.load_or_create(tmp_path, "eu-1").check_hub(HUB_KEY)


def test_a_killed_pin_leaves_the_old_one(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path, "eu-1", join_token=token()).pin(HUB_KEY)
    (tmp_path / f".{agent_identity.PIN_FILE}.0123").write_text("half a li")

    assert Identity.load_or_create(tmp_path, "eu-1").hub_public_key == HUB_KEY


@pytest.mark.parametrize(
    ("pin", "cluster", "join_token", "message"),
    [
        pytest.param(None, "eu-1", None, "has not joined a hub and has no join token", id="neither token nor hub"),
        pytest.param(
            None, "eu-1", token("eu-2"), "is for cluster eu-2, this agent is cluster eu-1", id="other's token"
        ),
        pytest.param("eu-2", "eu-1", token(), "belongs to cluster eu-2", id="other's state folder"),
        pytest.param(None, "EU_1", token(), "is not a valid name", id="impossible name"),
    ],
)
def test_an_agent_that_cannot_be_says_so_at_its_start(
    tmp_path: Path, pin: str | None, cluster: str, join_token: JoinToken | None, message: str
) -> None:
    if pin is not None:
        Identity.load_or_create(tmp_path, pin, join_token=token(pin)).pin(HUB_KEY)

    with pytest.raises(InvalidInput, match=message):
        Identity.load_or_create(tmp_path, cluster, join_token=join_token)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"cluster":"eu-1"}', id="no key"),
        pytest.param(b'{"cluster":"eu-1","hub_public_key":"AAAA"}', id="short key"),
    ],
)
def test_a_broken_pin_is_an_error_not_a_new_trust(tmp_path: Path, content: bytes) -> None:
    (tmp_path / agent_identity.PIN_FILE).write_bytes(content)

    with pytest.raises(InvalidInput, match="remove it and give the agent its join token again"):
        Identity.load_or_create(tmp_path, "eu-1", join_token=token())
