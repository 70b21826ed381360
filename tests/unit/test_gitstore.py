"""The slice repository, judged by the stock git, and after kills at every step."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pygit2
import pytest

from hub import packs
from hub.slices import compose
from hub.slices.gitstore import MAX_PACKS, GitStore
from hub.slices.lru import Lru
from hub.slices.trees import KeySets, subtree
from proto.errors import Permanent, ProtocolError, Transient
from proto.ids import NO_OID, BundleName, ClusterName, Oid
from proto.objects import ObjectKey, git_id
from proto.slices import BundleEntry, SliceManifest

EU, US = ClusterName("eu-1"), ClusterName("us-1")
SHOP = {
    "bundle.json": b'{"name": "shop"}\n',
    "shop/Deployment.apps/web.json": b'{"kind": "Deployment"}\n',
    "shop/Service/web.json": b'{"kind": "Service"}\n',
    "_cluster/Namespace/shop.json": b'{"kind": "Namespace"}\n',
}


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore.create(tmp_path / "slices.git")


def git(store: GitStore, *arguments: str) -> str:
    """The stock git, which knows nothing of the machine's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(store.path), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(store.path), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def put_bundle(store: GitStore, files: dict[str, bytes]) -> Oid:
    oid, objects = subtree(files)
    store.write(objects)
    return oid


def put_slice(
    store: GitStore, seq: int, subtrees: dict[str, Oid], *, parent: Oid | None = None, cluster: ClusterName = EU
) -> Oid:
    """A slice commit with exactly `subtrees`, stored, not named."""
    return put_move(store, seq, subtrees, parent=parent, cluster=cluster).commit


def put_move(
    store: GitStore, seq: int, subtrees: dict[str, Oid], *, parent: Oid | None = None, cluster: ClusterName = EU
) -> compose.Composed:
    current = None if parent is None else store.manifest(parent)
    wanted = {
        BundleName(name): BundleEntry(subtree=oid, revision=f"{seq:040x}", rollout=f"{name}-{seq}")
        for name, oid in subtrees.items()
    }
    gone = {BundleName(name): None for name in (current.bundles if current else {}) if name not in subtrees}
    made = compose.compose(
        cluster=cluster,
        seq=seq,
        parent=parent,
        parent_time_s=1_700_000_000 + (current.seq if current else 0),
        current=current,
        changes={**wanted, **gone},
        keys=store.keys,
        time_s=1_700_000_000 + seq,
    )
    assert made is not None
    store.write(made.objects)
    return made


def test_a_tree_of_files_has_the_id_that_git_gives_it(store: GitStore) -> None:
    oid = put_bundle(store, SHOP)
    lines = git(store, "ls-tree", "-r", "--name-only", oid).split()
    assert lines == sorted(SHOP)
    assert git(store, "cat-file", "blob", f"{oid}:shop/Service/web.json").encode() == SHOP["shop/Service/web.json"]


def test_a_tree_of_nothing_is_gits_empty_tree() -> None:
    assert subtree({}) == ("4b825dc642cb6eb9a060e54bf8d69288fbee4904", (("tree", b""),))


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a/../b": b""}, id="parent folder"),
        pytest.param({"/a": b""}, id="absolute"),
        pytest.param({"a//b": b""}, id="empty name"),
        pytest.param({".git/config": b""}, id="git folder"),
        pytest.param({"a": b"", "a/b": b""}, id="file and folder"),
        pytest.param({"a\0b": b""}, id="zero byte"),
    ],
)
def test_a_path_that_no_tree_can_hold_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(Permanent, match="path "):
        subtree(files)


def test_what_was_written_is_readable_and_passes_fsck(store: GitStore) -> None:
    shop = put_bundle(store, SHOP)
    commit = put_slice(store, 1, {"shop": shop})
    store.set_ref(EU, commit)
    assert git(store, "fsck", "--strict", "--full") == ""
    assert store.files(shop) == {path: git_id("blob", data) for path, data in SHOP.items()}
    assert store.read(git_id("blob", SHOP["bundle.json"])) == SHOP["bundle.json"]
    assert store.manifest(commit).bundles["shop"].subtree == shop
    assert GitStore.open(store.path).manifest(commit) == store.manifest(commit)


def test_one_call_is_one_pack_and_a_repetition_is_none(store: GitStore) -> None:
    _, objects = subtree(SHOP)
    first = store.write([*objects, *objects])
    assert len(packs.packs(store.path / "objects" / "pack")) == 1
    assert store.write([*objects, *objects]) == first == tuple(git_id(*pair) for pair in [*objects, *objects])
    assert len(packs.packs(store.path / "objects" / "pack")) == 1


@pytest.mark.parametrize("size", [0, 1, 15, 16, 2047, 2048, 300_000])
def test_objects_of_every_header_size_come_back(store: GitStore, size: int) -> None:
    data = os.urandom(size)
    (oid,) = store.write([("blob", data)])
    assert store.read(oid) == data
    assert git(store, "cat-file", "-s", oid).strip() == str(size)


def test_offsets_beyond_two_gibibytes_are_in_the_large_table(tmp_path: Path) -> None:
    near, far = Oid("11" * 20), Oid("00" * 20)
    rows = [packs.Placed(near, 1, 12), packs.Placed(far, 2, 5 << 30)]
    (tmp_path / "pack-x.idx").write_bytes(packs.index(rows, pack_checksum=b"\0" * 20))
    shown = subprocess.run(
        ["git", "show-index"], input=(tmp_path / "pack-x.idx").read_bytes(), capture_output=True, check=True
    )
    assert shown.stdout.decode().split()[:2] == [str(5 << 30), far]
    assert shown.stdout.decode().split()[3:5] == ["12", near]
    assert list(packs.oids(tmp_path / "pack-x.pack")) == [far, near]


def test_another_open_store_sees_what_was_written(store: GitStore) -> None:
    other = GitStore.open(store.path)
    (oid,) = store.write([("blob", b"new")])
    assert other.read(oid) == b"new"


def test_a_missing_object_names_itself_and_the_remedy(store: GitStore) -> None:
    for look in (store.read, store.files, store.manifest, store.entry):
        with pytest.raises(Permanent, match=f"{NO_OID}: is missing or broken .*git fsck"):
            look(NO_OID)
    assert not store.has(NO_OID)


def test_a_broken_object_is_never_given_out(store: GitStore) -> None:
    (oid,) = store.write([("blob", os.urandom(4000))])
    (pack,) = packs.packs(store.path / "objects" / "pack")
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * 8)
    with pytest.raises(Permanent, match="missing or broken"):
        GitStore.open(store.path).read(oid)


def test_a_full_disk_is_transient_and_leaves_nothing(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(Transient, match="No space left"):
            store.write([("blob", b"x")])
    assert list((store.path / "objects" / "pack").iterdir()) == []
    (oid,) = store.write([("blob", b"x")])
    assert store.read(oid) == b"x"


def test_a_kind_that_is_not_ours_is_refused(store: GitStore) -> None:
    with pytest.raises(Permanent, match="'tag'"):
        store.write([("tag", b"")])


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="cannot be opened"):
        GitStore.open(tmp_path)


def test_creating_twice_keeps_everything(store: GitStore) -> None:
    (oid,) = store.write([("blob", b"x")])
    assert GitStore.create(store.path).read(oid) == b"x"


def test_keys_are_the_objects_without_the_policy(store: GitStore) -> None:
    assert store.keys(put_bundle(store, SHOP)) == {
        ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web"),
        ObjectKey(group="", kind="Service", namespace="shop", name="web"),
        ObjectKey(group="", kind="Namespace", namespace="", name="shop"),
    }


def test_a_stray_file_in_a_subtree_is_a_protocol_error(store: GitStore) -> None:
    with pytest.raises(ProtocolError, match="notes"):
        store.keys(put_bundle(store, {"notes": b""}))


def test_a_commit_without_manifest_is_no_slice(store: GitStore) -> None:
    (tree,) = store.write([("tree", b"")])
    (commit,) = store.write([("commit", f"tree {tree}\nauthor a <b> 1 +0000\ncommitter a <b> 1 +0000\n\n".encode())])
    with pytest.raises(Permanent, match=r"no slice\.json"):
        store.manifest(commit)


# --- refs -------------------------------------------------------------------------------------------------------------


def test_a_ref_moves_forward_only(store: GitStore) -> None:
    shop = put_bundle(store, SHOP)
    one = put_slice(store, 1, {"shop": shop})
    two = put_slice(store, 2, {}, parent=one)
    three = put_slice(store, 3, {"shop": shop}, parent=two)
    assert store.ref(EU) is None
    store.set_ref(EU, one)
    store.set_ref(EU, three)
    store.set_ref(EU, three)
    assert store.ref(EU) == three
    with pytest.raises(Permanent, match=f"{three}, which is no ancestor of {two}.*one moment"):
        store.set_ref(EU, two)
    assert store.ref(EU) == three
    store.set_ref(EU, two, force=True)
    assert store.ref(EU) == two
    assert git(store, "rev-parse", "refs/heads/clusters/eu-1").strip() == two
    assert git(store, "fsck", "--strict", "--full") == f"dangling commit {three}\n"


def test_a_ref_never_names_what_is_not_there(store: GitStore) -> None:
    (blob,) = store.write([("blob", b"x")])
    for bad in (NO_OID, blob):
        with pytest.raises(Permanent):
            store.set_ref(EU, bad, force=True)
    assert store.ref(EU) is None


def test_a_ref_that_git_packed_is_still_found(store: GitStore) -> None:
    one = put_slice(store, 1, {"shop": put_bundle(store, SHOP)})
    store.set_ref(EU, one)
    git(store, "pack-refs", "--all", "--prune")
    assert GitStore.open(store.path).ref(EU) == one
    two = put_slice(store, 2, {}, parent=one)
    GitStore.open(store.path).set_ref(EU, two)
    assert store.ref(EU) == two


def test_many_refs_move_with_one_file_and_those_that_may_not_stay(
    store: GitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.slices.refs.MANY", 3)
    one = put_slice(store, 1, {"shop": put_bundle(store, SHOP)})
    two = put_slice(store, 2, {}, parent=one)
    names = [f"c-{number}" for number in range(4)]
    store.set_ref("other", one)
    git(store, "-c", "user.name=a", "-c", "user.email=b", "tag", "-a", "-m", "x", "kept", one)
    git(store, "pack-refs", "--all", "--prune")
    store.set_refs({"c-0": one, "c-1": two})  # few: files of their own
    folder = store.path / "refs/heads/clusters"
    assert {file.name for file in folder.iterdir()} == {"c-0", "c-1"}
    refused = store.set_refs({**dict.fromkeys(names, one), "c-3": NO_OID})
    assert set(refused) == {"c-1", "c-3"}
    assert "which is no ancestor of" in str(refused["c-1"])
    assert store.set_refs(dict.fromkeys(names, two)) == {}
    assert {file.name for file in folder.iterdir()} == {"c-1"}  # it was there already
    assert [store.ref(name) for name in (*names, "other")] == [two, two, two, two, one]
    again = GitStore.open(store.path)
    assert [again.ref(name) for name in (*names, "other", "unknown")] == [two, two, two, two, one, None]
    assert git(store, "rev-parse", "clusters/c-0", "kept^{commit}").split() == [two, one]
    assert git(store, "fsck", "--strict", "--full") == ""
    three = put_slice(store, 3, {"shop": put_bundle(store, SHOP)}, parent=two)
    store.set_ref("c-0", three)
    assert (store.ref("c-0"), store.ref("c-1")) == (three, two)


# --- what a fetch gets ------------------------------------------------------------------------------------------------


def objects_by_git(store: GitStore, *revisions: str) -> set[str]:
    return {line.split()[0] for line in git(store, "rev-list", "--objects", *revisions).splitlines()}


@pytest.mark.parametrize(
    ("wants", "haves"),
    [
        pytest.param([5], [], id="everything"),
        pytest.param([5], [4], id="the newest"),
        pytest.param([5], [1, 3], id="the nearest have counts"),
        pytest.param([2], [4], id="older than a have"),
        pytest.param([1, 2, 5, 3], [4], id="on both sides of a have"),
        pytest.param([3], [3], id="nothing"),
        pytest.param([3, 2, 1], [1, 2], id="several of both"),
    ],
)
def test_a_fetch_gets_what_git_would_send(store: GitStore, wants: list[int], haves: list[int]) -> None:
    chain: list[Oid] = []
    for seq in range(1, 6):
        tree = put_bundle(store, {**SHOP, "shop/Service/web.json": b"%d" % seq})
        chain.append(put_slice(store, seq, {"shop": tree}, parent=chain[-1] if chain else None))
    wanted, had = ([chain[seq - 1] for seq in numbers] for numbers in (wants, haves))
    assert set(store.missing(wanted, had)) == objects_by_git(store, *wanted, *(f"^{oid}" for oid in had))


# --- many packs, and kills --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([5], 0, id="one"),
        pytest.param([1, 2, 4, 8], 0, id="already a progression"),
        pytest.param([1, 1, 1, 1], 4, id="all alike"),
        pytest.param([1, 1, 100], 2, id="a large one stays"),
        pytest.param([1, 1, 3, 100], 3, id="the sum swallows the next"),
    ],
)
def test_small_packs_merge_and_large_ones_stay(sizes: list[int], count: int) -> None:
    assert packs.to_merge(sizes) == count


def test_repack_merges_and_loses_nothing(store: GitStore) -> None:
    (large,) = store.write([("blob", os.urandom(200_000))])
    written = [store.write([("blob", b"%d" % i)])[0] for i in range(MAX_PACKS - 1)]
    assert not store.repack()
    written += store.write([("blob", b"one more")])
    other = GitStore.open(store.path)
    assert other.read(written[0]) == b"0"
    assert store.repack()
    assert len(packs.packs(store.path / "objects" / "pack")) == 2
    for reader in (store, other, GitStore.open(store.path)):
        assert all(reader.has(oid) for oid in [large, *written])
        assert reader.read(written[3]) == b"3"
    assert not store.repack()
    assert len(git(store, "verify-pack", "-v", *map(str, packs.packs(store.path / "objects" / "pack")))) > 0


def test_repack_reads_packs_with_deltas_that_git_made(store: GitStore) -> None:
    text = b"".join(b"%d\n" % i for i in range(2000))
    blobs = store.write([("blob", text + b"%d" % i) for i in range(5)])
    put = "\n".join(f"{oid} x" for oid in blobs)
    subprocess.run(
        ["git", "-C", str(store.path), "pack-objects", "-q", "objects/pack/pack"],
        input=put.encode(),
        capture_output=True,
        check=True,
    )
    for i in range(MAX_PACKS + 1):
        store.write([("blob", os.urandom(20_000) + b"%d" % i)])
    assert store.repack()
    assert [store.read(oid)[-1:] for oid in blobs] == [b"0", b"1", b"2", b"3", b"4"]
    assert git(store, "fsck", "--strict", "--full").count("dangling blob") == MAX_PACKS + 6


def test_leftovers_of_a_kill_are_swept_and_never_read(store: GitStore) -> None:
    folder = store.path / "objects" / "pack"
    (oid,) = store.write([("blob", b"kept")])
    (folder / "tmp_abc").write_bytes(b"half a pack")
    (folder / f"pack-{'0' * 40}.pack").write_bytes(b"a pack whose index never came")
    (store.path / "tmp_ref").write_bytes(b"half a ref")
    again = GitStore.open(store.path)
    assert again.read(oid) == b"kept"
    assert sorted(path.suffix for path in folder.iterdir()) == [".idx", ".pack"]
    assert not (store.path / "tmp_ref").exists()
    assert "dangling" in git(store, "fsck", "--strict", "--full")


@pytest.mark.parametrize("lock", ["HEAD.lock", "config.lock"])
@pytest.mark.parametrize("made", [True, False], ids=["a later start", "the first start"])
def test_a_lock_of_a_start_that_was_killed_keeps_no_other_from_starting(tmp_path: Path, lock: str, made: bool) -> None:
    path = tmp_path / "slices.git"
    if made:
        GitStore.create(path)
    path.mkdir(exist_ok=True)
    (path / lock).touch()
    GitStore.create(path).write([])


_KILLED_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from hub import packs
from hub.slices import gitstore, refs, trees

verb, base = sys.argv[1], Path(sys.argv[2])
gitstore.MAX_PACKS = 3

def prepare(path):
    store = gitstore.GitStore.create(path)
    for i in range(4):
        store.write([("blob", b"old %d" % i)])
    tree, objects = trees.subtree({})
    store.write(objects)
    who = "a <b> 1 +0000"
    return store, store.write([("commit", f"tree {tree}\\nauthor {who}\\ncommitter {who}\\n\\n".encode())])[0]

def act(store, commit):
    if verb == "write":
        store.write([("blob", b"new 1"), ("blob", b"new 2")])
    elif verb == "repack":
        store.repack()
    elif verb == "set_ref":
        store.set_ref("eu-1", commit)
    else:
        refs.MANY = 2
        store.set_refs({"eu-1": commit, "eu-2": commit})

step = 0
while True:
    path = base / str(step)
    store, commit = prepare(path)
    child = os.fork()
    if child == 0:
        left = step
        def deadly(call):
            def wrapped(*args, **kwargs):
                global left
                if left == 0:
                    os._exit(9)
                left -= 1
                return call(*args, **kwargs)
            return wrapped
        for name in ("fsync", "rename", "unlink", "fchmod"):
            setattr(os, name, deadly(getattr(os, name)))
        act(store, commit)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(step)
        break
    step += 1
"""


@pytest.mark.parametrize(("verb", "least_steps"), [("write", 8), ("repack", 16), ("set_ref", 4), ("set_refs", 6)])
def test_a_kill_at_any_step_shows_all_or_nothing(tmp_path: Path, verb: str, least_steps: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_AT_EVERY_STEP, verb, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(packs.__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least_steps
    seen = set()
    for path in sorted(tmp_path.iterdir()):
        before = pygit2.Repository(str(path))
        visible = [before.odb.exists(pygit2.Oid(hex=git_id("blob", b"new %d" % i))) for i in (1, 2)]
        assert visible in ([True, True], [False, False])
        store = GitStore.open(path)
        assert [store.read(git_id("blob", b"old %d" % i)) for i in range(4)] == [b"old %d" % i for i in range(4)]
        git(store, "fsck", "--strict", "--full")
        store.write([("blob", b"new 1"), ("blob", b"new 2")])
        assert store.read(git_id("blob", b"new 1")) == b"new 1"
        assert not list(path.rglob("tmp_*"))
        seen.add((visible[0], store.ref(EU) is not None))
    assert len(seen) == (1 if verb == "repack" else 2)


def test_a_merge_that_gives_one_of_the_merged_packs_keeps_it(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.slices.gitstore.MAX_PACKS", 1)
    folder = store.path / "objects" / "pack"
    written = [store.write([("blob", b"%d" % i)])[0] for i in range(2)]
    old = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert store.repack()
    for name, data in old.items():
        (folder / name).write_bytes(data)  # as a kill before the removal leaves it
    again = GitStore.open(store.path)
    assert again.repack()
    assert [again.read(oid) for oid in written] == [b"0", b"1"]
    assert len(packs.packs(folder)) == 1


def test_the_cache_forgets_the_least_recently_used() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key

    cache: Lru[str, str] = Lru(4, len)
    for key in ("aa", "bb", "aa", "cc", "aa", "bb"):
        assert cache.get(key, make) == key
    assert made == ["aa", "bb", "cc", "bb"]
    assert cache.get("too long", make) == "too long"
    assert cache.get("aa", make) == "aa"


def test_subtrees_with_the_same_objects_share_one_set_of_keys(store: GitStore) -> None:
    one, other = put_bundle(store, SHOP), put_bundle(store, {**SHOP, "shop/Service/web.json": b"changed"})
    more = put_bundle(store, {**SHOP, "shop/Service/db.json": b"more"})
    assert one != other
    assert store.keys(one) is store.keys(other)
    assert store.keys(more) == store.keys(one) | {ObjectKey(group="", kind="Service", namespace="shop", name="db")}


def test_a_set_of_keys_that_nobody_has_any_more_is_forgotten() -> None:
    sets, key = KeySets(), ObjectKey(group="", kind="Service", namespace="shop", name="web")
    for number in range(3):
        assert sets.get(Oid(str(number)), lambda _: frozenset({key})) == {key}
    kept = weakref.ref(sets.get(Oid("0"), lambda _: frozenset()))
    assert kept() == frozenset({key})
    del sets
    gc.collect()
    assert kept() is None


def test_manifest_and_slice_agree(store: GitStore) -> None:
    shop = put_bundle(store, SHOP)
    assert store.manifest(put_slice(store, 1, {"shop": shop})) == SliceManifest(
        cluster=EU, seq=1, bundles={"shop": BundleEntry(subtree=shop, revision=f"{1:040x}", rollout="shop-1")}
    )
