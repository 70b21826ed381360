"""Composition for random fleets of bundles: git agrees with every id, and bundles never touch each other."""

import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.slices.compose import Composed, compose
from hub.slices.gitstore import GitStore
from hub.slices.trees import subtree
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey
from proto.slices import POLICY_FILE, BundleEntry, SliceManifest

EU = ClusterName("eu-1")
NAMES = ["a", "a-b", "a0", "b", "shop", "web", "x1"]
names = st.sampled_from(NAMES).map(BundleName)
contents = st.dictionaries(st.sampled_from(["1", "2", "a-b", "a"]), st.binary(max_size=20), max_size=3)
bundle_sets = st.dictionaries(names, contents, max_size=5)
changes_sets = st.dictionaries(names, st.none() | contents, max_size=5)
Files = dict[str, bytes]


def files_of(bundle: str, content: Files) -> Files:
    """Objects named after their bundle, so that no two bundles own one."""
    return {POLICY_FILE: bundle.encode(), **{f"ns/K.g/{bundle}-{name}.json": data for name, data in content.items()}}


class Known:
    """Subtrees by id, as the store has them."""

    def __init__(self) -> None:
        self.objects: dict[Oid, tuple[tuple[str, bytes], ...]] = {}
        self._keys: dict[Oid, frozenset[ObjectKey]] = {}

    def entries(self, changes: dict[BundleName, Files | None]) -> dict[BundleName, BundleEntry | None]:
        return {name: None if content is None else self._entry(name, content) for name, content in changes.items()}

    def _entry(self, name: str, content: Files) -> BundleEntry:
        files = files_of(name, content)
        oid, self.objects[oid] = subtree(files)
        self._keys[oid] = frozenset(ObjectKey.from_path(path) for path in files if path != POLICY_FILE)
        return BundleEntry(subtree=oid, revision="f" * 40, rollout=f"{name}-1")

    def step(
        self, before: Composed | None, changes: dict[BundleName, Files | None], time_s: int = 5
    ) -> Composed | None:
        return compose(
            cluster=EU,
            seq=1 if before is None else before.seq + 1,
            parent=None if before is None else before.commit,
            parent_time_s=0 if before is None else before.time_s,
            current=None if before is None else before.manifest,
            changes=self.entries(changes),
            keys=self._keys.__getitem__,
            time_s=time_s,
        )


def bundles(made: Composed | None) -> dict[str, BundleEntry]:
    return {} if made is None else made.manifest.bundles


@given(first=bundle_sets, second=changes_sets)
def test_neighbours_keep_their_subtrees_bit_for_bit(
    first: dict[BundleName, Files], second: dict[BundleName, Files | None]
) -> None:
    known = Known()
    one = known.step(None, {**first})
    two = known.step(one, second) or one
    for name, entry in bundles(one).items():
        if name not in second:
            assert bundles(two)[name] == entry
    for name, content in second.items():
        assert (name in bundles(two)) == (content is not None)


@given(first=bundle_sets, left=changes_sets, right=changes_sets)
def test_changes_of_different_bundles_together_equal_one_after_the_other(
    first: dict[BundleName, Files], left: dict[BundleName, Files | None], right: dict[BundleName, Files | None]
) -> None:
    right = {name: content for name, content in right.items() if name not in left}
    known = Known()
    one = known.step(None, {**first})
    forth = known.step(known.step(one, left) or one, right) or known.step(one, left) or one
    back = known.step(known.step(one, right) or one, left) or known.step(one, right) or one
    together = known.step(one, {**left, **right}) or one
    assert bundles(forth) == bundles(back) == bundles(together)


@given(first=bundle_sets, second=changes_sets, times=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_equal_arguments_give_equal_commits_and_time_never_stands_still(
    first: dict[BundleName, Files], second: dict[BundleName, Files | None], times: tuple[int, int]
) -> None:
    known = Known()
    one, again = (known.step(None, dict(order), times[0]) for order in (first.items(), reversed(first.items())))
    assert one == again
    two = known.step(one, second, times[1]) if one else None
    assert one is None or two is None or (two.time_s > one.time_s and two.seq == one.seq + 1)


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(changes_sets, min_size=1, max_size=4))
def test_git_finds_the_same_ids_and_nothing_to_complain_about(steps: list[dict[BundleName, Files | None]]) -> None:
    known = Known()
    with tempfile.TemporaryDirectory() as folder:
        store = GitStore.create(Path(folder))
        last: Composed | None = None
        for changes in steps:
            made = known.step(last, changes)
            if made is None:
                continue
            store.write([pair for pairs in known.objects.values() for pair in pairs])
            assert store.write(made.objects)[-1] == made.commit
            store.set_ref(EU, made.commit)
            last = made
        if last is None:
            return
        run = ["git", "-C", folder]
        done = subprocess.run([*run, "fsck", "--strict", "--full"], capture_output=True, text=True, check=True)
        assert "error" not in done.stdout + done.stderr
        hashed = subprocess.run(
            [*run, "hash-object", "-t", "commit", "--stdin"], input=last.objects[-1][1], capture_output=True, check=True
        )
        assert hashed.stdout.decode().strip() == last.commit
        manifest: SliceManifest = store.manifest(last.commit)
        assert manifest == last.manifest
        shown = subprocess.run([*run, "ls-tree", "-r", last.commit], capture_output=True, text=True, check=True).stdout
        expected = {
            f"bundles/{name}/{path}"
            for name, entry in manifest.bundles.items()
            for path in store.files(Oid(entry.subtree))
        }
        assert {line.split("\t")[1] for line in shown.splitlines()} == {"slice.json", *expected}
