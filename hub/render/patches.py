"""Raw patches of a bundle (`spec.patches`, `variants[].patches`) laid over its manifests, by Kustomize's own code.

The manifests and patches go through a kustomization that is made for them, so that targets, merge keys and custom kinds
(whose strategic patch is a JSON merge patch) mean what people know. Kustomize is silent where we are not:

| what                                                      | here                                              |
|-----------------------------------------------------------|---------------------------------------------------|
| a target that matches nothing                             | an error; each patch leaves a mark on its objects |
| `$patch: replace` of a whole object, which does nothing   | an error                                          |
| `$retainKeys`, `$deleteFromPrimitiveList/…`,              | carried out (`merge_directives`) before the next  |
| `$setElementOrder/…`, which stay in the object            | patch                                             |
| objects annotated `config.kubernetes.io/local-config`,    | kept, out of any patch's reach                    |
| which it leaves out                                       |                                                   |
| which of many patches failed                              | told by its file and line, found by halving       |
| integers that a float cannot hold, which it rounds in     | kept: they go through as text (`_guarded`)        |
| every object that a JSON 6902 patch touches               |                                                   |

Next: `build` fills in variables, so those of a patch are each cluster's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from hub import scratch
from hub.render import kustomize, merge_directives, objects, plain
from hub.repo import yaml_reader
from proto.errors import InvalidInput

RENAMED = " (patched)"
"""After the bundle's folder, the origin of an object that a patch gave another name or kind."""
_MARK = "flotilla.dev/patched-"
_LOCAL = "config.kubernetes.io/local-config"
_GUARD = "\ue001"
"""A character that nobody writes, before the digits of an integer."""
_EXACT = range(-(2**53), 2**53 + 1)
"""Integers that a float holds."""
_OPERATIONS = ("add", "remove", "replace", "move", "copy", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patch:
    """One patch of one document: `value` is a list of operations, or a mapping to merge."""

    where: str
    value: Any
    target: Mapping[str, str]
    options: Mapping[str, bool]

    @property
    def deletes(self) -> bool:
        """Whether it takes away all that its target matches."""
        return bool(self.target) and isinstance(self.value, Mapping) and self.value.get("$patch") == "delete"


def apply(
    manifests: Sequence[plain.Manifest], patches: Sequence[Mapping[str, Any]], *, root: Path, at: str
) -> list[plain.Manifest]:
    """The manifests with the `patches` of `RenderRequest.inputs` laid over them in order. Files of patches are in the
    bundle's folder `root`, whose name in messages is `at`.

    Raises InvalidInput that names file and line of the patch, Permanent and Transient as `kustomize.load` does.
    """
    todo = [one for patch in patches for one in _read(patch, root=root, at=at)]
    found = list(manifests)
    while todo:
        # What Kustomize does not carry out is done before the next patch sees the object.
        count = next((index + 1 for index, one in enumerate(todo) if merge_directives.used(one.value)), len(todo))
        found = _applied(found, todo[:count], at=at)
        todo = todo[count:]
    return found


def _read(patch: Mapping[str, Any], *, root: Path, at: str) -> list[_Patch]:
    target, options = patch.get("target") or {}, patch.get("options") or {}
    if path := patch.get("path"):
        file = root / str(path)
        if not file.is_file():
            raise InvalidInput(patch["where"], f"the patch {path!r} is not a file of the bundle's folder", "add it")
        documents = yaml_reader.documents(file.read_bytes(), where=f"{at}/{path}")
        texts = [(document.value, f"{at}/{path}:{document.line}") for document in documents]
    elif isinstance(text := patch["patch"], str):
        documents = yaml_reader.documents(text.encode(), where=patch["where"])
        texts = [(document.value, patch["where"]) for document in documents]
    else:
        texts = [(text, patch["where"])]
    if not texts:
        raise InvalidInput(patch["where"], "the patch is empty", "write what it changes, or remove it")
    return [
        _Patch(where=where, value=_checked(value, target, options, where=where), target=target, options=options)
        for value, where in texts
    ]


def _checked(value: Any, target: Mapping[str, str], options: Mapping[str, bool], *, where: str) -> Any:
    """The patch as Kustomize takes it. Raises InvalidInput."""
    if kustomize.breaks(orjson.dumps(value).decode()):
        raise InvalidInput(
            where, "the patch has a control character or a key '<<', which Kustomize breaks", "write it otherwise"
        )
    if isinstance(value, list):
        if not target:
            raise InvalidInput(where, "the patch has no target", "say which objects its operations are for")
        for index, operation in enumerate(value):
            verb = operation.get("op") if isinstance(operation, Mapping) else None
            if verb not in _OPERATIONS or not isinstance(operation.get("path"), str):
                remedy = f"write op ({', '.join(_OPERATIONS)}), path and what the operation needs"
                raise InvalidInput(where, f"item {index} of the patch is no JSON 6902 operation", remedy)
            if not operation["path"].startswith("/"):
                remedy = "begin the path with '/', and with the name of a field"
                raise InvalidInput(where, f"item {index} of the patch has the path {operation['path'][:80]!r}", remedy)
            if verb in ("add", "replace", "test") and "value" not in operation:
                raise InvalidInput(where, f"item {index} of the patch has no value", "say what the field becomes")
            if verb in ("move", "copy") and not isinstance(operation.get("from"), str):
                raise InvalidInput(where, f"item {index} of the patch has no from", "say which field it takes")
        return value
    if not isinstance(value, Mapping):
        remedy = "write a part of an object, or a list of JSON 6902 operations"
        raise InvalidInput(where, "the patch is neither a mapping nor a list", remedy)
    if value.get("$patch") == "replace":
        remedy = "change the object's file, or delete the object and write another"
        raise InvalidInput(where, "the patch replaces a whole object, which Kustomize does not do", remedy)
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    if not target and not (value.get("apiVersion") and value.get("kind") and metadata.get("name")):
        remedy = "write a target, or apiVersion, kind and metadata.name into the patch"
        raise InvalidInput(where, "the patch does not say which object it is for", remedy)
    # With a target Kustomize still wants a whole identity, and passes over it unless options say otherwise.
    named = {"metadata": {"name": "any", **metadata}} if not options.get("allowNameChange") else {}
    kind = {"kind": "any"} if not options.get("allowKindChange") else {}
    return {"apiVersion": "v1", **kind, **value, **named}


def _applied(manifests: Sequence[plain.Manifest], patches: Sequence[_Patch], *, at: str) -> list[plain.Manifest]:
    local = [manifest for manifest in manifests if _is_local(manifest)]
    reachable = [manifest for manifest in manifests if not _is_local(manifest)]
    by_identity = _by_identity(reachable)
    try:
        built = _build(reachable, patches, at=at)
    except InvalidInput as error:
        where, text = _blamed(reachable, patches, error, at=at)
        raise InvalidInput(where, f"the patch cannot be applied: {text}", "correct the patch") from error
    seen: set[str] = set()
    found: list[plain.Manifest] = []
    for manifest in built:
        marks = {field for field in manifest.value if field.startswith(_MARK)}
        seen |= marks
        if any(_MARK + str(index) in marks for index, patch in enumerate(patches) if patch.deletes):
            continue
        value = {field: child for field, child in manifest.value.items() if field not in marks}
        value = merge_directives.carried_out(value)
        before = by_identity.get(plain.identity(value))
        if before is None:
            found.append(replace(manifest, value=value, where=at + RENAMED))
        else:
            found.append(replace(before, value=value))
    for index, patch in enumerate(patches):
        if patch.target and _MARK + str(index) not in seen:
            raise _unmatched(patch, reachable)
    return [*local, *found]


def _build(manifests: Sequence[plain.Manifest], patches: Sequence[_Patch], *, at: str) -> list[plain.Manifest]:
    if not manifests:
        return []
    with scratch.folder("patches") as folder:
        entries: list[dict[str, Any]] = []
        for index, patch in enumerate(patches):
            name = f"patch-{index}.json"
            if patch.target:  # before the patch itself, which may change what the target looks at
                mark = {"apiVersion": "v1", "kind": "any", "metadata": {"name": "any"}, _MARK + str(index): True}
                (folder / f"mark-{index}.json").write_bytes(orjson.dumps(mark))
                entries.append({"path": f"mark-{index}.json", "target": patch.target})
            if not patch.deletes:
                (folder / name).write_bytes(orjson.dumps(_guarded(patch.value)))
                entries.append(
                    {
                        "path": name,
                        **({"target": patch.target} if patch.target else {}),
                        **({"options": patch.options} if patch.options else {}),
                    }
                )
        (folder / "objects.json").write_bytes(
            orjson.dumps(
                {"apiVersion": "v1", "kind": "List", "items": [_guarded(manifest.value) for manifest in manifests]}
            )
        )
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["objects.json"],
            "patches": entries,
        }
        (folder / plain.KUSTOMIZATION_FILES[0]).write_bytes(orjson.dumps(kustomization))
        built = kustomize.build(folder, name=at, root=folder, at=at)
        return [replace(manifest, value=_unguarded(manifest.value)) for manifest in built]


def _guarded(value: Any) -> Any:
    """Pure: a copy with every integer that a float cannot hold as text; `_unguarded` undoes it."""
    if isinstance(value, Mapping):
        return {name: _guarded(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_guarded(child) for child in value]
    return f"{_GUARD}{value}" if type(value) is int and value not in _EXACT else value


def _unguarded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unguarded(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_unguarded(child) for child in value]
    return int(value[1:]) if isinstance(value, str) and value.startswith(_GUARD) else value


def _blamed(
    manifests: Sequence[plain.Manifest], patches: Sequence[_Patch], error: InvalidInput, *, at: str
) -> tuple[str, str]:
    """Where the first patch is that fails, and Kustomize's words about it."""
    good, bad, text = -1, len(patches), error.cause
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _build(manifests, patches[:middle], at=at)
            good = middle
        except InvalidInput as found:
            bad, text = middle, found.cause
    return (patches[bad - 1].where if bad else at), text.removeprefix("does not build: ")


def _unmatched(patch: _Patch, manifests: Iterable[plain.Manifest]) -> InvalidInput:
    there = sorted({objects.named(manifest) for manifest in manifests})
    shown = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
    late = "; those without a namespace get the bundle's later" if "namespace" in patch.target else ""
    target = ", ".join(f"{field}: {value}" for field, value in sorted(patch.target.items()))
    return InvalidInput(
        patch.where, f"the patch's target ({target[:300]}) matches no object", f"the bundle has {shown or 'none'}{late}"
    )


def _by_identity(manifests: Iterable[plain.Manifest]) -> dict[tuple[str, ...], plain.Manifest]:
    """Raises InvalidInput for what Kustomize would refuse without telling its file: no identity, and duplicates."""
    found: dict[tuple[str, ...], plain.Manifest] = {}
    for manifest in manifests:
        identity = plain.identity(manifest.value)
        what = objects.describe(manifest)
        if not all(isinstance(part, str) for part in identity) or not (identity[0] and identity[1] and identity[3]):
            remedy = "a patch needs to know the objects, so give it all three"
            raise InvalidInput(what, "has no apiVersion, kind or metadata.name", remedy)
        if identity in found:
            raise InvalidInput(what, f"is also in {found[identity].where}", "remove one of the two")
        if kustomize.breaks(orjson.dumps(manifest.value).decode()):
            remedy = "keep the object in a bundle without patches, or its data in binaryData"
            raise InvalidInput(what, "has a control character or a key '<<', which Kustomize breaks", remedy)
        found[identity] = manifest
    return found


def _is_local(manifest: plain.Manifest) -> bool:
    metadata = manifest.value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return isinstance(annotations, Mapping) and _LOCAL in annotations
