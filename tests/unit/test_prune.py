"""What becomes of one object that Git no longer has."""

from typing import Any

import pytest

from agent.apply.prune import OPT_OUTS, Fate, prune_object
from agent.kube import races
from agent.model import Entry
from proto.errors import Transient
from proto.objects import ObjectKey, canonical, key_of
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL, with_membership
from tests.fakes import FakeCluster

OBJECT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "old", "namespace": "shop"},
    "data": {"color": "red"},
}
KEY = key_of(OBJECT)
ENTRY = Entry(key=KEY, bundle="shop", api_version="v1")


@pytest.fixture
async def cluster() -> FakeCluster:
    made = FakeCluster()
    made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    await made.apply(
        await made.resource("v1", "ConfigMap"), KEY, canonical(with_membership(OBJECT, "shop")), force=True
    )
    made.requests.clear()
    return made


def theirs(**metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old", "namespace": "shop", **metadata}}


async def test_an_object_of_ours_is_deleted_and_then_gone(cluster: FakeCluster) -> None:
    assert await prune_object(cluster, ENTRY, release=False) == (Fate.DELETING, "")
    assert KEY not in cluster.objects
    assert await prune_object(cluster, ENTRY, release=False) == (Fate.GONE, "")


async def test_an_object_of_a_kind_that_is_gone_is_gone(cluster: FakeCluster) -> None:
    cluster.remove(KEY)
    entry = Entry(key=KEY, bundle="shop", api_version="v1")
    assert (await prune_object(cluster, entry, release=True))[0] is Fate.GONE


@pytest.mark.parametrize("release", [pytest.param(False, id="deleted"), pytest.param(True, id="let go")])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(
            theirs(labels={PART_OF_LABEL: "applyset-other-v1"}), "no longer carries the labels", id="another part-of"
        ),
        pytest.param(theirs(labels={BUNDLE_LABEL: "base"}), "no longer carries the labels", id="another bundle"),
        pytest.param(
            theirs(ownerReferences=[{"kind": "ReplicaSet", "name": "web", "controller": True}]),
            "belongs to ReplicaSet/web",
            id="a controller's",
        ),
    ],
)
async def test_what_is_not_ours_any_more_is_left_alone(
    cluster: FakeCluster, change: dict[str, Any], why: str, release: bool
) -> None:
    cluster.put(change)
    fate, message = await prune_object(cluster, ENTRY, release=release)
    assert fate is Fate.FOREIGN
    assert message.startswith("ConfigMap/shop/old: is left alone")
    assert why in message
    assert cluster.count("delete", "patch") == 0


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("writes", [races.TRIES - 1, 1000])
async def test_an_object_that_others_write_is_pruned_once_it_rests(
    cluster: FakeCluster, release: bool, writes: int
) -> None:
    left = iter(range(writes))

    def write(method: str, key: ObjectKey) -> None:
        if method in ("delete", "patch") and (number := next(left, None)) is not None:
            cluster.put(theirs(annotations={"written": str(number)}))

    cluster.before = write
    if writes == 1000:
        with pytest.raises(Transient, match="ConfigMap/shop/old: changes faster than it can be pruned"):
            await prune_object(cluster, ENTRY, release=release)
    else:
        fate, _ = await prune_object(cluster, ENTRY, release=release)
        assert fate is (Fate.RELEASED if release else Fate.DELETING)


async def test_an_object_without_our_apply_entry_is_left_alone(cluster: FakeCluster) -> None:
    cluster.objects[KEY]["metadata"]["managedFields"] = []
    assert (await prune_object(cluster, ENTRY, release=False))[0] is Fate.FOREIGN


async def test_an_owner_that_is_no_controller_does_not_protect(cluster: FakeCluster) -> None:
    cluster.put(theirs(ownerReferences=[{"kind": "ConfigMap", "name": "web"}]))
    assert (await prune_object(cluster, ENTRY, release=False))[0] is Fate.DELETING


@pytest.mark.parametrize(("name", "value"), OPT_OUTS.items())
async def test_an_object_that_opts_out_is_let_go(cluster: FakeCluster, name: str, value: str) -> None:
    cluster.put(theirs(annotations={name: value}))
    assert (await prune_object(cluster, ENTRY, release=False))[0] is Fate.RELEASED
    assert KEY in cluster.objects


async def test_letting_go_changes_nothing_but_our_labels_and_entry(cluster: FakeCluster) -> None:
    cluster.put(theirs(labels={"theirs": "yes"}))
    assert (await prune_object(cluster, ENTRY, release=True))[0] is Fate.RELEASED
    live = cluster.objects[KEY]
    assert live["metadata"]["labels"] == {"theirs": "yes"}
    assert live["data"] == {"color": "red"}
    assert [entry["manager"] for entry in live["metadata"]["managedFields"]] == ["kubectl-edit"]


async def test_a_change_in_between_is_looked_at_before_anything_is_deleted(cluster: FakeCluster) -> None:
    def relabel(method: str, key: ObjectKey) -> None:
        if method == "delete":
            cluster.put(theirs(labels={PART_OF_LABEL: "applyset-other-v1"}))

    cluster.before = relabel
    assert (await prune_object(cluster, ENTRY, release=False))[0] is Fate.FOREIGN
    assert KEY in cluster.objects


async def test_an_object_that_changes_all_the_time_is_tried_again_later(cluster: FakeCluster) -> None:
    changes = iter(range(100))

    def change(method: str, key: ObjectKey) -> None:
        if method == "delete":
            cluster.put({**theirs(), "data": {"n": str(next(changes))}})

    cluster.before = change
    with pytest.raises(Transient):
        await prune_object(cluster, ENTRY, release=False)
    assert KEY in cluster.objects


async def test_finalizers_are_named_and_not_waited_for(cluster: FakeCluster) -> None:
    cluster.put(theirs(finalizers=["example.org/keep"]))
    assert (await prune_object(cluster, ENTRY, release=False))[0] is Fate.DELETING
    fate, why = await prune_object(cluster, ENTRY, release=False)
    assert fate is Fate.DELETING
    assert "waits for finalizers example.org/keep" in why
    assert cluster.count("delete") == 1
    cluster.finish(KEY)
    assert (await prune_object(cluster, ENTRY, release=False))[0] is Fate.GONE
