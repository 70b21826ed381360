"""A bundle's folder with a source from outside of the fleet repo in it.

    bundles/shop/            the folder as the fleet repo has it: bundle.yaml, values files, overlays
    bundles/shop/external/   what `spec.source` names, as it was fetched; never in Git

A copy of the folder itself, with the charts put in that its chart depends on, takes the place of all of it (`whole`).
Else everything in the folder reaches the source by a path, `../external` from an overlay or `external/values-eu.yaml`,
and what renders a folder needs to know nothing of it. Each of the two parts is checked by the rules and limits of
`sources`. Next: `targets` takes the id of both together for a bundle's tree.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hub.repo import sources
from proto.errors import FlotillaError, InvalidInput
from proto.ids import Oid
from proto.objects import git_id

PLACE = "external"
"""The folder's name; a bundle from outside has none of its own of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A tree in a Git repository on disk; `whole` when it takes the place of all of a bundle's folder."""

    repo: Path
    tree: Oid
    whole: bool = False


class Mounted:
    """The fleet repo `tree` with a source in each bundle's folder that `mounts` has: a `sources.Tree`."""

    def __init__(self, tree: sources.Tree, mounts: Mapping[str, Mount]) -> None:
        self._tree, self._mounts = tree, mounts

    def files(
        self, prefix: str = "", *, wanted: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, bytes | InvalidInput]]:
        """Of the fleet repo alone."""
        return self._tree.files(prefix, wanted=wanted)

    def tree_id(self, folder: str) -> Oid:
        own, mount = self._tree.tree_id(folder), self._mounts.get(folder)
        return own if mount is None else mounted_id(own, mount.tree, whole=mount.whole)

    def materialise(self, folder: str, destination: Path) -> None:
        mount = self._mounts.get(folder)
        if mount is None or not mount.whole:
            self._tree.materialise(folder, destination)
        if mount is None:
            return
        place, name = (destination, folder) if mount.whole else (destination / PLACE, f"{folder}/{PLACE}")
        if not mount.whole and (place.exists() or place.is_symlink()):
            raise InvalidInput(name, "is where the source from outside goes", "rename it")
        try:
            sources.CommitTree(mount.repo, mount.tree).materialise("", place)
        except FlotillaError as error:
            raise type(error)(f"{name}/{error.thing}", error.cause, error.remedy) from error


def mounted_id(folder: Oid, external: Oid, *, whole: bool = False) -> Oid:
    """Pure: the id of a bundle's folder together with its source: that of a tree which has nothing but the two, or the
    source's when that is the whole folder."""
    if whole:
        return external
    parts = ((b"bundle", folder), (b"external", external))
    return git_id("tree", b"".join(b"40000 %s\0" % name + bytes.fromhex(tree) for name, tree in parts))
