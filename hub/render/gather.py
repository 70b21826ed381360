"""The manifests of a bundle, before its variables: its sources built, overlays and patches laid over them.

The kind of the sources is recognised by itself: `Chart.yaml` is a Helm chart, a kustomization file a Kustomize folder,
anything else is plain YAML. A chart's values had their variables; what else has any is shielded from it (`variables`).

| `source.path` | `kustomize.path`  | what is built                                    |
|---------------|-------------------|--------------------------------------------------|
| anything      |                   | the source                                       |
| a chart       | a folder          | the folder, over the chart's objects (`stacked`) |
| anything else | a folder          | the folder                                       |

Patches come last. Next: `build`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hub.render import helm, kustomize, patches, plain, stacked, variables
from proto.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """`source` is their folder in messages. `helm` ones had variables in their values; those that are `shielded` may
    have more, of an overlay or a patch."""

    source: str
    manifests: tuple[plain.Manifest, ...]
    warnings: tuple[str, ...] = ()
    helm: bool = False
    shielded: bool = False


def gather(folder: Path, inputs: Mapping[str, Any], *, bundle: str, at: str) -> Gathered:
    """What the `inputs` make of the bundle whose folder was written to `folder`; messages call it `at`.

    Raises InvalidInput, and what `helm.load` and `kustomize.load` raise.
    """
    found = _sources(folder, inputs, bundle=bundle, at=at)
    if not inputs.get("patches"):
        return found
    manifests: Sequence[plain.Manifest] = found.manifests
    if found.helm and not found.shielded:
        manifests = [replace(manifest, value=variables.shielded(manifest.value)) for manifest in manifests]
    patched = patches.apply(manifests, inputs["patches"], root=folder, at=at)
    return replace(found, manifests=tuple(patched), shielded=found.helm)


def _sources(folder: Path, inputs: Mapping[str, Any], *, bundle: str, at: str) -> Gathered:
    path = _inside(folder, str(inputs.get("path") or ""), at=at)
    chart = path
    if "chart" in inputs and (folder / inputs["chart"] / plain.CHART_FILE).is_file():
        chart = _inside(folder, str(inputs["chart"]), at=at)
    name = f"{at}/{path}" if path else at
    if (folder / chart / plain.CHART_FILE).is_file():
        options = inputs.get("helm") or {}
        manifests, warnings = helm.load(
            folder,
            chart,
            at=at,
            release=str(options.get("release") or bundle),
            namespace=str(inputs.get("namespace") or "default"),
            values=helm.values_of(
                folder, options, inputs.get("variables") or {}, at=at, known=inputs.get("known") or ()
            ),
            kubernetes=str(inputs.get("kubernetes") or ""),
            pinned=bool(inputs.get("pinFirstRender")),
        )
        if chart != path:
            manifests = stacked.load(folder, path, manifests, at=at)
        return Gathered(source=name, manifests=tuple(manifests), warnings=warnings, helm=True, shielded=chart != path)
    if inputs.get("helm"):
        raise InvalidInput(name, "has Helm options, but no Chart.yaml", "remove spec.helm, or set spec.source.path")
    patch_files = {folder / file for file in inputs.get("patchFiles") or ()}
    if plain.kustomization_of(folder / path) is not None:
        return Gathered(source=name, manifests=tuple(kustomize.load(folder, path, at=at)))
    return Gathered(source=name, manifests=tuple(plain.load(folder / path, at=name, without=patch_files)))


def _inside(folder: Path, path: str, *, at: str) -> str:
    """The path as it is checked: of a folder of the bundle, "" for the bundle's own."""
    path = path.strip("/")
    path = "" if path == "." else path
    if ".." in Path(path).parts or not (folder / path).is_dir():
        there = ", ".join(sorted(item.name for item in folder.iterdir() if item.is_dir())[:10])
        raise InvalidInput(
            f"{at}/{path}",
            "is not a folder of the bundle",
            f"the bundle has {there}" if there else "check spec.source.path",
        )
    return path
