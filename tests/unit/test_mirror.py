"""Slices from a mirror, which is stock Git over HTTP: what is taken, what lies get, and when the hub is asked."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pygit2
import pytest

from agent.stream import mirror as mirroring
from agent.stream.mirror import Mirror
from agent.stream.receive import LOOK, Receiver
from proto import slices
from proto.errors import InvalidInput, Transient
from proto.ids import slice_ref
from proto.messages import WakeUp
from proto.objects import blob_id, canonical
from tests.git_host import PASSWORD, USER, GitHost, git_host
from tests.unit.test_receive import Upstream, bundle


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    with git_host(tmp_path / "host") as made:
        yield made


class Pulling:
    """An agent's receiver behind a mirror, with a hub that says what the test wants."""

    def __init__(self, host: GitHost, folder: Path, *, login: str = f"{USER}:{PASSWORD}\n") -> None:
        self.host = host
        self.upstream = Upstream(host.root / "slices.git")
        self.receiver = Receiver(folder / "state", "eu-1")
        self.problem = ""
        self.connected = True
        self.asked_hub = 0
        self.hub_fails = False
        self.login = folder / "login"
        self.login.write_text(login)
        self.mirror = Mirror(
            f"{host.url}/slices.git",
            self.receiver,
            login_file=self.login,
            hub=self.hub,
            connected=lambda: self.connected,
            problem=self.told,
            poll_s=0.01,
        )

    def told(self, text: str) -> None:
        self.problem = text

    async def hub(self) -> bool:
        self.asked_hub += 1
        if self.hub_fails:
            raise Transient("slice of cluster eu-1", "cannot be fetched from the hub")
        return await self.receiver.fetch(self.upstream.url)

    @property
    def seq(self) -> int:
        return self.receiver.desired().seq


@pytest.fixture
def pulling(host: GitHost, tmp_path: Path) -> Pulling:
    return Pulling(host, tmp_path)


async def test_slices_come_from_the_mirror_also_while_the_hub_is_away(pulling: Pulling) -> None:
    pulling.connected = False
    pulling.upstream.move({"shop": bundle(a=1)})
    assert await pulling.mirror.take()
    second = pulling.upstream.move({"shop": bundle(a=2)})
    assert await pulling.mirror.take()
    assert pulling.receiver.desired().commit == second.commit
    assert (pulling.asked_hub, pulling.problem) == (0, "")


async def test_a_look_at_a_mirror_that_has_nothing_new_is_small_however_many_clusters_it_has(pulling: Pulling) -> None:
    move = pulling.upstream.move({"shop": bundle(a=1)})
    for number in range(300):
        pulling.upstream.repo.references.create(slice_ref(f"eu-1{number}"), move.commit)
    await pulling.mirror.take()
    pulling.host.asked.clear()
    pulling.host.sent = 0
    assert not await pulling.mirror.take()
    assert [path.rpartition("/")[2] for path in pulling.host.asked] == [
        "refs?service=git-upload-pack",
        "git-upload-pack",
    ]
    assert pulling.host.sent < 40_000


async def test_before_the_first_slice_a_mirror_without_our_ref_is_a_problem_and_no_more(pulling: Pulling) -> None:
    move = pulling.upstream.move({"shop": bundle(a=1)})
    pulling.upstream.repo.references.delete(slice_ref("eu-1"))
    pulling.upstream.repo.references.create(slice_ref("eu-2"), move.commit)
    assert not await pulling.mirror.take()
    assert "there is no ref refs/heads/clusters/eu-1" in pulling.problem
    assert pulling.seq == 0


def parent(upstream: Upstream) -> str:
    return str(upstream.repo[upstream.tip].peel(pygit2.Commit).parent_ids[0])


def older(upstream: Upstream) -> None:
    upstream.publish(parent(upstream))


def foreign(upstream: Upstream) -> None:
    other = Upstream(upstream.folder.parent / "other.git", seq=9)
    wake = other.move({"shop": bundle(a=9)})
    upstream.objects |= other.objects
    upstream.publish(wake.commit)


def another_clusters(upstream: Upstream) -> None:
    upstream.cluster = "eu-2"
    tree = upstream.slice_tree({"shop": bundle(a=7)}, seq=9)
    upstream.cluster = "eu-1"
    upstream.commit(tree, parent=upstream.tip)


def empty_tree(upstream: Upstream) -> None:
    upstream.commit(upstream.folder_of({}), parent=upstream.tip)


def without_objects(upstream: Upstream) -> None:
    upstream.commit(upstream.slice_tree({"shop": bundle(b=5)}, seq=9), parent=upstream.tip)
    blob = blob_id(canonical(5))
    (upstream.folder / "objects" / blob[:2] / blob[2:]).unlink()


def forged_checkpoint(upstream: Upstream) -> None:
    trailers = [("Predecessor", parent(upstream))]
    message = slices.commit_message(cluster="eu-1", seq=9, bundles=[], trailers=trailers)
    upstream.commit(upstream.slice_tree({}, seq=9), parent="", message=message)


def no_ref(upstream: Upstream) -> None:
    upstream.repo.references.delete(slice_ref("eu-1"))


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        pytest.param(older, "", id="an older slice, which may be late only"),
        pytest.param(foreign, "does not descend", id="another history"),
        pytest.param(another_clusters, "is cluster eu-2's", id="another cluster's slice"),
        pytest.param(empty_tree, "has no slice.json", id="an empty tree"),
        pytest.param(without_objects, "cannot be fetched|is missing", id="objects left out"),
        pytest.param(forged_checkpoint, "does not descend", id="a history cut before our slice"),
        pytest.param(no_ref, "there is no ref", id="no ref"),
        pytest.param(401, "status 401", id="401"),
        pytest.param(403, "status 403", id="403"),
        pytest.param(404, "status 404", id="404"),
        pytest.param(302, "status 302.*redirects are not followed", id="redirect"),
        pytest.param(500, "status 500", id="500"),
        pytest.param(200, "", id="a web page"),
    ],
)
async def test_a_mirror_that_lies_moves_nothing_and_the_hub_is_asked_only_for_what_it_says_is_there(
    pulling: Pulling, lie: Callable[[Upstream], None] | int, says: str
) -> None:
    pulling.upstream.move({"shop": bundle(a=1)})
    pulling.upstream.move({"shop": bundle(a=2)})
    assert await pulling.mirror.take()
    kept = pulling.receiver.desired()
    if callable(lie):
        lie(pulling.upstream)
    else:
        status = lie
        pulling.host.before = lambda _: status

    assert not await pulling.mirror.take()

    assert pulling.receiver.desired() is kept
    assert all(pulling.receiver.blob(oid) for oid in kept.bundles["shop"].objects.values())
    assert re.search(says, pulling.problem), pulling.problem
    assert PASSWORD not in pulling.problem
    assert pulling.asked_hub == 0


async def test_what_the_hub_speaks_of_is_waited_for_and_then_fetched_from_the_hub(
    pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling.upstream.move({"shop": bundle(a=1)})
    await pulling.mirror.take()
    wake = pulling.upstream.move({"shop": bundle(a=2)})
    older(pulling.upstream)  # the hub's push is under way
    pulling.mirror.hub_says(wake)
    assert not await pulling.mirror.take()
    assert (pulling.asked_hub, pulling.problem, pulling.seq) == (0, "", 1)

    monkeypatch.setattr(pulling.mirror, "_patience_s", 0.0)
    pulling.hub_fails = True
    with pytest.raises(Transient, match="from the hub"):
        await pulling.mirror.take()
    assert "has no slice 2 yet, of which the hub told" in pulling.problem
    pulling.hub_fails = False
    pulling.upstream.publish(wake.commit)  # at the hub; here it is the same folder
    assert await pulling.mirror.take()
    assert (pulling.seq, pulling.problem) == (2, "")


@pytest.mark.parametrize("connected", [pytest.param(True, id="hub there"), pytest.param(False, id="hub away")])
async def test_a_dead_mirror_costs_nothing_while_the_hub_is_there(pulling: Pulling, connected: bool) -> None:
    pulling.upstream.move({"shop": bundle(a=1)})
    await pulling.mirror.take()
    pulling.host.before = lambda _: 503
    pulling.mirror.hub_says(pulling.upstream.move({"shop": bundle(a=2)}))
    pulling.connected = connected
    assert await pulling.mirror.take() == connected
    assert (pulling.seq, pulling.asked_hub) == ((2, 1) if connected else (1, 0))
    assert "status 503" in pulling.problem
    pulling.host.before = lambda _: None
    await pulling.mirror.take()
    assert (pulling.seq, pulling.problem) == (2, "")


@pytest.mark.parametrize(
    ("login", "says"),
    [
        pytest.param(None, "cannot be read", id="no file"),
        pytest.param("s3cret", "does not hold user:password", id="no user"),
        pytest.param(":s3cret", "does not hold user:password", id="an empty user"),
        pytest.param("me:", "does not hold user:password", id="an empty password"),
        pytest.param("me:wrong", "status 401", id="a wrong password"),
    ],
)
async def test_a_login_that_opens_nothing_is_told_without_its_words_and_the_next_one_counts(
    pulling: Pulling, login: str | None, says: str
) -> None:
    pulling.upstream.move({"shop": bundle(a=1)})
    pulling.login.unlink()
    if login is not None:
        pulling.login.write_text(login)
    assert not await pulling.mirror.take()
    assert says in pulling.problem
    assert not {"s3cret", "wrong"} & set(re.findall(r"\w+", pulling.problem))
    pulling.login.write_text(f"{USER}:{PASSWORD}")
    assert await pulling.mirror.take()
    assert pulling.problem == ""


async def test_a_checkpoint_at_the_mirror_is_followed_by_agents_that_saw_it_missed_it_or_are_new(
    host: GitHost, tmp_path: Path
) -> None:
    online, offline = (Pulling(host, tmp_path / name) for name in ("online", "offline"))
    upstream = online.upstream
    upstream.move({"shop": bundle(a=1)})
    for agent in (online, offline):
        assert await agent.mirror.take()
    upstream.move({"shop": bundle(a=2)})
    assert await online.mirror.take()
    message = slices.commit_message(cluster="eu-1", seq=3, bundles=[], trailers=[("Predecessor", upstream.tip)])
    upstream.commit(upstream.slice_tree({"shop": bundle(a=3)}, seq=3), parent="", message=message)
    upstream.seq = 3
    assert await online.mirror.take()
    upstream.move({"shop": bundle(a=4)})
    fresh = Pulling(host, tmp_path / "fresh")
    for agent in (online, offline, fresh):
        assert await agent.mirror.take()
        assert (agent.seq, agent.problem) == (4, "")


async def test_the_mirror_is_looked_at_by_itself_and_less_often_while_the_hub_is_there(
    pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[WakeUp] = []

    async def looks_in(polls: int) -> int:
        before, slept = len(looked), 0

        async def sleep(_: float) -> None:
            nonlocal slept
            slept += 1
            if slept == polls:
                raise TimeoutError

        monkeypatch.setattr(pulling.mirror, "_sleep", sleep)
        with pytest.raises(TimeoutError):
            await pulling.mirror.poll(looked.append)
        return len(looked) - before

    assert await looks_in(40) == 4
    pulling.connected = False
    assert await looks_in(40) == 40
    assert set(looked) == {LOOK}


@pytest.mark.parametrize(
    ("url", "login", "says"),
    [
        pytest.param("https://git.example.org/slices.git", True, "", id="https"),
        pytest.param("https://git.example.org/${cluster}.git", True, "", id="a repository for each cluster"),
        pytest.param("http://git.example.org/slices.git", False, "", id="http, for everybody"),
        pytest.param("http://127.0.0.1:80/slices.git", True, "", id="http, on this machine"),
        pytest.param("http://git.example.org/slices.git", True, "readable", id="a password in the open"),
        pytest.param("https://me:pw@git.example.org/x", False, "has a user or password", id="a password in it"),
        pytest.param("git.example.org/x", False, "does not begin|is not an address", id="no scheme"),
        pytest.param("ssh://git@git.example.org/x", False, "is not an address", id="ssh"),
        pytest.param("https://", False, "is not an address", id="no host"),
    ],
)
def test_the_address_of_a_mirror_is_checked(url: str, login: bool, says: str) -> None:
    if not says:
        assert mirroring.check_address(url, login=login) == url
        return
    with pytest.raises(InvalidInput, match=says) as raised:
        mirroring.check_address(url, login=login)
    assert "pw@" not in str(raised.value)
