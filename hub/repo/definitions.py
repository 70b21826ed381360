"""Which definitions of custom kinds a bundle is rendered with: those of its own, and those that other bundles bring to
the same clusters.

A definition says whether its kind has a namespace, and what fits into its objects. So a bundle that uses a custom kind
is rendered a second time, with the definition's blob id among its inputs: clusters with other versions of the
definition have a render each, and a new version renders only the bundles that use its kind.

| the custom kind's definition is                        | the bundle is rendered                               |
|---------------------------------------------------------|------------------------------------------------------|
| in the bundle                                           | once                                                 |
| in another bundle that the cluster shall have           | again, with it                                       |
| in a bundle that does not render, and runs there        | again, with the one that runs                        |
| nowhere                                                 | once; the kind has namespaces, and is not looked at  |
| anywhere, and the bundle has `pinFirstRender`           | once: a second render would have other random values |

Pure. Next: `render` again, what has definitions now.
"""

from collections.abc import Iterable, Iterator, Mapping

from hub.renders import Notes, RenderRequest
from hub.repo import targets
from proto.ids import ClusterName, Oid
from proto.objects import blob_id

_FOLDER = "/CustomResourceDefinition."
FIELD = "definitions"
"""Of a request's inputs: kind → blob id."""


def settled(
    requests: Iterable[RenderRequest],
    notes: Mapping[str, Notes],
    *,
    kept: Mapping[ClusterName, Iterable[Notes]],
    renderer: str,
    beside: Iterable[RenderRequest] = (),
) -> tuple[RenderRequest, ...]:
    """Pure: the requests with the definitions that their clusters have for them, in their order. `notes` are those of
    the requests that rendered, by key; `kept` of what runs on a cluster and stays; requests `beside` these only bring
    definitions. One of several that clash counts: that of the first bundle."""
    requests = tuple(requests)
    wanted = {kind for request in requests for kind in _uses(request, notes)}
    here: dict[ClusterName, dict[str, Oid]] = {}
    if wanted:
        for request in sorted((*requests, *beside), key=lambda request: request.bundle.name):
            if (made := notes.get(request.key)) and made.defines.keys() & wanted:
                for cluster in request.clusters:
                    here[cluster] = {**made.defines, **here.get(cluster, {})}
        for cluster, running in kept.items():
            for made in running:
                here[cluster] = {**made.defines, **here.get(cluster, {})}
    if not here:
        return requests
    return tuple(one for request in requests for one in _completed(request, _uses(request, notes), here, renderer))


def found(notes: Notes, files: Mapping[str, bytes]) -> dict[Oid, bytes]:
    """Pure: the definitions among the files of a subtree, by blob id."""
    defined = set(notes.defines.values())
    if not defined:
        return {}
    every = {blob_id(data): data for path, data in files.items() if _FOLDER in path}
    return {oid: data for oid, data in every.items() if oid in defined}


def ids(request: RenderRequest) -> frozenset[Oid]:
    """Pure: the blobs of the definitions that a request is rendered with."""
    return frozenset((request.own.get(FIELD) or {}).values())


def _uses(request: RenderRequest, notes: Mapping[str, Notes]) -> tuple[str, ...]:
    made = notes.get(request.key)
    return () if made is None or request.bundle.pin_first_render else made.uses


def _completed(
    request: RenderRequest, uses: tuple[str, ...], here: Mapping[ClusterName, Mapping[str, Oid]], renderer: str
) -> Iterator[RenderRequest]:
    groups: dict[tuple[tuple[str, Oid], ...], list[ClusterName]] = {}
    for cluster in request.clusters if uses else ():
        there = here.get(cluster, {})
        groups.setdefault(tuple((kind, there[kind]) for kind in uses if kind in there), []).append(cluster)
    if not groups.keys() - {()}:
        yield request
        return
    for found, clusters in groups.items():
        one = request._replace(clusters=tuple(clusters))
        if found:
            one = one._replace(own={**request.own, FIELD: dict(found)})
            one = one._replace(key=targets.render_key(one.folder_tree, one.inputs, renderer=renderer))
        yield one
