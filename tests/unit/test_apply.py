"""One object is applied, or refused, and what a whole phase makes of it."""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

import anyio
import orjson
import pytest

from agent.apply.apply import Applied, apply_object
from agent.apply.order import Traits
from agent.apply.parents import Parents
from agent.apply.plan import BundlePlan, Membership
from agent.apply.reconcile import DELETING_LOOK_S, PERMANENT_RETRY_S, Reconciler
from agent.drift.drift import baseline
from agent.inventory import Inventory
from agent.kube import races
from agent.kube.api_status import Invalid, NotFound
from agent.kube.pace import Pace
from agent.model import DesiredBundle, Entry, Result
from agent.tracing import Tracing
from proto.errors import Permanent, Refused, Transient
from proto.ids import Oid
from proto.objects import ObjectKey, blob_id, canonical, key_of
from proto.slices import BundlePolicy, DriftPolicy, IgnoreRule, with_membership
from tests.fakes import FakeCluster, Killed


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


POLICY = BundlePolicy(name="shop")


def policy(adopt: str) -> BundlePolicy:
    return BundlePolicy(name="shop", adopt=adopt)  # type: ignore[arg-type]


async def test_an_object_is_created_configured_and_then_unchanged(cluster: FakeCluster) -> None:
    first, second = config(color="red"), config(color="blue")
    done = await apply_object(cluster, entry_of(first), body(first), policy=POLICY)
    assert done.result is Result.CREATED
    done = await apply_object(cluster, entry_of(second, done.live), body(second), policy=POLICY)
    assert (done.result, done.live["data"]) == (Result.CONFIGURED, {"color": "blue"})
    done = await apply_object(cluster, entry_of(second, done.live), body(second), policy=POLICY)
    assert done.result is Result.UNCHANGED
    assert cluster.count("get") == 0


# --- adoption ---------------------------------------------------------------------------------------------------------

HELM = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"},
}


@pytest.mark.parametrize(
    ("adopt", "metadata", "adopted"),
    [
        pytest.param("ifUnowned", {}, True, id="ifUnowned takes what only has managers"),
        pytest.param("ifUnowned", HELM, False, id="ifUnowned leaves what has an owner"),
        pytest.param("always", HELM, True, id="always takes what has an owner"),
        pytest.param("never", {}, False, id="never leaves what only has managers"),
    ],
)
@pytest.mark.parametrize("theirs", [pytest.param("green", id="other values"), pytest.param("red", id="equal values")])
async def test_adoption_goes_by_the_policy(
    cluster: FakeCluster, adopt: str, metadata: dict[str, Any], adopted: bool, theirs: str
) -> None:
    before = config(color=theirs)
    before["metadata"] |= metadata
    before = deepcopy(cluster.put(before, manager="somebody"))
    wanted = config(color="red")
    if adopted:
        done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
        assert (done.result, done.note) == (Result.ADOPTED, "adopted from somebody")
        assert done.live["data"] == {"color": "red"}
        return
    with pytest.raises(Refused, match="ConfigMap/shop/settings: exists already") as refused:
        await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
    assert refused.value.remedy
    assert ("belongs to Helm release shop/web" in str(refused.value)) is bool(metadata)
    assert cluster.objects[key_of(wanted)] == before


@pytest.mark.parametrize("adopt", ["ifUnowned", "never"])
async def test_what_is_ours_already_is_never_an_adoption(cluster: FakeCluster, adopt: str) -> None:
    wanted = config(color="red")
    await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
    cluster.put(config(color="green"))
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
    assert (done.result, done.live["data"]) == (Result.CONFIGURED, {"color": "red"})
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt))
    assert done.result is Result.UNCHANGED


@pytest.mark.parametrize("adopt", ["ifUnowned", "always"])
async def test_what_another_installation_of_ours_applies_has_an_owner(cluster: FakeCluster, adopt: str) -> None:
    theirs, wanted = config(color="green"), config(color="red")
    await apply_object(cluster, entry_of(theirs), body(theirs, "base"), policy=POLICY)

    def installation(bundle: str) -> str:
        return "us-2" if bundle == "base" else ""

    trying = apply_object(cluster, entry_of(wanted), body(wanted), policy=policy(adopt), installation=installation)
    if adopt == "always":
        assert (await trying).live["data"] == {"color": "red"}
        return
    with pytest.raises(Refused, match="belongs to bundle base of the agent of cluster us-2"):
        await trying
    assert cluster.objects[key_of(wanted)]["data"] == {"color": "green"}


@pytest.mark.parametrize("operation", ["Update", "Apply"])
async def test_what_kubectl_once_set_and_git_does_not_say_goes_away(cluster: FakeCluster, operation: str) -> None:
    cluster.put(config(color="red", old="yes"), manager="kubectl", operation=operation)
    wanted = config(color="red")
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
    assert done.live["data"] == {"color": "red"}


async def test_what_a_person_added_by_hand_stays_when_an_object_is_taken_over(cluster: FakeCluster) -> None:
    cluster.put(config(color="red", extra="yes"), manager="kubectl-edit")
    wanted = config(color="red")
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
    assert done.live["data"] == {"color": "red", "extra": "yes"}


async def test_killed_after_any_request_an_adoption_ends_the_same(cluster: FakeCluster) -> None:
    wanted = config(color="red")
    for killed_after in range(1, 8):
        cluster.objects.pop(key_of(wanted), None)
        cluster.put(config(color="green", old="yes"), manager="kubectl-client-side-apply")
        cluster.before = _kill_after(killed_after)
        with suppress(Killed):
            await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
        cluster.before = lambda method, key: None
        done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
        assert done.live["data"] == {"color": "red"}
        assert {entry["manager"] for entry in done.live["metadata"]["managedFields"]} == {"flotilla"}


async def test_an_adoption_that_the_server_refuses_changes_nothing(cluster: FakeCluster) -> None:
    before = deepcopy(cluster.put(config(color="green", old="yes"), manager="kubectl-client-side-apply"))
    cluster.before = _refuse("dry-run", Invalid("x", "is not valid", fields=("data",)))
    wanted = config(color="red")
    with pytest.raises(Invalid):
        await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
    assert cluster.objects[key_of(wanted)] == before


async def test_an_object_that_is_being_deleted_is_not_taken_for_applied(cluster: FakeCluster) -> None:
    wanted = config(color="red")
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=POLICY)
    cluster.put({**config(), "metadata": {**config()["metadata"], "finalizers": ["example.org/keep"]}})
    cluster.remove(key_of(wanted))
    for entry in (entry_of(wanted), entry_of(wanted, done.live)):
        with pytest.raises(Transient, match=r"finalizers example\.org/keep; it is made anew once it is gone"):
            await apply_object(cluster, entry, body(wanted), policy=POLICY)
    cluster.finish(key_of(wanted))
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)
    assert done.result is Result.CREATED


# --- ignored paths ----------------------------------------------------------------------------------------------------

SCALED = BundlePolicy(
    name="shop", drift=DriftPolicy(ignore=(IgnoreRule(kind="Deployment", paths=("/spec/replicas",)),))
)


def deployment(image: str = "web:1", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", **metadata},
        "spec": {"replicas": 3, "image": image},
    }


async def test_a_scaled_object_stays_scaled_when_git_changes_something_else(cluster: FakeCluster) -> None:
    wanted = deployment()
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=SCALED)
    assert done.live["spec"]["replicas"] == 3
    cluster.put({**deployment(), "spec": {"replicas": 8}}, manager="kube-controller-manager")
    wanted = deployment("web:2")
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=SCALED)
    assert done.live["spec"] == {"replicas": 8, "image": "web:2"}


async def test_a_write_in_between_is_looked_at_before_an_ignored_value_is_taken_over(cluster: FakeCluster) -> None:
    wanted = deployment()
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=SCALED)
    scales = iter([8])

    def scale(method: str, key: ObjectKey) -> None:
        if method == "apply" and (replicas := next(scales, None)):
            cluster.put({**deployment(), "spec": {"replicas": replicas}}, manager="kube-controller-manager")

    cluster.before = scale
    wanted = deployment("web:2")
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=SCALED)
    assert done.live["spec"] == {"replicas": 8, "image": "web:2"}


def _busy(cluster: FakeCluster, writes: int, method: str) -> None:
    """A controller writes the object ahead of each of so many requests of this kind."""
    left = iter(range(writes))

    def write(requested: str, key: ObjectKey) -> None:
        if requested == method and (number := next(left, None)) is not None:
            revision = {"deployment.kubernetes.io/revision": str(number)}
            metadata = {"name": key.name, "namespace": key.namespace, "annotations": revision}
            theirs = {"apiVersion": "apps/v1", "kind": key.kind, "metadata": metadata}
            cluster.put(theirs, manager="kube-controller-manager")

    cluster.before = write


async def test_a_controller_that_writes_again_and_again_only_delays_an_apply(cluster: FakeCluster) -> None:
    wanted = deployment()
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=SCALED)
    _busy(cluster, races.TRIES - 1, "apply")
    wanted = deployment("web:2")
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=SCALED)
    assert done.live["spec"] == {"replicas": 3, "image": "web:2"}


async def test_an_object_that_never_rests_is_left_for_the_next_try(cluster: FakeCluster) -> None:
    wanted = deployment()
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=SCALED)
    _busy(cluster, 1000, "apply")
    wanted = deployment("web:2")
    with pytest.raises(Transient, match="Deployment/shop/web: changes faster than it can be applied"):
        await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=SCALED)
    assert cluster.objects[key_of(wanted)]["spec"]["image"] == "web:1"


@pytest.mark.parametrize("writes", [races.TRIES - 1, 1000])
async def test_an_adoption_is_whole_or_left_for_the_next_try_while_others_write(
    cluster: FakeCluster, writes: int
) -> None:
    cluster.put(deployment(labels={"old": "yes"}), manager="kubectl-client-side-apply")
    _busy(cluster, writes, "patch")
    adopting = apply_object(cluster, entry_of(deployment()), body(deployment()), policy=POLICY)
    if writes == 1000:
        with pytest.raises(Transient, match="changes faster than it can be adopted"):
            await adopting
        return
    assert "old" not in (await adopting).live["metadata"]["labels"]


async def test_an_object_that_was_deleted_is_made_as_git_has_it_ignored_or_not(cluster: FakeCluster) -> None:
    wanted = deployment()
    done = await apply_object(cluster, entry_of(wanted), body(wanted), policy=SCALED)
    cluster.remove(key_of(wanted))
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=SCALED)
    assert (done.result, done.live["spec"]["replicas"]) == (Result.CREATED, 3)


# --- immutable fields -------------------------------------------------------------------------------------------------

IMMUTABLE = Invalid("Deployment/shop/web", "spec.image: field is immutable", fields=("spec.image",), immutable=True)
ANEW = {"flotilla.dev/recreate": "true"}


def _immutable(cluster: FakeCluster, error: Exception = IMMUTABLE, *, also_new: bool = False) -> None:
    """Images cannot be changed; with `also_new`, objects with this one cannot be made, either."""
    request = cluster.apply

    async def apply(resource: Any, key: ObjectKey, data: bytes, **options: Any) -> Any:
        live, wanted = cluster.objects.get(key), orjson.loads(data)
        only_new = "resourceVersion" in wanted["metadata"]
        if also_new if live is None else live["spec"]["image"] != wanted["spec"]["image"] and not only_new:
            raise error
        return await request(resource, key, data, **options)

    cluster.apply = apply  # type: ignore[assignment, method-assign]


async def _changed(cluster: FakeCluster, annotations: Mapping[str, str]) -> Applied:
    done = await apply_object(cluster, entry_of(deployment()), body(deployment()), policy=POLICY)
    wanted = deployment("web:2", annotations=annotations)
    return await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)


async def test_what_cannot_be_changed_is_refused_with_the_remedy(cluster: FakeCluster) -> None:
    _immutable(cluster)
    with pytest.raises(Invalid, match=r"field is immutable .*flotilla.dev/recreate") as refused:
        await _changed(cluster, {})
    assert refused.value.remedy
    assert cluster.count("delete") == 0


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param(ANEW, id="ours"),
        pytest.param({"kustomize.toolkit.fluxcd.io/force": "enabled"}, id="Flux"),
        pytest.param({"argocd.argoproj.io/sync-options": "Prune=false, Replace=true"}, id="Argo CD, replace"),
        pytest.param({"argocd.argoproj.io/sync-options": "Force=true"}, id="Argo CD, force"),
    ],
)
async def test_what_may_be_recreated_is_deleted_and_created_anew(
    cluster: FakeCluster, annotations: dict[str, str]
) -> None:
    _immutable(cluster)
    done = await _changed(cluster, annotations)
    assert (done.result, done.live["spec"]["image"]) == (Result.RECREATED, "web:2")
    assert cluster.count("delete") == 1


@pytest.mark.parametrize(
    ("error", "also_new"),
    [
        pytest.param(IMMUTABLE, True, id="a new one would be refused, too"),
        pytest.param(Invalid("x", "denied the request"), False, id="admission denies the update"),
        pytest.param(Refused("x", "forbidden"), False, id="forbidden"),
    ],
)
async def test_the_old_object_stays_when_it_cannot_be_replaced(
    cluster: FakeCluster, error: Exception, also_new: bool
) -> None:
    done = await apply_object(cluster, entry_of(deployment()), body(deployment()), policy=POLICY)
    _immutable(cluster, error, also_new=also_new)
    wanted = deployment("web:2", annotations=ANEW)
    with pytest.raises(type(error)):
        await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)
    assert cluster.objects[key_of(wanted)]["spec"]["image"] == "web:1"
    assert cluster.count("delete") == 0


async def test_killed_between_deleting_and_creating_it_is_created(cluster: FakeCluster) -> None:
    _immutable(cluster)
    done = await apply_object(cluster, entry_of(deployment()), body(deployment()), policy=POLICY)
    cluster.after = _kill("delete")
    wanted = deployment("web:2", annotations=ANEW)
    with pytest.raises(Killed):
        await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)
    cluster.after = lambda method, key: None
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)
    assert (done.result, done.live["spec"]["image"]) == (Result.CREATED, "web:2")


async def test_a_finalizer_holds_a_recreation_up_and_is_named(cluster: FakeCluster) -> None:
    _immutable(cluster)
    done = await apply_object(cluster, entry_of(deployment()), body(deployment()), policy=POLICY)
    cluster.put(deployment(finalizers=["example.org/keep"]))
    wanted = deployment("web:2", annotations=ANEW)
    for _ in range(2):
        with pytest.raises(Transient, match=r"example\.org/keep"):
            await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)
    assert cluster.count("delete") == 1
    cluster.finish(key_of(wanted))
    done = await apply_object(cluster, entry_of(wanted, done.live), body(wanted), policy=POLICY)
    assert done.live["spec"]["image"] == "web:2"


async def test_what_takes_data_with_it_needs_destructive_prune_to_be_recreated(cluster: FakeCluster) -> None:
    def claim(size: str) -> dict[str, Any]:
        metadata = {"name": "data", "namespace": "shop", "annotations": ANEW}
        return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {"image": size}}

    done = await apply_object(cluster, entry_of(claim("1")), body(claim("1")), policy=POLICY)
    _immutable(cluster)
    with pytest.raises(Invalid, match="set destructivePrune on bundle shop"):
        await apply_object(cluster, entry_of(claim("2"), done.live), body(claim("2")), policy=POLICY)
    assert cluster.count("delete") == 0
    destructive = BundlePolicy(name="shop", destructive_prune=True)
    done = await apply_object(cluster, entry_of(claim("2"), done.live), body(claim("2")), policy=destructive)
    assert done.result is Result.RECREATED


# --- hooks ------------------------------------------------------------------------------------------------------------


def hook(image: str, **annotations: str) -> dict[str, Any]:
    metadata = {
        "name": "migrate",
        "namespace": "shop",
        "annotations": {"helm.sh/hook": "pre-upgrade", **{f"helm.sh/{n}": v for n, v in annotations.items()}},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"image": image}}


async def _applied_hook(cluster: FakeCluster, wanted: dict[str, Any]) -> Entry:
    entry = entry_of(wanted)
    entry.baseline = baseline((await apply_object(cluster, entry, body(wanted), policy=POLICY)).live)
    entry.blob = blob_id(body(wanted))
    return entry


async def test_a_hook_with_new_content_runs_again(cluster: FakeCluster) -> None:
    entry = await _applied_hook(cluster, hook("v1"))
    uid = cluster.objects[entry.key]["metadata"]["uid"]
    done = await apply_object(cluster, entry, body(hook("v2")), policy=POLICY)
    assert done.result is Result.RECREATED
    assert done.live["metadata"]["uid"] != uid


async def test_a_hook_with_the_same_content_does_not_run_again(cluster: FakeCluster) -> None:
    entry = await _applied_hook(cluster, hook("v1"))
    assert (await apply_object(cluster, entry, body(hook("v1")), policy=POLICY)).result is Result.UNCHANGED


async def test_a_hook_that_was_made_anew_before_a_kill_does_not_run_twice(cluster: FakeCluster) -> None:
    entry = await _applied_hook(cluster, hook("v1"))
    await apply_object(cluster, entry, body(hook("v2")), policy=POLICY)
    uid = cluster.objects[entry.key]["metadata"]["uid"]
    done = await apply_object(cluster, entry, body(hook("v2")), policy=POLICY)
    assert done.live["metadata"]["uid"] == uid


@pytest.mark.parametrize("policy", ["hook-succeeded", "hook-failed", "before-hook-creation,hook-succeeded"])
async def test_a_hook_runs_again_whatever_its_deletion_policy(cluster: FakeCluster, policy: str) -> None:
    entry = await _applied_hook(cluster, hook("v1", **{"hook-delete-policy": policy}))
    done = await apply_object(cluster, entry, body(hook("v2", **{"hook-delete-policy": policy})), policy=POLICY)
    assert done.result is Result.RECREATED


@pytest.mark.parametrize(
    ("api_version", "kind"), [("v1", "Namespace"), ("v1", "PersistentVolumeClaim"), ("v1", "ConfigMap")]
)
async def test_what_a_hook_makes_and_does_not_run_is_never_deleted_for_new_content(
    cluster: FakeCluster, api_version: str, kind: str
) -> None:
    def wanted(image: str) -> dict[str, Any]:
        made = {**hook(image), "apiVersion": api_version, "kind": kind}
        if kind == "Namespace":
            del made["metadata"]["namespace"]
        return made

    entry = await _applied_hook(cluster, wanted("v1"))
    assert (await apply_object(cluster, entry, body(wanted("v2")), policy=POLICY)).result is Result.CONFIGURED
    assert not cluster.count("delete")


# --- a phase of many ------------------------------------------------------------------------------------------------


class Bench:
    """A reconciler with nothing around it, and one bundle of objects for it."""

    def __init__(
        self,
        cluster: FakeCluster,
        *objects: dict[str, Any],
        pace: Pace | None = None,
        inventory: Inventory | None = None,
    ) -> None:
        self.noted: list[tuple[ObjectKey, Result, str]] = []
        files = {blob_id(body(obj)): body(obj) for obj in objects}
        self.inventory = inventory or Inventory(None)
        self.stop = False
        self.reconciler = Reconciler(
            cluster,
            self.inventory,
            Parents(cluster),
            read=files.__getitem__,
            writing=_nobody_else,
            applied=self._applied,
            tracing=Tracing("eu-1", None),
            noted=lambda entry, result, message: self.noted.append((entry.key, result, message)),
            pace=pace,
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
        self.answers: dict[ObjectKey, Mapping[str, Any]] = {}

    def _applied(self, entry: Entry, live: Mapping[str, Any]) -> None:
        self.answers[entry.key] = live

    async def run(self, plan: BundlePlan | None = None, *, left: bool = False) -> None:
        """`left`: the bundle is no longer in the slice."""
        await self.reconciler.run(
            plan or BundlePlan(bundle="shop", apply=(tuple(self.bundle.objects),)),
            None if left else self.bundle,
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


async def test_an_object_that_is_being_deleted_is_looked_at_every_few_seconds(cluster: FakeCluster) -> None:
    bench = Bench(cluster, config())
    cluster.put({**config(), "metadata": {**config()["metadata"], "finalizers": ["example.org/keep"]}})
    cluster.remove(key_of(config()))
    for _ in range(8):
        await bench.run()
    (failure,) = bench.reconciler.failures.values()
    assert "example.org/keep" in failure.error
    assert not failure.permanent
    assert failure.not_before - anyio.current_time() <= DELETING_LOOK_S


async def test_what_became_of_each_object_is_noted_unless_nothing_did(cluster: FakeCluster) -> None:
    cluster.put(config("taken", color="green"), manager="kubectl-create")
    cluster.before = lambda method, key: _forbid(key, "bad")
    objects = [config("new"), config("taken", color="red"), config("bad")]
    bench = Bench(cluster, *objects)
    await bench.run()
    noted = {key.name: (result, message) for key, result, message in bench.noted}
    assert noted["new"] == (Result.CREATED, "")
    assert noted["taken"] == (Result.ADOPTED, "adopted from kubectl-create")
    assert noted["bad"][0] is Result.FAILED
    assert "may not" in noted["bad"][1]
    bench.noted.clear()
    await bench.run()
    assert [key.name for key, _, _ in bench.noted] == ["bad"]


def _forbid(key: ObjectKey, name: str) -> None:
    if key.name == name:
        raise Refused(str(key), "may not be written")


async def test_a_finished_hook_is_deleted_and_stays_in_the_inventory_until_it_has_other_content(
    cluster: FakeCluster,
) -> None:
    bench = Bench(cluster, hook("v1"))
    await bench.run()
    key = key_of(hook("v1"))
    entry = bench.inventory.entries[key]
    entry.finished = True
    await bench.run(BundlePlan(bundle="shop", finish=(key,)))
    assert key not in cluster.objects
    await bench.run(BundlePlan(bundle="shop", finish=(key,)))
    assert (entry.finished, entry.baseline, bench.reconciler.failures) == (True, None, {})
    again = Bench(cluster, hook("v2"), inventory=bench.inventory)
    await again.run()
    assert (entry.finished, entry.baseline is not None) == (False, True)
    assert key in cluster.objects


@pytest.mark.parametrize("gone", [pytest.param(False, id="in the slice"), pytest.param(True, id="left the slice")])
async def test_a_bundle_with_an_account_is_applied_and_pruned_as_it(cluster: FakeCluster, gone: bool) -> None:
    bench = Bench(cluster, config())
    bench.bundle = replace(bench.bundle, policy=BundlePolicy(name="shop", service_account="shop/tenant"))
    await bench.run()
    assert cluster.accounts == ["shop/tenant"]
    members = Membership(service_account="shop/tenant")
    removal = BundlePlan(bundle="shop", prune=((key_of(config()),),), members=members)
    await bench.run(removal, left=gone)
    assert cluster.accounts == ["shop/tenant", "shop/tenant"]
    assert key_of(config()) not in cluster.objects


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
    for _ in range(7):
        await bench.run()
        seen.append(next(iter(bench.reconciler.failures.values())).permanent)
    assert seen == [False, False, False, False, False, True, True]


async def test_success_forgets_the_failure_and_gives_the_health(cluster: FakeCluster) -> None:
    bench = Bench(cluster, config())
    cluster.before = _raise(Transient("x", "is away"))
    await bench.run()
    assert bench.reconciler.failures
    cluster.before = lambda method, key: None
    await bench.run()
    assert not bench.reconciler.failures
    assert bench.answers[key_of(config())] == cluster.objects[key_of(config())]


def _kill_after(requests: int) -> Any:
    left = iter(range(requests))

    def killing(method: str, key: ObjectKey) -> None:
        if next(left, None) is None:
            raise Killed

    return killing


def _kill(what: str) -> Any:
    def killing(method: str, key: ObjectKey) -> None:
        if method == what:
            raise Killed

    return killing


def _refuse(what: str, error: Exception) -> Any:
    def refusing(method: str, key: ObjectKey) -> None:
        if method == what:
            raise error

    return refusing


def _raise(error: Exception) -> Any:
    def raising(method: str, key: ObjectKey) -> None:
        raise error

    return raising


async def test_when_superseded_no_further_object_is_begun(cluster: FakeCluster) -> None:
    bench = Bench(cluster, *(config(f"c{number}") for number in range(50)), pace=Pace(start=4, least=4, most=4))

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
    await Bench(cluster, *(config(f"c{number}") for number in range(60)), pace=Pace(start=5, least=5, most=5)).run()
    assert most == 5


async def test_every_object_is_in_the_inventory_before_it_is_in_the_cluster(cluster: FakeCluster) -> None:
    bench = Bench(cluster, *(config(f"c{number}") for number in range(5)))

    def before(method: str, key: ObjectKey) -> None:
        assert key in bench.inventory.entries

    cluster.before = before
    await bench.run()
    assert all(math.isfinite(entry.baseline.generation) for entry in bench.inventory.entries.values() if entry.baseline)
