"""From a commit of the fleet repo to what every cluster should run: load, render what is new, refuse what clashes.

Rendering goes by content: a request whose key was rendered before costs one look-up, and what was said of it then is
kept with it, so that warnings are told as long as they hold. A bundle that uses custom kinds of other bundles is
rendered again with their definitions (`repo.definitions`). A bundle that does not render, or that claims an object of
another bundle, is `failed` with a finding that names file, cluster and cause; it keeps what it runs, and every other
bundle goes on. Everything rendered is in the store before this returns: a rollout's last wave gets the very bits that
its first proved. Heavy work runs in worker processes. Next: `waves` (what to roll out).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.to_thread
import msgspec

from hub import requests as requesting
from hub.journal import Journal
from hub.model import Finding, Fleet, Pin
from hub.pins import Pins
from hub.render import build
from hub.rendering import Rendering
from hub.renders import Notes, RenderRequest
from hub.repo import definitions, findings, targets
from hub.repo import fleet as fleet_loader
from hub.repo.mounts import Mount
from hub.slices import compose
from hub.slices.gitstore import GitStore
from hub.state import ABSENT
from proto.errors import FlotillaError, Transient
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey

log = logging.getLogger("flotilla.hub")

Subtrees = Mapping[BundleName, Mapping[ClusterName, Oid]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What one commit wants. `subtrees` has every bundle that rendered; `failed` those that keep what they run;
    `pins` what the sources from outside are; `rendered_s` when each newly rendered bundle was worked on (start, end;
    Unix seconds)."""

    commit: Oid
    fleet: Fleet
    subtrees: Subtrees
    failed: frozenset[BundleName]
    findings: tuple[Finding, ...]
    pins: Mapping[BundleName, Pin] = field(default_factory=dict)
    author: str = ""
    """Of the commit, as far as it is known, and its first line."""
    subject: str = ""
    rendered_s: Mapping[BundleName, tuple[float, float]] = field(default_factory=dict)
    unfinished: bool = False
    """A bundle failed for want of something on this machine, as room on its disk: the next look tries it again."""


async def desired(
    commit: Oid,
    *,
    mirror: Path,
    store: GitStore,
    journal: Journal,
    pins: Pins,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    last: Desired | None = None,
) -> Desired:
    """Load and render `commit` of the `mirror`. `current` is each cluster's decided composition, `last` what another
    commit wanted, which this one mostly changes little of.

    Raises Transient or Permanent only when the commit cannot be read at all; what is wrong inside it is in `findings`.
    """
    if last is not None and await _holds(last, commit, mirror=mirror, store=store):
        return replace(last, commit=commit, author="", subject="", rendered_s={})
    asked = await requesting.made(commit, mirror=mirror, known=pins)
    fleet, requests = asked.fleet, asked.requests
    work = Rendering(commit, mirror=mirror, store=store, journal=journal)
    await work.recall(requests)
    found = list(asked.findings)
    failed: set[BundleName] = {BundleName(name) for name in fleet.broken_bundles} | asked.failed
    places: dict[BundleName, Mount] = {}
    wanting: list[FlotillaError] = []
    """What kept single bundles from being rendered, and may pass: they must not take the others with them."""

    async def render_all(requests: Iterable[RenderRequest]) -> None:
        unknown = [request for request in requests if request.key not in work.known]
        for bundle in {request.bundle.name: request.bundle for request in unknown}.values():
            if bundle.name in asked.pins:
                try:
                    places[bundle.name] = await pins.mount(bundle.name, asked.pins[bundle.name])
                except FlotillaError as error:
                    failed.add(bundle.name)
                    found.append(requesting.unfetched(bundle, error))
        refused = await work.render([r for r in unknown if r.bundle.name not in failed], places=places)
        failed.update(request.bundle.name for request, _ in refused)
        wanting.extend(error for _, error in refused if isinstance(error, Transient))
        found.extend(_not_rendered(request, error) for request, error in refused)

    await render_all(requests)
    notes = work.notes
    kept = await anyio.to_thread.run_sync(_kept, journal, current, failed)
    settle = partial(definitions.settled, requests, notes, kept=kept, renderer=build.RENDERER_VERSION)
    settled = await anyio.to_thread.run_sync(settle)
    again = [request for request in settled if request.key not in notes and request.bundle.name not in failed]
    await work.recall(again)
    await render_all(again)
    requests = settled
    for request in requests:
        if request.bundle.name not in failed and (said := work.known[request.key][1]).warnings:
            found += _warnings(request, said, fleet)
    subtrees: dict[BundleName, dict[ClusterName, Oid]] = {name: {} for name in fleet.bundles if name not in failed}
    for request in requests:
        if request.bundle.name in subtrees:
            subtrees[request.bundle.name].update(dict.fromkeys(request.clusters, work.known[request.key][0]))
    every = {oid for wanted in subtrees.values() for oid in wanted.values()}
    every |= {oid for running in current.values() for oid in running.values()}
    owned = await anyio.to_thread.run_sync(lambda: {oid: store.keys(oid) for oid in every})
    clashing = clashes(
        subtrees,
        current=current,
        gone=gone(fleet, current),
        renamed=fleet.renamed,
        keys=owned.__getitem__,
        where=_where(fleet),
    )
    return Desired(
        commit=commit,
        fleet=fleet,
        subtrees={name: value for name, value in subtrees.items() if name not in clashing},
        failed=frozenset(failed | clashing.keys()),
        findings=fleet_loader.bounded((*dict.fromkeys((*found, *clashing.values())),)),  # many clusters say the same
        pins=asked.pins,
        rendered_s=work.spans,
        unfinished=bool(wanting),
    )


async def _holds(last: Desired, commit: Oid, *, mirror: Path, store: GitStore) -> bool:
    """Whether `commit` wants the very same. Only where no bundle failed and none comes from outside: what runs in the
    clusters counts for bundles that keep it, and a source may be another by now."""
    if last.failed or last.pins or last.fleet.lost_bundles:
        return False
    if not await requesting.unchanged(commit, since=last.commit, fleet=last.fleet, mirror=mirror):
        return False
    every = {oid for wanted in last.subtrees.values() for oid in wanted.values()}
    return await anyio.to_thread.run_sync(lambda: all(store.has(oid) for oid in every))


def gone(fleet: Fleet, current: Mapping[ClusterName, Mapping[BundleName, Oid]]) -> frozenset[BundleName]:
    """Pure: the bundles that run and that the fleet has no more, for sure."""
    running = {name for bundles in current.values() for name in bundles}
    return frozenset() if fleet.lost_bundles else frozenset(running - fleet.bundles.keys() - fleet.broken_bundles)


def clashes(
    subtrees: Subtrees,
    *,
    current: Mapping[ClusterName, Mapping[BundleName, Oid]],
    gone: Collection[BundleName] = (),
    renamed: Mapping[BundleName, BundleName] = MappingProxyType({}),
    keys: Callable[[Oid], frozenset[ObjectKey]],
    where: Callable[[str], str],
) -> dict[BundleName, Finding]:
    """Pure: the bundles that may not move because they would own an object that another bundle owns.

    The bundle that owns the object on the cluster now keeps it; between two newcomers the name that sorts first wins.
    A bundle that is refused keeps its current subtree, which can only refuse more: repeat until nothing changes.
    What is `gone` from the fleet lets go of its objects in the very commit that gives them to another
    (`rollout.exchange`), but under a new name (`renamed`: old → new) only together with the new one.
    """
    refused: dict[BundleName, Finding] = {}
    compositions: dict[tuple[tuple[BundleName, Oid], ...], ClusterName] = {}
    while True:
        compositions.clear()
        leaving = {b for b in gone if b not in renamed or (renamed[b] in subtrees and renamed[b] not in refused)}
        staying = {c: {b: oid for b, oid in now.items() if b not in leaving} for c, now in current.items()}
        for cluster in sorted({c for by_cluster in subtrees.values() for c in by_cluster}):
            compositions.setdefault(_composition(cluster, subtrees, staying.get(cluster, {}), refused), cluster)
        found: dict[BundleName, Finding] = {}
        for composition, cluster in compositions.items():
            if compose.disjoint(tuple(keys(oid) for _, oid in composition)):
                continue
            for loser, finding in _clashes_on(cluster, composition, current.get(cluster, {}), keys, where):
                if loser in subtrees and loser not in refused:
                    found.setdefault(loser, finding)
        if not found:
            return refused
        refused |= found


def _composition(
    cluster: ClusterName, subtrees: Subtrees, now: Mapping[BundleName, Oid], refused: Mapping[BundleName, Finding]
) -> tuple[tuple[BundleName, Oid], ...]:
    wanted = {name: oids[cluster] for name, oids in subtrees.items() if cluster in oids and name not in refused}
    kept = {name: oid for name, oid in now.items() if name not in subtrees or name in refused}
    return tuple(sorted({**kept, **wanted}.items()))


def _clashes_on(
    cluster: ClusterName,
    composition: Iterable[tuple[BundleName, Oid]],
    now: Mapping[BundleName, Oid],
    keys: Callable[[Oid], frozenset[ObjectKey]],
    where: Callable[[str], str],
) -> Iterable[tuple[BundleName, Finding]]:
    owner: dict[ObjectKey, BundleName] = {}
    for name, oid in composition:
        for key in sorted(keys(oid)):
            other = owner.setdefault(key, name)
            if other == name:
                continue
            loser, winner = (
                (name, other) if _has(now, name, key, keys) <= _has(now, other, key, keys) else (other, name)
            )
            owner[key] = winner
            yield (
                loser,
                Finding(
                    where=where(loser),
                    message=f"bundle {loser}: {key} belongs to bundle {winner} already (cluster {cluster})",
                    remedy=f"remove it from one of {where(loser)} and {where(winner)}; {loser} keeps what it runs",
                    about=f"bundle {loser}",
                ),
            )


def _has(
    now: Mapping[BundleName, Oid], name: BundleName, key: ObjectKey, keys: Callable[[Oid], frozenset[ObjectKey]]
) -> bool:
    oid = now.get(name, ABSENT)
    return bool(oid) and key in keys(oid)


def _kept(
    journal: Journal, current: Mapping[ClusterName, Mapping[BundleName, Oid]], failed: Collection[BundleName]
) -> dict[ClusterName, list[Notes]]:
    """What was said of the subtrees that stay on each cluster, since their bundles do not render."""
    staying = {c: [oid for name, oid in sorted(now.items()) if name in failed] for c, now in current.items()}
    notes = journal.notes_of({oid for oids in staying.values() for oid in oids})
    return {cluster: [notes[oid] for oid in oids if oid in notes] for cluster, oids in staying.items() if oids}


def _warnings(request: RenderRequest, notes: Notes, fleet: Fleet) -> Iterator[Finding]:
    """What holds of a request that rendered, now or before."""
    bundle = request.bundle
    for text in notes.told(msgspec.to_builtins(targets.checks_for(bundle, fleet))):
        yield findings.of_warning(text, bundle)


def _where(fleet: Fleet) -> Callable[[str], str]:
    return lambda name: bundle.where if (bundle := fleet.bundles.get(BundleName(name))) else f"bundle {name}"


def _not_rendered(request: RenderRequest, error: FlotillaError) -> Finding:
    some = ", ".join(request.clusters[:3]) + (
        f" and {len(request.clusters) - 3} more" if len(request.clusters) > 3 else ""
    )
    found = findings.of_error(error, request.bundle)
    return replace(
        found,
        message=f"bundle {request.bundle.name} does not render for {some}: {found.message}",
        remedy=found.remedy or "commit a fix; what runs keeps running",
    )
