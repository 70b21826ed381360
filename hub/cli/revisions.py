"""Two revisions of a fleet repo side by side: what both want of every cluster, and the renders that differ.

A revision is a commit of the Git repository that holds the checkout, or the working tree as it is on disk. Only what
has other inputs or other sources is rendered at all, so that a commit to one bundle costs one bundle. What cannot be
read or rendered on either side is a finding, and is not compared: the hub would leave it as it is. Next: `changes`.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import pygit2

from hub.cli import outside, progress, settling, telling
from hub.model import Finding, Fleet
from hub.render import build
from hub.renders import RenderRequest
from hub.repo import findings, reading, sources, targets
from proto.errors import FlotillaError
from proto.ids import BundleName, ClusterName, Oid

WORKING_TREE = "the working tree"
_KEPT_RENDERS = 64
_BACK = re.compile(r"[~^]\d*$")


class Failed(click.ClickException):
    """What stops a command whose exit code 1 says something else: as `diff` of the Unix world, it exits with 2."""

    exit_code = 2


class Revision:
    """A fleet repo at one moment. `commit` is None for the working tree."""

    def __init__(self, name: str, tree: sources.Tree, *, commit: pygit2.Commit | None) -> None:
        """Raises Failed when it is no fleet repo."""
        self.name, self.commit = name, commit
        try:
            with progress.noted(f"reading {self}"):
                fleet, trees = reading.read(tree)
        except (FlotillaError, OSError) as error:
            raise Failed(f"{self}: {error}") from error
        there = outside.Outside(tree, fleet, trees)
        self.fleet, self.tree, self.pins, trees = there.fleet, there.tree, there.pins, there.trees
        if not (self.fleet.clusters or self.fleet.bundles or self.fleet.findings):
            raise Failed(f"{self} has no Cluster and no Bundle files: is it a fleet repo? (use --fleet DIR)")
        self._failed: dict[Finding, list[ClusterName]] = {}
        self._rendered: dict[str, build.Rendered] = {}
        """The last few renders by their key."""
        self._definitions: dict[Oid, bytes] = {}
        with progress.noted(f"finding what {self} renders"):
            requests = targets.render_requests(self.fleet, trees.__getitem__, renderer=build.RENDERER_VERSION)
        self.requests = settling.settled(self.tree, requests, self._tried, self._definitions)

    def __str__(self) -> str:
        if self.commit is None or str(self.commit.id).startswith(self.name):
            return self.name
        return f"{self.name} ({str(self.commit.id)[:12]})"

    @property
    def failures(self) -> list[Finding]:
        """What did not render so far; what failed alike on many clusters is one."""
        return [telling.told_of(finding, clusters) for finding, clusters in self._failed.items()]

    def wanted(self) -> dict[BundleName, dict[ClusterName, RenderRequest]]:
        """Bundle → cluster → what is to be rendered; without clusters that are decommissioned."""
        gone = {name for name, cluster in self.fleet.clusters.items() if cluster.decommission}
        found: dict[BundleName, dict[ClusterName, RenderRequest]] = {name: {} for name in self.fleet.bundles}
        for request in self.requests:
            found[request.bundle.name].update((c, request) for c in request.clusters if c not in gone)
        return found

    def files(self, request: RenderRequest) -> Mapping[str, bytes] | None:
        """The subtree's files; None, and a finding, when it does not render."""
        rendered = self.rendered(request)
        return None if rendered is None else rendered.files

    def rendered(self, request: RenderRequest) -> build.Rendered | None:
        """The same with all that the renderer says."""
        try:
            return self._render(request)
        except FlotillaError as error:
            self._failed.setdefault(findings.of_error(error, request.bundle), []).extend(request.clusters)
            return None

    def _tried(self, request: RenderRequest) -> build.Rendered | None:
        """`rendered`, without a word when it does not: nobody asked for it yet."""
        try:
            return self._render(request)
        except FlotillaError:
            return None

    def _render(self, request: RenderRequest) -> build.Rendered:
        if request.key in self._rendered:
            return self._rendered[request.key]
        bundle = request.bundle
        rendered = build.render_tree(self.tree, bundle.folder, request.inputs, bundle.name, self._definitions)
        if len(self._rendered) >= _KEPT_RENDERS:
            self._rendered.pop(next(iter(self._rendered)))
        self._rendered[request.key] = rendered
        return rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One bundle as it is rendered before and after (None: it is not there), and the clusters where that is so."""

    bundle: BundleName
    before: RenderRequest | None
    after: RenderRequest | None
    clusters: tuple[ClusterName, ...]


class Comparison:
    """`before` and `after`, and what of them can be compared."""

    def __init__(self, before: Revision, after: Revision) -> None:
        self.before, self.after = before, after
        self.joined = _missing(after.fleet, before.fleet)
        """The clusters that are new in the fleet."""
        self.left = _missing(before.fleet, after.fleet)
        """Those that are no longer in it; what they run stays."""

    def pairs(self, *, cluster: str = "", bundle: str = "") -> list[Pair]:
        """What may differ, by bundle; of one cluster or one bundle when they are given."""
        old, new = self.before.wanted(), self.after.wanted()
        found: list[Pair] = []
        for name in sorted(old.keys() | new.keys()):
            if (bundle and name != bundle) or not (self._sure(name, old) and self._sure(name, new)):
                continue
            was, now = old.get(name, {}), new.get(name, {})
            groups: dict[tuple[str, str], Pair] = {}
            clusters: dict[tuple[str, str], list[ClusterName]] = {}
            for member in sorted(was.keys() | now.keys()):
                first, second = was.get(member), now.get(member)
                keys = (first.key if first else "", second.key if second else "")
                if keys[0] != keys[1] and cluster in ("", member) and self._comparable(member):
                    groups.setdefault(keys, Pair(bundle=name, before=first, after=second, clusters=()))
                    clusters.setdefault(keys, []).append(member)
            found += [dataclasses.replace(pair, clusters=tuple(clusters[keys])) for keys, pair in groups.items()]
        return found

    def rendered(self, pair: Pair) -> tuple[Mapping[str, bytes], Mapping[str, bytes]] | None:
        """The files on both sides; None when one of them does not render."""
        before = self.before.files(pair.before) if pair.before else {}
        after = self.after.files(pair.after) if pair.after else {}
        return None if before is None or after is None else (before, after)

    def errors(self, *, cluster: str = "", bundle: str = "", newer: bool = False) -> list[Finding]:
        """What could not be compared, and why, of the `newer` side first, or alone."""
        found: list[Finding] = []
        for side in (self.after,) if newer else (self.after, self.before):
            for finding in (*side.fleet.findings, *side.failures):
                kind, _, name = finding.about.partition(" ")
                asked = {"cluster": cluster, "bundle": bundle}.get(kind, "")
                if finding.severity == "error" and asked in ("", name):
                    found.append(dataclasses.replace(finding, where=f"{side}: {finding.where}"))
        return found

    def unsure(self) -> set[BundleName]:
        """The bundles of which one side does not tell whether and how they are there."""
        bundles = {*self.before.fleet.bundles, *self.after.fleet.bundles}
        broken = {BundleName(name) for side in (self.before, self.after) for name in side.fleet.broken_bundles}
        old, new = self.before.fleet.bundles, self.after.fleet.bundles
        return broken | {name for name in bundles if not (self._sure(name, old) and self._sure(name, new))}

    def incomparable(self) -> set[ClusterName]:
        """The clusters of the newer side of which the older one does not tell what they run."""
        return {name for name in self.after.fleet.clusters if not self._comparable(name)}

    def _sure(self, name: BundleName, side: Mapping[BundleName, object]) -> bool:
        """Is it known whether the bundle is on this side?"""
        fleets = (self.before.fleet, self.after.fleet)
        if any(name in fleet.broken_bundles for fleet in fleets):
            return False
        return name in side or not any(fleet.lost_bundles for fleet in fleets)

    def _comparable(self, cluster: ClusterName) -> bool:
        """A cluster that leaves the fleet keeps what it runs, one that is not valid too; `left` names the former."""
        if cluster in self.before.fleet.broken_clusters | self.after.fleet.broken_clusters:
            return False
        return cluster in _known(self.after.fleet) and not (
            self.before.fleet.lost_clusters and cluster not in self.before.fleet.clusters
        )


def _known(fleet: Fleet) -> Mapping[ClusterName, object]:
    return {name: cluster for name, cluster in fleet.clusters.items() if cluster.decommission != "detach"}


def _missing(here: Fleet, there: Fleet) -> tuple[ClusterName, ...]:
    """The clusters that only `here` has; what cannot be read may be any of them."""
    if there.lost_clusters:
        return ()
    return tuple(sorted(_known(here).keys() - _known(there).keys() - there.broken_clusters))


def compared(root: Path, revisions: str) -> Comparison:
    """`A..B`, `A...B` (from where both parted), or `A`: from there to the working tree. Raises Failed."""
    three = "..." in revisions
    first, dots, second = revisions.partition("..." if three else "..")
    first = first or "HEAD"
    if not dots:
        return Comparison(opened(root, first), opened(root, ""))
    second = second or "HEAD"
    if three:
        first = _parting(root, first, second)
    return Comparison(opened(root, first), opened(root, second))


def opened(root: Path, name: str) -> Revision:
    """The revision of that name, "" for the working tree. Raises Failed."""
    tree, commit = tree_at(root, name)
    return Revision(name or WORKING_TREE, tree, commit=commit)


def tree_at(root: Path, name: str) -> tuple[sources.Tree, pygit2.Commit | None]:
    """The files of the fleet repo at a revision, and its commit; "" is the working tree. Raises Failed."""
    if not name:
        return sources.FolderTree(root), None
    repo = repository(root)
    commit = commit_of(repo, name)
    tree = Oid(str(commit.tree.id))
    if folder := folder_in(repo, root):
        try:
            tree = Oid(str(commit.tree[folder].id))
        except KeyError as error:
            raise Failed(f"{name} has no folder {folder!r}") from error
    try:
        return sources.CommitTree(repo, tree), commit
    except FlotillaError as error:
        raise Failed(str(error)) from error


def repository(root: Path) -> pygit2.Repository:
    """The Git repository that holds the checkout. Raises Failed."""
    # As in `sync`: libgit2 runs none of a repository's hooks and programs, so its owner is no danger.
    pygit2.settings.owner_validation = False
    found = pygit2.discover_repository(str(root.resolve()))
    if found is None:
        raise Failed(f"{root} is not in a Git repository, so it has no revisions (use --fleet DIR)")
    return pygit2.Repository(found)


def folder_in(repo: pygit2.Repository, root: Path) -> str:
    """The fleet repo's path inside its Git repository, "" when it is the whole of it."""
    if repo.is_bare:
        return ""
    path = root.resolve().relative_to(Path(repo.workdir).resolve()).as_posix()
    return "" if path == "." else path


def commit_of(repo: pygit2.Repository, name: str) -> pygit2.Commit:
    """The commit that a revision names. Raises Failed, with names that are near."""
    try:
        return repo.revparse_single(name).peel(pygit2.Commit)
    except (KeyError, ValueError, pygit2.GitError) as error:
        if repo.head_is_unborn:
            raise Failed("the repository has no commit yet: make one ('flotilla check' needs none)") from error
        known = [*repo.branches, *(ref.removeprefix("refs/tags/") for ref in repo.references if "/tags/" in ref)]
        shallow = " (a shallow clone: 'git fetch --unshallow' first)" if repo.is_shallow else ""
        hint = shallow or (" (no commit goes so far back)" if _BACK.search(name) else telling.near(name, known))
        raise Failed(f"revision {name!r} is not in the repository{hint}") from error


def _parting(root: Path, first: str, second: str) -> str:
    repo = repository(root)
    base = repo.merge_base(commit_of(repo, first).id, commit_of(repo, second).id)
    if base is None:
        raise Failed(f"{first} and {second} have no commit in common")
    return str(base)
