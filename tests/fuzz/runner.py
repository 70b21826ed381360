"""Runs random edits against an agent that enforces a slice, and holds each against the truth.

One edit: hold the agent's writes of this object → edit → ask the server what is so (`truth`) → let the agent go → wait
until it has seen everything and does nothing any more → compare the object and what was told with the truth.

`Gated` is the agent's ClusterApi: it holds writes object by object, and knows what the agent has seen of an object and
what it is doing. Workers edit disjoint objects side by side; each draws from a `Random` of its own, so that a seed
gives the same edits again as long as the server answers alike.
"""

import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest

from agent.drift import suspects
from agent.fields import ownership
from agent.kube import races
from agent.kube.cluster import Cluster
from agent.model import Resource, WatchEvent
from proto import objects
from proto.messages import DriftReport
from proto.objects import ObjectKey
from proto.slices import FIELD_MANAGER, with_membership
from tests.fuzz import edits, truth
from tests.fuzz.edits import Edit, Request, Target
from tests.fuzz.truth import Drift
from tests.kube import Kube

SETTLE_S = 90.0
"""Generous: on a busy machine the API server and its controllers were seen to stand still for half a minute."""
DIRTY = 8
"""After so many edits that may leave something, an object is made anew."""
USER_AGENT = "curl/8"

_WITH_STATUS = frozenset(
    {
        "CronJob",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "FlowSchema",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "Namespace",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "PriorityLevelConfiguration",
        "ReplicaSet",
        "ReplicationController",
        "ResourceQuota",
        "Service",
        "StatefulSet",
        "ValidatingAdmissionPolicy",
        "Widget",
    }
)
_LASTING = ("Namespace", "CustomResourceDefinition")
"""Deleting one of these deletes what other edits are about."""


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent confirms each suspicion at once, slows down in no fight, tells each revert of it, and does not pause
    after a lost race: all that is others' subject, and who pauses would seem to be done."""
    for limit in ("RATE", "FASTEST", "BURST", "LOOKS", "PATIENCE"):
        monkeypatch.setattr(suspects, limit, 10**6)
    monkeypatch.setattr(races, "_FIRST_PAUSE_S", 0.0)


class Gated(Cluster):
    """A Cluster whose writes of an object can be held."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[ObjectKey, anyio.Event] = {}
        self.busy: Counter[ObjectKey] = Counter()
        self.activity: Counter[ObjectKey] = Counter()
        self.seen: dict[ObjectKey, int] = {}
        """The newest resourceVersion of which an event was taken in."""

    def hold(self, key: ObjectKey) -> None:
        self._held[key] = anyio.Event()

    def release(self, key: ObjectKey) -> None:
        self._held.pop(key).set()

    @asynccontextmanager
    async def _doing(self, key: ObjectKey, *, write: bool) -> AsyncIterator[None]:
        self.busy[key] += 1
        self.activity[key] += 1
        try:
            if write and key in self._held:
                await self._held[key].wait()
            yield
        finally:
            self.busy[key] -= 1
            self.activity[key] += 1

    async def apply(
        self, resource: Resource, key: ObjectKey, body: bytes, *, force: bool, dry_run: bool = False, **more: Any
    ) -> tuple[bool, dict[str, Any]]:
        async with self._doing(key, write=not dry_run):
            return await super().apply(resource, key, body, force=force, dry_run=dry_run, **more)

    async def get(
        self, resource: Resource, key: ObjectKey, *, metadata_only: bool = False, **more: Any
    ) -> dict[str, Any]:
        async with self._doing(key, write=False):
            return await super().get(resource, key, metadata_only=metadata_only, **more)

    async def json_patch(
        self, resource: Resource, key: ObjectKey, operations: Sequence[Mapping[str, Any]], **more: Any
    ) -> dict[str, Any]:
        async with self._doing(key, write=True):
            return await super().json_patch(resource, key, operations, **more)

    async def watch(self, resource: Resource, **how: Any) -> AsyncIterator[WatchEvent]:
        async with aclosing(super().watch(resource, **how)) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
                if event.object:
                    # Asked for the next one: this one was taken in.
                    key = _key(event)
                    self.seen[key] = max(self.seen.get(key, 0), _version(event.object))
                    self.activity[key] += 1


class Admin:
    """The test's own client, which keeps its connections."""

    def __init__(self, kube: Kube, session: aiohttp.ClientSession) -> None:
        self._kube = kube
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, kube: Kube) -> AsyncIterator["Admin"]:
        connector = aiohttp.TCPConnector(ssl=False)
        headers = {"Authorization": f"Bearer {kube.token}", "User-Agent": USER_AGENT}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield cls(kube, session)

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = edits.JSON
    ) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data else {}
        async with self._session.request(method, self._kube.url + path, data=data, headers=headers) as response:
            text = await response.read()
            return response.status, json.loads(text) if text.startswith(b"{") else text.decode(errors="replace")


@dataclass(slots=True, kw_only=True)
class Subject:
    """One object under test. `pristine` are its values when it was made, `wanted` what of them Git wants."""

    key: ObjectKey
    resource: Resource
    desired: dict[str, Any]
    wanted: Any = None
    pristine: Any = None
    versions: dict[str, str] = field(default_factory=dict)
    earlier: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=6))
    dirt: int = 0
    used: bool = False
    """By something that keeps it from being deleted."""
    log: deque[str] = field(default_factory=lambda: deque(maxlen=5))
    """The last edits, for whoever looks into a failure."""

    @property
    def collection(self) -> str:
        base = self.resource.base
        return (
            f"{base}/namespaces/{self.key.namespace}/{self.resource.plural}"
            if self.key.namespace
            else (f"{base}/{self.resource.plural}")
        )

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.key.name}"

    @property
    def custom(self) -> bool:
        return self.key.kind in ("Widget", "Blob", "Gadget")

    @property
    def deletable(self) -> bool:
        return not self.used and self.key.kind not in _LASTING


@dataclass(slots=True, kw_only=True)
class Score:
    """What came of all edits; `failures` are whole paragraphs."""

    edits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    drifts: int = 0
    told: int = 0
    additions: int = 0
    irreversible: int = 0
    traced: int = 0
    attributed: int = 0
    failures: list[str] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        classes = Counter[str]()
        for name, count in self.edits.items():
            classes[name.partition(":")[0]] += count
        lines = [f"  {count:5} {name}" for name, count in sorted(classes.items())]
        head = (
            f"{self.edits.total()} edits of {len(self.kinds)} kinds ({self.refused.total()} more were refused): "
            f"{self.drifts} drifts, {self.told} told, {self.irreversible} of them refused by the server; "
            f"{self.attributed} of {self.traced} traced ones attributed; {self.additions} additions told; "
            f"wrong: {dict(self.wrong) or 'none'}"
        )
        return "\n".join([head, *lines])


class Fuzz:
    """`told` is what the agent reported so far, in order; `say` takes a line for whoever watches."""

    def __init__(
        self, api: Gated, admin: Admin, *, told: Sequence[DriftReport], seed: int, say: Callable[[str], None]
    ) -> None:
        self._api = api
        self._admin = admin
        self._told = told
        self._seed = seed
        self._say = say
        self.score = Score()

    async def subject(self, obj: Mapping[str, Any], bundle: str) -> Subject:
        desired = with_membership(dict(obj), bundle)
        resource = await self._api.resource(desired["apiVersion"], desired["kind"])
        subject = Subject(
            key=objects.key_of(desired), resource=resource, desired=json.loads(objects.canonical(desired))
        )
        if subject.key.kind == "HorizontalPodAutoscaler":
            subject.versions["autoscaling/v1"] = subject.path.replace("/v2/", "/v1/")
        if subject.key.kind == "Gadget":
            mine, other = ("v1", "v2") if resource.version == "v1" else ("v2", "v1")
            subject.versions[f"{resource.group}/{other}"] = subject.path.replace(f"/{mine}/", f"/{other}/")
        live = await self.settle(subject)
        assert live is not None, f"{subject.key} was not applied"
        subject.pristine = truth.values(live)
        subject.wanted = truth.wanted(truth.values(live), subject.desired)
        return subject

    async def run(self, groups: Sequence[Sequence[Subject]], count: int) -> Score:
        """`count` edits altogether, of each group one after the other, the groups side by side."""
        async with anyio.create_task_group() as tasks:
            for number, group in enumerate(groups):
                share = count // len(groups) + (number < count % len(groups))
                tasks.start_soon(self._worker, number, group, share, name=f"worker {number}")
        return self.score

    async def _worker(self, worker: int, group: Sequence[Subject], count: int) -> None:
        random = Random(f"{self._seed}-{worker}")
        done = 0
        while done < count and len(self.score.failures) < 60:
            done += await self._one(random, random.choice(group), f"seed {self._seed}, worker {worker}, edit {done}")

    # --- one edit -------------------------------------------------------------------------------------------------

    async def _one(self, random: Random, subject: Subject, where: str) -> bool:
        """False when nothing was edited."""
        key = subject.key
        before = await self.get(subject)
        if before is None or before["metadata"].get("deletionTimestamp"):
            self._note(["gone"], f"{where}: {key} is not there, or on its way out, after {list(subject.log)}")
            await self._put_right(subject)
            return True
        target = Target(
            live=before,
            desired=subject.desired,
            earlier=tuple(subject.earlier),
            custom=subject.custom,
            has_status=key.kind in _WITH_STATUS,
            deletable=subject.deletable,
            versions=subject.versions,
        )
        anew = subject.dirt >= DIRTY and subject.deletable
        edit = edits.deletion(target) if anew else edits.edit(random, target)
        if edit is None:
            return False
        told_before = len(self._told)
        subject.log.append(f"{edit.name} by {edit.manager!r}")
        self._api.hold(key)
        try:
            answers = [await self._send(subject, request) for request in edit.requests]
            if not any(200 <= status < 300 for status, _ in answers):
                self.score.refused[edit.name] += 1
                return False
            edited, wished = await self._truth(subject)
        finally:
            self._api.release(key)
        after = await self._converged(subject)
        verdict = truth.drift(before, edited, wished)
        reports = [one for one in self._told[told_before:] if one.object == str(key)]
        self.score.edits[edit.name] += 1
        self.score.kinds[f"{key.kind}.{key.group}"] += 1
        wrong = await self._wrong(subject, edit, before, edited, after, verdict, reports)
        if wished is None and verdict is Drift.CHANGED and {one.action for one in reports} == {"failed"}:
            # Nothing but making it anew undoes this, and that is not done unasked: it was told, with the cause.
            self.score.irreversible += 1
            await self._put_right(subject)
        elif wrong:
            self._fail(wrong, where, subject, edit, before, edited, wished, after, verdict, reports, answers)
            await self._put_right(subject)
        subject.earlier.append(before)
        subject.dirt = 0 if verdict is Drift.DELETED or edited is None else subject.dirt + (not edit.exact)
        return True

    async def _send(self, subject: Subject, request: Request) -> tuple[int, Any]:
        path = subject.collection if request.parent else subject.path
        if request.path in subject.versions:
            path = subject.versions[request.path]
        else:
            path += request.path
        manager = f"fieldManager={request.manager}" if request.manager and request.method != "DELETE" else ""
        query = "&".join(part for part in (manager, request.query) if part)
        answer = await self._admin.call(
            request.method, f"{path}?{query}" if query else path, request.body, content_type=request.content_type
        )
        if request.method == "DELETE" and answer[0] < 300:
            with anyio.move_on_after(SETTLE_S):
                while (await self._admin.call("GET", subject.path))[0] != 404:
                    await anyio.lowlevel.checkpoint()
        return answer

    async def _truth(self, subject: Subject) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The object as it is, and as a forced apply of what Git has would make it, both at one resourceVersion."""
        for _ in range(50):
            edited = await self.get(subject)
            wished = await self._dry_run(subject)
            if edited is None or wished is None or _version(edited) == _version(wished):
                return edited, wished
        raise AssertionError(f"{subject.key} never stands still")

    async def _dry_run(self, subject: Subject) -> dict[str, Any] | None:
        query = f"?fieldManager={FIELD_MANAGER}&force=true&dryRun=All"
        status, answer = await self._admin.call(
            "PATCH", subject.path + query, subject.desired, content_type=edits.APPLY
        )
        return answer if status in (200, 201) else None

    async def get(self, subject: Subject) -> dict[str, Any] | None:
        status, live = await self._admin.call("GET", subject.path)
        assert status in (200, 404), f"{subject.key}: {status} {live}"
        return live if status == 200 else None

    async def _converged(self, subject: Subject) -> dict[str, Any] | None:
        """The object once it settled as Git has it; as it is when that does not come about, or cannot be told."""
        with anyio.move_on_after(SETTLE_S):
            while True:
                after = await self.settle(subject)
                now, wished = await self._truth(subject)
                if now is None or wished is None or truth.values(now) == truth.values(wished):
                    return after
                # What could not be written is tried again.
                await anyio.sleep(0.1)
        return await self.settle(subject)

    async def settle(self, subject: Subject) -> dict[str, Any] | None:
        """The object once the agent has seen its last state and does nothing about it any more."""
        key, api = subject.key, self._api
        live = None
        with anyio.move_on_after(SETTLE_S):
            while True:
                before = api.activity[key]
                live = await self.get(subject)
                if (
                    live is not None
                    and not live["metadata"].get("deletionTimestamp")
                    and api.seen.get(key, 0) >= _version(live)
                    and not api.busy[key]
                ):
                    for _ in range(40):
                        await anyio.lowlevel.checkpoint()
                    if api.activity[key] == before and not api.busy[key]:
                        return live
                await anyio.sleep(0.001)
        return live

    # --- judging --------------------------------------------------------------------------------------------------

    async def _wrong(
        self,
        subject: Subject,
        edit: Edit,
        before: Mapping[str, Any],
        edited: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        verdict: Drift,
        reports: Sequence[DriftReport],
    ) -> list[str]:
        score = self.score
        drifts = [one for one in reports if one.what != "added"]
        added = [one for one in reports if one.what == "added"]
        score.drifts += verdict in (Drift.CHANGED, Drift.DELETED)
        score.told += bool(drifts)
        score.additions += bool(added)
        wrong = []
        if after is None:
            return ["missed: gone"]
        now, wished = await self._truth(subject)
        if now is None or wished is None or truth.values(now) != truth.values(wished):
            wrong.append("missed: a dry run would change it")
        elif not truth.covers(truth.values(now), subject.wanted):
            wrong.append("missed: not what Git has")
        elif (
            edit.exact
            and not added  # the server may put fields of its own beside an edit: they stay, and are told
            and verdict is Drift.CHANGED
            and not truth.within(truth.values(now), truth.values(before), subject.pristine)
        ):
            wrong.append("left: something stayed")
        if verdict in (Drift.CHANGED, Drift.DELETED) and not drifts:
            wrong.append("untold")
        if verdict is Drift.NONE and drifts:
            wrong.append("false")
        if len({(one.what, one.manager, one.operation, one.time) for one in drifts}) < len(drifts):
            wrong.append("told twice")
        if any(one.action != "reverted" for one in drifts):
            wrong.append("not reverted")
        if added and not _is_addition(edited, added[0]):
            wrong.append("false addition")
        if drifts and edited is not None and verdict is Drift.CHANGED and edit.manager:
            entry = truth.trace(before, edited, edit.manager, instead=edit.instead)
            if entry is not None:
                score.traced += 1
                if (entry["manager"], entry.get("time", "")) in {(one.manager, one.time) for one in drifts}:
                    score.attributed += 1
                else:
                    wrong.append("unattributed")
        return wrong

    def _fail(
        self,
        wrong: Sequence[str],
        where: str,
        subject: Subject,
        edit: Edit,
        before: Mapping[str, Any],
        edited: Mapping[str, Any] | None,
        wished: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        verdict: Drift,
        reports: Sequence[DriftReport],
        answers: Sequence[tuple[int, Any]],
    ) -> None:
        none: dict[str, Any] = {"metadata": {}}
        lines = [
            f"{where}: {', '.join(wrong)}: {subject.key}, {edit.name} by {edit.manager!r}; truth {verdict.value}",
            *(
                f"  sent {one.method} {one.path}?{one.query} {one.content_type} as {one.manager!r}: {status}"
                for one, (status, _) in zip(edit.requests, answers, strict=True)
            ),
            "  edit:    " + "; ".join(truth.difference(truth.values(before), truth.values(edited or none)))[:1500],
            "  wished:  "
            + "; ".join(truth.difference(truth.values(edited or none), truth.values(wished or none)))[:800],
            "  after:   " + "; ".join(truth.difference(truth.values(before), truth.values(after or none)))[:1500],
            *(f"  told:    {one}" for one in reports),
            f"  edits before: {', '.join(list(subject.log)[:-1])}",
            "  managedFields before: " + _managers(before)[:2000],
            "  managedFields edited: " + _managers(edited or none),
            "  managedFields after:  " + _managers(after or none),
        ]
        self._note(wrong, "\n".join(lines))

    def _note(self, wrong: Sequence[str], text: str) -> None:
        self.score.wrong.update(wrong)
        self.score.failures.append(text)
        self._say(text)

    async def _put_right(self, subject: Subject) -> None:
        """Start this object anew, so that the next edit of it finds what it expects."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true"
        if subject.deletable:
            patch = [{"op": "add", "path": "/metadata/finalizers", "value": []}]
            await self._admin.call("PATCH", subject.path, patch, content_type=edits.JSON_PATCH)
            await self._admin.call("DELETE", f"{subject.path}?gracePeriodSeconds=0")
            with anyio.move_on_after(SETTLE_S):
                while True:
                    live = await self.get(subject)
                    if live is not None and not live["metadata"].get("deletionTimestamp"):
                        break
                    await anyio.sleep(0.01)
        else:
            await self._admin.call("PATCH", subject.path + query, subject.desired, content_type=edits.APPLY)
        await self.settle(subject)


def _key(event: WatchEvent) -> ObjectKey:
    metadata, resource = event.object["metadata"], event.resource
    return ObjectKey(
        group=resource.group, kind=resource.kind, namespace=metadata.get("namespace", ""), name=metadata["name"]
    )


def _version(live: Mapping[str, Any]) -> int:
    return int(live["metadata"]["resourceVersion"])


def _is_addition(edited: Mapping[str, Any] | None, told: DriftReport) -> bool:
    """Whether someone who is no controller owns fields beside ours, who was named."""
    if edited is None or told.manager in ownership.CONTROLLERS:
        return False
    ours = ownership.owned(ownership.own_entry(edited))
    return any(
        entry.get("manager") == told.manager and ownership.owned(entry) - ours for entry in ownership.foreign(edited)
    )


def _managers(obj: Mapping[str, Any]) -> str:
    return " | ".join(
        f"{entry.get('manager')}/{entry.get('operation')}/{entry.get('subresource', '')}@{entry.get('time', '')[-6:]}"
        f"/{entry.get('apiVersion')} {json.dumps(entry.get('fieldsV1'))[:600]}"
        for entry in ownership.entries(obj)
    )
