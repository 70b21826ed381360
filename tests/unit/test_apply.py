"""One object is applied, or refused, and what a whole phase makes of it."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent.apply.apply import apply_object
from agent.apply.order import Traits
from agent.apply.parents import Parents
from agent.apply.plan import BundlePlan
from agent.apply.reconcile import PERMANENT_RETRY_S, Reconciler
from agent.drift.drift import baseline
from agent.inventory import Inventory
from agent.kube.cluster import NotFound
from agent.model import DesiredBundle, Entry, Result
from agent.tracing import Tracing
from proto.errors import Permanent, Refused, Transient
from proto.health import Verdict
from proto.ids import Oid
from proto.objects import ObjectKey, blob_id, canonical, key_of
from proto.slices import BundlePolicy, with_membership
from tests.fakes import FakeCluster


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    return made


def config(name: str = "settings", *, namespace: str = "shop", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def body(obj: dict[str, Any], bundle: str = "shop") -> bytes:
    return canonical(with_membership(obj, bundle))


def entry_of(obj: dict[str, Any], live: dict[str, Any] | None = None) -> Entry:
    known = baseline(live) if live else None
    return Entry(key=key_of(obj), bundle="shop", api_version=obj["apiVersion"], baseline=known)


def policy(adopt: str) -> BundlePolicy:
    return BundlePolicy(name="shop", adopt=adopt)  # type: ignore[arg-type]


async def test_an_object_is_created_configured_and_then_unchanged(cluster: FakeCluster) -> None:
    first, second = config(color="red"), config(color="blue")
    result, live = await apply_object(cluster, entry_of(first), body(first), policy=policy("ifUnowned"))
    assert result is Result.CREATED
    result, live = await apply_object(cluster, entry_of(second, live), body(second), policy=policy("ifUnowned"))
    assert (result, live["data"]) == (Result.CONFIGURED, {"color": "blue"})
    result, _ = await apply_object(cluster, entry_of(second, live), body(second), policy=policy("ifUnowned"))
    assert result is Result.UNCHANGED


@pytest.mark.parametrize(
    ("adopt", "theirs", "color"),
    [
        pytest.param("ifUnowned", "green", None, id="ifUnowned refuses other values"),
        pytest.param("ifUnowned", "red", "red", id="ifUnowned takes over equal values"),
        pytest.param("always", "green", "red", id="always takes over other values"),
        pytest.param("never", "green", None, id="never refuses other values"),
        pytest.param("never", "red", None, id="never refuses equal values"),
    ],
)
async def test_adoption_goes_by_the_policy(cluster: FakeCluster, adopt: str, theirs: str, color: str | None) -> None:
    cluster.put(config(color=theirs), manager="somebody")
    wanted = config(color="red")
    if color is None:
        with pytest.raises(Refused) as refused:
            await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
        assert str(refused.value).startswith("ConfigMap/shop/settings: exists already")
        assert refused.value.remedy
        assert cluster.objects[key_of(wanted)]["data"] == {"color": theirs}
        assert "labels" not in cluster.objects[key_of(wanted)]["metadata"]
    else:
        _, live = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
        assert live["data"] == {"color": color}


@pytest.mark.parametrize("adopt", ["ifUnowned", "never"])
async def test_what_is_ours_already_is_never_an_adoption(cluster: FakeCluster, adopt: str) -> None:
    wanted = config(color="red")
    await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
    cluster.put(config(color="green"))
    _, live = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
    assert live["data"] == {"color": "red"}


async def test_what_kubectl_once_set_and_git_does_not_say_goes_away(cluster: FakeCluster) -> None:
    cluster.put(config(color="red", old="yes"), manager="kubectl-client-side-apply")
    wanted = config(color="red")
    _, live = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy("ifUnowned"))
    assert live["data"] == {"color": "red"}


async def test_what_a_person_added_by_hand_stays_when_an_object_is_taken_over(cluster: FakeCluster) -> None:
    cluster.put(config(color="red", extra="yes"), manager="kubectl-edit")
    wanted = config(color="red")
    _, live = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy("ifUnowned"))
    assert live["data"] == {"color": "red", "extra": "yes"}


# --- a phase of many ------------------------------------------------------------------------------------------------


class Bench:
    """A reconciler with nothing around it, and one bundle of objects for it."""

    def __init__(self, cluster: FakeCluster, *objects: dict[str, Any], concurrency: int = 16) -> None:
        files = {blob_id(body(obj)): body(obj) for obj in objects}
        self.inventory = Inventory(None)
        self.stop = False
        self.reconciler = Reconciler(
            cluster,
            self.inventory,
            Parents(cluster),
            read=files.__getitem__,
            writing=_nobody_else,
            applied=self._applied,
            tracing=Tracing("eu-1", None),
            concurrency=concurrency,
            jitter=lambda: 0.0,
        )
        self.bundle = DesiredBundle(
            name="shop",
            subtree=Oid("s"),
            rollout="shop-1",
            revision="r",
            policy=BundlePolicy(name="shop"),
            objects={key_of(obj): blob_id(body(obj)) for obj in objects},
        )
        self.traits = {key_of(obj): Traits(api_version=obj["apiVersion"]) for obj in objects}
        self.verdicts: dict[ObjectKey, Verdict] = {}

    def _applied(self, entry: Entry, found: Verdict) -> None:
        self.verdicts[entry.key] = found

    async def run(self) -> None:
        await self.reconciler.run(
            BundlePlan(bundle="shop", apply=(tuple(self.bundle.objects),)),
            self.bundle,
            traits=self.traits,
            superseded=lambda: self.stop,
        )


@asynccontextmanager
async def _nobody_else(key: ObjectKey) -> AsyncIterator[None]:
    yield


async def test_one_refusal_stops_no_sibling_and_is_remembered_with_its_blob(cluster: FakeCluster) -> None:
    objects = [config(f"c{number}", n=str(number)) for number in range(20)]
    bad = key_of(objects[7])

    def refuse(method: str, key: ObjectKey) -> None:
        if key == bad:
            raise Permanent(str(key), "is forbidden", "grant it")

    cluster.before = refuse
    bench = Bench(cluster, *objects)
    await bench.run()
    assert {key.name for key in cluster.objects if key.kind == "ConfigMap"} == {f"c{n}" for n in range(20)} - {"c7"}
    failure = bench.reconciler.failures[bad]
    assert (failure.blob, failure.permanent) == (bench.bundle.objects[bad], True)
    assert "is forbidden" in failure.error
    assert failure.not_before - anyio.current_time() > PERMANENT_RETRY_S / 2
    assert bench.inventory.entries[bad].baseline is None


async def test_a_transient_error_waits_as_long_as_the_server_said(cluster: FakeCluster) -> None:
    def busy(method: str, key: ObjectKey) -> None:
        raise Transient(str(key), "too many requests", retry_after_s=17.0)

    cluster.before = busy
    bench = Bench(cluster, config())
    await bench.run()
    (failure,) = bench.reconciler.failures.values()
    assert not failure.permanent
    assert 15.0 < failure.not_before - anyio.current_time() <= 17.0


async def test_a_missing_namespace_is_tried_again_soon(cluster: FakeCluster) -> None:
    bench = Bench(cluster, config(namespace="elsewhere"))
    await bench.run()
    (failure,) = bench.reconciler.failures.values()
    assert not failure.permanent
    assert failure.not_before - anyio.current_time() < 5.0


async def test_a_kind_that_stays_unserved_becomes_a_failure(cluster: FakeCluster) -> None:
    def unserved(method: str, key: ObjectKey) -> None:
        raise NotFound("Widget", "is not served", "install its definition", what="kind")

    cluster.before = unserved
    bench = Bench(cluster, config())
    seen = []
    for _ in range(5):
        await bench.run()
        seen.append(next(iter(bench.reconciler.failures.values())).permanent)
    assert seen == [False, False, False, True, True]


async def test_success_forgets_the_failure_and_gives_the_health(cluster: FakeCluster) -> None:
    bench = Bench(cluster, config())
    cluster.before = _raise(Transient("x", "is away"))
    await bench.run()
    assert bench.reconciler.failures
    cluster.before = lambda method, key: None
    await bench.run()
    assert not bench.reconciler.failures
    assert bench.verdicts[key_of(config())][0] == "Current"


def _raise(error: Exception) -> Any:
    def raising(method: str, key: ObjectKey) -> None:
        raise error

    return raising


async def test_when_superseded_no_further_object_is_begun(cluster: FakeCluster) -> None:
    bench = Bench(cluster, *(config(f"c{number}") for number in range(50)), concurrency=4)

    def after(method: str, key: ObjectKey) -> None:
        if cluster.count("apply") >= 10:
            bench.stop = True

    cluster.after = after
    await bench.run()
    assert 10 <= cluster.count("apply") <= 10 + 4
    assert sum(1 for entry in bench.inventory.entries.values() if entry.baseline) == cluster.count("apply")


async def test_never_more_requests_at_once_than_allowed(cluster: FakeCluster) -> None:
    now, most = 0, 0
    original = cluster.apply

    async def apply(*arguments: Any, **keywords: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.lowlevel.checkpoint()
        try:
            return await original(*arguments, **keywords)
        finally:
            now -= 1

    cluster.apply = apply  # type: ignore[method-assign]
    await Bench(cluster, *(config(f"c{number}") for number in range(60)), concurrency=5).run()
    assert most == 5


async def test_every_object_is_in_the_inventory_before_it_is_in_the_cluster(cluster: FakeCluster) -> None:
    bench = Bench(cluster, *(config(f"c{number}") for number in range(5)))

    def before(method: str, key: ObjectKey) -> None:
        assert key in bench.inventory.entries

    cluster.before = before
    await bench.run()
    assert all(math.isfinite(entry.baseline.generation) for entry in bench.inventory.entries.values() if entry.baseline)
