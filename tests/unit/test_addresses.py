import pytest

from hub.repo import addresses
from proto.errors import InvalidInput

ALL = ("https", "http", "oci", "ssh", "file")


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        pytest.param("https://Git.Example.org:443/Team/App.git/", "https://git.example.org/Team/App.git", id="host"),
        pytest.param("HTTPS://git.example.org", "https://git.example.org", id="scheme"),
        pytest.param("https://git.example.org:8443/a", "https://git.example.org:8443/a", id="port"),
        pytest.param("git@git.example.org:team/app.git", "ssh://git@git.example.org/team/app.git", id="scp"),
        pytest.param("git.example.org:team/app.git", "ssh://git@git.example.org/team/app.git", id="scp-without-user"),
        pytest.param("ssh://GIT.example.org:22/app", "ssh://git@git.example.org/app", id="ssh"),
        pytest.param("oci://[::1]:5000/team/app", "oci://[::1]:5000/team/app", id="ipv6"),
        pytest.param("file:///srv/git/", "file:///srv/git", id="file"),
    ],
)
def test_an_address_has_one_spelling(text: str, spelling: str) -> None:
    assert addresses.normal(text, schemes=ALL) == spelling


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("ftp://example.org/a", "fetched from", id="scheme"),
        pytest.param("charts/app", "fetched from", id="path"),
        pytest.param("ext::sh -c id", "fetched from", id="remote-helper"),
        pytest.param("https://bot:secret@example.org/a", "has a user", id="password"),
        pytest.param("https://bot@example.org/a", "has a user", id="user"),
        pytest.param("ssh://git:secret@example.org/a", "none", id="ssh-password"),
        pytest.param("https:///a", "no host", id="no-host"),
        pytest.param("https://a b/c", "none", id="space"),
        pytest.param("https://example.org:99999/a", "port", id="port"),
        pytest.param("https://example.org/team-a/../team-b", "something else", id="up"),
        pytest.param("https://example.org/team-a/./b", "something else", id="dot"),
        pytest.param("https://example.org//a", "something else", id="empty-segment"),
        pytest.param("https://example.org/team-a/%2E%2e/b", "escaped", id="escaped-up"),
        pytest.param("https://example.org/team-a%2fb", "escaped", id="escaped-slash"),
        pytest.param("https://example.org/team-a\\..\\b", "something else", id="backslash"),
        pytest.param("https://example.org/a?b=c", "something else", id="query"),
        pytest.param("https://example.org/a#b", "something else", id="fragment"),
        pytest.param("https://example.org/a\nHost: evil", "something else", id="newline"),
        pytest.param("file://host/a", "folder", id="file-host"),
        pytest.param("file:///", "folder", id="file-root"),
    ],
)
def test_an_address_that_could_mean_something_else_is_refused_and_its_password_not_shown(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        addresses.normal(text, schemes=ALL)
    assert why in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "prefix", "inside"),
    [
        pytest.param("https://a.org/team-a/app", "https://a.org/team-a", True, id="below"),
        pytest.param("https://a.org/team-a", "https://a.org/team-a", True, id="same"),
        pytest.param("https://a.org/x", "https://a.org", True, id="host"),
        pytest.param("https://a.org/team-ab", "https://a.org/team-a", False, id="segment"),
        pytest.param("https://a.org.evil.net/x", "https://a.org", False, id="longer-host"),
        pytest.param("https://a.org:8443/x", "https://a.org", False, id="other-port"),
        pytest.param("http://a.org/x", "https://a.org", False, id="other-scheme"),
        pytest.param("ssh://bot@a.org/x", "ssh://git@a.org", True, id="other-user"),
    ],
)
def test_below_a_prefix_are_whole_segments_of_the_same_host(address: str, prefix: str, *, inside: bool) -> None:
    assert addresses.within(address, prefix) is inside


@pytest.mark.parametrize(
    ("address", "local"),
    [
        pytest.param("http://127.0.0.1:80/x", True, id="ipv4"),
        pytest.param("oci://localhost:5000/x", True, id="name"),
        pytest.param("oci://[::1]/x", True, id="ipv6"),
        pytest.param("http://localhost.evil.net/x", False, id="longer"),
        pytest.param("http://10.0.0.1/x", False, id="private"),
    ],
)
def test_local_is_this_machine_alone(address: str, *, local: bool) -> None:
    assert addresses.local(address) is local
