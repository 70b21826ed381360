"""The slice: the Git tree that one cluster's agent pulls, and what its files say.

    slice.json                                                      SliceManifest
    bundles/<bundle>/bundle.json                                    BundlePolicy
    bundles/<bundle>/<namespace|_cluster>/<Kind>[.<group>]/<name>.json   one object, canonical JSON

A *subtree* is the Git tree `bundles/<bundle>`. The agent needs nothing that is not in its slice.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

import msgspec

from proto.errors import ProtocolError, UnsupportedVersion
from proto.ids import is_oid
from proto.objects import canonical

SLICE_FORMAT = 1
"""Raised when an agent that knows only the older format would do harm with the newer one."""

SLICE_FILE = "slice.json"
POLICY_FILE = "bundle.json"
BUNDLES = "bundles"
PREDECESSOR_TRAILER = "Predecessor"
"""Of a checkpoint: a parentless commit that cuts a long history, and names the commit before it so."""

FIELD_MANAGER = "flotilla"
BUNDLE_LABEL = "flotilla.dev/bundle"
PART_OF_LABEL = "applyset.kubernetes.io/part-of"
PARENT_ID_LABEL = "applyset.kubernetes.io/id"
PARENT_GROUP = "flotilla.dev"
PARENT_KIND = "AppliedBundle"
PARENT_API_VERSION = "flotilla.dev/v1alpha1"

T = TypeVar("T")


class BundleEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One bundle of a slice: `subtree` is the Git tree id, `revision` the fleet repo commit it was rendered from."""

    subtree: str
    revision: str
    rollout: str = ""


class SliceManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`slice.json`. `seq` grows by one with each slice commit of the cluster."""

    cluster: str
    seq: int
    bundles: dict[str, BundleEntry]
    format: int = SLICE_FORMAT


class IgnoreRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Drift in `paths` (JSON pointers) of matching objects is left alone. Empty fields match everything."""

    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    labels: dict[str, str] = {}
    paths: tuple[str, ...] = ()


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Health of one kind by CEL expressions over `object`; the first that is true decides, in the order `failed`,
    `in_progress`, `current`; an empty one is never true. `api_version` is the whole `group/version`."""

    api_version: str
    kind: str
    current: str
    in_progress: str = ""
    failed: str = ""


class DriftPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to do about changes that were not ours (design, decision 5)."""

    mode: Literal["revert", "report", "ignore"] = "revert"
    additions: Literal["tolerate", "report", "revert"] = "report"
    ignore: tuple[IgnoreRule, ...] = ()


class BundlePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """`bundle.json`: what the agent has to know about a bundle beyond its objects.

    Defaults are not written, so that a field that is added later changes no subtree. `service_account` is
    `namespace/name`, whom the agent acts as for this bundle ("": as itself); `allow_empty` says that a bundle without
    any object is meant so.
    """

    name: str
    format: int = SLICE_FORMAT
    drift: DriftPolicy = DriftPolicy()
    prune: bool = True
    destructive_prune: bool = False
    adopt: Literal["ifUnowned", "always", "never"] = "ifUnowned"
    depends_on: tuple[str, ...] = ()
    service_account: str = ""
    timeout_s: float = 600.0
    allow_empty: bool = False
    health_checks: tuple[HealthCheck, ...] = ()


def to_file(value: SliceManifest | BundlePolicy) -> bytes:
    """Canonical JSON bytes of a slice's own file."""
    return canonical(msgspec.to_builtins(value))


def read_manifest(data: bytes) -> SliceManifest:
    """Parse `slice.json`. Raises UnsupportedVersion for a newer format, ProtocolError for anything else."""
    return _read(data, _manifest, SLICE_FILE)


def read_policy(data: bytes) -> BundlePolicy:
    """Parse `bundle.json`. Raises UnsupportedVersion for a newer format, ProtocolError for anything else."""
    return _read(data, _policy, POLICY_FILE)


class _Format(msgspec.Struct):
    format: int = SLICE_FORMAT


_decode_format = msgspec.json.Decoder(type=_Format).decode
_manifest = msgspec.json.Decoder(type=SliceManifest)
_policy = msgspec.json.Decoder(type=BundlePolicy)


def _read(data: bytes, decoder: msgspec.json.Decoder[T], name: str) -> T:
    try:
        found = _decode_format(data).format
        if found > SLICE_FORMAT:
            raise UnsupportedVersion(
                name, f"has format {found}, this agent knows up to {SLICE_FORMAT}", "upgrade the agent"
            )
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(name, f"is not valid: {error}") from error


@lru_cache(maxsize=1024)
def applyset_id(bundle: str) -> str:
    """The ApplySet id of a bundle, as kubectl computes it from the parent's name, namespace, kind and group.

    Source: k8s.io/kubectl pkg/cmd/apply/applyset.go. The parent is cluster-scoped, so its namespace is "".
    """
    name = f"{bundle}..{PARENT_KIND}.{PARENT_GROUP}"
    digest = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()
    return f"applyset-{digest}-v1"


def membership_labels(bundle: str) -> dict[str, str]:
    """The two labels that every object of a bundle carries in its slice and in the cluster."""
    return {BUNDLE_LABEL: bundle, PART_OF_LABEL: applyset_id(bundle)}


def with_membership(obj: Mapping[str, Any], bundle: str) -> dict[str, Any]:
    """A copy of `obj` that carries the membership labels of `bundle`."""
    metadata = dict(obj["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), **membership_labels(bundle)}
    return {**obj, "metadata": metadata}


def without_membership(obj: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `obj` as Git has it, for people: without the membership labels, and without labels if none are left."""
    metadata = dict(obj["metadata"])
    labels = metadata.pop("labels", None) or {}
    if labels := {name: value for name, value in labels.items() if name not in (BUNDLE_LABEL, PART_OF_LABEL)}:
        metadata["labels"] = labels
    return {**obj, "metadata": metadata}


def commit_message(
    *, cluster: str, seq: int, bundles: Sequence[tuple[str, str]], trailers: Sequence[tuple[str, str]]
) -> str:
    """The message of a slice commit: a subject, then sorted trailers.

    `bundles` are (name, what happened) pairs for the subject; `trailers` are (`Bundle`, `Source-Revision`, `Rollout`,
    `Wave` or `Predecessor`; value). Nothing here may depend on a replica, a wall clock, a trace or a person.
    """
    what = ", ".join(f"{name} {change}" for name, change in sorted(bundles)) or "nothing"
    lines = "".join(f"{key}: {value}\n" for key, value in sorted(set(trailers)))
    return f"{cluster} #{seq}: {what}\n" + (f"\n{lines}" if lines else "")


def predecessor(message: str) -> str | None:
    """The commit that a checkpoint's message names as its predecessor, None when it names none."""
    for line in message.splitlines():
        key, separator, value = line.partition(": ")
        if separator and key == PREDECESSOR_TRAILER and is_oid(value):
            return value
    return None
