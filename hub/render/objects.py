"""Manifests made whole: checked, put into a namespace by their scope, and freed of what only a server may set.

Pure. What a manifest has beside this is not judged here: the API server does that, in the canary wave. Next: `build`
writes them as canonical JSON.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hub.render.plain import Manifest
from proto.errors import InvalidInput
from proto.objects import ObjectKey, group_of, key_of

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}", re.ASCII)
_API_VERSION = re.compile(r"(?:[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[a-z][a-z0-9]{0,62}", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[^/%\s\x00-\x1f\x7f]{1,253}")
"""Path segment names, the widest that Kubernetes allows."""

_SERVER_FIELDS = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)

CLUSTER_SCOPED = frozenset(
    {
        *(("", kind) for kind in ("ComponentStatus", "Namespace", "Node", "PersistentVolume")),
        *(
            ("admissionregistration.k8s.io", kind)
            for kind in (
                "MutatingAdmissionPolicy",
                "MutatingAdmissionPolicyBinding",
                "MutatingWebhookConfiguration",
                "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding",
                "ValidatingWebhookConfiguration",
            )
        ),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("apiregistration.k8s.io", "APIService"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("certificates.k8s.io", "ClusterTrustBundle"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
        ("internal.apiserver.k8s.io", "StorageVersion"),
        ("networking.k8s.io", "IPAddress"),
        ("networking.k8s.io", "IngressClass"),
        ("networking.k8s.io", "ServiceCIDR"),
        ("node.k8s.io", "RuntimeClass"),
        ("policy", "PodSecurityPolicy"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("resource.k8s.io", "DeviceClass"),
        ("resource.k8s.io", "DeviceTaintRule"),
        ("resource.k8s.io", "ResourceSlice"),
        ("scheduling.k8s.io", "PriorityClass"),
        *(("storage.k8s.io", kind) for kind in ("CSIDriver", "CSINode", "StorageClass", "VolumeAttachment")),
        ("storage.k8s.io", "VolumeAttributesClass"),
        ("storagemigration.k8s.io", "StorageVersionMigration"),
        # Custom resources in wide use whose definition often comes with another bundle.
        ("cert-manager.io", "ClusterIssuer"),
        ("cilium.io", "CiliumClusterwideNetworkPolicy"),
        ("external-secrets.io", "ClusterExternalSecret"),
        ("external-secrets.io", "ClusterSecretStore"),
        ("gateway.networking.k8s.io", "GatewayClass"),
        ("karpenter.sh", "NodePool"),
        ("kyverno.io", "ClusterPolicy"),
        ("policy.networking.k8s.io", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"),
        ("projectcalico.org", "GlobalNetworkPolicy"),
        ("snapshot.storage.k8s.io", "VolumeSnapshotClass"),
        ("snapshot.storage.k8s.io", "VolumeSnapshotContent"),
    }
)
"""(group, kind) of what has no namespace; a definition in the same bundle goes before it."""


def describe(manifest: Manifest) -> str:
    """`file:line: Kind/namespace/name`, as far as the manifest has them, for messages."""
    value, metadata = manifest.value, manifest.value.get("metadata")
    names = [value.get("kind") or "object"]
    if isinstance(metadata, Mapping):
        names += [metadata.get("namespace"), metadata.get("name") or metadata.get("generateName")]
    return f"{manifest.where}: {'/'.join(str(name)[:100] for name in names if name)}"


def scopes_of(manifests: Iterable[Manifest]) -> dict[tuple[str, str], bool]:
    """(group, kind) → is it cluster-scoped, for every CustomResourceDefinition among the manifests."""
    found: dict[tuple[str, str], bool] = {}
    for manifest in manifests:
        spec = manifest.value.get("spec")
        if manifest.value.get("kind") == "CustomResourceDefinition" and isinstance(spec, Mapping):
            names = spec.get("names")
            kind = names.get("kind") if isinstance(names, Mapping) else None
            if isinstance(kind, str) and isinstance(spec.get("group"), str):
                found[spec["group"], kind] = spec.get("scope") == "Cluster"
    return found


def cluster_scoped(key: ObjectKey, scopes: Mapping[tuple[str, str], bool]) -> bool | None:
    """Pure: whether the object's kind is cluster-scoped for sure (a definition beside it cannot say otherwise of a
    kind that is known); None for a custom kind that nothing here tells of."""
    identity = key.group, key.kind
    if identity in CLUSTER_SCOPED:
        return True
    ours = "." not in key.group or key.group.endswith(".k8s.io")
    return scopes.get(identity, False if ours else None)


def complete(
    manifest: Manifest, *, namespace: str, scopes: Mapping[tuple[str, str], bool]
) -> tuple[ObjectKey, dict[str, Any], tuple[str, ...]]:
    """The object that is to be applied, its key, and warnings. `namespace` is for those that need one and have none.

    Raises InvalidInput that names file, line and object.
    """
    what = describe(manifest)
    _check_identity(manifest.value, what=what)
    warnings: list[str] = []
    value = {key: child for key, child in _without_nulls(manifest.value).items() if key != "status"}
    metadata = dict(value["metadata"])
    if dropped := [field for field in _SERVER_FIELDS if field in metadata]:
        warnings.append(f"{what}: metadata.{', metadata.'.join(dropped)} left out: only the API server sets it")
    for field in dropped:
        del metadata[field]
    identity = group_of(value["apiVersion"]), value["kind"]
    if scopes.get(identity, identity in CLUSTER_SCOPED):
        if metadata.pop("namespace", None):
            warnings.append(f"{what}: its namespace is left out: {value['kind']} has none")
    elif not metadata.get("namespace"):
        metadata["namespace"] = namespace
    value["metadata"] = metadata
    _check_texts(value, what=what)
    if identity == ("", "Secret"):
        value = _with_data(value, what=what)
    return key_of(value), value, tuple(warnings)


def _check_identity(value: Mapping[str, Any], *, what: str) -> None:
    """Every part of an object's path in the slice has to be a name that Kubernetes takes, and never leads elsewhere."""
    api_version, kind, metadata = value.get("apiVersion"), value.get("kind"), value.get("metadata")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise InvalidInput(
            what, "has no apiVersion or no kind", "if it is not a manifest, move it out of the bundle's source folder"
        )
    if not _API_VERSION.fullmatch(api_version) or not _KIND.fullmatch(kind):
        raise InvalidInput(what, f"has the apiVersion {api_version[:100]!r} and kind {kind[:100]!r}", "correct them")
    if not isinstance(metadata, Mapping):
        raise InvalidInput(what, "has no metadata", "give it a metadata.name")
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not name and metadata.get("generateName"):
        raise InvalidInput(
            what, "has a generateName instead of a name", "give it a metadata.name, so that it stays one"
        )
    if not isinstance(name, str) or not name:
        raise InvalidInput(
            what, "has no metadata.name" if not name else "has a metadata.name that is not text", "set it"
        )
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidInput(what, f"has the name {name[:100]!r}, which Kubernetes does not take", "rename it")
    if namespace is not None and not (
        isinstance(namespace, str) and (not namespace or _NAMESPACE.fullmatch(namespace))
    ):
        raise InvalidInput(what, f"has the namespace {str(namespace)[:100]!r}, which is not a name", "correct it")


def _without_nulls(value: Any) -> Any:
    """Without the entries of mappings that are null: to server-side apply they mean nothing, or break it."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_without_nulls(child) for child in value]
    return value


def _check_texts(value: Mapping[str, Any], *, what: str) -> None:
    """What YAML most often reads as a number or boolean where Kubernetes takes text. Never shows a value."""
    metadata = value["metadata"]
    checked = [(f"metadata.{field}", metadata.get(field)) for field in ("labels", "annotations")]
    if value["apiVersion"] == "v1" and value["kind"] in ("ConfigMap", "Secret"):
        checked += [(field, value.get(field)) for field in ("data", "binaryData", "stringData")]
    for field, entries in checked:
        if entries is None:
            continue
        if not isinstance(entries, Mapping):
            raise InvalidInput(what, f"{field} is not a mapping", "correct it")
        for key, child in entries.items():
            if not isinstance(child, str):
                raise InvalidInput(what, f"{field}.{key} is not text", "put its value into quotes")


def _with_data(secret: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """`stringData` folded into `data`, as the API server does it; only then does an apply own what it set."""
    data = dict(secret.get("data") or {})
    for key, text in data.items():
        try:
            base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput(what, f"data.{key} is not base64", "encode it, or use stringData") from None
    for key, text in (secret.get("stringData") or {}).items():
        data[key] = base64.b64encode(text.encode()).decode()
    result = {key: child for key, child in secret.items() if key != "stringData"}
    return {**result, "data": data} if data or "data" in secret else result
