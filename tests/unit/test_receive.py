"""The agent's slice store: what it takes in, what it refuses, and what a kill leaves."""

import base64
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pygit2
import pytest
from aiohttp import web
from pygit2.enums import ObjectType

from agent.stream import receive, slice_store
from agent.stream.git_host import Login
from agent.stream.receive import Receiver, Rewound
from hub.slices import git_http
from hub.slices.gitstore import GitStore
from proto import slices, wire
from proto.errors import FlotillaError, ProtocolError, Refused, TooLarge, Transient, UnsupportedVersion
from proto.ids import Oid, slice_ref
from proto.messages import GitObject, WakeUp
from proto.objects import ObjectKey, blob_id, canonical, git_id, tree_bytes

Files = dict[str, bytes]
GOOD = Login(user="eu-1", password="good")

WEB = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}}
WEB_KEY = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web")


def bundle(name: str = "shop", **objects: object) -> Files:
    files = {slices.POLICY_FILE: slices.to_file(slices.BundlePolicy(name=name))}
    return files | {f"shop/ConfigMap/{key}.json": canonical(value) for key, value in objects.items()}


@dataclass
class Upstream:
    """A slice's history as a hub makes it, object by object, in a repository that can be fetched from."""

    folder: Path
    cluster: str = "eu-1"
    objects: dict[Oid, GitObject] = field(default_factory=dict)
    seq: int = 0
    tip: str = ""

    def __post_init__(self) -> None:
        self.repo = pygit2.init_repository(str(self.folder), bare=True)

    @property
    def url(self) -> str:
        return str(self.folder)

    def add(self, kind: str, data: bytes) -> Oid:
        oid = git_id(kind, data)
        self.objects[oid] = GitObject(kind=kind, data=data)
        return oid

    def tree(self, files: Mapping[str, bytes]) -> Oid:
        entries: dict[str, tuple[bool, Oid]] = {}
        below: dict[str, Files] = {}
        for path, data in files.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = data
            else:
                entries[name] = (False, self.add("blob", data))
        entries |= {name: (True, self.tree(inside)) for name, inside in below.items()}
        return self.add("tree", tree_bytes(entries))

    def commit(self, tree: Oid, *, parent: str, message: str = "eu-1\n", publish: bool = True) -> str:
        parents = f"parent {parent}\n" if parent else ""
        who = "Flotilla <flotilla@localhost> 1800000000 +0000"
        text = f"tree {tree}\n{parents}author {who}\ncommitter {who}\n\n{message}"
        commit = self.add("commit", text.encode())
        if publish:
            self.publish(commit)
        return commit

    def publish(self, commit: str) -> None:
        kinds = {"blob": ObjectType.BLOB, "tree": ObjectType.TREE, "commit": ObjectType.COMMIT}
        for item in self.objects.values():
            self.repo.odb.write(kinds[item.kind], item.data)
        self.repo.references.create(slice_ref(self.cluster), commit, force=True)
        self.tip = commit

    def slice_tree(
        self,
        bundles: Mapping[str, Files | Oid],
        *,
        seq: int,
        says: Callable[[slices.SliceManifest], bytes] = slices.to_file,
    ) -> Oid:
        subtrees = {name: what if isinstance(what, str) else self.tree(what) for name, what in bundles.items()}
        named = {
            name: slices.BundleEntry(subtree=oid, revision="r" * 40, rollout=f"{name}-1")
            for name, oid in subtrees.items()
        }
        manifest = slices.SliceManifest(cluster=self.cluster, seq=seq, bundles=named)
        root = {
            slices.SLICE_FILE: (False, self.add("blob", says(manifest))),
            slices.BUNDLES: (True, self.folder_of({name: (True, oid) for name, oid in subtrees.items()})),
        }
        return self.folder_of(root)

    def folder_of(self, entries: Mapping[str, tuple[bool, Oid]]) -> Oid:
        return self.add("tree", tree_bytes(entries))

    def move(self, bundles: Mapping[str, Files | Oid]) -> WakeUp:
        """The next commit of the slice, and the wake-up that carries it."""
        before, parent = set(self.objects), self.tip
        self.seq += 1
        commit = self.commit(self.slice_tree(bundles, seq=self.seq), parent=parent)
        return self.wake(commit, parent=parent, without=before)

    def wake(self, commit: str, *, parent: str = "", without: set[Oid] | None = None) -> WakeUp:
        objects = tuple(item for oid, item in self.objects.items() if oid not in (without or set()))
        return WakeUp(seq=self.seq, commit=commit, parent=parent, objects=objects)


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "upstream.git")


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path / "state", "eu-1")


# --- wake-ups -----------------------------------------------------------------------------------------------------


def test_before_the_first_slice_nothing_is_desired(receiver: Receiver) -> None:
    desired = receiver.desired()
    assert (desired.commit, desired.seq, desired.bundles) == ("", 0, {})


async def test_a_wake_up_brings_the_slice_without_a_fetch(upstream: Upstream, receiver: Receiver) -> None:
    wake = upstream.move({"shop": {**bundle(), "shop/Deployment.apps/web.json": canonical(WEB)}})

    assert await receiver.offer(wake)

    desired = receiver.desired()
    assert (desired.commit, desired.seq) == (wake.commit, 1)
    shop = desired.bundles["shop"]
    assert dict(shop.objects) == {WEB_KEY: blob_id(canonical(WEB))}
    assert receiver.blob(shop.objects[WEB_KEY]) == canonical(WEB)
    assert (shop.revision, shop.rollout, shop.policy) == ("r" * 40, "shop-1", slices.BundlePolicy(name="shop"))
    assert shop.subtree == upstream.tree({**bundle(), "shop/Deployment.apps/web.json": canonical(WEB)})


async def test_deltas_follow_on_each_other_and_keep_what_did_not_change(upstream: Upstream, receiver: Receiver) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1), "db": bundle("db", d=1)}))
    before = receiver.desired()

    wake = upstream.move({"shop": bundle(a=2), "db": bundle("db", d=1)})

    assert len(wake.objects) < 9, "only what is new travels"
    assert await receiver.offer(wake)
    after = receiver.desired()
    assert after.seq == 2
    assert after.bundles["db"].objects is before.bundles["db"].objects
    assert after.bundles["shop"].objects != before.bundles["shop"].objects


async def test_the_current_commit_offered_again_is_known(upstream: Upstream, receiver: Receiver) -> None:
    wake = upstream.move({"shop": bundle()})
    assert await receiver.offer(wake)
    assert await receiver.offer(wake)
    assert await receiver.offer(WakeUp(seq=1, commit=wake.commit))


async def test_a_wake_up_that_does_not_suffice_asks_for_a_fetch(upstream: Upstream, receiver: Receiver) -> None:
    first = upstream.move({"shop": bundle(a=1)})
    second = upstream.move({"shop": bundle(a=2)})
    assert not await receiver.offer(second), "the first was never seen"
    whole = upstream.wake(second.commit, without={Oid(first.commit)})
    assert not await receiver.offer(whole), "fetches need the history, of which this is no part"
    assert not await receiver.offer(WakeUp(seq=2, commit=second.commit)), "too large to be carried"

    assert await receiver.fetch(upstream.url)
    assert receiver.desired().seq == 2
    upstream.move({"shop": bundle(a=3)})
    assert not await receiver.offer(upstream.move({"shop": bundle(a=4)})), "one was skipped"
    assert receiver.desired().seq == 2


async def test_every_missing_object_is_noticed(upstream: Upstream, tmp_path: Path) -> None:
    wake = upstream.move({"shop": bundle(a=1, b=2)})
    for number, left_out in enumerate(wake.objects):
        if left_out.kind == "commit":
            continue
        receiver = Receiver(tmp_path / str(number), "eu-1")
        rest = tuple(item for item in wake.objects if item is not left_out)

        assert not await receiver.offer(WakeUp(seq=1, commit=wake.commit, objects=rest))
        assert receiver.desired().commit == ""
        assert await receiver.fetch(upstream.url)


def of_other_cluster(upstream: Upstream) -> WakeUp:
    upstream.cluster = "eu-2"
    return upstream.move({"shop": bundle()})


def wrong_commit(upstream: Upstream) -> WakeUp:
    wake = upstream.move({"shop": bundle()})
    return WakeUp(seq=1, commit="1" * 40, objects=wake.objects)


def tree_as_commit(upstream: Upstream) -> WakeUp:
    wake = upstream.move({"shop": bundle()})
    tree = next(git_id(item.kind, item.data) for item in wake.objects if item.kind == "tree")
    return WakeUp(seq=1, commit=tree, objects=wake.objects)


def odd_kind(upstream: Upstream) -> WakeUp:
    wake = upstream.move({"shop": bundle()})
    return WakeUp(seq=1, commit=wake.commit, objects=(*wake.objects, GitObject(kind="tag", data=b"")))


def newer_slice(upstream: Upstream) -> WakeUp:
    def newer(manifest: slices.SliceManifest) -> bytes:
        return slices.to_file(manifest).replace(b'"format": 1', b'"format": 2')

    return upstream.wake(upstream.commit(upstream.slice_tree({"shop": bundle()}, seq=1, says=newer), parent=""))


def newer_policy(upstream: Upstream) -> WakeUp:
    files = bundle()
    files[slices.POLICY_FILE] = files[slices.POLICY_FILE].replace(b"{", b'{"format": 2,', 1)
    return upstream.move({"shop": files})


def other_subtree(upstream: Upstream) -> WakeUp:
    def lying(manifest: slices.SliceManifest) -> bytes:
        entry = slices.BundleEntry(subtree="2" * 40, revision="")
        return slices.to_file(slices.SliceManifest(cluster="eu-1", seq=1, bundles={"shop": entry}))

    return upstream.wake(upstream.commit(upstream.slice_tree({"shop": bundle()}, seq=1, says=lying), parent=""))


def unnamed_bundle(upstream: Upstream) -> WakeUp:
    def silent(manifest: slices.SliceManifest) -> bytes:
        return slices.to_file(slices.SliceManifest(cluster="eu-1", seq=1, bundles={}))

    return upstream.wake(upstream.commit(upstream.slice_tree({"shop": bundle()}, seq=1, says=silent), parent=""))


def link_for_object(upstream: Upstream) -> WakeUp:
    target = upstream.add("blob", b"/etc/passwd")
    files = upstream.add("tree", b"120000 a.json\0" + bytes.fromhex(target))
    namespace = upstream.folder_of({"ConfigMap": (True, files)})
    policy = upstream.add("blob", slices.to_file(slices.BundlePolicy(name="shop")))
    subtree = upstream.folder_of({slices.POLICY_FILE: (False, policy), "shop": (True, namespace)})
    return upstream.wake(upstream.move({"shop": subtree}).commit)


def broken_tree(upstream: Upstream) -> WakeUp:
    return upstream.wake(upstream.move({"shop": upstream.add("tree", b"100644 bundle.json")}).commit)


def no_slice_file(upstream: Upstream) -> WakeUp:
    return upstream.wake(upstream.commit(upstream.tree({"README": b"hello"}), parent=""))


LIES = [
    pytest.param(wrong_commit, ProtocolError, "not the commit '1111", id="wrong commit id"),
    pytest.param(tree_as_commit, ProtocolError, "not the commit", id="tree as commit"),
    pytest.param(broken_tree, ProtocolError, "cannot be read", id="broken tree"),
    pytest.param(odd_kind, ProtocolError, "carries a 'tag'", id="odd kind"),
]
BAD_SLICES = [
    pytest.param(of_other_cluster, ProtocolError, "is cluster eu-2's, this agent is cluster eu-1", id="other cluster"),
    pytest.param(newer_slice, UnsupportedVersion, r"slice.json: has format 2.*upgrade the agent", id="newer slice"),
    pytest.param(newer_policy, UnsupportedVersion, r"bundle.json: has format 2", id="newer policy"),
    pytest.param(other_subtree, ProtocolError, "not 2222", id="subtree that slice.json does not name"),
    pytest.param(unnamed_bundle, ProtocolError, "has other bundles than its slice.json", id="unnamed bundle"),
    pytest.param(link_for_object, ProtocolError, r"a.json': is not a plain file \(mode 120000\)", id="link"),
    pytest.param(no_slice_file, ProtocolError, "has no slice.json", id="no slice.json"),
    pytest.param(
        lambda upstream: upstream.move({"shop": {**bundle(), "shop/a.json": b"{}"}}),
        ProtocolError,
        "'a.json': is not a folder",
        id="file where a folder is due",
    ),
    pytest.param(
        lambda upstream: upstream.move({"shop": {**bundle(), "shop/ConfigMap/a.yaml": b"{}"}}),
        ProtocolError,
        r"'shop/ConfigMap/a.yaml': is not <namespace",
        id="impossible path",
    ),
    pytest.param(
        lambda upstream: upstream.move({"shop": bundle("db")}),
        ProtocolError,
        "bundle shop: has a bundle.json that is bundle 'db'",
        id="another bundle's policy",
    ),
    pytest.param(
        lambda upstream: upstream.move({"shop": {"shop/ConfigMap/a.json": b"{}"}}),
        ProtocolError,
        "bundle shop: has no bundle.json",
        id="no policy",
    ),
]


@pytest.mark.parametrize(("lie", "error", "said"), [*LIES, *BAD_SLICES])
async def test_a_lying_wake_up_is_refused_and_the_old_slice_stays(
    upstream: Upstream, tmp_path: Path, lie: Callable[[Upstream], WakeUp], error: type[FlotillaError], said: str
) -> None:
    receiver = Receiver(tmp_path / "state", "eu-1")
    with pytest.raises(error, match=said):
        await receiver.offer(lie(upstream))

    assert receiver.desired().commit == ""
    assert Receiver(tmp_path / "state", "eu-1").desired().commit == ""


@pytest.mark.parametrize(("lie", "error", "said"), BAD_SLICES)
async def test_a_bad_slice_is_refused_when_it_is_fetched_too(
    upstream: Upstream, receiver: Receiver, lie: Callable[[Upstream], WakeUp], error: type[FlotillaError], said: str
) -> None:
    wake = lie(upstream)
    upstream.cluster = "eu-1"
    upstream.publish(wake.commit)

    with pytest.raises(error, match=said):
        await receiver.fetch(upstream.url)
    assert receiver.desired().commit == ""


async def test_huge_objects_are_refused_before_they_are_read(
    upstream: Upstream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.stream.slice_reader.MAX_OBJECT_BYTES", 4096)
    wake = upstream.move({"shop": bundle(big="x" * 5000)})

    with pytest.raises(TooLarge, match="the limit is 4096"):
        await receiver.offer(wake)
    with pytest.raises(TooLarge, match="the limit is 4096"):
        await receiver.fetch(upstream.url)


# --- fetches ------------------------------------------------------------------------------------------------------


async def test_a_fetch_brings_the_newest_slice_and_a_second_one_nothing(upstream: Upstream, receiver: Receiver) -> None:
    for number in range(3):
        upstream.move({"shop": bundle(a=number)})

    assert await receiver.fetch(upstream.url)
    assert receiver.desired().seq == 3
    assert not await receiver.fetch(upstream.url)
    assert await receiver.offer(upstream.move({"shop": bundle(a=9)})), "a wake-up follows on a fetch"
    upstream.move({})
    assert await receiver.fetch(upstream.url), "and a fetch on a wake-up"
    assert receiver.desired().bundles == {}


async def test_a_rewind_is_refused_with_the_remedy(upstream: Upstream, receiver: Receiver) -> None:
    first = upstream.move({"shop": bundle(a=1)})
    upstream.move({"shop": bundle(a=2)})
    await receiver.fetch(upstream.url)
    upstream.publish(first.commit)

    with pytest.raises(Rewound, match=r"was rewound.*journal\.db and slices\.git"):
        await receiver.fetch(upstream.url)
    assert receiver.desired().seq == 2


async def test_a_forged_checkpoint_that_names_a_commit_left_behind_is_refused(
    upstream: Upstream, receiver: Receiver
) -> None:
    first = upstream.move({"shop": bundle(a=1)})
    upstream.move({"shop": bundle(a=2)})
    await receiver.fetch(upstream.url)
    message = slices.commit_message(cluster="eu-1", seq=9, bundles=[], trailers=[("Predecessor", first.commit)])
    upstream.commit(upstream.slice_tree({}, seq=9), parent="", message=message)

    with pytest.raises(ProtocolError, match="was rewound"):
        await receiver.fetch(upstream.url)
    assert receiver.desired().seq == 2


async def test_another_history_is_refused(upstream: Upstream, receiver: Receiver, tmp_path: Path) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    other = Upstream(tmp_path / "other.git", seq=7)
    wake = other.move({"shop": bundle(a=2)})

    assert not await receiver.offer(wake)
    with pytest.raises(ProtocolError, match="was rewound"):
        await receiver.fetch(other.url)
    assert receiver.desired().seq == 1


async def test_a_checkpoint_that_names_its_predecessor_is_followed_by_fetch_only(
    upstream: Upstream, receiver: Receiver
) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    message = slices.commit_message(cluster="eu-1", seq=5, bundles=[], trailers=[("Predecessor", upstream.tip)])
    checkpoint = upstream.commit(upstream.slice_tree({"shop": bundle(a=5)}, seq=5), parent="", message=message)
    upstream.seq = 5
    wake = upstream.wake(checkpoint)
    after = upstream.move({"shop": bundle(a=6)})

    assert not await receiver.offer(wake)
    assert await receiver.fetch(upstream.url)
    assert (receiver.desired().seq, receiver.desired().commit) == (6, after.commit)


async def test_a_sequence_number_that_does_not_grow_is_refused(upstream: Upstream, receiver: Receiver) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    upstream.seq = 0
    wake = upstream.move({"shop": bundle(a=2)})

    with pytest.raises(ProtocolError, match="sequence number 1"):
        await receiver.offer(wake)
    with pytest.raises(ProtocolError, match="sequence number 1"):
        await receiver.fetch(upstream.url)


async def test_a_missing_ref_changes_nothing(upstream: Upstream, receiver: Receiver) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    upstream.repo.references.delete(slice_ref("eu-1"))
    upstream.repo.references.create(slice_ref("eu-2"), upstream.tip)

    with pytest.raises(ProtocolError, match="there is no ref refs/heads/clusters/eu-1"):
        await receiver.fetch(upstream.url)
    assert receiver.desired().seq == 1


@asynccontextmanager
async def git_host(answer: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/slices.git"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("response", "error"),
    [
        pytest.param((401, {"WWW-Authenticate": 'Basic realm="x"'}), Refused, id="401"),
        pytest.param((403, {}), Refused, id="403"),
        pytest.param((404, {}), Refused, id="404"),
        pytest.param((302, {"Location": "http://127.0.0.1:9/slices.git/info/refs"}), Refused, id="redirect"),
        pytest.param((500, {}), Transient, id="500"),
        pytest.param((200, {}), Transient, id="no Git host"),
    ],
)
async def test_a_git_host_that_gives_nothing_out_changes_nothing(
    upstream: Upstream, receiver: Receiver, response: tuple[int, dict[str, str]], error: type[FlotillaError]
) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization", ""))
        return web.Response(status=response[0], headers=response[1])

    async with git_host(answer) as url:
        with pytest.raises(error, match="slice of cluster eu-1") as raised:
            await receiver.fetch(url, Login(user="eu-1", password="s3cret"))
        with pytest.raises(error):
            await receiver.fetch(url)

    assert len(asked) < 5, "a token that was refused is not sent again and again"
    assert "s3cret" not in str(raised.value)
    assert receiver.desired().seq == 1


async def test_a_git_host_that_is_away_is_tried_again_later(receiver: Receiver) -> None:
    with pytest.raises(Transient, match="cannot be fetched"):
        await receiver.fetch("http://127.0.0.1:9/slices.git")


class Chain:
    """A slice's commits, as the hub's journal knows them."""

    def __init__(self, commits: list[str]) -> None:
        self._commits = commits

    @property
    def tip(self) -> Oid | None:
        return Oid(self._commits[-1]) if self._commits else None

    def __contains__(self, commit: Oid) -> bool:
        return commit in self._commits


@asynccontextmanager
async def hub_with(upstream: Upstream, commits: list[str]) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """The hub's own Git serving, and how to put all that `upstream` has into its store."""
    store = GitStore.create(upstream.folder.with_name("store.git"))

    def stock() -> None:
        store.write([(item.kind, item.data) for item in upstream.objects.values()])
        if upstream.tip:
            commits.append(upstream.tip)

    def cluster_of(token: str) -> str:
        if token != "good":
            raise Refused("token", "was not issued by this hub")
        return "eu-1"

    app = web.Application()
    app.add_routes(git_http.routes(store, cluster_of=cluster_of, chain=lambda _: Chain(commits)))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/git/eu-1.git", stock
    finally:
        await runner.cleanup()


async def test_the_hub_itself_is_a_git_host(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver(tmp_path / "state", "eu-1")
    async with hub_with(upstream, []) as (url, stock):
        with pytest.raises(ProtocolError, match="there is no ref"):
            await receiver.fetch(url, GOOD)
        with pytest.raises(Refused, match=r"status 401.*connected to the hub"):
            await receiver.fetch(url, Login(user="eu-1", password="bad"))
        with pytest.raises(Refused, match=r"status 403.*this cluster's"):
            await receiver.fetch(url.replace("eu-1", "eu-2"), GOOD)

        upstream.move({"shop": bundle(a=1)})
        stock()
        assert await receiver.fetch(url, GOOD)
        assert not await receiver.fetch(url, GOOD)

        with monkeypatch.context() as eager:
            eager.setattr(slice_store, "REPACK_FROM", -1)
            assert await receiver.offer(upstream.move({"shop": bundle(a=2)}))
        stock()
        back = upstream.move({"shop": bundle(a=1)})
        stock()
        assert await receiver.fetch(url, GOOD), "with what the repack dropped"
        assert receiver.desired().commit == back.commit
    assert [receiver.blob(oid) for oid in receiver.desired().bundles["shop"].objects.values()] == [canonical(1)]


# --- what a kill, a full disk and time do -------------------------------------------------------------------------


async def test_the_slice_is_there_after_a_restart(upstream: Upstream, tmp_path: Path) -> None:
    wake = upstream.move({"shop": bundle(a=1)})
    await Receiver(tmp_path / "state", "eu-1").offer(wake)

    again = Receiver(tmp_path / "state", "eu-1")

    assert again.desired().commit == wake.commit
    assert all(again.blob(oid) for oid in again.desired().bundles["shop"].objects.values())
    assert await again.offer(upstream.move({"shop": bundle(a=2)}))


async def test_what_a_kill_leaves_is_put_right(upstream: Upstream, tmp_path: Path) -> None:
    first, second = upstream.move({"shop": bundle(a=1)}), upstream.move({"shop": bundle(a=2)})
    await Receiver(tmp_path / "state", "eu-1").offer(first)
    folder = tmp_path / "state" / "slices"
    current = (folder / "current").resolve()
    (current / f"{slice_ref('eu-1')}.lock").write_text("")
    (current / "objects" / "pack" / "pack_git2_x.tmp").write_bytes(b"half")
    (folder / "next").symlink_to("9.git")
    pygit2.init_repository(str(folder / "9.git"), bare=True)

    again = Receiver(tmp_path / "state", "eu-1")

    assert again.desired().commit == first.commit
    assert await again.offer(second)
    assert sorted(path.name for path in folder.iterdir()) == [current.name, "current"]


OFFER_ALL = """
import base64, sys
from functools import partial
from pathlib import Path
import anyio
from agent.stream import receive, slice_store
from proto import wire

slice_store.REPACK_FROM = 3
receiver = receive.Receiver(Path(sys.argv[1]), "eu-1")
print("open", flush=True)
for line in Path(sys.argv[2]).read_text().split():
    wake = wire.decode(base64.b64decode(line))
    if wake.seq > receiver.desired().seq:
        assert anyio.run(receiver.offer, wake)
        print(wake.seq, flush=True)
"""


async def test_a_real_kill_in_the_middle_of_it_loses_nothing(upstream: Upstream, tmp_path: Path) -> None:
    wakes = [upstream.move({"shop": bundle(a=number), "db": bundle("db", d=number)}) for number in range(60)]
    (tmp_path / "wakes").write_text("\n".join(base64.b64encode(wire.encode(wake)).decode() for wake in wakes))
    command = [sys.executable, "-c", OFFER_ALL, str(tmp_path / "state"), str(tmp_path / "wakes")]
    said = 0
    for after in (4, 7):  # the second one begins with what the first left
        async with await anyio.open_process(command, stderr=None, cwd=Path(receive.__file__).parents[1]) as process:
            assert process.stdout is not None
            lines = 0
            async for text in process.stdout:
                lines += text.count(b"\n")
                said = max([said, *(int(number) for number in text.split() if number.isdigit())])
                if lines > after:
                    break
            process.kill()
        # At once again, without the time that a clean end would take.
        receiver = Receiver(tmp_path / "state", "eu-1")
        desired = receiver.desired()
        assert desired.seq >= said
        assert desired.commit == wakes[desired.seq - 1].commit
        for one in desired.bundles.values():
            assert [receiver.blob(oid) for oid in one.objects.values()] == [canonical(desired.seq - 1)]
    assert await receiver.offer(wakes[desired.seq])


async def test_objects_without_their_ref_are_no_slice_yet(upstream: Upstream, tmp_path: Path) -> None:
    first, second = upstream.move({"shop": bundle(a=1)}), upstream.move({"shop": bundle(a=2)})
    receiver = Receiver(tmp_path / "state", "eu-1")
    await receiver.offer(first)
    for item in second.objects:  # killed before the ref moved
        kinds = {"blob": ObjectType.BLOB, "tree": ObjectType.TREE, "commit": ObjectType.COMMIT}
        pygit2.Repository(str(tmp_path / "state" / "slices" / "current")).odb.write(kinds[item.kind], item.data)

    again = Receiver(tmp_path / "state", "eu-1")
    assert again.desired().seq == 1
    assert await again.offer(second)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda folder: shutil.rmtree(folder / "current/objects"), id="objects gone"),
        pytest.param(lambda folder: (folder / "current/HEAD").unlink(), id="not a repository any more"),
        pytest.param(lambda folder: (folder / "current").unlink(), id="link gone"),
        pytest.param(lambda folder: shutil.rmtree((folder / "current").resolve()), id="link to nowhere"),
    ],
)
async def test_a_broken_store_is_made_anew_and_fetched(
    upstream: Upstream, tmp_path: Path, broken: Callable[[Path], None]
) -> None:
    await Receiver(tmp_path / "state", "eu-1").offer(upstream.move({"shop": bundle(a=1)}))
    broken(tmp_path / "state" / "slices")

    again = Receiver(tmp_path / "state", "eu-1")

    assert again.desired().commit == ""
    assert await again.fetch(upstream.url)
    assert again.desired().seq == 1


async def test_an_older_build_leaves_a_newer_slice_alone(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Receiver(tmp_path / "state", "eu-1").offer(upstream.move({"shop": bundle(a=1)}))
    with monkeypatch.context() as older:
        older.setattr(slices, "SLICE_FORMAT", 0)
        with pytest.raises(UnsupportedVersion, match="upgrade the agent"):
            Receiver(tmp_path / "state", "eu-1")
    assert Receiver(tmp_path / "state", "eu-1").desired().seq == 1


async def test_a_full_disk_is_an_error_and_the_old_slice_stays(
    upstream: Upstream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    second = upstream.move({"shop": bundle(a=2)})

    class Full:
        def __init__(self, repo: pygit2.Repository) -> None:
            self.references = repo.references
            self.odb = self

        def write(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

    whole = receiver._store.repo
    monkeypatch.setattr(receiver._store, "repo", Full(whole))
    with pytest.raises(Transient, match=r"No space left on device.*give it space"):
        await receiver.offer(second)
    monkeypatch.setattr(receiver._store, "repo", whole)

    assert receiver.desired().seq == 1
    assert await receiver.offer(second)


async def test_a_store_that_grew_is_packed_anew_and_goes_on(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_store, "REPACK_FROM", 2)
    receiver = Receiver(tmp_path / "state", "eu-1")
    for number in range(30):
        assert await receiver.offer(upstream.move({"shop": bundle(a=number)}))
        oid = receiver.desired().bundles["shop"].objects
        assert [receiver.blob(blob) for blob in oid.values()] == [canonical(number)]

    folder = tmp_path / "state" / "slices"
    assert (folder / "current").resolve().name != "1.git"
    assert len(list(folder.iterdir())) == 2
    assert len(list((folder / "current" / "objects").glob("??/*"))) < 80
    assert Receiver(tmp_path / "state", "eu-1").desired().seq == 30
    upstream.move({"shop": bundle(a=99)})
    assert await receiver.fetch(upstream.url)
    assert receiver.desired().seq == 31


async def test_a_way_back_to_objects_that_a_repack_dropped_is_fetched_from_scratch(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver(tmp_path / "state", "eu-1")
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    with monkeypatch.context() as eager:
        eager.setattr(slice_store, "REPACK_FROM", -1)
        await receiver.offer(upstream.move({"shop": bundle(a=2)}))

    back = upstream.move({"shop": bundle(a=1)})

    assert not await receiver.offer(back), "its blob is neither carried nor here any more"
    assert await receiver.fetch(upstream.url)
    assert receiver.desired().commit == back.commit
    assert [receiver.blob(oid) for oid in receiver.desired().bundles["shop"].objects.values()] == [canonical(1)]
    assert len(list((tmp_path / "state" / "slices").iterdir())) == 2


async def test_a_repack_that_fails_costs_nothing(
    upstream: Upstream, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_store, "REPACK_FROM", -1)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.stream.slice_store.os.replace", no_space)
    assert await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    assert receiver.desired().seq == 1
    assert Receiver(tmp_path / "state", "eu-1").desired().seq == 1


async def test_a_blob_that_is_not_there_is_an_error(receiver: Receiver) -> None:
    with pytest.raises(ProtocolError, match="is not in the slice store"):
        receiver.blob(Oid("3" * 40))


async def test_reading_goes_on_during_a_fetch_that_hangs_and_a_cancelled_one_lets_go(
    upstream: Upstream, receiver: Receiver
) -> None:
    await receiver.offer(upstream.move({"shop": bundle(a=1)}))
    asked, done = anyio.Event(), anyio.Event()

    async def hang(request: web.Request) -> web.Response:
        asked.set()
        await done.wait()
        return web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hang)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with anyio.create_task_group() as group:
        group.start_soon(receiver.fetch, f"http://127.0.0.1:{runner.addresses[0][1]}/slices.git")
        await asked.wait()
        for oid in receiver.desired().bundles["shop"].objects.values():
            assert receiver.blob(oid) == canonical(1)
        group.cancel_scope.cancel()
    done.set()
    assert await receiver.offer(upstream.move({"shop": bundle(a=2)})), "waits for the thread to end, then goes on"
    await runner.cleanup()
