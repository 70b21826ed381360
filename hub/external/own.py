"""Charts in the fleet repo itself that depend on charts which their folder does not have.

Such a bundle is rendered from a copy of its folder with them put in (`dependencies`), pinned like a source from
outside: a range means the same for all waves, and is looked at again when the folder changes. What the folder has in
`charts/` needs nothing of this. Next: `fetch` brings the charts, `repo.mounts` puts the copy in the folder's place.
"""

import os
import posixpath
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from hub import scratch
from hub.external import dependencies
from hub.repo import sources
from proto.errors import InvalidInput
from proto.ids import Oid

_FILES = (dependencies.CHART_FILE, "requirements.yaml")


def needs(tree: sources.Tree, folder: str, path: str) -> bool:
    """Whether the chart in the bundle's `folder`, at `path` in it, lacks charts that it depends on; also when that
    cannot be told, for then the fetch says why."""
    place = posixpath.normpath(posixpath.join(folder, path))
    names = {f"{place}/{name}" for name in _FILES}
    try:
        found = [data for _, data in tree.files(place, wanted=names.__contains__)]
    except InvalidInput:  # no such folder
        return False
    if not any(isinstance(data, bytes) and b"repository" in data for data in found):
        return False
    try:
        with scratch.folder("chart") as empty:
            repo = pygit2.init_repository(str(empty), bare=True)
            return dependencies.needed(repo, copied(tree, folder, repo), path=path)
    except InvalidInput:
        return True


def copied(tree: sources.Tree, folder: str, repo: pygit2.Repository) -> Oid:
    """The tree in `repo` of a bundle's folder as it would be written out. Raises InvalidInput for what is no bundle."""
    made = pygit2.Index()
    with scratch.folder("chart") as made_in:
        place = made_in / "bundle"
        tree.materialise(folder, place)
        for parent, _, names in os.walk(place):
            for file in (Path(parent, name) for name in names):
                name, link = file.relative_to(place).as_posix(), file.is_symlink()
                blob = repo.create_blob(os.fsencode(os.readlink(file)) if link else file.read_bytes())
                mode = FileMode.BLOB_EXECUTABLE if os.access(file, os.X_OK) else FileMode.BLOB
                made.add(pygit2.IndexEntry(name, blob, FileMode.LINK if link else mode))
    return Oid(str(made.write_tree(repo)))
