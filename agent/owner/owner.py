"""The cluster's owner, as the loop knows them: what they allow and ask, and what they are shown.

    asked of it by the loop and its parts       answered from
    `limits`                                    the guard ConfigMap
    `suspended`, `syncs`                        annotations of AppliedBundles, the hub's directives, other installations
    `pause_until`                               annotations of objects and Namespaces, the hub's directives
    told to it                                  shown as
    `tell`                                      the status of the AppliedBundle; Events when it is suspended or resumed
    `passed`, `noted`, `drifted`                Events

Holds no rule of its own: those are in the modules that it names. Next: `loop`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import anyio

from agent.inventory import Inventory
from agent.model import ClusterApi, DesiredBundle, Entry, Limits, Result
from agent.owner.conditions import Facts
from agent.owner.directives import Asked, DirectiveStore
from agent.owner.events import Event, Events, Regarding
from agent.owner.guard_map import GuardMap
from agent.owner.pauses import Pauses
from agent.owner.statuses import Live, Statuses
from proto.messages import BundleReport, Directives, DriftReport
from proto.objects import ObjectKey
from proto.slices import PARENT_API_VERSION, PARENT_GROUP, PARENT_KIND

MOST_FIELDS: Final = 5
"""Field paths that an Event names."""
_MADE: Final = (Result.CREATED, Result.ADOPTED, Result.RECREATED, Result.CONFIGURED)
_GONE: Final = (Result.PRUNED, Result.RELEASED)
_PER_OBJECT: Final[Mapping[Result, str]] = {
    Result.ADOPTED: "Adopted",
    Result.RECREATED: "Recreated",
    Result.FAILED: "Failed",
}
_DRIFT: Final[Mapping[str, tuple[str, bool]]] = {
    "reverted": ("Reverted", False),
    "reported": ("Drifted", True),
    "paused": ("Drifted", True),
    "failed": ("RevertFailed", True),
}
"""By a drift's action: the Event's reason, and whether it is a warning."""


class Owner:
    """`asked`, `live` and `foreign` are what is known of AppliedBundles, by bundle; `wrote` gets one after its status
    was written. `changed` is called when the owner's word is another; `problem` takes (source, text), "" once over."""

    def __init__(
        self,
        api: ClusterApi,
        *,
        store: DirectiveStore,
        inventory: Inventory,
        asked: Mapping[str, Asked],
        live: Mapping[str, Live],
        foreign: Mapping[str, str],
        wrote: Callable[[Mapping[str, Any]], object],
        may_write: Callable[[], bool],
        changed: Callable[[], None],
        problem: Callable[[str, str], None],
        timestamp: Callable[[], str],
        instance: str,
        delays: Callable[[], Iterator[float]],
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._asked = asked
        self._live = live
        self._foreign = foreign
        self._changed = changed
        self._problem = problem
        self._synced: dict[str, str] = {}
        self._suspended: dict[str, str] = {}
        """Who suspended each bundle, as was told last."""
        self._map = GuardMap(api, changed=changed, problem=problem, delays=delays)
        self._pauses = Pauses(
            api,
            cluster_until=lambda: store.current.paused_until,
            changed=changed,
            problem=problem,
            delays=delays,
        )
        self._statuses = Statuses(
            api, live=live.get, wrote=wrote, may_write=may_write, problem=problem, timestamp=timestamp
        )
        self._events = Events(api, instance=instance, may_write=may_write, timestamp=timestamp)

    async def run(self) -> None:
        """Listen and show until cancelled."""
        self._problem("directives", self._store.problem)
        async with anyio.create_task_group() as group:
            group.start_soon(self._map.run, name="guard ConfigMap")
            group.start_soon(self._pauses.run, name="pauses")
            group.start_soon(self._statuses.run, name="statuses")
            group.start_soon(self._events.run, name="events")

    # --- what the owner says --------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        return self._map.limits

    async def wait_known(self) -> None:
        """Until the guard ConfigMap and the pauses of namespaces were heard of."""
        await self._map.known.wait()
        await self._pauses.known.wait()

    def refuses(self, key: ObjectKey) -> str:
        """Why this object must not be touched; "" if it may."""
        return self._map.limits.refuses(key)

    def pause_until(self, key: ObjectKey, live: Mapping[str, Any] | None) -> float | None:
        """Until when (Unix seconds) drift of an object is not to be reverted."""
        return self._pauses.until(key, live)

    def suspended(self, bundle: str) -> str:
        """Who keeps us from writing this bundle, and why; "" when nobody does."""
        if bundle in self._foreign:
            return (
                f"its AppliedBundle was written by the agent of cluster {self._foreign[bundle]} (let only one of them "
                "have the bundle; or remove the annotation flotilla.dev/cluster from it, to take it over)"
            )
        asked = self._asked.get(bundle)
        return (asked.suspended if asked is not None else "") or self._store.current.suspended.get(bundle, "")

    @property
    def suspensions(self) -> dict[str, str]:
        """Who keeps us from writing a bundle, and why, by bundle."""
        names = {*self._asked, *self._foreign, *self._store.current.suspended}
        return {name: why for name in names if (why := self.suspended(name))}

    def directed(self, directives: Directives) -> None:
        """The hub says what is asked now."""
        self._store.take(directives)
        self._problem("directives", self._store.problem)
        self._changed()

    def begin_syncs(self, bundles: Iterable[str]) -> frozenset[str]:
        """Of these bundles, those of which a full pass is to begin now; each is said once."""
        free = [name for name in bundles if not self.suspended(name)]
        directed = self._store.due(free)
        annotated = {
            name: asked.sync
            for name in free
            if (asked := self._asked.get(name)) is not None and asked.sync not in ("", self._last_sync(name))
        }
        if directed:
            self._store.begun(directed)
            self._problem("directives", self._store.problem)
        self._synced.update(annotated)
        return directed | annotated.keys()

    def _last_sync(self, bundle: str) -> str:
        live = self._live.get(bundle)
        told = live.status.get("lastSync", "") if live is not None and live.status is not None else ""
        return self._synced.get(bundle, str(told))

    # --- what the owner sees --------------------------------------------------------------------------------------

    def tell(self, name: str, report: BundleReport, bundle: DesiredBundle | None) -> None:
        """A bundle is so now; `bundle` is None once it left the slice."""
        revision, rollout = (bundle.revision, bundle.rollout) if bundle is not None else ("", "")
        facts = Facts(report=report, revision=revision, rollout=rollout, sync=self._last_sync(name))
        self._statuses.want(name, facts)
        live = self._live.get(name)
        known = live.status.get("suspended", "") if live is not None and live.status is not None else ""
        before = self._suspended.get(name, known)
        self._suspended[name] = report.suspended
        if report.suspended != before:
            reason, note = (
                ("Suspended", f"nothing of it is written, it is suspended: {report.suspended}")
                if report.suspended
                else ("Resumed", "it is written again")
            )
            self._note(reason, f"bundle {name}: {note}", bundle=name)

    def forget(self, name: str) -> None:
        """The bundle is gone."""
        self._statuses.want(name, None)
        self._suspended.pop(name, None)
        self._synced.pop(name, None)

    def parent_changed(self, name: str) -> None:
        """An AppliedBundle is another now ("": any may be)."""
        for one in (name,) if name else tuple(self._live):
            self._statuses.look(one)
        self._changed()

    def passed(self, name: str, counts: Mapping[Result, int], bundle: DesiredBundle | None) -> None:
        """A pass over a bundle is over, with so many objects of each result."""
        revision = f" at revision {bundle.revision[:12]}" if bundle is not None and bundle.revision else ""
        for reason, results in (("Applied", _MADE), ("Pruned", _GONE)):
            done = ", ".join(f"{counts[result]} {result}" for result in results if counts.get(result))
            if done:
                self._note(reason, f"bundle {name}: {done}{revision if reason == 'Applied' else ''}", bundle=name)

    def noted(self, entry: Entry, result: Result, message: str) -> None:
        """One object was adopted, recreated, or failed; what else became of it is counted in `passed`."""
        reason = _PER_OBJECT.get(result)
        if reason is not None:
            failed = result is Result.FAILED
            note = message if message.startswith(str(entry.key)) else f"{entry.key}: {message or result}"
            self._note(reason, note, bundle=entry.bundle, key=entry.key, warning=failed)

    def drifted(self, key: ObjectKey, report: DriftReport) -> None:
        """Drift of this object was told."""
        if report.action not in _DRIFT:
            return
        reason, warning = _DRIFT[report.action]
        fields = ", ".join(report.fields[:MOST_FIELDS])
        more = f" and {len(report.fields) - MOST_FIELDS} more" if len(report.fields) > MOST_FIELDS else ""
        who = f" by {report.manager}" if report.manager else ""
        what = f"{report.object} was {report.what}{who}" + (f" ({fields}{more})" if fields else "")
        done = {"reported": "it stays so", "paused": "it is reverted when the pause ends"}.get(
            report.action, report.action
        )
        error = f": {report.error}" if report.error else ""
        contested = ", contested" if report.contested else ""
        self._note(reason, f"{what}; {done}{contested}{error}", bundle=report.bundle, key=key, warning=warning)

    def _note(
        self, reason: str, note: str, *, bundle: str, key: ObjectKey | None = None, warning: bool = False
    ) -> None:
        """On the bundle's AppliedBundle, and on the object when there is one."""

        def parent() -> Regarding | None:
            live = self._live.get(bundle)
            if live is None:
                return None
            about = ObjectKey(group=PARENT_GROUP, kind=PARENT_KIND, namespace="", name=bundle)
            return Regarding(key=about, api_version=PARENT_API_VERSION, uid=live.uid)

        def member() -> Regarding | None:
            entry = self._inventory.entries.get(key) if key is not None else None
            if entry is None or entry.baseline is None:
                return None
            return Regarding(key=entry.key, api_version=entry.api_version, uid=entry.baseline.uid)

        for about, identity in ((parent, bundle), (member, str(key))) if key is not None else ((parent, bundle),):
            self._events.note(
                Event(reason=reason, action=reason, note=note, about=about, warning=warning, identity=(identity,))
            )
