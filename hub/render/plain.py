"""Manifests as they stand in YAML and JSON files: a folder of them, or what Kustomize and Helm print.

Lists are flattened; documents without content and Flotilla's own kinds (`bundle.yaml` lies beside its sources) are left
out. Next: `build` fills in variables and `objects` checks each manifest.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hub.repo import yaml_reader
from proto.errors import InvalidInput
from proto.objects import group_of

SUFFIXES = (".yaml", ".yml", ".json")
KUSTOMIZATION_FILES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
CHART_FILE = "Chart.yaml"
_KEPT_FILES, _KEPT_FILE_BYTES = 2000, 8 << 10
"""Small files whose manifests a process keeps: reading YAML is half of a render, and a commit changes few files."""
_OUR_GROUP = "flotilla.dev"
_OUR_KINDS = frozenset({"Fleet", "Cluster", "Bundle", "RolloutPolicy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One manifest before any check: `where` is `file:line` (of built text: `file (built)`).

    `lines` and `root` (where in the document it is, an item of a list) tell the line of a field, where there is one.
    """

    value: Mapping[str, Any]
    where: str
    lines: yaml_reader.Lines | None = field(default=None, repr=False, compare=False)
    root: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> str:
        """`file:line` of the field at `path`. Reads the file again: call `forget` after the last one."""
        if self.lines is None or not path:
            return self.where
        return f"{self.where.rpartition(':')[0]}:{self.lines.at(*self.root, *path)}"

    def forget(self) -> None:
        """Free what `at` read."""
        if self.lines is not None:
            self.lines.forget()


def kustomization_of(folder: Path) -> Path | None:
    """The kustomization file of a folder, if it has one."""
    return next((folder / name for name in KUSTOMIZATION_FILES if (folder / name).is_file()), None)


def identity(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """Pure: apiVersion, kind, namespace and name as the manifest has them, checked by nobody yet."""
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    return value.get("apiVersion"), value.get("kind"), metadata.get("namespace") or "", metadata.get("name")


def load(folder: Path, *, at: str, without: Collection[Path] = ()) -> list[Manifest]:
    """All manifests of a folder and its subfolders, by path, but for the files `without`. `at` is the folder's name in
    messages.

    Raises InvalidInput, for an inner Kustomize folder or chart too: whether those are wanted cannot be known.
    """
    found: list[Manifest] = []
    for path in _files(folder, at=at):
        if path in without:
            continue
        where, text = f"{at}/{path.relative_to(folder)}", path.read_bytes()
        found.extend(_kept(text, where) if len(text) <= _KEPT_FILE_BYTES else read(text, where=where))
    return found


@lru_cache(maxsize=_KEPT_FILES)
def _kept(text: bytes, where: str) -> tuple[Manifest, ...]:
    """`read`, whose result nobody changes."""
    return tuple(read(text, where=where))


def _files(folder: Path, *, at: str) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name in KUSTOMIZATION_FILES or name == CHART_FILE:
                inner = Path(parent).relative_to(folder)
                kind = "a Helm chart" if name == CHART_FILE else "a Kustomize folder"
                raise InvalidInput(
                    f"{at}/{inner}/{name}",
                    f"makes {inner} {kind} inside a folder of plain manifests",
                    f"set spec.source.path to {inner}, or to a folder without it",
                )
            if name.endswith(SUFFIXES):
                yield Path(parent, name)


def read(text: bytes, *, where: str, strict: bool = True, lines: bool = True) -> list[Manifest]:
    """The manifests of one file. `lines` off leaves the line out of `where`: it would be one of the built text.

    Raises InvalidInput for what is not YAML or not a mapping.
    """
    found: list[Manifest] = []
    for document in yaml_reader.documents(text, where=where, strict=strict):
        place = f"{where}:{document.line}" if lines else where
        if not isinstance(document.value, Mapping):
            raise InvalidInput(place, "is not a Kubernetes object", "a manifest is a mapping with apiVersion and kind")
        whole = Manifest(value=document.value, where=place, lines=document.lines if lines else None)
        found.extend(_flattened(whole))
    return found


def _flattened(manifest: Manifest, *, depth: int = 0) -> Iterator[Manifest]:
    """A `List`, or any kind's list such as `ConfigMapList`, stands for its items; those of the second need not say
    their kind, as with kubectl. Lists of lists end at some depth."""
    value = manifest.value
    kind, items = value.get("kind"), value.get("items", "")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list | None) and depth < 8:
        for index, item in enumerate(items or ()):
            if not isinstance(item, Mapping):
                cause = f"item {index} of a {kind} is not a Kubernetes object"
                raise InvalidInput(manifest.where, cause, "remove it")
            if not item.get("kind") and kind != "List":
                item = {**item, "kind": kind.removesuffix("List"), "apiVersion": value.get("apiVersion")}
            inner = replace(manifest, value=item, root=(*manifest.root, "items", index))
            yield from _flattened(inner, depth=depth + 1)
    elif (value.get("apiVersion"), kind) == ("v1", "List"):
        cause = "is a List in too many others" if isinstance(items, list) else "is a List whose items are no list"
        raise InvalidInput(manifest.where, cause, "write its items as documents of their own")
    elif not (kind in _OUR_KINDS and group_of(str(manifest.value.get("apiVersion"))) == _OUR_GROUP):
        yield manifest
