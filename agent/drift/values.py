"""The values of drifted fields: what Git wants and what was there, for a person who asks, and never a secret.

    left out, only marked as redacted
    everything of a Secret but its metadata and type
    a field, an item of `env`, a header or an argument whose name sounds like a secret (`_SENSITIVE`)
    a text that looks like one: a private key, a URL with a password, a token with a known beginning
    kubectl's `last-applied-configuration`, which may hold any of these
    a larger value with one of these inside

Pure but for `Memory`, which keeps what was told of the last drifts. Next: `guard` answers with these.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson

from agent.fields import ownership, steal
from agent.fields.ownership import FieldPath, Paths
from agent.model import Baseline
from proto.messages import DriftDetail, DriftReport, FieldValue
from proto.objects import ObjectKey

LONGEST: Final = 256
"""Characters of one value that are kept."""
MOST_FIELDS: Final = 50
DETAILS: Final = 200
"""Drifts whose values are kept: about 10 kB each at most."""
STANDING: Final = 5000
"""Objects with drift that stays, of which it is known what was told."""
RETOLD_S: Final = 300.0
"""Drift that stays and changes is told anew no more often."""

_ABSENT: Any = object()
_SENSITIVE = re.compile(
    r"pass(word|wd|phrase)|secret|token|credential|api[-_.]?key|access[-_.]?key|private[-_.]?key|encryption[-_.]?key"
    r"|signing[-_.]?key|(^|[-_.])(pwd|pw|auth|authorization|dsn)($|[-_.])|connection[-_.]?string|ca[-_.]?key",
    re.IGNORECASE,
)
_NAMES_ONLY = re.compile(
    r"(Name|Ref|Refs|Names|Seconds|Namespace|Path|Mode)$|^(secret|secrets|imagePullSecrets)$|^automount"
)
"""Fields that sound like a secret and only say which one, or how long it lasts."""
_LOOKS_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]*:[^/\s@]+@|\beyJ[\w-]{8,}\.[\w-]{8,}|\b(ghp|gho|glpat|xox[abpr]|sk)[-_]\w{8,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bbearer\s+\S{8,}",
    re.IGNORECASE,
)
_UNSEEN = frozenset(
    {"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink", "deletionTimestamp"}
)
"""Metadata that the server writes."""


def of_fields(
    key: ObjectKey, paths: Iterable[FieldPath], *, wanted: Mapping[str, Any], live: Mapping[str, Any]
) -> tuple[FieldValue, ...]:
    """Pure: the values of some fields of one object, `wanted` as Git has it and `live` as it was."""
    return tuple(
        _field_value(key, path, _at(wanted, path), _at(live, path)) for path in ownership.topmost(paths)[:MOST_FIELDS]
    )


def difference(live: Mapping[str, Any], after: Mapping[str, Any], wanted: Mapping[str, Any]) -> Paths:
    """Pure: the fields that a repair changed, by comparing the object before and after; only what Git says counts, and
    what is or was ours: a key beside those of a struct that is owned whole, a field that was put under our name.

    For changes that ownership does not tell, too: a list in another order, or an edit under our own name.
    """
    ours = ownership.owned(ownership.own_entry(live)) | ownership.owned(ownership.own_entry(after))
    return frozenset(
        path
        for path in _differences(live, after, ())
        if _at(wanted, path) is not _ABSENT
        or any(path[:size] in ours for size in range(1, len(path) + 1))
        or any(ownership.under(own, path) for own in ours)
    )


def really_changed(paths: Paths, live: Mapping[str, Any], after: Mapping[str, Any]) -> Paths:
    """Pure: those of the paths that a repair took back whose values it changed; of an item or map that was there before
    only what is in it. Ownership alone moves without any change of values, too: defaults, entries that were cut."""
    moved = frozenset(path for path in paths if _at(live, path) != _at(after, path))
    above = frozenset(path[:size] for path in moved for size in range(1, len(path)))
    return frozenset(path for path in moved if path not in above or _at(live, path) is _ABSENT)


def _differences(live: Any, after: Any, above: FieldPath) -> Iterator[FieldPath]:
    if isinstance(live, Mapping) and isinstance(after, Mapping):
        for name in live.keys() | after.keys():
            if not ((above == () and name == "status") or (above == ("f:metadata",) and name in _UNSEEN)):
                yield from _differences(live.get(name, _ABSENT), after.get(name, _ABSENT), (*above, f"f:{name}"))
    elif isinstance(live, list) and isinstance(after, list) and _names(live) == _names(after) != []:
        for one, other in zip(live, after, strict=True):
            element = f"k:{orjson.dumps({'name': one['name']}).decode()}"
            yield from _differences(one, other, (*above, element))
    elif live is _ABSENT or after is _ABSENT or live != after:
        yield above


def _names(items: Sequence[Any]) -> list[Any]:
    """The names of a list's items; none when one has no name."""
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    return [] if None in names else names


def _at(node: Any, path: FieldPath) -> Any:
    for element in path:
        node = steal.child(node, element)
        if node is steal.ABSENT:
            return _ABSENT
    return node


def _field_value(key: ObjectKey, path: FieldPath, wanted: Any, live: Any) -> FieldValue:
    (shown,) = ownership.render((path,))
    if _is_secret(key, path) or _has_secret(wanted) or _has_secret(live):
        return FieldValue(path=shown, redacted=True)
    return FieldValue(path=shown, wanted=_text(wanted), live=_text(live))


def _is_secret(key: ObjectKey, path: FieldPath) -> bool:
    if key.gk == "Secret" and path[:1] not in (("f:metadata",), ("f:type",)):
        return True
    if any(element.partition(":")[2] == ownership.LAST_APPLIED for element in path):
        return True
    above, last = ("", "", *path)[-2:]
    if last == "f:value" and above.startswith("k:"):
        return bool(_SENSITIVE.search(str(orjson.loads(above[2:]).get("name", ""))))
    return last.startswith("f:") and _sounds_secret(last[2:])


def _sounds_secret(name: str) -> bool:
    return bool(_SENSITIVE.search(name)) and not _NAMES_ONLY.search(name)


def _has_secret(value: Any) -> bool:
    """Whether something sensitive is in a value, however deep."""
    if isinstance(value, Mapping):
        if isinstance(value.get("value"), str) and _SENSITIVE.search(str(value.get("name", ""))):
            return True
        return any(
            name == ownership.LAST_APPLIED or (isinstance(below, str) and _sounds_secret(name)) or _has_secret(below)
            for name, below in value.items()
        )
    if isinstance(value, list):
        return any(_has_secret(item) for item in value)
    return isinstance(value, str) and bool(_LOOKS_SECRET.search(value) or _is_secret_argument(value))


def _is_secret_argument(text: str) -> bool:
    """`--db-password=x` or `TOKEN=x`: what comes before the sign names it."""
    name, sign, _ = text.partition("=")
    return bool(sign) and " " not in name and _sounds_secret(name)


def _text(value: Any) -> str:
    if value is _ABSENT:
        return ""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


# --- what was told ------------------------------------------------------------------------------------------------


_Identity = tuple[str, tuple[str, ...], str, str]


@dataclass(frozen=True, slots=True)
class _Told:
    report: DriftReport
    at: float


@dataclass(frozen=True, slots=True)
class _Standing:
    """What was told of one object's drift that stays; `left` is of the baseline that it was left with."""

    left: int | None
    told: Mapping[_Identity, _Told]


class Memory:
    """Of the last drifts: their values, and what was told of those that stay. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, tuple[FieldValue, ...]] = OrderedDict()
        self._standing: OrderedDict[ObjectKey, _Standing] = OrderedDict()

    def keep(self, drift: str, values: Sequence[FieldValue]) -> None:
        """The values of the drift with this id."""
        self._values[drift] = tuple(values)
        self._values.move_to_end(drift)
        while len(self._values) > DETAILS:
            self._values.popitem(last=False)

    def detail(self, query: str, drift: str) -> DriftDetail:
        """The answer to somebody who asks for the values of a drift."""
        values = self._values.get(drift)
        if values is None:
            cause = (
                f"drift {drift}: its values are not kept: it is not among the last {DETAILS} since the agent started"
            )
            return DriftDetail(query=query, id=drift, problem=cause)
        problem = "" if values else f"drift {drift}: which fields it changed cannot be known, only that it did"
        return DriftDetail(query=query, id=drift, values=values, problem=problem)

    def stands(
        self,
        key: ObjectKey,
        reports: Sequence[DriftReport],
        *,
        now: float,
        known: Baseline | None,
        left: Baseline | None,
    ) -> list[DriftReport]:
        """This, and no other drift of the object, was met and stays (none: nothing stays). Returns what is to be told:
        what is new, and what changed unless it was told just now; since when it is so is kept.

        `known` is the baseline before, `left` the one after: when a write of ours came between, all is new.
        """
        standing = self._standing.pop(key, None)
        before = standing.told if standing is not None and standing.left == _managed(known) else {}
        told = []
        kept: dict[_Identity, _Told] = {}
        for report in reports:
            identity = (report.what, report.fields, report.manager, report.operation)
            last = before.get(identity)
            if last is not None:
                report = msgspec.structs.replace(report, first_seen=last.report.first_seen)
            if last is None or (_content(last.report) != _content(report) and now - last.at >= RETOLD_S):
                told.append(report)
                last = _Told(report, now)
            kept[identity] = last
        if kept:
            self._standing[key] = _Standing(_managed(left), kept)
            if len(self._standing) > STANDING:
                self._standing.popitem(last=False)
        return told


def _managed(known: Baseline | None) -> int | None:
    return known.managed if known is not None else None


def _content(report: DriftReport) -> DriftReport:
    return msgspec.structs.replace(report, observed="", revert_ms=0.0)
