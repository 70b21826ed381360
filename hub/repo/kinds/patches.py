"""Raw patches of a bundle or a variant: which objects, and what becomes of them. Pure. Next: `bundles`.

What a patch says is looked at where it is applied (`render.patches`), for it may be in a file.
"""

from hub.model import Patch
from hub.repo.schema import Section

_TARGET = ("group", "version", "kind", "name", "namespace", "labelSelector", "annotationSelector")
_OPTIONS = ("allowNameChange", "allowKindChange")


def patches(spec: Section, *, folder: str) -> tuple[Patch, ...]:
    """The `patches` of a Bundle's spec or of a variant."""
    found: list[Patch] = []
    for index, section in enumerate(spec.sections("patches", ("patch", "path", "target", "options"))):
        target = section.section("target", _TARGET)
        options = section.section("options", _OPTIONS)
        if section.has("patch") == section.has("path"):
            section.problem(
                "has to have one of patch and path",
                remedy="write the patch under patch, or the name of its file under path",
            )
        if section.states("target") and not any(target.text(field) for field in _TARGET):
            section.problem("selects every object", "target", remedy="write a kind, a name or a labelSelector")
        for field in _TARGET:
            if "${" in target.text(field):
                section.problem("has a variable, and targets have none", "target", field, remedy="write it out")
        found.append(
            Patch(
                patch=section.patch("patch") if section.has("patch") else None,
                path=section.path("path", folder=folder) if section.has("path") else "",
                target={field: text for field in _TARGET if (text := target.text(field))},
                options={field: True for field in _OPTIONS if options.flag(field, default=False)},
                where=spec.place("patches", index),
            )
        )
    return tuple(found)
