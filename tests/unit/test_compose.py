"""Composition: the exact bytes of a slice commit, and what is refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from hub.slices.compose import HISTORY_S, Composed, Conflict, compose
from proto.errors import InvalidInput, Permanent
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey, git_id, tree_bytes
from proto.slices import BundleEntry, SliceManifest, predecessor

EU = ClusterName("eu-1")
A, B, C = BundleName("a"), BundleName("b"), BundleName("c")
REVISION = "1234567890abcdef1234567890abcdef12345678"


def tree(number: int) -> Oid:
    return Oid(f"{number:040x}")


def config(name: str, namespace: str = "shop") -> ObjectKey:
    return ObjectKey(group="", kind="ConfigMap", namespace=namespace, name=name)


KEYS: Mapping[Oid, frozenset[ObjectKey]] = {
    tree(1): frozenset({config("one")}),
    tree(2): frozenset({config("two")}),
    tree(12): frozenset({config("one"), config("two")}),
    tree(3): frozenset({config("three")}),
}


def entry(number: int, *, revision: str = REVISION, rollout: str = "") -> BundleEntry:
    return BundleEntry(subtree=tree(number), revision=revision, rollout=rollout)


def first(changes: Mapping[BundleName, BundleEntry | None], **other: Any) -> Composed | None:
    arguments: dict[str, Any] = {
        "cluster": EU, "seq": 1, "parent": None, "parent_time_s": 0, "current": None, "changes": changes,
        "keys": KEYS.__getitem__, "time_s": 1_700_000_000,
    }  # fmt: skip
    return compose(**{**arguments, **other})


def after(made: Composed, changes: Mapping[BundleName, BundleEntry | None], **other: Any) -> Composed | None:
    before = {"seq": made.seq + 1, "parent": made.commit, "parent_time_s": made.time_s, "current": made.manifest}
    return first(changes, **{**before, **other})


def composed(made: Composed | None) -> Composed:
    assert made is not None
    return made


def test_the_commit_has_exactly_the_bytes_of_the_design() -> None:
    one = composed(first({A: entry(1)}))
    made = composed(
        after(one, {B: entry(2, rollout="b-7"), A: None}, time_s=1_700_000_100, trailers=[("Wave", "canary")])
    )
    slice_json = (
        b'{\n  "bundles": {\n    "b": {\n      "revision": "1234567890abcdef1234567890abcdef12345678",\n'
        b'      "rollout": "b-7",\n      "subtree": "0000000000000000000000000000000000000002"\n    }\n  },\n'
        b'  "cluster": "eu-1",\n  "format": 1,\n  "seq": 2\n}\n'
    )
    bundles = tree_bytes({"b": (True, tree(2))})
    root = tree_bytes({"slice.json": (False, git_id("blob", slice_json)), "bundles": (True, git_id("tree", bundles))})
    commit = (
        f"tree {git_id('tree', root)}\n"
        f"parent {one.commit}\n"
        "author Flotilla <hub@flotilla.dev> 1700000100 +0000\n"
        "committer Flotilla <hub@flotilla.dev> 1700000100 +0000\n"
        "\n"
        "eu-1 #2: a removed, b at 1234567890ab\n"
        "\n"
        "Bundle: a\n"
        "Bundle: b\n"
        "Rollout: b-7\n"
        "Source-Revision: 1234567890abcdef1234567890abcdef12345678\n"
        "Wave: canary\n"
    ).encode()
    assert made.objects == (("blob", slice_json), ("tree", bundles), ("tree", root), ("commit", commit))
    assert made.commit == git_id("commit", commit)


def test_a_first_commit_has_no_parent() -> None:
    made = composed(first({A: entry(1)}))
    assert b"\nparent " not in made.objects[-1][1]
    assert made.manifest == SliceManifest(cluster=EU, seq=1, bundles={"a": entry(1)})


def test_the_order_of_changes_and_trailers_does_not_matter() -> None:
    forth = first({A: entry(1), B: entry(2)}, trailers=[("Wave", "x"), ("Rollout", "y")])
    back = first({B: entry(2), A: entry(1)}, trailers=[("Rollout", "y"), ("Wave", "x")])
    assert forth == back


def test_a_slice_without_bundles_has_no_bundles_folder() -> None:
    made = composed(after(composed(first({A: entry(1)})), {A: None}))
    assert [kind for kind, _ in made.objects] == ["blob", "tree", "commit"]
    assert made.manifest.bundles == {}


@pytest.mark.parametrize(
    ("time_s", "expected"),
    [
        pytest.param(1_700_000_500, 1_700_000_500, id="later"),
        pytest.param(1_700_000_000, 1_700_000_001, id="the same second"),
        pytest.param(1_600_000_000, 1_700_000_001, id="a clock that was set back"),
    ],
)
def test_a_commit_is_later_than_its_parent(time_s: int, expected: int) -> None:
    made = composed(after(composed(first({A: entry(1)})), {A: None}, time_s=time_s))
    assert made.time_s == expected
    assert f"> {expected} +0000".encode() in made.objects[-1][1]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="nothing"),
        pytest.param({A: entry(1)}, id="what is there already"),
        pytest.param({B: None}, id="removal of what is not there"),
    ],
)
def test_no_change_is_no_commit(changes: dict[BundleName, BundleEntry | None]) -> None:
    assert after(composed(first({A: entry(1)})), changes) is None


def test_a_new_revision_of_the_same_subtree_is_recorded_and_touches_no_object() -> None:
    one = composed(first({A: entry(1)}))
    made = composed(after(one, {A: entry(1, revision="f" * 40)}))
    assert made.objects[1] == one.objects[1]
    assert made.manifest.bundles["a"].revision == "f" * 40


def test_two_bundles_that_would_own_one_object_are_refused_by_name() -> None:
    one = composed(first({A: entry(1), B: entry(3)}))
    with pytest.raises(Conflict) as refused:
        after(one, {C: entry(12)})
    assert isinstance(refused.value, InvalidInput)
    assert str(refused.value) == (
        "ConfigMap/shop/one on cluster eu-1: would belong to the bundles a and c at once "
        "(leave it in one of a and c; to hand it over, change both in one commit)"
    )


def test_a_conflict_counts_what_it_does_not_name() -> None:
    with pytest.raises(Conflict, match=r"ConfigMap/shop/one .* bundles a and b at once, and 1 more"):
        first({A: entry(12), B: entry(12)})


def test_an_object_can_be_handed_over_in_one_commit() -> None:
    one = composed(first({A: entry(12), B: entry(3)}))
    with pytest.raises(Conflict):
        after(one, {C: entry(1)})
    assert composed(after(one, {C: entry(1), A: entry(2)})).manifest.bundles.keys() == {"a", "b", "c"}
    assert composed(after(one, {C: entry(1), A: None})).manifest.bundles.keys() == {"b", "c"}


def test_only_bundles_that_change_are_looked_into() -> None:
    one = composed(first({A: entry(1), B: entry(2)}))

    def never(_: Oid) -> frozenset[ObjectKey]:
        raise AssertionError

    assert composed(after(one, {A: None}, keys=never)).manifest.bundles.keys() == {"b"}
    assert composed(after(one, {A: entry(1, rollout="a-2")}, keys=never)).manifest.bundles["a"].rollout == "a-2"


ONE = composed(first({A: entry(1)}))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"parent": None}, id="manifest without parent"),
        pytest.param({"current": None}, id="parent without manifest"),
        pytest.param({"seq": 1}, id="seq that does not grow"),
        pytest.param({"cluster": ClusterName("us-1")}, id="another cluster's manifest"),
        pytest.param({"changes": {B: BundleEntry(subtree="", revision=REVISION)}}, id="subtree of an absent bundle"),
        pytest.param({"changes": {BundleName("../b"): entry(2)}}, id="bundle name that is a path"),
        pytest.param({"trailers": [("Wave", "canary\nBundle: forged")]}, id="forged trailer"),
        pytest.param({"changes": {B: entry(2, revision="a\nb")}}, id="forged revision"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Permanent):
        after(ONE, **{"changes": {B: entry(2)}, **wrong})


def test_the_first_move_in_each_ninety_days_is_a_checkpoint_that_names_what_it_cuts_off() -> None:
    one = composed(first({A: entry(1)}))
    made = composed(after(one, {A: entry(2)}, time_s=one.time_s + HISTORY_S))
    text = made.objects[-1][1].decode()
    assert "\nparent " not in text
    assert predecessor(text) == one.commit
    assert (made.seq, made.manifest.bundles) == (2, {"a": entry(2)})
    again = composed(after(made, {A: entry(3)}, time_s=made.time_s + 1)).objects[-1][1].decode()
    assert f"\nparent {made.commit}\n" in again
    assert predecessor(again) is None


def test_clusters_are_not_cut_on_one_day() -> None:
    days = set()
    for number in range(50):
        name = ClusterName(f"c-{number}")
        one = composed(first({A: entry(1)}, cluster=name))
        days.add(
            next(
                day
                for day in range(1, 91)
                if predecessor(
                    composed(after(one, {A: entry(2)}, cluster=name, time_s=one.time_s + day * 86_400))
                    .objects[-1][1]
                    .decode()
                )
            )
        )
    assert len(days) > 25
