"""What a web server may do to the hub, and what becomes of it."""

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hub.external import web
from hub.external.credentials import Login
from hub.external.web import Web
from proto.errors import FlotillaError, Permanent, Refused, TooLarge, Transient
from tests.site import Asked, Says, Site

ALL = 1 << 20


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def made(*, time_limit_s: float = web.TIME_LIMIT_S) -> Web:
    return Web(thing="chart web", remedy="check the credentials 'team'", time_limit_s=time_limit_s)


def test_a_body_is_given_whole_and_saved_with_its_digest(site: Site) -> None:
    site.routes["/a"] = Says(body=b"hello", headers={"X-One": "1"})
    answer = made().get(f"{site.url}/a", max_bytes=5)
    assert (answer.body, answer.status, answer.headers["x-one"]) == (b"hello", 200, "1")
    with made().saved(f"{site.url}/a", max_bytes=5) as (path, digest):
        assert path.read_bytes() == b"hello"
        assert digest == "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        (401, {}, Refused, r"without other credentials: http://.*/a answers with status 401 \(check the credentials"),
        (403, {}, Refused, "without other credentials"),
        (404, {}, Permanent, "is not there: .* status 404"),
        (410, {}, Permanent, "is not there"),
        (400, {}, Permanent, "cannot be read: .* status 400"),
        (418, {}, Permanent, "cannot be read"),
        (204, {}, Permanent, "status 204"),
        (429, {"Retry-After": "17"}, Transient, "cannot be read now"),
        (408, {}, Transient, "cannot be read now"),
        (500, {}, Transient, "status 500"),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, Transient, "status 503"),
    ],
)
def test_each_status_is_an_error_of_its_kind(
    site: Site, status: int, headers: Mapping[str, str], kind: type[FlotillaError], words: str
) -> None:
    site.routes["/a"] = Says(status=status, headers=headers)
    for call in (lambda: made().get(f"{site.url}/a?key=hidden", max_bytes=9), lambda: saved(site, "/a?key=hidden")):
        with pytest.raises(kind, match=words) as raised:
            call()
        assert type(raised.value) is kind
        assert "hidden" not in str(raised.value)
        if isinstance(raised.value, Transient):
            assert raised.value.retry_after_s == (17.0 if status == 429 else None)


def saved(site: Site, path: str) -> None:
    with made().saved(f"{site.url}{path}", max_bytes=9):
        raise AssertionError("it was saved")


def test_a_wait_that_a_server_asks_for_has_a_limit(site: Site) -> None:
    site.routes["/a"] = Says(status=503, headers={"Retry-After": "99999999"})
    with pytest.raises(Transient) as raised:
        made().get(f"{site.url}/a", max_bytes=9)
    assert raised.value.retry_after_s == web.MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    "says", [Says(body=b"x" * 101), Says(body=b"x" * 1000, endless=True)], ids=["too large", "endless"]
)
def test_a_body_has_a_limit(site: Site, says: Says) -> None:
    site.routes["/a"] = says
    with pytest.raises(TooLarge, match="has more than 100 bytes"):
        made().get(f"{site.url}/a", max_bytes=100)


def test_a_body_that_ends_too_early_is_no_body(site: Site) -> None:
    site.routes["/a"] = Says(body=b"half", length=8)
    with pytest.raises(Transient, match="ended too early"):
        made().get(f"{site.url}/a", max_bytes=ALL)


def test_a_server_that_says_no_more_is_left(site: Site) -> None:
    site.routes["/a"] = Says(body=b"half", length=8, stalls=True)
    with pytest.raises(Transient, match=r"did not answer in time|took longer"):
        made(time_limit_s=0.3).get(f"{site.url}/a", max_bytes=ALL)


def test_a_server_that_drips_is_left(site: Site) -> None:
    site.routes["/a"] = Says(body=b"x", endless=True)
    with pytest.raises(Transient, match=r"took longer than 0.3 s"):
        made(time_limit_s=0.3).get(f"{site.url}/a", max_bytes=1 << 40)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"what?\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "HTTPException"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "LineTooLong"),
        (b"", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "IncompleteRead"),
    ],
    ids=["no status", "headers without end", "a header without end", "nothing", "no chunk", "half a chunk"],
)
def test_what_is_no_http_is_transient(raw: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(raw)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(Transient, match=words):
            made().get(f"http://127.0.0.1:{server.getsockname()[1]}/", max_bytes=ALL)
        thread.join()


def test_a_port_without_a_server_is_transient() -> None:
    with pytest.raises(Transient, match="Connection refused"):
        made().get("http://127.0.0.1:1/", max_bytes=1)


def test_redirects_are_followed_and_credentials_stay_behind(site: Site) -> None:
    with Site({"/b": b"there"}) as other:
        site.routes["/a"] = Says(status=302, headers={"Location": "/own?key=1"})
        site.routes["/own"] = Says(status=307, headers={"Location": f"{other.url}/b"})
        login = Login(addresses=(site.url,), username="bot", password="hidden")
        answer = made().get(f"{site.url}/a", headers=web.headers_of(login), max_bytes=ALL)
        assert (answer.body, answer.url) == (b"there", f"{other.url}/b")
        assert [one.headers.get("authorization") for one in site.asked] == ["Basic Ym90OmhpZGRlbg=="] * 2
        assert [one.headers.get("authorization") for one in other.asked] == [None]


def test_a_login_is_sent_only_below_its_addresses(site: Site) -> None:
    site.routes.update({"/team/a": b"", "/teams/a": b"", "/b": b""})
    login = Login(addresses=(f"{site.url}/team",), token="hidden")
    for path in ("/team/a", "/teams/a", "/b"):
        made().get(f"{site.url}{path}", headers=web.headers_of(login), max_bytes=ALL)
    assert [one.headers.get("authorization") for one in site.asked] == ["Bearer hidden", None, None]


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/loop", "redirects more than 5 times"),
        ("file:///etc/passwd", "redirects to file:///etc/passwd"),
        ("ftp://127.0.0.1/x", "redirects to ftp"),
        ("data:text/plain,x", "redirects to data"),
        ("", "redirects nowhere"),
        ("http://[", "redirects to"),
    ],
)
def test_a_redirect_leads_to_web_servers_only_and_not_for_ever(site: Site, location: str, words: str) -> None:
    site.routes["/loop"] = Says(status=302, headers={"Location": location})
    with pytest.raises(Permanent, match=words):
        made().get(f"{site.url}/loop", max_bytes=ALL)


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest/meta-data/", "http://example.org:80/x"])
def test_a_redirect_without_tls_stays_on_its_machine(site: Site, location: str) -> None:
    site.routes["/a"] = Says(status=302, headers={"Location": location})
    with pytest.raises(Permanent, match=f"redirects to {location}"):
        made().get(f"{site.url}/a", max_bytes=ALL)


@pytest.mark.parametrize(
    ("url", "there", "expected"),
    [
        pytest.param("https://a.org/x", "https://b.org/y", True, id="with TLS anywhere"),
        pytest.param("https://a.org/x", "http://a.org/y", False, id="never out of TLS"),
        pytest.param("https://a.org/x", "http://127.0.0.1:9/y", False, id="from elsewhere to this machine"),
        pytest.param("http://a.org/x", "http://127.0.0.1:9/y", False, id="nor without TLS"),
        pytest.param("http://a.org/x", "http://a.org:81/y?z", True, id="another port"),
        pytest.param("http://a.org/x", "http://b.org/y", False, id="another host"),
        pytest.param("http://a.org/x", "http://c.org/y?z", True, id="what the login is for"),
        pytest.param("http://a.org/x", "http://c.org.b.org/y", False, id="and not what begins like it"),
        pytest.param("http://localhost/x", "http://127.0.0.1:9/y", True, id="this machine"),
        pytest.param("http://a.org/x", "ftp://a.org/y", False, id="no web server"),
        pytest.param("http://a.org/x", "", False, id="nowhere"),
    ],
)
def test_who_may_lead_where(url: str, there: str, expected: bool) -> None:
    assert Web(thing="chart web", login=Login(addresses=("http://c.org",))).leads(url, there) is expected


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/", "https://", "nonsense", "http://127.0.0.1:x/"]
)
def test_only_web_addresses_are_asked(url: str) -> None:
    with pytest.raises(Permanent, match="cannot be asked"):
        made().get(url, max_bytes=ALL)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*command, *subject, "-keyout", folder / "key.pem", "-out", folder / "ca.pem"], check=True, capture_output=True
    )
    return folder


def test_tls_believes_the_named_certificates_and_no_redirect_leaves_it(certificate: Path) -> None:
    with Site({"/a": b"safe", "/down": Says(status=302, headers={"Location": "http://127.0.0.1/"})}) as site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "ca.pem", certificate / "key.pem")
        site._server.socket = context.wrap_socket(site._server.socket, server_side=True)
        address = f"https://{site.host}"
        believing = Web(thing="chart web", login=Login(ca=certificate / "ca.pem"))
        assert believing.get(f"{address}/a", max_bytes=ALL).body == b"safe"
        with pytest.raises(Permanent, match=r"redirects to http://127.0.0.1/"):
            believing.get(f"{address}/down", max_bytes=ALL)
        with pytest.raises(Permanent, match=r"is not believed: .*self.signed.* caFile"):
            made().get(f"{address}/a", max_bytes=ALL)
    for file in (certificate / "key.pem", certificate / "none.pem"):
        with pytest.raises(Permanent, match="cannot be used"):
            Web(thing="chart web", login=Login(ca=file))


def test_what_a_message_shows_of_an_address_is_no_secret() -> None:
    assert web.shown("https://bot:hidden@example.org:8443/a?sig=hidden#hidden") == "https://example.org:8443/a"
    assert re.fullmatch("[ -~]*", web.shown("https://example.org/\n\x1b[31m")) is not None
    assert "http://[" not in web.shown("http://[")


def test_a_header_that_comes_twice_is_one(site: Site) -> None:
    def twice(asked: Asked) -> Says:
        return Says(headers={"Link": "<a>; rel=first", "link": "<b>; rel=next"})

    site.routes["/a"] = twice
    assert made().get(f"{site.url}/a", max_bytes=ALL).headers["link"] == "<a>; rel=first, <b>; rel=next"
