"""The next slice of a cluster that no hub hears, composed from a commit of the fleet repo by a person's word.

A hub moves a cluster only while it hears it, and a cluster behind an air gap is never heard: here the export of a file
is the move. Slices are chained in a repository of their own, which is to be kept, for the agent refuses a chain that
begins anew. Equal commits give equal slices, so a repetition adds nothing. Anything wrong with what the cluster runs
stops it: nobody over there could mend it. `bundles` writes the file.
"""

from collections.abc import Callable
from pathlib import Path

import click
import pygit2

from hub.cli import revisions, telling
from hub.cli.revisions import Revision
from hub.slices import compose, trees
from hub.slices.gitstore import GitStore
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import BundleEntry, SliceManifest

Objects = list[tuple[str, bytes]]


def compose_next(
    repo: Path, cluster: str, *, root: Path, revision: str, sign: Callable[[bytes], bytes] = bytes
) -> bool:
    """Move the slice of `cluster` in `repo`, made if it is not there, to what `revision` of the fleet repo wants.

    False when it wants just that already. Raises FlotillaError or ClickException; the slice stays then.
    """
    if (repo.parent / "journal.db").exists():
        raise click.ClickException(f"{repo} is a hub's own: give --repo a folder beside it, kept for this cluster")
    found = revisions.opened(root, revision)
    entries, objects = _entries(found, ClusterName(cluster))
    store = GitStore.create(repo)
    tip = store.ref(cluster)
    before = store.manifest(tip) if tip is not None else None
    store.write(objects)
    made = compose.compose(
        cluster=ClusterName(cluster),
        seq=before.seq + 1 if before is not None else 1,
        parent=tip,
        parent_time_s=_time_s(repo, tip) if tip is not None else 0,
        current=before,
        changes=_changes(before, entries),
        keys=store.keys,
        time_s=found.commit.commit_time if found.commit is not None else 0,
        sign=sign,
    )
    if made is None:
        return False
    store.write(made.objects)
    store.set_ref(cluster, made.commit)
    return True


def _entries(found: Revision, cluster: ClusterName) -> tuple[dict[BundleName, BundleEntry], Objects]:
    """What the cluster is to run, and the objects of that."""
    if found.commit is None:
        raise click.ClickException("a slice is made of a commit, not of files on disk: name a --revision")
    if cluster not in found.fleet.clusters and cluster not in found.fleet.broken_clusters:
        near = telling.near(cluster, found.fleet.clusters)
        raise click.ClickException(f"cluster {cluster!r} is not in the fleet{near}")
    if (here := found.fleet.clusters.get(cluster)) is not None and here.decommission:
        raise click.ClickException(f"cluster {cluster} is being decommissioned, which its agent does with a hub only")
    objects: Objects = []
    entries: dict[BundleName, BundleEntry] = {}
    for bundle, clusters in found.wanted().items():
        if cluster not in clusters:
            continue
        files = found.files(clusters[cluster])
        if files is not None:
            subtree, made = trees.subtree(files)
            entries[bundle] = BundleEntry(subtree=subtree, revision=str(found.commit.id))
            objects += made
    others = {f"cluster {name}" for name in (*found.fleet.clusters, *found.fleet.broken_clusters) if name != cluster}
    wrong = [f for f in (*found.fleet.findings, *found.failures) if f.severity == "error" and f.about not in others]
    if wrong:
        raise click.ClickException("\n".join(telling.shown(finding) for finding in wrong))
    return entries, objects


def _changes(
    before: SliceManifest | None, entries: dict[BundleName, BundleEntry]
) -> dict[BundleName, BundleEntry | None]:
    """A bundle whose subtree stays keeps the revision that brought it."""
    current = before.bundles if before is not None else {}
    changes: dict[BundleName, BundleEntry | None] = {
        name: entry for name, entry in entries.items() if name not in current or current[name].subtree != entry.subtree
    }
    return changes | {BundleName(name): None for name in current if name not in entries}


def _time_s(repo: Path, commit: Oid) -> int:
    return int(pygit2.Repository(str(repo))[commit].peel(pygit2.Commit).commit_time)
