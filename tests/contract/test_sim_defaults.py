"""What the simulated API server fills in is what the real one fills in: every object sent to it as a dry run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from hub.openapi.schema import schemas
from hub.sim import defaults
from tests.real import ApiServer

pytestmark = pytest.mark.real

FLEETS = Path(__file__).parents[3] / "shared/data/real"
"""Real fleets' sources lie beside a developer's checkout and are no part of it."""

OBJECTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: full, annotations: {}, labels: {app: full}}
spec:
  replicas: 0
  paused: false
  minReadySeconds: 0
  selector: {matchLabels: {app: full}}
  template:
    metadata: {labels: {app: full}, creationTimestamp: null}
    spec:
      hostNetwork: true
      serviceAccountName: robot
      nodeSelector: {}
      securityContext: {runAsUser: 0, runAsNonRoot: false}
      initContainers:
      - name: init
        image: "example.org:5000/a@sha256:0123456789012345678901234567890123456789012345678901234567890123"
      containers:
      - name: web
        image: example.org:5000/web
        command: []
        args: [""]
        stdin: false
        env:
        - {name: EMPTY, value: ""}
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
        ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP, name: dns}]
        resources: {limits: {cpu: 0.5, memory: 1024Mi}, requests: {cpu: 250m, memory: 0.5Gi, ephemeral-storage: 1e3}}
        livenessProbe: {httpGet: {port: 80}, initialDelaySeconds: 0}
        readinessProbe: {grpc: {port: 80}, timeoutSeconds: 3}
        startupProbe: {tcpSocket: {port: dns}}
        lifecycle: {preStop: {httpGet: {port: 80}}, postStart: {exec: {command: ["true"]}}}
        securityContext: {privileged: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: a, mountPath: /a, readOnly: false}, {name: b, mountPath: /b, readOnly: true}]
      - {name: side, image: "side:1"}
      volumes:
      - {name: a}
      - {name: b, configMap: {name: b, optional: false}}
      - {name: c, secret: {secretName: c, items: [{key: a, path: a}]}}
      - {name: d, hostPath: {path: /d}}
      - {name: e, projected: {sources: [{serviceAccountToken: {path: t}}, {configMap: {name: x}}]}}
      - {name: f, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}
      - {name: g, emptyDir: {sizeLimit: 1000Ki}}
      - {name: h, persistentVolumeClaim: {claimName: h, readOnly: false}}
      - {name: i, csi: {driver: example.org}}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: full}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: recreate}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: full}}
  template: {metadata: {labels: {app: full}}, spec: {containers: [{name: a, image: "a:latest"}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: "a:1"}]}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1024Mi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node}
spec:
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node-on-delete}
spec:
  updateStrategy: {type: OnDelete}
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: rs}
spec:
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a, image: "a:1"}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: many}
spec: {parallelism: 3, template: {spec: {restartPolicy: OnFailure, containers: [{name: a, image: "a:1"}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup}
spec:
  schedule: "0 3 * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, name: http, targetPort: http}, {port: 53, protocol: UDP, name: dns}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 0}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Service
metadata: {name: node-port}
spec: {type: NodePort, sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}], publishNotReadyAddresses: false}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cm, annotations: {empty: ""}}
data: {a: "", b: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: empty}
data: {}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {a: b, c: ""}
data: {a: eA==, d: ""}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: auto}
spec:
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: full}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: behaved}
spec:
  minReplicas: 2
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: full}
  metrics: [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 0.5Gi}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: "1073741824"}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
automountServiceAccountToken: false
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, ingress: []}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}, {}]
  egress: [{to: [{namespaceSelector: {}}]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in}
spec:
  rules:
  - host: a.example.org
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r}
rules: [{apiGroups: [""], resources: [pods], verbs: [get], resourceNames: []}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: none}
rules: []
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: sim-aggregated}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: rb}
roleRef: {kind: Role, name: r, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: User, name: ann}, {kind: ServiceAccount, name: robot, namespace: default}]
---
apiVersion: v1
kind: Namespace
metadata: {name: sim-shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  automountServiceAccountToken: false
  containers: [{name: a, image: a, resources: {limits: {cpu: "1"}}, ports: [{containerPort: 80}]}]
  tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: pdb}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, default: {}}}}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: sim-fast}
provisioner: example.org/fast
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: sim-high}
value: 100
globalDefault: false
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: sim-pv}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /a}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota}
spec: {hard: {pods: 5, requests.cpu: 1000m}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, default: {cpu: 500m}, defaultRequest: {cpu: 0.1}}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1]}]
ports: [{port: 80}]
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: lease}
spec: {holderIdentity: a}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: sim-hook}
webhooks:
- name: a.example.org
  clientConfig: {service: {name: a, namespace: b}}
  admissionReviewVersions: [v1]
  sideEffects: None
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [widgets]}]
"""

SERVER_SETS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "namespace")
NOT_COMPARED = {
    "CustomResourceDefinition": ("status", "says which names were accepted: the controllers' work"),
    "PersistentVolume": ("status", "has the time of its last phase"),
}
"""By kind: a field, and why a dry run's answer is not what defaulting makes of it. A Service's addresses are given."""
KINDS = {(resource.api_version, resource.kind) for resource in schemas().resources()}


def manifests(text: str) -> Iterator[dict[str, Any]]:
    for obj in yaml.safe_load_all(text):
        if isinstance(obj, dict) and "kustomize" not in str(obj.get("apiVersion")):
            yield obj


def of_fleets() -> Iterator[dict[str, Any]]:
    for file in sorted(FLEETS.rglob("*.yaml")):
        if file.name == "kustomization.yaml":
            continue
        for obj in manifests(file.read_text()):
            if (obj.get("apiVersion"), obj.get("kind")) in KINDS and whole(obj):
                yield obj


def whole(obj: dict[str, Any]) -> bool:
    """Not a patch of an overlay: the workload has its selector."""
    return obj["kind"] not in ("Deployment", "StatefulSet") or "selector" in obj.get("spec", {})


@pytest.fixture(scope="module")
def namespace(kube: ApiServer) -> str:
    name = f"defaults-{uuid4().hex[:8]}"
    for kind, path in (("Namespace", "namespaces"), ("ServiceAccount", f"namespaces/{name}/serviceaccounts")):
        at = name if kind == "Namespace" else "default"
        status, answer = kube.call(
            "POST", f"/api/v1/{path}", {"apiVersion": "v1", "kind": kind, "metadata": {"name": at}}
        )
        assert status in (201, 409), answer
    return name


def stored(kube: ApiServer, namespace: str, obj: dict[str, Any]) -> dict[str, Any] | str:
    """What the real server would store, or why it refuses."""
    [found] = [r for r in schemas().resources() if (r.api_version, r.kind) == (obj["apiVersion"], obj["kind"])]
    root = f"/{'apis' if found.group else 'api'}/{obj['apiVersion']}"
    inside = f"/namespaces/{namespace}" if found.namespaced else ""
    status, answer = kube.call("POST", f"{root}{inside}/{found.plural}?dryRun=All", obj)
    return answer if status == 201 else str(answer["message"])


def ours(obj: dict[str, Any], real: dict[str, Any]) -> dict[str, Any]:
    spec = real.get("spec", {})
    given = {"ip": spec.get("clusterIP"), "port": 0}
    sent = {**obj, "metadata": {**obj["metadata"], "uid": real["metadata"]["uid"]}}
    made = defaults.defaulted(sent, allocate=lambda what: given[what])
    if obj["kind"] == "Service":
        for mine, theirs in zip(made["spec"].get("ports", []), spec.get("ports", []), strict=True):
            if "nodePort" in mine and "nodePort" in theirs:
                mine["nodePort"] = theirs["nodePort"]
    if obj["kind"] == "PersistentVolumeClaim" and "storageClassName" in spec:
        made["spec"].setdefault("storageClassName", spec["storageClassName"])  # the default is the cluster's own
    return made


def differences(ours: Any, real: Any, path: str = "") -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(real, dict):
        for name in sorted(ours.keys() | real.keys()):
            if name not in ours:
                yield f"{path}.{name}: only the real server has {real[name]!r}"
            elif name not in real:
                yield f"{path}.{name}: only the simulated one has {ours[name]!r}"
            else:
                yield from differences(ours[name], real[name], f"{path}.{name}")
    elif isinstance(ours, list) and isinstance(real, list) and len(ours) == len(real):
        for index, (left, right) in enumerate(zip(ours, real, strict=True)):
            yield from differences(left, right, f"{path}[{index}]")
    elif ours != real or type(ours) is not type(real):
        yield f"{path}: {ours!r} here, {real!r} on the real server"


def compared(kube: ApiServer, namespace: str, obj: dict[str, Any]) -> list[str]:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "namespace"}
    obj = {**obj, "metadata": metadata}
    real = stored(kube, namespace, obj)
    name = f"{obj['kind']}/{metadata['name']}"
    if isinstance(real, str):
        return [f"{name}: refused by the real server: {real}"]
    mine = ours(obj, real)
    for side in (mine, real):
        for field in SERVER_SETS:
            side["metadata"].pop(field, None)
        side.pop(NOT_COMPARED.get(obj["kind"], ("",))[0], None)
    return [f"{name}{line}" for line in differences(mine, real)]


@pytest.mark.parametrize(
    "obj", [pytest.param(obj, id=f"{obj['kind']}-{obj['metadata']['name']}") for obj in manifests(OBJECTS)]
)
def test_an_object_is_stored_as_the_real_server_stores_it(kube: ApiServer, namespace: str, obj: dict[str, Any]) -> None:
    assert compared(kube, namespace, obj) == []


@pytest.mark.skipif(not FLEETS.exists(), reason="the real fleets' sources are not beside this checkout")
def test_the_objects_of_real_fleets_are_stored_as_the_real_server_stores_them(kube: ApiServer, namespace: str) -> None:
    objects = list(of_fleets())
    assert len(objects) > 50
    assert [line for obj in objects for line in compared(kube, namespace, obj)] == []
