"""The mirror of the fleet repo: what it takes, what it refuses, and what it says when upstream is not there."""

import contextlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from hub import packs
from hub.repo import remote, sync, upkeep
from proto.errors import InvalidInput, Permanent, Refused, Transient
from proto.ids import Oid
from tests import served
from tests import sshd as sshd_server
from tests.git_host import git
from tests.sshd import Sshd

WHO = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 60)


class Upstream:
    """A repository that commits can be pushed to, without the git command."""

    def __init__(self, path: Path, *, bare: bool = False) -> None:
        self.path = path
        self.repo = pygit2.init_repository(str(path), bare=bare, initial_head="main")

    def commit(self, text: str, *, branch: str = "main", parent: str | None = "") -> str:
        """`parent` "" is the branch's tip, None makes a commit without parents."""
        ref = f"refs/heads/{branch}"
        tip = self.repo.references.get(ref)
        parents = [parent] if parent else [str(tip.target)] if parent == "" and tip is not None else []
        tree = self.repo.TreeBuilder()
        tree.insert("file", self.repo.create_blob(text.encode()), pygit2.enums.FileMode.BLOB)
        oid = self.repo.create_commit(None, WHO, WHO, f"{text}\n\nbody", tree.write(), parents)
        self.repo.references.create(ref, oid, force=True)
        return str(oid)


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "upstream")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "data/mirror"


def test_a_first_fetch_tells_all_of_the_tip(upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    tip = upstream.commit("two")
    assert sync.fetch(mirror, str(upstream.path), "main") == sync.Revision(
        commit=Oid(tip), author="Ada", time_s=1_700_000_000, subject="two", previous=""
    )


@pytest.mark.parametrize("form", ["path", "file", "relative"])
@pytest.mark.parametrize("bare", [True, False])
def test_upstream_can_be_a_path_or_a_file_address(
    tmp_path: Path, mirror: Path, form: str, bare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = Upstream(tmp_path / "up", bare=bare).commit("one")
    monkeypatch.chdir(tmp_path)
    address = {"path": str(tmp_path / "up"), "file": f"file://{tmp_path}/up", "relative": "up"}[form]
    assert sync.fetch(mirror, address, "main").commit == tip


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_shallow_clone_is_refused_before_its_second_commit_cannot_be_read(
    tmp_path: Path, mirror: Path, form: str
) -> None:
    source, clone = Upstream(tmp_path / "source"), tmp_path / "clone"
    for text in ("one", "two", "three"):
        source.commit(text)
    git("clone", "--quiet", "--depth", "1", f"file://{source.path}", str(clone))
    with pytest.raises(Permanent, match=r"is a shallow clone.*git fetch --unshallow"):
        sync.fetch(mirror, form.format(clone), "main")
    git("-C", str(clone), "fetch", "--quiet", "--unshallow")
    assert sync.fetch(mirror, form.format(clone), "main").subject == "three"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_repository_with_other_object_ids_is_no_passing_trouble(tmp_path: Path, mirror: Path, form: str) -> None:
    git("init", "--quiet", "--object-format=sha256", str(tmp_path / "up"))
    with pytest.raises(Permanent, match=r"object format 'sha256' \(use a repository whose object ids are SHA-1"):
        sync.fetch(mirror, form.format(tmp_path / "up"), "main")


def test_packs_stay_few_though_each_fetch_brings_one_and_all_of_the_history_stays(
    upstream: Upstream, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MAX_PACKS", 4)
    commits, counts = [], []
    for number in range(20):
        commits.append(upstream.commit(f"commit {number}"))
        assert sync.fetch(mirror, str(upstream.path), "main").commit == commits[-1]
        counts.append(len(packs.packs(mirror / "objects/pack")))
    assert max(counts) <= 5
    repo = pygit2.Repository(str(mirror))
    assert [str(commit.id) for commit in repo.walk(commits[-1])] == commits[::-1]
    assert [repo[commit].peel(pygit2.Tree)["file"].data for commit in commits] == [  # type: ignore[union-attr]
        f"commit {number}".encode() for number in range(20)
    ]
    assert {file.suffix for file in (mirror / "objects/pack").iterdir()} == {".pack", ".idx"}


def test_who_reads_the_mirror_meanwhile_finds_what_moved_to_another_pack(
    upstream: Upstream, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MAX_PACKS", 2)
    commits = []
    for number in range(3):
        commits.append(upstream.commit(f"commit {number}"))
        sync.fetch(mirror, str(upstream.path), "main")
    reader = pygit2.Repository(str(mirror))
    assert commits[-1] in reader
    upstream.commit("more")
    sync.fetch(mirror, str(upstream.path), "main")
    assert [str(commit.id) for commit in reader.walk(commits[-1])] == commits[::-1]


def test_what_a_killed_fetch_left_in_the_mirror_goes_with_the_next_one(upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    before = sorted((mirror / "objects/pack").iterdir())
    for name in ("pack_git2_a93e1df012b99d06", "tmp_pack_x", "pack-1.idx.lock"):
        (mirror / "objects/pack" / name).write_bytes(b"half a pack")
    (mirror / "objects/pack/tmp_merged").mkdir()
    (mirror / "objects/pack/tmp_merged/pack-1.pack").write_bytes(b"half a pack")
    sync.fetch(mirror, str(upstream.path), "main")
    assert sorted((mirror / "objects/pack").iterdir()) == before


@pytest.mark.parametrize(
    "lock", ["refs/heads/main.lock", "refs/flotilla/fetched.lock", "refs/flotilla/verified.lock", "shallow.lock"]
)
def test_a_lock_that_a_killed_fetch_left_locks_nobody_out(upstream: Upstream, mirror: Path, lock: str) -> None:
    upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    (mirror / lock).parent.mkdir(parents=True, exist_ok=True)
    (mirror / lock).write_bytes(b"")
    tip = upstream.commit("two")
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip
    assert not (mirror / lock).exists()


def test_a_mirror_of_which_a_kill_left_a_lock_and_no_head_is_made_anew(upstream: Upstream, mirror: Path) -> None:
    tip = upstream.commit("one")
    mirror.mkdir(parents=True)
    (mirror / "HEAD.lock").touch()
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip


def test_packs_that_cannot_be_merged_keep_nobody_from_fetching(
    upstream: Upstream, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MAX_PACKS", 0)
    upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    (index,) = (mirror / "objects/pack").glob("*.idx")
    (index.with_name("pack-broken.idx")).write_bytes(b"no index")
    (index.with_name("pack-broken.pack")).write_bytes(b"no pack")
    tip = upstream.commit("two")
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip


def test_a_repository_of_another_user_is_read(upstream: Upstream, mirror: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    tip = upstream.commit("one")
    for place in [upstream.path, *upstream.path.rglob("*")]:
        os.chown(place, 65534, 65534)
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip


def test_only_the_branch_is_taken(upstream: Upstream, mirror: Path) -> None:
    tip = upstream.commit("one")
    upstream.commit("other", branch="feature", parent=None)
    upstream.repo.create_tag("v1", tip, pygit2.enums.ObjectType.COMMIT, WHO, "tag")
    sync.fetch(mirror, str(upstream.path), "main")
    assert set(pygit2.Repository(str(mirror)).references) == {"refs/heads/main", "refs/flotilla/fetched"}


def test_fetching_again_moves_forward(upstream: Upstream, mirror: Path) -> None:
    first = upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    same = sync.fetch(mirror, str(upstream.path), "main")
    assert (same.commit, same.previous) == (first, first)
    second = upstream.commit("two")
    moved = sync.fetch(mirror, str(upstream.path), "main")
    assert (moved.commit, moved.previous) == (second, first)


@pytest.mark.parametrize("rewrite", ["other root", "reset"])
def test_a_rewritten_history_is_refused_each_time_until_it_is_accepted(
    upstream: Upstream, mirror: Path, rewrite: str
) -> None:
    first = upstream.commit("one")
    old = upstream.commit("two")
    sync.fetch(mirror, str(upstream.path), "main")
    if rewrite == "reset":
        upstream.repo.references.create("refs/heads/main", first, force=True)
        new = first
    else:
        new = upstream.commit("rewritten", parent=None)
    for _ in range(2):
        with pytest.raises(Refused, match=f"rewritten: {new} does not descend from {old}"):
            sync.fetch(mirror, str(upstream.path), "main")
        assert str(pygit2.Repository(str(mirror)).references["refs/heads/main"].target) == old
    accepted = sync.fetch(mirror, str(upstream.path), "main", accept_rewrite=True)
    assert (accepted.commit, accepted.previous, accepted.rewritten) == (new, old, True)
    assert sync.fetch(mirror, str(upstream.path), "main").rewritten is False


def test_a_commit_on_top_of_the_old_tip_ends_the_refusal(upstream: Upstream, mirror: Path) -> None:
    old = upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    upstream.commit("rewritten", parent=None)
    with pytest.raises(Refused):
        sync.fetch(mirror, str(upstream.path), "main")
    fixed = upstream.commit("two", parent=old)
    assert sync.fetch(mirror, str(upstream.path), "main").commit == fixed


def test_a_missing_branch_names_those_that_are_there(upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    upstream.commit("one", branch="release")
    with pytest.raises(Permanent, match=r"has no branch 'mian' \(it has main, release: name one of them\)"):
        sync.fetch(mirror, str(upstream.path), "mian")


def test_a_branch_that_was_deleted_is_missed(upstream: Upstream, mirror: Path) -> None:
    tip = upstream.commit("one")
    upstream.commit("one", branch="release")
    sync.fetch(mirror, str(upstream.path), "main")
    upstream.repo.references.delete("refs/heads/main")
    with pytest.raises(Permanent, match=f"has no branch 'main' any more: it was deleted .what runs stays at {tip};"):
        sync.fetch(mirror, str(upstream.path), "main")


def test_an_empty_upstream_says_so(upstream: Upstream, mirror: Path) -> None:
    with pytest.raises(Permanent, match="has no commits yet"):
        sync.fetch(mirror, str(upstream.path), "main")


def test_an_upstream_that_is_not_there_may_come_back(upstream: Upstream, mirror: Path, tmp_path: Path) -> None:
    tip = upstream.commit("one")
    away = tmp_path / "away"
    upstream.path.rename(away)
    with pytest.raises(
        Transient, match=f"fleet repo {upstream.path}: cannot be read: there is no such folder.*check the path"
    ):
        sync.fetch(mirror, str(upstream.path), "main")
    away.rename(upstream.path)
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip


def test_a_file_address_that_is_not_there_may_come_back(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(Transient, match=f"fleet repo file://{tmp_path}/none: cannot be read.*check the address"):
        sync.fetch(mirror, f"file://{tmp_path}/none", "main")


def test_a_folder_that_is_no_repository_is_named(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(Transient, match=f"fleet repo {tmp_path}: cannot be read"):
        sync.fetch(mirror, str(tmp_path), "main")


def test_a_closed_port_is_transient_and_hides_credentials(mirror: Path) -> None:
    with pytest.raises(Transient, match=r"fleet repo http://127\.0\.0\.1:9/x\.git") as caught:
        sync.fetch(mirror, "http://me:hunter2@127.0.0.1:9/x.git", "main")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["ext::sh -c x", "ftp://x/y", "git://x/y", "git+ssh://x/y"])
def test_other_kinds_of_addresses_are_refused(mirror: Path, address: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address that the hub can read"):
        sync.fetch(mirror, address, "main")


@pytest.mark.parametrize("branch", ["main:refs/heads/x", "../x", "", "a b", "*", "-x\n"])
def test_a_branch_that_is_no_name_is_refused(upstream: Upstream, mirror: Path, branch: str) -> None:
    upstream.commit("one")
    with pytest.raises(InvalidInput, match="is not the name of a branch"):
        sync.fetch(mirror, str(upstream.path), branch)


def test_a_mirror_that_was_damaged_is_made_anew(upstream: Upstream, mirror: Path) -> None:
    tip = upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    (mirror / "config").write_text("[core\nbroken")
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip


def test_a_mirror_that_lost_its_objects_is_filled_again(upstream: Upstream, mirror: Path) -> None:
    tip = upstream.commit("one")
    sync.fetch(mirror, str(upstream.path), "main")
    for place in [*mirror.glob("objects/pack/*"), *mirror.glob("objects/??/*")]:
        place.unlink()
    assert sync.fetch(mirror, str(upstream.path), "main").commit == tip


def test_text_that_is_not_utf8_does_not_stop_a_fetch(upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    tree = upstream.repo.TreeBuilder().write()
    body = b"tree %s\nauthor A\xff <a@x> 1 +0000\ncommitter A <a@x> 1 +0000\n\nsub\xffject\n" % str(tree).encode()
    oid = upstream.repo.odb.write(pygit2.enums.ObjectType.COMMIT, body)
    upstream.repo.references.create("refs/heads/main", oid, force=True)
    revision = sync.fetch(mirror, str(upstream.path), "main")
    assert (revision.author, revision.subject) == ("A\ufffd", "sub\ufffdject")


def test_a_tag_is_followed_forward_only(upstream: Upstream, mirror: Path) -> None:
    first, second = upstream.commit("one"), upstream.commit("two")
    upstream.repo.create_tag("v1", pygit2.Oid(hex=first), pygit2.enums.ObjectType.COMMIT, WHO, "One")
    for name in ("v1", "refs/tags/v1"):
        assert sync.fetch(mirror, str(upstream.path), "main", revision=name).commit == first
    upstream.repo.references.create("refs/tags/v1", second, force=True)
    assert sync.fetch(mirror, str(upstream.path), "main", revision="v1").commit == second
    upstream.repo.references.create("refs/tags/v1", first, force=True)
    with pytest.raises(Refused, match=f"history of tag v1 was rewritten: {first} does not descend from {second}"):
        sync.fetch(mirror, str(upstream.path), "main", revision="v1")
    upstream.repo.references.delete("refs/tags/v1")
    with pytest.raises(Permanent, match=f"has no tag 'v1' any more.*stays at {second}"):
        sync.fetch(mirror, str(upstream.path), "main", revision="v1")
    with pytest.raises(Permanent, match=r"has no tag 'v2' \(it has no tags"):
        sync.fetch(mirror, str(upstream.path), "main", revision="v2")


def test_a_tag_of_something_else_is_refused(upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    upstream.repo.references.create("refs/tags/v1", upstream.repo.create_blob(b"x"))
    with pytest.raises(Permanent, match="its tag v1 is not a commit"):
        sync.fetch(mirror, str(upstream.path), "main", revision="v1")


def test_a_commit_is_taken_if_the_branch_has_it_and_its_owner_may_go_back(upstream: Upstream, mirror: Path) -> None:
    first, second = upstream.commit("one"), upstream.commit("two")
    stray = upstream.commit("stray", branch="other")
    for wanted in (second, first, second):
        assert sync.fetch(mirror, str(upstream.path), "main", revision=wanted).commit == wanted
    with pytest.raises(Permanent, match=f"its branch main has no commit {stray}"):
        sync.fetch(mirror, str(upstream.path), "main", revision=stray)
    assert sync.fetch(mirror, str(upstream.path), "main", revision=first).rewritten is False
    assert sync.fetch(mirror, str(upstream.path), "main").commit == second


@pytest.mark.parametrize("revision", ["../x", "a b", "-x", "v1:refs/heads/x", "*"])
def test_a_tag_that_is_no_name_is_refused(upstream: Upstream, mirror: Path, revision: str) -> None:
    upstream.commit("one")
    with pytest.raises(InvalidInput, match="is not the name of a tag"):
        sync.fetch(mirror, str(upstream.path), "main", revision=revision)


@pytest.mark.parametrize("address", ["git@example.org:fleet.git", "example.org:fleet", "ssh://example.org/fleet"])
def test_ssh_needs_a_key_and_known_hosts(mirror: Path, address: str) -> None:
    with pytest.raises(InvalidInput, match=r"no key for it \(set --ssh-key-file and --ssh-known-hosts-file"):
        sync.fetch(mirror, address, "main")


def test_what_was_taken_is_known_without_upstream(upstream: Upstream, mirror: Path, tmp_path: Path) -> None:
    assert sync.taken(mirror, "main") is None
    first, second = upstream.commit("one"), upstream.commit("two")
    sync.fetch(mirror, str(upstream.path), "main")
    assert sync.taken(mirror, "main") == second
    assert sync.taken(mirror, "main", revision=second) == second
    assert sync.taken(mirror, "main", revision=first) is None
    assert sync.taken(mirror, "main", revision="v1") is None
    assert sync.taken(mirror, "other") is None


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with sshd_server.serving(tmp_path / "ssh") as made:
        yield made


def test_upstream_can_be_reached_by_ssh(sshd: Sshd, upstream: Upstream, mirror: Path) -> None:
    first = upstream.commit("one")
    url, home = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{upstream.path}", pygit2.settings.homedir
    assert sync.fetch(mirror, url, "main", ssh=sshd.trust()).commit == first
    second = upstream.commit("two")
    assert sync.fetch(mirror, url, "main", ssh=sshd.trust()).commit == second
    assert pygit2.settings.homedir == home


def test_an_ssh_host_of_another_key_is_not_believed(sshd: Sshd, upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    url = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{upstream.path}"
    for ssh in (sshd.trust("other"), sshd.trust(host="example.org")):
        with pytest.raises(Refused, match="host key is not one of the known hosts"):
            sync.fetch(mirror, url, "main", ssh=ssh)
    (sshd.folder / "empty").write_text("")
    with pytest.raises(Refused, match="host key is not one of the known hosts"):
        sync.fetch(mirror, url, "main", ssh=remote.Ssh(key=sshd.folder / "key", known_hosts=sshd.folder / "empty"))


def test_a_key_that_the_ssh_host_does_not_take_is_offered_once(sshd: Sshd, upstream: Upstream, mirror: Path) -> None:
    upstream.commit("one")
    url = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{upstream.path}"
    ssh = remote.Ssh(key=sshd.folder / "other", known_hosts=sshd.trust().known_hosts)
    with pytest.raises(Refused, match=r"cannot be read without other credentials.*SSH key"):
        sync.fetch(mirror, url, "main", ssh=ssh)


def test_known_hosts_that_cannot_be_read_are_named(upstream: Upstream, mirror: Path, tmp_path: Path) -> None:
    ssh = remote.Ssh(key=tmp_path / "key", known_hosts=tmp_path / "none")
    with pytest.raises(InvalidInput, match=r"known hosts .*/none: cannot be read: No such file"):
        sync.fetch(mirror, "ssh://example.org/fleet", "main", ssh=ssh)


def test_upstream_can_be_an_http_address_with_credentials(tmp_path: Path, mirror: Path) -> None:
    upstream = Upstream(tmp_path / "served/fleet.git", bare=True)
    upstream.commit("one")
    with served.serving(tmp_path / "served") as host:
        host.wants, address = served.basic("me", "secret"), host.url
        url = address.replace("://", "://me:secret@") + "/fleet.git"
        assert sync.fetch(mirror, url, "main").subject == "one"
        tip = upstream.commit("two")
        assert sync.fetch(mirror, url, "main").commit == tip
        with pytest.raises(Permanent, match=r"has no branch 'other' \(it has main"):
            sync.fetch(mirror, url, "other")
        with pytest.raises(Refused, match=f"fleet repo {address}/fleet.git: cannot be read without other credentials"):
            sync.fetch(mirror, f"{address}/fleet.git", "main")


def commits(mirror: Path) -> list[str]:
    """The subjects of the history that the mirror has, newest first."""
    repo = pygit2.Repository(str(mirror))
    return [commit.message.partition("\n")[0] for commit in repo.walk(repo.references["refs/heads/main"].target)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[served.Served]:
    with served.serving(tmp_path / "served") as host:
        yield host


@pytest.fixture
def long(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "served/fleet.git", bare=True)
    for number in range(5):
        made.commit(f"old {number}")
    return made


def test_of_the_history_before_the_first_tip_nothing_comes_and_all_that_came_since_does(
    long: Upstream, host: served.Served, mirror: Path
) -> None:
    url = f"{host.url}/fleet.git"
    assert sync.fetch(mirror, url, "main").subject == "old 4"
    for number in range(3):
        before = sync.fetch(mirror, url, "main")
        tip = long.commit(f"new {number}")
        now = sync.fetch(mirror, url, "main")
        assert (now.commit, now.previous, now.rewritten) == (tip, before.commit, False)
    assert commits(mirror) == ["new 2", "new 1", "new 0", "old 4"]
    assert "missing" not in git("-C", str(mirror), "fsck")


def test_a_branch_that_began_before_the_first_tip_may_be_merged(
    long: Upstream, host: served.Served, mirror: Path
) -> None:
    url = f"{host.url}/fleet.git"
    old = long.repo.references["refs/heads/main"].target
    sync.fetch(mirror, url, "main")
    tip = long.repo[old].peel(pygit2.Commit)
    side = long.commit("side", branch="side", parent=str(tip.parents[0].parents[0].id))
    merged = long.repo.create_commit("refs/heads/main", WHO, WHO, "merged", tip.tree.id, [old, pygit2.Oid(hex=side)])
    assert sync.fetch(mirror, url, "main").commit == str(merged)


@pytest.mark.parametrize("steps_back", [1, 3])
def test_a_rewrite_to_what_is_older_than_the_first_tip_is_seen(
    long: Upstream, host: served.Served, mirror: Path, steps_back: int
) -> None:
    url = f"{host.url}/fleet.git"
    first = sync.fetch(mirror, url, "main")
    back = long.repo[first.commit].peel(pygit2.Commit)
    for _ in range(steps_back):
        back = back.parents[0]
    long.repo.references.create("refs/heads/main", back.id, force=True)
    for _ in range(2):
        with pytest.raises(Refused, match=f"was rewritten: {back.id} does not descend from {first.commit}"):
            sync.fetch(mirror, url, "main")
    long.repo.references.create("refs/heads/main", first.commit, force=True)
    assert sync.fetch(mirror, url, "main").commit == first.commit
    long.repo.references.create("refs/heads/main", back.id, force=True)
    assert sync.fetch(mirror, url, "main", accept_rewrite=True).rewritten
    tip = long.commit("on top")
    assert sync.fetch(mirror, url, "main").commit == tip


def test_who_follows_a_commit_gets_the_history_that_it_is_in(long: Upstream, host: served.Served, mirror: Path) -> None:
    url = f"{host.url}/fleet.git"
    tip = sync.fetch(mirror, url, "main").commit
    first = [str(commit.id) for commit in long.repo.walk(long.repo.references["refs/heads/main"].target)][-1]
    assert sync.fetch(mirror, url, "main", revision=first).commit == first
    assert sync.fetch(mirror, url, "main").commit == tip
    stray = long.commit("stray", branch="other")
    with pytest.raises(Permanent, match=f"its branch main has no commit {stray}"):
        sync.fetch(mirror, url, "main", revision=stray)


def test_a_host_that_cannot_shorten_a_history_gives_all_of_it(
    long: Upstream, host: served.Served, mirror: Path
) -> None:
    host.shortens = False
    assert sync.fetch(mirror, f"{host.url}/fleet.git", "main").subject == "old 4"
    assert len(commits(mirror)) == 5


class Answering(http.server.BaseHTTPRequestHandler):
    """Says 401, 404 or 500, by the first part of the path."""

    def do_GET(self) -> None:
        code = int(self.path.split("/")[1])
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", "Basic realm=x")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        pytest.param(401, Refused, "without other credentials", id="credentials"),
        pytest.param(403, Refused, "without other credentials", id="forbidden"),
        pytest.param(500, Transient, "cannot be read", id="server error"),
        pytest.param(404, Permanent, "is not there", id="not found"),
    ],
)
def test_what_a_server_says_decides_whether_to_try_again(
    mirror: Path, code: int, kind: type[Exception], message: str
) -> None:
    with serving(Answering) as address, pytest.raises(kind, match=message):
        sync.fetch(mirror, f"{address}/{code}/fleet.git", "main")


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everybody elsewhere, and keeps what it was asked."""

    to: str
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(302)
        self.send_header("Location", self.to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("to", "told"),
    [
        pytest.param(
            "http://127.0.0.1:9/new.git/info/refs?service=git-upload-pack",
            "redirects to http://127.0.0.1:9/new.git (if that is right, use it as the address)",
            id="a dead address",
        ),
        pytest.param(
            "https://me:hunter2@git.example.org/x", "redirects to https://git.example.org/x (", id="with credentials"
        ),
        pytest.param("/login", "/login (if that is right", id="its own login page"),
    ],
)
def test_a_redirect_is_not_followed_but_named(mirror: Path, to: str, told: str) -> None:
    asked: list[str] = []
    handler = type("Handler", (Redirecting,), {"to": to, "asked": asked})
    with serving(handler) as address, pytest.raises(Permanent) as caught:
        sync.fetch(mirror, address.replace("://", "://me:secret@") + "/fleet.git", "main")
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert asked == ["GET /fleet.git/info/refs?service=git-upload-pack"]


def test_an_answer_that_is_no_http_is_told_as_such(mirror: Path) -> None:
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,), name="no http")
        thread.start()
        with pytest.raises(Transient, match="cannot be read"):
            sync.fetch(mirror, f"http://127.0.0.1:{server.getsockname()[1]}/fleet.git", "main")
        thread.join()


def test_a_server_that_never_answers_is_given_up(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SERVER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(Transient, match="cannot be read"):
        sync.fetch(mirror, f"http://127.0.0.1:{server.getsockname()[1]}/fleet.git", "main")


def test_a_redirect_to_another_host_is_refused() -> None:
    callbacks = remote.Callbacks(remote.Remote(thing="fleet repo", url="https://git.example.org/fleet.git"))
    assert callbacks.certificate_check(None, True, b"git.example.org") is True
    assert callbacks.certificate_check(None, False, b"git.example.org") is False
    with pytest.raises(ValueError, match="redirects to evil"):
        callbacks.certificate_check(None, True, b"evil.example.org")
