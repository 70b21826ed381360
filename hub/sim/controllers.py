"""The simulated cluster's controllers: what kube-controller-manager, the scheduler and the kubelets would write.

| kind                             | written                                                                       |
|----------------------------------|-------------------------------------------------------------------------------|
| Deployment, StatefulSet,         | status, and, if `Behaviour.pods`, ReplicaSets, Pods, claims, as they would    |
| DaemonSet, ReplicaSet, Pod, Job  | be seen: statuses come from the template and the time, not from the Pods      |
| CronJob                          | a Job each time it is due, the last ones kept                                 |
| HorizontalPodAutoscaler          | the target's scale, status                                                    |
| Service                          | Endpoints and EndpointSlice with the Service's labels, a balancer's address   |
| PersistentVolumeClaim            | bound to a volume of its own                                                  |
| PodDisruptionBudget              | status                                                                        |
| Namespace                        | ServiceAccount `default`, ConfigMap `kube-root-ca.crt`                        |
| any, with owners                 | deleted when no owner is left, before or after it as the deletion asked for   |

Level-triggered: a write marks its object, and whoever the object belongs to, as due; whatever is due is looked at anew.
`children` and `workloads` (pure) say what is written, `garbage` what is deleted, `client` writes it as
kube-controller-manager. Run it as a task beside `SimServer.serving`.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final

import anyio
import orjson

from hub.sim import children, client, schedules, workloads
from hub.sim.api import Api
from hub.sim.client import Client
from hub.sim.garbage import Garbage
from hub.sim.owners import Item, Owners
from hub.sim.status import ApiError
from hub.sim.store import Event, Table
from hub.sim.workloads import Behaviour, Json, State

AGAIN_S: Final = 1.0
"""After a write that was refused, for example by an injected admission hook."""


class Controllers:
    """One cluster's controllers. `behaviour` may be replaced while they run; `look_again` makes them notice."""

    def __init__(
        self, api: Api, behaviour: Behaviour | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.api = api
        self._clock = clock
        self.behaviour = behaviour or Behaviour()
        self._due: dict[Item, float] = {}
        self._wake = anyio.Event()
        self._since: dict[tuple[str, str], float] = {}
        """When a template of an object was first seen, by uid and hash."""
        self._owners = Owners()
        self._client = Client(api)
        self._garbage = Garbage(self._client, self._owners)
        self._reconcilers: Mapping[Table, Callable[[Item, Json], float | None]] = {
            ("", "namespaces"): self._namespace,
            ("", "services"): self._service,
            ("", "persistentvolumeclaims"): self._claim,
            ("", "pods"): self._pod,
            ("apps", "deployments"): self._deployment,
            ("apps", "replicasets"): self._replica_set,
            ("apps", "statefulsets"): self._stateful_set,
            ("apps", "daemonsets"): self._daemon_set,
            ("batch", "jobs"): self._job,
            ("batch", "cronjobs"): self._cron_job,
            ("autoscaling", "horizontalpodautoscalers"): self._autoscaler,
            ("policy", "poddisruptionbudgets"): self._budget,
        }

    async def run(self) -> None:
        """Works until cancelled."""
        self.start()
        try:
            while True:
                wait_s = self.work()
                with anyio.move_on_after(wait_s):
                    await self._wake.wait()
                self._wake = anyio.Event()
        finally:
            self.stop()

    def start(self) -> None:
        """Listen to writes; what is there already is due."""
        self.api.writes.collects_garbage = True
        self.api.store.listeners.append(self._heard)
        self.look_again()

    def stop(self) -> None:
        self.api.store.listeners.remove(self._heard)
        self.api.writes.collects_garbage = False

    def look_again(self) -> None:
        """Everything is due: at the start, and after a change of `behaviour`."""
        for table in self.api.store.tables():
            for key, record in self.api.store.items(table):
                self._learn((table, key), record.read(), gone=False)
        self._wake.set()

    def work(self) -> float:
        """Do what is due, and how many seconds until more will be."""
        now = self._clock()
        while due := [item for item, at in self._due.items() if at <= now]:
            for item in due:
                del self._due[item]
                try:
                    after_s = self._reconcile(item)
                except ApiError:
                    after_s = AGAIN_S
                if after_s is not None:
                    self._due[item] = min(self._due.get(item, now + after_s), now + max(after_s, 0.001))
        return min(self._due.values(), default=now + 3600.0) - now

    # --- what is due --------------------------------------------------------------------------------------------------

    def _heard(self, table: Table, event: Event) -> None:
        self._learn((table, event.key), event.record.read(), gone=event.type == "DELETED")
        self._wake.set()

    def _learn(self, item: Item, obj: Json, *, gone: bool) -> None:
        if gone:
            for name in [name for name in self._since if name[0] == obj["metadata"].get("uid")]:
                del self._since[name]
        self._mark(*self._owners.learn(item, obj, gone=gone))
        self._mark(item)
        for table in BELONGS.get(item[0], ()):
            self._mark(*((table, key) for key, _ in self.api.store.items(table, item[1][0])))

    def _mark(self, *items: Item) -> None:
        for item in items:
            self._due[item] = 0.0

    def _reconcile(self, item: Item) -> float | None:
        table, key = item
        obj = self._client.read(item)
        if obj is None:
            if table == ("", "services"):
                self._client.delete((("", "endpoints"), key))
            return None
        if self._garbage.collect(item, obj):
            return None
        reconciler = self._reconcilers.get(table)
        return reconciler(item, obj) if reconciler else None

    # --- workloads ----------------------------------------------------------------------------------------------------

    def _template(self, obj: Json) -> tuple[State, float, str]:
        """(state, age, hash) of the Pods of an object's template, or of a Pod."""
        template = obj["spec"].get("template") or {"spec": obj["spec"] if obj.get("kind") == "Pod" else {}}
        name = hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]
        now = self._clock()
        age_s = now - self._since.setdefault((obj["metadata"]["uid"], "" if obj.get("kind") == "Pod" else name), now)
        return workloads.pod_state(template, age_s=age_s, behaviour=self.behaviour), age_s, name

    def _later(self, state: State, age_s: float, *deadlines_s: float) -> float | None:
        """When the next thing happens by itself."""
        ahead = [at - age_s for at in (self.behaviour.ready_s, *deadlines_s) if at > age_s]
        return min(ahead, default=None) if state == "starting" or deadlines_s else None

    def _deployment(self, item: Item, obj: Json) -> float | None:
        state, age_s, name = self._template(obj)
        if self.behaviour.pods:
            self._sets(obj, name)
        self._client.status(item, obj, workloads.deployment(obj, state, age_s=age_s, now=self.api.now()))
        deadline_s = float(obj["spec"].get("progressDeadlineSeconds", 600))
        return self._later(state, age_s, *([] if state == "ready" else [deadline_s]))

    def _sets(self, obj: Json, name: str) -> None:
        """One ReplicaSet for each template that there was; the older ones are empty."""
        table = ("apps", "replicasets")
        sets = self._owned(obj, table)
        wanted = children.replica_set(obj, name, sets.values())
        self._client.ensure(table, wanted)
        for item, old in sets.items():
            if item[1][1] != wanted["metadata"]["name"] and old["spec"].get("replicas"):
                self._client.put(item, {**old, "spec": {**old["spec"], "replicas": 0}})

    def _owned(self, obj: Json, table: Table) -> dict[Item, Json]:
        """What an object owns of a kind, in order."""
        found = ((item, self._client.read(item)) for item in self._owners.dependents(obj) if item[0] == table)
        return {item: one for item, one in found if one is not None}

    def _replica_set(self, item: Item, obj: Json) -> float | None:
        state, age_s, name = self._template(obj)
        self._pods(obj, int(obj["spec"].get("replicas", 1)), name)
        self._client.status(item, obj, workloads.replica_set(obj, state))
        return self._later(state, age_s)

    def _stateful_set(self, item: Item, obj: Json) -> float | None:
        state, age_s, name = self._template(obj)
        if self.behaviour.pods:
            for claim in children.claims(obj):
                self._client.create(("", "persistentvolumeclaims"), claim)
        self._pods(obj, int(obj["spec"].get("replicas", 1)), name)
        revision = f"{obj['metadata']['name']}-{name}"
        self._client.status(item, obj, workloads.stateful_set(obj, state, revision=revision))
        return self._later(state, age_s)

    def _daemon_set(self, item: Item, obj: Json) -> float | None:
        state, age_s, name = self._template(obj)
        nodes = workloads.nodes_for(obj["spec"].get("template") or {}, self.behaviour)
        self._pods(obj, nodes, name)
        self._client.status(item, obj, workloads.daemon_set(obj, state, nodes=nodes))
        return self._later(state, age_s)

    def _pods(self, obj: Json, count: int, name: str) -> None:
        """The Pods of a template, no more and no less."""
        if not self.behaviour.pods:
            return
        wanted = {pod["metadata"]["name"]: pod for pod in children.pods(obj, count, name)}
        for item in self._owners.dependents(obj):
            if item[0] == ("", "pods") and item[1][1] not in wanted:
                self._client.delete(item)
        for pod in wanted.values():
            self._client.create(("", "pods"), pod)

    def _pod(self, item: Item, obj: Json) -> float | None:
        state, age_s, _ = self._template(obj)
        address = f"10.1.{int(obj['metadata']['uid'][:2], 16)}.{int(obj['metadata']['uid'][2:4], 16)}"
        self._client.status(item, obj, workloads.pod(obj, state, now=self.api.now(), address=address))
        return self._later(state, age_s)

    def _job(self, item: Item, obj: Json) -> float | None:
        _, age_s, name = self._template(obj)
        status = workloads.job(obj, age_s=age_s, now=self.api.now(), behaviour=self.behaviour)
        self._client.status(item, obj, status)
        if workloads.finished({"status": status}):
            lives_s = obj["spec"].get("ttlSecondsAfterFinished")
            over = lives_s is not None and age_s >= self.behaviour.ready_s + self.behaviour.job_s + lives_s
            self._pods(obj, 0, name)
            if over:
                self._client.delete(item)
                return None
            return None if lives_s is None else AGAIN_S
        self._pods(obj, int(status.get("active", 0)), name)
        ends = [self.behaviour.ready_s, self.behaviour.job_s, self.behaviour.ready_s + self.behaviour.job_s]
        return self._later("starting", age_s, *ends, float(obj["spec"].get("activeDeadlineSeconds") or 0))

    def _cron_job(self, item: Item, obj: Json) -> float | None:
        now = datetime.fromisoformat(self.api.now())
        minute = now.replace(second=0, microsecond=0)
        status: Json = obj.get("status") or {}
        spec, history = obj["spec"], list(self._owned(obj, ("batch", "jobs")).values())
        running = [job for job in history if not workloads.finished(job)]
        last = max(filter(None, (status.get("lastScheduleTime"), obj["metadata"]["creationTimestamp"])))
        due = minute > datetime.fromisoformat(last) and schedules.due(spec["schedule"], minute)
        if due and not spec.get("suspend") and not (running and spec.get("concurrencyPolicy") == "Forbid"):
            for job in running if spec.get("concurrencyPolicy") == "Replace" else ():
                self._client.delete(client.place(("batch", "jobs"), job))
            self._client.ensure(("batch", "jobs"), children.job(obj, int(minute.timestamp()) // 60))
            status = {**status, "lastScheduleTime": minute.strftime("%Y-%m-%dT%H:%M:%SZ")}
        else:
            status = children.history(status, history)
            for old in children.surplus(spec, history):
                self._client.delete(client.place(("batch", "jobs"), old))
        self._client.status(item, obj, status)
        return 60.0 - now.second

    # --- all else -----------------------------------------------------------------------------------------------------

    def _autoscaler(self, item: Item, obj: Json) -> float | None:
        reference = obj["spec"]["scaleTargetRef"]
        kind = self.api.kinds.of(str(reference.get("apiVersion", "")), str(reference.get("kind", "")))
        key = (item[1][0], str(reference.get("name", "")))
        target = self._client.read((kind.table, key)) if kind is not None else None
        if kind is None or target is None:
            told = [
                ("AbleToScale", "False", "FailedGetScale", "the HPA controller was unable to get the target's scale")
            ]
            self._client.status(item, obj, _scaled(obj, 0, 0, told, self.api.now()))
            return AGAIN_S
        current = int(target["spec"].get("replicas", 1))
        desired, told = workloads.autoscaler(obj, current, wanted=self.behaviour.wanted_replicas.get(item[1]))
        if desired != current:
            self._client.put((kind.table, key), {"spec": {"replicas": desired}}, subresource="scale")
        self._client.status(item, obj, _scaled(obj, desired, desired, told, self.api.now()))
        return AGAIN_S

    def _service(self, item: Item, obj: Json) -> float | None:
        spec = obj["spec"]
        if spec.get("selector") and spec.get("type") != "ExternalName":
            addresses = list(self._addresses(item[1][0], spec["selector"]))
            self._client.ensure(("", "endpoints"), children.endpoints(obj, addresses))
            self._client.ensure(("discovery.k8s.io", "endpointslices"), children.endpoint_slice(obj, addresses))
        if spec.get("type") == "LoadBalancer" and not (obj.get("status") or {}).get("loadBalancer"):
            self._client.status(item, obj, {"loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "VIP"}]}})
        return None

    def _addresses(self, namespace: str, selector: Mapping[str, str]) -> Iterator[str]:
        """Of the ready Pods that a Service selects."""
        for _, record in self.api.store.items(("", "pods"), namespace):
            if selector.items() <= dict(record.labels).items():
                address = (record.read().get("status") or {}).get("podIP")
                if address:
                    yield address

    def _claim(self, item: Item, obj: Json) -> float | None:
        if (obj.get("status") or {}).get("phase") == "Bound":
            return None
        if not obj["spec"].get("volumeName"):
            self._client.put(item, {**obj, "spec": {**obj["spec"], "volumeName": f"pvc-{obj['metadata']['uid']}"}})
            return None  # which makes it due again
        capacity = {"storage": obj["spec"]["resources"]["requests"]["storage"]}
        modes = obj["spec"].get("accessModes") or []
        self._client.status(item, obj, {"phase": "Bound", "accessModes": modes, "capacity": capacity})
        return None

    def _budget(self, item: Item, obj: Json) -> float | None:
        told = [("DisruptionAllowed", "True", "SufficientPods", "")]
        status = {
            "currentHealthy": 1,
            "desiredHealthy": 0,
            "disruptionsAllowed": 1,
            "expectedPods": 1,
            "observedGeneration": obj["metadata"].get("generation", 1),
            "conditions": workloads.conditions(obj.get("status") or {}, told, self.api.now()),
        }
        self._client.status(item, obj, status)
        return None

    def _namespace(self, item: Item, obj: Json) -> float | None:
        for table, made in children.of_namespace(obj):
            self._client.create(table, made)
        return None


BELONGS: Final[Mapping[Table, tuple[Table, ...]]] = {
    ("", "pods"): (("", "services"), ("", "persistentvolumeclaims")),
    ("", "endpoints"): (("", "services"),),
}
"""Which kinds of the same namespace look at a kind."""


def _scaled(obj: Json, current: int, desired: int, told: list[tuple[str, str, str, str]], now: str) -> Json:
    told_before = obj.get("status") or {}
    return {
        "currentMetrics": None,
        "currentReplicas": current,
        "desiredReplicas": desired,
        "conditions": workloads.conditions(told_before, told, now),
    }
