"""What differs between two renders of one bundle, object by object and field by field, for people to read.

A field is told by its path with both its values, without what stands around it: clusters whose objects differ only in
what did not change have the same change, and it is told once. Items of a list are matched by the field that names them
(as server-side apply does), so that one more container is one more container. Whatever differs is told, a mere order
of items too. Values of Secrets are never told. Pure. Next: `diffing` prints changes, `risks` judges them.
"""

import difflib
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from hub.render import checks
from proto.objects import ObjectKey, canonical
from proto.slices import POLICY_FILE, without_membership

_NAMING_FIELDS = ("name", "mountPath", "containerPort", "port", "key", "ip", "topologyKey")

What = Literal["created", "changed", "removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """`path` as in `spec.containers[web].image`; `before` and `after` are JSON values, None where there is none."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectChange:
    """One object of one bundle; `key` None is the bundle's policy for the agent (`bundle.json`).

    `fields` says what changed; `body` is the whole object when it was created or removed.
    """

    bundle: str
    key: ObjectKey | None
    what: What
    fields: tuple[FieldChange, ...] = ()
    body: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return str(self.key) if self.key else f"policy of bundle {self.bundle}"

    def to_json(self) -> dict[str, Any]:
        """As the JSON output has it."""
        key = self.key
        return {
            "bundle": self.bundle,
            "object": self.name,
            **({"group": key.group, "kind": key.kind, "namespace": key.namespace, "name": key.name} if key else {}),
            "change": self.what,
            "fields": [{"path": field.path, "before": field.before, "after": field.after} for field in self.fields],
            **({"body": self.body} if self.body is not None else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One change and the clusters that have it, sorted."""

    change: ObjectChange
    clusters: tuple[str, ...]


class Gathered:
    """Changes as they come, each kept once with its clusters."""

    def __init__(self) -> None:
        self._changes: dict[bytes, ObjectChange] = {}
        self._clusters: dict[bytes, list[str]] = {}

    def add(self, changes: Iterable[ObjectChange], clusters: Collection[str]) -> None:
        for change in changes:
            fingerprint = hashlib.sha256(canonical(change.to_json())).digest()
            self._changes.setdefault(fingerprint, change)
            self._clusters.setdefault(fingerprint, []).extend(clusters)

    def shared(self) -> tuple[Shared, ...]:
        """By bundle and object; of one object what most clusters have comes first."""
        found = [
            Shared(change=change, clusters=tuple(sorted(self._clusters[fingerprint])))
            for fingerprint, change in self._changes.items()
        ]
        return tuple(sorted(found, key=_order))


def _order(shared: Shared) -> tuple[Any, ...]:
    change = shared.change
    return change.bundle, change.key is not None, change.key or (), -len(shared.clusters), shared.clusters


def object_changes(bundle: str, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[ObjectChange, ...]:
    """Pure: what differs between two renders (path in the subtree → bytes; nothing where the bundle is not)."""
    found: list[ObjectChange] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if path == POLICY_FILE:
            if old is not None and new is not None:
                fields = tuple(_fields(orjson.loads(old), orjson.loads(new), ""))
                found.append(ObjectChange(bundle=bundle, key=None, what="changed", fields=fields))
            continue
        key = ObjectKey.from_path(path)
        if old is None or new is None:
            body = readable(orjson.loads(old or new or b""))
            what: What = "created" if old is None else "removed"
            found.append(ObjectChange(bundle=bundle, key=key, what=what, body=body))
        else:
            was, now = without_membership(orjson.loads(old)), without_membership(orjson.loads(new))
            fields = tuple(_hidden(_fields(was, now, ""), secret=checks.is_secret(was) or checks.is_secret(now)))
            found.append(ObjectChange(bundle=bundle, key=key, what="changed", fields=fields))
    return tuple(found)


def readable(obj: dict[str, Any]) -> Mapping[str, Any]:
    """Pure: an object of a slice for people: without our labels, and without the values of a Secret."""
    return checks.without_values(without_membership(obj))


def _hidden(fields: Iterable[FieldChange], *, secret: bool) -> Iterator[FieldChange]:
    for field in fields:
        top = field.path.partition(".")[0].partition("[")[0]
        said = top == "metadata" and (checks.LAST_APPLIED in field.path or field.path == "metadata.annotations")
        if secret and (said or checks.hides(top)):
            yield FieldChange(path=field.path, before=_mask(field.before), after=_mask(field.after))
        else:
            yield field


def _mask(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict.fromkeys(value, checks.HIDDEN)
    return None if value is None else checks.HIDDEN


def same(before: Any, after: Any) -> bool:
    """Pure: are they the same JSON? To Python 1, 1.0 and true are equal."""
    return canonical(before) == canonical(after)


def _fields(before: Any, after: Any, path: str) -> Iterator[FieldChange]:
    if same(before, after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _fields(before.get(key), after.get(key), _step(path, key))
    elif isinstance(before, list) and isinstance(after, list) and (field := _naming_field(before, after)):
        old, new = ({str(item[field]): item for item in items} for items in (before, after))
        for name in sorted(old.keys() | new.keys()):
            yield from _fields(old.get(name), new.get(name), f"{path}[{name}]")
        stayed, now = [name for name in old if name in new], [name for name in new if name in old]
        if stayed != now:
            yield FieldChange(path=f"{path} (order)", before=stayed, after=now)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after) and _whole(before, after):
        for index, (was, now_) in enumerate(zip(before, after, strict=True)):
            yield from _fields(was, now_, f"{path}[{index}]")
    else:
        yield FieldChange(path=path, before=before, after=after)


def _step(path: str, key: str) -> str:
    plain = key.replace("-", "").replace("_", "").isalnum()
    return (f"{path}.{key}" if path else key) if plain else f'{path}["{key}"]'


def _whole(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Lists of structures of the same length: told item by item. Scalars (arguments, say) are read as a whole."""
    return all(isinstance(item, Mapping) for item in (*before, *after))


def _naming_field(before: Sequence[Any], after: Sequence[Any]) -> str:
    """The field whose values tell the items of both lists apart, "" when there is none."""
    items = [*before, *after]
    if not items or not all(isinstance(item, Mapping) for item in items):
        return ""
    for field in _NAMING_FIELDS:
        values = [[item.get(field) for item in side] for side in (before, after)]
        if all(isinstance(value, str | int) and not isinstance(value, bool) for side in values for value in side) and (
            all(len({str(value) for value in side}) == len(side) for side in values)
        ):
            return field
    return ""


def text_diff(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """Pure: lines that begin with `-`, `+`, a blank or `@@`."""
    lines = difflib.unified_diff(before, after, lineterm="", n=2)
    return itertools.islice(lines, 2, None)  # the first two name files
