"""The guard over one namespace of an API server: what may not be undone now is told and waits, fights slow down, and
nothing is told twice.
"""

import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import pytest
import yaml

from agent.drift import drift
from agent.drift.guard import Guard
from agent.drift.observe import Observer
from agent.inventory import Inventory
from agent.kube.cluster import Cluster
from agent.model import Desired, DesiredBundle, Entry, Resource
from agent.tracing import Tracing
from proto import objects, slices
from proto.ids import Oid
from proto.messages import DriftQuery, DriftReport
from proto.objects import ObjectKey
from proto.slices import BundlePolicy, DriftPolicy
from tests.agents import until
from tests.kube import Kube

CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {mode: prod, level: "3"}
"""
START_S = 1_800_000_000.0
"""The wall clock of these tests, which stands still unless a test moves it."""


@dataclass
class Rig:
    """A guard and an observer as the loop wires them; `paused_until`, `suspended` and `refused` are what people say."""

    api: Cluster
    kube: Kube
    namespace: str
    policy: DriftPolicy = field(default_factory=DriftPolicy)
    inventory: Inventory = field(default_factory=lambda: Inventory(None))
    told: list[DriftReport] = field(default_factory=list)
    told_at: float = 0.0
    """When the last of it was, on the event loop's clock."""
    paused_until: float | None = None
    pauses_asked: int = 0
    own_pauses: bool = False
    """Objects that have an annotation `pause` are paused, and nothing else."""
    suspended: str = ""
    leads: bool = True
    busy: int = 0
    """Confirmations under way."""
    refused: str = ""
    wall_s: float = START_S
    versions: set[str] = field(default_factory=set)
    """Those of which an event came."""
    blobs: dict[Oid, bytes] = field(default_factory=dict)
    guard: Guard = field(init=False)
    observer: Observer = field(init=False)
    resource: Resource = field(init=False)
    key: ObjectKey = field(init=False)

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{self.key.name}"

    @property
    def entry(self) -> Entry:
        return self.inventory.entries[self.key]

    def data(self) -> dict[str, str]:
        found: dict[str, str] = self.kube.must("GET", self.path)["data"]
        return found

    def is_gone(self) -> bool:
        return self.kube.call("GET", self.path)[0] == 404

    def edit(self, patch: Any, *, manager: str = "kubectl-edit") -> None:
        self.kube.edit(self.path, patch, manager=manager)

    def actions(self) -> list[str]:
        return [report.action for report in self.told]

    async def put(self, manifest: str) -> None:
        obj = slices.with_membership(yaml.safe_load(manifest), self.namespace)
        obj["metadata"]["namespace"] = self.namespace
        self.resource = await self.api.resource(obj["apiVersion"], obj["kind"])
        self.key = objects.key_of(obj)
        data = objects.canonical(obj)
        blob = objects.blob_id(data)
        self.blobs[blob] = data
        _, live = await self.api.apply(self.resource, self.key, data, force=True)
        self.inventory.put(
            Entry(
                key=self.key,
                bundle=self.namespace,
                api_version=obj["apiVersion"],
                blob=blob,
                baseline=drift.baseline(live),
            )
        )

    def desired(self) -> Desired:
        bundle = DesiredBundle(
            name=self.namespace,
            subtree=Oid("s"),
            rollout="",
            revision="",
            policy=BundlePolicy(name=self.namespace, drift=self.policy),
            objects={key: Oid(entry.blob) for key, entry in self.inventory.entries.items()},
        )
        return Desired(commit=Oid("c"), seq=1, bundles={self.namespace: bundle})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch and guard, as after a start: nothing but the inventory is known."""
        self.guard = Guard(
            self.api,
            self.inventory,
            desired=self.desired,
            read=self.blobs.__getitem__,
            writing=self._writing,
            may_write=lambda: self.leads,
            take_health=lambda entry, found: None,
            told=self._tell,
            tracing=Tracing("test", None),
            timestamp=lambda: f"at {self.wall_s:.0f}",
            wall_ns=lambda: int(self.wall_s * 1e9),
            refuses=lambda key: self.refused,
            suspended=lambda bundle: self.suspended,
            pause_until=self._pause_until,
            controllers={"keda-operator"},
        )
        self.observer = Observer(
            self.inventory,
            wanted=self.inventory.entries.__contains__,
            suspect=self.guard.suspect,
            unwanted_gone=lambda key: None,
            changed=lambda: None,
            clock=anyio.current_time,
        )
        synced = anyio.Event()

        async def watch() -> None:
            self.observer.opening((self.key.group, self.key.kind))
            selector = f"{slices.BUNDLE_LABEL}={self.namespace}"
            events = self.api.watch(self.resource, selector=selector, metadata_only=True)
            async with aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    self.observer.see(event)
                    self.versions.add(event.object.get("metadata", {}).get("resourceVersion", ""))
                    if event.kind == "SYNCED":
                        synced.set()

        async with anyio.create_task_group() as group:
            group.start_soon(watch, name="watch")
            group.start_soon(self.guard.run, name="guard")
            with anyio.fail_after(20):
                await synced.wait()
            yield
            # A connection that is cut off while it is made is not closed by asyncio.
            await until(lambda: not self.busy)
            group.cancel_scope.cancel()

    def _tell(self, key: ObjectKey, report: DriftReport) -> None:
        self.told.append(report)
        self.told_at = anyio.current_time()

    def _pause_until(self, key: ObjectKey, live: Mapping[str, Any] | None) -> float | None:
        self.pauses_asked += 1
        if self.own_pauses:
            return START_S + 3600 if live and "pause" in (live["metadata"].get("annotations") or {}) else None
        return self.paused_until

    @asynccontextmanager
    async def _writing(self, key: ObjectKey) -> AsyncIterator[None]:
        self.observer.flight.begin(key)
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            event = self.observer.flight.end(key, self.entry.baseline)
            if event is not None:
                self.observer.judge(key, event)


@pytest.fixture
async def rig(kube: Kube) -> AsyncIterator[Rig]:
    name = f"guard-{uuid4().hex[:8]}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    async with Cluster.connect(kube.kubeconfig) as api:
        made = Rig(api=api, kube=kube, namespace=name)
        await made.put(CONFIG)
        yield made


def told_so_many(rig: Rig, count: int) -> bool:
    return len(rig.told) == count


# --- pauses -------------------------------------------------------------------------------------------------------


async def test_drift_in_a_pause_is_told_once_and_undone_when_it_is_lifted(rig: Rig) -> None:
    rig.paused_until = START_S + 3600
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
        rig.edit({"metadata": {"annotations": {"again": "x"}}}, manager="other")
        await until(lambda: len(rig.told) > 1)
        assert [(report.what, report.action) for report in rig.told] == [("changed", "paused"), ("added", "reported")]
        assert rig.data()["mode"] == "test"
        rig.paused_until = None
        rig.guard.pauses_changed()
        await until(lambda: "reverted" in rig.actions())
    assert rig.data() == {"mode": "prod", "level": "3"}
    assert (rig.told[-1].fields, rig.told[-1].manager) == ((".data.mode",), "kubectl-edit")


async def test_drift_in_a_pause_is_undone_when_the_pause_ends_by_itself(rig: Rig) -> None:
    rig.paused_until = START_S + 0.3
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
        rig.wall_s += 1.0
        await until(lambda: "reverted" in rig.actions())
    assert rig.data()["mode"] == "prod"
    assert rig.told[-1].first_seen == rig.told[0].observed


async def test_a_pause_that_was_made_longer_meanwhile_goes_on_without_a_request(rig: Rig) -> None:
    rig.paused_until = START_S + 0.1
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
        rig.paused_until = START_S + 3600
        sent, asked = rig.api.requests.copy(), rig.pauses_asked
        await until(lambda: rig.pauses_asked > asked)
        assert rig.api.requests == sent
    assert rig.actions() == ["paused"]
    assert rig.data()["mode"] == "test"


async def test_an_objects_own_pause_holds_against_a_full_pass(rig: Rig) -> None:
    rig.own_pauses = True
    rig.edit({"metadata": {"annotations": {"pause": "x"}}, "data": {"mode": "test"}})
    async with rig.running():
        await until(lambda: "paused" in rig.actions())
        rig.guard.resync([rig.key])
        asked = rig.pauses_asked
        await until(lambda: rig.pauses_asked > asked)
        assert rig.data()["mode"] == "test"
        rig.edit({"metadata": {"annotations": {"pause": None}}})
        await until(lambda: "reverted" in rig.actions())
    assert rig.data()["mode"] == "prod"


async def test_an_object_deleted_in_a_pause_is_told_and_made_anew_after_it(rig: Rig) -> None:
    rig.paused_until = START_S + 3600
    async with rig.running():
        rig.kube.must("DELETE", rig.path)
        await until(lambda: rig.told)
        assert (rig.told[0].what, rig.told[0].action) == ("deleted", "paused")
        assert rig.is_gone()
        rig.paused_until = None
        rig.guard.pauses_changed()
        await until(lambda: not rig.is_gone())
        await until(lambda: "reverted" in rig.actions())
    assert rig.entry.baseline is not None


@pytest.mark.parametrize("deleted", [pytest.param(False, id="changed"), pytest.param(True, id="deleted")])
async def test_what_drifted_in_a_pause_survives_a_restart(rig: Rig, deleted: bool) -> None:
    rig.paused_until = START_S + 3600
    async with rig.running():
        if deleted:
            rig.kube.must("DELETE", rig.path)
        else:
            rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
    async with rig.running():
        await until(lambda: len(rig.told) == 2)
        assert rig.told[0].id == rig.told[1].id
    rig.paused_until = None
    async with rig.running():
        await until(lambda: "reverted" in rig.actions())
    assert rig.data()["mode"] == "prod"


# --- who else may say no ------------------------------------------------------------------------------------------


async def test_drift_of_a_suspended_bundle_is_told_with_the_reason_and_undone_on_resume(rig: Rig) -> None:
    rig.suspended = "by alice: migrating"
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
        assert rig.told[0].action == "reported"
        assert rig.told[0].error.endswith(f"bundle {rig.namespace} is suspended: by alice: migrating")
        assert rig.data()["mode"] == "test"
        rig.suspended = ""
        rig.guard.pauses_changed()
        await until(lambda: "reverted" in rig.actions())
    assert rig.data()["mode"] == "prod"


@pytest.mark.parametrize("deleted", [pytest.param(False, id="changed"), pytest.param(True, id="deleted")])
async def test_what_the_clusters_owner_protects_is_never_written(rig: Rig, deleted: bool) -> None:
    rig.refused = "the guard ConfigMap of this cluster forbids it"
    async with rig.running():
        if deleted:
            rig.kube.must("DELETE", rig.path)
        else:
            rig.edit({"data": {"mode": "test"}})
        sent = rig.api.requests.copy()
        await until(lambda: rig.told)
        assert not (rig.api.requests - sent).keys() & {"apply", "patch", "delete"}
        assert rig.told[0].action == "reported"
        assert "guard ConfigMap" in rig.told[0].error
        rig.refused = ""
        rig.guard.pauses_changed()
        await until(lambda: "reverted" in rig.actions())
    assert rig.data()["mode"] == "prod"


# --- what stays, and what comes back -----------------------------------------------------------------------------


async def test_drift_that_stays_is_told_once_however_often_its_object_is_written(rig: Rig) -> None:
    rig.policy = DriftPolicy(mode="report", additions="tolerate")
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
        for number in range(5):
            rig.edit({"metadata": {"annotations": {"n": str(number)}}}, manager="other")
        version = rig.kube.must("GET", rig.path)["metadata"]["resourceVersion"]
        await until(lambda: rig.entry.baseline is not None and rig.entry.baseline.resource_version == version)
        assert [(report.fields, report.action) for report in rig.told] == [((".data.mode",), "reported")]


async def test_a_field_that_one_manager_changes_again_and_again_is_contested(rig: Rig) -> None:
    async with rig.running():
        for number in range(6):
            rig.edit({"data": {"mode": f"mine-{number}"}}, manager="rival")
            await until(lambda: rig.data()["mode"] == "prod")
            await until(functools.partial(told_so_many, rig, number + 1))
        assert [report.contested for report in rig.told] == [False] * 5 + [True]
        assert (rig.told[-1].manager, rig.told[-1].fields) == ("rival", (".data.mode",))
        # From now on it is not at once any more, and not told each time.
        rig.edit({"data": {"mode": "mine"}}, manager="rival")
        await until(lambda: rig.data()["mode"] == "prod")
        assert anyio.current_time() - rig.told_at >= 0.9
        assert len(rig.told) == 6


async def test_a_revert_that_admission_denies_is_told_once_and_done_once_it_may_be(rig: Rig) -> None:
    async with rig.running():
        rig.edit({"data": {"mode": "test"}, "immutable": True})
        await until(lambda: rig.told)
        assert [report.action for report in rig.told if report.what == "changed"] == ["failed"]
        known = rig.entry.baseline
    # A restart finds it again, because the baseline is still that of the good state.
    assert rig.entry.baseline == known
    rig.kube.must("DELETE", rig.path)
    async with rig.running():
        await until(lambda: "reverted" in rig.actions())
    assert rig.data() == {"mode": "prod", "level": "3"}


async def test_an_agent_without_the_lease_asks_nothing_and_tells_nothing_until_it_has_it(rig: Rig) -> None:
    rig.leads = False
    async with rig.running():
        sent = rig.api.requests.copy()
        rig.guard.resync([rig.key])
        rig.edit({"data": {"mode": "test"}})
        version = rig.kube.must("GET", rig.path)["metadata"]["resourceVersion"]
        await until(lambda: version in rig.versions)
        assert rig.api.requests == sent
        assert not rig.told
        rig.leads = True
        await until(lambda: "reverted" in rig.actions())
    assert rig.data()["mode"] == "prod"


async def test_a_full_pass_looks_at_each_object_and_finds_what_no_event_told(rig: Rig) -> None:
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: "reverted" in rig.actions())
        sent = rig.api.requests.copy()
        rig.guard.resync([rig.key, rig.key])
        await until(lambda: (rig.api.requests - sent)["apply"] == 1)
    assert len(rig.told) == 1


async def test_what_a_configured_controller_adds_is_no_drift(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="revert")
    async with rig.running():
        rig.edit({"data": {"more": "x"}}, manager="keda-operator")
        rig.edit({"data": {"most": "x"}}, manager="somebody")
        await until(lambda: rig.told)
    assert rig.data() == {"mode": "prod", "level": "3", "more": "x"}
    told = [(report.manager, report.what, report.fields, report.action) for report in rig.told]
    assert told == [("somebody", "added", (".data.most",), "reverted")]


# --- values -------------------------------------------------------------------------------------------------------


async def test_a_full_pass_finds_additions(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="revert")
    rig.edit({"data": {"more": "x"}})
    live = rig.kube.must("GET", rig.path)
    rig.entry.baseline = drift.baseline(live)
    async with rig.running():
        rig.guard.resync([rig.key])
        await until(lambda: rig.told)
    assert [(report.what, report.action) for report in rig.told] == [("added", "reverted")]
    assert rig.data() == {"mode": "prod", "level": "3"}


async def test_the_values_of_a_drift_are_given_to_who_asks_and_a_reason_otherwise(rig: Rig) -> None:
    async with rig.running():
        rig.edit({"data": {"mode": "test"}})
        await until(lambda: rig.told)
        detail = rig.guard.detail(DriftQuery(query="q", id=rig.told[0].id))
        assert (detail.query, detail.id, detail.problem) == ("q", rig.told[0].id, "")
        ((path, wanted, live),) = [(value.path, value.wanted, value.live) for value in detail.values]
        assert (path, wanted, live) == (".data.mode", '"prod"', '"test"')
        unknown = rig.guard.detail(DriftQuery(query="q", id="unknown"))
        assert unknown.values == ()
        assert "drift unknown" in unknown.problem
