"""The texts that the story commits: a fleet of three clusters, a careful policy, and makers of small bundles."""

import json
from collections.abc import Mapping

FLEET = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Fleet
    metadata: {name: story}
    spec:
      variables: {greeting: hello}
    """
CLUSTERS = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: canary, labels: {tier: prod, canary: "true"}}
    spec: {kubernetes: "1.36", variables: {domain: canary.example.org, replicas: 2}}
    ---
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: eu-1, labels: {tier: prod, region: eu}}
    spec: {kubernetes: "1.36", variables: {domain: eu-1.example.org, replicas: 3}}
    ---
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: eu-2, labels: {tier: prod, region: eu}}
    spec: {kubernetes: "1.36", variables: {domain: eu-2.example.org, replicas: 3}}
    """
CAREFUL = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: careful}
    spec:
      waves:
        - {name: canary, select: {matchLabels: {canary: "true"}}, maxConcurrent: 1}
        - {name: eu, select: {matchLabels: {region: eu}}, maxConcurrent: 100%}
      failure: {budget: 0, deadline: 2m, action: rollback}
      offline: {after: 15s, budget: 50%}
    """
WEB = """
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web, labels: {app: web}}
    spec:
      replicas: ${replicas}
      progressDeadlineSeconds: 60
      selector: {matchLabels: {app: web}}
      template:
        metadata: {labels: {app: web}}
        spec:
          containers:
            - name: web
              image: registry.example.org/web:v1
              ports: [{containerPort: 8080}]
              env: [{name: DOMAIN, value: "${domain}"}]
    """


def web(version: str, **node: str) -> str:
    """The shop's Deployment in a version, for nodes with these labels; where none has them it soon fails."""
    text = WEB.rstrip(" ").replace("web:v1", f"web:{version}")
    if not node:
        return text
    return text.replace("Seconds: 60", "Seconds: 10") + f"          nodeSelector: {json.dumps(node)}\n"


WEB_THAT_NO_NODE_TAKES = web("v1", no="where")


def bundle(name: str, **spec: object) -> str:
    body = {"targets": {"matchLabels": {"tier": "prod"}}, "rollout": "careful", "namespace": name, **spec}
    return f"""
    apiVersion: flotilla.dev/v1alpha1
    kind: Bundle
    metadata: {{name: {name}}}
    spec: {json.dumps(body)}
    """


def namespace(name: str) -> str:
    return f"""
    apiVersion: v1
    kind: Namespace
    metadata: {{name: {name}}}
    """


def config(name: str, **data: str) -> str:
    return f"""
    apiVersion: v1
    kind: ConfigMap
    metadata: {{name: {name}}}
    data: {json.dumps(data)}
    """


BASE: Mapping[str, str | None] = {
    "fleet.yaml": FLEET,
    "clusters/all.yaml": CLUSTERS,
    "rollouts/careful.yaml": CAREFUL,
}
