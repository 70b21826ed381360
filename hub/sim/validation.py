"""Whether the simulated API server takes an object: unknown fields, types, values, names, what may not change.

Follows a `schema.Node`, so that built-in kinds and custom resources are checked by one walk. `pruned` and
`with_defaults` do to custom resources what the server does before it checks them; the server makes answers of it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hub.openapi.schema import ANY, Node, fits


def unknown_fields(obj: Any, node: Node) -> list[str]:
    """Pure: paths of fields that the schema does not have, written as the server does: `spec.ports[0].prot`."""
    return list(_unknown(obj, node, ""))


def _unknown(value: Any, node: Node, path: str) -> Iterator[str]:
    if node.scalar == "any" and not node.fields:
        return
    if isinstance(value, Mapping) and node.kind == "map":
        for name, entry in value.items():
            below = f"{path}.{name}" if path else name
            inner = node.field(name)
            if inner is None:
                yield below
            else:
                yield from _unknown(entry, inner, below)
    elif isinstance(value, list) and node.kind == "list":
        for index, entry in enumerate(value):
            yield from _unknown(entry, node.element, f"{path}[{index}]")


def pruned(value: Any, node: Node) -> Any:
    """Pure: a copy without the fields that the schema does not have, as the server stores a custom resource."""
    if isinstance(value, Mapping) and node.kind == "map":
        known = ((name, entry, node.field(name)) for name, entry in value.items())
        return {name: pruned(entry, inner) for name, entry, inner in known if inner is not None}
    if isinstance(value, list) and node.kind == "list":
        return [pruned(entry, node.element) for entry in value]
    return value


def with_defaults(value: Any, node: Node) -> Any:
    """Pure: a copy with the schema's defaults, for custom resources only.

    Those in the OpenAPI of built-in kinds (`protocol: TCP`) count for merge keys only; `defaults` fills those kinds.
    """
    if isinstance(value, Mapping) and node.kind == "map":
        filled = {name: with_defaults(entry, node.field(name) or ANY) for name, entry in value.items()}
        for name, inner in node.fields.items():
            if inner.default is not None and filled.get(name) is None:
                filled[name] = with_defaults(inner.default, inner)
        return filled
    if isinstance(value, list) and node.kind == "list":
        return [with_defaults(entry, node.element) for entry in value]
    return value


def invalid(obj: Any, node: Node) -> list[tuple[str, str]]:
    """Pure: (path, message) of each value that the server would refuse, wrong types first found first."""
    found = list(_invalid(obj, node, ""))
    if isinstance(obj, Mapping) and isinstance(obj.get("kind"), str):
        found += _invalid_name(obj)
    return found


def _invalid(value: Any, node: Node, path: str) -> Iterator[tuple[str, str]]:
    if value is None or (node.scalar == "any" and not node.fields):
        return
    if not fits(value, node):
        yield path, f'Invalid value: "{_go_type(value)}": {path} must be of type {node.scalar or _json_kind(node)}'
        return
    yield from ((path, message) for message in _failed(value, node.checks))
    if isinstance(value, Mapping):
        for name in node.checks.get("required", ()):
            if value.get(name) is None:
                yield f"{path}.{name}" if path else name, "Required value"
        for name, entry in value.items():
            inner = node.field(name)
            if inner is not None:
                yield from _invalid(entry, inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        seen: list[Any] = []
        for index, entry in enumerate(value):
            yield from _invalid(entry, node.element, f"{path}[{index}]")
            if node.list_type in ("map", "set"):
                by_keys = node.list_type == "map" and isinstance(entry, Mapping)
                # A key left out has its default, so `port: 53` is the same item as `port: 53, protocol: TCP`.
                identity = [_key(entry, name, node.element) for name in node.keys] if by_keys else entry
                if identity in seen:
                    yield f"{path}[{index}]", f"Duplicate value: {json.dumps(_plain(entry, node), sort_keys=True)}"
                seen.append(identity)


def _key(entry: Mapping[str, Any], name: str, node: Node) -> Any:
    inner = node.fields.get(name)
    return entry.get(name, inner.default if inner else None)


def _plain(entry: Any, node: Node) -> Any:
    return {name: entry[name] for name in node.keys if name in entry} if isinstance(entry, Mapping) else entry


def _failed(value: Any, checks: Mapping[str, Any]) -> Iterator[str]:
    size = len(value) if isinstance(value, str | list | Mapping) else 0
    if "enum" in checks and value not in checks["enum"]:
        allowed = ", ".join(json.dumps(one) for one in sorted(checks["enum"], key=str))
        yield f"Unsupported value: {json.dumps(value)}: supported values: {allowed}"
    if isinstance(value, int | float):
        if "minimum" in checks and value < checks["minimum"]:
            yield f"Invalid value: {value}: must be greater than or equal to {checks['minimum']}"
        if "maximum" in checks and value > checks["maximum"]:
            yield f"Invalid value: {value}: must be less than or equal to {checks['maximum']}"
        if "range" in checks and not checks["range"][0] <= value <= checks["range"][1]:
            yield f"Invalid value: {value}: must be between {checks['range'][0]} and {checks['range'][1]}, inclusive"
    if isinstance(value, str) and "pattern" in checks and not re.search(checks["pattern"], value):
        yield f"Invalid value: {json.dumps(value)}: should match '{checks['pattern']}'"
    for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")):
        if low in checks and size < checks[low]:
            yield f"Invalid value: {json.dumps(value)}: {low[3:].lower()} must be at least {checks[low]}"
        if high in checks and size > checks[high]:
            yield f"Too many: {size}: must have at most {checks[high]}"


def _invalid_name(obj: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str):
        return
    group = obj.get("apiVersion", "").rpartition("/")[0]
    if group == "rbac.authorization.k8s.io":
        fits, rule = name not in (".", "..") and not set(name) & set("/%"), "may not contain '/' or '%'"
    elif (group, obj["kind"]) in {("", "Service"), ("", "Namespace")}:
        fits, rule = bool(re.fullmatch(LABEL, name)) and len(name) <= 63, f"a lowercase RFC 1123 label {RFC_1123}"
    else:
        fits, rule = (
            bool(re.fullmatch(SUBDOMAIN, name)) and len(name) <= 253,
            f"a lowercase RFC 1123 subdomain {RFC_1123}",
        )
    if not fits:
        yield "metadata.name", f'Invalid value: "{name}": {rule}'


def immutable(group: str, kind: str) -> tuple[tuple[str, ...], ...]:
    """Pure: paths of the fields that an update may not change."""
    return IMMUTABLE.get((group, kind), ())


def changed_immutables(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pure: (path, message) of every field that an update changes and may not. Both objects are defaulted."""
    group, kind = old.get("apiVersion", "").rpartition("/")[0], old.get("kind", "")
    changed = [
        path for path in immutable(group, kind) if (before := _at(old, path)) != _at(new, path) and before is not None
    ]
    if kind == "Service" and _at(new, ("spec", "type")) == "ExternalName":
        changed = []  # it gives its address back
    if changed and kind in WORDS:
        found = [WORDS[kind]]
    else:
        words = "cannot change roleRef" if kind in ("RoleBinding", "ClusterRoleBinding") else "field is immutable"
        found = [(".".join(path), f"Invalid value: {_shown(_at(new, path))}: {words}") for path in changed]
    if kind in ("ConfigMap", "Secret") and not group and old.get("immutable"):
        found += [
            (name, "Forbidden: field is immutable when `immutable` is set")
            for name in ("immutable", "data", "binaryData")
            if old.get(name) != new.get(name)
        ]
    return found


def _shown(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj


def _json_kind(node: Node) -> str:
    return "object" if node.kind == "map" else "array"


def _go_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


_POD_OWNER = (("spec", "selector"),)
IMMUTABLE: Mapping[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    ("apps", "Deployment"): _POD_OWNER,
    ("apps", "ReplicaSet"): _POD_OWNER,
    ("apps", "DaemonSet"): _POD_OWNER,
    ("apps", "StatefulSet"): (
        ("spec", "selector"),
        ("spec", "serviceName"),
        ("spec", "podManagementPolicy"),
        ("spec", "volumeClaimTemplates"),
    ),
    ("batch", "Job"): (("spec", "selector"), ("spec", "completions"), ("spec", "completionMode"), ("spec", "template")),
    ("", "Service"): (("spec", "clusterIP"),),
    ("", "PersistentVolumeClaim"): (
        ("spec", "accessModes"),
        ("spec", "selector"),
        ("spec", "storageClassName"),
        ("spec", "volumeMode"),
        ("spec", "volumeName"),
        ("spec", "dataSource"),
    ),
    ("", "Secret"): (("type",),),
    ("", "Pod"): (("spec", "nodeName"), ("spec", "restartPolicy"), ("spec", "serviceAccountName")),
    ("rbac.authorization.k8s.io", "RoleBinding"): (("roleRef",),),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): (("roleRef",),),
    ("storage.k8s.io", "StorageClass"): (("provisioner",), ("parameters",), ("reclaimPolicy",), ("volumeBindingMode",)),
}
WORDS: Mapping[str, tuple[str, str]] = {
    "StatefulSet": (
        "spec",
        (
            "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
            "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' "
            "are forbidden"
        ),
    ),
    "PersistentVolumeClaim": (
        "spec",
        (
            "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName "
            "for bound claims"
        ),
    ),
    "Service": ("spec.clusterIPs[0]", "Invalid value: may not change once set"),
}
"""Kinds that refuse such a change as a whole: field and message."""
RFC_1123 = (
    "must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
