"""Random edits of one live object, as people, tools and controllers make them; a seeded `Random` decides everything.

    change      what becomes of the object                  → `_CHANGES`, on a copy of it
    style       how that is sent: PUT, JSON, merge or strategic merge patch, apply, by which manager → `_STYLES`
    others      managedFields wiped or put back, our name used, recreated, status, other versions     → `_OTHERS`

Assumes that the server may refuse what was made up: then nothing was edited, and the caller asks again. All of it is
pure but for the `Random`. Next: `runner` sends an `Edit`'s requests, `truth` says what came of it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agent.fields.ownership import CONTROLLERS
from proto.slices import BUNDLE_LABEL, FIELD_MANAGER, PART_OF_LABEL

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

MANAGERS = (
    "kubectl-edit",
    "kubectl-patch",
    "kubectl-client-side-apply",
    "helm",
    "argocd-controller",
    "kube-controller-manager",
    FIELD_MANAGER,
    "",
)
"""Who edits. Our own name is among them, and "" for a client that names itself by its user agent only."""

MUTATED = "kubectl-mutated"
"""An admission policy changes what this manager writes, where one can be installed."""

LOCKED = "locked"
"""An annotation: an admission policy refuses our writes of an object that has it."""

Path = tuple[str | int, ...]
_SYSTEM = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "name", "namespace")
_KEYS = ("name", "key", "port", "containerPort", "mountPath", "ip", "host", "type", "topologyKey", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`path` is below the object's own; `parent` sends it to the collection. `manager` "" names nobody."""

    method: str
    body: Any = None
    content_type: str = JSON
    manager: str = ""
    path: str = ""
    query: str = ""
    parent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`exact`: nothing of it may stay after a revert. `instead`: what it put in place of ours names its manager."""

    name: str
    requests: tuple[Request, ...]
    manager: str = ""
    exact: bool = False
    instead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an edit is made from. `live` is the whole object, `earlier` copies of it from before other edits."""

    live: Mapping[str, Any]
    desired: Mapping[str, Any]
    earlier: Sequence[Mapping[str, Any]] = ()
    custom: bool = False
    has_status: bool = False
    deletable: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    """Other apiVersions the object is served in, and the path that it has there, from the server's root."""


def edit(random: Random, target: Target) -> Edit | None:
    """One edit; None when the one that was drawn does not fit this object: draw again."""
    if random.random() < 0.62:
        name = random.choice(tuple(_CHANGES))
        changed = deepcopy(dict(target.live))
        done = _CHANGES[name](random, changed, target)
        if done is None:
            return None
        return _sent(random, target, changed, name=name, adds=done == "adds", instead=done == "instead")
    name = random.choice(tuple(_OTHERS))
    return _OTHERS[name](random, target, name)


# --- changes ------------------------------------------------------------------------------------------------------


def _walk(node: Any, wanted: Any, path: Path = ()) -> Iterator[tuple[Path, Any, bool]]:
    """(path, value, whether we want something there) of all that an edit may change."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not path and key in ("apiVersion", "kind", "status"):
                continue
            if path == ("metadata",) and (key in _SYSTEM or key == "ownerReferences"):
                continue
            if path == ("metadata", "labels") and key in (BUNDLE_LABEL, PART_OF_LABEL):
                continue
            below = wanted.get(key) if isinstance(wanted, Mapping) else None
            ours = isinstance(wanted, Mapping) and key in wanted
            if (path, key) != ((), "metadata"):
                yield (*path, key), value, ours
            yield from _walk(value, below, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            below = _same_item(value, wanted)
            yield (*path, index), value, below is not None
            yield from _walk(value, below, (*path, index))


def _same_item(item: Any, wanted: Any) -> Any:
    if not isinstance(wanted, list):
        return None
    for other in wanted:
        if isinstance(item, Mapping) and isinstance(other, Mapping):
            shared = [key for key in _KEYS if key in item and key in other]
            if shared and all(item[key] == other[key] for key in shared):
                return other
            if not shared and all(item.get(key) == value for key, value in other.items()):
                return other
        elif item == other:
            return other
    return None


def _pick(
    random: Random, changed: Any, target: Target, fits: Callable[[Path, Any], bool], *, ours: float = 0.75
) -> tuple[Any, str | int, Any, bool] | None:
    """A random place that fits, mostly one of ours: (container, key, value, whether ours)."""
    found = [(path, value, own) for path, value, own in _walk(changed, target.desired) if fits(path, value)]
    wanted = [one for one in found if one[2]] if random.random() < ours else found
    if not (wanted or found):
        return None
    path, value, own = random.choice(wanted or found)
    node = changed
    for part in path[:-1]:
        node = node[part]
    return node, path[-1], value, own


def _change_value(random: Random, changed: Any, target: Target) -> str | None:
    place = _pick(random, changed, target, lambda path, value: not isinstance(value, dict | list))
    if place is None:
        return None
    node, key, value, own = place
    choices: list[Any]
    if isinstance(value, bool):
        choices = [not value]
    elif isinstance(value, int):
        choices = [value + 1, value + random.randint(2, 9), 0, max(value - 1, 0)]
    elif isinstance(value, float):
        choices = [value + 0.25, 2.0]
    elif value in ("Never", "Always", "IfNotPresent"):
        choices = ["Never", "Always", "IfNotPresent"]
    else:
        choices = [f"{value}x", f"x{value}", f"{value}-{random.randint(1, 99)}", "other", "5", "50%", "512Mi"]
    choices = [choice for choice in choices if choice != value]
    if not choices:
        return None
    node[key] = random.choice(choices)
    return "" if own else "adds"


def _remove(random: Random, changed: Any, target: Target) -> str | None:
    place = _pick(random, changed, target, lambda path, value: len(path) > 1 or path[0] == "data")
    if place is None:
        return None
    node, key, _, own = place
    del node[key]
    return "" if own else "adds"


def _add_key(random: Random, changed: Any, target: Target) -> str | None:
    free = ("labels", "annotations", "data", "matchLabels", "nodeSelector", "parameters", "selector", "whole", "more")
    place = _pick(random, changed, target, lambda path, value: isinstance(value, dict) and path[-1] in free, ours=0.3)
    if random.random() < 0.4 or place is None:
        changed["metadata"].setdefault("annotations", {})[f"added-{random.randint(1, 9)}"] = str(random.random())
    else:
        place[2][f"added-{random.randint(1, 9)}"] = "dmFsdWU="
    return "adds"


def _reorder(random: Random, changed: Any, target: Target) -> str | None:
    place = _pick(random, changed, target, lambda path, value: isinstance(value, list) and len(value) > 1)
    if place is None:
        return None
    node, key, value, own = place
    shuffled = random.sample(value, len(value))
    if shuffled == value:
        shuffled.reverse()
    node[key] = shuffled
    return "" if own else "adds"


def _rename(random: Random, changed: Any, target: Target) -> str | None:
    """A container, volume, port, variable by another name; a map's key by another."""

    def fits(path: Path, value: Any) -> bool:
        return (path[-1] == "name" and isinstance(path[-2], int) and isinstance(value, str)) or (
            len(path) > 1 and path[-2] in ("data", "parameters") and isinstance(value, str)
        )

    place = _pick(random, changed, target, fits, ours=0.95)
    if place is None:
        return None
    node, key, _, own = place
    if key == "name":
        node[key] = f"renamed-{random.randint(1, 9)}"
    else:
        node[f"renamed-{random.randint(1, 9)}"] = node.pop(key)
    return "instead" if own else "adds"


def _change_key(random: Random, changed: Any, target: Target) -> str | None:
    """Another port, path or key, by which items of a list are known."""

    def fits(path: Path, value: Any) -> bool:
        return len(path) > 1 and isinstance(path[-2], int) and path[-1] in (*_KEYS, "protocol", "zone")

    place = _pick(random, changed, target, fits, ours=0.95)
    if place is None or place[1] == "name":
        return None
    node, key, value, own = place
    if isinstance(value, int):
        node[key] = value + random.randint(1, 50)
    elif key == "protocol":
        node[key] = "UDP"
    elif key == "ip":
        node[key] = f"192.0.2.{random.randint(20, 90)}"
    else:
        node[key] = f"{value}{random.choice('xyz')}"
    return "instead" if own else "adds"


def _add_item(random: Random, changed: Any, target: Target) -> str | None:
    place = _pick(random, changed, target, lambda path, value: isinstance(value, list) and len(value) > 0, ours=0.6)
    if place is None:
        return None
    _, _, value, _ = place
    item = deepcopy(random.choice(value))
    if isinstance(item, dict):
        for key in ("name", "port", "containerPort", "mountPath", "key", "ip", "host"):
            if isinstance(item.get(key), int):
                item[key] += random.randint(100, 200)
            elif isinstance(item.get(key), str):
                item[key] = f"192.0.2.{random.randint(20, 90)}" if key == "ip" else f"{item[key]}-new"
    elif isinstance(item, str):
        item = f"{item}-new"
    value.insert(random.randint(0, len(value)), item)
    return "adds"


def _empty(random: Random, changed: Any, target: Target) -> str | None:
    place = _pick(
        random, changed, target, lambda path, value: isinstance(value, dict | list) and len(value) > 0 and len(path) > 1
    )
    if place is None:
        return None
    node, key, value, own = place
    node[key] = {} if isinstance(value, dict) else []
    return "" if own else "adds"


_OPENED: dict[str, Any] = {
    "emptyDir": {"medium": "Memory"},
    "podSelector": {"matchLabels": {"opened": "yes"}},
    "namespaceSelector": {"matchLabels": {"opened": "yes"}},
    "securityContext": {"runAsNonRoot": False},
    "strategy": {"type": "Recreate"},
    "resources": {"limits": {"cpu": "1"}},
}


def _open(random: Random, changed: Any, target: Target) -> str | None:
    place = _pick(random, changed, target, lambda path, value: isinstance(value, dict) and not value, ours=0.5)
    if place is None:
        return None
    place[2].update(deepcopy(_OPENED.get(str(place[1]), {"opened": "yes"})))
    return "adds"


_UNIONS: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] = (
    ("value", ({"valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},)),
    ("valueFrom", ({"value": "plain"},)),
    ("httpGet", ({"tcpSocket": {"port": 8080}}, {"exec": {"command": ["true"]}})),
    ("tcpSocket", ({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}}, {"grpc": {"port": 1, "service": ""}})),
    ("exec", ({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}},)),
    ("configMap", ({"emptyDir": {}}, {"secret": {"secretName": "other", "defaultMode": 420}})),
    ("emptyDir", ({"configMap": {"name": "other", "defaultMode": 420}}, {"hostPath": {"path": "/a", "type": ""}})),
    ("secret", ({"emptyDir": {"medium": "Memory"}},)),
    ("minAvailable", ({"maxUnavailable": 1},)),
    ("rollingUpdate", ({"type": "Recreate"}, {"type": "OnDelete"})),
)


def _swap(random: Random, changed: Any, target: Target) -> str | None:
    """One of a union's members in place of another."""
    names = [name for name, _ in _UNIONS]
    place = _pick(random, changed, target, lambda path, value: path[-1] in names and isinstance(path[-1], str), ours=1)
    if place is None:
        return None
    node, key, _, own = place
    del node[key]
    node.update(deepcopy(random.choice(dict(_UNIONS)[str(key)])))
    return "instead" if own else "adds"


_CHANGES: Mapping[str, Callable[[Random, Any, Target], str | None]] = {
    "value": _change_value,
    "another value": _change_value,
    "removed": _remove,
    "added key": _add_key,
    "reordered": _reorder,
    "renamed": _rename,
    "list key": _change_key,
    "added item": _add_item,
    "emptied": _empty,
    "opened": _open,
    "union": _swap,
}
"""Each changes the object in place and returns None (does not fit), "" (ours only), "instead" or "adds"."""


# --- how it is sent -----------------------------------------------------------------------------------------------


def _sent(
    random: Random, target: Target, changed: Mapping[str, Any], *, name: str, adds: bool, instead: bool
) -> Edit | None:
    if changed == target.live:
        return None
    manager = random.choice((*MANAGERS, MUTATED))
    style = random.choice(("put", "put", "json", "merge", "strategic", "apply"))
    live = target.live
    if style == "put":
        request = Request(method="PUT", body=changed, manager=manager)
    elif style == "json":
        request = Request(
            method="PATCH", body=list(_operations(live, changed, "")), content_type=JSON_PATCH, manager=manager
        )
    elif style == "apply":
        # Their own entry with all that differs, and what it needs to be valid: a list's item has its keys.
        manager = manager or "applier"
        body = _applied(target, changed)
        if body is None or manager == FIELD_MANAGER:
            return None
        request = Request(method="PATCH", body=body, content_type=APPLY, manager=manager, query="force=true")
        adds = True
    else:
        strategic = style == "strategic" and not target.custom
        body = _merge_patch(live, changed)
        if not body:
            return None
        request = Request(method="PATCH", body=body, content_type=STRATEGIC if strategic else MERGE, manager=manager)
        adds = adds or strategic
    exact = (
        not adds
        and manager not in (MUTATED, *CONTROLLERS)
        and "annotations" not in str(_merge_patch(live, changed).get("metadata"))
    )
    return Edit(
        name=f"{name} by {'strategic' if request.content_type == STRATEGIC else style}",
        requests=(request,),
        manager=manager,
        exact=exact,
        instead=instead and not adds and manager not in CONTROLLERS,
    )


def _operations(old: Any, new: Any, path: str) -> Iterator[dict[str, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in old.keys() | new.keys():
            below = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": below}
            elif key not in old:
                yield {"op": "add", "path": below, "value": new[key]}
            else:
                yield from _operations(old[key], new[key], below)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _operations(before, after, f"{path}/{index}")
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}


def _merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for key in sorted(old.keys() | new.keys()):
        if key not in new:
            patch[key] = None
        elif key not in old:
            patch[key] = new[key]
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            if below := _merge_patch(old[key], new[key]):
                patch[key] = below
        elif old[key] != new[key]:
            patch[key] = new[key]
    return patch


def _identity(target: Target) -> dict[str, Any]:
    metadata = target.live["metadata"]
    return {
        "apiVersion": target.live["apiVersion"],
        "kind": target.live["kind"],
        "metadata": {key: metadata[key] for key in ("name", "namespace") if key in metadata},
    }


def _applied(target: Target, changed: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an applier says who wants the difference: maps down to it, lists whole."""
    patch = _merge_patch(target.live, changed)
    if not patch or not _without_nulls(patch):
        return None
    body = _identity(target)
    for key, value in _without_nulls(patch).items():
        if key == "metadata":
            body["metadata"] |= value
        else:
            body[key] = value
    return body


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _without_nulls(child) for key, child in value.items() if child is not None}
        return {key: child for key, child in kept.items() if child != {} or value[key] == {}}
    return value


# --- others -------------------------------------------------------------------------------------------------------


def _managed(random: Random, target: Target) -> tuple[dict[str, Any], Any]:
    copy = deepcopy(dict(target.live))
    return copy, copy["metadata"].get("managedFields", [])


def _wiped(random: Random, target: Target, name: str) -> Edit | None:
    body = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    manager = random.choice(MANAGERS)
    return Edit(
        name=name,
        manager=manager,
        requests=(Request(method="PATCH", body=body, content_type=JSON_PATCH, manager=manager),),
    )


def _wiped_and_changed(random: Random, target: Target, name: str) -> Edit | None:
    changed = deepcopy(dict(target.live))
    if _change_value(random, changed, target) is None:
        return None
    changed["metadata"]["managedFields"] = [{}]
    manager = random.choice(MANAGERS)
    return Edit(name=name, manager="", requests=(Request(method="PUT", body=changed, manager=manager),))


def _restored(random: Random, target: Target, name: str) -> Edit | None:
    """Change something, then put managedFields back as they were: no trace is left."""
    changed = deepcopy(dict(target.live))
    if _CHANGES[random.choice(("value", "removed", "reordered", "emptied"))](random, changed, target) is None:
        return None
    del changed["metadata"]["resourceVersion"]
    before = target.live["metadata"].get("managedFields")
    put_back = [{"op": "replace", "path": "/metadata/managedFields", "value": before}]
    manager = random.choice(MANAGERS)
    return Edit(
        name=name,
        requests=(
            Request(method="PATCH", body=_merge_patch(target.live, changed), content_type=MERGE, manager=manager),
            Request(method="PATCH", body=put_back, content_type=JSON_PATCH, manager=manager),
        ),
    )


def _earlier(random: Random, target: Target, name: str) -> Edit | None:
    """Everything as it was some edits ago, managedFields included: a restored backup."""
    same = [copy for copy in target.earlier if copy["metadata"]["uid"] == target.live["metadata"]["uid"]]
    if not same:
        return None
    old = deepcopy(dict(random.choice(same)))
    if random.random() < 0.5:
        old = {
            **deepcopy(dict(target.live)),
            "metadata": {**target.live["metadata"], **{"managedFields": old["metadata"].get("managedFields")}},
        }
    old["metadata"]["resourceVersion"] = target.live["metadata"]["resourceVersion"]
    manager = random.choice(MANAGERS)
    return Edit(name=name, requests=(Request(method="PUT", body=old, manager=manager),))


def _own_entry_changed(random: Random, target: Target, name: str) -> Edit | None:
    """Our entry given to another, to an Update of our name, dropped, or cut; sometimes with a value changed."""
    changed, entries = _managed(random, target)
    own = next((one for one in entries if (one.get("manager"), one.get("operation")) == (FIELD_MANAGER, "Apply")), None)
    if own is None:
        return None
    how = random.choice(("manager", "operation", "dropped", "cut"))
    if how == "manager":
        own["manager"] = "thief"
    elif how == "operation":
        own["operation"] = "Update"
    elif how == "dropped":
        entries.remove(own)
    else:
        parts = sorted(own["fieldsV1"])
        del own["fieldsV1"][random.choice(parts)]
    if random.random() < 0.5:
        _change_value(random, changed, target)
    return Edit(name=f"{name}: {how}", requests=(Request(method="PUT", body=changed, manager=random.choice(MANAGERS)),))


def _forged_apply(random: Random, target: Target, name: str) -> Edit | None:
    """An apply under our own name: all of ours changed somewhere, or a part of it only."""
    forged = deepcopy(dict(target.desired))
    change = random.choice(("value", "removed", "reordered", "added key", "renamed"))
    if _CHANGES[change](random, forged, target) is None:
        return None
    if random.random() < 0.3:
        labels = {"labels": forged["metadata"].get("labels", {})}
        forged = {**_identity(target), "metadata": {**_identity(target)["metadata"], **labels}}
    return Edit(
        name=name,
        manager=FIELD_MANAGER,
        requests=(Request(method="PATCH", body=forged, content_type=APPLY, manager=FIELD_MANAGER, query="force=true"),),
    )


def _own_update(random: Random, target: Target, name: str) -> Edit | None:
    changed = deepcopy(dict(target.live))
    change = random.choice(("value", "removed", "reordered", "added key", "renamed", "emptied"))
    if _CHANGES[change](random, changed, target) is None or changed == target.live:
        return None
    return Edit(
        name=name,
        manager=FIELD_MANAGER,
        requests=(Request(method="PUT", body=changed, manager=FIELD_MANAGER),),
    )


def _shared(random: Random, target: Target, name: str) -> Edit | None:
    """Another applier wants a part of what we want, with our very values; sometimes it goes away again."""
    body = _identity(target)
    sections = [key for key in target.desired if key not in ("apiVersion", "kind", "metadata")]
    body["metadata"]["labels"] = dict(target.desired["metadata"]["labels"])
    if sections and random.random() < 0.7:
        section = random.choice(sections)
        body[section] = deepcopy(target.desired[section])
    manager = random.choice(("helm", "argocd-controller", "applier"))
    apply = Request(method="PATCH", body=body, content_type=APPLY, manager=manager, query="force=true")
    away = Request(method="PATCH", body=_identity(target), content_type=APPLY, manager=manager, query="force=true")
    return Edit(name=name, manager=manager, requests=(apply, away) if random.random() < 0.3 else (apply,))


def _client_side_apply(random: Random, target: Target, name: str) -> Edit | None:
    changed = deepcopy(dict(target.live))
    if _change_value(random, changed, target) is None:
        return None
    patch = _merge_patch(target.live, changed)
    patch.setdefault("metadata", {}).setdefault("annotations", {})[
        "kubectl.kubernetes.io/last-applied-configuration"
    ] = json.dumps(target.desired)
    kind = MERGE if target.custom else STRATEGIC
    manager = "kubectl-client-side-apply"
    return Edit(
        name=name, manager=manager, requests=(Request(method="PATCH", body=patch, content_type=kind, manager=manager),)
    )


def _several(random: Random, target: Target, name: str) -> Edit | None:
    """Two or three managers, one after the other, before anyone can act."""
    requests = []
    for _ in range(random.randint(2, 3)):
        changed = deepcopy(dict(target.live))
        if _CHANGES[random.choice(tuple(_CHANGES))](random, changed, target) is None:
            continue
        patch = _merge_patch(target.live, changed)
        if patch:
            requests.append(Request(method="PATCH", body=patch, content_type=MERGE, manager=random.choice(MANAGERS)))
    return Edit(name=name, requests=tuple(requests)) if len(requests) > 1 else None


def _there_and_back(random: Random, target: Target, name: str) -> Edit | None:
    """Changed, and changed back by the same hand or by another: only who owns what has changed."""
    changed = deepcopy(dict(target.live))
    if _change_value(random, changed, target) is None:
        return None
    forth, back = _merge_patch(target.live, changed), _merge_patch(changed, target.live)
    one, other = random.choice(MANAGERS), random.choice(MANAGERS)
    return Edit(
        name=name,
        requests=(
            Request(method="PATCH", body=forth, content_type=MERGE, manager=one),
            Request(method="PATCH", body=back, content_type=MERGE, manager=other),
        ),
    )


def _nothing(random: Random, target: Target, name: str) -> Edit | None:
    """A PUT of what is there, or an empty patch."""
    if random.random() < 0.5:
        return Edit(name=name, requests=(Request(method="PUT", body=dict(target.live), manager="kubectl-replace"),))
    return Edit(name=name, requests=(Request(method="PATCH", body={}, content_type=MERGE, manager="kubectl-patch"),))


def _relabelled(random: Random, target: Target, name: str) -> Edit | None:
    label = random.choice((BUNDLE_LABEL, PART_OF_LABEL))
    value = random.choice((None, "other"))
    manager = random.choice(MANAGERS)
    patch = {"metadata": {"labels": {label: value}}}
    return Edit(
        name=name,
        manager=manager if value else "",
        requests=(Request(method="PATCH", body=patch, content_type=MERGE, manager=manager),),
        exact=True,
    )


def _deleted(random: Random, target: Target, name: str) -> Edit | None:
    return deletion(target) if target.deletable else None


def deletion(target: Target) -> Edit:
    """The edit that leaves nothing behind of those before."""
    return Edit(name="deleted", requests=(*_released(target), Request(method="DELETE", query="gracePeriodSeconds=0")))


def _recreated(random: Random, target: Target, name: str) -> Edit | None:
    """Deleted and made anew by somebody: as it was, changed, without our labels, or with hardly anything."""
    if not target.deletable:
        return None
    body = deepcopy(dict(target.desired))
    how = random.choice(("same", "changed", "unlabelled", "applied by us"))
    if how == "changed":
        _change_value(random, body, target)
    elif how == "unlabelled":
        body["metadata"].pop("labels")
    manager = FIELD_MANAGER if how == "applied by us" else random.choice(MANAGERS)
    made = (
        Request(method="PATCH", body=body, content_type=APPLY, manager=manager, query="force=true")
        if how == "applied by us"
        else Request(method="POST", body=body, manager=manager, parent=True)
    )
    return Edit(
        name=f"{name}: {how}",
        requests=(*_released(target), Request(method="DELETE", query="gracePeriodSeconds=0"), made),
    )


def _released(target: Target) -> tuple[Request, ...]:
    """Others' finalizers would keep it for ever."""
    if not target.live["metadata"].get("finalizers"):
        return ()
    body = [{"op": "remove", "path": "/metadata/finalizers"}]
    return (Request(method="PATCH", body=body, content_type=JSON_PATCH, manager="kubectl-patch"),)


def _finalizer(random: Random, target: Target, name: str) -> Edit | None:
    if not target.deletable:
        return None
    finalizers = [*(target.live["metadata"].get("finalizers") or ()), f"example.org/hold-{random.randint(1, 3)}"]
    patch = {"metadata": {"finalizers": finalizers}}
    manager = random.choice(MANAGERS)
    return Edit(
        name=name, manager=manager, requests=(Request(method="PATCH", body=patch, content_type=MERGE, manager=manager),)
    )


def _status(random: Random, target: Target, name: str) -> Edit | None:
    """A status write, by a controller or by hand; through the subresource it changes nothing else."""
    if not target.has_status:
        return None
    body = deepcopy(dict(target.live))
    status = body.setdefault("status", {})
    status["observedGeneration"] = random.randint(1, 5)
    if target.custom:
        status["phase"] = str(random.random())
    _change_value(random, body, target)
    manager = random.choice(("kube-controller-manager", "kubectl-edit"))
    return Edit(name=name, requests=(Request(method="PUT", body=body, path="/status", manager=manager),))


def _scaled(random: Random, target: Target, name: str) -> Edit | None:
    if target.live["kind"] not in ("Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"):
        return None
    patch = {"spec": {"replicas": random.randint(0, 4)}}
    manager = random.choice(("kubectl", "kube-controller-manager"))
    return Edit(
        name=name,
        manager=manager,
        exact=True,
        requests=(Request(method="PATCH", body=patch, content_type=MERGE, path="/scale", manager=manager),),
    )


def _locked(random: Random, target: Target, name: str) -> Edit | None:
    """A change, and an annotation by which admission refuses to have it undone."""
    if not target.deletable:
        return None
    changed = deepcopy(dict(target.live))
    if _change_value(random, changed, target) is None:
        return None
    changed["metadata"]["annotations"] = {**(changed["metadata"].get("annotations") or {}), LOCKED: "yes"}
    patch = _merge_patch(target.live, changed)
    return Edit(name=name, requests=(Request(method="PATCH", body=patch, content_type=MERGE, manager="kubectl-patch"),))


def _restarted(random: Random, target: Target, name: str) -> Edit | None:
    if target.live["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
        return None
    stamp = {"kubectl.kubernetes.io/restartedAt": str(random.random())}
    patch = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
    manager = "kubectl-rollout"
    return Edit(
        name=name,
        manager=manager,
        requests=(Request(method="PATCH", body=patch, content_type=STRATEGIC, manager=manager),),
    )


def _other_version(random: Random, target: Target, name: str) -> Edit | None:
    """Through another version of the API: `runner` sends this to that version's path, in that version's terms."""
    if not target.versions:
        return None
    version = random.choice(tuple(target.versions))
    if target.live["kind"] == "HorizontalPodAutoscaler":
        patch: dict[str, Any] = random.choice(
            (
                {"spec": {"maxReplicas": random.randint(4, 9)}},
                {"spec": {"targetCPUUtilizationPercentage": random.randint(10, 60)}},
                {"spec": {"minReplicas": 2}},
                {"metadata": {"labels": {"via": "v1"}}},
            )
        )
    else:
        patch = random.choice(
            (
                {"spec": {"mode": f"m{random.randint(1, 9)}"}},
                {"spec": {"items": ["z"]}},
                {"spec": {"level": None}},
                {"spec": {"more": {"new": random.randint(1, 9)}}},
                {"metadata": {"annotations": {"via": str(random.random())}}},
            )
        )
    manager = random.choice(MANAGERS)
    how = random.choice((MERGE, APPLY))
    body = patch
    if how == APPLY:
        manager = manager if manager not in ("", FIELD_MANAGER) else "applier"
        body = {**_identity(target), **_without_nulls(patch), "apiVersion": version}
        body["metadata"] = {**_identity(target)["metadata"], **patch.get("metadata", {})}
    return Edit(
        name=f"{name}: {how.partition('/')[2]}",
        manager=manager,
        requests=(
            Request(
                method="PATCH",
                body=body,
                content_type=how,
                manager=manager,
                query="force=true" if how == APPLY else "",
                path=version,
            ),
        ),
    )


_OTHERS: Mapping[str, Callable[[Random, Target, str], Edit | None]] = {
    "managedFields wiped": _wiped,
    "managedFields wiped with a change": _wiped_and_changed,
    "managedFields put back after a change": _restored,
    "an earlier copy put back": _earlier,
    "our entry": _own_entry_changed,
    "an apply under our name": _forged_apply,
    "an update under our name": _own_update,
    "shared with another applier": _shared,
    "client-side apply": _client_side_apply,
    "several at once": _several,
    "there and back": _there_and_back,
    "nothing": _nothing,
    "relabelled": _relabelled,
    "deleted": _deleted,
    "recreated": _recreated,
    "finalizer": _finalizer,
    "status": _status,
    "scaled": _scaled,
    "restarted": _restarted,
    "locked by admission": _locked,
    "another version": _other_version,
}
