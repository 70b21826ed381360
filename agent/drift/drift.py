"""Drift: tells a change that was not ours from metadata alone, what was lost, and who has it.

Rules (design, decision 5), for an event of an object whose `Baseline` was kept after our last write:

    event                                                         verdict
    resourceVersion as in the baseline                            none: we know this state
    another uid                                                   suspicion: recreated
    generation differs                                            suspicion: generation
    `managedFields` without status entries differ                 suspicion: fields
    our own entry differs                                         suspicion: ownership
    none of these, the kind has generations                       none: a status write
    none of these, no generations, status entries differ          none: a status write
    none of these, no generations, status entries as before       suspicion: content

A suspicion is not drift: `revert` confirms it. An event without suspicion is the object's new state as far as we care:
keep `baseline(event)`. Hashes are stable across processes (they are stored) and do not depend on the order of keys.
Assumes objects as the API server sends them, whole or their metadata alone. Next: `revert`.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, cast, get_args

import orjson

from agent.fields import ownership
from agent.fields.ownership import CONTROLLERS, Paths
from agent.model import Baseline
from proto.objects import ObjectKey
from proto.slices import DriftPolicy, IgnoreRule

_ABSENT: Any = object()

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
        managed=_hash([entry for entry in entries if not ownership.is_status(entry)]),
        own=None if own is None else _hash(own.get("fieldsV1")),
        status=_hash([entry for entry in entries if ownership.is_status(entry)]),
    )


def suspicion(known: Baseline, obj: Mapping[str, Any]) -> Suspicion | None:
    """Pure: whether the state in an event may be drift, by the module's table."""
    if obj["metadata"].get("resourceVersion") == known.resource_version:
        return None
    return _difference(known, baseline(obj), content=True)


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

    They are what our entry gained. A value that was right already is not among them: it stays with the others that own
    it, beside us. Where the generation stands still, nothing outside of metadata can have been wrong.
    """
    gained = ownership.owned(ownership.own_entry(after)) - ownership.owned(ownership.own_entry(before))
    gained = gained.difference(*(ownership.owned(entry) for entry in ownership.foreign(after)))
    generation = before["metadata"].get("generation", 0)
    if generation and generation == after["metadata"].get("generation"):
        return frozenset(path for path in gained if path[0] == "f:metadata")
    return gained


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


def attribute(before: Mapping[str, Any], missing: Paths, *, instead: Paths = frozenset()) -> Attribution:
    """Pure: who holds the lost paths, else something below them, else what is there `instead`; the latest of several.

    Who holds a parent is no answer: whoever made a map owns it for ever, and others may take keys out of it.
    """
    held = [(entry, ownership.owned(entry)) for entry in ownership.foreign(before)]
    exactly = [entry for entry, theirs in held if theirs & missing]
    below = [entry for entry, theirs in held if any(ownership.under(path, lost) for path in theirs for lost in missing)]
    replacing = [entry for entry, theirs in held if theirs & instead]
    holders = exactly or below or replacing
    rendered = ownership.render(missing)
    return _attribution(max(holders, key=_time), rendered) if holders else Attribution(fields=rendered)


def addition(obj: Mapping[str, Any], *, controllers: Collection[str] = CONTROLLERS) -> Attribution | None:
    """Pure: the latest fields that someone who is not a controller added beside ours; None when there are none."""
    ours = ownership.owned(ownership.own_entry(obj))
    others = (entry for entry in ownership.foreign(obj) if entry.get("manager") not in controllers)
    theirs = [entry for entry in others if ownership.owned(entry) - ours]
    if not theirs:
        return None
    latest = max(theirs, key=_time)
    return _attribution(latest, ownership.render(ownership.owned(latest) - ours))


def _time(entry: Mapping[str, Any]) -> str:
    return str(entry.get("time", ""))


def _attribution(entry: Mapping[str, Any], fields: tuple[str, ...]) -> Attribution:
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


# --- ignored paths ------------------------------------------------------------------------------------------------


def ignored(rules: Iterable[IgnoreRule], key: ObjectKey) -> tuple[str, ...]:
    """Pure: the JSON pointers at which drift of an object is left alone."""
    return tuple(
        pointer
        for rule in rules
        if rule.group in (None, key.group)
        and rule.kind in (None, key.kind)
        and rule.namespace in (None, key.namespace)
        and rule.name in (None, key.name)
        for pointer in rule.paths
    )


def with_live(desired: Mapping[str, Any], live: Mapping[str, Any], pointers: Iterable[str]) -> dict[str, Any]:
    """Pure: `desired` with what `live` has at the pointers (and without them where it has nothing): applying it
    changes nothing there."""
    merged: dict[str, Any] = deepcopy(dict(desired))
    for pointer in pointers:
        *above, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]] or [""]
        target: Any = merged
        source: Any = live
        for part in above:
            source = _at(source, part)
            if isinstance(target, dict) and isinstance(source, Mapping):
                target = target.setdefault(part, {})
            else:
                target = _at(target, part)
        value = _at(source, last)
        if isinstance(target, dict):
            if value is _ABSENT:
                target.pop(last, None)
            else:
                target[last] = value
        elif isinstance(target, list) and last.isdigit() and int(last) < len(target) and value is not _ABSENT:
            target[int(last)] = value
    return merged


def _at(node: Any, part: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(part, _ABSENT)
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    return _ABSENT
