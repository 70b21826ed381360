"""ApplySet parents: one cluster-scoped AppliedBundle per bundle, which tells kubectl and people where its members are.

The rules are those of kubectl (KEP-3659, k8s.io/kubectl pkg/cmd/apply/applyset.go): the parent names every kind and
namespace that a member is or may be in, so it is widened before a new kind is applied and narrowed after the prune. It
also keeps how the bundle is to be pruned, for when the slice does not say so any more. What parents say is known from a
watch, so that one is written only when it would change, also after a restart, and comes back when somebody deletes it.

Assumes the right to read and write CustomResourceDefinitions and AppliedBundles. Without it there are no parents, which
is a problem that is reported, and nothing else stops. `plan` says when to write; `reconcile` calls.
"""

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import anyio

from agent.apply.plan import Membership, parent_key
from agent.kube.api_status import NotFound
from agent.model import ClusterApi, WatchEvent
from agent.owner import conditions, directives
from agent.owner.directives import Asked
from agent.owner.statuses import Live
from proto.errors import FlotillaError, Permanent, Transient
from proto.objects import ObjectKey, canonical
from proto.slices import PARENT_API_VERSION, PARENT_GROUP, PARENT_ID_LABEL, PARENT_KIND, applyset_id

TOOLING_ANNOTATION = "applyset.kubernetes.io/tooling"
KINDS_ANNOTATION = "applyset.kubernetes.io/contains-group-kinds"
NAMESPACES_ANNOTATION = "applyset.kubernetes.io/additional-namespaces"
PRUNE_ANNOTATION = "flotilla.dev/prune"
"""On a parent: `enabled`, `disabled` or `destructive`, for the day when the slice does not have the bundle any more."""
TOOLING = "flotilla/v1"
ACCOUNT_ANNOTATION = "flotilla.dev/service-account"
"""On a parent: whom the agent acts as for the bundle, `namespace/name`, for that day, too."""
CLUSTER_ANNOTATION = "flotilla.dev/cluster"
"""On a parent: the name of the cluster whose agent wrote it, so that two installations in one cluster never fight."""
LOOKS = 10
VERSION_ANNOTATION = "flotilla.dev/definition"
"""On our CRD: a hash of the definition, so that one GET tells whether it is this build's."""

DEFINITION: Mapping[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": f"appliedbundles.{PARENT_GROUP}",
        "labels": {"applyset.kubernetes.io/is-parent-type": "true"},
    },
    "spec": {
        "group": PARENT_GROUP,
        "scope": "Cluster",
        "names": {
            "kind": PARENT_KIND,
            "listKind": f"{PARENT_KIND}List",
            "plural": "appliedbundles",
            "singular": "appliedbundle",
            "categories": ["flotilla"],
        },
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "description": "A bundle that the Flotilla agent applies to this cluster; an ApplySet parent.",
                        "properties": {"status": conditions.SCHEMA},
                    }
                },
                "subresources": {"status": {}},
                "additionalPrinterColumns": list(conditions.COLUMNS),
            }
        ],
    },
}
_DEFINITION_KEY = ObjectKey(
    group="apiextensions.k8s.io",
    kind="CustomResourceDefinition",
    namespace="",
    name=f"appliedbundles.{PARENT_GROUP}",
)


_PRUNE = {(True, False): "enabled", (False, False): "disabled", (True, True): "destructive", (False, True): "disabled"}


def body(bundle: str, members: Membership, *, cluster: str = "") -> bytes:
    """Pure: the manifest of a bundle's parent, written by the agent of this cluster ("": that is not said)."""
    return canonical(
        {
            "apiVersion": PARENT_API_VERSION,
            "kind": PARENT_KIND,
            "metadata": {
                "name": bundle,
                "labels": {PARENT_ID_LABEL: applyset_id(bundle)},
                "annotations": {
                    TOOLING_ANNOTATION: TOOLING,
                    KINDS_ANNOTATION: ",".join(sorted(members.kinds)),
                    NAMESPACES_ANNOTATION: ",".join(sorted(members.namespaces)),
                    PRUNE_ANNOTATION: _PRUNE[members.prune, members.destructive_prune],
                    **({CLUSTER_ANNOTATION: cluster} if cluster else {}),
                    **({ACCOUNT_ANNOTATION: members.service_account} if members.service_account else {}),
                },
            },
        }
    )


def read(obj: Mapping[str, Any]) -> Membership | None:
    """Pure: what a live parent names; None for one that is not as we write them, which is then to be written."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    right_id = (metadata.get("labels") or {}).get(PARENT_ID_LABEL) == applyset_id(metadata["name"])
    if not right_id or annotations.get(TOOLING_ANNOTATION) != TOOLING:
        return None
    return Membership(
        kinds=frozenset(filter(None, annotations.get(KINDS_ANNOTATION, "").split(","))),
        namespaces=frozenset(filter(None, annotations.get(NAMESPACES_ANNOTATION, "").split(","))),
        prune=annotations.get(PRUNE_ANNOTATION) in ("enabled", "destructive"),
        destructive_prune=annotations.get(PRUNE_ANNOTATION) == "destructive",
        service_account=annotations.get(ACCOUNT_ANNOTATION, ""),
    )


class Parents:
    """The parents of this cluster. By bundle: `named` is what each is known to name, `asked` what people ask by its
    annotations, `live` what else is known of it, `foreign` the other cluster's name by whose agent it was written."""

    def __init__(self, api: ClusterApi, *, cluster: str = "") -> None:
        self._api = api
        self._cluster = cluster
        self._versions: dict[str, int] = {}
        self._missing: set[str] = set()
        """Since the watch began anew: known from before, and not among its initial events so far."""
        self.named: dict[str, Membership] = {}
        self.asked: dict[str, Asked] = {}
        self.live: dict[str, Live] = {}
        self.foreign: dict[str, str] = {}
        self.known = anyio.Event()
        """Set when all parents are known, or there can be none."""

    async def run(
        self,
        *,
        ready: Callable[[], Awaitable[None]],
        changed: Callable[[str], None],
        problem: Callable[[str, str], None],
        delays: Callable[[], Iterator[float]],
    ) -> None:
        """Serve and watch AppliedBundles until cancelled. Where that is refused, the agent goes on without them.

        `ready` is awaited before anything is written; `changed` gets the bundle ("": any) whose parent is another now.
        """
        for delay in delays():
            try:
                await ready()
                await self.install(delays)
                await self._follow(changed=changed, problem=problem)
            except Transient as error:
                problem("parents", f"ApplySet parents are not known yet: {error}")
            except FlotillaError as error:
                problem("parents", f"there are no ApplySet parents, removed bundles are let go: {error}")
                self.known.set()
                changed("")
            await anyio.sleep(delay)

    async def _follow(self, *, changed: Callable[[str], None], problem: Callable[[str, str], None]) -> None:
        resource = await self._api.resource(PARENT_API_VERSION, PARENT_KIND)
        events = self._api.watch(resource, selector=PARENT_ID_LABEL, metadata_only=False)
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if event.kind == "SYNCED":
                    problem("parents", "")
                    self.known.set()
                if self.seen(event):
                    changed(event.object["metadata"]["name"] if event.object else "")

    async def install(self, delays: Callable[[], Iterator[float]]) -> None:
        """Make sure that the cluster serves AppliedBundles; one GET when it does. `delays` are seconds between looks.

        Raises what the API server said, or Permanent when the definition does not become Established after `LOOKS`.
        """
        resource = await self._api.resource("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        version = hashlib.sha256(canonical(DEFINITION)).hexdigest()[:16]
        try:
            live = await self._api.get(resource, _DEFINITION_KEY)
        except NotFound:
            live = {"metadata": {}}
        if (live["metadata"].get("annotations") or {}).get(VERSION_ANNOTATION) != version:
            metadata = {**DEFINITION["metadata"], "annotations": {VERSION_ANNOTATION: version}}
            manifest = canonical({**DEFINITION, "metadata": metadata})
            _, live = await self._api.apply(resource, _DEFINITION_KEY, manifest, force=True)
        for delay in itertools.islice(delays(), LOOKS):
            if _established(live):
                return
            await anyio.sleep(delay)
            live = await self._api.get(resource, _DEFINITION_KEY)
        raise Permanent(str(_DEFINITION_KEY), "is not Established", "see its conditions")

    def seen(self, event: WatchEvent) -> bool:
        """Take in an event of the watch over all parents; whether it says anything that was not known."""
        if event.kind == "RESTARTED":
            self._missing = set(self._versions)
            # Only now may they be lower than before: of a restored etcd.
            self._versions = dict.fromkeys(self._versions, 0)
            return False
        elif event.kind == "SYNCED":
            for name in self._missing:
                self._forget(name)
            self._missing.clear()
        elif event.kind == "DELETED":
            self._forget(event.object["metadata"]["name"])
        else:
            self._missing.discard(event.object["metadata"]["name"])
            return self.note(event.object)
        return True

    async def write(self, bundle: str, members: Membership | None) -> None:
        """Make the bundle's parent name `members`; None deletes it."""
        key = parent_key(bundle)
        resource = await self._api.resource(PARENT_API_VERSION, PARENT_KIND)
        if members is not None:
            _, live = await self._api.apply(resource, key, body(bundle, members, cluster=self._cluster), force=True)
            self.note(live)
            return
        try:
            live = await self._api.get(resource, key, metadata_only=True)
            await self._api.delete(
                resource, key, uid=live["metadata"]["uid"], resource_version=live["metadata"]["resourceVersion"]
            )
        except NotFound:
            pass
        self._forget(bundle)

    def note(self, live: Mapping[str, Any]) -> bool:
        """Take in a parent as it is; whether that is news. The event of our own write, or of one before it, may come
        after its answer, and is none: resourceVersions are ordered."""
        metadata = live["metadata"]
        name, version = metadata["name"], int(metadata["resourceVersion"])
        if version <= self._versions.get(name, 0):
            return False
        self._versions[name] = version
        annotations = metadata.get("annotations") or {}
        writer = annotations.get(CLUSTER_ANNOTATION, self._cluster)
        if writer != self._cluster:
            self._forget(name)
            self._versions[name] = version
            self.foreign[name] = writer
            return True
        self.foreign.pop(name, None)
        self.asked[name] = directives.asked(annotations)
        self.live[name] = Live(
            uid=str(metadata.get("uid", "")), generation=int(metadata.get("generation", 0)), status=live.get("status")
        )
        found = read(live)
        # This is what no bundle wants, so the parent is written anew; and of a bundle that is gone nothing is deleted.
        self.named[name] = found if found is not None else Membership(prune=False)
        return True

    def _forget(self, name: str) -> None:
        for known in (self.named, self.asked, self.live, self.foreign, self._versions):
            known.pop(name, None)


def _established(live: Mapping[str, Any]) -> bool:
    conditions = (live.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Established" and one.get("status") == "True" for one in conditions)
