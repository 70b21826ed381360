"""A whole fleet repo at one moment: the fleet that it describes, and the Git tree id of each bundle's folder.

What cannot be read is named in the fleet's findings and stops only itself. The way of the hub and of the commands that
work on a checkout alike. Next: `targets` says what is to be rendered.
"""

from collections.abc import Mapping
from dataclasses import replace

from hub.model import Bundle, Finding, Fleet, HelmSource, Variant
from hub.repo import fleet as fleet_loader
from hub.repo import mounts, places, references, sources
from proto.errors import InvalidInput
from proto.ids import BundleName, Oid

_KEPT_FOLDERS = 10_000
_kept: dict[Oid, frozenset[str]] = {}


def read(tree: sources.Tree) -> tuple[Fleet, Mapping[str, Oid]]:
    """The fleet and, by folder, the tree ids of its bundles. Raises InvalidInput for a repo that is too large to be
    looked at, Permanent when the mirror lacks an object."""
    fleet = fleet_loader.load(dict(tree.files(wanted=places.is_fleet_file)))
    trees: dict[str, Oid] = {}
    failed: dict[BundleName, Finding] = {}
    mentions: dict[BundleName, frozenset[str]] = {}
    for name, bundle in fleet.bundles.items():
        about = f"bundle {name}"
        try:
            trees[bundle.folder] = tree.tree_id(bundle.folder)
            mentions[name] = _mentions(tree, bundle.folder, trees[bundle.folder])
            if _brings_variables(bundle):
                mentions[name] |= {references.EVERY}
        except InvalidInput as error:
            failed[name] = Finding(where=error.thing, message=error.cause, remedy=error.remedy, about=about)
        except OSError as error:  # of a checkout
            message, remedy = f"cannot be read: {error}", "check the permissions in the folder"
            failed[name] = Finding(where=bundle.folder, message=message, remedy=remedy, about=about)
    fleet = fleet_loader.without(fleet, failed)
    bundles = {name: replace(bundle, mentions=mentions[name]) for name, bundle in fleet.bundles.items()}
    return replace(fleet, bundles=bundles), trees


def _brings_variables(bundle: Bundle) -> bool:
    """Whether a source from outside may mention variables: nobody knows yet what is in it. Of a chart only files that
    the bundle names could: what a template says is its own."""
    if bundle.external is None:
        return False
    parts: tuple[Bundle | Variant, ...] = (bundle, *bundle.variants)
    options = [part.helm for part in parts if part.helm is not None]
    if not (options or isinstance(bundle.external, HelmSource)) or any(part.kustomize is not None for part in parts):
        return True
    named = [path for helm in options for path in helm.values_files]
    named += [patch.path for part in parts for patch in part.patches]
    return any(path.split("/")[0] == mounts.PLACE for path in named)


def _mentions(tree: sources.Tree, folder: str, oid: Oid) -> frozenset[str]:
    """What files of the folder mention; a process remembers it of the last folders, whose ids are `oid`."""
    if oid not in _kept:
        if len(_kept) >= _KEPT_FOLDERS:
            del _kept[next(iter(_kept))]
        # What cannot be read stops the bundle when it is rendered.
        _kept[oid] = references.mentioned(text for _, text in tree.files(folder) if isinstance(text, bytes))
    return _kept[oid]
