"""`flotilla explain`: where an object of a cluster comes from, as the fleet repo is on disk.

Names the bundle, the file (and line), what of the bundle matched the cluster, the files of values, the Cluster file,
and for each the last commit that touched it. Nothing of the object itself is printed. An object that the cluster does
not have is looked for on the others. Next: `origins`.
"""

import dataclasses
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pygit2

from hub.cli import offline, origins, progress, revisions, telling
from hub.cli.revisions import Revision
from hub.model import Cluster, Selector, Variant
from hub.render import build, patches
from hub.renders import RenderRequest
from hub.repo import addresses, targets
from proto.ids import ClusterName
from proto.objects import ObjectKey, blob_id


@click.command(
    epilog="""\b
Examples:
  flotilla explain Deployment/shop/web --cluster eu-1
  flotilla explain ConfigMap/web --cluster eu-1           # in whichever namespace
  flotilla explain Certificate.cert-manager.io/shop/tls --cluster eu-1 -o json""",
)
@click.argument("thing", metavar="OBJECT")
@click.option("--cluster", required=True, metavar="NAME", help="The cluster that has the object.")
@offline.form_option("text", "json")
@offline.json_option
@offline.fleet_option
def explain(root: Path, thing: str, cluster: str, form: str, as_json: bool) -> None:
    """Tell from which files and commits a cluster's object comes.

    OBJECT is Kind/namespace/name, or Kind/name for what has no namespace or is in whichever; the kind may have its
    group, as in Kind.group.
    """
    wanted = _Wanted.parsed(thing)
    revision = revisions.opened(root, "")
    found_cluster = _cluster(revision, cluster)
    here = [request for request in revision.requests if found_cluster.name in request.clusters]
    rendered = list(_rendered(revision, here))
    found = [(request, made, key) for request, made in rendered for key in made.origins if wanted.fits(key)]
    for finding in revision.failures:
        click.echo(telling.shown(finding), err=True)
    if not found:
        keys = [key for _, made in rendered for key in made.origins]
        raise click.ClickException(_nowhere(wanted, found_cluster.name, keys, revision))
    history = _History(root)
    explained = [_explained(revision, history, found_cluster, *one) for one in found]
    if as_json or form == "json":
        click.echo(json.dumps([dataclasses.asdict(one) for one in explained], indent=2))
        return
    for one in explained:
        click.secho(f"{one.object} on {one.cluster}", bold=True)
        for part in one.parts:
            click.echo(f"  {part.what:<9}{part.where}{f'  ({part.note})' if part.note else ''}")
            if part.touch is not None:
                touch = part.touch
                who = telling.printable(f"{touch.author}: {touch.subject}")
                earlier = "  (or an earlier one: this clone is shallow)" if touch.cut else ""
                click.secho(f"           {touch.commit[:12]} {touch.when} {who}{earlier}", dim=True)
            if part.uncommitted:
                click.secho("           not committed as it is here", fg="yellow")


commands: tuple[click.Command, ...] = (explain,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file or folder that an object comes from. `uncommitted`: it differs from the last commit."""

    what: str
    where: str
    note: str = ""
    touch: origins.Touch | None = None
    uncommitted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    object: str
    cluster: str
    bundle: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What was asked for; `group` and `namespace` None fit all."""

    text: str
    kind: str
    group: str | None
    namespace: str | None
    name: str

    @classmethod
    def parsed(cls, text: str) -> "_Wanted":
        kind, *rest = text.split("/")
        if len(rest) not in (1, 2) or not all((kind, *rest)):
            raise click.UsageError(f"OBJECT {text!r}: write Kind/namespace/name or Kind/name")
        kind, dot, group = kind.partition(".")
        return cls(
            text=text,
            kind=kind.lower(),
            group=group if dot else None,
            namespace=rest[0] if len(rest) == 2 else None,
            name=rest[-1],
        )

    def fits(self, key: ObjectKey) -> bool:
        return (
            (key.kind.lower(), key.name) == (self.kind, self.name)
            and self.group in (None, key.group)
            and self.namespace in (None, key.namespace)
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


def _cluster(revision: Revision, name: str) -> Cluster:
    fleet = revision.fleet
    if (cluster := fleet.clusters.get(ClusterName(name))) is not None:
        return cluster
    if name in fleet.broken_clusters:
        raise click.ClickException("\n".join(telling.shown(f) for f in fleet.findings if f.about == f"cluster {name}"))
    raise click.ClickException(f"cluster {name!r} is not in the fleet{telling.near(name, fleet.clusters)}")


def _rendered(revision: Revision, requests: Iterable[RenderRequest]) -> Iterator[tuple[RenderRequest, build.Rendered]]:
    requests = list(requests)
    for request in progress.tracked(requests, "rendering", total=len(requests)):
        if (made := revision.rendered(request)) is not None:
            yield request, made


def _nowhere(wanted: _Wanted, cluster: ClusterName, keys: list[ObjectKey], revision: Revision) -> str:
    """Why the cluster does not have it: who does, or what it has that is called nearly so."""
    lines = [f"{wanted.text} is not on cluster {cluster}"]
    elsewhere: dict[tuple[str, ObjectKey], set[ClusterName]] = {}
    for request, made in _rendered(revision, [r for r in revision.requests if cluster not in r.clusters]):
        for key in made.origins:
            if wanted.fits(key):
                elsewhere.setdefault((request.bundle.name, key), set()).update(request.clusters)
    for (bundle, key), clusters in sorted(elsewhere.items()):
        lines.append(f"bundle {bundle} makes {key} on {telling.some(clusters)}")
    if not elsewhere:
        names = {form.lower(): str(key) for key in keys for form in (str(key), f"{key.kind}/{key.name}")}
        lines[0] += telling.near(str(wanted).lower(), names, shown_as=names)
    return "\n".join(lines)


class _History:
    """The checkout's commits; it may have none."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._head: pygit2.Commit | None = None
        self._folder = ""
        try:
            repo = revisions.repository(root)
            self._head = revisions.commit_of(repo, "HEAD")
            self._folder = revisions.folder_in(repo, root)
        except revisions.Failed:
            pass

    def part(self, what: str, where: str, note: str = "") -> Part:
        """`where` is `path` or `path:line` inside the fleet repo."""
        path = re.sub(r"(:\d+)?( \(.*\))?$", "", where)
        if self._head is None:
            return Part(what=what, where=where, note=note)
        inside = posixpath.normpath(posixpath.join(self._folder, path))
        place = self._root / path
        # Of a folder its commits say enough.
        changed = place.is_file() and blob_id(place.read_bytes()) != origins.entry(self._head, inside)
        touch = origins.last_touch(self._head, inside)
        return Part(what=what, where=where, note=note, touch=touch, uncommitted=changed)


def _explained(
    revision: Revision,
    history: _History,
    cluster: Cluster,
    request: RenderRequest,
    made: build.Rendered,
    key: ObjectKey,
) -> Explained:
    bundle, inputs = request.bundle, request.inputs
    parts = [history.part("bundle", bundle.where or bundle.folder, bundle.name)]
    if (pin := revision.pins.get(bundle.name)) is not None and bundle.external is not None:
        note = f"{pin.revision}@{pin.digest}"
        parts.append(Part(what="source", where=addresses.of(bundle.external), note=note))
    origin = made.origins[key]
    if origin.endswith(" (built)"):
        files = origins.behind_kustomize(revision.tree, bundle.folder, inputs).get(key, ())
        parts += [history.part("file", file) for file in files]
        parts.append(history.part("built", origin.removesuffix(" (built)"), "by Kustomize"))
    elif origin.endswith(patches.RENAMED):
        parts.append(Part(what="patched", where=origin.removesuffix(patches.RENAMED), note="to another name or kind"))
    else:
        parts.append(history.part("file", origin))
        if "chart" in inputs and origin.startswith(posixpath.join(bundle.folder, inputs["chart"], "")):
            folder = posixpath.normpath(posixpath.join(bundle.folder, inputs["path"]))
            parts.append(history.part("overlay", folder, "over the chart"))
    for patch in inputs.get("patches") or ():
        target = ", ".join(f"{field}: {text}" for field, text in sorted(patch["target"].items()))
        parts.append(Part(what="patch", where=patch["where"], note=f"of {target or 'the object it names'}"))
    for number, variant in enumerate(bundle.variants, 1):
        if targets.matches(variant.when, cluster.labels):
            note = f"{number} of {len(bundle.variants)}, {_selector(variant.when)}: {_gives(variant)}"
            parts.append(Part(what="variant", where=bundle.where or bundle.folder, note=note))
    for file in (inputs.get("helm") or {}).get("valuesFiles") or ():
        parts.append(history.part("values", posixpath.normpath(posixpath.join(bundle.folder, file))))
    parts.append(history.part("cluster", cluster.where))
    return Explained(object=str(key), cluster=cluster.name, bundle=bundle.name, parts=tuple(parts))


def _selector(selector: Selector) -> str:
    terms = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    terms += [
        f"{one.key} {one.operator} {' or '.join(sorted(one.values))}".rstrip() for one in selector.match_expressions
    ]
    return ", ".join(terms) or "every cluster"


def _gives(variant: Variant) -> str:
    given: list[str] = []
    if variant.kustomize is not None:
        given.append(f"kustomize {variant.kustomize}")
    if variant.helm is not None:
        given += [f"values file {file}" for file in variant.helm.values_files]
        given += [f"values {', '.join(sorted(variant.helm.values))}"] if variant.helm.values else []
    if variant.patches:
        given.append(f"{len(variant.patches)} {'patch' if len(variant.patches) == 1 else 'patches'}")
    if variant.variables:
        given.append(f"variables {', '.join(sorted(variant.variables))}")
    return "; ".join(given) or "nothing"
