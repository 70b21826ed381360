"""Mirrors the slices to another Git host (`spec.publish` of fleet.yaml), from where agents may pull them.

A mirror is one more copy of what the journal says, made after everything else: it never delays a decision, and one that
is away or full costs a line of `flotilla status`. Only the newest slice of each cluster is pushed; what comes while a
push is under way goes with the next.

| the mirror's `refs/heads/clusters/<name>` | what is done                                                |
|-------------------------------------------|-------------------------------------------------------------|
| is not there                              | it is made                                                  |
| is at the cluster's newest slice          | nothing                                                     |
| is at an older slice of that cluster      | it moves, over a checkpoint by force                        |
| is at anything else                       | it stays, and is told: somebody else pushed to it           |
| is of a cluster that left the fleet       | it stays: nothing is ever deleted there                     |

What is at the mirror is asked for before each push and each LOOK_AGAIN_S, so a kill at any time, and a mirror that was
emptied, costs a repetition. `external.push` does it, in a worker process of its own. Assumes that `loop.changed` is set
after each turn.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple, Unpack

import anyio

from hub import backoff, worker
from hub.external import believing, push
from hub.external.credentials import Credentials, Login
from hub.external.push import Update
from hub.journal import EventRow, Journal, SliceRow
from hub.loop import Loop
from hub.model import Fleet, Publish
from hub.repo import addresses
from hub.repo.remote import Remote, Ssh
from proto.errors import FlotillaError, InvalidInput, Transient
from proto.ids import ClusterName, Oid, slice_ref

log = logging.getLogger("flotilla.hub")

BATCH: Final = 200
"""Refs of one push at most. One that fails is tried again with half as many, so that a limit of the host's is met."""
LOOK_AGAIN_S: Final = 600.0
LOOK_AGAIN_EACH_S: Final = 24 * 3600.0
"""Where each cluster has a repository of its own, so that a look is as many requests as there are clusters."""
DELAYS: Final = partial(backoff.delays, first_s=1.0, longest_s=300.0)
TIME_LIMIT_S: Final = 600.0
AT_ONCE: Final = 4
"""Repositories, where each cluster has its own."""
CLUSTER: Final = "${cluster}"
_REFS: Final = slice_ref("")

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one repository needs: refs to move, and clusters whose ref is somebody else's, with why."""

    updates: tuple[Update, ...]
    foreign: Mapping[ClusterName, str]


def plan(
    wanted: Mapping[ClusterName, Oid], heads: Mapping[str, Oid], *, was_slice: Callable[[ClusterName, Oid], bool]
) -> Plan:
    """Pure: what has to be pushed where `heads` are; `was_slice`: was a commit ever this cluster's slice?"""
    updates, foreign = [], {}
    for cluster, new in sorted(wanted.items()):
        ref = slice_ref(cluster)
        old = heads.get(ref)
        if old == new:
            continue
        if old is not None and not was_slice(cluster, old):
            foreign[cluster] = f"its {ref} is at {old}, which is no slice of ours, and is left alone"
        else:
            updates.append(Update(ref=ref, old=old, new=new))
    return Plan(updates=tuple(updates), foreign=foreign)


@dataclass(slots=True)
class _Pass:
    """One look at the mirror and what was pushed then."""

    at: dict[ClusterName, Oid | None] = field(default_factory=dict)
    problems: dict[ClusterName, str] = field(default_factory=dict)
    failed: FlotillaError | None = None
    """What ended it."""


class Publisher:
    """Of one hub. `credentials` reads what the hub's owner has, `path` is the slice repository."""

    def __init__(
        self,
        loop: Loop,
        *,
        journal: Journal,
        path: Path,
        credentials: Callable[[], Credentials],
        clock: Callable[[], float],
        delays: Callable[[], Iterator[float]] = DELAYS,
    ) -> None:
        self.problem = ""
        """Why not every slice is at the mirror, or ""."""
        self._loop = loop
        self._journal = journal
        self._path = path
        self._credentials = credentials
        self._clock = clock
        self._delays = delays
        self._target: Publish | None = None
        self._at: dict[ClusterName, Oid | None] = {}
        """Where the mirror's refs are, as far as we know."""
        self._troubled: set[ClusterName] = set()
        self._batch = BATCH
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    @property
    def behind(self) -> int:
        """How many clusters' newest slices are not at the mirror; 0 without a mirror."""
        return len(self._missing()) if self._target is not None else 0

    async def run(self) -> None:
        """Publish for ever. Nothing that the mirror does raises out of here."""
        delays, looked_at = self._delays(), 0.0
        while True:
            changed = self._loop.changed
            if self._retarget():
                delays, looked_at = self._delays(), 0.0
            target, again_s = self._target, 0.0
            if target is not None and looked_at:
                every_s = LOOK_AGAIN_EACH_S if CLUSTER in target.url else LOOK_AGAIN_S
                again_s = looked_at + every_s - anyio.current_time()
            if target is None or not (self._missing() or again_s <= 0):
                with anyio.move_on_after(None if target is None else again_s):
                    await changed.wait()
                continue
            everything = again_s <= 0 or CLUSTER not in target.url
            try:
                problem = await self.publish(everything=everything)
            except Exception:
                log.exception("slices are not published, for a reason we did not expect")
                problem = "slices are not published: that failed in a way we did not expect (see the hub's log)"
            self._tell(problem)
            looked_at = anyio.current_time() if everything else looked_at
            if problem:
                with anyio.move_on_after(next(delays)):
                    while self._stated() == self._target:  # who mends fleet.yaml does not have to wait
                        await self._loop.changed.wait()
            else:
                delays = self._delays()

    async def publish(self, *, everything: bool = True) -> str:
        """Bring the mirror up to date: what is known to be missing there, or `everything` looked at anew. Returns why
        that did not come about for every cluster, or ""."""
        self._retarget()
        target = self._target
        if target is None:
            return ""
        wanted = {name: row.commit for name, row in self._loop.slices.items()} if everything else self._missing()
        done = _Pass()
        if CLUSTER in target.url:
            # Who made trouble last comes last: it may not keep the others waiting.
            order = sorted(wanted, key=lambda name: (name in self._troubled, name))
            groups = [(target.url.replace(CLUSTER, name), {name: wanted[name]}) for name in order]
        else:
            groups = [(target.url, wanted)]
        turns = iter(groups)

        async def work() -> None:
            for url, group in turns:
                if done.failed is not None:
                    return
                await self._bring(target, url, group, done)

        async with anyio.create_task_group() as tasks:
            for _ in range(min(AT_ONCE, len(groups))):
                tasks.start_soon(work, name="publish")
        self._at.update(done.at)
        self._troubled = set(done.problems)
        return _summary(target, done, of=len(wanted))

    async def _bring(self, target: Publish, url: str, wanted: Mapping[ClusterName, Oid], done: _Pass) -> None:
        """One repository of the mirror. A host that is away ends the pass, a repository that refuses only its own."""
        names = {slice_ref(name): name for name in wanted}
        try:
            login = self._credentials().login(target.credentials, url)
            there, ca = _remote(url, login), login.ca if login is not None else None
            found = await self._work(push.heads, self._path, there, _REFS, ca=ca)
            todo = await anyio.to_thread.run_sync(partial(plan, wanted, found, was_slice=self._journal.in_chain))
            done.problems.update(todo.foreign)
            done.at.update({name: found.get(ref) for ref, name in names.items()})
            updates = iter(todo.updates)
            while batch := tuple(itertools.islice(updates, self._batch)):
                refused = await self._work(push.push, self._path, there, batch, ca=ca)
                self._batch = min(2 * self._batch, BATCH)
                done.at.update({names[update.ref]: update.new for update in batch if update.ref not in refused})
                for ref, reason in refused.items():
                    done.problems[names[ref]] = f"its host refuses {ref}: {reason}"
        except FlotillaError as error:
            self._batch = max(1, self._batch // 2)
            if CLUSTER in target.url and not isinstance(error, Transient):
                done.problems.update(dict.fromkeys(wanted, str(error)))
            else:
                done.failed = error

    async def _work(self, function: Callable[[Unpack[Ts]], T], *args: *Ts, ca: Path | None) -> T:
        thing = "mirror of the slices"
        work = partial(function, *args) if ca is None else partial(believing.run, ca, function, *args, thing=thing)
        return await worker.run(work, what=thing, time_limit_s=TIME_LIMIT_S, limiter=self._limiter)

    def _missing(self) -> dict[ClusterName, Oid]:
        rows: Mapping[ClusterName, SliceRow] = self._loop.slices
        return {name: row.commit for name, row in rows.items() if self._at.get(name) != row.commit}

    def _retarget(self) -> bool:
        """Take over where to publish; says whether that is another place now."""
        stated = self._stated()
        if stated == self._target:
            return False
        self._target, self._at, self._troubled, self._batch = stated, {}, set(), BATCH
        self._tell("")
        return True

    def _stated(self) -> Publish | None:
        """Where to publish; where it was while that cannot be known."""
        desired = self._loop.desired
        if desired is None or (desired.fleet.publish is None and _is_broken(desired.fleet)):
            return self._target
        return desired.fleet.publish

    def _tell(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem:
            log.warning("%s", problem)
        text = problem or "slices are published: nothing is in the way any more"
        data = {"severity": "warning" if problem else "info"}
        self._loop.note(EventRow(time_s=self._clock(), kind="publish", text=text, data=data))


def _is_broken(fleet: Fleet) -> bool:
    """Pure: whether it is not known what fleet.yaml says."""
    return any(item.severity == "error" and item.where.startswith("fleet.") for item in fleet.findings)


def _summary(target: Publish, done: _Pass, *, of: int) -> str:
    """Pure: what kept slices from the mirror, in a line."""
    if done.failed is not None:
        return f"slices are not published: {done.failed}"
    if not done.problems:
        return ""
    cluster, why = min(done.problems.items())
    remedy = "move or delete that ref there; slices are never pushed over what somebody else pushed"
    more = f"; and {len(done.problems) - 1} more" if len(done.problems) > 1 else ""
    text = f"{len(done.problems)} of {of} slices are not published to {target.url}: {cluster}: {why}{more}"
    return f"{text} ({remedy})" if "is left alone" in why else text


def _remote(url: str, login: Login | None) -> Remote:
    """Raises InvalidInput for an address that nobody vouches for."""
    thing = f"mirror {url}"
    if login is None and not url.startswith("https://") and not (url.startswith("http://") and addresses.local(url)):
        cause = "needs credentials of the hub that are for this address"
        raise InvalidInput(thing, cause, "name them as spec.publish.credentials, or use https://")
    if login is None:
        return Remote(thing=thing, url=url, credentials="name credentials as spec.publish.credentials")
    return Remote(
        thing=thing,
        url=url,
        ssh=Ssh(key=login.ssh_key, known_hosts=login.known_hosts) if login.ssh_key and login.known_hosts else None,
        username=login.username or ("git" if login.token else ""),
        password=login.password or login.token,
        credentials="check the credentials that spec.publish names: they need the right to push",
    )
