"""What the simulated controllers write is what the real ones write: the same statuses, owned by the same manager."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest
import yaml

from hub.openapi.schema import schemas
from hub.sim.api import Api
from hub.sim.controllers import Controllers
from hub.sim.store import Store
from hub.sim.writes import Options
from tests.real import ApiServer, wait_until

pytestmark = pytest.mark.real

OBJECTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node}
spec:
  selector: {matchLabels: {app: node}}
  template: {metadata: {labels: {app: node}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: rs}
spec:
  selector: {matchLabels: {app: rs}}
  template: {metadata: {labels: {app: rs}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {team: a}}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: pdb}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
"""
READY: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    "Deployment": lambda status: status.get("availableReplicas") == 2,
    "StatefulSet": lambda status: status.get("availableReplicas") == 1,
    "DaemonSet": lambda status: status.get("numberAvailable") == 1,
    "ReplicaSet": lambda status: status.get("availableReplicas") == 1,
    "Job": lambda status: any(c["type"] == "Complete" for c in status.get("conditions", ())),
    "PersistentVolumeClaim": lambda status: status.get("phase") == "Bound",
    "Service": lambda status: True,
    "PodDisruptionBudget": lambda status: status.get("currentHealthy", 0) >= 1,
}
VALUES_DIFFER = {
    "startTime",
    "completionTime",
    "currentRevision",
    "updateRevision",
    "currentHealthy",
    "desiredHealthy",
    "disruptionsAllowed",
    "expectedPods",
}
"""Hashes are made another way; a simulated budget counts no Pods."""


MANIFESTS = [pytest.param(obj, id=obj["kind"]) for obj in yaml.safe_load_all(OBJECTS)]


@pytest.fixture(scope="module")
def namespace(kube: ApiServer) -> str:
    name = f"status-{uuid4().hex[:8]}"
    kube.must("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_until("the default account", lambda: kube.call("GET", account)[0] == 200)
    for obj in yaml.safe_load_all(OBJECTS):
        kube.must("POST", path(obj, name), obj)
    return name


@pytest.fixture(scope="module")
def simulated() -> Api:
    api = Api(Store())
    controllers = Controllers(api)
    controllers.start()
    for obj in yaml.safe_load_all(OBJECTS):
        kind = api.kinds.of(obj["apiVersion"], obj["kind"])
        assert kind is not None
        api.create(kind, ("default", ""), obj, Options(manager="test"))
    controllers.work()
    return api


def path(obj: dict[str, Any], namespace: str, name: str = "") -> str:
    [info] = [
        info for info in schemas().resources() if (info.api_version, info.kind) == (obj["apiVersion"], obj["kind"])
    ]
    root = "apis" if info.group else "api"
    return f"/{root}/{obj['apiVersion']}/namespaces/{namespace}/{info.plural}{name and '/'}{name}"


def of_real(kube: ApiServer, namespace: str, obj: dict[str, Any]) -> dict[str, Any]:
    def ready() -> Any:
        found = kube.must("GET", path(obj, namespace, obj["metadata"]["name"]))
        return found if READY[obj["kind"]](found.get("status") or {}) else None

    found: dict[str, Any] = wait_until(f"a ready {obj['kind']}", ready)
    return found


def of_simulated(api: Api, obj: dict[str, Any]) -> dict[str, Any]:
    kind = api.kinds.of(obj["apiVersion"], obj["kind"])
    assert kind is not None
    return api.get(kind, ("default", obj["metadata"]["name"]))


def told(obj: dict[str, Any]) -> dict[str, Any]:
    """A status without what no two clusters share."""
    status: dict[str, Any] = {
        key: "…" if key in VALUES_DIFFER else value for key, value in (obj.get("status") or {}).items()
    }
    if "conditions" in status:
        status["conditions"] = sorted((c["type"], c["status"], c.get("reason")) for c in status["conditions"])
    return status


@pytest.mark.parametrize("obj", MANIFESTS)
def test_a_ready_object_has_the_status_that_the_real_controllers_write(
    kube: ApiServer, namespace: str, simulated: Api, obj: dict[str, Any]
) -> None:
    assert told(of_simulated(simulated, obj)) == told(of_real(kube, namespace, obj))


# Who of the binder and the provisioner writes first to a claim is chance.
@pytest.mark.parametrize("obj", [one for one in MANIFESTS if one.id != "PersistentVolumeClaim"])
def test_controllers_own_what_they_write_and_move_no_generation(
    kube: ApiServer, namespace: str, simulated: Api, obj: dict[str, Any]
) -> None:
    def owners(found: dict[str, Any]) -> tuple[Any, set[tuple[str, str, str]]]:
        entries = found["metadata"]["managedFields"]
        mine = {
            (e["manager"], e["operation"], e.get("subresource", "")) for e in entries if "controller" in e["manager"]
        }
        return found["metadata"].get("generation"), mine

    assert owners(of_simulated(simulated, obj)) == owners(of_real(kube, namespace, obj))


def test_endpoints_carry_the_labels_of_their_service(kube: ApiServer, namespace: str, simulated: Api) -> None:
    kind = simulated.kinds.of("v1", "Endpoints")
    assert kind is not None
    ours: dict[str, Any] = simulated.get(kind, ("default", "web"))

    def real() -> Any:
        status, found = kube.call("GET", f"/api/v1/namespaces/{namespace}/endpoints/web")
        return found if status == 200 and len((found.get("subsets") or [{}])[0].get("addresses") or ()) == 2 else None

    theirs: dict[str, Any] = wait_until("two addresses", real)
    assert ours["metadata"]["labels"] == theirs["metadata"]["labels"]
    assert ours["subsets"][0]["ports"] == theirs["subsets"][0]["ports"]
    assert len(ours["subsets"][0]["addresses"]) == 2
