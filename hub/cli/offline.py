"""`flotilla render` and `flotilla check`: what a checkout of the fleet repo would do, without hub, cluster or network.

Both read the files as they are on disk, committed or not (`render --at` those of a revision), and go the hub's own way:
`fleet` → `targets` → `render`. What is wrong with one bundle never hides the others; it goes to standard error and
makes the exit code 1.
"""

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from hub.cli import origins, outside, progress, revisions, telling
from hub.model import Finding, Fleet
from hub.render import build, checks
from hub.renders import Notes, RenderRequest
from hub.repo import definitions, findings, reading, targets
from proto.errors import FlotillaError, InvalidInput
from proto.ids import ClusterName, Oid
from proto.objects import ObjectKey, key_of
from proto.slices import BUNDLES, POLICY_FILE

F = TypeVar("F", bound=Callable[..., Any])


def fleet_option(command: F) -> F:
    """The options of every command that renders a checkout: where it is, and how its sources are reached."""
    return click.option(
        "--fleet",
        "root",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=".",
        show_default="this folder",
        help="A checkout of the fleet repo.",
    )(outside.options(command))


def form_option(*forms: str) -> Callable[[F], F]:
    """`form`: how a command prints what it found. `--format` is its older name."""
    choice = click.Choice(forms)
    return click.option("--output", "-o", "--format", "form", type=choice, default=forms[0], help="How to print it.")


json_option = click.option("--json", "as_json", is_flag=True, hidden=True, help="The older name of -o json.")


@click.command(
    epilog="""\b
Examples:
  flotilla render --cluster eu-1
  flotilla render --cluster eu-1 --bundle shop --show-secrets | kubectl diff -f -
  flotilla render --cluster eu-1 --at HEAD~1
  flotilla render --cluster eu-1 --output out/""",
)
@click.option("--cluster", required=True, metavar="NAME", help="The cluster to render for.")
@click.option("--bundle", "bundles", multiple=True, metavar="NAME", help="Only this bundle; may be given again.")
@click.option(
    "--output", "-o", default="yaml", show_default=True, metavar="yaml|json|DIR/", help="The form, or a new folder."
)
@click.option("--at", default="", metavar="REV", help="A revision, instead of the files as they are on disk.")
@click.option("--slice", "as_slice", is_flag=True, help="The exact files of the slice as JSON, with Flotilla's labels.")
@click.option("--show-secrets", is_flag=True, help="Print the values in Secrets too; a folder always gets them.")
@fleet_option
def render(
    root: Path, cluster: str, bundles: tuple[str, ...], output: str, at: str, as_slice: bool, show_secrets: bool
) -> None:
    """Print every object that a cluster would run."""
    folder = Path(output) if output not in ("yaml", "json") else None
    if folder is not None and (not output.endswith("/") or (folder.exists() and any(folder.iterdir()))):
        raise click.UsageError(f"--output {output}: give yaml, json, or a new or empty folder that ends in '/'")
    checkout = _Checkout(root, at=at)
    checkout.narrow(cluster)
    requests = checkout.requests()
    _check_bundles(bundles, checkout.fleet, requests, cluster=cluster)
    made = checkout.render_some(requests, bundles=bundles)
    _print(made, as_json=output == "json", folder=folder, as_slice=as_slice, show_secrets=show_secrets)
    found = [finding for finding in checkout.findings if not bundles or _concerns(finding, cluster, bundles)]
    for finding in found:
        click.echo(telling.shown(finding), err=True)
    if any(finding.severity == "error" for finding in found):
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  flotilla check
  flotilla check --fleet ../fleet -o json""",
)
@form_option("text", "json")
@json_option
@fleet_option
def check(root: Path, form: str, as_json: bool) -> None:
    """Validate a fleet repo, every render included.

    Reads all its files, renders every bundle for every cluster, and looks who would own which object. What is wrong is
    told with its place and what to do; then the exit code is 1.
    """
    checkout = _Checkout(root)
    checkout.render_all(checkout.requests())
    fleet, found = checkout.fleet, checkout.findings
    counts = {
        "clusters": len(fleet.clusters.keys() | fleet.broken_clusters),
        "bundles": len(fleet.bundles.keys() | fleet.broken_bundles),
        "errors": sum(finding.severity == "error" for finding in found),
        "warnings": sum(finding.severity == "warning" for finding in found),
    }
    if as_json or form == "json":
        click.echo(json.dumps({**counts, "findings": [dataclasses.asdict(finding) for finding in found]}, indent=2))
    else:
        for finding in found:
            click.echo(telling.shown(finding))
        click.echo(
            ", ".join(telling.counted(number, what) for what, number in counts.items() if number or what != "warnings")
        )
    if counts["errors"]:
        sys.exit(1)


commands: tuple[click.Command, ...] = (render, check)


_ROOTS = ("fleet.yaml", "clusters", "bundles", "rollouts")
"""What a fleet repo has some of."""


class _Checkout:
    """A fleet repo on disk, or at a revision of its Git repository, and what was found wrong with it so far."""

    def __init__(self, root: Path, *, at: str = "") -> None:
        not_one = f"{root} has no Cluster and no Bundle files: is it a fleet repo? (use --fleet DIR)"
        if not at and not any((root / name).exists() for name in _ROOTS):
            raise click.ClickException(not_one)  # before all that is below is read: it may be a home folder
        tree, _ = revisions.tree_at(root, at)
        self._owners: dict[ClusterName, dict[str, str]] = defaultdict(dict)
        self._clashes: dict[tuple[str, str, str], list[ClusterName]] = defaultdict(list)
        self._found: list[Finding] = []
        self._failed: dict[Finding, list[ClusterName]] = defaultdict(list)
        self._wheres: dict[str, str] = {}
        self._notes: dict[str, Notes] = {}
        """Of what rendered, by key; `_paths` are the files of its subtree."""
        self._paths: dict[str, tuple[str, ...]] = {}
        self._equal: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Most clusters have the same objects: their names are in memory once."""
        self._definitions: dict[Oid, bytes] = {}
        self._built: dict[tuple[str, str], origins.Built] = {}
        try:
            with progress.noted(f"reading {root}"):
                fleet, trees = reading.read(tree)
        except (InvalidInput, OSError) as error:
            raise click.ClickException(str(error)) from error
        there = outside.Outside(tree, fleet, trees)
        self.fleet, self._tree, self._trees = there.fleet, there.tree, there.trees
        self._found.extend(self.fleet.findings)
        if not (self.fleet.clusters or self.fleet.bundles or self._found):
            raise click.ClickException(not_one)

    @property
    def findings(self) -> list[Finding]:
        """Each once, by place; what failed alike on many clusters is one."""
        failed = {telling.told_of(finding, clusters) for finding, clusters in self._failed.items()}
        return sorted({*self._found, *failed}, key=telling.in_order)

    def narrow(self, cluster: str) -> None:
        """Look at one cluster only: findings of other clusters are dropped. Raises ClickException."""
        fleet = self.fleet
        name = ClusterName(cluster)
        self._found = [f for f in self._found if not f.about.startswith("cluster ") or f.about == f"cluster {cluster}"]
        if name not in fleet.clusters:
            if cluster in fleet.broken_clusters:
                raise click.ClickException("\n".join(telling.shown(finding) for finding in self.findings))
            raise click.ClickException(
                f"cluster {cluster!r} is not in the fleet{telling.near(cluster, fleet.clusters)}"
            )
        self.fleet = dataclasses.replace(fleet, clusters={name: fleet.clusters[name]})

    def requests(self) -> list[RenderRequest]:
        """What is to be rendered."""
        with progress.noted("finding what is to be rendered"):
            return list(targets.render_requests(self.fleet, self._trees.__getitem__, renderer=build.RENDERER_VERSION))

    def render_all(self, requests: Sequence[RenderRequest]) -> None:
        """Render everything, and keep what is wrong with it."""
        for request in self._settled(requests, requests):
            self._account(request)
        self._check_owners()

    def render_some(
        self, requests: Sequence[RenderRequest], *, bundles: Collection[str]
    ) -> Mapping[str, build.Rendered]:
        """Bundle → what one cluster gets of it, of these bundles, or of all when there are none."""
        asked = [request for request in requests if not bundles or request.bundle.name in bundles]
        made: dict[str, build.Rendered] = {}
        for request in self._settled(asked, requests, keep=made):
            self._account(request)
        self._check_owners()
        return made

    def _settled(
        self,
        asked: Sequence[RenderRequest],
        requests: Sequence[RenderRequest],
        *,
        keep: dict[str, build.Rendered] | None = None,
    ) -> Iterator[RenderRequest]:
        """Render what is `asked` for, with the definitions of custom kinds that others of the `requests` bring; gives
        what rendered. Other bundles are rendered only if somebody uses a kind that could be theirs."""
        self._render_each(asked, "rendering", keep)
        bundles = {request.bundle.name for request in asked}
        others = [request for request in requests if request.bundle.name not in bundles]
        if others and any(notes.uses for notes in self._notes.values()):
            self._render_each(others, "looking for definitions", None)
        settled = definitions.settled(asked, self._notes, kept={}, renderer=build.RENDERER_VERSION, beside=others)
        again = [request for request in settled if definitions.ids(request)]
        self._render_each(again, "rendering with definitions", keep)
        return (request for request in settled if request.key in self._notes)

    def _render_each(
        self, requests: Sequence[RenderRequest], label: str, keep: dict[str, build.Rendered] | None
    ) -> None:
        for request in progress.tracked(requests, label, total=len(requests)):
            bundle = request.bundle
            try:
                rendered = build.render_tree(self._tree, bundle.folder, request.inputs, bundle.name, self._definitions)
            except FlotillaError as error:
                self._failed[self._placed(findings.of_error(error, bundle), request)].extend(request.clusters)
                if keep is not None:
                    keep.pop(str(bundle.name), None)
                continue
            self._notes[request.key] = rendered.notes
            self._paths[request.key] = self._equal.setdefault(paths := tuple(rendered.files), paths)
            self._definitions |= definitions.found(rendered.notes, rendered.files)
            if keep is not None:
                keep[str(bundle.name)] = rendered

    def _account(self, request: RenderRequest) -> None:
        """Keep what is told of one that rendered, and whose its objects are."""
        bundle = request.bundle
        self._wheres[str(bundle.name)] = bundle.where
        for warning in self._notes[request.key].told(request.inputs.get("checks") or {}):
            self._found.append(self._placed(findings.of_warning(warning, bundle), request))
        for cluster in request.clusters:
            owners = self._owners[cluster]
            for path in self._paths[request.key]:
                other = owners.setdefault(path, bundle.name)
                if other != bundle.name and path != POLICY_FILE:
                    self._clashes[path, other, str(bundle.name)].append(cluster)

    def _placed(self, finding: Finding, request: RenderRequest) -> Finding:
        """Of an object that Kustomize built, at its own file, which another build tells."""
        if not finding.where.endswith(" (built)"):
            return finding
        folder = request.bundle.folder
        key = folder, str(request.inputs.get("path") or "")
        if key not in self._built:
            try:
                self._built[key] = origins.built_from(self._tree, folder, request.inputs)
            except (FlotillaError, OSError):
                self._built[key] = ()
        return origins.placed(finding, self._built[key], self._tree)

    def _check_owners(self) -> None:
        """Two bundles that would own one object on a cluster are refused by the hub, so they are an error here."""
        for (path, first, second), clusters in self._clashes.items():
            self._found.append(
                Finding(
                    where=self._wheres[second] or second,
                    message=f"{ObjectKey.from_path(path)} is in bundle {first} too, on {telling.some(clusters)}",
                    remedy="remove it from one of the two bundles",
                    about=f"bundle {second}",
                )
            )


def _check_bundles(bundles: tuple[str, ...], fleet: Fleet, requests: list[RenderRequest], *, cluster: str) -> None:
    known = {str(name) for name in fleet.bundles} | fleet.broken_bundles
    here = {str(request.bundle.name) for request in requests}
    for name in bundles:
        if name not in known:
            raise click.ClickException(f"bundle {name!r} is not in the fleet{telling.near(name, known)}")
        if name not in here and name not in fleet.broken_bundles:
            raise click.ClickException(f"bundle {name} does not target cluster {cluster}")


def _concerns(finding: Finding, cluster: str, bundles: tuple[str, ...]) -> bool:
    return finding.about in ("", f"cluster {cluster}", *(f"bundle {name}" for name in bundles))


# --- printing -----------------------------------------------------------------------------------------------------


def _print(
    made: Mapping[str, build.Rendered], *, as_json: bool, folder: Path | None, as_slice: bool, show_secrets: bool
) -> None:
    def shown(obj: Mapping[str, Any]) -> Mapping[str, Any]:
        return obj if show_secrets else checks.without_values(obj)

    if folder is not None:
        for path, data in _files(made, as_slice=as_slice):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    elif as_slice:
        files = {f"{BUNDLES}/{name}/{path}": data for name, one in made.items() for path, data in one.files.items()}
        click.echo(json.dumps({path: shown(json.loads(data)) for path, data in sorted(files.items())}, indent=2))
    elif as_json:
        items = [shown(obj) for rendered in made.values() for obj in build.readable(rendered)]
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
    else:
        for name, rendered in made.items():
            click.echo(f"# bundle {name}")
            for obj in build.readable(rendered):
                click.echo(f"---\n{to_yaml(shown(obj))}", nl=False)


def _files(made: Mapping[str, build.Rendered], *, as_slice: bool) -> Iterator[tuple[str, bytes]]:
    for name, rendered in made.items():
        if as_slice:
            yield from ((f"{BUNDLES}/{name}/{path}", data) for path, data in rendered.files.items())
            continue
        for obj in build.readable(rendered):
            yield f"{name}/{key_of(obj).path.removesuffix('.json')}.yaml", to_yaml(obj).encode()


class _Dumper(yaml.SafeDumper):
    """Writes texts so that every reader of YAML, 1.1 or 1.2, gets them back: quoted unless they are surely plain."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    plain = text[:1].isalpha() and text.isascii() and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
_Dumper.add_representer(str, _text)


def to_yaml(obj: Mapping[str, Any]) -> str:
    """One object as YAML, in the order that people know: apiVersion, kind, metadata, the rest."""
    first = {key: obj[key] for key in ("apiVersion", "kind", "metadata") if key in obj}
    return yaml_of({**first, **obj})


def yaml_of(value: Any) -> str:
    """Any JSON value as YAML."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)
