"""The clusters, bundles and rollouts that a request names. Who names one that is not there is told which was probably
meant. Next: whoever answers for it."""

from aiohttp import web

from hub.api import http
from hub.journal import StoredRollout
from hub.loop import Loop
from hub.repo.schema import nearest
from proto.errors import Transient
from proto.ids import BundleName, ClusterName


def clusters(loop: Loop) -> set[ClusterName]:
    """All that there are: in the fleet repo, valid or not, or with a slice."""
    fleet = loop.desired.fleet if loop.desired else None
    stated = {*fleet.clusters, *map(ClusterName, fleet.broken_clusters)} if fleet else set()
    return stated | loop.slices.keys()


def read_once(loop: Loop, thing: str) -> None:
    """Raises Transient while the hub has just started and does not know the fleet repo: nothing is missing yet."""
    if loop.desired is None:
        raise Transient(
            thing, "is not known: the fleet repo was not read yet", "ask again; 'flotilla status' says when"
        )


def cluster(loop: Loop, name: str) -> ClusterName:
    """The cluster of that name. Raises NotFound."""
    if name not in (known := clusters(loop)):
        read_once(loop, f"cluster {name[:80]}")
        remedy = nearest(name, known, else_="see 'flotilla clusters'")
        raise http.NotFound(f"cluster {name[:80]}", "is not in the fleet repo and has no slice", remedy)
    return ClusterName(name)


def bundle(loop: Loop, name: str) -> BundleName:
    """The bundle of that name: in the fleet repo, valid or not, or running somewhere. Raises NotFound."""
    if name not in (known := _bundles(loop)):
        read_once(loop, f"bundle {name[:80]}")
        remedy = nearest(name, known, else_="see 'flotilla bundles'")
        raise http.NotFound(f"bundle {name[:80]}", "is not in the fleet repo and runs nowhere", remedy)
    return BundleName(name)


def _bundles(loop: Loop) -> set[str]:
    fleet = loop.desired.fleet if loop.desired else None
    stated = {*fleet.bundles, *fleet.broken_bundles} if fleet else set()
    return stated | {name for row in loop.slices.values() for name in row.manifest.bundles}


def rollout(loop: Loop, name: str) -> StoredRollout:
    """The rollout of that name, under way or over. Raises NotFound."""
    row = loop.journal.rollout(name)
    if row is None:
        raise no_rollout(loop, name)
    return row


def no_rollout(loop: Loop, name: str) -> http.NotFound:
    """What is said of a rollout that never was: a bundle's name, or that of one with a number, has a newest one."""
    known = _bundles(loop)
    about = next((word for word in (name, name.rpartition("-")[0]) if word in known), "")
    if had := loop.journal.revisions(about) if about else []:
        remedy = f"the newest of bundle {about} is {had[0].rollout!r}"
    else:
        remedy = nearest(name, [*known, *loop.journal.rollout_ids()], else_="see 'flotilla rollouts'")
    return http.NotFound(f"rollout {name[:80]}", "does not exist", remedy)


def asked_for(loop: Loop, request: web.Request) -> None:
    """Of a list that turned out empty: raises NotFound when its query names what there is not, and so had to."""
    if name := request.query.get("cluster"):
        cluster(loop, name)
    if name := request.query.get("bundle"):
        bundle(loop, name)
    if name := request.query.get("rollout"):
        rollout(loop, name)
