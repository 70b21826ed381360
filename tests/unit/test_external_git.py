"""Bundles from other Git repositories: what is fetched, what is refused, and who gets which credentials."""

import random
import shutil
import ssl
import subprocess
from pathlib import Path

import pygit2
import pytest

from hub.external import git
from hub.external.credentials import Login
from hub.model import GitSource, Pin
from proto.errors import FlotillaError, InvalidInput, Permanent, Refused, Transient
from tests import sshd
from tests.served import Repo, Served, basic, serving

FILES = {
    "README.md": "read me",
    "deploy/base/kustomization.yaml": "resources: [deployment.yaml]",
    "deploy/base/deployment.yaml": "kind: Deployment",
    "deploy/prod/kustomization.yaml": "resources: [../base, ../../common/quota.yaml]\nconfigMapGenerator:\n"
    "- name: x\n  files: [settings=../files/settings.ini]\n",
    "deploy/files/settings.ini": "[a]",
    "deploy/files/unused.ini": "[b]",
    "common/quota.yaml": "kind: ResourceQuota",
    "charts/app/Chart.yaml": "dependencies:\n- name: lib\n  repository: file://../lib\n",
    "charts/lib/Chart.yaml": "name: lib",
    "charts/other/Chart.yaml": "name: other",
}


@pytest.fixture
def store(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "store.git"), bare=True)


def files_of(store: pygit2.Repository, pin: Pin) -> set[str]:
    index = pygit2.Index()
    index.read_tree(store[pin.tree].peel(pygit2.Tree))
    return {entry.path for entry in index}


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_branch_is_its_tip(repo: Repo, served: Served, store: pygit2.Repository, scheme: str) -> None:
    repo.commit({"a.yaml": "old"})
    tip = repo.commit({"a.yaml": "new"})
    url = f"{served.url}/app.git" if scheme == "http" else f"file://{repo.path}"
    pin = git.fetch(GitSource(url=url, branch="main"), store)
    assert (pin.revision, pin.digest) == ("main", tip)
    assert pin.tree == str(repo.repo[tip].peel(pygit2.Tree).id)
    assert store[pin.tree].peel(pygit2.Tree)["a.yaml"].peel(pygit2.Blob).data == b"new"


@pytest.mark.parametrize("annotated", [False, True])
def test_a_tag_is_the_commit_that_it_names(
    repo: Repo, served: Served, store: pygit2.Repository, *, annotated: bool
) -> None:
    tagged = repo.commit({"a.yaml": "1"})
    repo.tag("v1", tagged, annotated=annotated)
    repo.commit({"a.yaml": "2"})
    pin = git.fetch(GitSource(url=f"{served.url}/app.git", tag="v1"), store)
    assert (pin.revision, pin.digest) == ("v1", tagged)


def test_a_range_is_the_newest_tag_in_it(repo: Repo, served: Served, store: pygit2.Repository) -> None:
    for version in ("v1.3.0", "v1.4.1", "v1.4.10", "v1.5.0", "nightly"):
        repo.commit({"a.yaml": version}, tag=version)
    pin = git.fetch(GitSource(url=f"{served.url}/app.git", tag="~1.4"), store)
    assert pin.revision == "v1.4.10"
    with pytest.raises(Permanent, match=r"has no tag in '\^2' \(it has nightly, v1.3.0"):
        git.fetch(GitSource(url=f"{served.url}/app.git", tag="^2"), store)


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("by_id", ["true", "false"])
def test_a_commit_is_itself_even_where_the_host_gives_none_by_its_id(
    repo: Repo, served: Served, store: pygit2.Repository, scheme: str, by_id: str
) -> None:
    repo.repo.config["uploadpack.allowAnySHA1InWant"] = by_id
    first = repo.commit({"a.yaml": "1"})
    repo.commit({"a.yaml": "2"})
    url = f"{served.url}/app.git" if scheme == "http" else f"file://{repo.path}"
    assert git.fetch(GitSource(url=url, commit=first), store).digest == first
    with pytest.raises(FlotillaError, match="a" * 40):
        git.fetch(GitSource(url=url, commit="a" * 40), store)


def test_what_is_known_already_is_not_fetched(repo: Repo, served: Served, store: pygit2.Repository) -> None:
    repo.commit({"a.yaml": "1"})
    source = GitSource(url=f"{served.url}/app.git", branch="main")
    pin = git.fetch(source, store)
    served.heard.clear()
    assert git.fetch(source, store, known=pin) is pin
    assert not [path for path, _ in served.heard if "git-upload-pack" in path and "info/refs" not in path]
    moved = repo.commit({"a.yaml": "2"})
    assert git.fetch(source, store, known=pin).digest == moved


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        pytest.param("", set(FILES), id="all"),
        pytest.param("deploy/base", {"deploy/base/kustomization.yaml", "deploy/base/deployment.yaml"}, id="alone"),
        pytest.param(
            "deploy/prod",
            {name for name in FILES if name.startswith("deploy/") and "unused" not in name} | {"common/quota.yaml"},
            id="what-an-overlay-names",
        ),
        pytest.param("charts/app", {"charts/app/Chart.yaml", "charts/lib/Chart.yaml"}, id="local-dependency"),
    ],
)
def test_a_folder_comes_in_its_place_with_what_it_needs(
    repo: Repo, served: Served, store: pygit2.Repository, path: str, taken: set[str]
) -> None:
    repo.commit(FILES)
    pin = git.fetch(GitSource(url=f"{served.url}/app.git", branch="main", path=path), store)
    assert files_of(store, pin) == taken


def test_a_change_elsewhere_in_the_repository_changes_nothing(
    repo: Repo, served: Served, store: pygit2.Repository
) -> None:
    source = GitSource(url=f"{served.url}/app.git", branch="main", path="deploy/prod")
    repo.commit(FILES)
    before = git.fetch(source, store)
    repo.commit({**FILES, "README.md": "changed"})
    after = git.fetch(source, store)
    assert (after.tree, after.digest != before.digest) == (before.tree, True)


def test_names_that_lead_nowhere_or_out_do_no_harm(repo: Repo, served: Served, store: pygit2.Repository) -> None:
    repo.commit(
        {"a/kustomization.yaml": "resources: [../../../etc/passwd, ../gone, '../', ../a, {x: [../b]}]", "b": ""}
    )
    pin = git.fetch(GitSource(url=f"{served.url}/app.git", branch="main", path="a"), store)
    assert files_of(store, pin) == {"a/kustomization.yaml", "b"}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        pytest.param({"branch": "mian"}, r"has no branch 'mian' \(it has main\)", id="branch"),
        pytest.param({"tag": "v1"}, r"has no tag 'v1' \(it has no tag\)", id="tag"),
        pytest.param({"branch": "main", "path": "depoly"}, r"has no folder 'depoly' .*top it has chart", id="path"),
        pytest.param({"branch": "main", "path": "README.md"}, "has no folder 'README.md'", id="file"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    repo: Repo, served: Served, store: pygit2.Repository, source: dict[str, str], why: str
) -> None:
    repo.commit(FILES)
    with pytest.raises(Permanent, match=why):
        git.fetch(GitSource(url=f"{served.url}/app.git", **source), store)


def test_a_password_is_sent_to_its_repository_and_not_shown(
    repo: Repo, served: Served, store: pygit2.Repository
) -> None:
    repo.commit({"a.yaml": "1"})
    served.wants = basic("bot", "hunter2")
    source = GitSource(url=f"{served.url}/app.git", branch="main", credentials="team-a")
    login = Login(addresses=(served.url,), username="bot", password="hunter2")
    assert git.fetch(source, store, login=login).revision == "main"
    for wrong in (None, Login(addresses=(served.url,), username="bot", password="wrong-hunter2")):
        with pytest.raises(Refused, match="check the credentials 'team-a'") as refused:
            git.fetch(source, store, login=wrong)
        assert "hunter2" not in str(refused.value)


def test_a_token_is_the_password_of_any_user(repo: Repo, served: Served, store: pygit2.Repository) -> None:
    repo.commit({"a.yaml": "1"})
    served.wants = basic("git", "s3cr3t")
    login = Login(addresses=(served.url,), token="s3cr3t")
    assert git.fetch(GitSource(url=f"{served.url}/app.git", branch="main"), store, login=login).revision == "main"


def test_a_redirect_is_not_followed_and_nobody_else_gets_the_password(
    repo: Repo, served: Served, store: pygit2.Repository, tmp_path: Path
) -> None:
    repo.commit({"a.yaml": "1"})
    (tmp_path / "evil").mkdir()
    with serving(tmp_path / "evil") as evil:
        served.redirect = evil.url
        login = Login(addresses=(served.url,), username="bot", password="hunter2")
        with pytest.raises(Permanent, match=f"redirects to {evil.url}/app.git"):
            git.fetch(GitSource(url=f"{served.url}/app.git", branch="main"), store, login=login)
        assert evil.heard == []


def test_a_repository_that_is_away_or_gone_is_told_apart(repo: Repo, served: Served, store: pygit2.Repository) -> None:
    repo.commit({"a.yaml": "1"})
    source = GitSource(url=f"{served.url}/app.git", branch="main")
    served.down = True
    with pytest.raises(Transient, match="cannot be read"):
        git.fetch(source, store)
    served.down = False
    shutil.rmtree(repo.path)
    with pytest.raises(FlotillaError, match=r"is not there|cannot be read"):
        git.fetch(source, store)


def test_ssh_needs_a_key_and_the_hosts_own(store: pygit2.Repository) -> None:
    with pytest.raises(InvalidInput, match="no key is named for it"):
        git.fetch(GitSource(url="ssh://git@git.example.org/app.git", branch="main"), store)


def test_a_repository_is_reached_by_ssh_with_the_named_key_alone(
    repo: Repo, store: pygit2.Repository, tmp_path: Path
) -> None:
    old = repo.commit(FILES)
    tip = repo.commit({**FILES, "b.yaml": "new"}, tag="v1.2.0")
    with sshd.serving(tmp_path / "ssh") as server:
        url = f"ssh://{server.user}@127.0.0.1:{server.port}{repo.path}"
        trust = server.trust()
        login = Login(addresses=(url,), ssh_key=trust.key, known_hosts=trust.known_hosts)
        for source in (GitSource(url=url, branch="main"), GitSource(url=url, tag="^1"), GitSource(url=url, commit=tip)):
            assert git.fetch(source, store, login=login).digest == tip
        fresh = pygit2.init_repository(str(tmp_path / "fresh.git"), bare=True)  # as `fetch` has one for each source
        pin = git.fetch(GitSource(url=url, commit=old, path="deploy/base"), fresh, login=login)
        assert files_of(fresh, pin) == {"deploy/base/kustomization.yaml", "deploy/base/deployment.yaml"}
        stranger = Login(addresses=(url,), ssh_key=server.folder / "other", known_hosts=trust.known_hosts)
        with pytest.raises(Refused, match="name credentials for it"):
            git.fetch(GitSource(url=url, branch="main"), store, login=stranger)
        elsewhere = Login(addresses=(url,), ssh_key=trust.key, known_hosts=server.trust("other").known_hosts)
        with pytest.raises(Refused, match="host key is not one of the known hosts"):
            git.fetch(GitSource(url=url, branch="main"), store, login=elsewhere)


def test_more_than_the_limit_is_not_taken(
    repo: Repo, served: Served, store: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "MAX_BYTES", 1000)
    repo.commit({"a.yaml": random.Random(1).randbytes(100_000).hex()})
    with pytest.raises(Permanent, match="the limit"):
        git.fetch(GitSource(url=f"{served.url}/app.git", branch="main"), store)


def test_another_authority_is_believed_for_its_own_credentials_alone(
    repo: Repo, store: pygit2.Repository, tmp_path: Path
) -> None:
    repo.commit({"a.yaml": "1"})
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with serving(tmp_path / "served", tls=tls) as served:
        source = GitSource(url=f"{served.url}/app.git", branch="main")
        served.wants = basic("bot", "hunter2")
        login = Login(addresses=(served.url,), username="bot", password="hunter2", ca=certificate)
        assert git.fetch(source, store, login=login).revision == "main"
        with pytest.raises(FlotillaError, match="CERTIFICATE_VERIFY_FAILED"):
            git.fetch(source, store)
        served.wants = basic("bot", "other")
        with pytest.raises(Refused):
            git.fetch(source, store, login=login)
