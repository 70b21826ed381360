"""The forms of one object: a version of its kind, its metadata alone, its Scale, what of it a request may change.

Next: `api` and `watch` answer with them. All of it is pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from hub.sim import merge
from hub.sim.kinds import Kind

_KEPT: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
"""Metadata that no request changes."""


def as_version(obj: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Pure: the object as this version of its kind serves it."""
    obj["apiVersion"] = kind.info.api_version
    return obj


def metadata_only(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: the object's PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def scale_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: the Scale of a workload."""
    metadata, spec, state = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    named = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = spec.get("selector") or {}
    labels = selector.get("matchLabels", selector if "matchExpressions" not in selector else {})
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in named if name in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": state.get("replicas", 0),
            "selector": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        },
    }


def less(obj: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Pure: the object without a field."""
    return {key: value for key, value in obj.items() if key != name}


def with_entries(obj: Mapping[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Pure: the object with these `managedFields`."""
    metadata = less(obj["metadata"], "managedFields")
    if entries:
        metadata["managedFields"] = entries
    return {**obj, "metadata": metadata}


def kept(sent: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: metadata as sent, but for what no request changes."""
    changed = {name: value for name, value in sent.items() if name not in _KEPT}
    return {**changed, **{name: old[name] for name in _KEPT if name in old}, "name": old["name"]}


def same_but_times(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Pure: whether a write changes nothing, or only the times of `managedFields`."""

    def bare(obj: Mapping[str, Any]) -> dict[str, Any]:
        metadata = dict(obj["metadata"])
        metadata["managedFields"] = [less(entry, "time") for entry in metadata.get("managedFields") or ()]
        return {**obj, "metadata": metadata}

    return merge.same(bare(old), bare(new))
