"""What is sent for one object, and what the object itself says about how: its manifest, and its annotations.

    annotation of the desired object                                    then
    flotilla.dev/recreate: "true"                                       deleted and created anew if an update cannot do
    kustomize.toolkit.fluxcd.io/force: enabled                          the same
    argocd.argoproj.io/sync-options: …Replace=true… or …Force=true…     the same
    a Job or a Pod that a hook runs (`order`)                           deleted and created anew for each new content

All of it is pure. Next: `apply` sends it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from agent.apply import order as ordering
from agent.fields import ignored
from proto.errors import Permanent
from proto.objects import ObjectKey, canonical
from proto.slices import IgnoreRule

RECREATE: Final[Mapping[str, str]] = {
    "flotilla.dev/recreate": "true",
    "kustomize.toolkit.fluxcd.io/force": "enabled",
}
"""Annotations, and the values that let an object be deleted and created anew."""
SYNC_OPTIONS: Final = "argocd.argoproj.io/sync-options"
"""A list with commas, such as `Prune=false,Replace=true`."""
_NEVER: Final = "1"
"""A resourceVersion that no object ever has: an apply with it creates, or is a conflict; it changes nothing."""
_PLACES: Final = ("metadata.name", "spec.clusterIP", "spec.ports", "spec.healthCheckNodePort")


class Manifest:
    """One desired object. `pointers` are the JSON pointers at which a live one is left alone."""

    def __init__(self, data: bytes, *, rules: Sequence[IgnoreRule]) -> None:
        self.data = data
        self.object: Mapping[str, Any] = orjson.loads(data)
        self.pointers = ignored.pointers(rules, self.object)
        metadata = self.object["metadata"]
        self._notes: Mapping[str, str] = metadata.get("annotations") or {}
        self.runs_anew = ordering.traits(self.object).hook
        """Whether it is deleted before it is applied with other content: only what runs, a hook may be a Namespace."""

    @property
    def may_be_recreated(self) -> bool:
        """Pure: whether it says that it may be deleted and created anew."""
        return (
            any(self._notes.get(name) == value for name, value in RECREATE.items())
            or bool({"Replace=true", "Force=true"} & listed(self._notes.get(SYNC_OPTIONS, "")))
            or self.runs_anew
        )

    def only_new(self) -> bytes:
        """Pure: what creates the object, and is a conflict when it exists, whatever it is like."""
        return _with_metadata(ignored.body_for(self.object, None, self.pointers), resourceVersion=_NEVER)

    def for_live(self, live: Mapping[str, Any] | None) -> bytes:
        """Pure: what is applied to the object as it is (None: it was not looked at, or is not there); names the uid,
        and maybe the resourceVersion, that it must have where that matters."""
        sent = ignored.body_for(self.object, live, self.pointers)
        return self.data if sent is self.object else canonical(sent)

    def probe(self, key: ObjectKey) -> tuple[ObjectKey, bytes]:
        """Pure: the same object under a name that is free, to ask with a dry run whether it could be created."""
        name = f"{key.name[:40].rstrip('-.')}-{hashlib.sha256(str(key).encode()).hexdigest()[:8]}"
        return key._replace(name=name), _with_metadata(
            ignored.body_for(self.object, None, self.pointers), name=name, resourceVersion=_NEVER
        )


def says_little(fields: Sequence[str]) -> bool:
    """Pure: whether a probe was refused only for its name, or for what the live object still occupies."""
    return bool(fields) and all(field.startswith(_PLACES) for field in fields)


def parsed(data: bytes, key: ObjectKey, *, rules: Sequence[IgnoreRule]) -> Manifest:
    """Pure: the manifest in an object's file. Raises Permanent when it is none."""
    try:
        return Manifest(data, rules=rules)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Permanent(str(key), f"its file in the slice cannot be read: {error}") from error


def listed(text: str) -> set[str]:
    """Pure: the parts of an annotation that is a list with commas."""
    return {part.strip() for part in text.split(",")} - {""}


def _with_metadata(manifest: Mapping[str, Any], **metadata: str) -> bytes:
    return canonical({**manifest, "metadata": {**manifest["metadata"], **metadata}})
