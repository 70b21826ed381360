"""Signatures of messages as Standard Webhooks 1.0 has them, and how long a receiver wants to be left alone."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hub.external import credentials, webhook
from proto.errors import InvalidInput
from tests.receiver import KEY, SECRET, verified
from tests.unit.test_source_credentials import written

NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC).timestamp()


def test_the_signature_is_that_of_the_stock_libraries() -> None:
    """The vector that their own tests have ("sign function works")."""
    signature = webhook.signature(
        [base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        id_="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        pytest.param({}, True, id="as it was sent"),
        pytest.param({"webhook-id": "msg_2"}, False, id="another id"),
        pytest.param({"webhook-timestamp": "8"}, False, id="another time"),
    ],
)
def test_what_is_not_as_it_was_sent_is_not_verified(changed: dict[str, str], good: bool) -> None:
    signed = webhook.signature([b"o" * 32, KEY], id_="msg_1", timestamp=7, body=b"{}")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "7", "webhook-signature": signed, **changed}
    assert verified(headers, b"{}") == good
    assert not verified(headers, b"{ }")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("120", 120.0, id="seconds"),
        pytest.param("0", 0.0, id="none"),
        pytest.param("999999999", webhook.MAX_RETRY_AFTER_S, id="years"),
        pytest.param("Wed, 21 Oct 2026 07:30:00 GMT", 120.0, id="a date"),
        pytest.param("Wed, 21 Oct 2026 07:00:00 GMT", 0.0, id="a date that is over"),
        pytest.param("Wed, 21 Oct 2037 07:28:00 -0000", webhook.MAX_RETRY_AFTER_S, id="a far date without a zone"),
        pytest.param("-5", None, id="negative"),
        pytest.param("soon", None, id="a word"),
        pytest.param("1e9", None, id="a float"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_how_long_to_wait_is_what_the_receiver_says_within_an_hour(text: str, seconds: float | None) -> None:
    assert webhook.retry_after_s({"Retry-After": text}, NOW) == seconds


def test_a_webhook_secret_is_kept_with_the_addresses_that_it_signs_for(tmp_path: Path) -> None:
    known = credentials.load(
        written(tmp_path, f"on-call: {{for: [https://hooks.example.org/f], webhookSecret: {SECRET}}}")
    )
    login = known.login("on-call", "https://hooks.example.org/f")
    assert login is not None
    assert login.webhook_keys == (KEY,)
    assert SECRET[6:] not in repr(known)
    assert repr(KEY)[2:20] not in repr(known)


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(SECRET[6:], id="no prefix"),
        pytest.param("whsk_" + SECRET[6:], id="another kind"),
        pytest.param("whsec_***", id="not base64"),
        pytest.param("whsec_c2hvcnQ=", id="too short"),
        pytest.param("whsec_" + base64.b64encode(bytes(65)).decode(), id="too long"),
        pytest.param(f"'{SECRET} whsec_c2hvcnQ='", id="the second too short"),
    ],
)
def test_a_webhook_secret_that_is_none_is_refused_without_being_shown(tmp_path: Path, secret: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        credentials.load(written(tmp_path, f"a: {{for: [https://a.example.org], webhookSecret: {secret}}}"))
    assert "whsec_ and 24 to 64 bytes in base64" in str(refused.value)
    assert SECRET[6:] not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        pytest.param("https://hooks.example.org/f", "http://proxy.example.org:3128", id="beyond the proxy"),
        pytest.param("https://inside.example.org:8443/f", None, id="an exception"),
        pytest.param("http://hooks.example.org/f", None, id="a scheme without a proxy"),
        pytest.param("https://127.0.0.1:9000/f", None, id="this machine"),
    ],
)
def test_the_systems_proxy_is_used_where_it_is_meant(
    url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example.org:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "inside.example.org")
    assert webhook._proxy(url) == proxy
