"""Where an object's file came from: the file behind a Kustomize build, and the last commit that touched a path.

Kustomize is asked by a second build with its own `originAnnotations`, in a copy of the folder: what is rolled out never
carries them. Commits are looked up as `git log -1 -- PATH` does. Next: `explaining`.
"""

import dataclasses
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pygit2

from hub import scratch
from hub.model import Finding
from hub.render import kustomize, objects, plain, variables
from hub.repo import sources, yaml_reader
from proto.errors import FlotillaError
from proto.objects import ObjectKey

_ORIGIN = "config.kubernetes.io/origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """The last commit that touched a path; `when` is its author's date (UTC). With `cut` the clone's history ends
    there, and it may have been an earlier one."""

    commit: str
    author: str
    when: str
    subject: str
    cut: bool


def last_touch(head: pygit2.Commit, path: str) -> Touch | None:
    """The commit that gave `path` the content it has at `head`; None when it is not there."""
    commit, found = head, entry(head, path)
    if found is None:
        return None
    while alike := next((parent for parent in commit.parents if entry(parent, path) == found), None):
        commit = alike
    return Touch(
        commit=str(commit.id),
        author=commit.author.raw_name.decode("utf-8", "replace"),
        when=datetime.fromtimestamp(commit.author.time, UTC).strftime("%Y-%m-%d"),
        subject=commit.raw_message.decode("utf-8", "replace").strip().partition("\n")[0][:100],
        cut=not commit.parents and b"\nparent " in commit.read_raw().partition(b"\n\n")[0],
    )


def entry(commit: pygit2.Commit, path: str) -> str | None:
    """The id of what the commit has at a path."""
    try:
        return str((commit.tree[path] if path else commit.tree).id)
    except KeyError:
        return None


def behind_kustomize(tree: sources.Tree, folder: str, inputs: Mapping[str, Any]) -> Mapping[ObjectKey, tuple[str, ...]]:
    """Object → the files of the fleet repo that it stands in, for what the folder builds; none if nobody knows."""
    found: dict[ObjectKey, tuple[str, ...]] = {}
    try:
        built = built_from(tree, folder, inputs)
        scopes = objects.scopes_of(manifest.value for manifest, _ in built)
        for manifest, files in built:
            namespace = str(inputs.get("namespace") or "default")
            value, _ = variables.substitute(manifest.value, inputs.get("variables") or {}, what=manifest.where)
            manifest = plain.Manifest(value=value, where=manifest.where)
            key, _, _ = objects.complete(manifest, namespace=namespace, scopes=scopes)
            found[key] = files
    except (FlotillaError, OSError, AttributeError):
        return {}
    return found


Built = Sequence[tuple[plain.Manifest, tuple[str, ...]]]


def built_from(tree: sources.Tree, folder: str, inputs: Mapping[str, Any]) -> Built:
    """What Kustomize builds of the folder, each manifest with the files of the fleet repo that it stands in. Raises as
    `kustomize.load`."""
    path = str(inputs.get("path") or "").strip("/")
    source = posixpath.normpath(posixpath.join(folder, path))
    with scratch.folder("explain") as made:
        place = made / "bundle"
        tree.materialise(folder, place)
        _ask_for_origins(place / path)
        manifests = kustomize.load(place, "" if path == "." else path, at=folder)
    return [(manifest, tuple(_files(_annotation(manifest.value), source))) for manifest in manifests]


def _annotation(value: Mapping[str, Any]) -> str:
    metadata = value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return str(annotations.get(_ORIGIN) or "") if isinstance(annotations, Mapping) else ""


def placed(finding: Finding, built: Built, tree: sources.Tree) -> Finding:
    """The finding about a built object, at the file and line that the object stands in; as it is, if nobody knows."""
    kind, _, rest = finding.message.partition(":")[0].partition("/")
    name = rest.rpartition("/")[2]
    files = {files[0] for manifest, files in built if files and _identity(manifest) == (kind, name)}
    if not name or len(files) != 1:
        return finding
    (file,) = files
    texts = [text for _, text in tree.files(wanted=lambda path: path == file) if isinstance(text, bytes)]
    alike = [one for text in texts for one in plain.read(text, where=file, strict=False) if _identity(one)[0] == kind]
    # A prefix, say, makes the name another one.
    named = [one for one in alike if _identity(one)[1] == name] or alike
    return dataclasses.replace(finding, where=named[0].where if len(named) == 1 else file)


def _identity(manifest: plain.Manifest) -> tuple[str, str]:
    metadata = manifest.value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return str(manifest.value.get("kind")), str(name)


def _ask_for_origins(folder: Path) -> None:
    file = plain.kustomization_of(folder)
    if file is None:
        return
    document = yaml_reader.documents(file.read_bytes(), where=file.name, strict=False)[0]
    value = dict(document.value)
    value["buildMetadata"] = sorted({*(value.get("buildMetadata") or ()), "originAnnotations"})
    file.unlink()  # a link is never written through
    file.write_text(json.dumps(value))


def _files(origin: str, source: str) -> list[str]:
    """Of an annotation's text: the file the object stands in, or the one that configures its generator."""
    documents = yaml_reader.documents(origin.encode(), where=_ORIGIN, strict=False) if origin else []
    value = documents[0].value if documents else {}
    named = [value[name] for name in ("path", "configuredIn") if isinstance(value.get(name), str)]
    return [posixpath.normpath(posixpath.join(source, name)) for name in named]
