"""Workloads of a simulated cluster come to what they would on a real one, and their controllers own what they write."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from hub.sim import schedules, workloads
from hub.sim.api import Api
from hub.sim.controllers import Controllers
from hub.sim.status import ApiError
from hub.sim.store import Store
from hub.sim.workloads import Behaviour, pod_state
from hub.sim.writes import Options

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  replicas: 2
  progressDeadlineSeconds: 60
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, labels: {team: a, applyset.kubernetes.io/part-of: set-1}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: default}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}
"""


class Cluster:
    """One cluster on a clock of its own."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.clock = 100.0
        self.api = Api(Store(), now=lambda: datetime.fromtimestamp(self.clock, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.controllers = Controllers(self.api, behaviour, clock=lambda: self.clock)
        self.controllers.start()
        self.pass_time(0)

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        self.controllers.work()

    def apply(self, manifest: str | dict[str, Any]) -> dict[str, Any]:
        obj: dict[str, Any] = yaml.safe_load(manifest) if isinstance(manifest, str) else manifest
        kind = self.api.kinds.of(obj["apiVersion"], obj["kind"])
        assert kind is not None
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        self.api.patch(kind, key, obj, Options(manager="test", force=True), how="apply")
        self.pass_time(0)
        return self.get(obj["kind"], key[1])

    def all(self, kind: str) -> list[dict[str, Any]]:
        [info] = [info for info in self.api.kinds.infos() if info.kind == kind and info.version in ("v1", "v2")][:1]
        return [record.read() for _, record in self.api.store.items((info.group, info.plural))]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        [found] = [obj for obj in self.all(kind) if obj["metadata"]["name"] == name]
        return found

    def delete(self, kind: str, name: str, propagation: str = "Background") -> None:
        [info] = [info for info in self.api.kinds.infos() if info.kind == kind][:1]
        found = self.api.kinds.find(info.group, info.version, info.plural)
        assert found is not None
        namespace = "default" if info.namespaced else ""
        self.api.delete(found, (namespace, name), Options(propagation=propagation))
        self.pass_time(0)


def condition(obj: dict[str, Any], type_: str) -> tuple[str, str]:
    [found] = [c for c in obj["status"]["conditions"] if c["type"] == type_]
    return found["status"], found.get("reason", "")


def test_a_deployment_becomes_available_after_its_time() -> None:
    cluster = Cluster(Behaviour(ready_s=5))
    web = cluster.apply(DEPLOYMENT)
    assert web["status"]["observedGeneration"] == 1
    assert condition(web, "Available") == ("False", "MinimumReplicasUnavailable")
    assert condition(web, "Progressing") == ("True", "ReplicaSetUpdated")
    cluster.pass_time(5)
    web = cluster.get("Deployment", "web")
    assert web["status"]["availableReplicas"] == web["status"]["updatedReplicas"] == 2
    assert condition(web, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert web["metadata"]["generation"] == 1
    [entry] = [e for e in web["metadata"]["managedFields"] if e["manager"] == "kube-controller-manager"]
    assert entry["subresource"] == "status"


def test_a_deployment_has_a_replica_set_and_pods_that_go_with_it() -> None:
    cluster = Cluster()
    cluster.apply(DEPLOYMENT)
    assert len(cluster.all("ReplicaSet")) == 1
    assert [pod["status"]["phase"] for pod in cluster.all("Pod")] == ["Running", "Running"]
    cluster.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 1"))
    assert len(cluster.all("Pod")) == 1
    cluster.delete("Deployment", "web")
    assert cluster.all("ReplicaSet") == []
    assert cluster.all("Pod") == []


def test_the_replica_set_of_the_present_template_has_the_newest_revision_also_when_it_was_there_before() -> None:
    cluster = Cluster()
    for image, numbers in (("web:1", ["1"]), ("web:2", ["1", "2"]), ("web:2", ["1", "2"]), ("web:1", ["2", "3"])):
        cluster.apply(DEPLOYMENT.replace("web:1", image))
        sets = {
            found["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: found
            for found in cluster.all("ReplicaSet")
        }
        assert sorted(sets) == numbers
        [container] = sets[numbers[-1]]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image
        assert [found["spec"]["replicas"] for found in sets.values()].count(2) == 1


def test_a_pod_that_somebody_deletes_comes_back() -> None:
    cluster = Cluster()
    cluster.apply(DEPLOYMENT)
    pod = cluster.all("Pod")[0]["metadata"]
    cluster.delete("Pod", pod["name"])
    assert cluster.get("Pod", pod["name"])["metadata"]["uid"] != pod["uid"]


@pytest.mark.parametrize(
    ("written", "state"),
    [
        pytest.param('image: "broken:1"', "no image", id="an image that cannot be pulled"),
        pytest.param('image: "failing:1"', "crashing", id="an image that fails"),
        pytest.param('image: "web:2"}], nodeSelector: {disk: fast}, volumes: [{name: a', "unschedulable", id="no node"),
    ],
)
def test_a_template_that_cannot_run_passes_its_deadline_while_the_old_pods_go_on(written: str, state: str) -> None:
    cluster = Cluster()
    cluster.apply(DEPLOYMENT)
    obj = yaml.safe_load(DEPLOYMENT.replace('image: "web:1"', written))
    assert pod_state(obj["spec"]["template"], age_s=99, behaviour=Behaviour()) == state
    web = cluster.apply(obj)
    assert web["status"]["availableReplicas"] == 2
    assert web["status"]["updatedReplicas"] == 1
    assert condition(web, "Progressing") == ("True", "ReplicaSetUpdated")
    cluster.pass_time(60)
    web = cluster.get("Deployment", "web")
    assert condition(web, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert condition(web, "Available") == ("True", "MinimumReplicasAvailable")
    web = cluster.apply(DEPLOYMENT)
    assert condition(web, "Progressing") == ("True", "NewReplicaSetAvailable")


def test_nothing_is_written_when_nothing_happens() -> None:
    cluster = Cluster()
    cluster.apply(DEPLOYMENT)
    cluster.apply(SERVICE)
    before = cluster.api.store.revision
    for _ in range(5):
        cluster.pass_time(30)
    cluster.controllers.look_again()
    cluster.pass_time(0)
    assert cluster.api.store.revision == before


def test_a_job_runs_to_completion_or_fails_by_its_image() -> None:
    cluster = Cluster(Behaviour(job_s=3))
    job = cluster.apply(JOB)
    assert job["status"]["active"] == 1
    cluster.pass_time(3)
    job = cluster.get("Job", "migrate")
    assert condition(job, "Complete")[0] == "True"
    assert job["status"]["succeeded"] == 1
    ended = job["status"]["completionTime"]
    cluster.pass_time(30)
    assert cluster.get("Job", "migrate")["status"]["completionTime"] == ended
    cluster.apply(JOB.replace("name: migrate", "name: bad").replace("a:1", "failing:1"))
    cluster.pass_time(3)
    assert condition(cluster.get("Job", "bad"), "Failed") == ("True", "BackoffLimitExceeded")


def test_a_finished_job_goes_when_its_time_to_live_is_over() -> None:
    cluster = Cluster()
    cluster.apply(JOB.replace("spec: {template", "spec: {ttlSecondsAfterFinished: 10, template", 1))
    assert len(cluster.all("Job")) == 1
    cluster.pass_time(11)
    assert cluster.all("Job") == []


CRON_JOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup, namespace: default}
spec:
  schedule: "*/2 * * * *"
  successfulJobsHistoryLimit: 2
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}}
"""


def test_a_cron_job_makes_a_job_each_time_it_is_due_and_keeps_the_last() -> None:
    cluster = Cluster()
    cluster.apply(CRON_JOB)
    assert cluster.all("Job") == []
    names = []
    for _ in range(4):
        cluster.pass_time(60)
        cluster.pass_time(60)
        names.append(max(job["metadata"]["name"] for job in cluster.all("Job")))
    assert len(set(names)) == 4
    assert [job["metadata"]["name"] for job in cluster.all("Job")] == names[-2:]
    backup = cluster.get("CronJob", "backup")
    assert backup["status"]["lastScheduleTime"] == "1970-01-01T00:08:00Z"
    cluster.delete("CronJob", "backup")
    assert cluster.all("Job") == []


def test_a_suspended_cron_job_makes_nothing() -> None:
    cluster = Cluster()
    cluster.apply(CRON_JOB.replace("spec:\n", "spec:\n  suspend: true\n", 1))
    cluster.pass_time(120)
    assert cluster.all("Job") == []


@pytest.mark.parametrize(
    ("schedule", "at", "due"),
    [
        ("0 3 * * *", "2026-01-01T03:00", True),
        ("0 3 * * *", "2026-01-01T03:01", False),
        ("@daily", "2026-01-01T00:00", True),
        ("*/15 9-17 * * mon-fri", "2026-01-02T09:45", True),
        ("*/15 9-17 * * mon-fri", "2026-01-03T09:45", False),
        ("0 0 1,15 * *", "2026-01-15T00:00", True),
        ("0 0 13 * fri", "2026-01-02T00:00", True),
        ("0 0 13 * fri", "2026-01-13T00:00", True),
        ("0 0 * jan sun", "2026-01-04T00:00", True),
        ("0 0 * * 7", "2026-01-04T00:00", True),
        ("5/20 * * * *", "2026-01-04T00:45", True),
        ("@every 5m", "2026-01-04T00:05", False),
        ("99 * * * *", "2026-01-04T00:05", False),
        ("nonsense", "2026-01-04T00:05", False),
    ],
)
def test_a_schedule_is_due_as_cron_has_it(schedule: str, at: str, due: bool) -> None:
    assert schedules.due(schedule, datetime.fromisoformat(at)) == due


def test_a_service_gives_its_labels_to_its_endpoints_and_takes_them_along() -> None:
    cluster = Cluster()
    cluster.apply(DEPLOYMENT)
    cluster.apply(SERVICE)
    for kind in ("Endpoints", "EndpointSlice"):
        [found] = cluster.all(kind)
        assert found["metadata"]["labels"]["applyset.kubernetes.io/part-of"] == "set-1"
    [slice_] = cluster.all("EndpointSlice")
    assert len(slice_["endpoints"]) == 2
    assert slice_["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
    cluster.apply(SERVICE.replace("team: a", "team: b"))
    assert cluster.all("Endpoints")[0]["metadata"]["labels"]["team"] == "b"
    cluster.delete("Service", "web")
    assert cluster.all("Endpoints") == cluster.all("EndpointSlice") == []


def test_an_autoscaler_scales_its_target_as_the_controller_manager() -> None:
    cluster = Cluster(Behaviour(wanted_replicas={("default", "web"): 9}))
    cluster.apply(DEPLOYMENT)
    cluster.apply(
        """
        apiVersion: autoscaling/v2
        kind: HorizontalPodAutoscaler
        metadata: {name: web, namespace: default}
        spec: {maxReplicas: 4, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
        """
    )
    web = cluster.get("Deployment", "web")
    assert web["spec"]["replicas"] == 4
    scaled = [e for e in web["metadata"]["managedFields"] if e.get("subresource") == "scale"]
    assert [e["manager"] for e in scaled] == ["kube-controller-manager"]
    assert scaled[0]["fieldsV1"] == {"f:spec": {"f:replicas": {}}}
    assert cluster.all("HorizontalPodAutoscaler")[0]["status"]["desiredReplicas"] == 4


def test_stateful_and_daemon_sets_become_ready_with_claims_bound() -> None:
    cluster = Cluster()
    state = yaml.safe_load(DEPLOYMENT)
    del state["spec"]["progressDeadlineSeconds"]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claims = {"serviceName": "web", "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]}
    found = cluster.apply({**state, "kind": "StatefulSet", "spec": {**state["spec"], **claims}})
    assert found["status"]["readyReplicas"] == 2
    assert found["status"]["currentRevision"] == found["status"]["updateRevision"]
    assert [pvc["status"]["phase"] for pvc in cluster.all("PersistentVolumeClaim")] == ["Bound", "Bound"]
    del state["spec"]["replicas"]
    found = cluster.apply({**state, "kind": "DaemonSet"})
    assert found["status"]["numberAvailable"] == found["status"]["desiredNumberScheduled"] == 1


def test_every_namespace_gets_an_account_and_the_root_certificate() -> None:
    cluster = Cluster()
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    for kind, name in (("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")):
        assert ("shop", name) in {(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in cluster.all(kind)}
    cluster.delete("Namespace", "shop")
    assert "shop" not in {obj["metadata"]["name"] for obj in cluster.all("Namespace")}


OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": "default"}}


def owned(name: str, uid: str) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": True}
    metadata = {"name": name, "namespace": "default", "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def config_maps(cluster: Cluster) -> set[str]:
    return {obj["metadata"]["name"] for obj in cluster.all("ConfigMap")} - {"kube-root-ca.crt"}


@pytest.mark.parametrize(("propagation", "left"), [("Background", False), ("Foreground", False), ("Orphan", True)])
def test_dependents_go_with_their_owner_unless_it_leaves_orphans(propagation: str, left: bool) -> None:
    cluster = Cluster()
    uid = cluster.apply(OWNER)["metadata"]["uid"]
    cluster.apply(owned("dependent", uid))
    cluster.delete("ConfigMap", "owner", propagation)
    assert config_maps(cluster) == ({"dependent"} if left else set())
    if left:
        assert "ownerReferences" not in cluster.get("ConfigMap", "dependent")["metadata"]


def test_what_goes_with_its_dependents_goes_although_its_owner_went_before() -> None:
    cluster = Cluster()
    first = cluster.apply(OWNER)["metadata"]["uid"]
    second = cluster.apply(owned("second", first))["metadata"]["uid"]
    third = owned("third", second)
    third["metadata"]["finalizers"] = ["example.org/slow"]
    cluster.apply(third)
    cluster.delete("ConfigMap", "second", "Foreground")
    cluster.delete("ConfigMap", "owner")
    assert config_maps(cluster) == {"second", "third"}
    third["metadata"]["finalizers"] = []
    kind = cluster.api.kinds.of("v1", "ConfigMap")
    assert kind is not None
    cluster.api.patch(kind, ("default", "third"), third, Options(manager="test"), how="apply")
    cluster.pass_time(0)
    assert config_maps(cluster) == set()


def test_what_was_given_away_stays_when_its_former_owner_goes() -> None:
    cluster = Cluster()
    uid = cluster.apply(OWNER)["metadata"]["uid"]
    cluster.apply(owned("dependent", uid))
    cluster.apply({**OWNER, "metadata": {"name": "dependent", "namespace": "default"}})
    cluster.delete("ConfigMap", "owner", "Foreground")
    assert config_maps(cluster) == {"dependent"}


def test_an_object_whose_owner_never_was_is_collected() -> None:
    cluster = Cluster()
    kind = cluster.api.kinds.of("v1", "ConfigMap")
    assert kind is not None
    cluster.api.create(kind, ("default", ""), owned("lonely", "no-such-uid"), Options())
    cluster.pass_time(0)
    assert config_maps(cluster) == set()


def test_a_refused_write_is_tried_again() -> None:
    cluster = Cluster()
    refusing = True

    def hook(review: Any) -> None:
        if refusing and review.subresource == "status":
            raise ApiError(500, "not now")

    cluster.api.admission.append(hook)
    assert not cluster.apply(DEPLOYMENT).get("status")
    refusing = False
    cluster.pass_time(2)
    assert condition(cluster.get("Deployment", "web"), "Available")[0] == "True"


def test_controllers_that_were_killed_go_on_where_they_were() -> None:
    cluster = Cluster(Behaviour(ready_s=5))
    cluster.apply(DEPLOYMENT)
    cluster.controllers.stop()
    cluster.controllers = Controllers(cluster.api, Behaviour(ready_s=5), clock=lambda: cluster.clock)
    cluster.controllers.start()
    cluster.pass_time(0)
    cluster.pass_time(6)
    assert condition(cluster.get("Deployment", "web"), "Available")[0] == "True"
    assert len(cluster.all("Pod")) == 2


def test_conditions_keep_the_time_of_their_change() -> None:
    first = workloads.conditions({}, [("Ready", "False", "Waiting", "")], "t1")
    same = workloads.conditions({"conditions": first}, [("Ready", "False", "Other", "")], "t2")
    assert same == [{"type": "Ready", "status": "False", "reason": "Other", "lastTransitionTime": "t1"}]
    assert (
        workloads.conditions({"conditions": same}, [("Ready", "True", "", "")], "t3")[0]["lastTransitionTime"] == "t3"
    )
