"""A slice with an object of every built-in kind that a bundle may hold, and of three custom kinds.

`{ns}` is the namespace of a run, `{id}` makes names of cluster-scoped objects its own. Left out are kinds that are
requests, not objects (reviews, bindings), that controllers write (Event, CSINode, ResourceSlice), and those that would
change the server itself for others (APIService, ServiceCIDR). What meets admission and scheduling is made so that it
matches nothing.
"""

from typing import Any

import yaml

CORE = """
apiVersion: v1
kind: Namespace
metadata: {name: "{ns}", labels: {tier: test}, annotations: {note: ours}}
---
apiVersion: v1
kind: Namespace
metadata: {name: "{ns}-limits", labels: {tier: test}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: "{ns}", labels: {app: web}, annotations: {note: ours}}
data: {mode: prod, level: "3", file: "a: 1\\nb: 2\\n", empty: ""}
binaryData: {blob: AAEC}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: mutated, namespace: "{ns}", labels: {mutate: "always"}}
data: {mode: prod, level: "3"}
---
apiVersion: v1
kind: Secret
metadata: {name: token, namespace: "{ns}", labels: {app: web}}
type: Opaque
data: {user: YWRtaW4=, password: c2VjcmV0}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: "{ns}", annotations: {role: reader}}
automountServiceAccountToken: false
imagePullSecrets: [{name: pull-a}, {name: pull-b}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: "{ns}", labels: {app: web}}
spec:
  selector: {app: web, tier: front}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: metrics, port: 9090, targetPort: metrics}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: "{ns}"}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: db}
  ports: [{name: db, port: 5432}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk, namespace: "{ns}", labels: {app: db}}
spec:
  storageClassName: none-{id}
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: "volume-{id}", labels: {app: db}}
spec:
  storageClassName: other-{id}
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce, ReadOnlyMany]
  persistentVolumeReclaimPolicy: Retain
  mountOptions: [hard, nolock]
  hostPath: {path: /data}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits, namespace: "{ns}-limits"}
spec:
  limits:
  - {type: Container, max: {cpu: "2", memory: 1Gi}, default: {cpu: 500m, memory: 256Mi}, defaultRequest: {cpu: 100m}}
  - {type: Pod, max: {cpu: "4"}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota, namespace: "{ns}-limits"}
spec: {hard: {pods: "10", requests.cpu: "4", limits.memory: 8Gi}, scopes: [NotTerminating]}
---
apiVersion: v1
kind: Pod
metadata: {name: single, namespace: "{ns}", labels: {app: single}, annotations: {note: ours}}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  nodeSelector: {kubernetes.io/os: none}
  tolerations: [{key: special, operator: Exists, effect: NoSchedule}]
  containers: [{name: app, image: "example.org/app:1"}, {name: side, image: "example.org/side:1"}]
---
apiVersion: v1
kind: PodTemplate
metadata: {name: template, namespace: "{ns}"}
template:
  metadata: {labels: {app: template}}
  spec: {containers: [{name: app, image: "example.org/app:1", env: [{name: A, value: "1"}, {name: B, value: "2"}]}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old, namespace: "{ns}", labels: {app: old}}
spec:
  replicas: 0
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: app, image: "example.org/app:1"}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside, namespace: "{ns}"}
subsets:
- addresses: [{ip: 192.0.2.1}, {ip: 192.0.2.2}]
  ports: [{name: http, port: 80}, {name: https, port: 443}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-1, namespace: "{ns}", labels: {kubernetes.io/service-name: elsewhere}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1], conditions: {ready: true}}, {addresses: [192.0.2.2]}]
ports: [{name: http, port: 80}, {name: https, port: 443}]
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: turn, namespace: "{ns}"}
spec: {holderIdentity: nobody, leaseDurationSeconds: 30}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: "high-{id}"}
value: 1000
description: above others
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: "sandbox-{id}"}
handler: sandbox
scheduling: {nodeSelector: {sandbox: "yes"}, tolerations: [{key: sandbox, operator: Exists}]}
overhead: {podFixed: {memory: 120Mi, cpu: 250m}}
"""

WORKLOADS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: "{ns}", labels: {app: web, tier: front}, annotations: {note: ours}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web, tier: front}, annotations: {checksum: abc}}
    spec:
      serviceAccountName: robot
      securityContext: {}
      volumes:
      - {name: settings, configMap: {name: settings, items: [{key: mode, path: mode}]}}
      - {name: scratch, emptyDir: {}}
      - {name: token, secret: {secretName: token}}
      initContainers: [{name: init, image: "example.org/init:1", command: [sh, -c, "true"]}]
      containers:
      - name: app
        image: example.org/app:1
        args: [serve, --fast, --port=8080]
        env:
        - {name: MODE, value: prod}
        - {name: LEVEL, value: "3"}
        - {name: SECRET, valueFrom: {secretKeyRef: {name: token, key: password}}}
        envFrom: [{configMapRef: {name: settings}}]
        ports: [{name: http, containerPort: 8080}, {name: metrics, containerPort: 9090}]
        resources: {requests: {cpu: 100m, memory: 0.5Gi}, limits: {memory: 1024Mi}}
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 5}
        livenessProbe: {tcpSocket: {port: 8080}}
        securityContext: {runAsNonRoot: true, runAsUser: 1000, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: settings, mountPath: /etc/app}, {name: scratch, mountPath: /tmp}]
      - name: side
        image: example.org/side:1
        lifecycle: {preStop: {exec: {command: ["true"]}}}
      tolerations: [{key: a, operator: Exists}, {key: b, operator: Equal, value: c, effect: NoSchedule}]
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      hostAliases: [{ip: 192.0.2.9, hostnames: [one.example.org, two.example.org]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: "{ns}", labels: {app: db}}
spec:
  serviceName: headless
  replicas: 0
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: db
        image: example.org/db:1
        ports: [{name: db, containerPort: 5432}]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node, namespace: "{ns}", labels: {app: node}}
spec:
  selector: {matchLabels: {app: node}}
  template:
    metadata: {labels: {app: node}}
    spec:
      nodeSelector: {kubernetes.io/os: none}
      containers:
      - name: node
        image: example.org/node:1
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: bare, namespace: "{ns}", labels: {app: bare}}
spec:
  replicas: 0
  selector: {matchLabels: {app: bare}}
  template:
    metadata: {labels: {app: bare}}
    spec: {containers: [{name: app, image: "example.org/app:1", ports: [{containerPort: 80}, {containerPort: 81}]}]}
---
apiVersion: apps/v1
kind: ControllerRevision
metadata: {name: "history-1", namespace: "{ns}"}
revision: 1
data: {spec: {a: b}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: "{ns}", labels: {app: once}}
spec:
  suspend: true
  backoffLimit: 2
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {kubernetes.io/os: none}
      containers: [{name: once, image: "example.org/once:1", command: [run, --once]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: "{ns}"}
spec:
  schedule: "0 3 * * *"
  suspend: true
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - {name: nightly, image: "example.org/nightly:1", args: [a, b]}
          - {name: log, image: "example.org/log:1"}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: "{ns}"}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: nobody}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 500Mi}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: "{ns}"}
spec: {minAvailable: 50%, selector: {matchLabels: {app: web}}}
"""

NETWORK = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: "{ns}", annotations: {class: old}}
spec:
  ingressClassName: none-{id}
  tls: [{hosts: [a.example.org, b.example.org], secretName: token}]
  rules:
  - host: a.example.org
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /api, pathType: Exact, backend: {service: {name: web, port: {name: http}}}}
  - host: b.example.org
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: "class-{id}"}
spec:
  controller: example.org/ingress
  parameters: {apiGroup: example.org, kind: Setup, name: one}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: "{ns}"}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{namespaceSelector: {}}, {podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 80}, {port: 443, protocol: TCP}]
  egress: [{}]
"""

ACCESS = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: "{ns}"}
rules:
- {apiGroups: [""], resources: [pods, configmaps], verbs: [get, list]}
- {apiGroups: [apps], resources: [deployments], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: "{ns}"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
- {kind: ServiceAccount, name: robot, namespace: "{ns}"}
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: team}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "viewer-{id}"}
rules:
- {nonResourceURLs: [/healthz, /version], verbs: [get]}
- {apiGroups: [example.org], resources: [widgets], verbs: [get, watch], resourceNames: [a, b]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "sum-{id}"}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {sum: "{id}"}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "viewer-{id}"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "viewer-{id}"}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: nobody}]
"""

STORAGE = """
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: "slow-{id}"}
provisioner: example.org/none
parameters: {type: slow}
reclaimPolicy: Delete
volumeBindingMode: WaitForFirstConsumer
mountOptions: [a, b]
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: "driver-{id}.example.org"}
spec: {attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: storage.k8s.io/v1
kind: CSIStorageCapacity
metadata: {name: room, namespace: "{ns}"}
storageClassName: none-{id}
capacity: 10Gi
nodeTopology: {matchLabels: {zone: a}}
---
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: "fast-{id}"}
driverName: example.org/none
parameters: {iops: "3000"}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: "device-{id}.example.org"}
spec: {selectors: [{cel: {expression: 'device.driver == "none"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: device, namespace: "{ns}"}
spec:
  metadata: {labels: {app: web}}
  spec: {devices: {requests: [{name: one, exactly: {deviceClassName: "device-{id}.example.org"}}]}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: "flow-{id}"}
spec:
  matchingPrecedence: 9000
  priorityLevelConfiguration: {name: "level-{id}"}
  rules:
  - subjects: [{kind: User, user: {name: nobody}}]
    resourceRules: [{apiGroups: [example.org], resources: [widgets], verbs: [get, list], namespaces: ["{ns}"]}]
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: "level-{id}"}
spec: {type: Limited, limited: {nominalConcurrencyShares: 1, limitResponse: {type: Reject}}}
"""

ADMISSION = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: "empty-{id}"}
webhooks: []
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: "hooks-{id}"}
webhooks:
- name: a.example.org
  clientConfig: {url: "https://127.0.0.1:1/a"}
  sideEffects: None
  admissionReviewVersions: [v1]
  failurePolicy: Ignore
  rules: [{apiGroups: [none.example.org], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [nothing]}]
- name: b.example.org
  clientConfig: {url: "https://127.0.0.1:1/b"}
  sideEffects: None
  admissionReviewVersions: [v1]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: "hooks-{id}"}
webhooks:
- name: a.example.org
  clientConfig: {service: {name: web, namespace: "{ns}", path: /mutate}}
  sideEffects: None
  admissionReviewVersions: [v1]
  failurePolicy: Ignore
  rules: [{apiGroups: [none.example.org], apiVersions: [v1], operations: [CREATE], resources: [nothing]}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: "none-{id}"}
spec:
  failurePolicy: Ignore
  matchConstraints:
    resourceRules: [{apiGroups: [none.example.org], apiVersions: ["*"], operations: [CREATE], resources: [nothing]}]
  validations: [{expression: "true", message: never}, {expression: "1 == 1", message: never}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: "none-{id}"}
spec: {policyName: "none-{id}", validationActions: [Warn, Audit]}
"""

DEFINITIONS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "widgets.{id}.example.org", labels: {app: crd}}
spec:
  group: "{id}.example.org"
  scope: Namespaced
  names: {kind: Widget, plural: widgets, shortNames: [wi]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, default: 3}
              color: {type: string, nullable: true}
              port: {x-kubernetes-int-or-string: true}
              enabled: {type: boolean}
              ratio: {type: number}
              limits: {type: object, properties: {cpu: {type: string}, memory: {type: string, default: 1Gi}}}
              labels: {type: object, additionalProperties: {type: string}}
              whole: {type: object, x-kubernetes-map-type: atomic, additionalProperties: {type: string}}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name, zone]
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {type: string}
                    zone: {type: string, default: a}
                    count: {type: integer, default: 1}
                    opts: {type: object, properties: {deep: {type: boolean}}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              steps: {type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}
              words: {type: array, items: {type: string}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
    additionalPrinterColumns: [{name: size, type: integer, jsonPath: .spec.size}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "blobs.{id}.example.org"}
spec:
  group: "{id}.example.org"
  scope: Cluster
  names: {kind: Blob, plural: blobs}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "gadgets.{id}.example.org"}
spec:
  group: "{id}.example.org"
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets}
  conversion: {strategy: None}
  versions:
  - name: v1
    served: true
    storage: true
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              mode: {type: string}
              level: {type: integer}
              more: {type: object, x-kubernetes-preserve-unknown-fields: true}
              items: {type: array, items: {type: string}}
  - name: v2
    served: true
    storage: false
    schema: *schema
"""

CUSTOM = """
apiVersion: "{id}.example.org/v1"
kind: Widget
metadata: {name: one, namespace: "{ns}", labels: {app: widget}, annotations: {note: ours}}
spec:
  color: red
  port: http
  enabled: true
  ratio: 0.5
  limits: {cpu: "1"}
  labels: {a: b, c: d}
  whole: {a: b, c: d}
  parts: [{name: one, count: 2, opts: {deep: true}}, {name: two, zone: b}, {name: one, zone: c, opts: {}}]
  tags: [x, y, z]
  steps: [{run: a, with: {b: c}}, {run: d}]
  words: [first, second, third]
---
apiVersion: "{id}.example.org/v1"
kind: Widget
metadata: {name: two, namespace: "{ns}"}
spec: {size: 1, port: 80, labels: {}, tags: [], limits: {}}
---
apiVersion: "{id}.example.org/v1"
kind: Blob
metadata: {name: "free", labels: {app: blob}}
config: {a: 1, b: [1, 2, 3], c: {d: e, f: [{name: x, v: 1}, {name: y, v: 2}]}, h: {}, i: 1.5, j: true}
top: level
---
apiVersion: "{id}.example.org/v1"
kind: Gadget
metadata: {name: first, namespace: "{ns}"}
spec: {mode: a, level: 1, more: {x: {y: z}}, items: [a, b]}
---
apiVersion: "{id}.example.org/v2"
kind: Gadget
metadata: {name: second, namespace: "{ns}"}
spec: {mode: b, level: 2, items: [c, d]}
"""


def slice_objects(namespace: str, suffix: str) -> list[dict[str, Any]]:
    """Every object of the slice, for one run."""
    parts = (CORE, WORKLOADS, NETWORK, ACCESS, STORAGE, ADMISSION, DEFINITIONS, CUSTOM)
    text = "---\n".join(parts)
    text = text.replace("{ns}", namespace).replace("{id}", suffix)
    return [obj for obj in yaml.safe_load_all(text) if obj]
