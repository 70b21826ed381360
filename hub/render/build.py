"""One bundle with one set of inputs, rendered to the files of its subtree.

Equal sources and inputs give equal bytes. Variables are filled in after the build, so the clusters of a bundle share
one Kustomize build (kept per process, for the last few folders). Next: `packs` stores the files as Git objects.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import orjson

from hub import scratch
from hub.model import Rights
from hub.render import checks, gather, limits, objects, plain, validate, variables
from hub.renders import Notes
from hub.repo import sources, tenants
from proto.errors import FlotillaError, InvalidInput, Permanent, Transient
from proto.ids import Oid, check_name
from proto.objects import ObjectKey, blob_id, canonical
from proto.slices import POLICY_FILE, with_membership, without_membership

RENDERER_VERSION = "5"
"""Part of every key. Raised when the same inputs shall give other bytes; never by a new build of Kustomize or Helm
alone, or an upgrade of the hub would roll out everything."""

_NO_DEFINITIONS: Mapping[Oid, bytes] = MappingProxyType({})
_KEPT_BUILDS = 16
"""As clusters come by name, those of different variants of a bundle take turns."""
_kept: OrderedDict[tuple[str, Oid, bytes], "_Built"] = OrderedDict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """`files` maps a path inside the subtree to its bytes: one file per object, and `bundle.json`; `blobs` to the id of
    its blob. `warnings` are those of the `notes` that the policies let through. `origins` says of each object where it
    came from: `file:line`, a chart's template, or a folder that was built."""

    files: Mapping[str, bytes]
    blobs: Mapping[str, Oid]
    warnings: tuple[str, ...] = ()
    notes: Notes = field(default_factory=Notes)
    origins: Mapping[ObjectKey, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """Manifests before variables; `helm` ones had theirs in their values. `source` is their folder in messages.

    Most objects of a bundle have no variables, and need not be made whole for each of ten thousand clusters: `constant`
    are the places of those, as far as they were looked at, and `whole` what became of them, by all that else counts.
    """

    source: str
    manifests: tuple[plain.Manifest, ...]
    warnings: tuple[str, ...] = ()
    helm: bool = False
    shielded: bool = False
    constant: set[int] = field(default_factory=set)
    whole: dict[Hashable, dict[int, checks.Made]] = field(default_factory=dict)


Definitions = Mapping[Oid, bytes]
"""By blob id, the CustomResourceDefinitions that inputs name: files of other bundles."""


def render(
    folder: Path, inputs: Mapping[str, Any], *, bundle: str, at: str = "", definitions: Definitions = _NO_DEFINITIONS
) -> Rendered:
    """Render the bundle whose folder was written to `folder`. `inputs` are `RenderRequest.inputs`; `at` is the folder's
    name in messages. Raises InvalidInput whose thing is `bundle NAME: file:line: object`."""
    try:
        return _finished(
            _built(folder, inputs, bundle=bundle, at=at or folder.name), inputs, definitions, bundle=bundle
        )
    except FlotillaError as error:
        raise _named(error, bundle) from error


def render_tree(
    tree: sources.Tree,
    folder: str,
    inputs: Mapping[str, Any],
    bundle: str,
    definitions: Definitions = _NO_DEFINITIONS,
) -> Rendered:
    """Render the bundle in `folder` of a fleet repo. Raises as `render`; Transient when the disk fails."""
    try:
        key = folder, tree.tree_id(folder), canonical([inputs.get("path") or "", inputs.get("patches") or []])
        built = _kept.get(key)
        if built is None:
            with scratch.folder("render") as made:
                place = made / "bundle"
                tree.materialise(folder, place)
                built = _built(place, inputs, bundle=bundle, at=folder)
            if not built.helm:
                _kept[key] = built
                if len(_kept) > _KEPT_BUILDS:
                    _kept.popitem(last=False)
        return _finished(built, inputs, definitions, bundle=bundle)
    except FlotillaError as error:
        raise _named(error, bundle) from error
    except OSError as error:
        raise Transient(f"bundle {bundle}", f"cannot be rendered here: {error}", "check the hub's disk") from error


def render_request(
    tree: sources.Tree,
    folder: str,
    inputs: Mapping[str, Any],
    bundle: str,
    definitions: Definitions = _NO_DEFINITIONS,
) -> Rendered:
    """`render_tree` in a worker process, which is bound meanwhile.

    Raises Permanent too: when the bundle takes more memory than it may.
    """
    try:
        with limits.bounded():
            return render_tree(tree, folder, inputs, bundle, definitions)
    except MemoryError as error:
        cause = f"takes more than {limits.MEMORY_BYTES >> 30} GiB of memory to render"
        raise Permanent(f"bundle {bundle}", cause, "split the bundle") from error


def readable(rendered: Rendered) -> list[dict[str, Any]]:
    """Pure: the objects without the membership labels, for people; namespaces and definitions first."""
    found: list[tuple[tuple[int, str], dict[str, Any]]] = []
    for path, data in rendered.files.items():
        if path == POLICY_FILE:
            continue
        obj = without_membership(orjson.loads(data))
        order = {"Namespace": 0, "CustomResourceDefinition": 1}.get(obj["kind"], 2)
        found.append(((order, path), obj))
    return [obj for _, obj in sorted(found, key=lambda item: item[0])]


def _named(error: FlotillaError, bundle: str) -> FlotillaError:
    """The same error with the bundle's name before its thing."""
    thing = error.thing.removeprefix(f"bundle {bundle}: ")
    return type(error)(f"bundle {bundle}: {thing}", error.cause, error.remedy)


def _built(folder: Path, inputs: Mapping[str, Any], *, bundle: str, at: str) -> _Built:
    found = gather.gather(folder, inputs, bundle=bundle, at=at)
    return _Built(
        source=found.source,
        manifests=found.manifests,
        warnings=found.warnings,
        helm=found.helm,
        shielded=found.shielded,
    )


def _finished(built: _Built, inputs: Mapping[str, Any], definitions: Definitions, *, bundle: str) -> Rendered:
    warnings = list(built.warnings)
    manifests = list(built.manifests)
    if not built.helm or built.shielded:
        for index, manifest in enumerate(manifests):
            if index in built.constant:
                continue
            value, notes = variables.substitute(
                manifest.value,
                inputs.get("variables") or {},
                what=objects.describe(manifest),
                known=inputs.get("known") or (),
            )
            if value is manifest.value:
                built.constant.add(index)
            else:
                manifests[index] = replace(manifest, value=value)
            warnings.extend(notes)
    if built.shielded:
        manifests = [replace(one, value=variables.unshielded(one.value)) for one in manifests]
    namespace = str(inputs.get("namespace") or "default")
    check_name("namespace", namespace)
    theirs = [(orjson.loads(definitions[oid]), oid) for oid in _definitions(inputs, definitions)]
    scopes = {**objects.scopes_of(value for value, _ in theirs), **objects.scopes_of(m.value for m in manifests)}
    origins: dict[ObjectKey, str] = {}
    made: list[checks.Made] = []
    rights = msgspec.convert(inputs["rights"], Rights) if "rights" in inputs else None
    whole = built.whole.setdefault((bundle, namespace, rights, frozenset(scopes.items())), {})
    for index, manifest in enumerate(manifests):
        one = whole.get(index)
        if one is None:
            one = _whole(manifest, bundle=bundle, namespace=namespace, scopes=scopes, rights=rights)
            if index in built.constant:
                whole[index] = one
        if one.key in origins:
            raise InvalidInput(
                f"{manifest.where}: {one.key}", f"is also in {origins[one.key]}", "remove one of the two"
            )
        origins[one.key] = manifest.where
        made.append(one)
        warnings += one.notes
    if not origins and not inputs["policy"].get("allowEmpty"):
        # Everything of the bundle would be pruned, on every cluster: nobody may get there by a mistaken condition.
        remedy = (
            "if that is meant, set spec.allowEmpty: true in its bundle.yaml; to remove the bundle, remove its folder"
        )
        raise InvalidInput(built.source, "renders to no object", remedy)
    words = inputs.get("checks") or {}
    found = checks.check(
        made,
        words,
        custom=validate.defined((*theirs, *((one.obj, one.oid) for one in _defining(made)))),
        kubernetes=str(inputs.get("kubernetes") or ""),
    )
    told = {**({"": _bounded(warnings)} if warnings else {}), **found}
    said = replace(_customs(made), warnings=told)
    policy = canonical(inputs["policy"])
    files = sorted([(POLICY_FILE, policy, blob_id(policy)), *((one.path, one.data, one.oid) for one in made)])
    return Rendered(
        files={path: data for path, data, _ in files},
        blobs={path: oid for path, _, oid in files},
        warnings=said.told(words),
        notes=said,
        origins=origins,
    )


def _definitions(inputs: Mapping[str, Any], known: Definitions) -> list[Oid]:
    """Raises Permanent for one that is not known: to render without it would give other objects."""
    wanted = sorted(set((inputs.get("definitions") or {}).values()))
    if missing := [oid for oid in wanted if oid not in known]:
        raise Permanent(f"definition {missing[0]}", "is not there", "report this as a bug")
    return wanted


def _defining(made: Iterable[checks.Made]) -> list[checks.Made]:
    """Those of the objects that are definitions of custom kinds."""
    return [one for one in made if one.key.kind == "CustomResourceDefinition"]


def _customs(made: Sequence[checks.Made]) -> Notes:
    """Which custom kinds the objects define, and which they only use."""
    defines: dict[str, Oid] = {}
    for one in _defining(made):
        defines |= {f"{kind}.{group}": one.oid for group, kind in objects.scopes_of([one.obj])}
    kinds = {one.key[:2]: one.key for one in made}
    used = {key.gk for key in kinds.values() if not validate.is_builtin(key.group, key.kind)}
    return Notes(defines=defines, uses=tuple(sorted(used - defines.keys())))


def _bounded(warnings: Sequence[str]) -> tuple[str, ...]:
    more = len(warnings) - checks.MAX_TOLD
    return (*warnings[: checks.MAX_TOLD], *([f"and {more} more warnings"] if more > 0 else []))


def _whole(
    manifest: plain.Manifest,
    *,
    bundle: str,
    namespace: str,
    scopes: Mapping[tuple[str, str], bool],
    rights: Rights | None,
) -> checks.Made:
    """Raises InvalidInput, for what the bundle's tenant may not have too."""
    key, obj, notes = objects.complete(manifest, namespace=namespace, scopes=scopes)
    if rights is not None:
        scoped = objects.cluster_scoped(key, scopes)
        if refusal := tenants.refusal(rights, key, cluster_scoped=scoped):
            raise InvalidInput(f"{manifest.where}: {key}", *refusal)
    try:
        data = canonical(with_membership(obj, bundle))
    except InvalidInput as error:
        raise InvalidInput(f"{manifest.where}: {key}", error.cause, "correct the value") from error
    return checks.Made(manifest=manifest, key=key, path=key.path, obj=obj, data=data, oid=blob_id(data), notes=notes)
