"""Renders requests of one commit in worker processes, and stores what came out, as objects and as rows of the journal.

A request whose key was rendered before costs one look-up. Raises what is the hub's own trouble, so that the whole is
tried again; what a request is refused for is told of it alone. Next: `desired` and `joining` make trees of clusters.
"""

import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from hub import worker
from hub.journal import Journal
from hub.render import build
from hub.renders import Notes, RenderRequest
from hub.repo import definitions, sources
from hub.repo.mounts import Mount, Mounted
from hub.slices import trees
from hub.slices.gitstore import GitStore
from proto.errors import FlotillaError, Transient
from proto.ids import BundleName, Oid

log = logging.getLogger("flotilla.hub")

TOLD_EACH_S = 5.0
BATCH = 50
"""Requests of one bundle that one worker renders: they share its build."""
STORED_BYTES = 64 << 20
"""So much is stored together, as one pack in one transaction: three fsyncs for each request were most of a first
render's time, and thousands of packs slow down every look into the store. A hub that dies renders that much again."""


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


class Rendering:
    """Of `commit` of the `mirror`. `known` is what each key of a request gave, and what was said of it; `spans` when
    each bundle that was rendered was worked on (start, end; Unix seconds)."""

    def __init__(self, commit: Oid, *, mirror: Path, store: GitStore, journal: Journal) -> None:
        self.known: dict[str, tuple[Oid, Notes]] = {}
        self.spans: dict[BundleName, tuple[float, float]] = {}
        self._commit, self._mirror, self._store, self._journal = commit, mirror, store, journal
        self._storing = _Storing(store, journal)
        self._progress = _Progress(commit)
        self._refused: list[tuple[RenderRequest, FlotillaError]] = []
        self._troubles: list[FlotillaError] = []

    @property
    def notes(self) -> dict[str, Notes]:
        """What was said of each key."""
        return {key: said for key, (_, said) in self.known.items()}

    async def recall(self, requests: Iterable[RenderRequest]) -> None:
        """Take what was rendered before and is still in the store."""
        keys = [request.key for request in requests]
        self.known.update(await anyio.to_thread.run_sync(_known, self._journal, self._store, keys))

    async def render(
        self, requests: Iterable[RenderRequest], *, places: Mapping[BundleName, Mount]
    ) -> list[tuple[RenderRequest, FlotillaError]]:
        """Render those that are not known, sorted by bundle; `places` are their sources from outside. Returns what is
        refused, and why. Raises what keeps the hub from rendering or storing."""
        unknown = [request for request in requests if request.key not in self.known]
        self._progress.expects(len(unknown))
        async with anyio.create_task_group() as tasks:
            for name, group in itertools.groupby(unknown, key=lambda request: request.bundle.name):
                while batch := tuple(itertools.islice(group, BATCH)):
                    tasks.start_soon(self._batch, batch, places.get(name), name=f"render {name}")
        try:
            await self._storing.flush()
        except FlotillaError as error:
            self._troubles.append(error)
        if self._troubles:  # the hub's, not the bundle's: the whole is tried again
            raise self._troubles[0]
        refused, self._refused = self._refused, []
        return refused

    async def _batch(self, batch: Sequence[RenderRequest], place: Mount | None) -> None:
        name = batch[0].bundle.name
        try:
            theirs = {oid for request in batch for oid in definitions.ids(request)}
            known_definitions = await anyio.to_thread.run_sync(_read_all, self._store, theirs) if theirs else {}
            sees = (self._mirror,) if place is None else (self._mirror, place.repo)
            made = await worker.run(
                _render, self._mirror, self._commit, batch, place, known_definitions, what=f"bundle {name}", sees=sees
            )
        except Transient as error:
            self._troubles.append(error)
            return
        except FlotillaError as error:
            if len(batch) > 1:  # one of them to blame, and must not take the others with it
                for request in batch:
                    await self._batch([request], place)
                return
            made = _Rendered(refused={batch[0].key: error})
        self.known.update(made.made)
        self._progress.took(len(batch))
        try:
            await self._storing.add(made, name, self._commit)
        except FlotillaError as error:
            self._troubles.append(error)
        self._refused += [(request, made.refused[request.key]) for request in batch if request.key in made.refused]
        if made.made:
            start, end = self.spans.get(name, (made.started_s, made.ended_s))
            self.spans[name] = (min(start, made.started_s), max(end, made.ended_s))


def _known(journal: Journal, store: GitStore, keys: list[str]) -> dict[str, tuple[Oid, Notes]]:
    """What was rendered before and is still in the store."""
    return {key: found for key, found in journal.renders(keys).items() if store.has(found[0])}


def _read_all(store: GitStore, oids: Iterable[Oid]) -> dict[Oid, bytes]:
    return {oid: store.read(oid) for oid in oids}


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
