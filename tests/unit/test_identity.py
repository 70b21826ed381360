"""Join tokens, signatures and five-minute tokens: what each proves, and to whom."""

from collections.abc import Callable

import pytest
from nacl.signing import SigningKey

from proto import identity
from proto.errors import InvalidInput, Refused
from proto.identity import JoinToken

KEY = SigningKey(b"k" * 32)
PUBLIC = identity.b64(bytes(KEY.verify_key))
TOKEN = JoinToken(join_id="j1", cluster="eu-1", hub_key_hash="hash", secret="s3cret")


def test_a_join_token_survives_being_carried() -> None:
    assert JoinToken.decode(f"  {TOKEN.encode()}\n") == TOKEN
    assert "s3cret" not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("flotilla-join.v1.j1.eu-1.hash", id="too short"),
        pytest.param("flotilla-join.v1.j1.eu-1.hash.", id="no secret"),
        pytest.param("flotilla-join.v1.j1..hash.s3cret", id="no cluster"),
        pytest.param("flotilla-join.v2.j1.eu-1.hash.s3cret", id="another version"),
        pytest.param("flotilla-join.v1.j1.eu-1.hash.s3cret.more", id="too long"),
    ],
)
def test_what_is_no_join_token_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(InvalidInput, match="flotilla join-token") as raised:
        JoinToken.decode(text)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("data", [b"", b"\x00", b"ab", b"abc" * 11, bytes(range(256))])
def test_base64_comes_back_and_has_no_padding(data: bytes) -> None:
    text = identity.b64(data)
    assert identity.unb64(text) == data
    assert not set(text) & set("=+/")


@pytest.mark.parametrize("text", ["%", "a", "a b", "é"])
def test_bad_base64_is_our_error(text: str) -> None:
    with pytest.raises(InvalidInput, match="base64"):
        identity.unb64(text)


def test_a_signature_proves_its_key_and_its_text() -> None:
    signature = identity.sign(KEY, b"text")

    identity.verify(PUBLIC, b"text", signature, who="agent")
    other = identity.b64(bytes(SigningKey(b"o" * 32).verify_key))
    for public, text, signed in [
        (other, b"text", signature),
        (PUBLIC, b"texts", signature),
        (PUBLIC, b"text", signature[:-4]),
        (PUBLIC, b"text", "%"),
        ("AAAA", b"text", signature),
        ("é", b"text", signature),
    ]:
        with pytest.raises(Refused, match=r"^agent: sent a signature"):
            identity.verify(public, text, signed, who="agent")


def test_no_two_transcripts_are_equal() -> None:
    """Parts cannot run into each other, and a signature for one side is none for the other."""
    hub = [
        identity.hub_transcript(cluster=cluster, agent_key=key, agent_nonce=nonce, hub_nonce="h")
        for cluster, key, nonce in [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", "b", "cc")]
    ]
    agent = [identity.agent_transcript(cluster="a", hub_key="b", agent_nonce="c", hub_nonce="h")]
    assert len({*hub, *agent}) == 5


def test_a_join_mac_binds_secret_key_and_transcript() -> None:
    macs = {
        identity.join_mac(identity.mac_key(secret), agent_key=key, transcript=transcript)
        for secret, key, transcript in [
            ("s", "k", b"t"),
            ("S", "k", b"t"),
            ("s", "K", b"t"),
            ("s", "k", b"T"),
        ]
    }
    assert len(macs) == 4


def test_key_hashes_are_short_and_differ() -> None:
    assert identity.key_hash(b"a") != identity.key_hash(b"b")
    assert len(identity.key_hash(b"a")) == 22


def test_a_token_is_good_for_one_cluster_until_it_ends() -> None:
    token = identity.issue_token(b"k", cluster="eu-1", now_s=1000.9, ttl_s=300.0)

    assert identity.check_token(b"k", token, now_s=1300.0) == "eu-1"
    with pytest.raises(Refused, match="token of cluster eu-1: has ended"):
        identity.check_token(b"k", token, now_s=1301.0)


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda token: token.replace("eu-1", "eu-2"), id="another cluster"),
        pytest.param(lambda token: token.replace(".1300.", ".9300."), id="longer life"),
        pytest.param(lambda token: token[:-1], id="cut"),
        pytest.param(lambda token: "", id="nothing"),
        pytest.param(lambda token: "eu-1.9999999999.", id="no mac"),
        pytest.param(lambda token: "é.1.é", id="not ASCII"),
        pytest.param(lambda token: "\udcff.1.\udcff", id="not text"),
    ],
)
def test_a_forged_token_opens_nothing(forge: Callable[[str], str]) -> None:
    token = identity.issue_token(b"k", cluster="eu-1", now_s=1000.0, ttl_s=300.0)
    with pytest.raises(Refused, match="was not issued by this hub"):
        identity.check_token(b"k", forge(token), now_s=1000.0)
