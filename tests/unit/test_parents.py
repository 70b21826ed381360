"""ApplySet parents: their definition, what they say, and how little is written."""

import itertools

import orjson
import pytest

from agent.apply.parents import DEFINITION, Parents, body, read
from agent.apply.plan import Membership, parent_key
from agent.model import Resource, WatchEvent
from proto.errors import Permanent
from proto.objects import key_of
from proto.slices import applyset_id
from tests.fakes import FakeCluster

BOTH = Membership(kinds=frozenset({"Deployment.apps", "ConfigMap"}), namespaces=frozenset({"b", "a"}))
RESOURCE = Resource(
    group="flotilla.dev", version="v1alpha1", kind="AppliedBundle", plural="appliedbundles", namespaced=False
)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


async def installed(cluster: FakeCluster, *, name: str = "") -> Parents:
    parents = Parents(cluster, cluster=name)
    await parents.install(lambda: itertools.repeat(0.0))
    return parents


def test_the_manifest_is_what_kubectl_expects_of_a_parent() -> None:
    metadata = orjson.loads(body("shop", BOTH))["metadata"]
    assert metadata["labels"] == {"applyset.kubernetes.io/id": applyset_id("shop")}
    assert metadata["annotations"] == {
        "applyset.kubernetes.io/tooling": "flotilla/v1",
        "applyset.kubernetes.io/contains-group-kinds": "ConfigMap,Deployment.apps",
        "applyset.kubernetes.io/additional-namespaces": "a,b",
        "flotilla.dev/prune": "enabled",
    }


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("kinds", [BOTH, Membership(kinds=frozenset({"Namespace"}))])
def test_what_was_written_is_read_back(kinds: Membership, prune: bool) -> None:
    members = Membership(kinds=kinds.kinds, namespaces=kinds.namespaces, prune=prune)
    assert read(orjson.loads(body("shop", members))) == members


def test_a_parent_of_another_tool_is_not_read() -> None:
    obj = orjson.loads(body("shop", BOTH))
    obj["metadata"]["annotations"]["applyset.kubernetes.io/tooling"] = "kubectl/v1"
    assert read(obj) is None


async def test_the_definition_is_installed_once_and_then_only_looked_at(cluster: FakeCluster) -> None:
    await installed(cluster)
    live = cluster.objects[key_of(DEFINITION)]
    assert live["metadata"]["labels"] == {"applyset.kubernetes.io/is-parent-type": "true"}
    cluster.requests.clear()
    await installed(cluster)
    assert [method for method, _ in cluster.requests] == ["get"]


async def test_a_definition_of_another_build_is_brought_up_to_ours(cluster: FakeCluster) -> None:
    await installed(cluster)
    cluster.put(
        {
            **DEFINITION,
            "metadata": {"name": "appliedbundles.flotilla.dev", "annotations": {"flotilla.dev/definition": "old"}},
        }
    )
    cluster.requests.clear()
    await installed(cluster)
    assert cluster.count("apply") == 1


async def test_a_definition_that_is_never_established_is_an_error(cluster: FakeCluster) -> None:
    cluster.settles = False
    with pytest.raises(Permanent, match="is not Established"):
        await installed(cluster)


async def test_a_parent_is_written_known_and_deleted(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    assert parents.named == {"shop": BOTH}
    assert parent_key("shop") in cluster.objects
    await parents.write("shop", None)
    assert parents.named == {}
    assert parent_key("shop") not in cluster.objects
    await parents.write("shop", None)


async def test_the_late_event_of_an_older_write_changes_nothing(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", Membership(kinds=frozenset({"Secret"})))
    late = WatchEvent(kind="ADDED", resource=RESOURCE, object=dict(cluster.objects[parent_key("shop")]))
    await parents.write("shop", BOTH)
    parents.seen(late)
    assert parents.named == {"shop": BOTH}


async def test_a_parent_that_somebody_deleted_is_not_known_any_more(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    live = cluster.objects[parent_key("shop")]
    parents.seen(WatchEvent(kind="DELETED", resource=RESOURCE, object=live))
    assert parents.named == {}


async def test_a_watch_that_begins_anew_forgets_only_what_it_does_not_show(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    await parents.write("gone", BOTH)
    parents.seen(WatchEvent(kind="RESTARTED", resource=RESOURCE))
    assert set(parents.named) == {"shop", "gone"}
    parents.seen(WatchEvent(kind="ADDED", resource=RESOURCE, object=cluster.objects[parent_key("shop")]))
    parents.seen(WatchEvent(kind="SYNCED", resource=RESOURCE))
    assert set(parents.named) == {"shop"}


async def test_a_parent_says_whose_agent_wrote_it_and_another_agents_is_no_parent_of_ours(cluster: FakeCluster) -> None:
    ours = await installed(cluster, name="eu-1")
    await ours.write("shop", BOTH)
    live = cluster.objects[parent_key("shop")]
    assert live["metadata"]["annotations"]["flotilla.dev/cluster"] == "eu-1"
    others = Parents(cluster, cluster="us-9")
    assert others.seen(WatchEvent(kind="ADDED", resource=RESOURCE, object=live))
    assert (others.named, others.asked, others.live) == ({}, {}, {})
    assert others.foreign == {"shop": "eu-1"}
    cluster.unset(parent_key("shop"), ("metadata", "annotations", "flotilla.dev/cluster"))
    others.seen(WatchEvent(kind="MODIFIED", resource=RESOURCE, object=cluster.objects[parent_key("shop")]))
    assert (others.foreign, others.named) == ({}, {"shop": BOTH})


async def test_annotations_and_status_of_a_parent_are_known(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    live = cluster.put(
        {
            "apiVersion": "flotilla.dev/v1alpha1",
            "kind": "AppliedBundle",
            "metadata": {"name": "shop", "annotations": {"flotilla.dev/suspend": "true", "flotilla.dev/sync": "7"}},
        }
    )
    event = WatchEvent(kind="MODIFIED", resource=RESOURCE, object={**live, "status": {"lastSync": "7"}})
    assert parents.seen(event)
    assert parents.asked["shop"].sync == "7"
    assert parents.asked["shop"].suspended
    assert parents.live["shop"].status == {"lastSync": "7"}
    assert parents.live["shop"].uid == live["metadata"]["uid"]
    assert parents.named == {"shop": BOTH}


async def test_the_event_of_our_own_write_is_no_news(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    own = WatchEvent(kind="ADDED", resource=RESOURCE, object=dict(cluster.objects[parent_key("shop")]))
    assert not parents.seen(own)


async def test_after_a_restored_etcd_lower_versions_count_again(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    old = dict(cluster.objects[parent_key("shop")])
    await parents.write("shop", Membership(kinds=frozenset({"Secret"})))
    parents.seen(WatchEvent(kind="RESTARTED", resource=RESOURCE))
    assert parents.seen(WatchEvent(kind="ADDED", resource=RESOURCE, object=old))
    assert parents.named == {"shop": BOTH}


async def test_a_hand_edited_parent_is_one_that_nobody_wants_and_that_deletes_nothing(cluster: FakeCluster) -> None:
    parents = await installed(cluster)
    await parents.write("shop", BOTH)
    cluster.put(
        {
            "apiVersion": "flotilla.dev/v1alpha1",
            "kind": "AppliedBundle",
            "metadata": {"name": "shop", "annotations": {"applyset.kubernetes.io/tooling": "x/v1"}},
        }
    )
    parents.seen(WatchEvent(kind="MODIFIED", resource=RESOURCE, object=cluster.objects[parent_key("shop")]))
    assert parents.named == {"shop": Membership(prune=False)}
