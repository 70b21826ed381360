"""The cluster that a path names, if there is one. Next: whoever answers for it."""

from aiohttp import web

from hub.api import http
from hub.loop import Loop
from proto.ids import ClusterName


def cluster(loop: Loop, request: web.Request) -> ClusterName:
    """That of `{name}`: in the fleet repo, valid or not, or with a slice. Raises NotFound."""
    name, desired = ClusterName(request.match_info["name"]), loop.desired
    known = desired and (name in desired.fleet.clusters or name in desired.fleet.broken_clusters)
    if not known and name not in loop.slices:
        raise http.NotFound(f"cluster {name}", "is not in the fleet repo and has no slice", "see 'flotilla clusters'")
    return name
