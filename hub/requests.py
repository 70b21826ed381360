"""From a commit of the fleet repo to what is to be rendered of it, sources from outside pinned.

The files are read in a worker process that sees the mirror alone; `pins` says what each source from outside is. A
bundle whose source nobody knows keeps what it runs, with a finding; the others go on. Next: `desired` renders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hub import pins, worker
from hub.external import own
from hub.model import Bundle, Finding, Fleet, Pin
from hub.pins import Pins, Wanted
from hub.render import build
from hub.renders import RenderRequest
from hub.repo import mounts, places, reading, sources, targets
from proto.errors import FlotillaError
from proto.ids import BundleName, Oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """`requests` are sorted by bundle; `failed` have none of theirs."""

    fleet: Fleet
    requests: tuple[RenderRequest, ...]
    pins: Mapping[BundleName, Pin]
    failed: frozenset[BundleName]
    findings: tuple[Finding, ...]


async def made(commit: Oid, *, mirror: Path, known: Pins) -> Requests:
    """Of `commit` in the `mirror`. Raises Transient or Permanent when it cannot be read at all."""
    what = f"fleet repo at {commit:.12}"
    fleet, requests, outside = await worker.run(_read, mirror, commit, what=what, sees=(mirror,))
    resolved = await known.resolve(outside, fleet=(mirror, commit), kept=fleet.broken_bundles, lost=fleet.lost_bundles)
    if resolved.pins:
        there = replace(fleet, bundles={name: fleet.bundles[name] for name in resolved.pins})
        trees = {
            fleet.bundles[one.bundle].folder: mounts.mounted_id(one.folder, pin.tree, whole=one.whole)
            for one in outside
            if (pin := resolved.pins.get(one.bundle)) is not None
        }
        more = await worker.run(of_fleet, there, trees, what=what, sees=(mirror,))
        requests = tuple(sorted((*requests, *more), key=lambda request: request.bundle.name))
    findings = [unfetched(fleet.bundles[name], error) for name, error in resolved.failed.items()]
    for name, error in resolved.late.items():
        pin = resolved.pins[name]
        message = f"bundle {name} stays at {pin.revision} ({pin.digest:.23}): {error.thing}: {error.cause}"
        findings.append(replace(unfetched(fleet.bundles[name], error), message=message, severity="warning"))
    return Requests(
        fleet=fleet,
        requests=requests,
        pins=resolved.pins,
        failed=frozenset(resolved.failed),
        findings=(*fleet.findings, *findings),
    )


async def unchanged(commit: Oid, *, since: Oid, fleet: Fleet, mirror: Path) -> bool:
    """Whether nothing differs in `commit` that was read of `since`, which has the `fleet`; False also when nobody can
    tell. What comes from outside is not looked at."""
    folders = (*(bundle.folder for bundle in fleet.bundles.values()), *(tenant.folder for tenant in fleet.tenants))
    roots = places.ROOTS | {folder.split("/")[0] for folder in folders}
    try:
        return await worker.run(_same, mirror, since, commit, roots, what=f"fleet repo at {commit:.12}", sees=(mirror,))
    except FlotillaError:
        return False


def unfetched(bundle: Bundle, error: FlotillaError) -> Finding:
    """Pure: what to say of a bundle whose source cannot be had."""
    return Finding(
        where=bundle.where,
        message=f"bundle {bundle.name} has no source: {error.thing}: {error.cause}",
        remedy=error.remedy or "it is tried again; what runs keeps running",
        about=f"bundle {bundle.name}",
    )


def _same(mirror: Path, before: Oid, after: Oid, roots: frozenset[str]) -> bool:
    """In a worker process."""
    one, other = sources.CommitTree(mirror, before), sources.CommitTree(mirror, after)
    return all(one.root(name) == other.root(name) for name in roots)


def _read(mirror: Path, commit: Oid) -> tuple[Fleet, tuple[RenderRequest, ...], tuple[Wanted, ...]]:
    """In a worker process: the fleet of a commit, what is to be rendered of it, and what is to be pinned first."""
    tree = sources.CommitTree(mirror, commit)
    fleet, trees = reading.read(tree)
    outside = wanted(tree, fleet, trees)
    here = replace(fleet, bundles={name: one for name, one in fleet.bundles.items() if name not in outside})
    return fleet, of_fleet(here, trees), tuple(outside.values())


def wanted(tree: sources.Tree, fleet: Fleet, trees: Mapping[str, Oid]) -> dict[BundleName, Wanted]:
    """What is to be pinned, by bundle: sources from outside, and charts of the fleet repo that lack others."""
    found: dict[BundleName, Wanted] = {}
    for name, bundle in fleet.bundles.items():
        lacks = bundle.external is None and own.needs(tree, bundle.folder, bundle.source)
        if (one := pins.wanted(bundle, trees[bundle.folder], lacks_charts=lacks)) is not None:
            found[name] = one
    return found


def of_fleet(fleet: Fleet, trees: Mapping[str, Oid]) -> tuple[RenderRequest, ...]:
    """Pure: all that is to be rendered of a fleet; `trees` are the tree ids of its bundles' folders."""
    return targets.render_requests(fleet, trees.__getitem__, renderer=build.RENDERER_VERSION)
