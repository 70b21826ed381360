"""Charts of a Helm repository: packed and indexed by Helm, served by a web server that may be anything."""

import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from hub.external import helm_repo
from hub.external.credentials import Login
from hub.model import HelmSource, Pin
from proto.errors import FlotillaError, InvalidInput, Permanent, ProtocolError, Refused, Transient
from tests import charts
from tests.site import Asked, Says, Site

VERSIONS = ("1.0.0", "1.1.0", "1.2.0-rc.1", "2.0.0")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    for version in VERSIONS:
        charts.pack(folder / "sources", "web", version=version, into=folder / "charts")
    charts.pack(folder / "sources", "web-extra", into=folder / "charts")
    charts.index(folder / "charts")
    return folder / "charts"


@pytest.fixture
def site(packed: Path) -> Iterator[Site]:
    with Site({f"/charts/{file.name}": file.read_bytes() for file in packed.iterdir()}) as site:
        yield site


@pytest.fixture
def repo(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "git"), bare=True)


def source(site: Site, *, chart: str = "web", version: str = "^1", credentials: str = "") -> HelmSource:
    return HelmSource(repository=f"{site.url}/charts", chart=chart, version=version, credentials=credentials)


def sha256(data: object) -> str:
    assert isinstance(data, bytes)
    return hashlib.sha256(data).hexdigest()


def edited(site: Site, old: str, new: str, *, count: int = 0) -> None:
    index = site.routes["/charts/index.yaml"]
    assert isinstance(index, bytes)
    text, done = re.subn(old, new, index.decode(), count=count)
    assert done
    site.routes["/charts/index.yaml"] = text.encode()


def test_the_newest_version_in_the_range_is_fetched(site: Site, repo: pygit2.Repository) -> None:
    pin = helm_repo.fetch(source(site), repo)
    assert pin.revision == "1.1.0"
    assert pin.digest == f"sha256:{sha256(site.routes['/charts/web-1.1.0.tgz'])}"
    files = charts.listed(repo, pin.tree)
    assert set(files) == {"Chart.yaml", "values.yaml", "templates/config.yaml"}
    assert b"version: 1.1.0" in files["Chart.yaml"]
    assert site.paths() == ["/charts/index.yaml", "/charts/web-1.1.0.tgz"]


def test_what_is_pinned_already_is_not_fetched_again(site: Site, repo: pygit2.Repository) -> None:
    pin = helm_repo.fetch(source(site), repo)
    assert helm_repo.fetch(source(site), repo, known=pin) == pin
    assert site.paths().count("/charts/web-1.1.0.tgz") == 1
    other = Pin(revision=pin.revision, digest="sha256:" + "0" * 64, tree=pin.tree)
    assert helm_repo.fetch(source(site), repo, known=other) == pin


@pytest.mark.parametrize(
    ("says", "asks"),
    [
        pytest.param({"ETag": 'W/"a"', "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}, ("if-none-match", 'W/"a"')),
        pytest.param(
            {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}, ("if-modified-since", "Mon, 02 Nov 2026 10:00:00 GMT")
        ),
    ],
    ids=["by its ETag", "by its time"],
)
def test_an_index_that_did_not_change_is_not_sent_again(
    site: Site, repo: pygit2.Repository, says: dict[str, str], asks: tuple[str, str]
) -> None:
    index = site.routes["/charts/index.yaml"]
    assert isinstance(index, bytes)
    whole = Says(body=index, headers=says)
    site.routes["/charts/index.yaml"] = lambda asked: Says(status=304) if asks[0] in asked.headers else whole
    pin = helm_repo.fetch(source(site), repo)
    again = helm_repo.fetch(source(site), repo, known=pin)
    assert (again, again.unless) == (pin, pin.unless)
    assert site.asked[-1].headers[asks[0]] == asks[1]
    site.routes["/charts/index.yaml"] = Says(body=index, headers={"ETag": '"b"'})
    assert helm_repo.fetch(source(site), repo, known=again).unless == 'If-None-Match: "b"'


def test_nothing_new_without_a_question_is_an_error(site: Site, repo: pygit2.Repository) -> None:
    site.routes["/charts/index.yaml"] = Says(status=304)
    with pytest.raises(Permanent, match="status 304"):
        helm_repo.fetch(source(site), repo)


@pytest.mark.parametrize(
    ("version", "found"), [("1.0.0", "1.0.0"), (">=1.1", "2.0.0"), ("~1.2.0-0", "1.2.0-rc.1"), ("*", "2.0.0")]
)
def test_a_version_or_a_range_is_resolved_as_helm_does(
    site: Site, repo: pygit2.Repository, version: str, found: str
) -> None:
    assert helm_repo.fetch(source(site, version=version), repo).revision == found


@pytest.mark.parametrize(
    ("chart", "version", "words"),
    [
        ("web", "^3", r"chart web of .*/charts: has no version in '\^3' \(it has 2.0.0, 1.2.0-rc.1, 1.1.0, 1.0.0\)"),
        ("wed", "^1", r"chart wed of .*: is not in its index \(did you mean 'web'\?\)"),
        ("web", "latest", "is not a version or a range"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    site: Site, repo: pygit2.Repository, chart: str, version: str, words: str
) -> None:
    with pytest.raises(Permanent, match=words):
        helm_repo.fetch(source(site, chart=chart, version=version), repo)


def test_an_index_in_json_is_read_too(site: Site, repo: pygit2.Repository) -> None:
    digest = sha256(site.routes["/charts/web-1.0.0.tgz"])
    entries = {"web": [{"version": "1.0.0", "urls": ["web-1.0.0.tgz"], "digest": digest}]}
    site.routes["/charts/index.yaml"] = json.dumps({"apiVersion": "v1", "entries": entries}).encode()
    assert helm_repo.fetch(source(site), repo).revision == "1.0.0"


def test_an_index_that_is_kept_compressed_is_read_too(
    site: Site, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = site.routes["/charts/index.yaml"]
    assert isinstance(index, bytes)
    packed = gzip.compress(index)
    site.routes["/charts/index.yaml"] = Says(body=packed, headers={"Content-Encoding": "gzip"})
    assert helm_repo.fetch(source(site), repo).revision == "1.1.0"
    for broken in (packed[:-9], packed[:20] + b"x" * 50):
        site.routes["/charts/index.yaml"] = broken
        with pytest.raises(ProtocolError, match=r"its index.yaml is (not whole|compressed, and broken)"):
            helm_repo.fetch(source(site), repo)
    monkeypatch.setattr(helm_repo, "MAX_INDEX_BYTES", 1 << 20)
    site.routes["/charts/index.yaml"] = gzip.compress(bytes(1 << 21))
    with pytest.raises(ProtocolError, match="has more than 1048576 bytes"):
        helm_repo.fetch(source(site), repo)


INDENTED = """
# by hand
entries:

    other:
        - version: 1.0.0
          urls: [other.tgz]
    # the one
    'web':
        - {version: 1.0.0, urls: [web-1.0.0.tgz], description: "of
    other:
        "}
generated: now
"""
FLOW = "{entries: {web: [{version: 1.0.0, urls: [web-1.0.0.tgz]}]}}"
ANCHORED = "x: &urls [web-1.0.0.tgz]\nentries:\n  web:\n  - version: 1.0.0\n    urls: *urls\n"
INLINE = "entries:\n  a: []\n  web: [{version: 1.0.0, urls: [web-1.0.0.tgz]}]\n"
WINDOWS = "entries:\r\n  web:\r\n  - version: 1.0.0\r\n    urls:\r\n    - web-1.0.0.tgz\r\nother:\r\n  web:\r\n"
NUMBER = "entries:\n  web:\n  - {version: 1.0, urls: [web-1.0.0.tgz]}\n  - {version: [], urls: 1}\n  - text\n"


@pytest.mark.parametrize("index", [INDENTED, FLOW, ANCHORED, INLINE, WINDOWS, NUMBER])
def test_an_index_that_helm_did_not_write_is_read_as_yaml(site: Site, repo: pygit2.Repository, index: str) -> None:
    site.routes["/charts/index.yaml"] = index.encode()
    assert helm_repo.fetch(source(site, version="1.x"), repo).revision in ("1.0.0", "1.0")


@pytest.mark.parametrize(
    "index",
    [b"", b"<html>", b"entries: [", b"entries: []", b"[" * 5000, b"\xff\xfe", b'{"entries": 1}', b"a: &a [*a]"],
    ids=["empty", "a page", "not YAML", "no charts", "deep", "not UTF-8", "JSON", "without end"],
)
def test_what_is_no_index_is_refused(site: Site, repo: pygit2.Repository, index: bytes) -> None:
    site.routes["/charts/index.yaml"] = index
    with pytest.raises(ProtocolError, match=r"its index.yaml is not one of charts"):
        helm_repo.fetch(source(site), repo)


@pytest.mark.parametrize("version", ["^1", "1.0.0", ">=1.1", "~1.2.0-0", "^9"])
@pytest.mark.parametrize("chart", ["web", "web-extra", "we"])
def test_a_large_index_says_the_same_as_a_small_one(
    site: Site, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch, chart: str, version: str
) -> None:
    """The parts that are cut out are those that YAML has, with texts in them that look like more."""
    tricky = "    description: |-\n      web:\n      - version: 9.9.9\n\n      # x\n    keywords:\n    - 'version: 9'\n"
    edited(site, r"    name: ", f"{tricky}    name: ")
    found = []
    for limit in (1 << 20, 1500):
        monkeypatch.setattr(helm_repo, "_MAX_YAML_BYTES", limit)
        try:
            found.append(str(helm_repo.fetch(source(site, chart=chart, version=version), repo)))
        except Permanent as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_a_large_index_costs_what_its_one_chart_costs(site: Site, repo: pygit2.Repository) -> None:
    """Only the part about the chart is parsed: YAML of 30 MB would take a minute."""
    before = site.routes["/charts/index.yaml"]
    assert isinstance(before, bytes)
    entry = "  other-{n}:\n" + "".join(f"  - version: 1.0.{patch}\n    urls:\n    - x.tgz\n" for patch in range(100))
    many = "".join(entry.replace("{n}", str(number)) for number in range(6000))
    site.routes["/charts/index.yaml"] = before.replace(b"entries:\n", b"entries:\n" + many.encode(), 1)
    assert len(many) > 20_000_000
    assert helm_repo.fetch(source(site), repo).revision == "1.1.0"
    with pytest.raises(Permanent, match=r"did you mean 'other-77'"):
        helm_repo.fetch(source(site, chart="othr-77"), repo)


def test_an_index_beyond_the_limit_is_not_read(
    site: Site, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helm_repo, "MAX_INDEX_BYTES", 100)
    with pytest.raises(Permanent, match="has more than 100 bytes"):
        helm_repo.fetch(source(site), repo)


def test_another_archive_than_the_index_says_is_refused(site: Site, repo: pygit2.Repository) -> None:
    site.routes["/charts/web-1.1.0.tgz"] = site.routes["/charts/web-1.0.0.tgz"]
    with pytest.raises(ProtocolError, match=r"has the digest sha256:.*, but its index says sha256:"):
        helm_repo.fetch(source(site), repo)


def test_without_a_digest_in_the_index_it_is_that_of_what_came(site: Site, repo: pygit2.Repository) -> None:
    edited(site, r"    digest: .*\n", "")
    assert helm_repo.fetch(source(site), repo).digest == f"sha256:{sha256(site.routes['/charts/web-1.1.0.tgz'])}"


def test_each_address_of_the_index_is_tried(site: Site, repo: pygit2.Repository) -> None:
    edited(site, r"    - web-1.1.0.tgz", "    - http://[\n    - gone.tgz\n    - /charts/web-1.1.0.tgz")
    assert helm_repo.fetch(source(site), repo).revision == "1.1.0"
    assert site.paths() == ["/charts/index.yaml", "/charts/gone.tgz", "/charts/web-1.1.0.tgz"]


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest/web-1.1.0.tgz", "http://example.org/web-1.1.0.tgz"])
def test_an_index_leads_nowhere_without_tls(site: Site, repo: pygit2.Repository, url: str) -> None:
    edited(site, r"    - web-1.1.0.tgz", f"    - {url}")
    with pytest.raises(Permanent, match=f"its index leads to {url}, without TLS .*credentials"):
        helm_repo.fetch(source(site), repo)


def test_when_all_addresses_fail_what_may_pass_is_said(site: Site, repo: pygit2.Repository) -> None:
    edited(site, r"    - web-1.1.0.tgz", "    - gone.tgz\n    - busy.tgz")
    site.routes["/charts/busy.tgz"] = Says(status=503, headers={"Retry-After": "9"})
    with pytest.raises(Transient, match=r"busy.tgz") as raised:
        helm_repo.fetch(source(site), repo)
    assert raised.value.retry_after_s == 9
    site.routes["/charts/busy.tgz"] = Says(status=404)
    with pytest.raises(Permanent, match=r"gone.tgz"):
        helm_repo.fetch(source(site), repo)


def test_a_version_without_an_address_is_refused(site: Site, repo: pygit2.Repository) -> None:
    edited(site, r"    urls:\n    - web-1.1.0.tgz", "    urls: []")
    with pytest.raises(Permanent, match=r"has no address of version 1.1.0"):
        helm_repo.fetch(source(site), repo)


def test_an_archive_that_is_no_chart_is_refused(site: Site, repo: pygit2.Repository, tmp_path: Path) -> None:
    edited(site, r"    digest: .*\n", "")
    (tmp_path / "other").write_text("x")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as tar:
        tar.add(tmp_path / "other", "web/other")
    site.routes["/charts/web-1.1.0.tgz"] = (tmp_path / "other.tgz").read_bytes()
    with pytest.raises(InvalidInput, match=r"has no Chart.yaml"):
        helm_repo.fetch(source(site), repo)
    site.routes["/charts/web-1.1.0.tgz"] = b"<html>Please log in</html>" * 100
    with pytest.raises(InvalidInput, match="is not a whole archive"):
        helm_repo.fetch(source(site), repo)


def private(site: Site) -> None:
    for path, route in list(site.routes.items()):
        assert isinstance(route, bytes)

        def guarded(asked: Asked, body: bytes = route) -> Says:
            allowed = asked.headers.get("authorization") == "Basic Ym90OmhpZGRlbg=="
            return Says(body=body) if allowed else Says(status=401)

        site.routes[path] = guarded


def test_a_private_repository_gets_the_login(site: Site, repo: pygit2.Repository) -> None:
    private(site)
    login = Login(addresses=(f"{site.url}/charts",), username="bot", password="hidden")
    assert helm_repo.fetch(source(site), repo, login=login).revision == "1.1.0"


def test_a_wrong_login_is_refused_without_a_word_of_it(site: Site, repo: pygit2.Repository) -> None:
    private(site)
    for login in (None, Login(addresses=(f"{site.url}/charts",), username="bot", password="wrong-secret")):
        with pytest.raises(Refused, match="check the credentials 'team'") as refused:
            helm_repo.fetch(source(site, credentials="team"), repo, login=login)
        assert "wrong-secret" not in str(refused.value)


def test_another_host_in_the_index_does_not_get_the_login(site: Site, repo: pygit2.Repository) -> None:
    archive = site.routes["/charts/web-1.1.0.tgz"]
    with Site({"/web.tgz": archive, "/also/web.tgz": archive}) as other:
        edited(site, r"    - web-1.1.0.tgz", f"    - {other.url}/web.tgz")
        login = Login(addresses=(f"{site.url}/charts",), username="bot", password="hidden")
        assert helm_repo.fetch(source(site), repo, login=login).revision == "1.1.0"
        assert "authorization" not in other.asked[0].headers
        both = Login(addresses=(f"{site.url}/charts", f"{other.url}/web.tgz"), username="bot", password="hidden")
        helm_repo.fetch(source(site), repo, login=both)
        assert "authorization" in other.asked[1].headers


def test_errors_name_the_chart(site: Site, repo: pygit2.Repository) -> None:
    site.routes.clear()
    with pytest.raises(FlotillaError, match=rf"^chart web of {site.url}/charts: is not there: .*index.yaml answers"):
        helm_repo.fetch(source(site), repo)
