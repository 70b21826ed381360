"""Mirrors of the slices: what is pushed to a stock Git host, what never is, and what becomes of a host in trouble."""

import itertools
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pygit2
import pytest

from hub.external.credentials import Credentials, Login
from hub.external.push import Update
from hub.inputs import FromAgent
from hub.model import Cluster, Finding, Publish, RolloutPolicy
from hub.publish import Publisher, plan
from hub.slices.compose import HISTORY_S
from hub.wiring import Hub as WholeHub
from proto.ids import ClusterName, Oid, slice_ref
from proto.messages import Report
from tests.agents import until
from tests.git_host import PASSWORD, USER, GitHost, git, git_host
from tests.sshd import Sshd
from tests.unit.test_api import fleet_repo
from tests.unit.test_loop import CANARY, EU, SHOP, Hub, running
from tests.unit.test_sync import sshd

__all__ = ["sshd"]

A, B, C = (Oid(letter * 40) for letter in "abc")


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    with git_host(tmp_path / "host") as made:
        made.create()
        yield made


def publisher(hub: Hub, host: GitHost, *, password: str = PASSWORD, ca: Path | None = None) -> Publisher:
    login = Login(addresses=(host.url,), username=USER, password=password, ca=ca)
    return Publisher(
        hub.loop,
        journal=hub.journal,
        path=hub.store.path,
        credentials=lambda: Credentials(logins={"mirror": login}),
        clock=hub.clock,
        delays=lambda: itertools.repeat(0.01),
    )


async def to(hub: Hub, url: str, *, commit: str = "a", text: str = "one", credentials: str = "mirror") -> None:
    """Have the fleet repo say where to publish, and roll something out."""
    made = hub.desired(commit, {SHOP: hub.subtree("shop", text)})
    wanted = replace(made, fleet=replace(made.fleet, publish=Publish(url=url, credentials=credentials)))
    await hub.turn(wanted, hub.says(CANARY), hub.says(EU))
    await hub.turn(hub.says(CANARY), hub.says(EU))
    await hub.turn(hub.says(CANARY), hub.says(EU))


def commits(hub: Hub) -> dict[str, str]:
    return {cluster: row.commit for cluster, row in hub.loop.slices.items()}


@pytest.mark.parametrize(
    ("at", "moves", "foreign"),
    [
        pytest.param(None, True, False, id="not there"),
        pytest.param(A, True, False, id="an older slice"),
        pytest.param(B, False, False, id="the newest slice"),
        pytest.param(C, False, True, id="a commit of somebody else"),
    ],
)
def test_what_is_pushed_depends_on_what_is_there(at: Oid | None, moves: bool, foreign: bool) -> None:
    ref = slice_ref(EU)
    made = plan({EU: B}, {ref: at} if at else {}, was_slice=lambda _, commit: commit in (A, B))
    assert made.updates == ((Update(ref=ref, old=at, new=B),) if moves else ())
    assert bool(made.foreign) == foreign


async def test_a_mirror_has_what_the_journal_says_and_stock_git_reads_it(
    hub: Hub, host: GitHost, tmp_path: Path
) -> None:
    mirror = publisher(hub, host)
    await to(hub, f"{host.url}/slices.git")
    assert mirror.behind == 0, "nobody asked yet where"
    assert await mirror.publish() == ""
    assert host.refs() == commits(hub)
    assert mirror.behind == 0

    await to(hub, f"{host.url}/slices.git", commit="b", text="two")
    assert mirror.behind == 2
    assert await mirror.publish(everything=False) == ""
    assert host.refs() == commits(hub)

    address = host.url.replace("://", f"://{USER}:{PASSWORD}@")
    git("clone", "--quiet", "--branch", "clusters/eu-1", f"{address}/slices.git", str(tmp_path / "clone"))
    assert git("-C", str(tmp_path / "clone"), "log", "--format=%s").splitlines() == [
        "eu-1 #2: shop at bbbbbbbbbbbb",
        "eu-1 #1: shop at aaaaaaaaaaaa",
    ]
    git("-C", str(tmp_path / "clone"), "fsck", "--strict")


async def test_a_hub_that_was_killed_before_the_push_pushes_after_its_start(host: GitHost, tmp_path: Path) -> None:
    url = f"{host.url}/slices.git"
    async with running(tmp_path) as hub:
        await to(hub, url)
        assert await publisher(hub, host).publish() == ""
        await to(hub, url, commit="b", text="two")  # decided, and killed
        decided = commits(hub)
    async with running(tmp_path) as again:
        made = again.desired("b", {SHOP: again.subtree("shop", "two")})
        publish = Publish(url=url, credentials="mirror")
        await again.turn(replace(made, fleet=replace(made.fleet, publish=publish)))
        assert await publisher(again, host).publish() == ""
        assert host.refs() == commits(again) == decided


async def test_a_checkpoint_which_has_no_parent_is_published_too(hub: Hub, host: GitHost) -> None:
    mirror = publisher(hub, host)
    await to(hub, f"{host.url}/slices.git")
    assert await mirror.publish() == ""
    hub.clock.now += HISTORY_S + 1
    await to(hub, f"{host.url}/slices.git", commit="b", text="two")
    cut = hub.loop.slices[EU].commit
    assert list(hub.store.history(cut)) == [cut]
    assert await mirror.publish() == ""
    assert host.refs() == commits(hub)


@pytest.mark.parametrize("checkpoint", [pytest.param(False, id="a move"), pytest.param(True, id="a checkpoint")])
async def test_what_somebody_else_pushed_is_never_covered_up(hub: Hub, host: GitHost, checkpoint: bool) -> None:
    mirror, repo = publisher(hub, host), str(host.root / "slices.git")
    await to(hub, f"{host.url}/slices.git")
    assert await mirror.publish() == ""
    tree = git("-C", repo, "rev-parse", "clusters/eu-1^{tree}").strip()
    who = ("-c", "user.name=eve", "-c", "user.email=eve@example.org")
    theirs = git("-C", repo, *who, "commit-tree", tree, "-p", "clusters/eu-1", "-m", "eu-1 #2: shop").strip()
    git("-C", repo, "update-ref", slice_ref(EU), theirs)

    hub.clock.now += HISTORY_S + 1 if checkpoint else 0
    await to(hub, f"{host.url}/slices.git", commit="b", text="two")
    problem = await mirror.publish()

    assert problem.startswith(f"1 of 2 slices are not published to {host.url}/slices.git: eu-1: its {slice_ref(EU)}")
    assert "somebody else pushed" in problem
    assert host.refs() == {**commits(hub), "eu-1": theirs}, "the others' go on"
    assert mirror.behind == 1
    git("-C", repo, "update-ref", "-d", slice_ref(EU))
    assert await mirror.publish() == ""
    assert host.refs() == commits(hub)


async def test_what_becomes_of_the_mirror_behind_our_back_is_seen_at_the_next_look(hub: Hub, host: GitHost) -> None:
    mirror, repo = publisher(hub, host), str(host.root / "slices.git")
    await to(hub, f"{host.url}/slices.git")
    assert await mirror.publish() == ""
    git("-C", repo, "update-ref", slice_ref(EU), host.refs()["canary"])
    git("-C", repo, "update-ref", "-d", slice_ref(CANARY))
    assert "is no slice of ours" in await mirror.publish()
    assert mirror.behind == 1
    assert host.refs()["canary"] == commits(hub)["canary"], "what was deleted is there again"


async def test_what_somebody_pushes_between_our_look_and_our_push_is_not_covered_up(hub: Hub, host: GitHost) -> None:
    mirror, repo = publisher(hub, host), str(host.root / "slices.git")
    await to(hub, f"{host.url}/slices.git")
    assert await mirror.publish() == ""
    theirs = host.refs()["canary"]

    def somebody(path: str) -> None:
        if "receive-pack" in path:
            git("-C", repo, "update-ref", slice_ref(EU), theirs)

    host.before = somebody
    await to(hub, f"{host.url}/slices.git", commit="b", text="two")
    assert "moved while we looked: somebody else pushed to it" in await mirror.publish()
    assert host.refs()["eu-1"] == theirs


async def test_a_ref_that_the_host_refuses_holds_up_no_other(hub: Hub, host: GitHost) -> None:
    hook = host.root / "slices.git/hooks/update"
    hook.write_text('#!/bin/sh\ncase "$1" in *eu-1) echo no; exit 1;; esac\n')
    hook.chmod(0o755)
    mirror = publisher(hub, host)
    await to(hub, f"{host.url}/slices.git")
    problem = await mirror.publish()
    assert problem.startswith(f"1 of 2 slices are not published to {host.url}/slices.git: eu-1: its host refuses ")
    assert problem.endswith("refs/heads/clusters/eu-1: hook declined")
    assert host.refs().keys() == {"canary"}


@pytest.mark.parametrize(
    ("break_", "says"),
    [
        pytest.param("pre-receive", "host refuses .*pre-receive hook declined", id="refuses everything"),
        pytest.param("full", "cannot be pushed to|host refuses", id="full"),
        pytest.param("password", "without other credentials", id="other credentials"),
        pytest.param("gone", "is not there: status code: 404", id="repository gone"),
        pytest.param("500", "cannot be", id="in trouble"),
        pytest.param("redirect", "redirects", id="elsewhere"),
        pytest.param("unnamed", "needs credentials", id="nobody vouches for it"),
        pytest.param("unknown", "are not among those", id="credentials that the hub lacks"),
        pytest.param("other", "are not for", id="credentials for another host"),
    ],
)
async def test_a_mirror_in_trouble_is_told_and_costs_nothing_else(
    hub: Hub, host: GitHost, tmp_path: Path, break_: str, says: str
) -> None:
    url, credentials, repo = f"{host.url}/slices.git", "mirror", host.root / "slices.git"
    mirror = publisher(hub, host, password="wrong" if break_ == "password" else PASSWORD)
    match break_:
        case "pre-receive":
            (repo / "hooks/pre-receive").write_text("#!/bin/sh\nexit 1\n")
            (repo / "hooks/pre-receive").chmod(0o755)
        case "full":
            git("-C", str(repo), "config", "receive.maxInputSize", "10")
        case "gone":
            repo.rename(tmp_path / "away.git")
        case "500":
            host.before = lambda path: 500
        case "redirect":
            host.before = lambda path: 302
        case "unnamed":
            url, credentials = "http://git.example.org/slices.git", ""
        case "unknown":
            credentials = "none"
        case "other":
            url = "https://git.example.org/slices.git"
    await to(hub, url, credentials=credentials)
    problem = await mirror.publish()
    assert re.search(says, problem), problem
    assert PASSWORD not in problem
    assert "wrong" not in problem
    assert mirror.behind == 2
    assert hub.loop.problem == ""


async def test_a_mirror_of_another_authority_is_believed_with_its_credentials_alone(hub: Hub, tmp_path: Path) -> None:
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=127.0.0.1"]
    await anyio.run_process([*command, "-addext", "subjectAltName=IP:127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with git_host(tmp_path / "host", tls=tls) as host:
        host.create()
        await to(hub, f"{host.url}/slices.git")
        assert "CERTIFICATE_VERIFY_FAILED" in await publisher(hub, host).publish()
        assert await publisher(hub, host, ca=certificate).publish() == ""
        assert host.refs() == commits(hub)
        assert "without other credentials" in await publisher(hub, host, ca=certificate, password="wrong").publish()


async def test_a_mirror_can_be_reached_by_ssh(hub: Hub, sshd: Sshd, tmp_path: Path) -> None:
    host = GitHost(tmp_path)
    path = host.create()
    host.url = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{path.parent}"
    trust = sshd.trust()
    login = Login(addresses=(host.url,), ssh_key=trust.key, known_hosts=trust.known_hosts)
    mirror = Publisher(
        hub.loop,
        journal=hub.journal,
        path=hub.store.path,
        credentials=lambda: Credentials(logins={"mirror": login}),
        clock=hub.clock,
    )
    await to(hub, f"{host.url}/slices.git")
    assert await mirror.publish() == ""
    await to(hub, f"{host.url}/slices.git", commit="b", text="two")
    assert await mirror.publish() == ""
    assert host.refs() == commits(hub)


# --- by itself ----------------------------------------------------------------------------------------------------


class Published:
    """A publisher that runs, over a hub whose loop is turned by hand."""

    def __init__(self, hub: Hub, host: GitHost) -> None:
        self.hub, self.host = hub, host
        self.publisher = publisher(hub, host)

    async def until_equal(self, *, name: str = "slices.git") -> None:
        await until(lambda: self.host.refs(name) == commits(self.hub) and self.publisher.behind == 0)

    async def noted(self) -> list[str]:
        """What went to the event list, once a turn took it."""
        taken = []
        while self.hub.loop._receive.statistics().current_buffer_used:
            taken.append((await self.hub.loop._receive.receive()).what)
        return [event.event.text for event in taken]


@pytest.fixture
async def published(hub: Hub, host: GitHost) -> AsyncIterator[Published]:
    made = Published(hub, host)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.publisher.run)
        yield made
        tasks.cancel_scope.cancel()


async def test_turns_are_published_as_they_are_stored(published: Published) -> None:
    url = f"{published.host.url}/slices.git"
    await to(published.hub, url)
    await published.until_equal()
    for number in range(5):
        await to(published.hub, url, commit=str(number), text=f"text {number}")
    await published.until_equal()
    assert published.publisher.problem == ""


async def test_a_mirror_that_comes_back_gets_the_newest_and_people_are_told_once(published: Published) -> None:
    published.host.before = lambda _: 503
    url = f"{published.host.url}/slices.git"
    await to(published.hub, url)
    await until(lambda: bool(published.publisher.problem))
    tried = len(published.host.asked)
    await until(lambda: len(published.host.asked) >= tried + 3)
    await to(published.hub, url, commit="b", text="two")
    assert published.hub.loop.problem == "", "no turn waits for it"
    published.host.before = lambda _: None
    await published.until_equal()
    await until(lambda: not published.publisher.problem)
    refused, recovered = await published.noted()
    assert "cannot be read: HTTP Error 503" in refused
    assert recovered == "slices are published: nothing is in the way any more"


async def test_another_mirror_gets_everything_and_none_gets_nothing(published: Published) -> None:
    published.host.create("other.git")
    await to(published.hub, f"{published.host.url}/slices.git")
    await published.until_equal()
    await to(published.hub, f"{published.host.url}/other.git", commit="b")
    await published.until_equal(name="other.git")
    made = published.hub.desired("c", {SHOP: published.hub.subtree("shop", "three")})
    await published.hub.turn(made, published.hub.says(CANARY), published.hub.says(EU))
    await until(lambda: published.publisher.behind == 0)  # which it would not be for a mirror
    assert published.host.refs("other.git") != commits(published.hub)


async def test_a_fleet_file_that_is_broken_does_not_end_publishing(published: Published) -> None:
    url = f"{published.host.url}/slices.git"
    await to(published.hub, url)
    await published.until_equal()
    made = published.hub.desired("b", {SHOP: published.hub.subtree("shop", "two")})
    finding = Finding(where="fleet.yaml:4", message="spec.publish has to be a mapping")
    broken = replace(made, fleet=replace(made.fleet, findings=(finding,)))
    await published.hub.turn(broken, published.hub.says(CANARY), published.hub.says(EU))
    await published.until_equal()


# --- many ---------------------------------------------------------------------------------------------------------


async def test_each_cluster_may_have_a_repository_of_its_own(hub: Hub, host: GitHost) -> None:
    for name in ("canary", "eu-1"):
        host.create(f"of-{name}.git")
    mirror, url = publisher(hub, host), f"{host.url}/of-${{cluster}}.git"
    await to(hub, url)
    assert await mirror.publish() == ""
    assert host.refs("of-canary.git") == {"canary": commits(hub)["canary"]}
    assert host.refs("of-eu-1.git") == {"eu-1": commits(hub)["eu-1"]}

    host.before = lambda path: 403 if "canary" in path else None
    await to(hub, url, commit="b", text="two")
    problem = await mirror.publish()
    assert problem.startswith(f"1 of 2 slices are not published to {url}: canary: mirror {host.url}/of-canary.git")
    assert host.refs("of-eu-1.git") == {"eu-1": commits(hub)["eu-1"]}


async def test_a_first_publish_of_many_goes_in_bounded_pushes_that_shrink_when_the_host_wants_less(
    hub: Hub, host: GitHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.publish.BATCH", 8)
    clusters = {name: Cluster(name=name, labels={}) for name in (ClusterName(f"c-{i}") for i in range(30))}
    made = hub.desired("a", {SHOP: hub.subtree("shop", "one")}, clusters=clusters)
    publish = Publish(url=f"{host.url}/slices.git", credentials="mirror")
    everywhere = replace(made.fleet, publish=publish, policies={"careful": RolloutPolicy(name="careful")})
    await hub.turn(replace(made, fleet=everywhere), *(hub.says(name) for name in clusters))
    assert len(hub.loop.slices) == 30
    mirror = publisher(hub, host)
    hook = host.root / "slices.git/hooks/pre-receive"
    hook.write_text("#!/bin/sh\nwc -l >> ../pushes\n")
    hook.chmod(0o755)
    pushes = iter((413,))
    host.before = lambda path: next(pushes, None) if path.endswith("/git-receive-pack") else None
    assert "cannot be pushed to" in await mirror.publish()
    assert await mirror.publish() == ""
    assert host.refs() == commits(hub)
    sizes = [int(line) for line in (host.root / "pushes").read_text().split()]
    assert sum(sizes) == 30
    assert sizes[0] == 4
    assert max(sizes) == 8


# --- the whole hub ------------------------------------------------------------------------------------------------


def fleet_that_publishes(path: Path, url: str) -> str:
    repo = pygit2.Repository(str(fleet_repo(path)))
    publish = f"publish: {{url: '{url}', credentials: mirror}}"
    (path / "fleet.yaml").write_text(f"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n  {publish}\n")
    repo.index.add("fleet.yaml")
    who = pygit2.Signature("Dana", "dana@example.org", 1_700_000_100, 0)
    repo.create_commit("refs/heads/main", who, who, "Publish", repo.index.write_tree(), [repo.head.target])
    return str(path)


async def test_a_hub_publishes_by_itself_says_what_is_wrong_and_goes_on_after_a_restart(
    host: GitHost, tmp_path: Path
) -> None:
    login = {"for": [host.url], "username": USER, "password": PASSWORD}
    (tmp_path / "credentials.yaml").write_text(json.dumps({"mirror": login}))
    fleet = fleet_that_publishes(tmp_path / "fleet", f"{host.url}/slices.git")

    @asynccontextmanager
    async def serving() -> AsyncIterator[WholeHub]:
        made = WholeHub(
            fleet=fleet,
            branch="main",
            data=tmp_path / "hub",
            poll_s=0.2,
            heartbeat_s=1.0,
            source_credentials=tmp_path / "credentials.yaml",
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(made.run, "127.0.0.1", 0))
            yield made
            tasks.cancel_scope.cancel()

    host.before = lambda _: 403
    async with serving() as hub:
        await until(lambda: hub.loop.desired is not None)
        told = Report(number=1, boot_id="b", seq=0, commit="", full=True)
        await hub.loop.tell(FromAgent(cluster=EU, report=told))
        await until(lambda: "without other credentials" in hub.publisher.problem)
        assert hub.loop.slices.keys() == {EU}, "the rollout went on"
        await until(lambda: [event.kind for event in hub.journal.events(kind="publish")] == ["publish"])
    host.before = lambda _: None
    async with serving() as hub:
        await until(lambda: host.refs() == {"eu-1": hub.loop.slices[EU].commit})
