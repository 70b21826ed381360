"""Drift: tells a change that was not ours from metadata alone, what was lost, and who has it.

Rules (design, decision 5), for an event of an object whose `Baseline` was kept after our last write:

    event                                                         verdict
    resourceVersion as in the baseline                            none: we know this state
    another uid                                                   suspicion: recreated
    generation differs                                            suspicion: generation
    `managedFields` without status entries differ, or             suspicion: fields
    … a label or annotation of ours has another value
    our own entry differs                                         suspicion: ownership
    none of these, the kind has generations                       none: a status write
    none of these, no generations, status entries differ          none: a status write
    none of these, no generations, status entries as before       suspicion: content

A suspicion is not drift: `revert` confirms it. An event without suspicion is the object's new state as far as we care:
keep `baseline(event)`. Hashes are stable across processes (they are stored) and do not depend on the order of keys.
Assumes objects as the API server sends them, whole or their metadata alone. Next: `revert`.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self, cast, get_args

import orjson

from agent.fields import ownership, steal
from agent.fields.ownership import CONTROLLERS, FieldPath, Paths
from agent.model import Baseline
from proto.slices import DriftPolicy

Mode = Literal["revert", "report", "ignore"]

MODE_ANNOTATION = "flotilla.dev/drift"
"""On an object in Git: its own mode, instead of its bundle's."""

UNKNOWN = "unknown (removal)"
"""The manager of a change that left no trace."""


class Suspicion(StrEnum):
    """Why an event may be drift; the module's table."""

    RECREATED = "recreated"
    GENERATION = "generation"
    FIELDS = "fields"
    OWNERSHIP = "ownership"
    CONTENT = "content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Who changed what: `fields` are for people; `time` is the API server's, "" when unknown."""

    fields: tuple[str, ...]
    manager: str = UNKNOWN
    operation: str = ""
    time: str = ""


def mode_of(policy: DriftPolicy, desired: Mapping[str, Any]) -> Mode:
    """Pure: what is to be done about drift of an object: what its own annotation in Git says, else its bundle's mode.

    A word that is no mode is the bundle's mode too; what is in the cluster never counts.
    """
    own = (desired["metadata"].get("annotations") or {}).get(MODE_ANNOTATION)
    return cast(Mode, own) if own in get_args(Mode) else policy.mode


def baseline(obj: Mapping[str, Any]) -> Baseline:
    """Pure: what to keep of an object (whole, or its metadata) right after a write of ours or a harmless event."""
    metadata = obj["metadata"]
    entries = ownership.entries(obj)
    own = ownership.own_entry(obj)
    return Baseline(
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        generation=metadata.get("generation", 0),
        managed=_hash([[entry for entry in entries if not ownership.is_status(entry)], _own_metadata(own, metadata)]),
        own=None if own is None else _hash(own.get("fieldsV1")),
        status=_hash([entry for entry in entries if ownership.is_status(entry)]),
    )


def _own_metadata(own: Mapping[str, Any] | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The labels and annotations that are ours: what admission makes of them in a write of somebody else moves neither
    the generation nor who owns them."""
    fields = ((own or {}).get("fieldsV1") or {}).get("f:metadata") or {}
    return {
        name: {key: value for key, value in (metadata.get(name) or {}).items() if f"f:{key}" in fields[f"f:{name}"]}
        for name in ("labels", "annotations")
        if fields.get(f"f:{name}")
    }


def suspicion(known: Baseline, obj: Mapping[str, Any]) -> Suspicion | None:
    """Pure: whether the state in an event may be drift, by the module's table."""
    if obj["metadata"].get("resourceVersion") == known.resource_version:
        return None
    return _difference(known, baseline(obj), content=True)


def is_older(obj: Mapping[str, Any], known: Baseline) -> bool:
    """Pure: whether this may be a state from before the baseline; a restored etcd counts anew, so it need not be."""
    version = str(obj["metadata"].get("resourceVersion", ""))
    return version.isdecimal() and known.resource_version.isdecimal() and int(version) < int(known.resource_version)


def _difference(known: Baseline, seen: Baseline, *, content: bool) -> Suspicion | None:
    """`content`: whether, without generations, a change that left no trace but the resourceVersion counts."""
    if seen.uid != known.uid:
        return Suspicion.RECREATED
    if seen.generation != known.generation:
        return Suspicion.GENERATION
    if seen.own != known.own:
        return Suspicion.OWNERSHIP
    if seen.managed != known.managed:
        return Suspicion.FIELDS
    if content and seen.generation == 0 and seen.status == known.status:
        return Suspicion.CONTENT
    return None


def repaired(before: Mapping[str, Any], after: Mapping[str, Any], *, dry_run: bool = False) -> bool:
    """Pure: whether our apply, answered with `after`, changed anything of the object that `before` showed.

    The resourceVersion alone does not tell when others wrote in between. An apply that changes something renews the
    time of our entry, which counts seconds; when it stands still, an entry that is newer proves that ours was left
    alone, and otherwise (all in one second) the hashes decide. A dry run never moves the resourceVersion.
    """
    old, new = before["metadata"], after["metadata"]
    if old.get("uid") != new.get("uid"):
        return True
    if not dry_run and old.get("resourceVersion") == new.get("resourceVersion"):
        return False
    own_before, own_after = ownership.own_entry(before), ownership.own_entry(after)
    if own_before is None or own_after is None or own_before.get("time") != own_after.get("time"):
        return True
    if any(entry.get("time", "") > own_after.get("time", "") for entry in ownership.entries(after)):
        return False
    return _difference(baseline(before), baseline(after), content=not dry_run) is not None


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Paths:
    """Pure: the paths whose values a repair brought back, as far as ownership tells.

    They are what our entry gained, and what was put under our name and is gone; where the generation stands still,
    nothing outside of metadata can have been wrong.
    """
    regained = gained(before, after) | gained(after, before)
    generation = before["metadata"].get("generation", 0)
    if generation and generation == after["metadata"].get("generation"):
        return frozenset(path for path in regained if path[0] == "f:metadata")
    return regained


def gained(before: Mapping[str, Any], after: Mapping[str, Any]) -> Paths:
    """Pure: the paths that our entry gained, and has alone. A value that was right already is not among them: it stays
    with the others that own it, beside us."""
    ours = ownership.owned(ownership.own_entry(after)) - ownership.owned(ownership.own_entry(before))
    return ours.difference(*(ownership.owned(entry) for entry in ownership.foreign(after)))


def is_drift(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Pure: whether a repair (see `repaired`) undid a change of values, or only healed who owns them."""
    old, new = before["metadata"], after["metadata"]
    return (
        old.get("uid") != new.get("uid")
        or old.get("generation", 0) != new.get("generation", 0)
        or bool(changed(before, after))
        # Written, but neither generation nor ownership moved: a list was reordered, or edited under our own name.
        or ownership.owned(ownership.own_entry(before)) == ownership.owned(ownership.own_entry(after))
    )


def attribute(
    before: Mapping[str, Any], missing: Paths, *, instead: Paths = frozenset()
) -> list[tuple[Paths, Attribution]]:
    """Pure: who changed the lost paths: a part of them for each writer, together all of them; at least one.

    Whoever holds a path, else something below it, else what stands in its place (`instead`); the latest of several.
    Who holds a parent is no answer: whoever made a map owns it for ever, and others may take keys out of it.
    """
    writers = [_Writer.of(entry) for entry in sorted(ownership.foreign(before), key=_time, reverse=True)]
    above = _above(missing)
    anchors = {path: max((one for one in _above((path,)) & above), key=len, default=()) for path in instead}
    parts: dict[int, set[FieldPath]] = {}
    for lost in missing:
        parts.setdefault(_holder(lost, writers, anchors), set()).add(lost)
    if not missing:
        parts[next((at for at, writer in enumerate(writers) if writer.paths & instead), -1)] = set()
    return [
        (frozenset(part), _attribution(writers[at].entry if at >= 0 else None, ownership.render(part)))
        for at, part in sorted(parts.items(), key=lambda item: (item[0] < 0, item[0]))
    ]


@dataclass(frozen=True, slots=True)
class _Writer:
    """An entry of another, its paths, and all that lie above one of them."""

    entry: Mapping[str, Any]
    paths: Paths
    above: Paths

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        paths = ownership.owned(entry)
        return cls(entry, paths, _above(paths))


def _above(paths: Iterable[FieldPath]) -> Paths:
    return frozenset(path[:size] for path in paths for size in range(1, len(path)))


def _holder(lost: FieldPath, writers: Sequence[_Writer], anchors: Mapping[FieldPath, FieldPath]) -> int:
    """Who of `writers` has `lost`, by number; -1 for nobody. `anchors`: the list or struct that each path which stands
    in the place of something shares with what is missing."""
    rules: tuple[Callable[[_Writer], bool], ...] = (
        lambda writer: lost in writer.paths,
        lambda writer: lost in writer.above,
        lambda writer: any(
            path in writer.paths and anchor and ownership.under(lost, anchor) for path, anchor in anchors.items()
        ),
    )
    return next((at for rule in rules for at, writer in enumerate(writers) if rule(writer)), -1)


def additions(
    obj: Mapping[str, Any],
    *,
    controllers: Collection[str] = CONTROLLERS,
    kept: Callable[[FieldPath], bool] = lambda path: False,
) -> list[tuple[Paths, Attribution]]:
    """Pure: the fields that those who are not controllers added beside ours, by writer; not the `kept` ones."""
    found = []
    for entry, paths in steal.additions(obj, controllers=controllers):
        if added := frozenset(path for path in paths if not kept(path)):
            found.append((added, _attribution(entry, ownership.render(added))))
    return found


def _time(entry: Mapping[str, Any]) -> str:
    return str(entry.get("time", ""))


def _attribution(entry: Mapping[str, Any] | None, fields: tuple[str, ...]) -> Attribution:
    if entry is None:
        return Attribution(fields=fields)
    operation = str(entry.get("operation", ""))
    if subresource := entry.get("subresource"):
        operation = f"{operation} ({subresource})"
    return Attribution(
        fields=fields, manager=str(entry.get("manager", "")), operation=operation, time=str(entry.get("time", ""))
    )


def _hash(value: Any) -> int:
    """Eight bytes, signed as SQLite's integers are."""
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)
