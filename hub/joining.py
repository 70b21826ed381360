"""Finds out what the last completed revision of a bundle is on clusters that joined while another rolls out.

Planning says for whom it lacks that (`rollout.joiners`), and gets it as one input of the loop. It is made of

| from the revision that completed last                        | from the fleet repo as it is now                      |
|--------------------------------------------------------------|-------------------------------------------------------|
| the bundle, its sources and variants, and which clusters it  | the Cluster file: labels, variables, version; the     |
| is for; the fleet's variables and checks                     | rights of tenants                                     |

A source from outside is the one that was pinned then, or nothing is made of it. What was rendered before costs one
look-up, so a cluster that is like others gets their very bits. What cannot be had is refused with the reason, and the
cluster waits for the ordinary rollout; trouble of the hub's own is tried again. Next: `loop`.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from hub import requests as requesting
from hub import worker
from hub.desired import Desired
from hub.inputs import LastCompleted
from hub.journal import Journal, RevisionRow
from hub.loop import Loop
from hub.model import Cluster, Fleet
from hub.pins import Pins, Wanted
from hub.render import build
from hub.rendering import Rendering
from hub.renders import Notes, RenderRequest
from hub.repo import definitions, mounts, reading, sources, tenants
from hub.repo.mounts import Mount
from hub.slices.gitstore import GitStore
from hub.state import Base
from proto.errors import FlotillaError, InvalidInput, Transient
from proto.ids import BundleName, ClusterName, Oid

log = logging.getLogger("flotilla.hub")

LOOK_EVERY_S = 1.0
RETRY_S = 10.0

Bases = Mapping[BundleName, Base]


class Joining:
    """Beside the loop. `stored` has to be around what stores subtrees (`housekeeping`)."""

    def __init__(
        self,
        loop: Loop,
        *,
        mirror: Path,
        store: GitStore,
        journal: Journal,
        pins: Pins,
        stored: Callable[[Callable[[], Awaitable[Bases]]], Awaitable[Bases]],
    ) -> None:
        self._loop, self._mirror, self._store = loop, mirror, store
        self._journal, self._pins, self._stored = journal, pins, stored
        self._problem = ""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await anyio.sleep(RETRY_S if self._problem else LOOK_EVERY_S)
            try:
                await self.look()
            except FlotillaError as error:
                if str(error) != self._problem:
                    log.error("clusters that joined wait: %s", error)
                self._problem = str(error)
            except Exception:
                if not self._problem:
                    log.exception("clusters that joined wait, for a reason we did not expect")
                self._problem = "a reason we did not expect"
            else:
                self._problem = ""

    async def look(self) -> None:
        """Find out what planning asks for, and hand it to the loop. Raises what kept it from being found out."""
        asked, desired = self._loop.memory.joining.asked, self._loop.desired
        if asked and desired is not None:
            await self._loop.tell(LastCompleted(bases=await self._stored(lambda: self._found(asked, desired))))

    async def _found(self, asked: Mapping[BundleName, Collection[ClusterName]], desired: Desired) -> Bases:
        last = await anyio.to_thread.run_sync(self._journal.last_completed)
        running, found = self._loop.composition(), dict[BundleName, Base]()
        for name, names in asked.items():
            clusters = {one: desired.fleet.clusters[one] for one in names if one in desired.fleet.clusters}
            wanted = {
                one: {bundle: there[one] for bundle, there in desired.subtrees.items() if one in there}
                for one in clusters
            }
            beside = {
                one: [oid for bundle, oid in {**wanted[one], **running.get(one, {})}.items() if bundle != name]
                for one in clusters
            }
            found[name] = await base(
                name,
                last.get(name),
                clusters=clusters,
                fleet=desired.fleet,
                beside=beside,
                mirror=self._mirror,
                store=self._store,
                journal=self._journal,
                pins=self._pins,
            )
        return found


async def base(
    bundle: BundleName,
    row: RevisionRow | None,
    *,
    clusters: Mapping[ClusterName, Cluster],
    fleet: Fleet,
    beside: Mapping[ClusterName, Collection[Oid]],
    mirror: Path,
    store: GitStore,
    journal: Journal,
    pins: Pins,
) -> Base:
    """What the bundle as of the rollout `row` is on `clusters` of today's `fleet`. `beside` are the subtrees of other
    bundles there, which may define kinds that it uses. Raises what is the hub's own trouble."""
    made = Base(clusters=clusters, tenants=fleet.tenants)
    if row is None:
        return replace(made, refused=dict.fromkeys(clusters, "no rollout of it has completed yet"))
    made = replace(made, rollout=row.rollout, number=row.number, revision=row.revision)
    try:
        now = replace(fleet, clusters=clusters, bundles={})
        asked, refused, place = await _requests(bundle, row, now, mirror=mirror, pins=pins)
    except Transient:
        raise
    except FlotillaError as error:
        return replace(made, refused=dict.fromkeys(clusters, str(error)))
    work = Rendering(row.revision, mirror=mirror, store=store, journal=journal)
    places = {bundle: place} if place is not None else {}
    no = await _render(work, asked, places)
    notes = await anyio.to_thread.run_sync(journal.notes_of, {oid for oids in beside.values() for oid in oids})
    kept: dict[ClusterName, list[Notes]] = {
        cluster: [notes[oid] for oid in oids if oid in notes] for cluster, oids in beside.items()
    }
    asked = definitions.settled(asked, work.notes, kept=kept, renderer=build.RENDERER_VERSION)
    no |= await _render(work, [request for request in asked if request.key not in no], places)
    for request in asked:
        refused |= {cluster: no[request.key] for cluster in request.clusters if request.key in no}
    subtrees = {
        cluster: work.known[request.key][0]
        for request in asked
        if request.key in work.known
        for cluster in request.clusters
    }
    elsewhere = f"revision {row.revision:.12}, which completed last, is not for it"
    other = {cluster: elsewhere for cluster in clusters if cluster not in subtrees}
    return replace(made, subtrees=subtrees, refused={**other, **refused})


async def _requests(
    bundle: BundleName, row: RevisionRow, now: Fleet, *, mirror: Path, pins: Pins
) -> tuple[tuple[RenderRequest, ...], dict[ClusterName, str], Mount | None]:
    """What is to be rendered, for whom nothing is and why, and where its source from outside is."""
    what, sees = f"bundle {bundle} at {row.revision:.12}", (mirror,)
    then, outside, requests, refused = await worker.run(_read, mirror, row.revision, bundle, now, what=what, sees=sees)
    if outside is None:
        return requests, refused, None
    known = await pins.as_of(outside, row.made_s)
    if known is None:
        raise InvalidInput(what, "its source from outside is not known any more as it was then")
    pin, place = known
    trees = {then.bundles[bundle].folder: mounts.mounted_id(outside.folder, pin.tree, whole=outside.whole)}
    return await worker.run(requesting.of_fleet, then, trees, what=what, sees=sees), refused, place


async def _render(
    work: Rendering, requests: Collection[RenderRequest], places: Mapping[BundleName, Mount]
) -> dict[str, str]:
    """Why keys cannot be rendered. Raises what may pass."""
    await work.recall([request for request in requests if request.key not in work.known])
    refused = await work.render(requests, places=places)
    for _, error in refused:
        if isinstance(error, Transient):
            raise error
    return {request.key: str(error) for request, error in refused}


def _read(
    mirror: Path, commit: Oid, name: BundleName, now: Fleet
) -> tuple[Fleet, Wanted | None, tuple[RenderRequest, ...], dict[ClusterName, str]]:
    """In a worker process: the fleet of `commit` with that bundle alone and today's clusters, as far as its tenant may
    have them today; its source from outside, or what is to be rendered. Raises InvalidInput when it has no such
    bundle."""
    tree = sources.CommitTree(mirror, commit)
    fleet, trees = reading.read(tree)
    if name not in fleet.bundles:
        raise InvalidInput(f"bundle {name}", f"is not in revision {commit:.12}, which completed last, or not valid")
    bundle = tenants.assigned(replace(fleet.bundles[name], tenant=None), now.tenants)
    if bundle.tenant is None and now.require_tenant:
        raise InvalidInput(f"bundle {name}", "was in no tenant's folder, and fleet.yaml has requireTenant now")
    wrong = {one: next(tenants.problems(bundle, [cluster]), None) for one, cluster in now.clusters.items()}
    refused = {one: found[0] for one, found in wrong.items() if found is not None}
    allowed = {one: cluster for one, cluster in now.clusters.items() if one not in refused}
    then = replace(fleet, bundles={name: bundle}, clusters=allowed)
    outside = requesting.wanted(tree, then, trees).get(name)
    return then, outside, () if outside else requesting.of_fleet(then, trees), refused
