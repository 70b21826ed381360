"""Garbage collection: what is needed stays whole, whatever is killed on the way, and everything else goes."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub import packs
from hub.slices import garbage
from hub.slices.compose import HISTORY_S
from hub.slices.gitstore import GitStore
from proto.errors import Permanent
from proto.ids import Oid
from tests.unit.test_gitstore import SHOP, git, put_bundle, put_slice

BEGIN_S = 1_700_000_000
"""Of `put_slice`: the time of a slice is this and its seq."""


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore.create(tmp_path / "slices.git")


def collect(store: GitStore, *roots: Oid, since_s: float = 0.0) -> None:
    store.keep({garbage.gather(store.path, roots, (), since_s)})


def test_what_no_root_needs_goes_and_the_rest_stays_whole(store: GitStore) -> None:
    running = put_bundle(store, SHOP)
    never_run = put_bundle(store, {**SHOP, "shop/ConfigMap/more.json": b'"never"'})
    last_good = put_bundle(store, {"bundle.json": b"{}", "shop/ConfigMap/good.json": b"1"})
    slice_ = put_slice(store, 1, {"shop": running})
    store.set_ref("eu-1", slice_)
    files = store.files(never_run)
    collect(store, slice_, last_good)
    assert {path: store.read(oid) for path, oid in store.files(running).items()} == SHOP
    assert store.read(store.files(last_good)["shop/ConfigMap/good.json"]) == b"1"
    assert not store.has(never_run)
    assert not store.has(files["shop/ConfigMap/more.json"])
    assert store.has(files["shop/Service/web.json"]), "which the running one shares"
    assert git(store, "fsck", "--strict", "--full").count("dangling") == 1, "the last good subtree has no commit"
    again = GitStore.open(store.path)
    assert again.manifest(slice_) == store.manifest(slice_)
    assert len(packs.packs(store.path / "objects" / "pack")) == 1


def test_a_subtree_that_went_can_be_stored_again(store: GitStore) -> None:
    kept = put_slice(store, 1, {"shop": put_bundle(store, SHOP)})
    other = {"bundle.json": b"{}", "shop/ConfigMap/a.json": b"a"}
    gone = put_bundle(store, other)
    assert len(store.keys(gone)) == 1
    collect(store, kept)
    assert not store.has(gone)
    assert put_bundle(store, other) == gone
    assert {path: store.read(oid) for path, oid in store.files(gone).items()} == other


def test_a_slices_history_is_kept_and_what_a_checkpoint_cut_off_for_as_long_as_is_asked(store: GitStore) -> None:
    subtrees = [put_bundle(store, {"bundle.json": b"{}", "shop/ConfigMap/a.json": b"%d" % i}) for i in range(4)]
    first = put_slice(store, 1, {"shop": subtrees[0]})
    second = put_slice(store, 2, {"shop": subtrees[1]}, parent=first)
    # Later than every stretch that the first two lie in.
    cut = put_slice(store, 3 + HISTORY_S, {"shop": subtrees[2]}, parent=second)
    tip = put_slice(store, 4 + HISTORY_S, {"shop": subtrees[3]}, parent=cut)
    assert list(store.history(tip)) == [tip, cut]
    collect(store, tip, since_s=BEGIN_S + HISTORY_S)
    assert [store.has(oid) for oid in (first, second, cut, tip)] == [True] * 4
    collect(store, tip, since_s=BEGIN_S + HISTORY_S + 4)
    assert [store.has(oid) for oid in (first, second, cut, tip)] == [False, False, True, True]
    assert [store.has(oid) for oid in subtrees] == [False, False, True, True]


def test_a_ref_moves_over_a_checkpoint_and_not_back(store: GitStore) -> None:
    tree = put_bundle(store, SHOP)
    first = put_slice(store, 1, {"shop": tree})
    cut = put_slice(store, 2 + HISTORY_S, {"shop": tree}, parent=first)
    tip = put_slice(store, 3 + HISTORY_S, {"shop": tree}, parent=cut)
    store.set_ref("eu-1", first)
    store.set_ref("eu-1", tip)
    assert store.ref("eu-1") == tip
    with pytest.raises(Permanent, match="is no ancestor"):
        store.set_ref("eu-1", first)


def test_what_was_stored_meanwhile_is_gathered_too(store: GitStore) -> None:
    first = put_slice(store, 1, {"shop": put_bundle(store, SHOP)})
    unused = put_bundle(store, {"bundle.json": b"{}", "shop/ConfigMap/a.json": b"a"})
    one = garbage.gather(store.path, [first], (), 0.0)
    late = put_slice(store, 2, {"shop": unused}, parent=first)  # stores no blob: they are there already
    two = garbage.gather(store.path, [late], [one], 0.0)
    store.keep({one, two})
    assert store.read(store.files(unused)["shop/ConfigMap/a.json"]) == b"a"
    assert list(store.history(late)) == [late, first]
    assert garbage.gather(store.path, [late], [one, two], 0.0) == ""


def test_little_garbage_is_left_where_it_is(store: GitStore) -> None:
    kept = put_slice(store, 1, {"shop": put_bundle(store, SHOP)})
    store.write([("blob", b"of no use")])
    assert garbage.gather(store.path, [kept], (), 0.0, 0.5) == ""
    assert garbage.gather(store.path, [kept], (), 0.0, 0.05) != ""


def test_a_root_that_is_not_there_is_passed_over_and_a_broken_one_stops_everything(store: GitStore) -> None:
    kept = put_slice(store, 1, {"shop": put_bundle(store, SHOP)})
    assert garbage.gather(store.path, [Oid("f" * 40), kept], (), 0.0)
    (half,) = store.write([("tree", b"100644 a\0" + b"\x11" * 20 + b"40000 b\0" + b"\x22" * 20)])
    with pytest.raises(Permanent, match="2222: is needed and is missing or broken"):
        garbage.gather(store.path, [half, kept], (), 0.0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bundles=st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1), min_size=1, max_size=6),
    data=st.data(),
)
def test_exactly_what_the_roots_need_is_left(
    tmp_path_factory: pytest.TempPathFactory, bundles: list[dict[str, int]], data: st.DataObject
) -> None:
    store = GitStore.create(tmp_path_factory.mktemp("garbage") / "slices.git")
    folder = store.path / "objects" / "pack"
    subtrees = [
        put_bundle(store, {f"ns/ConfigMap/{name}.json": b"%d" % value for name, value in bundle.items()})
        for bundle in bundles
    ]
    roots = data.draw(st.lists(st.sampled_from(subtrees), min_size=1))
    needed = {oid for root in roots for oid in git(store, "ls-tree", "-rt", "--format=%(objectname)", root).split()}
    collect(store, *roots)
    assert {oid for pack in packs.packs(folder) for oid in packs.oids(pack)} == needed | set(roots)


_KILLED_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from hub.slices import garbage, gitstore, trees

base = Path(sys.argv[1])

def prepare(path):
    store = gitstore.GitStore.create(path)
    roots = []
    for name in ("kept", "gone", "left"):
        oid, objects = trees.subtree({"a.json": name.encode(), "b/c.json": b"shared", f"b/{name}.json": b"1"})
        for item in objects:
            store.write([item])
        roots.append(oid)
    return store, roots

step = 0
while True:
    path = base / str(step)
    store, roots = prepare(path)
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
        one = garbage.gather(path, roots[:1], (), 0.0)
        two = garbage.gather(path, roots[:1] + roots[2:], (one,), 0.0)
        store.keep({one, two})
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(step, *roots)
        break
    step += 1
"""


def test_a_kill_at_any_step_leaves_each_subtree_whole_or_gone_and_the_needed_ones_whole(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_AT_EVERY_STEP, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(packs.__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    steps, kept, gone, left = done.stdout.split()
    assert int(steps) >= 40
    seen = set()
    for path in sorted(tmp_path.iterdir()):
        store = GitStore.open(path)
        assert {name: len(store.read(oid)) for name, oid in store.files(Oid(kept)).items()} == {
            "a.json": 4, "b/c.json": 6, "b/kept.json": 1,
        }  # fmt: skip
        assert store.read(store.files(Oid(left))["a.json"]) == b"left"
        if store.has(Oid(gone)):
            assert store.read(store.files(Oid(gone))["a.json"]) == b"gone"
        seen.add(store.has(Oid(gone)))
        assert not [file for file in path.rglob("*") if file.name.startswith(("tmp_", "flotilla.doomed"))]
    assert seen == {True, False}
