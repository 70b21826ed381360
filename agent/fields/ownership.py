"""`managedFields` as sets of paths: what we own of an object, and what others do.

A path is a tuple of the raw elements of `fieldsV1` (`f:spec`, `k:{"name":"app"}`, `v:"x"`, `i:0`).
Source: sigs.k8s.io/structured-merge-diff fieldpath. Assumes objects as the API server sends them. All of it is pure.
Next: `drift` compares these sets, `steal` rewrites them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from proto.slices import BUNDLE_LABEL, FIELD_MANAGER, PART_OF_LABEL, applyset_id

FieldPath = tuple[str, ...]
Paths = frozenset[FieldPath]

WIPED = "before-first-apply"
"""The manager that the API server invents for all live fields when someone emptied `managedFields`."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation that quotes the whole object, of a Secret its data; a later `kubectl apply` would undo things by it."""

CONTROLLERS = frozenset(
    {
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "cloud-controller-manager",
        "cert-manager-cainjector",
        "vpa-updater",
    }
)
"""Managers whose fields are theirs by right; a list given by the agent's configuration replaces it."""

MAPS = frozenset[FieldPath](
    {
        (),
        ("f:metadata",),
        ("f:metadata", "f:labels"),
        ("f:metadata", "f:annotations"),
    }
)
"""Where fields beside ours never stand in the place of ours: everybody may add to these."""


def own_entry(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Pure: our Apply entry; None when we have none. An Update under our name is somebody else's."""
    return next((entry for entry in entries(obj) if is_own(entry)), None)


def is_ours(live: Mapping[str, Any]) -> bool:
    """Pure: whether an object carries our Apply entry, and the labels of one of our bundles."""
    labels = live["metadata"].get("labels") or {}
    bundle = labels.get(BUNDLE_LABEL)
    return bundle is not None and labels.get(PART_OF_LABEL) == applyset_id(bundle) and own_entry(live) is not None


def controller(live: Mapping[str, Any]) -> str:
    """Pure: the object, as `Kind/name`, that controls this one by its owner references; "" when none does."""
    owners = live["metadata"].get("ownerReferences") or ()
    return next((f"{owner.get('kind')}/{owner.get('name')}" for owner in owners if owner.get("controller")), "")


def foreign(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Pure: the entries of all others, without those for status."""
    return [entry for entry in entries(obj) if not is_own(entry) and not is_status(entry)]


def entries(obj: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return obj["metadata"].get("managedFields") or ()


def is_own(entry: Mapping[str, Any]) -> bool:
    return entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource")


def is_status(entry: Mapping[str, Any]) -> bool:
    """Status kept without the subresource counts too: an entry that holds nothing else."""
    return entry.get("subresource") == "status" or (entry.get("fieldsV1") or {}).keys() == {"f:status"}


def owned(entry: Mapping[str, Any] | None) -> Paths:
    """Pure: the paths of an entry of `managedFields`; none for None."""
    fields = entry.get("fieldsV1") if entry else None
    return frozenset(_walk(fields, ())) if fields else frozenset()


def _walk(fields: Mapping[str, Any], above: FieldPath) -> Iterator[FieldPath]:
    for element, below in fields.items():
        if element == ".":
            yield above
        elif below:
            yield from _walk(below, (*above, element))
        else:
            yield (*above, element)


def to_fields(paths: Iterable[FieldPath]) -> dict[str, Any]:
    """Pure: the `fieldsV1` of a set of paths; the inverse of `owned`."""
    ordered = sorted(paths)
    parents = {path[:depth] for path in ordered for depth in range(len(path))}
    root: dict[str, Any] = {}
    for path in ordered:
        node = root
        for element in path:
            node = node.setdefault(element, {})
        if path in parents:
            node["."] = {}
    return root


def topmost(paths: Iterable[FieldPath]) -> list[FieldPath]:
    """Pure: the paths that lie below no other, sorted."""
    kept: list[FieldPath] = []
    for path in sorted(paths):
        # What lies below a path comes right after it.
        if not (kept and under(path, kept[-1])):
            kept.append(path)
    return kept


def render(paths: Iterable[FieldPath]) -> tuple[str, ...]:
    """Pure: paths for people, sorted, as API server messages write them; what lies below another is left out."""
    return tuple("".join(_render_element(element) for element in path) for path in topmost(paths))


def _render_element(element: str) -> str:
    kind, _, value = element.partition(":")
    if kind == "f":
        return f".{value}"
    if kind == "k":
        keys = orjson.loads(value)
        return "[" + ",".join(f"{key}={orjson.dumps(keys[key]).decode()}" for key in sorted(keys)) + "]"
    return f"[={value}]" if kind == "v" else f"[{value}]"


def under(path: FieldPath, above: FieldPath) -> bool:
    return len(path) > len(above) and path[: len(above)] == above
