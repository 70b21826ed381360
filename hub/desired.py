"""From a commit of the fleet repo to what every cluster should run: load, render what is new, refuse what clashes.

Rendering goes by content: a request whose key was rendered before costs one look-up, and what was said of it then is
kept with it, so that warnings are told as long as they hold. A bundle that uses custom kinds of other bundles is
rendered again with their definitions (`repo.definitions`). A bundle that does not render, or that claims an object of
another bundle, is `failed` with a finding that names file, cluster and cause; it keeps what it runs, and every other
bundle goes on. Everything rendered is in the store before this returns: a rollout's last wave gets the very bits that
its first proved. Heavy work runs in worker processes. Next: `waves` (what to roll out).
"""

import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.to_thread
import msgspec

from hub import requests as requesting
from hub import worker
from hub.journal import Journal
from hub.model import Finding, Fleet, Pin
from hub.pins import Pins
from hub.render import build
from hub.renders import Notes, RenderRequest
from hub.repo import definitions, findings, sources, targets
from hub.repo import fleet as fleet_loader
from hub.repo.mounts import Mount, Mounted
from hub.slices import compose, trees
from hub.slices.gitstore import GitStore
from hub.state import ABSENT
from proto.errors import FlotillaError, Transient
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey

log = logging.getLogger("flotilla.hub")

TOLD_EACH_S = 5.0
BATCH = 50
"""Requests of one bundle that one worker renders: they share its build."""
STORED_BYTES = 64 << 20
"""So much is stored together, as one pack in one transaction: three fsyncs for each request were most of a first
render's time, and thousands of packs slow down every look into the store. A hub that dies renders that much again."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """Requests of one bundle: what each key rendered to, or why it did not; `objects` are those of all subtrees."""

    made: Mapping[str, tuple[Oid, Notes]] = field(default_factory=dict)
    refused: Mapping[str, FlotillaError] = field(default_factory=dict)
    objects: tuple[tuple[str, bytes], ...] = ()
    started_s: float = 0.0
    ended_s: float = 0.0


class _Storing:
    """What was rendered, on its way into the store, and then, when its objects are there, into the journal."""

    def __init__(self, store: GitStore, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._objects: dict[tuple[str, bytes], None] = {}
        self._rows: list[tuple[str, str, str, str, Notes]] = []
        self._bytes = 0
        self._lock = anyio.Lock()

    async def add(self, made: _Rendered, bundle: BundleName, commit: Oid) -> None:
        """Take in what one batch rendered to. Raises as `flush`."""
        new = [item for item in made.objects if item not in self._objects]
        self._objects.update(dict.fromkeys(new))
        self._bytes += sum(len(data) for _, data in new)
        self._rows += [(key, bundle, subtree, commit, notes) for key, (subtree, notes) in made.made.items()]
        if self._bytes >= STORED_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Store what was taken in so far. Raises what the store and the journal raise; it is forgotten then."""
        async with self._lock:
            objects, self._objects = self._objects, {}
            rows, self._rows, self._bytes = self._rows, [], 0
            if rows:
                await anyio.to_thread.run_sync(self._store.write, tuple(objects))
                await anyio.to_thread.run_sync(self._journal.remember_renders, rows)


class _Progress:
    """Tells in the hub's log how far the renders of a commit are that take long."""

    def __init__(self, commit: Oid) -> None:
        self._commit = commit
        self._expected = self._done = 0
        self._told_s = time.monotonic()

    def expects(self, renders: int) -> None:
        self._expected += renders

    def took(self, renders: int) -> None:
        self._done += renders
        if (now := time.monotonic()) - self._told_s >= TOLD_EACH_S:
            self._told_s = now
            log.info("fleet repo at %.12s: %d of %d renders are done", self._commit, self._done, self._expected)


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
    known = await anyio.to_thread.run_sync(_known, journal, store, [request.key for request in requests])
    found = list(asked.findings)
    failed: set[BundleName] = {BundleName(name) for name in fleet.broken_bundles} | asked.failed
    spans: dict[BundleName, tuple[float, float]] = {}
    places: dict[BundleName, Mount] = {}
    troubles: list[FlotillaError] = []
    """What keeps the whole commit from being rendered."""
    wanting: list[FlotillaError] = []
    """What kept single bundles from it, and may pass: they must not take the others with them."""
    storing = _Storing(store, journal)
    progress = _Progress(commit)

    async def render(batch: Sequence[RenderRequest]) -> None:
        name = batch[0].bundle.name
        try:
            theirs = {oid for request in batch for oid in definitions.ids(request)}
            known_definitions = await anyio.to_thread.run_sync(_read_all, store, theirs) if theirs else {}
            place = places.get(name)
            sees = (mirror,) if place is None else (mirror, place.repo)
            made = await worker.run(
                _render, mirror, commit, batch, place, known_definitions, what=f"bundle {name}", sees=sees
            )
        except Transient as error:
            troubles.append(error)
            return
        except FlotillaError as error:
            if len(batch) > 1:  # one of them to blame, and must not take the others with it
                for request in batch:
                    await render([request])
                return
            made = _Rendered(refused={batch[0].key: error})
        known.update(made.made)
        progress.took(len(batch))
        await store_now(partial(storing.add, made, name, commit))
        for request in batch:
            if refusal := made.refused.get(request.key):
                failed.add(name)
                found.append(_not_rendered(request, refusal))
                wanting.extend([refusal] if isinstance(refusal, Transient) else [])
        if made.made:
            start, end = spans.get(name, (made.started_s, made.ended_s))
            spans[name] = (min(start, made.started_s), max(end, made.ended_s))

    async def store_now(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except FlotillaError as error:
            troubles.append(error)

    async def render_all(requests: Iterable[RenderRequest]) -> None:
        unknown = [request for request in requests if request.key not in known]
        for bundle in {request.bundle.name: request.bundle for request in unknown}.values():
            if bundle.name in asked.pins:
                try:
                    places[bundle.name] = await pins.mount(bundle.name, asked.pins[bundle.name])
                except FlotillaError as error:
                    failed.add(bundle.name)
                    found.append(requesting.unfetched(bundle, error))
        unknown = [request for request in unknown if request.bundle.name not in failed]
        progress.expects(len(unknown))
        async with anyio.create_task_group() as tasks:
            for name, group in itertools.groupby(unknown, key=lambda request: request.bundle.name):
                while batch := tuple(itertools.islice(group, BATCH)):
                    tasks.start_soon(render, batch, name=f"render {name}")
        await store_now(storing.flush)
        if troubles:  # the hub's, not the bundle's: the whole is tried again
            raise troubles[0]

    await render_all(requests)
    notes = {key: said for key, (_, said) in known.items()}
    kept = await anyio.to_thread.run_sync(_kept, journal, current, failed)
    settle = partial(definitions.settled, requests, notes, kept=kept, renderer=build.RENDERER_VERSION)
    settled = await anyio.to_thread.run_sync(settle)
    again = [request for request in settled if request.key not in notes and request.bundle.name not in failed]
    known.update(await anyio.to_thread.run_sync(_known, journal, store, [request.key for request in again]))
    await render_all(again)
    requests = settled
    for request in requests:
        if request.bundle.name not in failed and (said := known[request.key][1]).warnings:
            found += _warnings(request, said, fleet)
    subtrees: dict[BundleName, dict[ClusterName, Oid]] = {name: {} for name in fleet.bundles if name not in failed}
    for request in requests:
        if request.bundle.name in subtrees:
            subtrees[request.bundle.name].update(dict.fromkeys(request.clusters, known[request.key][0]))
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
        rendered_s=spans,
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


def _known(journal: Journal, store: GitStore, keys: list[str]) -> dict[str, tuple[Oid, Notes]]:
    """What was rendered before and is still in the store."""
    return {key: found for key, found in journal.renders(keys).items() if store.has(found[0])}


def _read_all(store: GitStore, oids: Iterable[Oid]) -> dict[Oid, bytes]:
    return {oid: store.read(oid) for oid in oids}


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


def _render(
    mirror: Path,
    commit: Oid,
    batch: Sequence[RenderRequest],
    place: Mount | None,
    known_definitions: Mapping[Oid, bytes],
) -> _Rendered:
    """In a worker process: requests of one bundle to the objects of their subtrees."""
    tree: sources.Tree = sources.CommitTree(mirror, commit)
    if place is not None:
        tree = Mounted(tree, {batch[0].bundle.folder: place})
    started_s = time.time()
    made: dict[str, tuple[Oid, Notes]] = {}
    refused: dict[str, FlotillaError] = {}
    objects: dict[Oid, tuple[str, bytes]] = {}
    for request in batch:
        bundle = request.bundle
        try:
            rendered = build.render_request(tree, bundle.folder, request.inputs, bundle.name, known_definitions)
        except FlotillaError as error:
            refused[request.key] = error
            continue
        subtree, new = trees.tree_of(rendered.blobs)
        made[request.key] = subtree, rendered.notes
        objects |= {oid: ("blob", rendered.files[path]) for path, oid in rendered.blobs.items() if oid not in objects}
        objects |= new
    ended_s = time.time()
    return _Rendered(made=made, refused=refused, objects=tuple(objects.values()), started_s=started_s, ended_s=ended_s)
