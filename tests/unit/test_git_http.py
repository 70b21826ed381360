"""Git serving over real sockets, to libgit2 and to those who ask for what is not theirs. The stock git client has
`test_git_protocol_with_stock_git`."""

import base64
import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pygit2
import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hub import packs
from hub.slices import garbage, git_http
from hub.slices.git_protocol import FLUSH, Fetch, ListRefs, Mark, packet, packets, parse_v0, parse_v2, side_band
from hub.slices.trees import subtree
from proto.errors import Permanent, ProtocolError, Transient
from proto.ids import NO_OID, Oid
from proto.objects import git_id
from tests.git_world import SOME, VERSIONS, World, served  # noqa: F401

V2 = {"Git-Protocol": "version=2"}
END_OF_V2 = packet("agent=git/2.39.5") + packet("object-format=sha1") + b"0001"


def pack_in(body: bytes) -> bytes:
    """The pack in band 1 of a whole response."""
    data, at = b"", 0
    while at < len(body):
        length = int(body[at : at + 4], 16)
        if length > 4 and body[at + 4] == 1:
            data += body[at + 5 : at + length]
        at += max(length, 4)
    return data


def count_in(pack: bytes) -> int:
    assert pack[:4] == b"PACK"
    return int.from_bytes(pack[8:12])


# --- libgit2, as the agent uses it ------------------------------------------------------------------------------------


def fetch_with_pygit2(path: Path, url: str, token: str) -> tuple[Oid | None, int]:
    """Fetch into a bare repository; the ref afterwards, and how many objects came."""
    repo = pygit2.init_repository(str(path), bare=True)
    callbacks = pygit2.RemoteCallbacks(credentials=pygit2.UserPass("agent", token))
    remote = repo.remotes.create_anonymous(url)
    refspec = "+refs/heads/clusters/*:refs/heads/clusters/*"
    progress = remote.fetch([refspec], callbacks=callbacks)
    refs = [repo.references[name] for name in repo.references]
    return (Oid(str(refs[0].target)) if refs else None), progress.total_objects


async def test_libgit2_fetches_first_everything_and_then_what_is_new(world: World) -> None:
    path, url = world.home / "agent.git", f"{world.url}/git/eu-1.git"

    async def fetch() -> tuple[Oid | None, int]:
        return await anyio.to_thread.run_sync(fetch_with_pygit2, path, url, "token-eu-1")

    assert await fetch() == (None, 0)
    first = await world.move("eu-1", SOME)
    # Commit, root, slice.json, bundles, shop, bundle.json, ns, ConfigMap, and the objects.
    assert await fetch() == (first, 8 + len(SOME))
    assert await fetch() == (first, 0)
    second = await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"new"})
    assert await fetch() == (second, 8)
    for i in range(60):
        await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"%d" % i})
    third = await world.move("eu-1", {}, bundle="other")
    tip, count = await fetch()
    assert tip == third
    assert count < 61 * 8
    assert (await world.git("-C", str(path), "fsck", "--strict", "--full")) == ""


async def test_libgit2_is_told_that_its_token_is_no_good(world: World) -> None:
    await world.move("eu-1", SOME)
    url = f"{world.url}/git/eu-1.git"
    with pytest.raises(pygit2.GitError):
        await anyio.to_thread.run_sync(fetch_with_pygit2, world.home / "a.git", url, "stolen")
    with pytest.raises(pygit2.GitError, match="403"):
        await anyio.to_thread.run_sync(fetch_with_pygit2, world.home / "b.git", url, "token-us-1")


# --- who may have what ------------------------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        pytest.param("Bearer token-eu-1", 200, id="bearer"),
        pytest.param("bearer  token-eu-1 ", 200, id="bearer in another case"),
        pytest.param(basic("whoever", "token-eu-1"), 200, id="basic"),
        pytest.param(basic("", "token-eu-1"), 200, id="basic without user"),
        pytest.param("", 401, id="none"),
        pytest.param("Bearer", 401, id="bearer without token"),
        pytest.param("Bearer stolen", 401, id="bad token"),
        pytest.param(basic("token-eu-1", ""), 401, id="basic without password"),
        pytest.param("Basic !!!", 401, id="basic that is not base64"),
        pytest.param("Basic /w==", 401, id="basic that is not text"),
        pytest.param("Bearer token-é", 401, id="bearer that is not ASCII"),
        pytest.param(basic("a", "token-é"), 401, id="basic that is not ASCII"),
        pytest.param("Negotiate token-eu-1", 401, id="another scheme"),
        pytest.param("Bearer token-us-1", 403, id="of another cluster"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "info/refs?service=git-upload-pack"),
        ("POST", "git-upload-pack"),
    ],
)
async def test_only_the_clusters_own_token_opens_its_slice(
    world: World, authorization: str, status: int, method: str, path: str
) -> None:
    await world.move("eu-1", SOME)
    got, _, headers = await world.ask(method, f"/git/eu-1.git/{path}", data=None, Authorization=authorization)
    assert got == status
    assert ("WWW-Authenticate" in headers) == (status == 401)


async def test_nobody_learns_which_other_clusters_exist(world: World) -> None:
    await world.move("us-1", SOME)
    path = "/git/{}.git/info/refs?service=git-upload-pack"
    there = await world.ask("GET", path.format("us-1"))
    not_there = await world.ask("GET", path.format("nowhere"))
    assert there[:2] == not_there[:2] == (403, b"this token is for the slice of cluster eu-1 only\n")
    for bad in ("EU", "a%2fb", "-a", "..%2f..%2fetc"):
        assert (await world.ask("GET", path.format(bad)))[0] in (403, 404)


@pytest.mark.parametrize("what", ["foreign commit", "blob", "tree", "unknown", "unborn future"])
@VERSIONS
async def test_only_own_slices_can_be_wanted(world: World, what: str, version: str) -> None:
    tip = await world.move("eu-1", SOME)
    foreign = await world.move("us-1", {"ns/Secret/s.json": b"1"})
    tree, objects = subtree({"bundle.json": b"{}\n", **SOME})
    named: dict[str, Oid] = {
        "foreign commit": foreign,
        "blob": git_id(*objects[0]),
        "tree": tree,
        "unknown": NO_OID,
        "unborn future": await world.move("eu-1", {}),
    }
    world.chains["eu-1"].pop()
    want = packet(f"want {named[what]}\n")
    if version == "2":
        body = packet("command=fetch") + END_OF_V2 + packet(f"want {tip}\n") + want + packet("done\n") + FLUSH
    else:
        body = packet(f"want {tip} side-band-64k\n") + want + FLUSH + packet("done\n")
    status, answer, _ = await world.ask(
        "POST", "/git/eu-1.git/git-upload-pack", data=body, Git_Protocol=f"version={version}"
    )
    assert status == 200
    assert answer[4:].decode().startswith(f"ERR commit {named[what]}: was never a slice of cluster eu-1")
    assert world.store.looked == 0


@VERSIONS
async def test_slices_that_are_not_kept_any_more_are_refused_as_wants_and_unknown_as_haves(
    world: World, version: str
) -> None:
    old = await world.move("eu-1", SOME)
    protocol = ("-c", f"protocol.version={version}")
    await world.git("clone", "-q", world.address("eu-1"), "here")
    world.chains["eu-1"] = []
    new = await world.move("eu-1", {**SOME, "ns/ConfigMap/new.json": b"new"})  # as a checkpoint: no parent
    kept = await anyio.to_thread.run_sync(garbage.gather, world.store.path, [new], (), 0.0)
    await anyio.to_thread.run_sync(world.store.keep, {kept})
    world.chains["eu-1"] = [old, new]
    await world.git("-C", "here", *protocol, "fetch", "-q", "origin", "+clusters/eu-1:now")
    assert (await world.git("-C", "here", "rev-parse", "now")).strip() == new
    assert not await world.git("-C", "here", "fsck", "--full", "--connectivity-only")
    (world.home / "fresh").mkdir()
    await world.git("init", "-q", "fresh")
    said = await world.git("-C", "fresh", *protocol, "fetch", world.address("eu-1"), old, fails=True)
    assert "is too old and not kept any more" in said


async def test_a_want_by_ref_name_is_refused(world: World) -> None:
    await world.move("us-1", SOME)
    body = packet("command=fetch") + END_OF_V2 + packet("want-ref refs/heads/clusters/us-1\n") + FLUSH
    status, answer, _ = await world.ask(
        "POST", "/git/eu-1.git/git-upload-pack", data=body, **{"Git-Protocol": "version=2"}
    )
    assert (status, answer[4:8]) == (200, b"ERR ")
    assert b"cannot be wanted by name" in answer
    assert world.store.looked == 0


async def test_haves_of_another_cluster_are_not_acknowledged(world: World) -> None:
    tip = await world.move("eu-1", SOME)
    foreign = await world.move("us-1", SOME)
    body = packet("command=fetch") + END_OF_V2 + packet(f"want {tip}") + packet(f"have {foreign}") + FLUSH
    _, answer, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body, **V2)
    assert answer == packet("acknowledgments\n") + packet("NAK\n") + FLUSH


# --- the conversation, byte for byte ----------------------------------------------------------------------------------


async def test_what_the_client_has_is_not_sent_again(world: World) -> None:
    old = await world.move("eu-1", SOME)
    new = await world.move("eu-1", {**SOME, "ns/ConfigMap/7.json": b"new"})
    body = packet("command=fetch") + END_OF_V2 + packet(f"want {new}") + packet(f"have {old}") + packet("done") + FLUSH
    _, answer, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body, **V2)
    assert answer.startswith(packet("packfile\n"))
    assert count_in(pack_in(answer)) == 8
    body = packet(f"want {new} side-band-64k multi_ack_detailed") + FLUSH + packet(f"have {old}") + packet("done")
    _, answer, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body)
    assert answer.startswith(packet(f"ACK {old} common\n") + packet(f"ACK {old}\n"))
    assert count_in(pack_in(answer)) == 8
    body = packet(f"want {old} side-band-64k") + FLUSH + packet(f"have {new}") + packet("done")
    _, answer, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body)
    assert count_in(pack_in(answer)) == 0


@pytest.mark.parametrize("capabilities", ["", " side-band-64k"], ids=["raw", "side band"])
async def test_a_plain_client_without_any_capability_is_served(world: World, capabilities: str) -> None:
    tip = await world.move("eu-1", SOME)
    body = packet(f"want {tip}{capabilities}\n") + FLUSH + packet(f"have {NO_OID}\n") + FLUSH
    assert (await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body))[1] == packet("NAK\n")
    body = packet(f"want {tip}{capabilities}\n") + FLUSH + packet("done\n")
    _, answer, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body)
    assert answer.startswith(packet("NAK\n"))
    pack = pack_in(answer) if capabilities else answer[8:]
    (world.home / "x.pack").write_bytes(pack)
    await world.git("init", "-q", "--bare", "x.git")
    await world.git("-C", "x.git", "index-pack", "--strict", str(world.home / "x.pack"))


async def test_wanting_nothing_gives_nothing(world: World) -> None:
    assert (await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=FLUSH))[:2] == (200, b"")
    body = packet("command=fetch") + END_OF_V2 + packet("done") + FLUSH
    assert (await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body, **V2))[:2] == (200, FLUSH)


async def test_a_large_pack_comes_in_many_packets_and_whole(world: World) -> None:
    await world.move("eu-1", {f"ns/ConfigMap/{i}.json": os.urandom(90_000) for i in range(10)})
    await world.git("clone", "-q", world.address("eu-1"), "here")
    await world.git("-C", "here", "fsck", "--strict", "--full")


async def test_many_fetch_at_once_while_slices_move_and_packs_merge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.slices.gitstore.MAX_PACKS", 3)
    clusters = [f"c-{i}" for i in range(6)]
    merged = 0

    async def live(cluster: str) -> None:
        nonlocal merged
        for i in range(8):
            tip = await world.move(cluster, {**SOME, f"ns/ConfigMap/{cluster}.json": b"%d" % i})
            merged += await anyio.to_thread.run_sync(world.store.repack)
            path, url = world.home / cluster, f"{world.url}/git/{cluster}.git"
            fetched = await anyio.to_thread.run_sync(fetch_with_pygit2, path, url, f"token-{cluster}")
            assert fetched[0] == tip

    async with anyio.create_task_group() as tasks:
        for cluster in clusters:
            tasks.start_soon(live, cluster)
    assert merged > 0
    for cluster in clusters:
        assert await world.git("-C", cluster, "fsck", "--strict", "--full") == ""
    assert "missing" not in await world.git("-C", str(world.store.path), "fsck", "--strict", "--full")


@pytest.mark.parametrize("path", ["info/refs", "info/refs?service=git-upload-archive", "HEAD", "objects/info/packs"])
async def test_dumb_http_is_not_served(world: World, path: str) -> None:
    assert (await world.ask("GET", f"/git/eu-1.git/{path}"))[0] in (403, 404)


# --- lied to, cut off, broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zzzz", id="no length"),
        pytest.param(b"00", id="half a length"),
        pytest.param(b"0003", id="length below four"),
        pytest.param(b"0004", id="empty packet"),
        pytest.param(b"ffffx", id="longer than allowed"),
        pytest.param(b"0032want", id="cut off"),
        pytest.param(b"+032want", id="signed length"),
        pytest.param(b"0006\xff\xfe", id="not text"),
        pytest.param(packet("want xyz"), id="no object id"),
        pytest.param(packet(f"want {'A' * 40}"), id="upper-case object id"),
        pytest.param(packet(f"have {NO_OID}"), id="have before want"),
        pytest.param(packet(f"want {NO_OID}") + packet("done") + packet(f"have {NO_OID}"), id="after done"),
        pytest.param(packet(f"want {NO_OID}") + packet("deepen -1"), id="depth"),
        pytest.param(packet("deepen 1") + packet(f"want {NO_OID}"), id="depth before want"),
        pytest.param(packet(f"want {NO_OID}") + packet("deepen-since 1"), id="cut by time"),
        pytest.param(packet(f"want {NO_OID}") + packet("filter blob:none"), id="filter"),
        pytest.param(packet(f"want {NO_OID} object-format=sha256"), id="sha256"),
        pytest.param(b"0001", id="delimiter"),
    ],
)
def test_a_malformed_request_of_version_0_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="Git request: "):
        parse_v0(body)


FETCH = packet("command=fetch") + END_OF_V2


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(FLUSH, id="no command"),
        pytest.param(packet("command=object-info") + FLUSH, id="another command"),
        pytest.param(FETCH + packet(f"want {NO_OID}"), id="no end"),
        pytest.param(FETCH + FLUSH + FLUSH, id="after the end"),
        pytest.param(FETCH + b"0001" + FLUSH, id="two delimiters"),
        pytest.param(FETCH + packet("deepen 0") + FLUSH, id="depth"),
        pytest.param(FETCH + packet(f"deepen {'9' * 5000}") + FLUSH, id="endless depth"),
        pytest.param(FETCH + packet("filter blob:none") + FLUSH, id="filter"),
        pytest.param(FETCH + packet(f"want {NO_OID}0") + FLUSH, id="long object id"),
        pytest.param(packet("command=ls-refs") + b"0001" + packet("nonsense") + FLUSH, id="argument of ls-refs"),
        pytest.param(packet("command=fetch") + packet("object-format=sha256") + FLUSH, id="sha256"),
    ],
)
def test_a_malformed_request_of_version_2_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="Git request: "):
        parse_v2(body)


def test_requests_are_read_as_they_were_meant() -> None:
    one, two = Oid("1" * 40), Oid("2" * 40)
    assert parse_v0(
        packet(f"want {one} multi_ack_detailed agent=x\n")
        + packet(f"want {one}\n")
        + FLUSH
        + packet(f"have {two}\n")
        + FLUSH
        + packet("done\n")
    ) == Fetch(wants=(one,), haves=(two,), done=True, side_band=False)
    assert parse_v2(packet("command=ls-refs\n") + b"0001" + packet("peel\n") + packet("ref-prefix HEAD\n") + FLUSH) == (
        ListRefs(prefixes=("HEAD",))
    )
    assert list(packets(FLUSH + b"0001" + packet("a\n"))) == [Mark.FLUSH, Mark.DELIMITER, "a"]


def test_no_packet_is_longer_than_git_takes() -> None:
    framed = side_band(b"x" * 200_000)
    assert pack_in(framed) == b"x" * 200_000
    assert int(framed[:4], 16) == 65520


OWN, FOREIGN = "1" * 40, "2" * 40
"""Stand for a slice of the client's cluster and for one of another."""
LINES = st.one_of(
    st.sampled_from([FLUSH, b"0001", b"0002", packet("done"), packet("command=fetch"), packet("command=ls-refs")]),
    st.builds(
        lambda verb, oid, more: packet(f"{verb} {oid}{more}\n"),
        st.sampled_from(["want", "have", "shallow", "want-ref", "ref-prefix"]),
        st.sampled_from([OWN, FOREIGN, "3" * 40, "refs/heads/clusters/us-1", "HEAD", "00"]),
        st.sampled_from(["", "", " side-band-64k", " multi_ack_detailed", " filter", " object-format=sha256"]),
    ),
    st.builds(
        lambda word, n: packet(f"{word} {n}"), st.sampled_from(["deepen", "deepen-since", "filter"]), st.integers()
    ),
    st.builds(packet, st.text(max_size=20)),
    st.binary(max_size=8),
)
V2_FETCH = FETCH + packet(f"want {FOREIGN}") + packet("done") + FLUSH


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=8), version=st.sampled_from(["", "version=1", "version=2"]))
@example(lines=[V2_FETCH], version="version=2")
@example(lines=[packet(f"want {FOREIGN} side-band-64k"), FLUSH, packet("done")], version="")
@example(lines=[packet(f"want {OWN} side-band-64k"), packet(f"shallow {FOREIGN}"), packet("done")], version="")
@example(lines=[packet(f"want {OWN} side-band-64k"), packet(f"have {FOREIGN}"), packet("done")], version="")
async def test_whatever_is_asked_the_answer_is_no_crash_and_nothing_of_another_cluster(
    world: World, lines: list[bytes], version: str
) -> None:
    if not world.chains:
        await world.move("eu-1", SOME)
        await world.move("us-1", {"ns/Secret/s.json": b"not for eu-1"})
    own, foreign = world.chains["eu-1"][0], world.chains["us-1"][0]
    body = b"".join(lines).replace(OWN.encode(), own.encode()).replace(FOREIGN.encode(), foreign.encode())
    path = "/git/eu-1.git/git-upload-pack"
    status, answer, _ = await world.ask("POST", path, data=body, **{"Git-Protocol": version})
    assert status in (200, 400)
    entries = await anyio.to_thread.run_sync(
        lambda: [world.store.entry(oid) for oid in world.store.missing([foreign], [own])]
    )
    assert not [entry for entry in entries if entry in answer]
    assert b"us-1" not in answer.replace(b"refs/heads/clusters/us-1", b"").replace(foreign.encode(), b"")


async def test_a_malformed_request_is_a_400_with_the_reason(world: World) -> None:
    for headers in ({}, V2):
        status, body, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=b"GET / HTTP", **headers)
        assert (status, body) == (400, b"Git request: has no packet length at byte 0\n")


def gzipped(data: bytes) -> dict[str, Any]:
    return {"data": gzip.compress(data), "Content_Encoding": "gzip"}


@pytest.mark.parametrize("auto_decompress", [True, False], ids=["inflated by aiohttp", "inflated here"])
async def test_bodies_are_bounded_inflated_or_not(world: World, auto_decompress: bool) -> None:
    app = web.Application()
    app.add_routes(git_http.routes(world.store, cluster_of=world.cluster_of, chain=world.chain))
    runner = web.AppRunner(app, auto_decompress=auto_decompress)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    world.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        tip = await world.move("eu-1", SOME)
        path = "/git/eu-1.git/git-upload-pack"
        good = packet(f"want {tip} side-band-64k\n") + FLUSH + packet("done\n")
        status, answer, _ = await world.ask("POST", path, **gzipped(good))
        assert (status, count_in(pack_in(answer))) == (200, 8 + len(SOME))
        have = packet(f"have {NO_OID}\n")
        many = packet(f"want {tip}\n") + have * (git_http.MAX_REQUEST_BYTES // len(have) + 1)
        assert (await world.ask("POST", path, data=io.BytesIO(many)))[0] == 413
        assert (await world.ask("POST", path, **gzipped(many)))[0] == 413
        assert (await world.ask("POST", path, **gzipped(b"0" * (64 << 20))))[0] == 413
        assert (await world.ask("POST", path, data=gzip.compress(good)[:-12], Content_Encoding="gzip"))[0] == 400
        assert (await world.ask("POST", path, data=b"\x1f\x8b\x08garbage", Content_Encoding="gzip"))[0] == 400
    finally:
        await runner.cleanup()


async def test_a_busy_database_is_503_and_a_lost_object_500(world: World) -> None:
    world.chains["eu-1"] = [Oid("1" * 40)]
    body = packet(f"want {'1' * 40} side-band-64k\n") + FLUSH + packet("done\n")
    status, answer, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body)
    assert (status, b"missing or broken" in answer) == (500, True)
    world.broken = Transient("journal", "is locked", retry_after_s=7)
    status, answer, headers = await world.ask("GET", "/git/eu-1.git/info/refs?service=git-upload-pack")
    assert (status, answer, headers["Retry-After"]) == (503, b"journal: is locked\n", "7")


async def test_an_object_that_breaks_on_the_way_ends_the_client_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = await world.move("eu-1", SOME)

    def broken(oid: Oid) -> bytes:
        raise Permanent(f"Git object {oid}", "is missing or broken in the slice repository")

    monkeypatch.setattr(world.store, "entry", broken)
    for version in ("0", "2"):
        said = await world.git("-c", f"protocol.version={version}", "clone", world.address("eu-1"), "x", fails=True)
        assert "is missing or broken in the slice repository" in said
    body = packet(f"want {tip}\n") + FLUSH + packet("done\n")
    with pytest.raises(aiohttp.ClientError):
        await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body)


async def test_a_client_that_leaves_in_the_middle_harms_nobody(world: World) -> None:
    tip = await world.move("eu-1", {f"ns/ConfigMap/{i}.json": os.urandom(200_000) for i in range(20)})
    body = packet(f"want {tip} side-band-64k\n") + FLUSH + packet("done\n")
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer token-eu-1"}) as session,
        session.post(f"{world.url}/git/eu-1.git/git-upload-pack", data=body) as answer,
    ):
        await answer.content.readexactly(1000)
        answer.close()
    status, whole, _ = await world.ask("POST", "/git/eu-1.git/git-upload-pack", data=body)
    assert (status, count_in(pack_in(whole))) == (200, 28)


def test_entries_are_what_git_makes_of_them() -> None:
    made = packs.entry("blob", b"x" * 100)
    assert made[:2] == bytes((0x80 | 3 << 4 | 100 & 15, 100 >> 4))
    assert zlib.decompress(made[2:]) == b"x" * 100
