"""The Git protocol as the stock git client speaks it, versions 0, 1 and 2: what a cluster's credential opens, and what
it does not, whatever git asks for and however it sends it."""

import io
import os

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from hub.slices import git_http
from hub.slices.git_protocol import FLUSH, packet
from proto.ids import slice_ref
from tests.agents import until
from tests.git_world import SOME, VERSIONS, World, served  # noqa: F401


@VERSIONS
async def test_git_clones_and_pulls_a_slice(world: World, version: str) -> None:
    await world.move("eu-1", SOME)
    protocol = ("-c", f"protocol.version={version}")
    await world.git(*protocol, "clone", "-q", world.address("eu-1"), "here")
    assert (world.home / "here/bundles/shop/ns/ConfigMap/7.json").read_bytes() == SOME["ns/ConfigMap/7.json"]
    assert (await world.git("-C", "here", "symbolic-ref", "HEAD")).strip() == slice_ref("eu-1")
    for i in range(3):
        tip = await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"new %d" % i})
        await world.git(*protocol, "-C", "here", "pull", "-q")
        assert (await world.git("-C", "here", "rev-parse", "HEAD")).strip() == tip
    await world.git("-C", "here", "fsck", "--strict", "--full")
    assert (await world.git("-C", "here", "log", "--format=%s")).splitlines()[0] == "eu-1 #4: shop at ffffffffffff"


@VERSIONS
async def test_a_quiet_clone_says_nothing(world: World, version: str) -> None:
    await world.move("eu-1", {f"ns/ConfigMap/{i}.json": b"%d" % i for i in range(200)})  # a pack that git keeps
    said = world.home / "said"
    await world.git("-c", f"protocol.version={version}", "clone", "-q", world.address("eu-1"), "x", GIT_TRACE=str(said))
    assert " -v " not in next(line for line in said.read_text().splitlines() if "index-pack" in line)


@VERSIONS
async def test_git_lists_exactly_the_refs_of_one_cluster(world: World, version: str) -> None:
    tip = await world.move("eu-1", SOME)
    await world.move("us-1", SOME)
    await anyio.to_thread.run_sync(world.store.set_ref, "us-1", world.chains["us-1"][0])
    shown = await world.git("-c", f"protocol.version={version}", "ls-remote", "--symref", world.address("eu-1"))
    assert shown.splitlines() == [
        f"ref: {slice_ref('eu-1')}\tHEAD",
        f"{tip}\tHEAD",
        f"{tip}\t{slice_ref('eu-1')}",
    ]
    narrow = await world.git("-c", f"protocol.version={version}", "ls-remote", world.address("eu-1"), slice_ref("eu-1"))
    assert narrow == f"{tip}\t{slice_ref('eu-1')}\n"


@VERSIONS
async def test_a_cluster_without_slice_is_an_empty_repository_that_fills_later(world: World, version: str) -> None:
    protocol = ("-c", f"protocol.version={version}")
    await world.git(*protocol, "clone", "-q", world.address("eu-1"), "here")
    assert await world.git(*protocol, "ls-remote", world.address("eu-1")) == ""
    tip = await world.move("eu-1", SOME)
    await world.git(*protocol, "-C", "here", "fetch", "-q")
    assert (await world.git("-C", "here", "rev-parse", "origin/clusters/eu-1")).strip() == tip


@VERSIONS
async def test_git_with_long_local_history_sends_gzip_and_still_finds_common_ground(world: World, version: str) -> None:
    await world.move("eu-1", SOME)
    protocol = ("-c", f"protocol.version={version}")
    await world.git(*protocol, "clone", "-q", world.address("eu-1"), "here")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for _ in range(70):
        await world.git(*who, "-C", "here", "commit", "-q", "--allow-empty", "-m", "local")
    await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"new"})
    trace = await world.git(*protocol, "-C", "here", "fetch", GIT_TRACE_CURL=str(world.home / "t"))
    assert trace == ""
    assert "Content-Encoding: gzip" in (world.home / "t").read_text()
    assert (await world.git("-C", "here", "rev-parse", "FETCH_HEAD")).strip() == world.chains["eu-1"][-1]


@VERSIONS
async def test_unrelated_local_history_gets_the_whole_slice(world: World, version: str) -> None:
    tip = await world.move("eu-1", SOME)
    await world.git("init", "-q", "here")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    await world.git(*who, "-C", "here", "commit", "-q", "--allow-empty", "-m", "local")
    await world.git("-c", f"protocol.version={version}", "-C", "here", "fetch", "-q", world.address("eu-1"))
    assert (await world.git("-C", "here", "rev-parse", "FETCH_HEAD")).strip() == tip
    await world.git("-C", "here", "fsck", "--strict", "--full")


@VERSIONS
async def test_a_shallow_clone_has_the_newest_only_and_goes_on_deepens_and_becomes_whole(
    world: World, version: str
) -> None:
    for number in range(6):
        await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"%d" % number})
    here = ("-c", f"protocol.version={version}", "-C", "here")

    async def depth() -> int:
        await world.git("-C", "here", "fsck", "--strict", "--full")
        return len((await world.git("-C", "here", "log", "--format=%H", "origin/clusters/eu-1")).splitlines())

    await world.git(*here[:2], "clone", "-q", "--depth", "1", world.address("eu-1"), "here")
    assert (await world.git("-C", "here", "rev-parse", "HEAD")).strip() == world.chains["eu-1"][-1]
    assert await depth() == 1
    tip = await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"new"})
    await world.git(*here, "pull", "-q")
    assert (await world.git("-C", "here", "rev-parse", "HEAD")).strip() == tip
    assert await depth() == 2
    await world.git(*here, "fetch", "-q", "--depth", "4")
    assert await depth() == 4
    await world.git(*here, "fetch", "-q", "--depth", "1")
    assert await depth() == 1
    await world.git(*here, "fetch", "-q", "--deepen", "2")
    assert await depth() == 3
    newer = await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"newer"})
    await world.git(*here, "fetch", "-q", "--deepen", "1")
    assert (await world.git("-C", "here", "rev-parse", "origin/clusters/eu-1")).strip() == newer
    assert await depth() == 5
    await world.git(*here, "fetch", "-q", "--unshallow")
    assert await depth() == 8
    assert not (world.home / "here" / ".git" / "shallow").exists()
    await world.git(*here, "fetch", "-q", "--deepen", "1")
    assert await depth() == 8


@VERSIONS
@pytest.mark.parametrize("how", ["--shallow-since=2023-11-14", "--shallow-exclude=clusters/eu-1"])
async def test_a_history_cut_by_time_or_name_is_refused_in_words(world: World, version: str, how: str) -> None:
    await world.move("eu-1", SOME)
    said = await world.git("-c", f"protocol.version={version}", "clone", how, world.address("eu-1"), "here", fails=True)
    assert ("cannot be cut by time or by name" if version == "2" else "Server does not support") in said


@VERSIONS
async def test_a_shallow_clone_can_get_an_older_slice_of_its_own(world: World, version: str) -> None:
    old = await world.move("eu-1", SOME)
    for number in range(3):
        await world.move("eu-1", {"ns/ConfigMap/7.json": b"%d" % number})
    here = ("-c", f"protocol.version={version}", "-C", "here")
    await world.git(*here[:2], "clone", "-q", "--depth", "2", world.address("eu-1"), "here")
    await world.git(*here, "fetch", "-q", "--depth", "1", "origin", old)
    assert len((await world.git("-C", "here", "ls-tree", "-r", old)).splitlines()) == len(SOME) + 2
    await world.git("-C", "here", "fsck", "--strict", "--full")


@VERSIONS
async def test_a_clone_that_leaves_out_blobs_gets_them_all_the_same(world: World, version: str) -> None:
    tip = await world.move("eu-1", SOME)
    await world.git(
        "-c", f"protocol.version={version}", "clone", "-q", "--bare", "--filter=blob:none", world.address("eu-1"), "h"
    )
    assert len((await world.git("-C", "h", "ls-tree", "-r", tip)).splitlines()) == len(SOME) + 2
    assert "missing" not in await world.git("-C", "h", "rev-list", "--objects", "--missing=print", "--all")


@VERSIONS
async def test_git_may_have_an_older_slice_of_its_own_but_none_of_another_cluster(world: World, version: str) -> None:
    old = await world.move("eu-1", SOME)
    await world.move("eu-1", {})
    foreign = await world.move("us-1", {"ns/Secret/s.json": b"1"})
    protocol = ("-c", f"protocol.version={version}")
    await world.git("init", "-q", "here")
    await world.git(*protocol, "-C", "here", "fetch", "-q", world.address("eu-1"), old)
    said = await world.git(*protocol, "-C", "here", "fetch", "-q", world.address("eu-1"), foreign, fails=True)
    assert f"commit {foreign}: was never a slice of cluster eu-1" in said
    await world.git("-C", "here", "cat-file", "-e", foreign, fails=True)


async def test_a_push_is_refused_with_the_reason(world: World) -> None:
    await world.move("eu-1", SOME)
    await world.git("clone", "-q", world.address("eu-1"), "here")
    said = await world.git("-C", "here", "push", "origin", "HEAD:refs/heads/x", fails=True)
    assert "403" in said
    assert "change the fleet repo" in said
    for method, path in (("GET", "info/refs?service=git-receive-pack"), ("POST", "git-receive-pack")):
        status, body, _ = await world.ask(method, f"/git/eu-1.git/{path}")
        assert (status, b"change the fleet repo" in body) == (403, True)


# --- what is not the client's -----------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize(
    ("token", "said"),
    [
        pytest.param("stolen", "Authentication failed", id="of nobody"),
        pytest.param("token-us-1", "403", id="of another cluster"),
    ],
)
async def test_a_wrong_token_gets_nothing(world: World, version: str, token: str, said: str) -> None:
    await world.move("eu-1", SOME)
    protocol = ("-c", f"protocol.version={version}")
    for command in (["ls-remote"], ["clone", "-q"]):
        assert said in await world.git(*protocol, *command, world.address("eu-1", token=token), fails=True)


@VERSIONS
@pytest.mark.parametrize("what", ["branch", "commit", "tree", "blob", "subtree"])
async def test_nothing_of_another_cluster_is_had_by_name_or_id(world: World, version: str, what: str) -> None:
    await world.move("eu-1", SOME)
    foreign = await world.move("us-1", {"ns/Secret/s.json": b"hidden"})
    await anyio.to_thread.run_sync(world.store.set_ref, "us-1", foreign)
    there = ("-C", str(world.store.path), "rev-parse")
    path = {"tree": "^{tree}", "blob": ":bundles/shop/ns/Secret/s.json", "subtree": ":bundles/shop"}.get(what, "")
    wanted = slice_ref("us-1") if what == "branch" else (await world.git(*there, f"{foreign}{path}")).strip()
    protocol = ("-c", f"protocol.version={version}")
    await world.git("init", "-q", "here")
    said = await world.git(*protocol, "-C", "here", "fetch", world.address("eu-1"), wanted, fails=True)
    assert "couldn't find remote ref" in said if what == "branch" else "was never a slice of cluster eu-1" in said
    assert "in-pack: 0\n" in await world.git("-C", "here", "count-objects", "-v")


@VERSIONS
async def test_the_own_slices_parts_are_had_with_their_commit_only(world: World, version: str) -> None:
    tip = await world.move("eu-1", SOME)
    tree = (await world.git("-C", str(world.store.path), "rev-parse", f"{tip}^{{tree}}")).strip()
    await world.git("init", "-q", "here")
    protocol = ("-c", f"protocol.version={version}")
    await world.git(*protocol, "-C", "here", "fetch", world.address("eu-1"), tree, fails=True)


@VERSIONS
async def test_every_kind_of_push_is_refused_and_moves_nothing(world: World, version: str) -> None:
    tip = await world.move("eu-1", SOME)
    await anyio.to_thread.run_sync(world.store.set_ref, "eu-1", tip)
    protocol = ("-c", f"protocol.version={version}")
    await world.git(*protocol, "clone", "-q", world.address("eu-1"), "here")
    refs = ["HEAD:refs/heads/new", f"+HEAD~0:{slice_ref('eu-1')}", f":{slice_ref('eu-1')}", "HEAD:refs/tags/v1"]
    for ref in refs:
        said = await world.git(*protocol, "-C", "here", "push", "origin", ref, fails=True)
        assert "403" in said
    shown = await world.git("-C", str(world.store.path), "for-each-ref", "--format=%(refname) %(objectname)")
    assert shown == f"{slice_ref('eu-1')} {tip}\n"


# --- large, slow, many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0", "1"])  # git 2.39 itself crashes in version 2 with so small a buffer
async def test_a_request_in_chunks_is_read_like_any_other(world: World, version: str) -> None:
    await world.move("eu-1", SOME)
    await world.git("-c", f"protocol.version={version}", "clone", "-q", world.address("eu-1"), "here")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for number in range(30):
        await world.git(*who, "-C", "here", "commit", "-q", "--allow-empty", "-m", f"local {number}")
    tip = await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"new"})
    options = ("-c", f"protocol.version={version}", "-c", "http.postBuffer=1", "-C", "here")
    await world.git(*options, "fetch", "-q", GIT_TRACE_CURL=str(world.home / "trace"))
    assert "Transfer-Encoding: chunked" in (world.home / "trace").read_text()
    assert (await world.git("-C", "here", "rev-parse", "origin/clusters/eu-1")).strip() == tip


async def raw(world: World, head: str) -> anyio.abc.SocketStream:
    """A connection that asked for something already, with eu-1's token."""
    host, port = world.url.removeprefix("http://").split(":")
    stream = await anyio.connect_tcp(host, int(port))
    await stream.send(f"{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-eu-1\r\n".encode())
    return stream


async def test_who_never_ends_a_request_is_let_go_and_others_are_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_http, "BODY_S", 0.3)
    tip = await world.move("eu-1", SOME)
    slow = [await raw(world, "POST /git/eu-1.git/git-upload-pack") for _ in range(20)]
    for stream in slow:
        await stream.send(b"Content-Length: 1000\r\n\r\n0")
    await world.git("clone", "-q", world.address("eu-1"), "here")
    assert (await world.git("-C", "here", "rev-parse", "HEAD")).strip() == tip
    for stream in slow:
        assert (await stream.receive()).startswith(b"HTTP/1.1 408 ")
        await stream.aclose()


async def test_who_does_not_take_its_pack_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_http, "SEND_S", 0.3)
    tip = await world.move("eu-1", {"ns/Secret/large.json": os.urandom(32 << 20)})
    body = packet(f"want {tip} side-band-64k\n") + FLUSH + packet("done\n")
    async with await raw(world, "POST /git/eu-1.git/git-upload-pack") as stream:
        await stream.send(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: world.connections() == 1, what="the connection")
        await until(lambda: world.connections() == 0, what="its end, though nobody read a byte")
    monkeypatch.undo()
    await world.git("clone", "-q", world.address("eu-1"), "here")


async def test_hundreds_of_fetches_at_once_all_get_their_slice(world: World) -> None:
    clusters = [f"c-{number}" for number in range(20)]
    tips = {cluster: await world.move(cluster, {**SOME, f"ns/ConfigMap/{cluster}.json": b"1"}) for cluster in clusters}
    taken = 0

    async def fetch(cluster: str) -> None:
        nonlocal taken
        body = packet(f"want {tips[cluster]} side-band-64k\n") + FLUSH + packet("done\n")
        path = f"/git/{cluster}.git/git-upload-pack"
        status, answer, _ = await world.ask("POST", path, token=f"token-{cluster}", data=io.BytesIO(body))
        assert (status, answer[-4:]) == (200, FLUSH)
        taken += 1

    async def clone(cluster: str) -> None:
        await world.git("clone", "-q", "--bare", world.address(cluster), cluster)
        assert (await world.git("-C", cluster, "rev-parse", "HEAD")).strip() == tips[cluster]

    async with anyio.create_task_group() as tasks:
        for cluster in clusters:
            tasks.start_soon(clone, cluster)
            for _ in range(15):
                tasks.start_soon(fetch, cluster)
    assert taken == 300
