"""The rules of kubernetes-sigs/cli-utils' kstatus, and ours on top: the generation that we applied, and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from proto import health
from proto.messages import Health, worst

SHARED_CASES = Path(__file__).parents[3] / "shared/data/cases/kstatus-15.json"
CREATED = "2026-01-02T03:04:05Z"
CREATED_S = 1767323045.0


def load(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def words(text: str, *, applied_generation: int = 0) -> str:
    found, reason, _ = health.health(load(text), applied_generation=applied_generation)
    return f"{found} {reason}".strip()


@pytest.mark.skipif(not SHARED_CASES.exists(), reason="the shared cases are not beside the checkout")
def test_the_shared_cases_of_kstatus() -> None:
    for case in json.loads(SHARED_CASES.read_text()):
        assert health.health(load(case["manifest"]))[0] == case["expected"], case["name"]


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, generation: 1}
spec: {replicas: 4, progressDeadlineSeconds: 45}
status: {observedGeneration: 1, replicas: 4, updatedReplicas: 4, readyReplicas: 4, availableReplicas: 4, CONDITIONS}
"""
FINE = """conditions: [
  {type: Progressing, status: "True", reason: NewReplicaSetAvailable}, {type: Available, status: "True"}]"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("", "", "Current", id="all there"),
        pytest.param(" replicas: 4, updated", " replicas: 3, updated", "InProgress LessReplicas", id="too few"),
        pytest.param("updatedReplicas: 4", "updatedReplicas: 3", "InProgress LessUpdated", id="old ones"),
        pytest.param(" replicas: 4, updated", " replicas: 5, updated", "InProgress ExtraPods", id="too many"),
        pytest.param("availableReplicas: 4", "availableReplicas: 3", "InProgress LessAvailable", id="not available"),
        pytest.param("readyReplicas: 4", "readyReplicas: 3", "InProgress LessReady", id="not ready"),
        pytest.param("NewReplicaSetAvailable", "Other", "InProgress ReplicaSetNotAvailable", id="no new ReplicaSet"),
        pytest.param(
            "NewReplicaSetAvailable", "ProgressDeadlineExceeded", "Failed ProgressDeadlineExceeded", id="late"
        ),
        pytest.param(
            'Available, status: "True"', 'Available, status: "False"', "InProgress DeploymentNotAvailable", id="down"
        ),
        pytest.param(
            "observedGeneration: 1", "observedGeneration: 0", "InProgress LatestGenerationNotObserved", id="old"
        ),
    ],
)
def test_deployment(old: str, new: str, expected: str) -> None:
    text = DEPLOYMENT.replace("CONDITIONS", FINE)
    assert old in text
    assert words(text.replace(old, new) if old else text) == expected


def test_a_deployment_without_a_progress_deadline_needs_no_progressing_condition() -> None:
    text = DEPLOYMENT.replace(", progressDeadlineSeconds: 45", "")
    assert words(text.replace("CONDITIONS", 'conditions: [{type: Available, status: "True"}]')) == "Current"


STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, generation: 1}
spec: {replicas: 4, STRATEGY}
status: {observedGeneration: 1, replicas: 4, readyReplicas: 4, currentReplicas: 4, updatedReplicas: 2,
         currentRevision: a, updateRevision: a}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("", "", "Current", id="all there"),
        pytest.param(" replicas: 4, ready", " replicas: 3, ready", "InProgress LessReplicas", id="too few"),
        pytest.param("readyReplicas: 4", "readyReplicas: 2", "InProgress LessReady", id="not ready"),
        pytest.param(" replicas: 4, ready", " replicas: 8, ready", "InProgress ExtraPods", id="too many"),
        pytest.param("currentReplicas: 4", "currentReplicas: 2", "InProgress LessCurrent", id="not current"),
        pytest.param("updateRevision: a", "updateRevision: b", "InProgress RevisionMismatch", id="another revision"),
        pytest.param("STRATEGY", "updateStrategy: {type: OnDelete}", "Current OnDelete", id="updated by hand"),
        pytest.param("STRATEGY", "updateStrategy: {rollingUpdate: {partition: 2}}", "Current", id="partition done"),
        pytest.param(
            "STRATEGY", "updateStrategy: {rollingUpdate: {partition: 1}}", "InProgress PartitionRollout", id="partition"
        ),
    ],
)
def test_stateful_set(old: str, new: str, expected: str) -> None:
    text = STATEFUL_SET.replace(old, new) if old else STATEFUL_SET
    assert words(text.replace(", STRATEGY", "")) == expected


DAEMON_SET = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs, generation: 1}
status: {observedGeneration: 1, desiredNumberScheduled: 4, currentNumberScheduled: 4, updatedNumberScheduled: 4,
         numberAvailable: 4, numberReady: 4}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("", "", "Current", id="all there"),
        pytest.param(", generation: 1", "", "InProgress NoGeneration", id="no generation"),
        pytest.param("observedGeneration: 1, ", "", "InProgress NoObservedGeneration", id="not seen"),
        pytest.param("desiredNumberScheduled: 4, ", "", "InProgress NoDesiredNumber", id="not counted"),
        pytest.param("currentNumberScheduled: 4", "currentNumberScheduled: 3", "InProgress LessCurrent", id="too few"),
        pytest.param("updatedNumberScheduled: 4", "updatedNumberScheduled: 3", "InProgress LessUpdated", id="old ones"),
        pytest.param("numberAvailable: 4", "numberAvailable: 2", "InProgress LessAvailable", id="not available"),
        pytest.param("numberReady: 4", "numberReady: 2", "InProgress LessReady", id="not ready"),
        pytest.param("Scheduled: 4", "Scheduled: 0", "Current", id="no node for it"),
    ],
)
def test_daemon_set(old: str, new: str, expected: str) -> None:
    assert words(DAEMON_SET.replace(old, new) if old else DAEMON_SET) == expected


REPLICA_SET = """
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web, generation: 1}
spec: {replicas: 4}
status: {observedGeneration: 1, replicas: 4, readyReplicas: 4, availableReplicas: 4, fullyLabeledReplicas: 4,
         conditions: [{type: ReplicaFailure, status: "False"}]}
"""


@pytest.mark.parametrize("kind", ["apps/v1 ReplicaSet", "extensions/v1beta1 ReplicaSet", "v1 ReplicationController"])
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("", "", "Current", id="all there"),
        pytest.param('"False"', '"True"', "InProgress ReplicaFailure", id="Pods refused"),
        pytest.param("fullyLabeledReplicas: 4", "fullyLabeledReplicas: 3", "InProgress LessLabelled", id="labels"),
        pytest.param("availableReplicas: 4", "availableReplicas: 2", "InProgress LessAvailable", id="not available"),
        pytest.param("readyReplicas: 4", "readyReplicas: 2", "InProgress LessReady", id="not ready"),
        pytest.param(" replicas: 4, ready", " replicas: 5, ready", "InProgress ExtraPods", id="too many"),
    ],
)
def test_replica_set(kind: str, old: str, new: str, expected: str) -> None:
    api_version, name = kind.split()
    text = REPLICA_SET.replace("apps/v1", api_version).replace("ReplicaSet\n", f"{name}\n")
    assert words(text.replace(old, new) if old else text) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param("", "InProgress PodNotObserved", id="no status"),
        pytest.param("phase: Succeeded", "Current PodSucceeded", id="done"),
        pytest.param("phase: Failed", "Current PodFailed", id="done, badly"),
        pytest.param('phase: Running, conditions: [{type: Ready, status: "True"}]', "Current", id="ready"),
        pytest.param("phase: Running", "InProgress PodRunningNotReady", id="running"),
        pytest.param("phase: Pending", "InProgress PodPending", id="pending"),
        pytest.param(
            'phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated}]',
            "InProgress PodPending",
            id="gated",
        ),
        pytest.param(
            "phase: Running, containerStatuses: [{name: a}, {name: b, state: {waiting: {reason: CrashLoopBackOff}}}]",
            "Failed ContainerCrashLooping",
            id="crash loop",
        ),
        pytest.param("phase: Dreaming", "Unknown UnknownPhase", id="a phase of tomorrow"),
    ],
)
def test_pod(status: str, expected: str) -> None:
    text = f"{{apiVersion: v1, kind: Pod, metadata: {{name: x, generation: 1}}, status: {{{status}}}}}"
    assert words(text) == expected


@pytest.mark.parametrize(
    ("age_s", "created", "expected"),
    [
        pytest.param(0.0, CREATED, Health.IN_PROGRESS, id="new"),
        pytest.param(14.9, CREATED, Health.IN_PROGRESS, id="within the window"),
        pytest.param(15.0, CREATED, Health.FAILED, id="after the window"),
        pytest.param(0.0, "", Health.FAILED, id="no time of creation"),
        pytest.param(0.0, "yesterday", Health.FAILED, id="a time of creation that is none"),
    ],
)
def test_a_pod_that_fits_nowhere_gets_time_to_be_scheduled(age_s: float, created: str, expected: Health) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "creationTimestamp": created},
        "status": {"phase": "Pending", "conditions": [condition]},
    }
    found, _, message = health.health(pod, now_s=CREATED_S + age_s)
    assert (found, message) == (expected, "0/3 nodes fit")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param("", "InProgress JobNotStarted", id="no status"),
        pytest.param(f'startTime: "{CREATED}", active: 1', "Current JobRunning", id="running"),
        pytest.param('conditions: [{type: Complete, status: "True"}]', "Current JobComplete", id="complete"),
        pytest.param('conditions: [{type: Failed, status: "True"}]', "Failed JobFailed", id="failed"),
        pytest.param('conditions: [{type: Suspended, status: "True"}]', "Current JobSuspended", id="suspended"),
        pytest.param('conditions: [{type: Complete, status: "False"}]', "InProgress JobNotStarted", id="not yet"),
    ],
)
def test_job(status: str, expected: str) -> None:
    assert words(f"{{apiVersion: batch/v1, kind: Job, metadata: {{name: x}}, status: {{{status}}}}}") == expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param("", "InProgress Installing", id="no conditions"),
        pytest.param(
            '{type: NamesAccepted, status: "True"}, {type: Established, status: "False", reason: Installing}',
            "InProgress Installing",
            id="installing",
        ),
        pytest.param('{type: NamesAccepted, status: "False", reason: Taken}', "Failed Taken", id="names taken"),
        pytest.param('{type: Established, status: "False", reason: Broken}', "Failed Broken", id="not established"),
        pytest.param('{type: Established, status: "True"}', "Current", id="established"),
    ],
)
def test_custom_resource_definition(conditions: str, expected: str) -> None:
    text = f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: x, generation: 1}}
status: {{conditions: [{conditions}]}}
"""
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}", "Current", id="ConfigMap"),
        pytest.param("{apiVersion: v1, kind: Secret, metadata: {name: x}}", "Current", id="Secret"),
        pytest.param("{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, status: }", "Current", id="CronJob"),
        pytest.param("{apiVersion: v1, kind: Service, metadata: {name: x}}", "Current", id="Service"),
        pytest.param(
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: LoadBalancer}}",
            "InProgress NoIPAssigned",
            id="LoadBalancer without an address",
        ),
        pytest.param(
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1}}",
            "Current",
            id="LoadBalancer",
        ),
        pytest.param(
            "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}}",
            "InProgress NotBound",
            id="claim without a volume",
        ),
        pytest.param(
            "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, status: {phase: Bound}}",
            "Current",
            id="claim",
        ),
        pytest.param(
            "{apiVersion: policy/v1, kind: PodDisruptionBudget, "
            "metadata: {generation: 1}, status: {observedGeneration: 1}}",
            "Current",
            id="PodDisruptionBudget",
        ),
        pytest.param(
            "{apiVersion: policy/v1, kind: PodDisruptionBudget, "
            "metadata: {generation: 2}, status: {observedGeneration: 1}}",
            "InProgress LatestGenerationNotObserved",
            id="PodDisruptionBudget not seen",
        ),
        pytest.param(
            "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, "
            "status: {conditions: [{type: Available, status: 'True', reason: Passed}]}}",
            "Current",
            id="APIService",
        ),
        pytest.param(
            "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, "
            "status: {conditions: [{type: Available, status: 'False', reason: MissingEndpoints}]}}",
            "InProgress MissingEndpoints",
            id="APIService without a server",
        ),
        pytest.param(
            "{apiVersion: apiregistration.k8s.io/v1, kind: APIService}",
            "InProgress NotAvailable",
            id="APIService not looked at",
        ),
        pytest.param(
            "{apiVersion: serving.example.org/v1, kind: Service, metadata: {name: x}, spec: {type: LoadBalancer}}",
            "Current NoStatus",
            id="somebody else's Service",
        ),
    ],
)
def test_other_kinds(text: str, expected: str) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param("{}", "Current NoStatus", id="no status"),
        pytest.param("null", "Current NoStatus", id="null status"),
        pytest.param("{conditions: [{type: Some, status: 'False'}]}", "Current", id="no condition that we know"),
        pytest.param("{conditions: [{type: Ready, status: 'True', reason: AllOk}]}", "Current AllOk", id="ready"),
        pytest.param("{conditions: [{type: Ready, status: 'False', reason: Not}]}", "InProgress Not", id="not ready"),
        pytest.param("{conditions: [{type: Ready, status: Unknown}]}", "InProgress NotReady", id="ready unknown"),
        pytest.param("{conditions: [{type: Stalled, status: 'True', reason: R}]}", "Failed R", id="stalled"),
        pytest.param("{conditions: [{type: Stalled, status: 'False'}]}", "Current", id="not stalled"),
        pytest.param(
            "{conditions: [{type: Ready, status: 'True'}, {type: Reconciling, status: 'True', reason: R}]}",
            "InProgress R",
            id="reconciling counts before ready",
        ),
        pytest.param("{observedGeneration: 1}", "InProgress LatestGenerationNotObserved", id="old generation"),
        pytest.param("{observedGeneration: 2}", "Current", id="this generation"),
        pytest.param(
            "{conditions: [{type: Ready, status: 'True', observedGeneration: 1}]}",
            "InProgress LatestGenerationNotObserved",
            id="ready, at an old generation",
        ),
        pytest.param(
            "{conditions: [{type: Ready, status: 'True', reason: Ok, observedGeneration: 2}]}",
            "Current Ok",
            id="ready, at this generation",
        ),
        pytest.param(
            "{observedGeneration: 2, conditions: [{type: Ready, status: 'True', reason: Ok, observedGeneration: 1}]}",
            "Current Ok",
            id="the whole status is of this generation",
        ),
        pytest.param(
            "{conditions: [{type: Stalled, status: 'True', observedGeneration: 1}, {type: Ready, status: 'False'}]}",
            "InProgress NotReady",
            id="stalled, at an old generation",
        ),
        pytest.param("{observedGeneration: x, conditions: [3, {}]}", "Current", id="nonsense"),
        pytest.param("[1]", "Current NoStatus", id="a status that is no mapping"),
    ],
)
def test_custom_resource(status: str, expected: str) -> None:
    text = f"{{apiVersion: example.org/v1, kind: Thing, metadata: {{name: x, generation: 2}}, status: {status}}}"
    assert words(text) == expected


def test_what_is_being_deleted_is_terminating_and_names_what_it_waits_for() -> None:
    text = DEPLOYMENT.replace("CONDITIONS", FINE).replace(
        "generation: 1}", f"generation: 1, deletionTimestamp: '{CREATED}', finalizers: [example.org/x]}}", 1
    )
    assert health.health(load(text)) == (
        Health.TERMINATING,
        "Deleting",
        "is being deleted, waits for example.org/x",
    )


@pytest.mark.parametrize(
    ("applied", "expected"),
    [
        pytest.param(0, "Current", id="not known"),
        pytest.param(1, "Current", id="this one"),
        pytest.param(2, "InProgress LatestGenerationNotObserved", id="the object shown is from before our write"),
    ],
)
def test_a_status_counts_only_at_the_generation_that_we_applied(applied: int, expected: str) -> None:
    assert words(DEPLOYMENT.replace("CONDITIONS", FINE), applied_generation=applied) == expected


def test_messages_say_what_is_missing_and_where_to_look() -> None:
    text = DEPLOYMENT.replace("CONDITIONS", FINE)
    assert health.health(load(text.replace("readyReplicas: 4", "readyReplicas: 1")))[2] == "1 of 4 replicas are ready"
    looping = load(
        """
apiVersion: v1
kind: Pod
status:
  phase: Running
  containerStatuses: [{name: app, state: {waiting: {reason: CrashLoopBackOff}}}]
"""
    )
    assert health.health(looping)[2] == "crash over and over: app; look at their logs"


@pytest.mark.parametrize("junk", [{}, {"metadata": 1, "status": 2, "spec": 3}, {"apiVersion": None, "kind": 7}])
def test_nonsense_is_judged_without_an_error(junk: dict[str, Any]) -> None:
    kinds = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"]
    for api_version, kind in [("apps/v1", kind) for kind in kinds] + [("v1", "Pod"), ("batch/v1", "Job")]:
        assert health.health({"apiVersion": api_version, "kind": kind, **junk})[0] in Health


@pytest.mark.parametrize(
    ("group", "kind", "expected"),
    [
        ("", "ConfigMap", False),
        ("", "Secret", False),
        ("", "Pod", True),
        ("apps", "Deployment", True),
        ("batch", "CronJob", False),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding", False),
        ("example.org", "ConfigMap", True),
        ("example.org", "Thing", True),
    ],
)
def test_only_kinds_known_to_need_no_status_are_watched_without_it(group: str, kind: str, expected: bool) -> None:
    assert health.needs_status(group, kind) is expected


def test_kinds_that_need_no_status_are_current_by_their_metadata_alone() -> None:
    for group, kinds in health._STATUSLESS.items():
        for kind in kinds:
            obj = {"apiVersion": f"{group}/v1" if group else "v1", "kind": kind, "metadata": {"name": "x"}}
            assert health.health(obj) == (Health.CURRENT, "", ""), kind


def test_the_worst_word_describes_a_group() -> None:
    assert worst([]) is Health.CURRENT
    assert worst([Health.CURRENT, Health.UNKNOWN]) is Health.UNKNOWN
    assert worst([Health.CURRENT, Health.IN_PROGRESS, Health.UNKNOWN]) is Health.IN_PROGRESS
    assert worst(Health) is Health.FAILED
