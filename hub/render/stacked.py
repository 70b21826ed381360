"""A chart with a Kustomize overlay over what it renders, as Flux's postRenderers or `helm template > all.yaml` do it.

The overlay's kustomization, or one that it builds on, lists `rendered-chart.yaml` among its resources: the file is not
in Git, the chart's objects are put there for the build, hooks and definitions too. What templates left as `${…}` is
theirs, in the overlay it is a variable: the chart's are shielded until variables are filled in. Next: `build`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from hub.render import kustomize, objects, plain, variables
from proto.errors import InvalidInput

RENDERED = "rendered-chart.yaml"


def load(root: Path, path: str, chart: Sequence[plain.Manifest], *, at: str) -> list[plain.Manifest]:
    """What the overlay `path` of the bundle's folder `root` makes of the chart's manifests, still shielded. An object
    that keeps its identity keeps its origin in the chart. Raises as `kustomize.load`."""
    name = f"{at}/{path}" if path else at
    places = kustomize.listing(root.resolve(), path, RENDERED)
    if not places:
        remedy = f"write {RENDERED}, where the chart's objects will be, into its resources, or those of its base"
        raise InvalidInput(name, f"is over a chart, and does not build on {RENDERED}", remedy)
    shields = [(manifest, variables.shielded(manifest.value)) for manifest in chart]
    for manifest, value in shields:
        if kustomize.breaks(orjson.dumps(value).decode()):
            remedy = "keep its data in binaryData, or use the chart without an overlay"
            raise InvalidInput(
                objects.describe(manifest), "has a control character or a key '<<', which Kustomize breaks", remedy
            )
    text = b"\n---\n".join(orjson.dumps(value) for _, value in shields)
    for place in sorted(places):
        if place.exists() or place.is_symlink():
            shown = f"{at}/{place.relative_to(root.resolve())}"
            raise InvalidInput(shown, "is where the chart's objects go for the build", "remove it from Git")
    origins = {plain.identity(manifest.value): manifest.where for manifest, _ in shields}
    for place in places:
        place.write_bytes(text)
    try:
        found = kustomize.load(root, path, at=at)
    finally:
        for place in places:
            place.unlink()
    return [
        replace(one, where=origins.get(plain.identity(variables.unshielded(one.value)), one.where)) for one in found
    ]
