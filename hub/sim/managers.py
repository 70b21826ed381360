"""Who owns which fields: `managedFields` before a write to `managedFields` after it, as the real server decides.

    update  what changed becomes the writer's, and nobody else's; what is gone is nobody's: a removal leaves no trace
    apply   what the manifest sets is the applier's; what it no longer sets and nobody else owns is removed; a value of
            another manager that would change is a conflict, unless forced; equal values are owned together

There is one entry per manager, operation, subresource and, for updates, version. More than ten update entries become
`ancient-changes`, the oldest first. An object without any entry that is applied to was "before-first-apply"'s.
Ownership is computed on defaulted objects, before admission. Times have one second. All of it is pure.
Source: k8s.io/apimachinery managedfields, structured-merge-diff package merge. Next: `api` calls this at each write.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hub.openapi.schema import Node
from hub.sim import fieldset, merge
from hub.sim.fieldset import Path, Paths

MAX_UPDATERS: Final = 10
ANCIENT: Final = "ancient-changes"
BEFORE_FIRST_APPLY: Final = "before-first-apply"

Operation = Literal["Apply", "Update"]

_STRIPPED: Final[Paths] = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",)}
    | {
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        )
    }
)
"""What a writer never owns."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Writer:
    """Whose entry it is. An applier keeps its entry whatever the version: `api_version` is then no part of its id."""

    operation: Operation
    manager: str
    api_version: str
    subresource: str = ""

    @property
    def id(self) -> tuple[str, str, str, str]:
        return self.operation, self.manager, self.api_version if self.operation == "Update" else "", self.subresource


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One entry: what a writer owns since when."""

    writer: Writer
    fields: Paths
    time: str = ""


Claims = dict[tuple[str, str, str, str], Claim]


class Conflicts(Exception):
    """Other managers own values that an apply would change: (manager as messages name it, path)."""

    def __init__(self, held: Sequence[tuple[str, Path]]) -> None:
        self.causes = tuple((f"conflict with {manager}", fieldset.show(path)) for manager, path in held)
        super().__init__(_conflict_message(held))


def _conflict_message(held: Sequence[tuple[str, Path]]) -> str:
    if len(held) == 1:
        manager, path = held[0]
        return f"Apply failed with 1 conflict: conflict with {manager}: {fieldset.show(path)}"
    paths: dict[str, list[str]] = {}
    for manager, path in held:
        paths.setdefault(manager, []).append(f"- {fieldset.show(path)}")
    told = "\n".join(f"conflicts with {manager}:\n" + "\n".join(lines) for manager, lines in sorted(paths.items()))
    return f"Apply failed with {len(held)} conflicts: {told}"


# --- entries ----------------------------------------------------------------------------------------------------------


def read(entries: Iterable[Mapping[str, Any]]) -> Claims:
    """Pure: claims by writer. Raises ValueError for an entry that is none."""
    claims: Claims = {}
    for entry in entries:
        operation = entry.get("operation")
        if operation not in ("Apply", "Update"):
            raise ValueError(f"operation {operation!r} is neither Apply nor Update")
        writer = Writer(
            operation=operation,
            manager=str(entry.get("manager", "")),
            api_version=str(entry.get("apiVersion", "")),
            subresource=str(entry.get("subresource", "")),
        )
        fields = fieldset.parse(entry.get("fieldsV1"))
        claims[writer.id] = Claim(writer=writer, fields=fields, time=str(entry.get("time") or ""))
    return claims


def write(claims: Claims) -> list[dict[str, Any]]:
    """Pure: the entries of claims, in the real server's order: appliers first, then by time and name."""
    ordered = sorted(claims.values(), key=lambda claim: (claim.writer.operation, claim.time, claim.writer))
    return [_entry(claim) for claim in ordered]


def _entry(claim: Claim) -> dict[str, Any]:
    entry: dict[str, Any] = {"manager": claim.writer.manager, "operation": claim.writer.operation}
    entry["apiVersion"] = claim.writer.api_version
    if claim.time:
        entry["time"] = claim.time
    entry["fieldsType"] = "FieldsV1"
    entry["fieldsV1"] = fieldset.dump(claim.fields)
    if claim.writer.subresource:
        entry["subresource"] = claim.writer.subresource
    return entry


def entries_of(obj: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    entries: Sequence[Mapping[str, Any]] = obj.get("metadata", {}).get("managedFields") or ()
    return entries


def claims_for_update(live: Mapping[str, Any] | None, sent: Mapping[str, Any], *, subresource: str) -> Claims:
    """Pure: the claims that an update starts from: those sent, which is how they are edited; the live ones when there
    are none or they make no sense; none at all for the one empty entry that means a reset."""
    entries = entries_of(sent)
    if not subresource and len(entries) == 1 and not any(entries[0].values()):
        return {}
    if entries and not subresource:
        try:
            return read(entries)
        except ValueError:
            pass
    return claims_of(live)


def claims_of(live: Mapping[str, Any] | None) -> Claims:
    """Pure: the claims of a live object; none when they cannot be read."""
    try:
        return read(entries_of(live)) if live is not None else {}
    except ValueError:
        return {}


# --- writes -----------------------------------------------------------------------------------------------------------


def update(
    live: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    *,
    claims: Claims,
    writer: Writer,
    node: Node | None,
    now: str,
    reset: Paths = fieldset.EMPTY,
    empty: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Pure: the entries after `writer` made `new` of `live`, which is None for a creation.

    `empty` is what a new object of the kind is before anything is set, see `skeleton`.
    `reset` are fields that this endpoint never takes from a request; nobody comes to own them.
    """
    if live is not None and not claims:
        # Nobody applied to it since someone emptied its entries: nothing is tracked until somebody does.
        return []
    claims = _took(claims, _bare(live or empty), _bare(new), writer=writer, node=node, now=now, reset=reset)
    return write(_capped(claims))


def skeleton(node: Node) -> dict[str, Any]:
    """Pure: what a Go value of a built-in kind writes before anything is set: its structs that are no pointers, which
    OpenAPI gives the default {}, and its lists that are always written. Whoever creates an object does not own these.
    """
    out: dict[str, Any] = {}
    for name, below in node.fields.items():
        if below.kind == "map" and below.fields and below.default == {}:
            out[name] = skeleton(below)
        elif below.kind == "list" and name in node.checks.get("required", ()):
            out[name] = []
    return out


def _took(
    claims: Claims,
    live: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    writer: Writer,
    node: Node | None,
    now: str,
    reset: Paths = fieldset.EMPTY,
) -> Claims:
    changes = merge.compare(live, new, node).without(reset)
    changed = changes.added | changes.modified
    after = _without(claims, changed | changes.removed)
    taken = changed - _STRIPPED
    if taken:
        before = after.get(writer.id)
        fields = taken | before.fields if before else taken
        after[writer.id] = Claim(writer=writer, fields=fields, time=now)
    return after


def apply(
    live: Mapping[str, Any] | None,
    applied: Mapping[str, Any],
    *,
    writer: Writer,
    node: Node | None,
    force: bool,
    now: str,
    reset: Paths = fieldset.EMPTY,
    empty: Mapping[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pure: the object and its entries after an apply; `live` is None for a creation.

    Raises Conflicts, and merge.Malformed for a manifest that its schema cannot merge.
    """
    claims = claims_of(live)
    before = _bare(live or {})
    if live is not None and not claims:
        first = Writer(operation="Update", manager=BEFORE_FIRST_APPLY, api_version=writer.api_version)
        claims = _took(claims, empty, before, writer=first, node=node, now=now)
    wanted = _bare(applied)
    fields = fieldset.without_below(merge.field_set(wanted, node, strict=True), reset)
    merged = merge.merge(before, wanted, node)
    last = claims.pop(writer.id, None)
    if last is not None and last.fields:
        others = frozenset[Path]().union(fields, *(claim.fields for claim in claims.values()))
        merged = _pruned(merged, last=last.fields, managed=others, node=node)
    changes = merge.compare(before, merged, node).without(reset)
    changed = changes.added | changes.modified
    if not force:
        held = [(_named(claim.writer), path) for claim in claims.values() for path in sorted(claim.fields & changed)]
        if held:
            raise Conflicts(sorted(held, key=lambda one: one[1]))
    claims = _without(claims, changed | changes.removed)
    own = fields - _STRIPPED
    if own:
        claims[writer.id] = Claim(writer=writer, fields=own, time=now)
    return merged, write(claims)


def _pruned(merged: Mapping[str, Any], *, last: Paths, managed: Paths, node: Node | None) -> dict[str, Any]:
    """Without what the applier owned before and nobody owns now; parts of structs and items that others own stay."""
    last = fieldset.with_named_fields(last)
    managed = fieldset.with_named_fields(managed)
    if last <= managed:
        # Nothing was dropped.
        return dict(merged)
    whole = fieldset.with_named_fields(merge.field_set(merged, node))

    def left(value: Mapping[str, Any]) -> Paths:
        return fieldset.with_named_fields(merge.field_set(value, node))

    pruned = merge.remove(merged, last, node)
    pruned = merge.remove(merged, whole - (left(pruned) | managed), node)
    return merge.remove(merged, (whole - left(pruned)) & last, node)


def _without(claims: Claims, lost: Paths) -> Claims:
    """Claims that lose all their fields go; one that is untouched stays as it is."""
    after: Claims = {}
    for id_, claim in claims.items():
        fields = claim.fields - lost
        if fields:
            after[id_] = Claim(writer=claim.writer, fields=fields, time=claim.time)
    return after


def _capped(claims: Claims) -> Claims:
    updaters = sorted(
        (claim for claim in claims.values() if claim.writer.operation == "Update"),
        key=lambda claim: (claim.time, claim.writer),
    )
    count = len(updaters)
    after = dict(claims)
    first: dict[str, Claim] = {}
    for claim in updaters:
        if count <= MAX_UPDATERS:
            break
        version = claim.writer.api_version
        if version not in first:
            first[version] = claim
            continue
        bucket = Writer(operation="Update", manager=ANCIENT, api_version=version)
        if bucket.id not in after:
            after[bucket.id] = Claim(writer=bucket, fields=after.pop(first[version].writer.id).fields)
        after[bucket.id] = Claim(writer=bucket, fields=after[bucket.id].fields | claim.fields, time=claim.time)
        if claim.writer.id != bucket.id:
            del after[claim.writer.id]
        count -= 1
    return after


def _named(writer: Writer) -> str:
    named = f'"{writer.manager}"'
    if writer.subresource:
        named += f' with subresource "{writer.subresource}"'
    return f"{named} using {writer.api_version}" if writer.operation == "Update" else named


def _bare(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Without `managedFields`, which nobody owns."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping) or "managedFields" not in metadata:
        return dict(obj)
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}
