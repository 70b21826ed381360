"""What is sent of an object at paths that Git leaves to others, so that an apply changes nothing there.

    at an ignored path of an object that exists             sent
    nothing of it is ours                                   nothing: it stays as it is
    another manager owns it, beside us or alone             nothing: ours is given up, theirs keeps it
    we are its only owner                                   the live value: dropping it would bring the default back
    it lies inside a list or struct that is owned whole     the live value, in ours

The rules of an aggregated ClusterRole are a controller's: ignored, whatever Git says, and not sent at its creation
either. Of a path with parts below, each part goes by its own owner. What is ours there is only safe to send, or to give
up, at the resourceVersion that was looked at, so that is sent too; the uid always is: an object that is made anew is
made as Git has it. A list's index counts in Git's list; the live item is the one with the same keys. All of it is pure.
Source: the rules of server-side apply, kubernetes.io/docs/reference/using-api/server-side-apply. Next: `apply` and
`revert` send it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from agent.fields import ownership
from agent.fields.ownership import FieldPath, Paths
from proto.objects import key_of
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL, IgnoreRule

_ABSENT: Any = object()

AGGREGATED_RULES = "/rules"


def pointers(rules: Iterable[IgnoreRule], desired: Mapping[str, Any]) -> tuple[str, ...]:
    """Pure: the JSON pointers at which an object is left alone; rules see it as Git has it."""
    key = key_of(desired)
    labels = (desired["metadata"].get("labels") or {}).items()
    always = (AGGREGATED_RULES,) if is_aggregated(desired) else ()
    return always + tuple(
        pointer
        for rule in rules
        if rule.group in (None, key.group)
        and rule.kind in (None, key.kind)
        and rule.namespace in (None, key.namespace)
        and rule.name in (None, key.name)
        and rule.labels.items() <= labels
        for pointer in rule.paths
    )


def is_aggregated(desired: Mapping[str, Any]) -> bool:
    """Pure: whether a manifest is a ClusterRole whose rules a controller gathers."""
    return desired.get("kind") == "ClusterRole" and bool(desired.get("aggregationRule"))


def covers(pointer: str, path: FieldPath) -> bool:
    """Pure: whether a field is at an ignored path or below it. Any item of a list counts as the one of an index."""
    tokens = _tokens(pointer)
    return 0 < len(tokens) <= len(path) and all(
        element == f"f:{token}" or (not element.startswith("f:") and token.isdecimal())
        for token, element in zip(tokens, path, strict=False)
    )


def body_for(desired: Mapping[str, Any], live: Mapping[str, Any] | None, pointers: Iterable[str]) -> Mapping[str, Any]:
    """Pure: what is to be applied, see the module's table; `desired` itself when nothing is left to others.

    `live` is the whole object as it is now, None when there is none. Otherwise the result names the uid, and maybe the
    resourceVersion, that the object must have: the API server answers 409 when it has not, and one looks again.
    """
    if live is None and is_aggregated(desired):
        return {name: value for name, value in desired.items() if name != "rules"}
    found = sorted({tokens for pointer in pointers if (tokens := _tokens(pointer))}, key=_by_index, reverse=True)
    if live is None or not found:
        return desired
    entries = ownership.entries(live)
    owners = _Owners(
        own=ownership.owned(ownership.own_entry(live)),
        others=frozenset[FieldPath]().union(*(ownership.owned(one) for one in entries if not ownership.is_own(one))),
    )
    merged: dict[str, Any] = dict(desired)
    for tokens in found:
        merged = _left_alone(merged, live, tokens, (), owners)
    metadata = {**(merged.get("metadata") or {}), **_identity(desired["metadata"]), "uid": live["metadata"]["uid"]}
    membership = {
        name: value
        for name, value in (desired["metadata"].get("labels") or {}).items()
        if name in (BUNDLE_LABEL, PART_OF_LABEL)
    }
    if membership:
        metadata["labels"] = {**(metadata.get("labels") or {}), **membership}
    if owners.touched:
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    return {**merged, "apiVersion": desired["apiVersion"], "kind": desired["kind"], "metadata": metadata}


def _identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in ("name", "namespace") if name in metadata}


@dataclass(slots=True, kw_only=True)
class _Owners:
    """Who owns what of the live object; `touched` once something that is ours lies at an ignored path."""

    own: Paths
    others: Paths
    touched: bool = False

    def elements(self, path: FieldPath) -> set[str]:
        """The elements that somebody owns right below a path."""
        return {other[len(path)] for other in self.own | self.others if ownership.under(other, path)}

    def owned_whole(self, path: FieldPath) -> bool:
        return path in self.own | self.others and not self.elements(path)


def _tokens(pointer: str) -> tuple[str, ...]:
    """The parts of a JSON pointer (RFC 6901); none for one that names the whole object or is no pointer."""
    if not pointer.startswith("/"):
        return ()
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))


def _by_index(tokens: Sequence[str]) -> list[tuple[int, str]]:
    """The later items of a list come first, sorted in reverse: what is dropped shifts no other."""
    return [(int(token) if token.isdecimal() else -1, token) for token in tokens]


def _left_alone(desired: Any, live: Any, tokens: Sequence[str], path: FieldPath, owners: _Owners) -> Any:
    """`desired` (_ABSENT: Git has nothing here) with what is sent at `tokens`, which lead on from `path`."""
    if not tokens:
        return _sent(live, path, owners)
    if path and owners.owned_whole(path):
        owners.touched = True
        return _with_live(desired, live, tokens)
    shape = live if desired is _ABSENT else desired
    if isinstance(shape, Mapping):
        return _in_map(desired, live, tokens, path, owners)
    if isinstance(shape, list):
        return _in_list(desired, live, tokens, path, owners)
    return desired


def _in_map(desired: Any, live: Any, tokens: Sequence[str], path: FieldPath, owners: _Owners) -> Any:
    name, *rest = tokens
    wanted = {} if desired is _ABSENT else desired
    there = live.get(name, _ABSENT) if isinstance(live, Mapping) else _ABSENT
    below = _left_alone(wanted.get(name, _ABSENT), there, rest, (*path, f"f:{name}"), owners)
    if below is not _ABSENT:
        return {**wanted, name: below}
    less = {key: value for key, value in wanted.items() if key != name}
    return less if desired is not _ABSENT else _ABSENT


def _in_list(desired: Any, live: Any, tokens: Sequence[str], path: FieldPath, owners: _Owners) -> Any:
    token, *rest = tokens
    items = live if desired is _ABSENT else desired
    if not token.isdecimal() or int(token) >= len(items):
        return desired
    at = int(token)
    element = _element(items[at], owners.elements(path))
    there = _find(live, element) if element else _ABSENT
    if there is _ABSENT and isinstance(live, list) and at < len(live):
        # Its keys were changed: it is the item in the same place.
        element, there = _element(live[at], owners.elements(path)), live[at]
    if not element or (there is _ABSENT and rest):
        # An item that is not there is made whole.
        return desired
    wanted = items[at] if desired is not _ABSENT else _ABSENT
    below = _left_alone(wanted, there, rest, (*path, element), owners)
    if below is not _ABSENT and rest:
        below = _keyed(below, items[at], element)
    if desired is _ABSENT:
        return [below] if below is not _ABSENT else _ABSENT
    return [*desired[:at], *([below] if below is not _ABSENT else []), *desired[at + 1 :]]


def _sent(live: Any, path: FieldPath, owners: _Owners) -> Any:
    size = len(path)
    ours = {own[size:] for own in owners.own if own[:size] == path}
    owners.touched = owners.touched or bool(ours)
    alone = {own for own in ours if (*path, *own) not in owners.others}
    return _extract(live, alone, path, owners) if alone else _ABSENT


def _extract(live: Any, paths: set[FieldPath], above: FieldPath, owners: _Owners) -> Any:
    """The live values at `paths` (below `above`), and nothing else."""
    if live is _ABSENT:
        return _ABSENT
    below = sorted(path for path in paths if path)
    if not below:
        shared = any(ownership.under(other, above) for other in owners.others)
        return type(live)() if shared and isinstance(live, dict | list) else live
    found = {}
    for element, parts in groupby(below, key=lambda path: path[0]):
        value = _find(live, element)
        extracted = _extract(value, {part[1:] for part in parts}, (*above, element), owners)
        if extracted is not _ABSENT:
            found[element] = _keyed(extracted, value, element)
    if isinstance(live, list):
        return list(found.values()) if found or () in paths else _ABSENT
    return {name[2:]: value for name, value in found.items()} if found or () in paths else _ABSENT


def _keyed(extracted: Any, item: Any, element: str) -> Any:
    """An item of a list is none without its keys; those that it does not say are defaults."""
    if not element.startswith("k:") or not isinstance(extracted, dict):
        return extracted
    keys = {name: item[name] for name in orjson.loads(element[2:]) if name in item}
    return {**keys, **extracted} if keys.keys().isdisjoint(extracted) else extracted


def _find(node: Any, element: str) -> Any:
    """What an element of a field path leads to in a live value."""
    kind, _, text = element.partition(":")
    if kind == "f":
        return node.get(text, _ABSENT) if isinstance(node, Mapping) else _ABSENT
    if not isinstance(node, list):
        return _ABSENT
    wanted = orjson.loads(text)
    if kind == "k":
        return next((item for item in node if isinstance(item, Mapping) and wanted.items() <= item.items()), _ABSENT)
    if kind == "v":
        return wanted if wanted in node else _ABSENT
    return node[wanted] if wanted < len(node) else _ABSENT


def _element(item: Any, elements: Iterable[str]) -> str:
    """The element that names an item of a list; a key that the item does not say is a default. "" for none."""
    for element in sorted(elements):
        kind, _, text = element.partition(":")
        if kind == "v" and orjson.loads(text) == item:
            return element
        if kind == "k" and isinstance(item, Mapping):
            keys: Mapping[str, Any] = orjson.loads(text)
            if not keys.keys().isdisjoint(item) and all(item.get(name, value) == value for name, value in keys.items()):
                return element
    return ""


def _with_live(desired: Any, live: Any, tokens: Sequence[str]) -> Any:
    """A plain value with what another has at `tokens`, and without it where that has nothing."""
    if not tokens:
        return live
    token, *rest = tokens
    if isinstance(desired, list) and token.isdecimal() and int(token) < len(desired):
        at = int(token)
        there = live[at] if isinstance(live, list) and at < len(live) else _ABSENT
        below = desired[at] if there is _ABSENT else _with_live(desired[at], there, rest)
        return [*desired[:at], *([below] if below is not _ABSENT else []), *desired[at + 1 :]]
    if not isinstance(desired, Mapping):
        return desired
    there = live.get(token, _ABSENT) if isinstance(live, Mapping) else _ABSENT
    below = _with_live(desired.get(token, _ABSENT if not rest else {}), there, rest)
    if below is _ABSENT or (rest and token not in desired and not below):
        return {name: value for name, value in desired.items() if name != token}
    return {**desired, token: below}
