"""Drift on a real API server: every kind of change is noticed from its watch event, told with who and what, and undone
to the last field; what is no drift costs at most one harmless request and is told nobody.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import orjson
import pytest
import yaml

from agent.drift import drift, revert
from agent.drift.flight import Flight
from agent.drift.revert import Stance
from agent.fields import ownership
from agent.kube.cluster import Cluster
from agent.model import Entry, Resource, WatchEvent
from proto import objects, slices
from proto.errors import Transient
from proto.messages import DriftReport, FieldValue
from proto.slices import DriftPolicy, IgnoreRule
from tests.kube import Kube

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web, tier: front}, annotations: {note: ours}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      volumes:
      - {name: settings, configMap: {name: settings}}
      containers:
      - name: app
        image: example.org/app:1
        args: [serve, --fast]
        env: [{name: MODE, value: prod}, {name: LEVEL, value: "3"}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}}
      - name: side
        image: example.org/side:1
"""

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: metrics, port: 9090}]
"""

DNS = """
apiVersion: v1
kind: Service
metadata: {name: dns, labels: {app: dns}}
spec:
  selector: {app: dns}
  ports: [{name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53}]
"""

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, labels: {app: web}}
spec:
  podSelector: {}
  policyTypes: [Ingress]
"""

CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}, annotations: {note: ours}}
data: {mode: prod, level: "3"}
"""


@dataclass
class Rig:
    """An agent's view of one namespace: `put` applies as a pass does, `watching` gives the events of its object."""

    api: Cluster
    kube: Kube
    namespace: str
    bundle: str
    policy: DriftPolicy = field(default_factory=DriftPolicy)
    entry: Entry = field(init=False)
    resource: Resource = field(init=False)
    desired: bytes = b""
    flight: Flight = field(default_factory=Flight)
    values: dict[str, tuple[FieldValue, ...]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        key = self.entry.key
        return f"{self.resource.base}/namespaces/{key.namespace}/{self.resource.plural}/{key.name}"

    def edit(self, patch: Any, *, manager: str = "kubectl-edit", subresource: str = "") -> None:
        """A hand edit by a JSON patch (a list) or a strategic merge patch (a mapping)."""
        kind = "json" if isinstance(patch, list) else "strategic-merge"
        self.kube.edit(self.path + subresource, patch, manager=manager, kind=kind)

    async def put(self, manifest: str) -> dict[str, Any]:
        obj = slices.with_membership(yaml.safe_load(manifest), self.bundle)
        obj["metadata"]["namespace"] = self.namespace
        self.resource = await self.api.resource(obj["apiVersion"], obj["kind"])
        self.entry = Entry(key=objects.key_of(obj), bundle=self.bundle, api_version=obj["apiVersion"])
        self.desired = objects.canonical(obj)
        _, live = await self.api.apply(self.resource, self.entry.key, self.desired, force=False)
        self.entry.baseline = drift.baseline(live)
        return live

    async def live(self) -> dict[str, Any]:
        return await self.api.get(self.resource, self.entry.key)

    async def rest(self) -> None:
        """Until the Deployment's controller has nothing to write any more by itself: that state is the known one."""
        with anyio.fail_after(60):
            while True:
                live = await self.live()
                if live.get("status", {}).get("availableReplicas") == live["spec"]["replicas"]:
                    break
                await anyio.sleep(0.01)
        self.entry.baseline = drift.baseline(live)

    async def reapplied(self) -> dict[str, Any]:
        """What one more apply would make of the object."""
        return (await self.api.apply(self.resource, self.entry.key, self.desired, force=True, dry_run=True))[1]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["Events"]:
        selector = f"{slices.BUNDLE_LABEL}={self.bundle}"
        send, receive = anyio.create_memory_object_stream[WatchEvent](1000)

        async def pump() -> None:
            watch = self.api.watch(self.resource, selector=selector, metadata_only=True)
            async with aclosing(watch) as events:  # type: ignore[type-var]
                async for event in events:
                    await send.send(event)

        async with anyio.create_task_group() as tasks, send, receive:
            tasks.start_soon(pump, name="watch")
            with anyio.fail_after(20):
                while (await receive.receive()).kind != "SYNCED":
                    pass
            yield Events(rig=self, receive=receive)
            tasks.cancel_scope.cancel()


@dataclass
class Events:
    """What the loop does with events, one at a time."""

    rig: Rig
    receive: Any
    kept: list[WatchEvent] = field(default_factory=list)
    confirmed: int = 0
    """How many suspicions were confirmed, or found to be none."""

    async def next(self) -> WatchEvent:
        while True:
            if self.kept:
                return self.kept.pop()
            with anyio.fail_after(20):
                event: WatchEvent = await self.receive.receive()
            if not self.rig.flight.keeps(self.rig.entry.key, event):
                return event

    def is_suspicious(self, event: WatchEvent) -> bool:
        known = self.rig.entry.baseline
        if known is None or event.kind == "DELETED" or drift.suspicion(known, event.object):
            return True
        self.rig.entry.baseline = drift.baseline(event.object)
        return False

    async def suspicious(self) -> WatchEvent:
        """The next event that the loop would confirm."""
        while True:
            event = await self.next()
            if self.is_suspicious(event):
                return event

    async def confirm(self, event: WatchEvent | None) -> DriftReport | None:
        """The one drift that an event tells of, None for none."""
        reports = await self.confirm_all(event)
        assert len(reports) <= 1, reports
        return reports[0] if reports else None

    async def confirm_all(self, event: WatchEvent | None) -> tuple[DriftReport, ...]:
        """All that an event (None: a full pass) tells of."""
        rig = self.rig
        self.confirmed += 1
        event = event or await revert.look(rig.api, rig.entry)
        rig.flight.begin(rig.entry.key)
        while True:
            # A busy controller may win every race for the object; the loop, too, asks again then.
            with suppress(Transient):
                confirmed = await revert.confirm(
                    rig.api,
                    rig.entry,
                    event,
                    desired=rig.desired,
                    policy=rig.policy,
                    stance=Stance(mode=drift.mode_of(rig.policy, orjson.loads(rig.desired))),
                    observed="2026-01-01T00:00:00Z",
                    seen_at=anyio.current_time(),
                )
                break
        rig.entry.baseline = confirmed.baseline
        rig.values |= confirmed.values
        kept = rig.flight.end(rig.entry.key, rig.entry.baseline)
        if kept is not None:
            self.kept.append(kept)
        return confirmed.reports

    async def settle(self) -> list[DriftReport]:
        """Do all that is left to do, until the object's last state has been judged; returns what was told."""
        rig = self.rig
        rig.edit({"metadata": {"annotations": {"mark": uuid4().hex}}}, manager="mark")
        reports: list[DriftReport] = []
        while True:
            event = await self.next()
            if self.is_suspicious(event):
                reports += [report for report in await self.confirm_all(event) if report.manager != "mark"]
            if event.object["metadata"]["resourceVersion"] == (await rig.live())["metadata"]["resourceVersion"]:
                return reports


@pytest.fixture
async def rig(kube: Kube) -> AsyncIterator[Rig]:
    name = f"drift-{uuid4().hex[:8]}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    async with Cluster.connect(kube.kubeconfig) as api:
        yield Rig(api=api, kube=kube, namespace=name, bundle=name)


def wanted(live: Mapping[str, Any]) -> dict[str, Any]:
    """What of a live object a revert has to bring back."""
    metadata = live["metadata"]
    rest = {key: value for key, value in live.items() if key not in ("metadata", "status")}
    # The Deployment controller, where one runs, counts revisions in an annotation.
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key != "deployment.kubernetes.io/revision"
    }
    return {**rest, "labels": metadata.get("labels"), "annotations": annotations}


APP = "/spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("manifest", "patch", "what", "fields", "manager"),
    [
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": f"{APP}/image", "value": "evil:1"}],
            "changed",
            ('.spec.template.spec.containers[name="app"].image',),
            "kubectl-edit",
            id="image",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": "/spec/replicas", "value": 0}],
            "changed",
            (".spec.replicas",),
            "kubectl-edit",
            id="replicas",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": "/metadata/labels/tier", "value": "back"}],
            "changed",
            (".metadata.labels.tier",),
            "kubectl-edit",
            id="a label's value",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "remove", "path": "/metadata/annotations/note"}],
            "changed",
            (".metadata.annotations.note",),
            drift.UNKNOWN,
            id="a removed annotation leaves no trace",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "remove", "path": f"{APP}/readinessProbe"}],
            "changed",
            (
                '.spec.template.spec.containers[name="app"].readinessProbe.httpGet.path',
                '.spec.template.spec.containers[name="app"].readinessProbe.httpGet.port',
            ),
            drift.UNKNOWN,
            id="a removed field leaves no trace",
        ),
        pytest.param(
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "side"}, {"name": "app"}]}}}},
            "changed",
            (".spec.template.spec.containers",),
            drift.UNKNOWN,
            id="a reordered list",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": f"{APP}/args", "value": ["--fast", "serve"]}],
            "changed",
            ('.spec.template.spec.containers[name="app"].args',),
            "kubectl-edit",
            id="a reordered atomic list",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": f"{APP}/ports/0/containerPort", "value": 8081}],
            "changed",
            ('.spec.template.spec.containers[name="app"].ports[containerPort=8080,protocol="TCP"]',),
            "kubectl-edit",
            id="a changed port",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": f"{APP}/name", "value": "renamed"}],
            "changed",
            ('.spec.template.spec.containers[name="app"]',),
            "kubectl-edit",
            id="a renamed container",
        ),
        pytest.param(
            DEPLOYMENT,
            [
                {
                    "op": "replace",
                    "path": f"{APP}/env/0",
                    "value": {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},
                }
            ],
            "changed",
            ('.spec.template.spec.containers[name="app"].env[name="MODE"].value',),
            "kubectl-edit",
            id="env value turned into valueFrom",
        ),
        pytest.param(
            DEPLOYMENT,
            [
                {
                    "op": "replace",
                    "path": "/spec/template/spec/volumes/0",
                    "value": {"name": "settings", "secret": {"secretName": "stolen"}},
                }
            ],
            "changed",
            ('.spec.template.spec.volumes[name="settings"].configMap.name',),
            "kubectl-edit",
            id="a volume of another type",
        ),
        pytest.param(
            DEPLOYMENT,
            [{"op": "replace", "path": f"{APP}/readinessProbe", "value": {"tcpSocket": {"port": 8080}}}],
            "changed",
            (
                '.spec.template.spec.containers[name="app"].readinessProbe.httpGet.path',
                '.spec.template.spec.containers[name="app"].readinessProbe.httpGet.port',
            ),
            "kubectl-edit",
            id="a probe of another type",
        ),
        pytest.param(
            SERVICE,
            [{"op": "replace", "path": "/spec/ports/0/port", "value": 81}],
            "changed",
            ('.spec.ports[port=80,protocol="TCP"]',),
            "kubectl-edit",
            id="a service's port",
        ),
        pytest.param(
            SERVICE,
            [{"op": "replace", "path": "/spec/selector/app", "value": "other"}],
            "changed",
            (".spec.selector",),
            "kubectl-edit",
            id="a service's selector",
        ),
        pytest.param(
            SERVICE,
            {"spec": {"$setElementOrder/ports": [{"port": 9090}, {"port": 80}]}},
            "changed",
            (".spec.ports",),
            drift.UNKNOWN,
            id="a reordered list of a kind without generation",
        ),
        pytest.param(
            DNS,
            [{"op": "replace", "path": "/spec/ports/1/port", "value": 54}],
            "changed",
            ('.spec.ports[port=53,protocol="TCP"]',),
            "kubectl-edit",
            id="one of two ports of a number, known by its default protocol",
        ),
        pytest.param(
            POLICY,
            [{"op": "add", "path": "/spec/podSelector/matchLabels", "value": {"opened": "yes"}}],
            "changed",
            (".spec.podSelector",),
            "kubectl-edit",
            id="an empty struct that is owned whole, opened",
        ),
        pytest.param(
            CONFIG,
            [{"op": "replace", "path": "/data/mode", "value": "test"}],
            "changed",
            (".data.mode",),
            "kubectl-edit",
            id="a config map's value",
        ),
        pytest.param(
            CONFIG,
            [{"op": "remove", "path": "/data/level"}],
            "changed",
            (".data.level",),
            drift.UNKNOWN,
            id="a config map's removed key",
        ),
        pytest.param(
            CONFIG,
            [{"op": "remove", "path": f"/metadata/labels/{slices.BUNDLE_LABEL.replace('/', '~1')}"}],
            "relabelled",
            (f".metadata.labels.{slices.BUNDLE_LABEL}",),
            drift.UNKNOWN,
            id="our label removed",
        ),
        pytest.param(
            CONFIG,
            [{"op": "replace", "path": f"/metadata/labels/{slices.BUNDLE_LABEL.replace('/', '~1')}", "value": "mine"}],
            "relabelled",
            (f".metadata.labels.{slices.BUNDLE_LABEL}",),
            "kubectl-edit",
            id="our label changed",
        ),
    ],
)
async def test_a_hand_edit_is_told_and_comes_back_exactly(
    rig: Rig, manifest: str, patch: Any, what: str, fields: tuple[str, ...], manager: str
) -> None:
    before = wanted(await rig.put(manifest))
    async with rig.watching() as events:
        rig.edit(patch)
        assert wanted(await rig.live()) != before
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.fields, report.manager, report.action) == (what, fields, manager, "reverted")
    assert report.operation == ("" if manager == drift.UNKNOWN else "Update")
    assert bool(report.time) == (manager != drift.UNKNOWN)
    assert wanted(await rig.live()) == before


async def test_a_scale_names_its_subresource(rig: Rig) -> None:
    before = wanted(await rig.put(DEPLOYMENT))
    async with rig.watching() as events:
        rig.edit([{"op": "replace", "path": "/spec/replicas", "value": 5}], manager="kubectl", subresource="/scale")
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.fields, report.manager, report.operation) == ((".spec.replicas",), "kubectl", "Update (scale)")
    assert wanted(await rig.live()) == before


@pytest.mark.parametrize("manifest", [pytest.param(DEPLOYMENT, id="deployment"), pytest.param(CONFIG, id="config map")])
async def test_a_deleted_object_is_made_again(rig: Rig, manifest: str) -> None:
    before = wanted(await rig.put(manifest))
    async with rig.watching() as events:
        rig.kube.must("DELETE", rig.path)
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.action, report.manager) == ("deleted", "reverted", drift.UNKNOWN)
    live = await rig.live()
    assert wanted(live) == before
    assert rig.entry.baseline is not None
    assert (rig.entry.baseline.uid, rig.entry.baseline.own) == (live["metadata"]["uid"], drift.baseline(live).own)


async def test_an_object_replaced_by_another_of_its_name_counts_as_deleted(rig: Rig) -> None:
    live = await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.kube.must("DELETE", rig.path)
        rig.kube.must(
            "POST",
            f"{rig.path.rpartition('/')[0]}?fieldManager=kubectl-replace",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "settings", "labels": live["metadata"]["labels"]},
                "data": {"mode": "test"},
            },
        )
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.action, report.manager) == ("deleted", "reverted", "kubectl-replace")
    assert (await rig.live())["data"] == {"mode": "prod", "level": "3"}


@pytest.mark.parametrize(
    ("manifest", "path", "value"),
    [
        pytest.param(DEPLOYMENT, "/spec/replicas", 7, id="deployment"),
        pytest.param(CONFIG, "/data/mode", "test", id="config map"),
    ],
)
async def test_an_update_under_our_own_name_is_drift(rig: Rig, manifest: str, path: str, value: Any) -> None:
    before = wanted(await rig.put(manifest))
    async with rig.watching() as events:
        rig.edit([{"op": "replace", "path": path, "value": value}], manager="flotilla")
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.manager, report.operation, report.action) == ("flotilla", "Update", "reverted")
    assert wanted(await rig.live()) == before


@pytest.mark.parametrize("manifest", [pytest.param(DEPLOYMENT, id="deployment"), pytest.param(CONFIG, id="config map")])
async def test_an_apply_under_our_own_name_is_drift(rig: Rig, manifest: str) -> None:
    before = wanted(await rig.put(manifest))
    forged = json.loads(rig.desired)
    forged["metadata"]["annotations"]["note"] = "theirs"
    if "data" in forged:
        forged["data"]["mode"] = "test"
    else:
        forged["spec"]["replicas"] = 9
    async with rig.watching() as events:
        query = "?fieldManager=flotilla&force=true"
        rig.kube.must("PATCH", rig.path + query, forged, content_type="application/apply-patch+yaml")
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert report.action == "reverted"
    assert wanted(await rig.live()) == before


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
async def test_what_an_apply_under_our_own_name_added_is_drift(rig: Rig, kind: str) -> None:
    data = {"mode": "cHJvZA=="}
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "settings", "labels": {"app": "web"}}, "data": data}
    before = wanted(await rig.put(json.dumps(made)))
    forged = json.loads(rig.desired)
    forged["metadata"]["annotations"] = {"note": "theirs"}
    async with rig.watching() as events:
        query = "?fieldManager=flotilla&force=true"
        rig.kube.must("PATCH", rig.path + query, forged, content_type="application/apply-patch+yaml")
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.fields, report.action) == ("changed", (".metadata.annotations.note",), "reverted")
    assert wanted(await rig.live()) == before


async def test_a_label_of_a_secret_is_told_when_all_else_that_moved_is_who_owns_what(rig: Rig) -> None:
    data = {"password": "cHJvZA=="}
    made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "settings", "labels": {"app": "web"}}}
    before = wanted(await rig.put(json.dumps({**made, "data": data})))
    apply = "application/apply-patch+yaml"
    rig.kube.must("PATCH", f"{rig.path}?fieldManager=applier", {**made, "data": data}, content_type=apply)
    forged = json.loads(rig.desired)
    del forged["data"]
    forged["metadata"]["labels"]["app"] = "other"
    async with rig.watching() as events:
        rig.kube.must("PATCH", f"{rig.path}?fieldManager=flotilla&force=true", forged, content_type=apply)
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.fields, report.action) == ("changed", (".metadata.labels.app",), "reverted")
    assert wanted(await rig.live()) == before


async def test_an_event_from_before_our_last_write_is_not_told_again(rig: Rig) -> None:
    await rig.put(DEPLOYMENT)
    async with rig.watching() as events:
        rig.edit([{"op": "replace", "path": "/spec/replicas", "value": 5}])
        first = await events.suspicious()
        assert await events.confirm(first) is not None
        # Judged late: another event of the same edit waited while that was undone.
        assert await events.confirm(first) is None


async def test_status_writes_are_no_suspicion(rig: Rig) -> None:
    await rig.put(DEPLOYMENT)
    await rig.rest()
    async with rig.watching() as events:
        for count in range(1, 4):
            rig.edit(
                subresource="/status",
                patch=[{"op": "replace", "path": "/status", "value": {"replicas": count, "observedGeneration": 1}}],
                manager="kube-controller-manager",
            )
        assert await events.settle() == []
        assert events.confirmed == 1, "the mark that ends the wait is the only suspicion"


async def test_status_writes_of_a_kind_without_generation_are_no_suspicion(rig: Rig) -> None:
    await rig.put(SERVICE.replace("ports:", "type: LoadBalancer\n  ports:"))
    async with rig.watching() as events:
        rig.edit(
            subresource="/status",
            patch=[{"op": "replace", "path": "/status", "value": {"loadBalancer": {"ingress": [{"ip": "10.9.9.9"}]}}}],
            manager="cloud-controller-manager",
        )
        sent = rig.api.requests.copy()
        assert await events.settle() == []
        assert events.confirmed == 1, "the mark that ends the wait is the only suspicion"
    assert rig.api.requests["apply"] - sent["apply"] == 1


async def test_a_rollout_restart_is_an_addition_and_stays(rig: Rig) -> None:
    await rig.put(DEPLOYMENT)
    async with rig.watching() as events:
        rig.edit(
            {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}},
            manager="kubectl-rollout",
        )
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.action, report.manager) == ("added", "reported", "kubectl-rollout")
    assert report.fields == (".spec.template.metadata.annotations",)
    live = await rig.live()
    assert live["spec"]["template"]["metadata"]["annotations"] == {"kubectl.kubernetes.io/restartedAt": "now"}


async def test_tolerated_additions_are_not_told(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="tolerate")
    live = await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"data": {"more": "theirs"}})
        event = await events.suspicious()
        assert await events.confirm(event) is None
    assert (await rig.live())["data"]["more"] == "theirs"
    assert rig.entry.baseline is not None
    assert rig.entry.baseline.own == drift.baseline(live).own


async def test_a_value_that_was_put_right_again_is_healed_and_not_told(rig: Rig) -> None:
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"data": {"mode": "test"}})
        rig.edit({"data": {"mode": "prod"}})
        first = await events.suspicious()
        second: WatchEvent = await events.receive.receive()
        assert first.object != second.object
        assert await events.confirm(second) is None
    ours = ownership.owned(ownership.own_entry(await rig.live()))
    assert ("f:data", "f:mode") in ours


@pytest.mark.parametrize("manifest", [pytest.param(DEPLOYMENT, id="deployment"), pytest.param(CONFIG, id="config map")])
async def test_emptied_managed_fields_are_healed_and_ours_alone_again(rig: Rig, manifest: str) -> None:
    before = wanted(await rig.put(manifest))
    async with rig.watching() as events:
        rig.edit([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}])
        assert await events.confirm(await events.suspicious()) is None
    live = await rig.live()
    assert wanted(live) == before
    ours = ownership.owned(ownership.own_entry(live))
    assert ours
    for entry in ownership.foreign(live):
        assert not ours & ownership.owned(entry)


async def test_emptied_managed_fields_hide_no_change(rig: Rig) -> None:
    before = wanted(await rig.put(CONFIG))
    async with rig.watching() as events:
        rig.edit(
            [
                {"op": "replace", "path": "/metadata/managedFields", "value": [{}]},
                {"op": "replace", "path": "/data/mode", "value": "test"},
            ],
        )
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert report.fields == (".data.mode",)
    assert wanted(await rig.live()) == before


async def test_report_mode_tells_and_changes_nothing(rig: Rig) -> None:
    rig.policy = DriftPolicy(mode="report")
    await rig.put(DEPLOYMENT)
    async with rig.watching() as events:
        rig.edit([{"op": "replace", "path": "/spec/replicas", "value": 5}])
        report = await events.confirm(await events.suspicious())
        assert report is not None
        assert (report.what, report.fields, report.action) == ("changed", (".spec.replicas",), "reported")
        # It stays, and is told again when something else happens, as the same one.
        assert {again.id for again in await events.settle()} <= {report.id}
    assert (await rig.live())["spec"]["replicas"] == 5


async def test_report_mode_tells_a_change_that_cannot_be_merged(rig: Rig) -> None:
    rig.policy = DriftPolicy(mode="report")
    await rig.put(DEPLOYMENT)
    async with rig.watching() as events:
        rig.edit(
            [{"op": "replace", "path": f"{APP}/readinessProbe", "value": {"tcpSocket": {"port": 8080}}}],
        )
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.action) == ("changed", "reported")


async def test_report_mode_tells_a_deletion_and_a_removed_label(rig: Rig) -> None:
    rig.policy = DriftPolicy(mode="report")
    await rig.put(CONFIG)
    async with rig.watching() as events:
        label = slices.BUNDLE_LABEL.replace("/", "~1")
        rig.edit([{"op": "remove", "path": f"/metadata/labels/{label}"}])
        report = await events.confirm(await events.suspicious())
        assert report is not None
        assert (report.what, report.action) == ("relabelled", "reported")
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.kube.must("DELETE", rig.path)
        report = await events.confirm(await events.suspicious())
        assert report is not None
        assert (report.what, report.action) == ("deleted", "reported")
    assert rig.entry.baseline is None


async def test_ignored_paths_keep_their_live_values_while_others_come_back(rig: Rig) -> None:
    rig.policy = DriftPolicy(ignore=(IgnoreRule(kind="Deployment", paths=("/spec/replicas",)),))
    await rig.put(DEPLOYMENT)
    async with rig.watching() as events:
        rig.edit([{"op": "replace", "path": "/spec/replicas", "value": 6}], subresource="/scale")
        assert await events.confirm(await events.suspicious()) is None
        rig.edit([{"op": "replace", "path": f"{APP}/image", "value": "evil:1"}])
        reports = await events.settle()
    assert [report.fields for report in reports] == [('.spec.template.spec.containers[name="app"].image',)]
    live = await rig.live()
    assert live["spec"]["replicas"] == 6
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/app:1"


async def test_a_revert_that_is_refused_is_told_with_its_cause(rig: Rig) -> None:
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.kube.must("DELETE", rig.path)
        event = await events.suspicious()
        rig.desired = rig.desired.replace(b'"prod"', b"[1]")
        report = await events.confirm(event)
    assert report is not None
    assert report.action == "failed"
    assert "ConfigMap" in report.error


async def test_our_own_events_are_kept_until_our_write_was_answered(rig: Rig) -> None:
    await rig.put(CONFIG)
    key = rig.entry.key
    async with rig.watching() as events:
        for round_ in range(10):
            body = rig.desired.replace(b'"prod"', b'"%d"' % round_)
            rig.flight.begin(key)
            _, live = await rig.api.apply(rig.resource, key, body, force=True)
            with anyio.fail_after(20):
                event: WatchEvent = await events.receive.receive()
            assert rig.flight.keeps(key, event)
            rig.entry.baseline = drift.baseline(live)
            assert rig.flight.end(key, rig.entry.baseline) is event
            assert drift.suspicion(rig.entry.baseline, event.object) is None


async def test_two_edits_before_the_revert_are_told_as_the_one_that_undid_both(rig: Rig) -> None:
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"data": {"mode": "test"}})
        rig.edit({"data": {"level": "9"}})
        report = await events.confirm(await events.suspicious())
        assert report is not None
        assert report.fields == (".data.level", ".data.mode")
        assert await events.settle() == []


async def test_what_several_managers_changed_before_the_revert_is_told_of_each(rig: Rig) -> None:
    before = wanted(await rig.put(CONFIG))
    async with rig.watching() as events:
        rig.edit({"data": {"mode": "test"}}, manager="alice")
        rig.edit({"data": {"level": "9"}}, manager="bob")
        rig.edit([{"op": "remove", "path": "/metadata/annotations/note"}], manager="carol")
        reports = await events.confirm_all(await events.suspicious())
        assert {(report.manager, report.fields) for report in reports} == {
            ("alice", (".data.mode",)),
            ("bob", (".data.level",)),
            (drift.UNKNOWN, (".metadata.annotations.note",)),
        }
        assert len({report.id for report in reports}) == 3
        assert wanted(await rig.live()) == before
        assert await events.settle() == []


# --- additions ----------------------------------------------------------------------------------------------------

RESTARTED = {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}


@pytest.mark.parametrize(
    ("manifest", "patch", "fields"),
    [
        pytest.param(CONFIG, {"data": {"more": "theirs"}}, (".data.more",), id="a key"),
        pytest.param(CONFIG, {"metadata": {"labels": {"x": "y"}}}, (".metadata.labels.x",), id="a label"),
        pytest.param(CONFIG, {"binaryData": {"b": "AAAA"}}, (".binaryData",), id="a map"),
        pytest.param(
            DEPLOYMENT, {"metadata": {"annotations": {"x/y": "z"}}}, (".metadata.annotations.x/y",), id="an annotation"
        ),
        pytest.param(DEPLOYMENT, RESTARTED, (".spec.template.metadata.annotations",), id="kubectl rollout restart"),
        pytest.param(
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"containers": [{"name": "spy", "image": "evil:1"}]}}}},
            ('.spec.template.spec.containers[name="spy"]',),
            id="a container",
        ),
        pytest.param(
            DEPLOYMENT,
            {
                "spec": {
                    "template": {"spec": {"containers": [{"name": "app", "env": [{"name": "DEBUG", "value": "1"}]}]}}
                }
            },
            ('.spec.template.spec.containers[name="app"].env[name="DEBUG"]',),
            id="a variable",
        ),
        pytest.param(
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"securityContext": {"runAsUser": 0}}}}},
            (".spec.template.spec.securityContext.runAsUser",),
            id="a field of a struct that is there by default",
        ),
        pytest.param(DEPLOYMENT, {"spec": {"paused": True}}, (".spec.paused",), id="paused"),
        pytest.param(
            SERVICE,
            {"spec": {"ports": [{"name": "spy", "port": 99}]}},
            ('.spec.ports[port=99,protocol="TCP"]',),
            id="port",
        ),
    ],
)
async def test_an_addition_is_removed_and_told_where_the_bundle_says_so(
    rig: Rig, manifest: str, patch: Any, fields: tuple[str, ...]
) -> None:
    rig.policy = DriftPolicy(additions="revert")
    before = wanted(await rig.put(manifest))
    async with rig.watching() as events:
        rig.edit(patch)
        report = await events.confirm(await events.suspicious())
        assert report is not None
        assert (report.what, report.action, report.manager, report.operation) == (
            "added",
            "reverted",
            "kubectl-edit",
            "Update",
        )
        assert report.fields == fields
        assert report.time
        live = await rig.live()
        assert wanted(live) == before
        assert ownership.owned(ownership.own_entry(live)) == ownership.owned(ownership.own_entry(await rig.reapplied()))
        assert [again.manager for again in await events.settle()] == []


async def test_an_addition_and_a_change_are_both_undone_and_told_apart(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="revert")
    before = wanted(await rig.put(DEPLOYMENT))
    async with rig.watching() as events:
        rig.edit({"spec": {"replicas": 9, "paused": True}}, manager="alice")
        rig.edit({"metadata": {"annotations": {"theirs": "x"}}}, manager="bob")
        reports = await events.confirm_all(await events.suspicious())
        assert {(report.manager, report.what, report.fields, report.action) for report in reports} == {
            ("alice", "changed", (".spec.replicas",), "reverted"),
            ("alice", "added", (".spec.paused",), "reverted"),
            ("bob", "added", (".metadata.annotations.theirs",), "reverted"),
        }
        assert wanted(await rig.live()) == before


@pytest.mark.parametrize(
    ("patch", "manager"),
    [
        pytest.param(
            {"metadata": {"annotations": {"deployment.kubernetes.io/x": "1"}}}, "kube-controller-manager", id="c"
        ),
        pytest.param({"metadata": {"finalizers": ["example.org/keep"]}}, "some-operator", id="a finalizer"),
    ],
)
async def test_what_controllers_put_on_an_object_stays(rig: Rig, patch: Any, manager: str) -> None:
    rig.policy = DriftPolicy(additions="revert")
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit(patch, manager=manager)
        before = await rig.live()
        assert await events.confirm_all(await events.suspicious()) == ()
        assert await rig.live() == before
    rig.edit([{"op": "remove", "path": "/metadata/finalizers"}] if "finalizers" in patch["metadata"] else {})


async def test_an_addition_at_an_ignored_path_stays(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="revert", ignore=(IgnoreRule(kind="ConfigMap", paths=("/data/scale",)),))
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"data": {"scale": "9", "more": "x"}})
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert report.fields == (".data.more",)
    assert (await rig.live())["data"] == {"mode": "prod", "level": "3", "scale": "9"}


async def test_an_addition_that_cannot_be_removed_is_told_as_failed_and_is_theirs_again(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="revert")
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"immutable": True})
        before = await rig.live()
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.action, report.fields) == ("added", "failed", (".immutable",))
    assert "immutable" in report.error
    live = await rig.live()
    entries = {(entry["manager"], json.dumps(entry["fieldsV1"])) for entry in live["metadata"]["managedFields"]}
    assert entries == {
        (entry["manager"], json.dumps(entry["fieldsV1"])) for entry in before["metadata"]["managedFields"]
    }


SCALER = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, labels: {app: web}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 9
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
"""


@pytest.mark.unsimulated("an edit in another version takes over fields that it only converted")
async def test_of_additions_in_another_version_only_metadata_is_removed_and_the_rest_is_told(rig: Rig) -> None:
    rig.policy = DriftPolicy(additions="revert")
    await rig.put(SCALER)
    async with rig.watching() as events:
        path = rig.path.replace("/v2/", "/v1/")
        rig.kube.edit(path, {"metadata": {"labels": {"x": "y"}}, "spec": {"minReplicas": 3}}, manager="kubectl-v1")
        reports = await events.confirm_all(await events.suspicious())
    assert {(report.what, report.fields, report.action) for report in reports} == {
        ("added", (".metadata.labels.x",), "reverted"),
        ("added", (".spec.minReplicas",), "reported"),
    }
    live = await rig.live()
    assert "x" not in live["metadata"]["labels"]
    assert live["spec"]["minReplicas"] == 3


async def test_where_drift_is_only_told_additions_are_too(rig: Rig) -> None:
    rig.policy = DriftPolicy(mode="report", additions="revert")
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"data": {"more": "theirs"}})
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert (report.what, report.action, report.fields) == ("added", "reported", (".data.more",))
    assert (await rig.live())["data"]["more"] == "theirs"


# --- ignored paths ------------------------------------------------------------------------------------------------


async def test_a_scaled_deployment_with_ignored_replicas_is_neither_touched_nor_told(rig: Rig) -> None:
    rig.policy = DriftPolicy(ignore=(IgnoreRule(kind="Deployment", labels={"app": "web"}, paths=("/spec/replicas",)),))
    await rig.put(DEPLOYMENT)
    async with rig.watching() as events:
        for replicas in (5, 6, 3):
            rig.edit({"spec": {"replicas": replicas}}, subresource="/scale", manager="kube-controller-manager")
            scaled = await rig.live()
            assert await events.confirm_all(await events.suspicious()) == ()
            after = await rig.live()
            assert (after["spec"], after["metadata"]["generation"]) == (
                scaled["spec"],
                scaled["metadata"]["generation"],
            )
            assert after["metadata"]["managedFields"][0] == scaled["metadata"]["managedFields"][0]
        rig.edit([{"op": "replace", "path": f"{APP}/image", "value": "evil:1"}])
        report = await events.confirm(await events.suspicious())
    assert report is not None
    assert report.fields == ('.spec.template.spec.containers[name="app"].image',)
    live = await rig.live()
    assert live["spec"]["replicas"] == 3
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/app:1"


async def test_ignored_replicas_that_another_manager_applies_are_given_up_to_it(rig: Rig) -> None:
    rig.policy = DriftPolicy(ignore=(IgnoreRule(paths=("/spec/replicas",)),))
    await rig.put(DEPLOYMENT)
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": rig.namespace},
        "spec": {"replicas": 7},
    }
    async with rig.watching() as events:
        query = "?fieldManager=keda&force=true"
        rig.kube.must("PATCH", rig.path + query, theirs, content_type="application/apply-patch+yaml")
        assert await events.confirm_all(await events.suspicious()) == ()
        assert ("f:spec", "f:replicas") not in ownership.owned(ownership.own_entry(await rig.live()))
        rig.edit([{"op": "replace", "path": f"{APP}/image", "value": "evil:1"}])
        assert [report.manager for report in await events.confirm_all(await events.suspicious())] == ["kubectl-edit"]
    assert (await rig.live())["spec"]["replicas"] == 7


# --- modes of one object ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "action", "level"),
    [
        pytest.param("revert", "reverted", "3", id="revert"),
        pytest.param("report", "reported", "9", id="report"),
        pytest.param("ignore", None, "9", id="ignore"),
    ],
)
async def test_an_objects_own_mode_wins_over_its_bundles(rig: Rig, mode: str, action: str | None, level: str) -> None:
    rig.policy = DriftPolicy(mode="report" if mode == "revert" else "revert")
    await rig.put(CONFIG.replace("note: ours", f"flotilla.dev/drift: {mode}"))
    async with rig.watching() as events:
        rig.edit({"data": {"level": "9"}})
        report = await events.confirm(await events.suspicious())
        assert (report.action if report else None) == action
        assert (await rig.live())["data"]["level"] == level
        rig.kube.must("DELETE", rig.path)
        event = await events.suspicious()
        while event.kind != "DELETED":
            event = await events.suspicious()
        report = await events.confirm(event)
        assert (report.what if report else None, report.action if report else None) == (
            "deleted" if action else None,
            action,
        )
    assert rig.kube.call("GET", rig.path)[0] == (200 if mode == "revert" else 404)


async def test_a_mode_in_the_cluster_that_git_does_not_say_counts_for_nothing(rig: Rig) -> None:
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"metadata": {"annotations": {"flotilla.dev/drift": "ignore"}}, "data": {"level": "9"}})
        reports = await events.confirm_all(await events.suspicious())
    assert {report.action for report in reports if report.what == "changed"} == {"reverted"}


# --- a full pass --------------------------------------------------------------------------------------------------


async def test_a_full_pass_finds_what_no_event_told(rig: Rig) -> None:
    before = wanted(await rig.put(CONFIG))
    rig.edit({"data": {"level": "9"}})
    async with rig.watching() as events:
        report = await events.confirm(None)
        assert report is not None
        assert (report.fields, report.manager, report.action) == ((".data.level",), "kubectl-edit", "reverted")
        assert wanted(await rig.live()) == before
        assert await events.confirm(None) is None
        rig.kube.must("DELETE", rig.path)
        report = await events.confirm(None)
        assert report is not None
        assert (report.what, report.action) == ("deleted", "reverted")


async def test_a_full_pass_writes_nothing_when_nothing_changed(rig: Rig) -> None:
    live = await rig.put(CONFIG)
    sent = rig.api.requests.copy()
    async with rig.watching() as events:
        assert await events.confirm(None) is None
    assert await rig.live() == live
    assert (rig.api.requests - sent)["apply"] == 1


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["revert", "report"])
async def test_wanted_and_live_values_are_kept(rig: Rig, mode: Any) -> None:
    rig.policy = DriftPolicy(mode=mode)
    await rig.put(CONFIG)
    async with rig.watching() as events:
        rig.edit({"data": {"mode": "test", "level": None}})
        reports = await events.confirm_all(await events.suspicious())
    found = {value.path: (value.wanted, value.live) for report in reports for value in rig.values[report.id]}
    assert found == {".data.mode": ('"prod"', '"test"'), ".data.level": ('"3"', "")}


async def test_values_of_a_secret_are_not_even_read(rig: Rig) -> None:
    await rig.put(
        """
        apiVersion: v1
        kind: Secret
        metadata: {name: settings, labels: {app: web}}
        data: {password: aHVudGVyMg==}
        """
    )
    async with rig.watching() as events:
        rig.edit({"data": {"password": "c3dvcmRmaXNo"}, "metadata": {"labels": {"app": "x"}}})
        sent = rig.api.requests.copy()
        report = await events.confirm(await events.suspicious())
        assert report is not None
        assert rig.api.requests - sent == {"apply": 1}
    assert rig.values[report.id] == (
        FieldValue(path=".data.password", redacted=True),
        FieldValue(path=".metadata.labels.app", wanted='"web"', live='"x"'),
    )
    assert "c3dvcmRmaXNo" not in repr((rig.values, report))
