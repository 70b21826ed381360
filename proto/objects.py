"""Kubernetes objects as values: their key, their canonical bytes, and the Git ids of those bytes.

An object's file in a slice is its canonical JSON; the blob id of that file is the object's desired hash.
Assumes that objects were validated (`apiVersion`, `kind`, `metadata.name` are strings) before `key_of`.
"""

import hashlib
from collections.abc import Mapping
from sys import intern
from typing import Any, NamedTuple, Self

import orjson

from proto.errors import InvalidInput, ProtocolError
from proto.ids import Oid

CLUSTER_SCOPE = "_cluster"
"""Folder of cluster-scoped objects; `_` cannot start a namespace's name."""


class ObjectKey(NamedTuple):
    """What identifies an object through all versions of its API: group, kind, namespace ("" if none), name.

    A tuple, because it is looked up more than all else: hashed and compared by the interpreter itself, in a third of a
    dataclass's time [m].
    """

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"

    @property
    def gk(self) -> str:
        """`Deployment.apps`, or `ConfigMap` for the core group: the form of ApplySet annotations and of paths."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def path(self) -> str:
        """Path of the object's file inside its bundle's subtree."""
        return f"{self.namespace or CLUSTER_SCOPE}/{self.gk}/{self.name}.json"

    @classmethod
    def from_path(cls, path: str) -> Self:
        """The inverse of `path`. Raises ProtocolError."""
        parts = path.split("/")
        if len(parts) != 3 or not parts[2].endswith(".json") or not all(parts) or parts[2] == ".json":
            raise ProtocolError(f"slice path {path[:200]!r}", "is not <namespace|_cluster>/<Kind>.<group>/<name>.json")
        kind, _, group = parts[1].partition(".")
        if not kind:
            raise ProtocolError(f"slice path {path[:200]!r}", "names no kind")
        namespace = "" if parts[0] == CLUSTER_SCOPE else parts[0]
        # Thousands of keys have these few words: interned, each is in memory once.
        return cls(intern(group), intern(kind), intern(namespace), parts[2].removesuffix(".json"))


def group_of(api_version: str) -> str:
    """`apps` for `apps/v1`, "" for `v1`."""
    group, slash, _ = api_version.partition("/")
    return group if slash else ""


def key_of(obj: Mapping[str, Any]) -> ObjectKey:
    """The key of a manifest or live object. Raises InvalidInput when it has no identity."""
    metadata = obj.get("metadata")
    api_version, kind = obj.get("apiVersion"), obj.get("kind")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not (isinstance(api_version, str) and isinstance(kind, str) and isinstance(name, str) and name):
        raise InvalidInput("object", "has no apiVersion, kind or metadata.name", "every manifest needs the three")
    namespace = metadata.get("namespace") if isinstance(metadata, Mapping) else None
    if "/" in kind or "/" in name or "." in kind or name in (".", ".."):
        raise InvalidInput(f"{kind}/{name}", "is not a name that Kubernetes accepts")
    return ObjectKey(group=group_of(api_version), kind=kind, namespace=namespace or "", name=name)


def canonical(obj: Any) -> bytes:
    """The one byte string of a JSON value: UTF-8, sorted keys, two-space indent, a newline at the end.

    Equal values give equal bytes. Raises InvalidInput for what JSON cannot hold (NaN, integers beyond 64 bits).
    """
    try:
        return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except (TypeError, ValueError) as error:
        raise InvalidInput("object", f"cannot be written as JSON: {error}") from error


def git_id(kind: str, data: bytes) -> Oid:
    """Git's SHA-1 id of an object of `kind` (blob, tree, commit) with the content `data`."""
    return Oid(hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest())


def blob_id(data: bytes) -> Oid:
    return git_id("blob", data)


def tree_bytes(entries: Mapping[str, tuple[bool, Oid]]) -> bytes:
    """Content of a Git tree: `entries` maps a name to (is it a tree, id); Git's own order (trees sort as `name/`)."""
    ordered = sorted(entries.items(), key=lambda item: (item[0] + "/" if item[1][0] else item[0]).encode())
    return b"".join(
        (b"40000 " if is_tree else b"100644 ") + name.encode() + b"\0" + bytes.fromhex(oid)
        for name, (is_tree, oid) in ordered
    )
