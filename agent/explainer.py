"""Reads why workloads are in trouble, and tells it: the Pods of a workload and its events, and only then.

    looked at                                            when
    what failed, or was not Current for `TROUBLED_S`     at once, then at most once in `AGAIN_S`
    anything else                                        never

A look is one read of the workload, one list of its Pods (at most `PODS`), for a Deployment one of its ReplicaSets, and
one list of events each for what makes the Pods and for a few Pods that are not well; `CONCURRENCY` looks at a time.
What cannot be read leaves the health as it is. Nothing is watched, and a cluster in which all is well is asked nothing.
`explain` finds the words; `observe` keeps them until the state changes.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import anyio

from agent import explain
from agent.model import ClusterApi, Resource
from proto.errors import FlotillaError
from proto.objects import ObjectKey

TROUBLED_S: Final = 30.0
"""Most rollouts of a workload are over by then."""
AGAIN_S: Final = 60.0
LOOK_S: Final = 1.0
"""How often we see what is in trouble; that is in memory."""
CONCURRENCY: Final = 4
PODS: Final = 50
_PODS_WITH_EVENTS: Final = 3
_EVENTS: Final = 50

_WORKLOADS: Final = {
    ("apps", "Deployment"): "apps/v1",
    ("apps", "StatefulSet"): "apps/v1",
    ("apps", "DaemonSet"): "apps/v1",
    ("apps", "ReplicaSet"): "apps/v1",
    ("", "ReplicationController"): "v1",
    ("batch", "Job"): "batch/v1",
    ("", "Pod"): "v1",
    ("", "PersistentVolumeClaim"): "v1",
}

Words = tuple[str, str]
Json = Mapping[str, Any]

log = logging.getLogger(__name__)


class Explainer:
    """`troubled` gives what failed or was not Current for so many seconds; `told` takes the reason and message of
    one of them, None when there is nothing to say."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        troubled: Callable[[float], Collection[ObjectKey]],
        told: Callable[[ObjectKey, Words | None], None],
    ) -> None:
        self._api = api
        self._troubled = troubled
        self._told = told
        self._looked: dict[ObjectKey, float] = {}
        self._slots = anyio.Semaphore(CONCURRENCY)

    async def run(self) -> None:
        """Explain until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                troubled = [key for key in self._troubled(TROUBLED_S) if (key.group, key.kind) in _WORKLOADS]
                self._looked = {key: self._looked[key] for key in troubled if key in self._looked}
                for key in troubled:
                    now = anyio.current_time()
                    if now >= self._looked.get(key, -AGAIN_S) + AGAIN_S:
                        await self._slots.acquire()
                        self._looked[key] = now
                        group.start_soon(self._look, key, name=f"explain {key}")
                await anyio.sleep(LOOK_S)

    async def _look(self, key: ObjectKey) -> None:
        try:
            self._told(key, await self._why(key))
        except FlotillaError as error:
            log.info("why %s is not healthy cannot be read: %s", key, error)
        finally:
            self._slots.release()

    async def _why(self, key: ObjectKey) -> Words | None:
        live = await self._api.get(await self._resource(_WORKLOADS[key.group, key.kind], key.kind), key)
        uid = str(live["metadata"]["uid"])
        if key.kind == "PersistentVolumeClaim":
            return explain.explain_claim(await self._events(key.namespace, uid))
        if key.kind == "Pod":
            return explain.explain([live], await self._events(key.namespace, uid))
        makers = [uid]
        selector = _selector(live)
        if key.kind == "Deployment":
            newest = await self._newest_replica_set(key.namespace, selector, uid)
            makers = [newest] if newest else [uid]
        pods = await self._list("v1", "Pod", key.namespace, label_selector=selector, limit=PODS) if selector else ()
        pods = [pod for pod in pods if _owner(pod) in makers]
        unwell = [str(pod["metadata"]["uid"]) for pod in pods if not _is_ready(pod)]
        events: list[Json] = []
        for each in (*makers, *unwell[:_PODS_WITH_EVENTS]):
            events += await self._events(key.namespace, each)
        return explain.explain(pods, events, wanted=_wanted(live))

    async def _newest_replica_set(self, namespace: str, selector: str, uid: str) -> str:
        """The uid of the ReplicaSet that a Deployment is about to become."""
        sets = await self._list("apps/v1", "ReplicaSet", namespace, label_selector=selector, limit=PODS)
        own = [one for one in sets if _owner(one) == uid]
        return str(max(own, key=_revision)["metadata"]["uid"]) if own else ""

    async def _events(self, namespace: str, uid: str) -> Sequence[Json]:
        return await self._list("v1", "Event", namespace, field_selector=f"involvedObject.uid={uid}", limit=_EVENTS)

    async def _list(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        *,
        limit: int,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Sequence[Json]:
        resource = await self._resource(api_version, kind)
        return await self._api.list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector, limit=limit
        )

    async def _resource(self, api_version: str, kind: str) -> Resource:
        return await self._api.resource(api_version, kind)


def _selector(live: Json) -> str:
    """Pure: a workload's selector as the API server takes it in a query."""
    stated = (live.get("spec") or {}).get("selector") or {}
    labels = stated.get("matchLabels", {} if "matchExpressions" in stated else stated) or {}
    parts = [f"{name}={value}" for name, value in labels.items()]
    for rule in stated.get("matchExpressions") or () if isinstance(stated.get("matchExpressions"), list) else ():
        name, values = rule.get("key", ""), ",".join(rule.get("values") or ())
        match rule.get("operator"):
            case "In":
                parts.append(f"{name} in ({values})")
            case "NotIn":
                parts.append(f"{name} notin ({values})")
            case "Exists":
                parts.append(name)
            case "DoesNotExist":
                parts.append(f"!{name}")
    return ",".join(parts)


def _wanted(live: Json) -> int:
    """Pure: how many Pods a workload wants now."""
    spec, status = live.get("spec") or {}, live.get("status") or {}
    match live.get("kind"):
        case "DaemonSet":
            return int(status.get("desiredNumberScheduled") or 0)
        case "Job":
            return 0 if status.get("failed") or status.get("succeeded") else 1
        case _:
            return int(spec.get("replicas", 1))


def _owner(obj: Json) -> str:
    """Pure: the uid of the object's controller."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def _revision(replica_set: Json) -> int:
    stated = (replica_set["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision", "")
    return int(stated) if stated.isdecimal() else 0


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
