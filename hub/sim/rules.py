"""What the real server does to objects of certain kinds beyond their schema: checks and generations.

    generation      +1 for each change outside metadata and status; a Deployment's annotations count, too
    Secret          data that is not base64 is unreadable
    Service         ports want names that differ
    CRDs            one version is stored, names are whole
    pod templates   one type per volume and probe, value or valueFrom, labels that the selector selects

All of it is pure. Next: `decode` and `writes` call these at each write.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from hub.sim.fieldset import Path, Paths

Problem = tuple[str, str]

_GIVEN: Final[Mapping[tuple[str, str], tuple[tuple[str, ...], ...]]] = {
    ("", "Service"): tuple(("spec", name) for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")),
    ("", "Namespace"): (("spec", "finalizers"),),
    ("", "PersistentVolumeClaim"): (("metadata", "finalizers"),),
    ("", "PersistentVolume"): (("metadata", "finalizers"),),
}

_TEMPLATED: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "ReplicaSet": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "ReplicationController": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_SELECTING: Final = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"})
_HANDLERS: Final = frozenset({"exec", "httpGet", "tcpSocket", "grpc", "sleep"})


class Unreadable(ValueError):
    """An object that cannot be decoded into its kind."""


def check_readable(obj: Mapping[str, Any], *, group: str, kind: str) -> None:
    """Pure: raises Unreadable for a Secret whose data is not base64."""
    if (group, kind) != ("", "Secret"):
        return
    for value in (obj.get("data") or {}).values():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise Unreadable(f"illegal base64 data at input byte {_bad_byte(value)}") from error


def _bad_byte(value: Any) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    return next((at for at, char in enumerate(str(value)) if char not in alphabet), len(str(value)))


def given(sent: Any, *, group: str, kind: str) -> Paths:
    """Pure: what `defaults` sets and a real server gives after ownership is computed: nobody's, unless sent."""
    found: set[Path] = set()
    for path in _GIVEN.get((group, kind), ()):
        at = sent
        for name in path:
            at = at.get(name) if isinstance(at, Mapping) else None
        if at is None:
            found.add(tuple(f"f:{name}" for name in path))
    return frozenset(found)


def generation(old: Mapping[str, Any], new: Mapping[str, Any], *, group: str, kind: str, has_status: bool) -> int:
    """Pure: the generation after a write, for a kind that has one."""
    count = int(old["metadata"].get("generation") or 1)
    apart = {"metadata", "apiVersion", "kind"} | ({"status"} if has_status else set())
    changed = any(old.get(name) != new.get(name) for name in (old.keys() | new.keys()) - apart)
    if (group, kind) == ("apps", "Deployment"):
        changed = changed or (old["metadata"].get("annotations") or {}) != (new["metadata"].get("annotations") or {})
    return count + changed


def problems(obj: Mapping[str, Any], *, group: str, kind: str) -> list[Problem]:
    """Pure: (field, message) of what the server refuses beyond the schema."""
    if kind == "CustomResourceDefinition":
        return list(_definition(obj))
    if group not in ("", "apps", "batch"):
        return []
    found = list(_service(obj)) if kind == "Service" else []
    path = _TEMPLATED.get(kind)
    if path is not None:
        pod: Any = obj
        for name in path:
            pod = pod.get(name) or {}
        found += _pod(pod, ".".join(path))
    if kind in _SELECTING:
        found += _selector(obj)
    if kind == "Deployment":
        strategy = (obj.get("spec") or {}).get("strategy") or {}
        if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate"):
            field = "spec.strategy.rollingUpdate"
            found.append((field, "Forbidden: may not be specified when strategy `type` is 'Recreate'"))
    return found


def _service(obj: Mapping[str, Any]) -> Iterator[Problem]:
    ports = (obj.get("spec") or {}).get("ports") or ()
    spec = obj.get("spec") or {}
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        yield "spec.ports", "Required value"
    seen: set[str] = set()
    for place, port in enumerate(ports):
        name = port.get("name", "")
        if not name and len(ports) > 1:
            yield f"spec.ports[{place}].name", "Required value"
        elif name in seen:
            yield f"spec.ports[{place}].name", f'Duplicate value: "{name}"'
        seen.add(name)


def _definition(obj: Mapping[str, Any]) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    versions = spec.get("versions") or ()
    if sum(bool(version.get("storage")) for version in versions) != 1:
        shown = orjson.dumps(list(versions)).decode()
        yield "spec.versions", f"Invalid value: {shown}: must have exactly one version marked as storage version"
    names = spec.get("names") or {}
    for name in ("plural", "kind"):
        if not names.get(name):
            yield f"spec.names.{name}", "Required value"
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if obj["metadata"].get("name") != wanted:
        shown = orjson.dumps(obj["metadata"].get("name")).decode()
        yield "metadata.name", f'Invalid value: {shown}: must be spec.names.plural+"."+spec.group'


def _selector(obj: Mapping[str, Any]) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if any(labels.get(name) != value for name, value in wanted.items()):
        shown = orjson.dumps(labels).decode()
        yield (
            "spec.template.metadata.labels",
            f"Invalid value: {shown}: `selector` does not match template `labels`",
        )


def _pod(pod: Mapping[str, Any], path: str) -> Iterator[Problem]:
    for place, volume in enumerate(pod.get("volumes") or ()):
        for extra in sorted(volume.keys() - {"name"})[1:]:
            yield f"{path}.volumes[{place}].{extra}", "Forbidden: may not specify more than 1 volume type"
    for group in ("initContainers", "containers"):
        for place, container in enumerate(pod.get(group) or ()):
            yield from _container(container, f"{path}.{group}[{place}]")


def _container(container: Mapping[str, Any], path: str) -> Iterator[Problem]:
    for place, env in enumerate(container.get("env") or ()):
        if env.get("valueFrom"):
            field = f"{path}.env[{place}].valueFrom"
            if env.get("value"):
                yield field, 'Invalid value: "": may not be specified when `value` is not empty'
            if len(env["valueFrom"]) > 1:
                yield field, 'Invalid value: "": may not have more than one field specified at a time'
    names: set[str] = set()
    for place, port in enumerate(container.get("ports") or ()):
        name = port.get("name")
        if name and name in names:
            yield f"{path}.ports[{place}].name", f'Duplicate value: "{name}"'
        names.add(name or "")
    lifecycle = container.get("lifecycle") or {}
    handled = {name: container.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")}
    handled |= {f"lifecycle.{name}": lifecycle.get(name) for name in ("postStart", "preStop")}
    for name, probe in handled.items():
        if probe is None:
            continue
        handlers = sorted(_HANDLERS & probe.keys())
        if not handlers:
            yield f"{path}.{name}", "Required value: must specify a handler type"
        for extra in handlers[1:]:
            yield f"{path}.{name}.{extra}", "Forbidden: may not specify more than 1 handler type"
