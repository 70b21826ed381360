"""`flotilla diff`: what two revisions of the fleet repo make of the objects of every cluster.

Renders both and prints what differs, object by object, as text, as JSON, or as Markdown for a review's comment. The
exit code says it too, as for `diff`: 0 nothing differs, 1 something does, 2 it cannot be told.
"""

import html
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hub.cli import changes, offline, progress, revisions, telling
from hub.cli.changes import FieldChange, ObjectChange, Shared

_SIGNS = {"created": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}
_MAX_VARIETIES = 3
"""How many different changes of one object are printed; ten thousand clusters may have one each."""
_MAX_MARKDOWN_BYTES = 60_000
"""GitHub takes 65,536 characters for a comment."""
_MAX_DETAIL_BYTES = 12_000
MAX_ROWS = 100


@click.command(
    epilog="""\b
Examples:
  flotilla diff                                  # what did I change since the last commit?
  flotilla diff main --cluster eu-1              # ... since main, for one cluster
  flotilla diff HEAD~1..HEAD --bundle shop
  flotilla diff origin/main...HEAD -o markdown > comment.md""",
)
@click.argument("revisions_", metavar="[REV | REV..REV]", default="HEAD")
@click.option("--cluster", default="", metavar="NAME", help="Only this cluster.")
@click.option("--bundle", default="", metavar="NAME", help="Only this bundle.")
@offline.form_option("text", "markdown", "json")
@offline.fleet_option
def diff(root: Path, revisions_: str, cluster: str, bundle: str, form: str) -> None:
    """Compare the objects that two revisions make for every cluster.

    One revision is compared with the working tree, A...B begins where the two parted. Values of Secrets are never
    shown. Exits with 0 when nothing differs, 1 when something does, 2 when that cannot be told.
    """
    comparison = revisions.compared(root, revisions_)
    check_names(comparison, cluster=cluster, bundle=bundle)
    gathered = changes.Gathered()
    with progress.noted("finding what may differ"):
        pairs = comparison.pairs(cluster=cluster, bundle=bundle)
    for pair in progress.tracked(pairs, "comparing", total=len(pairs)):
        if (files := comparison.rendered(pair)) is not None:
            gathered.add(changes.object_changes(pair.bundle, *files), [cluster] if cluster else pair.clusters)
    found = gathered.shared()
    joined = [name for name in comparison.joined if cluster in ("", name)]
    left = [name for name in comparison.left if cluster in ("", name)]
    title = f"{comparison.before} → {comparison.after}"
    if form == "json":
        click.echo(json.dumps(_as_json(comparison, found, joined, left), indent=2))
    elif form == "markdown":
        click.echo(markdown(title, found, joined=joined, left=left))
    else:
        for line in text(title, found, joined=joined, left=left):
            click.echo(line)
    errors = comparison.errors(cluster=cluster, bundle=bundle)
    for finding in errors:
        click.echo(telling.shown(finding), err=True)
    if errors or found or joined or left:
        sys.exit(2 if errors else 1)


commands: tuple[click.Command, ...] = (diff,)


def check_names(comparison: revisions.Comparison, *, cluster: str, bundle: str) -> None:
    """Raises Failed for a cluster or a bundle that neither side has."""
    fleets = (comparison.before.fleet, comparison.after.fleet)
    clusters = {str(name) for fleet in fleets for name in (*fleet.clusters, *fleet.broken_clusters)}
    bundles = {str(name) for fleet in fleets for name in (*fleet.bundles, *fleet.broken_bundles)}
    for what, name, known in (("cluster", cluster, clusters), ("bundle", bundle, bundles)):
        if name and name not in known:
            raise revisions.Failed(f"{what} {name!r} is not in the fleet{telling.near(name, known)}")


def _as_json(
    comparison: revisions.Comparison, found: Sequence[Shared], joined: Sequence[str], left: Sequence[str]
) -> dict[str, Any]:
    return {
        "from": _side(comparison.before),
        "to": _side(comparison.after),
        "equal": not (found or joined or left),
        "clusters": sorted({cluster for shared in found for cluster in shared.clusters}),
        "joined": list(joined),
        "left": list(left),
        "changes": [{**shared.change.to_json(), "clusters": list(shared.clusters)} for shared in found],
    }


def _side(revision: revisions.Revision) -> dict[str, str]:
    return {"revision": revision.name, "commit": str(revision.commit.id) if revision.commit else ""}


# --- text ---------------------------------------------------------------------------------------------------------


def text(title: str, found: Sequence[Shared], *, joined: Sequence[str], left: Sequence[str]) -> Iterator[str]:
    """Lines for a terminal."""
    if not (found or joined or left):
        yield f"nothing differs: {title}"
        return
    bundle = None
    for several in _by_object(found):
        change = several[0].change
        if change.bundle != bundle:
            bundle = change.bundle
            yield click.style(f"bundle {bundle}", bold=True)
        for shared in several[:_MAX_VARIETIES]:
            sign, colour = _SIGNS[shared.change.what]
            yield f"{click.style(f'{sign} {change.name}', fg=colour)}  {click.style(_on(shared.clusters), dim=True)}"
            yield from (f"    {_coloured(line)}" for line in detail(shared.change))
        if rest := several[_MAX_VARIETIES:]:
            yield f"    … and {_more(rest)}: see --cluster"
    yield from _comings(joined, left)
    yield _summary(found)


def _comings(joined: Sequence[str], left: Sequence[str]) -> Iterator[str]:
    if joined:
        yield f"new in the fleet: {telling.some(joined)}"
    if left:
        yield f"no longer in the fleet: {telling.some(left)}; what they run stays"


def _by_object(found: Iterable[Shared]) -> Iterator[list[Shared]]:
    """The changes of each bundle's object; they come in that order."""
    several: list[Shared] = []
    for shared in found:
        if several and (several[0].change.bundle, several[0].change.key) != (shared.change.bundle, shared.change.key):
            yield several
            several = []
        several.append(shared)
    if several:
        yield several


def detail(change: ObjectChange) -> Iterator[str]:
    """What changed in one object, as lines that begin with `+`, `-`, `@@` or something else."""
    if change.body is not None:
        sign = "+" if change.what == "created" else "-"
        yield from (f"{sign} {telling.printable(line)}" for line in offline.to_yaml(change.body).splitlines())
    for field in change.fields:
        yield from _field(field)


def _field(field: FieldChange) -> Iterator[str]:
    before, after = _lines(field.before), _lines(field.after)
    where = f"{telling.printable(field.path)}:"
    if field.before == field.after and changes.same(field.before, field.after):
        yield f"{where} {' '.join(after)} another value"  # a Secret's
    elif len(before) > 1 and len(after) > 1:
        yield where
        yield from (f"  {line}" if line[:1] not in "+-@" else line for line in changes.text_diff(before, after))
    elif len(before) > 1 or len(after) > 1:
        yield where
        yield from (f"- {line}" for line in before)
        yield from (f"+ {line}" for line in after)
    else:
        yield f"{where} {before[0] if before else '(none)'} → {after[0] if after else '(none)'}"


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str) and "\n" in value:
        return [telling.printable(line) for line in value.splitlines()]
    if isinstance(value, Mapping | list):
        return [telling.printable(line) for line in offline.yaml_of(value).splitlines()]
    return [telling.printable(json.dumps(value, ensure_ascii=False))]


def _coloured(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=colour) if colour else line


def _on(clusters: Sequence[str]) -> str:
    return f"on {telling.some(clusters)}"


def _more(rest: Sequence[Shared]) -> str:
    clusters = {cluster for shared in rest for cluster in shared.clusters}
    return f"{len(rest)} other changes of it on {telling.counted(len(clusters), 'clusters')}"


def _summary(found: Sequence[Shared]) -> str:
    clusters = {cluster for shared in found for cluster in shared.clusters}
    bundles = {shared.change.bundle for shared in found}
    counts = _counts(found)
    objects = ", ".join(f"{counts[what]} {what}" for what in _SIGNS)
    return (
        f"{telling.counted(len(clusters), 'clusters')}, {telling.counted(len(bundles), 'bundles')}; objects: {objects}"
    )


def _counts(found: Iterable[Shared]) -> Mapping[str, int]:
    """How many objects of bundles were created, changed, removed; one on many clusters counts once."""
    objects: dict[str, set[object]] = defaultdict(set)
    for shared in found:
        if shared.change.key is not None:
            objects[shared.change.what].add((shared.change.bundle, shared.change.key))
    return {what: len(objects[what]) for what in _SIGNS}


# --- Markdown -----------------------------------------------------------------------------------------------------


def markdown(title: str, found: Sequence[Shared], *, joined: Sequence[str], left: Sequence[str]) -> str:
    """A comment for a review: a table of the bundles, then every object folded, within what a comment may hold."""
    parts = [f"### Flotilla: {escaped(title)}", ""]
    if not (found or joined or left):
        return "\n".join([*parts, "Nothing differs on any cluster."])
    bundles: dict[str, list[Shared]] = defaultdict(list)
    for shared in found:
        bundles[shared.change.bundle].append(shared)
    if bundles:
        parts += ["| bundle | clusters | created | changed | removed |", "|---|---|---|---|---|"]
    for name, of_it in list(bundles.items())[:MAX_ROWS]:
        clusters = sorted({cluster for shared in of_it for cluster in shared.clusters})
        shown = f"{len(clusters)}: {', '.join(clusters[:5])}{', …' if len(clusters) > 5 else ''}"
        numbers = " | ".join(str(number) for number in _counts(of_it).values())
        parts.append(f"| {escaped(name)} | {escaped(shown)} | {numbers} |")
    if len(bundles) > MAX_ROWS:
        parts.append(f"| … and {len(bundles) - MAX_ROWS} more | | | | |")
    parts += ["", *(f"{escaped(line)}\n" for line in _comings(joined, left)), f"{_summary(found)}.", ""]
    used = sum(len(part.encode()) + 1 for part in parts)
    varieties = [several[:_MAX_VARIETIES] for several in _by_object(found)]
    shown_changes = [shared for several in varieties for shared in several]
    cut = len(found) - len(shown_changes)
    for number, shared in enumerate(shown_changes):
        block = _folded(shared)
        used += len(block.encode()) + 1
        if used > _MAX_MARKDOWN_BYTES - 200:
            cut += len(shown_changes) - number
            break
        parts.append(block)
    if cut:
        parts.append(f"**{cut} of {telling.counted(len(found), 'changes')} are not shown**: run `flotilla diff`.")
    return "\n".join(parts)


def _folded(shared: Shared) -> str:
    sign, _ = _SIGNS[shared.change.what]
    lines: list[str] = []
    size = 0
    every = list(detail(shared.change))
    for line in every:
        size += len(line.encode()) + 1
        if size > _MAX_DETAIL_BYTES:
            lines.append(f"… {telling.counted(len(every) - len(lines), 'lines')} more")
            break
        lines.append(line)
    longest = max((len(run) for line in lines for run in _runs_of_ticks(line)), default=0)
    fence = "`" * max(3, longest + 1)
    title = html.escape(f"{sign} {shared.change.name} {_on(shared.clusters)}")
    return "\n".join(
        ["<details>", f"<summary>{title}</summary>", "", f"{fence}diff", *lines, fence, "", "</details>", ""]
    )


def _runs_of_ticks(line: str) -> list[str]:
    return [run for run in "".join(c if c == "`" else " " for c in line).split() if run]


def escaped(cell: str) -> str:
    """Text as it may stand in a table or a list of Markdown."""
    return html.escape(cell).replace("|", "\\|").replace("`", "\\`").replace("\n", "<br>")
