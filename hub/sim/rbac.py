"""Who may do what: Roles and bindings as they are stored, evaluated for each access.

Set `SimServer.authorize` to an `Rbac`. Members of system:masters may do everything; everybody else what a ClusterRole
or Role says that is bound to the user, to one of the groups or to the service account. `install` writes the
ClusterRoles that people bind. Who acts as somebody else needs the verb `impersonate`, see `access`. Not evaluated:
paths that are no resource, and escalation by writing roles.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hub.sim.access import Access, User, service_account
from hub.sim.api import Api
from hub.sim.status import ApiError
from hub.sim.store import Record, Table
from hub.sim.writes import Options

GROUP: Final = "rbac.authorization.k8s.io"
MASTERS: Final = "system:masters"
_READ: Final = ["get", "list", "watch"]
_ALL: Final = ["create", "delete", "deletecollection", "patch", "update", *_READ]
_PLAIN: Final = {
    "": ["configmaps", "endpoints", "persistentvolumeclaims", "pods", "serviceaccounts", "services"],
    "apps": ["daemonsets", "deployments", "deployments/scale", "replicasets", "statefulsets", "statefulsets/scale"],
    "autoscaling": ["horizontalpodautoscalers"],
    "batch": ["cronjobs", "jobs"],
    "networking.k8s.io": ["ingresses", "networkpolicies"],
    "policy": ["poddisruptionbudgets"],
}


class Rbac:
    """An `Authorize` of `access`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._read: dict[tuple[Table, str, str], tuple[Record, Mapping[str, Any]]] = {}

    def __call__(self, access: Access) -> str | None:
        if MASTERS in access.user.groups:
            return None
        for rules in self._rules(access.user, access.namespace):
            if any(allows(rule, access) for rule in rules):
                return None
        return ""

    def install(self) -> None:
        """The ClusterRoles cluster-admin, edit and view, and system:masters' binding; those that are there stay."""
        everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        plain = [{"apiGroups": [group], "resources": names} for group, names in _PLAIN.items()]
        secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": _ALL}
        roles = {
            "cluster-admin": everything,
            "view": [{**rule, "verbs": _READ} for rule in plain],
            "edit": [*({**rule, "verbs": _ALL} for rule in plain), secrets],
        }
        made = [{"kind": "ClusterRole", "metadata": {"name": name}, "rules": rules} for name, rules in roles.items()]
        binding: dict[str, Any] = {"kind": "ClusterRoleBinding", "metadata": {"name": "cluster-admin"}}
        binding["roleRef"] = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"}
        binding["subjects"] = [{"apiGroup": GROUP, "kind": "Group", "name": MASTERS}]
        for obj in (*made, binding):
            kind = self._api.kinds.of(f"{GROUP}/v1", obj["kind"])
            assert kind is not None
            obj["apiVersion"] = f"{GROUP}/v1"
            try:
                self._api.create(kind, ("", ""), obj, Options(manager="kube-apiserver"))
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise

    def _rules(self, user: User, namespace: str) -> Iterator[list[Mapping[str, Any]]]:
        """The rules of every role bound to the user, cluster-wide or in the namespace."""
        for binding in self._objects("clusterrolebindings"):
            if _binds(binding, user):
                yield self._role("ClusterRole", binding["roleRef"]["name"], "")
        for binding in self._objects("rolebindings", namespace) if namespace else ():
            if _binds(binding, user):
                reference = binding["roleRef"]
                yield self._role(reference["kind"], reference["name"], namespace)

    def _role(self, kind: str, name: str, namespace: str) -> list[Mapping[str, Any]]:
        table, place = ((GROUP, "clusterroles"), "") if kind == "ClusterRole" else ((GROUP, "roles"), namespace)
        record = self._api.store.get(table, (place, name))
        if record is None:
            return []
        role = self._parsed(table, place, name, record)
        rules = list(role.get("rules") or ())
        for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ():
            wanted = (selector.get("matchLabels") or {}).items()
            for other in self._objects("clusterroles"):
                if wanted and wanted <= (other["metadata"].get("labels") or {}).items():
                    rules += other.get("rules") or ()
        return rules

    def _objects(self, plural: str, namespace: str = "") -> Iterator[Mapping[str, Any]]:
        table = (GROUP, plural)
        for (place, name), record in self._api.store.items(table, namespace):
            yield self._parsed(table, place, name, record)

    def _parsed(self, table: Table, namespace: str, name: str, record: Record) -> Mapping[str, Any]:
        """Parsed once for each version: every request asks."""
        known = self._read.get((table, namespace, name))
        if known is None or known[0] is not record:
            known = self._read[table, namespace, name] = (record, record.read())
        return known[1]


def allows(rule: Mapping[str, Any], access: Access) -> bool:
    """Pure: whether a rule allows an access."""
    resource = f"{access.plural}/{access.subresource}" if access.subresource else access.plural
    names = rule.get("resourceNames") or ()
    return (
        _listed(access.verb, rule.get("verbs"))
        and _listed(access.group, rule.get("apiGroups"))
        and (
            _listed(resource, rule.get("resources"))
            or (bool(access.subresource) and f"*/{access.subresource}" in (rule.get("resources") or ()))
        )
        and (not names or access.name in names)
    )


def _listed(value: str, values: Any) -> bool:
    return value in (values or ()) or "*" in (values or ())


def _binds(binding: Mapping[str, Any], user: User) -> bool:
    groups = {*user.groups, "system:authenticated"}
    for subject in binding.get("subjects") or ():
        match subject.get("kind"):
            case "User":
                found = subject["name"] == user.name
            case "Group":
                found = subject["name"] in groups
            case "ServiceAccount":
                found = service_account(subject.get("namespace", ""), subject["name"]).name == user.name
            case _:
                found = False
        if found:
            return True
    return False
