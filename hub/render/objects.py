"""Manifests made whole: checked, put into a namespace by their scope, and freed of what only a server may set.

What no API server takes is refused, whatever the fleet's policies: a shape that is no object's, and

| of                                  | limit                                                                     |
|-------------------------------------|---------------------------------------------------------------------------|
| names                               | 253 characters, by kind: RFC 1123 subdomain or label, or one path segment |
| keys of labels and annotations      | `prefix/name`, 253 and 63 characters                                      |
| values of labels                    | 63 characters                                                             |
| annotations of an object, together  | 256 KiB                                                                   |
| data of a ConfigMap or Secret       | 1 MiB; keys: 253 letters, digits, `-`, `_` and `.`                        |
| a whole object                      | 1.5 MiB, what etcd stores                                                 |

Pure. Fields are judged by `validate`, and what both pass over by the API server, in the first wave. Next: `build`
writes them as canonical JSON.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from hub.render import validate
from hub.render.plain import Manifest
from proto.errors import InvalidInput
from proto.objects import ObjectKey, group_of, key_of

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}", re.ASCII)
_API_VERSION = re.compile(r"(?:[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[a-z][a-z0-9]{0,62}", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[^/%\s\x00-\x1f\x7f]{1,253}")
"""Path segment names, the widest that Kubernetes allows."""
_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_NAMED_BY_LABEL = frozenset({("", "Namespace"), ("", "Service")})
_NAMED_FREELY = frozenset(
    {"certificates.k8s.io", "flowcontrol.apiserver.k8s.io", "internal.apiserver.k8s.io", "rbac.authorization.k8s.io"}
)
"""Groups of Kubernetes where a name is any path segment."""
_NAMED_FREELY_TOO = frozenset({("networking.k8s.io", "IPAddress"), ("storage.k8s.io", "CSIDriver")})
_MAX_CRONJOB_NAME = 52
_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_DATA_KEY = re.compile(r"(?!\.\.|\.$)[-._A-Za-z0-9]{1,253}", re.ASCII)
_MAX_ANNOTATIONS_BYTES = 256 << 10
_MAX_DATA_BYTES = 1 << 20
_MAX_OBJECT_BYTES = 3 << 19

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
"""(group, kind) of what has no namespace; a definition in the slice goes before it."""


def describe(manifest: Manifest) -> str:
    """`file:line: Kind/namespace/name`, as far as the manifest has them, for messages."""
    return f"{manifest.where}: {named(manifest)}"


def named(manifest: Manifest) -> str:
    """`Kind/namespace/name`, as far as the manifest has them."""
    value, metadata = manifest.value, manifest.value.get("metadata")
    names = [value.get("kind") or "object"]
    if isinstance(metadata, Mapping):
        names += [metadata.get("namespace"), metadata.get("name") or metadata.get("generateName")]
    return "/".join(str(name)[:100] for name in names if name)


def scopes_of(objects: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], bool]:
    """(group, kind) → is it cluster-scoped, for every CustomResourceDefinition among the objects."""
    found: dict[tuple[str, str], bool] = {}
    for value in objects:
        if value.get("kind") == "CustomResourceDefinition" and isinstance(spec := value.get("spec"), Mapping):
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
    # Not every group of `k8s.io` comes with Kubernetes: that of ClusterNetworkPolicy does not.
    ours = "." not in key.group or validate.is_builtin(*identity)
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
    _check_name(metadata["name"], identity, custom=identity in scopes, what=what)
    _check_limits(value, what=what)
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
    if isinstance(value, str):  # most values are, and to be told from a Mapping takes them ten times as long
        return value
    if isinstance(value, Mapping):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_without_nulls(child) for child in value]
    return value


def _check_texts(value: Mapping[str, Any], *, what: str) -> None:
    """What YAML most often reads as a number or boolean where Kubernetes takes text, and keys of data. Never shows a
    value."""
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
            if not field.startswith("metadata.") and not _DATA_KEY.fullmatch(key):
                cause = f"{field} has the key {key[:100]!r}, which Kubernetes does not take"
                raise InvalidInput(
                    what, cause, "use at most 253 letters, digits, '-', '_' and '.', and no '..' at its start"
                )


def _check_name(name: str, identity: tuple[str, str], *, custom: bool, what: str) -> None:
    """By the rule of its kind. Kinds that nobody here knows may come from an API server that takes any path segment."""
    group = identity[0]
    if identity in _NAMED_BY_LABEL:
        fits, rule = _LABEL_NAME.fullmatch(name), "at most 63 lower case letters, digits and '-'"
    elif identity == ("batch", "CronJob"):  # its Jobs are called after it, with their time
        fits = _SUBDOMAIN.fullmatch(name) if len(name) <= _MAX_CRONJOB_NAME else None
        rule = f"at most {_MAX_CRONJOB_NAME} lower case letters, digits, '-' and '.'"
    elif group in _NAMED_FREELY or identity in _NAMED_FREELY_TOO:
        return
    elif custom or "." not in group or group.endswith(".k8s.io"):
        fits, rule = _SUBDOMAIN.fullmatch(name), "lower case letters, digits, '-' and '.'"
    else:
        return
    if not fits:
        cause = f"has the name {name[:100]!r}, which Kubernetes does not take"
        raise InvalidInput(what, cause, f"use {rule}, with a letter or digit at both ends")


def _check_limits(value: Mapping[str, Any], *, what: str) -> None:
    """What is limited in length. Never shows a value."""
    metadata = value["metadata"]
    for field in ("labels", "annotations"):
        for key, text in (metadata.get(field) or {}).items():
            # Kubernetes looks at annotations' keys in lower case.
            prefix, slash, name = (key if field == "labels" else key.lower()).rpartition("/")
            if not _KEY_NAME.fullmatch(name) or (slash and not (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix))):
                remedy = "write for example tier or example.org/tier, with at most 63 characters after the '/'"
                raise InvalidInput(
                    what, f"metadata.{field} has the key {key[:100]!r}, which Kubernetes does not take", remedy
                )
            if field == "labels" and text and not _KEY_NAME.fullmatch(text):
                remedy = "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
                raise InvalidInput(what, f"metadata.labels.{key} has a value that Kubernetes does not take", remedy)
    annotations = sum(
        len(key.encode()) + len(text.encode()) for key, text in (metadata.get("annotations") or {}).items()
    )
    _check_size(annotations, _MAX_ANNOTATIONS_BYTES, "annotations", what=what)
    if value["apiVersion"] == "v1" and value["kind"] in ("ConfigMap", "Secret"):
        fields = (("data", value["kind"] == "Secret"), ("stringData", False), ("binaryData", True))
        size = sum(
            _decoded_bytes(text) if is_base64 else len(text.encode())
            for field, is_base64 in fields
            for text in (value.get(field) or {}).values()
        )
        _check_size(size, _MAX_DATA_BYTES, "data", what=what)
    try:
        whole = len(orjson.dumps(value))
    except TypeError:  # numbers beyond 64 bits: `build` says so
        return
    _check_size(whole, _MAX_OBJECT_BYTES, "the whole object", what=what)


def _decoded_bytes(text: str) -> int:
    digits = sum(not character.isspace() for character in text) if "\n" in text else len(text)
    return digits * 3 // 4 - text.rstrip()[-2:].count("=")


def _check_size(size: int, limit: int, name: str, *, what: str) -> None:
    if size > limit:
        raise InvalidInput(
            what, f"{name}: {size} bytes, Kubernetes takes at most {limit}", "split it, or keep it elsewhere"
        )


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
