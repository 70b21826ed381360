"""A whole fleet repo at one moment: the fleet that it describes, and the Git tree id of each bundle's folder.

What cannot be read is named in the fleet's findings and stops only itself. The way of the hub and of the commands that
work on a checkout alike. Next: `targets` says what is to be rendered.
"""

from collections.abc import Mapping

from hub.model import Finding, Fleet
from hub.repo import fleet as fleet_loader
from hub.repo import sources
from proto.errors import InvalidInput
from proto.ids import BundleName, Oid


def read(tree: sources.Tree) -> tuple[Fleet, Mapping[str, Oid]]:
    """The fleet and, by folder, the tree ids of its bundles. Raises InvalidInput for a repo that is too large to be
    looked at, Permanent when the mirror lacks an object."""
    fleet = fleet_loader.load(dict(tree.files(wanted=fleet_loader.is_fleet_file)))
    trees: dict[str, Oid] = {}
    failed: dict[BundleName, Finding] = {}
    for name, bundle in fleet.bundles.items():
        about = f"bundle {name}"
        try:
            trees[bundle.folder] = tree.tree_id(bundle.folder)
        except InvalidInput as error:
            failed[name] = Finding(where=error.thing, message=error.cause, remedy=error.remedy, about=about)
        except OSError as error:  # of a checkout
            message, remedy = f"cannot be read: {error}", "check the permissions in the folder"
            failed[name] = Finding(where=bundle.folder, message=message, remedy=remedy, about=about)
    return fleet_loader.without(fleet, failed), trees
